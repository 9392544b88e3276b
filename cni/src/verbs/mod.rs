//! What the runtime may ask for, one file per command of the specification. It must never print.

mod add;
mod check;
mod del;
mod gc;
mod status;
mod sweep;

use std::path::Path;

use serde_json::Value;

use crate::attachment::Attachment;
use crate::namespace::{Namespace, NamespaceError};
use crate::protocol::{CniError, Code, Command, Config, Environment, version_reply};
use crate::wiring::{Call, Settings};

/// Does what `environment` asks for with the configuration on `stdin`; what to print, if anything.
pub fn run(environment: Environment, stdin: &[u8]) -> Result<Option<Value>, CniError> {
    let command = environment.command;
    if command == Command::Version {
        return Ok(Some(version_reply(stdin)));
    }
    let config = Config::parse_for(stdin, command)?;
    match command {
        Command::Add => add::run(&call(environment, config)?).map(Some),
        Command::Check => check::run(&call(environment, config)?).map(|()| None),
        Command::Status => status::run(&call(environment, config)?).map(|()| None),
        Command::Del => del::run(&environment, &config).map(|()| None),
        Command::Gc => gc::run(&environment, &config).map(|()| None),
        Command::Version => Ok(None),
    }
}

fn call(environment: Environment, config: Config) -> Result<Call, CniError> {
    let settings = Settings::read(&config)?;
    let attachment = attachment(&environment, &config, Some(&settings));
    Ok(Call { environment, config, attachment, settings })
}

fn attachment(environment: &Environment, config: &Config, settings: Option<&Settings>) -> Attachment {
    let beside = settings.map(|settings| settings.mode).filter(|mode| mode.is_beside());
    Attachment {
        network: config.name.clone(),
        container: environment.container_id.clone(),
        interface: environment.interface.clone(),
        beside: beside.map(|mode| mode.as_str().to_owned()),
    }
}

/// The pod's namespace, which must be another than ours.
fn pod(environment: &Environment) -> Result<Namespace, CniError> {
    let path = environment.netns.as_deref().unwrap_or_else(|| Path::new(""));
    let pod = Namespace::open(path).map_err(|error| {
        let code = match error {
            NamespaceError::NotFound(_) => Code::UnknownContainer,
            NamespaceError::NotANamespace(_) | NamespaceError::Io { .. } => Code::InvalidNetns,
        };
        CniError::new(code, format!("CNI_NETNS: {error}"))
    })?;
    if environment.netns_override {
        return Ok(pod);
    }
    let ours =
        Namespace::current().map_err(|error| CniError::internal(format!("our own namespace: {error}")))?;
    if pod.same_as(&ours).map_err(|error| CniError::io("CNI_NETNS", error))? {
        return Err(CniError::new(
            Code::InvalidNetns,
            "plugin's netns and netns from CNI_NETNS should not be the same",
        ));
    }
    Ok(pod)
}

/// One error for all that went wrong.
fn all(mut failures: Vec<CniError>) -> Result<(), CniError> {
    let Some(first) = (!failures.is_empty()).then(|| failures.remove(0)) else { return Ok(()) };
    if failures.is_empty() {
        return Err(first);
    }
    let others: Vec<String> = failures.iter().map(ToString::to_string).collect();
    let details = [first.details.clone(), others.join("; ")].join("; ");
    Err(first.with_details(details.trim_start_matches("; ").to_owned()))
}
