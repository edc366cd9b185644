//! Before anything is parsed: which files, which project directory, which variables, which name.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use super::{
    diagnostic::{Diagnostic, Files, Told},
    dotenv, legacy,
    options::LoadOptions,
    remote,
    source::Source,
    tree::Span,
};

/// Names of Compose files, the best one first.
pub const NAMES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];
const OVERRIDES: [&str; 4] = [
    "compose.override.yaml",
    "compose.override.yml",
    "docker-compose.override.yaml",
    "docker-compose.override.yml",
];

/// Variables by name.
pub type Variables = BTreeMap<String, String>;

/// Where a project lies and what surrounds it.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// Compose files in merge order; `-` is standard input.
    pub files: Vec<PathBuf>,
    /// The project directory, absolute.
    pub root: PathBuf,
    pub environment: Variables,
    /// Name given by the user, from a variable, if any.
    pub name: Option<String>,
    pub profiles: Vec<String>,
}

/// Finds the site of a project.
///
/// # Errors
/// No Compose file, an unreadable file of variables, or an invalid project name.
pub fn discover(
    options: &LoadOptions,
    source: &dyn Source,
    files: &mut Files,
    warnings: &mut Told,
) -> Result<Site, Vec<Diagnostic>> {
    let here = source.current_dir();
    let mut site = Site { environment: source.environment(), ..Site::default() };
    let given_dir = options.project_directory.as_ref().map(|dir| absolute(&here, dir));
    site.files = named_files(options.files.iter().map(String::as_str), source, &here)?;
    // The file of variables may itself say which Compose files there are.
    let dir = working_dir(given_dir.as_deref(), &site.files, &here);
    add_variables(options, source, files, &here, &dir, &mut site.environment)?;
    if site.files.is_empty() {
        site.files = from_variable(&site.environment, source, &here)?;
    }
    if site.files.is_empty() {
        site.files = search(given_dir.as_deref().unwrap_or(&here), source, warnings)?;
    }
    let again = working_dir(given_dir.as_deref(), &site.files, &here);
    if again != dir {
        add_variables(options, source, files, &here, &again, &mut site.environment)?;
    }
    site.root = again;
    site.profiles = profiles(options, &site.environment);
    site.name = given_name(options, &site.environment)?;
    Ok(site)
}

/// Whether there is no Compose file at all: none was named, and none is found.
#[must_use]
pub fn finds_nothing(options: &LoadOptions, source: &dyn Source) -> bool {
    let here = source.current_dir();
    let from = options.project_directory.as_ref().map_or_else(|| here.clone(), |dir| absolute(&here, dir));
    options.files.is_empty()
        && !source.environment().contains_key("COMPOSE_FILE")
        && search(&from, source, &mut Told::default()).is_err()
}

fn absolute(here: &Path, path: &Path) -> PathBuf {
    PathBuf::from(super::canonical::clean(&here.join(path).to_string_lossy()))
}

/// Files as they were named: paths, `-`, or places in repositories.
fn named_files<'a>(
    names: impl Iterator<Item = &'a str>,
    source: &dyn Source,
    here: &Path,
) -> Result<Vec<PathBuf>, Vec<Diagnostic>> {
    let file = |name| match remote::local(source, name) {
        Some(Ok(path)) => Ok(path),
        Some(Err(why)) => Err(vec![Diagnostic::error(why)]),
        None => Ok(absolute_file(here, name)),
    };
    names.map(file).collect()
}

fn absolute_file(here: &Path, file: &str) -> PathBuf {
    if file == "-" { PathBuf::from(file) } else { absolute(here, Path::new(file)) }
}

fn working_dir(given: Option<&Path>, files: &[PathBuf], here: &Path) -> PathBuf {
    let of_file = || files.iter().find(|file| file.as_os_str() != "-").and_then(|file| file.parent());
    given.or_else(of_file).unwrap_or(here).to_owned()
}

fn from_variable(
    environment: &Variables,
    source: &dyn Source,
    here: &Path,
) -> Result<Vec<PathBuf>, Vec<Diagnostic>> {
    let Some(list) = environment.get("COMPOSE_FILE") else { return Ok(Vec::new()) };
    if list.is_empty() {
        let told = Diagnostic::error("COMPOSE_FILE is set but empty");
        return Err(vec![told.help("unset it, or name a Compose file")]);
    }
    let separator =
        environment.get("COMPOSE_PATH_SEPARATOR").filter(|text| !text.is_empty()).map_or(":", String::as_str);
    if remote::is_remote(list) {
        return named_files([list.as_str()].into_iter(), source, here);
    }
    named_files(list.split(separator), source, here)
}

/// The Compose file of a directory or of the nearest one above it, with its override file.
fn search(from: &Path, source: &dyn Source, warnings: &mut Told) -> Result<Vec<PathBuf>, Vec<Diagnostic>> {
    for dir in from.ancestors() {
        let present = |names: &[&str]| -> Vec<PathBuf> {
            names.iter().map(|name| dir.join(name)).filter(|path| source.is_file(path)).collect()
        };
        let mains = [present(&NAMES), present(&legacy::NAMES)].concat();
        let Some(main) = mains.first() else { continue };
        let overrides = present(&OVERRIDES);
        for found in [&mains, &overrides] {
            if let [used, rest @ ..] = found.as_slice()
                && !rest.is_empty()
            {
                let rest: Vec<_> = rest.iter().map(|path| format!("`{}`", path.display())).collect();
                warnings.push(Diagnostic::warning(format!(
                    "there are several Compose files; `{}` is used, not {}",
                    used.display(),
                    rest.join(", ")
                )));
            }
        }
        return Ok([main.clone()].into_iter().chain(overrides.into_iter().take(1)).collect());
    }
    Err(vec![
        Diagnostic::error("no configuration file provided: not found")
            .help(format!(
                "looked in `{}` and the directories above it for {}",
                from.display(),
                NAMES.join(", ")
            ))
            .help("name a file with `-f FILE`, or a directory with `--project-directory DIR`"),
    ])
}

/// Adds what the files of variables set and the environment does not.
fn add_variables(
    options: &LoadOptions,
    source: &dyn Source,
    files: &mut Files,
    here: &Path,
    dir: &Path,
    environment: &mut Variables,
) -> Result<(), Vec<Diagnostic>> {
    let listed = environment.get("COMPOSE_ENV_FILES").filter(|list| !list.is_empty());
    let disabled = environment
        .get("COMPOSE_DISABLE_ENV_FILE")
        .is_some_and(|text| super::scalars::flag(text) == Some(true));
    let chosen: Vec<PathBuf> = if !options.env_files.is_empty() {
        options.env_files.iter().map(|file| absolute(here, file)).collect()
    } else if let Some(list) = listed {
        list.split(',').map(|file| absolute(here, Path::new(file))).collect()
    } else if !disabled && source.is_file(&dir.join(".env")) {
        vec![dir.join(".env")]
    } else {
        Vec::new()
    };
    let found = read_variables(&chosen, source, files, here, environment)?;
    for (name, value) in found {
        environment.entry(name).or_insert(value);
    }
    Ok(())
}

/// The variables of files, the later file winning.
///
/// # Errors
/// Every file that cannot be read or has a mistake.
pub fn read_variables(
    paths: &[PathBuf],
    source: &dyn Source,
    files: &mut Files,
    here: &Path,
    environment: &Variables,
) -> Result<Variables, Vec<Diagnostic>> {
    let mut found = Variables::new();
    let mut errors = Vec::new();
    for path in paths {
        let shown = shown(path, here);
        let text = match source.read(path) {
            Ok(text) => text,
            Err(error) => {
                errors.push(unreadable("file of variables", &shown, &error));
                continue;
            }
        };
        let outer = |name: &str| environment.get(name).cloned();
        let earlier = |name: &str| found.get(name).cloned();
        match dotenv::parse(&text, &outer, &earlier) {
            Ok(variables) => found.extend(variables),
            Err(fault) => errors.push(variable_fault(files, &shown, &text, fault)),
        }
    }
    if errors.is_empty() { Ok(found) } else { Err(errors) }
}

/// A mistake in a file of variables, with its place.
pub fn variable_fault(files: &mut Files, shown: &str, text: &str, fault: dotenv::Fault) -> Diagnostic {
    let file = files.add(shown, text);
    let span = Span { file, line: fault.line, column: fault.column, length: fault.length };
    Diagnostic::error(fault.message).mark(files.mark(span, ""))
}

/// A file that cannot be read, and what may help.
#[must_use]
pub fn unreadable(what: &str, shown: &str, error: &io::Error) -> Diagnostic {
    match error.kind() {
        io::ErrorKind::NotFound => Diagnostic::error(format!("{what} `{shown}` not found")),
        io::ErrorKind::IsADirectory => Diagnostic::error(format!("`{shown}` is a directory, not a {what}")),
        io::ErrorKind::InvalidData => {
            Diagnostic::error(format!("{what} `{shown}` is no UTF-8 text: {error}"))
        }
        io::ErrorKind::FileTooLarge => Diagnostic::error(format!(
            "{what} `{shown}` is larger than {} MiB",
            super::source::MAX_FILE >> 20
        )),
        _ => Diagnostic::error(format!("failed to read {what} `{shown}`: {error}")),
    }
}

/// A path as the user would write it: relative when it lies below the current directory.
#[must_use]
pub fn shown(path: &Path, here: &Path) -> String {
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

fn profiles(options: &LoadOptions, environment: &Variables) -> Vec<String> {
    if !options.profiles.is_empty() {
        return options.profiles.clone();
    }
    let list = environment.get("COMPOSE_PROFILES").map(String::as_str).unwrap_or_default();
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect()
}

fn given_name(options: &LoadOptions, environment: &Variables) -> Result<Option<String>, Vec<Diagnostic>> {
    let of_flag = options.project_name.clone().filter(|name| !name.is_empty());
    let of_variable = environment.get("COMPOSE_PROJECT_NAME").cloned().filter(|name| !name.is_empty());
    let Some(name) = of_flag.or(of_variable) else { return Ok(None) };
    if normal_name(&name) == name {
        return Ok(Some(name));
    }
    let better = normal_name(&name);
    let mut error = Diagnostic::error(format!(
        "invalid project name `{name}`: lower-case letters, digits, `-` and `_` only, a letter or digit first"
    ));
    if !better.is_empty() {
        error = error.help(format!("`{better}` would do"));
    }
    Err(vec![error])
}

/// A text as a project name: lower case, other characters dropped. May be empty.
#[must_use]
pub fn normal_name(text: &str) -> String {
    let kept: String = text
        .to_lowercase()
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'))
        .collect();
    kept.trim_start_matches(['_', '-']).to_owned()
}
