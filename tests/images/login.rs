//! `ficelle login` against registries with a password, with tokens, with TLS; what is kept, and `push`,
//! `pull`, `lock` of a project with it.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use super::{
    Fixture,
    fake::{FakeRegistry, reply},
    registry::RealRegistry,
    two_layers,
};

/// A place of its own for everything that ficelle reads of a person.
pub(super) fn ficelle(home: &Path, arguments: &[&str], input: &str, variables: &[(&str, &str)]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ficelle"))
        .arg("--root")
        .arg(home.join("root"))
        .args(arguments)
        .current_dir(home)
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env_remove("DOCKER_CONFIG")
        .env_remove("FICELLE_MIRRORS")
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may not want to read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

pub(super) fn both(done: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

pub(super) fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: the store of the engine needs root");
    }
    root
}

#[test]
fn a_login_is_tried_and_kept_and_forgotten() {
    let Some(registry) = RealRegistry::with_password() else { return };
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join(".docker/config.json");
    fs::create_dir(home.path().join(".docker")).unwrap();
    fs::write(&config, r#"{"HttpHeaders": {"X": "y"}, "auths": {"else.test": {"auth": "YTpi"}}}"#).unwrap();
    let login = |password: &str| {
        ficelle(home.path(), &["login", &registry.host, "-u", "user", "--password-stdin"], password, &[])
    };
    let refused = login("wrong\n");
    assert!(
        !refused.status.success() && both(&refused).contains("refuses the user name or password"),
        "{}",
        both(&refused)
    );
    assert!(!fs::read_to_string(&config).unwrap().contains(&registry.host));
    let done = login("secret\n");
    assert!(done.status.success() && both(&done).contains("Login Succeeded"), "{}", both(&done));
    let kept: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    assert_eq!(kept["auths"][&registry.host]["auth"], "dXNlcjpzZWNyZXQ=");
    assert_eq!(
        (&kept["HttpHeaders"]["X"], &kept["auths"]["else.test"]["auth"]),
        (&"y".into(), &"YTpi".into())
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&config).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    if root() {
        registry.push(&two_layers(), "web", "1", "Authorization: Basic dXNlcjpzZWNyZXQ=\r\n");
        let pulled = ficelle(home.path(), &["image", "pull", &format!("{}/web:1", registry.host)], "", &[]);
        assert!(pulled.status.success(), "{}", both(&pulled));
    }
    assert!(ficelle(home.path(), &["logout", &registry.host], "", &[]).status.success());
    let kept: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    assert_eq!(kept["auths"], serde_json::json!({"else.test": {"auth": "YTpi"}}));
    let again = ficelle(home.path(), &["logout", &registry.host], "", &[]);
    assert!(again.status.success() && both(&again).contains("not logged in"), "{}", both(&again));
}

#[test]
fn a_helper_keeps_the_secret() {
    let Some(registry) = RealRegistry::with_password() else { return };
    let home = tempfile::tempdir().unwrap();
    let helper = home.path().join("docker-credential-test");
    fs::write(
        &helper,
        "#!/bin/sh\ncase $1 in store) cat > \"$0.kept\";; get) test -s \"$0.kept\" || { echo credentials not found; exit 1; }; cat \"$0.kept\";; erase) rm \"$0.kept\";; esac\n",
    )
    .unwrap();
    fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(home.path().join("config.json"), r#"{"credsStore": "test"}"#).unwrap();
    let path = format!("{}:{}", home.path().display(), std::env::var("PATH").unwrap());
    let variables = [("PATH", path.as_str()), ("DOCKER_CONFIG", home.path().to_str().unwrap())];
    let done = ficelle(
        home.path(),
        &["login", &registry.host, "-u", "user", "--password-stdin"],
        "secret",
        &variables,
    );
    assert!(done.status.success(), "{}", both(&done));
    let kept = fs::read_to_string(home.path().join("docker-credential-test.kept")).unwrap();
    assert!(kept.contains("secret") && kept.contains(&registry.host), "{kept}");
    let config = fs::read_to_string(home.path().join("config.json")).unwrap();
    assert!(
        config.contains(&registry.host) && !config.contains("secret") && !config.contains("\"auth\""),
        "{config}"
    );
    assert!(ficelle(home.path(), &["logout", &registry.host], "", &variables).status.success());
    assert!(!home.path().join("docker-credential-test.kept").exists());
}

#[test]
fn a_token_server_may_give_an_identity_in_place_of_the_password() {
    let registry = FakeRegistry::start(
        &two_layers(),
        Box::new(move |request| {
            let host = request.header("host").unwrap();
            Some(if request.path.starts_with("/token") {
                let known = request.header("authorization").as_deref() == Some("Basic dXNlcjpzZWNyZXQ=");
                assert!(
                    request.path.contains("offline_token=true") && request.path.contains("account=user"),
                    "{}",
                    request.path
                );
                if known {
                    reply("200 OK", "", br#"{"token": "t", "refresh_token": "identity"}"#)
                } else {
                    reply("401 Unauthorized", "", b"")
                }
            } else if request.header("authorization").as_deref() == Some("Bearer t") {
                reply("200 OK", "", b"{}")
            } else {
                let challenge =
                    format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"s\"\r\n");
                reply("401 Unauthorized", &challenge, b"")
            })
        }),
    );
    let home = tempfile::tempdir().unwrap();
    let host = registry.host();
    let login = |password: &str| {
        ficelle(home.path(), &["login", &host, "-u", "user", "--password-stdin"], password, &[])
    };
    assert!(!login("wrong").status.success());
    let done = login("secret");
    assert!(done.status.success(), "{}", both(&done));
    let kept = fs::read_to_string(home.path().join(".docker/config.json")).unwrap();
    assert!(kept.contains(r#""identitytoken": "identity""#) && !kept.contains("dXNlcjpzZWNyZXQ="), "{kept}");
}

#[test]
fn a_login_without_a_terminal_says_how_to_give_the_password() {
    let home = tempfile::tempdir().unwrap();
    let done = ficelle(home.path(), &["login", "127.0.0.1:1", "-u", "user"], "", &[]);
    assert!(!done.status.success() && both(&done).contains("--password-stdin"), "{}", both(&done));
}

/// A project whose one image is `app:1` of docker.io, which a registry on loopback mirrors.
#[test]
fn a_locked_project_takes_no_other_image() {
    if !root() {
        return;
    }
    let Some(registry) = RealRegistry::start("", "") else { return };
    registry.push(&two_layers(), "library/app", "1", "");
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("compose.yaml"), "name: locked\nservices:\n  app:\n    image: app:1\n")
        .unwrap();
    let mirrors = format!("docker.io=http://{}", registry.host);
    let run = |arguments: &[&str]| ficelle(home.path(), arguments, "", &[("FICELLE_MIRRORS", &mirrors)]);
    let none = run(&["pull", "--locked"]);
    assert!(!none.status.success() && both(&none).contains("`ficelle lock` writes it"), "{}", both(&none));
    let done = run(&["lock"]);
    assert!(done.status.success(), "{}", both(&done));
    let old = two_layers().oci().1["digest"].as_str().unwrap().to_owned();
    let lock: serde_json::Value =
        serde_json::from_slice(&fs::read(home.path().join("ficelle.lock")).unwrap()).unwrap();
    assert_eq!(lock, serde_json::json!({"version": 1, "images": {"app:1": old}}));
    assert!(run(&["lock", "--check"]).status.success());
    let pulled = run(&["pull", "--locked"]);
    assert!(pulled.status.success(), "{}", both(&pulled));
    assert!(run(&["create", "--locked", "--dry-run"]).status.success());
    // Somebody pushes another image under the name.
    let other = super::make::Made::new(vec![super::make::layer(&[("new", "x")])]);
    let new = other.oci().1["digest"].as_str().unwrap().to_owned();
    registry.push(&other, "library/app", "1", "");
    for arguments in [&["pull", "--locked"][..], &["create", "--locked", "--pull", "always"]] {
        let drifted = run(arguments);
        let said = both(&drifted);
        assert_eq!(drifted.status.code(), Some(3), "{arguments:?}: {said}");
        assert!(said.contains(&old) && said.contains(&new), "{said}");
    }
    let check = run(&["lock", "--check"]);
    assert_eq!(check.status.code(), Some(3));
    assert!(both(&check).contains(&format!("app:1: {old} -> {new}")), "{}", both(&check));
    // The store still has the locked one; once it has the other, that is told before anything starts.
    assert!(run(&["create", "--locked", "--dry-run"]).status.success());
    assert!(run(&["pull"]).status.success());
    let drifted = run(&["create", "--locked", "--dry-run"]);
    let said = both(&drifted);
    assert!(drifted.status.code() == Some(3) && said.contains(&old) && said.contains(&new), "{said}");
    assert!(run(&["lock"]).status.success());
    assert!(run(&["create", "--locked", "--dry-run"]).status.success());
}

/// The same of what a Dockerfile starts from.
#[test]
fn a_locked_project_builds_on_no_other_base() {
    if !root() {
        return;
    }
    let Some(registry) = RealRegistry::start("", "") else { return };
    registry.push(&two_layers(), "library/app", "1", "");
    let home = tempfile::tempdir().unwrap();
    fs::write(
        home.path().join("compose.yaml"),
        "name: based\nservices:\n  base:\n    image: made-here\n    build: {context: .}\n  \
         top:\n    build: {context: ., dockerfile: Dockerfile.top, additional_contexts: {made-here: 'service:base'}}\n",
    )
    .unwrap();
    let write = |name: &str, text: &str| fs::write(home.path().join(name), text).unwrap();
    write("Dockerfile", "FROM app:1\nCOPY Dockerfile /\n");
    write("Dockerfile.top", "FROM made-here\n");
    let mirrors = format!("docker.io=http://{}", registry.host);
    let run = |arguments: &[&str]| ficelle(home.path(), arguments, "", &[("FICELLE_MIRRORS", &mirrors)]);
    assert!(run(&["lock"]).status.success());
    let old = two_layers().oci().1["digest"].as_str().unwrap().to_owned();
    let lock: serde_json::Value =
        serde_json::from_slice(&fs::read(home.path().join("ficelle.lock")).unwrap()).unwrap();
    assert_eq!(lock["images"], serde_json::json!({"app:1": old}), "what is built here has no registry");
    // Fetched as the locked one, and found as such.
    for _ in 0..2 {
        let built = run(&["up", "--locked", "--build", "--no-start"]);
        assert!(built.status.success(), "{}", both(&built));
    }
    let other = super::make::Made::new(vec![super::make::layer(&[("new", "x")])]);
    let new = other.oci().1["digest"].as_str().unwrap().to_owned();
    registry.push(&other, "library/app", "1", "");
    assert!(
        run(&["up", "--locked", "--build", "--no-start"]).status.success(),
        "the store has the locked one"
    );
    let drifts = |wanted: &str| {
        let drifted = run(&["up", "--locked", "--build", "--no-start"]);
        let said = both(&drifted);
        assert_eq!(drifted.status.code(), Some(3), "{said}");
        assert!(said.contains(wanted) && said.contains("ficelle lock"), "{said}");
    };
    // Brought by somebody else, then lost: neither the store's nor the registry's is taken.
    assert!(run(&["image", "pull", "app:1"]).status.success());
    drifts(&new);
    assert!(run(&["image", "rm", "app:1"]).status.success());
    drifts(&old);
    write("Dockerfile", "FROM elsewhere:2\n");
    drifts("image `elsewhere:2` is not in ficelle.lock");
    assert!(run(&["down"]).status.success());
}

#[test]
fn a_project_pushes_what_it_builds() {
    if !root() {
        return;
    }
    let Some(registry) = RealRegistry::start("", "") else { return };
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("web")).unwrap();
    fs::write(home.path().join("web/Dockerfile"), "FROM scratch\nCOPY page /page\n").unwrap();
    fs::write(home.path().join("web/page"), "hello").unwrap();
    let host = &registry.host;
    let file = format!(
        "name: pushing\nservices:\n  web:\n    image: {host}/web:1\n    build: {{context: web, tags: ['{host}/web:2']}}\n  own:\n    build: web\n  db:\n    image: {host}/db:1\n"
    );
    fs::write(home.path().join("compose.yaml"), file).unwrap();
    let run = |arguments: &[&str]| ficelle(home.path(), arguments, "", &[]);
    let early = run(&["push"]);
    assert!(
        !early.status.success() && both(&early).contains("`ficelle build web` makes it"),
        "{}",
        both(&early)
    );
    assert!(run(&["push", "--ignore-push-failures"]).status.success());
    let built = run(&["build"]);
    assert!(built.status.success(), "{}", both(&built));
    let plan = run(&["push", "--dry-run"]);
    assert!(
        both(&plan).contains(&format!("push image {host}/web:2")) && !both(&plan).contains("/db:1"),
        "{}",
        both(&plan)
    );
    let pushed = run(&["push"]);
    assert!(pushed.status.success(), "{}", both(&pushed));
    for tag in ["1", "2"] {
        let f = Fixture::new();
        let image = format!("{host}/web:{tag}");
        let pulled = super::registry::pull(&f.store, &ficelle::image::Registries::default(), &image).unwrap();
        assert_eq!(fs::read_to_string(pulled.layers[0].path.join("page")).unwrap(), "hello");
    }
    assert!(run(&["push", "db"]).status.success(), "an image that is not built here is another's to push");
}

/// The sample as it stands: its images come from a registry on loopback by the setting of a mirror.
#[test]
fn the_guestbook_comes_through_a_mirror_and_answers() {
    if !root() {
        return;
    }
    let Some(registry) = RealRegistry::start("", "") else { return };
    let home = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let store = tempfile::tempdir().unwrap();
    for (archive, image) in [("postgres", "postgres:15"), ("redis", "redis:7"), ("python", "python:3-slim")] {
        let archive = source.join(format!(".cache/images/{archive}.tar"));
        if !archive.exists() {
            eprintln!("SKIPPED: no {} (scripts/base-images makes it)", archive.display());
            return;
        }
        let target = format!("{}/library/{image}", registry.host);
        let archive = archive.to_str().unwrap();
        for arguments in [
            &["image", "load", "-i", archive][..],
            &["image", "tag", image, &target],
            &["image", "push", &target],
        ] {
            let done = ficelle(store.path(), arguments, "", &[]);
            assert!(done.status.success(), "{arguments:?}: {}", both(&done));
        }
    }
    let sample = home.path().join("guestbook");
    let copied =
        Command::new("cp").arg("-r").arg(source.join("compose-samples/guestbook")).arg(&sample).status();
    assert!(copied.unwrap().success());
    // The file in the place of the setting, once; the variables are tried by the other tests.
    fs::create_dir_all(home.path().join("config/ficelle")).unwrap();
    let setting = serde_json::json!({"mirrors": {"docker.io": [format!("http://{}", registry.host)]}});
    fs::write(home.path().join("config/ficelle/registries.json"), setting.to_string()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let variables = [("GUESTBOOK_PORT", port.as_str()), ("COMPOSE_FILE", "guestbook/compose.yaml")];
    let run = |arguments: &[&str]| {
        let project: Vec<&str> = ["-p", "mirrored"].iter().chain(arguments).copied().collect();
        ficelle(home.path(), &project, "", &variables)
    };
    let mut failed = None;
    for arguments in [&["pull", "-q"][..], &["build", "-q"], &["up", "-d", "--wait", "--no-build"]] {
        let done = run(arguments);
        if !done.status.success() {
            failed = Some(format!("{arguments:?}: {}", both(&done)));
            break;
        }
    }
    let page = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).and_then(|mut stream| {
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        std::io::read_to_string(stream)
    });
    let down = run(&["down", "-v"]);
    assert_eq!(failed, None);
    assert!(page.unwrap().contains("Visit number 1, 0 entries."));
    assert!(down.status.success(), "{}", both(&down));
}

#[test]
fn config_writes_the_digests_of_registries_into_images() {
    let Some(registry) = RealRegistry::start("", "") else { return };
    registry.push(&two_layers(), "library/app", "1", "");
    let digest = two_layers().oci().1["digest"].as_str().unwrap().to_owned();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("compose.yaml");
    let text = format!(
        "name: pinned\nservices:\n  app: {{image: 'app:1', command: echo}}\n  own: {{build: .}}\n  \
         set: {{image: 'app:1@{digest}'}}\n"
    );
    fs::write(&file, text).unwrap();
    let mirrors = format!("docker.io=http://{}", registry.host);
    let run = |arguments: &[&str]| ficelle(home.path(), arguments, "", &[("FICELLE_MIRRORS", &mirrors)]);
    let whole = run(&["config", "--resolve-image-digests"]);
    let pinned = format!("image: docker.io/library/app:1@{digest}\n");
    assert!(both(&whole).contains(&pinned) && both(&whole).contains("- echo"), "{}", both(&whole));
    let override_file = run(&["config", "--lock-image-digests"]);
    let wanted = format!(
        "services:\n  app:\n    {pinned}  own: {{}}\n  set:\n    image: docker.io/library/app@{digest}\n"
    );
    assert_eq!(both(&override_file), wanted);
    let json = run(&["config", "--lock-image-digests", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let app = serde_json::json!({"image": format!("docker.io/library/app:1@{digest}")});
    assert_eq!((&json["services"]["app"], json.as_object().unwrap().len()), (&app, 1));
    fs::write(home.path().join("compose.override.yaml"), wanted).unwrap();
    let images = run(&["config", "--images"]);
    assert!(both(&images).contains(&format!("docker.io/library/app:1@{digest}\n")), "{}", both(&images));
}

#[test]
fn config_names_every_service_whose_image_has_no_digest() {
    let Some(registry) = RealRegistry::start("", "") else { return };
    let home = tempfile::tempdir().unwrap();
    let host = &registry.host;
    let text = format!(
        "name: pinned\nservices:\n  gone:\n    image: {host}/gone:1\n  own:\n    build: .\n    image: {host}/own:1\n"
    );
    fs::write(home.path().join("compose.yaml"), text).unwrap();
    let done = ficelle(home.path(), &["config", "-q", "--lock-image-digests"], "", &[]);
    let said = both(&done);
    assert_eq!(done.status.code(), Some(1), "{said}");
    for told in ["service `gone`", "compose.yaml:4:", "service `own`", "compose.yaml:7:", "ficelle push own"]
    {
        assert!(said.contains(told), "no {told}: {said}");
    }
}
