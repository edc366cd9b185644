//! One entry of the index: which bytes came when and from which stream, or how the container ended.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) const ENTRY: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Stdout,
    Stderr,
    /// The main process ended; its policy brings it back.
    Restarts,
    /// The main process ended for good.
    Ended,
}

/// 24 bytes in the index: offset, nanoseconds since 1970, length (or exit code), kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub offset: u64,
    pub nanos: u64,
    pub length: u32,
    pub kind: Kind,
}

impl Entry {
    pub(super) fn to_bytes(self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.nanos.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.length.to_le_bytes());
        bytes[20..].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; ENTRY]) -> Self {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let kind = match half(20) {
            1 => Kind::Stderr,
            2 => Kind::Restarts,
            3 => Kind::Ended,
            _ => Kind::Stdout,
        };
        Self { offset: word(0), nanos: word(8), length: half(16), kind }
    }

    pub(super) fn time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.nanos)
    }

    /// Length in the bytes file: notes have none.
    pub(super) fn size(self) -> u64 {
        if self.is_text() { u64::from(self.length) } else { 0 }
    }

    pub(super) fn is_text(self) -> bool {
        matches!(self.kind, Kind::Stdout | Kind::Stderr)
    }
}

pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
