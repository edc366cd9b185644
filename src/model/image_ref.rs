//! Image references: `[host[:port]/]path[:tag][@digest]`, grammar of the distribution project.

use std::fmt;

use serde::{Deserialize, Serialize};

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// Longest repository, in bytes, with the `library/` that is put before it.
const MAX_REPOSITORY: usize = 255;

/// A parsed reference with its defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImageRef {
    /// Host and port; `docker.io` when none was written.
    pub registry: String,
    /// Path below the registry; `library/` is put before a single name on docker.io.
    pub repository: String,
    /// `latest` when neither tag nor digest was written.
    pub tag: Option<String>,
    /// `sha256:<64 hex>`.
    pub digest: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageRefError {
    #[error("the image name is empty")]
    Empty,
    #[error("image name `{0}` has upper-case letters; repository names are lower case")]
    UpperCase(String),
    #[error("`{0}` is not a valid image name")]
    Malformed(String),
    #[error("`{0}` is not a valid tag: letters, digits, `_`, `.` and `-`, at most 128")]
    Tag(String),
    #[error("`{0}` is not a valid digest: expected `sha256:` and 64 hex digits")]
    Digest(String),
}

impl std::str::FromStr for ImageRef {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ImageRefError::Empty);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(valid_digest(digest)?)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(valid_tag(tag)?)),
            _ => (rest, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_host(first) => (first.to_owned(), path.to_owned()),
            _ => (DEFAULT_REGISTRY.to_owned(), name.to_owned()),
        };
        if !is_valid_host(&registry) {
            return Err(ImageRefError::Malformed(text.to_owned()));
        }
        if !path.split('/').all(is_component) {
            return Err(if path.contains(|c: char| c.is_ascii_uppercase()) {
                ImageRefError::UpperCase(text.to_owned())
            } else {
                ImageRefError::Malformed(text.to_owned())
            });
        }
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY.to_owned() } else { registry };
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("library/{path}")
        } else {
            path
        };
        if repository.len() > MAX_REPOSITORY {
            return Err(ImageRefError::Malformed(text.to_owned()));
        }
        let tag = match (&tag, &digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            _ => tag,
        };
        Ok(Self { registry, repository, tag, digest })
    }
}

fn is_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.contains(|c: char| c.is_ascii_uppercase())
}

/// Names or an address of IPv4 joined by `.`, or an address of IPv6 in brackets, with or without a port.
/// The store makes a directory of it.
fn is_valid_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("", port)
        }
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let label = |text: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !text.is_empty() && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
    };
    let port_ok = port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| {
            !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())
        });
    port_ok && (host.starts_with('[') || name.split('.').all(label))
}

/// `[a-z0-9]+` runs joined by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    component.starts_with(alnum)
        && component.ends_with(alnum)
        && component
            .split(alnum)
            .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

fn valid_tag(tag: &str) -> Result<String, ImageRefError> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let ok =
        tag.len() <= 128 && tag.starts_with(word) && tag.chars().all(|c| word(c) || c == '.' || c == '-');
    ok.then(|| tag.to_owned()).ok_or_else(|| ImageRefError::Tag(tag.to_owned()))
}

fn valid_digest(digest: &str) -> Result<String, ImageRefError> {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    let ok = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    ok.then(|| digest.to_owned()).ok_or_else(|| ImageRefError::Digest(digest.to_owned()))
}

/// The full form: `docker.io/library/redis:7`.
impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl ImageRef {
    /// The form users write: without `docker.io/library/`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(short) = full.strip_prefix("docker.io/") else { return full };
        match short.split_once('/') {
            Some(("library", name)) if !name.contains('/') => name.to_owned(),
            // Read alone, the first of its words would be taken for a registry.
            Some((first, _)) if is_host(first) => full,
            _ => short.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        text.parse::<ImageRef>().map_or_else(|error| format!("error: {error}"), |image| image.to_string())
    }

    #[test]
    fn fills_in_registry_library_and_tag() {
        assert_eq!(full("redis"), "docker.io/library/redis:latest");
        assert_eq!(full("redis:7"), "docker.io/library/redis:7");
        assert_eq!(full("acme/web"), "docker.io/acme/web:latest");
        assert_eq!(full("localhost:5000/web"), "localhost:5000/web:latest");
        assert_eq!(full("localhost/web:1"), "localhost/web:1");
        assert_eq!(full("ghcr.example/a/b__c:v1.2"), "ghcr.example/a/b__c:v1.2");
    }

    #[test]
    fn a_digest_needs_no_tag() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        assert_eq!(full(&format!("redis@{digest}")), format!("docker.io/library/redis@{digest}"));
        assert_eq!(
            full("redis@sha256:12"),
            "error: `sha256:12` is not a valid digest: expected `sha256:` and 64 hex digits"
        );
    }

    #[test]
    fn refuses_what_a_registry_refuses() {
        assert!(full("BusyBox:Latest").starts_with("error: image name `BusyBox:Latest` has upper-case"));
        for bad in ["", "a//b", "-a", "a:", "a:-x", "a b", "a..b", "a/", "..", "http://x"] {
            assert!(full(bad).starts_with("error:"), "{bad}");
        }
        assert!(full(&"a".repeat(247)).starts_with("docker.io/library/a"));
        assert!(full(&"a".repeat(248)).starts_with("error:"), "too long with `library/`");
    }

    #[test]
    fn a_registry_is_a_host_and_never_a_path() {
        for good in ["a.b/x", "A/x", "10.0.0.1:5000/x", "[::1]:5000/x", "[fe80::1]/x", "x-y.z/x"] {
            assert!(!full(good).starts_with("error:"), "{good}");
        }
        for bad in
            ["../x", "./x", "a../x", ":1/x", "a:/x", "a:x/y", "a:123456/x", "-a.b/x", "[::1/x", "[1]/x"]
        {
            assert!(full(bad).starts_with("error:"), "{bad}");
        }
    }

    #[test]
    fn the_familiar_form_is_what_people_write() {
        assert_eq!("redis:7".parse::<ImageRef>().unwrap().familiar(), "redis:7");
        assert_eq!("acme/web".parse::<ImageRef>().unwrap().familiar(), "acme/web:latest");
        for odd in ["docker.io/library/a/b:latest", "docker.io/localhost/a:latest", "docker.io/a.b/c:latest"]
        {
            assert_eq!(full(&odd.parse::<ImageRef>().unwrap().familiar()), odd);
        }
    }
}
