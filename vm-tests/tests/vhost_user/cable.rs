//! The native rig: a kernel as the guest, its tap joined to the back end by vhost-cable.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use vm_tests::lab::{Child, Lab, POD_V4, SERVER_V4, SERVER_V6, binary, wait_for};
use vm_tests::traffic::{Role, drive};

use crate::pod::{FORWARDED, LIMIT, Pod};

/// The exit status of a cable whose back end went away.
const GONE: i32 = 2;

fn start(pod: &Pod, more: &[&str]) -> Child {
    let lab = &pod.lab;
    // What router advertisements would set is set below.
    lab.guest().sysctl("net/ipv6/conf/default/accept_ra", "0").unwrap();
    let mtu = lab.variant().mtu().to_string();
    let mut command = std::process::Command::new(binary("vhost-cable").unwrap());
    command.arg("--socket").arg(&pod.socket).arg("--netns").arg(lab.guest().path());
    command.args(["--tap", "tap0", "--mtu", &mtu]).args(more);
    let mut cable = lab.spawn("cable", command).unwrap();
    cable.wait_for_line(LIMIT, "connected").unwrap();
    lab.guest().ip(&lab.variant().pod_configuration("tap0")).unwrap();
    cable
}

/// Verified bytes both ways at once over both families, and requests from the outside.
fn carry(lab: &Lab) {
    for server in [SERVER_V4.into(), SERVER_V6.into()] {
        for (role, direction) in [(Role::VerifySink, "out"), (Role::VerifySource, "in")] {
            let at = SocketAddr::new(server, role.port());
            let line = format!(
                "stream --connect {at} --direction {direction} --verify --bytes 20000000 --seconds 20 --flows 2"
            );
            assert_eq!(drive::run(lab.guest(), &line).unwrap()["bytes"], 40_000_000);
        }
        let at = SocketAddr::new(server, Role::UdpEcho.port());
        let line = format!("udp-rr --connect {at} --size 1400 --count 100");
        assert_eq!(drive::run(lab.guest(), &line).unwrap()["count"], 100);
    }
    let shift = FORWARDED - Role::OneShot.port();
    let _server = drive::serve_shifted(lab, lab.guest(), &[], shift).unwrap();
    let line = format!("crr --connect {POD_V4}:{FORWARDED} --count 100 --seconds 20");
    assert_eq!(drive::run(lab.world(), &line).unwrap()["count"], 100);
}

#[test]
fn cable_carries_a_kernels_traffic() {
    for (mtu, more) in [
        (1500, &[][..]),
        (65_520, &[]),
        (1500, &["--queues", "2", "--ring-size", "1024"]),
        // What passt accepts: VERSION_1, MRG_RXBUF, GUEST_CSUM, and the protocol.
        (1500, &["--features", "0x140008002"]),
    ] {
        eprintln!("MTU {mtu}, {more:?}");
        let pod = Pod::start_with_mtu(mtu);
        let mut cable = start(&pod, more);
        carry(&pod.lab);
        assert!(!cable.has_ended(), "{}", cable.log());
        cable.signal(Signal::TERM).unwrap();
        assert!(cable.wait(LIMIT).unwrap().success(), "{}", cable.log());
    }
}

#[test]
fn cable_says_when_the_back_end_is_gone() {
    let pod = Pod::start();
    let mut cable = start(&pod, &[]);
    pod.translator.signal(Signal::KILL).unwrap();
    assert_eq!(cable.wait(LIMIT).unwrap().code(), Some(GONE), "{}", cable.log());
    assert!(cable.log().contains("the back end is gone"), "{}", cable.log());
}

#[test]
fn cable_waits_for_another_back_end_and_goes_on() {
    let mut pod = Pod::start();
    let mut cable = start(&pod, &["--reconnect"]);
    for round in 1..=3 {
        carry(&pod.lab);
        let at = SocketAddr::new(SERVER_V4.into(), Role::Sink.port());
        let load = drive::start(
            &pod.lab,
            pod.lab.guest(),
            "load",
            &format!("stream --connect {at} --seconds 20 --flows 4"),
        )
        .unwrap();
        // Frames are under way.
        let rounds = pod.processor_time() + Duration::from_millis(100);
        wait_for(LIMIT, "load", || pod.processor_time() > rounds).unwrap();
        pod.restart();
        wait_for(LIMIT, "the cable to connect again", || {
            cable.log().matches("connected again").count() == round
        })
        .unwrap_or_else(|error| panic!("{error}; its log is:\n{}", cable.log()));
        load.signal(Signal::KILL).unwrap();
    }
    carry(&pod.lab);
    assert!(!cable.has_ended(), "{}", cable.log());
}
