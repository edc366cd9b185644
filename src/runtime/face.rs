//! `ficelle oci`: the command line that OCI runtimes share (runc's), over the same launcher, so that
//! suites and engines of others can drive it. Hidden: people use the other commands.
//!
//! It is an entry of its own, taken before any thread exists: libcontainer changes the process that
//! calls it and forks Rust code.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io::Write,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Args, Parser, Subcommand};
use rustix::process::{WaitOptions, waitpid};
use serde_json::{Value, json};

use super::{
    Error, Result, cgroup,
    config::ALL_CAPABILITIES,
    launcher::bundle::{Bundles, Extra, Making},
    signal,
    state::{file_error, write_json},
};
use crate::model::signal_number;

/// Name of the entry.
pub const ENTRY: &str = "oci";

/// Runs containers of OCI bundles.
#[derive(Debug, Parser)]
#[command(name = "ficelle oci", version, disable_help_subcommand = true)]
struct Face {
    /// Directory of the state of all containers
    #[arg(long, global = true, default_value = "/run/ficelle/oci")]
    root: PathBuf,
    /// File that errors are written to as well
    #[arg(long, global = true)]
    log: Option<PathBuf>,
    #[arg(long, global = true, value_parser = ["text", "json"], default_value = "text")]
    log_format: String,
    /// Accepted: there is no more to tell
    #[arg(long, global = true)]
    debug: bool,
    /// Make control groups through systemd
    #[arg(long, global = true)]
    systemd_cgroup: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a container that waits to be started
    Create(Create),
    /// Start the program of a container that was made
    Start(Id),
    /// Print the state of a container
    State(Id),
    /// Send a signal to a container
    Kill(Kill),
    /// Remove a container that has stopped
    Delete(Delete),
    /// Make a container, start it and wait for its end
    Run(Run),
    /// Run a further program in a container
    Exec(Box<Exec>),
    /// Print all containers
    List(List),
    /// Print the processes of a container
    Ps(Ps),
    /// Freeze a container
    Pause(Id),
    /// Let a frozen container go on
    Resume(Id),
    /// Print what this runtime can do
    Features,
    /// Write a config.json to start from
    Spec(Spec),
}

#[derive(Debug, Args)]
struct Id {
    id: String,
}

#[derive(Debug, Args)]
struct Create {
    /// Directory of config.json
    #[arg(short, long, default_value = ".")]
    bundle: PathBuf,
    /// Socket that the terminal is sent to
    #[arg(long)]
    console_socket: Option<PathBuf>,
    /// File to write the process number to
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Move the root instead of pivoting it
    #[arg(long)]
    no_pivot: bool,
    /// Accepted: no session keyring is made
    #[arg(long)]
    no_new_keyring: bool,
    /// Descriptors from 3 on to hand on
    #[arg(long, default_value_t = 0)]
    preserve_fds: i32,
    id: String,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    create: Create,
    /// Do not wait for its end
    #[arg(short, long)]
    detach: bool,
    /// Do not delete the container at its end
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Args)]
struct Kill {
    /// All processes, not the main one alone
    #[arg(short, long)]
    all: bool,
    id: String,
    /// Name or number
    #[arg(default_value = "SIGTERM")]
    signal: String,
}

#[derive(Debug, Args)]
struct Delete {
    /// Kill it if it runs; no error when there is none
    #[arg(short, long)]
    force: bool,
    id: String,
}

#[derive(Debug, Args)]
struct List {
    #[arg(short, long, value_parser = ["table", "json"], default_value = "table")]
    format: String,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct Ps {
    #[arg(short, long, value_parser = ["table", "json"], default_value = "table")]
    format: String,
    id: String,
}

#[derive(Debug, Args)]
struct Spec {
    #[arg(short, long, default_value = ".")]
    bundle: PathBuf,
}

#[derive(Debug, Args)]
struct Exec {
    #[arg(long)]
    console_socket: Option<PathBuf>,
    /// Directory to run in
    #[arg(long)]
    cwd: Option<PathBuf>,
    /// NAME=VALUE
    #[arg(short, long)]
    env: Vec<String>,
    /// A terminal: as the process document says
    #[arg(short, long)]
    tty: bool,
    /// UID[:GID]
    #[arg(short, long)]
    user: Option<String>,
    #[arg(short = 'g', long)]
    additional_gids: Vec<u32>,
    /// A process document instead of words
    #[arg(short, long)]
    process: Option<PathBuf>,
    #[arg(short, long)]
    detach: bool,
    #[arg(long)]
    pid_file: Option<PathBuf>,
    #[arg(long)]
    process_label: Option<String>,
    #[arg(long)]
    apparmor: Option<String>,
    #[arg(long)]
    no_new_privs: bool,
    #[arg(short, long)]
    cap: Vec<String>,
    #[arg(long, default_value_t = 0)]
    preserve_fds: i32,
    /// In a frozen container, too
    #[arg(long)]
    ignore_paused: bool,
    /// Control group below the container's
    #[arg(long)]
    cgroup: Option<String>,
    id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// The entry; `words` stand behind its name.
pub fn entry(words: &[String]) -> i32 {
    let words = std::iter::once("ficelle oci".to_owned()).chain(words.iter().cloned());
    let face = match Face::try_parse_from(words) {
        Ok(face) => face,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { 1 } else { 0 };
        }
    };
    face.carry_out().unwrap_or_else(|error| {
        face.tell(&error);
        match error {
            Error::Exec { code, .. } => code,
            _ => 1,
        }
    })
}

impl Face {
    fn carry_out(&self) -> Result<i32> {
        std::fs::create_dir_all(&self.root)
            .map_err(|e| file_error("cannot make directory", &self.root, e))?;
        let root = self.root.canonicalize().map_err(|e| file_error("cannot find", &self.root, e))?;
        let bundles = Bundles { root, systemd: self.systemd_cgroup };
        match &self.command {
            Command::Create(create) => bundles.create(&create.id, &create.making(false)?).map(drop)?,
            Command::Start(Id { id }) => bundles.start(id)?,
            Command::State(Id { id }) => say(&pretty(&json!(bundles.state(id)?)))?,
            Command::Kill(Kill { all, id, signal }) => bundles.kill(id, number(signal)?, *all)?,
            Command::Delete(Delete { force, id }) => bundles.delete(id, *force)?,
            Command::Run(run) => return run.carry_out(&bundles),
            Command::Exec(exec) => return exec.carry_out(&bundles),
            Command::List(list) => list.print(&bundles)?,
            Command::Ps(ps) => ps.print(&bundles)?,
            Command::Pause(Id { id }) => bundles.pause(id)?,
            Command::Resume(Id { id }) => bundles.resume(id)?,
            Command::Features => say(&pretty(&features()))?,
            Command::Spec(Spec { bundle }) => spec(&bundle.join("config.json"))?,
        };
        Ok(0)
    }

    /// To standard error and to the log.
    fn tell(&self, error: &Error) {
        let text = told(error);
        let _ = writeln!(std::io::stderr(), "ficelle oci: {text}");
        let Some(path) = &self.log else { return };
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let line = if self.log_format == "json" {
            json!({"level": "error", "msg": text, "time": time}).to_string()
        } else {
            format!("{time} error: {text}")
        };
        if let Ok(mut log) = OpenOptions::new().create(true).append(true).open(path) {
            let _ = writeln!(log, "{line}");
        }
    }
}

/// With what lies below it.
fn told(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn say(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}")
        .map_err(|source| Error::System { what: "cannot print".into(), source })
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Of `9`, `KILL` or `SIGKILL`; 0 only asks whether the process is there.
fn number(text: &str) -> Result<i32> {
    if text == "0" {
        return Ok(0);
    }
    signal_number(text).ok_or_else(|| Error::Invalid(format!("no signal `{text}`")))
}

/// As many descriptors from 3 on as end with the last one that the caller has handed on: what the launcher opens
/// behind it is for nobody.
fn open_of(wanted: i32) -> i32 {
    let handed_on = |number: &i32| {
        // SAFETY: integers only; one that is not open is an error.
        let flags = unsafe { libc::fcntl(*number, libc::F_GETFD) };
        flags >= 0 && flags & libc::FD_CLOEXEC == 0
    };
    (3..wanted.saturating_add(3)).rev().find(handed_on).map_or(0, |last| last - 2)
}

impl Create {
    fn making(&self, foreground: bool) -> Result<Making> {
        Ok(Making {
            bundle: self.bundle.canonicalize().map_err(|e| file_error("cannot find", &self.bundle, e))?,
            console_socket: self.console_socket.clone(),
            pid_file: self.pid_file.clone(),
            preserve_fds: open_of(self.preserve_fds),
            no_pivot: self.no_pivot,
            foreground,
        })
    }
}

impl Run {
    fn carry_out(&self, bundles: &Bundles) -> Result<i32> {
        let id = &self.create.id;
        // What ends before it is waited for is not lost, and neither is a signal to us.
        let attendance = if self.detach { None } else { Some(Attendance::begin()?) };
        let pid = bundles.create(id, &self.create.making(!self.detach)?)?;
        bundles.start(id).inspect_err(|_| drop(bundles.delete(id, true)))?;
        let Some(attendance) = attendance else { return Ok(0) };
        let code = attendance.until_end_of(pid)?;
        if !self.keep {
            bundles.delete(id, true)?;
        }
        Ok(code)
    }
}

impl Exec {
    fn carry_out(&self, bundles: &Bundles) -> Result<i32> {
        let attendance = if self.detach { None } else { Some(Attendance::begin()?) };
        let pid = bundles.exec(&self.id, &self.extra()?)?;
        attendance.map_or(Ok(0), |attendance| attendance.until_end_of(pid))
    }

    fn extra(&self) -> Result<Extra> {
        let wrong = |what: &str, text: &str| Error::Invalid(format!("{what}: `{text}`"));
        let pair = |text: &String| {
            let (name, value) = text.split_once('=').ok_or_else(|| wrong("not NAME=VALUE", text))?;
            Ok((name.to_owned(), value.to_owned()))
        };
        let id = |text: &str| text.parse().map_err(|_| wrong("not the number of a user or group", text));
        let user = match self.user.as_deref().map(|user| user.split_once(':').ok_or(user)) {
            None => None,
            Some(Ok((user, group))) => Some((id(user)?, Some(id(group)?))),
            Some(Err(user)) => Some((id(user)?, None)),
        };
        if self.process.is_none() && self.command.is_empty() {
            return Err(Error::Invalid("neither a command nor a process document".to_owned()));
        }
        Ok(Extra {
            args: self.command.clone(),
            env: self.env.iter().map(pair).collect::<Result<HashMap<_, _>>>()?,
            cwd: self.cwd.clone(),
            user,
            groups: self.additional_gids.clone(),
            capabilities: self.cap.clone(),
            process: self.process.clone(),
            no_new_privileges: self.no_new_privs,
            console_socket: self.console_socket.clone(),
            pid_file: self.pid_file.clone(),
            preserve_fds: open_of(self.preserve_fds),
            detach: self.detach || self.console_socket.is_some(),
            ignore_paused: self.ignore_paused,
            cgroup: self.cgroup.clone(),
            process_label: self.process_label.clone(),
            apparmor: self.apparmor.clone(),
        })
    }
}

impl List {
    fn print(&self, bundles: &Bundles) -> Result<()> {
        let mut states = Vec::new();
        for id in bundles.ids()? {
            match bundles.state(&id) {
                Ok(state) => states.push(state),
                // Deleted in the meantime.
                Err(Error::NoContainer(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if self.quiet {
            return states.iter().try_for_each(|state| say(&state.id));
        }
        if self.format == "json" {
            return say(&json!(states).to_string());
        }
        say(&format!("{:<24} {:<8} {:<10} BUNDLE", "ID", "PID", "STATUS"))?;
        states.iter().try_for_each(|state| {
            say(&format!("{:<24} {:<8} {:<10} {}", state.id, state.pid, state.status, state.bundle.display()))
        })
    }
}

impl Ps {
    fn print(&self, bundles: &Bundles) -> Result<()> {
        let processes = cgroup::processes(&bundles.cgroup(&self.id)?.to_string_lossy());
        if self.format == "json" {
            return say(&json!(processes).to_string());
        }
        say(&format!("{:>8} COMMAND", "PID"))?;
        processes.iter().try_for_each(|pid| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            say(&format!("{pid:>8} {}", words.trim_end()))
        })
    }
}

/// Waiting for a child while signals that come to us go to it.
struct Attendance {
    signals: std::os::fd::OwnedFd,
}

impl Attendance {
    fn begin() -> Result<Self> {
        let passed_on =
            [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];
        let mut all = vec![libc::SIGCHLD];
        all.extend(passed_on);
        Ok(Self { signals: signal::descriptor(&all)? })
    }

    /// The child's code, or 128 and the signal that ended it.
    fn until_end_of(&self, pid: i32) -> Result<i32> {
        let failed = |e: rustix::io::Errno| Error::System { what: "cannot wait".into(), source: e.into() };
        let child = rustix::process::Pid::from_raw(pid);
        loop {
            if let Some((_, status)) = waitpid(child, WaitOptions::NOHANG).map_err(failed)? {
                let code =
                    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
                if let Some(code) = code {
                    return Ok(code);
                }
            }
            let mut fds = [rustix::event::PollFd::new(&self.signals, rustix::event::PollFlags::IN)];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error)),
            }
            for number in signal::taken(&self.signals).into_iter().filter(|number| *number != libc::SIGCHLD) {
                if let Some(process) = super::state::Identity::of(pid).as_ref().and_then(signal::pidfd) {
                    let _ = signal::send(&process, number);
                }
            }
        }
    }
}

/// OCI runtime specification, "Feature structure".
fn features() -> Value {
    let capabilities: Vec<String> = ALL_CAPABILITIES.iter().map(|name| format!("CAP_{name}")).collect();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": [
            "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "mand", "noatime",
            "nodev", "nodiratime", "noexec", "nomand", "norelatime", "nostrictatime", "nosuid", "private",
            "ratime", "rbind", "rdev", "relatime", "remount", "rexec", "rnoatime", "rnodev", "rnoexec",
            "rnosuid", "ro", "rprivate", "rro", "rshared", "rslave", "rsuid", "runbindable", "rw", "shared",
            "slave", "strictatime", "suid", "sync", "unbindable",
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": false},
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
                ],
                "archs": super::seccomp::architectures(),
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": true},
            "mountExtensions": {"idmap": {"enabled": false}},
        },
    })
}

/// A document to start from: a shell in `rootfs`.
fn spec(path: &std::path::Path) -> Result<()> {
    if path.exists() {
        return Err(Error::Conflict(format!("`{}` is there already", path.display())));
    }
    let mut document = oci_spec::runtime::Spec::default();
    document.set_hostname(Some("ficelle".to_owned()));
    write_json(path, &document)
}
