//! `ficelle create`.

use super::{
    context::Context,
    failure::Failure,
    running::{Manner, Running},
};

/// Create containers and do not start them
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services to create, with all they need; every service when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    #[command(flatten)]
    running: Running,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open(context.load_to_run(&self.services)?)?;
        let manner = Manner { dependencies: true, ..Manner::default() };
        let wish = self.running.wish("create", &session, &self.services, manner)?;
        let cancel = context.signals.cancel.clone();
        context.pursue(&session, &wish, self.running.quiet(false), &cancel).await?;
        Ok(0)
    }
}
