//! Containers that lend something to one that is made: their namespaces or their volumes.

use super::{observe, others::Others};
use crate::{
    engine::{CreateContainer, EngineError, ErrorKind},
    model::{Lender, VolumesFrom, label},
    runtime::{ContainerRecord, MountConfig, MountKind},
};

/// The newest container that `lender` means.
///
/// # Errors
/// [`ErrorKind::NotFound`], at `attribute` of the service.
pub(super) fn find<'a>(
    create: &CreateContainer,
    attribute: &str,
    lender: &Lender,
    others: &'a Others<'_>,
) -> Result<&'a ContainerRecord, EngineError> {
    let others = others.list()?;
    let found = match lender {
        Lender::Service(service) => {
            others.iter().filter(|record| of_service(record, create, service)).min_by_key(
                // The first replica lends; of an old and a new container, the new one.
                |record| (number(record), std::cmp::Reverse(record.created)),
            )
        }
        Lender::Container(name) => others.iter().rev().find(|record| called(record, name)),
    };
    found.ok_or_else(|| {
        let what = match lender {
            Lender::Service(service) => format!("service `{service}` has no container to share with"),
            Lender::Container(name) => format!("there is no container `{name}` to share with"),
        };
        EngineError::new(ErrorKind::NotFound, what).at(format!("services.{}.{attribute}", create.service))
    })
}

fn of_service(record: &ContainerRecord, create: &CreateContainer, service: &str) -> bool {
    let labels = observe::labels(record);
    record.config.group == create.project
        && labels.get(label::SERVICE).is_some_and(|name| name == service)
        && labels.get(label::ONEOFF).is_none_or(|value| value != "True")
}

fn number(record: &ContainerRecord) -> u32 {
    observe::labels(record).get(label::CONTAINER_NUMBER).and_then(|number| number.parse().ok()).unwrap_or(1)
}

/// By name, or by at least twelve digits of its id.
fn called(record: &ContainerRecord, name: &str) -> bool {
    record.config.name == name || (name.len() >= 12 && record.config.id.starts_with(name))
}

/// The volumes and bind mounts of others, but where `own` has something.
pub(super) fn volumes(
    create: &CreateContainer,
    lists: &[VolumesFrom],
    own: &[MountConfig],
    others: &Others<'_>,
) -> Result<Vec<MountConfig>, EngineError> {
    let mut found: Vec<MountConfig> = Vec::new();
    for (at, from) in lists.iter().enumerate() {
        let lender = find(create, &format!("volumes_from[{at}]"), &from.lender, others)?;
        for mount in lender.config.mounts.iter().filter_map(|mount| lent(mount, lender)) {
            let mount = MountConfig { read_only: mount.read_only || from.read_only, ..mount };
            // Of two lenders the later wins.
            found.retain(|known| known.target != mount.target);
            if own.iter().all(|known| known.target != mount.target) {
                found.push(mount);
            }
        }
    }
    Ok(found)
}

/// What is not in its memory alone; an anonymous volume by the name that it has.
fn lent(mount: &MountConfig, lender: &ContainerRecord) -> Option<MountConfig> {
    let kind = match &mount.kind {
        MountKind::Tmpfs { .. } => return None,
        MountKind::Anonymous { .. } => {
            let (_, name) = lender.anonymous_volumes.iter().find(|(target, _)| *target == mount.target)?;
            MountKind::Volume { name: name.clone(), nocopy: true, subpath: None }
        }
        MountKind::Volume { .. } | MountKind::Bind { .. } | MountKind::Layers { .. } => mount.kind.clone(),
    };
    Some(MountConfig { kind, ..mount.clone() })
}
