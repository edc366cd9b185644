//! Relative paths of a canonical tree to paths below a directory, by the path rules of the table.

use super::{
    attributes::{self, Form, PathRule},
    canonical::clean,
    tree::{Node, Value},
};

/// Where paths are resolved.
#[derive(Clone, Copy, Debug)]
pub struct Base<'a> {
    /// The directory, absolute or relative to another one.
    pub dir: &'a str,
    /// What `~` stands for.
    pub home: Option<&'a str>,
}

impl Base<'_> {
    /// The path below the directory, cleaned; an absolute path as it is.
    #[must_use]
    pub fn join(&self, path: &str) -> String {
        let path = match (path.strip_prefix('~'), self.home) {
            (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
                clean(&format!("{home}{rest}"))
            }
            _ => path.to_owned(),
        };
        if path.starts_with('/') {
            return path;
        }
        clean(&format!("{}/{path}", if self.dir.is_empty() { "." } else { self.dir }))
    }

    /// Resolves every path of a tree.
    pub fn resolve(&self, node: &mut Node, form: Form) {
        match (&mut node.value, form) {
            (Value::List(items), Form::List(item)) => {
                items.iter_mut().for_each(|node| self.resolve(node, *item));
            }
            (Value::Map(map), Form::Keyed(item) | Form::Names(item, _)) => {
                map.values_mut().for_each(|node| self.resolve(node, *item));
            }
            (
                Value::Map(map),
                Form::Object(table) | Form::ObjectOrNull(table) | Form::Closed(table) | Form::Short(_, table),
            ) => {
                let bind = map.get("type").and_then(Node::as_str) == Some("bind");
                let driver = map.get("driver").and_then(Node::as_str);
                let local = matches!(driver, None | Some("local"));
                for (key, value) in map {
                    let Some(row) = attributes::find(table, &key.text) else { continue };
                    match row.path {
                        PathRule::None => self.resolve(value, row.form),
                        PathRule::Mount if !bind => {}
                        PathRule::Device => {
                            let bind = local && value.get_str("o") == Some("bind");
                            if let Some(device) = value.get_mut("device").filter(|_| bind) {
                                self.resolve_value(device, PathRule::Local);
                            }
                        }
                        rule => self.resolve_value(value, rule),
                    }
                }
            }
            _ => {}
        }
    }

    fn resolve_value(&self, node: &mut Node, rule: PathRule) {
        match &mut node.value {
            Value::List(items) => items.iter_mut().for_each(|node| self.resolve_value(node, rule)),
            Value::Map(map) => map.values_mut().for_each(|node| self.resolve_value(node, rule)),
            Value::Text(text) => {
                let kept = match rule {
                    PathRule::Context => is_remote(text),
                    PathRule::Mount => is_foreign(text),
                    PathRule::Ssh => text.is_empty(),
                    PathRule::None | PathRule::Local | PathRule::Device => false,
                };
                if !kept {
                    *text = self.join(text);
                }
            }
            _ => {}
        }
    }
}

/// A build context that is no directory of this machine.
#[must_use]
pub fn is_remote(context: &str) -> bool {
    let prefixes = ["https://", "http://", "git://", "ssh://", "github.com/", "git@"];
    prefixes.iter().any(|prefix| context.starts_with(prefix))
        || context.contains("://")
        || context.starts_with("service:")
        // Standard input.
        || context == "-"
}

/// A path of Windows, which stays as it is.
fn is_foreign(path: &str) -> bool {
    let mut chars = path.chars();
    let drive = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.next() == Some(':')
        && matches!(chars.next(), Some('\\' | '/'));
    drive || path.starts_with("\\\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_and_cleaned() {
        let base = Base { dir: "/p", home: Some("/h") };
        for (path, joined) in
            [("./a", "/p/a"), ("../a", "/a"), (".", "/p"), ("/x/./y", "/x/./y"), ("~/a", "/h/a"), ("~", "/h")]
        {
            assert_eq!(base.join(path), joined);
        }
        assert_eq!(Base { dir: "sub", home: None }.join("../x"), "x");
    }
}
