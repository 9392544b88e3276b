//! A node of a cluster as a guest: its kernel has the modules that the machine of the tests may lack, and beside them are
//! programs of that machine, CNI plugins above all. It must never decide what a plugin should have done.
//!
//! Nothing outside the guest is wired to it: it has no NIC, and its network namespaces are the node's and its pods'.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use super::{Additions, Image, Netdev, Options, Output, Program, Vm};
use crate::lab::{Lab, Variant, binary};
use crate::tap_guest;

/// Where the node has its plugins.
pub const PLUGINS: &str = "/opt/cni/bin";

/// Where distributions put the reference plugins.
const REFERENCE_PLUGINS: [&str; 3] = ["/usr/lib/cni", "/usr/libexec/cni", PLUGINS];

/// For what takes a moment in an emulated guest on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

const MEMORY_MIB: u32 = 512;

/// Kinds of links, queueing and packet filters that a node's kernel has; what they need follows.
const MODULES: [&str; 34] = [
    "veth",
    "bridge",
    "br_netfilter",
    "8021q",
    "dummy",
    "vrf",
    "macvlan",
    "macvtap",
    "ipvlan",
    "tun",
    "vxlan",
    "ifb",
    "sch_ingress",
    "sch_tbf",
    "cls_u32",
    "act_mirred",
    "act_skbmod",
    "act_pedit",
    "nf_tables",
    "nf_conntrack_bridge",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nft_redir",
    "nft_ct",
    "nft_fib_inet",
    "nft_hash",
    "nft_limit",
    "nft_log",
    "nft_meta_bridge",
    "nft_numgen",
    "nft_objref",
    "nft_reject_inet",
    "nft_reject_bridge",
];

/// What looks at the node's network, and changes it.
const TOOLS: [&str; 4] = ["ip", "bridge", "tc", "nft"];

/// Busybox's shell prefers programs of its own to files of that name, and these know less.
const PRELUDE: &str = "ip() { /bin/ip \"$@\"; }\ntc() { /bin/tc \"$@\"; }\n";

/// One call of a plugin, as a container runtime makes it.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// A file of [`PLUGINS`].
    pub plugin: &'a str,
    /// `CNI_COMMAND`.
    pub command: &'a str,
    /// `CNI_CONTAINERID`.
    pub container: &'a str,
    /// The pod's namespace, by the name `ip netns` has for it.
    pub pod: &'a str,
    /// `CNI_IFNAME`.
    pub interface: &'a str,
    pub configuration: &'a Value,
}

/// What a plugin said.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u8,
    /// What it printed, `Null` for nothing: a result, or an error.
    pub result: Value,
    /// What it complained about beside.
    pub complaint: String,
}

/// A running node. It ends with the value, or with the thread that started it.
#[derive(Debug)]
pub struct NodeVm {
    vm: Vm,
    /// For QEMU's files; they are kept when a test fails.
    _lab: Lab,
}

impl NodeVm {
    /// Boots a node that has our plugin as `sluice`, and the reference plugins named in `reference`.
    pub fn boot(reference: &[&str]) -> anyhow::Result<Self> {
        let mut programs = vec![plugin("sluice", binary("sluice-cni")?)];
        for name in reference {
            programs.push(plugin(name, reference_plugin(name)?));
        }
        let tap_guest = Program { place: "/bin/tap-guest".to_owned(), file: binary("tap-guest")? };
        programs.push(tap_guest);
        for name in TOOLS {
            programs.push(Program { place: format!("/bin/{name}"), file: find(name)? });
        }
        let lab = Lab::new(Variant::Ipv4Only)?;
        let additions = Additions { modules: MODULES.to_vec(), programs };
        let image = Image::build()?.with(&additions, lab.directory())?;
        let options = Options { memory_mib: MEMORY_MIB, cpus: 1, ..Options::new(Netdev::None) };
        let vm = Vm::boot(lab.pod(), lab.directory(), &image, &options)?;
        let mut node = Self { vm, _lab: lab };
        let missing =
            node.succeed("while read m; do [ -d /sys/module/$m ] || echo $m; done </modules/order")?;
        anyhow::ensure!(missing.is_empty(), "the node's kernel did not take the modules {missing}");
        Ok(node)
    }

    /// Runs a shell script on the node.
    pub fn run(&mut self, script: &str) -> anyhow::Result<Output> {
        self.vm.run(&format!("{PRELUDE}{script}"), LIMIT)
    }

    /// Runs a shell script that must succeed, all of it: it ends with the first command that does not. What it printed.
    pub fn succeed(&mut self, script: &str) -> anyhow::Result<String> {
        self.vm.succeed(&format!("set -e\n{PRELUDE}{script}"), LIMIT)
    }

    /// Like [`NodeVm::succeed`], for what prints JSON: `ip -j`, `bridge -j`, `tc -j`, `nft -j`.
    pub fn look(&mut self, script: &str) -> anyhow::Result<Value> {
        let text = self.succeed(script)?;
        serde_json::from_str(text.trim()).with_context(|| format!("`{script}` on the node printed {text}"))
    }

    /// Makes the namespace `guest` the guest of the tap `tap` of `pod`, until the tap goes: see [`tap_guest`].
    pub fn plug(&mut self, pod: &str, tap: &str, guest: &str, mtu: u16) -> anyhow::Result<()> {
        let log = format!("/tmp/tap-guest-{guest}.log");
        let program = format!("ip netns exec {pod} tap-guest {tap} /run/netns/{guest} {mtu}");
        self.succeed(&format!("rm -f {log}; {program} </dev/null >{log} 2>&1 &"))?;
        let ready = format!("grep {} {log}", tap_guest::READY);
        self.vm.succeed_within(&ready, LIMIT).map(drop).or_else(|_| {
            let log = self.succeed(&format!("cat {log}"))?;
            anyhow::bail!("no guest on {tap} of {pod}: {log}")
        })
    }

    /// Calls a plugin.
    pub fn call(&mut self, call: &Call<'_>) -> anyhow::Result<Answer> {
        let output = self.run(&script(call))?;
        let (result, complaint) = output
            .text
            .split_once(SEPARATOR)
            .with_context(|| format!("{} on the node ended with {output}", call.plugin))?;
        let result = match result.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text).with_context(|| format!("{} printed {text}", call.plugin))?,
        };
        Ok(Answer { status: output.status, result, complaint: complaint.trim().to_owned() })
    }

    /// Calls a plugin that must succeed; its result.
    pub fn call_succeeds(&mut self, call: &Call<'_>) -> anyhow::Result<Value> {
        let answer = self.call(call)?;
        anyhow::ensure!(
            answer.status == 0,
            "{} {} ended with status {}: {} {}",
            call.plugin,
            call.command,
            answer.status,
            answer.result,
            answer.complaint
        );
        Ok(answer.result)
    }
}

/// A reference plugin of this machine.
pub fn reference_plugin(name: &str) -> anyhow::Result<PathBuf> {
    let mut places = REFERENCE_PLUGINS.iter().map(|folder| Path::new(folder).join(name));
    places
        .find(|place| place.is_file())
        .with_context(|| format!("there is no reference plugin {name} (Debian: containernetworking-plugins)"))
}

/// Between what a plugin prints and what it complains about; in neither.
const SEPARATOR: char = '\u{1e}';

fn script(call: &Call<'_>) -> String {
    let Call { plugin, command, container, pod, interface, configuration } = call;
    format!(
        "cat >/tmp/configuration <<'END-OF-CONFIGURATION'\n{configuration}\nEND-OF-CONFIGURATION\n\
         CNI_COMMAND={command} CNI_CONTAINERID={container} CNI_NETNS=/run/netns/{pod} CNI_IFNAME={interface} \
         CNI_PATH={PLUGINS} {PLUGINS}/{plugin} </tmp/configuration 2>/tmp/complaint\n\
         status=$?\n\
         printf '\\036'\n\
         cat /tmp/complaint\n\
         exit $status\n"
    )
}

fn plugin(name: &str, file: PathBuf) -> Program {
    Program { place: format!("{PLUGINS}/{name}"), file }
}

/// A program as a shell finds it, or where administrators have theirs.
fn find(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let mut places = folders.map(|folder| folder.join(name));
    places.find(|place| place.is_file()).with_context(|| format!("there is no program {name}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Call, script};

    #[test]
    fn script_hands_the_configuration_over_as_it_is() {
        let configuration = json!({ "name": "it's $HOME" });
        let call = Call {
            plugin: "bridge",
            command: "ADD",
            container: "c",
            pod: "p",
            interface: "eth0",
            configuration: &configuration,
        };
        let script = script(&call);
        assert!(script.contains("\n{\"name\":\"it's $HOME\"}\n"), "{script}");
        assert!(script.contains("CNI_NETNS=/run/netns/p "), "{script}");
    }
}
