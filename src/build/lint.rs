//! BuildKit's build checks: what is allowed in a Dockerfile and probably not meant. Pure.

use super::{
    dockerfile::{
        Command, Copy, Dockerfile, Instruction, Kind, Lint, Rule, Span, Stage, Word, line_of, nearest,
    },
    expand::{Quotes, expand},
    graph::{Base, Graph, Origin, value_of},
    place::Place,
    platform::Platforms,
};
use crate::model::ImageRef;

/// What is known outside of the Dockerfile.
pub struct Facts<'a> {
    pub text: &'a str,
    pub platforms: &'a Platforms,
    /// Of the image that a stage starts from; `None` when it is not here.
    pub base: &'a dyn Fn(usize) -> Option<BaseFacts>,
    /// Whether `.dockerignore` leaves out a path of the context.
    pub ignored: &'a dyn Fn(&str) -> bool,
}

/// An image that a stage starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaseFacts {
    /// Names of its environment.
    pub env: Vec<String>,
    pub has_shell: bool,
    pub has_directory: bool,
    /// Its platform and the expected one, when they differ.
    pub foreign: Option<(String, String)>,
}

/// Everything that the rules find, in the order of the file.
pub fn check(file: &Dockerfile, graph: &Graph, facts: &Facts<'_>) -> Vec<Lint> {
    let mut check = Check { file, graph, facts, found: file.lints.clone() };
    check.casing();
    for stage in &file.stages {
        check.from(stage);
    }
    let mut names = Vec::new();
    for (stage, name) in file.stages.iter().filter_map(|stage| Some((stage, stage.from.name.as_ref()?))) {
        if names.contains(&name.text.as_str()) {
            let message = format!("Duplicate stage name {:?}, stage names should be unique", name.text);
            check.tell(Rule::DuplicateStageName, stage.span, message);
        }
        names.push(&name.text);
    }
    for instruction in &file.arguments {
        check.description(instruction);
    }
    let mut done: Vec<Option<Scope>> = vec![None; graph.stages.len()];
    for index in graph.reachable() {
        done[index] = Some(check.stage(index, &done));
    }
    let mut found = check.found;
    found.sort_by_key(|lint| (lint.span.start, lint.rule));
    found.dedup();
    found
}

struct Check<'a> {
    file: &'a Dockerfile,
    graph: &'a Graph,
    facts: &'a Facts<'a>,
    found: Vec<Lint>,
}

/// What a stage has said so far.
#[derive(Clone, Debug, Default)]
struct Scope {
    names: Vec<String>,
    /// The base is not here: any name may be set.
    unknown: bool,
    has_shell: bool,
    has_directory: bool,
}

impl Check<'_> {
    fn tell(&mut self, rule: Rule, span: Span, message: impl Into<String>) {
        self.found.push(Lint::new(rule, span, message));
    }

    fn instructions(&self) -> impl Iterator<Item = &Word> {
        let all = self.file.stages.iter().flat_map(|stage| {
            std::iter::once(&stage.keyword).chain(stage.instructions.iter().map(|one| &one.keyword))
        });
        self.file.arguments.iter().map(|one| &one.keyword).chain(all)
    }

    /// The majority of the keywords decides.
    fn casing(&mut self) {
        let keywords: Vec<Word> = self.instructions().cloned().collect();
        let is_lower = |word: &Word| !word.text.contains(|c: char| c.is_ascii_uppercase());
        let is_upper = |word: &Word| !word.text.contains(|c: char| c.is_ascii_lowercase());
        let lower = keywords.iter().filter(|word| is_lower(word)).count();
        let upper = keywords.iter().filter(|word| is_upper(word)).count();
        let majority = if lower > upper { "lowercase" } else { "uppercase" };
        for word in keywords {
            if !(if lower > upper { is_lower(&word) } else { is_upper(&word) }) {
                let message = format!(
                    "Command '{}' should match the case of the command majority ({majority})",
                    word.text
                );
                self.tell(Rule::ConsistentInstructionCasing, word.span, message);
            }
        }
    }

    fn from(&mut self, stage: &Stage) {
        let from = &stage.from;
        if let (Some(word), Some(name)) = (&from.as_word, &from.written_name) {
            let keyword = &stage.keyword.text;
            let differ =
                |is: fn(&char) -> bool| keyword.chars().all(|c| is(&c)) && !word.text.chars().all(|c| is(&c));
            if differ(char::is_ascii_uppercase) || differ(char::is_ascii_lowercase) {
                let message = format!("'{}' and '{keyword}' keywords' casing do not match", word.text);
                self.tell(Rule::FromAsCasing, stage.span, message);
            }
            if name.text.contains(|c: char| c.is_ascii_uppercase()) {
                let message = format!("Stage name '{}' should be lowercase", name.text);
                self.tell(Rule::StageNameCasing, stage.span, message);
            }
            let lower = name.text.to_ascii_lowercase();
            if lower == "scratch" || lower == "context" {
                let message = format!("Stage name should not use the same name as reserved stage {lower:?}");
                self.tell(Rule::ReservedStageName, stage.span, message);
            }
            self.describe(stage.span, "FROM", &name.text);
        }
        self.base(stage);
        self.platform(stage);
    }

    fn base(&mut self, stage: &Stage) {
        let from = &stage.from;
        let platforms = self.facts.platforms;
        let declared = |name: &str| value_of(&self.graph.globals, name).or_else(|| platforms.argument(name));
        let words = std::iter::once(&from.image).chain(&from.platform);
        let mut undefined = Vec::new();
        for word in words {
            let expanded = expand(&word.text, self.graph.escape, Quotes::Removed, &declared);
            undefined.extend(expanded.map(|expanded| expanded.undefined).unwrap_or_default());
        }
        let known: Vec<&str> = self.graph.globals.iter().map(|(name, _)| name.as_str()).collect();
        for name in undefined.iter().filter(|name| !known.contains(&name.as_str())) {
            let near =
                nearest(name, &known).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
            let message = format!("FROM argument '{name}' is not declared{near}");
            self.tell(Rule::UndefinedArgInFrom, stage.span, message);
        }
        // As it is when no argument is given.
        let mut defaults: Vec<(String, Option<String>)> = Vec::new();
        for instruction in &self.file.arguments {
            let Kind::Arg(declared) = &instruction.kind else { continue };
            for (name, default) in declared {
                let lookup = |name: &str| value_of(&defaults, name).or_else(|| platforms.argument(name));
                let value = default.as_ref().and_then(|word| {
                    expand(&word.text, self.graph.escape, Quotes::Removed, &lookup)
                        .ok()
                        .map(|found| found.text)
                });
                defaults.push((name.text.clone(), value.or_else(|| platforms.argument(&name.text))));
            }
        }
        let lookup = |name: &str| value_of(&defaults, name).or_else(|| platforms.argument(name));
        let Ok(image) = expand(&from.image.text, self.graph.escape, Quotes::Removed, &lookup) else { return };
        if from.image.text.contains('$') && undefined.is_empty() && image.text.parse::<ImageRef>().is_err() {
            let message = format!(
                "Default value for ARG {} results in empty or invalid base image name",
                from.image.text
            );
            self.tell(Rule::InvalidDefaultArgInFrom, stage.span, message);
        }
    }

    fn platform(&mut self, stage: &Stage) {
        let Some(word) = &stage.from.platform else { return };
        if word.text == "$TARGETPLATFORM" || word.text == "${TARGETPLATFORM}" {
            let message = format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                word.text
            );
            self.tell(Rule::RedundantTargetPlatform, stage.span, message);
        }
        if word.text.contains('$') {
            return;
        }
        // A stage that is named after its platform means it.
        let name = stage.from.name.as_ref().map_or("", |name| name.text.as_str());
        if !word.text.split('/').any(|part| name.contains(&part.to_ascii_lowercase())) {
            let message = format!("FROM --platform flag should not use constant value {:?}", word.text);
            self.tell(Rule::FromPlatformFlagConstDisallowed, stage.span, message);
        }
    }

    /// A comment right above tells what the name is for.
    fn describe(&mut self, span: Span, keyword: &str, name: &str) {
        let line = line_of(self.facts.text, span.start) as usize;
        let above = line.checked_sub(2).and_then(|above| self.facts.text.lines().nth(above));
        let Some(comment) = above.and_then(|line| line.trim().strip_prefix('#')) else { return };
        let text = comment.trim();
        let is_directive = line == 2 && text.contains('=');
        if text.is_empty() || is_directive || text.split_whitespace().next() == Some(name) {
            return;
        }
        let message = format!("Comment for {keyword} should follow the format: `# {name} <description>`");
        self.tell(Rule::InvalidDefinitionDescription, span, message);
    }

    fn description(&mut self, instruction: &Instruction) {
        let Kind::Arg(declared) = &instruction.kind else { return };
        if let [(name, _)] = &declared[..] {
            self.describe(instruction.span, "ARG", &name.text);
        }
    }

    fn stage(&mut self, index: usize, done: &[Option<Scope>]) -> Scope {
        let node = &self.graph.stages[index];
        let mut scope = match &node.base {
            Base::Scratch => Scope { names: vec!["PATH".into()], ..Scope::default() },
            Base::Stage(base) => done[*base].clone().unwrap_or_default(),
            Base::Image(image) => match (self.facts.base)(index) {
                None => Scope { unknown: true, ..Scope::default() },
                Some(base) => {
                    if let Some((actual, expected)) = base.foreign {
                        let message = format!(
                            "Base image {image} was pulled with platform {actual:?}, expected {expected:?} for current build"
                        );
                        self.tell(Rule::InvalidBaseImagePlatform, node.span, message);
                    }
                    let mut names = base.env;
                    names.push("PATH".into());
                    Scope {
                        names,
                        unknown: false,
                        has_shell: base.has_shell,
                        has_directory: base.has_directory,
                    }
                }
            },
        };
        let mut last: [Option<Span>; 3] = [None; 3];
        for step in &node.steps {
            let instruction = &step.instruction;
            if step.origin == Origin::Trigger {
                Self::set(&mut scope, instruction);
                continue;
            }
            let single = match &instruction.kind {
                Kind::Cmd(_) => Some((0, "CMD")),
                Kind::Entrypoint(_) => Some((1, "ENTRYPOINT")),
                Kind::Health(_) => Some((2, "HEALTHCHECK")),
                _ => None,
            };
            if let Some((at, keyword)) = single
                && let Some(earlier) = last[at].replace(instruction.span)
            {
                let message = format!(
                    "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
                );
                self.tell(Rule::MultipleInstructionsDisallowed, earlier, message);
            }
            self.instruction(&scope, instruction);
            Self::set(&mut scope, instruction);
        }
        scope
    }

    /// What the next instructions know.
    fn set(scope: &mut Scope, instruction: &Instruction) {
        match &instruction.kind {
            Kind::Env(pairs) => scope.names.extend(pairs.iter().map(|(name, _)| name.text.clone())),
            Kind::Arg(declared) => scope.names.extend(declared.iter().map(|(name, _)| name.text.clone())),
            Kind::Workdir(_) => scope.has_directory = true,
            Kind::Shell(_) => scope.has_shell = true,
            _ => {}
        }
    }

    fn instruction(&mut self, scope: &Scope, instruction: &Instruction) {
        let span = instruction.span;
        for word in expanded_words(&instruction.kind) {
            self.variables(scope, word, span);
        }
        match &instruction.kind {
            Kind::Cmd(Command::Shell(_)) | Kind::Entrypoint(Command::Shell(_)) if !scope.has_shell => {
                let keyword = if matches!(instruction.kind, Kind::Cmd(_)) { "CMD" } else { "ENTRYPOINT" };
                let message = format!(
                    "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
                );
                self.tell(Rule::JSONArgsRecommended, span, message);
            }
            Kind::Workdir(path) if !scope.has_directory && !path.text.starts_with(['/', '$']) => {
                let message = format!(
                    "Relative workdir {:?} can have unexpected results if the base image changes",
                    path.text
                );
                self.tell(Rule::WorkdirRelativePath, span, message);
            }
            Kind::Env(pairs) => pairs.iter().for_each(|(name, _)| self.secret("ENV", &name.text, span)),
            Kind::Arg(declared) => {
                declared.iter().for_each(|(name, _)| self.secret("ARG", &name.text, span));
                self.description(instruction);
            }
            Kind::Copy(copy) if copy.from.is_none() => self.copied(copy, span),
            Kind::Expose(ports) => ports.iter().for_each(|port| self.port(&port.text, span)),
            _ => {}
        }
    }

    fn variables(&mut self, scope: &Scope, word: &Word, span: Span) {
        let lookup = |name: &str| scope.names.iter().any(|known| known == name).then(String::new);
        let Ok(expanded) = expand(&word.text, self.graph.escape, Quotes::Removed, &lookup) else { return };
        if scope.unknown {
            return;
        }
        let known: Vec<&str> = scope.names.iter().map(String::as_str).collect();
        for name in expanded.undefined {
            let near =
                nearest(&name, &known).map(|near| format!(" (did you mean ${near}?)")).unwrap_or_default();
            self.tell(Rule::UndefinedVar, span, format!("Usage of undefined variable '${name}'{near}"));
        }
    }

    fn secret(&mut self, keyword: &str, name: &str, span: Span) {
        const TELLING: [&str; 10] = [
            "apikey",
            "auth",
            "credential",
            "credentials",
            "key",
            "password",
            "pword",
            "passwd",
            "secret",
            "token",
        ];
        let lower = name.to_ascii_lowercase();
        let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
        if has(&TELLING) && !has(&["public"]) {
            let message =
                format!("Do not use ARG or ENV instructions for sensitive data ({keyword} {name:?})");
            self.tell(Rule::SecretsUsedInArgOrEnv, span, message);
        }
    }

    fn copied(&mut self, copy: &Copy, span: Span) {
        for source in &copy.sources {
            let text = &source.text;
            let is_plain = !text.contains(['*', '?', '[', '$']) && Place::remote(text) == Ok(None);
            let path = text.trim_start_matches("./").trim_matches('/');
            if is_plain && !path.is_empty() && path != "." && (self.facts.ignored)(path) {
                let verb = if copy.add { "Add" } else { "Copy" };
                let message = format!("Attempting to {verb} file {text:?} that is excluded by .dockerignore");
                self.tell(Rule::CopyIgnoredFile, span, message);
            }
        }
    }

    fn port(&mut self, text: &str, span: Span) {
        let (numbers, protocol) = text.split_once('/').unwrap_or((text, ""));
        if protocol.contains(|c: char| c.is_ascii_uppercase()) {
            let message = format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase");
            self.tell(Rule::ExposeProtoCasing, span, message);
        }
        if !numbers.contains('$') && numbers.contains(':') {
            let message = format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'"
            );
            self.tell(Rule::ExposeInvalidFormat, span, message);
        }
    }
}

/// The words whose variables are replaced.
fn expanded_words(kind: &Kind) -> Vec<&Word> {
    match kind {
        Kind::Label(pairs) | Kind::Env(pairs) => {
            pairs.iter().flat_map(|(name, value)| [name, value]).collect()
        }
        Kind::Arg(declared) => declared.iter().filter_map(|(_, default)| default.as_ref()).collect(),
        Kind::Expose(words) | Kind::Volume(words) => words.iter().collect(),
        Kind::User(word) | Kind::Workdir(word) | Kind::StopSignal(word) => vec![word],
        Kind::Run(run) => run.mounts.iter().collect(),
        Kind::Copy(copy) => {
            let flags = [&copy.chown, &copy.chmod, &copy.checksum].into_iter().flatten();
            copy.sources.iter().chain([&copy.to]).chain(flags).chain(&copy.exclude).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
