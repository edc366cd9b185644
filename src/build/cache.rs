//! What earlier builds made: from a key to a layer. A record is written when its layer is complete,
//! so a failed or killed step leaves none; a record whose layer is gone counts for nothing.
//!
//! Every step has two keys. The fast one follows from what was done: the step's definition, and the
//! fast keys and results of all it builds on. The slow one follows from what is there: the definition, the layers
//! below and the content of what is copied. So a stage that was made again with the same result does
//! not undo what was made from it.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{memo::Memo, share::Records};
use crate::image::Store;

/// Changes when the same definition comes to mean something else.
const SCHEMA: &str = "ficelle build 1";

/// A SHA-256 digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u8; 32]);

/// What a step made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Diff id; `None` when the step changed no file.
    pub layer: Option<String>,
    /// When it was made, as the history of the image says it.
    pub created: String,
}

#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    /// Of other machines.
    imported: Records,
    /// What this build used or made, for others.
    used: Mutex<Records>,
}

impl Key {
    /// Of parts whose boundaries count.
    #[must_use]
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in std::iter::once(SCHEMA.as_bytes()).chain(parts) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    #[must_use]
    pub fn digest(self) -> [u8; 32] {
        self.0
    }

    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Cache {
    /// Beside the store: `build-cache`.
    pub fn open(store: &Store) -> io::Result<Self> {
        let dir = directory(store);
        for name in ["records", "memo", "mounts", "downloads"] {
            fs::create_dir_all(dir.join(name))?;
        }
        // Layers of other users' images and secrets that steps cached are nobody else's business.
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        Ok(Self { dir, imported: Records::new(), used: Mutex::default() })
    }

    /// Records of other machines count where there are none of ours.
    pub fn import(&mut self, records: Records) {
        self.imported = records;
    }

    /// What was found or put since it was opened.
    #[must_use]
    pub fn used(&self) -> Records {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, key: &Key, record: &Record) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(key.hex(), record.clone());
    }

    /// A record that cannot be read is none.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<Record> {
        let record = self.own(key).or_else(|| self.imported.get(&key.hex()).cloned())?;
        self.note(key, &record);
        Some(record)
    }

    fn own(&self, key: &Key) -> Option<Record> {
        let path = self.record(key);
        let record = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        // The time of its last use; only a later clean-up looks at it.
        let _ =
            fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(record)
    }

    pub fn put(&self, key: &Key, record: &Record) -> io::Result<()> {
        self.note(key, record);
        let path = self.record(key);
        let directory = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer(&mut file, record)?;
        file.persist(path)?;
        Ok(())
    }

    fn record(&self, key: &Key) -> PathBuf {
        let hex = key.hex();
        self.dir.join("records").join(&hex[..2]).join(format!("{hex}.json"))
    }

    /// The memory of the context at `path`.
    #[must_use]
    pub fn memo(&self, context: &Path) -> Memo {
        let name = Key::of([context.as_os_str().as_encoded_bytes()]).hex();
        Memo::open(self.dir.join("memo").join(name))
    }

    /// Where the file of an address is kept.
    #[must_use]
    pub fn download(&self, url: &str) -> PathBuf {
        self.dir.join("downloads").join(Key::of([url.as_bytes()]).hex())
    }

    /// Where the cache mount of this id is kept.
    #[must_use]
    pub fn mount(&self, id: &str) -> PathBuf {
        self.dir.join("mounts").join(Key::of([id.as_bytes()]).hex())
    }
}

fn directory(store: &Store) -> PathBuf {
    store.root().parent().unwrap_or(store.root()).join("build-cache")
}

/// Forgets every step and every cache mount: the next build makes all of it again.
pub fn forget(store: &Store) -> io::Result<()> {
    match fs::remove_dir_all(directory(store)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The diff ids that records name: a clean-up of the store must keep them, or the next build makes
/// them again.
#[must_use]
pub fn layers(store: &Store) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let folders = fs::read_dir(directory(store).join("records")).into_iter().flatten().flatten();
    for file in folders.filter_map(|folder| fs::read_dir(folder.path()).ok()).flatten().flatten() {
        let record =
            fs::read(file.path()).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
        found.extend(record.and_then(|record| record.layer));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_by_its_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("images"));
        let cache = Cache::open(&store).unwrap();
        let record = Record { layer: Some("sha256:1".into()), created: "now".into() };
        let key = Key::of([&b"a"[..], b"b"]);
        cache.put(&key, &record).unwrap();
        assert_eq!(cache.find(&key), Some(record));
        assert_eq!(cache.find(&Key::of([&b"ab"[..]])), None, "boundaries count");
        assert_eq!(layers(&store).into_iter().collect::<Vec<_>>(), ["sha256:1"]);
        fs::write(cache.record(&key), "torn").unwrap();
        assert_eq!(cache.find(&key), None);
    }
}
