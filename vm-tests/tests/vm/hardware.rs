//! What happens to the NIC under a running guest: its CPUs stop, its driver goes, it is pulled out of the machine.

use anyhow::ensure;
use vm_tests::lab::{POD_V4, SERVER_V4};
use vm_tests::services;
use vm_tests::translator::{Cable, Capture, FORWARDED_PORT};

use crate::room::{Room, STREAM_LIMIT, in_a_room};

const BYTES: u64 = 48 << 20;
const STOPS: u8 = 3;
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_net";

#[test]
fn network_comes_back_after_a_suspension_a_new_driver_and_a_new_nic() {
    in_a_room(Cable::VhostUser, Capture::Nothing, |room| {
        room.guest("dhcp")?;
        room.guest("mkdir -p /tmp/www; echo hello from the guest >/tmp/www/index.html")?;
        room.guest(&format!("httpd -p {FORWARDED_PORT} -h /tmp/www"))?;
        room.step("a download over several suspensions", |room| {
            room.start("long", &format!("wget -q -O - http://{SERVER_V4}/stream/{BYTES} | md5sum"))?;
            for _ in 0..STOPS {
                room.vm.suspend()?;
                // The outside goes on asking meanwhile.
                ensure!(
                    services::get(room.lab.world(), (SERVER_V4, 80).into(), "/").is_ok(),
                    "no page outside"
                );
                room.vm.resume()?;
                room.expect_page(&format!("http://{SERVER_V4}/"))?;
            }
            let (status, sum) = room.ended("long", STREAM_LIMIT)?;
            let expected = services::md5(BYTES)?;
            ensure!(status == "0" && sum.starts_with(&expected), "status {status}, {sum}, not {expected}");
            room.expect_guest_page(POD_V4.into())
        })?;
        room.step("the driver let go of the NIC, and taken it again", |room| {
            room.guest(&format!("echo virtio0 >{DRIVER}/unbind"))?;
            room.guest("[ ! -e /sys/class/net/eth0 ]")?;
            room.guest(&format!("echo virtio0 >{DRIVER}/bind"))?;
            traffic(room)
        })?;
        room.step("the driver loaded again", |room| {
            room.guest("rmmod virtio_net && [ ! -e /sys/class/net/eth0 ]")?;
            room.guest("insmod /modules/virtio_net.ko")?;
            traffic(room)
        })?;
        room.step("the NIC pulled out, and another put in", |room| {
            room.vm.unplug_nic()?;
            room.guest_within("[ ! -e /sys/class/net/eth0 ]")?;
            let options = room.options.clone();
            room.vm.plug_nic(&options)?;
            room.guest_within("[ -e /sys/class/net/eth0 ]")?;
            traffic(room)
        })?;
        room.step("a reset of all that", |room| {
            room.vm.reset()?;
            room.guest("dhcp")?;
            room.expect_page(&format!("http://{SERVER_V4}/"))
        })
    });
}

/// A lease for a NIC that is new to the guest; then traffic both ways.
fn traffic(room: &mut Room<'_>) -> anyhow::Result<()> {
    room.guest("dhcp")?;
    room.expect_page(&format!("http://{SERVER_V4}/"))?;
    room.expect_guest_page(POD_V4.into())
}
