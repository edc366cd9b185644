//! `ficelle images`.

use std::{collections::BTreeSet, time::SystemTime};

use serde_json::{Value, json};

use super::{
    context::{Context, select},
    failure::Failure,
    image::{parts, size},
    ls::Format,
    output,
};
use crate::{
    session::{Container, ImageInfo, ImageRef, SessionError, WithDependencies},
    ui::{table::Table, time},
};

/// List the images that containers were made from
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services whose images are listed; every service when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// How to print them: a table, or a JSON array
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    /// Print only ids
    #[arg(short, long)]
    quiet: bool,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open_or_adopt().await?;
        let selection = select(&session, &self.services, WithDependencies::No)?;
        let failure = |error| Failure::of_session(error, session.project(), context.source());
        let mut containers = session.observe().await.map_err(failure)?.containers;
        containers.retain(|container| !selection.partial || selection.contains(&container.service));
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        let images = session.engine().images().await.map_err(|error| failure(SessionError::Engine(error)))?;
        let rows: Vec<Row<'_>> = containers.iter().map(|container| Row::of(container, &images)).collect();
        if self.quiet {
            let ids: BTreeSet<&str> = rows.iter().map(|row| digits(row.id)).collect();
            output::lines(ids)?;
        } else if self.format == Format::Json {
            let list: Vec<Value> = rows.iter().map(Row::json).collect();
            output::lines([Value::Array(list).to_string().as_str()])?;
        } else {
            let header = ["CONTAINER", "REPOSITORY", "TAG", "PLATFORM", "IMAGE ID", "SIZE", "CREATED"];
            let mut table = Table::new(&header);
            rows.iter().for_each(|row| table.row(row.cells(SystemTime::now())));
            output::lines(table.lines().iter().map(String::as_str))?;
        }
        Ok(0)
    }
}

/// Without the name of the algorithm.
fn digits(id: &str) -> &str {
    id.strip_prefix("sha256:").unwrap_or(id)
}

/// A container and its image, which may have lost its name, or be gone.
struct Row<'a> {
    container: &'a str,
    id: &'a str,
    repository: String,
    tag: String,
    info: Option<&'a ImageInfo>,
}

impl<'a> Row<'a> {
    fn of(container: &'a Container, images: &'a [ImageInfo]) -> Self {
        let info = images.iter().find(|image| image.id == container.image_id);
        let parse = |name: &str| name.parse::<ImageRef>().ok();
        let wanted = parse(&container.image);
        let mut names = info.into_iter().flat_map(|info| &info.references).filter_map(|name| parse(name));
        let own = names.clone().find(|name| Some(name) == wanted.as_ref()).or_else(|| names.next());
        let (repository, tag) = match &own {
            Some(name) => {
                let name = name.familiar();
                let (repository, tag) = parts(&name);
                (repository.to_owned(), tag.to_owned())
            }
            None => ("<none>".to_owned(), "<none>".to_owned()),
        };
        Self { container: &container.name, id: &container.image_id, repository, tag, info }
    }

    fn cells(&self, now: SystemTime) -> Vec<String> {
        let age = self.info.and_then(|info| info.created);
        let age = age.map(|at| format!("{} ago", time::rough(now.duration_since(at).unwrap_or_default())));
        vec![
            self.container.to_owned(),
            self.repository.clone(),
            self.tag.clone(),
            self.info.map_or_else(String::new, |info| info.platform.clone()),
            digits(self.id).chars().take(12).collect(),
            self.info.map_or_else(String::new, |info| size(info.size)),
            age.unwrap_or_else(|| "N/A".to_owned()),
        ]
    }

    /// The keys of docker compose.
    fn json(&self) -> Value {
        let mut object = json!({
            "ID": self.id,
            "ContainerName": self.container,
            "Repository": self.repository,
            "Tag": self.tag,
            "Platform": self.info.map_or("", |info| info.platform.as_str()),
            "Size": self.info.map_or(0, |info| info.size),
        });
        let created = self.info.and_then(|info| info.created);
        if let (Some(created), Some(keys)) = (created, object.as_object_mut()) {
            keys.insert("Created".to_owned(), time::rfc3339(created).into());
        }
        object
    }
}
