//! A VM behind the translator: what its user would notice, over each kind of cable that QEMU has.
#![expect(clippy::tests_outside_test_module, reason = "a file of integration tests is a test module")]

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use vm_tests::lab::{Lab, POD_V4, POD_V6, SERVER_V4, SERVER_V6, Variant, WORLD_LINK_V4};
use vm_tests::services::{self, DnsServer, HttpServer, NAME, PAGE, Sink};
use vm_tests::translator::{self, Cable, Capture, FORWARDED_PORT, Translator};
use vm_tests::vm::{Image, Netdev, Options, Vm};

/// For what answers at once, in an emulated guest on a busy machine.
const SOON: Duration = Duration::from_secs(20);
const STREAM_LIMIT: Duration = Duration::from_secs(120);
const STREAM_BYTES: u64 = 1 << 30;
const SUMMED_BYTES: u64 = 64 << 20;
const HTTP_PORT: u16 = 80;
const SINK_PORT: u16 = 9000;

/// The stories that every cable tells.
macro_rules! stories {
    ($module:ident, $cable:expr) => {
        mod $module {
            use super::*;

            #[test]
            fn guest_gets_the_pods_network_and_both_ends_reach_each_other() {
                super::guest_gets_the_pods_network_and_both_ends_reach_each_other($cable);
            }

            #[test]
            fn streams_of_a_gibibyte_arrive_whole_in_both_directions() {
                super::streams_of_a_gibibyte_arrive_whole_in_both_directions($cable);
            }

            #[test]
            fn network_comes_back_after_a_pulled_cable_a_new_translator_and_a_reboot() {
                super::network_comes_back_after_a_pulled_cable_a_new_translator_and_a_reboot($cable);
            }
        }
    };
}

stories!(stream, Cable::Stream);
stories!(vhost_user, Cable::VhostUser);

fn guest_gets_the_pods_network_and_both_ends_reach_each_other(cable: Cable) {
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

fn streams_of_a_gibibyte_arrive_whole_in_both_directions(cable: Cable) {
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

fn network_comes_back_after_a_pulled_cable_a_new_translator_and_a_reboot(cable: Cable) {
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

/// Runs `story` with a VM. Panics while the lab exists, so that its logs are kept.
#[expect(clippy::unwrap_used, reason = "a failed story is a failed test")]
fn in_a_room(cable: Cable, capture: Capture, story: impl FnOnce(&mut Room<'_>) -> Result<()>) {
    // An emulated VM wants every core: one at a time, or the limits above would have to be much longer.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);

    let lab = Lab::new(Variant::DualStack).unwrap();
    let mut room = Room::new(&lab, cable, capture).unwrap();
    story(&mut room).unwrap();
}

/// A VM, its translator, and an outside with servers. Fields end in this order.
struct Room<'lab> {
    vm: Vm,
    cable: Cable,
    /// Absent only while it is replaced: two cannot have one socket.
    translator: Option<Translator>,
    _dns: DnsServer,
    _http: HttpServer,
    lab: &'lab Lab,
}

impl<'lab> Room<'lab> {
    fn new(lab: &'lab Lab, cable: Cable, capture: Capture) -> Result<Self> {
        let dns = DnsServer::start(lab.world())?;
        let http = HttpServer::start(lab.world(), HTTP_PORT)?;
        let translator = Translator::start(lab, &translator::program()?, cable, capture)?;
        let options = Options::new(Netdev::of(cable, translator.socket()));
        let start = Instant::now();
        let vm = Vm::boot(lab.pod(), lab.directory(), &Image::build()?, &options)?;
        eprintln!("{:6.2} s  the guest's boot", start.elapsed().as_secs_f32());
        Ok(Self { vm, cable, translator: Some(translator), _dns: dns, _http: http, lab })
    }

    /// One named thing a user would notice, with its time.
    fn step<T>(&mut self, name: &str, check: impl FnOnce(&mut Self) -> Result<T>) -> Result<()> {
        let start = Instant::now();
        let result = check(self).with_context(|| format!("step: {name}"));
        eprintln!("{:6.2} s  {name}", start.elapsed().as_secs_f32());
        ensure!(
            self.translator.as_mut().is_some_and(|translator| !translator.has_ended()),
            "the translator ended during: {name}"
        );
        result.map(drop)
    }

    fn replace_translator(&mut self) -> Result<()> {
        self.translator = None;
        self.translator =
            Some(Translator::start(self.lab, &translator::program()?, self.cable, Capture::Frames)?);
        Ok(())
    }

    fn guest(&mut self, command: &str) -> Result<String> {
        self.vm.succeed(command, SOON)
    }

    fn guest_within(&mut self, command: &str) -> Result<String> {
        self.vm.succeed_within(command, SOON)
    }

    /// The guest sends its file, and the outside compares it with a stream of `bytes`.
    fn send_stream(&mut self, bytes: u64) -> Result<()> {
        let sink = Sink::start(self.lab.world(), SINK_PORT)?;
        // nc itself would send by the kilobyte; cat hands the file to the kernel.
        let sender = self.vm.run(&format!("nc {SERVER_V4} {SINK_PORT} -e cat /tmp/stream"), STREAM_LIMIT)?;
        let received =
            sink.finish().with_context(|| format!("the sender in the guest ended with {sender}"))?;
        ensure!(received.bytes == bytes, "{} bytes arrived", received.bytes);
        Ok(())
    }

    fn expect_page(&mut self, address: &str) -> Result<()> {
        let page = self.guest(&format!("wget -q -O - {address}"))?;
        ensure!(page == PAGE, "{address} is {page:?}");
        Ok(())
    }

    fn expect_guest_page(&mut self, pod: IpAddr) -> Result<()> {
        let page = services::get(self.lab.world(), SocketAddr::new(pod, FORWARDED_PORT), "/")?;
        ensure!(page == "hello from the guest\n", "the guest's page is {page:?}");
        Ok(())
    }
}
