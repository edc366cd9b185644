//! Secrets and configs: files that a container is given without their being in its image.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// One secret or config as a container sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileMount {
    /// Absolute path in the container.
    pub target: String,
    pub source: FileSource,
    pub uid: u32,
    pub gid: u32,
    /// Permission bits; 0444 unless the file says otherwise.
    pub mode: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileSource {
    /// A file of the host, read whenever the container starts; a directory is mounted as it is.
    Path(PathBuf),
    /// `content:` or the value of a variable.
    Text(Sealed),
}

/// A text that is told to nobody: what is stored, compared and printed is its digest.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Sealed {
    digest: String,
    text: Option<String>,
}

impl Sealed {
    #[must_use]
    pub fn new(text: String) -> Self {
        let digest = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { digest, text: Some(text) }
    }

    /// `None` for one that was stored and read again.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }
}

impl From<String> for Sealed {
    /// Of a digest.
    fn from(digest: String) -> Self {
        Self { digest, text: None }
    }
}

impl From<Sealed> for String {
    fn from(sealed: Sealed) -> Self {
        sealed.digest
    }
}

impl PartialEq for Sealed {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({})", self.digest.get(..12).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_text_is_never_written_and_still_compared() {
        let secret = Sealed::new("canary".into());
        let stored = serde_json::to_string(&secret).unwrap();
        assert!(!stored.contains("canary") && !format!("{secret:?}").contains("canary"));
        let read: Sealed = serde_json::from_str(&stored).unwrap();
        assert_eq!(read, secret);
        assert_eq!((read.text(), secret.text()), (None, Some("canary")));
        assert_ne!(read, Sealed::new("other".into()));
    }
}
