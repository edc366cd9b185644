//! Where text comes from: the only file of this room that reads files, the environment and standard input.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Read,
    path::{Path, PathBuf},
};

use super::{git, remote::Remote};

/// Largest file that is read, in bytes: a Compose file of this size is a mistake or an attack.
pub const MAX_FILE: u64 = 8 << 20;

/// What loading asks of the world around it.
pub trait Source {
    /// The whole text of a file.
    ///
    /// # Errors
    /// As the operating system says; `InvalidData` for a file that is no UTF-8 text,
    /// `FileTooLarge` beyond [`MAX_FILE`].
    fn read(&self, path: &Path) -> io::Result<String>;

    /// The whole text of standard input.
    ///
    /// # Errors
    /// As [`Source::read`].
    fn read_stdin(&self) -> io::Result<String>;

    fn is_file(&self, path: &Path) -> bool;
    fn is_dir(&self, path: &Path) -> bool;

    /// The path with its symbolic links followed; as it is when that is not possible.
    fn canonical(&self, path: &Path) -> PathBuf;

    /// The directory the user stands in, absolute.
    fn current_dir(&self) -> PathBuf;

    /// The environment of the process.
    fn environment(&self) -> BTreeMap<String, String>;

    /// The directory of a copy of a repository, made if it is not there.
    ///
    /// # Errors
    /// Why there is none, for the user.
    fn fetch(&self, remote: &Remote) -> Result<PathBuf, String> {
        Err(format!("`{remote}` is not fetched here"))
    }

    /// The directory of a copy of the project that a registry keeps as `name` (`host/path:tag`), made if
    /// it is not there.
    ///
    /// # Errors
    /// Why there is none, for the user.
    fn fetch_published(&self, name: &str) -> Result<PathBuf, String> {
        Err(format!("`oci://{name}` is not fetched here"))
    }
}

/// Brings a project that a registry keeps into a cache: its name, the cache; its directory there.
pub type Publisher = fn(&str, &Path) -> Result<PathBuf, String>;

/// The machine as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct System {
    /// Registries are not this room's to know.
    pub published: Option<Publisher>,
}

impl Source for System {
    fn read(&self, path: &Path) -> io::Result<String> {
        let file = fs::File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        bounded(file)
    }

    fn read_stdin(&self) -> io::Result<String> {
        bounded(io::stdin().lock())
    }

    fn is_file(&self, path: &Path) -> bool {
        path.metadata().is_ok_and(|found| !found.is_dir())
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn canonical(&self, path: &Path) -> PathBuf {
        path.canonicalize().unwrap_or_else(|_| path.to_owned())
    }

    /// `PWD` when it names the same directory, so that paths read as the user typed them.
    fn current_dir(&self) -> PathBuf {
        let real = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        match std::env::var_os("PWD").map(PathBuf::from) {
            Some(typed) if typed.is_absolute() && typed.canonicalize().is_ok_and(|path| path == real) => {
                typed
            }
            _ => real,
        }
    }

    fn environment(&self) -> BTreeMap<String, String> {
        let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
        std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
    }

    fn fetch(&self, remote: &Remote) -> Result<PathBuf, String> {
        git::fetch(remote, &cache_directory("git")?)
    }

    fn fetch_published(&self, name: &str) -> Result<PathBuf, String> {
        let fetch = self.published.ok_or_else(|| format!("`oci://{name}` is not fetched here"))?;
        fetch(name, &cache_directory("oci")?)
    }
}

/// Where copies of what is not of this machine are kept, by kind: below FICELLE_ROOT, else in the user's cache.
fn cache_directory(kind: &str) -> Result<PathBuf, String> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let ours = |base: PathBuf| base.join("ficelle");
    let base = variable("FICELLE_ROOT")
        .map(|root| root.join("cache"))
        .or_else(|| variable("XDG_CACHE_HOME").map(ours))
        .or_else(|| variable("HOME").map(|home| ours(home.join(".cache"))))
        .ok_or("files of elsewhere are kept in a cache, and neither HOME nor XDG_CACHE_HOME says where")?;
    Ok(base.join(kind))
}

fn bounded(reader: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    reader.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
}

/// Files, environment and standard input held in memory.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub files: BTreeMap<PathBuf, String>,
    pub environment: BTreeMap<String, String>,
    pub stdin: String,
    pub current_dir: PathBuf,
}

impl Memory {
    /// Files below `/project`, which is also the current directory.
    #[must_use]
    pub fn project(files: &[(&str, &str)]) -> Self {
        let current_dir = PathBuf::from("/project");
        let files = files.iter().map(|(name, text)| (current_dir.join(name), (*text).to_owned())).collect();
        Self { files, current_dir, ..Self::default() }
    }

    /// With these variables in the environment of the process.
    #[must_use]
    pub fn with_environment(mut self, variables: &[(&str, &str)]) -> Self {
        self.environment
            .extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self
    }

    fn directories(&self) -> BTreeSet<&Path> {
        self.files.keys().flat_map(|file| file.ancestors().skip(1)).collect()
    }
}

impl Source for Memory {
    fn read(&self, path: &Path) -> io::Result<String> {
        if self.is_dir(path) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read_stdin(&self) -> io::Result<String> {
        Ok(self.stdin.clone())
    }

    fn is_file(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.directories().contains(path)
    }

    fn canonical(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }

    fn current_dir(&self) -> PathBuf {
        self.current_dir.clone()
    }

    fn environment(&self) -> BTreeMap<String, String> {
        self.environment.clone()
    }
}
