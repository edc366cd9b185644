//! The files of an image archive: a tar, a compressed tar, or a directory of the same form.
//!
//! Knows names and bytes only; what they mean is load.rs's.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use tar::EntryType;

use super::{
    ImageError,
    codec::{Compression, inflate},
    layout::file_error,
    lease::Lease,
    tarin::TarReader,
};

/// Of one JSON document of an archive.
const MAX_DOCUMENT: u64 = 8 << 20;
const MAX_ENTRIES: usize = 1_000_000;
const MAX_LINKS: u32 = 8;

/// A file's bytes, read as they are needed, and how many there are.
pub(super) type Opened = (Box<dyn Read + Send>, u64);

pub(super) struct Archive {
    /// As the user named it.
    pub(super) path: PathBuf,
    form: Form,
}

enum Form {
    Tar { file: Arc<File>, entries: HashMap<String, Entry> },
    Directory(File),
}

enum Entry {
    File {
        offset: u64,
        size: u64,
    },
    /// Older archives hold a layer once and link to it.
    Link(String),
}

impl Archive {
    /// A compressed archive, or one that comes through a pipe, is spooled into `lease`'s scratch.
    pub(super) fn open(path: &Path, lease: &Lease) -> Result<Self, ImageError> {
        let opened = if path == Path::new("-") { Path::new("/dev/stdin") } else { path };
        let file = File::open(opened).map_err(file_error("open", path))?;
        let metadata = file.metadata().map_err(file_error("open", path))?;
        let form = if metadata.is_dir() {
            Form::Directory(file)
        } else {
            let file = plain(file, metadata.is_file(), lease).map_err(|error| unreadable(path, &error))?;
            let entries = index(&file).map_err(|error| unreadable(path, &error))?;
            Form::Tar { file: Arc::new(file), entries }
        };
        Ok(Self { path: path.to_owned(), form })
    }

    /// `None` when there is no such file.
    pub(super) fn file(&self, name: &str) -> Result<Option<Opened>, ImageError> {
        let name = clean(name)
            .ok_or_else(|| self.wrong(&format!("names the file `{name}`, which is outside of it")))?;
        match &self.form {
            Form::Tar { file, entries } => {
                let mut name = name;
                for _ in 0..MAX_LINKS {
                    match entries.get(&name) {
                        Some(Entry::File { offset, size }) => {
                            let part = Part { file: Arc::clone(file), at: *offset, end: offset + size };
                            return Ok(Some((Box::new(part), *size)));
                        }
                        Some(Entry::Link(target)) => name.clone_from(target),
                        None => return Ok(None),
                    }
                }
                Err(self.wrong(&format!("has a circle of links at `{name}`")))
            }
            Form::Directory(directory) => {
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let place = self.path.join(&name);
                match rustix::fs::openat2(directory, &name, flags, Mode::empty(), resolve) {
                    Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
                    Err(error) => Err(file_error("open", &place)(error.into())),
                    Ok(opened) => {
                        let file = File::from(opened);
                        let metadata = file.metadata().map_err(file_error("open", &place))?;
                        if !metadata.is_file() {
                            return Err(self.wrong(&format!("has `{name}`, which is no file")));
                        }
                        Ok(Some((Box::new(file), metadata.len())))
                    }
                }
            }
        }
    }

    /// A JSON document of at most 8 MiB; `None` when it is not there.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let Some((source, size)) = self.file(name)? else { return Ok(None) };
        if size > MAX_DOCUMENT {
            return Err(
                self.wrong(&format!("has `{name}` of {size} bytes; no document is larger than 8 MiB"))
            );
        }
        let mut bytes = Vec::new();
        source
            .take(MAX_DOCUMENT)
            .read_to_end(&mut bytes)
            .map_err(|error| self.wrong(&format!("cannot be read at `{name}`: {error}")))?;
        Ok(Some(bytes))
    }

    pub(super) fn wrong(&self, what: &str) -> ImageError {
        ImageError::Invalid(format!("archive `{}` {what}", self.path.display()))
    }
}

fn unreadable(path: &Path, error: &io::Error) -> ImageError {
    ImageError::Invalid(format!("`{}` cannot be read as an image archive: {error}", path.display()))
}

/// The archive as a file of plain tar.
fn plain(mut file: File, regular: bool, lease: &Lease) -> io::Result<File> {
    let mut start = [0; 6];
    if regular {
        let length = file.read_at(&mut start, 0)?;
        if Compression::of(&start[..length]) == Compression::None {
            return Ok(file);
        }
        file.seek(SeekFrom::Start(0))?;
    }
    let scratch = lease.scratch().map_err(io::Error::other)?;
    let path = scratch.path().join("spool");
    let mut spool = File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    io::copy(&mut inflate(file)?, &mut spool)?;
    Ok(spool)
}

/// Where each file of the tar stands. Contents are passed over by seeking.
fn index(mut file: &File) -> io::Result<HashMap<String, Entry>> {
    let mut entries = HashMap::new();
    let mut position = 0;
    loop {
        file.seek(SeekFrom::Start(position))?;
        let mut reader = TarReader::new(BufReader::new(file));
        let Some(entry) = reader.next_entry()? else { return Ok(entries) };
        if entries.len() >= MAX_ENTRIES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it has more than 1000000 entries"));
        }
        let offset = position + entry.offset;
        position = offset
            .checked_add(entry.size)
            .and_then(|end| end.checked_next_multiple_of(512))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an entry's size is out of range"))?;
        let Ok(path) = String::from_utf8(entry.path) else { continue };
        let Some(name) = clean(&path) else { continue };
        match entry.kind {
            EntryType::Regular | EntryType::Continuous if entry.sparse.is_none() => {
                entries.insert(name, Entry::File { offset, size: entry.size });
            }
            EntryType::Symlink | EntryType::Link => {
                let Ok(target) = String::from_utf8(entry.link) else { continue };
                let parent = match name.rsplit_once('/') {
                    Some((parent, _)) if entry.kind == EntryType::Symlink => parent,
                    _ => "",
                };
                if let Some(target) = clean(&format!("{parent}/{target}")) {
                    entries.insert(name, Entry::Link(target));
                }
            }
            _ => {}
        }
    }
}

/// A relative path without `.` and `..`; `None` when it leads out.
fn clean(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// A stretch of a file; several can be read at the same time.
struct Part {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        if wanted == 0 {
            return Ok(0);
        }
        let length = self.file.read_at(&mut buffer[..wanted], self.at)?;
        if length == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut off"));
        }
        self.at += length as u64;
        Ok(length)
    }
}
