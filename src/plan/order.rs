//! Which comes first: services by what they need, and anything else numbered.

use std::collections::HashMap;

use crate::{
    engine::{Container, Observed},
    model::{Condition, Graph, IpcMode, Lender, NetworkMode, PidMode, Project, Service, label},
};

use super::PlanError;

/// What a plan is made from, with the services in dependency order.
pub(super) struct Scene<'a> {
    pub project: &'a Project,
    pub observed: &'a Observed,
    /// Enabled services that are containers, each after those it needs.
    pub services: Vec<&'a Service>,
    /// Containers by service, one-off ones left out, oldest first.
    containers: HashMap<&'a str, Vec<&'a Container>>,
}

/// One service that another needs.
pub(super) struct Need<'a> {
    pub on: &'a str,
    pub condition: Condition,
    /// The dependent is restarted with it.
    pub restart: bool,
    /// The dependent cannot start without it.
    pub required: bool,
    /// The dependent lives in one of its namespaces, and cannot outlive it.
    pub namespace: bool,
    /// The dependent mounts its volumes, and is made anew with it.
    pub volumes: bool,
}

impl<'a> Scene<'a> {
    /// # Errors
    /// Services that share a namespace in a circle (the graph holds no other circles).
    pub fn of(project: &'a Project, graph: &Graph, observed: &'a Observed) -> Result<Self, PlanError> {
        let services: Vec<&Service> = project.services.values().collect();
        let index = |name: &str| project.services.get_index_of(name);
        let order = sorted(services.len(), |at| {
            let service = services[at];
            let mut on: Vec<usize> = graph.dependencies(&service.name).filter_map(index).collect();
            on.extend(lenders(service).filter_map(index));
            on.sort_unstable();
            on
        })
        .map_err(|cycle| {
            let names: Vec<&str> = cycle.iter().map(|&at| services[at].name.as_str()).collect();
            PlanError::at(
                format!("services.{}.network_mode", names[0]),
                format!("services need each other in a circle: {}", names.join(" -> ")),
            )
        })?;
        let services =
            order.into_iter().map(|at| services[at]).filter(|service| service.provider.is_none()).collect();
        let mut containers: HashMap<&str, Vec<&Container>> = HashMap::new();
        for container in observed.containers.iter().filter(|container| !container.is_one_off()) {
            containers.entry(&container.service).or_default().push(container);
        }
        Ok(Self { project, observed, services, containers })
    }

    /// Containers of a service, one-off ones left out, oldest first.
    pub fn containers(&self, service: &str) -> impl Iterator<Item = &'a Container> {
        self.containers.get(service).into_iter().flatten().copied()
    }

    /// Containers whose service the files do not name (a disabled service is named), and one-off
    /// containers that have ended.
    pub fn orphans(&self) -> impl Iterator<Item = &'a Container> {
        let project = self.project;
        let known =
            |service: &str| project.services.contains_key(service) || project.disabled.contains_key(service);
        self.observed
            .containers
            .iter()
            .filter(move |c| if c.is_one_off() { !c.state.is_running() } else { !known(&c.service) })
    }

    /// Why the container is none of this project's business: another directory made it under the
    /// same project name.
    pub fn elsewhere(&self, container: &Container) -> Option<String> {
        let root = self.project.root.to_string_lossy();
        let other =
            container.labels.get(label::WORKING_DIR).filter(|dir| **dir != root && !root.is_empty())?;
        Some(format!("the project of the same name in {other} made it"))
    }

    /// What `service` needs among the enabled services.
    pub fn needs<'s>(&self, service: &'s Service) -> Vec<Need<'s>> {
        let namespaces: Vec<&str> = namespace_owners(service).collect();
        let volumes: Vec<&str> = volume_owners(service).collect();
        let mut needs: Vec<Need<'s>> = service
            .depends_on
            .iter()
            .map(|(on, dependency)| Need {
                on: on.as_str(),
                condition: dependency.condition,
                restart: dependency.restart,
                required: dependency.required,
                namespace: namespaces.contains(&on.as_str()),
                volumes: volumes.contains(&on.as_str()),
            })
            .collect();
        for on in lenders(service) {
            if needs.iter().all(|need| need.on != on) {
                let namespace = namespaces.contains(&on);
                needs.push(Need {
                    on,
                    condition: Condition::ServiceStarted,
                    restart: namespace,
                    required: true,
                    namespace,
                    volumes: volumes.contains(&on),
                });
            }
        }
        let is_container = |on: &str| self.project.services.get(on).is_some_and(|on| on.provider.is_none());
        needs.retain(|need| is_container(need.on));
        needs
    }
}

/// Services whose container must be there before one of this service can be made.
pub(super) fn lenders(service: &Service) -> impl Iterator<Item = &str> {
    namespace_owners(service).chain(volume_owners(service))
}

fn namespace_owners(service: &Service) -> impl Iterator<Item = &str> {
    let spec = &service.container;
    let network = match &spec.network {
        NetworkMode::Of(lender) => Some(lender),
        NetworkMode::Networks(_) | NetworkMode::None | NetworkMode::Host => None,
    };
    let ipc = match &spec.ipc {
        IpcMode::Of(lender) => Some(lender),
        IpcMode::Private | IpcMode::Shareable | IpcMode::None | IpcMode::Host => None,
    };
    let pid = match &spec.pid {
        PidMode::Of(lender) => Some(lender),
        PidMode::Private | PidMode::Host => None,
    };
    [network, ipc, pid].into_iter().flatten().filter_map(Lender::service)
}

fn volume_owners(service: &Service) -> impl Iterator<Item = &str> {
    service.container.volumes_from.iter().filter_map(|from| from.lender.service())
}

/// The numbers below `count`, each after those it needs and else in their own order; or the numbers
/// of a circle.
pub(super) fn sorted(count: usize, needs: impl Fn(usize) -> Vec<usize>) -> Result<Vec<usize>, Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; count];
    let mut order = Vec::with_capacity(count);
    for root in 0..count {
        let mut path = Vec::new();
        if marks[root] == Mark::New {
            marks[root] = Mark::Open;
            path.push((root, needs(root).into_iter()));
        }
        while let Some((at, rest)) = path.last_mut() {
            let at = *at;
            match rest.next() {
                None => {
                    marks[at] = Mark::Done;
                    order.push(at);
                    path.pop();
                }
                Some(next) if marks[next] == Mark::New => {
                    marks[next] = Mark::Open;
                    path.push((next, needs(next).into_iter()));
                }
                Some(next) if marks[next] == Mark::Open => {
                    let open = path.iter().map(|(at, _)| *at);
                    return Err(open.skip_while(|&at| at != next).chain([next]).collect());
                }
                Some(_) => {}
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_come_first_and_ties_keep_their_order() {
        let needs = [vec![3], vec![], vec![1, 0], vec![]];
        assert_eq!(sorted(4, |at| needs[at].clone()), Ok(vec![3, 0, 1, 2]));
    }

    #[test]
    fn a_circle_is_returned_closed() {
        let needs = [vec![1], vec![2], vec![1]];
        assert_eq!(sorted(3, |at| needs[at].clone()), Err(vec![1, 2, 1]));
    }

    #[test]
    fn a_chain_as_long_as_a_hostile_file_needs_no_deep_stack() {
        let last = 200_000;
        let order = sorted(last + 1, |at| if at < last { vec![at + 1] } else { vec![] }).unwrap();
        assert_eq!((order[0], order[last]), (last, 0));
    }
}
