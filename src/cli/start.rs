//! `ficelle start`.

use std::time::Duration;

use super::{
    context::{Context, Quiet, select},
    failure::Failure,
    when,
};
use crate::session::{Goal, WaitOptions, Wish, WithDependencies};

/// Start containers that are there and do not run
///
/// Creates nothing: that is what `up` and `create` do.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services to start; every service when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// Wait until they are ready: running, and healthy where there is a check
    #[arg(long)]
    wait: bool,

    /// Wait at most so many seconds
    #[arg(long, value_name = "SECONDS", requires = "wait", value_parser = when::seconds)]
    wait_timeout: Option<Duration>,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open_or_adopt().await?;
        let selection = select(&session, &self.services, WithDependencies::No)?;
        let wait = self.wait.then_some(WaitOptions { timeout: self.wait_timeout });
        let wish = Wish { command: "start", images: None, goal: Some(Goal::Started { selection, wait }) };
        let cancel = context.signals.cancel.clone();
        context.pursue(&session, &wish, Quiet::default(), &cancel).await?;
        Ok(0)
    }
}
