//! The words for operations, those of docker compose where it has them.

use std::fmt;

use crate::engine::{Condition, Op, Outcome, ProviderAct, WaitFor};

/// The thing an operation is about: `Container demo-web-1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    pub kind: &'static str,
    pub name: String,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

#[must_use]
pub fn subject(op: &Op) -> Subject {
    let (kind, name) = match op {
        Op::Pull(pull) => ("Image", &pull.image),
        Op::Push(push) => ("Image", &push.image),
        Op::Build(build) => ("Image", &build.image),
        Op::CreateNetwork { network, .. } => ("Network", &network.name),
        Op::RemoveNetwork { name } => ("Network", name),
        Op::CreateVolume { volume, .. } => ("Volume", &volume.name),
        Op::RemoveVolume { name } => ("Volume", name),
        Op::Create(create) => ("Container", &create.name),
        Op::Start { name, .. }
        | Op::Stop { name, .. }
        | Op::Kill { name, .. }
        | Op::Pause { name, .. }
        | Op::Unpause { name, .. }
        | Op::Remove { name, .. }
        | Op::Wait { name, .. } => ("Container", name),
        Op::Hook(hook) => ("Container", &hook.name),
        Op::Provide(request) => ("Service", &request.service),
    };
    Subject { kind, name: name.clone() }
}

/// While it goes on.
#[must_use]
pub fn doing(op: &Op) -> &'static str {
    match op {
        Op::Pull(_) => "Pulling",
        Op::Push(_) => "Pushing",
        Op::Build(_) => "Building",
        Op::CreateNetwork { .. } | Op::CreateVolume { .. } => "Creating",
        Op::RemoveNetwork { .. } | Op::RemoveVolume { .. } | Op::Remove { .. } => "Removing",
        Op::Create(create) if create.replaces.is_some() => "Recreating",
        Op::Create(_) => "Creating",
        Op::Start { .. } => "Starting",
        Op::Stop { .. } => "Stopping",
        Op::Kill { .. } => "Killing",
        Op::Pause { .. } => "Pausing",
        Op::Unpause { .. } => "Unpausing",
        Op::Wait { .. } => "Waiting",
        Op::Hook(_) => "Running hook",
        Op::Provide(request) => match request.act {
            ProviderAct::Up => "Creating",
            ProviderAct::Down => "Removing",
            ProviderAct::Stop => "Stopping",
        },
    }
}

/// When it is done.
#[must_use]
pub fn done(op: &Op, outcome: &Outcome) -> &'static str {
    if outcome.unchanged
        && let Some(word) = unchanged(op)
    {
        return word;
    }
    match op {
        Op::Pull(_) => "Pulled",
        Op::Push(_) => "Pushed",
        Op::Build(_) => "Built",
        Op::CreateNetwork { .. } | Op::CreateVolume { .. } => "Created",
        Op::RemoveNetwork { .. } | Op::RemoveVolume { .. } | Op::Remove { .. } => "Removed",
        Op::Create(create) if create.replaces.is_some() => "Recreated",
        Op::Create(_) => "Created",
        Op::Start { .. } => "Started",
        Op::Stop { .. } => "Stopped",
        Op::Kill { .. } => "Killed",
        Op::Pause { .. } => "Paused",
        Op::Unpause { .. } => "Unpaused",
        Op::Hook(_) => "Ran hook",
        Op::Provide(request) => match request.act {
            ProviderAct::Up => "Created",
            ProviderAct::Down => "Removed",
            ProviderAct::Stop => "Stopped",
        },
        Op::Wait { until, .. } => match until {
            WaitFor::Condition(Condition::ServiceStarted) => "Running",
            WaitFor::Condition(Condition::ServiceHealthy) => "Healthy",
            WaitFor::Condition(Condition::ServiceCompletedSuccessfully) => "Completed",
            WaitFor::Ready { .. } => "Ready",
        },
    }
}

/// When there was nothing to do, where that has a word of its own.
#[must_use]
pub fn unchanged(op: &Op) -> Option<&'static str> {
    match op {
        Op::Pull(_) | Op::Push(_) => Some("Up to date"),
        Op::Start { .. } => Some("Running"),
        _ => None,
    }
}
