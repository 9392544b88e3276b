//! What happens to the NIC under a running guest: its CPUs stop, its driver goes, it is pulled out of the machine.
//! Connections outlast all that: the guest gets the same address again, and its bytes are sent again.

use anyhow::{Result, ensure};
use vm_tests::lab::{POD_V4, SERVER_V4};
use vm_tests::services;
use vm_tests::translator::{Cable, Capture, FORWARDED_PORT};
use vm_tests::vm::Options;

use crate::peer::Load;
use crate::room::{Room, STREAM_LIMIT, in_a_room, in_a_room_with};

/// More than the guest's buffers hold, so that some are still to come when the NIC goes.
const BYTES: u64 = 20 << 20;
const BEGUN_BYTES: u64 = 1 << 20;
const STOPS: u8 = 3;
/// Less than the translator's leases say.
const SMALL_MTU: u16 = 1400;

#[test]
fn connections_outlast_a_suspension_a_new_driver_and_a_new_nic() {
    in_a_room(Cable::VhostUser, Capture::Nothing, |room| {
        room.guest("dhcp")?;
        serve_page(room)?;
        room.step("a download over several suspensions", |room| {
            download_over(room, |room| {
                for _ in 0..STOPS {
                    room.vm.suspend()?;
                    room.vm.resume()?;
                    room.expect_page(&format!("http://{SERVER_V4}/"))?;
                }
                Ok(())
            })
        })?;
        room.step("one over a driver that is loaded again", |room| {
            download_over(room, |room| {
                room.guest("rmmod virtio_net && [ ! -e /sys/class/net/eth0 ]")?;
                room.guest("insmod /modules/virtio_net.ko")?;
                traffic(room)
            })
        })?;
        room.step("one over a NIC that is pulled out, and another put in", |room| {
            download_over(room, |room| {
                room.vm.unplug_nic()?;
                room.guest_within("[ ! -e /sys/class/net/eth0 ]")?;
                let options = room.options.clone();
                room.vm.plug_nic(&options)?;
                room.guest_within("[ -e /sys/class/net/eth0 ]")?;
                traffic(room)
            })
        })?;
        let _load = Load::start(room)?;
        room.step("a reset under load", |room| {
            room.vm.reset()?;
            serve_page(room)?;
            traffic(room)
        })
    });
}

/// libvirt's `<mtu size='...'/>`. The front end serves it from the NIC's configuration (virtio 1.2 section 5.1.4), offers
/// VIRTIO_NET_F_MTU on its own, and keeps the guest's answer to itself: the translator has no part in it.
#[test]
fn nic_has_the_mtu_that_the_machine_says() {
    let small = |options: &mut Options| options.mtu = Some(SMALL_MTU);
    in_a_room_with(Cable::VhostUser, Capture::Nothing, small, |room| {
        room.step("the MTU before anybody asks the translator", |room| expect_mtu(room, SMALL_MTU))?;
        room.step("it outlasts a lease that allows more", |room| {
            serve_page(room)?;
            traffic(room)?;
            let lease = room.guest("cat /run/lease")?;
            let mtu = lease.lines().find_map(|line| line.strip_prefix("mtu=")?.parse::<u16>().ok());
            ensure!(mtu.is_some_and(|mtu| mtu > SMALL_MTU), "{lease}");
            expect_mtu(room, SMALL_MTU)
        })?;
        room.step("a new translator, to which QEMU connects again", |room| {
            room.replace_translator()?;
            room.guest_within(&format!("timeout 2 wget -q -O - http://{SERVER_V4}/"))?;
            expect_mtu(room, SMALL_MTU)
        })?;
        room.step("the driver loaded again", |room| {
            room.guest("rmmod virtio_net && [ ! -e /sys/class/net/eth0 ]")?;
            room.guest("insmod /modules/virtio_net.ko")?;
            expect_mtu(room, SMALL_MTU)?;
            traffic(room)
        })
    });
}

fn expect_mtu(room: &mut Room<'_>, expected: u16) -> Result<()> {
    let mtu = room.guest("cat /sys/class/net/eth0/mtu")?;
    ensure!(mtu.trim() == expected.to_string(), "the NIC has an MTU of {}", mtu.trim());
    Ok(())
}

fn serve_page(room: &mut Room<'_>) -> Result<()> {
    room.guest("mkdir -p /tmp/www; echo hello from the guest >/tmp/www/index.html")?;
    room.guest(&format!("httpd -p {FORWARDED_PORT} -h /tmp/www")).map(drop)
}

/// A download that has begun when `event` happens, and whose bytes all come.
fn download_over(room: &mut Room<'_>, event: impl FnOnce(&mut Room<'_>) -> Result<()>) -> Result<()> {
    room.guest("rm -f /tmp/stream")?;
    let fetch = format!("wget -q -O - http://{SERVER_V4}/stream/{BYTES}");
    room.start("fetch", &format!("{fetch} | tee /tmp/stream | md5sum"))?;
    room.guest_within(&format!("[ $(stat -c %s /tmp/stream) -gt {BEGUN_BYTES} ]"))?;
    event(room)?;
    let (_, sum) = room.ended("fetch", STREAM_LIMIT)?;
    let expected = services::md5(BYTES)?;
    ensure!(sum.starts_with(&expected), "{sum}, not {expected}");
    Ok(())
}

/// A lease for a NIC that is new to the guest; then traffic both ways.
fn traffic(room: &mut Room<'_>) -> Result<()> {
    room.guest("dhcp")?;
    room.expect_page(&format!("http://{SERVER_V4}/"))?;
    room.expect_guest_page(POD_V4.into())
}
