//! Compose files that lie in a git repository (`https://host/shop.git#ref:subdir`, `git@host:team/shop.git`)
//! or that a registry keeps (`oci://host/shop:1`), named by `-f`, `include` and `extends`. Reads the name and
//! finds the file in the copy that a [`Source`] fetches; nothing may lead out of that copy.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
};

use super::{discover::NAMES, scalars, source::Source};

/// Switches remote files off when it is false, as for docker compose.
const SWITCH: &str = "COMPOSE_EXPERIMENTAL_GIT_REMOTE";
const PUBLISHED_SWITCH: &str = "COMPOSE_EXPERIMENTAL_OCI_REMOTE";

/// Before the name of a project that a registry keeps.
const PUBLISHED: &str = "oci://";

/// A place in a git repository. Shown without the password it may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    pub url: String,
    /// Branch, tag or commit; none is what the repository shows first.
    pub reference: Option<String>,
    /// File or directory in the repository.
    pub path: Option<String>,
}

impl Remote {
    /// `None` for what is a path of this machine.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (url, fragment) = text.split_once('#').map_or((text, ""), |(url, rest)| (url, rest));
        let url = match url.split_once("://") {
            Some(("http" | "https", rest)) if rest.ends_with(".git") => url.to_owned(),
            Some(("git" | "ssh", _)) => url.to_owned(),
            Some(_) => return None,
            None if url.starts_with("github.com/") => format!("https://{url}"),
            None if is_scp(url) => url.to_owned(),
            None => return None,
        };
        let (reference, path) = fragment.split_once(':').unwrap_or((fragment, ""));
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Some(Self { url, reference: given(reference), path: given(path) })
    }

    /// The repository's own name, which a project without a name is called by.
    #[must_use]
    pub fn name(&self) -> &str {
        let last = self.url.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
        let name = last.strip_suffix(".git").unwrap_or(last);
        if matches!(name, "" | "." | "..") { "repository" } else { name }
    }

    /// The commit that is named in full: what it holds never changes.
    #[must_use]
    pub fn pinned(&self) -> Option<&str> {
        let is_commit = |text: &&str| text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
        self.reference.as_deref().filter(is_commit)
    }

    /// The URL without user and password.
    #[must_use]
    pub fn shown_url(&self) -> String {
        self.without_user(&self.url)
    }

    /// A text of git's about this repository, without user and password.
    #[must_use]
    pub fn without_user(&self, text: &str) -> String {
        let rest = self.url.split_once("://").map_or("", |(_, rest)| rest);
        let host = &rest[..rest.find('/').unwrap_or(rest.len())];
        match host.rsplit_once('@') {
            Some((user, _)) => text.replace(&format!("{user}@"), ""),
            None => text.to_owned(),
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.url.starts_with('-') || self.reference.as_deref().is_some_and(|name| name.starts_with('-')) {
            return Err(format!("`{self}` is refused: a name of git begins with no `-`"));
        }
        let inside = |path: &String| Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
        if self.path.as_ref().is_some_and(|path| !inside(path)) {
            return Err(format!("`{self}` is refused: its path leads out of the repository"));
        }
        Ok(())
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown_url())?;
        match (self.reference.as_deref().unwrap_or_default(), &self.path) {
            ("", None) => Ok(()),
            (reference, None) => write!(f, "#{reference}"),
            (reference, Some(path)) => write!(f, "#{reference}:{path}"),
        }
    }
}

/// `user@host:path`
fn is_scp(text: &str) -> bool {
    text.split_once(':').is_some_and(|(host, path)| {
        !path.is_empty()
            && host.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
            && !host.contains('/')
    })
}

/// Whether a name leads away from this machine.
#[must_use]
pub fn is_remote(name: &str) -> bool {
    name.starts_with(PUBLISHED) || Remote::parse(name).is_some()
}

/// The Compose file of this machine that a name stands for; `None` when it is a path already.
#[must_use]
pub fn local(source: &dyn Source, name: &str) -> Option<Result<PathBuf, String>> {
    if let Some(published) = name.strip_prefix(PUBLISHED) {
        return Some(fetched_published(source, published));
    }
    let remote = Remote::parse(name)?;
    Some(fetched(source, &remote))
}

fn fetched_published(source: &dyn Source, name: &str) -> Result<PathBuf, String> {
    permitted(source, PUBLISHED_SWITCH, &format!("{PUBLISHED}{name}"))?;
    let file = source.fetch_published(name)?.join(NAMES[0]);
    if source.is_file(&file) { Ok(file) } else { Err(format!("there is no `{}`", file.display())) }
}

fn permitted(source: &dyn Source, switch: &str, name: &str) -> Result<(), String> {
    if source.environment().get(switch).is_some_and(|text| scalars::flag(text) == Some(false)) {
        return Err(format!("`{name}` is not fetched: {switch} is false"));
    }
    Ok(())
}

fn fetched(source: &dyn Source, remote: &Remote) -> Result<PathBuf, String> {
    remote.check()?;
    permitted(source, SWITCH, &remote.to_string())?;
    let copy = source.fetch(remote)?;
    let place = remote.path.as_ref().map_or_else(|| copy.clone(), |path| copy.join(path));
    let names = NAMES.map(|name| place.join(name));
    let found = [place].into_iter().chain(names).find(|path| source.is_file(path));
    let Some(file) = found else {
        return Err(format!("there is no Compose file at `{remote}`; looked for {}", NAMES.join(", ")));
    };
    if !source.canonical(&file).starts_with(source.canonical(&copy)) {
        return Err(format!("`{remote}` is refused: its Compose file is a link out of the repository"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_repositories_are_told_from_paths() {
        let table = [
            ("https://h/a/shop.git", "https://h/a/shop.git"),
            ("https://u:secret@h/shop.git#v1:deploy", "https://h/shop.git#v1:deploy"),
            ("http://127.0.0.1:80/shop.git#:x/y.yaml", "http://127.0.0.1:80/shop.git#:x/y.yaml"),
            ("git://h/shop", "git://h/shop"),
            ("ssh://git@h:22/shop.git", "ssh://h:22/shop.git"),
            ("git@h:team/shop.git#main", "git@h:team/shop.git#main"),
            ("github.com/a/b", "https://github.com/a/b"),
        ];
        for (text, shown) in table {
            assert_eq!(
                Remote::parse(text).map(|remote| remote.to_string()).as_deref(),
                Some(shown),
                "{text}"
            );
        }
        for path in
            ["compose.yaml", "./a.git", "a/b@c:d", "https://h/compose.yaml", "file:///r.git", "ext::x", "-"]
        {
            assert_eq!(Remote::parse(path), None, "{path}");
        }
        assert_eq!(Remote::parse("git@h:team/shop.git").unwrap().name(), "shop");
        let pinned = format!("git://h/x#{}", "a1".repeat(20));
        assert!(Remote::parse(&pinned).unwrap().pinned().is_some());
    }

    #[test]
    fn what_leads_out_of_the_repository_is_refused() {
        for text in ["git://h/x#:../y", "git://h/x#main:/etc", "git://h/x#--upload-pack=x"] {
            assert!(Remote::parse(text).unwrap().check().is_err(), "{text}");
        }
    }
}
