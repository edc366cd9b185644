//! What can go wrong in an engine, for a person and for a program.

use std::fmt;

/// What a caller can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The user may not do what the engine needs.
    Permission,
    /// A port, name or address is taken.
    Conflict,
    /// An image, container, network, volume or file is not there.
    NotFound,
    /// The project or image asks for what cannot be.
    Invalid,
    /// Asked for, and this engine cannot do it.
    Unsupported,
    /// A program could not be executed; the code that shells give for it (127: missing, 126: not
    /// executable).
    Program(i32),
    /// A container ended or was unhealthy while something waited for it.
    Dependency,
    /// A registry or other peer could not be reached or refused.
    Remote,
    /// It is not what was locked.
    Drift,
    /// Out of disk, memory, addresses.
    Exhausted,
    /// Stopped because the user asked.
    Cancelled,
    Other,
}

/// A failure of an engine: the thing and the reason, then the next move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineError {
    pub kind: ErrorKind,
    /// A lower-case fragment that names the thing: `port 8080 is in use by nginx (pid 4711)`.
    pub message: String,
    /// Reasons below it, outermost first.
    pub causes: Vec<String>,
    /// What else shows it, such as the lines of a file; lines below the first are quoted.
    pub facts: Vec<String>,
    /// What to do next.
    pub help: Vec<String>,
    /// The value that asks for it, as a model path (`services.web.ports[0]`): shown with its place.
    pub path: Option<Box<str>>,
}

impl EngineError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            causes: Vec::new(),
            facts: Vec::new(),
            help: Vec::new(),
            path: None,
        }
    }

    #[must_use]
    pub fn caused_by(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    #[must_use]
    pub fn at(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into().into_boxed_str());
        self
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl std::error::Error for EngineError {}
