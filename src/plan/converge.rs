//! `up`: decides what becomes of each container. Writes no step: `assemble` does.
//!
//! A container is told by its service and number. Of several with the same number (an interrupted
//! command left them) the newest that is as the file says stays, or the newest of all is replaced.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    engine::{Container, ContainerState},
    model::{NetworkMode, Selection, Service, container_name},
};

use super::{
    Cause, Goal, Plan, PlanError, Recreate, assemble,
    diff::changes,
    order::{Need, Scene},
    resources::Resources,
};

/// What becomes of one service.
pub(super) struct Decision<'a> {
    pub service: &'a Service,
    /// The command means it; else only what happens to others may touch it.
    pub selected: bool,
    pub replicas: Vec<Replica<'a>>,
    pub surplus: Vec<&'a Container>,
}

/// One container as it should be.
pub(super) struct Replica<'a> {
    pub number: u32,
    /// The name it will have.
    pub name: String,
    pub fate: Fate<'a>,
    /// Others with its number, to be removed.
    pub doubles: Vec<&'a Container>,
    /// It runs, stays the same, and must stop and start because of another.
    pub restart: Option<Cause>,
}

pub(super) enum Fate<'a> {
    Keep(&'a Container),
    Create,
    Recreate { old: &'a Container, cause: Cause },
}

impl<'a> Replica<'a> {
    /// The container that is there now.
    pub fn old(&self) -> Option<&'a Container> {
        match &self.fate {
            Fate::Keep(old) | Fate::Recreate { old, .. } => Some(old),
            Fate::Create => None,
        }
    }

    fn is_recreated(&self) -> bool {
        matches!(self.fate, Fate::Recreate { .. })
    }
}

/// The plan for [`Goal::Running`].
pub(super) fn running(scene: &Scene<'_>, goal: &Goal) -> Result<Plan, PlanError> {
    let Goal::Running { selection, recreate, recreate_dependencies, start, scale, .. } = goal else {
        return Ok(Plan::default());
    };
    let selected = scene.services.iter().copied().filter(|service| selection.contains(&service.name));
    let resources = Resources::of(scene, selected)?;
    let mut judge = Judge {
        scene,
        selection,
        recreate: *recreate,
        recreate_dependencies: *recreate_dependencies,
        start: *start,
        scale,
        replaced_networks: &resources.replaced,
        decisions: BTreeMap::new(),
    };
    for service in &scene.services {
        let decision = judge.decide(service)?;
        judge.decisions.insert(&service.name, decision);
    }
    let outdated = judge.kept_though_changed();
    let mut plan = assemble::running(scene, goal, &judge.decisions, resources)?;
    plan.notes.extend(outdated);
    plan.notes.extend(taken_over(scene, selection));
    Ok(plan)
}

/// Containers that the command means, and another directory made.
fn taken_over(scene: &Scene<'_>, selection: &Selection) -> Option<String> {
    let meant = selection.services().flat_map(|service| scene.containers(service));
    let foreign: Vec<(&str, String)> =
        meant.filter_map(|container| Some((container.name.as_str(), scene.elsewhere(container)?))).collect();
    let (name, elsewhere) = foreign.first()?;
    Some(format!(
        "container {name} is taken over: {elsewhere}; give one of them another name with `-p` or `name:`"
    ))
}

/// More are a slip of the keyboard; a plan must not eat all memory.
const MAX_REPLICAS: u32 = 10_000;

/// When a container of a service is replaced for its own sake.
#[derive(Clone, Copy, PartialEq)]
enum Policy {
    Of(Recreate),
    /// The command does not mean this service.
    Untouched,
}

struct Judge<'j, 'a> {
    scene: &'j Scene<'a>,
    selection: &'j Selection,
    recreate: Recreate,
    recreate_dependencies: Recreate,
    start: bool,
    scale: &'j BTreeMap<String, u32>,
    replaced_networks: &'j BTreeSet<&'a str>,
    decisions: BTreeMap<&'a str, Decision<'a>>,
}

impl<'a> Judge<'_, 'a> {
    /// Decisions on the services it needs must be there.
    fn decide(&self, service: &'a Service) -> Result<Decision<'a>, PlanError> {
        let policy = self.policy(&service.name);
        let needs = self.scene.needs(service);
        let mut replicas = self.present(service, policy, &needs);
        let mut surplus = Vec::new();
        if policy != Policy::Untouched {
            let wanted = self.wanted(service)?;
            replicas.sort_by_key(|replica| (replica.is_recreated(), replica.number));
            while replicas.len() > wanted {
                let last = replicas.pop();
                surplus.extend(last.into_iter().flat_map(|last| last.old().into_iter().chain(last.doubles)));
            }
            let taken: BTreeSet<u32> = replicas.iter().map(|replica| replica.number).collect();
            let free = (1..).filter(|number| !taken.contains(number)).take(wanted - replicas.len());
            replicas.extend(free.map(|number| {
                let (name, doubles) = (self.name(service, number), Vec::new());
                Replica { number, name, fate: Fate::Create, doubles, restart: None }
            }));
            replicas.sort_by_key(|replica| replica.number);
        }
        for replica in &mut replicas {
            replica.restart = self.restart(replica, &needs);
        }
        Ok(Decision { service, selected: policy != Policy::Untouched, replicas, surplus })
    }

    fn policy(&self, service: &str) -> Policy {
        if self.selection.named.contains(service) {
            Policy::Of(self.recreate)
        } else if self.selection.needed.contains(service) {
            Policy::Of(self.recreate_dependencies)
        } else {
            Policy::Untouched
        }
    }

    fn wanted(&self, service: &Service) -> Result<usize, PlanError> {
        let wanted = self.scale.get(&service.name).copied().unwrap_or(service.scale);
        if wanted > MAX_REPLICAS {
            let message = format!("service `{}` cannot have {wanted} containers", service.name);
            return Err(PlanError::at(format!("services.{}.scale", service.name), message)
                .help(format!("at most {MAX_REPLICAS} are made")));
        }
        match &service.container.container_name {
            Some(name) if wanted > 1 => Err(PlanError::at(
                format!("services.{}.container_name", service.name),
                format!(
                    "service `{}` cannot have {wanted} containers that are all named `{name}`",
                    service.name
                ),
            )
            .help("remove `container_name`, so that each replica gets a name of its own")),
            _ => Ok(usize::try_from(wanted).unwrap_or(usize::MAX)),
        }
    }

    fn name(&self, service: &Service, number: u32) -> String {
        let fixed = service.container.container_name.clone();
        fixed.unwrap_or_else(|| container_name(&self.scene.project.name, &service.name, number))
    }

    /// One replica for each number that is there.
    fn present(&self, service: &'a Service, policy: Policy, needs: &[Need<'_>]) -> Vec<Replica<'a>> {
        let mut numbers: BTreeMap<u32, Vec<&Container>> = BTreeMap::new();
        for container in self.scene.containers(&service.name) {
            numbers.entry(container.number).or_default().push(container);
        }
        let replica = |(number, mut same): (u32, Vec<&'a Container>)| {
            let causes: Vec<_> =
                same.iter().map(|container| self.why_recreate(service, container, policy, needs)).collect();
            let best = causes.iter().rposition(Option::is_none);
            let whole = || same.iter().rposition(|container| container.state != ContainerState::Dead);
            let at = best.or_else(whole).unwrap_or(same.len() - 1);
            let container = same.remove(at);
            let fate = match causes.into_iter().nth(at).flatten() {
                Some(cause) => Fate::Recreate { old: container, cause },
                None => Fate::Keep(container),
            };
            let name = match &fate {
                Fate::Keep(container) => container.name.clone(),
                Fate::Create | Fate::Recreate { .. } => self.name(service, number),
            };
            Replica { number, name, fate, doubles: same, restart: None }
        };
        numbers.into_iter().map(replica).collect()
    }

    fn why_recreate(
        &self,
        service: &Service,
        container: &Container,
        policy: Policy,
        needs: &[Need<'_>],
    ) -> Option<Cause> {
        if container.state == ContainerState::Dead {
            return Some(Cause::Interrupted);
        }
        let of_itself = match policy {
            Policy::Of(Recreate::Never) => return None,
            Policy::Of(Recreate::Always) => Some(Cause::Asked("--force-recreate")),
            Policy::Of(Recreate::Diverged) => self.diverged(service, container),
            Policy::Untouched => None,
        };
        of_itself.or_else(|| {
            let mut lenders = needs.iter().filter(|need| need.namespace || need.volumes);
            let gone = lenders.find(|lender| self.lender_is_gone(lender.on, container))?;
            Some(Cause::Dependency { on: gone.on.to_owned() })
        })
    }

    fn diverged(&self, service: &Service, container: &Container) -> Option<Cause> {
        let changes = changes(self.scene.project, service, container);
        if !changes.is_empty() {
            return Some(Cause::Changed(changes));
        }
        let image = self.scene.observed.images.get(service.image())?;
        (image.id != container.image_id).then(|| Cause::ImageChanged { image: service.image().to_owned() })
    }

    /// `--no-recreate`: what would be replaced without it.
    fn kept_though_changed(&self) -> Vec<String> {
        let never = |service: &str| self.policy(service) == Policy::Of(Recreate::Never);
        let kept = self.decisions.values().filter(|decision| never(&decision.service.name));
        let outdated = kept.flat_map(|decision| {
            let containers = decision.replicas.iter().filter_map(Replica::old);
            containers.filter(|container| self.diverged(decision.service, container).is_some())
        });
        let text = |container: &Container| {
            format!("container {} differs from the file and is kept (`--no-recreate`)", container.name)
        };
        outdated.map(text).collect()
    }

    /// The owner's container is made anew by this plan, or was after this container was made.
    fn lender_is_gone(&self, owner: &str, container: &Container) -> bool {
        let Some(owner) = self.decisions.get(owner) else { return false };
        // The first replica is the one that lends.
        owner.replicas.first().is_some_and(|replica| match &replica.fate {
            Fate::Create | Fate::Recreate { .. } => true,
            Fate::Keep(owner) => container.created < owner.created,
        })
    }

    fn restart(&self, replica: &Replica<'a>, needs: &[Need<'_>]) -> Option<Cause> {
        let Fate::Keep(container) = &replica.fate else { return None };
        if !self.start || !container.state.is_running() || container.is_one_off() {
            return None;
        }
        let network = container.networks.iter().find(|name| self.replaced_networks.contains(name.as_str()));
        let service = || needs.iter().find(|need| self.is_disturbed(need)).map(|need| need.on.to_owned());
        let on = network.map(|name| format!("network {name}")).or_else(service)?;
        Some(Cause::Dependency { on })
    }

    fn is_disturbed(&self, need: &Need<'_>) -> bool {
        let Some(decision) = self.decisions.get(need.on) else { return false };
        decision.replicas.iter().any(|replica| match &replica.fate {
            Fate::Recreate { .. } => need.restart || need.namespace,
            Fate::Create => false,
            Fate::Keep(container) => {
                let restarted = replica.restart.is_some() && (need.restart || need.namespace);
                let revived = decision.selected && !container.state.is_running() && need.namespace;
                restarted || revived
            }
        })
    }
}

/// The host ports a service asks for by number.
pub(super) fn fixed_ports(service: &Service) -> impl Iterator<Item = u16> {
    let published = service.container.ports.iter().filter_map(|port| port.published);
    published.flat_map(|range| range.first..=range.last)
}

/// Engine names of the networks a service joins.
pub(super) fn networks(service: &Service) -> impl Iterator<Item = &String> {
    let joined = match &service.container.network {
        NetworkMode::Networks(networks) => Some(networks.keys()),
        NetworkMode::None | NetworkMode::Host | NetworkMode::Of(_) => None,
    };
    joined.into_iter().flatten()
}
