//! Memory that comes and goes while the guest runs.

use anyhow::{Context as _, Result, ensure};
use vm_tests::lab::SERVER_V4;
use vm_tests::services;
use vm_tests::translator::{Cable, Capture};

use crate::room::{Room, SOON, STREAM_LIMIT, in_a_room_with};

const BYTES: u64 = 64 << 20;
const MODULE_MIB: u32 = 256;
/// As long as changes of memory take.
const LONG_BYTES: u64 = 96 << 20;

#[test]
fn memory_is_plugged_and_unplugged_under_traffic() {
    let little = |options: &mut vm_tests::vm::Options| {
        options.memory_mib = 512;
        options.spare_memory_mib = 2 * MODULE_MIB;
    };
    in_a_room_with(Cable::VhostUser, Capture::Nothing, little, |room| {
        room.guest("dhcp")?;
        room.start("long", &format!("wget -q -O - http://{SERVER_V4}/stream/{LONG_BYTES} | md5sum"))?;
        room.step("memory for the kernel, plugged", |room| plug(room, "first", "online_kernel"))?;
        // All there was is below 4 GiB: the zone Normal is what was plugged, and the kernel takes from it first.
        room.step("a stream into it and out of it", |room| stream_through(room, "Normal"))?;
        room.step("memory for programs, plugged", |room| plug(room, "second", "online_movable"))?;
        room.step("a stream into it and out of it", |room| stream_through(room, "Movable"))?;
        room.step("memory unplugged", |room| {
            room.vm.unplug_memory("second")?;
            let mib = zone(room, "Movable", "present")?;
            ensure!(mib == 0, "{mib} MiB of it are still there");
            Ok(())
        })?;
        room.step("a page without it", |room| room.expect_page(&format!("http://{SERVER_V4}/")))?;
        room.step("the stream that began before all that", |room| {
            let (status, sum) = room.ended("long", STREAM_LIMIT)?;
            let expected = services::md5(LONG_BYTES)?;
            ensure!(status == "0" && sum.starts_with(&expected), "status {status}, {sum}, not {expected}");
            Ok(())
        })
    });
}

/// Plugs a module, and waits until the guest uses it as `kind` says.
fn plug(room: &mut Room<'_>, name: &str, kind: &str) -> Result<()> {
    let block = "/sys/devices/system/memory";
    room.guest(&format!("echo {kind} >{block}/auto_online_blocks"))?;
    let before = room.guest(&format!("cat {block}/memory*/state | grep -c online"))?;
    room.vm.plug_memory(name, MODULE_MIB)?;
    let more = format!("[ $(cat {block}/memory*/state | grep -c online) -gt {} ]", before.trim());
    room.guest_within(&format!("{more} && ! grep offline {block}/memory*/state")).map(drop)
}

/// A stream into a file, which fills part of `zone_name`, and out again from where it lies.
fn stream_through(room: &mut Room<'_>, zone_name: &str) -> Result<()> {
    let free = zone(room, zone_name, "free")?;
    room.vm.succeed(&format!("wget -q -O /tmp/stream http://{SERVER_V4}/stream/{BYTES}"), STREAM_LIMIT)?;
    let left = zone(room, zone_name, "free")?;
    ensure!(left + 32 < free, "of {free} MiB free in {zone_name}, {left} are still");
    room.send_stream(BYTES)?;
    room.guest("rm /tmp/stream").map(drop)
}

/// MiB that the guest counts as `what` in one of its zones.
fn zone(room: &mut Room<'_>, name: &str, what: &str) -> Result<u64> {
    let table = room.vm.succeed("cat /proc/zoneinfo", SOON)?;
    let section = table.split("Node ").find(|section| section.starts_with(&format!("0, zone {name:>8}")));
    let section = section.with_context(|| format!("no zone {name} in:\n{table}"))?;
    let mut words = section.split_whitespace().skip_while(|word| *word != what).skip(1);
    let pages: u64 = words.next().with_context(|| format!("no {what} in:\n{section}"))?.parse()?;
    Ok(pages >> 8)
}
