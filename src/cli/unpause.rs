//! `ficelle unpause`.

use super::{
    context::{Context, Quiet, select},
    failure::Failure,
};
use crate::session::{Goal, Wish, WithDependencies};

/// Let containers go on that were paused
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services; every service when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open_or_adopt().await?;
        let selection = select(&session, &self.services, WithDependencies::No)?;
        let goal = Goal::Paused { selection, paused: false };
        let wish = Wish { command: "unpause", images: None, goal: Some(goal) };
        let cancel = context.signals.cancel.clone();
        context.pursue(&session, &wish, Quiet::default(), &cancel).await?;
        Ok(0)
    }
}
