//! `ficelle push`.

use super::{
    context::{Context, Quiet, select},
    failure::Failure,
};
use crate::session::{OnFailure, WithDependencies};

/// Push the images that services build
///
/// Each goes under its `image` and its `build.tags`, to the registry of that name. Services that are
/// not built here, or whose image has no name of its own, are left out.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services whose images are pushed; every service when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// Push the images, too, of what the named services need
    #[arg(long)]
    include_deps: bool,

    /// Push as many as possible, and do not fail when one cannot be pushed
    #[arg(long)]
    ignore_push_failures: bool,

    /// Do not print progress
    #[arg(short, long)]
    quiet: bool,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open(context.load_to_run(&self.services)?)?;
        let deps = if self.include_deps { WithDependencies::Yes } else { WithDependencies::No };
        let selection = select(&session, &self.services, deps)?;
        let on_failure = if self.ignore_push_failures { OnFailure::GoOn } else { OnFailure::Stop };
        let plan = session.plan_push(&selection, on_failure);
        if plan.steps.is_empty() {
            context.say("note", "no image to push: no service has both `image` and `build`");
            return Ok(0);
        }
        context.push(&session, &plan, Quiet { transfer: self.quiet, build: false }).await?;
        Ok(0)
    }
}
