//! Datagrams from the guest on their way to sockets: held in the guest's buffers, sent in batches.
//!
//! Frames are not copied. They stay where the guest's end of the cable has them until the batch is flushed;
//! consecutive datagrams of one flow and length become one system call's single message (UDP_SEGMENT), others
//! a message each of one `sendmmsg`.

use std::ops::Range;

use rustix::io::Errno;

use crate::flow::FlowId;
use crate::guest::{Guest, Place, SLICES_MAX};
use crate::host::batch::{Message, SEGMENTS_MAX, SEND_MAX};
use crate::iovec::Piece;
use crate::transport::udp::Marking;

/// Bytes that datagrams joined into one message may have: what a UDP datagram may have over either family.
const JOINED_MAX: usize = 65_535 - 40 - 8;

/// One datagram, or one super-datagram of at most [`SEGMENTS_MAX`] parts, in a held frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queued {
    pub(super) id: FlowId,
    pub(super) place: Place,
    /// Where the socket's payload lies in the frame.
    pub(super) range: Range<usize>,
    /// Length of each part but the last.
    pub(super) segment: Option<u16>,
    pub(super) marking: Marking,
}

impl Queued {
    /// Length of each part but the last; never 0.
    fn size(&self) -> usize {
        self.segment.map_or_else(|| self.range.len(), usize::from).max(1)
    }

    /// The datagrams it stands for.
    pub(super) fn datagrams(&self) -> u64 {
        let size = self.size();
        self.range.len().div_ceil(size).max(1) as u64
    }

    /// The same bytes, one datagram each.
    pub(super) fn parts(&self) -> impl Iterator<Item = Self> + '_ {
        let size = self.size();
        let end = self.range.end;
        let starts = (0..self.datagrams())
            .map(move |part| self.range.start + usize::try_from(part).unwrap_or(0) * size);
        starts.map(move |start| Self { range: start..(start + size).min(end), segment: None, ..self.clone() })
    }

    /// The same bytes in pieces that one message may have.
    pub(super) fn messages(&self) -> impl Iterator<Item = Self> + '_ {
        let size = self.segment.map_or(usize::MAX, |size| usize::from(size) * SEGMENTS_MAX).max(1);
        let end = self.range.end;
        let mut start = self.range.start;
        let mut first = true;
        std::iter::from_fn(move || {
            if start >= end && !first {
                return None;
            }
            first = false;
            let range = start..start.saturating_add(size).min(end);
            start = range.end;
            Some(Self { range, ..self.clone() })
        })
    }
}

/// How many of the first datagrams of `run` one message can carry: as many as have the length of the first, and
/// one that is shorter.
fn joinable(run: &[Queued]) -> usize {
    let Some(first) = run.first().filter(|first| first.segment.is_none() && !first.range.is_empty()) else {
        return 1;
    };
    let size = first.range.len();
    let mut total = 0;
    let mut count = 0;
    for queued in run.iter().take(SEGMENTS_MAX) {
        let len = queued.range.len();
        if queued.segment.is_some() || len == 0 || len > size || total + len > JOINED_MAX {
            break;
        }
        (total, count) = (total + len, count + 1);
        if len < size {
            break;
        }
    }
    count.max(1)
}

/// Sends what of `run`, datagrams of one flow, fits one system call; gives how many of them were taken. An error
/// concerns the first, or those joined with it when `join` allows that.
pub(super) fn send<G: Guest>(
    guest: &G,
    run: &[Queued],
    join: bool,
    send: impl Fn(&[Message<'_>]) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let mut slices = [Piece::EMPTY; SEND_MAX * SLICES_MAX];
    let mut parts = [Part::default(); SEND_MAX];
    let (mut used, mut taken, mut count) = (0, 0, 0);
    // Every datagram has room for its slices, since there are at most SEND_MAX.
    while taken < run.len().min(SEND_MAX) {
        let rest = run.get(taken..run.len().min(SEND_MAX)).unwrap_or_default();
        let joined = if join { joinable(rest) } else { 1 };
        let start = used;
        for queued in rest.iter().take(joined) {
            let mut gathered = [Piece::EMPTY; SLICES_MAX];
            let pieces = guest.gather(queued.place, queued.range.clone(), &mut gathered);
            for (place, slice) in slices.iter_mut().skip(used).zip(gathered.iter().take(pieces)) {
                *place = *slice;
            }
            used += pieces;
        }
        let segment = match rest.first() {
            Some(first) if joined > 1 => u16::try_from(first.range.len()).ok(),
            Some(first) => first.segment.filter(|size| usize::from(*size) < first.range.len()),
            None => None,
        };
        if let Some(part) = parts.get_mut(count) {
            *part = Part { start, end: used, datagrams: joined, segment };
        }
        taken += joined;
        count += 1;
    }
    let mut messages = [Message { slices: &[], segment: None }; SEND_MAX];
    for (message, part) in messages.iter_mut().zip(parts.iter().take(count)) {
        *message =
            Message { slices: slices.get(part.start..part.end).unwrap_or_default(), segment: part.segment };
    }
    let sent = send(messages.get(..count).unwrap_or_default())?;
    Ok(parts.iter().take(sent).map(|part| part.datagrams).sum())
}

/// Places of one message in the slices, and how many of the queued datagrams it carries.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    start: usize,
    end: usize,
    datagrams: usize,
    segment: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(len: usize, segment: Option<u16>) -> Queued {
        let marking = Marking { hop_limit: 64, traffic_class: 0, dont_fragment: true };
        Queued { id: FlowId::from_bits(0), place: Place::default(), range: 42..42 + len, segment, marking }
    }

    #[test]
    fn equal_lengths_are_joined_up_to_one_that_is_shorter() {
        let rows: [(&str, &[usize], usize); 8] = [
            ("one", &[100], 1),
            ("equal", &[100, 100, 100], 3),
            ("a shorter one is the last", &[100, 100, 40, 100], 3),
            ("a longer one waits", &[100, 100, 101], 2),
            ("an empty one is alone", &[0, 0], 1),
            ("an empty one does not end a message", &[100, 0], 1),
            ("at most 64", &[1; 70], 64),
            ("at most a datagram's length", &[30_000, 30_000, 30_000], 2),
        ];
        for (name, lengths, joined) in rows {
            let run: Vec<_> = lengths.iter().map(|len| queued(*len, None)).collect();
            assert_eq!(joinable(&run), joined, "{name}");
        }
        assert_eq!(joinable(&[queued(3000, Some(1000)), queued(1000, None)]), 1, "a super-datagram is alone");
        assert_eq!(joinable(&[queued(1000, None), queued(1000, Some(500))]), 1, "and joins nothing");
    }

    #[test]
    fn a_super_datagram_is_given_in_messages_of_64_parts_and_in_parts() {
        let whole = queued(100 * 500 + 1, Some(500));
        assert_eq!(whole.datagrams(), 101);
        let messages: Vec<_> = whole.messages().collect();
        assert_eq!(messages.iter().map(Queued::datagrams).collect::<Vec<_>>(), [64, 37]);
        assert_eq!((messages[0].range.clone(), messages[1].range.clone()), (42..32_042, 32_042..50_043));
        let parts: Vec<_> = messages.iter().flat_map(Queued::parts).collect();
        assert_eq!(parts.len(), 101);
        assert!(parts.iter().all(|part| part.segment.is_none()));
        assert_eq!((parts[0].range.clone(), parts[100].range.clone()), (42..542, 50_042..50_043));
    }

    #[test]
    fn an_empty_datagram_is_one_message() {
        let empty = queued(0, None);
        assert_eq!((empty.datagrams(), empty.messages().count(), empty.parts().count()), (1, 1, 1));
    }
}
