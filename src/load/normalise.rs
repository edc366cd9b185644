//! What a canonical tree leaves unsaid: defaults, names of resources, the default network, and the
//! dependencies that other attributes imply.

use super::{
    discover::Variables,
    tree::{Key, Map, Node, Span, Value},
};

fn text(value: impl Into<String>) -> Value {
    Value::Text(value.into())
}

/// Every mapping below a top-level key.
fn entries<'a>(model: &'a mut Node, key: &str) -> impl Iterator<Item = (&'a Key, &'a mut Node)> {
    model.get_mut(key).and_then(Node::as_map_mut).into_iter().flatten()
}

/// `gpus: all` to its long form. Not sooner, since within one file a list replaces it, while of two files
/// the lists are joined.
pub fn all_gpus(model: &mut Node, all_devices: &Value) {
    for (_, service) in entries(model, "services") {
        if service.get_str("gpus") == Some("all") {
            let mut all = Node::map(service.get("gpus").map(|gpus| gpus.span).unwrap_or_default());
            all.set("count", all_devices.clone());
            service.set("gpus", Value::List(vec![all]));
        }
    }
}

/// Defaults that hold even when nothing is normalised.
pub fn defaults(model: &mut Node, all_devices: &Value) {
    for kind in ["networks", "volumes", "configs", "secrets"] {
        for (_, resource) in entries(model, kind).filter(|(_, resource)| resource.is_null()) {
            resource.value = Value::Map(Map::default());
        }
    }
    for (_, service) in entries(model, "services") {
        if let Some(build) = service.get_mut("build").filter(|build| build.as_map().is_some())
            && build.get("context").is_none()
        {
            build.set("context", text("."));
        }
        if let Some(Value::List(servers)) = service.get_mut("dns").map(|dns| &mut dns.value) {
            servers.retain(|server| server.as_str() != Some(""));
        }
        for secret in items_mut(service.get_mut("secrets")) {
            if secret.get("target").is_none()
                && let Some(source) = secret.get_str("source").map(ToOwned::to_owned)
            {
                secret.set("target", text(format!("/run/secrets/{source}")));
            }
        }
        let devices = service
            .get_mut("deploy")
            .and_then(|deploy| deploy.get_mut("resources")?.get_mut("reservations")?.get_mut("devices"));
        for device in items_mut(devices) {
            whole_device(device, all_devices);
        }
        for device in items_mut(service.get_mut("gpus")) {
            whole_device(device, all_devices);
        }
    }
}

/// Options of providers to lists. Not sooner: of two files a list is laid on a list, while one value replaces
/// another.
pub fn provider_options(model: &mut Node) {
    for (_, service) in entries(model, "services") {
        let options =
            service.get_mut("provider").and_then(|provider| provider.get_mut("options")?.as_map_mut());
        for (_, option) in options.into_iter().flatten().filter(|(_, option)| option.as_str().is_some()) {
            option.value = Value::List(vec![option.clone()]);
        }
    }
}

/// `scale` as `deploy.replicas`, where there is a `deploy`.
pub fn replicas(model: &mut Node) {
    for (_, service) in entries(model, "services") {
        if let Some(scale) = service.get("scale").map(|scale| scale.value.clone())
            && let Some(deploy) = service.get_mut("deploy").filter(|deploy| deploy.as_map().is_some())
        {
            deploy.set("replicas", scale);
        }
    }
}

/// A request for devices that says neither how many nor which means all.
fn whole_device(device: &mut Node, all_devices: &Value) {
    if device.get("count").is_none() && device.get("device_ids").is_none() {
        device.set("count", all_devices.clone());
    }
}

fn items_mut(node: Option<&mut Node>) -> impl Iterator<Item = &mut Node> {
    match node.map(|node| &mut node.value) {
        Some(Value::List(items)) => items.iter_mut(),
        _ => [].iter_mut(),
    }
}

/// Names, the default network, implied dependencies.
pub fn normalise(model: &mut Node, name: &str, environment: &Variables) {
    model.set("name", text(name));
    let mut default_used = false;
    for (_, service) in entries(model, "services") {
        if service.as_map().is_none() {
            continue;
        }
        default_used |= normalise_service(service, environment);
    }
    if default_used {
        default_network(model);
    }
    for kind in ["networks", "volumes", "configs", "secrets"] {
        for (key, resource) in entries(model, kind) {
            let external = resource.get("external").map(|node| node.value.clone()) == Some(Value::Bool(true));
            if resource.get("name").is_none() {
                let named = if external { key.text.clone() } else { format!("{name}_{key}") };
                resource.set("name", text(named));
            }
        }
    }
}

/// Not there, or empty because a variable was not set.
fn is_unset(node: &Node, key: &str) -> bool {
    node.get(key).is_none_or(|value| value.as_str() == Some(""))
}

/// `true` when the service is on the default network.
fn normalise_service(service: &mut Node, environment: &Variables) -> bool {
    let span = service.span;
    if service.get_str("pull_policy") == Some("if_not_present") {
        service.set("pull_policy", text("missing"));
    }
    let no_networks = service.get("networks").and_then(Node::as_map).is_none_or(Map::is_empty);
    if no_networks && is_unset(service, "network_mode") && service.get("provider").is_none() {
        let mut networks = Node::map(span);
        networks.set("default", Value::Null);
        service.set("networks", networks.value);
    }
    let on_default = service.get("networks").and_then(|networks| networks.get("default")).is_some();
    if let Some(build) = service.get_mut("build").filter(|build| build.as_map().is_some()) {
        if build.get("dockerfile").is_none() && build.get("dockerfile_inline").is_none() {
            build.set("dockerfile", text("Dockerfile"));
        }
        if let Some(args) = build.get_mut("args") {
            inherit(args, environment);
            keep_set(args);
        }
    }
    imply_dependencies(service);
    on_default
}

/// A key alone gets the value of the variable, if there is one.
pub fn inherit(pairs: &mut Node, environment: &Variables) {
    match &mut pairs.value {
        Value::Map(map) => {
            for (key, value) in map.iter_mut().filter(|(_, value)| value.is_null()) {
                if let Some(found) = environment.get(&key.text) {
                    value.value = text(found.clone());
                }
            }
        }
        // Left as written.
        Value::List(items) => {
            for item in items {
                if let Some(found) = item.as_str().and_then(|name| environment.get(name)) {
                    let name = item.as_str().unwrap_or_default();
                    item.value = text(format!("{name}={found}"));
                }
            }
        }
        _ => {}
    }
}

/// Leaves out the keys that nobody gave a value.
fn keep_set(pairs: &mut Node) {
    match &mut pairs.value {
        Value::Map(map) => map.retain(|_, value| !value.is_null()),
        Value::List(items) => items.retain(|item| item.as_str().is_some_and(|text| text.contains('='))),
        _ => {}
    }
}

fn imply_dependencies(service: &mut Node) {
    let mut implied: Vec<(String, bool, Span)> = Vec::new();
    let list = |name: &str| service.get(name).map(Node::items).unwrap_or_default();
    for link in list("links") {
        let name = link.as_str().unwrap_or_default().split(':').next().unwrap_or_default();
        implied.push((name.to_owned(), true, link.span));
    }
    for key in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        if let Some(node) = service.get(key)
            && let Some(name) = node.as_str().and_then(|text| text.strip_prefix("service:"))
        {
            implied.push((name.to_owned(), true, node.span));
        }
    }
    for from in list("volumes_from") {
        let text = from.as_str().unwrap_or_default();
        if !text.starts_with("container:") {
            implied.push((text.split(':').next().unwrap_or_default().to_owned(), false, from.span));
        }
    }
    if implied.is_empty() {
        return;
    }
    if service.get("depends_on").and_then(Node::as_map).is_none() {
        service.set("depends_on", Value::Map(Map::default()));
    }
    let Some(depends_on) = service.get_mut("depends_on").and_then(Node::as_map_mut) else { return };
    for (name, restart, span) in implied {
        depends_on.entry(Key::new(name, span)).or_insert_with(|| {
            let mut dependency = Node::map(span);
            dependency.set("condition", text("service_started"));
            dependency.set("restart", Value::Bool(restart));
            dependency.set("required", Value::Bool(true));
            dependency
        });
    }
}

fn default_network(model: &mut Node) {
    if model.get("networks").and_then(Node::as_map).is_none() {
        model.set("networks", Value::Map(Map::default()));
    }
    let span = Span::default();
    if let Some(networks) = model.get_mut("networks").and_then(Node::as_map_mut) {
        networks.entry(Key::new("default", span)).or_insert_with(|| Node::map(span));
    }
}
