//! A project built in a few words, and commands on a simulated engine: what tests of plans stand on.

use std::{collections::BTreeMap, num::NonZeroUsize, sync::Arc, time::SystemTime};

use ficelle::{
    apply::{self, Event, Report},
    engine::{Container, Engine, Observed, Scope},
    engines::simulated::Simulated,
    model::{
        Attachment, Condition, ContainerSpec, Dependency, Graph, HealthTest, Healthcheck, Mount, MountSource,
        Network, NetworkMode, Port, PortRange, Project, Protocol, Selection, Service, Volume, VolumeOptions,
        WithDependencies,
    },
    plan::{self, Goal, ImageOptions, Plan, PlanError},
};
use tokio::sync::watch;

/// The project `demo` with these services on its default network.
pub fn project(services: impl IntoIterator<Item = Service>) -> Project {
    let mut project = Project { name: "demo".to_owned(), root: "/work/demo".into(), ..Project::default() };
    project.files = vec!["/work/demo/compose.yaml".into()];
    for service in services {
        if let NetworkMode::Networks(networks) = &service.container.network {
            for name in networks.keys() {
                let key = name.strip_prefix("demo_").unwrap_or(name).to_owned();
                project.networks.insert(key, Network { name: name.clone(), ..Network::default() });
            }
        }
        for mount in &service.container.mounts {
            if let MountSource::Volume { name, .. } = &mount.source {
                let key = name.strip_prefix("demo_").unwrap_or(name).to_owned();
                project.volumes.insert(key, Volume { name: name.clone(), ..Volume::default() });
            }
        }
        project.services.insert(service.name.clone(), service);
    }
    project
}

/// One container of image `name:1` on the default network.
pub fn service(name: &str) -> Service {
    let container = ContainerSpec { image: format!("{name}:1"), ..ContainerSpec::default() };
    let service = Service { name: name.to_owned(), container, scale: 1, attach: true, ..Service::default() };
    service.on_network("default")
}

/// Small changes to a service, chained.
pub trait With: Sized {
    fn on_network(self, key: &str) -> Self;
    fn needs(self, on: &str, condition: Condition) -> Self;
    fn needs_and_restarts(self, on: &str) -> Self;
    fn wants(self, on: &str, condition: Condition) -> Self;
    fn env(self, key: &str, value: &str) -> Self;
    fn scale(self, scale: u32) -> Self;
    fn volume(self, key: &str) -> Self;
    fn anonymous(self, target: &str) -> Self;
    fn port(self, published: u16, target: u16) -> Self;
    fn checked(self) -> Self;
    fn command(self, words: &str) -> Self;
}

impl With for Service {
    fn on_network(mut self, key: &str) -> Self {
        if let NetworkMode::Networks(networks) = &mut self.container.network {
            networks.insert(format!("demo_{key}"), Attachment::default());
        }
        self
    }

    fn needs(mut self, on: &str, condition: Condition) -> Self {
        let dependency = Dependency { condition, restart: false, required: true };
        self.depends_on.insert(on.to_owned(), dependency);
        self
    }

    fn needs_and_restarts(mut self, on: &str) -> Self {
        let condition = Condition::ServiceStarted;
        self.depends_on.insert(on.to_owned(), Dependency { condition, restart: true, required: true });
        self
    }

    fn wants(mut self, on: &str, condition: Condition) -> Self {
        self.depends_on.insert(on.to_owned(), Dependency { condition, restart: false, required: false });
        self
    }

    fn env(mut self, key: &str, value: &str) -> Self {
        self.container.environment.insert(key.to_owned(), Some(value.to_owned()));
        self
    }

    fn scale(mut self, scale: u32) -> Self {
        self.scale = scale;
        self
    }

    fn volume(mut self, key: &str) -> Self {
        let source = MountSource::Volume { name: format!("demo_{key}"), options: VolumeOptions::default() };
        self.container.mounts.push(Mount { target: format!("/{key}"), read_only: false, source });
        self
    }

    fn anonymous(mut self, target: &str) -> Self {
        let source = MountSource::Anonymous { options: VolumeOptions::default() };
        self.container.mounts.push(Mount { target: target.to_owned(), read_only: false, source });
        self
    }

    fn port(mut self, published: u16, target: u16) -> Self {
        let published = Some(PortRange { first: published, last: published });
        self.container.ports.push(Port { target, published, host_ip: None, protocol: Protocol::Tcp });
        self
    }

    fn checked(mut self) -> Self {
        self.container.healthcheck = Some(Healthcheck {
            test: Some(HealthTest::Shell("true".to_owned())),
            interval: None,
            timeout: None,
            retries: None,
            start_period: None,
            start_interval: None,
        });
        self
    }

    fn command(mut self, words: &str) -> Self {
        self.container.command = Some(words.split_whitespace().map(ToOwned::to_owned).collect());
        self
    }
}

/// All services, or those named with what they need.
pub fn select(project: &Project, names: &[&str]) -> Selection {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let graph = Graph::of(project).unwrap();
    Selection::of(project, &graph, &names, WithDependencies::Yes).unwrap()
}

/// `up -d`.
pub fn up(project: &Project) -> Goal {
    Goal::running(select(project, &[]))
}

/// `down`.
pub fn down(project: &Project, volumes: bool) -> Goal {
    Goal::Removed { selection: select(project, &[]), volumes, remove_orphans: false, timeout: None }
}

/// What both rounds of a command did.
#[derive(Debug)]
pub struct Played {
    pub plan: Plan,
    pub report: Report,
    pub events: Vec<Event>,
}

/// A simulated engine on which goals are played as a session does.
pub struct Stage {
    pub engine: Simulated,
    /// Without a timer: what waits by the clock panics.
    pub runtime: tokio::runtime::Runtime,
}

impl Stage {
    pub fn new() -> Self {
        Self::on(Simulated::new())
    }

    pub fn on(engine: Simulated) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { engine, runtime }
    }

    /// Images, then the rest; stops after a failed first round, as a session does.
    pub fn play(&self, project: &Project, goal: &Goal) -> Played {
        let report = self.images(project, goal);
        if !report.is_success() {
            return Played { plan: Plan::default(), report, events: Vec::new() };
        }
        let plan = self.plan(project, goal).unwrap();
        let (report, events) = self.apply(&plan);
        Played { plan, report, events }
    }

    fn images(&self, project: &Project, goal: &Goal) -> Report {
        let Goal::Running { selection, .. } = goal else { return Report::default() };
        let observed = self.observe(project);
        let plan = plan::images(project, selection, &ImageOptions::default(), &observed).unwrap();
        self.apply(&plan).0
    }

    pub fn plan(&self, project: &Project, goal: &Goal) -> Result<Plan, PlanError> {
        let graph = Graph::of(project).unwrap();
        plan::converge(project, &graph, goal, &self.observe(project))
    }

    /// The images of the project are there.
    pub fn pull(&self, project: &Project) {
        assert!(self.images(project, &up(project)).is_success());
    }

    pub fn apply(&self, plan: &Plan) -> (Report, Vec<Event>) {
        self.apply_at_most(plan, None)
    }

    pub fn apply_at_most(&self, plan: &Plan, parallel: Option<NonZeroUsize>) -> (Report, Vec<Event>) {
        let mut events = Vec::new();
        let (_cancel, cancelled) = watch::channel(false);
        let engine: Arc<dyn Engine> = Arc::new(self.engine.clone());
        let mut hear = |event| events.push(event);
        let report = self.runtime.block_on(apply::run(plan, engine, parallel, cancelled, &mut hear));
        (report, events)
    }

    pub fn observe(&self, project: &Project) -> Observed {
        let scope = Scope {
            project: project.name.clone(),
            images: project.services.values().map(|service| service.image().to_owned()).collect(),
            networks: project.networks.values().map(|network| network.name.clone()).collect(),
            volumes: project.volumes.values().map(|volume| volume.name.clone()).collect(),
        };
        self.runtime.block_on(self.engine.observe(&scope)).unwrap()
    }

    pub fn containers(&self, project: &Project) -> Vec<Container> {
        self.observe(project).containers
    }

    /// Name, id and start of every container: what an unchanged `up` must not touch.
    pub fn identities(&self, project: &Project) -> BTreeMap<String, (String, Option<SystemTime>)> {
        let containers = self.containers(project).into_iter();
        containers.map(|container| (container.name, (container.id.0, container.started))).collect()
    }
}
