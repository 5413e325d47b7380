use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What the owner of a session wrote beside its id; comes back in each of its events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Labels(Arc<BTreeMap<String, String>>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLabels {
    #[error("{0} labels are too many; at most {max} are kept", max = Labels::MAX_PAIRS)]
    TooMany(usize),
    #[error("label {name:?} is {bytes} bytes; names and values hold at most {max}", max = Labels::MAX_BYTES)]
    TooLong { name: String, bytes: usize },
    #[error("a label has an empty name; give it one")]
    Unnamed,
}

impl Labels {
    pub const MAX_PAIRS: usize = 16;
    /// Of a name, and of a value, each.
    pub const MAX_BYTES: usize = 256;

    /// # Errors
    /// More than 16 pairs, a name or value of more than 256 bytes, an empty name.
    pub fn new(pairs: BTreeMap<String, String>) -> Result<Self, InvalidLabels> {
        if pairs.len() > Self::MAX_PAIRS {
            return Err(InvalidLabels::TooMany(pairs.len()));
        }
        for (name, value) in &pairs {
            if name.is_empty() {
                return Err(InvalidLabels::Unnamed);
            }
            let bytes = name.len().max(value.len());
            if bytes > Self::MAX_BYTES {
                let name = name.chars().take(48).collect();
                return Err(InvalidLabels::TooLong { name, bytes });
            }
        }
        Ok(Self(Arc::new(pairs)))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&String> {
        self.0.get(name)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl JsonSchema for Labels {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Labels".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "description": "Up to 16 pairs, each name and each value up to 256 bytes of UTF-8.",
            "maxProperties": Self::MAX_PAIRS,
            "propertyNames": { "minLength": 1, "maxLength": Self::MAX_BYTES },
            "additionalProperties": { "type": "string", "maxLength": Self::MAX_BYTES },
        })
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = InvalidLabels;

    fn try_from(pairs: BTreeMap<String, String>) -> Result<Self, Self::Error> {
        Self::new(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(count: usize, bytes: usize) -> BTreeMap<String, String> {
        (0..count).map(|i| (format!("k{i}"), "v".repeat(bytes))).collect()
    }

    #[test]
    fn bounds_hold_at_their_edges() {
        assert!(Labels::new(pairs(16, 256)).is_ok());
        assert_eq!(Labels::new(pairs(17, 1)), Err(InvalidLabels::TooMany(17)));
        assert!(matches!(
            Labels::new(pairs(1, 257)),
            Err(InvalidLabels::TooLong { bytes: 257, .. })
        ));
        assert_eq!(
            Labels::new([(String::new(), "v".to_owned())].into()),
            Err(InvalidLabels::Unnamed)
        );
    }
}
