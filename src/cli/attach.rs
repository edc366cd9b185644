//! Follows the containers of an attached `up`, until they end or the user has had enough.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use tokio::sync::mpsc;

use super::{
    context::{Context, Quiet},
    failure::Failure,
    output,
    signals::Signals,
};
use crate::{
    session::{Container, Goal, LogItem, LogRange, Selection, Session, Stream, Wish},
    ui::{
        Palette,
        logs::{LogLines, LogStyle},
    },
};

/// What is followed, and how.
#[derive(Debug)]
pub(super) struct Attach {
    /// What is stopped in the end.
    pub selection: Selection,
    /// Services whose output is shown.
    pub services: BTreeSet<String>,
    /// Output before this is not shown.
    pub since: SystemTime,
    pub until: Until,
    pub timeout: Option<Duration>,
    pub prefix: bool,
    pub timestamps: bool,
    pub colour: bool,
}

/// When following ends by itself.
#[derive(Debug)]
pub(super) enum Until {
    AllEnd,
    /// Everything is stopped when a container ends; the exit code is that container's, or that of
    /// this service.
    AnyEnds {
        code_from: Option<String>,
    },
    AnyFails,
}

/// Where output goes while containers are being stopped.
pub(super) enum Output<'a> {
    None,
    Follow(&'a mut mpsc::Receiver<LogItem>, &'a mut LogLines),
}

/// Why following ended.
enum End {
    AllEnded,
    Signal,
    /// The container and its code.
    Ended(String, Option<i32>),
    /// Nobody reads our output.
    Unread(Failure),
}

impl Attach {
    pub(super) fn stop_wish(&self) -> Wish {
        let goal = Goal::Stopped { selection: self.selection.clone(), timeout: self.timeout };
        Wish { command: "up", images: None, goal: Some(goal) }
    }

    pub(super) async fn follow(&self, context: &Context, session: &Session) -> Result<i32, Failure> {
        let failure = |error| Failure::of_session(error, session.project(), context.source());
        let observed = session.observe().await.map_err(failure)?;
        let followed = self.followed(&observed.containers);
        let project = &session.project().name;
        let names: Vec<&str> = followed.iter().map(|container| container.name.as_str()).collect();
        let short = |name: &&str| name.strip_prefix(&format!("{project}-")).unwrap_or(name).to_owned();
        let shown: Vec<String> = names.iter().map(short).collect();
        output::text(&format!("Attaching to {}\n", shown.join(", ")))?;
        let palette = Palette { colour: self.colour && context.out_palette().colour };
        let style = LogStyle { prefix: self.prefix, timestamps: self.timestamps, palette };
        let mut lines = LogLines::new(style, project, names.iter().copied());

        // All that were started are followed, since one that is not shown can still end the run.
        let everything = observed.containers.iter().filter(|c| self.selection.contains(&c.service));
        let all: Vec<String> = everything.map(|container| container.name.clone()).collect();
        let services: BTreeSet<String> = names.iter().map(|&name| name.to_owned()).collect();
        let range = LogRange { since: Some(self.since), follow: true, ..LogRange::default() };
        let (sink, mut items) = mpsc::channel(256);
        let followed =
            if matches!(self.until, Until::AllEnd) { services.iter().cloned().collect() } else { all };
        let logs = session.logs(followed, range, sink);
        tokio::pin!(logs);
        let end = tokio::select! {
            end = self.pump(context, &mut items, &mut lines, &services) => end,
            Err(error) = &mut logs => return Err(failure(error)),
        };
        let rest = async {
            let output = Output::Follow(&mut items, &mut lines);
            self.conclude(context, session, end, output).await
        };
        tokio::select! {
            code = rest => code,
            Err(error) = &mut logs => Err(failure(error)),
        }
    }

    fn followed<'a>(&self, containers: &'a [Container]) -> Vec<&'a Container> {
        let mut followed: Vec<_> =
            containers.iter().filter(|container| self.services.contains(&container.service)).collect();
        followed.sort_by(|a, b| a.name.cmp(&b.name));
        followed
    }

    async fn pump(
        &self,
        context: &Context,
        items: &mut mpsc::Receiver<LogItem>,
        lines: &mut LogLines,
        shown: &BTreeSet<String>,
    ) -> End {
        loop {
            let item = tokio::select! {
                item = items.recv() => item,
                _ = context.signals.beyond(0) => return End::Signal,
            };
            let Some(item) = item else { return End::AllEnded };
            if let Err(failure) = print(lines, &item, shown) {
                return End::Unread(failure);
            }
            if let LogItem::Exited { container, code, restarting: false } = item
                && self.ends_all(code)
            {
                return End::Ended(container, code);
            }
        }
    }

    fn ends_all(&self, code: Option<i32>) -> bool {
        match self.until {
            Until::AllEnd => false,
            Until::AnyEnds { .. } => true,
            Until::AnyFails => code != Some(0),
        }
    }

    async fn conclude(
        &self,
        context: &Context,
        session: &Session,
        end: End,
        output: Output<'_>,
    ) -> Result<i32, Failure> {
        match end {
            End::AllEnded => Ok(0),
            End::Signal => {
                context.say("note", "Gracefully stopping... (press Ctrl+C again to force)");
                stop(context, session, &self.stop_wish(), output).await?;
                Err(Failure::interrupted(context.signals.first().unwrap_or(2)))
            }
            End::Ended(container, code) => {
                context.say("note", &format!("Aborting on container exit: {container}"));
                stop(context, session, &self.stop_wish(), output).await?;
                Ok(self.exit_code(context, session, code).await?)
            }
            End::Unread(failure) => {
                stop(context, session, &self.stop_wish(), Output::None).await?;
                Err(failure)
            }
        }
    }

    /// The code of the first that ended, or of the named service.
    async fn exit_code(
        &self,
        context: &Context,
        session: &Session,
        first: Option<i32>,
    ) -> Result<i32, Failure> {
        use crate::session::ContainerState::Exited;

        let Until::AnyEnds { code_from: Some(service) } = &self.until else { return Ok(first.unwrap_or(1)) };
        let observed = session
            .observe()
            .await
            .map_err(|error| Failure::of_session(error, session.project(), context.source()))?;
        let codes = observed.containers.iter().filter(|c| c.service == *service).map(|c| match c.state {
            Exited(Some(code)) => code,
            _ => 1,
        });
        Ok(codes.max().unwrap_or(1))
    }
}

fn print(lines: &mut LogLines, item: &LogItem, shown: &BTreeSet<String>) -> Result<(), Failure> {
    let (LogItem::Line { container, .. } | LogItem::Exited { container, .. }) = item;
    if matches!(item, LogItem::Line { .. }) && !shown.contains(container) {
        return Ok(());
    }
    let (stream, bytes) = lines.item(item);
    match stream {
        Stream::Stdout => output::bytes(&bytes),
        Stream::Stderr => {
            output::to_stderr(&bytes);
            Ok(())
        }
    }
}

/// Stops what `wish` names; at the next signal without grace.
pub(super) async fn stop(
    context: &Context,
    session: &Session,
    wish: &Wish,
    mut output: Output<'_>,
) -> Result<(), Failure> {
    let heard = context.signals.times();
    let never = Signals::never();
    let gently = {
        let stopping = context.pursue(session, wish, Quiet::default(), &never);
        tokio::pin!(stopping);
        loop {
            tokio::select! {
                result = &mut stopping => break Some(result),
                _ = context.signals.beyond(heard) => break None,
                () = output.pass_on() => {}
            }
        }
    };
    if let Some(result) = gently {
        return result.map(|_| ());
    }
    context.settle();
    let mut wish = wish.clone();
    if let Some(Goal::Stopped { timeout, .. }) = &mut wish.goal {
        *timeout = Some(Duration::ZERO);
    }
    context.pursue(session, &wish, Quiet::default(), &never).await.map(|_| ())
}

impl Output<'_> {
    /// Shows the next item; waits for ever when there is none to come.
    async fn pass_on(&mut self) {
        let Self::Follow(items, lines) = self else { return std::future::pending().await };
        match items.recv().await {
            Some(item) => {
                let (_, bytes) = lines.item(&item);
                // The stop goes on whether or not somebody still reads.
                let _ = output::bytes(&bytes);
            }
            None => *self = Self::None,
        }
    }
}
