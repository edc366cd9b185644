//! Chooses the engine of a command. The only file that knows them all.

use std::{path::PathBuf, sync::Arc};

use super::{
    embedded::{self, Embedded},
    simulated::Simulated,
};
use crate::{
    engine::{Engine, EngineError, ErrorKind},
    runtime::{Roots, rootless},
};

/// What the user said about engines.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// `--engine` or `FICELLE_ENGINE`.
    pub engine: Option<String>,
    /// `--root` or `FICELLE_ROOT`: where state is kept in place of the system's directories.
    pub root: Option<PathBuf>,
    /// A variable that speaks of a Docker Engine (`DOCKER_HOST`), when one is set.
    pub docker: Option<&'static str>,
}

impl Choice {
    /// Adds what the environment says about Docker.
    #[must_use]
    pub fn with_environment(mut self) -> Self {
        let set = |name: &&&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        self.docker = ["DOCKER_HOST", "DOCKER_CONTEXT"].iter().find(set).copied();
        self
    }
}

/// An engine, and what the user should know about the choice.
pub struct Connected {
    pub engine: Arc<dyn Engine>,
    pub notes: Vec<String>,
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connected")
            .field("engine", &self.engine.capabilities().engine)
            .field("notes", &self.notes)
            .finish()
    }
}

/// # Errors
/// An engine that this version has not got.
pub fn connect(choice: &Choice) -> Result<Connected, EngineError> {
    let mut notes = Vec::new();
    let engine: Arc<dyn Engine> = match choice.engine.as_deref().filter(|name| !name.is_empty()) {
        None => {
            notes.extend(choice.docker.map(|variable| {
                format!("{variable} is set, but this version has only the embedded engine: it is used")
            }));
            embedded(choice)?
        }
        Some("embedded") => embedded(choice)?,
        // For tests: pretends, and remembers below the root.
        Some("simulated") => match &choice.root {
            Some(root) => Arc::new(Simulated::at(root.join("simulated.json"))),
            None => Arc::new(Simulated::new()),
        },
        Some(name @ ("docker" | "swarm")) => {
            return Err(EngineError::new(
                ErrorKind::Unsupported,
                format!("this version has no engine `{name}` yet"),
            )
            .help("leave `--engine` and FICELLE_ENGINE away: the embedded engine needs no daemon"));
        }
        Some(name) => {
            return Err(EngineError::new(ErrorKind::Unsupported, format!("there is no engine `{name}`"))
                .help("the engines are: embedded"));
        }
    };
    Ok(Connected { engine, notes })
}

/// What must be done for the engine of this choice before any thread exists: an ordinary user enters
/// the user namespace of the containers.
///
/// # Errors
/// This machine, or this user's account, does not allow it.
pub fn prepare(choice: &Choice) -> Result<(), EngineError> {
    match choice.engine.as_deref().filter(|name| !name.is_empty()) {
        None | Some("embedded") => {
            let failed = |error| embedded::failure(&error, "containers cannot be run by this user");
            rootless::enter(&roots(choice)?.run).map_err(failed)
        }
        Some(_) => Ok(()),
    }
}

fn embedded(choice: &Choice) -> Result<Arc<dyn Engine>, EngineError> {
    Ok(Arc::new(Embedded::new(roots(choice)?)))
}

/// The caller's own directories, or both trees below the root that was asked for.
fn roots(choice: &Choice) -> Result<Roots, EngineError> {
    match &choice.root {
        Some(root) => Ok(Roots::below(root)),
        None => rootless::roots().map_err(|error| embedded::failure(&error, "there is no place for state")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(engine: Option<&str>, docker: Option<&'static str>) -> Result<Connected, EngineError> {
        connect(&Choice { engine: engine.map(ToOwned::to_owned), root: None, docker })
    }

    #[test]
    fn the_embedded_engine_is_the_default() {
        let connected = choose(None, None).ok().unwrap();
        assert_eq!(connected.engine.capabilities().engine, "embedded");
        assert!(connected.notes.is_empty());
    }

    #[test]
    fn a_docker_variable_is_remarked_upon_and_an_explicit_wish_is_refused() {
        let connected = choose(None, Some("DOCKER_HOST")).ok().unwrap();
        assert_eq!(connected.notes.len(), 1);
        assert!(connected.notes[0].starts_with("DOCKER_HOST is set"));
        assert_eq!(choose(Some("docker"), None).err().unwrap().kind, ErrorKind::Unsupported);
        assert!(choose(Some("dokcer"), None).err().unwrap().message.contains("dokcer"));
    }
}
