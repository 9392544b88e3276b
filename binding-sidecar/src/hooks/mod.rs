//! The hook API's server: what virt-launcher calls, and what becomes of it. It must never decide what a NIC or a domain
//! looks like.
//!
//! | call | what it does |
//! |---|---|
//! | `Info` | says which of these we want |
//! | `OnDefineDomain`, `MutateDomain` | NICs into the XML, their translators started; both or neither |
//! | `PreCloudInitIso` | gives the data back |
//! | `Shutdown` | ends the sidecar, once answered |
//!
//! virt-launcher calls `OnDefineDomain` up to three times for one start, again for each retry, and once on a migration's
//! target, where it throws the XML away and counts on the translators: the domain comes from the source. So every call
//! does all of it, and doing it again changes nothing.

mod callbacks;
mod info;
mod plugin;
mod socket;

use std::sync::Arc;

use kubevirt_hooks::info::info_server::InfoServer;
use kubevirt_hooks::plugins::v1alpha1::domain_hook_service_server::DomainHookServiceServer;
use kubevirt_hooks::{v1alpha1, v1alpha2, v1alpha3};
use tonic::transport::Server;
use tonic::transport::server::Router;

use crate::sidecar::Sidecar;

pub use socket::HookSocket;

/// Largest XML or VMI of a call, bytes: what virt-launcher's own side of gRPC takes.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// What virt-launcher finds on the hook socket.
pub fn launcher_services(sidecar: &Arc<Sidecar>) -> Router {
    let service = callbacks::Callbacks { sidecar: Arc::clone(sidecar) };
    Server::builder()
        .add_service(InfoServer::new(info::Info { name: sidecar.name().to_owned() }))
        .add_service(
            v1alpha1::callbacks_server::CallbacksServer::new(service.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            v1alpha2::callbacks_server::CallbacksServer::new(service.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            v1alpha3::callbacks_server::CallbacksServer::new(service)
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
}

/// What virt-launcher finds where our `Plugin` says.
pub fn plugin_services(sidecar: &Arc<Sidecar>) -> Router {
    let service = plugin::DomainHook { sidecar: Arc::clone(sidecar) };
    Server::builder()
        .add_service(DomainHookServiceServer::new(service).max_decoding_message_size(MESSAGE_BYTES_MAX))
}
