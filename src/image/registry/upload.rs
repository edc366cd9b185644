//! Sends a blob: not at all where it is there, by a mount where another repository has it, else its
//! bytes, going on where they were cut.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
};

use hyper::{
    Method, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    header::{self, HeaderMap, HeaderValue},
};
use oci_spec::image::Descriptor;
use tokio::sync::mpsc;

use super::{
    client::{Ask, Client, Fault},
    http::{HttpError, Stream, follow},
    patience::Patience,
};
use crate::image::ImageError;

/// A blob up to this size goes in one request, a larger one in two that can be gone on with.
const SMALL: u64 = 1 << 20;
const PIECE: usize = 256 * 1024;
/// Pieces read ahead of the connection.
const AHEAD: usize = 8;
/// Cuts of one blob, whatever the progress.
const MAX_CUTS: u32 = 200;

/// How a blob came to the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::image) enum Sent {
    There,
    Mounted,
    Uploaded,
}

/// A blob that is to be sent.
#[derive(Debug)]
pub(in crate::image) struct Upload<'a> {
    pub(in crate::image) blob: &'a Descriptor,
    /// A file of exactly the blob's bytes.
    pub(in crate::image) file: PathBuf,
    /// Repositories of the registry that may have it.
    pub(in crate::image) from: &'a [String],
}

impl Client {
    /// Brings the blob to the repository. `heard` is told how many bytes have gone.
    pub(in crate::image) async fn upload(
        &self,
        upload: &Upload<'_>,
        heard: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Sent, Fault> {
        let blob = upload.blob;
        let what = format!("blob {}", blob.digest());
        if self.there(self.asking(Method::HEAD, &self.blob_path(blob), &what)?).await? {
            return Ok(Sent::There);
        }
        for from in upload.from {
            match self.mount(blob, from, &what).await {
                Ok(None) => return Ok(Sent::Mounted),
                // It has opened an upload in place of the mount.
                Ok(Some(place)) => return self.send(upload, place, &what, heard).await,
                Err(fault @ Fault::Unreachable(_)) => return Err(fault),
                // Without a right over that repository it is sent like any other.
                Err(_) => {}
            }
        }
        let place = self.begin(&what).await?;
        self.send(upload, place, &what, heard).await
    }

    /// `None` when it is mounted, else the place of an upload.
    async fn mount(&self, blob: &Descriptor, from: &str, what: &str) -> Result<Option<Uri>, Fault> {
        let path = format!("{}?mount={}&from={from}", self.uploads(), blob.digest());
        let ask = Ask { from: Some(from), ..self.asking(Method::POST, &path, what)? };
        let uri = ask.uri.clone();
        let response = self.ask(ask).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(None);
        }
        place_of(&uri, response.headers()).map(Some)
    }

    /// The place of a new upload.
    async fn begin(&self, what: &str) -> Result<Uri, Fault> {
        let ask = self.asking(Method::POST, &self.uploads(), what)?;
        let uri = ask.uri.clone();
        let response = self.ask(ask).await?;
        place_of(&uri, response.headers())
    }

    fn uploads(&self) -> String {
        format!("/v2/{}/blobs/uploads/", self.repository())
    }

    async fn send(
        &self,
        upload: &Upload<'_>,
        mut place: Uri,
        what: &str,
        heard: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Sent, Fault> {
        let size = upload.blob.size();
        let unreadable =
            |source| Fault::Wrong(ImageError::File { what: "read", path: upload.file.clone(), source });
        if size <= SMALL {
            let bytes = tokio::fs::read(&upload.file).await.map_err(unreadable)?;
            return self.end(upload.blob, &place, bytes.into(), what, heard).await;
        }
        let file = Arc::new(File::open(&upload.file).map_err(unreadable)?);
        let mut patience = Patience::default();
        let mut offset = 0;
        let mut cuts = 0;
        while offset < size {
            let before = offset;
            match self.rest(&file, offset..size, &place, what, heard).await? {
                Part::Taken(response) => {
                    place = place_of(&place, response.headers())?;
                    offset = end_of(response.headers()).unwrap_or(size);
                }
                Part::Challenged => {
                    patience.wait(self.http(), format!("{what} needs one login after the other")).await?;
                }
                Part::Later(response) => {
                    patience.wait_as_told(self.http(), response).await?;
                    (place, offset) = self.where_it_is(&place, what).await?;
                }
                Part::Cut(why) => {
                    cuts += 1;
                    if cuts >= MAX_CUTS {
                        return Err(Fault::Unreachable(format!("{what} breaks off again and again: {why}")));
                    }
                    patience.wait(self.http(), format!("{what} breaks off again and again: {why}")).await?;
                    (place, offset) = self.where_it_is(&place, what).await?;
                }
            }
            if offset > size {
                return Err(self.fault(what, "is longer at the registry than it is here"));
            }
            if offset > before {
                patience.renew();
            }
        }
        self.end(upload.blob, &place, Bytes::new(), what, heard).await
    }

    /// One request with all that is missing.
    async fn rest(
        &self,
        file: &Arc<File>,
        range: std::ops::Range<u64>,
        place: &Uri,
        what: &str,
        heard: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Part, Fault> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let span = format!("{}-{}", range.start, range.end - 1);
        headers.insert(header::CONTENT_RANGE, HeaderValue::from_str(&span).map_err(|_| self.odd())?);
        let sent = self.authorise(place, &mut headers).await;
        let (sender, pieces) = mpsc::channel(AHEAD);
        let taken = Arc::new(AtomicU64::new(0));
        let body = Stream { pieces, left: range.end - range.start, taken: Arc::clone(&taken) };
        let reader = tokio::task::spawn_blocking({
            let (file, range) = (Arc::clone(file), range.clone());
            move || read_pieces(&file, range, &sender)
        });
        let mut answer = std::pin::pin!(self.http().send_stream(Method::PATCH, place, &headers, body));
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(200));
        let answer = loop {
            tokio::select! {
                answer = &mut answer => break answer,
                _ = tick.tick() => heard(range.start + taken.load(std::sync::atomic::Ordering::Relaxed)),
            }
        };
        let response = match answer {
            Ok(response) => response,
            Err(HttpError::Refused(error)) => return Err(Fault::Wrong(error)),
            Err(error) => {
                return match reader.await {
                    Ok(Err(source)) => {
                        Err(Fault::Wrong(ImageError::File { what: "read", path: what.into(), source }))
                    }
                    _ => Ok(Part::Cut(error.text())),
                };
            }
        };
        let status = response.status();
        if status.is_success() {
            return Ok(Part::Taken(response));
        }
        if status == StatusCode::UNAUTHORIZED && self.challenged(response.headers(), sent, None).await? {
            return Ok(Part::Challenged);
        }
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return Ok(Part::Later(response));
        }
        if status == StatusCode::RANGE_NOT_SATISFIABLE || status == StatusCode::NOT_FOUND {
            return Ok(Part::Cut(format!("it answers {status}")));
        }
        Err(self.refusal(what, response).await)
    }

    /// How much of an upload the registry has; a new one when it has forgotten it.
    async fn where_it_is(&self, place: &Uri, what: &str) -> Result<(Uri, u64), Fault> {
        let ask = Ask { uri: place.clone(), ..self.asking(Method::GET, "/v2/", what)? };
        match self.ask(ask).await {
            Ok(response) => {
                let next = if response.headers().contains_key(header::LOCATION) {
                    place_of(place, response.headers())?
                } else {
                    place.clone()
                };
                Ok((next, end_of(response.headers()).unwrap_or(0)))
            }
            Err(fault @ (Fault::Unreachable(_) | Fault::Denied(_))) => Err(fault),
            Err(_) => Ok((self.begin(what).await?, 0)),
        }
    }

    /// The last request, with the whole of a small blob.
    async fn end(
        &self,
        blob: &Descriptor,
        place: &Uri,
        body: Bytes,
        what: &str,
        heard: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Sent, Fault> {
        let joint = if place.query().is_some() { '&' } else { '?' };
        let uri = format!("{place}{joint}digest={}", blob.digest()).parse().map_err(|_| self.odd())?;
        let mut ask = Ask { uri, body, ..self.asking(Method::PUT, "/v2/", what)? };
        ask.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        self.ask(ask).await?;
        heard(blob.size());
        Ok(Sent::Uploaded)
    }
}

/// Where the next request of an upload goes.
fn place_of(asked: &Uri, headers: &HeaderMap) -> Result<Uri, Fault> {
    follow(asked, headers).map_err(|error| match error {
        HttpError::Refused(error) => Fault::Wrong(error),
        other => Fault::Unreachable(other.text()),
    })
}

/// How one request of an upload ended.
enum Part {
    Taken(Response<Incoming>),
    /// To be sent again, with an answer to the challenge.
    Challenged,
    /// To be sent again, when the answer says so.
    Later(Response<Incoming>),
    Cut(String),
}

fn read_pieces(file: &File, range: std::ops::Range<u64>, sender: &mpsc::Sender<Bytes>) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let mut piece = vec![0; usize::try_from(range.end - at).map_or(PIECE, |left| left.min(PIECE))];
        file.read_exact_at(&mut piece, at)?;
        at += piece.len() as u64;
        if sender.blocking_send(piece.into()).is_err() {
            // The connection has an error of its own.
            return Ok(());
        }
    }
    Ok(())
}

/// Bytes that are there after `Range: 0-99`; `0-0` is what some say of none.
fn end_of(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::RANGE)?.to_str().ok()?;
    let last: u64 = text.strip_prefix("bytes=").unwrap_or(text).split_once('-')?.1.trim().parse().ok()?;
    Some(if last == 0 { 0 } else { last + 1 })
}
