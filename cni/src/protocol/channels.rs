//! What a runtime, Multus or KubeVirt asks for one attachment: the same wish may come by four channels. It must never take
//! the weaker one: `runtimeConfig`, then `args.cni`, then `CNI_ARGS`, then, for a MAC, the configuration's own key.
//!
//! The conventions also demand that `CNI_ARGS` is ignored where `args.cni` has the key (CONVENTIONS.md, "CNI_ARGS"); so it
//! is, even if it could not be read. An empty text or list counts as absent in every channel.

use std::path::PathBuf;

use serde_json::Value;

use super::cni_error::{CniError, Code};
use super::config::Config;
use super::environment::Environment;
use super::mac::{MacAddress, MacError};

/// Where something may be asked for, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    RuntimeConfig,
    /// `args.cni`.
    Args,
    /// `CNI_ARGS`.
    Arguments,
    /// The configuration's own key.
    Own,
}

/// What the strongest channel that says anything asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wished {
    pub channel: Channel,
    /// As written there.
    key: String,
    /// Never empty.
    pub texts: Vec<String>,
}

impl Wished {
    /// One of the texts cannot be used: code 7, or 4 for `CNI_ARGS`, with key and value.
    pub fn refuse(&self, text: &str, why: &str) -> CniError {
        let Self { key, .. } = self;
        match self.channel {
            Channel::Arguments => {
                CniError::new(Code::InvalidEnvironment, format!("invalid CNI_ARGS {key} {text:?}: {why}"))
            }
            Channel::RuntimeConfig | Channel::Args | Channel::Own => {
                CniError::config(key, format!("{text:?}"), why)
            }
        }
    }
}

impl Config {
    /// The MAC address that the attachment shall have.
    ///
    /// # Errors
    /// Code 7, or 4 for `CNI_ARGS`, with the channel and the value.
    pub fn mac(&self, environment: &Environment) -> Result<Option<MacAddress>, CniError> {
        let Some(wished) = self.wished(MAC, environment.arguments.mac.as_slice())? else { return Ok(None) };
        let text = wished.texts.first().map_or("", String::as_str);
        text.parse().map(Some).map_err(|error: MacError| wished.refuse(text, &error.to_string()))
    }

    /// The addresses that the attachment shall have, in order. host-local takes them with or without a prefix length,
    /// static needs one. `None` if any will do.
    ///
    /// # Errors
    /// Code 7 where a key has not text or a list of it.
    pub fn ips(&self, environment: &Environment) -> Result<Option<Wished>, CniError> {
        self.wished(IPS, &environment.arguments.ips)
    }

    /// KubeVirt's name of the network whose binding this is (`args.cni.logicNetworkName`).
    ///
    /// # Errors
    /// Code 7 with key and value.
    pub fn logical_network(&self) -> Result<Option<String>, CniError> {
        self.text(&["args", "cni", "logicnetworkname"])
    }

    /// The device that a device plugin gave to the pod: `runtimeConfig.deviceID`, else what Multus puts at the top.
    ///
    /// # Errors
    /// Code 7 with key and value.
    pub fn device_id(&self) -> Result<Option<String>, CniError> {
        for path in [&["runtimeconfig", "deviceid"][..], &["deviceid"], &["pcibusid"]] {
            if let Some(found) = self.text(path)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Where the device's description shall be written (`runtimeConfig.CNIDeviceInfoFile`).
    ///
    /// # Errors
    /// Code 7 with key and value, also for a path that is not absolute.
    pub fn device_info_file(&self) -> Result<Option<PathBuf>, CniError> {
        let path = &["runtimeconfig", "cnideviceinfofile"];
        match self.text(path)? {
            Some(file) if file.starts_with('/') => Ok(Some(PathBuf::from(file))),
            Some(file) => {
                Err(CniError::config(&self.keys.spell(path), format!("{file:?}"), "no absolute path"))
            }
            None => Ok(None),
        }
    }

    fn text(&self, path: &[&str]) -> Result<Option<String>, CniError> {
        Ok(self.read_at::<String>(path)?.filter(|text| !text.is_empty()))
    }

    /// The strongest channel's values; those of weaker ones are not looked at.
    fn wished(&self, wish: Wish, arguments: &[String]) -> Result<Option<Wished>, CniError> {
        for (channel, path) in [
            (Channel::RuntimeConfig, &["runtimeconfig", wish.key][..]),
            (Channel::Args, &["args", "cni", wish.key]),
        ] {
            if let Some(found) = self.wished_at(wish, channel, path)? {
                return Ok(Some(found));
            }
        }
        if !arguments.is_empty() {
            let (key, texts) = (wish.argument.to_owned(), arguments.to_vec());
            return Ok(Some(Wished { channel: Channel::Arguments, key, texts }));
        }
        if wish.own { self.wished_at(wish, Channel::Own, &[wish.key]) } else { Ok(None) }
    }

    fn wished_at(&self, wish: Wish, channel: Channel, path: &[&str]) -> Result<Option<Wished>, CniError> {
        let texts = match self.read_at::<Value>(path)? {
            None => return Ok(None),
            Some(Value::Array(_)) if wish.several => self.read_at::<Vec<String>>(path)?.unwrap_or_default(),
            Some(_) => self.text(path)?.into_iter().collect(),
        };
        let found = Wished { channel, key: self.keys.spell(path), texts };
        Ok(Some(found).filter(|found| !found.texts.is_empty()))
    }
}

/// One thing that may be asked for by each of the channels.
#[derive(Clone, Copy)]
struct Wish {
    /// In JSON, in lower case.
    key: &'static str,
    /// In `CNI_ARGS`.
    argument: &'static str,
    /// Whether JSON may have a list.
    several: bool,
    /// Whether the configuration itself may say it, at its top.
    own: bool,
}

const MAC: Wish = Wish { key: "mac", argument: "MAC", several: false, own: true };
const IPS: Wish = Wish { key: "ips", argument: "IP", several: true, own: false };

#[cfg(test)]
mod tests {
    use super::super::environment::Command;
    use super::*;

    fn config(keys: &str) -> Config {
        Config::parse(format!(r#"{{"name":"n"{keys}}}"#).as_bytes()).unwrap()
    }

    fn environment(arguments: &str) -> Environment {
        let lookup = |name: &str| match name {
            "CNI_COMMAND" => Some(Command::Add.as_str().to_owned()),
            "CNI_ARGS" => Some(arguments.to_owned()),
            _ => Some("x".to_owned()),
        };
        Environment::read(lookup).unwrap()
    }

    const RUNTIME: &str = r#","runtimeConfig":{"mac":"02:00:00:00:00:01","ips":["10.0.0.1/24"]}"#;
    const ARGS: &str = r#","args":{"cni":{"mac":"02:00:00:00:00:02","ips":["10.0.0.2/24"]}}"#;
    const CNI_ARGS: &str = "MAC=02:00:00:00:00:03;IP=10.0.0.3/24";
    const OWN: &str = r#","MAC":"02:00:00:00:00:04""#;

    fn texts(found: Result<Option<Wished>, CniError>) -> Vec<String> {
        found.unwrap().map_or_else(Vec::new, |found| found.texts)
    }

    #[test]
    fn strongest_channel_wins() {
        for (keys, arguments, expected, channel) in [
            ([RUNTIME, ARGS, OWN].concat(), CNI_ARGS, 1, Some(Channel::RuntimeConfig)),
            ([ARGS, OWN].concat(), CNI_ARGS, 2, Some(Channel::Args)),
            (OWN.to_owned(), CNI_ARGS, 3, Some(Channel::Arguments)),
            // Addresses of its own are in `ipam`.
            ([OWN, r#","ips":["10.0.0.4/24"]"#].concat(), "", 4, None),
        ] {
            let (config, environment) = (config(&keys), environment(arguments));
            let mac = config.mac(&environment).unwrap().unwrap();
            assert_eq!(mac.to_string(), format!("02:00:00:00:00:0{expected}"));
            let ips = config.ips(&environment);
            assert_eq!(ips.as_ref().unwrap().as_ref().map(|found| found.channel), channel);
            assert_eq!(texts(ips), channel.map(|_| format!("10.0.0.{expected}/24")).as_slice());
        }
    }

    #[test]
    fn nothing_asked_is_nothing_wished() {
        for keys in ["", r#","mac":"","ips":[],"runtimeConfig":{"mac":"","ips":null},"args":{"cni":{}}"#] {
            let (config, environment) = (config(keys), environment("MAC=;IP="));
            assert_eq!(config.mac(&environment), Ok(None));
            assert_eq!(config.ips(&environment), Ok(None));
        }
    }

    #[test]
    fn empty_wish_leaves_the_weaker_channel_its_say() {
        let empty = r#","runtimeConfig":{"mac":"","ips":[]}"#;
        let (config, environment) = (config(&[empty, ARGS].concat()), environment(""));
        assert_eq!(config.mac(&environment).unwrap().unwrap().to_string(), "02:00:00:00:00:02");
        assert_eq!(texts(config.ips(&environment)), ["10.0.0.2/24"]);
    }

    #[test]
    fn weaker_channel_is_not_even_read() {
        let config = config(&[RUNTIME, r#","args":{"cni":{"ips":[{}],"mac":5}},"mac":5"#].concat());
        let environment = environment("MAC=nonsense;IP=nonsense");
        assert!(config.mac(&environment).is_ok());
        assert!(config.ips(&environment).is_ok());
    }

    #[test]
    fn several_addresses_keep_order_and_form() {
        assert_eq!(texts(config("").ips(&environment("IP=fd00::2/64,10.0.0.2"))), ["fd00::2/64", "10.0.0.2"]);
        let one = config(r#","args":{"cni":{"ips":"10.0.0.2"}}"#);
        assert_eq!(texts(one.ips(&environment(""))), ["10.0.0.2"]);
    }

    #[test]
    fn refused_wishes_name_channel_and_value() {
        let mac = "not six bytes in hexadecimal, like 02:00:00:00:00:01";
        let config_error = |text: &str| (7, format!("invalid network configuration: {text}"));
        for (keys, arguments, expected) in [
            (
                r#","runtimeConfig":{"Mac":"x"}"#,
                "",
                config_error(&format!(r#"runtimeConfig.Mac "x": {mac}"#)),
            ),
            (r#","args":{"cni":{"mac":"x"}}"#, "", config_error(&format!(r#"args.cni.mac "x": {mac}"#))),
            ("", "MAC=x", (4, format!(r#"invalid CNI_ARGS MAC "x": {mac}"#))),
            (r#","mac":"x""#, "", config_error(&format!(r#"mac "x": {mac}"#))),
            (
                r#","mac":"01:00:5e:00:00:01""#,
                "",
                config_error(r#"mac "01:00:5e:00:00:01": a group's address, not a station's"#),
            ),
            (
                r#","mac":["02:00:00:00:00:01"]"#,
                "",
                config_error(r#"mac ["02:00:00:00:00:01"]: expected a string"#),
            ),
            (r#","args":{"cni":"x"}"#, "", config_error(r#"args.cni "x": expected an object"#)),
            (r#","args":{"cni":{"Ips":[5]}}"#, "", config_error("args.cni.Ips[0] 5: expected a string")),
            (r#","runtimeConfig":{"ips":5}"#, "", config_error("runtimeConfig.ips 5: expected a string")),
        ] {
            let (config, environment) = (config(keys), environment(arguments));
            let error = config.mac(&environment).err();
            let error = error.or_else(|| config.ips(&environment).err()).unwrap();
            assert_eq!((error.code, error.to_string()), expected, "{keys} {arguments}");
        }
    }

    #[test]
    fn devices_are_found_where_runtimes_put_them() {
        for (keys, expected) in [
            (r#","runtimeConfig":{"deviceID":"a"},"deviceID":"b","pciBusID":"c""#, Some("a")),
            (r#","runtimeConfig":{"deviceID":""},"deviceID":"b","pciBusID":"c""#, Some("b")),
            (r#","pciBusID":"c""#, Some("c")),
            ("", None),
        ] {
            assert_eq!(config(keys).device_id().unwrap().as_deref(), expected);
        }
        assert_eq!(config(r#","deviceID":5"#).device_id().unwrap_err().code, 7);
    }

    #[test]
    fn device_information_goes_to_an_absolute_path() {
        let read = |file: &str| {
            config(&format!(r#","runtimeConfig":{{"CNIDeviceInfoFile":"{file}"}}"#)).device_info_file()
        };
        assert_eq!(read("/run/a.json"), Ok(Some(PathBuf::from("/run/a.json"))));
        assert_eq!(read(""), Ok(None));
        assert_eq!(
            read("a.json").unwrap_err().to_string(),
            r#"invalid network configuration: runtimeConfig.CNIDeviceInfoFile "a.json": no absolute path"#
        );
    }

    #[test]
    fn logical_network_is_kubevirts() {
        let read = |args: &str| config(&format!(r#","args":{args}"#)).logical_network();
        assert_eq!(read(r#"{"cni":{"logicNetworkName":"red"}}"#), Ok(Some("red".to_owned())));
        assert_eq!(read(r#"{"cni":{"logicNetworkName":""}}"#), Ok(None));
        assert_eq!(read("{}"), Ok(None));
        assert_eq!(read(r#"{"cni":{"logicNetworkName":1}}"#).unwrap_err().code, 7);
    }
}
