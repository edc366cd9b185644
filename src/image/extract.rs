//! Archives that a build adds to an image: whether a file is one, and its files in a directory.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use super::{
    ImageError,
    codec::{Compression, inflate},
    ingest::unpack_plain,
    tarin::TarReader,
};

/// What a file is, by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveKind {
    /// A tar archive, plain or compressed in a way that [`extract`] reads.
    Tar,
    /// Compressed in a way that it does not read.
    Foreign(&'static str),
    /// Anything else.
    File,
}

/// Looks at the start of `file`, and leaves it there.
pub fn archive_kind(mut file: &File) -> io::Result<ArchiveKind> {
    let mut start = Vec::new();
    file.take(6).read_to_end(&mut start)?;
    file.seek(SeekFrom::Start(0))?;
    if let Compression::Foreign(name) = Compression::of(&start) {
        return Ok(ArchiveKind::Foreign(name));
    }
    let is_tar = |file: File| -> io::Result<bool> {
        Ok(TarReader::new(BufReader::new(inflate(file)?)).next_entry()?.is_some())
    };
    let is_tar = is_tar(file.try_clone()?).unwrap_or(false);
    file.seek(SeekFrom::Start(0))?;
    Ok(if is_tar { ArchiveKind::Tar } else { ArchiveKind::File })
}

/// Extracts the archive into `fs` below `directory`, which is empty.
pub fn extract(file: File, directory: &Path) -> Result<(), ImageError> {
    unpack_plain(directory, file).map_err(|error| ImageError::Invalid(error.to_string()))
}
