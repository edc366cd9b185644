//! `ContainerConfig` to the OCI runtime document that the launcher reads. Pure: all that had to be
//! looked up comes in as [`Resolved`].
//!
//! The document asks for more than the container gets: the launcher's executor loads the seccomp
//! filter itself and drops what was only needed for that (see `launcher`).

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Value, json};

use super::{
    ContainerConfig, Error, IpcNamespace, MountConfig, MountKind, PidNamespace, Result, rootless, users::User,
};
use crate::model::{Blkio, DeviceRule, Limits};

/// What the worker found out.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub rootfs: PathBuf,
    pub user: User,
    /// Where the source of each mount of the configuration stands now, in its order; `None` for tmpfs.
    pub sources: Vec<Option<PathBuf>>,
    /// Of our own resolv.conf, hosts and hostname, by target, those that are not mounted yet.
    pub files: Vec<(&'static str, PathBuf)>,
    /// Where the content of each secret and config stands now, in the order of the configuration.
    pub contents: Vec<PathBuf>,
    /// To join; `None` stays in the host's.
    pub network: Option<PathBuf>,
    /// To join, as the configuration says.
    pub ipc: Option<PathBuf>,
    pub pid: Option<PathBuf>,
    /// The /dev/shm of whom the memory is shared with.
    pub shared_memory: Option<PathBuf>,
    pub devices: Vec<DeviceNode>,
    /// Numbers of the block devices that limits name, by path.
    pub disks: BTreeMap<String, (u32, u32)>,
    /// Of devices that bring their own, as the document has them.
    pub hooks: Value,
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

/// What loading the filter, giving up capabilities and mending /dev takes; dropped before the program runs.
const FOR_THE_EXECUTOR: [&str; 3] = ["CAP_SYS_ADMIN", "CAP_SETPCAP", "CAP_FOWNER"];

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

/// The whole document, but for what every container has mounted before ([`super::fixtures`]).
pub fn document(config: &ContainerConfig, resolved: &Resolved) -> Result<Value> {
    let mask = config.mask_paths && !config.privileged;
    let mut linux = json!({
        "cgroupsPath": resolved.cgroup.as_deref().unwrap_or("/none"),
        "namespaces": namespaces(config, resolved),
        "resources": match resolved.cgroup {
            Some(_) => resources(config, resolved)?,
            None => json!({}),
        },
        "devices": resolved.devices.iter().map(device).collect::<Vec<_>>(),
        "maskedPaths": if mask { MASKED.to_vec() } else { Vec::new() },
        "readonlyPaths": if mask { READ_ONLY.to_vec() } else { Vec::new() },
    });
    let passes_out = |mount: &MountConfig| matches!(&mount.kind, MountKind::Bind { propagation: Some(asked), .. } if asked.ends_with("shared"));
    if config.mounts.iter().any(passes_out) {
        // Else what is shared with the host would only hear of it.
        linux["rootfsPropagation"] = json!("shared");
    }
    if !config.sysctls.is_empty() {
        linux["sysctl"] = json!(config.sysctls);
    }
    let mut document = json!({
        "ociVersion": "1.0.2",
        "root": {"path": resolved.rootfs, "readonly": config.read_only},
        "mounts": mounts(config, resolved),
        "process": process(config, &resolved.user),
        "linux": linux,
    });
    // In the host's namespace this would name the host.
    if !config.host_uts {
        document["hostname"] = json!(resolved.hostname);
        if let Some(name) = &config.domainname {
            document["domainname"] = json!(name);
        }
    }
    if resolved.hooks.as_object().is_some_and(|hooks| !hooks.is_empty()) {
        document["hooks"] = resolved.hooks.clone();
    }
    Ok(document)
}

/// What it has of its own, and what it joins; the host's are those that are not named.
fn namespaces(config: &ContainerConfig, resolved: &Resolved) -> Vec<Value> {
    let own = |kind: &str| json!({"type": kind});
    let join =
        |kind: &str, path: &Option<PathBuf>| path.as_ref().map(|path| json!({"type": kind, "path": path}));
    let pid = match config.pid {
        PidNamespace::Own => Some(own("pid")),
        PidNamespace::Host => None,
        PidNamespace::Container(_) => join("pid", &resolved.pid),
    };
    let ipc = match config.ipc {
        IpcNamespace::Private | IpcNamespace::Shareable | IpcNamespace::None => Some(own("ipc")),
        IpcNamespace::Host => None,
        IpcNamespace::Container(_) => join("ipc", &resolved.ipc),
    };
    let uts = (!config.host_uts).then(|| own("uts"));
    let cgroup = (!config.host_cgroup).then(|| own("cgroup"));
    let all = [pid, ipc, uts, Some(own("mount")), cgroup, join("network", &resolved.network)];
    all.into_iter().flatten().collect()
}

fn process(config: &ContainerConfig, user: &User) -> Value {
    let mut process = program(config, user);
    if let Some(score) = config.oom_score_adj {
        process["oomScoreAdj"] = json!(score);
    }
    if let Some(profile) = &config.apparmor {
        process["apparmorProfile"] = json!(profile);
    }
    process
}

fn program(config: &ContainerConfig, user: &User) -> Value {
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
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        match resolved.network {
            None if rootless::is_confined() => mount("/sys", "bind", "/sys", &["rbind", "rslave", "rro"]),
            _ => mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys]),
        },
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", sys]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    if let Some(shared) = &resolved.shared_memory {
        mounts.push(mount("/dev/shm", "bind", &shared.to_string_lossy(), &["rbind", "rprivate", "rw"]));
    }
    let access = if config.read_only { "ro" } else { "rw" };
    for (target, source) in &resolved.files {
        mounts.push(mount(target, "bind", &source.to_string_lossy(), &["bind", "rprivate", access]));
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
                let (propagation, bind) = match kind {
                    MountKind::Bind { propagation, recursive, .. } => (
                        propagation.as_deref().unwrap_or("rprivate"),
                        if *recursive { "rbind" } else { "bind" },
                    ),
                    _ => ("rprivate", "rbind"),
                };
                let read_only = wanted.read_only || matches!(kind, MountKind::Layers { .. });
                let access = if read_only { "rro" } else { "rw" };
                let source = source.as_deref().unwrap_or_else(|| "".as_ref()).to_string_lossy();
                mount(&wanted.target, "bind", &source, &[bind, propagation, access])
            }
        })
        .collect();
    own.extend(config.files.iter().zip(&resolved.contents).map(|(file, source)| {
        let options = ["bind", "rprivate", "ro", "nosuid", "nodev", "noexec"];
        mount(&file.target, "bind", &source.to_string_lossy(), &options)
    }));
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

fn resources(config: &ContainerConfig, resolved: &Resolved) -> Result<Value> {
    let Limits {
        memory,
        memory_swap,
        memory_reservation,
        nano_cpus,
        cpu_shares,
        cpuset,
        pids,
        cpu_period,
        cpu_quota,
        cpu_rt_period,
        cpu_rt_runtime,
        memory_swappiness,
        oom_kill_disable,
        blkio,
    } = &config.limits;
    let rules = device_rules(config.privileged, &resolved.devices, &config.device_rules);
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
    for (key, value) in [("period", cpu_period), ("realtimePeriod", cpu_rt_period)] {
        if let Some(value) = value {
            set("cpu", key, json!(value));
        }
    }
    for (key, value) in [("quota", cpu_quota), ("realtimeRuntime", cpu_rt_runtime)] {
        if let Some(value) = value {
            set("cpu", key, json!(value));
        }
    }
    if let Some(value) = memory_swappiness {
        set("memory", "swappiness", json!(value));
    }
    if *oom_kill_disable {
        set("memory", "disableOOMKiller", json!(true));
    }
    if *blkio != Blkio::default() {
        resources["blockIO"] = block_io(blkio, &resolved.disks)?;
    }
    Ok(resources)
}

/// Everything is denied but what is allowed: the container's own devices, then what its rules say.
fn device_rules(privileged: bool, devices: &[DeviceNode], rules: &[DeviceRule]) -> Vec<Value> {
    let mut all = vec![json!({"allow": privileged, "access": "rwm"})];
    if privileged {
        return all;
    }
    all.extend(devices.iter().map(|node| {
        json!({
            "allow": true,
            "type": if node.block { "b" } else { "c" },
            "major": node.major,
            "minor": node.minor,
            "access": node.access,
        })
    }));
    all.extend(rules.iter().map(|rule| {
        let mut json = json!({"allow": true, "type": rule.kind.to_string(), "access": rule.permissions});
        // A number that is not named is every number.
        for (key, number) in [("major", rule.major), ("minor", rule.minor)] {
            if let Some(number) = number {
                json[key] = json!(number);
            }
        }
        json
    }));
    all
}

fn block_io(blkio: &Blkio, disks: &BTreeMap<String, (u32, u32)>) -> Result<Value> {
    let Blkio { weight, weight_device, read_bps, write_bps, read_iops, write_iops } = blkio;
    let device = |path: &String, key: &str, value: Value| {
        let (major, minor) = disks
            .get(path)
            .ok_or_else(|| Error::Invalid(format!("`{path}` is not a block device of this machine")))?;
        Ok(json!({"major": major, "minor": minor, key: value}))
    };
    let rates = |list: &[(String, u64)]| -> Result<Vec<Value>> {
        list.iter().map(|(path, rate)| device(path, "rate", json!(rate))).collect()
    };
    let weights: Result<Vec<Value>> =
        weight_device.iter().map(|(path, weight)| device(path, "weight", json!(weight))).collect();
    let mut json = json!({
        "weightDevice": weights?,
        "throttleReadBpsDevice": rates(read_bps)?,
        "throttleWriteBpsDevice": rates(write_bps)?,
        "throttleReadIOPSDevice": rates(read_iops)?,
        "throttleWriteIOPSDevice": rates(write_iops)?,
    });
    if let Some(weight) = weight {
        json["weight"] = json!(weight);
    }
    Ok(json)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::{
        super::{MountConfig, Rlimit},
        *,
    };

    pub(crate) fn config() -> ContainerConfig {
        ContainerConfig {
            id: "0".repeat(64),
            group: "g".into(),
            name: "g-web-1".into(),
            args: vec!["sh".into()],
            env: vec!["PATH=/bin".into()],
            cwd: "/".into(),
            stop_signal: 15,
            stop_grace: Duration::from_secs(10),
            capabilities: vec!["CAP_CHOWN".into(), "CAP_SETPCAP".into()],
            mask_paths: true,
            shm_size: 64 << 20,
            ..ContainerConfig::default()
        }
    }

    fn resolved(sources: Vec<Option<PathBuf>>) -> Resolved {
        Resolved {
            rootfs: "/r".into(),
            user: User { uid: 5, gid: 6, groups: vec![7], home: "/".into() },
            sources,
            files: vec![("/etc/hosts", "/run/hosts".into())],
            contents: Vec::new(),
            network: Some("/proc/self/fd/9".into()),
            ipc: None,
            pid: None,
            shared_memory: None,
            devices: Vec::new(),
            disks: BTreeMap::new(),
            hooks: Value::Null,
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
            kind: MountKind::Bind { path: "/x".into(), create: false, propagation: None, recursive: true },
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
        assert_eq!(
            process["capabilities"]["bounding"],
            json!(["CAP_CHOWN", "CAP_SETPCAP", "CAP_SYS_ADMIN", "CAP_FOWNER"])
        );
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
        let mut config = config();
        config.device_rules = vec![DeviceRule::parse("c 189:* rm").unwrap()];
        let mut resolved = resolved(Vec::new());
        resolved.devices = vec![node];
        let rules = resources(&config, &resolved).unwrap()["devices"].clone();
        assert_eq!(rules[0], json!({"allow": false, "access": "rwm"}));
        assert_eq!(rules[1]["access"], "rw");
        assert_eq!(rules[2], json!({"allow": true, "type": "c", "major": 189, "access": "rm"}));
        config.privileged = true;
        let all = resources(&config, &resolved).unwrap()["devices"].clone();
        assert_eq!(all, json!([{"allow": true, "access": "rwm"}]));
    }

    #[test]
    fn what_is_the_hosts_is_not_in_the_document_and_its_name_stays() {
        let mut config = config();
        config.host_uts = true;
        config.host_cgroup = true;
        config.pid = PidNamespace::Host;
        config.ipc = IpcNamespace::Host;
        let mut resolved = resolved(Vec::new());
        resolved.shared_memory = Some("/shm".into());
        let document = document(&config, &resolved).unwrap();
        let kinds: Vec<&str> = document["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|namespace| namespace["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["mount", "network"]);
        assert!(document.get("hostname").is_none(), "it would name the host");
        let shm =
            document["mounts"].as_array().unwrap().iter().find(|m| m["destination"] == "/dev/shm").unwrap();
        assert_eq!(shm["source"], "/shm");
    }

    #[test]
    fn limits_of_disks_go_by_their_numbers() {
        let blkio =
            Blkio { weight: Some(300), read_bps: vec![("/dev/sda".into(), 1024)], ..Blkio::default() };
        let disks = BTreeMap::from([("/dev/sda".to_owned(), (8, 0))]);
        let json = block_io(&blkio, &disks).unwrap();
        assert_eq!(json["throttleReadBpsDevice"], json!([{"major": 8, "minor": 0, "rate": 1024}]));
        assert_eq!(json["weight"], 300);
        assert!(block_io(&blkio, &BTreeMap::new()).unwrap_err().to_string().contains("/dev/sda"));
    }
}
