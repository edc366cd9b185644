//! The root filesystem: mounts, devices, links, and what is hidden or kept from writing.

use std::{fs, os::unix::fs::symlink};

use serde_json::json;

use super::{bundle, hold, refused};

const OPTIONS: &str = "awk '$5 == \"/mnt\" {print $6}' /proc/self/mountinfo";

#[test]
fn mounts_are_made_with_their_options() {
    hold(&[
        (
            "memory of a size",
            |b| {
                b.mount(json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs",
            "options": ["size=64k", "mode=700"]}));
            },
            "df -k /mnt | awk 'NR==2 {print $2}'; stat -c %a /mnt",
            "64\n700",
        ),
        (
            "nosuid, nodev, noexec, ro",
            |b| {
                b.mount(json!({"destination": "/mnt", "type": "tmpfs",
            "source": "tmpfs", "options": ["nosuid", "nodev", "noexec", "ro"]}));
            },
            OPTIONS,
            "ro,nosuid,nodev,noexec,relatime",
        ),
        (
            "noatime",
            |b| {
                b.mount(json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs",
            "options": ["noatime"]}));
            },
            OPTIONS,
            "rw,noatime",
        ),
        (
            "a directory of the host",
            |b| {
                bound(b, &["rbind"]);
            },
            "cat /mnt/file; echo more >>/mnt/file; cat /mnt/file",
            "text\ntext\nmore",
        ),
        (
            "read-only",
            |b| {
                bound(b, &["bind", "ro"]);
            },
            "echo x 2>/dev/null >>/mnt/file || cat /mnt/file",
            "text",
        ),
        (
            "read-only with all below",
            |b| {
                bound(b, &["rbind"]);
                b.document["mounts"].as_array_mut().unwrap().pop();
                b.mount(json!({"destination": "/mnt", "type": "bind", "source": b.path().join("shared"),
                    "options": ["rbind", "rro"]}));
            },
            "touch /mnt/sub/x 2>/dev/null || echo refused",
            "refused",
        ),
        (
            "a file",
            |b| {
                fs::write(b.path().join("one"), "alone").unwrap();
                b.mount(json!({"destination": "/etc/one", "type": "bind", "source": b.path().join("one"),
                    "options": ["bind"]}));
            },
            "cat /etc/one",
            "alone",
        ),
        (
            "a place that is missing is made",
            |b| {
                b.mount(json!({"destination": "/new/place", "type": "tmpfs",
            "source": "tmpfs"}));
            },
            "grep -c /new/place /proc/self/mountinfo",
            "1",
        ),
        (
            "in their order",
            |b| {
                b.mount(json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}));
                b.mount(json!({"destination": "/mnt/below", "type": "tmpfs", "source": "tmpfs"}));
            },
            "grep -c /mnt /proc/self/mountinfo",
            "2",
        ),
        (
            "through a link that stays inside",
            |b| {
                fs::create_dir(b.rootfs().join("tmp/real")).unwrap();
                symlink("/tmp/real", b.rootfs().join("link")).unwrap();
                b.mount(json!({"destination": "/link", "type": "tmpfs", "source": "tmpfs"}));
            },
            "awk '$5 == \"/tmp/real\" {print \"inside\"}' /proc/self/mountinfo",
            "inside",
        ),
        (
            "message queues",
            |b| {
                b.mount(json!({"destination": "/dev/mqueue", "type": "mqueue",
            "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}));
            },
            "awk '$5 == \"/dev/mqueue\" {print $(NF-2)}' /proc/self/mountinfo",
            "mqueue",
        ),
        (
            "a private root",
            |b| {
                b.set("/linux/rootfsPropagation", json!("private"));
            },
            "awk '$5 == \"/\" {print $7}' /proc/self/mountinfo",
            "-",
        ),
        (
            "a mount that is a slave",
            |b| {
                bound(b, &["rbind", "rslave"]);
            },
            "awk '$5 == \"/mnt\" {print ($7 ~ /shared/)}' /proc/self/mountinfo",
            "0",
        ),
    ]);
}

/// A directory with a file, another below it.
fn bound(bundle: &mut super::Bundle, options: &[&str]) {
    let shared = bundle.path().join("shared");
    fs::create_dir_all(shared.join("sub")).unwrap();
    fs::write(shared.join("file"), "text\n").unwrap();
    bundle.mount(json!({"destination": "/mnt", "type": "bind", "source": shared, "options": options}));
}

#[test]
fn what_may_be_seen_and_written_is_limited() {
    hold(&[
        (
            "a root that is read-only",
            |b| {
                b.set("/root/readonly", json!(true));
            },
            "touch /x 2>/dev/null || echo refused; touch /dev/shm/x && echo written",
            "refused\nwritten",
        ),
        (
            "a root that is not",
            |b| {
                b.set("/root/readonly", json!(false));
            },
            "touch /x && echo written",
            "written",
        ),
        (
            "a file hidden",
            |b| {
                fs::write(b.rootfs().join("etc/secret"), "secret").unwrap();
                b.set("/linux/maskedPaths", json!(["/etc/secret", "/missing"]));
            },
            "cat /etc/secret",
            "",
        ),
        (
            "a directory hidden",
            |b| {
                fs::create_dir(b.rootfs().join("etc/dir")).unwrap();
                fs::write(b.rootfs().join("etc/dir/secret"), "secret").unwrap();
                b.set("/linux/maskedPaths", json!(["/etc/dir"]));
            },
            "ls /etc/dir",
            "",
        ),
        (
            "a file kept",
            |b| {
                fs::write(b.rootfs().join("etc/kept"), "kept").unwrap();
                b.set("/linux/readonlyPaths", json!(["/etc/kept", "/missing"]));
            },
            "echo x 2>/dev/null >/etc/kept || cat /etc/kept",
            "kept",
        ),
        (
            "a directory kept",
            |b| {
                b.set("/linux/readonlyPaths", json!(["/tmp"]));
            },
            "touch /tmp/x 2>/dev/null || echo refused",
            "refused",
        ),
        (
            "kernel parameters kept",
            |b| {
                b.set("/linux/readonlyPaths", json!(["/proc/sys"]));
            },
            "echo 1 2>/dev/null >/proc/sys/net/ipv4/ip_forward || echo refused",
            "refused",
        ),
        (
            "what lies below, and in it",
            |b| {
                fs::create_dir_all(b.rootfs().join("hide/sub")).unwrap();
                for file in ["hide/file", "hide/sub/file", "beside"] {
                    fs::write(b.rootfs().join(file), "secret").unwrap();
                }
                b.set("/linux/maskedPaths", json!(["/beside", "/hide/file", "/hide/sub"]));
            },
            "cat /beside /hide/file; ls /hide /hide/sub",
            "/hide:\nfile\nsub\n\n/hide/sub:",
        ),
        (
            "what is kept below, and in it",
            |b| {
                fs::create_dir_all(b.rootfs().join("keep/sub")).unwrap();
                for file in ["keep/file", "keep/sub/file", "beside"] {
                    fs::write(b.rootfs().join(file), "kept").unwrap();
                }
                b.set(
                    "/linux/readonlyPaths",
                    json!(["/beside", "/keep", "/keep/sub", "/keep/file", "/keep/sub/file"]),
                );
            },
            "for f in /beside /keep/file /keep/sub/file /keep/new; do echo x 2>/dev/null >$f || echo refused; done",
            "refused\nrefused\nrefused\nrefused",
        ),
        (
            "nodes hidden",
            |b| {
                nodes(b);
                b.set("/linux/maskedPaths", json!(["/c", "/b", "/p"]));
            },
            "stat -c %t:%T /c /b /p",
            "1:3\n1:3\n1:3",
        ),
        (
            "nodes kept",
            |b| {
                nodes(b);
                b.set("/linux/readonlyPaths", json!(["/c", "/b", "/p"]));
            },
            "for node in c b p; do touch /$node 2>/dev/null || echo refused; done",
            "refused\nrefused\nrefused",
        ),
        (
            "a relative path that is missing, kept",
            |b| {
                b.set("/linux/readonlyPaths", json!(["missing"]));
            },
            "echo goes on",
            "goes on",
        ),
        (
            "nothing of the host's is mounted",
            |_| {},
            "grep -c -v -E ' (/|/proc|/dev|/dev/pts|/dev/shm|/sys)[ /]' \
            /proc/self/mountinfo; true",
            "0",
        ),
    ]);
}

/// One of each kind at the root.
fn nodes(bundle: &super::Bundle) {
    for (name, words) in [("c", "c 1 5"), ("b", "b 7 0"), ("p", "p")] {
        let made = std::process::Command::new("mknod")
            .args(["-m", "666"])
            .arg(bundle.rootfs().join(name))
            .args(words.split(' '))
            .status();
        assert!(made.unwrap().success());
    }
}

#[test]
fn devices_are_those_everybody_expects_and_those_asked_for() {
    hold(&[
        (
            "defaults",
            |_| {},
            "for d in null zero full random urandom tty; do test -c /dev/$d && echo $d; done",
            "null\nzero\nfull\nrandom\nurandom\ntty",
        ),
        (
            "links",
            |_| {},
            "for l in fd stdin stdout stderr; do readlink /dev/$l; done",
            "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2",
        ),
        ("the terminals' master", |_| {}, "test -c /dev/ptmx && readlink /dev/ptmx", "pts/ptmx"),
        (
            "one of each kind",
            |b| {
                b.set("/linux/devices", json!([
                {"path": "/dev/c", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 5, "gid": 6},
                {"path": "/dev/b", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600},
                {"path": "/dev/p", "type": "p", "fileMode": 0o622}]));
            },
            "stat -c '%F %a %u %g' /dev/c; stat -c '%F %a' /dev/b /dev/p",
            "character special file 640 5 6\nblock special file 600\nfifo 622",
        ),
        (
            "one without a mode",
            |b| {
                b.set("/linux/devices", json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]));
            },
            "stat -c '%F %a %u %g' /dev/kmsg",
            "character special file 666 0 0",
        ),
        (
            "one that may be used",
            |b| {
                b.set("/linux/devices", json!([{"path": "/dev/n", "type": "c", "major": 1, "minor": 5}]));
                b.set(
                    "/linux/resources/devices",
                    json!([{"allow": false, "access": "rwm"},
                    {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "r"}]),
                );
            },
            "dd if=/dev/n bs=1 count=1 2>/dev/null | head -c 1 | grep -c ''; dd if=/tmp/x of=/dev/n 2>/dev/null || \
                echo refused",
            "1\nrefused",
        ),
        (
            "none that was not asked for",
            |b| {
                b.set("/linux/resources/devices", json!([{"allow": false, "access": "rwm"}]));
            },
            "mknod /tmp/m c 1 1 2>/dev/null; dd if=/tmp/m bs=1 count=1 2>/dev/null || echo refused",
            "refused",
        ),
    ]);
}

#[test]
fn a_root_can_be_moved_instead_of_pivoted() {
    let Some(mut bundle) = bundle() else { return };
    bundle.script("ls /; readlink /proc/1/root").write();
    let said = bundle.oci("run --no-pivot --bundle BUNDLE ID");
    assert_eq!(said.stdout, "bin\ndev\netc\nmnt\nproc\nsys\ntmp\n/\n", "{said:?}");
}

#[test]
fn a_hostile_root_leads_nowhere() {
    let Some(bundle) = bundle() else { return };
    drop(bundle);
    refused(&[
        (
            "/proc is a link",
            |b| {
                fs::remove_dir(b.rootfs().join("proc")).unwrap();
                symlink("/tmp", b.rootfs().join("proc")).unwrap();
            },
            "",
        ),
        (
            "/sys is a link",
            |b| {
                fs::remove_dir(b.rootfs().join("sys")).unwrap();
                symlink("/tmp", b.rootfs().join("sys")).unwrap();
            },
            "",
        ),
        (
            "what is to be hidden is no absolute path",
            |b| {
                b.set("/linux/maskedPaths", json!(["../hidden"]));
            },
            "hidden",
        ),
        (
            "what is to be kept is a link that leads to itself",
            |b| {
                symlink("../kept", b.rootfs().join("kept")).unwrap();
                b.set("/linux/readonlyPaths", json!(["/kept"]));
            },
            "readonly",
        ),
        (
            "the root is missing",
            |b| {
                b.set("/root/path", json!("nowhere"));
            },
            "nowhere",
        ),
        (
            "a source that is missing",
            |b| {
                b.mount(json!({"destination": "/mnt", "type": "bind",
            "source": "/no/such/place", "options": ["bind"]}));
            },
            "/no/such/place",
        ),
    ]);
}
