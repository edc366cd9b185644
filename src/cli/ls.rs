//! `ficelle ls`.

use std::collections::BTreeMap;

use serde_json::json;

use super::{context::Context, failure::Failure, output};
use crate::{session::Container, ui::table::Table};

/// Label with the Compose files that a container was made from.
const FILES: &str = "com.docker.compose.project.config_files";

/// List the projects that have containers
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// List those, too, of which nothing runs
    #[arg(short, long)]
    all: bool,

    /// List only projects that fit; `name=TEXT` is known
    #[arg(long, value_name = "FILTER", value_parser = filter)]
    filter: Vec<String>,

    /// How to print them: a table, or a JSON list
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    /// Print only names
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

fn filter(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("name", part)) => Ok(part.to_owned()),
        _ => Err("only `name=TEXT` is known".into()),
    }
}

struct Found {
    name: String,
    status: String,
    files: String,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let engine = context.connect()?;
        let failed = |error| Failure::of_engine(&error, context.source());
        let mut projects: BTreeMap<String, Vec<Container>> = BTreeMap::new();
        for container in engine.everything().await.map_err(failed)? {
            if !container.is_one_off() {
                projects.entry(container.project.clone()).or_default().push(container);
            }
        }
        projects.retain(|name, containers| {
            let runs = self.all || containers.iter().any(|container| container.state.is_running());
            runs && (self.filter.is_empty() || self.filter.iter().any(|part| name.contains(part)))
        });
        let found: Vec<Found> = projects.into_iter().map(|(name, all)| describe(name, &all)).collect();
        if self.quiet {
            output::lines(found.iter().map(|project| project.name.as_str()))?;
        } else if self.format == Format::Json {
            let list: Vec<_> = found
                .iter()
                .map(|found| json!({"Name": found.name, "Status": found.status, "ConfigFiles": found.files}))
                .collect();
            output::lines([json!(list).to_string().as_str()])?;
        } else {
            let mut table = Table::new(&["NAME", "STATUS", "CONFIG FILES"]);
            found.into_iter().for_each(|found| table.row(vec![found.name, found.status, found.files]));
            output::lines(table.lines().iter().map(String::as_str))?;
        }
        Ok(0)
    }
}

/// `running(2), exited(1)`.
fn describe(name: String, containers: &[Container]) -> Found {
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    containers.iter().for_each(|container| *states.entry(container.state.word()).or_default() += 1);
    let status: Vec<String> =
        states.into_iter().rev().map(|(state, count)| format!("{state}({count})")).collect();
    let mut files: Vec<&str> =
        containers.iter().filter_map(|c| c.labels.get(FILES)).flat_map(|files| files.split(',')).collect();
    files.sort_unstable();
    files.dedup();
    Found { name, status: status.join(", "), files: files.join(",") }
}
