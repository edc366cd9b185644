//! Images: archives, layers and the store, on real file systems and through real overlays.

mod archives;
mod breakouts;
mod fake;
mod faults;
mod forms;
mod hostile;
mod kills;
mod login;
mod make;
mod malformed;
mod published;
mod push;
pub mod registry;
mod tars;
mod terminal;
mod tree;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
};

use ficelle::{
    image::{DockerConfig, Image, ImageError, Store},
    model::ImageRef,
};
use make::{Files, Made, digest, gzip, layer};
use tree::listing;

fn quiet(_: &str, _: u64, _: u64) {}

fn name(text: &str) -> ImageRef {
    text.parse().unwrap()
}

/// A store and a place for archives, in a directory of their own.
struct Fixture {
    dir: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("images"));
        Self { dir, store }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn load(&self, bytes: &[u8]) -> Result<Vec<ImageRef>, ImageError> {
        self.store.load(&self.file("archive.tar", bytes), &quiet)
    }

    fn loaded(&self, made: &Made, tag: &str) -> Image {
        self.load(&made.docker_archive(&[tag])).unwrap();
        self.store.find(&name(tag)).unwrap().unwrap()
    }

    fn entries(&self, directory: &str) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.store.root().join(directory))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn assert_empty(&self) {
        for directory in ["layers", "images", "blobs/sha256", "tmp", "locks", "leases"] {
            assert_eq!(self.entries(directory), [""; 0], "{directory}");
        }
    }
}

/// An overlay mount of an image, taken down when dropped.
struct Mounted {
    dir: tempfile::TempDir,
    root: PathBuf,
}

impl Mounted {
    /// `None`, told, when this machine does not let us.
    fn new(image: &Image, scratch: tempfile::TempDir) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: an overlay mount needs root");
            return None;
        }
        for part in ["upper", "work", "merged"] {
            fs::create_dir(scratch.path().join(part)).unwrap();
        }
        let lower: Vec<_> =
            image.layers.iter().rev().map(|layer| layer.path.to_str().unwrap().to_owned()).collect();
        let at = |part: &str| scratch.path().join(part).to_str().unwrap().to_owned();
        let options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), at("upper"), at("work"));
        let done = Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", &options, &at("merged")])
            .output()
            .unwrap();
        if !done.status.success() {
            eprintln!("SKIPPED: {}", String::from_utf8_lossy(&done.stderr));
            return None;
        }
        Some(Self { root: scratch.path().join("merged"), dir: scratch })
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap()
    }

    fn names(&self, path: &str) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.root.join(path))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn unmount(&self) {
        assert!(Command::new("umount").arg(&self.root).status().unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.root).stderr(Stdio::null()).status();
    }
}

fn two_layers() -> Made {
    Made::new(vec![
        layer(&[
            ("etc/", ""),
            ("etc/passwd", "root:x:0:0"),
            ("etc/old", "x"),
            ("tmp/", "1777"),
            ("bin -> usr/bin", ""),
        ]),
        layer(&[("etc/", ""), ("etc/.wh.old", ""), ("app/", ""), ("app/main", "run")]),
    ])
}

#[test]
fn a_docker_archive_is_loaded_and_found_by_each_of_its_tags() {
    let f = Fixture::new();
    let made = two_layers();
    let heard = Mutex::new(Vec::new());
    let path = f.file("a.tar", &made.docker_archive(&["web:1", "registry.test:5000/team/web:latest"]));
    let loaded = f
        .store
        .load(&path, &|what, done, all| heard.lock().unwrap().push((what.to_owned(), done, all)))
        .unwrap();
    assert_eq!(loaded, [name("web:1"), name("registry.test:5000/team/web")]);
    let image = f.store.find(&name("web:1")).unwrap().unwrap();
    assert_eq!(f.store.find(&loaded[1]).unwrap().unwrap(), image);
    assert_eq!(image.id, made.id());
    assert_eq!(image.references, [name("web:1"), loaded[1].clone()]);
    assert_eq!(image.layers.len(), 2);
    assert_eq!(image.layers[0].diff_id, digest(&made.layers[0]));
    assert_eq!(image.config.config().as_ref().unwrap().cmd().as_ref().unwrap(), &["sh"]);
    assert_eq!(image.docker.healthcheck.as_ref().unwrap().interval, 5_000_000_000);
    assert_eq!(image.size, "root:x:0:0".len() as u64 + 1 + 3);
    assert_eq!(f.store.list().unwrap(), [image]);
    let heard = heard.into_inner().unwrap();
    assert!(heard.iter().any(|(what, done, all)| what == "web:1 layer 2 of 2" && done == all), "{heard:?}");
    assert!(f.store.find(&name("web:2")).unwrap().is_none());
    let mode = fs::metadata(f.store.root()).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "nobody else may look into the store");
}

#[test]
fn loading_again_changes_nothing() {
    let f = Fixture::new();
    let first = f.loaded(&two_layers(), "web");
    let inode = fs::metadata(&first.layers[0].path).unwrap().ino();
    let second = f.loaded(&two_layers(), "web");
    assert_eq!(first, second);
    assert_eq!(fs::metadata(&second.layers[0].path).unwrap().ino(), inode);
    assert_eq!(f.entries("tmp"), [""; 0]);
}

#[test]
fn the_layers_stack_as_overlayfs_takes_them() {
    let f = Fixture::new();
    let image = f.loaded(&two_layers(), "web");
    let Some(mounted) = Mounted::new(&image, f.store.scratch().unwrap()) else { return };
    assert_eq!(mounted.names(""), ["app", "bin", "etc", "tmp"]);
    assert_eq!(mounted.names("etc"), ["passwd"]);
    assert_eq!(mounted.read("app/main"), "run");
    assert_eq!(fs::metadata(mounted.root.join("tmp")).unwrap().mode() & 0o7777, 0o1777);
}

#[test]
fn directories_that_a_layer_leaves_out_keep_their_mode_from_below() {
    let f = Fixture::new();
    let made = Made::new(vec![
        layer(&[("tmp/", "1777"), ("srv/", "700"), ("srv/a/", "711"), ("plain/", "")]),
        layer(&[("tmp/file", "x"), ("srv/a/file", "y"), ("plain/file", "z"), ("new/file", "n")]),
    ]);
    let image = f.loaded(&made, "web");
    let mode = |path: &str| fs::metadata(image.layers[1].path.join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("tmp"), mode("srv"), mode("srv/a"), mode("new")), (0o1777, 0o700, 0o711, 0o755));
    // The layer by itself is as it was, for images with another base.
    let other = f.loaded(&Made::new(vec![made.layers[1].clone()]), "other");
    assert_eq!(fs::metadata(other.layers[0].path.join("tmp")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_to_string(image.layers[1].path.join("tmp/file")).unwrap(), "x");
    let Some(mounted) = Mounted::new(&image, f.store.scratch().unwrap()) else { return };
    assert_eq!(fs::metadata(mounted.root.join("tmp")).unwrap().mode() & 0o7777, 0o1777);
    drop(mounted);
    f.store.remove(&name("other"), &[]).unwrap();
    assert!(image.layers[1].path.exists());
    f.store.remove(&name("web"), &[]).unwrap();
    assert_eq!(f.entries("layers"), [""; 0]);
}

#[test]
fn a_layer_that_covers_its_root_hides_all_below_it() {
    let f = Fixture::new();
    let made = Made::new(vec![
        layer(&[("old", "x"), ("both/", ""), ("both/old", "x")]),
        layer(&[(".wh..wh..opq", ""), ("both/", ""), ("both/new", "y"), ("top", "z")]),
    ]);
    let image = f.loaded(&made, "web");
    let Some(mounted) = Mounted::new(&image, f.store.scratch().unwrap()) else { return };
    assert_eq!(mounted.names(""), ["both", "top"]);
    assert_eq!(mounted.names("both"), ["new"]);
}

#[test]
fn an_image_may_have_a_layer_twice() {
    let f = Fixture::new();
    let (empty, again) = (layer(&[]), layer(&[("again", "x")]));
    let base = layer(&[("base", ""), ("again", "old")]);
    let made = Made::new(vec![base, empty.clone(), again.clone(), layer(&[(".wh.again", "")]), empty, again]);
    let image = f.loaded(&made, "twice");
    assert_eq!(image.layers.len(), 6);
    let Some(mounted) = Mounted::new(&image, f.store.scratch().unwrap()) else { return };
    assert_eq!(mounted.names(""), ["again", "base"]);
    assert_eq!(mounted.read("again"), "x");
    drop(mounted);
    f.store.remove(&name("twice"), &[]).unwrap();
    assert_eq!(f.entries("layers"), [""; 0]);
}

#[test]
fn archives_may_be_compressed_or_directories() {
    let f = Fixture::new();
    let made = two_layers();
    let tar = made.docker_archive(&["web"]);
    f.store.load(&f.file("a.tar.gz", &gzip(&tar)), &quiet).unwrap();
    let first = f.store.find(&name("web")).unwrap().unwrap();
    f.store.load(&f.file("b.tar.zst", &zstd::encode_all(tar.as_slice(), 1).unwrap()), &quiet).unwrap();
    let mut files = Files::default();
    for entry in tar::Archive::new(tar.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        files.add(entry.path().unwrap().to_str().unwrap(), bytes);
    }
    let directory = f.dir.path().join("unpacked");
    files.write_to(&directory);
    f.store.load(&directory, &quiet).unwrap();
    assert_eq!(f.store.find(&name("web")).unwrap().unwrap(), first);
    assert_eq!(f.store.list().unwrap().len(), 1);
}

#[test]
fn an_oci_layout_is_loaded_with_its_blobs() {
    let f = Fixture::new();
    let made = two_layers();
    let loaded = f.load(&made.oci_layout(Some("docker.io/library/web:3")).tar()).unwrap();
    assert_eq!(loaded, [name("web:3")]);
    let image = f.store.find(&name("web:3")).unwrap().unwrap();
    assert_eq!(image.id, made.id());
    let (blobs, descriptor) = made.oci();
    let mut hexes: Vec<_> = blobs.keys().map(|digest| digest[7..].to_owned()).collect();
    hexes.sort();
    assert_eq!(f.entries("blobs/sha256"), hexes);
    let by_digest = format!("web@{}", descriptor["digest"].as_str().unwrap());
    assert_eq!(f.store.find(&name(&by_digest)).unwrap().unwrap().id, image.id);
    f.store.remove(&name("web:3"), &[]).unwrap();
    f.assert_empty();
    let directory = f.dir.path().join("layout");
    made.oci_layout(Some("4")).write_to(&directory);
    assert_eq!(f.store.load(&directory, &quiet).unwrap(), [name("layout:4")]);
    assert_eq!(
        f.store.load(&f.file("some.tar", &made.oci_layout(None).tar()), &quiet).unwrap(),
        [name("some")]
    );
}

#[test]
fn the_right_platform_of_an_index_is_taken() {
    let f = Fixture::new();
    let made = two_layers();
    let (blobs, mut ours) = made.oci();
    let other = Made::new(vec![layer(&[("other", "")])]);
    let (other_blobs, mut theirs) = other.oci();
    let host = ficelle::image::Platform::host();
    ours["platform"] =
        serde_json::json!({"os": "linux", "architecture": host.architecture, "variant": host.variant});
    theirs["platform"] = serde_json::json!({"os": "linux", "architecture": "s390x"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [theirs, ours]}).to_string().into_bytes();
    let entry = serde_json::json!({
        "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest(&index), "size": index.len(),
        "annotations": {"io.containerd.image.name": "docker.io/library/multi:1"},
    });
    let mut files = Files::default();
    files.add(
        "index.json",
        serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string().into_bytes(),
    );
    for (digest, bytes) in blobs.into_iter().chain(other_blobs).chain([(digest(&index), index.clone())]) {
        files.add(&format!("blobs/sha256/{}", &digest[7..]), bytes);
    }
    f.load(&files.tar()).unwrap();
    assert_eq!(f.store.find(&name("multi:1")).unwrap().unwrap().id, made.id());
    assert_eq!(f.store.find(&name(&format!("multi@{}", digest(&index)))).unwrap().unwrap().id, made.id());
}

#[test]
fn wrong_content_is_refused_and_leaves_nothing() {
    let f = Fixture::new();
    let evil = layer(&[("etc/", ""), ("etc/passwd", "evil")]);
    let good = digest(&two_layers().layers[0]);
    let claiming = Made::claiming(vec![evil], &[good]);
    let error = f.load(&claiming.docker_archive(&["web"])).unwrap_err().to_string();
    assert!(error.contains("web:latest layer 1 of 1 unpacks to sha256:"), "{error}");
    let mut layout = two_layers().oci_layout(Some("web:1"));
    let blobs = two_layers().oci().0;
    let compressed = blobs.values().find(|bytes| bytes.starts_with(&[0x1f, 0x8b])).unwrap();
    let mut longer = compressed.clone();
    longer.extend([0; 100]);
    layout.add(&format!("blobs/sha256/{}", &digest(compressed)[7..]), longer);
    let error = f.load(&layout.tar()).unwrap_err().to_string();
    assert!(error.contains("bytes long; its manifest says"), "{error}");
    for kept in ["layers", "images", "blobs/sha256", "tmp", "locks", "refs"] {
        // A layer that was right may stay for the next try.
        let left = f.entries(kept);
        assert!(left.is_empty() || (kept != "images" && kept != "tmp" && kept != "refs"), "{kept}: {left:?}");
    }
    f.store.collect(&[]).unwrap();
    f.assert_empty();
}

#[test]
fn what_is_no_image_is_told_with_its_file() {
    let f = Fixture::new();
    let error = |bytes: &[u8]| f.load(bytes).unwrap_err().to_string();
    let path = f.dir.path().join("archive.tar").display().to_string();
    let plain = error(&layer(&[("file", "x")]));
    assert!(
        plain.contains(&path) && plain.contains("neither a `manifest.json` nor an `index.json`"),
        "{plain}"
    );
    let noise = error(&[b'x'; 5000]);
    assert!(noise.contains(&path) && noise.contains("no tar archive"), "{noise}");
    let cut = two_layers().docker_archive(&["web"]);
    assert!(error(&cut[..2000]).contains(&path));
    let mut lacking = Files::default();
    lacking.add("manifest.json", br#"[{"Config":"c.json","RepoTags":["web"],"Layers":[]}]"#.to_vec());
    assert!(error(&lacking.tar()).contains("lacks the configuration `c.json`"));
    let mut outside = Files::default();
    outside.add("manifest.json", br#"[{"Config":"../../etc/hostname","Layers":[]}]"#.to_vec());
    assert!(error(&outside.tar()).contains("outside of it"));
    let mut bad = Files::default();
    bad.add("manifest.json", b"[{]".to_vec());
    assert!(error(&bad.tar()).contains("malformed `manifest.json`"));
    let missing = f.store.load(Path::new("/nowhere/x.tar"), &quiet).unwrap_err();
    assert_eq!(missing.to_string(), "open `/nowhere/x.tar`");
    f.assert_empty();
}

#[test]
fn a_huge_document_is_not_read() {
    let f = Fixture::new();
    // A sparse file stands in for a manifest of 10 GB.
    let path = f.dir.path().join("huge.tar");
    let mut header = tar::Header::new_ustar();
    header.set_path("manifest.json").unwrap();
    header.set_mode(0o644);
    header.set_size(10 << 30);
    header.set_cksum();
    fs::write(&path, header.as_bytes()).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len((10 << 30) + 2048).unwrap();
    let error = f.store.load(&path, &quiet).unwrap_err().to_string();
    assert!(error.contains("no document is larger than 8 MiB"), "{error}");
}

#[test]
fn removing_keeps_what_others_and_containers_use() {
    let f = Fixture::new();
    let made = two_layers();
    let image = f.loaded(&made, "web:1");
    f.store.tag(&image.id, &name("web:2")).unwrap();
    let small = f.loaded(&Made::new(vec![made.layers[0].clone()]), "small");
    f.store.remove(&name("web:1"), &[]).unwrap();
    assert_eq!(f.store.find(&name("web:2")).unwrap().unwrap().id, image.id);
    assert!(
        matches!(f.store.remove(&name("web:1"), &[]), Err(ImageError::NotFound(name)) if name == "web:1")
    );
    f.store.remove(&name("web:2"), std::slice::from_ref(&image.id)).unwrap();
    assert_eq!(f.store.find_id(&image.id).unwrap().unwrap().layers, image.layers);
    f.store.collect(&[image.layers[1].path.display().to_string()]).unwrap();
    assert!(f.store.find_id(&image.id).unwrap().is_none());
    assert!(image.layers[1].path.exists());
    f.store.collect(&[]).unwrap();
    assert!(!image.layers[1].path.exists());
    assert!(small.layers[0].path.exists());
    f.store.remove(&name("small"), &[]).unwrap();
    f.assert_empty();
    assert!(matches!(f.store.tag(&image.id, &name("x")), Err(ImageError::NotFound(_))));
}

#[test]
fn a_tag_may_be_part_of_another_repository_s_name() {
    let f = Fixture::new();
    let made = two_layers();
    let image = f.loaded(&made, "team/web:1");
    f.store.tag(&image.id, &name("team/web/1:latest")).unwrap();
    f.store.tag(&image.id, &name("team:web")).unwrap();
    assert_eq!(f.store.find_id(&image.id).unwrap().unwrap().references.len(), 3);
}

#[test]
fn what_a_container_changed_becomes_a_layer() {
    let f = Fixture::new();
    let base = f.loaded(
        &Made::new(vec![layer(&[
            ("etc/", ""),
            ("etc/a", "1"),
            ("var/", ""),
            ("var/old", "x"),
            ("dir/", ""),
            ("dir/x", ""),
        ])]),
        "base",
    );
    let Some(mounted) = Mounted::new(&base, f.store.scratch().unwrap()) else { return };
    let at = |path: &str| mounted.root.join(path);
    fs::write(at("etc/b"), "new").unwrap();
    fs::set_permissions(at("etc/b"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::remove_file(at("etc/a")).unwrap();
    fs::remove_dir_all(at("var")).unwrap();
    fs::create_dir(at("var")).unwrap();
    fs::write(at("var/new"), "y").unwrap();
    fs::remove_dir_all(at("dir")).unwrap();
    std::os::unix::fs::symlink("etc", at("link")).unwrap();
    fs::hard_link(at("etc/b"), at("etc/c")).unwrap();
    let long = "n".repeat(150);
    fs::write(at(&long), "long").unwrap();
    rustix::fs::setxattr(at("etc/b"), "user.note", b"a\nb", rustix::fs::XattrFlags::empty()).unwrap();
    mounted.unmount();
    let layer = f.store.commit_layer(&mounted.dir.path().join("upper")).unwrap();
    assert!(!mounted.dir.path().join("upper").exists(), "taken, not copied");
    assert_eq!(f.store.layer(&layer.diff_id).unwrap().unwrap(), layer);
    let mut config = base.config.clone();
    config.rootfs_mut().diff_ids_mut().push(layer.diff_id.clone());
    let docker = DockerConfig { shell: Some(vec!["/bin/sh".into()]), ..base.docker.clone() };
    let built = f.store.commit_image_with(&config, &docker, &[name("built:1")]).unwrap();
    assert_eq!(f.store.find(&name("built:1")).unwrap().unwrap(), built);
    assert_eq!((built.layers.len(), &built.docker), (2, &docker));
    assert_eq!(
        f.store.commit_image_with(&config, &docker, &[]).unwrap().id,
        built.id,
        "the same bytes again"
    );
    let check = |image: &Image, store: &Store| {
        let mounted = Mounted::new(image, store.scratch().unwrap()).unwrap();
        assert_eq!(mounted.names("etc"), ["b", "c"]);
        assert_eq!(mounted.names("var"), ["new"]);
        assert_eq!(mounted.names(""), ["etc", "link", long.as_str(), "var"]);
        let b = fs::metadata(mounted.root.join("etc/b")).unwrap();
        assert_eq!((b.mode() & 0o7777, b.nlink()), (0o4711, 2));
        let mut value = [0u8; 16];
        let length = rustix::fs::getxattr(mounted.root.join("etc/c"), "user.note", &mut value[..]).unwrap();
        assert_eq!(&value[..length], b"a\nb");
    };
    check(&built, &f.store);
    // The manifest names the tar that the layer's directory gives, with its size.
    let record: serde_json::Value = serde_json::from_slice(
        &fs::read(f.store.root().join(format!("images/{}.json", &built.id[7..]))).unwrap(),
    )
    .unwrap();
    let manifest = record["manifest"]["digest"].as_str().unwrap();
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(f.store.root().join("blobs/sha256").join(&manifest[7..])).unwrap())
            .unwrap();
    assert_eq!(manifest["layers"][1]["digest"], layer.diff_id.as_str());
    assert_eq!(manifest["config"]["digest"], built.id.as_str());
}

#[test]
fn an_image_of_layers_that_are_not_there_is_refused() {
    let f = Fixture::new();
    let image = f.loaded(&two_layers(), "web");
    let mut config = image.config.clone();
    config.rootfs_mut().diff_ids_mut().push(digest(b"nothing"));
    let error = f.store.commit_image(&config, &[name("x")]).unwrap_err().to_string();
    assert!(error.contains("which is not in the store"), "{error}");
    assert!(f.store.find(&name("x")).unwrap().is_none());
}

#[test]
fn committed_layers_stay_while_their_store_is_held() {
    let f = Fixture::new();
    let upper = f.store.scratch().unwrap();
    fs::create_dir(upper.path().join("up")).unwrap();
    fs::write(upper.path().join("up/file"), "x").unwrap();
    let layer = f.store.commit_layer(&upper.path().join("up")).unwrap();
    let other = Store::open(f.store.root().to_owned());
    other.collect(&[]).unwrap();
    assert!(layer.path.exists() && upper.path().exists());
    drop(upper);
    let Fixture { dir, store } = f;
    drop(store);
    other.collect(&[]).unwrap();
    assert!(!layer.path.exists());
    drop(dir);
}

#[test]
fn ordinary_archives_unpack_as_gnu_tar_unpacks_them() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: owners need root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    let script = r#"
        set -e; mkdir -p "$0/a/b" "$0/tmp" "$0/$(printf 'd%.0s' $(seq 120))/$(printf 'e%.0s' $(seq 120))"
        cd "$0"; echo hello > a/b/file; chmod 4755 a/b/file; ln a/b/file a/hard; ln -s ../a/b sym; ln -s /nowhere dangling
        mkfifo pipe; chmod 1777 tmp; chown 12:34 a/b; cd d*/e*; echo long > "$(printf 'f%.0s' $(seq 120))"; cd ../..
        truncate -s 3M holes; printf middle | dd of=holes bs=1 seek=1500000 conv=notrunc status=none
        mknod dev c 1 3; printf 'x' > 'a/new
line'; printf '\303\274' > 'a/ü'; touch -d '1969-12-31 23:00:00 UTC' old; touch -d '2001-02-03 04:05:06.789 UTC' fraction
        setfattr -n user.note -v "$(printf 'a\nb')" a/hard 2>/dev/null || true; : > empty
    "#;
    assert!(Command::new("sh").args(["-c", script]).arg(&source).status().unwrap().success());
    for format in [
        &["--format=gnu"][..],
        &["--format=gnu", "--sparse"],
        &["--format=posix", "--xattrs"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
    ] {
        let archive = dir.path().join("layer.tar");
        let made = Command::new("tar")
            .args(format)
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(&source)
            .arg(".")
            .status();
        assert!(made.unwrap().success(), "{format:?}");
        let theirs = tempfile::tempdir_in(dir.path()).unwrap();
        let done = Command::new("tar")
            .args(["--xattrs", "-xpf"])
            .arg(&archive)
            .arg("-C")
            .arg(theirs.path())
            .output()
            .unwrap();
        assert!(done.status.success(), "{format:?}");
        let f = Fixture::new();
        let image = f.loaded(&Made::new(vec![fs::read(&archive).unwrap()]), "tree");
        let ours = listing(&image.layers[0].path);
        assert!(!ours.is_empty());
        assert_eq!(ours, listing(theirs.path()), "{format:?}");
    }
}

/// Not a test: what the next ones run in a process of its own.
#[test]
#[ignore = "run by other tests"]
fn load_in_a_process() {
    if let (Some(root), Some(archive)) = (std::env::var_os("TEST_STORE"), std::env::var_os("TEST_ARCHIVE")) {
        Store::open(root.into()).load(Path::new(&archive), &quiet).unwrap();
    }
}

fn load_process(root: &Path, archive: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "images::load_in_a_process", "--ignored", "--nocapture"])
        .env("TEST_STORE", root)
        .env("TEST_ARCHIVE", archive)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Layers with enough in them that a load can be caught in the middle.
fn big() -> Made {
    let content = "0123456789abcdef".repeat(1 << 12);
    let names: Vec<String> = (0..200).map(|number| format!("file{number}")).collect();
    let one = layer(&names.iter().map(|name| (name.as_str(), content.as_str())).collect::<Vec<_>>());
    Made::new(vec![one, layer(&[("small", "x")])])
}

#[test]
fn processes_that_load_the_same_image_at_once_share_the_work() {
    let f = Fixture::new();
    let made = big();
    let archive = f.file("big.tar", &made.docker_archive(&["big"]));
    let children: Vec<_> = (0..3).map(|_| load_process(f.store.root(), &archive)).collect();
    for child in children {
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let image = f.store.find(&name("big")).unwrap().unwrap();
    assert_eq!(fs::read_dir(&image.layers[0].path).unwrap().count(), 200);
    f.store.remove(&name("big"), &[]).unwrap();
    f.assert_empty();
}

#[test]
fn collecting_takes_nothing_from_those_at_work() {
    let f = Fixture::new();
    let archive = f.file("web.tar", &two_layers().docker_archive(&["web"]));
    let other = Store::open(f.store.root().to_owned());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                other.collect(&[]).unwrap();
            }
        });
        for _ in 0..15 {
            f.store.load(&archive, &quiet).unwrap();
            let image = f.store.find(&name("web")).unwrap().expect("loaded a moment ago");
            assert!(image.layers.iter().all(|layer| layer.path.exists()));
            f.store.remove(&name("web"), &[]).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    f.assert_empty();
}
