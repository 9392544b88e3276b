//! A container runtime as a plugin meets it: what libcni does with a configuration list, and the DEL after an ADD that
//! failed, which is its caller's. It must never look at the kernel.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Map, Value, json};

use super::{Attachment, Call, Failure, Network, Node, Outcome, Place, Plugin};

/// A runtime, with its cache of results.
#[derive(Debug)]
pub struct Runtime<'n> {
    node: &'n Node,
    path: Vec<PathBuf>,
    place: Place,
    cache: BTreeMap<Key, Cached>,
}

type Key = (String, String, String);

#[derive(Debug, Clone)]
struct Cached {
    network: Network,
    attachment: Attachment,
    result: Value,
}

impl<'n> Runtime<'n> {
    pub fn new(node: &'n Node) -> Self {
        Self { node, path: node.plugins(), place: Place::Node, cache: BTreeMap::new() }
    }

    /// Plugins are looked for in these folders instead of the node's.
    pub fn with_path(mut self, path: &[PathBuf]) -> Self {
        self.path = path.to_vec();
        self
    }

    pub fn at(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// ADD of every plugin in turn. When one fails, DEL of all, whose own errors come with the first.
    pub fn add(&mut self, network: &Network, attachment: &Attachment) -> anyhow::Result<Value> {
        self.add_only(network, attachment).map_err(|error| match self.del(network, attachment) {
            Ok(()) => error,
            Err(later) => error.context(format!("and DEL: {later:#}")),
        })
    }

    /// ADD, with nothing undone when it fails.
    pub fn add_only(&mut self, network: &Network, attachment: &Attachment) -> anyhow::Result<Value> {
        let mut previous: Option<Value> = None;
        for plugin in &network.plugins {
            let outcome = self.execute("ADD", network, plugin, Some(attachment), previous.as_ref())?;
            let mut result = accept("ADD", plugin, &outcome)?;
            // libcni reads a result without a version at the configuration's.
            if let Some(result) = result.as_object_mut() {
                result.entry("cniVersion").or_insert_with(|| json!(network.version));
            }
            previous = Some(result);
        }
        let result = previous.context("a network without plugins")?;
        let cached =
            Cached { network: network.clone(), attachment: attachment.clone(), result: result.clone() };
        self.cache.insert(key(network, attachment), cached);
        Ok(result)
    }

    /// DEL of every plugin, last to first, each with the result of ADD if there was one.
    pub fn del(&mut self, network: &Network, attachment: &Attachment) -> anyhow::Result<()> {
        let key = key(network, attachment);
        let previous = self
            .cache
            .get(&key)
            .filter(|_| network.is_at_least([0, 4, 0]))
            .map(|cached| cached.result.clone());
        for plugin in network.plugins.iter().rev() {
            let outcome = self.execute("DEL", network, plugin, Some(attachment), previous.as_ref())?;
            accept_silence("DEL", plugin, &outcome)?;
        }
        self.cache.remove(&key);
        Ok(())
    }

    /// CHECK of every plugin, each with the result of ADD.
    pub fn check(&self, network: &Network, attachment: &Attachment) -> anyhow::Result<()> {
        ensure!(
            network.is_at_least([0, 4, 0]),
            "configuration version {:?} is incompatible with CHECK",
            network.version
        );
        if network.disable_check {
            return Ok(());
        }
        let previous = self.cache.get(&key(network, attachment)).map(|cached| &cached.result);
        for plugin in &network.plugins {
            let outcome = self.execute("CHECK", network, plugin, Some(attachment), previous)?;
            accept_silence("CHECK", plugin, &outcome)?;
        }
        Ok(())
    }

    /// DEL of every attachment in the cache that is not among `valid`, then GC of every plugin. Goes on past errors, which
    /// are reported at the end.
    pub fn gc(&mut self, network: &Network, valid: &[Attachment]) -> anyhow::Result<()> {
        let mut errors: Vec<String> = Vec::new();
        let stale: Vec<Cached> = self
            .cache
            .values()
            .filter(|cached| cached.network.name == network.name)
            .filter(|cached| !valid.iter().any(|valid| same(valid, &cached.attachment)))
            .cloned()
            .collect();
        for cached in stale {
            errors.extend(
                self.del(&cached.network, &cached.attachment).err().map(|error| format!("{error:#}")),
            );
        }
        if network.is_at_least([1, 1, 0]) && !network.disable_gc {
            let valid: Vec<Value> = valid
                .iter()
                .map(|one| json!({ "containerID": one.container, "ifname": one.interface }))
                .collect();
            for plugin in &network.plugins {
                let mut plugin = plugin.clone();
                for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
                    plugin.insert(key.to_owned(), json!(valid));
                }
                let outcome = self.execute("GC", network, &plugin, None, None)?;
                errors
                    .extend(accept_silence("GC", &plugin, &outcome).err().map(|error| format!("{error:#}")));
            }
        }
        ensure!(errors.is_empty(), "{}", errors.join("; "));
        Ok(())
    }

    /// STATUS of every plugin; of versions before 1.1.0 nobody is asked.
    pub fn status(&self, network: &Network) -> anyhow::Result<()> {
        if !network.is_at_least([1, 1, 0]) {
            return Ok(());
        }
        for plugin in &network.plugins {
            let outcome = self.execute("STATUS", network, plugin, None, None)?;
            accept_silence("STATUS", plugin, &outcome)?;
        }
        Ok(())
    }

    /// What a plugin of this type says that it speaks.
    pub fn versions(&self, kind: &str) -> anyhow::Result<Vec<String>> {
        let call = Call::new("VERSION")
            .netns("dummy")
            .interface("dummy")
            .env("CNI_PATH", "dummy")
            .config(&json!({ "cniVersion": "1.1.0" }))
            .at(self.place);
        let answer = self.find(kind)?.run(self.node, &call)?.result()?;
        let versions =
            answer.get("supportedVersions").and_then(Value::as_array).context("supportedVersions")?;
        versions
            .iter()
            .map(|version| version.as_str().map(str::to_owned).context("a version is a string"))
            .collect()
    }

    /// One plugin of a list, called as libcni calls it: every variable is there, if only empty.
    pub fn execute(
        &self,
        command: &str,
        network: &Network,
        plugin: &Map<String, Value>,
        attachment: Option<&Attachment>,
        previous: Option<&Value>,
    ) -> anyhow::Result<Outcome> {
        let empty = Attachment::default();
        let who = attachment.unwrap_or(&empty);
        let call = Call::new(command)
            .container(&who.container)
            .interface(&who.interface)
            .netns(&who.netns)
            .args(&who.arguments())
            .path(&self.path)
            .config(&network.derive(plugin, attachment, previous))
            .at(self.place);
        self.find(kind(plugin)?)?.run(self.node, &call)
    }

    fn find(&self, kind: &str) -> anyhow::Result<Plugin> {
        let found = self.path.iter().map(|folder| folder.join(kind)).find(|program| program.is_file());
        Ok(Plugin::new(found.with_context(|| format!("no plugin {kind} in {:?}", self.path))?))
    }
}

fn kind(plugin: &Map<String, Value>) -> anyhow::Result<&str> {
    plugin.get("type").and_then(Value::as_str).context("a plugin has a type")
}

fn key(network: &Network, attachment: &Attachment) -> Key {
    (network.name.clone(), attachment.container.clone(), attachment.interface.clone())
}

fn same(one: &Attachment, other: &Attachment) -> bool {
    (&one.container, &one.interface) == (&other.container, &other.interface)
}

fn accept(command: &str, plugin: &Map<String, Value>, outcome: &Outcome) -> anyhow::Result<Value> {
    if outcome.status.success() {
        return outcome.result();
    }
    Err(refusal(command, plugin, outcome))
}

fn accept_silence(command: &str, plugin: &Map<String, Value>, outcome: &Outcome) -> anyhow::Result<()> {
    if outcome.status.success() {
        return outcome.silent();
    }
    Err(refusal(command, plugin, outcome))
}

/// The plugin's [`Failure`] if it gave one, with who gave it.
fn refusal(command: &str, plugin: &Map<String, Value>, outcome: &Outcome) -> anyhow::Error {
    let who = || format!("{command} of {}", kind(plugin).unwrap_or("?"));
    match outcome.failure() {
        Ok(failure) => anyhow::Error::new::<Failure>(failure).context(who()),
        Err(error) => error.context(who()),
    }
}

/// What a runtime's error was caused by, where a plugin answered.
impl Failure {
    pub fn of(error: &anyhow::Error) -> anyhow::Result<&Self> {
        match error.downcast_ref::<Self>() {
            Some(failure) => Ok(failure),
            None => bail!("no plugin's answer: {error:#}"),
        }
    }
}
