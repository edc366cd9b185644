//! A project of one case, and the engine it is played on.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ficelle::{
    engine::{
        Condition, Container, ContainerId, ContainerState, Conversation, CreateContainer, Engine,
        EngineError, ErrorKind, ExecRequest, LogItem, LogQuery, Observed, Op, Outcome, PullRequest, Scope,
        Silent, WaitFor,
    },
    model::{
        Attachment, ContainerSpec, HealthTest, Healthcheck, Mount, MountSource, Network, NetworkMode,
        PullPolicy, Volume, VolumeOptions, label,
    },
};
use tokio::{runtime::Runtime, sync::mpsc};

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs until it is told to end.
pub const IDLE: &[&str] = &["sleep", "1000"];

pub const IMAGE: &str = "busybox";

pub struct Field<'a> {
    pub engine: &'a Arc<dyn Engine>,
    pub runtime: &'a Runtime,
    pub project: String,
}

/// A container that was made.
#[derive(Clone, Debug)]
pub struct Made {
    pub project: String,
    pub name: String,
    pub id: ContainerId,
}

impl Made {
    pub fn start(&self) -> Op {
        Op::Start { project: self.project.clone(), name: self.name.clone() }
    }

    /// With the grace of the container's own.
    pub fn stop(&self) -> Op {
        self.stop_within(None)
    }

    pub fn stop_within(&self, timeout: Option<Duration>) -> Op {
        let Self { project, name, id } = self.clone();
        Op::Stop { project, name, id, timeout }
    }

    pub fn kill(&self, signal: &str) -> Op {
        let Self { project, name, id } = self.clone();
        Op::Kill { project, name, id, signal: signal.to_owned() }
    }

    pub fn pause(&self) -> Op {
        let Self { project, name, id } = self.clone();
        Op::Pause { project, name, id }
    }

    pub fn unpause(&self) -> Op {
        let Self { project, name, id } = self.clone();
        Op::Unpause { project, name, id }
    }

    pub fn remove(&self) -> Op {
        self.remove_with(false)
    }

    pub fn remove_with(&self, volumes: bool) -> Op {
        let Self { project, name, id } = self.clone();
        Op::Remove { project, name, id, volumes }
    }

    pub fn wait(&self, until: WaitFor) -> Op {
        Op::Wait { project: self.project.clone(), name: self.name.clone(), until }
    }

    pub fn wait_for(&self, condition: Condition) -> Op {
        self.wait(WaitFor::Condition(condition))
    }
}

impl<'a> Field<'a> {
    /// The image is there.
    pub fn new(engine: &'a Arc<dyn Engine>, runtime: &'a Runtime, case: &str) -> Self {
        // Distinct on the whole machine, and short: it becomes part of paths.
        let short: String = case.split('_').filter_map(|word| word.chars().next()).collect();
        let field = Self { engine, runtime, project: format!("{short}{}", std::process::id()) };
        let (image, service, platform, locked) = (IMAGE.to_owned(), "it".to_owned(), None, None);
        let policy = PullPolicy::Missing;
        field.ok(&Op::Pull(PullRequest { image, platform, policy, locked, service }));
        field
    }

    pub fn block<T>(&self, answer: impl Future<Output = T>) -> T {
        let answer = async { tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time") };
        self.runtime.block_on(answer)
    }

    pub fn perform(&self, op: &Op) -> Result<Outcome, EngineError> {
        self.block(self.engine.perform(op, Arc::new(Silent)))
    }

    #[track_caller]
    pub fn ok(&self, op: &Op) -> Outcome {
        self.perform(op).unwrap_or_else(|error| panic!("{op}: {error}"))
    }

    /// It must be refused so.
    #[track_caller]
    pub fn fails(&self, op: &Op, kind: ErrorKind) -> EngineError {
        let error = self.perform(op).expect_err(&op.to_string());
        assert_eq!(error.kind, kind, "{op}: {error}");
        error
    }

    /// Carried out, and nothing was to do.
    #[track_caller]
    pub fn unchanged(&self, op: &Op) {
        assert!(self.ok(op).unchanged, "{op}");
    }

    pub fn name(&self, service: &str) -> String {
        format!("{}-{service}-1", self.project)
    }

    /// A container of the service that has no network.
    pub fn wanted(&self, service: &str, command: &[&str]) -> CreateContainer {
        let spec = ContainerSpec {
            image: IMAGE.to_owned(),
            command: Some(command.iter().map(|word| (*word).to_owned()).collect()),
            // So that programs end by their signals.
            init: true,
            ..ContainerSpec::default()
        };
        let config_hash = format!("hash of {}", command.join(" "));
        let labels = [
            (label::PROJECT, self.project.as_str()),
            (label::SERVICE, service),
            (label::CONTAINER_NUMBER, "1"),
            (label::ONEOFF, "False"),
            (label::CONFIG_HASH, &config_hash),
            ("colour", "green"),
        ];
        CreateContainer {
            project: self.project.clone(),
            service: service.to_owned(),
            number: 1,
            name: self.name(service),
            spec,
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            config_hash,
            image_id: self.observe().images[IMAGE].id.clone(),
            replaces: None,
            once: None,
        }
    }

    #[track_caller]
    pub fn create(&self, create: &CreateContainer) -> Made {
        let outcome = self.ok(&Op::Create(Box::new(create.clone())));
        let id = ContainerId(outcome.id.expect("the id of what was made"));
        Made { project: create.project.clone(), name: create.name.clone(), id }
    }

    #[track_caller]
    pub fn made(&self, service: &str, command: &[&str]) -> Made {
        self.create(&self.wanted(service, command))
    }

    #[track_caller]
    pub fn started(&self, service: &str, command: &[&str]) -> Made {
        self.start(&self.wanted(service, command))
    }

    /// Makes and starts it.
    #[track_caller]
    pub fn start(&self, create: &CreateContainer) -> Made {
        let made = self.create(create);
        self.ok(&made.start());
        made
    }

    /// Starts it and waits for its end.
    #[track_caller]
    pub fn ended(&self, create: &CreateContainer) -> Made {
        let made = self.start(create);
        self.await_end(&made);
        made
    }

    #[track_caller]
    pub fn await_end(&self, made: &Made) {
        // With which code is not asked here.
        let _ = self.perform(&made.wait_for(Condition::ServiceCompletedSuccessfully));
        assert!(matches!(self.state(made), ContainerState::Exited(_)), "{:?}", self.state(made));
    }

    pub fn observe(&self) -> Observed {
        self.observe_as(&self.project, &[])
    }

    /// With things of others, networks and volumes alike.
    pub fn observe_as(&self, project: &str, things: &[&str]) -> Observed {
        let things: Vec<String> = things.iter().map(|name| (*name).to_owned()).collect();
        let images = [IMAGE, "nobody/has:this"].map(ToOwned::to_owned).to_vec();
        let scope = Scope { project: project.to_owned(), images, networks: things.clone(), volumes: things };
        self.block(self.engine.observe(&scope)).unwrap()
    }

    pub fn find(&self, made: &Made) -> Option<Container> {
        self.observe().containers.into_iter().find(|container| container.id == made.id)
    }

    #[track_caller]
    pub fn see(&self, made: &Made) -> Container {
        self.find(made).unwrap_or_else(|| panic!("{} is not observed", made.name))
    }

    #[track_caller]
    pub fn state(&self, made: &Made) -> ContainerState {
        self.see(made).state
    }

    pub fn network(&self, key: &str) -> Op {
        let network = Network { name: format!("{}_{key}", self.project), ..Network::default() };
        let labels = [(label::PROJECT, self.project.as_str()), (label::NETWORK, key)];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
        Op::CreateNetwork { project: self.project.clone(), network, labels }
    }

    pub fn volume(&self, key: &str) -> Op {
        let volume = Volume { name: format!("{}_{key}", self.project), ..Volume::default() };
        let labels = [(label::PROJECT, self.project.as_str()), (label::VOLUME, key), ("colour", "blue")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
        Op::CreateVolume { project: self.project.clone(), volume, labels }
    }

    /// The same on a network of the project.
    pub fn on_network(&self, mut create: CreateContainer, key: &str) -> CreateContainer {
        let joined = [(format!("{}_{key}", self.project), Attachment::default())];
        create.spec.network = NetworkMode::Networks(joined.into_iter().collect());
        create
    }

    pub fn exec(&self, made: &Made, command: &[&str], stdin: bool) -> Result<Conversation, EngineError> {
        self.block(self.engine.exec(&program(made, command, stdin)))
    }

    pub fn query(&self, containers: &[&Made]) -> LogQuery {
        let containers = containers.iter().map(|made| made.name.clone()).collect();
        let project = self.project.clone();
        LogQuery { project, containers, tail: None, since: None, until: None, follow: false }
    }

    /// All that there is, to the end.
    pub fn logs(&self, query: &LogQuery) -> Vec<LogItem> {
        self.block(async {
            let (sink, mut items) = mpsc::channel(1);
            let (engine, query) = (Arc::clone(self.engine), query.clone());
            let reading = tokio::spawn(async move { engine.logs(&query, sink).await });
            let mut heard = Vec::new();
            while let Some(item) = items.recv().await {
                heard.push(item);
            }
            reading.await.unwrap().unwrap();
            heard
        })
    }

    /// The other act is on its way while this one is awaited; both answers.
    pub fn meanwhile(&self, op: &Op, act: impl FnOnce()) -> Result<Outcome, EngineError> {
        let (engine, op) = (Arc::clone(self.engine), op.clone());
        let waiting = self.runtime.spawn(async move { engine.perform(&op, Arc::new(Silent)).await });
        act();
        self.block(waiting).unwrap()
    }

    /// Takes everything of the project away, and sees that it is gone.
    pub fn clear(&self) {
        let project = &self.project;
        for Container { id, name, .. } in self.observe().containers {
            let made = Made { project: project.clone(), name, id };
            self.ok(&made.stop_within(Some(Duration::ZERO)));
            self.ok(&made.remove_with(true));
        }
        for name in self.observe().networks.into_keys() {
            self.ok(&Op::RemoveNetwork { name });
        }
        for name in self.observe().volumes.into_keys() {
            self.ok(&Op::RemoveVolume { name });
        }
        let Observed { containers, networks, volumes, images: _ } = self.observe();
        assert!(containers.is_empty() && networks.is_empty() && volumes.is_empty());
    }
}

/// A further program in a container, as whom and where its own runs.
pub fn program(made: &Made, command: &[&str], stdin: bool) -> ExecRequest {
    exec_request(&made.project, &made.id, &made.name, command, stdin)
}

/// The same of a container that something else has made.
pub fn exec_request(
    project: &str,
    container: &ContainerId,
    name: &str,
    command: &[&str],
    stdin: bool,
) -> ExecRequest {
    ExecRequest {
        project: project.to_owned(),
        container: container.clone(),
        name: name.to_owned(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        environment: Vec::new(),
        user: None,
        working_dir: None,
        privileged: false,
        tty: false,
        size: None,
        stdin,
    }
}

/// A health check by this shell command, asked often.
pub fn check(command: &str) -> Healthcheck {
    let often = Some(Duration::from_millis(50));
    Healthcheck {
        test: Some(HealthTest::Shell(command.to_owned())),
        interval: often,
        timeout: None,
        retries: Some(2),
        start_period: None,
        start_interval: None,
    }
}

pub fn anonymous_at(target: &str) -> Mount {
    let labels = [("colour".to_owned(), "red".to_owned())].into_iter().collect();
    let source = MountSource::Anonymous { options: VolumeOptions { labels, ..VolumeOptions::default() } };
    Mount { target: target.to_owned(), read_only: false, source }
}

/// Text of the lines, and ends with their codes.
pub fn told(items: &[LogItem]) -> Vec<String> {
    let one = |item: &LogItem| match item {
        LogItem::Line { text, .. } => String::from_utf8_lossy(text).into_owned(),
        LogItem::Exited { code, restarting, .. } => format!("ended {code:?} {restarting}"),
    };
    items.iter().map(one).collect()
}

/// A moment between two that an engine, whatever its clock, keeps apart.
pub fn between(first: SystemTime, second: SystemTime) -> SystemTime {
    first + second.duration_since(first).unwrap() / 2
}
