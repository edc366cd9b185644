//! Archives that tar readers have disagreed about: each is unpacked as GNU tar unpacks it, or refused. A
//! reader that sees other entries than the next one is how a layer hides a file (CVE-2025-62518).

use std::{fs, path::Path, process::Command};

use tar::EntryType::{self, Block, Char, Continuous, Directory, Fifo, Link, Regular, Symlink};

use super::{Fixture, make::Made, tree::listing};

/// An archive made block by block, as crooked as wanted.
#[derive(Default)]
pub(super) struct Tar(Vec<u8>);

impl Tar {
    /// An entry whose header `change` has the last word on, but for the checksum.
    fn entry(
        mut self,
        kind: EntryType,
        name: &str,
        data: &[u8],
        change: impl FnOnce(&mut tar::Header),
    ) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if kind == Directory { 0o755 } else { 0o644 });
        header.set_uid(12);
        header.set_gid(34);
        header.set_mtime(1_500_000_000);
        header.set_size(data.len() as u64);
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        change(&mut header);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.raw(data)
    }

    fn raw(mut self, data: &[u8]) -> Self {
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, name: &str, data: &str) -> Self {
        self.entry(Regular, name, data.as_bytes(), |_| {})
    }

    pub(super) fn dir(self, name: &str) -> Self {
        self.entry(Directory, name, b"", |_| {})
    }

    pub(super) fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        self.entry(kind, name, b"", |header| {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        })
    }

    /// Of GNU's form: what follows in its data belongs to the next entry.
    fn gnu(self, kind: u8, data: &[u8]) -> Self {
        self.entry(EntryType::new(kind), "././@LongLink", data, |_| {})
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let text = records.iter().flat_map(|(key, value)| record(key, value)).collect::<Vec<_>>();
        self.records(b'x', &text)
    }

    /// PAX records, as they are.
    fn records(self, kind: u8, text: &[u8]) -> Self {
        self.entry(EntryType::new(kind), "PaxHeaders/x", text, |_| {})
    }

    /// With the two blocks that end it.
    pub(super) fn done(self) -> Vec<u8> {
        [self.0, vec![0; 1024]].concat()
    }
}

/// `<length> <key>=<value>\n`; the length counts itself.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest + 1..).find(|length| *length == rest + length.to_string().len()).unwrap();
    [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}

fn size(header: &mut tar::Header, text: &[u8; 12]) {
    header.as_old_mut().size = *text;
}

/// The old sparse form: a hole, `data`, and the size in all.
fn sparse(tar: Tar, name: &str, data: &[u8], hole: u64, all: u64) -> Tar {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_size(data.len() as u64);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.sparse[0].offset[..11].copy_from_slice(format!("{hole:011o}").as_bytes());
    gnu.sparse[0].numbytes[..11].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
    if hole == 0 {
        // A hole at the end is a region of nothing there.
        gnu.sparse[1].offset[..11].copy_from_slice(format!("{all:011o}").as_bytes());
        gnu.sparse[1].numbytes[..11].copy_from_slice(b"00000000000");
    }
    gnu.realsize[..11].copy_from_slice(format!("{all:011o}").as_bytes());
    header.set_cksum();
    Tar([tar.0, header.as_bytes().to_vec()].concat()).raw(data)
}

/// What GNU tar and we make of an archive.
enum Ends {
    Alike,
    BothRefuse,
    /// It guesses, or warns and goes on; we do not.
    WeRefuse(&'static str),
}
use Ends::{Alike, BothRefuse, WeRefuse};

macro_rules! tars {
    ($($name:ident: $tar:expr => $ends:expr;)*) => {
        pub(super) const COUNT: usize = [$(stringify!($name)),*].len();
        $(#[test]
        fn $name() {
            check(stringify!($name), &$tar, &$ends);
        })*
    };
}

fn cut(mut bytes: Vec<u8>, length: usize) -> Vec<u8> {
    bytes.truncate(length);
    bytes
}

fn long(part: char, length: usize) -> String {
    part.to_string().repeat(length)
}

tars! {
    nothing_but_its_end: Tar::default().done() => Alike;
    one_block_of_zeros: vec![0; 512] => Alike;
    no_end: Tar::default().file("a", "1").0 => Alike;
    one_block_for_its_end: Tar::default().file("a", "1").raw(&[0; 512]).0 => Alike;
    noise_behind_its_end: [Tar::default().file("a", "1").done(), vec![b'x'; 3000]].concat() => Alike;
    an_entry_behind_one_block_of_zeros: Tar::default().file("a", "1").raw(&[0; 512]).file("b", "2").done()
        => Alike;
    an_entry_behind_its_end: [Tar::default().file("a", "1").done(), Tar::default().file("b", "2").done()].concat()
        => Alike;
    every_kind: Tar::default()
        .dir("d/")
        .file("d/file", "x")
        .link(Symlink, "symbolic", "d/file")
        .link(Symlink, "dangling", "/nowhere/at/all")
        .link(Link, "hard", "d/file")
        .entry(Fifo, "fifo", b"", |_| {})
        .entry(Char, "null", b"", |h| {
            h.set_device_major(1).unwrap();
            h.set_device_minor(3).unwrap();
        })
        .entry(Block, "disk", b"", |h| {
            h.set_device_major(259).unwrap();
            h.set_device_minor(70_000).unwrap();
        })
        .entry(Continuous, "continuous", b"y", |_| {})
        .done() => Alike;
    the_form_of_version_7: Tar::default()
        .entry(EntryType::new(0), "file", b"x", |h| h.as_old_mut().pad = [0; 255])
        .entry(EntryType::new(0), "dir/", b"", |h| {
            h.as_old_mut().pad = [0; 255];
            h.set_mode(0o755);
        })
        .done() => Alike;
    a_file_with_a_slash_at_its_end: Tar::default().entry(Regular, "dir/", b"", |h| h.set_mode(0o755)).done() => Alike;
    a_prefix: Tar::default()
        .dir(&long('d', 60))
        .entry(Regular, "leaf", b"x", |h| {
            h.as_ustar_mut().unwrap().prefix[..60].copy_from_slice(long('d', 60).as_bytes());
        })
        .done() => Alike;
    names_of_100_bytes: Tar::default()
        .file(&long('a', 100), "1")
        .link(Symlink, "to", &long('a', 100))
        .done() => Alike;
    long_names_of_gnu: Tar::default()
        .gnu(b'L', format!("{}\0", long('n', 200)).as_bytes())
        .file("short", "x")
        .gnu(b'K', format!("{}\0", long('t', 300)).as_bytes())
        .gnu(b'L', format!("{}\0", long('l', 150)).as_bytes())
        .link(Symlink, "short", "short")
        .done() => Alike;
    a_long_name_without_a_zero: Tar::default().gnu(b'L', long('n', 200).as_bytes()).file("short", "x").done() => Alike;
    a_long_name_with_zeros_in_it: Tar::default().gnu(b'L', b"one\0two\0").file("short", "x").done() => Alike;
    a_long_name_twice: Tar::default()
        .gnu(b'L', b"first\0").gnu(b'L', b"second\0").file("short", "x").done() => WeRefuse("two extended headers");
    a_long_name_of_nothing: Tar::default().file("a", "1").gnu(b'L', b"lost\0").done()
        => WeRefuse("describes a further entry");
    names_in_pax: Tar::default()
        .pax(&[("path", long('n', 200).as_bytes())])
        .file("short", "x")
        .pax(&[("linkpath", long('t', 300).as_bytes()), ("path", "l\u{ef}nk\nline".as_bytes())])
        .link(Symlink, "short", "short")
        .done() => Alike;
    names_that_are_no_text: Tar::default().pax(&[("path", b"odd\xff\xfe")]).file("short", "x").done() => Alike;
    a_name_of_both_kinds: Tar::default()
        .gnu(b'L', b"of-gnu\0").pax(&[("path", b"of-pax")]).file("short", "x").done() => Alike;
    a_name_of_both_kinds_in_the_other_order: Tar::default()
        .pax(&[("path", b"of-pax")]).gnu(b'L', b"of-gnu\0").file("short", "x").done() => Alike;
    a_name_with_a_zero_in_pax: Tar::default().pax(&[("path", b"a\0b")]).file("short", "x").done()
        => WeRefuse("NUL");
    a_size_in_pax_where_the_header_has_none: Tar::default()
        .pax(&[("size", b"5")]).entry(Regular, "a", b"12345", |h| size(h, b"00000000000\0")).file("b", "2").done()
        => Alike;
    a_size_in_pax_smaller_than_the_header_s: Tar::default()
        .pax(&[("size", b"0")])
        .entry(Regular, "outer", b"", |h| size(h, b"00000001000\0"))
        .file("inner", "")
        .done() => Alike;
    a_size_in_pax_larger_than_the_header_s: Tar::default()
        .pax(&[("size", b"512")])
        .entry(Regular, "outer", b"", |_| {})
        .entry(Regular, "hidden", b"", |_| {})
        .file("after", "x")
        .done() => Alike;
    a_size_in_pax_for_a_directory: Tar::default()
        .pax(&[("size", b"512")]).dir("d/").file("d/after", "x").done() => Alike;
    a_hard_link_with_a_size: Tar::default()
        .file("a", "1")
        .entry(Link, "b", b"", |h| {
            h.as_old_mut().linkname[0] = b'a';
            size(h, b"00000001000\0");
        })
        .file("c", "3")
        .done() => Alike;
    a_negative_size: Tar::default().entry(Regular, "a", b"", |h| size(h, &[0xff; 12])).done() => BothRefuse;
    a_size_beyond_the_archive: Tar::default().entry(Regular, "a", b"x", |h| size(h, b"77777777777\0")).done()
        => BothRefuse;
    a_size_that_is_no_number: Tar::default().entry(Regular, "a", b"", |h| size(h, b"12x4567890a\0")).done()
        => BothRefuse;
    large_owners_in_base_256: Tar::default().entry(Regular, "a", b"x", |h| {
        h.as_old_mut().uid = [0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xfe];
        h.as_old_mut().gid = [0x80, 0, 0, 0, 0, 0x20, 0, 1];
    }).done() => Alike;
    large_owners_in_pax: Tar::default()
        .pax(&[("uid", b"2147483646"), ("gid", b"2097153")]).file("a", "x").done() => Alike;
    times_in_pax: Tar::default()
        .pax(&[("mtime", b"1234567890.123456789")]).file("a", "x")
        .pax(&[("mtime", b"-1.5")]).file("b", "x").done() => Alike;
    a_time_in_base_256: Tar::default().entry(Regular, "a", b"x", |h| {
        h.as_old_mut().mtime = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x9c];
    }).done() => Alike;
    no_time: Tar::default().entry(Regular, "a", b"x", |h| h.as_old_mut().mtime = [0; 12]).done() => Alike;
    records_of_nobody: Tar::default()
        .pax(&[("comment", b"x"), ("VENDOR.thing", b"a=b\nc"), ("LIBARCHIVE.creationtime", b"1")])
        .file("a", "x").done() => Alike;
    records_for_all: Tar::default().records(b'g', &record("comment", b"made by hand")).file("a", "x").done() => Alike;
    attributes_in_pax: Tar::default()
        .pax(&[("SCHILY.xattr.user.note", b"a\nb=\0c"), ("SCHILY.xattr.user.empty", b"")])
        .file("a", "x").done() => Alike;
    a_record_without_its_end: Tar::default().records(b'x', b"12 path=hide").file("a", "x").done()
        => WeRefuse("PAX record is malformed");
    a_record_longer_than_all: Tar::default().records(b'x', b"99 path=hidden\n").file("a", "x").done()
        => WeRefuse("PAX record is malformed");
    a_record_without_a_length: Tar::default().records(b'x', b"path=hidden\n").file("a", "x").done()
        => WeRefuse("PAX record");
    records_twice: Tar::default()
        .pax(&[("path", b"first")]).pax(&[("path", b"second")]).file("a", "x").done() => WeRefuse("two extended headers");
    records_of_nothing: Tar::default().file("a", "1").pax(&[("path", b"lost")]).done()
        => WeRefuse("describes a further entry");
    records_larger_than_a_mebibyte: Tar::default().pax(&[("comment", &[b'x'; 2 << 20])]).file("a", "x").done()
        => WeRefuse("larger than 1 MiB");
    a_hole_and_data: sparse(Tar::default(), "a", b"data", 8192, 8196).file("b", "x").done() => Alike;
    a_hole_at_the_end: sparse(Tar::default(), "a", b"data", 0, 100_000).file("b", "x").done() => Alike;
    data_behind_the_end_of_a_sparse_file: sparse(Tar::default(), "a", b"data", 8192, 10).done()
        => WeRefuse("sparse");
    a_wrong_checksum_first: {
        let mut bytes = Tar::default().file("a", "1").done();
        bytes[0] ^= 1;
        bytes
    } => BothRefuse;
    a_wrong_checksum_later: {
        let mut bytes = Tar::default().file("a", "1").file("b", "2").done();
        bytes[1024] ^= 1;
        bytes
    } => BothRefuse;
    cut_within_a_header: cut(Tar::default().file("a", "1").file("b", "2").done(), 1300) => WeRefuse("within a header");
    cut_within_a_file: cut(Tar::default().file("a", &long('x', 4000)).done(), 2000) => BothRefuse;
    an_unknown_kind: Tar::default().entry(EntryType::new(b'Z'), "a", b"x", |_| {}).done()
        => WeRefuse("unknown kind");
    an_empty_name: Tar::default().entry(Regular, "", b"x", |_| {}).done() => BothRefuse;
    a_part_of_256_bytes: Tar::default().pax(&[("path", long('n', 256).as_bytes())]).file("a", "x").done()
        => BothRefuse;
    a_hard_link_to_nothing: Tar::default().link(Link, "a", "missing").done() => BothRefuse;
    a_directory_twice: Tar::default()
        .dir("d/").file("d/x", "1").entry(Directory, "d/", b"", |h| h.set_mode(0o700)).done() => Alike;
    a_file_twice: Tar::default().file("a", "first, and longer").file("a", "second").done() => Alike;
    a_file_in_place_of_a_link: Tar::default()
        .file("a", "1").link(Symlink, "b", "a").file("b", "2").done() => Alike;
    a_read_only_directory: Tar::default()
        .entry(Directory, "d/", b"", |h| h.set_mode(0o555)).file("d/x", "1").done() => Alike;
    set_user_id: Tar::default().entry(Regular, "a", b"x", |h| h.set_mode(0o6755)).done() => Alike;
    dots_in_names: Tar::default().dir("./").dir("./d/").file("./d/./x", "1").done() => Alike;
}

fn check(what: &str, archive: &[u8], ends: &Ends) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: owners need root");
        return;
    }
    let f = Fixture::new();
    let path = f.file("layer.tar", archive);
    let theirs = gnu(&path);
    let ours = f.load(&Made::new(vec![archive.to_vec()]).docker_archive(&["tar"]));
    let tree = |f: &Fixture| listing(&f.store.find(&"tar".parse().unwrap()).unwrap().unwrap().layers[0].path);
    match (ends, ours, theirs) {
        (Alike, Ok(_), Ok(theirs)) => assert_eq!(tree(&f), theirs, "{what}"),
        (BothRefuse, Err(_), Err(_)) => {}
        (WeRefuse(why), Err(error), Ok(_) | Err(_)) => {
            assert!(error.to_string().contains(why), "{what}: {error}");
        }
        (_, ours, theirs) => panic!("{what}: {ours:?}, and GNU tar: {theirs:?}"),
    }
}

/// The tree that GNU tar unpacks, or what it says.
fn gnu(archive: &Path) -> Result<String, String> {
    let into = tempfile::tempdir().unwrap();
    let done = Command::new("tar")
        .args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"])
        .arg(archive)
        .arg("-C")
        .arg(into.path())
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    fs::set_permissions(into.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    if done.status.success() { Ok(listing(into.path())) } else { Err(said) }
}
