//! `ficelle scale`.

use super::{
    context::{Context, Quiet, select},
    failure::Failure,
};
use crate::session::{Goal, ImageOptions, Wish, WithDependencies};

/// Set how many containers services have
///
/// As `up -d` for these services, with what they need.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services and the number of their containers
    #[arg(value_name = "SERVICE=NUM", required = true, value_parser = super::running::scale)]
    services: Vec<(String, u32)>,

    /// Leave alone what they depend on
    #[arg(long)]
    no_deps: bool,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let names: Vec<String> = self.services.iter().map(|(name, _)| name.clone()).collect();
        let session = context.open(context.load_to_run(&names)?)?;
        let with = if self.no_deps { WithDependencies::No } else { WithDependencies::Yes };
        let selection = select(&session, &names, with)?;
        let mut goal = Goal::running(selection.clone());
        if let Goal::Running { scale, .. } = &mut goal {
            *scale = self.services.into_iter().collect();
        }
        let images = Some((selection, ImageOptions::default()));
        let wish = Wish { command: "scale", images, goal: Some(goal) };
        let cancel = context.signals.cancel.clone();
        context.pursue(&session, &wish, Quiet::default(), &cancel).await?;
        Ok(0)
    }
}
