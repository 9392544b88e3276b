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
