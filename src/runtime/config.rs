//! What the runtime is told about a container, a network, a volume: everything resolved, nothing
//! of Compose. These are stored as JSON beside the container (`spec.json`).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::model::{DeviceRule, Dns, ExtraHost, Limits, Protocol};

/// As [`ALL_CAPABILITIES`] has it, of one written with or without `CAP_`.
#[must_use]
pub fn capability_name(written: &str) -> &str {
    written.strip_prefix("CAP_").unwrap_or(written)
}

/// All capabilities that Linux knows, by number, without `CAP_`.
pub const ALL_CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What Docker gives to a container that asks for nothing.
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// 64 hex digits, from [`super::Core::new_id`].
    pub id: String,
    pub group: String,
    /// Unique in the group but for a container and the one that replaces it.
    pub name: String,
    /// Opaque to the runtime, given back in the record (the engine keeps labels, hashes, the spec).
    pub annotations: IndexMap<String, String>,
    pub rootfs: Rootfs,
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// `NAME=value`, in order; PATH, HOME and HOSTNAME are added when missing.
    pub env: Vec<String>,
    /// Absolute; made in the container when missing.
    pub cwd: String,
    /// `user[:group]`, names or numbers, looked up in the root filesystem; root when empty.
    pub user: String,
    pub groups: Vec<String>,
    /// The short id when `None`.
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub network: NetworkNamespace,
    pub ports: Vec<PortConfig>,
    /// What it listens on as far as is known, `5432/tcp`; told to those that are linked to it.
    #[serde(default)]
    pub exposed: Vec<String>,
    /// Variables tell it of the containers it is linked to.
    #[serde(default)]
    pub link_variables: bool,
    pub extra_hosts: Vec<(String, ExtraHost)>,
    #[serde(default)]
    pub dns: Dns,
    #[serde(default)]
    pub ipc: IpcNamespace,
    #[serde(default)]
    pub pid: PidNamespace,
    /// The host's name is its own.
    #[serde(default)]
    pub host_uts: bool,
    /// It sees the control groups as the host does.
    #[serde(default)]
    pub host_cgroup: bool,
    pub mounts: Vec<MountConfig>,
    #[serde(default)]
    pub files: Vec<FileConfig>,
    pub devices: Vec<Device>,
    /// What it may do with devices beside those it is given.
    #[serde(default)]
    pub device_rules: Vec<DeviceRule>,
    /// Names of the Container Device Interface, `vendor.com/class=name`.
    #[serde(default)]
    pub cdi: Vec<String>,
    pub health: Option<HealthConfig>,
    pub restart: RestartConfig,
    /// Number; SIGTERM is 15.
    pub stop_signal: i32,
    pub stop_grace: Duration,
    pub init: bool,
    pub tty: bool,
    pub stdin_open: bool,
    pub read_only: bool,
    pub privileged: bool,
    /// The exact set, as `CAP_CHOWN`.
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    #[serde(default)]
    pub seccomp: Seccomp,
    /// A profile that the machine has loaded.
    #[serde(default)]
    pub apparmor: Option<String>,
    /// Mask and protect the usual paths of /proc and /sys.
    pub mask_paths: bool,
    pub sysctls: IndexMap<String, String>,
    pub rlimits: Vec<Rlimit>,
    pub limits: Limits,
    /// Where its control groups are, below the roots of the hierarchies; below our own when `None`.
    #[serde(default)]
    pub cgroup_parent: Option<String>,
    #[serde(default)]
    pub oom_score_adj: Option<i32>,
    /// Bytes.
    pub shm_size: u64,
    #[serde(default)]
    pub log: LogConfig,
    /// What only a container has that somebody sits in front of.
    #[serde(default)]
    pub once: Option<OneOff>,
    /// Container whose anonymous volumes and addresses it takes over.
    pub replaces: Option<String>,
}

/// The layers below and the writable directory on top.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rootfs {
    /// Unpacked layers, the base first.
    pub layers: Vec<PathBuf>,
    pub upper: Upper,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Upper {
    /// The container's own directory, gone when it is removed.
    #[default]
    Own,
    /// The caller's directory with `fs` and `work` in it: a build step keeps what it wrote.
    Dir(PathBuf),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum NetworkNamespace {
    /// Its own, joined to these networks; the first gives the default route.
    Own(Vec<Endpoint>),
    /// Loopback only.
    #[default]
    None,
    Host,
    /// That of another container, by id; it must run.
    Container(String),
}

/// Which IPC namespace it lives in, and so which /dev/shm it sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpcNamespace {
    /// Its own, for it alone.
    #[default]
    Private,
    /// Its own, which others may join.
    Shareable,
    /// Its own, without /dev/shm.
    None,
    Host,
    /// That of another container, by id; it must run.
    Container(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidNamespace {
    #[default]
    Own,
    Host,
    /// That of another container, by id; it must run, and its end is the end of both.
    Container(String),
}

/// The system call filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// Docker's.
    #[default]
    Default,
    None,
    /// The text of a profile in Docker's JSON format.
    Profile(String),
}

/// A file that it is given on a file system of its own, in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileConfig {
    /// Absolute path in the container.
    pub target: String,
    pub content: Content,
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A file of the host, read at each start; a directory is mounted as it is.
    Path(PathBuf),
    Text(String),
}

impl std::fmt::Debug for Content {
    /// Tells no secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Text(_) => f.write_str("Text(..)"),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    pub network: String,
    /// All names it answers to on that network (service, container name, aliases).
    pub names: Vec<String>,
    /// Asked-for address; leased when absent.
    pub address: Option<Ipv4Addr>,
    pub address6: Option<Ipv6Addr>,
    /// Further addresses of its interface.
    pub link_local: Vec<IpAddr>,
    /// Hardware address; made from the address when absent.
    pub mac: Option<[u8; 6]>,
    /// Name of its interface; `eth` and a number when absent.
    pub interface: Option<String>,
    /// The highest gives the default route, of equal ones the first.
    pub gateway_priority: i64,
    /// Names that it alone uses: (name of another on this network, alias).
    pub links: Vec<(String, String)>,
    /// Where it asks for other names; the host's servers when empty.
    pub servers: Vec<IpAddr>,
    /// Settings of its interface below /proc/sys/net: (`ipv4.conf.IFNAME.log_martians`, `1`).
    pub sysctls: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortConfig {
    pub target: u16,
    /// Inclusive range to take the first free one of; any port when `None`.
    pub published: Option<(u16, u16)>,
    /// Every address when `None`.
    pub host_ip: Option<IpAddr>,
    pub protocol: Protocol,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MountConfig {
    /// Absolute path in the container.
    pub target: String,
    pub read_only: bool,
    pub kind: MountKind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MountKind {
    /// A volume of the runtime; filled from the image on first use unless `nocopy`.
    Volume {
        name: String,
        nocopy: bool,
        subpath: Option<String>,
    },
    /// Made with the container (or taken from the one it replaces), removed with it on request.
    Anonymous {
        nocopy: bool,
        /// Of the volume; opaque to the runtime.
        #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
        annotations: IndexMap<String, String>,
    },
    Bind {
        path: PathBuf,
        create: bool,
        propagation: Option<String>,
        /// What is mounted below it comes along.
        #[serde(default = "yes")]
        recursive: bool,
    },
    /// A directory tree made of layers, the base first; read only.
    Layers {
        layers: Vec<PathBuf>,
        subpath: Option<String>,
    },
    Tmpfs {
        size: Option<u64>,
        mode: Option<u32>,
        options: Vec<String>,
    },
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    pub host: PathBuf,
    pub container: PathBuf,
    /// Of `r`, `w`, `m`.
    pub access: String,
}

/// A further program in a running container. What is absent is as the container's own program has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExecConfig {
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// `NAME=value`, over the container's own.
    pub env: Vec<String>,
    /// Below the container's own directory unless absolute; it must be there.
    pub cwd: Option<String>,
    /// `user[:group]`, as in [`ContainerConfig::user`].
    pub user: Option<String>,
    /// Every capability; the filter stays.
    pub privileged: bool,
    pub tty: bool,
    /// Rows and columns that the terminal has at first.
    pub size: Option<(u16, u16)>,
    /// Standard input comes from the caller; else it is empty.
    pub stdin: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthConfig {
    /// Program and arguments run in the container.
    pub args: Vec<String>,
    pub interval: Duration,
    pub timeout: Duration,
    pub retries: u32,
    pub start_period: Duration,
    pub start_interval: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartConfig {
    #[default]
    No,
    Always,
    UnlessStopped,
    OnFailure {
        max_retries: Option<u32>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE`.
    pub kind: String,
    pub soft: u64,
    pub hard: u64,
}

/// A container made for one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OneOff {
    /// Its standard input ends with whoever attached to it.
    pub close_stdin: bool,
    /// Rows and columns of its terminal at first.
    pub size: Option<(u16, u16)>,
    /// It is removed, with its anonymous volumes, when it has ended.
    pub remove: bool,
}

/// How much of what the container writes is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// It can be read later. Else only so much is kept, in memory, as those need who watch it live.
    pub kept: bool,
    /// Bytes of one file; the next one is begun when it has as many.
    pub max_size: u64,
    /// Files; at least one.
    pub max_files: u32,
}

impl Default for LogConfig {
    /// 100 MiB in all, as Docker's driver `local`.
    fn default() -> Self {
        Self { kept: true, max_size: 20 << 20, max_files: 5 }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkConfig {
    pub name: String,
    /// The group that made it.
    pub group: String,
    pub internal: bool,
    /// Address and prefix length; taken from the pool when `None`.
    pub subnet: Option<(Ipv4Addr, u8)>,
    pub gateway: Option<Ipv4Addr>,
    /// Containers get their addresses from this part of the subnet.
    #[serde(default)]
    pub range: Option<(Ipv4Addr, u8)>,
    /// Addresses that no container gets.
    #[serde(default)]
    pub kept: Vec<Ipv4Addr>,
    /// IPv6 beside IPv4.
    #[serde(default)]
    pub ipv6: Option<Ipv6Config>,
    /// Largest packet in bytes; the kernel's 1500 when `None`.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Opaque to the runtime.
    pub annotations: IndexMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ipv6Config {
    /// Made from the name of the network when `None`.
    pub subnet: Option<(Ipv6Addr, u8)>,
    pub gateway: Option<Ipv6Addr>,
    /// Addresses that no container gets.
    pub kept: Vec<Ipv6Addr>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeConfig {
    pub name: String,
    /// The group of the container it was made with; `None` for a volume that was asked for by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anonymous_of: Option<String>,
    /// What is mounted as its data, as mount(8) takes it; a directory of our own when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<VolumeMount>,
    /// Opaque to the runtime.
    pub annotations: IndexMap<String, String>,
}

/// The `type`, `o` and `device` of a local volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// `nfs`, `tmpfs`, `ext4`, ...; nothing for a bind mount.
    pub kind: String,
    /// Separated by commas.
    pub options: String,
    pub device: String,
}
