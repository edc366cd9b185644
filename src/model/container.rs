//! All that one container must be, whoever runs it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Device, DeviceRequest, DeviceRule, FileMount, Hook, IpcMode, Lender, PidMode, VolumesFrom};

/// All that one container must be. Networks and volumes are named as the engine knows them
/// (`project_default`); other services are named by their key and resolved when planning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// Image reference as written, or `<project>-<service>` for a service that only builds.
    pub image: String,
    /// Platform asked for, as `os/arch[/variant]`.
    pub platform: Option<String>,
    /// `None` keeps the image's CMD, an empty list clears it.
    pub command: Option<Vec<String>>,
    /// `None` keeps the image's ENTRYPOINT (and its CMD), an empty list clears both.
    pub entrypoint: Option<Vec<String>>,
    /// `None` as a value removes the variable that the image sets.
    pub environment: IndexMap<String, Option<String>>,
    pub labels: IndexMap<String, String>,
    pub annotations: IndexMap<String, String>,
    /// `user[:group]`, names or numbers, as in the image's passwd and group files.
    pub user: Option<String>,
    pub group_add: Vec<String>,
    pub working_dir: Option<String>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub network: NetworkMode,
    /// Hardware address on the primary network.
    pub mac_address: Option<[u8; 6]>,
    pub dns: Dns,
    /// Names that it alone uses for others on its networks: (service or container, alias).
    pub links: Vec<(String, String)>,
    /// Variables tell it of them, as Fig and the first Compose did.
    pub link_variables: bool,
    pub ipc: IpcMode,
    pub pid: PidMode,
    /// The host's name is its own, too.
    pub host_uts: bool,
    /// It sees the control groups of the host, not only its own.
    pub host_cgroup: bool,
    pub ports: Vec<Port>,
    /// Ports named for the reader, `8000` or `8000/udp`; opens nothing.
    pub expose: Vec<String>,
    pub extra_hosts: Vec<(String, ExtraHost)>,
    pub mounts: Vec<Mount>,
    pub volumes_from: Vec<VolumesFrom>,
    /// Secrets and configs.
    pub files: Vec<FileMount>,
    pub devices: Vec<Device>,
    pub device_rules: Vec<DeviceRule>,
    pub device_requests: Vec<DeviceRequest>,
    pub healthcheck: Option<Healthcheck>,
    pub restart: RestartPolicy,
    pub stop_signal: Option<String>,
    /// Time between the stop signal and SIGKILL; 10 s when absent.
    pub stop_grace_period: Option<Duration>,
    /// Run in containers like it, one after the other and to success, before a command starts the first of
    /// its service.
    pub pre_start: Vec<Hook>,
    /// Run in it, in order, when a command has started it.
    pub post_start: Vec<Hook>,
    /// Run in it, in order, before a command stops it.
    pub pre_stop: Vec<Hook>,
    pub init: bool,
    pub tty: bool,
    pub stdin_open: bool,
    pub read_only: bool,
    pub privileged: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub security_opt: Vec<SecurityOption>,
    pub sysctls: IndexMap<String, String>,
    pub ulimits: IndexMap<String, Ulimit>,
    pub limits: Limits,
    /// Path of a control group to live in, below the roots of the hierarchies.
    pub cgroup_parent: Option<String>,
    /// -1000 (never killed) to 1000 (first) when memory is short.
    pub oom_score_adj: Option<i32>,
    /// Size of /dev/shm in bytes; 64 MiB when absent.
    pub shm_size: Option<u64>,
    pub logging: Logging,
    /// Fixed name of the container in place of `project-service-1`.
    pub container_name: Option<String>,
}

/// Version of the canonical form below: a digest of another version says nothing about equality.
const DIGEST_VERSION: u32 = 1;

impl ContainerSpec {
    /// References of images that it mounts.
    pub fn mounted_images(&self) -> impl Iterator<Item = &str> {
        self.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Image { reference, .. } => Some(reference.as_str()),
            _ => None,
        })
    }

    /// What tells it from others: 64 hex digits of SHA-256 over the canonical JSON of this value. The order in
    /// which a mapping was written says nothing, so it changes nothing.
    ///
    /// # Panics
    /// Never: every field serialises.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut json = serde_json::to_value((DIGEST_VERSION, self)).expect("a spec serialises");
        json.sort_all_objects();
        format!("{:x}", HexDigest(Sha256::digest(json.to_string()).into()))
    }
}

struct HexDigest([u8; 32]);

impl fmt::LowerHex for HexDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where what the container writes goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Logging {
    pub driver: Option<String>,
    pub options: IndexMap<String, String>,
}

impl Logging {
    /// Options of Docker's own drivers that say how its files are packed and what stands beside each line.
    pub const FORM: [&str; 8] =
        ["compress", "mode", "max-buffer-size", "labels", "labels-regex", "env", "env-regex", "tag"];
    /// The values of them that say what is so anyway: nothing is packed, no line is dropped.
    pub const KEPT: [(&str, &str); 2] = [("compress", "false"), ("mode", "blocking")];

    /// Whether an option is known, and changes nothing here though it asks for something.
    #[must_use]
    pub fn is_without_effect(name: &str, value: &str) -> bool {
        Self::FORM.contains(&name) && !value.is_empty() && !Self::KEPT.contains(&(name, value))
    }
}

/// Which network namespace the container lives in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// Its own namespace, joined to these networks (engine names), primary network first.
    Networks(IndexMap<String, Attachment>),
    None,
    Host,
    Of(Lender),
}

impl Default for NetworkMode {
    fn default() -> Self {
        Self::Networks(IndexMap::new())
    }
}

/// How a container is joined to one network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// Names it answers to on this network beside its service and container name.
    pub aliases: Vec<String>,
    pub ipv4_address: Option<Ipv4Addr>,
    pub ipv6_address: Option<Ipv6Addr>,
    /// Further addresses of the interface, not those of its network.
    pub link_local_ips: Vec<IpAddr>,
    /// Networks are joined from the highest priority down.
    pub priority: i64,
    /// The highest gives the default route; of equal ones the network joined first.
    pub gw_priority: i64,
    pub mac_address: Option<[u8; 6]>,
    /// Name of the interface; `eth` and a number when absent.
    pub interface_name: Option<String>,
    pub driver_opts: IndexMap<String, String>,
}

/// What stands behind a name of `extra_hosts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExtraHost {
    Address(IpAddr),
    /// `host-gateway`: where the container reaches the host.
    HostGateway,
}

impl fmt::Display for ExtraHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::HostGateway => f.write_str("host-gateway"),
        }
    }
}

/// Where a container asks for names that are no names of containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Those of the host when empty.
    pub servers: Vec<IpAddr>,
    /// Those of the host when empty; `.` alone is none.
    pub search: Vec<String>,
    /// Those of the host when empty.
    pub options: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

impl Protocol {
    /// Of ports as images and `expose:` have them: `5432`, `53/udp`, `8000-8005`. None of what is no port.
    pub fn of_ports(text: &str) -> impl Iterator<Item = (u16, Self)> + use<> {
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let protocol = [Self::Tcp, Self::Udp].into_iter().find(|known| known.to_string() == protocol);
        let range = first.parse::<u16>().ok().zip(last.parse().ok()).zip(protocol);
        range
            .into_iter()
            .flat_map(|((first, last), protocol)| (first..=last).map(move |port| (port, protocol)))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// An inclusive range of host ports; the engine takes the first free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

/// A published port of the container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// Port inside the container.
    pub target: u16,
    /// Port on the host; `None` lets the engine choose any free one.
    pub published: Option<PortRange>,
    /// Host address; every address when absent.
    pub host_ip: Option<IpAddr>,
    pub protocol: Protocol,
}

/// A directory or file of the container that does not come from its image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute, cleaned path in the container.
    pub target: String,
    pub read_only: bool,
    pub source: MountSource,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A volume by the name the engine knows it under.
    Volume {
        name: String,
        options: VolumeOptions,
    },
    /// A volume of this container alone, handed on when the container is recreated.
    Anonymous {
        options: VolumeOptions,
    },
    /// An absolute path of the host.
    Bind {
        path: PathBuf,
        /// Make the directory when it is missing (the short form asks for it).
        create: bool,
        /// Mount propagation (`rprivate`, `rshared`, ...).
        propagation: Option<String>,
        /// What is mounted below it comes along.
        recursive: bool,
    },
    Tmpfs(TmpfsOptions),
    /// What an image holds, or a path of it; read only.
    Image {
        reference: String,
        subpath: Option<String>,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeOptions {
    /// Do not fill a new volume from the image.
    pub nocopy: bool,
    pub subpath: Option<String>,
    /// Of a volume that is made with the container.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub labels: IndexMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TmpfsOptions {
    /// Bytes.
    pub size: Option<u64>,
    pub mode: Option<u32>,
    /// Further mount options as written (`noexec`, `uid=1000`).
    pub options: Vec<String>,
}

/// How an engine finds out whether the container does its work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// `None` keeps the image's command and changes only the times.
    pub test: Option<HealthTest>,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub retries: Option<u32>,
    pub start_period: Option<Duration>,
    pub start_interval: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthTest {
    /// `NONE` or `disable: true`: no check, even if the image has one.
    Disabled,
    Command(Vec<String>),
    /// Run by the shell of the image.
    Shell(String),
}

/// What happens when the main process ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    #[default]
    No,
    Always,
    UnlessStopped,
    /// Only after a failure; `max_retries` of `None` means without end.
    OnFailure {
        max_retries: Option<u32>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecurityOption {
    NoNewPrivileges(bool),
    SeccompUnconfined,
    /// A filter of the user's own: a JSON file as Docker reads it.
    SeccompProfile(PathBuf),
    /// A profile that the machine has loaded; `unconfined` is none.
    Apparmor(String),
    /// /proc and /sys neither masked nor read-only.
    SystempathsUnconfined,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// -1 is unlimited.
    pub soft: i64,
    pub hard: i64,
}

/// Resource limits; absent is unlimited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<i64>,
    /// Bytes of memory and swap together, -1 for no limit on swap.
    pub memory_swap: Option<i64>,
    /// Bytes.
    pub memory_reservation: Option<i64>,
    /// Billionths of a CPU.
    pub nano_cpus: Option<i64>,
    pub cpu_shares: Option<u64>,
    pub cpuset: Option<String>,
    pub pids: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds in each period.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_rt_period: Option<u64>,
    /// Microseconds in each period.
    pub cpu_rt_runtime: Option<i64>,
    /// 0 to 100.
    pub memory_swappiness: Option<u64>,
    /// Out of memory it waits instead of being killed.
    pub oom_kill_disable: bool,
    pub blkio: Blkio,
}

/// Shares and limits of block devices, those by their path on the host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Blkio {
    /// 10 to 1000.
    pub weight: Option<u16>,
    pub weight_device: Vec<(String, u16)>,
    /// Bytes a second.
    pub read_bps: Vec<(String, u64)>,
    pub write_bps: Vec<(String, u64)>,
    /// Operations a second.
    pub read_iops: Vec<(String, u64)>,
    pub write_iops: Vec<(String, u64)>,
}

impl Limits {
    /// What of the kernel's they need, by the names of its controllers.
    #[must_use]
    pub fn controllers(&self) -> Vec<&'static str> {
        let Self {
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
        } = self;
        let times =
            [cpu_period.is_some(), cpu_quota.is_some(), cpu_rt_period.is_some(), cpu_rt_runtime.is_some()];
        let memories = [
            memory.is_some(),
            memory_swap.is_some(),
            memory_reservation.is_some(),
            memory_swappiness.is_some(),
            *oom_kill_disable,
        ];
        let wanted = [
            ("cpu", nano_cpus.is_some() || cpu_shares.is_some() || times.contains(&true)),
            ("cpuset", cpuset.is_some()),
            ("io", *blkio != Blkio::default()),
            ("memory", memories.contains(&true)),
            ("pids", pids.is_some()),
        ];
        wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_a_mapping_is_no_difference_and_a_value_is() {
        let spec = |variables: &[(&str, &str)]| {
            let environment = variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned())))
                .collect();
            ContainerSpec { environment, ..ContainerSpec::default() }.digest()
        };
        assert_eq!(spec(&[("A", "1"), ("B", "2")]), spec(&[("B", "2"), ("A", "1")]));
        assert_ne!(spec(&[("A", "1"), ("B", "2")]), spec(&[("A", "2"), ("B", "1")]));
        assert_eq!(spec(&[]).len(), 64);
    }
}
