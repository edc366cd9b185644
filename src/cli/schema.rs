//! `ficelle schema`.

use super::{failure::Failure, output};
use crate::load;

/// Print the JSON Schema of a Compose file, for editors, or of what is told about one
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What the schema describes
    #[arg(value_name = "SUBJECT", default_value = "compose")]
    subject: Subject,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Subject {
    /// A Compose file
    Compose,
    /// One line of `--message-format json`
    Diagnostics,
}

impl Args {
    pub(super) fn run(self) -> Result<i32, Failure> {
        let text = match self.subject {
            Subject::Compose => load::schema::text(),
            Subject::Diagnostics => load::schema::diagnostics_text(),
        };
        output::text(&text)?;
        Ok(0)
    }
}
