//! Plans carried out on a simulated engine reach their goal, from anywhere.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ficelle::{
    apply::Event,
    engine::{Container, Engine, Health, Op, Silent},
    engines::simulated::{Behaviour, Effect},
    model::{Condition, Lender, NetworkMode, Project},
    plan::{Goal, WaitOptions},
};

use crate::stage::{Stage, With, down, project, service, up};

#[test]
fn a_second_up_touches_nothing() {
    let stage = Stage::new();
    let project = project([
        service("db").checked().volume("data"),
        service("web").needs("db", Condition::ServiceHealthy).scale(2),
    ]);
    let first = stage.play(&project, &up(&project));
    assert!(first.report.is_success(), "{first:?}");
    let before = stage.identities(&project);
    assert_eq!(before.keys().collect::<Vec<_>>(), ["demo-db-1", "demo-web-1", "demo-web-2"]);
    let second = stage.play(&project, &up(&project));
    assert_eq!(second.plan.steps, []);
    assert_eq!(second.plan.unchanged, ["demo-db-1", "demo-web-1", "demo-web-2"]);
    assert_eq!(stage.identities(&project), before);
}

#[test]
fn a_changed_variable_recreates_that_service_alone() {
    let stage = Stage::new();
    let old = project([service("db"), service("web").needs("db", Condition::ServiceStarted).env("A", "0")]);
    stage.play(&old, &up(&old));
    let before = stage.identities(&old);
    let new = project([service("db"), service("web").needs("db", Condition::ServiceStarted).env("A", "1")]);
    let played = stage.play(&new, &up(&new));
    assert!(played.report.is_success(), "{played:?}");
    let after = stage.identities(&new);
    assert_eq!(after["demo-db-1"], before["demo-db-1"]);
    assert_ne!(after["demo-web-1"].0, before["demo-web-1"].0);
    assert_eq!(after.len(), 2);
}

/// What is there, and what the file says next.
fn changes() -> Vec<(&'static str, Project, Project)> {
    let changed = |old: &Project, edit: fn(&mut Project)| {
        let mut new = old.clone();
        edit(&mut new);
        new
    };
    let db = service("db").anonymous("/var");
    let tied = project([db.clone(), service("web").needs_and_restarts("db")]);
    let mut side = service("side").anonymous("/tmp");
    side.container.network = NetworkMode::Of(Lender::Service("db".to_owned()));
    let sharing = project([db.clone(), side]);
    let ended = project([db.clone().command("exit 0"), service("web").scale(2)]);
    let new_db = |new: &mut Project| new.services["db"] = service("db").anonymous("/var").env("A", "1");
    let network = |new: &mut Project| {
        new.networks["default"].internal = true;
        new.services["db"] = service("db").anonymous("/var").env("A", "1");
    };
    vec![
        ("a dependent that restarts", tied.clone(), changed(&tied, new_db)),
        ("a shared namespace", sharing.clone(), changed(&sharing, new_db)),
        ("one that had ended", ended.clone(), changed(&ended, new_db)),
        ("a network made anew", tied.clone(), changed(&tied, network)),
        ("a network made anew, and a namespace", sharing.clone(), changed(&sharing, network)),
    ]
}

#[test]
fn a_recreate_that_stops_anywhere_is_finished_by_the_next_up() {
    for (what, old, new) in changes() {
        let mut at = 0;
        // Until no operation is left to stop at.
        while stops_at(what, &old, &new, at) {
            at += 1;
        }
        assert!(at >= 3, "{what}: stopped at {at} operations only");
    }
}

/// Whether there was an operation number `at` to fail, and the next `up` made good.
fn stops_at(what: &str, old: &Project, new: &Project, at: usize) -> bool {
    let mut reached = false;
    for effect in [None, Some(Effect::None), Some(Effect::Done)] {
        let about = format!("{what}: {effect:?} at {at}");
        let stage = Stage::new();
        assert!(stage.play(old, &up(old)).report.is_success());
        let volumes = stage.observe(old).volumes;
        match effect {
            None => stage.engine.crash_after(at),
            Some(effect) => stage.engine.fail_after(at, effect),
        }
        reached |= !stage.play(new, &up(new)).report.is_success();
        stage.engine.heal();
        let again = stage.play(new, &up(new));
        assert!(again.report.is_success(), "{about}: {again:?}");
        let containers = stage.containers(new);
        let wanted: u32 = new.services.values().map(|service| service.scale).sum();
        assert_eq!(containers.len(), wanted as usize, "{about}: {containers:?}");
        for container in &containers {
            let service = &new.services[&container.service];
            assert!(container.state.is_running(), "{about}: {}", container.name);
            assert_eq!(container.spec.as_ref(), Some(&service.container), "{about}");
            if let NetworkMode::Of(Lender::Service(owner)) = &service.container.network {
                let owner = containers.iter().find(|c| c.service == *owner).unwrap();
                assert!(container.created > owner.created, "{about}: its namespace is gone");
            }
        }
        assert_eq!(stage.observe(new).volumes, volumes, "{about}: anonymous volumes are handed on");
        assert_eq!(stage.plan(new, &up(new)).unwrap().steps, [], "{about}");
    }
    reached
}

#[test]
fn down_leaves_nothing_but_volumes_and_with_v_not_even_those() {
    let stage = Stage::new();
    let project = project([service("db").volume("data").anonymous("/tmp"), service("web")]);
    stage.play(&project, &up(&project));
    assert!(stage.play(&project, &down(&project, false)).report.is_success());
    let left = stage.observe(&project);
    assert!(left.containers.is_empty() && left.networks.is_empty());
    assert!(left.volumes.contains_key("demo_data"));
    stage.play(&project, &up(&project));
    assert!(stage.play(&project, &down(&project, true)).report.is_success());
    assert!(stage.observe(&project).volumes.is_empty(), "the first one's anonymous volume is gone as well");
}

#[test]
fn a_replacement_that_cannot_be_made_leaves_the_old_container_running() {
    let stage = Stage::new();
    let old = project([service("web").env("A", "0")]);
    assert!(stage.play(&old, &up(&old)).report.is_success());
    let before = stage.identities(&old);
    stage.engine.fail_matching(|op| matches!(op, Op::Create(_)));
    let new = project([service("web").env("A", "1")]);
    let played = stage.play(&new, &up(&new));
    assert_eq!(played.report.failed.len(), 1);
    assert_eq!(played.report.skipped.len(), 3, "stop, remove and start: {:?}", played.report);
    assert_eq!(stage.identities(&new), before);
    assert!(stage.containers(&new)[0].state.is_running());
}

#[test]
fn what_a_replacement_takes_over_is_not_removed_before_it_is_there() {
    let stage = Stage::new();
    let old = project([service("job").anonymous("/var").command("true")]);
    assert!(stage.play(&old, &up(&old)).report.is_success());
    stage.engine.fail_matching(|op| matches!(op, Op::Create(_)));
    let new = project([service("job").anonymous("/var").command("false")]);
    assert!(!stage.play(&new, &up(&new)).report.is_success());
    assert_eq!(stage.containers(&new).len(), 1);
}

#[test]
fn a_failure_skips_what_needs_it_and_nothing_else() {
    let stage = Stage::new();
    let project = project([
        service("db"),
        service("web").needs("db", Condition::ServiceStarted),
        service("cache"),
        service("worker").needs("cache", Condition::ServiceStarted),
    ]);
    stage.engine.fail_matching(|op| matches!(op, Op::Start { name, .. } if name == "demo-db-1"));
    let played = stage.play(&project, &up(&project));
    assert!(!played.report.is_success());
    let running = |c: &Container| c.state.is_running().then(|| c.service.clone());
    let running: BTreeSet<String> = stage.containers(&project).iter().filter_map(running).collect();
    assert_eq!(running, ["cache".to_owned(), "worker".to_owned()].into());
    let skipped = |event: &Event| match event {
        Event::Skipped { what, because: Some(because), .. } => {
            Some((what.op.to_string(), played.plan.steps[because.0].op.to_string()))
        }
        _ => None,
    };
    let skipped: Vec<_> = played.events.iter().filter_map(skipped).collect();
    let (web, db) = ("start container demo-web-1".to_owned(), "start container demo-db-1".to_owned());
    assert_eq!(skipped, [(web, db)]);
}

/// `up --wait`.
fn up_and_wait(project: &Project) -> Goal {
    let mut goal = up(project);
    if let Goal::Running { wait, .. } = &mut goal {
        *wait = Some(WaitOptions { timeout: Some(Duration::from_secs(5)) });
    }
    goal
}

/// docker/compose#10596: a one-shot that ended well has done what was asked of it.
#[test]
fn wait_is_content_with_a_one_shot_that_ended_with_0_and_not_with_another_code() {
    for (command, content) in [("true", true), ("exit 2", false)] {
        let stage = Stage::new();
        let project = project([service("job").command(command), service("web").checked()]);
        let played = stage.play(&project, &up_and_wait(&project));
        assert_eq!(played.report.is_success(), content, "{command}: {:?}", played.report);
    }
}

#[test]
fn wait_fails_for_what_is_not_ready_in_time_and_leaves_it_running() {
    for health in [Health::Unhealthy, Health::Starting] {
        let stage = Stage::new();
        let project = project([service("web").checked()]);
        stage.engine.behave("web", Behaviour::health(health)).unwrap();
        let played = stage.play(&project, &up_and_wait(&project));
        assert_eq!(played.report.failed.len(), 1, "{:?}", played.report);
        assert!(stage.containers(&project)[0].state.is_running());
    }
}

#[test]
fn replicas_get_the_lowest_free_numbers_and_a_removed_one_comes_back() {
    let stage = Stage::new();
    let three = project([service("web").scale(3)]);
    assert!(stage.play(&three, &up(&three)).report.is_success());
    let second = stage.containers(&three).into_iter().find(|c| c.number == 2).unwrap();
    let (project, name, id) = (second.project, second.name, second.id);
    let stop = Op::Stop { project: project.clone(), name: name.clone(), id: id.clone(), timeout: None };
    let remove = Op::Remove { project, name, id, volumes: false };
    for op in [stop, remove] {
        stage.runtime.block_on(stage.engine.perform(&op, Arc::new(Silent))).unwrap();
    }
    let before = stage.identities(&three);
    assert!(stage.play(&three, &up(&three)).report.is_success());
    let after = stage.identities(&three);
    assert_eq!(after.keys().collect::<Vec<_>>(), ["demo-web-1", "demo-web-2", "demo-web-3"]);
    assert!(before.iter().all(|(name, identity)| after[name] == *identity));
}

#[test]
fn renewed_anonymous_volumes_start_afresh_and_the_old_ones_are_gone() {
    let stage = Stage::new();
    let old = project([service("db").anonymous("/var").volume("data")]);
    assert!(stage.play(&old, &up(&old)).report.is_success());
    let before = stage.observe(&old).volumes;
    let new = project([service("db").anonymous("/var").volume("data").env("A", "1")]);
    let mut goal = up(&new);
    if let Goal::Running { renew_anon_volumes, .. } = &mut goal {
        *renew_anon_volumes = true;
    }
    assert!(stage.play(&new, &goal).report.is_success());
    let after = stage.observe(&new).volumes;
    assert_eq!((before.len(), after.len()), (2, 2));
    assert!(after.contains_key("demo_data"));
    assert_ne!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
}
