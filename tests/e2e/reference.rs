//! docs/EVENTS.md, held against the schema: every type, every field, and examples that are events.

use std::collections::BTreeSet;

use ibvwatch::domain::EventKind;
use serde_json::Value;

use crate::common::Event;

const REFERENCE: &str = include_str!("../../docs/EVENTS.md");

/// The text below a heading, up to the next of its level or above.
fn section<'a>(heading: &str) -> &'a str {
    let level = heading.split(' ').next().unwrap_or_default().len();
    let start = REFERENCE.find(&format!("\n{heading}\n"));
    let start = start.unwrap_or_else(|| panic!("docs/EVENTS.md has no {heading:?}"));
    let rest = &REFERENCE[start + heading.len() + 2..];
    let is_heading = |at: usize| {
        let line = &rest[at..];
        let hashes = line.len() - line.trim_start_matches('#').len();
        (1..=level).contains(&hashes) && line[hashes..].starts_with(' ')
    };
    let end = rest.match_indices('\n').map(|(at, _)| at + 1).find(|at| is_heading(*at));
    &rest[..end.unwrap_or(rest.len())]
}

/// The first and the last cell of each row of a section's table.
fn rows(section: &str) -> Vec<(String, String)> {
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        (cells[0].trim_matches('`').to_owned(), cells[cells.len() - 1].to_owned())
    })
    .collect()
}

/// A section's table names these properties, each in the schema's words where it has some.
fn tells_of(heading: &str, properties: &Value, but: &BTreeSet<String>) {
    let rows = rows(section(heading));
    let told: BTreeSet<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    let all = properties.as_object().expect("properties");
    let expected: BTreeSet<&str> =
        all.keys().map(String::as_str).filter(|name| !but.contains(*name)).collect();
    assert_eq!(told, expected, "{heading}");
    for (name, words) in &rows {
        if let Some(description) = all[name].get("description").and_then(Value::as_str) {
            assert_eq!(words, description, "{heading}, {name}");
        }
    }
}

fn kind_of(schema: &Value, kind: EventKind) -> Value {
    let kinds = schema["oneOf"].as_array().expect("alternatives");
    let found = kinds.iter().find(|alternative| alternative["title"] == kind.as_str());
    found.expect("an alternative for each type").clone()
}

#[test]
fn every_type_and_field_is_told_in_the_words_of_the_schema() {
    let schema = ibvwatch::schema::event();
    let tracked = kind_of(&schema, EventKind::SessionTracked);
    let common = &tracked["properties"]["data"]["properties"];
    let none = BTreeSet::new();
    tells_of("### Around the data", &tracked["properties"], &none);
    tells_of("### Of every session event", common, &none);
    for name in ["ResourceKey", "Progress", "Problem"] {
        let heading = format!("### {name}");
        tells_of(&heading, &schema["$defs"][name]["properties"], &none);
    }
    let common: BTreeSet<String> =
        common.as_object().expect("properties").keys().cloned().collect();
    for kind in EventKind::ALL {
        let alternative = kind_of(&schema, kind);
        let heading = format!("### `{kind}`");
        tells_of(&heading, &alternative["properties"]["data"]["properties"], &common);
        let words = alternative["description"].as_str().expect("words for each type");
        assert!(section(&heading).contains(words), "{heading} says not: {words}");
    }
    for (name, heading) in [
        ("ProblemKind", "### Problem"),
        ("Cause", "### `ibvwatch.api.unavailable`"),
        ("EndReason", "### `ibvwatch.session.ended`"),
    ] {
        for word in words(&schema["$defs"][name]) {
            assert!(section(heading).contains(&format!("`{word}`")), "{heading} has no {word}");
        }
    }
}

/// The values of an enumeration, however it is put.
fn words(schema: &Value) -> Vec<String> {
    let nested = schema["oneOf"].as_array().into_iter().flatten();
    let values = nested.chain([schema]).flat_map(|schema| {
        schema["enum"].as_array().into_iter().flatten().chain(schema.get("const"))
    });
    values.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn every_type_has_an_example_that_is_such_an_event() {
    for kind in EventKind::ALL {
        let heading = format!("### `{kind}`");
        let example = section(&heading).split("```json\n").nth(1);
        let example = example.and_then(|rest| rest.split("```").next());
        let example = example.unwrap_or_else(|| panic!("{heading} has no example"));
        let json: Value = serde_json::from_str(example).expect("JSON");
        let event = Event::parse(&json.to_string()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(event.json["type"], kind.as_str());
    }
}
