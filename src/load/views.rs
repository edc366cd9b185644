//! Parts of a loaded project as lists: what `config --services`, `--images`, `--variables` and the like show.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    config, interpolate,
    options::Resolved,
    tree::{Key, Map, Node, Value},
};
use crate::model::image_name;

/// A variable that the files name (`config --variables`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct VariableView {
    pub name: String,
    pub default_value: String,
    /// The text that stands for it when it is set (`${V:+text}`).
    pub presence_value: String,
    pub required: bool,
}

impl Resolved {
    /// Keys of the enabled services, sorted.
    #[must_use]
    pub fn service_names(&self) -> Vec<String> {
        let mut names: Vec<_> = keys(&self.canonical, "services").map(ToOwned::to_owned).collect();
        names.sort_unstable();
        names
    }

    /// Keys of the volumes in use.
    #[must_use]
    pub fn volume_names(&self) -> Vec<String> {
        keys(&self.canonical, "volumes").map(ToOwned::to_owned).collect()
    }

    /// Keys of the networks in use.
    #[must_use]
    pub fn network_names(&self) -> Vec<String> {
        keys(&self.canonical, "networks").map(ToOwned::to_owned).collect()
    }

    /// The models in use, by the name of what they run.
    #[must_use]
    pub fn model_names(&self) -> Vec<String> {
        let models = self.canonical.get("models").and_then(Node::as_map);
        models
            .into_iter()
            .flat_map(Map::values)
            .filter_map(|model| model.get_str("model").map(ToOwned::to_owned))
            .collect()
    }

    /// Image of each enabled service, one each, also those that are built.
    #[must_use]
    pub fn image_names(&self) -> Vec<String> {
        let project = self.canonical.get_str("name").unwrap_or_default();
        let written = self.written_images();
        let image = |service: String| match written.get(&service) {
            Some(image) => image.clone(),
            None => image_name(project, &service),
        };
        self.service_names().into_iter().map(image).collect()
    }

    /// Image of each enabled service for which one is written, by service.
    #[must_use]
    pub fn written_images(&self) -> BTreeMap<String, String> {
        let services = self.canonical.get("services").and_then(Node::as_map);
        let image = |(name, service): (&Key, &Node)| {
            let image = service.get_str("image").filter(|image| !image.is_empty())?;
            Some((name.text.clone(), image.to_owned()))
        };
        services.into_iter().flatten().filter_map(image).collect()
    }

    /// Shows another image for a service.
    pub fn set_image(&mut self, service: &str, image: &str) {
        let services = self.canonical.get_mut("services");
        if let Some(service) = services.and_then(|services| services.get_mut(service)) {
            service.set("image", Value::Text(image.to_owned()));
        }
    }

    /// Leaves services and their images, and nothing else: a file to lay over the others. Printed as it is:
    /// a `command: null` of the canonical JSON would take away what the others say.
    pub fn keep_images_only(&mut self) {
        self.as_written = true;
        let Some(project) = self.canonical.as_map_mut() else { return };
        project.retain(|key, _| key.text == "services");
        let services = project.get_mut("services").and_then(Node::as_map_mut);
        for service in services.into_iter().flat_map(Map::values_mut).filter_map(Node::as_map_mut) {
            service.retain(|key, _| key.text == "image");
        }
    }

    /// Variables used for interpolation as `NAME=value`, sorted.
    #[must_use]
    pub fn environment_lines(&self) -> Vec<String> {
        self.environment.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// Config hash of each enabled service, by service.
    #[must_use]
    pub fn hashes(&self) -> BTreeMap<String, String> {
        let services = self.canonical.get("services").and_then(Node::as_map).into_iter().flatten();
        services.map(|(name, service)| (name.text.clone(), config::service_hash(service))).collect()
    }

    /// Every variable that the files name, by name. Only of a project loaded without interpolation: else
    /// they are gone.
    #[must_use]
    pub fn variables(&self) -> BTreeMap<String, VariableView> {
        let mut found = BTreeMap::new();
        collect(&self.canonical, &mut found);
        found
    }
}

fn keys<'a>(model: &'a Node, kind: &str) -> impl Iterator<Item = &'a str> {
    let map = model.get(kind).and_then(Node::as_map);
    map.into_iter().flat_map(Map::keys).map(|key| key.text.as_str())
}

fn collect(node: &Node, found: &mut BTreeMap<String, VariableView>) {
    match &node.value {
        Value::Text(text) => {
            for used in interpolate::variables(text) {
                let view = VariableView {
                    name: used.name.clone(),
                    default_value: used.default,
                    presence_value: used.alternative,
                    required: used.required,
                };
                found.entry(used.name).or_insert(view);
            }
        }
        Value::List(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Map(map) => map.values().for_each(|value| collect(value, found)),
        _ => {}
    }
}
