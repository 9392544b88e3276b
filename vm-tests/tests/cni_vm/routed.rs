//! Guests and what is beyond their node: masquerading, and ports of the node that lead to a guest.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vm_tests::lab::{Child, Namespace, wait_for};

use crate::stage::{LIMIT, MTU, NIC, Stage, UPLINK, count, counted, merge};

const GUEST: &str = "10.1.0.2";
const OTHER_GUEST: &str = "10.1.0.3";
const GATEWAY: &str = "10.1.0.1";
const NODE: &str = "192.0.2.1";
const OUTSIDE: &str = "192.0.2.9";
/// The node's, and the guest's behind it.
const PORT: u16 = 8080;
const GUEST_PORT: u16 = 80;
const WORDS: &[u8] = b"from the guest";

/// A node with an uplink, and two guests whose gateway it is. The outside has no way to their network.
fn stage(mode: &str, keys: &Value, ports: &Value) -> Result<(Stage, Vec<Child>)> {
    let stage = Stage::new(2)?;
    stage.node.uplink(UPLINK, 1500)?;
    stage.node.host()?.ip(&format!("address add {NODE}/24 dev {UPLINK}\n"))?;
    stage.node.outside()?.ip(&format!("address add {OUTSIDE}/24 dev far0\n"))?;
    let mut guests = Vec::new();
    for (pod, address) in [GUEST, OTHER_GUEST].iter().enumerate() {
        let ipam = json!({ "type": "static", "addresses": [{ "address": format!("{address}/24") }] });
        let mut config =
            stage.config(mode, &json!({ "ipam": ipam, "capabilities": { "portMappings": true } }));
        if mode == "bridge" {
            merge(&mut config, &json!({ "isGateway": true }));
        }
        merge(&mut config, keys);
        let mapped = [("portMappings", ports.clone())];
        let result = stage.add_with(pod, &config, if pod == 0 { &mapped } else { &[] })?;
        guests.push(stage.plug(pod, &result, MTU)?);
        stage.address(pod, &[&format!("{address}/24")])?;
        stage.guest(pod)?.ip(&format!("route add default via {GATEWAY} dev {NIC}\n"))?;
    }
    Ok((stage, guests))
}

#[test]
fn outside_sees_the_nodes_address_where_the_guest_is_masqueraded() {
    for mode in ["bridge", "ptp"] {
        let (stage, _guests) = stage(mode, &json!({ "ipMasq": true }), &json!([])).unwrap();
        let outside = stage.node.outside().unwrap();
        count(outside, &format!("ip saddr {NODE} icmp type echo-request")).unwrap();
        stage.reaches(0, OUTSIDE).unwrap();
        assert!(counted(outside).unwrap() > 0, "{mode}");
        // Within their network guests see each other as they are.
        let other = stage.guest(1).unwrap();
        count(other, &format!("ip saddr {GUEST} icmp type echo-request")).unwrap();
        stage.reaches(0, OTHER_GUEST).unwrap();
        assert!(counted(other).unwrap() > 0, "{mode}");
        let (stage, _guests) = self::stage(mode, &json!({}), &json!([])).unwrap();
        stage.does_not_reach(0, OUTSIDE).unwrap();
    }
}

/// From the outside, from another guest, from the node; from the guest itself where frames may return to their port.
#[test]
fn port_of_the_node_leads_to_the_guest() {
    let ports = json!([{ "hostPort": PORT, "containerPort": GUEST_PORT, "protocol": "tcp" }]);
    for (mode, keys, to_itself) in [
        ("bridge", json!({}), false),
        ("bridge", json!({ "hairpinMode": true }), true),
        ("ptp", json!({ "ipMasq": true }), true),
    ] {
        let (stage, _guests) = stage(mode, &keys, &ports).unwrap();
        let server = Server::listen(stage.guest(0).unwrap()).unwrap();
        let host = stage.node.host().unwrap();
        let mut callers = vec![
            ("the outside", stage.node.outside().unwrap(), NODE),
            ("another guest", stage.guest(1).unwrap(), NODE),
            ("the node", host, NODE),
            ("the node, by its loopback", host, "127.0.0.1"),
        ];
        if to_itself {
            callers.push(("the guest itself", stage.guest(0).unwrap(), NODE));
        }
        for (who, caller, address) in callers {
            server.answers(caller, address).with_context(|| format!("{mode} {keys}: {who}")).unwrap();
        }
    }
}

/// Says [`WORDS`] to each that calls.
struct Server(TcpListener);

impl Server {
    fn listen(guest: &Namespace) -> Result<Self> {
        let listener = guest.run(|| TcpListener::bind(("0.0.0.0", GUEST_PORT)))??;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    fn answers(&self, caller: &Namespace, address: &str) -> Result<()> {
        let to: SocketAddr = format!("{address}:{PORT}").parse()?;
        let mut client = caller.run(|| TcpStream::connect_timeout(&to, LIMIT))??;
        client.set_read_timeout(Some(LIMIT))?;
        let mut accepted = None;
        wait_for(LIMIT, "a call", || {
            accepted = self.0.accept().ok();
            accepted.is_some()
        })?;
        let (mut stream, _) = accepted.context("a call")?;
        stream.write_all(WORDS)?;
        drop(stream);
        let mut heard = Vec::new();
        client.read_to_end(&mut heard)?;
        ensure!(heard == WORDS, "{heard:?}");
        Ok(())
    }
}
