//! The platforms of a build and the arguments that name them. Pure.

/// `linux/arm64/v8` in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: String,
}

/// Where the build runs and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platforms {
    pub build: Platform,
    pub target: Platform,
}

impl Platform {
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (os, architecture) = (parts.next()?, parts.next()?);
        let variant = parts.next().unwrap_or_default();
        let complete = parts.next().is_none() && !os.is_empty() && !architecture.is_empty();
        complete.then(|| Self { os: os.into(), architecture: architecture.into(), variant: variant.into() })
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

impl Platforms {
    #[must_use]
    pub fn native(architecture: &str) -> Self {
        let variant = if architecture == "arm" { "v7" } else { "" };
        let native =
            Platform { os: "linux".into(), architecture: architecture.into(), variant: variant.into() };
        Self { build: native.clone(), target: native }
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
            "VARIANT" => Some(platform.variant.clone()),
            _ => None,
        }
    }
}

/// The name that images have for the architecture of this program.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_name_both_platforms() {
        let mut platforms = Platforms::native("amd64");
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
        assert_eq!(Platform::parse("linux"), None);
        assert_eq!(Platform::parse("a/b/c/d"), None);
    }
}
