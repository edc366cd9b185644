//! What is said when the command line itself is wrong.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Commands and flags that docker compose has not got: mistakes in them exit 2, others 1 as it does.
const OURS: &[&str] = &["gc", "image", "--engine", "--root", "--strict"];

/// Prints `error` where it belongs; returns the exit code.
pub(super) fn tell(error: &clap::Error, args: &[OsString]) -> i32 {
    // When even this cannot be printed, the exit code still tells.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
        _ if is_ours(error, args) => 2,
        _ => 1,
    }
}

fn is_ours(error: &clap::Error, args: &[OsString]) -> bool {
    let command =
        args.iter().skip(1).find_map(|arg| OURS.iter().find(|ours| arg == **ours && !ours.starts_with('-')));
    let flag = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) => OURS.iter().find(|ours| flag.starts_with(**ours)),
        _ => None,
    };
    command.is_some() || flag.is_some()
}
