//! `save`: images in one archive that both sorts of reader take: an OCI layout, and beside it the
//! `manifest.json` of a docker archive that names the same blobs.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use oci_spec::image::Descriptor;
use serde_json::{Value, json};
use tar::EntryType;

use super::{
    ImageError, Report, Store,
    arrival::{has_blob, parse_manifest},
    layout::{file_error, hex},
    lookup::Found,
    pull::is_index,
    tarout::{nobodys, pad},
};
use crate::model::ImageRef;

/// What an archive holds of one image.
struct Saved {
    /// What its names stand for.
    target: Descriptor,
    /// Its blobs, manifests and indexes included.
    blobs: Vec<Descriptor>,
    config: Descriptor,
    layers: Vec<Descriptor>,
    names: Vec<ImageRef>,
}

impl Store {
    /// Writes images (names, ids or their beginnings) to `path`, `-` for standard output.
    ///
    /// An image named by its id has no name in the archive. Manifests and layers are those that a
    /// registry gave, where one did.
    pub fn save(&self, images: &[String], path: &Path, report: Report<'_>) -> Result<(), ImageError> {
        let lease = self.begin()?;
        let mut saved: Vec<Saved> = Vec::new();
        for text in images {
            let found = self.lookup(text)?;
            lease.hold([found.id.as_str()])?;
            let one = self.gather(&found)?;
            lease.hold(one.blobs.iter().map(|blob| blob.digest().as_ref()))?;
            match saved.iter_mut().find(|other| other.target.digest() == one.target.digest()) {
                Some(other) => other.names.extend(one.names),
                None => saved.push(one),
            }
        }
        let failed = |error| file_error("write", path)(error);
        if path == Path::new("-") {
            return self.write_archive(&saved, &mut io::stdout().lock(), report).map_err(
                |error| match error {
                    Broken::Io(error) => failed(error),
                    Broken::Image(error) => error,
                },
            );
        }
        // Whole or not at all, so that a cut one is never taken for an archive.
        let directory =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::Builder::new().prefix(".ficelle-").tempfile_in(directory).map_err(failed)?;
        self.write_archive(&saved, &mut BufWriter::new(file.as_file()), report).map_err(
            |error| match error {
                Broken::Io(error) => failed(error),
                Broken::Image(error) => error,
            },
        )?;
        file.persist(path).map_err(|error| failed(error.error)).map(drop)
    }

    fn gather(&self, found: &Found) -> Result<Saved, ImageError> {
        let missing = || ImageError::NotFound(found.id.clone());
        let record = self.layout.image_record(&found.id)?.ok_or_else(missing)?;
        let bytes = self.layout.document(&record.manifest)?;
        let manifest = parse_manifest(&bytes, &format!("`{}`", found.id))?;
        let layers = manifest.layers().clone();
        let mut blobs = vec![record.manifest.clone(), manifest.config().clone()];
        blobs.extend(layers.iter().cloned());
        let mut target = record.manifest.clone();
        if let Some(reference) = &found.reference
            && let Some(named) = self.layout.read_ref(reference)?
            && is_index(&named.target)
            && let Some(others) = self.layout.whole_index(&named.target)?
        {
            blobs.extend(others);
            blobs.push(named.target.clone());
            target = named.target;
        }
        let names = found.reference.iter().filter(|name| name.digest.is_none()).cloned().collect();
        Ok(Saved { target, blobs, config: manifest.config().clone(), layers, names })
    }

    fn write_archive(&self, saved: &[Saved], out: &mut dyn Write, report: Report<'_>) -> Result<(), Broken> {
        let all: u64 = saved.iter().flat_map(|one| &one.blobs).map(Descriptor::size).sum();
        let mut done = 0;
        let mut seen = BTreeSet::new();
        for blob in saved.iter().flat_map(|one| &one.blobs) {
            if seen.insert(blob.digest().to_string()) {
                self.write_blob_entry(blob, out)?;
            }
            done += blob.size();
            report("saving", done, all);
        }
        let (index, manifests) = documents(saved)?;
        for (name, value) in [
            ("index.json", index),
            ("manifest.json", manifests),
            ("oci-layout", json!({"imageLayoutVersion": "1.0.0"})),
        ] {
            let bytes = value.to_string().into_bytes();
            entry(out, name, bytes.len() as u64, |out| Ok(out.write_all(&bytes)?))?;
        }
        out.write_all(&[0; 1024])?;
        Ok(out.flush()?)
    }

    fn write_blob_entry(&self, blob: &Descriptor, out: &mut dyn Write) -> Result<(), Broken> {
        let name = blob_name(blob)?;
        entry(out, &name, blob.size(), |out| {
            let mut counted = Counted { out, written: 0 };
            if has_blob(&self.layout, blob)? {
                let path = self.layout.blob(hex(blob.digest().as_ref())?);
                let mut file = File::open(&path).map_err(file_error("read", &path))?;
                io::copy(&mut file, &mut counted)?;
            } else {
                self.layout.write_layer_tar(blob.digest().as_ref(), &mut counted)?;
            }
            if counted.written != blob.size() {
                let wrong = format!("blob {} is damaged in the store", blob.digest());
                return Err(ImageError::Invalid(wrong).into());
            }
            Ok(())
        })
    }
}

/// Why an archive was not written.
enum Broken {
    Io(io::Error),
    Image(ImageError),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ImageError> for Broken {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

fn blob_name(blob: &Descriptor) -> Result<String, ImageError> {
    Ok(format!("blobs/sha256/{}", hex(blob.digest().as_ref())?))
}

/// `index.json` and `manifest.json`.
fn documents(saved: &[Saved]) -> Result<(Value, Value), ImageError> {
    let mut entries = Vec::new();
    let mut manifests = Vec::new();
    for one in saved {
        let descriptor = json!({
            "mediaType": one.target.media_type(), "digest": one.target.digest(), "size": one.target.size(),
        });
        if one.names.is_empty() {
            entries.push(descriptor.clone());
        }
        for name in &one.names {
            let mut entry = descriptor.clone();
            entry["annotations"] = json!({
                "io.containerd.image.name": name.to_string(),
                "org.opencontainers.image.ref.name": name.tag,
            });
            entries.push(entry);
        }
        let tags: Vec<String> = one.names.iter().map(ImageRef::familiar).collect();
        manifests.push(json!({
            "Config": blob_name(&one.config)?,
            "RepoTags": if tags.is_empty() { Value::Null } else { json!(tags) },
            "Layers": one.layers.iter().map(blob_name).collect::<Result<Vec<_>, _>>()?,
        }));
    }
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries,
    });
    Ok((index, Value::Array(manifests)))
}

/// One file of the archive.
fn entry(
    out: &mut dyn Write,
    name: &str,
    size: u64,
    write: impl FnOnce(&mut dyn Write) -> Result<(), Broken>,
) -> Result<(), Broken> {
    let mut header = nobodys(EntryType::Regular, 0o644);
    header.set_path(name)?;
    header.set_size(size);
    header.set_cksum();
    out.write_all(header.as_bytes())?;
    write(out)?;
    Ok(pad(out, size)?)
}

struct Counted<'a> {
    out: &'a mut dyn Write,
    written: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.out.write(bytes)?;
        self.written += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
