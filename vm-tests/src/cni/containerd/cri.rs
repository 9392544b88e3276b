//! Pods as kubelet asks a runtime for them, over the runtime's socket. It must never call a plugin itself.
//!
//! Blocking functions for tests; what waits inside is on a runtime of its own, on the caller's thread.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use prost::Message;
use serde_json::Value;
use tokio::runtime::{self, Runtime};
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::messages::{
    Empty, ImageSpec, ImageStatusRequest, ImageStatusResponse, LinuxPodSandboxConfig, PodSandboxConfig,
    PodSandboxMetadata, PodSandboxRequest, PodSandboxStatusRequest, PodSandboxStatusResponse, PortMapping,
    RunPodSandboxRequest, RunPodSandboxResponse,
};
use super::{Containerd, image};
use crate::lab::{Namespace, wait_for};
use crate::launcher::socket::dial;

/// kubelet's `runtimeRequestTimeout` is two minutes; nothing here is worth so much.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// Of containerd, in which pods are.
const NAMESPACE: &str = "k8s.io";

/// The Kubernetes namespace of the labs' pods.
const POD_NAMESPACE: &str = "labs";

/// A connection to the runtime, which by now has the sandboxes' image.
#[derive(Debug)]
pub struct Cri<'c> {
    daemon: &'c Containerd<'c>,
    runtime: Runtime,
    channel: Channel,
}

/// A TCP port of the node that leads to one of a pod.
#[derive(Debug, Clone, Copy)]
pub struct HostPort {
    pub host: u16,
    pub pod: u16,
}

/// A pod without containers, as the runtime describes it.
#[derive(Debug)]
pub struct Sandbox {
    pub id: String,
    pub uid: String,
    /// What kubelet writes into the pod's status.
    pub ip: IpAddr,
    /// What the runtime made of the plugins' result: interfaces by name.
    pub result: Value,
    /// The network namespace's name as the plugins got it, for anybody else: see [`Containerd::path`].
    pub netns: PathBuf,
}

impl Containerd<'_> {
    /// Imports the sandboxes' image and waits until the runtime's interface for pods is ready.
    pub fn cri(&self) -> anyhow::Result<Cri<'_>> {
        let mut import = self.ctr(NAMESPACE)?;
        import
            .args(["image", "import", "--snapshotter", image::SNAPSHOTTER])
            .arg(image::archive(&self.folder)?);
        self.run_to_end(import, "import an image")?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
        let channel = runtime.block_on(dial(&self.socket()))?;
        let cri = Cri { daemon: self, runtime, channel };
        // It answers that it is not ready yet, then that it has not heard of the image yet.
        let mut last = None;
        wait_for(CALL_LIMIT, "the runtime to know the image", || {
            let request =
                ImageStatusRequest { image: Some(ImageSpec { image: image::PAUSE_IMAGE.to_owned() }) };
            let answer = cri.call::<_, ImageStatusResponse>("ImageService/ImageStatus", request);
            let known = answer.as_ref().is_ok_and(|answer| answer.image.is_some());
            last = Some(answer);
            known
        })
        .with_context(|| format!("{last:?}"))?;
        Ok(cri)
    }
}

impl Cri<'_> {
    /// Runs a pod's sandbox, attached to the default network. What a plugin complains of is in the error.
    pub fn run(&self, name: &str, ports: &[HostPort]) -> anyhow::Result<Sandbox> {
        let uid = format!("uid-of-{name}");
        let metadata = PodSandboxMetadata {
            name: name.to_owned(),
            uid: uid.clone(),
            namespace: POD_NAMESPACE.to_owned(),
        };
        let port_mappings = ports.iter().map(|port| PortMapping {
            protocol: 0,
            container_port: port.pod.into(),
            host_port: port.host.into(),
        });
        let config = PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.to_owned(),
            port_mappings: port_mappings.collect(),
            linux: Some(LinuxPodSandboxConfig { cgroup_parent: self.daemon.groups.path() }),
        };
        let request = RunPodSandboxRequest { config: Some(config) };
        let answer: RunPodSandboxResponse = self.call("RuntimeService/RunPodSandbox", request)?;
        self.describe(answer.pod_sandbox_id, uid)
    }

    /// Stops it; DEL is called. kubelet may do so any number of times.
    pub fn stop(&self, id: &str) -> anyhow::Result<()> {
        let request = PodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call::<_, Empty>("RuntimeService/StopPodSandbox", request).map(drop)
    }

    /// Forgets one that was stopped.
    pub fn remove(&self, id: &str) -> anyhow::Result<()> {
        let request = PodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call::<_, Empty>("RuntimeService/RemovePodSandbox", request).map(drop)
    }

    fn describe(&self, id: String, uid: String) -> anyhow::Result<Sandbox> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: true };
        let answer: PodSandboxStatusResponse = self.call("RuntimeService/PodSandboxStatus", request)?;
        let ip = answer.status.and_then(|status| status.network).context("a sandbox without a network")?.ip;
        let info: Value =
            serde_json::from_str(answer.info.get("info").context("the runtime's own account")?)?;
        let spaces = info.pointer("/runtimeSpec/linux/namespaces").and_then(Value::as_array);
        let path = spaces
            .into_iter()
            .flatten()
            .find(|space| space.get("type").and_then(Value::as_str) == Some("network"))
            .and_then(|space| space.get("path")?.as_str())
            .context("the sandbox's network namespace")?;
        Ok(Sandbox {
            id,
            uid,
            ip: ip.parse().with_context(|| format!("the sandbox's address {ip:?}"))?,
            result: info.get("cniResult").cloned().context("the plugins' result")?,
            netns: self.daemon.path(Path::new(path)),
        })
    }

    fn call<A, B>(&self, method: &str, request: A) -> anyhow::Result<B>
    where
        A: Message + 'static,
        B: Message + Default + 'static,
    {
        let path = PathAndQuery::try_from(format!("/runtime.v1.{method}"))?;
        let mut client = Grpc::new(self.channel.clone());
        // A deadline starts inside the runtime that watches it.
        let answer = self.runtime.block_on(async move {
            let answer = async move {
                client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
                client.unary(Request::new(request), path, ProstCodec::<A, B>::default()).await
            };
            timeout(CALL_LIMIT, answer).await
        });
        let answer = answer.with_context(|| format!("no answer to {method} in time"))?;
        Ok(answer.with_context(|| method.to_owned())?.into_inner())
    }
}

impl Sandbox {
    /// Its network namespace, which lives on with the value that is returned.
    pub fn namespace(&self) -> anyhow::Result<Namespace> {
        Namespace::found(&self.netns.to_string_lossy())
            .with_context(|| format!("open {}", self.netns.display()))
    }
}
