//! Results, on standard output. A reader that went away ends the command quietly.

use std::io::{self, Write as _};

use super::failure::Failure;

pub(super) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| told(&error))
}

pub(super) fn text(text: &str) -> Result<(), Failure> {
    bytes(text.as_bytes())
}

/// Each with its line feed.
pub(super) fn lines<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<(), Failure> {
    let text: String = lines.into_iter().flat_map(|line| [line, "\n"]).collect();
    bytes(text.as_bytes())
}

/// The standard error of a container, passed on; lost when nobody reads it.
pub(super) fn to_stderr(bytes: &[u8]) {
    let _ = io::stderr().lock().write_all(bytes);
}

fn told(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::silent(0),
        _ => Failure::failed("cannot write to standard output").because(error.to_string()),
    }
}
