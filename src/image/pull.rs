//! `pull`: a reference becomes an image of the store, from the first endpoint that has it.
//!
//! Layers come in parallel, the biggest first; fetch.rs brings each.

use std::{pin::Pin, sync::Arc};

use oci_spec::image::{Descriptor, ImageIndex};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};

use super::{
    Image, ImageError, Report, Store,
    arrival::{Arrival, parse_manifest},
    codec::digest,
    fetch::Fetch,
    layout::{hex, read},
    lease::Lease,
    platform::Platform,
    record::RefRecord,
    registry::{Access, Client, Fault, Registries, Wording, login_help},
};
use crate::model::ImageRef;

/// Layers on their way at the same time.
const PARALLEL: usize = 4;
const MAX_CONFIG: u64 = 8 << 20;
/// Indexes within indexes.
const MAX_DEPTH: u32 = 4;

impl Store {
    /// Brings an image from its registry (or a mirror), and points the reference at it.
    ///
    /// `platform` is `os/arch[/variant]`, else this machine's. What is there already is not fetched again.
    /// Mirrors, credentials and certificates are those of [`Registries::from_environment`].
    pub async fn pull(
        &self,
        image: &ImageRef,
        platform: Option<&str>,
        report: Report<'_>,
    ) -> Result<Image, ImageError> {
        self.pull_with(&Registries::from_environment()?, image, platform, report).await
    }

    /// [`Store::pull`] with settings of the caller.
    pub async fn pull_with(
        &self,
        registries: &Registries,
        image: &ImageRef,
        platform: Option<&str>,
        report: Report<'_>,
    ) -> Result<Image, ImageError> {
        self.pull_as(registries, image, platform, None, report).await
    }

    /// [`Store::pull`] of what must have this digest (`sha256:<hex>`, of the manifest or index).
    ///
    /// # Errors
    /// [`ImageError::Drift`] when the name stands for something else now.
    pub async fn pull_locked(
        &self,
        image: &ImageRef,
        platform: Option<&str>,
        locked: Option<&str>,
        report: Report<'_>,
    ) -> Result<Image, ImageError> {
        self.pull_as(&Registries::from_environment()?, image, platform, locked, report).await
    }

    async fn pull_as(
        &self,
        registries: &Registries,
        image: &ImageRef,
        platform: Option<&str>,
        locked: Option<&str>,
        report: Report<'_>,
    ) -> Result<Image, ImageError> {
        let platform = platform.map_or_else(|| Ok(Platform::host()), Platform::parse)?;
        let pull = |client: Arc<Client>| -> Asking<'_, Image> {
            let platform = &platform;
            Box::pin(async move { self.pull_from(&client, image, platform, locked, report).await })
        };
        from_any(registries, image, pull).await
    }

    /// The digest of the manifest or index that a name stands for at its registry, or a mirror, now.
    pub async fn remote_digest(&self, image: &ImageRef) -> Result<String, ImageError> {
        let ask = |client: Arc<Client>| -> Asking<'_, String> {
            Box::pin(async move {
                let (target, _) = client.manifest(reference(image)).await?;
                Ok(target.digest().to_string())
            })
        };
        from_any(&Registries::from_environment()?, image, ask).await
    }

    async fn pull_from(
        &self,
        client: &Arc<Client>,
        image: &ImageRef,
        platform: &Platform,
        locked: Option<&str>,
        report: Report<'_>,
    ) -> Result<Image, Fault> {
        let lease = Arc::new(self.begin().map_err(Fault::Wrong)?);
        let name = image.familiar();
        report(&name, 0, 0);
        let (target, bytes) = client.manifest(reference(image)).await?;
        if let Some(locked) = locked
            && target.digest().as_ref() != locked
        {
            let (locked, found) = (locked.to_owned(), target.digest().to_string());
            return Err(Fault::Wrong(ImageError::Drift { image: name, locked, found }));
        }
        let arrival = self.resolve(client, &lease, &name, platform, (target.clone(), bytes)).await?;
        arrival.hold(&lease).map_err(Fault::Wrong)?;
        self.fetch_layers(client, &arrival, &lease, &name, report).await?;
        let store = self.clone();
        let image = image.clone();
        let source = client.name();
        let finish = move || {
            let (id, _) = arrival.complete(&store.layout, &lease)?;
            store.publish(&id, &[image], &RefRecord::new(&id, target, source))
        };
        blocking(finish).await.map_err(Fault::Wrong)
    }

    /// From what a name stands for to the manifest and configuration for the platform.
    async fn resolve(
        &self,
        client: &Client,
        lease: &Lease,
        name: &str,
        platform: &Platform,
        mut found: (Descriptor, Vec<u8>),
    ) -> Result<Arrival, Fault> {
        for _ in 0..MAX_DEPTH {
            let (descriptor, bytes) = found;
            if !is_index(&descriptor) {
                let manifest = parse_manifest(&bytes, &format!("`{name}`")).map_err(Fault::Wrong)?;
                let config = match self.stored(manifest.config()).map_err(Fault::Wrong)? {
                    Some(config) => config,
                    None => client.small_blob(manifest.config(), MAX_CONFIG).await?,
                };
                let id = manifest.config().digest().to_string();
                let arrival =
                    Arrival::new(&id, config, Some((descriptor, bytes, manifest))).map_err(Fault::Wrong)?;
                let config = &arrival.config;
                platform
                    .accept(config.architecture(), config.os(), config.variant().as_deref(), name)
                    .map_err(Fault::Wrong)?;
                return Ok(arrival);
            }
            let entry = choose(&bytes, platform, name).map_err(Fault::Wrong)?;
            let index = descriptor.digest().to_string();
            lease.hold([index.as_str()]).map_err(Fault::Wrong)?;
            self.layout.write_blob(&index, &bytes).map_err(Fault::Wrong)?;
            found = match self.stored(&entry).map_err(Fault::Wrong)? {
                Some(bytes) => (entry, bytes),
                None => {
                    let (descriptor, bytes) = client.manifest(entry.digest().as_ref()).await?;
                    if bytes.len() as u64 != entry.size() {
                        return Err(Fault::Wrong(ImageError::Invalid(format!(
                            "manifest {} of `{name}` is {} bytes long; its index says {}",
                            entry.digest(),
                            bytes.len(),
                            entry.size()
                        ))));
                    }
                    (descriptor, bytes)
                }
            };
        }
        Err(Fault::Wrong(ImageError::Invalid(format!(
            "`{name}` is an index within an index within an index"
        ))))
    }

    /// A document that the store has, if it is what is asked for.
    fn stored(&self, descriptor: &Descriptor) -> Result<Option<Vec<u8>>, ImageError> {
        let wanted = descriptor.digest().as_ref();
        let bytes = read(&self.layout.blob(hex(wanted)?))?;
        Ok(bytes.filter(|bytes| digest(bytes) == wanted))
    }

    async fn fetch_layers(
        &self,
        client: &Arc<Client>,
        arrival: &Arrival,
        lease: &Arc<Lease>,
        name: &str,
        report: Report<'_>,
    ) -> Result<(), Fault> {
        let Some((_, _, manifest)) = &arrival.manifest else { return Ok(()) };
        let count = manifest.layers().len();
        let (heard, mut hears) = mpsc::unbounded_channel::<(usize, u64)>();
        // Dropped with this call at the latest, finished or not: downloads end with it.
        let (alive, gone) = watch::channel(());
        let permits = Arc::new(Semaphore::new(PARALLEL));
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|number| std::cmp::Reverse(manifest.layers()[*number].size()));
        let mut tasks = JoinSet::new();
        let whats: Vec<String> =
            (1..=count).map(|number| format!("{name} layer {number} of {count}")).collect();
        for number in order {
            let blob = manifest.layers()[number].clone();
            let diff_id = arrival.diff_ids()[number].clone();
            if self.layout.has_layer(&diff_id).map_err(Fault::Wrong)? {
                continue;
            }
            let fetch = Fetch {
                layout: self.layout.clone(),
                client: Arc::clone(client),
                lease: Arc::clone(lease),
                blob,
                diff_id,
                what: whats[number].clone(),
                number,
                heard: heard.clone(),
                gone: gone.clone(),
            };
            let permits = Arc::clone(&permits);
            tasks.spawn(async move {
                // The semaphore is never closed.
                let _permit = permits.acquire_owned().await;
                fetch.run().await
            });
        }
        drop(heard);
        let end = loop {
            tokio::select! {
                Some((number, done)) = hears.recv() => {
                    report(&whats[number], done, manifest.layers()[number].size());
                }
                done = tasks.join_next() => match done {
                    None => break Ok(()),
                    Some(Ok(Ok(()))) => {}
                    Some(Ok(Err(fault))) => break Err(fault),
                    Some(Err(error)) => {
                        break Err(Fault::Wrong(ImageError::Invalid(format!("a layer's task failed: {error}"))));
                    }
                }
            }
        };
        drop(alive);
        // Beside one that failed, the others clear away what they have begun.
        while tasks.join_next().await.is_some() {}
        end
    }
}

/// What the registry is asked for.
pub(super) fn reference(image: &ImageRef) -> &str {
    image.digest.as_ref().or(image.tag.as_ref()).map_or("latest", String::as_str)
}

/// What one endpoint is asked.
pub(super) type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 'a>>;

/// Asks the mirrors and the registry, in order, until one can help.
pub(super) async fn from_any<'a, T>(
    registries: &Registries,
    image: &ImageRef,
    ask: impl Fn(Arc<Client>) -> Asking<'a, T>,
) -> Result<T, ImageError> {
    let mut faults = Vec::new();
    for endpoint in registries.endpoints(&image.registry)? {
        let attempt = async {
            let client = Client::open(registries, &endpoint, image, Access::Pull).await?;
            ask(Arc::new(client)).await
        };
        match attempt.await {
            Ok(found) => return Ok(found),
            // A mirror that lies is told; one that cannot help is passed by.
            Err(fault @ Fault::Wrong(_)) => return Err(told(image, fault)),
            Err(fault) => faults.push((endpoint.host, fault)),
        }
    }
    Err(all_told(image, faults))
}

pub(super) fn is_index(descriptor: &Descriptor) -> bool {
    matches!(
        descriptor.media_type().as_ref(),
        "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json"
    )
}

pub(super) fn choose(bytes: &[u8], platform: &Platform, name: &str) -> Result<Descriptor, ImageError> {
    let wrong = |why: &dyn std::fmt::Display| {
        ImageError::Invalid(format!("the index of `{name}` is malformed: {why}"))
    };
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| wrong(&error))?;
    if value.get("layers").is_some() || value.get("config").is_some() {
        return Err(wrong(&"it is a manifest at the same time"));
    }
    let index: ImageIndex = serde_json::from_value(value).map_err(|error| wrong(&error))?;
    platform.choose(&index, name).cloned()
}

/// Runs what blocks where it may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(ImageError::Invalid(format!("a thread failed: {error}"))))
}

fn told(image: &ImageRef, fault: Fault) -> ImageError {
    let name = image.familiar();
    let registry = &image.registry;
    fault.told(Wording {
        missing: (format!("image `{name}` is not found"), vec!["check its name and tag".to_owned()]),
        denied: (
            format!("image `{name}` does not exist or needs a login"),
            vec!["check its name".to_owned(), login_help(registry)],
        ),
        unreachable: (
            format!("cannot pull image `{name}`: registry {registry} is not reachable"),
            vec![
                "without a network, bring it with `ficelle image load -i FILE`".to_owned(),
                format!("or name a mirror: FICELLE_MIRRORS={registry}=http://HOST:PORT"),
            ],
        ),
    })
}

/// The registry's own answer, and what mirrors said before it.
fn all_told(image: &ImageRef, mut faults: Vec<(String, Fault)>) -> ImageError {
    let Some((_, last)) = faults.pop() else { return ImageError::NotFound(image.familiar()) };
    let mirrors: Vec<_> = faults
        .into_iter()
        .map(|(host, fault)| match fault {
            Fault::Unreachable(why) => format!("mirror {host}: {why}"),
            Fault::Missing(why) | Fault::Denied(why) => why,
            Fault::Wrong(error) => error.to_string(),
        })
        .collect();
    let also = if mirrors.is_empty() { String::new() } else { format!(" ({})", mirrors.join("; ")) };
    match told(image, last) {
        ImageError::Remote { message, help } => ImageError::Remote { message: message + &also, help },
        ImageError::Unreachable { message, help, source } => {
            ImageError::Unreachable { message: message + &also, help, source }
        }
        other => other,
    }
}
