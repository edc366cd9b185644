//! What containers say, further programs in them, and news of them.

use std::{sync::Arc, time::Duration};

use ficelle::engine::{
    AttachRequest, Chunk, Condition, ContainerId, ContainerState, Conversation, Detail, ErrorKind, HookAt,
    HookRequest, LogItem, LogQuery, Op, Progress, Silent, Stream,
};
use ficelle::model::Hook;
use tokio::sync::mpsc;

use super::{
    Case, cases,
    field::{Field, IDLE, Made, between, program, told},
};

pub const CASES: &[Case] = cases![
    what_it_wrote_is_kept_with_its_name_and_time,
    logs_are_cut_as_asked,
    logs_of_nobody_are_nothing,
    followed_logs_end_with_the_last_container,
    logs_that_nobody_hears_end,
    logs_are_kept_across_starts,
    a_program_runs_inside_and_its_code_comes_back,
    a_program_reads_what_it_is_sent,
    a_program_is_signalled,
    no_program_runs_where_nothing_does,
    a_program_may_run_unheard,
    an_attached_reader_hears_it_from_the_start_to_the_end,
    a_hook_is_as_good_as_its_code,
    what_runs_uses_something_and_has_processes,
    changes_are_told_until_nobody_listens,
    one_command_at_a_time_has_a_project,
];

/// A container that has written three lines, one at each start.
fn three_lines(field: &Field<'_>) -> Made {
    let made = field.made("job", &["echo", "hello"]);
    for _ in 0..3 {
        field.ok(&made.start());
        field.await_end(&made);
    }
    made
}

fn what_it_wrote_is_kept_with_its_name_and_time(field: &Field<'_>) {
    let made = field.ended(&field.wanted("job", &["echo", "hello", "there"]));
    let seen = field.see(&made);
    let items = field.logs(&field.query(&[]));
    let [LogItem::Line { container, stream: Stream::Stdout, time, text }] = items.as_slice() else {
        panic!("{items:?}")
    };
    assert_eq!((container, text.as_slice()), (&made.name, &b"hello there"[..]));
    assert!(*time >= seen.created, "{time:?} {seen:?}");
}

fn logs_are_cut_as_asked(field: &Field<'_>) {
    let made = three_lines(field);
    let all = field.query(&[&made]);
    let lines = field.logs(&all);
    let times: Vec<_> = lines
        .iter()
        .map(|item| match item {
            LogItem::Line { time, .. } => *time,
            LogItem::Exited { .. } => panic!("ends are not part of what was written: {lines:?}"),
        })
        .collect();
    assert!(times.len() == 3 && times.is_sorted(), "{times:?}");
    for (tail, count) in [(0, 0), (1, 1), (3, 3), (9, 3)] {
        assert_eq!(field.logs(&LogQuery { tail: Some(tail), ..all.clone() }).len(), count, "tail {tail}");
    }
    let middle = Some(between(times[0], times[1]));
    assert_eq!(field.logs(&LogQuery { since: middle, ..all.clone() }).len(), 2);
    assert_eq!(field.logs(&LogQuery { until: middle, ..all }).len(), 1);
}

fn logs_of_nobody_are_nothing(field: &Field<'_>) {
    field.ended(&field.wanted("job", &["echo", "hello"]));
    let nobody = LogQuery { containers: vec![field.name("nobody")], ..field.query(&[]) };
    assert_eq!(field.logs(&nobody), []);
    let elsewhere = LogQuery { project: format!("{}-other", field.project), ..field.query(&[]) };
    assert_eq!(field.logs(&elsewhere), []);
}

fn followed_logs_end_with_the_last_container(field: &Field<'_>) {
    let job = field.ended(&field.wanted("job", &["echo", "hello"]));
    let web = field.started("web", IDLE);
    let query = LogQuery { follow: true, ..field.query(&[]) };
    let (sink, mut items) = mpsc::channel(1);
    let (engine, asked) = (Arc::clone(field.engine), query.clone());
    let following = field.runtime.spawn(async move { engine.logs(&asked, sink).await });
    let mut heard = Vec::new();
    let next = async { [items.recv().await.unwrap(), items.recv().await.unwrap()] };
    heard.extend(field.block(next));
    assert_eq!(told(&heard), ["hello", "ended Some(0) false"]);
    assert!(matches!(&heard[1], LogItem::Exited { container, .. } if *container == job.name));
    // One that comes while somebody listens.
    let late = field.started("late", &["echo", "later"]);
    let next = async { [items.recv().await.unwrap(), items.recv().await.unwrap()] };
    let next = field.block(next);
    assert_eq!(told(&next), ["later", "ended Some(0) false"]);
    assert!(matches!(&next[0], LogItem::Line { container, .. } if *container == late.name));
    field.ok(&web.kill("KILL"));
    assert_eq!(told(&[field.block(items.recv()).unwrap()]), ["ended Some(137) false"]);
    assert_eq!(field.block(items.recv()), None);
    field.block(following).unwrap().unwrap();
}

fn logs_that_nobody_hears_end(field: &Field<'_>) {
    field.started("web", IDLE);
    let (sink, items) = mpsc::channel(1);
    drop(items);
    field.block(field.engine.logs(&LogQuery { follow: true, ..field.query(&[]) }, sink)).unwrap();
}

fn logs_are_kept_across_starts(field: &Field<'_>) {
    let made = three_lines(field);
    assert_eq!(told(&field.logs(&field.query(&[&made]))), ["hello", "hello", "hello"]);
    field.ok(&made.remove());
    assert_eq!(field.logs(&field.query(&[&made])), []);
}

/// All that it writes, and its code.
fn to_the_end(field: &Field<'_>, conversation: Conversation) -> (String, Option<i32>) {
    field.block(async {
        let Conversation { input, mut output, mut control } = conversation;
        drop(input);
        let mut said = Vec::new();
        while let Some(Chunk { bytes, .. }) = output.recv().await {
            said.extend(bytes);
        }
        (String::from_utf8(said).unwrap(), control.ended().await.unwrap())
    })
}

fn a_program_runs_inside_and_its_code_comes_back(field: &Field<'_>) {
    let made = field.started("web", IDLE);
    let hello = field.exec(&made, &["echo", "hello"], false).unwrap();
    assert_eq!(to_the_end(field, hello), ("hello\n".to_owned(), Some(0)));
    let bad = field.exec(&made, &["sh", "-c", "exit 7"], false).unwrap();
    assert_eq!(to_the_end(field, bad), (String::new(), Some(7)));
    assert_eq!(field.state(&made), ContainerState::Running);
    assert_eq!(field.logs(&field.query(&[])), [], "what it says is no part of the container's log");
}

fn a_program_reads_what_it_is_sent(field: &Field<'_>) {
    let made = field.started("web", IDLE);
    let mut cat = field.exec(&made, &["cat"], true).unwrap();
    let input = cat.input.take().expect("an input that was asked for");
    field.block(input.send(b"some words".to_vec())).unwrap();
    drop(input);
    assert_eq!(to_the_end(field, cat), ("some words".to_owned(), Some(0)));
    assert!(field.exec(&made, &["true"], false).unwrap().input.is_none());
}

fn a_program_is_signalled(field: &Field<'_>) {
    let made = field.started("web", IDLE);
    let conversation = field.exec(&made, IDLE, true).unwrap();
    field.block(conversation.control.signal(15)).unwrap();
    let mut control = conversation.control;
    assert_eq!(field.block(control.ended()).unwrap(), Some(143));
    assert_eq!(field.state(&made), ContainerState::Running);
}

fn no_program_runs_where_nothing_does(field: &Field<'_>) {
    let made = field.made("web", IDLE);
    let ended = field.ended(&field.wanted("job", &["true"]));
    let nobody = Made { id: ContainerId("0123456789abcdef".repeat(4)), ..made.clone() };
    for (target, kind) in
        [(made, ErrorKind::Dependency), (ended, ErrorKind::Dependency), (nobody, ErrorKind::NotFound)]
    {
        let error = field.exec(&target, &["true"], false).expect_err("a program in what does not run");
        assert_eq!(error.kind, kind, "{error}");
        let unheard = program(&target, &["true"], false);
        let error = field.block(field.engine.exec_detached(&unheard)).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
    }
}

fn a_program_may_run_unheard(field: &Field<'_>) {
    let made = field.started("web", IDLE);
    field.block(field.engine.exec_detached(&program(&made, IDLE, false))).unwrap();
    assert_eq!(field.state(&made), ContainerState::Running);
    field.ok(&made.stop());
}

fn an_attached_reader_hears_it_from_the_start_to_the_end(field: &Field<'_>) {
    let ended = field.ended(&field.wanted("job", &["echo", "hello"]));
    let attach = |made: &Made| {
        let Made { project, name, id } = made.clone();
        let request = AttachRequest { project, container: id, name, stdin: false, from_start: true };
        field.block(field.engine.attach(&request))
    };
    assert_eq!(to_the_end(field, attach(&ended).unwrap()), ("hello\n".to_owned(), Some(0)));
    let web = field.started("web", IDLE);
    let conversation = attach(&web).unwrap();
    field.ok(&web.kill("KILL"));
    assert_eq!(to_the_end(field, conversation), (String::new(), Some(137)));
    let nobody = Made { id: ContainerId("0123456789abcdef".repeat(4)), ..web };
    assert_eq!(attach(&nobody).expect_err("nobody").kind, ErrorKind::NotFound);
}

fn a_hook_is_as_good_as_its_code(field: &Field<'_>) {
    let made = field.started("web", IDLE);
    let hook = |script: &str| {
        let command = ["sh", "-c", script].map(ToOwned::to_owned).to_vec();
        Op::Hook(Box::new(HookRequest {
            project: made.project.clone(),
            service: "web".to_owned(),
            name: made.name.clone(),
            id: None,
            at: HookAt::PostStart,
            index: 0,
            hook: Hook { command, ..Hook::default() },
            runner: None,
        }))
    };
    field.ok(&hook("exit 0"));
    let error = field.fails(&hook("exit 9"), ErrorKind::Dependency);
    assert!(error.to_string().contains('9'), "{error}");
    assert_eq!(error.path.as_deref(), Some("services.web.post_start[0].command"));
}

fn what_runs_uses_something_and_has_processes(field: &Field<'_>) {
    let web = field.started("web", IDLE);
    let ended = field.ended(&field.wanted("job", &["true"]));
    let ids = [web.id.clone(), ended.id.clone()];
    let used = field.block(field.engine.usage(&field.project, &ids)).unwrap();
    assert_eq!(used.iter().map(|usage| &usage.container).collect::<Vec<_>>(), [&web.name]);
    assert!(used[0].tasks >= 1, "{used:?}");
    let processes = |id: &ContainerId| field.block(field.engine.processes(&field.project, id));
    let running = processes(&web.id).unwrap();
    assert!(running.iter().any(|process| process.command.contains("sleep 1000")), "{running:?}");
    assert_eq!(processes(&ended.id).unwrap(), []);
    let nobody = ContainerId("0123456789abcdef".repeat(4));
    assert_eq!(processes(&nobody).unwrap_err().kind, ErrorKind::NotFound);
}

fn changes_are_told_until_nobody_listens(field: &Field<'_>) {
    let made = field.made("web", IDLE);
    let (sink, mut words) = mpsc::channel(1);
    let (engine, project) = (Arc::clone(field.engine), field.project.clone());
    let telling = field.runtime.spawn(async move { engine.changes(&project, sink).await });
    assert_eq!(field.block(words.recv()), Some(()), "now");
    field.ok(&made.start());
    assert_eq!(field.block(words.recv()), Some(()), "when it starts");
    // What has changed meanwhile is one word.
    while field.state(&made) != ContainerState::Running {}
    while words.try_recv().is_ok() {}
    field.ok(&made.kill("KILL"));
    assert_eq!(field.block(words.recv()), Some(()), "when it ends");
    drop(words);
    field.block(telling).unwrap().unwrap();
}

struct Told(mpsc::UnboundedSender<Detail>);

impl Progress for Told {
    fn report(&self, detail: Detail) {
        // Words after the first are not waited for.
        let _ = self.0.send(detail);
    }
}

fn one_command_at_a_time_has_a_project(field: &Field<'_>) {
    let (engine, project) = (field.engine, field.project.clone());
    let other = format!("{project}-other");
    let first = field.block(engine.lock(&project, "up", &Silent)).unwrap();
    drop(field.block(engine.lock(&other, "up", &Silent)).unwrap());
    let (tell, mut told) = mpsc::unbounded_channel();
    let second = Arc::clone(engine);
    let second =
        field.runtime.spawn(async move { second.lock(&project, "down", &Told(tell)).await.map(drop) });
    assert!(matches!(field.block(told.recv()), Some(Detail::Doing(_))), "it says that it waits");
    std::thread::sleep(Duration::from_millis(20));
    assert!(!second.is_finished());
    drop(first);
    field.block(second).unwrap().unwrap();
    let made = field.started("job", &["true"]);
    field.ok(&made.wait_for(Condition::ServiceCompletedSuccessfully));
}
