//! Attacks that got through other runtimes, each told by its number and tried on ours: nothing of the host may
//! be changed or read by them. The host's side is watched through a sentinel, a directory with known content.
//!
//! Those that are races are tried for a second or two; `FICELLE_RACES=10000` says how often, for longer runs.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::{
        fd::AsFd as _,
        unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ficelle::{
    engine::{ContainerId, CopyRequest, Engine, Op, Silent, Source, Target},
    session::{Choice, connect},
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};

use crate::contract::field::exec_request;
use crate::scenarios::{
    host,
    stack::{Machine, Project},
};

/// How often a race is tried.
fn races(few: usize) -> usize {
    std::env::var("FICELLE_RACES").ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}

/// A directory of the host with everything about it, taken before and compared after.
struct Sentinel {
    dir: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Sentinel {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("sentinel-").tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc/deep")).unwrap();
        for (path, text) in
            [("file", "of the host"), ("etc/passwd", "host:x:0:0::/:/bin/sh\n"), ("etc/deep/key", "k")]
        {
            fs::write(dir.path().join(path), text).unwrap();
        }
        let before = Self::picture(dir.path());
        Self { dir, before }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut open = vec![root.to_owned()];
        while let Some(path) = open.pop() {
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            let shown =
                (meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec(), meta.dev(), content);
            found.insert(path.clone(), format!("{shown:?}"));
            if meta.is_dir() {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        found
    }

    fn assert_untouched(&self, when: &str) {
        assert_eq!(Self::picture(self.path()), self.before, "{when}");
    }
}

/// What a hostile image has on top of busybox.
enum Entry<'a> {
    Dir(&'a str),
    Link(&'a str, &'a str),
    File(&'a str, &'a str),
}

/// Loads an image of this name: busybox, this layer, and more of the configuration.
fn image(project: &Project<'_>, name: &str, more: &Value, entries: &[Entry<'_>]) {
    let mut parts = BTreeMap::new();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/images/busybox.tar");
    for entry in tar::Archive::new(File::open(archive).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        parts.insert(entry.path().unwrap().display().to_string(), bytes);
    }
    let manifest: Value = serde_json::from_slice(&parts["manifest.json"]).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut config: Value = serde_json::from_slice(&parts[&text(&manifest[0]["Config"])]).unwrap();
    let base = text(&manifest[0]["Layers"][0]);
    let mut layer = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_mtime(1);
        header.set_size(0);
        match entry {
            Entry::Dir(path) => {
                header.set_entry_type(tar::EntryType::Directory);
                layer.append_data(&mut header, path, &[][..]).unwrap();
            }
            Entry::Link(path, to) => {
                header.set_entry_type(tar::EntryType::Symlink);
                layer.append_link(&mut header, path, to).unwrap();
            }
            Entry::File(path, text) => {
                header.set_size(text.len() as u64);
                layer.append_data(&mut header, path, text.as_bytes()).unwrap();
            }
        }
    }
    let layer = layer.into_inner().unwrap();
    config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(json!(digest(&layer)));
    config["history"] = json!([]);
    for (key, value) in more.as_object().into_iter().flatten() {
        config["config"][key] = value.clone();
    }
    let mut out = tar::Builder::new(Vec::new());
    let mut put = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        out.append_data(&mut header, name, bytes).unwrap();
    };
    put(&base, &parts[&base]);
    put("ours/layer.tar", &layer);
    put("config.json", config.to_string().as_bytes());
    let manifest = json!([{"Config": "config.json", "RepoTags": [format!("{name}:latest")], "Layers": [base, "ours/layer.tar"]}]);
    put("manifest.json", manifest.to_string().as_bytes());
    let path = project.dir.join(format!("{name}.tar"));
    fs::write(&path, out.into_inner().unwrap()).unwrap();
    project.ficelle(&["image", "load", "-i", path.to_str().unwrap()]).ok();
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let hex: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A project of one service `it` with these lines, that sleeps.
fn one(name: &str, lines: &str) -> String {
    format!(
        "name: {name}\nservices:\n  it:\n    image: busybox\n    command: [sleep, '1000']\n    stop_grace_period: 0s\n{lines}"
    )
}

fn exec(project: &Project<'_>, script: &str) -> String {
    let done = project.ficelle(&["exec", "-T", "it", "sh", "-c", script]).run();
    done.stdout + &done.stderr
}

/// The container of a project, acted upon from this process: a turn of a race costs a fraction of a command's.
struct Turns {
    engine: Arc<dyn Engine>,
    runtime: tokio::runtime::Runtime,
    project: String,
    name: String,
    id: ContainerId,
}

impl Turns {
    fn of(project: &Project<'_>) -> Self {
        ficelle::runtime::use_program(env!("CARGO_BIN_EXE_ficelle").into());
        let root = Some(project.machine().root());
        let choice = Choice { engine: Some("embedded".to_owned()), root, docker: None };
        let container = project.container("it");
        Self {
            engine: connect(&choice).unwrap().engine,
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            project: project.name.clone(),
            name: container.name,
            id: ContainerId(container.id),
        }
    }

    fn perform(&self, op: &Op) -> bool {
        self.runtime.block_on(self.engine.perform(op, Arc::new(Silent))).is_ok()
    }

    /// A process of it, when it could be started.
    fn start(&self) -> Option<i32> {
        let Self { project, name, .. } = self;
        let started = self.perform(&Op::Start { project: project.clone(), name: name.clone() });
        let processes = self.runtime.block_on(self.engine.processes(project, &self.id)).unwrap_or_default();
        processes.first().map(|process| process.pid).filter(|_| started)
    }

    fn stop(&self) {
        let (project, name, id) = (self.project.clone(), self.name.clone(), self.id.clone());
        assert!(self.perform(&Op::Stop { project, name, id, timeout: Some(Duration::ZERO) }));
    }

    /// What a script in it says.
    fn script(&self, script: &str) -> String {
        self.program(&["sh", "-c", script])
    }

    /// What a further program in it says, if it can be run at all.
    fn program(&self, command: &[&str]) -> String {
        let request = exec_request(&self.project, &self.id, &self.name, command, false);
        self.runtime.block_on(async {
            let mut said = Vec::new();
            if let Ok(mut program) = self.engine.exec(&request).await {
                while let Some(chunk) = program.output.recv().await {
                    said.extend(chunk.bytes);
                }
            }
            String::from_utf8_lossy(&said).into_owned()
        })
    }

    /// It may well fail.
    fn copy(&self, from: Source, to: Target) {
        let project = self.project.clone();
        let request = CopyRequest { project, from, to, follow: false, archive: false };
        let _ = self.runtime.block_on(self.engine.copy(request));
    }

    fn inside(&self, path: &str) -> (ContainerId, PathBuf) {
        (self.id.clone(), path.into())
    }
}

/// Swaps two paths as fast as it can, until dropped.
struct Swap<'a> {
    stop: &'a AtomicBool,
}

impl Drop for Swap<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn swapping<T>(a: &Path, b: &Path, during: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // One of them may be gone for a moment: that is the other side's affair.
                let _ = renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE);
                std::thread::yield_now();
            }
        });
        let _guard = Swap { stop: &stop };
        during()
    })
}

/// Where a named volume of a project lies.
fn volume_of(machine: &Machine, project: &str, volume: &str) -> PathBuf {
    let name = format!("{project}_{volume}");
    let mut open = vec![machine.root().join("data")];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
            if entry.file_name().to_str() == Some(&name) {
                let content = ["data", "_data"].map(|inner| entry.path().join(inner));
                return content.into_iter().find(|path| path.is_dir()).unwrap_or_else(|| entry.path());
            }
            if !entry.path().ends_with("images") {
                open.push(entry.path());
            }
        }
    }
    panic!("no volume {name}");
}

fn is_sealed_copy(pid: i32) -> bool {
    let Ok(exe) = File::open(format!("/proc/{pid}/exe")) else { return false };
    let own = fs::metadata(env!("CARGO_BIN_EXE_ficelle")).unwrap();
    let meta = exe.metadata().unwrap();
    let writable = fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/exe")).is_ok();
    (meta.dev(), meta.ino()) != (own.dev(), own.ino()) && !writable
}

#[test]
fn cve_2019_5736_the_binary_cannot_be_overwritten_through_the_program_it_executes() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let project = machine.compose("cve20195736", "");
    image(&project, "evil", &json!({}), &[Entry::File("evil", "#!/proc/self/exe\n")]);
    let before = digest(&fs::read(env!("CARGO_BIN_EXE_ficelle")).unwrap());
    project.write("services: {it: {image: evil, entrypoint: /evil}}");
    // Whatever our own program makes of being run there: it is a copy that nobody can write to.
    let _ = project.ficelle(&["up", "-d"]).run();
    project.ficelle(&["down", "-t", "0"]).ok();
    // A first process that is ours for as long as it lives, and programs that find it and try.
    let grab = "for i in $$(seq 200); do for p in /proc/[0-9]*/exe; do echo pwned >>$$p; done; done 2>/dev/null; sleep 1000";
    project.write(&format!(
        "services: {{it: {{image: evil, init: true, stop_grace_period: 0s, command: [sh, -c, '{grab}']}}}}"
    ));
    project.ficelle(&["up", "-d"]).ok();
    let main = project.container("it").main().pid;
    assert!(is_sealed_copy(main), "the first process of the container");
    let turns = Turns::of(&project);
    for _ in 0..races(20) {
        turns.program(&["/evil"]);
        turns.program(&["/proc/1/exe", "version"]);
    }
    assert_eq!(digest(&fs::read(env!("CARGO_BIN_EXE_ficelle")).unwrap()), before);
}

#[test]
fn cve_2021_30465_and_2019_19921_a_mount_lands_inside_whatever_its_target_becomes_meanwhile() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let sentinel = Sentinel::new();
    let yaml = one("cve202130465", "    volumes: ['shared:/v', './payload:/v/d/x']\nvolumes: {shared: }\n");
    let project = machine.compose("cve202130465", &yaml);
    fs::create_dir(project.dir.join("payload")).unwrap();
    fs::write(project.dir.join("payload/mark"), "payload").unwrap();
    project.ficelle(&["up", "-d"]).ok();
    project.ficelle(&["stop"]).ok();
    let shared = volume_of(&machine, "cve202130465", "shared");
    let turns = Turns::of(&project);
    let mut inside = 0;
    for to in [PathBuf::from("/"), sentinel.path().join("etc")] {
        let (dir, link) = (shared.join("d"), shared.join(format!("l{}", to.as_os_str().len())));
        fs::create_dir_all(&dir).unwrap();
        symlink(&to, &link).unwrap();
        swapping(&dir, &link, || {
            for _ in 0..races(20) {
                if let Some(pid) = turns.start() {
                    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
                    // A mount outside of the container's root would not be among those it reaches.
                    assert!(mounts.lines().any(|line| line.contains("/payload ")), "{mounts}");
                    inside += 1;
                }
                turns.stop();
            }
        });
        let (real, _) = if dir.is_symlink() { (&link, &dir) } else { (&dir, &link) };
        if real != &dir {
            renameat_with(CWD, &dir, CWD, &link, RenameFlags::EXCHANGE).unwrap();
        }
        sentinel.assert_untouched("after a mount");
        assert_eq!(host::mounts_below(sentinel.path()), Vec::<String>::new());
    }
    assert!(!Path::new("/x/mark").exists());
    eprintln!("{inside} mounts landed inside");
}

#[test]
fn cve_2024_21626_no_working_directory_leads_out_through_a_descriptor() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let project = machine.compose("cve202421626", "");
    for number in (0..16).chain([30, 63, 64]) {
        let cwd = format!("/proc/self/fd/{number}");
        project.write(&one("cve202421626", &format!("    working_dir: {cwd}\n")));
        project.ficelle(&["up", "-d"]).fails();
    }
    image(
        &project,
        "evil",
        &json!({"WorkingDir": "/proc/self/fd/8"}),
        &[Entry::Link("out", "/proc/self/fd/8")],
    );
    project.write("services: {it: {image: evil, command: [sleep, '1000']}}");
    project.ficelle(&["up", "-d"]).fails();
    project.write(
        "services: {it: {image: evil, working_dir: /, stop_grace_period: 0s, command: [sh, -c, 'ls /proc/self/fd; exec sleep 1000']}}",
    );
    project.ficelle(&["up", "-d"]).ok();
    project.wait_for_line("it", "2");
    for number in 0..16 {
        for cwd in [format!("/proc/self/fd/{number}"), format!("/proc/1/fd/{number}"), "/out".to_owned()] {
            let done = project
                .ficelle(&["exec", "-T", "-w", &cwd, "it", "sh", "-c", "cat ../../../../etc/shadow"])
                .run();
            assert_ne!(done.code, Some(0), "{cwd}: {}", done.stdout);
            assert_eq!(done.stdout, "", "{cwd}");
        }
    }
    // The listing's own directory is the fourth.
    assert_eq!(exec(&project, "ls /proc/self/fd | wc -l").trim(), "4");
    let main = project.container("it").main().pid;
    assert_eq!(fs::read_dir(format!("/proc/{main}/fd")).unwrap().count(), 3);
}

/// A /dev of the attacker's: where the runtime binds and creates, there are links to what it must not touch.
fn project_with_dev(machine: &Machine, name: &str, lines: &str, links: &[(&str, &str)]) -> (String, PathBuf) {
    let yaml = one(name, &format!("    volumes: ['evil:/dev']\n{lines}volumes: {{evil: }}\n"));
    let project = machine.compose(
        &format!("{name}first"),
        &yaml.replace(&format!("name: {name}"), &format!("name: {name}first")),
    );
    let _ = project.ficelle(&["create"]).run();
    let evil = volume_of(machine, &format!("{name}first"), "evil");
    for (path, to) in links {
        let link = evil.join(path);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&link);
        symlink(to, &link).unwrap();
    }
    (
        yaml.replace("evil: }", "evil: {external: true, name: NAME}}")
            .replace("NAME", &format!("{name}first_evil")),
        evil,
    )
}

#[test]
fn cve_2025_31133_what_is_masked_stays_so_when_dev_null_is_a_link() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let core = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let (yaml, evil) =
        project_with_dev(&machine, "cve202531133", "", &[("null", "/proc/sys/kernel/core_pattern")]);
    let project = machine.compose("cve202531133", &yaml);
    fs::write(evil.join("plain"), "").unwrap();
    project.ficelle(&["create"]).ok();
    let turns = Turns::of(&project);
    swapping(&evil.join("null"), &evil.join("plain"), || {
        for _ in 0..races(20) {
            if turns.start().is_some() {
                let seen = turns.script(
                    "{ head -c1 /proc/kcore | wc -c; head -c1 /proc/keys | wc -c; ls /sys/firmware | wc -l; } 2>&-; \
                     echo pwned >/proc/sys/kernel/core_pattern; echo pwned >/proc/keys; echo b >/proc/sysrq-trigger",
                );
                assert!(seen.starts_with("0\n0\n0\n"), "{seen}");
            }
            turns.stop();
        }
    });
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), core);
}

#[test]
fn cve_2025_52565_the_console_is_not_bound_over_what_a_link_leads_to() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let sentinel = Sentinel::new();
    let file = sentinel.path().join("file");
    let file = file.to_str().unwrap();
    let links = [("console", file), ("pts/0", file), ("ptmx", file), ("shm", "/proc")];
    let (yaml, _) = project_with_dev(&machine, "cve202552565", "    tty: true\n", &links);
    let project = machine.compose("cve202552565", &yaml);
    for _ in 0..3 {
        if project.ficelle(&["up", "-d", "--force-recreate"]).run().code == Some(0) {
            let pid = project.container("it").main().pid;
            let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
            assert!(
                !mounts.lines().any(|line| line.split(' ').nth(4).unwrap().starts_with("/proc/sys ")),
                "{mounts}"
            );
            assert!(!mounts.contains("sentinel-"), "{mounts}");
        }
    }
    // The same in an image's own /dev, which a memory file system covers.
    let links = links.map(|(path, to)| (format!("dev/{path}"), to));
    let entries: Vec<_> = links.iter().map(|(path, to)| Entry::Link(path, to)).collect();
    image(&project, "evil", &json!({}), &entries);
    project.write(&one("cve202552565", "    tty: true\n").replace("busybox", "evil"));
    project.ficelle(&["up", "-d"]).ok();
    assert_eq!(
        exec(&project, "ls -l /dev/console | cut -c1; ls -l /dev/ptmx | cut -d'>' -f2"),
        "c\n pts/ptmx\n"
    );
    sentinel.assert_untouched("after terminals");
}

#[test]
fn cve_2019_16884_2025_52881_nothing_is_mounted_over_proc_or_sys_so_that_writes_of_the_runtime_go_elsewhere()
{
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let project = machine.compose("cve202552881", "");
    let forwarding = fs::read("/proc/sys/net/core/somaxconn").unwrap();
    for target in
        ["/proc", "/proc/self", "/proc/sys", "/proc/sys/net/core", "/proc/1/attr", "/proc/thread-self"]
    {
        for kind in [
            "    volumes: ['vol:TARGET']\nvolumes: {vol: }\n",
            "    tmpfs: [TARGET]\n",
            "    volumes: ['./:TARGET']\n",
        ] {
            let lines =
                format!("    sysctls: {{net.core.somaxconn: 77}}\n{}", kind.replace("TARGET", target));
            project.write(&one("cve202552881", &lines));
            let done = project.ficelle(&["up", "-d"]).run();
            assert_ne!(done.code, Some(0), "{target} {kind}");
            project.ficelle(&["down", "-v", "-t", "0"]).ok();
        }
    }
    // By a link of the image, the same.
    image(&project, "evil", &json!({}), &[Entry::Link("way", "/proc/sys/net")]);
    project.write(
        &one("cve202552881", "    sysctls: {net.core.somaxconn: 77}\n    tmpfs: [/way/core]\n")
            .replace("busybox", "evil"),
    );
    project.ficelle(&["up", "-d"]).fails();
    assert_eq!(fs::read("/proc/sys/net/core/somaxconn").unwrap(), forwarding, "the host's own");
}

#[test]
fn cve_2023_27561_2023_28642_2025_54867_2026_41579_links_for_dev_proc_and_sys_are_refused() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let sentinel = Sentinel::new();
    let project = machine.compose("cve202327561", "");
    let to = sentinel.path().join("etc");
    let absolute = to.to_str().unwrap();
    let relative = format!("..{absolute}");
    for (name, to) in ["dev", "proc", "sys"].iter().flat_map(|name| [(name, absolute), (name, &relative)]) {
        image(&project, "evil", &json!({}), &[Entry::Link(name, to)]);
        project.write(&one("cve202327561", "").replace("busybox", "evil"));
        let told = project.ficelle(&["up", "-d"]).fails().stderr;
        assert!(told.contains(&format!("/{name}")), "{told}");
        project.ficelle(&["down", "-t", "0"]).ok();
        sentinel.assert_untouched(name);
    }
}

#[test]
fn cve_2022_29162_2022_24769_2022_27649_2025_27612_no_capability_is_inheritable_or_ambient() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let look = "grep -E 'CapInh|CapAmb' /proc/self/status";
    for lines in
        ["", "    user: '1000'\n    cap_add: [NET_ADMIN]\n", "    privileged: true\n", "    init: true\n"]
    {
        let project = machine.compose(
            &format!("cve202229162x{}", lines.len()),
            &one("x", lines)
                .replace("[sleep, '1000']", &format!("[sh, -c, \"{look}; sleep 1000\"]"))
                .replace("name: x\n", ""),
        );
        project.ficelle(&["up", "-d"]).ok();
        project.wait_for_line("it", "CapAmb");
        let mut seen = project.logs("it");
        for args in [
            &["exec", "-T"][..],
            &["exec", "-T", "--privileged"],
            &["exec", "-T", "-u", "7"],
            &["run", "--rm", "-T"],
        ] {
            let mut args = args.to_vec();
            args.extend(["it", "sh", "-c", look]);
            seen += &project.ficelle(&args).ok().stdout;
        }
        assert_eq!(seen.matches("0000000000000000").count(), 10, "{lines}:\n{seen}");
    }
}

#[test]
fn cve_2022_36109_and_2023_25173_groups_are_those_of_the_account_with_its_own() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let project = machine.compose("cve202236109", "");
    let files = [
        Entry::File("etc/passwd", "root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n"),
        Entry::File("etc/group", "root:x:0:\nweb:x:34:\nadm:x:4:web,other\ntape:x:26:other\n"),
    ];
    image(&project, "accounts", &json!({}), &files);
    for (lines, groups) in [
        ("", "0"),
        ("    user: web\n", "34 4"),
        ("    user: 'web:tape'\n", "26"),
        ("    user: '77:88'\n", "88"),
        ("    user: web\n    group_add: [tape, '5']\n", "34 4 5 26"),
    ] {
        project.write(&one("cve202236109", lines).replace("busybox", "accounts"));
        project.ficelle(&["up", "-d"]).ok();
        let sorted = |text: &str| {
            let mut all: Vec<u32> = text.split_whitespace().map(|id| id.parse().unwrap()).collect();
            all.sort_unstable();
            all
        };
        let pid = project.container("it").main().pid;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let held = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
        assert_eq!(sorted(held), sorted(groups), "{lines}");
        assert_eq!(sorted(&exec(&project, "id -G")), sorted(groups), "exec: {lines}");
    }
}

#[test]
fn cve_2024_40635_and_2026_46680_no_user_becomes_root_by_its_number() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let project = machine.compose("cve202440635", "");
    let passwd = "root:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\nbig:x:4294967296:0::/:/bin/sh\nminus:x:-1:0::/:/bin/sh\n";
    for user in [
        "-1",
        "2147483648",
        "4294967295",
        "4294967296",
        "18446744073709551615",
        "0x0",
        " 0",
        "+5",
        "big",
        "minus",
        "0:-1",
    ] {
        image(&project, "evil", &json!({"User": user}), &[Entry::File("etc/passwd", passwd)]);
        project.write(&one("cve202440635", "").replace("busybox", "evil"));
        project.ficelle(&["up", "-d"]).fails();
        project.write(&one("cve202440635", &format!("    user: '{user}'\n")));
        project.ficelle(&["up", "-d"]).fails();
        project.ficelle(&["down", "-t", "0"]).ok();
    }
    image(&project, "evil", &json!({"User": "1000"}), &[Entry::File("etc/passwd", passwd)]);
    project.write(&one("cve202440635", "").replace("busybox", "evil"));
    project.ficelle(&["up", "-d"]).ok();
    assert_eq!(exec(&project, "id -u").trim(), "1000", "a number is that number, whoever is called so");
    let done = project.ficelle(&["exec", "-T", "-u", "4294967295", "it", "id"]).run();
    assert_ne!(done.code, Some(0), "{}", done.stdout);
}

#[test]
fn cve_2026_47262_account_files_are_read_within_bounds() {
    use ficelle::runtime::users::resolve;
    let root = tempfile::tempdir().unwrap();
    let etc = root.path().join("etc");
    let started = Instant::now();
    let attempt = |make: &dyn Fn(&Path)| {
        for file in ["passwd", "group"] {
            let _ = fs::remove_dir_all(&etc);
            fs::create_dir(&etc).unwrap();
            make(&etc.join(file));
            let _ = resolve(File::open(root.path()).unwrap().as_fd(), "web", &["adm".to_owned()]);
        }
    };
    attempt(&|path| File::create(path).unwrap().set_len(100 << 20).unwrap());
    attempt(&|path| fs::write(path, "adm:x:4:".to_owned() + &"member,".repeat(1_000_000)).unwrap());
    attempt(&|path| symlink("/dev/zero", path).unwrap());
    attempt(&|path| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    });
    attempt(&|path| fs::create_dir(path).unwrap());
    // Not the speed is held: a device or a pipe that is read ends never.
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[test]
fn cve_2023_25809_an_ordinary_users_container_cannot_write_to_control_groups() {
    let Some(machine) = Machine::of_user(&["busybox"]) else { return };
    let project = machine.compose("cve202325809", &one("cve202325809", ""));
    project.ficelle(&["up", "-d"]).ok();
    let tried = exec(
        &project,
        "find /sys/fs/cgroup -type d 2>/dev/null | while read d; do mkdir $d/mine 2>/dev/null && echo made $d; done; \
         find /sys/fs/cgroup -type f 2>/dev/null | while read f; do (echo 1 >$f) 2>/dev/null && echo wrote $f; done; echo tried",
    );
    assert_eq!(tried, "tried\n");
}

#[test]
fn cve_2018_15664_2021_41089_2026_41567_2026_41568_2026_42306_copying_follows_no_link_out() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let sentinel = Sentinel::new();
    let project = machine.compose("cve202141089", &one("cve202141089", ""));
    project.ficelle(&["create"]).ok();
    let turns = Turns::of(&project);
    let pid = turns.start().unwrap();
    let etc = sentinel.path().join("etc");
    exec(
        &project,
        &format!(
            "mkdir -p /work/dir /work/secret; echo inside >/work/dir/passwd; ln -s {} /work/link; ln -s / /work/up",
            etc.display()
        ),
    );
    let work = PathBuf::from(format!("/proc/{pid}/root/work"));
    fs::write(project.dir.join("planted"), "planted").unwrap();
    fs::create_dir(project.dir.join("tree")).unwrap();
    fs::write(project.dir.join("tree/passwd"), "planted").unwrap();
    for link in ["link", "up"] {
        swapping(&work.join("dir"), &work.join(link), || {
            for _ in 0..races(100) {
                // They may well fail: a directory that is a link by then is none to copy into.
                let (id, path) = turns.inside("/work/dir/passwd");
                turns.copy(Source::Host(project.dir.join("planted")), Target::Container { id, path });
                let (id, path) = turns.inside("/work/dir");
                turns.copy(Source::Host(project.dir.join("tree/.")), Target::Container { id, path });
                let back = project.dir.join("back");
                let _ = fs::remove_file(&back);
                let (id, path) = turns.inside("/work/dir/passwd");
                turns.copy(Source::Container { id, path }, Target::Host(back.clone()));
                let read = fs::read_to_string(&back).unwrap_or_default();
                assert!(!read.contains("host:x:0:0"), "{read}");
            }
        });
        sentinel.assert_untouched(link);
    }
    assert!(!Path::new("/planted").exists() && !Path::new("/passwd").exists());
}

#[test]
fn cve_2022_23648_2025_9566_2024_9341_a_volume_of_an_image_holds_files_of_the_image_alone() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let sentinel = Sentinel::new();
    let etc = sentinel.path().join("etc");
    let project = machine.compose("cve202223648", "");
    let up = format!("..{}", etc.display());
    for to in [etc.to_str().unwrap(), &up, "/proc/1/root/etc", "/proc/self/cwd"] {
        image(&project, "evil", &json!({"Volumes": {"/v": {}}}), &[Entry::Link("v", to)]);
        project.write(&one("cve202223648", "").replace("busybox", "evil"));
        if project.ficelle(&["up", "-d"]).run().code == Some(0) {
            let seen = exec(&project, "find /v/ -follow; cat /v/passwd /v/shadow");
            assert!(!seen.contains("host:x:0:0") && !seen.contains("deep"), "{to}: {seen}");
        }
        project.ficelle(&["down", "-v", "-t", "0"]).ok();
        sentinel.assert_untouched(to);
    }
}

#[test]
fn cve_2017_1002101_2021_25741_a_path_below_a_volume_leads_nowhere_else() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let sentinel = Sentinel::new();
    let lines = "    volumes: ['vol:/v', {type: volume, source: vol, target: /sub, volume: {subpath: d}}]\nvolumes: {vol: }\n";
    let project = machine
        .compose("cve20171002101", &one("cve20171002101", "    volumes: ['vol:/v']\nvolumes: {vol: }\n"));
    project.ficelle(&["up", "-d"]).ok();
    let volume = volume_of(&machine, "cve20171002101", "vol");
    fs::create_dir(volume.join("d")).unwrap();
    symlink(sentinel.path().join("etc"), volume.join("l")).unwrap();
    project.write(&one("cve20171002101", lines));
    project.ficelle(&["create", "--force-recreate"]).ok();
    let turns = Turns::of(&project);
    swapping(&volume.join("d"), &volume.join("l"), || {
        for _ in 0..races(20) {
            if turns.start().is_some() {
                let seen = turns.script("cat /sub/passwd; echo x >/sub/planted");
                assert!(!seen.contains("host:x:0:0"), "{seen}");
            }
            turns.stop();
        }
    });
    sentinel.assert_untouched("after paths below a volume");
}

#[test]
fn cve_2025_4953_2021_41091_2021_41103_2024_25621_nobody_else_can_look_into_our_state() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let binary = env!("CARGO_BIN_EXE_ficelle");
    for mask in ["000", "077"] {
        let name = format!("cve20254953x{mask}");
        let project = machine.compose(&name, &one(&name, "    volumes: [/v]\n"));
        let up = format!("umask {mask}; exec {binary} -p {name} up -d");
        let status = Command::new("sh")
            .args(["-c", &up])
            .current_dir(&project.dir)
            .env("FICELLE_ROOT", machine.root())
            .output();
        assert!(status.unwrap().status.success());
        for tree in ["run/p", "data/p", "data/volumes"] {
            let tree = machine.root().join(tree);
            let look = format!("find {} -mindepth 1 2>/dev/null; true", tree.display());
            let seen = Command::new("setpriv")
                .args(["--reuid", "54321", "--regid", "54321", "--clear-groups", "sh", "-c", &look])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&seen.stdout), "", "umask {mask}: {}", tree.display());
        }
        let mode = fs::metadata(machine.root().join("run")).unwrap().permissions().mode();
        assert_eq!(mode & 0o022, 0, "umask {mask}");
    }
}

#[test]
fn cve_2020_15257_no_socket_of_ours_is_reached_by_a_name_without_a_file() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let project = machine.compose("cve202015257", &one("cve202015257", "    network_mode: host\n"));
    project.ficelle(&["up", "-d"]).ok();
    let sockets = exec(&project, "grep ' @' /proc/net/unix");
    let held: Vec<String> = host::processes_below(&machine.root())
        .iter()
        .flat_map(|process| fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter().flatten().flatten())
        .filter_map(|entry| {
            Some(
                fs::read_link(entry.path())
                    .ok()?
                    .to_str()?
                    .strip_prefix("socket:[")?
                    .trim_end_matches(']')
                    .to_owned(),
            )
        })
        .collect();
    assert!(!held.is_empty(), "ours have sockets");
    for line in sockets.lines() {
        let inode = line.split_whitespace().nth(6).unwrap_or_default();
        assert!(!held.iter().any(|own| own == inode), "{line}");
    }
}

#[test]
fn cve_2024_32473_a_network_without_ipv6_gives_none() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let project = machine.compose("cve202432473", &one("cve202432473", ""));
    project.ficelle(&["up", "-d"]).ok();
    assert_eq!(exec(&project, "ip -6 -o address show dev eth0; ip -6 route show dev eth0"), "");
    assert_eq!(exec(&project, "cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6"), "1\n");
}

#[test]
fn cve_2025_54388_and_2025_54410_the_hosts_firewall_holds_for_published_ports() {
    let Some(machine) = Machine::in_own_network(&["busybox"]) else { return };
    let project = machine.compose(
        "cve202554388",
        "services:
  it:
    image: busybox
    init: true
    command: [sh, -c, 'mkdir /www; echo page >/www/index.html; exec httpd -f -h /www']
    ports: ['127.0.0.1:18581:80', '18582:80']
  outsider: {image: busybox, init: true, command: [sleep, '1000'], networks: [other]}
networks: {other: }
",
    );
    let run = |program: &str, args: &str| {
        machine.network().command(program).args(args.split(' ')).output().unwrap()
    };
    // An address of the host besides loopback.
    for args in [
        "link add outer type veth peer name inner",
        "address add 10.98.0.1/24 dev outer",
        "link set outer up",
    ] {
        assert!(run("ip", args).status.success());
    }
    project.ficelle(&["up", "-d"]).ok();
    let page = |url: &str| {
        let done = run(
            "curl",
            &format!("--silent --max-time 5 --retry 20 --retry-connrefused --retry-delay 1 http://{url}/"),
        );
        String::from_utf8(done.stdout).unwrap()
    };
    assert_eq!(page("127.0.0.1:18581"), "page\n");
    assert_eq!(page("10.98.0.1:18582"), "page\n");
    assert!(
        !run("curl", "--silent --max-time 2 http://10.98.0.1:18581/").status.success(),
        "bound to loopback"
    );
    let outside = |url: &str| {
        let fetch = format!("timeout 3 wget -qO- http://{url}/ || echo none");
        project.ficelle(&["exec", "-T", "outsider", "sh", "-c", &fetch]).ok().stdout
    };
    assert_eq!(outside("10.98.0.1:18582"), "page\n");
    let rules = "add table inet t; add chain inet t in { type filter hook input priority 0; policy drop; }; \
                 add rule inet t in iif lo accept; add rule inet t in ct state established accept";
    assert!(machine.network().command("nft").arg(rules).status().unwrap().success());
    assert_eq!(outside("10.98.0.1:18582"), "none\n", "what the host's rules refuse");
    assert_eq!(page("127.0.0.1:18582"), "page\n", "what they allow");
}

#[test]
fn cve_2026_53488_labels_of_an_image_are_text_and_never_ours() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let sentinel = Sentinel::new();
    let project = machine.compose("cve202653488", "");
    let command = format!("touch {}/pwned", sentinel.path().display());
    let labels = json!({
        "com.docker.compose.project": "other", "com.docker.compose.service": "other", "com.docker.compose.oneoff": "True",
        "com.docker.compose.config-hash": "0", "RUN": command, "run": command, "INSTALL": command,
        "ficelle.command": command, "ficelle.hooks": command, "io.containers.autoupdate": "registry",
    });
    image(&project, "evil", &json!({"Labels": labels}), &[Entry::Dir("empty")]);
    project.write(&one("cve202653488", "").replace("busybox", "evil"));
    project.ficelle(&["up", "-d"]).ok();
    let container = project.container("it");
    assert_eq!(container.name, "cve202653488-it-1");
    assert!(project.ficelle(&["up", "-d"]).ok().stderr.contains("Running"), "its own hash counts");
    project.ficelle(&["down", "-t", "0"]).ok();
    assert_eq!(project.containers(), []);
    sentinel.assert_untouched("after labels");
}

#[test]
fn cve_2022_23471_2022_31030_2025_64329_2024_3056_programs_and_listeners_leave_nothing_open() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let project = machine.compose("cve202223471", &one("cve202223471", ""));
    project.ficelle(&["up", "-d"]).ok();
    let turns = Turns::of(&project);
    let held = || -> BTreeMap<i32, usize> {
        let count = |pid: i32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        host::processes_below(&machine.root())
            .iter()
            .map(|process| (process.pid, count(process.pid)))
            .collect()
    };
    let turn = || {
        assert_eq!(turns.script("head -c 200000 /dev/zero | tr '\\0' x").len(), 200_000);
        turns.program(&["nothing-here"]);
        let mut listener = project.ficelle(&["attach", "--no-stdin", "it"]).start();
        listener.kill();
    };
    turn();
    let before = crate::scenarios::stack::eventually(|| {
        let (one, two) = (held(), held());
        if one == two { Ok::<_, ()>(one) } else { Err(()) }
    })
    .unwrap();
    for _ in 0..races(20) {
        turn();
    }
    let after = crate::scenarios::stack::eventually(|| {
        let now = held();
        if now == before { Ok(now) } else { Err(now) }
    });
    assert_eq!(after, Ok(before), "descriptors of each process");
}

/// The other rows: which test holds them, or why they cannot apply.
const ELSEWHERE: &[(&str, &str)] = &[
    ("CVE-2024-29018: an internal network asks nobody outside", "an_internal_network_leaks_no_question"),
    ("RUSTSEC-2026-0118, 0119: DNS exhaustion", "a_flood_of_questions_does_not_stop_the_answers"),
    ("CVE-2024-24557: a poisoned cache of a builder", "bases_that_only_look_alike_share_no_steps"),
    (
        "CVE-2024-23652: clean-up of a mount point",
        "a_step_cannot_have_files_of_the_host_removed_by_moving_its_mount_point",
    ),
    ("CVE-2024-23653: privileges from a Dockerfile", "an_insecure_step_must_be_allowed"),
    ("CVE-2021-3602: the environment of the builder", "a_step_sees_its_own_environment_only"),
    ("CVE-2024-1753, 2024-9407, 2024-9675, 2022-4123: links of a build", "links_lead_nowhere_outside"),
    (
        "CVE-2025-62725: names of a published project",
        "names_that_lead_out_of_a_published_project_are_refused_and_nothing_is_written",
    ),
    (
        "CVE-2020-15157, 2024-3727: credentials for another host",
        "a_redirected_transfer_takes_no_credentials_along",
    ),
    ("CVE-2021-41092: a challenge of another host", "a_challenge_of_the_host_we_were_sent_to_gets_nothing"),
    ("CVE-2023-25153: endless documents", "an_endless_manifest_is_not_read"),
    ("CVE-2021-29136, 2021-32760, 2025-47290: layers that lead out", "no_layer_touches_anything_outside"),
    ("CVE-2024-10846: recursive aliases", "every_hostile_project_is_answered_with_its_mistake_and_its_place"),
    ("CVE-2023-26054 and secrets: what a step is given", "a_secret_is_seen_by_its_step_and_by_nothing_else"),
    ("CVE-2026-47262, the sizes themselves", "a_huge_file_is_refused_and_not_read_whole"),
];

// Not told by a test: CVE-2021-43784 (lengths of netlink attributes that overflow 16 bits: no process of ours hands
// a container's description over netlink; it goes as JSON), CVE-2026-33747 (a front end that a Dockerfile names: none
// is ever run), CVE-2025-15558 (a search path for plug-ins: there are none).

#[test]
fn every_attack_that_is_held_elsewhere_is_held_by_a_test_that_is_there() {
    let mut sources = String::new();
    let mut open = vec![
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"),
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
    ];
    while let Some(dir) = open.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            match path.extension() {
                _ if path.is_dir() => open.push(path),
                Some(extension) if extension == "rs" => sources += &fs::read_to_string(path).unwrap(),
                _ => {}
            }
        }
    }
    for (attack, test) in ELSEWHERE {
        assert!(sources.contains(&format!("fn {test}()")), "{attack}: no test `{test}`");
    }
}
