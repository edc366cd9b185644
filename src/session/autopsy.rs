//! What a container left behind when a step on it failed: its state and its last words.

use tokio::sync::mpsc;

use crate::{
    engine::{Container, Engine, LogItem, LogQuery, Op, Scope},
    plan::Step,
};

/// Lines of output that are shown with a failure.
const LAST_LINES: usize = 20;

/// State and last output of the container of a failed step.
#[derive(Clone, Debug)]
pub struct Autopsy {
    pub container: Container,
    /// Its last lines, oldest first.
    pub lines: Vec<Vec<u8>>,
}

/// `None` where no container is concerned, or nothing can be learnt of it.
pub(super) async fn of(engine: &dyn Engine, project: &str, step: &Step) -> Option<Autopsy> {
    let (Op::Start { name, .. } | Op::Wait { name, .. }) = &step.op else { return None };
    let scope = Scope { project: project.to_owned(), images: vec![], networks: vec![], volumes: vec![] };
    let observed = engine.observe(&scope).await.ok()?;
    let container = observed.containers.into_iter().rev().find(|c| c.name == *name)?;
    let lines = last_lines(engine, project, name).await;
    Some(Autopsy { container, lines })
}

async fn last_lines(engine: &dyn Engine, project: &str, container: &str) -> Vec<Vec<u8>> {
    let query = LogQuery {
        project: project.to_owned(),
        containers: vec![container.to_owned()],
        tail: Some(LAST_LINES),
        since: None,
        until: None,
        follow: false,
    };
    let (sink, mut source) = mpsc::channel(64);
    let listen = async {
        let mut lines = Vec::new();
        while let Some(item) = source.recv().await {
            if let LogItem::Line { text, .. } = item {
                lines.push(text);
            }
        }
        lines
    };
    // Output that cannot be read is no second failure: the card goes without it.
    let (lines, _) = tokio::join!(listen, engine.logs(&query, sink));
    lines
}
