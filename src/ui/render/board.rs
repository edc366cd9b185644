//! The live picture: a row for each thing that is worked on, folded from events, drawn to fit.

use std::{collections::BTreeMap, time::Duration};

use super::words::{Subject, doing, done, subject};
use crate::{
    apply::{Event, StepId},
    engine::Detail,
    ui::{Palette, table::shorten, time::short},
};

const SPINNER: [&str; 8] = ["⣾", "⣽", "⣻", "⢿", "⡿", "⣟", "⣯", "⣷"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Working,
    Done,
    Skipped,
    Failed,
}

#[derive(Debug)]
struct Row {
    subject: Subject,
    state: State,
    text: String,
    detail: String,
    /// When work on it began, from the start of the command.
    since: Duration,
    took: Duration,
}

/// What is known of all steps so far.
#[derive(Debug)]
pub struct Board {
    palette: Palette,
    rows: Vec<Row>,
    by_step: BTreeMap<StepId, usize>,
    notes: Vec<String>,
}

impl Board {
    #[must_use]
    pub fn new(palette: Palette) -> Self {
        Self { palette, rows: Vec::new(), by_step: BTreeMap::new(), notes: Vec::new() }
    }

    /// Folds one event in; `now` counts from the start of the command.
    pub fn hear(&mut self, event: &Event, now: Duration) {
        match event {
            Event::Planned { plan } => {
                self.by_step.clear();
                self.notes.extend(plan.notes.iter().map(|note| format!("warning: {note}")));
                for name in &plan.unchanged {
                    let row = self.row(&Subject { kind: "Container", name: name.clone() });
                    self.set(row, State::Done, "Running");
                }
            }
            Event::WaitingForLock { holder } => self.notes.push(format!("waiting: {holder}")),
            Event::Started { step, what, .. } => {
                let row = self.row(&subject(&what.op));
                self.by_step.insert(*step, row);
                if self.rows[row].text.is_empty() {
                    self.rows[row].since = now;
                }
                self.set(row, State::Working, doing(&what.op));
            }
            Event::Progress { step, detail } => {
                if let Some(&row) = self.by_step.get(step) {
                    self.rows[row].detail = words(detail);
                }
            }
            Event::Done { what, outcome, took, .. } => {
                self.end(&subject(&what.op), State::Done, done(&what.op, outcome), *took);
            }
            Event::Failed { what, took, .. } => {
                self.end(&subject(&what.op), State::Failed, "Failed", *took);
            }
            Event::Skipped { what, .. } => {
                self.end(&subject(&what.op), State::Skipped, "Skipped", Duration::ZERO);
            }
        }
    }

    fn row(&mut self, subject: &Subject) -> usize {
        self.rows.iter().position(|row| row.subject == *subject).unwrap_or_else(|| {
            self.rows.push(Row {
                subject: subject.clone(),
                state: State::Working,
                text: String::new(),
                detail: String::new(),
                since: Duration::ZERO,
                took: Duration::ZERO,
            });
            self.rows.len() - 1
        })
    }

    fn set(&mut self, row: usize, state: State, text: &str) {
        let row = &mut self.rows[row];
        row.state = state;
        row.text = text.to_owned();
        row.detail.clear();
    }

    fn end(&mut self, subject: &Subject, state: State, text: &str, took: Duration) {
        let row = self.row(subject);
        // A failure stays on the board even when a later step on the same thing is skipped.
        if self.rows[row].state != State::Failed {
            self.set(row, state, text);
        }
        self.rows[row].took += took;
    }

    /// The picture at `now` (from the start of the command), at most `height` lines of `width`
    /// characters. What is not done yet, or failed, is kept when there is not room for all.
    #[must_use]
    pub fn frame(&self, now: Duration, width: usize, height: usize) -> Vec<String> {
        let done = self.rows.iter().filter(|row| row.state == State::Done).count();
        let mut lines = vec![format!("[+] {done}/{}", self.rows.len())];
        lines.extend(self.notes.iter().map(|note| self.palette.warn(&shorten(note, width))));
        lines.truncate(height.saturating_sub(1).max(1));
        let room = height.saturating_sub(lines.len());
        let shown = self.shown(room);
        let names = shown.iter().map(|row| console::measure_text_width(&row.subject.to_string()));
        let column = names.max().unwrap_or(0);
        lines.extend(shown.iter().map(|row| self.line(row, now, width, column)));
        lines.truncate(height.max(1));
        lines
    }

    /// The final picture: everything, however long.
    #[must_use]
    pub fn last(&self, now: Duration, width: usize) -> Vec<String> {
        if self.rows.is_empty() && self.notes.is_empty() {
            return Vec::new();
        }
        self.frame(now, width, self.rows.len() + self.notes.len() + 1)
    }

    fn shown(&self, room: usize) -> Vec<&Row> {
        let surplus = self.rows.len().saturating_sub(room);
        let mut droppable = surplus;
        let mut shown: Vec<&Row> = self
            .rows
            .iter()
            .filter(|row| {
                let drop = droppable > 0 && row.state == State::Done;
                droppable -= usize::from(drop);
                !drop
            })
            .collect();
        shown.truncate(room);
        shown
    }

    fn line(&self, row: &Row, now: Duration, width: usize, column: usize) -> String {
        let tick = usize::try_from(now.as_millis() / 100).unwrap_or(0);
        let (mark, took) = match row.state {
            State::Working => {
                (self.palette.busy(SPINNER[tick % SPINNER.len()]), now.saturating_sub(row.since))
            }
            State::Done => (self.palette.good("✔"), row.took),
            State::Skipped => (self.palette.faint("-"), row.took),
            State::Failed => (self.palette.bad("✘"), row.took),
        };
        let text = match row.state {
            State::Working => row.text.clone(),
            State::Done => self.palette.good(&row.text),
            State::Skipped => self.palette.faint(&row.text),
            State::Failed => self.palette.bad(&row.text),
        };
        let subject = row.subject.to_string();
        let pad = column - console::measure_text_width(&subject);
        let mut line = format!(" {mark} {subject}{:pad$}  {text}  {}", "", short(took));
        if !row.detail.is_empty() {
            line.push_str("  ");
            line.push_str(&self.palette.faint(&row.detail));
        }
        shorten(&line, width)
    }
}

fn words(detail: &Detail) -> String {
    match detail {
        Detail::Doing(text) => text.clone(),
        Detail::Line(line) => console::strip_ansi_codes(line).into_owned(),
        Detail::Bytes { what, done, total: 0 } => format!("{what} {}", bytes(*done)),
        Detail::Bytes { what, done, total } => format!("{what} {}/{}", bytes(*done), bytes(*total)),
    }
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut whole, mut tenths, mut unit) = (count, 0, 0);
    while whole >= 1000 && unit + 1 < UNITS.len() {
        tenths = whole % 1000 / 100;
        whole /= 1000;
        unit += 1;
    }
    if unit == 0 { format!("{whole}B") } else { format!("{whole}.{tenths}{}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        apply::{Cause, Plan, Step},
        engine::{EngineError, ErrorKind, Op, Outcome},
    };

    fn step(name: &str) -> Step {
        let op = Op::Start { project: "demo".into(), name: name.into() };
        Step { op, needs: Vec::new(), optional: false, cause: Cause::Missing }
    }

    fn board(steps: usize, finished: usize) -> Board {
        let mut board = Board::new(Palette { colour: false });
        let names: Vec<String> = (0..steps).map(|i| format!("demo-s{i}-1")).collect();
        board.hear(&Event::Planned { plan: Plan::default() }, Duration::ZERO);
        for (i, name) in names.iter().enumerate() {
            board.hear(
                &Event::Started { step: StepId(i), what: step(name), at: Duration::ZERO },
                Duration::ZERO,
            );
            if i < finished {
                board.hear(
                    &Event::Done {
                        step: StepId(i),
                        what: step(name),
                        outcome: Outcome::default(),
                        took: Duration::from_millis(300),
                    },
                    Duration::ZERO,
                );
            }
        }
        board
    }

    #[test]
    fn a_row_for_each_thing() {
        let frame = board(2, 1).frame(Duration::from_secs(1), 80, 24);
        assert_eq!(
            frame,
            ["[+] 1/2", " ✔ Container demo-s0-1  Started  0.3s", " ⣻ Container demo-s1-1  Starting  1.0s"]
        );
    }

    #[test]
    fn the_picture_never_grows_over_the_terminal() {
        for height in 1..12 {
            let frame = board(30, 25).frame(Duration::ZERO, 20, height);
            assert!(frame.len() <= height, "{height}: {frame:?}");
            assert!(frame.iter().all(|line| console::measure_text_width(line) <= 20), "{frame:?}");
        }
        let frame = board(30, 25).frame(Duration::ZERO, 80, 6);
        assert!(frame[1..].iter().all(|line| line.contains("Starting")), "{frame:?}");
    }

    #[test]
    fn a_failure_is_not_painted_over() {
        let mut board = board(1, 0);
        let error = EngineError::new(ErrorKind::Other, "no");
        board.hear(
            &Event::Failed { step: StepId(0), what: step("demo-s0-1"), error, took: Duration::ZERO },
            Duration::ZERO,
        );
        board.hear(
            &Event::Skipped { step: StepId(1), what: step("demo-s0-1"), because: Some(StepId(0)) },
            Duration::ZERO,
        );
        assert!(board.last(Duration::ZERO, 80)[1].contains("Failed"));
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(bytes(999), "999B");
        assert_eq!(bytes(1_530_000), "1.5MB");
    }
}
