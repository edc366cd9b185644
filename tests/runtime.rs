//! The runtime core on real containers: what it promises, looked up in the kernel.
//!
//! The root filesystem is one static busybox; state lies below a temporary directory.

use std::{
    collections::BTreeSet,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Once,
    time::{Duration, Instant},
};

use ficelle::runtime::{
    ContainerConfig, ContainerRecord, Core, Error, Exit, HealthConfig, LogRecord, LogRequest,
    NetworkNamespace, Phase, RestartConfig, Rootfs, Roots, Until, Upper,
};

/// A machine that cannot run containers skips aloud.
macro_rules! machine {
    () => {
        match Machine::new() {
            Ok(machine) => machine,
            Err(why) => {
                println!("SKIPPED: {why}");
                return;
            }
        }
    };
}

/// The capabilities Docker gives by default.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// State of its own, and the only layer there is.
struct Machine {
    dir: tempfile::TempDir,
    core: Core,
    layer: PathBuf,
    group: String,
}

impl Machine {
    fn new() -> Result<Self, String> {
        static PROGRAM: Once = Once::new();
        PROGRAM.call_once(|| ficelle::runtime::use_program(env!("CARGO_BIN_EXE_ficelle").into()));
        let busybox = Path::new("/bin/busybox");
        if !busybox.exists() {
            return Err("no /bin/busybox (apt-get install busybox-static)".into());
        }
        let dir = tempfile::tempdir().unwrap();
        let core = Core::new(Roots::below(&dir.path().join("state")));
        core.permitted().map_err(|e| e.to_string())?;
        let layer = dir.path().join("layer");
        for path in ["bin", "etc", "tmp"] {
            fs::create_dir_all(layer.join(path)).unwrap();
        }
        fs::copy(busybox, layer.join("bin/busybox")).unwrap();
        for name in
            ["sh", "sleep", "cat", "echo", "id", "ls", "true", "kill", "yes", "head", "grep", "tty", "seq"]
        {
            std::os::unix::fs::symlink("busybox", layer.join("bin").join(name)).unwrap();
        }
        fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n")
            .unwrap();
        fs::write(layer.join("etc/group"), "root:x:0:\nweb:x:33:\nextra:x:44:web\n").unwrap();
        let group = format!("t{}", &Core::new_id()[..8]);
        Ok(Self { dir, core, layer, group })
    }

    fn config(&self, name: &str, script: &str) -> ContainerConfig {
        ContainerConfig {
            id: Core::new_id(),
            group: self.group.clone(),
            name: name.into(),
            annotations: indexmap::IndexMap::new(),
            rootfs: Rootfs { layers: vec![self.layer.clone()], upper: Upper::Own },
            args: ["sh", "-c", script].map(String::from).to_vec(),
            env: vec!["PATH=/bin".into()],
            cwd: "/".into(),
            user: String::new(),
            groups: Vec::new(),
            hostname: None,
            domainname: None,
            network: NetworkNamespace::None,
            ports: Vec::new(),
            extra_hosts: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            health: None,
            restart: RestartConfig::No,
            stop_signal: 15,
            stop_grace: Duration::from_secs(10),
            init: false,
            tty: false,
            stdin_open: false,
            read_only: false,
            privileged: false,
            capabilities: CAPABILITIES.map(String::from).to_vec(),
            no_new_privileges: false,
            seccomp: true,
            mask_paths: true,
            sysctls: indexmap::IndexMap::new(),
            rlimits: Vec::new(),
            limits: ficelle::model::Limits::default(),
            shm_size: 64 << 20,
            logs: true,
            replaces: None,
        }
    }

    fn start(&self, config: &ContainerConfig) {
        assert!(self.core.check(config).is_empty(), "{:?}", self.core.check(config));
        self.core.create(config).unwrap();
        self.core.start(&self.group, &config.id).unwrap();
    }

    fn wait(&self, config: &ContainerConfig, until: Until) -> ContainerRecord {
        self.core.wait(&self.group, &config.id, until, Some(Duration::from_secs(20)), &|| false).unwrap()
    }

    fn record(&self, config: &ContainerConfig) -> ContainerRecord {
        let records = self.core.containers(Some(&self.group)).unwrap();
        records.into_iter().find(|record| record.config.id == config.id).unwrap()
    }

    fn lines(&self, config: &ContainerConfig) -> Vec<String> {
        let mut lines = Vec::new();
        let request = LogRequest { tail: None, since: None, until: None, follow: false };
        self.core
            .logs(&self.group, &config.id, &request, &mut |record| {
                if let LogRecord::Line { text, .. } = record {
                    lines.push(String::from_utf8(text).unwrap());
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        lines
    }

    /// What a container that runs `config` to its end wrote.
    fn output(&self, config: &ContainerConfig) -> Vec<String> {
        self.start(config);
        self.wait(config, Until::Exited);
        self.lines(config)
    }

    /// Until the log has a line.
    fn wait_for_line(&self, config: &ContainerConfig, line: &str) {
        let request = LogRequest { tail: None, since: None, until: None, follow: true };
        let mut found = false;
        self.core
            .logs(&self.group, &config.id, &request, &mut |record| match record {
                LogRecord::Line { text, .. } if text == line.as_bytes() => {
                    found = true;
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            })
            .unwrap();
        assert!(found, "the log ended without {line:?}: {:?}", self.lines(config));
    }

    fn pid_in(&self, file: &str) -> i32 {
        let path = self.dir.path().join("state/run/p").join(&self.group).join(file);
        let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        i32::try_from(json["pid"].as_i64().unwrap()).unwrap()
    }

    fn remove_all(&self) {
        for record in self.core.containers(Some(&self.group)).unwrap() {
            self.core.stop(&self.group, &record.config.id, Some(Duration::ZERO)).unwrap();
            self.core.remove(&self.group, &record.config.id, true).unwrap();
        }
    }

    /// Nothing of this machine is left: no process, mount, control group or file.
    fn assert_nothing_left(&self) {
        let state = self.dir.path().join("state");
        let text = state.to_str().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut processes = processes_naming(text);
        while !processes.is_empty() && Instant::now() < deadline {
            std::thread::yield_now();
            processes = processes_naming(text);
        }
        assert!(processes.is_empty(), "{processes:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(text), "{mounts}");
        assert_eq!(cgroups_of(&self.group), BTreeSet::new());
        let files: Vec<_> = ["run/p", "data/p"].iter().filter(|dir| state.join(dir).exists()).collect();
        assert!(files.is_empty(), "{files:?}");
    }
}

impl Drop for Machine {
    /// A failed test leaves nothing either.
    fn drop(&mut self) {
        for record in self.core.containers(Some(&self.group)).unwrap_or_default() {
            let _ = self.core.stop(&self.group, &record.config.id, Some(Duration::ZERO));
            let _ = self.core.remove(&self.group, &record.config.id, true);
        }
    }
}

/// Numbers and command lines of processes whose arguments name `text`.
fn processes_naming(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        if arguments.contains(text) {
            found.push(format!("{}: {arguments}", entry.file_name().display()));
        }
    }
    found
}

/// Control groups of a group, in all hierarchies.
fn cgroups_of(group: &str) -> BTreeSet<PathBuf> {
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
    roots.extend(fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path()));
    roots.into_iter().map(|root| root.join("ficelle").join(group)).filter(|path| path.exists()).collect()
}

fn kill(pid: i32) {
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}

#[test]
fn a_container_runs_is_heard_ends_with_its_code_and_leaves_nothing() {
    let machine = machine!();
    let config = machine.config("web", "echo out; echo err >&2; exit 7");
    machine.core.create(&config).unwrap();
    assert_eq!(machine.record(&config).phase, Phase::Created);
    machine.core.start(&machine.group, &config.id).unwrap();
    let ended = machine.wait(&config, Until::Exited);
    assert_eq!(ended.phase, Phase::Exited(Exit::Code(7)));
    assert!(ended.started.is_some() && ended.finished >= ended.started);
    let mut lines = machine.lines(&config);
    lines.sort();
    assert_eq!(lines, ["err", "out"]);
    machine.remove_all();
    machine.assert_nothing_left();
}
