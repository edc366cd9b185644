//! `cache_from` and `cache_to`: what steps made, for other machines. Keys name no path of a machine, so a
//! build of the same files finds there what was made here.
//!
//! The records travel in the configuration of an image whose layers are those that they name: the image
//! that was built (`inline`), or one of its own in a registry or in an OCI layout. Other builders pass by
//! what they do not know, and their caches are nothing to us.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{BuildError, BuildEvent, blocking, cache::Record, config::Document};
use crate::{
    image::{self, Image, ImageError, Platform, Store},
    model::{Build, ImageRef},
};

/// By the hex of the key.
pub type Records = BTreeMap<String, Record>;

/// Changes when older programs must not read it.
const VERSION: u32 = 1;

/// What stands in the configuration of an image.
#[derive(Debug, Serialize, Deserialize)]
struct Travelling {
    version: u32,
    records: Records,
}

/// One entry of `cache_from` or `cache_to`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    place: Place,
    /// All stages, or only what the image holds.
    all: bool,
    /// A failed export does not fail the build.
    lenient: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Registry(ImageRef),
    Local(PathBuf),
    Inline,
}

impl Entry {
    /// `image`, or `type=registry,ref=image`, `type=local,src=dir` (`dest=dir`), `type=inline`.
    fn parse(text: &str) -> Result<Self, String> {
        let image = |name: &str| {
            let parsed = name.parse().map(Place::Registry);
            parsed.map_err(|error: crate::model::ImageRefError| error.to_string())
        };
        if !text.contains('=') {
            return Ok(Self { place: image(text)?, all: false, lenient: false });
        }
        let mut fields: BTreeMap<&str, &str> = BTreeMap::new();
        for field in text.split(',').filter(|field| !field.is_empty()) {
            let (key, value) = field.split_once('=').ok_or_else(|| format!("`{field}` is no `key=value`"))?;
            fields.insert(key.trim(), value.trim());
        }
        let needed = |key: &str| fields.get(key).copied().ok_or_else(|| format!("`{text}` lacks `{key}=`"));
        let place = match fields.get("type").copied().unwrap_or("registry") {
            "registry" => image(needed("ref")?)?,
            "local" => {
                let path = fields.get("src").or_else(|| fields.get("dest"));
                Place::Local(PathBuf::from(path.ok_or_else(|| format!("`{text}` lacks `src=` or `dest=`"))?))
            }
            "inline" => Place::Inline,
            other => {
                return Err(format!(
                    "a cache of the type `{other}` is not supported: it is registry, local or inline"
                ));
            }
        };
        let all = fields.get("mode").is_some_and(|mode| *mode == "max");
        Ok(Self { place, all, lenient: fields.get("ignore-error").is_some_and(|text| *text == "true") })
    }
}

type Events<'a> = &'a (dyn Fn(BuildEvent) + Send + Sync);

/// The records that `cache_from` gives; their layers are in the store. A source that cannot be used
/// is told and passed by, as it is only a saving.
pub async fn import(store: &Store, build: &Build, events: Events<'_>) -> Records {
    let mut records = Records::new();
    if build.no_cache {
        return records;
    }
    for text in &build.cache_from {
        match bring(store, text, events).await {
            Ok(found) => records.extend(found),
            Err(why) => events(BuildEvent::Warning(format!("`cache_from`: `{text}` is not used: {why}"))),
        }
    }
    records
}

async fn bring(store: &Store, text: &str, events: Events<'_>) -> Result<Records, String> {
    let image = match Entry::parse(text)?.place {
        Place::Inline => return Err("it says no image".to_owned()),
        Place::Local(path) => {
            let store = store.clone();
            let load = blocking(move || Ok(store.load_one(&path, "")?));
            load.await.map_err(|error| error.to_string())?
        }
        Place::Registry(reference) => {
            let before = store.find(&reference).map_err(|error| error.to_string())?;
            let report =
                |what: &str, done, total| events(BuildEvent::Bytes { what: what.to_owned(), done, total });
            match (store.pull(&reference, None, &report).await, before) {
                (Ok(image), Some(before)) if image.id != before.id => {
                    // The name stays what it was: only the layers are wanted.
                    hold(store, &image).map_err(|error| error.to_string())?;
                    store.tag(&before.id, &reference).map_err(|error| error.to_string())?;
                    image
                }
                (Ok(image), _) => image,
                // What was built here before may say as much.
                (Err(_), Some(before)) => before,
                (Err(error), None) => return Err(error.to_string()),
            }
        }
    };
    hold(store, &image).map_err(|error| error.to_string())?;
    let Some(value) = image.docker.build_cache.clone() else {
        return Err("there are no records of a build in it".to_owned());
    };
    let read: Travelling = serde_json::from_value(value).map_err(|error| error.to_string())?;
    if read.version != VERSION {
        return Err(format!("its records are of version {}, known is {VERSION}", read.version));
    }
    Ok(read.records)
}

/// Keeps the layers of an image as long as the store is held.
fn hold(store: &Store, image: &Image) -> Result<(), ImageError> {
    image.layers.iter().try_for_each(|layer| store.layer(&layer.diff_id).map(drop))
}

/// What an image itself carries, when `cache_to` asks for that.
pub fn inline(build: &Build, records: &Records, document: &Document) -> Option<serde_json::Value> {
    let asked = build
        .cache_to
        .iter()
        .any(|text| matches!(Entry::parse(text), Ok(Entry { place: Place::Inline, .. })));
    asked.then(|| travelling(&of_image(records, document)))
}

fn travelling(records: &Records) -> serde_json::Value {
    serde_json::json!(Travelling { version: VERSION, records: records.clone() })
}

/// Those whose layers the image has.
fn of_image(records: &Records, document: &Document) -> Records {
    let own =
        |record: &Record| record.layer.as_ref().is_none_or(|layer| document.rootfs.diff_ids.contains(layer));
    records
        .iter()
        .filter(|(_, record)| own(record))
        .map(|(key, record)| (key.clone(), record.clone()))
        .collect()
}

/// Puts the records where `cache_to` says.
pub async fn export(
    store: &Store,
    build: &Build,
    image: &Image,
    records: &Records,
    events: Events<'_>,
) -> Result<(), BuildError> {
    for text in &build.cache_to {
        let entry = match Entry::parse(text) {
            Ok(entry) => entry,
            Err(why) => {
                events(BuildEvent::Warning(format!("`cache_to`: {why}")));
                continue;
            }
        };
        let document = Document::of(image)?;
        let chosen = if entry.all { records.clone() } else { of_image(records, &document) };
        match send(store, &entry.place, chosen, events).await {
            Ok(()) => {}
            Err(why) if entry.lenient => {
                events(BuildEvent::Warning(format!("`cache_to`: `{text}` is not written: {why}")));
            }
            Err(why) => {
                let message = format!("cannot write the cache to `{text}`: {why}");
                return Err(BuildError::Context { message, source: None });
            }
        }
    }
    Ok(())
}

async fn send(store: &Store, place: &Place, records: Records, events: Events<'_>) -> Result<(), String> {
    let names = match place {
        Place::Inline => return Ok(()),
        Place::Registry(reference) => vec![reference.clone()],
        Place::Local(_) => Vec::new(),
    };
    let made = blocking({
        let (store, names, place) = (store.clone(), names.clone(), place.clone());
        move || {
            let image = carrier(&store, &records, &names)?;
            if let Place::Local(path) = &place {
                write_layout(&store, &image, path)
                    .map_err(|message| BuildError::Context { message, source: None })?;
            }
            Ok(())
        }
    });
    made.await.map_err(|error| error.to_string())?;
    let report = |what: &str, done, total| events(BuildEvent::Bytes { what: what.to_owned(), done, total });
    for name in &names {
        store.push(name, &report).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The image that carries records: nobody runs it.
fn carrier(store: &Store, records: &Records, names: &[ImageRef]) -> Result<Image, BuildError> {
    let mut document = Document::scratch(&Platform::host());
    for layer in records.values().filter_map(|record| record.layer.as_ref()) {
        if !document.rootfs.diff_ids.contains(layer) {
            document.rootfs.diff_ids.push(layer.clone());
        }
    }
    let (config, mut docker) = document.split()?;
    docker.build_cache = Some(travelling(records));
    Ok(store.commit_image_with(&config, &docker, names)?)
}

/// An OCI layout in place of the one that was there.
fn write_layout(store: &Store, image: &Image, path: &Path) -> Result<(), String> {
    let is_ours =
        path.join("index.json").exists() || fs::read_dir(path).is_ok_and(|mut all| all.next().is_none());
    if path.exists() && !is_ours {
        return Err(format!("`{}` holds something else", path.display()));
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(parent)?;
        let fresh = tempfile::Builder::new().prefix(".ficelle-").tempdir_in(parent)?;
        let archive = fresh.path().join("cache.tar");
        let failed = |error: ImageError| std::io::Error::other(error.to_string());
        store.save(std::slice::from_ref(&image.id), &archive, &|_, _, _| {}).map_err(failed)?;
        image::extract(fs::File::open(&archive)?, fresh.path()).map_err(failed)?;
        if path.exists() {
            fs::rename(path, fresh.path().join("old"))?;
        }
        fs::rename(fresh.path().join("fs"), path)
    };
    write().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_say_where_a_cache_is() {
        let place = |text: &str| Entry::parse(text).map(|entry| (entry.place, entry.all));
        let image = |name: &str| Place::Registry(name.parse().unwrap());
        assert_eq!(place("a/b:c"), Ok((image("a/b:c"), false)));
        assert_eq!(place("type=registry,ref=h:1/x,mode=max"), Ok((image("h:1/x"), true)));
        assert_eq!(place("type=local,src=/d"), Ok((Place::Local("/d".into()), false)));
        assert_eq!(place("type=local,dest=/d"), Ok((Place::Local("/d".into()), false)));
        assert_eq!(place("type=inline"), Ok((Place::Inline, false)));
        for wrong in ["type=gha", "type=local", "type=registry", "A:b", "type=x,y"] {
            assert!(Entry::parse(wrong).is_err(), "{wrong}");
        }
    }
}
