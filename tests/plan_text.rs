//! Plans as people read them: the printed plan alone explains what will happen.

use ficelle::{
    engine::Observed,
    model::{Build, Condition, Lender, NetworkMode, Place, Project, PullPolicy, RestartPolicy, Service},
    plan::{self, BuildMode, Goal, ImageOptions, Orphans, Recreate, WaitOptions},
};
use insta::assert_snapshot;

use crate::stage::{Stage, With, down, project, select, service, up};

/// A web application with its database, cache and migration.
fn shop() -> Project {
    project([
        service("db").checked().volume("data"),
        service("migrate").needs("db", Condition::ServiceHealthy).command("true"),
        service("web")
            .needs("db", Condition::ServiceHealthy)
            .needs("migrate", Condition::ServiceCompletedSuccessfully)
            .port(8080, 80)
            .scale(1),
    ])
}

fn change(project: &Project, edit: impl FnOnce(&mut Project)) -> Project {
    let mut changed = project.clone();
    edit(&mut changed);
    changed
}

/// No longer depends on it.
fn forget(service: &mut Service, dependency: &str) {
    assert!(service.depends_on.shift_remove(dependency).is_some());
}

fn running(stage: &Stage, project: &Project) {
    assert!(stage.play(project, &up(project)).report.is_success());
}

/// The plan of `up` with other options than the usual.
fn up_with(project: &Project, names: &[&str], edit: impl FnOnce(&mut Goal)) -> Goal {
    let mut goal = Goal::running(select(project, names));
    edit(&mut goal);
    goal
}

fn text(stage: &Stage, project: &Project, goal: &Goal) -> String {
    match stage.plan(project, goal) {
        Ok(plan) => plan.to_string(),
        Err(error) => {
            format!("error: {} [{}] {:?}", error.message, error.path.unwrap_or_default(), error.help)
        }
    }
}

#[test]
fn a_first_up_makes_everything_and_waits_only_to_start() {
    let (stage, shop) = (Stage::new(), shop());
    stage.pull(&shop);
    assert_snapshot!(text(&stage, &shop, &up(&shop)), @r#"
    create network demo_default (missing)
    create volume demo_data (missing)
    create container demo-db-1 (missing)
    create container demo-migrate-1 (missing)
    create container demo-web-1 (missing)
    start container demo-db-1 (new)
    wait until container demo-db-1 is healthy (needed by migrate, web)
    start container demo-migrate-1 (new)
    wait until container demo-migrate-1 has completed (needed by web)
    start container demo-web-1 (new)
    "#);
}

#[test]
fn an_unchanged_up_does_nothing_and_says_so() {
    let stage = Stage::new();
    let shop = change(&shop(), |shop| drop(shop.services.shift_remove("migrate")));
    let shop = change(&shop, |shop| forget(&mut shop.services["web"], "migrate"));
    running(&stage, &shop);
    assert_snapshot!(text(&stage, &shop, &up(&shop)), @r#"
    nothing to do
    unchanged: container demo-db-1
    unchanged: container demo-web-1
    "#);
}

#[test]
fn a_changed_service_tells_each_field_with_its_place() {
    let stage = Stage::new();
    let old = project([service("db"), service("web").env("DEBUG", "0").env("OLD", "x").port(8080, 80)]);
    running(&stage, &old);
    let new = change(
        &project([service("db"), service("web").env("DEBUG", "1").env("EMPTY", "").port(8081, 80)]),
        |new| {
            let place = |line, column| Place { file: "compose.yaml".into(), line, column };
            new.places.insert("services.web", place(4, 3));
            new.places.insert("services.web.environment.DEBUG", place(7, 14));
            new.places.insert("services.web.ports", place(9, 5));
            new.services["web"].container.restart = RestartPolicy::Always;
            new.services["web"].container.limits.memory = Some(64 << 20);
        },
    );
    assert_snapshot!(text(&stage, &new, &up(&new)), @r#"
    create container demo-web-1 (changed)
        services.web.environment.DEBUG: 0 -> 1 (compose.yaml:7:14)
        services.web.environment.EMPTY: (none) -> "" (compose.yaml:4:3)
        services.web.environment.OLD: x -> (none) (compose.yaml:4:3)
        services.web.ports: ["8080:80/tcp"] -> ["8081:80/tcp"] (compose.yaml:9:5)
        services.web.restart: no -> always (compose.yaml:4:3)
        services.web.mem_limit: (none) -> 67108864 (compose.yaml:4:3)
    stop container demo-web-1 (replaced)
    remove container demo-web-1 (replaced)
    start container demo-web-1 (new)
    unchanged: container demo-db-1
    "#);
}

#[test]
fn a_changed_network_or_mount_goes_by_its_name_in_the_file() {
    let stage = Stage::new();
    let old = project([service("web").volume("data").anonymous("/tmp")]);
    running(&stage, &old);
    let new = project([service("web").on_network("back").volume("uploads").anonymous("/tmp")]);
    assert_snapshot!(text(&stage, &new, &up(&new)), @r#"
    create network demo_back (missing)
    create volume demo_uploads (missing)
    create container demo-web-1 (changed)
        services.web.networks.back: (none) -> joined
        services.web.volumes[/data]: volume demo_data -> (none)
        services.web.volumes[/uploads]: (none) -> volume uploads
    stop container demo-web-1 (replaced)
    remove container demo-web-1 (replaced)
    start container demo-web-1 (new)
    "#);
}

#[test]
fn a_changed_image_recreates() {
    let stage = Stage::new();
    let project = project([service("web").needs("db", Condition::ServiceStarted), service("db")]);
    running(&stage, &project);
    stage.engine.publish("web:1", Some("new content")).unwrap();
    let options = ImageOptions { pull: Some(PullPolicy::Always), ..ImageOptions::default() };
    let selection = select(&project, &["web"]);
    let images = plan::images(&project, &selection, &options, &stage.observe(&project)).unwrap();
    assert_snapshot!(images, @r#"
    pull image db:1 (asked by --pull)
    pull image web:1 (asked by --pull)
    "#);
    assert!(stage.apply(&images).0.is_success());
    assert_snapshot!(text(&stage, &project, &up(&project)), @r#"
    create container demo-web-1 (image web:1 changed)
    stop container demo-web-1 (replaced)
    remove container demo-web-1 (replaced)
    start container demo-web-1 (new)
    unchanged: container demo-db-1
    "#);
}

#[test]
fn dependents_with_restart_stop_before_and_start_after() {
    let stage = Stage::new();
    let old = project([
        service("db").checked(),
        service("web").needs_and_restarts("db"),
        service("worker").needs("db", Condition::ServiceHealthy),
    ]);
    running(&stage, &old);
    let new = change(&old, |new| new.services["db"] = service("db").checked().env("A", "1"));
    assert_snapshot!(text(&stage, &new, &up(&new)), @r#"
    create container demo-db-1 (changed)
        services.db.environment.A: (none) -> 1
    stop container demo-web-1 (because of db)
    stop container demo-db-1 (replaced)
    remove container demo-db-1 (replaced)
    start container demo-db-1 (new)
    start container demo-web-1 (because of db)
    unchanged: container demo-worker-1
    "#);
    let only_db = Goal::running(select(&new, &["db"]));
    assert_eq!(text(&stage, &new, &only_db).lines().count(), 7, "web is tied to db though nobody named it");
}

#[test]
fn who_shares_a_namespace_is_recreated_with_its_owner() {
    let stage = Stage::new();
    let mut side = service("side");
    side.container.network = NetworkMode::Of(Lender::Service("app".to_owned()));
    let old = project([service("app"), side]);
    running(&stage, &old);
    let new = change(&old, |new| new.services["app"] = service("app").env("A", "1"));
    assert_snapshot!(text(&stage, &new, &up(&new)), @r#"
    create container demo-app-1 (changed)
        services.app.environment.A: (none) -> 1
    create container demo-side-1 (because of app)
    stop container demo-side-1 (replaced)
    stop container demo-app-1 (replaced)
    remove container demo-app-1 (replaced)
    remove container demo-side-1 (replaced)
    start container demo-app-1 (new)
    start container demo-side-1 (new)
    "#);
}

#[test]
fn scaling_down_removes_the_highest_numbers_and_outdated_ones_first() {
    let stage = Stage::new();
    let three = project([service("web").scale(3)]);
    running(&stage, &three);
    let one = project([service("web").scale(1)]);
    assert_snapshot!(text(&stage, &one, &up(&one)), @r#"
    stop container demo-web-3 (more than wanted)
    remove container demo-web-3 (more than wanted)
    stop container demo-web-2 (more than wanted)
    remove container demo-web-2 (more than wanted)
    unchanged: container demo-web-1
    "#);
    let goal = up_with(&three, &[], |goal| {
        let Goal::Running { scale, .. } = goal else { return };
        scale.insert("web".to_owned(), 4);
    });
    assert_snapshot!(text(&stage, &three, &goal), @r#"
    create container demo-web-4 (missing)
    start container demo-web-4 (new)
    unchanged: container demo-web-1
    unchanged: container demo-web-2
    unchanged: container demo-web-3
    "#);
}

#[test]
fn orphans_are_told_in_one_line_and_removed_when_asked() {
    let stage = Stage::new();
    let old = project([service("web"), service("cache"), service("queue").port(7000, 7000)]);
    running(&stage, &old);
    let new = project([service("web"), service("broker").port(7000, 7000)]);
    stage.pull(&new);
    assert_snapshot!(text(&stage, &new, &up(&new)), @r#"
    create container demo-broker-1 (missing)
    start container demo-broker-1 (new)
    unchanged: container demo-web-1
    note: kept, though the files no longer name their services: demo-queue-1 (service `queue`), demo-cache-1 (service `cache`); `--remove-orphans` removes them
    "#);
    let goal = up_with(&new, &[], |goal| {
        let Goal::Running { orphans, .. } = goal else { return };
        *orphans = Orphans::Ignored;
    });
    assert_snapshot!(text(&stage, &new, &goal), @r#"
    create container demo-broker-1 (missing)
    start container demo-broker-1 (new)
    unchanged: container demo-web-1
    "#);
    let goal = up_with(&new, &[], |goal| {
        let Goal::Running { orphans, .. } = goal else { return };
        *orphans = Orphans::Removed;
    });
    assert_snapshot!(text(&stage, &new, &goal), @r#"
    stop container demo-queue-1 (its service is not in the files)
    remove container demo-queue-1 (its service is not in the files)
    stop container demo-cache-1 (its service is not in the files)
    remove container demo-cache-1 (its service is not in the files)
    create container demo-broker-1 (missing)
    start container demo-broker-1 (new)
    unchanged: container demo-web-1
    "#);
}

#[test]
fn containers_that_another_directory_made_are_never_orphans_to_remove() {
    let stage = Stage::new();
    let theirs =
        change(&project([service("web"), service("cache")]), |theirs| theirs.root = "/work/other".into());
    running(&stage, &theirs);
    let ours = project([service("web")]);
    let goal = up_with(&ours, &[], |goal| {
        let Goal::Running { orphans, .. } = goal else { return };
        *orphans = Orphans::Removed;
    });
    assert_snapshot!(text(&stage, &ours, &goal), @r#"
    nothing to do
    unchanged: container demo-web-1
    note: container demo-cache-1 is kept: the project of the same name in /work/other made it
    note: container demo-web-1 is taken over: the project of the same name in /work/other made it; give one of them another name with `-p` or `name:`
    "#);
}

#[test]
fn force_recreate_spares_what_is_only_needed() {
    let stage = Stage::new();
    let project = project([service("db"), service("web").needs("db", Condition::ServiceStarted)]);
    running(&stage, &project);
    let goal = up_with(&project, &["web"], |goal| {
        let Goal::Running { recreate, .. } = goal else { return };
        *recreate = Recreate::Always;
    });
    assert_snapshot!(text(&stage, &project, &goal), @r#"
    create container demo-web-1 (asked by --force-recreate)
    stop container demo-web-1 (replaced)
    remove container demo-web-1 (replaced)
    start container demo-web-1 (new)
    unchanged: container demo-db-1
    "#);
    let changed = change(&project, |new| new.services["db"] = service("db").env("A", "1"));
    let goal = up_with(&changed, &[], |goal| {
        let Goal::Running { recreate, .. } = goal else { return };
        *recreate = Recreate::Never;
    });
    assert_snapshot!(text(&stage, &changed, &goal), @r#"
    nothing to do
    unchanged: container demo-db-1
    unchanged: container demo-web-1
    note: container demo-db-1 differs from the file and is kept (`--no-recreate`)
    "#);
}

#[test]
fn create_starts_nothing_and_wait_waits_for_all() {
    let stage = Stage::new();
    let project = project([service("db").checked(), service("web").needs("db", Condition::ServiceStarted)]);
    stage.pull(&project);
    let created = up_with(&project, &[], |goal| {
        let Goal::Running { start, .. } = goal else { return };
        *start = false;
    });
    assert_snapshot!(text(&stage, &project, &created), @r#"
    create network demo_default (missing)
    create container demo-db-1 (missing)
    create container demo-web-1 (missing)
    "#);
    assert!(stage.play(&project, &created).report.is_success());
    let waiting = up_with(&project, &[], |goal| {
        let Goal::Running { wait, .. } = goal else { return };
        *wait = Some(WaitOptions { timeout: None });
    });
    assert_snapshot!(text(&stage, &project, &waiting), @r#"
    start container demo-db-1 (not running)
    start container demo-web-1 (not running)
    wait until container demo-db-1 is ready (asked by --wait)
    wait until container demo-web-1 is ready (asked by --wait)
    "#);
    assert!(stage.play(&project, &waiting).report.is_success());
    assert_snapshot!(text(&stage, &project, &waiting), @r#"
    nothing to do
    unchanged: container demo-db-1
    unchanged: container demo-web-1
    "#);
}

#[test]
fn a_network_that_differs_is_made_anew_and_its_containers_stay() {
    let stage = Stage::new();
    let old = project([service("db"), service("web").needs("db", Condition::ServiceStarted)]);
    running(&stage, &old);
    let before = stage.containers(&old);
    let new = change(&old, |new| new.networks["default"].internal = true);
    let plan = text(&stage, &new, &up(&new));
    let plan = plan.lines().filter(|line| !line.contains("config hash")).collect::<Vec<_>>().join("\n");
    assert_snapshot!(plan, @r#"
    stop container demo-db-1 (because of network demo_default)
    stop container demo-web-1 (because of network demo_default)
    remove network demo_default (changed)
    create network demo_default (changed)
    start container demo-db-1 (because of network demo_default)
    start container demo-web-1 (because of network demo_default)
    "#);
    assert!(stage.play(&new, &up(&new)).report.is_success());
    let ids = |all: &[ficelle::engine::Container]| all.iter().map(|c| c.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&stage.containers(&new)), ids(&before));
    assert_eq!(stage.plan(&new, &up(&new)).unwrap().steps, []);
}

#[test]
fn what_the_command_does_not_mean_steps_aside_for_a_network_and_comes_back() {
    let stage = Stage::new();
    let old = project([service("db"), service("debug"), service("gone")]);
    running(&stage, &old);
    let new = change(&old, |new| {
        new.networks["default"].internal = true;
        new.services.shift_remove("gone").unwrap();
        let debug = new.services.shift_remove("debug").unwrap();
        new.disabled.insert("debug".to_owned(), debug);
    });
    let created = up_with(&new, &[], |goal| {
        let Goal::Running { start, .. } = goal else { return };
        *start = false;
    });
    for goal in [created, up(&new)] {
        assert!(stage.play(&new, &goal).report.is_success());
        assert!(stage.containers(&new).iter().all(|container| container.state.is_running()));
        assert_eq!(stage.containers(&new).len(), 3);
        assert_eq!(stage.plan(&new, &goal).unwrap().steps, []);
    }
}

#[test]
fn down_goes_in_reverse_and_keeps_what_it_must() {
    let (stage, shop) = (Stage::new(), shop());
    running(&stage, &shop);
    assert_snapshot!(text(&stage, &shop, &down(&shop, true)), @r#"
    stop container demo-web-1 (asked for)
    remove container demo-web-1 (asked for)
    remove container demo-migrate-1 (asked for)
    stop container demo-db-1 (asked for)
    remove container demo-db-1 (asked for)
    remove network demo_default (asked for)
    remove volume demo_data (asked for)
    "#);
    let without_db = change(&shop, |shop| {
        let db = shop.services.shift_remove("db").unwrap();
        shop.services.values_mut().for_each(|service| forget(service, "db"));
        shop.disabled.insert("db".to_owned(), db);
    });
    assert_snapshot!(text(&stage, &without_db, &down(&without_db, true)), @r#"
    stop container demo-web-1 (asked for)
    remove container demo-web-1 (asked for)
    remove container demo-migrate-1 (asked for)
    note: container demo-db-1 is kept: service `db` is disabled; turn its profile on to remove it
    note: network demo_default is kept: used by demo-db-1
    note: volume data is kept: used by demo-db-1
    "#);
    let web = Goal::Removed {
        selection: select_only(&shop, "web"),
        volumes: true,
        remove_orphans: false,
        timeout: None,
    };
    assert_snapshot!(text(&stage, &shop, &web), @r#"
    stop container demo-web-1 (asked for)
    remove container demo-web-1 (asked for)
    note: volume data is kept: used by db, demo-db-1
    "#);
}

fn select_only(project: &Project, name: &str) -> ficelle::model::Selection {
    let graph = ficelle::model::Graph::of(project).unwrap();
    let names = [name.to_owned()];
    ficelle::model::Selection::of(project, &graph, &names, ficelle::model::WithDependencies::No).unwrap()
}

#[test]
fn stop_start_and_restart_follow_the_graph() {
    let (stage, shop) = (Stage::new(), shop());
    running(&stage, &shop);
    let selection = select(&shop, &[]);
    let restart = Goal::Restarted { selection: selection.clone(), timeout: None, dependents: true };
    assert_snapshot!(text(&stage, &shop, &restart), @r#"
    stop container demo-web-1 (asked by restart)
    stop container demo-db-1 (asked by restart)
    start container demo-db-1 (asked by restart)
    wait until container demo-db-1 is healthy (needed by migrate, web)
    start container demo-migrate-1 (asked by restart)
    wait until container demo-migrate-1 has completed (needed by web)
    start container demo-web-1 (asked by restart)
    "#);
    let stop = Goal::Stopped { selection: selection.clone(), timeout: None };
    assert_snapshot!(text(&stage, &shop, &stop), @r#"
    stop container demo-web-1 (asked for)
    stop container demo-db-1 (asked for)
    "#);
    assert!(stage.play(&shop, &stop).report.is_success());
    assert_snapshot!(text(&stage, &shop, &Goal::Started { selection, wait: None }), @r#"
    start container demo-db-1 (not running)
    wait until container demo-db-1 is healthy (needed by migrate, web)
    start container demo-migrate-1 (not running)
    wait until container demo-migrate-1 has completed (needed by web)
    start container demo-web-1 (not running)
    "#);
    let empty = Stage::new();
    assert_snapshot!(text(&empty, &shop, &Goal::Started { selection: select(&shop, &["web"]), wait: None }), @r#"error: service "web" has no container to start [services.web] ["`ficelle up` makes it"]"#);
}

#[test]
fn what_cannot_be_is_told_before_anything_is_done() {
    let stage = Stage::new();
    let base = project([service("web").volume("data")]);
    let external = change(&base, |p| p.networks["default"].external = true);
    assert_snapshot!(text(&stage, &external, &up(&external)), @r#"error: network `demo_default` is external and does not exist [networks.default] ["make it first, or drop `external: true` to have it made with the project"]"#);
    let external = change(&base, |p| p.volumes["data"].external = true);
    assert_snapshot!(text(&stage, &external, &up(&external)), @r#"error: volume `demo_data` is external and does not exist [volumes.data] ["make it first, or drop `external: true` to have it made with the project"]"#);
    let named = change(&base, |p| {
        p.services["web"].container.container_name = Some("web".to_owned());
        p.services["web"].scale = 2;
    });
    assert_snapshot!(text(&stage, &named, &up(&named)), @r#"error: service `web` cannot have 2 containers that are all named `web` [services.web.container_name] ["remove `container_name`, so that each replica gets a name of its own"]"#);
    let undeclared = change(&base, |p| drop(p.networks.shift_remove("default")));
    assert_snapshot!(text(&stage, &undeclared, &up(&undeclared)), @r#"error: service `web` uses network `demo_default`, which is not declared [services.web.networks] ["declare it under `networks:` at the top level"]"#);
    let mut circle = [service("a"), service("b")];
    circle[0].container.network = NetworkMode::Of(Lender::Service("b".to_owned()));
    circle[1].container.network = NetworkMode::Of(Lender::Service("a".to_owned()));
    let circle = project(circle);
    assert_snapshot!(text(&stage, &circle, &up(&circle)), @"error: services need each other in a circle: a -> b -> a [services.a.network_mode] []");
}

#[test]
fn a_name_that_another_service_had_is_freed_first() {
    let stage = Stage::new();
    let named = |key: &str, name: &str| {
        let mut service = service(key);
        service.container.container_name = Some(name.to_owned());
        service
    };
    let old = project([named("web", "site"), named("db", "store")]);
    running(&stage, &old);
    let new = project([named("app", "site"), named("db", "store")]);
    stage.pull(&new);
    assert_snapshot!(text(&stage, &new, &up(&new)), @r#"error: the name `site` is taken by a container of service `web` [services.app.container_name] ["remove that container first (`ficelle down web`), or use another name"]"#);
    let goal = up_with(&new, &[], |goal| {
        let Goal::Running { orphans, .. } = goal else { return };
        *orphans = Orphans::Removed;
    });
    assert_snapshot!(text(&stage, &new, &goal), @r#"
    stop container site (its service is not in the files)
    remove container site (its service is not in the files)
    create container site (missing)
    start container site (new)
    unchanged: container store
    "#);
    let swapped = project([named("web", "store"), named("db", "site")]);
    assert_snapshot!(text(&stage, &swapped, &up(&swapped)), @r#"error: the name `store` is taken by a container of service `db` [services.web.container_name] ["remove that container first (`ficelle down db`), or use another name"]"#);
}

#[test]
fn what_an_interrupted_recreate_left_is_named_so() {
    let stage = Stage::new();
    let old = project([service("web").env("A", "0")]);
    running(&stage, &old);
    let new = project([service("web").env("A", "1")]);
    stage.engine.crash_after(1);
    stage.play(&new, &up(&new));
    stage.engine.heal();
    assert_eq!(stage.containers(&new).len(), 2);
    assert_snapshot!(text(&stage, &new, &up(&new)), @r#"
    stop container demo-web-1 (left by an interrupted command)
    remove container demo-web-1 (left by an interrupted command)
    start container demo-web-1 (not running)
    "#);
    assert_snapshot!(text(&stage, &old, &up(&old)), @r#"
    remove container demo-web-1 (left by an interrupted command)
    unchanged: container demo-web-1
    "#);
}

fn images(project: &Project, options: &ImageOptions, observed: &Observed) -> String {
    match plan::images(project, &select(project, &[]), options, observed) {
        Ok(plan) => plan.to_string(),
        Err(error) => {
            format!("error: {} [{}] {:?}", error.message, error.path.unwrap_or_default(), error.help)
        }
    }
}

#[test]
fn a_build_from_another_services_image_comes_after_it() {
    let build = |context: &str, base: &str| {
        let additional_contexts = [("base".to_owned(), format!("service:{base}"))].into_iter().collect();
        Some(Build { context: context.into(), additional_contexts, ..Build::default() })
    };
    let mut project = change(&project([service("web"), service("base")]), |p| {
        p.services["web"].build = build("/work/web", "base");
        p.services["web"].container.image = "demo-web".to_owned();
        p.services["base"].build = Some(Build { context: "/work/base".into(), ..Build::default() });
        p.services["base"].container.image = "demo-base".to_owned();
    });
    let base = project.services.shift_remove("base").unwrap();
    project.disabled.insert("base".to_owned(), base.clone());
    let stage = Stage::new();
    let nothing = stage.observe(&project);
    assert_snapshot!(images(&project, &ImageOptions::default(), &nothing), @r"
    build image demo-base (needed by web)
    build image demo-web (missing)
    ");
    project.disabled["base"].build = build("/work/base", "web");
    assert_snapshot!(images(&project, &ImageOptions::default(), &nothing), @"error: the builds of services `base` and `web` need each other [services.base.build.additional_contexts] []");
    project.disabled["base"].build = None;
    assert_snapshot!(images(&project, &ImageOptions::default(), &nothing), @r#"error: service `web` builds from service `base`, which is not there or builds nothing [services.web.build.additional_contexts] ["name a service with a `build` section"]"#);
}

#[test]
fn images_are_pulled_or_built_once() {
    let build = |context: &str| Some(Build { context: context.into(), ..Build::default() });
    let project =
        change(&project([service("db"), service("cache"), service("web"), service("worker")]), |p| {
            p.services["cache"].container.image = "db:1".to_owned();
            p.services["web"].build = build("/work/demo/app");
            p.services["web"].container.image = "demo-web".to_owned();
            p.services["worker"].build = build("/work/demo/app");
            p.services["worker"].container.image = "demo-worker".to_owned();
        });
    let stage = Stage::new();
    let options = ImageOptions::default();
    let nothing = stage.observe(&project);
    assert_snapshot!(images(&project, &options, &nothing), @r#"
    pull image db:1 (missing)
    build image demo-web, demo-worker (missing)
    "#);
    stage.pull(&project);
    let all = stage.observe(&project);
    assert_eq!(all.images["demo-web"].id, all.images["demo-worker"].id);
    assert_snapshot!(images(&project, &options, &all), @"nothing to do");
    let always = ImageOptions { build: BuildMode::Always, pull: Some(PullPolicy::Always), locked: None };
    assert_snapshot!(images(&project, &always, &all), @r#"
    pull image db:1 (asked by --pull)
    build image demo-web, demo-worker (asked by --build)
    "#);
    let never = ImageOptions { build: BuildMode::Never, pull: None, locked: None };
    assert_snapshot!(images(&project, &never, &nothing), @r#"error: image demo-web of service `web` is not there and may not be built [services.web.build] ["leave out `--no-build`, or run `ficelle build` first"]"#);
    let no_pull = ImageOptions { build: BuildMode::Missing, pull: Some(PullPolicy::Never), locked: None };
    assert_snapshot!(images(&project, &no_pull, &nothing), @r#"error: image db:1 of service `db` is not there and may not be pulled [services.db.image] ["load it with `ficelle image load`, or use the pull policy `missing`"]"#);
    let pull = ImageOptions { build: BuildMode::Never, pull: Some(PullPolicy::Always), locked: None };
    let both = change(&project, |p| p.services["web"].container.image = "acme/web".to_owned());
    let both = change(&both, |p| drop(p.services.shift_remove("worker")));
    assert_snapshot!(images(&both, &pull, &all), @r"
    pull image acme/web (asked by --pull, may fail)
    pull image db:1 (asked by --pull)
    ");
}

#[test]
fn an_image_that_was_brought_long_ago_is_pulled_again() {
    let stage = Stage::new();
    let day = std::time::Duration::from_secs(86_400);
    let daily = project([service("web")]);
    let daily = change(&daily, |p| p.services["web"].pull_policy = Some(PullPolicy::Every(day)));
    let options = ImageOptions::default();
    assert_snapshot!(images(&daily, &options, &stage.observe(&daily)), @"pull image web:1 (missing)");
    stage.pull(&daily);
    let mut there = stage.observe(&daily);
    there.images.get_mut("web:1").unwrap().age = Some(day / 2);
    assert_snapshot!(images(&daily, &options, &there), @"nothing to do");
    for age in [Some(day), Some(day * 30), None] {
        there.images.get_mut("web:1").unwrap().age = age;
        assert_eq!(images(&daily, &options, &there).trim(), "pull image web:1 (asked by pull_policy)");
    }
}

#[test]
fn a_lock_refuses_what_it_does_not_name_or_names_otherwise() {
    let stage = Stage::new();
    let web = project([service("web")]);
    let locked = |pairs: &[(&str, &str)]| ImageOptions {
        locked: Some(pairs.iter().map(|(name, digest)| ((*name).to_owned(), (*digest).to_owned())).collect()),
        ..ImageOptions::default()
    };
    assert_snapshot!(images(&web, &locked(&[]), &stage.observe(&web)), @r#"error: image web:1 of service `web` is not in ficelle.lock [services.web.image] ["`ficelle lock` writes it there"]"#);
    stage.pull(&web);
    let mut there = stage.observe(&web);
    there.images.get_mut("web:1").unwrap().digest = Some("sha256:new".to_owned());
    assert_snapshot!(images(&web, &locked(&[("web:1", "sha256:new")]), &there), @"nothing to do");
    let drifted = images(&web, &locked(&[("web:1", "sha256:old")]), &there);
    assert!(
        drifted.starts_with("error: image web:1 is locked to sha256:old, and the store has sha256:new"),
        "{drifted}"
    );
}

#[test]
fn what_is_built_under_a_name_of_its_own_is_pushed_once() {
    let build = |image: &str| {
        let mut built = service("web");
        built.container.image = image.to_owned();
        built.build = Some(Build { tags: vec!["acme/web:2".to_owned()], ..Build::default() });
        built
    };
    let push = |web: Service| {
        let project = project([web, service("db")]);
        plan::pushes(&project, &select(&project, &[]), plan::OnFailure::Stop).to_string()
    };
    assert_snapshot!(push(build("acme/web:1")), @r"
    push image acme/web:1 (asked by push)
    push image acme/web:2 (asked by push)
    ");
    assert_snapshot!(push(build("demo-web")), @"push image acme/web:2 (asked by push)");
}
