//! What is typed: arguments, dispatch, exit codes.

/// Runs the command line; returns the exit code.
#[must_use]
pub fn main() -> i32 {
    0
}
