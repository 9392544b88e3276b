//! A node with our plugin beside those of the CNI project, wired to the outside; the networks that the tests give it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vm_tests::cni::{Node, REFERENCE};
use vm_tests::lab::{Namespace, binary, wait_for};
use vm_tests::services::{HttpServer, PAGE, get_within};

/// What configurations call our plugin.
pub(crate) const TYPE: &str = "sluice";

/// The newest version that containerd 1.6 knows.
pub(crate) const VERSION: &str = "1.0.0";

pub(crate) const BRIDGE: &str = "cni0";
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

/// The node as the outside knows it, and what it reaches there.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// Of pods, what their servers listen on.
pub(crate) const PORT: u16 = 80;

/// Of the node, what leads there.
pub(crate) const HOST_PORT: u16 = 8080;

/// Longer than a packet takes on a busy machine.
const REACH_LIMIT: Duration = Duration::from_secs(10);

/// Plugins of the CNI project that runtimes need, or that we are chained with.
const OTHERS: [&str; 4] = ["loopback", "portmap", "tuning", "firewall"];

/// A node with plugins and an uplink. Its pods are the runtime's.
pub(crate) fn node() -> anyhow::Result<Node> {
    let node = Node::new(0)?;
    node.install(TYPE, &binary("sluice-cni")?)?;
    for other in OTHERS {
        node.install(other, &Path::new(REFERENCE).join(other))?;
    }
    node.uplink("up0", 1500)?;
    node.host()?.ip(&format!("address add {NODE}/24 dev up0\n"))?;
    node.outside()?.ip(&format!("address add {OUTSIDE}/24 dev far0\n"))?;
    Ok(node)
}

/// Our plugin as a cluster's network for containers, with nothing said of where it keeps its state.
pub(crate) fn bridge() -> Value {
    json!({
        "type": TYPE, "mode": "bridge", "tap": false, "bridge": BRIDGE, "isGateway": true, "ipMasq": true,
        "ipam": { "type": "host-local", "subnet": "10.88.0.0/24", "routes": [{ "dst": "0.0.0.0/0" }] },
    })
}

/// A list as an administrator writes it.
pub(crate) fn network(version: &str, plugins: &[Value]) -> Value {
    json!({ "cniVersion": version, "name": "default", "plugins": plugins })
}

/// `object` with one more key.
pub(crate) fn with(mut object: Value, key: &str, value: Value) -> Value {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
    object
}

/// The one IPv4 address of a container's interface.
pub(crate) fn address(container: &Namespace, interface: &str) -> anyhow::Result<Ipv4Addr> {
    let link = link(container, interface)?;
    let all = link.get("addr_info").and_then(Value::as_array).into_iter().flatten();
    let mut v4 = all.filter(|address| text(address, "family") == Some("inet"));
    let (Some(address), None) = (v4.next(), v4.next()) else { anyhow::bail!("{interface}: {link}") };
    Ok(text(address, "local").context("an address is text")?.parse()?)
}

fn text<'v>(object: &'v Value, key: &str) -> Option<&'v str> {
    object.get(key).and_then(Value::as_str)
}

/// A link of a container as iproute2 describes it.
pub(crate) fn link(container: &Namespace, name: &str) -> anyhow::Result<Value> {
    let output = container.command("ip").args(["-j", "-d", "address", "show", "dev", name]).output()?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let links: Value = serde_json::from_slice(&output.stdout)?;
    links.get(0).cloned().with_context(|| format!("no {name}: {links}"))
}

/// The names of all its links but `lo`, in order.
pub(crate) fn links(container: &Namespace) -> anyhow::Result<Vec<String>> {
    let output = container.command("ip").args(["-j", "link", "show"]).output()?;
    let links: Value = serde_json::from_slice(&output.stdout)?;
    let names = links.as_array().into_iter().flatten().filter_map(|link| text(link, "ifname"));
    let mut names: Vec<String> = names.filter(|name| *name != "lo").map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

/// Fails unless an echo comes back in time.
pub(crate) fn ping(from: &Namespace, to: Ipv4Addr) -> anyhow::Result<()> {
    wait_for(REACH_LIMIT, &format!("an echo of {to}"), || {
        let mut ping = from.command("ping");
        ping.args(["-c", "1", "-W", "1", &to.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        ping.status().is_ok_and(|status| status.success())
    })
}

/// Fails unless a server in `at` answers `from` at `address` and `port`.
pub(crate) fn is_served(at: &Namespace, from: &Namespace, address: IpAddr, port: u16) -> anyhow::Result<()> {
    let _server = HttpServer::start(at, PORT)?;
    let page = get_within(from, SocketAddr::new(address, port), "/", REACH_LIMIT)
        .with_context(|| format!("from {address} port {port}"))?;
    ensure!(page == PAGE, "{page:?}");
    Ok(())
}

/// Fails unless the outside sees connections of `container` come from the node.
pub(crate) fn is_masqueraded(container: &Namespace, node: &Node) -> anyhow::Result<()> {
    let server = node.outside()?.run(|| std::net::TcpListener::bind((OUTSIDE, PORT)))??;
    let _client = container
        .run(|| std::net::TcpStream::connect_timeout(&SocketAddr::from((OUTSIDE, PORT)), REACH_LIMIT))??;
    let (_, seen) = server.accept()?;
    ensure!(seen.ip() == IpAddr::V4(NODE), "the outside sees {seen}");
    Ok(())
}

/// Fails if something of ours is left: a journal or a lease, a port on the bridge. Locks of what is shared stay.
pub(crate) fn is_bare(node: &Node) -> anyhow::Result<()> {
    let is_ours =
        |line: &str| line.starts_with("file ") && !line.contains(".lock = ") || line.contains("/master = ");
    let snapshot = node.snapshot(&[])?;
    let left = snapshot.lines().iter().find(|line| is_ours(line));
    ensure!(left.is_none(), "left: {left:?}");
    Ok(())
}
