//! The JSON Schema of a session file.

use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::entry::INTERVAL_FORM;
use crate::domain::{DURATION_PATTERN, Labels, SessionId, Timestamp};

/// What a session file may hold: in JSON any of three forms, in TOML the last of them. That a
/// label's 256 are bytes and not characters, that an interval is from 1s to 31d, and that no
/// field is written twice, a schema can't say.
#[must_use]
pub fn schema() -> Value {
    let mut generator = SchemaGenerator::default();
    let or_null = |schema: Value| json!({ "anyOf": [schema, { "type": "null" }] });
    let id = generator.subschema_for::<SessionId>();
    let labels = or_null(generator.subschema_for::<Labels>().to_value());
    let mut expires_at = or_null(generator.subschema_for::<Timestamp>().to_value());
    expires_at["description"] = "Shortens the deadline; never lengthens it.".into();
    let mut interval = or_null(json!({ "type": "string", "pattern": DURATION_PATTERN }));
    interval["description"] =
        format!("Cadence of this session while quiet, in place of poll.interval; {INTERVAL_FORM}.")
            .into();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ibvwatch session file",
        "description": "The sessions to track: one, a list, or an object with a list.",
        "anyOf": [
            { "$ref": "#/$defs/entry" },
            { "$ref": "#/$defs/entries" },
            {
                "type": "object",
                "properties": { "sessions": { "$ref": "#/$defs/entries" } },
                "required": ["sessions"],
                "additionalProperties": false,
            },
        ],
        "$defs": {
            "entries": { "type": "array", "items": { "$ref": "#/$defs/entry" } },
            "entry": {
                "anyOf": [
                    id,
                    {
                        "type": "object",
                        "properties": {
                            "session_id": id,
                            "labels": labels,
                            "expires_at": expires_at,
                            "interval": interval,
                        },
                        "required": ["session_id"],
                        "additionalProperties": false,
                    },
                ],
            },
        },
    })
}
