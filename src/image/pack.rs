//! A layer as registries and archives take it: its tar, and the tar compressed.
//!
//! What came compressed is given as it came. Of the rest the tar is made again (from a recipe, or of a
//! layer made here by the rule it was named by) and its digest checked, so what leaves the store is
//! what its image says.

use std::{
    fs::File,
    io::{self, BufWriter, Read, Write},
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use flate2::{Compress, Compression, Crc, FlushCompress};
use oci_spec::image::{Descriptor, MediaType};
use sha2::{Digest, Sha256};

use super::{
    ImageError,
    arrival::{KeptBlob, has_blob, is_plain},
    codec::{Hashing, digest_text, inflate},
    commit::parsed,
    ingest::RECIPE,
    layout::{Layout, file_error, hex},
    lease::Lease,
    lock::FileLock,
    recipe,
    record::LayerRecord,
    tarout::write_tar,
};

/// What one thread compresses at a time.
const PIECE: usize = 1 << 20;
const MAX_THREADS: usize = 8;

impl Layout {
    /// The layer's compressed form, made and kept if there is none. Of a layer that came as a plain
    /// tar the gzip is the same each time.
    pub(super) fn pack_layer(
        &self,
        lease: &Lease,
        diff_id: &str,
        heard: &(dyn Fn(u64) + Sync),
    ) -> Result<Descriptor, ImageError> {
        let name = hex(diff_id)?;
        let lock = self.lock(&format!("{name}.pack"));
        let _lock = FileLock::wait(&lock).map_err(file_error("lock", &lock))?;
        let record = self.layer_of(diff_id)?;
        if let Some(blob) = self.compressed(&record)? {
            lease.hold([blob.digest().as_ref()])?;
            return Ok(blob);
        }
        let file = lease.scratch_file()?;
        let failed = file_error("write", file.path());
        let mut out = Hashed::new(BufWriter::new(file.as_file()));
        let mut tar = Ok(());
        let packed = gzip(&mut out, |sink| {
            let mut sink = Heard { inner: sink, done: 0, heard };
            tar = self.write_layer_tar(diff_id, &mut sink);
            Ok(())
        });
        packed.and_then(|()| out.inner.flush()).map_err(failed)?;
        tar?;
        let (digest, size) = out.finish();
        let blob = Descriptor::new(MediaType::ImageLayerGzip, size, parsed(&digest)?);
        lease.hold([digest.as_str()])?;
        let place = self.blob(hex(&digest)?);
        file.as_file().sync_data().map_err(file_error("write", &place))?;
        file.persist(&place).map_err(|error| file_error("write", &place)(error.error))?;
        let record = LayerRecord { blob: Some(blob.clone()), ..record };
        self.write_json(&self.layer(name).join("meta.json"), &record)?;
        Ok(blob)
    }

    fn layer_of(&self, diff_id: &str) -> Result<LayerRecord, ImageError> {
        self.layer_record(hex(diff_id)?)?.ok_or_else(|| ImageError::NotFound(format!("layer {diff_id}")))
    }

    /// The blob of a layer when it is there and compressed.
    fn compressed(&self, record: &LayerRecord) -> Result<Option<Descriptor>, ImageError> {
        let Some(blob) = &record.blob else { return Ok(None) };
        Ok((!is_plain(blob) && has_blob(self, blob)?).then(|| blob.clone()))
    }

    /// Stores the plain tar of a layer that cannot be made again from its files. `source` may be compressed.
    pub(super) fn keep_tar(
        &self,
        lease: &Lease,
        diff_id: &str,
        source: impl Read + Send,
    ) -> Result<Descriptor, ImageError> {
        let kept = KeptBlob::new(lease)?;
        let unreadable =
            |error| ImageError::Invalid(format!("layer {diff_id} cannot be read again: {error}"));
        let mut plain = Hashing::new(kept.tee(inflate(source).map_err(unreadable)?)?);
        io::copy(&mut plain, &mut io::sink()).map_err(unreadable)?;
        let (digest, size) = plain.finish();
        if digest != diff_id {
            return Err(ImageError::Invalid(format!("layer {diff_id} was changed while it was read")));
        }
        let blob = Descriptor::new(MediaType::ImageLayer, size, parsed(&digest)?);
        kept.store(self, &blob)?;
        Ok(blob)
    }

    /// Writes the layer's tar; its digest is the diff id, or there is an error at the end.
    pub(super) fn write_layer_tar(&self, diff_id: &str, out: &mut dyn Write) -> Result<(), ImageError> {
        let name = hex(diff_id)?;
        let record = self.layer_of(diff_id)?;
        let (fs, recipe) = (self.layer(name).join("fs"), self.layer(name).join(RECIPE));
        let mut out = Hashed::new(out);
        let blob = match &record.blob {
            Some(blob) if has_blob(self, blob)? => Some(self.blob(hex(blob.digest().as_ref())?)),
            _ => None,
        };
        if let Some(blob) = blob {
            let mut copy = || io::copy(&mut inflate(File::open(&blob)?)?, &mut out);
            copy().map_err(file_error("read", &blob))?;
        } else if recipe.exists() {
            recipe::replay(&recipe, &fs, &mut out).map_err(file_error("read layer", &fs))?;
        } else {
            write_tar(&fs, &mut out).map_err(file_error("read layer", &fs))?;
        }
        let (found, _) = out.finish();
        if found == diff_id {
            return Ok(());
        }
        Err(ImageError::Invalid(format!(
            "layer {diff_id} cannot be made again from its files in `{}`: they give {found}; \
             pull or load its image anew",
            fs.display()
        )))
    }
}

/// Compresses what `write` writes, on several threads: one member of gzip, the same bytes each time,
/// whatever the number of threads.
fn gzip(
    out: &mut (dyn Write + Send),
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    type Job = (Vec<u8>, SyncSender<io::Result<(Vec<u8>, Crc)>>);
    let threads = std::thread::available_parallelism().map_or(2, |count| count.get().min(MAX_THREADS));
    let (jobs, taken) = sync_channel::<Job>(threads);
    let (order, ordered) = sync_channel::<Receiver<io::Result<(Vec<u8>, Crc)>>>(threads);
    let taken = Mutex::new(taken);
    // No time, no name: the same for the same content.
    out.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255])?;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let job = taken.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((piece, answer)) = job else { return };
                    // Nobody may wait for it any more.
                    let _ = answer.send(deflate(&piece));
                }
            });
        }
        let writer = scope.spawn(move || -> io::Result<()> {
            let mut crc = Crc::new();
            for piece in ordered {
                let (bytes, part) = piece.recv().map_err(io::Error::other)??;
                crc.combine(&part);
                out.write_all(&bytes)?;
            }
            // An empty last block, then the sum and the length.
            out.write_all(&[3, 0])?;
            out.write_all(&crc.sum().to_le_bytes())?;
            out.write_all(&crc.amount().to_le_bytes())
        });
        let mut pieces = Pieces {
            piece: Vec::with_capacity(PIECE),
            send: |piece| {
                let (answer, answered) = sync_channel(1);
                let gone = || io::Error::other("nobody writes any more");
                jobs.send((piece, answer)).map_err(|_| gone())?;
                order.send(answered).map_err(|_| gone())
            },
        };
        let written = write(&mut pieces).and_then(|()| pieces.flush());
        drop(pieces);
        drop((jobs, order));
        let done = writer.join().unwrap_or_else(|_| Err(io::Error::other("a thread has failed")));
        // The writer's error is the reason for the other one.
        done.and(written)
    })
}

/// Blocks of deflate that end at a whole byte and are not the last.
fn deflate(piece: &[u8]) -> io::Result<(Vec<u8>, Crc)> {
    let mut crc = Crc::new();
    crc.update(piece);
    let mut compress = Compress::new(Compression::default(), false);
    let mut out = Vec::with_capacity(piece.len() / 2 + 1024);
    loop {
        let read = usize::try_from(compress.total_in()).map_err(io::Error::other)?;
        compress.compress_vec(&piece[read..], &mut out, FlushCompress::Sync).map_err(io::Error::other)?;
        if compress.total_in() == piece.len() as u64 && out.len() < out.capacity() {
            return Ok((out, crc));
        }
        out.reserve(out.capacity());
    }
}

/// Cuts what is written into pieces.
struct Pieces<F> {
    piece: Vec<u8>,
    send: F,
}

impl<F: FnMut(Vec<u8>) -> io::Result<()>> Write for Pieces<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..length]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        (self.send)(std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE)))
    }
}

/// Hashes and counts what is written through it.
struct Hashed<W> {
    inner: W,
    hash: Sha256,
    length: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), length: 0 }
    }

    /// `sha256:<hex>` and number of the bytes written.
    fn finish(self) -> (String, u64) {
        (digest_text(self.hash), self.length)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.hash.update(&bytes[..length]);
        self.length += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Tells how many bytes were written.
struct Heard<'a> {
    inner: &'a mut dyn Write,
    done: u64,
    heard: &'a (dyn Fn(u64) + Sync),
}

impl Write for Heard<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.done += length as u64;
        (self.heard)(self.done);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_in_pieces_opens_as_one() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17] {
            let bytes: Vec<u8> =
                (0..length).map(|at| u8::try_from((at * at / 7) % 251).unwrap_or_default()).collect();
            let mut packed = Vec::new();
            gzip(&mut packed, |out| out.write_all(&bytes)).unwrap();
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut plain).unwrap();
            assert!(plain == bytes, "{length}");
        }
    }

    #[test]
    fn an_error_of_either_side_is_told() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if bytes.len() == 10 { Ok(10) } else { Err(io::Error::other("full")) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = gzip(&mut Full, |out| out.write_all(&vec![1; 20 * PIECE])).unwrap_err();
        assert_eq!(error.to_string(), "full");
        let error = gzip(&mut Vec::new(), |_| Err(io::Error::other("lost"))).unwrap_err();
        assert_eq!(error.to_string(), "lost");
    }
}
