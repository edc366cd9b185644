//! Pushing to Debian's docker-registry on loopback, and what it takes: tars made again, compressed.

use std::fs;

use ficelle::image::{ImageError, Pushed, Registries, Store};

use super::{
    Fixture,
    fake::{FakeRegistry, Reply, reply},
    make::{Made, digest, layer},
    name, quiet,
    registry::{RealRegistry, pull},
    two_layers,
};

pub(super) fn push(store: &Store, registries: &Registries, image: &str) -> Result<Pushed, ImageError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(store.push_with(registries, &name(image), &quiet))
}

/// All names of the fixture's store point at `image` too.
fn tagged(f: &Fixture, image: &str, other: &str) {
    let id = f.store.find(&name(image)).unwrap().unwrap().id;
    f.store.tag(&id, &name(other)).unwrap();
}

/// A layer that shows what a tar can hold between its files, and `noise` of it.
fn odd_layer(noise: usize) -> Vec<u8> {
    let mut text = String::new();
    let mut state = 7u64;
    for _ in 0..noise {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.push(char::from(b' ' + u8::try_from(state >> 58).unwrap()));
    }
    let long = format!("{}/{}", "d".repeat(90), "e".repeat(90));
    let mut bytes = layer(&[
        ("lib -> usr/lib", ""),
        ("usr/lib/a", "through"),
        ("lib/b", "a link"),
        (&long, "long"),
        ("empty", ""),
        ("noise", &text),
        (".wh.gone", ""),
        (".wh.back", ""),
        ("back", "hidden below, here again"),
        ("dir/.wh..wh..opq", ""),
        ("odd\u{e9}name", "x"),
    ]);
    // Some tools fill up to their own block size.
    bytes.extend(vec![0; 10_240]);
    bytes
}

#[test]
fn what_was_loaded_is_pushed_and_pulled_as_the_same_image() {
    let Some(registry) = RealRegistry::start("", "") else { return };
    let f = Fixture::new();
    let made = Made::new(vec![odd_layer(3 << 20), layer(&[("top", "x")])]);
    f.loaded(&made, "local");
    let target = format!("{}/team/app:1", registry.host);
    tagged(&f, "local", &target);
    let pushed = push(&f.store, &Registries::default(), &target).unwrap();
    assert!(!pushed.unchanged && pushed.notes.is_empty(), "{pushed:?}");
    // Another store gets the very same image: id and diff ids are those of the archive.
    let other = Fixture::new();
    let image = pull(&other.store, &Registries::default(), &target).unwrap();
    assert_eq!(image.id, made.id());
    assert_eq!(fs::read_to_string(image.layers[0].path.join("usr/lib/b")).unwrap(), "a link");
    // Its digest is a name of it here as well, and a second push has nothing to do.
    let by_digest = format!("{}/team/app@{}", registry.host, pushed.digest);
    assert_eq!(f.store.find(&name(&by_digest)).unwrap().unwrap().id, made.id());
    assert_eq!(
        push(&f.store, &Registries::default(), &target).unwrap(),
        Pushed { unchanged: true, ..pushed.clone() }
    );
    // What was pulled goes on as it came.
    let next = format!("{}/elsewhere/app:2", registry.host);
    tagged(&other, &target, &next);
    let again = push(&other.store, &Registries::default(), &next).unwrap();
    assert_eq!(again.digest, pushed.digest);
    // Compressing is a function of the content.
    let third = Fixture::new();
    third.loaded(&made, "local");
    let anew = format!("{}/anew:1", registry.host);
    tagged(&third, "local", &anew);
    assert_eq!(push(&third.store, &Registries::default(), &anew).unwrap().digest, pushed.digest);
}

#[test]
fn what_was_made_for_several_platforms_goes_as_an_index() {
    let Some(registry) = RealRegistry::start("", "") else { return };
    let f = Fixture::new();
    let made = two_layers();
    let config = String::from_utf8(made.config.clone()).unwrap().replace("amd64", "s390x").into_bytes();
    let foreign = Made { config, layers: vec![made.layers[0].clone(), made.layers[1].clone()] };
    let ids = [f.loaded(&made, "own").id, f.loaded(&foreign, "foreign").id];
    let target = format!("{}/team/both:1", registry.host);
    assert_eq!(f.store.commit_index(&ids, &[name(&target)]).unwrap().id, ids[0]);
    // The index keeps them both, and shows as one image.
    f.store.remove(&name("own"), &[]).unwrap();
    f.store.remove(&name("foreign"), &[]).unwrap();
    assert_eq!(f.store.list().unwrap().len(), 1);
    let s390x = ficelle::image::Platform::parse("linux/s390x").unwrap();
    assert_eq!(f.store.find_for(&name(&target), &s390x).unwrap().unwrap().id, ids[1]);
    let riscv = ficelle::image::Platform::parse("linux/riscv64").unwrap();
    assert_eq!(f.store.find_for(&name(&target), &riscv).unwrap(), None);

    let pushed = push(&f.store, &Registries::default(), &target).unwrap();
    assert!(!pushed.unchanged && pushed.notes.is_empty(), "{pushed:?}");
    assert_eq!(f.store.named(&name(&target)).unwrap().unwrap().digest, pushed.digest);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (platform, id) in [("linux/amd64", &ids[0]), ("linux/s390x", &ids[1])] {
        let other = Fixture::new();
        let (registries, wanted) = (Registries::default(), name(&target));
        let pulled = other.store.pull_with(&registries, &wanted, Some(platform), &quiet);
        assert_eq!(runtime.block_on(pulled).unwrap().id, *id, "{platform}");
    }
    let again = push(&f.store, &Registries::default(), &target).unwrap();
    assert_eq!(again, Pushed { unchanged: true, ..pushed });
    f.store.remove(&name(&target), &[]).unwrap();
    f.assert_empty();
}

#[test]
fn a_layer_with_a_file_twice_is_pushed_as_it_was() {
    let Some(registry) = RealRegistry::start("", "") else { return };
    let f = Fixture::new();
    let made = Made::new(vec![layer(&[("file", "first"), ("file", "second"), ("more", "x")])]);
    f.loaded(&made, "twice");
    let target = format!("{}/twice:1", registry.host);
    tagged(&f, "twice", &target);
    push(&f.store, &Registries::default(), &target).unwrap();
    let image = pull(&Fixture::new().store, &Registries::default(), &target).unwrap();
    assert_eq!(image.id, made.id());
}

#[test]
fn what_was_built_is_pushed() {
    let Some(registry) = RealRegistry::start("", "") else { return };
    let f = Fixture::new();
    let base = f.loaded(&two_layers(), "base");
    let upper = f.store.scratch().unwrap();
    let tree = upper.path().join("tree");
    fs::create_dir_all(tree.join("srv")).unwrap();
    fs::write(tree.join("srv/page"), "hello".repeat(1000)).unwrap();
    let built = f.store.commit_layer(&tree).unwrap();
    let mut config = base.config.clone();
    config.rootfs_mut().diff_ids_mut().push(built.diff_id.clone());
    let target = format!("{}/built:1", registry.host);
    let image = f.store.commit_image(&config, &[name(&target)]).unwrap();
    push(&f.store, &Registries::default(), &target).unwrap();
    let other = Fixture::new();
    let pulled = pull(&other.store, &Registries::default(), &target).unwrap();
    assert_eq!((pulled.id, pulled.layers[2].diff_id.clone()), (image.id, built.diff_id));
    // Collecting leaves what the names need now.
    f.store.collect(&[]).unwrap();
    assert!(push(&f.store, &Registries::default(), &target).unwrap().unchanged);
}

#[test]
fn files_that_were_changed_are_found_out() {
    let f = Fixture::new();
    let image = f.loaded(&two_layers(), "web");
    fs::write(image.layers[1].path.join("app/main"), "bad").unwrap();
    tagged(&f, "web", "127.0.0.1:1/web");
    let error = push(&f.store, &Registries::default(), "127.0.0.1:1/web").unwrap_err().to_string();
    assert!(error.contains("cannot be made again from its files"), "{error}");
    let nothing = push(&f.store, &Registries::default(), "127.0.0.1:1/other").unwrap_err();
    assert!(matches!(nothing, ImageError::NotFound(_)), "{nothing:?}");
}

#[test]
fn a_blob_of_another_repository_is_mounted() {
    let Some(registry) = RealRegistry::start("", "") else { return };
    let f = Fixture::new();
    let made = Made::new(vec![odd_layer(2 << 20)]);
    f.loaded(&made, "local");
    let (first, second) = (format!("{}/one:1", registry.host), format!("{}/two:1", registry.host));
    tagged(&f, "local", &first);
    push(&f.store, &Registries::default(), &first).unwrap();
    tagged(&f, &first, &second);
    push(&f.store, &Registries::default(), &second).unwrap();
    let log = registry.log();
    let mounts =
        log.lines().filter(|line| line.contains("POST") && line.contains("mount=") && line.contains("201"));
    assert!(mounts.count() >= 2, "the layer and the configuration: {log}");
    assert!(!log.lines().any(|line| line.contains("PATCH") && line.contains("/v2/two/")), "{log}");
}

#[test]
fn an_index_goes_as_it_is_when_all_it_names_is_there() {
    let Some(registry) = RealRegistry::start("", "") else { return };
    let f = Fixture::new();
    let made = two_layers();
    let (blobs, mut ours) = made.oci();
    let (other_blobs, mut theirs) = Made::new(vec![layer(&[("other", "")])]).oci();
    ours["platform"] =
        serde_json::json!({"os": "linux", "architecture": ficelle::image::Platform::host().architecture});
    theirs["platform"] = serde_json::json!({"os": "linux", "architecture": "s390x"});
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [theirs, ours],
    });
    let index = index.to_string().into_bytes();
    for repository in ["source", "full"] {
        registry.push_blobs(&other_blobs, repository, "");
        registry.push_manifest(
            repository,
            theirs["digest"].as_str().unwrap(),
            "manifest",
            &other_blobs[theirs["digest"].as_str().unwrap()],
            "",
        );
    }
    registry.push_blobs(&blobs, "source", "");
    registry.push_manifest(
        "source",
        ours["digest"].as_str().unwrap(),
        "manifest",
        &blobs[ours["digest"].as_str().unwrap()],
        "",
    );
    registry.push_manifest("source", "1", "index", &index, "");
    let source = format!("{}/source:1", registry.host);
    pull(&f.store, &Registries::default(), &source).unwrap();
    let id = f.store.find(&name(&source)).unwrap().unwrap().id;
    // The other platform is there already: the index follows.
    let full = format!("{}/full:1", registry.host);
    f.store.tag_as(&name(&source), &name(&full)).unwrap();
    let pushed = push(&f.store, &Registries::default(), &full).unwrap();
    assert_eq!((pushed.digest.as_str(), pushed.notes.len()), (digest(&index).as_str(), 0));
    // It is not there: this platform goes alone, and that is told.
    let alone = format!("{}/alone:1", registry.host);
    f.store.tag_as(&name(&source), &name(&alone)).unwrap();
    let pushed = push(&f.store, &Registries::default(), &alone).unwrap();
    assert_eq!(pushed.digest, ours["digest"].as_str().unwrap());
    assert!(pushed.notes[0].contains("linux/s390x"), "{:?}", pushed.notes);
    let other = Fixture::new();
    assert_eq!(pull(&other.store, &Registries::default(), &alone).unwrap().id, id);
}

/// A registry that takes an upload in pieces of its own liking.
#[test]
fn an_upload_that_is_cut_goes_on_where_it_ended() {
    use std::sync::{Arc, Mutex};
    let f = Fixture::new();
    f.loaded(&Made::new(vec![odd_layer(4 << 20)]), "local");
    let taken: Arc<Mutex<Vec<u8>>> = Arc::default();
    let cuts: Arc<Mutex<u32>> = Arc::default();
    let (store, cut) = (Arc::clone(&taken), Arc::clone(&cuts));
    let registry = FakeRegistry::start(
        &two_layers(),
        Box::new(move |request| {
            let path = request.path.as_str();
            let at = |length: usize| {
                format!("Location: /v2/app/blobs/uploads/x\r\nRange: 0-{}\r\n", length.saturating_sub(1))
            };
            Some(match request.method.as_str() {
                "HEAD" => reply("404 Not Found", "", b""),
                "POST" => reply("202 Accepted", "Location: /v2/app/blobs/uploads/x\r\n", b""),
                "PATCH" => {
                    let mut store = store.lock().unwrap();
                    let start: usize =
                        request.header("content-range").unwrap().split('-').next().unwrap().parse().unwrap();
                    assert_eq!(start, store.len());
                    let mut cut = cut.lock().unwrap();
                    *cut += 1;
                    if *cut <= 3 {
                        // A part is kept, and the connection breaks.
                        let part = request.body.len() / 3;
                        store.extend_from_slice(&request.body[..part]);
                        Reply::raw(Vec::new())
                    } else {
                        store.extend_from_slice(&request.body);
                        reply("202 Accepted", &at(store.len()), b"")
                    }
                }
                "GET" if path.contains("/uploads/") => {
                    reply("204 No Content", &at(store.lock().unwrap().len()), b"")
                }
                "PUT" if path.contains("/manifests/") => reply("201 Created", "", b""),
                "PUT" => {
                    if request.body.is_empty() {
                        assert!(path.ends_with(&digest(&store.lock().unwrap())), "{path}");
                    }
                    reply("201 Created", "", b"")
                }
                other => panic!("{other} {path}"),
            })
        }),
    );
    let target = format!("{}/app:1", registry.host());
    tagged(&f, "local", &target);
    push(&f.store, &Registries::default(), &target).unwrap();
    assert_eq!(*cuts.lock().unwrap(), 4);
}

#[test]
fn a_push_needs_the_login_that_may_write() {
    let Some(registry) = RealRegistry::with_password() else { return };
    let f = Fixture::new();
    f.loaded(&two_layers(), "local");
    let target = format!("{}/app:1", registry.host);
    tagged(&f, "local", &target);
    let config = f.dir.path().join("config.json");
    let registries = Registries { credentials: vec![config.clone()], ..Registries::default() };
    let error = push(&f.store, &registries, &target).unwrap_err();
    assert!(error.to_string().contains("may not be pushed"), "{error}");
    assert_eq!(error.help()[0], format!("log in with `ficelle login {}`", registry.host));
    fs::write(&config, format!(r#"{{"auths": {{"{}": {{"auth": "dXNlcjpzZWNyZXQ="}}}}}}"#, registry.host))
        .unwrap();
    push(&f.store, &registries, &target).unwrap();
    assert_eq!(pull(&Fixture::new().store, &registries, &target).unwrap().id, two_layers().id());
}

#[test]
fn an_upload_that_is_sent_elsewhere_takes_no_credentials_along() {
    let other = FakeRegistry::start(&two_layers(), Box::new(|_| Some(reply("201 Created", "", b""))));
    let elsewhere = other.host();
    let registry = FakeRegistry::start(
        &two_layers(),
        Box::new(move |request| {
            let known = request.header("authorization").is_some();
            Some(match request.method.as_str() {
                _ if !known => reply("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", b""),
                "HEAD" => reply("404 Not Found", "", b""),
                "POST" => reply("202 Accepted", &format!("Location: http://{elsewhere}/v2/up\r\n"), b""),
                _ => reply("201 Created", "", b""),
            })
        }),
    );
    let f = Fixture::new();
    f.loaded(&two_layers(), "local");
    let target = format!("{}/app:1", registry.host());
    tagged(&f, "local", &target);
    let config = f.file(
        "config.json",
        format!(r#"{{"auths": {{"{}": {{"auth": "dXNlcjpzZWNyZXQ="}}}}}}"#, registry.host()).as_bytes(),
    );
    let registries = Registries { credentials: vec![config], ..Registries::default() };
    push(&f.store, &registries, &target).unwrap();
    assert!(other.asked(|request| request.method == "PUT") >= 3);
    assert_eq!(other.asked(|request| request.header("authorization").is_some()), 0);
}
