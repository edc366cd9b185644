//! What would make a container fail and can be known before anything is changed.

use std::path::Path;

use rustix::mount::MountPropagationFlags;

use super::{
    ContainerConfig, Content, Error, MountKind, Result, cdi, process, rootfs, state::plain_name, worker,
};

/// What Docker takes, too: a container cannot be started with less.
const LEAST_MEMORY: i64 = 6 << 20;

/// All that is wrong with `config` on this machine, now.
pub fn check(config: &ContainerConfig) -> Vec<Error> {
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
    if let Some(limit) = config.limits.memory.filter(|limit| *limit < LEAST_MEMORY) {
        note(Err(Error::Invalid(format!(
            "the memory limit of {limit} bytes is below 6 MiB, the least there can be"
        ))));
    }
    for device in &config.devices {
        note(if device.host.exists() {
            Ok(())
        } else {
            Err(Error::Invalid(format!("no device `{}`", device.host.display())))
        });
    }
    note(cdi::check(&config.cdi));
    note(worker::filter(config).map(drop));
    if let Some(name) = config.hostname.as_ref().filter(|name| name.is_empty() || name.len() > 63) {
        note(Err(Error::Invalid(format!("`{name}` cannot be a host name: 1 to 63 characters"))));
    }
    let mut targets = Vec::new();
    for mount in &config.mounts {
        let target = Path::new(&mount.target);
        if !target.is_absolute() || target.components().count() == 1 {
            note(Err(Error::Invalid(format!("nothing can be mounted at `{}`", mount.target))));
        }
        note(leaves_the_kernel_in_sight(&mount.target, target, &mount.kind));
        if targets.contains(&target) {
            note(Err(Error::Invalid(format!("two mounts at `{}`", mount.target))));
        }
        targets.push(target);
        note(source(&mount.kind));
    }
    for file in &config.files {
        let target = Path::new(&file.target);
        if targets.contains(&target) {
            note(Err(Error::Invalid(format!("two mounts at `{}`", file.target))));
        }
        targets.push(target);
        if let Content::Path(path) = &file.content
            && !path.exists()
        {
            note(Err(Error::Invalid(format!("`{}` for `{}` does not exist", path.display(), file.target))));
        }
    }
    errors
}

/// What runc lets through below /proc, for programs that tell a container of its limits (lxcfs).
const OF_PROC: [&str; 9] =
    ["cpuinfo", "diskstats", "loadavg", "meminfo", "net/dev", "slabinfo", "stat", "swaps", "uptime"];

/// Refuses what would stand between a runtime that sets a label or a parameter and the kernel (CVE-2019-16884,
/// CVE-2019-19921, CVE-2025-52881). The host's own /proc does not. `target` is where `asked` leads to.
pub fn leaves_the_kernel_in_sight(asked: &str, target: &Path, kind: &MountKind) -> Result<()> {
    let mut clean = std::path::PathBuf::new();
    for part in target.components() {
        match part {
            std::path::Component::ParentDir => drop(clean.pop()),
            other => clean.push(other),
        }
    }
    let of_host = matches!(kind, MountKind::Bind { path, .. } if path == Path::new("/proc"));
    let Ok(below) = clean.strip_prefix("/proc") else { return Ok(()) };
    if (of_host && below.as_os_str().is_empty()) || OF_PROC.iter().any(|file| below == Path::new(file)) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "nothing can be mounted at `{asked}`: what is written to /proc must reach the kernel"
    )))
}

fn source(kind: &MountKind) -> Result<()> {
    match kind {
        // A volume may well be made between this check and the container.
        MountKind::Volume { .. } | MountKind::Anonymous { .. } | MountKind::Tmpfs { .. } => Ok(()),
        MountKind::Layers { layers, .. } => layers.iter().try_for_each(|layer| directory("layer", layer)),
        MountKind::Bind { path, create, propagation, .. } => {
            let asked = propagation.as_deref().unwrap_or("rprivate");
            let wanted = rootfs::propagation(asked)
                .filter(|wanted| !wanted.contains(MountPropagationFlags::UNBINDABLE))
                .ok_or_else(|| Error::Invalid(format!("`{asked}` is no propagation of mounts: private, slave and shared are, and each with an r before it")))?;
            match (path.exists(), rootfs::passes(wanted)) {
                (true, true) => rootfs::passing(path, wanted).map(drop),
                (true, false) => Ok(()),
                (false, _) if *create => Ok(()),
                (false, _) => Err(Error::Invalid(format!("bind source `{}` does not exist", path.display()))),
            }
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
