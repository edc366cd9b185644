//! What is there, read from the runtime's records and the store.

use std::{net::Ipv6Addr, time::SystemTime};

use indexmap::IndexMap;

use super::{Embedded, config::note, error};
use crate::{
    engine::{
        Container, ContainerId, ContainerState, EngineError, Health, ImageInfo, NetworkInfo, Observed,
        PublishedPort, Scope, VolumeInfo,
    },
    image::Image,
    model::{ContainerSpec, ImageRef, Protocol, label},
    runtime::{self, ContainerRecord, Exit, MountKind, NetworkNamespace, Phase},
};

pub(super) fn observe(engine: &Embedded, scope: &Scope) -> Result<Observed, EngineError> {
    let failed = |what: &'static str| move |error: runtime::Error| error::runtime(&error, what);
    let mut observed = Observed::default();
    let records =
        engine.core.containers(Some(&scope.project)).map_err(failed("containers cannot be listed"))?;
    observed.containers = records.iter().filter_map(container).collect();
    for network in engine.core.networks().map_err(failed("networks cannot be listed"))? {
        let labels = network.config.annotations;
        if labels.get(label::PROJECT) == Some(&scope.project) || scope.networks.contains(&network.config.name)
        {
            let info = NetworkInfo { labels, containers: network.containers };
            observed.networks.insert(network.config.name, info);
        }
    }
    for volume in engine.core.volumes().map_err(failed("volumes cannot be listed"))? {
        let mut labels = volume.config.annotations;
        if let Some(project) = volume.config.anonymous_of {
            labels.insert(label::PROJECT.to_owned(), project);
            labels.insert(label::ANONYMOUS.to_owned(), String::new());
        }
        if labels.get(label::PROJECT) == Some(&scope.project) || scope.volumes.contains(&volume.config.name) {
            observed.volumes.insert(volume.config.name, VolumeInfo { labels });
        }
    }
    for image in &scope.images {
        // A name that cannot be read is no image of the store; the planner says what that means.
        let Ok(reference) = image.parse::<ImageRef>() else { continue };
        let found = engine
            .store
            .find(&reference)
            .map_err(|error| error::image(&error, format!("image `{image}` cannot be looked up")))?;
        if let Some(found) = found {
            let mut info = image_info(&found);
            let named = engine.store.named(&reference);
            if let Some(named) =
                named.map_err(|error| error::image(&error, format!("image `{image}` cannot be looked up")))?
            {
                info.digest = Some(named.digest);
                info.age = named.since.and_then(|since| SystemTime::now().duration_since(since).ok());
            }
            observed.images.insert(image.clone(), info);
        }
    }
    Ok(observed)
}

/// The labels that were given when it was made.
pub(super) fn labels(record: &ContainerRecord) -> IndexMap<String, String> {
    let json = record.config.annotations.get(note::LABELS);
    json.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

/// What it was made of.
pub(super) fn spec(record: &ContainerRecord) -> Option<ContainerSpec> {
    let json = record.config.annotations.get(note::SPEC)?;
    serde_json::from_str(json).ok()
}

/// The image it was made from.
pub(super) fn image_id(record: &ContainerRecord) -> Option<&str> {
    record.config.annotations.get(note::IMAGE_ID).map(String::as_str)
}

/// Image ids and layers that must stay while the container is there.
pub(super) fn used_content(record: &ContainerRecord) -> Vec<String> {
    let mounted = record.config.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Layers { layers, .. } => Some(layers),
        _ => None,
    });
    let layers = record.config.rootfs.layers.iter().chain(mounted.flatten());
    let layers = layers.map(|layer| layer.display().to_string());
    image_id(record).map(ToOwned::to_owned).into_iter().chain(layers).collect()
}

/// `None` for what was not made for a Compose project (a build step).
pub(super) fn container(record: &ContainerRecord) -> Option<Container> {
    let labels = labels(record);
    let config = &record.config;
    let spec = spec(record);
    Some(Container {
        id: ContainerId(config.id.clone()),
        name: config.name.clone(),
        project: config.group.clone(),
        service: labels.get(label::SERVICE)?.clone(),
        number: labels.get(label::CONTAINER_NUMBER).and_then(|number| number.parse().ok()).unwrap_or(1),
        config_hash: labels.get(label::CONFIG_HASH).cloned().unwrap_or_default(),
        image: spec.as_ref().map(|spec| spec.image.clone()).unwrap_or_default(),
        image_id: image_id(record).unwrap_or_default().to_owned(),
        spec,
        labels,
        replaces: config.replaces.clone().map(ContainerId),
        state: state(record.phase),
        health: record.health.map(|health| match health {
            runtime::Health::Starting => Health::Starting,
            runtime::Health::Healthy => Health::Healthy,
            runtime::Health::Unhealthy => Health::Unhealthy,
        }),
        command: config.args.clone(),
        created: record.created,
        started: record.started,
        finished: record.finished,
        out_of_memory: record.out_of_memory,
        owed_hooks: record.owed,
        host_restarted: record.host_restarted,
        restarts: record.restarts,
        ports: published(record),
        exposed: config.exposed.iter().flat_map(|text| Protocol::of_ports(text)).collect(),
        networks: match &config.network {
            NetworkNamespace::Own(endpoints) => endpoints.iter().map(|e| e.network.clone()).collect(),
            _ => Vec::new(),
        },
        mounts: mounts(record),
    })
}

/// One that was asked for without an address is open on all of them, of both kinds.
fn published(record: &ContainerRecord) -> Vec<PublishedPort> {
    let everywhere =
        record.config.ports.iter().map(|port| port.host_ip.is_none() && runtime::ports::has_ipv6());
    let bound = record.ports.iter().zip(everywhere).flat_map(|(port, everywhere)| {
        let six = everywhere.then_some(Ipv6Addr::UNSPECIFIED.into());
        std::iter::once(port.host_ip).chain(six).map(|host_ip| PublishedPort {
            host_ip,
            host_port: port.host_port,
            target: port.target,
            protocol: port.protocol,
        })
    });
    bound.collect()
}

pub(super) fn state(phase: Phase) -> ContainerState {
    match phase {
        Phase::Created => ContainerState::Created,
        Phase::Running => ContainerState::Running,
        Phase::Paused => ContainerState::Paused,
        Phase::Restarting => ContainerState::Restarting,
        Phase::Exited(Exit::Code(code)) => ContainerState::Exited(Some(code)),
        Phase::Exited(Exit::Unknown) => ContainerState::Exited(None),
    }
}

fn mounts(record: &ContainerRecord) -> Vec<String> {
    let named = record.config.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Volume { name, .. } => Some(name.clone()),
        MountKind::Bind { path, .. } => Some(path.display().to_string()),
        MountKind::Anonymous { .. } | MountKind::Tmpfs { .. } | MountKind::Layers { .. } => None,
    });
    named.chain(record.anonymous_volumes.iter().map(|(_, volume)| volume.clone())).collect()
}

pub(super) fn image_info(image: &Image) -> ImageInfo {
    let config = &image.config;
    let variant = config.variant().as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
    ImageInfo {
        id: image.id.clone(),
        references: image.references.iter().map(ImageRef::familiar).collect(),
        size: image.size,
        created: config.created().as_deref().and_then(created),
        platform: format!("{}/{}{variant}", config.os(), config.architecture()),
        labels: image_labels(image),
        digest: None,
        age: None,
    }
}

pub(super) fn image_labels(image: &Image) -> IndexMap<String, String> {
    let labels = image.config.config().as_ref().and_then(|config| config.labels().clone());
    let mut labels: IndexMap<String, String> = labels.unwrap_or_default().into_iter().collect();
    labels.sort_unstable_keys();
    labels
}

/// `2026-11-21T08:00:00.5Z`, as image configurations have it: UTC, or with an offset.
pub(super) fn created(text: &str) -> Option<SystemTime> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let rest = text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match rest {
        "Z" | "" => 0,
        rest => {
            let (hours, minutes) = rest.get(1..)?.split_once(':')?;
            let seconds = hours.parse::<i64>().ok()? * 3_600 + minutes.parse::<i64>().ok()? * 60;
            if rest.starts_with('-') { -seconds } else { seconds }
        }
    };
    // Howard Hinnant's `days_from_civil`.
    let shifted = year - i64::from(month <= 2);
    let (era, year_of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days =
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    let since = std::time::Duration::from_secs(u64::try_from(seconds).ok()?);
    std::time::UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_images_are_read_in_every_zone() {
        let seconds =
            |text: &str| created(text)?.duration_since(std::time::UNIX_EPOCH).ok().map(|d| d.as_secs());
        assert_eq!(seconds("2026-11-21T08:00:00Z"), Some(1_795_248_000));
        assert_eq!(seconds("2026-11-21T08:00:00.123456789Z"), Some(1_795_248_000));
        assert_eq!(seconds("2026-11-21T09:30:00+01:30"), Some(1_795_248_000));
        assert_eq!(seconds("0001-01-01T00:00:00Z"), None, "the zero date of Go says nothing");
        assert_eq!(seconds("soon"), None);
    }
}
