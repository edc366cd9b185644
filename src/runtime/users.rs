//! Who a container runs as: `user[:group]` looked up in the root filesystem's own passwd and group
//! files, which are hostile: bounded, never a device or a pipe, never outside the root.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    os::fd::BorrowedFd,
};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

use super::{Error, Result};

/// The kernel's ids are 32 bits, and -1 means "no change" to setuid: half of them is enough.
const LARGEST_ID: u32 = i32::MAX as u32;
/// Bytes of a passwd or group file.
const LARGEST_FILE: u64 = 8 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    pub home: String,
}

/// Looks `user` (`name[:group]`, numbers allowed, root when empty) and further `groups` up below `root`.
pub fn resolve(root: BorrowedFd<'_>, user: &str, groups: &[String]) -> Result<User> {
    let (name, group) = user.split_once(':').map_or((user, None), |(u, g)| (u, Some(g)));
    let name = if name.is_empty() { "0" } else { name };
    let passwd = lines(root, "etc/passwd")?;
    let table = lines(root, "etc/group")?;

    let entry = passwd.iter().filter_map(|line| Entry::parse(line)).find(|entry| entry.name == name);
    // A number is a number, even where passwd has an account of that name.
    let (uid, entry) = match number(name) {
        Some(id) => {
            let uid = checked("user", name, id)?;
            (uid, passwd.iter().filter_map(|line| Entry::parse(line)).find(|entry| entry.uid == uid))
        }
        None => match entry {
            Some(entry) => (checked("user", name, entry.uid.into())?, Some(entry)),
            None => return Err(unknown("user", name, "passwd")),
        },
    };
    let gid = match group {
        Some(group) => group_id(&table, group)?,
        None => entry.as_ref().map_or(Ok(0), |entry| checked("group", name, entry.gid.into()))?,
    };
    // Its own, too, as with Docker: a program could otherwise give it up and be kept out of nothing that
    // denies this group (CVE-2022-36109).
    let mut supplementary = vec![gid];
    if group.is_none()
        && let Some(entry) = &entry
    {
        supplementary.extend(memberships(&table, entry.name));
    }
    for group in groups {
        supplementary.push(group_id(&table, group)?);
    }
    supplementary.sort_unstable();
    supplementary.dedup();
    let home = entry.map_or("/", |entry| entry.home);
    Ok(User { uid, gid, groups: supplementary, home: if home.is_empty() { "/" } else { home }.to_owned() })
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Self { name, uid, gid, home: fields.nth(1).unwrap_or("") })
    }
}

fn group_id(table: &[String], group: &str) -> Result<u32> {
    if let Some(id) = number(group) {
        return checked("group", group, id);
    }
    let found = table.iter().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse::<u32>().ok()).flatten()
    });
    match found {
        Some(id) => checked("group", group, id.into()),
        None => Err(unknown("group", group, "group")),
    }
}

fn memberships(table: &[String], name: &str) -> Vec<u32> {
    let member = |line: &String| {
        let mut fields = line.split(':');
        let gid = fields.nth(2)?.parse::<u32>().ok().filter(|gid| *gid <= LARGEST_ID)?;
        fields.next()?.split(',').any(|member| member == name).then_some(gid)
    };
    table.iter().filter_map(member).collect()
}

/// Only digits are a number: no sign, no space, no base. Too many digits are a large number.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

fn checked(what: &str, name: &str, id: u64) -> Result<u32> {
    u32::try_from(id)
        .ok()
        .filter(|id| *id <= LARGEST_ID)
        .ok_or_else(|| Error::Invalid(format!("{what} `{name}` is not in the range 0 to {LARGEST_ID}")))
}

fn unknown(what: &str, name: &str, file: &str) -> Error {
    Error::Invalid(format!("no {what} `{name}` in the image's /etc/{file}"))
}

/// The lines of a regular file below `root`; none when it is missing.
fn lines(root: BorrowedFd<'_>, path: &str) -> Result<Vec<String>> {
    let invalid = |why: &str| Error::Invalid(format!("the image's /{path} {why}"));
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // A device must not be opened at all: look before opening.
    let fd = match openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(Vec::new()),
        Err(e) => return Err(invalid(&format!("cannot be opened: {e}"))),
    };
    let stat = fstat(&fd).map_err(|e| invalid(&format!("cannot be examined: {e}")))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(invalid("is not a file"));
    }
    let file = openat2(root, path, flags, Mode::empty(), resolve)
        .map_err(|e| invalid(&format!("cannot be opened: {e}")))?;
    read_lines(File::from(file)).map_err(|e| invalid(&e.to_string()))
}

fn read_lines(file: File) -> io::Result<Vec<String>> {
    let mut reader = BufReader::new(file.take(LARGEST_FILE + 1));
    let (mut lines, mut read, mut line) = (Vec::new(), 0, Vec::new());
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(lines);
        }
        read += length as u64;
        if read > LARGEST_FILE {
            return Err(io::Error::other(format!("is larger than {LARGEST_FILE} bytes")));
        }
        lines.push(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::fd::AsFd, path::Path};

    use super::*;

    fn root(passwd: &str, group: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        fs::write(dir.path().join("etc/group"), group).unwrap();
        dir
    }

    fn look(dir: &Path, user: &str, groups: &[&str]) -> Result<User> {
        let groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        resolve(File::open(dir).unwrap().as_fd(), user, &groups)
    }

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\n1000:x:0:0::/:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nadm:x:4:web,other\ntape:x:26:web\n";

    #[test]
    fn names_numbers_and_groups_are_found_in_the_image() {
        let dir = root(PASSWD, GROUP);
        let user = |uid, gid, groups: &[u32], home: &str| User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.to_owned(),
        };
        assert_eq!(look(dir.path(), "", &[]).unwrap(), user(0, 0, &[0], "/root"));
        assert_eq!(look(dir.path(), "web", &[]).unwrap(), user(33, 34, &[4, 26, 34], "/srv"));
        assert_eq!(look(dir.path(), "33", &[]).unwrap(), user(33, 34, &[4, 26, 34], "/srv"));
        assert_eq!(look(dir.path(), "web:adm", &[]).unwrap(), user(33, 4, &[4], "/srv"));
        assert_eq!(look(dir.path(), "77:88", &["tape", "5"]).unwrap(), user(77, 88, &[5, 26, 88], "/"));
    }

    #[test]
    fn an_account_named_like_a_number_does_not_take_its_place() {
        let dir = root(PASSWD, GROUP);
        assert_eq!(look(dir.path(), "1000", &[]).unwrap().uid, 1000);
    }

    #[test]
    fn ids_out_of_range_or_misspelt_are_errors_and_never_root() {
        let dir = root("big:x:4294967295:4294967295::/:\n", GROUP);
        let wrong = [
            "-1",
            "2147483648",
            "4294967295",
            "4294967296",
            "18446744073709551615",
            "184467440737095516150",
            "0x0",
            " 0",
            "+5",
            "0:4294967295",
            "0:-1",
            "nobody",
            "0:nogroup",
            "big",
        ];
        for user in wrong {
            assert!(matches!(look(dir.path(), user, &[]), Err(Error::Invalid(_))), "{user:?}");
        }
    }

    #[test]
    fn files_that_are_none_are_refused_and_links_stay_inside() {
        let dir = root(PASSWD, GROUP);
        let passwd = dir.path().join("etc/passwd");
        let replace = |target: &str| {
            fs::remove_file(&passwd).unwrap();
            std::os::unix::fs::symlink(target, &passwd).unwrap();
        };
        replace("/dev/zero");
        assert_eq!(look(dir.path(), "5", &[]).unwrap().home, "/", "resolves inside, where it is missing");
        replace("../../../../../etc/other");
        fs::write(dir.path().join("etc/other"), "in:x:7:8::/in:/bin/sh\n").unwrap();
        assert_eq!(look(dir.path(), "in", &[]).unwrap().uid, 7);
        fs::remove_file(&passwd).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &passwd, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(look(dir.path(), "root", &[]).unwrap_err().to_string().contains("not a file"));
    }

    #[test]
    fn a_huge_file_is_refused_and_not_read_whole() {
        let dir = root(PASSWD, GROUP);
        File::create(dir.path().join("etc/group")).unwrap().set_len(100 << 20).unwrap();
        let error = look(dir.path(), "root", &[]).unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
    }
}
