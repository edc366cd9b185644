//! What a container uses, read from its control groups and its network; the processes in it.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Result, cgroup};

/// At one moment; counts go up from the start of the container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu: Duration,
    /// Bytes, without what the page cache could give back.
    pub memory: u64,
    /// Bytes it may use.
    pub memory_limit: u64,
    pub tasks: u64,
    pub received: u64,
    pub sent: u64,
    pub read: u64,
    pub written: u64,
}

/// One process of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessRecord {
    pub pid: i32,
    pub parent: i32,
    pub uid: u32,
    pub age: Duration,
    pub busy: Duration,
    /// Device number of its terminal; 0 is none.
    pub tty: i32,
    pub command: String,
}

/// Of the container whose main process is `pid`.
pub fn of_process(pid: i32) -> Result<Usage> {
    let groups = cgroup::of_process(pid)?;
    let mut usage = Usage { memory_limit: machine_memory(), ..Usage::default() };
    let file = |name: &str| groups.iter().map(|group| group.join(name)).find(|path| path.exists());
    let text = |name: &str| file(name).and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let number = |name: &str| text(name).trim().parse::<u64>().ok();
    // Version 1 stands first: on a hybrid machine its controllers are the ones that count.
    usage.cpu = match number("cpuacct.usage") {
        Some(nanos) => Duration::from_nanos(nanos),
        None => Duration::from_micros(field(&text("cpu.stat"), "usage_usec")),
    };
    let (used, cache, limit) = match number("memory.usage_in_bytes") {
        Some(used) => {
            (used, field(&text("memory.stat"), "total_inactive_file"), number("memory.limit_in_bytes"))
        }
        None => {
            let used = number("memory.current").unwrap_or(0);
            (used, field(&text("memory.stat"), "inactive_file"), number("memory.max"))
        }
    };
    usage.memory = used.saturating_sub(cache);
    usage.memory_limit = limit.map_or(usage.memory_limit, |limit| limit.min(usage.memory_limit));
    usage.tasks = number("pids.current").unwrap_or_else(|| tasks(&groups));
    (usage.read, usage.written) = match file("blkio.throttle.io_service_bytes") {
        Some(_) => {
            let text = text("blkio.throttle.io_service_bytes");
            (blkio(&text, "Read"), blkio(&text, "Write"))
        }
        None => (pairs(&text("io.stat"), "rbytes="), pairs(&text("io.stat"), "wbytes=")),
    };
    (usage.received, usage.sent) = network(pid);
    Ok(usage)
}

/// `name 123` on a line.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// Sum of `8:0 Read 123`.
fn blkio(text: &str, what: &str) -> u64 {
    let value = |line: &str| {
        let mut words = line.split(' ').skip(1);
        (words.next()? == what).then(|| words.next()?.parse::<u64>().ok())?
    };
    text.lines().filter_map(value).sum()
}

/// Sum of `8:0 rbytes=123 wbytes=456`.
fn pairs(text: &str, name: &str) -> u64 {
    text.split_whitespace().filter_map(|word| word.strip_prefix(name)?.parse::<u64>().ok()).sum()
}

fn tasks(groups: &[PathBuf]) -> u64 {
    let read = |group: &PathBuf| fs::read_to_string(group.join("cgroup.threads")).ok();
    groups.iter().find_map(read).map_or(0, |text| u64::try_from(text.lines().count()).unwrap_or(0))
}

/// Bytes received and sent on every interface but loopback.
fn network(pid: i32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let mut sums = (0, 0);
    for line in text.lines().skip(2) {
        let Some((name, counts)) = line.split_once(':') else { continue };
        let counts: Vec<u64> = counts.split_whitespace().filter_map(|count| count.parse().ok()).collect();
        if name.trim() != "lo" {
            sums.0 += counts.first().unwrap_or(&0);
            sums.1 += counts.get(8).unwrap_or(&0);
        }
    }
    sums
}

fn machine_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(u64::MAX, |kib| kib << 10)
}

/// The processes in the groups of the one with this number, and in groups below, in their order.
pub fn processes(pid: i32) -> Result<Vec<ProcessRecord>> {
    let groups = cgroup::of_process(pid)?;
    // Not every hierarchy has a group of it: in others it stands with all that have none.
    let Some(group) = groups.iter().max_by_key(|group| group.components().count()) else {
        return Ok(Vec::new());
    };
    let mut pids = Vec::new();
    collect(group, &mut pids);
    pids.sort_unstable();
    pids.dedup();
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let up = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let up: f64 = up.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    Ok(pids.into_iter().filter_map(|pid| process(pid, ticks, Duration::from_secs_f64(up))).collect())
}

fn collect(group: &Path, pids: &mut Vec<i32>) {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), pids);
        }
    }
}

/// `None` when it has ended meanwhile.
fn process(pid: i32, ticks: u64, up: Duration) -> Option<ProcessRecord> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    let name = stat.get(stat.find('(')? + 1..stat.rfind(')')?)?;
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let span = |count: u64| Duration::from_millis(count.saturating_mul(1000) / ticks);
    let arguments = fs::read(dir.join("cmdline")).ok()?;
    let arguments = String::from_utf8_lossy(&arguments).trim_end_matches('\0').replace('\0', " ");
    Some(ProcessRecord {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        uid: fs::metadata(&dir).ok()?.uid(),
        tty: fields.get(4)?.parse().ok()?,
        busy: span(number(11)? + number(12)?),
        age: up.saturating_sub(span(number(19)?)),
        command: if arguments.is_empty() { format!("[{name}]") } else { arguments },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_both_versions() {
        assert_eq!(field("user_usec 5\nusage_usec 12\n", "usage_usec"), 12);
        assert_eq!(blkio("8:0 Read 10\n8:0 Write 3\n8:16 Read 5\nTotal 18\n", "Read"), 15);
        assert_eq!(pairs("8:0 rbytes=1 wbytes=2\n8:16 rbytes=4 wbytes=8\n", "wbytes="), 10);
    }

    #[test]
    fn a_process_is_seen_with_its_command_and_parent() {
        let me = i32::try_from(std::process::id()).unwrap();
        let seen = process(me, 100, Duration::from_secs(1 << 30)).unwrap();
        assert!(seen.command.contains("ficelle"), "{seen:?}");
        assert!(seen.parent > 0);
    }
}
