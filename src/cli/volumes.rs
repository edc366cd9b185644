//! `ficelle volumes`.

use serde_json::json;

use super::{
    context::{Context, select},
    failure::Failure,
    format::Format,
    output,
};
use crate::{session::WithDependencies, ui::table::Table};

/// List the volumes of the project
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services whose volumes are listed; all volumes when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// How to print them: a table, one JSON object a line (`json`), or a template such as `{{.Name}}`
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    /// Print only names
    #[arg(short, long)]
    quiet: bool,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open_or_adopt().await?;
        let selection = select(&session, &self.services, WithDependencies::No)?;
        let failure = |error| Failure::of_session(error, session.project(), context.source());
        let observed = session.observe().await.map_err(failure)?;
        let used = |name: &String| {
            let containers = observed.containers.iter().filter(|c| selection.contains(&c.service));
            !selection.partial || containers.into_iter().any(|container| container.mounts.contains(name))
        };
        let volumes: Vec<_> = observed.volumes.iter().filter(|(name, _)| used(name)).collect();
        if self.quiet {
            output::lines(volumes.iter().map(|(name, _)| name.as_str()))?;
            return Ok(0);
        }
        let objects = volumes.iter().map(|(name, info)| {
            let labels: Vec<String> =
                info.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            json!({"Name": name, "Driver": "local", "Scope": "local", "Labels": labels.join(",")})
        });
        let table = || {
            let mut table = Table::new(&["VOLUME NAME", "DRIVER"]);
            volumes.iter().for_each(|(name, _)| table.row(vec![(*name).clone(), "local".to_owned()]));
            table
        };
        let lines = self.format.lines(objects, table)?;
        output::lines(lines.iter().map(String::as_str))?;
        Ok(0)
    }
}
