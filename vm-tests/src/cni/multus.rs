//! Multus as a delegate meets it: one more layer between the runtime and the plugins, with its own arguments and order. It
//! must never talk to a cluster.

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::{Attachment, Network, Runtime};

/// The pod whose networks are attached.
#[derive(Debug, Clone)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub container: String,
    /// Path of its network namespace.
    pub netns: String,
}

/// One element of the annotation `k8s.v1.cni.cncf.io/networks`, with the configuration of what it selects.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// `spec.config` of the NetworkAttachmentDefinition.
    pub config: Value,
    /// As KubeVirt asks for, `pod<hash>`; else `net<place in the list>`.
    pub interface: Option<String>,
    pub mac: Option<String>,
    pub ips: Vec<String>,
    /// Becomes `args.cni`.
    pub cni_args: Map<String, Value>,
    /// What the device plugin allotted.
    pub device_id: Option<String>,
    /// For `runtimeConfig`: `portMappings`, `bandwidth`, …
    pub capabilities: Map<String, Value>,
}

/// Multus, for one pod.
#[derive(Debug)]
pub struct Multus<'n> {
    runtime: Runtime<'n>,
    pod: Pod,
    /// The cluster's own network first, then the pod's choice.
    delegates: Vec<(Network, Selection)>,
}

impl<'n> Multus<'n> {
    pub fn new(
        runtime: Runtime<'n>,
        pod: Pod,
        cluster: &Value,
        selections: &[Selection],
    ) -> anyhow::Result<Self> {
        let default = Selection { interface: Some("eth0".to_owned()), ..Selection::default() };
        let mut delegates = vec![(Network::parse(cluster)?, default)];
        for (place, selection) in selections.iter().enumerate() {
            let mut selection = selection.clone();
            selection.interface.get_or_insert_with(|| format!("net{}", place + 1));
            let mut network = Network::parse(&selection.config)?;
            for plugin in &mut network.plugins {
                inject(plugin, &selection);
            }
            delegates.push((network, selection));
        }
        Ok(Self { runtime, pod, delegates })
    }

    /// ADD of each network in turn, and the results. When one fails, DEL of it and of those before it.
    pub fn add(&mut self) -> anyhow::Result<Vec<Value>> {
        let mut results = Vec::new();
        for place in 0..self.delegates.len() {
            let (network, attachment) = self.call(place, true)?;
            match self.runtime.add_only(&network, &attachment) {
                Ok(result) => results.push(result),
                Err(error) => {
                    return Err(match self.del_from(place) {
                        Ok(()) => error,
                        Err(later) => error.context(format!("and DEL: {later:#}")),
                    });
                }
            }
        }
        Ok(results)
    }

    /// DEL of each network, last to first, past errors.
    pub fn del(&mut self) -> anyhow::Result<()> {
        self.del_from(self.delegates.len().saturating_sub(1))
    }

    /// CHECK of each network in turn.
    pub fn check(&self) -> anyhow::Result<()> {
        (0..self.delegates.len()).try_for_each(|place| {
            let (network, attachment) = self.call(place, false)?;
            self.runtime.check(&network, &attachment)
        })
    }

    fn del_from(&mut self, last: usize) -> anyhow::Result<()> {
        let mut errors = Vec::new();
        for place in (0..=last).rev() {
            let (network, attachment) = self.call(place, false)?;
            errors.extend(self.runtime.del(&network, &attachment).err().map(|error| format!("{error:#}")));
        }
        anyhow::ensure!(errors.is_empty(), "{}", errors.join("; "));
        Ok(())
    }

    /// What a delegate is called with. MAC and addresses are among the arguments of ADD only; as `runtimeConfig` they go
    /// to the pod's own networks, never to the cluster's.
    fn call(&self, place: usize, adding: bool) -> anyhow::Result<(Network, Attachment)> {
        let (network, selection) = self.delegates.get(place).context("a delegate")?;
        let interface = selection.interface.as_deref().unwrap_or("eth0");
        let mut attachment = Attachment::new(&self.pod.container, interface, &self.pod.netns)
            .with_arg("IgnoreUnknown", "true")
            .with_arg("K8S_POD_NAMESPACE", &self.pod.namespace)
            .with_arg("K8S_POD_NAME", &self.pod.name)
            .with_arg("K8S_POD_INFRA_CONTAINER_ID", &self.pod.container)
            .with_arg("K8S_POD_UID", &self.pod.uid);
        if place == 0 {
            return Ok((network.clone(), attachment));
        }
        attachment.capabilities = selection.capabilities.clone();
        if let Some(mac) = &selection.mac {
            attachment = attachment.with_capability("mac", json!(mac));
        }
        if !selection.ips.is_empty() {
            attachment = attachment.with_capability("ips", json!(selection.ips));
        }
        if let Some(device) = &selection.device_id {
            attachment = attachment.with_capability("deviceID", json!(device));
        }
        if let (true, Some(mac)) = (adding, &selection.mac) {
            attachment = attachment.with_arg("MAC", mac);
        }
        if adding && !selection.ips.is_empty() {
            attachment = attachment.with_arg("IP", &selection.ips.join(","));
        }
        Ok((network.clone(), attachment))
    }
}

/// Puts into a plugin's configuration what the selection says and the device plugin allotted.
fn inject(plugin: &mut Map<String, Value>, selection: &Selection) {
    if let Some(device) = &selection.device_id {
        plugin.insert("deviceID".to_owned(), json!(device));
        plugin.insert("pciBusID".to_owned(), json!(device));
    }
    if selection.cni_args.is_empty() {
        return;
    }
    let args = plugin.entry("args").or_insert_with(|| json!({}));
    let cni = args.as_object_mut().map(|args| args.entry("cni").or_insert_with(|| json!({})));
    if let Some(cni) = cni.and_then(Value::as_object_mut) {
        cni.extend(selection.cni_args.clone());
    }
}
