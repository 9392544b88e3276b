use proptest::prelude::*;

use super::*;

/// Linux's default `ip_local_port_range`.
const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;

fn parse_one(spec: &str) -> Result<Vec<Rule>, Vec<SpecError>> {
    parse_all(&[spec])
}

fn parse_all(specs: &[&str]) -> Result<Vec<Rule>, Vec<SpecError>> {
    let specs: Vec<String> = specs.iter().map(|spec| (*spec).to_owned()).collect();
    parse(&specs, &EPHEMERAL)
}

fn shown(rules: &[Rule]) -> Vec<String> {
    rules.iter().map(Rule::to_string).collect()
}

#[test]
fn good_specs_mean_these_rules() {
    let table: &[(&[&str], &[&str])] = &[
        (&[], &[]),
        (&["none"], &[]),
        (&["none", "none"], &[]),
        (&["22"], &["* 22"]),
        (&["1", "65535"], &["* 1", "* 65535"]),
        (&["22,80"], &["* 22,80"]),
        (&["22,23,24"], &["* 22-24"]),
        (&["22-24"], &["* 22-24"]),
        (&["22-22"], &["* 22"]),
        (&["2222:22"], &["* 2222:22"]),
        (&["8000-8010:80-90"], &["* 8000-8010:80-90"]),
        (&["8000-8010:80-90,~8005"], &["* 8000-8004:80-84,8006-8010:86-90"]),
        (&["1-100,~50-60,~70"], &["* 1-49,61-69,71-100"]),
        (&["all"], &["* 1-32767,61000-65535"]),
        (&["~22"], &["* 1-21,23-32767,61000-65535"]),
        (&["~15001-15009,~15090"], &["* 1-15000,15010-15089,15091-32767,61000-65535"]),
        (&["all,~22"], &["* 1-21,23-32767,61000-65535"]),
        (&["all,40000"], &["* 1-32767,40000,61000-65535"]),
        (&["~40000"], &["* 1-32767,61000-65535"]),
        (&["127.0.0.1/22"], &["127.0.0.1 22"]),
        (&["::1/22"], &["[::1] 22"]),
        (&["[::1]/22"], &["[::1] 22"]),
        (&["10.0.0.1%eth0/22,80"], &["10.0.0.1%eth0 22,80"]),
        (&["fe80::1%eth0/22"], &["[fe80::1]%eth0 22"]),
        (&["%eth0/22"], &["*%eth0 22"]),
        (&["127.0.0.1/all"], &["127.0.0.1 1-32767,61000-65535"]),
        (&["22,22"], &["* 22"]),
        (&["22", "22-23"], &["* 22", "* 23"]),
        (&["22", "22"], &["* 22"]),
        (&["127.0.0.1/22:1", "127.0.0.2/22:2"], &["127.0.0.1 22:1", "127.0.0.2 22:2"]),
        (&["%eth0/22:1", "%eth1/22:2"], &["*%eth0 22:1", "*%eth1 22:2"]),
    ];
    for (specs, rules) in table {
        assert_eq!(shown(&parse_all(specs).unwrap()), *rules, "{specs:?}");
    }
}

#[test]
fn bad_specs_name_the_piece_and_what_is_right() {
    let length = Problem::Length { host: 11, guest: 10 };
    let conflict = Problem::Conflict { host: 22, earlier: 23, later: 24 };
    let table: &[(&[&str], &str, Problem)] = &[
        (&[""], "", Problem::Empty),
        (&["22,"], "", Problem::Empty),
        (&["127.0.0.1/"], "", Problem::Empty),
        (&["ssh"], "ssh", Problem::Port),
        (&["22-"], "22-", Problem::Port),
        (&["-22"], "-22", Problem::Port),
        (&["1-2-3"], "1-2-3", Problem::Port),
        (&["+22"], "+22", Problem::Port),
        (&[" 22"], " 22", Problem::Port),
        (&["65536"], "65536", Problem::Port),
        (&["22:"], "", Problem::Port),
        (&["~"], "", Problem::Port),
        (&["~~22"], "~22", Problem::Port),
        (&["0"], "0", Problem::Zero),
        (&["0-10"], "0-10", Problem::Zero),
        (&["22:0"], "0", Problem::Zero),
        (&["80-79"], "80-79", Problem::Reversed),
        (&["80-90:90-80"], "90-80", Problem::Reversed),
        (&["80-90:80-89"], "80-90:80-89", length.clone()),
        (&["80-90:80"], "80-90:80", Problem::Length { host: 11, guest: 1 }),
        (&["~22:23"], "~22:23", Problem::MappedExclusion),
        (&["22,~22"], "22,~22", Problem::NothingLeft),
        (&["none", "22"], "none", Problem::NoneWithOthers),
        (&["22,none"], "none", Problem::NoneWithOthers),
        (&["127.0.0.1/none"], "none", Problem::NoneWithOthers),
        (&["auto"], "auto", Problem::Unsupported),
        (&["all:10.0.0.1"], "all:10.0.0.1", Problem::Unsupported),
        (&["22:10.0.0.1/22"], "22:10.0.0.1", Problem::Address),
        (&["host/22"], "host", Problem::Address),
        (&["/22"], "", Problem::Address),
        (&["10.0.0.1%/22"], "10.0.0.1%", Problem::Interface),
        (&["%sixteen-letters-/22"], "%sixteen-letters-", Problem::Interface),
        (&["22:23,22:24"], "22:24", conflict.clone()),
        (&["22:23", "22:24"], "22:24", conflict.clone()),
        (&["22:23", "127.0.0.1/22:24"], "127.0.0.1/22:24", conflict),
        (&["22", "127.0.0.1/22"], "127.0.0.1/22", Problem::Overlap { host: 22 }),
        (&["127.0.0.1/22", "22"], "22", Problem::Overlap { host: 22 }),
        (&["all", "2222:22"], "2222:22", Problem::Conflict { host: 2222, earlier: 2222, later: 22 }),
        (&["all,2222:22"], "all,2222:22", Problem::Conflict { host: 2222, earlier: 22, later: 2222 }),
    ];
    for (specs, piece, problem) in table {
        assert_eq!(parse_all(specs), Err(vec![problem.clone().at(piece)]), "{specs:?}");
    }
}

#[test]
fn all_faults_of_all_specs_are_reported() {
    let errors = parse_all(&["host/0,5-4,x", "~1:2"]).unwrap_err();
    let pieces: Vec<&str> = errors.iter().map(|error| error.piece.as_str()).collect();
    assert_eq!(pieces, ["host", "0", "5-4", "x", "~1:2"]);
}

#[test]
fn only_ports_nobody_named_are_best_effort() {
    for (spec, best_effort) in
        [("all", true), ("~22", true), ("all,~22", true), ("22", false), ("1-9,~2", false)]
    {
        assert_eq!(parse_one(spec).unwrap()[0].best_effort, best_effort, "{spec}");
    }
}

#[test]
fn port_zero_reaches_nothing() {
    assert_eq!(parse_one("all").unwrap()[0].ports.guest_port(0), None);
}

proptest! {
    #[test]
    fn a_range_maps_each_port_by_the_same_distance(
        first in 1..=u16::MAX, length in 1..2000u16, to_first in 1..=u16::MAX, probe: u16,
    ) {
        let room = u16::MAX - first.max(to_first);
        let length = length.min(room.saturating_add(1)).max(1);
        let (last, to_last) = (first + (length - 1), to_first + (length - 1));
        let rules = parse_one(&format!("{first}-{last}:{to_first}-{to_last}")).unwrap();
        let ports = &rules[0].ports;
        prop_assert_eq!(ports.iter().count(), usize::from(length));
        let wanted = (first..=last).contains(&probe).then(|| to_first + (probe - first));
        prop_assert_eq!(ports.guest_port(probe), wanted);
    }

    #[test]
    fn what_a_rule_shows_reads_back_as_the_same_rule(
        items in prop::collection::vec((1..=u16::MAX, 0..50u16, prop::option::of(1..=u16::MAX - 50)), 1..8),
    ) {
        let spec: Vec<String> = items.iter().map(|(first, length, to)| {
            let last = first.saturating_add(*length);
            let to = to.map(|to| format!(":{to}-{}", to + (last - first))).unwrap_or_default();
            format!("{first}-{last}{to}")
        }).collect();
        if let Ok(rules) = parse_one(&spec.join(",")) {
            let again = parse_one(&rules[0].ports.to_string()).unwrap();
            prop_assert_eq!(again, rules);
        }
    }

    #[test]
    fn any_text_is_a_rule_or_an_error(spec in "[0-9a-z~,:/%.\\-]{0,24}") {
        let _ = parse_one(&spec);
    }
}
