//! The distribution protocol with one endpoint: manifests and blobs of one repository; upload.rs sends
//! blobs.

use std::{sync::Arc, time::Duration};

use hyper::{
    Method, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    header::{self, HeaderMap, HeaderValue},
};
use oci_spec::image::Descriptor;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{
    auth::{Auth, Challenge},
    http::{Http, HttpError},
    patience::{Patience, TRIES, pause},
    settings::{Endpoint, Registries},
};
use crate::{
    image::{ImageError, codec::digest},
    model::ImageRef,
};

pub(super) const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const MAX_MANIFEST: u64 = 4 << 20;
const MAX_ERROR: u64 = 64 << 10;
/// Of one blob, whatever the progress.
const MAX_CUTS: u32 = 200;
/// For a handshake with what may be no TLS server.
const PROBE: Duration = Duration::from_secs(5);

/// Part of a blob on its way to the thread that unpacks it.
pub(in crate::image) enum Chunk {
    Data(Bytes),
    /// All of it has come.
    End,
    Failed(Fault),
}

/// Why an endpoint did not give what was asked for, and whether the next one may.
#[derive(Debug)]
pub(in crate::image) enum Fault {
    /// There was no talking to it.
    Unreachable(String),
    /// It has no such thing.
    Missing(String),
    /// It does not give it to us.
    Denied(String),
    /// It gave something else.
    Wrong(ImageError),
}

/// What is said of a fault, each with its next moves; the registry's own words follow.
pub(in crate::image) struct Wording {
    pub(in crate::image) missing: (String, Vec<String>),
    pub(in crate::image) denied: (String, Vec<String>),
    pub(in crate::image) unreachable: (String, Vec<String>),
}

impl Fault {
    pub(in crate::image) fn told(self, wording: Wording) -> ImageError {
        let remote = |(what, help): (String, Vec<String>), why: String| ImageError::Remote {
            message: format!("{what}: {why}"),
            help,
        };
        match self {
            Self::Wrong(error) => error,
            Self::Missing(why) => remote(wording.missing, why),
            Self::Denied(why) => remote(wording.denied, why),
            Self::Unreachable(why) => {
                let (what, help) = wording.unreachable;
                ImageError::Unreachable { message: format!("{what}: {why}"), help, source: why.into() }
            }
        }
    }
}

/// One repository at one endpoint.
#[derive(Debug)]
pub(in crate::image) struct Client {
    http: Arc<Http>,
    auth: Auth,
    endpoint: Endpoint,
    scheme: &'static str,
    repository: String,
    access: Access,
}

/// What a client is to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::image) enum Access {
    Pull,
    Push,
}

/// One request.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// Of this endpoint, or of another host: that one is told nothing about us.
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// For messages: `blob sha256:...`.
    pub(super) what: &'a str,
    /// A repository that is read, too.
    pub(super) from: Option<&'a str>,
}

impl Client {
    /// Finds out how the endpoint speaks: with TLS, or where that is allowed without.
    pub(in crate::image) async fn open(
        settings: &Registries,
        endpoint: &Endpoint,
        image: &ImageRef,
        access: Access,
    ) -> Result<Self, Fault> {
        let http = Http::new(settings.clone());
        let auth = Auth::new(Arc::clone(&http), endpoint.credentials.clone(), settings.credentials.clone());
        let scheme = endpoint.schemes.first().copied().unwrap_or("https");
        let (endpoint, repository) = (endpoint.clone(), image.repository.clone());
        let mut client = Self { http, auth, endpoint, scheme, repository, access };
        if let [first, second] = client.endpoint.schemes[..] {
            client.scheme = first;
            let headers = HeaderMap::new();
            let uri = client.uri("/v2/")?;
            let probe = client.http.send(Method::GET, uri, &headers, Bytes::new());
            let probe = tokio::time::timeout(PROBE, probe).await;
            match probe {
                // It speaks TLS, and there is another obstacle.
                Ok(Err(error)) if error.is_of_tls() => {}
                Ok(Err(HttpError::Connect(_))) | Err(_) => client.scheme = second,
                // One that breaks later than TLS begins does so, too: whoever turns down a certificate may close
                // before its alert has been read.
                Ok(_) => {}
            }
        }
        Ok(client)
    }

    /// `registry docker.io` or `mirror 127.0.0.1:5000`.
    pub(in crate::image) fn name(&self) -> String {
        let kind = if self.endpoint.mirror { "mirror" } else { "registry" };
        format!("{kind} {}", self.endpoint.credentials)
    }

    /// The manifest or index of a tag or digest: what it is, and its bytes as they came.
    pub(in crate::image) async fn manifest(&self, reference: &str) -> Result<(Descriptor, Vec<u8>), Fault> {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::ACCEPT,
            HeaderValue::from_str(&MANIFEST_TYPES.join(", ")).map_err(|_| self.odd())?,
        );
        let path = format!("/v2/{}/manifests/{reference}", self.repository);
        let (head, bytes) =
            self.document(&path, &headers, MAX_MANIFEST, &format!("manifest `{reference}`")).await?;
        let found = digest(&bytes);
        let wrong = |what: String| {
            Fault::Wrong(ImageError::Invalid(format!("{} gave for `{reference}` {what}", self.name())))
        };
        if reference.contains(':') && reference != found {
            return Err(wrong(format!("a manifest with digest {found}")));
        }
        if let Some(said) = head.get("docker-content-digest").and_then(|value| value.to_str().ok())
            && said.starts_with("sha256:")
            && said != found
        {
            return Err(wrong(format!("a manifest with digest {found}, and says it is {said}")));
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Kind {
            media_type: Option<String>,
            manifests: Option<serde::de::IgnoredAny>,
        }
        let kind: Kind = serde_json::from_slice(&bytes)
            .map_err(|error| wrong(format!("a malformed manifest: {error}")))?;
        let said = head
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(|value| value.split(';').next().unwrap_or_default().trim().to_owned())
            .filter(|said| MANIFEST_TYPES.contains(&said.as_str()));
        let media_type = match (said, kind.media_type) {
            (Some(said), Some(own)) if said != own => {
                return Err(wrong(format!("a manifest that is `{own}`, and says it is `{said}`")));
            }
            (Some(either), _) | (None, Some(either)) => either,
            (None, None) if kind.manifests.is_some() => MANIFEST_TYPES[0].to_owned(),
            (None, None) => MANIFEST_TYPES[1].to_owned(),
        };
        let parsed = found.parse::<oci_spec::image::Digest>().map_err(|_| self.odd())?;
        Ok((Descriptor::new(media_type.as_str().into(), bytes.len() as u64, parsed), bytes))
    }

    /// A small blob, verified.
    pub(in crate::image) async fn small_blob(&self, blob: &Descriptor, max: u64) -> Result<Vec<u8>, Fault> {
        let wrong = |what: String| {
            Fault::Wrong(ImageError::Invalid(format!("blob {} of {} {what}", blob.digest(), self.name())))
        };
        if blob.size() > max {
            return Err(wrong(format!("is {} bytes long; no more than {max} are read", blob.size())));
        }
        let path = self.blob_path(blob);
        let (_, bytes) =
            self.document(&path, &HeaderMap::new(), max, &format!("blob {}", blob.digest())).await?;
        if bytes.len() as u64 != blob.size() || digest(&bytes) != blob.digest().as_ref() {
            return Err(wrong("has other content than its digest says".into()));
        }
        Ok(bytes)
    }

    /// Sends a blob from `offset` on into `sink`, going on where it was cut. Verifies its length only.
    pub(in crate::image) async fn blob(&self, blob: &Descriptor, offset: u64, sink: mpsc::Sender<Chunk>) {
        let end = match self.blob_into(blob, offset, &sink).await {
            Ok(()) => Chunk::End,
            Err(fault) => Chunk::Failed(fault),
        };
        // The thread may have an error of its own, and be gone.
        let _ = sink.send(end).await;
    }

    async fn blob_into(
        &self,
        blob: &Descriptor,
        mut offset: u64,
        sink: &mpsc::Sender<Chunk>,
    ) -> Result<(), Fault> {
        let what = format!("blob {}", blob.digest());
        let mut cuts = 0;
        let mut failures = 0;
        while offset < blob.size() {
            let before = offset;
            let cut = match self.blob_part(blob, &mut offset, sink).await {
                Ok(()) => return Ok(()),
                Err(Ending::Final(fault)) => return Err(fault),
                Err(Ending::Cut(why)) => why,
            };
            failures = if offset > before { 0 } else { failures + 1 };
            cuts += 1;
            if failures >= TRIES || cuts >= MAX_CUTS {
                return Err(Fault::Unreachable(format!("{what} breaks off again and again: {cut}")));
            }
            self.http.pause(pause(failures)).await;
        }
        Ok(())
    }

    /// One request for the rest of a blob.
    async fn blob_part(
        &self,
        blob: &Descriptor,
        offset: &mut u64,
        sink: &mpsc::Sender<Chunk>,
    ) -> Result<(), Ending> {
        let what = format!("blob {}", blob.digest());
        let mut headers = HeaderMap::new();
        if *offset > 0 {
            let range = format!("bytes={offset}-");
            headers
                .insert(header::RANGE, HeaderValue::from_str(&range).map_err(|_| Ending::Final(self.odd()))?);
        }
        let response = self.get(&self.blob_path(blob), &headers, &what).await.map_err(Ending::Final)?;
        // A server that knows no ranges sends all of it again.
        let mut skip = if response.status() == StatusCode::PARTIAL_CONTENT {
            let start = content_range_start(response.headers());
            if start != Some(*offset) {
                return Err(Ending::Final(self.fault(&what, "gave another range than was asked for")));
            }
            0
        } else {
            *offset
        };
        let too_long = || {
            let message = format!("is longer than the {} bytes that its manifest says", blob.size());
            Ending::Final(self.fault(&what, &message))
        };
        let mut body = response.into_body();
        loop {
            let mut data = match self.http.next_chunk(&mut body).await {
                Ok(Some(data)) => data,
                Ok(None) if *offset == blob.size() => return Ok(()),
                Ok(None) => return Err(Ending::Cut(format!("it ended at byte {offset} of {}", blob.size()))),
                Err(error) => return Err(Ending::Cut(error.text())),
            };
            let skipped = usize::try_from(skip).map_or(data.len(), |skip| skip.min(data.len()));
            skip -= skipped as u64;
            let data = data.split_off(skipped);
            if data.is_empty() {
                // To the one that reads, nothing is the end.
                continue;
            }
            if *offset + data.len() as u64 > blob.size() {
                return Err(too_long());
            }
            *offset += data.len() as u64;
            if sink.send(Chunk::Data(data)).await.is_err() {
                return Err(Ending::Final(self.fault(&what, "is not wanted any more")));
            }
        }
    }

    /// The digest that a tag or digest stands for, as the registry says it; `None` when it has none.
    pub(in crate::image) async fn manifest_of(&self, reference: &str) -> Result<Option<String>, Fault> {
        let path = format!("/v2/{}/manifests/{reference}", self.repository);
        let what = format!("manifest `{reference}`");
        let mut ask = self.asking(Method::HEAD, &path, &what)?;
        ask.headers.insert(
            header::ACCEPT,
            HeaderValue::from_str(&MANIFEST_TYPES.join(", ")).map_err(|_| self.odd())?,
        );
        match self.ask(ask).await {
            Ok(response) => {
                let said = response.headers().get("docker-content-digest");
                Ok(Some(said.and_then(|said| said.to_str().ok()).unwrap_or(reference).to_owned()))
            }
            Err(Fault::Missing(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Whether the repository has a manifest of this digest.
    pub(in crate::image) async fn has_manifest(&self, digest: &str) -> Result<bool, Fault> {
        Ok(self.manifest_of(digest).await?.is_some())
    }

    /// Whether it answers with a success; `false` when it has no such thing.
    pub(super) async fn there(&self, ask: Ask<'_>) -> Result<bool, Fault> {
        match self.ask(ask).await {
            Ok(_) => Ok(true),
            Err(Fault::Missing(_)) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Stores a manifest or index under a tag or its digest, as it is.
    pub(in crate::image) async fn put_manifest(
        &self,
        reference: &str,
        manifest: &Descriptor,
        bytes: Vec<u8>,
    ) -> Result<(), Fault> {
        let what = format!("manifest `{reference}`");
        let path = format!("/v2/{}/manifests/{reference}", self.repository);
        let mut ask = self.asking(Method::PUT, &path, &what)?;
        let kind = HeaderValue::from_str(manifest.media_type().as_ref()).map_err(|_| self.odd())?;
        ask.headers.insert(header::CONTENT_TYPE, kind);
        ask.body = Bytes::from(bytes);
        let response = self.ask(ask).await?;
        match response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok()) {
            Some(said) if said.starts_with("sha256:") && said != manifest.digest().as_ref() => {
                Err(self.fault(&what, &format!("was stored as {said} in place of {}", manifest.digest())))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    pub(super) fn blob_path(&self, blob: &Descriptor) -> String {
        format!("/v2/{}/blobs/{}", self.repository, blob.digest())
    }

    /// A whole body with its headers, tried again when it breaks off.
    async fn document(
        &self,
        path: &str,
        headers: &HeaderMap,
        max: u64,
        what: &str,
    ) -> Result<(HeaderMap, Vec<u8>), Fault> {
        let mut failures = 0;
        loop {
            let response = self.get(path, headers, what).await?;
            let head = response.headers().clone();
            match self.http.bounded(response, max).await {
                Ok(bytes) => return Ok((head, bytes)),
                Err(HttpError::Refused(error)) => return Err(self.fault(what, &error.to_string())),
                Err(error) => {
                    failures += 1;
                    if failures >= TRIES {
                        return Err(Fault::Unreachable(format!(
                            "{what} breaks off again and again: {}",
                            error.text()
                        )));
                    }
                    self.http.pause(pause(failures)).await;
                }
            }
        }
    }

    async fn get(&self, path: &str, headers: &HeaderMap, what: &str) -> Result<Response<Incoming>, Fault> {
        let ask = Ask { headers: headers.clone(), ..self.asking(Method::GET, path, what)? };
        self.ask(ask).await
    }

    pub(super) fn asking<'a>(&self, method: Method, path: &str, what: &'a str) -> Result<Ask<'a>, Fault> {
        let (uri, headers, body) = (self.uri(path)?, HeaderMap::new(), Bytes::new());
        Ok(Ask { method, uri, headers, body, what, from: None })
    }

    /// A successful answer, after challenges, pauses and tries.
    pub(super) async fn ask(&self, ask: Ask<'_>) -> Result<Response<Incoming>, Fault> {
        let Ask { method, uri, headers, body, what, from } = ask;
        let mut patience = Patience::default();
        let mut answered = 0;
        loop {
            let mut headers = headers.clone();
            let sent = self.authorise(&uri, &mut headers).await;
            let response = match self.http.send(method.clone(), uri.clone(), &headers, body.clone()).await {
                Ok(response) => response,
                Err(HttpError::Refused(error)) => return Err(Fault::Wrong(error)),
                // Nobody there is told at once: waiting does not bring up a network.
                Err(error @ HttpError::Connect(_)) if patience.is_fresh() && answered == 0 => {
                    return Err(Fault::Unreachable(error.text()));
                }
                Err(error) => {
                    patience.wait(&self.http, error.text()).await?;
                    continue;
                }
            };
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if status == StatusCode::UNAUTHORIZED {
                // A token may end in the middle; twice for one request is once too often.
                if answered < 2 && self.challenged(response.headers(), sent, from).await? {
                    answered += 1;
                    continue;
                }
                return Err(self.denied(what, response).await);
            }
            if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
                patience.wait_as_told(&self.http, response).await?;
                continue;
            }
            return Err(self.refusal(what, response).await);
        }
    }

    /// Puts who we are into `headers`, when the request goes to this endpoint; the number of that answer.
    pub(super) async fn authorise(&self, uri: &Uri, headers: &mut HeaderMap) -> Option<u64> {
        let own = uri.scheme_str() == Some(self.scheme)
            && uri.authority().is_some_and(|authority| authority.as_str() == self.endpoint.host);
        if !own {
            return None;
        }
        let (sent, authorization) = self.auth.current().await;
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, value);
        }
        Some(sent)
    }

    /// Whether there is an answer to the challenge in `headers`, kept for the next request.
    pub(super) async fn challenged(
        &self,
        headers: &HeaderMap,
        sent: Option<u64>,
        from: Option<&str>,
    ) -> Result<bool, Fault> {
        let (Some(sent), Some(challenge)) = (sent, Challenge::read(headers)) else { return Ok(false) };
        let scope = self.scope(from);
        self.auth.answer(&challenge, sent, self.scheme == "https", &scope).await.map_err(fault_of)
    }

    /// What an answer without success means.
    pub(super) async fn refusal(&self, what: &str, response: Response<Incoming>) -> Fault {
        match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(what, response).await,
            StatusCode::NOT_FOUND => {
                Fault::Missing(format!("{} has no {what}{}", self.name(), said(&self.http, response).await))
            }
            status => {
                self.fault(what, &format!("is answered with {status}{}", said(&self.http, response).await))
            }
        }
    }

    pub(super) fn uri(&self, path: &str) -> Result<Uri, Fault> {
        let uri = format!("{}://{}{path}", self.scheme, self.endpoint.host);
        uri.parse()
            .map_err(|_| Fault::Wrong(ImageError::Invalid(format!("`{uri}` is no address of a registry"))))
    }

    fn scope(&self, from: Option<&str>) -> String {
        let rights = match self.access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        let also = from.map(|from| format!(" repository:{from}:pull")).unwrap_or_default();
        format!("repository:{}:{rights}{also}", self.repository)
    }

    async fn denied(&self, what: &str, response: Response<Incoming>) -> Fault {
        let who =
            if self.auth.is_known() { "refuses the stored login" } else { "refuses an anonymous request" };
        let status = response.status();
        let reason = Challenge::reason(response.headers()).map_or_else(String::new, |why| format!(", {why}"));
        Fault::Denied(format!(
            "{} {who} for {what} ({status}{reason}){}",
            self.name(),
            said(&self.http, response).await
        ))
    }

    pub(super) fn http(&self) -> &Arc<Http> {
        &self.http
    }

    pub(super) fn fault(&self, what: &str, message: &str) -> Fault {
        Fault::Wrong(ImageError::Invalid(format!("{what} of {} {message}", self.name())))
    }

    pub(super) fn odd(&self) -> Fault {
        self.fault("the answer", "cannot be put into words of HTTP")
    }
}

/// How one request for a blob ended before its end.
enum Ending {
    /// Worth another request.
    Cut(String),
    Final(Fault),
}

fn fault_of(error: ImageError) -> Fault {
    match error {
        ImageError::Unreachable { message, .. } => Fault::Unreachable(message),
        ImageError::Remote { message, .. } => Fault::Denied(message),
        other => Fault::Wrong(other),
    }
}

/// The registry's own words about an error, in brackets.
pub(super) async fn said(http: &Http, response: Response<Incoming>) -> String {
    #[derive(Deserialize)]
    struct Answer {
        errors: Vec<Said>,
    }
    #[derive(Deserialize)]
    struct Said {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(bytes) = http.bounded(response, MAX_ERROR).await else { return String::new() };
    let Ok(answer) = serde_json::from_slice::<Answer>(&bytes) else { return String::new() };
    answer.errors.first().map_or_else(String::new, |said| {
        let text = if said.message.is_empty() { &said.code } else { &said.message };
        // It comes from outside and may end on a terminal.
        let clean: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
        format!(": {clean}")
    })
}

/// `bytes 100-199/200`.
fn content_range_start(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}
