//! `sluice explain`: where a VM's frames go at each hop, and what is wrong, as it is now. It must never change anything.
//!
//! Facts are collected in one place (`survey`); the way (`path`), what is said of it (`trace`) and what is wrong with it
//! (`findings`) are functions of the facts alone.

mod facts;
mod survey;
mod path;
mod words;
mod trace;
mod findings;
mod report;
#[cfg(test)]
mod fixture;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::journal::{STATE_DIRECTORY, Store};
use crate::namespace::{Namespace, NamespaceError};
use crate::netlink::NetlinkError;
use crate::protocol::CniError;
use facts::{Pod, Record};
use path::Path;
use report::{Attached, Report, Trace};

/// What to explain. Without a pod: which attachments there are.
#[derive(Debug, Args)]
pub struct Request {
    /// The pod's network namespace: /run/netns/NAME or /proc/PID/ns/net
    #[arg(long, value_name = "PATH", group = "pod")]
    netns: Option<PathBuf>,
    /// The pod by its container, or the beginning of it, as the state folder knows it
    #[arg(long, value_name = "ID", group = "pod")]
    container: Option<String>,
    /// One tap or macvtap of the pod; otherwise all are explained
    #[arg(long, value_name = "NAME", requires = "pod")]
    tap: Option<String>,
    /// The user and group that QEMU runs as
    #[arg(long, value_name = "ID", default_value_t = 107)]
    user: u32,
    /// Where attachments are written down
    #[arg(long, value_name = "FOLDER", default_value = STATE_DIRECTORY)]
    state_dir: PathBuf,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error("--netns: {0}")]
    Namespace(#[from] NamespaceError),
    #[error("--container {id}: no such attachment in {}", folder.display())]
    NoContainer { id: String, folder: PathBuf },
    #[error("--container {id}: {} begin so: {}", found.len(), found.join(", "))]
    Ambiguous { id: String, found: Vec<String> },
    #[error("--container {id}: {netns} cannot be seen from here; give it with --netns", netns = netns.display())]
    Unseen { id: String, netns: PathBuf },
    #[error("--tap {name}: the pod has no such tap; it has {}", if found.is_empty() { "none".to_owned() } else { found.join(", ") })]
    NoTap { name: String, found: Vec<String> },
    #[error("cannot enter the pod's network namespace: {0}")]
    Enter(io::Error),
    #[error("{0}")]
    State(CniError),
    #[error("{0}")]
    Netlink(#[from] NetlinkError),
}

/// Exit statuses of this command; clap's own for bad arguments is 2 too.
const WRONG: u8 = 1;
const UNANSWERED: u8 = 2;

/// Prints what was asked for. 0: nothing is wrong; 1: something is; 2: it cannot be told.
pub fn run(request: &Request) -> ExitCode {
    let report = match report(request) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("sluice explain: {error}");
            return ExitCode::from(UNANSWERED);
        }
    };
    let text = if request.json { report.to_json() } else { report.to_string() };
    // Whoever reads may have read enough.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    if report.is_fine() { ExitCode::SUCCESS } else { ExitCode::from(WRONG) }
}

fn report(request: &Request) -> Result<Report, ExplainError> {
    let store = Store::new(&request.state_dir);
    let records = survey::records(&store)?;
    if let Some(path) = &request.netns {
        let pod = Namespace::open(path)?;
        let here = |record: &Record| {
            Namespace::open(&record.netns).is_ok_and(|other| other.same_as(&pod).unwrap_or(false))
        };
        let records = records.into_iter().filter(|record| record.pod == Pod::Alive && here(record)).collect();
        return explain(request, &pod, records);
    }
    let Some(id) = &request.container else { return list(records) };
    let records = of_container(request, id, records)?;
    let gone = records.iter().all(|record| record.pod == Pod::Gone);
    let Some(first) = records.iter().find(|record| record.pod == Pod::Alive) else {
        if gone {
            return list(records);
        }
        let netns = records.first().map(|record| record.netns.clone()).unwrap_or_default();
        return Err(ExplainError::Unseen { id: id.clone(), netns });
    };
    let pod = Namespace::open(&first.netns)?;
    let records = records.into_iter().filter(|record| record.pod == Pod::Alive).collect();
    explain(request, &pod, records)
}

/// The attachments of the one container whose id begins so.
fn of_container(request: &Request, id: &str, records: Vec<Record>) -> Result<Vec<Record>, ExplainError> {
    let exact = records.iter().any(|record| record.attachment.container == id);
    let fits = |record: &Record| {
        let container = &record.attachment.container;
        if exact { container == id } else { container.starts_with(id) }
    };
    let records: Vec<Record> = records.into_iter().filter(fits).collect();
    let mut found: Vec<String> = records.iter().map(|record| record.attachment.container.clone()).collect();
    found.dedup();
    match found.len() {
        0 => Err(ExplainError::NoContainer { id: id.to_owned(), folder: request.state_dir.clone() }),
        1 => Ok(records),
        _ => Err(ExplainError::Ambiguous { id: id.to_owned(), found }),
    }
}

fn explain(request: &Request, pod: &Namespace, records: Vec<Record>) -> Result<Report, ExplainError> {
    let facts = survey::facts(pod, records, request.user)?;
    let mut paths = path::all(&facts);
    if let Some(name) = &request.tap {
        let found: Vec<String> = paths.iter().map(|path| path.name().to_owned()).collect();
        paths.retain(|path| path.name() == name);
        if paths.is_empty() {
            return Err(ExplainError::NoTap { name: name.clone(), found });
        }
    }
    let wrong = if paths.is_empty() { vec![findings::nothing(&facts)] } else { Vec::new() };
    let traces = paths.iter().map(trace_of).collect();
    Ok(Report { traces, wrong, attachments: None })
}

fn trace_of(path: &Path<'_>) -> Trace {
    Trace {
        name: path.name().to_owned(),
        guest: if path.guest == path::Guest::Container { "container" } else { "VM" },
        attachment: path.record.map(Attached::of),
        out: trace::out(path),
        back: trace::back(path),
        wrong: findings::on(path),
    }
}

/// All attachments, and those among them whose pod is gone.
fn list(records: Vec<Record>) -> Result<Report, ExplainError> {
    let node = survey::node_names()?;
    let wrong = records.iter().filter_map(|record| findings::gone(record, &node)).collect();
    Ok(Report { traces: Vec::new(), wrong, attachments: Some(records.iter().map(Attached::of).collect()) })
}

#[cfg(test)]
mod tests {
    use super::facts::Facts;
    use super::*;

    fn report(facts: &Facts) -> Report {
        let traces = path::all(facts).iter().map(trace_of).collect();
        Report { traces, wrong: Vec::new(), attachments: None }
    }

    #[test]
    fn each_mode_has_its_hops_both_ways() {
        type Row = (&'static str, Facts, &'static [&'static str], &'static [&'static str]);
        let rows: [Row; 9] = [
            ("tap", fixture::tap(), &["tap0", "eth0", "veth7", "routing"], &["veth7", "eth0", "tap0"]),
            (
                "bridge",
                fixture::bridge(),
                &["tap0", "eth0", "veth7", "br0", "eth1"],
                &["br0", "veth7", "eth0", "tap0"],
            ),
            (
                "gateway",
                fixture::gateway(),
                &["tap0", "eth0", "veth7", "br0", "routing", "default"],
                &["10.7.0.2", "br0", "veth7", "eth0", "tap0"],
            ),
            (
                "vxlan",
                fixture::vxlan(),
                &["tap0", "eth0", "veth7", "br0", "vxlan42"],
                &["br0", "veth7", "eth0", "tap0"],
            ),
            (
                "ptp",
                fixture::ptp(),
                &["tap0", "eth0", "veth7", "routing", "default"],
                &["10.8.0.2", "veth7", "eth0", "tap0"],
            ),
            ("macvtap", fixture::macvtap(), &["/dev/tap2", "eth0", "eth1"], &["eth1", "eth0"]),
            ("ipvlan", fixture::ipvlan(), &["tap0", "eth0", "eth1"], &["eth1", "eth0", "tap0"]),
            ("passt", fixture::passt(), &["pod's sockets"], &["pod's sockets"]),
            ("none", fixture::none(), &["tap0"], &[]),
        ];
        for (mode, facts, out, back) in rows {
            let trace = report(&facts).traces.remove(0);
            let names = |hops: &[trace::Hop]| hops.iter().map(|hop| hop.name.clone()).collect::<Vec<_>>();
            assert_eq!(names(&trace.out), out, "{mode}, out");
            assert_eq!(names(&trace.back), back, "{mode}, back");
        }
    }

    #[test]
    fn text_is_aligned_and_ends_with_what_is_wrong() {
        let mut facts = fixture::gateway();
        facts.marks.as_mut().unwrap()[1].frames = Some(1);
        assert_eq!(report(&facts).to_string(), GATEWAY);
    }

    const GATEWAY: &str = "\
tap0: eth0 on network net, mode bridge
container c0ffee
netns /run/netns/pod

from the VM
  tap0             pod   tap     MTU 1500  up, open, for user 107 and group 107, one queue, redirected to eth0
  eth0             pod   veth    MTU 1500  up, 02:00:00:00:00:05, mute, 10.7.0.2/24
  veth7            node  veth    MTU 1500  up, port of br0, drops MACs other than 02:00:00:00:00:05 (1 frame so far)
  br0              node  bridge  MTU 1500  up, 10.7.0.1/24, no uplink
  routing          node  stack             ipv4.ip_forward 1, masquerade
  default          node  route             by 192.0.2.1 through eth1

to the VM
  10.7.0.2         node  route   10.7.0.0/24 through br0
  br0              node  bridge  no other port: from the node itself
  veth7            node  veth    no station learnt yet: frames are flooded to it
  eth0             pod   veth    redirected to tap0
  tap0             pod   tap     to the VM's NIC

wrong
  veth7 (node): 1 frame dropped: the guest sends from another MAC than 02:00:00:00:00:05; \
give the VM's interface this MAC, or the network \"macspoofchk\": false
";

    #[test]
    fn json_has_the_same_and_status_follows_the_findings() {
        let mut facts = fixture::bridge();
        assert!(report(&facts).is_fine());
        facts.pod.redirects.clear();
        let report = report(&facts);
        assert!(!report.is_fine());
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        let trace = &json["traces"][0];
        assert_eq!(trace["attachment"]["container"], "c0ffee");
        assert_eq!(trace["out"][0]["name"], "tap0");
        assert_eq!(trace["out"][0]["where"], "pod");
        assert_eq!(trace["out"][0]["mtu"], 1500);
        assert_eq!(trace["wrong"][0]["id"], "redirect-missing");
        assert!(trace["wrong"][0]["do"].is_string());
    }

    #[test]
    fn attachments_are_listed_in_columns() {
        let record = fixture::bridge().records.remove(0);
        let gone = Record { pod: Pod::Gone, mode: "macvtap".to_owned(), ..record.clone() };
        let half = Record { done: false, ..record.clone() };
        let attachments = Some([record, gone, half].iter().map(Attached::of).collect());
        let report = Report { traces: Vec::new(), wrong: Vec::new(), attachments };
        let expected = "\
CONTAINER  INTERFACE  NETWORK  MODE     STATE       NETNS
c0ffee     eth0       net      bridge   alive       /run/netns/pod
c0ffee     eth0       net      macvtap  gone        /run/netns/pod
c0ffee     eth0       net      bridge   unfinished  /run/netns/pod

nothing is wrong
";
        assert_eq!(report.to_string(), expected);
    }
}
