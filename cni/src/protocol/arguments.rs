//! `CNI_ARGS`: pairs like `K=V;K=V`, as Go's `types.LoadArgs` reads them. It must never judge a value that is not used:
//! `args.cni` may replace it.

use super::cni_error::{CniError, Code};

/// What the known keys say, as text. Empty values count as absent; of two equal keys the last is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// All of it as given, for delegates.
    pub text: String,
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
        let mut arguments = Self { text: text.to_owned(), ..Self::default() };
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
        let mut arguments = Self { text: text.to_owned(), ..Self::default() };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        let error = Arguments::parse(text).unwrap_err();
        assert_eq!(error.code, 4, "{text}");
        error.to_string()
    }

    #[test]
    fn refused_arguments_are_named() {
        for (text, expected) in [
            ("FOO", r#"CNI_ARGS: invalid pair "FOO""#),
            ("MAC=02:00:00:00:00:01;", r#"CNI_ARGS: invalid pair """#),
            ("MAC=a=b", r#"CNI_ARGS: invalid pair "MAC=a=b""#),
            ("FOO=1;BAR=2", r#"CNI_ARGS: unknown args ["FOO=1" "BAR=2"]"#),
            ("FOO=1;IgnoreUnknown=0", r#"CNI_ARGS: unknown args ["FOO=1"]"#),
            // Go finds a field by its name, and those differ in case.
            ("mac=02:00:00:00:00:01", r#"CNI_ARGS: unknown args ["mac=02:00:00:00:00:01"]"#),
            (
                "IgnoreUnknown=yes",
                r#"CNI_ARGS: error parsing value of pair "IgnoreUnknown=yes": not a boolean"#,
            ),
        ] {
            assert_eq!(message(text), expected);
        }
    }

    #[test]
    fn unknown_keys_pass_where_that_is_asked_for() {
        for flag in ["1", "true", "TRUE"] {
            let arguments = Arguments::parse(&format!("FOO=1;IgnoreUnknown={flag};MAC=x")).unwrap();
            assert_eq!(arguments.mac.as_deref(), Some("x"));
        }
    }

    #[test]
    fn arguments_of_multus_are_read() {
        let text = "IgnoreUnknown=true;K8S_POD_NAMESPACE=vms;K8S_POD_NAME=virt-launcher-a;\
                    K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1;MAC=02:00:00:00:00:01;IP=10.0.0.2/24,fd00::2/64;\
                    GATEWAY=10.0.0.1";
        let expected = Arguments {
            text: text.to_owned(),
            mac: Some("02:00:00:00:00:01".to_owned()),
            ips: vec!["10.0.0.2/24".to_owned(), "fd00::2/64".to_owned()],
            gateways: vec!["10.0.0.1".to_owned()],
            pod_namespace: Some("vms".to_owned()),
            pod_name: Some("virt-launcher-a".to_owned()),
        };
        assert_eq!(Arguments::parse(text), Ok(expected));
    }

    #[test]
    fn keys_of_kubernetes_are_known_without_being_ignored() {
        let text = "K8S_POD_INFRA_CONTAINER_ID=c1".to_owned();
        assert_eq!(Arguments::parse(&text), Ok(Arguments { text, ..Arguments::default() }));
    }

    #[test]
    fn last_of_equal_keys_is_taken_and_empty_is_absent() {
        assert_eq!(Arguments::parse("MAC=a;MAC=b").unwrap().mac.as_deref(), Some("b"));
        assert_eq!(Arguments::parse("MAC=a;MAC=").unwrap().mac, None);
        assert_eq!(Arguments::parse("IP=a, b").unwrap().ips, ["a", "b"]);
        assert_eq!(Arguments::parse("IP=,").unwrap().ips, Vec::<String>::new());
        assert_eq!(Arguments::parse(""), Ok(Arguments::default()));
    }

    #[test]
    fn removal_reads_what_it_can() {
        let text = "FOO;=;BAR=1;MAC=a=b;IgnoreUnknown=?;IP=10.0.0.2;".to_owned();
        let arguments = Arguments::parse_leniently(&text);
        assert_eq!(arguments, Arguments { text, ips: vec!["10.0.0.2".to_owned()], ..Arguments::default() });
    }
}
