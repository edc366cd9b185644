//! Removes what nothing refers to: images without a reference, and the layers and blobs of no image.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{
    ImageError,
    layout::{Layout, file_error, hex},
    lease::{self, Lease},
    lock,
    record::names,
    trash,
};

impl Layout {
    /// Collects all but what references, living leases and `used` need. `used` are image ids, diff
    /// ids or paths of layers. Goes on after an error, and tells the first one. Returns how many bytes were
    /// freed.
    pub(super) fn sweep(&self, used: &[String]) -> Result<u64, ImageError> {
        let lease = Lease::take(self)?;
        let gc = self.gc_lock();
        let guard = lock::exclusive(&gc).map_err(file_error("lock", &gc))?;
        let mut errors = Vec::new();
        let dead = self.dead(used)?;
        let freed = dead.iter().map(|path| self.weight(path)).sum();
        let graves: Vec<PathBuf> = dead
            .into_iter()
            .enumerate()
            .filter_map(|(number, path)| {
                // A rename is quick; the lock is not held while trees are removed.
                let grave = lease.grave(number);
                match fs::rename(&path, &grave) {
                    Ok(()) => Some(grave),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                    Err(error) => {
                        errors.push(file_error("remove", &path)(error));
                        None
                    }
                }
            })
            .collect();
        drop(guard);
        for grave in graves {
            if let Err(error) = trash::remove(&grave) {
                errors.push(file_error("remove", &grave)(error));
            }
        }
        errors.into_iter().next().map_or(Ok(freed), Err)
    }

    /// Bytes of content below a path; what cannot be read weighs nothing.
    fn weight(&self, path: &Path) -> u64 {
        let layer = path.strip_prefix(self.layers()).ok().and_then(Path::to_str);
        match layer {
            // A variant shares its files.
            Some(name) if name.contains('@') => 0,
            Some(name) => self.layer_record(name).ok().flatten().map_or(0, |record| record.facts.size),
            None => fs::symlink_metadata(path).map_or(0, |metadata| metadata.len()),
        }
    }

    fn dead(&self, used: &[String]) -> Result<Vec<PathBuf>, ImageError> {
        let leases = self.leases();
        let mut roots = lease::held(self).map_err(file_error("read", &leases))?;
        let layers = self.layers();
        roots.extend(used.iter().map(|used| {
            // A path of a layer stands for its name.
            Path::new(used)
                .strip_prefix(&layers)
                .ok()
                .and_then(|inside| inside.iter().next())
                .map_or_else(|| used.clone(), |name| name.to_string_lossy().into_owned())
        }));
        let mut keep: BTreeSet<String> =
            roots.iter().map(|root| root.strip_prefix("sha256:").unwrap_or(root).to_owned()).collect();
        for (_, record) in self.all_refs()? {
            keep.insert(hex(&record.image)?.to_owned());
            keep.insert(hex(record.target.digest().as_ref())?.to_owned());
            for other in &record.others {
                keep.insert(hex(other)?.to_owned());
            }
        }
        let mut dead = Vec::new();
        for id in self.image_ids()? {
            if !keep.contains(hex(&id)?) {
                dead.push(self.images().join(format!("{}.json", hex(&id)?)));
                continue;
            }
            let Some(record) = self.image_record(&id)? else { continue };
            keep.insert(hex(record.manifest.digest().as_ref())?.to_owned());
            keep.extend(record.blobs);
            for name in record.layers {
                keep.insert(name.split('@').next().unwrap_or_default().to_owned());
                keep.insert(name);
            }
        }
        let layer_names = names(&layers)?;
        for name in &layer_names {
            let plain = name.split('@').next().unwrap_or_default();
            if keep.contains(name) {
                // A kept variant needs its plain form no more, but its blob.
                keep.insert(plain.to_owned());
                if let Some(blob) = self.layer_record(name)?.and_then(|record| record.blob) {
                    keep.insert(hex(blob.digest().as_ref())?.to_owned());
                }
            }
        }
        dead.extend(layer_names.iter().filter(|name| !keep.contains(*name)).map(|name| self.layer(name)));
        let blobs = names(&self.blobs())?;
        dead.extend(blobs.iter().filter(|name| !keep.contains(*name)).map(|name| self.blob(name)));
        let partials = names(&self.partials())?;
        dead.extend(partials.iter().filter(|name| !keep.contains(*name)).map(|name| self.partial(name)));
        Ok(dead)
    }
}
