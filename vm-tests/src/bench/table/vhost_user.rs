//! The lines over vhost-user: the native rig beside our own tap, and the emulated guest.

use super::{Columns, Line, TAP, Table, Target, count, way};
use crate::bench::contender::{Contender, Guest};
use crate::bench::probe::{Direction, Probe};

const PEER: Contender = Contender::Peer(Guest::Cable);
const OURS: Contender = Contender::Ours(Guest::Cable);
const PEER_VM: Contender = Contender::Peer(Guest::Vm);
const OURS_VM: Contender = Contender::Ours(Guest::Vm);

/// A kernel behind vhost-cable. The cable costs a hop and a copy, which the tap does without.
pub(super) fn native() -> Table {
    let mut lines = native_stream_lines();
    lines.push(Line::new(Probe::Rr, "p50_us", "TCP request/response, p50", "µs"));
    lines.push(Line::new(Probe::Rr, "p99_us", "TCP request/response, p99", "µs"));
    for direction in [Direction::Out, Direction::In] {
        let title = format!("UDP stream, {}, 1400 bytes, 8 Gbit/s offered: delivered", way(direction));
        let probe = Probe::UdpStream { direction, gbit_offered: 8 };
        lines.push(Line::new(probe, "delivered_gbit_per_second", title, "Gbit/s"));
    }
    for direction in [Direction::Out, Direction::In] {
        let probe = Probe::Stream { direction, mtu: 1500, flows: 1 };
        let title = format!("CPU of the translator, {}, MTU 1500", way(direction));
        lines.push(Line::new(probe, "cpu_seconds_per_gib", title, "s/GiB"));
    }
    let start = "resident memory at start, without the guest's pages";
    lines.push(Line::new(Probe::Start, "resident_mib", start, "MiB").wants([Target::Most(8.0)]));
    let idle = Probe::Idle { count: 18_000 };
    lines.push(Line::new(idle, "held", "idle guest, 18 000 connections asked for: open", ""));
    lines.push(
        Line::new(idle, "percent_of_a_core", "idle guest, 18 000 connections: CPU of the translator", "%")
            .wants([Target::Most(0.5)]),
    );
    Table {
        heading: "A kernel over vhost-user as the guest",
        prefix: "vhost-",
        contenders: &[TAP, PEER, OURS],
        ours: OURS,
        references: &[TAP, PEER],
        columns: Columns::Contenders,
        lines,
    }
}

fn native_stream_lines() -> Vec<Line> {
    let mut lines = Vec::new();
    for (mtu, flows) in [(1500, 1), (1500, 8), (65520, 1)] {
        for direction in [Direction::Out, Direction::In] {
            let title = format!("TCP stream, {}, MTU {mtu}, {}", way(direction), count(flows));
            let targets = match (mtu, flows) {
                (1500, 1) => vec![Target::LeastOf(TAP, 0.55), Target::LeastOf(PEER, 5.0)],
                (1500, _) => vec![],
                _ => vec![Target::LeastOf(PEER, 1.2)],
            };
            let probe = Probe::Stream { direction, mtu, flows };
            lines.push(Line::new(probe, "gbit_per_second", title, "Gbit/s").wants(targets));
        }
    }
    lines
}

/// QEMU's guest, which is the bottleneck of what it does itself.
pub(super) fn emulated() -> Table {
    let mut lines = Vec::new();
    for (mtu, times) in [(1500, 2.0), (65520, 1.0)] {
        for direction in [Direction::Out, Direction::In] {
            let title = format!("TCP stream, {}, MTU {mtu}, {}", way(direction), count(1));
            let probe = Probe::Stream { direction, mtu, flows: 1 };
            let line = Line::new(probe, "gbit_per_second", title, "Gbit/s");
            lines.push(line.wants([Target::LeastOf(PEER_VM, times)]));
        }
    }
    for (probe, title) in [(Probe::Ping, "ping, p50"), (Probe::Rr, "TCP request/response, p50")] {
        lines.push(Line::new(probe, "p50_us", title, "µs").wants([Target::MostOf(PEER_VM, 1.0)]));
    }
    Table {
        heading: "An emulated machine over vhost-user as the guest",
        prefix: "vhost-vm-",
        contenders: &[PEER_VM, OURS_VM],
        ours: OURS_VM,
        references: &[PEER_VM],
        columns: Columns::Contenders,
        lines,
    }
}
