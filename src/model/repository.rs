//! Where a git repository lies, as builds and Compose files name it: `https://host/shop.git#ref:subdir`,
//! `git@host:team/shop.git?tag=v1`.

use std::fmt;

/// A repository and what of it. Shown without the password it may hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repository {
    /// What git itself takes.
    pub remote: String,
    /// Branch, tag or commit; the remote's HEAD when absent.
    pub reference: Option<String>,
    /// Relative to the root of the repository.
    pub subdir: Option<String>,
    /// The commit that the reference must be; at least its first 7 digits.
    pub commit: Option<String>,
    pub keep_git_dir: Option<bool>,
    pub submodules: bool,
}

impl Repository {
    /// By the rules of moby/buildkit (`ParseGitRef`): a scheme of git, `git@host:path`, `github.com/`, or an http
    /// address whose path ends in `.git`. `None` for any other text.
    ///
    /// # Errors
    /// It is one, and asks for what cannot be: an unknown parameter, a name that git would take for an option, a
    /// directory outside the repository.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let (address, fragment) = text.split_once('#').map_or((text, None), |(a, f)| (a, Some(f)));
        let (address, query) = address.split_once('?').map_or((address, None), |(a, q)| (a, Some(q)));
        let http = address.starts_with("http://") || address.starts_with("https://");
        let plain = address.starts_with("git://") || address.starts_with("ssh://") || is_scp(address);
        let remote = if plain || http && address.ends_with(".git") {
            address.to_owned()
        } else if address.starts_with("github.com/") {
            format!("https://{address}")
        } else {
            return Ok(None);
        };
        let mut git = Self { remote, submodules: true, ..Self::default() };
        if let Some(fragment) = fragment {
            let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
            git.reference = some(reference);
            git.subdir = some(subdir.trim_start_matches('/'));
        }
        for field in query.into_iter().flat_map(|query| query.split('&')).filter(|field| !field.is_empty()) {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            match key {
                "ref" | "branch" | "tag" | "commit" | "checksum" | "subdir" if value.is_empty() => {
                    return Err(format!("`{key}` of `{text}` is empty"));
                }
                "ref" => git.reference = some(value),
                "branch" => git.reference = Some(format!("refs/heads/{value}")),
                "tag" => git.reference = Some(format!("refs/tags/{value}")),
                "commit" | "checksum" => git.commit = some(value),
                "subdir" => git.subdir = some(value.trim_start_matches('/')),
                "keep-git-dir" => git.keep_git_dir = Some(value.is_empty() || truth(value)),
                "submodules" => git.submodules = value.is_empty() || truth(value),
                other => return Err(format!("`{text}` has the unknown parameter `{other}`")),
            }
        }
        let words = [&git.reference, &git.subdir, &git.commit];
        if words.into_iter().flatten().any(|word| word.starts_with('-')) || git.remote.starts_with('-') {
            return Err(format!("`{text}` is no address of a repository"));
        }
        if git.subdir.as_ref().is_some_and(|path| path.split('/').any(|part| part == "..")) {
            return Err(format!("the directory of `{text}` leads out of the repository"));
        }
        Ok(Some(git))
    }

    /// The address without user and password.
    #[must_use]
    pub fn shown_remote(&self) -> String {
        self.without_user(&self.remote)
    }

    /// A text of git's about this repository, without user and password.
    #[must_use]
    pub fn without_user(&self, text: &str) -> String {
        let rest = self.remote.split_once("://").map_or("", |(_, rest)| rest);
        let host = &rest[..rest.find('/').unwrap_or(rest.len())];
        match host.rsplit_once('@') {
            Some((user, _)) => text.replace(&format!("{user}@"), ""),
            None => text.to_owned(),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown_remote())?;
        match (self.reference.as_deref().unwrap_or_default(), &self.subdir) {
            ("", None) => Ok(()),
            (reference, None) => write!(f, "#{reference}"),
            (reference, Some(path)) => write!(f, "#{reference}:{path}"),
        }
    }
}

/// `user@host:path`
fn is_scp(text: &str) -> bool {
    !text.contains("://")
        && text.split_once(':').is_some_and(|(host, path)| {
            !path.is_empty()
                && host.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
                && !host.contains('/')
        })
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn truth(text: &str) -> bool {
    matches!(text, "1" | "true" | "yes")
}
