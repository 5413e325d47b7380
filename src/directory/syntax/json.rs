use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::List as AnyList;
use super::{DEEPEST, Fault, Node, Value};

pub(super) fn parse(text: &str) -> Result<Node<'_>, Fault> {
    let raw = read::<&RawValue>(text, 0)?;
    node(raw, text, DEEPEST)
}

/// Raw values are slices of the text itself, so where one begins tells where it stands.
fn node<'a>(raw: &'a RawValue, text: &'a str, depth: usize) -> Result<Node<'a>, Fault> {
    let raw = raw.get();
    let at = raw.as_ptr().addr() - text.as_ptr().addr();
    let value = match raw.as_bytes().first() {
        Some(b'"') => Value::Text(Cow::Owned(read(raw, at)?)),
        Some(b'{' | b'[') if depth == 0 => Value::Other("a nested value"),
        Some(b'{') => Value::Table(
            read::<Fields<'a>>(raw, at)?
                .0
                .into_iter()
                .map(|(name, raw)| Ok((Cow::Owned(name), node(raw, text, depth - 1)?)))
                .collect::<Result<_, Fault>>()?,
        ),
        Some(b'[') => {
            let elements = read::<Vec<&'a RawValue>>(raw, at)?;
            Value::List(AnyList::Json(List { elements, text, depth: depth - 1 }))
        }
        Some(b'n') => Value::Null,
        Some(b't' | b'f') => Value::Other("a truth value"),
        _ => Value::Other("a number"),
    };
    Ok(Node { at, value })
}

/// A list whose elements are known to be JSON, and no more of them.
#[derive(Debug)]
pub(in super::super) struct List<'a> {
    elements: Vec<&'a RawValue>,
    text: &'a str,
    depth: usize,
}

impl<'a> List<'a> {
    pub(super) fn each(self) -> impl Iterator<Item = Result<Node<'a>, Fault>> {
        let Self { elements, text, depth } = self;
        elements.into_iter().map(move |raw| node(raw, text, depth))
    }
}

fn read<'a, T: Deserialize<'a>>(text: &'a str, at: usize) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|error| {
        let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
        Fault { at: at + lines.map(str::len).sum::<usize>(), message: explain(&error) }
    })
}

fn explain(error: &serde_json::Error) -> String {
    let whole = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let what = whole.strip_suffix(&place).unwrap_or(&whole);
    let advice = match error.classify() {
        Category::Eof => "write the file to its end",
        Category::Syntax if what == "trailing characters" => {
            "write several entries as one array, [..., ...]"
        }
        Category::Syntax | Category::Data | Category::Io => "correct it there",
    };
    format!("is not JSON: {what} (column {}); {advice}", error.column())
}

/// The fields of an object, in order and with their duplicates.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}
