//! A network as an administrator writes it and an attachment to it as a runtime knows it; what of both reaches a plugin.
//! It must never run one.

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};

/// A configuration list, or a single plugin's configuration as a list of one.
#[derive(Debug, Clone)]
pub struct Network {
    pub name: String,
    /// As written, or `0.1.0`.
    pub version: String,
    pub plugins: Vec<Map<String, Value>>,
    pub disable_check: bool,
    pub disable_gc: bool,
}

/// One interface of one container, as a runtime says it to each plugin.
#[derive(Debug, Clone, Default)]
pub struct Attachment {
    pub container: String,
    pub interface: String,
    /// Empty where it is not known.
    pub netns: String,
    /// `CNI_ARGS`, in order.
    pub args: Vec<(String, String)>,
    /// What a plugin gets as `runtimeConfig`, as far as it declares the capability.
    pub capabilities: Map<String, Value>,
}

impl Network {
    pub fn parse(config: &Value) -> anyhow::Result<Self> {
        let object = config.as_object().context("a network's configuration is an object")?;
        let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        let flag = |key: &str| object.get(key).and_then(Value::as_bool).unwrap_or(false);
        let plugins = match object.get("plugins") {
            Some(Value::Array(plugins)) => plugins
                .iter()
                .map(|plugin| plugin.as_object().cloned().context("a plugin's configuration is an object"))
                .collect::<anyhow::Result<_>>()?,
            Some(other) => bail!("plugins is {other}"),
            None => vec![object.clone()],
        };
        Ok(Self {
            name: text("name").context("a network has a name")?,
            version: text("cniVersion").unwrap_or_else(|| "0.1.0".to_owned()),
            plugins,
            disable_check: flag("disableCheck"),
            disable_gc: flag("disableGC"),
        })
    }

    /// Whether the version is this one or newer.
    pub(super) fn is_at_least(&self, version: [u32; 3]) -> bool {
        let mut ours = self.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let ours = [ours.next(), ours.next(), ours.next()].map(Option::unwrap_or_default);
        ours >= version
    }

    /// What is on a plugin's standard input ("Deriving execution configuration from plugin configuration", section 3).
    ///
    /// `capabilities` stays, as libcni leaves it there.
    pub(super) fn derive(
        &self,
        plugin: &Map<String, Value>,
        attachment: Option<&Attachment>,
        previous: Option<&Value>,
    ) -> Value {
        let mut config = plugin.clone();
        config.insert("cniVersion".to_owned(), json!(self.version));
        config.insert("name".to_owned(), json!(self.name));
        if let Some(previous) = previous {
            config.insert("prevResult".to_owned(), previous.clone());
        }
        let declared = plugin.get("capabilities").and_then(Value::as_object);
        let passed: Map<String, Value> = attachment
            .into_iter()
            .flat_map(|attachment| &attachment.capabilities)
            .filter(|(key, _)| {
                declared.and_then(|declared| declared.get(*key)).and_then(Value::as_bool) == Some(true)
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !passed.is_empty() {
            config.insert("runtimeConfig".to_owned(), Value::Object(passed));
        }
        Value::Object(config)
    }
}

impl Attachment {
    pub fn new(container: &str, interface: &str, netns: &str) -> Self {
        Self {
            container: container.to_owned(),
            interface: interface.to_owned(),
            netns: netns.to_owned(),
            ..Self::default()
        }
    }

    pub fn with_arg(mut self, key: &str, value: &str) -> Self {
        self.args.push((key.to_owned(), value.to_owned()));
        self
    }

    pub fn with_capability(mut self, name: &str, value: Value) -> Self {
        self.capabilities.insert(name.to_owned(), value);
        self
    }

    pub(super) fn arguments(&self) -> String {
        let pairs: Vec<String> = self.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(";")
    }
}
