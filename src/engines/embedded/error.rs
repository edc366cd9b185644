//! What went wrong below, in the words of the contract.

use std::io;

use crate::{
    build::BuildError,
    engine::{EngineError, ErrorKind},
    image::ImageError,
    runtime::Error,
};

/// `what` names the thing and stands first; the error below it is the cause.
pub(in crate::engines) fn runtime(error: &Error, what: impl Into<String>) -> EngineError {
    let kind = match error {
        Error::NoContainer(_) | Error::NoNetwork(_) | Error::NoVolume(_) => ErrorKind::NotFound,
        Error::Permission { .. } | Error::Rootless { .. } => ErrorKind::Permission,
        Error::Conflict(_) => ErrorKind::Conflict,
        Error::Invalid(_) => ErrorKind::Invalid,
        Error::Exec { code, .. } => ErrorKind::Program(*code),
        Error::Unsupported(_) => ErrorKind::Unsupported,
        Error::Exhausted(_) => ErrorKind::Exhausted,
        Error::Condition(_) | Error::Timeout(_) => ErrorKind::Dependency,
        Error::File { source, .. } | Error::System { source, .. } => of_io(source),
        Error::Helper(_) => ErrorKind::Other,
    };
    let told = EngineError::new(kind, what).caused_by(error);
    match kind {
        ErrorKind::Permission => match error {
            Error::Rootless { help, .. } => told.help(help.clone()),
            _ => told.help(PERMISSION),
        },
        ErrorKind::Exhausted => told.help("free some space or stop what is not needed, then try again"),
        _ => match error {
            Error::Exec { code: 127, .. } => {
                told.help("look at `command` and `entrypoint`: the image has no such program")
            }
            Error::Exec { code: 126, .. } => told.help("the program is there, but it may not be executed"),
            _ => told,
        },
    }
}

const PERMISSION: &str = "root may (`sudo ficelle ...`); for this user, look at whose it is";

pub(super) fn image(error: &ImageError, what: impl Into<String>) -> EngineError {
    let kind = match error {
        ImageError::NotFound(_) => ErrorKind::NotFound,
        ImageError::Remote { .. } | ImageError::Unreachable { .. } => ErrorKind::Remote,
        ImageError::Invalid(_) | ImageError::Platform { .. } => ErrorKind::Invalid,
        ImageError::Drift { .. } | ImageError::NotLocked(_) => ErrorKind::Drift,
        ImageError::InUse(..) => ErrorKind::Conflict,
        ImageError::Full { .. } => ErrorKind::Exhausted,
        ImageError::File { source, .. } => of_io(source),
    };
    let mut told = EngineError::new(kind, what).caused_by(error);
    told.help.extend_from_slice(error.help());
    if kind == ErrorKind::Drift {
        told = told.help("`ficelle lock` writes down what the names stand for now");
    }
    if kind == ErrorKind::Permission { told.help(PERMISSION) } else { told }
}

pub(super) fn build(error: &BuildError, what: impl Into<String>) -> EngineError {
    match error {
        BuildError::Image(error) => image(error, what),
        BuildError::Runtime(error) => runtime(error, what),
        BuildError::Dockerfile { file, line, message, help, snippet } => {
            let mut told = EngineError::new(ErrorKind::Invalid, what);
            told.causes.push(format!("{file}:{line}: {message}"));
            told.facts.push(format!("{file}:{line}\n{snippet}"));
            told.help.extend(help.clone());
            told
        }
        BuildError::Mistakes(mistakes) => {
            let mut told = EngineError::new(ErrorKind::Invalid, what);
            for mistake in mistakes {
                let one = build(mistake, "");
                told.causes.extend(one.causes);
                told.facts.extend(one.facts);
                told.help.extend(one.help);
            }
            told
        }
        BuildError::Step { file, line, snippet, output, .. } => {
            let mut told = EngineError::new(ErrorKind::Invalid, what).caused_by(error);
            told.facts.push(format!("{file}:{line}\n{snippet}"));
            if !output.is_empty() {
                told.facts.push(format!("the step said last:\n{}", output.join("\n")));
            }
            told
        }
        BuildError::Context { .. } => EngineError::new(ErrorKind::Invalid, what).caused_by(error),
        BuildError::Cancelled => EngineError::new(ErrorKind::Cancelled, what).caused_by(error),
    }
}

fn of_io(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory => {
            ErrorKind::Exhausted
        }
        _ => ErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lacks_a_permission_hears_what_to_do() {
        let error = Error::Permission { what: "the runtime".into(), need: "root".into() };
        let told = runtime(&error, "project `demo` cannot be locked");
        assert_eq!(told.kind, ErrorKind::Permission);
        assert_eq!(told.to_string(), "project `demo` cannot be locked: the runtime needs root");
        assert_eq!(told.help, [PERMISSION]);
    }
}
