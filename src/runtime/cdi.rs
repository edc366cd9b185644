//! The Container Device Interface: what a vendor's description says a container needs for a device.
//!
//! Descriptions are JSON files below /etc/cdi and /var/run/cdi, the latter winning (CDI specification 0.8).
//! YAML descriptions are told of, not read.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

use super::{
    ContainerConfig, Device, Error, MountConfig, MountKind, Result,
    state::{entries, file_error},
};

/// Where descriptions are, the later winning.
const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

#[derive(Debug, Deserialize)]
struct Description {
    kind: String,
    #[serde(default)]
    devices: Vec<Described>,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

#[derive(Debug, Deserialize)]
struct Described {
    name: String,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Bound>,
    hooks: Vec<Hook>,
    #[serde(rename = "additionalGids")]
    additional_gids: Vec<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: PathBuf,
    host_path: Option<PathBuf>,
    permissions: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bound {
    host_path: PathBuf,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hook {
    hook_name: String,
    path: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
}

/// Gives `config` what its devices need; the hooks of the OCI document that go with them.
///
/// # Errors
/// [`Error::Invalid`] for a device that nothing describes.
pub fn apply(config: &mut ContainerConfig) -> Result<Value> {
    apply_from(config, &DIRECTORIES.map(Path::new))
}

/// What of `names` nothing describes.
pub fn check(names: &[String]) -> Result<()> {
    let all = descriptions(&DIRECTORIES.map(Path::new))?;
    names.iter().try_for_each(|name| find(&all, name).map(drop))
}

/// The first of these kinds that is described, with the names of its devices.
#[must_use]
pub fn first_kind(kinds: &[&str]) -> Option<(String, Vec<String>)> {
    let all = descriptions(&DIRECTORIES.map(Path::new)).ok()?;
    let found =
        kinds.iter().find_map(|kind| all.iter().rev().find(|description| description.kind == *kind))?;
    Some((found.kind.clone(), found.devices.iter().map(|device| device.name.clone()).collect()))
}

fn apply_from(config: &mut ContainerConfig, directories: &[&Path]) -> Result<Value> {
    let mut hooks = serde_json::Map::new();
    if config.cdi.is_empty() {
        return Ok(Value::Object(hooks));
    }
    let all = descriptions(directories)?;
    let mut general: Vec<&str> = Vec::new();
    for name in config.cdi.clone() {
        let (description, device) = find(&all, &name)?;
        if !general.contains(&description.kind.as_str()) {
            general.push(&description.kind);
            edit(config, &description.edits, &mut hooks);
        }
        edit(config, &device.edits, &mut hooks);
    }
    Ok(Value::Object(hooks))
}

fn descriptions(directories: &[&Path]) -> Result<Vec<Description>> {
    let mut found = Vec::new();
    for directory in directories {
        for name in entries(directory)? {
            let path = directory.join(&name);
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = fs::read(&path).map_err(|e| file_error("cannot read", &path, e))?;
            found.push(
                serde_json::from_slice(&text)
                    .map_err(|e| file_error("cannot understand", &path, e.into()))?,
            );
        }
    }
    Ok(found)
}

fn find<'a>(all: &'a [Description], name: &str) -> Result<(&'a Description, &'a Described)> {
    let (kind, device) = name.split_once('=').unwrap_or((name, ""));
    let of_kind = all.iter().rev().filter(|description| description.kind == kind);
    let found = of_kind.into_iter().find_map(|description| {
        Some((description, description.devices.iter().find(|known| known.name == device)?))
    });
    found.ok_or_else(|| {
        let known: Vec<String> = all
            .iter()
            .flat_map(|d| d.devices.iter().map(move |device| format!("{}={}", d.kind, device.name)))
            .collect();
        let known = if known.is_empty() { "none is described".to_owned() } else { known.join(", ") };
        Error::Invalid(format!(
            "no JSON file in {} describes the device `{name}` (known: {known})",
            DIRECTORIES.join(" or ")
        ))
    })
}

fn edit(config: &mut ContainerConfig, edits: &Edits, hooks: &mut serde_json::Map<String, Value>) {
    let Edits { env, device_nodes, mounts, hooks: added, additional_gids } = edits;
    config.env.extend(env.iter().cloned());
    config.groups.extend(additional_gids.iter().filter(|gid| **gid != 0).map(ToString::to_string));
    config.devices.extend(device_nodes.iter().map(|node| Device {
        host: node.host_path.clone().unwrap_or_else(|| node.path.clone()),
        container: node.path.clone(),
        access: node.permissions.clone().unwrap_or_else(|| "rwm".to_owned()),
    }));
    config.mounts.extend(mounts.iter().map(|mount| MountConfig {
        target: mount.container_path.clone(),
        read_only: mount.options.iter().any(|option| option == "ro"),
        kind: MountKind::Bind {
            path: mount.host_path.clone(),
            create: false,
            propagation: None,
            recursive: true,
        },
    }));
    for hook in added {
        let list = hooks.entry(&hook.hook_name).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            list.push(serde_json::json!({"path": hook.path, "args": hook.args, "env": hook.env}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::oci::tests::config, *};

    const NULL: &str = r#"{
        "cdiVersion": "0.6.0", "kind": "acme.com/null",
        "devices": [{"name": "one", "containerEdits": {
            "env": ["ACME=one"],
            "deviceNodes": [{"path": "/dev/acme", "hostPath": "/dev/null", "permissions": "rw"}],
            "mounts": [{"hostPath": "/etc/hostname", "containerPath": "/acme", "options": ["ro", "bind"]}],
            "hooks": [{"hookName": "createContainer", "path": "/bin/true", "args": ["true"]}]}}],
        "containerEdits": {"env": ["ACME_ALL=1"]}}"#;

    #[test]
    fn a_container_is_given_what_the_description_says() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("acme.json"), NULL).unwrap();
        let mut config = config();
        config.cdi = vec!["acme.com/null=one".into()];
        let hooks = apply_from(&mut config, &[dir.path(), Path::new("/nowhere")]).unwrap();
        assert_eq!(config.env[1..], ["ACME_ALL=1", "ACME=one"]);
        assert_eq!(config.devices[0].host, Path::new("/dev/null"));
        assert_eq!(config.devices[0].access, "rw");
        assert!(config.mounts[0].read_only);
        assert_eq!(hooks["createContainer"][0]["path"], "/bin/true");
    }

    #[test]
    fn a_device_that_nothing_describes_is_told_with_those_that_are_known() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("acme.json"), NULL).unwrap();
        let mut config = config();
        config.cdi = vec!["acme.com/null=two".into()];
        let error = apply_from(&mut config, &[dir.path()]).unwrap_err().to_string();
        assert!(error.contains("`acme.com/null=two`") && error.contains("acme.com/null=one"), "{error}");
    }
}
