//! A VM behind the translator: what its user would notice, over each kind of cable that QEMU has.
#![expect(clippy::tests_outside_test_module, reason = "a file of integration tests is a test module")]

mod room;
mod peer;
mod stories;
mod queues;
mod memory;
mod restarts;
mod hardware;
mod migration;

use vm_tests::translator::Cable;

/// The stories that every cable tells.
macro_rules! stories {
    ($module:ident, $cable:expr) => {
        mod $module {
            use super::*;

            #[test]
            fn guest_gets_the_pods_network_and_both_ends_reach_each_other() {
                stories::guest_gets_the_pods_network_and_both_ends_reach_each_other($cable);
            }

            #[test]
            fn streams_of_a_gibibyte_arrive_whole_in_both_directions() {
                stories::streams_of_a_gibibyte_arrive_whole_in_both_directions($cable);
            }

            #[test]
            fn network_comes_back_after_a_pulled_cable_a_new_translator_and_a_reboot() {
                stories::network_comes_back_after_a_pulled_cable_a_new_translator_and_a_reboot($cable);
            }
        }
    };
}

stories!(stream, Cable::Stream);
stories!(vhost_user, Cable::VhostUser);
