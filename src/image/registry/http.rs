//! Single HTTP requests: connections, TLS by host, time limits, redirects. Knows nothing of registries.
//!
//! An `Authorization` header goes to the host it was made for and to no other, whatever a server says.

use std::{
    collections::HashMap,
    convert::Infallible,
    error::Error as StdError,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body_util::{BodyExt, Either, Full};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::{self, HeaderMap, HeaderValue},
};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::AlertDescription;

use super::{
    route::{Route, login_at_proxy},
    settings::Registries,
    tls,
};
use crate::image::ImageError;
use tokio::sync::mpsc;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Without a byte from the server.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: u32 = 5;
/// Of what the connection may buffer: it bounds the size of the chunks that come.
const READ_BUFFER: usize = 256 * 1024;

type Connection = Client<HttpsConnector<Route>, Either<Full<Bytes>, Stream>>;

/// A body that is sent as it comes. Its length is known; ending before it breaks the request.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) pieces: mpsc::Receiver<Bytes>,
    pub(super) left: u64,
    /// Bytes that the connection has taken.
    pub(super) taken: Arc<AtomicU64>,
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let Some(piece) = ready!(self.pieces.poll_recv(context)) else { return Poll::Ready(None) };
        self.left = self.left.saturating_sub(piece.len() as u64);
        self.taken.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Why there was no answer.
#[derive(Debug)]
pub(super) enum HttpError {
    /// No connection: the host is not there, or is not who it should be.
    Connect(Box<dyn StdError + Send + Sync>),
    /// It broke, or was too slow.
    Broken(Box<dyn StdError + Send + Sync>),
    /// Our own settings, or an answer that we do not follow.
    Refused(ImageError),
}

impl HttpError {
    /// All causes in one line, and where a certificate would have to stand.
    pub(super) fn text(&self) -> String {
        let (Self::Connect(error) | Self::Broken(error)) = self else {
            let Self::Refused(error) = self else { return String::new() };
            return error.to_string();
        };
        let text = chain(error.as_ref());
        match tls_error(error.as_ref()) {
            Some(rustls::Error::InvalidCertificate(_)) => format!("{text}; {}", tls::OF_SERVER),
            Some(rustls::Error::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnknownCA,
            )) => format!("{text}; {}", tls::OF_CLIENT),
            _ => text,
        }
    }

    /// The other side speaks TLS, and it is TLS that fails.
    pub(super) fn is_of_tls(&self) -> bool {
        let (Self::Connect(error) | Self::Broken(error)) = self else { return false };
        matches!(
            tls_error(error.as_ref()),
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
        )
    }
}

fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(cause) = next {
        // An error of input or output passes over the one that it was made of.
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let found = inner.and_then(|inner| inner.downcast_ref()).or_else(|| cause.downcast_ref());
        if found.is_some() {
            return found;
        }
        next = inner.map_or_else(|| cause.source(), |inner| Some(inner as &(dyn StdError + 'static)));
    }
    None
}

fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[derive(Debug)]
pub(super) struct Http {
    settings: Registries,
    /// By host, as certificates are, and whether it is with TLS.
    connections: Mutex<HashMap<(String, bool), Connection>>,
}

impl Http {
    pub(super) fn new(settings: Registries) -> Arc<Self> {
        Arc::new(Self { settings, connections: Mutex::default() })
    }

    /// Sends a request, and again where it is sent on to. Whatever the status, an answer is an answer.
    pub(super) async fn send(
        &self,
        method: Method,
        mut uri: Uri,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, HttpError> {
        let mut headers = headers.clone();
        let mut away = false;
        for _ in 0..=MAX_REDIRECTS {
            let body = Either::Left(Full::new(body.clone()));
            let mut response = self.once(method.clone(), &uri, &headers, body, &AtomicU64::new(0)).await?;
            if away {
                // Another host's challenge is none of the registry's, and gets no answer.
                response.headers_mut().remove(header::WWW_AUTHENTICATE);
            }
            let moved = matches!(
                response.status(),
                StatusCode::MOVED_PERMANENTLY
                    | StatusCode::FOUND
                    | StatusCode::SEE_OTHER
                    | StatusCode::TEMPORARY_REDIRECT
                    | StatusCode::PERMANENT_REDIRECT
            );
            if !moved || method == Method::POST {
                return Ok(response);
            }
            let next = follow(&uri, response.headers())?;
            if next.authority() != uri.authority() || next.scheme() != uri.scheme() {
                headers.remove(header::AUTHORIZATION);
                away = true;
            }
            uri = next;
        }
        Err(refused(format!("`{uri}` is redirected more than {MAX_REDIRECTS} times")))
    }

    /// Sends a body that cannot be sent twice: a redirect is an answer like any other.
    pub(super) async fn send_stream(
        &self,
        method: Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: Stream,
    ) -> Result<Response<Incoming>, HttpError> {
        let taken = Arc::clone(&body.taken);
        self.once(method, uri, headers, Either::Right(body), &taken).await
    }

    /// A body of at most `max` bytes.
    pub(super) async fn bounded(&self, response: Response<Incoming>, max: u64) -> Result<Vec<u8>, HttpError> {
        let too_long = || refused(format!("the answer is longer than {max} bytes"));
        let mut body = response.into_body();
        if body.size_hint().lower() > max {
            return Err(too_long());
        }
        let mut bytes = Vec::new();
        while let Some(data) = self.next_chunk(&mut body).await? {
            if (bytes.len() + data.len()) as u64 > max {
                return Err(too_long());
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    }

    /// The next piece of a body; `None` at its end.
    pub(super) async fn next_chunk(&self, body: &mut Incoming) -> Result<Option<Bytes>, HttpError> {
        loop {
            let frame = tokio::time::timeout(self.idle(), body.frame())
                .await
                .map_err(|_| HttpError::Broken(format!("no data for {} s", IDLE_TIMEOUT.as_secs()).into()))?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(HttpError::Broken(error.into())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    fn idle(&self) -> Duration {
        self.settings.waiting(IDLE_TIMEOUT)
    }

    /// Waits before a request is sent again.
    pub(super) async fn pause(&self, time: Duration) {
        tokio::time::sleep(self.settings.waiting(time)).await;
    }

    /// `taken` grows while the server takes the body.
    async fn once(
        &self,
        method: Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: Either<Full<Bytes>, Stream>,
        taken: &AtomicU64,
    ) -> Result<Response<Incoming>, HttpError> {
        let connection = self.connection(uri).map_err(HttpError::Refused)?;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers.clone();
        let agent = HeaderValue::from_static(concat!("ficelle/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(header::USER_AGENT, agent);
        if let Some(login) = login_at_proxy(&self.settings, uri) {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, login);
        }
        let mut answer = std::pin::pin!(connection.request(request));
        let mut before = 0;
        loop {
            match tokio::time::timeout(self.idle(), &mut answer).await {
                Err(_) if taken.load(Ordering::Relaxed) > before => before = taken.load(Ordering::Relaxed),
                Err(_) => {
                    let told = format!("no answer within {} s", IDLE_TIMEOUT.as_secs());
                    return Err(HttpError::Broken(told.into()));
                }
                Ok(Err(error)) if error.is_connect() => return Err(HttpError::Connect(error.into())),
                Ok(Err(error)) => return Err(HttpError::Broken(error.into())),
                Ok(Ok(response)) => return Ok(response),
            }
        }
    }

    fn connection(&self, uri: &Uri) -> Result<Connection, ImageError> {
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let secure = uri.scheme_str() == Some("https");
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = connections.get(&(host.clone(), secure)) {
            return Ok(known.clone());
        }
        // The system's authorities take a while to read, and are of no use without TLS.
        let config = if secure { tls::config(&host, &self.settings)? } else { tls::unused(&host)? };
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Route::new(connector, &self.settings));
        let connection =
            Client::builder(TokioExecutor::new()).http1_max_buf_size(READ_BUFFER).build(connector);
        connections.insert((host, secure), connection.clone());
        Ok(connection)
    }
}

fn refused(message: String) -> HttpError {
    HttpError::Refused(ImageError::remote(message))
}

/// Where an answer sends us on to; never from TLS to none.
pub(super) fn follow(from: &Uri, headers: &HeaderMap) -> Result<Uri, HttpError> {
    let location = headers
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| refused(format!("`{from}` is redirected to nowhere")))?;
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map(ToString::to_string).unwrap_or_default();
    let whole = match location {
        rest if rest.starts_with("//") => format!("{scheme}:{rest}"),
        rest if rest.starts_with('/') => format!("{scheme}://{authority}{rest}"),
        absolute => absolute.to_owned(),
    };
    let to: Uri = whole
        .parse()
        .map_err(|_| refused(format!("`{from}` is redirected to the malformed `{location}`")))?;
    let known = matches!(to.scheme_str(), Some("http" | "https")) && to.host().is_some();
    let lowered = scheme == "https" && to.scheme_str() == Some("http");
    if !known || lowered || to.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(refused(format!("`{from}` is redirected to `{location}`, which is not followed")));
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(from: &str, location: &str) -> Result<String, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, location.parse().unwrap());
        follow(&from.parse().unwrap(), &headers).map(|uri| uri.to_string()).map_err(|error| error.text())
    }

    #[test]
    fn redirects_are_followed_but_never_out_of_tls() {
        assert_eq!(to("https://a/v2/x", "/y?z=1").unwrap(), "https://a/y?z=1");
        assert_eq!(to("https://a/v2/x", "https://b:8443/y").unwrap(), "https://b:8443/y");
        assert_eq!(to("http://a/v2/x", "//b/y").unwrap(), "http://b/y");
        for bad in ["http://b/y", "ftp://b/y", "file:///etc/passwd", "https://user:pass@b/y", "y"] {
            assert!(to("https://a/v2/x", bad).is_err(), "{bad}");
        }
    }
}
