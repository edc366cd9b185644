//! Reads a tar archive entry by entry, with bounds on everything an archive can make large.
//!
//! The `tar` crate gives the shape of a header block; what follows from several blocks (long names,
//! PAX records, sparse maps) is put together here: PAX values are binary and may hold line feeds,
//! and a name may not cost more memory than a name can have. Knows nothing of files on disk.

use std::io::{self, BufRead, Read};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::{codec::read_filled, pax::Pax};

const BLOCK: u64 = 512;
/// Of a long name or of all PAX records of one entry.
const MAX_EXTENSION: u64 = 1 << 20;
/// Regions of one sparse file.
pub(super) const MAX_REGIONS: usize = 100_000;

/// What an archive says of one file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// As it stands in the archive.
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: EntryType,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    /// Seconds and nanoseconds since 1970.
    pub(super) mtime: (i64, u32),
    /// Major and minor number.
    pub(super) device: (u64, u64),
    /// Bytes of data in the archive.
    pub(super) size: u64,
    /// Where the data stands, counted from the start of the archive.
    pub(super) offset: u64,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Option<Sparse>,
}

/// A file with holes: its whole size, and the regions (offset, length) that the data fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sparse {
    pub(super) size: u64,
    pub(super) regions: Vec<(u64, u64)>,
}

/// The archive. As [`BufRead`] it gives the data of the current entry.
#[derive(Debug)]
pub(super) struct TarReader<R> {
    input: R,
    /// Bytes taken from `input`.
    position: u64,
    /// Of the current entry: data not yet read, and padding behind it.
    left: u64,
    padding: u64,
    ended: bool,
}

impl<R: BufRead> TarReader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, position: 0, left: 0, padding: 0, ended: false }
    }

    /// The next entry; what was not read of the one before is skipped.
    pub(super) fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let mut long_path = None;
        let mut long_link = None;
        let mut pax: Option<Pax> = None;
        loop {
            let Some(header) = self.header()? else {
                return if long_path.is_some() || long_link.is_some() || pax.is_some() {
                    Err(broken("it ends behind a header that describes a further entry"))
                } else {
                    Ok(None)
                };
            };
            let kind = header.entry_type();
            match kind {
                EntryType::GNULongName => once(&mut long_path, self.long_name(&header)?)?,
                EntryType::GNULongLink => once(&mut long_link, self.long_name(&header)?)?,
                EntryType::XHeader => {
                    let records = self.extension(&header)?;
                    once(&mut pax, Pax::parse(&records)?)?;
                }
                // Defaults for the entries that follow; layers carry only comments in it.
                EntryType::XGlobalHeader => drop(self.extension(&header)?),
                _ => return self.entry(&header, long_path, long_link, pax.unwrap_or_default()).map(Some),
            }
        }
    }

    pub(super) fn input_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// Reads on to the end of the input, so that a digest over it covers all of it.
    pub(super) fn finish(mut self) -> io::Result<()> {
        loop {
            let length = self.input.fill_buf()?.len();
            if length == 0 {
                return Ok(());
            }
            self.input.consume(length);
        }
    }

    /// The next header block with a right checksum; `None` at the end.
    fn header(&mut self) -> io::Result<Option<Header>> {
        self.skip()?;
        if self.ended {
            return Ok(None);
        }
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < block.len() {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => {
                    self.ended = true;
                    return Ok(None);
                }
                Ok(0) => return Err(broken("it ends within a header")),
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.position += BLOCK;
        if block.iter().all(|byte| *byte == 0) {
            self.ended = true;
            return Ok(None);
        }
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) })
            .sum();
        if number(&header.as_old().cksum, "checksum").ok() != Some(sum) {
            return Err(broken(
                "the checksum of a header is wrong; this is no tar archive, or it is damaged",
            ));
        }
        Ok(Some(header))
    }

    fn entry(
        &mut self,
        header: &Header,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        pax: Pax,
    ) -> io::Result<Entry> {
        let old = header.as_old();
        let mut kind = header.entry_type();
        let path = pax
            .sparse_name
            .clone()
            .or(pax.path.clone())
            .or(long_path)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = pax.link.clone().or(long_link).unwrap_or_else(|| {
            header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default()
        });
        if path.contains(&0) || link.contains(&0) {
            return Err(broken("a name holds a NUL byte"));
        }
        if matches!(kind, EntryType::Regular) && path.ends_with(b"/") {
            kind = EntryType::Directory;
        }
        // Links, directories and devices have no data, whatever their size says.
        let size = match kind {
            EntryType::Link
            | EntryType::Symlink
            | EntryType::Char
            | EntryType::Block
            | EntryType::Directory
            | EntryType::Fifo => 0,
            _ => match pax.size {
                Some(size) => size,
                None => number(&old.size, "size")?,
            },
        };
        self.begin(size)?;
        let device = match (header.as_ustar(), header.as_gnu()) {
            (Some(h), _) => (number(&h.dev_major, "device")?, number(&h.dev_minor, "device")?),
            (_, Some(h)) => (number(&h.dev_major, "device")?, number(&h.dev_minor, "device")?),
            _ => (0, 0),
        };
        let mut sparse = None;
        if kind == EntryType::GNUSparse {
            sparse = Some(self.gnu_sparse(header)?);
            kind = EntryType::Regular;
        } else if kind.is_file() {
            sparse = self.pax_sparse(&pax)?;
        }
        if let Some(sparse) = &sparse {
            sparse.check(self.left)?;
        }
        let mode = number(&old.mode, "mode")? & 0o7777;
        Ok(Entry {
            path,
            link,
            kind,
            mode: u32::try_from(mode).unwrap_or_default(),
            uid: pax.uid.map_or_else(|| number(&old.uid, "uid"), Ok)?,
            gid: pax.gid.map_or_else(|| number(&old.gid, "gid"), Ok)?,
            mtime: pax
                .mtime
                .map_or_else(|| Ok((number(&old.mtime, "mtime")?.cast_signed(), 0)), Ok::<_, io::Error>)?,
            device,
            size: self.left,
            offset: self.position,
            xattrs: pax.xattrs,
            sparse,
        })
    }

    fn begin(&mut self, size: u64) -> io::Result<()> {
        let blocks = size.checked_add(BLOCK - 1).ok_or_else(|| broken("an entry's size is out of range"))?;
        self.left = size;
        self.padding = (blocks & !(BLOCK - 1)) - size;
        Ok(())
    }

    fn skip(&mut self) -> io::Result<()> {
        let whole = self.left + self.padding;
        let mut left = whole;
        self.left = 0;
        self.padding = 0;
        while left > 0 {
            let length = self.input.fill_buf()?.len();
            if length == 0 {
                return Err(broken("it ends within an entry"));
            }
            let take = usize::try_from(left).map_or(length, |left| left.min(length));
            self.input.consume(take);
            left -= take as u64;
        }
        self.position += whole;
        Ok(())
    }

    fn extension(&mut self, header: &Header) -> io::Result<Vec<u8>> {
        let size = number(&header.as_old().size, "size")?;
        if size > MAX_EXTENSION {
            return Err(broken("the extended header of an entry is larger than 1 MiB"));
        }
        self.begin(size)?;
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        self.skip()?;
        Ok(bytes)
    }

    fn long_name(&mut self, header: &Header) -> io::Result<Vec<u8>> {
        let mut name = self.extension(header)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    /// The map of the old GNU form: four regions in the header, further ones in blocks behind it.
    fn gnu_sparse(&mut self, header: &Header) -> io::Result<Sparse> {
        let gnu = header.as_gnu().ok_or_else(|| broken("a sparse file without a GNU header"))?;
        let mut regions = Vec::new();
        let mut take = |list: &[GnuSparseHeader]| -> io::Result<()> {
            for region in list.iter().filter(|region| region.numbytes[0] != 0) {
                regions
                    .push((number(&region.offset, "sparse map")?, number(&region.numbytes, "sparse map")?));
            }
            if regions.len() > MAX_REGIONS {
                return Err(broken("a sparse file has more than 100000 regions"));
            }
            Ok(())
        };
        take(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.input.read_exact(block.as_mut_bytes())?;
            self.position += BLOCK;
            take(block.sparse())?;
            more = block.is_extended();
        }
        Ok(Sparse { size: number(&gnu.realsize, "real size")?, regions })
    }

    /// The map of the PAX forms 0.0, 0.1 (in records) and 1.0 (before the data).
    fn pax_sparse(&mut self, pax: &Pax) -> io::Result<Option<Sparse>> {
        let Some(size) = pax.sparse_size else { return Ok(None) };
        let regions = match pax.sparse_version {
            Some((1, 0)) => self.sparse_table()?,
            Some((0, _)) | None => pax.sparse_map.clone(),
            Some((major, minor)) => {
                return Err(broken(format!("sparse files of form {major}.{minor} are not known")));
            }
        };
        Ok(Some(Sparse { size, regions }))
    }

    fn sparse_table(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let mut taken = 0;
        let mut line = |reader: &mut Self| -> io::Result<u64> {
            let mut value: u64 = 0;
            loop {
                let mut byte = [0];
                reader.read_exact(&mut byte)?;
                taken += 1;
                match byte[0] {
                    b'\n' => return Ok(value),
                    digit @ b'0'..=b'9' => {
                        value = value
                            .checked_mul(10)
                            .and_then(|value| value.checked_add(u64::from(digit - b'0')))
                            .ok_or_else(|| broken("a number of a sparse map is out of range"))?;
                    }
                    _ => return Err(broken("a sparse map holds something other than numbers")),
                }
            }
        };
        let count = line(self)?;
        if count > MAX_REGIONS as u64 {
            return Err(broken("a sparse file has more than 100000 regions"));
        }
        let mut regions = Vec::new();
        for _ in 0..count {
            regions.push((line(self)?, line(self)?));
        }
        // The map is filled up to a whole block.
        let mut rest = vec![0; usize::try_from((BLOCK - taken % BLOCK) % BLOCK).unwrap_or_default()];
        self.read_exact(&mut rest)?;
        Ok(regions)
    }
}

impl Sparse {
    /// Ordered regions within the file that are exactly filled by `data` bytes.
    fn check(&self, data: u64) -> io::Result<()> {
        let mut end = 0;
        let mut sum: u64 = 0;
        for (offset, length) in &self.regions {
            let next = offset.checked_add(*length).ok_or_else(|| broken("a sparse map is out of range"))?;
            if *offset < end || next > self.size {
                return Err(broken("the regions of a sparse file overlap or leave it"));
            }
            end = next;
            sum += length;
        }
        if sum != data {
            return Err(broken("the map of a sparse file does not fit its data"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_filled(self, buffer)
    }
}

impl<R: BufRead> BufRead for TarReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let available = self.input.fill_buf()?;
        if available.is_empty() {
            return Err(broken("it ends within an entry"));
        }
        let length = usize::try_from(self.left).map_or(available.len(), |left| left.min(available.len()));
        Ok(&available[..length])
    }

    fn consume(&mut self, length: usize) {
        self.input.consume(length);
        self.left -= length as u64;
        self.position += length as u64;
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> io::Result<()> {
    match slot.replace(value) {
        Some(_) => Err(broken("two extended headers describe the same entry")),
        None => Ok(()),
    }
}

/// A numeric field: octal digits, or base 256 when the first bit is set. Blank means 0.
fn number(field: &[u8], what: &str) -> io::Result<u64> {
    let wrong = || broken(format!("the {what} of an entry is no number"));
    if field[0] & 0x80 != 0 {
        // Two's complement; only times may be negative, and those are read back as such.
        let negative = field[0] & 0x40 != 0;
        let start = if negative { u64::MAX } else { 0 };
        let mut value = if negative { start } else { u64::from(field[0] & 0x3f) };
        for byte in &field[1..] {
            let high = value >> 56;
            if high != if negative { 0xff } else { 0 } {
                return Err(wrong());
            }
            value = (value << 8) | u64::from(*byte);
        }
        return Ok(value);
    }
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default().trim_ascii();
    text.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'7' => Ok((value << 3) | u64::from(digit - b'0')),
        _ => Err(wrong()),
    })
}

pub(super) fn broken(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0", "mode").unwrap(), 0o644);
        assert_eq!(number(b"   644 \0", "mode").unwrap(), 0o644);
        assert_eq!(number(&[0; 8], "mode").unwrap(), 0);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 1, 0, 0], "size").unwrap(), 65536);
        assert_eq!(number(&[0xff; 12], "mtime").unwrap().cast_signed(), -1);
        assert!(number(b"00008\0\0\0", "mode").is_err());
        assert!(number(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "size").is_err());
    }
}
