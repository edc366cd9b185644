//! `ficelle kill`.

use super::{
    context::{Context, Quiet, select},
    failure::Failure,
};
use crate::session::{Goal, Wish, WithDependencies};

/// Send a signal to containers
///
/// SIGKILL, and the signal that stops a service, end its restart policy too.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services; every service when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// Remove containers of services that the file no longer names
    #[arg(long, env = "COMPOSE_REMOVE_ORPHANS", hide_env = true, value_parser = clap::builder::FalseyValueParser::new())]
    remove_orphans: bool,

    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "SIGKILL")]
    signal: String,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open_or_adopt().await?;
        let selection = select(&session, &self.services, WithDependencies::No)?;
        let (signal, remove_orphans) = (self.signal, self.remove_orphans);
        let goal = Goal::Signalled { selection, signal, remove_orphans };
        let wish = Wish { command: "kill", images: None, goal: Some(goal) };
        let cancel = context.signals.cancel.clone();
        let done = context.pursue(&session, &wish, Quiet::default(), &cancel).await?;
        if done.is_some_and(|outcome| outcome.done == 0) {
            context.say("note", "no container to kill");
        }
        Ok(0)
    }
}
