//! `ficelle stop`.

use std::time::Duration;

use super::{
    context::{Context, Quiet, select},
    failure::Failure,
    when,
};
use crate::session::{Goal, Wish, WithDependencies};

/// Stop containers, and keep them
///
/// Dependents stop before what they need. Works without a Compose file when the project is named
/// with `--project-name`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services to stop; every service when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// Seconds between the stop signal and SIGKILL
    #[arg(short, long, value_name = "SECONDS", value_parser = when::seconds)]
    timeout: Option<Duration>,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open_or_adopt().await?;
        let selection = select(&session, &self.services, WithDependencies::No)?;
        let goal = Goal::Stopped { selection, timeout: self.timeout };
        let wish = Wish { command: "stop", images: None, goal: Some(goal) };
        let cancel = context.signals.cancel.clone();
        context.pursue(&session, &wish, Quiet::default(), &cancel).await?;
        Ok(0)
    }
}
