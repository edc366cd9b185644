//! The operations an engine performs: each is one action, complete in itself.

use std::{fmt, path::PathBuf, time::Duration};

use indexmap::IndexMap;

use super::{ContainerId, Size};
use crate::model::{
    Build, Condition, ContainerSpec, Hook, LockedBases, Network, Provider, PullPolicy, Volume,
};

/// One engine action. Containers are named by their Compose name (`project-service-1`), and by id
/// where a name could mean the old and the new one.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Pull(PullRequest),
    Build(Box<BuildRequest>),
    Push(PushRequest),
    CreateNetwork {
        project: String,
        network: Network,
        labels: IndexMap<String, String>,
    },
    RemoveNetwork {
        name: String,
    },
    CreateVolume {
        project: String,
        volume: Volume,
        labels: IndexMap<String, String>,
    },
    RemoveVolume {
        name: String,
    },
    Create(Box<CreateContainer>),
    /// Starts a created or stopped container. Of several with this name, the newest.
    Start {
        project: String,
        name: String,
    },
    /// Signal, grace, SIGKILL. Ends its restart policy too. `id` picks one of several of that name.
    Stop {
        project: String,
        name: String,
        id: ContainerId,
        timeout: Option<Duration>,
    },
    /// Sends a signal, by name or number. One that ends containers (SIGKILL, its stop signal) ends the
    /// restart policy too.
    Kill {
        project: String,
        name: String,
        id: ContainerId,
        signal: String,
    },
    /// Freezes every process of it.
    Pause {
        project: String,
        name: String,
        id: ContainerId,
    },
    Unpause {
        project: String,
        name: String,
        id: ContainerId,
    },
    /// Removes a container that does not run, and its anonymous volumes when `volumes`.
    Remove {
        project: String,
        name: String,
        id: ContainerId,
        volumes: bool,
    },
    Wait {
        project: String,
        name: String,
        until: WaitFor,
    },
    /// Runs a program in a container that runs, to its end.
    Hook(Box<HookRequest>),
    /// Asks the program behind a service for it, or to take it back.
    Provide(Box<ProviderRequest>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRequest {
    /// As written.
    pub image: String,
    pub platform: Option<String>,
    pub policy: PullPolicy,
    /// The digest that the name must stand for at its registry (`--locked`).
    pub locked: Option<String>,
    /// The service that asks for it, for messages.
    pub service: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushRequest {
    /// As written.
    pub image: String,
    /// The service that it is built for, for messages.
    pub service: String,
}

/// What is asked of the program of a `provider:` service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderRequest {
    pub project: String,
    pub service: String,
    /// The project directory.
    pub root: PathBuf,
    pub provider: Provider,
    pub act: ProviderAct,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderAct {
    Up,
    Down,
    /// For those alone that say they can.
    Stop,
}

impl ProviderAct {
    /// As the program is told.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Stop => "stop",
        }
    }
}

/// A `pre_start`, `post_start` or `pre_stop` of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct HookRequest {
    pub project: String,
    pub service: String,
    /// Of the container; of several with this name, the newest.
    pub name: String,
    /// Which one, where it was observed.
    pub id: Option<ContainerId>,
    pub at: HookAt,
    /// Its place in the list, from 0.
    pub index: usize,
    pub hook: Hook,
    /// The container of a `pre_start`, which is gone when it has ended.
    pub runner: Option<Box<CreateContainer>>,
}

/// The turn of a container's life at which a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookAt {
    PreStart,
    PostStart,
    PreStop,
}

impl HookRequest {
    /// The place of the hook that follows in its list, if one does.
    #[must_use]
    pub fn next_of(&self, list: &[Hook]) -> Option<usize> {
        Some(self.index + 1).filter(|next| *next < list.len())
    }

    /// As the file has it: `post_start[0]`.
    #[must_use]
    pub fn label(&self) -> String {
        let list = match self.at {
            HookAt::PreStart => "pre_start",
            HookAt::PostStart => "post_start",
            HookAt::PreStop => "pre_stop",
        };
        format!("{list}[{}]", self.index)
    }

    /// The model path of what it runs.
    #[must_use]
    pub fn path(&self) -> String {
        format!("services.{}.{}.command", self.service, self.label())
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct BuildRequest {
    pub project: String,
    pub service: String,
    pub build: Build,
    /// The name of the result.
    pub image: String,
    /// With `--locked`.
    pub locked: Option<LockedBases>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CreateContainer {
    pub project: String,
    pub service: String,
    pub number: u32,
    pub name: String,
    pub spec: ContainerSpec,
    /// The digest of `spec`.
    pub config_hash: String,
    /// All labels, those of Compose included.
    pub labels: IndexMap<String, String>,
    /// The id of the image observed for `spec.image`.
    pub image_id: String,
    /// The container it takes the place of: anonymous volumes and addresses are handed on.
    pub replaces: Option<ContainerId>,
    /// A container of `run`.
    pub once: Option<OneOff>,
}

/// What a container of `run` is beside its specification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OneOff {
    /// It answers to the names of its service, too.
    pub aliases: bool,
    /// Its standard input ends with whoever attached to it.
    pub close_stdin: bool,
    /// Of its terminal at first.
    pub size: Option<Size>,
    /// The engine removes it when it has ended.
    pub remove: bool,
    /// Not before whoever made it has learnt how, or is gone.
    pub attended: bool,
}

/// What a [`Op::Wait`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// A dependency's condition: an end that makes it impossible is an error.
    Condition(Condition),
    /// `up --wait`: running, and healthy where there is a check; an end with 0 counts as well.
    Ready { timeout: Option<Duration> },
}

/// What an operation leaves behind that later steps or messages want.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Of a container made, or an image pulled or built.
    pub id: Option<String>,
    /// Nothing was done: it was so already.
    pub unchanged: bool,
    /// What a provider sets for those who depend on its service.
    pub variables: Vec<(String, String)>,
}

impl fmt::Display for Op {
    /// As the plan prints it: `create container web-1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pull(pull) => write!(f, "pull image {}", pull.image),
            Self::Build(build) => {
                write!(f, "build image {}", build.image)?;
                build.build.tags.iter().try_for_each(|tag| write!(f, ", {tag}"))
            }
            Self::Push(push) => write!(f, "push image {}", push.image),
            Self::CreateNetwork { network, .. } => write!(f, "create network {}", network.name),
            Self::RemoveNetwork { name } => write!(f, "remove network {name}"),
            Self::CreateVolume { volume, .. } => write!(f, "create volume {}", volume.name),
            Self::RemoveVolume { name } => write!(f, "remove volume {name}"),
            Self::Create(create) => write!(f, "create container {}", create.name),
            Self::Start { name, .. } => write!(f, "start container {name}"),
            Self::Stop { name, .. } => write!(f, "stop container {name}"),
            Self::Kill { name, signal, .. } => write!(f, "send {signal} to container {name}"),
            Self::Pause { name, .. } => write!(f, "pause container {name}"),
            Self::Unpause { name, .. } => write!(f, "unpause container {name}"),
            Self::Remove { name, .. } => write!(f, "remove container {name}"),
            Self::Provide(request) => {
                write!(
                    f,
                    "ask provider {} for {} of {}",
                    request.provider.kind,
                    request.act.verb(),
                    request.service
                )
            }
            Self::Hook(hook) if hook.runner.is_some() => {
                write!(f, "run {} for container {}", hook.label(), hook.name)
            }
            Self::Hook(hook) => write!(f, "run {} in container {}", hook.label(), hook.name),
            Self::Wait { name, until, .. } => match until {
                WaitFor::Condition(Condition::ServiceStarted) => {
                    write!(f, "wait until container {name} is started")
                }
                WaitFor::Condition(Condition::ServiceHealthy) => {
                    write!(f, "wait until container {name} is healthy")
                }
                WaitFor::Condition(Condition::ServiceCompletedSuccessfully) => {
                    write!(f, "wait until container {name} has completed")
                }
                WaitFor::Ready { .. } => write!(f, "wait until container {name} is ready"),
            },
        }
    }
}
