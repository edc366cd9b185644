//! Layers and images made here, by a build.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use oci_spec::image::{Descriptor, Digest as OciDigest, ImageConfiguration, MediaType};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    ImageError,
    arrival::has_blob,
    codec::{digest, digest_text},
    layout::{Layout, file_error, hex, read},
    lease::Lease,
    record::{ImageRecord, LayerRecord},
    store::parse_config,
    tarout::write_tar,
};

/// What Docker puts into an image's configuration beside what OCI names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<ImageHealthcheck>,
    /// Instructions for builds that start from the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    /// What a build made step by step, for other builds; the builder knows what stands in it.
    #[serde(rename = "dev.ficelle.buildcache", default, skip_serializing_if = "Option::is_none")]
    pub build_cache: Option<Value>,
    /// Shell of the shell form of CMD, ENTRYPOINT and RUN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

/// Durations are in nanoseconds; 0 or absent means inherited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageHealthcheck {
    /// `["NONE"]`, `["CMD", ...]` or `["CMD-SHELL", "..."]`; empty: inherited.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// Docker writes `null` for an empty list.
fn or_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

impl Layout {
    /// Takes an overlay's upper directory as a layer; returns its diff id. It stays `lease`'s until an
    /// image refers to it.
    pub(super) fn commit_layer(&self, lease: &Lease, upper: &Path) -> Result<String, ImageError> {
        let mut out = HashingSink { hash: Sha256::new(), length: 0 };
        let facts = write_tar(upper, &mut out).map_err(file_error("read layer", upper))?;
        let diff_id = digest_text(out.hash);
        lease.hold([diff_id.as_str()])?;
        let Some(_lock) = self.claim_layer(&diff_id)? else {
            return super::trash::remove(upper).map_err(file_error("remove", upper)).map(|()| diff_id);
        };
        let scratch = lease.scratch()?;
        let take = || -> io::Result<()> {
            // The root is no entry of the tar: everybody who gets the layer finds it like this.
            fs::set_permissions(upper, fs::Permissions::from_mode(0o755))?;
            fs::rename(upper, scratch.path().join("fs"))
        };
        take().map_err(file_error("take", upper))?;
        let record = LayerRecord { facts, tar_size: out.length, blob: None };
        self.publish_layer(scratch, hex(&diff_id)?, &record)?;
        Ok(diff_id)
    }

    /// Stores the configuration and a manifest for it; returns the image's id. All layers must be there.
    pub(super) fn commit_image(
        &self,
        lease: &Lease,
        config: &ImageConfiguration,
        docker: &DockerConfig,
    ) -> Result<(String, Descriptor), ImageError> {
        let bytes = config_bytes(config, docker)?;
        let id = digest(&bytes);
        self.write_image(lease, &id, &bytes, config.rootfs().diff_ids())
    }

    /// The same for a configuration that came as bytes without a manifest.
    pub(super) fn write_image(
        &self,
        lease: &Lease,
        id: &str,
        config: &[u8],
        diff_ids: &[String],
    ) -> Result<(String, Descriptor), ImageError> {
        lease.hold(std::iter::once(id).chain(diff_ids.iter().map(String::as_str)))?;
        let layers =
            diff_ids.iter().map(|diff_id| self.layer_descriptor(diff_id)).collect::<Result<Vec<_>, _>>()?;
        let blobs = layers.iter().filter_map(|layer| Some(layer.as_digest_sha256()?.to_owned())).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::ImageManifest,
            "config": Descriptor::new(MediaType::ImageConfig, config.len() as u64, parsed(id)?),
            "layers": layers,
        });
        let manifest = manifest.to_string().into_bytes();
        let manifest_digest = digest(&manifest);
        lease.hold([manifest_digest.as_str()])?;
        self.write_blob(id, config)?;
        self.write_blob(&manifest_digest, &manifest)?;
        let descriptor =
            Descriptor::new(MediaType::ImageManifest, manifest.len() as u64, parsed(&manifest_digest)?);
        let record =
            ImageRecord { manifest: descriptor.clone(), layers: self.stack(lease, diff_ids)?, blobs };
        self.write_image_record(id, &record)?;
        Ok((id.to_owned(), descriptor))
    }

    /// Stores an index of images of the store as they are now.
    pub(super) fn write_index(&self, lease: &Lease, ids: &[String]) -> Result<Descriptor, ImageError> {
        let mut manifests = Vec::new();
        for id in ids {
            let missing = || ImageError::NotFound(id.clone());
            let record = self.image_record(id)?.ok_or_else(missing)?;
            let (config, _) = parse_config(&read(&self.blob(hex(id)?))?.ok_or_else(missing)?, id)?;
            let mut entry = json!(record.manifest);
            entry["platform"] = json!({"architecture": config.architecture(), "os": config.os()});
            if let Some(variant) = config.variant() {
                entry["platform"]["variant"] = json!(variant);
            }
            manifests.push(entry);
        }
        let kind = MediaType::ImageIndex;
        let bytes = json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}).to_string();
        let name = digest(bytes.as_bytes());
        lease.hold([name.as_str()])?;
        self.write_blob(&name, bytes.as_bytes())?;
        Ok(Descriptor::new(kind, bytes.len() as u64, parsed(&name)?))
    }

    /// The layer as a registry has it, or as a tar that can be made of its directory.
    fn layer_descriptor(&self, diff_id: &str) -> Result<Descriptor, ImageError> {
        let record = self.layer_record(hex(diff_id)?)?.ok_or_else(|| {
            ImageError::Invalid(format!("the configuration names layer {diff_id}, which is not in the store"))
        })?;
        match record.blob {
            Some(blob) if has_blob(self, &blob)? => Ok(blob),
            _ => Ok(Descriptor::new(MediaType::ImageLayer, record.tar_size, parsed(diff_id)?)),
        }
    }
}

pub(super) fn parsed(digest: &str) -> Result<OciDigest, ImageError> {
    digest.parse().map_err(|_| ImageError::Invalid(format!("`{digest}` is no digest")))
}

/// The configuration with Docker's fields, the same bytes for the same content: sets are sorted.
fn config_bytes(config: &ImageConfiguration, docker: &DockerConfig) -> Result<Vec<u8>, ImageError> {
    let written = |result: Result<Value, serde_json::Error>| {
        result
            .map_err(|error| ImageError::Invalid(format!("the image's configuration is malformed: {error}")))
    };
    let mut value = written(serde_json::to_value(config))?;
    let extra = written(serde_json::to_value(docker))?;
    if let (Value::Object(whole), Value::Object(extra)) = (&mut value, extra)
        && let Value::Object(inner) =
            whole.entry("config").or_insert_with(|| Value::Object(serde_json::Map::new()))
    {
        inner.extend(extra);
        for set in ["ExposedPorts", "Volumes", "Labels"] {
            if let Some(Value::Object(map)) = inner.get_mut(set) {
                let sorted: BTreeMap<_, _> = std::mem::take(map).into_iter().collect();
                map.extend(sorted);
            }
        }
    }
    Ok(value.to_string().into_bytes())
}

struct HashingSink {
    hash: Sha256,
    length: u64,
}

impl Write for HashingSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
