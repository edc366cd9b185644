//! What containers say: printed in order of time, or followed as it comes.

use std::{collections::BTreeSet, ops::ControlFlow};

use tokio::sync::mpsc;

use super::{Embedded, error};
use crate::{
    engine::{EngineError, LogItem, LogQuery, Stream},
    runtime::{ContainerRecord, LogRecord, LogRequest, Phase},
};

/// Records of one container that wait to be merged.
const AHEAD: usize = 64;

fn request(query: &LogQuery) -> LogRequest {
    LogRequest { tail: query.tail, since: query.since, until: query.until, follow: query.follow }
}

async fn chosen(engine: &Embedded, query: &LogQuery) -> Result<Vec<ContainerRecord>, EngineError> {
    let project = query.project.clone();
    let mut records = engine
        .blocking(move |engine| {
            let listed = engine.core.containers(Some(&project));
            listed.map_err(|error| error::runtime(&error, "containers cannot be listed"))
        })
        .await?;
    records.retain(|record| query.containers.is_empty() || query.containers.contains(&record.config.name));
    Ok(records)
}

/// Reads the log of one container on a thread of its own, into a channel.
fn read(
    engine: &Embedded,
    record: &ContainerRecord,
    query: &LogQuery,
    sink: mpsc::Sender<LogItem>,
) -> Reading {
    let (core, project, request) = (engine.core.clone(), query.project.clone(), request(query));
    let (id, name) = (record.config.id.clone(), record.config.name.clone());
    tokio::task::spawn_blocking(move || {
        let mut pass_on = |record: LogRecord| {
            let item = item(&name, record);
            if sink.blocking_send(item).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        core.logs(&project, &id, &request, &mut pass_on)
            .map_err(|error| error::runtime(&error, format!("the output of {name} cannot be read")))
    })
}

type Reading = tokio::task::JoinHandle<Result<(), EngineError>>;

fn item(container: &str, record: LogRecord) -> LogItem {
    let container = container.to_owned();
    match record {
        LogRecord::Line { stderr, time, text } => {
            let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
            LogItem::Line { container, stream, time, text }
        }
        // The runtime writes -1 where nobody learnt the code.
        LogRecord::Exited { exit, restarting } => {
            LogItem::Exited { container, code: Some(exit).filter(|code| *code >= 0), restarting }
        }
    }
}

/// Everything up to now, the lines of all containers merged by their time.
pub(super) async fn print(
    engine: &Embedded,
    query: &LogQuery,
    sink: mpsc::Sender<LogItem>,
) -> Result<(), EngineError> {
    let mut sources = Vec::new();
    for record in chosen(engine, query).await? {
        let (tell, lines) = mpsc::channel(AHEAD);
        sources.push((read(engine, &record, query, tell), lines));
    }
    let mut heads = Vec::new();
    for (_, lines) in &mut sources {
        heads.push(next_line(lines).await);
    }
    loop {
        let oldest = heads.iter().enumerate().filter_map(|(at, head)| Some((time(head.as_ref()?), at))).min();
        let Some((_, at)) = oldest else { break };
        let next = next_line(&mut sources[at].1).await;
        let Some(line) = std::mem::replace(&mut heads[at], next) else { break };
        if sink.send(line).await.is_err() {
            return Ok(());
        }
    }
    for (reading, _) in sources {
        ended(reading).await?;
    }
    Ok(())
}

/// The next line; ends are not part of what was written.
async fn next_line(lines: &mut mpsc::Receiver<LogItem>) -> Option<LogItem> {
    loop {
        match lines.recv().await? {
            LogItem::Exited { .. } => {}
            line => return Some(line),
        }
    }
}

fn time(item: &LogItem) -> std::time::SystemTime {
    match item {
        LogItem::Line { time, .. } => *time,
        LogItem::Exited { .. } => std::time::UNIX_EPOCH,
    }
}

async fn ended(reading: Reading) -> Result<(), EngineError> {
    reading.await.unwrap_or_else(|error| {
        Err(EngineError::new(crate::engine::ErrorKind::Other, "bug while reading output").caused_by(&error))
    })
}

/// Goes on until every container has ended for good. Containers that come later are followed too.
pub(super) async fn follow(
    engine: &Embedded,
    query: &LogQuery,
    sink: mpsc::Sender<LogItem>,
) -> Result<(), EngineError> {
    let mut changes = watch(engine, query, sink.downgrade());
    let mut readings = tokio::task::JoinSet::new();
    let mut met = BTreeSet::new();
    loop {
        let records = chosen(engine, query).await?;
        for record in &records {
            // One that was never started has nothing to say yet.
            if record.phase != Phase::Created && met.insert(record.config.id.clone()) {
                readings.spawn(ended(read(engine, record, query, sink.clone())));
            }
        }
        if readings.is_empty() {
            return Ok(());
        }
        tokio::select! {
            Some(read) = readings.join_next() => match read {
                Ok(read) => read?,
                Err(error) => {
                    let bug = EngineError::new(crate::engine::ErrorKind::Other, "bug while reading output");
                    return Err(bug.caused_by(&error));
                }
            },
            Some(()) = changes.recv() => {}
            () = sink.closed() => return Ok(()),
        }
    }
}

/// Hears of every change in the project. Its thread ends with the first change after nobody listens.
///
/// It holds the listener weakly: what it waits for may never come.
fn watch(engine: &Embedded, query: &LogQuery, sink: mpsc::WeakSender<LogItem>) -> mpsc::Receiver<()> {
    // One pending word is enough: the listener looks at everything when it hears it.
    let (tell, changes) = mpsc::channel(1);
    let (core, project) = (engine.core.clone(), query.project.clone());
    tokio::task::spawn_blocking(move || {
        // Without news of changes the containers met so far are still followed to their end.
        let _ = core.watch(&project, &mut || {
            if tell.is_closed() || sink.upgrade().is_none_or(|sink| sink.is_closed()) {
                return ControlFlow::Break(());
            }
            let _ = tell.try_send(());
            ControlFlow::Continue(())
        });
    });
    changes
}
