//! A guest moves to another pod while it is used, and back, as KubeVirt moves one: each pod has its own translator and
//! its own addresses, and the old pod ends once the guest is gone.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use vm_tests::lab::{Namespace, POD_V4, SECOND_POD_V4, SERVER_V4, SecondPod};
use vm_tests::services;
use vm_tests::translator::{self, Cable, Capture, FORWARDED_PORT, Translator};
use vm_tests::vm::Netdev;

use crate::peer::Load;
use crate::room::{Room, SOON, in_a_room_with};

const PAIRS: u16 = 2;
/// There, and back.
const ROUNDS: usize = 2;
const BEFORE_BYTES: u64 = 64 << 20;
/// More than arrives during a migration.
const DURING_BYTES: u64 = 1 << 30;
const LOADED_BYTES: u64 = 4 << 20;

/// From the guest's arrival to the end of connections that nobody knows any more.
const END_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn guest_moves_with_its_memory_whole_and_its_connections_reset() {
    let two = |options: &mut vm_tests::vm::Options| {
        if let Netdev::VhostUser { pairs, .. } = &mut options.netdev {
            *pairs = PAIRS;
        }
    };
    in_a_room_with(Cable::VhostUser, Capture::Nothing, two, |room| {
        let lab = room.lab;
        let second = SecondPod::new(lab)?;
        room.step("a file, and a page of the guest's", |room| {
            room.guest("dhcp")?;
            room.guest(&format!("wget -q -O /tmp/before http://{SERVER_V4}/stream/{BEFORE_BYTES}"))?;
            room.guest("mkdir -p /tmp/www; echo hello from the guest >/tmp/www/index.html")?;
            room.guest(&format!("httpd -p {FORWARDED_PORT} -h /tmp/www"))
        })?;
        let pods = [(second.namespace(), SECOND_POD_V4), (lab.pod(), POD_V4)];
        for (round, (pod, address)) in pods.into_iter().cycle().take(ROUNDS).enumerate() {
            start_summed_download(room)?;
            let load = Load::start(room)?;
            room.step("a migration under load", |room| migrate(room, round, pod))?;
            // Before anything else is sent to the guest, whose connections may not wait for that.
            room.step("connections of the guest end", |room| {
                let start = Instant::now();
                // The last has buffers to read first.
                for (name, limit) in [("upload", END_LIMIT), ("download", END_LIMIT), ("during", SOON)] {
                    let (_, text) = room.ended(name, limit).with_context(|| format!("the {name}"))?;
                    eprintln!("          {name} after {:.2?}: {}", start.elapsed(), text.trim());
                    ensure!(!text.is_empty(), "the {name} ended without an error");
                }
                Ok(())
            })?;
            room.step("the peers outside are told", |_| {
                eprintln!("          the peers: {:?}", load.ends()?);
                Ok(())
            })?;
            room.step("a page from the outside, with the old address", |room| {
                room.expect_page(&format!("http://{SERVER_V4}/"))
            })?;
            room.step("memory arrived whole", expect_whole_memory)?;
            room.step("a lease with the new pod's address", |room| {
                room.guest("dhcp")?;
                room.guest(&format!("grep -x ip={address} /run/lease"))?;
                room.expect_page(&format!("http://{SERVER_V4}/"))?;
                room.expect_guest_page(address.into())
            })?;
        }
        Ok(())
    });
}

/// Starts a download that the guest sums more slowly than it comes: much of it waits in the buffers that the translator
/// wrote, and is read only after the guest has moved.
fn start_summed_download(room: &mut Room<'_>) -> Result<()> {
    room.guest("rm -f /tmp/during")?;
    let download = format!("wget -q -O - http://{SERVER_V4}/stream/{DURING_BYTES}");
    room.start("during", &format!("{download} | tee /tmp/during | md5sum >/run/during.sum"))?;
    room.guest_within(&format!("[ $(stat -c %s /tmp/during) -gt {LOADED_BYTES} ]")).map(drop)
}

/// Moves the guest to `pod`, where another translator waits. What it leaves behind ends.
fn migrate(room: &mut Room<'_>, round: usize, pod: &Namespace) -> Result<()> {
    let lab = room.lab;
    let name = format!("translator{round}");
    let program = translator::program()?;
    let translator = Translator::start_in(lab, pod, &name, &program, Cable::VhostUser, Capture::Nothing)?;
    if let Netdev::VhostUser { socket, .. } = &mut room.options.netdev {
        translator.socket().clone_into(socket);
    }
    let folder = lab.directory().join(format!("qemu{round}"));
    let (migration, source) = room.vm.migrate(pod, &folder, &room.image, &room.options)?;
    let left = room.translator.replace(translator);
    ensure!(left.is_some_and(|mut left| !left.has_ended()), "the translator left behind ended");
    drop(source);
    eprintln!("          {migration:.2?}");
    ensure!(migration.passes > 1, "the memory was sent in one pass: nothing needed the log of changes");
    Ok(())
}

/// Compares what was in the guest's memory before, and what came into it meanwhile.
fn expect_whole_memory(room: &mut Room<'_>) -> Result<()> {
    let (sum, expected) = (room.guest("md5sum </tmp/before")?, services::md5(BEFORE_BYTES)?);
    ensure!(sum.starts_with(&expected), "the file of before has {sum}, not {expected}");
    let bytes: u64 = room.vm.succeed("stat -c %s /tmp/during", SOON)?.trim().parse()?;
    let expected = services::md5(bytes)?;
    let sum = room.guest("cat /run/during.sum")?;
    eprintln!("          {bytes} bytes came meanwhile");
    ensure!(sum.starts_with(&expected), "{bytes} bytes came meanwhile with {sum}, not {expected}");
    Ok(())
}
