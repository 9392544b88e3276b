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
