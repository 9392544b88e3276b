//! Kills a program at its n-th system call that may change something (ptrace(2)). It must never let a program go on that it
//! has lost sight of.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail, ensure};

/// System calls by which a plugin changes a kernel or a file.
const CHANGING: [libc::c_long; 14] = [
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_ioctl,
    libc::SYS_write,
    libc::SYS_openat,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rename,
    libc::SYS_ftruncate,
    libc::SYS_flock,
    libc::SYS_mkdir,
    libc::SYS_mknodat,
    libc::SYS_fchownat,
    libc::SYS_setns,
];

/// What became of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    Killed,
    /// It has fewer system calls than that: how it ended, and its standard output.
    Ended {
        status: i32,
        stdout: String,
    },
}

/// Runs `command` with `stdin`, and kills it when it is about to do its system call `number`, the first being 1.
///
/// All on this thread: only who has started a program may trace it.
#[expect(unsafe_code, reason = "a program asks to be traced between fork and exec")]
pub(crate) fn kill_at(mut command: Command, stdin: &[u8], number: usize) -> anyhow::Result<Fate> {
    let traced = || {
        // SAFETY: PTRACE_TRACEME takes no argument; the call is async-signal-safe.
        let outcome = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
        if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: pre_exec needs a closure that only makes async-signal-safe calls; it makes one system call.
    unsafe { command.pre_exec(traced) };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().context("start a traced program")?;
    // Less than a pipe holds: nobody needs to be reading.
    child.stdin.take().context("its standard input")?.write_all(stdin)?;
    let fate = follow(&mut child, number);
    if fate.is_err() {
        let _ = child.kill();
    }
    fate
}

fn follow(child: &mut Child, number: usize) -> anyhow::Result<Fate> {
    let pid = libc::pid_t::try_from(child.id()).context("its number")?;
    ensure!(libc::WIFSTOPPED(wait(pid)?), "it does not stop when executed");
    request(libc::PTRACE_SETOPTIONS, pid, libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL)?;
    let mut seen = 0;
    let mut signal = 0;
    loop {
        request(libc::PTRACE_SYSCALL, pid, signal)?;
        let status = wait(pid)?;
        if libc::WIFSIGNALED(status) {
            bail!("it was ended by signal {}", libc::WTERMSIG(status));
        }
        if libc::WIFEXITED(status) {
            let mut stdout = String::new();
            child.stdout.take().context("its standard output")?.read_to_string(&mut stdout)?;
            return Ok(Fate::Ended { status: libc::WEXITSTATUS(status), stdout });
        }
        let stop = libc::WSTOPSIG(status);
        if stop != libc::SIGTRAP | 0x80 {
            signal = stop;
            continue;
        }
        signal = 0;
        if entered(pid)?.is_some_and(|call| CHANGING.contains(&call)) {
            seen += 1;
            if seen == number {
                child.kill()?;
                ensure!(libc::WIFSIGNALED(wait(pid)?), "it survives");
                return Ok(Fate::Killed);
            }
        }
    }
}

/// The number of the system call that a stopped program is about to do; `None` if it comes from one.
#[expect(unsafe_code, reason = "rustix has no ptrace")]
fn entered(pid: libc::pid_t) -> anyhow::Result<Option<libc::c_long>> {
    // struct ptrace_syscall_info (include/uapi/linux/ptrace.h): op at 0, the call's number at 24.
    let mut info = [0_u64; 11];
    // SAFETY: the kernel writes at most as many bytes as the second argument says, which is the array's size.
    let filled =
        unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size_of_val(&info), info.as_mut_ptr()) };
    ensure!(filled > 0, "PTRACE_GET_SYSCALL_INFO: {}", std::io::Error::last_os_error());
    let [first, _, _, number, ..] = info;
    let [op, ..] = first.to_ne_bytes();
    Ok((op == libc::PTRACE_SYSCALL_INFO_ENTRY).then_some(number.cast_signed()))
}

#[expect(unsafe_code, reason = "rustix has no ptrace")]
fn request(what: libc::c_uint, pid: libc::pid_t, data: libc::c_int) -> anyhow::Result<()> {
    // SAFETY: the requests of this module take a number as data and no address.
    let outcome = unsafe { libc::ptrace(what, pid, 0, libc::c_long::from(data)) };
    ensure!(outcome == 0, "ptrace: {}", std::io::Error::last_os_error());
    Ok(())
}

#[expect(unsafe_code, reason = "stops of a traced program are told by waitpid")]
fn wait(pid: libc::pid_t) -> anyhow::Result<libc::c_int> {
    let mut status = 0;
    // SAFETY: the status is a local variable; the process is a child of ours that nobody else waits for.
    let found = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    ensure!(found == pid, "waitpid: {}", std::io::Error::last_os_error());
    Ok(status)
}
