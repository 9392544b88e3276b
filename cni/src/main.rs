//! `sluice`: called by a container runtime or Multus with CNI's environment, or by a person.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use sluice_cni::protocol::{CniError, Code, Command, Environment, LONGEST_CONFIG_BYTES, Version};
use sluice_cni::tap::label;
use sluice_cni::{logging, verbs};

fn main() -> ExitCode {
    let variable = |name: &str| std::env::var(name).ok();
    if let Some(code) =
        label::child(std::env::args_os().skip(1).filter_map(|argument| argument.into_string().ok()))
    {
        return code;
    }
    if std::env::args_os().len() > 1 {
        return sluice_cni::person::run();
    }
    let command = match Command::read(variable) {
        Ok(None) => {
            eprintln!("{}", sluice_cni::person::about());
            return ExitCode::SUCCESS;
        }
        Ok(Some(command)) => Ok(command),
        Err(error) => Err(error),
    };
    let environment = command.and_then(|_| Environment::read(variable));
    let mut stdin = Vec::new();
    let read = io::stdin().lock().take(LONGEST_CONFIG_BYTES + 1).read_to_end(&mut stdin);
    let outcome = environment.and_then(|environment| {
        read.map_err(|error| CniError::io("reading the network configuration from stdin", error))?;
        if stdin.len() as u64 > LONGEST_CONFIG_BYTES {
            return Err(CniError::new(
                Code::Io,
                format!("the network configuration is longer than {LONGEST_CONFIG_BYTES} bytes"),
            ));
        }
        logging::start(&stdin);
        verbs::run(environment, &stdin)
    });
    let (text, code) = match outcome {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(answer)) => (answer.to_string(), ExitCode::SUCCESS),
        Err(error) => {
            tracing::error!(code = error.code, "{error}");
            (error.to_json(&asked_version(&stdin)).to_string(), ExitCode::FAILURE)
        }
    };
    match writeln!(io::stdout().lock(), "{text}") {
        Ok(()) => code,
        Err(error) => {
            eprintln!("stdout: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The configuration's version for an error's answer, as far as it can be read.
fn asked_version(stdin: &[u8]) -> String {
    let config = serde_json::from_slice::<serde_json::Value>(stdin).ok();
    let version =
        config.as_ref().and_then(|config| config.get("cniVersion")).and_then(serde_json::Value::as_str);
    version.and_then(|version| Version::parse(version).ok()).unwrap_or(Version::V1_1_0).to_string()
}
