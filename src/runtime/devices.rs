//! Device nodes of the host that a container gets.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use super::{ContainerConfig, Device, Error, Result, oci::DeviceNode};

/// The devices asked for, or all of the host's.
pub fn of(config: &ContainerConfig) -> Result<Vec<DeviceNode>> {
    let mut nodes = Vec::new();
    if config.privileged {
        below(Path::new("/dev"), Path::new("/dev"), "rwm", &mut nodes);
    }
    for device in &config.devices {
        if !device.container.starts_with("/dev") {
            return Err(Error::Unsupported(format!(
                "device `{}` outside /dev in the container",
                device.container.display()
            )));
        }
        let asked = asked_for(device)?;
        nodes.retain(|known: &DeviceNode| asked.iter().all(|node| node.path != known.path));
        nodes.extend(asked);
    }
    Ok(nodes)
}

/// One node, or all below a directory.
fn asked_for(device: &Device) -> Result<Vec<DeviceNode>> {
    let Device { host, container, access } = device;
    let mut nodes = Vec::new();
    if host.is_dir() {
        below(host, container, access, &mut nodes);
    } else {
        nodes.extend(node(host, container, access));
    }
    if nodes.is_empty() {
        return Err(Error::Invalid(format!("`{}` is not a device of this machine", host.display())));
    }
    Ok(nodes)
}

/// `None` for what is no device.
pub fn node(host: &Path, container: &Path, access: &str) -> Option<DeviceNode> {
    let meta = fs::metadata(host).ok()?;
    let block = meta.file_type().is_block_device();
    if !block && !meta.file_type().is_char_device() {
        return None;
    }
    Some(DeviceNode {
        path: container.to_owned(),
        block,
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        access: access.to_owned(),
    })
}

/// Nodes below a directory, but for those that a container has of its own.
fn below(host: &Path, container: &Path, access: &str, nodes: &mut Vec<DeviceNode>) {
    const OWN: [&str; 7] = ["pts", "shm", "mqueue", "fd", "console", "ptmx", "lxc"];
    let Ok(listing) = fs::read_dir(host) else { return };
    for entry in listing.flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if OWN.iter().any(|own| path == Path::new("/dev").join(own)) || kind.is_symlink() {
            continue;
        }
        let target = container.join(entry.file_name());
        if kind.is_dir() {
            below(&path, &target, access, nodes);
        } else {
            nodes.extend(node(&path, &target, access));
        }
    }
}
