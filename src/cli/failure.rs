//! What a command says when it fails: what, where, why, what next; and the exit code.

use std::io::Write as _;

use crate::{
    load::{
        Diagnostic, Paint, Source,
        diagnostic::{Mark, nearest},
    },
    session::{EngineError, ErrorKind, Place, PlanError, Project, SessionError, UnknownService},
    ui::{Palette, render::json_error},
};

/// The end of a command that did not do what it should.
#[derive(Debug)]
pub(super) struct Failure {
    code: i32,
    problems: Vec<Problem>,
    /// The machine may be at fault: what is not well with it is worth telling.
    pub machine: bool,
}

/// One thing that is wrong.
#[derive(Debug)]
pub(super) struct Problem {
    pub diagnostic: Diagnostic,
    /// Reasons below the message, outermost first.
    pub causes: Vec<String>,
    /// Further facts (the failure card); lines below the first are quoted.
    pub facts: Vec<String>,
}

impl Problem {
    pub(super) fn new(diagnostic: Diagnostic) -> Self {
        Self { diagnostic, causes: Vec::new(), facts: Vec::new() }
    }

    /// An engine's error, with the place of the value that asks for it.
    pub(super) fn of_engine(error: &EngineError, project: &Project, source: &dyn Source) -> Self {
        let mut diagnostic = Diagnostic::error(&error.message);
        if let Some(path) = &error.path {
            diagnostic = diagnostic.at(path).mark(mark(project.places.nearest(path), source));
        }
        diagnostic.help.clone_from(&error.help);
        let mut problem = Self::new(diagnostic);
        problem.facts.clone_from(&error.facts);
        for cause in &error.causes {
            // Errors of libraries like to repeat what stands below them.
            let told = problem.causes.last().unwrap_or(&error.message);
            if !told.contains(cause.as_str()) {
                problem.causes.push(cause.clone());
            }
        }
        problem
    }

    fn of_plan(error: PlanError, project: &Project, source: &dyn Source) -> Self {
        let mut diagnostic = Diagnostic::error(error.message);
        if let Some(path) = &error.path {
            diagnostic = diagnostic.at(path).mark(mark(project.places.nearest(path), source));
        }
        diagnostic.help = error.help;
        Self::new(diagnostic)
    }

    fn render(&self, palette: Palette) -> String {
        let paint = paint(palette);
        let mut head = self.diagnostic.clone();
        let help = std::mem::take(&mut head.help);
        let mut text = head.render(paint);
        let line = |word: &str, said: &str| format!("  = {}{said}\n", palette.strong(word));
        text.extend(self.causes.iter().map(|cause| line("because: ", cause)));
        for fact in &self.facts {
            let (first, below) = fact.split_once('\n').unwrap_or((fact, ""));
            text.push_str(&line("", first));
            text.extend(below.lines().map(|said| format!("    | {said}\n")));
        }
        text.extend(help.iter().map(|help| line("help: ", help)));
        text
    }

    fn short(&self) -> String {
        let place = self.diagnostic.place().map(|place| format!("{place}: ")).unwrap_or_default();
        let causes: String = self.causes.iter().map(|cause| format!(": {cause}")).collect();
        format!("{place}{}{causes}", self.diagnostic.message)
    }
}

impl Failure {
    /// The operation failed.
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::of(1, vec![Problem::new(Diagnostic::error(message))])
    }

    pub(super) fn of(code: i32, problems: Vec<Problem>) -> Self {
        Self { code, problems, machine: false }
    }

    /// The project is not what it should be. As docker compose, exit 1; under `--strict`, which it
    /// has not got, 2.
    pub(super) fn project(diagnostics: Vec<Diagnostic>, strict: bool) -> Self {
        Self::of(if strict { 2 } else { 1 }, diagnostics.into_iter().map(Problem::new).collect())
    }

    /// Ends with `code` and no word.
    pub(super) fn silent(code: i32) -> Self {
        Self::of(code, Vec::new())
    }

    /// Ended by signal `number`.
    pub(super) fn interrupted(number: i32) -> Self {
        Self::silent(128 + number)
    }

    pub(super) fn because(mut self, cause: impl Into<String>) -> Self {
        if let Some(problem) = self.problems.last_mut() {
            problem.causes.push(cause.into());
        }
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        if let Some(problem) = self.problems.last_mut() {
            problem.diagnostic.help.push(help.into());
        }
        self
    }

    pub(super) fn code(&self) -> i32 {
        self.code
    }

    /// An engine's error where no project is at hand.
    pub(super) fn of_engine(error: &EngineError, source: &dyn Source) -> Self {
        let problems = vec![Problem::of_engine(error, &Project::default(), source)];
        Self { machine: is_of_machine(error), ..Self::of(engine_code(error), problems) }
    }

    pub(super) fn of_session(error: SessionError, project: &Project, source: &dyn Source) -> Self {
        match error {
            SessionError::Plan(error) => {
                Self::of(if error.drift { 3 } else { 1 }, vec![Problem::of_plan(error, project, source)])
            }
            SessionError::Engine(error) => {
                let problems = vec![Problem::of_engine(&error, project, source)];
                Self { machine: is_of_machine(&error), ..Self::of(engine_code(&error), problems) }
            }
            SessionError::Check(errors) => {
                let problems = errors.iter().map(|error| Problem::of_engine(error, project, source));
                Self::of(1, problems.collect())
            }
            SessionError::Cycle(cycle) => {
                let path = cycle.0.first().map(|service| format!("services.{service}.depends_on"));
                let place = path.as_ref().and_then(|path| project.places.nearest(path));
                let diagnostic = Diagnostic::error(format!("dependency cycle between services: {cycle}"))
                    .mark(mark(place, source))
                    .help("take one of these dependencies out");
                Self::of(1, vec![Problem::new(diagnostic)])
            }
        }
    }

    pub(super) fn unknown_service(error: &UnknownService, project: &Project) -> Self {
        let mut diagnostic = Diagnostic::error(error.to_string());
        if let Some(service) = project.disabled.get(&error.name) {
            let profiles = service.profiles.join(", ");
            diagnostic = diagnostic.help(format!(
                "`{}` is turned off by its profiles ({profiles}): add `--profile {}`",
                error.name,
                service.profiles.first().map_or("", String::as_str)
            ));
        } else if let Some(right) = nearest(&error.name, error.known.iter().map(String::as_str)) {
            diagnostic = diagnostic.help(format!("did you mean `{right}`?"));
        } else if !error.known.is_empty() {
            diagnostic = diagnostic.help(format!("the services are: {}", error.known.join(", ")));
        }
        Self::of(1, vec![Problem::new(diagnostic)])
    }

    /// Every problem, a blank line between two.
    pub(super) fn text(&self, palette: Palette) -> String {
        let problems: Vec<String> = self.problems.iter().map(|problem| problem.render(palette)).collect();
        problems.join("\n")
    }

    /// Every problem in a form of its own, a line each; what caused it stands in its message.
    pub(super) fn told(&self, form: impl Fn(&Diagnostic) -> String) -> String {
        let whole = |problem: &Problem| {
            let causes: String = problem.causes.iter().map(|cause| format!(": {cause}")).collect();
            let message = format!("{}{causes}", problem.diagnostic.message);
            form(&Diagnostic { message, ..problem.diagnostic.clone() }) + "\n"
        };
        self.problems.iter().map(whole).collect()
    }

    pub(super) fn json(&self) -> String {
        self.problems.iter().map(|problem| json_error(&problem.short()) + "\n").collect()
    }

    pub(super) fn report_plain(&self) {
        write(&self.text(Palette { colour: false }));
    }
}

pub(super) fn paint(palette: Palette) -> Paint {
    if palette.colour { Paint::Colour } else { Paint::Plain }
}

/// Talk that cannot be told is lost; the exit code still tells.
pub(super) fn write(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Neither the project nor what was typed explains it.
fn is_of_machine(error: &EngineError) -> bool {
    matches!(error.kind, ErrorKind::Permission | ErrorKind::Exhausted | ErrorKind::Other)
        && error.path.is_none()
}

/// An engine that docker compose has no word for is a mistake in what is ours.
pub(super) fn engine_code(error: &EngineError) -> i32 {
    match error.kind {
        ErrorKind::Program(code) => return code,
        ErrorKind::Drift => return 3,
        _ => {}
    }
    if error.kind == ErrorKind::Unsupported && error.path.is_none() { 2 } else { 1 }
}

/// The words at `place`, to the end of their line, when the file can still be read.
pub(super) fn mark(place: Option<&Place>, source: &dyn Source) -> Option<Mark> {
    let place = place?;
    let text = source.read(std::path::Path::new(&*place.file)).ok()?;
    let line = text.lines().nth(usize::try_from(place.line).ok()?.checked_sub(1)?)?.to_owned();
    let column = usize::try_from(place.column).ok()?.saturating_sub(1);
    let words: String = line.chars().skip(column).collect();
    let words = words.split(" #").next().unwrap_or_default().trim_end();
    let length = u32::try_from(words.chars().count()).unwrap_or(1).max(1);
    Some(Mark { place: place.clone(), length, line, text: String::new() })
}
