//! Remembers the digest of files between builds, so that only what changed is read again. A file
//! counts as unchanged when device, inode, size, both times and mode are those remembered, and it
//! was old enough when it was read that a later change must show in its times.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::fs::Stat;

use super::content::Digest;

/// Nanoseconds within which two writes may get the same time: two seconds on the coarsest file system.
const RACY: i128 = 2_000_000_000;
const MAGIC: &[u8; 8] = b"ficmemo1";
const RECORD: usize = 16 + FIELDS * 8 + 32;
const FIELDS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// Size, modification time, change time (in nanoseconds, cut to 64 bits), mode.
    fields: [u64; FIELDS],
    digest: Digest,
}

/// By device and inode.
type Files = HashMap<(u64, u64), Seen>;

/// The digests of one context's files.
#[derive(Debug)]
pub struct Memo {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: Files,
    /// Seen in this build; only these are kept.
    used: Files,
    changed: bool,
}

impl Memo {
    /// A file that is missing or not ours is an empty memory.
    #[must_use]
    pub fn open(path: PathBuf) -> Self {
        let known = fs::read(&path).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Self { path, state: Mutex::new(State { known, ..State::default() }) }
    }

    /// The remembered digest, or that which `read` finds.
    pub fn digest(&self, stat: &Stat, read: impl FnOnce() -> io::Result<Digest>) -> io::Result<Digest> {
        self.digest_at(stat, now(), read)
    }

    fn digest_at(
        &self,
        stat: &Stat,
        now: i128,
        read: impl FnOnce() -> io::Result<Digest>,
    ) -> io::Result<Digest> {
        let key = (to_u64(stat.st_dev), to_u64(stat.st_ino));
        let fields = fields(stat);
        {
            let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let found = state.used.get(&key).or_else(|| state.known.get(&key)).copied();
            if let Some(seen) = found.filter(|seen| seen.fields == fields) {
                state.used.insert(key, seen);
                return Ok(seen.digest);
            }
        }
        let digest = read()?;
        if newest(stat) + RACY < now {
            let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            state.used.insert(key, Seen { fields, digest });
            state.changed = true;
        }
        Ok(digest)
    }

    /// Keeps what this build has seen.
    pub fn save(&self) -> io::Result<()> {
        let state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !state.changed {
            return Ok(());
        }
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        io::Write::write_all(&mut file, &encode(&state.used))?;
        file.persist(&self.path)?;
        Ok(())
    }
}

fn now() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| i128::try_from(age.as_nanos()).unwrap_or(0))
}

fn newest(stat: &Stat) -> i128 {
    let nanos = |seconds: i64, nanos: u64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    nanos(stat.st_mtime, to_u64(stat.st_mtime_nsec)).max(nanos(stat.st_ctime, to_u64(stat.st_ctime_nsec)))
}

fn fields(stat: &Stat) -> [u64; FIELDS] {
    let time =
        |seconds: i64, nanos: u64| seconds.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(nanos);
    [
        stat.st_size.cast_unsigned(),
        time(stat.st_mtime, to_u64(stat.st_mtime_nsec)),
        time(stat.st_ctime, to_u64(stat.st_ctime_nsec)),
        u64::from(stat.st_mode),
    ]
}

/// The fields of `stat` have another width on each architecture.
fn to_u64(number: impl TryInto<u64>) -> u64 {
    number.try_into().unwrap_or(u64::MAX)
}

fn encode(files: &Files) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for ((device, inode), seen) in files {
        for number in [*device, *inode].iter().chain(&seen.fields) {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(seen.digest);
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<Files> {
    let bytes = bytes.strip_prefix(MAGIC)?;
    let mut files = Files::new();
    for record in bytes.chunks(RECORD) {
        let number = |at: usize| Some(u64::from_le_bytes(record.get(at * 8..at * 8 + 8)?.try_into().ok()?));
        let digest = record.get(RECORD - 32..)?.try_into().ok()?;
        let fields = [number(2)?, number(3)?, number(4)?, number(5)?];
        files.insert((number(0)?, number(1)?), Seen { fields, digest });
    }
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat_of(path: &Path) -> Stat {
        rustix::fs::stat(path).unwrap()
    }

    fn unread() -> io::Result<Digest> {
        panic!("was read again")
    }

    #[test]
    fn an_old_unchanged_file_is_not_read_again_even_by_the_next_build() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "x").unwrap();
        let later = now() + 10 * RACY;
        let memo = Memo::open(dir.path().join("memo"));
        assert_eq!(memo.digest_at(&stat_of(&file), later, || Ok([1; 32])).unwrap(), [1; 32]);
        memo.save().unwrap();
        let memo = Memo::open(dir.path().join("memo"));
        assert_eq!(memo.digest_at(&stat_of(&file), later, unread).unwrap(), [1; 32]);
    }

    #[test]
    fn a_file_changed_with_the_same_size_and_time_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "aaa").unwrap();
        let memo = Memo::open(dir.path().join("memo"));
        let before = stat_of(&file);
        memo.digest_at(&before, now() + 10 * RACY, || Ok([1; 32])).unwrap();
        let times = fs::metadata(&file).unwrap().modified().unwrap();
        // The clock of a file system stands still for some milliseconds.
        let after = loop {
            fs::write(&file, "bbb").unwrap();
            fs::File::options().write(true).open(&file).unwrap().set_modified(times).unwrap();
            let after = stat_of(&file);
            if (after.st_ctime, after.st_ctime_nsec) != (before.st_ctime, before.st_ctime_nsec) {
                break after;
            }
        };
        assert_eq!(
            (after.st_size, after.st_mtime, after.st_mtime_nsec),
            (before.st_size, before.st_mtime, before.st_mtime_nsec)
        );
        assert_eq!(memo.digest_at(&after, now(), || Ok([2; 32])).unwrap(), [2; 32]);
    }

    #[test]
    fn a_file_that_may_still_change_unseen_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "x").unwrap();
        let memo = Memo::open(dir.path().join("memo"));
        memo.digest(&stat_of(&file), || Ok([1; 32])).unwrap();
        assert_eq!(memo.digest(&stat_of(&file), || Ok([2; 32])).unwrap(), [2; 32]);
    }

    #[test]
    fn a_damaged_memory_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memo");
        for bytes in [&b""[..], b"other", b"ficmemo1short"] {
            fs::write(&path, bytes).unwrap();
            assert!(Memo::open(path.clone()).state.lock().unwrap().known.is_empty());
        }
    }
}
