//! Makes this kernel look older to one thread.
#![expect(unsafe_code, reason = "seccomp has no safe wrapper")]

const SET_MODE_FILTER: libc::c_ulong = 1;
/// Offsets in `struct seccomp_data` of the call's number and the low halves of its 2nd and 3rd argument.
const NUMBER: u32 = 0;
const LEVEL: u32 = 16 + 8;
const OPTION: u32 = 16 + 2 * 8;

/// Refuses SO_PEEK_OFF to this thread and those it starts, as TCP did before Linux 6.9.
pub fn without_peek_offset() {
    let refuse = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EOPNOTSUPP).unwrap();
    let number = u32::try_from(libc::SYS_setsockopt).unwrap();
    let (level, option) = (libc::SOL_SOCKET.cast_unsigned(), libc::SO_PEEK_OFF.cast_unsigned());
    let mut program = [
        load(NUMBER),
        skip_unless(number, 5),
        load(LEVEL),
        skip_unless(level, 3),
        load(OPTION),
        skip_unless(option, 1),
        answer(refuse),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: 8, filter: program.as_mut_ptr() };
    // SAFETY: changes only what later execs may gain.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: `filter` names 8 instructions that outlive the call.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, 0, &raw const filter) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    assert!(!passt_rs::host::tcp::has_peek_offset());
}

fn instruction(code: u32, k: u32, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap(), jt: 0, jf, k }
}

fn load(offset: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0)
}

fn skip_unless(value: u32, instructions: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, instructions)
}

fn answer(value: u32) -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, value, 0)
}
