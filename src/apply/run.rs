//! Runs the steps that are ready, side by side, and tells of each. Waits for events only.

use std::{collections::HashMap, num::NonZeroUsize, sync::Arc, time::Instant};

use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, Id, JoinError, JoinSet},
};

use super::{Event, Report, Schedule};
use crate::{
    engine::{Detail, Engine, EngineError, ErrorKind, Op, Outcome, Progress},
    plan::{Plan, Step, StepId},
};

/// Carries out `plan`: steps whose needs are done run side by side, at most `parallel` at once
/// (steps that only wait for a container are not counted). A failure skips what needs it and lets
/// the rest end.
///
/// When `cancel` turns true nothing new starts; waits, hooks, providers, pulls and builds are given up, any other
/// step that runs comes to its end. Every step makes one event of its end: `Done`, `Failed` or
/// `Skipped`. That a plan begins is for the caller to tell.
pub async fn run(
    plan: &Plan,
    engine: Arc<dyn Engine>,
    parallel: Option<NonZeroUsize>,
    mut cancel: watch::Receiver<bool>,
    events: &mut (dyn FnMut(Event) + Send),
) -> Report {
    let (progress, mut reports) = mpsc::unbounded_channel();
    let mut run = Run {
        plan,
        engine,
        parallel: parallel.map_or(usize::MAX, NonZeroUsize::get),
        began: Instant::now(),
        schedule: Schedule::new(plan),
        tasks: JoinSet::new(),
        running: HashMap::new(),
        progress,
        report: Report::default(),
        events,
    };
    let mut may_cancel = true;
    loop {
        if may_cancel && *cancel.borrow_and_update() && !run.report.cancelled {
            run.cancel();
        }
        run.start_ready();
        if run.running.is_empty() {
            break;
        }
        tokio::select! {
            biased;
            Some((step, detail)) = reports.recv() => (run.events)(Event::Progress { step, detail }),
            changed = cancel.changed(), if may_cancel => may_cancel = changed.is_ok(),
            Some(ended) = run.tasks.join_next_with_id() => {
                while let Ok((step, detail)) = reports.try_recv() {
                    (run.events)(Event::Progress { step, detail });
                }
                run.ended(ended);
            }
        }
    }
    run.skip_the_rest();
    run.report
}

type Performed = Result<Outcome, EngineError>;

struct Running {
    step: StepId,
    began: Instant,
    abort: AbortHandle,
}

struct Run<'r> {
    plan: &'r Plan,
    engine: Arc<dyn Engine>,
    parallel: usize,
    began: Instant,
    schedule: Schedule,
    tasks: JoinSet<Performed>,
    running: HashMap<Id, Running>,
    progress: mpsc::UnboundedSender<(StepId, Detail)>,
    report: Report,
    events: &'r mut (dyn FnMut(Event) + Send),
}

impl Run<'_> {
    fn start_ready(&mut self) {
        let mut busy = self.running.values().filter(|running| self.takes_a_place(running.step)).count();
        let ready: Vec<StepId> = self.schedule.ready().collect();
        for step in ready {
            let counts = self.takes_a_place(step);
            if counts && busy >= self.parallel {
                continue;
            }
            if self.schedule.start(step) {
                busy += usize::from(counts);
                self.spawn(step);
            }
        }
    }

    /// A wait costs nothing, and must not keep others from what it waits for.
    fn takes_a_place(&self, step: StepId) -> bool {
        !matches!(self.plan.steps[step.0].op, Op::Wait { .. })
    }

    fn spawn(&mut self, step: StepId) {
        let began = Instant::now();
        let what = self.step(step);
        let op = what.op.clone();
        (self.events)(Event::Started { step, what, at: began - self.began });
        let engine = Arc::clone(&self.engine);
        let progress: Arc<dyn Progress> = Arc::new(Reporter { step, sink: self.progress.clone() });
        let abort = self.tasks.spawn(async move { engine.perform(&op, progress).await });
        self.running.insert(abort.id(), Running { step, began, abort });
    }

    fn ended(&mut self, ended: Result<(Id, Performed), JoinError>) {
        let (id, performed) = match ended {
            Ok((id, performed)) => (id, performed),
            Err(error) => (error.id(), Err(explain(error))),
        };
        let Some(Running { step, began, .. }) = self.running.remove(&id) else { return };
        let (what, took) = (self.step(step), began.elapsed());
        match performed {
            Ok(outcome) => {
                (self.events)(Event::Done { step, what, outcome, took });
                self.schedule.done(step);
            }
            Err(error) => {
                let given_up = self.report.cancelled && error.kind == ErrorKind::Cancelled;
                let must_succeed = what.must_succeed();
                (self.events)(Event::Failed { step, what, error: error.clone(), took });
                if given_up {
                    self.report.skipped.push(step);
                } else if must_succeed {
                    self.report.failed.push((step, error));
                }
                let skipped = self.schedule.failed(step);
                self.skip(skipped, Some(step));
            }
        }
    }

    fn cancel(&mut self) {
        self.report.cancelled = true;
        let skipped = self.schedule.cancel();
        self.skip(skipped, None);
        for running in self.running.values() {
            if matches!(
                self.plan.steps[running.step.0].op,
                Op::Wait { .. } | Op::Pull(_) | Op::Build(_) | Op::Push(_) | Op::Hook(_) | Op::Provide(_)
            ) {
                running.abort.abort();
            }
        }
    }

    /// A plan whose steps need each other in a circle ends too.
    fn skip_the_rest(&mut self) {
        let rest = self.schedule.cancel();
        self.skip(rest, None);
    }

    /// `root` is the step whose failure is the reason.
    fn skip(&mut self, skipped: Vec<StepId>, root: Option<StepId>) {
        for step in skipped {
            let what = self.step(step);
            (self.events)(Event::Skipped { step, what, because: root });
            self.report.skipped.push(step);
        }
    }

    fn step(&self, step: StepId) -> Step {
        self.plan.steps[step.0].clone()
    }
}

fn explain(error: JoinError) -> EngineError {
    if error.is_cancelled() {
        return EngineError::new(ErrorKind::Cancelled, "cancelled");
    }
    let panic = error.into_panic();
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    EngineError::new(ErrorKind::Other, format!("bug in the engine: {said}"))
        .help("please report this with the command that led to it")
}

/// Hands on what the engine tells of one step.
struct Reporter {
    step: StepId,
    sink: mpsc::UnboundedSender<(StepId, Detail)>,
}

impl Progress for Reporter {
    fn report(&self, detail: Detail) {
        // Nobody listens any more when the plan has ended.
        let _ = self.sink.send((self.step, detail));
    }
}
