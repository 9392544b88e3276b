//! Hop by hop, what a frame of the VM passes on its way out, and one for it on its way back. It must never judge.

use serde::Serialize;

use super::facts::{View, forwarding};
use super::path::{Beyond, Bridge, Guest, Path};
use super::survey::{TRANSLATOR, device_path};
use super::words::{and, count, limit, station, vlans};
use crate::netlink::{Details, Link, Port, PortState, TABLE_MAIN, Vxlan};

/// One thing that a frame passes, or that decides where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Hop {
    pub(super) name: String,
    #[serde(rename = "where")]
    pub(super) place: Place,
    pub(super) kind: String,
    /// Bytes, of a link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mtu: Option<u32>,
    pub(super) says: Vec<String>,
    /// One of several ways on from the hop before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) branch: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Place {
    Pod,
    Node,
}

impl Place {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Node => "node",
        }
    }
}

impl Hop {
    fn new(name: &str, place: Place, kind: &str) -> Self {
        let (name, kind) = (name.to_owned(), kind.to_owned());
        Self { name, place, kind, mtu: None, says: Vec::new(), branch: false }
    }

    /// A link, with its state.
    fn link(link: &Link, place: Place) -> Self {
        let kind = match (&link.details, link.kind.as_deref()) {
            (Details::Tun(tun), _) => {
                if tun.tap {
                    "tap"
                } else {
                    "tun"
                }
            }
            (_, Some(kind)) => kind,
            (_, None) => "NIC",
        };
        let hop = Self { mtu: Some(link.mtu), ..Self::new(&link.name, place, kind) };
        hop.say(match (link.up, link.carrier) {
            (false, _) => "down",
            (true, false) if kind != "tap" => "up, no carrier",
            (true, _) => "up",
        })
    }

    fn say(mut self, text: impl Into<String>) -> Self {
        self.says.push(text.into());
        self
    }

    fn say_all(mut self, texts: impl IntoIterator<Item = String>) -> Self {
        self.says.extend(texts);
        self
    }

    fn say_if(self, condition: bool, text: impl Into<String>) -> Self {
        if condition { self.say(text) } else { self }
    }

    const fn branch(mut self) -> Self {
        self.branch = true;
        self
    }
}

/// From the VM outward.
pub(super) fn out(path: &Path<'_>) -> Vec<Hop> {
    let mut hops = Vec::new();
    match path.guest {
        Guest::Tap(name) => hops.push(tap(path, name)),
        Guest::Macvtap => hops.extend(path.nic.map(|nic| device(path, nic))),
        Guest::Translator => return vec![translator(path)],
        Guest::Container => {}
    }
    hops.extend(path.nic.map(|nic| nic_outward(path, nic)));
    let node = &path.facts.node;
    match &path.beyond {
        Beyond::Nothing => {}
        Beyond::Unseen => hops.push(
            Hop::new("?", Place::Node, "veth").say("the NIC's other end is in neither namespace looked at"),
        ),
        Beyond::Foreign => {
            hops.push(Hop::new("?", Place::Node, "?").say("beyond the NIC, another plugin's network"))
        }
        Beyond::Switch { end, master } => {
            hops.push(end_outward(node, end).say(format!("port of {}", master.name)));
            hops.push(Hop::link(master, Place::Node).say("decides where frames go; not looked into"));
        }
        Beyond::Routed { end } => {
            hops.push(end_outward(node, end).say_all(addresses(node, end)));
            hops.extend(routing(path));
        }
        Beyond::Parent { parent } => hops.push(parent_outward(node, parent)),
        Beyond::Bridge(bridge) => {
            hops.push(port_outward(path, bridge));
            hops.push(the_bridge(node, bridge));
            hops.extend(bridge.uplinks.iter().map(|link| uplink(node, link).branch()));
            hops.extend(gateways(bridge).map(Hop::branch));
            if path.is_routed() {
                hops.extend(routing(path));
            }
        }
    }
    hops
}

/// From outside to the VM.
pub(super) fn back(path: &Path<'_>) -> Vec<Hop> {
    let mut hops = Vec::new();
    let node = &path.facts.node;
    match &path.beyond {
        Beyond::Bridge(bridge) => {
            hops.extend(routes(path).filter(|_| path.is_routed()));
            let from = bridge.uplinks.iter().map(|link| link.name.as_str());
            let from: Vec<&str> = from.chain((bridge.others > 0).then_some("other ports")).collect();
            hops.push(Hop::new(&bridge.bridge.name, Place::Node, "bridge").say(if from.is_empty() {
                "no other port: from the node itself".to_owned()
            } else {
                format!("from {}", and(&from))
            }));
            hops.push(port_inward(node, bridge.port));
        }
        Beyond::Routed { end } => {
            hops.extend(routes(path));
            hops.push(end_inward(node, end));
        }
        Beyond::Switch { end, .. } => hops.push(end_inward(node, end)),
        Beyond::Parent { parent } => {
            let what = path.nic.and_then(|nic| nic.mac).filter(|mac| Some(*mac) != parent.mac);
            let what = what.map_or_else(
                || "packets for the addresses above".to_owned(),
                |mac| format!("frames for {mac}, broadcasts, multicasts asked for"),
            );
            hops.push(Hop::new(&parent.name, Place::Node, kind(parent)).say(what));
        }
        Beyond::Nothing | Beyond::Unseen | Beyond::Foreign => {}
    }
    if path.guest == Guest::Translator {
        return vec![
            Hop::new("pod's sockets", Place::Pod, "translator")
                .say("answers come to the translator, which writes frames for the VM"),
        ];
    }
    hops.extend(path.nic.map(|nic| inward(path, nic)));
    if let (Guest::Tap(name), Some(_)) = (path.guest, path.nic) {
        hops.push(Hop::new(name, Place::Pod, "tap").say(path.tap.map_or("gone", |_| "to the VM's NIC")));
    }
    hops
}

fn tap(path: &Path<'_>, name: &str) -> Hop {
    let Some(link) = path.tap else { return Hop::new(name, Place::Pod, "tap").say("gone") };
    let hop = Hop::link(link, Place::Pod).say(if link.carrier { "open" } else { "not open" });
    let Details::Tun(tun) = &link.details else { return hop };
    let whom = |what: &str, id: Option<u32>| id.map(|id| format!("{what} {id}"));
    let who: Vec<String> =
        [whom("user", tun.owner), whom("group", tun.group)].into_iter().flatten().collect();
    let who = if who.is_empty() { "anybody's".to_owned() } else { format!("for {}", and(&who)) };
    hop.say(who)
        .say(if tun.multi_queue { "several queues" } else { "one queue" })
        .say_if(!tun.vnet_hdr, "no offloads")
        .say_all(path.facts.pod.limits.get(&link.index).map(|tbf| limit("to the VM", tbf)))
        .say_all(path.facts.pod.redirects(link).iter().map(|to| redirect(&path.facts.pod, *to)))
        .say_all(not_redirected(path, link))
}

/// Where frames of a tap go that is not redirected.
fn not_redirected(path: &Path<'_>, tap: &Link) -> Option<String> {
    if !path.facts.pod.redirects(tap).is_empty() {
        return None;
    }
    let nic = path.nic.map_or("?", |nic| &nic.name);
    Some(match path.record.map(|record| record.mode.as_str()) {
        Some("none") => "leads nowhere, as mode none has it".to_owned(),
        Some("ipvlan") => format!("routed by the pod to {nic}"),
        _ => "no redirect".to_owned(),
    })
}

fn device(path: &Path<'_>, nic: &Link) -> Hop {
    let hop = Hop::new(&device_path(nic), Place::Node, "device");
    match path.facts.devices.get(&nic.index) {
        Some(device) => hop.say(format!("for user {} and group {}", device.user, device.group)),
        None => hop.say("gone"),
    }
}

fn translator(path: &Path<'_>) -> Hop {
    let settings = TRANSLATOR.iter().map(|setting| {
        let value = path.facts.pod.setting(setting).unwrap_or("missing").split_whitespace();
        let name = setting.rsplit('/').next().unwrap_or_default();
        format!("{name} {}", value.collect::<Vec<_>>().join(" "))
    });
    Hop::new("pod's sockets", Place::Pod, "translator")
        .say("no tap: a translator (passt) takes over the VM's traffic")
        .say_all(settings)
}

fn nic_outward(path: &Path<'_>, nic: &Link) -> Hop {
    let pod = &path.facts.pod;
    let mode = match &nic.details {
        Details::Macvlan { mode } => mode.map(|mode| format!("mode {mode:?}").to_lowercase()),
        Details::Ipvlan { mode } => mode.map(|mode| format!("mode {mode:?}").to_lowercase()),
        Details::Other
        | Details::Bridge { .. }
        | Details::Veth
        | Details::Vxlan { .. }
        | Details::Vlan { .. }
        | Details::Tun(_) => None,
    };
    Hop::link(nic, Place::Pod)
        .say_all(nic.mac.map(|mac| mac.to_string()))
        .say_all(mode)
        .say_if(!nic.arp, "mute")
        .say_if(nic.promiscuous, "promiscuous")
        .say_all(addresses(pod, nic))
        .say_all(pod.limits.get(&nic.index).map(|tbf| limit("outward", tbf)))
}

fn inward(path: &Path<'_>, nic: &Link) -> Hop {
    let pod = &path.facts.pod;
    let redirects = pod.redirects(nic);
    let hop =
        Hop::new(&nic.name, Place::Pod, kind(nic)).say_all(redirects.iter().map(|to| redirect(pod, *to)));
    match path.guest {
        Guest::Tap(name) if path.is_routed_in_pod() => {
            let to = path.addresses().into_iter().map(|address| address.network.addr().to_string());
            hop.say(format!("{} routed by the pod to {name}", and(&to.collect::<Vec<_>>())))
        }
        Guest::Tap(_) => hop.say_if(redirects.is_empty(), "no redirect: up to the pod itself"),
        Guest::Macvtap => hop.say("to the VM's NIC"),
        Guest::Container | Guest::Translator => hop.say("up to the container"),
    }
}

fn end_outward(node: &View, end: &Link) -> Hop {
    Hop::link(end, Place::Node).say_all(node.redirects(end).iter().map(|to| redirect(node, *to)))
}

fn end_inward(node: &View, end: &Link) -> Hop {
    let on = |family: &str, name: &str| {
        node.setting(&format!("net/{family}/conf/{}/{name}", end.name)) == Some("1")
    };
    Hop::new(&end.name, Place::Node, kind(end))
        .say_all(node.limits.get(&end.index).map(|tbf| limit("to the VM", tbf)))
        .say_if(on("ipv4", "proxy_arp"), "answers ARP for all that the node routes elsewhere")
        .say_if(on("ipv6", "proxy_ndp"), "and neighbour solicitations")
        .say_if(!on("ipv4", "proxy_arp"), "to the pod's NIC")
}

fn port_outward(path: &Path<'_>, bridge: &Bridge<'_>) -> Hop {
    let node = &path.facts.node;
    let checks = path.marks("mac").map(|mark| {
        let frames = mark.frames.unwrap_or(0);
        let other = mark.mac.map_or_else(|| "other MACs".to_owned(), |mac| format!("MACs other than {mac}"));
        format!("drops {other} ({} so far)", count(frames, "frame"))
    });
    end_outward(node, bridge.port)
        .say_all(bridge.port.port.iter().map(|port| port_flags(&bridge.bridge.name, port)))
        .say_all(vlans(node.vlans(bridge.port)))
        .say_all(checks)
}

fn port_inward(node: &View, port: &Link) -> Hop {
    let learnt: Vec<String> = node
        .stations(port)
        .iter()
        .filter(|entry| entry.on_master && !entry.permanent)
        .map(|entry| station(entry.mac, entry.vlan))
        .collect();
    let flooding = port.port.as_ref().is_none_or(|port| port.unicast_flood);
    Hop::new(&port.name, Place::Node, kind(port))
        .say_all(node.limits.get(&port.index).map(|tbf| limit("to the VM", tbf)))
        .say(match (learnt.is_empty(), flooding) {
            (false, _) => format!("behind it {}", and(&learnt)),
            (true, true) => "no station learnt yet: frames are flooded to it".to_owned(),
            (true, false) => "no station learnt yet, and not flooded".to_owned(),
        })
}

fn port_flags(bridge: &str, port: &Port) -> String {
    let state = match port.state {
        PortState::Forwarding => None,
        PortState::Disabled => Some("disabled".to_owned()),
        PortState::Listening => Some("listening".to_owned()),
        PortState::Learning => Some("not yet forwarding".to_owned()),
        PortState::Blocking => Some("blocking".to_owned()),
        PortState::Other(number) => Some(format!("in state {number}")),
    };
    let flag = |is: bool, name: &str| is.then(|| name.to_owned());
    let flags = [
        state,
        flag(port.isolated, "isolated"),
        flag(port.hairpin, "hairpin"),
        flag(!port.learning, "not learning"),
        flag(port.neigh_suppress, "answers ARP itself"),
    ];
    let flags: Vec<String> = flags.into_iter().flatten().collect();
    if flags.is_empty() {
        format!("port of {bridge}")
    } else {
        format!("port of {bridge} ({})", flags.join(", "))
    }
}

fn the_bridge(node: &View, bridge: &Bridge<'_>) -> Hop {
    let Details::Bridge { vlan_filtering, stp, .. } = bridge.bridge.details else {
        return Hop::link(bridge.bridge, Place::Node);
    };
    Hop::link(bridge.bridge, Place::Node)
        .say_all(addresses(node, bridge.bridge))
        .say_if(vlan_filtering, "by VLAN")
        .say_if(stp, "spanning tree")
        .say_if(bridge.others > 0, count(u64::try_from(bridge.others).unwrap_or(u64::MAX), "other port"))
        .say_if(bridge.uplinks.is_empty(), "no uplink")
}

fn uplink(node: &View, link: &Link) -> Hop {
    let flags = link
        .port
        .iter()
        .filter(|port| port.state != PortState::Forwarding || port.isolated || port.neigh_suppress);
    let master = link.master.and_then(|index| node.at(index)).map_or("?", |link| &link.name);
    let hop = Hop::link(link, Place::Node)
        .say_all(flags.map(|port| port_flags(master, port)))
        .say_all(vlans(node.vlans(link)));
    let Details::Vxlan { settings, device } = &link.details else { return hop.say("uplink") };
    let device = device.and_then(|index| node.at(index)).map(|link| format!("through {}", link.name));
    hop.say(format!("VNI {}, UDP port {}", settings.vni, settings.port))
        .say_all(settings.local.map(|local| format!("from {local}")))
        .say_all(device)
        .say(peers(node, link, settings))
}

fn peers(node: &View, link: &Link, settings: &Vxlan) -> String {
    let everybody =
        node.stations(link).iter().filter(|entry| entry.mac == [0; 6]).filter_map(|entry| entry.dst);
    let mut peers: Vec<String> =
        settings.remote.into_iter().chain(everybody).map(|peer| peer.to_string()).collect();
    peers.dedup();
    if peers.is_empty() { "to nobody".to_owned() } else { format!("to {}", and(&peers)) }
}

/// Links beside the bridge that have addresses on its network.
fn gateways<'a>(bridge: &'a Bridge<'_>) -> impl Iterator<Item = Hop> + 'a {
    let others = bridge.gateways.iter().filter(|(link, _)| link.index != bridge.bridge.index);
    others.map(|(link, address)| {
        Hop::link(link, Place::Node).say(address.network.to_string()).say("the node's own end")
    })
}

fn parent_outward(node: &View, parent: &Link) -> Hop {
    let own = addresses(node, parent);
    let whose = if own.is_empty() { None } else { Some(format!("the node's own {} not reached", and(&own))) };
    Hop::link(parent, Place::Node).say_all(parent.mac.map(|mac| mac.to_string())).say("uplink").say_all(whose)
}

/// What the node's own stack does with the VM's packets.
fn routing(path: &Path<'_>) -> Vec<Hop> {
    let node = &path.facts.node;
    let families = families(path);
    let state = families.iter().map(|v4| {
        let name = forwarding(*v4).rsplit_once("net/").map_or("", |(_, name)| name).replace('/', ".");
        format!("{name} {}", node.setting(forwarding(*v4)).unwrap_or("missing"))
    });
    let strict = path
        .stack()
        .into_iter()
        .filter(|link| node.is_strict(link))
        .map(|link| format!("rp_filter strict on {}", link.name));
    let ports = u64::try_from(path.marks("port").count() / 2).unwrap_or(0);
    let mut hops = vec![
        Hop::new("routing", Place::Node, "stack")
            .say_all(state)
            .say_all(strict)
            .say_if(path.marks("masquerade").next().is_some(), "masquerade")
            .say_if(ports > 0, format!("{} to the VM", count(ports, "port mapping"))),
    ];
    for v4 in families {
        let mut defaults = node.routes.iter().filter(|route| {
            route.dst.prefix_len() == 0 && route.dst.addr().is_ipv4() == v4 && route.table == TABLE_MAIN
        });
        let device =
            |index: Option<u32>| index.and_then(|index| node.at(index)).map_or("?", |link| &link.name);
        let hop = Hop::new(if v4 { "default" } else { "default IPv6" }, Place::Node, "route");
        hops.push(match defaults.next() {
            Some(route) => {
                let gateway = route.gateway.map(|gateway| format!("by {gateway} ")).unwrap_or_default();
                hop.say(format!("{gateway}through {}", device(route.device)))
            }
            None => hop.say("none: beyond the node's own networks nothing is reached"),
        });
    }
    hops
}

/// Where the node's stack sends packets for the VM.
fn routes<'a>(path: &'a Path<'_>) -> impl Iterator<Item = Hop> + 'a {
    let node = &path.facts.node;
    path.addresses().into_iter().map(move |address| {
        let to = address.network.addr();
        let hop = Hop::new(&to.to_string(), Place::Node, "route");
        let Some(route) = node.route(to) else { return hop.say("no route to it") };
        let device = route.device.and_then(|index| node.at(index)).map_or("?", |link| &link.name);
        let gateway = route.gateway.map(|gateway| format!("by {gateway} ")).unwrap_or_default();
        hop.say(format!("{} {gateway}through {device}", route.dst))
    })
}

/// Which families the node has a part in for this VM; true: IPv4.
pub(super) fn families(path: &Path<'_>) -> Vec<bool> {
    let of_guest = path.addresses().into_iter();
    let of_node = path.stack().into_iter().flat_map(|link| path.facts.node.addresses(link));
    let all: Vec<bool> = of_guest.chain(of_node).map(|address| address.network.addr().is_ipv4()).collect();
    [true, false].into_iter().filter(|v4| all.contains(v4)).collect()
}

fn redirect(view: &View, to: u32) -> String {
    format!("redirected to {}", view.at(to).map_or("a link that is gone", |link| &link.name))
}

fn addresses(view: &View, link: &Link) -> Vec<String> {
    view.addresses(link).map(|address| address.network.to_string()).collect()
}

fn kind(link: &Link) -> &str {
    link.kind.as_deref().unwrap_or("NIC")
}
