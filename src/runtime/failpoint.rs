//! Named moments at which a test stops or kills a process of ours. A release build has none of it.
//!
//! [`VARIABLE`] names a directory and is handed on to every process that we start. A file there that is
//! called as a moment is renamed to [`Point::mark`] by the first process that gets so far, and what it says is
//! done to that process: `kill` or `stop`.

/// Names the directory of the moments.
pub const VARIABLE: &str = "FICELLE_FAILPOINTS";

macro_rules! points {
    ($($point:ident $name:literal,)+) => {
        /// A moment; the first word of its name is the process that gets there.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point {
            $($point,)+
        }

        impl Point {
            pub const ALL: &[Self] = &[$(Self::$point,)+];

            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)+
                }
            }
        }
    };
}

points! {
    Leased "command-has-leased-addresses",
    Specified "command-has-written-the-specification",
    VolumeAside "command-has-made-a-volume-aside",
    VolumesMade "command-has-made-the-volumes",
    Made "command-has-made-the-container",
    NetworkAside "command-has-written-a-network-aside",
    KeeperCalled "command-has-started-the-keeper",
    Asked "command-has-asked-the-keeper",
    PolicyEnded "command-has-ended-the-restart-policy",
    Signalled "command-has-sent-the-stop-signal",
    Forgotten "command-has-made-the-keeper-forget",
    CgroupRemoved "command-has-removed-the-control-group",
    PutAside "command-has-put-the-container-aside",
    RunRemoved "command-has-removed-the-live-state",
    Buried "command-has-buried-the-container",
    Released "command-has-released-the-addresses",
    BridgeRemoved "command-has-removed-the-bridge",
    VolumeBuried "command-has-put-the-volume-aside",
    KeeperListens "keeper-listens",
    KeeperReady "keeper-is-ready",
    KeeperAsked "keeper-was-asked",
    WorkerForked "keeper-has-forked-a-worker",
    WorkerHeard "keeper-has-heard-the-worker",
    StateAside "keeper-has-written-a-state-aside",
    Recorded "keeper-has-recorded-the-start",
    Collected "keeper-has-collected-the-container",
    EndWritten "keeper-has-written-the-end",
    EndTold "keeper-has-told-the-end",
    Drained "keeper-has-heard-of-the-whole-log",
    Settled "keeper-has-recorded-the-end",
    KeeperAdopted "keeper-has-adopted-the-containers",
    KeeperDeaf "keeper-listens-no-more",
    KeeperLeaves "keeper-has-ended-the-supervisor",
    SupervisorBegins "supervisor-begins",
    Watching "supervisor-watches-the-container",
    Spliced "supervisor-has-moved-a-piece-of-log",
    Rotating "supervisor-has-opened-the-next-log",
    EndHeard "supervisor-has-heard-of-the-end",
    LogWhole "supervisor-has-completed-the-log",
    Bereft "supervisor-has-lost-the-keeper",
    WorkerBegins "worker-begins",
    PortsBound "worker-has-bound-the-ports",
    RootMounted "worker-has-mounted-the-root",
    Connected "worker-has-connected-the-networks",
    Created "worker-has-created-the-container",
    Started "worker-has-started-the-container",
    TakenOver "worker-has-taken-the-ports-over",
    AnchorBegins "anchor-begins",
    AnchorFurnished "anchor-has-furnished-the-namespace",
    AnchorAnswers "anchor-has-accepted-a-holder",
    WayOutAsked "anchor-was-asked-for-the-way-out",
    AnchorRetires "anchor-is-about-to-retire",
}

impl Point {
    /// What a moment's file is called when the process of this number has got to it.
    #[cfg(debug_assertions)]
    fn mark(self, pid: u32) -> String {
        format!("{}.{pid}", self.name())
    }

    /// The moment and the process of a [mark](Self::mark).
    #[must_use]
    pub fn of_mark(name: &str) -> Option<(Self, i32)> {
        let (moment, pid) = name.split_once('.')?;
        let point = Self::ALL.iter().find(|point| point.name() == moment)?;
        Some((*point, pid.parse().ok()?))
    }
}

/// The moment has come.
#[cfg(debug_assertions)]
pub fn reached(point: Point) {
    use std::{fs, path::PathBuf};

    let Some(directory) = std::env::var_os(VARIABLE).map(PathBuf::from) else { return };
    let armed = directory.join(point.name());
    let Ok(what) = fs::read_to_string(&armed) else { return };
    // One process alone can take it away, and is not killed before all of it is told.
    if fs::rename(armed, directory.join(point.mark(std::process::id()))).is_ok() {
        let signal =
            if what == "stop" { rustix::process::Signal::STOP } else { rustix::process::Signal::KILL };
        let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
    }
}

#[cfg(not(debug_assertions))]
pub const fn reached(_: Point) {}

/// Hands the moments on to a process that is given no other part of our environment.
pub fn hand_on(command: &mut std::process::Command) {
    if cfg!(debug_assertions) {
        command.envs(std::env::var_os(VARIABLE).map(|directory| (VARIABLE, directory)));
    }
}
