//! What a runtime, Multus or KubeVirt asks for one attachment: the same wish may come by four channels. It must never take
//! the weaker one: `runtimeConfig`, then `args.cni`, then `CNI_ARGS`, then the configuration's own keys.
//!
//! The conventions also demand that `CNI_ARGS` is ignored where `args.cni` has the key; so it is, even if it could not be
//! read. An empty text or list counts as absent in every channel.

use std::fmt::Display;
use std::net::{AddrParseError, IpAddr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use serde_json::Value;

use super::cni_error::{CniError, Code};
use super::config::Config;
use super::environment::Environment;
use super::mac::MacAddress;

/// An address that the attachment shall have. host-local takes it without a prefix length, static needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestedIp {
    pub address: IpAddr,
    pub prefix_len: Option<u8>,
}

impl RequestedIp {
    pub fn net(self) -> Option<IpNet> {
        IpNet::new(self.address, self.prefix_len?).ok()
    }
}

/// Why a text is no address with or without a prefix length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestedIpError {
    #[error("no IP address")]
    Address(AddrParseError),
    #[error("no IP address with a prefix length")]
    Net(ipnet::AddrParseError),
}

impl FromStr for RequestedIp {
    type Err = RequestedIpError;

    fn from_str(text: &str) -> Result<Self, RequestedIpError> {
        if text.contains('/') {
            let net: IpNet = text.parse().map_err(RequestedIpError::Net)?;
            Ok(Self { address: net.addr(), prefix_len: Some(net.prefix_len()) })
        } else {
            let address = text.parse().map_err(RequestedIpError::Address)?;
            Ok(Self { address, prefix_len: None })
        }
    }
}

impl Config {
    /// The MAC address that the attachment shall have.
    ///
    /// # Errors
    /// Code 7, or 4 for `CNI_ARGS`, with the channel and the value.
    pub fn mac(&self, environment: &Environment) -> Result<Option<MacAddress>, CniError> {
        Ok(self.wish(MAC, environment.arguments.mac.as_slice())?.first().copied())
    }

    /// The addresses that the attachment shall have, in order.
    ///
    /// # Errors
    /// As [`Config::mac`].
    pub fn ips(&self, environment: &Environment) -> Result<Vec<RequestedIp>, CniError> {
        self.wish(IPS, &environment.arguments.ips)
    }

    /// The gateways for those of these addresses in whose networks they are.
    ///
    /// # Errors
    /// As [`Config::mac`].
    pub fn gateway(&self, environment: &Environment) -> Result<Vec<IpAddr>, CniError> {
        self.wish(GATEWAY, &environment.arguments.gateways)
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
    fn wish<T>(&self, wish: Wish, arguments: &[String]) -> Result<Vec<T>, CniError>
    where
        T: FromStr<Err: Display>,
    {
        for path in [&["runtimeconfig", wish.key][..], &["args", "cni", wish.key]] {
            if let Some(found) = self.wish_at(wish, path)? {
                return Ok(found);
            }
        }
        if !arguments.is_empty() {
            return parse(arguments, |text, why| {
                let msg = format!("invalid CNI_ARGS {} {text:?}: {why}", wish.argument);
                CniError::new(Code::InvalidEnvironment, msg)
            });
        }
        Ok(self.wish_at(wish, &[wish.key])?.unwrap_or_default())
    }

    fn wish_at<T>(&self, wish: Wish, path: &[&str]) -> Result<Option<Vec<T>>, CniError>
    where
        T: FromStr<Err: Display>,
    {
        let texts = match self.read_at::<Value>(path)? {
            None => return Ok(None),
            Some(Value::Array(_)) if wish.several => self.read_at::<Vec<String>>(path)?.unwrap_or_default(),
            Some(_) => self.text(path)?.into_iter().collect(),
        };
        if texts.is_empty() {
            return Ok(None);
        }
        let key = self.keys.spell(path);
        parse(&texts, |text, why| CniError::config(&key, format!("{text:?}"), why)).map(Some)
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
}

const MAC: Wish = Wish { key: "mac", argument: "MAC", several: false };
const IPS: Wish = Wish { key: "ips", argument: "IP", several: true };
const GATEWAY: Wish = Wish { key: "gateway", argument: "GATEWAY", several: true };

fn parse<T>(texts: &[String], refuse: impl Fn(&str, &str) -> CniError) -> Result<Vec<T>, CniError>
where
    T: FromStr<Err: Display>,
{
    texts.iter().map(|text| text.parse().map_err(|error: T::Err| refuse(text, &error.to_string()))).collect()
}

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

    const RUNTIME: &str =
        r#","runtimeConfig":{"mac":"02:00:00:00:00:01","ips":["10.0.0.1/24"],"gateway":"10.0.0.11"}"#;
    const ARGS: &str =
        r#","args":{"cni":{"mac":"02:00:00:00:00:02","ips":["10.0.0.2/24"],"gateway":["10.0.0.12"]}}"#;
    const CNI_ARGS: &str = "MAC=02:00:00:00:00:03;IP=10.0.0.3/24;GATEWAY=10.0.0.13";
    const OWN: &str = r#","MAC":"02:00:00:00:00:04","ips":"10.0.0.4/24","gateway":"10.0.0.14""#;

    #[test]
    fn strongest_channel_wins() {
        for (keys, arguments, expected) in [
            ([RUNTIME, ARGS, OWN].concat(), CNI_ARGS, 1),
            ([ARGS, OWN].concat(), CNI_ARGS, 2),
            (OWN.to_owned(), CNI_ARGS, 3),
            (OWN.to_owned(), "", 4),
        ] {
            let (config, environment) = (config(&keys), environment(arguments));
            let mac = config.mac(&environment).unwrap().unwrap();
            assert_eq!(mac.to_string(), format!("02:00:00:00:00:0{expected}"));
            let net = config.ips(&environment).unwrap().first().unwrap().net().unwrap();
            assert_eq!(net.to_string(), format!("10.0.0.{expected}/24"));
            let gateway = config.gateway(&environment).unwrap();
            assert_eq!(gateway, [format!("10.0.0.1{expected}").parse::<IpAddr>().unwrap()]);
        }
    }

    #[test]
    fn nothing_asked_is_nothing_wished() {
        for keys in
            ["", r#","mac":"","ips":[],"gateway":"","runtimeConfig":{"mac":"","ips":null},"args":{"cni":{}}"#]
        {
            let (config, environment) = (config(keys), environment("MAC=;IP="));
            assert_eq!(config.mac(&environment), Ok(None));
            assert_eq!(config.ips(&environment), Ok(Vec::new()));
            assert_eq!(config.gateway(&environment), Ok(Vec::new()));
        }
    }

    #[test]
    fn empty_wish_leaves_the_weaker_channel_its_say() {
        let empty = r#","runtimeConfig":{"mac":"","ips":[]}"#;
        let (config, environment) = (config(&[empty, ARGS].concat()), environment(""));
        assert_eq!(config.mac(&environment).unwrap().unwrap().to_string(), "02:00:00:00:00:02");
        assert_eq!(config.ips(&environment).unwrap().len(), 1);
    }

    #[test]
    fn weaker_channel_is_not_even_read() {
        let config = config(&[ARGS, r#","ips":[{}],"mac":5"#].concat());
        let environment = environment("MAC=nonsense;IP=nonsense");
        assert!(config.mac(&environment).is_ok());
        assert!(config.ips(&environment).is_ok());
    }

    #[test]
    fn several_addresses_keep_order_and_may_lack_a_prefix_length() {
        let found = config("").ips(&environment("IP=fd00::2/64,10.0.0.2")).unwrap();
        let expected = [
            RequestedIp { address: "fd00::2".parse().unwrap(), prefix_len: Some(64) },
            RequestedIp { address: "10.0.0.2".parse().unwrap(), prefix_len: None },
        ];
        assert_eq!(found, expected);
        assert_eq!(found[1].net(), None);
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
            (
                r#","ips":["10.0.0.1/33"]"#,
                "",
                config_error(r#"ips "10.0.0.1/33": no IP address with a prefix length"#),
            ),
            (r#","ips":["a"]"#, "", config_error(r#"ips "a": no IP address"#)),
            (r#","ips":[5]"#, "", config_error("ips[0] 5: expected a string")),
            (r#","ips":5"#, "", config_error("ips 5: expected a string")),
            ("", "IP=10.0.0.1,b", (4, r#"invalid CNI_ARGS IP "b": no IP address"#.to_owned())),
            (
                r#","gateway":"10.0.0.1/24""#,
                "",
                config_error(r#"gateway "10.0.0.1/24": invalid IP address syntax"#),
            ),
        ] {
            let (config, environment) = (config(keys), environment(arguments));
            let error = config.mac(&environment).err();
            let error = error.or_else(|| config.ips(&environment).err());
            let error = error.or_else(|| config.gateway(&environment).err()).unwrap();
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
