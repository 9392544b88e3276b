//! Names that others rely on: KubeVirt's, and ours that manifests and the book repeat. It must never decide anything.

/// Where a sidecar mounts its own folder of the volume that it shares with compute.
pub const HOOKS_FOLDER: &str = "/var/run/kubevirt-hooks";
/// Below it, what virt-launcher must not take for a hook's socket: it looks at files of the first level only.
pub const NET_FOLDER: &str = "net";
/// Where the container of a `Plugin` mounts its folder; the plugin's name follows.
pub const PLUGINS_FOLDER: &str = "/var/run/kubevirt-plugin";
/// Name of our `Plugin`, and of its folder.
pub const PLUGIN: &str = "sluice";
/// The file in it that `domainHooks[].sidecar.socketPath` names.
pub const PLUGIN_SOCKET: &str = "domain-hook.sock";

/// The container's name, by which compute knows the folder; KubeVirt sets it since 1.6.
pub const CONTAINER_NAME: &str = "CONTAINER_NAME";
/// The key in the KubeVirt CR under which we are registered; KubeVirt sets it since 1.9.
pub const BINDING_NAME: &str = "NETWORK_BINDING_PLUGIN_NAME";
/// What older versions mean.
pub const DEFAULT_BINDING_NAME: &str = "sluice";

/// What our annotations on a VMI begin with.
pub const ANNOTATIONS: &str = "sluice.dev/";

/// The programs, as the image has them.
pub const SIDECAR_PROGRAM: &str = "/sluice-sidecar";
pub const TRANSLATOR_PROGRAM: &str = "/passt-rs";
