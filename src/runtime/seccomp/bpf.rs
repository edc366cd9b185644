//! What shall happen to each system call, made into a BPF program (seccomp(2), linux/filter.h).

use std::{collections::BTreeMap, str::FromStr};

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET,
    BPF_W, ENOSYS, SECCOMP_RET_ERRNO, sock_filter,
};

/// One way of calling the kernel of this machine.
#[derive(Debug)]
pub struct Abi {
    /// As profiles name it: `SCMP_ARCH_X86_64`.
    pub name: &'static str,
    /// AUDIT_ARCH_* of `seccomp_data.arch`.
    pub audit: u32,
    pub number: fn(&str) -> Option<u32>,
}

/// The machine's own first.
#[cfg(target_arch = "x86_64")]
pub const ABIS: &[Abi] = &[
    Abi {
        name: "SCMP_ARCH_X86_64",
        audit: 0xc000_003e,
        number: |name| number(syscalls::x86_64::Sysno::from_str(name).ok()?.id()),
    },
    Abi {
        name: "SCMP_ARCH_X86",
        audit: 0x4000_0003,
        number: |name| number(syscalls::x86::Sysno::from_str(name).ok()?.id()),
    },
];

#[cfg(target_arch = "aarch64")]
pub const ABIS: &[Abi] = &[
    Abi {
        name: "SCMP_ARCH_AARCH64",
        audit: 0xc000_00b7,
        number: |name| number(syscalls::aarch64::Sysno::from_str(name).ok()?.id()),
    },
    Abi {
        name: "SCMP_ARCH_ARM",
        audit: 0x4000_0028,
        number: |name| number(syscalls::arm::Sysno::from_str(name).ok()?.id()),
    },
];

/// Numbers from here on are those of x32 (or none at all): no name leads to them.
const FOREIGN: u32 = 0x4000_0000;

fn number(id: i32) -> Option<u32> {
    u32::try_from(id).ok()
}

/// What happens to a system call; numbers are SECCOMP_RET_* with their data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Always(u32),
    /// The first rule whose tests all hold decides, else the last number.
    Depends(Vec<Rule>, u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub tests: Vec<Test>,
    pub then: u32,
}

/// What one argument (0 to 5) must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    pub argument: u32,
    pub is: Is,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    Equal(u64),
    Not(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    /// Under the mask.
    Masked(u64, u64),
    /// Of the low half alone, for what the kernel takes as 32 bits.
    LowEqual(u32),
    LowNot(u32),
    /// No bit of these in the low half.
    LowWithout(u32),
}

/// The verdict of every call of one ABI.
#[derive(Debug)]
pub struct Table {
    pub calls: BTreeMap<u32, Verdict>,
    /// For those that are not in it.
    pub default: u32,
    /// Calls newer than the newest in the table look as if the kernel had none.
    pub newer_is_unknown: bool,
}

/// The program that gives each call of each ABI its verdict, and `foreign` to other ABIs.
pub fn assemble(tables: &[(&Abi, Table)], foreign: u32) -> Vec<sock_filter> {
    let mut filter = vec![load(ARCHITECTURE)];
    for (abi, table) in tables {
        let body = tree(&table.runs());
        filter.extend([jump(BPF_JEQ, abi.audit, 1, 0), go(body.len() + 1), load(NUMBER)]);
        filter.extend(body);
    }
    filter.push(give(foreign));
    filter
}

pub fn errno(code: i32) -> u32 {
    // The kernel takes 4095 at most.
    SECCOMP_RET_ERRNO | (code.cast_unsigned() & 0xfff)
}

impl Table {
    /// Runs that cover all numbers: (first number, verdict).
    fn runs(&self) -> Vec<(u32, Verdict)> {
        let newest = self.calls.last_key_value().map_or(0, |(number, _)| *number);
        let beyond = Verdict::Always(if self.newer_is_unknown { errno(ENOSYS) } else { self.default });
        let mut runs: Vec<(u32, Verdict)> = Vec::new();
        let mut add = |number: u32, verdict: Verdict| {
            if runs.last().is_none_or(|(_, last)| *last != verdict) {
                runs.push((number, verdict));
            }
        };
        for number in 0..=newest {
            add(number, self.calls.get(&number).cloned().unwrap_or(Verdict::Always(self.default)));
        }
        add(newest + 1, beyond);
        add(FOREIGN, Verdict::Always(errno(ENOSYS)));
        runs
    }
}

/// A binary search over the runs. Both ways are plain jumps: a conditional one reaches 255 at most.
fn tree(runs: &[(u32, Verdict)]) -> Vec<sock_filter> {
    let [(_, verdict)] = runs else {
        let (below, above) = runs.split_at(runs.len() / 2);
        let (left, right) = (tree(below), tree(above));
        let mut code = vec![jump(BPF_JGE, above[0].0, 0, 1), go(left.len())];
        code.extend(left);
        code.extend(right);
        return code;
    };
    match verdict {
        Verdict::Always(action) => vec![give(*action)],
        Verdict::Depends(rules, otherwise) => {
            rules.iter().flat_map(Rule::code).chain([give(*otherwise)]).collect()
        }
    }
}

impl Rule {
    /// Gives the rule's verdict, or goes on behind it.
    fn code(&self) -> Vec<sock_filter> {
        let mut block = Block::default();
        for test in &self.tests {
            test.add_to(&mut block);
        }
        block.end(self.then)
    }
}

/// Instructions where a test that fails leaves to the end.
#[derive(Default)]
struct Block {
    code: Vec<sock_filter>,
    /// Jumps that leave: which one, and on which outcome.
    leaving: Vec<(usize, bool)>,
}

impl Block {
    fn load(&mut self, offset: u32) {
        self.code.push(load(offset));
    }

    fn and(&mut self, mask: u32) {
        self.code.push(stmt(BPF_ALU | BPF_AND | BPF_K, mask));
    }

    /// Goes on when the test holds, else leaves.
    fn must(&mut self, test: u32, value: u32) {
        self.leaving.push((self.code.len(), false));
        self.code.push(jump(test, value, 0, 0));
    }

    /// Leaves when the test holds.
    fn must_not(&mut self, test: u32, value: u32) {
        self.leaving.push((self.code.len(), true));
        self.code.push(jump(test, value, 0, 0));
    }

    /// Leaps over the next `steps` when the outcome of the test is `outcome`.
    fn skip(&mut self, test: u32, value: u32, outcome: bool, steps: u8) {
        let (jt, jf) = if outcome { (steps, 0) } else { (0, steps) };
        self.code.push(jump(test, value, jt, jf));
    }

    fn end(mut self, action: u32) -> Vec<sock_filter> {
        self.code.push(give(action));
        for (at, outcome) in self.leaving {
            // Six tests of at most seven instructions.
            let distance = u8::try_from(self.code.len() - at - 1).unwrap_or(u8::MAX);
            let instruction = &mut self.code[at];
            *if outcome { &mut instruction.jt } else { &mut instruction.jf } = distance;
        }
        self.code
    }
}

impl Test {
    fn add_to(self, block: &mut Block) {
        let low = ARGUMENTS + 8 * self.argument;
        let high = low + 4;
        let halves = |value: u64| (half(value >> 32), half(value));
        match self.is {
            Is::Equal(value) => self.masked(u64::MAX, value, block),
            Is::Masked(mask, value) => self.masked(mask, value, block),
            Is::Not(value) => {
                let (above, below) = halves(value);
                block.load(high);
                block.skip(BPF_JEQ, above, false, 2);
                block.load(low);
                block.must_not(BPF_JEQ, below);
            }
            Is::Greater(value) | Is::GreaterOrEqual(value) => {
                let (above, below) = halves(value);
                block.load(high);
                block.skip(BPF_JGT, above, true, 3);
                block.must(BPF_JEQ, above);
                block.load(low);
                block.must(if matches!(self.is, Is::Greater(_)) { BPF_JGT } else { BPF_JGE }, below);
            }
            Is::Less(value) | Is::LessOrEqual(value) => {
                let (above, below) = halves(value);
                block.load(high);
                block.must_not(BPF_JGT, above);
                block.skip(BPF_JEQ, above, false, 2);
                block.load(low);
                block.must_not(if matches!(self.is, Is::Less(_)) { BPF_JGE } else { BPF_JGT }, below);
            }
            Is::LowEqual(value) => {
                block.load(low);
                block.must(BPF_JEQ, value);
            }
            Is::LowNot(value) => {
                block.load(low);
                block.must_not(BPF_JEQ, value);
            }
            Is::LowWithout(bits) => {
                block.load(low);
                block.must_not(BPF_JSET, bits);
            }
        }
    }

    fn masked(self, mask: u64, value: u64, block: &mut Block) {
        let low = ARGUMENTS + 8 * self.argument;
        for (offset, mask, value) in
            [(low + 4, half(mask >> 32), half(value >> 32)), (low, half(mask), half(value))]
        {
            block.load(offset);
            if mask != u32::MAX {
                block.and(mask);
            }
            block.must(BPF_JEQ, value);
        }
    }
}

/// The low 32 bits.
fn half(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or_default()
}

// Offsets in `struct seccomp_data`; both machines we know are little-endian.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// BPF opcodes are 16 bits wide, and libc has them wider.
fn stmt(code: u32, k: u32) -> sock_filter {
    sock_filter { code: u16::try_from(code).unwrap_or_default(), jt: 0, jf: 0, k }
}

fn jump(test: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { jt, jf, ..stmt(BPF_JMP | test | BPF_K, k) }
}

/// Leaps over as many instructions.
fn go(steps: usize) -> sock_filter {
    stmt(BPF_JMP | BPF_JA, u32::try_from(steps).unwrap_or(u32::MAX))
}

fn load(offset: u32) -> sock_filter {
    stmt(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn give(action: u32) -> sock_filter {
    stmt(BPF_RET | BPF_K, action)
}

#[cfg(test)]
pub mod tests {
    use libc::{SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS};

    use super::*;

    /// Runs the filter on (arch, number, arguments) as the kernel would.
    pub fn verdict(filter: &[sock_filter], arch: u32, number: u32, arguments: &[u64]) -> u32 {
        let field = |offset: u32| match offset {
            NUMBER => number,
            ARCHITECTURE => arch,
            _ => {
                let value = arguments.get((offset - ARGUMENTS) as usize / 8).copied().unwrap_or(0);
                half(if (offset - ARGUMENTS).is_multiple_of(8) { value } else { value >> 32 })
            }
        };
        let (mut at, mut a) = (0, 0);
        loop {
            let insn = filter[at];
            let code = u32::from(insn.code);
            at += 1;
            if code == BPF_LD | BPF_W | BPF_ABS {
                a = field(insn.k);
            } else if code == BPF_ALU | BPF_AND | BPF_K {
                a &= insn.k;
            } else if code == BPF_RET | BPF_K {
                return insn.k;
            } else if code == BPF_JMP | BPF_JA {
                at += insn.k as usize;
            } else {
                let holds = match code & !BPF_JMP {
                    BPF_JEQ => a == insn.k,
                    BPF_JGT => a > insn.k,
                    BPF_JGE => a >= insn.k,
                    BPF_JSET => a & insn.k != 0,
                    other => panic!("opcode {other}"),
                };
                at += usize::from(if holds { insn.jt } else { insn.jf });
            }
        }
    }

    #[test]
    fn each_comparison_is_of_all_64_bits() {
        const EDGES: [u64; 9] = [0, 1, 7, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, 0x7_0000_0007, !1, !0];
        for value in EDGES {
            for is in [
                Is::Equal(value),
                Is::Not(value),
                Is::Less(value),
                Is::LessOrEqual(value),
                Is::Greater(value),
                Is::GreaterOrEqual(value),
                Is::Masked(0xf_0000_000f, value & 0xf_0000_000f),
                Is::LowEqual(half(value)),
                Is::LowNot(half(value)),
                Is::LowWithout(half(value)),
            ] {
                let rule = Rule { tests: vec![Test { argument: 2, is }], then: 1 };
                let calls = [(3, Verdict::Depends(vec![rule], 2))].into();
                let table = Table { calls, default: 9, newer_is_unknown: false };
                let filter = assemble(&[(&ABIS[0], table)], 8);
                for argument in EDGES {
                    let holds = match is {
                        Is::Equal(value) => argument == value,
                        Is::Not(value) => argument != value,
                        Is::Less(value) => argument < value,
                        Is::LessOrEqual(value) => argument <= value,
                        Is::Greater(value) => argument > value,
                        Is::GreaterOrEqual(value) => argument >= value,
                        Is::Masked(mask, value) => argument & mask == value,
                        Is::LowEqual(value) => half(argument) == value,
                        Is::LowNot(value) => half(argument) != value,
                        Is::LowWithout(bits) => half(argument) & bits == 0,
                    };
                    let got = verdict(&filter, ABIS[0].audit, 3, &[5, 5, argument]);
                    assert_eq!(got, if holds { 1 } else { 2 }, "{argument:#x} {is:?}");
                }
            }
        }
    }

    #[test]
    fn the_first_rule_that_holds_decides() {
        let test = |is| Test { argument: 0, is };
        let rules = vec![
            Rule { tests: vec![test(Is::Equal(1)), Test { argument: 1, is: Is::Equal(1) }], then: 11 },
            Rule { tests: vec![test(Is::Equal(1))], then: 12 },
            Rule { tests: vec![test(Is::Less(9))], then: 13 },
        ];
        let table =
            Table { calls: [(0, Verdict::Depends(rules, 14))].into(), default: 9, newer_is_unknown: false };
        let filter = assemble(&[(&ABIS[0], table)], 8);
        for (arguments, want) in [([1, 1], 11), ([1, 2], 12), ([2, 1], 13), ([9, 1], 14)] {
            assert_eq!(verdict(&filter, ABIS[0].audit, 0, &arguments), want, "{arguments:?}");
        }
    }

    #[test]
    fn numbers_of_other_kinds_never_pass() {
        let table = Table {
            calls: [(5, Verdict::Always(SECCOMP_RET_ALLOW))].into(),
            default: SECCOMP_RET_ALLOW,
            newer_is_unknown: false,
        };
        let filter = assemble(&[(&ABIS[0], table)], SECCOMP_RET_KILL_PROCESS);
        assert_eq!(verdict(&filter, ABIS[0].audit, 7, &[]), SECCOMP_RET_ALLOW);
        for number in [FOREIGN, FOREIGN + 5, u32::MAX] {
            assert_eq!(verdict(&filter, ABIS[0].audit, number, &[]), errno(ENOSYS), "{number:#x}");
        }
        assert_eq!(verdict(&filter, 0x1234, 5, &[]), SECCOMP_RET_KILL_PROCESS);
    }
}
