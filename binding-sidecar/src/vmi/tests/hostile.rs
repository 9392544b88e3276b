//! VMIs that nobody would write by mistake.

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::translator::arguments::arguments;

/// What gRPC takes.
const BYTES_MAX: usize = 4 << 20;
/// HTTP/2's header list, unless told otherwise.
const REFUSAL_BYTES_MAX: usize = 16 << 10;

/// Whatever was sent: the same answer twice, and one that others can work with.
fn check(json: &[u8]) {
    let place = usual_place();
    let answer = plan(json, &place);
    assert_eq!(answer, plan(json, &place));
    match answer {
        Ok(plan) => {
            let mut uplinks = BTreeSet::new();
            for nic in &plan.nics {
                check_nic(nic, &place);
                assert!(uplinks.insert(&nic.uplink.interface));
            }
        }
        Err(refusal) => {
            assert!(!refusal.faults.is_empty());
            let line = refusal.to_string();
            assert!(!line.contains(char::is_control), "{line}");
            assert!(line.len() <= REFUSAL_BYTES_MAX, "{} bytes", line.len());
        }
    }
}

fn check_nic(nic: &Nic, place: &Place) {
    assert!(nic.mac.0[0] & 1 == 0 && nic.mac.0 != [0; 6]);
    assert!((68..=65520).contains(&nic.mtu));
    assert!(nic.queues.is_none_or(|queues| (2..=128).contains(&queues)));
    assert!(place.links.contains_key(&nic.uplink.interface));
    for ports in [&nic.tcp, &nic.udp] {
        let (Ports::AllBut(ports) | Ports::Only(ports)) = ports;
        assert!(ports.is_sorted_by(|one, next| one < next) && !ports.contains(&0));
    }
    for argument in arguments(nic, Path::new("/a.sock"), Path::new("/a.control"), None) {
        let bytes = argument.as_encoded_bytes();
        assert!(bytes.starts_with(b"--") && !bytes.contains(&0) && bytes.len() < 128 << 10);
    }
}

#[test]
fn a_million_things_are_one_pass() {
    // A second pass over the list for each of its items would take hours.
    let repeated = |item: &str| {
        let count = (BYTES_MAX - 1024) / (item.len() + 1);
        format!("[{}]", vec![item; count].join(","))
    };
    let numbered = |item: &dyn Fn(usize) -> String| {
        let items: Vec<String> = (0..60_000).map(item).collect();
        items.join(",")
    };
    let with = |name: &str, list: String| {
        with_interface(json!({ name: "LIST" })).to_string().replace("\"LIST\"", &list)
    };
    let of_spec = |name: &str, list: String| {
        changed(json!({"spec": {name: "LIST"}})).to_string().replace("\"LIST\"", &list)
    };
    let interface = |number: usize| format!(r#"{{"name":"n{number}","binding":{{"name":"sluice"}}}}"#);
    let interfaces = json!({"spec": {"domain": {"devices": {"interfaces": "LIST"}}}});
    let table = [
        ("good ports", with("ports", repeated(r#"{"port":80}"#))),
        ("bad ports", with("ports", repeated("{}"))),
        (
            "every port",
            with("ports", format!("[{}]", numbered(&|port| format!(r#"{{"port":{}}}"#, port + 1)))),
        ),
        (
            "every other port",
            with(
                "ports",
                format!("[{}]", numbered(&|port| format!(r#"{{"port":{}}}"#, 1 + port % 32768 * 2))),
            ),
        ),
        ("NTP servers", with("dhcpOptions", format!(r#"{{"ntpServers":{}}}"#, repeated("\"x\"")))),
        ("options", with("dhcpOptions", format!(r#"{{"privateOptions":{}}}"#, repeated("{}")))),
        ("networks of one name", of_spec("networks", repeated(r#"{"name":"default","pod":{}}"#))),
        (
            "interfaces",
            changed(interfaces.clone())
                .to_string()
                .replace("\"LIST\"", &format!("[{}]", numbered(&interface))),
        ),
        (
            "interfaces of one name",
            changed(interfaces.clone())
                .to_string()
                .replace("\"LIST\"", &repeated(r#"{"name":"default","binding":{"name":"sluice"}}"#)),
        ),
        (
            "interfaces and annotations",
            changed(interfaces)
                .to_string()
                .replace("\"LIST\"", &format!("[{}]", numbered(&interface)))
                .replace(
                    "\"metadata\":{",
                    &format!(
                        r#""metadata":{{"annotations":{{{}}},"#,
                        numbered(&|number| format!(r#""sluice.dev/mtu.x{number}":"1500""#))
                    ),
                ),
        ),
        ("a long name", with("name", format!("\"{}\"", "n".repeat(BYTES_MAX / 2)))),
        ("a long text", with("model", format!("\"{}\"", "\\u0001".repeat(BYTES_MAX / 12)))),
        ("deep", with("x", "[".repeat(BYTES_MAX / 2))),
    ];
    for (case, json) in table {
        assert!(json.len() > BYTES_MAX / 8, "{case}: {} bytes", json.len());
        check(json.as_bytes());
    }
}

#[test]
fn many_faults_are_counted_and_some_are_told() {
    let vmi = with_interface(json!({"ports": vec![json!({"port": 0}); 100]}));
    let refusal = read(&vmi).unwrap_err();
    let told = refusal.faults.len();
    assert!((20..80).contains(&told), "{told}");
    assert_eq!(refusal.more, 100 - told);
    assert!(refusal.to_string().ends_with(&format!("; and {} more", refusal.more)), "{refusal}");
}

#[test]
fn the_longest_refusal_is_still_one() {
    let wide = "\u{10ffff}".repeat(1000);
    let mut vmi = with_interface(json!({"name": wide, "ports": vec![json!({"protocol": wide}); 100]}));
    merge(&mut vmi["metadata"], json!({"name": wide, "namespace": wide}));
    check(vmi.to_string().as_bytes());
}

/// A VMI with everything.
fn rich() -> Value {
    let mut vmi = with_networks(&["default", "red", "blue"]);
    merge(
        &mut vmi,
        json!({
            "metadata": {
                "annotations": {
                    "sidecar.istio.io/inject": "true", "sluice.dev/mtu": "1500", "sluice.dev/dns.red": "10.0.0.1",
                    "sluice.dev/map-host-loopback": "10.0.0.9,fd00::9", "sluice.dev/metrics-address": "[::]:9187",
                },
                "labels": {"sidecar.istio.io/inject": "true"},
            },
            "spec": {
                "hostname": "web", "subdomain": "peers",
                "domain": {
                    "cpu": {"cores": 2, "sockets": 1, "threads": 1},
                    "resources": {"limits": {"cpu": "1500m"}, "requests": {"cpu": 1}},
                    "devices": {"networkInterfaceMultiqueue": true, "useVirtioTransitional": true},
                },
            },
            "status": {"interfaces": [{"name": "default", "podInterfaceName": "ovn-udn1"}]},
        }),
    );
    merge(
        &mut vmi["spec"]["domain"]["devices"]["interfaces"][0],
        json!({
            "macAddress": "02:02:02:02:02:02", "model": "virtio", "pciAddress": "0000:01:00.0", "acpiIndex": 101,
            "bootOrder": 1, "state": "down", "ports": [{"port": 80}, {"protocol": "UDP", "port": 53}],
            "dhcpOptions": {
                "bootFileName": "pxelinux.0", "tftpServerName": "10.0.0.9", "ntpServers": ["10.0.0.7"],
                "privateOptions": [{"option": 254, "value": "x y"}],
            },
        }),
    );
    vmi
}

#[test]
fn the_rich_one_is_served() {
    assert_eq!(nics(&rich()).len(), 3);
}

/// Every place in a value, as RFC 6901 names it.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| places(field, &format!("{at}/{}", escaped(name)), found));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, item)| places(item, &format!("{at}/{n}"), found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0..70_000_i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,80}".prop_map(Value::from),
        "[0-9a-f:.,%/=~_-]{0,20}".prop_map(Value::from),
        "[0-9.]{0,4}[numkKMGTPEei+-]{0,3}[0-9]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z/.]{0,12}", inner, 0..4)
                .prop_map(|fields| fields.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn any_value_in_any_place_has_one_answer(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..4),
    ) {
        let mut vmi = rich();
        for (at, value) in changes {
            let mut found = Vec::new();
            places(&vmi, "", &mut found);
            let at = at.get(&found).clone();
            *vmi.pointer_mut(&at).unwrap() = value;
        }
        check(vmi.to_string().as_bytes());
    }

    #[test]
    fn any_annotation_has_one_answer(name in "(sluice.dev/)?[a-z.-]{0,20}(\\.red)?", value in ".{0,40}") {
        let mut vmi = rich();
        vmi["metadata"]["annotations"][name] = value.into();
        check(vmi.to_string().as_bytes());
    }

    #[test]
    fn broken_bytes_have_one_answer(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..8),
    ) {
        let mut json = rich().to_string().into_bytes();
        for (at, byte, kind) in changes {
            let at = at.index(json.len());
            match kind {
                0 => json[at] = byte,
                1 => json.insert(at, byte),
                _ => json.truncate(at.max(1)),
            }
        }
        check(&json);
    }

    #[test]
    fn names_never_end_up_as_something_else(interface in ".{0,70}", name in ".{0,300}", hostname in ".{0,80}") {
        let mut vmi = with_networks(&["default", &interface]);
        merge(&mut vmi, json!({"metadata": {"name": name}, "spec": {"hostname": hostname}}));
        check(vmi.to_string().as_bytes());
    }
}
