//! What annotations change.

use super::*;

fn annotated(of: &[(&str, &str)]) -> Value {
    let annotations: Value = of
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Value::from(*value)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let mut vmi = with_networks(&["default", "red"]);
    merge(&mut vmi, json!({"metadata": {"annotations": annotations}}));
    vmi
}

#[test]
fn values_are_read() {
    let tuning = Tuning::default;
    let table: [(&str, &str, Tuning); 9] = [
        ("dns", "10.0.0.1", Tuning { dns: vec!["10.0.0.1".parse().unwrap()], ..tuning() }),
        (
            "dns",
            "10.0.0.1, fd00::1",
            Tuning { dns: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()], ..tuning() },
        ),
        (
            "dns-search",
            "a.example, b_c.example.",
            Tuning { dns_search: vec!["a.example".to_owned(), "b_c.example".to_owned()], ..tuning() },
        ),
        (
            "map-host-loopback",
            "10.0.0.9",
            Tuning { host_loopback_v4: Some([10, 0, 0, 9].into()), ..tuning() },
        ),
        (
            "map-host-loopback",
            "fd00::9,10.0.0.9",
            Tuning {
                host_loopback_v4: Some([10, 0, 0, 9].into()),
                host_loopback_v6: Some("fd00::9".parse().unwrap()),
                ..tuning()
            },
        ),
        ("log-level", "trace", Tuning { log_level: LogLevel::Trace, ..tuning() }),
        ("log-level", "warn", Tuning { log_level: LogLevel::Warn, ..tuning() }),
        ("flows-max", "1", Tuning { flows_max: Some(1), ..tuning() }),
        ("flows-max", "131072", Tuning { flows_max: Some(131_072), ..tuning() }),
    ];
    for (key, value, wanted) in table {
        let of_all = nics(&annotated(&[(&format!("sluice.dev/{key}"), value)]));
        let of_red = nics(&annotated(&[(&format!("sluice.dev/{key}.red"), value)]));
        assert_eq!([&of_all[0].tuning, &of_all[1].tuning], [&wanted; 2], "{key}: {value}");
        assert_eq!([&of_red[0].tuning, &of_red[1].tuning], [&tuning(), &wanted], "{key}.red: {value}");
    }
}

#[test]
fn one_interfaces_value_wins() {
    let vmi = annotated(&[
        ("sluice.dev/mtu", "1280"),
        ("sluice.dev/mtu.red", "65520"),
        ("sluice.dev/log-level", "debug"),
        ("sluice.dev/log-level.red", "info"),
        ("sluice.dev/map-host-loopback", "10.0.0.9,fd00::9"),
        ("sluice.dev/map-host-loopback.red", "10.0.0.8"),
    ]);
    let nics = nics(&vmi);
    assert_eq!(nics.iter().map(|nic| nic.mtu).collect::<Vec<_>>(), [1280, 65520]);
    let [first, second] = [&nics[0].tuning, &nics[1].tuning];
    assert_eq!((first.log_level, second.log_level), (LogLevel::Debug, LogLevel::Info));
    assert_eq!(first.host_loopback_v6, Some("fd00::9".parse().unwrap()));
    // A value is replaced whole.
    assert_eq!((second.host_loopback_v4, second.host_loopback_v6), (Some([10, 0, 0, 8].into()), None));
}

#[test]
fn others_annotations_are_theirs() {
    let vmi = annotated(&[("sluice.device/mtu", "x"), ("sluice.dev", "x"), ("k8s.io/sluice.dev/mtu", "x")]);
    assert_eq!(nics(&vmi), nics(&annotated(&[])));
}

#[test]
fn metrics_are_of_the_vmi() {
    for address in ["0.0.0.0:9187", "[::]:9187", "127.0.0.1:1"] {
        let plan = read(&annotated(&[("sluice.dev/metrics-address", address)])).unwrap();
        assert_eq!(plan.metrics_address, Some(address.parse().unwrap()));
    }
}

#[test]
fn port_of_metrics_is_not_forwarded() {
    let mut vmi = annotated(&[("sluice.dev/metrics-address", "0.0.0.0:9187")]);
    for nic in nics(&vmi) {
        assert_eq!((nic.tcp, nic.udp), (Ports::AllBut(vec![9187]), Ports::AllBut(vec![])));
    }
    vmi["spec"]["domain"]["devices"]["interfaces"][0]["ports"] = json!([{"port": 80}, {"port": 9187}]);
    assert_eq!(
        read(&vmi).unwrap_err().to_string(),
        "VirtualMachineInstance demo/vm: metadata.annotations \"sluice.dev/metrics-address\": interface \"default\" \
         forwards port 9187 to the guest, expected another"
    );
}

#[test]
fn an_absent_interface_may_be_annotated() {
    let mut vmi = annotated(&[("sluice.dev/mtu.red", "1500")]);
    vmi["spec"]["domain"]["devices"]["interfaces"][1]["state"] = "absent".into();
    assert_eq!(nic(&vmi).name, "default");
}

#[test]
fn bad_ones_are_refused_by_name() {
    let keys = "mtu, dns, dns-search, map-host-loopback, log-level, flows-max, metrics-address";
    let unknown = format!("unknown, expected one of {keys}");
    let dns = "expected addresses of resolvers, separated by commas, none on loopback";
    let loopback =
        "expected one IPv4 address, one IPv6 address, or both separated by a comma, none of them special";
    let metrics = "expected an address and a port such as 0.0.0.0:9187 or [::]:9187";
    let with = |value: &str, expected: &str| format!("\"{value}\", {expected}");
    let table = [
        ("mtu-max", "1", unknown.clone()),
        ("", "1", unknown.clone()),
        ("MTU", "1500", unknown.clone()),
        (".red", "1500", unknown),
        ("mtu", "67", with("67", "expected 68 to 65520")),
        ("mtu", "65521", with("65521", "expected 68 to 65520")),
        ("mtu", "+1500", with("+1500", "expected 68 to 65520")),
        ("mtu", "", with("", "expected 68 to 65520")),
        ("mtu.red", "1500 ", with("1500 ", "expected 68 to 65520")),
        (
            "mtu.blue",
            "1500",
            "\"blue\" is no interface with a binding, of which there are \"default\", \"red\"".to_owned(),
        ),
        (
            "mtu.",
            "1500",
            "\"\" is no interface with a binding, of which there are \"default\", \"red\"".to_owned(),
        ),
        (
            "mtu.red.x",
            "1",
            "\"red.x\" is no interface with a binding, of which there are \"default\", \"red\"".to_owned(),
        ),
        ("dns", "", with("", dns)),
        ("dns", "10.0.0.1,", with("10.0.0.1,", dns)),
        ("dns", "127.0.0.53", with("127.0.0.53", dns)),
        ("dns", "::", with("::", dns)),
        ("dns", "a.example", with("a.example", dns)),
        ("dns-search", "a..b", with("a..b", "expected domains, separated by commas")),
        ("dns-search", "none", with("none", "expected domains, separated by commas")),
        ("dns-search", "a b", with("a b", "expected domains, separated by commas")),
        ("map-host-loopback", "10.0.0.1,10.0.0.2", with("10.0.0.1,10.0.0.2", loopback)),
        ("map-host-loopback", "127.0.0.1", with("127.0.0.1", loopback)),
        ("map-host-loopback", "::ffff:10.0.0.1", with("::ffff:10.0.0.1", loopback)),
        ("map-host-loopback", "none", with("none", loopback)),
        ("map-host-loopback", "255.255.255.255", with("255.255.255.255", loopback)),
        ("map-host-loopback", "ff02::1", with("ff02::1", loopback)),
        ("dns", "224.0.0.1", with("224.0.0.1", dns)),
        ("log-level", "error", with("error", "expected warn, info, debug or trace")),
        ("flows-max", "0", with("0", "expected 1 to 131072")),
        ("flows-max", "131073", with("131073", "expected 1 to 131072")),
        ("metrics-address", ":9187", with(":9187", metrics)),
        ("metrics-address", "0.0.0.0:0", with("0.0.0.0:0", metrics)),
        (
            "metrics-address.red",
            "0.0.0.0:1",
            "is of the whole VMI, expected it without an interface's name".to_owned(),
        ),
    ];
    for (key, value, wanted) in table {
        let annotation = format!("sluice.dev/{key}");
        let refusal = read(&annotated(&[(&annotation, value)])).unwrap_err();
        let wanted =
            format!("VirtualMachineInstance demo/vm: metadata.annotations \"{annotation}\": {wanted}");
        assert_eq!(refusal.to_string(), wanted);
    }
}

#[test]
fn a_search_domain_is_no_longer_than_dns_allows() {
    let label = "d".repeat(63);
    let longest = [label.as_str(), &label, &label, &label[2..]].join(".");
    let table = [
        (longest.clone(), true),
        (format!("{longest}."), true),
        (format!("{longest}d"), false),
        (label.clone(), true),
        (format!("{label}d"), false),
    ];
    for (domain, fits) in table {
        assert_eq!(read(&annotated(&[("sluice.dev/dns-search", &domain)])).is_ok(), fits, "{domain}");
    }
}

#[test]
fn a_vm_with_many_nics_shows_some() {
    let names: Vec<String> = (0..9).map(|number| format!("n{number}")).collect();
    let mut vmi = with_networks(&names.iter().map(String::as_str).collect::<Vec<_>>());
    merge(&mut vmi, json!({"metadata": {"annotations": {"sluice.dev/mtu.x": "1"}}}));
    let refusal = read(&vmi).unwrap_err();
    let end = "of which there are \"n0\", \"n1\", \"n2\", \"n3\", \"n4\", \"n5\", \"n6\", \"n7\", more";
    assert!(refusal.faults[0].problem.ends_with(end), "{refusal}");
}

#[test]
fn without_our_nics_annotations_still_have_to_be_right() {
    let mut vmi = annotated(&[("sluice.dev/mtu.red", "1500")]);
    vmi["spec"]["domain"]["devices"]["interfaces"] = Value::Null;
    let refusal = read(&vmi).unwrap_err();
    assert_eq!(
        refusal.faults[0].problem,
        "\"red\" is no interface with a binding, of which there are none here"
    );
}
