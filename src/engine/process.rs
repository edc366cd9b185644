//! Talking with the programs of containers.

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{ContainerId, EngineError, Stream};

/// A further program in a running container. What is absent is as the container's own has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecRequest {
    pub project: String,
    pub container: ContainerId,
    /// Of the container, for messages.
    pub name: String,
    pub command: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub privileged: bool,
    pub tty: bool,
    /// Of its terminal, at first.
    pub size: Option<Size>,
    /// Something will be sent to its standard input.
    pub stdin: bool,
}

/// A container's own program, to be talked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachRequest {
    pub project: String,
    pub container: ContainerId,
    /// Of the container, for messages.
    pub name: String,
    pub stdin: bool,
    /// What it wrote before is told, too.
    pub from_start: bool,
}

/// Of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub rows: u16,
    pub columns: u16,
}

/// Bytes as they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub stream: Stream,
    pub bytes: Vec<u8>,
}

/// A program that runs, and whoever types and reads.
pub struct Conversation {
    /// To its standard input, which is closed when this is dropped.
    pub input: Option<mpsc::Sender<Vec<u8>>>,
    /// Closed when everything was read and the program has ended.
    pub output: mpsc::Receiver<Chunk>,
    pub control: Box<dyn Control>,
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversation").field("input", &self.input.is_some()).finish_non_exhaustive()
    }
}

/// What can be done to a program beside talking.
#[async_trait]
pub trait Control: Send + Sync {
    /// Its terminal, if it has one, is of this size now.
    async fn resize(&self, size: Size) -> Result<(), EngineError>;

    async fn signal(&self, number: i32) -> Result<(), EngineError>;

    /// Waits for its end: its code, or 128 and the signal that ended it; `None` where nobody learnt it.
    async fn ended(&mut self) -> Result<Option<i32>, EngineError>;
}
