//! The lab itself: each variant's pod reaches the world's servers, and nothing is left behind.
#![expect(clippy::tests_outside_test_module, reason = "a file of integration tests is a test module")]

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::Duration;

use vm_tests::lab::{Lab, Variant, wait_for};

#[test]
fn pod_and_world_reach_each_other_in_every_variant() {
    let variants = [
        Variant::DualStack,
        Variant::Ipv4Only,
        Variant::Ipv6Only,
        Variant::Calico,
        Variant::Mtu(1400),
        Variant::Mtu(9000),
        Variant::Mtu(65520),
    ];
    for variant in variants {
        let lab = Lab::new(variant).unwrap();
        for server in lab.servers() {
            let payload = if server.is_ipv4() { variant.mtu() - 28 } else { variant.mtu() - 48 };
            let mut ping = lab.pod().command("ping");
            ping.args(["-c1", "-W2", "-Mdo", &format!("-s{payload}"), &server.to_string()]);
            let output = ping.output().unwrap();
            assert!(output.status.success(), "{variant:?}: pod to {server}: {output:?}");
        }
        for address in lab.pod_addresses() {
            let output =
                lab.world().command("ping").args(["-c1", "-W2", &address.to_string()]).output().unwrap();
            assert!(output.status.success(), "{variant:?}: world to {address}: {output:?}");
        }
    }
}

#[test]
fn namespace_settings_do_not_depend_on_the_machine() {
    let lab = Lab::new(Variant::DualStack).unwrap();
    for namespace in [lab.world(), lab.pod(), lab.guest()] {
        let read = |path: &str| {
            namespace.run(|| std::fs::read_to_string(Path::new("/proc/sys").join(path))).unwrap()
        };
        assert_eq!(read("net/ipv4/ip_unprivileged_port_start").unwrap().trim(), "0");
        if rustix::process::geteuid().is_root()
            && std::env::var_os("SLUICE_LAB_INSIDE_USER_NAMESPACE").is_none()
        {
            assert_eq!(read("net/ipv4/tcp_congestion_control").unwrap().trim(), "cubic");
        }
    }
}

#[test]
fn dropped_lab_leaves_nothing() {
    let lab = Lab::new(Variant::DualStack).unwrap();
    let names = [lab.world().path(), lab.pod().path(), lab.guest().path(), lab.directory().to_owned()];
    // It forks away from us, as a daemon would.
    let mut daemon = lab.pod().command("setsid");
    daemon.args(["--fork", "sleep", "1000"]);
    assert!(daemon.status().unwrap().success());
    drop(lab);
    for name in names {
        assert!(!name.exists(), "{} is still there", name.display());
    }
}

#[test]
fn child_dies_with_its_value() {
    let lab = Lab::new(Variant::DualStack).unwrap();
    let mut cat = lab.spawn("cat", lab.guest().command("cat")).unwrap();
    cat.write("hello\n").unwrap();
    assert_eq!(cat.wait_for_line(Duration::from_secs(5), "hell").unwrap(), "hello");
    let process = Path::new("/proc").join(cat.pid().to_string());
    assert!(process.exists());
    drop(cat);
    wait_for(Duration::from_secs(5), "the end of cat", || !process.exists()).unwrap();

    let mut sleep = lab.spawn("sleep", lab.guest().command("cat")).unwrap();
    sleep.signal(rustix::process::Signal::TERM).unwrap();
    assert_eq!(sleep.wait(Duration::from_secs(5)).unwrap().signal(), Some(15));
}
