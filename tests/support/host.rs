//! What the machine itself says: processes, mounts, control groups, interfaces. Asks ficelle nothing.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A process that can be told from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks after boot.
    pub started: u64,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in brackets, may hold anything; the state follows it, the start is 19 fields later.
        let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
        (fields[0] != "Z").then_some(Self { pid, started: fields.get(19)?.parse().ok()? })
    }

    /// One that runs now.
    pub fn of(pid: i32) -> Option<Self> {
        Self::read(pid)
    }

    pub fn is_alive(self) -> bool {
        Self::read(self.pid) == Some(self)
    }

    pub fn kill(self) {
        assert!(self.is_alive(), "{self:?} is gone");
        let status = Command::new("kill").args(["-KILL", &self.pid.to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Like [`Self::kill`], of a process that may end by itself at any moment.
    pub fn kill_if_there(self) {
        if self.is_alive() {
            let _ =
                Command::new("kill").args(["-KILL", &self.pid.to_string()]).stderr(Stdio::null()).status();
        }
    }

    /// Until it is let go on.
    pub fn stop(self) {
        let _ = Command::new("kill").args(["-STOP", &self.pid.to_string()]).stderr(Stdio::null()).status();
    }

    /// Lets a stopped process go on.
    pub fn go_on(self) {
        if self.is_alive() {
            let _ =
                Command::new("kill").args(["-CONT", &self.pid.to_string()]).stderr(Stdio::null()).status();
        }
    }

    /// For a failing test to tell.
    pub fn describe(self) -> String {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        format!("{} {}", self.pid, String::from_utf8_lossy(&line).replace('\0', " "))
    }
}

/// Every process but zombies.
pub fn processes() -> Vec<Process> {
    let names = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| Process::read(name.parse().ok()?)).collect()
}

/// Processes in a control group of the container, or named after it where a user can have no groups; the
/// main process (the oldest) first.
pub fn processes_of(container: &str) -> Vec<Process> {
    let name = format!("HOSTNAME={}", &container[..12]);
    let inside = |process: &Process| {
        let read = |file| fs::read(format!("/proc/{}/{file}", process.pid)).unwrap_or_default();
        let groups = read("cgroup");
        groups.windows(container.len()).any(|window| window == container.as_bytes())
            || read("environ").split(|byte| *byte == 0).any(|variable| variable == name.as_bytes())
    };
    let mut found: Vec<_> = processes().into_iter().filter(inside).collect();
    found.sort_by_key(|process| (process.started, process.pid));
    found
}

/// The name under which a process runs its program.
pub fn program(process: &Process) -> String {
    fs::read_to_string(format!("/proc/{}/comm", process.pid)).unwrap_or_default().trim().to_owned()
}

/// Processes that name `root` in their command line or environment, or see a mount of it: what a
/// program started for that state tree, and every container in it.
pub fn processes_below(root: &Path) -> Vec<Process> {
    let own = i32::try_from(std::process::id()).unwrap();
    let root = root.to_str().unwrap().as_bytes();
    let names_it = |pid: i32, file: &str| {
        fs::read(format!("/proc/{pid}/{file}"))
            .is_ok_and(|bytes| bytes.windows(root.len()).any(|window| window == root))
    };
    // A mount that we see ourselves, everybody sees: it tells nothing of a process.
    let files: &[&str] = if names_it(own, "mountinfo") {
        &["cmdline", "environ"]
    } else {
        &["cmdline", "environ", "mountinfo"]
    };
    let ours = |process: &Process| process.pid != own && files.iter().any(|file| names_it(process.pid, file));
    processes().into_iter().filter(ours).collect()
}

/// Whether the kernel tells who is not the parent how a process ended: by a pidfd, since Linux 6.15.
pub fn tells_ends_of_orphans() -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

/// Mounts of this namespace at or from below `root`.
pub fn mounts_below(root: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().filter(|line| line.contains(root.to_str().unwrap())).map(str::to_owned).collect()
}

/// Control groups with one of the words in their path.
pub fn cgroups_with(words: &[String]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), &mut |path, is_dir| {
        let text = path.to_string_lossy();
        if is_dir && words.iter().any(|word| text.contains(word.as_str())) {
            found.push(path.to_owned());
        }
    });
    found
}

/// Whether a process is in the group, or in one below it.
pub fn is_populated(cgroup: &Path) -> bool {
    let mut groups = vec![cgroup.to_owned()];
    walk(cgroup, &mut |path, is_dir| groups.extend(is_dir.then(|| path.to_owned())));
    groups
        .iter()
        .any(|group| fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|pids| !pids.is_empty()))
}

/// Calls `visit` with every path below `dir` and whether it is a directory. What vanishes meanwhile is
/// passed over; symbolic links are not followed.
pub fn walk(dir: &Path, visit: &mut dyn FnMut(&Path, bool)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        visit(&entry.path(), is_dir);
        if is_dir {
            walk(&entry.path(), visit);
        }
    }
}

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// A network namespace to run commands in: what appears in it, this test's programs made.
pub struct Network {
    holder: std::process::Child,
}

impl Network {
    pub fn new() -> Self {
        use std::io::Read as _;
        // It would start with what this machine has, and another test may have turned that on.
        let script = format!("ip link set lo up && echo 0 >{FORWARDING} && echo up && exec cat");
        let mut holder = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut word = [0; 3];
        holder.stdout.as_mut().unwrap().read_exact(&mut word).expect("a network namespace with a loopback");
        Self { holder }
    }

    /// A command to be given arguments that will run `program` in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id())).arg("--").arg(program);
        command
    }

    fn output(&self, program: &str, args: &[&str]) -> String {
        let output = self.command(program).args(args).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is not written on a disk is as it was when the machine started.
    pub fn forget(&self) {
        self.output("sh", &["-c", &format!("echo 0 >{FORWARDING}")]);
    }

    /// Interfaces, addresses, routes, firewall rules and whether packets are forwarded, as the tools print them.
    pub fn picture(&self) -> String {
        let links = self.output("ip", &["-brief", "link"]);
        let addresses = self.output("ip", &["-brief", "address"]);
        let routes = self.output("ip", &["route", "show", "table", "all"]);
        let rules = self.output("nft", &["list", "ruleset"]);
        format!("{links}{addresses}{routes}{rules}forwards {}", self.output("cat", &[FORWARDING]))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A port of 127.0.0.1 that nobody listens on now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap().local_addr().unwrap().port()
}
