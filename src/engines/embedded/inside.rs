//! What containers use, the processes in them, and word of their changes.

use std::ops::ControlFlow;

use tokio::sync::mpsc;

use super::{Embedded, error, observe};
use crate::{
    engine::{Container, ContainerId, EngineError, ProcessInfo, Usage},
    runtime,
};

pub(super) async fn usage(
    engine: &Embedded,
    project: &str,
    containers: &[ContainerId],
) -> Result<Vec<Usage>, EngineError> {
    let (project, containers) = (project.to_owned(), containers.to_owned());
    engine
        .blocking(move |engine| {
            let records = listed(engine, Some(&project))?;
            let mut all = Vec::new();
            for record in records.iter().filter(|record| containers.iter().any(|id| id.0 == record.config.id))
            {
                // One that has just ended uses nothing.
                if let Ok(Some(usage)) = engine.core.usage(&project, &record.config.id) {
                    all.push(told(&record.config.name, usage));
                }
            }
            Ok(all)
        })
        .await
}

fn told(name: &str, usage: runtime::Usage) -> Usage {
    let runtime::Usage { cpu, memory, memory_limit, tasks, received, sent, read, written } = usage;
    let cpu = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
    Usage { container: name.to_owned(), cpu, memory, memory_limit, tasks, received, sent, read, written }
}

fn listed(engine: &Embedded, project: Option<&str>) -> Result<Vec<runtime::ContainerRecord>, EngineError> {
    let listed = engine.core.containers(project);
    listed.map_err(|error| error::runtime(&error, "containers cannot be listed"))
}

pub(super) async fn processes(
    engine: &Embedded,
    project: &str,
    container: &ContainerId,
) -> Result<Vec<ProcessInfo>, EngineError> {
    let (project, id) = (project.to_owned(), container.0.clone());
    engine
        .blocking(move |engine| {
            let found = engine.core.processes(&project, &id);
            let found = found.map_err(|error| error::runtime(&error, "processes cannot be listed"))?;
            let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            Ok(found.into_iter().map(|process| info(process, &users)).collect())
        })
        .await
}

fn info(process: runtime::ProcessRecord, users: &str) -> ProcessInfo {
    let runtime::ProcessRecord { pid, parent, uid, age, busy, tty, command } = process;
    let cpu = (busy.as_millis() * 100).checked_div(age.as_millis()).unwrap_or(0);
    // Device 136 and above: the pseudo terminals.
    let tty = match (tty >> 8, tty & 0xff) {
        (136..=143, number) => format!("pts/{number}"),
        _ => "?".to_owned(),
    };
    ProcessInfo {
        user: user(uid, users),
        pid,
        parent,
        cpu: u64::try_from(cpu).unwrap_or(0),
        age: age.as_secs(),
        busy: busy.as_secs(),
        tty,
        command,
    }
}

/// As the host calls it, like `ps`.
fn user(uid: u32, users: &str) -> String {
    let number = uid.to_string();
    let name = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    };
    users.lines().find_map(name).unwrap_or(number)
}

pub(super) async fn everything(engine: &Embedded) -> Result<Vec<Container>, EngineError> {
    engine.blocking(|engine| Ok(listed(engine, None)?.iter().filter_map(observe::container).collect())).await
}

/// Its thread ends with the first change after nobody listens.
pub(super) async fn changes(
    engine: &Embedded,
    project: &str,
    sink: mpsc::Sender<()>,
) -> Result<(), EngineError> {
    let project = project.to_owned();
    let listens = sink.clone();
    let watching = engine.blocking(move |engine| {
        let watched = engine.core.watch(&project, &mut || {
            if sink.is_closed() {
                return ControlFlow::Break(());
            }
            // One word that waits is enough.
            let _ = sink.try_send(());
            ControlFlow::Continue(())
        });
        watched.map_err(|error| error::runtime(&error, "containers cannot be watched"))
    });
    tokio::select! {
        watched = watching => watched,
        () = listens.closed() => Ok(()),
    }
}
