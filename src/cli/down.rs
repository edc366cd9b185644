//! `ficelle down`.

use std::time::Duration;

use super::{
    context::{Context, Quiet, select},
    failure::Failure,
    when,
};
use crate::session::{Goal, Session, Wish, WithDependencies};

/// Stop and remove containers and networks
///
/// Removes what `up` made: containers and networks; volumes only when asked. Works without a
/// Compose file when the project is named with `--project-name`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services to remove; the whole project when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// Remove the volumes that the file declares, and anonymous ones
    #[arg(short, long)]
    volumes: bool,

    /// Remove containers of services that the file no longer names
    #[arg(long, env = "COMPOSE_REMOVE_ORPHANS", hide_env = true, value_parser = clap::builder::FalseyValueParser::new())]
    remove_orphans: bool,

    /// Seconds between the stop signal and SIGKILL
    #[arg(short, long, value_name = "SECONDS", value_parser = when::seconds)]
    timeout: Option<Duration>,

    /// Remove images of the services: all of them, or only those that were built without a name
    #[arg(long, value_name = "WHICH")]
    rmi: Option<Rmi>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Rmi {
    All,
    Local,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open_or_adopt().await?;
        let selection = select(&session, &self.services, WithDependencies::No)?;
        let services: Vec<String> = selection.services().map(ToOwned::to_owned).collect();
        let goal = Goal::Removed {
            selection,
            volumes: self.volumes,
            remove_orphans: self.remove_orphans,
            timeout: self.timeout,
        };
        let wish = Wish { command: "down", images: None, goal: Some(goal) };
        let cancel = context.signals.cancel.clone();
        let Some(outcome) = context.pursue(&session, &wish, Quiet::default(), &cancel).await? else {
            return Ok(0);
        };
        if outcome.done == 0 {
            context.say(
                "warning",
                &format!("no resource found to remove for project `{}`", session.project().name),
            );
        }
        if let Some(which) = self.rmi {
            remove_images(context, &session, &services, which).await?;
        }
        Ok(0)
    }
}

/// Removes what is there; an image that something else uses is told and left.
async fn remove_images(
    context: &Context,
    session: &Session,
    services: &[String],
    which: Rmi,
) -> Result<(), Failure> {
    let project = session.project();
    let found = services.iter().filter_map(|name| project.services.get(name));
    for service in found.filter(|service| service.provider.is_none()) {
        let own_name = format!("{}-{}", project.name, service.name);
        if which == Rmi::Local && service.image() != own_name {
            continue;
        }
        let Ok(image) = service.image().parse() else { continue };
        match session.engine().remove_image(&image, false).await {
            Ok(()) => context.say("note", &format!(" Image {}  Removed", service.image())),
            Err(error) if error.kind == crate::session::ErrorKind::NotFound => {}
            Err(error) => context.say("warning", &format!("image {} stays: {error}", service.image())),
        }
    }
    Ok(())
}
