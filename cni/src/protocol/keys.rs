//! A JSON document whose keys compare as Go's `encoding/json` compares them: without regard to case, the last of equal
//! ones taken, null as if absent. It must never change a value.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_path_to_error::{Path, Segment};

use super::cni_error::{CniError, Code};

/// Every key of every object in lower case, and how it was written.
#[derive(Clone, Debug)]
pub(super) struct Folded {
    value: Value,
    /// Lower case to spelling, where they differ. One spelling for each key of the document is enough for messages.
    spelling: BTreeMap<String, String>,
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
        let mut spelling = BTreeMap::new();
        let value = Fold(&mut spelling).deserialize(deserializer)?;
        Ok(Self { value, spelling })
    }

    /// What is at a path of folded keys, as a `T`; `None` if a key on the way is absent.
    pub(super) fn read<T: DeserializeOwned>(&self, path: &[&str]) -> Result<Option<T>, Refused> {
        let mut value = &self.value;
        for (depth, key) in path.iter().enumerate() {
            // Only the document itself, or an element of a list, can be null here.
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
        match serde_path_to_error::deserialize(value) {
            Ok(read) => Ok(Some(read)),
            Err(error) => {
                let key = self.spell_below(self.spell(path), error.path());
                let found = below(value, error.path());
                Err(Refused::new(key, found, &error.into_inner().to_string()))
            }
        }
    }

    /// A path of folded keys as the document spells it.
    pub(super) fn spell(&self, path: &[&str]) -> String {
        let keys: Vec<&str> = path.iter().map(|key| self.spelled(key)).collect();
        keys.join(".")
    }

    fn spelled<'a>(&'a self, key: &'a str) -> &'a str {
        self.spelling.get(key).map_or(key, String::as_str)
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
        let why = why
            .split_once(", expected ")
            .map_or_else(|| why.to_owned(), |(_, wanted)| format!("expected {wanted}"));
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
        let Self { key, value, why } = self;
        CniError::new(Code::Decoding, format!("invalid result: {key} {value}: {why}"))
    }
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

struct Fold<'a>(&'a mut BTreeMap<String, String>);

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
            if value.is_null() {
                continue;
            }
            let folded = fold(&key);
            if folded != key {
                self.0.insert(folded.clone(), key);
            }
            object.insert(folded, value);
        }
        Ok(Value::Object(object))
    }
}
