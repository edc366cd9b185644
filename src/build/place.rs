//! Where files of a build come from, as it is written: directories, images, git repositories, archives.
//! Pure.

use std::path::PathBuf;

use crate::model::Repository;

/// A context, or what ADD fetches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Directory(PathBuf),
    Git(Repository),
    /// An archive, or a file.
    Http(String),
    /// `-`: an archive, or a Dockerfile.
    Stdin,
    /// What [`super::ImageName`] takes.
    Image(String),
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
        if let Some(found) = Repository::parse(text)? {
            return Ok(Some(Self::Git(found)));
        }
        let http = text.starts_with("http://") || text.starts_with("https://");
        Ok(http.then(|| Self::Http(text.to_owned())))
    }
}

/// An image that must be in the store: one that the same plan has built.
pub const STORED: &str = "stored-image://";
/// An OCI layout: `oci-layout:///path`, with `:tag` or `@digest`.
pub const LAYOUT: &str = "oci-layout://";

#[cfg(test)]
mod tests {
    use super::*;

    fn git(remote: &str, reference: Option<&str>, subdir: Option<&str>) -> Place {
        Place::Git(Repository {
            remote: remote.into(),
            reference: reference.map(Into::into),
            subdir: subdir.map(Into::into),
            submodules: true,
            ..Repository::default()
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
