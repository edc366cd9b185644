//! How to make a layer's tar again from its unpacked files, byte for byte.
//!
//! A docker archive gives layers as plain tars, and their digest is the layer's name for ever. Keeping
//! the tar would keep every file twice; so all that is not the content of a file (headers, padding) is
//! kept, compressed, and where each file's content stood between. Knows nothing of the store.
//!
//! A stream of zstd: again and again a number of bytes (`u32`, little endian) and the bytes, then the
//! length of a path (`u16`), the path, and the number of bytes (`u64`) of that file that follow. An
//! empty path stands for no file.

use std::{
    fs::File,
    io::{self, BufRead, Read, Write},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{codec::read_filled, tarin::broken};

/// Bytes between two files that are held before they are written.
const PIECE: usize = 1 << 20;

/// Writes down what passes, but for the content of files.
pub(super) struct Recipe {
    out: zstd::Encoder<'static, File>,
    between: Vec<u8>,
    /// Of the file whose content is passing: bytes still to come.
    content: u64,
    /// Told at the end: a reader's `consume` cannot fail.
    error: Option<io::Error>,
}

impl Recipe {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let out = zstd::Encoder::new(File::create_new(path)?, 1)?;
        Ok(Self { out, between: Vec::new(), content: 0, error: None })
    }

    /// The next `size` bytes are the content of the file at `path` of the layer.
    fn content(&mut self, path: &[u8], size: u64) {
        self.step(path, size);
        self.content = size;
    }

    fn pass(&mut self, bytes: &[u8]) {
        let skipped = usize::try_from(self.content).map_or(bytes.len(), |content| content.min(bytes.len()));
        self.content -= skipped as u64;
        self.between.extend_from_slice(&bytes[skipped..]);
        if self.between.len() >= PIECE {
            self.step(b"", 0);
        }
    }

    fn step(&mut self, path: &[u8], size: u64) {
        let result = self.write_step(path, size);
        self.between.clear();
        if let Err(error) = result {
            self.error.get_or_insert(error);
        }
    }

    fn write_step(&mut self, path: &[u8], size: u64) -> io::Result<()> {
        let length = u32::try_from(self.between.len()).map_err(io::Error::other)?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&self.between)?;
        self.out.write_all(&u16::try_from(path.len()).map_err(io::Error::other)?.to_le_bytes())?;
        self.out.write_all(path)?;
        self.out.write_all(&size.to_le_bytes())
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.step(b"", 0);
        self.error.map_or(Ok(()), Err)?;
        self.out.finish().map(drop)
    }
}

/// A reader that tells a recipe what is read through it.
pub(super) struct Recorded<'a, R> {
    inner: R,
    recipe: Option<&'a mut Recipe>,
}

impl<'a, R: BufRead> Recorded<'a, R> {
    pub(super) fn new(inner: R, recipe: Option<&'a mut Recipe>) -> Self {
        Self { inner, recipe }
    }

    /// As [`Recipe::content`].
    pub(super) fn content(&mut self, path: &[u8], size: u64) {
        if let Some(recipe) = &mut self.recipe
            && size > 0
        {
            recipe.content(path, size);
        }
    }
}

impl<R: BufRead> Read for Recorded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_filled(self, buffer)
    }
}

impl<R: BufRead> BufRead for Recorded<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        if let Some(recipe) = &mut self.recipe {
            // What is consumed has been filled before, so nothing is read here.
            match self.inner.fill_buf() {
                Ok(bytes) => recipe.pass(&bytes[..length.min(bytes.len())]),
                Err(error) => recipe.error = Some(error),
            }
        }
        self.inner.consume(length);
    }
}

/// Writes the tar that the recipe at `path` tells of, with the files below `root`. The caller checks
/// its digest: only that says that nothing has been changed since.
pub(super) fn replay(path: &Path, root: &Path, out: &mut dyn Write) -> io::Result<()> {
    let root: OwnedFd = File::open(root)?.into();
    let mut steps = io::BufReader::new(zstd::Decoder::new(File::open(path)?)?);
    while let Some(length) = first(&mut steps)? {
        copy(&mut steps, out, length.into())?;
        let mut field = [0; 2];
        steps.read_exact(&mut field)?;
        let mut name = vec![0; u16::from_le_bytes(field).into()];
        steps.read_exact(&mut name)?;
        let mut field = [0; 8];
        steps.read_exact(&mut field)?;
        let size = u64::from_le_bytes(field);
        if !name.is_empty() {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::openat2(&root, name.as_slice(), flags, Mode::empty(), resolve)?;
            copy(&mut File::from(file), out, size)?;
        }
    }
    Ok(())
}

/// The number that begins a step; `None` at the end of the recipe.
fn first(steps: &mut impl BufRead) -> io::Result<Option<u32>> {
    if steps.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut field = [0; 4];
    steps.read_exact(&mut field)?;
    Ok(Some(u32::from_le_bytes(field)))
}

fn copy(from: &mut impl Read, to: &mut dyn Write, size: u64) -> io::Result<()> {
    if io::copy(&mut from.take(size), to)? == size {
        Ok(())
    } else {
        Err(broken("a file is shorter than it was"))
    }
}
