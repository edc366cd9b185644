//! Further programs in containers, and what is said to and by them.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::{Embedded, error};
use crate::{
    engine::{Chunk, Control, Conversation, EngineError, ErrorKind, ExecRequest, Size, Stream},
    runtime::{Attended, ExecConfig, write_all},
};

/// Pieces that may wait to be read or written.
const AHEAD: usize = 16;

pub(super) async fn exec(engine: &Embedded, request: &ExecRequest) -> Result<Conversation, EngineError> {
    let ExecRequest { project, container, name, .. } = request.clone();
    let config = config(request);
    let stdin = request.stdin;
    let attended = engine
        .blocking(move |engine| {
            engine.permitted()?;
            engine.core.exec(&project, &container.0, &config).map_err(|error| {
                error::runtime(&error, format!("the program cannot be run in container {name}"))
            })
        })
        .await?;
    let attended = Arc::new(attended);
    let input = if stdin { attended.take_input().map(feed) } else { None };
    let (tell, output) = mpsc::channel(AHEAD);
    let (end, ended) = oneshot::channel();
    let followed = Arc::clone(&attended);
    tokio::task::spawn_blocking(move || {
        let code = followed.follow(&mut |stderr, bytes| {
            let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
            let _ = tell.blocking_send(Chunk { stream, bytes: bytes.to_vec() });
        });
        drop(tell);
        let _ = end.send(code.map_err(|error| error::runtime(&error, "the program cannot be followed")));
    });
    Ok(Conversation { input, output, control: Box::new(Program { attended, ended }) })
}

pub(super) async fn detached(engine: &Embedded, request: &ExecRequest) -> Result<(), EngineError> {
    let ExecRequest { project, container, name, .. } = request.clone();
    let config = config(request);
    engine
        .blocking(move |engine| {
            engine.permitted()?;
            engine.core.exec_detached(&project, &container.0, &config).map_err(|error| {
                error::runtime(&error, format!("the program cannot be run in container {name}"))
            })
        })
        .await
}

fn config(request: &ExecRequest) -> ExecConfig {
    ExecConfig {
        args: request.command.clone(),
        env: request.environment.clone(),
        cwd: request.working_dir.clone(),
        user: request.user.clone(),
        privileged: request.privileged,
        tty: request.tty,
        size: request.size.map(|size| (size.rows, size.columns)),
        stdin: request.stdin,
    }
}

/// Writes what it is sent, on a thread of its own: the program may not read for long.
pub(super) fn feed(to: std::os::fd::OwnedFd) -> mpsc::Sender<Vec<u8>> {
    use std::os::fd::AsFd as _;

    let (input, mut pieces) = mpsc::channel::<Vec<u8>>(AHEAD);
    std::thread::spawn(move || {
        while let Some(piece) = pieces.blocking_recv() {
            if write_all(to.as_fd(), &piece).is_err() {
                return;
            }
        }
    });
    input
}

struct Program {
    attended: Arc<Attended>,
    ended: oneshot::Receiver<Result<i32, EngineError>>,
}

#[async_trait]
impl Control for Program {
    async fn resize(&self, size: Size) -> Result<(), EngineError> {
        self.attended
            .resize((size.rows, size.columns))
            .map_err(|error| error::runtime(&error, "the terminal cannot be resized"))
    }

    async fn signal(&self, number: i32) -> Result<(), EngineError> {
        self.attended
            .signal(number)
            .map_err(|error| error::runtime(&error, "the program cannot be signalled"))
    }

    async fn ended(&mut self) -> Result<Option<i32>, EngineError> {
        match (&mut self.ended).await {
            Ok(code) => code.map(Some),
            Err(error) => {
                Err(EngineError::new(ErrorKind::Other, "bug while following a program").caused_by(&error))
            }
        }
    }
}
