//! An overlay's upper directory as the tar a registry gets: the same bytes for the same content.
//!
//! Entries are sorted, names are those of the layer form: overlayfs's whiteouts become `.wh.` files.

use std::{
    collections::HashMap,
    fs, io,
    io::{Read, Write},
    os::unix::{ffi::OsStrExt, fs::FileTypeExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use tar::{EntryType, Header};

use super::untar::Facts;

/// Larger values do not fit the field of a plain header.
const MAX_OCTAL_ID: u32 = 0o7_777_777;
const MAX_OCTAL_SIZE: u64 = 0o77_777_777_777;

/// Writes the tree below `root` (the root itself excluded) and says what it was.
pub(super) fn write_tar(root: &Path, out: &mut dyn Write) -> io::Result<Facts> {
    let mut writer = Writer { root, out, links: HashMap::new(), facts: Facts::default() };
    // Directories still to be listed; names within one are sorted, a directory's content follows it.
    let mut open = vec![writer.sorted(Path::new(""))?];
    while let Some(level) = open.last_mut() {
        let Some(path) = level.pop() else {
            open.pop();
            continue;
        };
        if writer.entry(&path)? {
            open.push(writer.sorted(&path)?);
        }
    }
    writer.out.write_all(&[0; 1024])?;
    Ok(writer.facts)
}

struct Writer<'a> {
    root: &'a Path,
    out: &'a mut dyn Write,
    /// First name of each inode that has several.
    links: HashMap<(u64, u64), PathBuf>,
    facts: Facts,
}

impl Writer<'_> {
    /// Paths below the directory, the last name first.
    fn sorted(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(self.root.join(directory))? {
            paths.push(directory.join(entry?.file_name()));
        }
        paths.sort_by(|a, b| b.as_os_str().as_bytes().cmp(a.as_os_str().as_bytes()));
        Ok(paths)
    }

    /// Writes one entry; `true` for a directory.
    fn entry(&mut self, path: &Path) -> io::Result<bool> {
        let full = self.root.join(path);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("`{}`: {error}", full.display()));
        let metadata = fs::symlink_metadata(&full).map_err(named)?;
        let name = path.as_os_str().as_bytes();
        if path.file_name().is_some_and(|leaf| leaf.as_bytes().starts_with(b".wh.")) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("`{}`: a layer cannot hold a name that begins with `.wh.`", full.display()),
            ));
        }
        let kind = metadata.file_type();
        if kind.is_socket() {
            // A socket is nothing without its process.
            return Ok(false);
        }
        self.facts.entries += 1;
        if kind.is_char_device() && metadata.rdev() == 0 {
            self.whiteout(path)?;
            return Ok(false);
        }
        let mut entry = Out::new(&metadata);
        if !kind.is_dir() && metadata.nlink() > 1 {
            if let Some(first) = self.links.get(&(metadata.dev(), metadata.ino())) {
                let target = first.as_os_str().as_bytes().to_vec();
                entry.kind(EntryType::Link, 0)?;
                entry.write(self.out, name, &target)?;
                return Ok(false);
            }
            self.links.insert((metadata.dev(), metadata.ino()), path.to_owned());
        }
        let mut opaque = false;
        for (attribute, value) in xattrs(&full).map_err(named)? {
            match attribute.as_slice() {
                b"trusted.overlay.opaque" | b"user.overlay.opaque" => opaque = value == b"y",
                b"trusted.overlay.redirect"
                | b"user.overlay.redirect"
                | b"trusted.overlay.metacopy"
                | b"user.overlay.metacopy" => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!(
                            "`{}` was moved by reference; mount with redirect_dir=off,metacopy=off",
                            full.display()
                        ),
                    ));
                }
                other if other.starts_with(b"trusted.overlay.") || other.starts_with(b"user.overlay.") => {}
                b"security.selinux" => {}
                _ => entry.xattrs.push((attribute, value)),
            }
        }
        if kind.is_dir() {
            entry.kind(EntryType::Directory, 0)?;
            let mut slashed = name.to_vec();
            slashed.push(b'/');
            entry.write(self.out, &slashed, b"")?;
            if opaque {
                let mut marker = Out::new(&metadata);
                marker.kind(EntryType::Regular, 0)?;
                marker.write(self.out, path.join(".wh..wh..opq").as_os_str().as_bytes(), b"")?;
            }
            return Ok(true);
        }
        if kind.is_symlink() {
            let target = fs::read_link(&full).map_err(named)?;
            entry.kind(EntryType::Symlink, 0)?;
            entry.write(self.out, name, target.as_os_str().as_bytes())?;
        } else if kind.is_file() {
            self.facts.size += metadata.len();
            entry.kind(EntryType::Regular, metadata.len())?;
            entry.write(self.out, name, b"")?;
            let file = fs::File::open(&full).map_err(named)?;
            let copied = io::copy(&mut file.take(metadata.len()), self.out).map_err(named)?;
            if copied != metadata.len() {
                return Err(io::Error::other(format!("`{}` changed while it was read", full.display())));
            }
            pad(self.out, copied)?;
        } else {
            let device = if kind.is_fifo() {
                EntryType::Fifo
            } else if kind.is_char_device() {
                EntryType::Char
            } else {
                EntryType::Block
            };
            entry.kind(device, 0)?;
            entry.header.set_device_major(rustix::fs::major(metadata.rdev()))?;
            entry.header.set_device_minor(rustix::fs::minor(metadata.rdev()))?;
            entry.write(self.out, name, b"")?;
        }
        Ok(false)
    }

    fn whiteout(&mut self, path: &Path) -> io::Result<()> {
        let mut leaf = std::ffi::OsString::from(".wh.");
        leaf.push(path.file_name().unwrap_or_default());
        let mut marker = Out { header: nobodys(EntryType::Regular, 0), pax: Vec::new(), xattrs: Vec::new() };
        marker.kind(EntryType::Regular, 0)?;
        marker.write(self.out, path.with_file_name(leaf).as_os_str().as_bytes(), b"")
    }
}

/// An entry on its way out.
struct Out {
    header: Header,
    pax: Vec<(Vec<u8>, Vec<u8>)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Out {
    fn new(metadata: &fs::Metadata) -> Self {
        let mut header = Header::new_ustar();
        let mut pax = Vec::new();
        header.set_mode(metadata.mode() & 0o7777);
        for (key, id) in [(b"uid".to_vec(), metadata.uid()), (b"gid".to_vec(), metadata.gid())] {
            if id > MAX_OCTAL_ID {
                pax.push((key, id.to_string().into_bytes()));
            }
        }
        header.set_uid(metadata.uid().min(MAX_OCTAL_ID).into());
        header.set_gid(metadata.gid().min(MAX_OCTAL_ID).into());
        match u64::try_from(metadata.mtime()) {
            Ok(time) if time <= MAX_OCTAL_SIZE => header.set_mtime(time),
            _ => {
                header.set_mtime(0);
                pax.push((b"mtime".to_vec(), metadata.mtime().to_string().into_bytes()));
            }
        }
        Self { header, pax, xattrs: Vec::new() }
    }

    fn kind(&mut self, kind: EntryType, size: u64) -> io::Result<()> {
        self.header.set_entry_type(kind);
        self.header.set_size(size.min(MAX_OCTAL_SIZE));
        if size > MAX_OCTAL_SIZE {
            self.pax.push((b"size".to_vec(), size.to_string().into_bytes()));
        }
        self.header.set_device_major(0)?;
        self.header.set_device_minor(0)
    }

    fn write(mut self, out: &mut dyn Write, name: &[u8], link: &[u8]) -> io::Result<()> {
        let old = self.header.as_old_mut();
        for (field, key, value) in [(&mut old.name, "path", name), (&mut old.linkname, "linkpath", link)] {
            if value.len() > field.len() {
                self.pax.push((key.as_bytes().to_vec(), value.to_vec()));
            }
            let length = value.len().min(field.len());
            field[..length].copy_from_slice(&value[..length]);
        }
        self.xattrs.sort();
        for (name, value) in std::mem::take(&mut self.xattrs) {
            self.pax.push(([b"SCHILY.xattr.", name.as_slice()].concat(), value));
        }
        if !self.pax.is_empty() {
            let records: Vec<u8> = self.pax.iter().flat_map(|(key, value)| record(key, value)).collect();
            let mut header = nobodys(EntryType::XHeader, 0o644);
            header.set_path("PaxHeaders/x")?;
            header.set_size(records.len() as u64);
            header.set_cksum();
            out.write_all(header.as_bytes())?;
            out.write_all(&records)?;
            pad(out, records.len() as u64)?;
        }
        self.header.set_cksum();
        out.write_all(self.header.as_bytes())
    }
}

/// `<length> <key>=<value>\n`; the length counts its own digits.
pub(super) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// The header of what is no file here: the same bytes each time.
pub(super) fn nobodys(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Fills the last block of an entry's data.
pub(super) fn pad(out: &mut dyn Write, written: u64) -> io::Result<()> {
    let rest = usize::try_from((512 - written % 512) % 512).unwrap_or_default();
    out.write_all(&[0; 512][..rest])
}

/// Names and values of all extended attributes of a file, not followed.
pub(super) fn xattrs(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0u8; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
        length => length?,
    };
    let mut found = Vec::new();
    let mut value = vec![0u8; 64 << 10];
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        found.push((name.to_vec(), value[..length].to_vec()));
    }
    found.sort();
    Ok(found)
}
