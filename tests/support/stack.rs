//! The real binary on the real engine: a state tree of its own, the images of `scripts/base-images`, and
//! projects to run in it. Everything is taken away again when a test ends, also when it fails.

use std::{
    cell::RefCell,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::host::{self, Network, Process};

/// No step of a test may take longer; one that does is a failure, not a hang.
const PATIENCE: Duration = Duration::from_secs(120);

/// A state tree with some images in it.
pub struct Machine {
    dir: tempfile::TempDir,
    /// Where the state tree is, if not beside the projects.
    disk: Option<Disk>,
    network: Option<Network>,
    /// Commands are an ordinary user's; root's when `None`.
    user: Option<User>,
    /// Directories of the projects, to be taken down.
    projects: RefCell<Vec<(PathBuf, String)>>,
}

impl Machine {
    /// `None`, said aloud with the reason, where such a test cannot run.
    pub fn with(images: &[&str]) -> Option<Self> {
        Self::build(images, None, Who::Root)
    }

    /// The same for an ordinary user, whose state tree, subordinate ids and account are this test's alone.
    pub fn of_user(images: &[&str]) -> Option<Self> {
        Self::build(images, None, Who::User)
    }

    /// An ordinary user in a network namespace of its own, with a way out to nowhere but that namespace.
    pub fn of_user_in_own_network(images: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return skipped("needs root");
        }
        Self::build(images, Some(Network::new()), Who::User)
    }

    /// The same in a network namespace of its own, so that what ficelle leaves on it can be seen.
    pub fn in_own_network(images: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return skipped("needs root");
        }
        Self::build(images, Some(Network::new()), Who::Root)
    }

    fn build(images: &[&str], network: Option<Network>, who: Who) -> Option<Self> {
        Self::build_on(None, images, network, who)
    }

    /// Another machine of the same user, whose disk holds no more than this (`48m`).
    pub fn on_a_disk_of(&self, size: &str, images: &[&str]) -> Self {
        let who = if self.user.is_some() { Who::User } else { Who::Root };
        Self::build_on(Some(size), images, None, who).expect("where this machine is, another can be")
    }

    fn build_on(disk: Option<&str>, images: &[&str], network: Option<Network>, who: Who) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return skipped("needs root");
        }
        let archives: Vec<_> = images
            .iter()
            .map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join(format!(".cache/images/{name}.tar")))
            .collect();
        if let Some(missing) = archives.iter().find(|archive| !archive.exists()) {
            return skipped(&format!("no {}: `make images` builds it", missing.display()));
        }
        let dir = tempfile::Builder::new().prefix("ficelle-").tempdir().unwrap();
        let disk = disk.map(Disk::new);
        let user = match who {
            Who::Root => None,
            Who::User if !Path::new("/usr/bin/newuidmap").exists() => {
                return skipped("no newuidmap: `make setup` installs it");
            }
            Who::User => Some(User::new(dir.path())),
        };
        let machine = Self { dir, disk, network, user, projects: RefCell::default() };
        fs::create_dir(machine.root()).unwrap();
        machine.hand_over(machine.dir.path());
        machine.hand_over(&machine.root());
        for archive in archives {
            machine.command(&machine.root(), &["image", "load", "-i", archive.to_str().unwrap()]).ok();
        }
        Some(machine)
    }

    pub fn root(&self) -> PathBuf {
        self.disk.as_ref().map_or(self.dir.path(), Disk::path).join("state")
    }

    /// Fills the disk of [`Machine::on_a_disk_of`] to the last byte; the file that does.
    pub fn fill(&self) -> PathBuf {
        let path = self.disk.as_ref().expect("Machine::on_a_disk_of").path().join("zeros");
        let mut file = fs::File::create(&path).unwrap();
        for size in [64 << 10, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        path
    }

    /// A directory beside the state tree that the commands may write to.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        self.hand_over(&dir);
        dir
    }

    /// What is left after the machine was down: no process, no mount, nothing of `run`, and what was
    /// written down was in another run of the machine.
    pub fn reboot(&self) {
        /// Of the run of the machine that was.
        const BEFORE: &str = "00000000-1111-2222-3333-444444444444";
        let gone = within(PATIENCE, || {
            let left = host::processes_below(&self.root());
            // At one moment: nobody is to see the end of another.
            left.iter().for_each(|process| process.stop());
            left.iter().for_each(|process| process.kill_if_there());
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        gone.unwrap();
        for line in host::mounts_below(&self.root()).iter().rev() {
            let at = line.split(' ').nth(4).unwrap_or_default();
            assert!(Command::new("umount").args(["--lazy", at]).status().unwrap().success());
        }
        fs::remove_dir_all(self.root().join("run")).unwrap();
        if let Some(network) = &self.network {
            network.forget();
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        host::walk(&self.root().join("data/p"), &mut |path, _| {
            if path.ends_with("last.json") {
                let text = fs::read_to_string(path).unwrap();
                let is_known = [boot.trim(), BEFORE, "exited"].iter().any(|word| text.contains(word));
                assert!(is_known, "{text}");
                fs::write(path, text.replace(boot.trim(), BEFORE)).unwrap();
            }
        });
    }

    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("Machine::in_own_network")
    }

    /// A copy of one of compose-samples, as a project of this name.
    pub fn sample(&self, sample: &str, name: &str) -> Project<'_> {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("compose-samples").join(sample);
        let project = self.project(name);
        let copied = Command::new("cp").arg("-r").arg(from.join(".")).arg(&project.dir).status().unwrap();
        assert!(copied.success());
        self.hand_over(&project.dir);
        project
    }

    /// Whether its containers have control groups: with version 1 those are root's.
    pub fn has_cgroups(&self) -> bool {
        self.user.is_none() || Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
    }

    /// What the test wrote there belongs to who runs the commands.
    pub fn hand_over(&self, path: &Path) {
        if self.user.is_some() {
            let owner = format!("{0}:{0}", User::UID);
            let done = Command::new("chown").args(["-R", &owner]).arg(path).status().unwrap();
            assert!(done.success());
        }
    }

    /// A project of one Compose file.
    pub fn compose(&self, name: &str, yaml: &str) -> Project<'_> {
        let project = self.project(name);
        project.write(yaml);
        project
    }

    fn project(&self, name: &str) -> Project<'_> {
        let dir = self.dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        self.hand_over(&dir);
        self.projects.borrow_mut().push((dir.clone(), name.to_owned()));
        Project { machine: self, dir, name: name.to_owned(), port: host::free_port() }
    }

    fn program(&self, program: &str) -> Command {
        self.network.as_ref().map_or_else(|| Command::new(program), |network| network.command(program))
    }

    /// The binary, run by whose machine it is.
    fn ficelle(&self) -> Command {
        match &self.user {
            None => self.program(env!("CARGO_BIN_EXE_ficelle")),
            Some(user) => {
                let mut command = self.program(user.become_it.to_str().unwrap());
                command.arg(env!("CARGO_BIN_EXE_ficelle"));
                command
            }
        }
    }

    /// A test of this very program once more, as root of a user namespace with the ids of this ordinary user.
    pub fn test_in_user_namespace(&self, test: &str) -> Run {
        let user = self.user.as_ref().expect("Machine::of_user");
        let mut command = self.program(user.become_it.to_str().unwrap());
        command.args(["unshare", "--user", "--map-root-user", "--map-auto", "--mount", "--"]);
        command.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Run { command, line: test.to_owned() }
    }

    fn command(&self, dir: &Path, args: &[&str]) -> Run {
        fs::create_dir_all(dir).unwrap();
        let mut command = self.ficelle();
        for (name, _) in std::env::vars() {
            if ["COMPOSE_", "DOCKER_", "FICELLE_"].iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.args(args).current_dir(dir).env("FICELLE_ROOT", self.root()).env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Run { command, line: args.join(" ") }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for (dir, name) in self.projects.take().iter().rev() {
            let _ = self.command(dir, &["-p", name, "down", "-v", "-t", "0", "--remove-orphans"]).run();
        }
        let dirs = [self.dir.path().to_owned(), self.root()];
        let ours = || dirs.iter().flat_map(|dir| host::processes_below(dir)).collect::<Vec<_>>();
        // The last of them take back what they did to the host.
        let _ = within(Duration::from_secs(2), || if ours().is_empty() { Ok(()) } else { Err(()) });
        // What a failed test left: these are ours, they name our directory.
        for process in ours() {
            let _ = Command::new("kill").args(["-KILL", &process.pid.to_string()]).status();
        }
        for line in host::mounts_below(self.dir.path()).iter().rev() {
            let at = line.split(' ').nth(4).unwrap_or_default();
            let _ = Command::new("umount").args(["--lazy", at]).status();
        }
        // What they could not take back: nobody finds the note of it when the tree is gone.
        let _ = within(Duration::from_secs(2), || {
            let note = self.root().join("run/uplink.json");
            let _ = note.exists().then(|| self.command(&self.root(), &["gc"]).run());
            if note.exists() { Err(()) } else { Ok(()) }
        });
        if !host::mounts_below(self.dir.path()).is_empty() {
            // Rather a directory too many than files deleted through a mount.
            self.dir.disable_cleanup(true);
        }
    }
}

/// A file system in memory.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn new(size: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("disk-").tempdir().unwrap();
        let options = format!("mode=0755,size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).status();
        assert!(mounted.unwrap().success());
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy"]).arg(self.dir.path()).status();
    }
}

#[derive(Clone, Copy)]
enum Who {
    Root,
    User,
}

/// An ordinary user that this machine does not know outside of the commands run as it: its account and its
/// subordinate ids lie over the machine's files in the commands' own mounts, so nothing has to be put back.
struct User {
    /// A script that runs its arguments as this user.
    become_it: PathBuf,
}

impl User {
    const UID: u32 = 54_321;

    fn new(dir: &Path) -> Self {
        let etc = dir.join("etc");
        fs::create_dir(&etc).unwrap();
        let line = format!("knot:x:{0}:{0}::{1}:/bin/sh\n", Self::UID, dir.display());
        fs::write(etc.join("passwd"), fs::read_to_string("/etc/passwd").unwrap() + &line).unwrap();
        for file in ["subuid", "subgid"] {
            fs::write(etc.join(file), "knot:2000000:65536\n").unwrap();
        }
        let script = format!(
            "#!/bin/sh\nexec unshare --mount --propagation private -- sh -ec '\
             for f in passwd subuid subgid; do mount --bind {etc}/$f /etc/$f; done\n\
             [ ! -e /dev/net/tun ] || {{ [ -e {etc}/tun ] || mknod -m 666 {etc}/tun c 10 200; mount --bind {etc}/tun /dev/net/tun; }}\n\
             exec setpriv --reuid {uid} --regid {uid} --clear-groups --inh-caps=-all -- env HOME={dir} \"$@\"' sh \"$@\"\n",
            etc = etc.display(),
            dir = dir.display(),
            uid = Self::UID,
        );
        let become_it = etc.join("become");
        fs::write(&become_it, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&become_it, mode).unwrap();
        Self { become_it }
    }
}

fn skipped<T>(why: &str) -> Option<T> {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test").to_owned();
    // The handle itself, for the test runner swallows what the macros print.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
    None
}

/// A directory with a Compose file, run on a [`Machine`].
pub struct Project<'a> {
    machine: &'a Machine,
    pub dir: PathBuf,
    pub name: String,
    /// A free one, for what the project publishes.
    pub port: u16,
}

impl<'a> Project<'a> {
    pub fn machine(&self) -> &'a Machine {
        self.machine
    }
}

impl Project<'_> {
    pub fn write(&self, yaml: &str) {
        fs::write(self.dir.join("compose.yaml"), yaml).unwrap();
    }

    pub fn ficelle(&self, args: &[&str]) -> Run {
        let mut all = vec!["-p", &self.name];
        all.extend(args);
        self.machine
            .command(&self.dir, &all)
            .env("GUESTBOOK_PORT", &self.port.to_string())
            .env("HELLO_PORT", &self.port.to_string())
    }

    /// All containers, as `ps -a` knows them.
    pub fn containers(&self) -> Vec<Container> {
        let output = self.ficelle(&["ps", "-a", "--no-trunc", "--format", "json"]).ok().stdout;
        let mut all: Vec<_> = output.lines().map(Container::parse).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub fn container(&self, service: &str) -> Container {
        let mut all = self.containers();
        all.retain(|container| container.service == service);
        assert_eq!(all.len(), 1, "containers of {service}: {all:?}");
        all.remove(0)
    }

    /// The body of a page of the published port.
    pub fn get(&self, path: &str) -> Result<String, String> {
        self.http(&["--fail", &format!("http://127.0.0.1:{}{path}", self.port)])
    }

    pub fn post(&self, path: &str, form: &[(&str, &str)]) -> Result<String, String> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let fields: Vec<_> = form.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut args = vec!["--fail", &url];
        fields.iter().for_each(|field| args.extend(["--data-urlencode", field]));
        self.http(&args)
    }

    fn http(&self, args: &[&str]) -> Result<String, String> {
        let mut command = self.machine.program("curl");
        let output =
            command.args(["--silent", "--show-error", "--max-time", "20"]).args(args).output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// What the containers of a service have written so far, or what made the wait end.
    pub fn logs(&self, service: &str) -> String {
        self.ficelle(&["logs", "--no-color", "--no-log-prefix", service]).ok().stdout
    }

    /// Follows the logs of a service until a line holds `text`; gives that line.
    pub fn wait_for_line(&self, service: &str, text: &str) -> String {
        let mut follow = self.ficelle(&["logs", "-f", "--no-color", "--no-log-prefix", service]).start();
        let line = follow.line_with(text);
        follow.kill();
        line.unwrap_or_else(|| panic!("{service} never wrote `{text}`; it wrote:\n{}", self.logs(service)))
    }

    /// What is left of the project on the machine, however it is hidden: nothing, after `down -v`. `ids`
    /// are those of the containers it had. What is about to end gets a moment.
    pub fn traces(&self, ids: &[String]) -> Vec<String> {
        let look = || match self.traces_now(ids) {
            none if none.is_empty() => Ok(none),
            some => Err(some),
        };
        within(Duration::from_secs(5), look).unwrap_or_else(|left| left)
    }

    pub fn traces_now(&self, ids: &[String]) -> Vec<String> {
        let root = self.machine.root();
        let mut words = vec![self.name.clone()];
        words.extend(ids.iter().map(|id| id.chars().take(12).collect()));
        let processes = host::processes_below(&root).into_iter();
        let mut traces: Vec<_> = processes.map(|process| format!("process {}", process.describe())).collect();
        traces.extend(host::mounts_below(&root).into_iter().map(|mount| format!("mount {mount}")));
        let mut groups = words.split_off(1);
        let ids = groups.clone();
        // Another test may have a project of this name at work, as root.
        if self.machine.user.is_none() {
            groups.push(format!("/ficelle/{}", self.name));
        }
        words.extend(groups.iter().cloned());
        // One with processes and without an id of ours may be of a project of that name in another state tree.
        let ours = |path: &PathBuf| {
            ids.iter().any(|id| path.to_string_lossy().contains(id)) || !host::is_populated(path)
        };
        let left = host::cgroups_with(&groups).into_iter().filter(ours);
        traces.extend(left.map(|path| format!("cgroup {}", path.display())));
        traces.extend(self.files_with(&words).iter().map(|path| format!("file {}", path.display())));
        traces
    }

    /// Files and directories of the state tree that name the project or a container of it, in their path
    /// or inside; images and the build's cache belong to no project.
    fn files_with(&self, words: &[String]) -> Vec<PathBuf> {
        let root = self.machine.root();
        let shared = [root.join("data/images"), root.join("data/build-cache")];
        let mut found = Vec::new();
        host::walk(&root, &mut |path, is_dir| {
            if shared.iter().any(|dir| path.starts_with(dir)) {
                return;
            }
            let below = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            let content = if is_dir { String::new() } else { read_lossy(path) };
            if words.iter().any(|word| below.contains(word.as_str()) || content.contains(word.as_str())) {
                found.push(path.to_owned());
            }
        });
        found
    }
}

fn read_lossy(path: &Path) -> String {
    // A FIFO or socket would block or refuse.
    if !path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
        return String::new();
    }
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// One line of `ps --format json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub service: String,
    pub state: String,
    pub health: String,
    pub exit_code: i64,
}

impl Container {
    fn parse(line: &str) -> Self {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in `{line}`"));
        let text = |key: &str| value[key].as_str().unwrap_or_else(|| panic!("no {key} in {line}")).to_owned();
        Self {
            id: text("ID"),
            name: text("Name"),
            service: text("Service"),
            state: text("State"),
            health: text("Health"),
            exit_code: value["ExitCode"].as_i64().unwrap(),
        }
    }

    /// The main process, as the kernel knows it.
    pub fn main(&self) -> Process {
        *host::processes_of(&self.id)
            .first()
            .unwrap_or_else(|| panic!("no process is in a control group of {self:?}"))
    }
}

/// A command to be run to its end.
pub struct Run {
    command: Command,
    line: String,
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Done {
    line: String,
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// What it reads, to the end.
    pub fn input(mut self, text: &str) -> Self {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        self.command.stdin(file);
        self
    }

    /// Its standard output, to a file.
    pub fn into_file(mut self, path: &Path) -> Self {
        self.command.stdout(fs::File::create(path).unwrap());
        self
    }

    /// With a limit of prlimit(1).
    pub fn under(self, limit: &str) -> Self {
        let mut command = Command::new("prlimit");
        command.args([limit, "--"]).arg(self.command.get_program()).args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir(self.command.get_current_dir().unwrap());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { command, line: self.line }
    }

    pub fn run(mut self) -> Done {
        let child = self.command.spawn().unwrap();
        let pid = child.id();
        let (ended, watch) = std::sync::mpsc::channel::<()>();
        let guard = std::thread::spawn(move || {
            let late = watch.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
            if late {
                let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
            }
            late
        });
        let line = self.line;
        let output = child.wait_with_output().unwrap();
        drop(ended);
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let done = Done {
            line,
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        };
        assert!(!guard.join().unwrap(), "still running after {} s: {done:#?}", PATIENCE.as_secs());
        done
    }

    /// It must succeed.
    pub fn ok(self) -> Done {
        let done = self.run();
        assert_eq!(done.code, Some(0), "ficelle {}\n{}{}", done.line, done.stdout, done.stderr);
        done
    }

    /// It must fail, and say why.
    pub fn fails(self) -> Done {
        let done = self.run();
        assert!(done.code.is_some_and(|code| code != 0), "ficelle {} did not fail: {done:#?}", done.line);
        assert!(!done.stderr.is_empty(), "ficelle {} failed without a word", done.line);
        done
    }

    pub fn start(mut self) -> Started {
        Started { child: self.command.spawn().unwrap(), line: self.line, lines: None }
    }
}

/// A command that runs.
pub struct Started {
    child: Child,
    line: String,
    lines: Option<std::sync::mpsc::Receiver<String>>,
}

impl Started {
    /// Reads lines of both streams until one holds `text`; `None` when it ended or too much time went by.
    pub fn line_with(&mut self, text: &str) -> Option<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let line = self.next_line(until.saturating_duration_since(Instant::now()))?;
            if line.contains(text) {
                return Some(line);
            }
        }
    }

    pub fn next_line(&mut self, patience: Duration) -> Option<String> {
        let child = &mut self.child;
        let lines = self.lines.get_or_insert_with(|| {
            let (to, lines) = std::sync::mpsc::channel();
            let stdout: Box<dyn std::io::Read + Send> = Box::new(child.stdout.take().unwrap());
            let stderr: Box<dyn std::io::Read + Send> = Box::new(child.stderr.take().unwrap());
            for stream in [stdout, stderr] {
                let to = to.clone();
                std::thread::spawn(move || {
                    BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| to.send(line))
                });
            }
            lines
        });
        lines.recv_timeout(patience).ok()
    }

    pub fn process(&self) -> Process {
        let pid = i32::try_from(self.child.id()).unwrap();
        Process::of(pid).unwrap_or(Process { pid, started: 0 })
    }

    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What it said that was not read as lines.
    pub fn rest(&mut self) -> String {
        use std::io::Read as _;
        let mut said = Vec::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            let _ = stdout.read_to_end(&mut said);
        }
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_end(&mut said);
        }
        String::from_utf8_lossy(&said).into_owned()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for the end; the exit code.
    pub fn end(&mut self) -> Option<i32> {
        let status = eventually(|| self.child.try_wait().unwrap().ok_or(()));
        status.unwrap_or_else(|()| panic!("ficelle {} does not end", self.line)).code()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks until the answer is good, at most as long as a test's patience; the last answer when it never is.
pub fn eventually<T, E>(ask: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    within(PATIENCE / 4, ask)
}

fn within<T, E>(patience: Duration, mut ask: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let until = Instant::now() + patience;
    loop {
        match ask() {
            Ok(good) => return Ok(good),
            Err(last) if Instant::now() > until => return Err(last),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
