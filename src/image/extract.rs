//! Archives that a build adds to an image: whether a file is one, and its files in a directory.

use std::{
    fs::File,
    io::{self, BufReader, Seek, SeekFrom},
    path::Path,
};

use super::{ImageError, codec::inflate, ingest::unpack_plain, tarin::TarReader};

/// What a file is, by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveKind {
    /// A tar archive, plain or compressed: gzip, bzip2, xz or zstd.
    Tar,
    /// Anything else.
    File,
}

/// Looks at the start of `file`, and leaves it there.
pub fn archive_kind(mut file: &File) -> io::Result<ArchiveKind> {
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
