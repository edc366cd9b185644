//! Subordinate ids: which of the machine's ids a user may give to others, as /etc/subuid and
//! /etc/subgid say (subuid(5)). Who may use them is checked by `newuidmap` and `newgidmap`.

use super::super::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    User,
    Group,
}

impl Kind {
    fn file(self) -> &'static str {
        match self {
            Self::User => "/etc/subuid",
            Self::Group => "/etc/subgid",
        }
    }

    /// The set-uid program that writes a map.
    pub fn helper(self) -> &'static str {
        match self {
            Self::User => "newuidmap",
            Self::Group => "newgidmap",
        }
    }
}

/// First id and how many.
type Range = (u32, u32);

/// What a user was given.
#[derive(Debug, PartialEq, Eq)]
pub struct Ranges {
    pub kind: Kind,
    ranges: Vec<Range>,
}

impl Ranges {
    pub fn of(kind: Kind, name: &str, uid: u32) -> Result<Self> {
        if !is_installed(kind.helper()) {
            return Err(Error::Rootless {
                message: format!("`{}` is missing, without which no user but root can run containers", kind.helper()),
                help: "install it: `sudo apt install uidmap` on Debian and Ubuntu; elsewhere it comes with shadow \
                       (`shadow-utils`)"
                    .to_owned(),
            });
        }
        let text = std::fs::read_to_string(kind.file()).unwrap_or_default();
        let ranges = parse(&text, name, uid);
        if ranges.is_empty() {
            let first = first_free(&text);
            let last = first + 65_535;
            return Err(Error::Rootless {
                message: format!("user `{name}` has no ids in {} to run containers with", kind.file()),
                help: format!(
                    "`sudo usermod --add-subuids {first}-{last} --add-subgids {first}-{last} {name}`"
                ),
            });
        }
        Ok(Self { kind, ranges })
    }

    /// Where each range stands in the namespace, after its root: there, first id and count.
    pub fn placed(&self) -> impl Iterator<Item = (u32, u32, u32)> {
        self.ranges.iter().scan(1, |next: &mut u32, &(first, count)| {
            let here = *next;
            *next = next.saturating_add(count);
            Some((here, first, count))
        })
    }
}

/// The helpers say in their own words what they do not like.
pub fn refused(name: &str, text: &str) -> Error {
    Error::Rootless {
        message: format!("user `{name}` cannot have its ids: {text}"),
        help:
            "look at /etc/subuid and /etc/subgid, and whether newuidmap and newgidmap may change their user \
               (set-uid, no `nosuid` mount, no `no_new_privs`)"
                .to_owned(),
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Lines `user:first:count`; the user by name or number. What is none of these is passed over.
fn parse(text: &str, name: &str, uid: u32) -> Vec<Range> {
    let of_user = |line: &str| {
        let (user, range) = line.trim().split_once(':')?;
        let (first, count) = range.split_once(':')?;
        let range = (first.parse().ok()?, count.parse().ok().filter(|count| *count > 0)?);
        (user == name || user.parse() == Ok(uid)).then_some(range)
    };
    text.lines().filter_map(of_user).collect()
}

/// Above everything that is given away already; 100000 on a new machine, as useradd(8) does.
fn first_free(text: &str) -> u32 {
    let end = |line: &str| {
        let mut fields = line.trim().split(':').skip(1).map(|field| field.parse::<u32>().ok());
        fields.next()??.checked_add(fields.next()??)
    };
    text.lines().filter_map(end).max().unwrap_or(0).clamp(100_000, u32::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "root:100000:65536\nada:165536:65536\n# a remark\n1001:300000:10\nada:500000:5\nbad:x:1\n";

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        assert_eq!(parse(FILE, "ada", 1000), [(165_536, 65_536), (500_000, 5)]);
        assert_eq!(parse(FILE, "bob", 1001), [(300_000, 10)]);
        assert!(parse(FILE, "bad", 1002).is_empty());
        assert!(parse("ada:1:0\n", "ada", 1).is_empty(), "no ids at all");
    }

    #[test]
    fn ranges_follow_one_another_behind_root() {
        let ranges = Ranges { kind: Kind::User, ranges: vec![(165_536, 65_536), (500_000, 5)] };
        assert_eq!(ranges.placed().collect::<Vec<_>>(), [(1, 165_536, 65_536), (65_537, 500_000, 5)]);
    }

    #[test]
    fn the_range_that_is_proposed_is_nobodys() {
        assert_eq!(first_free(""), 100_000);
        assert_eq!(first_free(FILE), 500_005);
    }
}
