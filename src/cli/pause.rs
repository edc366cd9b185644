//! `ficelle pause`.

use super::{
    context::{Context, Quiet, select},
    failure::Failure,
};
use crate::session::{Goal, Wish, WithDependencies};

/// Freeze the processes of containers
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services; every service when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        turn(context, "pause", &self.services, true).await
    }
}

/// Freezes, or lets go on.
pub(super) async fn turn(
    context: &Context,
    command: &'static str,
    services: &[String],
    paused: bool,
) -> Result<i32, Failure> {
    let session = context.open_or_adopt().await?;
    let selection = select(&session, services, WithDependencies::No)?;
    let wish = Wish { command, images: None, goal: Some(Goal::Paused { selection, paused }) };
    let cancel = context.signals.cancel.clone();
    context.pursue(&session, &wish, Quiet::default(), &cancel).await?;
    Ok(0)
}
