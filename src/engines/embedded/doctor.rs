//! What the engine inside this program needs of a machine, looked at one by one.

use std::{fs, path::Path};

use crate::{
    engine::{
        Finding,
        Verdict::{Fail, Pass, Warn},
    },
    runtime::{Missing, Roots, limits_missing, rootless},
};

/// Bytes below which images and logs soon find no room, and below which nothing starts.
const LITTLE: u64 = 2 << 30;
const TOO_LITTLE: u64 = 100 << 20;
/// Each followed log and each watched project takes one.
const INOTIFY_INSTANCES: u64 = 256;

pub(super) fn examine(roots: &Roots) -> Vec<Finding> {
    let who = Who::runs();
    let mut found = vec![user(who), user_namespaces(who)];
    if let Who::User(uid) = who {
        found.extend([sub_ids(uid), way_out(), sessions()]);
    }
    found.extend([
        cgroups(),
        overlay(),
        nftables(),
        inotify(),
        ports(who),
        disk(&roots.data),
        dns(),
        proxies(),
    ]);
    found
}

/// Whose containers they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Root,
    /// An ordinary user, by the number outside, in a user namespace of their own.
    User(u32),
    /// An ordinary user who could not enter one.
    Outside,
}

impl Who {
    fn runs() -> Self {
        match rootless::user() {
            Some(uid) => Self::User(uid),
            None if rustix::process::geteuid().is_root() => Self::Root,
            None => Self::Outside,
        }
    }
}

fn pass(name: &'static str, text: impl Into<String>) -> Finding {
    Finding { name, verdict: Pass, text: text.into(), fix: None }
}

fn warn(name: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { name, verdict: Warn, text: text.into(), fix: Some(fix.into()) }
}

fn fail(name: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { verdict: Fail, ..warn(name, text, fix) }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn number(path: &str) -> Option<u64> {
    read(path).parse().ok()
}

fn user(who: Who) -> Finding {
    match who {
        Who::Root => pass("user", "root"),
        Who::User(uid) => pass("user", format!("an ordinary user ({uid})")),
        Who::Outside => fail("user", "an ordinary user without a user namespace", "sudo ficelle ..."),
    }
}

fn user_namespaces(who: Who) -> Finding {
    let name = "user namespaces";
    let off = |path: &str, value: u64| number(path) == Some(value);
    if let Who::User(_) = who {
        return pass(name, "in use");
    }
    if off("/proc/sys/user/max_user_namespaces", 0) {
        return warn(name, "turned off", "sysctl -w user.max_user_namespaces=15000");
    }
    if who == Who::Outside && off("/proc/sys/kernel/unprivileged_userns_clone", 0) {
        return warn(name, "for root only", "sysctl -w kernel.unprivileged_userns_clone=1");
    }
    if who == Who::Outside && off("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 1) {
        let fix = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0";
        return warn(name, "AppArmor keeps ordinary users from them", fix);
    }
    pass(name, "available")
}

/// Lines `user:first:count` of /etc/subuid and /etc/subgid.
fn sub_ids(uid: u32) -> Finding {
    let (name, uid) = ("sub-ids", uid.to_string());
    let users = read("/etc/passwd");
    let own = users.lines().find(|line| line.split(':').nth(2) == Some(uid.as_str()));
    let own = own.and_then(|line| line.split(':').next()).unwrap_or(uid.as_str());
    let has = |file: &str| {
        read(file)
            .lines()
            .any(|line| matches!(line.split(':').next(), Some(user) if user == own || user == uid))
    };
    if has("/etc/subuid") && has("/etc/subgid") {
        return pass(name, format!("there for {own}"));
    }
    let fix = format!("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {own}");
    warn(name, format!("none for {own}"), fix)
}

/// The programs that carry what an ordinary user's networks send.
fn way_out() -> Finding {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    match ["pasta", "slirp4netns"].into_iter().find(|program| has(program)) {
        Some(program) => pass("way out", program),
        None => warn("way out", "no pasta: containers reach nothing outside", "sudo apt install passt"),
    }
}

fn sessions() -> Finding {
    if rootless::outlives_logout() == Some(false) {
        return warn("sessions", "containers end with the last session", "loginctl enable-linger");
    }
    pass("sessions", "containers go on without one")
}

fn cgroups() -> Finding {
    let name = "cgroups";
    let unified = read("/sys/fs/cgroup/cgroup.controllers");
    let wanted = ["cpu", "memory", "pids"];
    let mounts = read("/proc/self/mountinfo");
    let legacy = |line: &str| line.split_once(" - cgroup ").map(|(_, options)| options.to_owned());
    let (kind, known): (_, Vec<String>) = if unified.is_empty() {
        let options: Vec<String> = mounts.lines().filter_map(legacy).collect();
        ("version 1", options.iter().flat_map(|line| line.split([',', ' '])).map(str::to_owned).collect())
    } else {
        ("version 2", unified.split(' ').map(str::to_owned).collect())
    };
    let missing: Vec<&str> =
        wanted.into_iter().filter(|controller| !known.iter().any(|known| known == controller)).collect();
    if let Some(Missing { controllers, why }) = limits_missing() {
        return warn(name, format!("{kind}; limits of {} have no effect", controllers.join(", ")), why);
    }
    if missing.is_empty() {
        return pass(name, kind);
    }
    let fix = "start the kernel with `cgroup_enable=memory`, or mount the controllers";
    warn(name, format!("{kind}, without {}: limits on these have no effect", missing.join(", ")), fix)
}

fn overlay() -> Finding {
    if read("/proc/filesystems").lines().any(|line| line.ends_with("overlay")) {
        return pass("overlay", "available");
    }
    fail("overlay", "the kernel has no overlay file system", "modprobe overlay")
}

/// The socket can be had where the kernel knows netfilter's.
fn nftables() -> Finding {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink, socket_with};

    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER));
    match socket {
        Ok(_) => pass("nft", "available"),
        Err(_) => warn(
            "nft",
            "no netfilter: containers reach nothing outside",
            "modprobe nf_tables nft_masq nft_ct",
        ),
    }
}

fn inotify() -> Finding {
    let path = "/proc/sys/fs/inotify/max_user_instances";
    match number(path) {
        Some(instances) if instances < INOTIFY_INSTANCES => {
            let fix = format!("sysctl -w fs.inotify.max_user_instances={}", INOTIFY_INSTANCES * 4);
            warn("inotify", format!("{instances} instances a user: few logs can be followed at once"), fix)
        }
        Some(instances) => pass("inotify", format!("{instances} instances a user")),
        None => warn("inotify", "not available", "use a kernel with CONFIG_INOTIFY_USER"),
    }
}

fn ports(who: Who) -> Finding {
    let first = number("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or(1024);
    if who == Who::Root || first <= 80 {
        return pass("ports", "every port can be published");
    }
    let fix = "sudo sysctl -w net.ipv4.ip_unprivileged_port_start=80";
    warn("ports", format!("ports below {first} are for root"), fix)
}

fn disk(data: &Path) -> Finding {
    // The nearest directory that is there.
    let there = data.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let shown = data.display();
    let Ok(stat) = rustix::fs::statvfs(there) else {
        return fail(
            "disk",
            format!("`{shown}` cannot be looked at"),
            "choose another place with `--root DIR`",
        );
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let text = format!("{} MiB free at `{shown}`", free >> 20);
    let fix = "free some space (`ficelle image rm`), or choose another place with `--root DIR`";
    match (free, stat.f_favail, stat.f_files) {
        (0..TOO_LITTLE, _, _) => fail("disk", text, fix),
        (_, 0..1000, 1..) => fail("disk", format!("{text}, but almost no inodes"), fix),
        (TOO_LITTLE..LITTLE, _, _) => warn("disk", text, fix),
        _ => pass("disk", text),
    }
}

fn dns() -> Finding {
    let servers: Vec<String> = read("/etc/resolv.conf")
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver"))
        .map(|server| server.trim().to_owned())
        .collect();
    if servers.is_empty() {
        let fix = "put a line `nameserver ADDRESS` into /etc/resolv.conf";
        return warn("DNS", "no name server: names outside cannot be found", fix);
    }
    pass("DNS", servers.join(", "))
}

fn proxies() -> Finding {
    let set: Vec<String> = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
        .into_iter()
        .flat_map(|name| [name.to_owned(), name.to_lowercase()])
        .filter(|name| std::env::var(name).is_ok_and(|value| !value.is_empty()))
        .collect();
    if set.is_empty() {
        return pass("proxies", "none");
    }
    let bypass = ["NO_PROXY", "no_proxy"].iter().any(|name| std::env::var(name).is_ok_and(|v| !v.is_empty()));
    if bypass {
        return pass("proxies", set.join(", "));
    }
    let fix = "export NO_PROXY=localhost,127.0.0.1";
    warn("proxies", format!("{}, also for registries of this machine", set.join(", ")), fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_not_well_says_what_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let found = examine(&Roots::below(dir.path()));
        assert!(found.len() >= 9);
        for finding in found {
            assert_eq!(finding.fix.is_none(), finding.verdict == Pass, "{finding:?}");
            assert!(!finding.text.is_empty());
        }
    }
}
