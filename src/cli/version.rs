//! `ficelle version`.

use super::{failure::Failure, output};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Print the version
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "pretty")]
    format: Format,

    /// Print the number only
    #[arg(long)]
    short: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Pretty,
    Json,
}

impl Args {
    pub(super) fn run(self) -> Result<i32, Failure> {
        output::text(&match (self.short, self.format) {
            (true, _) => format!("{VERSION}\n"),
            (_, Format::Pretty) => format!("Ficelle version v{VERSION}\n"),
            (_, Format::Json) => format!("{}\n", serde_json::json!({"version": format!("v{VERSION}")})),
        })?;
        Ok(0)
    }
}
