//! `ficelle unpause`.

use super::{context::Context, failure::Failure, pause};

/// Let containers go on that were paused
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services; every service when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        pause::turn(context, "unpause", &self.services, false).await
    }
}
