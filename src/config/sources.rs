//! Configuration as it is written: files and environment, in layers, each value with its place.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::shape::{self, Shape};

/// Environment variables, as a value, so that a test can have its own.
pub type Environment = BTreeMap<String, String>;

const PREFIX: &str = "IBVWATCH";
const LEVEL: &str = "__";
/// Keys that hold lists: in the environment their items are separated by commas.
const LISTS: [&str; 3] = ["api.auth.scopes", "http.allowed_hosts", "sessions.directories"];

/// Something wrong with the configuration: where it stands, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub place: Option<Place>,
    pub key: Option<String>,
    pub message: String,
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    File { path: PathBuf, line: Option<usize> },
    Variable(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// The layers, merged, with a record of what was asked for and what was wrong.
#[derive(Debug)]
pub(super) struct Sources {
    merged: config::Config,
    /// Where each key stands; of several places, the one that wins.
    places: BTreeMap<String, Place>,
    asked: BTreeMap<&'static str, Shape>,
    pub(super) problems: Vec<Problem>,
}

impl Sources {
    /// Reads the files, later ones over earlier ones, and the environment over them all.
    pub(super) fn read(files: &[PathBuf], environment: &Environment) -> Self {
        let mut builder = config::Config::builder();
        let mut places = BTreeMap::new();
        let mut problems = Vec::new();
        for path in files {
            match read_file(path) {
                Ok((text, lines)) => {
                    builder =
                        builder.add_source(config::File::from_str(&text, config::FileFormat::Toml));
                    places.extend(lines.into_iter().map(|(key, line)| {
                        (key, Place::File { path: path.clone(), line: Some(line) })
                    }));
                }
                Err(problem) => problems.push(problem),
            }
        }
        let mut layer = config::Environment::with_prefix(PREFIX)
            .prefix_separator(LEVEL)
            .separator(LEVEL)
            .try_parsing(true)
            .list_separator(",");
        for key in LISTS {
            layer = layer.with_list_parse_key(key);
        }
        for (name, value) in environment {
            let Some(key) = key_of(name) else { continue };
            let place = Place::Variable(name.clone());
            if let Some(Place::Variable(other)) = places.get(&key) {
                // Which of them would win is chance.
                let message = format!("{other} names the same key; keep one of the two");
                problems.push(Problem { place: Some(place), key: Some(key), message });
            } else {
                places.insert(key, place);
                // A layer each: within one, chance would say which of a key and a table comes last.
                let variable = HashMap::from([(name.clone(), value.clone())]);
                builder = builder.add_source(layer.clone().source(Some(variable)));
            }
        }
        let merged = builder.build().unwrap_or_else(|error| {
            problems.push(Problem { place: None, key: None, message: error.to_string() });
            config::Config::default()
        });
        Self { merged, places, asked: BTreeMap::new(), problems }
    }

    /// The value of a key, if it is written anywhere and makes sense.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        shape: Shape,
        parse: impl FnOnce(config::Value) -> Result<T, String>,
    ) -> Option<T> {
        self.asked.insert(key, shape);
        let value = self.merged.get::<config::Value>(key).ok()?;
        parse(value).map_err(|message| self.problem(key, message)).ok()
    }

    /// As [`take`](Self::take), for what is written as a text.
    pub(super) fn text(&mut self, key: &'static str, shape: Shape) -> Option<String> {
        self.take(key, shape, |value| value.into_string().map_err(|_| "write a text".to_owned()))
    }

    /// A text that means something, and what it means if it isn't written.
    pub(super) fn parsed<T: FromStr<Err: fmt::Display> + fmt::Display>(
        &mut self,
        key: &'static str,
        default: T,
    ) -> T {
        let shape = Shape::filled_text().shown(&default);
        let parsed = self.take(key, shape, |value| {
            let text = value.into_string().map_err(|_| "write a text".to_owned())?;
            text.parse().map_err(|error: T::Err| error.to_string())
        });
        parsed.unwrap_or(default)
    }

    /// One of some words, each with what it means; the first is the default.
    pub(super) fn choice<T: Copy, const N: usize>(
        &mut self,
        key: &'static str,
        choices: [(&str, T); N],
    ) -> Option<T> {
        let words = choices.map(|(word, _)| word);
        let shape = Shape::one_of(&words).default(words.first());
        self.take(key, shape, |value| {
            let text = value.into_string().unwrap_or_default();
            let chosen = choices.iter().find(|(word, _)| *word == text);
            chosen.map(|(_, means)| *means).ok_or_else(|| {
                let words = words.map(|word| format!("{word:?}")).join(" or ");
                format!("{text:?} is unknown; write {words}")
            })
        })
    }

    /// A list of texts; `what` says of what, for whoever wrote something else.
    pub(super) fn texts<T>(
        &mut self,
        key: &'static str,
        shape: Shape,
        what: &str,
        parse: impl FnOnce(Vec<String>) -> Result<T, String>,
    ) -> Option<T> {
        self.take(key, shape, |value| {
            let mistake = |_| format!("write a list of {what}");
            let items = value.into_array().map_err(mistake)?;
            let texts = items.into_iter().map(|item| item.into_string().map_err(mistake));
            parse(texts.collect::<Result<_, _>>()?)
        })
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let flag = self.take(key, Shape::flag().default(default), |value| {
            value.into_bool().map_err(|_| "write true or false".to_owned())
        });
        flag.unwrap_or(default)
    }

    /// The JSON Schema of a file with all the keys that were asked for.
    pub(super) fn schema(&self) -> serde_json::Value {
        shape::schema(&self.asked)
    }

    pub(super) fn is_written(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    /// Notes what is wrong with a key, at the place where it is written.
    pub(super) fn problem(&mut self, key: &str, message: impl Into<String>) {
        let place = self.places.get(key).cloned();
        self.problems.push(Problem { place, key: Some(key.to_owned()), message: message.into() });
    }

    /// Everything wrong, with the keys that nobody asked for, in order of place.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        let known: Vec<&str> = self.asked.keys().copied().collect();
        for (key, place) in &self.places {
            if !self.asked.contains_key(key.as_str()) {
                let message = match nearest(key, &known) {
                    Some(near) => format!("unknown key; did you mean {near}?"),
                    None => "unknown key; config/ibvwatch.toml lists all there are".to_owned(),
                };
                let (place, key) = (Some(place.clone()), Some(key.clone()));
                self.problems.push(Problem { place, key, message });
            }
        }
        self.problems.sort();
        self.problems
    }
}

/// The candidate that a mistyped word most likely meant.
fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    const ALIKE: f64 = 0.6;
    candidates
        .iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(word, candidate), *candidate))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

fn key_of(variable: &str) -> Option<String> {
    let rest = variable.strip_prefix(PREFIX)?.strip_prefix(LEVEL)?;
    Some(rest.replace(LEVEL, ".").to_lowercase())
}

fn read_file(path: &PathBuf) -> Result<(String, BTreeMap<String, usize>), Problem> {
    let problem = |line, message: String| Problem {
        place: Some(Place::File { path: path.clone(), line }),
        key: None,
        message,
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| problem(None, format!("can't be read: {error}")))?;
    let line_of = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
    let table = DeTable::parse(&text).map_err(|error| {
        problem(error.span().map(|span| line_of(span.start)), error.message().to_owned())
    })?;
    let mut lines = BTreeMap::new();
    collect_lines("", table.get_ref(), &line_of, &mut lines);
    Ok((text, lines))
}

fn collect_lines(
    prefix: &str,
    table: &DeTable<'_>,
    line_of: &impl Fn(usize) -> usize,
    lines: &mut BTreeMap<String, usize>,
) {
    for (key, value) in table {
        let name = if prefix.is_empty() {
            key.get_ref().to_string()
        } else {
            format!("{prefix}.{}", key.get_ref())
        };
        match Spanned::get_ref(value) {
            DeValue::Table(inner) => collect_lines(&name, inner, line_of, lines),
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_) => {
                lines.insert(name, line_of(key.span().start));
            }
        }
    }
}
