//! `kill -9` at each step of every command that changes the store: the next command uses what is there,
//! nothing half done is seen, and what the dead held is free again. Two pulls of one image share it, and a
//! full disk is told.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use ficelle::image::Store;

use super::{
    Fixture,
    fake::FakeRegistry,
    login::{both, root},
    make::{Made, layer},
    registry::RealRegistry,
};

/// Where a command shows how far it is; each is a step to die at.
const STEPS: [&str; 8] = ["leases", "locks", "tmp", "partial", "layers", "blobs", "images", "refs"];

/// Two layers, one with enough in it that its way in can be watched.
fn made() -> Made {
    let content = "0123456789abcdef".repeat(1 << 12);
    let names: Vec<String> = (0..60).map(|number| format!("file{number}")).collect();
    let one = layer(&names.iter().map(|name| (name.as_str(), content.as_str())).collect::<Vec<_>>());
    Made::new(vec![one, layer(&[("small", "x")])])
}

/// A state tree, and the commands on it.
struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("big.tar"), made().docker_archive(&["big:1"])).unwrap();
        fs::write(dir.path().join("root.tar"), &made().layers[0]).unwrap();
        Self { dir }
    }

    fn images(&self) -> PathBuf {
        self.dir.path().join("root/data/images")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ficelle"));
        command.arg("--root").arg(self.dir.path().join("root")).args(arguments).current_dir(self.dir.path());
        command.env("HOME", self.dir.path()).stdin(Stdio::null());
        command
    }

    /// It works, and has nothing to say but what it is for.
    fn well(&self, arguments: &[&str]) {
        let done = self.command(arguments).output().unwrap();
        assert!(done.status.success() && done.stderr.is_empty(), "{arguments:?}: {}", both(&done));
    }

    /// How many things there are at each step.
    fn counts(&self) -> [usize; STEPS.len()] {
        STEPS.map(|step| below(&self.images().join(step)))
    }

    /// Kills the command when `step` is not as it was before (or when it ends); `true` when it was caught.
    fn killed_at(&self, step: usize, later: Duration, arguments: &[&str]) -> bool {
        let before = self.counts()[step];
        let mut child = self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while self.counts()[step] == before && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let until = Instant::now() + later;
        while Instant::now() < until {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        !child.wait().unwrap().success()
    }

    /// What is there is whole, and the next command has no complaint.
    fn assert_usable(&self, what: &str) {
        self.well(&["image", "ls"]);
        let store = Store::open(self.images());
        for image in store.list().unwrap() {
            for (layer, count) in image.layers.iter().zip([60, 1]) {
                assert_eq!(fs::read_dir(&layer.path).unwrap().count(), count, "{what}: {}", layer.diff_id);
            }
        }
        for entry in fs::read_dir(self.images().join("layers")).into_iter().flatten() {
            let layer = entry.unwrap().path();
            assert!(layer.join("meta.json").exists() && layer.join("fs").exists(), "{what}: {layer:?}");
        }
    }

    fn assert_empty(&self, what: &str) {
        self.well(&["image", "prune", "--all", "--force"]);
        for directory in ["layers", "images", "blobs/sha256", "partial", "tmp", "leases"] {
            let left: Vec<_> = fs::read_dir(self.images().join(directory)).unwrap().flatten().collect();
            assert!(left.is_empty(), "{what}: {directory}: {left:?}");
        }
    }
}

/// Files and directories below a directory that comes and goes.
fn below(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    // Of a layer on its way in, that it is there is enough.
    let deep = !directory.ends_with("tmp") && !directory.ends_with("layers");
    entries.map(|entry| 1 + if deep { below(&entry.path()) } else { 0 }).sum()
}

/// Dies at each step, also a little later, each time after `before` has been done.
fn dies(tree: &Tree, before: &[&[&str]], arguments: &[&str]) {
    if !root() {
        return;
    }
    let what = arguments.join(" ");
    let mut caught = 0;
    for (number, step) in STEPS.iter().enumerate() {
        for later in [0, 5] {
            for command in before {
                tree.well(command);
            }
            caught += usize::from(tree.killed_at(number, Duration::from_millis(later), arguments));
            tree.assert_usable(&format!("{what}, {later} ms after {step}"));
        }
    }
    assert!(caught > 0, "{what} was never caught");
    for command in before {
        tree.well(command);
    }
    tree.well(arguments);
    tree.assert_usable(&what);
}

#[test]
fn a_load_may_die() {
    let tree = Tree::new();
    dies(&tree, &[&["image", "prune", "-af"]], &["image", "load", "-q", "-i", "big.tar"]);
    tree.assert_empty("load");
}

#[test]
fn an_import_may_die() {
    let tree = Tree::new();
    dies(&tree, &[&["image", "prune", "-af"]], &["image", "import", "root.tar", "big:1"]);
    tree.assert_empty("import");
}

#[test]
fn a_removal_may_die() {
    let tree = Tree::new();
    let load = ["image", "load", "-q", "-i", "big.tar"];
    dies(&tree, &[&load], &["image", "rm", "big:1"]);
    tree.assert_empty("rm");
}

#[test]
fn a_prune_may_die() {
    let tree = Tree::new();
    let load = ["image", "load", "-q", "-i", "big.tar"];
    dies(&tree, &[&load], &["image", "prune", "--all", "--force"]);
    tree.assert_empty("prune");
}

#[test]
fn a_pull_may_die() {
    let Some(registry) = RealRegistry::start("", "") else { return };
    registry.push(&made(), "big", "1", "");
    let tree = Tree::new();
    let target = format!("{}/big:1", registry.host);
    dies(&tree, &[&["image", "prune", "-af"]], &["image", "pull", "-q", &target]);
    tree.assert_empty("pull");
}

#[test]
fn a_push_may_die() {
    let Some(registry) = RealRegistry::start("", "") else { return };
    let tree = Tree::new();
    let target = format!("{}/big:1", registry.host);
    let load = ["image", "load", "-q", "-i", "big.tar"];
    let before: [&[&str]; 3] = [&["image", "prune", "-af"], &load, &["image", "tag", "big:1", &target]];
    dies(&tree, &before, &["image", "push", "-q", &target]);
    tree.assert_empty("push");
    // What is there for others is whole, too.
    tree.well(&["image", "pull", "-q", &target]);
    tree.assert_usable("what was pushed");
}

#[test]
fn two_pulls_of_one_image_bring_it_once() {
    let made = made();
    let registry = FakeRegistry::plain(&made);
    let f = Fixture::new();
    std::thread::scope(|scope| {
        let pulls = [scope.spawn(|| registry.pull(&f)), scope.spawn(|| registry.pull(&f))];
        for pull in pulls {
            assert_eq!(pull.join().unwrap().unwrap().id, made.id());
        }
    });
    let (blobs, manifest) = made.oci();
    let manifest: serde_json::Value =
        serde_json::from_slice(&blobs[manifest["digest"].as_str().unwrap()]).unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        let digest = layer["digest"].as_str().unwrap();
        assert_eq!(registry.asked(|request| request.path.ends_with(digest)), 1, "{digest}");
    }
}

/// The store's own file system, of a size.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    /// `None`, told, where this machine does not let us.
    fn mount(root: &'a Path, size: &str) -> Option<Self> {
        fs::create_dir_all(root).unwrap();
        let disk = Self(root);
        disk.set(&format!("size={size}")).then_some(disk)
    }

    fn set(&self, options: &str) -> bool {
        let mut command = Command::new("mount");
        let done = command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(self.0).output().unwrap();
        if !done.status.success() {
            eprintln!("SKIPPED: {}", String::from_utf8_lossy(&done.stderr));
        }
        done.status.success()
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing_half_done() {
    let f = Fixture::new();
    let made = made();
    let archive = f.file("big.tar", &made.docker_archive(&["big"]));
    let registry = FakeRegistry::plain(&made);
    // Of no use to a compressor, so that its bytes alone are too much.
    let noise = super::faults::noise(3_000_000);
    let wide = Made::new(vec![layer(&[("noise", &noise)])]);
    let noisy = FakeRegistry::plain(&wide);
    let root = f.store.root().to_owned();
    let place = format!("no space left below `{}` for `", root.display());
    type Bring<'a> = Box<dyn Fn() -> Result<(), ficelle::image::ImageError> + 'a>;
    let ways: [(&str, &str, Bring<'_>); 3] = [
        ("big:latest layer 1 of 2", "3m", Box::new(|| f.store.load(&archive, &super::quiet).map(drop))),
        ("web:1 layer 1 of 2", "3m", Box::new(|| registry.pull(&f).map(drop))),
        ("web:1 layer 1 of 1", "2m", Box::new(|| noisy.pull(&f).map(drop))),
    ];
    let Some(disk) = Disk::mount(&root, "64m") else { return };
    for (what, size, bring) in ways {
        f.store.prune(|_| false, &[]).unwrap();
        assert!(disk.set(&format!("remount,size={size}")));
        let error = bring().unwrap_err();
        let said = error.to_string();
        assert!(said.contains(&place) && said.contains(what), "{said}");
        assert!(said.contains("it needs more than ") && said.contains("MB"), "{said}");
        assert!(error.help().iter().any(|help| help.contains("ficelle image prune")), "{:?}", error.help());
        assert_eq!((f.entries("images"), f.entries("tmp")), (vec![], vec![]), "{what}");
        for name in f.entries("layers") {
            assert!(root.join("layers").join(name).join("meta.json").exists(), "{what}");
        }
        assert!(disk.set("remount,size=64m"));
        bring().unwrap();
    }
}
