//! Pulling from servers that misbehave.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ficelle::image::{Image, ImageError, Registries};

use super::{
    Fixture,
    fake::{FakeRegistry, Hook, Reply, Request, SECOND, Then, part, reply},
    make::{Made, digest, layer},
    name, quiet,
    registry::{header, pull, pull_for},
    two_layers,
};

/// Text that does not compress well.
pub(super) fn noise(length: usize) -> String {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'!' + (state >> 33).to_le_bytes()[0] % 90)
    };
    (0..length).map(|_| next()).collect()
}

/// An image whose one layer does not compress, and that layer's compressed bytes.
fn noisy() -> (Made, Vec<u8>) {
    let noise = noise(400_000);
    let made = Made::new(vec![layer(&[("noise", &noise)])]);
    let (blobs, manifest) = made.oci();
    let manifest: serde_json::Value =
        serde_json::from_slice(&blobs[manifest["digest"].as_str().unwrap()]).unwrap();
    let bytes = blobs[manifest["layers"][0]["digest"].as_str().unwrap()].clone();
    (made, bytes)
}

/// What must come of a pull from a registry that does something wrong.
#[derive(Clone, Copy)]
enum Ends {
    /// The image, with each byte of its layer sent once.
    Well,
    /// The image, with some of it sent more than once.
    Dear,
    /// No image, because what was needed did not come; the words for it.
    Unreachable(&'static str),
    /// No image, because something else came.
    Refused(&'static str),
}

/// Where most transfers break off.
const CUT: usize = 100_000;

/// The first `times` requests for the layer are answered so.
fn on_layer(
    times: usize,
    answer: impl Fn(&Request, &[u8]) -> Reply + Send + Sync + 'static,
) -> impl FnOnce(Vec<u8>) -> Hook {
    move |layer| {
        let count = AtomicUsize::new(0);
        let digest = digest(&layer);
        Box::new(move |request| {
            let ours = request.path.ends_with(&digest) && count.fetch_add(1, Ordering::SeqCst) < times;
            ours.then(|| answer(request, &layer))
        })
    }
}

/// The first request for each thing is answered so.
fn on_each_url(status: &'static str, headers: &'static str) -> impl FnOnce(Vec<u8>) -> Hook {
    move |_| {
        let seen = Mutex::new(BTreeSet::new());
        Box::new(move |request| {
            seen.lock().unwrap().insert(request.path.clone()).then(|| reply(status, headers, b""))
        })
    }
}

/// Each fault of a registry, by name.
macro_rules! faults {
    ($($name:ident: $wrong:expr => $ends:expr;)*) => {
        mod registry_faults {
            use super::*;

            $(#[test]
            fn $name() {
                check($wrong, $ends);
            })*
        }
    };
}

faults! {
    cut_once: on_layer(1, |r, layer| part(r, layer).cut(CUT)) => Ends::Well;
    cut_three_times: on_layer(3, |r, layer| part(r, layer).cut(CUT)) => Ends::Well;
    cut_every_time: on_layer(usize::MAX, |r, layer| part(r, layer).cut(CUT / 4)) => Ends::Well;
    cut_at_the_same_byte_every_time: on_layer(usize::MAX, |r, layer| {
        part(r, layer).cut(if r.start() == 0 { CUT } else { 0 })
    }) => Ends::Unreachable("breaks off again and again");
    cut_by_a_server_without_ranges: on_layer(usize::MAX, |r, layer| {
        reply("200 OK", "", layer).cut(if r.start() == 0 { CUT } else { layer.len() })
    }) => Ends::Dear;
    reset: on_layer(1, |r, layer| part(r, layer).cut(CUT).then(Then::Reset)) => Ends::Dear;
    reset_before_an_answer: on_layer(1, |_, _| Reply::raw(Vec::new()).then(Then::Reset)) => Ends::Well;
    one_bit_flipped: on_layer(1, |_, layer| reply("200 OK", "", &flipped(layer))) => Ends::Dear;
    one_bit_flipped_every_time: on_layer(usize::MAX, |_, layer| reply("200 OK", "", &flipped(layer)))
        => Ends::Refused("web:1 layer 1 of 1");
    too_many_requests_for_the_layer: on_layer(1, |_, _| {
        reply("429 Too Many Requests", "Retry-After: 20\r\n", b"")
    }) => Ends::Well;
    too_many_requests_for_everything:
        on_each_url("429 Too Many Requests", "Retry-After: 20\r\n") => Ends::Well;
    too_many_requests_for_an_hour: on_layer(usize::MAX, |_, _| {
        reply("429 Too Many Requests", "Retry-After: 3600\r\n", b"")
    }) => Ends::Unreachable("left alone for 3600 s");
    too_many_requests_for_ever: on_layer(usize::MAX, |_, _| {
        reply("429 Too Many Requests", "Retry-After: 1\r\n", b"")
    }) => Ends::Unreachable("429 Too Many Requests");
    an_internal_error_for_the_layer: on_layer(1, |_, _| {
        reply("500 Internal Server Error", "", b"oops")
    }) => Ends::Well;
    an_internal_error_every_time: on_layer(usize::MAX, |_, _| {
        reply("500 Internal Server Error", "", b"oops")
    }) => Ends::Unreachable("500 Internal Server Error");
    unavailable_for_everything: on_each_url("503 Service Unavailable", "") => Ends::Well;
    silence_in_the_middle: on_layer(1, |r, layer| {
        part(r, layer).cut(CUT).then(Then::Silence)
    }) => Ends::Well;
    silence_every_time: on_layer(usize::MAX, |r, layer| {
        part(r, layer).cut(0).then(Then::Silence)
    }) => Ends::Unreachable("no data for 60 s");
    silence_before_an_answer: on_layer(usize::MAX, |_, _| {
        Reply::raw(Vec::new()).then(Then::Silence)
    }) => Ends::Unreachable("no answer within 60 s");
    no_more_than_64_kib_every_45_seconds: on_layer(1, |r, layer| {
        part(r, layer).then(Then::Pieces(64 << 10, 45 * SECOND))
    }) => Ends::Well;
    redirects_in_a_circle: on_layer(usize::MAX, |r, _| {
        reply("307 Temporary Redirect", &format!("Location: {}\r\n", r.path), b"")
    }) => Ends::Refused("redirected more than 5 times");
    a_body_that_is_longer: on_layer(usize::MAX, |_, layer| {
        reply("200 OK", "", &[layer, &[0; 512]].concat())
    }) => Ends::Refused("longer than the");
    a_body_that_is_shorter: on_layer(usize::MAX, |_, layer| {
        reply("200 OK", "", &layer[..layer.len() - 1])
    }) => Ends::Unreachable("breaks off again and again");
    another_range_than_was_asked_for: on_layer(2, |r, layer| match r.start() {
        0 => part(r, layer).cut(CUT),
        _ => reply("206 Partial Content", &format!("Content-Range: bytes 7-8/{}\r\n", layer.len()), b"xx"),
    }) => Ends::Refused("gave another range than was asked for");
    another_digest_in_the_header: |_| Box::new(|request: &Request| {
        let other = format!("Docker-Content-Digest: {}\r\n", digest(b"something else"));
        let manifest = two_layers().oci();
        let manifest = &manifest.0[manifest.1["digest"].as_str().unwrap()];
        request.is_manifest().then(|| reply("200 OK", &other, manifest))
    }) => Ends::Refused("and says it is sha256:");
}

fn flipped(layer: &[u8]) -> Vec<u8> {
    let mut bytes = layer.to_vec();
    bytes[200_000] ^= 1;
    bytes
}

fn check(wrong: impl FnOnce(Vec<u8>) -> Hook, ends: Ends) {
    let (made, layer) = noisy();
    let registry = FakeRegistry::start(&made, wrong(layer.clone()));
    let f = Fixture::new();
    let result = registry.pull(&f);
    let said = format!("{result:?}");
    match (&ends, result) {
        (Ends::Well | Ends::Dear, Ok(image)) => {
            assert_whole(&f, &image, &made);
            let sent = sent(&registry, &layer);
            assert!(sent == layer.len() || matches!(ends, Ends::Dear) && sent > layer.len(), "{sent} bytes");
        }
        (Ends::Unreachable(words), Err(error @ ImageError::Unreachable { .. }))
        | (Ends::Refused(words), Err(error @ (ImageError::Invalid(_) | ImageError::Remote { .. }))) => {
            assert!(error.to_string().contains(words), "{error}");
            assert!(f.store.list().unwrap().is_empty() && f.entries("layers").is_empty(), "{error}");
            assert_made_good(&f, &made, &layer);
        }
        _ => panic!("{said}"),
    }
    assert_left_alone_as_told(&registry);
}

fn assert_whole(f: &Fixture, image: &Image, made: &Made) {
    assert_eq!(image.id, made.id());
    let noise = fs::read(image.layers[0].path.join("noise")).unwrap();
    assert_eq!(digest(&noise), digest(&made.layers[0][512..512 + noise.len()]));
    assert_eq!(f.entries("partial"), [""; 0]);
}

/// Another registry gives the image, of the layer only what had not come before.
fn assert_made_good(f: &Fixture, made: &Made, layer: &[u8]) {
    let partial = f.store.root().join("partial").join(&digest(layer)[7..]);
    let there = fs::metadata(partial).map_or(0, |partial| partial.len());
    let good = FakeRegistry::plain(made);
    let image = good.pull(f).unwrap();
    assert_whole(f, &image, made);
    assert_eq!(sent(&good, layer) as u64 + there, layer.len() as u64);
}

/// Bytes of the layer that a registry has sent.
fn sent(registry: &FakeRegistry, layer: &[u8]) -> usize {
    let digest = digest(layer);
    let exchanges = registry.exchanges.lock().unwrap();
    let ours =
        exchanges.iter().filter(|e| e.request.path.ends_with(&digest) && e.head.starts_with("HTTP/1.1 20"));
    ours.map(|exchange| exchange.body).sum()
}

/// Nothing is asked for again before the time that the answer named.
fn assert_left_alone_as_told(registry: &FakeRegistry) {
    let exchanges = registry.exchanges.lock().unwrap();
    for (number, first) in exchanges.iter().enumerate() {
        let Some(seconds) = header(&first.head, "retry-after") else { continue };
        let next = exchanges[number + 1..].iter().find(|later| later.request.path == first.request.path);
        if let Some(next) = next {
            let waited = next.asked - first.answered;
            assert!(waited >= SECOND * seconds.parse::<u32>().unwrap(), "{waited:?} in place of {seconds} s");
        }
    }
}

#[test]
fn an_endless_manifest_is_not_read() {
    let endless = FakeRegistry::start(
        &two_layers(),
        Box::new(|request| {
            request.is_manifest().then(|| {
                let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                for _ in 0..80 {
                    answer.extend(b"10000\r\n");
                    answer.extend(vec![b' '; 0x10000]);
                    answer.extend(b"\r\n");
                }
                Reply::raw(answer)
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
                .then(|| Reply::raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{".to_vec()))
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
            request.is_manifest().then(|| {
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
        format!(r#"{{"auths": {{"{}": {{"username": "user", "password": "hunter2"}}}}}}"#, registry.host())
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
        format!(r#"{{"auths": {{"{}": {{"username": "user", "password": "hunter2"}}}}}}"#, registry.host())
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
        format!(r#"{{"auths": {{"{}": {{"identitytoken": "long-lived"}}}}}}"#, registry.host()).as_bytes(),
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
