//! Who pays for a guest's memory, without the sidecar: what its test of a container with a limit of 64 MB rests on.
//!
//! Shared memory is charged to the control group of who touches a page first, for as long as the page exists. A guest
//! that does not clear its buffers leaves that to the packet that arrives in them, and so to the translator.
#![expect(clippy::tests_outside_test_module, reason = "a file of integration tests is a test module")]

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use vm_tests::hoard;
use vm_tests::lab::{Lab, MemoryGroup, Variant};
use vm_tests::services::HttpServer;
use vm_tests::translator::{self, Cable, Translator};
use vm_tests::vm::{FirstTouch, Image, Netdev, Options, Vm};

/// What KubeVirt gives a sidecar of a VM with dedicated CPUs (`64M`).
const LIMIT: u64 = 64_000_000;
const HTTP_PORT: u16 = 80;

/// For what takes seconds in an emulated guest on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a round may take before another is begun: one without a translator never ends.
const ROUND_LIMIT: Duration = Duration::from_secs(4);

#[test]
fn translator_dies_of_a_guest_whose_memory_it_touches_first() {
    story(FirstTouch::Whoever, false, |group| Ok(group.killed()? > 0));
}

/// What was touched does not stay so where the guest tells which pages it does not use. How many of them it tells of, and
/// how soon it uses them again, is its affair: some translators die of it, some just do not.
#[test]
fn translator_is_charged_for_pages_that_qemu_touched_first_and_the_guest_gave_back() {
    story(FirstTouch::Qemu, true, |group| Ok(group.shared()? > LIMIT / 4));
}

/// The guest receives until `is_enough`; then much of its memory is charged to the translator.
#[expect(clippy::unwrap_used, reason = "a failed story is a failed test")]
fn story(
    first_touch: FirstTouch,
    free_page_reporting: bool,
    is_enough: impl Fn(&MemoryGroup) -> Result<bool>,
) {
    // An emulated VM wants every core.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);

    let lab = Lab::new(Variant::DualStack).unwrap();
    // While the lab exists, so that its logs are kept.
    receive(&lab, first_touch, free_page_reporting, is_enough).unwrap();
}

fn receive(
    lab: &Lab,
    first_touch: FirstTouch,
    free_page_reporting: bool,
    is_enough: impl Fn(&MemoryGroup) -> Result<bool>,
) -> Result<()> {
    let _http = HttpServer::start(lab.world(), HTTP_PORT)?;
    let group = MemoryGroup::new(lab, LIMIT)?;
    let translator = Translator::start_limited(lab, &translator::program()?, Cable::VhostUser, &group)?;
    let options = Options {
        memory_mib: hoard::MEMORY_MIB,
        first_touch,
        free_page_reporting,
        kernel_arguments: hoard::KERNEL_ARGUMENTS,
        ..Options::new(Netdev::of(Cable::VhostUser, translator.socket()))
    };
    let mut vm = Vm::boot(lab.pod(), lab.directory(), &Image::build()?, &options)?;
    vm.succeed("dhcp", PATIENCE)?;
    let deadline = Instant::now() + PATIENCE;
    while !is_enough(&group)? {
        let charged = group.shared()?;
        ensure!(Instant::now() < deadline, "alive, with {charged} bytes of the guest's memory");
        vm.run(&hoard::round(HTTP_PORT), ROUND_LIMIT)?;
    }
    // Where it died, its pages outlive it: one started in its place would die at once.
    let charged = group.shared()?;
    ensure!(charged > LIMIT / 4, "only {charged} bytes of the guest's memory are charged to the translator");
    Ok(())
}
