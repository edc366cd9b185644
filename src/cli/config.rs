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
    #[arg(long, value_name = "FORMAT", default_value = "yaml")]
    format: Format,

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

    /// Print the variables that are used for interpolation
    #[arg(long, group = "view")]
    environment: bool,

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
        let options = LoadOptions {
            services: self.names.clone(),
            all_resources: context.global.all_resources,
            no_interpolate: self.no_interpolate,
            no_normalize: self.no_normalize,
            no_path_resolution: self.no_path_resolution,
            no_consistency: self.no_consistency,
            no_env_resolution: self.no_env_resolution,
            ..context.load_options()
        };
        let loaded = context.load_with(&options)?;
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

    fn text(&self, loaded: &Loaded) -> Result<String, Failure> {
        let project = &loaded.project;
        let sorted = |names: Vec<&str>| {
            let mut names = names;
            names.sort_unstable();
            lines(names)
        };
        Ok(if self.services {
            sorted(project.services.keys().map(String::as_str).collect())
        } else if self.volumes {
            sorted(project.volumes.keys().map(String::as_str).collect())
        } else if self.networks {
            sorted(project.networks.keys().map(String::as_str).collect())
        } else if self.images {
            sorted(project.services.values().map(crate::session::Service::image).collect())
        } else if self.profiles {
            lines(loaded.profiles.iter().map(String::as_str))
        } else if self.environment {
            loaded.environment.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
        } else if let Some(wanted) = &self.hash {
            hashes(loaded, wanted)?
        } else {
            match self.format {
                Format::Yaml => load::config::yaml(loaded),
                Format::Json => load::config::json(loaded),
            }
        })
    }
}

fn lines<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().flat_map(|name| [name, "\n"]).collect()
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
