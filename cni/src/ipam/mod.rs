//! Who gets which address: `host-local` and `static` built in, every other plugin executed. It must never touch the
//! pod's interfaces, nor keep a lease for an attachment whose ADD failed.
//!
//! | verb | host-local | static | others |
//! |---|---|---|---|
//! | ADD | reserves | reads | ADD; DEL as well if that fails |
//! | CHECK | finds a lease | compares gateways | CHECK |
//! | DEL | releases | nothing to do | DEL; a program that is missing is an error: the lease would stay |
//! | GC | releases what is not valid | nothing to do | GC; who does not know it is logged |
//! | STATUS | folder writable, addresses left | configuration | STATUS; who does not know it is logged |

pub mod range;
pub mod leases;
pub mod resolv_conf;
pub mod route_config;
pub mod host_local;
pub mod static_addresses;
pub mod delegate;
pub mod asked;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use tracing::{debug, warn};

pub use self::asked::{Asked, give_back};
use self::host_local::{Holder, HostLocal, Place};
use self::range::RangeConfig;
use self::static_addresses::Wishes;
use crate::protocol::{CniError, CniResult, Code, Command, Config, Environment, Wished};

/// The plugin that `ipam.type` names.
enum Plugin {
    HostLocal,
    Static,
    Other(String),
}

/// Addresses for the attachment of `environment`; `None` if the configuration wants none. The result has no interfaces.
///
/// # Errors
/// Code 7 for a configuration that cannot be used, code 999 where there is no address, code 5 for files and programs; a
/// delegate's own. Nothing is reserved then.
pub fn add(config: &Config, environment: &Environment) -> Result<Option<CniResult>, CniError> {
    let Some(plugin) = plugin(config) else { return Ok(None) };
    let result = match &plugin {
        Plugin::HostLocal => {
            let requested = requested(config, environment)?;
            host_local(config)?.add(&config.name, holder(environment), &requested)?
        }
        Plugin::Static => {
            let ips = config.ips(environment)?;
            static_addresses::add(section(config)?, wishes(ips.as_ref(), environment), config.version)?
        }
        Plugin::Other(name) => {
            let program = delegate::find(name, &environment.path)?;
            delegate::run(&program, Command::Add, environment, &config.raw)
                .and_then(|answer| CniResult::parse_bytes(&answer, config.version))
                .inspect_err(|_| take_back(config, environment))?
        }
    };
    if result.ips.is_empty() {
        take_back(config, environment);
        return Err(CniError::internal("IPAM plugin returned missing IP config"));
    }
    Ok(Some(result))
}

/// Gives back what `add` gave. Needs no namespace; what is gone already is no error.
///
/// # Errors
/// A lease that may still be there: files that cannot be removed (code 5), a delegate that fails or is missing.
pub fn delete(config: &Config, environment: &Environment) -> Result<(), CniError> {
    match plugin(config) {
        None | Some(Plugin::Static) => Ok(()),
        Some(Plugin::HostLocal) => {
            let place: Place = section(config)?;
            host_local::delete(&place.data_dir(), &config.name, holder(environment))
        }
        Some(Plugin::Other(name)) => execute(&name, Command::Del, config, environment),
    }
}

/// # Errors
/// Code 999 if the attachment has not what `add` gave; code 7 for a configuration that cannot be used; a delegate's own.
pub fn check(config: &Config, environment: &Environment) -> Result<(), CniError> {
    match plugin(config) {
        None => Ok(()),
        Some(Plugin::HostLocal) => host_local(config)?.check(&config.name, holder(environment)),
        Some(Plugin::Static) => {
            let (ips, previous) = (config.ips(environment)?, config.previous()?);
            let wishes = wishes(ips.as_ref(), environment);
            static_addresses::check(section(config)?, wishes, previous.as_ref())
        }
        Some(Plugin::Other(name)) => execute(&name, Command::Check, config, environment),
    }
}

/// Gives back what belongs to attachments of this network (container, interface) that are not in `valid`.
///
/// # Errors
/// As `delete`.
pub fn gc(config: &Config, environment: &Environment, valid: &[(String, String)]) -> Result<(), CniError> {
    match plugin(config) {
        None | Some(Plugin::Static) => Ok(()),
        Some(Plugin::HostLocal) => {
            let place: Place = section(config)?;
            host_local::gc(&place.data_dir(), &config.name, valid)
        }
        Some(Plugin::Other(name)) => execute(&name, Command::Gc, config, environment)
            .or_else(|error| unless_too_old(error, &name, "GC")),
    }
}

/// # Errors
/// Code 50 where an ADD would fail: files, full ranges, a program that is missing; code 7; a delegate's own.
pub fn status(config: &Config, environment: &Environment) -> Result<(), CniError> {
    match plugin(config) {
        None => Ok(()),
        Some(Plugin::HostLocal) => host_local(config)?.status(&config.name),
        Some(Plugin::Static) => {
            let ips = config.ips(environment)?;
            let wishes = wishes(ips.as_ref(), environment);
            static_addresses::add(section(config)?, wishes, config.version).map(|_| ())
        }
        Some(Plugin::Other(name)) => {
            let program = delegate::find(&name, &environment.path)
                .map_err(|error| error.with_code(Code::NotAvailable))?;
            delegate::run(&program, Command::Status, environment, &config.raw)
                .map(|_| ())
                .or_else(|error| unless_too_old(error, &name, "STATUS"))
        }
    }
}

fn plugin(config: &Config) -> Option<Plugin> {
    config.ipam_type().map(|name| match name.as_str() {
        "host-local" => Plugin::HostLocal,
        "static" => Plugin::Static,
        _ => Plugin::Other(name),
    })
}

fn holder(environment: &Environment) -> Holder<'_> {
    Holder { container: &environment.container_id, interface: &environment.interface }
}

/// `ipam` as its plugin reads it. It is there: it has a type.
fn section<T: DeserializeOwned + Default>(config: &Config) -> Result<T, CniError> {
    Ok(config.read_at(&["ipam"])?.unwrap_or_default())
}

fn host_local(config: &Config) -> Result<HostLocal, CniError> {
    let ip_ranges: Option<Vec<Vec<RangeConfig>>> = config.read_at(&["runtimeconfig", "ipranges"])?;
    HostLocal::new(section(config)?, ip_ranges.unwrap_or_default(), config.version)
}

fn execute(name: &str, verb: Command, config: &Config, environment: &Environment) -> Result<(), CniError> {
    let program = delegate::find(name, &environment.path)?;
    debug!(program = %program.display(), verb = verb.as_str(), "IPAM plugin");
    delegate::run(&program, verb, environment, &config.raw).map(|_| ())
}

/// After an ADD that failed: whoever was asked must not keep anything. The ADD's error is the one to report.
fn take_back(config: &Config, environment: &Environment) {
    if let Err(error) = delete(config, environment) {
        warn!(%error, "IPAM plugin keeps what it gave");
    }
}

/// GC and STATUS are of CNI 1.1.0; a plugin of before has nothing to say.
fn unless_too_old(error: CniError, name: &str, verb: &str) -> Result<(), CniError> {
    if !delegate::is_too_old(&error) {
        return Err(error);
    }
    warn!(plugin = name, verb, answer = %error, "IPAM plugin does not know the verb");
    Ok(())
}

/// For `static`, which words its own complaints.
fn wishes<'a>(ips: Option<&'a Wished>, environment: &'a Environment) -> Wishes<'a> {
    Wishes { ips, gateways: &environment.arguments.gateways }
}

/// For `host-local`, which takes them with or without a prefix length.
fn requested(config: &Config, environment: &Environment) -> Result<Vec<IpAddr>, CniError> {
    let Some(wished) = config.ips(environment)? else { return Ok(Vec::new()) };
    let read = |text: &String| address(text).ok_or_else(|| wished.refuse(text, "invalid IP address"));
    wished.texts.iter().map(read).collect()
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpNet>().map(|net| net.addr()).or_else(|_| text.parse()).ok()
}
