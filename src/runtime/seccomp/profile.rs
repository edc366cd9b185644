//! Filters that users bring: Docker's JSON profiles (`security_opt: seccomp=FILE`) and the `seccomp`
//! object of OCI documents, which say the same but for conditions on capabilities and kernels.
//!
//! Of several rules for one call those with conditions on arguments come first, in their order.

use std::collections::BTreeMap;

use libc::{
    EPERM, SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_LOG,
    SECCOMP_RET_TRACE, SECCOMP_RET_TRAP, sock_filter,
};
use serde::{Deserialize, Serialize};

use super::bpf::{ABIS, Abi, Is, Rule, Table, Test, Verdict, assemble, errno};
use crate::runtime::{Error, Result};

/// A profile that was understood whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: Action,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    flags: Vec<String>,
    /// Of `SCMP_ACT_NOTIFY`, which is refused.
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default)]
    syscalls: Vec<Call>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: Action,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: Operator,
}

/// When a rule counts at all: every list that is given must be met.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    /// `4.8`.
    #[serde(default)]
    min_kernel: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Action {
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Operator {
    #[serde(rename = "SCMP_CMP_NE")]
    Not,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    Masked,
}

impl Profile {
    /// Reads a profile; what is wrong with it is told with its line and column.
    pub fn parse(text: &str) -> Result<Self> {
        let profile: Self =
            serde_json::from_str(text).map_err(|e| Error::Invalid(format!("not a seccomp profile: {e}")))?;
        profile.check().map_err(|why| Error::Invalid(format!("not a seccomp profile: {why}")))?;
        Ok(profile)
    }

    fn check(&self) -> Result<(), String> {
        if !self.architectures.is_empty() && !self.arch_map.is_empty() {
            return Err("`architectures` and `archMap` exclude each other".to_owned());
        }
        if self.default_action == Action::Notify {
            return Err("`SCMP_ACT_NOTIFY` needs a process that listens, and none is run".to_owned());
        }
        for (number, call) in self.syscalls.iter().enumerate() {
            let place = || format!("syscalls[{number}]");
            if call.name.is_some() != call.names.is_empty() {
                return Err(format!("{} needs either `names` or `name`", place()));
            }
            if call.action == Action::Notify {
                let why = "`SCMP_ACT_NOTIFY` needs a process that listens, and none is run";
                return Err(format!("{}: {why}", place()));
            }
            if call.arguments().iter().any(|argument| argument.index > 5) {
                return Err(format!("{}: a system call has arguments 0 to 5", place()));
            }
            for condition in [&call.includes, &call.excludes] {
                if condition.min_kernel.as_deref().is_some_and(|version| kernel(version).is_none()) {
                    return Err(format!("{}: `minKernel` is not a version such as 4.8", place()));
                }
            }
        }
        Ok(())
    }

    /// The program for a process that may have `capabilities` on the kernel that runs.
    #[must_use]
    pub fn filter(&self, capabilities: &[String]) -> Vec<sock_filter> {
        let running = rustix::system::uname().release().to_string_lossy().into_owned();
        let running = kernel(&running).unwrap_or_default();
        let tables: Vec<_> = ABIS
            .iter()
            .enumerate()
            .filter(|(number, abi)| *number == 0 || self.knows(abi))
            .map(|(_, abi)| (abi, self.table(abi, capabilities, running)))
            .collect();
        assemble(&tables, SECCOMP_RET_KILL_PROCESS)
    }

    fn knows(&self, abi: &Abi) -> bool {
        let own = |map: &ArchMap| map.architecture == ABIS[0].name;
        let below =
            self.arch_map.iter().filter(|map| own(map)).filter_map(|map| map.sub_architectures.as_ref());
        self.architectures.iter().chain(below.flatten()).any(|name| name == abi.name)
    }

    fn table(&self, abi: &Abi, capabilities: &[String], running: (u32, u32)) -> Table {
        let default = self.default_action.number(self.default_errno_ret);
        let mut rules: BTreeMap<u32, (Vec<Rule>, u32)> = BTreeMap::new();
        for call in &self.syscalls {
            if !call.counts(capabilities, running) {
                continue;
            }
            let then = call.action.number(call.errno_ret);
            let tests: Vec<Test> = call.arguments().iter().map(Argument::test).collect();
            for number in call.name.iter().chain(&call.names).filter_map(|name| (abi.number)(name)) {
                let (conditional, otherwise) = rules.entry(number).or_insert((Vec::new(), default));
                if tests.is_empty() {
                    *otherwise = then;
                } else {
                    conditional.push(Rule { tests: tests.clone(), then });
                }
            }
        }
        let calls = rules.into_iter().map(|(number, (rules, otherwise))| {
            let verdict = if rules.is_empty() {
                Verdict::Always(otherwise)
            } else {
                Verdict::Depends(rules, otherwise)
            };
            (number, verdict)
        });
        // As runc does, so that C libraries fall back from calls that are newer than the profile.
        let newer_is_unknown = self.default_action == Action::Errno;
        Table { calls: calls.collect(), default, newer_is_unknown }
    }
}

impl Call {
    fn arguments(&self) -> &[Argument] {
        self.args.as_deref().unwrap_or_default()
    }

    fn counts(&self, capabilities: &[String], running: (u32, u32)) -> bool {
        let has = |name: &String| capabilities.contains(name);
        let here = |name: &String| name == machine();
        let since = |version: &String| kernel(version).is_some_and(|version| running >= version);
        let (with, without) = (&self.includes, &self.excludes);
        let given = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
        given(&with.caps).is_none_or(|caps| caps.iter().all(has))
            && given(&with.arches).is_none_or(|arches| arches.iter().any(here))
            && with.min_kernel.as_ref().is_none_or(since)
            && !given(&without.caps).is_some_and(|caps| caps.iter().any(has))
            && !given(&without.arches).is_some_and(|arches| arches.iter().any(here))
            && !without.min_kernel.as_ref().is_some_and(since)
    }
}

impl Argument {
    fn test(&self) -> Test {
        let is = match self.op {
            Operator::Not => Is::Not(self.value),
            Operator::Less => Is::Less(self.value),
            Operator::LessOrEqual => Is::LessOrEqual(self.value),
            Operator::Equal => Is::Equal(self.value),
            Operator::GreaterOrEqual => Is::GreaterOrEqual(self.value),
            Operator::Greater => Is::Greater(self.value),
            Operator::Masked => Is::Masked(self.value, self.value_two),
        };
        Test { argument: self.index, is }
    }
}

impl Action {
    /// SECCOMP_RET_* with `data`, an errno where nothing is said.
    fn number(self, data: Option<u32>) -> u32 {
        let code = data.and_then(|code| i32::try_from(code).ok()).unwrap_or(EPERM);
        match self {
            Self::KillThread => SECCOMP_RET_KILL_THREAD,
            Self::KillProcess | Self::Notify => SECCOMP_RET_KILL_PROCESS,
            Self::Trap => SECCOMP_RET_TRAP,
            Self::Errno => errno(code),
            Self::Trace => SECCOMP_RET_TRACE | (code.cast_unsigned() & 0xffff),
            Self::Allow => SECCOMP_RET_ALLOW,
            Self::Log => SECCOMP_RET_LOG,
        }
    }
}

/// This machine, as Docker's profiles name it.
fn machine() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// `6.1.0-25-amd64` as (6, 1).
fn kernel(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use libc::ENOSYS;

    use super::*;
    use crate::runtime::seccomp::bpf::tests::verdict;

    fn of(text: &str, capabilities: &[&str]) -> impl Fn(&str, &[u64]) -> u32 {
        let capabilities: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
        let filter = Profile::parse(text).unwrap().filter(&capabilities);
        move |name, arguments| verdict(&filter, ABIS[0].audit, (ABIS[0].number)(name).unwrap(), arguments)
    }

    #[test]
    fn a_list_of_denials_denies_just_these() {
        let call = of(
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mkdir", "mkdirat", "nosuchcall"], "action": "SCMP_ACT_ERRNO"},
                {"name": "chmod", "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
                {"names": ["chown"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#,
            &[],
        );
        assert_eq!(call("mkdir", &[]), errno(EPERM));
        assert_eq!(call("chmod", &[]), errno(38));
        assert_eq!(call("chown", &[]), SECCOMP_RET_KILL_PROCESS);
        assert_eq!(call("read", &[]), SECCOMP_RET_ALLOW);
    }

    #[test]
    fn arguments_and_conditions_decide() {
        let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13, "syscalls": [
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]},
             "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["clone", "mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["write"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "999.0"}},
            {"names": ["close"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
            {"names": ["pidfd_open"], "action": "SCMP_ACT_LOG"}]}"#;
        let plain = of(text, &[]);
        let admin = of(text, &["CAP_SYS_ADMIN"]);
        assert_eq!(plain("personality", &[8]), SECCOMP_RET_ALLOW);
        assert_eq!(plain("personality", &[9]), errno(13));
        assert_eq!(plain("clone", &[0x11]), SECCOMP_RET_ALLOW);
        assert_eq!(plain("clone", &[0x1000_0000]), errno(13));
        assert_eq!(admin("clone", &[0x1000_0000]), SECCOMP_RET_ALLOW);
        assert_eq!((plain("mount", &[]), admin("mount", &[])), (errno(13), SECCOMP_RET_ALLOW));
        assert_eq!(plain("read", &[]), SECCOMP_RET_ALLOW);
        assert_eq!((plain("write", &[]), plain("close", &[])), (errno(13), errno(13)));
        assert_eq!(plain("mseal", &[]), errno(ENOSYS), "newer than the newest that is named");
    }

    #[test]
    fn only_architectures_that_are_named_get_through() {
        let text = |more: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW"{more}}}"#);
        let own = ABIS[0].name;
        let other = ABIS[1].name;
        for (more, gets_through) in [
            (String::new(), false),
            (format!(r#", "architectures": ["{own}"]"#), false),
            (format!(r#", "architectures": ["{own}", "{other}"]"#), true),
            (format!(r#", "archMap": [{{"architecture": "{own}", "subArchitectures": ["{other}"]}}]"#), true),
        ] {
            let filter = Profile::parse(&text(&more)).unwrap().filter(&[]);
            assert_eq!(verdict(&filter, ABIS[0].audit, 0, &[]), SECCOMP_RET_ALLOW);
            let got = verdict(&filter, ABIS[1].audit, 0, &[]);
            assert_eq!(got == SECCOMP_RET_ALLOW, gets_through, "{more}");
        }
    }

    #[test]
    fn a_profile_that_is_wrong_says_where() {
        let wrong = [
            ("{", "line 1 column 1"),
            (r#"{"syscalls": []}"#, "missing field `defaultAction`"),
            (r#"{"defaultAction": "ALLOW"}"#, "unknown variant `ALLOW`"),
            (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "a process that listens"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_LOG"}]}"#,
                "syscalls[0]",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG",
                    "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#,
                "arguments 0 to 5",
            ),
        ];
        for (text, want) in wrong {
            let error = Profile::parse(text).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
