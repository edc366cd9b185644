//! A project without its files: what the engine has under its name, as far as labels tell.

use crate::{
    engine::{Condition, Observed},
    model::{Dependency, Network, Project, Service, Volume, label},
};

/// The project that `observed` shows: services from containers, networks and volumes from labels.
pub(super) fn project(name: &str, observed: &Observed) -> Project {
    let mut project = Project { name: name.to_owned(), ..Project::default() };
    for container in &observed.containers {
        let service = project.services.entry(container.service.clone()).or_insert_with(|| {
            let mut spec = container.spec.clone().unwrap_or_default();
            spec.image.clone_from(&container.image);
            let depends_on = container.labels.get(label::DEPENDS_ON);
            Service {
                name: container.service.clone(),
                container: spec,
                depends_on: depends_on.map(|text| dependencies(text)).unwrap_or_default(),
                attach: true,
                ..Service::default()
            }
        });
        service.scale += 1;
    }
    let own = |labels: &indexmap::IndexMap<String, String>, key: &str| {
        let ours = labels.get(label::PROJECT).is_some_and(|project| project == name);
        ours.then(|| labels.get(key).cloned()).flatten()
    };
    for (engine_name, info) in &observed.networks {
        if let Some(key) = own(&info.labels, label::NETWORK) {
            project.networks.insert(key, Network { name: engine_name.clone(), ..Network::default() });
        }
    }
    for (engine_name, info) in &observed.volumes {
        if let Some(key) = own(&info.labels, label::VOLUME) {
            project.volumes.insert(key, Volume { name: engine_name.clone(), ..Volume::default() });
        }
    }
    project
}

/// `db:service_healthy:true,cache:service_started:false`: name, condition, restart.
fn dependencies(text: &str) -> indexmap::IndexMap<String, Dependency> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let mut fields = part.split(':');
            let name = fields.next().unwrap_or_default().to_owned();
            let condition = match fields.next() {
                Some("service_healthy") => Condition::ServiceHealthy,
                Some("service_completed_successfully") => Condition::ServiceCompletedSuccessfully,
                _ => Condition::ServiceStarted,
            };
            let restart = fields.next() == Some("true");
            (name, Dependency { condition, restart, required: false })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_gives_order_and_conditions_back() {
        let found = dependencies("db:service_healthy:true,cache:service_started:false");
        assert_eq!(found["db"].condition, Condition::ServiceHealthy);
        assert!(found["db"].restart);
        assert_eq!(found["cache"].condition, Condition::ServiceStarted);
        assert!(dependencies("").is_empty());
    }
}
