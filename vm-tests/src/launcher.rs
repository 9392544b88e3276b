//! What virt-launcher does with hook sidecars, as far as a sidecar can tell: it finds their sockets, and calls them in
//! KubeVirt's order, with what becomes of the XML in between. It must never help a sidecar that KubeVirt would not.
//!
//! Blocking functions for tests; what waits inside is on a runtime of its own, on the caller's thread.

mod go;
pub(crate) mod socket;
mod guest;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::{self, Runtime};
use tokio::time::{Instant, MissedTickBehavior, interval};

pub use go::{Element, round_trip};
pub use guest::{Binding, Guest, Network};
pub use socket::{CloudInit, Version};

use crate::libvirt::{Domain, Libvirt};

/// How often virt-launcher looks for sockets.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// How many interfaces KubeVirt makes room for.
const ROOM_FOR_INTERFACES: usize = 4;

/// A port of q35's that one device is plugged into.
const ROOT_PORT: &str = "pcie-root-port";

/// Its hook sidecars, all found.
#[derive(Debug)]
pub struct Launcher {
    runtime: Runtime,
    sidecars: Vec<Sidecar>,
}

/// What one sidecar said of itself.
#[derive(Debug)]
pub struct Sidecar {
    pub socket: PathBuf,
    pub name: String,
    pub version: Version,
    pub hook_points: Vec<String>,
}

impl Sidecar {
    fn wants(&self, hook_point: &str) -> bool {
        self.hook_points.iter().any(|point| point == hook_point)
    }
}

impl Launcher {
    /// Looks into the folders below `folder` until `count` sidecars have answered. A socket that cannot be dialled is
    /// looked at again; one that answers wrongly, or late, is the end, as for KubeVirt.
    pub fn find(folder: &Path, count: usize, limit: Duration) -> anyhow::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
        let sidecars = runtime.block_on(find(folder, count, limit))?;
        Ok(Self { runtime, sidecars })
    }

    pub fn sidecars(&self) -> &[Sidecar] {
        &self.sidecars
    }

    /// `OnDefineDomain` of every sidecar, each with what the one before made of the domain.
    pub fn on_define_domain(&self, domain: &str, vmi: &str) -> anyhow::Result<String> {
        let mut xml = domain.as_bytes().to_vec();
        for sidecar in self.sidecars.iter().filter(|sidecar| sidecar.wants("OnDefineDomain")) {
            let call = socket::on_define_domain(&sidecar.socket, sidecar.version, xml, vmi.into());
            xml = self.runtime.block_on(call)?;
        }
        String::from_utf8(xml).context("the domain is not text")
    }

    /// `PreCloudInitIso` of the first sidecar that wants it; KubeVirt asks no other.
    pub fn pre_cloud_init_iso(&self, given: CloudInit, vmi: &str) -> anyhow::Result<CloudInit> {
        let mut subscribers = self.sidecars.iter().filter(|sidecar| sidecar.wants("PreCloudInitIso"));
        let Some(first) = subscribers.next() else { return Ok(given) };
        let call = socket::pre_cloud_init_iso(&first.socket, first.version, given, vmi.into());
        self.runtime.block_on(call)
    }

    /// `Shutdown` of every sidecar that knows it, once QEMU has ended.
    pub fn shutdown(&self) -> anyhow::Result<()> {
        for sidecar in self.sidecars.iter().filter(|sidecar| sidecar.wants("Shutdown")) {
            if sidecar.version == Version::V1alpha3 {
                self.runtime.block_on(socket::shutdown(&sidecar.socket))?;
            }
        }
        Ok(())
    }

    /// `MutateDomain` of the plugin at `socket`; `context` is `Boot` or `MigrationTarget`.
    pub fn mutate_domain(
        &self,
        socket: &Path,
        domain: &str,
        vmi: &str,
        context: &str,
    ) -> anyhow::Result<String> {
        let call = socket::mutate_domain(socket, domain.into(), vmi.into(), context);
        String::from_utf8(self.runtime.block_on(call)?).context("the domain is not text")
    }

    /// Defines a guest as virt-launcher does, with three calls; the XML that libvirt was given in the end.
    pub fn define(&self, libvirt: &Libvirt<'_>, guest: &Guest) -> anyhow::Result<String> {
        let vmi = guest.vmi();
        let domain = guest.domain(libvirt)?;
        // With room for interfaces that are plugged later, only to see where libvirt puts everything.
        let placeholders = ROOM_FOR_INTERFACES.saturating_sub(guest.networks.len());
        let roomy = self.on_define_domain(&with_placeholders(&domain, placeholders)?.written(), &vmi)?;
        let placed = libvirt.define(&roomy).context("the first call's domain")?;
        let placed = Element::parse(&placed)?.as_go_knows_it();
        libvirt.undefine(&guest.domain_name())?;
        // The same devices, at their places, but KubeVirt's own interfaces, of which there are none.
        let domain = with_devices_of(domain, placed)?;
        let defined = self.on_define_domain(&domain.written(), &vmi)?;
        // Read into Go's structures, which then get ports for devices to come.
        let known = Element::parse(&defined)?.as_go_knows_it();
        let last = self.on_define_domain(&with_root_ports(known, placeholders)?.written(), &vmi)?;
        libvirt.define(&last).context("the third call's domain")?;
        Ok(last)
    }

    /// Defines and starts a guest, and waits until it takes commands.
    pub fn start<'libvirt, 'lab>(
        &self,
        libvirt: &'libvirt Libvirt<'lab>,
        guest: &Guest,
    ) -> anyhow::Result<Domain<'libvirt, 'lab>> {
        self.define(libvirt, guest)?;
        Domain::start(libvirt, &guest.domain_name())
    }
}

async fn find(folder: &Path, count: usize, limit: Duration) -> anyhow::Result<Vec<Sidecar>> {
    let deadline = Instant::now() + limit;
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut found = Vec::new();
    // By name alone, wherever it is: two sidecars with one name are one sidecar to KubeVirt.
    let mut names = BTreeSet::new();
    loop {
        ticks.tick().await;
        for socket in files_of_folders(folder)? {
            let name = socket.file_name().unwrap_or_default().to_owned();
            if names.contains(&name) {
                continue;
            }
            let Ok(channel) = socket::dial(&socket).await else { continue };
            let info = socket::info(channel).await.with_context(|| socket.display().to_string())?;
            let version = Version::choose(&info.versions)
                .with_context(|| format!("{} offers only {:?}", socket.display(), info.versions))?;
            let hook_points = info.hook_points.into_iter().map(|point| point.name).collect();
            found.push(Sidecar { socket, name: info.name, version, hook_points });
            names.insert(name);
        }
        if found.len() >= count {
            return Ok(found);
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "{} of {count} sidecars answered in {limit:?}, below {}",
            found.len(),
            folder.display()
        );
    }
}

/// All that is no folder in the folders of `folder`: KubeVirt takes each for a hook's socket.
fn files_of_folders(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    for sidecars in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        let entries = std::fs::read_dir(sidecars).into_iter().flatten().flatten();
        files.extend(entries.map(|entry| entry.path()).filter(|path| !path.is_dir()));
    }
    Ok(files)
}

fn with_placeholders(domain: &Element, count: usize) -> anyhow::Result<Element> {
    let mut roomy = domain.clone();
    let devices = roomy.child_mut("devices").context("a domain without devices")?;
    for number in 0..count {
        let placeholder = format!(
            "<interface type='ethernet'><source/><target dev='placeholder-{number}' managed='no'/>\
             <model type='virtio-non-transitional'/><alias name='placeholder-{number}'/></interface>"
        );
        devices.children.insert(number, Element::parse(&placeholder)?);
    }
    Ok(roomy)
}

/// `domain` with all devices of `placed` but the interfaces.
fn with_devices_of(mut domain: Element, placed: Element) -> anyhow::Result<Element> {
    let devices = domain.child_mut("devices").context("a domain without devices")?;
    let interfaces: Vec<Element> = devices.all("interface").cloned().collect();
    let others = placed.children.into_iter().find(|child| child.name == "devices");
    let others = others.context("libvirt knows of no devices")?.children;
    devices.children = interfaces;
    devices.children.extend(others.into_iter().filter(|device| device.name != "interface"));
    Ok(domain)
}

/// `domain` with `count` more ports, and no hot-plugging into those that are taken.
fn with_root_ports(mut domain: Element, count: usize) -> anyhow::Result<Element> {
    let devices = domain.child_mut("devices").context("a domain without devices")?;
    let buses = |device: &Element| device.child("address")?.attribute("bus").map(str::to_owned);
    let taken: BTreeSet<_> =
        devices.children.iter().filter_map(buses).filter_map(|bus| number(&bus)).collect();
    for port in devices.children.iter_mut().filter(|device| device.attribute("model") == Some(ROOT_PORT)) {
        if port.attribute("index").and_then(number).is_some_and(|index| taken.contains(&index)) {
            port.children.retain(|child| child.name != "target");
            port.children.push(Element::parse("<target hotplug='off'/>")?);
        }
    }
    let place = devices.children.iter().rposition(|device| device.name == "controller");
    for _ in 0..count {
        let port = Element::parse(&format!("<controller type='pci' model='{ROOT_PORT}'/>"))?;
        devices.children.insert(place.map_or(0, |place| place + 1), port);
    }
    Ok(domain)
}

/// As libvirt and KubeVirt write numbers of buses: decimal, or hexadecimal with `0x`.
fn number(text: &str) -> Option<u8> {
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |digits| u8::from_str_radix(digits, 16).ok())
}
