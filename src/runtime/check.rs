//! What would make a container fail and can be known before anything is changed.

use std::path::Path;

use super::{
    ContainerConfig, Error, MountKind, NetworkNamespace, Result, Roots, network, process, state::plain_name,
    volumes, worker,
};

/// All that is wrong with `config` on this machine, now.
pub fn check(roots: &Roots, config: &ContainerConfig) -> Vec<Error> {
    let mut errors = Vec::new();
    let mut note = |result: Result<()>| errors.extend(result.err());
    note(plain_name("container", &config.id));
    note(plain_name("group", &config.group));
    note(process::Program::new(&config.args, &config.env).map(drop));
    note(process::capability_set(&config.capabilities).map(drop));
    note(worker::check_cwd(&config.cwd));
    for layer in &config.rootfs.layers {
        note(directory("layer", layer));
    }
    for limit in &config.rlimits {
        note(match process::rlimit(&limit.kind) {
            Some(_) if limit.soft <= limit.hard => Ok(()),
            Some(_) => Err(Error::Invalid(format!("{}: the soft limit is above the hard one", limit.kind))),
            None => Err(Error::Invalid(format!("no limit `{}`", limit.kind))),
        });
    }
    for device in &config.devices {
        note(if device.host.exists() {
            Ok(())
        } else {
            Err(Error::Invalid(format!("no device `{}`", device.host.display())))
        });
    }
    if let Some(name) = config.hostname.as_ref().filter(|name| name.is_empty() || name.len() > 63) {
        note(Err(Error::Invalid(format!("`{name}` cannot be a host name: 1 to 63 characters"))));
    }
    note(networks(roots, config));
    let mut targets = Vec::new();
    for mount in &config.mounts {
        let target = Path::new(&mount.target);
        if !target.is_absolute() || target.components().count() == 1 {
            note(Err(Error::Invalid(format!("nothing can be mounted at `{}`", mount.target))));
        }
        if targets.contains(&target) {
            note(Err(Error::Invalid(format!("two mounts at `{}`", mount.target))));
        }
        targets.push(target);
        note(source(roots, &mount.kind));
    }
    errors
}

fn networks(roots: &Roots, config: &ContainerConfig) -> Result<()> {
    let NetworkNamespace::Own(endpoints) = &config.network else { return Ok(()) };
    let known = network::list(roots)?;
    match endpoints.iter().find(|endpoint| !known.iter().any(|network| network.name == endpoint.network)) {
        Some(endpoint) => Err(Error::NoNetwork(endpoint.network.clone())),
        None => Ok(()),
    }
}

fn source(roots: &Roots, kind: &MountKind) -> Result<()> {
    match kind {
        MountKind::Volume { name, .. } => match volumes::data_dir(roots, name).exists() {
            true => Ok(()),
            false => Err(Error::NoVolume(name.clone())),
        },
        MountKind::Anonymous { .. } | MountKind::Tmpfs { .. } => Ok(()),
        MountKind::Bind { path, create, propagation } => {
            if let Some(wanted) = propagation.as_deref()
                && !matches!(wanted, "private" | "rprivate" | "slave" | "rslave")
            {
                return Err(Error::Unsupported(format!(
                    "mount propagation `{wanted}` of `{}`: mounts of a container stay its own",
                    path.display()
                )));
            }
            if *create || path.exists() {
                return Ok(());
            }
            Err(Error::Invalid(format!("bind source `{}` does not exist", path.display())))
        }
    }
}

fn directory(what: &str, path: &Path) -> Result<()> {
    if path.is_dir() {
        Ok(())
    } else {
        Err(Error::Invalid(format!("{what} `{}` is not a directory", path.display())))
    }
}
