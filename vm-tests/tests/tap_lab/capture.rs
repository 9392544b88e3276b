//! A capture of a stream with segmentation offload, read as Wireshark reads it.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use rustix::process::Signal;
use vm_tests::lab::{Lab, Variant};

use crate::tap::{FREE_PORT, LIMIT, PORTS, Tap, Way};

/// Enough for the largest segments.
const BYTES: usize = 4 << 20;
/// Of the cable, and the Ethernet header in front.
const FRAME_MAX: usize = 1500 + 14;
const FILE_HEADER_LEN: usize = 24;
const RECORD_HEADER_LEN: usize = 16;
/// Nanoseconds, in the byte order of this machine.
const MAGIC: u32 = 0xa1b2_3c4d;

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes.get(at..at + 4).unwrap().try_into().unwrap())
}

fn length(bytes: &[u8], at: usize) -> usize {
    usize::try_from(word(bytes, at)).unwrap()
}

/// Time in seconds and nanoseconds, and bytes of every frame; the file must end with the last one.
fn frames(file: &[u8]) -> Vec<((u32, u32), &[u8])> {
    assert_eq!((word(file, 0), word(file, 20)), (MAGIC, 1), "magic and link type");
    assert_eq!(file.get(4..8).unwrap(), [2u16.to_ne_bytes(), 4u16.to_ne_bytes()].concat(), "version");
    let limit = length(file, 16);
    let mut frames = Vec::new();
    let mut at = FILE_HEADER_LEN;
    while at < file.len() {
        let (captured, original) = (length(file, at + 8), length(file, at + 12));
        assert_eq!(captured, original, "frame {}", frames.len());
        assert!((14..=limit).contains(&captured), "frame {} has {captured} bytes", frames.len());
        let start = at + RECORD_HEADER_LEN;
        let frame =
            file.get(start..start + captured).unwrap_or_else(|| panic!("frame {} is cut", frames.len()));
        frames.push(((word(file, at), word(file, at + 4)), frame));
        at = start + captured;
    }
    frames
}

/// Source and destination port of an IPv4 TCP frame whose total length is the frame's.
fn tcp_ports(frame: &[u8]) -> Option<(u16, u16)> {
    let short = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    let is_tcp = short(12)? == 0x0800 && *frame.get(23)? == 6;
    let transport = 14 + usize::from(frame.get(14)? & 0xf) * 4;
    is_tcp.then_some((short(transport)?, short(transport + 2)?))
}

fn exchange(mut from: TcpStream, mut to: TcpStream) {
    let writer = std::thread::spawn(move || {
        from.write_all(&vec![7; BYTES]).unwrap();
        from.shutdown(Shutdown::Write).unwrap();
        from
    });
    let mut received = Vec::new();
    to.read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), BYTES);
    writer.join().unwrap();
}

#[test]
fn capture_holds_every_frame_whole_and_in_order() {
    let lab = Lab::new(Variant::Ipv4Only).unwrap();
    let path = lab.directory().join("frames.pcap");
    let mut tap = Tap::start_in(lab, PORTS, PORTS, &[OsStr::new("--pcap"), path.as_os_str()]);
    let server = *tap.lab.servers().first().unwrap();
    let (guest, world) = tap.connection(Way::FromGuest, server);
    exchange(guest, world);
    let (guest, world) = tap.connection(Way::FromGuest, server);
    exchange(world, guest);
    tap.translator.signal(Signal::TERM).unwrap();
    tap.translator.wait(LIMIT).unwrap();
    assert!(tap.translator.log().contains("without limit"), "{}", tap.translator.log());

    let file = std::fs::read(&path).unwrap();
    let frames = frames(&file);
    assert!(frames.is_sorted_by_key(|(time, _)| *time), "time goes back");
    let largest = |ours: fn((u16, u16)) -> bool| {
        let of_way = frames.iter().filter(|(_, frame)| tcp_ports(frame).is_some_and(ours));
        of_way.map(|(_, frame)| frame.len()).max().unwrap_or(0)
    };
    let from_guest = largest(|(_, to)| to == FREE_PORT);
    let to_guest = largest(|(from, _)| from == FREE_PORT);
    assert!(from_guest > FRAME_MAX && to_guest > FRAME_MAX, "{from_guest} and {to_guest} bytes");
    assert!(file.len() > 2 * BYTES);
}
