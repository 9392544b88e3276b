//! The lines of the CNI plugin: what its calls cost beside the reference plugins', and what its wire carries.

use super::{Columns, Line, Table, Target, count, way};
use crate::bench::contender::{Contender, Maker, Wire};
use crate::bench::plugin_calls::Attachment;
use crate::bench::probe::{Direction, Probe};

const REFERENCE: Contender = Contender::Plugin(Maker::Reference);
const OURS: Contender = Contender::Plugin(Maker::Ours);
const VETH: Contender = Contender::Wired(Wire::Veth);
const BRIDGE: Contender = Contender::Wired(Wire::Bridge);
const TAP: Contender = Contender::Wired(Wire::Redirect);

/// Not slower than this many milliseconds, where no IPAM plugin takes part.
const LONGEST_MS: f64 = 15.0;

/// A guest's kernel behind the tap that mode `tap` makes. Frames are copied from tap to tap, as a VM's are by QEMU; at the
/// veth, which has no guest, they are not.
pub(super) fn wired() -> Table {
    let mut lines = Vec::new();
    for (mtu, flows) in [(1500, 1), (1500, 8), (9000, 1)] {
        for direction in [Direction::Out, Direction::In] {
            let title = format!("TCP stream, {}, MTU {mtu}, {}", way(direction), count(flows));
            let probe = Probe::Stream { direction, mtu, flows };
            let targets = [Target::LeastOf(VETH, 0.95), Target::LeastOf(BRIDGE, 1.0)];
            lines.push(Line::new(probe, "gbit_per_second", title, "Gbit/s").wants(targets));
        }
    }
    lines.push(
        Line::new(Probe::Rr, "p50_us", "TCP request/response, p50", "µs")
            .wants([Target::MostOf(BRIDGE, 1.0)]),
    );
    Table {
        heading: "A guest wired to the pod's network",
        prefix: "wired-",
        contenders: &[VETH, BRIDGE, TAP],
        ours: TAP,
        references: &[VETH, BRIDGE],
        columns: Columns::Contenders,
        lines,
    }
}

/// Wall time of whole calls.
pub(super) fn calls() -> Table {
    let mut lines = Vec::new();
    for attachment in Attachment::ALL {
        for (number, verb) in [("add_ms", "ADD"), ("del_ms", "DEL")] {
            let title = format!("{}: {verb}", attachment.title());
            let mut targets = Vec::new();
            if attachment.cannot(Maker::Reference).is_none() {
                targets.push(Target::MostOf(REFERENCE, 1.0));
            }
            if !attachment.has_ipam() {
                targets.push(Target::Most(LONGEST_MS));
            }
            lines.push(Line::new(Probe::Attachment(attachment), number, title, "ms").wants(targets));
        }
    }
    let memory = Probe::Attachment(Attachment::BridgeWithAddresses);
    lines.push(
        Line::new(memory, "resident_mib", "most memory resident in a call", "MiB").wants([Target::Most(6.0)]),
    );
    Table {
        heading: "Calls of the CNI plugin",
        prefix: "cni-",
        contenders: &[REFERENCE, OURS],
        ours: OURS,
        references: &[REFERENCE],
        columns: Columns::Contenders,
        lines,
    }
}
