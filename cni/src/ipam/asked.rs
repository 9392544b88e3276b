//! What an IPAM plugin was asked with at ADD, kept so that it is told the same when the address is given back: whoever has
//! written another `ipam` since, or none, would ask the wrong one. It must never be readable by others than the
//! configuration is: there may be passwords in it.

use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use super::{Plugin, delegate, plugin};
use crate::protocol::{Arguments, CniError, Config, Environment};

/// All that a delegate got of ADD, but for the names that every verb has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Byte for byte.
    config: String,
    /// `CNI_ARGS`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    arguments: String,
}

impl Asked {
    /// `None` if the configuration wants no addresses.
    pub fn of(config: &Config, environment: &Environment) -> Option<Self> {
        config.ipam_type()?;
        let arguments = environment.arguments.text.clone();
        // Other bytes than UTF-8 are not JSON, and were refused.
        String::from_utf8(config.raw.clone()).ok().map(|config| Self { config, arguments })
    }
}

/// Gives back what `add` gave, to the plugin that gave it, where that is known.
///
/// # Errors
/// As [`super::delete`].
pub fn give_back(asked: Option<&Asked>, config: &Config, environment: &Environment) -> Result<(), CniError> {
    let Some(asked) = asked else { return super::delete(config, environment) };
    // One that a newer version wrote may be of a CNI version that this one does not speak.
    let Ok(then) = Config::parse(asked.config.as_bytes()) else { return super::delete(config, environment) };
    // What the runtime says now has ADD's result as well, as the specification wants.
    let config = if then.is_alike(config) {
        config
    } else {
        if then.ipam_type() != config.ipam_type() && is_gone(&then, environment) {
            // A pod that could not be deleted until its program is there again would help nobody.
            warn!(
                ipam = then.ipam_type(),
                "the network has another IPAM plugin, and the one that gave the address is gone"
            );
            return Ok(());
        }
        debug!("the address is given back with the configuration of ADD, which is not the present one");
        &then
    };
    if !environment.of_another {
        return super::delete(config, environment);
    }
    let arguments = Arguments::parse_leniently(&asked.arguments);
    super::delete(config, &Environment { arguments, ..environment.clone() })
}

fn is_gone(config: &Config, environment: &Environment) -> bool {
    let Some(Plugin::Other(name)) = plugin(config) else { return false };
    delegate::find(&name, &environment.path).is_err()
}
