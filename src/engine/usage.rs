//! What containers use, and the processes in them.

/// Of one running container, at one moment; counts go up from its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Name of the container.
    pub container: String,
    /// Nanoseconds on processors.
    pub cpu: u64,
    /// Bytes, without what the page cache could give back.
    pub memory: u64,
    /// Bytes it may use: its own limit, or what the machine has.
    pub memory_limit: u64,
    /// Processes and threads.
    pub tasks: u64,
    /// Bytes received and sent on all its networks.
    pub received: u64,
    pub sent: u64,
    /// Bytes read from and written to disks.
    pub read: u64,
    pub written: u64,
}

/// One process of a container, as `ps` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    pub user: String,
    /// On the host.
    pub pid: i32,
    pub parent: i32,
    /// Per cent of a processor since it began.
    pub cpu: u64,
    /// Seconds since it began, and on a processor.
    pub age: u64,
    pub busy: u64,
    /// `?`, or the name of its terminal.
    pub tty: String,
    pub command: String,
}
