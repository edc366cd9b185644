//! Layers that try to write outside of their directory, change what is there, or lie about their size:
//! nothing outside is ever touched, whether the layer is refused or not.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path};

use tar::EntryType::{self, Block, Char, Directory, Fifo, Link, Regular, Symlink};

use super::{Fixture, make::Made};

/// Kind, name, target of a link. `HOST` is a directory outside, absolute; `UP` leads to it by `..`.
pub(super) type Step = (EntryType, &'static str, &'static str);

/// Names stand in the header as they are: no library cleans them.
fn archive(steps: &[Step], host: &Path) -> Vec<u8> {
    let up = format!("{}{}", "../".repeat(24), host.strip_prefix("/").unwrap().display());
    let place = |text: &str| text.replace("HOST", host.to_str().unwrap()).replace("UP", &up);
    let mut bytes = Vec::new();
    for (kind, name, link) in steps {
        let data: &[u8] = if *kind == Regular { b"pwned" } else { b"" };
        for (long, text) in [(b'L', place(name)), (b'K', place(link))] {
            if text.len() < 100 {
                continue;
            }
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(EntryType::new(long));
            header.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
            entry(&mut bytes, header, text.as_bytes());
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o777);
        header.set_uid(4321);
        header.set_gid(4321);
        header.set_mtime(1);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        let old = header.as_old_mut();
        for (field, text) in [(&mut old.name, place(name)), (&mut old.linkname, place(link))] {
            let length = text.len().min(99);
            field[..length].copy_from_slice(&text.as_bytes()[..length]);
        }
        entry(&mut bytes, header, data);
    }
    bytes.extend([0; 1024]);
    bytes
}

fn entry(bytes: &mut Vec<u8>, mut header: tar::Header, data: &[u8]) {
    header.set_size(data.len() as u64);
    header.set_cksum();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
}

/// Everything below a directory: kind, mode, owner, time, content.
pub(super) fn picture(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        let shown = (metadata.mode(), metadata.uid(), metadata.nlink(), metadata.mtime(), content);
        found.insert(path.display().to_string(), format!("{shown:?}"));
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

pub(super) const ATTACKS: &[(&str, &[Step])] = &[
    ("a file by an absolute link", &[(Symlink, "l", "HOST"), (Regular, "l/pwn", "")]),
    ("a file by a relative link", &[(Symlink, "l", "UP"), (Regular, "l/pwn", "")]),
    ("a file by a link of a link", &[(Symlink, "a", "HOST"), (Symlink, "b", "a"), (Regular, "b/pwn", "")]),
    ("a file by a link to the root above", &[(Symlink, "l", "/"), (Regular, "l/HOST/pwn", "")]),
    (
        "a file by a link with dots",
        &[(Symlink, "l", "./../../../../../../../../../"), (Regular, "l/HOST/pwn", "")],
    ),
    ("a file over a link to a file", &[(Symlink, "l", "HOST/file"), (Regular, "l", "")]),
    ("a directory over a link", &[(Symlink, "l", "HOST"), (Directory, "l/", "")]),
    ("a directory below a link", &[(Symlink, "l", "HOST"), (Directory, "l/dir/", "")]),
    ("a directory through a link with a slash", &[(Symlink, "l", "HOST/"), (Directory, "l//dir/", "")]),
    ("a link below a link", &[(Symlink, "l", "HOST"), (Symlink, "l/file", "/etc/passwd")]),
    ("a hard link to an absolute name", &[(Link, "l", "HOST/file"), (Regular, "l", "")]),
    ("a hard link to a name with dots", &[(Link, "l", "UP/file"), (Regular, "l", "")]),
    ("a hard link by a link", &[(Symlink, "d", "HOST"), (Link, "l", "d/file"), (Regular, "l", "")]),
    ("a hard link to a link", &[(Symlink, "s", "HOST/file"), (Link, "l", "s"), (Regular, "l", "")]),
    ("a hard link below a link", &[(Regular, "own", ""), (Symlink, "d", "HOST"), (Link, "d/pwn", "own")]),
    (
        "a hard link to a directory by a link",
        &[(Symlink, "d", "HOST"), (Link, "l", "d"), (Regular, "l/pwn", "")],
    ),
    ("an absolute name", &[(Regular, "HOST/pwn", "")]),
    ("a name with dots", &[(Regular, "UP/pwn", "")]),
    ("a name with dots in the middle", &[(Directory, "d/", ""), (Regular, "d/../UP/pwn", "")]),
    ("an absolute name with dots", &[(Regular, "/UP/pwn", "")]),
    ("a directory with dots", &[(Directory, "UP/dir/", "")]),
    ("the parent itself", &[(Directory, "..", ""), (Directory, "../", "")]),
    ("a link with dots in its name", &[(Symlink, "UP/pwn", "/etc")]),
    ("a whiteout by a link", &[(Symlink, "l", "HOST"), (Regular, "l/.wh.file", "")]),
    ("an opaque mark by a link", &[(Symlink, "l", "HOST"), (Regular, "l/.wh..wh..opq", "")]),
    ("a whiteout with dots", &[(Regular, "UP/.wh.file", "")]),
    ("a whiteout of the parent", &[(Regular, ".wh...", ""), (Regular, "d/.wh..", "")]),
    ("a whiteout as a hard link", &[(Symlink, "l", "HOST"), (Link, "l/.wh.file", "/.wh.x")]),
    ("a device by a link", &[(Symlink, "l", "HOST"), (Char, "l/pwn", ""), (Block, "l/pwn2", "")]),
    ("a pipe by a link", &[(Symlink, "l", "HOST"), (Fifo, "l/pwn", "")]),
    ("a file into a pipe of ours", &[(Fifo, "p", ""), (Regular, "p", "")]),
    (
        "a directory that becomes a link",
        &[(Directory, "d/", ""), (Symlink, "d", "HOST"), (Regular, "d/pwn", "")],
    ),
    (
        "a directory that becomes a link later",
        &[(Regular, "d/a", ""), (Symlink, "d", "HOST"), (Regular, "d/b", "")],
    ),
    (
        "a link that becomes a directory",
        &[(Symlink, "d", "HOST"), (Directory, "d/", ""), (Regular, "d/pwn", "")],
    ),
    ("a file by /proc", &[(Symlink, "l", "/proc/self/root"), (Regular, "l/HOST/pwn", "")]),
    ("a file by the working directory", &[(Symlink, "l", "/proc/self/cwd"), (Regular, "l/pwn", "")]),
    ("a file by an open file", &[(Symlink, "l", "/proc/self/fd/3"), (Regular, "l/pwn", "")]),
    ("a link to itself", &[(Symlink, "l", "l"), (Regular, "l/pwn", "")]),
    ("links in a circle", &[(Symlink, "a", "b"), (Symlink, "b", "a"), (Regular, "a/pwn", "")]),
    ("a link out of the own directory", &[(Symlink, "l", "../../meta.json"), (Regular, "l", "")]),
    ("the trash beside it", &[(Symlink, "l", "../trash"), (Regular, "l/pwn", "")]),
];

#[test]
fn no_layer_touches_anything_outside() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: owners and devices need root");
        return;
    }
    let host = tempfile::tempdir().unwrap();
    fs::create_dir(host.path().join("dir")).unwrap();
    fs::set_permissions(host.path().join("dir"), fs::Permissions::from_mode(0o711)).unwrap();
    fs::write(host.path().join("file"), "host").unwrap();
    let before = picture(host.path());
    for (what, steps) in ATTACKS {
        let f = Fixture::new();
        let layer = archive(steps, host.path());
        let loaded = f.load(&Made::new(vec![layer]).docker_archive(&["evil"]));
        assert_eq!(picture(host.path()), before, "{what}: {loaded:?}");
        // What was written is below the layer's own `fs`, or is not there at all.
        for name in f.entries("layers") {
            let mut there: Vec<_> = fs::read_dir(f.store.root().join("layers").join(&name))
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect();
            there.sort();
            there.retain(|name| name != "recipe.zst");
            assert_eq!(there, ["fs", "meta.json"], "{what}");
        }
        assert_eq!(f.entries("tmp"), [""; 0], "{what}");
        assert!(!Path::new("pwn").exists(), "{what}");
    }
}
