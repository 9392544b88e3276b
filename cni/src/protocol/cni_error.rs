//! The one error a runtime sees: a code of the specification's table, a message, details. It must never be made without
//! saying what was wrong and with which value.

use std::error::Error;

use serde_json::{Value, json};

/// "Well-known error codes" of CNI 1.1.0, and what Go's library adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    IncompatibleVersion,
    UnsupportedField,
    UnknownContainer,
    InvalidEnvironment,
    Io,
    Decoding,
    InvalidConfig,
    /// Go's only: not in the specification's table.
    InvalidNetns,
    TryAgainLater,
    /// ADD cannot be served.
    NotAvailable,
    /// Nor can it, and containers that exist may have lost their connections.
    LimitedConnectivity,
    /// Ours: CHECK found something not as ADD made it.
    Changed,
    /// Whatever else fails: what Go gives plain errors.
    Internal,
}

impl Code {
    pub const fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::UnsupportedField => 2,
            Self::UnknownContainer => 3,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decoding => 6,
            Self::InvalidConfig => 7,
            Self::InvalidNetns => 8,
            Self::TryAgainLater => 11,
            Self::NotAvailable => 50,
            Self::LimitedConnectivity => 51,
            Self::Changed => 100,
            Self::Internal => 999,
        }
    }
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { ": " })]
pub struct CniError {
    /// As in the specification; a delegate's own code is passed on.
    pub code: u32,
    pub msg: String,
    pub details: String,
}

impl CniError {
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self { code: code.number(), msg: msg.into(), details: String::new() }
    }

    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// A key of the network configuration whose value cannot be used: code 7.
    pub fn config(key: &str, value: impl std::fmt::Display, why: &str) -> Self {
        Self::new(Code::InvalidConfig, format!("invalid network configuration: {key} {value}: {why}"))
    }

    /// A key that is understood, with a value that this plugin does not offer: code 2.
    pub fn unsupported(key: &str, value: impl std::fmt::Display, why: &str) -> Self {
        Self::new(Code::UnsupportedField, format!("unsupported field: {key} {value}: {why}"))
    }

    /// Something failed on the way: code 999, as Go's plugins answer.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::new(Code::Internal, what)
    }

    /// A file, a socket or a program: code 5.
    pub fn io(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Self::new(Code::Io, format!("{what}: {error}"))
    }

    /// The same under another code: what is wrong with a configuration at ADD makes STATUS say that the node is not ready.
    pub fn with_code(self, code: Code) -> Self {
        Self { code: code.number(), ..self }
    }

    /// As printed on stdout. `version` is the configuration's, where that could be read.
    pub fn to_json(&self, version: &str) -> Value {
        let mut object = json!({ "cniVersion": version, "code": self.code, "msg": self.msg });
        if !self.details.is_empty()
            && let Some(object) = object.as_object_mut()
        {
            object.insert("details".to_owned(), Value::String(self.details.clone()));
        }
        object
    }
}

/// An error and what it is due to, in one line.
pub fn with_source(error: &dyn Error) -> String {
    let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_specifications() {
        for (code, number) in [
            (Code::IncompatibleVersion, 1),
            (Code::UnsupportedField, 2),
            (Code::UnknownContainer, 3),
            (Code::InvalidEnvironment, 4),
            (Code::Io, 5),
            (Code::Decoding, 6),
            (Code::InvalidConfig, 7),
            (Code::InvalidNetns, 8),
            (Code::TryAgainLater, 11),
            (Code::NotAvailable, 50),
            (Code::LimitedConnectivity, 51),
            (Code::Internal, 999),
        ] {
            assert_eq!(code.number(), number);
        }
    }

    #[test]
    fn kinds_of_errors_have_their_code_and_name_what_was_wrong() {
        for (error, code, text) in [
            (CniError::config("vlan", 5000, "why"), 7, "invalid network configuration: vlan 5000: why"),
            (CniError::unsupported("mode", "host", "why"), 2, "unsupported field: mode host: why"),
            (CniError::internal("what"), 999, "what"),
            (CniError::io("/run/x", "why"), 5, "/run/x: why"),
            (CniError::new(Code::NotAvailable, "msg").with_details("details"), 50, "msg: details"),
        ] {
            assert_eq!((error.code, error.to_string().as_str()), (code, text));
        }
    }

    #[test]
    fn details_are_printed_if_there_are_any() {
        let error = CniError::internal("what");
        assert_eq!(error.to_json("1.0.0"), json!({"cniVersion": "1.0.0", "code": 999, "msg": "what"}));
        let printed = error.with_details("more").to_json("1.0.0");
        assert_eq!(printed, json!({"cniVersion": "1.0.0", "code": 999, "msg": "what", "details": "more"}));
    }
}
