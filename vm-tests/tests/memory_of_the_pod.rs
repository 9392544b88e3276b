//! Who pays for a guest's memory: a container with a limit of 64 MB, in which a translator runs whose guest has more
//! than that and receives more than it has.
//!
//! Shared memory is charged to the control group of who touches a page first, for as long as the page exists. A guest
//! that does not clear its buffers leaves that to the packet that arrives in them.
#![expect(clippy::tests_outside_test_module, reason = "a file of integration tests is a test module")]

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vm_tests::lab::{Lab, MemoryGroup, SERVER_V4, Variant};
use vm_tests::services::HttpServer;
use vm_tests::translator::{self, Cable, Translator};
use vm_tests::vm::{FirstTouch, Image, Netdev, Options, Vm};

/// What KubeVirt gives a sidecar of a VM with dedicated CPUs (`64M`).
const LIMIT: u64 = 64_000_000;
const HTTP_PORT: u16 = 80;

/// For what takes seconds in an emulated guest on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The guest's, MiB; a fifth of it is its kernel's and its programs'.
const MEMORY_MIB: u32 = 384;
/// What arrives in each round, and lies in the guest's queues until it ends: bytes of a stream, and streams.
const STREAM: u32 = 6_000_000;
const STREAMS: u32 = 20;
/// After which more has arrived than the guest has.
const ROUNDS: u32 = 4;

#[test]
fn limit_is_not_touched_by_a_guest_whose_memory_qemu_has_touched_first() {
    in_a_container(FirstTouch::Qemu, |container| {
        for round in 0..ROUNDS {
            container.receive().with_context(|| format!("round {round}"))?;
        }
        let group = &container.group;
        ensure!(group.killed()? == 0, "the kernel killed something");
        let charged = group.shared()?;
        ensure!(charged < LIMIT / 16, "{charged} bytes of the guest's memory are charged to the translator");
        ensure!(!container.translator.has_ended(), "the translator ended");
        Ok(())
    });
}

/// What the above is measured with, measured: it sees a guest that comes at the translator's expense.
#[test]
fn translator_dies_of_a_guest_whose_memory_it_touches_first() {
    in_a_container(FirstTouch::Whoever, |container| {
        let survived = (0..ROUNDS).take_while(|_| container.receive().is_ok()).count();
        let (killed, charged) = (container.group.killed()?, container.group.shared()?);
        ensure!(killed > 0, "alive after {survived} rounds, with {charged} bytes of the guest's memory");
        Ok(())
    });
}

struct Container {
    vm: Vm,
    translator: Translator,
    group: MemoryGroup,
}

impl Container {
    /// Lets streams arrive that the guest's programs do not read until all of each is there.
    fn receive(&mut self) -> Result<()> {
        let bytes = u64::from(STREAM) * u64::from(STREAMS);
        // All that the kernel of the guest has in queues, in pages of 4 KiB.
        let full = bytes / 4096;
        let ask = format!("printf 'GET /stream/{STREAM} HTTP/1.0\\r\\n\\r\\n' | nc {SERVER_V4} {HTTP_PORT}");
        self.vm.succeed(
            &format!(
                "for stream in $(seq {STREAMS}); do {ask} | sleep 1000 & done
                 for try in $(seq 200); do
                     [ $(sed -n 's/^TCP:.* mem //p' /proc/net/sockstat) -ge {full} ] && break
                     [ $try -lt 200 ] || exit 1
                     usleep 100000
                 done
                 killall nc sleep"
            ),
            PATIENCE,
        )?;
        Ok(())
    }
}

/// Runs `story` in a lab where the translator's container has the limit. Panics while the lab exists, so that its logs
/// are kept.
#[expect(clippy::unwrap_used, reason = "a failed story is a failed test")]
fn in_a_container(first_touch: FirstTouch, story: impl FnOnce(&mut Container) -> Result<()>) {
    // An emulated VM wants every core.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);

    let lab = Lab::new(Variant::DualStack).unwrap();
    let _http = HttpServer::start(lab.world(), HTTP_PORT).unwrap();
    let mut container = start(&lab, first_touch).unwrap();
    story(&mut container).unwrap();
}

fn start(lab: &Lab, first_touch: FirstTouch) -> Result<Container> {
    let group = MemoryGroup::new(lab.pod().name(), LIMIT)?;
    let translator = Translator::start_limited(lab, &translator::program()?, Cable::VhostUser, &group)?;
    let options = Options {
        memory_mib: MEMORY_MIB,
        first_touch,
        // Debian's kernel clears pages before it uses them, which touches them; others, and other systems, do not.
        kernel_arguments: "init_on_alloc=0",
        ..Options::new(Netdev::of(Cable::VhostUser, translator.socket()))
    };
    let mut vm = Vm::boot(lab.pod(), lab.directory(), &Image::build()?, &options)?;
    // Room for a stream in each queue, and for all of them.
    vm.succeed(
        "dhcp && cd /proc/sys/net/ipv4 && echo 4096 33554432 33554432 >tcp_rmem && echo 70000 80000 90000 >tcp_mem",
        PATIENCE,
    )?;
    Ok(Container { vm, translator, group })
}
