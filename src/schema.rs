//! The JSON Schema of an event, generated from the types that are printed.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::domain::{ApiDetail, ApiEvent, Detail, Event, EventKind, SessionId, Timestamp};

/// The schema of an event, with one alternative for each type. Later versions may add fields, so
/// unknown ones pass.
#[must_use]
pub fn event() -> Value {
    let mut generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut kinds = alternatives::<Event, Detail>(&mut generator);
    kinds.extend(alternatives::<ApiEvent, ApiDetail>(&mut generator));
    let kinds: Vec<Value> = EventKind::ALL
        .into_iter()
        .zip(kinds)
        .map(|(kind, data)| envelope(kind, data, &mut generator))
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ibvwatch event",
        "description": "A CloudEvents 1.0 event, as ibvwatch prints one a line.",
        "oneOf": kinds,
        "$defs": generator.take_definitions(true),
    })
}

/// The schema of `data` for each alternative of the detail, which come in the order of
/// [`EventKind::ALL`]: what all have in common, and what each adds.
fn alternatives<Common: JsonSchema, Detail: JsonSchema>(
    generator: &mut SchemaGenerator,
) -> Vec<Map<String, Value>> {
    let common = Common::json_schema(generator);
    let Some(Value::Array(details)) = Detail::json_schema(generator).remove("anyOf") else {
        return Vec::new();
    };
    details.into_iter().map(|detail| joined(&common, detail)).collect()
}

fn joined(common: &Schema, detail: Value) -> Map<String, Value> {
    let Value::Object(mut joined) = detail else { return Map::new() };
    let part = |keyword| common.get(keyword).cloned();
    if let Some(Value::Object(properties)) = part("properties")
        && let Some(own) = joined.entry("properties").or_insert_with(|| json!({})).as_object_mut()
    {
        own.extend(properties);
    }
    if let Some(Value::Array(required)) = part("required")
        && let Some(own) = joined.entry("required").or_insert_with(|| json!([])).as_array_mut()
    {
        own.extend(required);
    }
    joined
}

/// What [`Record`](crate::domain::Record) prints around the data.
fn envelope(
    kind: EventKind,
    mut data: Map<String, Value>,
    generator: &mut SchemaGenerator,
) -> Value {
    let description = data.remove("description");
    let is_about_session = !matches!(kind, EventKind::ApiUnavailable | EventKind::ApiAvailable);
    let mut schema = json!({
        "title": kind.as_str(),
        "description": description,
        "type": "object",
        "properties": {
            "specversion": { "const": "1.0" },
            "id": {
                "type": "string",
                "description": "Equal for every delivery of this event.",
                "pattern": if is_about_session { "^[0-9a-f-]{36}/[1-9][0-9]*$" } else { "^api/[1-9][0-9]*$" },
            },
            "source": { "type": "string", "minLength": 1, "description": "`events.source`" },
            "type": { "const": kind.as_str() },
            "time": {
                "description": "When the change was seen.",
                "allOf": [generator.subschema_for::<Timestamp>()],
            },
            "datacontenttype": { "const": "application/json" },
            "sequence": {
                "type": "string",
                "description": "Position in the event log; text order is log order.",
                "pattern": "^[0-9]{20}$",
            },
            "data": data,
        },
        "required": ["specversion", "id", "source", "type", "time", "datacontenttype", "sequence", "data"],
    });
    if is_about_session {
        schema["properties"]["subject"] = generator.subschema_for::<SessionId>().to_value();
        if let Some(required) = schema["required"].as_array_mut() {
            required.push("subject".into());
        }
    }
    schema
}
