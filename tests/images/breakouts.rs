//! The ways out of a layer that containerd tests (`TestBreakouts`), each told anew as archives of our own: a lower
//! layer, the layer that tries, and what the two show together. Where containerd unpacks upon the layers below and
//! we unpack each layer by itself, a hard link to what only they have is refused.

use std::{fs, io::Read, os::unix::fs::MetadataExt, path::Path};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use tar::EntryType::{Link, Symlink};

use super::{Fixture, Mounted, hostile::picture, make::Made, tars::Tar};

enum Ends {
    /// Both names lead to the same file, links followed.
    Same(&'static str, &'static str),
    /// What a file holds, links followed.
    Reads(&'static [(&'static str, &'static str)]),
    /// A file is not there, another holds this.
    Gone(&'static str, &'static str, &'static str),
    Refused(&'static str),
}
use Ends::{Gone, Reads, Refused, Same};

type Row = (&'static str, fn(Tar) -> Tar, fn(Tar) -> Tar, Ends);

fn nothing(tar: Tar) -> Tar {
    tar
}

fn passwd(tar: Tar) -> Tar {
    tar.dir("etc/").file("/etc/passwd", "inside")
}

fn passwd_and_link(tar: Tar) -> Tar {
    passwd(tar).link(Symlink, "localetc", "/etc")
}

fn passwd_and_directory(tar: Tar) -> Tar {
    passwd(tar).dir("localetc/")
}

/// Outside, where an archive can name it.
const FILE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/breakout/file");

const UNBROKEN: Ends = Reads(&[("etc/unbroken", "unbroken")]);
const UNTOUCHED: &[(&str, &str)] = &[("etc/passwd", "inside")];
const LOCAL: Ends = Same("localpasswd", "etc/passwd");
const BELOW: Ends = Refused("is a hard link to `etc/passwd`, which is not in the layer");
const NAMELESS: Ends = Refused("names nothing");

const ROWS: [Row; 34] = [
    (
        "a symbolic link, absolute",
        nothing,
        |t| t.dir("etc").link(Symlink, "localetc", "/etc").file("/localetc/unbroken", "unbroken"),
        UNBROKEN,
    ),
    (
        "a symbolic link, up and down again",
        nothing,
        |t| {
            let t = t.dir("etc").dir("dummy").link(Symlink, "localetc", "/dummy/../etc");
            t.file("/localetc/unbroken", "unbroken")
        },
        UNBROKEN,
    ),
    (
        "two symbolic links, absolute",
        nothing,
        |t| {
            let t = t.dir("etc").dir("dummy").link(Symlink, "/dummy/etc", "/etc");
            t.link(Symlink, "localetc", "/dummy/etc").file("/localetc/unbroken", "unbroken")
        },
        UNBROKEN,
    ),
    (
        "two symbolic links, relative",
        nothing,
        |t| {
            let t = t.dir("etc").dir("dummy").link(Symlink, "/dummy/etc", "/etc");
            t.link(Symlink, "localetc", "./dummy/etc").file("/dummy/etc/unbroken", "unbroken")
        },
        UNBROKEN,
    ),
    (
        "a file emptied by a symbolic link",
        nothing,
        |t| {
            let t = t.dir("etc").file("etc/emptied", "notempty").link(Symlink, "localetc", "/etc");
            t.file("/localetc/emptied", "")
        },
        Reads(&[("etc/emptied", "")]),
    ),
    (
        "a hard link by a relative link",
        nothing,
        |t| {
            let t = passwd(t).dir("breakouts").link(Symlink, "breakouts/d1", "../../etc");
            t.link(Link, "breakouts/mypasswd", "/breakouts/d1/passwd")
        },
        Same("breakouts/mypasswd", "etc/passwd"),
    ),
    (
        "a hard link by a link down and out",
        nothing,
        |t| {
            let t = passwd(t).dir("breakouts").dir("downandout");
            let t = t.link(Symlink, "breakouts/d1", "../downandout/../../etc");
            t.link(Link, "breakouts/mypasswd", "/breakouts/d1/passwd")
        },
        Same("breakouts/mypasswd", "etc/passwd"),
    ),
    (
        "a hard link by an absolute link",
        nothing,
        |t| passwd_and_link(t).link(Link, "localpasswd", "/localetc/passwd"),
        LOCAL,
    ),
    (
        "a hard link by a long relative link",
        nothing,
        |t| {
            let t = passwd(t).link(Symlink, "localetc", "../../../../../../../etc");
            t.link(Link, "localpasswd", "/localetc/passwd")
        },
        LOCAL,
    ),
    (
        "a hard link by a link up and out",
        nothing,
        |t| {
            let t = passwd(t).link(Symlink, "localetc", "upandout/../../../etc");
            t.link(Link, "localpasswd", "/localetc/passwd")
        },
        Refused("is a hard link to `localetc/passwd`, which is not in the layer"),
    ),
    (
        "a hard link, relative",
        nothing,
        |t| passwd(t).link(Link, "localpasswd", "../../../../../etc/passwd"),
        Refused("leads out of the layer"),
    ),
    ("a hard link, absolute", nothing, |t| passwd(t).link(Link, "localpasswd", "/etc/passwd"), LOCAL),
    (
        "a symbolic link called as the parent",
        nothing,
        |t| passwd(t).link(Symlink, "..", "/etc/").link(Link, "localpasswd", "/etc/passwd"),
        Refused("leads out of the layer"),
    ),
    (
        "a symbolic link without a name",
        nothing,
        |t| passwd(t).link(Symlink, "", "/etc/").link(Link, "localpasswd", "/etc/passwd"),
        Refused("its root directory is an entry of another kind"),
    ),
    (
        "a symbolic link whose name ends in its parent",
        nothing,
        |t| {
            let t = passwd(t).link(Symlink, "localetc/sub/..", "/etc/");
            t.link(Link, "/localetc/localpasswd", "/etc/passwd")
        },
        Same("localetc/localpasswd", "etc/passwd"),
    ),
    (
        "a directory whose name ends in a slash",
        nothing,
        |t| passwd(t).dir("localetc/").link(Link, "/localetc/localpasswd", "/etc/passwd"),
        Same("localetc/localpasswd", "etc/passwd"),
    ),
    (
        "a symbolic link over a directory",
        passwd_and_directory,
        |t| t.link(Symlink, "localetc", "/etc").link(Link, "/localetc/localpasswd", "/etc/passwd"),
        BELOW,
    ),
    (
        "a relative symbolic link over a directory",
        passwd_and_directory,
        |t| t.link(Symlink, "localetc", "../../etc").link(Link, "/localetc/localpasswd", "/etc/passwd"),
        BELOW,
    ),
    (
        "a directory over a symbolic link",
        passwd_and_link,
        |t| t.dir("/localetc/").link(Link, "/localetc/localpasswd", "/etc/passwd"),
        BELOW,
    ),
    (
        "a directory over a relative symbolic link",
        |t| passwd(t).link(Symlink, "localetc", "etc"),
        |t| t.dir("/localetc/").link(Link, "/localetc/localpasswd", "/etc/passwd"),
        BELOW,
    ),
    (
        "a directory over a symbolic link, a file over a hard link",
        |t| {
            let t = passwd(t).link(Symlink, "localetc", "etc");
            t.link(Link, "/localetc/localpasswd", "/etc/passwd")
        },
        |t| t.dir("/localetc/").file("/localetc/localpasswd", "different"),
        Reads(&[("etc/passwd", "inside"), ("localetc/localpasswd", "different")]),
    ),
    ("a whiteout of the root's parent", passwd, |t| t.file(".wh...", ""), NAMELESS),
    ("a whiteout of a parent", passwd, |t| t.file("etc/.wh...", ""), NAMELESS),
    ("a whiteout of the root", passwd, |t| t.file(".wh..", ""), NAMELESS),
    ("a whiteout of its own directory", passwd, |t| t.file("etc/.wh..", ""), NAMELESS),
    (
        "a whiteout of a symbolic link",
        passwd_and_link,
        |t| t.file(".wh.localetc", ""),
        Gone("localetc", "etc/passwd", "inside"),
    ),
    (
        "a whiteout by a symbolic link of the layer below",
        |t| passwd_and_link(t).file("/etc/whitedout", "here"),
        |t| t.file("localetc/.wh.whitedout", ""),
        Reads(UNTOUCHED),
    ),
    (
        "a directory called as a whiteout is",
        passwd,
        |t| t.file(".wh.etc/somefile", "non-empty"),
        Reads(&[("etc/passwd", "inside"), (".wh.etc/somefile", "non-empty")]),
    ),
    (
        "a whiteout by a link to nothing",
        |t| passwd(t).link(Symlink, "localetc", "/dne"),
        |t| t.file("localetc/.wh.etc", ""),
        Reads(UNTOUCHED),
    ),
    (
        "a whiteout by a name with dots",
        |t| passwd(t).file("other", "stays"),
        |t| t.file("dne/../.wh.etc", ""),
        Gone("etc/passwd", "other", "stays"),
    ),
    (
        "a hard link to a link to what comes later",
        nothing,
        |t| {
            let t = t.dir("etc").link(Symlink, "localpasswd", "/etc/passwd");
            t.link(Link, "localpasswd-dup", "localpasswd").file("/etc/passwd", "after")
        },
        Same("localpasswd-dup", "etc/passwd"),
    ),
    (
        "a hard link to a relative link",
        nothing,
        |t| {
            let t = passwd(t).link(Symlink, "passwdlink", "../../../../../etc/passwd");
            t.link(Link, "localpasswd", "/passwdlink")
        },
        LOCAL,
    ),
    (
        "a hard link to an absolute link",
        nothing,
        |t| passwd(t).link(Symlink, "passwdlink", "/etc/passwd").link(Link, "localpasswd", "/passwdlink"),
        LOCAL,
    ),
    (
        "a hard link to a link to a file of the host",
        passwd,
        |t| {
            let t = t.link(Symlink, concat!(env!("CARGO_TARGET_TMPDIR"), "/breakout/also"), FILE);
            t.link(Link, "sketchylink", concat!(env!("CARGO_TARGET_TMPDIR"), "/breakout/also"))
        },
        Reads(UNTOUCHED),
    ),
];

#[test]
fn no_way_out_of_containerds_table_is_one() {
    let host = Path::new(FILE).parent().unwrap();
    fs::create_dir_all(host).unwrap();
    fs::write(FILE, "host").unwrap();
    let before = picture(host);
    for (what, below, layer, ends) in ROWS {
        let f = Fixture::new();
        let made = Made::new(vec![below(Tar::default()).done(), layer(Tar::default()).done()]);
        let loaded = f.load(&made.docker_archive(&["web"]));
        assert_eq!(picture(host), before, "{what}");
        if let Refused(words) = ends {
            let error = loaded.unwrap_err().to_string();
            assert!(error.contains(words), "{what}: {error}");
            continue;
        }
        loaded.unwrap_or_else(|error| panic!("{what}: {error}"));
        let image = f.store.find(&super::name("web")).unwrap().unwrap();
        let Some(mounted) = Mounted::new(&image, f.store.scratch().unwrap()) else { return };
        let reads = |path: &str, content: &str| {
            let mut text = String::new();
            let mut file =
                inside(&mounted.root, path).unwrap_or_else(|error| panic!("{what}, {path}: {error}"));
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, content, "{what}: {path}");
        };
        match ends {
            Same(one, other) => {
                let inode = |path| inside(&mounted.root, path).unwrap().metadata().unwrap().ino();
                assert_eq!(inode(one), inode(other), "{what}");
            }
            Reads(files) => files.iter().for_each(|(path, content)| reads(path, content)),
            Gone(path, other, content) => {
                assert!(fs::symlink_metadata(mounted.root.join(path)).is_err(), "{what}");
                reads(other, content);
            }
            Refused(_) => unreachable!(),
        }
    }
    fs::remove_dir_all(host).unwrap();
}

/// A file as the container sees it.
fn inside(root: &Path, path: &str) -> std::io::Result<fs::File> {
    let root = rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    let found = rustix::fs::openat2(root, path, OFlags::RDONLY, Mode::empty(), ResolveFlags::IN_ROOT)?;
    Ok(found.into())
}

/// What was counted when the tables were put together: malformed images, ways out (containerd's and ours), and
/// archives that readers disagree about. A row that goes is to be missed.
#[test]
fn the_tables_of_hostile_images_are_whole() {
    let counted = (super::malformed::COUNT, ROWS.len(), super::hostile::ATTACKS.len(), super::tars::COUNT);
    assert_eq!(counted, (24, 34, 41, 61));
}
