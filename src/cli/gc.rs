//! `ficelle gc`.

use super::{context::Context, failure::Failure, output};

/// Clear away what killed processes have left
///
/// Containers half made or half removed, directories and control groups of projects that are gone, sockets
/// that nobody listens at, files of pulls and builds that were cut. What a living process holds is left
/// alone, and volumes and images are never debris. With `--dry-run` it only tells.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let engine = context.connect()?;
        let dry = context.global.dry_run;
        let found = engine.sweep(dry).await.map_err(|error| Failure::of_engine(&error, context.source()))?;
        let word = if dry { "would remove" } else { "removed" };
        let lines: Vec<String> = found.iter().map(|what| format!("{word} {what}")).collect();
        output::lines(lines.iter().map(String::as_str))?;
        if lines.is_empty() {
            context.say("note", "nothing was left");
        }
        Ok(0)
    }
}
