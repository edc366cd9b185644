//! A registry on loopback of our own, for what no real one can be made to do.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ficelle::image::{Image, ImageError, Registries};

use super::{
    Fixture,
    make::Made,
    registry::{header, pull},
};

/// A second of waiting, in tests that are not to take as long.
pub(super) const SECOND: Duration = Duration::from_millis(10);

/// What a request was: method, path, headers as text.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }

    pub(super) fn is_manifest(&self) -> bool {
        self.path.contains("/manifests/")
    }

    pub(super) fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }

    /// Where a Range header begins.
    pub(super) fn start(&self) -> usize {
        let range = self.header("range").unwrap_or_default();
        range
            .strip_prefix("bytes=")
            .and_then(|rest| rest.strip_suffix('-'))
            .map_or(0, |at| at.parse().unwrap())
    }
}

/// What a server sends, and what it does then.
pub(super) struct Reply {
    bytes: Vec<u8>,
    then: Then,
}

/// The end of a reply.
pub(super) enum Then {
    Close,
    Reset,
    /// Nothing more, until the other side goes.
    Silence,
    /// The body comes in pieces of this size, with a pause before each.
    Pieces(usize, Duration),
}

impl Reply {
    pub(super) fn raw(bytes: Vec<u8>) -> Self {
        Self { bytes, then: Then::Close }
    }

    fn head(&self) -> usize {
        let end = self.bytes.windows(4).position(|four| four == b"\r\n\r\n");
        end.map_or(self.bytes.len(), |end| end + 4)
    }

    /// With no more of its body than this.
    pub(super) fn cut(mut self, body: usize) -> Self {
        self.bytes.truncate(self.head() + body);
        self
    }

    pub(super) fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }

    pub(super) fn send(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let Then::Pieces(size, pause) = self.then else {
            stream.write_all(&self.bytes)?;
            match self.then {
                // Closing with nothing waited for resets the connection.
                Then::Reset => rustix::net::sockopt::set_socket_linger(&*stream, Some(Duration::ZERO))?,
                Then::Silence => drop(stream.read(&mut [0])?),
                Then::Close | Then::Pieces(..) => {}
            }
            return Ok(());
        };
        let (head, body) = self.bytes.split_at(self.head());
        stream.write_all(head)?;
        for piece in body.chunks(size) {
            std::thread::sleep(pause);
            stream.write_all(piece)?;
        }
        Ok(())
    }
}

pub(super) fn reply(status: &str, headers: &str, body: &[u8]) -> Reply {
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len());
    Reply::raw([head.as_bytes(), body].concat())
}

/// A blob, or the part of it that is asked for.
pub(super) fn part(request: &Request, bytes: &[u8]) -> Reply {
    match request.start() {
        0 => reply("200 OK", "", bytes),
        start => {
            let range = format!("Content-Range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len());
            reply("206 Partial Content", &range, &bytes[start..])
        }
    }
}

pub(super) type Hook = Box<dyn Fn(&Request) -> Option<Reply> + Send + Sync>;

/// A request that was answered.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) request: Request,
    pub(super) asked: Instant,
    pub(super) answered: Instant,
    /// Status line and headers.
    pub(super) head: String,
    /// Bytes of the body that were sent.
    pub(super) body: usize,
}

/// A registry that gives one image as `web:1` and does otherwise where its hook says so.
pub(super) struct FakeRegistry {
    host: String,
    pub(super) requests: Arc<Mutex<Vec<Request>>>,
    pub(super) exchanges: Arc<Mutex<Vec<Exchange>>>,
}

impl FakeRegistry {
    pub(super) fn start(made: &Made, hook: Hook) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let started = Self { host, requests: Arc::default(), exchanges: Arc::default() };
        let (blobs, manifest) = made.oci();
        let manifest = manifest["digest"].as_str().unwrap().to_owned();
        let shared = Arc::new((blobs, manifest, hook));
        let (requests, exchanges) = (Arc::clone(&started.requests), Arc::clone(&started.exchanges));
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (shared, requests, exchanges) =
                    (Arc::clone(&shared), Arc::clone(&requests), Arc::clone(&exchanges));
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let Some(request) = read_request(&mut stream) else { return };
                    let asked = Instant::now();
                    requests.lock().unwrap().push(request.clone());
                    let (blobs, manifest, hook) = &*shared;
                    let answer = hook(&request).unwrap_or_else(|| serve(&request, blobs, manifest));
                    let (head, body) = answer.bytes.split_at(answer.head());
                    let (head, body) = (String::from_utf8_lossy(head).into_owned(), body.len());
                    exchanges.lock().unwrap().push(Exchange {
                        request,
                        asked,
                        answered: Instant::now(),
                        head,
                        body,
                    });
                    // The other side may have gone.
                    let _ = answer.send(&mut stream);
                });
            }
        });
        started
    }

    pub(super) fn plain(made: &Made) -> Self {
        Self::start(made, Box::new(|_| None))
    }

    pub(super) fn host(&self) -> String {
        self.host.clone()
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.host)
    }

    pub(super) fn pull(&self, f: &Fixture) -> Result<Image, ImageError> {
        pull(&f.store, &self.registries(), "fake.test/web:1")
    }

    /// As a mirror, so that it is spoken to without TLS; the registry itself does not exist.
    pub(super) fn registries(&self) -> Registries {
        Registries {
            mirrors: [("fake.test".to_owned(), vec![self.url()])].into(),
            second: Some(SECOND),
            ..Registries::default()
        }
    }

    pub(super) fn asked(&self, what: impl Fn(&Request) -> bool) -> usize {
        self.requests.lock().unwrap().iter().filter(|request| what(request)).count()
    }
}

pub(super) fn read_request(stream: &mut TcpStream) -> Option<Request> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 || head.len() > 65536 {
            return None;
        }
        head.push(byte[0]);
        if head == [0x16] {
            // Somebody tries TLS.
            return None;
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let mut words = head.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    Some(Request { method, path, head: head.clone(), body })
}

fn serve(request: &Request, blobs: &BTreeMap<String, Vec<u8>>, manifest: &str) -> Reply {
    let last = request.path.rsplit('/').next().unwrap();
    if request.is_manifest() {
        let digest = if last == "1" { manifest } else { last };
        let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";
        return match blobs.get(digest) {
            Some(bytes) => reply("200 OK", kind, bytes),
            None => reply(
                "404 Not Found",
                "",
                br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
            ),
        };
    }
    match blobs.get(last) {
        Some(bytes) => part(request, bytes),
        None => reply("404 Not Found", "", b""),
    }
}
