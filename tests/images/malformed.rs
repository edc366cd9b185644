//! Images that are not what their documents say, each refused with the reason, and nothing of it kept.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    Fixture,
    fake::{FakeRegistry, part, reply},
    make::{digest, gzip, layer},
    two_layers,
};

/// An image of one layer on its way to a registry.
struct Image {
    /// As it is sent.
    layer: Vec<u8>,
    config: Value,
    manifest: Value,
    /// What is sent under a digest in place of what it stands for.
    instead: BTreeMap<String, Vec<u8>>,
}

impl Image {
    fn new() -> Self {
        let plain = layer(&[("file", "content")]);
        let config = json!({
            "architecture": ficelle::image::Platform::host().architecture, "os": "linux",
            "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest(&plain)]},
        });
        let mut image = Self { layer: gzip(&plain), config, manifest: Value::Null, instead: BTreeMap::new() };
        image.describe();
        image
    }

    /// The manifest says of layer and configuration what they are now.
    fn describe(&mut self) {
        let config = self.config.to_string();
        let descriptor = |kind: &str, bytes: &[u8]| {
            let kind = format!("application/vnd.oci.image.{kind}");
            json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
        };
        self.manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config.v1+json", config.as_bytes()),
            "layers": [descriptor("layer.v1.tar+gzip", &self.layer)],
        });
    }

    fn with_layer(mut self, bytes: Vec<u8>) -> Self {
        self.layer = bytes;
        self.describe();
        self
    }

    fn with_config(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.config);
        self.describe();
        self
    }

    fn saying(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.manifest);
        self
    }

    fn giving(mut self, digest: &str, bytes: &[u8]) -> Self {
        self.instead.insert(digest.to_owned(), bytes.to_vec());
        self
    }

    fn config_digest(&self) -> String {
        digest(self.config.to_string().as_bytes())
    }

    fn serve(self) -> FakeRegistry {
        let mut blobs = BTreeMap::from([
            (digest(&self.layer), self.layer.clone()),
            (self.config_digest(), self.config.to_string().into_bytes()),
        ]);
        blobs.extend(self.instead);
        let manifest = self.manifest.to_string().into_bytes();
        let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";
        FakeRegistry::start(
            &two_layers(),
            Box::new(move |request| {
                let last = request.path.rsplit('/').next()?;
                if request.is_manifest() {
                    return Some(reply("200 OK", kind, &manifest));
                }
                let missing = || reply("404 Not Found", "", b"");
                Some(blobs.get(last).map_or_else(missing, |bytes| part(request, bytes)))
            }),
        )
    }
}

fn refused(image: Image, words: &str) {
    let registry = image.serve();
    let f = Fixture::new();
    let error = registry.pull(&f).unwrap_err();
    assert!(error.to_string().contains(words), "{error}");
    assert!(f.store.list().unwrap().is_empty() && f.entries("layers").is_empty(), "{error}");
    assert_eq!(f.entries("tmp"), [""; 0]);
    f.store.collect(&[]).unwrap();
    f.assert_empty();
}

macro_rules! malformed {
    ($($name:ident: $image:expr => $words:expr;)*) => {
        pub(super) const COUNT: usize = [$(stringify!($name)),*].len();
        $(#[test]
        fn $name() {
            refused($image, $words);
        })*
    };
}

malformed! {
    a_layer_said_to_be_shorter: Image::new().saying(|m| m["layers"][0]["size"] = 5.into())
        => "is longer than the 5 bytes";
    a_layer_said_to_be_shorter_by_one: Image::new().saying(|m| {
        m["layers"][0]["size"] = (m["layers"][0]["size"].as_u64().unwrap() - 1).into();
    }) => "is longer than the";
    a_layer_said_to_be_longer: Image::new().saying(|m| m["layers"][0]["size"] = 1_000_000_000.into())
        => "breaks off again and again";
    a_layer_of_negative_length: Image::new().saying(|m| m["layers"][0]["size"] = (-1).into()) => "malformed";
    a_layer_of_another_digest: {
        let other = digest(b"something else");
        let image = Image::new();
        let layer = image.layer.clone();
        image.saying(|m| m["layers"][0]["digest"] = other.clone().into()).giving(&other, &layer)
    } => "its manifest says sha256:";
    a_digest_that_is_a_path: Image::new().saying(|m| {
        m["layers"][0]["digest"] = "sha256:../../../../etc/passwd".into();
    }) => "Invalid encoded value";
    a_digest_of_an_unknown_kind: Image::new().saying(|m| {
        m["layers"][0]["digest"] = "md5:d41d8cd98f00b204e9800998ecf8427e".into();
    }) => "md5:";
    a_layer_that_unpacks_to_another: Image::new().with_config(|c| {
        c["rootfs"]["diff_ids"][0] = digest(b"something else").into();
    }) => "unpacks to sha256:";
    more_layers_than_the_configuration_has: Image::new().saying(|m| {
        let copy = m["layers"][0].clone();
        m["layers"].as_array_mut().unwrap().push(copy);
    }) => "2 layers in its manifest and 1";
    fewer_layers_than_the_configuration_has: Image::new().saying(|m| m["layers"] = json!([]))
        => "0 layers in its manifest and 1";
    a_configuration_that_is_none: Image::new().with_config(|c| *c = json!(["no", "object"])) => "malformed";
    a_configuration_of_other_content: {
        let image = Image::new();
        let (digest, length) = (image.config_digest(), image.config.to_string().len());
        image.giving(&digest, &vec![b' '; length])
    } => "has other content than its digest says";
    a_configuration_said_to_be_longer: Image::new().saying(|m| m["config"]["size"] = 7.into())
        => "has other content than its digest says";
    a_configuration_of_ten_gigabytes: Image::new().saying(|m| m["config"]["size"] = 10_000_000_000_u64.into())
        => "no more than 8388608 are read";
    a_manifest_that_is_an_index_too: Image::new().saying(|m| m["manifests"] = json!([]))
        => "is an index and a manifest";
    a_manifest_that_says_it_is_an_index: Image::new().saying(|m| {
        m["mediaType"] = "application/vnd.oci.image.index.v1+json".into();
    }) => "says it is";
    a_manifest_of_form_1: Image::new().saying(|m| m["schemaVersion"] = 1.into()) => "of the old form 1";
    a_manifest_of_something_else: Image::new().saying(|m| {
        m["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into();
    }) => "not that of a container image";
    a_manifest_without_layers: Image::new().saying(|m| drop(m.as_object_mut().unwrap().remove("layers")))
        => "malformed";
    a_layer_that_is_no_tar: Image::new().with_layer(gzip(&[b'x'; 3000])) => "no tar archive";
    a_layer_in_xz: Image::new().with_layer(b"\xfd7zXZ\0 and so on".to_vec()) => "XZ stream header";
    a_layer_that_ends_early: {
        let image = Image::new();
        let half = image.layer[..image.layer.len() / 2].to_vec();
        image.with_layer(half)
    } => "cannot be read";
    a_layer_with_noise_behind_it: {
        let image = Image::new();
        let noisy = [image.layer.as_slice(), b"noise of some length"].concat();
        image.with_layer(noisy)
    } => "cannot be read: ";
    a_layer_that_is_not_there: Image::new().saying(|m| {
        m["layers"][0]["digest"] = digest(b"something else").into();
    }) => "has no blob sha256:";
}

/// Where a layer says that it stands is not where it is looked for.
#[test]
fn a_layer_elsewhere_is_not_fetched_from_there() {
    let spy = FakeRegistry::plain(&two_layers());
    let url = format!("{}/v2/web/blobs/x", spy.url());
    let registry = Image::new()
        .saying(|m| {
            m["layers"][0]["digest"] = digest(b"something else").into();
            m["layers"][0]["urls"] = json!([url]);
        })
        .serve();
    let f = Fixture::new();
    let error = registry.pull(&f).unwrap_err();
    assert!(error.to_string().contains("has no blob sha256:"), "{error}");
    assert_eq!(spy.asked(|_| true), 0);
}
