//! The network configuration on stdin: what every verb checks first, and how a mode reads its own keys. It must never know
//! a mode's key.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

use super::cni_error::{CniError, Code};
use super::environment::{Command, is_plain_name};
use super::keys::{Folded, Refused};
use super::result::{CniResult, Dns};
use super::version::Version;

/// One plugin's configuration, with what the runtime put into it.
#[derive(Clone, Debug)]
pub struct Config {
    pub version: Version,
    /// The network's, fit to be a file's name.
    pub name: String,
    /// The bytes as they came, for delegates.
    pub raw: Vec<u8>,
    pub(super) keys: Folded,
}

impl Config {
    /// What ADD and DEL need; see [`Config::parse_for`].
    ///
    /// # Errors
    /// As [`Config::parse_for`].
    pub fn parse(stdin: &[u8]) -> Result<Self, CniError> {
        Self::parse_for(stdin, Command::Add)
    }

    /// Checks in the order of Go's `skel`: JSON, name, version, and whether that version has the verb. The caller bounds
    /// the length.
    ///
    /// # Errors
    /// Code 6: not JSON, or name or version are no strings. Code 7: a name that is missing or cannot be, an `ipam` that
    /// is none. Code 1: the version is not spoken here, or has no such verb.
    pub fn parse_for(stdin: &[u8], command: Command) -> Result<Self, CniError> {
        let undecodable = |what: &str, why: String| CniError::new(Code::Decoding, format!("{what}: {why}"));
        let refused =
            |what: &str, why: Refused| undecodable(what, format!("{} {}: {}", why.key, why.value, why.why));

        let keys = Folded::parse(stdin).map_err(|error| undecodable(UNMARSHAL, error.to_string()))?;
        let name: String = keys.read(&["name"]).map_err(|why| refused(UNMARSHAL, why))?.unwrap_or_default();
        check_name(&name)?;
        let version: Option<String> =
            keys.read(&["cniversion"]).map_err(|why| refused(DECODE_VERSION, why))?;
        let version = check_version(&version.unwrap_or_default(), command)?;

        let config = Self { version, name, raw: stdin.to_vec(), keys };
        config.read_at::<String>(&["ipam", "type"])?;
        Ok(config)
    }

    /// The whole configuration as a `T`, whose fields are named in lower case (`#[serde(rename = "isgateway")]`). Keys
    /// unknown to `T` are accepted; null counts as absent.
    ///
    /// # Errors
    /// Code 7, with the key as it was written and the value.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, CniError> {
        match self.read_at(&[])? {
            Some(read) => Ok(read),
            // Only a path can lead to nothing, and this is the empty one.
            None => Err(CniError::internal("the configuration is absent")),
        }
    }

    /// What is at a path of keys in lower case; `None` if that is absent.
    ///
    /// # Errors
    /// Code 7, with the key as it was written and the value.
    pub fn read_at<T: DeserializeOwned>(&self, path: &[&str]) -> Result<Option<T>, CniError> {
        self.keys.read(path).map_err(Refused::in_config)
    }

    /// The result of the plugin before, or for DEL and CHECK of the last one. Without its own version it has the
    /// configuration's.
    ///
    /// # Errors
    /// Code 7 with key and value; code 1 for a result of a version that is not spoken here.
    pub fn previous(&self) -> Result<Option<CniResult>, CniError> {
        let path = &["prevresult"];
        if self.read_at::<Value>(path)?.is_none() {
            return Ok(None);
        }
        CniResult::read(&self.keys, path, self.version)
            .map(Some)
            .map_err(|error| error.into_cni(Refused::in_config))
    }

    /// For GC: the attachments (container, interface) of this network that still exist.
    ///
    /// # Errors
    /// Code 7 where neither the key nor its older name is there, or an entry lacks a part: what was meant to live must
    /// not be swept. Null is an empty list: libcni writes it so.
    pub fn valid_attachments(&self) -> Result<Vec<(String, String)>, CniError> {
        #[derive(Deserialize)]
        struct Attachment {
            #[serde(rename = "containerid")]
            container: String,
            #[serde(rename = "ifname")]
            interface: String,
        }

        for key in ATTACHMENTS {
            if let Some(found) = self.read_at::<Vec<Attachment>>(&[key])? {
                return Ok(found.into_iter().map(|found| (found.container, found.interface)).collect());
            }
        }
        let present: BTreeMap<String, IgnoredAny> =
            serde_json::from_slice(&self.raw).map_err(|error| CniError::internal(error.to_string()))?;
        if present.keys().any(|key| ATTACHMENTS.iter().any(|known| key.eq_ignore_ascii_case(known))) {
            return Ok(Vec::new());
        }
        Err(CniError::new(
            Code::InvalidConfig,
            format!("invalid network configuration: {} missing", ATTACHMENTS[0]),
        ))
    }

    /// `ipam.type`; `None` means no addresses.
    pub fn ipam_type(&self) -> Option<String> {
        // Its type was checked when the configuration was parsed.
        self.read_at::<String>(&["ipam", "type"]).ok().flatten().filter(|kind| !kind.is_empty())
    }

    /// `runtimeConfig.dns`, else `dns`. Empty if neither says anything.
    ///
    /// # Errors
    /// Code 7 with key and value.
    pub fn dns(&self) -> Result<Dns, CniError> {
        let strings = |path: &[&str]| Ok(self.read_at::<Vec<String>>(path)?.unwrap_or_default());
        // The capability has other names (CONVENTIONS.md).
        let given = Dns {
            nameservers: strings(&["runtimeconfig", "dns", "servers"])?,
            search: strings(&["runtimeconfig", "dns", "searches"])?,
            options: strings(&["runtimeconfig", "dns", "options"])?,
            domain: None,
        };
        if !given.is_empty() {
            return Ok(given);
        }
        Ok(Dns {
            nameservers: strings(&["dns", "nameservers"])?,
            domain: self.read_at::<String>(&["dns", "domain"])?.filter(|domain| !domain.is_empty()),
            search: strings(&["dns", "search"])?,
            options: strings(&["dns", "options"])?,
        })
    }
}

/// What VERSION prints. The specification wants the version of the question again; a question that cannot be read gets the
/// newest version, as Go's plugins answer every one.
pub fn version_reply(stdin: &[u8]) -> Value {
    let asked =
        Folded::parse(stdin).ok().and_then(|keys| keys.read::<String>(&["cniversion"]).ok().flatten());
    let asked = asked.filter(|asked| !asked.is_empty()).unwrap_or_else(|| Version::V1_1_0.to_string());
    let all: Vec<&str> = Version::ALL.into_iter().map(Version::as_str).collect();
    json!({ "cniVersion": asked, "supportedVersions": all })
}

/// As Go's library words it.
const UNMARSHAL: &str = "error unmarshall network config";
const DECODE_VERSION: &str = "decoding version from network config";

/// The key of CNI 1.1.0, and the one that its first text had (containernetworking/cni issue 1101).
const ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

fn check_name(name: &str) -> Result<(), CniError> {
    if name.is_empty() {
        return Err(CniError::new(Code::InvalidConfig, "missing network name"));
    }
    if !is_plain_name(name) {
        let error = CniError::new(Code::InvalidConfig, "invalid characters found in network name");
        return Err(error.with_details(name));
    }
    Ok(())
}

/// A version older than the verb, or newer than this plugin, is told apart from one that never was.
fn check_version(text: &str, command: Command) -> Result<Version, CniError> {
    let refused = |who: &str| {
        let msg = format!("{who} version does not allow {}", command.as_str());
        CniError::new(Code::IncompatibleVersion, msg).with_details(format!("config is {text:?}"))
    };
    let since = match command {
        Command::Check => Version::V0_4_0,
        Command::Gc | Command::Status => Version::V1_1_0,
        Command::Add | Command::Del | Command::Version => return Version::parse(text),
    };
    match (Version::parse(text), numbers(text)) {
        (Ok(version), _) if version >= since => Ok(version),
        (Ok(_), _) => Err(refused("config")),
        (Err(_), Some(given)) if Some(given) < numbers(since.as_str()) => Err(refused("config")),
        (Err(_), Some(given)) if Some(given) > numbers(Version::V1_1_0.as_str()) => Err(refused("plugin")),
        (Err(error), _) => Err(error),
    }
}

/// `major.minor.patch` to compare.
fn numbers(text: &str) -> Option<[u32; 3]> {
    let parts: Result<Vec<u32>, _> = text.split('.').map(str::parse).collect();
    parts.ok()?.try_into().ok()
}
