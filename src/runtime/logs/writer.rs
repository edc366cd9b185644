//! The one writer of a container's log: its supervisor.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    pipe::{SpliceFlags, splice},
};

use super::{
    super::{
        Error, LogConfig, Result,
        failpoint::{Point, reached},
    },
    entry::{ENTRY, Entry, Kind, now},
    segment,
};

/// What one `splice` may move: more than the largest pipe we make.
const MOST_AT_ONCE: usize = 1 << 20;

#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    max_size: u64,
    max_files: u64,
    /// Of the segment that is written to.
    number: u64,
    bytes: File,
    index: File,
    /// Ends of the two files.
    offset: u64,
    entries: u64,
}

impl Writer {
    /// Opens or makes the log in `dir`, and gives bytes without an entry one. The directory is not made: that of
    /// a container that is being removed must not come back.
    pub fn open(dir: &Path, config: &LogConfig) -> Result<Self> {
        let number = segment::numbers(dir)?.last().copied().unwrap_or(0);
        let (bytes, index) = files(dir, number)?;
        let end = |file: &File| {
            let failed = |source| Error::File { what: "measure log", path: dir.to_owned(), source };
            file.metadata().map(|m| m.len()).map_err(failed)
        };
        let mut writer = Self {
            dir: dir.to_owned(),
            max_size: config.max_size,
            max_files: config.max_files.max(1).into(),
            number,
            offset: 0,
            entries: end(&index)? / ENTRY as u64,
            bytes,
            index,
        };
        let end = end(&writer.bytes)?;
        let failed = |source| Error::File { what: "repair log index", path: dir.to_owned(), source };
        writer.adopt(end).map_err(failed)?;
        Ok(writer)
    }

    /// Gives the bytes after the last entry, up to `end`, an entry.
    fn adopt(&mut self, end: u64) -> io::Result<()> {
        if let Some(last) = self.entries.checked_sub(1) {
            let mut bytes = [0; ENTRY];
            self.index.read_exact_at(&mut bytes, last * ENTRY as u64)?;
            let last = Entry::from_bytes(&bytes);
            self.offset = last.offset + last.size();
        }
        while self.offset < end {
            let length = u32::try_from(end - self.offset).unwrap_or(u32::MAX);
            self.push(length, Kind::Stdout)?;
        }
        Ok(())
    }

    /// Moves what is in the FIFO to the log, without waiting; 0 when nobody has it open any more. A
    /// writer that is as fast as we are does not hold up others: the rest is for the next call.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is nothing now.
    pub fn splice(&mut self, stderr: bool, from: BorrowedFd<'_>) -> io::Result<usize> {
        let mut moved = 0;
        while moved < MOST_AT_ONCE {
            self.rotate()?;
            let mut offset = self.offset;
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
            let room = usize::try_from(self.max_size - self.offset).unwrap_or(usize::MAX).min(MOST_AT_ONCE);
            match splice(from, None, self.bytes.as_fd(), Some(&mut offset), room, flags) {
                Err(Errno::AGAIN) if moved == 0 => return Err(Errno::AGAIN.into()),
                Ok(0) | Err(Errno::AGAIN) => return Ok(moved),
                Ok(n) => {
                    moved += n;
                    reached(Point::Spliced);
                    let length = u32::try_from(n).unwrap_or(u32::MAX);
                    self.push(length, if stderr { Kind::Stderr } else { Kind::Stdout })?;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(moved)
    }

    /// Notes that the main process ended with `exit` (-1: unknown).
    pub fn ended(&mut self, exit: i32, restarting: bool) -> io::Result<()> {
        self.push(exit.cast_unsigned(), if restarting { Kind::Restarts } else { Kind::Ended })
    }

    /// A line of ours among the container's, on its standard error: where its user looks.
    pub fn note(&mut self, text: &str) -> io::Result<()> {
        self.rotate()?;
        let line = format!("ficelle: {text}\n");
        self.bytes.write_all_at(line.as_bytes(), self.offset)?;
        self.push(u32::try_from(line.len()).unwrap_or(u32::MAX), Kind::Stderr)
    }

    fn push(&mut self, length: u32, kind: Kind) -> io::Result<()> {
        let entry = Entry { offset: self.offset, nanos: now(), length, kind };
        self.index.write_all_at(&entry.to_bytes(), self.entries * ENTRY as u64)?;
        self.entries += 1;
        self.offset += entry.size();
        Ok(())
    }

    /// Goes on in a new segment when this one is full. It is complete then: who reads it to its end and
    /// sees a later one has missed nothing.
    fn rotate(&mut self) -> io::Result<()> {
        if self.offset < self.max_size {
            return Ok(());
        }
        let (bytes, index) = files(&self.dir, self.number + 1).map_err(io::Error::other)?;
        reached(Point::Rotating);
        (self.bytes, self.index, self.number) = (bytes, index, self.number + 1);
        (self.offset, self.entries) = (0, 0);
        for number in segment::numbers(&self.dir).map_err(io::Error::other)? {
            if number + self.max_files <= self.number {
                segment::remove(&self.dir, number);
            }
        }
        Ok(())
    }
}

/// Of one segment, made where they are missing.
fn files(dir: &Path, number: u64) -> Result<(File, File)> {
    let open = |path: PathBuf| {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        file.map_err(|source| Error::File { what: "open log", path, source })
    };
    // The index last: it is what readers look for.
    let bytes = open(segment::bytes_path(dir, number))?;
    Ok((bytes, open(segment::index_path(dir, number))?))
}
