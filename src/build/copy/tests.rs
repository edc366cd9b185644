//! COPY as it shows in files: where things land, whose they are, and what never leaves the root.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use super::*;
use crate::build::ignore::Matcher;

struct Case {
    context: tempfile::TempDir,
    image: tempfile::TempDir,
    ignore: Matcher,
    exclude: Matcher,
    owner: Option<Owner>,
    mode: Option<ModeChange>,
    parents: bool,
}

impl Case {
    /// `path=content`; a trailing `/` makes a directory, `a->b` a link.
    fn new(context: &[&str], image: &[&str]) -> Self {
        let case = Self {
            context: tempfile::tempdir().unwrap(),
            image: tempfile::tempdir().unwrap(),
            ignore: Matcher::default(),
            exclude: Matcher::default(),
            owner: None,
            mode: None,
            parents: false,
        };
        for (root, entries) in [(case.context.path(), context), (case.image.path(), image)] {
            for entry in entries {
                make(root, entry);
            }
        }
        case
    }

    fn copy(&self, sources: &[&str], to: &str) -> Result<(), String> {
        let (from, into) = (Tree::open(self.context.path()).unwrap(), Tree::open(self.image.path()).unwrap());
        let source =
            Source { tree: &from, ignore: Some(&self.ignore), memo: None, ownership: Ownership::Root };
        let target = Target { tree: &into, path: to, owner: self.owner, mode: self.mode.as_ref() };
        for pattern in sources {
            let picked = pick(&source, pattern).map_err(|error| match &error {
                PickError::NotFound { help: Some(help), .. } => format!("{error}; {help}"),
                _ => error.to_string(),
            })?;
            let parents = if self.parents { Parents::kept(pattern) } else { Parents::Dropped };
            copy(&source, &picked, &self.exclude, parents, &target).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn image(&self) -> Vec<String> {
        listing(self.image.path())
    }
}

fn make(root: &Path, entry: &str) {
    let (path, rest) =
        entry.split_at(entry.find(['=', '-']).filter(|_| !entry.ends_with('/')).unwrap_or(entry.len()));
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    if let Some(target) = rest.strip_prefix("->") {
        symlink(target, path).unwrap();
    } else if entry.ends_with('/') {
        fs::create_dir_all(path).unwrap();
    } else {
        fs::write(path, rest.trim_start_matches('=')).unwrap();
    }
}

fn listing(root: &Path) -> Vec<String> {
    fn below(root: &Path, dir: &Path, found: &mut Vec<String>) {
        for name in names(File::open(dir).unwrap().as_fd()).unwrap() {
            let path = dir.join(name);
            let shown = path.strip_prefix(root).unwrap().display();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                if fs::read_dir(&path).unwrap().next().is_none() {
                    found.push(format!("{shown}/"));
                }
                below(root, &path, found);
            } else if meta.is_symlink() {
                found.push(format!("{shown}->{}", fs::read_link(&path).unwrap().display()));
            } else {
                found.push(format!("{shown}={}", fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    below(root, root, &mut found);
    found
}

#[test]
fn things_land_where_the_field_puts_them() {
    type Row<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str], &'a str, &'a [&'a str]);
    let table: &[Row<'_>] = &[
        (&["f=1"], &[], &["f"], "/g", &["g=1"]),
        (&["f=1"], &[], &["f"], "/d/", &["d/f=1"]),
        (&["f=1"], &[], &["f"], "/a/b/c", &["a/b/c=1"]),
        (&["f=1"], &["d/x=0"], &["f"], "/d", &["d/f=1", "d/x=0"]),
        (&["f=1"], &["g=0"], &["f"], "/g", &["g=1"]),
        (&["f=1"], &["g->h", "h=0"], &["f"], "/g", &["g->h", "h=1"]),
        (&["d/f=1", "d/e/"], &[], &["d"], "/x", &["x/e/", "x/f=1"]),
        (&["d/f=1"], &["x/y=0"], &["d"], "/x/", &["x/f=1", "x/y=0"]),
        (&["d/e/f=1"], &["x/e/g=0"], &["d"], "/x", &["x/e/f=1", "x/e/g=0"]),
        (&["d/f=1"], &[], &["."], "/", &["d/f=1"]),
        (&["d/f=1"], &[], &["d/."], "/x", &["x/f=1"]),
        (&["a=1", "b=2"], &[], &["a", "b"], "/d/", &["d/a=1", "d/b=2"]),
        (&["a.c=1", "b.c=2", "b.h=3"], &[], &["*.c"], "/d/", &["d/a.c=1", "d/b.c=2"]),
        (&["x/a/f=1", "y/a/f=2", "z/b/f=3"], &[], &["[xy]/a/?"], "/d/", &["d/f=2"]),
        (&["f=1"], &[], &["no*"], "/d/", &[]),
        (&["l->d", "d/f=1"], &[], &["l"], "/x", &["x/f=1"]),
        (&["l->f", "f=1"], &[], &["l"], "/x/", &["x/l=1"]),
        (&["d/l->f", "d/f=1"], &[], &["d"], "/x", &["x/f=1", "x/l->f"]),
        (&["l->d", "d/f=1"], &[], &["l/f"], "/x", &["x=1"]),
        (&["f=1"], &["lib->usr/lib", "usr/lib/"], &["f"], "/lib/", &["lib->usr/lib", "usr/lib/f=1"]),
        (&["f=1"], &["abs->/usr", "usr/"], &["f"], "/abs/x", &["abs->/usr", "usr/x=1"]),
        (&["f=1"], &["gone->/no/where"], &["f"], "/gone/", &["gone->/no/where", "no/where/f=1"]),
        (&["d/l->x"], &["t/l=old"], &["d"], "/t", &["t/l->x"]),
    ];
    for (context, image, sources, to, expected) in table {
        let case = Case::new(context, image);
        case.copy(sources, to).unwrap_or_else(|error| panic!("{sources:?} {to}: {error}"));
        assert_eq!(case.image(), *expected, "{sources:?} {to}");
    }
}

#[test]
fn what_cannot_be_copied_says_why() {
    type Row<'a> = (&'a [&'a str], &'a [&'a str], &'a str, &'a str, &'a str);
    let table: &[Row<'_>] = &[
        (&["file=1"], &[], "flie", "/x", "\"/flie\": not found; did you mean `file`?"),
        (&["d/file=1"], &[], "d/fil", "/x", "\"/d/fil\": not found; did you mean `d/file`?"),
        (
            &[],
            &[],
            "../../etc/passwd",
            "/x",
            "\"/etc/passwd\": not found; a path above the build context cannot be copied",
        ),
        (
            &["l->/etc/passwd"],
            &[],
            "l",
            "/x",
            "\"/l\": not found; it is a link to something that is not in the build context",
        ),
        (&["secret=1"], &[], "secret", "/x", "\"/secret\": not found; `.dockerignore` leaves it out"),
        (&["d/f=1"], &["x=0"], "d", "/x", "cannot copy to non-directory: /x"),
        (&["d/e/f=1"], &["x/e=0"], "d", "/x", "cannot copy to non-directory: /x/e"),
        (&["d/e/f=1"], &["x/e->y", "x/y/"], "d", "/x", "cannot copy to non-directory: /x/e"),
        (&["d/f=1"], &["x/f/g=0"], "d", "/x", "cannot replace a directory with a file: /x/f"),
        (&["f=1"], &[], "[", "/x", "`[` is not a pattern: `[` has no `]`"),
    ];
    for (context, image, source, to, message) in table {
        let mut case = Case::new(context, image);
        case.ignore = Matcher::parse("secret").unwrap();
        assert_eq!(case.copy(&[source], to).unwrap_err(), *message);
    }
}

#[test]
fn nothing_is_read_from_or_written_to_the_outside() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let link = format!("out->{}", outside.path().display());
    let case = Case::new(&[&link, "f=1", "d/inner->/etc/passwd"], &[&link, "up->../../../../.."]);
    assert!(case.copy(&["out/secret"], "/x").is_err());
    case.copy(&["f"], "/out/planted").unwrap();
    case.copy(&["f"], "/up/../../planted").unwrap();
    case.copy(&["d"], "/d").unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert!(case.image.path().join("planted").exists());
    assert!(case.image().contains(&"d/inner->/etc/passwd".to_owned()));
}

#[test]
fn owners_modes_times_and_hard_links_arrive() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: giving files away needs root");
        return;
    }
    let mut case = Case::new(&["d/f=1", "d/s->f", "d/e/"], &[]);
    let path = |name: &str| case.context.path().join(name);
    fs::hard_link(path("d/f"), path("d/g")).unwrap();
    fs::set_permissions(path("d/f"), fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(path("d/f"), Some(77), Some(77)).unwrap();
    fs::set_permissions(path("d/f"), fs::Permissions::from_mode(0o4751)).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    File::open(path("d/f")).unwrap().set_modified(old).unwrap();
    case.copy(&["d"], "/x").unwrap();
    let file = fs::metadata(case.image.path().join("x/f")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777, file.nlink()), (0, 0, 0o4751, 2));
    assert_eq!(file.modified().unwrap(), old);

    case.owner = Some(Owner { uid: 5, gid: 6 });
    case.mode = Some(ModeChange::parse("u=rwX,go=").unwrap());
    case.copy(&["d"], "/y/z").unwrap();
    for (name, mode) in [("y", 0o755), ("y/z", 0o755), ("y/z/e", 0o700), ("y/z/f", 0o700)] {
        let meta = fs::metadata(case.image.path().join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (5, 6, mode), "{name}");
    }
    let link = fs::symlink_metadata(case.image.path().join("y/z/s")).unwrap();
    assert_eq!((link.uid(), link.gid()), (5, 6));
}

#[test]
fn kept_parents_are_like_those_of_the_source() {
    let mut case = Case::new(&["a/b/c/f=1", "a/b/g=2"], &["to/b/"]);
    case.parents = true;
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for (name, bits) in [("a", 0o750), ("a/b", 0o711), ("a/b/c", 0o705)] {
        mode(&case.context.path().join(name), bits);
    }
    case.copy(&["a/b/c/f"], "/new").unwrap();
    case.copy(&["a/./b/c"], "/to").unwrap();
    let table = [
        ("new", 0o755),
        ("new/a", 0o750),
        ("new/a/b", 0o711),
        ("new/a/b/c", 0o705),
        ("to/b", 0o755),
        ("to/b/c", 0o705),
    ];
    for (name, bits) in table {
        let meta = fs::metadata(case.image.path().join(name)).unwrap();
        assert_eq!(meta.mode() & 0o777, bits, "{name}");
    }
    assert!(case.image.path().join("to/b/c/f").exists() && !case.image.path().join("to/b/g").exists());
}

#[test]
fn exclude_and_ignore_leave_out() {
    let mut case = Case::new(&["d/a.o=1", "d/a.c=2", "d/e/b.o=3", "d/e/b.c=4", "d/n/x=5"], &[]);
    case.ignore = Matcher::parse("d/n").unwrap();
    case.exclude = Matcher::from_patterns(["**/*.o"]).unwrap();
    case.copy(&["d"], "/").unwrap();
    assert_eq!(case.image(), ["a.c=2", "e/b.c=4"]);
}

#[test]
fn parents_are_kept_behind_the_pivot() {
    let mut case = Case::new(&["a/b/c/f=1", "a/b/g=2"], &[]);
    case.parents = true;
    case.copy(&["a/b/c/f"], "/x/").unwrap();
    case.copy(&["a/./b/g"], "/y/").unwrap();
    case.copy(&["a/b/./c"], "/z/").unwrap();
    assert_eq!(case.image(), ["x/a/b/c/f=1", "y/b/g=2", "z/c/f=1"]);
}

#[test]
fn a_given_content_becomes_a_file() {
    let case = Case::new(&[], &["d/x=0"]);
    let tree = Tree::open(case.image.path()).unwrap();
    let mode = ModeChange::parse("755").unwrap();
    for (path, mode) in [("/d", None), ("/e/", None), ("/g", Some(&mode))] {
        write("EOF", b"hi", &Target { tree: &tree, path, owner: None, mode }).unwrap();
    }
    assert_eq!(case.image(), ["d/EOF=hi", "d/x=0", "e/EOF=hi", "g=hi"]);
    assert_eq!(fs::metadata(case.image.path().join("g")).unwrap().mode() & 0o777, 0o755);
    assert_eq!(fs::metadata(case.image.path().join("d/EOF")).unwrap().mode() & 0o777, 0o644);
}
