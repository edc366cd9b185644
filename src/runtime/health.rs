//! Health probes: when one is due and what its result means (Docker's rules), and running it.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags},
    pipe::{PipeFlags, pipe_with},
    process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid},
};
use tokio::{io::Interest, io::unix::AsyncFd, time};

use super::{
    ExecConfig, Health, HealthConfig, Result,
    exec::{Exec, Running},
    lock,
    state::{HealthState, Identity, Place, Spec, failed, write_json},
    supervisor::asynchronous,
};

/// Bytes of a probe's output that are kept.
const OUTPUT: usize = 4096;
/// Between the first probes of a container that has just started; doubled until `interval`.
const EARLY: Duration = Duration::from_millis(50);

/// The rules, without a clock of their own.
#[derive(Clone, Debug)]
struct Course {
    config: HealthConfig,
    status: Health,
    failing: u32,
    /// Pause before the next early probe; `None` when these are over.
    early: Option<Duration>,
}

impl Course {
    fn new(config: HealthConfig) -> Self {
        Self { config, status: Health::Starting, failing: 0, early: Some(EARLY) }
    }

    /// How long to wait for the next probe, `since` the start. Until the first probe is due by the
    /// rules, further ones are made early: they can only make the container healthy sooner.
    fn pause(&mut self, since: Duration) -> Duration {
        let starting = self.status == Health::Starting && since < self.config.start_period;
        let regular = if starting { self.config.start_interval } else { self.config.interval };
        match self.early {
            Some(early) if self.status == Health::Starting && since + early < regular => {
                self.early = Some(early * 2);
                early
            }
            Some(_) => {
                self.early = None;
                regular.saturating_sub(since)
            }
            None => regular,
        }
    }

    /// A probe that was begun `since` the start has ended.
    fn result(&mut self, healthy: bool, since: Duration) {
        if healthy {
            (self.status, self.failing) = (Health::Healthy, 0);
            return;
        }
        let lenient =
            self.status == Health::Starting && (since < self.config.start_period || self.early.is_some());
        if lenient {
            return;
        }
        self.failing += 1;
        if self.failing >= self.config.retries.max(1) {
            self.status = Health::Unhealthy;
        }
    }
}

/// Probes until it is aborted.
pub async fn watch(place: Place, spec: Spec, config: HealthConfig, process: Identity) {
    let timeout = config.timeout;
    let mut course = Course::new(config.clone());
    // Another supervisor was here before.
    if let Some(known) = place.health().filter(|known| known.pid == process.pid) {
        course.status = known.status;
        course.failing = known.failing;
        course.early = None;
    }
    let mut state =
        HealthState { pid: process.pid, status: course.status, failing: course.failing, last_probe: None };
    let _ = write_json(&place.run.join("health.json"), &state);
    let start = Instant::now();
    let mut exec = None;
    loop {
        time::sleep(course.pause(start.elapsed())).await;
        let since = start.elapsed();
        // What is frozen, or about to be, is not asked and keeps its status, as with docker: a probe would
        // hold us up at its entrance, and with us all that we serve.
        let entrance = lock::try_lock(&place.entrance());
        let Ok(Some(entrance)) = entrance else { continue };
        if place.is_paused() {
            continue;
        }
        if exec.is_none() {
            let program = ExecConfig { args: config.args.clone(), ..ExecConfig::default() };
            exec = Exec::new(&spec.config, &process, &program).ok();
        }
        let (healthy, output) = match &exec {
            Some(exec) => probe(exec, &process, timeout, entrance).await,
            None => (false, "cannot enter the container".to_owned()),
        };
        course.result(healthy, since);
        state.status = course.status;
        state.failing = course.failing;
        state.last_probe = Some(output);
        let _ = write_json(&place.run.join("health.json"), &state);
    }
}

/// Whether it succeeded, and what it said.
async fn probe(exec: &Exec, process: &Identity, timeout: Duration, entrance: File) -> (bool, String) {
    let begun = begin(exec, process);
    drop(entrance);
    match begun {
        Ok((running, output)) => match finish(running, output, timeout).await {
            Ok(done) => done,
            Err(error) => (false, error.to_string()),
        },
        Err(error) => (false, error.to_string()),
    }
}

fn begin(exec: &Exec, process: &Identity) -> Result<(Running, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("cannot make a pipe"))?;
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("cannot open /dev/null"))?;
    let second = rustix::io::fcntl_dupfd_cloexec(&writer, 3).map_err(failed("cannot copy a pipe"))?;
    Ok((exec.spawn(process, &[null, writer, second])?, reader))
}

async fn finish(running: Running, output: OwnedFd, timeout: Duration) -> Result<(bool, String)> {
    let probe = Probe::new(running)?;
    rustix::io::ioctl_fionbio(&output, true).map_err(failed("cannot prepare a pipe"))?;
    let output = asynchronous(output)?;
    let mut text = Vec::new();
    let ended = time::timeout(timeout, async {
        tokio::select! {
            exit = probe.ended() => exit,
            never = collect(&output, &mut text) => match never {},
        }
    })
    .await;
    let mut rest = [0; OUTPUT];
    if let Ok(length) = rustix::io::read(output.get_ref(), &mut rest) {
        keep(&mut text, rest.get(..length).unwrap_or_default());
    }
    let mut text = String::from_utf8_lossy(&text).trim_end().to_owned();
    match ended {
        Ok(exit) => Ok((exit == Some(0), text)),
        Err(_) => {
            probe.kill();
            probe.ended().await;
            if !text.is_empty() {
                text.push('\n');
            }
            Ok((false, format!("{text}no answer within {timeout:?}")))
        }
    }
}

/// Reads what the probe says and keeps the beginning, so that it never waits for us.
async fn collect(output: &AsyncFd<OwnedFd>, text: &mut Vec<u8>) -> std::convert::Infallible {
    loop {
        let read = |fd: &OwnedFd| {
            let mut buffer = [0; OUTPUT];
            let length = rustix::io::read(fd, &mut buffer)?;
            Ok(buffer.get(..length).unwrap_or_default().to_vec())
        };
        match output.async_io(Interest::READABLE, read).await {
            Ok(more) if !more.is_empty() => keep(text, &more),
            // It closed its streams; its end comes by another way.
            _ => std::future::pending().await,
        }
    }
}

fn keep(text: &mut Vec<u8>, more: &[u8]) {
    let room = OUTPUT.saturating_sub(text.len()).min(more.len());
    text.extend_from_slice(more.get(..room).unwrap_or_default());
}

/// A probe that is killed and reaped when nobody waits for it any more.
struct Probe {
    pidfd: AsyncFd<OwnedFd>,
    reaped: std::cell::Cell<bool>,
}

impl Probe {
    fn new(running: Running) -> Result<Self> {
        Ok(Self { pidfd: asynchronous(running.pidfd)?, reaped: false.into() })
    }

    /// Its exit code, or `None` for a signal.
    async fn ended(&self) -> Option<i32> {
        let _ = self.pidfd.readable().await;
        self.reap()
    }

    fn reap(&self) -> Option<i32> {
        let status = waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), WaitIdOptions::EXITED).ok()??;
        self.reaped.set(true);
        status.exit_status()
    }

    fn kill(&self) {
        let _ = pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL);
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if !self.reaped.get() {
            self.kill();
            self.reap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> HealthConfig {
        HealthConfig {
            args: Vec::new(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            retries: 2,
            start_period: Duration::ZERO,
            start_interval: Duration::from_secs(5),
        }
    }

    /// Probes until `end`, each failing but those at or after `healthy`; the times of the probes.
    fn play(course: &mut Course, end: u64, healthy: u64) -> Vec<u64> {
        let (mut now, mut times) = (Duration::ZERO, Vec::new());
        loop {
            now += course.pause(now);
            if now > Duration::from_secs(end) {
                return times;
            }
            times.push(u64::try_from(now.as_millis()).unwrap());
            course.result(now >= Duration::from_secs(healthy), now);
        }
    }

    #[test]
    fn early_probes_may_make_it_healthy_but_never_unhealthy() {
        let mut course = Course::new(config());
        let times = play(&mut course, 9, 100);
        assert_eq!(times, [50, 150, 350, 750, 1550, 3150, 6350]);
        assert_eq!((course.status, course.failing), (Health::Starting, 0));

        let mut course = Course::new(config());
        course.pause(Duration::ZERO);
        course.result(true, EARLY);
        assert_eq!(course.status, Health::Healthy);
    }

    #[test]
    fn it_is_unhealthy_after_as_many_failures_as_asked_and_healthy_after_one_success() {
        let mut course = Course::new(config());
        let times = play(&mut course, 25, 100);
        assert_eq!(times.last(), Some(&20_000));
        assert_eq!((course.status, course.failing), (Health::Unhealthy, 2));
        course.result(true, Duration::from_secs(30));
        assert_eq!((course.status, course.failing), (Health::Healthy, 0));
        course.result(false, Duration::from_secs(40));
        assert_eq!(course.status, Health::Healthy, "one of two");
    }

    #[test]
    fn failures_in_the_start_period_do_not_count() {
        let mut course =
            Course::new(HealthConfig { start_period: Duration::from_secs(60), retries: 1, ..config() });
        let times = play(&mut course, 59, 100);
        assert_eq!((course.status, course.failing), (Health::Starting, 0));
        assert!(times.contains(&5_000) && times.contains(&10_000), "every start_interval: {times:?}");
        course.result(false, Duration::from_secs(61));
        assert_eq!(course.status, Health::Unhealthy);
    }
}
