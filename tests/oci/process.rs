//! The process object: who runs, with what rights, limits and surroundings.

use serde_json::json;

use super::{CAPABILITIES, bundle, hold, refused};

#[test]
fn a_program_gets_its_words_surroundings_and_user() {
    hold(&[
        (
            "words with spaces",
            |b| {
                b.set("/process/args", json!(["echo", "a  b", "", "c"]));
            },
            "",
            "a  b  c",
        ),
        (
            "environment",
            |b| {
                b.set("/process/env", json!(["PATH=/bin", "A=1", "B=x=y", "C="]));
            },
            "echo $A,$B,$C",
            "1,x=y,",
        ),
        (
            "the caller's environment stays out",
            |b| {
                b.set("/process/env", json!(["PATH=/bin"]));
            },
            "env | cut -d= -f1 | grep -v -E '^(PATH|HOME|PWD|SHLVL|OLDPWD)$'; true",
            "",
        ),
        (
            "working directory",
            |b| {
                b.set("/process/cwd", json!("/tmp"));
            },
            "pwd",
            "/tmp",
        ),
        (
            "working directory that is missing",
            |b| {
                b.set("/process/cwd", json!("/a/b"));
            },
            "pwd",
            "/a/b",
        ),
        (
            "user and group",
            |b| {
                b.set("/process/user", json!({"uid": 1000, "gid": 1001}));
            },
            "id -u; id -g",
            "1000\n1001",
        ),
        (
            "further groups",
            |b| {
                b.set("/process/user", json!({"uid": 5, "gid": 6, "additionalGids": [7, 8]}));
            },
            "id -G",
            "6 7 8",
        ),
        ("no further groups", |_| {}, "id -G", "0"),
        (
            "umask",
            |b| {
                b.set("/process/user/umask", json!(0o27));
            },
            "umask",
            "0027",
        ),
        ("no terminal", |_| {}, "tty || true", "not a tty"),
        (
            "no file is open but the streams",
            |_| {},
            "ls /proc/self/fd | grep -v -E '^(0|1|2|3)$' || true",
            "",
        ),
        ("SIGPIPE is not ignored", |_| {}, "grep SigIgn /proc/self/status | cut -f2", "0000000000000000"),
        ("no signal is blocked", |_| {}, "grep SigBlk /proc/self/status | cut -f2", "0000000000000000"),
        (
            "an oom score",
            |b| {
                b.set("/process/oomScoreAdj", json!(100));
            },
            "cat /proc/self/oom_score_adj",
            "100",
        ),
        (
            "personality",
            |b| {
                b.set("/linux/personality", json!({"domain": "LINUX32"}));
            },
            "cat /proc/self/personality",
            "00000008",
        ),
        (
            "personality of 64 bits",
            |b| {
                b.set("/linux/personality", json!({"domain": "LINUX"}));
            },
            "cat /proc/self/personality",
            "00000000",
        ),
        (
            "scheduler of others",
            |b| {
                b.set("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": 1}));
            },
            "awk '{print $19, $41}' /proc/self/stat",
            "1 0",
        ),
        (
            "scheduler",
            |b| {
                b.set("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 5}));
            },
            "awk '{print $19, $41}' /proc/self/stat",
            "5 3",
        ),
    ]);
}

#[test]
fn rights_are_those_of_the_document_and_no_others() {
    hold(&[
        ("no_new_privs", |_| {}, "grep NoNewPrivs /proc/self/status | cut -f2", "1"),
        (
            "no no_new_privs",
            |b| {
                b.set("/process/noNewPrivileges", json!(false));
            },
            "grep NoNewPrivs /proc/self/status | cut -f2",
            "0",
        ),
        (
            "the sets of root",
            |_| {},
            "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | cut -f2",
            "0000000000000000\n0000000008040023\n0000000008040023\n0000000008040023\n0000000000000000",
        ),
        (
            "no capability at all",
            |b| {
                b.set("/process/capabilities",
                    json!({"bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": []}));
            },
            "grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status | cut -f2",
            "0000000000000000\n0000000000000000\n0000000000000000",
        ),
        (
            "a user has no effective ones",
            |b| {
                b.set("/process/user", json!({"uid": 9, "gid": 9}));
            },
            "grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status | cut -f2",
            "0000000000000000\n0000000000000000\n0000000008040023",
        ),
        (
            "ambient ones reach a user",
            |b| {
                b.set("/process/user", json!({"uid": 9, "gid": 9}));
                let kill = json!(["CAP_KILL"]);
                b.set(
                    "/process/capabilities",
                    json!({"bounding": kill, "effective": kill, "permitted": kill,
                    "inheritable": kill, "ambient": kill}),
                );
            },
            "grep -E 'Cap(Inh|Eff|Amb)' /proc/self/status | cut -f2",
            "0000000000000020\n0000000000000020\n0000000000000020",
        ),
        (
            "what is missing cannot be done",
            |b| {
                b.set("/process/capabilities/bounding", json!(["CAP_CHOWN"]));
                b.set("/process/capabilities/effective", json!(["CAP_CHOWN"]));
                b.set("/process/capabilities/permitted", json!(["CAP_CHOWN"]));
            },
            "chown 5 /tmp && mknod /tmp/n c 1 3 2>/dev/null || echo refused",
            "refused",
        ),
    ]);
}

#[test]
fn rights_that_may_be_used_are_within_the_bounds() {
    hold(&[
        (
            "every set",
            |b| {
                for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
                    b.set(&format!("/process/capabilities/{set}"), json!(CAPABILITIES));
                }
            },
            "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | cut -f2 | sort -u",
            "0000000008040023",
        ),
        (
            "no bounds, and nothing within",
            |b| {
                b.set(
                    "/process/capabilities",
                    json!({"effective": [], "permitted": [], "inheritable": [], "ambient": []}),
                );
            },
            "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | cut -f2 | sort -u",
            "0000000000000000",
        ),
    ]);
    refused(&[(
        "no bounds, and something within",
        |b| {
            let kill = json!(["CAP_KILL"]);
            b.set(
                "/process/capabilities",
                json!({"effective": kill, "permitted": kill, "inheritable": kill, "ambient": []}),
            );
        },
        "cannot make the container",
    )]);
}

#[test]
fn limits_of_resources_are_set_and_their_mistakes_refused() {
    hold(&[
        (
            "open files",
            |b| {
                b.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]));
            },
            "ulimit -Sn; ulimit -Hn",
            "100\n200",
        ),
        (
            "core files",
            |b| {
                b.set("/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]));
            },
            "ulimit -c",
            "0",
        ),
        (
            "several",
            |b| {
                b.set(
                    "/process/rlimits",
                    json!([
                    {"type": "RLIMIT_STACK", "soft": 1_048_576, "hard": 2_097_152},
                    {"type": "RLIMIT_CPU", "soft": 60, "hard": 120},
                    {"type": "RLIMIT_MEMLOCK", "soft": 65_536, "hard": 65_536}]),
                );
            },
            "grep -E 'stack|cpu time|locked memory' /proc/self/limits | awk '{print $(NF-2), $(NF-1)}'",
            "60 120\n1048576 2097152\n65536 65536",
        ),
    ]);
    refused(&[
        (
            "an unknown limit",
            |b| {
                b.set("/process/rlimits", json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]));
            },
            "RLIMIT_X",
        ),
        (
            "an unknown capability",
            |b| {
                b.set("/process/capabilities/bounding", json!(["CAP_FLY"]));
            },
            "CAP_FLY",
        ),
        (
            "an oom score out of range",
            |b| {
                b.set("/process/oomScoreAdj", json!(5000));
            },
            "oom",
        ),
    ]);
}

#[test]
fn exit_codes_and_ends_by_signals_come_back() {
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$; sleep 1", 143), ("kill -9 $$", 137)]
    {
        let Some(mut bundle) = bundle() else { return };
        // A first process does not die of its own signals: one below it does.
        bundle.script(&format!("sh -c '{script}'; exit $?"));
        assert_eq!(bundle.run().code, Some(code), "{script}");
    }
}

#[test]
fn a_program_that_is_missing_is_told() {
    let Some(mut bundle) = bundle() else { return };
    bundle.set("/process/args", json!(["nosuchprogram"]));
    let said = bundle.run();
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("nosuchprogram"), "{said:?}");
}

#[test]
fn system_calls_are_filtered_as_the_document_says() {
    hold(&[
        (
            "a call that fails",
            |b| {
                b.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30}]}));
            },
            "mkdir /tmp/d 2>&1; grep Seccomp: /proc/self/status | cut -f2",
            "mkdir: can't create directory '/tmp/d': Read-only file system\n2",
        ),
        (
            "by an argument",
            |b| {
                b.set(
                    "/linux/seccomp",
                    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
                    "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_ERRNO",
                        "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]}]}),
                );
            },
            "kill -USR1 1 2>/dev/null || echo refused; kill -0 1 && echo passed",
            "refused\npassed",
        ),
        (
            "without no_new_privs, and no right is left over",
            |b| {
                b.set("/process/noNewPrivileges", json!(false));
                b.set(
                    "/linux/seccomp",
                    json!({"defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}),
                );
            },
            "mkdir /tmp/d 2>/dev/null || echo refused; grep -E 'NoNew|CapEff|CapBnd' /proc/self/status | cut -f2",
            "refused\n0000000008040023\n0000000008040023\n0",
        ),
    ]);
    refused(&[(
        "a listener",
        |b| {
            b.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_NOTIFY"}));
        },
        "NOTIFY",
    )]);
}
