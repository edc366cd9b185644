//! What can be seen of a simulation without changing it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::SystemTime,
};

use indexmap::IndexMap;

use super::{
    Behaviour,
    record::{Life, Record, time},
    store::full,
    world::{World, clash, conflict, no_container, not_running, port_in_use},
};
use crate::{
    engine::{
        ContainerId, EngineError, LogItem, LogQuery, NetworkInfo, Observed, Op, ProcessInfo, PublishedPort,
        Scope, Stream, VolumeInfo,
    },
    model::{Port, label},
};

impl World {
    pub fn observe(&self, scope: &Scope) -> Observed {
        let ours = |labels: &IndexMap<String, String>| labels.get(label::PROJECT) == Some(&scope.project);
        let networks =
            self.networks.iter().filter(|(name, labels)| ours(labels) || scope.networks.contains(name));
        let volumes =
            self.volumes.iter().filter(|(name, labels)| ours(labels) || scope.volumes.contains(name));
        let id = |image: &String| self.images.get(&full(image).ok()?);
        Observed {
            containers: self
                .containers
                .iter()
                .filter(|c| c.project == scope.project)
                .map(Record::observed)
                .collect(),
            networks: networks.map(|(name, labels)| (name.clone(), self.network(name, labels))).collect(),
            volumes: volumes
                .map(|(name, labels)| (name.clone(), VolumeInfo { labels: labels.clone() }))
                .collect(),
            images: scope
                .images
                .iter()
                .filter_map(|image| Some((image.clone(), self.image(id(image)?))))
                .collect(),
        }
    }

    /// A container that runs.
    pub fn live(&self, id: &ContainerId) -> Result<&Record, EngineError> {
        let found = self.containers.iter().find(|record| record.id == id.0);
        let record = found.ok_or_else(|| no_container(&id.0))?;
        if record.state == Life::Running { Ok(record) } else { Err(not_running(record)) }
    }

    /// The processes of a container: its own program, while it runs.
    pub fn processes(&self, id: &ContainerId) -> Result<Vec<ProcessInfo>, EngineError> {
        let found = self.containers.iter().find(|record| record.id == id.0);
        let record = found.ok_or_else(|| no_container(&id.0))?;
        Ok(record.runs().then(|| record.process()).into_iter().collect())
    }

    /// What a container that was started does.
    pub fn behaviour(&self, id: &ContainerId) -> Result<Behaviour, EngineError> {
        let found = self.containers.iter().find(|record| record.id == id.0);
        let record = found.ok_or_else(|| no_container(&id.0))?;
        let exit = match record.state {
            Life::Exited(code) => Some(code),
            Life::Created | Life::Running | Life::Paused | Life::Restarting => None,
        };
        let lines = record.lines.iter().map(|(_, line)| line.clone()).collect();
        Ok(Behaviour { exit, health: None, lines })
    }

    /// How a container ended for good: its code, or nothing where it is gone.
    pub fn end_of(&self, id: &ContainerId) -> Option<Option<i32>> {
        let Some(record) = self.containers.iter().find(|record| record.id == id.0) else { return Some(None) };
        match record.state {
            Life::Exited(code) => Some(Some(code)),
            Life::Created | Life::Running | Life::Paused | Life::Restarting => None,
        }
    }

    fn network(&self, name: &str, labels: &IndexMap<String, String>) -> NetworkInfo {
        let joined = self.containers.iter().filter(|record| record.networks().any(|network| network == name));
        NetworkInfo { labels: labels.clone(), containers: joined.map(|record| record.name.clone()).collect() }
    }

    /// Names that another project has, and host ports that would be in use when `ops` come to start their
    /// containers.
    pub fn check(&self, ops: &[&Op]) -> Vec<EngineError> {
        let ends = |record: &&Record| {
            ops.iter()
                .any(|op| matches!(op, Op::Stop { id, .. } | Op::Remove { id, .. } if id.0 == record.id))
        };
        let stays: Vec<&Record> = self.containers.iter().filter(|record| !ends(record)).collect();
        let mut claims: Vec<(PublishedPort, &str)> = stays
            .iter()
            .flat_map(|record| record.ports.iter().map(|port| (*port, record.name.as_str())))
            .collect();
        let mut found = Vec::new();
        for op in ops {
            let Op::Create(create) = op else { continue };
            let namesake = |record: &&Record| record.name == create.name && record.project != create.project;
            if let Some(other) = self.containers.iter().find(namesake) {
                let Record { name, project, .. } = other;
                let message = format!("the name {name} is taken by a container of project {project}");
                found.push(conflict(message).at(format!("services.{}.container_name", create.service)));
            }
            for (at, port) in create.spec.ports.iter().enumerate() {
                let Some(range) = port.published.filter(|range| range.first == range.last) else { continue };
                let claim = wildcard(port, range.first);
                match claims.iter().find(|(other, _)| clash(other, &claim)) {
                    Some((_, holder)) => found.push(port_in_use(&create.service, at, range.first, holder)),
                    None => claims.push((claim, &create.name)),
                }
            }
        }
        found
    }

    /// What is new since the last call with the same `told` (lines and end by container id), in the
    /// order of time, and whether no more can come.
    pub fn logs(
        &self,
        query: &LogQuery,
        tail: Option<usize>,
        told: &mut BTreeMap<String, (usize, Option<u64>)>,
    ) -> (Vec<LogItem>, bool) {
        let wanted = |record: &&Record| {
            record.project == query.project
                && (query.containers.is_empty() || query.containers.contains(&record.name))
        };
        let mut items: Vec<(u64, LogItem)> = Vec::new();
        let mut over = true;
        for record in self.containers.iter().filter(wanted) {
            over &= !record.runs() && record.state != Life::Created;
            let (lines, ended) = told.entry(record.id.clone()).or_default();
            let from = tail.map_or(*lines, |tail| record.lines.len().saturating_sub(tail).max(*lines));
            let fits = |at: SystemTime| {
                query.since.is_none_or(|since| at >= since) && query.until.is_none_or(|until| at <= until)
            };
            for (at, text) in record.lines[from..].iter().filter(|(at, _)| fits(time(*at))) {
                let (container, text) = (record.name.clone(), text.clone().into_bytes());
                items.push((*at, LogItem::Line { container, stream: Stream::Stdout, time: time(*at), text }));
            }
            *lines = record.lines.len();
            if let (Some(at), true) = (record.finished, query.follow && record.finished != *ended) {
                *ended = Some(at);
                items.push((at, record.exited()));
            }
        }
        items.sort_by_key(|(at, _)| *at);
        (items.into_iter().map(|(_, item)| item).collect(), over)
    }
}

fn wildcard(port: &Port, host_port: u16) -> PublishedPort {
    let host_ip = port.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    PublishedPort { host_ip, host_port, target: port.target, protocol: port.protocol }
}
