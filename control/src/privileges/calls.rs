//! The system calls that an agent which runs makes, and the keepers that it starts.
//!
//! Others are answered as by a kernel that does not have them (ENOSYS), so that a C library which tries a newer call
//! first goes on with the older one.

use std::collections::BTreeMap;

use libc::c_long;
use rustix::io::Errno;
pub(super) use seccompiler::Error as FilterError;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

/// The flags of clone, unshare and setns that are about namespaces, but for CLONE_NEWTIME, which clone takes for part of a
/// signal's number (include/uapi/linux/sched.h).
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;
const NETWORK_NAMESPACE: u64 = libc::CLONE_NEWNET as u64;
/// BPF_PROG_LOAD (include/uapi/linux/bpf.h).
const LOAD: u64 = 5;
/// The sockets of a node's own network: no packet sockets, nor anything that a module would be loaded for.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Files, descriptors and what is waited for.
const FILES: [c_long; 49] = [
    libc::SYS_chdir,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_ioctl,
    libc::SYS_lseek,
    libc::SYS_memfd_create,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pselect6,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat2,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Sockets, once there are any.
const SOCKETS: [c_long; 18] = [
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendfile,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
];

/// The process itself, its threads, its memory and its one child.
const PROCESS: [c_long; 60] = [
    libc::SYS_brk,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_execve,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpriority,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_kill,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_setpriority,
    libc::SYS_setsid,
    libc::SYS_sigaltstack,
    libc::SYS_signalfd4,
    libc::SYS_sysinfo,
    libc::SYS_tgkill,
    libc::SYS_times,
    libc::SYS_uname,
    libc::SYS_wait4,
    libc::SYS_waitid,
];

/// What older processors have besides, under other names elsewhere.
#[cfg(target_arch = "x86_64")]
const OLD: [c_long; 25] = [
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_getpgrp,
    libc::SYS_getrlimit,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pause,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_setrlimit,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_eventfd,
    libc::SYS_signalfd,
    libc::SYS_unlink,
    libc::SYS_vfork,
];
#[cfg(target_arch = "aarch64")]
const OLD: [c_long; 1] = [libc::SYS_renameat];
#[cfg(target_arch = "riscv64")]
const OLD: [c_long; 0] = [];

/// Filters the system calls of this thread and of all that it starts from now on. Says whether there is a filter for this
/// processor.
pub(super) fn filter() -> Result<bool, FilterError> {
    apply_filter(&program()?)?;
    Ok(true)
}

fn program() -> Result<BpfProgram, FilterError> {
    let processor = TargetArch::try_from(std::env::consts::ARCH)?;
    let always = [FILES.as_slice(), &SOCKETS, &PROCESS, &OLD].concat();
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = always.into_iter().map(|call| (call, Vec::new())).collect();
    let without_namespaces = [when(0, SeccompCmpOp::MaskedEq(NAMESPACES), 0)?];
    rules.insert(libc::SYS_clone, without_namespaces.into());
    rules.insert(libc::SYS_setns, [when(1, SeccompCmpOp::Eq, NETWORK_NAMESPACE)?].into());
    rules.insert(libc::SYS_bpf, [when(0, SeccompCmpOp::Eq, LOAD)?].into());
    let families = FAMILIES.map(|family| when(0, SeccompCmpOp::Eq, family as u64));
    rules.insert(libc::SYS_socket, families.into_iter().collect::<Result<_, _>>()?);
    let others = SeccompAction::Errno(Errno::NOSYS.raw_os_error() as u32);
    let filter = SeccompFilter::new(rules, others, SeccompAction::Allow, processor)?;
    Ok(filter.try_into()?)
}

fn when(argument: u8, is: SeccompCmpOp, value: u64) -> Result<SeccompRule, FilterError> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, is, value);
    Ok(SeccompRule::new(vec![condition?])?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::Command;

    use rustix::mount::{UnmountFlags, unmount};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    use rustix::thread::{CapabilitySet, LinkNameSpaceType, capabilities, move_into_link_name_space};

    use super::*;
    use crate::privileges::{Confinement, PrivilegeError};

    /// Has the kernel refuse what takes a capability from the bounding set.
    fn refuse_bounding() {
        let rules = [(libc::SYS_prctl, vec![when(0, SeccompCmpOp::Eq, libc::PR_CAPBSET_DROP as u64).unwrap()])];
        let refused = SeccompAction::Errno(Errno::PERM.raw_os_error() as u32);
        let processor = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules.into(), SeccompAction::Allow, refused, processor).unwrap();
        let program: BpfProgram = filter.try_into().unwrap();
        apply_filter(&program).unwrap();
    }

    #[test]
    fn what_is_refused_keeps_nothing_else_from_being_given_up() {
        let inside = || {
            refuse_bounding();
            let may_bound = capabilities(None).unwrap().effective.contains(CapabilitySet::SETPCAP);
            let kept = CapabilitySet::NET_ADMIN;
            let given_up = Confinement { wanted: true, kept }.give_up();
            assert_eq!(matches!(given_up, Err(PrivilegeError::Kernel(Errno::PERM))), may_bound, "{given_up:?}");
            let left = capabilities(None).unwrap();
            assert!(kept.contains(left.effective.union(left.permitted)), "{left:?}");
            assert_eq!(unmount("/nowhere", UnmountFlags::empty()), Err(Errno::NOSYS));
        };
        std::thread::spawn(inside).join().unwrap();
    }

    #[test]
    fn what_is_not_on_the_list_is_not_there_and_programs_start_all_the_same() {
        let inside = || {
            assert!(filter().unwrap(), "no filter for this processor");
            let open = |family| socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None).map(drop);
            assert_eq!(open(AddressFamily::INET6), Ok(()));
            assert_eq!(open(AddressFamily::VSOCK), Err(Errno::NOSYS));
            assert_eq!(unmount("/nowhere", UnmountFlags::empty()), Err(Errno::NOSYS));
            let own = |kind| std::fs::File::open(format!("/proc/thread-self/ns/{kind}")).unwrap();
            let enter = |kind, flag| move_into_link_name_space(own(kind).as_fd(), Some(flag));
            assert_eq!(enter("mnt", LinkNameSpaceType::Mount), Err(Errno::NOSYS));
            // Without a privilege it is refused, and it is there.
            assert_ne!(enter("net", LinkNameSpaceType::Network), Err(Errno::NOSYS));
            assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
            assert!(Command::new("true").status().unwrap().success());
        };
        std::thread::spawn(inside).join().unwrap();
    }
}
