//! `ficelle image`: what the engine's store holds.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use clap::Subcommand;

use super::{context::Context, failure::Failure, output};
use crate::{
    session::{ImageInfo, ImageRef, Silent},
    ui::{table::Table, time},
};

/// Look after images
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take the images of an archive (`docker save`, OCI layout) into the store
    Load {
        /// The archive: a tar file or a directory
        #[arg(short, long, value_name = "FILE")]
        input: PathBuf,

        /// Do not print what was loaded
        #[arg(short, long)]
        quiet: bool,
    },
    /// List images
    #[command(alias = "list")]
    Ls {
        /// How to print them
        #[arg(long, value_name = "FORMAT", default_value = "table")]
        format: Format,

        /// Print only ids
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove images
    #[command(alias = "remove")]
    Rm {
        /// Names of images
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,

        /// Remove names of images, too, that containers use
        #[arg(short, long)]
        force: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        match self.command {
            Command::Load { input, quiet } => load(context, &input, quiet).await,
            Command::Ls { format, quiet } => list(context, format, quiet).await,
            Command::Rm { images, force } => remove(context, &images, force).await,
        }
    }
}

async fn load(context: &Context, input: &std::path::Path, quiet: bool) -> Result<i32, Failure> {
    let engine = context.connect()?;
    let loaded = engine
        .load_image(input, Arc::new(Silent))
        .await
        .map_err(|error| Failure::of_engine(&error, context.source()))?;
    if !quiet {
        let lines: Vec<String> = loaded.iter().map(|name| format!("Loaded image: {name}")).collect();
        output::lines(lines.iter().map(String::as_str))?;
    }
    Ok(0)
}

async fn list(context: &Context, format: Format, quiet: bool) -> Result<i32, Failure> {
    let engine = context.connect()?;
    let images = engine.images().await.map_err(|error| Failure::of_engine(&error, context.source()))?;
    let lines = match (quiet, format) {
        (true, _) => images.iter().map(|image| short_id(image).to_owned()).collect(),
        (_, Format::Json) => rows(&images).iter().map(|row| row.json().to_string()).collect(),
        (_, Format::Table) => {
            let mut table = Table::new(&["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]);
            for row in rows(&images) {
                table.row(row.cells(SystemTime::now()));
            }
            table.lines()
        }
    };
    output::lines(lines.iter().map(String::as_str))?;
    Ok(0)
}

async fn remove(context: &Context, images: &[String], force: bool) -> Result<i32, Failure> {
    let engine = context.connect()?;
    let mut failed = None;
    for name in images {
        let removed = match name.parse::<ImageRef>() {
            Ok(image) => engine
                .remove_image(&image, force)
                .await
                .map_err(|error| Failure::of_engine(&error, context.source())),
            Err(error) => Err(Failure::failed(error.to_string())),
        };
        match removed {
            Ok(()) => output::text(&format!("Untagged: {name}\n"))?,
            // The others are removed all the same.
            Err(failure) => {
                if let Some(earlier) = failed.replace(failure) {
                    context.report(&earlier);
                }
            }
        }
    }
    failed.map_or(Ok(0), Err)
}

/// One reference of one image.
struct Row<'a> {
    repository: &'a str,
    tag: &'a str,
    image: &'a ImageInfo,
}

fn rows(images: &[ImageInfo]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for image in images {
        for reference in &image.references {
            let (repository, tag) = match reference.rsplit_once(':') {
                Some((repository, tag)) if !tag.contains('/') => (repository, tag),
                _ => (reference.as_str(), "<none>"),
            };
            rows.push(Row { repository, tag, image });
        }
        if image.references.is_empty() {
            rows.push(Row { repository: "<none>", tag: "<none>", image });
        }
    }
    rows.sort_by_key(|row| (row.repository, row.tag));
    rows
}

impl Row<'_> {
    fn cells(&self, now: SystemTime) -> Vec<String> {
        let age = self.image.created.map(|at| now.duration_since(at).unwrap_or_default());
        vec![
            self.repository.to_owned(),
            self.tag.to_owned(),
            short_id(self.image).to_owned(),
            age.map_or_else(|| "N/A".to_owned(), |age| format!("{} ago", time::rough(age))),
            size(self.image.size),
        ]
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "ID": self.image.id, "Repository": self.repository, "Tag": self.tag,
            "Platform": self.image.platform, "Size": self.image.size,
            "Created": self.image.created.map(time::rfc3339),
        })
    }
}

fn short_id(image: &ImageInfo) -> &str {
    let hex = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
    hex.get(..12).unwrap_or(hex)
}

/// `12.3MB`, in the units of docker.
fn size(bytes: u64) -> String {
    let (mut whole, mut tenths, mut units) = (bytes, 0, ["B", "kB", "MB", "GB", "TB"].iter());
    let mut unit = units.next().copied().unwrap_or("B");
    while whole >= 1000
        && let Some(next) = units.next()
    {
        tenths = whole % 1000 / 100;
        whole /= 1000;
        unit = next;
    }
    if unit == "B" { format!("{whole}B") } else { format!("{whole}.{tenths}{unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_row_for_each_name() {
        let image = ImageInfo {
            id: format!("sha256:{}", "ab".repeat(32)),
            references: vec!["redis:7".into(), "localhost:5000/x".into()],
            size: 12_345_678,
            created: None,
            platform: "linux/amd64".into(),
        };
        let images = [image];
        let cells: Vec<_> =
            rows(&images).iter().map(|row| row.cells(SystemTime::UNIX_EPOCH).join(" ")).collect();
        assert_eq!(
            cells,
            ["localhost:5000/x <none> abababababab N/A 12.3MB", "redis 7 abababababab N/A 12.3MB"]
        );
    }
}
