use super::*;

use crate::nic::{DhcpOptions, Link, Mac, Model, PciAddress, Ports, Sharing, Tuning, Uplink};

const SOCKET: &str = "/var/run/kubevirt-hooks/hook-sidecar-0/net/default.sock";

fn nic(name: &str) -> Nic {
    Nic {
        name: name.to_owned(),
        mac: Mac([2, 0, 0, 0, 0, 5]),
        model: Model::VirtioNonTransitional,
        pci_address: None,
        acpi_index: None,
        boot_order: None,
        link: Link::Up,
        mtu: 1500,
        queues: None,
        uplink: Uplink { interface: "eth0".to_owned(), sharing: Sharing::Alone },
        tcp: Ports::AllBut(Vec::new()),
        udp: Ports::AllBut(Vec::new()),
        dhcp: DhcpOptions::default(),
        hostname: None,
        fqdn: None,
        tuning: Tuning::default(),
    }
}

fn apply(document: &str, nics: &[&Nic], allocation: Allocation) -> Result<String, DomainError> {
    let nics: Vec<_> = nics.iter().map(|nic| Attachment { nic, socket: SOCKET }).collect();
    with_nics(document, &nics, allocation)
}

#[test]
fn nic_without_element_follows_last_interface() {
    let mut nic = nic("default");
    nic.pci_address = Some(PciAddress { domain: 0, bus: 1, slot: 0, function: 0 });
    nic.queues = Some(4);
    let document = "<domain type=\"kvm\">
\t<memory unit=\"b\">1073741824</memory>
\t<devices>
\t\t<interface type=\"ethernet\">
\t\t\t<alias name=\"placeholder-0\"></alias>
\t\t</interface>
\t\t<memballoon freePageReporting=\"on\"/>
\t</devices>
</domain>
";
    let expected = "<domain type=\"kvm\">
\t<memory unit=\"b\">1073741824</memory>
\t<memoryBacking>
\t\t<source type=\"memfd\"/>
\t\t<access mode=\"shared\"/>
\t</memoryBacking>
\t<devices>
\t\t<interface type=\"ethernet\">
\t\t\t<alias name=\"placeholder-0\"></alias>
\t\t</interface>
\t\t<interface type=\"vhostuser\">
\t\t\t<mac address=\"02:00:00:00:00:05\"/>
\t\t\t<source type=\"unix\" path=\"/var/run/kubevirt-hooks/hook-sidecar-0/net/default.sock\" mode=\"client\">
\t\t\t\t<reconnect enabled=\"yes\" timeout=\"1\"/>
\t\t\t</source>
\t\t\t<model type=\"virtio-non-transitional\"/>
\t\t\t<driver name=\"vhost\" queues=\"4\"/>
\t\t\t<rom enabled=\"no\"/>
\t\t\t<alias name=\"ua-default\"/>
\t\t\t<address type=\"pci\" domain=\"0x0000\" bus=\"0x01\" slot=\"0x00\" function=\"0x0\"/>
\t\t</interface>
\t\t<memballoon freePageReporting=\"on\"/>
\t</devices>
</domain>
";
    let once = apply(document, &[&nic], Allocation::OnDemand).unwrap();
    assert_eq!(once, expected);
    assert_eq!(apply(&once, &[&nic], Allocation::OnDemand).unwrap(), once);
}

/// A domain around what stands in its devices, compact.
fn devices(inside: &str) -> String {
    format!(
        "<domain><memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking><devices>{inside}</devices></domain>"
    )
}

/// Ours, compact, in a document without an attribute to take the quotes from.
fn ours(name: &str, rest: &str) -> String {
    format!(
        "<interface type=\"vhostuser\"><mac address=\"02:00:00:00:00:05\"/>\
         <source type=\"unix\" path=\"{SOCKET}\" mode=\"client\"><reconnect enabled=\"yes\" timeout=\"1\"/></source>\
         <model type=\"virtio-non-transitional\"/><rom enabled=\"no\"/><alias name=\"ua-{name}\"/>{rest}</interface>"
    )
}

#[test]
fn where_an_interface_goes_and_what_it_keeps() {
    let theirs = "<interface type='network'><alias name='ua-theirs'/></interface>";
    let pci = "<address type='pci' domain='0x0000' bus='0x02' slot='0x00' function='0x0'/>";
    let kept = pci.replace('\'', "\"");
    let zpci = "<address type='pci' bus='0x02'>\n<zpci uid='0x0001' fid='0x00000000'/></address>";
    let rows: [(&str, String, String); 12] = [
        ("into empty devices", String::new(), ours("default", "")),
        ("as the first of devices without interfaces", "<disk/>".into(), ours("default", "") + "<disk/>"),
        (
            "behind the last interface",
            format!("{theirs}{theirs}<disk/>"),
            format!("{theirs}{theirs}{}<disk/>", ours("default", "")),
        ),
        (
            "in place of its own",
            format!("<interface><alias name='ua-default'/></interface>{theirs}"),
            ours("default", "") + theirs,
        ),
        (
            "in place of one with a bare alias",
            format!("<interface><alias name='default'/></interface>{theirs}"),
            ours("default", "") + theirs,
        ),
        (
            "in place of its own rather than of one with a bare alias",
            "<interface><alias name='default'/></interface><interface><alias name='ua-default'/></interface>".into(),
            format!("<interface><alias name='default'/></interface>{}", ours("default", "")),
        ),
        (
            "in place of a tap's",
            "<interface type='ethernet'><target dev='tap0' managed='no'/><alias name='ua-default'/></interface>".into(),
            ours("default", ""),
        ),
        (
            "beside a placeholder with its name",
            "<interface><target dev='placeholder-0'/><alias name='default'/></interface>".into(),
            format!(
                "<interface><target dev='placeholder-0'/><alias name='default'/></interface>{}",
                ours("default", "")
            ),
        ),
        (
            "with the address that it has, in libvirt's order",
            "<interface><address function='0x0' slot='0x00' bus='0x02' domain='0x0000' type='pci'></address>\
             <alias name='ua-default'/></interface>"
                .into(),
            ours("default", &kept),
        ),
        (
            "with an address that has elements, as it is",
            format!("<interface>{zpci}<alias name='ua-default'/></interface>"),
            ours("default", zpci),
        ),
        (
            "not in place of what only looks like an interface",
            "<interface xmlns='urn:x'><alias name='ua-default'/></interface>".into(),
            ours("default", "") + "<interface xmlns='urn:x'><alias name='ua-default'/></interface>",
        ),
        (
            "not in place of a device of its name",
            "<disk><alias name='ua-default'/></disk>".into(),
            ours("default", "") + "<disk><alias name='ua-default'/></disk>",
        ),
    ];
    for (name, before, after) in rows {
        let answer = apply(&devices(&before), &[&nic("default")], Allocation::OnDemand).unwrap();
        assert_eq!(answer, devices(&after), "{name}");
    }
}

#[test]
fn an_address_that_the_nic_asks_for_replaces_the_one_it_has() {
    let mut nic = nic("default");
    nic.pci_address = Some(PciAddress { domain: 0xabcd, bus: 0x1f, slot: 9, function: 7 });
    let before = devices("<interface><alias name='ua-default'/><address type='pci' bus='0x02'/></interface>");
    let answer = apply(&before, &[&nic], Allocation::OnDemand).unwrap();
    let wanted = "<address type=\"pci\" domain=\"0xabcd\" bus=\"0x1f\" slot=\"0x09\" function=\"0x7\"/>";
    assert_eq!(answer, devices(&ours("default", wanted)));
}

#[test]
fn nics_stand_in_their_order_and_do_not_take_each_others_place() {
    let answer = apply(
        &devices("<interface><alias name='ua-red'/></interface>"),
        &[&nic("ua-red"), &nic("red"), &nic("blue")],
        Allocation::OnDemand,
    );
    assert_eq!(answer.unwrap(), devices(&(ours("red", "") + &ours("ua-red", "") + &ours("blue", ""))));
}

#[test]
fn devices_that_close_themselves_are_opened() {
    for (before, after) in [
        ("<domain><memoryBacking/><devices /></domain>", "<devices>OURS</devices></domain>"),
        ("<domain>\n <devices/>\n</domain>", "<devices>\n  OURS\n </devices>\n</domain>"),
    ] {
        let answer = apply(before, &[&nic("default")], Allocation::OnDemand).unwrap();
        let (_, answer) = answer.split_once("</memoryBacking>").unwrap();
        let compact = answer.replace(['\n', ' '], "");
        let wanted = after.replace("OURS", &ours("default", "")).replace(['\n', ' '], "");
        assert_eq!(compact, wanted);
        assert_eq!(answer.contains("\n </devices>"), after.contains("\n </devices>"), "{answer}");
    }
}

#[test]
fn memory_is_shared_as_little_as_needed() {
    use Allocation::{Immediate, OnDemand};
    const MEMFD: &str = "<source type=\"memfd\"/>";
    const ACCESS: &str = "<access mode=\"shared\"/>";
    const ALLOCATION: &str = "<allocation mode=\"immediate\"/>";
    // What <memoryBacking> has, and has then.
    let rows: [(&str, Allocation, String); 15] = [
        ("", OnDemand, format!("{MEMFD}{ACCESS}")),
        ("", Immediate, format!("{MEMFD}{ACCESS}{ALLOCATION}")),
        ("<hugepages/>", OnDemand, format!("<hugepages/>{ACCESS}")),
        ("<hugepages/>", Immediate, format!("<hugepages/>{ACCESS}")),
        ("<hugepages/><source/>", OnDemand, format!("<hugepages/><source/>{ACCESS}")),
        (
            "<hugepages/><source type='anonymous'/>",
            OnDemand,
            format!("<hugepages/><source type='anonymous'/>{ACCESS}"),
        ),
        ("<source type='file'/>", OnDemand, format!("<source type='file'/>{ACCESS}")),
        ("<source/>", OnDemand, format!("<source type=\"memfd\"/>{ACCESS}")),
        (
            "<access/><source type='memfd'/>",
            OnDemand,
            "<access mode=\"shared\"/><source type='memfd'/>".into(),
        ),
        ("<access mode='shared'/>", OnDemand, format!("<access mode='shared'/>{MEMFD}")),
        ("<nosharepages/><locked/>", OnDemand, format!("<nosharepages/><locked/>{MEMFD}{ACCESS}")),
        ("<allocation mode='ondemand'/>", OnDemand, format!("<allocation mode='ondemand'/>{MEMFD}{ACCESS}")),
        (
            "<allocation mode='ondemand' threads='8'/>",
            Immediate,
            format!("<allocation mode='immediate' threads='8'/>{MEMFD}{ACCESS}"),
        ),
        (
            "<allocation threads='8'/>",
            Immediate,
            format!("<allocation threads='8' mode=\"immediate\"/>{MEMFD}{ACCESS}"),
        ),
        (
            "<allocation mode='&#105;mmediate'/>",
            Immediate,
            format!("<allocation mode='&#105;mmediate'/>{MEMFD}{ACCESS}"),
        ),
    ];
    for (before, allocation, after) in rows {
        let document = |inside: &str| {
            format!(
                "<domain><memoryBacking>{inside}</memoryBacking><devices>{}</devices></domain>",
                ours("default", "")
            )
        };
        assert_eq!(
            apply(&document(before), &[&nic("default")], allocation).unwrap(),
            document(&after),
            "{before}"
        );
    }
}

#[test]
fn memory_backing_follows_the_sizes_of_memory() {
    let backing = "<memoryBacking><source type=\"memfd\"/><access mode=\"shared\"/></memoryBacking>";
    for (before, after) in [
        ("<name/>", ["", "<name/>"]),
        ("<memory>1</memory><os/>", ["<memory>1</memory>", "<os/>"]),
        (
            "<maxMemory/><memory/><x/><currentMemory/><os/>",
            ["<maxMemory/><memory/><x/><currentMemory/>", "<os/>"],
        ),
    ] {
        let document =
            |parts: &str| format!("<domain>{parts}<devices>{}</devices></domain>", ours("default", ""));
        let answer = apply(&document(before), &[&nic("default")], Allocation::OnDemand).unwrap();
        assert_eq!(answer, document(&after.join(backing)));
    }
}

#[test]
fn cells_say_shared_where_memory_was_not() {
    let document = |access: &str, cell: &str| {
        format!(
            "<domain><memoryBacking><source type='memfd'/>{access}</memoryBacking><cpu><numa><cell id='0'{cell}/>\
             <cell id='1' memAccess='shared'></cell></numa></cpu><devices>{}</devices></domain>",
            ours("default", "")
        )
    };
    let apply = |document: &str| apply(document, &[&nic("default")], Allocation::OnDemand).unwrap();
    let added = document("<access mode=\"shared\"/>", " memAccess=\"shared\"");
    assert_eq!(apply(&document("", "")), added);
    let inherited = document("<access mode='shared'/>", "");
    assert_eq!(apply(&inherited), inherited);
}

#[test]
fn free_pages_are_kept_where_they_were_touched_on_purpose() {
    let balloon =
        |state| devices(&format!("{}<memballoon freePageReporting='{state}'/>", ours("default", "")));
    let immediate = |document: &str| {
        document.replace("</memoryBacking>", "<allocation mode=\"immediate\"/></memoryBacking>")
    };
    let nics = [&nic("default")];
    assert_eq!(apply(&balloon("on"), &nics, Allocation::OnDemand).unwrap(), balloon("on"));
    assert_eq!(apply(&balloon("on"), &nics, Allocation::Immediate).unwrap(), immediate(&balloon("off")));
    assert_eq!(apply(&balloon("off"), &nics, Allocation::Immediate).unwrap(), immediate(&balloon("off")));
}

#[test]
fn a_document_without_a_nic_of_ours_is_read_and_left_alone() {
    let document = "<domain><memoryBacking><access mode='private'/></memoryBacking><devices/></domain>";
    assert_eq!(apply(document, &[], Allocation::Immediate).unwrap(), document);
    assert!(apply("<domain>", &[], Allocation::OnDemand).is_err());
}

#[test]
fn what_would_have_to_be_overruled_is_refused() {
    let devices = "<devices><interface/></devices>";
    for (document, said) in [
        (format!("<domain>\n<memoryBacking><access mode='private'/></memoryBacking>{devices}</domain>"),
            "line 2, column 16: `<access mode=\"private\">`"),
        (format!("<domain><memoryBacking><access mode=''/></memoryBacking>{devices}</domain>"), "`<access mode=\"\">`"),
        (format!("<domain><memoryBacking><source type='anonymous'/></memoryBacking>{devices}</domain>"), "anonymous"),
        (format!("<domain><cpu><numa><cell memAccess='private'/></numa></cpu>{devices}</domain>"), "`<cell memAccess="),
        ("<domain><devices><memory model='dimm' access='private'/></devices></domain>".into(), "`<memory access="),
        (format!("<domain><memoryBacking/><memoryBacking/>{devices}</domain>"), "two elements `<memoryBacking>`"),
        (format!("<domain>{devices}\n{devices}</domain>"), "two elements `<devices>`: line 1, column 9, and line 2, column 1"),
        ("<domain/>".into(), "no `<devices>`"),
        (format!("<domain xmlns='urn:x'>{devices}</domain>"), "not `domain` without a namespace"),
        (format!("<q:domain>{devices}</q:domain>"), "`q:domain`"),
        ("<domain><devices><interface><alias name='ua-a'/></interface><interface><alias name='ua-a'/></interface></devices></domain>".into(),
            "two interfaces are called `ua-a`"),
    ] {
        let error = apply(&document, &[&nic("a")], Allocation::OnDemand).unwrap_err().to_string();
        assert!(error.contains(said), "{document}: {error}");
    }
    let twice = apply("<domain><devices/></domain>", &[&nic("a"), &nic("a")], Allocation::OnDemand);
    assert!(matches!(twice, Err(DomainError::SameName(name)) if name == "a"));
}

#[test]
fn what_is_not_well_formed_is_refused_with_its_place() {
    let deep = "<a>".repeat(DEPTH_MAX);
    let many: String = (0..=ATTRIBUTES_MAX).map(|number| format!(" a{number}=''")).collect();
    let long = " ".repeat(LENGTH_MAX);
    let rows: [(String, &str); 34] = [
        ("".into(), "line 1, column 1: no root"),
        ("<!-- only -->\n".into(), "line 2, column 1: no root"),
        ("<domain>\n  <a></b></domain>".into(), "line 2, column 6: "),
        ("<domain>\n <a>".into(), "line 2, column 2: element `a` does not end"),
        ("<domain/>\n<domain/>".into(), "line 2, column 1: a second root"),
        ("<domain/></domain>".into(), "line 1, column 10: "),
        ("x<domain/>".into(), "line 1, column 1: only comments"),
        ("<domain/>&amp;".into(), "line 1, column 10: only comments"),
        ("<domain/><![CDATA[]]>".into(), "line 1, column 10: only comments"),
        ("<domain a='1' a='2'/>".into(), "attribute `a` stands there twice"),
        ("<domain a='1'b='2'/>".into(), "column 14: an attribute must be"),
        ("<domain a=1/>".into(), "column 9: an attribute must be"),
        ("<domain a/>".into(), "column 9: an attribute must be"),
        ("<domain a='<'/>".into(), "column 9: an attribute must be"),
        ("<domain 1='2'/>".into(), "column 9: `1` is not a name"),
        ("<domain a='&x;'/>".into(), "column 12: `&x;` is not one of XML's own"),
        ("<domain a='&'/>".into(), "column 12: `&` is not one of XML's own"),
        ("<domain>é&nbsp;</domain>".into(), "column 10: `&nbsp;` is not one of XML's own"),
        ("<domain>&#0;</domain>".into(), "`&#0;`"),
        ("<domain>&#x1;</domain>".into(), "`&#x1;`"),
        ("<domain>& </domain>".into(), "line 1, column 9: "),
        ("<domain>a]]>b</domain>".into(), "column 10: `]]>` must not"),
        ("<domain>\u{1}</domain>".into(), "column 9: character U+0001"),
        ("<domain>\u{ffff}</domain>".into(), "column 9: character U+FFFF"),
        ("<domain><1/></domain>".into(), "column 9: `1` is not a name"),
        ("<domain>< a/></domain>".into(), "column 9: `` is not a name"),
        ("<!DOCTYPE domain><domain/>".into(), "line 1, column 1: a document type"),
        ("\n<?xml version='1.0'?><domain/>".into(), "line 2, column 1: an XML declaration"),
        ("<domain><?XML x?></domain>".into(), "column 9: `xml` is not a target"),
        ("<domain><? x?></domain>".into(), "column 9: `` is not a name"),
        ("<domain><!-- a -- b --></domain>".into(), "line 1, column "),
        (format!("<domain>{deep}"), "more than 64 elements inside one another"),
        (format!("<domain{many}/>"), "more than 128 attributes"),
        (format!("<domain>{long}</domain>"), "more than 1048576 bytes"),
    ];
    for (document, said) in rows {
        let error = apply(&document, &[&nic("default")], Allocation::OnDemand).unwrap_err();
        let shown = document.get(..60).unwrap_or(&document);
        assert!(matches!(error, DomainError::NotWellFormed(_)), "{shown}: {error}");
        assert!(error.to_string().contains(said), "{shown}: {error}");
    }
}

#[test]
fn an_answer_does_not_pass_the_limits_of_a_question() {
    let document = |len| {
        let document = devices(&" ".repeat(len));
        format!("{document}{}", " ".repeat(len))
    };
    let largest = (LENGTH_MAX - devices("").len()) / 2;
    let answer = apply(&document(largest), &[&nic("default")], Allocation::OnDemand);
    assert!(matches!(answer, Err(DomainError::NotWellFormed(NotWellFormed { fault: Fault::Length, .. }))));
}

#[test]
fn a_byte_order_mark_stays() {
    let document = format!("\u{feff}{}", devices(""));
    let answer = apply(&document, &[&nic("default")], Allocation::OnDemand).unwrap();
    assert_eq!(answer, format!("\u{feff}{}", devices(&ours("default", ""))));
}

#[test]
fn a_socket_with_any_name_is_said_as_it_is() {
    let socket = "/a&b<c>\"d'e\tf\ng\rh\u{e9}";
    let nic = nic("default");
    let answer = with_nics(&devices(""), &[Attachment { nic: &nic, socket }], Allocation::OnDemand).unwrap();
    let document = roxmltree::Document::parse(&answer).unwrap();
    let source = document.descendants().find(|node| node.attribute("path").is_some()).unwrap();
    assert_eq!(source.attribute("path"), Some(socket));
}
