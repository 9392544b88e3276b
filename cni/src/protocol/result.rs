//! What ADD answers: interfaces, addresses, routes, DNS; of every version of the specification. It must never answer in
//! another version than it was asked in.
//!
//! | version      | addresses                              | besides                                             |
//! |--------------|----------------------------------------|-----------------------------------------------------|
//! | 0.1.0, 0.2.0 | `ip4`, `ip6`: one each, with its routes | no interfaces; a result without addresses has `dns` |
//! | 0.3.0-0.4.0  | `ips` with `version`                   | `interfaces`, `routes`, always `dns`                |
//! | 1.0.0        | `ips`                                  | the same, `dns` if it says something                |
//! | 1.1.0        | `ips`                                  | MTU, socket, PCI; MTU, MSS, metric, table, scope    |

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::{Map, Value, json};

use super::cni_error::{CniError, Code};
use super::keys::{Folded, Refused};
use super::version::Version;

/// The newest version's result; older ones are written from it and read into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniResult {
    pub interfaces: Vec<Interface>,
    pub ips: Vec<Ip>,
    pub routes: Vec<Route>,
    pub dns: Dns,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Interface {
    pub name: String,
    /// As given: other plugins also write what is no MAC address.
    #[serde(deserialize_with = "text")]
    pub mac: Option<String>,
    /// Bytes. Since 1.1.0.
    #[serde(deserialize_with = "positive")]
    pub mtu: Option<u32>,
    /// The namespace's path as `CNI_NETNS` has it; `None` on the host's side.
    #[serde(deserialize_with = "text")]
    pub sandbox: Option<String>,
    /// Since 1.1.0.
    #[serde(rename = "socketpath", deserialize_with = "text")]
    pub socket_path: Option<String>,
    /// Since 1.1.0.
    #[serde(rename = "pciid", deserialize_with = "text")]
    pub pci_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Ip {
    pub address: IpNet,
    #[serde(default, deserialize_with = "address")]
    pub gateway: Option<IpAddr>,
    /// Index into the result's interfaces.
    #[serde(default, deserialize_with = "index")]
    pub interface: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Route {
    pub dst: IpNet,
    #[serde(default, deserialize_with = "address")]
    pub gw: Option<IpAddr>,
    /// These five since 1.1.0.
    #[serde(default, deserialize_with = "positive")]
    pub mtu: Option<u32>,
    #[serde(default, deserialize_with = "positive")]
    pub advmss: Option<u32>,
    #[serde(default, deserialize_with = "positive")]
    pub priority: Option<u32>,
    #[serde(default)]
    pub table: Option<u32>,
    #[serde(default)]
    pub scope: Option<u8>,
}

impl Route {
    /// A route with nothing but a destination.
    pub const fn to(dst: IpNet) -> Self {
        Self { dst, gw: None, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Dns {
    pub nameservers: Vec<String>,
    #[serde(deserialize_with = "text")]
    pub domain: Option<String>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

impl Dns {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl CniResult {
    /// A result in JSON. `version` is what one without its own has. Fields of 1.1.0 are read whatever the version: Go's
    /// plugins print routes' metrics in any. An index of no interface counts as absent.
    ///
    /// # Errors
    /// Code 1 for a version that is not spoken here, code 6 with key and value for what cannot be read.
    pub fn parse(json: &Value, version: Version) -> Result<Self, CniError> {
        let undecodable =
            |error: serde_json::Error| CniError::new(Code::Decoding, format!("invalid result: {error}"));
        let keys = Folded::from_deserializer(json).map_err(undecodable)?;
        Self::read(&keys, &[], version).map_err(|error| error.into_cni(Refused::in_result))
    }

    /// As a plugin printed it.
    ///
    /// # Errors
    /// As [`CniResult::parse`]; code 6 for what is not JSON.
    pub fn parse_bytes(stdout: &[u8], version: Version) -> Result<Self, CniError> {
        let undecodable =
            |error: serde_json::Error| CniError::new(Code::Decoding, format!("invalid result: {error}"));
        let keys = Folded::parse(stdout).map_err(undecodable)?;
        Self::read(&keys, &[], version).map_err(|error| error.into_cni(Refused::in_result))
    }

    /// The result at a path of a document.
    pub(super) fn read(keys: &Folded, path: &[&str], version: Version) -> Result<Self, ReadError> {
        let own: Option<String> = keys.read(&below(path, "cniversion"))?;
        let version = match own.as_deref() {
            None | Some("") => version,
            Some(own) => Version::parse(own).map_err(|_| ReadError::Version(own.to_owned()))?,
        };
        let mut result = if version < Version::V0_3_0 {
            let old: Old = keys.read(path)?.unwrap_or_default();
            old.into_result()
        } else {
            let wire: Wire = keys.read(path)?.unwrap_or_default();
            Self { interfaces: wire.interfaces, ips: wire.ips, routes: wire.routes, dns: wire.dns }
        };
        for ip in &mut result.ips {
            ip.interface = ip.interface.filter(|index| *index < result.interfaces.len());
        }
        Ok(result)
    }

    /// In the version of the configuration. What that version cannot say is left out.
    ///
    /// # Errors
    /// Code 999 for an address of an interface that is not in the result: readers use the index as it is.
    pub fn render(&self, version: Version) -> Result<Value, CniError> {
        for (index, ip) in self.ips.iter().enumerate() {
            if let Some(interface) = ip.interface.filter(|interface| *interface >= self.interfaces.len()) {
                let count = self.interfaces.len();
                let what = format!("ips[{index}].interface {interface}: the result has {count} interfaces");
                return Err(CniError::internal(what));
            }
        }
        let mut result = self.clone();
        if version < Version::V1_1_0 {
            result.forget_new_fields();
        }
        let mut object = Map::new();
        object.insert("cniVersion".to_owned(), json!(version.as_str()));
        if version < Version::V0_3_0 {
            result.put_old(&mut object);
        } else {
            result.put(&mut object, version);
        }
        if version < Version::V1_0_0 || !self.dns.is_empty() {
            object.insert("dns".to_owned(), self.dns.render());
        }
        Ok(Value::Object(object))
    }

    /// The configuration's DNS replaces IPAM's if it says anything.
    pub fn merge_dns(&mut self, configured: Dns) {
        if !configured.is_empty() {
            self.dns = configured;
        }
    }

    fn forget_new_fields(&mut self) {
        for interface in &mut self.interfaces {
            *interface =
                Interface { mtu: None, socket_path: None, pci_id: None, ..std::mem::take(interface) };
        }
        for route in &mut self.routes {
            *route = Route { mtu: None, advmss: None, priority: None, table: None, scope: None, ..*route };
        }
    }

    fn put(&self, object: &mut Map<String, Value>, version: Version) {
        let with_family = version < Version::V1_0_0;
        put_list(object, "interfaces", self.interfaces.iter().map(Interface::render));
        put_list(object, "ips", self.ips.iter().map(|ip| ip.render(with_family)));
        put_list(object, "routes", self.routes.iter().map(Route::render));
    }

    fn put_old(&self, object: &mut Map<String, Value>) {
        for (key, is_v4) in [("ip4", true), ("ip6", false)] {
            let of_family = |net: &IpNet| net.addr().is_ipv4() == is_v4;
            let Some(ip) = self.ips.iter().find(|ip| of_family(&ip.address)) else { continue };
            let mut family = Map::new();
            put(&mut family, "ip", Some(ip.address.to_string()));
            put(&mut family, "gateway", ip.gateway.map(|gateway| gateway.to_string()));
            let routes = self.routes.iter().filter(|route| of_family(&route.dst));
            put_list(&mut family, "routes", routes.map(Route::render));
            object.insert(key.to_owned(), Value::Object(family));
        }
    }
}

impl Interface {
    fn render(&self) -> Value {
        let mut object = Map::new();
        put(&mut object, "name", Some(self.name.as_str()));
        put(&mut object, "mac", self.mac.as_deref());
        put(&mut object, "mtu", self.mtu);
        put(&mut object, "sandbox", self.sandbox.as_deref());
        put(&mut object, "socketPath", self.socket_path.as_deref());
        put(&mut object, "pciID", self.pci_id.as_deref());
        Value::Object(object)
    }
}

impl Ip {
    fn render(&self, with_family: bool) -> Value {
        let family = if self.address.addr().is_ipv4() { "4" } else { "6" };
        let mut object = Map::new();
        put(&mut object, "version", with_family.then_some(family));
        put(&mut object, "interface", self.interface);
        put(&mut object, "address", Some(self.address.to_string()));
        put(&mut object, "gateway", self.gateway.map(|gateway| gateway.to_string()));
        Value::Object(object)
    }
}

impl Route {
    fn render(&self) -> Value {
        let mut object = Map::new();
        put(&mut object, "dst", Some(self.dst.to_string()));
        put(&mut object, "gw", self.gw.map(|gw| gw.to_string()));
        put(&mut object, "mtu", self.mtu);
        put(&mut object, "advmss", self.advmss);
        put(&mut object, "priority", self.priority);
        put(&mut object, "table", self.table);
        put(&mut object, "scope", self.scope);
        Value::Object(object)
    }
}

impl Dns {
    fn render(&self) -> Value {
        let mut object = Map::new();
        put_list(&mut object, "nameservers", self.nameservers.iter().map(|item| json!(item)));
        put(&mut object, "domain", self.domain.as_deref());
        put_list(&mut object, "search", self.search.iter().map(|item| json!(item)));
        put_list(&mut object, "options", self.options.iter().map(|item| json!(item)));
        Value::Object(object)
    }
}

/// Why a result could not be read: who asks knows whether it was a configuration's or a plugin's.
#[derive(Debug)]
pub(super) enum ReadError {
    Version(String),
    Refused(Refused),
}

impl ReadError {
    pub(super) fn into_cni(self, refused: impl Fn(Refused) -> CniError) -> CniError {
        match self {
            Self::Version(version) => CniError::new(
                Code::IncompatibleVersion,
                format!("unsupported CNI result version {version:?}"),
            ),
            Self::Refused(why) => refused(why),
        }
    }
}

impl From<Refused> for ReadError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// 0.3.0 and later.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
    routes: Vec<Route>,
    dns: Dns,
}

/// 0.1.0 and 0.2.0.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Old {
    ip4: Option<OldIp>,
    ip6: Option<OldIp>,
    dns: Dns,
}

#[derive(Deserialize)]
struct OldIp {
    ip: IpNet,
    #[serde(default, deserialize_with = "address")]
    gateway: Option<IpAddr>,
    #[serde(default)]
    routes: Vec<Route>,
}

impl Old {
    fn into_result(self) -> CniResult {
        let mut result = CniResult { dns: self.dns, ..CniResult::default() };
        for family in [self.ip4, self.ip6].into_iter().flatten() {
            result.ips.push(Ip { address: family.ip, gateway: family.gateway, interface: None });
            result.routes.extend(family.routes);
        }
        result
    }
}

fn below<'a>(path: &[&'a str], key: &'a str) -> Vec<&'a str> {
    path.iter().copied().chain([key]).collect()
}

fn put(object: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object.insert(key.to_owned(), value.into());
    }
}

fn put_list(object: &mut Map<String, Value>, key: &str, items: impl Iterator<Item = Value>) {
    let items: Vec<Value> = items.collect();
    put(object, key, (!items.is_empty()).then_some(items));
}

// Go's zero values mean "not given".

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Some(String::deserialize(deserializer)?).filter(|text| !text.is_empty()))
}

fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    Ok(Some(u32::deserialize(deserializer)?).filter(|number| *number > 0))
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    let Some(text) = text(deserializer)? else { return Ok(None) };
    text.parse().map(Some).map_err(|_| D::Error::custom("no IP address"))
}

/// Some plugins write -1 for an interface that they do not know.
fn index<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    Ok(usize::try_from(i64::deserialize(deserializer)?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rich() -> CniResult {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let route = |dst: &str, gw: Option<&str>| Route {
            dst: net(dst),
            gw: gw.map(ip),
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        };
        CniResult {
            interfaces: vec![
                Interface {
                    name: "br0".to_owned(),
                    mac: Some("02:00:00:00:00:01".to_owned()),
                    ..Interface::default()
                },
                Interface {
                    name: "net1".to_owned(),
                    mac: Some("02:00:00:00:00:02".to_owned()),
                    mtu: Some(1400),
                    sandbox: Some("/run/netns/x".to_owned()),
                    socket_path: Some("/run/vhost".to_owned()),
                    pci_id: Some("0000:04:00.5".to_owned()),
                },
            ],
            ips: vec![
                Ip { address: net("10.1.2.3/24"), gateway: Some(ip("10.1.2.1")), interface: Some(1) },
                Ip { address: net("10.1.3.3/24"), gateway: None, interface: Some(1) },
                Ip { address: net("fd00::3/64"), gateway: Some(ip("fd00::1")), interface: None },
            ],
            routes: vec![
                Route {
                    mtu: Some(1300),
                    advmss: Some(1260),
                    priority: Some(7),
                    table: Some(0),
                    scope: Some(253),
                    ..route("0.0.0.0/0", Some("10.1.2.1"))
                },
                route("::/0", None),
            ],
            dns: Dns { nameservers: vec!["10.1.2.1".to_owned()], ..Dns::default() },
        }
    }

    fn old(version: &str) -> Value {
        json!({
            "cniVersion": version,
            "ip4": {"ip": "10.1.2.3/24", "gateway": "10.1.2.1", "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}]},
            "ip6": {"ip": "fd00::3/64", "gateway": "fd00::1", "routes": [{"dst": "::/0"}]},
            "dns": {"nameservers": ["10.1.2.1"]},
        })
    }

    fn plain(version: &str) -> Value {
        json!({
            "cniVersion": version,
            "interfaces": [
                {"name": "br0", "mac": "02:00:00:00:00:01"},
                {"name": "net1", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/x"},
            ],
            "ips": [
                {"interface": 1, "address": "10.1.2.3/24", "gateway": "10.1.2.1"},
                {"interface": 1, "address": "10.1.3.3/24"},
                {"address": "fd00::3/64", "gateway": "fd00::1"},
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}, {"dst": "::/0"}],
            "dns": {"nameservers": ["10.1.2.1"]},
        })
    }

    fn with_families(version: &str) -> Value {
        let mut value = plain(version);
        for (index, family) in ["4", "4", "6"].into_iter().enumerate() {
            value["ips"][index]["version"] = json!(family);
        }
        value
    }

    fn newest() -> Value {
        let mut value = plain("1.1.0");
        value["interfaces"][1]["mtu"] = json!(1400);
        value["interfaces"][1]["socketPath"] = json!("/run/vhost");
        value["interfaces"][1]["pciID"] = json!("0000:04:00.5");
        value["routes"][0] = json!({"dst": "0.0.0.0/0", "gw": "10.1.2.1", "mtu": 1300, "advmss": 1260, "priority": 7,
            "table": 0, "scope": 253});
        value
    }

    #[test]
    fn each_version_is_written_in_its_own_layout() {
        for version in Version::ALL {
            let text = version.as_str();
            let expected = match version {
                Version::V0_1_0 | Version::V0_2_0 => old(text),
                Version::V0_3_0 | Version::V0_3_1 | Version::V0_4_0 => with_families(text),
                Version::V1_0_0 => plain(text),
                Version::V1_1_0 => newest(),
            };
            assert_eq!(rich().render(version), Ok(expected), "{version}");
        }
    }

    #[test]
    fn result_without_addresses_is_written_in_every_version() {
        for version in Version::ALL {
            let expected = if version < Version::V1_0_0 {
                json!({"cniVersion": version.as_str(), "dns": {}})
            } else {
                json!({"cniVersion": version.as_str()})
            };
            assert_eq!(CniResult::default().render(version), Ok(expected));
        }
        let l2 = CniResult { interfaces: rich().interfaces, ..CniResult::default() };
        assert_eq!(l2.render(Version::V0_2_0), Ok(json!({"cniVersion": "0.2.0", "dns": {}})));
    }

    #[test]
    fn address_of_no_interface_is_not_written() {
        let mut result = rich();
        result.interfaces.truncate(1);
        let error = result.render(Version::V1_1_0).unwrap_err();
        assert_eq!(
            (error.code, error.msg.as_str()),
            (999, "ips[0].interface 1: the result has 1 interfaces")
        );
    }

    #[test]
    fn each_layout_is_read() {
        let known = |value: &Value| CniResult::parse(value, Version::V0_1_0).unwrap();
        assert_eq!(known(&newest()), rich());
        for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0] {
            assert_eq!(known(&with_families(version.as_str())), known(&plain("1.0.0")));
        }
        for version in ["0.1.0", "0.2.0"] {
            let mut expected = known(&plain("1.0.0"));
            expected.interfaces.clear();
            expected.ips.remove(1);
            expected.ips.iter_mut().for_each(|ip| ip.interface = None);
            assert_eq!(known(&old(version)), expected);
        }
    }

    #[test]
    fn result_without_version_has_the_callers() {
        let value = json!({"ip4": {"ip": "10.0.0.2/8"}, "ips": [{"address": "10.0.0.3/8"}]});
        for (version, expected) in [(Version::V0_2_0, "10.0.0.2/8"), (Version::V0_3_0, "10.0.0.3/8")] {
            let result = CniResult::parse(&value, version).unwrap();
            assert_eq!(result.ips[0].address.to_string(), expected);
            let bytes = serde_json::to_vec(&value).unwrap();
            assert_eq!(CniResult::parse_bytes(&bytes, version), Ok(result));
        }
        let empty = json!({"cniVersion": "", "ips": [{"address": "10.0.0.3/8"}]});
        assert_eq!(CniResult::parse(&empty, Version::V1_0_0).unwrap().ips.len(), 1);
    }

    #[test]
    fn what_go_writes_for_nothing_is_nothing() {
        let value = json!({
            "cniVersion": "1.0.0",
            "Interfaces": [{"Name": "a", "mac": "", "mtu": 0, "sandbox": "", "socketPath": "", "pciID": null}],
            "ips": [
                {"address": "10.0.0.2/8", "gateway": "", "interface": -1},
                {"address": "10.0.0.3/8", "interface": 1},
                {"address": "10.0.0.4/8", "interface": 0},
            ],
            "routes": [{"dst": "10.0.0.0/8", "gw": "", "mtu": 0, "advmss": 0, "priority": 0}],
            "dns": {"domain": ""},
        });
        let result = CniResult::parse(&value, Version::V1_1_0).unwrap();
        assert_eq!(result.interfaces, [Interface { name: "a".to_owned(), ..Interface::default() }]);
        let found: Vec<_> = result.ips.iter().map(|ip| (ip.gateway, ip.interface)).collect();
        assert_eq!(found, [(None, None), (None, None), (None, Some(0))]);
        let [route] = &result.routes[..] else { panic!("one route") };
        assert_eq!((route.gw, route.mtu, route.advmss, route.priority), (None, None, None, None));
        assert!(result.dns.is_empty());
    }

    #[test]
    fn metrics_of_routes_are_read_in_any_version() {
        let value = json!({"cniVersion": "0.3.1", "routes": [{"dst": "0.0.0.0/0", "priority": 5}]});
        assert_eq!(CniResult::parse(&value, Version::V1_1_0).unwrap().routes[0].priority, Some(5));
    }

    #[test]
    fn results_that_cannot_be_read_are_refused() {
        for (text, code, expected) in [
            ("", 6, "invalid result: EOF while parsing a value at line 1 column 0"),
            ("null", 6, "invalid result: null: expected an object"),
            ("[]", 6, "invalid result: []: expected an object"),
            (r#"{"cniVersion":"1.2.0"}"#, 1, r#"unsupported CNI result version "1.2.0""#),
            (r#"{"cniVersion":1}"#, 6, "invalid result: cniVersion 1: expected a string"),
            (r#"{"ips":[{}]}"#, 6, "invalid result: ips[0] {}: missing field `address`"),
            (
                r#"{"ips":[{"address":"10.0.0.2"}]}"#,
                6,
                r#"invalid result: ips[0].address "10.0.0.2": invalid IP address syntax"#,
            ),
            (
                r#"{"ips":[{"address":"10.0.0.2/8","gateWay":"x"}]}"#,
                6,
                r#"invalid result: ips[0].gateWay "x": no IP address"#,
            ),
            (r#"{"interfaces":{}}"#, 6, "invalid result: interfaces {}: expected a list"),
            (
                r#"{"routes":[{"dst":"::/0","mtu":-1}]}"#,
                6,
                "invalid result: routes[0].mtu -1: expected a whole number from 0 to 4294967295",
            ),
            (r#"{"cniVersion":"0.2.0","ip4":{}}"#, 6, "invalid result: ip4 {}: missing field `ip`"),
        ] {
            let error = CniResult::parse_bytes(text.as_bytes(), Version::V1_1_0).unwrap_err();
            assert_eq!((error.code, error.to_string().as_str()), (code, expected), "{text}");
        }
    }

    #[test]
    fn configured_dns_replaces_ipams_as_a_whole() {
        let dns = |nameservers: &[&str], domain: Option<&str>| Dns {
            nameservers: nameservers.iter().map(|text| (*text).to_owned()).collect(),
            domain: domain.map(str::to_owned),
            ..Dns::default()
        };
        let mut result = rich();
        result.merge_dns(Dns::default());
        assert_eq!(result.dns, dns(&["10.1.2.1"], None));
        result.merge_dns(dns(&[], Some("example.org")));
        assert_eq!(result.dns, dns(&[], Some("example.org")));
    }
}
