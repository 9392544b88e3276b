//! How long calls of a CNI plugin take, from the start of its program to its end. It must never count what a runtime does
//! around them.

#![expect(unsafe_code, reason = "a child's largest memory is told by wait4 alone, which has no safe wrapper")]

use std::io::Write as _;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::contender::{Maker, Running};
use super::probe::Numbers;
use crate::lab::{Lab, Namespace, binary};

/// Where Debian puts the reference plugins.
pub(super) const REFERENCE: &str = "/usr/lib/cni";

/// Pairs of ADD and DEL in one sample, which is their median.
const ROUNDS: usize = 15;

/// How long a pod lives. A DEL right behind its ADD waits for what the kernel has still to do of that as well; the faster
/// the ADD, the longer.
const LIFE: Duration = Duration::from_millis(100);

/// The node's link that macvlan and macvtap are made on; the other end is in the pod's namespace, which is not used.
const MASTER: &str = "pod0";

/// One kind of attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Attachment {
    Tap,
    Bridge,
    BridgeForContainer,
    BridgeWithAddresses,
    Ptp,
    PtpForContainer,
    Macvtap,
    Macvlan,
    Vxlan,
    None,
    Passt,
}

impl Attachment {
    pub(super) const ALL: [Self; 11] = [
        Self::Tap,
        Self::Bridge,
        Self::BridgeForContainer,
        Self::BridgeWithAddresses,
        Self::Ptp,
        Self::PtpForContainer,
        Self::Macvtap,
        Self::Macvlan,
        Self::Vxlan,
        Self::None,
        Self::Passt,
    ];

    pub(super) const fn id(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Bridge => "bridge",
            Self::BridgeForContainer => "bridge-container",
            Self::BridgeWithAddresses => "bridge-addresses",
            Self::Ptp => "ptp",
            Self::PtpForContainer => "ptp-container",
            Self::Macvtap => "macvtap",
            Self::Macvlan => "macvlan",
            Self::Vxlan => "vxlan",
            Self::None => "none",
            Self::Passt => "passt",
        }
    }

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Bridge => "bridge, with a tap",
            Self::BridgeForContainer => "bridge, for a container",
            Self::BridgeWithAddresses => "bridge, for a container, gateway, host-local",
            Self::Ptp => "ptp, with a tap, host-local",
            Self::PtpForContainer => "ptp, for a container, host-local",
            Self::Macvtap => "macvtap",
            Self::Macvlan => "macvlan, for a container",
            Self::Vxlan => "vxlan, with a tap, device and bridge too",
            Self::None => "none",
            Self::Passt => "passt",
        }
    }

    pub(super) const fn has_ipam(self) -> bool {
        matches!(self, Self::BridgeWithAddresses | Self::Ptp | Self::PtpForContainer)
    }

    /// Why there is nothing to compare with.
    pub(super) const fn cannot(self, maker: Maker) -> Option<&'static str> {
        match (maker, self) {
            (
                Maker::Reference,
                Self::Tap | Self::Bridge | Self::Ptp | Self::Macvtap | Self::Vxlan | Self::None | Self::Passt,
            ) => Some("has none"),
            (Maker::Reference | Maker::Ours, _) => None,
        }
    }

    /// Calls of `running`'s plugin, whose node is the lab's world.
    pub(super) fn measure(self, running: &Running) -> anyhow::Result<Numbers> {
        let lab = &running.lab;
        let ours = self.config(lab);
        let (plugin, config) = match running.maker() {
            Some(Maker::Reference) => self.of_reference(ours)?,
            Some(Maker::Ours) | None => (binary("sluice-cni")?, ours),
        };
        // Mode tap needs a NIC beside it; for the others an empty pod does.
        let (pod, interface) = if self == Self::Tap { (lab.pod(), "net1") } else { (lab.guest(), "eth0") };
        let mut adds = Vec::new();
        let mut dels = Vec::new();
        let mut most: f64 = 0.0;
        for _ in 0..ROUNDS {
            for (command, times) in [("ADD", &mut adds), ("DEL", &mut dels)] {
                std::thread::sleep(LIFE);
                let call = execute(&plugin, lab, lab.world(), pod, command, interface, &config)?;
                times.push(call.time.as_secs_f64() * 1e3);
                most = most.max(call.resident_mib);
            }
        }
        Ok(Numbers::from([
            ("add_ms", median(&mut adds)),
            ("del_ms", median(&mut dels)),
            ("resident_mib", most),
        ]))
    }

    fn config(self, lab: &Lab) -> Value {
        let mut config = json!({
            "cniVersion": "1.0.0",
            "name": "bench",
            "type": "sluice",
            "stateDir": lab.directory().join("state"),
        });
        let leases = lab.directory().join("leases");
        let ipam = json!({ "type": "host-local", "dataDir": leases, "subnet": "10.55.0.0/24" });
        let more = match self {
            Self::Tap => json!({ "mode": "tap" }),
            Self::Bridge => json!({ "mode": "bridge", "bridge": "br0" }),
            Self::BridgeForContainer => json!({ "mode": "bridge", "bridge": "br0", "tap": false }),
            Self::BridgeWithAddresses => {
                json!({ "mode": "bridge", "bridge": "br0", "tap": false, "isGateway": true, "ipam": ipam })
            }
            Self::Ptp => json!({ "mode": "ptp", "ipam": ipam }),
            Self::PtpForContainer => json!({ "mode": "ptp", "tap": false, "ipam": ipam }),
            Self::Macvtap => json!({ "mode": "macvtap", "master": MASTER }),
            Self::Macvlan => json!({ "mode": "macvlan", "master": MASTER }),
            Self::Vxlan => json!({ "mode": "vxlan", "vni": 77, "device": MASTER, "peers": ["10.244.1.9"] }),
            Self::None => json!({ "mode": "none" }),
            Self::Passt => json!({ "mode": "passt" }),
        };
        if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
            config.extend(more);
        }
        config
    }

    /// The same for the reference: its own plugin, which takes our keys for unknown ones but for `mode`.
    fn of_reference(self, mut config: Value) -> anyhow::Result<(PathBuf, Value)> {
        let config_keys = config.as_object_mut().context("a configuration")?;
        let name = config_keys.insert("mode".to_owned(), json!("bridge"));
        let name = name.as_ref().and_then(Value::as_str).context("a mode")?;
        Ok((Path::new(REFERENCE).join(name), config))
    }
}

/// One call, and what it took.
#[derive(Debug, Clone, Copy)]
struct Call {
    time: Duration,
    /// The most it had at a time.
    resident_mib: f64,
}

/// One call of our plugin, which must succeed.
pub(super) fn call(
    lab: &Lab,
    node: &Namespace,
    pod: &Namespace,
    command: &str,
    interface: &str,
    config: &Value,
) -> anyhow::Result<()> {
    execute(&binary("sluice-cni")?, lab, node, pod, command, interface, config).map(drop)
}

fn execute(
    plugin: &Path,
    lab: &Lab,
    node: &Namespace,
    pod: &Namespace,
    command: &str,
    interface: &str,
    config: &Value,
) -> anyhow::Result<Call> {
    let log = lab.directory().join("plugin.log");
    let output = std::fs::File::create(&log).context("a file for the plugin's answer")?;
    let mut process = node.command(plugin);
    process
        .env_clear()
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "bench")
        .env("CNI_NETNS", pod.path())
        .env("CNI_IFNAME", interface)
        .env("CNI_PATH", REFERENCE)
        .stdin(Stdio::piped())
        .stderr(output.try_clone().context("its log")?)
        .stdout(output);
    let started = Instant::now();
    let mut child = process.spawn().with_context(|| format!("start {}", plugin.display()))?;
    let mut stdin = child.stdin.take().context("its stdin")?;
    stdin.write_all(config.to_string().as_bytes()).context("hand it the configuration")?;
    drop(stdin);
    let (status, resident_mib) = wait(child.id())?;
    let time = started.elapsed();
    let answer = std::fs::read_to_string(&log).unwrap_or_default();
    anyhow::ensure!(status == 0, "{command} {config}: {answer}");
    Ok(Call { time, resident_mib })
}

/// Waits for a child; its status and the most memory that was resident, in MiB.
fn wait(pid: u32) -> anyhow::Result<(i32, f64)> {
    let pid = libc::pid_t::try_from(pid).context("a process id")?;
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: wait4 writes one int and one `struct rusage`, which these are; the pid is that of a child not waited for.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
    anyhow::ensure!(waited == pid, "wait for the plugin: {}", std::io::Error::last_os_error());
    // SAFETY: all bytes are zero or written by the kernel, and `struct rusage` consists of integers.
    let usage = unsafe { usage.assume_init() };
    #[expect(clippy::cast_precision_loss, reason = "a measurement has fewer than 53 significant bits")]
    Ok((status, usage.ru_maxrss as f64 / 1024.0))
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
