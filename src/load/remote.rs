//! Compose files that lie in a git repository (`https://host/shop.git#ref:subdir`, `git@host:team/shop.git`)
//! or that a registry keeps (`oci://host/shop:1`), named by `-f`, `include` and `extends`. Reads the name and
//! finds the file in the copy that a [`Source`] fetches; nothing may lead out of that copy.

use std::{fmt, path::PathBuf};

use super::{discover::NAMES, scalars, source::Source};
use crate::model::Repository;

/// Switches remote files off when it is false, as for docker compose.
const SWITCH: &str = "COMPOSE_EXPERIMENTAL_GIT_REMOTE";
const PUBLISHED_SWITCH: &str = "COMPOSE_EXPERIMENTAL_OCI_REMOTE";

/// Before the name of a project that a registry keeps.
const PUBLISHED: &str = "oci://";

/// A Compose file in a git repository. Shown without the password that its address may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote(Repository);

impl Remote {
    /// `None` for what is a path of this machine.
    ///
    /// # Errors
    /// It is an address, and asks for what is not done for Compose files.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let Some(mut found) = Repository::parse(text)? else { return Ok(None) };
        let shown = found.shown_remote();
        let refused = |why: &str| format!("`{shown}` is refused: {why}");
        if found.keep_git_dir.is_some() {
            return Err(refused("`keep-git-dir` means nothing for a Compose file"));
        }
        if let Some(commit) = found.commit.take() {
            if found.reference.is_some() {
                return Err(refused("name the commit or a reference, not both"));
            }
            found.reference = Some(commit);
        }
        Ok(Some(Self(found)))
    }

    #[must_use]
    pub fn url(&self) -> &str {
        &self.0.remote
    }

    /// Branch, tag or commit; none is what the repository shows first.
    #[must_use]
    pub fn reference(&self) -> Option<&str> {
        self.0.reference.as_deref()
    }

    /// The repository's own name, which a project without a name is called by.
    #[must_use]
    pub fn name(&self) -> &str {
        let last = self.url().trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
        let name = last.strip_suffix(".git").unwrap_or(last);
        if matches!(name, "" | "." | "..") { "repository" } else { name }
    }

    /// The commit that is named in full: what it holds never changes.
    #[must_use]
    pub fn pinned(&self) -> Option<&str> {
        let is_commit = |text: &&str| text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
        self.reference().filter(is_commit)
    }

    /// The URL without user and password.
    #[must_use]
    pub fn shown_url(&self) -> String {
        self.0.shown_remote()
    }

    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.0
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a name leads away from this machine.
#[must_use]
pub fn is_remote(name: &str) -> bool {
    name.starts_with(PUBLISHED) || !matches!(Remote::parse(name), Ok(None))
}

/// The Compose file of this machine that a name stands for; `None` when it is a path already.
#[must_use]
pub fn local(source: &dyn Source, name: &str) -> Option<Result<PathBuf, String>> {
    if let Some(published) = name.strip_prefix(PUBLISHED) {
        return Some(fetched_published(source, published));
    }
    let remote = Remote::parse(name).transpose()?;
    Some(remote.and_then(|remote| fetched(source, &remote)))
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
    permitted(source, SWITCH, &remote.to_string())?;
    let copy = source.fetch(remote)?;
    let place = remote.0.subdir.as_ref().map_or_else(|| copy.clone(), |path| copy.join(path));
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
            ("https://h/shop.git?tag=v1&subdir=deploy", "https://h/shop.git#refs/tags/v1:deploy"),
        ];
        for (text, shown) in table {
            assert_eq!(
                Remote::parse(text).unwrap().map(|remote| remote.to_string()).as_deref(),
                Some(shown),
                "{text}"
            );
        }
        for path in
            ["compose.yaml", "./a.git", "a/b@c:d", "https://h/compose.yaml", "file:///r.git", "ext::x", "-"]
        {
            assert_eq!(Remote::parse(path), Ok(None), "{path}");
        }
        assert_eq!(Remote::parse("git@h:team/shop.git").unwrap().unwrap().name(), "shop");
        let pinned = format!("git://h/x#{}", "a1".repeat(20));
        assert!(Remote::parse(&pinned).unwrap().unwrap().pinned().is_some());
    }

    #[test]
    fn what_leads_out_of_the_repository_is_refused() {
        for text in [
            "git://h/x#:../y",
            "git://h/x#main:a/../../y",
            "git://h/x#--upload-pack=x",
            "git://h/x?keep-git-dir=1",
        ] {
            assert!(Remote::parse(text).is_err(), "{text}");
        }
        // From the repository's root, as builds have it.
        assert_eq!(Remote::parse("git://h/x#main:/etc").unwrap().unwrap().to_string(), "git://h/x#main:etc");
    }
}
