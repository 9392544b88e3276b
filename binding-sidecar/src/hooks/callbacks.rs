//! `Callbacks` in its three versions, each with types of its own and the same meaning.

use std::sync::Arc;

use kubevirt_hooks::{v1alpha1, v1alpha2, v1alpha3};
use tonic::{Request, Response, Status};
use tracing::info;

use crate::sidecar::{Call, Sidecar};

#[derive(Debug, Clone)]
pub(super) struct Callbacks {
    pub(super) sidecar: Arc<Sidecar>,
}

impl Callbacks {
    async fn define(&self, version: &'static str, domain: &[u8], vmi: &[u8]) -> Result<Vec<u8>, Status> {
        self.sidecar.define(Call { name: "OnDefineDomain", version }, domain, vmi).await
    }

    fn note(&self, name: &'static str, version: &'static str) {
        self.sidecar.note(Call { name, version });
    }
}

#[tonic::async_trait]
impl v1alpha1::callbacks_server::Callbacks for Callbacks {
    async fn on_define_domain(
        &self,
        request: Request<v1alpha1::OnDefineDomainParams>,
    ) -> Result<Response<v1alpha1::OnDefineDomainResult>, Status> {
        let asked = request.into_inner();
        let domain_xml = self.define("v1alpha1", &asked.domain_xml, &asked.vmi).await?;
        Ok(Response::new(v1alpha1::OnDefineDomainResult { domain_xml }))
    }
}

#[tonic::async_trait]
impl v1alpha2::callbacks_server::Callbacks for Callbacks {
    async fn on_define_domain(
        &self,
        request: Request<v1alpha2::OnDefineDomainParams>,
    ) -> Result<Response<v1alpha2::OnDefineDomainResult>, Status> {
        let asked = request.into_inner();
        let domain_xml = self.define("v1alpha2", &asked.domain_xml, &asked.vmi).await?;
        Ok(Response::new(v1alpha2::OnDefineDomainResult { domain_xml }))
    }

    async fn pre_cloud_init_iso(
        &self,
        request: Request<v1alpha2::PreCloudInitIsoParams>,
    ) -> Result<Response<v1alpha2::PreCloudInitIsoResult>, Status> {
        self.note("PreCloudInitIso", "v1alpha2");
        let v1alpha2::PreCloudInitIsoParams { cloud_init_no_cloud_source, cloud_init_data, .. } =
            request.into_inner();
        Ok(Response::new(v1alpha2::PreCloudInitIsoResult { cloud_init_no_cloud_source, cloud_init_data }))
    }
}

#[tonic::async_trait]
impl v1alpha3::callbacks_server::Callbacks for Callbacks {
    async fn on_define_domain(
        &self,
        request: Request<v1alpha3::OnDefineDomainParams>,
    ) -> Result<Response<v1alpha3::OnDefineDomainResult>, Status> {
        let asked = request.into_inner();
        let domain_xml = self.define("v1alpha3", &asked.domain_xml, &asked.vmi).await?;
        Ok(Response::new(v1alpha3::OnDefineDomainResult { domain_xml }))
    }

    async fn pre_cloud_init_iso(
        &self,
        request: Request<v1alpha3::PreCloudInitIsoParams>,
    ) -> Result<Response<v1alpha3::PreCloudInitIsoResult>, Status> {
        self.note("PreCloudInitIso", "v1alpha3");
        let v1alpha3::PreCloudInitIsoParams { cloud_init_no_cloud_source, cloud_init_data, .. } =
            request.into_inner();
        Ok(Response::new(v1alpha3::PreCloudInitIsoResult { cloud_init_no_cloud_source, cloud_init_data }))
    }

    async fn shutdown(
        &self,
        _: Request<v1alpha3::ShutdownParams>,
    ) -> Result<Response<v1alpha3::ShutdownResult>, Status> {
        self.note("Shutdown", "v1alpha3");
        info!("Shutdown: the VM has ended");
        self.sidecar.shut_down();
        Ok(Response::new(v1alpha3::ShutdownResult {}))
    }
}
