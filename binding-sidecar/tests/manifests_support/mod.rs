//! Manifests as they are in the repository, and whether they are valid. Several test programs share this, and each uses
//! some of it.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "each test program uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};

/// What a list of CNI plugins, which is a file of its own, ends with.
const CONFLIST: &str = ".conflist";

/// Every file below `manifests`, by its path from there.
pub(crate) fn manifests() -> BTreeMap<String, Value> {
    let folder = root().join("manifests");
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let object = if name.ends_with(CONFLIST) {
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
        } else {
            assert!(name.ends_with(".yaml"), "{name} is no manifest");
            // A second object in one file is an error here.
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        (name, object)
    };
    files(&folder).into_iter().map(read).collect()
}

pub(crate) fn manifest(path: &str) -> Value {
    manifests().remove(path).unwrap_or_else(|| panic!("no manifests/{path}"))
}

pub(crate) fn of_kind(kind: &str) -> Vec<(String, Value)> {
    manifests().into_iter().filter(|(_, object)| object["kind"] == json!(kind)).collect()
}

/// Bindings that a KubeVirt object registers.
pub(crate) fn bindings(kubevirt: &Value) -> Option<&Map<String, Value>> {
    kubevirt.pointer("/spec/configuration/network/binding").and_then(Value::as_object)
}

/// A CNI configuration in a manifest, as an administrator writes it: of one plugin, or a list of them.
pub(crate) fn cni_configs(path: &str, object: &Value) -> Result<Vec<Value>> {
    if path.ends_with(CONFLIST) {
        return Ok(vec![object.clone()]);
    }
    let additional =
        list(&object["spec"]["additionalNetworks"]).iter().map(|network| &network["rawCNIConfig"]);
    let texts = additional.chain([&object["spec"]["config"]]).filter_map(Value::as_str);
    texts.map(|text| serde_json::from_str(text).context("the configuration is not JSON")).collect()
}

/// What each plugin of a configuration is given: members of a list get the list's name and version.
pub(crate) fn plugins(config: &Value) -> Vec<Value> {
    let Some(plugins) = config["plugins"].as_array() else { return vec![config.clone()] };
    let given = |plugin: &Value| {
        let mut plugin = plugin.clone();
        for key in ["cniVersion", "name"] {
            plugin[key] = config[key].clone();
        }
        plugin
    };
    plugins.iter().map(given).collect()
}

/// Whether an object is what its kind's schema says, and the CNI configurations in it what their types' say.
pub(crate) fn check(path: &str, object: &Value) -> Result<()> {
    if let Some(name) = schema_name(path, object) {
        validate(&name, object)?;
    }
    for config in cni_configs(path, object)? {
        if config["plugins"].is_array() {
            let keys: BTreeSet<&str> =
                config.as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect();
            ensure!(keys == ["cniVersion", "name", "plugins"].into(), "a list with keys {keys:?}");
        }
        for plugin in plugins(&config) {
            validate(&cni_schema_name(&plugin)?, &plugin)?;
        }
    }
    Ok(())
}

/// Schemas that [`check`] looks into for an object.
pub(crate) fn schemas_of(path: &str, object: &Value) -> Vec<String> {
    let plugins = cni_configs(path, object).unwrap().iter().flat_map(plugins).collect::<Vec<_>>();
    let of_plugins = plugins.iter().map(|plugin| cni_schema_name(plugin).unwrap());
    schema_name(path, object).into_iter().chain(of_plugins).collect()
}

/// Keys that the schema of our plugin has for a mode, besides those of every mode; for every mode, where none is given.
pub(crate) fn keys(mode: Option<&str>) -> BTreeSet<String> {
    let schema = schema("cni-sluice.json").unwrap();
    let part = mode.map_or(&schema["everyMode"], |mode| &schema["modes"][mode]);
    part["properties"].as_object().unwrap().keys().cloned().collect()
}

pub(crate) fn modes() -> Vec<String> {
    schema("cni-sluice.json").unwrap()["modes"].as_object().unwrap().keys().cloned().collect()
}

fn validate(name: &str, object: &Value) -> Result<()> {
    let mut schema = schema(name)?;
    if let Some(modes) = schema.get("modes") {
        schema = of_mode(&schema, modes, object)?;
    }
    let validator = jsonschema::options().should_validate_formats(true).build(&schema);
    let validator = validator.map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
    let faults: Vec<String> =
        validator.iter_errors(object).map(|error| format!("{}: {error}", error.instance_path())).collect();
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

/// The schema of a configuration's mode: keys that every mode has, and its own.
fn of_mode(schema: &Value, modes: &Value, config: &Value) -> Result<Value> {
    let mode = config["mode"].as_str().unwrap_or("tap");
    let own = modes.get(mode).with_context(|| format!("there is no mode {mode}"))?;
    let mut joined = schema["everyMode"].clone();
    let properties = joined["properties"].as_object_mut().context("no properties")?;
    properties.extend(own["properties"].as_object().context("no properties")?.clone());
    let required = ["cniVersion", "name", "type", "mode"].map(Value::from);
    joined["required"] = required.into_iter().chain(list(&own["required"]).iter().cloned()).collect();
    joined["$defs"] = schema["$defs"].clone();
    Ok(joined)
}

/// By kind; kustomize's own configuration has none, so by file.
fn schema_name(path: &str, object: &Value) -> Option<String> {
    if path.ends_with(CONFLIST) {
        return None;
    }
    let file = file_name(Path::new(path));
    let name = object["kind"].as_str().unwrap_or_else(|| file.trim_end_matches(".yaml"));
    Some(format!("{name}.json"))
}

fn cni_schema_name(plugin: &Value) -> Result<String> {
    Ok(format!("cni-{}.json", plugin["type"].as_str().context("a plugin without type")?))
}

pub(crate) fn schema(name: &str) -> Result<Value> {
    let path = tests_folder().join("schema").join(name);
    let Ok(text) = fs::read_to_string(&path) else { bail!("there is no schema {name}") };
    serde_json::from_str(&text).with_context(|| name.to_owned())
}

/// No object of a schema leaves room for fields that nobody thought of.
pub(crate) fn assert_strict(at: &str, schema: &Value) {
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
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn texts(value: &Value) -> impl Iterator<Item = &str> {
    list(value).iter().map(text)
}

pub(crate) fn tests_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
