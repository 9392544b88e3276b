//! The sidecar: what hook calls change, and what ends it. It must never know how calls arrive.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex as StdMutex, PoisonError};
use std::time::Instant;

use thiserror::Error;
use tokio::sync::{Mutex, watch};
use tonic::Status;
use tracing::{debug, info, warn};

use crate::define::{DefineError, Defined, Surroundings, define, stem};
use crate::metrics::{HookCall, Metrics};
use crate::nic::Nic;
use crate::pod;
use crate::translator::{Allowance, TranslatorError, Translators, Wanted, arguments::arguments, chain};
use crate::vmi::{Place, Plan};

/// What does not change while the sidecar runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Our container's name.
    pub container: String,
    /// The binding's name.
    pub binding: String,
    /// For translators' sockets, as this container sees it.
    pub net_folder: PathBuf,
    pub resolv_conf: PathBuf,
}

/// One of virt-launcher's calls.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub name: &'static str,
    pub version: &'static str,
}

/// Why a call is refused. Whatever it is, the domain was not touched, and translators that ran go on.
#[derive(Debug, Error)]
pub enum CallError {
    #[error(transparent)]
    Asked(#[from] DefineError),
    #[error("the pod's network interfaces cannot be read")]
    Pod(#[source] io::Error),
    #[error(transparent)]
    Translator(#[from] TranslatorError),
    #[error("the sidecar ends")]
    Ending,
}

/// Shared by all calls.
#[derive(Debug)]
pub struct Sidecar {
    settings: Settings,
    /// Held for the length of a call, so that calls happen one after the other.
    translators: Mutex<Translators>,
    metrics: Metrics,
    /// What the last call asked for; calls of one start ask for the same.
    last: StdMutex<Option<Plan>>,
    metrics_address: watch::Sender<Option<SocketAddr>>,
    end: watch::Sender<bool>,
}

impl Sidecar {
    pub fn new(settings: Settings, translators: Translators, metrics: Metrics) -> Self {
        Self {
            settings,
            translators: Mutex::new(translators),
            metrics,
            last: StdMutex::default(),
            metrics_address: watch::Sender::default(),
            end: watch::Sender::default(),
        }
    }

    /// For virt-launcher's log.
    pub fn name(&self) -> &str {
        &self.settings.binding
    }

    /// Adds the VMI's NICs to `domain`, and returns when each has its translator. On a migration's target the
    /// translators are all that counts: the domain comes from the source.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for what is wrong with the XML or the VMI, FAILED_PRECONDITION for what is wrong with the pod or
    /// a translator.
    pub async fn define(&self, call: Call, domain: &[u8], vmi: &[u8]) -> Result<Vec<u8>, Status> {
        let started = Instant::now();
        let outcome = self.try_define(call, domain, vmi).await;
        let label = match &outcome {
            Ok(_) => "ok",
            Err(CallError::Asked(_)) => "invalid_argument",
            Err(CallError::Pod(_) | CallError::Translator(_) | CallError::Ending) => "failed_precondition",
        };
        self.metrics.hook_call(counted(call, label), started.elapsed());
        outcome.map(String::into_bytes).map_err(|error| {
            let text = chain(&error);
            warn!(call = call.name, version = call.version, "the domain stays as it is: {text}");
            match error {
                CallError::Asked(_) => Status::invalid_argument(text),
                CallError::Pod(_) | CallError::Translator(_) | CallError::Ending => {
                    Status::failed_precondition(text)
                }
            }
        })
    }

    async fn try_define(&self, call: Call, domain: &[u8], vmi: &[u8]) -> Result<String, CallError> {
        let mut translators = self.translators.lock().await;
        let surroundings = self.settings.surroundings().map_err(CallError::Pod)?;
        let Defined { domain, plan } = define(domain, vmi, &surroundings)?;
        let wanted = self.settings.wanted(&plan.nics, surroundings.memory_limit);
        tokio::select! {
            biased;
            // First: who waited for the lock may have it after those who ended all translators.
            () = self.ended() => return Err(CallError::Ending),
            outcome = translators.ensure(&wanted) => outcome?,
        }
        self.metrics_address.send_if_modified(|address| {
            let changed = *address != plan.metrics_address;
            *address = plan.metrics_address;
            changed
        });
        self.tell(call, plan);
        Ok(domain)
    }

    /// Another call that changes nothing.
    pub fn note(&self, call: Call) {
        debug!(call = call.name, version = call.version, "called");
        self.metrics.instant_hook_call(counted(call, "ok"));
    }

    /// A call that makes no sense: the answer to it.
    pub fn refuse(&self, call: Call, why: String) -> Status {
        warn!(call = call.name, version = call.version, "refused: {why}");
        self.metrics.instant_hook_call(counted(call, "invalid_argument"));
        Status::invalid_argument(why)
    }

    /// Whoever waits for [`Self::ended`] goes on.
    pub fn shut_down(&self) {
        self.end.send_replace(true);
    }

    /// Returns after [`Self::shut_down`].
    pub async fn ended(&self) {
        // The sender lives in self.
        let _ = self.end.subscribe().wait_for(|end| *end).await;
    }

    /// Where the VMI wants metrics served; changes with hook calls.
    pub fn metrics_address(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.metrics_address.subscribe()
    }

    /// Ends the translators; nothing of them is left afterwards.
    pub async fn end_translators(&self) {
        self.translators.lock().await.stop().await;
    }

    /// One line for each NIC, once: the calls of one start all do the same.
    fn tell(&self, call: Call, plan: Plan) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref() == Some(&plan) {
            debug!(call = call.name, version = call.version, "the same NICs as before");
            return;
        }
        if plan.nics.is_empty() {
            warn!(
                vmi = %plan.identity,
                "no interface of this VM has binding.name {:?}: nothing to do", self.settings.binding
            );
        }
        for nic in &plan.nics {
            if !nic.model.is_virtio() {
                warn!(
                    interface = nic.name,
                    "model {} has no vhost-user in QEMU: libvirt will refuse this domain; use a virtio model",
                    nic.model
                );
            }
            info!(
                vmi = %plan.identity,
                interface = nic.name,
                pod_interface = nic.uplink.interface,
                mac = %nic.mac,
                model = %nic.model,
                mtu = nic.mtu,
                queues = nic.queues.unwrap_or(1),
                tcp = %nic.tcp,
                udp = %nic.udp,
                socket = %self.settings.socket(nic).display(),
                "interface added to the domain, its translator runs"
            );
        }
        *last = Some(plan);
    }
}

fn counted(Call { name: call, version }: Call, outcome: &'static str) -> HookCall {
    HookCall { call, version, outcome }
}

impl Settings {
    /// Read anew for each call: what the pod's CNI plugins made is complete by then.
    pub fn surroundings(&self) -> io::Result<Surroundings> {
        let place = Place {
            binding: self.binding.clone(),
            links: pod::links()?,
            search: pod::search_domains(&self.resolv_conf),
        };
        Ok(Surroundings { container: self.container.clone(), place, memory_limit: pod::memory_limit() })
    }

    /// Translators for these NICs, which share what memory there is.
    pub fn wanted(&self, nics: &[Nic], memory_limit: Option<u64>) -> Vec<Wanted> {
        let allowance = memory_limit.map(|bytes| Allowance::of(bytes / nics.len().max(1) as u64));
        let wanted = |nic| {
            let (socket, control) = (self.socket(nic), self.control(nic));
            Wanted {
                name: nic.name.clone(),
                pod_interface: nic.uplink.interface.clone(),
                arguments: arguments(nic, &socket, &control, allowance),
                socket,
                control,
                descriptors_max: allowance.map(|allowance| allowance.descriptors),
            }
        };
        nics.iter().map(wanted).collect()
    }

    fn socket(&self, nic: &Nic) -> PathBuf {
        self.net_folder.join(format!("{}.sock", stem(nic)))
    }

    fn control(&self, nic: &Nic) -> PathBuf {
        self.net_folder.join(format!("{}.control", stem(nic)))
    }
}
