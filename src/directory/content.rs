//! What a session file says: bytes in, validated entries out, or all that is wrong with it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use super::entry::{entry, nearest, shortened};
use super::problem::Problem;
use super::syntax::{Fault, Faults, List, Node, Syntax, Value};
use crate::domain::Entry;

/// The entries of one file.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Content {
    /// Each id once, in the order of the file.
    pub(super) named: Vec<Named>,
    /// Says which ids the file repeats.
    pub(super) warning: Option<Problem>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Named {
    pub(super) line: usize,
    pub(super) entry: Entry,
}

/// The same in a fourth of the memory, for as long as the file stays as it is.
#[derive(Debug, PartialEq)]
pub(super) struct Kept {
    /// For each entry, its line in four bytes, and the entry as it packs itself.
    packed: Box<[u8]>,
    pub(super) warning: Option<Problem>,
}

/// Where in a [`Kept`] an entry stands.
pub(super) type At = u32;

impl Kept {
    pub(super) fn of(Content { named, warning }: Content) -> Self {
        let mut packed = Vec::new();
        for Named { line, entry } in named {
            packed.extend(u32::try_from(line).unwrap_or(u32::MAX).to_le_bytes());
            entry.pack(&mut packed);
        }
        Self { packed: packed.into(), warning }
    }

    /// In the order of the file.
    pub(super) fn each(&self) -> impl Iterator<Item = (At, Named)> {
        let mut rest = &*self.packed;
        std::iter::from_fn(move || {
            let at = self.packed.len() - rest.len();
            // A file is far smaller than numbers of this size go.
            let named = take(&mut rest)?;
            Some((At::try_from(at).unwrap_or(At::MAX), named))
        })
    }

    pub(super) fn at(&self, at: At) -> Option<Named> {
        take(&mut self.packed.get(at as usize..)?)
    }
}

fn take(packed: &mut &[u8]) -> Option<Named> {
    let (&line, rest) = packed.split_first_chunk()?;
    *packed = rest;
    let line = usize::try_from(u32::from_le_bytes(line)).unwrap_or(usize::MAX);
    Some(Named { line, entry: Entry::unpack(packed) })
}

/// # Errors
/// All that is wrong with the file, up to a number that a person would read.
pub(super) fn parse(path: &Path, bytes: &[u8], syntax: Syntax) -> Result<Content, Vec<Problem>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut faults = Faults::default();
    let mut found = Vec::new();
    match text(bytes).and_then(|text| syntax.parse(text)).and_then(|root| nodes(root, syntax)) {
        Ok(nodes) => {
            for node in nodes.each() {
                match node {
                    Ok(node) => {
                        let at = node.at;
                        found.extend(entry(node, &mut faults).map(|entry| (at, entry)));
                    }
                    Err(fault) => faults.add(fault),
                }
            }
        }
        Err(fault) => faults.add(fault),
    }
    let lines = Lines { bytes, at: 0, line: 1 };
    if faults.count == 0 {
        Ok(content(path, found, lines))
    } else {
        Err(problems(path, faults, lines))
    }
}

fn text(bytes: &[u8]) -> Result<&str, Fault> {
    let text = str::from_utf8(bytes).map_err(|error| Fault {
        at: error.valid_up_to(),
        message: "is not UTF-8 text; save it as UTF-8".to_owned(),
    })?;
    if let Some(at) = text.find('\0') {
        let message = "holds a NUL byte, as files do after a crash; write it again".to_owned();
        return Err(Fault { at, message });
    }
    if text.trim().is_empty() {
        let message = "is empty; write its sessions, or remove it to untrack them".to_owned();
        return Err(Fault { at: 0, message });
    }
    Ok(text)
}

/// The nodes that are to be entries.
fn nodes(root: Node<'_>, syntax: Syntax) -> Result<List<'_>, Fault> {
    let at = root.at;
    let value = match root.value {
        Value::Table(fields) if syntax == Syntax::Toml || is_wrapper(&fields) => {
            return sessions(fields, syntax);
        }
        Value::List(nodes) => return Ok(nodes),
        value @ (Value::Null
        | Value::Text(_)
        | Value::Moment(_)
        | Value::Table(_)
        | Value::Other(_)) => value,
    };
    Ok(List::Read(vec![Node { at, value }]))
}

type Fields<'a> = Vec<(Cow<'a, str>, Node<'a>)>;

/// Tells `{"sessions": [...]}`, even misspelt, from a single entry.
fn is_wrapper(fields: &Fields<'_>) -> bool {
    let names = |wanted: &str| fields.iter().any(|(name, _)| name == wanted);
    names("sessions")
        || !names("session_id") && fields.iter().any(|(name, _)| nearest(name) == "sessions")
}

fn sessions(fields: Fields<'_>, syntax: Syntax) -> Result<List<'_>, Fault> {
    let form = match syntax {
        Syntax::Json => "\"sessions\": [...]",
        Syntax::Toml => "[[sessions]] above each entry",
    };
    let mut sessions = None;
    for (name, node) in fields {
        let at = node.at;
        let message = if name != "sessions" {
            format!("unknown field {:?} at the top; write {form}", shortened(&name))
        } else if sessions.is_some() {
            "\"sessions\" is written twice; join the two".to_owned()
        } else if let Value::List(nodes) = node.value {
            sessions = Some(nodes);
            continue;
        } else {
            format!("\"sessions\" is {}; write {form}", node.value.kind())
        };
        return Err(Fault { at, message });
    }
    sessions.ok_or_else(|| Fault {
        at: 0,
        message: format!("names no sessions; write {form}, or remove it to untrack them"),
    })
}

fn content(path: &Path, found: Vec<(usize, Entry)>, mut lines: Lines<'_>) -> Content {
    let mut first = HashMap::with_capacity(found.len());
    let mut repeats = None;
    let mut count = 0_usize;
    let mut named = Vec::with_capacity(found.len());
    for (at, entry) in found {
        let line = lines.of(at);
        let id = entry.session_id;
        if let Some(&earlier) = first.get(&id) {
            count += 1;
            repeats.get_or_insert((id, line, earlier));
        } else {
            first.insert(id, line);
            named.push(Named { line, entry });
        }
    }
    let warning = repeats.map(|(id, line, earlier)| Problem {
        path: path.to_owned(),
        line: Some(line),
        message: format!(
            "session {id} stands in line {earlier} already, and that entry counts{}; remove this one",
            others(count)
        ),
    });
    Content { named, warning }
}

/// Says that what was told of one holds for more.
pub(super) fn others(count: usize) -> String {
    match count {
        0 | 1 => String::new(),
        2 => " (so with 1 other)".to_owned(),
        _ => format!(" (so with {} others)", count - 1),
    }
}

fn problems(path: &Path, faults: Faults, mut lines: Lines<'_>) -> Vec<Problem> {
    let more = faults.count - faults.first.len();
    let mut problems: Vec<Problem> = faults
        .first
        .into_iter()
        .map(|fault| Problem {
            path: path.to_owned(),
            line: Some(lines.of(fault.at)),
            message: fault.message,
        })
        .collect();
    if more > 0 {
        problems.push(Problem {
            path: path.to_owned(),
            line: None,
            message: format!("{more} more mistakes; correct these first"),
        });
    }
    problems
}

/// Turns offsets into lines; each step forward costs only the text in between.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
}

impl Lines<'_> {
    fn of(&mut self, at: usize) -> usize {
        let at = at.min(self.bytes.len());
        if at < self.at {
            (self.at, self.line) = (0, 1);
        }
        self.line += self.bytes[self.at..at].split(|byte| *byte == b'\n').skip(1).count();
        self.at = at;
        self.line
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{Labels, SessionId};

    const A: &str = "3fa85f64-5717-4562-b3fc-2c963f66afa6";
    const B: &str = "4fa85f64-5717-4562-b3fc-2c963f66afa6";

    fn read(text: &str, syntax: Syntax) -> Result<Content, Vec<Problem>> {
        parse(Path::new("s"), &text.replace('A', A).replace('B', B).into_bytes(), syntax)
    }

    fn ids(text: &str, syntax: Syntax) -> Vec<SessionId> {
        let content = read(text, syntax).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
        content.named.iter().map(|named| named.entry.session_id).collect()
    }

    /// The problems with a file, as `line: message`, with the ids as above.
    fn wrong(text: &str, syntax: Syntax) -> Vec<String> {
        let problems = read(text, syntax).expect_err(text);
        let problems = problems.iter().map(ToString::to_string);
        problems.map(|problem| problem.replace(A, "A").replace(B, "B")).collect()
    }

    #[test]
    fn json_is_an_entry_an_array_or_an_object_of_sessions() {
        for (text, count) in [
            (r#""A""#, 1),
            (r#"{"session_id": "A"}"#, 1),
            (r#"["A", {"session_id": "B"}]"#, 2),
            (r#"{"sessions": ["A", {"session_id": "B", "labels": {"k": "v"}}]}"#, 2),
            ("[]", 0),
            (r#"{"sessions": []}"#, 0),
            ("\u{feff}[\"A\"]", 1),
        ] {
            assert_eq!(ids(text, Syntax::Json).len(), count, "{text}");
        }
    }

    #[test]
    fn toml_is_tables_of_sessions_or_a_list_of_them() {
        for (text, count) in [
            ("[[sessions]]\nsession_id = 'A'\n[[sessions]]\nsession_id = 'B'\n", 2),
            ("sessions = ['A', {session_id = 'B'}]", 2),
            ("sessions = []", 0),
            ("\u{feff}sessions = ['A']", 1),
        ] {
            assert_eq!(ids(text, Syntax::Toml).len(), count, "{text}");
        }
    }

    #[test]
    fn an_entry_carries_labels_expiry_and_interval_alike_in_both_syntaxes() {
        let json = r#"{"session_id": "A", "labels": {"case": "A-17"},
            "expires_at": "2026-12-07T23:00:00+01:00", "interval": "1m"}"#;
        let toml = "[[sessions]]\nsession_id = 'A'\ninterval = '1m'\n\
             expires_at = 2026-12-07T23:00:00+01:00\n[sessions.labels]\ncase = 'A-17'";
        let quoted = toml.replace("2026-12-07T23:00:00+01:00", "'2026-12-07T22:00:00Z'");
        let expected = Entry {
            session_id: A.parse().unwrap(),
            labels: Labels::new([("case".to_owned(), format!("{A}-17"))].into()).unwrap(),
            expires_at: Some("2026-12-07T22:00:00Z".parse().unwrap()),
            interval: Some(Duration::from_secs(60)),
        };
        for (text, syntax) in [(json, Syntax::Json), (toml, Syntax::Toml), (&quoted, Syntax::Toml)]
        {
            assert_eq!(read(text, syntax).unwrap().named[0].entry, expected, "{text}");
        }
    }

    #[test]
    fn null_stands_for_absent_where_a_field_may_be_absent() {
        let text = r#"{"session_id": "A", "labels": null, "expires_at": null, "interval": null}"#;
        assert_eq!(ids(text, Syntax::Json).len(), 1);
        assert!(wrong(r#"{"session_id": null}"#, Syntax::Json)[0].contains("session_id is null"));
    }

    #[test]
    fn an_interval_lies_between_a_second_and_a_month() {
        for (interval, good) in
            [("1s", true), ("31d", true), ("999ms", false), ("31d 1s", false), ("soon", false)]
        {
            let text = format!(r#"{{"session_id": "A", "interval": "{interval}"}}"#);
            assert_eq!(read(&text, Syntax::Json).is_ok(), good, "{interval}");
        }
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_what_to_write() {
        let text = r#"[
  "A",
  "nonsense",
  {"session_id": "B", "lables": {}},
  {"session_id": "B",
   "labels": {"n": 1},
   "interval": "0s",
   "expires_at": "2026-12-07T22:00:00"},
  {},
  17
]"#;
        insta::assert_snapshot!(wrong(text, Syntax::Json).join("\n"));
    }

    #[test]
    fn toml_mistakes_are_told_with_their_line() {
        let text = "# ours\n[[sessions]]\nsession_id = 'nonsense'\n\n[[sessions]]\n\
             session_id = 'B'\nlables = {}\nexpires_at = 2026-12-07T22:00:00\n\n[[sessions]]\n";
        insta::assert_snapshot!(wrong(text, Syntax::Toml).join("\n"));
    }

    #[test]
    fn files_that_are_wrong_as_a_whole_say_why() {
        let texts = [
            ("", Syntax::Json),
            (" \n\t\n", Syntax::Toml),
            ("# only a remark\n", Syntax::Toml),
            ("{\"sessions\": [\"A\",\n\"B\"", Syntax::Json),
            ("\"A\"\n\"B\"\n", Syntax::Json),
            ("[\"A\"\n \"B\"]", Syntax::Json),
            ("{\"session\": [\"A\"]}", Syntax::Json),
            ("{\"sessions\": \"A\"}", Syntax::Json),
            ("{\"sessions\": [], \"sessions\": []}", Syntax::Json),
            ("{\"sessions\": [],\n\"session_id\": \"A\"}", Syntax::Json),
            ("{\"session_id\": \"A\",\n\"session_id\": \"B\"}", Syntax::Json),
            ("42", Syntax::Json),
            ("\0\0\0", Syntax::Json),
            ("session_id = 'A'", Syntax::Toml),
            ("[sessions]\nsession_id = 'A'", Syntax::Toml),
            ("[[sessions]]\nsession_id = 'A'\n[[sessions", Syntax::Toml),
        ];
        let all: Vec<String> = texts
            .into_iter()
            .map(|(text, syntax)| format!("{text:?}\n    {}", wrong(text, syntax).join("\n    ")))
            .collect();
        insta::assert_snapshot!(all.join("\n"));
    }

    #[test]
    fn text_that_is_not_utf_8_is_refused_with_its_line() {
        let problems = parse(Path::new("s"), b"[\n\"\xff\"]", Syntax::Json).unwrap_err();
        assert_eq!(problems[0].to_string(), "s:2: is not UTF-8 text; save it as UTF-8");
    }

    #[test]
    fn of_an_id_that_a_file_repeats_the_first_counts_and_a_warning_is_given() {
        let text = r#"["B", {"session_id": "A", "labels": {"k": "first"}},
            {"session_id": "A", "labels": {"k": "second"}}, "A"]"#;
        let content = read(text, Syntax::Json).unwrap();
        assert_eq!(content.named.len(), 2);
        let kept = Kept::of(read(text, Syntax::Json).unwrap());
        let (places, named): (Vec<At>, Vec<Named>) = kept.each().unzip();
        assert_eq!(named, content.named);
        assert!(places.iter().zip(&named).all(|(&at, named)| kept.at(at).as_ref() == Some(named)));
        assert_eq!(content.named[1].entry.labels.iter().next(), Some(("k", "first")));
        let warning = content.warning.unwrap();
        assert_eq!(warning.line, Some(2));
        assert!(warning.message.contains("stands in line 1 already"), "{warning}");
        assert!(warning.message.contains("with 1 other"), "{warning}");
    }

    #[test]
    fn no_prefix_of_a_json_file_is_a_session_file() {
        let text = r#"{"sessions": ["A", {"session_id": "B", "labels": {"k": "v"}}]}"#;
        let text = text.replace('A', A).replace('B', B);
        for end in 0..text.len() {
            assert!(parse(Path::new("s"), &text.as_bytes()[..end], Syntax::Json).is_err());
        }
    }

    #[test]
    fn what_is_nested_without_end_is_refused_and_not_followed() {
        for text in ["[".repeat(100_000), "[".repeat(50_000) + &"]".repeat(50_000)] {
            assert!(read(&text, Syntax::Json).is_err());
            assert!(read(&format!("sessions = {text}"), Syntax::Toml).is_err());
        }
    }

    #[test]
    fn a_file_full_of_mistakes_is_told_in_few_lines() {
        let text = format!("[{}]", vec!["\"x\""; 1_000].join(",\n"));
        let problems = wrong(&text, Syntax::Json);
        assert_eq!(problems.len(), 21);
        assert!(problems[20].contains("980 more"), "{}", problems[20]);
    }
}
