//! `load`: images out of docker archives (manifest.json) and OCI layouts (index.json).

use std::{
    collections::BTreeMap,
    io::Read,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use oci_spec::image::{Descriptor, ImageIndex, MediaType};
use serde::Deserialize;

use super::{
    Image, ImageError, Report, Store,
    archive::{Archive, Opened},
    arrival::{Arrival, KeptBlob, has_blob, is_plain, oci_blob, parse_manifest},
    codec::{Hashing, digest},
    ingest::Wanted,
    layout::hex,
    lease::Lease,
    platform::Platform,
    record::RefRecord,
};
use crate::model::ImageRef;

/// Layers unpacked at the same time; each takes two threads.
const PARALLEL: usize = 4;
/// Indexes within indexes.
const MAX_DEPTH: u32 = 4;

/// An image of an archive.
struct Found {
    arrival: Arrival,
    /// Where each layer's bytes are.
    files: Vec<String>,
    references: Vec<ImageRef>,
    /// What its references point at, when that is not the manifest.
    target: Option<Descriptor>,
}

/// A layer to be unpacked.
struct Job<'a> {
    diff_id: &'a str,
    file: &'a str,
    blob: Option<&'a Descriptor>,
    what: String,
}

impl Store {
    /// Takes a docker archive or OCI layout (tar, compressed tar or directory; `-` is standard input).
    ///
    /// An image whose archive gives only a tag, or no name, is named after the archive: `web.tar`
    /// holds `web:latest`.
    pub fn load(&self, path: &Path, report: Report<'_>) -> Result<Vec<ImageRef>, ImageError> {
        let lease = self.begin()?;
        let archive = Archive::open(path, &lease)?;
        let found = find_images(&archive)?;
        for image in &found {
            image.arrival.hold(&lease)?;
        }
        self.unpack_all(&archive, &found, &lease, report)?;
        let mut loaded = Vec::new();
        for image in found {
            let Found { arrival, references, target, .. } = image;
            let (id, manifest) = arrival.complete(&self.layout, &lease)?;
            let source = format!("archive {}", path.display());
            let record = RefRecord::new(&id, target.unwrap_or(manifest), source);
            self.publish(&id, &references, &record)?;
            loaded.extend(references);
        }
        Ok(loaded)
    }

    /// One image of an OCI layout, by its tag or digest (the only one when that is empty), without a
    /// name in the store. It stays while this store is held.
    pub fn load_one(&self, path: &Path, wanted: &str) -> Result<Image, ImageError> {
        let lease = self.lease()?;
        let archive = Archive::open(path, &lease)?;
        let bytes = archive.document("index.json")?.ok_or_else(|| archive.wrong("has no `index.json`"))?;
        let index: ImageIndex = serde_json::from_slice(&bytes)
            .map_err(|error| archive.wrong(&format!("has a malformed `index.json`: {error}")))?;
        let is_wanted = |entry: &&Descriptor| {
            let named = oci_name(entry).is_some_and(|name| {
                name == wanted || name.rsplit_once(':').is_some_and(|(_, tag)| tag == wanted)
            });
            named || entry.digest().as_ref() == wanted || (wanted.is_empty() && index.manifests().len() == 1)
        };
        let entry = index.manifests().iter().find(is_wanted);
        let entry = entry.ok_or_else(|| archive.wrong(&format!("has no image `{wanted}`")))?;
        let found = [oci_image(&archive, entry, Vec::new())?];
        found[0].arrival.hold(&lease)?;
        self.unpack_all(&archive, &found, &lease, &|_, _, _| {})?;
        let [Found { arrival, .. }] = found;
        let (id, _) = arrival.complete(&self.layout, &lease)?;
        self.find_id(&id)?.ok_or(ImageError::NotFound(id))
    }

    fn unpack_all(
        &self,
        archive: &Archive,
        found: &[Found],
        lease: &Lease,
        report: Report<'_>,
    ) -> Result<(), ImageError> {
        let jobs = jobs(found);
        let next = AtomicUsize::new(0);
        let failed = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL.min(jobs.len()) {
                scope.spawn(|| {
                    while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = self.unpack_one(archive, job, lease, report) {
                            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                            next.store(jobs.len(), Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn unpack_one(
        &self,
        archive: &Archive,
        job: &Job<'_>,
        lease: &Lease,
        report: Report<'_>,
    ) -> Result<(), ImageError> {
        let Some(_lock) = self.layout.claim_layer(job.diff_id)? else {
            return self.keep_only(archive, job, lease);
        };
        let (source, size) = open_layer(archive, job.file)?;
        let done = AtomicU64::new(0);
        let source = Counted {
            source,
            heard: |bytes| {
                report(&job.what, done.fetch_add(bytes, Ordering::Relaxed) + bytes, size);
            },
        };
        let compressed = job.blob.filter(|blob| !is_plain(blob));
        let recipe = compressed.is_none();
        let wanted = Wanted { diff_id: job.diff_id, blob: job.blob, recipe, what: &job.what };
        let Some(blob) = compressed else {
            return self.layout.ingest(lease, &wanted, source, |facts| {
                if !facts.replaced {
                    return Ok(None);
                }
                let (source, _) = open_layer(archive, job.file)?;
                self.layout.keep_tar(lease, job.diff_id, source).map(Some)
            });
        };
        let kept = KeptBlob::new(lease)?;
        let source = kept.tee(source)?;
        self.layout.ingest(lease, &wanted, source, |_| {
            kept.store(&self.layout, blob)?;
            oci_blob(blob).map(Some)
        })
    }

    /// The layer is there already; its compressed form may not be.
    fn keep_only(&self, archive: &Archive, job: &Job<'_>, lease: &Lease) -> Result<(), ImageError> {
        let Some(blob) = job.blob.filter(|blob| !is_plain(blob)) else { return Ok(()) };
        if has_blob(&self.layout, blob)? {
            return Ok(());
        }
        let (source, _) = open_layer(archive, job.file)?;
        let kept = KeptBlob::new(lease)?;
        let mut hashing = Hashing::new(kept.tee(source)?);
        std::io::copy(&mut hashing, &mut std::io::sink())
            .map_err(|error| archive.wrong(&format!("cannot be read at `{}`: {error}", job.file)))?;
        let (found, size) = hashing.finish();
        if found != blob.digest().as_ref() || size != blob.size() {
            return Err(archive.wrong(&format!("has `{}` with other content than its name says", job.file)));
        }
        kept.store(&self.layout, blob)
    }
}

/// Each layer once, named for messages by the first image that has it.
fn jobs(found: &[Found]) -> Vec<Job<'_>> {
    let mut jobs: BTreeMap<&str, Job<'_>> = BTreeMap::new();
    for image in found {
        let name = image.references.first().map_or_else(|| image.arrival.id.clone(), ImageRef::familiar);
        let count = image.files.len();
        for (number, (diff_id, file)) in image.arrival.diff_ids().iter().zip(&image.files).enumerate() {
            let blob = image.arrival.manifest.as_ref().map(|(_, _, manifest)| &manifest.layers()[number]);
            let what = format!("{name} layer {} of {count}", number + 1);
            jobs.entry(diff_id).or_insert(Job { diff_id, file, blob, what });
        }
    }
    jobs.into_values().collect()
}

fn open_layer(archive: &Archive, file: &str) -> Result<Opened, ImageError> {
    archive.file(file)?.ok_or_else(|| archive.wrong(&format!("lacks the layer `{file}` that it names")))
}

fn find_images(archive: &Archive) -> Result<Vec<Found>, ImageError> {
    // An archive may be of both forms; the layout has the manifests, too.
    if let Some(bytes) = archive.document("index.json")? {
        return oci_layout(archive, &bytes);
    }
    if let Some(bytes) = archive.document("manifest.json")? {
        return docker_archive(archive, &bytes);
    }
    Err(archive.wrong("is no image archive: it has neither a `manifest.json` nor an `index.json`"))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

fn docker_archive(archive: &Archive, bytes: &[u8]) -> Result<Vec<Found>, ImageError> {
    let entries: Vec<DockerEntry> = serde_json::from_slice(bytes)
        .map_err(|error| archive.wrong(&format!("has a malformed `manifest.json`: {error}")))?;
    let alone = entries.len() == 1;
    let mut found = Vec::new();
    for entry in entries {
        let config = archive.document(&entry.config)?.ok_or_else(|| {
            archive.wrong(&format!("lacks the configuration `{}` that it names", entry.config))
        })?;
        let arrival = Arrival::new(&digest(&config), config, None)?;
        let files = entry.layers.unwrap_or_default();
        if files.len() != arrival.diff_ids().len() {
            return Err(archive.wrong(&format!(
                "names {} layers for `{}`, whose configuration has {}",
                files.len(),
                entry.config,
                arrival.diff_ids().len()
            )));
        }
        let tags = entry.repo_tags.unwrap_or_default();
        let references = if tags.is_empty() && alone {
            vec![named_after(archive, None)?]
        } else {
            tags.iter().map(|tag| reference(archive, tag)).collect::<Result<_, _>>()?
        };
        found.push(Found { arrival, files, references, target: None });
    }
    Ok(found)
}

fn oci_layout(archive: &Archive, bytes: &[u8]) -> Result<Vec<Found>, ImageError> {
    let index: ImageIndex = serde_json::from_slice(bytes)
        .map_err(|error| archive.wrong(&format!("has a malformed `index.json`: {error}")))?;
    let named = index.manifests().iter().any(|entry| oci_name(entry).is_some());
    if !named && index.manifests().len() > 1 {
        // One image for several platforms.
        let entry = Platform::host().choose(&index, &archive.path.display().to_string())?;
        return Ok(vec![oci_image(archive, entry, vec![named_after(archive, None)?])?]);
    }
    let mut found: Vec<Found> = Vec::new();
    for entry in index.manifests() {
        let name = match oci_name(entry) {
            Some(name) if name.contains(['/', ':']) => reference(archive, name)?,
            tag => named_after(archive, tag)?,
        };
        let image = oci_image(archive, entry, vec![name])?;
        match found.iter_mut().find(|other| other.arrival.id == image.arrival.id) {
            Some(other) => other.references.extend(image.references),
            None => found.push(image),
        }
    }
    Ok(found)
}

fn oci_name(entry: &Descriptor) -> Option<&String> {
    let notes = entry.annotations().as_ref()?;
    notes.get("io.containerd.image.name").or_else(|| notes.get("org.opencontainers.image.ref.name"))
}

fn oci_image(archive: &Archive, entry: &Descriptor, references: Vec<ImageRef>) -> Result<Found, ImageError> {
    let mut descriptor = entry.clone();
    for _ in 0..MAX_DEPTH {
        let bytes = oci_document(archive, &descriptor)?;
        let is_index = matches!(descriptor.media_type(), MediaType::ImageIndex)
            || descriptor.media_type().as_ref()
                == "application/vnd.docker.distribution.manifest.list.v2+json";
        if is_index {
            let index: ImageIndex = serde_json::from_slice(&bytes)
                .map_err(|error| archive.wrong(&format!("has a malformed index: {error}")))?;
            descriptor = Platform::host().choose(&index, &archive.path.display().to_string())?.clone();
            continue;
        }
        let manifest = parse_manifest(&bytes, &format!("archive `{}`", archive.path.display()))?;
        let config = oci_document(archive, manifest.config())?;
        let files = manifest
            .layers()
            .iter()
            .map(|layer| Ok(format!("blobs/sha256/{}", hex(layer.digest().as_ref())?)))
            .collect::<Result<_, ImageError>>()?;
        let id = manifest.config().digest().to_string();
        let arrival = Arrival::new(&id, config, Some((descriptor, bytes, manifest)))?;
        return Ok(Found { arrival, files, references, target: Some(entry.clone()) });
    }
    Err(archive.wrong("has an index within an index within an index"))
}

/// A document of an OCI layout, with the size and digest that are said of it.
fn oci_document(archive: &Archive, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
    let name = format!("blobs/sha256/{}", hex(descriptor.digest().as_ref())?);
    let bytes = archive
        .document(&name)?
        .ok_or_else(|| archive.wrong(&format!("lacks `{name}`, which its index names")))?;
    if bytes.len() as u64 != descriptor.size() || digest(&bytes) != descriptor.digest().as_ref() {
        return Err(archive.wrong(&format!("has `{name}` with other content than its name says")));
    }
    Ok(bytes)
}

fn reference(archive: &Archive, name: &str) -> Result<ImageRef, ImageError> {
    name.parse().map_err(|error| archive.wrong(&format!("names an image badly: {error}")))
}

/// `web.tar.gz` is `web`.
fn named_after(archive: &Archive, tag: Option<&String>) -> Result<ImageRef, ImageError> {
    let file = archive.path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let stem = [".gz", ".tgz", ".zst", ".tar"]
        .iter()
        .fold(file.as_str(), |stem, end| stem.strip_suffix(end).unwrap_or(stem));
    let name = tag.map_or_else(|| stem.to_owned(), |tag| format!("{stem}:{tag}"));
    name.parse()
        .map_err(|_| archive.wrong("gives its image no name; call the file as the image is to be called"))
}

/// Tells how many bytes went by.
struct Counted<R, F> {
    source: R,
    heard: F,
}

impl<R: Read, F: FnMut(u64)> Read for Counted<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.source.read(buffer)?;
        (self.heard)(length as u64);
        Ok(length)
    }
}
