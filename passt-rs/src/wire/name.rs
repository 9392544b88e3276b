//! Domain names as labels (RFC 1035 3.1), alone or in a list that points back at itself (4.1.4).

/// Longest label and longest name, in bytes of their wire form (RFC 1035 2.3.4).
const LABEL_LEN_MAX: usize = 63;
const NAME_LEN_MAX: usize = 255;
/// A length byte with both these bits set is the first byte of a pointer (RFC 1035 4.1.4).
const POINTER: u8 = 0xc0;
/// One more than the 14 bits of a pointer can say.
const POINTER_END: u16 = 0x4000;

/// Appends `name`, with or without its trailing dot, as labels and the root. What is no domain name
/// leaves `out` as it was and returns false.
pub fn push(out: &mut Vec<u8>, name: &str) -> bool {
    let Some(name) = checked(name) else { return false };
    for label in name.split('.') {
        push_label(out, label);
    }
    out.push(0);
    true
}

/// As [`push`], but an ending that stands in the list since `list_start` becomes a pointer to it, counted
/// from there.
pub fn push_compressed(out: &mut Vec<u8>, list_start: usize, name: &str) -> bool {
    let Some(mut rest) = checked(name) else { return false };
    let written = out.len();
    loop {
        if let Some(pointer) = find(&out[list_start..written], rest) {
            out.extend((u16::from(POINTER) << 8 | pointer).to_be_bytes());
            return true;
        }
        let (label, tail) = rest.split_once('.').unwrap_or((rest, ""));
        push_label(out, label);
        if tail.is_empty() {
            out.push(0);
            return true;
        }
        rest = tail;
    }
}

/// [`push`] for each name of a list, as many as fit `room` bytes.
pub fn push_list(out: &mut Vec<u8>, names: &[String], room: usize) {
    push_while_room(out, names, room, |out, _, name| push(out, name));
}

/// [`push_compressed`] for each name of a list that starts here, as many as fit `room` bytes.
pub fn push_list_compressed(out: &mut Vec<u8>, names: &[String], room: usize) {
    push_while_room(out, names, room, push_compressed);
}

fn push_while_room(
    out: &mut Vec<u8>,
    names: &[String],
    room: usize,
    push: impl Fn(&mut Vec<u8>, usize, &str) -> bool,
) {
    let start = out.len();
    for name in names {
        let end = out.len();
        push(out, start, name);
        if out.len() - start > room {
            out.truncate(end);
            return;
        }
    }
}

fn checked(name: &str) -> Option<&str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let labels_fit = name.split('.').all(|label| matches!(label.len(), 1..=LABEL_LEN_MAX));
    // Each dot stands for a length byte; the first label's and the root are still to be counted.
    (labels_fit && name.len() + 2 <= NAME_LEN_MAX).then_some(name)
}

fn push_label(out: &mut Vec<u8>, label: &str) {
    let len = u8::try_from(label.len()).unwrap_or(0);
    debug_assert!(matches!(usize::from(len), 1..=LABEL_LEN_MAX), "checked() passed this label");
    out.push(len);
    out.extend(label.as_bytes());
}

/// The offset in `list` from which `name` can be read.
fn find(list: &[u8], name: &str) -> Option<u16> {
    let mut at = 0;
    while at < list.len() {
        if starts_at(list, at, name) {
            return u16::try_from(at).ok().filter(|at| *at < POINTER_END);
        }
        at += match list[at] {
            0 => 1,
            POINTER.. => 2,
            len => 1 + usize::from(len),
        };
    }
    None
}

/// `list` is of our own writing: lengths stay inside it and pointers lead backwards.
fn starts_at(list: &[u8], mut at: usize, name: &str) -> bool {
    for label in name.split('.') {
        while list[at] >= POINTER {
            at = usize::from(u16::from_be_bytes([list[at] & !POINTER, list[at + 1]]));
        }
        let len = usize::from(list[at]);
        if &list[at + 1..at + 1 + len] != label.as_bytes() {
            return false;
        }
        at += 1 + len;
    }
    list[at] == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All names of a list, as a resolver would read them.
    fn read(list: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        let mut at = 0;
        while at < list.len() {
            let (mut labels, mut from, mut next) = (Vec::new(), at, None);
            loop {
                match list[from] {
                    0 => break next = next.or(Some(from + 1)),
                    len @ ..POINTER => {
                        let end = from + 1 + usize::from(len);
                        labels.push(String::from_utf8(list[from + 1..end].to_vec()).unwrap());
                        from = end;
                    }
                    high => {
                        next = next.or(Some(from + 2));
                        from = usize::from(u16::from_be_bytes([high & !POINTER, list[from + 1]]));
                    }
                }
            }
            names.push(labels.join("."));
            at = next.unwrap();
        }
        names
    }

    #[test]
    fn a_name_is_labels_and_the_root() {
        for text in ["vm.example", "vm.example."] {
            let mut out = vec![0xa5];
            assert!(push(&mut out, text));
            assert_eq!(out, b"\xa5\x02vm\x07example\x00");
        }
    }

    #[test]
    fn what_is_no_name_leaves_nothing() {
        let long_label = "a".repeat(64);
        let long_name = ["a".repeat(63).as_str(); 4].join(".");
        for text in ["", ".", "a..b", ".a", "a..", &long_label, &long_name] {
            let mut out = Vec::new();
            assert!(!push(&mut out, text), "{text}");
            assert!(!push_compressed(&mut out, 0, text), "{text}");
            assert!(out.is_empty());
        }
        let longest = [("a", 63), ("b", 63), ("c", 63), ("d", 61)].map(|(letter, len)| letter.repeat(len));
        let mut out = Vec::new();
        assert!(push(&mut out, &longest.join(".")));
        assert_eq!(out.len(), NAME_LEN_MAX);
    }

    /// The example of RFC 3397 3, on a list that does not start at the buffer's start.
    #[test]
    fn a_list_points_back_at_common_endings() {
        let mut out = vec![0xa5; 5];
        for text in ["eng.apple.com.", "marketing.apple.com.", "apple.com"] {
            assert!(push_compressed(&mut out, 5, text));
        }
        assert_eq!(out[5..], *b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04\xc0\x04");
    }

    #[test]
    fn a_list_ends_before_the_name_that_does_not_fit() {
        let names = ["a.b", "not..one", "cc.b", "d"].map(String::from);
        for (room, plain, compressed) in [
            (4, &b"\xa5"[..], &b"\xa5"[..]),
            (5, b"\xa5\x01a\x01b\x00", b"\xa5\x01a\x01b\x00"),
            (10, b"\xa5\x01a\x01b\x00", b"\xa5\x01a\x01b\x00\x02cc\xc0\x02"),
            (11, b"\xa5\x01a\x01b\x00\x02cc\x01b\x00", b"\xa5\x01a\x01b\x00\x02cc\xc0\x02"),
        ] {
            let (mut out, mut list) = (vec![0xa5], vec![0xa5]);
            push_list(&mut out, &names, room);
            assert_eq!(out, plain, "{room}");
            push_list_compressed(&mut list, &names, room);
            assert_eq!(list, compressed, "{room}, compressed");
        }
    }

    proptest! {
        #[test]
        fn compressed_lists_read_as_written(
            names in proptest::collection::vec("[ab]{1,2}(\\.[ab]{1,2}){0,4}", 0..20),
        ) {
            let mut out = Vec::new();
            for name in &names {
                prop_assert!(push_compressed(&mut out, 0, name));
            }
            prop_assert_eq!(read(&out), names);
        }

        #[test]
        fn arbitrary_text_never_panics(names in proptest::collection::vec(".{0,80}", 0..9)) {
            let (mut plain, mut list) = (Vec::new(), Vec::new());
            for name in &names {
                prop_assert_eq!(push(&mut plain, name), push_compressed(&mut list, 0, name));
            }
            prop_assert!(list.len() <= plain.len());
        }
    }
}
