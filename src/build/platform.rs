//! The platforms of a build and the arguments that name them. Pure.

use crate::image::Platform;

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

#[cfg(test)]
mod tests {
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
