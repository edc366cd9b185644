//! `ficelle build`.

use super::{
    context::{Context, Quiet, select},
    failure::Failure,
};
use crate::session::{
    Build, BuildMode, ImageOptions, OnFailure, PullPolicy, Selection, Wish, WithDependencies,
};

/// Build the images of services
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services to build; every service with a `build` section when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// Set a build argument; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,

    /// Do not use the cache
    #[arg(long)]
    no_cache: bool,

    /// Refresh the base images
    #[arg(long)]
    pull: bool,

    /// Build, too, what the named services need
    #[arg(long)]
    with_dependencies: bool,

    /// Push what was built to its registries
    #[arg(long)]
    push: bool,

    /// Do not print the output of the builds
    #[arg(short, long)]
    quiet: bool,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
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

    fn apply(&self, build: &mut Build, environment: impl Fn(&str) -> Option<String>) {
        build.no_cache |= self.no_cache;
        build.pull |= self.pull;
        for argument in &self.build_arg {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), environment(argument)),
            };
            build.args.insert(name.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_the_command_line_win_over_those_of_the_file() {
        let args = Args {
            services: vec![],
            build_arg: vec!["A=2".into(), "B".into()],
            no_cache: true,
            pull: false,
            push: false,
            with_dependencies: false,
            quiet: false,
        };
        let mut build = Build::default();
        build.args.insert("A".into(), Some("1".into()));
        args.apply(&mut build, |name| (name == "B").then(|| "from outside".into()));
        assert_eq!(build.args["A"].as_deref(), Some("2"));
        assert_eq!(build.args["B"].as_deref(), Some("from outside"));
        assert!(build.no_cache && !build.pull);
    }
}
