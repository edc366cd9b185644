//! Plans carried out on a simulated engine reach their goal, from anywhere.

use ficelle::{engines::simulated::Effect, model::Condition};

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

#[test]
fn a_recreate_that_stops_anywhere_is_finished_by_the_next_up() {
    let old = project([service("db").anonymous("/var"), service("web").needs_and_restarts("db")]);
    let new =
        project([service("db").anonymous("/var").env("A", "1"), service("web").needs_and_restarts("db")]);
    for effect in [None, Some(Effect::None), Some(Effect::Done)] {
        for at in 0..12 {
            let stage = Stage::new();
            assert!(stage.play(&old, &up(&old)).report.is_success());
            let volumes = stage.observe(&old).volumes;
            match effect {
                None => stage.engine.crash_after(at),
                Some(effect) => stage.engine.fail_after(at, effect),
            }
            stage.play(&new, &up(&new));
            stage.engine.heal();
            let again = stage.play(&new, &up(&new));
            assert!(again.report.is_success(), "{effect:?} at {at}: {again:?}");
            let containers = stage.containers(&new);
            assert_eq!(containers.len(), 2, "{effect:?} at {at}: {containers:?}");
            assert!(containers.iter().all(|c| c.state.is_running()), "{effect:?} at {at}");
            let db = containers.iter().find(|c| c.service == "db").unwrap();
            assert_eq!(db.spec.as_ref(), Some(&new.services["db"].container));
            assert_eq!(stage.observe(&new).volumes, volumes, "the anonymous volume is handed on");
            assert_eq!(stage.plan(&new, &up(&new)).unwrap().steps, []);
        }
    }
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
    assert!(!stage.observe(&project).volumes.contains_key("demo_data"));
}
