//! Pulling from servers that misbehave.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ficelle::image::{Image, ImageError, Registries};

use super::{
    Fixture,
    make::{Made, digest, layer},
    name, quiet,
    registry::{header, pull, pull_for},
    two_layers,
};

/// What a request was: method, path, headers as text.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Request {
    fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }

    pub(super) fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }

    /// Where a Range header begins.
    fn start(&self) -> usize {
        let range = self.header("range").unwrap_or_default();
        range
            .strip_prefix("bytes=")
            .and_then(|rest| rest.strip_suffix('-'))
            .map_or(0, |at| at.parse().unwrap())
    }
}

/// What a server sends: bytes, then the connection is closed.
pub(super) struct Reply(pub(super) Vec<u8>);

pub(super) fn reply(status: &str, headers: &str, body: &[u8]) -> Reply {
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len());
    Reply([head.as_bytes(), body].concat())
}

pub(super) type Hook = Box<dyn Fn(&Request) -> Option<Reply> + Send + Sync>;

/// A registry on loopback that gives one image as `web:1` and does otherwise where its hook says so.
pub(super) struct FakeRegistry {
    host: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl FakeRegistry {
    pub(super) fn start(made: &Made, hook: Hook) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (blobs, manifest) = made.oci();
        let manifest = manifest["digest"].as_str().unwrap().to_owned();
        let shared = Arc::new((blobs, manifest, hook));
        let seen = Arc::clone(&requests);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (shared, seen) = (Arc::clone(&shared), Arc::clone(&seen));
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let Some(request) = read_request(&mut stream) else { return };
                    seen.lock().unwrap().push(request.clone());
                    let (blobs, manifest, hook) = &*shared;
                    let answer = hook(&request).unwrap_or_else(|| serve(&request, blobs, manifest));
                    let _ = stream.write_all(&answer.0);
                });
            }
        });
        Self { host, requests }
    }

    fn plain(made: &Made) -> Self {
        Self::start(made, Box::new(|_| None))
    }

    pub(super) fn host(&self) -> String {
        self.host.clone()
    }

    fn url(&self) -> String {
        format!("http://{}", self.host)
    }

    fn pull(&self, f: &Fixture) -> Result<Image, ImageError> {
        pull(&f.store, &self.registries(), "fake.test/web:1")
    }

    /// As a mirror, so that it is spoken to without TLS; the registry itself does not exist.
    fn registries(&self) -> Registries {
        Registries { mirrors: [("fake.test".to_owned(), vec![self.url()])].into(), ..Registries::default() }
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

fn serve(request: &Request, blobs: &std::collections::BTreeMap<String, Vec<u8>>, manifest: &str) -> Reply {
    let last = request.path.rsplit('/').next().unwrap();
    if request.path.contains("/manifests/") {
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
        Some(bytes) if request.start() > 0 => {
            let start = request.start();
            let range = format!("Content-Range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len());
            reply("206 Partial Content", &range, &bytes[start..])
        }
        Some(bytes) => reply("200 OK", "", bytes),
        None => reply("404 Not Found", "", b""),
    }
}

/// An image whose one layer does not compress, and that layer's compressed bytes.
fn noisy() -> (Made, Vec<u8>) {
    let mut state = 1u64;
    let noise: String = (0..400_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'!' + (state >> 33).to_le_bytes()[0] % 90)
        })
        .collect();
    let made = Made::new(vec![layer(&[("noise", &noise)])]);
    let (blobs, manifest) = made.oci();
    let manifest: serde_json::Value =
        serde_json::from_slice(&blobs[manifest["digest"].as_str().unwrap()]).unwrap();
    let bytes = blobs[manifest["layers"][0]["digest"].as_str().unwrap()].clone();
    (made, bytes)
}

/// Only the first `times` requests for the layer are answered so.
fn first(times: usize, bytes: &[u8], answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Hook {
    let count = AtomicUsize::new(0);
    let digest = digest(bytes);
    Box::new(move |request| {
        let ours = request.path.ends_with(&digest) && count.fetch_add(1, Ordering::SeqCst) < times;
        ours.then(|| answer(request))
    })
}

#[test]
fn a_transfer_that_is_cut_goes_on_where_it_ended() {
    let (made, bytes) = noisy();
    let body = bytes.clone();
    let registry = FakeRegistry::start(
        &made,
        first(3, &bytes, move |request| {
            let start = request.start();
            let whole = if start == 0 {
                reply("200 OK", "", &body)
            } else {
                let range = format!("Content-Range: bytes {start}-{}/{}\r\n", body.len() - 1, body.len());
                reply("206 Partial Content", &range, &body[start..])
            };
            let end = whole.0.len().min(whole.0.len() - (body.len() - start) + 100_000);
            Reply(whole.0[..end].to_vec())
        }),
    );
    let f = Fixture::new();
    let image = registry.pull(&f).unwrap();
    assert_eq!(image.id, made.id());
    let starts: Vec<_> = registry
        .requests
        .lock()
        .unwrap()
        .iter()
        .filter(|r| r.path.ends_with(&digest(&bytes)))
        .map(Request::start)
        .collect();
    assert_eq!(starts, [0, 100_000, 200_000, 300_000]);
}

#[test]
fn a_server_without_ranges_is_borne() {
    let (made, bytes) = noisy();
    let whole = bytes.clone();
    let count = AtomicUsize::new(0);
    let registry = FakeRegistry::start(
        &made,
        first(usize::MAX, &bytes, move |_| {
            let mut answer = reply("200 OK", "", &whole);
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                answer.0.truncate(150_000);
            }
            answer
        }),
    );
    assert_eq!(registry.pull(&Fixture::new()).unwrap().id, made.id());
}

#[test]
fn what_came_before_a_pull_was_given_up_is_not_fetched_again() {
    let (made, bytes) = noisy();
    let body = bytes.clone();
    // Cut once, and then nothing more for as long as the first pull tries.
    let registry = FakeRegistry::start(
        &made,
        first(6, &bytes, move |request| {
            if request.start() > 0 {
                return Reply(Vec::new());
            }
            let mut answer = reply("200 OK", "", &body);
            let end = answer.0.len() - body.len() + 100_000;
            answer.0.truncate(end);
            answer
        }),
    );
    let f = Fixture::new();
    let error = registry.pull(&f).unwrap_err();
    assert!(matches!(error, ImageError::Unreachable { .. }), "{error:?}");
    assert_eq!(f.entries("partial"), [digest(&bytes)[7..].to_owned()]);
    assert!(f.store.list().unwrap().is_empty());
    let before = registry.requests.lock().unwrap().len();
    assert_eq!(registry.pull(&f).unwrap().id, made.id());
    let later = registry.requests.lock().unwrap()[before..].to_vec();
    assert!(
        later
            .iter()
            .filter(|request| request.path.ends_with(&digest(&bytes)))
            .all(|request| request.start() == 100_000),
        "{later:?}"
    );
    assert_eq!(f.entries("partial"), [""; 0]);
}

#[test]
fn a_flipped_bit_costs_one_more_try_and_two_are_an_error() {
    let (made, bytes) = noisy();
    for (times, works) in [(1, true), (2, false)] {
        let mut flipped = bytes.clone();
        flipped[200_000] ^= 1;
        let registry =
            FakeRegistry::start(&made, first(times, &bytes, move |_| reply("200 OK", "", &flipped)));
        let f = Fixture::new();
        match registry.pull(&f) {
            Ok(image) => assert!(works && image.id == made.id()),
            Err(error) => {
                assert!(!works && matches!(error, ImageError::Invalid(_)), "{error:?}");
                assert!(error.to_string().contains("web:1 layer 1 of 1"), "{error}");
                assert_eq!((f.entries("layers"), f.entries("partial")), (vec![], vec![]));
            }
        }
    }
}

#[test]
fn a_wrong_length_is_refused() {
    let (made, bytes) = noisy();
    let mut longer = bytes.clone();
    longer.extend([0; 512]);
    let registry =
        FakeRegistry::start(&made, first(usize::MAX, &bytes, move |_| reply("200 OK", "", &longer)));
    let f = Fixture::new();
    let error = registry.pull(&f).unwrap_err().to_string();
    assert!(error.contains("longer than the"), "{error}");
    assert!(f.entries("layers").is_empty() && f.entries("images").is_empty());
}

#[test]
fn a_manifest_that_lies_about_sizes_or_digests_is_refused() {
    let (made, bytes) = noisy();
    let lie = |change: &dyn Fn(&mut serde_json::Value)| {
        let (blobs, manifest) = made.oci();
        let mut manifest: serde_json::Value =
            serde_json::from_slice(&blobs[manifest["digest"].as_str().unwrap()]).unwrap();
        change(&mut manifest);
        let body = manifest.to_string().into_bytes();
        FakeRegistry::start(
            &made,
            Box::new(move |request| {
                let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";
                request.path.contains("/manifests/").then(|| reply("200 OK", kind, &body))
            }),
        )
    };
    for size in [5, bytes.len() - 1, 1_000_000_000] {
        let registry = lie(&|manifest| manifest["layers"][0]["size"] = size.into());
        let f = Fixture::new();
        assert!(registry.pull(&f).is_err(), "{size}");
        assert!(f.entries("layers").is_empty(), "{size}");
    }
    for (what, change) in [
        (
            "malformed",
            &(|m: &mut serde_json::Value| m["layers"][0]["size"] = (-1).into())
                as &dyn Fn(&mut serde_json::Value),
        ),
        ("is an index and a manifest", &|m| m["manifests"] = serde_json::json!([])),
        ("says it is", &|m| m["mediaType"] = "application/vnd.oci.image.index.v1+json".into()),
        ("of the old form 1", &|m| m["schemaVersion"] = 1.into()),
        ("not that of a container image", &|m| {
            m["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into();
        }),
        ("Invalid encoded value", &|m| m["layers"][0]["digest"] = "sha256:../../../../etc/passwd".into()),
        ("2 layers in its manifest and 1", &|m| {
            let copy = m["layers"][0].clone();
            m["layers"].as_array_mut().unwrap().push(copy);
        }),
    ] {
        let f = Fixture::new();
        let error = lie(change).pull(&f).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn an_endless_manifest_is_not_read() {
    let endless = FakeRegistry::start(
        &two_layers(),
        Box::new(|request| {
            request.path.contains("/manifests/").then(|| {
                let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                for _ in 0..80 {
                    answer.extend(b"10000\r\n");
                    answer.extend(vec![b' '; 0x10000]);
                    answer.extend(b"\r\n");
                }
                Reply(answer)
            })
        }),
    );
    let error = endless.pull(&Fixture::new()).unwrap_err().to_string();
    assert!(error.contains("longer than 4194304 bytes"), "{error}");
    let long = FakeRegistry::start(
        &two_layers(),
        Box::new(|request| {
            request
                .path
                .contains("/manifests/")
                .then(|| Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{".to_vec()))
        }),
    );
    assert!(long.pull(&Fixture::new()).unwrap_err().to_string().contains("longer than"));
}

#[test]
fn an_index_that_names_itself_ends() {
    let seen: Arc<Mutex<usize>> = Arc::default();
    let count = Arc::clone(&seen);
    let registry = FakeRegistry::start(
        &two_layers(),
        Box::new(move |request| {
            request.path.contains("/manifests/").then(|| {
                *count.lock().unwrap() += 1;
                // Each names one that is served as whatever is asked for.
                let next = serde_json::json!({"schemaVersion": 2, "manifests": [{
                    "mediaType": "application/vnd.oci.image.index.v1+json", "size": 1,
                    "digest": format!("sha256:{}", "a".repeat(64)),
                    "platform": {"os": "linux", "architecture": ficelle::image::Platform::host().architecture}}]});
                reply("200 OK", "Content-Type: application/vnd.oci.image.index.v1+json\r\n", next.to_string().as_bytes())
            })
        }),
    );
    assert!(registry.pull(&Fixture::new()).is_err());
    assert!(*seen.lock().unwrap() <= 5);
}

#[test]
fn a_registry_that_asks_for_patience_gets_it() {
    let (made, bytes) = noisy();
    let registry = FakeRegistry::start(
        &made,
        first(1, &bytes, |_| reply("429 Too Many Requests", "Retry-After: 1\r\n", b"")),
    );
    let begun = Instant::now();
    assert_eq!(registry.pull(&Fixture::new()).unwrap().id, made.id());
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let registry = FakeRegistry::start(
        &made,
        Box::new(|request| {
            request
                .path
                .contains("/manifests/")
                .then(|| reply("429 Too Many Requests", "Retry-After: 3600\r\n", b""))
        }),
    );
    let begun = Instant::now();
    let error = registry.pull(&Fixture::new()).unwrap_err().to_string();
    assert!(error.contains("left alone for 3600 s"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn errors_of_the_server_are_tried_again_a_few_times() {
    let made = two_layers();
    let count = AtomicUsize::new(0);
    let registry = FakeRegistry::start(
        &made,
        Box::new(move |_| {
            (count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2))
                .then(|| reply("503 Service Unavailable", "", b""))
        }),
    );
    assert_eq!(registry.pull(&Fixture::new()).unwrap().id, made.id());
    let registry =
        FakeRegistry::start(&made, Box::new(|_| Some(reply("500 Internal Server Error", "", b"oops"))));
    let error = registry.pull(&Fixture::new()).unwrap_err();
    assert!(matches!(error, ImageError::Unreachable { .. }), "{error:?}");
    assert!(registry.asked(|_| true) <= 6);
}

#[test]
fn a_redirected_transfer_takes_no_credentials_along() {
    let (made, bytes) = noisy();
    let (blobs, _) = made.oci();
    let elsewhere = FakeRegistry::plain(&made);
    let target = format!("{}/v2/web/blobs/", elsewhere.url());
    let token_server =
        FakeRegistry::start(&made, Box::new(|_| Some(reply("200 OK", "", br#"{"token":"t0k3n"}"#))));
    let realm = format!("{}/token", token_server.url());
    let registry = FakeRegistry::start(
        &made,
        Box::new(move |request| {
            if request.header("authorization").as_deref() != Some("Bearer t0k3n") {
                let challenge = format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"fake\"\r\n");
                return Some(reply("401 Unauthorized", &challenge, b""));
            }
            let digest = request.path.rsplit('/').next()?;
            request
                .is_blob()
                .then(|| reply("307 Temporary Redirect", &format!("Location: {target}{digest}\r\n"), b""))
        }),
    );
    let f = Fixture::new();
    let config = f.file(
        "config.json",
        format!(r#"{{"auths": {{"{}": {{"username": "user", "password": "hunter2"}}}}}}"#, registry.host)
            .as_bytes(),
    );
    let registries = Registries { credentials: vec![config], ..registry.registries() };
    assert_eq!(pull(&f.store, &registries, "fake.test/web:1").unwrap().id, made.id());
    assert!(elsewhere.asked(Request::is_blob) >= 1);
    assert_eq!(elsewhere.asked(|request| request.header("authorization").is_some()), 0);
    assert_eq!(
        token_server
            .asked(|request| request.header("authorization").is_some_and(|v| v.starts_with("Basic "))),
        1,
        "one token for all"
    );
    assert_eq!(token_server.asked(|request| request.path.contains("scope=repository%3Aweb%3Apull")), 1);
    drop((blobs, bytes));
}

#[test]
fn a_challenge_of_the_host_we_were_sent_to_gets_nothing() {
    let (made, _) = noisy();
    let spy = FakeRegistry::start(&made, Box::new(|_| Some(reply("200 OK", "", br#"{"token":"x"}"#))));
    let realm = format!("{}/token", spy.url());
    let elsewhere = FakeRegistry::start(
        &made,
        Box::new(move |_| {
            let challenge = format!("WWW-Authenticate: Bearer realm=\"{realm}\"\r\n");
            Some(reply("401 Unauthorized", &challenge, b""))
        }),
    );
    let target = format!("{}/x", elsewhere.url());
    let registry = FakeRegistry::start(
        &made,
        Box::new(move |request| {
            request
                .is_blob()
                .then(|| reply("307 Temporary Redirect", &format!("Location: {target}\r\n"), b""))
        }),
    );
    let f = Fixture::new();
    let config = f.file(
        "config.json",
        format!(r#"{{"auths": {{"{}": {{"username": "user", "password": "hunter2"}}}}}}"#, registry.host)
            .as_bytes(),
    );
    let registries = Registries { credentials: vec![config], ..registry.registries() };
    assert!(pull(&f.store, &registries, "fake.test/web:1").is_err());
    assert_eq!(spy.asked(|_| true), 0, "{:?}", spy.requests.lock().unwrap());
    assert_eq!(elsewhere.asked(|request| request.header("authorization").is_some()), 0);
}

#[test]
fn a_token_that_ends_in_the_middle_is_renewed() {
    let made = two_layers();
    let given = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&given);
    let token_server = FakeRegistry::start(
        &made,
        Box::new(move |_| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            Some(reply("200 OK", "", format!(r#"{{"access_token":"t{number}"}}"#).as_bytes()))
        }),
    );
    let realm = format!("{}/token", token_server.url());
    let uses = AtomicUsize::new(0);
    let newest = Arc::clone(&given);
    let registry = FakeRegistry::start(
        &made,
        Box::new(move |request| {
            let current = format!("Bearer t{}", newest.load(Ordering::SeqCst).wrapping_sub(1));
            let right = request.header("authorization") == Some(current);
            // The first token is good for two requests.
            if right && (uses.fetch_add(1, Ordering::SeqCst) < 2 || newest.load(Ordering::SeqCst) > 1) {
                return None;
            }
            let challenge = format!("WWW-Authenticate: Bearer realm=\"{realm}\"\r\n");
            Some(reply("401 Unauthorized", &challenge, b""))
        }),
    );
    assert_eq!(registry.pull(&Fixture::new()).unwrap().id, made.id());
    assert_eq!(given.load(Ordering::SeqCst), 2);
}

#[test]
fn an_identity_token_is_changed_for_one_that_pulls() {
    let made = two_layers();
    let token_server =
        FakeRegistry::start(&made, Box::new(|_| Some(reply("200 OK", "", br#"{"access_token":"good"}"#))));
    let realm = format!("{}/token", token_server.url());
    let registry = FakeRegistry::start(
        &made,
        Box::new(move |request| {
            let right = request.header("authorization").as_deref() == Some("Bearer good");
            let challenge = format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\"\r\n");
            (!right).then(|| reply("401 Unauthorized", &challenge, b""))
        }),
    );
    let f = Fixture::new();
    let config = f.file(
        "config.json",
        format!(r#"{{"auths": {{"{}": {{"identitytoken": "long-lived"}}}}}}"#, registry.host).as_bytes(),
    );
    let registries = Registries { credentials: vec![config], ..registry.registries() };
    pull(&f.store, &registries, "fake.test/web:1").unwrap();
    assert_eq!(token_server.asked(|request| request.method == "POST"), 1);
    assert_eq!(token_server.asked(|request| request.head.contains("long-lived")), 0, "it goes in the body");
}

#[test]
fn layers_that_are_there_are_not_fetched_again() {
    let made = two_layers();
    let registry = FakeRegistry::plain(&made);
    let f = Fixture::new();
    f.loaded(&Made::new(vec![made.layers[0].clone()]), "base");
    registry.pull(&f).unwrap();
    // The configuration and the second layer.
    assert_eq!(registry.asked(Request::is_blob), 2);
    registry.pull(&f).unwrap();
    assert_eq!(registry.asked(Request::is_blob), 2);
    assert_eq!(registry.asked(|_| true), 4);
}

#[test]
fn nobody_there_is_told_with_what_to_do_without_a_network() {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let f = Fixture::new();
    let error = pull(&f.store, &Registries::default(), &format!("127.0.0.1:{port}/web:1")).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ImageError::Unreachable { .. }), "{error:?}");
    assert!(
        text.contains(&format!("image `127.0.0.1:{port}/web:1`")) && text.contains("is not reachable"),
        "{text}"
    );
    let help = error.help().join("; ");
    assert!(help.contains("ficelle image load -i FILE") && help.contains("FICELLE_MIRRORS"), "{help}");
}

#[test]
fn a_mirror_that_cannot_help_is_passed_by() {
    let made = two_layers();
    let good = FakeRegistry::plain(&made);
    let empty = FakeRegistry::start(&made, Box::new(|_| Some(reply("404 Not Found", "", b""))));
    let down = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mirrors = vec![format!("http://{down}"), empty.url(), good.url()];
    let registries =
        Registries { mirrors: [("fake.test".to_owned(), mirrors)].into(), ..Registries::default() };
    assert_eq!(pull(&Fixture::new().store, &registries, "fake.test/web:1").unwrap().id, made.id());
    assert!(empty.asked(|_| true) >= 1);
}

#[test]
fn another_platform_is_told() {
    let registry = FakeRegistry::plain(&two_layers());
    let f = Fixture::new();
    let error =
        pull_for(&f.store, &registry.registries(), "fake.test/web:1", Some("linux/s390x")).unwrap_err();
    assert!(matches!(error, ImageError::Platform { .. }), "{error:?}");
    assert_eq!(error.to_string(), "`fake.test/web:1` is not for platform linux/s390x; it is for linux/amd64");
}

#[test]
fn a_pull_that_is_given_up_ends_and_can_be_taken_up() {
    let (made, bytes) = noisy();
    let digest = digest(&bytes);
    let ours = digest.clone();
    let (started, start) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Mutex::new(released);
    let count = AtomicUsize::new(0);
    let body = bytes.clone();
    let registry = FakeRegistry::start(
        &made,
        Box::new(move |request| {
            if !request.path.ends_with(&ours) || count.fetch_add(1, Ordering::SeqCst) > 0 {
                return None;
            }
            started.send(()).unwrap();
            // Until the pull has been given up.
            let _ = released.lock().unwrap().recv();
            Some(reply("200 OK", "", &body))
        }),
    );
    let f = Fixture::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (store, registries) = (f.store.clone(), registry.registries());
    let task = runtime
        .spawn(async move { store.pull_with(&registries, &name("fake.test/web:1"), None, &quiet).await });
    start.recv_timeout(Duration::from_secs(60)).unwrap();
    task.abort();
    assert!(runtime.block_on(task).unwrap_err().is_cancelled());
    drop(runtime);
    drop(release);
    assert_eq!(registry.pull(&f).unwrap().id, made.id());
}

#[test]
fn a_connection_that_is_reset_is_taken_up_again() {
    let (made, bytes) = noisy();
    let cut = bytes.len() / 2;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
    let part = [head.as_bytes(), &bytes[..cut]].concat();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let good = FakeRegistry::plain(&made);
    let (far, blob) = (good.host(), digest(&bytes));
    let resets: Arc<AtomicUsize> = Arc::default();
    let count = Arc::clone(&resets);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let Some(request) = read_request(&mut stream) else { continue };
            if request.path.ends_with(&blob) && count.fetch_add(1, Ordering::Relaxed) == 0 {
                stream.write_all(&part).unwrap();
                // Closing with nothing waited for resets the connection.
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
                continue;
            }
            let mut other = TcpStream::connect(&far).unwrap();
            other.write_all(request.head.as_bytes()).unwrap();
            let mut answer = Vec::new();
            other.read_to_end(&mut answer).unwrap();
            let _ = stream.write_all(&answer);
        }
    });
    let mirrors = [("fake.test".to_owned(), vec![format!("http://{address}")])].into();
    let registries = Registries { mirrors, ..Registries::default() };
    let image = pull(&Fixture::new().store, &registries, "fake.test/web:1").unwrap();
    assert_eq!(image.id, made.id());
    assert!(resets.load(Ordering::Relaxed) >= 2);
}

#[test]
fn redirects_in_a_circle_end() {
    let registry = FakeRegistry::start(
        &two_layers(),
        Box::new(|request| {
            request.is_blob().then(|| reply("307 Temporary Redirect", "Location: /v2/web/blobs/x\r\n", b""))
        }),
    );
    let f = Fixture::new();
    let error = registry.pull(&f).unwrap_err().to_string();
    assert!(error.contains("redirected more than 5 times"), "{error}");
    assert!(f.entries("images").is_empty());
}

#[test]
fn a_digest_that_is_said_and_not_had_is_refused() {
    let made = two_layers();
    let (blobs, manifest) = made.oci();
    let body = blobs[manifest["digest"].as_str().unwrap()].clone();
    let registry = FakeRegistry::start(
        &made,
        Box::new(move |request| {
            let kind = format!(
                "Content-Type: application/vnd.oci.image.manifest.v1+json\r\nDocker-Content-Digest: {}\r\n",
                digest(b"something else")
            );
            request.path.contains("/manifests/").then(|| reply("200 OK", &kind, &body))
        }),
    );
    let error = registry.pull(&Fixture::new()).unwrap_err().to_string();
    assert!(error.contains("and says it is sha256:"), "{error}");
}

#[test]
fn a_layer_that_ends_early_again_and_again_is_told() {
    let (made, bytes) = noisy();
    let short = bytes[..bytes.len() - 1].to_vec();
    // As long as it says, and shorter than the manifest says; ranges are not known.
    let registry =
        FakeRegistry::start(&made, first(usize::MAX, &bytes, move |_| reply("200 OK", "", &short)));
    let f = Fixture::new();
    let error = registry.pull(&f).unwrap_err();
    assert!(matches!(error, ImageError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("breaks off again and again"), "{error}");
    assert!(f.entries("images").is_empty() && f.entries("layers").is_empty());
}

/// A server that says nothing more is given up; one that is slow is not.
#[test]
fn silence_has_a_limit_and_slowness_has_none() {
    let (made, bytes) = noisy();
    for (pause, works) in [(Duration::from_secs(600), false), (Duration::from_millis(300), true)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let good = FakeRegistry::plain(&made);
        let (far, blob, content) = (good.host(), digest(&bytes), bytes.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (far, blob, content) = (far.clone(), blob.clone(), content.clone());
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let Some(request) = read_request(&mut stream) else { return };
                    if request.path.ends_with(&blob) {
                        let rest = &content[request.start()..];
                        let status = if request.start() == 0 { "200 OK" } else { "206 Partial Content" };
                        let range = format!(
                            "Content-Range: bytes {}-{}/{}",
                            request.start(),
                            content.len() - 1,
                            content.len()
                        );
                        let head =
                            format!("HTTP/1.1 {status}\r\n{range}\r\nContent-Length: {}\r\n\r\n", rest.len());
                        stream.write_all(head.as_bytes()).unwrap();
                        for part in rest.chunks(rest.len() / 4 + 1) {
                            std::thread::sleep(pause);
                            if stream.write_all(part).is_err() {
                                return;
                            }
                        }
                        return;
                    }
                    let mut other = TcpStream::connect(&far).unwrap();
                    other.write_all(request.head.as_bytes()).unwrap();
                    let mut answer = Vec::new();
                    other.read_to_end(&mut answer).unwrap();
                    let _ = stream.write_all(&answer);
                });
            }
        });
        let mirrors = [("fake.test".to_owned(), vec![format!("http://{address}")])].into();
        let registries =
            Registries { mirrors, second: Some(Duration::from_secs(1) / 60), ..Registries::default() };
        match pull(&Fixture::new().store, &registries, "fake.test/web:1") {
            Ok(image) => assert!(works && image.id == made.id()),
            Err(error) => assert!(!works && error.to_string().contains("no data for 60 s"), "{error}"),
        }
    }
}
