//! Translators under supervision, with the real passt-rs.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "the whole file is tests")]

mod translator_support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use binding_sidecar::metrics::Metrics;
use binding_sidecar::sidecar::{Call, Settings, Sidecar};
use binding_sidecar::translator::{End, Phase, TranslatorError, Translators, control};
use rustix::process::Signal;
use translator_support::{Room, alive, kill, until};

#[tokio::test]
async fn a_translator_serves_when_the_call_returns_and_the_same_call_again_changes_nothing() {
    let room = Room::new();
    let mut translators = room.translators();
    let wanted = [room.wanted("default"), room.wanted("second")];
    translators.ensure(&wanted).await.unwrap();
    let pids = [room.pid(&translators, "default"), room.pid(&translators, "second")];
    // Signals to our process group are not for them.
    assert!(pids.iter().all(|pid| process_group(*pid) == *pid));
    for each in &wanted {
        assert!(each.socket.exists());
        assert_eq!(control::stats(&each.control).await.unwrap().number("/cable/link_ups"), Some(0));
    }
    translators.ensure(&wanted).await.unwrap();
    assert_eq!(pids, [room.pid(&translators, "default"), room.pid(&translators, "second")]);
    assert!(translators.board().entries().iter().all(|entry| entry.restarts_total() == 0));
    translators.stop().await;
}

#[tokio::test]
async fn a_translator_that_was_killed_is_started_again_and_counted() {
    let room = Room::new();
    let mut translators = room.translators();
    translators.ensure(&[room.wanted("default")]).await.unwrap();
    let first = room.pid(&translators, "default");
    kill(first, Signal::KILL);
    let board = translators.board();
    until(
        "another translator serves",
        || matches!(board.entries()[0].phase, Phase::Running { pid, .. } if pid != first),
    )
    .await;
    let entry = &board.entries()[0];
    assert_eq!(entry.restarts.get("SIGKILL"), Some(&1));
    assert_eq!(entry.last_end, Some(End::Killed { signal: 9, core_dumped: false }));
    assert!(!alive(first));
    control::stats(&entry.control).await.unwrap();
    translators.stop().await;
}

#[tokio::test]
async fn a_translator_that_ends_again_and_again_is_tried_less_often_and_not_given_up() {
    let room = Room::new();
    let broken = room.path("broken");
    let script = format!(
        "if [ -e {} ]; then echo cannot work; exit 3; fi; exec {} \"$@\"",
        broken.display(),
        room.program().display()
    );
    let mut translators = Translators::new(room.script(&script));
    translators.ensure(&[room.wanted("default")]).await.unwrap();
    std::fs::write(&broken, "").unwrap();
    let begun = Instant::now();
    kill(room.pid(&translators, "default"), Signal::KILL);
    let board = translators.board();
    let failed = || board.entries()[0].restarts.get("exit_3").copied().unwrap_or_default();
    until("it has failed three times", || failed() >= 3).await;
    // At once, 100 ms and 200 ms after the ends before.
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert_eq!(board.entries()[0].phase, Phase::Waiting);
    assert!(board.entries()[0].not_running().unwrap().contains("exit status 3"));
    std::fs::remove_file(&broken).unwrap();
    until("it serves again", || matches!(board.entries()[0].phase, Phase::Running { .. })).await;
    translators.stop().await;
}

#[tokio::test]
async fn a_program_that_ends_at_its_start_is_an_error_with_its_last_lines() {
    let room = Room::new();
    let mut translators = room.translators();
    let mut wanted = room.wanted("default");
    wanted.arguments.push("--no-such-flag".into());
    let error = translators.ensure(&[wanted]).await.unwrap_err();
    let TranslatorError::Ended { interface, end, said } = &error else { panic!("{error}") };
    assert_eq!((interface.as_str(), *end), ("default", End::Exited(1)));
    assert!(said.contains("--no-such-flag"), "{said}");
    let entry = &translators.board().entries()[0];
    assert!(entry.not_running().unwrap().contains("--no-such-flag"));
    // Put right, it comes up.
    translators.ensure(&[room.wanted("default")]).await.unwrap();
    translators.stop().await;

    let mut silent = Translators::new("/bin/false".into());
    let error = silent.ensure(&[room.wanted("default")]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "interface default: the translator ended at its start, exit status 1: it printed nothing"
    );
    silent.stop().await;
}

#[tokio::test]
async fn a_program_that_is_missing_or_not_executable_is_an_error_with_its_path() {
    let room = Room::new();
    let plain = room.path("plain");
    std::fs::write(&plain, "").unwrap();
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o600)).unwrap();
    for (program, kind) in
        [(room.path("missing"), std::io::ErrorKind::NotFound), (plain, std::io::ErrorKind::PermissionDenied)]
    {
        let mut translators = Translators::new(program.clone());
        let error = translators.ensure(&[room.wanted("default")]).await.unwrap_err();
        assert!(error.to_string().contains(program.to_str().unwrap()), "{error}");
        let TranslatorError::Program { source, .. } = error else { panic!("{error}") };
        assert_eq!(source.kind(), kind);
        translators.stop().await;
    }
}

/// Time stands still while there is something to do, and jumps to the next deadline when there is nothing.
#[tokio::test(start_paused = true)]
async fn a_program_that_never_serves_is_an_error_and_is_ended() {
    let room = Room::new();
    let mut translators = Translators::new(room.script("exec sleep 1000"));
    let error = translators.ensure(&[room.wanted("default")]).await.unwrap_err();
    assert!(matches!(error, TranslatorError::NotReady { .. }), "{error}");
    translators.stop().await;
    tokio::time::resume();
    until("the program has ended", || children().is_empty()).await;
}

#[tokio::test]
async fn a_socket_that_somebody_else_serves_stays() {
    let room = Room::new();
    let wanted = room.wanted("default");
    let _somebody = UnixListener::bind(&wanted.socket).unwrap();
    let mut translators = room.translators();
    let error = translators.ensure(std::slice::from_ref(&wanted)).await.unwrap_err();
    assert!(matches!(error, TranslatorError::Ended { .. }), "{error}");
    translators.stop().await;
    UnixStream::connect(&wanted.socket).unwrap();
}

#[tokio::test]
async fn what_cannot_be_had_leaves_the_others_running() {
    let room = Room::new();
    let mut translators = room.translators();
    let good = room.wanted("default");
    translators.ensure(std::slice::from_ref(&good)).await.unwrap();
    let pid = room.pid(&translators, "default");
    let mut bad = room.wanted("second");
    bad.arguments.push("--mtu=5".into());
    let error = translators.ensure(&[good, bad]).await.unwrap_err();
    assert!(error.to_string().contains("interface second"), "{error}");
    assert_eq!(room.pid(&translators, "default"), pid);
    translators.stop().await;
}

#[tokio::test]
async fn what_is_wanted_no_more_ends() {
    let room = Room::new();
    let mut translators = room.translators();
    let (default, second) = (room.wanted("default"), room.wanted("second"));
    translators.ensure(&[default.clone(), second.clone()]).await.unwrap();
    let pid = room.pid(&translators, "second");
    translators.ensure(&[default]).await.unwrap();
    assert!(!alive(pid));
    assert!(!second.socket.exists());
    assert_eq!(translators.board().entries().len(), 1);
    translators.stop().await;
}

#[tokio::test]
async fn what_is_wanted_no_more_or_otherwise_stays_where_a_guest_came() {
    let room = Room::new();
    let mut translators = room.translators();
    // Not vhost-user: there, who only connects is a guest too.
    let wanted = |mtu: u16| {
        let mut wanted = room.wanted("default");
        wanted.arguments.retain(|argument| argument != "--vhost-user");
        wanted.arguments.push(format!("--mtu={mtu}").into());
        wanted
    };
    translators.ensure(&[wanted(1400)]).await.unwrap();
    let first = room.pid(&translators, "default");
    translators.ensure(&[wanted(1500)]).await.unwrap();
    let second = room.pid(&translators, "default");
    assert_ne!(first, second);
    assert!(!alive(first));
    assert_eq!(translators.board().entries()[0].restarts_total(), 0);

    let _guest = UnixStream::connect(&wanted(0).socket).unwrap();
    let control = wanted(0).control;
    let deadline = Instant::now() + Duration::from_secs(10);
    while control::stats(&control).await.unwrap().number("/cable/link_ups") != Some(1) {
        assert!(Instant::now() < deadline, "the guest is not seen");
    }
    translators.ensure(&[wanted(1400)]).await.unwrap();
    assert_eq!(room.pid(&translators, "default"), second);
    translators.ensure(&[]).await.unwrap();
    assert_eq!(room.pid(&translators, "default"), second);
    assert!(alive(second));
    translators.stop().await;
    assert!(!alive(second));
    assert!(translators.board().entries().is_empty());
}

#[tokio::test]
async fn stop_leaves_no_process_and_no_file_within_two_seconds_also_of_one_that_hangs() {
    let room = Room::new();
    let mut translators = room.translators();
    translators.ensure(&[room.wanted("default"), room.wanted("hanging"), room.wanted("dead")]).await.unwrap();
    let pids = ["default", "hanging"].map(|name| room.pid(&translators, name));
    kill(pids[1], Signal::STOP);
    kill(room.pid(&translators, "dead"), Signal::KILL);
    let board = translators.board();
    let begun = Instant::now();
    translators.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(pids.iter().all(|pid| !alive(*pid)));
    assert_eq!(children(), Vec::<String>::new());
    assert_eq!(room.files(), Vec::<String>::new());
    assert!(board.entries().is_empty());
}

#[tokio::test]
async fn a_call_that_is_cut_short_is_taken_up_by_the_next() {
    let room = Room::new();
    let mut translators = room.translators();
    let wanted = [room.wanted("default")];
    {
        let call = translators.ensure(&wanted);
        tokio::pin!(call);
        // Polled once: begun, and not through.
        let through =
            std::future::poll_fn(|context| std::task::Poll::Ready(call.as_mut().poll(context).is_ready()));
        assert!(!through.await);
    }
    translators.ensure(&wanted).await.unwrap();
    assert_eq!(children().len(), 1);
    translators.stop().await;
}

#[tokio::test]
async fn a_replacement_that_is_cut_short_waits_for_the_place_to_be_free() {
    let room = Room::new();
    let mut translators = room.translators();
    translators.ensure(&[room.wanted("default")]).await.unwrap();
    let first = room.pid(&translators, "default");
    // It takes a second to end.
    kill(first, Signal::STOP);
    // Half a second before, it is asked whether it has a guest.
    let cut_short = tokio::time::timeout(Duration::from_secs(1), translators.ensure(&[])).await;
    assert!(cut_short.is_err());
    // Nobody waits for it to be ready any more.
    assert!(translators.board().entries().is_empty());
    assert!(alive(first));
    translators.ensure(&[room.wanted("default")]).await.unwrap();
    assert!(!alive(first));
    assert!(room.wanted("default").socket.exists());
    translators.stop().await;
}

#[tokio::test]
async fn a_hook_call_that_comes_after_the_end_starts_nothing() {
    let room = Room::new();
    let translators = room.translators();
    let board = translators.board();
    let settings = Settings {
        container: "hook-sidecar-0".to_owned(),
        binding: "sluice".to_owned(),
        net_folder: room.folder().to_owned(),
        resolv_conf: room.path("no-resolv-conf"),
    };
    let sidecar = Sidecar::new(settings, translators, Metrics::new());
    sidecar.shut_down();
    sidecar.end_translators().await;
    let call = Call { name: "OnDefineDomain", version: "v1alpha3" };
    let domain = include_bytes!("golden/plain/in.xml");
    // The one interface that is everywhere.
    let vmi = include_str!("golden/plain/vmi.json").replace("eth0", "lo");
    // What is chosen by chance is right now and then.
    for _ in 0..32 {
        let refused = sidecar.define(call, domain, vmi.as_bytes()).await.unwrap_err();
        assert_eq!(refused.message(), "the sidecar ends");
        assert!(board.entries().is_empty());
    }
    assert_eq!(children(), Vec::<String>::new());
    assert_eq!(room.files(), Vec::<String>::new());
}

/// Runs itself as the sidecar.
#[tokio::test]
async fn a_sidecar_that_is_killed_leaves_no_orphan() {
    const FOLDER: &str = "SLUICE_TEST_FOLDER";
    if let Some(folder) = std::env::var_os(FOLDER) {
        let room = Room::at(Path::new(&folder));
        let mut translators = room.translators();
        translators.ensure(&[room.wanted("default"), room.wanted("second")]).await.unwrap();
        let pids = ["default", "second"].map(|name| room.pid(&translators, name));
        std::fs::write(room.path("pids.new"), format!("{} {}", pids[0], pids[1])).unwrap();
        std::fs::rename(room.path("pids.new"), room.path("pids")).unwrap();
        std::future::pending::<()>().await;
    }
    let room = Room::new();
    let mut sidecar = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_sidecar_that_is_killed_leaves_no_orphan"])
        .env(FOLDER, room.folder())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pids = room.path("pids");
    until("the sidecar's translators serve", || pids.exists()).await;
    let pids = std::fs::read_to_string(pids).unwrap();
    let pids: Vec<u32> = pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.iter().all(|pid| alive(*pid)));
    sidecar.kill().unwrap();
    sidecar.wait().unwrap();
    // Who reaps them is the machine's first process, in its own time.
    until("the translators have ended", || pids.iter().all(|pid| !alive(*pid) || zombie(*pid))).await;
}

fn zombie(pid: u32) -> bool {
    // The state follows the program's name, which may hold anything (proc_pid_stat(5)).
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

fn process_group(pid: u32) -> u32 {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap());
    u32::try_from(rustix::process::getpgid(pid).unwrap().as_raw_nonzero().get()).unwrap()
}

/// What this thread started and did not wait for.
fn children() -> Vec<String> {
    let path = format!("/proc/self/task/{}/children", rustix::thread::gettid().as_raw_nonzero());
    let children = std::fs::read_to_string(path).unwrap();
    children.split_whitespace().map(str::to_owned).collect()
}
