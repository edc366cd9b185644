//! Images into archives and out again, tars of file systems, clearing away; what is said of images.

use std::{fs, process::Command, time::SystemTime};

use ficelle::image::{Image, ImageError, Store};

use super::{
    Fixture,
    make::{Made, layer},
    name, quiet, two_layers,
};

/// Saves `names` and loads them in another store.
fn moved(f: &Fixture, names: &[&str]) -> (Fixture, Vec<Image>) {
    let archive = f.dir.path().join("saved.tar");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    f.store.save(&names, &archive, &quiet).unwrap();
    let other = Fixture::new();
    let loaded = other.store.load(&archive, &quiet).unwrap();
    let images = loaded.iter().map(|name| other.store.find(name).unwrap().unwrap()).collect();
    (other, images)
}

/// Everything the store says of an image, but when its name was given.
fn facts(store: &Store, image: &str) -> serde_json::Value {
    let mut facts = store.inspect(image).unwrap();
    facts["LastTagTime"] = serde_json::Value::Null;
    facts
}

#[test]
fn what_is_saved_is_loaded_as_it_was() {
    let f = Fixture::new();
    f.load(&two_layers().docker_archive(&["web:1", "team/web:2"])).unwrap();
    let oci = Made::new(vec![layer(&[("file", "x"), ("file", "again")])]);
    f.load(&oci.oci_layout(Some("docker.io/library/other:3")).tar()).unwrap();
    let (other, images) = moved(&f, &["web:1", "team/web:2", "other:3"]);
    assert_eq!(images.len(), 3);
    for image in ["web:1", "team/web:2", "other:3"] {
        assert_eq!(facts(&other.store, image), facts(&f.store, image), "{image}");
        let named = |store: &Store| store.named(&name(image)).unwrap().unwrap().digest;
        assert_eq!(named(&other.store), named(&f.store), "{image}");
    }
    // The same archive each time, from either store.
    let (first, second) = (f.dir.path().join("one.tar"), f.dir.path().join("two.tar"));
    f.store.save(&["web:1".into(), "other:3".into()], &first, &quiet).unwrap();
    other.store.save(&["web:1".into(), "other:3".into()], &second, &quiet).unwrap();
    assert!(fs::read(first).unwrap() == fs::read(second).unwrap());
    let missing = f.store.save(&["nothing".into()], &f.dir.path().join("none.tar"), &quiet).unwrap_err();
    assert!(matches!(missing, ImageError::NotFound(_)), "{missing:?}");
    assert!(!f.dir.path().join("none.tar").exists());
}

#[test]
fn an_image_is_saved_by_its_id_without_a_name() {
    let f = Fixture::new();
    let image = f.loaded(&two_layers(), "web");
    let (other, images) = moved(&f, &[&image.id[7..20]]);
    assert_eq!(images[0].id, image.id);
    assert_eq!(other.store.list().unwrap()[0].references, [name("saved")]);
}

#[test]
fn a_file_system_is_imported_as_an_image_of_one_layer() {
    let f = Fixture::new();
    let tar = layer(&[("bin/", ""), ("bin/sh", "x"), ("bin/sh", "second")]);
    for (number, bytes) in [tar.clone(), zstd::encode_all(tar.as_slice(), 1).unwrap()].iter().enumerate() {
        let path = f.file("root.tar", bytes);
        let reference = name(&format!("imported:{number}"));
        let made =
            f.store.import(&path, Some(&reference), None, "by hand", "2026-11-21T08:00:00Z", &quiet).unwrap();
        assert_eq!(made.layers.len(), 1);
        assert_eq!(fs::read_to_string(made.layers[0].path.join("bin/sh")).unwrap(), "second");
        let steps = f.store.history(&format!("imported:{number}")).unwrap();
        assert_eq!((steps.len(), steps[0].comment.as_str(), steps[0].size), (1, "by hand", 7));
    }
    let (_, images) = moved(&f, &["imported:0"]);
    assert_eq!(images[0].id, f.store.find(&name("imported:0")).unwrap().unwrap().id);
    let noise = f.file("noise", &[7; 2000]);
    assert!(f.store.import(&noise, None, None, "", "2026-11-21T08:00:00Z", &quiet).is_err());
}

#[test]
fn an_image_is_found_by_a_name_or_the_beginning_of_its_id() {
    let f = Fixture::new();
    let image = f.loaded(&two_layers(), "web");
    for text in ["web", "web:latest", &image.id, &image.id[7..], &image.id[7..15], &image.id[..15]] {
        assert_eq!(f.store.lookup(text).unwrap().id, image.id, "{text}");
    }
    for text in ["web:2", "abc/def", "zz", ""] {
        assert!(f.store.lookup(text).is_err(), "{text}");
    }
    let shown = f.store.inspect("web").unwrap();
    assert_eq!(shown["RepoTags"], serde_json::json!(["web:latest"]));
    assert_eq!(shown["Config"]["Cmd"], serde_json::json!(["sh"]));
    assert_eq!(shown["RootFS"]["Layers"].as_array().unwrap().len(), 2);
}

#[test]
fn clearing_away_takes_what_nothing_needs() {
    let f = Fixture::new();
    let web = f.loaded(&two_layers(), "web");
    f.loaded(&Made::new(vec![layer(&[("other", "content")])]), "other");
    // A name that has moved on leaves an image without one.
    f.loaded(&Made::new(vec![layer(&[("new", "content")])]), "other");
    assert_eq!(f.store.list().unwrap().len(), 3);
    let (names, freed) = f.store.prune(|_| true, &[]).unwrap();
    assert!(names.is_empty() && freed >= 7, "{names:?} {freed}");
    assert_eq!(f.store.list().unwrap().len(), 2);
    let (names, _) = f.store.prune(|image| image.id == web.id, &[]).unwrap();
    assert_eq!(names, [name("other")]);
    // Layers that a build keeps stay without an image.
    let layers: Vec<String> = web.layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let (names, _) = f.store.prune(|_| false, &layers).unwrap();
    assert_eq!(names, [name("web")]);
    assert!(web.layers.iter().all(|layer| layer.path.exists()) && f.store.list().unwrap().is_empty());
    f.store.prune(|_| false, &[]).unwrap();
    f.assert_empty();
}

#[test]
fn a_name_knows_when_it_was_given() {
    let f = Fixture::new();
    let before = SystemTime::now();
    f.loaded(&two_layers(), "web");
    let since = f.store.named(&name("web")).unwrap().unwrap().since.unwrap();
    let span = std::time::Duration::from_secs(1);
    assert!(since + span >= before && since <= SystemTime::now());
    assert!(f.store.named(&name("other")).unwrap().is_none());
}

#[test]
fn an_image_for_another_machine_says_so() {
    let f = Fixture::new();
    let made = two_layers();
    assert_eq!(f.loaded(&made, "own").foreign(), None);
    let config = String::from_utf8(made.config.clone()).unwrap().replace("amd64", "s390x").into_bytes();
    let other = f.loaded(&Made { config, layers: made.layers }, "other");
    assert_eq!(other.foreign().as_deref(), Some("linux/s390x"));
}

#[test]
fn images_are_listed_by_filters_and_removed_by_id() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: the store of the engine needs root");
        return;
    }
    let f = Fixture::new();
    let run = |arguments: &[&str]| {
        let done = ficelle(f.dir.path(), arguments);
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&done.stderr));
        text
    };
    let refused = |arguments: &[&str], words: &str| {
        let done = ficelle(f.dir.path(), arguments);
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && text.contains(words), "{arguments:?}: {text}");
    };
    let other = Made::new(vec![layer(&[("other", "content")])]);
    for (made, tag) in [(two_layers(), "web:1"), (other, "team/db:15")] {
        let archive = f.file("a.tar", &made.docker_archive(&[tag]));
        run(&["image", "load", "-i", archive.to_str().unwrap()]);
    }
    run(&["image", "tag", "web:1", "web:2"]);
    let id = two_layers().id();
    let short = &id[7..19];
    let names = |filters: &[&str]| {
        let arguments: Vec<&str> =
            ["image", "ls", "--format", "json"].iter().chain(filters).copied().collect();
        let lines = run(&arguments);
        let name = |line: &str| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            format!("{}:{}", row["Repository"].as_str().unwrap(), row["Tag"].as_str().unwrap())
        };
        lines.lines().map(name).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["team/db:15", "web:1", "web:2"]);
    assert_eq!(names(&["web"]), ["web:1", "web:2"]);
    assert_eq!(names(&["web:2"]), ["web:2"]);
    assert_eq!(names(&["--filter", "reference=*/d*"]), ["team/db:15"]);
    assert_eq!(names(&["--filter", "reference=*", "-f", "dangling=false"]), ["web:1", "web:2"]);
    assert_eq!(names(&["--filter", "dangling=true"]), [""; 0]);
    refused(&["image", "ls", "--filter", "size=1"], "those there are: reference=NAME");
    refused(&["image", "ls", "--filter", "before=nothing"], "no image `nothing`");
    assert_eq!(run(&["image", "ls", "-q", "web"]), format!("{short}\n"), "an image once");
    assert_eq!(run(&["image", "ls", "-q", "--no-trunc", "web"]), format!("{id}\n"));
    refused(&["image", "rm", short], "has several names: web:1, web:2");
    assert_eq!(names(&[]).len(), 3);
    assert_eq!(run(&["image", "rm", "-f", short]), "Untagged: web:1\nUntagged: web:2\n");
    let db = run(&["image", "ls", "-q"]);
    assert_eq!(run(&["image", "rm", db.trim()]), "Untagged: team/db:15\n");
    refused(&["image", "rm", short], "help: `ficelle image ls`");
    assert_eq!(run(&["image", "ls", "-q"]), "");
    let store = Store::open(f.dir.path().join("data/images"));
    assert_eq!(fs::read_dir(store.root().join("layers")).unwrap().count(), 0);
}

fn ficelle(root: &std::path::Path, arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_ficelle")).arg("--root").arg(root).args(arguments).output().unwrap()
}

#[test]
fn the_store_is_looked_after_from_the_command_line() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: the store of the engine needs root");
        return;
    }
    let f = Fixture::new();
    let archive = f.file("a.tar", &two_layers().docker_archive(&["web:1"]));
    let run = |arguments: &[&str]| {
        let done = ficelle(f.dir.path(), arguments);
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&done.stderr));
        text
    };
    run(&["image", "load", "-i", archive.to_str().unwrap()]);
    run(&["image", "tag", "web:1", "web:2"]);
    let shown: serde_json::Value = serde_json::from_str(&run(&["image", "inspect", "web:2"])).unwrap();
    assert_eq!(shown[0]["Id"], two_layers().id());
    let saved = f.dir.path().join("out.tar");
    run(&["image", "save", "-o", saved.to_str().unwrap(), "web:1", "web:2"]);
    assert!(run(&["image", "history", "web:1"]).contains("CREATED BY"));
    let gone = run(&["image", "prune", "--all", "--force", "--build-cache"]);
    assert!(
        gone.contains("Untagged: web:1\nUntagged: web:2\n") && gone.contains("Total reclaimed space: "),
        "{gone}"
    );
    assert_eq!(run(&["image", "ls", "-q"]), "");
    assert!(run(&["image", "load", "-i", saved.to_str().unwrap()]).contains("Loaded image: web:2"));
    assert_eq!(
        run(&["image", "prune", "--all", "--filter", "until=24h"]).lines().count(),
        3,
        "no date is no young one"
    );
    let unknown = ficelle(f.dir.path(), &["image", "inspect", "web:1"]);
    let text = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(!unknown.status.success() && text.contains("help: `ficelle image ls`"), "{text}");
}

#[test]
fn an_import_takes_instructions_and_images_are_chosen_by_label_and_shown_by_template() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: the store of the engine needs root");
        return;
    }
    let f = Fixture::new();
    let tar = f.file("root.tar", &layer(&[("bin/", ""), ("bin/sh", "x")]));
    let tar = tar.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let done = ficelle(f.dir.path(), arguments);
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        (done.status.success(), text + &String::from_utf8_lossy(&done.stderr))
    };
    let changes = ["--change", "CMD [\"/bin/sh\"]", "--change", "LABEL team=red", "-c", "ENV A=b"];
    let (done, said) = run(&[&["image", "import", tar, "one:1"], &changes[..]].concat());
    assert!(done, "{said}");
    let other = ["image", "import", tar, "other:2", "--platform", "linux/arm64", "-c", "LABEL team="];
    let (done, said) = run(&other);
    assert!(done, "{said}");
    let inspect = |image: &str| -> serde_json::Value {
        serde_json::from_str(&run(&["image", "inspect", image]).1).unwrap()
    };
    let one = inspect("one:1");
    assert_eq!(one[0]["Config"]["Cmd"], serde_json::json!(["/bin/sh"]));
    assert!(one[0]["Config"]["Env"].as_array().unwrap().contains(&"A=b".into()), "{one}");
    assert_eq!(one[0]["RootFS"]["Layers"].as_array().unwrap().len(), 1);
    assert_eq!(inspect("other:2")[0]["Architecture"], "arm64");
    let (done, said) = run(&["image", "import", tar, "three", "--change", "RUN true"]);
    assert!(!done && said.contains("`RUN` is no change"), "{said}");

    let listed = |filters: &[&str]| {
        run(&[&["image", "ls", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}"], filters].concat()).1
    };
    assert_eq!(listed(&[]), "one:1 1B\nother:2 1B\n");
    assert_eq!(listed(&["--filter", "label=team=red"]), "one:1 1B\n");
    assert_eq!(listed(&["-f", "label=team"]).lines().count(), 2);
    assert_eq!(listed(&["-f", "label=team=blue"]), "");
    let (_, table) = run(&["image", "ls", "--format", "table {{.Repository}}\\t{{.Platform}}"]);
    let table: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(table[0], ["REPOSITORY", "PLATFORM"]);
    assert_eq!(table[2], ["other", "linux/arm64"]);
    let (done, said) = run(&["image", "ls", "--format", "{{.Nope}}"]);
    assert!(!done && said.contains("the fields are .CreatedAt, "), "{said}");

    let (_, pruned) = run(&["image", "prune", "--all", "--filter", "label!=team=red"]);
    assert!(pruned.starts_with("Untagged: other:2\nTotal"), "{pruned}");
    let (_, pruned) = run(&["image", "prune", "--all", "--filter", "label=team=red"]);
    assert!(pruned.starts_with("Untagged: one:1\nTotal"), "{pruned}");
}
