//! The used ring and the two wishes beside it, byte for byte what virtio-queue writes.

use proptest::collection::vec;
use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::guest_memory::FileOffset;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::super::memory::Memory;
use super::super::ring::Ring;
use super::{GUEST, Layout, Ram, memory, region};

const SIZE: u16 = 8;
const LEN: u64 = 0x4000;

#[derive(Clone, Debug)]
enum Step {
    /// Gives these chains back and makes them visible together.
    GiveBack(Vec<(u16, u32)>),
    /// Asks whether to interrupt, where the driver's event index is this far from the used index and its flag is so.
    Interrupt {
        event: i16,
        off: bool,
    },
    /// Asks for kicks where this many chains wait.
    AskForKicks {
        waiting: u16,
    },
    DoWithoutKicks,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => vec((0..SIZE, any::<u32>()), 1..=usize::from(SIZE)).prop_map(Step::GiveBack),
        3 => (-12i16..12, any::<bool>()).prop_map(|(event, off)| Step::Interrupt { event, off }),
        1 => (0..=SIZE).prop_map(|waiting| Step::AskForKicks { waiting }),
        1 => Just(Step::DoWithoutKicks),
    ]
}

/// Two rings of the same history.
struct Both {
    rams: [Ram; 2],
    layout: Layout,
    memory: Memory,
    ring: Ring,
    theirs: GuestMemoryMmap,
    queue: Queue,
    event_idx: bool,
    /// The used index when we asked whether to interrupt last.
    asked: Option<u16>,
}

impl Both {
    fn new(event_idx: bool, base: u16, used: u16) -> Self {
        let rams = [Ram::new(LEN), Ram::new(LEN)];
        let layout = Layout::at(0, SIZE);
        for ram in &rams {
            ram.set_half(layout.used + 2, used);
            layout.set_available(ram, base);
        }
        let memory = memory(&rams[0], &[region(GUEST, 0, LEN)]);
        let file = Some(FileOffset::new(rams[1].0.try_clone().unwrap(), 0));
        let theirs = GuestMemoryMmap::from_ranges_with_files([(GuestAddress(GUEST), 0x4000, file)]).unwrap();
        let mut queue = Queue::new(SIZE).unwrap();
        queue.try_set_desc_table_address(GuestAddress(GUEST + layout.descriptors)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(GUEST + layout.available)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(GUEST + layout.used)).unwrap();
        queue.set_event_idx(event_idx);
        queue.set_next_avail(base);
        queue.set_next_used(used);
        queue.set_ready(true);
        let ring = layout.ring(&memory, base, event_idx, false);
        Self { rams, layout, memory, ring, theirs, queue, event_idx, asked: None }
    }

    fn each(&self, write: impl Fn(&Ram)) {
        self.rams.iter().for_each(write);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::GiveBack(chains) => {
                let before = self.layout.used_index(&self.rams[0]);
                for (head, written) in chains {
                    self.ring.give_back(&self.memory, *head, *written);
                    // virtio-queue shows each chain at once; ours must not be seen alone.
                    self.queue.add_used(&self.theirs, *head, *written).unwrap();
                    assert_eq!(self.layout.used_index(&self.rams[0]), before);
                }
                self.ring.publish(&self.memory);
                assert_eq!(self.ring.published(), self.queue.next_used());
            }
            Step::Interrupt { event, off } => {
                let used = self.ring.published();
                self.each(|ram| {
                    self.layout.set_interrupts_off(ram, *off);
                    self.layout.set_used_event(ram, used.wrapping_add_signed(*event));
                });
                self.interrupt(used, *off);
            }
            Step::AskForKicks { waiting } => {
                let index = self.ring.base().wrapping_add(*waiting);
                self.each(|ram| self.layout.set_available(ram, index));
                let more = self.ring.ask_for_kicks(&self.memory);
                assert_eq!(more, Ok(self.queue.enable_notification(&self.theirs).unwrap()));
            }
            Step::DoWithoutKicks => {
                self.ring.do_without_kicks(&self.memory);
                self.queue.disable_notification(&self.theirs).unwrap();
            }
        }
        let [ours, theirs] = &self.rams;
        let len = 6 + 8 * usize::from(SIZE);
        assert_eq!(ours.read(self.layout.used, len), theirs.read(self.layout.used, len), "{step:?}");
    }

    fn interrupt(&mut self, used: u16, off: bool) {
        let ours = self.ring.wants_interrupt();
        let theirs = self.queue.needs_notification(&self.theirs).unwrap();
        match self.asked.replace(used) {
            // virtio-queue has no memory of whether it asked, and says yes without an event index.
            Some(before) if before == used => assert!(!ours, "an interrupt for nothing"),
            // virtio-queue does not know NO_INTERRUPT (virtio 1.2 section 2.7.7); it means nothing with an event index.
            _ if !self.event_idx => assert_eq!(ours, !off),
            // What the driver was told before the ring started is not known, so it is told again.
            None => assert!(ours),
            // More than a ring of them: the distance would soon mean nothing, so the driver is told in any case.
            Some(before) if used.wrapping_sub(before) > SIZE => assert!(ours),
            Some(_) => assert_eq!(ours, theirs),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_used_ring_is_what_virtio_queue_writes(
        event_idx in any::<bool>(),
        base in prop_oneof![any::<u16>(), 65_500..=u16::MAX],
        used in prop_oneof![any::<u16>(), 65_500..=u16::MAX],
        steps in vec(step(), 1..40),
    ) {
        let mut both = Both::new(event_idx, base, used);
        for step in &steps {
            both.step(step);
        }
    }
}

#[test]
fn indices_wrap_at_65536_with_nothing_lost() {
    for event_idx in [false, true] {
        let mut both = Both::new(event_idx, u16::MAX, u16::MAX - 1);
        for head in 0..SIZE {
            both.step(&Step::GiveBack(vec![(head, 7)]));
            both.step(&Step::Interrupt { event: -1, off: false });
            both.step(&Step::AskForKicks { waiting: 1 });
        }
        assert_eq!(both.layout.used_index(&both.rams[0]), 6);
        assert_eq!(both.layout.used(&both.rams[0], 5), (7, 7));
        let layout = both.layout;
        layout.offer(&both.rams[0], u16::MAX, 3);
        layout.offer(&both.rams[0], 0, 5);
        layout.set_available(&both.rams[0], 1);
        let mut ring = layout.ring(&both.memory, u16::MAX, event_idx, false);
        assert_eq!([ring.take(), ring.take(), ring.take()], [Ok(Some(3)), Ok(Some(5)), Ok(None)]);
        assert_eq!(ring.base(), 1);
        ring.untake(2);
        assert_eq!(ring.base(), u16::MAX);
    }
}

#[test]
fn lengths_of_rings_are_powers_of_two_up_to_32768() {
    for size in [0, 1, 3, 255, 65_535, 65_536, u32::MAX] {
        assert!(!Ring::default().set_size(size), "{size}");
    }
    for size in [2, 4, 256, 32_768] {
        assert!(Ring::default().set_size(size), "{size}");
    }
}

#[test]
fn a_ring_that_is_not_there_gives_and_takes_nothing() {
    let memory = Memory::default();
    let mut ring = Ring::default();
    assert!(ring.set_size(8));
    assert!(!ring.place(&memory, &Layout::at(0, 8).addresses()));
    assert_eq!((ring.take(), ring.waiting(), ring.ask_for_kicks(&memory)), (Ok(None), Ok(0), Ok(false)));
    ring.give_back(&memory, 1, 1);
    ring.publish(&memory);
    ring.do_without_kicks(&memory);
    assert!(!ring.wants_interrupt());
    assert_eq!(ring.published(), 0);
}
