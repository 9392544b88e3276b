//! The traffic tool against itself, over a veth: what it measures and verifies is right without a translator.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "a file of integration tests is a test module"
)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use vm_tests::lab::{Child, Lab, Namespace, POD_V4, SERVER_V4, SERVER_V6, Variant};
use vm_tests::traffic::Role;

const TRAFFIC: &str = env!("CARGO_BIN_EXE_traffic");

fn serve(lab: &Lab) -> Child {
    let mut command = lab.world().command(TRAFFIC);
    command.arg("serve");
    for address in lab.servers() {
        command.args(["--bind", &address.to_string()]);
    }
    let mut server = lab.spawn("serve", command).unwrap();
    server.wait_for_line(Duration::from_secs(10), "ready").unwrap();
    server
}

fn run(namespace: &Namespace, line: &str) -> Value {
    let output = namespace.command(TRAFFIC).args(line.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "traffic {line}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn at(address: impl Into<IpAddr>, role: Role) -> SocketAddr {
    SocketAddr::new(address.into(), role.port())
}

#[test]
fn streams_arrive_and_are_counted() {
    let lab = Lab::new(Variant::DualStack).unwrap();
    let _server = serve(&lab);
    for address in lab.servers() {
        let sink = at(address, Role::VerifySink);
        let result =
            run(lab.pod(), &format!("stream --connect {sink} --verify --bytes 20000001 --seconds 20"));
        assert_eq!(result["bytes"], 20_000_001);
        let source = at(address, Role::VerifySource);
        let line = format!("stream --connect {source} --direction in --verify --bytes 20000001 --seconds 20");
        assert_eq!(run(lab.pod(), &line)["bytes"], 20_000_001);
    }
    for (role, direction) in [(Role::Sink, "out"), (Role::Source, "in")] {
        let address = at(SERVER_V4, role);
        let line = format!("stream --connect {address} --direction {direction} --flows 4 --seconds 0.2");
        let result = run(lab.pod(), &line);
        assert!(result["bits_per_second"].as_f64().unwrap() > 1e8, "{result}");
    }
}

#[test]
fn exchanges_and_datagrams_are_counted() {
    let lab = Lab::new(Variant::DualStack).unwrap();
    let _server = serve(&lab);
    let echo = at(SERVER_V6, Role::Echo);
    assert!(run(lab.pod(), &format!("rr --connect {echo} --seconds 0.2"))["p99_us"].as_f64().unwrap() > 0.0);
    let result = run(lab.pod(), &format!("udp-rr --connect {echo} --size 9000 --count 100"));
    assert_eq!(result["count"], 100);
    let one_shot = at(SERVER_V4, Role::OneShot);
    let result = run(lab.pod(), &format!("crr --connect {one_shot} --count 2000 --flows 2 --seconds 20"));
    assert_eq!(result["count"], 2000);
    let (sink, counters) = (at(SERVER_V4, Role::UdpSink), at(SERVER_V4, Role::UdpCounters));
    let line = format!("udp-stream --connect {sink} --count-at {counters} --rate 50M --seconds 0.5");
    let result = run(lab.pod(), &line);
    assert!(result["delivered"].as_u64().unwrap() > 1000, "{result}");
    assert!(result["delivered"].as_u64() <= result["sent"].as_u64(), "{result}");
}

#[test]
fn held_connections_are_counted_until_the_end() {
    let lab = Lab::new(Variant::DualStack).unwrap();
    let server = serve(&lab);
    let mut command = lab.pod().command(TRAFFIC);
    command.args(["hold", "--count", "3000", "--echo", "--connect", &at(SERVER_V4, Role::Echo).to_string()]);
    let mut hold = lab.spawn("hold", command).unwrap();
    let opened: Value =
        serde_json::from_str(&hold.wait_for_line(Duration::from_secs(20), "asked").unwrap()).unwrap();
    assert_eq!((&opened["established"], &opened["refused"]), (&3000.into(), &0.into()));
    drop(server);
    hold.close_stdin();
    let end: Value =
        serde_json::from_str(&hold.wait_for_line(Duration::from_secs(20), "hold-end").unwrap()).unwrap();
    assert_eq!(end["lost"], 3000);

    let mut command = lab.pod().command(TRAFFIC);
    command.args(["hold", "--count", "100", "--connect", &at(SERVER_V4, Role::Echo).to_string()]);
    let mut hold = lab.spawn("refused", command).unwrap();
    let opened: Value =
        serde_json::from_str(&hold.wait_for_line(Duration::from_secs(20), "asked").unwrap()).unwrap();
    assert_eq!((&opened["established"], &opened["refused"]), (&0.into(), &100.into()));
}

#[test]
fn relay_passes_on_every_byte_and_both_ends() {
    let lab = Lab::new(Variant::DualStack).unwrap();
    let _server = serve(&lab);
    let mut command = lab.pod().command(TRAFFIC);
    command.arg("relay");
    for role in Role::TCP {
        let (listen, connect) = (at(POD_V4, role), at(SERVER_V4, role));
        command.args(["--map", &format!("{listen}={connect}")]);
    }
    let mut relay = lab.spawn("relay", command).unwrap();
    relay.wait_for_line(Duration::from_secs(10), "ready").unwrap();
    for (role, direction) in [(Role::VerifySink, "out"), (Role::VerifySource, "in")] {
        let address = at(POD_V4, role);
        let line = format!(
            "stream --connect {address} --direction {direction} --verify --bytes 30000000 --seconds 20 --flows 3"
        );
        assert_eq!(run(lab.world(), &line)["bytes"], 90_000_000);
    }
    let one_shot = at(POD_V4, Role::OneShot);
    assert_eq!(
        run(lab.world(), &format!("crr --connect {one_shot} --count 1000 --seconds 20"))["count"],
        1000
    );
}
