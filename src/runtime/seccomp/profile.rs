//! Filters of the user's own: Docker's JSON profiles, compiled to BPF for the capabilities of a container.
//!
//! The format is that of moby (profiles/seccomp/seccomp.go): lists of names with an action, the conditions
//! under which they hold (capabilities, architectures, kernel), and comparisons of arguments. The first rule
//! that fits decides, as libseccomp has it for rules of one action; what no rule names gets the default.

use std::collections::BTreeMap;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_W, EPERM,
    SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_LOG,
    SECCOMP_RET_TRACE, SECCOMP_RET_TRAP, sock_filter,
};
use serde::Deserialize;

use super::{ABIS, Abi, jump, load_field, offset_of_arch, ret, stmt};
use crate::runtime::{Error, Result};

/// The kernel takes no longer program.
const LONGEST: usize = 4096;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    /// The older form of `names`.
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Comparison>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Comparison {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// One thing that is decided about a call: under these comparisons, this verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Case {
    comparisons: Vec<Comparison>,
    verdict: u32,
}

/// The filter that a profile is for a process that may have `capabilities`.
///
/// # Errors
/// [`Error::Invalid`] for what is no profile, and for one that the kernel would not take.
pub fn compile(text: &str, capabilities: &[String]) -> Result<Vec<sock_filter>> {
    let invalid = |why: String| Error::Invalid(format!("the seccomp profile cannot be used: {why}"));
    let profile: Profile = serde_json::from_str(text).map_err(|e| invalid(e.to_string()))?;
    let otherwise = verdict(&profile.default_action, profile.default_errno_ret).map_err(invalid)?;
    let mut filter = vec![load_field(offset_of_arch())];
    for abi in ABIS {
        let cases = cases(&profile, abi, capabilities).map_err(invalid)?;
        let body = search(&runs(&cases, otherwise)).map_err(invalid)?;
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        filter.extend([jump(BPF_JEQ, abi.audit, 1, 0), stmt(BPF_JMP | BPF_JA, length + 1), load_field(0)]);
        filter.extend(body);
    }
    filter.push(ret(SECCOMP_RET_KILL_PROCESS));
    if filter.len() > LONGEST {
        return Err(invalid(format!(
            "it is {} instructions long, and the kernel takes {LONGEST}",
            filter.len()
        )));
    }
    Ok(filter)
}

fn verdict(action: &str, errno: Option<u32>) -> Result<u32, String> {
    let errno = errno.unwrap_or(EPERM.cast_unsigned()) & 0xffff;
    Ok(match action {
        "SCMP_ACT_ALLOW" => SECCOMP_RET_ALLOW,
        "SCMP_ACT_ERRNO" => SECCOMP_RET_ERRNO | errno,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => SECCOMP_RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => SECCOMP_RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => SECCOMP_RET_TRAP,
        "SCMP_ACT_TRACE" => SECCOMP_RET_TRACE | errno,
        "SCMP_ACT_LOG" => SECCOMP_RET_LOG,
        other => return Err(format!("there is no action `{other}`")),
    })
}

/// What is decided about each number, first things first. A name that this machine has not is left out.
fn cases(profile: &Profile, abi: &Abi, capabilities: &[String]) -> Result<BTreeMap<u32, Vec<Case>>, String> {
    let mut all: BTreeMap<u32, Vec<Case>> = BTreeMap::new();
    for rule in &profile.syscalls {
        if !applies(rule, capabilities) {
            continue;
        }
        let verdict = verdict(&rule.action, rule.errno_ret)?;
        let comparisons = rule.args.clone().unwrap_or_default();
        if let Some(bad) = comparisons.iter().find(|comparison| comparison.index > 5) {
            return Err(format!("a system call has no argument {}", bad.index));
        }
        for name in rule.names.iter().chain(&rule.name) {
            if let Some(number) = (abi.number)(name) {
                all.entry(number).or_default().push(Case { comparisons: comparisons.clone(), verdict });
            }
        }
    }
    Ok(all)
}

fn applies(rule: &Rule, capabilities: &[String]) -> bool {
    let has = |name: &String| capabilities.contains(name);
    let here = |arch: &String| arch == ARCHITECTURE;
    let included = rule.includes.as_ref().is_none_or(|only| {
        (only.caps.is_empty() || only.caps.iter().all(has))
            && (only.arches.is_empty() || only.arches.iter().any(here))
            && only.min_kernel.as_ref().is_none_or(|wanted| kernel() >= version(wanted))
    });
    let excluded = rule.excludes.as_ref().is_some_and(|not| {
        not.caps.iter().any(has)
            || not.arches.iter().any(here)
            || not.min_kernel.as_ref().is_some_and(|wanted| kernel() >= version(wanted))
    });
    included && !excluded
}

/// As profiles name it.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

fn kernel() -> (u32, u32) {
    version(&rustix::system::uname().release().to_string_lossy())
}

fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Runs of numbers about which the same is decided, covering all of them: (first number, cases). The last
/// case of each has no comparisons.
fn runs(cases: &BTreeMap<u32, Vec<Case>>, otherwise: u32) -> Vec<(u32, Vec<Case>)> {
    let rest = vec![Case { comparisons: Vec::new(), verdict: otherwise }];
    let mut runs: Vec<(u32, Vec<Case>)> = vec![(0, rest.clone())];
    let mut add = |number: u32, decided: Vec<Case>| match runs.last_mut() {
        Some((first, last)) if *first == number => *last = decided,
        Some((_, last)) if *last == decided => {}
        _ => runs.push((number, decided)),
    };
    let mut next = 0;
    for (number, decided) in cases {
        if *number > next {
            add(next, rest.clone());
        }
        let end = decided.iter().position(|case| case.comparisons.is_empty());
        let mut decided = decided[..end.map_or(decided.len(), |end| end + 1)].to_vec();
        if end.is_none() {
            decided.extend(rest.clone());
        }
        add(*number, decided);
        next = number + 1;
    }
    add(next, rest);
    runs
}

/// A binary search over the runs, the number of the call being loaded.
fn search(runs: &[(u32, Vec<Case>)]) -> Result<Vec<sock_filter>, String> {
    let [(_, cases)] = runs else {
        let (below, above) = runs.split_at(runs.len() / 2);
        let (left, right) = (search(below)?, search(above)?);
        let length = u32::try_from(left.len()).unwrap_or(u32::MAX);
        let mut code = vec![jump(BPF_JGE, above[0].0, 0, 1), stmt(BPF_JMP | BPF_JA, length)];
        code.extend(left);
        code.extend(right);
        return Ok(code);
    };
    let mut code = Vec::new();
    for case in cases {
        code.extend(decide(case)?);
    }
    Ok(code)
}

/// Code that ends with the verdict when all comparisons hold, and else goes on behind it.
fn decide(case: &Case) -> Result<Vec<sock_filter>, String> {
    let mut code = vec![ret(case.verdict)];
    // From the end: each comparison is told how far it is to the way out.
    for comparison in case.comparisons.iter().rev() {
        let mut with = compare(comparison, code.len())?;
        with.extend(code);
        code = with;
    }
    Ok(code)
}

/// Code that falls through when the comparison holds, and else jumps over the `rest` behind it. Arguments
/// are 64 bits wide and looked at in halves.
fn compare(comparison: &Comparison, rest: usize) -> Result<Vec<sock_filter>, String> {
    let Comparison { index, value, value_two, op } = comparison;
    // Little-endian machines only, as the machines of `ABIS` are.
    let (low, high) = (16 + 8 * index, 20 + 8 * index);
    #[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
    let halves = |value: u64| (value as u32, (value >> 32) as u32);
    let (value_low, value_high) = halves(*value);
    // A plain jump reaches anywhere, a conditional one 255 instructions.
    let away = stmt(BPF_JMP | BPF_JA, u32::try_from(rest).unwrap_or(u32::MAX));
    let and = |mask: u32| stmt(BPF_ALU | BPF_AND | BPF_K, mask);
    let load = |offset: u32| stmt(BPF_LD | BPF_W | BPF_ABS, offset);
    // `test` of the low half, after the high halves have decided otherwise.
    let ordered = |above_holds: bool, test: u32, holds_if: bool| {
        let (yes, no) = if holds_if { (1, 0) } else { (0, 1) };
        let decided = if above_holds { (4, 0) } else { (3, 0) };
        vec![
            load(high),
            jump(BPF_JGT, value_high, decided.0, decided.1),
            jump(BPF_JEQ, value_high, 0, if above_holds { 2 } else { 3 }),
            load(low),
            jump(test, value_low, yes, no),
            away,
        ]
    };
    Ok(match op.as_str() {
        "SCMP_CMP_EQ" => {
            vec![load(low), jump(BPF_JEQ, value_low, 0, 2), load(high), jump(BPF_JEQ, value_high, 1, 0), away]
        }
        "SCMP_CMP_NE" => {
            vec![load(low), jump(BPF_JEQ, value_low, 0, 3), load(high), jump(BPF_JEQ, value_high, 0, 1), away]
        }
        "SCMP_CMP_MASKED_EQ" => {
            let (two_low, two_high) = halves(*value_two);
            vec![
                load(low),
                and(value_low),
                jump(BPF_JEQ, two_low, 0, 3),
                load(high),
                and(value_high),
                jump(BPF_JEQ, two_high, 1, 0),
                away,
            ]
        }
        "SCMP_CMP_GT" => ordered(true, BPF_JGT, true),
        "SCMP_CMP_GE" => ordered(true, BPF_JGE, true),
        "SCMP_CMP_LE" => ordered(false, BPF_JGT, false),
        "SCMP_CMP_LT" => ordered(false, BPF_JGE, false),
        other => return Err(format!("there is no comparison `{other}`")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::seccomp::tests::run;

    /// What becomes of a call with this first argument.
    fn verdict_of(profile: &str, capabilities: &[&str], name: &str, argument: u64) -> u32 {
        let capabilities: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
        let filter = compile(profile, &capabilities).unwrap();
        run(&filter, ABIS[0].audit, (ABIS[0].number)(name).unwrap(), argument)
    }

    const REFUSED: u32 = SECCOMP_RET_ERRNO | EPERM as u32;

    #[test]
    fn names_conditions_and_defaults() {
        let profile = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [
                {"names": ["read", "write", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
                {"name": "mkdir", "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
                {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
                {"names": ["acct"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}}]}"#;
        let of = |name| verdict_of(profile, &[], name, 0);
        assert_eq!(
            (of("read"), of("write"), of("ptrace")),
            (SECCOMP_RET_ALLOW, SECCOMP_RET_ALLOW, SECCOMP_RET_ALLOW)
        );
        assert_eq!(of("mkdir"), SECCOMP_RET_ERRNO | 13);
        assert_eq!(
            (of("open"), of("bpf"), of("acct")),
            (SECCOMP_RET_ERRNO | 38, SECCOMP_RET_ERRNO | 38, SECCOMP_RET_ERRNO | 38)
        );
        assert_eq!(of("mount"), REFUSED);
        assert_eq!(verdict_of(profile, &["CAP_SYS_ADMIN"], "mount", 0), SECCOMP_RET_ALLOW);
    }

    #[test]
    fn arguments_are_compared_in_all_their_bits() {
        let big = 1_u64 << 32 | 5;
        let with = |op: &str, value: u64, two: u64| {
            format!(
                r#"{{"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [{{"names": ["personality"],
                "action": "SCMP_ACT_ALLOW", "args": [{{"index": 0, "value": {value}, "valueTwo": {two}, "op": "{op}"}}]}}]}}"#
            )
        };
        let table: [(&str, fn(u64, u64) -> bool); 6] = [
            ("SCMP_CMP_EQ", |a, b| a == b),
            ("SCMP_CMP_NE", |a, b| a != b),
            ("SCMP_CMP_LT", |a, b| a < b),
            ("SCMP_CMP_LE", |a, b| a <= b),
            ("SCMP_CMP_GT", |a, b| a > b),
            ("SCMP_CMP_GE", |a, b| a >= b),
        ];
        let arguments = [0, 4, 5, 6, big - 1, big, big + 1, 2 << 32, 2 << 32 | 5, u64::MAX];
        for (op, holds) in table {
            for value in [5, big] {
                for argument in arguments {
                    let allowed =
                        verdict_of(&with(op, value, 0), &[], "personality", argument) == SECCOMP_RET_ALLOW;
                    assert_eq!(allowed, holds(argument, value), "{argument} {op} {value}");
                }
            }
        }
        let masked = with("SCMP_CMP_MASKED_EQ", 0x1_0000_00f0, 0x1_0000_0010);
        for (argument, allowed) in
            [(0x1_0000_0010, true), (0x1_0000_ff1f, true), (0x10, false), (0x1_0000_0020, false)]
        {
            assert_eq!(
                verdict_of(&masked, &[], "personality", argument) == SECCOMP_RET_ALLOW,
                allowed,
                "{argument:x}"
            );
        }
    }

    #[test]
    fn several_rules_for_one_call_are_tried_in_their_order() {
        let profile = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]},
            {"names": ["kexec_load"], "action": "SCMP_ACT_LOG"}]}"#;
        let of = |argument| verdict_of(profile, &[], "socket", argument);
        assert_eq!((of(1), of(2), of(40)), (SECCOMP_RET_ALLOW, SECCOMP_RET_ALLOW, REFUSED));
        assert_eq!(verdict_of(profile, &[], "kexec_load", 0), SECCOMP_RET_LOG);
    }

    #[test]
    fn what_is_no_profile_says_why() {
        for (text, why) in [
            ("{", "EOF"),
            (r#"{"defaultAction": "ALLOW"}"#, "`ALLOW`"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "X"}]}"#,
                "`X`",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG",
                "args": [{"index": 9, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#,
                "argument 9",
            ),
        ] {
            let error = compile(text, &[]).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
