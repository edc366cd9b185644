//! The schedule and its runner: nothing starts too early, everything ends.

use std::{collections::BTreeSet, num::NonZeroUsize, sync::Arc};

use ficelle::{
    apply::{self, Event, Schedule, StepState},
    engine::{Engine, ErrorKind, Health, Op},
    engines::simulated::{Behaviour, Simulated},
    model::Condition,
    plan::{Cause, Plan, Step, StepId},
};
use proptest::prelude::*;
use tokio::sync::watch;

use crate::stage::{Stage, With, project, service, up};

fn step(at: usize, needs: &[usize], optional: bool) -> Step {
    let needs = needs.iter().copied().map(StepId).collect();
    Step { op: Op::RemoveNetwork { name: format!("n{at}") }, needs, cause: Cause::Goal, optional }
}

/// Plans of up to 12 steps, each needing some before it.
fn plans() -> impl Strategy<Value = Plan> {
    prop::collection::vec(
        (prop::collection::vec(any::<prop::sample::Index>(), 0..4), prop::bool::weighted(0.2)),
        1..12,
    )
    .prop_map(|shapes| {
        let steps = shapes.iter().enumerate().map(|(at, (needs, optional))| {
            let needs: BTreeSet<usize> =
                needs.iter().filter(|_| at > 0).map(|need| need.index(at.max(1))).collect();
            step(at, &needs.into_iter().collect::<Vec<_>>(), *optional)
        });
        Plan { steps: steps.collect(), ..Plan::default() }
    })
}

proptest! {
    #[test]
    fn a_schedule_respects_needs_and_always_ends(
        plan in plans(),
        choices in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), 0..10_u8), 200),
    ) {
        let mut schedule = Schedule::new(&plan);
        let mut running: Vec<StepId> = Vec::new();
        let met = |schedule: &Schedule, need: &StepId| match schedule.state(*need) {
            StepState::Done => true,
            StepState::Failed | StepState::Skipped => plan.steps[need.0].optional,
            StepState::Waiting | StepState::Ready | StepState::Running => false,
        };
        let mut moves = choices.into_iter();
        while !schedule.is_over() {
            let (which, begin, luck) = moves.next().expect("200 moves are enough for 12 steps");
            let ready: Vec<StepId> = schedule.ready().collect();
            if !ready.is_empty() && (begin || running.is_empty()) {
                let step = ready[which.index(ready.len())];
                prop_assert!(plan.steps[step.0].needs.iter().all(|need| met(&schedule, need)));
                prop_assert!(schedule.start(step));
                prop_assert!(!schedule.start(step), "a step starts once");
                running.push(step);
            } else {
                let step = running.swap_remove(which.index(running.len()));
                if luck < 7 {
                    schedule.done(step);
                } else {
                    for skipped in schedule.failed(step) {
                        prop_assert_eq!(schedule.state(skipped), StepState::Skipped);
                    }
                }
            }
        }
        for (at, step) in plan.steps.iter().enumerate() {
            let may_run = step.needs.iter().all(|need| met(&schedule, need));
            match schedule.state(StepId(at)) {
                StepState::Done | StepState::Failed => prop_assert!(may_run),
                StepState::Skipped => prop_assert!(!may_run),
                left => prop_assert!(false, "step {} is left {:?}", at, left),
            }
        }
    }

    #[test]
    fn a_run_tells_the_end_of_every_step_once(plan in plans(), failing in any::<u16>(), parallel in 1..4_usize) {
        let stage = Stage::new();
        stage.engine.fail_matching(move |op| {
            let Op::RemoveNetwork { name } = op else { return false };
            failing >> name[1..].parse::<u32>().unwrap() & 1 == 1
        });
        let (report, events) = stage.apply_at_most(&plan, NonZeroUsize::new(parallel));
        let mut begun = BTreeSet::new();
        let mut ended = BTreeSet::new();
        for event in events {
            match event {
                Event::Started { step, .. } => {
                    prop_assert!(begun.insert(step));
                    prop_assert!(begun.difference(&ended).count() <= parallel);
                }
                Event::Done { step, .. } | Event::Failed { step, .. } => {
                    prop_assert!(begun.contains(&step) && ended.insert(step));
                }
                Event::Skipped { step, .. } => prop_assert!(!begun.contains(&step) && ended.insert(step)),
                Event::Planned { .. } | Event::WaitingForLock { .. } | Event::Progress { .. } => {}
            }
        }
        prop_assert_eq!(ended.len(), plan.steps.len());
        prop_assert!(!report.cancelled);
    }
}

/// Carries `plan` out on an engine, turning `cancel` when `when` says so of an event.
fn cancelled_run(stage: &Stage, plan: &Plan, when: fn(&Event) -> bool) -> (apply::Report, Vec<Event>) {
    let (cancel, cancelled) = watch::channel(false);
    let mut events = Vec::new();
    let engine: Arc<dyn Engine> = Arc::new(stage.engine.clone());
    let mut hear = |event: Event| {
        if when(&event) {
            cancel.send_replace(true);
        }
        events.push(event);
    };
    let report = stage.runtime.block_on(apply::run(plan, engine, None, cancelled, &mut hear));
    (report, events)
}

fn is_wait(event: &Event) -> bool {
    matches!(event, Event::Started { what: Step { op: Op::Wait { .. }, .. }, .. })
}

#[test]
fn cancel_ends_a_wait_that_would_never_end_and_starts_nothing_more() {
    let stage = Stage::new();
    let project = project([service("db").checked(), service("web").needs("db", Condition::ServiceHealthy)]);
    stage.engine.behave("db", Behaviour::health(Health::Starting)).unwrap();
    stage.pull(&project);
    let plan = stage.plan(&project, &up(&project)).unwrap();
    let (report, events) = cancelled_run(&stage, &plan, is_wait);
    assert!(report.cancelled && report.failed.is_empty(), "{report:?}");
    assert_eq!(report.skipped.len(), 2, "the wait and the start of web: {report:?}");
    let given_up =
        |event: &Event| matches!(event, Event::Failed { error, .. } if error.kind == ErrorKind::Cancelled);
    assert_eq!(events.iter().filter(|event| given_up(event)).count(), 1);
    let web = stage.containers(&project).into_iter().find(|c| c.service == "web").unwrap();
    assert_eq!(web.started, None);
}

#[test]
fn a_wait_goes_on_the_moment_the_state_changes() {
    let stage = Stage::new();
    let project = project([service("db").checked(), service("web").needs("db", Condition::ServiceHealthy)]);
    stage.engine.behave("db", Behaviour::health(Health::Starting)).unwrap();
    stage.pull(&project);
    let plan = stage.plan(&project, &up(&project)).unwrap();
    let engine: Simulated = stage.engine.clone();
    let (_cancel, cancelled) = watch::channel(false);
    // The runtime has no timer: whatever polled by time would panic here.
    let mut hear = |event: Event| {
        if is_wait(&event) {
            engine.turn("demo-db-1", Health::Healthy).unwrap();
        }
    };
    let engine: Arc<dyn Engine> = Arc::new(stage.engine.clone());
    let report = stage.runtime.block_on(apply::run(&plan, engine, None, cancelled, &mut hear));
    assert!(report.is_success(), "{report:?}");
}

#[test]
fn a_panic_of_the_engine_is_a_failure_of_that_step() {
    let stage = Stage::new();
    stage.engine.fail_matching(|op| match op {
        Op::RemoveNetwork { name } if name == "n0" => panic!("broken on purpose"),
        _ => false,
    });
    let plan = Plan {
        steps: vec![step(0, &[], false), step(1, &[0], false), step(2, &[], false)],
        ..Plan::default()
    };
    let (report, _) = stage.apply(&plan);
    let [(StepId(0), error)] = report.failed.as_slice() else { panic!("{report:?}") };
    assert_eq!(error.to_string(), "bug in the engine: broken on purpose");
    assert_eq!(report.skipped, [StepId(1)]);
}

#[test]
fn a_failed_optional_wait_is_told_and_what_needs_it_goes_on() {
    let stage = Stage::new();
    let project = project([service("db").checked(), service("web").wants("db", Condition::ServiceHealthy)]);
    stage.engine.behave("db", Behaviour::health(Health::Unhealthy)).unwrap();
    let played = stage.play(&project, &up(&project));
    assert!(played.report.is_success(), "{:?}", played.report);
    let told = |event: &&Event| matches!(event, Event::Failed { what, .. } if what.optional);
    assert_eq!(played.events.iter().filter(told).count(), 1);
    assert!(stage.containers(&project).iter().all(|c| c.state.is_running()));
}

#[test]
fn a_plan_in_a_circle_ends() {
    let plan = Plan { steps: vec![step(0, &[1], false), step(1, &[0], false)], ..Plan::default() };
    let (report, _) = Stage::new().apply(&plan);
    assert_eq!(report.skipped, [StepId(0), StepId(1)]);
}
