//! What a key may hold, recorded as it is asked for, and the JSON Schema that follows.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::domain::DURATION_PATTERN;

/// The file that documents every key. A key's comment there is its description here.
const DOCUMENTED: &str = include_str!("../../config/ibvwatch.toml");

/// The JSON Schema of one key's value.
#[derive(Debug, Clone)]
pub(super) struct Shape(Map<String, Value>);

impl Shape {
    fn of(kind: &str) -> Self {
        Self(Map::from_iter([("type".to_owned(), kind.into())]))
    }

    fn with(mut self, keyword: &str, value: impl Into<Value>) -> Self {
        self.0.insert(keyword.to_owned(), value.into());
        self
    }

    pub(super) fn text() -> Self {
        Self::of("string")
    }

    pub(super) fn filled_text() -> Self {
        Self::text().with("minLength", 1)
    }

    pub(super) fn one_of(values: &[&str]) -> Self {
        Self::of("string").with("enum", values)
    }

    pub(super) fn list() -> Self {
        let items = Value::Object(Self::filled_text().0);
        Self::of("array").with("items", items)
    }

    pub(super) fn not_empty(self) -> Self {
        self.with("minItems", 1)
    }

    pub(super) fn flag() -> Self {
        Self::of("boolean")
    }

    pub(super) fn integer(range: &RangeInclusive<u32>) -> Self {
        Self::of("integer").within(range)
    }

    pub(super) fn number(range: &impl RangeBounds<f64>) -> Self {
        Self::of("number").within(range)
    }

    fn within<T: Copy + Into<Value>>(mut self, range: &impl RangeBounds<T>) -> Self {
        let bounds = [
            (range.start_bound(), "minimum", "exclusiveMinimum"),
            (range.end_bound(), "maximum", "exclusiveMaximum"),
        ];
        for (bound, included, excluded) in bounds {
            self = match bound {
                Bound::Included(&bound) => self.with(included, bound),
                Bound::Excluded(&bound) => self.with(excluded, bound),
                Bound::Unbounded => self,
            };
        }
        self
    }

    pub(super) fn duration(range: &RangeInclusive<Duration>) -> Self {
        let [least, most] = [range.start(), range.end()].map(|&bound| written(bound));
        Self::text().with("pattern", DURATION_PATTERN).bounded(format!("From {least} to {most}."))
    }

    /// States bounds that JSON Schema has no words for.
    pub(super) fn bounded(self, words: impl Into<String>) -> Self {
        self.with("$comment", words.into())
    }

    /// As the value is written.
    pub(super) fn default(self, value: impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => self.with("default", value),
            Err(_) => self,
        }
    }

    pub(super) fn shown(self, value: impl Display) -> Self {
        self.default(value.to_string())
    }
}

/// The duration as a person would write it: in the largest unit that is whole.
pub(super) fn written(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.iter().find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", millis / unit),
        None if millis == 0 => "0s".to_owned(),
        None => format!("{millis}ms"),
    }
}

/// The schema of a configuration file with these keys. Nothing is required of it, since a file
/// may be one of several.
pub(super) fn schema(keys: &BTreeMap<&'static str, Shape>) -> Value {
    let descriptions = descriptions();
    let mut root = Map::new();
    for (key, Shape(shape)) in keys {
        let mut value = shape.clone();
        let bounds = value.remove("$comment");
        let sentences = [descriptions.get(*key).cloned(), bounds.and_then(text)];
        let sentences: Vec<String> = sentences.into_iter().flatten().collect();
        value.insert("description".to_owned(), sentences.join(" ").into());
        insert(&mut root, key, Value::Object(value));
    }
    let mut schema = section(root);
    schema.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".to_owned(), "ibvwatch configuration".into());
    Value::Object(schema)
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    }
}

fn section(properties: Map<String, Value>) -> Map<String, Value> {
    Map::from_iter([
        ("type".to_owned(), "object".into()),
        ("additionalProperties".to_owned(), false.into()),
        ("properties".to_owned(), Value::Object(properties)),
    ])
}

fn insert(properties: &mut Map<String, Value>, key: &str, shape: Value) {
    let Some((name, rest)) = key.split_once('.') else {
        properties.insert(key.to_owned(), shape);
        return;
    };
    let inner = properties.entry(name).or_insert_with(|| Value::Object(section(Map::new())));
    if let Some(Value::Object(inner)) = inner.get_mut("properties") {
        insert(inner, rest, shape);
    }
}

/// Each documented key with the comment above it.
fn descriptions() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let (mut section, mut comment) = (String::new(), String::new());
    for line in DOCUMENTED.lines() {
        if let Some(name) = line.strip_prefix('[') {
            name.trim_end_matches(']').clone_into(&mut section);
            comment.clear();
        } else if let Some(words) = line.strip_prefix("# ") {
            comment =
                if comment.is_empty() { words.to_owned() } else { format!("{comment} {words}") };
        } else if let Some((key, _)) = line.trim_start_matches('#').split_once(" = ") {
            let reloads =
                comment.strip_suffix(" SIGHUP").map(|c| format!("{c} SIGHUP reloads it."));
            let description = reloads.unwrap_or_else(|| comment.clone());
            found.insert(format!("{section}.{key}"), description);
        } else {
            comment.clear();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_stand_in_their_sections_with_the_words_of_the_documented_file() {
        let interval = Duration::from_millis(10)..=Duration::from_secs(60);
        let keys = BTreeMap::from([
            ("poll.jitter", Shape::number(&(0.0..1.0)).default(0.1)),
            ("poll.interval", Shape::duration(&interval).shown("5m")),
        ]);
        let schema = schema(&keys);
        let poll = &schema["properties"]["poll"];
        assert_eq!(poll["additionalProperties"], false);
        let jitter = &poll["properties"]["jitter"];
        assert_eq!(jitter["exclusiveMaximum"], json!(1.0));
        assert_eq!(jitter["default"], json!(0.1));
        let words = poll["properties"]["interval"]["description"].as_str().unwrap();
        assert!(words.starts_with("Cadence of a quiet session."), "{words}");
        assert!(words.ends_with("SIGHUP reloads it. From 10ms to 1m."), "{words}");
    }

    #[test]
    fn the_form_of_a_duration_is_what_is_read_as_one() {
        let form = jsonschema::validator_for(&json!({ "pattern": DURATION_PATTERN })).unwrap();
        for text in ["30s", "5m", "500ms", "1h 30m", "1h30min", "31d", "2 weeks", "0s", "1.5s"] {
            assert!(humantime::parse_duration(text).is_ok(), "{text}");
            assert!(form.is_valid(&json!(text)), "{text}");
        }
        for text in ["", "5", "m", "5x", "-5s", "5m,", "s5"] {
            assert!(humantime::parse_duration(text).is_err(), "{text}");
            assert!(!form.is_valid(&json!(text)), "{text}");
        }
    }
}
