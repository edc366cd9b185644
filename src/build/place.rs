//! Where files of a build come from, as it is written: directories, images, git repositories, archives.
//! Pure.

use std::path::PathBuf;

/// A context, or what ADD fetches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Directory(PathBuf),
    Git(Git),
    /// An archive, or a file.
    Http(String),
    /// `-`: an archive, or a Dockerfile.
    Stdin,
    /// What [`super::ImageName`] takes.
    Image(String),
}

/// A repository and what of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Git {
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

impl Place {
    /// As `build.context` and `additional_contexts` say it; paths are absolute.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::Stdin);
        }
        if let Some(image) = text.strip_prefix("docker-image://") {
            return Ok(Self::Image(image.to_owned()));
        }
        if text.starts_with(STORED) || text.starts_with(LAYOUT) {
            return Ok(Self::Image(text.to_owned()));
        }
        if let Some(remote) = Self::remote(text)? {
            return Ok(remote);
        }
        match text.split_once("://") {
            Some(("file", path)) => Ok(Self::Directory(path.into())),
            Some((scheme, _)) => Err(format!("`{scheme}://` is no kind of build context")),
            None => Ok(Self::Directory(text.into())),
        }
    }

    /// An address that ADD fetches; `None` for what is a path of the context.
    pub fn remote(text: &str) -> Result<Option<Self>, String> {
        if let Some(git) = git(text)? {
            return Ok(Some(Self::Git(git)));
        }
        let http = text.starts_with("http://") || text.starts_with("https://");
        Ok(http.then(|| Self::Http(text.to_owned())))
    }
}

/// An image that must be in the store: one that the same plan has built.
pub const STORED: &str = "stored-image://";
/// An OCI layout: `oci-layout:///path`, with `:tag` or `@digest`.
pub const LAYOUT: &str = "oci-layout://";

/// The rules of moby/buildkit (`ParseGitRef`): a scheme of git, `git@host:path`, `github.com/`, or an
/// http address whose path ends in `.git`.
fn git(text: &str) -> Result<Option<Git>, String> {
    let (address, fragment) = text.split_once('#').map_or((text, None), |(a, f)| (a, Some(f)));
    let (address, query) = address.split_once('?').map_or((address, None), |(a, q)| (a, Some(q)));
    let http = address.starts_with("http://") || address.starts_with("https://");
    let scp = !address.contains("://")
        && address.split_once(':').is_some_and(|(host, _)| host.contains('@') && !host.contains('/'));
    let plain = address.starts_with("git://") || address.starts_with("ssh://") || scp;
    let remote = if plain || http && address.ends_with(".git") {
        address.to_owned()
    } else if address.starts_with("github.com/") {
        format!("https://{address}")
    } else {
        return Ok(None);
    };
    let mut git = Git { remote, submodules: true, ..Git::default() };
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

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn truth(text: &str) -> bool {
    matches!(text, "1" | "true" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(remote: &str, reference: Option<&str>, subdir: Option<&str>) -> Place {
        Place::Git(Git {
            remote: remote.into(),
            reference: reference.map(Into::into),
            subdir: subdir.map(Into::into),
            submodules: true,
            ..Git::default()
        })
    }

    #[test]
    fn addresses_are_what_buildkit_takes_them_for() {
        let table = [
            ("/dir", Place::Directory("/dir".into())),
            ("-", Place::Stdin),
            ("https://h/r.git", git("https://h/r.git", None, None)),
            ("https://h/r.git#v1", git("https://h/r.git", Some("v1"), None)),
            ("http://h:1/r.git#v1:sub/dir", git("http://h:1/r.git", Some("v1"), Some("sub/dir"))),
            ("https://h/r.git#:sub", git("https://h/r.git", None, Some("sub"))),
            ("https://h/r.git?branch=b&subdir=/s", git("https://h/r.git", Some("refs/heads/b"), Some("s"))),
            ("git@h:me/r.git#x", git("git@h:me/r.git", Some("x"), None)),
            ("git://h/r", git("git://h/r", None, None)),
            ("ssh://git@h/r", git("ssh://git@h/r", None, None)),
            ("github.com/me/r", git("https://github.com/me/r", None, None)),
            ("https://h/a.tar.gz", Place::Http("https://h/a.tar.gz".into())),
            ("docker-image://alpine:3", Place::Image("alpine:3".into())),
            ("oci-layout:///l:tag", Place::Image("oci-layout:///l:tag".into())),
            ("file:///x", Place::Directory("/x".into())),
        ];
        for (text, place) in table {
            assert_eq!(Place::parse(text), Ok(place), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_told() {
        for text in [
            "ftp://h/x",
            "https://h/r.git#--upload-pack=x",
            "https://h/r.git#a:../x",
            "https://h/r.git?nope=1",
            "https://h/r.git?ref=",
        ] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
        assert_eq!(Place::remote("dir/file"), Ok(None));
        assert_eq!(Place::remote("a:b"), Ok(None));
    }
}
