//! Which flags exist. KubeVirt gives a binding's sidecar neither arguments nor an environment of its own, so defaults are
//! what a pod runs with; flags are for images of one's own, and for people.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::names::{
    BINDING_NAME, CONTAINER_NAME, DEFAULT_BINDING_NAME, HOOKS_FOLDER, PLUGIN, PLUGINS_FOLDER,
};

/// KubeVirt network binding: gives VMs vhost-user NICs and keeps their translators running.
#[derive(Debug, Parser)]
#[command(name = "sluice-sidecar", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub serve: Serve,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Without a command the sidecar serves hook calls.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tell how the sidecar of this container and its translators are doing
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print what OnDefineDomain would make of a domain; nothing is started
    Define {
        /// The domain's XML
        domain: PathBuf,
        /// The VirtualMachineInstance, as JSON
        vmi: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct Serve {
    /// The container's name, by which compute knows the folder of our sockets
    #[arg(long, env = CONTAINER_NAME, global = true, value_name = "NAME")]
    pub container_name: Option<String>,
    /// The binding's name in the KubeVirt CR; which interfaces of a VM are ours
    #[arg(long, env = BINDING_NAME, default_value = DEFAULT_BINDING_NAME, global = true, value_name = "NAME")]
    pub binding_name: String,
    /// Folder of hook sockets, as this container sees it
    #[arg(long, default_value = HOOKS_FOLDER, global = true, value_name = "FOLDER")]
    pub hooks_folder: PathBuf,
    /// Folder of our Plugin's sockets; served where it exists
    #[arg(long, default_value_os_t = PathBuf::from(PLUGINS_FOLDER).join(PLUGIN), value_name = "FOLDER")]
    pub plugin_folder: PathBuf,
    /// The translator [default: passt-rs beside this program]
    #[arg(long, env = "SLUICE_TRANSLATOR", value_name = "PROGRAM")]
    pub translator: Option<PathBuf>,
    /// Serve /metrics, /healthz and /readyz over TCP too, not only on the socket in the hooks folder
    #[arg(long, env = "SLUICE_HTTP_ADDRESS", value_name = "ADDRESS:PORT")]
    pub http_address: Option<SocketAddr>,
    /// How log lines look [default: text on a terminal, else json]
    #[arg(long, env = "SLUICE_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// The least important lines that are logged
    #[arg(long, env = "SLUICE_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: LogLevel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}
