//! What iproute2 and nft say of one namespace. It must never give names: see `names`.

use anyhow::{Context as _, ensure};
use serde_json::{Map, Value, json};

use super::{flatten, sysctls};
use crate::lab::Namespace;

/// What one namespace holds.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) links: Vec<Map<String, Value>>,
    /// By the name of the table, one object per entry.
    tables: Vec<(&'static str, Vec<Map<String, Value>>)>,
    sysctls: Vec<String>,
}

/// Tables of entries, and what asks for them.
const TABLES: [(&str, &[&str]); 13] = [
    ("address", &["ip", "-j", "-d", "addr", "show"]),
    ("route4", &["ip", "-j", "-d", "-4", "route", "show", "table", "all"]),
    ("route6", &["ip", "-j", "-d", "-6", "route", "show", "table", "all"]),
    ("rule4", &["ip", "-j", "-4", "rule", "show"]),
    ("rule6", &["ip", "-j", "-6", "rule", "show"]),
    ("neighbour", &["ip", "-j", "neigh", "show", "nud", "permanent"]),
    ("proxy4", &["ip", "-j", "-4", "neigh", "show", "proxy"]),
    ("proxy6", &["ip", "-j", "-6", "neigh", "show", "proxy"]),
    ("fdb", &["bridge", "-j", "-d", "fdb", "show"]),
    ("port", &["bridge", "-j", "-d", "link", "show"]),
    ("vlan", &["bridge", "-j", "-d", "vlan", "show"]),
    ("qdisc", &["tc", "-j", "-d", "qdisc", "show"]),
    ("nft", &["nft", "-j", "list", "ruleset"]),
];

/// What depends on the time, on chance, or on what else the machine has done, wherever it is.
///
/// The kernel tells of a carrier, and gives link-local addresses and their routes, some time after it has answered who
/// changed the link: these say nothing of a plugin.
const VOLATILE: [&str; 34] = [
    "ifindex",
    "link_index",
    "handle",
    "index",
    "packets",
    "bytes",
    "operstate",
    "tentative",
    "dadfailed",
    "optimistic",
    "expires",
    "used",
    "updated",
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
    "topology_change",
    "topology_change_detected",
    "gc_timer",
    "hold_timer",
    "message_age_timer",
    "forward_delay_timer",
    "bridge_id",
    "root_id",
    "root_port",
    "designated_port",
    "designated_bridge",
    "metainfo",
    // Numbers of filters' tables and queues, given in turn; how often each is referred to.
    "fh",
    "key_ht",
    "handle_of",
    "ref",
    "refcnt",
    "bind",
];

pub(super) fn of(namespace: &Namespace) -> anyhow::Result<Facts> {
    let mut links = objects(ask(namespace, &["ip", "-j", "-d", "link", "show"])?);
    links.iter_mut().for_each(number_owners);
    let mut tables = Vec::new();
    for (name, command) in TABLES {
        tables.push((name, entries(name, ask(namespace, command)?)));
    }
    let mut filters = Vec::new();
    let classful = tables.iter().filter(|(name, _)| *name == "qdisc").flat_map(|(_, entries)| entries);
    for qdisc in classful.filter(|qdisc| qdisc.get("kind").and_then(Value::as_str) != Some("noqueue")) {
        let text = |key: &str| qdisc.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (device, parent) = (text("dev"), text("handle_of"));
        let command = ["tc", "-j", "-d", "filter", "show", "dev", &device, "parent", &parent];
        for mut filter in objects(ask(namespace, &command)?) {
            filter.insert("dev".to_owned(), json!(device));
            filters.push(filter);
        }
    }
    tables.push(("filter", filters));
    let devices: Vec<String> = links
        .iter()
        .filter_map(|link| link.get("ifname").and_then(Value::as_str).map(str::to_owned))
        .collect();
    Ok(Facts { links, tables, sysctls: sysctls::of(namespace, &devices)? })
}

/// `part` is whose facts these are. A link is a line for each of its attributes; an entry of a table is one line.
pub(super) fn lines(part: &str, facts: &Facts, found: &mut Vec<String>) {
    for link in &facts.links {
        let name = link.get("ifname").and_then(Value::as_str).unwrap_or_default();
        let mut link = without_volatile(&Value::Object(link.clone()));
        if let Some(link) = link.as_object_mut() {
            // Its number is the namespace's own.
            link.entry("link_netnsid").and_modify(|id| *id = json!(true));
        }
        flatten(&format!("{part}/link/{name}"), &link, found);
    }
    for (table, entries) in &facts.tables {
        for entry in entries {
            found.push(format!("{part}/{table} {}", without_volatile(&Value::Object(entry.clone()))));
        }
    }
    found.extend(facts.sysctls.iter().map(|line| format!("{part}/sysctl {line}")));
}

/// Whoever has the number of a tap's owner on this machine, `ip` prints a name for it.
fn number_owners(link: &mut Map<String, Value>) {
    let data = link.get_mut("linkinfo").and_then(|info| info.get_mut("info_data"));
    let Some(data) = data.and_then(Value::as_object_mut) else { return };
    for (key, file) in [("user", "/etc/passwd"), ("group", "/etc/group")] {
        let Some(name) = data.get(key).and_then(Value::as_str) else { continue };
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let mut lines = text.lines().map(|line| line.split(':'));
        let number = lines.find_map(|mut fields| {
            fields.next().filter(|found| *found == name)?;
            fields.nth(1)?.parse::<u32>().ok()
        });
        if let Some(number) = number {
            data.insert(key.to_owned(), json!(number));
        }
    }
}

/// What `command` prints as JSON; nothing for a table that this kernel does not have.
fn ask(namespace: &Namespace, command: &[&str]) -> anyhow::Result<Value> {
    let (program, arguments) = command.split_first().context("a command")?;
    let output =
        namespace.command(program).args(arguments).output().with_context(|| format!("start {program}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    // `bridge vlan` of a kernel without VLAN filtering begins a list and then says so.
    if output.stdout.trim_ascii().is_empty() || errors.contains("Operation not supported") {
        return Ok(Value::Array(Vec::new()));
    }
    ensure!(output.status.success(), "{}: {}: {errors}", command.join(" "), output.status);
    serde_json::from_slice(&output.stdout).with_context(|| {
        format!("{} prints no JSON: {}", command.join(" "), String::from_utf8_lossy(&output.stdout))
    })
}

fn objects(value: Value) -> Vec<Map<String, Value>> {
    let list = match value {
        Value::Array(list) => list,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => vec![value],
    };
    let objects = list.into_iter().filter_map(|one| one.as_object().cloned());
    objects.filter(|object| !object.is_empty()).collect()
}

/// Of a link, and of routes through it.
const CARRIER: [&str; 4] = ["NO-CARRIER", "LOWER_UP", "linkdown", "dead"];

/// Of a port of a bridge, by the spanning tree's words.
const PORT_STATES: [&str; 5] = ["disabled", "blocking", "listening", "learning", "forwarding"];

/// The entries of a table, without those that come and go by themselves.
fn entries(table: &str, value: Value) -> Vec<Map<String, Value>> {
    match table {
        "address" => addresses(value),
        // Learned ones have no state; groups are joined and left by each link that is up.
        "fdb" => objects(value)
            .into_iter()
            .filter(|entry| entry.get("state").is_some_and(|state| state != ""))
            .filter(|entry| entry.get("mac").and_then(Value::as_str).is_some_and(|mac| !is_group(mac)))
            .collect(),
        "qdisc" => objects(value)
            .into_iter()
            .map(|mut entry| {
                let handle = entry.get("handle").cloned().unwrap_or(Value::Null);
                entry.insert("handle_of".to_owned(), handle);
                entry
            })
            .collect(),
        "nft" => {
            let list = value.get("nftables").cloned().unwrap_or(Value::Null);
            objects(list).into_iter().filter(|entry| !entry.contains_key("metainfo")).collect()
        }
        "route6" => objects(value).into_iter().filter(|route| !is_of_a_link(route)).collect(),
        _ => objects(value),
    }
}

/// Whether the kernel made an IPv6 route itself: of a link that is up, or of an address it has checked.
fn is_of_a_link(route: &Map<String, Value>) -> bool {
    let text = |key: &str| route.get(key).and_then(Value::as_str).unwrap_or_default();
    let automatic = text("table") == "local" || text("dst").starts_with("fe80:") || text("dst") == "ff00::/8";
    text("protocol") == "kernel" && automatic
}

fn addresses(value: Value) -> Vec<Map<String, Value>> {
    let mut found = Vec::new();
    for link in objects(value) {
        let Some(Value::Array(addresses)) = link.get("addr_info") else { continue };
        for address in addresses.iter().filter_map(Value::as_object) {
            let mut address = address.clone();
            let local = address.get("local").and_then(Value::as_str).unwrap_or_default();
            if local.starts_with("fe80::") && local.contains("ff:fe") {
                continue;
            }
            address.insert("dev".to_owned(), link.get("ifname").cloned().unwrap_or(Value::Null));
            found.push(address);
        }
    }
    found
}

fn is_group(mac: &str) -> bool {
    mac.get(..2).and_then(|first| u8::from_str_radix(first, 16).ok()).is_some_and(|first| first & 1 == 1)
}

fn without_volatile(value: &Value) -> Value {
    match value {
        Value::Object(object) => object
            .iter()
            .filter(|(key, _)| !VOLATILE.contains(&key.as_str()))
            .filter(|(key, value)| !is_one_of(value, &PORT_STATES) && !is_port_number(key, value))
            .map(|(key, value)| (key.clone(), without_volatile(value)))
            .collect(),
        Value::Array(array) => {
            array.iter().filter(|value| !is_one_of(value, &CARRIER)).map(without_volatile).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

fn is_one_of(value: &Value, words: &[&str]) -> bool {
    value.as_str().is_some_and(|value| words.contains(&value))
}

/// Of a bridge's port, given in turn. A tunnel's `id` is a number, and was asked for.
fn is_port_number(key: &str, value: &Value) -> bool {
    matches!(key, "id" | "no") && value.as_str().is_some_and(|value| value.starts_with("0x"))
}
