//! The labels of what a plan creates: those of docker compose, over those of the file.

use std::fmt::Write;

use indexmap::IndexMap;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    engine::Container,
    model::{Condition, Network, Project, Service, Volume, label},
};

type Labels = IndexMap<String, String>;

pub(super) fn container(
    project: &Project,
    service: &Service,
    number: u32,
    config_hash: &str,
    image_id: &str,
    replaces: Option<&Container>,
) -> Labels {
    let files: Vec<_> = project.files.iter().map(|file| file.to_string_lossy()).collect();
    let mut labels = service.container.labels.clone();
    set(&mut labels, label::PROJECT, &project.name);
    set(&mut labels, label::SERVICE, &service.name);
    set(&mut labels, label::CONTAINER_NUMBER, number.to_string());
    set(&mut labels, label::ONEOFF, "False");
    set(&mut labels, label::CONFIG_HASH, config_hash);
    set(&mut labels, label::IMAGE, image_id);
    set(&mut labels, label::DEPENDS_ON, depends_on(service));
    set(&mut labels, label::WORKING_DIR, project.root.to_string_lossy());
    set(&mut labels, label::CONFIG_FILES, files.join(","));
    set(&mut labels, label::VERSION, env!("CARGO_PKG_VERSION"));
    if let Some(old) = replaces {
        set(&mut labels, label::REPLACE, &old.name);
    }
    labels
}

pub(super) fn network(project: &Project, key: &str, network: &Network) -> Labels {
    resource(project, network.labels.clone(), label::NETWORK, key, digest(network))
}

pub(super) fn volume(project: &Project, key: &str, volume: &Volume) -> Labels {
    resource(project, volume.labels.clone(), label::VOLUME, key, digest(volume))
}

/// The config hash of a network or volume: 64 hex digits of SHA-256 over its JSON.
pub(super) fn digest(value: &impl Serialize) -> String {
    let json = serde_json::to_vec(value).unwrap_or_default();
    Sha256::digest(json).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn resource(project: &Project, mut labels: Labels, kind: &str, key: &str, hash: String) -> Labels {
    set(&mut labels, label::PROJECT, &project.name);
    set(&mut labels, kind, key);
    set(&mut labels, label::CONFIG_HASH, hash);
    set(&mut labels, label::VERSION, env!("CARGO_PKG_VERSION"));
    labels
}

/// `db:service_healthy:true,cache:service_started:false`; the last word is `restart`.
fn depends_on(service: &Service) -> String {
    let one = |(on, dependency): (&String, &crate::model::Dependency)| {
        let condition = match dependency.condition {
            Condition::ServiceStarted => "service_started",
            Condition::ServiceHealthy => "service_healthy",
            Condition::ServiceCompletedSuccessfully => "service_completed_successfully",
        };
        format!("{on}:{condition}:{}", dependency.restart)
    };
    service.depends_on.iter().map(one).collect::<Vec<_>>().join(",")
}

fn set(labels: &mut Labels, key: &str, value: impl Into<String>) {
    labels.insert(key.to_owned(), value.into());
}
