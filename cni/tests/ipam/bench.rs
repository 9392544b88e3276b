//! What every test here needs: one call to ours, one to the reference, and the files they leave.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sluice_cni::ipam;
use sluice_cni::protocol::{CniError, Config, Environment};

/// Where Debian's package has them.
const REFERENCE: &str = "/usr/lib/cni";

/// What a runtime says besides the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) verb: &'static str,
    pub(crate) container: String,
    pub(crate) interface: String,
    pub(crate) args: String,
    pub(crate) path: PathBuf,
}

pub(crate) fn call(verb: &'static str, container: &str) -> Call {
    Call {
        verb,
        container: container.to_owned(),
        interface: "eth0".to_owned(),
        args: String::new(),
        path: PathBuf::from(REFERENCE),
    }
}

impl Call {
    pub(crate) fn interface(mut self, name: &str) -> Self {
        self.interface = name.to_owned();
        self
    }

    pub(crate) fn args(mut self, args: &str) -> Self {
        self.args = args.to_owned();
        self
    }

    pub(crate) fn path(mut self, path: &Path) -> Self {
        self.path = path.to_owned();
        self
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("CNI_COMMAND", self.verb.to_owned()),
            ("CNI_CONTAINERID", self.container.clone()),
            ("CNI_NETNS", "/nonexistent/netns".to_owned()),
            ("CNI_IFNAME", self.interface.clone()),
            ("CNI_ARGS", self.args.clone()),
            ("CNI_PATH", self.path.display().to_string()),
        ]
    }

    /// Our answer, as it would be printed.
    pub(crate) fn ours(&self, config: &Value) -> Result<Value, CniError> {
        self.ours_raw(config.to_string().as_bytes())
    }

    pub(crate) fn ours_raw(&self, config: &[u8]) -> Result<Value, CniError> {
        let variables = self.variables();
        let lookup =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        let environment = Environment::read(lookup)?;
        let config = Config::parse_for(config, environment.command)?;
        match self.verb {
            "ADD" => ipam::add(&config, &environment)?
                .map_or(Ok(Value::Null), |result| result.render(config.version)),
            "DEL" => ipam::delete(&config, &environment).map(|()| Value::Null),
            "CHECK" => ipam::check(&config, &environment).map(|()| Value::Null),
            "GC" => ipam::gc(&config, &environment, &config.valid_attachments()?).map(|()| Value::Null),
            "STATUS" => ipam::status(&config, &environment).map(|()| Value::Null),
            other => panic!("{other}"),
        }
    }

    /// What the reference plugin of `ipam.type` answers; its error's message.
    pub(crate) fn theirs(&self, config: &Value) -> Result<Value, String> {
        let name = config["ipam"]["type"].as_str().expect("a type");
        let mut child = Command::new(reference(name))
            .env_clear()
            .envs(self.variables())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the reference plugin runs");
        child.stdin.take().expect("piped").write_all(config.to_string().as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        let answer = if output.stdout.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&output.stdout).expect("the reference plugin prints JSON")
        };
        if output.status.success() {
            Ok(answer)
        } else {
            Err(answer["msg"].as_str().expect("a message").to_owned())
        }
    }
}

pub(crate) fn reference(name: &str) -> PathBuf {
    let program = Path::new(REFERENCE).join(name);
    assert!(
        program.is_file(),
        "{} is missing: install the package containernetworking-plugins",
        program.display()
    );
    program
}

/// A configuration of CNI 1.0.0 with leases in `folder`; `ipam` and `more` are added to it.
pub(crate) fn host_local(folder: &Path, ipam: &Value, more: &Value) -> Value {
    let mut config = json!({
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "sluice",
        "ipam": { "type": "host-local", "dataDir": folder },
    });
    merge(&mut config["ipam"], ipam);
    merge(&mut config, more);
    config
}

pub(crate) fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().expect("an object") {
        into[key] = value.clone();
    }
}

/// Addresses of a result, without their prefix lengths.
pub(crate) fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().expect("addresses");
    let text =
        |ip: &Value| ip["address"].as_str().expect("text").split('/').next().expect("a part").to_owned();
    ips.iter().map(text).collect()
}

/// Names and contents of a network's files.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = folder.join("net").read_dir() else { return BTreeMap::new() };
    entries
        .map(|entry| {
            let entry = entry.expect("readable");
            let name = entry.file_name().into_string().expect("text");
            (name, std::fs::read_to_string(entry.path()).unwrap_or_else(|error| error.to_string()))
        })
        .collect()
}

/// Those that are leases.
pub(crate) fn leased(folder: &Path) -> BTreeMap<String, String> {
    let mut files = files(folder);
    files.retain(|name, _| name.parse::<std::net::IpAddr>().is_ok());
    files
}
