//! What we tell a cluster, and what the book tells its administrator, is what the code does: manifests are valid, and their
//! names, paths and keys are the code's.
#![expect(clippy::tests_outside_test_module, clippy::indexing_slicing, reason = "the whole file is tests")]

mod manifests_support;

use std::collections::BTreeSet;
use std::fs;

use binding_sidecar::names;
use binding_sidecar::vmi::{Place, annotation_keys, plan};
use serde_json::{Value, json};

use manifests_support::{
    assert_strict, bindings, check, file_name, files, list, manifest, manifests, of_kind, root, schema,
    schemas_of, tests_folder, text, texts,
};

/// KubeVirt's user for VMs, and its group.
const USER: &str = "107:107";

#[test]
fn each_manifest_is_one_object_and_valid() {
    let manifests = manifests();
    assert!(manifests.len() > 20, "found {} manifests only", manifests.len());
    let faults: Vec<String> = manifests
        .iter()
        .filter_map(|(path, object)| check(path, object).err().map(|error| format!("{path}: {error:#}")))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn each_schema_is_used_and_strict() {
    let used: BTreeSet<String> =
        manifests().iter().flat_map(|(path, object)| schemas_of(path, object)).collect();
    let present: BTreeSet<String> =
        files(&tests_folder().join("schema")).iter().map(|path| file_name(path)).collect();
    assert_eq!(present, used);
    for name in present {
        assert_strict(&name, &schema(&name).unwrap());
    }
}

#[test]
fn misspelled_and_impossible_fields_are_refused() {
    let refused = |pointer: &str, value: Value, word: &str| {
        let mut vm = manifest("examples/ports.yaml");
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let Some(Value::Object(parent)) = vm.pointer_mut(parent) else { panic!("no {pointer}") };
        parent.insert(field.to_owned(), value);
        let error = check("examples/ports.yaml", &vm).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    const NIC: &str = "/spec/template/spec/domain/devices/interfaces/0";
    refused(&format!("{NIC}/port"), json!([]), "'port'");
    refused(&format!("{NIC}/ports/0/port"), json!(0), "minimum");
    refused(&format!("{NIC}/macAddress"), json!("02:00:00:00:01"), "02:00:00:00:01");
    refused("/spec/template/spec/network", json!([]), "'network'");
    refused("/kind", json!("VirtualMachin"), "VirtualMachin.json");
}

#[test]
fn kustomizations_name_files_that_exist_and_no_manifest_is_left_out() {
    let mut named = BTreeSet::new();
    for (path, object) in manifests().iter().filter(|(path, _)| path.ends_with("kustomization.yaml")) {
        let folder = path.strip_suffix("kustomization.yaml").unwrap();
        let lists = ["resources", "components", "configurations"].iter().flat_map(|key| texts(&object[*key]));
        let patches = list(&object["patches"]).iter().filter_map(|patch| patch["path"].as_str());
        named.extend(lists.chain(patches).map(|file| format!("{folder}{file}")));
    }
    let present: BTreeSet<String> = manifests()
        .into_keys()
        // Those are for VMs and networks of a site, one by one.
        .filter(|path| !path.starts_with("examples/") && !path.starts_with("networks/"))
        .filter(|path| !path.ends_with("kustomization.yaml"))
        .collect();
    assert_eq!(named, present);
    let text = fs::read_to_string(root().join("manifests/kustomization.yaml")).unwrap();
    let optional = text.lines().filter_map(|line| line.strip_prefix("#   - "));
    for folder in optional {
        assert!(root().join("manifests").join(folder).join("kustomization.yaml").is_file(), "no {folder}");
    }
}

#[test]
fn registration_is_under_our_name_with_one_image() {
    let image = format!("sluice/sluice-sidecar:{}", env!("CARGO_PKG_VERSION"));
    for (path, object) in of_kind("KubeVirt") {
        let Some(bindings) = bindings(&object) else { continue };
        let (name, binding) = bindings.iter().next().unwrap();
        assert_eq!(name, names::DEFAULT_BINDING_NAME, "{path}");
        // Others have no sidecar (`networks.rs`).
        assert!(bindings.values().skip(1).all(|other| other.get("sidecarImage").is_none()), "{path}");
        if let Some(found) = binding["sidecarImage"].as_str() {
            assert_eq!(found, image, "{path}");
            // An empty object is what makes VMs migratable; a method would rewrite the running VM's interface.
            assert_eq!(binding["migration"], json!({}), "{path}");
        }
    }
    let kustomization = manifest("kustomization.yaml");
    let found = &kustomization["images"][0];
    let [name, new_name, tag] = ["name", "newName", "newTag"].map(|field| found[field].as_str().unwrap());
    assert_eq!(name, new_name);
    assert_eq!(format!("{name}:{tag}"), image);
    let fields = manifest("image-fields.yaml");
    let path = format!("spec/configuration/network/binding/{}/sidecarImage", names::DEFAULT_BINDING_NAME);
    assert_eq!(fields["images"], json!([{ "kind": "KubeVirt", "path": path }]));
}

#[test]
fn plugin_and_its_policy_lead_to_the_sidecars_socket() {
    let plugin = manifest("plugin/plugin.yaml");
    let folder = format!("{}/{}", names::PLUGINS_FOLDER, names::PLUGIN);
    assert_eq!(plugin["metadata"]["name"], json!(names::PLUGIN));
    let socket = format!("{folder}/{}", names::PLUGIN_SOCKET);
    assert_eq!(plugin["spec"]["domainHooks"], json!([{ "sidecar": { "socketPath": socket } }]));
    let condition = text(&plugin["spec"]["condition"]);
    assert!(condition.contains(&format!("\"{}\"", names::DEFAULT_BINDING_NAME)), "{condition}");

    let policy = manifest("plugin/mutating-admission-policy.yaml");
    let name = &policy["metadata"]["name"];
    assert_eq!(plugin["spec"]["mutatingAdmissionPolicies"], json!([{ "name": name }]));
    let bound = manifest("plugin/mutating-admission-policy-binding.yaml");
    assert_eq!(&bound["spec"]["policyName"], name);
    let expression = text(&policy["spec"]["mutations"][0]["applyConfiguration"]["expression"]);
    let said = [
        format!("e.name == \"{}\"", names::BINDING_NAME),
        format!("e.value == \"{}\"", names::DEFAULT_BINDING_NAME),
        format!("mountPath: \"{folder}\""),
        format!("subPath: \"{}\"", names::PLUGIN),
    ];
    for part in said {
        assert!(expression.contains(&part), "no {part} in {expression}");
    }
}

#[test]
fn image_has_the_programs_where_the_code_expects_them() {
    let text = fs::read_to_string(root().join("Containerfile")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let has = |line: String| assert!(lines.contains(&line.as_str()), "no line {line} in\n{text}");
    let [sidecar, translator] =
        [names::SIDECAR_PROGRAM, names::TRANSLATOR_PROGRAM].map(|path| path.strip_prefix('/').unwrap());
    has("FROM scratch".to_owned());
    has(format!("COPY {sidecar} {translator} /"));
    has(format!("USER {USER}"));
    has(format!("ENTRYPOINT [\"{}\"]", names::SIDECAR_PROGRAM));
}

#[test]
fn examples_use_our_bindings_and_fit_together() {
    let registered: BTreeSet<String> = of_kind("KubeVirt")
        .iter()
        .filter_map(|(_, kubevirt)| bindings(kubevirt))
        .flat_map(|bindings| bindings.keys().cloned())
        .collect();
    let vmis = vmis();
    assert!(vmis.len() >= 8, "found {} examples only", vmis.len());
    for (path, vmi) in vmis {
        let spec = &vmi["spec"];
        let devices = &spec["domain"]["devices"];
        let named = |objects: &Value| -> BTreeSet<String> {
            list(objects).iter().map(|object| text(&object["name"]).to_owned()).collect()
        };
        assert_eq!(named(&devices["interfaces"]), named(&spec["networks"]), "{path}");
        assert_eq!(named(&devices["disks"]), named(&spec["volumes"]), "{path}");
        for interface in list(&devices["interfaces"]) {
            let binding = text(&interface["binding"]["name"]);
            assert!(registered.contains(binding), "{path}: nobody registers {binding}");
        }
        // Services find it by this label.
        assert_eq!(vmi["metadata"]["labels"]["kubevirt.io/vm"], vmi["metadata"]["name"], "{path}");
    }
}

#[test]
fn examples_show_each_annotation_and_no_other() {
    let mut shown = BTreeSet::new();
    for (path, vmi) in vmis() {
        let Some(annotations) = vmi["metadata"]["annotations"].as_object() else { continue };
        for key in annotations.keys().filter_map(|key| key.strip_prefix(names::ANNOTATIONS)) {
            let (key, interface) = key.split_once('.').unwrap_or((key, ""));
            let interfaces = list(&vmi["spec"]["domain"]["devices"]["interfaces"]);
            let is_there = interfaces.iter().any(|one| text(&one["name"]) == interface);
            assert!(interface.is_empty() || is_there, "{path}: no interface {interface}");
            shown.insert(key.to_owned());
        }
    }
    assert_eq!(shown, annotation_keys().map(str::to_owned).into());
}

#[test]
fn each_example_is_served() {
    let place = Place {
        binding: names::DEFAULT_BINDING_NAME.to_owned(),
        links: [("eth0".to_owned(), 1500), ("net1".to_owned(), 1500)].into(),
        search: Vec::new(),
    };
    let ours = |vmi: &Value| {
        let interfaces = list(&vmi["spec"]["domain"]["devices"]["interfaces"]);
        interfaces.iter().any(|one| one["binding"]["name"] == json!(names::DEFAULT_BINDING_NAME))
    };
    for (path, vmi) in vmis().into_iter().filter(|(_, vmi)| ours(vmi)) {
        let plan = plan(vmi.to_string().as_bytes(), &place).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(!plan.nics.is_empty(), "{path}: no NIC of ours");
    }
}

#[test]
fn book_names_each_annotation_and_no_other() {
    let text = fs::read_to_string(root().join("docs/kubevirt.md")).unwrap();
    let start = format!("| `{}", names::ANNOTATIONS);
    let rows = text.lines().filter_map(|line| line.strip_prefix(&start));
    let keys: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    assert_eq!(keys, annotation_keys());
}

/// The VMIs that KubeVirt would make of the examples, as hooks are given them: with metadata from VM and template, and with
/// the pod's interfaces in the status.
fn vmis() -> Vec<(String, Value)> {
    let vmi = |vm: &Value| {
        let template = &vm["spec"]["template"];
        let networks = list(&template["spec"]["networks"]);
        let status = networks.iter().enumerate().map(|(position, network)| {
            // The ordinal scheme: hashed names are for tests of the code that computes them.
            let pod_interface =
                if network["pod"].is_object() { "eth0".to_owned() } else { format!("net{position}") };
            json!({ "name": network["name"], "podInterfaceName": pod_interface })
        });
        json!({
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstance",
            "metadata": {
                "name": vm["metadata"]["name"],
                "namespace": "default",
                "uid": "5b2a8f0e-64e6-4f0e-9c3e-1f6a0f6f2a11",
                "labels": template["metadata"].get("labels").cloned().unwrap_or_else(|| json!({})),
                "annotations": template["metadata"].get("annotations").cloned().unwrap_or_else(|| json!({})),
            },
            "spec": template["spec"],
            "status": { "interfaces": status.collect::<Vec<_>>() },
        })
    };
    of_kind("VirtualMachine").into_iter().map(|(path, vm)| (path, vmi(&vm))).collect()
}
