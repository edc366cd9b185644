//! What `up` and `create` have in common: how containers come to be.

use std::{collections::BTreeMap, time::Duration};

use clap::{Args, ValueEnum};

use super::{
    context::{Quiet, select},
    failure::Failure,
    locked,
};
use crate::session::{
    BuildMode, Goal, ImageOptions, Orphans, PullPolicy, Recreate, Session, WaitOptions, Wish,
    WithDependencies,
};

#[derive(Clone, Debug, Args)]
pub(super) struct Running {
    /// Build images before starting containers, even when they are there
    #[arg(long, conflicts_with = "no_build")]
    pub build: bool,

    /// Do not build, even when an image is missing
    #[arg(long)]
    pub no_build: bool,

    /// When to pull images before running
    #[arg(long, value_name = "WHEN", default_value = "policy")]
    pub pull: Pull,

    /// Fail with code 3 when an image is not the one in `ficelle.lock`
    #[arg(long)]
    pub locked: bool,

    /// Do not print the progress of pulls
    #[arg(long)]
    pub quiet_pull: bool,

    /// Recreate containers even when neither configuration nor image has changed
    #[arg(long, conflicts_with = "no_recreate")]
    pub force_recreate: bool,

    /// Keep containers that exist, whatever has changed
    #[arg(long)]
    pub no_recreate: bool,

    /// Remove containers of services that the file no longer names
    #[arg(long, env = "COMPOSE_REMOVE_ORPHANS", hide_env = true, value_parser = clap::builder::FalseyValueParser::new())]
    pub remove_orphans: bool,

    /// Say nothing of containers of services that the file no longer names
    #[arg(long, env = "COMPOSE_IGNORE_ORPHANS", hide = true, value_parser = clap::builder::FalseyValueParser::new())]
    pub ignore_orphans: bool,

    /// Number of containers of a service, over what the file says; may be given several times
    #[arg(long, value_name = "SERVICE=NUM", value_parser = scale)]
    pub scale: Vec<(String, u32)>,

    /// Answer yes to every question (this version asks none)
    #[arg(short = 'y', long)]
    pub yes: bool,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Pull {
    Always,
    Missing,
    Never,
    /// As `pull_policy` of the service says
    Policy,
    /// Build in place of pulling
    Build,
}

impl Pull {
    /// In place of the `pull_policy` of the services; `None` where that decides.
    pub(super) fn policy(self) -> Option<PullPolicy> {
        match self {
            Self::Always => Some(PullPolicy::Always),
            Self::Missing => Some(PullPolicy::Missing),
            Self::Never => Some(PullPolicy::Never),
            Self::Build => Some(PullPolicy::Build),
            Self::Policy => None,
        }
    }
}

pub(super) fn scale(text: &str) -> Result<(String, u32), String> {
    let (service, number) = text.split_once('=').ok_or("expected SERVICE=NUM")?;
    let number = number.parse().map_err(|_| format!("`{number}` is no number of containers"))?;
    Ok((service.to_owned(), number))
}

pub(super) const fn orphans(remove: bool, ignore: bool) -> Orphans {
    match (remove, ignore) {
        (true, _) => Orphans::Removed,
        (false, true) => Orphans::Ignored,
        (false, false) => Orphans::Told,
    }
}

/// What `up` says beyond [`Running`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Manner {
    pub start: bool,
    pub dependencies: bool,
    pub always_recreate_deps: bool,
    pub renew_anon_volumes: bool,
    pub timeout: Option<Duration>,
    pub wait: Option<WaitOptions>,
}

impl Running {
    pub(super) fn wish(
        &self,
        command: &'static str,
        session: &Session,
        names: &[String],
        manner: Manner,
    ) -> Result<Wish, Failure> {
        let with = if manner.dependencies { WithDependencies::Yes } else { WithDependencies::No };
        let selection = select(session, names, with)?;
        if session.project().services.is_empty() {
            return Err(Failure::failed("no service selected")
                .help("the files have no service that is turned on; `--profile` turns on more"));
        }
        let scale: BTreeMap<String, u32> = self.scale.iter().cloned().collect();
        let scaled: Vec<String> = scale.keys().cloned().collect();
        if !scaled.is_empty() {
            select(session, &scaled, WithDependencies::No)?;
        }
        let recreate = match (self.force_recreate, self.no_recreate) {
            (true, _) => Recreate::Always,
            (_, true) => Recreate::Never,
            _ => Recreate::Diverged,
        };
        let recreate_dependencies = match (manner.always_recreate_deps, self.no_recreate) {
            (true, _) => Recreate::Always,
            (_, true) => Recreate::Never,
            _ => Recreate::Diverged,
        };
        let goal = Goal::Running {
            selection: selection.clone(),
            recreate,
            recreate_dependencies,
            start: manner.start,
            orphans: orphans(self.remove_orphans, self.ignore_orphans),
            renew_anon_volumes: manner.renew_anon_volumes,
            scale,
            timeout: manner.timeout,
            wait: manner.wait,
        };
        Ok(Wish { command, images: Some((selection, self.images(session)?)), goal: Some(goal) })
    }

    fn images(&self, session: &Session) -> Result<ImageOptions, Failure> {
        let build = match (self.build, self.no_build) {
            (true, _) => BuildMode::Always,
            (_, true) => BuildMode::Never,
            _ => BuildMode::Missing,
        };
        Ok(ImageOptions {
            build,
            pull: self.pull.policy(),
            locked: locked::wanted(self.locked, session.project())?,
        })
    }

    pub(super) fn quiet(&self, build: bool) -> Quiet {
        Quiet { transfer: self.quiet_pull, build }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_a_service_and_a_number() {
        assert_eq!(scale("web=3"), Ok(("web".into(), 3)));
        assert!(scale("web").is_err());
        assert!(scale("web=-1").is_err());
    }
}
