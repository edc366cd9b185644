//! What the OCI runtime specification asks of a runtime, through `ficelle oci` as other tools call it:
//! bundles with their own documents, and what a program inside sees. The cases are those of the
//! suites that runtimes share (OCI runtime-tools, youki's contest), told in our own words.

mod contest;
mod hooks;
mod lifecycle;
mod limits;
mod memory;
mod mounts;
mod namespaces;
mod process;
mod root;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};

/// A bundle in a directory of its own, and the state of its containers beside it.
struct Bundle {
    dir: tempfile::TempDir,
    document: Value,
    id: String,
}

#[derive(Debug)]
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

const PROGRAMS: [&str; 27] = [
    "sh", "sleep", "cat", "echo", "id", "ls", "true", "kill", "head", "grep", "tty", "touch", "test", "stat",
    "hostname", "readlink", "mount", "dd", "df", "mkdir", "ps", "env", "cut", "awk", "chown", "mknod",
    "umount",
];

/// `None` (said aloud) where no container can be run.
fn bundle() -> Option<Bundle> {
    let busybox = Path::new("/bin/busybox");
    if !rustix::process::geteuid().is_root() || !busybox.exists() {
        eprintln!("SKIPPED: needs root and /bin/busybox (apt-get install busybox-static)");
        return None;
    }
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("bundle/rootfs");
    for path in ["bin", "etc", "tmp", "proc", "sys", "dev", "mnt"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for name in PROGRAMS {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    let id = format!("oci-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let mounts = [
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
               "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
               "options": ["nosuid", "noexec", "nodev", "ro"]}),
    ];
    let namespaces = ["pid", "ipc", "uts", "mount", "network"].map(|kind| json!({"type": kind}));
    let document = json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "hostname": "inside",
        "mounts": mounts,
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
                "inheritable": [], "ambient": [],
            },
        },
        "linux": {
            "cgroupsPath": format!("/ficelle-{id}/own"),
            "namespaces": namespaces,
            "resources": {},
        },
    });
    Some(Bundle { dir, document, id })
}

/// Of all capabilities, in the order of their numbers.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const CAPABILITIES: [&str; 5] = ["CAP_CHOWN", "CAP_KILL", "CAP_MKNOD", "CAP_SYS_CHROOT", "CAP_DAC_OVERRIDE"];

impl Bundle {
    fn path(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Sets the value at a path such as `/process/cwd`, whose parents are made.
    fn set(&mut self, path: &str, value: Value) -> &mut Self {
        let mut at = &mut self.document;
        for part in path.trim_start_matches('/').split('/') {
            at = &mut at[part];
        }
        *at = value;
        self
    }

    fn mount(&mut self, mount: Value) -> &mut Self {
        self.document["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    fn script(&mut self, script: &str) -> &mut Self {
        self.set("/process/args", json!(["sh", "-c", script]))
    }

    fn write(&self) {
        fs::write(self.path().join("config.json"), self.document.to_string()).unwrap();
    }

    /// `ficelle oci` with the state of this bundle; `ID` and `BUNDLE` in the words are its own.
    fn oci(&self, words: &str) -> Said {
        self.words(&words.split(' ').collect::<Vec<_>>())
    }

    fn words(&self, words: &[&str]) -> Said {
        let out = self.dir.path().join(format!("out-{:?}", std::thread::current().id()));
        let [stdout, stderr] = ["1", "2"].map(|end| out.with_extension(end));
        // Files, not pipes: a container that is left running would keep a pipe open.
        let status = Command::new(env!("CARGO_BIN_EXE_ficelle"))
            .args(["oci", "--root"])
            .arg(self.state())
            .args(words.iter().map(|word| match *word {
                "ID" => self.id.clone(),
                "BUNDLE" => self.path().display().to_string(),
                word => word.to_owned(),
            }))
            .stdin(Stdio::null())
            .stdout(fs::File::create(&stdout).unwrap())
            .stderr(fs::File::create(&stderr).unwrap())
            .status()
            .unwrap();
        let [stdout, stderr] = [stdout, stderr].map(|path| fs::read_to_string(path).unwrap());
        Said { code: status.code(), stdout, stderr }
    }

    fn run(&self) -> Said {
        self.write();
        self.oci("run --bundle BUNDLE ID")
    }

    fn ok(&self, words: &str) -> Said {
        let said = self.oci(words);
        assert_eq!(said.code, Some(0), "{words}: {said:?}");
        said
    }

    fn fails(&self, words: &str) -> String {
        let said = self.oci(words);
        assert_eq!(said.code, Some(1), "{words}: {said:?}");
        assert!(said.stderr.starts_with("ficelle oci: "), "{said:?}");
        said.stderr
    }

    fn status(&self) -> String {
        let state: Value = serde_json::from_str(&self.ok("state ID").stdout).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }

    fn pid(&self) -> i32 {
        let state: Value = serde_json::from_str(&self.ok("state ID").stdout).unwrap();
        i32::try_from(state["pid"].as_i64().unwrap()).unwrap()
    }

    /// A container with this program that was started.
    fn running(&mut self, script: &str) -> &Self {
        self.script(script).write();
        self.ok("create --bundle BUNDLE ID");
        self.ok("start ID");
        self
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.oci("delete --force ID");
        // The groups above its own are whose path it is: a runtime leaves them.
        let above = format!("ficelle-{}", self.id);
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(&above));
        }
    }
}

/// A change of the document, a script, and what it prints.
type Case = (&'static str, fn(&mut Bundle), &'static str, &'static str);

/// Runs each case; tells all that went otherwise at once.
fn hold(cases: &[Case]) {
    let mut wrong = Vec::new();
    for (name, change, script, prints) in cases {
        let Some(mut bundle) = bundle() else { return };
        bundle.script(script);
        change(&mut bundle);
        let said = bundle.run();
        if said.code != Some(0) || said.stdout.trim_end() != *prints {
            wrong.push(format!("{name}: expected {prints:?}, {said:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// A change of the document, and words of the refusal.
type Refusal = (&'static str, fn(&mut Bundle), &'static str);

/// Each of these documents must be refused, with these words, and leave nothing.
fn refused(cases: &[Refusal]) {
    let mut wrong = Vec::new();
    for (name, change, says) in cases {
        let Some(mut bundle) = bundle() else { return };
        change(&mut bundle);
        bundle.write();
        let said = bundle.oci("create --bundle BUNDLE ID");
        if said.code != Some(1) || !said.stderr.to_lowercase().contains(&says.to_lowercase()) {
            wrong.push(format!("{name}: expected an error with {says:?}, {said:?}"));
        } else if bundle.oci("state ID").code != Some(1) {
            wrong.push(format!("{name}: a container is left"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
