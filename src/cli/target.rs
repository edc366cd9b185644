//! Which container of a service a command means.

use super::{context::Context, failure::Failure};
use crate::session::{Container, ContainerState, Session, WithDependencies};

/// The containers of a service, one-off ones left out, lowest number first.
pub(super) async fn replicas(
    context: &Context,
    session: &Session,
    service: &str,
) -> Result<Vec<Container>, Failure> {
    super::context::select(session, std::slice::from_ref(&service.to_owned()), WithDependencies::No)?;
    let failure = |error| Failure::of_session(error, session.project(), context.source());
    let mut found = session.observe().await.map_err(failure)?.containers;
    found.retain(|container| container.service == service && !container.is_one_off());
    found.sort_by_key(|container| container.number);
    Ok(found)
}

/// The container with number `index`, or the first; `running` is asked for.
pub(super) fn pick(
    replicas: Vec<Container>,
    service: &str,
    index: Option<u32>,
    running: bool,
) -> Result<Container, Failure> {
    let fits = |container: &Container| {
        index.is_none_or(|index| container.number == index)
            && (!running || matches!(container.state, ContainerState::Running | ContainerState::Paused))
    };
    let what = index.map_or_else(String::new, |index| format!(" (container {index})"));
    let state = if running { "is not running" } else { "has no container" };
    replicas.into_iter().find(fits).ok_or_else(|| {
        Failure::failed(format!("service \"{service}\"{what} {state}"))
            .help(format!("`ficelle up -d {service}` starts it"))
    })
}
