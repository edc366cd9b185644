//! `ficelle up`.

use std::time::Duration;

use super::{
    attach::{Attach, Until},
    context::{Context, select},
    failure::Failure,
    running::{Manner, Running},
    when,
};
use crate::session::{Outcome, Session, WaitOptions};

/// Create and start containers
///
/// Brings the project to what the files say: pulls or builds missing images, creates networks,
/// volumes and containers, recreates containers whose configuration or image changed, and starts
/// them in the order of their dependencies. What is already so is left alone.
///
/// Without `--detach` the output of the containers follows; Ctrl-C stops them, twice kills them.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag as typed")]
pub(super) struct Args {
    /// Services to start, with all they need; every service when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// Run in the background
    #[arg(short, long, conflicts_with_all = ["abort_on_container_exit", "abort_on_container_failure", "exit_code_from", "attach", "no_attach", "attach_dependencies"])]
    detach: bool,

    #[command(flatten)]
    running: Running,

    /// Do not print the output of builds
    #[arg(long)]
    quiet_build: bool,

    /// Recreate the services that the named ones need, too
    #[arg(long, conflicts_with = "no_recreate")]
    always_recreate_deps: bool,

    /// Give containers new anonymous volumes in place of those of their predecessors
    #[arg(short = 'V', long)]
    renew_anon_volumes: bool,

    /// Leave the services alone that the named ones need
    #[arg(long)]
    no_deps: bool,

    /// Create containers and do not start them
    #[arg(long, conflicts_with_all = ["wait", "abort_on_container_exit", "abort_on_container_failure", "exit_code_from"])]
    no_start: bool,

    /// Seconds between the stop signal and SIGKILL, when containers are stopped
    #[arg(short, long, value_name = "SECONDS", value_parser = when::seconds)]
    timeout: Option<Duration>,

    /// Wait until every service is running, and healthy where it has a check; implies `--detach`
    #[arg(long, conflicts_with_all = ["abort_on_container_exit", "abort_on_container_failure", "attach", "attach_dependencies"])]
    wait: bool,

    /// Wait at most so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = when::seconds, requires = "wait")]
    wait_timeout: Option<Duration>,

    /// Stop everything when any container ends
    #[arg(long)]
    abort_on_container_exit: bool,

    /// Stop everything when any container ends with an error
    #[arg(long, conflicts_with = "abort_on_container_exit")]
    abort_on_container_failure: bool,

    /// Exit with the code of this service's container; implies `--abort-on-container-exit`
    #[arg(long, value_name = "SERVICE", conflicts_with = "abort_on_container_failure")]
    exit_code_from: Option<String>,

    /// Follow only these services; may be given several times
    #[arg(long, value_name = "SERVICE", conflicts_with = "attach_dependencies")]
    attach: Vec<String>,

    /// Do not follow these services; may be given several times
    #[arg(long, value_name = "SERVICE")]
    no_attach: Vec<String>,

    /// Follow the services, too, that the named ones need
    #[arg(long)]
    attach_dependencies: bool,

    /// Print no colours in the output of containers
    #[arg(long)]
    no_color: bool,

    /// Do not print which container a line is from
    #[arg(long)]
    no_log_prefix: bool,

    /// Print when each line was written
    #[arg(long)]
    timestamps: bool,
}

impl Args {
    /// Whether the output of the containers is followed.
    pub(super) fn attached(&self) -> bool {
        !(self.detach || self.wait || self.no_start)
    }

    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open(context.load_to_run(&self.services)?)?;
        let began = std::time::SystemTime::now();
        let wish = self.running.wish("up", &session, &self.services, self.manner())?;
        let attach = if self.attached() { Some(self.attachment(&session, began)?) } else { None };
        let quiet = self.running.quiet(self.quiet_build);
        if let Some(attach) = attach {
            return attach.run(context, &session, &wish, quiet).await;
        }
        let cancel = context.signals.cancel.clone();
        if let Some(outcome) = context.pursue(&session, &wish, quiet, &cancel).await? {
            conclude(context, &session, &outcome);
        }
        Ok(0)
    }

    fn manner(&self) -> Manner {
        Manner {
            start: !self.no_start,
            dependencies: !self.no_deps,
            always_recreate_deps: self.always_recreate_deps,
            renew_anon_volumes: self.renew_anon_volumes,
            timeout: self.timeout,
            wait: self.wait.then_some(WaitOptions { timeout: self.wait_timeout }),
        }
    }

    fn attachment(&self, session: &Session, since: std::time::SystemTime) -> Result<Attach, Failure> {
        use crate::session::WithDependencies::{No, Yes};

        let deps = if self.no_deps { No } else { Yes };
        let all = select(session, &self.services, deps)?;
        let wanted = if self.attach_dependencies || !self.attach.is_empty() {
            select(
                session,
                if self.attach.is_empty() { &self.services } else { &self.attach },
                if self.attach.is_empty() { deps } else { No },
            )?
        } else {
            select(session, &self.services, No)?
        };
        if !self.no_attach.is_empty() {
            select(session, &self.no_attach, No)?;
        }
        let explicit = !self.attach.is_empty();
        let services = wanted.services().filter(|name| {
            let attach = explicit || session.project().services.get(*name).is_none_or(|s| s.attach);
            attach && !self.no_attach.iter().any(|no| no == name)
        });
        let services = services.map(ToOwned::to_owned).collect();
        let until = match &self.exit_code_from {
            Some(service) => {
                select(session, std::slice::from_ref(service), No)?;
                Until::AnyEnds { code_from: Some(service.clone()) }
            }
            None if self.abort_on_container_exit => Until::AnyEnds { code_from: None },
            None if self.abort_on_container_failure => Until::AnyFails,
            None => Until::AllEnd,
        };
        Ok(Attach {
            selection: all,
            services,
            since,
            until,
            timeout: self.timeout,
            prefix: !self.no_log_prefix,
            timestamps: self.timestamps,
            colour: !self.no_color,
            terminal: std::io::IsTerminal::is_terminal(&std::io::stdout()),
        })
    }
}

/// After a detached run: says so when there was nothing to do.
fn conclude(context: &Context, session: &Session, outcome: &Outcome) {
    if outcome.done == 0 {
        let there = match outcome.unchanged.len() {
            0 => "the project has no containers".to_owned(),
            1 => "1 container is as the files say".to_owned(),
            number => format!("{number} containers are as the files say"),
        };
        context.say("note", &format!("{}: nothing to do, {there}", session.project().name));
    }
}
