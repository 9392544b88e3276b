//! Entering and leaving namespaces, and settings inside them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use sluice_cni::namespace::{Namespace, NamespaceError};
use sluice_cni::netlink::{Kind, Netlink, NewLink};
use sluice_cni::sysctl::{self, SysctlError};

use crate::lab::{enter_new_namespace, other_namespace};

#[test]
fn work_is_done_inside_and_the_thread_comes_back() {
    enter_new_namespace();
    let home = Namespace::current().unwrap();
    let other = other_namespace();
    assert!(!other.same_as(&home).unwrap());
    let seen = other.run(|| Namespace::current().unwrap()).unwrap();
    assert!(seen.same_as(&other).unwrap());
    assert!(Namespace::current().unwrap().same_as(&home).unwrap());
}

#[test]
fn scratch_namespace_is_empty_and_the_thread_is_not_in_it() {
    enter_new_namespace();
    let home = Namespace::current().unwrap();
    let scratch = Namespace::scratch().unwrap();
    assert!(Namespace::current().unwrap().same_as(&home).unwrap());
    assert!(!scratch.same_as(&home).unwrap());
    let links = Netlink::within(&scratch).unwrap().links().unwrap();
    assert_eq!(links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["lo"]);
}

#[test]
fn work_that_panics_leaves_the_thread_where_it_was() {
    enter_new_namespace();
    let home = Namespace::current().unwrap();
    let other = other_namespace();
    let result = catch_unwind(AssertUnwindSafe(|| other.run(|| panic!("on purpose"))));
    assert!(result.is_err());
    assert!(Namespace::current().unwrap().same_as(&home).unwrap());
}

#[test]
fn what_is_no_network_namespace_is_refused() {
    let open = |path: &str| Namespace::open(Path::new(path)).unwrap_err();
    assert!(matches!(open("/proc/self/ns/none"), NamespaceError::NotFound(_)));
    assert!(matches!(open("/proc/4194305/ns/net"), NamespaceError::NotFound(_)));
    for path in ["/proc/self/ns/mnt", "/etc/passwd", "/", "/dev/null"] {
        assert!(matches!(open(path), NamespaceError::NotANamespace(_)), "{path}");
    }
}

#[test]
fn socket_stays_where_it_was_opened() {
    let here = enter_new_namespace();
    let other = other_namespace();
    let there = Netlink::within(&other).unwrap();
    there.create(&NewLink::new("ifb7", Kind::Ifb)).unwrap();
    assert!(there.link("ifb7").unwrap().is_some());
    assert!(here.link("ifb7").unwrap().is_none());
}

#[test]
fn settings_are_of_the_namespace_entered() {
    enter_new_namespace();
    let other = other_namespace();
    other
        .run(|| {
            sysctl::write("net/ipv4/ip_forward", "1").unwrap();
            assert_eq!(sysctl::read("net/ipv4/ip_forward").unwrap(), "1");
        })
        .unwrap();
    assert_eq!(sysctl::read("net/ipv4/ip_forward").unwrap(), "0");
}

#[test]
fn value_the_kernel_refuses_is_named_with_its_path() {
    enter_new_namespace();
    let error = sysctl::write("net/ipv4/conf/lo/proxy_arp", "many").unwrap_err();
    assert!(matches!(error, SysctlError::Write { .. }));
    assert_eq!(error.to_string(), "cannot write many to /proc/sys/net/ipv4/conf/lo/proxy_arp");
}

#[test]
fn setting_of_a_link_with_a_dot_in_its_name_is_found() {
    let netlink = enter_new_namespace();
    netlink.create(&NewLink::new("ifb.100", Kind::Ifb)).unwrap();
    sysctl::write("net/ipv4/conf/ifb.100/proxy_arp", "1").unwrap();
    assert_eq!(sysctl::read("net/ipv4/conf/ifb.100/proxy_arp").unwrap(), "1");
}
