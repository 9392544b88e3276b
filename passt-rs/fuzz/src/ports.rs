//! Target: texts of port-forward flags. Whoever starts us is trusted, but is to hear of a mistake and not of a panic.

use std::ops::RangeInclusive;

use passt_rs::flow::forward::{self, PortMap, Rule};

use crate::input::Input;

/// Longer texts only say the same more often.
const LEN_MAX: usize = 256;

/// An input is the kernel's ephemeral range in four bytes, then specs in lines.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (first, last) = (input.half(), input.half());
    let ephemeral = first..=last;
    let text = input.rest();
    let Ok(text) = std::str::from_utf8(&text[..text.len().min(LEN_MAX)]) else { return };
    let specs: Vec<String> = text.split('\n').map(str::to_owned).collect();
    match forward::parse(&specs, &ephemeral) {
        Ok(rules) => check(&rules, &ephemeral),
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                assert!(text.contains(&error.piece), "`{}` is nowhere in {text:?}", error.piece);
                assert!(!error.to_string().is_empty());
            }
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "22",
        "none",
        "all,~22,~8000-8010",
        "~1-1023",
        "8000-8010:80-90,22:2222,~8005",
        "10.0.0.1%eth0/80\n[::1]/443:8443\n%lo/1-65535",
        "80\n0.0.0.0/81\n80:81",
        "auto\nall:1.2.3.4\n0\n9-8\n1-2:3",
    ];
    let with_range = |text: &str| [&[0x00, 0x80, 0x47, 0xee], text.as_bytes()].concat();
    texts.map(with_range).into()
}

fn check(rules: &[Rule], ephemeral: &RangeInclusive<u16>) {
    for (at, rule) in rules.iter().enumerate() {
        assert!(!rule.ports.is_empty(), "a rule that forwards nothing");
        assert!(rule.ports.guest_port(0).is_none());
        assert!(!rule.to_string().is_empty());
        assert_eq!(read_back(&rule.ports, ephemeral), rule.ports, "what is printed reads back as the same");
        for later in &rules[at + 1..] {
            if share_place(rule, later) {
                let twice = rule.ports.iter().find(|(host, _)| later.ports.guest_port(*host).is_some());
                assert_eq!(twice, None, "a port that two listeners would fight for: {rule} and {later}");
            }
        }
    }
}

fn read_back(ports: &PortMap, ephemeral: &RangeInclusive<u16>) -> PortMap {
    let rules = forward::parse(&[ports.to_string()], ephemeral).expect("the grammar's own form");
    let [rule] = &rules[..] else { panic!("one spec is one rule, not {rules:?}") };
    assert_eq!((&rule.bind, &rule.interface, rule.best_effort), (&None, &None, false));
    rule.ports.clone()
}

/// Whether one packet could be for the sockets of both.
fn share_place(one: &Rule, other: &Rule) -> bool {
    let binds = one.bind.is_none() || other.bind.is_none() || one.bind == other.bind;
    let interfaces = one.interface.is_none() || other.interface.is_none() || one.interface == other.interface;
    binds && interfaces
}
