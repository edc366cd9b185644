//! What differs between the container that is there and the one the file asks for, field by field.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Map, Value};

use crate::{
    engine::Container,
    model::{
        Attachment, ContainerSpec, Dns, FileMount, FileSource, HealthTest, Healthcheck, Mount, MountSource,
        NetworkMode, Port, Project, RestartPolicy, Service, TmpfsOptions, VolumeOptions,
    },
};

use super::FieldChange;

/// The differences; none when the container is as the service says. An engine that remembers the
/// specification is asked for it, so that another version of the config hash means nothing.
pub(super) fn changes(project: &Project, service: &Service, container: &Container) -> Vec<FieldChange> {
    let base = format!("services.{}", service.name);
    let pairs = match &container.spec {
        Some(old) if *old == service.container => Vec::new(),
        Some(old) => differing(&fields(project, old), &fields(project, &service.container)),
        None => hashes(&container.config_hash, &service.config_hash()),
    };
    pairs
        .into_iter()
        .map(|(field, from, to)| {
            let path = if field.is_empty() { base.clone() } else { format!("{base}.{field}") };
            let place = project.places.nearest(&path).cloned();
            FieldChange { path, from, to, place }
        })
        .collect()
}

type Difference = (String, Option<String>, Option<String>);

fn hashes(old: &str, new: &str) -> Vec<Difference> {
    let short = |hash: &str| Some(format!("config hash {}", hash.get(..12).unwrap_or(hash)));
    if old == new { Vec::new() } else { vec![(String::new(), short(old), short(new))] }
}

fn differing(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<Difference> {
    let keys: Vec<&String> = new.keys().chain(old.keys().filter(|key| !new.contains_key(*key))).collect();
    let mut found = Vec::new();
    for key in keys {
        let (from, to) = (old.get(key).unwrap_or(&Value::Null), new.get(key).unwrap_or(&Value::Null));
        compare(key, from, to, &mut found);
    }
    found
}

fn compare(path: &str, from: &Value, to: &Value, found: &mut Vec<Difference>) {
    match (from, to) {
        _ if from == to => {}
        (Value::Object(old), Value::Object(new)) => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let path =
                    if key.starts_with('[') { format!("{path}{key}") } else { format!("{path}.{key}") };
                match (old.get(key), new.get(key)) {
                    (Some(from), Some(to)) => compare(&path, from, to, found),
                    (from, to) => found.push((path, from.map(present), to.map(present))),
                }
            }
        }
        _ => found.push((path.to_owned(), text(from), text(to))),
    }
}

/// Of a key that stands in the mapping: even an empty value is something.
fn present(value: &Value) -> String {
    text(value).unwrap_or_else(|| "(no value)".to_owned())
}

/// Short text; `None` for what is absent.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => Some("\"\"".to_owned()),
        Value::String(text) => Some(text.clone()),
        Value::Array(items) if items.is_empty() => Some("[]".to_owned()),
        other => Some(other.to_string()),
    }
}

/// The specification under the names that the file uses, values as it writes them.
fn fields(project: &Project, spec: &ContainerSpec) -> Map<String, Value> {
    let Ok(Value::Object(raw)) = serde_json::to_value(spec) else { return Map::new() };
    let mut named = Map::new();
    for (field, value) in raw {
        match field.as_str() {
            "network" => {
                let (key, value) = network(project, spec);
                named.insert(key.to_owned(), value);
            }
            "ports" => drop(named.insert(field, list(spec.ports.iter().map(port)))),
            "mounts" => drop(named.insert("volumes".to_owned(), mounts(project, spec))),
            "extra_hosts" => {
                let hosts = spec.extra_hosts.iter().map(|(host, ip)| format!("{host}={ip}"));
                named.insert(field, list(hosts));
            }
            "mac_address" => drop(named.insert(field, spec.mac_address.map(mac_text).into())),
            "dns" => dns(&spec.dns, &mut named),
            "links" => {
                let links = spec.links.iter().map(|(name, alias)| format!("{name}:{alias}"));
                named.insert(field, list(links));
            }
            // It goes with the format of the file.
            "link_variables" => {}
            "ipc" => drop(named.insert(field, spec.ipc.to_string().into())),
            "pid" => drop(named.insert(field, spec.pid.to_string().into())),
            "host_uts" => drop(named.insert("uts".to_owned(), host(spec.host_uts))),
            "host_cgroup" => drop(named.insert("cgroup".to_owned(), host(spec.host_cgroup))),
            "volumes_from" => {
                drop(named.insert(field, list(spec.volumes_from.iter().map(ToString::to_string))));
            }
            "devices" => drop(named.insert(field, list(spec.devices.iter().map(ToString::to_string)))),
            "device_rules" => {
                let rules = list(spec.device_rules.iter().map(ToString::to_string));
                named.insert("device_cgroup_rules".to_owned(), rules);
            }
            "device_requests" => drop(named.insert("gpus".to_owned(), value)),
            "files" => drop(named.insert("secrets and configs".to_owned(), files(&spec.files))),
            "limits" => limits(value, &mut named),
            "restart" => drop(named.insert(field, restart(spec.restart).into())),
            "stop_grace_period" => drop(named.insert(field, duration(spec.stop_grace_period))),
            "healthcheck" => drop(named.insert(field, healthcheck(spec.healthcheck.as_ref()))),
            _ => drop(named.insert(field, value)),
        }
    }
    named
}

fn list(items: impl Iterator<Item = String>) -> Value {
    Value::Array(items.map(Value::String).collect())
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Object(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn network(project: &Project, spec: &ContainerSpec) -> (&'static str, Value) {
    let mode = |text: String| ("network_mode", Value::String(text));
    match &spec.network {
        NetworkMode::None => mode("none".to_owned()),
        NetworkMode::Host => mode("host".to_owned()),
        NetworkMode::Of(lender) => mode(lender.to_string()),
        NetworkMode::Networks(networks) => {
            let key_of = |name: &String| {
                let declared = project.networks.iter().find(|(_, network)| network.name == *name);
                declared.map_or(name, |(key, _)| key).clone()
            };
            let joined = networks.iter().map(|(name, joined)| (key_of(name), attachment(joined).into()));
            ("networks", Value::Object(joined.collect()))
        }
    }
}

fn attachment(attachment: &Attachment) -> String {
    let Attachment {
        aliases,
        ipv4_address,
        ipv6_address,
        link_local_ips,
        priority,
        gw_priority,
        mac_address,
        interface_name,
        driver_opts,
    } = attachment;
    let mut text = "joined".to_owned();
    if !aliases.is_empty() {
        text += &format!(" as {}", aliases.join(", "));
    }
    let v4 = ipv4_address.iter().map(ToString::to_string);
    let v6 = ipv6_address.iter().map(ToString::to_string);
    let addresses: Vec<_> = v4.chain(v6).chain(link_local_ips.iter().map(ToString::to_string)).collect();
    if !addresses.is_empty() {
        text += &format!(" with {}", addresses.join(", "));
    }
    if let Some(mac) = mac_address {
        text += &format!(", {}", mac_text(*mac));
    }
    if let Some(name) = interface_name {
        text += &format!(", interface {name}");
    }
    if *priority != 0 {
        text += &format!(", priority {priority}");
    }
    if *gw_priority != 0 {
        text += &format!(", gateway priority {gw_priority}");
    }
    driver_opts.iter().for_each(|(name, value)| text += &format!(", {name}={value}"));
    text
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// `127.0.0.1:8080:80/tcp`, as in the file.
fn port(port: &Port) -> String {
    let host = port.host_ip.map(|ip| format!("{ip}:")).unwrap_or_default();
    let published = match port.published {
        None => String::new(),
        Some(range) if range.first == range.last => format!("{}:", range.first),
        Some(range) => format!("{}-{}:", range.first, range.last),
    };
    format!("{host}{published}{}/{}", port.target, port.protocol)
}

/// By target, so that one mount more does not look like a change of all.
fn mounts(project: &Project, spec: &ContainerSpec) -> Value {
    let by_target =
        spec.mounts.iter().map(|mount| (format!("[{}]", mount.target), mount_text(project, mount)));
    Value::Object(by_target.map(|(target, text)| (target, text.into())).collect())
}

fn mount_text(project: &Project, mount: &Mount) -> String {
    let mut text = match &mount.source {
        MountSource::Volume { name, options } => {
            let declared = project.volumes.iter().find(|(_, volume)| volume.name == *name);
            format!("volume {}{}", declared.map_or(name, |(key, _)| key), volume_text(options))
        }
        MountSource::Anonymous { options } => format!("anonymous volume{}", volume_text(options)),
        MountSource::Bind { path, create, propagation, recursive } => {
            let recursive = if *recursive { "" } else { ", not recursive" };
            let create = if *create { "" } else { ", not created" };
            let propagation = propagation.iter().map(|mode| format!(", {mode}")).collect::<String>();
            format!("{}{create}{propagation}{recursive}", path.display())
        }
        MountSource::Tmpfs(TmpfsOptions { size, mode, options }) => {
            let size = size.map(|size| format!(", {size} bytes"));
            let mode = mode.map(|mode| format!(", mode {mode:o}"));
            let options = options.iter().map(|option| format!(", {option}"));
            let all: String = size.into_iter().chain(mode).chain(options).collect();
            format!("tmpfs{all}")
        }
        MountSource::Image { reference, subpath } => {
            let subpath = subpath.iter().map(|path| format!(", subpath {path}")).collect::<String>();
            format!("image {reference}{subpath}")
        }
    };
    if mount.read_only {
        text += ", read only";
    }
    text
}

fn volume_text(VolumeOptions { nocopy, subpath, labels }: &VolumeOptions) -> String {
    let nocopy = if *nocopy { ", nocopy" } else { "" };
    let subpath = subpath.iter().map(|path| format!(", subpath {path}")).collect::<String>();
    let labels = labels.iter().map(|(name, value)| format!(", label {name}={value}")).collect::<String>();
    format!("{nocopy}{subpath}{labels}")
}

fn dns(Dns { servers, search, options }: &Dns, named: &mut Map<String, Value>) {
    named.insert("dns".to_owned(), list(servers.iter().map(ToString::to_string)));
    named.insert("dns_search".to_owned(), list(search.iter().cloned()));
    named.insert("dns_opt".to_owned(), list(options.iter().cloned()));
}

fn host(shared: bool) -> Value {
    if shared { "host".into() } else { Value::Null }
}

/// By target; of a text only that it is another one.
fn files(files: &[FileMount]) -> Value {
    let by_target = files.iter().map(|file| {
        let FileMount { target, source, uid, gid, mode } = file;
        let source = match source {
            FileSource::Path(path) => path.display().to_string(),
            FileSource::Text(text) => format!("{text:?}"),
        };
        (format!("[{target}]"), format!("{source}, {uid}:{gid}, mode {mode:04o}").into())
    });
    Value::Object(by_target.collect())
}

fn restart(policy: RestartPolicy) -> String {
    match policy {
        RestartPolicy::No => "no".to_owned(),
        RestartPolicy::Always => "always".to_owned(),
        RestartPolicy::UnlessStopped => "unless-stopped".to_owned(),
        RestartPolicy::OnFailure { max_retries: None } => "on-failure".to_owned(),
        RestartPolicy::OnFailure { max_retries: Some(retries) } => format!("on-failure:{retries}"),
    }
}

fn duration(duration: Option<Duration>) -> Value {
    duration.map_or(Value::Null, |duration| format!("{duration:?}").into())
}

fn healthcheck(check: Option<&Healthcheck>) -> Value {
    let Some(check) = check else { return Value::Null };
    let Healthcheck { test, interval, timeout, retries, start_period, start_interval } = check;
    let test = match test {
        None => Value::Null,
        Some(HealthTest::Disabled) => "disabled".into(),
        Some(HealthTest::Shell(script)) => script.as_str().into(),
        Some(HealthTest::Command(words)) => list(words.iter().cloned()),
    };
    object([
        ("test", test),
        ("interval", duration(*interval)),
        ("timeout", duration(*timeout)),
        ("retries", (*retries).into()),
        ("start_period", duration(*start_period)),
        ("start_interval", duration(*start_interval)),
    ])
}

fn limits(value: Value, named: &mut Map<String, Value>) {
    let Value::Object(limits) = value else { return };
    for (limit, value) in limits {
        let name = match limit.as_str() {
            "memory" => "mem_limit",
            "memory_swap" => "memswap_limit",
            "memory_reservation" => "mem_reservation",
            "nano_cpus" => "cpus",
            "pids" => "pids_limit",
            "memory_swappiness" => "mem_swappiness",
            "blkio" => "blkio_config",
            other => other,
        };
        named.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use indexmap::IndexMap;

    use super::*;
    use crate::engine::{ContainerId, ContainerState};

    fn container(spec: ContainerSpec) -> Container {
        Container {
            id: ContainerId("1".repeat(64)),
            name: String::new(),
            project: String::new(),
            service: String::new(),
            number: 1,
            labels: IndexMap::new(),
            config_hash: spec.digest(),
            spec: Some(spec),
            image: String::new(),
            image_id: String::new(),
            replaces: None,
            state: ContainerState::Running,
            health: None,
            command: Vec::new(),
            created: SystemTime::UNIX_EPOCH,
            started: None,
            finished: None,
            out_of_memory: false,
            owed_hooks: None,
            host_restarted: false,
            restarts: 0,
            ports: Vec::new(),
            exposed: Vec::new(),
            networks: Vec::new(),
            mounts: Vec::new(),
        }
    }

    #[test]
    fn of_a_container_whose_spec_is_forgotten_only_the_hash_is_compared() {
        let project = Project::default();
        let service = Service { name: "web".to_owned(), ..Service::default() };
        let mut same = container(service.container.clone());
        same.spec = None;
        assert_eq!(changes(&project, &service, &same), []);
        let other = Container { config_hash: "ab".repeat(32), ..same };
        let [change] = changes(&project, &service, &other).try_into().unwrap();
        assert_eq!(change.path, "services.web");
        assert_eq!(change.from.unwrap(), "config hash abababababab");
    }

    fn told(edit: impl FnOnce(&mut ContainerSpec)) -> String {
        let old = ContainerSpec::default();
        let mut new = old.clone();
        edit(&mut new);
        let project = Project::default();
        let found = differing(&fields(&project, &old), &fields(&project, &new));
        let line = |(path, from, to): Difference| {
            format!("{path}: {} -> {}", from.unwrap_or_default(), to.unwrap_or_default())
        };
        found.into_iter().map(line).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn values_are_told_as_the_file_writes_them() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(told(|new| new.stop_grace_period = seconds(90)), "stop_grace_period:  -> 90s");
        assert_eq!(
            told(|new| new.restart = RestartPolicy::OnFailure { max_retries: Some(3) }),
            "restart: no -> on-failure:3"
        );
        assert_eq!(told(|new| new.network = NetworkMode::Host), "network_mode:  -> host; networks: {} -> ");
        assert_eq!(told(|new| new.command = Some(vec![])), "command:  -> []");
        assert_eq!(
            told(|new| drop(new.environment.insert("A".into(), None))),
            "environment.A:  -> (no value)"
        );
        assert_eq!(told(|new| new.limits.pids = Some(50)), "pids_limit:  -> 50");
        assert_eq!(told(|new| new.privileged = true), "privileged: false -> true");
    }

    #[test]
    fn a_mount_is_told_by_its_target() {
        let source =
            MountSource::Bind { path: "/src".into(), create: true, propagation: None, recursive: true };
        let mount = Mount { target: "/app".to_owned(), read_only: true, source };
        assert_eq!(told(|new| new.mounts.push(mount)), "volumes[/app]:  -> /src, read only");
    }

    #[test]
    fn variables_in_another_order_are_no_difference() {
        let mut old = ContainerSpec::default();
        old.environment.insert("A".into(), Some("1".into()));
        old.environment.insert("B".into(), Some("2".into()));
        let mut new = old.clone();
        new.environment.reverse();
        let project = Project::default();
        let service = Service { container: new, ..Service::default() };
        assert_eq!(changes(&project, &service, &container(old)), []);
    }
}
