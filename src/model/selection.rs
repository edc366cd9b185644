//! Which services a command means.

use std::collections::BTreeSet;

use super::{Graph, Project};

/// The services a command acts on: those named, or all, and perhaps what they need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Acted on because the user said so (all enabled services when nothing was named).
    pub named: BTreeSet<String>,
    /// Acted on because a named service needs them.
    pub needed: BTreeSet<String>,
    /// The user named services: the rest of the project is none of this command's business.
    pub partial: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such service: {name}")]
pub struct UnknownService {
    pub name: String,
    /// The services there are.
    pub known: Vec<String>,
}

impl Selection {
    /// `names` (all services when empty), with what they need when `dependencies`.
    ///
    /// # Errors
    /// The first name that is no enabled service of the project.
    pub fn of(
        project: &Project,
        graph: &Graph,
        names: &[String],
        dependencies: WithDependencies,
    ) -> Result<Self, UnknownService> {
        if let Some(name) = names.iter().find(|name| !project.services.contains_key(*name)) {
            let known = project.services.keys().cloned().collect();
            return Err(UnknownService { name: name.clone(), known });
        }
        if names.is_empty() {
            let named = project.services.keys().cloned().collect();
            return Ok(Self { named, needed: BTreeSet::new(), partial: false });
        }
        let named: BTreeSet<String> = names.iter().cloned().collect();
        let needed = match dependencies {
            WithDependencies::No => BTreeSet::new(),
            WithDependencies::Yes => names
                .iter()
                .flat_map(|name| graph.with_dependencies(name))
                .filter(|name| !named.contains(*name))
                .map(ToOwned::to_owned)
                .collect(),
        };
        Ok(Self { named, needed, partial: true })
    }

    #[must_use]
    pub fn contains(&self, service: &str) -> bool {
        self.named.contains(service) || self.needed.contains(service)
    }

    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.named.iter().chain(&self.needed).map(String::as_str)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithDependencies {
    Yes,
    No,
}
