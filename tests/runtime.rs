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
        for name in [
            "sh", "sleep", "cat", "echo", "id", "ls", "true", "kill", "yes", "head", "grep", "tty", "seq",
            "nc", "wget", "httpd", "nslookup", "ip", "test",
        ] {
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
            rootfs: Rootfs { layers: vec![self.layer.clone()], upper: Upper::Own },
            args: ["sh", "-c", script].map(String::from).to_vec(),
            env: vec!["PATH=/bin".into()],
            cwd: "/".into(),
            stop_signal: 15,
            stop_grace: Duration::from_secs(10),
            capabilities: CAPABILITIES.map(String::from).to_vec(),
            mask_paths: true,
            shm_size: 64 << 20,
            ..ContainerConfig::default()
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
            self.core.stop(&self.group, &record.config.id, Some(Duration::ZERO), &mut |_| {}).unwrap();
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
            let _ = self.core.stop(&self.group, &record.config.id, Some(Duration::ZERO), &mut |_| {});
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

/// The value of a field of /proc/PID/status.
fn field<'a>(lines: &'a [String], name: &str) -> &'a str {
    let line = lines.iter().find(|line| line.split(':').next() == Some(name));
    line.unwrap_or_else(|| panic!("no {name} in {lines:?}")).split_once(':').unwrap().1.trim()
}

#[test]
fn a_container_has_no_more_than_dockers_defaults() {
    let machine = machine!();
    let config = machine
        .config("web", "cat /proc/self/status; ls /proc/self/fd; ls -A /sys/firmware /proc/acpi; echo > /proc/sys/vm/panic_on_oom");
    let lines = machine.output(&config);
    // Of `sh`, which the container's program forks: nothing is gained on the way.
    let bits = |name| u64::from_str_radix(field(&lines, name), 16).unwrap();
    assert_eq!(bits("CapEff").count_ones(), 14);
    assert_eq!(bits("CapEff"), bits("CapBnd"));
    assert_eq!((bits("CapInh"), bits("CapAmb")), (0, 0));
    assert_eq!(field(&lines, "Seccomp"), "2");
    assert_eq!(field(&lines, "NoNewPrivs"), "0");
    assert_eq!((bits("SigIgn"), bits("SigBlk")), (0, 0));
    let at = lines.iter().position(|line| line == "0").unwrap();
    assert_eq!(lines[at..at + 4], ["0", "1", "2", "3"], "3 is the directory that `ls` reads");
    assert!(lines.get(at + 4).is_none_or(|line| line.parse::<u32>().is_err()), "{lines:?}");
    machine.remove_all();
}

#[test]
fn a_container_sees_its_control_groups_and_cannot_change_them() {
    let machine = machine!();
    let script = "for dir in /sys/fs/cgroup /sys/fs/cgroup/*; do \
                      test -d $dir && mkdir $dir/own 2>/dev/null && echo made $dir; \
                  done; ls /sys/fs/cgroup | wc -l";
    let lines = machine.output(&machine.config("web", script));
    let [count] = lines.as_slice() else { panic!("{lines:?}") };
    assert!(count.trim().parse::<u32>().unwrap() > 0, "they are there to be read");
    machine.remove_all();
}

#[test]
fn limits_make_no_difference_to_where_a_container_is_and_what_it_may_open() {
    let machine = machine!();
    let script = "cat /proc/self/cgroup; cd /sys/fs/cgroup; \
                  cat devices/devices.list cpuset/cpuset.cpus cpuset/cpuset.mems 2>/dev/null | sort";
    let free = machine.output(&machine.config("free", script));
    let limits = ficelle::model::Limits { pids: Some(100), ..Default::default() };
    let limited = ContainerConfig { limits: limits.clone(), ..machine.config("limited", script) };
    assert_eq!(free, machine.output(&limited));
    assert!(!free.iter().any(|line| line.contains("10:200")), "{free:?}");
    let device_rules = ficelle::model::DeviceRule::parse("c 10:200 rw").into_iter().collect();
    let given = machine.output(&ContainerConfig { device_rules, limits, ..machine.config("given", script) });
    // Version 2 has no file to tell it.
    let told = free.iter().any(|line| line.starts_with("c 1:3 "));
    assert_eq!(given.iter().any(|line| line == "c 10:200 rw"), told, "{given:?}");
    machine.remove_all();
}

#[test]
fn a_user_of_the_image_has_no_capabilities_and_its_groups() {
    let machine = machine!();
    let config = ContainerConfig {
        user: "web".into(),
        groups: vec!["77".into()],
        no_new_privileges: true,
        cwd: "/srv/new".into(),
        ..machine
            .config("web", "id; cat /proc/self/status; echo again >/dev/stdout; echo $HOME $HOSTNAME $PWD")
    };
    let lines = machine.output(&config);
    assert_eq!(lines[0], "uid=33(web) gid=33(web) groups=33(web),44(extra),77");
    assert_eq!(field(&lines, "CapEff"), "0000000000000000");
    assert_eq!(field(&lines, "NoNewPrivs"), "1");
    assert!(lines.contains(&"again".to_owned()), "its streams can be opened by name: {lines:?}");
    assert_eq!(*lines.last().unwrap(), format!("/srv {} /srv/new", &config.id[..12]));
    machine.remove_all();
}

#[test]
fn a_program_that_reads_from_a_closed_pipe_ends_as_everywhere() {
    let machine = machine!();
    let config = machine.config("web", "yes | head -n 2; echo ${PIPESTATUS}; exit 0");
    assert_eq!(machine.output(&config)[..2], ["y", "y"]);
    machine.remove_all();
}

#[test]
fn a_missing_program_is_127_and_one_that_may_not_run_126_and_nothing_stays() {
    let machine = machine!();
    fs::write(machine.layer.join("bin/data"), "no program").unwrap();
    for (program, expected) in [("nowhere", 127), ("/etc/passwd", 126), ("data", 126), ("/tmp", 126)] {
        let config = ContainerConfig { args: vec![program.into()], ..machine.config("web", "") };
        machine.core.create(&config).unwrap();
        match machine.core.start(&machine.group, &config.id) {
            Err(Error::Exec { code, message }) => {
                assert_eq!(code, expected, "{message}");
                assert!(message.contains(program), "{message}");
            }
            other => panic!("{program}: {other:?}"),
        }
        assert_eq!(machine.record(&config).phase, Phase::Created);
        machine.core.remove(&machine.group, &config.id, true).unwrap();
    }
    machine.assert_nothing_left();
}

#[test]
fn a_first_process_that_cannot_hear_the_signal_is_not_waited_for() {
    let machine = machine!();
    let deaf = ContainerConfig { args: vec!["sleep".into(), "1000".into()], ..machine.config("deaf", "") };
    machine.start(&deaf);
    let begun = Instant::now();
    machine.core.stop(&machine.group, &deaf.id, None, &mut |_| {}).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(machine.record(&deaf).phase, Phase::Exited(Exit::Code(137)));

    let polite = machine.config(
        "polite",
        "trap 'echo bye; exit 3' TERM; echo ready; while true; do sleep 1000 & wait $!; done",
    );
    machine.start(&polite);
    machine.wait_for_line(&polite, "ready");
    machine.core.stop(&machine.group, &polite.id, None, &mut |_| {}).unwrap();
    assert_eq!(machine.record(&polite).phase, Phase::Exited(Exit::Code(3)));
    assert_eq!(machine.lines(&polite), ["ready", "bye"]);

    let stubborn = machine.config(
        "stubborn",
        "trap '' TERM; trap 'echo heard' HUP; trap 'true' TERM; echo ready; while true; do sleep 0.05; done",
    );
    machine.start(&stubborn);
    machine.wait_for_line(&stubborn, "ready");
    let begun = Instant::now();
    let grace = Some(Duration::from_millis(300));
    machine.core.stop(&machine.group, &stubborn.id, grace, &mut |_| {}).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(machine.record(&stubborn).phase, Phase::Exited(Exit::Code(137)));
    machine.remove_all();
    machine.assert_nothing_left();
}

#[test]
fn an_init_in_front_hands_on_signals_and_the_code_and_reaps() {
    let machine = machine!();
    let config = ContainerConfig {
        init: true,
        ..machine.config("web", "(sleep 0.01 &) ; trap 'cat /proc/1/comm; exit 4' TERM; echo $$; echo ready; while true; do sleep 0.02; done")
    };
    machine.start(&config);
    machine.wait_for_line(&config, "ready");
    machine.core.stop(&machine.group, &config.id, None, &mut |_| {}).unwrap();
    assert_eq!(machine.record(&config).phase, Phase::Exited(Exit::Code(4)));
    let lines = machine.lines(&config);
    assert_ne!(lines[0], "1");
    assert_eq!(lines.last().unwrap(), "ficelle-init");

    let missing = ContainerConfig { args: vec!["nowhere".into()], init: true, ..machine.config("x", "") };
    machine.core.create(&missing).unwrap();
    let error = machine.core.start(&machine.group, &missing.id).unwrap_err();
    assert!(matches!(error, Error::Exec { code: 127, .. }), "{error}");
    machine.remove_all();
    machine.assert_nothing_left();
}

#[test]
fn a_restart_policy_goes_on_without_us_until_it_is_stopped() {
    let machine = machine!();
    let config =
        ContainerConfig { restart: RestartConfig::Always, ..machine.config("web", "echo run; sleep 1000") };
    machine.start(&config);
    let first = machine.wait(&config, Until::Running);
    for lines in 1..=2 {
        let before = machine.wait(&config, Until::Running).pid.unwrap();
        wait_for(|| machine.lines(&config).len() == lines);
        kill(before);
        wait_for(|| machine.record(&config).pid.is_some_and(|pid| pid != before));
    }
    let record = machine.wait(&config, Until::Running);
    assert_eq!(record.restarts, 2);
    assert!(record.started > first.started);
    wait_for(|| machine.lines(&config).len() == 3);
    machine.core.stop(&machine.group, &config.id, None, &mut |_| {}).unwrap();
    assert_eq!(machine.record(&config).phase, Phase::Exited(Exit::Code(137)));
    assert_eq!(machine.lines(&config), ["run", "run", "run"]);
    machine.remove_all();
    machine.assert_nothing_left();
}

/// Until `done`, which is looked at again and again: for states nobody tells of.
fn wait_for(done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "it did not come within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_container_that_fails_is_tried_as_often_as_asked() {
    let machine = machine!();
    let config = ContainerConfig {
        restart: RestartConfig::OnFailure { max_retries: Some(2) },
        ..machine.config("web", "echo run; exit 5")
    };
    machine.start(&config);
    let record = machine.wait(&config, Until::Exited);
    assert_eq!((record.phase, record.restarts), (Phase::Exited(Exit::Code(5)), 2));
    assert_eq!(machine.lines(&config), ["run"; 3]);
    machine.remove_all();
    machine.assert_nothing_left();
}

#[test]
fn stopping_during_the_back_off_ends_it() {
    let machine = machine!();
    let config = ContainerConfig { restart: RestartConfig::Always, ..machine.config("web", "exit 1") };
    machine.start(&config);
    wait_for(|| machine.record(&config).phase == Phase::Restarting && machine.record(&config).restarts > 2);
    machine.core.stop(&machine.group, &config.id, None, &mut |_| {}).unwrap();
    assert_eq!(machine.record(&config).phase, Phase::Exited(Exit::Code(1)));
    machine.remove_all();
    machine.assert_nothing_left();
}

#[test]
fn no_line_is_lost_when_the_supervisor_is_killed_again_and_again() {
    let machine = machine!();
    let config = machine.config("web", "seq 1 200000; exit 6");
    machine.start(&config);
    let mut kills = 0;
    while machine.record(&config).phase == Phase::Running {
        let path = machine.dir.path().join("state/run/p").join(&machine.group).join("supervisor.json");
        let text = fs::read_to_string(path).unwrap_or_default();
        if let Ok(json) = serde_json::from_str::<serde_json::Value>(&text)
            && let Some(pid) = json["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok())
            && fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.starts_with("ficelle-superv"))
        {
            kill(pid);
            kills += 1;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(kills > 0);
    assert_eq!(machine.wait(&config, Until::Exited).phase, Phase::Exited(Exit::Code(6)));
    let lines = machine.lines(&config);
    assert_eq!(lines.len(), 200_000);
    assert!(lines.iter().zip(1..).all(|(line, number)| *line == number.to_string()));
    machine.remove_all();
    machine.assert_nothing_left();
}

/// Kernels since 6.15 do.
fn tells_ends_of_orphans() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

#[test]
fn a_container_outlives_its_keeper_and_its_end_is_learnt() {
    let machine = machine!();
    let config =
        machine.config("web", "echo ready; while ! test -e /go; do sleep 0.02; done; echo last; exit 9");
    machine.start(&config);
    machine.wait_for_line(&config, "ready");
    let before = machine.record(&config);
    kill(machine.pid_in("keeper.json"));
    let after = machine.record(&config);
    assert_eq!((after.phase, after.pid), (Phase::Running, before.pid));
    machine.core.repair(&machine.group).unwrap();
    let root = format!("/proc/{}/root/go", before.pid.unwrap());
    fs::write(root, "").unwrap();
    let ended = machine.wait(&config, Until::Exited);
    let expected = if tells_ends_of_orphans() { Exit::Code(9) } else { Exit::Unknown };
    assert_eq!(ended.phase, Phase::Exited(expected));
    assert_eq!(machine.lines(&config), ["ready", "last"]);
    machine.remove_all();
    machine.assert_nothing_left();
}

#[test]
fn a_restart_policy_survives_the_keeper() {
    let machine = machine!();
    let config = ContainerConfig { restart: RestartConfig::Always, ..machine.config("web", "sleep 1000") };
    machine.start(&config);
    let before = machine.record(&config).pid.unwrap();
    kill(machine.pid_in("keeper.json"));
    machine.core.repair(&machine.group).unwrap();
    kill(before);
    wait_for(|| machine.record(&config).pid.is_some_and(|pid| pid != before));
    machine.remove_all();
    machine.assert_nothing_left();
}

#[test]
fn a_container_that_ended_while_nobody_looked_is_not_taken_for_running() {
    let machine = machine!();
    let config = machine.config("web", "sleep 1000");
    machine.start(&config);
    let pid = machine.record(&config).pid.unwrap();
    kill(machine.pid_in("keeper.json"));
    kill(pid);
    // The supervisor, or a keeper that it has started meanwhile, may have seen how it ended.
    let has_ended = |phase| matches!(phase, Phase::Exited(Exit::Unknown | Exit::Code(137)));
    wait_for(|| has_ended(machine.record(&config).phase));
    machine.core.repair(&machine.group).unwrap();
    assert!(has_ended(machine.wait(&config, Until::Exited).phase));
    machine.remove_all();
    machine.assert_nothing_left();
}

fn health(script: &str, retries: u32) -> HealthConfig {
    HealthConfig {
        args: ["sh", "-c", script].map(String::from).to_vec(),
        interval: Duration::from_millis(200),
        timeout: Duration::from_millis(500),
        retries,
        start_period: Duration::ZERO,
        start_interval: Duration::from_millis(100),
    }
}

#[test]
fn health_is_probed_inside_the_container_as_its_user_and_filter() {
    let machine = machine!();
    let probe =
        "test -e /tmp/ready && grep -q '^Seccomp:.2' /proc/self/status && test $(id -u) = 33 && echo fine";
    let config = ContainerConfig {
        user: "web".into(),
        health: Some(health(probe, 3)),
        mounts: vec![ficelle::runtime::MountConfig {
            target: "/tmp".into(),
            read_only: false,
            kind: ficelle::runtime::MountKind::Tmpfs { size: None, mode: None, options: Vec::new() },
        }],
        ..machine.config("web", "sleep 0.1; echo > /tmp/ready; sleep 1000")
    };
    machine.start(&config);
    let record = machine.wait(&config, Until::Healthy);
    assert_eq!(record.last_probe.as_deref(), Some("fine"));
    fs::remove_file(format!("/proc/{}/root/tmp/ready", record.pid.unwrap())).unwrap();
    wait_for(|| machine.record(&config).health == Some(ficelle::runtime::Health::Unhealthy));
    let error = machine.core.wait(&machine.group, &config.id, Until::Ready, None, &|| false).unwrap_err();
    assert!(matches!(error, Error::Condition(_)), "{error}");
    machine.remove_all();
    machine.assert_nothing_left();
}

#[test]
fn a_probe_that_hangs_is_ended_and_counts_as_failed() {
    let machine = machine!();
    let config = ContainerConfig {
        health: Some(HealthConfig {
            timeout: Duration::from_millis(100),
            ..health("echo hm; exec sleep 1000", 1)
        }),
        ..machine.config("web", "exec sleep 1000")
    };
    machine.start(&config);
    wait_for(|| machine.record(&config).health == Some(ficelle::runtime::Health::Unhealthy));
    let record = machine.record(&config);
    assert!(record.last_probe.as_ref().unwrap().starts_with("hm\nno answer within"), "{record:?}");
    machine.remove_all();
    machine.assert_nothing_left();
}

#[test]
fn a_foreground_run_gives_output_and_code_and_keeps_only_what_was_written() {
    let machine = machine!();
    let result = machine.dir.path().join("result");
    fs::create_dir(&result).unwrap();
    let config = ContainerConfig {
        rootfs: Rootfs { layers: vec![machine.layer.clone()], upper: Upper::Dir(result.clone()) },
        network: NetworkNamespace::Host,
        ..machine.config("build", "echo out; echo err >&2; echo made > /made; exit 3")
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = machine
        .core
        .run(&config, &mut |stderr, bytes| {
            if stderr { err.extend(bytes) } else { out.extend_from_slice(bytes) }
        })
        .unwrap();
    assert_eq!((exit, out.as_slice(), err.as_slice()), (Exit::Code(3), &b"out\n"[..], &b"err\n"[..]));
    let mut names: Vec<_> = fs::read_dir(result.join("fs"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names == ["made"] || names == ["etc", "made"], "{names:?}");
    assert!(fs::read_dir(result.join("fs/etc")).map_or(0, Iterator::count) == 0);

    let missing = ContainerConfig { args: vec!["nowhere".into()], id: Core::new_id(), ..config };
    let error = machine.core.run(&missing, &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, Error::Exec { code: 127, .. }), "{error}");
    machine.assert_nothing_left();
}

#[test]
fn a_terminal_is_one_for_the_program_and_its_output_is_kept() {
    let machine = machine!();
    let config =
        ContainerConfig { tty: true, ..machine.config("web", "tty; test -t 1 && echo terminal; echo $TERM") };
    let lines = machine.output(&config);
    let lines: Vec<_> = lines.iter().map(|line| line.trim_end_matches('\r')).collect();
    assert_eq!(lines, ["/dev/pts/0", "terminal", "xterm"]);
    machine.remove_all();
    machine.assert_nothing_left();
}

#[test]
fn a_new_volume_has_what_the_image_has_there_and_is_handed_on() {
    let machine = machine!();
    fs::create_dir(machine.layer.join("data")).unwrap();
    fs::write(machine.layer.join("data/seed"), "from the image").unwrap();
    std::os::unix::fs::chown(machine.layer.join("data/seed"), Some(33), Some(44)).unwrap();
    let mount = |kind| ficelle::runtime::MountConfig { target: "/data".into(), read_only: false, kind };
    let anonymous = ficelle::runtime::MountKind::Anonymous { nocopy: false, annotations: Default::default() };
    let first = ContainerConfig {
        mounts: vec![mount(anonymous.clone())],
        ..machine.config("web", "cat /data/seed; ls -ln /data; echo more > /data/mine")
    };
    let lines = machine.output(&first);
    assert!(lines[0].contains("from the image"), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("33") && line.contains("44")), "{lines:?}");
    let second = ContainerConfig {
        mounts: vec![mount(anonymous)],
        replaces: Some(first.id.clone()),
        ..machine.config("web", "cat /data/mine")
    };
    assert_eq!(machine.output(&second), ["more"]);
    assert_eq!(machine.record(&first).anonymous_volumes, machine.record(&second).anonymous_volumes);
    machine.core.remove(&machine.group, &first.id, true).unwrap();
    assert_eq!(machine.core.volumes().unwrap().len(), 1, "the new one has it");
    machine.core.remove(&machine.group, &second.id, true).unwrap();
    assert_eq!(machine.core.volumes().unwrap(), []);

    machine
        .core
        .create_volume(&ficelle::runtime::VolumeConfig { name: "v".into(), ..Default::default() })
        .unwrap();
    let named = ficelle::runtime::MountKind::Volume { name: "v".into(), nocopy: true, subpath: None };
    let third = ContainerConfig {
        mounts: vec![mount(named)],
        ..machine.config("web", "ls -A /data; echo x > /data/y")
    };
    assert_eq!(machine.output(&third), Vec::<String>::new());
    assert!(matches!(machine.core.remove_volume("v"), Err(Error::Conflict(_))));
    machine.remove_all();
    machine.core.remove_volume("v").unwrap();
    machine.assert_nothing_left();
}

#[test]
fn a_hostile_image_is_refused_and_the_host_is_as_before() {
    let machine = machine!();
    let outside = machine.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    for name in ["dev", "proc", "sys"] {
        let layer = machine.dir.path().join(format!("hostile-{name}"));
        fs::create_dir(&layer).unwrap();
        std::os::unix::fs::symlink(&outside, layer.join(name)).unwrap();
        let mut config = machine.config("web", "true");
        config.rootfs.layers.push(layer);
        machine.core.create(&config).unwrap();
        assert!(matches!(machine.core.start(&machine.group, &config.id), Err(Error::Invalid(_))), "{name}");
        machine.core.remove(&machine.group, &config.id, true).unwrap();
    }
    for cwd in ["/proc/self/fd/3", "/proc/self/fd/9"] {
        let config = ContainerConfig { cwd: cwd.into(), ..machine.config("web", "true") };
        assert_eq!(machine.core.check(&config).len(), 1);
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    machine.assert_nothing_left();
}

#[test]
fn our_binary_cannot_be_written_through_a_container() {
    let machine = machine!();
    let config = ContainerConfig { init: true, ..machine.config("web", "sleep 1000") };
    machine.start(&config);
    let pid = machine.record(&config).pid.unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_ficelle"));
    for pid in [pid, machine.pid_in("keeper.json")] {
        let exe = format!("/proc/{pid}/exe");
        let opened = fs::OpenOptions::new().write(true).open(&exe);
        assert!(opened.is_err(), "{exe}");
        let (a, b) = (fs::metadata(&exe).unwrap(), fs::metadata(binary).unwrap());
        use std::os::unix::fs::MetadataExt;
        assert_ne!((a.dev(), a.ino()), (b.dev(), b.ino()), "{exe}");
    }
    machine.remove_all();
    machine.assert_nothing_left();
}

#[test]
fn limits_hold() {
    let machine = machine!();
    let config = ContainerConfig {
        limits: ficelle::model::Limits { pids: Some(5), memory: Some(32 << 20), ..Default::default() },
        rlimits: vec![ficelle::runtime::Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 77, hard: 88 }],
        read_only: true,
        ..machine.config("web", "ulimit -n; for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait; echo > /x")
    };
    let lines = machine.output(&config);
    assert_eq!(lines[0], "77");
    assert!(lines.iter().any(|line| line.contains("fork")), "{lines:?}");
    assert!(lines.is_empty() || !machine.dir.path().join("x").exists());
    machine.remove_all();
    machine.assert_nothing_left();
}

#[test]
fn state_is_closed_to_others_whatever_the_umask() {
    let machine = machine!();
    let config = machine.config("web", "true");
    machine.output(&config);
    let mut open = Vec::new();
    let mut dirs = vec![machine.dir.path().join("state/run/p"), machine.dir.path().join("state/data/p")];
    while let Some(dir) = dirs.pop() {
        use std::os::unix::fs::PermissionsExt;
        // What is below one closed directory is closed.
        if fs::metadata(&dir).unwrap().permissions().mode() & 0o077 != 0 {
            open.push(dir.clone());
        }
        let children = fs::read_dir(&dir).unwrap().flatten().filter(|e| e.path().is_dir());
        if dirs.is_empty() {
            dirs.extend(children.map(|e| e.path()));
        }
    }
    assert!(open.is_empty(), "{open:?}");
    machine.remove_all();
}

fn networks(machine: &Machine, names: &[&str]) -> Vec<ficelle::runtime::Endpoint> {
    let network = format!("{}_default", machine.group);
    let config = ficelle::runtime::NetworkConfig {
        name: network.clone(),
        group: machine.group.clone(),
        ..Default::default()
    };
    machine.core.create_network(&config).unwrap();
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    vec![ficelle::runtime::Endpoint { network, names, ..Default::default() }]
}

/// The first line that the web server at a published port of this machine gives.
fn fetch(port: u16) -> std::io::Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn containers_find_each_other_by_name_and_are_reached_at_their_ports() {
    let machine = machine!();
    let port = ficelle::runtime::PortConfig {
        target: 80,
        published: None,
        host_ip: None,
        protocol: ficelle::model::Protocol::Tcp,
    };
    let web = ContainerConfig {
        network: NetworkNamespace::Own(networks(&machine, &["web"])),
        ports: vec![port.clone()],
        ..machine.config("web", "echo hello from web > /index.html; exec httpd -f -p 80 -h /")
    };
    machine.start(&web);
    let ask = ContainerConfig {
        network: NetworkNamespace::Own(networks(&machine, &["ask"])),
        ..machine.config("ask", "wget -q -O - http://web/index.html; grep 127.0.0.11 /etc/resolv.conf")
    };
    assert_eq!(machine.output(&ask), ["hello from web", "nameserver 127.0.0.11"]);

    let record = machine.record(&web);
    let bound = record.ports[0];
    wait_for(|| fetch(bound.host_port).is_ok_and(|text| text.contains("hello from web")));
    let taken = ficelle::runtime::PortConfig { published: Some((bound.host_port, bound.host_port)), ..port };
    let conflicts = machine.core.check_ports(&machine.group, std::slice::from_ref(&taken), &[]);
    assert_eq!(conflicts[0].holder, Some(format!("container web of project {}", machine.group)));
    assert_eq!(
        machine.core.check_ports(&machine.group, std::slice::from_ref(&taken), std::slice::from_ref(&web.id)),
        []
    );

    // Another keeper, and another supervisor: still reached.
    kill(machine.pid_in("keeper.json"));
    machine.core.repair(&machine.group).unwrap();
    wait_for(|| fetch(bound.host_port).is_ok_and(|text| text.contains("hello from web")));
    assert_eq!(machine.record(&web).pid, record.pid);

    let network = format!("{}_default", machine.group);
    assert!(matches!(machine.core.remove_network(&network), Err(Error::Conflict(_))));
    machine.remove_all();
    machine.core.remove_network(&network).unwrap();
    assert!(fetch(bound.host_port).is_err());
    machine.assert_nothing_left();
}

#[test]
fn a_container_may_share_the_network_of_another() {
    let machine = machine!();
    let web = machine.config("web", "echo shared > /index.html; exec httpd -f -p 80 -h /");
    machine.start(&web);
    let ask = ContainerConfig {
        network: NetworkNamespace::Container(web.id.clone()),
        ..machine.config("ask", "for i in 1 2 3 4 5 6 7 8 9; do wget -q -O - http://127.0.0.1/index.html && break; sleep 0.1; done")
    };
    assert_eq!(machine.output(&ask), ["shared"]);
    machine.core.stop(&machine.group, &web.id, None, &mut |_| {}).unwrap();
    let late = ContainerConfig { id: Core::new_id(), ..ask };
    machine.core.create(&late).unwrap();
    let error = machine.core.start(&machine.group, &late.id).unwrap_err();
    assert!(matches!(error, Error::Condition(_)), "{error}");
    machine.remove_all();
    machine.assert_nothing_left();
}
