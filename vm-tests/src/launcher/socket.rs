//! Calls to one sidecar, as virt-launcher makes them: a connection of its own for each, plaintext HTTP/2 over a unix
//! socket, with KubeVirt's deadlines. It must never decide which calls to make.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use kubevirt_hooks::info::{InfoParams, InfoResult, info_client::InfoClient};
use kubevirt_hooks::plugins::v1alpha1::{
    MutateDomainRequest, SidecarContext, domain_hook_service_client::DomainHookServiceClient,
};
use kubevirt_hooks::{v1alpha1, v1alpha2, v1alpha3};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// For a connection (KubeVirt's `dialSockTimeout`).
const DIAL_LIMIT: Duration = Duration::from_secs(1);

/// For the answer to `Info`; being late is fatal to the VM.
const INFO_LIMIT: Duration = Duration::from_secs(1);

/// For any other answer.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// Of the hook API, the highest both sides know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1alpha1,
    V1alpha2,
    V1alpha3,
}

impl Version {
    /// virt-launcher's choice among what a sidecar offers.
    pub(super) fn choose(offered: &[String]) -> Option<Self> {
        [("v1alpha3", Self::V1alpha3), ("v1alpha2", Self::V1alpha2), ("v1alpha1", Self::V1alpha1)]
            .into_iter()
            .find_map(|(name, version)| offered.iter().any(|offer| offer == name).then_some(version))
    }
}

/// What `PreCloudInitIso` passes through: the older field, and the one that replaced it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CloudInit {
    pub no_cloud_source: Vec<u8>,
    pub data: Vec<u8>,
}

pub(crate) async fn dial(socket: &Path) -> anyhow::Result<Channel> {
    let path: PathBuf = socket.to_owned();
    // gRPC in Go calls a unix socket's server `localhost`.
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(DIAL_LIMIT);
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = timeout(DIAL_LIMIT, endpoint.connect_with_connector(connector)).await;
    channel.context("the connection takes too long")?.with_context(|| format!("dial {}", socket.display()))
}

pub(crate) async fn info(channel: Channel) -> anyhow::Result<InfoResult> {
    let answer = timeout(INFO_LIMIT, async { InfoClient::new(channel).info(InfoParams {}).await });
    Ok(answer.await.context("no answer to Info in time")??.into_inner())
}

pub(super) async fn on_define_domain(
    socket: &Path,
    version: Version,
    domain_xml: Vec<u8>,
    vmi: Vec<u8>,
) -> anyhow::Result<Vec<u8>> {
    let channel = dial(socket).await?;
    let answer = async move {
        Ok(match version {
            Version::V1alpha1 => {
                let mut client = v1alpha1::callbacks_client::CallbacksClient::new(channel);
                let params = v1alpha1::OnDefineDomainParams { domain_xml, vmi };
                client.on_define_domain(params).await?.into_inner().domain_xml
            }
            Version::V1alpha2 => {
                let mut client = v1alpha2::callbacks_client::CallbacksClient::new(channel);
                let params = v1alpha2::OnDefineDomainParams { domain_xml, vmi };
                client.on_define_domain(params).await?.into_inner().domain_xml
            }
            Version::V1alpha3 => {
                let mut client = v1alpha3::callbacks_client::CallbacksClient::new(channel);
                let params = v1alpha3::OnDefineDomainParams { domain_xml, vmi };
                client.on_define_domain(params).await?.into_inner().domain_xml
            }
        })
    };
    within_limit("OnDefineDomain", answer).await
}

pub(super) async fn pre_cloud_init_iso(
    socket: &Path,
    version: Version,
    given: CloudInit,
    vmi: Vec<u8>,
) -> anyhow::Result<CloudInit> {
    let channel = dial(socket).await?;
    let CloudInit { no_cloud_source: cloud_init_no_cloud_source, data: cloud_init_data } = given;
    let answer = async move {
        Ok(match version {
            Version::V1alpha1 => anyhow::bail!("v1alpha1 has no PreCloudInitIso"),
            Version::V1alpha2 => {
                let mut client = v1alpha2::callbacks_client::CallbacksClient::new(channel);
                let params =
                    v1alpha2::PreCloudInitIsoParams { cloud_init_no_cloud_source, vmi, cloud_init_data };
                let answer = client.pre_cloud_init_iso(params).await?.into_inner();
                CloudInit { no_cloud_source: answer.cloud_init_no_cloud_source, data: answer.cloud_init_data }
            }
            Version::V1alpha3 => {
                let mut client = v1alpha3::callbacks_client::CallbacksClient::new(channel);
                let params =
                    v1alpha3::PreCloudInitIsoParams { cloud_init_no_cloud_source, vmi, cloud_init_data };
                let answer = client.pre_cloud_init_iso(params).await?.into_inner();
                CloudInit { no_cloud_source: answer.cloud_init_no_cloud_source, data: answer.cloud_init_data }
            }
        })
    };
    within_limit("PreCloudInitIso", answer).await
}

pub(super) async fn shutdown(socket: &Path) -> anyhow::Result<()> {
    let channel = dial(socket).await?;
    let answer = async move {
        let mut client = v1alpha3::callbacks_client::CallbacksClient::new(channel);
        client.shutdown(v1alpha3::ShutdownParams {}).await?;
        Ok(())
    };
    within_limit("Shutdown", answer).await
}

pub(super) async fn mutate_domain(
    socket: &Path,
    domain: Vec<u8>,
    vmi: Vec<u8>,
    context: &str,
) -> anyhow::Result<Vec<u8>> {
    let channel = dial(socket).await?;
    let request = MutateDomainRequest {
        domain_type: "libvirt".to_owned(),
        domain,
        vmi,
        sidecar_context: Some(SidecarContext { invocation_context: context.to_owned() }),
    };
    let answer = async move {
        let mut client = DomainHookServiceClient::new(channel);
        Ok(client.mutate_domain(request).await?.into_inner().domain)
    };
    within_limit("MutateDomain", answer).await
}

async fn within_limit<T>(
    name: &'static str,
    answer: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    timeout(CALL_LIMIT, answer).await.with_context(|| format!("no answer to {name} in time"))?.context(name)
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn highest_version_offered_is_chosen_whatever_the_order() {
        let offered = ["v1alpha1", "v9", "v1alpha2"].map(str::to_owned);
        assert_eq!(Version::choose(&offered), Some(Version::V1alpha2));
        assert_eq!(Version::choose(&["v2".to_owned()]), None);
    }
}
