//! What containers say, line by line: a padded prefix in the container's own colour, then the bytes
//! as they came.

use std::{collections::BTreeMap, time::SystemTime};

use super::{Palette, time};
use crate::engine::{LogItem, Stream};

/// How lines are shown.
#[derive(Clone, Copy, Debug)]
pub struct LogStyle {
    pub prefix: bool,
    pub timestamps: bool,
    pub palette: Palette,
}

/// Turns log items into lines. Knows every container it has met, so that prefixes stay aligned.
#[derive(Debug)]
pub struct LogLines {
    style: LogStyle,
    /// Cut off container names: `project-`.
    project: String,
    width: usize,
    colours: BTreeMap<String, usize>,
}

impl LogLines {
    /// `containers` are those known now; others are met later.
    #[must_use]
    pub fn new<'a>(style: LogStyle, project: &str, containers: impl IntoIterator<Item = &'a str>) -> Self {
        let mut lines = Self { style, project: format!("{project}-"), width: 0, colours: BTreeMap::new() };
        for container in containers {
            lines.meet(container);
        }
        lines
    }

    /// The name without its project: `web-1`.
    fn short<'a>(&self, container: &'a str) -> &'a str {
        container.strip_prefix(&self.project).unwrap_or(container)
    }

    /// Makes room for `container`, which will speak later.
    pub fn expect(&mut self, container: &str) {
        self.meet(container);
    }

    fn meet(&mut self, container: &str) -> usize {
        self.width = self.width.max(console::measure_text_width(self.short(container)));
        let next = self.colours.len();
        *self.colours.entry(container.to_owned()).or_insert(next)
    }

    /// The bytes of one item, line feed included, and the stream they came from.
    pub fn item(&mut self, item: &LogItem) -> (Stream, Vec<u8>) {
        match item {
            LogItem::Line { container, stream, time, text } => (*stream, self.line(container, *time, text)),
            LogItem::Exited { container, code, restarting } => {
                (Stream::Stdout, self.exited(container, *code, *restarting))
            }
        }
    }

    fn line(&mut self, container: &str, at: SystemTime, text: &[u8]) -> Vec<u8> {
        let mut bytes = self.prefix(container).into_bytes();
        if self.style.timestamps {
            bytes.extend(time::rfc3339(at).bytes());
            bytes.push(b' ');
        }
        bytes.extend_from_slice(text);
        bytes.push(b'\n');
        bytes
    }

    fn prefix(&mut self, container: &str) -> String {
        let colour = self.meet(container);
        if !self.style.prefix {
            return String::new();
        }
        let name = self.short(container);
        let pad = self.width - console::measure_text_width(name);
        self.style.palette.nth(colour, &format!("{name}{:pad$}  | ", "")).clone()
    }

    fn exited(&mut self, container: &str, code: Option<i32>, restarting: bool) -> Vec<u8> {
        let colour = self.meet(container);
        let name = self.style.palette.nth(colour, self.short(container));
        let again = if restarting { " (restarting)" } else { "" };
        match code {
            Some(code) => format!("{name} exited with code {code}{again}\n").into_bytes(),
            None => format!("{name} exited{again}\n").into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(colour: bool, prefix: bool, timestamps: bool) -> LogLines {
        let style = LogStyle { prefix, timestamps, palette: Palette { colour } };
        LogLines::new(style, "demo", ["demo-web-1", "demo-database-1"])
    }

    fn said(container: &str, text: &[u8]) -> LogItem {
        LogItem::Line {
            container: container.into(),
            stream: Stream::Stderr,
            time: SystemTime::UNIX_EPOCH,
            text: text.to_vec(),
        }
    }

    #[test]
    fn prefixes_are_padded_to_the_longest_name() {
        let mut lines = lines(false, true, false);
        assert_eq!(
            lines.item(&said("demo-web-1", b"hello")),
            (Stream::Stderr, b"web-1       | hello\n".to_vec())
        );
        assert_eq!(lines.item(&said("demo-database-1", b"")).1, b"database-1  | \n");
    }

    #[test]
    fn bytes_that_are_no_text_pass_unchanged() {
        assert_eq!(lines(false, false, false).item(&said("demo-web-1", b"\xff\0")).1, b"\xff\0\n");
    }

    #[test]
    fn timestamps_and_colours_stand_before_the_text() {
        let line = lines(false, false, true).item(&said("demo-web-1", b"x")).1;
        assert_eq!(line, b"1970-01-01T00:00:00.000000000Z x\n");
        let line = String::from_utf8(lines(true, true, false).item(&said("demo-web-1", b"x")).1).unwrap();
        assert_eq!(line, "\u{1b}[36mweb-1       | \u{1b}[0mx\n");
    }

    #[test]
    fn an_end_is_told_with_its_code() {
        let exited = |code, restarting| LogItem::Exited { container: "demo-web-1".into(), code, restarting };
        let mut lines = lines(false, true, false);
        assert_eq!(lines.item(&exited(Some(3), false)).1, b"web-1 exited with code 3\n");
        assert_eq!(lines.item(&exited(None, true)).1, b"web-1 exited (restarting)\n");
    }
}
