//! `ficelle attach`.

use super::{
    console::DetachKeys,
    context::Context,
    converse::{End, Manner, converse},
    failure::Failure,
    target,
};
use crate::session::{AttachRequest, SessionError};

/// Talk with the program of a running container
///
/// Prints what it writes from now on and passes on what is typed, until it ends, whose exit code is
/// passed on, or until the detach keys are typed at its terminal.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The service
    #[arg(value_name = "SERVICE")]
    service: String,

    /// Keys that leave it running, when it has a terminal
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,

    /// Number of the container when a service has several
    #[arg(long, value_name = "N")]
    index: Option<u32>,

    /// Pass nothing on that is typed
    #[arg(long)]
    no_stdin: bool,

    /// Pass signals on to it
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    sig_proxy: bool,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open_or_adopt().await?;
        let replicas = target::replicas(context, &session, &self.service).await?;
        let container = target::pick(replicas, &self.service, self.index, true)?;
        let tty = container.spec.as_ref().is_some_and(|spec| spec.tty);
        let request = AttachRequest {
            project: container.project,
            container: container.id,
            name: container.name,
            stdin: !self.no_stdin,
            from_start: false,
        };
        let failure =
            |error| Failure::of_session(SessionError::Engine(error), session.project(), context.source());
        let conversation = session.engine().attach(&request).await.map_err(failure)?;
        let manner = Manner { tty, detach: tty.then_some(self.detach_keys), signals: self.sig_proxy };
        tokio::select! {
            end = converse(context, conversation, manner) => match end? {
                End::Detached => {
                    context.say("note", "detached, it runs on");
                    Ok(0)
                }
                end => Ok(end.code()),
            },
            // Signals that are not passed on end us, and not it.
            signal = context.signals.beyond(0), if !self.sig_proxy => Err(Failure::interrupted(signal)),
        }
    }
}
