//! Programs of simulated containers that somebody talks with.

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};

use super::Behaviour;
use crate::engine::{Chunk, Control, Conversation, EngineError, Size, Stream};

/// A program that writes what `behaviour` says and ends; one that has no end of its own gives back what
/// it reads (`cat`) and ends with its input, or by a signal.
pub(super) fn converse(behaviour: &Behaviour, stdin: bool) -> Conversation {
    let (tell, output) = mpsc::channel(16);
    let (input, mut typed) = mpsc::channel::<Vec<u8>>(16);
    let (end, ended) = watch::channel(None);
    let (signal, mut signalled) = watch::channel(0);
    let (lines, exit) = (behaviour.lines.clone(), behaviour.exit);
    tokio::spawn(async move {
        let say = |bytes| tell.send(Chunk { stream: Stream::Stdout, bytes });
        for line in lines {
            let _ = say(format!("{line}\n").into_bytes()).await;
        }
        let code = loop {
            if let Some(code) = exit {
                break code;
            }
            tokio::select! {
                piece = typed.recv() => match piece {
                    Some(piece) => drop(say(piece).await),
                    None => break 0,
                },
                _ = signalled.changed() => break 128 + *signalled.borrow(),
            }
        };
        end.send_replace(Some(code));
    });
    let input = stdin.then_some(input);
    Conversation { input, output, control: Box::new(Program { signal, ended }) }
}

/// What was written, and the end of a container that nobody types to.
pub(super) fn listen(
    lines: Vec<String>,
    end: impl Future<Output = Option<i32>> + Send + 'static,
) -> Conversation {
    let (tell, output) = mpsc::channel(16);
    let (told, ended) = watch::channel(None);
    let (signal, mut signalled) = watch::channel(0);
    tokio::spawn(async move {
        for line in lines {
            let _ =
                tell.send(Chunk { stream: Stream::Stdout, bytes: format!("{line}\n").into_bytes() }).await;
        }
        let code = tokio::select! {
            code = end => code,
            _ = signalled.changed() => Some(128 + *signalled.borrow()),
        };
        told.send_replace(code);
    });
    Conversation { input: None, output, control: Box::new(Program { signal, ended }) }
}

struct Program {
    signal: watch::Sender<i32>,
    ended: watch::Receiver<Option<i32>>,
}

#[async_trait]
impl Control for Program {
    async fn resize(&self, _size: Size) -> Result<(), EngineError> {
        Ok(())
    }

    async fn signal(&self, number: i32) -> Result<(), EngineError> {
        self.signal.send_replace(number);
        Ok(())
    }

    async fn ended(&mut self) -> Result<Option<i32>, EngineError> {
        Ok(self.ended.wait_for(Option::is_some).await.ok().and_then(|code| *code))
    }
}
