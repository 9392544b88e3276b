//! STATUS: whether an ADD would find an address.

use serde_json::{Value, json};

use super::bench::{call, files, host_local};

fn status(config: &Value) -> Result<Value, (u32, String)> {
    let mut config = config.clone();
    config["cniVersion"] = json!("1.1.0");
    call("STATUS", "").ours(&config).map_err(|error| (error.code, error.to_string()))
}

#[test]
fn a_full_range_is_not_ready_and_says_the_counts() {
    let folder = tempfile::tempdir().unwrap();
    let ranges = json!({ "ranges": [[{ "subnet": "10.1.2.0/24" }], [{ "subnet": "10.1.3.0/30" }]] });
    let config = host_local(folder.path(), &ranges, &json!({}));
    assert_eq!(status(&config), Ok(Value::Null));
    call("ADD", "a").ours(&config).unwrap();
    let full = "no IP addresses available in range set: 10.1.3.1-10.1.3.2: 1 of 1 addresses are in use";
    assert_eq!(status(&config), Err((50, full.to_owned())));
    call("DEL", "a").ours(&config).unwrap();
    // What an ADD would use, STATUS counts as free.
    std::fs::write(folder.path().join("net/10.1.3.2"), "").unwrap();
    assert_eq!(status(&config), Ok(Value::Null));
    let left: Vec<String> = files(folder.path()).into_keys().collect();
    assert_eq!(left, ["10.1.3.2", "last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for data_dir in [file.as_path(), "/proc/sluice".as_ref()] {
        let (code, text) =
            status(&host_local(data_dir, &json!({ "subnet": "10.1.2.0/24" }), &json!({}))).unwrap_err();
        assert_eq!(code, 50, "{text}");
        assert!(text.contains("dataDir") && text.contains(&data_dir.display().to_string()), "{text}");
        let config = host_local(data_dir, &json!({ "subnet": "10.1.2.0/24" }), &json!({}));
        assert_eq!(call("ADD", "a").ours(&config).unwrap_err().code, 5);
    }
}

#[test]
fn status_tries_to_write() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("net/.reserving")).unwrap();
    let (code, text) =
        status(&host_local(folder.path(), &json!({ "subnet": "10.1.2.0/24" }), &json!({}))).unwrap_err();
    assert_eq!(code, 50, "{text}");
}

#[test]
fn what_add_would_refuse_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let bad = host_local(folder.path(), &json!({ "subnet": "10.1.2.3/24" }), &json!({}));
    assert_eq!(status(&bad).unwrap_err().0, 7);
    let no_file = json!({ "subnet": "10.1.2.0/24", "resolvConf": "/nonexistent" });
    assert_eq!(status(&host_local(folder.path(), &no_file, &json!({}))).unwrap_err().0, 50);
    let fixed =
        json!({ "name": "net", "ipam": { "type": "static", "addresses": [{ "address": "10.1.2.3" }] } });
    assert_eq!(status(&fixed).unwrap_err().0, 7);
}

#[test]
fn without_ipam_every_verb_succeeds_and_gives_nothing() {
    for ipam in [json!({}), json!({ "ipam": {} }), json!({ "ipam": { "type": "" } }), json!({ "ipam": null })]
    {
        let mut config = json!({ "cniVersion": "1.1.0", "name": "net", "cni.dev/valid-attachments": [] });
        super::bench::merge(&mut config, &ipam);
        for verb in ["ADD", "CHECK", "DEL", "GC", "STATUS"] {
            assert_eq!(call(verb, "a").ours(&config), Ok(Value::Null), "{verb} {config}");
        }
    }
}
