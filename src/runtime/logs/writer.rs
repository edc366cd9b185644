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
    /// Made when there is something to write: many a container says nothing.
    files: Option<Files>,
    /// Ends of the two files.
    offset: u64,
    entries: u64,
}

#[derive(Debug)]
struct Files {
    bytes: File,
    index: File,
}

impl Writer {
    /// Opens the log in `dir`, where there is one, and gives bytes without an entry one. The directory is not
    /// made: that of a container that is being removed must not come back.
    pub fn open(dir: &Path, config: &LogConfig) -> Result<Self> {
        let last = segment::numbers(dir)?.last().copied();
        let mut writer = Self {
            dir: dir.to_owned(),
            max_size: config.max_size,
            max_files: config.max_files.max(1).into(),
            number: last.unwrap_or(0),
            files: last.map(|number| Files::open(dir, number)).transpose()?,
            offset: 0,
            entries: 0,
        };
        let failed = |source| Error::File { what: "repair log index", path: dir.to_owned(), source };
        writer.adopt().map_err(failed)?;
        Ok(writer)
    }

    /// Gives the bytes after the last entry an entry.
    fn adopt(&mut self) -> io::Result<()> {
        let Some(Files { bytes, index }) = &self.files else { return Ok(()) };
        let end = bytes.metadata()?.len();
        self.entries = index.metadata()?.len() / ENTRY as u64;
        if let Some(last) = self.entries.checked_sub(1) {
            let mut bytes = [0; ENTRY];
            index.read_exact_at(&mut bytes, last * ENTRY as u64)?;
            let last = Entry::from_bytes(&bytes);
            self.offset = last.offset + last.size();
        }
        while self.offset < end {
            let length = u32::try_from(end - self.offset).unwrap_or(u32::MAX);
            self.push(length, Kind::Stdout)?;
        }
        Ok(())
    }

    fn files(&mut self) -> io::Result<&Files> {
        let files = match self.files.take() {
            Some(files) => files,
            None => Files::open(&self.dir, self.number).map_err(io::Error::other)?,
        };
        Ok(self.files.insert(files))
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
            let into = self.files()?.bytes.as_fd();
            match splice(from, None, into, Some(&mut offset), room, flags) {
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
        let offset = self.offset;
        self.files()?.bytes.write_all_at(line.as_bytes(), offset)?;
        self.push(u32::try_from(line.len()).unwrap_or(u32::MAX), Kind::Stderr)
    }

    fn push(&mut self, length: u32, kind: Kind) -> io::Result<()> {
        let entry = Entry { offset: self.offset, nanos: now(), length, kind };
        let at = self.entries * ENTRY as u64;
        self.files()?.index.write_all_at(&entry.to_bytes(), at)?;
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
        let next = Files::open(&self.dir, self.number + 1).map_err(io::Error::other)?;
        reached(Point::Rotating);
        (self.files, self.number) = (Some(next), self.number + 1);
        (self.offset, self.entries) = (0, 0);
        for number in segment::numbers(&self.dir).map_err(io::Error::other)? {
            if number + self.max_files <= self.number {
                segment::remove(&self.dir, number);
            }
        }
        Ok(())
    }
}

impl Files {
    /// Of one segment, made where they are missing.
    fn open(dir: &Path, number: u64) -> Result<Self> {
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
        Ok(Self { bytes, index: open(segment::index_path(dir, number))? })
    }
}
