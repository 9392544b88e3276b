//! What every cable does alike.

use anyhow::ensure;
use vm_tests::lab::{POD_V4, POD_V6, SERVER_V4, SERVER_V6, WORLD_LINK_V4};
use vm_tests::services::{self, NAME};
use vm_tests::translator::{Cable, Capture, FORWARDED_PORT};

use crate::room::{SOON, STREAM_LIMIT, in_a_room};

const STREAM_BYTES: u64 = 1 << 30;
const SUMMED_BYTES: u64 = 64 << 20;

pub(super) fn guest_gets_the_pods_network_and_both_ends_reach_each_other(cable: Cable) {
    in_a_room(cable, Capture::Frames, |room| {
        room.step("a lease with the pod's address, routes and DNS", |room| {
            room.guest("dhcp")?;
            let lease = room.guest("cat /run/lease")?;
            for (name, value) in
                [("ip", POD_V4.to_string()), ("mask", "24".to_owned()), ("dns", SERVER_V4.to_string())]
            {
                ensure!(
                    lease.lines().any(|line| line == format!("{name}={value}")),
                    "no {name}={value} in:\n{lease}"
                );
            }
            let routes = room.guest("ip route")?;
            ensure!(routes.contains(&format!("default via {WORLD_LINK_V4} dev eth0")), "routes:\n{routes}");
            ensure!(routes.contains("10.244.1.0/24 dev eth0"), "routes:\n{routes}");
            Ok(())
        })?;
        room.step("the pod's IPv6 address by DHCPv6, a route from router advertisements", |room| {
            room.guest("dhcp6")?;
            let lease = room.guest("cat /run/lease6")?;
            ensure!(lease.lines().any(|line| line == format!("ip={POD_V6}")), "{lease}");
            room.guest_within("ip -6 route | grep '^default via fe80:'")?;
            Ok(())
        })?;
        room.step("a name from the outside's server", |room| {
            let answer = room.guest(&format!("nslookup {NAME}"))?;
            let addresses = [SERVER_V4.to_string(), SERVER_V6.to_string()];
            ensure!(addresses.iter().all(|address| answer.contains(address)), "{answer}");
            Ok(())
        })?;
        room.step("a page from the outside, by name", |room| room.expect_page(&format!("http://{NAME}/")))?;
        room.step("a page from the outside, over IPv6", |room| {
            room.expect_page(&format!("http://[{SERVER_V6}]/"))
        })?;
        room.step("the guest's page, from the outside", |room| {
            room.guest("mkdir -p /tmp/www; echo hello from the guest >/tmp/www/index.html")?;
            room.guest(&format!("httpd -p {FORWARDED_PORT} -h /tmp/www"))?;
            room.expect_guest_page(POD_V4.into())
        })?;
        room.step("the guest's page, over IPv6", |room| room.expect_guest_page(POD_V6.into()))?;
        room.step("ping over IPv4", |room| room.guest(&format!("ping -c 3 {SERVER_V4}")))?;
        room.step("ping over IPv6", |room| room.guest(&format!("ping -6 -c 3 {SERVER_V6}")))
    });
}

pub(super) fn streams_of_a_gibibyte_arrive_whole_in_both_directions(cable: Cable) {
    in_a_room(cable, Capture::Nothing, |room| {
        room.guest("dhcp")?;
        // First what fits a checksum's time, so that a difference names its direction.
        room.step("64 MiB from the outside, summed in the guest", |room| {
            room.guest(&format!("wget -q -O /tmp/stream http://{SERVER_V4}/stream/{SUMMED_BYTES}"))?;
            let (sum, expected) = (room.guest("md5sum /tmp/stream")?, services::md5(SUMMED_BYTES)?);
            ensure!(sum.starts_with(&expected), "the guest has {sum}, and {expected} was sent");
            Ok(())
        })?;
        room.step("64 MiB to the outside", |room| room.send_stream(SUMMED_BYTES))?;
        // wget keeps the file where the sender below finds it; the length is HTTP's to check.
        room.step("1 GiB from the outside", |room| {
            let command = format!("wget -q -O /tmp/stream http://{SERVER_V4}/stream/{STREAM_BYTES}");
            room.vm.succeed(&command, STREAM_LIMIT)
        })?;
        // The guest sends what it got: the sink, which knows every byte, so judges both directions.
        room.step("1 GiB to the outside", |room| room.send_stream(STREAM_BYTES))
    });
}

pub(super) fn network_comes_back_after_a_pulled_cable_a_new_translator_and_a_reboot(cable: Cable) {
    in_a_room(cable, Capture::Frames, |room| {
        room.step("traffic", |room| {
            room.guest("dhcp")?;
            room.expect_page(&format!("http://{SERVER_V4}/"))
        })?;
        room.step("the cable pulled", |room| {
            room.vm.set_link(false)?;
            room.guest_within("grep 0 /sys/class/net/eth0/carrier")?;
            let page = room.vm.run(&format!("timeout 2 wget -q -O - http://{SERVER_V4}/"), SOON)?;
            ensure!(page.status != 0, "a page came through: {page}");
            Ok(())
        })?;
        room.step("the cable put back", |room| {
            room.vm.set_link(true)?;
            room.guest_within("grep 1 /sys/class/net/eth0/carrier")?;
            room.guest_within(&format!("timeout 2 wget -q -O - http://{SERVER_V4}/")).map(drop)
        })?;
        room.step("a new translator, to which QEMU connects again", |room| {
            room.guest("mkdir -p /tmp/www; echo hello from the guest >/tmp/www/index.html")?;
            room.guest(&format!("httpd -p {FORWARDED_PORT} -h /tmp/www"))?;
            room.replace_translator()
        })?;
        // First from the outside: the guest says nothing that it is not asked.
        room.step("the guest's page through the new translator", |room| {
            room.expect_guest_page(POD_V4.into())
        })?;
        room.step("a page from the outside through it", |room| {
            room.guest_within(&format!("timeout 2 wget -q -O - http://{SERVER_V4}/")).map(drop)
        })?;
        room.step("a reset", |room| room.vm.reset())?;
        room.step("traffic after the reset", |room| {
            room.guest("dhcp")?;
            room.expect_page(&format!("http://{SERVER_V4}/"))
        })?;
        room.step("the guest's page, from the outside", |room| {
            room.guest("mkdir -p /tmp/www; echo hello from the guest >/tmp/www/index.html")?;
            room.guest(&format!("httpd -p {FORWARDED_PORT} -h /tmp/www"))?;
            room.expect_guest_page(POD_V4.into())
        })
    });
}
