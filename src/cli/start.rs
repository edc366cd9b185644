//! `ficelle start`.

use super::{
    context::{Context, Quiet, select},
    failure::Failure,
};
use crate::session::{Goal, Wish, WithDependencies};

/// Start containers that are there and do not run
///
/// Creates nothing: that is what `up` and `create` do.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services to start; every service when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open_or_adopt().await?;
        let selection = select(&session, &self.services, WithDependencies::No)?;
        let wish = Wish { command: "start", images: None, goal: Some(Goal::Started { selection }) };
        let cancel = context.signals.cancel.clone();
        context.pursue(&session, &wish, Quiet::default(), &cancel).await?;
        Ok(0)
    }
}
