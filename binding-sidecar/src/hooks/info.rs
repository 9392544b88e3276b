//! `Info`: which calls we want, in which versions. virt-launcher gives up on the VM if the answer takes over a second.

use kubevirt_hooks::info::info_server;
use kubevirt_hooks::info::{HookPoint, InfoParams, InfoResult};
use tonic::{Request, Response, Status};

/// Calls that virt-launcher is to make. Priorities order the calls of one sidecar, so ours say nothing.
const HOOK_POINTS: [&str; 3] = ["OnDefineDomain", "PreCloudInitIso", "Shutdown"];
const VERSIONS: [&str; 3] = ["v1alpha1", "v1alpha2", "v1alpha3"];

#[derive(Debug)]
pub(super) struct Info {
    /// For virt-launcher's log.
    pub(super) name: String,
}

#[tonic::async_trait]
impl info_server::Info for Info {
    async fn info(&self, _: Request<InfoParams>) -> Result<Response<InfoResult>, Status> {
        let points = HOOK_POINTS.map(|name| HookPoint { name: name.to_owned(), priority: 0 });
        Ok(Response::new(InfoResult {
            name: self.name.clone(),
            hook_points: points.into(),
            versions: VERSIONS.map(str::to_owned).into(),
        }))
    }
}
