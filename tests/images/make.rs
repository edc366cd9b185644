//! Makes layers, docker archives and OCI layouts in memory.

use std::{collections::BTreeMap, fs, io::Write, path::Path};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A layer: names that end in `/` are directories, `a -> b` is a symbolic link.
pub fn layer(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(1_500_000_000);
        if let Some((name, target)) = name.split_once(" -> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            builder.append_link(&mut header, name, target).unwrap();
        } else if name.ends_with('/') {
            let mode = if content.is_empty() { 0o755 } else { u32::from_str_radix(content, 8).unwrap() };
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(mode);
            header.set_size(0);
            builder.append_data(&mut header, name, std::io::empty()).unwrap();
        } else {
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

/// An image of plain layers.
pub struct Made {
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
}

impl Made {
    pub fn new(layers: Vec<Vec<u8>>) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
        Self::claiming(layers, &diff_ids)
    }

    /// With diff ids that may be wrong.
    pub fn claiming(layers: Vec<Vec<u8>>, diff_ids: &[String]) -> Self {
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": {
                "Env": ["PATH=/bin"], "Cmd": ["sh"], "ExposedPorts": {"80/tcp": {}}, "OnBuild": null,
                "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5_000_000_000_u64},
            },
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Self { config: config.to_string().into_bytes(), layers }
    }

    pub fn id(&self) -> String {
        digest(&self.config)
    }

    /// As `docker save` writes it.
    pub fn docker_archive(&self, tags: &[&str]) -> Vec<u8> {
        let mut files = Files::default();
        let config = format!("{}.json", &self.id()[7..]);
        let names: Vec<_> = (0..self.layers.len()).map(|number| format!("{number}/layer.tar")).collect();
        for (name, layer) in names.iter().zip(&self.layers) {
            files.add(name, layer.clone());
        }
        files.add(&config, self.config.clone());
        let manifest = json!([{"Config": config, "RepoTags": tags, "Layers": names}]);
        files.add("manifest.json", manifest.to_string().into_bytes());
        files.tar()
    }

    /// Blobs with gzipped layers, and the descriptor of the manifest.
    pub fn oci(&self) -> (BTreeMap<String, Vec<u8>>, Value) {
        let mut blobs = BTreeMap::new();
        let mut add = |media: &str, bytes: Vec<u8>| {
            let media = format!("application/vnd.oci.image.{media}");
            let descriptor = json!({"mediaType": media, "digest": digest(&bytes), "size": bytes.len()});
            blobs.insert(digest(&bytes), bytes);
            descriptor
        };
        let config = add("config.v1+json", self.config.clone());
        let layers: Vec<_> = self.layers.iter().map(|layer| add("layer.v1.tar+gzip", gzip(layer))).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": layers,
        });
        let descriptor = add("manifest.v1+json", manifest.to_string().into_bytes());
        (blobs, descriptor)
    }

    /// An OCI layout; `name` becomes the annotation that names it.
    pub fn oci_layout(&self, name: Option<&str>) -> Files {
        let (blobs, mut descriptor) = self.oci();
        if let Some(name) = name {
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        let mut files = Files::default();
        files.add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        files.add("index.json", index.to_string().into_bytes());
        for (digest, bytes) in blobs {
            files.add(&format!("blobs/sha256/{}", &digest[7..]), bytes);
        }
        files
    }
}

/// Files of an archive, in order.
#[derive(Default)]
pub struct Files(Vec<(String, Vec<u8>)>);

impl Files {
    pub fn add(&mut self, name: &str, bytes: Vec<u8>) {
        self.0.push((name.to_owned(), bytes));
    }

    pub fn tar(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in &self.0 {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    pub fn write_to(&self, directory: &Path) {
        for (name, bytes) in &self.0 {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
}
