//! Every shape of pod network: the guest is configured by the translator, and all that ordinary programs do works,
//! both ways, in each family the pod has.

use std::net::SocketAddr;

use vm_tests::lab::Variant;
use vm_tests::traffic::{Role, drive};

use crate::tap::{Tap, Way};

/// Streams are this long: many times every buffer and window on the way, and no multiple of anything.
const STREAM_BYTES: u64 = 30_000_001;

fn carries(variant: Variant) {
    let mut tap = Tap::start(variant);
    let link = tap.lab.guest().command("ip").args(["link", "show", "tap0"]).output().unwrap();
    let link = String::from_utf8(link.stdout).unwrap();
    assert!(link.contains(&format!("mtu {} ", variant.mtu())), "{link}");

    let _world = drive::serve(&tap.lab, tap.lab.world(), &tap.lab.servers()).unwrap();
    let _guest = drive::serve(&tap.lab, tap.lab.guest(), &[]).unwrap();
    for server in tap.lab.servers() {
        let mut ping = tap.lab.guest().command("ping");
        let output = ping.args(["-c3", "-i0.01", "-W5", &server.to_string()]).output().unwrap();
        assert!(output.status.success(), "ping {server}: {output:?}");
    }
    for way in Way::BOTH {
        let (initiator, addresses) = tap.initiator(way);
        for address in addresses {
            for (role, direction) in [(Role::VerifySink, "out"), (Role::VerifySource, "in")] {
                let at = SocketAddr::new(address, role.port());
                let line = format!(
                    "stream --connect {at} --direction {direction} --verify --bytes {STREAM_BYTES} --seconds 60"
                );
                drive::run(initiator, &line).unwrap();
            }
            let echo = SocketAddr::new(address, Role::UdpEcho.port());
            for size in [1, 1000] {
                drive::run(initiator, &format!("udp-rr --connect {echo} --count 50 --size {size}")).unwrap();
            }
        }
    }
    tap.assert_alive();
}

#[test]
fn dual_stack_pod_carries_everything() {
    carries(Variant::DualStack);
}

#[test]
fn ipv4_only_pod_carries_everything() {
    carries(Variant::Ipv4Only);
}

#[test]
fn ipv6_only_pod_carries_everything() {
    carries(Variant::Ipv6Only);
}

#[test]
fn calico_like_pod_carries_everything() {
    carries(Variant::Calico);
}

#[test]
fn mtu_1400_pod_carries_everything() {
    carries(Variant::Mtu(1400));
}

#[test]
fn mtu_9000_pod_carries_everything() {
    carries(Variant::Mtu(9000));
}

#[test]
fn mtu_65520_pod_carries_everything() {
    carries(Variant::Mtu(65520));
}
