use std::collections::BTreeMap;
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

/// A validator that minds formats.
pub(crate) fn validator(schema: &Value) -> Validator {
    let options = jsonschema::options().should_validate_formats(true);
    options.build(schema).expect("a schema that is one")
}

/// The schema of events with nothing allowed that it does not name.
pub(crate) fn closed_event_schema() -> Value {
    let mut schema = ibvwatch::schema::event();
    close(&mut schema);
    schema
}

/// What is wrong with an event, by the schema of its type.
pub(crate) fn judge(event: &Value) -> Result<(), String> {
    /// One for each type: a whole run has thousands of events.
    static BY_TYPE: LazyLock<BTreeMap<String, Validator>> = LazyLock::new(|| {
        let schema = closed_event_schema();
        let kinds = schema["oneOf"].as_array().expect("alternatives");
        let validator = |kind: &Value| {
            let mut alone = kind.clone();
            alone["$defs"] = schema["$defs"].clone();
            (kind["title"].as_str().unwrap_or_default().to_owned(), validator(&alone))
        };
        kinds.iter().map(validator).collect()
    });
    let kind = event["type"].as_str().unwrap_or_default();
    let validator = BY_TYPE.get(kind).ok_or_else(|| format!("{kind:?} is no type"))?;
    validator.validate(event).map_err(|error| format!("{}: {error}", error.instance_path()))
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.contains_key("properties") && !object.contains_key("additionalProperties") {
                object.insert("additionalProperties".to_owned(), false.into());
            }
            object.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
