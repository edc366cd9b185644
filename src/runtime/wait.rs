//! Waiting for containers: by the kernel's word that a state file was replaced.

use std::{
    io::Read,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
};

use super::{
    ContainerRecord, Error, Exit, Health, Phase, Result, Until,
    state::{failed, make_dir},
};

/// Wakes when files of some directories are replaced, made or removed.
#[derive(Debug)]
pub struct Watcher {
    inotify: OwnedFd,
}

impl Watcher {
    pub fn new() -> Result<Self> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .map_err(failed("cannot watch files"))?;
        Ok(Self { inotify })
    }

    /// Watches a directory, made when missing; again is no error.
    pub fn add(&self, dir: &Path) -> Result<()> {
        make_dir(dir)?;
        let what = inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::DELETE_SELF;
        inotify::add_watch(&self.inotify, dir, what)
            .map(drop)
            .map_err(failed(format!("cannot watch `{}`", dir.display())))
    }

    /// Until something happened (true) or the time is over; `other` wakes as well.
    pub fn wait(&self, time: Option<Duration>, other: Option<&OwnedFd>) -> bool {
        let mut fds = vec![PollFd::new(&self.inotify, PollFlags::IN)];
        fds.extend(other.map(|fd| PollFd::new(fd, PollFlags::IN)));
        let time = time.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        let woken = poll(&mut fds, time.as_ref()).unwrap_or(0) > 0;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.inotify.as_fd(), &mut buffer);
        while reader.next().is_ok() {}
        woken
    }
}

/// How far a container is on its way to what is waited for; an error when it cannot get there.
pub fn reached(record: &ContainerRecord, until: Until) -> Result<bool> {
    let name = &record.config.name;
    let ended = match record.phase {
        Phase::Exited(exit) => Some(exit),
        _ => None,
    };
    let exited = |exit: Exit| match exit {
        Exit::Code(code) => Error::Condition(format!("container {name} exited ({code})")),
        Exit::Unknown => Error::Condition(format!("container {name} exited")),
    };
    let healthy = |default: bool| match (record.phase, record.health) {
        (Phase::Running, Some(Health::Healthy)) => Ok(true),
        (Phase::Running, None) if record.config.health.is_none() => Ok(default),
        (_, Some(Health::Unhealthy)) => Err(Error::Condition(format!("container {name} is unhealthy"))),
        _ => Ok(false),
    };
    match (until, ended) {
        (Until::Exited, ended) => Ok(ended.is_some()),
        (Until::Ready, Some(Exit::Code(0))) => Ok(true),
        (_, Some(exit)) => Err(exited(exit)),
        (Until::Running, None) => Ok(record.phase == Phase::Running),
        (Until::Healthy, None) if record.config.health.is_none() => {
            Err(Error::Condition(format!("container {name} has no health check")))
        }
        (Until::Healthy, None) => healthy(false),
        (Until::Ready, None) => healthy(true),
    }
}

/// A point in time that may never come.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    start: Instant,
    limit: Option<Duration>,
}

impl Deadline {
    pub fn new(limit: Option<Duration>) -> Self {
        Self { start: Instant::now(), limit }
    }

    /// What is left, at most `most`.
    ///
    /// # Errors
    /// [`Error::Timeout`] when nothing is.
    pub fn left(&self, most: Duration) -> Result<Duration> {
        match self.limit {
            None => Ok(most),
            Some(limit) => match limit.checked_sub(self.start.elapsed()) {
                Some(left) if !left.is_zero() => Ok(left.min(most)),
                _ => Err(Error::Timeout(limit)),
            },
        }
    }
}

/// Sixty-four hexadecimal digits from the kernel's generator.
pub fn random_id() -> String {
    let mut bytes = [0; 32];
    // The device never fails once the machine is up; without it the clock still differs.
    if std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes)).is_err() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        bytes[..16].copy_from_slice(&now.as_nanos().to_le_bytes());
        bytes[16..20].copy_from_slice(&std::process::id().to_le_bytes());
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::{super::oci::tests::config, *};

    fn record(phase: Phase, health: Option<Health>, check: bool) -> ContainerRecord {
        let mut config = config();
        if check {
            config.health = Some(super::super::HealthConfig {
                args: Vec::new(),
                interval: Duration::ZERO,
                timeout: Duration::ZERO,
                retries: 1,
                start_period: Duration::ZERO,
                start_interval: Duration::ZERO,
            });
        }
        ContainerRecord {
            config,
            phase,
            health,
            last_probe: None,
            pid: None,
            created: SystemTime::UNIX_EPOCH,
            started: None,
            finished: None,
            out_of_memory: false,
            owed: None,
            host_restarted: false,
            restarts: 0,
            ports: Vec::new(),
            anonymous_volumes: Vec::new(),
        }
    }

    #[test]
    fn what_was_waited_for_is_seen_and_what_cannot_come_is_an_error() {
        use Phase::{Created, Exited, Restarting, Running};
        let see = |phase, health, check, until| reached(&record(phase, health, check), until).ok();
        let (yes, no, never) = (Some(true), Some(false), None);
        assert_eq!(see(Created, None, false, Until::Running), no);
        assert_eq!(see(Running, None, false, Until::Running), yes);
        assert_eq!(see(Restarting, None, false, Until::Running), no);
        assert_eq!(see(Exited(Exit::Code(0)), None, false, Until::Running), never);
        assert_eq!(see(Running, Some(Health::Starting), true, Until::Healthy), no);
        assert_eq!(see(Running, Some(Health::Healthy), true, Until::Healthy), yes);
        assert_eq!(see(Running, Some(Health::Unhealthy), true, Until::Healthy), never);
        assert_eq!(see(Running, None, false, Until::Healthy), never);
        assert_eq!(see(Exited(Exit::Code(3)), None, false, Until::Exited), yes);
        assert_eq!(see(Exited(Exit::Unknown), None, false, Until::Exited), yes);
        assert_eq!(see(Running, None, false, Until::Ready), yes);
        assert_eq!(see(Running, Some(Health::Starting), true, Until::Ready), no);
        assert_eq!(see(Running, None, true, Until::Ready), no, "the first probe is still to come");
        assert_eq!(see(Exited(Exit::Code(0)), None, false, Until::Ready), yes);
        assert_eq!(see(Exited(Exit::Code(1)), None, false, Until::Ready), never);
    }

    #[test]
    fn ids_are_64_hexadecimal_digits_and_never_the_same() {
        let (a, b) = (random_id(), random_id());
        assert!(a.len() == 64 && a.bytes().all(|c| c.is_ascii_hexdigit()));
        assert_ne!(a, b);
    }
}
