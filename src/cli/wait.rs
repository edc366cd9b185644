//! `ficelle wait`.

use std::time::SystemTime;

use tokio::sync::mpsc;

use super::{
    context::{Context, Quiet, select},
    failure::Failure,
    output,
    signals::Signals,
};
use crate::session::{ContainerState, Goal, LogItem, LogRange, Session, Wish, WithDependencies};

/// Wait until a container of a service ends
///
/// The exit code of the first one that ends is printed and passed on.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services
    #[arg(value_name = "SERVICE", required = true)]
    services: Vec<String>,

    /// Take the project down then
    #[arg(long)]
    down_project: bool,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open_or_adopt().await?;
        // Before looking: an end after it is heard of in one way or the other.
        let since = SystemTime::now();
        let selection = select(&session, &self.services, WithDependencies::No)?;
        let failure = |error| Failure::of_session(error, session.project(), context.source());
        let mut containers = session.observe().await.map_err(failure)?.containers;
        containers.retain(|c| selection.contains(&c.service) && !c.is_one_off());
        let ended = containers.iter().find_map(|container| match container.state {
            ContainerState::Exited(code) => Some((container.name.clone(), code)),
            _ => None,
        });
        let names: Vec<String> = containers.into_iter().map(|container| container.name).collect();
        if names.is_empty() {
            return Err(Failure::failed(format!("no container of {}", self.services.join(", ")))
                .help("`ficelle up -d` makes them"));
        }
        let (name, code) = match ended {
            Some(ended) => ended,
            None => first_end(context, &session, names, since).await?,
        };
        let said = match code {
            Some(code) => format!("container \"{name}\" exited with status code {code}"),
            None => format!("container \"{name}\" ended, and nobody learnt how"),
        };
        output::lines([said.as_str()])?;
        if self.down_project {
            let selection = select(&session, &[], WithDependencies::No)?;
            let goal = Goal::Removed { selection, volumes: false, remove_orphans: false, timeout: None };
            let wish = Wish { command: "wait", images: None, goal: Some(goal) };
            context.pursue(&session, &wish, Quiet::default(), &Signals::never()).await?;
        }
        Ok(code.unwrap_or(1))
    }
}

/// The first of them that ends for good, and its code.
async fn first_end(
    context: &Context,
    session: &Session,
    names: Vec<String>,
    since: SystemTime,
) -> Result<(String, Option<i32>), Failure> {
    let failure = |error| Failure::of_session(error, session.project(), context.source());
    let (sink, mut items) = mpsc::channel(64);
    let range = LogRange { follow: true, since: Some(since), ..LogRange::default() };
    let logs = session.logs(names, range, sink);
    let end = async {
        while let Some(item) = items.recv().await {
            if let LogItem::Exited { container, code, restarting: false } = item {
                return Some((container, code));
            }
        }
        None
    };
    tokio::pin!(logs, end);
    let found = tokio::select! {
        found = &mut end => found,
        read = &mut logs => {
            read.map_err(failure)?;
            end.await
        }
    };
    found.ok_or_else(|| Failure::failed("no container ended: they are gone"))
}
