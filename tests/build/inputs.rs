//! What a build is given beside its context: secrets, agents, named contexts, addresses, and what RUN may
//! do.

use std::{
    collections::HashMap,
    io::BufReader,
    net::TcpListener,
    os::unix::net::UnixListener,
    process::{Command, Stdio},
    thread,
};

use ficelle::model::{BuildSecret, Hidden, SecretSource, Ulimit};

use super::*;

/// Serves files on loopback as long as the test runs; counts how often bytes were sent.
struct Server {
    port: u16,
    sent: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(files: impl Fn(&str) -> Option<Vec<u8>> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&sent);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = Vec::new();
                for line in BufReader::new(&stream).lines() {
                    let line = line.unwrap_or_default();
                    if line.is_empty() {
                        break;
                    }
                    head.push(line);
                }
                let Some(first) = head.first() else { continue };
                let path = first.split(' ').nth(1).unwrap().to_owned();
                let path = path.split('?').next().unwrap();
                let known = head.iter().any(|line| line.to_lowercase() == "if-none-match: \"1\"");
                let answer = match files(path) {
                    Some(_) if known => b"HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n".to_vec(),
                    Some(bytes) => {
                        log.lock().unwrap().push(path.to_owned());
                        let head = format!(
                            "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nConnection: close\r\n\
                             Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: {}\r\n\r\n",
                            bytes.len()
                        );
                        [head.as_bytes(), &bytes].concat()
                    }
                    None => {
                        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
                    }
                };
                let _ = stream.write_all(&answer);
            }
        });
        Self { port, sent }
    }

    fn of(files: &[(&str, Vec<u8>)]) -> Self {
        let files: HashMap<String, Vec<u8>> =
            files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone())).collect();
        Self::new(move |path| files.get(path).cloned())
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

/// A repository below `dir` with a branch `main`, a branch `other` and a tag, served by files alone.
fn repository(dir: &Path) -> (Server, String) {
    let root = dir.join("origin");
    fs::create_dir_all(root.join("sub")).unwrap();
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=n", "-c", "user.email=n@localhost", "-c", "commit.gpgsign=false"]);
        let output = command.args(args).current_dir(&root).env("HOME", dir).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "-q", "-b", "main"]);
    fs::write(root.join("Dockerfile"), "FROM base\nCOPY . /src\n").unwrap();
    fs::write(root.join("sub/Dockerfile"), "FROM base\nRUN echo sub > /which\n").unwrap();
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "one"]);
    git(&["tag", "v1"]);
    let first = git(&["rev-parse", "HEAD"]);
    fs::write(root.join("second"), "2").unwrap();
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "two"]);
    git(&["update-server-info"]);
    let served = root.join(".git");
    let server = Server::new(move |path| fs::read(served.join(path.strip_prefix("/repo.git/")?)).ok());
    (server, first)
}

pub(super) fn given(id: &str, value: &str) -> BuildSecret {
    let value = Some(Hidden(value.to_owned()));
    BuildSecret { id: id.to_owned(), source: SecretSource::Environment { name: "X".into(), value } }
}

#[test]
fn a_secret_is_seen_by_its_step_and_by_nothing_else() {
    let workshop = workshop!();
    let file = workshop.dir.path().join("secret file");
    fs::write(&file, "from a file").unwrap();
    let text = "FROM base\n\
        RUN --mount=type=secret,id=a cat /run/secrets/a && stat -c ' %a %u %g' /run/secrets/a\n\
        RUN --mount=type=secret,id=f,target=/x/f,uid=33,gid=44,mode=0440 cat /x/f && stat -c ' %a %u %g' /x/f\n\
        RUN --mount=type=secret,id=a,env=TOKEN echo \"env $TOKEN\" && ls /run/secrets || echo no file\n\
        RUN --mount=type=secret,id=absent echo optional; ls /run/secrets || echo nothing\n";
    let outcome = workshop.build_with(text, |build| {
        build.secrets = vec![
            given("a", "hush-hush"),
            BuildSecret { id: "f".into(), source: SecretSource::File(file.clone()) },
        ];
    });
    let said = outcome.output().join("\n");
    for line in
        ["hush-hush 400 0 0", "from a file 440 33 44", "env hush-hush", "no file", "optional", "nothing"]
    {
        assert!(said.contains(line), "{line} in {said}");
    }
    for path in ["run/secrets", "x", "run/secrets/a"] {
        assert!(outcome.path(path).is_none_or(|path| !path.is_file()), "{path}");
    }
    let config = serde_json::to_string(&outcome.image().config).unwrap();
    assert!(!config.contains("hush"), "{config}");
    // Another value is no reason to run again.
    let again = workshop.build_with(text, |build| build.secrets = vec![given("a", "other")]);
    assert_eq!(again.steps(false), Vec::<&str>::new());
    let kept = workshop.dir.path().join("state/run/build");
    assert_eq!(fs::read_dir(kept).unwrap().count(), 0, "no secret stays");
    let missing = workshop.build("FROM base\nRUN --mount=type=secret,id=zz,required true\n");
    assert!(missing.error().to_string().ends_with("Dockerfile:2: secret zz: not found"));
}

#[test]
fn an_agent_answers_in_the_step() {
    let workshop = workshop!();
    if !Path::new("/usr/bin/ssh-keygen").exists() {
        println!("SKIPPED: no ssh-keygen (apt-get install openssh-client)");
        return;
    }
    let key = workshop.dir.path().join("key");
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
    assert!(keygen.status().unwrap().success());
    let text = "FROM base\nRUN --mount=type=ssh,id=keys,required echo $SSH_AUTH_SOCK; test -S $SSH_AUTH_SOCK && \
                stat -c '%a %u' $SSH_AUTH_SOCK\nUSER 33\n\
                RUN --mount=type=ssh,id=sock,uid=33,target=/agent stat -c '%a %u' /agent\n";
    let socket = workshop.dir.path().join("agent");
    let _listener = UnixListener::bind(&socket).unwrap();
    let outcome = workshop.build_with(text, |build| {
        build.ssh.insert("keys".into(), Some(key.to_str().unwrap().into()));
        build.ssh.insert("sock".into(), Some(socket.to_str().unwrap().into()));
    });
    outcome.image();
    assert_eq!(outcome.output(), ["/run/buildkit/ssh_agent.0", "600 0", "600 33"]);
    assert!(outcome.path("agent").is_none() && outcome.path("run/buildkit").is_none());
    let missing = workshop.build("FROM base\nRUN --mount=type=ssh,required true\n");
    assert!(missing.error().to_string().ends_with("ssh agent default: not found"));
}

/// The agent of OpenSSH on the host, asked by its own client in the step.
#[test]
fn a_real_agent_tells_its_keys_in_the_step() {
    let workshop = workshop!();
    if !Path::new("/usr/bin/ssh-agent").exists() {
        println!("SKIPPED: no ssh-agent (apt-get install openssh-client)");
        return;
    }
    let path = |name: &str| workshop.dir.path().join(name);
    let quiet = |mut command: Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let mut keygen = quiet(Command::new("ssh-keygen"));
    keygen.args(["-t", "ed25519", "-N", "", "-C", "the comment of the key", "-f"]).arg(path("key"));
    assert!(keygen.status().unwrap().success());
    let mut agent = quiet(Command::new("ssh-agent"));
    let mut agent = agent.args(["-D", "-a"]).arg(path("agent")).spawn().unwrap();
    wait_until(|| path("agent").exists());
    let added = quiet(Command::new("ssh-add")).arg(path("key")).env("SSH_AUTH_SOCK", path("agent")).status();

    // The client with its libraries and their loader.
    let libraries = Command::new("ldd").arg("/usr/bin/ssh-add").output().unwrap().stdout;
    fs::create_dir(workshop.context().join("tool")).unwrap();
    let mut loader = String::new();
    for library in
        String::from_utf8(libraries).unwrap().split_whitespace().filter(|word| word.starts_with('/'))
    {
        let name = Path::new(library).file_name().unwrap().to_str().unwrap();
        fs::copy(library, workshop.context().join("tool").join(name)).unwrap();
        if name.starts_with("ld-") || name.starts_with("ld.") {
            name.clone_into(&mut loader);
        }
    }
    fs::copy("/usr/bin/ssh-add", workshop.context().join("tool/ssh-add")).unwrap();
    let client = format!("/tool/{loader} --library-path /tool /tool/ssh-add");
    let text = format!("FROM base\nCOPY tool /tool\nRUN --mount=type=ssh,required {client} -l\n");
    let outcome = workshop.build_with(&text, |build| {
        build.ssh.insert("default".into(), Some(path("agent").to_str().unwrap().into()));
    });
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(added.unwrap().success());
    outcome.image();
    assert!(outcome.output()[0].contains("the comment of the key"), "{:?}", outcome.output());
}

#[test]
fn named_contexts_are_files_images_and_layouts() {
    let workshop = workshop!();
    let other = workshop.dir.path().join("other");
    fs::create_dir_all(other.join("bin")).unwrap();
    fs::write(other.join("hello"), "from files\n").unwrap();
    fs::write(other.join("hidden"), "").unwrap();
    fs::write(other.join(".dockerignore"), "hidden\n.dockerignore\n").unwrap();
    fs::copy("/bin/busybox", other.join("bin/sh")).unwrap();
    workshop.load_base("stand-in", &json!({"Env": ["PATH=/bin", "WHO=stand-in"]}));
    let text = "FROM nowhere.invalid/app:1 AS one\nRUN echo $WHO > /who\n\
        FROM files\nCOPY --from=one /who /\nCOPY --from=files hello /copied\n\
        RUN --mount=type=bind,from=files,target=/m read line < /m/hello; echo \"$line\" > /mounted\n";
    let adjust = |build: &mut Build| {
        build.additional_contexts.insert("files".into(), other.to_str().unwrap().into());
        build.additional_contexts.insert("nowhere.invalid/app:1".into(), "docker-image://stand-in".into());
    };
    let outcome = workshop.build_with(text, adjust);
    assert_eq!(outcome.read("who"), "stand-in\n");
    for path in ["hello", "copied", "mounted"] {
        assert_eq!(outcome.read(path), "from files\n", "{path}");
    }
    assert!(outcome.path("hidden").is_none());
    fs::write(other.join("hello"), "changed\n").unwrap();
    let again = workshop.build_with(text, adjust);
    assert_eq!(again.read("mounted"), "changed\n");
    let wrong = workshop.build_with(text, |build| {
        build.additional_contexts.insert("files".into(), "ftp://x/y".into());
    });
    assert!(wrong.error().to_string().contains("`ftp://` is no kind of build context"));
}

#[test]
fn only_the_stages_named_are_made_anew() {
    let workshop = workshop!();
    let text = format!(
        "FROM base AS one\n{RANDOM}FROM base AS two\nENV S=two\n{RANDOM}FROM base\n\
        COPY --from=one /random /one\nCOPY --from=two /random /two\n"
    );
    let first = workshop.build(&text);
    let second = workshop.build_with(&text, |build| build.no_cache_filter = vec!["One".into()]);
    assert_ne!(second.read("one"), first.read("one"));
    assert_eq!(second.read("two"), first.read("two"));
}

#[test]
fn run_is_given_hosts_limits_and_memory() {
    let workshop = workshop!();
    let text = "FROM base\nRUN grep 10.9.8.7 /etc/hosts; grep 'Max open files' /proc/self/limits; \
                grep /dev/shm /proc/mounts | grep -o size=[0-9]*k\n\
                RUN --network=none cat /proc/net/route; echo done\n";
    let outcome = workshop.build_with(text, |build| {
        build.extra_hosts =
            vec![("there".into(), ficelle::model::ExtraHost::Address("10.9.8.7".parse().unwrap()))];
        build.ulimits.insert("nofile".into(), Ulimit { soft: 123, hard: 456 });
        build.shm_size = Some(32 << 20);
    });
    outcome.image();
    let said = outcome.output().join("\n");
    assert!(said.contains("10.9.8.7\tthere") || said.contains("10.9.8.7 there"), "{said}");
    assert!(said.contains("123") && said.contains("456") && said.contains("size=32768k"), "{said}");
    let none = workshop.build_with("FROM base\nRUN cat /proc/net/route\n", |build| {
        build.network = Some("none".into());
    });
    assert_eq!(none.output().len(), 1, "{:?}", none.output());
}

#[test]
fn an_insecure_step_must_be_allowed() {
    let workshop = workshop!();
    let text = "FROM base\nRUN --security=insecure grep CapEff /proc/self/status\n";
    let refused = workshop.build(text);
    assert!(refused.error().to_string().ends_with("security.insecure is not allowed"));
    let plain = workshop.build("FROM base\nRUN grep CapEff /proc/self/status\n");
    assert_eq!(plain.output(), ["CapEff:\t00000000a80425fb"]);
    for grant in [
        |build: &mut Build| build.privileged = true,
        |build: &mut Build| {
            build.entitlements = vec!["security.insecure".into()];
            build.no_cache = true;
        },
    ] {
        let outcome = workshop.build_with(text, grant);
        outcome.image();
        assert_ne!(outcome.output(), plain.output());
    }
}

#[test]
fn a_foreign_program_is_refused_by_the_name_of_its_machine() {
    let workshop = workshop!();
    let foreign = if cfg!(target_arch = "aarch64") { "s390x" } else { "riscv64" };
    let outcome = workshop.build_with("FROM scratch\nCOPY Dockerfile /\nRUN x\n", |build| {
        build.platforms = vec![format!("linux/{foreign}")];
    });
    let message = outcome.error().to_string();
    assert!(message.contains(&format!("RUN cannot be carried out for linux/{foreign}")), "{message}");
    let outcome = workshop.build_with("FROM scratch\nARG TARGETARCH\nENV A=$TARGETARCH\n", |build| {
        build.platforms = vec![format!("linux/{foreign}"), ficelle::image::Platform::host().to_string()];
    });
    assert_ne!(outcome.image().config.architecture().to_string(), foreign, "our own one is chosen");
    assert!(outcome.warnings()[0].starts_with("`platforms`: the image is built for"));
}

#[test]
fn an_image_for_several_platforms_runs_nothing_foreign() {
    let workshop = workshop!();
    let foreign = if cfg!(target_arch = "aarch64") { "s390x" } else { "riscv64" };
    let host = ficelle::image::Platform::host();
    let both = |build: &mut Build| {
        build.every_platform = true;
        build.platforms = vec![format!("linux/{foreign}"), host.to_string(), host.to_string()];
        build.tags.push("also:1".into());
    };
    let text = "FROM --platform=$BUILDPLATFORM base AS make\nARG TARGETARCH\nRUN echo $TARGETARCH > /made\n\
                FROM scratch\nCOPY --from=make /made /made\n";
    let outcome = workshop.build_with(text, both);
    assert_eq!(outcome.image().config.architecture().to_string(), host.architecture);
    assert_eq!(outcome.read("made"), format!("{}\n", host.architecture));
    let wanted = ficelle::image::Platform::parse(&format!("linux/{foreign}")).unwrap();
    for name in ["built", "also:1"] {
        let other = workshop.store.find_for(&name.parse().unwrap(), &wanted).unwrap().unwrap();
        assert_eq!(other.config.architecture().to_string(), foreign);
        assert_eq!(fs::read_to_string(other.layers[0].path.join("made")).unwrap(), format!("{foreign}\n"));
    }
    let steps = outcome.steps(false);
    assert!(
        steps.contains(&format!("[linux/{foreign} make 2/2] RUN echo $TARGETARCH > /made").as_str()),
        "{steps:?}"
    );
    assert_eq!(workshop.build_with(text, both).steps(false), [""; 0]);

    // An image that starts from it takes the one for its own platform.
    let above = workshop.build_with("FROM built\nLABEL a=b\n", |build| {
        build.platforms = vec![format!("linux/{foreign}")];
    });
    assert_eq!(above.image().config.architecture().to_string(), foreign);
    let refused = workshop.build_with("FROM scratch\nCOPY Dockerfile /\nRUN x\n", |build| {
        both(build);
        build.platforms.truncate(2);
        build.platforms[1] = "linux/s390x".into();
    });
    let message = refused.error().to_string();
    assert!(message.contains("RUN cannot be carried out for linux/"), "{message}");
}

#[test]
fn what_is_not_done_is_told_by_name() {
    let workshop = workshop!();
    let outcome = workshop.build_with("FROM base\n", |build| {
        build.isolation = Some("hyperv".into());
        build.provenance = Some("mode=max".into());
        build.sbom = Some("false".into());
        build.entitlements = vec!["device".into()];
    });
    assert_eq!(
        outcome.warnings(),
        [
            "`isolation: hyperv` means something on Windows only",
            "`provenance`: no attestation is made",
            "`entitlements`: `device` is not known",
        ]
    );
}

#[test]
fn add_fetches_a_file_once_and_checks_it() {
    let workshop = workshop!();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o640);
    header.set_size(2);
    archive.append_data(&mut header, "in/archive", &b"hi"[..]).unwrap();
    let archive = archive.into_inner().unwrap();
    let server = Server::of(&[("/a/file.txt", b"content".to_vec()), ("/x.tar", archive)]);
    let (file, tar) = (server.url("/a/file.txt"), server.url("/x.tar"));
    let sum = digest(b"content");
    let text = format!(
        "FROM base\nADD {file} /in/\nADD --checksum={sum} --chown=33:44 --chmod=755 {file} /named\n\
         ADD {tar} /kept/\nADD --unpack=true {tar} /unpacked\n"
    );
    let outcome = workshop.build(&text);
    assert_eq!(outcome.read("in/file.txt"), "content");
    let meta = outcome.path("in/file.txt").unwrap().metadata().unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.mtime()), (0o600, 0, 784_111_777));
    let meta = outcome.path("named").unwrap().metadata().unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o755, 33, 44));
    assert!(outcome.path("kept/x.tar").is_some());
    assert_eq!(outcome.read("unpacked/in/archive"), "hi");
    let again = workshop.build(&text);
    assert_eq!(again.steps(false), Vec::<&str>::new());
    assert_eq!(*server.sent.lock().unwrap(), ["/a/file.txt", "/x.tar"]);

    let wrong = workshop.build(&format!("FROM base\nADD --checksum={} {file} /x\n", digest(b"other")));
    assert!(wrong.error().to_string().contains("digest mismatch"), "{}", wrong.error());
    let absent = workshop.build(&format!("FROM base\nADD {} /x\n", server.url("/none")));
    assert!(absent.error().to_string().contains("404"), "{}", absent.error());
    workshop.write("f", "");
    let local = workshop.build(&format!("FROM base\nADD --checksum={sum} f /x\n"));
    assert!(local.error().to_string().contains("checksum can't be specified"), "{}", local.error());
}

#[test]
fn repositories_are_contexts_and_sources() {
    let workshop = workshop!();
    let (server, first) = repository(workshop.dir.path());
    let url = server.url("/repo.git");
    let outcome = workshop.build_with("unused", |build| build.context = url.clone().into());
    assert!(outcome.path("src/second").is_some() && outcome.path("src/.git").is_none());
    let tagged = workshop.build_with("unused", |build| build.context = format!("{url}#v1").into());
    assert!(tagged.path("src/second").is_none() && tagged.path("src/sub").is_some());
    let below = workshop.build_with("unused", |build| build.context = format!("{url}#main:sub").into());
    assert_eq!(below.read("which"), "sub\n");
    let none = workshop.build_with("unused", |build| build.context = format!("{url}#nope").into());
    assert!(none.error().to_string().contains("cannot fetch `http://127.0.0.1:"), "{}", none.error());

    let text = format!(
        "FROM base\nADD {url}#v1 /at\nADD --keep-git-dir=true {url} /kept\nADD --checksum={first} {url}#{first} /c\n"
    );
    let added = workshop.build(&text);
    assert!(added.path("at/second").is_none() && added.path("at/sub/Dockerfile").is_some());
    assert!(added.path("kept/.git/HEAD").is_some() && added.path("kept/second").is_some());
    assert!(added.read("kept/.git/config").contains(&format!("url = {url}\n")));
    assert!(added.path("c/second").is_none());
    let wrong = workshop.build(&format!("FROM base\nADD --checksum={first} {url}#main /c\n"));
    assert!(wrong.error().to_string().contains(&format!("expected commit {first}")), "{}", wrong.error());
}

#[test]
fn archives_and_dockerfiles_of_a_server_are_contexts() {
    let workshop = workshop!();
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in [("Dockerfile", &b"FROM base\nCOPY data /\n"[..]), ("data", b"in the archive")] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).unwrap();
    }
    let alone = b"FROM base\nRUN echo alone > /which\n".to_vec();
    let server = Server::of(&[("/c.tar", archive.into_inner().unwrap()), ("/Dockerfile", alone)]);
    let outcome = workshop.build_with("unused", |build| build.context = server.url("/c.tar").into());
    assert_eq!(outcome.read("data"), "in the archive");
    let outcome = workshop.build_with("unused", |build| build.context = server.url("/Dockerfile").into());
    assert_eq!(outcome.read("which"), "alone\n");
    let outcome = workshop.build_with("unused", |build| {
        build.dockerfile = Some(server.url("/Dockerfile").into());
    });
    assert_eq!(outcome.read("which"), "alone\n");
}

#[test]
fn a_failed_step_shows_its_lines_and_what_it_said() {
    let workshop = workshop!();
    let outcome = workshop.build("FROM base\nRUN true\nRUN echo one; echo two >&2; exit 7\nRUN true\n");
    let BuildError::Step { code, line, snippet, output, .. } = outcome.error() else { panic!() };
    assert_eq!((code, line), (&7, &3));
    assert!(snippet.contains("   3 >>> RUN echo one"), "{snippet}");
    let mut said = output.clone();
    said.sort();
    assert_eq!(said, ["one", "two"]);
}
