//! What one container must be, and what its image says, as the runtime wants it told.

use std::collections::BTreeSet;

use indexmap::IndexMap;

use super::{capabilities, health, others::Others};
use crate::{
    engine::{CreateContainer, EngineError, ErrorKind},
    image::Image,
    model::{
        Attachment, ContainerSpec, MountSource, NetworkMode, RestartPolicy, SecurityOption, TmpfsOptions,
        Ulimit, VolumeOptions, label, signal_number,
    },
    runtime::{
        ContainerConfig, ContainerRecord, Endpoint, MountConfig, MountKind, NetworkNamespace, OneOff,
        PortConfig, RestartConfig, Rlimit, Rootfs, Upper,
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

/// The configuration of the container `id`. `others` are the containers of all projects: one of
/// them may lend its network namespace.
///
/// # Errors
/// What cannot be carried out, with its model path.
pub(super) fn container(
    id: String,
    create: &CreateContainer,
    image: &Image,
    others: &Others<'_>,
) -> Result<ContainerConfig, EngineError> {
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
        ports,
        expose: _,
        extra_hosts,
        mounts,
        healthcheck,
        restart,
        stop_signal,
        stop_grace_period,
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
    let capabilities = capabilities::effective(cap_add, cap_drop, *privileged).map_err(|unknown| {
        EngineError::new(ErrorKind::Invalid, format!("`{}` is no Linux capability", unknown.name))
            .at(at(&format!("{}[{}]", unknown.attribute, unknown.index)))
    })?;
    Ok(ContainerConfig {
        network: namespace(&id, create, network, others)?,
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
        extra_hosts: extra_hosts.clone(),
        mounts: all_mounts(create, mounts, defaults.volumes().as_deref().unwrap_or_default())?,
        devices: Vec::new(),
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
        seccomp: !privileged && !security_opt.contains(&SecurityOption::SeccompUnconfined),
        mask_paths: !privileged && !security_opt.contains(&SecurityOption::SystempathsUnconfined),
        sysctls: sysctls.clone(),
        rlimits: ulimits
            .iter()
            .map(|(name, limit)| {
                rlimit(name, *limit).ok_or_else(|| bad_ulimit(name, &at(&format!("ulimits.{name}"))))
            })
            .collect::<Result<_, _>>()?,
        limits: limits.clone(),
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

fn namespace(
    id: &str,
    create: &CreateContainer,
    mode: &NetworkMode,
    others: &Others<'_>,
) -> Result<NetworkNamespace, EngineError> {
    let missing = |what: String| {
        EngineError::new(ErrorKind::NotFound, what).at(format!("services.{}.network_mode", create.service))
    };
    Ok(match mode {
        NetworkMode::None => NetworkNamespace::None,
        NetworkMode::Host => NetworkNamespace::Host,
        NetworkMode::Networks(networks) if networks.is_empty() => NetworkNamespace::None,
        NetworkMode::Networks(networks) => {
            let mut sorted: Vec<(&String, &Attachment)> = networks.iter().collect();
            sorted.sort_by_key(|(_, attachment)| std::cmp::Reverse(attachment.priority));
            let endpoints =
                sorted.into_iter().map(|(network, attachment)| endpoint(id, create, network, attachment));
            NetworkNamespace::Own(endpoints.collect())
        }
        NetworkMode::Service(service) => {
            let of_service = |record: &&ContainerRecord| {
                record.config.group == create.project
                    && super::observe::labels(record).get(label::SERVICE) == Some(service)
            };
            let lender = others.list()?.iter().rev().find(of_service);
            let lender = lender.ok_or_else(|| {
                missing(format!("service `{service}` has no container to share a network with"))
            })?;
            NetworkNamespace::Container(lender.config.id.clone())
        }
        NetworkMode::Container(name) => {
            let called = |record: &&ContainerRecord| {
                record.config.name == *name
                    || (name.len() >= 12 && record.config.id.starts_with(name.as_str()))
            };
            let lender = others.list()?.iter().rev().find(called);
            let lender =
                lender.ok_or_else(|| missing(format!("no container `{name}` to share a network with")))?;
            NetworkNamespace::Container(lender.config.id.clone())
        }
    })
}

/// On each network a container answers to its service, its name, its short id and its aliases.
fn endpoint(id: &str, create: &CreateContainer, network: &str, attachment: &Attachment) -> Endpoint {
    let Attachment { aliases, ipv4_address, priority: _ } = attachment;
    let own = [create.name.as_str(), id.get(..12).unwrap_or(id)];
    let shared = std::iter::once(create.service.as_str()).chain(aliases.iter().map(String::as_str));
    // Who asks for the service must not reach somebody's one-off.
    let shared = shared.filter(|_| create.once.as_ref().is_none_or(|once| once.aliases));
    let names: indexmap::IndexSet<&str> = shared.chain(own).collect();
    Endpoint {
        network: network.to_owned(),
        names: names.into_iter().map(ToOwned::to_owned).collect(),
        address: *ipv4_address,
    }
}

/// Those of the service, then an anonymous volume for each VOLUME of the image that none covers.
fn all_mounts(
    create: &CreateContainer,
    mounts: &[crate::model::Mount],
    of_image: &[String],
) -> Result<Vec<MountConfig>, EngineError> {
    let mut all = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        let kind = mount_kind(&mount.source).ok_or_else(|| {
            EngineError::new(ErrorKind::Unsupported, "an anonymous volume has no `subpath`")
                .at(format!("services.{}.volumes[{index}]", create.service))
        })?;
        all.push(MountConfig { target: mount.target.clone(), read_only: mount.read_only, kind });
    }
    let covered: BTreeSet<String> = all.iter().map(|mount| mount.target.clone()).collect();
    let of_image: BTreeSet<String> = of_image.iter().map(|path| absolute(clean(path))).collect();
    let anonymous = of_image.difference(&covered).map(|target| MountConfig {
        target: target.clone(),
        read_only: false,
        kind: MountKind::Anonymous { nocopy: false },
    });
    all.extend(anonymous);
    Ok(all)
}

fn clean(path: &str) -> String {
    let path = path.trim_end_matches('/');
    if path.is_empty() { "/".to_owned() } else { path.to_owned() }
}

fn mount_kind(source: &MountSource) -> Option<MountKind> {
    Some(match source {
        MountSource::Volume { name, options: VolumeOptions { nocopy, subpath } } => {
            MountKind::Volume { name: name.clone(), nocopy: *nocopy, subpath: subpath.clone() }
        }
        MountSource::Anonymous { options: VolumeOptions { nocopy, subpath: None } } => {
            MountKind::Anonymous { nocopy: *nocopy }
        }
        MountSource::Anonymous { .. } => return None,
        MountSource::Bind { path, create, propagation } => {
            MountKind::Bind { path: path.clone(), create: *create, propagation: propagation.clone() }
        }
        MountSource::Tmpfs(TmpfsOptions { size, mode, options }) => {
            MountKind::Tmpfs { size: *size, mode: *mode, options: options.clone() }
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
    use crate::{image::DockerConfig, model::Mount};
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
        container("ab".repeat(32), &create(spec), &image(), &Others::none())
    }

    #[test]
    fn an_image_gives_what_the_service_leaves_open() {
        let config = config(ContainerSpec::default()).unwrap();
        assert_eq!(config.args, ["/entry", "serve"]);
        assert_eq!(config.env, ["PATH=/bin", "A=image"]);
        assert_eq!((config.user.as_str(), config.cwd.as_str(), config.stop_signal), ("app", "/", 2));
        let targets: Vec<&str> = config.mounts.iter().map(|mount| mount.target.as_str()).collect();
        assert_eq!(targets, ["/cache", "/data"]);
        assert!(config.seccomp && config.mask_paths);
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
        assert_eq!(bad(spec), "services.web.cap_add[0]");
        let spec = ContainerSpec { stop_signal: Some("SIGNO".into()), ..ContainerSpec::default() };
        assert_eq!(bad(spec), "services.web.stop_signal");
        let limit = IndexMap::from([("files".to_owned(), Ulimit { soft: 1, hard: 1 })]);
        let spec = ContainerSpec { ulimits: limit, ..ContainerSpec::default() };
        assert_eq!(bad(spec), "services.web.ulimits.files");
        let spec = ContainerSpec { entrypoint: Some(vec![]), ..ContainerSpec::default() };
        assert_eq!(bad(spec), "services.web.command");
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
