//! Which of an image's platforms runs here.

use std::fmt;

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, Os};

use super::ImageError;

/// `os/arch[/variant]`, variants in their short form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
}

impl Platform {
    /// What this machine runs.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "x86" => ("386", None),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.map(str::to_owned) }
    }

    /// Reads `linux/arm64/v8`, `linux/amd64` or `arm64`, with the names that kernels use as well.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let wrong = || {
            ImageError::Invalid(format!(
                "`{text}` is no platform: expected `os/arch[/variant]`, as in `linux/amd64`"
            ))
        };
        let parts: Vec<_> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(wrong());
        }
        match parts.as_slice() {
            ["linux"] => Ok(Self::host()),
            [architecture] => Ok(Self::normal("linux", architecture, None)),
            [os, architecture] => Ok(Self::normal(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::normal(os, architecture, Some(variant))),
            _ => Err(wrong()),
        }
    }

    fn normal(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let architecture = architecture.to_ascii_lowercase();
        let (architecture, implied) = match architecture.as_str() {
            "x86_64" | "x86-64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "i386" | "i686" => ("386", None),
            "armhf" => ("arm", Some("v7")),
            "armel" => ("arm", Some("v6")),
            other => (other, None),
        };
        let variant = variant.or(implied).map(|variant| match variant {
            bare if bare.starts_with(|c: char| c.is_ascii_digit()) => format!("v{bare}"),
            other => other.to_owned(),
        });
        // What each architecture is when nothing is said.
        let variant = match (architecture, variant.as_deref()) {
            ("arm64", Some("v8")) | ("amd64", Some("v1")) => None,
            ("arm", None) => Some("v7".to_owned()),
            _ => variant,
        };
        Self { os: os.to_ascii_lowercase(), architecture: architecture.to_owned(), variant }
    }

    /// How well an image for `offered` runs here: smaller is better, `None` not at all.
    fn distance(&self, offered: &Self) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let level = |platform: &Self| {
            platform.variant.as_deref().and_then(|v| v.strip_prefix('v')).and_then(|v| v.parse::<u32>().ok())
        };
        let fallback = match self.architecture.as_str() {
            "amd64" => 1,
            "arm64" => 8,
            _ => 0,
        };
        match (&self.variant, &offered.variant) {
            (a, b) if a == b => Some(0),
            // An older variant of the same family runs too: v7 takes v6, v3 takes v1.
            _ => level(self).unwrap_or(fallback).checked_sub(level(offered).unwrap_or(fallback)),
        }
    }

    /// The entry of an index that runs here best.
    pub(super) fn choose<'a>(
        &self,
        index: &'a ImageIndex,
        image: &str,
    ) -> Result<&'a Descriptor, ImageError> {
        let images = || index.manifests().iter().filter(|entry| !is_attestation(entry));
        let best = images()
            .filter_map(|entry| Some((self.distance(&of(entry)?)?, entry)))
            .min_by_key(|(distance, _)| *distance);
        if let Some((_, entry)) = best {
            return Ok(entry);
        }
        // An index of one image that does not say what it is for is checked by its configuration.
        let unnamed: Vec<_> = images().filter(|entry| entry.platform().is_none()).collect();
        if let [only] = unnamed.as_slice() {
            return Ok(only);
        }
        let there: Vec<_> = images()
            .filter_map(of)
            .filter(|platform| platform.os != "unknown")
            .map(|platform| platform.to_string())
            .collect();
        Err(ImageError::Platform {
            image: image.to_owned(),
            wanted: self.to_string(),
            there: there.join(", "),
        })
    }

    /// What a configuration is for, when this machine does not run that: neither by itself nor with an
    /// interpreter that the kernel knows (`binfmt_misc`).
    pub(super) fn foreign(&self, config: &ImageConfiguration) -> Option<String> {
        let (arch, os) = (config.architecture().to_string(), config.os().to_string());
        let offered = Self::normal(&os, &arch, config.variant().as_deref());
        // A processor of the one kind runs programs of the other.
        let related = self.architecture == "amd64" && offered.architecture == "386";
        if arch.is_empty() || related || self.distance(&offered).is_some() {
            return None;
        }
        let interpreted = match offered.architecture.as_str() {
            "amd64" => "x86_64",
            "arm64" => "aarch64",
            "386" => "i386",
            other => other,
        };
        let known = std::path::Path::new("/proc/sys/fs/binfmt_misc").join(format!("qemu-{interpreted}"));
        (os != "linux" || !known.exists()).then(|| offered.to_string())
    }

    /// Refuses an image that is for something else.
    pub(super) fn accept(
        &self,
        arch: &Arch,
        os: &Os,
        variant: Option<&str>,
        image: &str,
    ) -> Result<(), ImageError> {
        let offered = Self::normal(&os.to_string(), &arch.to_string(), variant);
        // Images made by hand often leave both out.
        if arch.to_string().is_empty() || self.distance(&offered).is_some() {
            return Ok(());
        }
        Err(ImageError::Platform {
            image: image.to_owned(),
            wanted: self.to_string(),
            there: offered.to_string(),
        })
    }
}

fn of(entry: &Descriptor) -> Option<Platform> {
    let platform = entry.platform().as_ref()?;
    Some(Platform::normal(
        &platform.os().to_string(),
        &platform.architecture().to_string(),
        platform.variant().as_deref(),
    ))
}

/// Provenance and SBOMs that BuildKit puts beside the images.
fn is_attestation(entry: &Descriptor) -> bool {
    entry.annotations().as_ref().is_some_and(|notes| {
        notes.get("vnd.docker.reference.type").is_some_and(|kind| kind == "attestation-manifest")
    })
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(wanted: &str, offered: &[&str]) -> String {
        let manifests: Vec<_> = offered
            .iter()
            .enumerate()
            .map(|(number, text)| {
                let parts: Vec<_> = text.split('/').collect();
                let mut platform = serde_json::json!({"os": parts[0], "architecture": parts[1]});
                if let Some(variant) = parts.get(2) {
                    platform["variant"] = (*variant).into();
                }
                serde_json::json!({
                    "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": number,
                    "digest": format!("sha256:{}", "0".repeat(64)), "platform": platform,
                })
            })
            .collect();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests});
        let index: ImageIndex = serde_json::from_value(index).unwrap();
        match Platform::parse(wanted).unwrap().choose(&index, "x") {
            Ok(entry) => offered[usize::try_from(entry.size()).unwrap()].to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn variants_are_matched_by_what_they_can_run() {
        let arm = ["linux/arm/v5", "linux/arm/v6", "linux/arm64/v8", "linux/amd64"];
        assert_eq!(choose("linux/arm/v7", &arm), "linux/arm/v6");
        assert_eq!(choose("linux/arm64", &arm), "linux/arm64/v8");
        assert_eq!(choose("aarch64", &arm), "linux/arm64/v8");
        assert_eq!(choose("x86_64", &arm), "linux/amd64");
        assert_eq!(choose("linux/amd64/v3", &["linux/amd64/v2", "linux/amd64"]), "linux/amd64/v2");
        assert_eq!(choose("linux/amd64", &["linux/amd64/v3", "linux/amd64"]), "linux/amd64");
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        let error = choose("linux/s390x", &["linux/amd64", "linux/arm64/v8", "unknown/unknown"]);
        assert!(error.contains("linux/s390x") && error.contains("linux/amd64, linux/arm64"), "{error}");
        assert!(choose("linux/amd64", &["linux/amd64/v3"]).contains("is not for platform"));
    }
}
