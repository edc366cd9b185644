//! Docker's default system call filter, made into BPF for the capabilities a container has.
//!
//! The list is that of moby's default profile (profiles/seccomp, 28.x): what is not named fails
//! with EPERM, what the newest name here is older than fails with ENOSYS so that C libraries fall
//! back. Compiling it through libseccomp costs 10 ms a container (three ABIs); this takes a
//! fraction of one, and needs no C library. [`Profile`] reads those of users.

mod bpf;
mod profile;

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, PoisonError},
};

use libc::{ENOSYS, EPERM, SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS, sock_filter, sock_fprog};

use bpf::{ABIS, Abi, Is, Rule, Table, Test, Verdict, assemble, errno};
pub use profile::Profile;

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

/// The ways of calling the kernel that filters look into, as profiles name them.
#[must_use]
pub fn architectures() -> Vec<&'static str> {
    ABIS.iter().map(|abi| abi.name).collect()
}

/// The default filter for a process that may have `capabilities` (`CAP_CHOWN`, ...). That of the last ones is
/// kept: most containers have the same, and who is forked for a start inherits it.
#[must_use]
pub fn default_filter(capabilities: &[String]) -> Vec<sock_filter> {
    static LAST: Mutex<Option<(Vec<String>, Vec<sock_filter>)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match &*last {
        Some((of, filter)) if of == capabilities => filter.clone(),
        _ => {
            let has = |name: &str| capabilities.iter().any(|capability| capability == name);
            let tables: Vec<_> = ABIS.iter().map(|abi| (abi, default_table(abi, &has))).collect();
            let filter = assemble(&tables, SECCOMP_RET_KILL_PROCESS);
            *last = Some((capabilities.to_vec(), filter.clone()));
            filter
        }
    }
}

fn default_table(abi: &Abi, has: &dyn Fn(&str) -> bool) -> Table {
    let mut calls = BTreeMap::new();
    let mut set = |names: &str, verdict: Verdict| {
        for name in names.split_ascii_whitespace() {
            if let Some(number) = (abi.number)(name) {
                calls.insert(number, verdict.clone());
            }
        }
    };
    let allow = Verdict::Always(SECCOMP_RET_ALLOW);
    // All that the calls looked into take is 32 bits wide.
    let allow_if = |tests: &[Is]| {
        let rule = |is: &Is| Rule { tests: vec![Test { argument: 0, is: *is }], then: SECCOMP_RET_ALLOW };
        Verdict::Depends(tests.iter().map(rule).collect(), errno(EPERM))
    };
    set(ALWAYS, allow.clone());
    set("socket", allow_if(&[Is::LowNot(AF_VSOCK)]));
    set("personality", allow_if(&PERSONALITIES.map(Is::LowEqual)));
    set("clone", allow_if(&[Is::LowWithout(CLONE_NEW)]));
    set("clone3", Verdict::Always(errno(ENOSYS)));
    for (capability, names) in WITH_CAPABILITY {
        if has(capability) {
            set(names, allow.clone());
        }
    }
    Table { calls, default: errno(EPERM), newer_is_unknown: true }
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
    use libc::SECCOMP_RET_ERRNO;

    use super::{bpf::tests::verdict, *};

    fn of(capabilities: &[&str]) -> impl Fn(&str, u32) -> u32 {
        let filter = default_filter(&capabilities.iter().map(ToString::to_string).collect::<Vec<_>>());
        move |name, argument| {
            let abi = &ABIS[0];
            verdict(&filter, abi.audit, (abi.number)(name).unwrap(), &[u64::from(argument)])
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
            assert_eq!(verdict(&filter, abi.audit, 9999, &[]), UNKNOWN);
            assert_eq!(verdict(&filter, abi.audit, u32::MAX, &[]), UNKNOWN);
        }
        assert_eq!(verdict(&filter, 0x1234, 0, &[]), SECCOMP_RET_KILL_PROCESS, "a foreign ABI");
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
            assert_eq!(verdict(&filter, abi.audit, number, &[]), want, "{number}");
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
