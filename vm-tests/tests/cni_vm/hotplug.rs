//! NICs that come and go while the pod runs, as with Multus' dynamic networks: ADD and DEL of an interface's tap.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::stage::{INTERFACE, MTU, Stage, TAP, address_of, does_not_reach, link, merge, reaches};

/// The pod's own programs have its address before the VM's NIC is plugged, and after it is unplugged; between, the guest.
#[test]
fn pods_interface_works_as_before_once_the_tap_beside_it_is_gone() {
    let stage = Stage::new(2).unwrap();
    let addresses = [0, 1].map(|pod| address_of(&stage.add(pod, &cluster(&stage)).unwrap()).unwrap());
    let [own, peer] = addresses.each_ref().map(String::as_str);
    let pods = [0, 1].map(|pod| stage.node.pod(pod).unwrap());
    let before = state(&stage).unwrap();
    let tap = tap(&stage);
    for turn in 0..3 {
        reaches(pods[0], peer).unwrap();
        reaches(pods[1], own).unwrap();
        stage.add(0, &tap).unwrap();
        let mac = before.get("mac").and_then(Value::as_str).unwrap();
        let guest = stage.plug_as(0, mac, TAP, MTU).unwrap();
        stage.address(0, &[&format!("{own}/24")]).unwrap();
        stage.reaches(0, peer).unwrap();
        reaches(pods[1], own).unwrap();
        // All that comes for the pod is the guest's.
        does_not_reach(pods[0], peer).unwrap();
        if turn == 0 {
            // QEMU still has it open, as where a pod ends before the VM does.
            stage.delete(0, &tap).unwrap();
            drop(guest);
        } else {
            drop(guest);
            stage.delete(0, &tap).unwrap();
        }
        assert!(link(pods[0], TAP).is_err(), "{TAP} outlasts DEL");
        assert_eq!(state(&stage).unwrap(), before);
    }
    reaches(pods[0], peer).unwrap();
    reaches(pods[1], own).unwrap();
}

fn cluster(stage: &Stage) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "cluster", "type": "bridge", "bridge": "cbr0",
        "ipam": { "type": "host-local", "subnet": "10.1.0.0/24", "dataDir": stage.node.leases() },
    })
}

fn tap(stage: &Stage) -> Value {
    let mut config = stage.config("tap", &json!({}));
    merge(&mut config, &json!({ "uplink": INTERFACE }));
    config
}

/// What an unplugged tap must leave as it was.
fn state(stage: &Stage) -> Result<Value> {
    let pod = stage.node.pod(0)?;
    let look = |program: &str, words: &[&str]| -> Result<String> {
        let output = pod.command(program).args(words).output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let eth0 = link(pod, INTERFACE)?;
    Ok(json!({
        "mac": eth0.get("address"),
        "mtu": eth0.get("mtu"),
        "flags": eth0.get("flags"),
        "qdiscs": look("tc", &["qdisc", "show", "dev", INTERFACE])?,
        "filters": look("tc", &["filter", "show", "dev", INTERFACE, "ingress"])?,
        "addresses": look("ip", &["-o", "address", "show", "dev", INTERFACE])?,
        "routes": look("ip", &["route", "show"])?,
    }))
}

/// The pod's interface itself, with the VM on it.
#[test]
fn interface_of_a_running_pod_comes_and_goes_and_comes_again() {
    let stage = Stage::new(2).unwrap();
    let config = stage.config("bridge", &json!({}));
    let result = stage.add(1, &config).unwrap();
    let _peer = stage.plug(1, &result, MTU).unwrap();
    stage.address(1, &["10.1.0.3/24"]).unwrap();
    for _ in 0..3 {
        let result = stage.add(0, &config).unwrap();
        let _guest = stage.plug(0, &result, MTU).unwrap();
        stage.address(0, &["10.1.0.2/24"]).unwrap();
        stage.reaches(0, "10.1.0.3").unwrap();
        stage.delete(0, &config).unwrap();
        for name in [INTERFACE, TAP] {
            assert!(link(stage.node.pod(0).unwrap(), name).is_err(), "{name} outlasts DEL");
        }
    }
}
