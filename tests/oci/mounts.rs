//! How far the options of a mount reach, and what passes from it and to it.

use std::{fs, path::PathBuf, process::Command};

use serde_json::{Value, json};

use super::{Bundle, bundle};

/// A directory of the host that is a shared mount, and a file system in memory mounted below it.
struct Tree(PathBuf);

impl Tree {
    fn below(bundle: &Bundle, options: &str) -> Self {
        let dir = bundle.path().join("tree");
        fs::create_dir_all(dir.join("sub")).unwrap();
        let tree = Self(dir);
        let (top, sub) = (tree.0.display().to_string(), tree.0.join("sub").display().to_string());
        run("mount", &["--bind", &top, &top]);
        run("mount", &["--make-shared", &top]);
        fs::create_dir_all(&sub).unwrap();
        run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", &sub]);
        run("mount", &["--make-shared", &sub]);
        tree
    }

    fn mounted(&self, options: &[&str]) -> Value {
        json!({"destination": "/mnt", "source": self.0, "options": options})
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy", "--recursive"]).arg(&self.0).status();
    }
}

fn run(program: &str, args: &[&str]) {
    assert!(Command::new(program).args(args).status().unwrap().success(), "{program} {args:?}");
}

/// An option, options of the file system below before, words that the mounts have inside, and words they have not.
type Reach = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const RECURSIVE: &[Reach] = &[
    ("rro", "rw", &["ro"], &["rw"]),
    ("rrw", "ro", &["rw"], &["ro"]),
    ("rnosuid", "suid", &["nosuid"], &[]),
    ("rsuid", "nosuid", &[], &["nosuid"]),
    ("rnodev", "dev", &["nodev"], &[]),
    ("rdev", "nodev", &[], &["nodev"]),
    ("rnoexec", "exec", &["noexec"], &[]),
    ("rexec", "noexec", &[], &["noexec"]),
    ("rnodiratime", "diratime", &["nodiratime"], &[]),
    ("rdiratime", "nodiratime", &[], &["nodiratime"]),
    ("rnoatime", "relatime", &["noatime"], &["relatime"]),
    ("rrelatime", "noatime", &["relatime"], &["noatime"]),
    ("rnorelatime", "noatime", &[], &["noatime"]),
    ("rstrictatime", "relatime", &[], &["relatime", "noatime"]),
    ("rnosymfollow", "rw", &["nosymfollow"], &[]),
    ("rsymfollow", "nosymfollow", &[], &["nosymfollow"]),
];

/// Mount points at and below /mnt, with the field of each that a script prints.
fn seen(bundle: &mut Bundle, field: &str) -> Vec<(String, String)> {
    let script = format!("awk '$5 ~ /^\\/mnt/ {{{field}}}' /proc/self/mountinfo");
    let said = bundle.script(&script).run();
    assert_eq!(said.code, Some(0), "{said:?}");
    let line = |line: &str| line.split_once(' ').map(|(at, rest)| (at.to_owned(), rest.to_owned()));
    said.stdout.lines().filter_map(line).collect()
}

#[test]
fn recursive_options_reach_what_is_mounted_below() {
    for (option, before, has, lacks) in RECURSIVE {
        let Some(mut bundle) = bundle() else { return };
        let tree = Tree::below(&bundle, before);
        bundle.mount(tree.mounted(&["rbind", option]));
        let mounts = seen(&mut bundle, "print $5, $6");
        let places: Vec<&str> = mounts.iter().map(|(at, _)| at.as_str()).collect();
        assert_eq!(places, ["/mnt", "/mnt/sub"], "{option}");
        for (at, options) in &mounts {
            let options: Vec<&str> = options.split(',').collect();
            let fits =
                has.iter().all(|word| options.contains(word)) && !lacks.iter().any(|w| options.contains(w));
            assert!(fits, "{option}: {at} {options:?}");
        }
    }
}

#[test]
fn other_options_do_not() {
    let Some(mut bundle) = bundle() else { return };
    let tree = Tree::below(&bundle, "rw");
    bundle.mount(tree.mounted(&["rbind", "ro"]));
    let script = "touch /mnt/x 2>/dev/null || echo kept; touch /mnt/sub/x && echo written";
    assert_eq!(bundle.script(script).run().stdout, "kept\nwritten\n");
}

#[test]
fn mounts_pass_as_the_document_says() {
    let field = "printf \"%s \", $5; for (i = 7; $i != \"-\"; i++) printf \"%s \", $i; print \"\"";
    let cases: [(&str, &[&str]); 8] = [
        ("shared", &["shared:"]),
        ("rshared", &["shared:", "shared:"]),
        ("slave", &["master:"]),
        ("rslave", &["master:", "master:"]),
        ("private", &[""]),
        ("rprivate", &["", ""]),
        ("unbindable", &["unbindable"]),
        ("runbindable", &["unbindable", "unbindable"]),
    ];
    let mut wrong = Vec::new();
    for (option, wanted) in cases {
        let Some(mut bundle) = bundle() else { return };
        let tree = Tree::below(&bundle, "rw");
        bundle.mount(tree.mounted(&["rbind", option]));
        let mounts = seen(&mut bundle, field);
        let is = |(wanted, (_, found)): (&&str, &(String, String))| match *wanted {
            "" => found.trim().is_empty(),
            // One that is both hears and is heard.
            word => found.split(' ').any(|field| field.starts_with(word)),
        };
        if mounts.len() != 2 || !wanted.iter().zip(&mounts).all(is) {
            wrong.push(format!("{option}: {mounts:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_root_passes_mounts_as_the_document_says() {
    const FIELD: &str =
        "awk '$5 == \"/\" {print $7 == \"-\" ? \"private\" : $7}' /proc/self/mountinfo | cut -d: -f1";
    let cases =
        [("shared", "shared"), ("slave", "master"), ("private", "private"), ("unbindable", "unbindable")];
    for (asked, seen) in cases {
        let Some(mut bundle) = bundle() else { return };
        // What a slave hears of must be shared.
        let root = Tree(bundle.rootfs());
        let at = root.0.display().to_string();
        run("mount", &["--bind", &at, &at]);
        run("mount", &["--make-shared", &at]);
        bundle.set("/linux/rootfsPropagation", json!(asked));
        let said = bundle.script(FIELD).run();
        assert_eq!(said.stdout.trim(), seen, "{asked}: {said:?}");
    }
}
