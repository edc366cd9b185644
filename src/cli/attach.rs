//! Follows the containers of an attached `up`, until they end or the user has had enough.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::{mpsc, watch};

use super::{
    context::{Context, Quiet},
    failure::Failure,
    output,
    signals::Signals,
};
use crate::{
    session::{
        Container, Event, Goal, LogItem, LogRange, Op, Outcome, Selection, Session, SessionError, Step,
        Stream, Wish,
    },
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
    /// Whoever reads sits at a terminal.
    pub terminal: bool,
}

/// Of the signal.
const HANGUP: i32 = 1;

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
enum Output<'a> {
    None,
    Follow(&'a mut mpsc::Receiver<LogItem>, &'a Mutex<Roster>),
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
    fn stop_wish(&self) -> Wish {
        let goal = Goal::Stopped { selection: self.selection.clone(), timeout: self.timeout };
        Wish { command: "up", images: None, goal: Some(goal) }
    }

    /// Pursues `wish`, showing what the containers say from the first that is started on, and follows
    /// them until the end.
    pub(super) async fn run(
        &self,
        context: &Context,
        session: &Session,
        wish: &Wish,
        quiet: Quiet,
    ) -> Result<i32, Failure> {
        let failure = |error| Failure::of_session(error, session.project(), context.source());
        let containers = session.observe().await.map_err(failure)?.containers;
        let palette = Palette { colour: self.colour && context.out_palette().colour };
        let style = LogStyle { prefix: self.prefix, timestamps: self.timestamps, palette };
        let roster = Mutex::new(Roster::of(&containers, LogLines::new(style, &session.project().name, [])));
        let (tell, news) = mpsc::unbounded_channel();
        let (sink, mut items) = mpsc::channel(256);
        let feed = async {
            match self.feed(session, &roster, news, sink).await {
                Err(error) => failure(error),
                // All was fed: whoever reads learns it from the closed channel.
                Ok(()) => std::future::pending().await,
            }
        };
        tokio::pin!(feed);

        let mut hear = |event: &Event| {
            let planned = locked(&roster).hear(self, event);
            if let Some(names) = planned {
                // When nobody reads, the first line of a container tells.
                let _ = context.above(|| output::text(&attaching(&names, session)));
            }
            // The feed listens as long as it has not failed, which is told by itself.
            let _ = tell.send(());
        };
        let begin = self.begin(context, session, wish, quiet, &mut hear, &roster, &mut items);
        let (begun, early) = tokio::select! {
            begun = begin => begun,
            failed = &mut feed => return Err(failed),
        };
        let early = match (begun, early) {
            (_, Some(end)) => Some(end),
            (Ok(None), None) => return Ok(0),
            (Ok(Some(_)), None) => None,
            // Ctrl-C while it starts: what is already there is stopped again.
            (Err(_), None) if context.signals.first().is_some() => Some(End::Signal),
            (Err(failed), None) => return Err(failed),
        };
        locked(&roster).admit_all();
        let _ = tell.send(());
        drop(tell);
        let rest = async {
            let end = match early {
                Some(end) => end,
                None => self.pump(context, &mut items, &roster).await,
            };
            self.conclude(context, session, end, Output::Follow(&mut items, &roster)).await
        };
        tokio::select! {
            code = rest => code,
            failed = &mut feed => Err(failed),
        }
    }

    /// Carries the plan out and prints what is said meanwhile. A container whose end ends everything
    /// cancels the rest of the plan.
    #[expect(clippy::too_many_arguments, reason = "what is wanted, who hears of it, and what is said")]
    async fn begin(
        &self,
        context: &Context,
        session: &Session,
        wish: &Wish,
        quiet: Quiet,
        hear: &mut (dyn FnMut(&Event) + Send),
        roster: &Mutex<Roster>,
        items: &mut mpsc::Receiver<LogItem>,
    ) -> (Result<Option<Outcome>, Failure>, Option<End>) {
        let (give_up, cancel) = watch::channel(false);
        let begin = context.pursue_heard(session, wish, quiet, &cancel, hear);
        tokio::pin!(begin);
        let (mut early, mut open) = (None, true);
        loop {
            tokio::select! {
                begun = &mut begin => return (begun, early),
                _ = context.signals.beyond(0), if !*give_up.borrow() => { give_up.send_replace(true); }
                item = items.recv(), if open => match item {
                    Some(item) => early = early.or(self.take(context, &item, roster)),
                    None => open = false,
                }
            }
            if early.is_some() {
                give_up.send_replace(true);
            }
        }
    }

    /// Passes on what the containers of the roster say, as soon as the first of them runs, until all
    /// have ended and no more `news` will come.
    async fn feed(
        &self,
        session: &Session,
        roster: &Mutex<Roster>,
        mut news: mpsc::UnboundedReceiver<()>,
        sink: mpsc::Sender<LogItem>,
    ) -> Result<(), SessionError> {
        while news.recv().await.is_some() {
            let Some(open) = locked(roster).open(self) else { continue };
            let range = LogRange { since: Some(self.since), follow: true, ..LogRange::default() };
            let (tell, mut heard) = mpsc::channel(64);
            let pass_on = async {
                while let Some(item) = heard.recv().await {
                    // What is said by a container that will be replaced belongs to its last run.
                    if locked(roster).admits(&item) && sink.send(item).await.is_err() {
                        break;
                    }
                }
            };
            tokio::join!(session.logs(open, range, tell), pass_on).0?;
        }
        Ok(())
    }

    async fn pump(
        &self,
        context: &Context,
        items: &mut mpsc::Receiver<LogItem>,
        roster: &Mutex<Roster>,
    ) -> End {
        loop {
            let item = tokio::select! {
                item = items.recv() => item,
                _ = context.signals.beyond(0) => return End::Signal,
            };
            let Some(item) = item else { return End::AllEnded };
            if let Some(end) = self.take(context, &item, roster) {
                return end;
            }
        }
    }

    /// Prints one item; returns whether it ends everything.
    fn take(&self, context: &Context, item: &LogItem, roster: &Mutex<Roster>) -> Option<End> {
        if let Err(failure) = context.above(|| locked(roster).print(self, item)) {
            return Some(End::Unread(failure));
        }
        match item {
            LogItem::Exited { container, code, restarting: false } if self.ends_all(*code) => {
                Some(End::Ended(container.clone(), *code))
            }
            _ => None,
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
            // The terminal was closed, or the connection to it lost: the containers run on.
            End::Signal if context.signals.first() == Some(HANGUP) => Err(Failure::interrupted(HANGUP)),
            End::Unread(_) if self.terminal => Err(Failure::interrupted(HANGUP)),
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

fn locked(roster: &Mutex<Roster>) -> MutexGuard<'_, Roster> {
    roster.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The containers of the run: known from the plan, and which of them run or have ended.
struct Roster {
    /// The service of each container.
    services: BTreeMap<String, String>,
    /// Those that the plan starts or leaves running.
    all: BTreeSet<String>,
    /// Those of them that run as they should, or did.
    live: BTreeSet<String>,
    ended: BTreeSet<String>,
    lines: LogLines,
}

impl Roster {
    fn of(containers: &[Container], lines: LogLines) -> Self {
        let services = containers.iter().map(|c| (c.name.clone(), c.service.clone())).collect();
        let none = BTreeSet::new;
        Self { services, all: none(), live: none(), ended: none(), lines }
    }

    /// Takes note of a step; returns the names to be shown when a plan has just made them known.
    fn hear(&mut self, attach: &Attach, event: &Event) -> Option<Vec<String>> {
        match event {
            Event::Planned { plan } => {
                self.all.extend(plan.unchanged.iter().cloned());
                self.live.extend(plan.unchanged.iter().cloned());
                for step in &plan.steps {
                    if let Op::Create(create) = &step.op {
                        self.services.insert(create.name.clone(), create.service.clone());
                    }
                    if let Op::Start { name, .. } = &step.op {
                        self.all.insert(name.clone());
                        self.live.remove(name);
                    }
                }
                let shown: Vec<String> = self.all.iter().filter(|n| self.shows(attach, n)).cloned().collect();
                shown.iter().for_each(|name| self.lines.expect(name));
                (!shown.is_empty()).then_some(shown)
            }
            // Not when it is done: what it says may arrive before that.
            Event::Started { what: Step { op: Op::Start { name, .. }, .. }, .. } => {
                self.live.insert(name.clone());
                None
            }
            _ => None,
        }
    }

    fn shows(&self, attach: &Attach, container: &str) -> bool {
        self.services.get(container).is_some_and(|service| attach.services.contains(service))
    }

    /// Nothing more will be started.
    fn admit_all(&mut self) {
        self.live.extend(self.all.iter().cloned());
    }

    /// Whom to follow, when one of them runs. All are followed where one that is not shown can end
    /// the run.
    fn open(&self, attach: &Attach) -> Option<Vec<String>> {
        let followed = |name: &&String| {
            !self.ended.contains(*name)
                && (self.shows(attach, name)
                    || !matches!(attach.until, Until::AllEnd)
                        && self.services.get(*name).is_some_and(|s| attach.selection.contains(s)))
        };
        let open: Vec<String> = self.all.iter().filter(followed).cloned().collect();
        open.iter().any(|name| self.live.contains(name)).then_some(open)
    }

    fn admits(&mut self, item: &LogItem) -> bool {
        let (LogItem::Line { container, .. } | LogItem::Exited { container, .. }) = item;
        let live = self.live.contains(container);
        if live && matches!(item, LogItem::Exited { restarting: false, .. }) {
            self.ended.insert(container.clone());
        }
        live
    }

    fn print(&mut self, attach: &Attach, item: &LogItem) -> Result<(), Failure> {
        if let LogItem::Line { container, .. } = item
            && !self.shows(attach, container)
        {
            return Ok(());
        }
        let (stream, bytes) = self.lines.item(item);
        match stream {
            Stream::Stdout => output::bytes(&bytes),
            Stream::Stderr => {
                output::to_stderr(&bytes);
                Ok(())
            }
        }
    }
}

fn attaching(names: &[String], session: &Session) -> String {
    let project = format!("{}-", session.project().name);
    let short: Vec<&str> = names.iter().map(|name| name.strip_prefix(&project).unwrap_or(name)).collect();
    format!("Attaching to {}\n", short.join(", "))
}

/// Stops what `wish` names; at the next signal without grace.
async fn stop(
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
                () = output.pass_on(context) => {}
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
    async fn pass_on(&mut self, context: &Context) {
        let Self::Follow(items, roster) = self else { return std::future::pending().await };
        match items.recv().await {
            Some(item) => {
                let (_, bytes) = locked(roster).lines.item(&item);
                // The stop goes on whether or not somebody still reads.
                let _ = context.above(|| output::bytes(&bytes));
            }
            None => *self = Self::None,
        }
    }
}
