//! What workers leave that were killed, or whose keeper was: processes that wait to execute a container's
//! program, and containers that nobody was told of.

use std::{fs, time::Duration};

use super::{
    super::{cgroup, signal, state::Identity, wait::Deadline},
    Keeper,
};

/// Names of processes that bear our command line, since they were forked and never executed anything.
const NAMES: [&str; 3] = ["ficelle-worker", "ficelle-init", "youki:"];

impl Keeper {
    /// Ends what was started for the container, unless it is what is known to run.
    pub(super) fn kill_untold(&self, id: &str) {
        let Ok(place) = self.group.place(id) else { return };
        let known = self.containers.get(id).and_then(|held| held.state.process.as_ref());
        let Some(process) = place.starting().filter(|process| Some(process) != known && process.lives())
        else {
            return;
        };
        signal::kill(&process);
        if known.is_none()
            && let Some(cgroup) = self.group.cgroup(id)
        {
            cgroup::kill(&cgroup);
        }
    }

    /// Ends workers of a dead keeper, and what waits for a worker that is no more. Only while no worker of
    /// ours is at work: theirs cannot be told from these.
    pub(super) fn kill_strays(&self) {
        /// For what was killed to be gone.
        const LONGEST: Duration = Duration::from_secs(1);
        let deadline = Deadline::new(Some(LONGEST));
        // Again until there is none: one may have forked another behind our back.
        while self.kill_seen_strays()
            && let Ok(pause) = deadline.left(Duration::from_millis(1))
        {
            std::thread::sleep(pause);
        }
    }

    /// Whether there was any.
    fn kill_seen_strays(&self) -> bool {
        let mut seen = false;
        let of = |pid: &str, file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let ours = of("self", "cmdline");
        let known = |pid: i32| {
            let main =
                |held: &super::Held| held.state.process.as_ref().is_some_and(|process| process.pid == pid);
            self.containers.values().any(main)
        };
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some((name, pid)) = name.to_str().and_then(|name| Some((name, name.parse::<i32>().ok()?)))
            else {
                continue;
            };
            let is_ours = of(name, "cmdline") == ours && {
                let comm = of(name, "comm");
                NAMES.iter().any(|begin| comm.starts_with(begin.as_bytes()))
            };
            // Once more when it is known which one is meant.
            if is_ours
                && !known(pid)
                && let Some(identity) = Identity::of(pid)
                && of(name, "cmdline") == ours
            {
                signal::kill(&identity);
                seen = true;
            }
        }
        seen
    }
}
