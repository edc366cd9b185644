//! The containers of all projects, listed when one is asked for: most configurations need none, and a
//! plan that makes many must not list as many times.

use std::cell::OnceCell;

use super::error;
use crate::{
    engine::EngineError,
    runtime::{ContainerRecord, Core},
};

pub(super) struct Others<'a> {
    core: Option<&'a Core>,
    records: OnceCell<Vec<ContainerRecord>>,
}

impl<'a> Others<'a> {
    pub(super) fn new(core: &'a Core) -> Self {
        Self { core: Some(core), records: OnceCell::new() }
    }

    /// There are no others.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { core: None, records: OnceCell::new() }
    }

    /// Oldest first, as they were when first asked for.
    pub(super) fn list(&self) -> Result<&[ContainerRecord], EngineError> {
        if let Some(records) = self.records.get() {
            return Ok(records);
        }
        let records = self.core.map_or_else(|| Ok(Vec::new()), |core| core.containers(None));
        let records = records.map_err(|error| error::runtime(&error, "containers cannot be listed"))?;
        Ok(self.records.get_or_init(|| records))
    }
}
