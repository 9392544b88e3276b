//! Delegates: shell scripts that behave in every way, and the reference plugin under another name.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_cni::protocol::CniError;

use super::bench::{addresses, call, files, host_local, leased, reference};

const DEADLINE: Duration = Duration::from_secs(20);

/// A folder for `CNI_PATH` with one plugin, `other`.
struct Folder(tempfile::TempDir);

/// `$PWD` is not the folder: scripts find it as `$HERE`.
fn plugin(script: &str) -> Folder {
    let folder = Folder(tempfile::tempdir().unwrap());
    let text = format!("#!/bin/sh\nHERE={}\n{script}\n", folder.0.path().display());
    fs::write(folder.program(), text).unwrap();
    fs::set_permissions(folder.program(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn config() -> Value {
    json!({ "cniVersion": "1.1.0", "name": "net", "ipam": { "type": "other" }, "cni.dev/valid-attachments": [] })
}

impl Folder {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn program(&self) -> PathBuf {
        self.path().join("other")
    }

    fn call(&self, verb: &'static str) -> Result<Value, CniError> {
        call(verb, "c").path(self.path()).ours(&config())
    }

    fn written(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }
}

const ANSWER: &str =
    r#"echo '{"cniVersion":"1.1.0","ips":[{"address":"10.1.2.3/24","gateway":"10.1.2.1"}]}'"#;

#[test]
fn the_configuration_arrives_byte_for_byte_with_the_verb() {
    let folder = plugin(&format!("cat > $HERE/stdin; env > $HERE/env; echo note >&2; {ANSWER}"));
    // Spaces, the order of keys, unknown ones and more than a pipe holds.
    let long = "x".repeat(200_000);
    let raw = format!(
        "{{ \"name\":\"net\" ,\"long\":\"{long}\",\"cniVersion\": \"1.1.0\", \"IPAM\":{{\"type\":\"other\"}}}}\n"
    );
    let call = call("ADD", "c").path(folder.path());
    let answer = call.ours_raw(raw.as_bytes()).unwrap();
    assert_eq!(answer["ips"], json!([{ "address": "10.1.2.3/24", "gateway": "10.1.2.1" }]));
    assert_eq!(folder.written("stdin"), raw);
    let environment = folder.written("env");
    for line in ["CNI_COMMAND=ADD", "CNI_CONTAINERID=c", "CNI_IFNAME=eth0", "CNI_NETNS=/nonexistent/netns"] {
        assert!(environment.lines().any(|found| found == line), "{line} in {environment}");
    }
    assert!(environment.contains(&format!("CNI_PATH={}\n", folder.path().display())), "{environment}");
    assert!(environment.contains("PATH="), "what is inherited stays");
}

#[test]
fn an_error_is_passed_on_as_it_is() {
    let script = r#"echo CNI_COMMAND=$CNI_COMMAND >> $HERE/calls; echo '{"code":123,"msg":"no lease","details":"d"}'; exit 1"#;
    let folder = plugin(script);
    for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        let error = folder.call(verb).unwrap_err();
        assert_eq!(
            (error.code, error.msg.as_str(), error.details.as_str()),
            (123, "no lease", "d"),
            "{verb}"
        );
    }
    let calls = folder.written("calls");
    let calls: Vec<&str> = calls.lines().filter_map(|line| line.strip_prefix("CNI_COMMAND=")).collect();
    assert_eq!(calls, ["ADD", "DEL", "DEL", "CHECK", "GC", "STATUS"], "an ADD that fails is taken back");
}

#[test]
fn failures_without_an_error_object_are_told_in_gos_words() {
    let cases = [
        ("exit 3", 999, "netplugin failed with no error message: exit status: 3"),
        ("echo oops >&2; exit 1", 999, "netplugin failed: \"oops\\n\": exit status: 1"),
        ("echo oops; exit 1", 999, "netplugin failed but error parsing its diagnostic message \"oops\\n\""),
        ("kill -9 $$", 999, "netplugin failed with no error message: signal: 9"),
        ("echo '{\"msg\":\"bare\"}'; exit 1", 999, "bare"),
        ("exit 0", 6, "invalid result"),
        ("echo junk", 6, "invalid result"),
        ("echo '{\"cniVersion\":\"9.0.0\"}'", 1, ""),
        ("echo '{\"cniVersion\":\"1.0.0\",\"ips\":[]}'", 999, "IPAM plugin returned missing IP config"),
        ("yes", 5, "more than 1048576 bytes on stdout"),
    ];
    for (script, code, text) in cases {
        let error = plugin(&format!("[ $CNI_COMMAND = ADD ] || exit 0; {script}")).call("ADD").unwrap_err();
        assert_eq!(error.code, code, "{script}: {error}");
        assert!(error.to_string().contains(text), "{script}: {error}");
    }
}

#[test]
fn nobody_is_left_behind() {
    let folder = plugin("echo $$ > $HERE/pid; yes");
    folder.call("ADD").unwrap_err();
    let pid = folder.written("pid");
    assert!(!pid.trim().is_empty());
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "killed and waited for");
}

/// Also a zombie that nobody has waited for yet.
fn is_gone(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])))
}

/// Whether it comes to hold before the deadline.
fn comes(mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > DEADLINE {
            return false;
        }
        thread::yield_now();
    }
    true
}

fn kill(pid: &str) {
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn nobody_is_left_behind_by_a_call_that_is_killed() {
    let folder = plugin("echo $$ > $HERE/new; mv $HERE/new $HERE/pid; exec sleep 600");
    let state = tempfile::tempdir().unwrap();
    let mut config = config();
    config["mode"] = json!("none");
    config["stateDir"] = json!(state.path());
    let mut ours = Command::new(env!("CARGO_BIN_EXE_sluice-cni"))
        .env_clear()
        .envs([("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0")])
        .envs([("CNI_PATH", folder.path().as_os_str()), ("PATH", "/usr/bin:/bin".as_ref())])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    ours.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let started = comes(|| !folder.written("pid").is_empty());
    ours.kill().unwrap();
    ours.wait().unwrap();
    assert!(started, "it was not executed");
    let pid = folder.written("pid").trim().to_owned();
    let ended = comes(|| is_gone(&pid));
    if !ended {
        kill(&pid);
    }
    assert!(ended, "it lives on");
}

#[test]
fn a_grandchild_that_keeps_the_pipes_does_not_keep_us() {
    let folder = plugin(&format!("sleep 600 & echo $! > $HERE/pid; {ANSWER}"));
    let start = Instant::now();
    folder.call("ADD").unwrap();
    assert!(start.elapsed() < DEADLINE);
    kill(folder.written("pid").trim());
}

#[test]
fn a_program_that_is_being_replaced_is_waited_for() {
    let folder = plugin(ANSWER);
    let writer = OpenOptions::new().append(true).mode(0o755).open(folder.program()).unwrap();
    let (done, answered) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| done.send(folder.call("ADD")).unwrap());
        let early = answered.recv_timeout(Duration::from_millis(300));
        drop(writer);
        assert!(early.is_err(), "text file busy: {early:?}");
        answered.recv_timeout(DEADLINE).unwrap().unwrap();
    });
}

#[test]
fn a_plugin_that_cannot_be_found_or_executed_is_an_error_of_every_verb() {
    let empty = tempfile::tempdir().unwrap();
    for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        let error = call(verb, "c").path(empty.path()).ours(&config()).unwrap_err();
        assert_eq!(error.code, if verb == "STATUS" { 50 } else { 999 }, "{verb}: {error}");
        assert!(error.msg.contains("failed to find plugin \"other\""), "{verb}: {error}");
    }
    let folder = plugin("");
    fs::set_permissions(folder.program(), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(folder.call("DEL").unwrap_err().code, 5);
}

#[test]
fn a_type_is_a_name_and_not_a_path() {
    for name in ["../other", "/bin/true", ".", "..", "a/b"] {
        let config = json!({ "cniVersion": "1.0.0", "name": "net", "ipam": { "type": name } });
        let error = call("ADD", "c").path(Path::new("/bin")).ours(&config).unwrap_err();
        assert_eq!(error.code, 7, "{error}");
        assert!(error.msg.contains(&format!("ipam.type {name}")), "{error}");
    }
}

#[test]
fn verbs_younger_than_a_plugin_are_no_error() {
    let answers = [
        (4, "unknown CNI_COMMAND: X"),
        (100, "unknown CNI_COMMAND: X"),
        (3, "missing containerID"),
        (4, "interface name is empty"),
        (1, "plugin version does not allow X"),
    ];
    for (code, msg) in answers {
        let answer = format!("\"code\":{code},\"msg\":\"{msg}\"");
        let folder = plugin(&format!("echo '{{{answer}}}'; exit 1"));
        assert_eq!(folder.call("GC"), Ok(Value::Null));
        assert_eq!(folder.call("STATUS"), Ok(Value::Null));
        folder.call("CHECK").unwrap_err();
        folder.call("DEL").unwrap_err();
    }
    // It could not ADD either.
    let folder = plugin("echo '{\"code\":1,\"msg\":\"incompatible CNI versions\"}'; exit 1");
    assert_eq!(folder.call("STATUS").unwrap_err().code, 1);
}

#[test]
fn the_reference_plugin_serves_as_a_delegate() {
    let (path, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    symlink(reference("host-local"), path.path().join("other")).unwrap();
    let mut config =
        host_local(data.path(), &json!({ "subnet": "10.1.2.0/24", "type": "other" }), &json!({}));
    let call = |verb, container| call(verb, container).path(path.path());
    assert_eq!(addresses(&call("ADD", "a").ours(&config).unwrap()), ["10.1.2.2"]);
    call("CHECK", "a").ours(&config).unwrap();
    assert_eq!(leased(data.path())["10.1.2.2"], "a\r\neth0");
    call("DEL", "a").ours(&config).unwrap();
    call("DEL", "a").ours(&config).unwrap();
    assert!(leased(data.path()).is_empty(), "{:?}", files(data.path()));

    config["cniVersion"] = json!("1.1.0");
    config["cni.dev/valid-attachments"] = json!([]);
    assert_eq!(call("GC", "").ours(&config), Ok(Value::Null), "1.1.1 does not know it");
    assert_eq!(call("STATUS", "").ours(&config), Ok(Value::Null), "1.1.1 does not know it");
}
