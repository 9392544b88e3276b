//! The CNI plugin's manifests fit together, with the book, and with what KubeVirt does of them.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the whole file is tests"
)]

mod manifests_support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Value, json};

use manifests_support::{
    bindings, check, cni_configs, keys, list, manifest, manifests, modes, of_kind, plugins, root, text, texts,
};

/// The program, as configurations name it.
const PLUGIN: &str = "sluice";

/// Adds a tap to what another plugin made; and takes what the network's own definition made.
const BESIDE: &str = "sluice-tap";
const WIRED: &str = "sluice-wired";

#[test]
fn each_mode_has_a_network_and_no_other_has() {
    let shown: BTreeSet<String> = ours().iter().map(|(_, plugin)| text(&plugin["mode"]).to_owned()).collect();
    assert_eq!(shown, modes().into_iter().collect());
    // The code's own list of them.
    let code = fs::read_to_string(root().join("cni/src/wiring/mod.rs")).unwrap();
    let rows =
        code.lines().filter_map(|line| line.strip_prefix("//! | `")).filter_map(|row| row.split('`').next());
    assert_eq!(rows.map(str::to_owned).collect::<BTreeSet<_>>(), shown);
}

#[test]
fn networks_are_called_as_their_definitions_and_no_two_alike() {
    let mut names = BTreeSet::new();
    for (path, object) in of_kind("NetworkAttachmentDefinition") {
        let config = &cni_configs(&path, &object).unwrap()[0];
        assert_eq!(config["name"], object["metadata"]["name"], "{path}");
        // The one that Multus lets all others refer to.
        assert_eq!(object["metadata"]["namespace"], json!("default"), "{path}");
        assert!(names.insert(text(&config["name"]).to_owned()), "{path}: another has this name");
    }
}

#[test]
fn wrong_values_are_refused() {
    let refused = |file: &str, key: &str, value: Value, word: &str| {
        let path = format!("networks/{file}");
        let mut object = manifest(&path);
        let mut config: Value = serde_json::from_str(text(&object["spec"]["config"])).unwrap();
        config[key] = value;
        object["spec"]["config"] = json!(config.to_string());
        let error = check(&path, &object).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    refused("bridge.yaml", "mode", json!("brigde"), "brigde");
    refused("bridge.yaml", "brigde", json!("br0"), "'brigde'");
    refused("bridge.yaml", "vni", json!(1), "'vni'");
    refused("bridge-vlan.yaml", "vlan", json!(5000), "4094");
    refused("bridge.yaml", "bridge", json!("a-name-too-long-"), "a-name-too-long-");
    refused("vxlan.yaml", "peers", json!(["198.51.100"]), "198.51.100");
    refused("bridge.yaml", "capabilities", json!({ "macs": true }), "'macs'");
}

#[test]
fn bindings_are_called_once_for_each_tap() {
    let kubevirt = manifest("cni/kubevirt.yaml");
    let registered = bindings(&kubevirt).unwrap();
    assert_eq!(registered.keys().collect::<Vec<_>>(), [PLUGIN, BESIDE, WIRED]);
    let mode = |binding: &str| {
        let (namespace, name) =
            text(&registered[binding]["networkAttachmentDefinition"]).split_once('/').unwrap();
        let object = manifest(&format!("cni/{name}.yaml"));
        assert_eq!([&object["metadata"]["namespace"], &object["metadata"]["name"]], [namespace, name]);
        let config = cni_configs("", &object).unwrap().remove(0);
        assert_eq!(config["type"], json!(PLUGIN));
        config["mode"].clone()
    };
    assert_eq!(mode(PLUGIN), json!("passt"));
    assert_eq!(registered[PLUGIN].get("domainAttachmentType"), None);
    assert_eq!(mode(BESIDE), json!("tap"));
    assert_eq!(registered[WIRED].get("networkAttachmentDefinition"), None);
    for binding in [BESIDE, WIRED] {
        assert_eq!(registered[binding]["domainAttachmentType"], json!("tap"), "{binding}");
        // An empty object is what makes VMs migratable.
        assert_eq!(registered[binding]["migration"], json!({}), "{binding}");
    }
}

#[test]
fn examples_name_the_binding_that_their_network_needs() {
    let definitions: BTreeMap<String, Vec<Value>> = of_kind("NetworkAttachmentDefinition")
        .into_iter()
        .map(|(path, object)| {
            let name =
                format!("{}/{}", text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
            (name, plugins(&cni_configs(&path, &object).unwrap()[0]))
        })
        .collect();
    let mut shown = BTreeSet::new();
    for (path, vm) in of_kind("VirtualMachine") {
        let spec = &vm["spec"]["template"]["spec"];
        for interface in list(&spec["domain"]["devices"]["interfaces"]) {
            let network =
                list(&spec["networks"]).iter().find(|one| one["name"] == interface["name"]).unwrap();
            let last =
                network["multus"]["networkName"].as_str().map(|name| definitions[name].last().unwrap());
            let wired = last.is_some_and(|plugin| {
                let for_vms = plugin["tap"] != json!(false) && plugin["mode"] != json!("macvlan");
                plugin["type"] == json!(PLUGIN) && for_vms
            });
            let binding = text(&interface["binding"]["name"]);
            assert_eq!(binding == WIRED, wired, "{path}: {}", interface["name"]);
            // Cluster networks drop what has another MAC than the pod's.
            let primary = binding == BESIDE && last.is_none();
            assert!(!primary || interface.get("macAddress").is_none(), "{path}");
            shown.insert(binding.to_owned());
        }
    }
    assert_eq!(shown, [PLUGIN, BESIDE, WIRED].map(str::to_owned).into());
}

#[test]
fn only_the_labs_cluster_network_is_for_containers_and_says_lab() {
    for (path, plugin) in ours().iter().filter(|(_, plugin)| plugin.get("tap").is_some()) {
        assert_eq!(plugin["tap"], json!(false), "{path}");
        assert!(path.contains("/lab-"), "{path}");
    }
}

#[test]
fn daemon_set_installs_this_version_from_our_image() {
    let version = env!("CARGO_PKG_VERSION");
    let daemons = manifest("cni/daemon-set.yaml");
    let pod = &daemons["spec"]["template"];
    for labels in [&daemons["metadata"]["labels"], &pod["metadata"]["labels"]] {
        assert_eq!(labels["app.kubernetes.io/version"], json!(version));
    }
    let selected = daemons["spec"]["selector"]["matchLabels"].as_object().unwrap();
    assert!(selected.iter().all(|(key, value)| pod["metadata"]["labels"][key] == *value));
    // A version in it would make the selector, which cannot be changed, fit one version only.
    assert!(!selected.contains_key("app.kubernetes.io/version"));

    let [container] = list(&pod["spec"]["containers"]) else { panic!("not one container") };
    let image = format!("sluice/sluice-cni:{version}");
    assert_eq!(container["image"], json!(image));
    let kustomization = manifest("kustomization.yaml");
    let found = &list(&kustomization["images"])[1];
    assert_eq!(format!("{}:{}", text(&found["name"]), text(&found["newTag"])), image);
    assert_eq!(found["name"], found["newName"]);

    let [mount] = list(&container["volumeMounts"]) else { panic!("not one mount") };
    let to = format!("--to={}", text(&mount["mountPath"]));
    assert_eq!(texts(&container["args"]).collect::<Vec<_>>(), ["install", to.as_str(), "--wait"]);
    let [volume] = list(&pod["spec"]["volumes"]) else { panic!("not one volume") };
    assert_eq!(volume["name"], mount["name"]);
    // A folder that is made here is one in which no runtime looks.
    assert_eq!(volume["hostPath"], json!({ "path": "/opt/cni/bin", "type": "Directory" }));

    let security = &container["securityContext"];
    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(security["readOnlyRootFilesystem"], json!(true));
    assert_eq!(security["allowPrivilegeEscalation"], json!(false));
    assert_eq!(pod["spec"]["automountServiceAccountToken"], json!(false));
    assert_eq!(pod["spec"]["tolerations"], json!([{ "operator": "Exists" }]));

    let file = fs::read_to_string(root().join("cni/Containerfile")).unwrap();
    for line in ["FROM scratch", "COPY sluice-cni /sluice", "ENTRYPOINT [\"/sluice\"]"] {
        assert!(file.lines().any(|one| one == line), "no line {line} in\n{file}");
    }
}

#[test]
fn everything_of_the_daemon_set_is_in_its_namespace_and_openshift_changes_what_is_there() {
    let daemons = manifest("cni/daemon-set.yaml");
    let namespace = &manifest("cni/namespace.yaml")["metadata"]["name"];
    let account = manifest("cni/service-account.yaml");
    let binding = manifest("cni-openshift/role-binding.yaml");
    for metadata in
        [&daemons["metadata"], &account["metadata"], &binding["metadata"], &binding["subjects"][0]]
    {
        assert_eq!(&metadata["namespace"], namespace);
    }
    let name = &account["metadata"]["name"];
    assert_eq!(&daemons["spec"]["template"]["spec"]["serviceAccountName"], name);
    assert_eq!(&binding["subjects"][0]["name"], name);

    let patch = manifest("cni-openshift/daemon-set.yaml");
    assert_eq!(patch["metadata"]["name"], daemons["metadata"]["name"]);
    for lists in ["containers", "volumes"] {
        let of = |object: &Value| list(&object["spec"]["template"]["spec"][lists])[0]["name"].clone();
        assert_eq!(of(&patch), of(&daemons), "{lists}");
    }
    let target = &manifest("cni-openshift/kustomization.yaml")["patches"][0]["target"];
    assert_eq!(target, &json!({ "kind": "DaemonSet", "name": daemons["metadata"]["name"] }));
}

#[test]
fn book_has_the_keys_of_each_mode_and_no_other() {
    let book = book();
    assert_eq!(keys_in(&book, "## Keys of every mode"), keys(None));
    for mode in modes() {
        assert_eq!(keys_in(&book, &format!("## Mode `{mode}`")), keys(Some(&mode)), "mode {mode}");
    }
}

#[test]
fn book_explains_each_key_that_a_network_uses() {
    fn collect(value: &Value, keys: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                keys.extend(fields.keys().cloned());
                fields.values().for_each(|value| collect(value, keys));
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, keys)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let book = book();
    let mut used = BTreeSet::new();
    ours().iter().for_each(|(_, plugin)| collect(plugin, &mut used));
    assert!(used.len() > 30, "{used:?}");
    for key in used {
        let said = [format!("`{key}`"), format!("\"{key}\"")].iter().any(|word| book.contains(word));
        assert!(said, "docs/networks.md does not know the key {key}");
    }
}

#[test]
fn book_leads_to_each_network() {
    let book = book();
    let used = manifests().into_iter().filter(|(path, object)| {
        let definition = path.starts_with("networks/") || path.starts_with("cni/sluice-");
        let plugins = cni_configs(path, object).unwrap().iter().flat_map(plugins).collect::<Vec<_>>();
        definition && plugins.len() == 1
    });
    for (path, _) in used.filter(|(path, _)| !path.ends_with("vxlan-multicast.yaml")) {
        assert!(book.contains(&format!("(../manifests/{path})")), "docs/networks.md has no link to {path}");
    }
}

/// Configurations of our plugin in all manifests, as it is given them.
fn ours() -> Vec<(String, Value)> {
    let of = |(path, object): (String, Value)| -> Vec<(String, Value)> {
        let configs = cni_configs(&path, &object).unwrap();
        let plugins = configs.iter().flat_map(plugins).filter(|plugin| plugin["type"] == json!(PLUGIN));
        plugins.map(|plugin| (path.clone(), plugin)).collect()
    };
    manifests().into_iter().flat_map(of).collect()
}

fn book() -> String {
    fs::read_to_string(root().join("docs/networks.md")).unwrap()
}

/// Words of code in the first column of the tables below a heading.
fn keys_in(book: &str, heading: &str) -> BTreeSet<String> {
    let section = book.lines().skip_while(|line| *line != heading).skip(1);
    let rows = section.take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| `"));
    assert!(book.lines().any(|line| line == heading), "no section {heading}");
    rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}
