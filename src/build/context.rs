//! The build context and the Dockerfile: what the user's directory gives to a build.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    BuildError,
    content::{Ownership, Source},
    dockerfile::{Span, line_of},
    fetched::Fetched,
    ignore::Matcher,
    memo::Memo,
    tree::Tree,
};
use crate::model::Build;

/// The Dockerfile's text and its name for messages.
#[derive(Clone, Debug, Default)]
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
    /// Of a directory of the user, which stays between builds.
    memo: Option<Memo>,
    /// A context that was fetched, gone with this value.
    _fetched: Option<Fetched>,
}

impl Text {
    /// `directory` holds the context, wherever it came from.
    pub fn read(build: &Build, directory: &Path) -> Result<Self, BuildError> {
        if let Some(text) = &build.dockerfile_inline {
            return Ok(Self::given("dockerfile_inline", text));
        }
        let given = build.dockerfile.clone().unwrap_or_else(|| "Dockerfile".into());
        let path = directory.join(&given);
        let name = if directory == build.context { shown(&path) } else { given.display().to_string() };
        let text = std::fs::read(&path).and_then(|bytes| {
            String::from_utf8(bytes)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
        });
        match text {
            Ok(text) => Ok(Self { name, text, path: Some(path) }),
            Err(source) if !directory.is_dir() => Err(no_context(directory, source)),
            Err(source) => Err(BuildError::Context {
                message: format!("failed to read dockerfile `{name}`: {source}"),
                source: Some(source),
            }),
        }
    }

    /// One that is no file of the context.
    pub fn given(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), text: text.to_owned(), path: None }
    }

    /// The lines of the span and their neighbours, each with its number; `>>>` marks those that are meant.
    #[must_use]
    pub fn snippet(&self, span: Span) -> String {
        const AROUND: u32 = 2;
        let (first, last) = (line_of(&self.text, span.start), line_of(&self.text, span.end));
        let numbered = (1u32..).zip(self.text.lines());
        let near = numbered.filter(|(number, _)| {
            (first.saturating_sub(AROUND)..=last.saturating_add(AROUND)).contains(number)
        });
        near.map(|(number, line)| {
            let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
            format!("{number:>4} {mark} {line}").trim_end().to_owned()
        })
        .collect::<Vec<_>>()
        .join("\n")
    }
}

impl Context {
    /// A directory of the user.
    pub fn open(directory: &Path, dockerfile: &Text, memo: Memo) -> Result<Self, BuildError> {
        let tree = Tree::open(directory).map_err(|source| no_context(directory, source))?;
        Ok(Self { tree, ignore: ignore_file(directory, dockerfile)?, memo: Some(memo), _fetched: None })
    }

    /// What came from elsewhere.
    pub fn of(fetched: Fetched, dockerfile: &Text) -> Result<Self, BuildError> {
        let tree = Tree::open(&fetched.path).map_err(|source| no_context(&fetched.path, source))?;
        let ignore = ignore_file(&fetched.path, dockerfile)?;
        Ok(Self { tree, ignore, memo: None, _fetched: Some(fetched) })
    }

    #[must_use]
    pub fn source(&self) -> Source<'_> {
        Source {
            tree: &self.tree,
            ignore: Some(&self.ignore),
            memo: self.memo.as_ref(),
            ownership: Ownership::Root,
        }
    }

    /// Digests that were found stay true even when the build fails.
    pub fn remember(&self) {
        if let Some(memo) = &self.memo {
            // It costs only time when it cannot be written.
            let _ = memo.save();
        }
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
pub fn ignore_file(directory: &Path, dockerfile: &Text) -> Result<Matcher, BuildError> {
    let own = dockerfile.path.as_ref().map(|path| {
        let mut name = path.clone().into_os_string();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    for path in own.into_iter().chain([directory.join(".dockerignore")]) {
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
        ignore_file(&build.context, &Text::read(&build, &build.context).unwrap()).unwrap().ignores(path)
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
    fn a_snippet_shows_the_lines_around() {
        let text = Text::given("Dockerfile", "FROM a\nRUN one\n\nRUN two \\\n  three\nCMD x\nCMD y\nCMD z");
        let start = text.text.find("RUN two").unwrap();
        let end = text.text.find("three").unwrap() + 5;
        assert_eq!(
            text.snippet(Span { start, end }),
            "   2     RUN one\n   3\n   4 >>> RUN two \\\n   5 >>>   three\n   6     CMD x\n   7     CMD y"
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let (_dir, build) = context(&[], None);
        let message = Text::read(&build, &build.context).unwrap_err().to_string();
        assert!(
            message.contains("failed to read dockerfile") && message.contains("/Dockerfile`: No such file"),
            "{message}"
        );
        let build = Build { context: "/no/such".into(), ..Build::default() };
        assert!(
            Text::read(&build, &build.context)
                .unwrap_err()
                .to_string()
                .starts_with("the build context `/no/such` is not")
        );
        let (_dir, build) = context(&[("Dockerfile", ""), (".dockerignore", "a\n[")], None);
        let message = ignore_file(&build.context, &Text::read(&build, &build.context).unwrap())
            .unwrap_err()
            .to_string();
        assert!(
            message.ends_with(".dockerignore`, line 2: `[` is not a pattern: `[` has no `]`"),
            "{message}"
        );
    }
}
