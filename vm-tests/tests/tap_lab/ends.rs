//! How the translator itself ends with its tap.

use vm_tests::lab::Variant;

use crate::tap::{LIMIT, Tap};

#[test]
fn deleting_the_tap_ends_the_translator() {
    let mut tap = Tap::start(Variant::DualStack);
    tap.lab.guest().ip("link delete tap0\n").unwrap();
    let status = tap.translator.wait(LIMIT).unwrap();
    assert!(status.success(), "{status}: {}", tap.translator.log());
    assert!(tap.translator.log().contains("the tap is gone"), "{}", tap.translator.log());
}
