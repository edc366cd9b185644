//! Chunks of bytes put together to lines.

use std::{ops::ControlFlow, time::SystemTime};

use super::super::LogRecord;

/// A line longer than this is given out in pieces, so that memory stays bounded.
const LONGEST_LINE: usize = 1 << 20;

/// Puts the chunks of each stream together to lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The unfinished line of stdout and of stderr, with the time of its first byte.
    pending: [Option<(SystemTime, Vec<u8>)>; 2],
}

impl Lines {
    pub(super) fn feed(
        &mut self,
        stderr: bool,
        time: SystemTime,
        chunk: &[u8],
        sink: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for piece in chunk.split_inclusive(|&byte| byte == b'\n') {
            let (time, mut text) = self.pending[usize::from(stderr)].take().unwrap_or((time, Vec::new()));
            text.extend_from_slice(piece);
            if text.ends_with(b"\n") {
                text.pop();
                sink(LogRecord::Line { stderr, time, text })?;
            } else if text.len() >= LONGEST_LINE {
                sink(LogRecord::Line { stderr, time, text })?;
            } else {
                self.pending[usize::from(stderr)] = Some((time, text));
            }
        }
        ControlFlow::Continue(())
    }

    /// Gives out what never got its line feed.
    pub(super) fn flush(&mut self, sink: &mut dyn FnMut(LogRecord) -> ControlFlow<()>) -> ControlFlow<()> {
        for stderr in [false, true] {
            if let Some((time, text)) = self.pending[usize::from(stderr)].take() {
                sink(LogRecord::Line { stderr, time, text })?;
            }
        }
        ControlFlow::Continue(())
    }
}
