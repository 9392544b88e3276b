//! One end of the cable is killed under load, and started again.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use vm_tests::lab::{POD_V4, SERVER_V4};
use vm_tests::translator::{Cable, Capture, FORWARDED_PORT};

use crate::peer::Load;
use crate::room::{Room, in_a_room};

/// A kill may come at any moment of a ring's turn.
const KILLS: u8 = 3;

/// From a listening translator to a connection through it.
const BACK_LIMIT: Duration = Duration::from_secs(2);

/// From there to the end of connections that nobody knows any more.
const END_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn network_comes_back_after_either_end_of_the_cable_is_killed_under_load() {
    in_a_room(Cable::VhostUser, Capture::Nothing, |room| {
        room.guest("dhcp")?;
        room.guest("mkdir -p /tmp/www; echo hello from the guest >/tmp/www/index.html")?;
        room.guest(&format!("httpd -p {FORWARDED_PORT} -h /tmp/www"))?;
        for _ in 0..KILLS {
            kill_translator_under_load(room)?;
        }
        let load = Load::start(room)?;
        room.step("another QEMU gets the network of one that was killed", |room| {
            room.vm.kill()?;
            room.boot()?;
            room.guest("dhcp")?;
            room.expect_page(&format!("http://{SERVER_V4}/"))?;
            room.guest("mkdir -p /tmp/www; echo hello from the guest >/tmp/www/index.html")?;
            room.guest(&format!("httpd -p {FORWARDED_PORT} -h /tmp/www"))?;
            room.expect_guest_page(POD_V4.into())
        })?;
        room.step("the peers of the killed guest are told, also the one that only receives", |_| {
            let ends = load.ends()?;
            ensure!(ends.iter().all(|end| end.contains("reset")), "the peers: {ends:?}");
            Ok(())
        })
    });
}

fn kill_translator_under_load(room: &mut Room<'_>) -> Result<()> {
    let load = Load::start(room)?;
    let address = room.guest("ip -4 address show dev eth0 | grep inet")?;
    room.step("another translator serves new connections soon", |room| {
        room.replace_translator()?;
        let start = Instant::now();
        // A SYN sent before the cable is back would be lost, and sent again a second later.
        room.guest_within("grep 1 /sys/class/net/eth0/carrier")?;
        let page = room.guest_within(&format!("timeout 1 wget -q -O - http://{SERVER_V4}/"));
        let outward = start.elapsed();
        page?;
        room.expect_guest_page(POD_V4.into())?;
        let both = start.elapsed();
        eprintln!("          from the guest after {outward:.2?}, to it after {both:.2?}");
        ensure!(both < BACK_LIMIT, "from the guest after {outward:.2?}, to it after {both:.2?}");
        Ok(())
    })?;
    room.step("the guest kept its address", |room| {
        let kept = room.guest("ip -4 address show dev eth0 | grep inet")?;
        ensure!(kept == address, "it was {address} and is {kept}");
        Ok(())
    })?;
    room.step("who sent through the old translator is told", |room| {
        let (status, text) = room.ended("upload", END_LIMIT)?;
        ensure!(status != "0", "the upload succeeded: {text}");
        eprintln!("          the upload in the guest ended with {status}: {}", text.trim());
        Ok(())
    })?;
    room.step("who only received through it is told", |room| {
        let (status, text) = room.ended("download", END_LIMIT)?;
        ensure!(status != "0", "the download succeeded: {text}");
        Ok(())
    })?;
    room.step("the peers outside are told, and none takes what it has for all there is", |_| {
        let ends = load.ends()?;
        ensure!(ends.iter().all(|end| end.contains("reset")), "the peers: {ends:?}");
        Ok(())
    })
}
