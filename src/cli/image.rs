//! `ficelle image`: what the engine's store holds.

use std::{collections::BTreeSet, io::IsTerminal as _, path::PathBuf, sync::Arc, time::SystemTime};

use clap::Subcommand;

use super::{context::Context, failure::Failure, format::Format, output, when};
use crate::{
    session::{ImageAct, ImageAnswer, ImageInfo, ImageRef, ImageRefError, LabelFilter, Prune, Silent},
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
    /// Show how an image came about
    History {
        /// A name or id
        #[arg(value_name = "IMAGE")]
        image: String,

        /// Do not shorten what was run
        #[arg(long)]
        no_trunc: bool,
    },
    /// Make an image of one layer from the tar of a file system
    Import {
        /// The tar, plain or compressed; `-` is standard input
        #[arg(value_name = "FILE")]
        input: PathBuf,

        /// Its name
        #[arg(value_name = "IMAGE")]
        image: Option<String>,

        /// Instruction of a Dockerfile to apply, such as `CMD ["sh"]`; may be given several times
        #[arg(short, long, value_name = "INSTRUCTION")]
        change: Vec<String>,

        /// What its history says
        #[arg(short, long, value_name = "TEXT", default_value = "")]
        message: String,

        /// What it is for (`os/arch[/variant]`)
        #[arg(long, value_name = "PLATFORM")]
        platform: Option<String>,
    },
    /// Show all that is known of images, as JSON
    Inspect {
        /// Names or ids
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,
    },
    /// Remove images that nothing uses
    ///
    /// Without `--all` those that have no name any more.
    Prune {
        /// Every image that no container uses
        #[arg(short, long)]
        all: bool,

        /// What builds keep for the next one, too
        #[arg(long)]
        build_cache: bool,

        /// Only some: what was made before `until=24h` or `until=2026-11-21T08:00:00Z`, what has `label=NAME` or
        /// `label=NAME=VALUE`, what has not: `label!=NAME`
        #[arg(long, value_name = "FILTER")]
        filter: Vec<String>,

        /// Do not ask (this version asks nothing)
        #[arg(short, long)]
        force: bool,
    },
    /// Pull images from their registries
    Pull {
        /// Names of images
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,

        /// For another machine (`os/arch[/variant]`)
        #[arg(long, value_name = "PLATFORM")]
        platform: Option<String>,

        /// Print only ids
        #[arg(short, long)]
        quiet: bool,
    },
    /// Push images to the registries of their names
    Push {
        /// Names of images
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,

        /// Print only digests
        #[arg(short, long)]
        quiet: bool,
    },
    /// Write images into an archive that `docker load` and `ficelle image load` take
    ///
    /// It is an OCI layout and a docker archive at once.
    Save {
        /// Names or ids
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,

        /// The archive; standard output when there is none
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Give an image another name
    Tag {
        /// A name or id
        #[arg(value_name = "SOURCE")]
        source: String,

        /// The new name
        #[arg(value_name = "TARGET")]
        target: String,
    },
    /// Take the images of an archive (`docker save`, OCI layout) into the store
    Load {
        /// The archive: a tar file or a directory; `-` is standard input
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        input: PathBuf,

        /// Do not print what was loaded
        #[arg(short, long)]
        quiet: bool,
    },
    /// List images
    #[command(alias = "list")]
    Ls {
        /// Only those of this name, with or without a tag; `*` stands for any text
        #[arg(value_name = "NAME")]
        name: Option<String>,

        /// Those without a name as well (they are always listed)
        #[arg(short, long)]
        all: bool,

        /// Only some: `reference=NAME`, `label=NAME[=VALUE]`, `dangling=true`, `before=IMAGE`, `since=IMAGE`,
        /// `until=24h`
        #[arg(short, long, value_name = "FILTER")]
        filter: Vec<String>,

        /// Print ids whole
        #[arg(long)]
        no_trunc: bool,

        /// How to print them: `table`, `json` (an object on each line), or a template such as `{{.Repository}}`
        #[arg(long, value_name = "FORMAT", default_value = "table")]
        format: Format,

        /// Print only ids
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove images
    #[command(alias = "remove")]
    Rm {
        /// Names or ids
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,

        /// Remove names of images, too, that containers use, and all names of an id
        #[arg(short, long)]
        force: bool,
    },
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        match self.command {
            Command::Load { input, quiet } => load(context, &input, quiet).await,
            Command::Ls { name, all: _, filter, no_trunc, format, quiet } => {
                let name = name.map(|name| format!("reference={name}"));
                let filters: Vec<String> = name.into_iter().chain(filter).collect();
                list(context, &filters, &format, quiet, no_trunc).await
            }
            Command::Rm { images, force } => remove(context, &images, force).await,
            Command::History { image, no_trunc } => history(context, image, no_trunc).await,
            Command::Import { input, image, change: changes, message, platform } => {
                let image = image.as_deref().map(named).transpose()?;
                let created = time::rfc3339(SystemTime::now());
                let act = ImageAct::Import { input, image, platform, message, changes, created };
                let ImageAnswer::Id { id, .. } = act_on(context, act).await? else { return Ok(0) };
                output::text(&format!("{id}\n")).map(|()| 0)
            }
            Command::Inspect { images } => inspect(context, images).await,
            Command::Prune { all, build_cache, filter, force: _ } => {
                prune(context, pruning(all, build_cache, &filter)?).await
            }
            Command::Pull { images, platform, quiet } => {
                for name in images {
                    let act = ImageAct::Pull { image: named(&name)?, platform: platform.clone() };
                    transferred(context, &name, "Pulled", act, quiet).await?;
                }
                Ok(0)
            }
            Command::Push { images, quiet } => {
                for name in images {
                    let act = ImageAct::Push { image: named(&name)? };
                    transferred(context, &name, "Pushed", act, quiet).await?;
                }
                Ok(0)
            }
            Command::Save { images, output } => {
                let output = output.unwrap_or_else(|| PathBuf::from("-"));
                if output.as_os_str() == "-" && std::io::stdout().is_terminal() {
                    return Err(
                        Failure::failed("an archive is nothing for a terminal").help("use `--output FILE`")
                    );
                }
                act_on(context, ImageAct::Save { images, output }).await.map(|_| 0)
            }
            Command::Tag { source, target } => {
                act_on(context, ImageAct::Tag { source, target: named(&target)? }).await.map(|_| 0)
            }
        }
    }
}

fn named(name: &str) -> Result<ImageRef, Failure> {
    name.parse().map_err(|error: ImageRefError| Failure::failed(error.to_string()))
}

async fn act_on(context: &Context, act: ImageAct) -> Result<ImageAnswer, Failure> {
    let answer = context.connect()?.act_on_images(act, Arc::new(Silent)).await;
    answer.map_err(|error| Failure::of_engine(&error, context.source()))
}

/// A pull or push: what came of it on standard output, how far it is on standard error.
async fn transferred(
    context: &Context,
    name: &str,
    done: &str,
    act: ImageAct,
    quiet: bool,
) -> Result<(), Failure> {
    let ImageAnswer::Id { id, notes } = context.transfer(act, quiet).await? else { return Ok(()) };
    for note in notes {
        context.say("note", &note);
    }
    if quiet { output::text(&format!("{id}\n")) } else { output::text(&format!("{done} {name}: {id}\n")) }
}

async fn history(context: &Context, image: String, whole: bool) -> Result<i32, Failure> {
    let ImageAnswer::History(steps) = act_on(context, ImageAct::History { image }).await? else {
        return Ok(0);
    };
    let mut table = Table::new(&["CREATED", "CREATED BY", "SIZE", "COMMENT"]);
    for step in steps {
        let age = step.created.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
        let line: String = step.created_by.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let short: String = if whole || line.chars().count() <= 45 {
            line
        } else {
            line.chars().take(44).chain(['…']).collect()
        };
        table.row(vec![
            age.map_or_else(|| "N/A".to_owned(), |age| format!("{} ago", time::rough(age))),
            short,
            size(step.size),
            step.comment,
        ]);
    }
    output::lines(table.lines().iter().map(String::as_str)).map(|()| 0)
}

async fn inspect(context: &Context, images: Vec<String>) -> Result<i32, Failure> {
    let mut documents = Vec::new();
    for image in images {
        if let ImageAnswer::Document(document) = act_on(context, ImageAct::Inspect { image }).await? {
            documents.push(document);
        }
    }
    output::text(&format!("{:#}\n", serde_json::Value::Array(documents))).map(|()| 0)
}

async fn prune(context: &Context, what: Prune) -> Result<i32, Failure> {
    let ImageAnswer::Pruned { names, freed } = act_on(context, ImageAct::Prune(what)).await? else {
        return Ok(0);
    };
    let lines: Vec<String> = names.iter().map(|name| format!("Untagged: {name}")).collect();
    output::lines(lines.iter().map(String::as_str))?;
    output::text(&format!("Total reclaimed space: {}\n", size(freed))).map(|()| 0)
}

fn pruning(all: bool, build_cache: bool, filters: &[String]) -> Result<Prune, Failure> {
    let mut prune = Prune { all, build_cache, ..Prune::default() };
    for filter in filters {
        match filter.split_once('=') {
            Some(("until", text)) => {
                prune.until = Some(when::point(text, SystemTime::now()).map_err(Failure::failed)?);
            }
            Some(("label", label)) => prune.labels.push(LabelFilter::new(label, true)),
            Some(("label!", label)) => prune.labels.push(LabelFilter::new(label, false)),
            _ => {
                return Err(Failure::failed(format!("`{filter}` is no filter of images to remove"))
                    .help("those there are: until=24h, label=NAME[=VALUE], label!=NAME[=VALUE]"));
            }
        }
    }
    Ok(prune)
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

async fn list(
    context: &Context,
    filters: &[String],
    format: &Format,
    quiet: bool,
    whole: bool,
) -> Result<i32, Failure> {
    let engine = context.connect()?;
    let images = engine.images().await.map_err(|error| Failure::of_engine(&error, context.source()))?;
    let filters: Vec<Filter> =
        filters.iter().map(|text| Filter::parse(text, &images)).collect::<Result<_, _>>()?;
    let mut rows = rows(&images);
    rows.retain(|row| filters.iter().all(|filter| filter.takes(row)));
    let now = SystemTime::now();
    let lines = if quiet {
        // An image once, whatever its names.
        let mut seen = BTreeSet::new();
        rows.retain(|row| seen.insert(row.image.id.clone()));
        rows.iter().map(|row| row.id(whole).to_owned()).collect()
    } else {
        let table = || {
            let mut table = Table::new(&["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]);
            rows.iter().for_each(|row| table.row(row.cells(now, whole)));
            table
        };
        format.lines(rows.iter().map(|row| row.json(now, whole)), table)?
    };
    output::lines(lines.iter().map(String::as_str))?;
    Ok(0)
}

async fn remove(context: &Context, images: &[String], force: bool) -> Result<i32, Failure> {
    let mut failed = None;
    for text in images {
        // The others are removed all the same.
        if let Err(failure) = remove_one(context, text, force).await
            && let Some(earlier) = failed.replace(failure)
        {
            context.report(&earlier);
        }
    }
    failed.map_or(Ok(0), Err)
}

async fn remove_one(context: &Context, text: &str, force: bool) -> Result<(), Failure> {
    let engine = context.connect()?;
    let told = |error| Failure::of_engine(&error, context.source());
    let images = engine.images().await.map_err(told)?;
    for name in names_of(&images, text, force)? {
        engine.remove_image(&named(&name)?, force).await.map_err(told)?;
        output::text(&format!("Untagged: {name}\n"))?;
    }
    Ok(())
}

/// The names to take away: the one that is given, or those of the image whose id begins so.
fn names_of(images: &[ImageInfo], text: &str, force: bool) -> Result<Vec<String>, Failure> {
    let is_name = named(text).is_ok_and(|name| {
        let familiar = name.familiar();
        images.iter().any(|image| image.references.contains(&familiar))
    });
    let start = text.strip_prefix("sha256:").unwrap_or(text);
    let is_id = !start.is_empty() && start.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let found: Vec<&ImageInfo> =
        images.iter().filter(|image| is_id && hex(image).starts_with(start)).collect();
    match found.as_slice() {
        [_, ..] if is_name => Ok(vec![text.to_owned()]),
        [] => Ok(vec![text.to_owned()]),
        [image] if image.references.len() > 1 && !force => {
            let names = image.references.join(", ");
            Err(Failure::failed(format!("image `{text}` has several names: {names}"))
                .help("name the one to take away, or use `--force` for all of them"))
        }
        [image] if image.references.is_empty() => {
            Err(Failure::failed(format!("image `{text}` has no name; containers that use it keep it"))
                .help("remove them; `ficelle image prune` then takes the image away"))
        }
        [image] => Ok(image.references.clone()),
        _ => Err(Failure::failed(format!("several images have an id that begins with `{start}`"))),
    }
}

/// Which images are listed.
enum Filter {
    Reference(String),
    Label(LabelFilter),
    Dangling(bool),
    Before(SystemTime),
    Since(SystemTime),
}

impl Filter {
    fn parse(text: &str, images: &[ImageInfo]) -> Result<Self, Failure> {
        let unknown = || {
            Failure::failed(format!("`{text}` is no filter of images")).help(
                "those there are: reference=NAME, label=NAME[=VALUE], dangling=true|false, before=IMAGE, since=IMAGE, \
                 until=24h",
            )
        };
        let (key, value) = text.split_once('=').ok_or_else(unknown)?;
        let made = |name: &str| {
            let familiar = named(name).map(|name| name.familiar()).unwrap_or_default();
            let id = name.strip_prefix("sha256:").unwrap_or(name);
            let is_it =
                |image: &&ImageInfo| image.references.contains(&familiar) || hex(image).starts_with(id);
            let image = images.iter().find(is_it);
            let image = image.ok_or_else(|| Failure::failed(format!("no image `{name}`")))?;
            image.created.ok_or_else(|| Failure::failed(format!("image `{name}` has no date")))
        };
        Ok(match key {
            "reference" => Self::Reference(value.to_owned()),
            "label" => Self::Label(LabelFilter::new(value, true)),
            "dangling" => Self::Dangling(value.parse().map_err(|_| unknown())?),
            "before" => Self::Before(made(value)?),
            "since" => Self::Since(made(value)?),
            "until" => Self::Before(when::point(value, SystemTime::now()).map_err(Failure::failed)?),
            _ => return Err(unknown()),
        })
    }

    fn takes(&self, row: &Row<'_>) -> bool {
        match self {
            Self::Reference(pattern) => {
                like(pattern, row.repository) || like(pattern, &format!("{}:{}", row.repository, row.tag))
            }
            Self::Label(label) => label.takes(&row.image.labels),
            Self::Dangling(dangling) => row.image.references.is_empty() == *dangling,
            Self::Before(time) => row.image.created.is_some_and(|created| created < *time),
            Self::Since(time) => row.image.created.is_some_and(|created| created > *time),
        }
    }
}

/// Whether a text is as a pattern says, where `*` stands for anything but a `/`, and `?` for one character.
fn like(pattern: &str, text: &str) -> bool {
    // Where the last `*` stood, and what it took.
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut star) = ((0, 0), None);
    while at.1 < text.len() {
        match pattern.get(at.0) {
            Some('*') => {
                star = Some(at);
                at.0 += 1;
            }
            Some(&c) if c == text[at.1] || (c == '?' && text[at.1] != '/') => at = (at.0 + 1, at.1 + 1),
            _ => match star {
                Some((p, t)) if text[t] != '/' => {
                    star = Some((p, t + 1));
                    at = (p + 1, t + 1);
                }
                _ => return false,
            },
        }
    }
    pattern[at.0..].iter().all(|c| *c == '*')
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
            let (repository, tag) = parts(reference);
            rows.push(Row { repository, tag, image });
        }
        if image.references.is_empty() {
            rows.push(Row { repository: "<none>", tag: "<none>", image });
        }
    }
    rows.sort_by_key(|row| (row.repository, row.tag));
    rows
}

/// Repository and tag of a familiar name.
pub(super) fn parts(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (reference, "<none>"),
    }
}

impl Row<'_> {
    fn id(&self, whole: bool) -> &str {
        if whole { &self.image.id } else { short_id(self.image) }
    }

    fn cells(&self, now: SystemTime, whole: bool) -> Vec<String> {
        vec![
            self.repository.to_owned(),
            self.tag.to_owned(),
            self.id(whole).to_owned(),
            self.age(now),
            size(self.image.size),
        ]
    }

    fn age(&self, now: SystemTime) -> String {
        let age = self.image.created.map(|at| now.duration_since(at).unwrap_or_default());
        age.map_or_else(|| "N/A".to_owned(), |age| format!("{} ago", time::rough(age)))
    }

    /// In the words of `docker images`.
    fn json(&self, now: SystemTime, whole: bool) -> serde_json::Value {
        serde_json::json!({
            "CreatedAt": self.image.created.map_or_else(|| "N/A".to_owned(), time::readable),
            "CreatedSince": self.age(now),
            "Digest": self.image.digest.as_deref().unwrap_or("<none>"),
            "ID": self.id(whole),
            "Platform": self.image.platform,
            "Repository": self.repository,
            "Size": size(self.image.size),
            "Tag": self.tag,
        })
    }
}

fn short_id(image: &ImageInfo) -> &str {
    let hex = hex(image);
    hex.get(..12).unwrap_or(hex)
}

fn hex(image: &ImageInfo) -> &str {
    image.id.strip_prefix("sha256:").unwrap_or(&image.id)
}

/// `12.3MB`, in the units of docker.
pub(super) fn size(bytes: u64) -> String {
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
    use indexmap::IndexMap;

    use super::*;

    #[test]
    fn a_star_of_a_pattern_ends_at_a_slash() {
        for (pattern, text) in
            [("web", "web"), ("w*", "web"), ("*", "web"), ("a/*:1", "a/b:1"), ("?eb", "web"), ("", "")]
        {
            assert!(like(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("web", "webs"), ("*", "a/web"), ("a*c", "abd"), ("web", ""), ("?", "/"), ("a/*", "a")]
        {
            assert!(!like(pattern, text), "{pattern} {text}");
        }
        assert!(like("a*b*c", "aXbYbZc") && !like("a*b*c", "aXbYbZd"));
    }

    #[test]
    fn an_image_has_a_row_for_each_name() {
        let image = ImageInfo {
            id: format!("sha256:{}", "ab".repeat(32)),
            references: vec!["redis:7".into(), "localhost:5000/x".into()],
            size: 12_345_678,
            created: None,
            platform: "linux/amd64".into(),
            labels: IndexMap::new(),
            digest: None,
            age: None,
        };
        let images = [image];
        let cells: Vec<_> =
            rows(&images).iter().map(|row| row.cells(SystemTime::UNIX_EPOCH, false).join(" ")).collect();
        assert_eq!(
            cells,
            ["localhost:5000/x <none> abababababab N/A 12.3MB", "redis 7 abababababab N/A 12.3MB"]
        );
    }
}
