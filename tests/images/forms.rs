//! Debian's docker-registry in each of its forms (plain, with passwords, with TLS and certificates on both
//! sides, with a token server), and `login`, `push`, `pull` and `logout` of the program with each.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{
    fake::{read_request, reply},
    login::{both, ficelle, root},
    registry::{RealRegistry, openssl},
    two_layers,
};

/// A person with an image that is to go to a registry.
struct Person {
    home: tempfile::TempDir,
    target: String,
    host: String,
}

impl Person {
    /// With `team/app:1` of this registry in the store.
    fn at(registry: &RealRegistry) -> Self {
        let home = tempfile::tempdir().unwrap();
        let host = registry.host.clone();
        let archive = home.path().join("app.tar");
        let target = format!("{host}/team/app:1");
        fs::write(&archive, two_layers().docker_archive(&[&target])).unwrap();
        let person = Self { home, target, host };
        person.well(&["image", "load", "-q", "-i", archive.to_str().unwrap()]);
        person
    }

    fn run(&self, arguments: &[&str]) -> Output {
        ficelle(self.home.path(), arguments, "", &[])
    }

    fn well(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert!(done.status.success(), "{arguments:?}: {}", both(&done));
        both(&done)
    }

    /// It fails with all of these words.
    fn fails(&self, arguments: &[&str], words: &[&str]) {
        let done = self.run(arguments);
        let said = both(&done);
        assert!(!done.status.success(), "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments:?} does not say `{word}`: {said}");
        }
    }

    fn login(&self, user: &str, password: &str) -> Output {
        ficelle(self.home.path(), &["login", &self.host, "-u", user, "--password-stdin"], password, &[])
    }

    fn logs_in(&self, user: &str, password: &str) {
        let done = self.login(user, password);
        assert!(done.status.success() && both(&done).contains("Login Succeeded"), "{}", both(&done));
    }

    fn next_move(&self) -> String {
        format!("ficelle login {}", self.host)
    }

    fn pushes(&self) {
        assert!(self.well(&["image", "push", &self.target]).contains("Pushed"));
        self.well(&["image", "push", &self.target]);
    }

    /// Into a store that has nothing.
    fn pulls(&self) {
        self.well(&["image", "rm", &self.target]);
        let said = self.well(&["image", "pull", &self.target]);
        assert!(said.contains(&two_layers().id()), "{said}");
        assert!(said.contains(&format!(" Image {}  Pulled  ", self.target)), "{said}");
        self.well(&["image", "rm", &self.target]);
        let quiet = self.well(&["image", "pull", "-q", &self.target]);
        assert_eq!(quiet, format!("{}\n", two_layers().id()));
        let missing = format!("{}/team/app:2", self.host);
        self.fails(&["image", "pull", &missing], &["is not found", "check its name and tag"]);
    }

    fn certificates(&self) -> PathBuf {
        let directory = self.home.path().join("config/ficelle/certs.d").join(&self.host);
        fs::create_dir_all(&directory).unwrap();
        directory
    }
}

#[test]
fn plain() {
    if !root() {
        return;
    }
    let Some(registry) = RealRegistry::start("", "") else { return };
    let person = Person::at(&registry);
    person.pushes();
    person.pulls();
    // It asks nobody who he is, so any login is right.
    person.logs_in("user", "anything");
    person.pushes();
    assert!(person.well(&["logout", &person.host]).contains("Removed the login"));
    person.pulls();
}

#[test]
fn with_passwords() {
    if !root() {
        return;
    }
    let Some(registry) = RealRegistry::with_password() else { return };
    let person = Person::at(&registry);
    person.fails(&["image", "push", &person.target], &["refuses an anonymous request", &person.next_move()]);
    let wrong = person.login("user", "wrong");
    assert!(!wrong.status.success() && both(&wrong).contains("refuses the user name or password"));
    person.fails(&["image", "push", &person.target], &["refuses an anonymous request", &person.next_move()]);
    person.logs_in("user", "secret");
    person.pushes();
    person.pulls();
    person.well(&["logout", &person.host]);
    person.fails(&["image", "pull", &person.target], &["refuses an anonymous request", &person.next_move()]);
}

/// An authority, and a certificate of its for each name.
fn authority(directory: &Path, names: &[&str]) -> bool {
    fs::write(directory.join("extensions"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let request = "req -newkey rsa:2048 -nodes -days 2";
    if !openssl(directory, &format!("{request} -x509 -subj /CN=authority -keyout ca.key -out ca.pem")) {
        return false;
    }
    names.iter().all(|name| {
        openssl(directory, &format!("{request} -subj /CN={name} -keyout {name}.key -out {name}.csr"))
            && openssl(
                directory,
                &format!(
                    "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                     -extfile extensions -out {name}.pem"
                ),
            )
    })
}

#[test]
fn with_tls_and_certificates_of_both_sides() {
    if !root() {
        return;
    }
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    if !authority(own.path(), &["server", "client"]) || !authority(other.path(), &[]) {
        return;
    }
    let kept = tempfile::tempdir().unwrap();
    for file in ["ca.pem", "client.pem", "client.key"] {
        fs::copy(own.path().join(file), kept.path().join(file)).unwrap();
    }
    let tls = "  tls:\n    certificate: DIR/server.pem\n    key: DIR/server.key\n    clientcas:\n      - DIR/ca.pem\n";
    let Some(registry) = RealRegistry::start_in(own, tls, "") else { return };
    let person = Person::at(&registry);
    let certificates = person.certificates();
    fs::copy(other.path().join("ca.pem"), certificates.join("ca.crt")).unwrap();
    let place = "certs.d/HOST/ca.crt";
    for arguments in [&["image", "push", &person.target], &["image", "pull", &person.target]] {
        person.fails(arguments, &["invalid peer certificate", place]);
    }
    let login = person.login("user", "anything");
    assert!(!login.status.success() && both(&login).contains(place), "{}", both(&login));
    fs::copy(kept.path().join("ca.pem"), certificates.join("ca.crt")).unwrap();
    let place = "certs.d/HOST/client.cert";
    person.fails(&["image", "push", &person.target], &["received fatal alert", place]);
    fs::copy(kept.path().join("client.pem"), certificates.join("client.cert")).unwrap();
    fs::copy(kept.path().join("client.key"), certificates.join("client.key")).unwrap();
    person.pushes();
    person.pulls();
    person.logs_in("user", "anything");
    person.well(&["logout", &person.host]);
}

/// Gives tokens as docker-registry wants them (distribution's "Token Authentication Implementation").
struct TokenServer {
    realm: String,
    /// Seconds that a token is good for after now; one that has ended is given as `PAST`.
    lasts: Arc<AtomicU64>,
}

const PAST: u64 = 0;
const ISSUER: &str = "forms.test";
const SERVICE: &str = "registry.test";

impl TokenServer {
    /// `own.pem` and `own.key` below `directory` are its certificate and key.
    fn start(directory: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let realm = format!("http://{}/token", listener.local_addr().unwrap());
        let lasts = Arc::new(AtomicU64::new(300));
        let certificate = fs::read_to_string(directory.join("own.pem")).unwrap();
        let certificate: String = certificate.lines().filter(|line| !line.starts_with('-')).collect();
        let key = directory.join("own.key");
        let given = Arc::clone(&lasts);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = read_request(&mut stream) else { continue };
                let user = match request.header("authorization").as_deref() {
                    None => "",
                    Some("Basic dXNlcjpzZWNyZXQ=") => "user",
                    Some("Basic cmVhZGVyOnNlY3JldA==") => "reader",
                    Some(_) => {
                        reply("401 Unauthorized", "", b"{}").send(&mut stream).unwrap();
                        continue;
                    }
                };
                let access: Vec<Value> =
                    scopes(&request.path).iter().map(|scope| allowed(user, scope)).collect();
                let token = token(&key, &certificate, user, &access, given.load(Ordering::SeqCst));
                let answer = json!({"token": token, "expires_in": 300}).to_string();
                reply("200 OK", "", answer.as_bytes()).send(&mut stream).unwrap();
            }
        });
        Self { realm, lasts }
    }
}

/// `repository:team/app:pull,push`, each of them.
fn scopes(path: &str) -> Vec<String> {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let values = query.split('&').filter_map(|field| field.strip_prefix("scope="));
    let plain = |value: &str| {
        ["%3A/:", "%2F//", "%2C/,", "%20/ ", "+/ "].iter().fold(value.to_owned(), |text, pair| {
            let (from, to) = pair.split_once('/').unwrap();
            text.replace(from, to)
        })
    };
    values.flat_map(|value| plain(value).split(' ').map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// What a user may: `user` all, `reader` only pull, others nothing.
fn allowed(user: &str, scope: &str) -> Value {
    let [kind, name, actions] = scope.split(':').collect::<Vec<_>>()[..] else { panic!("{scope}") };
    let may: &[&str] = match user {
        "user" => &["pull", "push"],
        "reader" => &["pull"],
        _ => &[],
    };
    let actions: Vec<&str> = actions.split(',').filter(|action| may.contains(action)).collect();
    json!({"type": kind, "name": name, "actions": actions})
}

/// Signed with RS256; its certificate goes along.
fn token(key: &Path, certificate: &str, user: &str, access: &[Value], lasts: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let ends = if lasts == PAST { now - 3600 } else { now + lasts };
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [certificate]});
    let claims = json!({
        "iss": ISSUER, "sub": user, "aud": SERVICE, "exp": ends, "nbf": now - 7200, "iat": now - 7200,
        "jti": format!("{now}"), "access": access,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let mut child = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(signed.as_bytes()).unwrap();
    let signature = child.wait_with_output().unwrap().stdout;
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn with_tokens() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    if !openssl(
        dir.path(),
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tokens -keyout own.key -out own.pem",
    ) {
        return;
    }
    let server = TokenServer::start(dir.path());
    let auth = format!(
        "auth:\n  token:\n    realm: {}\n    service: {SERVICE}\n    issuer: {ISSUER}\n    rootcertbundle: DIR/own.pem\n",
        server.realm
    );
    // The server signs with files of the same directory, which lives as long as the registry.
    let Some(registry) = RealRegistry::start_in(dir, "", &auth) else { return };
    let person = Person::at(&registry);
    let push = ["image", "push", &person.target];
    let pull = ["image", "pull", &person.target];
    person.fails(&push, &["refuses an anonymous request", "insufficient_scope", &person.next_move()]);
    let wrong = person.login("user", "wrong");
    assert!(!wrong.status.success(), "{}", both(&wrong));
    assert!(both(&wrong).contains("refuses the user name or password"), "{}", both(&wrong));
    person.logs_in("reader", "secret");
    person.fails(
        &push,
        &["refuses the stored login", "insufficient_scope", "check that the repository is yours"],
    );
    person.logs_in("user", "secret");
    person.pushes();
    person.pulls();
    server.lasts.store(PAST, Ordering::SeqCst);
    person.fails(&pull, &["refuses the stored login", "invalid_token", &person.next_move()]);
    server.lasts.store(300, Ordering::SeqCst);
    person.logs_in("reader", "secret");
    person.pulls();
    person.well(&["logout", &person.host]);
    person.fails(&pull, &["refuses an anonymous request", "insufficient_scope", &person.next_move()]);
}
