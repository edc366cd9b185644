//! Further programs in containers, and what is said to and by them.

use std::{
    ops::ControlFlow,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::{Embedded, error};
use crate::{
    engine::{
        AttachRequest, Chunk, Control, Conversation, EngineError, ErrorKind, ExecRequest, Size, Stream,
    },
    runtime::{self, Attended, Core, ExecConfig, RawRecord, write_all},
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
fn feed(to: OwnedFd) -> mpsc::Sender<Vec<u8>> {
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

pub(super) async fn attach(engine: &Embedded, request: &AttachRequest) -> Result<Conversation, EngineError> {
    let AttachRequest { project, container, name, stdin, from_start } = request.clone();
    let failed = |what: &'static str| {
        let name = name.clone();
        move |error: runtime::Error| error::runtime(&error, format!("container {name} cannot be {what}"))
    };
    let attach = {
        let (project, id, failed) = (project.clone(), container.0.clone(), failed("attached to"));
        engine.blocking(move |engine| engine.core.attach(&project, &id, stdin).map_err(failed))
    };
    let runtime::Attachment { input, terminal } = attach.await?;
    let (tell, output) = mpsc::channel(AHEAD);
    let (end, ended) = oneshot::channel();
    let (core, failed) = (engine.core.clone(), failed("followed"));
    let main =
        Main { core: core.clone(), project: project.clone(), id: container.0.clone(), terminal, ended };
    tokio::task::spawn_blocking(move || {
        let mut code = None;
        let followed = core.follow(&project, &container.0, from_start, &mut |record| match record {
            RawRecord::Bytes { stderr, bytes } => {
                let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
                match tell.blocking_send(Chunk { stream, bytes }) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            }
            RawRecord::Exited { exit, .. } => {
                code = Some(exit).filter(|code| *code >= 0);
                ControlFlow::Break(())
            }
        });
        drop(tell);
        let _ = end.send(followed.map(|()| code).map_err(failed));
    });
    Ok(Conversation { input: input.map(feed), output, control: Box::new(main) })
}

/// A container's own program.
struct Main {
    core: Core,
    project: String,
    id: String,
    terminal: Option<OwnedFd>,
    ended: oneshot::Receiver<Result<Option<i32>, EngineError>>,
}

#[async_trait]
impl Control for Main {
    async fn resize(&self, size: Size) -> Result<(), EngineError> {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        runtime::resize(terminal.as_fd(), (size.rows, size.columns))
            .map_err(|error| error::runtime(&error, "the terminal cannot be resized"))
    }

    async fn signal(&self, number: i32) -> Result<(), EngineError> {
        match self.core.kill(&self.project, &self.id, number) {
            // It has ended meanwhile: that is what signals are for.
            Ok(()) | Err(runtime::Error::Condition(_)) => Ok(()),
            Err(error) => Err(error::runtime(&error, "the container cannot be signalled")),
        }
    }

    async fn ended(&mut self) -> Result<Option<i32>, EngineError> {
        (&mut self.ended).await.unwrap_or_else(|error| {
            Err(EngineError::new(ErrorKind::Other, "bug while following a container").caused_by(&error))
        })
    }
}
