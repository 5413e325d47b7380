//! One tree for both syntaxes, in which every value knows where in the text it stands.
//!
//! Serde would stop at the first mistake, and would not know the line of an entry that is well
//! formed and still wrong. The tree keeps both for the price of one more pass over the text.

mod json;
mod toml;

use std::borrow::Cow;

use ::toml::value::Datetime;

/// How a session file is written; told by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Json,
    Toml,
}

impl Syntax {
    pub(super) fn parse(self, text: &str) -> Result<Node<'_>, Fault> {
        match self {
            Self::Json => json::parse(text),
            Self::Toml => toml::parse(text),
        }
    }

    /// Whether a part of a file can never be taken for the whole: JSON is closed by its last
    /// bracket, while TOML may be cut after any line.
    pub(super) const fn shows_its_end(self) -> bool {
        match self {
            Self::Json => true,
            Self::Toml => false,
        }
    }
}

#[derive(Debug)]
pub(super) struct Node<'a> {
    /// Byte offset in the text.
    pub(super) at: usize,
    pub(super) value: Value<'a>,
}

#[derive(Debug)]
pub(super) enum Value<'a> {
    Null,
    Text(Cow<'a, str>),
    Moment(Datetime),
    /// In the order of the file, duplicate keys included.
    Table(Vec<(Cow<'a, str>, Node<'a>)>),
    List(List<'a>),
    /// What no session file has a place for; the text names its kind.
    Other(&'static str),
}

impl Value<'_> {
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Text(_) => "a string",
            Self::Moment(_) => "a date",
            Self::Table(_) => "a table of fields",
            Self::List(_) => "a list",
            Self::Other(kind) => kind,
        }
    }
}

/// The elements of a list. Those of a JSON file are read one after the other, since all together
/// take thirty times as much memory as the text does.
#[derive(Debug)]
pub(super) enum List<'a> {
    Read(Vec<Node<'a>>),
    Json(json::List<'a>),
}

impl<'a> List<'a> {
    pub(super) fn each(self) -> impl Iterator<Item = Result<Node<'a>, Fault>> {
        let (read, json) = match self {
            Self::Read(nodes) => (nodes, None),
            Self::Json(list) => (Vec::new(), Some(list)),
        };
        read.into_iter().map(Ok).chain(json.into_iter().flat_map(json::List::each))
    }
}

/// What is wrong, and at which byte offset.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) message: String,
}

/// What is wrong with one file: as much as a person would read, the first in the order of the
/// file, and how much there is in all. A file may be wrong in millions of places.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) first: Vec<Fault>,
    pub(super) count: usize,
}

impl Faults {
    const MOST: usize = 20;

    pub(super) fn add(&mut self, fault: Fault) {
        self.count += 1;
        let after = self.first.partition_point(|other| other.at <= fault.at);
        if after < Self::MOST {
            self.first.insert(after, fault);
            self.first.truncate(Self::MOST);
        }
    }
}

/// Deeper than any session file goes: a file, its sessions, an entry, its labels, a value.
/// What lies deeper is wrong whatever it is, so it is not looked into.
const DEEPEST: usize = 5;
