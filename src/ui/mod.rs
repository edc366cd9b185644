//! What people see: lines of progress, logs, tables. Decides nothing and asks nobody.
//!
//! `render`, `logs`, `table` and `time` are pure: values in, text out. Only `terminal` writes, and
//! only to stderr: results are written to stdout by the command that has them.

pub mod logs;
pub mod render;
pub mod table;
pub mod terminal;
pub mod time;

/// Whether text carries colours; meaning never rests on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Palette {
    pub colour: bool,
}

impl Palette {
    fn style(self, style: console::Style, text: &str) -> String {
        style.force_styling(self.colour).apply_to(text).to_string()
    }

    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.style(console::Style::new().green(), text)
    }

    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.style(console::Style::new().red().bold(), text)
    }

    #[must_use]
    pub fn warn(self, text: &str) -> String {
        self.style(console::Style::new().yellow(), text)
    }

    #[must_use]
    pub fn busy(self, text: &str) -> String {
        self.style(console::Style::new().cyan(), text)
    }

    #[must_use]
    pub fn faint(self, text: &str) -> String {
        self.style(console::Style::new().dim(), text)
    }

    #[must_use]
    pub fn strong(self, text: &str) -> String {
        self.style(console::Style::new().bold(), text)
    }

    /// One of twelve, for the `index`-th container of a log.
    #[must_use]
    pub fn nth(self, index: usize, text: &str) -> String {
        let style = console::Style::new();
        let style = match index % 6 {
            0 => style.cyan(),
            1 => style.yellow(),
            2 => style.green(),
            3 => style.magenta(),
            4 => style.blue(),
            _ => style.red(),
        };
        self.style(if index % 12 < 6 { style } else { style.bright() }, text)
    }
}
