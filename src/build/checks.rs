//! Build checks of one build: the rules that are wanted, and `build --check`, which builds nothing.

use std::{collections::HashMap, fmt::Write as _, path::Path};

use super::{
    BuildError, arrange, blocking,
    config::Document,
    context::{Text, ignore_file},
    dockerfile::{CheckOptions, Dockerfile, Lint, Mistake, line_of},
    graph::{Base, Graph},
    lint::{self, BaseFacts, Facts},
    located, place,
    platform::Platforms,
    prepare,
    solve::ImageName,
};
use crate::{
    image::{Image, ImageError, Store},
    model::{Build, ImageRef},
};

/// What the wanted rules found.
pub struct Found {
    pub lints: Vec<Lint>,
    options: CheckOptions,
}

/// The findings for a Dockerfile. Stages whose base is not among `images` are not asked for variables.
pub fn found(
    build: &Build,
    file: &Text,
    parsed: &Dockerfile,
    graph: &Graph,
    platforms: &Platforms,
    images: &HashMap<ImageName, Image>,
    directory: &Path,
) -> Result<Found, BuildError> {
    let given = build.args.get("BUILDKIT_DOCKERFILE_CHECK").cloned().flatten();
    let options = match (given, &parsed.directives.check) {
        (Some(text), _) => {
            CheckOptions::parse(&text).map_err(|message| BuildError::Context { message, source: None })?
        }
        (None, Some(word)) => CheckOptions::parse(&word.text)
            .map_err(|message| located(file, Mistake::new(word.span, message)))?,
        (None, None) => CheckOptions::default(),
    };
    let ignore = ignore_file(directory, file)?;
    let facts = Facts {
        text: &file.text,
        platforms,
        base: &|stage| base_facts(graph, platforms, images, stage),
        ignored: &|path| ignore.ignores(path),
    };
    let mut lints = lint::check(parsed, graph, &facts);
    lints.retain(|lint| options.wants(lint.rule));
    Ok(Found { lints, options })
}

fn base_facts(
    graph: &Graph,
    platforms: &Platforms,
    images: &HashMap<ImageName, Image>,
    stage: usize,
) -> Option<BaseFacts> {
    let node = &graph.stages[stage];
    let Base::Image(name) = &node.base else { return None };
    let platform = node.platform.clone().unwrap_or_else(|| platforms.target.to_string());
    let image = images.get(&ImageName { name: name.clone(), platform: platform.clone() })?;
    let document = Document::of(image).ok()?;
    let name_of = |entry: &String| entry.split('=').next().unwrap_or_default().to_owned();
    let actual = format!("{}/{}", document.os, document.architecture);
    let same = document.architecture.is_empty() || platform.starts_with(&actual);
    Some(BaseFacts {
        env: document.config.env.iter().map(name_of).collect(),
        has_shell: !document.config.shell.is_empty(),
        has_directory: !matches!(document.config.working_dir.as_str(), "" | "/"),
        foreign: (!same).then_some((actual, platform)),
    })
}

impl Found {
    /// `Dockerfile:3: JSONArgsRecommended: ...`
    #[must_use]
    pub fn line(file: &Text, lint: &Lint) -> String {
        let line = line_of(&file.text, lint.span.start);
        format!("{}:{line}: {}: {}", file.name, lint.rule.name(), lint.message)
    }

    /// `error=true` makes an error of what was found.
    pub fn refuse(&self, file: &Text) -> Result<(), BuildError> {
        let Some(first) = self.lints.first().filter(|_| self.options.error) else { return Ok(()) };
        let mut names: Vec<&str> = Vec::new();
        for lint in &self.lints {
            if !names.contains(&lint.rule.name()) {
                names.push(lint.rule.name());
            }
        }
        let message = format!("lint violation found for rules: {}", names.join(", "));
        Err(located(file, Mistake::new(first.span, message)))
    }

    /// The report of `build --check`.
    fn report(&self, file: &Text) -> String {
        let mut text = match self.lints.len() {
            0 => return "Check complete, no warnings found.\n".to_owned(),
            1 => "Check complete, 1 warning has been found!\n".to_owned(),
            count => format!("Check complete, {count} warnings have been found!\n"),
        };
        for lint in &self.lints {
            let line = line_of(&file.text, lint.span.start);
            let rule = "-".repeat(20);
            let _ = write!(
                text,
                "\nWARNING: {} - {}\n{}\n\n{}:{line}\n{rule}\n{}\n{rule}\n",
                lint.rule.name(),
                lint.rule.url(),
                lint.message,
                file.name,
                file.snippet(lint.span)
            );
        }
        text
    }
}

/// Checks a build without doing it; nothing is fetched but a remote context. The report, and whether
/// there is nothing to complain of.
pub async fn check(store: &Store, build: &Build) -> Result<(String, bool), BuildError> {
    let wait = tokio::runtime::Handle::current();
    let (store, build) = (store.clone(), build.clone());
    blocking(move || {
        let prepared = prepare(&store, &build, &wait)?;
        let file = &prepared.file;
        let (parsed, graph, platforms) = arrange(&build, file, &|_| {})?;
        let images = stored(&store, &graph, &platforms)?;
        let found = found(&build, file, &parsed, &graph, &platforms, &images, &prepared.directory)?;
        found.refuse(file)?;
        Ok((found.report(file), found.lints.is_empty()))
    })
    .await
}

/// The bases that are in the store.
fn stored(
    store: &Store,
    graph: &Graph,
    platforms: &Platforms,
) -> Result<HashMap<ImageName, Image>, ImageError> {
    let mut images = HashMap::new();
    for node in &graph.stages {
        let Base::Image(name) = &node.base else { continue };
        let text = name.strip_prefix(place::STORED).unwrap_or(name);
        let Ok(reference) = text.parse::<ImageRef>() else { continue };
        if let Some(image) = store.find(&reference)? {
            let platform = node.platform.clone().unwrap_or_else(|| platforms.target.to_string());
            images.insert(ImageName { name: name.clone(), platform }, image);
        }
    }
    Ok(images)
}
