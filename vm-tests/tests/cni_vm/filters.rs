//! What a bridge keeps from a guest: other guests, and MACs that are not its own.

use serde_json::{Value, json};

use crate::stage::{MTU, NIC, Stage, link, merge};

const GUESTS: [&str; 3] = ["10.1.0.2", "10.1.0.3", "10.1.0.4"];
const GATEWAY: &str = "10.1.0.1";

/// A bridge that is the guests' gateway.
fn bridge(stage: &Stage, pod: usize, keys: &Value) -> Value {
    let address = json!([{ "address": format!("{}/24", GUESTS[pod]) }]);
    let mut config = stage
        .config("bridge", &json!({ "isGateway": true, "ipam": { "type": "static", "addresses": address } }));
    merge(&mut config, keys);
    config
}

#[test]
fn isolated_guests_reach_the_gateway_and_not_each_other() {
    let stage = Stage::new(3).unwrap();
    let mut guests = Vec::new();
    for (pod, isolated) in [(0, true), (1, true), (2, false)] {
        let result = stage.add(pod, &bridge(&stage, pod, &json!({ "portIsolation": isolated }))).unwrap();
        guests.push(stage.plug(pod, &result, MTU).unwrap());
        stage.address(pod, &[&format!("{}/24", GUESTS[pod])]).unwrap();
    }
    for (from, to, passes) in [
        (0, GATEWAY, true),
        (1, GATEWAY, true),
        (2, GATEWAY, true),
        (0, GUESTS[2], true),
        (2, GUESTS[1], true),
        (0, GUESTS[1], false),
        (1, GUESTS[0], false),
    ] {
        let found = if passes { stage.reaches(from, to) } else { stage.does_not_reach(from, to) };
        found.unwrap();
    }
}

#[test]
fn guest_with_another_mac_is_dropped_where_macs_are_checked() {
    for checked in [true, false] {
        let stage = Stage::new(2).unwrap();
        let mut guests = Vec::new();
        for pod in [0, 1] {
            let config = bridge(&stage, pod, &json!({ "macspoofchk": checked && pod == 0 }));
            let result = stage.add(pod, &config).unwrap();
            guests.push(stage.plug(pod, &result, MTU).unwrap());
            stage.address(pod, &[&format!("{}/24", GUESTS[pod])]).unwrap();
        }
        stage.reaches(0, GUESTS[1]).unwrap();
        let nic = link(stage.guest(0).unwrap(), NIC).unwrap();
        let own = nic.get("address").and_then(Value::as_str).unwrap();
        let change =
            |mac: &str| stage.guest(0).unwrap().ip(&format!("link set {NIC} address {mac}\n")).unwrap();
        change("02:00:00:00:00:66");
        for other in [GUESTS[1], GATEWAY] {
            let found = if checked { stage.does_not_reach(0, other) } else { stage.reaches(0, other) };
            found.unwrap();
        }
        change(own);
        stage.reaches(0, GUESTS[1]).unwrap();
    }
}

/// Two stations behind one port, as nested VMs are, reach each other only where the bridge sends frames back.
#[test]
fn stations_behind_one_port_reach_each_other_by_hairpin() {
    for hairpin in [true, false] {
        let stage = Stage::new(3).unwrap();
        let result = stage.add(0, &bridge(&stage, 0, &json!({ "hairpinMode": hairpin }))).unwrap();
        let _guest = stage.plug(0, &result, MTU).unwrap();
        let outer = stage.guest(0).unwrap();
        for nested in [1, 2] {
            let inner = stage.guest(nested).unwrap();
            outer
                .ip(&format!(
                    "link add link {NIC} name nested type macvlan mode vepa\nlink set nested netns {}\n",
                    inner.name()
                ))
                .unwrap();
            inner
                .ip(&format!(
                    "link set nested name {NIC}\nlink set {NIC} up\naddress add {}/24 dev {NIC}\n",
                    GUESTS[nested]
                ))
                .unwrap();
        }
        stage.reaches(1, GATEWAY).unwrap();
        let found = if hairpin { stage.reaches(1, GUESTS[2]) } else { stage.does_not_reach(1, GUESTS[2]) };
        found.unwrap();
    }
}
