//! Compose projects that a registry keeps, read by the program itself.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    login::{both, ficelle},
    make::digest,
    registry::RealRegistry,
};

const TYPE: &str = "application/vnd.docker.compose";

/// A layer: its kind, its annotations, its text.
type Layer<'a> = (&'a str, Value, &'a str);

/// A registry, and a place of a person who reads from it.
struct Shelf {
    registry: RealRegistry,
    home: tempfile::TempDir,
}

impl Shelf {
    /// `None`, told, without a registry.
    fn new() -> Option<Self> {
        let registry = RealRegistry::start("", "")?;
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("cache")).unwrap();
        Some(Self { registry, home })
    }

    /// As `docker compose publish` does; the digest of the manifest.
    fn publish(&self, name: &str, kind: &str, layers: &[Layer<'_>]) -> String {
        let mut blobs = BTreeMap::from([(digest(b"{}"), b"{}".to_vec())]);
        let described = layers.iter().map(|(kind, annotations, text)| {
            let bytes = text.as_bytes().to_vec();
            let layer = json!({
                "mediaType": format!("{TYPE}.{kind}"), "digest": digest(&bytes), "size": bytes.len(),
                "annotations": annotations,
            });
            blobs.insert(digest(&bytes), bytes);
            layer
        });
        let layers: Vec<_> = described.collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": kind, "layers": layers,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2},
        });
        let manifest = manifest.to_string().into_bytes();
        self.registry.push_blobs(&blobs, name, "");
        self.registry.push_manifest(name, "1", "manifest", &manifest, "");
        digest(&manifest)
    }

    fn project(&self, name: &str, layers: &[Layer<'_>]) -> String {
        self.publish(name, &format!("{TYPE}.project"), layers)
    }

    fn url(&self, name: &str) -> String {
        format!("oci://{}/{name}", self.registry.host)
    }

    fn config(&self, arguments: &[&str]) -> (bool, String) {
        let cache = self.home.path().join("cache");
        let cache = [("FICELLE_ROOT", cache.to_str().unwrap())];
        let arguments: Vec<&str> = arguments.iter().copied().chain(["config"]).collect();
        let done = ficelle(self.home.path(), &arguments, "", &cache);
        (done.status.success(), both(&done))
    }

    fn prints(&self, arguments: &[&str], wanted: &[&str]) {
        let (_, text) = self.config(arguments);
        for wanted in wanted {
            assert!(text.contains(wanted), "{wanted:?} is not in {text}");
        }
    }

    fn refuses(&self, arguments: &[&str], wanted: &[&str]) {
        assert!(!self.config(arguments).0, "{arguments:?}");
        self.prints(arguments, wanted);
    }

    fn write(&self, text: &str) {
        fs::write(self.home.path().join("compose.yaml"), text).unwrap();
    }

    /// Every file of the place.
    fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(self.home.path(), &mut found);
        found
    }
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, found) } else { found.push(path) }
    }
}

fn compose(text: &str) -> Layer<'_> {
    (
        "file+yaml",
        json!({"com.docker.compose.file": "compose.yaml", "com.docker.compose.version": "v2"}),
        text,
    )
}

fn shop() -> Vec<Layer<'static>> {
    let base = json!({"com.docker.compose.file": "base.yaml", "com.docker.compose.extends": "true"});
    vec![
        compose("services:\n  web:\n    extends: {file: base.yaml, service: base}\n    env_file: web.env\n"),
        compose("services:\n  web:\n    hostname: second\n"),
        ("file+yaml", base, "services:\n  base:\n    image: extended\n"),
        ("envfile", json!({"com.docker.compose.envfile": "web.env"}), "FROM=registry\n"),
    ]
}

#[test]
fn a_published_project_is_a_project_with_its_files_beside_it() {
    let Some(shelf) = Shelf::new() else { return };
    shelf.project("team/shop", &shop());
    let wanted = ["name: shop\n", "image: extended\n", "FROM: registry\n", "hostname: second\n"];
    shelf.prints(&["-f", &shelf.url("team/shop:1")], &wanted);
}

#[test]
fn a_published_project_is_included_and_extended() {
    let Some(shelf) = Shelf::new() else { return };
    shelf.project("team/shop", &shop());
    let url = shelf.url("team/shop:1");
    shelf.write(&format!("name: own\ninclude:\n  - {url}\nservices: {{own: {{image: own}}}}\n"));
    shelf.prints(&[], &["name: own\n", "image: extended\n", "image: own\n", "FROM: registry\n"]);
    shelf.write(&format!("name: own\nservices:\n  x:\n    extends: {{file: '{url}', service: web}}\n"));
    shelf.prints(&[], &["name: own\n", "image: extended\n"]);
    shelf.write("include:\n  - oci://127.0.0.1:1/none:1\n");
    shelf.refuses(&[], &["compose.yaml:2:5", "cannot fetch `oci://127.0.0.1:1/none:1`"]);
}

#[test]
fn a_published_project_named_by_digest_needs_its_registry_once() {
    let Some(shelf) = Shelf::new() else { return };
    let digest = shelf.project("shop", &shop());
    let pinned = shelf.url(&format!("shop@{digest}"));
    let tagged = shelf.url("shop:1");
    shelf.prints(&["-f", &tagged], &["image: extended\n"]);
    let Shelf { registry, home } = shelf;
    let host = registry.host.clone();
    drop(registry);
    let cache = home.path().join("cache");
    let cache = [("FICELLE_ROOT", cache.to_str().unwrap())];
    let kept = ficelle(home.path(), &["-f", &pinned, "config"], "", &cache);
    assert!(both(&kept).contains("image: extended\n"), "{}", both(&kept));
    let gone = ficelle(home.path(), &["-f", &tagged, "config"], "", &cache);
    assert!(!gone.status.success() && both(&gone).contains(&host), "{}", both(&gone));
}

#[test]
fn a_published_project_in_an_index_is_found() {
    let Some(shelf) = Shelf::new() else { return };
    let digest = shelf.project("shop", &shop());
    let manifest = json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1,
        "artifactType": format!("{TYPE}.project"),
    });
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest],
    });
    shelf.registry.push_manifest("shop", "all", "index", index.to_string().as_bytes(), "");
    shelf.prints(&["-f", &shelf.url("shop:all")], &["image: extended\n"]);
}

#[test]
fn names_that_lead_out_of_a_published_project_are_refused_and_nothing_is_written() {
    let Some(shelf) = Shelf::new() else { return };
    for name in ["../../x", "/abs", "a/../../x", "..", ""] {
        for layer in [
            ("envfile", json!({"com.docker.compose.envfile": name}), "X=1\n"),
            ("file+yaml", json!({"com.docker.compose.file": name}), "services: {}\n"),
            (
                "file+yaml",
                json!({"com.docker.compose.file": name, "com.docker.compose.extends": "true"}),
                "services: {}\n",
            ),
        ] {
            shelf.project("evil", &[compose("services: {a: {image: a}}\n"), layer]);
            let told = format!("its file `{name}` leads out of the project");
            shelf.refuses(&["-f", &shelf.url("evil:1")], &["evil:1", &told]);
        }
    }
    assert_eq!(shelf.files(), [] as [PathBuf; 0]);
}

#[test]
fn what_is_no_published_project_is_told() {
    let Some(shelf) = Shelf::new() else { return };
    shelf.publish("other", "application/vnd.example", &shop());
    shelf
        .refuses(&["-f", &shelf.url("other:1")], &["is no Compose project; it is `application/vnd.example`"]);
    shelf.project("empty", &[]);
    shelf.refuses(&["-f", &shelf.url("empty:1")], &["holds no Compose file"]);
    shelf.refuses(&["-f", &shelf.url("gone:1")], &["gone:1` is not found", "check its name"]);
    shelf.refuses(&["-f", "oci://Not A Name"], &["cannot fetch `oci://Not A Name`"]);
    assert_eq!(shelf.files(), [] as [PathBuf; 0]);
}
