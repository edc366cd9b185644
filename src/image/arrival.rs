//! An image on its way into the store, wherever it comes from: its layers, then its record.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
};

use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest, MediaType};

use super::{
    ImageError,
    commit::parsed,
    layout::{Layout, file_error, hex, sync_parent},
    lease::Lease,
    record::ImageRecord,
    store::parse_config,
};

/// A manifest and the configuration it names, both verified.
#[derive(Debug)]
pub(super) struct Arrival {
    /// `sha256:<hex>` of the configuration.
    pub(super) id: String,
    pub(super) config_bytes: Vec<u8>,
    pub(super) config: ImageConfiguration,
    /// Descriptor and bytes of the manifest; none in a docker archive.
    pub(super) manifest: Option<(Descriptor, Vec<u8>, ImageManifest)>,
}

impl Arrival {
    /// `digest` is that of `config`, already verified.
    pub(super) fn new(
        digest: &str,
        config_bytes: Vec<u8>,
        manifest: Option<(Descriptor, Vec<u8>, ImageManifest)>,
    ) -> Result<Self, ImageError> {
        let (config, _) = parse_config(&config_bytes, digest)?;
        for diff_id in config.rootfs().diff_ids() {
            hex(diff_id)?;
        }
        if let Some((_, _, manifest)) = &manifest
            && manifest.layers().len() != config.rootfs().diff_ids().len()
        {
            return Err(ImageError::Invalid(format!(
                "image {digest} has {} layers in its manifest and {} in its configuration",
                manifest.layers().len(),
                config.rootfs().diff_ids().len()
            )));
        }
        Ok(Self { id: digest.to_owned(), config_bytes, config, manifest })
    }

    pub(super) fn diff_ids(&self) -> &[String] {
        self.config.rootfs().diff_ids()
    }

    /// What must not be collected while the image arrives.
    pub(super) fn hold(&self, lease: &Lease) -> Result<(), ImageError> {
        let mut names: Vec<&str> = vec![&self.id];
        names.extend(self.diff_ids().iter().map(String::as_str));
        if let Some((descriptor, _, manifest)) = &self.manifest {
            names.push(descriptor.digest().as_ref());
            names.extend(manifest.layers().iter().map(|layer| layer.digest().as_ref()));
        }
        lease.hold(names)
    }

    /// Records the image when all its layers are there; returns its id and what a tag points at.
    pub(super) fn complete(self, layout: &Layout, lease: &Lease) -> Result<(String, Descriptor), ImageError> {
        let Some((descriptor, bytes, manifest)) = &self.manifest else {
            return layout.write_image(lease, &self.id, &self.config_bytes, self.diff_ids());
        };
        layout.write_blob(&self.id, &self.config_bytes)?;
        layout.write_blob(descriptor.digest().as_ref(), bytes)?;
        let blobs = manifest
            .layers()
            .iter()
            .map(|layer| hex(layer.digest().as_ref()).map(str::to_owned))
            .collect::<Result<_, _>>()?;
        let record = ImageRecord {
            manifest: descriptor.clone(),
            layers: layout.stack(lease, self.diff_ids())?,
            blobs,
        };
        layout.write_image_record(&self.id, &record)?;
        Ok((self.id, descriptor.clone()))
    }
}

/// Reads a manifest; refuses what is none, or what could also be read as an index.
pub(super) fn parse_manifest(bytes: &[u8], what: &str) -> Result<ImageManifest, ImageError> {
    let wrong = |why: String| ImageError::Invalid(format!("the manifest of {what} {why}"));
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| wrong(format!("is malformed: {error}")))?;
    if value.get("schemaVersion").and_then(serde_json::Value::as_u64) == Some(1) {
        return Err(wrong(
            "is of the old form 1, which no registry should hold any more; push the image anew".into(),
        ));
    }
    if value.get("manifests").is_some() {
        return Err(wrong("is an index and a manifest at once".into()));
    }
    let manifest: ImageManifest =
        serde_json::from_value(value).map_err(|error| wrong(format!("is malformed: {error}")))?;
    if let MediaType::Other(other) = manifest.config().media_type()
        && other != "application/vnd.docker.container.image.v1+json"
    {
        return Err(wrong(format!(
            "is not that of a container image; its configuration is of type `{other}`"
        )));
    }
    Ok(manifest)
}

/// A compressed layer written aside while it is unpacked, stored when it has proved right.
pub(super) struct KeptBlob {
    file: tempfile::NamedTempFile,
}

impl KeptBlob {
    pub(super) fn new(lease: &Lease) -> Result<Self, ImageError> {
        Ok(Self { file: lease.scratch_file()? })
    }

    /// Reads `source` through, keeping a copy.
    pub(super) fn tee<R: Read>(&self, source: R) -> Result<Tee<R>, ImageError> {
        let copy = self.file.as_file().try_clone().map_err(file_error("open", self.file.path()))?;
        Ok(Tee { source, copy })
    }

    pub(super) fn store(self, layout: &Layout, blob: &Descriptor) -> Result<(), ImageError> {
        let path = layout.blob(hex(blob.digest().as_ref())?);
        self.file.persist(&path).map_err(|error| file_error("write", &path)(error.error))?;
        sync_parent(&path).map_err(file_error("write", &path))
    }
}

pub(super) struct Tee<R> {
    source: R,
    copy: File,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.copy.write_all(&buffer[..length])?;
        Ok(length)
    }
}

/// The descriptor of a blob in OCI's terms; for the record of a layer.
pub(super) fn oci_blob(blob: &Descriptor) -> Result<Descriptor, ImageError> {
    let media_type = match blob.media_type().as_ref() {
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => MediaType::ImageLayerGzip,
        "application/vnd.docker.image.rootfs.diff.tar" => MediaType::ImageLayer,
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => MediaType::ImageLayerZstd,
        _ => blob.media_type().clone(),
    };
    Ok(Descriptor::new(media_type, blob.size(), parsed(blob.digest().as_ref())?))
}

/// A layer without compression: its digest is its diff id.
pub(super) fn is_plain(layer: &Descriptor) -> bool {
    matches!(
        layer.media_type().as_ref(),
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar"
    )
}

/// Whether the blob is in the store already.
pub(super) fn has_blob(layout: &Layout, blob: &Descriptor) -> Result<bool, ImageError> {
    Ok(fs::exists(layout.blob(hex(blob.digest().as_ref())?)).unwrap_or(false))
}
