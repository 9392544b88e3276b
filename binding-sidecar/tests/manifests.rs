//! What we tell a cluster, and what the book tells its administrator, is what the code does: manifests are valid, and their
//! names, paths and keys are the code's.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the whole file is tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use binding_sidecar::names;
use binding_sidecar::vmi::{Place, annotation_keys, plan};
use serde_json::{Value, json};

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
    let used: BTreeSet<String> = manifests()
        .iter()
        .flat_map(|(path, object)| [Some(schema_name(path, object)), cni_schema_name(object)])
        .flatten()
        .collect();
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
        .filter(|path| !path.starts_with("examples/") && !path.ends_with("kustomization.yaml"))
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
    const BINDING: &str = "/spec/configuration/network/binding";
    let image = format!("sluice/sluice-sidecar:{}", env!("CARGO_PKG_VERSION"));
    for (path, object) in of_kind("KubeVirt") {
        let Some(bindings) = object.pointer(BINDING) else { continue };
        let names: Vec<&String> = bindings.as_object().unwrap().keys().collect();
        assert_eq!(names, [names::DEFAULT_BINDING_NAME], "{path}");
        let binding = &bindings[names::DEFAULT_BINDING_NAME];
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
    let path = format!("{}/{}/sidecarImage", BINDING.trim_start_matches('/'), names::DEFAULT_BINDING_NAME);
    assert_eq!(fields["images"], json!([{ "kind": "KubeVirt", "path": path }]));
}

#[test]
fn registration_names_the_attachment_that_is_there() {
    let binding = manifest("cni/kubevirt.yaml");
    let binding = &binding["spec"]["configuration"]["network"]["binding"][names::DEFAULT_BINDING_NAME];
    let metadata = &manifest("cni/network-attachment-definition.yaml")["metadata"];
    let name = format!("{}/{}", text(&metadata["namespace"]), text(&metadata["name"]));
    assert_eq!(binding["networkAttachmentDefinition"], json!(name));
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
fn examples_use_our_binding_and_fit_together() {
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
            assert_eq!(interface["binding"]["name"], json!(names::DEFAULT_BINDING_NAME), "{path}");
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
    for (path, vmi) in vmis() {
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

/// Every file below `manifests`, by its path from there.
fn manifests() -> BTreeMap<String, Value> {
    let folder = root().join("manifests");
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned();
        assert!(name.ends_with(".yaml"), "{name} is no manifest");
        let text = fs::read_to_string(&path).unwrap();
        // A second object in one file is an error here.
        let object = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, object)
    };
    files(&folder).into_iter().map(read).collect()
}

fn manifest(path: &str) -> Value {
    manifests().remove(path).unwrap_or_else(|| panic!("no manifests/{path}"))
}

fn of_kind(kind: &str) -> Vec<(String, Value)> {
    manifests().into_iter().filter(|(_, object)| object["kind"] == json!(kind)).collect()
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

/// Whether an object is what its kind's schema says, and the CNI configuration in it what its type's says.
fn check(path: &str, object: &Value) -> Result<()> {
    validate(&schema_name(path, object), object)?;
    if let Some(name) = cni_schema_name(object) {
        let text = object["spec"]["config"].as_str().context("no configuration")?;
        let config: Value = serde_json::from_str(text).context("the configuration is not JSON")?;
        validate(&name, &config)?;
    }
    Ok(())
}

fn validate(name: &str, object: &Value) -> Result<()> {
    let schema = schema(name)?;
    let validator = jsonschema::options().should_validate_formats(true).build(&schema);
    let validator = validator.map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
    let faults: Vec<String> =
        validator.iter_errors(object).map(|error| format!("{}: {error}", error.instance_path())).collect();
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

/// By kind; kustomize's own configuration has none, so by file.
fn schema_name(path: &str, object: &Value) -> String {
    let file = file_name(Path::new(path));
    let name = object["kind"].as_str().unwrap_or_else(|| file.trim_end_matches(".yaml"));
    format!("{name}.json")
}

fn cni_schema_name(object: &Value) -> Option<String> {
    let config: Value = serde_json::from_str(object["spec"]["config"].as_str()?).ok()?;
    Some(format!("cni-{}.json", config["type"].as_str()?))
}

fn schema(name: &str) -> Result<Value> {
    let path = tests_folder().join("schema").join(name);
    let Ok(text) = fs::read_to_string(&path) else { bail!("there is no schema {name}") };
    serde_json::from_str(&text).with_context(|| name.to_owned())
}

/// No object of a schema leaves room for fields that nobody thought of.
fn assert_strict(at: &str, schema: &Value) {
    match schema {
        Value::Object(fields) => {
            if fields.contains_key("properties") {
                assert_eq!(fields.get("additionalProperties"), Some(&json!(false)), "{at} is not strict");
            }
            for (name, value) in fields {
                assert_strict(&format!("{at}/{name}"), value);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| assert_strict(at, value)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Files in and below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    list(value).iter().map(text)
}

fn tests_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
