//! `ficelle build`.

use super::{
    bake,
    context::{Context, Quiet, select},
    failure::Failure,
    output,
};
use crate::session::{
    Build, BuildMode, ImageOptions, OnFailure, Project, PullPolicy, Selection, Session, SessionError, Wish,
    WithDependencies,
};

/// Build the images of services
#[derive(Debug, Default, clap::Args)]
pub(super) struct Args {
    /// Services to build; every service with a `build` section when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// Set a build argument; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,

    /// The builder to use; only `default` is there
    #[arg(long, value_name = "NAME")]
    builder: Option<String>,

    /// Check the build configuration and the Dockerfiles; nothing is built
    #[arg(long)]
    check: bool,

    /// Limit the memory of RUN; not honoured, as with BuildKit
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,

    /// Do not use the cache
    #[arg(long)]
    no_cache: bool,

    /// Print the equivalent bake file; nothing is built
    #[arg(long, conflicts_with = "check")]
    print: bool,

    /// Add a provenance attestation; none is made
    #[arg(long, value_name = "MODE", num_args = 0..=1, default_missing_value = "true")]
    provenance: Option<String>,

    /// Refresh the base images
    #[arg(long)]
    pull: bool,

    /// Do not print the output of the builds
    #[arg(short, long)]
    quiet: bool,

    /// Add an attestation of the parts; none is made
    #[arg(long, value_name = "GENERATOR", num_args = 0..=1, default_missing_value = "true")]
    sbom: Option<String>,

    /// Let RUN use an agent: `default`, or an id with a socket or key files
    #[arg(long, value_name = "ID[=PATH]")]
    ssh: Vec<String>,

    /// Build, too, what the named services need
    #[arg(long)]
    with_dependencies: bool,

    /// Push what was built to its registries
    #[arg(long)]
    push: bool,

    /// Without a meaning any more
    #[arg(long, hide = true)]
    compress: bool,

    /// Without a meaning any more
    #[arg(long, hide = true)]
    force_rm: bool,

    /// Without a meaning any more
    #[arg(long, hide = true)]
    no_rm: bool,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        self.remarks(context)?;
        let mut project = context.load_to_run(&self.services)?;
        let environment = context.source().environment();
        for service in project.services.values_mut() {
            if let Some(build) = &mut service.build {
                self.apply(build, |name| environment.get(name).cloned());
            }
        }
        let session = context.open(project)?;
        let deps = if self.with_dependencies { WithDependencies::Yes } else { WithDependencies::No };
        let selection = select(&session, &self.services, deps)?;
        let mut built = Selection { partial: true, ..Selection::default() };
        for name in selection.services() {
            if session.project().services.get(name).is_some_and(|service| service.build.is_some()) {
                built.named.insert(name.to_owned());
            }
        }
        if built.named.is_empty() {
            context.say("note", "no service to build: none has a `build` section");
            return Ok(0);
        }
        if self.print {
            return output::text(&bake::file(session.project(), &built)).map(|()| 0);
        }
        if self.check {
            return check(context, &session, &built).await;
        }
        let images = ImageOptions { build: BuildMode::Always, pull: Some(PullPolicy::Missing), locked: None };
        let wanted = built.clone();
        let wish = Wish { command: "build", images: Some((built, images)), goal: None };
        let quiet = Quiet { transfer: self.quiet, build: self.quiet };
        let cancel = context.signals.cancel.clone();
        let pushed = session.plan_push(&wanted, OnFailure::Stop);
        context.pursue(&session, &wish, quiet, &cancel).await?;
        if self.push {
            context.push(&session, &pushed, quiet).await?;
        }
        Ok(0)
    }

    /// Flags of the reference that mean nothing here, each by its name.
    fn remarks(&self, context: &Context) -> Result<(), Failure> {
        if let Some(name) = self.builder.as_deref().filter(|name| !["", "default"].contains(name)) {
            return Err(Failure::failed(format!("there is no builder `{name}`"))
                .help("images are built in this process: leave out `--builder`"));
        }
        if self.memory.is_some() {
            context.say("warning", "`--memory` is not honoured: RUN has the memory of the machine");
        }
        Ok(())
    }

    fn apply(&self, build: &mut Build, environment: impl Fn(&str) -> Option<String>) {
        build.every_platform = true;
        build.no_cache |= self.no_cache;
        build.pull |= self.pull;
        build.provenance = self.provenance.clone().or(build.provenance.take());
        build.sbom = self.sbom.clone().or(build.sbom.take());
        for argument in &self.build_arg {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), environment(argument)),
            };
            build.args.insert(name.to_owned(), value);
        }
        for agent in &self.ssh {
            let (id, path) =
                agent.split_once('=').map_or((agent.as_str(), None), |(id, path)| (id, Some(path)));
            build.ssh.insert(id.to_owned(), path.map(str::to_owned));
        }
    }
}

/// 1 when a check found something, as docker's.
async fn check(context: &Context, session: &Session, selection: &Selection) -> Result<i32, Failure> {
    let mut clean = true;
    for (name, build) in builds(session.project(), selection) {
        let checked = session.engine().check_build(name, build).await;
        let (text, nothing) = checked.map_err(|error| {
            Failure::of_session(SessionError::Engine(error), session.project(), context.source())
        })?;
        clean &= nothing;
        output::text(&text)?;
    }
    Ok(i32::from(!clean))
}

/// The builds of the selected services.
pub(super) fn builds<'a>(
    project: &'a Project,
    selection: &'a Selection,
) -> impl Iterator<Item = (&'a str, &'a Build)> {
    let services = project.services.values().filter(|service| selection.contains(&service.name));
    services.filter_map(|service| Some((service.name.as_str(), service.build.as_ref()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_the_command_line_win_over_those_of_the_file() {
        let args = Args {
            build_arg: vec!["A=2".into(), "B".into()],
            no_cache: true,
            ssh: vec!["default".into(), "k=/key".into()],
            sbom: Some("true".into()),
            ..Args::default()
        };
        let mut build = Build { provenance: Some("false".into()), ..Build::default() };
        build.args.insert("A".into(), Some("1".into()));
        args.apply(&mut build, |name| (name == "B").then(|| "from outside".into()));
        assert_eq!(build.args["A"].as_deref(), Some("2"));
        assert_eq!(build.args["B"].as_deref(), Some("from outside"));
        assert!(build.no_cache && !build.pull);
        assert_eq!((build.ssh["default"].as_deref(), build.ssh["k"].as_deref()), (None, Some("/key")));
        assert_eq!((build.provenance.as_deref(), build.sbom.as_deref()), (Some("false"), Some("true")));
    }
}
