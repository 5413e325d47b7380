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
    fn labels_are_read_as_they_were_written() {
        let labels = Labels::try_from(pairs(2, 3)).unwrap();
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("k0", "vvv"), ("k1", "vvv")]);
        assert_eq!(labels.get("k1").map(String::as_str), Some("vvv"));
        assert_eq!(labels.get("k2"), None);
        assert!(!labels.is_empty() && Labels::default().is_empty());
        assert_eq!(serde_json::to_value(&labels).unwrap(), serde_json::json!(pairs(2, 3)));
    }

    /// Editors show the schema where labels stand, and not a reference to it.
    #[test]
    fn the_schema_has_the_same_bounds() {
        let labels = schemars::schema_for!(Vec<Labels>);
        let items = &labels.get("items").unwrap();
        assert_eq!((&items["maxProperties"], &items["type"]), (&16.into(), &"object".into()));
        assert_eq!(items["additionalProperties"]["maxLength"], 256);
        assert_eq!(schemars::schema_for!(Labels).get("title").unwrap(), "Labels");
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
