//! Documents that nobody wrote, and NICs: what must hold whatever they are.
#![expect(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is a test"
)]

mod roundtrip;

use binding_sidecar::domain::{Allocation, Attachment, with_nics};
use binding_sidecar::nic::{DhcpOptions, Link, Mac, Model, Nic, PciAddress, Ports, Sharing, Tuning, Uplink};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// NICs' names, some of which are like aliases of others.
const NAMES: [&str; 6] = ["default", "red", "ua-red", "placeholder-0", "net-1_A", "0"];

/// A NIC and its socket, whose path may need to be escaped.
type Plugged = (Nic, String);

fn plugged(name: &'static str) -> impl Strategy<Value = Plugged> {
    let model = select(vec![
        Model::VirtioNonTransitional,
        Model::VirtioTransitional,
        Model::Virtio,
        Model::E1000e,
        Model::Rtl8139,
    ]);
    let address = (any::<u16>(), any::<u8>(), 0..32u8, 0..8u8);
    let address =
        address.prop_map(|(domain, bus, slot, function)| PciAddress { domain, bus, slot, function });
    let numbers = (option::of(1..16384u16), option::of(1..9u16), option::of(2..129u16));
    let link = select(vec![Link::Up, Link::Down]);
    (any::<[u8; 6]>(), model, option::of(address), numbers, link, "/[a-z&<>'\"\t \u{e9}]{1,20}").prop_map(
        |(mac, model, pci_address, (acpi_index, boot_order, queues), link, socket)| {
            let nic = Nic {
                name: name.to_owned(),
                mac: Mac(mac),
                model,
                pci_address,
                acpi_index,
                boot_order,
                link,
                mtu: 1500,
                queues,
                uplink: Uplink { interface: "eth0".to_owned(), sharing: Sharing::Alone },
                tcp: Ports::AllBut(Vec::new()),
                udp: Ports::AllBut(Vec::new()),
                dhcp: DhcpOptions::default(),
                hostname: None,
                fqdn: None,
                tuning: Tuning::default(),
            };
            (nic, socket)
        },
    )
}

fn nics() -> impl Strategy<Value = Vec<Plugged>> {
    let names = subsequence(NAMES.to_vec(), 1..=3).prop_shuffle();
    names.prop_flat_map(|names| names.into_iter().map(plugged).collect::<Vec<_>>())
}

/// What stands between elements. Text only where libvirt would not mind; comments may look like elements.
fn between() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(String::new()),
        4 => select(vec!["\n", "\n\t", "\n  ", "\r\n    ", "  ", "\n\n\t\t"]).prop_map(str::to_owned),
        1 => Just("<!-- <interface><alias name='ua-default'/></interface> -->".to_owned()),
        1 => Just("<?devices <devices> ?>".to_owned()),
        1 => Just("<![CDATA[</devices>]]>".to_owned()),
        1 => Just("a &amp; b &#x41; > c".to_owned()),
    ]
}

/// ` name="value"`, in one of the many ways to write it.
fn attribute(name: impl Strategy<Value = &'static str>) -> impl Strategy<Value = String> {
    let value = select(vec!["", "x", "a b", "&lt;&quot;&apos;", "&#65;&#x1F600;", "/>", "a>b", "\n"]);
    let ways = select(vec![(" ", "=", '"'), (" ", "=", '\''), ("\n\t", " = ", '\''), ("  ", "= ", '"')]);
    (name, value, ways).prop_map(|(name, value, (before, equals, quote))| {
        format!("{before}{name}{equals}{quote}{value}{quote}")
    })
}

/// An element with children, or one of the two ways to have none.
fn element(name: String, attributes: String, children: &[String], closes_itself: bool) -> String {
    let children = children.concat();
    if children.is_empty() && closes_itself {
        format!("<{name}{attributes}/>")
    } else {
        format!("<{name}{attributes}>{children}</{name} >")
    }
}

/// Whatever libvirt may learn one day.
fn stranger() -> impl Strategy<Value = String> {
    let names = select(vec!["disk", "interfaces", "alias", "x-new", "Interface", "memory-backing"]);
    let leaf = (names.clone(), vec(attribute(select(vec!["a", "b:c", "type", "name"])), 0..2), any::<bool>())
        .prop_map(|(name, mut attributes, closes_itself)| {
            // An attribute must not stand there twice.
            attributes.truncate(1);
            element(name.to_owned(), attributes.concat(), &[], closes_itself)
        });
    leaf.prop_recursive(3, 12, 3, move |inner| {
        (names.clone(), vec((between(), inner), 0..3), any::<bool>()).prop_map(
            |(name, children, closes_itself)| {
                let children: Vec<String> =
                    children.into_iter().map(|(before, child)| before + &child).collect();
                element(name.to_owned(), String::new(), &children, closes_itself)
            },
        )
    })
}

/// An interface: a stranger's, a placeholder, or one of ours as somebody left it. No two have one alias.
fn interface(alias: String) -> impl Strategy<Value = String> {
    let alias = format!("<alias name='{alias}'/>");
    let parts = vec![
        "<source mode=\"client\"></source>",
        "<mtu size='9000'/>",
        "<model type=\"virtio\"></model>",
        "<address type=\"pci\" bus='0x01' domain=\"0x0000\" function=\"0x0\" slot=\"0x00\"></address>",
        "<rom enabled='no'></rom>",
        "<!-- a note -->",
    ];
    let kind = select(vec!["vhostuser", "ethernet", "network"]);
    (subsequence(parts, 0..=6).prop_shuffle(), between(), kind).prop_map(move |(parts, between, kind)| {
        let parts: String = parts.iter().map(|part| format!("{between}{part}")).collect();
        format!("<interface type='{kind}'>{parts}{between}{alias}{between}</interface>")
    })
}

fn interfaces() -> impl Strategy<Value = Vec<String>> {
    let aliases =
        ["ua-default", "ua-red", "red", "default", "ua-ua-red", "placeholder-0", "ua-theirs", "net-1_A", "0"];
    subsequence(aliases.to_vec(), 0..=4).prop_shuffle().prop_flat_map(|aliases| {
        aliases.into_iter().map(|alias| interface(alias.to_owned())).collect::<Vec<_>>()
    })
}

fn backing() -> impl Strategy<Value = String> {
    let parts = vec![
        "<source type='memfd'/>",
        "<access mode=\"shared\"></access>",
        "<hugepages/>",
        "<nosharepages/>",
        "<allocation threads='4'/>",
    ];
    let some =
        (subsequence(parts, 0..=5), between(), any::<bool>()).prop_map(|(parts, between, closes_itself)| {
            let parts: Vec<String> = parts.iter().map(|part| format!("{between}{part}")).collect();
            element("memoryBacking".to_owned(), String::new(), &parts, closes_itself)
        });
    prop_oneof![Just(String::new()), some]
}

fn document() -> impl Strategy<Value = String> {
    let head = select(vec!["", "<?xml version='1.0'?>\n", "\u{feff}", "<!-- first -->\n  "]);
    let cells = "<cpu><numa><cell id='0' memory='1'/><cell id='1' memAccess='shared'></cell ></numa></cpu>";
    let cpu = select(vec!["", "<cpu/>", cells]);
    let sizes = select(vec!["", "<memory>1</memory>", "<currentMemory/>\n  <memory unit='b'>1</memory>"]);
    let children = (vec(stranger(), 0..4), interfaces(), between(), any::<bool>());
    let devices = children.prop_flat_map(|(strangers, interfaces, between, closes_itself)| {
        Just([strangers, interfaces].concat()).prop_shuffle().prop_map(move |children| {
            let mut children: Vec<String> =
                children.iter().map(|child| format!("{between}{child}")).collect();
            if !children.is_empty() {
                children.push(between.clone());
            }
            element("devices".to_owned(), String::new(), &children, closes_itself)
        })
    });
    let parts = (devices, backing(), vec(stranger(), 0..3)).prop_flat_map(|(devices, backing, strangers)| {
        Just([vec![devices, backing], strangers].concat()).prop_shuffle()
    });
    (head, attribute(select(vec!["type", "id"])), between(), (cpu, sizes), parts).prop_map(
        |(head, attribute, between, (cpu, sizes), parts)| {
            let parts: String = [&[sizes.to_owned(), cpu.to_owned()], &parts[..]].concat().join(&between);
            let namespaces = " xmlns:b='urn:b' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'";
            format!("{head}<domain{attribute}{namespaces}>{between}{parts}{between}</domain>\n")
        },
    )
}

fn apply(document: &str, nics: &[Plugged], allocation: Allocation) -> String {
    let nics: Vec<_> = nics.iter().map(|(nic, socket)| Attachment { nic, socket }).collect();
    with_nics(document, &nics, allocation).unwrap_or_else(|error| panic!("{error}:\n{document}"))
}

fn allocation() -> impl Strategy<Value = Allocation> {
    select(vec![Allocation::OnDemand, Allocation::Immediate])
}

fn names(nics: &[Plugged]) -> Vec<&str> {
    nics.iter().map(|(nic, _)| nic.name.as_str()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn twice_is_once(document in document(), nics in nics(), allocation in allocation()) {
        let once = apply(&document, &nics, allocation);
        prop_assert_eq!(apply(&once, &nics, allocation), once);
    }

    #[test]
    fn answer_is_well_formed_and_has_every_nic(document in document(), nics in nics(), allocation in allocation()) {
        prop_assert!(roundtrip::is_well_formed(&document), "the generator wrote\n{document}");
        let answer = apply(&document, &nics, allocation);
        prop_assert!(roundtrip::is_well_formed(&answer), "{answer}");
        for (nic, socket) in &nics {
            let said = roundtrip::interface(&answer, &nic.name).unwrap();
            prop_assert!(said.contains(&format!("address={:?}", nic.mac.to_string())), "{said}");
            prop_assert!(said.contains(&format!("path={socket:?}")), "{said}");
        }
    }

    #[test]
    fn what_is_not_ours_stays_byte_for_byte(document in document(), nics in nics(), allocation in allocation()) {
        let answer = apply(&document, &nics, allocation);
        let names = names(&nics);
        prop_assert_eq!(
            roundtrip::without_ours(&answer, &names),
            roundtrip::without_ours(&document, &names)
        );
    }

    #[test]
    fn what_go_loses_comes_back(document in document(), nics in nics(), allocation in allocation()) {
        let once = apply(&document, &nics, allocation);
        let again = apply(&roundtrip::lossy(&once), &nics, allocation);
        for name in names(&nics) {
            prop_assert_eq!(roundtrip::interface(&again, name), roundtrip::interface(&once, name));
        }
    }
}
