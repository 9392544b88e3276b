//! Several pairs of queues, as a VM with several CPUs has them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use vm_tests::lab::SERVER_V4;
use vm_tests::services::{self, Sink};
use vm_tests::translator::{Cable, Capture};
use vm_tests::vm::Netdev;

use crate::room::{Room, SINK_PORT, SOON, STREAM_LIMIT, in_a_room_with};

const PAIRS: u16 = 4;
const BYTES: u64 = 32 << 20;

#[test]
fn guest_with_four_cpus_uses_four_pairs_of_queues() {
    let four = |options: &mut vm_tests::vm::Options| {
        options.cpus = 4;
        if let Netdev::VhostUser { pairs, .. } = &mut options.netdev {
            *pairs = PAIRS;
        }
    };
    in_a_room_with(Cable::VhostUser, Capture::Nothing, four, |room| {
        room.guest("dhcp")?;
        room.step("as many queues as CPUs", |room| {
            for kind in ["rx", "tx"] {
                let count = room.guest(&format!("ls -d /sys/class/net/eth0/queues/{kind}-* | wc -l"))?;
                ensure!(count.trim() == PAIRS.to_string(), "{kind} queues: {count}");
            }
            Ok(())
        })?;
        let before = interrupts(room)?;
        room.step("a stream to each CPU, at once", |room| {
            let fetch =
                on_each_cpu(&format!("wget -q -O /tmp/stream$number http://{SERVER_V4}/stream/{BYTES}"));
            room.vm.succeed(&fetch, STREAM_LIMIT)?;
            let (sums, expected) = (room.guest("md5sum /tmp/stream*")?, services::md5(BYTES)?);
            let right = sums.lines().filter(|line| line.starts_with(&expected)).count();
            ensure!(right == usize::from(PAIRS), "{expected} was sent {PAIRS} times, and there are:\n{sums}");
            Ok(())
        })?;
        room.step("a stream from each CPU, at once", |room| {
            let ports = SINK_PORT..SINK_PORT + PAIRS;
            let sinks: Vec<_> =
                ports.map(|port| Sink::start(room.lab.world(), port)).collect::<Result<_, _>>()?;
            let send =
                on_each_cpu(&format!("nc {SERVER_V4} $(({SINK_PORT} + number)) -e cat /tmp/stream$number"));
            room.vm.succeed(&send, STREAM_LIMIT)?;
            for sink in sinks {
                let received = sink.finish()?;
                ensure!(received.bytes == BYTES, "{} bytes arrived", received.bytes);
            }
            Ok(())
        })?;
        room.step("every queue interrupted its CPU", |room| {
            let after = interrupts(room)?;
            for queue in 0..PAIRS {
                for name in [format!("input.{queue}"), format!("output.{queue}")] {
                    let count = |counts: &BTreeMap<String, u64>| counts.get(&name).copied().unwrap_or(0);
                    let more = count(&after).saturating_sub(count(&before));
                    ensure!(more > 0, "no interrupt of {name}: {before:?} and then {after:?}");
                }
            }
            Ok(())
        })
    });
}

/// Runs `command` on all CPUs at the same time, each with its `number`; fails if one does.
fn on_each_cpu(command: &str) -> String {
    format!(
        "jobs=; for number in $(seq 0 {last}); do \
           export number; taskset $(printf %x $((1 << number))) sh -c '{command}' & jobs=\"$jobs $!\"; \
         done; for job in $jobs; do wait $job || exit 1; done",
        last = PAIRS - 1
    )
}

/// How often each queue of the NIC has interrupted any CPU, by its name behind the device's.
fn interrupts(room: &mut Room<'_>) -> Result<BTreeMap<String, u64>> {
    let table = room.vm.succeed("grep virtio0- /proc/interrupts", SOON)?;
    let lines = table.lines().map(|line| {
        let name = line.rsplit_once("virtio0-").context("a name")?.1;
        let counts = line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok());
        Ok((name.to_owned(), counts.sum()))
    });
    lines.collect()
}
