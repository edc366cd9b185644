//! `ficelle schema`.

use super::{failure::Failure, output};
use crate::load;

/// Print the JSON Schema of a Compose file, for editors
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run() -> Result<i32, Failure> {
    output::text(&load::schema::text())?;
    Ok(0)
}
