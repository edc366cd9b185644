//! `ficelle export`.

use std::{io::IsTerminal as _, path::PathBuf};

use super::{context::Context, failure::Failure, target};
use crate::session::{CopyRequest, SessionError, Source, Target};

/// Write the files of a container as a tar
///
/// All but what is mounted in it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The service
    #[arg(value_name = "SERVICE")]
    service: String,

    /// Number of the container when a service has several
    #[arg(long, value_name = "N")]
    index: Option<u32>,

    /// File to write; standard output when absent
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open_or_adopt().await?;
        let replicas = target::replicas(context, &session, &self.service).await?;
        let container = target::pick(replicas, &self.service, self.index, false)?;
        if self.output.is_none() && std::io::stdout().is_terminal() {
            return Err(Failure::failed("a tar is not for a terminal").help("`-o FILE` writes it to a file"));
        }
        let to = match &self.output {
            None => Target::Stream(Box::new(std::io::stdout())),
            Some(path) => Target::Stream(Box::new(std::fs::File::create(path).map_err(|error| {
                Failure::failed(format!("cannot write `{}`", path.display())).because(error.to_string())
            })?)),
        };
        let from = Source::Whole(container.id);
        let request = CopyRequest { project: container.project, from, to, follow: false, archive: true };
        let failure =
            |error| Failure::of_session(SessionError::Engine(error), session.project(), context.source());
        session.engine().copy(request).await.map_err(failure)?;
        Ok(0)
    }
}
