use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};

/// What the owner of a session wrote beside its id; comes back in each of its events.
///
/// One piece of text, since a million sessions may have some: names and values in order of name,
/// each behind the character whose code is its length in bytes.
#[derive(Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Labels(Arc<str>);

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
    #[expect(clippy::needless_pass_by_value, reason = "what they are made of is of no more use")]
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
        let bytes = |(name, value): (&String, &String)| name.len() + value.len() + 4;
        let mut text = String::with_capacity(pairs.iter().map(bytes).sum());
        for piece in pairs.iter().flat_map(|(name, value)| [name, value]) {
            text.extend(u32::try_from(piece.len()).ok().and_then(char::from_u32));
            text.push_str(piece);
        }
        Ok(Self(text.into()))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        Self::pairs(&self.0)
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|&(known, _)| known == name).map(|(_, value)| value)
    }

    /// What [`from_packed`](Self::from_packed) makes the same labels of.
    pub(super) fn packed(&self) -> &str {
        &self.0
    }

    pub(super) fn from_packed(text: &str) -> Self {
        Self(text.into())
    }

    /// The pairs of labels that are [`packed`](Self::packed).
    pub(super) fn pairs(packed: &str) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = packed;
        let mut piece = move || {
            let length = rest.chars().next()?;
            let (piece, behind) = rest[length.len_utf8()..].split_at(length as usize);
            rest = behind;
            Some(piece)
        };
        std::iter::from_fn(move || Some((piece()?, piece()?)))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
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
    use proptest::prelude::*;

    use super::*;

    fn pairs(count: usize, bytes: usize) -> BTreeMap<String, String> {
        (0..count).map(|i| (format!("k{i}"), "v".repeat(bytes))).collect()
    }

    proptest! {
        #[test]
        fn labels_come_back_as_they_were_written_in_order_of_name(
            pairs in prop::collection::btree_map("\\PC{1,20}|[a\\x00Ā\u{1F600}]{1,60}", "(?s).{0,60}", 0..16),
        ) {
            let labels = Labels::new(pairs.clone()).unwrap();
            let read: Vec<(&str, &str)> = labels.iter().collect();
            let written: Vec<(&str, &str)> =
                pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            prop_assert_eq!(read, written);
            for (name, value) in &pairs {
                prop_assert_eq!(labels.get(name), Some(value.as_str()));
            }
            let json = serde_json::to_string(&labels).unwrap();
            prop_assert_eq!(&json, &serde_json::to_string(&pairs).unwrap());
            prop_assert_eq!(serde_json::from_str::<Labels>(&json).unwrap(), labels);
        }
    }

    #[test]
    fn labels_are_read_as_they_were_written() {
        let labels = Labels::try_from(pairs(2, 3)).unwrap();
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("k0", "vvv"), ("k1", "vvv")]);
        assert_eq!(labels.get("k1"), Some("vvv"));
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
        let full = Labels::new(pairs(16, 256)).unwrap();
        assert!(full.iter().all(|(_, value)| value == "v".repeat(256)));
        assert_eq!(full.get("k15"), full.get("k0"));
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
