//! The harness itself, proved with the plugins of the CNI project: what it reports of them is known.

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use vm_tests::cni::{Allowed, Attachment, Failure, Network, Node, Runtime};

/// A network of the reference plugins, and the links its ADD makes on the node for one pod.
struct Row {
    name: &'static str,
    plugins: fn(&Node) -> Value,
    capabilities: &'static [(&'static str, &'static str)],
    /// How CHECK's answer begins, if it refuses what ADD has just made.
    check: Option<&'static str>,
}

fn leases(node: &Node) -> Value {
    json!({ "type": "host-local", "dataDir": node.leases(), "ranges": [[{ "subnet": "10.7.0.0/24" }]] })
}

const ROWS: [Row; 6] = [
    Row {
        name: "a bridge without addresses",
        plugins: |_| json!([{ "type": "bridge", "bridge": "br0" }]),
        capabilities: &[],
        // Version 1.1.1 asks for an IPAM plugin that the configuration does not name.
        check: Some("no plugin name provided"),
    },
    Row {
        name: "a bridge that is the gateway",
        plugins: |node| json!([{ "type": "bridge", "bridge": "br0", "isGateway": true, "ipam": leases(node) }]),
        capabilities: &[],
        check: None,
    },
    Row {
        name: "a masquerading bridge",
        plugins: |node| {
            json!([{ "type": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasq": true,
                     "ipam": leases(node) }])
        },
        capabilities: &[],
        check: None,
    },
    Row {
        name: "a point-to-point link",
        plugins: |node| json!([{ "type": "ptp", "ipam": leases(node) }]),
        capabilities: &[],
        check: None,
    },
    Row {
        name: "a macvlan",
        plugins: |node| json!([{ "type": "macvlan", "master": "up0", "ipam": leases(node) }]),
        capabilities: &[],
        check: None,
    },
    Row {
        name: "a bridge and forwarded ports",
        plugins: |node| {
            json!([
                { "type": "bridge", "bridge": "br0", "isGateway": true, "ipam": leases(node) },
                { "type": "portmap", "capabilities": { "portMappings": true } },
            ])
        },
        capabilities: &[(
            "portMappings",
            r#"[{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]"#,
        )],
        // It looks for rules of a family in which the pod has no address.
        check: Some("could not check ipv6 dnat"),
    },
];

fn attachment(node: &Node, row: &Row) -> anyhow::Result<Attachment> {
    row.capabilities
        .iter()
        .try_fold(Attachment::new("c0ffee", "eth0", &node.netns(0)?), |attachment, (name, value)| {
            Ok(attachment.with_capability(name, serde_json::from_str(value)?))
        })
}

#[test]
fn add_check_and_del_of_the_reference_plugins_leave_what_was_there() -> anyhow::Result<()> {
    for row in &ROWS {
        let node = Node::new(1)?;
        node.uplink("up0", 1500)?;
        let network = Network::parse(
            &json!({ "cniVersion": "1.0.0", "name": "net", "plugins": (row.plugins)(&node) }),
        )?;
        let attachment = attachment(&node, row)?;
        let mut runtime = Runtime::new(&node);
        // The first time makes what is there to stay: the bridge, chains of iptables, switches.
        runtime.add(&network, &attachment).context(row.name)?;
        runtime.del(&network, &attachment).context(row.name)?;
        let before = node.snapshot(&[])?;
        let result = runtime.add(&network, &attachment).context(row.name)?;
        let interfaces = result.get("interfaces").and_then(Value::as_array).context("interfaces")?;
        ensure!(
            interfaces.iter().any(|one| one.get("sandbox") == Some(&json!(attachment.netns))),
            "{}: {result}",
            row.name
        );
        match (runtime.check(&network, &attachment), row.check) {
            (Err(error), Some(known)) if Failure::of(&error)?.msg.starts_with(known) => {}
            (answer, None) => answer.context(row.name)?,
            (answer, Some(known)) => bail!("{}: CHECK answers {answer:?}, not {known:?}", row.name),
        }
        let during = node.snapshot(&[])?;
        ensure!(
            during.lines().iter().any(|line| line.starts_with("pod0/link/eth0/")),
            "{}: no eth0",
            row.name
        );
        ensure!(before.compare(&during, &[]).is_err(), "{}: ADD changed nothing", row.name);
        for _ in 0..2 {
            runtime.del(&network, &attachment).context(row.name)?;
            node.comes_back_to(&before, &[], &[]).context(row.name)?;
        }
    }
    Ok(())
}

#[test]
fn two_nodes_with_the_same_calls_hold_the_same() -> anyhow::Result<()> {
    for row in &ROWS {
        let nodes = [Node::new(1)?, Node::new(1)?];
        let mut words = Vec::new();
        for node in &nodes {
            node.uplink("up0", 1500)?;
            let network = Network::parse(
                &json!({ "cniVersion": "1.0.0", "name": "net", "plugins": (row.plugins)(node) }),
            )?;
            let result = Runtime::new(node).add(&network, &attachment(node, row)?).context(row.name)?;
            words.push(node.snapshot(&[])?.words(&result));
        }
        let [one, other] = &nodes;
        one.becomes_like(other, &[], &[]).context(row.name)?;
        assert!(words.iter().all(|one| *one == words[0]), "{}: {words:?}", row.name);
    }
    Ok(())
}

#[test]
fn an_allowed_difference_is_the_only_one_passed_over() -> anyhow::Result<()> {
    let node = Node::new(1)?;
    let before = node.snapshot(&[])?;
    node.host()?.ip("link add br0 type bridge\nlink set br0 mtu 1400\n")?;
    let during = node.snapshot(&[])?;
    let difference = before.compare(&during, &[]).expect_err("there is a bridge").to_string();
    assert!(difference.contains("+ node/link/br0/mtu = 1400"), "{difference}");
    before.compare(&during, &[Allowed { pattern: "node/*br0", why: "the bridge is what was added" }])
}

#[test]
fn a_failed_add_is_undone_and_its_error_is_the_plugins() -> anyhow::Result<()> {
    let node = Node::new(1)?;
    let network = Network::parse(&json!({
        "cniVersion": "1.0.0",
        "name": "net",
        "plugins": [
            { "type": "ptp", "ipam": leases(&node) },
            { "type": "tuning", "sysctl": { "net.core.no_such_switch": "1" } },
        ],
    }))?;
    let before = node.snapshot(&[])?;
    let error = Runtime::new(&node)
        .add(&network, &Attachment::new("c0ffee", "eth0", &node.netns(0)?))
        .expect_err("there is no such switch");
    assert_eq!(Failure::of(&error)?.code, 999, "{error:#}");
    // ptp lets the node forward, and does not put that back.
    node.comes_back_to(&before, &[], &[Allowed { pattern: "forward", why: "ptp's" }])
}

#[test]
fn a_picture_has_what_vms_are_wired_with() -> anyhow::Result<()> {
    let node = Node::new(1)?;
    node.pod(0)?.ip(
        "link add eth0 type veth peer name far\nlink set eth0 up\nlink set far up\n\
         tuntap add mode tap name tap0 user 107 group 107 vnet_hdr multi_queue\n\
         link add ovl type vxlan id 77 dstport 4789 local 192.0.2.1\n\
         neigh add proxy 10.0.0.9 dev eth0\nneigh add 10.0.0.8 lladdr 02:00:00:00:00:08 dev eth0 nud permanent\n\
         rule add from 10.0.0.9 table 100\n",
    )?;
    for command in [
        "qdisc add dev eth0 ingress",
        "filter add dev eth0 parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev tap0",
    ] {
        let status = node.pod(0)?.command("tc").args(command.split(' ')).status()?;
        ensure!(status.success(), "tc {command}: {status}");
    }
    node.pod(0)?
        .nft("add table bridge spoof { chain in { type filter hook prerouting priority -300; }; }")?;
    let picture = node.snapshot(&[])?;
    let wanted = [
        "pod0/link/tap0/linkinfo/info_data/group = 107",
        "pod0/link/tap0/linkinfo/info_data/multi_queue = true",
        "pod0/link/tap0/linkinfo/info_data/vnet_hdr = true",
        "pod0/link/ovl/linkinfo/info_data/id = 77",
        "pod0/sysctl ipv4/conf/eth0/proxy_arp = 0",
    ];
    for line in wanted {
        ensure!(picture.lines().iter().any(|found| found == line), "no {line} in {:#?}", picture.lines());
    }
    for (table, part) in [
        ("pod0/filter", "\"to_dev\":\"tap0\""),
        ("pod0/proxy4", "10.0.0.9"),
        ("pod0/neighbour", "02:00:00:00:00:08"),
        ("pod0/rule4", "10.0.0.9"),
        ("pod0/nft", "prerouting"),
    ] {
        let found = picture.lines().iter().any(|line| line.starts_with(table) && line.contains(part));
        ensure!(found, "no {part} of {table} in {:#?}", picture.lines());
    }
    Ok(())
}
