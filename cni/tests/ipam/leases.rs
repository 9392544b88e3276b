//! Files of leases that others left: old ones, torn ones, ones by hand; and what is stricter than the reference.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bench::{addresses, call, files, host_local, leased};

struct Pool {
    folder: tempfile::TempDir,
    config: Value,
}

fn pool(ipam: Value) -> Pool {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("net")).unwrap();
    let config = host_local(folder.path(), &ipam, &json!({}));
    Pool { folder, config }
}

impl Pool {
    fn with(self, name: &str, text: &str) -> Self {
        fs::write(self.folder.path().join("net").join(name), text).unwrap();
        self
    }

    fn add(&self, container: &str) -> Result<Vec<String>, String> {
        call("ADD", container)
            .ours(&self.config)
            .map(|answer| addresses(&answer))
            .map_err(|error| error.to_string())
    }

    fn leased(&self) -> Vec<String> {
        leased(self.folder.path()).into_keys().collect()
    }

    fn gc(&self, valid: &[(&str, &str)]) {
        let mut config = self.config.clone();
        config["cniVersion"] = json!("1.1.0");
        config["cni.dev/valid-attachments"] = valid
            .iter()
            .map(|(container, interface)| json!({ "containerID": container, "ifname": interface }))
            .collect();
        call("GC", "").ours(&config).unwrap();
    }
}

#[test]
fn white_space_around_a_lease_does_not_hide_its_owner() {
    let pool = pool(json!({ "subnet": "10.1.2.0/24" }))
        .with("10.1.2.5", "\n c7\r\neth0 \n")
        .with("10.1.2.6", " c8 ");
    call("CHECK", "c7").ours(&pool.config).unwrap();
    call("CHECK", "c8").ours(&pool.config).unwrap();
    assert!(pool.add("c8").unwrap_err().contains("10.1.2.6 has been allocated to c8"));
    call("DEL", "c7").ours(&pool.config).unwrap();
    call("DEL", "c8").ours(&pool.config).unwrap();
    assert!(pool.leased().is_empty());
}

#[test]
fn a_lease_without_interface_goes_only_if_there_is_none_with_it() {
    let pool = pool(json!({ "subnet": "10.1.2.0/24" })).with("10.1.2.5", "c").with("10.1.2.6", "c\r\neth0");
    call("DEL", "c").ours(&pool.config).unwrap();
    assert_eq!(pool.leased(), ["10.1.2.5"]);
    call("DEL", "c").interface("net1").ours(&pool.config).unwrap();
    assert!(pool.leased().is_empty());
}

#[test]
fn del_of_unknown_container_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = host_local(folder.path(), &json!({ "subnet": "10.1.2.0/24" }), &json!({}));
    call("DEL", "c").ours(&config).unwrap();
    assert!(!folder.path().join("net").exists());
}

#[test]
fn del_needs_no_valid_ranges() {
    let pool = pool(json!({ "subnet": "10.1.2.3/24" })).with("10.1.2.5", "c\r\neth0");
    call("DEL", "c").ours(&pool.config).unwrap();
    assert!(pool.leased().is_empty());
}

#[test]
fn an_address_by_another_spelling_is_taken_and_released() {
    let pool = pool(json!({ "subnet": "fd00::/64" })).with("fd00:0::2", "c\r\neth0");
    assert_eq!(pool.add("d").unwrap(), ["fd00::3"]);
    call("DEL", "c").ours(&pool.config).unwrap();
    assert_eq!(pool.leased(), ["fd00::3"]);
}

/// /29 has five addresses besides the gateway's.
#[test]
fn empty_files_are_used_last_and_do_not_fill_the_range() {
    let pool = pool(json!({ "subnet": "10.1.2.0/29" })).with("10.1.2.2", "").with("10.1.2.4", "");
    for (container, address) in
        [("a", "10.1.2.3"), ("b", "10.1.2.5"), ("c", "10.1.2.6"), ("d", "10.1.2.2"), ("e", "10.1.2.4")]
    {
        assert_eq!(pool.add(container).unwrap(), [address]);
    }
    assert_eq!(leased(pool.folder.path())["10.1.2.2"], "d\r\neth0");
    let error = pool.add("f").unwrap_err();
    let full = "failed to allocate for range 0: no IP addresses available in range set: 10.1.2.1-10.1.2.6: \
                5 of 5 addresses are in use";
    assert_eq!(error, full);
}

#[test]
fn an_empty_file_does_not_refuse_who_asks_for_its_address() {
    let pool = pool(json!({ "subnet": "10.1.2.0/24" })).with("10.1.2.9", "");
    call("ADD", "a").args("IP=10.1.2.9").ours(&pool.config).unwrap();
    assert_eq!(leased(pool.folder.path())["10.1.2.9"], "a\r\neth0");
}

#[test]
fn who_died_while_reserving_harms_nobody() {
    let pool = pool(json!({ "subnet": "10.1.2.0/24" })).with("10.1.2.2", "a\r\neth0");
    let net = pool.folder.path().join("net");
    // Killed between giving the file its second name and taking the first away.
    fs::hard_link(net.join("10.1.2.2"), net.join(".reserving")).unwrap();
    assert_eq!(pool.add("b").unwrap(), ["10.1.2.3"]);
    let files = files(pool.folder.path());
    assert_eq!(files["10.1.2.2"], "a\r\neth0");
    assert_eq!(files["10.1.2.3"], "b\r\neth0");
    assert_eq!(files["last_reserved_ip.0"], "10.1.2.3");
    assert!(!files.contains_key(".reserving"));
}

#[test]
fn a_strange_last_reserved_ip_costs_only_the_order() {
    for text in ["", "junk", "fd00::1", "10.9.9.9", "10.1.2.254", " 10.1.2.1\n"] {
        let pool = pool(json!({ "subnet": "10.1.2.0/24" })).with("last_reserved_ip.0", text);
        assert_eq!(pool.add("a").unwrap(), ["10.1.2.2"], "{text:?}");
    }
}

#[test]
fn a_failed_add_takes_back_what_it_reserved_and_nothing_else() {
    let ranges = json!({ "ranges": [[{ "subnet": "10.1.2.0/24" }], [{ "subnet": "10.1.3.0/30" }]] });
    let pool = pool(ranges).with("10.1.3.2", "other\r\neth0").with("10.9.9.9", "a\r\neth0");
    let error = pool.add("a").unwrap_err();
    assert!(error.starts_with("failed to allocate for range 1: no IP addresses available"), "{error}");
    assert_eq!(pool.leased(), ["10.1.3.2", "10.9.9.9"]);
}

#[test]
fn what_cannot_be_written_down_is_not_given() {
    // Folders in the way: permissions do not stop root.
    for obstacle in ["last_reserved_ip.0", ".reserving"] {
        let pool = pool(json!({ "subnet": "10.1.2.0/24" }));
        fs::create_dir(pool.folder.path().join("net").join(obstacle)).unwrap();
        let error = call("ADD", "a").ours(&pool.config).unwrap_err();
        assert_eq!(error.code, 5, "{error}");
        assert!(error.msg.contains(&format!("/net/{obstacle}: ")), "{error}");
        assert!(pool.leased().is_empty());
    }
}

#[test]
fn networks_and_broadcast_addresses_and_gateways_are_never_given() {
    // The reference would give the first and the last.
    let pool1 = pool(
        json!({ "subnet": "10.1.2.0/29", "rangeStart": "10.1.2.0", "rangeEnd": "10.1.2.7", "gateway": "10.1.2.4" }),
    );
    let given: Vec<_> = (0..5).flat_map(|number| pool1.add(&format!("c{number}")).unwrap()).collect();
    assert_eq!(given, ["10.1.2.1", "10.1.2.2", "10.1.2.3", "10.1.2.5", "10.1.2.6"]);
    assert!(pool1.add("last").unwrap_err().contains("5 of 5"));

    let pool2 = pool(json!({ "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.0", "rangeEnd": "10.1.2.255" }));
    for address in ["10.1.2.0", "10.1.2.255", "10.1.2.1"] {
        let error = call("ADD", "a").args(&format!("IP={address}")).ours(&pool2.config).unwrap_err();
        assert!(error.msg.contains(address), "{error}");
    }
    let pool3 = pool(json!({ "subnet": "fd00::/126", "rangeStart": "fd00::" }));
    assert_eq!(pool3.add("a").unwrap(), ["fd00::2"]);
    assert_eq!(pool3.add("b").unwrap(), ["fd00::3"]);
    assert!(pool3.add("c").unwrap_err().contains("2 of 2"));

    // The gateway of one range lies in the other.
    let pool4 = pool(json!({ "ranges": [[
        { "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.2", "rangeEnd": "10.1.2.3", "gateway": "10.1.2.12" },
        { "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.12", "rangeEnd": "10.1.2.13", "gateway": "10.1.2.3" },
    ]] }));
    let given: Vec<_> = (0..2).flat_map(|number| pool4.add(&format!("c{number}")).unwrap()).collect();
    assert_eq!(given, ["10.1.2.2", "10.1.2.13"]);
    assert!(pool4.add("last").unwrap_err().contains("2 of 2"));
}

/// 2000 leases at the start of 2^64 addresses, and a last address at the very end.
#[test]
fn a_large_range_is_searched_by_its_leases() {
    let pool = pool(json!({ "subnet": "fd00::/64" })).with("last_reserved_ip.0", "fd00::ffff:ffff:ffff:ffff");
    let net = pool.folder.path().join("net");
    for number in 2..2000 {
        fs::write(net.join(format!("fd00::{number:x}")), "x\r\neth0").unwrap();
    }
    let start = Instant::now();
    assert_eq!(pool.add("a").unwrap(), ["fd00::7d0"]);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn gc_releases_what_is_not_valid_and_nothing_else() {
    let pool = pool(json!({ "subnet": "10.1.2.0/24" }))
        .with("10.1.2.2", "a\r\neth0")
        .with("10.1.2.3", "a\r\nnet1")
        .with("10.1.2.4", "b\r\neth0")
        .with("10.1.2.5", "a")
        .with("10.1.2.6", "gone")
        .with("10.1.2.7", "")
        .with("10.1.2.8", "three\r\nlines\r\nhere")
        .with("10.9.9.9", "of-a-range-that-was\r\neth0")
        .with("notes.txt", "gone\r\neth0")
        .with("last_reserved_ip.0", "10.1.2.5");
    let other = pool.folder.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("10.1.2.2"), "gone\r\neth0").unwrap();
    pool.gc(&[("a", "eth0"), ("unknown", "eth0")]);
    let left: Vec<String> = files(pool.folder.path()).into_keys().collect();
    assert_eq!(
        left,
        ["10.1.2.2", "10.1.2.5", "10.1.2.7", "10.1.2.8", "last_reserved_ip.0", "lock", "notes.txt"]
    );
    assert!(other.join("10.1.2.2").exists(), "another network's");
}

#[test]
fn what_is_no_file_is_taken_and_left() {
    let pool = pool(json!({ "subnet": "10.1.2.0/24" }));
    fs::create_dir(pool.folder.path().join("net/10.1.2.2")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, pool.folder.path().join("net/10.1.2.3"), 0o600.into()).unwrap();
    assert_eq!(pool.add("a").unwrap(), ["10.1.2.4"]);
    pool.gc(&[]);
    assert!(pool.folder.path().join("net/10.1.2.2").is_dir());
    assert!(pool.folder.path().join("net/10.1.2.3").exists());
}
