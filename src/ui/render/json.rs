//! One JSON object for each event: the keys of docker compose, and `v`, `kind`, `reason`,
//! `duration_ms` beside them.

use serde_json::{Map, Value, json};

use super::words::{doing, done, subject};
use crate::{
    apply::{Event, Step},
    engine::Detail,
};

/// The object of `event` on one line; `None` for what has none.
#[must_use]
pub fn line(event: &Event) -> Option<String> {
    let object = match event {
        Event::Planned { plan } => {
            let lines: Vec<String> = plan
                .notes
                .iter()
                .map(|note| json!({"v": 1, "level": "warning", "message": note}).to_string())
                .chain(plan.unchanged.iter().map(|name| {
                    json!({"v": 1, "id": format!("Container {name}"), "kind": "container",
                           "status": "Done", "text": "Running", "duration_ms": 0})
                    .to_string()
                }))
                .collect();
            return (!lines.is_empty()).then(|| lines.join("\n"));
        }
        Event::WaitingForLock { holder } => {
            json!({"v": 1, "level": "warning", "message": format!("waiting: {holder}")})
        }
        Event::Started { what, .. } => about(what, "Working", doing(&what.op)),
        Event::Progress { detail, step } => progress(step.0, detail),
        Event::Done { what, outcome, took, .. } => {
            let mut object = about(what, "Done", done(&what.op, outcome));
            object["duration_ms"] = json!(took.as_millis());
            object
        }
        Event::Failed { what, error, took, .. } => {
            let mut object = about(what, "Error", "Failed");
            object["details"] = json!(error.to_string());
            object["duration_ms"] = json!(took.as_millis());
            object
        }
        Event::Skipped { what, .. } => about(what, "Warning", "Skipped"),
    };
    Some(object.to_string())
}

/// A failure of the whole command.
#[must_use]
pub fn error(message: &str) -> String {
    json!({"v": 1, "error": true, "message": message}).to_string()
}

/// A remark of the command itself.
#[must_use]
pub fn note(level: &str, message: &str) -> String {
    json!({"v": 1, "level": level, "message": message}).to_string()
}

fn about(step: &Step, status: &str, text: &str) -> Value {
    let subject = subject(&step.op);
    json!({
        "v": 1, "id": subject.to_string(), "kind": subject.kind.to_lowercase(),
        "status": status, "text": text, "reason": step.cause.to_string(),
    })
}

fn progress(step: usize, detail: &Detail) -> Value {
    let mut object = Map::from_iter([("v".to_owned(), json!(1)), ("status".to_owned(), json!("Working"))]);
    object.insert("step".into(), json!(step));
    match detail {
        Detail::Doing(text) => {
            object.insert("details".into(), json!(text));
        }
        Detail::Line(line) => {
            object.insert("output".into(), json!(line));
        }
        Detail::Bytes { what, done, total } => {
            object.insert("details".into(), json!(what));
            object.insert("current".into(), json!(done));
            if *total > 0 {
                object.insert("total".into(), json!(total));
                object.insert("percent".into(), json!(done.saturating_mul(100) / total));
            }
        }
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        apply::{Cause, StepId},
        engine::{Op, Outcome},
    };

    #[test]
    fn an_event_is_one_object_with_the_keys_of_compose() {
        let op = Op::Start { project: "demo".into(), name: "demo-web-1".into() };
        let what = Step { op, needs: Vec::new(), optional: false, cause: Cause::Missing };
        let took = Duration::from_millis(12);
        let event = Event::Done { step: StepId(0), what, outcome: Outcome::default(), took };
        let value: Value = serde_json::from_str(&line(&event).unwrap()).unwrap();
        assert_eq!(value["id"], "Container demo-web-1");
        assert_eq!(value["status"], "Done");
        assert_eq!(value["text"], "Started");
        assert_eq!(value["duration_ms"], 12);
    }
}
