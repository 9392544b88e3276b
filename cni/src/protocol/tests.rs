//! Input that nobody thought of: nothing makes the protocol panic, and what is written can be read.

use std::net::IpAddr;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value};

use super::environment::check_link_name;
use super::{
    Arguments, CniResult, Command, Config, Dns, Environment, Interface, Ip, Route, Version, version_reply,
};

/// Keys that mean something, so that arbitrary documents reach further than "unknown key".
const KEYS: [&str; 44] = [
    "name",
    "cniVersion",
    "CNIVERSION",
    "type",
    "mac",
    "ips",
    "gateway",
    "args",
    "cni",
    "runtimeConfig",
    "ipam",
    "dns",
    "nameservers",
    "domain",
    "search",
    "options",
    "servers",
    "prevResult",
    "interfaces",
    "routes",
    "ip4",
    "ip6",
    "ip",
    "dst",
    "gw",
    "mtu",
    "scope",
    "table",
    "address",
    "interface",
    "version",
    "sandbox",
    "bandwidth",
    "ingressRate",
    "ingressBurst",
    "portMappings",
    "hostPort",
    "containerPort",
    "protocol",
    "hostIP",
    "deviceID",
    "CNIDeviceInfoFile",
    "logicNetworkName",
    "cni.dev/valid-attachments",
];

const TEXTS: [&str; 14] = [
    "",
    "n",
    "a/b",
    "0.2.0",
    "0.4.0",
    "1.0.0",
    "1.1.0",
    "9.9.9",
    "10.0.0.2/24",
    "fd00::1",
    "0.0.0.0/0",
    "02:00:00:00:00:01",
    "tcp",
    "/run/x",
];

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0_u32..100_000).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        select(&TEXTS[..]).prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![vec(inner.clone(), 0..5).prop_map(Value::from), object(inner)]
    })
}

fn object(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let key = prop_oneof![4 => select(&KEYS[..]).prop_map(str::to_owned), 1 => any::<String>()];
    vec((key, values), 0..8).prop_map(|entries| Value::Object(entries.into_iter().collect()))
}

/// A configuration that is accepted, so that every key of it is read.
fn accepted(keys: Value, version: Version) -> Vec<u8> {
    let mut object = keys.as_object().cloned().unwrap_or_default();
    object.retain(|key, _| !["name", "cniversion", "ipam"].contains(&key.to_lowercase().as_str()));
    object.insert("name".to_owned(), Value::from("n"));
    object.insert("cniVersion".to_owned(), Value::from(version.as_str()));
    serde_json::to_vec(&Value::Object(object)).unwrap()
}

fn environment(variables: &[(&str, &str)]) -> Result<Environment, super::CniError> {
    let find = |name: &str| variables.iter().find(|(key, _)| *key == name);
    Environment::read(|name| find(name).map(|(_, value)| (*value).to_owned()))
}

/// Reads everything that there is to read.
fn read_all(config: &Config, environment: &Environment) {
    drop(config.previous());
    drop(config.valid_attachments());
    drop(config.mac(environment));
    drop(config.ips(environment));
    drop(config.logical_network());
    drop(config.device_id());
    drop(config.device_info_file());
    drop(config.bandwidth());
    drop(config.port_mappings());
    drop(config.dns());
    drop(config.ipam_type());
    config.read::<Value>().unwrap();
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn net() -> impl Strategy<Value = IpNet> {
    (address(), 0_u8..=128).prop_map(|(address, length)| {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, length.min(longest)).unwrap()
    })
}

fn text() -> impl Strategy<Value = Option<String>> {
    of(any::<String>().prop_filter("empty is absent", |text| !text.is_empty()))
}

fn interface() -> impl Strategy<Value = Interface> {
    (any::<String>(), text(), of(1_u32..), text(), text(), text()).prop_map(
        |(name, mac, mtu, sandbox, socket_path, pci_id)| Interface {
            name,
            mac,
            mtu,
            sandbox,
            socket_path,
            pci_id,
        },
    )
}

fn route() -> impl Strategy<Value = Route> {
    let numbers = (of(1_u32..), of(1_u32..), of(1_u32..), of(any::<u32>()), of(any::<u8>()));
    (net(), of(address()), numbers).prop_map(|(dst, gw, (mtu, advmss, priority, table, scope))| Route {
        dst,
        gw,
        mtu,
        advmss,
        priority,
        table,
        scope,
    })
}

fn result() -> impl Strategy<Value = CniResult> {
    let ip = (net(), of(address()), of(any::<Index>()));
    let dns = (vec(any::<String>(), 0..3), text(), vec(any::<String>(), 0..3), vec(any::<String>(), 0..3));
    (vec(interface(), 0..4), vec(ip, 0..4), vec(route(), 0..4), dns).prop_map(
        |(interfaces, ips, routes, dns)| {
            let count = interfaces.len();
            let index = |index: Option<Index>| index.filter(|_| count > 0).map(|index| index.index(count));
            let ips = ips
                .into_iter()
                .map(|(address, gateway, interface)| Ip { address, gateway, interface: index(interface) })
                .collect();
            let (nameservers, domain, search, options) = dns;
            CniResult { interfaces, ips, routes, dns: Dns { nameservers, domain, search, options } }
        },
    )
}

/// What a version can say of a result.
fn sayable(result: &CniResult, version: Version) -> CniResult {
    let mut said = result.clone();
    if version < Version::V1_1_0 {
        for interface in &mut said.interfaces {
            (interface.mtu, interface.socket_path, interface.pci_id) = (None, None, None);
        }
        for route in &mut said.routes {
            (route.mtu, route.advmss, route.priority, route.table, route.scope) =
                (None, None, None, None, None);
        }
    }
    if version < Version::V0_3_0 {
        said.interfaces.clear();
        let (mut ips, mut routes) = (Vec::new(), Vec::new());
        for is_v4 in [true, false] {
            let Some(ip) = said.ips.iter().find(|ip| ip.address.addr().is_ipv4() == is_v4) else { continue };
            ips.push(Ip { interface: None, ..ip.clone() });
            routes.extend(said.routes.iter().filter(|route| route.dst.addr().is_ipv4() == is_v4).cloned());
        }
        (said.ips, said.routes) = (ips, routes);
    }
    said
}

proptest! {
    #[test]
    fn arbitrary_bytes_as_configuration_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        for command in Command::ALL {
            drop(Config::parse_for(&bytes, command));
        }
        version_reply(&bytes);
        drop(CniResult::parse_bytes(&bytes, Version::V1_1_0));
    }

    #[test]
    fn arbitrary_json_as_configuration_never_panics(json in json()) {
        let bytes = serde_json::to_vec(&json).unwrap();
        for command in Command::ALL {
            if let Err(error) = Config::parse_for(&bytes, command) {
                prop_assert!([1, 6, 7].contains(&error.code), "{error}");
            }
        }
        version_reply(&bytes);
    }

    #[test]
    fn every_key_of_an_accepted_configuration_is_read_without_panic(
        json in object(json()),
        version in select(&Version::ALL[..]),
        arguments in "(MAC|IP|GATEWAY)=[0-9a-f:,./]{0,20}",
    ) {
        let variables =
            [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "i"), ("CNI_PATH", "p"), ("CNI_ARGS", &arguments)];
        let config = Config::parse(&accepted(json, version)).unwrap();
        read_all(&config, &environment(&variables).unwrap());
    }

    #[test]
    fn case_of_keys_does_not_matter(json in object(json()), version in select(&Version::ALL[..])) {
        let bytes = accepted(json, version);
        let Value::Object(object) = serde_json::from_slice(&bytes).unwrap() else { panic!("an object") };
        // Two keys of one meaning change places when they change case, so only the first counts here.
        let mut seen = std::collections::BTreeSet::new();
        let single: Map<String, Value> = object.into_iter().filter(|(key, _)| key.is_ascii() && seen.insert(key.to_lowercase())).collect();
        let upper: Map<String, Value> = single.iter().map(|(key, value)| (key.to_uppercase(), value.clone())).collect();
        let read = |object: Map<String, Value>| {
            let config = Config::parse(&serde_json::to_vec(&Value::Object(object)).unwrap()).unwrap();
            (config.read::<Value>().unwrap(), config.version)
        };
        prop_assert_eq!(read(single), read(upper));
    }

    #[test]
    fn arbitrary_arguments_never_panic(text in prop_oneof![any::<String>(), "((MAC|IP|IgnoreUnknown|K8S_X|X)(=[a-z0-9,;=]{0,5})?;?){0,6}"]) {
        let read = Arguments::parse(&text);
        let leniently = Arguments::parse_leniently(&text);
        if let Ok(read) = read {
            prop_assert_eq!(read, leniently);
        }
    }

    #[test]
    fn arbitrary_environments_never_panic(values in vec(of(prop_oneof![any::<String>(), Just("ADD".to_owned()), Just("DEL".to_owned())]), 7)) {
        let names =
            ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH", "CNI_NETNS_OVERRIDE"];
        let find = |name: &str| names.iter().position(|known| *known == name).and_then(|index| values[index].clone());
        if let Err(error) = Environment::read(find) {
            prop_assert_eq!(error.code, 4);
        }
    }

    #[test]
    fn link_names_have_at_most_fifteen_bytes(name in "[a-z0-9é_.-]{0,20}") {
        let fits = (1..=15).contains(&name.len()) && name != "." && name != "..";
        prop_assert_eq!(check_link_name(&name).is_ok(), fits);
    }

    #[test]
    fn arbitrary_json_as_result_never_panics(json in prop_oneof![json(), object(json())], version in select(&Version::ALL[..])) {
        match CniResult::parse(&json, version) {
            // What was read can be written, and says the same again.
            Ok(result) => for version in Version::ALL {
                let rendered = result.render(version).unwrap();
                prop_assert_eq!(CniResult::parse(&rendered, Version::V0_1_0).unwrap(), sayable(&result, version));
            },
            Err(error) => prop_assert!([1, 6].contains(&error.code), "{error}"),
        }
    }

    #[test]
    fn results_survive_being_written_and_read_in_every_version(result in result()) {
        for version in Version::ALL {
            let rendered = result.render(version).unwrap();
            // A plugin's answer says its version itself.
            prop_assert_eq!(CniResult::parse(&rendered, Version::V0_1_0).unwrap(), sayable(&result, version));
        }
    }
}
