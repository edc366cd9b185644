//! Secrets and configs: where their content comes from, and where a service wants them.

use std::path::PathBuf;

use indexmap::IndexMap;

use super::{Bind, Reader, entries, flag};
use crate::{
    load::tree::Node,
    model::{FileMount, FileSource, Sealed},
};

/// What stands behind a secret or a config: something, or the reason why nothing does.
pub(super) type Content = Result<FileSource, String>;

/// Secrets and configs by their keys.
#[derive(Debug, Default)]
pub(super) struct Contents {
    secrets: IndexMap<String, Content>,
    configs: IndexMap<String, Content>,
}

const DEFAULT_MODE: u32 = 0o444;

impl Bind<'_> {
    pub(super) fn contents(&self, model: &Node) -> Contents {
        let all = |kind: &'static str| {
            let noun = kind.trim_end_matches('s');
            entries(model, kind).map(|(key, node)| (key.to_owned(), self.content(noun, key, node))).collect()
        };
        Contents { secrets: all("secrets"), configs: all("configs") }
    }

    fn content(&self, noun: &str, key: &str, node: &Node) -> Content {
        if flag(node, "external") {
            return Err(format!(
                "the {noun} `{key}` is external: that is a {noun} of a cluster, and there is none here"
            ));
        }
        if let Some(other) = ["driver", "template_driver"].into_iter().find(|key| node.get(key).is_some()) {
            return Err(format!(
                "the {noun} `{key}` has a `{other}`, which means something on a cluster only"
            ));
        }
        if let Some(text) = node.get_str("content") {
            return Ok(FileSource::Text(Sealed::new(text.to_owned())));
        }
        if let Some(name) = node.get_str("environment") {
            return match self.environment.get(name) {
                Some(value) => Ok(FileSource::Text(Sealed::new(value.clone()))),
                None => Err(format!("the variable `{name}` that the {noun} `{key}` is made from is not set")),
            };
        }
        match node.get_str("file") {
            Some(path) => Ok(FileSource::Path(PathBuf::from(path))),
            None => Err(format!("the {noun} `{key}` has no content")),
        }
    }
}

impl Reader<'_, '_> {
    /// Secrets below /run/secrets, configs below the root, unless they say otherwise.
    pub(super) fn files(&mut self, node: &Node) -> Vec<FileMount> {
        let mut found = self.files_of(node, "secrets", "/run/secrets");
        found.extend(self.files_of(node, "configs", ""));
        found
    }

    fn files_of(&mut self, node: &Node, kind: &str, directory: &str) -> Vec<FileMount> {
        let mut found = Vec::new();
        for (at, item) in node.get(kind).map(Node::items).unwrap_or_default().iter().enumerate() {
            let key = format!("{kind}[{at}]");
            let name = item.get_str("source").unwrap_or_default();
            let contents = &self.bind.contents;
            let known = if kind == "secrets" { &contents.secrets } else { &contents.configs };
            // One that is not defined is told elsewhere.
            let Some(content) = known.get(name).cloned() else { continue };
            let source = match content {
                Ok(source) => source,
                Err(why) => {
                    self.tell(item, &key, why);
                    continue;
                }
            };
            let target = item.get_str("target").filter(|target| !target.is_empty()).unwrap_or(name);
            let target =
                if target.starts_with('/') { target.to_owned() } else { format!("{directory}/{target}") };
            let mode = item.get_str("mode").and_then(|mode| u32::from_str_radix(mode, 8).ok());
            found.push(FileMount {
                target,
                source,
                uid: self.owner(item, "uid", &key),
                gid: self.owner(item, "gid", &key),
                mode: mode.unwrap_or(DEFAULT_MODE),
            });
        }
        found
    }

    fn owner(&mut self, item: &Node, which: &str, key: &str) -> u32 {
        let Some(node) = item.get(which) else { return 0 };
        let text = node.as_str().unwrap_or_default();
        text.parse().unwrap_or_else(|_| {
            self.tell(
                node,
                &format!("{key}.{which}"),
                format!("`{text}` is no number of an owner such as 1000"),
            );
            0
        })
    }
}
