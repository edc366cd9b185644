//! A service that is no container: a program of somebody else's provides it.

use std::collections::BTreeMap;

use indexmap::IndexMap;

/// `provider:` of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provider {
    /// The program: `model` for a plugin `docker-model`, or an executable of that name.
    pub kind: String,
    /// Its flags, each with its values.
    pub options: IndexMap<String, Vec<String>>,
    /// Variables of the project that it finds in its environment.
    pub environment: BTreeMap<String, String>,
    /// The service as `config --format json` has it, for a program that asks.
    pub config: String,
}

impl Provider {
    /// What a variable is called that it sets for those who depend on `service`.
    #[must_use]
    pub fn variable(service: &str, name: &str) -> String {
        format!("{}_{name}", service.to_uppercase())
    }
}
