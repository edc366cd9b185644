//! A container from its making to its removal.

use std::time::Duration;

use ficelle::{
    engine::{Condition, ContainerId, ContainerState, ErrorKind, Health, Op, WaitFor},
    model::{HealthTest, Healthcheck, RestartPolicy, label},
};

use super::{
    Case, cases,
    field::{Field, IDLE, IMAGE, Made, check},
};

pub const CASES: &[Case] = cases![
    what_is_made_is_as_it_was_asked_for_and_does_not_run,
    making_the_same_again_makes_no_second,
    what_is_missing_is_told_and_nothing_is_made,
    a_name_of_another_project_is_found_taken_before_anything_is_made,
    a_start_runs_it_once,
    an_end_keeps_its_code,
    an_ended_container_starts_again,
    what_is_not_there_cannot_be_acted_upon,
    a_stop_ends_it_by_its_signal,
    a_stop_without_grace_kills,
    a_stop_of_what_does_not_run_changes_nothing,
    a_stop_ends_the_restart_policy,
    a_kill_sends_its_signal,
    a_signal_that_ends_nothing_ends_nothing,
    a_kill_of_what_does_not_run_is_an_error,
    a_word_that_is_no_signal_is_invalid,
    a_kill_for_good_ends_the_restart_policy,
    a_pause_lasts_until_it_is_taken_back_or_is_refused,
    what_runs_is_not_removed,
    a_removal_frees_the_name_and_may_be_repeated,
    a_successor_stands_beside_its_predecessor,
    containers_are_told_oldest_first,
    a_policy_brings_it_back,
    a_policy_gives_up_after_its_retries,
    a_success_needs_no_retry,
    a_wait_for_a_start_is_over_when_it_was_started,
    a_wait_for_completion_tells_success_from_failure,
    a_wait_hears_an_end_that_comes_later,
    a_wait_for_health_ends_with_the_first_good_answer,
    a_wait_for_health_fails_when_it_is_unhealthy,
    a_wait_for_health_fails_when_it_ends,
    a_wait_for_health_without_a_check_is_invalid,
    a_disabled_check_is_none,
    a_container_that_ended_has_no_health,
    readiness_is_running_or_a_good_end,
    readiness_has_an_end,
];

const NO_GRACE: Option<Duration> = Some(Duration::ZERO);

fn what_is_made_is_as_it_was_asked_for_and_does_not_run(field: &Field<'_>) {
    let wanted = field.wanted("web", IDLE);
    let made = field.create(&wanted);
    let seen = field.see(&made);
    assert_eq!(seen.state, ContainerState::Created);
    assert_eq!((seen.started, seen.finished, seen.health, seen.restarts), (None, None, None, 0));
    assert_eq!((&seen.name, &seen.project, &seen.service), (&wanted.name, &field.project, &wanted.service));
    assert_eq!((seen.number, &seen.config_hash, &seen.labels), (1, &wanted.config_hash, &wanted.labels));
    assert_eq!((seen.image.as_str(), &seen.image_id), (IMAGE, &wanted.image_id));
    assert_eq!((seen.replaces, seen.ports.len(), seen.mounts.len()), (None, 0, 0));
    assert_eq!(seen.id.0.len(), 64);
}

fn making_the_same_again_makes_no_second(field: &Field<'_>) {
    let wanted = field.wanted("web", IDLE);
    let made = field.create(&wanted);
    let again = field.ok(&Op::Create(Box::new(wanted)));
    assert_eq!((again.id.as_ref(), again.unchanged), (Some(&made.id.0), true));
    assert_eq!(field.observe().containers.len(), 1);
}

fn what_is_missing_is_told_and_nothing_is_made(field: &Field<'_>) {
    let mut of_no_image = field.wanted("web", IDLE);
    of_no_image.spec.image = "nobody/has:this".to_owned();
    of_no_image.image_id = String::new();
    let on_no_network = field.on_network(field.wanted("web", IDLE), "missing");
    for wanted in [of_no_image, on_no_network] {
        field.fails(&Op::Create(Box::new(wanted)), ErrorKind::NotFound);
        assert_eq!(field.observe().containers, []);
    }
}

fn a_name_of_another_project_is_found_taken_before_anything_is_made(field: &Field<'_>) {
    let mut mine = field.wanted("web", IDLE);
    mine.name = format!("{}-fixed", field.project);
    mine.spec.container_name = Some(mine.name.clone());
    let made = field.create(&mine);
    let mut theirs = mine.clone();
    theirs.project = format!("{}-other", field.project);
    theirs.labels.insert(label::PROJECT.to_owned(), theirs.project.clone());
    let found = field.block(field.engine.check(&[&Op::Create(Box::new(theirs))]));
    let [error] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    assert!(error.message.contains(&made.name), "{error}");
    assert_eq!(field.block(field.engine.check(&[&Op::Create(Box::new(mine))])), [], "its own is no other");
}

fn a_start_runs_it_once(field: &Field<'_>) {
    let made = field.made("web", IDLE);
    assert!(!field.ok(&made.start()).unchanged);
    let first = field.see(&made);
    assert_eq!(first.state, ContainerState::Running);
    assert!(first.started.is_some_and(|started| started >= first.created) && first.finished.is_none());
    field.unchanged(&made.start());
    assert_eq!(field.see(&made), first);
}

fn an_end_keeps_its_code(field: &Field<'_>) {
    for (service, script, code) in [("good", "exit 0", 0), ("bad", "exit 3", 3), ("odd", "exit 255", 255)] {
        let made = field.ended(&field.wanted(service, &["sh", "-c", script]));
        let seen = field.see(&made);
        assert_eq!(seen.state, ContainerState::Exited(Some(code)));
        assert!(seen.finished >= seen.started && !seen.out_of_memory && seen.restarts == 0);
    }
}

fn an_ended_container_starts_again(field: &Field<'_>) {
    let made = field.ended(&field.wanted("job", &["true"]));
    let first = field.see(&made);
    assert!(!field.ok(&made.start()).unchanged);
    field.await_end(&made);
    let second = field.see(&made);
    assert_eq!((second.state, second.id), (ContainerState::Exited(Some(0)), first.id));
    assert!(second.started > first.started && second.restarts == 0);
}

fn what_is_not_there_cannot_be_acted_upon(field: &Field<'_>) {
    let nobody = Made {
        project: field.project.clone(),
        name: field.name("nobody"),
        id: ContainerId("0123456789abcdef".repeat(4)),
    };
    let started = nobody.wait_for(Condition::ServiceStarted);
    for op in [nobody.start(), nobody.kill("TERM"), nobody.pause(), nobody.unpause(), started] {
        field.fails(&op, ErrorKind::NotFound);
    }
    // What is wanted of it is so already.
    field.unchanged(&nobody.stop());
    field.ok(&nobody.remove());
}

fn a_stop_ends_it_by_its_signal(field: &Field<'_>) {
    for (service, signal, code) in [("usual", None, 143), ("own", Some("SIGINT"), 130)] {
        let mut wanted = field.wanted(service, IDLE);
        wanted.spec.stop_signal = signal.map(ToOwned::to_owned);
        let made = field.start(&wanted);
        assert!(!field.ok(&made.stop()).unchanged);
        assert_eq!(field.state(&made), ContainerState::Exited(Some(code)), "{service}");
    }
}

fn a_stop_without_grace_kills(field: &Field<'_>) {
    let made = field.started("web", IDLE);
    field.ok(&made.stop_within(NO_GRACE));
    assert_eq!(field.state(&made), ContainerState::Exited(Some(137)));
}

fn a_stop_of_what_does_not_run_changes_nothing(field: &Field<'_>) {
    let made = field.made("web", IDLE);
    field.ok(&made.stop());
    assert_eq!(field.state(&made), ContainerState::Created);
    let ended = field.ended(&field.wanted("job", &["sh", "-c", "exit 3"]));
    let before = field.see(&ended);
    field.ok(&ended.stop());
    assert_eq!(field.see(&ended), before);
}

fn a_stop_ends_the_restart_policy(field: &Field<'_>) {
    let mut wanted = field.wanted("web", IDLE);
    wanted.spec.restart = RestartPolicy::Always;
    let made = field.start(&wanted);
    field.ok(&made.stop());
    assert_eq!(field.state(&made), ContainerState::Exited(Some(143)));
    let mut failing = field.wanted("job", &["sh", "-c", "exit 1"]);
    failing.spec.restart = RestartPolicy::Always;
    let failing = field.start(&failing);
    field.ok(&failing.stop_within(NO_GRACE));
    assert!(matches!(field.state(&failing), ContainerState::Exited(_)));
}

fn a_kill_sends_its_signal(field: &Field<'_>) {
    for (service, signal, code) in
        [("by-name", "SIGKILL", 137), ("short", "usr1", 138), ("number", "15", 143)]
    {
        let made = field.started(service, IDLE);
        field.ok(&made.kill(signal));
        field.await_end(&made);
        assert_eq!(field.state(&made), ContainerState::Exited(Some(code)), "{signal}");
    }
}

fn a_signal_that_ends_nothing_ends_nothing(field: &Field<'_>) {
    let made = field.started("web", IDLE);
    for signal in ["CONT", "WINCH", "URG"] {
        field.ok(&made.kill(signal));
    }
    assert_eq!(field.state(&made), ContainerState::Running);
}

fn a_kill_of_what_does_not_run_is_an_error(field: &Field<'_>) {
    field.fails(&field.made("web", IDLE).kill("TERM"), ErrorKind::Dependency);
    let ended = field.ended(&field.wanted("job", &["true"]));
    field.fails(&ended.kill("KILL"), ErrorKind::Dependency);
    assert_eq!(field.state(&ended), ContainerState::Exited(Some(0)));
}

fn a_word_that_is_no_signal_is_invalid(field: &Field<'_>) {
    let made = field.started("web", IDLE);
    for signal in ["SIGFOO", "0", "99"] {
        field.fails(&made.kill(signal), ErrorKind::Invalid);
    }
    assert_eq!(field.state(&made), ContainerState::Running);
}

fn a_kill_for_good_ends_the_restart_policy(field: &Field<'_>) {
    for (service, signal, stays) in [("good", "KILL", false), ("stop", "TERM", false), ("bad", "USR1", true)]
    {
        let mut wanted = field.wanted(service, IDLE);
        wanted.spec.restart = RestartPolicy::Always;
        let made = field.start(&wanted);
        field.ok(&made.kill(signal));
        if stays {
            let mut states = std::iter::repeat_with(|| field.see(&made)).take(1_000);
            let back = states.any(|seen| seen.restarts > 0 || seen.state == ContainerState::Restarting);
            assert!(back, "{:?}", field.see(&made));
        } else {
            field.await_end(&made);
        }
    }
}

fn a_pause_lasts_until_it_is_taken_back_or_is_refused(field: &Field<'_>) {
    field.fails(&field.made("web", IDLE).pause(), ErrorKind::Dependency);
    let made = field.started("app", IDLE);
    match field.perform(&made.pause()) {
        // An engine that cannot says so, and has done nothing.
        Err(error) if error.kind == ErrorKind::Unsupported => {
            return assert_eq!(field.state(&made), ContainerState::Running);
        }
        paused => assert!(!paused.unwrap().unchanged),
    }
    field.ok(&made.pause());
    assert_eq!(field.state(&made), ContainerState::Paused);
    let refused = field.exec(&made, &["true"], false).expect_err("a program in a paused container");
    assert_eq!(refused.kind, ErrorKind::Dependency, "{refused}");
    field.unchanged(&made.start());
    field.ok(&made.unpause());
    assert_eq!(field.state(&made), ContainerState::Running);
    field.ok(&made.unpause());
    field.ok(&made.pause());
    field.ok(&made.stop());
    assert_eq!(field.state(&made), ContainerState::Exited(Some(143)));
}

fn what_runs_is_not_removed(field: &Field<'_>) {
    let made = field.started("web", IDLE);
    let before = field.see(&made);
    let error = field.fails(&made.remove(), ErrorKind::Conflict);
    assert!(error.to_string().contains(&made.name), "{error}");
    assert_eq!(field.see(&made), before);
}

fn a_removal_frees_the_name_and_may_be_repeated(field: &Field<'_>) {
    let never_ran = field.made("web", IDLE);
    let ran = field.ended(&field.wanted("job", &["true"]));
    for made in [never_ran, ran] {
        field.ok(&made.remove());
        assert_eq!(field.find(&made), None);
        field.ok(&made.remove());
    }
    let again = field.made("web", IDLE);
    assert_eq!(field.see(&again).state, ContainerState::Created);
}

fn a_successor_stands_beside_its_predecessor(field: &Field<'_>) {
    let old = field.started("web", IDLE);
    let mut wanted = field.wanted("web", &["sleep", "2000"]);
    wanted.replaces = Some(old.id.clone());
    let new = field.create(&wanted);
    assert_ne!(old.id, new.id);
    assert_eq!(field.see(&new).replaces, Some(old.id.clone()));
    field.ok(&old.stop_within(NO_GRACE));
    // Of several with this name, the newest.
    field.ok(&new.start());
    assert_eq!(field.state(&new), ContainerState::Running);
    assert_eq!(field.state(&old), ContainerState::Exited(Some(137)));
    field.ok(&old.remove());
    assert_eq!((field.find(&old), field.see(&new).name), (None, new.name));
}

fn containers_are_told_oldest_first(field: &Field<'_>) {
    let mut made = Vec::new();
    for service in ["c", "a", "b"] {
        made.push(field.made(service, IDLE).id);
    }
    let ids = |containers: Vec<ficelle::engine::Container>| -> Vec<ContainerId> {
        let ours = containers.into_iter().filter(|container| container.project == field.project);
        ours.map(|container| container.id).collect()
    };
    assert_eq!(ids(field.observe().containers), made);
    assert_eq!(ids(field.block(field.engine.everything()).unwrap()), made);
}

fn a_policy_brings_it_back(field: &Field<'_>) {
    for (service, policy) in [
        ("always", RestartPolicy::Always),
        ("unless", RestartPolicy::UnlessStopped),
        ("failure", RestartPolicy::OnFailure { max_retries: None }),
    ] {
        let mut wanted = field.wanted(service, &["sh", "-c", "exit 1"]);
        wanted.spec.restart = policy;
        let made = field.start(&wanted);
        let state = field.state(&made);
        assert!(
            matches!(state, ContainerState::Running | ContainerState::Restarting),
            "{service}: {state:?}"
        );
    }
}

fn a_policy_gives_up_after_its_retries(field: &Field<'_>) {
    let mut wanted = field.wanted("job", &["sh", "-c", "exit 3"]);
    wanted.spec.restart = RestartPolicy::OnFailure { max_retries: Some(2) };
    let made = field.ended(&wanted);
    let seen = field.see(&made);
    assert_eq!((seen.state, seen.restarts), (ContainerState::Exited(Some(3)), 2));
}

fn a_success_needs_no_retry(field: &Field<'_>) {
    let mut wanted = field.wanted("job", &["true"]);
    wanted.spec.restart = RestartPolicy::OnFailure { max_retries: None };
    let seen = field.see(&field.ended(&wanted));
    assert_eq!((seen.state, seen.restarts), (ContainerState::Exited(Some(0)), 0));
}

fn a_wait_for_a_start_is_over_when_it_was_started(field: &Field<'_>) {
    let made = field.made("web", IDLE);
    let waited = field.meanwhile(&made.wait_for(Condition::ServiceStarted), || drop(field.ok(&made.start())));
    waited.unwrap();
    // One that has ended was started.
    let ended = field.ended(&field.wanted("job", &["sh", "-c", "exit 3"]));
    field.ok(&ended.wait_for(Condition::ServiceStarted));
}

fn a_wait_for_completion_tells_success_from_failure(field: &Field<'_>) {
    let completed = Condition::ServiceCompletedSuccessfully;
    let good = field.started("good", &["true"]);
    field.ok(&good.wait_for(completed));
    let bad = field.started("bad", &["sh", "-c", "exit 4"]);
    let error = field.fails(&bad.wait_for(completed), ErrorKind::Dependency);
    assert!(error.to_string().contains(&bad.name) && error.to_string().contains('4'), "{error}");
}

fn a_wait_hears_an_end_that_comes_later(field: &Field<'_>) {
    let made = field.started("web", IDLE);
    let completed = made.wait_for(Condition::ServiceCompletedSuccessfully);
    let waited = field.meanwhile(&completed, || drop(field.ok(&made.kill("KILL"))));
    let error = waited.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Dependency);
    assert!(error.to_string().contains("137"), "{error}");
}

fn a_wait_for_health_ends_with_the_first_good_answer(field: &Field<'_>) {
    let mut wanted = field.wanted("web", IDLE);
    wanted.spec.healthcheck = Some(check("true"));
    let made = field.start(&wanted);
    field.ok(&made.wait_for(Condition::ServiceHealthy));
    assert_eq!(field.see(&made).health, Some(Health::Healthy));
}

fn a_wait_for_health_fails_when_it_is_unhealthy(field: &Field<'_>) {
    let mut wanted = field.wanted("web", IDLE);
    wanted.spec.healthcheck = Some(check("exit 1"));
    let made = field.start(&wanted);
    let error = field.fails(&made.wait_for(Condition::ServiceHealthy), ErrorKind::Dependency);
    assert!(error.to_string().contains("unhealthy"), "{error}");
    let seen = field.see(&made);
    assert_eq!((seen.state, seen.health), (ContainerState::Running, Some(Health::Unhealthy)));
}

fn a_wait_for_health_fails_when_it_ends(field: &Field<'_>) {
    let mut wanted = field.wanted("job", &["sh", "-c", "exit 5"]);
    wanted.spec.healthcheck = Some(check("true"));
    let made = field.ended(&wanted);
    let error = field.fails(&made.wait_for(Condition::ServiceHealthy), ErrorKind::Dependency);
    assert!(error.to_string().contains('5'), "{error}");
}

fn a_wait_for_health_without_a_check_is_invalid(field: &Field<'_>) {
    let made = field.started("web", IDLE);
    field.fails(&made.wait_for(Condition::ServiceHealthy), ErrorKind::Invalid);
}

fn a_disabled_check_is_none(field: &Field<'_>) {
    let mut wanted = field.wanted("web", IDLE);
    wanted.spec.healthcheck = Some(Healthcheck { test: Some(HealthTest::Disabled), ..check("true") });
    let made = field.start(&wanted);
    assert_eq!(field.see(&made).health, None);
    field.fails(&made.wait_for(Condition::ServiceHealthy), ErrorKind::Invalid);
}

fn a_container_that_ended_has_no_health(field: &Field<'_>) {
    let mut wanted = field.wanted("web", IDLE);
    wanted.spec.healthcheck = Some(check("true"));
    let made = field.start(&wanted);
    field.ok(&made.wait_for(Condition::ServiceHealthy));
    field.ok(&made.stop());
    assert_eq!(field.see(&made).health, None);
}

fn readiness_is_running_or_a_good_end(field: &Field<'_>) {
    let ready = WaitFor::Ready { timeout: Some(Duration::from_secs(20)) };
    field.ok(&field.started("web", IDLE).wait(ready));
    field.ok(&field.ended(&field.wanted("good", &["true"])).wait(ready));
    let bad = field.ended(&field.wanted("bad", &["sh", "-c", "exit 6"]));
    field.fails(&bad.wait(ready), ErrorKind::Dependency);
    let mut checked = field.wanted("checked", IDLE);
    checked.spec.healthcheck = Some(check("true"));
    let checked = field.start(&checked);
    field.ok(&checked.wait(ready));
    assert_eq!(field.see(&checked).health, Some(Health::Healthy));
}

fn readiness_has_an_end(field: &Field<'_>) {
    let mut wanted = field.wanted("web", IDLE);
    wanted.spec.healthcheck = Some(check("sleep 1000"));
    let made = field.start(&wanted);
    let ready = WaitFor::Ready { timeout: Some(Duration::from_millis(100)) };
    field.fails(&made.wait(ready), ErrorKind::Dependency);
    assert_eq!(field.see(&made).health, Some(Health::Starting));
}
