//! One layer of a pull: its bytes are written to `partial/<hex>`, hashed, inflated and unpacked as they
//! come. What was cut goes on where it ended, also in another process.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use oci_spec::image::Descriptor;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    ImageError,
    arrival::oci_blob,
    codec::Hashing,
    ingest::Wanted,
    layout::{Layout, file_error, hex},
    lease::Lease,
    lock::FileLock,
    registry::{Chunk, Client, Fault},
};

/// Pieces of a layer between the network and the thread that unpacks it, 256 KiB each at most.
const IN_FLIGHT: usize = 16;

/// A layer on its way.
pub(super) struct Fetch {
    pub(super) layout: Layout,
    pub(super) client: Arc<Client>,
    pub(super) lease: Arc<Lease>,
    pub(super) blob: Descriptor,
    pub(super) diff_id: String,
    pub(super) what: String,
    pub(super) number: usize,
    pub(super) heard: mpsc::UnboundedSender<(usize, u64)>,
    pub(super) gone: watch::Receiver<()>,
}

impl Fetch {
    /// Once more from the start when what came was damaged: a part kept from before, or a flipped bit.
    pub(super) async fn run(self) -> Result<(), Fault> {
        let this = Arc::new(self);
        let first = Arc::clone(&this).attempt().await;
        let last = if let Err(Setback::Damaged(_)) = first { this.attempt().await } else { first };
        last.map_err(|setback| match setback {
            Setback::Damaged(error) => Fault::Wrong(error),
            Setback::Final(fault) => fault,
        })
    }

    async fn attempt(self: Arc<Self>) -> Result<(), Setback> {
        let runtime = tokio::runtime::Handle::current();
        let failed = |what, source| ImageError::File { what, path: PathBuf::from(&self.what), source };
        // Not a thread of the runtime's, which would wait for it at its end: it may be waiting for
        // another process's lock.
        let (done, result) = oneshot::channel();
        let this = Arc::clone(&self);
        std::thread::Builder::new()
            .name("layer".into())
            .spawn(move || {
                let result = this.ingest(&runtime);
                // What it holds is free before anybody hears of its end.
                drop(this);
                done.send(result)
            })
            .map_err(|error| failed("start a thread for", error))?;
        result
            .await
            .unwrap_or_else(|_| Err(failed("unpack", io::Error::other("its thread has failed")).into()))
    }

    fn ingest(&self, runtime: &tokio::runtime::Handle) -> Result<(), Setback> {
        let layout = &self.layout;
        let Some(_claim) = layout.claim_layer(&self.diff_id)? else { return Ok(()) };
        let name = hex(self.blob.digest().as_ref())?;
        // Not the layer's lock, which an uncompressed layer has the same digest as.
        let lock = layout.lock(&format!("{name}.blob"));
        let _lock = FileLock::wait(&lock).map_err(file_error("lock", &lock))?;
        let path = layout.partial(name);
        let mut partial = self.open_partial(&path).map_err(file_error("open", &path))?;
        let there = partial.seek(io::SeekFrom::End(0)).map_err(file_error("read", &path))?;
        partial.rewind().map_err(file_error("read", &path))?;
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        let mut gone = self.gone.clone();
        let client = Arc::clone(&self.client);
        let blob = self.blob.clone();
        runtime.spawn(async move {
            tokio::select! {
                () = client.blob(&blob, there, sender) => {}
                // Nobody waits for the image any more; dropping the sender tells the thread.
                _ = gone.changed() => {}
            }
        });
        let mut fault = None;
        let source = Incoming {
            partial,
            kept: there,
            receiver,
            chunk: hyper::body::Bytes::new(),
            ended: false,
            done: 0,
            heard: &|done| {
                // Nobody may listen any more.
                let _ = self.heard.send((self.number, done));
            },
            fault: &mut fault,
        };
        let wanted =
            Wanted { diff_id: &self.diff_id, blob: Some(&self.blob), recipe: false, what: &self.what };
        let result = layout.ingest(&self.lease, &wanted, source, |_| {
            let place = layout.blob(name);
            std::fs::rename(&path, &place).map_err(file_error("write", &place))?;
            oci_blob(&self.blob).map(Some)
        });
        let Err(error) = result else { return Ok(()) };
        // The transfer's own words say more than "cut off", and what came so far is good for the next try.
        if let Some(fault @ (Fault::Unreachable(_) | Fault::Missing(_) | Fault::Denied(_))) = fault {
            return Err(Setback::Final(fault));
        }
        let right = digest_of(&path).is_ok_and(|found| found == self.blob.digest().as_ref());
        // The next try begins anew. A file that stays is found damaged once more.
        let _ = std::fs::remove_file(&path);
        Err(match fault {
            Some(fault) => Setback::Final(fault),
            None if right || !matches!(error, ImageError::Invalid(_)) => error.into(),
            None => Setback::Damaged(error),
        })
    }

    /// What an earlier try has left, if it can be the start of the blob.
    fn open_partial(&self, path: &Path) -> io::Result<File> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        if file.metadata()?.len() > self.blob.size() {
            file.set_len(0)?;
        }
        Ok(file)
    }
}

/// Why a layer did not come.
enum Setback {
    /// What came is not what its digest says; it may have been damaged on the way.
    Damaged(ImageError),
    Final(Fault),
}

impl From<ImageError> for Setback {
    fn from(error: ImageError) -> Self {
        Self::Final(Fault::Wrong(error))
    }
}

/// A blob as its bytes come: first what is kept of it, then what is sent, which is kept too.
struct Incoming<'a> {
    partial: File,
    /// Bytes of `partial` that were there before.
    kept: u64,
    receiver: mpsc::Receiver<Chunk>,
    chunk: hyper::body::Bytes,
    ended: bool,
    done: u64,
    heard: &'a (dyn Fn(u64) + Sync),
    fault: &'a mut Option<Fault>,
}

impl Read for Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.ended {
            return Ok(0);
        }
        if self.done < self.kept {
            let left = usize::try_from(self.kept - self.done).unwrap_or(usize::MAX);
            let wanted = buffer.len().min(left);
            let length = self.partial.read(&mut buffer[..wanted])?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.done += length as u64;
            return Ok(length);
        }
        if self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(Chunk::Data(data)) => {
                    self.partial.write_all(&data)?;
                    self.chunk = data;
                    (self.heard)(self.done + self.chunk.len() as u64);
                }
                Some(Chunk::End) => {
                    self.ended = true;
                    return Ok(0);
                }
                Some(Chunk::Failed(fault)) => {
                    *self.fault = Some(fault);
                    return Err(io::Error::other("the transfer failed"));
                }
                None => {
                    *self.fault = Some(Fault::Unreachable("cancelled".into()));
                    return Err(io::Error::other("the transfer was cancelled"));
                }
            }
        }
        let length = buffer.len().min(self.chunk.len());
        buffer[..length].copy_from_slice(&self.chunk.split_to(length));
        self.done += length as u64;
        Ok(length)
    }
}

fn digest_of(path: &Path) -> io::Result<String> {
    let mut hashing = Hashing::new(File::open(path)?);
    io::copy(&mut hashing, &mut io::sink())?;
    Ok(hashing.finish().0)
}
