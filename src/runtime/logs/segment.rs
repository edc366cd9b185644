//! The files of a log: numbered pairs of bytes and index. The highest is written to; older ones are
//! complete, and the oldest go when there are too many.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{
    super::{Error, Result},
    entry::{ENTRY, Entry, Kind},
};

pub(super) fn bytes_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number}.log"))
}

pub(super) fn index_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number}.idx"))
}

/// Numbers of the segments there are now, ascending.
pub(super) fn numbers(dir: &Path) -> Result<Vec<u64>> {
    let listing = match fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::File { what: "list log", path: dir.to_owned(), source }),
    };
    let number = |name: std::ffi::OsString| name.to_str()?.strip_suffix(".idx")?.parse().ok();
    let mut numbers: Vec<u64> = listing.flatten().filter_map(|entry| number(entry.file_name())).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn remove(dir: &Path, number: u64) {
    // The index last: without it the bytes belong to nobody.
    let _ = fs::remove_file(bytes_path(dir, number));
    let _ = fs::remove_file(index_path(dir, number));
}

/// One pair of files, open for reading: it may be removed meanwhile.
#[derive(Debug)]
pub(super) struct Segment {
    pub number: u64,
    path: PathBuf,
    bytes: File,
    index: File,
}

impl Segment {
    /// `None` when it is gone.
    pub(super) fn open(dir: &Path, number: u64) -> Result<Option<Self>> {
        let open = |path: PathBuf| match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { what: "open log", path, source }),
        };
        let (bytes, index) = (open(bytes_path(dir, number))?, open(index_path(dir, number))?);
        let path = bytes_path(dir, number);
        Ok(bytes.zip(index).map(|(bytes, index)| Self { number, path, bytes, index }))
    }

    fn unreadable(&self, source: io::Error) -> Error {
        Error::File { what: "read log", path: self.path.clone(), source }
    }

    /// Number of entries there are now.
    pub(super) fn entries(&self) -> Result<u64> {
        self.index.metadata().map(|m| m.len() / ENTRY as u64).map_err(|error| self.unreadable(error))
    }

    pub(super) fn entry(&self, at: u64) -> Result<Entry> {
        let mut bytes = [0; ENTRY];
        self.index.read_exact_at(&mut bytes, at * ENTRY as u64).map_err(|error| self.unreadable(error))?;
        Ok(Entry::from_bytes(&bytes))
    }

    pub(super) fn text(&self, entry: Entry) -> Result<Vec<u8>> {
        let mut text = vec![0; entry.length as usize];
        self.bytes.read_exact_at(&mut text, entry.offset).map_err(|error| self.unreadable(error))?;
        Ok(text)
    }

    /// The entry to decode from so that the last `count` lines come out whole, and how many line feeds
    /// were seen on the way there; 0 where that may be before this segment.
    pub(super) fn start_of_tail(&self, count: usize) -> Result<(u64, usize)> {
        let mut start = self.entries()?;
        let mut found = 0;
        while start > 0 && found <= count + 1 {
            start -= 1;
            let entry = self.entry(start)?;
            if entry.is_text() {
                found += self.text(entry)?.iter().filter(|&&byte| byte == b'\n').count();
            }
        }
        // A line of either stream may begin in an earlier chunk of that stream.
        for stream in [Kind::Stdout, Kind::Stderr] {
            let mut at = start;
            while at > 0 {
                at -= 1;
                let entry = self.entry(at)?;
                if entry.kind != stream {
                    if !entry.is_text() {
                        break;
                    }
                    continue;
                }
                if self.text(entry)?.contains(&b'\n') {
                    start = start.min(if self.text(entry)?.ends_with(b"\n") { at + 1 } else { at });
                    break;
                }
                start = at;
            }
        }
        Ok((start, found))
    }
}
