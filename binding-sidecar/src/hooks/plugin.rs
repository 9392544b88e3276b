//! `DomainHookService` of KubeVirt's `Plugin` objects. Where any of them exists, virt-launcher writes the domain anew from
//! its own structures after all hook sidecars were called, which loses the sources of our interfaces; plugins are called
//! after that, so here they are put back.

use std::sync::Arc;

use kubevirt_hooks::plugins::v1alpha1::domain_hook_service_server::DomainHookService;
use kubevirt_hooks::plugins::v1alpha1::{MutateDomainRequest, MutateDomainResponse};
use tonic::{Request, Response, Status};

use crate::sidecar::{Call, Sidecar};

/// The only kind of domain so far.
const LIBVIRT: &str = "libvirt";

#[derive(Debug)]
pub(super) struct DomainHook {
    pub(super) sidecar: Arc<Sidecar>,
}

#[tonic::async_trait]
impl DomainHookService for DomainHook {
    async fn mutate_domain(
        &self,
        request: Request<MutateDomainRequest>,
    ) -> Result<Response<MutateDomainResponse>, Status> {
        let MutateDomainRequest { domain_type, domain, vmi, .. } = request.into_inner();
        let call = Call { name: "MutateDomain", version: "plugins.v1alpha1" };
        if domain_type != LIBVIRT {
            let why = format!("domain_type is {domain_type:?}; only {LIBVIRT:?} is known");
            return Err(self.sidecar.refuse(call, why));
        }
        let domain = self.sidecar.define(call, &domain, &vmi).await?;
        Ok(Response::new(MutateDomainResponse { domain }))
    }
}
