//! A JSON document whose keys compare as Go's `encoding/json` compares them: without regard to case, the last of equal
//! ones taken, null as if absent. It must never change a value.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_path_to_error::{Path, Segment};

use super::cni_error::{CniError, Code};

/// Every key of every object in lower case, and how it was written.
#[derive(Clone, Debug)]
pub(super) struct Folded {
    value: Value,
    notes: Notes,
}

/// What folding loses, by folded key. One note for each key of the document is enough for those who ask.
#[derive(Clone, Debug, Default)]
struct Notes {
    /// Where it differs.
    spelling: BTreeMap<String, String>,
    nulls: BTreeSet<String>,
}

/// A value that is not what its key asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// Like `ipam.ranges[0].subnet`, as written; empty for the whole document.
    pub(super) key: String,
    /// JSON, shortened.
    pub(super) value: String,
    pub(super) why: String,
}

impl Folded {
    /// At most 128 levels deep, which is serde_json's own limit.
    pub(super) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let folded = Self::from_deserializer(&mut deserializer)?;
        deserializer.end()?;
        Ok(folded)
    }

    pub(super) fn from_deserializer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut notes = Notes::default();
        let value = Fold(&mut notes).deserialize(deserializer)?;
        Ok(Self { value, notes })
    }

    /// The document as a `T`.
    pub(super) fn read_all<T: DeserializeOwned>(&self) -> Result<T, Refused> {
        self.convert(&[], &self.value)
    }

    /// What is at a path of folded keys, as a `T`; `None` if a key on the way is absent.
    pub(super) fn read<T: DeserializeOwned>(&self, path: &[&str]) -> Result<Option<T>, Refused> {
        let mut value = &self.value;
        for (depth, key) in path.iter().enumerate() {
            // Of all that is not in a list only the document itself can be null here.
            if value.is_null() {
                return Ok(None);
            }
            let Value::Object(object) = value else {
                let (on_the_way, _) = path.split_at(depth);
                return Err(Refused::new(self.spell(on_the_way), value, "expected an object"));
            };
            let Some(found) = object.get(*key) else { return Ok(None) };
            value = found;
        }
        self.convert(path, value).map(Some)
    }

    /// The members of the document but this one, given in lower case.
    pub(super) fn without(&self, left_out: &str) -> BTreeMap<&str, &Value> {
        let members = self.value.as_object().into_iter().flatten();
        members.map(|(key, value)| (key.as_str(), value)).filter(|(key, _)| *key != left_out).collect()
    }

    /// Whether a key, given in lower case, was null somewhere.
    pub(super) fn was_null(&self, key: &str) -> bool {
        self.notes.nulls.contains(key)
    }

    fn convert<T: DeserializeOwned>(&self, path: &[&str], value: &Value) -> Result<T, Refused> {
        serde_path_to_error::deserialize(value).map_err(|error| {
            let key = self.spell_below(self.spell(path), error.path());
            let found = below(value, error.path());
            Refused::new(key, found, &error.into_inner().to_string())
        })
    }

    /// A path of folded keys as the document spells it.
    pub(super) fn spell(&self, path: &[&str]) -> String {
        let keys: Vec<&str> = path.iter().map(|key| self.spelled(key)).collect();
        keys.join(".")
    }

    fn spelled<'a>(&'a self, key: &'a str) -> &'a str {
        self.notes.spelling.get(key).map_or(key, String::as_str)
    }

    fn spell_below(&self, mut text: String, path: &Path) -> String {
        for segment in path {
            match segment {
                Segment::Seq { index } => text.push_str(&format!("[{index}]")),
                Segment::Map { key } | Segment::Enum { variant: key } => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(self.spelled(key));
                }
                Segment::Unknown => text.push_str(".?"),
            }
        }
        text
    }
}

impl Refused {
    pub(super) fn new(key: String, value: &Value, why: &str) -> Self {
        let text = value.to_string();
        let mut shown: String = text.chars().take(LONGEST_VALUE).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        // serde repeats the value before it says what it wanted.
        let why =
            why.split_once(", expected ").map_or_else(|| why.to_owned(), |(_, wanted)| expected(wanted));
        Self { key, value: shown, why }
    }

    /// As an error of the network configuration: code 7.
    pub(super) fn in_config(self) -> CniError {
        if self.key.is_empty() {
            CniError::new(Code::InvalidConfig, format!("invalid network configuration: {}", self.why))
        } else {
            CniError::config(&self.key, self.value, &self.why)
        }
    }

    /// As an error of another plugin's answer: code 6.
    pub(super) fn in_result(self) -> CniError {
        CniError::new(Code::Decoding, format!("invalid result: {self}"))
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(formatter, "{} ", self.key)?;
        }
        write!(formatter, "{}: {}", self.value, self.why)
    }
}

/// serde's words for types, in those of JSON.
fn expected(wanted: &str) -> String {
    let wanted = match wanted {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" => "a whole number from 0 on",
        "i64" => "a whole number",
        "a sequence" => "a list",
        "a map" => "an object",
        _ if wanted.starts_with("struct ") => "an object",
        _ => wanted,
    };
    format!("expected {wanted}")
}

/// Characters of a refused value that a message shows.
const LONGEST_VALUE: usize = 200;

fn below<'a>(mut value: &'a Value, path: &Path) -> &'a Value {
    for segment in path {
        let found = match segment {
            Segment::Seq { index } => value.get(index),
            Segment::Map { key } => value.get(key),
            Segment::Enum { .. } | Segment::Unknown => None,
        };
        let Some(found) = found else { break };
        value = found;
    }
    value
}

/// Go folds by `unicode.SimpleFold`, by which also the long s and the Kelvin sign are letters of ASCII.
fn fold(key: &str) -> String {
    key.to_lowercase().replace('ſ', "s")
}

struct Fold<'a>(&'a mut Notes);

impl<'de> DeserializeSeed<'de> for Fold<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Fold<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element_seed(Fold(&mut *self.0))? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Fold(&mut *self.0))?;
            let folded = fold(&key);
            if value.is_null() {
                self.0.nulls.insert(folded);
                continue;
            }
            if folded != key {
                self.0.spelling.insert(folded.clone(), key);
            }
            object.insert(folded, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    fn value(json: &str) -> Value {
        Folded::parse(json.as_bytes()).unwrap().value
    }

    #[test]
    fn keys_are_folded_at_every_depth_and_values_are_kept() {
        let read =
            value(r#"{"IsGateway":true,"ipam":{"Ranges":[[{"SubNet":"A"}]]},"n":[1,-1,1.5,null,"X"]}"#);
        assert_eq!(
            read,
            json!({"isgateway": true, "ipam": {"ranges": [[{"subnet": "A"}]]}, "n": [1, -1, 1.5, null, "X"]})
        );
    }

    #[test]
    fn last_of_equal_keys_is_taken_unless_it_is_null() {
        // As the reference plugins do with "name" and "NAME": an exact match does not win.
        assert_eq!(value(r#"{"mtu":1,"MTU":2}"#), json!({"mtu": 2}));
        assert_eq!(value(r#"{"MTU":2,"mtu":1}"#), json!({"mtu": 1}));
        assert_eq!(value(r#"{"mtu":1,"MTU":null}"#), json!({"mtu": 1}));
        assert_eq!(value(r#"{"mtu":null}"#), json!({}));
    }

    #[test]
    fn letters_that_go_folds_to_ascii_are_folded() {
        assert_eq!(value("{\"dnſ\":1,\"\u{212a}ey\":2}"), json!({"dns": 1, "key": 2}));
    }

    #[test]
    fn nulls_are_remembered() {
        let keys = Folded::parse(br#"{"A":null,"b":1}"#).unwrap();
        assert!(keys.was_null("a"));
        assert!(!keys.was_null("b"));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Folded::parse(nested(127).as_bytes()).is_ok());
        assert!(Folded::parse(nested(128).as_bytes()).is_err());
    }

    #[test]
    fn what_follows_the_document_is_refused() {
        assert!(Folded::parse(b"{} \n").is_ok());
        assert!(Folded::parse(b"{} {}").is_err());
    }

    #[derive(Debug, Deserialize)]
    struct Range {
        #[serde(rename = "subnet")]
        _subnet: String,
    }

    #[test]
    fn refusals_name_key_as_written_and_value() {
        let keys = Folded::parse(br#"{"IPAM":{"Ranges":[[{"SubNet":5},{"Subnet":"b"}]]},"runtimeConfig":7}"#)
            .unwrap();
        let refused = |key: &str, value: &str, why: &str| Refused {
            key: key.to_owned(),
            value: value.to_owned(),
            why: why.to_owned(),
        };
        // Of two spellings the last is shown.
        assert_eq!(
            keys.read::<Vec<Vec<Range>>>(&["ipam", "ranges"]).unwrap_err(),
            refused("IPAM.Ranges[0][0].Subnet", "5", "expected a string")
        );
        assert_eq!(
            keys.read::<String>(&["runtimeconfig", "mac"]).unwrap_err(),
            refused("runtimeConfig", "7", "expected an object")
        );
        assert_eq!(keys.read::<u16>(&["ipam", "absent", "below"]).unwrap(), None);
        let Err(error) = keys.read_all::<Range>() else { panic!("no subnet there") };
        assert_eq!(error.in_config().to_string(), "invalid network configuration: missing field `subnet`");
    }

    #[test]
    fn long_values_are_shortened() {
        let keys = Folded::parse(format!(r#"{{"a":"{}"}}"#, "é".repeat(500)).as_bytes()).unwrap();
        let refused = keys.read::<u8>(&["a"]).unwrap_err();
        assert_eq!(refused.value.chars().count(), LONGEST_VALUE + 1);
        assert!(refused.value.ends_with('…'));
        assert_eq!(refused.why, "expected a whole number from 0 to 255");
    }
}
