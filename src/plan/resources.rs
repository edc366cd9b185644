//! Networks and volumes that services use: which are missing, which differ.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    engine::{Container, NetworkInfo, Op},
    model::{MountSource, Network, NetworkMode, Service, Volume, label},
};

use super::{Cause, FieldChange, PlanError, StepId, draft::Draft, labels, order::Scene};

/// What some services use, by key of the file.
pub(super) struct Resources<'a> {
    networks: BTreeMap<&'a str, &'a Network>,
    volumes: BTreeMap<&'a str, &'a Volume>,
    /// Engine names of networks that exist and are made anew.
    pub replaced: BTreeSet<&'a str>,
    notes: Vec<String>,
}

/// The steps that make a network or volume, by engine name.
#[derive(Default)]
pub(super) struct Made<'a> {
    pub networks: BTreeMap<&'a str, StepId>,
    pub volumes: BTreeMap<&'a str, StepId>,
    /// The steps that take a replaced network away.
    pub unmade: BTreeMap<&'a str, StepId>,
}

impl<'a> Resources<'a> {
    /// # Errors
    /// An external network or volume that is not there, or one that is not declared.
    pub fn of(scene: &Scene<'a>, services: impl Iterator<Item = &'a Service>) -> Result<Self, PlanError> {
        let mut this = Self {
            networks: BTreeMap::new(),
            volumes: BTreeMap::new(),
            replaced: BTreeSet::new(),
            notes: Vec::new(),
        };
        for service in services {
            this.take_networks(scene, service)?;
            this.take_volumes(scene, service)?;
        }
        for (key, network) in &this.networks {
            let there = scene.observed.networks.get(&network.name);
            match there {
                None if network.external => return Err(missing("network", key, &network.name)),
                Some(info) if !network.external && differs(scene, key, network, info) => {
                    match strangers(scene, info).as_slice() {
                        [] => drop(this.replaced.insert(&network.name)),
                        users => this.notes.push(format!(
                            "network {} differs from the file and is kept: used by {}",
                            network.name,
                            users.join(", ")
                        )),
                    }
                }
                _ => {}
            }
        }
        for (key, volume) in &this.volumes {
            match scene.observed.volumes.get(&volume.name) {
                None if volume.external => return Err(missing("volume", key, &volume.name)),
                Some(info) if !volume.external && hash_differs(&info.labels, &labels::digest(volume)) => {
                    this.notes.push(format!(
                        "volume {} differs from the file and is kept with its data; \
                         remove it to have it made anew",
                        volume.name
                    ));
                }
                _ => {}
            }
        }
        Ok(this)
    }

    fn take_networks(&mut self, scene: &Scene<'a>, service: &'a Service) -> Result<(), PlanError> {
        let NetworkMode::Networks(joined) = &service.container.network else { return Ok(()) };
        for name in joined.keys() {
            let declared = scene.project.networks.iter().find(|(_, network)| network.name == *name);
            let Some((key, network)) = declared else {
                return Err(undeclared("network", &service.name, "networks", name));
            };
            self.networks.insert(key, network);
        }
        Ok(())
    }

    fn take_volumes(&mut self, scene: &Scene<'a>, service: &'a Service) -> Result<(), PlanError> {
        for mount in &service.container.mounts {
            let MountSource::Volume { name, .. } = &mount.source else { continue };
            let declared = scene.project.volumes.iter().find(|(_, volume)| volume.name == *name);
            let Some((key, volume)) = declared else {
                return Err(undeclared("volume", &service.name, "volumes", name));
            };
            self.volumes.insert(key, volume);
        }
        Ok(())
    }

    /// Writes the steps down.
    pub fn make(self, scene: &Scene<'a>, draft: &mut Draft) -> Made<'a> {
        let project = scene.project;
        let mut made = Made::default();
        for (key, network) in self.networks {
            let labels = labels::network(project, key, network);
            let old = scene.observed.networks.get(&network.name);
            let cause = match old {
                None => Cause::Missing,
                Some(info) if self.replaced.contains(network.name.as_str()) => {
                    let cause = changed(scene, key, info, &labels::digest(network));
                    let removal = Op::RemoveNetwork { name: network.name.clone() };
                    made.unmade.insert(&network.name, draft.add(removal, cause.clone()));
                    cause
                }
                Some(_) => continue,
            };
            let op = Op::CreateNetwork { project: project.name.clone(), network: network.clone(), labels };
            let create = draft.add(op, cause);
            draft.need_all(create, made.unmade.get(network.name.as_str()).copied());
            made.networks.insert(&network.name, create);
        }
        for (key, volume) in self.volumes {
            if scene.observed.volumes.contains_key(&volume.name) {
                continue;
            }
            let labels = labels::volume(project, key, volume);
            let op = Op::CreateVolume { project: project.name.clone(), volume: volume.clone(), labels };
            made.volumes.insert(&volume.name, draft.add(op, Cause::Missing));
        }
        draft.notes.extend(self.notes);
        made
    }
}

fn differs(scene: &Scene<'_>, key: &str, network: &Network, info: &NetworkInfo) -> bool {
    let ours = info.labels.get(label::PROJECT) == Some(&scene.project.name)
        && info.labels.get(label::NETWORK).is_some_and(|name| name == key);
    ours && hash_differs(&info.labels, &labels::digest(network))
}

fn hash_differs(found: &indexmap::IndexMap<String, String>, wanted: &str) -> bool {
    found.get(label::CONFIG_HASH).is_some_and(|hash| hash != wanted)
}

/// Containers on the network that a command on this project may not stop: those of other projects,
/// and one-off ones, behind which somebody may sit.
fn strangers(scene: &Scene<'_>, info: &NetworkInfo) -> Vec<String> {
    let may_stop = |container: &Container| !(container.is_one_off() && container.state.is_running());
    let ours = |name: &String| scene.observed.containers.iter().any(|c| c.name == *name && may_stop(c));
    info.containers.iter().filter(|name| !ours(name)).cloned().collect()
}

fn changed(scene: &Scene<'_>, key: &str, info: &NetworkInfo, new: &str) -> Cause {
    let path = format!("networks.{key}");
    let short = |hash: &str| Some(format!("config hash {}", hash.get(..12).unwrap_or(hash)));
    let from = info.labels.get(label::CONFIG_HASH).and_then(|old| short(old));
    let place = scene.project.places.nearest(&path).cloned();
    Cause::Changed(vec![FieldChange { path, from, to: short(new), place }])
}

fn missing(kind: &str, key: &str, name: &str) -> PlanError {
    PlanError::at(format!("{kind}s.{key}"), format!("{kind} `{name}` is external and does not exist"))
        .help("make it first, or drop `external: true` to have it made with the project")
}

fn undeclared(kind: &str, service: &str, field: &str, name: &str) -> PlanError {
    let path = format!("services.{service}.{field}");
    PlanError::at(path, format!("service `{service}` uses {kind} `{name}`, which is not declared"))
        .help(format!("declare it under `{kind}s:` at the top level"))
}
