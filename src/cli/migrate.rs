//! `ficelle migrate`.

use std::path::PathBuf;

use super::{
    context::Context,
    failure::{self, Failure},
    output,
};
use crate::load::{Diagnostic, migrate::migrate};

/// Print a file of an older format in today's form
///
/// Reads files of Fig (`fig.yml`), of the group proposal (`group.yml`) and of every version of Compose.
/// Comments and order stay; what changed is told on standard error.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Write to this file in place of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<i32, Failure> {
        let name = self.file.display().to_string();
        let source = context.source();
        let text = if name == "-" { source.read_stdin() } else { source.read(&self.file) };
        let text = text.map_err(|error| {
            let told = Diagnostic::error(format!("failed to read `{name}`: {error}"));
            Failure::project(vec![told], false)
        })?;
        let done = migrate(&name, &text).map_err(|told| Failure::project(told, false))?;
        for change in &done.changes {
            let place = change.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
            failure::write(&format!("{place}{}\n", change.text));
        }
        if done.changes.is_empty() {
            failure::write(&format!("{name}: of today's form already; nothing changed\n"));
        }
        match &self.output {
            Some(path) => std::fs::write(path, &done.text).map_err(|error| {
                Failure::failed(format!("cannot write `{}`", path.display())).because(error.to_string())
            })?,
            None => output::text(&done.text)?,
        }
        Ok(0)
    }
}
