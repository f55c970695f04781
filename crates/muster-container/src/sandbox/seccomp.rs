//! The system calls a job may make.
//!
//! Two filters, of which the kernel takes the stricter answer. The first is a list of what ordinary programs use; any
//! other call, including those that future kernels add, answers `ENOSYS`, so that programs take the fallback they have for
//! older kernels. The second names what must never succeed, with the `EPERM` that programs expect there: mounts, tracing,
//! namespaces, kernel modules and keys, foreign memory, raw sockets, old clocks and consoles. `clone3` hides its flags in
//! memory where a filter cannot look, so it answers `ENOSYS` and the C library falls back to `clone`, whose flags are
//! checked.
//!
//! The list of ordinary calls follows the one container engines ship, less everything that needs a privilege no job has.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Namespace flags of `clone`: mount, cgroup, UTS, IPC, user, process, network.
const CLONE_NEW: [u64; 7] = [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
/// Bits of a socket's type that name the type, the others being flags.
const SOCKET_TYPE_MASK: u64 = 0xf;
/// The obsolete type that once meant raw frames.
const SOCK_PACKET: u64 = 10;
/// Personalities a program may ask for: Linux, 32-bit addresses, no randomised addresses, and the question itself.
const PERSONALITIES: [u64; 4] = [0, 0x0800_0000, 0x0004_0000, 0xffff_ffff];
/// Terminal requests that put words into another program's mouth: TIOCSTI, TIOCLINUX.
const TERMINAL_FORGERY: [u64; 2] = [0x5412, 0x541c];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The filters, in the order in which they are installed.
///
/// # Errors
///
/// When this machine's architecture is unknown to the filter's compiler.
pub(super) fn programs() -> Result<[BpfProgram; 2], BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    let errno = |code: i32| SeccompAction::Errno(code.unsigned_abs());
    let known: Rules = ORDINARY.iter().chain(MACHINE).chain(FORBIDDEN).map(|call| (*call, Vec::new())).collect();
    let known = SeccompFilter::new(known, errno(libc::ENOSYS), SeccompAction::Allow, arch)?;
    let forbidden = SeccompFilter::new(forbidden()?, SeccompAction::Allow, errno(libc::EPERM), arch)?;
    Ok([known.try_into()?, forbidden.try_into()?])
}

fn forbidden() -> Result<Rules, BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let mut rules: Rules = FORBIDDEN.iter().map(|call| (*call, Vec::new())).collect();
    let namespaces = CLONE_NEW.iter().map(|flag| all([arg(0, MaskedEq(*flag), *flag)])).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_clone, namespaces);
    let family = |family: i32| u64::from(family.unsigned_abs());
    let known = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].map(|f| arg(0, Ne, family(f)));
    let raw = arg(1, MaskedEq(SOCKET_TYPE_MASK), family(libc::SOCK_RAW));
    let packet = arg(1, MaskedEq(SOCKET_TYPE_MASK), SOCK_PACKET);
    let sockets = vec![
        all(known)?,
        // Asking the kernel about one's own interfaces goes through raw netlink sockets of protocol 0, nothing else does.
        all([raw, arg(0, Ne, family(libc::AF_NETLINK))])?,
        all([arg(0, Eq, family(libc::AF_NETLINK)), arg(2, Ne, 0)])?,
        all([packet])?,
    ];
    rules.insert(libc::SYS_socket, sockets);
    rules.insert(libc::SYS_personality, vec![all(PERSONALITIES.map(|allowed| arg(0, Ne, allowed)))?]);
    let forgery = TERMINAL_FORGERY.iter().map(|request| all([arg(1, Eq, *request)])).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, forgery);
    Ok(rules)
}

fn arg(index: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value)
}

fn all<const N: usize>(conditions: [Result<SeccompCondition, BackendError>; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

/// Never, whatever the arguments.
const FORBIDDEN: &[c_long] = calls![
    SYS_acct SYS_add_key SYS_bpf SYS_chroot SYS_clock_adjtime SYS_clock_settime SYS_delete_module SYS_fanotify_init
    SYS_fanotify_mark SYS_finit_module SYS_fsconfig SYS_fsmount SYS_fsopen SYS_fspick SYS_init_module SYS_io_uring_enter
    SYS_io_uring_register SYS_io_uring_setup SYS_kcmp SYS_kexec_file_load SYS_kexec_load SYS_keyctl SYS_lookup_dcookie
    SYS_mount SYS_mount_setattr SYS_move_mount SYS_move_pages SYS_migrate_pages SYS_name_to_handle_at SYS_nfsservctl
    SYS_open_by_handle_at SYS_open_tree SYS_perf_event_open SYS_pidfd_getfd SYS_pivot_root SYS_process_madvise
    SYS_process_vm_readv SYS_process_vm_writev SYS_ptrace SYS_quotactl SYS_quotactl_fd SYS_reboot SYS_request_key
    SYS_setdomainname SYS_sethostname SYS_setns SYS_settimeofday SYS_swapoff SYS_swapon SYS_syslog SYS_umount2
    SYS_unshare SYS_userfaultfd SYS_vhangup
];

/// What programs use, on every architecture.
const ORDINARY: &[c_long] = calls![
    SYS_accept SYS_accept4 SYS_adjtimex SYS_bind SYS_brk SYS_capget SYS_capset SYS_chdir SYS_clock_getres
    SYS_clock_gettime SYS_clock_nanosleep SYS_clone SYS_close SYS_close_range SYS_connect SYS_copy_file_range SYS_dup
    SYS_dup3 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_execve SYS_execveat
    SYS_exit SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fadvise64 SYS_fallocate SYS_fchdir SYS_fchmod SYS_fchmodat
    SYS_fchown SYS_fchownat SYS_fcntl SYS_fdatasync SYS_fgetxattr SYS_flistxattr SYS_flock SYS_fremovexattr
    SYS_fsetxattr SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex SYS_futex_waitv SYS_get_mempolicy
    SYS_get_robust_list SYS_getcpu SYS_getcwd SYS_getdents64 SYS_getegid SYS_geteuid SYS_getgid SYS_getgroups
    SYS_getitimer SYS_getpeername SYS_getpgid SYS_getpid SYS_getppid SYS_getpriority SYS_getrandom SYS_getresgid
    SYS_getresuid SYS_getrlimit SYS_getrusage SYS_getsid SYS_getsockname SYS_getsockopt SYS_gettid SYS_gettimeofday
    SYS_getuid SYS_getxattr SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch SYS_io_cancel SYS_io_destroy
    SYS_io_getevents SYS_io_setup SYS_io_submit SYS_ioctl SYS_ioprio_get SYS_ioprio_set SYS_kill
    SYS_landlock_add_rule SYS_landlock_create_ruleset SYS_landlock_restrict_self SYS_lgetxattr SYS_linkat SYS_listen
    SYS_listxattr SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr SYS_madvise SYS_mbind SYS_membarrier
    SYS_memfd_create SYS_mincore SYS_mkdirat SYS_mknodat SYS_mlock SYS_mlock2 SYS_mlockall SYS_mmap SYS_mprotect
    SYS_mq_getsetattr SYS_mq_notify SYS_mq_open SYS_mq_timedreceive SYS_mq_timedsend SYS_mq_unlink SYS_mremap SYS_msgctl
    SYS_msgget SYS_msgrcv SYS_msgsnd SYS_msync SYS_munlock SYS_munlockall SYS_munmap SYS_nanosleep SYS_openat
    SYS_openat2 SYS_personality SYS_pidfd_open SYS_pidfd_send_signal SYS_pipe2 SYS_pkey_alloc SYS_pkey_free
    SYS_pkey_mprotect SYS_ppoll SYS_prctl SYS_pread64 SYS_preadv SYS_preadv2 SYS_prlimit64 SYS_pselect6 SYS_pwrite64
    SYS_pwritev SYS_pwritev2 SYS_read SYS_readahead SYS_readlinkat SYS_readv SYS_recvfrom SYS_recvmmsg SYS_recvmsg
    SYS_remap_file_pages SYS_removexattr SYS_renameat SYS_renameat2 SYS_restart_syscall SYS_rseq SYS_rt_sigaction
    SYS_rt_sigpending SYS_rt_sigprocmask SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait
    SYS_rt_tgsigqueueinfo SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_getaffinity
    SYS_sched_getattr SYS_sched_getparam SYS_sched_getscheduler SYS_sched_rr_get_interval SYS_sched_setaffinity
    SYS_sched_setattr SYS_sched_setparam SYS_sched_setscheduler SYS_sched_yield SYS_seccomp SYS_semctl SYS_semget
    SYS_semop SYS_semtimedop SYS_sendfile SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_set_mempolicy SYS_set_robust_list
    SYS_set_tid_address SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups SYS_setitimer SYS_setpgid SYS_setpriority
    SYS_setregid SYS_setresgid SYS_setresuid SYS_setreuid SYS_setrlimit SYS_setsid SYS_setsockopt SYS_setuid
    SYS_setxattr SYS_shmat SYS_shmctl SYS_shmdt SYS_shmget SYS_shutdown SYS_sigaltstack SYS_signalfd4 SYS_socket
    SYS_socketpair SYS_splice SYS_statfs SYS_statx SYS_symlinkat SYS_sync SYS_sync_file_range SYS_syncfs SYS_sysinfo
    SYS_tee SYS_tgkill SYS_timer_create SYS_timer_delete SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime
    SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime SYS_times SYS_tkill SYS_truncate SYS_umask SYS_uname
    SYS_unlinkat SYS_utimensat SYS_vmsplice SYS_wait4 SYS_waitid SYS_write SYS_writev
];

/// What only this architecture still has.
#[cfg(target_arch = "x86_64")]
const MACHINE: &[c_long] = calls![
    SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create SYS_epoll_wait
    SYS_eventfd SYS_fork SYS_futimesat SYS_getdents SYS_getpgrp SYS_inotify_init SYS_lchown SYS_link SYS_lstat
    SYS_mkdir SYS_mknod SYS_newfstatat SYS_open SYS_pause SYS_pipe SYS_poll SYS_readlink SYS_rename SYS_rmdir
    SYS_select SYS_signalfd SYS_stat SYS_symlink SYS_time SYS_unlink SYS_utime SYS_utimes SYS_vfork
];

/// What only this architecture has.
#[cfg(not(target_arch = "x86_64"))]
const MACHINE: &[c_long] = calls![SYS_newfstatat];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_filters_fit_the_kernel_and_the_lists_do_not_overlap() {
        for program in programs().expect("this architecture is known") {
            assert!((1..4096).contains(&program.len()), "{}", program.len());
        }
        let ordinary: BTreeSet<_> = ORDINARY.iter().chain(MACHINE).collect();
        assert_eq!(ordinary.len(), ORDINARY.len() + MACHINE.len(), "a call is listed twice");
        assert!(FORBIDDEN.iter().all(|call| !ordinary.contains(call)));
        assert!(!ordinary.contains(&libc::SYS_clone3));
    }
}
