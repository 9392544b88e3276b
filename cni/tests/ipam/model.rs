//! Sequences of calls against a model that walks a list: what is given, to whom, and what is left.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::bench::{addresses, call, host_local, leased};

#[derive(Clone, Debug)]
enum Step {
    /// With an address to ask for, by its last number.
    Add(u8, u8, Option<u8>),
    Del(u8, u8),
    /// Attachments that live on, as bits.
    Gc(u8),
    /// Somebody dies between making a file and filling it.
    Torn(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..4_u8, 0..2_u8, prop::option::weighted(0.3, 0..9_u8)).prop_map(|(c, i, ip)| Step::Add(c, i, ip)),
        3 => (0..4_u8, 0..2_u8).prop_map(|(c, i)| Step::Del(c, i)),
        1 => any::<u8>().prop_map(Step::Gc),
        1 => (1..7_u8).prop_map(Step::Torn),
    ]
}

/// 10.1.2.0/29: six addresses of containers, less the gateway's.
#[derive(Debug, Default)]
struct Model {
    held: BTreeMap<u8, (u8, u8)>,
    torn: Vec<u8>,
    last: Option<u8>,
}

impl Model {
    const FREE: std::ops::RangeInclusive<u8> = 2..=6;

    fn next(&self, holder: (u8, u8)) -> Option<u8> {
        if self.held.values().any(|other| *other == holder) {
            return None;
        }
        let after = self.last.unwrap_or(0);
        let round: Vec<u8> =
            (after + 1..=6).chain(1..=after).filter(|last| Self::FREE.contains(last)).collect();
        let free = |last: &&u8| !self.held.contains_key(last);
        let untouched = round.iter().find(|last| free(last) && !self.torn.contains(last));
        untouched.or_else(|| round.iter().find(free)).copied()
    }

    fn add(&mut self, holder: (u8, u8), wanted: Option<u8>) -> Option<u8> {
        // As for the reference, an address that no range has is missed only when all ranges have given theirs.
        let outside = wanted.is_some_and(|wanted| !(1..=6).contains(&wanted));
        let given = match wanted {
            Some(wanted) if !outside => {
                Some(wanted).filter(|wanted| Self::FREE.contains(wanted) && !self.held.contains_key(wanted))
            }
            _ => self.next(holder),
        }?;
        self.torn.retain(|torn| *torn != given);
        self.last = Some(given);
        if outside {
            return None;
        }
        self.held.insert(given, holder);
        Some(given)
    }
}

fn container(number: u8) -> String {
    format!("c{number}")
}

fn interface(number: u8) -> String {
    format!("net{number}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_calls_is_the_models(steps in prop::collection::vec(step(), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let config = host_local(folder.path(), &json!({ "subnet": "10.1.2.0/29" }), &json!({}));
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Add(c, i, wanted) => {
                    let args = wanted.map_or_else(String::new, |last| format!("IP=10.1.2.{last}"));
                    let answer = call("ADD", &container(c)).interface(&interface(i)).args(&args).ours(&config);
                    let given = answer.ok().map(|answer| addresses(&answer));
                    let expected = model.add((c, i), wanted).map(|last| vec![format!("10.1.2.{last}")]);
                    prop_assert_eq!(given, expected);
                }
                Step::Del(c, i) => {
                    call("DEL", &container(c)).interface(&interface(i)).ours(&config).unwrap();
                    model.held.retain(|_, holder| *holder != (c, i));
                }
                Step::Gc(bits) => {
                    let lives = |c: u8, i: u8| bits & (1 << (c * 2 + i)) != 0;
                    let valid: Vec<Value> = (0..4).flat_map(|c| (0..2).map(move |i| (c, i)))
                        .filter(|(c, i)| lives(*c, *i))
                        .map(|(c, i)| json!({ "containerID": container(c), "ifname": interface(i) }))
                        .collect();
                    let mut config = config.clone();
                    config["cniVersion"] = json!("1.1.0");
                    config["cni.dev/valid-attachments"] = json!(valid);
                    call("GC", "").ours(&config).unwrap();
                    model.held.retain(|_, (c, i)| lives(*c, *i));
                }
                Step::Torn(last) => {
                    let file = folder.path().join("net").join(format!("10.1.2.{last}"));
                    if !model.held.contains_key(&last) && !model.torn.contains(&last) && file.parent().unwrap().is_dir() {
                        std::fs::write(file, "").unwrap();
                        model.torn.push(last);
                    }
                }
            }
            let mut expected: BTreeMap<String, String> = model.held.iter()
                .map(|(last, (c, i))| (format!("10.1.2.{last}"), format!("{}\r\n{}", container(*c), interface(*i))))
                .collect();
            expected.extend(model.torn.iter().map(|last| (format!("10.1.2.{last}"), String::new())));
            prop_assert_eq!(leased(folder.path()), expected);
        }
    }
}
