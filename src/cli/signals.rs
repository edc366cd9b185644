//! Ctrl-C and its kin: the first asks, the next insists.

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

/// What was heard so far.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    times: u32,
    /// Number of the first signal, and of the latest.
    first: i32,
    latest: i32,
}

/// Hears SIGINT, SIGTERM and SIGHUP; clones hear the same.
#[derive(Clone, Debug)]
pub(super) struct Signals {
    heard: watch::Receiver<Heard>,
    /// True from the first signal on.
    pub cancel: watch::Receiver<bool>,
}

impl Signals {
    /// A hangup that `nohup` had ignored stays so. Must be called inside the async runtime. A signal that cannot be listened to keeps its
    /// default, which ends the process.
    pub(super) fn listen() -> Self {
        let (tell, heard) = watch::channel(Heard::default());
        let (stop, cancel) = watch::channel(false);
        let kinds = [(SignalKind::interrupt(), 2), (SignalKind::terminate(), 15), (SignalKind::hangup(), 1)];
        for (kind, number) in kinds {
            if kind == SignalKind::hangup() && ignores_hangup() {
                continue;
            }
            let (tell, stop) = (tell.clone(), stop.clone());
            if let Ok(stream) = signal(kind) {
                tokio::spawn(listen_to(stream, number, tell, stop));
            }
        }
        Self { heard, cancel }
    }

    /// Hears none: each keeps its default.
    pub(super) fn none() -> Self {
        Self { heard: watch::channel(Heard::default()).1, cancel: Self::never() }
    }

    /// Returns the first signal's number once more than `patience` were heard.
    pub(super) async fn beyond(&self, patience: u32) -> i32 {
        let mut heard = self.heard.clone();
        match heard.wait_for(|heard| heard.times > patience).await {
            Ok(heard) => heard.first,
            // Nobody listens any more: no signal will come.
            Err(_) => std::future::pending().await,
        }
    }

    /// The next signal when more than `seen` were heard: how many there are now, and its number.
    pub(super) async fn next(&self, seen: u32) -> (u32, i32) {
        let mut heard = self.heard.clone();
        match heard.wait_for(|heard| heard.times > seen).await {
            Ok(heard) => (heard.times, heard.latest),
            Err(_) => std::future::pending().await,
        }
    }

    /// How many were heard.
    pub(super) fn times(&self) -> u32 {
        self.heard.borrow().times
    }

    /// A cancellation that never comes: what stops containers is not stopped itself.
    pub(super) fn never() -> watch::Receiver<bool> {
        watch::channel(false).1
    }

    /// The first signal, when there was one.
    pub(super) fn first(&self) -> Option<i32> {
        let heard = self.heard.borrow();
        (heard.times > 0).then_some(heard.first)
    }
}

/// Whether whoever started this process told it to ignore SIGHUP.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

async fn listen_to(mut stream: Signal, number: i32, tell: watch::Sender<Heard>, stop: watch::Sender<bool>) {
    while stream.recv().await.is_some() {
        tell.send_modify(|heard| {
            heard.times += 1;
            heard.latest = number;
            if heard.first == 0 {
                heard.first = number;
            }
        });
        stop.send_replace(true);
    }
}
