//! What one container must be, and what its image says, as the runtime wants it told.

use std::collections::BTreeSet;

use indexmap::IndexMap;

use super::{capabilities, devices, health, lenders, others::Others};
use crate::{
    engine::{CreateContainer, EngineError, ErrorKind},
    image::Image,
    model::{
        Attachment, ContainerSpec, Device, FileMount, FileSource, IpcMode, MountSource, NetworkMode, PidMode,
        RestartPolicy, SecurityOption, TmpfsOptions, Ulimit, VolumeOptions, signal_number,
    },
    runtime::{
        self, ContainerConfig, Content, Endpoint, FileConfig, IpcNamespace, MountConfig, MountKind,
        NetworkNamespace, OneOff, PidNamespace, PortConfig, RestartConfig, Rlimit, Rootfs, Seccomp, Upper,
    },
};

/// Keys of our own in the annotations that the runtime keeps for us.
pub(super) mod note {
    /// All labels, as a JSON object.
    pub(crate) const LABELS: &str = "ficelle.labels";
    /// The specification the container was made from, as JSON.
    pub(crate) const SPEC: &str = "ficelle.spec";
    pub(crate) const IMAGE_ID: &str = "ficelle.image-id";
}

const SIGTERM: i32 = 15;
const STOP_GRACE: std::time::Duration = std::time::Duration::from_secs(10);
const SHM_SIZE: u64 = 64 << 20;

/// What there is around a container that is made.
pub(super) struct Around<'a> {
    /// The containers of all projects: one of them may lend something.
    pub others: &'a Others<'a>,
    /// Images that it mounts, by reference.
    pub images: std::collections::BTreeMap<String, Image>,
}

/// The configuration of the container `id`.
///
/// # Errors
/// What cannot be carried out, with its model path.
pub(super) fn container(
    id: String,
    create: &CreateContainer,
    image: &Image,
    around: &Around<'_>,
) -> Result<ContainerConfig, EngineError> {
    let others = around.others;
    let at = |attribute: &str| format!("services.{}.{attribute}", create.service);
    // Without `..`: an attribute that is added to the model must be thought of here.
    let ContainerSpec {
        image: _,
        platform: _,
        command,
        entrypoint,
        environment,
        labels: _,
        annotations: _,
        user,
        group_add,
        working_dir,
        hostname,
        domainname,
        network,
        mac_address,
        dns,
        links,
        link_variables,
        ipc,
        pid,
        host_uts,
        host_cgroup,
        ports,
        expose,
        extra_hosts,
        mounts,
        volumes_from,
        files,
        devices: wanted_devices,
        device_rules,
        device_requests,
        healthcheck,
        restart,
        stop_signal,
        stop_grace_period,
        pre_start: _,
        post_start: _,
        pre_stop: _,
        init,
        tty,
        stdin_open,
        read_only,
        privileged,
        cap_add,
        cap_drop,
        security_opt,
        sysctls,
        ulimits,
        limits,
        cgroup_parent,
        oom_score_adj,
        shm_size,
        logging,
        container_name: _,
    } = &create.spec;
    let defaults = image.config.config().clone().unwrap_or_default();
    let image_text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let stop = stop_signal.clone().or_else(|| image_text(defaults.stop_signal()));
    let stop_signal = match &stop {
        None => SIGTERM,
        Some(text) => signal_number(text).ok_or_else(|| {
            EngineError::new(ErrorKind::Invalid, format!("`{text}` is no signal"))
                .at(at("stop_signal"))
                .help("expected a name like SIGTERM, or a number")
        })?,
    };
    let capabilities =
        capabilities::effective(cap_add, cap_drop, *privileged, &runtime::available_capabilities()).map_err(
            |unknown| {
                EngineError::new(ErrorKind::Invalid, unknown.message())
                    .at(at(&format!("{}[{}]", unknown.attribute, unknown.index)))
            },
        )?;
    if *host_uts && (hostname.is_some() || domainname.is_some()) {
        return Err(EngineError::new(
            ErrorKind::Invalid,
            "with the name of the host (`uts: host`) there is no `hostname` or `domainname`",
        )
        .at(at("uts")));
    }
    let mut mounts = own_mounts(create, mounts, around)?;
    mounts.extend(lenders::volumes(create, volumes_from, &mounts, others)?);
    add_anonymous(&mut mounts, defaults.volumes().as_deref().unwrap_or_default());
    let mut cdi: Vec<String> = wanted_devices.iter().filter_map(cdi_name).collect();
    for request in device_requests {
        cdi.extend(devices::requested(request).map_err(|error| error.at(at("gpus")))?);
    }
    let network = Joining { id: &id, create, dns, links, mac: *mac_address }.namespace(network, others)?;
    Ok(ContainerConfig {
        network,
        group: create.project.clone(),
        name: create.name.clone(),
        annotations: annotations(create, defaults.labels().as_ref()),
        rootfs: Rootfs {
            layers: image.layers.iter().map(|layer| layer.path.clone()).collect(),
            upper: Upper::Own,
        },
        args: arguments(entrypoint.as_deref(), command.as_deref(), &defaults).ok_or_else(|| {
            EngineError::new(ErrorKind::Invalid, format!("service `{}` has nothing to run", create.service))
                .at(at("command"))
                .help(format!("image `{}` has neither ENTRYPOINT nor CMD: set `command`", create.spec.image))
        })?,
        env: environment_of(defaults.env().as_deref().unwrap_or_default(), environment),
        cwd: working_dir
            .clone()
            .or_else(|| image_text(defaults.working_dir()))
            .map_or_else(|| "/".to_owned(), absolute),
        user: user.clone().or_else(|| image_text(defaults.user())).unwrap_or_default(),
        groups: group_add.clone(),
        hostname: hostname.clone(),
        domainname: domainname.clone(),
        ports: ports
            .iter()
            .map(|port| PortConfig {
                target: port.target,
                published: port.published.map(|range| (range.first, range.last)),
                host_ip: port.host_ip,
                protocol: port.protocol,
            })
            .collect(),
        exposed: defaults
            .exposed_ports()
            .iter()
            .flatten()
            .chain(expose)
            .cloned()
            .chain(ports.iter().map(|port| format!("{}/{}", port.target, port.protocol)))
            .collect(),
        link_variables: *link_variables,
        extra_hosts: extra_hosts.clone(),
        dns: dns.clone(),
        ipc: match ipc {
            IpcMode::Private => IpcNamespace::Private,
            IpcMode::Shareable => IpcNamespace::Shareable,
            IpcMode::None => IpcNamespace::None,
            IpcMode::Host => IpcNamespace::Host,
            IpcMode::Of(lender) => {
                IpcNamespace::Container(lenders::find(create, "ipc", lender, others)?.config.id.clone())
            }
        },
        pid: match pid {
            PidMode::Private => PidNamespace::Own,
            PidMode::Host => PidNamespace::Host,
            PidMode::Of(lender) => {
                PidNamespace::Container(lenders::find(create, "pid", lender, others)?.config.id.clone())
            }
        },
        host_uts: *host_uts,
        host_cgroup: *host_cgroup,
        mounts,
        files: files.iter().map(|file| file_config(file, &at("secrets"))).collect::<Result<_, _>>()?,
        devices: wanted_devices.iter().filter_map(device_node).collect(),
        device_rules: device_rules.clone(),
        cdi,
        health: health::effective(healthcheck.as_ref(), &image.docker),
        restart: match *restart {
            RestartPolicy::No => RestartConfig::No,
            RestartPolicy::Always => RestartConfig::Always,
            RestartPolicy::UnlessStopped => RestartConfig::UnlessStopped,
            RestartPolicy::OnFailure { max_retries } => RestartConfig::OnFailure { max_retries },
        },
        stop_signal,
        stop_grace: stop_grace_period.unwrap_or(STOP_GRACE),
        init: *init,
        tty: *tty,
        stdin_open: *stdin_open,
        read_only: *read_only,
        privileged: *privileged,
        capabilities,
        no_new_privileges: security_opt.contains(&SecurityOption::NoNewPrivileges(true)),
        seccomp: seccomp(security_opt, *privileged).map_err(|error| error.at(at("security_opt")))?,
        apparmor: apparmor(security_opt),
        mask_paths: !privileged && !security_opt.contains(&SecurityOption::SystempathsUnconfined),
        sysctls: sysctls.clone(),
        rlimits: ulimits
            .iter()
            .map(|(name, limit)| {
                rlimit(name, *limit).ok_or_else(|| bad_ulimit(name, &at(&format!("ulimits.{name}"))))
            })
            .collect::<Result<_, _>>()?,
        limits: limits.clone(),
        cgroup_parent: cgroup_parent.clone(),
        oom_score_adj: *oom_score_adj,
        shm_size: shm_size.unwrap_or(SHM_SIZE),
        log: super::logging::config(logging, &create.service)?,
        once: create.once.as_ref().map(|once| OneOff {
            close_stdin: once.close_stdin,
            size: once.size.map(|size| (size.rows, size.columns)),
            remove: once.remove,
        }),
        replaces: create.replaces.as_ref().map(|id| id.0.clone()),
        id,
    })
}

/// What the runtime gives back to us with the container.
fn annotations(
    create: &CreateContainer,
    of_image: Option<&std::collections::HashMap<String, String>>,
) -> IndexMap<String, String> {
    let mut labels: IndexMap<&str, &str> = IndexMap::new();
    let sorted: std::collections::BTreeMap<_, _> = of_image.into_iter().flatten().collect();
    labels.extend(sorted.into_iter().map(|(name, value)| (name.as_str(), value.as_str())));
    labels.extend(create.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let mut notes = create.spec.annotations.clone();
    notes.insert(note::LABELS.into(), serde_json::json!(labels).to_string());
    notes.insert(note::SPEC.into(), serde_json::json!(create.spec).to_string());
    notes.insert(note::IMAGE_ID.into(), create.image_id.clone());
    notes
}

/// ENTRYPOINT and CMD together; an entrypoint of the service takes the image's CMD away.
fn arguments(
    entrypoint: Option<&[String]>,
    command: Option<&[String]>,
    image: &oci_spec::image::Config,
) -> Option<Vec<String>> {
    let cmd = image.cmd().as_deref().unwrap_or_default();
    let (first, rest) = match (entrypoint, command) {
        (Some(entrypoint), command) => (entrypoint, command.unwrap_or_default()),
        (None, command) => (image.entrypoint().as_deref().unwrap_or_default(), command.unwrap_or(cmd)),
    };
    let args = [first, rest].concat();
    (!args.is_empty()).then_some(args)
}

/// The image's variables, overridden in place, then those that are new.
fn environment_of(image: &[String], service: &IndexMap<String, Option<String>>) -> Vec<String> {
    let mut variables: IndexMap<&str, Option<&str>> = IndexMap::new();
    for variable in image {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        variables.insert(name, Some(value));
    }
    variables.extend(service.iter().map(|(name, value)| (name.as_str(), value.as_deref())));
    let set = variables.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    set.collect()
}

fn absolute(path: String) -> String {
    if path.starts_with('/') { path } else { format!("/{path}") }
}

/// A container that is joined to networks.
struct Joining<'a> {
    id: &'a str,
    create: &'a CreateContainer,
    dns: &'a crate::model::Dns,
    links: &'a [(String, String)],
    /// Hardware address on the first network.
    mac: Option<[u8; 6]>,
}

impl Joining<'_> {
    fn namespace(&self, mode: &NetworkMode, others: &Others<'_>) -> Result<NetworkNamespace, EngineError> {
        Ok(match mode {
            NetworkMode::None => NetworkNamespace::None,
            NetworkMode::Host => NetworkNamespace::Host,
            NetworkMode::Networks(networks) if networks.is_empty() => NetworkNamespace::None,
            NetworkMode::Networks(networks) => {
                let mut sorted: Vec<(&String, &Attachment)> = networks.iter().collect();
                sorted.sort_by_key(|(_, attachment)| std::cmp::Reverse(attachment.priority));
                let endpoints = sorted.into_iter().enumerate().map(|(number, (network, attachment))| {
                    let mac = self.mac.filter(|_| number == 0);
                    self.endpoint(network, attachment, mac)
                });
                NetworkNamespace::Own(endpoints.collect::<Result<_, _>>()?)
            }
            NetworkMode::Of(lender) => {
                let lender = lenders::find(self.create, "network_mode", lender, others)?;
                NetworkNamespace::Container(lender.config.id.clone())
            }
        })
    }

    /// On each network a container answers to its service, its name, its short id and its aliases.
    fn endpoint(
        &self,
        network: &str,
        attachment: &Attachment,
        mac: Option<[u8; 6]>,
    ) -> Result<Endpoint, EngineError> {
        let Attachment {
            aliases,
            ipv4_address,
            ipv6_address,
            link_local_ips,
            priority: _,
            gw_priority,
            mac_address,
            interface_name,
            driver_opts,
        } = attachment;
        let service = std::iter::once(self.create.service.as_str());
        let own = [self.create.name.as_str(), self.id.get(..12).unwrap_or(self.id)];
        // Who asks for the service must not reach somebody's one-off.
        let shared = |_: &&str| self.create.once.as_ref().is_none_or(|once| once.aliases);
        let aliases = aliases.iter().map(String::as_str).filter(shared);
        let names: indexmap::IndexSet<&str> = service.filter(shared).chain(own).chain(aliases).collect();
        let sysctls = interface_settings(driver_opts)
            .map_err(|error| error.at(format!("services.{}.networks", self.create.service)))?;
        Ok(Endpoint {
            network: network.to_owned(),
            names: names.into_iter().map(ToOwned::to_owned).collect(),
            address: *ipv4_address,
            address6: *ipv6_address,
            link_local: link_local_ips.clone(),
            mac: mac_address.or(mac),
            interface: interface_name
                .clone()
                .or_else(|| driver_opts.get("com.docker.network.endpoint.ifname").cloned()),
            gateway_priority: *gw_priority,
            links: self.links.to_vec(),
            servers: self.dns.servers.clone(),
            sysctls,
        })
    }
}

/// Settings of an interface: `net.ipv4.conf.IFNAME.log_martians=1,...`.
fn interface_settings(options: &IndexMap<String, String>) -> Result<Vec<(String, String)>, EngineError> {
    const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";
    let unknown =
        options.keys().find(|name| ![SYSCTLS, "com.docker.network.endpoint.ifname"].contains(&name.as_str()));
    if let Some(name) = unknown {
        let message = format!("the embedded engine has no option `{name}` of a container on a network");
        return Err(EngineError::new(ErrorKind::Unsupported, message));
    }
    let settings = options.get(SYSCTLS).map(String::as_str).unwrap_or_default();
    let one = |setting: &str| {
        let parsed = setting.split_once('=').and_then(|(name, value)| {
            let name = name.trim().strip_prefix("net.").filter(|name| name.contains(".IFNAME."))?;
            Some((name.to_owned(), value.trim().to_owned()))
        });
        parsed.ok_or_else(|| {
            let message = format!(
                "`{setting}` is no setting of an interface such as `net.ipv4.conf.IFNAME.forwarding=1`"
            );
            EngineError::new(ErrorKind::Invalid, message)
        })
    };
    settings.split(',').filter(|setting| !setting.trim().is_empty()).map(one).collect()
}

fn cdi_name(device: &Device) -> Option<String> {
    match device {
        Device::Cdi(name) => Some(name.clone()),
        Device::Node { .. } => None,
    }
}

fn device_node(device: &Device) -> Option<runtime::Device> {
    match device {
        Device::Cdi(_) => None,
        Device::Node { source, target, permissions } => Some(runtime::Device {
            host: source.into(),
            container: target.into(),
            access: permissions.clone(),
        }),
    }
}

fn file_config(file: &FileMount, path: &str) -> Result<FileConfig, EngineError> {
    let FileMount { target, source, uid, gid, mode } = file;
    let content = match source {
        FileSource::Path(path) => Content::Path(path.clone()),
        FileSource::Text(sealed) => match sealed.text() {
            Some(text) => Content::Text(text.to_owned()),
            None => {
                let message = format!("the content of `{target}` is not known any more");
                return Err(EngineError::new(ErrorKind::Other, message).at(path));
            }
        },
    };
    Ok(FileConfig { target: target.clone(), content, uid: *uid, gid: *gid, mode: *mode })
}

/// What the file says, else Docker's filter; a privileged container has none unless it asks for one.
fn seccomp(options: &[SecurityOption], privileged: bool) -> Result<Seccomp, EngineError> {
    for option in options.iter().rev() {
        match option {
            SecurityOption::SeccompUnconfined => return Ok(Seccomp::None),
            SecurityOption::SeccompProfile(path) => {
                return std::fs::read_to_string(path).map(Seccomp::Profile).map_err(|error| {
                    let what = format!("the seccomp profile `{}` cannot be read", path.display());
                    EngineError::new(ErrorKind::Invalid, what).caused_by(&error)
                });
            }
            _ => {}
        }
    }
    Ok(if privileged { Seccomp::None } else { Seccomp::Default })
}

/// The profile asked for where the kernel has AppArmor.
fn apparmor(options: &[SecurityOption]) -> Option<String> {
    let profile = options.iter().rev().find_map(|option| match option {
        SecurityOption::Apparmor(profile) => Some(profile),
        _ => None,
    })?;
    (profile != "unconfined" && has_apparmor()).then(|| profile.clone())
}

fn has_apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

/// What the service asks for and this machine has not got, one sentence each; Docker goes without it, too.
pub(super) fn ignored(spec: &ContainerSpec) -> Vec<String> {
    let mut notes = Vec::new();
    let profile = spec.security_opt.iter().any(|option| match option {
        SecurityOption::Apparmor(profile) => profile != "unconfined",
        _ => false,
    });
    if profile && !has_apparmor() {
        notes.push("`security_opt: apparmor=...` is left out: this kernel runs without AppArmor".to_owned());
    }
    if spec.limits.oom_kill_disable && !runtime::knows_limit("memory", "memory.oom_control") {
        notes.push(
            "`oom_kill_disable` is left out: control groups of version 2 have no such thing".to_owned(),
        );
    }
    if spec.limits.memory_swappiness.is_some() && !runtime::knows_limit("memory", "memory.swappiness") {
        notes.push("`mem_swappiness` is left out: control groups of version 2 have no such thing".to_owned());
    }
    notes
}

/// Those of the service.
fn own_mounts(
    create: &CreateContainer,
    mounts: &[crate::model::Mount],
    around: &Around<'_>,
) -> Result<Vec<MountConfig>, EngineError> {
    let mut all = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        let kind = mount_kind(&mount.source, around)
            .map_err(|error| error.at(format!("services.{}.volumes[{index}]", create.service)))?;
        all.push(MountConfig { target: mount.target.clone(), read_only: mount.read_only, kind });
    }
    Ok(all)
}

/// An anonymous volume for each VOLUME of the image that nothing covers.
fn add_anonymous(mounts: &mut Vec<MountConfig>, of_image: &[String]) {
    let covered: BTreeSet<String> = mounts.iter().map(|mount| mount.target.clone()).collect();
    let of_image: BTreeSet<String> = of_image.iter().map(|path| absolute(clean(path))).collect();
    mounts.extend(of_image.difference(&covered).map(|target| MountConfig {
        target: target.clone(),
        read_only: false,
        kind: MountKind::Anonymous { nocopy: false, annotations: IndexMap::new() },
    }));
}

fn clean(path: &str) -> String {
    let path = path.trim_end_matches('/');
    if path.is_empty() { "/".to_owned() } else { path.to_owned() }
}

fn mount_kind(source: &MountSource, around: &Around<'_>) -> Result<MountKind, EngineError> {
    Ok(match source {
        // The labels of a volume with a name are those it was made with.
        MountSource::Volume { name, options: VolumeOptions { nocopy, subpath, labels: _ } } => {
            MountKind::Volume { name: name.clone(), nocopy: *nocopy, subpath: subpath.clone() }
        }
        MountSource::Anonymous { options: VolumeOptions { nocopy, subpath: None, labels } } => {
            MountKind::Anonymous { nocopy: *nocopy, annotations: labels.clone() }
        }
        MountSource::Anonymous { .. } => {
            return Err(EngineError::new(ErrorKind::Unsupported, "an anonymous volume has no `subpath`"));
        }
        MountSource::Bind { path, create, propagation, recursive } => MountKind::Bind {
            path: path.clone(),
            create: *create,
            propagation: propagation.clone(),
            recursive: *recursive,
        },
        MountSource::Tmpfs(TmpfsOptions { size, mode, options }) => {
            MountKind::Tmpfs { size: *size, mode: *mode, options: options.clone() }
        }
        MountSource::Image { reference, subpath } => {
            let image = around.images.get(reference).ok_or_else(|| {
                EngineError::new(ErrorKind::NotFound, format!("image `{reference}` is not in the store"))
            })?;
            let layers = image.layers.iter().map(|layer| layer.path.clone()).collect();
            MountKind::Layers { layers, subpath: subpath.clone() }
        }
    })
}

const RLIMITS: &[&str] = &[
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

fn rlimit(name: &str, limit: Ulimit) -> Option<Rlimit> {
    let known = RLIMITS.iter().find(|known| known.eq_ignore_ascii_case(name))?;
    // -1 is unlimited, which is the largest number to the kernel.
    let number = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    Some(Rlimit {
        kind: format!("RLIMIT_{}", known.to_uppercase()),
        soft: number(limit.soft),
        hard: number(limit.hard),
    })
}

fn bad_ulimit(name: &str, path: &str) -> EngineError {
    EngineError::new(ErrorKind::Invalid, format!("no such limit: `{name}`"))
        .at(path)
        .help(format!("the limits are {}", RLIMITS.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        image::DockerConfig,
        model::{Mount, label},
    };
    use oci_spec::image::{ConfigBuilder, ImageConfigurationBuilder, RootFsBuilder};

    fn image() -> Image {
        let strings = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
        let config = ConfigBuilder::default()
            .env(strings(&["PATH=/bin", "A=image"]))
            .entrypoint(strings(&["/entry"]))
            .cmd(strings(&["serve"]))
            .volumes(strings(&["/data", "/cache/"]))
            .user("app")
            .stop_signal("SIGINT")
            .build()
            .unwrap();
        let rootfs = RootFsBuilder::default().typ("layers").diff_ids(Vec::new()).build().unwrap();
        let config = ImageConfigurationBuilder::default()
            .architecture(oci_spec::image::Arch::Amd64)
            .os(oci_spec::image::Os::Linux)
            .rootfs(rootfs)
            .config(config)
            .build()
            .unwrap();
        Image {
            id: "sha256:1".into(),
            references: vec![],
            config,
            docker: DockerConfig::default(),
            layers: vec![],
            size: 0,
        }
    }

    fn create(spec: ContainerSpec) -> CreateContainer {
        CreateContainer {
            project: "demo".into(),
            service: "web".into(),
            number: 1,
            name: "demo-web-1".into(),
            config_hash: spec.digest(),
            spec,
            labels: IndexMap::from([(label::SERVICE.to_owned(), "web".to_owned())]),
            image_id: "sha256:1".into(),
            replaces: None,
            once: None,
        }
    }

    fn config(spec: ContainerSpec) -> Result<ContainerConfig, EngineError> {
        let around = Around { others: &Others::none(), images: std::collections::BTreeMap::new() };
        container("ab".repeat(32), &create(spec), &image(), &around)
    }

    #[test]
    fn an_image_gives_what_the_service_leaves_open() {
        let config = config(ContainerSpec::default()).unwrap();
        assert_eq!(config.args, ["/entry", "serve"]);
        assert_eq!(config.env, ["PATH=/bin", "A=image"]);
        assert_eq!((config.user.as_str(), config.cwd.as_str(), config.stop_signal), ("app", "/", 2));
        let targets: Vec<&str> = config.mounts.iter().map(|mount| mount.target.as_str()).collect();
        assert_eq!(targets, ["/cache", "/data"]);
        assert!(config.seccomp == Seccomp::Default && config.mask_paths);
    }

    #[test]
    fn the_service_wins_over_the_image() {
        let spec = ContainerSpec {
            entrypoint: Some(vec!["/other".into()]),
            environment: IndexMap::from([("A".into(), Some("service".into())), ("PATH".into(), None)]),
            mounts: vec![Mount {
                target: "/data".into(),
                read_only: true,
                source: MountSource::Volume { name: "demo_data".into(), options: VolumeOptions::default() },
            }],
            ..ContainerSpec::default()
        };
        let config = config(spec).unwrap();
        assert_eq!(config.args, ["/other"], "an entrypoint takes the image's CMD away");
        assert_eq!(config.env, ["A=service"]);
        assert_eq!(config.mounts.len(), 2);
    }

    #[test]
    fn a_container_answers_to_all_its_names() {
        let attachment = Attachment { aliases: vec!["www".into(), "web".into()], ..Attachment::default() };
        let networks = IndexMap::from([("demo_default".to_owned(), attachment)]);
        let spec = ContainerSpec { network: NetworkMode::Networks(networks), ..ContainerSpec::default() };
        let NetworkNamespace::Own(endpoints) = config(spec).unwrap().network else { panic!("no endpoints") };
        assert_eq!(endpoints[0].names, ["web", "demo-web-1", "abababababab", "www"]);
    }

    #[test]
    fn what_cannot_be_is_told_with_its_path() {
        let bad = |spec: ContainerSpec| config(spec).unwrap_err().path.unwrap();
        let spec = ContainerSpec { cap_add: vec!["FLY".into()], ..ContainerSpec::default() };
        assert_eq!(&*bad(spec), "services.web.cap_add[0]");
        let spec = ContainerSpec { stop_signal: Some("SIGNO".into()), ..ContainerSpec::default() };
        assert_eq!(&*bad(spec), "services.web.stop_signal");
        let limit = IndexMap::from([("files".to_owned(), Ulimit { soft: 1, hard: 1 })]);
        let spec = ContainerSpec { ulimits: limit, ..ContainerSpec::default() };
        assert_eq!(&*bad(spec), "services.web.ulimits.files");
        let spec = ContainerSpec { entrypoint: Some(vec![]), ..ContainerSpec::default() };
        assert_eq!(&*bad(spec), "services.web.command");
    }

    #[test]
    fn what_was_asked_for_comes_back_from_the_annotations() {
        let spec = ContainerSpec { image: "x".into(), ..ContainerSpec::default() };
        let config = config(spec.clone()).unwrap();
        let found: ContainerSpec = serde_json::from_str(&config.annotations[note::SPEC]).unwrap();
        assert_eq!(found, spec);
        assert!(config.annotations[note::LABELS].contains("com.docker.compose.service"));
    }
}
