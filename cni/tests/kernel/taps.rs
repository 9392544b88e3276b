//! Taps made, and opened as a VMM opens them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;

use serde_json::json;
use sluice_cni::netlink::{Details, Kind, Netlink, NewLink, Tun};
use sluice_cni::tap::{self, NewTap, TapError};

use crate::lab::{enter_new_namespace, ip_link, link, other_namespace};

fn plain(name: &str) -> NewTap {
    NewTap { name: name.to_owned(), owner: None, group: None, multi_queue: false, vnet_hdr: true }
}

/// Attaches a queue to a tap that exists.
pub(crate) fn attach(name: &str, flags: i32) -> io::Result<File> {
    attach_to(OpenOptions::new().read(true).write(true).open("/dev/net/tun")?, name, flags)
}

fn attach_to(device: File, name: &str, flags: i32) -> io::Result<File> {
    let flags = libc::c_short::try_from(flags).unwrap();
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let mut request = libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    #[expect(unsafe_code, reason = "a tap is opened by ioctl only")]
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    let result =
        unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, std::ptr::from_mut(&mut request)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(device) }
}

const PLAIN: i32 = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

#[test]
fn tap_reads_back_as_it_was_made() {
    let netlink = enter_new_namespace();
    let rows = [
        plain("tap0"),
        NewTap { owner: Some(107), group: Some(107), ..plain("tap0") },
        NewTap { multi_queue: true, owner: Some(0), ..plain("tap0") },
        NewTap { vnet_hdr: false, group: Some(5), ..plain("tap-of-15-bytes") },
    ];
    for new in rows {
        tap::create(&new).unwrap();
        let read = link(&netlink, &new.name);
        let wanted = Tun {
            tap: true,
            owner: new.owner,
            group: new.group,
            multi_queue: new.multi_queue,
            persistent: true,
            vnet_hdr: new.vnet_hdr,
            packet_information: false,
        };
        assert_eq!(read.details, Details::Tun(wanted), "{new:?}");
        assert_eq!((read.up, read.mtu, read.kind.as_deref()), (false, 1500, Some("tun")));
        let seen = &ip_link(&new.name)["linkinfo"]["info_data"];
        assert_eq!((&seen["type"], &seen["persist"]), (&json!("tap"), &json!(true)));
        assert_eq!(
            (&seen["vnet_hdr"], &seen["multi_queue"]),
            (&json!(new.vnet_hdr), &json!(new.multi_queue))
        );
        assert_eq!(seen["pi"], json!(false));
        assert!(netlink.delete(&new.name).unwrap());
    }
}

#[test]
fn tap_is_in_the_namespace_entered() {
    let here = enter_new_namespace();
    let pod = other_namespace();
    pod.run(|| tap::create(&plain("tap0"))).unwrap().unwrap();
    assert!(here.link("tap0").unwrap().is_none());
    assert!(Netlink::within(&pod).unwrap().link("tap0").unwrap().is_some());
}

#[test]
fn name_of_any_link_is_refused_and_the_link_is_left_alone() {
    let netlink = enter_new_namespace();
    netlink.create(&NewLink::new("ifb7", Kind::Ifb)).unwrap();
    tap::create(&plain("tap0")).unwrap();
    let before = netlink.links().unwrap();
    for name in ["ifb7", "tap0", "lo"] {
        let error = tap::create(&NewTap { owner: Some(107), ..plain(name) }).unwrap_err();
        assert!(matches!(error, TapError::Exists(_)), "{error}");
        assert_eq!(error.to_string(), format!("there is an interface {name} already"));
    }
    assert_eq!(netlink.links().unwrap(), before);
}

#[test]
fn second_queue_needs_multi_queue() {
    let _netlink = enter_new_namespace();
    tap::create(&plain("tap0")).unwrap();
    tap::create(&NewTap { multi_queue: true, ..plain("tap1") }).unwrap();
    let first = attach("tap0", PLAIN).unwrap();
    assert_eq!(attach("tap0", PLAIN).unwrap_err().raw_os_error(), Some(libc::EBUSY));
    drop(first);
    let several = PLAIN | libc::IFF_MULTI_QUEUE;
    let queues: Vec<_> = (0..4).map(|_| attach("tap1", several).unwrap()).collect();
    assert_eq!(queues.len(), 4);
    assert_eq!(attach("tap1", PLAIN).unwrap_err().raw_os_error(), Some(libc::EINVAL));
}

/// As QEMU in KubeVirt: user and group 107, no capability.
#[test]
fn owner_opens_the_tap_without_capabilities_and_others_do_not() {
    let _netlink = enter_new_namespace();
    tap::create(&NewTap { owner: Some(107), group: Some(107), ..plain("tap0") }).unwrap();
    for (id, wanted) in [(107, None), (108, Some(libc::EPERM))] {
        let result = std::thread::scope(|scope| scope.spawn(|| attach_as(id)).join().unwrap());
        assert_eq!(result.err().and_then(|error| error.raw_os_error()), wanted, "as {id}");
    }
}

/// On a thread of its own, which inherits the namespace and ends as that user.
fn attach_as(id: u32) -> io::Result<()> {
    // Before: who may open the device itself is the node's matter, not the tap's.
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    become_user(id);
    attach_to(device, "tap0", PLAIN).map(drop)
}

/// The C library would change all threads.
fn become_user(id: u32) {
    let call = |number, arguments: [u32; 3]| {
        #[expect(unsafe_code, reason = "to change one thread's user only")]
        // SAFETY: setgroups is given no array, the others take numbers.
        let result = unsafe { libc::syscall(number, arguments[0], arguments[1], arguments[2]) };
        assert_eq!(result, 0, "becoming another user needs real root: {}", io::Error::last_os_error());
    };
    call(libc::SYS_setgroups, [0; 3]);
    call(libc::SYS_setresgid, [id; 3]);
    call(libc::SYS_setresuid, [id; 3]);
}
