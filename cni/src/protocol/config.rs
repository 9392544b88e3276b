//! The network configuration on stdin: what every verb checks first, and how a mode reads its own keys. It must never know
//! a mode's key.

use serde::Deserialize;
use serde::de::DeserializeOwned;
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
        let refused = |what: &str, why: Refused| undecodable(what, why.to_string());

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

    /// The network's configuration without what the runtime said of one attachment, for the sake of another.
    #[must_use]
    pub fn of_another(&self) -> Self {
        let Ok(Value::Object(mut keys)) = serde_json::from_slice(&self.raw) else { return self.clone() };
        keys.retain(|key, _| !OF_ONE.iter().any(|of_one| key.eq_ignore_ascii_case(of_one)));
        // What was read once is read again.
        Self::parse(Value::Object(keys).to_string().as_bytes()).unwrap_or_else(|_| self.clone())
    }

    /// Whether both say the same, whatever plugins before have answered.
    pub fn is_alike(&self, other: &Self) -> bool {
        self.keys.without("prevresult") == other.keys.without("prevresult")
    }

    /// The whole configuration as a `T`, whose fields are named in lower case (`#[serde(rename = "isgateway")]`). Keys
    /// unknown to `T` are accepted; null counts as absent.
    ///
    /// # Errors
    /// Code 7, with the key as it was written and the value.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, CniError> {
        self.keys.read_all().map_err(Refused::in_config)
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
        if ATTACHMENTS.iter().any(|key| self.keys.was_null(key)) {
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
        let strings =
            |path: &[&str]| -> Result<Vec<String>, CniError> { Ok(self.read_at(path)?.unwrap_or_default()) };
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

/// Of a configuration. More than any has: etcd's objects are smaller.
pub const LONGEST_CONFIG_BYTES: u64 = 4 << 20;

/// Keys that a runtime puts into the configuration for one attachment.
const OF_ONE: [&str; 3] = ["prevResult", "runtimeConfig", "args"];

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

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> Config {
        Config::parse(json.as_bytes()).unwrap()
    }

    /// The error of a configuration, without the list of versions.
    fn refused(stdin: &str, command: Command) -> (u32, String) {
        let error = Config::parse_for(stdin.as_bytes(), command).unwrap_err();
        let all = r#", plugin supports ["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]"#;
        (error.code, error.to_string().replace(all, ""))
    }

    #[test]
    fn wrong_configurations_are_told_in_gos_words() {
        for (stdin, code, text) in [
            ("", 6, "error unmarshall network config: EOF while parsing a value at line 1 column 0"),
            ("{", 6, "error unmarshall network config: EOF while parsing an object at line 1 column 1"),
            ("[]", 6, "error unmarshall network config: []: expected an object"),
            (r#"{"name":5}"#, 6, "error unmarshall network config: name 5: expected a string"),
            ("null", 7, "missing network name"),
            ("{}", 7, "missing network name"),
            (r#"{"name":""}"#, 7, "missing network name"),
            (r#"{"name":null,"cniVersion":5}"#, 7, "missing network name"),
            (r#"{"name":"-a b"}"#, 7, "invalid characters found in network name: -a b"),
            (r#"{"name":"a/b","cniVersion":"9.9.9"}"#, 7, "invalid characters found in network name: a/b"),
            (
                r#"{"name":"n","cniVersion":5}"#,
                6,
                "decoding version from network config: cniVersion 5: expected a string",
            ),
            (
                r#"{"cniVersion":"1.1.0","name":"n","ipam":"host-local"}"#,
                7,
                r#"invalid network configuration: ipam "host-local": expected an object"#,
            ),
            (
                r#"{"cniVersion":"1.1.0","name":"n","IPAM":{"Type":5}}"#,
                7,
                "invalid network configuration: IPAM.Type 5: expected a string",
            ),
            ("\u{feff}{}", 6, "error unmarshall network config: expected value at line 1 column 1"),
        ] {
            for command in [Command::Add, Command::Del, Command::Check, Command::Gc, Command::Status] {
                assert_eq!(refused(stdin, command), (code, text.to_owned()), "{stdin} {command:?}");
            }
        }
    }

    #[test]
    fn versions_that_lack_the_verb_or_are_not_spoken_are_told_apart() {
        use Command::{Add, Check, Del, Gc, Status};
        for (version, command, text) in [
            ("9.9.9", Add, "incompatible CNI versions"),
            ("1.0", Del, "incompatible CNI versions"),
            ("0.5.0", Check, "incompatible CNI versions"),
            ("0.04.0", Check, "incompatible CNI versions"),
            ("abc", Check, "incompatible CNI versions"),
            ("0.3.1", Check, "config version does not allow CHECK"),
            ("0.3.9", Check, "config version does not allow CHECK"),
            ("", Check, "config version does not allow CHECK"),
            ("1.1.1", Check, "plugin version does not allow CHECK"),
            ("1.0.0", Gc, "config version does not allow GC"),
            ("2.0.0", Gc, "plugin version does not allow GC"),
            ("0.4.0", Status, "config version does not allow STATUS"),
            ("2.0.0", Status, "plugin version does not allow STATUS"),
        ] {
            let stdin = format!(r#"{{"name":"n","cniVersion":"{version}"}}"#);
            assert_eq!(refused(&stdin, command), (1, format!("{text}: config is {version:?}")));
        }
    }

    #[test]
    fn every_version_is_spoken_and_none_means_the_oldest() {
        for version in Version::ALL {
            let json = format!(r#"{{"name":"n","cniVersion":"{version}"}}"#);
            assert_eq!(config(&json).version, version);
        }
        assert_eq!(config(r#"{"name":"n"}"#).version, Version::V0_1_0);
        assert_eq!(config(r#"{"name":"n","cniVersion":""}"#).version, Version::V0_1_0);
    }

    #[test]
    fn verbs_are_allowed_from_their_version_on() {
        for (command, since) in [
            (Command::Add, Version::V0_1_0),
            (Command::Del, Version::V0_1_0),
            (Command::Check, Version::V0_4_0),
            (Command::Gc, Version::V1_1_0),
            (Command::Status, Version::V1_1_0),
        ] {
            for version in Version::ALL {
                let json = format!(r#"{{"name":"n","cniVersion":"{version}"}}"#);
                let allowed = Config::parse_for(json.as_bytes(), command).is_ok();
                assert_eq!(allowed, version >= since, "{command:?} at {version}");
            }
        }
    }

    #[test]
    fn keys_of_a_mode_are_read_in_any_case() {
        #[derive(Debug, Default, PartialEq, Deserialize)]
        #[serde(default)]
        struct Mode {
            #[serde(rename = "isgateway")]
            is_gateway: bool,
            mtu: Option<u32>,
        }

        let read = |keys: &str| config(&format!(r#"{{"name":"n",{keys}}}"#)).read::<Mode>();
        assert_eq!(read(r#""ISGATEWAY":true,"mtu":1400"#), Ok(Mode { is_gateway: true, mtu: Some(1400) }));
        assert_eq!(read(r#""isGateway":null,"mtu":null,"unknown":{"a":1}"#), Ok(Mode::default()));
        let error = read(r#""isGateway":"yes""#).unwrap_err();
        assert_eq!(error.code, 7);
        assert_eq!(
            error.to_string(),
            r#"invalid network configuration: isGateway "yes": expected a boolean"#
        );
        let error = read(r#""Mtu":-1"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid network configuration: Mtu -1: expected a whole number from 0 to 4294967295"
        );
    }

    #[test]
    fn bytes_are_kept_for_delegates() {
        let json = r#" {"NAME":"n", "x":null } "#;
        assert_eq!(config(json).raw, json.as_bytes());
        assert_eq!(config(json).name, "n");
    }

    #[test]
    fn previous_result_has_its_own_version_or_the_configurations() {
        let previous = |version: &str, result: &str| {
            config(&format!(r#"{{"name":"n","cniVersion":"{version}","prevResult":{result}}}"#)).previous()
        };
        assert_eq!(previous("1.0.0", "null"), Ok(None));
        assert_eq!(previous("1.0.0", "{}"), Ok(Some(CniResult::default())));
        for (version, result) in [
            ("0.2.0", r#"{"ip4":{"ip":"10.0.0.2/24"}}"#),
            ("0.4.0", r#"{"ips":[{"version":"4","address":"10.0.0.2/24"}]}"#),
            ("1.1.0", r#"{"IPS":[{"Address":"10.0.0.2/24"}]}"#),
            ("1.1.0", r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24"}}"#),
            ("0.2.0", r#"{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"}]}"#),
        ] {
            let found = previous(version, result).unwrap().unwrap();
            assert_eq!(found.ips[0].address.to_string(), "10.0.0.2/24", "{version} {result}");
        }
        for (result, code, text) in [
            (r#"{"cniVersion":"2.0.0"}"#, 1, r#"unsupported CNI result version "2.0.0""#),
            ("[]", 7, "invalid network configuration: prevResult []: expected an object"),
            (
                r#"{"ips":[{"Address":"x"}]}"#,
                7,
                r#"invalid network configuration: prevResult.ips[0].Address "x": invalid IP address syntax"#,
            ),
        ] {
            let error = previous("1.0.0", result).unwrap_err();
            assert_eq!((error.code, error.to_string().as_str()), (code, text));
        }
    }

    #[test]
    fn attachments_that_live_are_read_by_both_names() {
        let read = |keys: &str| config(&format!(r#"{{"name":"n"{keys}}}"#)).valid_attachments();
        let one = r#"[{"containerID":"c1","ifname":"eth0"}]"#;
        let expected = Ok(vec![("c1".to_owned(), "eth0".to_owned())]);
        assert_eq!(read(&format!(r#","cni.dev/valid-attachments":{one}"#)), expected);
        assert_eq!(read(&format!(r#","cni.dev/attachments":{one}"#)), expected);
        let both = format!(r#","cni.dev/attachments":[],"cni.dev/valid-attachments":{one}"#);
        assert_eq!(read(&both), expected);
        assert_eq!(read(r#","cni.dev/valid-attachments":[]"#), Ok(Vec::new()));
        assert_eq!(read(r#","cni.dev/valid-attachments":null"#), Ok(Vec::new()));
        assert_eq!(read(r#","cni.dev/attachments":null"#), Ok(Vec::new()));
    }

    #[test]
    fn attachments_that_cannot_be_read_sweep_nothing() {
        for (keys, text) in [
            ("", "cni.dev/valid-attachments missing"),
            (
                r#","cni.dev/valid-attachments":[{"ifname":"eth0"}]"#,
                r#"cni.dev/valid-attachments[0] {"ifname":"eth0"}: missing field `containerid`"#,
            ),
            (r#","cni.dev/attachments":{}"#, "cni.dev/attachments {}: expected a list"),
        ] {
            let error = config(&format!(r#"{{"name":"n"{keys}}}"#)).valid_attachments().unwrap_err();
            assert_eq!(error.code, 7);
            assert_eq!(error.to_string(), format!("invalid network configuration: {text}"));
        }
    }

    #[test]
    fn ipam_without_a_type_is_none() {
        assert_eq!(config(r#"{"name":"n","ipam":{"type":"static"}}"#).ipam_type().as_deref(), Some("static"));
        for keys in [r#""ipam":{}"#, r#""ipam":null"#, r#""ipam":{"type":""}"#, r#""x":1"#] {
            assert_eq!(config(&format!(r#"{{"name":"n",{keys}}}"#)).ipam_type(), None, "{keys}");
        }
    }

    #[test]
    fn dns_of_the_runtime_replaces_the_configurations() {
        let own = r#""dns":{"nameservers":["a"],"domain":"d","search":["s"],"options":["o"]}"#;
        let strings = |text: &str| vec![text.to_owned()];
        let expected = Dns {
            nameservers: strings("a"),
            domain: Some("d".to_owned()),
            search: strings("s"),
            options: strings("o"),
        };
        assert_eq!(config(&format!(r#"{{"name":"n",{own}}}"#)).dns(), Ok(expected));
        let runtime = r#""runtimeConfig":{"dns":{"servers":["b"],"searches":["t"],"options":["p"]}}"#;
        let expected =
            Dns { nameservers: strings("b"), domain: None, search: strings("t"), options: strings("p") };
        assert_eq!(config(&format!(r#"{{"name":"n",{own},{runtime}}}"#)).dns(), Ok(expected));
        assert_eq!(
            config(r#"{"name":"n","dns":{"domain":""},"runtimeConfig":{"dns":{}}}"#).dns(),
            Ok(Dns::default())
        );
        let error = config(r#"{"name":"n","dns":{"search":"s"}}"#).dns().unwrap_err();
        assert_eq!(error.to_string(), r#"invalid network configuration: dns.search "s": expected a list"#);
    }

    #[test]
    fn version_is_answered_in_the_version_asked() {
        let all = json!(["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
        for (stdin, expected) in [
            (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
            (r#"{"cniVersion":"9.9.9"}"#, "9.9.9"),
            ("", "1.1.0"),
            ("{}", "1.1.0"),
            ("[]", "1.1.0"),
            (r#"{"cniVersion":5}"#, "1.1.0"),
            (r#"{"cniVersion":""}"#, "1.1.0"),
        ] {
            let expected = json!({"cniVersion": expected, "supportedVersions": all});
            assert_eq!(version_reply(stdin.as_bytes()), expected, "{stdin}");
        }
    }
}
