//! The binary from outside: what it says about a command line, and how it goes to the background.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "the whole file is tests")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const PASST_RS: &str = env!("CARGO_BIN_EXE_passt-rs");

fn passt_rs(args: &[&str]) -> Output {
    Command::new(PASST_RS).args(args).stdin(Stdio::null()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// An address of each family makes a command line good also where there is no network.
const ADDRESSES: [&str; 4] = ["-a", "192.0.2.2/24", "-a", "2001:db8::2/64"];

#[test]
fn mistakes_name_flag_and_piece_and_fail() {
    let table: &[(&[&str], &[&str])] = &[
        (&["--nonsense"], &["--nonsense: unknown option"]),
        (&["-Z"], &["-Z: unknown option"]),
        (&["stray"], &["stray: unexpected argument"]),
        (&["-c", "/x"], &["--conf-path: not supported yet"]),
        (&["--vhost-user", "--netns", "1"], &["--netns: cannot be combined with --vhost-user; "]),
        (&["--outbound-if6", "no-such-if0"], &["--outbound-if6: there is no interface named no-such-if0"]),
        (&["--tcp-ports", "22,80-79"], &["--tcp-ports: `80-79`: the range ends before it begins"]),
        (
            &["-t", "22:23,22:24"],
            &["--tcp-ports: `22:24`: host port 22 is already forwarded to guest port 23"],
        ),
        (&["-u", "x"], &["--udp-ports: `x`: not a port (1 to 65535)"]),
        (&["-i", "no-such-if0"], &["--interface: there is no interface named no-such-if0"]),
        (
            &["--nonsense", "--mtu", "70000", "-t", "0"],
            &["--nonsense:", "--mtu: `70000`", "--tcp-ports: `0`: port 0"],
        ),
    ];
    for (args, wanted) in table {
        let output = passt_rs(&[&ADDRESSES, *args].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert_eq!(said.lines().count(), wanted.len() + 1, "{args:?}: {said}");
        for (line, wanted) in said.lines().zip(*wanted) {
            assert!(line.starts_with(&format!("passt-rs: {wanted}")), "{args:?}: {line}");
        }
    }
}

#[test]
fn version_is_printed() {
    let output = passt_rs(&["--version"]);
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        concat!("passt-rs ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn capabilities_follow_the_conventions_of_vhost_user_and_need_nothing_else() {
    for args in [&["--print-capabilities"][..], &["--vhost-user", "--print-capabilities", "--fd=3"]] {
        let output = passt_rs(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(said, serde_json::json!({ "type": "net" }), "{args:?}");
    }
}

#[test]
fn installed_as_passt_it_says_so_where_that_is_read_and_behaves_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let passt = directory.path().join("passt");
    std::os::unix::fs::symlink(PASST_RS, &passt).unwrap();
    let run = |args: &[&str]| Command::new(&passt).args(args).output().unwrap();
    assert_eq!(
        String::from_utf8(run(&["--version"]).stdout).unwrap(),
        concat!("passt ", env!("CARGO_PKG_VERSION"), " (passt-rs)\n")
    );
    assert!(String::from_utf8(run(&["-h"]).stdout).unwrap().contains("Usage: passt ["));
    for args in [&["--print-capabilities"][..], &["--nonsense", "-m", "x"]] {
        let (ours, theirs) = (passt_rs(args), run(args));
        assert_eq!((ours.status, ours.stdout, ours.stderr), (theirs.status, theirs.stdout, theirs.stderr));
    }
}

/// Waits for a process that is no child of ours to end.
fn ended(pid: u32) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return };
    let deadline = Timespec { tv_sec: 10, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&deadline)).unwrap();
    assert_eq!(ready, 1, "process {pid:?} is still there");
}

#[test]
fn all_that_libvirt_can_pass_starts_and_ends_with_its_guest() {
    for transport in [&[][..], &["--vhost-user"]] {
        as_libvirt(transport);
    }
}

fn as_libvirt(transport: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let [pid, log, socket] = ["pid", "log", "s"].map(|name| directory.path().join(name));
    let output = Command::new("unshare")
        .args(["--net", "prlimit", "--nofile=256:256", PASST_RS])
        .args(transport)
        .args(["--one-off", "--socket"])
        .arg(&socket)
        .arg("--pid")
        .arg(&pid)
        .args(["--mtu", "1500", "--interface", "lo", "--log-file"])
        .arg(&log)
        .args(["--hostname", "h", "--fqdn", "h.example"])
        .args(["--address", "192.0.2.2", "--netmask", "28", "--address", "2001:db8::2"])
        .args(["--tcp-ports", "%lo/22:2222,80-89:8080-8089,~85", "--tcp-ports", "0.0.0.0/443"])
        .args(["--udp-ports", "all"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    let pid: u32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    drop(std::os::unix::net::UnixStream::connect(&socket).unwrap());
    ended(pid);
    let log = fs::read_to_string(log).unwrap();
    for wanted in ["MTU 1500", "IPv4: 192.0.2.2/28", "IPv6: 2001:db8::2/64", "%lo 22:2222,80-84:8080-8084"] {
        assert!(log.contains(wanted), "{wanted}: {log}");
    }
    assert!(!socket.exists());
}

#[test]
fn all_that_qemu_can_pass_starts_and_ends_with_its_guest() {
    let both = ["--address", "192.0.2.2", "--netmask", "255.255.255.0", "--gateway", "192.0.2.1"];
    let services = "--quiet --mtu 1400 --mac-addr 02:00:00:00:00:01 --interface lo --outbound-if4 lo --outbound-if6 lo \
         --dns 192.0.2.53 --fqdn h.example --no-dhcp-dns --no-dhcp-search --map-host-loopback 192.0.2.3 \
         --map-guest-addr 192.0.2.4 --dns-forward 192.0.2.5 --dns-host 127.0.0.1 --freebind --outbound 192.0.2.2";
    let off = "--no-tcp --no-udp --no-icmp --no-dhcp --no-ndp --no-dhcpv6 --no-ra --ipv4-only";
    let ports = ["--search", "a.example b.example", "--tcp-ports", "2222:22,8080", "--udp-ports", "5353"];
    let services: Vec<&str> = services.split_whitespace().collect();
    let off: Vec<&str> = off.split_whitespace().collect();
    for args in [
        [&both[..], &services, &ports].concat(),
        [&both[..], &off].concat(),
        vec!["--address", "2001:db8::2", "--ipv6-only"],
        [&["--vhost-user", "--quiet"], &both[..]].concat(),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let (guest, ours) = std::os::unix::net::UnixStream::pair().unwrap();
        // Like QEMU: a connected socket as descriptor 3.
        let output = Command::new("unshare")
            .args(["--net", "sh", "-c", "exec \"$0\" \"$@\" 3<&0 0</dev/null", PASST_RS])
            .args(&args)
            .arg("--pid")
            .arg(&pid)
            .args(["--fd", "3"])
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(ours)))
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        let pid: u32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        drop(guest);
        ended(pid);
    }
}

#[test]
fn help_and_the_manual_list_every_flag() {
    let manual = include_str!("../../docs/command-line.md");
    for help in ["-h", "--help"] {
        let output = passt_rs(&[help]);
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        for flag in FLAGS.split_whitespace() {
            assert!(text.split([' ', ',', '\n', '.']).any(|word| word == flag), "{flag} in {help}");
            assert!(
                manual.contains(&format!("`{flag}")) || manual.contains(&format!(" {flag}")),
                "{flag} in the manual"
            );
        }
    }
}

#[test]
fn foreground_says_what_it_resolved_and_cleans_up_when_told_to_end() {
    let directory = tempfile::tempdir().unwrap();
    // Started by root it becomes nobody, who may remove its socket only where everybody may.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let socket = directory.path().join("s");
    let args = [&ADDRESSES[..], &["-f", "-t", "48222", "-s", socket.to_str().unwrap()]].concat();
    let mut child = Command::new(PASST_RS).args(args).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    // The last line before it serves.
    while !said.contains("ports are forwarded") {
        let Some(line) = lines.next() else { panic!("it ended: {said}") };
        said += &line.unwrap();
        said += "\n";
    }
    for wanted in
        ["IPv4: 192.0.2.2/24", "IPv6: 2001:db8::2/64", "TCP forwarded in: * 48222", "guest's end: socket "]
    {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    std::os::unix::net::UnixStream::connect(&socket).unwrap();
    kill(child.id(), rustix::process::Signal::TERM);
    assert!(child.wait().unwrap().success());
    assert!(!socket.exists());
}

#[test]
fn background_writes_pid_and_log_and_returns_when_ready() {
    let directory = tempfile::tempdir().unwrap();
    let [pid, log, socket] = ["pid", "log", "s"].map(|name| directory.path().join(name));
    let paths = ["-P", pid.to_str().unwrap(), "-l", log.to_str().unwrap(), "-s", socket.to_str().unwrap()];
    let output = passt_rs(&[&ADDRESSES[..], &paths].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    let pid: u32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    let guest = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    kill(pid, rustix::process::Signal::TERM);
    // Its end of the connection closes when it ends.
    guest.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    std::io::copy(&mut &guest, &mut std::io::sink()).unwrap();
    assert!(fs::read_to_string(log).unwrap().contains("IPv4: 192.0.2.2/24"));
}

#[test]
fn pid_file_goes_with_its_process_unless_it_names_another() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    for taken_over in [false, true] {
        let [path, socket] = ["pid", "s"].map(|name| directory.path().join(name));
        let output = Command::new(PASST_RS)
            .current_dir(directory.path())
            .args(ADDRESSES)
            .args(["-P", "pid", "-s", socket.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let pid: u32 = fs::read_to_string(&path).unwrap().trim().parse().unwrap();
        if taken_over {
            fs::write(&path, "1\n").unwrap();
        }
        kill(pid, rustix::process::Signal::TERM);
        ended(pid);
        assert_eq!(path.exists(), taken_over);
    }
}

#[test]
fn background_without_a_log_file_says_that_nothing_more_is_logged() {
    let directory = tempfile::tempdir().unwrap();
    let [pid, socket] = ["pid", "s"].map(|name| directory.path().join(name));
    let paths = ["-P", pid.to_str().unwrap(), "-s", socket.to_str().unwrap()];
    let output = passt_rs(&[&ADDRESSES[..], &paths].concat());
    kill(fs::read_to_string(pid).unwrap().trim().parse().unwrap(), rustix::process::Signal::TERM);
    assert!(output.status.success());
    let last = stderr(&output).lines().last().unwrap().to_owned();
    assert!(last.contains("--log-file: from here on nothing is logged"), "{last}");
}

/// Starts in a network namespace of its own with `limit` descriptors; what it said until ports are forwarded.
fn serve_alone(limit: u32, args: &[&str]) -> (Child, String) {
    let nofile = format!("--nofile={limit}:{limit}");
    let mut child = Command::new("unshare")
        .args(["--net", "prlimit", &nofile, PASST_RS, "--foreground"])
        .args(args)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut reader = BufReader::new(child.stderr.as_mut().unwrap());
    while !said.contains("ports are forwarded") {
        assert!(reader.read_line(&mut said).unwrap() > 0, "it ended: {said}");
    }
    (child, said)
}

fn end(mut child: Child) {
    kill(child.id(), rustix::process::Signal::TERM);
    child.wait().unwrap();
}

#[test]
fn all_ports_beyond_the_descriptor_limit_are_counted_and_the_limit_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let args = [&ADDRESSES[..], &["-t", "all", "-s", socket.to_str().unwrap()]].concat();
    let (child, said) = serve_alone(64, &args);
    end(child);
    // Half of the descriptors are for connections.
    for wanted in ["--tcp-ports: 32 of ", "limit of 64 descriptors: raise RLIMIT_NOFILE (ulimit -n)"] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}

#[test]
fn ports_are_bound_in_the_families_the_guest_has_only() {
    // 48222 as the kernel shows it, after an address of all zeros.
    let (any4, any6) = ("00000000:BC5E", "00000000000000000000000000000000:BC5E");
    for (args, v4, v6) in [
        (&["-4", "-a", "192.0.2.2/24"][..], true, false),
        (&["-6", "-a", "2001:db8::2/64"], false, true),
        (&ADDRESSES, false, true),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let args = [args, &["-t", "48222", "-s", socket.to_str().unwrap()]].concat();
        let (child, _) = serve_alone(1024, &args);
        let tables = ["tcp", "tcp6"]
            .map(|table| fs::read_to_string(format!("/proc/{}/net/{table}", child.id())).unwrap());
        end(child);
        let bound = [tables[0].contains(any4), tables[1].contains(any6)];
        assert_eq!(bound, [v4, v6], "{args:?}: {tables:?}");
    }
}

fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn failure_in_the_background_fails_the_one_who_waits() {
    let table: &[(&[&str], &str)] = &[
        (&["-P", "/no/such/directory/pid"], "--pid"),
        (&["-l", "/no/such/directory/log"], "--log-file"),
        (&["-F", "999"], "--fd"),
    ];
    for (args, wanted) in table {
        let output = passt_rs(&[&ADDRESSES, *args].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(stderr(&output).contains(wanted), "{args:?}: {}", stderr(&output));
    }
}

const FLAGS: &str = "
    -f --foreground -d --debug --trace -q --quiet -l --log-file --log-size -P --pid -1 --one-off --runas --control
    -h --help --version -s --socket --vhost-user --print-capabilities --repair-path -F --fd --netns --netns-only --no-netns-quit -I --ns-ifname --ns-mac-addr --config-net -p --pcap
    -m --mtu -a --address -n --netmask -M --mac-addr -g --gateway -i --interface -o --outbound
    --outbound-if4 --outbound-if6 -4 --ipv4-only -6 --ipv6-only -D --dns --dns-forward --dns-host -S --search
    -H --hostname --fqdn --dhcp-bootfile --dhcp-tftp --dhcp-ntp --dhcp-option --guest-mac --flows-max --socket-memory --dhcp-dns --no-dhcp-dns --dhcp-search --no-dhcp-search --no-dhcp --no-dhcpv6 --no-ndp
    --no-ra --no-tcp --no-udp --no-icmp --freebind --no-map-gw --map-host-loopback --map-guest-addr
    -t --tcp-ports -u --udp-ports";
