//! Plain lines: one for each outcome, so that a log of a run stays short; a heart-beat for what
//! takes long.

use std::{collections::BTreeMap, time::Duration};

use super::words::{Subject, doing, done, subject};
use crate::{
    apply::{Cause, Event, Step, StepId},
    engine::{Detail, Op},
    ui::time::short,
};

/// A step that runs says so every ten seconds.
const HEARTBEAT: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct Plain {
    running: BTreeMap<StepId, Running>,
    subjects: BTreeMap<StepId, Subject>,
}

#[derive(Debug)]
struct Running {
    what: String,
    since: Duration,
    told: Duration,
    last: Option<String>,
}

impl Plain {
    /// The lines that `event` is worth; `now` counts from the start of the command.
    pub fn lines(&mut self, event: &Event, now: Duration) -> Vec<String> {
        match event {
            Event::Planned { plan } => {
                let steps = plan.steps.iter().enumerate();
                self.subjects = steps.map(|(i, step)| (StepId(i), subject(&step.op))).collect();
                let notes = plan.notes.iter().map(|note| format!("warning: {note}"));
                let unchanged = plan.unchanged.iter().map(|name| format!(" Container {name}  Running"));
                notes.chain(unchanged).collect()
            }
            Event::WaitingForLock { holder } => vec![format!("waiting: {holder}")],
            Event::Started { step, what, .. } => {
                let what = format!("{}  {}", subject(&what.op), doing(&what.op));
                self.running.insert(*step, Running { what, since: now, told: now, last: None });
                Vec::new()
            }
            Event::Progress { step, detail } => self.progress(*step, detail),
            Event::Done { step, what, outcome, took } => {
                self.running.remove(step);
                if is_aside(what) {
                    return Vec::new();
                }
                vec![format!(" {}  {}  {}", subject(&what.op), done(&what.op, outcome), short(*took))]
            }
            Event::Failed { step, what, took, .. } => {
                self.running.remove(step);
                vec![format!(" {}  {}  {}", subject(&what.op), "Failed", short(*took))]
            }
            Event::Skipped { what, because, .. } => {
                let because = because.and_then(|step| self.subjects.get(&step));
                let because = because.map_or_else(|| "cancelled".into(), |of| format!("{of} failed"));
                vec![format!(" {}  Skipped  {because}", subject(&what.op))]
            }
        }
    }

    fn progress(&mut self, step: StepId, detail: &Detail) -> Vec<String> {
        let Some(running) = self.running.get_mut(&step) else { return Vec::new() };
        let of = self.subjects.get(&step).map_or("", |subject| subject.name.as_str());
        match detail {
            Detail::Line(line) => vec![format!(" {of} | {line}")],
            Detail::Doing(text) => {
                let is_build = running.what.ends_with("Building");
                running.last = Some(text.clone());
                if is_build { vec![format!(" {of} {text}")] } else { Vec::new() }
            }
            Detail::Bytes { what, .. } => {
                running.last = Some(what.clone());
                Vec::new()
            }
        }
    }

    /// Lines about what has been running for long without a word; `now` counts from the start of
    /// the command.
    pub fn heartbeat(&mut self, now: Duration) -> Vec<String> {
        let mut lines = Vec::new();
        for running in self.running.values_mut() {
            if now.saturating_sub(running.told) >= HEARTBEAT {
                running.told = now;
                let last = running.last.as_deref().map(|last| format!(", {last}")).unwrap_or_default();
                lines.push(format!(" {}  {}{last}", running.what, short(now.saturating_sub(running.since))));
            }
        }
        lines
    }
}

/// Steps that are part of another one to the reader: the old container of a recreated one goes.
fn is_aside(step: &Step) -> bool {
    step.cause == Cause::Replaced && matches!(step.op, Op::Stop { .. } | Op::Remove { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        apply::Plan,
        engine::{EngineError, ErrorKind, Outcome},
    };

    fn start(name: &str) -> Step {
        let op = Op::Start { project: "demo".into(), name: name.into() };
        Step { op, needs: Vec::new(), optional: false, cause: Cause::Missing }
    }

    #[test]
    fn an_outcome_is_one_line() {
        let mut plain = Plain::default();
        let (step, what) = (StepId(0), start("demo-web-1"));
        let plan = Plan { steps: vec![what.clone()], notes: vec!["two orphans".into()], unchanged: vec![] };
        assert_eq!(plain.lines(&Event::Planned { plan }, Duration::ZERO), ["warning: two orphans"]);
        let started = Event::Started { step, what: what.clone(), at: Duration::ZERO };
        assert!(plain.lines(&started, Duration::ZERO).is_empty());
        let took = Duration::from_millis(200);
        let done = Event::Done { step, what, outcome: Outcome::default(), took };
        assert_eq!(plain.lines(&done, Duration::ZERO), [" Container demo-web-1  Started  0.2s"]);
    }

    #[test]
    fn a_skipped_step_names_what_failed() {
        let mut plain = Plain::default();
        let plan = Plan { steps: vec![start("demo-db-1"), start("demo-web-1")], ..Plan::default() };
        plain.lines(&Event::Planned { plan }, Duration::ZERO);
        let error = EngineError::new(ErrorKind::Other, "no");
        let failed = Event::Failed { step: StepId(0), what: start("demo-db-1"), error, took: Duration::ZERO };
        assert_eq!(plain.lines(&failed, Duration::ZERO), [" Container demo-db-1  Failed  0.0s"]);
        let skipped = Event::Skipped { step: StepId(1), what: start("demo-web-1"), because: Some(StepId(0)) };
        assert_eq!(
            plain.lines(&skipped, Duration::ZERO),
            [" Container demo-web-1  Skipped  Container demo-db-1 failed"]
        );
    }

    #[test]
    fn what_takes_long_is_heard_of_every_ten_seconds() {
        let mut plain = Plain::default();
        let started = Event::Started { step: StepId(0), what: start("demo-db-1"), at: Duration::ZERO };
        plain.lines(&started, Duration::ZERO);
        let doing = Detail::Doing("last probe: refused".into());
        plain.lines(&Event::Progress { step: StepId(0), detail: doing }, Duration::ZERO);
        assert!(plain.heartbeat(Duration::from_secs(9)).is_empty());
        assert_eq!(
            plain.heartbeat(Duration::from_secs(10)),
            [" Container demo-db-1  Starting  10.0s, last probe: refused"]
        );
        assert!(plain.heartbeat(Duration::from_secs(19)).is_empty());
    }
}
