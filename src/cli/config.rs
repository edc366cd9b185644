//! `ficelle config`.

use std::path::PathBuf;

use super::{context::Context, digests, failure::Failure, output};
use crate::{
    load::{self, LoadOptions, Loaded, Resolved},
    ui::table::Table,
};

/// Print the project as it is understood, in canonical form
///
/// Variables are filled in, files merged, short forms written out. Needs no privileges, and no
/// engine unless digests are asked for.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag as typed")]
pub(super) struct Args {
    /// Print only these services and what they need
    #[arg(value_name = "SERVICE")]
    names: Vec<String>,

    /// Format of the canonical form
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,

    /// Print the names of the services
    #[arg(long, group = "view")]
    services: bool,

    /// Print the names of the volumes
    #[arg(long, group = "view")]
    volumes: bool,

    /// Print the names of the networks
    #[arg(long, group = "view")]
    networks: bool,

    /// Print the images of the services
    #[arg(long, group = "view")]
    images: bool,

    /// Print the names of the profiles
    #[arg(long, group = "view")]
    profiles: bool,

    /// Print the models that services use
    #[arg(long, group = "view")]
    models: bool,

    /// Print the variables that are used for interpolation
    #[arg(long, group = "view")]
    environment: bool,

    /// Print the variables that the files name, with their defaults
    #[arg(long, group = "view")]
    variables: bool,

    /// Print the config hash of a service; `*` is all
    #[arg(long, group = "view", value_name = "SERVICE")]
    hash: Option<String>,

    /// Print every value (below PATH, as `services.web`) with its place and why it won
    #[arg(long, group = "view", value_name = "PATH", num_args = 0..=1, default_missing_value = "")]
    explain: Option<String>,

    /// Only check; print nothing
    #[arg(short, long)]
    quiet: bool,

    /// Write to this file in place of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Leave variables as they are written
    #[arg(long)]
    no_interpolate: bool,

    /// Leave out what is added by default (names, the default network)
    #[arg(long)]
    no_normalize: bool,

    /// Leave relative paths as they are written
    #[arg(long)]
    no_path_resolution: bool,

    /// Do not check that references lead somewhere
    #[arg(long)]
    no_consistency: bool,

    /// Do not read `env_file`, and take no values from the environment
    #[arg(long)]
    no_env_resolution: bool,

    /// Write the digest that each image has at its registry into its name
    #[arg(long)]
    resolve_image_digests: bool,

    /// Print a file that only pins the images to the digests they have at their registries
    #[arg(long)]
    lock_image_digests: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Yaml,
    Json,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let options = self.options(context);
        let text = if let Some(wanted) = self.hash.as_ref().filter(|_| !self.quiet) {
            hashes(&context.load_with(&options)?, wanted)?
        } else {
            let resolved = if self.wants_digests() {
                let mut loaded = context.load_with(&options)?;
                digests::resolve(context, &mut loaded).await?;
                if self.lock_image_digests {
                    loaded.resolved.keep_images_only();
                }
                loaded.resolved
            } else {
                context.resolve_with(&options)?
            };
            if self.quiet {
                return Ok(0);
            }
            let text = self.text(&resolved)?;
            // The process ends now, and its memory with it: taking the tree apart would be a tenth of the time.
            std::mem::forget(resolved);
            text
        };
        match &self.output {
            Some(path) => std::fs::write(path, text).map_err(|error| {
                Failure::failed(format!("cannot write `{}`", path.display())).because(error.to_string())
            })?,
            None => output::text(&text)?,
        }
        Ok(0)
    }

    /// Lists of names need no file of variables: they are shown where `env_file` is not there, too.
    fn options(&self, context: &Context) -> LoadOptions {
        LoadOptions {
            services: self.names.clone(),
            all_resources: context.global.all_resources,
            no_interpolate: self.no_interpolate || self.variables,
            no_normalize: self.no_normalize,
            no_path_resolution: self.no_path_resolution,
            no_consistency: self.no_consistency,
            no_env_resolution: self.no_env_resolution || self.lists_names(),
            explain: self.explain.is_some(),
            ..context.load_options()
        }
    }

    /// Lists, hashes and explanations are of what is written.
    fn wants_digests(&self) -> bool {
        let is_view = self.lists_names()
            || self.environment
            || self.variables
            || self.hash.is_some()
            || self.explain.is_some();
        (self.resolve_image_digests || self.lock_image_digests) && !is_view
    }

    fn lists_names(&self) -> bool {
        self.services || self.volumes || self.networks || self.images || self.profiles || self.models
    }

    fn text(&self, resolved: &Resolved) -> Result<String, Failure> {
        Ok(if self.services {
            lines(&resolved.service_names())
        } else if self.volumes {
            lines(&resolved.volume_names())
        } else if self.networks {
            lines(&resolved.network_names())
        } else if self.images {
            lines(&resolved.image_names())
        } else if self.profiles {
            lines(&resolved.profiles)
        } else if self.models {
            lines(&resolved.model_names())
        } else if self.environment {
            lines(&resolved.environment_lines())
        } else if self.variables {
            self.variables(resolved)
        } else if let Some(path) = &self.explain {
            explained(resolved, path)?
        } else {
            match self.format {
                Some(Format::Json) => load::config::json(resolved),
                Some(Format::Yaml) | None => load::config::yaml(resolved),
            }
        })
    }

    fn variables(&self, resolved: &Resolved) -> String {
        let variables = resolved.variables();
        if self.format.is_some() {
            return serde_json::to_string_pretty(&variables).unwrap_or_default() + "\n";
        }
        let mut table = Table::new(&["NAME", "REQUIRED", "DEFAULT VALUE", "ALTERNATE VALUE"]);
        for one in variables.into_values() {
            table.row(vec![one.name, one.required.to_string(), one.default_value, one.presence_value]);
        }
        lines(&table.lines())
    }
}

/// A line each: path and value, place, and why when that is more than being written there.
fn explained(resolved: &Resolved, below: &str) -> Result<String, Failure> {
    let is_below = |path: &str| match path.strip_prefix(below) {
        Some(rest) => below.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']),
        None => false,
    };
    let found: Vec<_> = resolved.explained.iter().filter(|value| is_below(&value.path)).collect();
    if found.is_empty() {
        return Err(Failure::failed(format!("there is nothing at `{below}`"))
            .help("`ficelle config --explain` lists every path"));
    }
    let mut table = Table::new(&["VALUE", "WRITTEN AT", "WHY"]);
    for value in found {
        let place = value.place.as_ref().map(ToString::to_string).unwrap_or_default();
        // A value of many lines is shown by its first.
        let text = value.value.lines().next().unwrap_or_default();
        table.row(vec![format!("{}: {text}", value.path), place, value.why.join(", ")]);
    }
    Ok(lines(&table.lines()))
}

fn lines(names: &[String]) -> String {
    names.iter().flat_map(|name| [name.as_str(), "\n"]).collect()
}

fn hashes(loaded: &Loaded, wanted: &str) -> Result<String, Failure> {
    let known = loaded.resolved.hashes();
    let mut names: Vec<&str> =
        if wanted == "*" { known.keys().map(String::as_str).collect() } else { wanted.split(',').collect() };
    names.sort_unstable();
    let mut text = String::new();
    for name in names {
        let Some(hash) = known.get(name) else {
            let known = known.keys().cloned().collect();
            let unknown = crate::session::UnknownService { name: name.to_owned(), known };
            return Err(Failure::unknown_service(&unknown, &loaded.project));
        };
        text.push_str(&format!("{name} {hash}\n"));
    }
    Ok(text)
}
