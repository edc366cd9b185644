//! `ficelle ps`.

use std::{collections::BTreeSet, time::SystemTime};

use serde_json::{Value, json};

use super::{
    context::{Context, select},
    failure::Failure,
    format::Format,
    output, publishers,
};
use crate::{
    session::{Container, ContainerState, Session, WithDependencies},
    ui::{
        table::{Table, shorten},
        time,
    },
};

/// List containers
///
/// Works without a Compose file when the project is named with `--project-name`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag as typed")]
pub(super) struct Args {
    /// Services whose containers are listed; every service when none is named
    #[arg(value_name = "SERVICE")]
    names: Vec<String>,

    /// List those, too, that do not run
    #[arg(short, long)]
    all: bool,

    /// Print only ids
    #[arg(short, long)]
    quiet: bool,

    /// How to print them: a table, one JSON object a line (`json`), or a template such as `{{.Name}}`
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    /// Print the names of the services
    #[arg(long = "services")]
    services_only: bool,

    /// List only containers in this state; may be given several times
    #[arg(long, value_name = "STATE")]
    status: Vec<Status>,

    /// List only containers that fit; `status=STATE` is known
    #[arg(long, value_name = "FILTER", value_parser = filter)]
    filter: Option<Status>,

    /// List containers, too, of services that the file no longer names
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    orphans: bool,

    /// Do not shorten anything
    #[arg(long)]
    no_trunc: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Status {
    Created,
    Running,
    Paused,
    Restarting,
    Exited,
    Dead,
    Removing,
}

fn filter(text: &str) -> Result<Status, String> {
    use clap::ValueEnum as _;

    match text.split_once('=') {
        Some(("status", state)) => Status::from_str(state, true),
        _ => Err("only `status=STATE` is known".into()),
    }
}

impl Status {
    fn fits(self, state: ContainerState) -> bool {
        match state {
            ContainerState::Created => self == Self::Created,
            ContainerState::Running => self == Self::Running,
            ContainerState::Paused => self == Self::Paused,
            ContainerState::Restarting => self == Self::Restarting,
            ContainerState::Exited(_) => self == Self::Exited,
            ContainerState::Dead => self == Self::Dead,
        }
    }
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open_or_adopt().await?;
        select(&session, &self.names, WithDependencies::No)?;
        let mut observed = session
            .observe()
            .await
            .map_err(|error| Failure::of_session(error, session.project(), context.source()))?;
        observed.containers.retain(|container| self.lists(&session, container));
        observed.containers.sort_by(|a, b| a.name.cmp(&b.name));
        let lines = self.lines(&observed.containers, SystemTime::now())?;
        output::lines(lines.iter().map(String::as_str))?;
        Ok(0)
    }

    fn lists(&self, session: &Session, container: &Container) -> bool {
        let known = session.project().services.contains_key(&container.service);
        let named = if self.names.is_empty() {
            known || self.orphans
        } else {
            self.names.contains(&container.service)
        };
        let mut wanted = self.status.iter().chain(&self.filter).peekable();
        let state = if wanted.peek().is_some() {
            wanted.any(|status| status.fits(container.state))
        } else {
            self.all || container.state.is_running()
        };
        named && state
    }

    fn lines(&self, containers: &[Container], now: SystemTime) -> Result<Vec<String>, Failure> {
        if self.quiet {
            return Ok(containers.iter().map(|container| container.id.0.clone()).collect());
        }
        if self.services_only {
            let services: BTreeSet<&str> = containers.iter().map(|c| c.service.as_str()).collect();
            return Ok(services.into_iter().map(ToOwned::to_owned).collect());
        }
        let objects = containers.iter().map(|container| self.object(container, now));
        self.format.lines(objects, || self.table(containers, now))
    }

    fn table(&self, containers: &[Container], now: SystemTime) -> Table {
        let mut table = Table::new(&["NAME", "IMAGE", "COMMAND", "SERVICE", "CREATED", "STATUS", "PORTS"]);
        for container in containers {
            table.row(vec![
                container.name.clone(),
                container.image.clone(),
                self.command(container),
                container.service.clone(),
                format!("{} ago", age(container.created, now)),
                status(container, now),
                publishers::text(&publishers::of(container)),
            ]);
        }
        table
    }
}

fn age(since: SystemTime, now: SystemTime) -> String {
    time::rough(now.duration_since(since).unwrap_or_default())
}

/// In the words of `docker ps`: `Up 2 minutes (healthy)`.
fn status(container: &Container, now: SystemTime) -> String {
    let up = || container.started.map_or_else(String::new, |since| age(since, now));
    let ago = || container.finished.map_or_else(|| "some time".to_owned(), |at| age(at, now));
    match container.state {
        ContainerState::Created => "Created".into(),
        ContainerState::Running => match container.health {
            Some(crate::session::Health::Starting) => format!("Up {} (health: starting)", up()),
            Some(health) => format!("Up {} ({})", up(), health.word()),
            None => format!("Up {}", up()),
        },
        ContainerState::Paused => format!("Up {} (Paused)", up()),
        ContainerState::Restarting => format!("Restarting ({} times) {} ago", container.restarts, ago()),
        ContainerState::Exited(Some(code)) => {
            let why = if container.out_of_memory { " (OOMKilled)" } else { "" };
            format!("Exited ({code}) {} ago{why}", ago())
        }
        ContainerState::Exited(None) if container.host_restarted => {
            format!("Exited (host restarted) {} ago", ago())
        }
        ContainerState::Exited(None) => format!("Exited (unknown) {} ago", ago()),
        ContainerState::Dead => "Dead".into(),
    }
}

impl Args {
    /// In quotes, shortened as `docker ps` does.
    fn command(&self, container: &Container) -> String {
        let width = if self.no_trunc { usize::MAX } else { 20 };
        format!("\"{}\"", shorten(&container.command.join(" "), width))
    }

    /// The keys of docker compose, in its order.
    fn object(&self, container: &Container, now: SystemTime) -> Value {
        let publishers = publishers::of(container);
        let labels: Vec<String> =
            container.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let volumes = container.mounts.iter().filter(|mount| !mount.starts_with('/')).count();
        let mut object = json!({
            "Command": self.command(container),
            "CreatedAt": time::readable(container.created),
            "ExitCode": container.state.exit_code(),
            "Health": container.health.map_or("", crate::session::Health::word),
            "ID": if self.no_trunc { &container.id.0 } else { container.id.short() },
            "Image": container.image,
            "Labels": labels.join(","),
            "LocalVolumes": volumes.to_string(),
            "Mounts": container.mounts.join(","),
            "Name": container.name,
            "Names": container.name,
            "Networks": container.networks.join(","),
            "Ports": publishers::text(&publishers),
            "Project": container.project,
            "Publishers": publishers::objects(&publishers),
            "RunningFor": format!("{} ago", age(container.created, now)),
            "Service": container.service,
            "Size": "0B",
            "State": container.state.word(),
            "Status": status(container, now),
        });
        // Docker's inspection has the key, its list has not.
        if let (true, Some(keys)) = (container.out_of_memory, object.as_object_mut()) {
            keys.insert("OOMKilled".to_owned(), Value::Bool(true));
        }
        object
    }
}
