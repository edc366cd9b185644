//! Compose files in repositories, fetched from a git server on loopback by the program itself.

use std::{
    fs,
    net::TcpListener,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A repository `shop.git`, served while it lives, and a directory to work in.
struct Shop {
    dir: tempfile::TempDir,
    address: String,
}

impl Shop {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shop = Self { address: serve(dir.path().to_owned()), dir };
        fs::create_dir_all(shop.work()).unwrap();
        fs::create_dir_all(shop.dir.path().join("here")).unwrap();
        shop.git(&["init", "--quiet", "--initial-branch=main"]);
        shop.commit(files);
        shop
    }

    fn work(&self) -> PathBuf {
        self.dir.path().join("shop.git")
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(self.work())
            .args(["-c", "user.name=T", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"])
            .args(arguments)
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .env_remove("GIT_INDEX_FILE")
            .output()
            .expect("git is needed");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The id of a commit with these files added.
    fn commit(&self, files: &[(&str, &str)]) -> String {
        for (name, text) in files {
            let path = self.work().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message=x"]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn url(&self, fragment: &str) -> String {
        format!("git://{}/shop.git{fragment}", self.address)
    }

    fn config(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ficelle"))
            .args(arguments)
            .arg("config")
            .current_dir(self.dir.path().join("here"))
            .env("XDG_CACHE_HOME", self.dir.path().join("cache"))
            .env_remove("FICELLE_ROOT")
            .output()
            .unwrap()
    }

    fn prints(&self, arguments: &[&str], wanted: &str) {
        let output = self.config(arguments);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(wanted), "{text}{}", String::from_utf8_lossy(&output.stderr));
    }

    fn refuses(&self, arguments: &[&str], wanted: &[&str]) {
        let output = self.config(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}");
        for wanted in wanted {
            assert!(text.contains(wanted), "{wanted} is not in {text}");
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join("here").join(name), text).unwrap();
    }
}

/// Answers each connection with a git of its own; ends with the process.
fn serve(base: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = OwnedFd::from(stream.unwrap());
            let mut child = Command::new("git")
                .args(["daemon", "--inetd", "--export-all"])
                .arg(format!("--base-path={}", base.display()))
                .arg(&base)
                .stdin(Stdio::from(stream.try_clone().unwrap()))
                .stdout(Stdio::from(stream))
                .stderr(Stdio::null())
                // The server and the tests may be different users.
                .env("GIT_CONFIG_COUNT", "1")
                .env("GIT_CONFIG_KEY_0", "safe.directory")
                .env("GIT_CONFIG_VALUE_0", "*")
                .spawn()
                .expect("git daemon is needed");
            let _ = child.wait();
        }
    });
    address
}

const ONE: (&str, &str) = ("compose.yaml", "services: {web: {image: one, env_file: web.env}}\n");
const VARIABLES: (&str, &str) = ("web.env", "FROM=repository\n");

#[test]
fn a_repository_is_a_project_with_its_files_beside_it() {
    let shop = Shop::new(&[ONE, VARIABLES, ("deploy/compose.yml", "services: {x: {image: deep}}\n")]);
    shop.prints(&["-f", &shop.url("")], "name: shop");
    shop.prints(&["-f", &shop.url("")], "FROM: repository");
    shop.prints(&["-f", &shop.url("#main:deploy")], "image: deep");
    shop.prints(&["-f", &shop.url("#:deploy/compose.yml")], "image: deep");
}

#[test]
fn include_and_extends_take_repositories_too() {
    let shop = Shop::new(&[ONE, VARIABLES]);
    let url = shop.url("#main");
    shop.write("compose.yaml", &format!("include: [\"{url}\"]\nservices: {{a: {{image: a}}}}\n"));
    shop.prints(&[], "FROM: repository");
    let extends = format!("services: {{a: {{extends: {{service: web, file: \"{url}\"}}}}}}\n");
    shop.write("compose.yaml", &extends);
    shop.prints(&[], "image: one");
}

#[test]
fn a_branch_is_looked_up_each_time_and_a_commit_needs_no_network() {
    let shop = Shop::new(&[("compose.yaml", "services: {web: {image: one}}\n")]);
    let first = shop.git(&["rev-parse", "HEAD"]);
    shop.git(&["tag", "--annotate", "v1", "--message=x"]);
    shop.prints(&["-f", &shop.url("")], "image: one");
    shop.commit(&[("compose.yaml", "services: {web: {image: two}}\n")]);
    shop.prints(&["-f", &shop.url("")], "image: two");
    shop.prints(&["-f", &shop.url("#v1")], "image: one");
    fs::rename(shop.work(), shop.dir.path().join("gone")).unwrap();
    shop.prints(&["-f", &shop.url(&format!("#{first}"))], "image: one");
    shop.refuses(&["-f", &shop.url("")], &["cannot fetch `git://127.0.0.1"]);
}

#[test]
fn what_leads_out_of_a_repository_is_refused_and_nothing_of_it_is_kept() {
    let shop = Shop::new(&[ONE, VARIABLES]);
    shop.refuses(&["-f", &shop.url("#main:../here")], &["leads out of the repository"]);
    symlink("/etc/passwd", shop.work().join("secrets")).unwrap();
    shop.commit(&[]);
    shop.refuses(&["-f", &shop.url("")], &["its link `secrets` leads out of the repository"]);
    assert_eq!(copies(&shop.dir.path().join("cache")), 0);
}

#[test]
fn a_failure_points_at_the_line_and_hides_passwords() {
    let shop = Shop::new(&[ONE, VARIABLES]);
    let include = |url: &str| format!("services: {{a: {{image: a}}}}\ninclude:\n  - {url}\n");
    let url = shop.url("#nowhere");
    shop.write("compose.yaml", &include(&url));
    shop.refuses(&[], &["compose.yaml:3:5", "has no branch or tag `nowhere`"]);
    shop.write("compose.yaml", &include(&url.replace("git://", "git://user:hunter2@")));
    shop.refuses(&[], &["compose.yaml:3:5", "cannot fetch `git://127.0.0.1:"]);
    assert!(!String::from_utf8_lossy(&shop.config(&[]).stderr).contains("hunter2"));
    shop.refuses(&["-f", &shop.url("#:empty")], &["there is no Compose file"]);
}

#[test]
fn an_address_is_seen_in_no_argument_of_git() {
    use std::os::unix::fs::PermissionsExt;
    let shop = Shop::new(&[ONE, VARIABLES]);
    let (bin, log) = (shop.dir.path().join("bin"), shop.dir.path().join("arguments"));
    fs::create_dir(&bin).unwrap();
    let path = std::env::var("PATH").unwrap();
    let script = format!("#!/bin/sh\necho \"$@\" >>{}\nPATH='{path}' exec git \"$@\"\n", log.display());
    fs::write(bin.join("git"), script).unwrap();
    fs::set_permissions(bin.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ficelle"))
        .args(["-f", &shop.url("#main"), "config"])
        .current_dir(shop.dir.path().join("here"))
        .env("XDG_CACHE_HOME", shop.dir.path().join("cache"))
        .env("PATH", format!("{}:{path}", bin.display()))
        .env_remove("FICELLE_ROOT")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = fs::read_to_string(log).unwrap();
    assert!(said.contains("fetch --quiet") && said.contains(" -- origin "), "{said}");
    assert!(!said.contains(&shop.address), "{said}");
}

/// Directories below the cache that hold a commit.
fn copies(cache: &Path) -> usize {
    let Ok(entries) = fs::read_dir(cache.join("ficelle/git")) else { return 0 };
    entries.filter(|entry| entry.as_ref().unwrap().file_name().len() == 16).count()
}
