//! Secrets of a build, as RUN mounts them. They lie in the runtime's directory of live state, which is
//! in memory, and only while a step runs; no key, no layer and no history knows their values.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::mounts::Attributes;
use crate::model::{Build, SecretSource};

/// As BuildKit: larger ones are surely a mistake.
const LARGEST: u64 = 500 << 10;

/// The value of a secret; `None` when the build was given none of this id, or its variable is not set.
pub fn value(build: &Build, id: &str) -> Result<Option<Vec<u8>>, String> {
    let Some(secret) = build.secrets.iter().find(|secret| secret.id == id) else { return Ok(None) };
    match &secret.source {
        SecretSource::Environment { value, .. } => {
            Ok(value.as_ref().map(|value| value.0.clone().into_bytes()))
        }
        SecretSource::File(path) => {
            let cannot = |error: io::Error| format!("cannot read `{}`: {error}", path.display());
            let length = fs::metadata(path).map_err(cannot)?.len();
            if length > LARGEST {
                return Err(format!("`{}` is larger than {LARGEST} bytes", path.display()));
            }
            fs::read(path).map(Some).map_err(cannot)
        }
    }
}

/// A directory in memory for what one step may see; gone with this value.
#[derive(Debug)]
pub struct Vault {
    dir: tempfile::TempDir,
    /// Says that we live: what dead builds left is removed by the next one.
    _lock: fs::File,
}

impl Vault {
    /// Below the directory of live state.
    pub fn new(run: &Path) -> io::Result<Self> {
        let all = directory(run);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&all)?;
        let _alone = alone(&all)?;
        let dir = tempfile::Builder::new().prefix("vault-").tempdir_in(&all)?;
        let lock = fs::File::open(dir.path())?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { dir, _lock: lock })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A file with this content.
    pub fn file(&self, name: &str, content: &[u8], attributes: Attributes) -> io::Result<PathBuf> {
        let path = self.dir.path().join(name);
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(content)?;
        drop(file);
        dress(&path, attributes)?;
        Ok(path)
    }
}

/// Owner, then mode.
pub fn dress(path: &Path, attributes: Attributes) -> io::Result<()> {
    chown(path, Some(attributes.uid), Some(attributes.gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(attributes.mode))
}

/// Removes what builds that were killed have left. Errors are not the caller's: the next one tries again.
pub fn sweep(run: &Path) {
    let all = directory(run);
    // A vault has its lock before this one is given back.
    let Ok(_alone) = alone(&all) else { return };
    for entry in fs::read_dir(&all).into_iter().flatten().flatten() {
        let held = fs::File::open(entry.path());
        if held.is_ok_and(|held| flock(&held, FlockOperation::NonBlockingLockExclusive).is_ok()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn directory(run: &Path) -> PathBuf {
    run.join("build")
}

fn alone(all: &Path) -> io::Result<fs::File> {
    let lock = fs::File::open(all)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BuildSecret, Hidden};

    fn build(source: SecretSource) -> Build {
        Build { secrets: vec![BuildSecret { id: "s".into(), source }], ..Build::default() }
    }

    #[test]
    fn a_secret_comes_from_a_file_or_a_variable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "hush").unwrap();
        let file = build(SecretSource::File(path.clone()));
        assert_eq!(value(&file, "s"), Ok(Some(b"hush".to_vec())));
        assert_eq!(value(&file, "other"), Ok(None));
        fs::write(&path, vec![0; 600 << 10]).unwrap();
        assert!(value(&file, "s").unwrap_err().contains("larger than"));
        fs::remove_file(&path).unwrap();
        assert!(value(&file, "s").unwrap_err().starts_with("cannot read"));
        let name = "TOKEN".to_owned();
        let set = SecretSource::Environment { name: name.clone(), value: Some(Hidden("x".into())) };
        assert!(!format!("{set:?}").contains('x'), "a value is never shown");
        assert_eq!(value(&build(set), "s"), Ok(Some(b"x".to_vec())));
        assert_eq!(value(&build(SecretSource::Environment { name, value: None }), "s"), Ok(None));
    }

    #[test]
    fn a_vault_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::new(dir.path()).unwrap();
        let me = rustix::process::geteuid().as_raw();
        let group = rustix::process::getegid().as_raw();
        let attributes = Attributes { mode: 0o400, uid: me, gid: group };
        let path = vault.file("0", b"hush", attributes).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
        // One of a process that was killed: no lock, no destructor.
        let dead = dir.path().join("build/vault-dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("0"), b"hush").unwrap();
        sweep(dir.path());
        assert!(path.exists() && !dead.exists());
        drop(vault);
        assert_eq!(fs::read_dir(dir.path().join("build")).unwrap().count(), 0);
    }
}
