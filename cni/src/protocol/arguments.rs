//! `CNI_ARGS`: pairs like `K=V;K=V`, as Go's `types.LoadArgs` reads them. It must never judge a value that is not used:
//! `args.cni` may replace it.

use super::cni_error::{CniError, Code};

/// What the known keys say, as text. Empty values count as absent; of two equal keys the last is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    pub mac: Option<String>,
    /// Addresses, with or without a prefix length. Multus joins several by commas.
    pub ips: Vec<String>,
    pub gateways: Vec<String>,
    /// For logs.
    pub pod_namespace: Option<String>,
    /// For logs.
    pub pod_name: Option<String>,
}

impl Arguments {
    /// # Errors
    /// Code 4 for a pair that is none, for an `IgnoreUnknown` that is no boolean, and for unknown keys without
    /// `IgnoreUnknown=1`. Every runtime sends `K8S_*`, so those are always known.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        let mut arguments = Self::default();
        let mut unknown = Vec::new();
        let mut ignore_unknown = false;
        for pair in pairs(text) {
            let Some((key, value)) = split(pair) else {
                return Err(refused(format!("invalid pair {pair:?}")));
            };
            if key == "IgnoreUnknown" {
                ignore_unknown = boolean(value)
                    .ok_or_else(|| refused(format!("error parsing value of pair {pair:?}: not a boolean")))?;
            } else if !arguments.take(key, value) {
                unknown.push(pair);
            }
        }
        if unknown.is_empty() || ignore_unknown {
            Ok(arguments)
        } else {
            let unknown: Vec<String> = unknown.iter().map(|pair| format!("{pair:?}")).collect();
            Err(refused(format!("unknown args [{}]", unknown.join(" "))))
        }
    }

    /// For a removal, which must not fail on them: whatever can be read.
    pub fn parse_leniently(text: &str) -> Self {
        let mut arguments = Self::default();
        for (key, value) in pairs(text).filter_map(split) {
            arguments.take(key, value);
        }
        arguments
    }

    /// False if the key is not known. Go compares with the names of fields, so case matters here.
    fn take(&mut self, key: &str, value: &str) -> bool {
        let text = (!value.is_empty()).then(|| value.to_owned());
        match key {
            "MAC" => self.mac = text,
            "IP" => self.ips = list(value),
            "GATEWAY" => self.gateways = list(value),
            "K8S_POD_NAMESPACE" => self.pod_namespace = text,
            "K8S_POD_NAME" => self.pod_name = text,
            _ => return key.starts_with("K8S_"),
        }
        true
    }
}

fn pairs(text: &str) -> impl Iterator<Item = &str> {
    // An empty text has no pairs; an empty part of a longer one is a pair that is none.
    text.split(';').filter(|_| !text.is_empty())
}

fn split(pair: &str) -> Option<(&str, &str)> {
    pair.split_once('=').filter(|(_, value)| !value.contains('='))
}

fn list(value: &str) -> Vec<String> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn boolean(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// The specification wants the variable's name; what follows are Go's words.
fn refused(why: String) -> CniError {
    CniError::new(Code::InvalidEnvironment, format!("CNI_ARGS: {why}"))
}
