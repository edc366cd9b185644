//! `ficelle events`.

use std::{collections::BTreeMap, time::SystemTime};

use serde_json::json;
use tokio::sync::mpsc;

use super::{
    context::{Context, select},
    failure::Failure,
    output, when,
};
use crate::{
    session::{Container, ContainerState, Health, Selection, Session, SessionError, WithDependencies},
    ui::time,
};

/// Tell what happens to containers
///
/// Goes on until it is stopped, or until `--until`. What happened before is told as far as the
/// containers that are there show it: when each was made, started and ended last.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services; every service when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// Print each as a JSON object
    #[arg(long)]
    json: bool,

    /// Tell, too, what happened since this date or for this long (`10m`)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// Tell only what happens before this date
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

struct Told {
    time: SystemTime,
    action: String,
    container: Container,
}

/// By id.
type Picture = BTreeMap<String, Container>;

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let now = SystemTime::now();
        let point = |text: &Option<String>| {
            text.as_deref().map(|text| when::point(text, now)).transpose().map_err(Failure::failed)
        };
        let (since, until) = (point(&self.since)?, point(&self.until)?);
        let session = context.open_or_adopt().await?;
        let selection = select(&session, &self.services, WithDependencies::No)?;
        let mut before = picture(context, &session, &selection).await?;
        let past = since.map(|since| history(&before, since)).unwrap_or_default();
        self.print(past.iter().filter(|told| until.is_none_or(|until| told.time <= until)))?;
        if until.is_some_and(|until| until <= SystemTime::now()) {
            return Ok(0);
        }
        let (sink, mut changes) = mpsc::channel(1);
        let failure = |error| Failure::of_session(error, session.project(), context.source());
        let watching = session.engine().changes(&session.project().name, sink);
        let end = async {
            match until.and_then(|until| until.duration_since(SystemTime::now()).ok()) {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(watching, end);
        loop {
            tokio::select! {
                watched = &mut watching => {
                    watched.map_err(|error| failure(SessionError::Engine(error)))?;
                    return Ok(0);
                }
                () = &mut end => return Ok(0),
                Some(()) = changes.recv() => {
                    let now = picture(context, &session, &selection).await?;
                    self.print(differences(&before, &now).iter())?;
                    before = now;
                }
            }
        }
    }

    fn print<'a>(&self, told: impl Iterator<Item = &'a Told>) -> Result<(), Failure> {
        let lines: Vec<String> = told.map(|told| if self.json { object(told) } else { line(told) }).collect();
        output::lines(lines.iter().map(String::as_str))
    }
}

async fn picture(context: &Context, session: &Session, selection: &Selection) -> Result<Picture, Failure> {
    let failure = |error| Failure::of_session(error, session.project(), context.source());
    let containers = session.observe().await.map_err(failure)?.containers.into_iter();
    let chosen = containers.filter(|c| selection.contains(&c.service) && !c.is_one_off());
    Ok(chosen.map(|container| (container.id.0.clone(), container)).collect())
}

/// What the containers that are there show of the time after `since`, in order.
fn history(picture: &Picture, since: SystemTime) -> Vec<Told> {
    let mut told = Vec::new();
    for container in picture.values() {
        let ended = match container.state {
            ContainerState::Running | ContainerState::Paused => None,
            _ => container.finished,
        };
        let steps = [(Some(container.created), "create"), (container.started, "start"), (ended, "die")];
        for (time, action) in steps {
            if let Some(time) = time.filter(|time| *time >= since) {
                told.push(Told { time, action: action.to_owned(), container: container.clone() });
            }
        }
    }
    told.sort_by_key(|told| told.time);
    told
}

fn differences(before: &Picture, now: &Picture) -> Vec<Told> {
    let mut told = Vec::new();
    for (id, container) in now {
        let old = before.get(id);
        let mut tell = |action: &str, time: Option<SystemTime>| {
            let time = time.unwrap_or_else(SystemTime::now);
            told.push(Told { time, action: action.to_owned(), container: container.clone() });
        };
        if old.is_none() {
            tell("create", Some(container.created));
        }
        let was = old.map(|old| old.state);
        let ran = matches!(was, Some(ContainerState::Running | ContainerState::Paused));
        let runs = matches!(container.state, ContainerState::Running | ContainerState::Paused);
        let again = container.started.is_some() && container.started != old.and_then(|old| old.started);
        if ran && (!runs || again) {
            tell("die", container.finished);
        }
        if again {
            tell("start", container.started);
            // Over before anybody looked.
            if !runs {
                tell("die", container.finished);
            }
        }
        match (was, container.state) {
            (Some(ContainerState::Running), ContainerState::Paused) => tell("pause", None),
            (Some(ContainerState::Paused), ContainerState::Running) if !again => tell("unpause", None),
            _ => {}
        }
        let health = container.health.filter(|health| *health != Health::Starting);
        if let Some(health) = health.filter(|health| old.and_then(|old| old.health) != Some(*health)) {
            tell(&format!("health_status: {}", health.word()), None);
        }
    }
    for (_, container) in before.iter().filter(|(id, _)| !now.contains_key(*id)) {
        let (time, action) = (SystemTime::now(), "destroy".to_owned());
        told.push(Told { time, action, container: container.clone() });
    }
    told
}

/// Labels of the user, and the facts of the event.
fn attributes(told: &Told) -> BTreeMap<String, String> {
    let labels = told.container.labels.iter().filter(|(name, _)| !name.starts_with("com.docker.compose."));
    let mut all: BTreeMap<String, String> =
        labels.map(|(name, value)| (name.clone(), value.clone())).collect();
    all.insert("image".to_owned(), told.container.image.clone());
    all.insert("name".to_owned(), told.container.name.clone());
    if let ("die", state @ ContainerState::Exited(_)) = (told.action.as_str(), told.container.state) {
        all.insert("exitCode".to_owned(), state.exit_code().to_string());
        if told.container.host_restarted {
            all.insert("cause".to_owned(), "host restarted".to_owned());
        }
    }
    all
}

fn object(told: &Told) -> String {
    json!({
        "time": time::rfc3339(told.time),
        "type": "container",
        "service": told.container.service,
        "id": told.container.id.0,
        "action": told.action,
        "attributes": attributes(told),
    })
    .to_string()
}

/// `2026-11-21 08:00:00.000000 container start ID (image=busybox, name=web-1)`.
fn line(told: &Told) -> String {
    let stamp = time::rfc3339(told.time);
    let stamp = stamp.get(..26).unwrap_or(&stamp).replace('T', " ");
    let attributes: Vec<String> =
        attributes(told).iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{stamp} container {} {} ({})", told.action, told.container.id, attributes.join(", "))
}
