//! The behaviour table of layers, and attacks with a sentinel tree beside the layer.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::*;
use crate::image::tarout::xattrs;

/// A tar made entry by entry, as crooked as wanted.
#[derive(Default)]
struct Layer(Vec<u8>);

impl Layer {
    fn header(mut self, kind: EntryType, path: &str, link: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        {
            let old = header.as_old_mut();
            old.name[..path.len()].copy_from_slice(path.as_bytes());
            old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1);
        header.set_gid(2);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.raw(data)
    }

    fn raw(mut self, data: &[u8]) -> Self {
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, data: &str) -> Self {
        self.header(EntryType::Regular, path, "", 0o644, data.as_bytes())
    }

    fn dir(self, path: &str, mode: u32) -> Self {
        self.header(EntryType::Directory, path, "", mode, b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.header(EntryType::Symlink, path, target, 0o777, b"")
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.header(EntryType::Link, path, target, 0o644, b"")
    }

    /// PAX records for the entry that follows.
    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest + 1..).find(|length| *length == rest + length.to_string().len()).unwrap();
            text.extend([length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat());
        }
        self.header(EntryType::XHeader, "pax", "", 0o644, &text)
    }

    fn unpack(&self) -> (Place, Result<Facts, String>) {
        self.unpack_within(Limits::default())
    }

    fn unpack_within(&self, limits: Limits) -> (Place, Result<Facts, String>) {
        let place = Place::new();
        let open = |name: &str| OwnedFd::from(fs::File::open(place.dir.path().join(name)).unwrap());
        let bytes = [self.0.as_slice(), &[0; 1024]].concat();
        let result = untar(bytes.as_slice(), &open("fs"), &open("trash"), limits, None);
        assert_eq!(place.sentinel(), place.before, "something beside the layer has changed");
        assert_eq!(fs::read_dir(place.dir.path().join("trash")).unwrap().count(), 0);
        (place, result.map_err(|error| error.to_string()))
    }

    fn works(&self) -> Place {
        let (place, result) = self.unpack();
        result.unwrap();
        place
    }

    fn refused(&self, why: &str) {
        let (place, result) = self.unpack();
        let error = result.unwrap_err();
        assert!(error.contains(why), "{error}\n{:?}", tree(&place.fs("")));
    }
}

/// A root to unpack into, and a host tree beside it that must stay as it is.
struct Place {
    dir: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["fs", "trash", "host", "host/dir"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("host/file"), "sentinel").unwrap();
        let mut place = Self { dir, before: BTreeMap::new() };
        place.before = place.sentinel();
        place
    }

    fn fs(&self, path: &str) -> PathBuf {
        self.dir.path().join("fs").join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.fs(path)).unwrap()
    }

    fn stat(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.fs(path)).unwrap()
    }

    fn is_whiteout(&self, path: &str) -> bool {
        let stat = self.stat(path);
        stat.file_type().is_char_device() && stat.rdev() == 0
    }

    fn is_opaque(&self, path: &str) -> bool {
        xattrs(&self.fs(path)).unwrap().contains(&(b"trusted.overlay.opaque".to_vec(), b"y".to_vec()))
    }

    /// Content, mode and owner of all that the layer must not touch.
    fn sentinel(&self) -> BTreeMap<PathBuf, String> {
        let mut found = tree(&self.dir.path().join("host"));
        let names: Vec<_> =
            fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        found.insert("names".into(), format!("{}", names.len()));
        found
    }
}

fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let content = if stat.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        found.insert(
            path.clone(),
            format!("{:o} {} {} {}", stat.mode(), stat.uid(), stat.mtime_nsec(), content.escape_ascii()),
        );
        if stat.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: owners and whiteouts need root");
    }
    root
}

#[test]
fn the_ordinary_kinds_keep_mode_owner_and_time() {
    if !root() {
        return;
    }
    let place = Layer::default()
        .dir("./", 0o755)
        .dir("./bin/", 0o755)
        .header(EntryType::Regular, "./bin/su", "", 0o4755, b"program")
        .symlink("bin/sh", "su")
        .link("bin/alias", "bin/su")
        .header(EntryType::Fifo, "pipe", "", 0o600, b"")
        .dir("tmp", 0o1777)
        .works();
    assert_eq!(place.read("bin/su"), "program");
    let stat = place.stat("bin/su");
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o4755, 1, 2));
    assert_eq!(stat.nlink(), 2);
    assert_eq!(stat.ino(), place.stat("bin/alias").ino());
    assert_eq!(fs::read_link(place.fs("bin/sh")).unwrap(), Path::new("su"));
    assert!(place.stat("pipe").file_type().is_fifo());
    assert_eq!(place.stat("tmp").mode() & 0o7777, 0o1777);
    for path in ["bin", "bin/su", "bin/sh", "pipe", ""] {
        assert_eq!(place.stat(path).mtime(), 1_000_000_000, "{path}");
    }
    assert_eq!(place.stat("bin/sh").uid(), 1);
}

#[test]
fn symbolic_links_to_directories_lead_within_the_layer() {
    if !root() {
        return;
    }
    let place = Layer::default()
        .dir("usr", 0o755)
        .dir("usr/lib", 0o755)
        .symlink("lib", "usr/lib")
        .file("lib/relative", "1")
        .symlink("lib64", "/usr/lib")
        .file("lib64/absolute", "2")
        .symlink("up", "../../../usr/lib")
        .file("up/clamped", "3")
        .works();
    assert_eq!(place.read("usr/lib/relative"), "1");
    assert_eq!(place.read("usr/lib/absolute"), "2");
    assert_eq!(place.read("usr/lib/clamped"), "3");
}

#[test]
fn a_link_to_a_directory_of_the_layers_below_is_followed_too() {
    if !root() {
        return;
    }
    let (place, facts) = Layer::default().symlink("lib", "usr/lib").file("lib/x", "1").unpack();
    assert_eq!(place.read("usr/lib/x"), "1");
    assert_eq!(facts.unwrap().implied.into_iter().collect::<Vec<_>>(), ["usr", "usr/lib"]);
}

#[test]
fn nothing_is_written_through_a_link_that_leads_out() {
    if !root() {
        return;
    }
    let host = tempfile::tempdir().unwrap();
    let target = host.path().to_str().unwrap();
    let place = Layer::default().symlink("esc", target).file("esc/pwn", "x").works();
    // It leads to the same name within the layer.
    assert_eq!(place.read(&format!("{}/pwn", &target[1..])), "x");
    assert_eq!(fs::read_dir(host.path()).unwrap().count(), 0);
    Layer::default().symlink("esc", "../host").file("esc/../../host/pwn", "x").refused("leads out");
    let place = Layer::default().symlink("esc", "../host/file").file("esc", "mine").works();
    assert_eq!(place.read("esc"), "mine");
    Layer::default().symlink("a", "b").symlink("b", "a").file("a/x", "").refused("no directory");
    let place = Layer::default().symlink("a", "/proc/self/root").file("a/etc/ficelle-pwn", "x").works();
    assert!(!Path::new("/etc/ficelle-pwn").exists());
    assert_eq!(place.read("proc/self/root/etc/ficelle-pwn"), "x");
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["../x", "a/../../x", "/../x", "./../../host/file", "..", "a/b/../../../x"] {
        Layer::default().file(name, "x").refused("leads out");
        Layer::default().dir(name, 0o755).refused("leads out");
        Layer::default().symlink(name, "x").refused("leads out");
    }
    Layer::default().file("x", "").link("y", "../host/file").refused("leads out");
    Layer::default().file("../.wh.file", "").refused("leads out");
    Layer::default().file("../host/.wh..wh..opq", "").refused("leads out");
}

#[test]
fn names_may_be_absolute_and_hold_dots() {
    if !root() {
        return;
    }
    let place = Layer::default()
        .file("/etc0", "1")
        .link("/etc1", "/etc0")
        .dir("/a", 0o755)
        .file("/a/./b/../c", "2")
        .file("a//d", "3")
        .works();
    assert_eq!(place.read("etc1"), "1");
    assert_eq!(place.read("a/c"), "2");
    assert_eq!(place.read("a/d"), "3");
}

#[test]
fn hard_links_lead_only_to_files_of_the_layer() {
    if !root() {
        return;
    }
    Layer::default().link("x", "missing").refused("not in the layer");
    Layer::default().dir("d", 0o755).link("x", "d").refused("hard link to a directory");
    Layer::default().link("x", "/").refused("root directory");
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("file"), "host").unwrap();
    let target = host.path().join("file");
    Layer::default().link("x", target.to_str().unwrap()).refused("not in the layer");
    Layer::default()
        .symlink("esc", host.path().to_str().unwrap())
        .link("x", "esc/file")
        .refused("not in the layer");
    // A link to a symbolic link is a link to it, not to what it leads to.
    let place = Layer::default().symlink("s", target.to_str().unwrap()).link("x", "s").works();
    assert!(place.stat("x").is_symlink());
    assert_eq!(fs::metadata(&target).unwrap().nlink(), 1);
    let place = Layer::default().file("x", "kept").link("x", "x").works();
    assert_eq!(place.read("x"), "kept");
}

#[test]
fn a_later_entry_takes_the_place_of_an_earlier_one() {
    if !root() {
        return;
    }
    let place = Layer::default()
        .dir("d", 0o755)
        .file("d/inner", "x")
        .file("d", "now a file")
        .file("f", "x")
        .dir("f", 0o700)
        .file("f/inner", "y")
        .dir("real", 0o755)
        .file("real/kept", "k")
        .symlink("l", "real")
        .dir("l", 0o755)
        .file("l/own", "z")
        .symlink("s", "/nowhere")
        .file("s", "file now")
        .file("twice", "first")
        .file("twice", "second")
        .dir("real", 0o711)
        .works();
    assert_eq!(place.read("d"), "now a file");
    assert_eq!(place.read("f/inner"), "y");
    assert!(place.stat("l").is_dir());
    assert_eq!(place.read("l/own"), "z");
    assert!(!place.fs("real/own").exists());
    assert_eq!(place.read("s"), "file now");
    assert_eq!(place.read("twice"), "second");
    assert_eq!(place.read("real/kept"), "k", "a directory again is the same directory");
    assert_eq!(place.stat("real").mode() & 0o777, 0o711);
}

#[test]
fn writing_again_does_not_write_into_a_hard_link() {
    if !root() {
        return;
    }
    let place = Layer::default().file("a", "one").link("b", "a").file("b", "two").works();
    assert_eq!((place.read("a"), place.read("b")), ("one".into(), "two".into()));
}

#[test]
fn missing_parents_are_made_and_remembered() {
    if !root() {
        return;
    }
    let (place, facts) =
        Layer::default().file("var/lib/app/x", "1").dir("var", 0o750).file("tmp/y", "2").unpack();
    let facts = facts.unwrap();
    assert_eq!(place.stat("var").mode() & 0o777, 0o750);
    assert_eq!(place.stat("var/lib").mode() & 0o777, 0o755);
    assert_eq!(facts.implied.into_iter().collect::<Vec<_>>(), ["tmp", "var/lib", "var/lib/app"]);
    assert_eq!(facts.size, 2);
}

#[test]
fn a_file_is_no_parent() {
    if !root() {
        return;
    }
    Layer::default().file("a", "x").file("a/b", "y").refused("no directory");
}

#[test]
fn whiteouts_become_those_of_overlayfs() {
    if !root() {
        return;
    }
    let place = Layer::default()
        .dir("etc", 0o755)
        .file("etc/.wh.gone", "")
        .dir("var", 0o755)
        .file("var/.wh..wh..opq", "")
        .file("var/new", "x")
        .file(".wh.top", "")
        .file("base", "")
        .link("etc/.wh.linked", "base")
        .link("opt/.wh..wh..opq", "base")
        .file(".wh..wh.plnk", "")
        .file(".wh..wh.aufs", "")
        .works();
    for path in ["etc/gone", "top", "etc/linked"] {
        assert!(place.is_whiteout(path), "{path}");
    }
    assert!(place.is_opaque("var") && place.is_opaque("opt"));
    assert_eq!(place.read("var/new"), "x");
    let names: Vec<_> = fs::read_dir(place.fs("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().starts_with(".wh.")), "{names:?}");
}

#[test]
fn a_whiteout_hides_nothing_of_its_own_layer() {
    if !root() {
        return;
    }
    let place = Layer::default()
        .file("before", "kept")
        .file(".wh.before", "")
        .file(".wh.after", "")
        .file("after", "kept")
        .dir("d", 0o755)
        .file("d/x", "kept")
        .file(".wh.d", "")
        .file(".wh.e", "")
        .dir("e", 0o755)
        .file("e/x", "kept")
        .works();
    for path in ["before", "after", "d/x", "e/x"] {
        assert_eq!(place.read(path), "kept");
    }
    // What is below is gone all the same.
    assert!(place.is_opaque("d") && place.is_opaque("e"));
}

#[test]
fn an_opaque_root_is_told() {
    if !root() {
        return;
    }
    let (_, facts) = Layer::default().file(".wh..wh..opq", "").file("x", "").unpack();
    assert!(facts.unwrap().opaque_root);
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    if !root() {
        return;
    }
    for name in [".wh.", ".wh..", ".wh...", "a/.wh."] {
        Layer::default().file(name, "").refused("names nothing");
    }
}

#[test]
fn extended_attributes_are_set_but_for_those_of_overlayfs() {
    if !root() {
        return;
    }
    let capability = [1, 0, 0, 2, 0, 4, b'\n', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let place = Layer::default()
        .pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.empty", b""),
            ("SCHILY.xattr.user.note", b"a=b\nc"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.origin", b"x"),
        ])
        .header(EntryType::Regular, "ping", "", 0o755, b"x")
        .works();
    assert_eq!(
        xattrs(&place.fs("ping")).unwrap(),
        [
            (b"security.capability".to_vec(), capability.to_vec()),
            (b"user.empty".to_vec(), Vec::new()),
            (b"user.note".to_vec(), b"a=b\nc".to_vec()),
        ]
    );
}

#[test]
fn pax_records_win_over_the_header() {
    if !root() {
        return;
    }
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let place = Layer::default()
        .pax(&[("path", long.as_bytes()), ("uid", b"3000000"), ("mtime", b"1.25"), ("size", b"3")])
        .header(EntryType::Regular, "short", "", 0o644, b"")
        .raw(b"abc")
        .file("next", "n")
        .works();
    assert_eq!(place.read(&long), "abc");
    assert_eq!(place.stat(&long).uid(), 3_000_000);
    assert_eq!((place.stat(&long).mtime(), place.stat(&long).mtime_nsec()), (1, 250_000_000));
    assert_eq!(place.read("next"), "n");
}

#[test]
fn names_and_ids_have_bounds() {
    if !root() {
        return;
    }
    let part = "p".repeat(256);
    Layer::default().pax(&[("path", part.as_bytes())]).file("x", "").refused("255 bytes");
    let deep = "d/".repeat(2100);
    Layer::default().pax(&[("path", deep.as_bytes())]).file("x", "").refused("4096 bytes");
    Layer::default().pax(&[("path", b"a\0b")]).file("x", "").refused("NUL");
    for id in ["4294967295", "4294967296", "18446744073709551615"] {
        Layer::default().pax(&[("uid", id.as_bytes())]).file("x", "").refused("owner out of range");
        Layer::default().pax(&[("gid", id.as_bytes())]).symlink("x", "y").refused("owner out of range");
    }
    Layer::default().pax(&[("uid", b"-1")]).file("x", "").refused("no number");
    let huge = vec![b'a'; 1 << 20];
    Layer::default().pax(&[("comment", &huge)]).file("x", "").refused("larger than 1 MiB");
}

#[test]
fn devices_are_made_within_their_range() {
    if !root() {
        return;
    }
    let device = |major, minor| {
        let mut layer = Layer::default();
        let mut header = tar::Header::new_ustar();
        header.set_path("dev0").unwrap();
        header.set_entry_type(EntryType::Char);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        header.set_cksum();
        layer.0.extend(header.as_bytes());
        layer
    };
    let place = device(1, 3).works();
    assert_eq!(place.stat("dev0").rdev(), rustix::fs::makedev(1, 3));
    device(1 << 12, 0).refused("out of range");
    device(1, 1 << 20).refused("out of range");
}

#[test]
fn sparse_files_have_their_holes_back() {
    if !root() {
        return;
    }
    let mut map = b"2\n0\n3\n8192\n2\n".to_vec();
    map.resize(512, 0);
    map.extend(b"abcyz");
    let place = Layer::default()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"holes"),
            ("GNU.sparse.realsize", b"10000"),
        ])
        .header(EntryType::Regular, "GNUSparseFile.0/holes", "", 0o644, &map)
        .pax(&[("GNU.sparse.size", b"6000"), ("GNU.sparse.map", b"5000,2")])
        .header(EntryType::Regular, "older", "", 0o644, b"hi")
        .file("next", "n")
        .works();
    let content = fs::read(place.fs("holes")).unwrap();
    assert_eq!(content.len(), 10_000);
    assert_eq!((&content[..3], &content[8192..8194]), (b"abc".as_slice(), b"yz".as_slice()));
    assert!(content[3..8192].iter().chain(&content[8194..]).all(|byte| *byte == 0));
    let older = fs::read(place.fs("older")).unwrap();
    assert_eq!((older.len(), &older[5000..5002]), (6000, b"hi".as_slice()));
    assert_eq!(place.read("next"), "n");
    for map in ["5000,3", "5999,2", "7,2,6,0", "1"] {
        Layer::default()
            .pax(&[("GNU.sparse.size", b"6000"), ("GNU.sparse.map", map.as_bytes())])
            .header(EntryType::Regular, "bad", "", 0o644, b"hi")
            .refused("");
    }
}

#[test]
fn limits_are_kept() {
    if !root() {
        return;
    }
    let limits = Limits { entries: 3, bytes: 10 };
    let error = |layer: Layer| layer.unpack_within(limits).1.unwrap_err();
    assert!(
        error(Layer::default().file("a", "").file("b", "").file("c", "").file("d", "")).contains("3 entries")
    );
    assert!(error(Layer::default().file("a", "123456").file("b", "78901")).contains("10 bytes"));
    let holes = Layer::default()
        .pax(&[("GNU.sparse.size", b"9000000000000000000"), ("GNU.sparse.map", b"0,1")])
        .file("x", "1");
    assert!(error(holes).contains("10 bytes"));
}

#[test]
fn what_stands_where_a_whiteout_was_has_lost_no_content() {
    let replaced = |layer: Layer| layer.unpack().1.unwrap().replaced;
    assert!(!replaced(Layer::default().file(".wh.x", "").file("x", "1").file(".wh.d", "").dir("d", 0o755)));
    assert!(replaced(Layer::default().file("x", "1").file("x", "2")));
    // `d/x` is no name of that content any more.
    assert!(replaced(Layer::default().dir("e", 0o755).symlink("d", "e").file("d/x", "1").dir("d", 0o755)));
}

#[test]
fn a_very_deep_tree_can_be_replaced() {
    if !root() {
        return;
    }
    // Each link makes the next directory a thousand deeper than a path can say.
    let deep = "d/".repeat(45);
    let mut layer = Layer::default().dir("top", 0o755).symlink("l0", "top");
    for level in 0..40 {
        let name = format!("l{level}/{deep}");
        layer = layer.dir(&name, 0o755);
        let next = format!("l{level}/{}d", "d/".repeat(44));
        layer = layer.pax(&[("linkpath", next.as_bytes())]).symlink(&format!("l{}", level + 1), "x");
    }
    let place = layer.file("top", "flat").works();
    assert_eq!(place.read("top"), "flat");
}

#[test]
fn damaged_archives_are_refused() {
    let whole = Layer::default().file("a", "content").0;
    let cut = |length: usize| {
        let place = Place::new();
        let open = |name: &str| OwnedFd::from(fs::File::open(place.dir.path().join(name)).unwrap());
        untar(&whole[..length], &open("fs"), &open("trash"), Limits::default(), None)
            .map_err(|e| e.to_string())
    };
    assert!(cut(100).unwrap_err().contains("within a header"));
    if root() {
        assert!(cut(515).unwrap_err().contains("within an entry"));
    }
    let mut damaged = whole;
    damaged[0] ^= 1;
    Layer(damaged).refused("checksum");
    Layer::default().header(EntryType::new(b'q'), "x", "", 0o644, b"").refused("unknown kind `q`");
    Layer::default().pax(&[("uid", b"1")]).refused("describes a further entry");
    Layer::default()
        .pax(&[("uid", b"1")])
        .pax(&[("uid", b"2")])
        .file("x", "")
        .refused("two extended headers");
}
