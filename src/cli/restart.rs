//! `ficelle restart`.

use std::time::Duration;

use super::{
    context::{Context, Quiet, select},
    failure::Failure,
    when,
};
use crate::session::{Goal, Wish, WithDependencies};

/// Stop containers and start them again
///
/// Services that depend on them with `restart: true` are restarted as well. Changes of the Compose
/// file are not taken over: that is what `up` does.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services to restart; every service when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// Seconds between the stop signal and SIGKILL
    #[arg(short, long, value_name = "SECONDS", value_parser = when::seconds)]
    timeout: Option<Duration>,

    /// Leave dependent services alone
    #[arg(long)]
    no_deps: bool,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open_or_adopt().await?;
        let selection = select(&session, &self.services, WithDependencies::No)?;
        let goal = Goal::Restarted { selection, timeout: self.timeout, dependents: !self.no_deps };
        let wish = Wish { command: "restart", images: None, goal: Some(goal) };
        let cancel = context.signals.cancel.clone();
        context.pursue(&session, &wish, Quiet::default(), &cancel).await?;
        Ok(0)
    }
}
