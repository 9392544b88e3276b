//! The code takes every network that `manifests` offers. What a schema says of keys and values is elsewhere
//! (`binding-sidecar/tests/networks.rs`); here it is the plugin itself that reads them.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the whole file is tests"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sluice_cni::attachment::Attachment;
use sluice_cni::protocol::{CniError, Config, Environment};
use sluice_cni::wiring::{self, Call, Settings};

#[test]
fn each_network_is_accepted() {
    let mut modes = BTreeSet::new();
    for (path, config) in configs() {
        let call = call(&config).unwrap_or_else(|error| panic!("{path}: {error}"));
        wiring::of(&call).unwrap_or_else(|error| panic!("{path}: {error}"));
        modes.insert(call.settings.mode.as_str());
    }
    assert_eq!(modes.len(), 9, "{modes:?}");
}

#[test]
fn a_network_with_a_mistake_is_not() {
    for (path, mut config) in configs() {
        config["mtu"] = 20.into();
        let error = call(&config).unwrap_err();
        assert_eq!(error.code, 7, "{path}: {error}");
    }
}

fn call(config: &Value) -> Result<Call, CniError> {
    let environment = Environment::read(|name| {
        let value = match name {
            "CNI_COMMAND" => "ADD",
            "CNI_CONTAINERID" => "container",
            "CNI_NETNS" => "/run/netns/container",
            "CNI_IFNAME" => "net1",
            "CNI_PATH" => "/opt/cni/bin",
            _ => return None,
        };
        Some(value.to_owned())
    })?;
    let config = Config::parse(config.to_string().as_bytes())?;
    let attachment = Attachment {
        network: config.name.clone(),
        container: environment.container_id.clone(),
        interface: environment.interface.clone(),
        beside: None,
    };
    let settings = Settings::read(&config)?;
    Ok(Call { environment, config, attachment, settings })
}

/// Configurations of our plugin, as it is given them, each with its file's name.
fn configs() -> Vec<(String, Value)> {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("manifests");
    let folders = ["cni", "networks", "examples"].map(|folder| manifests.join(folder));
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    let found: Vec<(String, Value)> = paths.iter().flat_map(|path| of_file(path)).collect();
    assert!(found.len() > 14, "found {} only", found.len());
    found
}

fn of_file(path: &Path) -> Vec<(String, Value)> {
    let text = fs::read_to_string(path).unwrap();
    let texts =
        if path.extension().is_some_and(|ending| ending == "conflist") { vec![text] } else { blocks(&text) };
    let name = path.display().to_string();
    let configs = texts
        .iter()
        .map(|text| serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{name}: {error}")));
    let plugins = configs.flat_map(|config| plugins(&config));
    plugins.filter(|plugin| plugin["type"] == "sluice").map(|plugin| (name.clone(), plugin)).collect()
}

/// Literal blocks of a manifest that hold a configuration, by their indentation.
fn blocks(text: &str) -> Vec<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<&str> = text.lines().collect();
    let heads = lines.iter().enumerate().filter(|(_, line)| {
        let line = line.trim();
        line == "config: |" || line == "rawCNIConfig: |"
    });
    let block = |(at, head): (usize, &&str)| {
        let body = lines.iter().skip(at + 1).take_while(|line| indent(line) > indent(head));
        body.copied().collect::<Vec<_>>().join("\n")
    };
    heads.map(block).collect()
}

/// What a runtime makes of a list: each plugin with the list's name and version.
fn plugins(config: &Value) -> Vec<Value> {
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
