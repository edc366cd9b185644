//! Pulling from Debian's docker-registry on loopback.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use ficelle::{
    image::{Image, ImageError, Registries, Store},
    model::ImageRef,
};

use super::{
    Fixture,
    fake::{FakeRegistry, read_request},
    make::Made,
    name, quiet, two_layers,
};

pub(super) fn pull(store: &Store, registries: &Registries, image: &str) -> Result<Image, ImageError> {
    pull_for(store, registries, image, None)
}

pub(super) fn pull_for(
    store: &Store,
    registries: &Registries,
    image: &str,
    platform: Option<&str>,
) -> Result<Image, ImageError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let image: ImageRef = image.parse().unwrap();
    runtime.block_on(sendable(store.pull_with(registries, &image, platform, &quiet)))
}

/// Engines need futures that may change threads.
fn sendable<F: Future + Send>(future: F) -> F {
    future
}

fn mirror(address: &str) -> Registries {
    Registries {
        mirrors: [("docker.io".to_owned(), vec![address.to_owned()])].into(),
        // The registry itself must never be asked by a test.
        ..Registries::default()
    }
}

/// Debian's docker-registry, ended when dropped.
pub struct RealRegistry {
    child: Child,
    pub host: String,
    dir: tempfile::TempDir,
    log: Arc<Mutex<String>>,
}

impl RealRegistry {
    /// `None`, told, when it is not installed. `extra` is put into its configuration, `DIR` in it is its directory.
    pub fn start(http: &str, extra: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, http, extra)
    }

    /// Which wants `user` with `secret`.
    pub(super) fn with_password() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let hash = "user:$2b$04$g.ERtL32NFJlpwhMfHH4d.16P3e2S9zl4CWiGWvarT12wtDoXrkUK\n";
        fs::write(dir.path().join("htpasswd"), hash).unwrap();
        let auth = "auth:\n  htpasswd:\n    realm: test\n    path: DIR/htpasswd\n";
        Self::start_in(dir, "", auth)
    }

    /// What it has said of its requests so far.
    pub(super) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(super) fn start_in(dir: tempfile::TempDir, http: &str, extra: &str) -> Option<Self> {
        let path = dir.path().to_str().unwrap();
        let config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {path}/data\nhttp:\n  addr: 127.0.0.1:0\n{http}{extra}"
        );
        fs::write(dir.path().join("config.yml"), config.replace("DIR", path)).unwrap();
        // Where scripts/setup puts it, which does not install it as a service.
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/tools/bin/docker-registry");
        let program = if own.exists() { own } else { "docker-registry".into() };
        let spawned = Command::new(program)
            .args(["serve", "config.yml"])
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                eprintln!("SKIPPED: docker-registry (scripts/setup brings it) does not start: {error}");
                return None;
            }
        };
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        let host = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it ended: {seen}")).unwrap();
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest
                    .split(|c: char| c != '.' && c != ':' && !c.is_ascii_digit())
                    .next()
                    .unwrap()
                    .to_owned();
            }
            seen.push_str(&line);
        };
        // It must not stop at a full pipe.
        let log: Arc<Mutex<String>> = Arc::default();
        let said = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut said = said.lock().unwrap();
                said.push_str(&line);
                said.push('\n');
            }
        });
        Some(Self { child, host, dir, log })
    }

    /// Stores blobs and tags a manifest.
    pub(super) fn push(&self, made: &Made, repository: &str, tag: &str, authorization: &str) {
        let (mut blobs, manifest) = made.oci();
        let manifest = blobs.remove(manifest["digest"].as_str().unwrap()).unwrap();
        self.push_blobs(&blobs, repository, authorization);
        self.push_manifest(repository, tag, "manifest", &manifest, authorization);
    }

    pub(super) fn push_blobs(
        &self,
        blobs: &BTreeMap<String, Vec<u8>>,
        repository: &str,
        authorization: &str,
    ) {
        for (digest, bytes) in blobs {
            let path = format!("/v2/{repository}/blobs/uploads/");
            let (status, head) = self.request("POST", &path, authorization, &[]);
            assert_eq!(status, 202, "{head}");
            let location = header(&head, "location").unwrap();
            let path = &location[location.find("/v2/").unwrap()..];
            let joint = if path.contains('?') { '&' } else { '?' };
            let (status, head) =
                self.request("PUT", &format!("{path}{joint}digest={digest}"), authorization, bytes);
            assert_eq!(status, 201, "{head}");
        }
    }

    /// `kind` is `manifest` or `index`.
    pub(super) fn push_manifest(
        &self,
        repository: &str,
        tag: &str,
        kind: &str,
        bytes: &[u8],
        authorization: &str,
    ) {
        let path = format!("/v2/{repository}/manifests/{tag}");
        let extra = format!("{authorization}Content-Type: application/vnd.oci.image.{kind}.v1+json\r\n");
        let (status, head) = self.request("PUT", &path, &extra, bytes);
        assert_eq!(status, 201, "{head}");
    }

    fn request(&self, method: &str, path: &str, extra: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\nConnection: close\r\n{extra}\r\n",
            self.host,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        (answer[9..12].parse().unwrap(), answer)
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

#[test]
fn an_image_is_pulled_from_a_registry_on_loopback() {
    let Some(registry) = RealRegistry::start("", "") else { return };
    let f = Fixture::new();
    let made = two_layers();
    registry.push(&made, "team/web", "1", "");
    let reference = format!("{}/team/web:1", registry.host);
    let image = pull(&f.store, &Registries::default(), &reference).unwrap();
    assert_eq!(
        (image.id.as_str(), image.references.as_slice()),
        (made.id().as_str(), [name(&reference)].as_slice())
    );
    assert_eq!(fs::read_to_string(image.layers[1].path.join("app/main")).unwrap(), "run");
    // Its blobs are kept as the registry has them.
    let (blobs, descriptor) = made.oci();
    for digest in blobs.keys() {
        assert!(f.store.root().join("blobs/sha256").join(&digest[7..]).exists(), "{digest}");
    }
    assert_eq!(f.entries("partial"), [""; 0]);
    assert_eq!(pull(&f.store, &Registries::default(), &reference).unwrap(), image);
    let by_digest = format!("{}/team/web@{}", registry.host, descriptor["digest"].as_str().unwrap());
    let again = pull(&f.store, &Registries::default(), &by_digest).unwrap();
    assert_eq!((again.id, again.references.len()), (image.id, 2));
    let error = pull(&f.store, &Registries::default(), &format!("{}/team/web:2", registry.host)).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ImageError::Remote { .. }), "{error:?}");
    assert!(text.contains("team/web:2` is not found") && text.contains(&registry.host), "{text}");
}

#[test]
fn a_mirror_gives_images_under_their_usual_names() {
    let Some(registry) = RealRegistry::start("", "") else { return };
    let f = Fixture::new();
    let made = two_layers();
    registry.push(&made, "library/postgres", "15", "");
    let mirrors = mirror(&format!("http://{}", registry.host));
    let image = pull(&f.store, &mirrors, "postgres:15").unwrap();
    assert_eq!(image.references, [name("docker.io/library/postgres:15")]);
    assert_eq!(f.store.find(&name("postgres:15")).unwrap().unwrap().id, made.id());
}

#[test]
fn a_password_is_shown_to_the_registry_that_wants_one() {
    let Some(registry) = RealRegistry::with_password() else { return };
    registry.push(&two_layers(), "web", "1", "Authorization: Basic dXNlcjpzZWNyZXQ=\r\n");
    let f = Fixture::new();
    let config = f.dir.path().join("config.json");
    let registries = Registries { credentials: vec![config.clone()], ..Registries::default() };
    let reference = format!("{}/web:1", registry.host);
    let error = pull(&f.store, &registries, &reference).unwrap_err();
    assert!(error.to_string().contains("refuses an anonymous request"), "{error}");
    assert_eq!(error.help()[1], format!("log in with `ficelle login {}`", registry.host));
    let login = |secret: &str| {
        let text = format!(
            r#"{{"auths": {{"{}": {{"username": "user", "password": "{secret}"}}}}}}"#,
            registry.host
        );
        fs::write(&config, text).unwrap();
    };
    login("wrong");
    let error = pull(&f.store, &registries, &reference).unwrap_err().to_string();
    assert!(error.contains("refuses the stored login") && !error.contains("wrong"), "{error}");
    login("secret");
    assert_eq!(pull(&f.store, &registries, &reference).unwrap().id, two_layers().id());
}

#[test]
fn a_credential_helper_is_asked() {
    let Some(registry) = RealRegistry::with_password() else { return };
    registry.push(&two_layers(), "web", "1", "Authorization: Basic dXNlcjpzZWNyZXQ=\r\n");
    let f = Fixture::new();
    let helper = f.file(
        "docker-credential-test",
        b"#!/bin/sh\nread -r key\necho \"$1 $key\" >> \"$0.asked\"\necho '{\"Username\":\"user\",\"Secret\":\"secret\"}'\n",
    );
    fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let config =
        f.file("config.json", format!(r#"{{"credHelpers": {{"{}": "test"}}}}"#, registry.host).as_bytes());
    // In a process of its own: PATH is everybody's.
    let path = format!("{}:{}", f.dir.path().display(), std::env::var("PATH").unwrap());
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "images::registry::pull_in_a_process", "--ignored", "--nocapture"])
        .env("TEST_STORE", f.store.root())
        .env("TEST_IMAGE", format!("{}/web:1", registry.host))
        .env("DOCKER_CONFIG", config.parent().unwrap())
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(f.store.list().unwrap()[0].id, two_layers().id());
    let asked = fs::read_to_string(f.dir.path().join("docker-credential-test.asked")).unwrap();
    assert_eq!(asked, format!("get {}\n", registry.host));
}

/// Not a test: pulls as the environment says.
#[test]
#[ignore = "run by other tests"]
fn pull_in_a_process() {
    if let (Some(root), Ok(image)) = (std::env::var_os("TEST_STORE"), std::env::var("TEST_IMAGE")) {
        pull(&Store::open(root.into()), &Registries::from_environment().unwrap(), &image).unwrap();
    }
}

pub(super) fn openssl(dir: &Path, arguments: &str) -> bool {
    let done = Command::new("openssl").args(arguments.split_whitespace()).current_dir(dir).output();
    match done {
        Ok(done) if done.status.success() => true,
        Ok(done) => panic!("{}", String::from_utf8_lossy(&done.stderr)),
        Err(error) => {
            eprintln!("SKIPPED: openssl does not start: {error}");
            false
        }
    }
}

#[test]
fn tls_is_believed_by_what_stands_in_certs_d() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let ok = openssl(
        dir.path(),
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem",
    );
    if !ok {
        return;
    }
    openssl(dir.path(), "req -newkey rsa:2048 -nodes -subj /CN=registry -keyout leaf.key -out leaf.csr");
    openssl(
        dir.path(),
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out leaf.pem",
    );
    // What most instructions tell people to make: an authority that serves by itself.
    openssl(
        dir.path(),
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=self -addext subjectAltName=IP:127.0.0.1 -keyout self.key -out self.pem",
    );
    for (certificate, authority) in [("leaf", "ca"), ("self", "self")] {
        let own = tempfile::tempdir().unwrap();
        for (from, to) in
            [(format!("{certificate}.pem"), "cert.pem"), (format!("{certificate}.key"), "key.pem")]
        {
            fs::copy(dir.path().join(from), own.path().join(to)).unwrap();
        }
        let tls = "  tls:\n    certificate: DIR/cert.pem\n    key: DIR/key.pem\n";
        let Some(registry) = RealRegistry::start_in(own, tls, "") else { return };
        // Its storage is filled through a second one without TLS.
        let plain = RealRegistry::start("", "").unwrap();
        plain.push(&two_layers(), "web", "1", "");
        let copied =
            Command::new("cp").arg("-a").arg(plain.dir.path().join("data")).arg(registry.dir.path()).status();
        assert!(copied.unwrap().success());
        let f = Fixture::new();
        let certs = f.dir.path().join("certs.d");
        fs::create_dir_all(certs.join(&registry.host)).unwrap();
        let place = certs.join(&registry.host).join("ca.crt");
        let registries = Registries { certificates: vec![certs.clone()], ..Registries::default() };
        let reference = format!("{}/web:1", registry.host);
        let other = if authority == "ca" { "self" } else { "ca" };
        fs::copy(dir.path().join(format!("{other}.pem")), &place).unwrap();
        let error = pull(&f.store, &registries, &reference).unwrap_err().to_string();
        assert!(error.contains(&registry.host), "{error}");
        fs::copy(dir.path().join(format!("{authority}.pem")), &place).unwrap();
        assert_eq!(pull(&f.store, &registries, &reference).unwrap().id, two_layers().id(), "{certificate}");
    }
}

#[test]
fn a_proxy_is_gone_through_to_registries_with_tls() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("san"), "subjectAltName=DNS:registry.test\n").unwrap();
    if !openssl(
        dir.path(),
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=self -addext subjectAltName=DNS:registry.test -keyout key.pem -out cert.pem",
    ) {
        return;
    }
    let certificate = fs::read(dir.path().join("cert.pem")).unwrap();
    let tls = "  tls:\n    certificate: DIR/cert.pem\n    key: DIR/key.pem\n";
    let Some(registry) = RealRegistry::start_in(dir, tls, "") else { return };
    let plain = RealRegistry::start("", "").unwrap();
    plain.push(&two_layers(), "web", "1", "");
    let copied =
        Command::new("cp").arg("-a").arg(plain.dir.path().join("data")).arg(registry.dir.path()).status();
    assert!(copied.unwrap().success());
    let (proxy, seen) = connect_proxy(registry.host.clone());
    let f = Fixture::new();
    let certs = f.dir.path().join("certs.d");
    fs::create_dir_all(certs.join("registry.test")).unwrap();
    fs::write(certs.join("registry.test/ca.crt"), certificate).unwrap();
    let mut registries = Registries {
        certificates: vec![certs],
        proxy: Some(format!("http://me:pw@{proxy}")),
        ..Registries::default()
    };
    assert_eq!(pull(&f.store, &registries, "registry.test/web:1").unwrap().id, two_layers().id());
    let heads = seen.lock().unwrap().clone();
    assert!(
        !heads.is_empty() && heads.iter().all(|head| head.starts_with("CONNECT registry.test:443 ")),
        "{heads:?}"
    );
    assert_eq!(header(&heads[0], "proxy-authorization").as_deref(), Some("Basic bWU6cHc="));
    registries.no_proxy = "registry.test".into();
    let error = pull(&f.store, &registries, "registry.test/web:2").unwrap_err();
    assert!(matches!(error, ImageError::Unreachable { .. }), "{error:?}");
    assert_eq!(seen.lock().unwrap().len(), heads.len());
}

#[test]
fn a_proxy_is_asked_for_what_is_without_tls() {
    let made = two_layers();
    let proxy = FakeRegistry::plain(&made);
    let mut registries = Registries {
        insecure: vec!["registry.test".into()],
        plain_proxy: Some(format!("http://me:pw@{}", proxy.host())),
        ..Registries::default()
    };
    let f = Fixture::new();
    assert_eq!(pull(&f.store, &registries, "registry.test/web:1").unwrap().id, made.id());
    let asked = proxy.requests.lock().unwrap().clone();
    assert!(
        !asked.is_empty()
            && asked.iter().all(|request| request.path.starts_with("http://registry.test/v2/web/")),
        "{asked:?}"
    );
    assert!(
        asked
            .iter()
            .all(|request| request.header("proxy-authorization").as_deref() == Some("Basic bWU6cHc="))
    );
    registries.no_proxy = ".test".into();
    let error = pull(&Fixture::new().store, &registries, "registry.test/web:1").unwrap_err();
    assert!(matches!(error, ImageError::Unreachable { .. }), "{error:?}");
    assert_eq!(proxy.asked(|_| true), asked.len());
    // What is on this machine is reached straight.
    registries.no_proxy = String::new();
    pull(&Fixture::new().store, &registries, &format!("{}/web:1", proxy.host())).unwrap();
    let last = proxy.requests.lock().unwrap().last().unwrap().path.clone();
    assert!(last.starts_with("/v2/web/"), "{last}");
}

/// Connects every name to `target`; tells the heads of its requests.
fn connect_proxy(target: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let heads = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (target, heads) = (target.clone(), Arc::clone(&heads));
            std::thread::spawn(move || {
                let mut near = stream.unwrap();
                let Some(request) = read_request(&mut near) else { return };
                heads.lock().unwrap().push(request.head);
                let mut far = TcpStream::connect(target).unwrap();
                near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                let (mut near_out, mut far_out) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut near, &mut far));
                let _ = std::io::copy(&mut far_out, &mut near_out);
            });
        }
    });
    (host, seen)
}
