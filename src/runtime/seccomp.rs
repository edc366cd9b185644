//! Docker's default system call filter, made into BPF for the capabilities a container has.
//!
//! The list is that of moby's default profile (profiles/seccomp, 28.x): what is not named fails
//! with EPERM, what the newest name here is older than fails with ENOSYS so that C libraries fall
//! back. Compiling it through libseccomp costs 10 ms a container (three ABIs); this takes a
//! fraction of one, and needs no C library. Filters of the user's own are in `profile`.

pub mod profile;

use std::{collections::BTreeMap, io, str::FromStr};

use libc::{
    BPF_ABS, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, ENOSYS, EPERM,
    SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS, sock_filter, sock_fprog,
};

/// Allowed for every container.
const ALWAYS: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old
    eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate
    fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr
    flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate
    ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat getcpu getcwd
    getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid
    getresuid32 getrlimit get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid
    gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64 ioprio_get
    ioprio_set io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self
    lchown lchown32 lgetxattr link linkat listen listxattr listxattrat llistxattr _llseek lremovexattr lseek
    lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat
    mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd
    msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause
    pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl
    pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read
    readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages
    removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
    rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max
    sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget
    semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32
    setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32
    setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt
    set_thread_area set_tid_address setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown
    sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs
    statfs64 statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
    timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64
    ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice
    wait4 waitid waitpid write writev process_vm_readv process_vm_writev ptrace
    arch_prctl modify_ldt arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls";

/// Allowed with a capability.
const WITH_CAPABILITY: &[(&str, &str)] = &[
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr
         move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount
         umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// Any CLONE_NEW* flag but CLONE_NEWTIME, which clone(2) cannot carry.
const CLONE_NEW: u32 = 0x7e02_0000;
const AF_VSOCK: u32 = 40;
/// PER_LINUX, PER_LINUX32, each with and without UNAME26, and the query.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// What happens to one system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Allow,
    Errno(i32),
    /// Allowed unless its first argument is this.
    UnlessArgument(u32),
    /// Allowed unless its first argument has one of these bits.
    UnlessBits(u32),
    /// Allowed if its first argument is one of the personalities.
    Personality,
}

struct Abi {
    /// AUDIT_ARCH_* of `seccomp_data.arch`.
    audit: u32,
    number: fn(&str) -> Option<u32>,
}

#[cfg(target_arch = "x86_64")]
const ABIS: &[Abi] = &[
    Abi { audit: 0xc000_003e, number: |name| number(syscalls::x86_64::Sysno::from_str(name).ok()?.id()) },
    Abi { audit: 0x4000_0003, number: |name| number(syscalls::x86::Sysno::from_str(name).ok()?.id()) },
];

#[cfg(target_arch = "aarch64")]
const ABIS: &[Abi] = &[
    Abi { audit: 0xc000_00b7, number: |name| number(syscalls::aarch64::Sysno::from_str(name).ok()?.id()) },
    Abi { audit: 0x4000_0028, number: |name| number(syscalls::arm::Sysno::from_str(name).ok()?.id()) },
];

fn number(id: i32) -> Option<u32> {
    u32::try_from(id).ok()
}

/// The default filter for a process that may have `capabilities` (`CAP_CHOWN`, ...).
#[must_use]
pub fn default_filter(capabilities: &[String]) -> Vec<sock_filter> {
    let has = |name: &str| capabilities.iter().any(|capability| capability == name);
    let mut filter = vec![load_field(offset_of_arch())];
    for abi in ABIS {
        let body = tree(&ranges(abi, &has));
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        filter.extend([jump(BPF_JEQ, abi.audit, 1, 0), stmt(BPF_JMP | BPF_JA, length + 1)]);
        filter.push(load_field(0));
        filter.extend(body);
    }
    filter.push(ret(SECCOMP_RET_KILL_PROCESS));
    filter
}

const fn offset_of_arch() -> u32 {
    4
}

/// The low half of the first argument: all that the calls looked into take is 32 bits wide.
const fn offset_of_first_argument() -> u32 {
    16
}

/// What happens to each number, as runs that cover all of them: (first number, action).
fn ranges(abi: &Abi, has: &dyn Fn(&str) -> bool) -> Vec<(u32, Action)> {
    let mut actions: BTreeMap<u32, Action> = BTreeMap::new();
    let mut set = |names: &str, action| {
        for name in names.split_ascii_whitespace() {
            if let Some(number) = (abi.number)(name) {
                actions.insert(number, action);
            }
        }
    };
    set(ALWAYS, Action::Allow);
    set("socket", Action::UnlessArgument(AF_VSOCK));
    set("personality", Action::Personality);
    set("clone", Action::UnlessBits(CLONE_NEW));
    set("clone3", Action::Errno(ENOSYS));
    for (capability, names) in WITH_CAPABILITY {
        if has(capability) {
            set(names, Action::Allow);
        }
    }
    let newest = actions.last_key_value().map_or(0, |(number, _)| *number);
    let mut runs: Vec<(u32, Action)> = Vec::new();
    for number in 0..=newest + 1 {
        let refused = Action::Errno(if number > newest { ENOSYS } else { EPERM });
        let action = actions.get(&number).copied().unwrap_or(refused);
        if runs.last().is_none_or(|(_, last)| *last != action) {
            runs.push((number, action));
        }
    }
    runs
}

/// A binary search over the runs. Both ways are plain jumps: a conditional one reaches 255 at most.
fn tree(runs: &[(u32, Action)]) -> Vec<sock_filter> {
    let [(_, action)] = runs else {
        let (below, above) = runs.split_at(runs.len() / 2);
        let (left, right) = (tree(below), tree(above));
        let length = u32::try_from(left.len()).unwrap_or(u32::MAX);
        let mut code = vec![jump(BPF_JGE, above[0].0, 0, 1), stmt(BPF_JMP | BPF_JA, length)];
        code.extend(left);
        code.extend(right);
        return code;
    };
    let allow = ret(SECCOMP_RET_ALLOW);
    let refuse = errno(EPERM);
    match *action {
        Action::Allow => vec![allow],
        Action::Errno(code) => vec![errno(code)],
        Action::UnlessArgument(value) => {
            vec![load_field(offset_of_first_argument()), jump(BPF_JEQ, value, 0, 1), refuse, allow]
        }
        Action::UnlessBits(bits) => {
            vec![load_field(offset_of_first_argument()), jump(BPF_JSET, bits, 0, 1), refuse, allow]
        }
        Action::Personality => {
            let mut code = vec![load_field(offset_of_first_argument())];
            for value in PERSONALITIES {
                code.extend([jump(BPF_JEQ, value, 0, 1), allow]);
            }
            code.push(refuse);
            code
        }
    }
}

/// BPF opcodes are 16 bits wide, and libc has them wider.
fn opcode(code: u32) -> u16 {
    u16::try_from(code).unwrap_or_default()
}

fn stmt(code: u32, k: u32) -> sock_filter {
    sock_filter { code: opcode(code), jt: 0, jf: 0, k }
}

fn jump(test: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: opcode(BPF_JMP | test | BPF_K), jt, jf, k }
}

fn load_field(offset: u32) -> sock_filter {
    stmt(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn ret(action: u32) -> sock_filter {
    stmt(BPF_RET | BPF_K, action)
}

fn errno(code: i32) -> sock_filter {
    ret(SECCOMP_RET_ERRNO | code.cast_unsigned())
}

/// Puts the calling thread under `filter`, for good. It must have CAP_SYS_ADMIN or
/// no_new_privs. Allocates nothing, so it may be called after a fork.
pub fn load(filter: &[sock_filter]) -> io::Result<()> {
    let Ok(len) = u16::try_from(filter.len()) else { return Err(io::ErrorKind::InvalidInput.into()) };
    let program = sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program during the call and never writes to it.
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(filter: &[sock_filter], arch: u32, number: u32, argument: u32) -> u32 {
        run(filter, arch, number, argument.into())
    }

    /// Runs the filter on (arch, number, first argument) as the kernel would.
    pub(super) fn run(filter: &[sock_filter], arch: u32, number: u32, argument: u64) -> u32 {
        let (mut at, mut a) = (0, 0);
        loop {
            let insn = filter[at];
            let code = u32::from(insn.code);
            at += 1;
            if code == BPF_LD | BPF_W | BPF_ABS {
                let (low, high) = (argument as u32, (argument >> 32) as u32);
                a = [number, arch, 0, 0, low, high][insn.k as usize / 4];
            } else if code == libc::BPF_ALU | libc::BPF_AND | BPF_K {
                a &= insn.k;
            } else if code == BPF_RET | BPF_K {
                return insn.k;
            } else if code == BPF_JMP | BPF_JA {
                at += insn.k as usize;
            } else {
                let holds = match code & !BPF_JMP {
                    BPF_JEQ => a == insn.k,
                    BPF_JGE => a >= insn.k,
                    libc::BPF_JGT => a > insn.k,
                    BPF_JSET => a & insn.k != 0,
                    other => panic!("opcode {other}"),
                };
                at += usize::from(if holds { insn.jt } else { insn.jf });
            }
        }
    }

    fn of(capabilities: &[&str]) -> impl Fn(&str, u32) -> u32 {
        let filter = default_filter(&capabilities.iter().map(ToString::to_string).collect::<Vec<_>>());
        move |name, argument| {
            let abi = &ABIS[0];
            verdict(&filter, abi.audit, (abi.number)(name).unwrap(), argument)
        }
    }

    const REFUSED: u32 = SECCOMP_RET_ERRNO | EPERM as u32;
    const UNKNOWN: u32 = SECCOMP_RET_ERRNO | ENOSYS as u32;

    #[test]
    fn ordinary_calls_pass_and_dangerous_ones_do_not() {
        let plain = of(&[]);
        for name in ["read", "write", "execve", "mmap", "futex", "openat", "exit_group", "ptrace"] {
            assert_eq!(plain(name, 0), SECCOMP_RET_ALLOW, "{name}");
        }
        for name in
            ["mount", "unshare", "bpf", "init_module", "reboot", "keyctl", "kexec_load", "userfaultfd"]
        {
            assert_eq!(plain(name, 0), REFUSED, "{name}");
        }
    }

    #[test]
    fn a_capability_opens_its_calls_and_no_others() {
        let admin = of(&["CAP_SYS_ADMIN"]);
        assert_eq!(admin("mount", 0), SECCOMP_RET_ALLOW);
        assert_eq!(admin("clone", CLONE_NEW), SECCOMP_RET_ALLOW);
        assert_eq!(admin("clone3", 0), SECCOMP_RET_ALLOW);
        assert_eq!(admin("reboot", 0), REFUSED);
        assert_eq!(of(&["CAP_SYS_BOOT"])("reboot", 0), SECCOMP_RET_ALLOW);
    }

    #[test]
    fn arguments_are_looked_at_where_the_profile_says_so() {
        let plain = of(&[]);
        assert_eq!(plain("clone", 0x0001_0f00), SECCOMP_RET_ALLOW, "threads");
        assert_eq!(plain("clone", 0x1000_0000), REFUSED, "CLONE_NEWUSER");
        assert_eq!(plain("clone3", 0), UNKNOWN, "so that the C library uses clone");
        assert_eq!(plain("socket", 2), SECCOMP_RET_ALLOW);
        assert_eq!(plain("socket", AF_VSOCK), REFUSED);
        assert_eq!(plain("personality", 0x2_0008), SECCOMP_RET_ALLOW);
        assert_eq!(plain("personality", 0x40_0000), REFUSED, "ADDR_NO_RANDOMIZE");
    }

    #[test]
    fn calls_newer_than_the_list_look_as_if_the_kernel_had_none() {
        let filter = default_filter(&[]);
        for abi in ABIS {
            assert_eq!(verdict(&filter, abi.audit, 9999, 0), UNKNOWN);
            assert_eq!(verdict(&filter, abi.audit, u32::MAX, 0), UNKNOWN);
        }
        assert_eq!(verdict(&filter, 0x1234, 0, 0), SECCOMP_RET_KILL_PROCESS, "a foreign ABI");
    }

    #[test]
    fn every_number_gets_the_verdict_of_its_name() {
        let capabilities: Vec<String> = vec!["CAP_SYS_CHROOT".into()];
        let filter = default_filter(&capabilities);
        let abi = &ABIS[1];
        let allowed: Vec<u32> =
            ALWAYS.split_ascii_whitespace().filter_map(|name| (abi.number)(name)).collect();
        for number in 0..=440 {
            let name = ["socket", "personality", "clone", "clone3", "chroot"].into_iter();
            if name.filter_map(|name| (abi.number)(name)).any(|special| special == number) {
                continue;
            }
            let want = if allowed.contains(&number) { SECCOMP_RET_ALLOW } else { REFUSED };
            assert_eq!(verdict(&filter, abi.audit, number, 0), want, "{number}");
        }
    }

    #[test]
    fn the_kernel_takes_the_filter_and_obeys_it() {
        let filter = default_filter(&[]);
        // SAFETY: the child makes only system calls and ends by _exit.
        let status = unsafe {
            let pid = libc::fork();
            if pid == 0 {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                if load(&filter).is_err() {
                    libc::_exit(2);
                }
                let refused = libc::unshare(libc::CLONE_NEWUTS) == -1 && *libc::__errno_location() == EPERM;
                libc::_exit(i32::from(!refused));
            }
            let mut status = 0;
            libc::waitpid(pid, &raw mut status, 0);
            status
        };
        assert_eq!(status, 0);
    }
}
