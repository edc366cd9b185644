//! Prints the canonical form of a Compose project: what a program does with the library that only reads.
//!
//! `cargo run --example config -- [-f FILE] [-p NAME] [--profile P] [--env-file F] config [--format json]`

use std::{path::PathBuf, process::ExitCode};

use ficelle::load::{self, LoadOptions, Paint, Resolved, System, config};

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]
fn main() -> ExitCode {
    let mut options = LoadOptions::default();
    let mut json = false;
    let mut view = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
            _ => (argument, None),
        };
        let mut value = || inline.clone().or_else(|| arguments.next()).unwrap_or_default();
        match name.as_str() {
            "config" => {}
            "-f" | "--file" => options.files.push(value()),
            "-p" | "--project-name" => options.project_name = Some(value()),
            "--project-directory" => options.project_directory = Some(PathBuf::from(value())),
            "--profile" => options.profiles.push(value()),
            "--env-file" => options.env_files.push(PathBuf::from(value())),
            "--format" => json = value() == "json",
            "--no-interpolate" => options.no_interpolate = true,
            "--no-normalize" => options.no_normalize = true,
            "--no-path-resolution" => options.no_path_resolution = true,
            "--no-consistency" => options.no_consistency = true,
            "--no-env-resolution" => options.no_env_resolution = true,
            "--services" | "--volumes" | "--networks" | "--models" | "--images" | "--profiles" => {
                options.no_env_resolution = true;
                view = Some(name);
            }
            "--environment" => view = Some(name),
            "--hash" => {
                let _all = value();
                view = Some(name);
            }
            "--variables" => {
                options.no_interpolate = true;
                view = Some(name);
            }
            "--all-resources" => options.all_resources = true,
            other if other.starts_with('-') => {
                eprintln!("unknown flag: {other}");
                return ExitCode::from(2);
            }
            service => options.services.push(service.to_owned()),
        }
    }
    match load::resolve(&options, &System::default()) {
        Ok(resolved) => {
            resolved.warnings.iter().for_each(|warning| eprint!("{}", warning.render(Paint::Plain)));
            match view.as_deref() {
                Some(view) => print!("{}", shown(&resolved, view)),
                None if json => print!("{}", config::json(&resolved)),
                None => print!("{}", config::yaml(&resolved)),
            }
            ExitCode::SUCCESS
        }
        Err(told) => {
            told.iter().for_each(|told| eprintln!("{}", told.render(Paint::Plain)));
            ExitCode::FAILURE
        }
    }
}

/// One of the lists, a line each.
fn shown(resolved: &Resolved, view: &str) -> String {
    let lines = match view {
        "--services" => resolved.service_names(),
        "--volumes" => resolved.volume_names(),
        "--networks" => resolved.network_names(),
        "--models" => resolved.model_names(),
        "--images" => resolved.image_names(),
        "--profiles" => resolved.profiles.clone(),
        "--environment" => resolved.environment_lines(),
        "--hash" => resolved.hashes().iter().map(|(service, hash)| format!("{service} {hash}")).collect(),
        _ => return serde_json::to_string_pretty(&resolved.variables()).unwrap_or_default() + "\n",
    };
    lines.iter().map(|line| format!("{line}\n")).collect()
}
