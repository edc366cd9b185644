//! `ficelle exec`.

use super::{
    console,
    context::Context,
    converse::{Manner, converse},
    failure::Failure,
    target,
};
use crate::session::{ExecRequest, SessionError};

/// Run a command in a running container
///
/// It is run as the container's own program is: same user, environment, capabilities and limits, but
/// for what the flags say. With a terminal on both ends it gets one, too. Its exit code is passed on;
/// 126 is a program that cannot be executed, 127 one that is missing.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag as typed")]
pub(super) struct Args {
    /// The service, then the program and its arguments
    #[arg(value_names = ["SERVICE", "COMMAND"], required = true, num_args = 2.., trailing_var_arg = true)]
    words: Vec<String>,

    /// Do not wait for its end, and print nothing
    #[arg(short, long)]
    detach: bool,

    /// Set a variable (`NAME=value`; `NAME` alone passes ours on); may be given several times
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,

    /// Number of the container when a service has several
    #[arg(long, value_name = "N")]
    index: Option<u32>,

    /// Pass standard input on
    #[arg(short, long, hide = true, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    interactive: bool,

    /// Give it no terminal
    #[arg(short = 'T', long = "no-tty", visible_alias = "no-TTY", conflicts_with = "tty")]
    no_tty: bool,

    /// Give it a terminal
    #[arg(short, long, hide = true)]
    tty: bool,

    /// Give it every capability
    #[arg(long)]
    privileged: bool,

    /// Run it as this user
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Directory it starts in
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let Some((service, command)) = self.words.split_first() else { return Ok(2) };
        let session = context.open_or_adopt().await?;
        let replicas = target::replicas(context, &session, service).await?;
        let container = target::pick(replicas, service, self.index, true)?;
        if context.global.dry_run {
            let command = command.join(" ");
            context.say("note", &format!("DRY-RUN MODE - would run in {}: {command}", container.name));
            return Ok(0);
        }
        let tty = !self.detach && !self.no_tty && (self.tty || console::is_interactive());
        let request = ExecRequest {
            project: container.project,
            container: container.id,
            name: container.name,
            command: command.to_vec(),
            environment: environment(&self.env),
            user: self.user,
            working_dir: self.workdir,
            privileged: self.privileged,
            tty,
            size: console::size().filter(|_| tty),
            stdin: self.interactive && !self.detach,
        };
        let failure =
            |error| Failure::of_session(SessionError::Engine(error), session.project(), context.source());
        if self.detach {
            session.engine().exec_detached(&request).await.map_err(failure)?;
            return Ok(0);
        }
        let conversation = session.engine().exec(&request).await.map_err(failure)?;
        let manner = Manner { tty, detach: None, signals: true };
        Ok(converse(context, conversation, manner).await?.code())
    }
}

/// `NAME` alone takes the value from here, when there is one.
pub(super) fn environment(given: &[String]) -> Vec<String> {
    let resolve = |variable: &String| match variable.contains('=') {
        true => Some(variable.clone()),
        false => std::env::var(variable).ok().map(|value| format!("{variable}={value}")),
    };
    given.iter().filter_map(resolve).collect()
}
