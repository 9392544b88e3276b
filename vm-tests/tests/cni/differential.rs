//! The same configuration through a reference plugin and through ours, on two nodes: the kernels then hold the same and the
//! results say the same, but for differences that are argued here.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vm_tests::cni::{Allowed, Attachment, Network, Node, Runtime, Snapshot, differences};

use crate::ours;

/// One configuration.
struct Row {
    name: &'static str,
    /// The reference plugin's type, and our mode.
    kind: &'static str,
    /// The other keys.
    keys: fn(&Node) -> Value,
    /// What a runtime passes: `CNI_ARGS` and capabilities.
    args: &'static [(&'static str, &'static str)],
    capabilities: &'static [(&'static str, &'static str)],
    /// What only one of the two does, beside [`EVERYWHERE`].
    allowed: &'static [Allowed],
}

/// A MAC address that configurations ask for.
const MAC: &str = "02:00:00:00:00:2a";

/// In every row.
const EVERYWHERE: [Allowed; 9] = [
    Allowed {
        pattern: "node/sysctl ipv6/conf/up0/accept_ra",
        why: "a node that begins to forward keeps the routes that routers announce to it; the reference plugin loses them",
    },
    Allowed {
        pattern: "+ pod0/link/eth0/ifalias = \"sluice:",
        why: "ours marks links that it makes in pods, so as to remove no other's",
    },
    Allowed { pattern: "+ file state/", why: "ours writes down what it makes before it makes it" },
    Allowed {
        pattern: "+ *txqlen = 1000",
        why: "1.1.1 asks for a transmit queue of 0 by never setting it, which later versions no longer do; ours leaves \
              the kernel's length",
    },
    Allowed {
        pattern: "inet6*fd00:7::",
        why: "ours marks each address as not to be checked for a duplicate (`nodad`): IPAM gives it to one pod only, and \
              the VM must not wait for it",
    },
    Allowed {
        pattern: "pod0/sysctl ipv6/conf/eth0/accept_dad",
        why: "for the same, the reference bridge switches the check off for the whole link",
    },
    Allowed {
        pattern: "pod0/sysctl ipv6/conf/eth0/keep_addr_on_down",
        why: "later reference versions keep addresses while the link is down, as ours does",
    },
    Allowed {
        pattern: "pod0/sysctl ipv6/conf/eth0/ndisc_notify",
        why: "later reference versions announce a changed MAC address over IPv6 too, as ours does",
    },
    Allowed {
        pattern: "pod0/sysctl ipv4/conf/eth0/arp_notify",
        why: "1.1.1 announces only where it gives an address, and ptp never; ours always: the address may come later",
    },
];

/// Of a bridge that is no gateway.
const NO_GATEWAY: [Allowed; 7] = [
    Allowed {
        pattern: "node/fdb*mac(node/",
        why: "ours gives a bridge its MAC address when it makes it, so that it stays when ports come and go; the \
              reference plugin does so only together with an IP address",
    },
    Allowed {
        pattern: "node/link/made-up#1/address = ",
        why: "and so the port's address is not also the bridge's",
    },
    Allowed { pattern: "result interfaces/1/mac = ", why: "nor in the result" },
    Allowed {
        pattern: "node/link/br0/address = ",
        why: "nor is the bridge left with a MAC address of zeros after DEL",
    },
    Allowed { pattern: "node/link/cni0/address = ", why: "whatever it is called" },
    Allowed {
        pattern: "node/sysctl ipv6/conf/br0/disable_ipv6",
        why: "ours leaves such a bridge without IPv6: pods have no business with the node's services, which its \
              link-local address would offer them",
    },
    Allowed { pattern: "node/sysctl ipv6/conf/cni0/disable_ipv6", why: "whatever it is called" },
];

/// Of a bridge whose addresses come with names.
const NAMES: Allowed = Allowed {
    pattern: "+ result dns/",
    why: "1.1.1 loses what IPAM says of DNS where the configuration says nothing; later versions pass it on, as ours does",
};

/// Of a point-to-point link.
const DIRECT_ROUTE: Allowed = Allowed {
    pattern: "node/route4 *\"dst\":\"10.7.0.2\"*\"scope\":",
    why: "a pod on a link of its own is \"a directly attached network\" (rtnetlink(7): scope link); the reference plugin \
          says that it is the node itself (scope host), which sends packets the same way",
};

/// Masquerading is compared by what a server outside sees.
const NFT: Allowed = Allowed {
    pattern: "node/nft ",
    why: "the reference plugin writes rules with iptables, ours its own table: the effect is compared instead",
};

fn leases(node: &Node) -> Value {
    json!({ "type": "host-local", "dataDir": node.leases(), "ranges": [[{ "subnet": "10.7.0.0/24" }]] })
}

fn dual_leases(node: &Node) -> Value {
    json!({
        "type": "host-local", "dataDir": node.leases(),
        "ranges": [
            [{ "subnet": "10.7.0.0/24", "rangeStart": "10.7.0.100", "rangeEnd": "10.7.0.110", "gateway": "10.7.0.254" }],
            [{ "subnet": "fd00:7::/64" }],
        ],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }, { "dst": "10.99.0.0/16", "gw": "10.7.0.253" }],
    })
}

const fn row(name: &'static str, kind: &'static str, keys: fn(&Node) -> Value) -> Row {
    Row { name, kind, keys, args: &[], capabilities: &[], allowed: &[] }
}

const ROWS: [Row; 24] = [
    Row {
        allowed: &NO_GATEWAY,
        ..row("a bridge without addresses", "bridge", |_| json!({ "bridge": "br0" }))
    },
    Row { allowed: &NO_GATEWAY, ..row("the bridge's default name", "bridge", |_| json!({})) },
    Row {
        allowed: &NO_GATEWAY,
        ..row(
            "a bridge with addresses that is no gateway",
            "bridge",
            |node| json!({ "bridge": "br0", "ipam": leases(node) }),
        )
    },
    row(
        "a bridge that is a gateway",
        "bridge",
        |node| json!({ "bridge": "br0", "isGateway": true, "ipam": leases(node) }),
    ),
    row("a bridge that is the default gateway of both families", "bridge", |node| {
        json!({ "bridge": "br0", "isDefaultGateway": true, "ipam": {
            "type": "host-local", "dataDir": node.leases(),
            "ranges": [[{ "subnet": "10.7.0.0/24" }], [{ "subnet": "fd00:7::/64" }]],
        } })
    }),
    row(
        "a bridge with ranges and routes",
        "bridge",
        |node| json!({ "bridge": "br0", "isGateway": true, "ipam": dual_leases(node) }),
    ),
    Row {
        allowed: &[NFT],
        ..row(
            "a bridge that masquerades",
            "bridge",
            |node| json!({ "bridge": "br0", "isDefaultGateway": true, "ipMasq": true, "ipam": leases(node) }),
        )
    },
    row(
        "a bridge with hairpin mode",
        "bridge",
        |node| json!({ "bridge": "br0", "hairpinMode": true, "isGateway": true, "ipam": leases(node) }),
    ),
    row(
        "a bridge in promiscuous mode",
        "bridge",
        |node| json!({ "bridge": "br0", "promiscMode": true, "isGateway": true, "ipam": leases(node) }),
    ),
    Row {
        allowed: &NO_GATEWAY,
        ..row(
            "a bridge with an MTU",
            "bridge",
            |node| json!({ "bridge": "br0", "mtu": 1400, "ipam": leases(node) }),
        )
    },
    Row {
        capabilities: &[("mac", r#""02:00:00:00:00:2a""#)],
        allowed: &NO_GATEWAY,
        ..row(
            "a bridge and a MAC address from the runtime",
            "bridge",
            |_| json!({ "bridge": "br0", "capabilities": { "mac": true } }),
        )
    },
    Row {
        args: &[("IgnoreUnknown", "1"), ("MAC", MAC), ("K8S_POD_NAME", "pod")],
        allowed: &NO_GATEWAY,
        ..row("a bridge and a MAC address from the arguments", "bridge", |_| json!({ "bridge": "br0" }))
    },
    Row {
        allowed: &NO_GATEWAY,
        ..row(
            "a bridge and a MAC address from args.cni",
            "bridge",
            |_| json!({ "bridge": "br0", "args": { "cni": { "mac": MAC } } }),
        )
    },
    Row {
        allowed: &[NAMES],
        ..row("a bridge with static addresses", "bridge", |_| {
            json!({ "bridge": "br0", "isGateway": true, "ipam": { "type": "static", "addresses": [
            { "address": "10.7.0.5/24", "gateway": "10.7.0.1" },
            { "address": "fd00:7::5/64", "gateway": "fd00:7::1" },
        ], "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "10.99.0.0/16", "gw": "10.7.0.9" }],
           "dns": { "nameservers": ["10.7.0.1"], "domain": "example.org" } } })
        })
    },
    Row {
        allowed: &NO_GATEWAY,
        ..row("a bridge whose names are not its addresses'", "bridge", |_| {
            json!({ "bridge": "br0", "dns": { "nameservers": ["10.7.0.2"], "search": ["example.org"] },
                "ipam": { "type": "static", "addresses": [{ "address": "10.7.0.5/24" }],
                          "dns": { "nameservers": ["10.7.0.1"], "domain": "example.com" } } })
        })
    },
    Row {
        capabilities: &[("ips", r#"["10.7.0.77/24"]"#)],
        allowed: &NO_GATEWAY,
        ..row(
            "a bridge and an address from the runtime",
            "bridge",
            |node| json!({ "bridge": "br0", "capabilities": { "ips": true }, "ipam": leases(node) }),
        )
    },
    row("a macvlan", "macvlan", |node| json!({ "master": "up0", "ipam": leases(node) })),
    row(
        "a private macvlan",
        "macvlan",
        |node| json!({ "master": "up0", "mode": "private", "ipam": leases(node) }),
    ),
    row(
        "a macvlan whose switch reflects",
        "macvlan",
        |node| json!({ "master": "up0", "mode": "vepa", "ipam": leases(node) }),
    ),
    row(
        "a macvlan that has its parent alone",
        "macvlan",
        |node| json!({ "master": "up0", "mode": "passthru", "ipam": leases(node) }),
    ),
    row(
        "a macvlan with an MTU and both families",
        "macvlan",
        |node| json!({ "master": "up0", "mtu": 1400, "ipam": dual_leases(node) }),
    ),
    Row {
        capabilities: &[("mac", r#""02:00:00:00:00:2a""#)],
        ..row(
            "a macvlan without addresses and with a MAC address",
            "macvlan",
            |_| json!({ "master": "up0", "capabilities": { "mac": true } }),
        )
    },
    Row {
        allowed: &[DIRECT_ROUTE],
        ..row("a point-to-point link", "ptp", |node| json!({ "mtu": 1400, "ipam": leases(node) }))
    },
    Row {
        allowed: &[NFT, DIRECT_ROUTE],
        ..row("a point-to-point link of both families that masquerades", "ptp", |node| {
            json!({ "ipMasq": true, "ipam": {
                "type": "host-local", "dataDir": node.leases(),
                "ranges": [[{ "subnet": "10.7.0.0/24" }], [{ "subnet": "fd00:7::/64" }]],
                "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
            } })
        })
    },
];

impl Row {
    fn masquerades(&self) -> bool {
        self.allowed.iter().any(|allowed| allowed.pattern == NFT.pattern)
    }
}

/// The node's address on its uplink.
const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// One of the two plugins, with a pod attached.
struct Side {
    node: Node,
    network: Network,
    attachment: Attachment,
    result: Value,
}

impl Side {
    fn new(row: &Row, is_ours: bool) -> anyhow::Result<Self> {
        let node = ours_or_bare(is_ours)?;
        node.uplink("up0", 1500)?;
        node.host()?.ip(&format!("address add {NODE}/24 dev up0\n"))?;
        node.outside()?.ip("address add 192.0.2.2/24 dev far0\n")?;
        let mut config = (row.keys)(&node);
        config["cniVersion"] = json!("1.0.0");
        config["name"] = json!("net");
        config["type"] = json!(row.kind);
        if is_ours {
            config["type"] = json!(ours::TYPE);
            // The reference plugin's own key of this name is another of ours.
            if let Some(mode) = config.get("mode").cloned() {
                config["macvlanMode"] = mode;
            }
            config["mode"] = json!(row.kind);
            config["tap"] = json!(false);
            config["stateDir"] = json!(node.state());
        }
        let network = Network::parse(&config)?;
        let mut attachment = Attachment::new("c0ffee", "eth0", &node.netns(0)?);
        for (key, value) in row.args {
            attachment = attachment.with_arg(key, value);
        }
        for (name, value) in row.capabilities {
            attachment = attachment.with_capability(name, serde_json::from_str(value)?);
        }
        let result = Runtime::new(&node).add_only(&network, &attachment)?;
        Ok(Self { node, network, attachment, result })
    }

    /// The result in the words of the node's picture.
    fn words(&self, picture: &Snapshot) -> Vec<String> {
        picture.words(&self.result).into_iter().map(|line| format!("result {line}")).collect()
    }

    /// What a server outside takes the pod for.
    fn seen_outside(&self) -> anyhow::Result<IpAddr> {
        let listener = self.node.outside()?.run(|| TcpListener::bind((Ipv4Addr::new(192, 0, 2, 2), 0)))??;
        let server = listener.local_addr()?;
        let client = self.node.pod(0)?.run(move || -> std::io::Result<SocketAddr> {
            let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
            stream.write_all(b"?")?;
            stream.local_addr()
        })?;
        client.context("connect from the pod")?;
        let (mut stream, from) = listener.accept()?;
        stream.read_exact(&mut [0])?;
        Ok(from.ip())
    }
}

const LIMIT: Duration = Duration::from_secs(10);

fn ours_or_bare(is_ours: bool) -> anyhow::Result<Node> {
    if is_ours { ours::node(1) } else { Node::new(1) }
}

/// The patterns of differences that were found, all of them allowed.
fn compare(row: &Row) -> anyhow::Result<BTreeSet<&'static str>> {
    let allowed: Vec<Allowed> = EVERYWHERE.iter().chain(row.allowed).copied().collect();
    let reference = Side::new(row, false).context("the reference plugin")?;
    let ours = Side::new(row, true).context("ours")?;
    let [left, right] = reference.node.becomes_like(&ours.node, &[MAC], &allowed).context("after ADD")?;
    let results = differences(&reference.words(&left), &ours.words(&right));
    let unargued: Vec<&str> = results
        .iter()
        .filter(|line| !allowed.iter().any(|one| one.covers(line)))
        .map(String::as_str)
        .collect();
    ensure!(unargued.is_empty(), "results differ:\n{}", unargued.join("\n"));
    let mut all = left.differences(&right);
    all.extend(results);
    if row.masquerades() {
        ensure!(ours.seen_outside()? == NODE, "a pod of ours is seen outside");
    }
    for side in [&reference, &ours] {
        // Without a cache, as after a runtime's restart.
        Runtime::new(&side.node).del(&side.network, &side.attachment).context("DEL")?;
    }
    let [left, right] = reference.node.becomes_like(&ours.node, &[MAC], &allowed).context("after DEL")?;
    all.extend(left.differences(&right));
    let found = allowed.iter().filter(|one| all.iter().any(|line| one.covers(line)));
    Ok(found.map(|one| one.pattern).collect())
}

#[test]
fn ours_makes_what_the_reference_plugins_make() -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    let mut found = BTreeSet::new();
    for row in &ROWS {
        match compare(row) {
            Ok(patterns) => found.extend(patterns),
            Err(error) => wrong.push(format!("{}: {error:#}", row.name)),
        }
    }
    ensure!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), ROWS.len(), wrong.join("\n\n"));
    for allowed in EVERYWHERE.iter().chain(ROWS.iter().flat_map(|row| row.allowed)) {
        ensure!(found.contains(allowed.pattern), "no such difference any more: {}", allowed.pattern);
    }
    Ok(())
}

/// The harness: each row is a configuration that the reference plugin takes.
#[test]
fn the_reference_plugins_serve_every_row() -> anyhow::Result<()> {
    for row in &ROWS {
        let side = Side::new(row, false).context(row.name)?;
        if row.masquerades() {
            assert_eq!(side.seen_outside().context(row.name)?, NODE, "{}", row.name);
        }
        Runtime::new(&side.node).del(&side.network, &side.attachment).context(row.name)?;
    }
    Ok(())
}
