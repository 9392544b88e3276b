//! Two guests of one network reach each other in every mode, by IPv4 and IPv6, with packets of the MTU and none larger.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vm_tests::lab::Child;

use crate::stage::{
    INTERFACE, MTU, NIC, SLACK, Stage, TAP, UPLINK, cluster, link, mac_of, merge, mtu_of, node_address,
    ping_of_size,
};

const V4: [&str; 2] = ["10.1.0.2", "10.1.0.3"];
const V6: [&str; 2] = ["fd00:1::2", "fd00:1::3"];
/// What a guest may be set to; its tap's path ends sooner.
const JUMBO: u16 = 9000;

/// Guests 0 and 1 of a pair, on `stages` 0 and 1 if there are two.
struct Pair {
    stages: Vec<Stage>,
    mtu: u16,
    _guests: Vec<Child>,
}

impl Pair {
    fn new(stages: Vec<Stage>, plug: impl Fn(&Stage, usize) -> Result<(Child, u16)>) -> Result<Self> {
        let mut guests = Vec::new();
        let mut mtus = Vec::new();
        for number in [0, 1] {
            let (guest, mtu) = plug(at(&stages, number)?, number)?;
            guests.push(guest);
            mtus.push(mtu);
        }
        ensure!(mtus.first() == mtus.last(), "MTUs {mtus:?}");
        Ok(Self { stages, mtu: mtus.first().copied().unwrap_or_default(), _guests: guests })
    }

    fn stage(&self, number: usize) -> Result<&Stage> {
        at(&self.stages, number)
    }

    /// On one link: neighbours answer for themselves.
    fn addresses(&self, v4: u8, v6: u8) -> Result<()> {
        for (number, (four, six)) in V4.iter().zip(V6).enumerate() {
            let addresses = [format!("{four}/{v4}"), format!("{six}/{v6}")];
            self.stage(number)?.address(number, &addresses.each_ref().map(String::as_str))?;
        }
        Ok(())
    }

    fn reach_each_other(&self) -> Result<()> {
        for (from, to) in [(0, 1), (1, 0)] {
            for address in [V4, V6].iter().filter_map(|family| family.get(to)) {
                self.stage(from)?.reaches(from, address)?;
            }
        }
        Ok(())
    }

    /// A guest that thinks its link carries more loses what is larger than the path carries, and no more. Where packets
    /// are routed it hears of it.
    fn mtu_edges(&self, slack: u16) -> Result<()> {
        let sender = self.stage(0)?.guest(0)?;
        for address in [V4, V6].iter().filter_map(|family| family.get(1)) {
            for mtu in [self.mtu, JUMBO] {
                sender.ip(&format!("link set {NIC} mtu {mtu}\n"))?;
                ensure!(ping_of_size(sender, address, self.mtu)?, "{address}: {} of {mtu}", self.mtu);
                let more = self.mtu + if mtu == self.mtu { 1 } else { slack + 1 };
                ensure!(!ping_of_size(sender, address, more)?, "{address}: {more} of {mtu} pass");
            }
            // What it heard of the path is for the other test no more.
            sender.ip(&format!("link set {NIC} mtu {}\n", self.mtu))?;
        }
        Ok(())
    }
}

fn at(stages: &[Stage], number: usize) -> Result<&Stage> {
    stages.get(number).or_else(|| stages.first()).context("a stage")
}

/// ADD of `config` for the pod, and the guest on its tap.
fn on_tap(stage: &Stage, pod: usize, config: &Value) -> Result<(Child, u16)> {
    let result = stage.add(pod, config)?;
    let mtu = mtu_of(&result, INTERFACE)?;
    let tap = link(stage.node.pod(pod)?, TAP)?;
    ensure!(tap.get("mtu") == Some(&json!(mtu)), "MTU {mtu} of {INTERFACE}, and {tap}");
    Ok((stage.plug(pod, &result, mtu)?, mtu))
}

#[test]
fn guests_of_a_bridge() {
    for keys in [json!({}), json!({ "mtu": 1400 }), json!({ "macspoofchk": true, "multiQueue": true })] {
        let pair = Pair::new(vec![Stage::new(2).unwrap()], |stage, pod| {
            on_tap(stage, pod, &stage.config("bridge", &keys))
        });
        let pair = pair.unwrap();
        assert_eq!(
            u64::from(pair.mtu),
            keys.get("mtu").and_then(Value::as_u64).unwrap_or_else(|| MTU.into())
        );
        pair.addresses(24, 64).unwrap();
        pair.reach_each_other().unwrap();
        pair.mtu_edges(SLACK).unwrap();
    }
}

/// The cluster's network is the reference plugin's, or ours as for a container.
#[test]
fn guests_on_taps_beside_the_pods_own_interfaces() {
    for ours in [false, true] {
        let pair = Pair::new(vec![Stage::new(2).unwrap()], |stage, pod| beside(stage, pod, ours)).unwrap();
        pair.addresses(24, 64).unwrap();
        pair.reach_each_other().unwrap();
        pair.mtu_edges(SLACK).unwrap();
    }
}

fn beside(stage: &Stage, pod: usize, ours: bool) -> Result<(Child, u16)> {
    let addresses: Vec<Value> = [format!("{}/24", V4[pod]), format!("{}/64", V6[pod])]
        .map(|address| json!({ "address": address }))
        .to_vec();
    let more = json!({ "bridge": "cbr0", "ipam": { "type": "static", "addresses": addresses } });
    let mut cluster = if ours {
        stage.config("bridge", &json!({ "tap": false }))
    } else {
        json!({ "cniVersion": "1.0.0", "name": "cluster", "type": "bridge" })
    };
    merge(&mut cluster, &more);
    let result = stage.add(pod, &cluster)?;
    let before = link(stage.node.pod(pod)?, INTERFACE)?;
    stage.add(pod, &stage.config("tap", &json!({})))?;
    let after = link(stage.node.pod(pod)?, INTERFACE)?;
    for key in ["address", "mtu", "flags", "master"] {
        ensure!(before.get(key) == after.get(key), "{key}: {before} and {after}");
    }
    Ok((stage.plug(pod, &result, MTU)?, MTU))
}

#[test]
fn guests_of_an_overlay() {
    for (mtu, more) in [(1450, json!({})), (1300, json!({ "mtu": 1300 }))] {
        let pair = Pair::new(cluster(2, 2).unwrap(), |stage, pod| {
            let mut config = stage
                .config("vxlan", &json!({ "vni": 7, "device": UPLINK, "peers": [node_address(2 - pod)] }));
            merge(&mut config, &more);
            on_tap(stage, pod, &config)
        });
        let pair = pair.unwrap();
        assert_eq!(pair.mtu, mtu);
        pair.addresses(24, 64).unwrap();
        pair.reach_each_other().unwrap();
        pair.mtu_edges(SLACK).unwrap();
    }
}

/// The bridge of an overlay has several on one node.
#[test]
fn guests_of_an_overlay_on_one_node() {
    let pair = Pair::new(cluster(1, 2).unwrap(), |stage, pod| {
        let keys = json!({ "vni": 7, "device": UPLINK, "peers": [node_address(1), node_address(2)] });
        on_tap(stage, pod, &stage.config("vxlan", &keys))
    });
    let pair = pair.unwrap();
    pair.addresses(24, 64).unwrap();
    pair.reach_each_other().unwrap();
}

/// Each guest has its address alone, and a way to all else; or, by IPv4, thinks that the other is on its link.
#[test]
fn guests_of_a_routed_pair() {
    let pair = Pair::new(vec![Stage::new(2).unwrap()], |stage, pod| {
        let addresses: Vec<Value> = [format!("{}/24", V4[pod]), format!("{}/64", V6[pod])]
            .map(|address| json!({ "address": address }))
            .to_vec();
        let config = stage.config("ptp", &json!({ "ipam": { "type": "static", "addresses": addresses } }));
        on_tap(stage, pod, &config)
    });
    let pair = pair.unwrap();
    pair.addresses(24, 128).unwrap();
    for number in [0, 1] {
        let guest = pair.stage(number).unwrap().guest(number).unwrap();
        guest.ip(&format!("route add fd00:1::1 dev {NIC}\nroute add default via fd00:1::1\n")).unwrap();
    }
    pair.reach_each_other().unwrap();
    pair.mtu_edges(0).unwrap();
    for number in [0, 1] {
        let guest = pair.stage(number).unwrap().guest(number).unwrap();
        let lone = format!(
            "address del {0}/24 dev {NIC}\naddress add {0}/32 dev {NIC}\n\
             route add 10.1.0.1 dev {NIC}\nroute add default via 10.1.0.1\n",
            V4[number]
        );
        guest.ip(&lone).unwrap();
    }
    pair.reach_each_other().unwrap();
}

#[test]
fn guests_of_one_link_of_the_node() {
    let _turn = crate::machines::nodes_turn();
    let pair = Pair::new(cluster(1, 2).unwrap(), |stage, pod| {
        let result = stage.add(pod, &stage.config("macvtap", &json!({ "master": UPLINK })))?;
        let mtu = mtu_of(&result, INTERFACE)?;
        let node = device_node(stage, pod)?;
        Ok((stage.plug_as(pod, &mac_of(&result, INTERFACE)?, &node, mtu)?, mtu))
    });
    let pair = pair.unwrap();
    pair.addresses(24, 64).unwrap();
    pair.reach_each_other().unwrap();
    pair.mtu_edges(SLACK).unwrap();
    let stage = pair.stage(0).unwrap();
    let nodes: Vec<String> = [0, 1].iter().map(|pod| device_node(stage, *pod).unwrap()).collect();
    for pod in [0, 1] {
        stage.delete(pod, &stage.config("macvtap", &json!({ "master": UPLINK }))).unwrap();
    }
    for node in nodes {
        assert!(!std::path::Path::new(&node).exists(), "{node} outlasts DEL");
    }
}

/// The device node of the macvtap that is the pod's first interface.
pub(crate) fn device_node(stage: &Stage, pod: usize) -> Result<String> {
    device_node_of(stage, pod, INTERFACE)
}

pub(crate) fn device_node_of(stage: &Stage, pod: usize, interface: &str) -> Result<String> {
    let link = link(stage.node.pod(pod)?, interface)?;
    let index = link.get("ifindex").and_then(Value::as_u64).context("an index")?;
    Ok(format!("/dev/tap{index}"))
}
