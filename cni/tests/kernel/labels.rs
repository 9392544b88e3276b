//! The child that makes a tap for its parent, which gives it a label where the kernel has labels.

use std::process::{Command, Output};

use sluice_cni::netlink::{Details, Tun};

use crate::lab::{enter_new_namespace, link};

/// In the namespace of the thread, as the parent starts it but for the label.
fn child(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice-cni")).args(arguments.split(' ')).env_clear().output().unwrap()
}

#[test]
fn child_makes_the_tap_in_its_parents_namespace() {
    let netlink = enter_new_namespace();
    let output = child("make-labelled-tap tap0 107 - false true");
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let Details::Tun(tap) = link(&netlink, "tap0").details else { panic!("no tap") };
    let wanted = Tun {
        tap: true,
        owner: Some(107),
        group: None,
        multi_queue: false,
        persistent: true,
        vnet_hdr: true,
        packet_information: false,
    };
    assert_eq!(tap, wanted);
}

#[test]
fn child_says_what_went_wrong() {
    enter_new_namespace();
    assert!(child("make-labelled-tap tap0 - - false true").status.success());
    assert_eq!(child("make-labelled-tap tap0 - - false true").status.code(), Some(17), "a taken name");
    let output = child("make-labelled-tap a/b - - false true");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is no name for a tap"), "{output:?}");
    let output = child("make-labelled-tap tap1");
    assert!(!output.status.success(), "{output:?}");
}
