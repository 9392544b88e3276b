//! A VM as KubeVirt knows it: the VMI that a sidecar is told of, and the domain that virt-launcher makes of it. The
//! domain is emulated and starts the lab's kernel; all else is as KubeVirt has it. It must never have an interface of a
//! binding: adding those is the sidecar's job.

use anyhow::Context as _;
use serde_json::{Value, json};

use super::Element;
use crate::libvirt::Libvirt;

const NAMESPACE: &str = "demo";
const UID: &str = "0f1c2e53-9d35-4f6a-8a0e-6b1f7f0c9f11";

/// One VM.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Of the VMI.
    pub name: String,
    pub memory_mib: u32,
    pub cpus: u8,
    /// As for a VM with CPUs of its own, whose sidecar has a memory limit.
    pub dedicated_cpus: bool,
    /// More words for the guest's kernel.
    pub kernel_arguments: &'static str,
    pub networks: Vec<Network>,
    /// `sluice.dev/...` and others.
    pub annotations: Vec<(String, String)>,
}

/// One interface of the VM and the network it is on.
#[derive(Debug, Clone)]
pub struct Network {
    pub name: String,
    pub binding: Binding,
    pub mac: Option<String>,
    pub tcp_ports: Vec<u16>,
    /// The pod's interface that it stands for.
    pub pod_interface: String,
    /// Name of the NetworkAttachmentDefinition; the pod's network has none.
    pub multus: Option<String>,
}

/// The key under which a binding is registered in the KubeVirt CR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding(pub String);

impl Network {
    /// The pod's network, with all ports.
    pub fn of_the_pod(binding: &str) -> Self {
        Self {
            name: "default".to_owned(),
            binding: Binding(binding.to_owned()),
            mac: None,
            tcp_ports: Vec::new(),
            pod_interface: "eth0".to_owned(),
            multus: None,
        }
    }

    fn interface(&self) -> Value {
        let mut interface = json!({ "name": self.name, "binding": { "name": self.binding.0 } });
        if let Some(fields) = interface.as_object_mut() {
            if let Some(mac) = &self.mac {
                fields.insert("macAddress".to_owned(), mac.as_str().into());
            }
            if !self.tcp_ports.is_empty() {
                let ports = self.tcp_ports.iter().map(|port| json!({ "port": port, "protocol": "TCP" }));
                fields.insert("ports".to_owned(), ports.collect());
            }
        }
        interface
    }

    fn network(&self) -> Value {
        match &self.multus {
            None => json!({ "name": self.name, "pod": {} }),
            Some(attachment) => json!({ "name": self.name, "multus": { "networkName": attachment } }),
        }
    }
}

impl Guest {
    /// One interface, on the pod's network.
    pub fn new(binding: &str) -> Self {
        Self {
            name: "guest".to_owned(),
            memory_mib: 512,
            cpus: 1,
            dedicated_cpus: false,
            kernel_arguments: "",
            networks: vec![Network::of_the_pod(binding)],
            annotations: Vec::new(),
        }
    }

    /// As libvirt knows it.
    pub fn domain_name(&self) -> String {
        format!("{NAMESPACE}_{}", self.name)
    }

    /// As the API server has it, in JSON.
    pub fn vmi(&self) -> String {
        let annotations: serde_json::Map<String, Value> =
            self.annotations.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        let status = self.networks.iter().map(|network| {
            json!({
                "name": network.name,
                "podInterfaceName": network.pod_interface,
                "infoSource": "multus-status",
            })
        });
        let mut cpu = json!({ "cores": self.cpus, "sockets": 1, "threads": 1 });
        if let (true, Some(fields)) = (self.dedicated_cpus, cpu.as_object_mut()) {
            fields.insert("dedicatedCpuPlacement".to_owned(), true.into());
        }
        json!({
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstance",
            "metadata": {
                "name": self.name, "namespace": NAMESPACE, "uid": UID, "annotations": annotations,
            },
            "spec": {
                "architecture": "amd64",
                "domain": {
                    "cpu": cpu,
                    "machine": { "type": "q35" },
                    "memory": { "guest": format!("{}Mi", self.memory_mib) },
                    "resources": { "requests": { "memory": format!("{}Mi", self.memory_mib) } },
                    "features": { "acpi": { "enabled": true } },
                    "devices": {
                        "autoattachGraphicsDevice": false,
                        "interfaces": self.networks.iter().map(Network::interface).collect::<Vec<_>>(),
                    },
                },
                "networks": self.networks.iter().map(Network::network).collect::<Vec<_>>(),
            },
            "status": { "interfaces": status.collect::<Vec<_>>(), "guestOSInfo": {} },
        })
        .to_string()
    }

    /// What the converter makes of it, before any hook.
    pub(super) fn domain(&self, libvirt: &Libvirt<'_>) -> anyhow::Result<Element> {
        let files = libvirt.files_of_guests();
        let text = format!(
            "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>{name}</name>
<memory unit='b'>{memory}</memory>
<os>
    <type arch='x86_64' machine='q35'>hvm</type><smbios mode='sysinfo'/>
    <kernel>{kernel}</kernel><initrd>{initramfs}</initrd>
    <cmdline>{arguments} {more}</cmdline>
</os>
<sysinfo type='smbios'>
    <system>
        <entry name='manufacturer'>KubeVirt</entry><entry name='family'/><entry name='product'>None</entry>
    </system>
    <bios/><baseBoard/><chassis/>
</sysinfo>
<devices>
    <channel type='unix'><target name='org.qemu.guest_agent.0' type='virtio'/></channel>
    <controller type='usb' index='0' model='none'/>
    <controller type='scsi' index='0' model='virtio-non-transitional'/>
    <controller type='virtio-serial' index='0' model='virtio-non-transitional'/>
    <memballoon model='virtio-non-transitional' freePageReporting='on'><stats period='10'/></memballoon>
    <serial type='unix'>
        <target port='0'/><source mode='bind' path='{console}.sock'/><log file='{console}' append='on'/>
    </serial>
    <serial type='unix'><target port='1'/><source mode='bind' path='{agent}'/></serial>
    <console type='pty'><target type='serial' port='0'/></console>
</devices>
<metadata><kubevirt xmlns='http://kubevirt.io'><uid>{UID}</uid></kubevirt></metadata>
<features><acpi/><vmport state='off'/></features>
<cpu mode='maximum'>
    <feature name='erms' policy='disable'/><feature name='fsrm' policy='disable'/>
    <topology sockets='1' cores='{cpus}' threads='1'/>
</cpu>
<vcpu placement='static'>{cpus}</vcpu>
</domain>",
            name = self.domain_name(),
            memory = u64::from(self.memory_mib) << 20,
            cpus = self.cpus,
            kernel = files.kernel.display(),
            initramfs = files.initramfs.display(),
            arguments = crate::vm::KERNEL_ARGUMENTS,
            more = self.kernel_arguments,
            console = files.console.display(),
            agent = files.agent.display(),
        );
        Element::parse(&text).context("the guest's domain")
    }
}
