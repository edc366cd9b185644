//! `ficelle rm`.

use std::io::{BufRead as _, IsTerminal as _};

use super::{
    context::{Context, Quiet, select},
    failure::{self, Failure},
};
use crate::session::{Goal, Wish, WithDependencies};

/// Remove containers that do not run
///
/// Asks first. Anonymous volumes stay unless `--volumes` is given; named volumes always stay.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag as typed")]
pub(super) struct Args {
    /// Services; every service when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// Has no effect: one-off containers are always among them
    #[arg(short, long, hide = true)]
    all: bool,

    /// Do not ask
    #[arg(short, long)]
    force: bool,

    /// Stop those that run, and remove them too
    #[arg(short, long)]
    stop: bool,

    /// Remove their anonymous volumes
    #[arg(short, long)]
    volumes: bool,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open_or_adopt().await?;
        let selection = select(&session, &self.services, WithDependencies::No)?;
        let failure = |error| Failure::of_session(error, session.project(), context.source());
        let containers = session.observe().await.map_err(failure)?.containers;
        let going: Vec<&str> = containers
            .iter()
            .filter(|container| selection.contains(&container.service))
            .filter(|container| self.stop || !container.state.is_running())
            .map(|container| container.name.as_str())
            .collect();
        if going.is_empty() {
            context.say("note", "no stopped containers");
            return Ok(0);
        }
        if !context.global.dry_run {
            context.say("note", &format!("going to remove {}", going.join(", ")));
            if !self.force && !sure()? {
                return Ok(0);
            }
        }
        let goal = Goal::Discarded { selection, stop: self.stop, volumes: self.volumes };
        let wish = Wish { command: "rm", images: None, goal: Some(goal) };
        let cancel = context.signals.cancel.clone();
        context.pursue(&session, &wish, Quiet::default(), &cancel).await?;
        Ok(0)
    }
}

/// Whoever cannot be asked has not agreed.
fn sure() -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        failure::write("nothing is removed: nobody can be asked; `--force` does not ask\n");
        return Ok(false);
    }
    failure::write("Are you sure? [yN] ");
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| Failure::failed("cannot read the answer").because(error.to_string()))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
