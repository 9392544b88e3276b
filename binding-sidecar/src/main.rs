//! The program: flags to a sidecar that answers, and one that has ended.
//!
//! Exit status 0 when it was told to end, 1 with the reason on standard error when it could not begin.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use binding_sidecar::cli::{Cli, Command, Serve};
use binding_sidecar::config::{self, Config};
use binding_sidecar::define::define;
use binding_sidecar::health::{Health, UnixSocket};
use binding_sidecar::hooks::{self, HookSocket};
use binding_sidecar::metrics::Metrics;
use binding_sidecar::names::PLUGIN_SOCKET;
use binding_sidecar::sidecar::Sidecar;
use binding_sidecar::translator::Translators;
use binding_sidecar::{logging, status};
use clap::Parser as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::Router;
use tracing::{error, info, warn};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => serve(&cli.serve),
        Some(Command::Status { json }) => show_status(&cli.serve, json),
        Some(Command::Define { domain, vmi }) => show_definition(&cli.serve, &domain, &vmi),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            // It may be closed, or have nobody who reads.
            let _ = writeln!(std::io::stderr(), "sluice-sidecar: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn show_status(serve: &Serve, json: bool) -> anyhow::Result<ExitCode> {
    status::run(&config::http_socket(serve), json, &mut std::io::stdout())?;
    Ok(ExitCode::SUCCESS)
}

fn show_definition(serve: &Serve, domain: &Path, vmi: &Path) -> anyhow::Result<ExitCode> {
    let settings = Config::resolve(serve)?.settings;
    let read = |file: &Path| fs::read(file).with_context(|| format!("reading {}", file.display()));
    let surroundings = settings.surroundings().context("the pod's network interfaces cannot be read")?;
    let defined = define(&read(domain)?, &read(vmi)?, &surroundings)?;
    for wanted in settings.wanted(&defined.plan.nics, surroundings.memory_limit) {
        eprintln!("{}: passt-rs {}", wanted.name, wanted.arguments.join(OsStr::new(" ")).display());
    }
    std::io::stdout().write_all(defined.domain.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn serve(serve: &Serve) -> anyhow::Result<ExitCode> {
    let config = Config::resolve(serve)?;
    let _log = logging::init(serve.log_format, serve.log_level).context("starting to log")?;
    info!(
        container = config.settings.container,
        binding = config.settings.binding,
        "sluice-sidecar {}",
        env!("CARGO_PKG_VERSION")
    );
    if is_initial_root() {
        warn!(
            "running as root: translators become nobody, who cannot use the folder of sockets, and outlive a sidecar that \
             is killed; run as another user (KubeVirt: without its feature gate Root)"
        );
    }
    // From here on the log is where reasons stand.
    Ok(match runtime()?.block_on(work(&config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

/// Whether what we start is root in the first user namespace, as which passt-rs does not go on.
fn is_initial_root() -> bool {
    let everybody = |map: String| map.split_whitespace().eq(["0", "0", "4294967295"]);
    rustix::process::geteuid().is_root() && fs::read_to_string("/proc/self/uid_map").is_ok_and(everybody)
}

/// Of one thread: what starts a process must live as long as the process may (`translator`).
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting")
}

async fn work(config: &Config) -> anyhow::Result<()> {
    // Before anything that a signal would have to clean up after.
    let mut ending = Ending::watch().context("waiting for signals")?;
    let net = &config.settings.net_folder;
    DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(net)
        .with_context(|| format!("making {}", net.display()))?;
    rustix::fs::access(&config.translator, rustix::fs::Access::EXEC_OK)
        .with_context(|| format!("the translator, {}", config.translator.display()))?;

    let translators = Translators::new(config.translator.clone());
    let metrics = Metrics::new();
    let health = Health::new(translators.board(), metrics.clone());
    let sidecar = Arc::new(Sidecar::new(config.settings.clone(), translators, metrics));
    serve_health(&health, config, sidecar.metrics_address()).await?;
    // Before the hook socket, as virt-launcher goes on when it finds that.
    let plugin = match config.plugin_folder.is_dir() {
        true => {
            let socket = config.plugin_folder.join(PLUGIN_SOCKET);
            Some(publish(hooks::plugin_services(&sidecar), &sidecar, &config.plugin_folder, &socket).await?)
        }
        false => None,
    };
    let hook = publish(hooks::launcher_services(&sidecar), &sidecar, net, &config.hook_socket).await?;
    health.set_hooks_listen(true);
    info!(socket = %config.hook_socket.display(), "ready for hook calls");

    tokio::select! {
        name = ending.next() => {
            info!("{name}: ending");
            sidecar.shut_down();
        }
        () = sidecar.ended() => {}
    }
    health.set_hooks_listen(false);
    sidecar.end_translators().await;
    let plugin_ends = async {
        if let Some(plugin) = plugin {
            plugin.end().await;
        }
    };
    tokio::join!(hook.end(), plugin_ends);
    info!("ended");
    Ok(())
}

/// Serves metrics and probes where flags say, and where the VMI says once a hook call brings it.
async fn serve_health(
    health: &Health,
    config: &Config,
    wanted: watch::Receiver<Option<SocketAddr>>,
) -> anyhow::Result<()> {
    let path = &config.http_socket;
    let socket =
        UnixSocket::listen(path).await.with_context(|| format!("listening on {}", path.display()))?;
    tokio::spawn(health.clone().serve_unix(socket));
    if let Some(address) = config.http_address {
        let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
        tokio::spawn(health.clone().serve_tcp(listener));
    }
    tokio::spawn(health.clone().serve_wanted(wanted));
    Ok(())
}

/// A service on a socket.
#[derive(Debug)]
struct Served {
    socket: HookSocket,
    task: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// Serves `services` on a socket that appears at `path` when there is somebody to answer. `aside` is a folder beside it.
async fn publish(
    services: Router,
    sidecar: &Arc<Sidecar>,
    aside: &Path,
    path: &Path,
) -> anyhow::Result<Served> {
    let context = || format!("listening on {}", path.display());
    let (listener, hidden) = HookSocket::listen(aside, path).await.with_context(context)?;
    let incoming = UnixListenerStream::new(listener);
    let sidecar = Arc::clone(sidecar);
    let task = tokio::spawn(async move {
        services.serve_with_incoming_shutdown(incoming, async move { sidecar.ended().await }).await
    });
    let socket = hidden.publish().with_context(context)?;
    Ok(Served { socket, task })
}

impl Served {
    /// Nobody finds it any more; who was being answered still is, for a moment.
    async fn end(self) {
        drop(self.socket);
        let _ = timeout(LAST_ANSWER, self.task).await;
    }
}

/// Signals that end a container or a person's run.
#[derive(Debug)]
struct Ending {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
}

impl Ending {
    fn watch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The name of the first that comes.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hang_up.recv() => "SIGHUP",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }
}

/// QEMU runs as our user; nobody else has a use for our sockets.
const FOLDER_MODE: u32 = 0o700;

/// What an answer on its way gets before the process ends.
const LAST_ANSWER: Duration = Duration::from_millis(200);
