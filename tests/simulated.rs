//! The simulated engine keeps the contract that plans rely on.

use std::{collections::BTreeMap, sync::Arc};

use ficelle::{
    engine::{ContainerState, Detail, Engine, ErrorKind, LogItem, LogQuery, Op, Progress, Scope, Silent},
    engines::simulated::{Behaviour, Simulated},
    model::{Condition, Project},
};
use tokio::sync::mpsc;

use crate::stage::{Stage, With, project, service, up};

fn ops(stage: &Stage, project: &Project) -> Vec<Op> {
    stage.plan(project, &up(project)).unwrap().steps.into_iter().map(|step| step.op).collect()
}

#[test]
fn ports_in_use_are_found_before_anything_is_made() {
    let stage = Stage::new();
    let mut other = project([service("site").port(8080, 80)]);
    other.name = "other".to_owned();
    assert!(stage.play(&other, &up(&other)).report.is_success());
    let shop = project([
        service("web").port(8080, 80),
        service("api").port(9000, 80),
        service("copy").port(9000, 90),
    ]);
    stage.pull(&shop);
    let ops = ops(&stage, &shop);
    let ops: Vec<&Op> = ops.iter().collect();
    let found = stage.runtime.block_on(stage.engine.check(&ops));
    let told: Vec<String> =
        found.iter().map(|e| format!("{e} [{}]", e.path.as_deref().unwrap_or("-"))).collect();
    assert_eq!(
        told,
        [
            "port 8080 is in use by container other-site-1 [services.web.ports[0]]",
            "port 9000 is in use by container demo-api-1 [services.copy.ports[0]]",
        ]
    );
    assert!(stage.containers(&shop).is_empty());
}

#[test]
fn a_replaced_container_does_not_hold_its_port_against_its_successor() {
    let stage = Stage::new();
    let old = project([service("web").port(8080, 80)]);
    assert!(stage.play(&old, &up(&old)).report.is_success());
    let new = project([service("web").port(8080, 80).env("A", "1")]);
    let ops = ops(&stage, &new);
    assert_eq!(stage.runtime.block_on(stage.engine.check(&ops.iter().collect::<Vec<_>>())), []);
    assert!(stage.play(&new, &up(&new)).report.is_success());
}

#[test]
fn a_file_remembers_for_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state").join("simulated.json");
    let project = project([service("job").command("exit 3"), service("web").checked()]);
    let first = Stage::on(Simulated::at(file.clone()));
    let played = first.play(&project, &up(&project));
    assert!(played.report.is_success(), "{played:?}");
    let second = Stage::on(Simulated::at(file));
    let containers = second.containers(&project).into_iter();
    let found: BTreeMap<String, ContainerState> = containers.map(|c| (c.name, c.state)).collect();
    assert_eq!(found["demo-job-1"], ContainerState::Exited(Some(3)));
    assert_eq!(found["demo-web-1"], ContainerState::Running);
    assert_eq!(second.observe(&project), first.observe(&project));
}

#[test]
fn a_failed_dependency_names_the_container_and_its_code() {
    let stage = Stage::new();
    let project = project([
        service("migrate").command("exit 4"),
        service("web").needs("migrate", Condition::ServiceCompletedSuccessfully),
    ]);
    let played = stage.play(&project, &up(&project));
    let [(_, error)] = played.report.failed.as_slice() else { panic!("{played:?}") };
    assert_eq!(error.kind, ErrorKind::Dependency);
    assert_eq!(error.to_string(), "container demo-migrate-1 exited with code 4");
    let web = stage.containers(&project).into_iter().find(|c| c.service == "web").unwrap();
    assert_eq!(web.state, ContainerState::Created);
}

fn query(follow: bool) -> LogQuery {
    LogQuery { project: "demo".to_owned(), containers: vec![], tail: None, since: None, until: None, follow }
}

/// Container and text of the lines, and the code of each end.
fn told(items: &[LogItem]) -> Vec<String> {
    let one = |item: &LogItem| match item {
        LogItem::Line { container, text, .. } => format!("{container} {}", String::from_utf8_lossy(text)),
        LogItem::Exited { container, code, .. } => format!("{container} ended {code:?}"),
    };
    items.iter().map(one).collect()
}

#[test]
fn followed_logs_end_with_the_last_container() {
    let stage = Stage::new();
    let project = project([service("job").command("echo hello"), service("web")]);
    let listening = Behaviour { lines: vec!["listening".to_owned()], ..Behaviour::default() };
    stage.engine.behave("web", listening).unwrap();
    assert!(stage.play(&project, &up(&project)).report.is_success());
    let items = stage.runtime.block_on(async {
        let (sink, mut items) = mpsc::channel(1);
        let engine = stage.engine.clone();
        let logs = tokio::spawn(async move { engine.logs(&query(true), sink).await });
        let mut heard = Vec::new();
        while let Some(item) = items.recv().await {
            if heard.len() == 2 {
                stage.engine.exit("demo-web-1", 7).unwrap();
            }
            heard.push(item);
        }
        logs.await.unwrap().unwrap();
        heard
    });
    let mut told = told(&items);
    assert_eq!(told.pop().unwrap(), "demo-web-1 ended Some(7)");
    told.sort();
    assert_eq!(told, ["demo-job-1 ended Some(0)", "demo-job-1 hello", "demo-web-1 listening"]);
}

#[test]
fn logs_nobody_listens_to_end() {
    let stage = Stage::new();
    let project = project([service("web")]);
    assert!(stage.play(&project, &up(&project)).report.is_success());
    let (sink, items) = mpsc::channel(1);
    drop(items);
    stage.runtime.block_on(stage.engine.logs(&query(true), sink)).unwrap();
}

#[test]
fn a_second_command_waits_for_the_first() {
    struct Told(mpsc::UnboundedSender<Detail>);
    impl Progress for Told {
        fn report(&self, detail: Detail) {
            self.0.send(detail).unwrap();
        }
    }
    let stage = Stage::new();
    stage.runtime.block_on(async {
        let first = stage.engine.lock("demo", "up", &Silent).await.unwrap();
        let other = stage.engine.lock("other", "up", &Silent).await.unwrap();
        let (tell, mut told) = mpsc::unbounded_channel();
        let engine: Arc<dyn Engine> = Arc::new(stage.engine.clone());
        let second = tokio::spawn(async move { engine.lock("demo", "down", &Told(tell)).await.map(drop) });
        told.recv().await.expect("the second command says that it waits");
        assert!(!second.is_finished());
        drop((first, other));
        second.await.unwrap().unwrap();
    });
}

#[test]
fn only_the_project_and_what_was_asked_for_is_observed() {
    let stage = Stage::new();
    let shop = project([service("web").volume("data")]);
    assert!(stage.play(&shop, &up(&shop)).report.is_success());
    let scope = |networks: &[&str]| Scope {
        project: "other".to_owned(),
        images: vec!["web:1".to_owned(), "absent".to_owned()],
        networks: networks.iter().map(|name| (*name).to_owned()).collect(),
        volumes: vec![],
    };
    let observe = |networks| stage.runtime.block_on(stage.engine.observe(&scope(networks))).unwrap();
    assert!(observe(&[]).networks.is_empty() && observe(&[]).volumes.is_empty());
    assert!(observe(&[]).containers.is_empty());
    assert_eq!(observe(&["demo_default"]).networks["demo_default"].containers, ["demo-web-1"]);
    assert_eq!(observe(&[]).images.keys().collect::<Vec<_>>(), ["web:1"]);
}
