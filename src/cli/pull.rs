//! `ficelle pull`.

use super::{
    context::{Context, Quiet, select},
    failure::Failure,
    locked,
};
use crate::session::{BuildMode, ImageOptions, PullPolicy, Selection, Wish, WithDependencies};

/// Pull the images of services
///
/// Services that are built are left out. Without `--policy` every image is refreshed, but for
/// services with `pull_policy: never`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services whose images are pulled; every service when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// Which images to pull
    #[arg(long, value_name = "WHEN", default_value = "always")]
    policy: Policy,

    /// Pull the images, too, of what the named services need
    #[arg(long)]
    include_deps: bool,

    /// Fail with code 3 when a registry has another image than the one in `ficelle.lock`
    #[arg(long)]
    locked: bool,

    /// Do not fail when an image cannot be pulled
    #[arg(long)]
    ignore_pull_failures: bool,

    /// Do not speak of services that are built
    #[arg(long)]
    ignore_buildable: bool,

    /// Do not print progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Policy {
    Always,
    Missing,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open(context.load_to_run(&self.services)?)?;
        let deps = if self.include_deps { WithDependencies::Yes } else { WithDependencies::No };
        let selection = select(&session, &self.services, deps)?;
        let mut pulled = Selection { partial: true, ..Selection::default() };
        for name in selection.services() {
            let Some(service) = session.project().services.get(name) else { continue };
            if service.build.is_some() {
                if !self.ignore_buildable {
                    context.say("note", &format!("service {name} is built: nothing to pull"));
                }
            } else if service.pull_policy != Some(PullPolicy::Never) {
                pulled.named.insert(name.to_owned());
            }
        }
        let policy = match self.policy {
            Policy::Always => PullPolicy::Always,
            Policy::Missing => PullPolicy::Missing,
        };
        let locked = locked::wanted(self.locked, session.project())?;
        let images = ImageOptions { build: BuildMode::Never, pull: Some(policy), locked };
        let wish = Wish { command: "pull", images: Some((pulled, images)), goal: None };
        let quiet = Quiet { transfer: self.quiet, build: false };
        let cancel = context.signals.cancel.clone();
        match context.pursue(&session, &wish, quiet, &cancel).await {
            Err(failure) if self.ignore_pull_failures && context.signals.first().is_none() => {
                context.report(&failure);
                Ok(0)
            }
            result => result.map(|_| 0),
        }
    }
}
