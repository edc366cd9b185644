//! The platforms of a build, the arguments that name them, and what runs where.

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use super::{BuildError, BuildEvent};
use crate::{image::Platform, model::Build};

/// The platforms that a build is to be made for, this machine's first; none when it is the one of
/// [`super::target_platform`].
pub fn every(build: &Build) -> Result<Vec<Platform>, BuildError> {
    let mut found: Vec<Platform> = Vec::new();
    if build.every_platform {
        for text in &build.platforms {
            let platform = Platform::parse(text)?;
            if !found.contains(&platform) {
                found.push(platform);
            }
        }
    }
    let host = Platform::host().architecture;
    found.sort_by_key(|platform| platform.architecture != host);
    Ok(found)
}

/// What is told of the build for one of several platforms: steps say which it is, and what was said of the ones
/// before is not said again.
pub fn events(
    platform: Platform,
    told: &Arc<Mutex<HashSet<String>>>,
    events: Arc<dyn Fn(BuildEvent) + Send + Sync>,
) -> Arc<dyn Fn(BuildEvent) + Send + Sync> {
    let told = Arc::clone(told);
    Arc::new(move |event| match event {
        BuildEvent::Step { step, cached } => {
            events(BuildEvent::Step { step: step.replacen('[', &format!("[{platform} "), 1), cached });
        }
        BuildEvent::Warning(text) => {
            if told.lock().unwrap_or_else(PoisonError::into_inner).insert(text.clone()) {
                events(BuildEvent::Warning(text));
            }
        }
        event => events(event),
    })
}

/// Where the build runs and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platforms {
    pub build: Platform,
    pub target: Platform,
}

impl Platforms {
    /// For the machine itself.
    #[must_use]
    pub fn native(machine: Platform) -> Self {
        Self { build: machine.clone(), target: machine }
    }

    /// `TARGETARCH` and its like; `None` for other names.
    #[must_use]
    pub fn argument(&self, name: &str) -> Option<String> {
        let (platform, part) = match (name.strip_prefix("TARGET"), name.strip_prefix("BUILD")) {
            (Some(part), _) => (&self.target, part),
            (_, Some(part)) => (&self.build, part),
            _ => return None,
        };
        match part {
            "PLATFORM" => Some(platform.to_string()),
            "OS" => Some(platform.os.clone()),
            "ARCH" => Some(platform.architecture.clone()),
            "VARIANT" => Some(platform.variant.clone().unwrap_or_default()),
            _ => None,
        }
    }
}

/// Whether programs for one architecture run on a machine of another, by itself or with an emulator
/// that the kernel was told of (`binfmt` is `/proc/sys/fs/binfmt_misc`).
#[must_use]
pub fn runs_on(wanted: &str, machine: &str, binfmt: &Path) -> bool {
    if wanted == machine || wanted.is_empty() || (wanted, machine) == ("386", "amd64") {
        return true;
    }
    let name = match wanted {
        "arm64" => "aarch64",
        "amd64" => "x86_64",
        "386" => "i386",
        "mips64le" => "mips64el",
        other => other,
    };
    std::fs::read_to_string(binfmt.join(format!("qemu-{name}"))).is_ok_and(|text| text.starts_with("enabled"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_emulator_lets_a_foreign_program_run() {
        let dir = tempfile::tempdir().unwrap();
        assert!(runs_on("amd64", "amd64", dir.path()) && runs_on("386", "amd64", dir.path()));
        assert!(!runs_on("arm64", "amd64", dir.path()));
        std::fs::write(dir.path().join("qemu-aarch64"), "disabled\n").unwrap();
        assert!(!runs_on("arm64", "amd64", dir.path()));
        std::fs::write(dir.path().join("qemu-aarch64"), "enabled\n").unwrap();
        assert!(runs_on("arm64", "amd64", dir.path()));
    }

    use super::*;

    #[test]
    fn arguments_name_both_platforms() {
        let mut platforms = Platforms::native(Platform::parse("linux/amd64").unwrap());
        platforms.target = Platform::parse("linux/arm/v7").unwrap();
        let table = [
            ("TARGETPLATFORM", Some("linux/arm/v7")),
            ("TARGETARCH", Some("arm")),
            ("TARGETVARIANT", Some("v7")),
            ("TARGETOS", Some("linux")),
            ("BUILDPLATFORM", Some("linux/amd64")),
            ("BUILDVARIANT", Some("")),
            ("TARGETX", None),
            ("ARCH", None),
        ];
        for (name, value) in table {
            assert_eq!(platforms.argument(name).as_deref(), value, "{name}");
        }
    }
}
