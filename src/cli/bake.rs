//! `build --print`: the builds as a bake file, in the keys and the order that docker compose prints.

use serde_json::{Map, Value, json};

use super::build::builds;
use crate::session::{Build, Project, SecretSource, Selection};

/// The file, with a line feed at its end.
pub(super) fn file(project: &Project, selection: &Selection) -> String {
    let mut wanted: Vec<(&str, &Build)> = builds(project, selection).collect();
    // What they build from, however far.
    let mut at = 0;
    while let Some((_, build)) = wanted.get(at).copied() {
        for base in build.additional_contexts.values().filter_map(|text| text.strip_prefix("service:")) {
            let service = project.services.get(base).or_else(|| project.disabled.get(base));
            if let Some((name, build)) =
                service.and_then(|service| Some((&*service.name, service.build.as_ref()?)))
                && !wanted.iter().any(|(known, _)| *known == name)
            {
                wanted.push((name, build));
            }
        }
        at += 1;
    }
    let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    wanted.sort_by_key(|(name, _)| *name);
    let targets: Map<String, Value> =
        wanted.iter().map(|(name, build)| ((*name).to_owned(), target(project, name, build))).collect();
    let whole = json!({"group": {"default": {"targets": names}}, "target": targets});
    serde_json::to_string_pretty(&whole).unwrap_or_default() + "\n"
}

fn target(project: &Project, service: &str, build: &Build) -> Value {
    let mut fields = Map::new();
    let mut set = |key: &str, value: Value| {
        let empty = match &value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if !empty {
            fields.insert(key.to_owned(), value);
        }
    };
    let image = project
        .services
        .get(service)
        .or_else(|| project.disabled.get(service))
        .map(crate::session::Service::image);
    let contexts: Map<String, Value> = build
        .additional_contexts
        .iter()
        .map(|(name, text)| {
            let text =
                text.strip_prefix("service:").map_or_else(|| text.clone(), |base| format!("target:{base}"));
            (name.clone(), json!(text))
        })
        .collect();
    set("context", json!(build.context));
    set("contexts", Value::Object(contexts));
    let dockerfile = build.dockerfile.as_ref().filter(|_| build.dockerfile_inline.is_none());
    set("dockerfile", json!(dockerfile.map(|path| build.context.join(path))));
    set("dockerfile-inline", json!(build.dockerfile_inline));
    let args: Map<String, Value> =
        build.args.iter().filter_map(|(name, value)| Some((name.clone(), json!(value.as_ref()?)))).collect();
    set("args", Value::Object(args));
    let mut labels = build.labels.clone();
    labels.insert("com.docker.compose.project".to_owned(), project.name.clone());
    labels.insert("com.docker.compose.service".to_owned(), service.to_owned());
    labels.insert("com.docker.compose.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    labels.sort_keys();
    set("labels", json!(labels));
    let tags: Vec<&str> = build.tags.iter().map(String::as_str).chain(image).collect();
    set("tags", json!(tags));
    set("cache-from", json!(build.cache_from));
    set("cache-to", json!(build.cache_to));
    set("target", json!(build.target));
    let secrets = build.secrets.iter().map(|secret| match &secret.source {
        SecretSource::File(path) => format!("id={},type=file,src={}", secret.id, path.display()),
        SecretSource::Environment { name, .. } => format!("id={},type=env,env={name}", secret.id),
    });
    set("secret", secrets.collect());
    let agents = build.ssh.iter().map(|(id, path)| format!("{id}={}", path.as_deref().unwrap_or_default()));
    set("ssh", agents.collect());
    set("platforms", json!(build.platforms));
    set("pull", json!(build.pull));
    set("no-cache", json!(build.no_cache));
    set("no-cache-filter", json!(build.no_cache_filter));
    set("network", json!(build.network));
    set("shm-size", json!(build.shm_size.map(|size| size.to_string())));
    let limits = build.ulimits.iter().map(|(name, limit)| {
        if limit.soft == limit.hard {
            format!("{name}={}", limit.soft)
        } else {
            format!("{name}={}:{}", limit.soft, limit.hard)
        }
    });
    set("ulimits", limits.collect());
    let mut entitlements = build.entitlements.clone();
    if build.privileged && !entitlements.iter().any(|name| name == "security.insecure") {
        entitlements.push("security.insecure".to_owned());
    }
    set("entitlements", json!(entitlements));
    let hosts: Map<String, Value> =
        build.extra_hosts.iter().map(|(host, ip)| (host.clone(), json!(ip.to_string()))).collect();
    set("extra-hosts", Value::Object(hosts));
    let attestations = [("provenance", &build.provenance), ("sbom", &build.sbom)];
    let attestations = attestations.into_iter().filter_map(|(kind, asked)| match asked.as_deref()? {
        "true" => Some(format!("type={kind}")),
        "false" => Some(format!("type={kind},disabled=true")),
        other => Some(format!("type={kind},{other}")),
    });
    set("attest", attestations.collect());
    set("output", json!([if build.platforms.len() > 1 { "type=image,push=false" } else { "type=docker" }]));
    Value::Object(fields)
}
