//! The sidecar's program: its start, its answers, its end.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "the whole file is tests")]

mod translator_support;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};

use kubevirt_hooks::info::{InfoParams, info_client::InfoClient};
use kubevirt_hooks::plugins::v1alpha1::MutateDomainRequest;
use kubevirt_hooks::plugins::v1alpha1::domain_hook_service_client::DomainHookServiceClient;
use kubevirt_hooks::v1alpha3::{ShutdownParams, callbacks_client::CallbacksClient};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::Signal;
use translator_support::{Room, kill, until};

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_nothing() {
    let (_reader, writer) = io::pipe().unwrap();
    fill(writer.as_fd().try_clone_to_owned().unwrap());
    works(writer.into()).await;
}

#[tokio::test]
async fn a_log_whose_reader_has_gone_holds_up_nothing() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    works(writer.into()).await;
}

#[tokio::test]
async fn what_is_said_last_is_in_the_log() {
    let room = Room::new();
    let (mut reader, writer) = io::pipe().unwrap();
    let mut sidecar = Sidecar::start(room, writer.into());
    sidecar.ready().await;
    kill(sidecar.child.id(), Signal::TERM);
    assert!(sidecar.end().await.success());
    let mut log = String::new();
    reader.read_to_string(&mut log).unwrap();
    assert!(log.lines().last().unwrap().contains("\"message\":\"ended\""), "{log}");
}

#[tokio::test]
async fn calls_that_change_nothing_are_counted_and_the_last_ends_it_with_all_its_files() {
    let mut sidecar = Sidecar::start(Room::new(), Stdio::null());
    sidecar.ready().await;
    let mut plugin =
        DomainHookServiceClient::connect(sidecar.socket("plugin/domain-hook.sock")).await.unwrap();
    let request = MutateDomainRequest { domain_type: "x".to_owned(), ..MutateDomainRequest::default() };
    let refused = plugin.mutate_domain(request).await.unwrap_err();
    assert_eq!(refused.message(), "domain_type is \"x\"; only \"libvirt\" is known");
    let metrics = sidecar.get("/metrics").unwrap();
    let counted = r#"sluice_hook_calls_total{call="MutateDomain",version="plugins.v1alpha1",outcome="invalid_argument"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    assert!(!metrics.contains("sluice_hook_call_duration_seconds_count{"), "{metrics}");
    let mut hook = CallbacksClient::connect(sidecar.socket("hook-sidecar-0.sock")).await.unwrap();
    hook.shutdown(ShutdownParams {}).await.unwrap();
    assert!(sidecar.end().await.success());
    for folder in ["net", "plugin"] {
        assert_eq!(std::fs::read_dir(sidecar.room.path(folder)).unwrap().count(), 0, "{folder}");
    }
    assert_eq!(std::fs::read_dir(sidecar.room.folder()).unwrap().count(), 2);
}

/// A sidecar that logs to `log` gets ready, answers, and ends when told to.
async fn works(log: OwnedFd) {
    let mut sidecar = Sidecar::start(Room::new(), log.into());
    sidecar.ready().await;
    let mut info = InfoClient::connect(sidecar.socket("hook-sidecar-0.sock")).await.unwrap();
    // With HTTP/2's lines, more than may wait.
    for _ in 0..200 {
        assert_eq!(info.info(InfoParams {}).await.unwrap().into_inner().versions.len(), 3);
    }
    drop(info);
    kill(sidecar.child.id(), Signal::TERM);
    assert!(sidecar.end().await.success());
}

/// Until a write would wait.
fn fill(pipe: OwnedFd) {
    fcntl_setfl(&pipe, OFlags::NONBLOCK).unwrap();
    let mut pipe = File::from(pipe);
    while pipe.write(&[b'\n'; 4096]).is_ok() {}
    fcntl_setfl(&pipe, OFlags::empty()).unwrap();
}

/// One that runs, with its folders.
struct Sidecar {
    child: Child,
    room: Room,
}

impl Sidecar {
    fn start(room: Room, log: Stdio) -> Self {
        std::fs::create_dir(room.path("plugin")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_sluice-sidecar"))
            .args(["--container-name", "hook-sidecar-0", "--log-level", "trace", "--log-format", "json"])
            .arg("--hooks-folder")
            .arg(room.folder())
            .arg("--plugin-folder")
            .arg(room.path("plugin"))
            .arg("--translator")
            .arg(room.program())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, room }
    }

    async fn ready(&self) {
        until("it is ready", || self.get("/readyz").is_ok_and(|answer| answer.contains(" 200 "))).await;
    }

    /// With its head.
    fn get(&self, path: &str) -> io::Result<String> {
        let mut client = UnixStream::connect(self.room.path("net/sluice.http"))?;
        client.set_read_timeout(Some(std::time::Duration::from_secs(10)))?;
        write!(client, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        client.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// As gRPC's clients want it.
    fn socket(&self, name: &str) -> String {
        format!("unix:{}", self.room.path(name).display())
    }

    async fn end(&mut self) -> ExitStatus {
        let mut status = None;
        until("it has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // It has ended, unless a test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
