//! Which image a person means, and what there is to say of it.

use oci_spec::image::ImageConfiguration;
use serde_json::{Value, json};

use super::{
    ImageError, Store,
    layout::{hex, read},
};
use crate::model::ImageRef;

/// An image that somebody named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub id: String,
    /// The name; `None` when it was named by its id.
    pub reference: Option<ImageRef>,
}

/// A step of an image's history, the last one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// As the configuration says it, RFC 3339.
    pub created: Option<String>,
    pub created_by: String,
    /// Of the files of its layer, in bytes.
    pub size: u64,
    pub comment: String,
}

impl Store {
    /// By a name, or by an id or its beginning.
    ///
    /// # Errors
    /// There is none, or several begin so.
    pub fn lookup(&self, text: &str) -> Result<Found, ImageError> {
        if let Ok(reference) = text.parse::<ImageRef>()
            && let Some(found) = self.layout.read_ref(&reference)?
        {
            return Ok(Found { id: found.image, reference: Some(reference) });
        }
        let start = text.strip_prefix("sha256:").unwrap_or(text);
        let is_id = !start.is_empty() && start.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let mut ids = self.layout.image_ids()?;
        ids.retain(|id| is_id && id["sha256:".len()..].starts_with(start));
        match ids.as_slice() {
            [] => Err(ImageError::NotFound(text.to_owned())),
            [id] => Ok(Found { id: id.clone(), reference: None }),
            _ => Err(ImageError::Invalid(format!("several images have an id that begins with `{start}`"))),
        }
    }

    /// The image as `docker image inspect` shows it.
    pub fn inspect(&self, text: &str) -> Result<Value, ImageError> {
        let found = self.lookup(text)?;
        let missing = || ImageError::NotFound(text.to_owned());
        let image = self.find_id(&found.id)?.ok_or_else(missing)?;
        let bytes = read(&self.layout.blob(hex(&found.id)?))?.ok_or_else(missing)?;
        let config: Value = serde_json::from_slice(&bytes).map_err(|error| {
            ImageError::Invalid(format!("the configuration of {text} is malformed: {error}"))
        })?;
        let mut digests: Vec<String> = Vec::new();
        let mut since: Option<u64> = None;
        for name in &image.references {
            let Some(record) = self.layout.read_ref(name)? else { continue };
            let bare = ImageRef { tag: None, digest: None, ..name.clone() };
            let digest = format!("{}@{}", bare.familiar(), record.target.digest());
            if record.source != "build" && !digests.contains(&digest) {
                digests.push(digest);
            }
            since = since.max(record.since);
        }
        let tags = image.references.iter().filter(|name| name.digest.is_none());
        let field = |name: &str| config.get(name).cloned().unwrap_or(Value::Null);
        Ok(json!({
            "Id": image.id,
            "RepoTags": tags.map(ImageRef::familiar).collect::<Vec<_>>(),
            "RepoDigests": digests,
            "Comment": field("comment"),
            "Created": field("created"),
            "Author": field("author"),
            "Architecture": field("architecture"),
            "Variant": field("variant"),
            "Os": field("os"),
            "Size": image.size,
            "Config": field("config"),
            "RootFS": {"Type": "layers", "Layers": image.config.rootfs().diff_ids()},
            "LastTagTime": since,
        }))
    }

    /// How the image came about, the last step first.
    pub fn history(&self, text: &str) -> Result<Vec<Made>, ImageError> {
        let found = self.lookup(text)?;
        let image = self.find_id(&found.id)?.ok_or_else(|| ImageError::NotFound(text.to_owned()))?;
        let mut layers = image.layers.iter();
        let mut steps = Vec::new();
        for step in history(&image.config) {
            let layer = if step.empty_layer() == Some(true) { None } else { layers.next() };
            let size = match layer {
                Some(layer) => self.layout.layer_record(hex(&layer.diff_id)?)?.map_or(0, |r| r.facts.size),
                None => 0,
            };
            steps.push(Made {
                created: step.created().clone(),
                created_by: step.created_by().clone().unwrap_or_default(),
                size,
                comment: step.comment().clone().unwrap_or_default(),
            });
        }
        // Layers that no step tells of.
        for layer in layers {
            let size = self.layout.layer_record(hex(&layer.diff_id)?)?.map_or(0, |r| r.facts.size);
            steps.push(Made { created: None, created_by: String::new(), size, comment: String::new() });
        }
        steps.reverse();
        Ok(steps)
    }
}

fn history(config: &ImageConfiguration) -> impl Iterator<Item = &oci_spec::image::History> {
    config.history().iter().flatten()
}
