//! A canonical, checked tree to the types of the model. What a type has no room for is in
//! `Loaded.unsupported`; what cannot be bound although its form was right is told here.

mod devices;
mod files;
mod networks;
mod security;
mod sharing;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use indexmap::IndexMap;

use super::{
    config,
    diagnostic::{Diagnostic, Files},
    discover::Variables,
    ports, scalars,
    tree::{Map, Node, Span, Value},
};
use crate::model::{
    Build, BuildSecret, Condition, ContainerSpec, Dependency, HealthTest, Healthcheck, Hidden, Hook, Logging,
    Mount, MountSource, Places, Port, PortRange, Project, Protocol, Provider, PullPolicy, RestartPolicy,
    SecretSource, Service, TmpfsOptions, Ulimit, Volume, VolumeOptions, image_name,
};
use files::Contents;

/// What binding reads and where it tells.
#[derive(Debug)]
pub struct Bind<'a> {
    files: &'a Files,
    diagnostics: &'a mut Vec<Diagnostic>,
    /// The top-level `secrets`.
    secrets: Option<&'a Map>,
    /// Variables of the shell and of `.env`, that secrets and configs may be made from.
    environment: &'a Variables,
    /// The project directory.
    root: &'a Path,
    contents: Contents,
}

/// The project of a tree; `name`, root and files are the caller's to fill in.
impl<'a> Bind<'a> {
    pub fn new(
        files: &'a Files,
        diagnostics: &'a mut Vec<Diagnostic>,
        secrets: Option<&'a Map>,
        environment: &'a Variables,
        root: &'a Path,
    ) -> Self {
        Self { files, diagnostics, secrets, environment, root, contents: Contents::default() }
    }

    pub fn project(&mut self, model: &Node, disabled: &Map, name: &str) -> Project {
        self.contents = self.contents(model);
        let mut project = Project { name: name.to_owned(), ..Project::default() };
        for (key, node) in entries(model, "networks") {
            let mut network = self.network(node, &format!("networks.{key}"));
            if network.name.is_empty() {
                network.name = format!("{name}_{key}");
            }
            project.networks.insert(key.to_owned(), network);
        }
        for (key, node) in entries(model, "volumes") {
            let mut volume = volume(node);
            if volume.name.is_empty() {
                volume.name = format!("{name}_{key}");
            }
            project.volumes.insert(key.to_owned(), volume);
        }
        let services = entries(model, "services").map(|(key, node)| (key.to_owned(), node.clone())).collect();
        project.services = self.services(services, &project);
        let disabled = disabled.iter().map(|(key, node)| (key.text.clone(), node.clone())).collect();
        project.disabled = self.services(disabled, &project);
        project
    }

    fn services(&mut self, nodes: Vec<(String, Node)>, project: &Project) -> IndexMap<String, Service> {
        nodes
            .into_iter()
            .map(|(name, node)| {
                let service =
                    Reader { bind: self, path: format!("services.{name}") }.service(&name, &node, project);
                (name, service)
            })
            .collect()
    }

    fn tell(&mut self, span: Span, path: &str, message: impl Into<String>) {
        self.diagnostics.push(Diagnostic::error(message).at(path).mark(self.files.mark(span, "")));
    }
}

fn volume(node: &Node) -> Volume {
    Volume {
        name: text(node, "name").unwrap_or_default(),
        external: flag(node, "external"),
        driver: text(node, "driver"),
        driver_opts: pairs(node.get("driver_opts")),
        labels: pairs(node.get("labels")),
    }
}

/// One service while it is bound.
struct Reader<'a, 'b> {
    bind: &'a mut Bind<'b>,
    path: String,
}

impl Reader<'_, '_> {
    fn tell(&mut self, node: &Node, key: &str, message: impl Into<String>) {
        let path = format!("{}.{key}", self.path);
        self.bind.tell(node.span, &path, message);
    }

    fn service(&mut self, name: &str, node: &Node, project: &Project) -> Service {
        self.userns(node);
        self.runtime(node);
        let deploy = node.get("deploy");
        let scale = integer(node.get("scale")).or_else(|| integer(deploy.and_then(|d| d.get("replicas"))));
        Service {
            name: name.to_owned(),
            container: self.container(name, node, project),
            build: node
                .get("build")
                .filter(|build| build.as_map().is_some())
                .map(|build| self.build(build, node)),
            provider: node.get("provider").map(|provider| Provider {
                kind: text(provider, "type").unwrap_or_default(),
                options: option_values(provider.get("options")),
                environment: self.bind.environment.clone(),
                config: config::service_json(node),
            }),
            pull_policy: self.pull_policy(node),
            depends_on: depends_on(node),
            profiles: strings(node.get("profiles")),
            scale: scale.map_or(1, |scale| u32::try_from(scale).unwrap_or(0)),
            attach: node.get("attach").is_none_or(|attach| attach.value == Value::Bool(true)),
            file_hash: Some(config::service_hash(node)),
        }
    }

    fn container(&mut self, name: &str, node: &Node, project: &Project) -> ContainerSpec {
        ContainerSpec {
            image: text(node, "image").unwrap_or_else(|| image_name(&project.name, name)),
            platform: text(node, "platform"),
            command: words(node.get("command")),
            entrypoint: words(node.get("entrypoint")),
            environment: optional_pairs(node.get("environment")),
            labels: pairs(node.get("labels")),
            annotations: pairs(node.get("annotations")),
            user: text(node, "user"),
            group_add: strings(node.get("group_add")),
            working_dir: text(node, "working_dir"),
            hostname: text(node, "hostname"),
            domainname: text(node, "domainname"),
            network: self.network_mode(node, project),
            mac_address: self.service_mac(node),
            dns: self.dns(node),
            links: Self::links(node),
            link_variables: false,
            ipc: self.ipc(node),
            pid: self.pid(node),
            host_uts: self.is_host(node, "uts", ""),
            host_cgroup: self.is_host(node, "cgroup", "private"),
            ports: self.ports(node),
            expose: strings(node.get("expose")),
            extra_hosts: self.extra_hosts(node),
            mounts: self.mounts(node, project),
            volumes_from: self.volumes_from(node),
            files: self.files(node),
            devices: self.devices(node),
            device_rules: self.device_rules(node),
            device_requests: Self::device_requests(node),
            healthcheck: node.get("healthcheck").map(healthcheck),
            restart: self.restart(node),
            stop_signal: text(node, "stop_signal"),
            stop_grace_period: node.get_str("stop_grace_period").and_then(scalars::std_duration),
            pre_start: hooks(node.get("pre_start")),
            post_start: hooks(node.get("post_start")),
            pre_stop: hooks(node.get("pre_stop")),
            init: flag(node, "init"),
            tty: flag(node, "tty"),
            stdin_open: flag(node, "stdin_open"),
            read_only: flag(node, "read_only"),
            privileged: flag(node, "privileged"),
            cap_add: strings(node.get("cap_add")),
            cap_drop: strings(node.get("cap_drop")),
            security_opt: self.security_options(node),
            sysctls: pairs(node.get("sysctls")),
            ulimits: ulimits(node.get("ulimits")),
            limits: self.limits(node),
            cgroup_parent: self.cgroup_parent(node),
            oom_score_adj: integer(node.get("oom_score_adj")).and_then(|score| i32::try_from(score).ok()),
            shm_size: node.get_str("shm_size").and_then(|size| size.parse().ok()),
            logging: logging(node),
            container_name: text(node, "container_name"),
        }
    }

    fn ports(&mut self, node: &Node) -> Vec<Port> {
        let mut found = Vec::new();
        for (at, port) in node.get("ports").map(Node::items).unwrap_or_default().iter().enumerate() {
            let key = format!("ports[{at}]");
            let Some(target) = integer(port.get("target")).and_then(|port| u16::try_from(port).ok()) else {
                self.tell(port, &key, "this port has no container port (`target`) between 1 and 65535");
                continue;
            };
            let published = match port.get("published").filter(|node| node.as_str() != Some("")) {
                None => None,
                Some(node) => match ports::range(node.as_str().unwrap_or_default()) {
                    Some((first, last)) => Some(PortRange { first, last }),
                    None => {
                        self.tell(node, &key, "`published` is no port or range of ports");
                        continue;
                    }
                },
            };
            let protocol = match port.get_str("protocol") {
                None | Some("" | "tcp") => Protocol::Tcp,
                Some("udp") => Protocol::Udp,
                Some(other) => {
                    let message = format!("the protocol `{other}` cannot be published");
                    self.tell(port.get("protocol").unwrap_or(port), &key, message);
                    continue;
                }
            };
            let host_ip = port.get_str("host_ip").filter(|ip| !ip.is_empty()).map(IpAddr::from_str);
            if let Some(Err(_)) = host_ip {
                let message = format!("`{}` is no IP address", port.get_str("host_ip").unwrap_or_default());
                self.tell(port.get("host_ip").unwrap_or(port), &key, message);
                continue;
            }
            found.push(Port { target, published, host_ip: host_ip.and_then(Result::ok), protocol });
        }
        found
    }

    fn mounts(&mut self, node: &Node, project: &Project) -> Vec<Mount> {
        let mut found = Vec::new();
        for (at, mount) in node.get("volumes").map(Node::items).unwrap_or_default().iter().enumerate() {
            let Some(source) = self.mount_source(mount, project, at) else { continue };
            let target = text(mount, "target").unwrap_or_default();
            if !target.starts_with('/') {
                let message = format!("the target `{target}` of a mount must be an absolute path");
                self.tell(mount.get("target").unwrap_or(mount), &format!("volumes[{at}]"), message);
                continue;
            }
            found.push(Mount { target, read_only: flag(mount, "read_only"), source });
        }
        for entry in node.get("tmpfs").map(Node::items).unwrap_or_default() {
            let text = entry.as_str().unwrap_or_default();
            let (target, options) = text.split_once(':').unwrap_or((text, ""));
            let target = super::canonical::clean(target);
            found.push(tmpfs(target, options));
        }
        found
    }

    fn mount_source(&mut self, mount: &Node, project: &Project, at: usize) -> Option<MountSource> {
        let part = |section: &str, key: &str| mount.get(section).and_then(|section| section.get(key));
        let options = VolumeOptions {
            nocopy: part("volume", "nocopy").is_some_and(|node| node.value == Value::Bool(true)),
            subpath: part("volume", "subpath").and_then(Node::as_str).map(ToOwned::to_owned),
            labels: pairs(part("volume", "labels")),
        };
        let source = mount.get_str("source").filter(|source| !source.is_empty());
        match (mount.get_str("type").unwrap_or_default(), source) {
            ("volume", None) => Some(MountSource::Anonymous { options }),
            ("volume", Some(source)) => {
                let name = project.volumes.get(source).map_or_else(|| source.to_owned(), |v| v.name.clone());
                Some(MountSource::Volume { name, options })
            }
            ("bind", Some(source)) => Some(MountSource::Bind {
                path: PathBuf::from(source),
                create: part("bind", "create_host_path").is_none_or(|node| node.value == Value::Bool(true)),
                propagation: part("bind", "propagation").and_then(Node::as_str).map(ToOwned::to_owned),
                recursive: part("bind", "recursive").and_then(Node::as_str) != Some("disabled"),
            }),
            ("bind", None) => {
                self.tell(mount, &format!("volumes[{at}]"), "a bind mount needs a `source`");
                None
            }
            ("tmpfs", _) => Some(MountSource::Tmpfs(TmpfsOptions {
                size: part("tmpfs", "size").and_then(Node::as_str).and_then(|size| size.parse().ok()),
                mode: part("tmpfs", "mode").and_then(|node| match &node.value {
                    Value::Int(mode) => u32::try_from(*mode).ok(),
                    _ => None,
                }),
                options: Vec::new(),
            })),
            ("image", Some(source)) => Some(MountSource::Image {
                reference: source.to_owned(),
                subpath: part("image", "subpath").and_then(Node::as_str).map(ToOwned::to_owned),
            }),
            ("image", None) => {
                self.tell(mount, &format!("volumes[{at}]"), "a mount of an image needs a `source`");
                None
            }
            (other, _) => {
                let message = format!("mounts of type `{other}` are not for Linux machines on their own");
                self.tell(mount, &format!("volumes[{at}].type"), message);
                None
            }
        }
    }

    fn restart(&mut self, node: &Node) -> RestartPolicy {
        let policy = node.get("deploy").and_then(|deploy| deploy.get("restart_policy"));
        if let Some(policy) = policy.filter(|policy| policy.as_map().is_some()) {
            let attempts = integer(policy.get("max_attempts")).and_then(|n| u32::try_from(n).ok());
            return match policy.get_str("condition") {
                Some("none") => RestartPolicy::No,
                Some("on-failure") => RestartPolicy::OnFailure { max_retries: attempts.filter(|n| *n > 0) },
                Some("unless-stopped") => RestartPolicy::UnlessStopped,
                _ => RestartPolicy::Always,
            };
        }
        let Some(restart) = node.get("restart") else { return RestartPolicy::No };
        match restart.as_str().unwrap_or_default() {
            "" | "no" => RestartPolicy::No,
            "always" => RestartPolicy::Always,
            "unless-stopped" => RestartPolicy::UnlessStopped,
            text => {
                let (word, retries) = text.split_once(':').unwrap_or((text, ""));
                let count = retries.parse::<u32>().ok();
                if word == "on-failure" && (retries.is_empty() || count.is_some()) {
                    return RestartPolicy::OnFailure { max_retries: count.filter(|count| *count > 0) };
                }
                let known = ["no", "always", "on-failure", "unless-stopped"];
                let told = Diagnostic::error(format!(
                    "`{text}` is no restart policy; known are no, always, on-failure[:retries] and unless-stopped"
                ))
                .at(format_args!("{}.restart", self.path))
                .mark(self.bind.files.mark(restart.span, ""))
                .nearest(word, known);
                self.bind.diagnostics.push(told);
                RestartPolicy::No
            }
        }
    }

    fn pull_policy(&mut self, node: &Node) -> Option<PullPolicy> {
        let policy = node.get("pull_policy")?;
        Some(match policy.as_str().unwrap_or_default() {
            "always" => PullPolicy::Always,
            "never" => PullPolicy::Never,
            "missing" | "if_not_present" => PullPolicy::Missing,
            "build" => PullPolicy::Build,
            "refresh" => match node.get("pull_refresh_after") {
                // Compose gives it no length of its own.
                None => PullPolicy::Missing,
                Some(after) => {
                    let text = after.as_str().unwrap_or_default();
                    let Some(every) = calendar(text).or_else(|| scalars::std_duration(text)) else {
                        let message = format!("`{text}` is no time: expected one such as `12h` or `1w2d`");
                        self.tell(after, "pull_refresh_after", message);
                        return None;
                    };
                    PullPolicy::Every(every)
                }
            },
            "daily" => PullPolicy::Every(Duration::from_secs(86_400)),
            "weekly" => PullPolicy::Every(Duration::from_secs(7 * 86_400)),
            other => {
                let Some(every) = other.strip_prefix("every_").and_then(calendar) else {
                    let message = format!(
                        "`{other}` is no pull policy: expected `always`, `never`, `missing`, `build`, `daily`, \
                         `weekly` or `every_` and a time such as `12h` or `1w2d`"
                    );
                    self.tell(policy, "pull_policy", message);
                    return None;
                };
                PullPolicy::Every(every)
            }
        })
    }

    fn build(&mut self, build: &Node, service: &Node) -> Build {
        let inline = text(build, "dockerfile_inline");
        let network = text(build, "network");
        if let Some(other) = network.as_deref().filter(|name| !["default", "host", "none"].contains(name)) {
            let message = format!("RUN cannot join the network `{other}`; it is default, host or none");
            self.tell(build.get("network").unwrap_or(build), "build.network", message);
        }
        Build {
            context: PathBuf::from(text(build, "context").unwrap_or_default()),
            additional_contexts: pairs(build.get("additional_contexts")),
            dockerfile: text(build, "dockerfile").filter(|_| inline.is_none()).map(PathBuf::from),
            dockerfile_inline: inline,
            args: optional_pairs(build.get("args")),
            labels: pairs(build.get("labels")),
            target: text(build, "target"),
            no_cache: flag(build, "no_cache"),
            no_cache_filter: strings(build.get("no_cache_filter")),
            cache_from: strings(build.get("cache_from")),
            cache_to: strings(build.get("cache_to")),
            pull: flag(build, "pull"),
            tags: strings(build.get("tags")),
            platform: text(service, "platform"),
            platforms: strings(build.get("platforms")),
            every_platform: false,
            secrets: self.build_secrets(build),
            ssh: optional_pairs(build.get("ssh")),
            network,
            extra_hosts: self.extra_hosts(build),
            shm_size: build.get_str("shm_size").and_then(|size| size.parse().ok()),
            ulimits: ulimits(build.get("ulimits")),
            privileged: flag(build, "privileged"),
            entitlements: strings(build.get("entitlements")),
            isolation: text(build, "isolation"),
            provenance: text_or_flag(build, "provenance"),
            sbom: text_or_flag(build, "sbom"),
        }
    }

    /// By the id that the Dockerfile says: the target, or the name of the secret.
    fn build_secrets(&mut self, build: &Node) -> Vec<BuildSecret> {
        let mut found = Vec::new();
        for (at, mount) in build.get("secrets").map(Node::items).unwrap_or_default().iter().enumerate() {
            let name = mount.get_str("source").unwrap_or_default();
            // A name that no secret has was told before.
            let Some(secret) = self.bind.secrets.and_then(|secrets| secrets.get(name)) else { continue };
            let source = match (text(secret, "file"), text(secret, "environment")) {
                (Some(file), _) => SecretSource::File(PathBuf::from(file)),
                (None, Some(name)) => {
                    let value = self.bind.environment.get(&name).cloned().map(Hidden);
                    SecretSource::Environment { name, value }
                }
                (None, None) => {
                    let message = format!("the secret `{name}` of a build must be a file or a variable");
                    self.tell(mount, &format!("build.secrets[{at}]"), message);
                    continue;
                }
            };
            let id = text(mount, "target").unwrap_or_else(|| name.to_owned());
            found.push(BuildSecret { id, source });
        }
        found
    }
}

fn healthcheck(check: &Node) -> Healthcheck {
    let duration = |key: &str| check.get_str(key).and_then(scalars::std_duration);
    let test = if flag(check, "disable") {
        Some(HealthTest::Disabled)
    } else {
        let words = strings(check.get("test"));
        match words.first().map(String::as_str) {
            None => None,
            Some("NONE") => Some(HealthTest::Disabled),
            Some("CMD-SHELL") => Some(HealthTest::Shell(words[1..].join(" "))),
            Some(_) => Some(HealthTest::Command(words[1..].to_vec())),
        }
    };
    Healthcheck {
        test,
        interval: duration("interval"),
        timeout: duration("timeout"),
        retries: integer(check.get("retries")).and_then(|n| u32::try_from(n).ok()),
        start_period: duration("start_period"),
        start_interval: duration("start_interval"),
    }
}

fn tmpfs(target: String, options: &str) -> Mount {
    let mut tmpfs = TmpfsOptions::default();
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) if scalars::bytes(size).is_some() => {
                tmpfs.size = scalars::bytes(size).and_then(|size| u64::try_from(size).ok());
            }
            Some(("mode", mode)) if u32::from_str_radix(mode, 8).is_ok() => {
                tmpfs.mode = u32::from_str_radix(mode, 8).ok();
            }
            None if option == "ro" => read_only = true,
            None if option == "rw" => read_only = false,
            _ => tmpfs.options.push(option.to_owned()),
        }
    }
    Mount { target, read_only, source: MountSource::Tmpfs(tmpfs) }
}

fn logging(node: &Node) -> Logging {
    let Some(logging) = node.get("logging") else { return Logging::default() };
    Logging { driver: text(logging, "driver"), options: pairs(logging.get("options")) }
}

fn depends_on(node: &Node) -> IndexMap<String, Dependency> {
    let entries = node.get("depends_on").and_then(Node::as_map).into_iter().flatten();
    entries
        .map(|(key, node)| {
            let condition = match node.get_str("condition") {
                Some("service_healthy") => Condition::ServiceHealthy,
                Some("service_completed_successfully") => Condition::ServiceCompletedSuccessfully,
                _ => Condition::ServiceStarted,
            };
            let required = node.get("required").is_none_or(|node| node.value == Value::Bool(true));
            (key.text.clone(), Dependency { condition, restart: flag(node, "restart"), required })
        })
        .collect()
}

fn ulimits(node: Option<&Node>) -> IndexMap<String, Ulimit> {
    let entries = node.and_then(Node::as_map).into_iter().flatten();
    entries
        .filter_map(|(key, node)| {
            let both = integer(Some(node));
            let soft = integer(node.get("soft")).or(both)?;
            let hard = integer(node.get("hard")).or(both)?;
            Some((key.text.clone(), Ulimit { soft, hard }))
        })
        .collect()
}

// ---- reading canonical values ----

fn entries<'a>(model: &'a Node, key: &str) -> impl Iterator<Item = (&'a str, &'a Node)> {
    let map = model.get(key).and_then(Node::as_map).into_iter().flatten();
    map.map(|(key, node)| (key.text.as_str(), node))
}

fn text(node: &Node, key: &str) -> Option<String> {
    node.get_str(key).filter(|text| !text.is_empty()).map(ToOwned::to_owned)
}

fn flag(node: &Node, key: &str) -> bool {
    node.get(key).is_some_and(|node| node.value == Value::Bool(true))
}

fn text_or_flag(node: &Node, key: &str) -> Option<String> {
    match node.get(key).map(|node| &node.value) {
        Some(Value::Bool(flag)) => Some(flag.to_string()),
        _ => text(node, key),
    }
}

fn integer(node: Option<&Node>) -> Option<i64> {
    match node?.value {
        Value::Int(value) => i64::try_from(value).ok(),
        #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
        Value::Float(value) => Some(value as i64),
        _ => None,
    }
}

fn strings(node: Option<&Node>) -> Vec<String> {
    node.map(Node::items).unwrap_or_default().iter().filter_map(|item| item.value.scalar_text()).collect()
}

/// `None` when not set, an empty list when cleared.
fn words(node: Option<&Node>) -> Option<Vec<String>> {
    let node = node.filter(|node| !node.is_null())?;
    Some(strings(Some(node)))
}

fn optional_pairs(node: Option<&Node>) -> IndexMap<String, Option<String>> {
    let entries = node.and_then(Node::as_map).into_iter().flatten();
    let mut found: IndexMap<_, _> =
        entries.map(|(key, node)| (key.text.clone(), node.value.scalar_text())).collect();
    found.sort_unstable_keys();
    found
}

/// One value or several.
fn option_values(node: Option<&Node>) -> IndexMap<String, Vec<String>> {
    let entries = node.and_then(Node::as_map).into_iter().flatten();
    let values = |node: &Node| match node.value.scalar_text() {
        Some(value) => vec![value],
        None => strings(Some(node)),
    };
    entries.map(|(key, node)| (key.text.clone(), values(node))).collect()
}

fn hooks(node: Option<&Node>) -> Vec<Hook> {
    let hook = |node: &Node| Hook {
        command: strings(node.get("command")),
        user: text(node, "user"),
        privileged: flag(node, "privileged"),
        working_dir: text(node, "working_dir"),
        environment: optional_pairs(node.get("environment")),
    };
    node.map(Node::items).unwrap_or_default().iter().map(hook).collect()
}

fn pairs(node: Option<&Node>) -> IndexMap<String, String> {
    optional_pairs(node).into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect()
}

/// The place of every value of a tree, by model path.
#[must_use]
pub fn places(model: &Node, files: &Files) -> Places {
    let mut found = Vec::new();
    collect(model, "", files, &mut found);
    found.into_iter().collect()
}

fn collect(node: &Node, path: &str, files: &Files, found: &mut Vec<(String, crate::model::Place)>) {
    match &node.value {
        Value::Map(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.text.clone() } else { format!("{path}.{key}") };
                let span = if value.as_map().is_some() { key.span } else { value.span };
                found.extend(files.place(span).map(|place| (path.clone(), place)));
                collect(value, &path, files, found);
            }
        }
        Value::List(items) => {
            for (at, item) in items.iter().enumerate() {
                let path = format!("{path}[{at}]");
                found.extend(files.place(item.span).map(|place| (path.clone(), place)));
                collect(item, &path, files, found);
            }
        }
        _ => {}
    }
}
/// `1w2d12h30m10s`, as `every_` takes it.
fn calendar(text: &str) -> Option<Duration> {
    let mut whole: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..end].parse().ok()?;
        let unit = match rest.as_bytes()[end] {
            b'w' => 7 * 86_400,
            b'd' => 86_400,
            b'h' => 3_600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        whole = whole.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[end + 1..];
    }
    (!text.is_empty()).then(|| Duration::from_secs(whole))
}
