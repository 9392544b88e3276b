//! VMIs that are served. A row is a plain VMI with a change, and what the change changes.

mod refused;
mod annotated;
mod named;
mod hostile;

use serde_json::{Value, json};

use super::*;
use crate::nic::{DhcpOptions, Link, LogLevel, Mac, Model, PciAddress, Ports, Tuning, Uplink};

/// As KubeVirt sends it, with what nobody reads.
fn plain() -> Value {
    json!({
        "kind": "VirtualMachineInstance",
        "apiVersion": "kubevirt.io/v1",
        "metadata": {"name": "vm", "namespace": "demo", "uid": "f4686d2c-6e8d-4335-b8fd-81bee22f4814"},
        "spec": {
            "domain": {
                "resources": {"requests": {"memory": "1Gi"}},
                "devices": {
                    "disks": [{"name": "root", "disk": {"bus": "virtio"}}],
                    "interfaces": [{"name": "default", "binding": {"name": "sluice"}}],
                },
            },
            "networks": [{"name": "default", "pod": {}}],
            "architecture": "amd64",
        },
        "status": {"interfaces": [{"name": "default", "podInterfaceName": "eth0"}], "guestOSInfo": {}},
    })
}

/// Merges as RFC 7396 has it, but keeps `null`: Go writes it.
fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(fields), Value::Object(changes)) => {
            for (name, change) in changes {
                merge(fields.entry(name).or_insert(Value::Null), change);
            }
        }
        (into, change) => *into = change,
    }
}

fn changed(change: Value) -> Value {
    let mut vmi = plain();
    merge(&mut vmi, change);
    vmi
}

/// A plain VMI whose only interface has these fields besides.
fn with_interface(fields: Value) -> Value {
    let mut vmi = plain();
    merge(&mut vmi["spec"]["domain"]["devices"]["interfaces"][0], fields);
    vmi
}

/// A VMI with interfaces of these names, the first on the pod network, the others on Multus networks, and no status.
fn with_networks(names: &[&str]) -> Value {
    let interfaces: Vec<Value> =
        names.iter().map(|name| json!({"name": name, "binding": {"name": "sluice"}})).collect();
    let network = |(position, name): (usize, &&str)| match position {
        0 => json!({"name": name, "pod": {}}),
        _ => json!({"name": name, "multus": {"networkName": format!("net-{name}")}}),
    };
    let networks: Vec<Value> = names.iter().enumerate().map(network).collect();
    changed(json!({
        "spec": {"domain": {"devices": {"interfaces": interfaces}}, "networks": networks},
        "status": {"interfaces": null},
    }))
}

fn place(links: &[(&str, u32)]) -> Place {
    Place {
        binding: "sluice".to_owned(),
        links: links.iter().map(|(name, mtu)| ((*name).to_owned(), *mtu)).collect(),
        search: ["demo.svc.cluster.local", "svc.cluster.local", "example.org"].map(str::to_owned).into(),
    }
}

fn usual_place() -> Place {
    place(&[("lo", 65536), ("eth0", 1400), ("ovn-udn1", 1300), (RED, 9000), (BLUE, 1500)])
}

fn read(vmi: &Value) -> Result<Plan, Refusal> {
    plan(vmi.to_string().as_bytes(), &usual_place())
}

fn nics(vmi: &Value) -> Vec<Nic> {
    read(vmi).unwrap_or_else(|refusal| panic!("{refusal}")).nics
}

fn nic(vmi: &Value) -> Nic {
    let nics = nics(vmi);
    assert_eq!(nics.len(), 1);
    nics.into_iter().next().unwrap()
}

const RED: &str = "podb1f51a511f1";
const BLUE: &str = "pod16477688c0e";

#[test]
fn a_plain_vmi_has_one_plain_nic() {
    let plan = read(&plain()).unwrap();
    assert_eq!(plan.identity.to_string(), "demo/vm");
    assert_eq!(plan.identity.uid, "f4686d2c-6e8d-4335-b8fd-81bee22f4814");
    assert_eq!(plan.metrics_address, None);
    let wanted = Nic {
        name: "default".to_owned(),
        // sha256sum of "demo\0vm\0default".
        mac: Mac([0x02, 0xd1, 0x55, 0x3f, 0x02, 0x97]),
        model: Model::VirtioNonTransitional,
        pci_address: None,
        acpi_index: None,
        boot_order: None,
        link: Link::Up,
        mtu: 1400,
        queues: None,
        uplink: Uplink { interface: "eth0".to_owned(), sharing: Sharing::Alone },
        tcp: Ports::AllBut(vec![]),
        udp: Ports::AllBut(vec![]),
        dhcp: DhcpOptions::default(),
        hostname: Some("vm".to_owned()),
        fqdn: None,
        tuning: Tuning::default(),
    };
    assert_eq!(plan.nics, [wanted]);
}

#[test]
fn everything_that_is_asked_for_is_in_the_nic() {
    let vmi = with_interface(json!({
        "macAddress": "02:02:02:02:02:02", "model": "virtio", "pciAddress": "0000:01:00.0", "acpiIndex": 101,
        "bootOrder": 1, "state": "down",
        "dhcpOptions": {
            "bootFileName": "pxelinux.0", "tftpServerName": "10.0.0.9", "ntpServers": ["10.0.0.7", "10.0.0.8"],
            "privateOptions": [{"option": 254, "value": "x y"}, {"option": 224, "value": "-z"}],
        },
    }));
    let plain = nic(&plain());
    let wanted = Nic {
        mac: Mac([2; 6]),
        pci_address: Some(PciAddress { domain: 0, bus: 1, slot: 0, function: 0 }),
        acpi_index: Some(101),
        boot_order: Some(1),
        link: Link::Down,
        dhcp: DhcpOptions {
            boot_file: Some("pxelinux.0".to_owned()),
            tftp_server: Some("10.0.0.9".to_owned()),
            ntp_servers: vec![[10, 0, 0, 7].into(), [10, 0, 0, 8].into()],
            private: vec![(254, "x y".to_owned()), (224, "-z".to_owned())],
        },
        ..plain
    };
    assert_eq!(nic(&vmi), wanted);
}

#[test]
fn what_go_leaves_out_or_writes_as_null_is_the_empty_value() {
    let nulls = [
        json!({"metadata": {"annotations": null, "labels": null}}),
        json!({"status": null}),
        json!({"status": {"interfaces": null}}),
        json!({"status": {"interfaces": [{"name": null, "podInterfaceName": null}]}}),
        json!({"spec": {"hostname": null, "subdomain": null, "architecture": null}}),
        json!({"spec": {"hostname": "", "subdomain": "", "architecture": ""}}),
        json!({"spec": {"domain": {"cpu": null, "resources": null}}}),
        json!({"spec": {"domain": {"resources": {"limits": null, "requests": {"cpu": null}}}}}),
        json!({"spec": {"domain": {"devices": {"networkInterfaceMultiqueue": null}}}}),
        json!({"spec": {"networks": [{"name": "default", "pod": {}, "multus": null}]}}),
    ];
    for change in nulls {
        assert_eq!(nic(&changed(change.clone())), nic(&plain()), "{change}");
    }
    let empty = [
        json!({"model": null, "macAddress": null, "pciAddress": null, "acpiIndex": null, "bootOrder": null}),
        json!({"model": "", "macAddress": "", "pciAddress": "", "state": ""}),
        json!({"state": null, "ports": null, "dhcpOptions": null}),
        json!({"ports": [], "dhcpOptions": {}}),
        json!({"dhcpOptions": {"bootFileName": "", "ntpServers": null, "privateOptions": null}}),
        json!({"unknown": {"deep": [1, null, {"x": 1.5}]}}),
    ];
    for fields in empty {
        assert_eq!(nic(&with_interface(fields.clone())), nic(&plain()), "{fields}");
    }
}

#[test]
fn only_our_binding_is_served_and_in_the_order_of_the_spec() {
    let interface = |name: &str, more: Value| {
        let mut interface = json!({"name": name});
        merge(&mut interface, more);
        interface
    };
    let (ours, others) = (json!({"binding": {"name": "sluice"}}), json!({"binding": {"name": "passt"}}));
    let bridge = json!({"bridge": {}, "ports": [{"port": 0}], "model": "odd"});
    let absent = json!({"binding": {"name": "sluice"}, "state": "absent", "macAddress": "odd"});
    let table: [(&str, Vec<Value>, &[&str]); 6] = [
        ("none", vec![], &[]),
        ("other plugin", vec![interface("default", others.clone())], &[]),
        ("no binding, and faults of its own", vec![interface("default", bridge.clone())], &[]),
        ("null", vec![interface("default", json!({"binding": null}))], &[]),
        ("absent", vec![interface("default", absent.clone()), interface("red", ours.clone())], &["red"]),
        (
            "order",
            vec![interface("red", ours.clone()), interface("default", ours), interface("blue", bridge)],
            &["red", "default"],
        ),
    ];
    for (case, interfaces, wanted) in table {
        let mut vmi = with_networks(&["default", "red", "blue"]);
        vmi["spec"]["domain"]["devices"]["interfaces"] = interfaces.into();
        let names: Vec<String> = nics(&vmi).into_iter().map(|nic| nic.name).collect();
        assert_eq!(names, wanted, "{case}");
    }
}

#[test]
fn uplinks_and_who_shares_the_pod() {
    use Sharing::{Alone, Primary, Secondary};
    let status = |of: &[(&str, &str)]| -> Value {
        of.iter().map(|(name, link)| json!({"name": name, "podInterfaceName": link})).collect()
    };
    let usual: &[&str] = &["eth0", RED, BLUE];
    type Row<'a> =
        (&'a str, &'a [&'a str], &'a [(&'a str, &'a str)], &'a [&'a str], &'a [(&'a str, Sharing)]);
    let table: [Row<'_>; 8] = [
        ("primary alone", &["default"], &[], usual, &[("eth0", Alone)]),
        (
            "primary UDN",
            &["default"],
            &[("default", "ovn-udn1")],
            &["eth0", "ovn-udn1"],
            &[("ovn-udn1", Alone)],
        ),
        ("UDN unless told", &["default"], &[], &["eth0", "ovn-udn1"], &[("eth0", Alone)]),
        (
            "hashed",
            &["default", "red", "blue"],
            &[],
            usual,
            &[("eth0", Primary), (RED, Secondary), (BLUE, Secondary)],
        ),
        (
            "ordinal",
            &["default", "red", "blue"],
            &[],
            &["eth0", "net1", "net2"],
            &[("eth0", Primary), ("net1", Secondary), ("net2", Secondary)],
        ),
        (
            "told wins over hashed",
            &["default", "red"],
            &[("red", "net7")],
            &["eth0", "net7", RED],
            &[("eth0", Primary), ("net7", Secondary)],
        ),
        (
            "told of the pod it comes from",
            &["default", "red"],
            &[("red", "net7")],
            &["eth0", RED],
            &[("eth0", Primary), (RED, Secondary)],
        ),
        ("told nothing", &["default"], &[("default", "")], usual, &[("eth0", Alone)]),
    ];
    for (case, names, told, links, wanted) in table {
        let mut vmi = with_networks(names);
        vmi["status"]["interfaces"] = status(told);
        let links: Vec<(&str, u32)> = links.iter().map(|name| (*name, 1500)).collect();
        let nics = plan(vmi.to_string().as_bytes(), &place(&links)).unwrap().nics;
        let found: Vec<_> =
            nics.iter().map(|nic| (nic.uplink.interface.as_str(), nic.uplink.sharing)).collect();
        assert_eq!(found, wanted, "{case}");
    }
}

#[test]
fn a_binding_beside_us_has_us_listen_on_our_own_network_only() {
    let mut vmi = with_networks(&["default", "red"]);
    vmi["spec"]["domain"]["devices"]["interfaces"][1]["binding"]["name"] = "sluice-two".into();
    merge(&mut vmi, json!({"metadata": {"annotations": {"sluice.dev/mtu.red": "1400"}}}));
    assert_eq!(nic(&vmi).uplink.sharing, Sharing::Primary);
    vmi["spec"]["domain"]["devices"]["interfaces"][1]["state"] = "absent".into();
    assert_eq!(nic(&vmi).uplink.sharing, Sharing::Alone);
}

#[test]
fn a_secondary_network_alone_leaves_the_pods_own_to_others() {
    let mut vmi = with_networks(&["default", "red"]);
    vmi["spec"]["domain"]["devices"]["interfaces"][0]["binding"]["name"] = "passt".into();
    let wanted = Uplink { interface: RED.to_owned(), sharing: Sharing::Secondary };
    assert_eq!(nic(&vmi).uplink, wanted);
}

#[test]
fn the_default_of_multus_is_primary_and_takes_no_number() {
    let mut vmi = with_networks(&["red", "blue", "green"]);
    vmi["spec"]["networks"][0] = json!({"name": "red", "multus": {"networkName": "a"}});
    vmi["spec"]["networks"][1] = json!({"name": "blue", "multus": {"networkName": "b", "default": true}});
    let links = [("net1", 1500), ("net2", 1500), ("eth0", 1500)];
    let nics = plan(vmi.to_string().as_bytes(), &place(&links)).unwrap().nics;
    let found: Vec<_> = nics.iter().map(|nic| (nic.uplink.interface.as_str(), nic.uplink.sharing)).collect();
    assert_eq!(
        found,
        [("net1", Sharing::Secondary), ("eth0", Sharing::Primary), ("net2", Sharing::Secondary)]
    );
}

#[test]
fn macs_as_go_reads_them() {
    let table = ["02:aB:cD:00:00:0f", "02-Ab-Cd-00-00-0F", "02ab.CD00.000f"];
    for text in table {
        let mac = nic(&with_interface(json!({"macAddress": text}))).mac;
        assert_eq!(mac, Mac([0x02, 0xab, 0xcd, 0, 0, 0x0f]), "{text}");
    }
}

#[test]
fn own_macs_differ_by_namespace_vm_and_interface_only() {
    let mut macs = HashSet::new();
    for (namespace, name, interfaces) in
        [("a", "vm", ["x", "y"]), ("b", "vm", ["x", "y"]), ("a", "v", ["mx", "y"]), ("av", "m", ["x", "y"])]
    {
        let mut vmi = with_networks(&interfaces);
        merge(&mut vmi["metadata"], json!({"namespace": namespace, "name": name}));
        let links: Vec<(&str, u32)> = vec![("eth0", 1500), ("net1", 1500)];
        let nics = plan(vmi.to_string().as_bytes(), &place(&links)).unwrap().nics;
        for nic in nics {
            assert_eq!(nic.mac.0[0], 0x02, "{}", nic.mac);
            assert!(macs.insert(nic.mac.0), "{namespace} {name} {}", nic.name);
        }
    }
    let restarted = changed(json!({"metadata": {"uid": "another"}}));
    assert_eq!(nic(&restarted).mac, nic(&plain()).mac);
}

#[test]
fn models() {
    let table = [
        ("amd64", false, "", Model::VirtioNonTransitional),
        ("amd64", true, "virtio", Model::VirtioTransitional),
        ("arm64", false, "virtio", Model::VirtioNonTransitional),
        ("s390x", false, "", Model::Virtio),
        ("s390x", true, "virtio", Model::Virtio),
        ("amd64", true, "e1000", Model::E1000),
        ("amd64", false, "e1000e", Model::E1000e),
        ("amd64", false, "igb", Model::Igb),
        ("amd64", false, "ne2k_pci", Model::Ne2kPci),
        ("amd64", false, "pcnet", Model::Pcnet),
        ("amd64", false, "rtl8139", Model::Rtl8139),
    ];
    for (architecture, transitional, model, wanted) in table {
        let mut vmi = with_interface(json!({"model": model}));
        let devices = json!({"useVirtioTransitional": transitional});
        merge(&mut vmi, json!({"spec": {"architecture": architecture, "domain": {"devices": devices}}}));
        assert_eq!(nic(&vmi).model, wanted, "{architecture} {transitional} {model}");
    }
}

#[test]
fn slots_indexes_and_orders_at_their_limits() {
    let address = |domain, bus, slot, function| PciAddress { domain, bus, slot, function };
    for (text, wanted) in
        [("0000:00:1f.7", address(0, 0, 31, 7)), ("FFff:aB:01.0", address(0xffff, 0xab, 1, 0))]
    {
        assert_eq!(nic(&with_interface(json!({"pciAddress": text}))).pci_address, Some(wanted), "{text}");
    }
    for index in [1, 16383] {
        assert_eq!(nic(&with_interface(json!({"acpiIndex": index}))).acpi_index, Some(index));
    }
    for order in [1, 65535] {
        assert_eq!(nic(&with_interface(json!({"bootOrder": order}))).boot_order, Some(order));
    }
    assert_eq!(nic(&with_interface(json!({"state": "up"}))).link, Link::Up);
}

#[test]
fn mtus_of_links_are_kept_within_what_a_guest_can_have() {
    for (link, wanted) in [(1400, 1400), (0, 68), (65520, 65520), (65521, 65520), (u32::MAX, 65520)] {
        let nics = plan(plain().to_string().as_bytes(), &place(&[("eth0", link)])).unwrap().nics;
        assert_eq!(nics[0].mtu, wanted, "{link}");
    }
}

#[test]
fn queues_are_as_many_as_vcpus() {
    let table = [
        (json!({"cpu": {"cores": 4}}), Some(4)),
        (json!({"cpu": {"sockets": 2, "cores": 3, "threads": 2}}), Some(12)),
        (json!({"cpu": {"sockets": 0, "cores": 2, "threads": null}}), Some(2)),
        (json!({"cpu": {"cores": 1}, "resources": {"limits": {"cpu": "4"}}}), None),
        (json!({"cpu": {"sockets": 129}}), Some(128)),
        (json!({"cpu": {"sockets": u32::MAX, "cores": u32::MAX, "threads": u32::MAX}}), Some(128)),
        (json!({}), None),
        (json!({"cpu": {"model": "host-model"}}), None),
        (json!({"resources": {"requests": {"cpu": "3"}}}), Some(3)),
        (json!({"resources": {"requests": {"cpu": "3"}, "limits": {"cpu": "2"}}}), Some(2)),
        (json!({"resources": {"limits": {"cpu": "1100m"}}}), Some(2)),
        (json!({"resources": {"limits": {"cpu": "2000m"}}}), Some(2)),
        (json!({"resources": {"limits": {"cpu": "100m"}}}), None),
        (json!({"resources": {"limits": {"cpu": "0"}}}), None),
        (json!({"resources": {"limits": {"cpu": 2.5}}}), Some(3)),
        (json!({"resources": {"limits": {"cpu": "1e1"}}}), Some(10)),
        (json!({"resources": {"limits": {"cpu": "2500000000n"}}}), Some(3)),
        (json!({"resources": {"limits": {"cpu": "0.1k"}}}), Some(100)),
        (json!({"resources": {"limits": {"cpu": "1Ki"}}}), Some(128)),
        (json!({"resources": {"limits": {"cpu": "1E"}}}), Some(128)),
    ];
    for (domain, wanted) in table {
        let on = json!({"networkInterfaceMultiqueue": true});
        let mut vmi = changed(json!({"spec": {"domain": domain}}));
        assert_eq!(nic(&vmi).queues, None, "off: {domain}");
        merge(&mut vmi, json!({"spec": {"domain": {"devices": on}}}));
        assert_eq!(nic(&vmi).queues, wanted, "{domain}");
        vmi["spec"]["domain"]["devices"]["interfaces"][0]["model"] = "e1000".into();
        assert_eq!(nic(&vmi).queues, None, "e1000: {domain}");
    }
}

#[test]
fn ports_are_forwarded_as_listed_and_istio_keeps_its_own() {
    let tcp = |port: u16| json!({"protocol": "TCP", "port": port});
    let udp = |port: u16| json!({"protocol": "UDP", "port": port, "name": "x"});
    let bare = |port: u16| json!({"port": port});
    let all = || Ports::AllBut(vec![]);
    let only = |ports: &[u16]| Ports::Only(ports.to_vec());
    let istio_udp = || Ports::AllBut(vec![15053]);
    let istio = || Ports::AllBut(vec![15000, 15001, 15004, 15006, 15008, 15009, 15020, 15021, 15053, 15090]);
    let table = [
        ("none", vec![], false, all(), all()),
        ("TCP by default", vec![bare(80)], false, only(&[80]), only(&[])),
        ("each apart", vec![tcp(80), udp(53), bare(8080)], false, only(&[80, 8080]), only(&[53])),
        ("UDP only", vec![udp(65535), udp(1)], false, only(&[]), only(&[1, 65535])),
        ("twice", vec![tcp(80), bare(80), udp(80), tcp(80)], false, only(&[80]), only(&[80])),
        ("no protocol", vec![json!({"protocol": null, "port": 7})], false, only(&[7]), only(&[])),
        ("Istio", vec![], true, istio(), istio_udp()),
        ("Istio, listed", vec![tcp(80), tcp(15008), udp(15008)], true, only(&[80]), only(&[15008])),
        ("Istio, nothing left", vec![tcp(15090)], true, only(&[]), only(&[])),
        ("not Istio's without it", vec![tcp(15090)], false, only(&[15090]), only(&[])),
    ];
    for (case, ports, istio, tcp, udp) in table {
        let mut vmi = with_interface(json!({"ports": ports}));
        if istio {
            merge(&mut vmi, json!({"metadata": {"annotations": {"sidecar.istio.io/inject": "true"}}}));
        }
        let nic = nic(&vmi);
        assert_eq!((nic.tcp, nic.udp), (tcp, udp), "{case}");
    }
}

#[test]
fn istio_is_asked_for_in_an_annotation_or_a_label() {
    let table = [
        (json!({"annotations": {"sidecar.istio.io/inject": "True"}}), true),
        (json!({"labels": {"sidecar.istio.io/inject": "TRUE"}}), true),
        (
            json!({"annotations": {"sidecar.istio.io/inject": "false"}, "labels": {"sidecar.istio.io/inject": "true"}}),
            true,
        ),
        (json!({"annotations": {"sidecar.istio.io/inject": "yes"}}), false),
        (json!({"annotations": {"sidecar.istio.io/injected": "true"}}), false),
    ];
    for (metadata, wanted) in table {
        let tcp = nic(&changed(json!({"metadata": metadata}))).tcp;
        assert_eq!(tcp != Ports::AllBut(vec![]), wanted, "{metadata}");
    }
}
