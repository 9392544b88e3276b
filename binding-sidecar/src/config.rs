//! From flags and environment to what the sidecar runs with, checked. The only reader of the environment beside `cli`'s
//! flags.

use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

use crate::cli::Serve;
use crate::names::{CONTAINER_NAME, NET_FOLDER};
use crate::sidecar::Settings;

/// Resolved and immutable.
#[derive(Debug)]
pub struct Config {
    pub settings: Settings,
    /// Where virt-launcher looks.
    pub hook_socket: PathBuf,
    /// Where it looks for plugins' sockets, if the folder exists.
    pub plugin_folder: PathBuf,
    pub translator: PathBuf,
    /// For people and probes of this container.
    pub http_socket: PathBuf,
    pub http_address: Option<SocketAddr>,
}

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error(
        "{CONTAINER_NAME} is not set. KubeVirt sets it since 1.6; the domain names our sockets by it, so give an older one's \
         container --container-name hook-sidecar-N"
    )]
    NoContainerName,
    #[error("the container's name, {0:?}, is no name of a folder")]
    ContainerName(String),
    #[error("the binding's name is empty")]
    NoBindingName,
    #[error("this program does not know where it is: --translator must say where passt-rs is")]
    NoTranslator(#[source] std::io::Error),
}

impl Config {
    /// # Errors
    /// What is missing or wrong, by its name.
    pub fn resolve(serve: &Serve) -> Result<Self, ConfigError> {
        let container = serve.container_name.clone().filter(|name| !name.is_empty());
        let container = container.ok_or(ConfigError::NoContainerName)?;
        if container.contains('/') || container.starts_with('.') || container.len() > CONTAINER_BYTES_MAX {
            return Err(ConfigError::ContainerName(container));
        }
        if serve.binding_name.is_empty() {
            return Err(ConfigError::NoBindingName);
        }
        let net_folder = serve.hooks_folder.join(NET_FOLDER);
        let translator = match &serve.translator {
            Some(program) => program.clone(),
            None => env::current_exe().map_err(ConfigError::NoTranslator)?.with_file_name("passt-rs"),
        };
        Ok(Self {
            hook_socket: serve.hooks_folder.join(format!("{container}.sock")),
            plugin_folder: serve.plugin_folder.clone(),
            http_socket: http_socket(serve),
            http_address: serve.http_address,
            settings: Settings {
                container,
                binding: serve.binding_name.clone(),
                net_folder,
                resolv_conf: PathBuf::from("/etc/resolv.conf"),
            },
            translator,
        })
    }
}

/// Where a running sidecar answers `status`.
pub fn http_socket(serve: &Serve) -> PathBuf {
    serve.hooks_folder.join(NET_FOLDER).join("sluice.http")
}

/// Kubernetes' limit for names of containers.
const CONTAINER_BYTES_MAX: usize = 63;
