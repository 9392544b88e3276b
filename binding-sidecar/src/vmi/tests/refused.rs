//! VMIs that are refused, and what is said of them.

use super::*;

/// What is said behind the VMI's name.
fn faults(vmi: &Value) -> Vec<String> {
    let refusal = read(vmi).unwrap_err();
    assert_eq!(refusal.identity, Some(identity_of_plain()));
    assert_eq!(refusal.more, 0);
    refusal.faults.iter().map(ToString::to_string).collect()
}

fn identity_of_plain() -> Identity {
    let [namespace, name, uid] = ["demo", "vm", "f4686d2c-6e8d-4335-b8fd-81bee22f4814"].map(str::to_owned);
    Identity { namespace, name, uid }
}

#[test]
fn fields_of_an_interface() {
    let mac = "expected 6 bytes such as 02:00:00:00:00:01";
    let group = "expected the address of one station, not of a group";
    let pci = "expected DDDD:BB:SS.F in hexadecimal, slot 00 to 1f, function 0 to 7";
    let quoted = |field: &str, value: &str, expected: &str| format!("{field}: \"{value}\", {expected}");
    let port = |value: i64| format!("ports[0].port: {value}, expected 1 to 65535");
    let table = [
        (json!({"macAddress": "02:00:00:00:01"}), quoted("macAddress", "02:00:00:00:01", mac)),
        (
            json!({"macAddress": "02:00:00:00:00:00:00:01"}),
            quoted("macAddress", "02:00:00:00:00:00:00:01", mac),
        ),
        (json!({"macAddress": "02:00-00:00:00:01"}), quoted("macAddress", "02:00-00:00:00:01", mac)),
        (json!({"macAddress": "2:0:0:0:0:1"}), quoted("macAddress", "2:0:0:0:0:1", mac)),
        (json!({"macAddress": "0"}), quoted("macAddress", "0", mac)),
        (json!({"macAddress": "+2:00:00:00:00:01"}), quoted("macAddress", "+2:00:00:00:00:01", mac)),
        (
            json!({"macAddress": "00:00:00:00:00:00"}),
            quoted("macAddress", "00:00:00:00:00:00", "expected an address other than zero"),
        ),
        (json!({"macAddress": "01:00:5e:00:00:01"}), quoted("macAddress", "01:00:5e:00:00:01", group)),
        (json!({"macAddress": "ff:ff:ff:ff:ff:ff"}), quoted("macAddress", "ff:ff:ff:ff:ff:ff", group)),
        (
            json!({"model": "vmxnet3"}),
            quoted("model", "vmxnet3", "expected virtio, e1000, e1000e, igb, ne2k_pci, pcnet or rtl8139"),
        ),
        (json!({"pciAddress": "01:00.0"}), quoted("pciAddress", "01:00.0", pci)),
        (json!({"pciAddress": "0000:81:01.10"}), quoted("pciAddress", "0000:81:01.10", pci)),
        (json!({"pciAddress": "0000:81:20.0"}), quoted("pciAddress", "0000:81:20.0", pci)),
        (json!({"pciAddress": "0000:81:01.8"}), quoted("pciAddress", "0000:81:01.8", pci)),
        (json!({"pciAddress": "0000:+1:01.0"}), quoted("pciAddress", "0000:+1:01.0", pci)),
        (json!({"acpiIndex": 0}), "acpiIndex: 0, expected 1 to 16383".to_owned()),
        (json!({"acpiIndex": 16384}), "acpiIndex: 16384, expected 1 to 16383".to_owned()),
        (json!({"acpiIndex": -1}), "acpiIndex: -1, expected 1 to 16383".to_owned()),
        (json!({"bootOrder": 0}), "bootOrder: 0, expected 1 to 65535".to_owned()),
        (json!({"bootOrder": i64::MAX}), format!("bootOrder: {}, expected 1 to 65535", i64::MAX)),
        (json!({"state": "paused"}), quoted("state", "paused", "expected up, down or absent")),
        (json!({"ports": [{"port": 0}]}), port(0)),
        (json!({"ports": [{}]}), port(0)),
        (json!({"ports": [{"port": 65536}]}), port(65536)),
        (json!({"ports": [{"port": -1}]}), port(-1)),
        (
            json!({"ports": [{"port": 1}, {"port": 1, "protocol": "SCTP"}]}),
            quoted("ports[1].protocol", "SCTP", "expected TCP or UDP"),
        ),
        (
            json!({"ports": [{"port": 1, "protocol": "udp"}]}),
            quoted("ports[0].protocol", "udp", "expected TCP or UDP"),
        ),
    ];
    refused_interfaces(&table);
}

#[test]
fn dhcp_options_of_an_interface() {
    let quoted = |field: &str, value: &str, expected: &str| format!("{field}: \"{value}\", {expected}");
    let private = |list: Value| json!({"dhcpOptions": {"privateOptions": list}});
    let ntp = |list: Value| json!({"dhcpOptions": {"ntpServers": list}});
    let ntp_fault =
        |value: &str| quoted("dhcpOptions.ntpServers[0]", value, "expected the IPv4 address of a server");
    let table = [
        (
            json!({"dhcpOptions": {"bootFileName": "x".repeat(256)}}),
            "dhcpOptions.bootFileName: 256 bytes, expected 255 at most".to_owned(),
        ),
        (
            json!({"dhcpOptions": {"tftpServerName": "a\u{0}b"}}),
            quoted("dhcpOptions.tftpServerName", "a\\0b", "expected text without control characters"),
        ),
        (
            json!({"dhcpOptions": {"tftpServerName": "127.0.0.1"}}),
            quoted(
                "dhcpOptions.tftpServerName",
                "127.0.0.1",
                "expected a name, or the address of one station",
            ),
        ),
        (ntp(json!(["pool.example"])), ntp_fault("pool.example")),
        (ntp(json!(["fd00::1"])), ntp_fault("fd00::1")),
        (ntp(json!(["0.0.0.0"])), ntp_fault("0.0.0.0")),
        (ntp(json!([""])), ntp_fault("")),
        (
            ntp(vec!["10.0.0.1"; 64].into()),
            "dhcpOptions.ntpServers: 64 servers, expected 63 at most".to_owned(),
        ),
        (
            private(json!([{"option": 223, "value": "x"}])),
            "dhcpOptions.privateOptions[0].option: 223, expected 224 to 254".to_owned(),
        ),
        (
            private(json!([{"option": 480, "value": "x"}])),
            "dhcpOptions.privateOptions[0].option: 480, expected 224 to 254".to_owned(),
        ),
        (
            private(json!([{"option": 224, "value": "x"}, {"option": 224, "value": "y"}])),
            "dhcpOptions.privateOptions[1].option: 224 a second time, expected each once".to_owned(),
        ),
        (
            private(json!([{"option": 254, "value": "x".repeat(256)}])),
            "dhcpOptions.privateOptions[0].value: 256 bytes, expected 255 at most".to_owned(),
        ),
        (
            private(json!([{"option": 254, "value": "\u{0}"}])),
            quoted("dhcpOptions.privateOptions[0].value", "\\0", "expected text without zeros"),
        ),
    ];
    refused_interfaces(&table);
}

fn refused_interfaces(table: &[(Value, String)]) {
    for (fields, wanted) in table {
        let wanted = format!("spec.domain.devices.interfaces[0] \"default\": {wanted}");
        assert_eq!(faults(&with_interface(fields.clone())), [wanted], "{fields}");
    }
}

#[test]
fn names_of_interfaces() {
    let long = "x".repeat(254);
    let cut = format!("{}...", "x".repeat(64));
    for (name, shown) in
        [("", ""), ("a b", "a b"), ("a/b", "a/b"), ("ä", "ä"), ("a\n", "a\\n"), (long.as_str(), cut.as_str())]
    {
        let at = format!("spec.domain.devices.interfaces[0] \"{shown}\"");
        let wanted = format!("{at}: name: expected 1 to 253 letters, digits, - and _");
        assert_eq!(faults(&with_networks(&[name])), [wanted], "{name:?}");
    }
    assert_eq!(nic(&with_networks(&["A-z_09"])).name, "A-z_09");
}

#[test]
fn networks_and_interfaces_that_do_not_fit() {
    let networks = |list: Value| changed(json!({"spec": {"networks": list}}));
    let told = |links: &[(&str, &str)]| {
        let mut vmi = with_networks(&["default", "red"]);
        let told: Vec<Value> =
            links.iter().map(|(name, link)| json!({"name": name, "podInterfaceName": link})).collect();
        vmi["status"]["interfaces"] = told.into();
        vmi
    };
    let twice = with_networks(&["default", "default"]);
    let mut theirs_twice = with_networks(&["default", "red", "blue"]);
    for position in [1, 2] {
        theirs_twice["spec"]["domain"]["devices"]["interfaces"][position] =
            json!({"name": "red", "bridge": {}});
    }
    let first = "spec.domain.devices.interfaces[0] \"default\": network";
    let second = "spec.domain.devices.interfaces[1] \"red\": network";
    let one = "expected one pod network, or one multus network with default: true";
    let table: [(&str, Value, Vec<String>); 10] = [
        ("no networks", networks(Value::Null), vec![format!("{first}: spec.networks has no network of this name")]),
        (
            "other name",
            networks(json!([{"name": "red", "pod": {}}])),
            vec![format!("{first}: spec.networks has no network of this name")],
        ),
        (
            "other kind",
            networks(json!([{"name": "default", "resourceClaim": {}}])),
            vec![format!("{first}: its network is neither `pod` nor `multus`, expected one of them")],
        ),
        (
            "two pod networks",
            networks(json!([{"name": "default", "pod": {}}, {"name": "b", "pod": {}}])),
            vec![format!("spec.networks[1] \"b\": \"default\" is the pod's primary network already, {one}")],
        ),
        (
            "pod network and Multus's default",
            networks(json!([{"name": "b", "multus": {"default": true}}, {"name": "default", "pod": {}}])),
            vec![format!("spec.networks[1] \"default\": \"b\" is the pod's primary network already, {one}")],
        ),
        (
            "two of one name",
            networks(json!([{"name": "default", "pod": {}}, {"name": "default", "multus": {}}])),
            vec!["spec.networks[1] \"default\": a second network of this name, expected one of its own".to_owned()],
        ),
        (
            "two interfaces of one name",
            twice,
            vec![
                "spec.domain.devices.interfaces[1] \"default\": name: interfaces[0] has the same name, expected one of its own"
                    .to_owned(),
                "spec.networks[1] \"default\": a second network of this name, expected one of its own".to_owned(),
            ],
        ),
        (
            "status names what is not there",
            told(&[("default", "eth9")]),
            vec![format!("{first}: the pod has no interface \"eth9\"")],
        ),
        (
            "status names one twice",
            told(&[("default", "eth0"), ("red", "eth0")]),
            vec!["status.interfaces \"red\": podInterfaceName: \"eth0\" serves \"default\" already, expected another".to_owned()],
        ),
        ("others' interfaces of one name", theirs_twice, vec![]),
    ];
    for (case, vmi, wanted) in table {
        if wanted.is_empty() {
            assert_eq!(nics(&vmi).len(), 1, "{case}");
        } else {
            assert_eq!(faults(&vmi), wanted, "{case}");
        }
    }
    let vmi = with_networks(&["default", "red"]);
    let refusal = plan(vmi.to_string().as_bytes(), &place(&[("lo", 65536), ("net2", 1500)])).unwrap_err();
    let wanted = [
        format!("{first}: the pod has no interface \"eth0\""),
        format!("{second}: the pod has no interface \"{RED}\" or \"net1\""),
    ];
    assert_eq!(refusal.faults.iter().map(ToString::to_string).collect::<Vec<_>>(), wanted);
}

#[test]
fn fields_of_the_vmi() {
    let label = "expected letters, digits and hyphens, none at the ends";
    let multiqueue = |cpu: Value| {
        let domain =
            json!({"devices": {"networkInterfaceMultiqueue": true}, "resources": {"requests": {"cpu": cpu}}});
        json!({"spec": {"domain": domain}})
    };
    let quantity = |shown: &str| {
        format!("spec.domain.resources.requests.cpu: \"{shown}\", expected a quantity such as 2 or 1500m")
    };
    let table = [
        (json!({"spec": {"hostname": "a_b"}}), format!("spec.hostname: \"a_b\", {label}")),
        (json!({"spec": {"hostname": "-a"}}), format!("spec.hostname: \"-a\", {label}")),
        (json!({"spec": {"hostname": "a-"}}), format!("spec.hostname: \"a-\", {label}")),
        (json!({"spec": {"hostname": ".a"}}), format!("spec.hostname: \".a\", {label}")),
        (json!({"spec": {"subdomain": "a.b"}}), format!("spec.subdomain: \"a.b\", {label}")),
        (multiqueue(json!("two")), quantity("two")),
        (multiqueue(json!("-1")), quantity("-1")),
        (multiqueue(json!("NaN")), quantity("NaN")),
        (multiqueue(json!("m")), quantity("m")),
        (multiqueue(json!("")), quantity("")),
        (multiqueue(json!([1])), quantity("")),
    ];
    for (change, wanted) in table {
        assert_eq!(faults(&changed(change.clone())), [wanted], "{change}");
    }
    let unnamed = changed(json!({"metadata": {"name": "Ä"}}));
    let wanted = format!("VirtualMachineInstance demo/Ä: metadata.name: \"Ä\", {label}");
    assert_eq!(read(&unnamed).unwrap_err().to_string(), wanted);
}

#[test]
fn all_faults_are_one_line() {
    let mut vmi = with_networks(&["default", "red"]);
    let interfaces = &mut vmi["spec"]["domain"]["devices"]["interfaces"];
    merge(&mut interfaces[0], json!({"macAddress": "02:00", "ports": [{"port": 0}]}));
    merge(&mut interfaces[1], json!({"model": "a\nb"}));
    merge(&mut vmi, json!({"metadata": {"annotations": {"sluice.dev/mtu": "1"}}}));
    let wanted = "VirtualMachineInstance demo/vm: metadata.annotations \"sluice.dev/mtu\": \"1\", expected 68 to 65520; \
        spec.domain.devices.interfaces[0] \"default\": macAddress: \"02:00\", expected 6 bytes such as 02:00:00:00:00:01; \
        spec.domain.devices.interfaces[0] \"default\": ports[0].port: 0, expected 1 to 65535; \
        spec.domain.devices.interfaces[1] \"red\": model: \"a\\nb\", \
        expected virtio, e1000, e1000e, igb, ne2k_pci, pcnet or rtl8139";
    assert_eq!(read(&vmi).unwrap_err().to_string(), wanted);
}

#[test]
fn json_that_is_none() {
    let of_type = "VirtualMachineInstance demo/vm: JSON: invalid type: string \"80\", expected i64 at line 1 column 110";
    let table = [
        ("", "VirtualMachineInstance: JSON: EOF while parsing a value at line 1 column 0"),
        ("{\n\"spec\": {,", "VirtualMachineInstance: JSON: key must be a string at line 2 column 10"),
        ("[]", "VirtualMachineInstance: JSON: expected an object, not a list"),
        ("null", "VirtualMachineInstance: JSON: invalid type: null, expected struct Vmi at line 1 column 4"),
        (
            r#"{"metadata":{"name":"vm","namespace":"demo"},"spec":{"domain":{"devices":{"interfaces":[{"ports":[{"port":"80"}]}]}}}}"#,
            of_type,
        ),
    ];
    for (text, wanted) in table {
        let said = plan(text.as_bytes(), &usual_place()).unwrap_err().to_string();
        assert!(said.starts_with(wanted), "{text}: {said}");
    }
    let long = with_interface(json!({"acpiIndex": "x".repeat(1000)}));
    let said = read(&long).unwrap_err().to_string();
    let start = "VirtualMachineInstance demo/vm: JSON: invalid type: string \"xxx";
    assert!(said.starts_with(start) && said.contains("x... at line 1 column ") && said.len() < 400, "{said}");
}
