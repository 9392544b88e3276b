//! Whatever a guest sends, the machine keeps its promises.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// One step of a hostile or unlucky conversation. Numbers are offsets from where an honest guest would be.
#[derive(Clone, Debug)]
enum Step {
    Segment { at: i64, payload: u32, ack: i64, window: u16, flags: u8, sack: Vec<(i64, u32)> },
    HostSends(u32),
    HostEnds,
    Drain(u32),
    Capacity(u32),
    Timer,
    Pass(u64),
    Acknowledge,
}

fn near() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => Just(0i64),
        3 => -3000i64..3000,
        1 => -300_000i64..300_000,
        1 => any::<u32>().prop_map(i64::from),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let segment = (
        near(),
        prop_oneof![Just(0u32), 1u32..3000, 0u32..65_000],
        near(),
        any::<u16>(),
        any::<u8>(),
        vec((near(), 0u32..5000), 0..4),
    )
        .prop_map(|(at, payload, ack, window, noise, sack)| {
            // Mostly plain ACKs; now and then any flags.
            let flags = if noise < 200 { 0x10 } else { noise & 0x1f };
            Step::Segment { at, payload, ack, window, flags, sack }
        });
    prop_oneof![
        8 => segment,
        3 => (1u32..20_000).prop_map(Step::HostSends),
        1 => Just(Step::HostEnds),
        2 => (0u32..100_000).prop_map(Step::Drain),
        1 => (0u32..300_000).prop_map(Step::Capacity),
        2 => Just(Step::Timer),
        2 => (0u64..500).prop_map(Step::Pass),
        3 => Just(Step::Acknowledge),
    ]
}

/// A bookkeeper beside the machine, in bytes since the start of each stream.
struct Books {
    talk: Talk,
    /// Bytes the host's end or the spill really has, from 0 without a hole.
    kept: Vec<bool>,
    /// Right edge of the window, as promised.
    edge: i64,
    /// Bytes that went to the guest, and whether a FIN did.
    sent: u32,
    fin_sent: bool,
    gone: bool,
}

impl Books {
    fn segment(&self, step: &Step) -> Option<(Segment, u32)> {
        let Step::Segment { at, payload, ack, window, flags, sack } = step else { return None };
        let wrap = |by: i64| u32::try_from(by & 0xffff_ffff).unwrap();
        let connection = &self.talk.connection;
        let mut header = [0; 20];
        header[12] = 5 << 4;
        header[13] = *flags;
        let (parsed, _) = Segment::parse(&header).unwrap();
        let mut blocks = SackBlocks::default();
        for (left, len) in sack {
            let left = connection.unacknowledged() + wrap(*left);
            blocks.push(left, left + *len);
        }
        let segment = Segment {
            seq: connection.receive.next() + wrap(*at),
            ack: connection.send.next() + wrap(*ack),
            window: *window,
            sack: blocks,
            ..parsed
        };
        Some((segment, *payload))
    }

    fn take(&mut self, input: &Input, room: u32) {
        let Some(take) = input.take else { return };
        let taken = self.talk.connection.receive.next() - self.spilled_and_fin();
        let at = taken.since(self.talk.start.guest + 1) + take.offset;
        let to_socket = if take.offset == 0 { take.len.min(room) } else { 0 };
        let stored = take.len - to_socket;
        let end = (at + take.len) as usize;
        if self.kept.len() < end {
            self.kept.resize(end, false);
        }
        self.kept[at as usize..end].fill(true);
        assert!(i64::from(at + take.len) <= self.edge, "took bytes that were never allowed");
        self.talk.connection.took(&take, to_socket, stored);
    }

    fn spilled_and_fin(&self) -> u32 {
        let (inbound, _) = self.talk.connection.closing();
        self.talk.connection.spilled() + u32::from(inbound == Inbound::Finished)
    }

    fn acknowledge(&mut self) {
        let segment = self.talk.connection.ack();
        let said = self.talk.read(&segment);
        let fin = i64::from(self.talk.connection.closing().0 != Inbound::Open);
        let stream = usize::try_from(said.ack - fin).unwrap();
        assert!(
            self.kept.len() >= stream && self.kept[..stream].iter().all(|kept| *kept),
            "acknowledged a hole"
        );
        for (left, right) in &said.sack {
            let (left, right) = (usize::try_from(*left).unwrap(), usize::try_from(*right).unwrap());
            assert!(left < right && self.kept[left..right].iter().all(|kept| *kept), "reported a hole");
        }
        let edge = said.ack + i64::from(said.window);
        assert!(edge + 127 + fin >= self.edge, "the window shrank: {edge} after {}", self.edge);
        self.edge = self.edge.max(edge);
    }

    fn plans(&mut self) {
        for _ in 0..200 {
            let before = self.talk.connection.unacknowledged().since(self.talk.start.ours + 1);
            match self.talk.plan_up_to(9000) {
                None => return,
                Some(Sent::New(from, to)) => {
                    assert_eq!(from, self.sent, "a byte was skipped or repeated");
                    assert!(to > from && !self.fin_sent);
                    self.sent = to;
                }
                Some(Sent::Again(from, to)) => {
                    assert!(
                        before <= from && from < to && to <= self.sent,
                        "{before} {from} {to} {}",
                        self.sent
                    );
                }
                Some(Sent::Fin(at)) => {
                    assert_eq!(at, self.sent);
                    self.fin_sent = true;
                }
            }
        }
        panic!("planning does not end");
    }

    fn step(&mut self, step: &Step) {
        let talk = &mut self.talk;
        match step {
            Step::Segment { .. } => {
                let Some((segment, payload)) = self.segment(step) else { return };
                let talk = &mut self.talk;
                let input = talk.connection.on_segment(talk.now, &segment, payload);
                self.gone = input.event == Some(Event::Reset);
                if !self.gone {
                    self.take(&input, payload / 2);
                }
            }
            Step::HostSends(bytes) if talk.connection.closing().1 == Outbound::Open => talk.readable += bytes,
            Step::HostEnds if talk.readable == 0 => talk.connection.host_ended(),
            Step::HostSends(_) | Step::HostEnds => {}
            Step::Drain(bytes) => {
                let moved = talk.connection.spilled().min(*bytes);
                talk.connection.drained(moved);
            }
            Step::Capacity(capacity) => talk.connection.set_capacity(*capacity),
            Step::Timer => self.gone = talk.fire().1 == TimerEvent::GiveUp,
            Step::Pass(time) => talk.pass(ms(*time)),
            Step::Acknowledge => self.acknowledge(),
        }
        if self.talk.connection.wants_shutdown() {
            self.talk.connection.shut();
        }
        self.plans();
        let next = i64::from(self.talk.connection.receive.next().since(self.talk.start.guest + 1));
        assert!(next <= self.edge + 1, "{next} beyond {}", self.edge);
        assert!(self.talk.connection.in_flight() <= self.sent + 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_guest_makes_the_machine_break_its_promises(
        guest in any::<u32>(), ours in any::<u32>(), sack_permitted in any::<bool>(), scaled in any::<bool>(),
        steps in vec(step(), 1..60),
    ) {
        let start = Start { guest: Seq(guest), ours: Seq(ours) };
        let window_scale = scaled.then_some(3);
        let mut talk = Talk::asked(start, Segment { sack_permitted, window_scale, ..syn(start) });
        talk.connection.host_connected(talk.now);
        talk.hear(ack(0).window(60_000));
        let mut books = Books {
            talk, kept: Vec::new(), edge: i64::from(u16::MAX), sent: 0, fin_sent: false, gone: false,
        };
        for step in &steps {
            books.step(step);
            if books.gone {
                break;
            }
        }
    }
}
