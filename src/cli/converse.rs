//! Passes on what is typed to a program in a container, and what it writes, until it ends.

use std::io::{IsTerminal as _, Read as _};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{
    console::{self, DetachKeys, Raw},
    context::Context,
    failure::Failure,
    output,
};
use crate::{
    load::Source,
    session::{Chunk, Conversation, Project, SessionError, Stream},
};

/// How to talk.
#[derive(Clone, Debug)]
pub(super) struct Manner {
    /// The program has a terminal.
    pub tty: bool,
    /// Keys that end the talk and not the program.
    pub detach: Option<DetachKeys>,
    /// Signals to us are passed on to the program.
    pub signals: bool,
}

/// How a talk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With the program: its code, or 128 and a signal; `None` where nobody learnt it.
    Program(Option<i32>),
    Detached,
}

impl End {
    /// The exit code of the command.
    pub(super) fn code(self) -> i32 {
        match self {
            Self::Program(code) => code.unwrap_or(1),
            Self::Detached => 0,
        }
    }
}

/// Signals that are passed on before the program is killed.
const PATIENCE: u32 = 3;

pub(super) async fn converse(
    context: &Context,
    conversation: Conversation,
    manner: Manner,
) -> Result<End, Failure> {
    let Conversation { mut input, mut output, mut control } = conversation;
    let Manner { tty, mut detach, signals } = manner;
    let engine = |error| told(error, context.source());
    context.settle();
    // Held until the end of this function, however it ends.
    let _raw = if tty && input.is_some() { Raw::enter() } else { None };
    let mut resized = signal(SignalKind::window_change()).ok();
    let mut typed = input.is_some().then(typed);
    // Another size between the beginning and now would be told to nobody.
    if let (true, Some(size)) = (tty, console::size()) {
        let _ = control.resize(size).await;
    }
    let mut seen = context.signals.times();
    loop {
        tokio::select! {
            chunk = output.recv() => match chunk {
                Some(chunk) => write(&chunk)?,
                None => break,
            },
            bytes = next(&mut typed) => match bytes {
                Some(bytes) => {
                    let (bytes, leave) = match &mut detach {
                        Some(keys) => keys.filter(&bytes),
                        None => (bytes, false),
                    };
                    send(&mut input, bytes, &mut output).await?;
                    if leave {
                        return Ok(End::Detached);
                    }
                }
                None => {
                    typed = None;
                    // A terminal has no end of its own: the key that means it.
                    if tty && !std::io::stdin().is_terminal() {
                        send(&mut input, vec![4], &mut output).await?;
                    }
                    input = None;
                }
            },
            Some(()) = changed(&mut resized), if tty => {
                if let Some(size) = console::size() {
                    let _ = control.resize(size).await;
                }
            }
            (times, number) = context.signals.next(seen), if signals => {
                seen = times;
                let number = if times > PATIENCE { 9 } else { number };
                control.signal(number).await.map_err(engine)?;
            }
        }
    }
    Ok(End::Program(control.ended().await.map_err(engine)?))
}

fn told(error: crate::session::EngineError, source: &dyn Source) -> Failure {
    Failure::of_session(SessionError::Engine(error), &Project::default(), source)
}

/// A program that does not read must not keep us from reading it.
async fn send(
    input: &mut Option<mpsc::Sender<Vec<u8>>>,
    bytes: Vec<u8>,
    output: &mut mpsc::Receiver<Chunk>,
) -> Result<(), Failure> {
    let Some(to) = input.clone().filter(|_| !bytes.is_empty()) else { return Ok(()) };
    let room = to.reserve();
    tokio::pin!(room);
    loop {
        tokio::select! {
            room = &mut room => {
                match room {
                    Ok(room) => room.send(bytes),
                    // It closed its input and may go on without.
                    Err(_) => *input = None,
                }
                return Ok(());
            }
            chunk = output.recv() => match chunk {
                Some(chunk) => write(&chunk)?,
                None => return Ok(()),
            }
        }
    }
}

fn write(chunk: &Chunk) -> Result<(), Failure> {
    match chunk.stream {
        Stream::Stdout => output::bytes(&chunk.bytes),
        Stream::Stderr => {
            output::to_stderr(&chunk.bytes);
            Ok(())
        }
    }
}

/// What is read from standard input, until its end. The thread ends with the process.
fn typed() -> mpsc::Receiver<Vec<u8>> {
    let (tell, typed) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 16 << 10];
        loop {
            match std::io::stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    let bytes = buffer.get(..length).unwrap_or_default().to_vec();
                    if tell.blocking_send(bytes).is_err() {
                        return;
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    typed
}

async fn next(typed: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match typed {
        Some(typed) => typed.recv().await,
        None => std::future::pending().await,
    }
}

async fn changed(signal: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}
