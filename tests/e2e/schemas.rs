//! The printed JSON Schemas, held against what is really printed, read and refused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ibvwatch::config::{Environment, load};
use ibvwatch::directory::survey;
use serde_json::{Value, json};

use crate::common::{Home, validator};

const SHIPPED: &str = include_str!("../../config/ibvwatch.toml");
const ID: &str = "3fa85f64-5717-4562-b3fc-2c963f66afa6";

async fn printed(home: &Home, of: &str) -> Value {
    let mut command = home.command(&[]);
    command = {
        let mut schema = tokio::process::Command::new(command.as_std().get_program());
        schema.args(["schema", of]).env_clear();
        schema
    };
    let text = crate::common::Printed::of(command).await.succeeded();
    serde_json::from_str(&text).expect("JSON")
}

/// TOML as the JSON that a validator of TOML takes it for.
fn as_json(toml: &str) -> Value {
    let table: toml::Table = toml.parse().expect("TOML");
    convert(toml::Value::Table(table))
}

fn convert(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::Datetime(moment) => moment.to_string().into(),
        toml::Value::Array(items) => items.into_iter().map(convert).collect(),
        toml::Value::Table(table) => {
            Value::Object(table.into_iter().map(|(key, value)| (key, convert(value))).collect())
        }
    }
}

#[tokio::test]
async fn schemas_are_printed_as_the_library_has_them() {
    let home = Home::new().await;
    assert_eq!(printed(&home, "event").await, ibvwatch::schema::event());
    assert_eq!(printed(&home, "sessions-file").await, ibvwatch::directory::schema());
    assert_eq!(printed(&home, "config").await, ibvwatch::config::schema());
}

/// Whether the daemon would take the file.
fn is_read(name: &str, text: &str) -> bool {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join(name), text).expect("a file that can be written");
    let survey = survey(&[directory.path().to_owned()]);
    assert_eq!(survey.files, 1);
    survey.problems.is_empty()
}

fn labels(count: usize, bytes: usize) -> String {
    let pairs = (0..count).map(|n| format!("\"k{n}\":\"{}\"", "v".repeat(bytes)));
    format!(r#"{{"session_id":"ID","labels":{{{}}}}}"#, pairs.collect::<Vec<_>>().join(","))
}

#[test]
fn a_session_file_is_good_by_the_schema_exactly_if_it_is_read() {
    let schema = validator(&ibvwatch::directory::schema());
    let forms = [
        (true, r#""ID""#.to_owned()),
        (true, r#"["ID"]"#.to_owned()),
        (true, "[]".to_owned()),
        (true, r#"{"session_id":"ID"}"#.to_owned()),
        (true, r#"{"session_id":"ID","labels":null,"expires_at":null,"interval":null}"#.to_owned()),
        (true, r#"{"sessions":["ID",{"session_id":"ID"}]}"#.to_owned()),
        (true, r#"{"sessions":[]}"#.to_owned()),
        (true, r#"{"session_id":"ID","expires_at":"2026-12-07T22:00:00.5+01:00"}"#.to_owned()),
        (true, r#"{"session_id":"ID","interval":"1h 30m"}"#.to_owned()),
        (true, labels(16, 256)),
        (true, labels(0, 0)),
        (false, "null".to_owned()),
        (false, "7".to_owned()),
        (false, "{}".to_owned()),
        (false, r#""3fa85f6457174562b3fc2c963f66afa6""#.to_owned()),
        (false, r#"{"session_id":7}"#.to_owned()),
        (false, r#"{"session_id":"ID","label":{}}"#.to_owned()),
        (false, r#"{"session_id":"ID","labels":{"a":1}}"#.to_owned()),
        (false, r#"{"session_id":"ID","labels":{"":"v"}}"#.to_owned()),
        (false, r#"{"session_id":"ID","labels":[]}"#.to_owned()),
        (false, labels(17, 1)),
        (false, labels(1, 257)),
        (false, r#"{"session_id":"ID","expires_at":"tomorrow"}"#.to_owned()),
        (false, r#"{"session_id":"ID","expires_at":7}"#.to_owned()),
        (false, r#"{"session_id":"ID","interval":"5"}"#.to_owned()),
        (false, r#"{"session_id":"ID","interval":90}"#.to_owned()),
        (false, r#"{"sessions":"ID"}"#.to_owned()),
        (false, r#"{"sessions":["ID"],"more":1}"#.to_owned()),
        (false, r#"[["ID"]]"#.to_owned()),
        (false, "[null]".to_owned()),
    ];
    for (good, text) in forms {
        let text = text.replace("ID", ID);
        assert_eq!(is_read("s.json", &text), good, "{text}");
        let json: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(schema.is_valid(&json), good, "{text}");
    }
    let toml = [
        (true, "[[sessions]]\nsession_id = \"ID\"\nlabels = { case = \"A\" }\n"),
        (true, "[[sessions]]\nsession_id = \"ID\"\nexpires_at = 2026-12-07T22:00:00Z\n"),
        (true, "sessions = [\"ID\"]\n"),
        (false, "[[session]]\nsession_id = \"ID\"\n"),
        (false, "[[sessions]]\nsession_id = \"ID\"\nexpires_at = 2026-12-07\n"),
        (false, "[[sessions]]\nlabels = {}\n"),
    ];
    for (good, text) in toml {
        let text = text.replace("ID", ID);
        assert_eq!(is_read("s.toml", &text), good, "{text}");
        assert_eq!(schema.is_valid(&as_json(&text)), good, "{text}");
    }
}

#[test]
fn the_shipped_session_files_are_good_by_the_schema() {
    let schema = validator(&ibvwatch::directory::schema());
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/sessions.d");
    let files: Vec<PathBuf> = std::fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("text");
        let json = match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => serde_json::from_str(&text).expect("JSON"),
            Some("toml") => as_json(&text),
            _ => continue,
        };
        assert!(schema.is_valid(&json), "{}", path.display());
    }
}

/// The shipped configuration with every default spelt out.
fn spelt_out() -> String {
    let is_setting = |line: &&str| {
        let key = line.split(" = ").next().unwrap_or_default();
        line.contains(" = ") && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let line = |line| {
        Some(line).and_then(|l: &str| l.strip_prefix('#')).filter(is_setting).unwrap_or(line)
    };
    SHIPPED.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The keys below a value, or below the schema of one, in full.
fn leaves(
    prefix: &str,
    value: &Value,
    below: &dyn Fn(&Value) -> Option<Value>,
) -> Vec<(String, Value)> {
    let Some(Value::Object(inner)) = below(value) else {
        return vec![(prefix.to_owned(), value.clone())];
    };
    let name =
        |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
    inner.iter().flat_map(|(key, value)| leaves(&name(key), value, below)).collect()
}

#[test]
fn the_shipped_configuration_is_good_by_the_schema_and_has_its_keys_and_defaults() {
    let schema = ibvwatch::config::schema();
    let written = as_json(&spelt_out());
    if let Err(error) = validator(&schema).validate(&written) {
        panic!("{}: {error}", error.instance_path());
    }
    let keys = leaves("", &schema, &|schema| schema.get("properties").cloned());
    let values = leaves("", &written, &|value| value.is_object().then(|| value.clone()));
    let names = |leaves: &[(String, Value)]| -> BTreeSet<String> {
        leaves.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(&keys), names(&values));
    for ((name, schema), (_, value)) in keys.iter().zip(&values) {
        let words = schema["description"].as_str().unwrap_or_default();
        assert!(words.len() > 20, "{name} is not described: {schema}");
        let Some(default) = schema.get("default") else { continue };
        let same_length = [default, value].map(|text| text.as_str().map(humantime::parse_duration));
        let same = match same_length {
            [Some(Ok(default)), Some(Ok(value))] => default == value,
            _ if default.is_number() => default.as_f64() == value.as_f64(),
            _ => default == value,
        };
        assert!(same, "{name}: {default} and not {value}");
    }
}

#[test]
fn what_the_schema_refuses_is_refused_by_the_reader_and_the_other_way_round() {
    let schema = validator(&ibvwatch::config::schema());
    let required = "api.sdk_id = \"me\"\napi.auth.private_key_file = \"key.pem\"\n";
    for (good, line) in [
        (true, ""),
        (true, "poll.interval = \"90s\""),
        (true, "http.listen = \"\""),
        (true, "api.session_path = \"\""),
        (true, "poll.rate_limit = 0.5"),
        (true, "api.auth.scopes = [\"a\", \"b\"]"),
        (false, "poll.intervall = \"90s\""),
        (false, "poll.interval = \"90\""),
        (false, "poll.interval = 90"),
        (false, "poll.jitter = 1.0"),
        (false, "poll.jitter = -0.1"),
        (false, "poll.rate_limit = 0"),
        (false, "poll.burst = 0"),
        (false, "poll.burst = 1000001"),
        (false, "poll.failing_after = \"often\""),
        (false, "sinks.stdout.enabled = \"perhaps\""),
        (false, "store.kind = \"paper\""),
        (false, "log.format = \"xml\""),
        (false, "api.auth.method = \"none\""),
        (false, "sessions.directories = []"),
        (false, "api.auth.scopes = []"),
        (false, "events.source = \"\""),
    ] {
        let text = format!("{required}{line}\n");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("config.toml");
        std::fs::write(&file, &text).expect("a file that can be written");
        let read = load(&[file], &Environment::new());
        assert_eq!(read.problems().is_empty(), good, "{line}: {:?}", read.problems());
        assert_eq!(schema.is_valid(&as_json(&text)), good, "{line}");
    }
    assert!(!schema.is_valid(&json!({ "unknown": {} })));
}
