//! What every command has at hand: its flags, the screen, the signals, the way to project and engine.

use std::{
    collections::BTreeSet,
    io::IsTerminal,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{
    card,
    failure::{self, Failure},
    global::{Global, MessageFormat},
    output,
    signals::Signals,
};
use crate::{
    load::{self, Diagnostic, Effect, LoadOptions, Loaded, Resolved, Severity, Source, System, Unsupported},
    session::{
        self, Choice, Engine, Event, ImageAct, ImageAnswer, Op, Outcome, Plan, Preview, Project, Selection,
        Service, Session, Step, StepId, Wish, WithDependencies,
    },
    ui::{
        Palette,
        render::plan_lines,
        terminal::{Mode, Screen},
    },
};

pub(super) struct Context {
    pub global: Global,
    pub signals: Signals,
    screen: Mutex<Option<Screen>>,
    source: System,
}

/// Which kinds of steps keep their details to themselves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Quiet {
    /// Pulls and pushes.
    pub transfer: bool,
    pub build: bool,
}

impl Context {
    pub(super) fn new(global: Global, signals: Signals) -> Self {
        Self { global, signals, screen: Mutex::new(None), source: system() }
    }

    /// Of standard error.
    pub(super) fn palette(&self) -> Palette {
        self.global.palette(std::io::stderr().is_terminal())
    }

    /// Of standard output.
    pub(super) fn out_palette(&self) -> Palette {
        self.global.palette(std::io::stdout().is_terminal())
    }

    pub(super) fn source(&self) -> &dyn Source {
        &self.source
    }

    /// A remark for the user, on standard error.
    pub(super) fn say(&self, level: &str, text: &str) {
        self.with_screen(|screen| screen.say(level, text));
    }

    fn with_screen<T>(&self, act: impl FnOnce(&Screen) -> T) -> T {
        let mut screen = self.screen();
        act(screen.get_or_insert_with(|| Screen::new(self.global.mode(), self.palette())))
    }

    /// Lets `write` print while the live picture is off the terminal.
    pub(super) fn above<T>(&self, write: impl FnOnce() -> T) -> T {
        self.with_screen(|screen| screen.above(write))
    }

    /// Ends the live picture, if there is one.
    pub(super) fn settle(&self) {
        if let Some(screen) = &*self.screen() {
            screen.settle();
        }
    }

    fn screen(&self) -> MutexGuard<'_, Option<Screen>> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn report(&self, failure: &Failure) {
        self.settle();
        failure::write(&match (self.global.message_format, self.global.mode()) {
            (MessageFormat::Json, _) => failure.told(Diagnostic::json),
            (MessageFormat::Github, _) => failure.told(Diagnostic::github),
            (MessageFormat::Text, Mode::Json) => failure.json(),
            (MessageFormat::Text, Mode::Live | Mode::Plain | Mode::Quiet) => failure.text(self.palette()),
        });
    }

    pub(super) fn load_options(&self) -> LoadOptions {
        let global = &self.global;
        LoadOptions {
            files: global.file.clone(),
            project_name: global.project_name.clone(),
            project_directory: global.project_directory.clone(),
            profiles: global.profile.clone(),
            env_files: global.env_file.clone(),
            ..LoadOptions::default()
        }
    }

    /// Loads with these options; warnings are told, and are errors when `--strict`.
    pub(super) fn load_with(&self, options: &LoadOptions) -> Result<Loaded, Failure> {
        let loaded = load::load(options, &self.source).map_err(|found| Failure::project(found, false))?;
        self.warn(&loaded.resolved.warnings)?;
        Ok(loaded)
    }

    /// The same of what is only shown.
    pub(super) fn resolve_with(&self, options: &LoadOptions) -> Result<Resolved, Failure> {
        let resolved =
            load::resolve(options, &self.source).map_err(|found| Failure::project(found, false))?;
        self.warn(&resolved.warnings)?;
        Ok(resolved)
    }

    fn warn(&self, warnings: &[Diagnostic]) -> Result<(), Failure> {
        if self.global.strict && !warnings.is_empty() {
            let as_error = |warning: &Diagnostic| Diagnostic { severity: Severity::Error, ..warning.clone() };
            return Err(Failure::project(warnings.iter().map(as_error).collect(), true));
        }
        for warning in warnings {
            match (self.global.mode(), self.global.message_format) {
                (Mode::Quiet, _) => {}
                (_, MessageFormat::Json) => failure::write(&(warning.json() + "\n")),
                (_, MessageFormat::Github) => failure::write(&(warning.github() + "\n")),
                (Mode::Json, MessageFormat::Text) => self.say("warning", &warning.short()),
                (Mode::Live | Mode::Plain, MessageFormat::Text) => {
                    self.settle();
                    failure::write(&warning.render(failure::paint(self.palette())));
                }
            }
        }
        Ok(())
    }

    /// The project of the files, for commands that look at, stop or remove what is there.
    fn load(&self) -> Result<Loaded, Failure> {
        self.load_with(&LoadOptions { all_resources: true, ..self.load_options() })
    }

    /// The project of the files, for commands that make containers of `services` (of all when
    /// empty): a service that is named needs no profile turned on, and what this engine does not
    /// honour is told.
    pub(super) fn load_to_run(&self, services: &[String]) -> Result<Project, Failure> {
        self.load_overlaid(services, None)
    }

    /// The same with one more Compose file laid over the others.
    pub(super) fn load_overlaid(
        &self,
        services: &[String],
        overlay: Option<String>,
    ) -> Result<Project, Failure> {
        let all_resources = self.global.all_resources;
        let mut options = LoadOptions { all_resources, overlay, ..self.load_options() };
        let mut loaded =
            load::load(&options, &self.source).map_err(|found| Failure::project(found, false))?;
        let disabled = services.iter().filter_map(|name| loaded.project.disabled.get(name));
        let profiles: Vec<String> = disabled.flat_map(|service| service.profiles.iter().cloned()).collect();
        if !profiles.is_empty() {
            options.profiles.extend(self.active_profiles());
            options.profiles.extend(profiles);
            loaded = load::load(&options, &self.source).map_err(|found| Failure::project(found, false))?;
        }
        self.warn(&loaded.resolved.warnings)?;
        self.refuse_unsupported(&loaded, services)?;
        self.warn_of_limits(&loaded.project)?;
        Ok(loaded.project)
    }

    /// Those of the environment count only while no profile is named.
    fn active_profiles(&self) -> Vec<String> {
        if !self.global.profile.is_empty() {
            return Vec::new();
        }
        let list = self.source.environment().remove("COMPOSE_PROFILES").unwrap_or_default();
        list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect()
    }

    fn refuse_unsupported(&self, loaded: &Loaded, services: &[String]) -> Result<(), Failure> {
        let graph = session::Graph::of(&loaded.project).ok();
        let concerned = |path: &str| {
            let Some(service) = path.strip_prefix("services.") else { return true };
            let named = |name: &String| {
                let needed = graph.as_ref().map(|graph| graph.with_dependencies(name)).unwrap_or_default();
                needed.iter().any(|needed| service == *needed || service.starts_with(&format!("{needed}.")))
            };
            services.is_empty() || services.iter().any(named)
        };
        let told = |found: &Unsupported, severity: Severity| {
            let mark = failure::mark(found.place.as_ref(), &self.source);
            Diagnostic { severity, ..Diagnostic::error(&found.text) }.mark(mark)
        };
        let found: Vec<_> = loaded.unsupported.iter().filter(|found| concerned(&found.path)).collect();
        let refused = found.iter().filter(|found| found.effect == Effect::Refused);
        let refused: Vec<_> = refused.map(|found| told(found, Severity::Error)).collect();
        if !refused.is_empty() {
            return Err(Failure::project(refused, false));
        }
        let ignored: Vec<_> = found.iter().map(|found| told(found, Severity::Warning)).collect();
        self.warn(&ignored)
    }

    /// One warning for all limits that this user cannot have.
    fn warn_of_limits(&self, project: &Project) -> Result<(), Failure> {
        let Some(unlimited) = self.connect()?.capabilities().unlimited else { return Ok(()) };
        let lost = |service: &Service| {
            let needed = service.container.limits.controllers();
            needed.into_iter().filter(|name| unlimited.controllers.contains(name)).collect::<Vec<_>>()
        };
        let (mut names, mut controllers) = (Vec::new(), BTreeSet::new());
        for service in project.services.values() {
            let lost = lost(service);
            if !lost.is_empty() {
                names.push(format!("`{}`", service.name));
                controllers.extend(lost);
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        let controllers = controllers.into_iter().collect::<Vec<_>>().join(", ");
        let text = format!("limits ({controllers}) have no effect for {}", names.join(", "));
        self.warn(&[Diagnostic::warning(text).help(unlimited.why)])
    }

    pub(super) fn connect(&self) -> Result<Arc<dyn Engine>, Failure> {
        let connected =
            session::connect(&choice(&self.global)).map_err(|e| Failure::of_engine(&e, &self.source))?;
        for note in &connected.notes {
            self.say("note", note);
        }
        Ok(connected.engine)
    }

    /// For commands that need the files.
    pub(super) fn open(&self, project: Project) -> Result<Session, Failure> {
        let engine = self.connect()?;
        let shown = project.clone();
        Session::new(project, engine, self.global.limit())
            .map_err(|error| Failure::of_session(error, &shown, &self.source))
    }

    /// For commands that look at, stop or remove what is there: with `--project-name` and no file
    /// to be found, the project is what the engine has under that name.
    pub(super) async fn open_or_adopt(&self) -> Result<Session, Failure> {
        let named = match &self.global.project_name {
            Some(name) => Some(name.clone()),
            None => self.source.environment().remove("COMPOSE_PROJECT_NAME").filter(|name| !name.is_empty()),
        };
        match named {
            Some(name) if load::finds_nothing(&self.load_options(), &self.source) => {
                let engine = self.connect()?;
                Session::adopt(&name, engine, self.global.limit())
                    .await
                    .map_err(|error| Failure::of_session(error, &Project::default(), &self.source))
            }
            _ => self.open(self.load()?.project),
        }
    }

    /// Makes `wish` true, or prints what would be done when `--dry-run`. `None` after a dry run.
    pub(super) async fn pursue(
        &self,
        session: &Session,
        wish: &Wish,
        quiet: Quiet,
        cancel: &watch::Receiver<bool>,
    ) -> Result<Option<Outcome>, Failure> {
        self.pursue_heard(session, wish, quiet, cancel, &mut |_| {}).await
    }

    /// The same; `also` hears every event after the screen.
    pub(super) async fn pursue_heard(
        &self,
        session: &Session,
        wish: &Wish,
        quiet: Quiet,
        cancel: &watch::Receiver<bool>,
        also: &mut (dyn FnMut(&Event) + Send),
    ) -> Result<Option<Outcome>, Failure> {
        let failure = |error| Failure::of_session(error, session.project(), &self.source);
        if self.global.dry_run {
            let preview = session.preview(wish).await.map_err(failure)?;
            self.print_preview(&preview)?;
            return Ok(None);
        }
        let outcome = session.pursue(wish, cancel, &mut self.ears(quiet, also)).await;
        self.settle();
        self.reached(outcome.map_err(failure)?, session.project()).map(Some)
    }

    /// Sends images to their registries, or prints what would be sent when `--dry-run`.
    pub(super) async fn push(&self, session: &Session, plan: &Plan, quiet: Quiet) -> Result<(), Failure> {
        if self.global.dry_run {
            let preview = Preview { images: plan.clone(), ..Preview::default() };
            return self.print_preview(&preview);
        }
        let cancel = self.signals.cancel.clone();
        let outcome = session.carry_out_images(plan, &cancel, &mut self.ears(quiet, &mut |_| {})).await;
        self.settle();
        self.reached(outcome, session.project()).map(drop)
    }

    /// Pulls or pushes one image, shown like those of a project.
    pub(super) async fn transfer(&self, act: ImageAct, quiet: bool) -> Result<ImageAnswer, Failure> {
        let engine = self.connect()?;
        let (mut also, mut deaf) = (|_: &Event| {}, |_: Event| {});
        let mut ears = self.ears(Quiet::default(), &mut also);
        let hear: &mut (dyn FnMut(Event) + Send) = if quiet { &mut deaf } else { &mut ears };
        let answer = session::transfer(&*engine, act, hear).await;
        self.settle();
        answer.map_err(|error| Failure::of_engine(&error, self.source()))
    }

    /// Hears events for the screen, and for `also` after it.
    fn ears<'a>(
        &'a self,
        quiet: Quiet,
        also: &'a mut (dyn FnMut(&Event) + Send),
    ) -> impl FnMut(Event) + Send + 'a {
        let mut silent = BTreeSet::new();
        move |event: Event| {
            note_silent(&event, quiet, &mut silent);
            let hushed = matches!(&event, Event::Progress { step, .. } if silent.contains(step));
            if !hushed {
                self.with_screen(|screen| screen.hear(&event));
            }
            also(&event);
        }
    }

    fn reached(&self, outcome: Outcome, project: &Project) -> Result<Outcome, Failure> {
        if !outcome.failed.is_empty() {
            return Err(card::failure(&outcome, project, &self.source));
        }
        if outcome.cancelled {
            return Err(Failure::interrupted(self.signals.first().unwrap_or(2)));
        }
        Ok(outcome)
    }

    fn print_preview(&self, preview: &Preview) -> Result<(), Failure> {
        self.say("note", "DRY-RUN MODE - this is what would be done; nothing is changed");
        let palette = self.out_palette();
        let mut lines = plan_lines(&preview.images, palette);
        let brings = |step: &Step| matches!(step.op, Op::Pull(_) | Op::Build(_));
        if preview.images.steps.iter().any(brings) && !preview.rest.steps.is_empty() {
            self.say("note", "images still to be pulled or built are assumed to come out as they are now");
        }
        lines.extend(plan_lines(&preview.rest, palette));
        if lines.is_empty() {
            lines.push("nothing to do".to_owned());
        }
        for note in preview.images.notes.iter().chain(&preview.rest.notes) {
            self.say("warning", note);
        }
        output::lines(lines.iter().map(String::as_str))
    }
}

/// The machine, with the registries that projects may come from.
fn system() -> System {
    System { published: Some(session::published_project) }
}

/// To be called before any thread exists.
pub(super) fn prepare(global: &Global) -> Result<(), session::EngineError> {
    session::prepare(&choice(global))
}

/// What is told of that, where it is needed.
pub(super) fn unprepared(error: &session::EngineError) -> Failure {
    Failure::of_engine(error, &system())
}

fn choice(global: &Global) -> Choice {
    Choice { engine: global.engine.clone(), root: global.root.clone(), docker: None }.with_environment()
}

fn note_silent(event: &Event, quiet: Quiet, silent: &mut BTreeSet<StepId>) {
    let Event::Planned { plan } = event else { return };
    silent.clear();
    for (number, step) in plan.steps.iter().enumerate() {
        let hushed = match step.op {
            Op::Pull(_) | Op::Push(_) => quiet.transfer,
            Op::Build(_) => quiet.build,
            _ => false,
        };
        if hushed {
            silent.insert(StepId(number));
        }
    }
}

/// The services that `names` mean (all when empty), or which name is none.
pub(super) fn select(
    session: &Session,
    names: &[String],
    dependencies: WithDependencies,
) -> Result<Selection, Failure> {
    session.select(names, dependencies).map_err(|error| Failure::unknown_service(&error, session.project()))
}
