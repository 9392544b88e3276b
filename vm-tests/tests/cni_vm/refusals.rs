//! QEMU is refused a tap that the plugin made for another user, or of another kind.

use serde_json::json;
use vm_tests::vm::{Image, Netdev, Vm};

use crate::machines::{USER, folder, nodes_turn, options};
use crate::stage::{Stage, TAP};

const ANOTHER_USER: u32 = 108;
const QUEUES: u16 = 2;

/// The key `multiQueue`, QEMU's queues, QEMU's user, and what the kernel says.
#[test]
fn qemu_is_refused_a_tap_of_another_user_or_of_another_kind() {
    let cases = [
        (false, 1, ANOTHER_USER, "Operation not permitted"),
        (false, QUEUES, USER, "Invalid argument"),
        (true, 1, USER, "Invalid argument"),
    ];
    let _turn = nodes_turn();
    let stage = Stage::new(1).unwrap();
    let image = Image::build().unwrap();
    for (number, (multi_queue, queues, user, expected)) in cases.into_iter().enumerate() {
        let config = stage.config("bridge", &json!({ "multiQueue": multi_queue }));
        stage.add(0, &config).unwrap();
        let mut options = options(user);
        options.netdev = Netdev::Tap { name: TAP.to_owned(), queues };
        let folder = folder(&stage, &number.to_string()).unwrap();
        let error = Vm::boot(stage.node.pod(0).unwrap(), &folder, &image, &options).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(TAP) && error.contains(expected), "{multi_queue}, {queues}, {user}: {error}");
        stage.delete(0, &config).unwrap();
    }
}
