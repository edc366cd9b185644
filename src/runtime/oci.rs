//! `ContainerConfig` to the OCI runtime document that the launcher reads. Pure: all that had to be
//! looked up comes in as [`Resolved`].
//!
//! The document asks for more than the container gets: the launcher's executor loads the seccomp
//! filter itself and drops what was only needed for that (see `launcher`).

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{ContainerConfig, Error, MountKind, Result, rootless, users::User};
use crate::model::Limits;

/// What the worker found out.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub rootfs: PathBuf,
    pub user: User,
    /// Where the source of each mount of the configuration stands now, in its order; `None` for tmpfs.
    pub sources: Vec<Option<PathBuf>>,
    /// Our own resolv.conf, hosts and hostname, by target.
    pub files: Vec<(&'static str, PathBuf)>,
    /// To join; `None` stays in the host's.
    pub network: Option<PathBuf>,
    pub devices: Vec<DeviceNode>,
    /// `None`: it gets none of its own, and no limits.
    pub cgroup: Option<String>,
    pub hostname: String,
}

/// A device node to make in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    pub path: PathBuf,
    pub block: bool,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Of `r`, `w`, `m`.
    pub access: String,
}

/// What loading the filter and giving up capabilities takes; dropped before the program runs.
const FOR_THE_EXECUTOR: [&str; 2] = ["CAP_SYS_ADMIN", "CAP_SETPCAP"];

const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The whole document.
pub fn document(config: &ContainerConfig, resolved: &Resolved) -> Result<Value> {
    let mut namespaces = vec![
        json!({"type": "pid"}),
        json!({"type": "ipc"}),
        json!({"type": "uts"}),
        json!({"type": "mount"}),
        json!({"type": "cgroup"}),
    ];
    if let Some(path) = &resolved.network {
        namespaces.push(json!({"type": "network", "path": path}));
    }
    let mask = config.mask_paths && !config.privileged;
    let mut linux = json!({
        "cgroupsPath": resolved.cgroup.as_deref().unwrap_or("/none"),
        "namespaces": namespaces,
        "resources": match resolved.cgroup {
            Some(_) => resources(&config.limits, config.privileged, &resolved.devices)?,
            None => json!({}),
        },
        "devices": resolved.devices.iter().map(device).collect::<Vec<_>>(),
        "maskedPaths": if mask { MASKED.to_vec() } else { Vec::new() },
        "readonlyPaths": if mask { READ_ONLY.to_vec() } else { Vec::new() },
    });
    if !config.sysctls.is_empty() {
        linux["sysctl"] = json!(config.sysctls);
    }
    let mut document = json!({
        "ociVersion": "1.0.2",
        "root": {"path": resolved.rootfs, "readonly": config.read_only},
        "hostname": resolved.hostname,
        "mounts": mounts(config, resolved),
        "process": process(config, &resolved.user),
        "linux": linux,
    });
    if let Some(name) = &config.domainname {
        document["domainname"] = json!(name);
    }
    Ok(document)
}

fn process(config: &ContainerConfig, user: &User) -> Value {
    let mut capabilities: Vec<&str> = config.capabilities.iter().map(String::as_str).collect();
    capabilities
        .extend(FOR_THE_EXECUTOR.iter().filter(|name| !config.capabilities.iter().any(|c| c == *name)));
    json!({
        "terminal": config.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
        "args": config.args,
        "env": config.env,
        "cwd": config.cwd,
        // No `noNewPrivileges`: even a false one makes the launcher take another path.
        "capabilities": {
            "bounding": capabilities,
            "effective": capabilities,
            "permitted": capabilities,
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": config.rlimits.iter()
            .map(|limit| json!({"type": limit.kind, "soft": limit.soft, "hard": limit.hard}))
            .collect::<Vec<_>>(),
    })
}

fn mounts(config: &ContainerConfig, resolved: &Resolved) -> Vec<Value> {
    let sys = if config.privileged { "rw" } else { "ro" };
    let shm = format!("size={}", config.shm_size);
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        match resolved.network {
            None if rootless::is_confined() => mount("/sys", "bind", "/sys", &["rbind", "rslave", "rro"]),
            _ => mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys]),
        },
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", sys]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
    ];
    for (target, source) in &resolved.files {
        mounts.push(mount(target, "bind", &source.to_string_lossy(), &["bind", "rprivate"]));
    }
    let mut own: Vec<Value> = config
        .mounts
        .iter()
        .zip(&resolved.sources)
        .map(|(wanted, source)| match (&wanted.kind, source) {
            (MountKind::Tmpfs { size, mode, options }, _) => {
                tmpfs(&wanted.target, *size, *mode, options, wanted.read_only)
            }
            (kind, source) => {
                let propagation = match kind {
                    MountKind::Bind { propagation: Some(propagation), .. } => propagation.as_str(),
                    _ => "rprivate",
                };
                let access = if wanted.read_only { "rro" } else { "rw" };
                let source = source.as_deref().unwrap_or_else(|| "".as_ref()).to_string_lossy();
                mount(&wanted.target, "bind", &source, &["rbind", propagation, access])
            }
        })
        .collect();
    // What is mounted at the same place later wins; a directory comes before what lies in it.
    let depth = |mount: &Value| mount["destination"].as_str().unwrap_or_default().matches('/').count();
    own.sort_by_key(depth);
    let taken = |target: &Value| own.iter().any(|mount| &mount["destination"] == target);
    mounts.retain(|mount| !taken(&mount["destination"]));
    mounts.extend(own);
    mounts
}

fn tmpfs(target: &str, size: Option<u64>, mode: Option<u32>, options: &[String], read_only: bool) -> Value {
    let mut all = vec!["nosuid".to_owned(), "nodev".to_owned(), "noexec".to_owned()];
    all.extend(size.map(|size| format!("size={size}")));
    all.push(format!("mode={:o}", mode.unwrap_or(0o1777)));
    for option in options {
        // `exec` takes back `noexec`, and so on.
        all.retain(|default| default != &format!("no{option}"));
        all.push(option.clone());
    }
    if read_only {
        all.push("ro".to_owned());
    }
    json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": all})
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": target, "type": kind, "source": source, "options": options})
}

fn device(node: &DeviceNode) -> Value {
    json!({
        "path": node.path,
        "type": if node.block { "b" } else { "c" },
        "major": node.major,
        "minor": node.minor,
        "fileMode": node.mode,
        "uid": node.uid,
        "gid": node.gid,
    })
}

fn resources(limits: &Limits, privileged: bool, devices: &[DeviceNode]) -> Result<Value> {
    let Limits { memory, memory_swap, memory_reservation, nano_cpus, cpu_shares, cpuset, pids } = limits;
    let mut rules = vec![json!({"allow": privileged, "access": "rwm"})];
    if !privileged {
        rules.extend(devices.iter().map(|node| {
            json!({
                "allow": true,
                "type": if node.block { "b" } else { "c" },
                "major": node.major,
                "minor": node.minor,
                "access": node.access,
            })
        }));
    }
    let mut resources = json!({"devices": rules});
    let mut set = |group: &str, key: &str, value: Value| resources[group][key] = value;
    if let Some(limit) = memory {
        set("memory", "limit", json!(limit));
        // Docker's default: as much swap again.
        set("memory", "swap", json!(memory_swap.unwrap_or(limit.saturating_mul(2))));
    }
    if let Some(reservation) = memory_reservation {
        set("memory", "reservation", json!(reservation));
    }
    if let Some(nano) = nano_cpus {
        const PERIOD: i64 = 100_000;
        if *nano <= 0 {
            return Err(Error::Invalid("the CPU limit must be more than 0".to_owned()));
        }
        // The kernel takes no quota below 1 ms.
        set("cpu", "quota", json!((nano / (1_000_000_000 / PERIOD)).max(1000)));
        set("cpu", "period", json!(PERIOD));
    }
    if let Some(shares) = cpu_shares {
        set("cpu", "shares", json!(shares));
    }
    if let Some(cpus) = cpuset {
        set("cpu", "cpus", json!(cpus));
    }
    if let Some(limit) = pids.filter(|limit| *limit > 0) {
        set("pids", "limit", json!(limit));
    }
    Ok(resources)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::{
        super::{MountConfig, NetworkNamespace, RestartConfig, Rlimit, Rootfs, Upper},
        *,
    };

    pub(crate) fn config() -> ContainerConfig {
        ContainerConfig {
            id: "0".repeat(64),
            group: "g".into(),
            name: "g-web-1".into(),
            annotations: indexmap::IndexMap::new(),
            rootfs: Rootfs { layers: Vec::new(), upper: Upper::Own },
            args: vec!["sh".into()],
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
            capabilities: vec!["CAP_CHOWN".into(), "CAP_SETPCAP".into()],
            no_new_privileges: false,
            seccomp: true,
            mask_paths: true,
            sysctls: indexmap::IndexMap::new(),
            rlimits: Vec::new(),
            limits: Limits::default(),
            shm_size: 64 << 20,
            log: crate::runtime::LogConfig::default(),
            once: None,
            replaces: None,
        }
    }

    fn resolved(sources: Vec<Option<PathBuf>>) -> Resolved {
        Resolved {
            rootfs: "/r".into(),
            user: User { uid: 5, gid: 6, groups: vec![7], home: "/".into() },
            sources,
            files: vec![("/etc/hosts", "/run/hosts".into())],
            network: Some("/proc/self/fd/9".into()),
            devices: Vec::new(),
            cgroup: Some("/ficelle/g/0".into()),
            hostname: "h".into(),
        }
    }

    fn destinations(document: &Value) -> Vec<&str> {
        document["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect()
    }

    fn bind(target: &str) -> MountConfig {
        MountConfig {
            target: target.into(),
            read_only: true,
            kind: MountKind::Bind { path: "/x".into(), create: false, propagation: None },
        }
    }

    #[test]
    fn the_document_is_one_that_the_launcher_understands() {
        let mut config = config();
        config.rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 10, hard: 20 }];
        config.limits = Limits {
            memory: Some(64 << 20),
            nano_cpus: Some(500_000_000),
            pids: Some(50),
            cpuset: Some("0".into()),
            ..Limits::default()
        };
        config.sysctls.insert("net.core.somaxconn".into(), "100".into());
        let document = document(&config, &resolved(Vec::new())).unwrap();
        let spec: oci_spec::runtime::Spec = serde_json::from_value(document.clone()).unwrap();
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.no_new_privileges(), None, "its mere presence changes what the launcher does");
        assert_eq!(process.user().uid(), 5);
        assert_eq!(document["linux"]["resources"]["cpu"]["quota"], 50_000);
        assert_eq!(document["linux"]["resources"]["memory"]["swap"], 128 << 20);
        assert!(spec.linux().as_ref().unwrap().seccomp().is_none());
    }

    #[test]
    fn the_executor_gets_what_it_needs_once() {
        let process = process(&config(), &resolved(Vec::new()).user);
        assert_eq!(process["capabilities"]["bounding"], json!(["CAP_CHOWN", "CAP_SETPCAP", "CAP_SYS_ADMIN"]));
        assert_eq!(process["capabilities"]["inheritable"], json!([]));
        assert_eq!(process["capabilities"]["ambient"], json!([]));
    }

    #[test]
    fn a_mount_of_the_user_takes_the_place_of_ours_and_deeper_ones_come_later() {
        let mut config = config();
        config.mounts = vec![bind("/a/b"), bind("/etc/hosts"), bind("/a"), bind("/dev/shm")];
        let sources = vec![Some("/s".into()); 4];
        let document = document(&config, &resolved(sources)).unwrap();
        let targets = destinations(&document);
        assert_eq!(targets.iter().filter(|t| **t == "/etc/hosts").count(), 1);
        assert_eq!(targets.iter().filter(|t| **t == "/dev/shm").count(), 1);
        let at = |target| targets.iter().position(|t| *t == target).unwrap();
        assert!(at("/a") < at("/a/b"));
        assert_eq!(
            document["mounts"].as_array().unwrap().last().unwrap()["options"],
            json!(["rbind", "rprivate", "rro"])
        );
    }

    #[test]
    fn a_tmpfs_is_harmless_unless_it_is_asked_to_be_otherwise() {
        let plain = tmpfs("/t", Some(1024), None, &[], false);
        assert_eq!(plain["options"], json!(["nosuid", "nodev", "noexec", "size=1024", "mode=1777"]));
        let asked = tmpfs("/t", None, Some(0o700), &["exec".into(), "uid=5".into()], true);
        assert_eq!(asked["options"], json!(["nosuid", "nodev", "mode=700", "exec", "uid=5", "ro"]));
    }

    #[test]
    fn devices_are_denied_unless_named() {
        let node = DeviceNode {
            path: "/dev/fuse".into(),
            block: false,
            major: 10,
            minor: 229,
            mode: 0o660,
            uid: 0,
            gid: 0,
            access: "rw".into(),
        };
        let rules =
            resources(&Limits::default(), false, std::slice::from_ref(&node)).unwrap()["devices"].clone();
        assert_eq!(rules[0], json!({"allow": false, "access": "rwm"}));
        assert_eq!(rules[1]["access"], "rw");
        let all = resources(&Limits::default(), true, &[node]).unwrap()["devices"].clone();
        assert_eq!(all, json!([{"allow": true, "access": "rwm"}]));
    }
}
