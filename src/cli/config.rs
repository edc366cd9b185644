//! `ficelle config`.

use std::path::PathBuf;

use super::{context::Context, failure::Failure, output};
use crate::load::{self, LoadOptions, Loaded};

/// Print the project as it is understood, in canonical form
///
/// Variables are filled in, files merged, short forms written out. Needs no engine and no
/// privileges.
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Yaml,
    Json,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<i32, Failure> {
        let loaded = context.load_with(&self.options(context))?;
        if self.quiet {
            return Ok(0);
        }
        let text = self.text(&loaded)?;
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
        let names_only = self.services
            || self.volumes
            || self.networks
            || self.images
            || self.profiles
            || self.models;
        LoadOptions {
            services: self.names.clone(),
            all_resources: context.global.all_resources,
            no_interpolate: self.no_interpolate || self.variables,
            no_normalize: self.no_normalize,
            no_path_resolution: self.no_path_resolution,
            no_consistency: self.no_consistency,
            no_env_resolution: self.no_env_resolution || names_only,
            ..context.load_options()
        }
    }

    fn text(&self, loaded: &Loaded) -> Result<String, Failure> {
        Ok(if self.services {
            lines(&loaded.service_names())
        } else if self.volumes {
            lines(&loaded.volume_names())
        } else if self.networks {
            lines(&loaded.network_names())
        } else if self.images {
            lines(&loaded.image_names())
        } else if self.profiles {
            lines(&loaded.profiles)
        } else if self.models {
            lines(&loaded.model_names())
        } else if self.environment {
            lines(&loaded.environment_lines())
        } else if self.variables {
            self.variables(loaded)
        } else if let Some(wanted) = &self.hash {
            hashes(loaded, wanted)?
        } else {
            match self.format {
                Some(Format::Json) => load::config::json(loaded),
                Some(Format::Yaml) | None => load::config::yaml(loaded),
            }
        })
    }

    fn variables(&self, loaded: &Loaded) -> String {
        let variables = loaded.variables();
        if self.format.is_some() {
            return serde_json::to_string_pretty(&variables).unwrap_or_default() + "\n";
        }
        let rows = variables.values().map(|one| {
            [&one.name, if one.required { "true" } else { "false" }, &one.default_value, &one.presence_value]
                .map(ToOwned::to_owned)
        });
        table(&["NAME", "REQUIRED", "DEFAULT VALUE", "ALTERNATE VALUE"].map(ToOwned::to_owned), rows)
    }
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(head: &[String; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<_> = std::iter::once(head.clone()).chain(rows).collect();
    let widths: Vec<usize> =
        (0..N).map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or_default()).collect();
    let line = |row: &[String; N]| {
        let cells: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}   ")).collect();
        cells.trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn lines(names: &[String]) -> String {
    names.iter().flat_map(|name| [name.as_str(), "\n"]).collect()
}

fn hashes(loaded: &Loaded, wanted: &str) -> Result<String, Failure> {
    let services = &loaded.project.services;
    let mut names: Vec<&str> = if wanted == "*" {
        services.keys().map(String::as_str).collect()
    } else {
        wanted.split(',').collect()
    };
    names.sort_unstable();
    let mut text = String::new();
    for name in names {
        let Some(service) = services.get(name) else {
            let known = services.keys().cloned().collect();
            let unknown = crate::session::UnknownService { name: name.to_owned(), known };
            return Err(Failure::unknown_service(&unknown, &loaded.project));
        };
        text.push_str(&format!("{name} {}\n", service.container.digest()));
    }
    Ok(text)
}
