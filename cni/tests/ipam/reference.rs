//! The same calls to ours and to the reference, each with a folder of its own: the same answers, the same files.

use serde_json::{Value, json};

use super::bench::{Call, call, files, host_local};

struct Row {
    name: &'static str,
    ipam: Value,
    more: Value,
    calls: Vec<Call>,
}

fn row(name: &'static str, ipam: Value, calls: Vec<Call>) -> Row {
    Row { name, ipam, more: json!({}), calls }
}

/// The reference writes an empty `dns` also where the version allows none.
fn plain(mut answer: Value) -> Value {
    if answer["dns"].as_object().is_some_and(serde_json::Map::is_empty) {
        answer.as_object_mut().expect("an object").remove("dns");
    }
    answer
}

fn compare(rows: Vec<Row>) {
    for Row { name, ipam, more, calls } in rows {
        let (our_folder, their_folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (step, call) in calls.iter().enumerate() {
            let ours = call.ours(&host_local(our_folder.path(), &ipam, &more));
            let theirs = call.theirs(&host_local(their_folder.path(), &ipam, &more));
            let at = format!("{name}, step {step}: {call:?}");
            match (ours, theirs) {
                (Ok(ours), Ok(theirs)) => assert_eq!(plain(ours), plain(theirs), "{at}"),
                // Where a text is no address at all, ours names the key instead of repeating Go's parser.
                (Err(ours), Err(theirs)) if theirs.contains("invalid") && theirs.contains("address") => {
                    assert!(ours.msg.contains("invalid"), "{at}: {ours}");
                }
                (Err(ours), Err(theirs)) => assert_eq!(ours.msg, theirs, "{at}"),
                (ours, theirs) => panic!("{at}: ours {ours:?}, theirs {theirs:?}"),
            }
            assert_eq!(files(our_folder.path()), files(their_folder.path()), "{at}");
        }
    }
}

fn add(container: &str) -> Call {
    call("ADD", container)
}

#[test]
fn host_local_gives_what_the_reference_gives() {
    let small = || json!({ "subnet": "10.1.2.0/29" });
    compare(vec![
        row("one range", small(), vec![add("a"), add("b"), call("CHECK", "a"), call("CHECK", "c"), add("a")]),
        row(
            "round robin",
            small(),
            vec![add("a"), call("DEL", "a"), add("b"), add("c"), call("DEL", "c"), add("d")],
        ),
        row(
            "wrap and exhaustion",
            small(),
            vec![
                add("a"),
                add("b"),
                add("c"),
                add("d"),
                add("e"),
                add("f"),
                call("DEL", "b"),
                add("g"),
                add("h"),
            ],
        ),
        row(
            "two interfaces of a container",
            small(),
            vec![
                add("a"),
                add("a").interface("net1"),
                call("DEL", "a"),
                call("CHECK", "a").interface("net1"),
                call("DEL", "a").interface("net1"),
                call("DEL", "a").interface("net1"),
            ],
        ),
        row(
            "dual stack",
            json!({ "ranges": [[{ "subnet": "10.1.2.0/24" }], [{ "subnet": "fd00:0:0:1::/64" }]] }),
            vec![add("a"), add("b"), call("DEL", "a"), add("c")],
        ),
        row(
            "several ranges in a set",
            json!({ "ranges": [[
                { "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.10", "gateway": "10.1.2.254" },
                { "subnet": "10.1.3.0/30" },
            ]] }),
            vec![add("a"), add("b"), add("c"), add("d"), call("DEL", "a"), add("e")],
        ),
        row(
            "inline range before ranges",
            json!({ "subnet": "10.1.2.0/24", "ranges": [[{ "subnet": "10.1.3.0/24" }]] }),
            vec![add("a")],
        ),
        row(
            "gateway within the range",
            json!({ "subnet": "10.1.2.0/29", "gateway": "10.1.2.3" }),
            vec![add("a"), add("b"), add("c"), add("d")],
        ),
        row("gateway elsewhere", json!({ "subnet": "10.1.2.0/24", "gateway": "10.9.9.9" }), vec![add("a")]),
        row("empty gateway", json!({ "subnet": "10.1.2.0/24", "gateway": "" }), vec![add("a")]),
        row(
            "keys in another case",
            json!({ "SUBNET": "10.1.2.0/24", "RangeSTART": "10.1.2.7", "routes": null }),
            vec![add("a")],
        ),
        row(
            "routes",
            json!({ "subnet": "10.1.2.0/24", "routes": [
                { "dst": "0.0.0.0/0" }, { "dst": "10.9.9.9/16", "gw": "10.1.2.7" }, { "dst": "::/0", "gw": "fd00::1" },
            ] }),
            vec![add("a")],
        ),
        row(
            "end of IPv6",
            json!({ "subnet": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126" }),
            vec![add("a"), add("b"), add("c")],
        ),
    ]);
}

/// The reference makes no address of what follows 0.0.0.0 or ::.
#[test]
fn whole_of_a_family_is_a_range_too() {
    for (subnet, given) in [("0.0.0.0/0", "0.0.0.2/0"), ("::/0", "::2/0")] {
        let folder = tempfile::tempdir().unwrap();
        let config = host_local(folder.path(), &json!({ "subnet": subnet }), &json!({}));
        assert_eq!(add("a").ours(&config).unwrap()["ips"][0]["address"], given);
    }
}

#[test]
fn addresses_asked_for_are_given_as_the_reference_gives_them() {
    let ipam = || json!({ "subnet": "10.1.2.0/24" });
    let with = |name, more| Row { name, ipam: ipam(), more, calls: vec![add("a"), add("b")] };
    compare(vec![
        row(
            "CNI_ARGS",
            ipam(),
            vec![
                add("a").args("IP=10.1.2.9"),
                add("b").args("IP=10.1.2.9"),
                add("b").args("IgnoreUnknown=1;X=y;IP=10.1.2.20/24"),
                add("c"),
                add("d").args("IP=10.1.2.1"),
                add("d").args("IP=10.1.3.1"),
                add("d").args("IP=junk"),
                add("a").args("IP=10.1.2.30"),
                call("DEL", "a"),
            ],
        ),
        with("args", json!({ "args": { "cni": { "ips": ["10.1.2.8/24"] } } })),
        with("runtimeConfig", json!({ "runtimeConfig": { "ips": ["10.1.2.8"] } })),
        with("out of range", json!({ "runtimeConfig": { "ips": ["10.1.3.8"] } })),
        with(
            "the same twice",
            json!({ "runtimeConfig": { "ips": ["10.1.2.8/24"] }, "args": { "cni": { "ips": ["10.1.2.8"] } } }),
        ),
        with("no address", json!({ "runtimeConfig": { "ips": ["junk"] } })),
        with(
            "ranges of the runtime",
            json!({ "runtimeConfig": { "ipRanges": [[{ "subnet": "10.3.0.0/30" }]] } }),
        ),
        Row {
            name: "one of each set",
            ipam: json!({ "ranges": [[{ "subnet": "10.1.2.0/24" }], [{ "subnet": "fd00::/64" }]] }),
            more: json!({ "args": { "cni": { "ips": ["fd00:0::8/64", "10.1.2.8/24"] } } }),
            calls: vec![add("a"), add("b"), call("DEL", "a")],
        },
        Row {
            name: "of one of two sets",
            ipam: json!({ "ranges": [[{ "subnet": "10.1.2.0/24" }], [{ "subnet": "fd00::/64" }]] }),
            more: json!({ "args": { "cni": { "ips": ["fd00::8"] } } }),
            calls: vec![add("a")],
        },
    ]);
}

#[test]
fn ranges_are_refused_as_the_reference_refuses_them() {
    let cases = [
        ("none", json!({})),
        ("no sets", json!({ "ranges": [] })),
        ("an empty set", json!({ "ranges": [[]] })),
        ("host bits", json!({ "subnet": "10.1.2.3/24" })),
        ("too small", json!({ "subnet": "10.1.2.2/31" })),
        ("too small for IPv6", json!({ "subnet": "fd00::/127" })),
        ("no prefix", json!({ "subnet": "10.1.2.0/33" })),
        ("mapped", json!({ "subnet": "::ffff:10.1.2.0/120" })),
        (
            "end before start",
            json!({ "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.5" }),
        ),
        ("start outside", json!({ "subnet": "10.1.2.0/24", "rangeStart": "10.1.3.9" })),
        ("start of the other family", json!({ "subnet": "10.1.2.0/24", "rangeStart": "fd00::1" })),
        ("end outside", json!({ "subnet": "10.1.2.0/24", "rangeEnd": "10.1.3.9" })),
        ("end is the network", json!({ "subnet": "10.1.2.0/24", "rangeEnd": "10.1.2.0" })),
        ("gateway is a word", json!({ "subnet": "10.1.2.0/24", "gateway": "junk" })),
        ("families mixed", json!({ "ranges": [[{ "subnet": "10.1.2.0/24" }, { "subnet": "fd00::/64" }]] })),
        (
            "overlap in a set",
            json!({ "ranges": [[{ "subnet": "10.1.2.0/24" }, { "subnet": "10.1.0.0/16" }]] }),
        ),
        (
            "overlap of sets",
            json!({ "ranges": [[{ "subnet": "10.1.0.0/16" }], [{ "subnet": "10.1.2.0/24" }]] }),
        ),
    ];
    compare(cases.into_iter().map(|(name, ipam)| row(name, ipam, vec![add("a")])).collect());
}

#[test]
fn old_versions_have_one_address_of_each_family() {
    let two = json!({ "subnet": "10.1.2.0/24", "ranges": [[{ "subnet": "10.3.0.0/24" }]] });
    let dual = json!({ "subnet": "10.1.2.0/24", "ranges": [[{ "subnet": "fd00::/64" }]] });
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
        let more = json!({ "cniVersion": version });
        let row =
            |name, ipam: &Value| Row { name, ipam: ipam.clone(), more: more.clone(), calls: vec![add("a")] };
        compare(vec![row("two of IPv4", &two), row("dual stack", &dual)]);
    }
}

#[test]
fn resolvers_are_read_as_the_reference_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    let text = "# no\n;no\n nameserver 192.0.2.1 x\nnameserver\nnameserver fd00::53\n\ndomain a.example\nsearch a b\n\
                search c\noptions ndots:5\toptions:1\nunknown x\n";
    std::fs::write(&file, text).unwrap();
    compare(vec![row("resolvConf", json!({ "subnet": "10.1.2.0/24", "resolvConf": file }), vec![add("a")])]);

    let config = host_local(
        folder.path(),
        &json!({ "subnet": "10.1.2.0/24", "resolvConf": "/nonexistent" }),
        &json!({}),
    );
    let error = add("a").ours(&config).unwrap_err();
    assert_eq!(error.code, 5, "{error}");
    assert!(error.msg.contains("resolvConf /nonexistent"), "{error}");
    assert!(files(folder.path()).is_empty(), "nothing is reserved");
}

#[test]
fn routes_of_1_1_0_keep_their_fields() {
    let folder = tempfile::tempdir().unwrap();
    let route = json!({ "dst": "0.0.0.0/0", "gw": "10.1.2.1", "mtu": 1400, "advmss": 1360, "priority": 10, "table": 100,
        "scope": 0 });
    let ipam = json!({ "subnet": "10.1.2.0/24", "routes": [route] });
    let config = host_local(folder.path(), &ipam, &json!({ "cniVersion": "1.1.0" }));
    assert_eq!(add("a").ours(&config).unwrap()["routes"], json!([route]));
}

#[test]
fn static_gives_what_the_reference_gives() {
    let addresses =
        || json!([{ "address": "10.1.2.3/24", "gateway": "10.1.2.1" }, { "address": "fd00::3/64" }]);
    let full = || {
        json!({ "addresses": addresses(), "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "10.9.0.0/16", "gw": "10.1.2.9" }],
            "dns": { "nameservers": ["192.0.2.1"], "domain": "d", "search": ["a"], "options": ["o"] } })
    };
    let one = |text: &str| json!({ "addresses": [{ "address": text }] });
    let cases: Vec<(&str, Value, Value, &str)> = vec![
        ("configured", full(), json!({}), ""),
        ("CNI_ARGS adds", full(), json!({}), "IP=10.1.2.7/24"),
        ("CNI_ARGS with gateway", full(), json!({}), "IP=10.1.2.7/24,fd00::9/64;GATEWAY=10.1.2.99,fd00::1"),
        ("gateway alone", full(), json!({}), "GATEWAY=10.1.2.99"),
        ("args replace", full(), json!({ "args": { "cni": { "ips": ["10.1.2.8/24"] } } }), "IP=10.1.2.7/24"),
        (
            "runtimeConfig replaces",
            full(),
            json!({ "runtimeConfig": { "ips": ["10.1.2.18/24"] }, "args": { "cni": { "ips": ["10.1.2.8/24"] } } }),
            "IP=10.1.2.7/24;GATEWAY=10.1.2.99",
        ),
        (
            "replaced ones need not be right",
            one("junk"),
            json!({ "runtimeConfig": { "ips": ["10.1.2.18/24"] } }),
            "",
        ),
        ("no prefix", one("10.1.2.3"), json!({}), ""),
        ("prefix too long", one("10.1.2.3/33"), json!({}), ""),
        ("no address", json!({ "addresses": [{ "gateway": "10.1.2.3" }] }), json!({}), ""),
        (
            "gateway elsewhere",
            json!({ "addresses": [{ "address": "10.1.2.3/24", "gateway": "10.9.9.9" }] }),
            json!({}),
            "",
        ),
        ("args without prefix", full(), json!({ "args": { "cni": { "ips": ["10.1.2.8"] } } }), ""),
        ("runtimeConfig without prefix", full(), json!({ "runtimeConfig": { "ips": ["10.1.2.8"] } }), ""),
        ("CNI_ARGS without prefix", full(), json!({}), "IP=10.1.2.7"),
        ("gateway is a word", full(), json!({}), "GATEWAY=junk"),
        (
            "two of a family in 0.2.0",
            json!({ "addresses": [{ "address": "10.1.2.3/24" }, { "address": "10.1.2.4/24" }] }),
            json!({ "cniVersion": "0.2.0" }),
            "",
        ),
        ("0.2.0", full(), json!({ "cniVersion": "0.2.0" }), ""),
        ("0.4.0", full(), json!({ "cniVersion": "0.4.0" }), ""),
    ];
    for (name, ipam, more, args) in cases {
        let mut config =
            json!({ "cniVersion": "1.0.0", "name": "net", "type": "sluice", "ipam": { "type": "static" } });
        super::bench::merge(&mut config["ipam"], &ipam);
        super::bench::merge(&mut config, &more);
        let call = add("a").args(args);
        match (call.ours(&config), call.theirs(&config)) {
            (Ok(ours), Ok(theirs)) => assert_eq!(plain(ours), plain(theirs), "{name}"),
            (Err(ours), Err(theirs)) => {
                assert_eq!(ours.msg.trim_start_matches("CNI_ARGS: "), theirs, "{name}")
            }
            (ours, theirs) => panic!("{name}: ours {ours:?}, theirs {theirs:?}"),
        }
        assert_eq!(call_del().ours(&config), Ok(Value::Null), "{name}: a removal never fails");
    }
}

fn call_del() -> Call {
    call("DEL", "a")
}

#[test]
fn static_without_addresses_is_missing_its_ip_config() {
    // The reference answers an empty result, which every plugin that asked refuses in these words.
    let config = json!({ "cniVersion": "1.0.0", "name": "net", "ipam": { "type": "static" } });
    assert_eq!(add("a").ours(&config).unwrap_err().msg, "IPAM plugin returned missing IP config");
}

#[test]
fn static_check_is_the_references() {
    let previous = |ips: Value| json!({ "prevResult": { "cniVersion": "1.0.0", "ips": ips } });
    let cases = [
        json!({}),
        previous(json!([{ "address": "10.1.2.3/24", "gateway": "10.1.2.1" }, { "address": "fd00::3/64" }])),
        previous(json!([{ "address": "10.1.2.3/24" }, { "address": "fd00::3/64" }])),
        previous(json!([{ "address": "10.1.2.3/24", "gateway": "10.1.2.2" }])),
        previous(json!([{ "address": "fd00::3/64" }])),
    ];
    for more in cases {
        let mut config = json!({ "cniVersion": "1.0.0", "name": "net", "ipam": { "type": "static",
            "addresses": [{ "address": "10.1.2.3/24", "gateway": "10.1.2.1" }, { "address": "fd00::3/64" }] } });
        super::bench::merge(&mut config, &more);
        let (ours, theirs) = (call("CHECK", "a").ours(&config), call("CHECK", "a").theirs(&config));
        assert_eq!(ours.is_ok(), theirs.is_ok(), "{config}: ours {ours:?}, theirs {theirs:?}");
    }
}
