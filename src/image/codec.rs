//! Streams between the threads of an ingest: chunks, compression, digests. Knows nothing of tar.

use std::{
    io::{self, BufRead, BufReader, Read},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

use sha2::{Digest, Sha256};

const CHUNK: usize = 256 * 1024;
/// Chunks in flight before the digest, and behind it: what a slow reader may cost in memory.
const IN_FLIGHT: usize = 6;

/// What unpacking xz may cost: `xz -9` asks for 65 MiB, a hostile header for 4 GiB.
const XZ_MEMORY_KIB: u32 = 128 << 10;

/// How a stream is compressed, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
    /// Of archives that ADD unpacks; registries have no such layers.
    Bzip2,
    Xz,
}

impl Compression {
    pub(super) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, as zstd:chunked archives may begin with.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Self::Xz,
            _ => Self::None,
        }
    }
}

/// The plain bytes of a stream that may be compressed.
pub(super) fn inflate<'a>(source: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut source = BufReader::with_capacity(CHUNK, source);
    let mut start = Vec::new();
    // A short first read must not hide the magic bytes.
    while start.len() < 6 {
        let mut byte = [0];
        match source.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => start.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let compression = Compression::of(&start);
    let source = io::Cursor::new(start).chain(source);
    Ok(match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(Gunzip::new(source)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(source)?),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(source, true, XZ_MEMORY_KIB)),
    })
}

/// Members of gzip one after the other, with zeros behind the last one as tape tools leave them.
struct Gunzip<R> {
    member: Option<flate2::bufread::GzDecoder<R>>,
}

impl<R: BufRead> Gunzip<R> {
    fn new(source: R) -> Self {
        Self { member: Some(flate2::bufread::GzDecoder::new(source)) }
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while let Some(member) = &mut self.member {
            let length = member.read(buffer)?;
            if length > 0 {
                return Ok(length);
            }
            let mut source =
                self.member.take().map(flate2::bufread::GzDecoder::into_inner).ok_or(io::ErrorKind::Other)?;
            let first = source.fill_buf()?.first().copied();
            match first {
                None => return Ok(0),
                Some(0) => return zeros(source).map(|()| 0),
                Some(_) => self.member = Some(flate2::bufread::GzDecoder::new(source)),
            }
        }
        Ok(0)
    }
}

fn zeros(mut source: impl BufRead) -> io::Result<()> {
    loop {
        let rest = source.fill_buf()?;
        if rest.is_empty() {
            return Ok(());
        }
        if rest.iter().any(|byte| *byte != 0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "there is garbage behind the compressed data",
            ));
        }
        let length = rest.len();
        source.consume(length);
    }
}

/// Counts and hashes what is read through it.
pub(super) struct Hashing<R> {
    inner: R,
    hash: Sha256,
    length: u64,
}

impl<R> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), length: 0 }
    }

    /// `sha256:<hex>` and number of the bytes read.
    pub(super) fn finish(self) -> (String, u64) {
        (digest_text(self.hash), self.length)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(&buffer[..length]);
        self.length += length as u64;
        Ok(length)
    }
}

/// `sha256:<hex>` of `bytes`.
pub(super) fn digest(bytes: &[u8]) -> String {
    digest_text(Sha256::new_with_prefix(bytes))
}

pub(super) fn digest_text(hash: Sha256) -> String {
    use std::fmt::Write as _;
    hash.finalize().iter().fold(String::from("sha256:"), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `Read` of what is `BufRead`.
pub(super) fn read_filled(source: &mut impl BufRead, buffer: &mut [u8]) -> io::Result<usize> {
    let available = source.fill_buf()?;
    let length = available.len().min(buffer.len());
    buffer[..length].copy_from_slice(&available[..length]);
    source.consume(length);
    Ok(length)
}

/// One thread's bytes for another one, by way of a third that hashes them; a few MiB at most in flight.
pub(super) fn pipe() -> (PipeWriter, PipeHasher, PipeReader) {
    let (sender, receiver) = sync_channel(IN_FLIGHT);
    let (handed_on, hashed) = sync_channel(IN_FLIGHT);
    let (returned, used) = sync_channel(2 * IN_FLIGHT);
    let reader =
        PipeReader { receiver: Some(hashed), returned, chunk: vec![0; CHUNK], filled: 0, at: 0, length: 0 };
    (PipeWriter { sender, used }, PipeHasher { receiver, sender: handed_on }, reader)
}

/// A buffer, and how much of it is filled.
type Filled = (Vec<u8>, usize);

pub(super) struct PipeWriter {
    sender: SyncSender<io::Result<Filled>>,
    /// Buffers that have been read: fresh memory costs a page fault for each 4 KiB.
    used: Receiver<Vec<u8>>,
}

impl PipeWriter {
    /// Sends all of `source`, then the error it ended with. `false` when it did not come to the end.
    pub(super) fn send_all(self, mut source: impl Read) -> bool {
        loop {
            let mut chunk = self.used.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
            let (filled, result) = fill(&mut source, &mut chunk);
            if filled > 0 && self.sender.send(Ok((chunk, filled))).is_err() {
                return false;
            }
            if let Err(error) = result {
                // The reader may have gone; then it has an error of its own.
                let _ = self.sender.send(Err(error));
                return false;
            }
            if filled == 0 {
                return true;
            }
        }
    }
}

pub(super) struct PipeHasher {
    receiver: Receiver<io::Result<Filled>>,
    sender: SyncSender<io::Result<Filled>>,
}

impl PipeHasher {
    /// Hands all on; `sha256:<hex>` of it, which is whole when it was read to the end.
    pub(super) fn hash_all(self) -> String {
        let mut hash = Sha256::new();
        for received in self.receiver {
            if let Ok((chunk, filled)) = &received {
                hash.update(&chunk[..*filled]);
            }
            if self.sender.send(received).is_err() {
                break;
            }
        }
        digest_text(hash)
    }
}

/// Reads until the buffer is full or nothing more comes: how much that is, and what it ended with.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> (usize, io::Result<()>) {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Err(error)),
        }
    }
    (filled, Ok(()))
}

pub(super) struct PipeReader {
    /// Gone when all has come, or when nobody is to send any more.
    receiver: Option<Receiver<io::Result<Filled>>>,
    returned: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    filled: usize,
    at: usize,
    length: u64,
}

impl PipeReader {
    /// Bytes that came through so far.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Wants no more: the writer ends at its next chunk.
    pub(super) fn close(&mut self) {
        self.receiver = None;
    }
}

impl BufRead for PipeReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.filled
            && let Some(receiver) = &self.receiver
        {
            match receiver.recv() {
                Ok(received) => {
                    let (chunk, filled) = received?;
                    // Its writer may have ended.
                    let _ = self.returned.try_send(std::mem::replace(&mut self.chunk, chunk));
                    (self.at, self.filled) = (0, filled);
                    self.length += filled as u64;
                }
                Err(_) => self.receiver = None,
            }
        }
        Ok(&self.chunk[self.at..self.filled])
    }

    fn consume(&mut self, length: usize) {
        self.at += length;
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_filled(self, buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const BZIP2: [u8; 51] = [
        66, 90, 104, 57, 49, 65, 89, 38, 83, 89, 52, 26, 92, 45, 0, 0, 4, 209, 128, 0, 16, 64, 0, 6, 2, 152,
        128, 32, 0, 49, 6, 76, 65, 1, 163, 210, 8, 225, 59, 99, 241, 119, 36, 83, 133, 9, 3, 65, 165, 194,
        208,
    ];
    const XZ: [u8; 68] = [
        253, 55, 122, 88, 90, 0, 0, 4, 230, 214, 180, 70, 2, 0, 33, 1, 22, 0, 0, 0, 116, 47, 229, 163, 1, 0,
        10, 115, 111, 109, 101, 32, 119, 111, 114, 100, 115, 10, 0, 0, 140, 253, 45, 240, 229, 73, 154, 61,
        0, 1, 35, 11, 194, 27, 253, 9, 31, 182, 243, 125, 1, 0, 0, 0, 0, 4, 89, 90,
    ];

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn plain(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        inflate(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn every_compression_of_images_is_opened() {
        let text = b"some words, some words".repeat(1000);
        assert_eq!(plain(&text).unwrap(), text);
        assert_eq!(plain(&gzip(&text)).unwrap(), text);
        assert_eq!(plain(&zstd::encode_all(text.as_slice(), 1).unwrap()).unwrap(), text);
        assert_eq!(plain(b"").unwrap(), b"");
    }

    #[test]
    fn other_compressions_of_archives_are_opened() {
        // `printf 'some words\n' | bzip2` and `| xz`.
        let bzip2: &[u8] = &BZIP2;
        let xz: &[u8] = &XZ;
        for bytes in [bzip2, xz] {
            assert_eq!(plain(bytes).unwrap(), b"some words\n");
            assert_eq!(plain(&bytes.repeat(2)).unwrap(), b"some words\n".repeat(2), "streams in a row");
            assert!(plain(&bytes[..bytes.len() - 3]).is_err(), "cut");
        }
    }

    #[test]
    fn xz_asks_for_no_more_memory_than_is_sane() {
        // Block header: one filter, LZMA2 with the dictionary size 40, 4 GiB less one byte (xz-file-format 5.3.1).
        let mut bytes = XZ[..12].to_vec();
        let header = [2, 0, 0x21, 1, 40, 0, 0, 0];
        bytes.extend(header);
        bytes.extend(crc32(&header).to_le_bytes());
        bytes.extend(&XZ[24..]);
        assert!(plain(&bytes).unwrap_err().to_string().contains("memory"));
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    }

    #[test]
    fn gzip_may_come_in_members_and_end_in_zeros() {
        let mut bytes = gzip(b"one ");
        bytes.extend(gzip(b""));
        bytes.extend(gzip(b"two"));
        bytes.extend([0; 700]);
        assert_eq!(plain(&bytes).unwrap(), b"one two");
        bytes.extend(b"x");
        assert!(plain(&bytes).unwrap_err().to_string().contains("garbage"));
    }

    #[test]
    fn a_cut_or_damaged_stream_is_an_error() {
        let whole = gzip(&b"words ".repeat(10_000));
        assert!(plain(&whole[..whole.len() - 9]).is_err());
        let mut damaged = whole.clone();
        let last = damaged.len() - 5;
        damaged[last] ^= 1;
        assert!(plain(&damaged).is_err());
        assert!(plain(b"BZh91AY").is_err());
    }

    #[test]
    fn the_pipe_hands_on_bytes_digest_and_error() {
        // Buffers go round several times.
        let bytes = vec![7; 3 * IN_FLIGHT * CHUNK + 5];
        let (writer, hasher, mut reader) = pipe();
        let mut out = Vec::new();
        let hashed = std::thread::scope(|scope| {
            scope.spawn(|| assert!(writer.send_all(bytes.as_slice())));
            let hashed = scope.spawn(|| hasher.hash_all());
            reader.read_to_end(&mut out).unwrap();
            hashed.join().unwrap()
        });
        assert_eq!(out, bytes);
        assert_eq!(hashed, digest(&bytes));
    }
}
