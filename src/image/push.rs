//! `push`: an image of the store goes to its registry, with the manifest and blobs it has here.
//!
//! A manifest that came from a registry goes as it came. One made here names plain layers; they are
//! compressed once, and the manifest names the result from then on.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use super::{
    ImageError, Report, Store,
    arrival::{has_blob, is_plain, parse_manifest},
    codec::digest,
    commit::parsed,
    layout::{Layout, hex, read},
    lease::Lease,
    pull::{blocking, is_index},
    record::{ImageRecord, RefRecord},
    registry::{Access, Client, Fault, Registries, Sent, Upload, Wording, login_help},
};
use crate::model::ImageRef;

/// Blobs on their way at the same time.
const PARALLEL: usize = 4;
/// Repositories that are asked to share a blob.
const MAX_FROM: usize = 2;

/// What a push has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Of the manifest or index that the name stands for now.
    pub digest: String,
    /// The registry had all of it, under this name.
    pub unchanged: bool,
    /// What of the image stayed here, and why.
    pub notes: Vec<String>,
}

/// All that goes.
struct Parcel {
    blobs: Vec<Blob>,
    /// Manifests that an index names, then what the name is to stand for.
    manifests: Vec<(Descriptor, Vec<u8>)>,
    /// Of an index: manifests that only the registry may have.
    elsewhere: Vec<Descriptor>,
    /// In place of the index, when the registry has not got those.
    alone: Option<(Descriptor, Vec<u8>)>,
}

struct Blob {
    blob: Descriptor,
    file: PathBuf,
    from: Vec<String>,
    what: String,
}

impl Store {
    /// Sends an image to the registry of its name; a mirror is never sent to.
    ///
    /// Of an image for several platforms the index goes when all that it names is here or there, else
    /// the one platform that is here.
    pub async fn push(&self, image: &ImageRef, report: Report<'_>) -> Result<Pushed, ImageError> {
        self.push_with(&Registries::from_environment()?, image, report).await
    }

    /// [`Store::push`] with settings of the caller.
    pub async fn push_with(
        &self,
        registries: &Registries,
        image: &ImageRef,
        report: Report<'_>,
    ) -> Result<Pushed, ImageError> {
        let lease = Arc::new(self.begin()?);
        let parcel = self.wrap(&lease, image, report).await?;
        let endpoint = registries.home(&image.registry);
        let send = async {
            let client = Arc::new(Client::open(registries, &endpoint, image, Access::Push).await?);
            deliver(&client, image, parcel, report).await
        };
        send.await.map_err(|fault| told(image, fault))
    }

    /// Gathers all that goes, compressing what is plain.
    async fn wrap(
        &self,
        lease: &Arc<Lease>,
        image: &ImageRef,
        report: Report<'_>,
    ) -> Result<Parcel, ImageError> {
        let (heard, mut hears) = mpsc::unbounded_channel();
        let work = {
            let (layout, lease, image) = (self.layout.clone(), Arc::clone(lease), image.clone());
            move || layout.wrap(&lease, &image, &heard)
        };
        let mut work = std::pin::pin!(blocking(work));
        loop {
            tokio::select! {
                Some((what, done, all)) = hears.recv() => report(&what, done, all),
                parcel = &mut work => return parcel,
            }
        }
    }
}

impl Layout {
    fn wrap(
        &self,
        lease: &Lease,
        image: &ImageRef,
        heard: &mpsc::UnboundedSender<(String, u64, u64)>,
    ) -> Result<Parcel, ImageError> {
        let name = image.familiar();
        let missing = || ImageError::NotFound(name.clone());
        let found = self.read_ref(image)?.ok_or_else(missing)?;
        lease.hold([found.image.as_str(), found.target.digest().as_ref()])?;
        let record = self.image_record(&found.image)?.ok_or_else(missing)?;
        let packed = self.pack(lease, &found.image, record, &name, heard)?;
        let found =
            if found.others.is_empty() { found } else { self.pack_others(lease, found, &name, heard)? };
        let own = (packed.manifest.clone(), self.document(&packed.manifest)?);
        let mut parcel =
            Parcel { blobs: Vec::new(), manifests: Vec::new(), elsewhere: Vec::new(), alone: None };
        let mut all = vec![own.clone()];
        if is_index(&found.target) {
            let bytes = self.document(&found.target)?;
            for entry in index(&bytes, &name)?.manifests() {
                if entry.digest() == packed.manifest.digest() {
                    continue;
                }
                match self.whole(entry)? {
                    Some(bytes) => all.push((entry.clone(), bytes)),
                    None => parcel.elsewhere.push(entry.clone()),
                }
            }
            parcel.alone = Some(own);
            parcel.manifests = all.clone();
            parcel.manifests.push((found.target, bytes));
        } else {
            parcel.manifests.clone_from(&all);
        }
        let known = self.repositories(&image.registry, &image.repository)?;
        let mut seen = BTreeSet::new();
        for (descriptor, bytes) in &all {
            let manifest = parse_manifest(bytes, &format!("`{name}`"))?;
            lease.hold([descriptor.digest().as_ref()])?;
            let count = manifest.layers().len();
            let layers = manifest.layers().iter().enumerate();
            let layers =
                layers.map(|(number, blob)| (blob, format!("{name} layer {} of {count}", number + 1)));
            for (blob, what) in layers.chain([(manifest.config(), format!("{name} configuration"))]) {
                if !seen.insert(blob.digest().to_string()) {
                    continue;
                }
                lease.hold([blob.digest().as_ref()])?;
                let hex = hex(blob.digest().as_ref())?;
                let from = known.get(hex).cloned().unwrap_or_default();
                parcel.blobs.push(Blob { blob: blob.clone(), file: self.blob(hex), from, what });
            }
        }
        Ok(parcel)
    }

    /// The same for the images that were made for other platforms; what the name stands for then. The image itself
    /// is packed.
    fn pack_others(
        &self,
        lease: &Lease,
        found: RefRecord,
        name: &str,
        heard: &mpsc::UnboundedSender<(String, u64, u64)>,
    ) -> Result<RefRecord, ImageError> {
        lease.hold(found.others.iter().map(String::as_str))?;
        let mut ids = vec![found.image.clone()];
        for id in &found.others {
            let record = self.image_record(id)?.ok_or_else(|| ImageError::NotFound(id.clone()))?;
            self.pack(lease, id, record, name, heard)?;
            ids.push(id.clone());
        }
        let target = self.write_index(lease, &ids)?;
        for (name, other) in self.all_refs()? {
            if other.target.digest() == found.target.digest() {
                self.write_ref(&name, &RefRecord { target: target.clone(), ..other })?;
            }
        }
        Ok(RefRecord { target, ..found })
    }

    /// Makes sure that all blobs of the image's manifest are there; the record as it is then.
    fn pack(
        &self,
        lease: &Lease,
        id: &str,
        record: ImageRecord,
        name: &str,
        heard: &mpsc::UnboundedSender<(String, u64, u64)>,
    ) -> Result<ImageRecord, ImageError> {
        let bytes = self.document(&record.manifest)?;
        let mut manifest = parse_manifest(&bytes, &format!("`{name}`"))?;
        let mut plain = false;
        let mut layers = Vec::new();
        let count = manifest.layers().len();
        for (number, layer) in manifest.layers().iter().enumerate() {
            lease.hold([layer.digest().as_ref()])?;
            if has_blob(self, layer)? {
                layers.push(layer.clone());
                continue;
            }
            if !is_plain(layer) {
                return Err(ImageError::NotFound(format!("blob {} of image `{name}`", layer.digest())));
            }
            plain = true;
            let what = format!("{name} layer {} of {count} compressing", number + 1);
            // Nobody may listen any more.
            let heard = |done| drop(heard.send((what.clone(), done, layer.size())));
            let packed = self.pack_layer(lease, layer.digest().as_ref(), &heard)?;
            layers.push(match layer.media_type() {
                MediaType::ImageLayer => packed,
                // A manifest of docker's form stays one.
                other => Descriptor::new(
                    format!("{other}.gzip").as_str().into(),
                    packed.size(),
                    packed.digest().clone(),
                ),
            });
        }
        if !plain {
            return Ok(record);
        }
        manifest.set_layers(layers);
        self.rename(lease, id, record, &manifest)
    }

    /// Gives an image another manifest; names that stood for the one before stand for it.
    fn rename(
        &self,
        lease: &Lease,
        id: &str,
        record: ImageRecord,
        manifest: &ImageManifest,
    ) -> Result<ImageRecord, ImageError> {
        let bytes = serde_json::to_vec(manifest)
            .map_err(|error| ImageError::Invalid(format!("a manifest cannot be written: {error}")))?;
        let text = digest(&bytes);
        lease.hold([text.as_str()])?;
        self.write_blob(&text, &bytes)?;
        let kind = record.manifest.media_type().clone();
        let descriptor = Descriptor::new(kind, bytes.len() as u64, parsed(&text)?);
        let blobs = manifest.layers().iter().map(|layer| hex(layer.digest().as_ref()).map(str::to_owned));
        let blobs = blobs.collect::<Result<_, _>>()?;
        let before = record.manifest.clone();
        let record = ImageRecord { manifest: descriptor.clone(), blobs, ..record };
        self.write_image_record(id, &record)?;
        for (name, other) in self.all_refs()? {
            if other.image == id && other.target.digest() == before.digest() {
                self.write_ref(&name, &RefRecord { target: descriptor.clone(), ..other })?;
            }
        }
        Ok(record)
    }

    /// A manifest of an index with all its blobs, if they are here.
    fn whole(&self, entry: &Descriptor) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(bytes) = read(&self.blob(hex(entry.digest().as_ref())?))? else { return Ok(None) };
        let Ok(manifest) = parse_manifest(&bytes, "an index") else { return Ok(None) };
        for blob in manifest.layers().iter().chain([manifest.config()]) {
            if !has_blob(self, blob)? {
                return Ok(None);
            }
        }
        Ok(Some(bytes))
    }

    /// All that an index names and is needed, when it is all here.
    pub(super) fn whole_index(&self, target: &Descriptor) -> Result<Option<Vec<Descriptor>>, ImageError> {
        let bytes = self.document(target)?;
        let mut found = Vec::new();
        for entry in index(&bytes, target.digest().as_ref())?.manifests() {
            let Some(bytes) = self.whole(entry)? else { return Ok(None) };
            let manifest = parse_manifest(&bytes, target.digest().as_ref())?;
            found.push(entry.clone());
            found.extend(manifest.layers().iter().chain([manifest.config()]).cloned());
        }
        Ok(Some(found))
    }

    pub(super) fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let name = descriptor.digest().as_ref();
        let bytes = read(&self.blob(hex(name)?))?;
        bytes.filter(|bytes| digest(bytes) == name).ok_or_else(|| {
            ImageError::Invalid(format!(
                "manifest {name} is missing or damaged in the store; pull or load its image anew"
            ))
        })
    }

    /// Other repositories of the registry, by the hex digest of a blob that images of theirs have.
    fn repositories(&self, registry: &str, own: &str) -> Result<BTreeMap<String, Vec<String>>, ImageError> {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, record) in self.all_refs()? {
            if name.registry != registry || name.repository == own {
                continue;
            }
            let Some(image) = self.image_record(&record.image)? else { continue };
            for blob in image.blobs.iter().map(String::as_str).chain([hex(&record.image)?]) {
                let repositories = found.entry(blob.to_owned()).or_default();
                if repositories.len() < MAX_FROM && !repositories.contains(&name.repository) {
                    repositories.push(name.repository.clone());
                }
            }
        }
        Ok(found)
    }
}

fn index(bytes: &[u8], name: &str) -> Result<ImageIndex, ImageError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ImageError::Invalid(format!("the index of `{name}` is malformed: {error}")))
}

async fn deliver(
    client: &Arc<Client>,
    image: &ImageRef,
    parcel: Parcel,
    report: Report<'_>,
) -> Result<Pushed, Fault> {
    let name = image.familiar();
    report(&name, 0, 0);
    let Parcel { blobs, mut manifests, elsewhere, alone } = parcel;
    let mut unchanged = send_blobs(client, blobs, report).await?;
    let mut notes = Vec::new();
    let mut lacking = Vec::new();
    for entry in &elsewhere {
        if !client.has_manifest(entry.digest().as_ref()).await? {
            lacking.push(entry.platform().as_ref().map_or_else(
                || entry.digest().to_string(),
                |platform| format!("{}/{}", platform.os(), platform.architecture()),
            ));
        }
    }
    if let (Some(alone), false) = (alone, lacking.is_empty()) {
        notes.push(format!(
            "only the platform that is in the store goes to `{name}`; its index also names {}",
            lacking.join(", ")
        ));
        manifests = vec![alone];
    }
    let Some((top, bytes)) = manifests.pop() else {
        return Err(Fault::Wrong(ImageError::NotFound(name)));
    };
    for (descriptor, bytes) in manifests {
        client.put_manifest(descriptor.digest().as_ref(), &descriptor, bytes).await?;
    }
    let reference = image.tag.as_deref().unwrap_or(top.digest().as_ref());
    unchanged &= client.manifest_of(reference).await?.as_deref() == Some(top.digest().as_ref());
    if !unchanged {
        client.put_manifest(reference, &top, bytes).await?;
    }
    Ok(Pushed { digest: top.digest().to_string(), unchanged, notes })
}

/// `true` when all of them were there.
async fn send_blobs(client: &Arc<Client>, blobs: Vec<Blob>, report: Report<'_>) -> Result<bool, Fault> {
    let (heard, mut hears) = mpsc::unbounded_channel::<(usize, u64)>();
    let permits = Arc::new(Semaphore::new(PARALLEL));
    let about: Vec<(String, u64)> = blobs.iter().map(|blob| (blob.what.clone(), blob.blob.size())).collect();
    let mut order: Vec<(usize, Blob)> = blobs.into_iter().enumerate().collect();
    order.sort_by_key(|(_, blob)| std::cmp::Reverse(blob.blob.size()));
    let mut tasks = JoinSet::new();
    for (number, blob) in order {
        let (client, permits, heard) = (Arc::clone(client), Arc::clone(&permits), heard.clone());
        tasks.spawn(async move {
            // The semaphore is never closed.
            let _permit = permits.acquire_owned().await;
            let upload = Upload { blob: &blob.blob, file: blob.file, from: &blob.from };
            let heard = move |done| {
                // Nobody may listen any more.
                let _ = heard.send((number, done));
            };
            client.upload(&upload, &heard).await
        });
    }
    drop(heard);
    let mut there = true;
    loop {
        tokio::select! {
            Some((number, done)) = hears.recv() => report(&about[number].0, done, about[number].1),
            done = tasks.join_next() => match done {
                None => return Ok(there),
                Some(Ok(sent)) => there &= sent? == Sent::There,
                Some(Err(error)) => {
                    return Err(Fault::Wrong(ImageError::Invalid(format!("a blob's task failed: {error}"))));
                }
            }
        }
    }
}

fn told(image: &ImageRef, fault: Fault) -> ImageError {
    let name = image.familiar();
    let registry = &image.registry;
    fault.told(Wording {
        missing: (
            format!("image `{name}` cannot be pushed"),
            vec![format!("make the repository {} at {registry} first", image.repository)],
        ),
        denied: (
            format!("image `{name}` may not be pushed"),
            vec![login_help(registry), "check that the repository is yours".to_owned()],
        ),
        unreachable: (
            format!("cannot push image `{name}`: registry {registry} is not reachable"),
            Vec::new(),
        ),
    })
}
