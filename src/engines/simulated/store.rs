//! The simulated images: a store, and a registry that has everything unless told otherwise.

use std::collections::BTreeSet;

use indexmap::IndexMap;

use super::{
    record::time,
    world::{Done, World, conflict, digest, error},
};
use crate::{
    engine::{EngineError, ErrorKind, ImageInfo, Outcome, PullRequest, PushRequest},
    model::{Build, ImageRef, PullPolicy},
};

impl World {
    pub fn pull(&mut self, pull: &PullRequest) -> Done {
        let reference = full(&pull.image)?;
        let there = self.images.get(&reference);
        match (pull.policy, there) {
            (PullPolicy::Missing | PullPolicy::Never | PullPolicy::Build, Some(id)) => {
                return Ok(Outcome { id: Some(id.clone()), unchanged: true, variables: Vec::new() });
            }
            (PullPolicy::Never | PullPolicy::Build, None) => {
                return Err(error(ErrorKind::NotFound, format!("image {} is not there", pull.image)));
            }
            (PullPolicy::Missing | PullPolicy::Always | PullPolicy::Every(_), _) => {}
        }
        let id = match self.remote.get(&reference) {
            Some(Some(id)) => id.clone(),
            Some(None) => {
                return Err(error(ErrorKind::Remote, format!("no image {} in the registry", pull.image)));
            }
            None => image_id(&reference),
        };
        let unchanged = there == Some(&id);
        self.images.insert(reference, id.clone());
        Ok(Outcome { id: Some(id), unchanged, variables: Vec::new() })
    }

    pub fn push(&mut self, push: &PushRequest) -> Done {
        let reference = full(&push.image)?;
        let Some(id) = self.images.get(&reference).cloned() else {
            return Err(error(ErrorKind::NotFound, format!("image {} is not there", push.image)));
        };
        let before = self.remote.insert(reference, Some(id.clone()));
        let unchanged = before.flatten().as_ref() == Some(&id);
        Ok(Outcome { id: Some(id), unchanged, variables: Vec::new() })
    }

    pub fn build(&mut self, build: &Build, image: &str) -> Done {
        let published = self.remote.get(&full(image)?).cloned().flatten();
        let json = serde_json::to_string(build).unwrap_or_default();
        let id = published.unwrap_or_else(|| image_id(&json));
        let names = build.tags.iter().map(String::as_str).chain([image]).map(full);
        for name in names.collect::<Result<Vec<_>, _>>()? {
            self.images.insert(name, id.clone());
        }
        Ok(Outcome { id: Some(id), unchanged: false, variables: Vec::new() })
    }

    pub fn publish(&mut self, image: &str, content: Option<&str>) -> Result<(), EngineError> {
        self.remote.insert(full(image)?, content.map(image_id));
        Ok(())
    }

    pub fn load(&mut self, name: &str) -> Result<Vec<String>, EngineError> {
        self.clock += 1;
        let reference = full(name)?;
        self.images.insert(reference.clone(), image_id(&reference));
        Ok(vec![familiar(&reference)])
    }

    pub fn remove_image(&mut self, image: &ImageRef, force: bool) -> Result<(), EngineError> {
        self.clock += 1;
        let reference = image.to_string();
        let Some(id) = self.images.get(&reference) else {
            return Err(error(ErrorKind::NotFound, format!("no such image: {}", image.familiar())));
        };
        let user = self.containers.iter().find(|record| record.image_id == *id);
        if let Some(user) = user.filter(|_| !force) {
            return Err(conflict(format!("image {} is in use by container {}", image.familiar(), user.name)));
        }
        self.images.remove(&reference);
        Ok(())
    }

    pub fn images(&self) -> Vec<ImageInfo> {
        let ids: BTreeSet<&String> = self.images.values().collect();
        ids.into_iter().map(|id| self.image(id)).collect()
    }

    pub fn image(&self, id: &str) -> ImageInfo {
        let references = self.images.iter().filter(|(_, other)| *other == id);
        ImageInfo {
            id: id.to_owned(),
            references: references.map(|(reference, _)| familiar(reference)).collect(),
            size: 1_000_000,
            created: Some(time(0)),
            platform: "linux/amd64".to_owned(),
            labels: IndexMap::new(),
            digest: None,
            age: None,
        }
    }
}

pub(super) fn full(image: &str) -> Result<String, EngineError> {
    let parsed: Result<ImageRef, _> = image.parse();
    parsed.map(|image| image.to_string()).map_err(|cause| error(ErrorKind::Invalid, cause.to_string()))
}

fn familiar(reference: &str) -> String {
    reference.parse::<ImageRef>().map_or_else(|_| reference.to_owned(), |image| image.familiar())
}

fn image_id(content: &str) -> String {
    format!("sha256:{}", digest(content))
}
