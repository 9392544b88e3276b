//! Frames redirected between a tap and a veth, and token buckets.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZeroU64;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use sluice_cni::netlink::{Kind, Netlink, NewLink, NewTbf, Peer, Tbf};
use sluice_cni::tap::{self, NewTap};

use crate::lab::{enter_new_namespace, json, link, run, up};
use crate::taps::attach;

#[test]
fn ingress_is_added_once_and_removed_with_its_filters() {
    let netlink = enter_new_namespace();
    netlink.create(&NewLink::new("ifb7", Kind::Ifb)).unwrap();
    let index = link(&netlink, "ifb7").index;
    assert!(!netlink.has_ingress(index).unwrap());
    assert_eq!(netlink.redirects(index).unwrap(), [0; 0]);
    assert!(netlink.redirect_all(index, 1).is_err(), "nothing to hang it on");
    netlink.add_ingress(index).unwrap();
    assert!(netlink.add_ingress(index).unwrap_err().is_existing());
    assert!(netlink.has_ingress(index).unwrap());
    assert_eq!(json("tc -j qdisc show dev ifb7 ingress")[0]["kind"], "ingress");
    netlink.redirect_all(index, 1).unwrap();
    assert_eq!(netlink.redirects(index).unwrap(), [1]);
    assert!(netlink.delete_ingress(index).unwrap());
    assert!(!netlink.delete_ingress(index).unwrap());
    assert!(!netlink.delete_ingress(4000).unwrap());
    assert!(!netlink.has_ingress(index).unwrap());
    assert_eq!(netlink.redirects(index).unwrap(), [0; 0]);
}

#[test]
fn redirect_is_as_tc_makes_it() {
    let netlink = enter_new_namespace();
    for name in ["ifb7", "ifb8", "ifb9"] {
        netlink.create(&NewLink::new(name, Kind::Ifb)).unwrap();
    }
    let index = |name| link(&netlink, name).index;
    netlink.add_ingress(index("ifb7")).unwrap();
    netlink.redirect_all(index("ifb7"), index("ifb8")).unwrap();
    run("tc qdisc add dev ifb9 ingress");
    run(
        "tc filter add dev ifb9 ingress protocol all u32 match u8 0 0 action mirred egress redirect dev ifb8",
    );
    assert_eq!(netlink.redirects(index("ifb9")).unwrap(), [index("ifb8")]);
    let ours = json("tc -j filter show dev ifb7 ingress").to_string();
    let theirs = json("tc -j filter show dev ifb9 ingress").to_string();
    let unnumbered = |text: &str| {
        let mut text = text.to_owned();
        for number in 1..4 {
            text = text.replace(&format!("\"index\":{number}"), "\"index\":0");
        }
        text
    };
    assert_eq!(unnumbered(&ours), unnumbered(&theirs));
}

#[test]
fn last_redirect_is_asked_first_and_each_is_removed_alone() {
    let netlink = enter_new_namespace();
    for name in ["ifb6", "ifb7", "ifb8"] {
        netlink.create(&NewLink::new(name, Kind::Ifb)).unwrap();
    }
    let index = |name| link(&netlink, name).index;
    let (from, first, second) = (index("ifb6"), index("ifb7"), index("ifb8"));
    assert!(!netlink.delete_redirect(from, first).unwrap());
    netlink.add_ingress(from).unwrap();
    netlink.redirect_all(from, first).unwrap();
    netlink.redirect_all(from, second).unwrap();
    assert_eq!(netlink.redirects(from).unwrap(), [second, first]);
    assert!(netlink.delete_redirect(from, second).unwrap());
    assert!(!netlink.delete_redirect(from, second).unwrap());
    assert_eq!(netlink.redirects(from).unwrap(), [first]);
}

#[test]
fn clsact_of_another_program_serves_and_stays() {
    let netlink = enter_new_namespace();
    netlink.create(&NewLink::new("ifb7", Kind::Ifb)).unwrap();
    run("tc qdisc add dev ifb7 clsact");
    run(
        "tc filter add dev ifb7 ingress protocol ip prio 7 u32 match u8 0 0 action mirred egress mirror dev ifb7",
    );
    let index = link(&netlink, "ifb7").index;
    assert!(netlink.has_ingress(index).unwrap());
    assert!(netlink.add_ingress(index).unwrap_err().is_existing());
    netlink.redirect_all(index, 1).unwrap();
    assert_eq!(netlink.redirects(index).unwrap(), [1]);
    assert!(netlink.delete_redirect(index, 1).unwrap());
    assert_eq!(netlink.redirects(index).unwrap(), [0; 0]);
    assert!(!netlink.delete_ingress(index).unwrap());
    assert_eq!(json("tc -j qdisc show dev ifb7 clsact")[0]["kind"], "clsact");
    assert_eq!(json("tc -j filter show dev ifb7 ingress")[0]["pref"], 7);
}

#[test]
fn filter_that_chooses_is_no_redirect_of_all() {
    let netlink = enter_new_namespace();
    for name in ["ifb7", "ifb8"] {
        netlink.create(&NewLink::new(name, Kind::Ifb)).unwrap();
    }
    run("tc qdisc add dev ifb7 ingress");
    let filter = "tc filter add dev ifb7 parent ffff:";
    run(&format!("{filter} protocol ip u32 match u8 0 0 action mirred egress redirect dev ifb8"));
    run(&format!("{filter} protocol all u32 match u8 1 0xff at 0 action mirred egress redirect dev ifb8"));
    run(&format!("{filter} protocol all u32 match u8 0 0 action mirred egress mirror dev ifb8"));
    run(&format!("{filter} protocol all u32 match u8 0 0 action mirred ingress redirect dev ifb8"));
    let (from, to) = (link(&netlink, "ifb7").index, link(&netlink, "ifb8").index);
    assert_eq!(netlink.redirects(from).unwrap(), [0; 0]);
    assert!(!netlink.delete_redirect(from, to).unwrap());
    // As other programs write it, with the discipline's handle for a place.
    run(&format!("{filter} protocol all u32 match u8 0 0 action mirred egress redirect dev ifb8"));
    assert_eq!(netlink.redirects(from).unwrap(), [to]);
    assert!(netlink.delete_redirect(from, to).unwrap());
    assert_eq!(netlink.redirects(from).unwrap(), [0; 0]);
}

#[test]
fn frames_of_every_protocol_cross_between_tap_and_veth() {
    let netlink = enter_new_namespace();
    let peer = Peer::new("far", None);
    let mut new = NewLink::new("eth0", Kind::Veth { peer });
    new.up = true;
    netlink.create(&new).unwrap();
    tap::create(&NewTap {
        name: "tap0".to_owned(),
        owner: None,
        group: None,
        multi_queue: false,
        vnet_hdr: true,
    })
    .unwrap();
    let (nic, tap) = (link(&netlink, "eth0").index, link(&netlink, "tap0").index);
    up(&netlink, "far");
    up(&netlink, "tap0");
    for (from, to) in [(nic, tap), (tap, nic)] {
        netlink.add_ingress(from).unwrap();
        netlink.redirect_all(from, to).unwrap();
    }
    let guest = attach("tap0", libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR).unwrap();
    let far = packet_socket(&netlink, "far");
    // ARP, IPv4, IPv6, LLDP, an 802.1Q tag, and one that nobody knows.
    for protocol in [0x0806_u16, 0x0800, 0x86dd, 0x88cc, 0x8100, 0x88b5] {
        let frame = frame(protocol);
        let with_header: Vec<u8> = [[0; 10].as_slice(), &frame].concat();
        let (mut writer, mut reader): (&File, &File) = (&guest, &guest);
        let crossing = Crossing { what: "from the tap", protocol, to: far.as_fd() };
        crossing.wait(
            || writer.write_all(&with_header).unwrap(),
            |buffer| recv(&far, buffer, RecvFlags::empty()).unwrap().1,
        );
        let crossing = Crossing { what: "to the tap", protocol, to: guest.as_fd() };
        crossing.wait(
            || assert_eq!(send(&far, &frame, SendFlags::empty()).unwrap(), frame.len()),
            |buffer| reader.read(buffer).unwrap(),
        );
    }
}

/// Longer than the shortest, and unlike what the kernel sends by itself.
fn frame(protocol: u16) -> Vec<u8> {
    let mut frame = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1];
    frame.extend(protocol.to_be_bytes());
    frame.extend([filler(protocol); FILLER + 6]);
    frame
}

/// A frame's way from one end to the other.
struct Crossing<'a> {
    what: &'a str,
    protocol: u16,
    to: BorrowedFd<'a>,
}

impl Crossing<'_> {
    /// Sends a frame until it arrives, passing over the kernel's own: for a moment after its carrier appears, a link
    /// has no queue yet, and loses what is sent.
    fn wait(&self, mut send: impl FnMut(), mut receive: impl FnMut(&mut [u8]) -> usize) {
        let mut buffer = [0; 2048];
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            send();
            let wait = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            while poll(&mut [PollFd::new(&self.to, PollFlags::IN)], Some(&wait)).unwrap() > 0 {
                let length = receive(&mut buffer);
                // Neither the virtio header nor an 802.1Q tag, which a packet socket does not see, is compared.
                if length >= FILLER && buffer[..length].ends_with(&[filler(self.protocol); FILLER]) {
                    return;
                }
            }
        }
        panic!("no frame of protocol {:#06x} {}", self.protocol, self.what);
    }
}

/// Different for each protocol, so that a frame sent twice is not taken for the next.
fn filler(protocol: u16) -> u8 {
    0xa0 | u8::try_from(protocol % 13).unwrap()
}

const FILLER: usize = 80;

fn packet_socket(netlink: &Netlink, name: &str) -> OwnedFd {
    use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

    let every = Protocol::from_raw(u32::from(3_u16.to_be()).try_into().unwrap());
    let socket =
        socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, Some(every)).unwrap();
    bind(&socket, link(netlink, name).index);
    socket
}

fn bind(socket: &OwnedFd, index: u32) {
    use std::mem::size_of;
    use std::os::fd::AsRawFd as _;

    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap(),
        sll_protocol: 3_u16.to_be(),
        sll_ifindex: i32::try_from(index).unwrap(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
    #[expect(unsafe_code, reason = "rustix has no packet sockets")]
    // SAFETY: the address is a whole sockaddr_ll, and `length` is its size.
    let result = unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn token_bucket_reads_back() {
    let netlink = enter_new_namespace();
    netlink.create(&NewLink::new("ifb7", Kind::Ifb)).unwrap();
    let index = link(&netlink, "ifb7").index;
    assert_eq!(netlink.tbf(index).unwrap(), None);
    // Bytes per second: 1 Mbit/s, 1 Gbit/s, 100 Gbit/s, which needs more than 32 bits.
    for (rate, burst) in [(125_000, 64 * 1024), (125_000_000, 1 << 20), (12_500_000_000, 16 << 20)] {
        let latency = Duration::from_millis(25);
        netlink.set_tbf(index, NewTbf { rate: NonZeroU64::new(rate).unwrap(), burst, latency }).unwrap();
        let Tbf { rate: read_rate, burst: read_burst, limit } = netlink.tbf(index).unwrap().unwrap();
        assert_eq!(read_rate, rate);
        assert!(read_burst.abs_diff(burst.into()) <= 1 + rate / 1_000_000 / 15, "{read_burst} for {burst}");
        assert_eq!(u64::from(limit), rate / 40 + u64::from(burst));
        let seen = json("tc -j qdisc show dev ifb7 root");
        assert_eq!((&seen[0]["kind"], seen[0]["options"]["rate"].as_u64()), (&"tbf".into(), Some(rate)));
        let seen_burst = seen[0]["options"]["burst"].as_u64().unwrap();
        // It counts in whole microseconds.
        assert!(seen_burst.abs_diff(burst.into()) <= 2 + rate / 1_000_000, "{seen_burst} for {burst}");
    }
    assert!(netlink.delete_root(index).unwrap());
    assert!(!netlink.delete_root(index).unwrap());
    assert!(!netlink.delete_root(4000).unwrap());
    assert_eq!(netlink.tbf(index).unwrap(), None);
}
