//! The build context and the Dockerfile: what the user's directory gives to a build.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    BuildError,
    content::{Ownership, Source},
    ignore::Matcher,
    memo::Memo,
    tree::Tree,
};
use crate::model::Build;

/// The Dockerfile's text and its name for messages.
#[derive(Clone, Debug)]
pub struct Text {
    pub name: String,
    pub text: String,
    /// Where it was read; `None` when it stands in the Compose file.
    path: Option<PathBuf>,
}

/// The directory that COPY copies from, without what `.dockerignore` leaves out.
#[derive(Debug)]
pub struct Context {
    tree: Tree,
    ignore: Matcher,
    memo: Memo,
}

impl Text {
    pub fn read(build: &Build) -> Result<Self, BuildError> {
        if let Some(text) = &build.dockerfile_inline {
            return Ok(Self { name: "dockerfile_inline".into(), text: text.clone(), path: None });
        }
        let given = build.dockerfile.clone().unwrap_or_else(|| "Dockerfile".into());
        let path = build.context.join(given);
        let name = shown(&path);
        let text = std::fs::read(&path).and_then(|bytes| {
            String::from_utf8(bytes)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
        });
        match text {
            Ok(text) => Ok(Self { name, text, path: Some(path) }),
            Err(source) if !build.context.is_dir() => Err(no_context(&build.context, source)),
            Err(source) => Err(BuildError::Context {
                message: format!("failed to read dockerfile `{name}`: {source}"),
                source: Some(source),
            }),
        }
    }
}

impl Context {
    pub fn open(build: &Build, dockerfile: &Text, memo: Memo) -> Result<Self, BuildError> {
        let tree = Tree::open(&build.context).map_err(|source| no_context(&build.context, source))?;
        Ok(Self { tree, ignore: ignore_file(build, dockerfile)?, memo })
    }

    #[must_use]
    pub fn source(&self) -> Source<'_> {
        Source {
            tree: &self.tree,
            ignore: Some(&self.ignore),
            memo: Some(&self.memo),
            ownership: Ownership::Root,
        }
    }

    #[must_use]
    pub fn memo(&self) -> &Memo {
        &self.memo
    }
}

fn no_context(path: &Path, source: io::Error) -> BuildError {
    BuildError::Context {
        message: format!(
            "the build context `{}` is not a directory that can be read: {source}",
            path.display()
        ),
        source: Some(source),
    }
}

/// `<Dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore` of the context.
fn ignore_file(build: &Build, dockerfile: &Text) -> Result<Matcher, BuildError> {
    let own = dockerfile.path.as_ref().map(|path| {
        let mut name = path.clone().into_os_string();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    for path in own.into_iter().chain([build.context.join(".dockerignore")]) {
        let wrong = |message: String, source| BuildError::Context { message, source };
        match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(wrong(format!("cannot read `{}`: {error}", shown(&path)), Some(error))),
            Ok(bytes) => {
                return Matcher::parse(&String::from_utf8_lossy(&bytes))
                    .map_err(|bad| wrong(format!("`{}`, {bad}", shown(&path)), None));
            }
        }
    }
    Ok(Matcher::default())
}

/// As short as the user would write it.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn context(files: &[(&str, &str)], dockerfile: Option<&str>) -> (tempfile::TempDir, Build) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let build = Build {
            context: dir.path().to_owned(),
            dockerfile: dockerfile.map(Into::into),
            ..Build::default()
        };
        (dir, build)
    }

    fn ignores(files: &[(&str, &str)], dockerfile: Option<&str>, path: &str) -> bool {
        let (_dir, build) = context(files, dockerfile);
        ignore_file(&build, &Text::read(&build).unwrap()).unwrap().ignores(path)
    }

    #[test]
    fn the_dockerfiles_own_ignore_file_comes_first() {
        let files = [
            ("Dockerfile", ""),
            ("x.Dockerfile", ""),
            ("x.Dockerfile.dockerignore", "b"),
            (".dockerignore", "a"),
        ];
        assert!(ignores(&files, None, "a"));
        assert!(!ignores(&files, Some("x.Dockerfile"), "a"));
        assert!(ignores(&files, Some("x.Dockerfile"), "b"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let (_dir, build) = context(&[], None);
        let message = Text::read(&build).unwrap_err().to_string();
        assert!(
            message.contains("failed to read dockerfile") && message.contains("/Dockerfile`: No such file"),
            "{message}"
        );
        let build = Build { context: "/no/such".into(), ..Build::default() };
        assert!(
            Text::read(&build).unwrap_err().to_string().starts_with("the build context `/no/such` is not")
        );
        let (_dir, build) = context(&[("Dockerfile", ""), (".dockerignore", "a\n[")], None);
        let message = ignore_file(&build, &Text::read(&build).unwrap()).unwrap_err().to_string();
        assert!(
            message.ends_with(".dockerignore`, line 2: `[` is not a pattern: `[` has no `]`"),
            "{message}"
        );
    }
}
