//! What a session file says: bytes in, validated entries out, or all that is wrong with it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use super::entry::{entry, nearest, shortened};
use super::problem::Problem;
use super::syntax::{Fault, Node, Syntax, Value};
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

/// # Errors
/// All that is wrong with the file, up to a number that a person would read.
pub(super) fn parse(path: &Path, bytes: &[u8], syntax: Syntax) -> Result<Content, Vec<Problem>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut faults = Vec::new();
    let mut found = Vec::new();
    match text(bytes).and_then(|text| syntax.parse(text)).and_then(|root| nodes(root, syntax)) {
        Ok(nodes) => {
            for node in nodes {
                let at = node.at;
                found.extend(entry(node, &mut faults).map(|entry| (at, entry)));
            }
        }
        Err(fault) => faults.push(fault),
    }
    let lines = Lines { bytes, at: 0, line: 1 };
    if faults.is_empty() {
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
fn nodes(root: Node<'_>, syntax: Syntax) -> Result<Vec<Node<'_>>, Fault> {
    let at = root.at;
    let value = match root.value {
        Value::Table(fields) if syntax == Syntax::Toml || is_wrapper(&fields) => {
            return sessions(fields, syntax);
        }
        Value::List(nodes) => return Ok(nodes),
        value => value,
    };
    Ok(vec![Node { at, value }])
}

type Fields<'a> = Vec<(Cow<'a, str>, Node<'a>)>;

/// Tells `{"sessions": [...]}`, even misspelt, from a single entry.
fn is_wrapper(fields: &Fields<'_>) -> bool {
    let names = |wanted: &str| fields.iter().any(|(name, _)| name == wanted);
    names("sessions")
        || !names("session_id") && fields.iter().any(|(name, _)| nearest(name) == "sessions")
}

fn sessions(fields: Fields<'_>, syntax: Syntax) -> Result<Vec<Node<'_>>, Fault> {
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
        _ => format!(" (so with {} others)", count - 1),
    }
}

/// What is wrong with one file beyond this is only counted.
const MOST_PROBLEMS: usize = 20;

fn problems(path: &Path, faults: Vec<Fault>, mut lines: Lines<'_>) -> Vec<Problem> {
    let count = faults.len();
    let mut problems: Vec<Problem> = faults
        .into_iter()
        .take(MOST_PROBLEMS)
        .map(|fault| Problem {
            path: path.to_owned(),
            line: Some(lines.of(fault.at)),
            message: fault.message,
        })
        .collect();
    if count > MOST_PROBLEMS {
        problems.push(Problem {
            path: path.to_owned(),
            line: None,
            message: format!("{} more mistakes; correct these first", count - MOST_PROBLEMS),
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
