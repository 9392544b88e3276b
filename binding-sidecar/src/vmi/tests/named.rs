//! The guest's names.

use super::*;

#[test]
fn names_of_the_guest() {
    let long = format!("{}-{}", "a".repeat(62), "b");
    let cut = "a".repeat(62);
    let table: [(&str, Value, Option<&str>, Option<&str>); 9] = [
        ("VMI's", json!({}), Some("vm"), None),
        ("asked for", json!({"hostname": "Web"}), Some("web"), None),
        ("of a domain", json!({"hostname": "web.example"}), Some("web"), None),
        ("subdomain", json!({"subdomain": "peers"}), Some("vm"), Some("vm.peers.demo.svc.cluster.local")),
        (
            "both",
            json!({"hostname": "web", "subdomain": "p"}),
            Some("web"),
            Some("web.p.demo.svc.cluster.local"),
        ),
        ("upper case", json!({"subdomain": "P"}), Some("vm"), Some("vm.p.demo.svc.cluster.local")),
        ("too long for a label", json!({"hostname": long}), Some(&cut), None),
        ("63", json!({"hostname": "c".repeat(63)}), Some(&"c".repeat(63)), None),
        ("empty", json!({"hostname": "", "subdomain": ""}), Some("vm"), None),
    ];
    for (case, spec, hostname, fqdn) in table {
        let nic = nic(&changed(json!({"spec": spec})));
        assert_eq!((nic.hostname.as_deref(), nic.fqdn.as_deref()), (hostname, fqdn), "{case}");
    }
    let nameless = nic(&changed(json!({"metadata": {"name": ""}})));
    assert_eq!(nameless.hostname, None);
}

#[test]
fn the_full_name_needs_the_clusters_domain() {
    let vmi = changed(json!({"spec": {"subdomain": "peers"}}));
    let table: [(&[&str], Option<&str>); 5] = [
        (&[], None),
        (&["example.org"], None),
        (&["other.svc.cluster.local", "svc.cluster.local"], None),
        (&["example.org", "demo.svc.corp."], Some("vm.peers.demo.svc.corp")),
        (&["mydemo.svc.corp"], None),
    ];
    for (search, wanted) in table {
        let place = Place { search: search.iter().map(ToString::to_string).collect(), ..usual_place() };
        let nics = plan(vmi.to_string().as_bytes(), &place).unwrap().nics;
        assert_eq!(nics[0].fqdn.as_deref(), wanted, "{search:?}");
    }
}

#[test]
fn a_full_name_is_no_longer_than_dns_allows() {
    let vmi = changed(json!({"spec": {"subdomain": "peers"}}));
    let start = "demo.svc.";
    for (len, fits) in [(253, true), (254, false)] {
        let domain = "d".repeat(len - "vm.peers.".len() - start.len());
        let place = Place { search: vec![format!("{start}{domain}")], ..usual_place() };
        let nics = plan(vmi.to_string().as_bytes(), &place).unwrap().nics;
        assert_eq!(nics[0].fqdn.as_ref().map(String::len), fits.then_some(len), "{len}");
    }
}
