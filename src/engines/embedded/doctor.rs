//! What the engine inside this program needs of a machine, looked at one by one.

use std::{fs, path::Path};

use crate::{
    engine::{
        Finding,
        Verdict::{Fail, Pass, Warn},
    },
    runtime::Roots,
};

/// Bytes below which images and logs soon find no room, and below which nothing starts.
const LITTLE: u64 = 2 << 30;
const TOO_LITTLE: u64 = 100 << 20;
/// Each followed log and each watched project takes one.
const INOTIFY_INSTANCES: u64 = 256;

pub(super) fn examine(roots: &Roots) -> Vec<Finding> {
    let root = rustix::process::geteuid().is_root();
    vec![
        user(root),
        user_namespaces(root),
        sub_ids(root),
        cgroups(),
        overlay(),
        nftables(),
        inotify(),
        ports(root),
        disk(&roots.data),
        dns(),
        proxies(),
    ]
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

fn user(root: bool) -> Finding {
    if root {
        return pass("user", "root");
    }
    fail("user", "not root, which running containers needs", "sudo ficelle ...")
}

fn user_namespaces(root: bool) -> Finding {
    let name = "user namespaces";
    let off = |path: &str, value: u64| number(path) == Some(value);
    if off("/proc/sys/user/max_user_namespaces", 0) {
        return warn(name, "turned off", "sysctl -w user.max_user_namespaces=15000");
    }
    if !root && off("/proc/sys/kernel/unprivileged_userns_clone", 0) {
        return warn(name, "for root only", "sysctl -w kernel.unprivileged_userns_clone=1");
    }
    if !root && off("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 1) {
        let fix = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0";
        return warn(name, "AppArmor keeps ordinary users from them", fix);
    }
    pass(name, "available")
}

/// Lines `user:first:count` of /etc/subuid and /etc/subgid.
fn sub_ids(root: bool) -> Finding {
    let name = "sub-ids";
    if root {
        return pass(name, "not needed by root");
    }
    let uid = rustix::process::getuid().as_raw().to_string();
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
    let fix = format!("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {own}");
    warn(name, format!("none for {own}"), fix)
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

fn ports(root: bool) -> Finding {
    let first = number("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or(1024);
    if root || first <= 80 {
        return pass("ports", "every port can be published");
    }
    let fix = "sysctl -w net.ipv4.ip_unprivileged_port_start=80";
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
        assert!(found.len() >= 10);
        for finding in found {
            assert_eq!(finding.fix.is_none(), finding.verdict == Pass, "{finding:?}");
            assert!(!finding.text.is_empty());
        }
    }
}
