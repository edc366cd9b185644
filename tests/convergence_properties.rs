//! Whatever the project and wherever a command dies: the next `up` reaches the goal, once.

use std::collections::{BTreeMap, BTreeSet};

use ficelle::{
    engine::{ContainerState, Op},
    engines::simulated::Effect,
    model::{Condition, Lender, NetworkMode, Project, Service},
    plan::{Goal, Orphans, Plan},
};
use proptest::prelude::*;

use crate::stage::{Stage, With, down, project, select, service, up};

/// A project in numbers, so that proptest can make and shrink it.
#[derive(Clone, Debug)]
struct Shape {
    services: Vec<ServiceShape>,
    /// Ports of the services are moved round by this many places.
    port_offset: u16,
    /// The configuration of network `back`.
    internal: bool,
}

#[derive(Clone, Debug)]
struct ServiceShape {
    env: u8,
    scale: u32,
    /// Ends at once, with 0.
    one_shot: bool,
    /// For each earlier service: a dependency on it, if any.
    depends_on: Vec<Option<DependencyShape>>,
    /// Lives in the namespace of the first service.
    shares: bool,
    back_network: bool,
    volume: bool,
    anonymous: bool,
}

#[derive(Clone, Debug)]
struct DependencyShape {
    strong: bool,
    restart: bool,
    required: bool,
}

fn dependency() -> impl Strategy<Value = Option<DependencyShape>> {
    let shape = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.8));
    let shape = shape.prop_map(|(strong, restart, required)| DependencyShape { strong, restart, required });
    prop::option::weighted(0.4, shape)
}

fn service_shape() -> impl Strategy<Value = ServiceShape> {
    let numbers = (0..3_u8, prop::sample::select(vec![1, 1, 1, 2, 3, 0]));
    let flags = (
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.3),
    );
    (numbers, flags, prop::collection::vec(dependency(), 5)).prop_map(
        |((env, scale), (one_shot, shares, back_network, volume, anonymous), depends_on)| ServiceShape {
            env,
            scale,
            one_shot,
            depends_on,
            shares,
            back_network,
            volume,
            anonymous,
        },
    )
}

fn shape() -> impl Strategy<Value = Shape> {
    let services = prop::collection::vec(service_shape(), 1..6);
    (services, 0..3_u16, prop::bool::weighted(0.2)).prop_map(|(services, port_offset, internal)| Shape {
        services,
        port_offset,
        internal,
    })
}

/// The first service is one that others can share a namespace with.
fn can_own(shape: &Shape) -> bool {
    shape.services[0].scale > 0 && !shape.services[0].one_shot
}

fn build(shape: &Shape) -> Project {
    let name = |at: usize| format!("s{at}");
    let services = shape.services.iter().enumerate().map(|(at, one)| {
        let mut built = service(&name(at)).env("VALUE", &one.env.to_string()).scale(one.scale);
        built = if one.one_shot { built.command("true") } else { built.checked() };
        for (on, dependency) in one.depends_on.iter().take(at).enumerate() {
            let Some(dependency) = dependency else { continue };
            let condition = match (dependency.strong, shape.services[on].one_shot) {
                (false, _) => Condition::ServiceStarted,
                (true, true) => Condition::ServiceCompletedSuccessfully,
                (true, false) => Condition::ServiceHealthy,
            };
            built = built.needs(&name(on), condition);
            let built = built.depends_on.get_mut(&name(on)).unwrap();
            (built.restart, built.required) = (dependency.restart, dependency.required);
        }
        if one.volume {
            built = built.volume("data");
        }
        if one.anonymous {
            built = built.anonymous("/scratch");
        }
        if one.shares && at > 0 && can_own(shape) {
            built.container.network = NetworkMode::Of(Lender::Service(name(0)));
        } else {
            if one.back_network {
                built = built.on_network("back");
            }
            if one.scale == 1 {
                built = built.port(8000 + (u16::try_from(at).unwrap() + shape.port_offset) % 6, 80);
            }
        }
        built
    });
    let mut project = project(services);
    if let Some(back) = project.networks.get_mut("back") {
        back.internal = shape.internal;
    }
    project
}

fn is_one_shot(service: &Service) -> bool {
    service.container.command.is_some()
}

/// `up --remove-orphans`.
fn clean_up(project: &Project) -> Goal {
    let mut goal = up(project);
    if let Goal::Running { orphans, .. } = &mut goal {
        *orphans = Orphans::Removed;
    }
    goal
}

/// Real state: each service has just its containers, as the file says, and they run.
fn assert_reached(stage: &Stage, project: &Project) {
    let observed = stage.observe(project);
    let mut names = BTreeSet::new();
    for container in &observed.containers {
        let service = project.services.get(&container.service);
        let service = service.unwrap_or_else(|| panic!("orphan {}", container.name));
        assert!(names.insert((&container.service, container.number)), "doubled: {}", container.name);
        assert_eq!(container.spec.as_ref(), Some(&service.container));
        assert_eq!(container.image_id, observed.images[service.image()].id);
        let wanted =
            if is_one_shot(service) { ContainerState::Exited(Some(0)) } else { ContainerState::Running };
        assert_eq!(container.state, wanted, "{}", container.name);
        if let NetworkMode::Of(Lender::Service(owner)) = &service.container.network {
            let owner = observed.containers.iter().find(|c| c.service == *owner).unwrap();
            assert!(container.created > owner.created, "{} is in a namespace that is gone", container.name);
            assert!(container.started > owner.started, "{} is in a namespace that is gone", container.name);
        }
    }
    for service in project.services.values() {
        let count = observed.containers.iter().filter(|c| c.service == service.name).count();
        assert_eq!(count, service.scale as usize, "{}", service.name);
    }
}

/// Every step stands after those it needs; what is made waits for nothing that runs.
fn assert_well_formed(plan: &Plan) {
    let mut waits_for_a_start: Vec<bool> = Vec::new();
    for (at, step) in plan.steps.iter().enumerate() {
        assert!(step.needs.iter().all(|need| need.0 < at), "{plan}");
        let inherited = step.needs.iter().any(|need| waits_for_a_start[need.0]);
        let making = matches!(step.op, Op::Create(_) | Op::CreateNetwork { .. } | Op::CreateVolume { .. });
        assert!(!(making && inherited), "{} waits for a start:\n{plan}", step.op);
        waits_for_a_start.push(inherited || matches!(step.op, Op::Start { .. } | Op::Wait { .. }));
    }
}

/// A container starts after its dependencies, as far as they start in this plan.
fn assert_in_order(plan: &Plan, project: &Project) {
    let service_of = |name: &str| name.split('-').nth(1).unwrap().to_owned();
    let mut before: Vec<BTreeSet<String>> = Vec::new();
    for step in &plan.steps {
        let started = step.needs.iter().flat_map(|need| before[need.0].iter().cloned());
        let mut started: BTreeSet<String> = started.collect();
        if let Op::Start { name, .. } = &step.op {
            for on in project.services[&service_of(name)].depends_on.keys() {
                let starts = plan.steps.iter().filter_map(|step| match &step.op {
                    Op::Start { name, .. } if service_of(name) == *on => Some(name),
                    _ => None,
                });
                for dependency in starts {
                    assert!(started.contains(dependency), "{name} before {dependency}:\n{plan}");
                }
            }
            started.insert(name.clone());
        }
        before.push(started);
    }
}

/// A second `up` starts what has ended (as docker compose does), perhaps waits, and does nothing else.
fn assert_settled(stage: &Stage, project: &Project) {
    let plan = stage.plan(project, &clean_up(project)).unwrap();
    for step in &plan.steps {
        let ended = matches!(&step.op, Op::Start { name, .. } | Op::Wait { name, .. }
            if project.services.values().any(|s| is_one_shot(s) && name.contains(&format!("-{}-", s.name))));
        assert!(ended, "{plan}");
    }
}

fn identities(stage: &Stage, project: &Project) -> BTreeMap<String, String> {
    let all = stage.identities(project).into_iter();
    let running = all.filter(|(name, _)| {
        !project.services.values().any(|s| is_one_shot(s) && name.contains(&format!("-{}-", s.name)))
    });
    running.map(|(name, identity)| (name, format!("{identity:?}"))).collect()
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Crash,
    Fails,
    AnswerLost,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop::sample::select(vec![Fault::Crash, Fault::Fails, Fault::AnswerLost])
}

fn inject(stage: &Stage, fault: Fault, after: usize) {
    match fault {
        Fault::Crash => stage.engine.crash_after(after),
        Fault::Fails => stage.engine.fail_after(after, Effect::None),
        Fault::AnswerLost => stage.engine.fail_after(after, Effect::Done),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn up_reaches_the_goal_and_a_second_up_touches_nothing(shape in shape()) {
        let (stage, project) = (Stage::new(), build(&shape));
        let first = stage.play(&project, &up(&project));
        prop_assert!(first.report.is_success(), "{:?}", first);
        assert_well_formed(&first.plan);
        assert_in_order(&first.plan, &project);
        assert_reached(&stage, &project);
        assert_settled(&stage, &project);
        let before = identities(&stage, &project);
        prop_assert!(stage.play(&project, &up(&project)).report.is_success());
        prop_assert_eq!(identities(&stage, &project), before);
    }

    #[test]
    fn any_project_becomes_any_other_though_the_command_dies(
        (old, new) in (shape(), shape()),
        faults in prop::collection::vec((fault(), 0..60_usize), 0..3),
    ) {
        let (old, new) = (build(&old), build(&new));
        let stage = Stage::new();
        prop_assert!(stage.play(&old, &up(&old)).report.is_success());
        for (fault, after) in faults {
            inject(&stage, fault, after);
            stage.play(&new, &clean_up(&new));
            stage.engine.heal();
        }
        let last = stage.play(&new, &clean_up(&new));
        prop_assert!(last.report.is_success(), "{}\n{:?}", last.plan, last.report);
        assert_well_formed(&last.plan);
        assert_in_order(&last.plan, &new);
        assert_reached(&stage, &new);
        assert_settled(&stage, &new);
    }

    #[test]
    fn a_first_up_that_dies_is_finished_by_the_next(
        shape in shape(), fault in fault(), after in 0..60_usize
    ) {
        let (stage, project) = (Stage::new(), build(&shape));
        inject(&stage, fault, after);
        stage.play(&project, &up(&project));
        stage.engine.heal();
        prop_assert!(stage.play(&project, &up(&project)).report.is_success());
        assert_reached(&stage, &project);
        assert_settled(&stage, &project);
    }

    #[test]
    fn down_leaves_nothing_though_the_first_one_dies(
        shape in shape(), fault in fault(), after in 0..60_usize, volumes in any::<bool>()
    ) {
        let (stage, project) = (Stage::new(), build(&shape));
        prop_assert!(stage.play(&project, &up(&project)).report.is_success());
        let made = stage.observe(&project).volumes;
        inject(&stage, fault, after);
        stage.play(&project, &down(&project, volumes));
        stage.engine.heal();
        let last = stage.play(&project, &down(&project, volumes));
        prop_assert!(last.report.is_success(), "{:?}", last);
        let left = stage.observe(&project);
        prop_assert!(left.containers.is_empty() && left.networks.is_empty(), "{:?}", left);
        if volumes {
            prop_assert!(left.volumes.is_empty(), "{:?}", left.volumes);
        } else {
            prop_assert_eq!(left.volumes, made);
        }
    }

    #[test]
    fn a_changed_variable_touches_that_service_and_those_tied_to_it(shape in shape(), at in 0..5_usize) {
        let at = at % shape.services.len();
        let (stage, old) = (Stage::new(), build(&shape));
        prop_assert!(stage.play(&old, &up(&old)).report.is_success());
        let before = stage.identities(&old);
        let mut changed = shape.clone();
        changed.services[at].env += 1;
        let new = build(&changed);
        prop_assert!(stage.play(&new, &up(&new)).report.is_success());
        let after = stage.identities(&new);
        let mut recreated: BTreeSet<String> = [format!("s{at}")].into();
        let mut tied = recreated.clone();
        for service in new.services.values().filter(|service| service.name != format!("s{at}")) {
            if matches!(&service.container.network, NetworkMode::Of(Lender::Service(owner)) if recreated.contains(owner)) {
                recreated.insert(service.name.clone());
            }
            let on = |(on, dependency): (&String, &ficelle::model::Dependency)| {
                dependency.restart && tied.contains(on) && new.services[on].scale > 0
            };
            // What has ended is not restarted, and hands nothing on.
            let restarted = !is_one_shot(service) && service.depends_on.iter().any(on);
            if recreated.contains(&service.name) || restarted {
                tied.insert(service.name.clone());
            }
        }
        for container in stage.containers(&new) {
            let (name, service) = (&container.name, &container.service);
            prop_assert_eq!(
                before[name].0 != after[name].0, recreated.contains(service), "identity of {}", name);
            if !is_one_shot(&new.services[service]) {
                prop_assert_eq!(before[name] != after[name], tied.contains(service), "start of {}", name);
            }
        }
    }

    #[test]
    fn restart_starts_all_anew_and_keeps_them(shape in shape()) {
        let (stage, project) = (Stage::new(), build(&shape));
        prop_assert!(stage.play(&project, &up(&project)).report.is_success());
        let before = stage.identities(&project);
        let selection = select(&project, &[]);
        let goal = Goal::Restarted { selection, timeout: None, dependents: true };
        let played = stage.play(&project, &goal);
        prop_assert!(played.report.is_success(), "{:?}", played);
        assert_well_formed(&played.plan);
        for (name, (id, started)) in stage.identities(&project) {
            prop_assert_eq!(&id, &before[&name].0);
            prop_assert!(started > before[&name].1, "{} was not started", name);
        }
        assert_reached(&stage, &project);
    }

    #[test]
    fn stop_then_start_is_as_before(shape in shape()) {
        let (stage, project) = (Stage::new(), build(&shape));
        prop_assert!(stage.play(&project, &up(&project)).report.is_success());
        let selection = select(&project, &[]);
        let stop = Goal::Stopped { selection: selection.clone(), timeout: None };
        let stopped = stage.play(&project, &stop);
        prop_assert!(stopped.report.is_success());
        assert_well_formed(&stopped.plan);
        prop_assert!(stage.containers(&project).iter().all(|c| !c.state.is_running()));
        prop_assert!(stage.plan(&project, &stop).unwrap().steps.is_empty());
        let started = stage.play(&project, &Goal::Started { selection, wait: None });
        prop_assert!(started.report.is_success(), "{:?}", started);
        assert_well_formed(&started.plan);
        assert_in_order(&started.plan, &project);
        assert_reached(&stage, &project);
    }
}
