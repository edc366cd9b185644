//! Events to text. Pure: no clock, no terminal; three ways to tell the same story.

mod board;
mod json;
mod plain;
mod plan;
mod words;

pub use board::Board;
pub use json::{error as json_error, line as json_line, note as json_note};
pub use plain::Plain;
pub use plan::plan_lines;
pub use words::{Subject, doing, done, subject, unchanged};
