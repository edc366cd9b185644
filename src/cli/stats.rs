//! `ficelle stats`.

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    context::{Context, select},
    failure::Failure,
    format::Format,
    output,
};
use crate::{
    session::{Container, Session, SessionError, Usage, WithDependencies},
    ui::table::Table,
};

/// Show what containers use
///
/// Goes on until it is stopped. `%` of processors is of one: two that are busy are 200 %.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services; every service when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// Show those, too, that do not run
    #[arg(short, long)]
    all: bool,

    /// How to print it: a table, one JSON object a line (`json`), or a template such as `{{.Name}}`
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    /// Print the first result and end
    #[arg(long)]
    no_stream: bool,

    /// Do not shorten anything
    #[arg(long)]
    no_trunc: bool,
}

/// Between two looks.
const SECOND: Duration = Duration::from_secs(1);

/// When it was taken, by name.
type Sample = (Instant, BTreeMap<String, Usage>);

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open_or_adopt().await?;
        let mut before = self.look(context, &session).await?.1;
        // A screen is drawn over; a file gets one picture after the other.
        let in_place = matches!(self.format, Format::Table | Format::Columns(_));
        let redraw = !self.no_stream && in_place && std::io::stdout().is_terminal();
        loop {
            tokio::time::sleep(SECOND).await;
            let (containers, now) = self.look(context, &session).await?;
            let lines = self.lines(&containers, &before, &now)?;
            if redraw {
                output::text("\u{1b}[H\u{1b}[J")?;
            }
            output::lines(lines.iter().map(String::as_str))?;
            if self.no_stream {
                return Ok(0);
            }
            before = now;
        }
    }

    async fn look(&self, context: &Context, session: &Session) -> Result<(Vec<Container>, Sample), Failure> {
        let selection = select(session, &self.services, WithDependencies::No)?;
        let failure = |error| Failure::of_session(error, session.project(), context.source());
        let mut containers = session.observe().await.map_err(failure)?.containers;
        containers.retain(|c| selection.contains(&c.service) && (self.all || c.state.is_running()));
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        let ids: Vec<_> = containers.iter().map(|container| container.id.clone()).collect();
        let usage = session.engine().usage(&session.project().name, &ids).await;
        let usage = usage.map_err(|error| failure(SessionError::Engine(error)))?;
        let by_name = usage.into_iter().map(|usage| (usage.container.clone(), usage)).collect();
        Ok((containers, (Instant::now(), by_name)))
    }

    fn lines(&self, containers: &[Container], before: &Sample, now: &Sample) -> Result<Vec<String>, Failure> {
        let rows = || containers.iter().map(|container| self.row(container, before, now));
        let objects = rows().map(|row| {
            let names = ["ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"];
            let cells = names.into_iter().map(str::to_owned).zip(row.into_iter().map(|cell| json!(cell)));
            let mut object: serde_json::Map<String, serde_json::Value> = cells.collect();
            object.insert("Container".to_owned(), object["ID"].clone());
            serde_json::Value::Object(object)
        });
        let table = || {
            let mut table = Table::new(&[
                "CONTAINER ID",
                "NAME",
                "CPU %",
                "MEM USAGE / LIMIT",
                "MEM %",
                "NET I/O",
                "BLOCK I/O",
                "PIDS",
            ]);
            rows().for_each(|row| table.row(row));
            table
        };
        self.format.lines(objects, table)
    }

    fn row(&self, container: &Container, before: &Sample, now: &Sample) -> Vec<String> {
        let id = if self.no_trunc { container.id.0.as_str() } else { container.id.short() };
        let Some(usage) = now.1.get(&container.name) else {
            let none = |text: &str| text.to_owned();
            let name = container.name.clone();
            return vec![
                id.to_owned(),
                name,
                none("--"),
                none("-- / --"),
                none("--"),
                none("--"),
                none("--"),
                none("--"),
            ];
        };
        let cpu = before.1.get(&container.name).map_or(0, |before| usage.cpu.saturating_sub(before.cpu));
        let span = now.0.duration_since(before.0).as_nanos().max(1);
        vec![
            id.to_owned(),
            container.name.clone(),
            percent(u128::from(cpu), span),
            format!("{} / {}", binary(usage.memory), binary(usage.memory_limit)),
            percent(usage.memory.into(), u128::from(usage.memory_limit.max(1))),
            format!("{} / {}", decimal(usage.received), decimal(usage.sent)),
            format!("{} / {}", decimal(usage.read), decimal(usage.written)),
            usage.tasks.to_string(),
        ]
    }
}

fn percent(part: u128, whole: u128) -> String {
    let hundredths = part * 10_000 / whole;
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

/// `1.5MiB`.
fn binary(bytes: u64) -> String {
    scaled(bytes, 1024, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// `1.5MB`.
fn decimal(bytes: u64) -> String {
    scaled(bytes, 1000, &["B", "kB", "MB", "GB", "TB"])
}

fn scaled(bytes: u64, step: u64, units: &[&str]) -> String {
    let (mut unit, mut size) = (0, 1);
    while bytes / size >= step && unit + 1 < units.len() {
        (unit, size) = (unit + 1, size * step);
    }
    let tenths = u128::from(bytes) * 10 / u128::from(size);
    match (unit, tenths % 10) {
        (0, _) | (_, 0) => format!("{}{}", tenths / 10, units[unit]),
        (_, rest) => format!("{}.{rest}{}", tenths / 10, units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(binary(0), "0B");
        assert_eq!(binary(1536), "1.5KiB");
        assert_eq!(binary(20 << 30), "20GiB");
        assert_eq!(decimal(1_250_000), "1.2MB");
        assert_eq!(percent(15, 1000), "1.50%");
    }
}
