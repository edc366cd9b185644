//! Device rules of control groups of version 2, which has no files for them: a small BPF program that the
//! kernel asks whenever a process of the group opens or makes a device (`BPF_PROG_TYPE_CGROUP_DEVICE`,
//! bpf(2), linux/bpf.h). It goes away with the group.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use serde_json::Value;

use super::super::{Error, Result};

/// One rule of the OCI document. A later rule overrules an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub allow: bool,
    /// `None` is both kinds.
    pub block: Option<bool>,
    /// `None` is every number.
    pub major: Option<i32>,
    pub minor: Option<i32>,
    /// Bits of [`MKNOD`], [`READ`] and [`WRITE`].
    pub access: i32,
}

const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MKNOD | READ | WRITE;

/// What every container may use, as Docker has it: any node may be made, and the devices that the launcher
/// makes in each /dev may be used.
const DEFAULTS: [(Option<i32>, Option<i32>, i32); 10] = [
    (None, None, MKNOD),
    (Some(1), Some(3), ALL),
    (Some(1), Some(5), ALL),
    (Some(1), Some(7), ALL),
    (Some(1), Some(8), ALL),
    (Some(1), Some(9), ALL),
    (Some(5), Some(0), ALL),
    (Some(5), Some(1), ALL),
    (Some(5), Some(2), ALL),
    (Some(136), None, ALL),
];

/// The rules of a document's `linux.resources.devices`, behind its first (the default) those that every
/// container has. `None` when everything is allowed.
#[must_use]
pub fn rules(devices: &Value) -> Option<Vec<Rule>> {
    let mut own = devices.as_array().into_iter().flatten().filter_map(read);
    let first = own.next()?;
    if first.allow
        && first.block.is_none()
        && first.major.is_none()
        && first.minor.is_none()
        && first.access == ALL
    {
        return None;
    }
    let mut rules = vec![first];
    let default = |(major, minor, access)| Rule { allow: true, block: Some(false), major, minor, access };
    rules.extend(DEFAULTS.map(default));
    rules.push(Rule { allow: true, block: Some(true), major: None, minor: None, access: MKNOD });
    rules.extend(own);
    Some(rules)
}

fn read(rule: &Value) -> Option<Rule> {
    let number =
        |key: &str| rule[key].as_i64().and_then(|number| i32::try_from(number).ok()).filter(|n| *n >= 0);
    let access = rule["access"].as_str().unwrap_or("rwm");
    let bit = |letter, bit| if access.contains(letter) { bit } else { 0 };
    Some(Rule {
        allow: rule["allow"].as_bool()?,
        block: match rule["type"].as_str() {
            Some("b") => Some(true),
            Some("c" | "u") => Some(false),
            _ => None,
        },
        major: number("major"),
        minor: number("minor"),
        access: bit('m', MKNOD) | bit('r', READ) | bit('w', WRITE),
    })
}

/// An instruction as the kernel reads it: code, registers (destination in the low half), offset, operand.
type Instruction = (u8, u8, i16, i32);

const LOAD_WORD: u8 = 0x61;
const SET: u8 = 0xb7;
const COPY: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_IF_NOT: u8 = 0x55;
const JUMP_IF: u8 = 0x15;
const JUMP_IF_OTHER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// Asked with the context in r1 (`struct bpf_cgroup_dev_ctx`: kind and access in one word, major, minor);
/// answers 1 to allow. The last rule that fits decides, so it is looked at first.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut code = vec![
        (LOAD_WORD, 0x12, 0, 0),
        (AND, 2, 0, 0xffff),
        (LOAD_WORD, 0x13, 0, 0),
        (SHIFT_RIGHT, 3, 0, 16),
        (LOAD_WORD, 0x14, 4, 0),
        (LOAD_WORD, 0x15, 8, 0),
    ];
    for rule in rules.iter().rev() {
        code.extend(one(*rule));
    }
    code.extend([(SET, 0, 0, 0), (EXIT, 0, 0, 0)]);
    code
}

/// r2 is the kind (1 block, 2 character), r3 the access, r4 and r5 the numbers.
fn one(rule: Rule) -> Vec<Instruction> {
    let mut conditions = Vec::new();
    if let Some(block) = rule.block {
        conditions.push((JUMP_IF_NOT, 2, if block { 1 } else { 2 }));
    }
    conditions.extend(rule.major.map(|major| (JUMP_IF_NOT, 4, major)));
    conditions.extend(rule.minor.map(|minor| (JUMP_IF_NOT, 5, minor)));
    let mut code: Vec<Instruction> =
        conditions.into_iter().map(|(jump, register, with)| (jump, register, 0, with)).collect();
    if rule.access != ALL {
        code.extend([(COPY, 0x31, 0, 0), (AND, 1, 0, rule.access)]);
        // All that is wanted must be allowed; any of it may be denied.
        code.push(if rule.allow { (JUMP_IF_OTHER, 0x31, 0, 0) } else { (JUMP_IF, 1, 0, 0) });
    }
    code.extend([(SET, 0, 0, i32::from(rule.allow)), (EXIT, 0, 0, 0)]);
    let end = code.len();
    for (at, (jump, _, over, _)) in code.iter_mut().enumerate() {
        if [JUMP_IF_NOT, JUMP_IF, JUMP_IF_OTHER].contains(jump) {
            *over = i16::try_from(end - at - 1).unwrap_or(i16::MAX);
        }
    }
    code
}

/// Puts the rules in force for the group at `directory` of the unified hierarchy. Takes the capabilities
/// to load programs, which root has and no user namespace gives.
pub fn restrict(directory: &Path, rules: &[Rule]) -> Result<()> {
    let failed = |source| Error::System {
        what: format!("cannot set the device rules of control group `{}`", directory.display()),
        source,
    };
    let group = File::open(directory).map_err(failed)?;
    let program = load(&program(rules)).map_err(failed)?;
    attach(&group, &program).map_err(failed)
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Programs of groups above stay in force.
const ALLOW_MULTI: u32 = 2;

fn load(code: &[Instruction]) -> io::Result<OwnedFd> {
    /// The head of `union bpf_attr` for this command.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        code: u64,
        license: u64,
    }
    let bytes: Vec<u8> = code.iter().flat_map(|&instruction| encode(instruction)).collect();
    let request = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: u32::try_from(code.len()).unwrap_or(u32::MAX),
        code: bytes.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
    };
    let fd = bpf(PROG_LOAD, &request)?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn encode((code, registers, offset, operand): Instruction) -> [u8; 8] {
    let ([o1, o2], [p1, p2, p3, p4]) = (offset.to_ne_bytes(), operand.to_ne_bytes());
    [code, registers_of_this_machine(registers), o1, o2, p1, p2, p3, p4]
}

/// Two bit fields of four: which half comes first is the machine's byte order.
fn registers_of_this_machine(registers: u8) -> u8 {
    // Written here as source, then destination, in hexadecimal.
    if cfg!(target_endian = "big") { registers.rotate_left(4) } else { registers }
}

fn attach(group: &File, program: &OwnedFd) -> io::Result<()> {
    #[repr(C)]
    struct Attach {
        target: i32,
        program: i32,
        kind: u32,
        flags: u32,
    }
    let (target, program) = (group.as_raw_fd(), program.as_raw_fd());
    bpf(PROG_ATTACH, &Attach { target, program, kind: ATTACH_CGROUP_DEVICE, flags: ALLOW_MULTI }).map(drop)
}

fn bpf<T>(command: libc::c_int, request: &T) -> io::Result<i32> {
    // SAFETY: the request lives through the call, is as long as is said, and what it points at outlives it.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(request), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap_or(-1)) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Runs a program on one question, as the kernel would.
    fn ask(rules: &[Rule], block: bool, major: i32, minor: i32, access: i32) -> bool {
        let code = program(rules);
        let context = [access << 16 | if block { 1 } else { 2 }, major, minor];
        let mut r = [0_i32; 6];
        let mut at = 0;
        loop {
            let (code, registers, offset, operand) = code[at];
            let (to, from) = (usize::from(registers & 15), usize::from(registers >> 4));
            let jump = usize::try_from(offset).unwrap();
            at += 1;
            match code {
                LOAD_WORD => r[to] = context[jump / 4],
                SET => r[to] = operand,
                COPY => r[to] = r[from],
                AND => r[to] &= operand,
                SHIFT_RIGHT => r[to] >>= operand,
                JUMP_IF_NOT if r[to] != operand => at += jump,
                JUMP_IF if r[to] == operand => at += jump,
                JUMP_IF_OTHER if r[to] != r[from] => at += jump,
                JUMP_IF_NOT | JUMP_IF | JUMP_IF_OTHER => {}
                EXIT => return r[0] == 1,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn a_container_may_use_the_harmless_devices_and_what_it_was_given() {
        let fuse = json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"});
        let rules = rules(&json!([{"allow": false, "access": "rwm"}, fuse])).unwrap();
        assert!(ask(&rules, false, 1, 3, READ | WRITE), "/dev/null");
        assert!(ask(&rules, false, 136, 7, WRITE), "a terminal");
        assert!(ask(&rules, false, 10, 229, READ | WRITE), "the one that was asked for");
        assert!(ask(&rules, true, 8, 0, MKNOD), "any node may be made");
        assert!(!ask(&rules, true, 8, 0, READ), "and not be read");
        assert!(!ask(&rules, false, 10, 200, READ), "/dev/net/tun");
        assert!(!ask(&rules, false, 10, 229, READ | MKNOD | 8), "more than was given");
    }

    #[test]
    fn a_later_rule_overrules_an_earlier_one() {
        let deny = json!({"allow": false, "type": "c", "major": 1, "minor": 3, "access": "w"});
        let rules = rules(&json!([{"allow": false, "access": "rwm"}, deny])).unwrap();
        assert!(!ask(&rules, false, 1, 3, READ | WRITE), "part of it is denied");
        assert!(ask(&rules, false, 1, 3, READ));
    }

    #[test]
    fn who_is_privileged_needs_no_program() {
        assert_eq!(rules(&json!([{"allow": true, "access": "rwm"}])), None);
    }
}
