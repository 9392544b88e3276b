//! `Callbacks` in its three versions, each with types of its own and the same meaning.

use std::sync::Arc;

use kubevirt_hooks::{v1alpha1, v1alpha2, v1alpha3};
use tonic::{Request, Response, Status};

use crate::sidecar::{Call, Sidecar};

#[derive(Debug, Clone)]
pub(super) struct Callbacks {
    pub(super) sidecar: Arc<Sidecar>,
}

/// The service of one version, with the calls beyond `OnDefineDomain` that it has.
macro_rules! callbacks {
    ($version:ident, $($more:ident)*) => {
        #[tonic::async_trait]
        impl $version::callbacks_server::Callbacks for Callbacks {
            async fn on_define_domain(
                &self,
                request: Request<$version::OnDefineDomainParams>,
            ) -> Result<Response<$version::OnDefineDomainResult>, Status> {
                let $version::OnDefineDomainParams { domain_xml, vmi } = request.into_inner();
                let call = Call { name: "OnDefineDomain", version: stringify!($version) };
                let domain_xml = self.sidecar.define(call, &domain_xml, &vmi).await?;
                Ok(Response::new($version::OnDefineDomainResult { domain_xml }))
            }

            $(callbacks!(@$more $version);)*
        }
    };

    (@pre_cloud_init_iso $version:ident) => {
        async fn pre_cloud_init_iso(
            &self,
            request: Request<$version::PreCloudInitIsoParams>,
        ) -> Result<Response<$version::PreCloudInitIsoResult>, Status> {
            let $version::PreCloudInitIsoParams { cloud_init_no_cloud_source, cloud_init_data, .. } =
                request.into_inner();
            self.sidecar.note(Call { name: "PreCloudInitIso", version: stringify!($version) });
            Ok(Response::new($version::PreCloudInitIsoResult { cloud_init_no_cloud_source, cloud_init_data }))
        }
    };

    (@shutdown $version:ident) => {
        async fn shutdown(
            &self,
            _: Request<$version::ShutdownParams>,
        ) -> Result<Response<$version::ShutdownResult>, Status> {
            self.sidecar.note(Call { name: "Shutdown", version: stringify!($version) });
            self.sidecar.shut_down();
            Ok(Response::new($version::ShutdownResult {}))
        }
    };
}

callbacks!(v1alpha1,);
callbacks!(v1alpha2, pre_cloud_init_iso);
callbacks!(v1alpha3, pre_cloud_init_iso shutdown);
