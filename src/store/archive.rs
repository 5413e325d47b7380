//! The form in which all that a store keeps is carried to another: NDJSON, one value a line.
//!
//! The header comes first, and the line that counts the others last, so that an export which was
//! cut off shows. An event stands there as sinks print it, its `data` to the byte: nobody is told
//! the same twice under two ids, or two things under one. A session stands as it is kept, with
//! what has been told of it, so that the other store goes on where this one stopped.

use std::io::{self, BufRead, Read, Write};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::domain::{Cause, Record, Session, Timestamp};

/// Of the form; what is carried in another is refused.
const VERSION: u32 = 1;

/// The longest line, in bytes: several times what a session with all that it may have takes.
const LONGEST_LINE: u64 = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Export(Header),
    Api(Api),
    Sink(Sink),
    Event(Record),
    Session(Box<Session>),
    Forgotten(Forgotten),
    End(End),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header {
    version: u32,
    /// Of the last event that was ever recorded, kept or not.
    last_sequence: u64,
}

/// What was announced of the API as a whole.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Api {
    pub(super) announced: u64,
    pub(super) unavailable: Option<Unavailable>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Unavailable {
    pub(super) cause: Cause,
    pub(super) since: Timestamp,
}

/// Up to and with which sequence a sink has delivered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Sink {
    pub(super) name: String,
    pub(super) delivered: u64,
}

/// A session that is no longer kept: its fingerprint, in base64, and where its events would go on.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Forgotten {
    session_hash: String,
    pub(super) last_sequence: u64,
}

impl Forgotten {
    pub(super) fn new(fingerprint: [u8; 32], last_sequence: u64) -> Self {
        Self { session_hash: BASE64.encode(fingerprint), last_sequence }
    }

    fn fingerprint(&self) -> Option<[u8; 32]> {
        BASE64.decode(&self.session_hash).ok()?.try_into().ok()
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct End {
    /// Those before this one, the header included.
    lines: u64,
}

/// What was carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    pub sessions: u64,
    pub events: u64,
}

impl Carried {
    fn count(&mut self, line: &Line) {
        match line {
            Line::Session(_) => self.sessions += 1,
            Line::Event(_) => self.events += 1,
            Line::Export(_) | Line::Api(_) | Line::Sink(_) | Line::Forgotten(_) | Line::End(_) => {}
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Output(#[from] io::Error),
}

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("it can't be read: {0}")]
    Input(#[from] io::Error),
    #[error("line {line}: {problem}")]
    Line { line: u64, problem: String },
}

/// Writes an export, line by line.
#[derive(Debug)]
pub(super) struct Writer<W> {
    out: W,
    lines: u64,
    carried: Carried,
}

impl<W: Write> Writer<W> {
    pub(super) fn begin(out: W, last_sequence: u64) -> Result<Self, ExportError> {
        let mut writer = Self { out, lines: 0, carried: Carried::default() };
        writer.put(&Line::Export(Header { version: VERSION, last_sequence }))?;
        Ok(writer)
    }

    pub(super) fn put(&mut self, line: &Line) -> Result<(), ExportError> {
        serde_json::to_writer(&mut self.out, line).map_err(io::Error::from)?;
        self.out.write_all(b"\n")?;
        self.lines += 1;
        self.carried.count(line);
        Ok(())
    }

    pub(super) fn end(mut self) -> Result<Carried, ExportError> {
        self.put(&Line::End(End { lines: self.lines }))?;
        self.out.flush()?;
        Ok(self.carried)
    }
}

/// Reads an export, line by line, and holds it against what an export is.
#[derive(Debug)]
pub(super) struct Reader<R> {
    input: R,
    header: Header,
    /// Read so far.
    lines: u64,
    /// Of the event read last.
    sequence: u64,
    carried: Carried,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    pub(super) fn begin(mut input: R) -> Result<Self, ImportError> {
        let first = |problem: String| ImportError::Line { line: 1, problem };
        match read(&mut input).map_err(|error| error.on(1))? {
            Some(Line::Export(header)) if header.version == VERSION => {
                Ok(Self { input, header, lines: 1, sequence: 0, carried: Carried::default() })
            }
            Some(Line::Export(Header { version, .. })) => Err(first(format!(
                "the export has form {version}, and this ibvwatch reads form {VERSION}; import it with the version that made it"
            ))),
            _ => Err(first("this is no export; make one with `ibvwatch export`".to_owned())),
        }
    }

    /// The next line behind the header; [`finish`](Self::finish) takes the last one.
    pub(super) fn next(&mut self) -> Result<Line, ImportError> {
        let line = read(&mut self.input).map_err(|error| error.on(self.lines + 1))?;
        let Some(line) = line else {
            return Err(self.problem("the export was cut off behind this line; export it again"));
        };
        self.lines += 1;
        self.carried.count(&line);
        if let Line::Event(event) = &line {
            if event.sequence <= self.sequence || event.sequence > self.header.last_sequence {
                return Err(self.problem("an event out of order; export it again"));
            }
            self.sequence = event.sequence;
        }
        Ok(line)
    }

    /// The sequence of the last event ever recorded, and what was carried.
    pub(super) fn finish(mut self, end: &End) -> Result<(u64, Carried), ImportError> {
        let before = self.lines - 1;
        if end.lines != before {
            let lines = end.lines;
            return Err(self.problem(format!(
                "the export had {lines} lines before this one, and {before} are there; export it again"
            )));
        }
        if !self.input.fill_buf()?.is_empty() {
            return Err(self.problem(
                "something follows this line, which ends an export; import one at a time",
            ));
        }
        Ok((self.header.last_sequence, self.carried))
    }

    pub(super) fn second_header(&self) -> ImportError {
        self.problem("a second header; import one export at a time")
    }

    pub(super) fn ordinal(&self, event: &Record) -> Result<u64, ImportError> {
        let wrong = || self.problem("the event's id is not of its subject; export it again");
        event.ordinal().ok_or_else(wrong)
    }

    pub(super) fn fingerprint(&self, forgotten: &Forgotten) -> Result<[u8; 32], ImportError> {
        let wrong = || self.problem("session_hash is not 32 bytes in base64; export it again");
        forgotten.fingerprint().ok_or_else(wrong)
    }

    /// Says what is wrong with the line that was read last.
    pub(super) fn problem(&self, problem: impl Into<String>) -> ImportError {
        ImportError::Line { line: self.lines, problem: problem.into() }
    }
}

/// Why a line can't be read, before it is known which one it is.
enum Unread {
    Input(io::Error),
    Problem(String),
}

impl Unread {
    fn on(self, line: u64) -> ImportError {
        match self {
            Self::Input(error) => error.into(),
            Self::Problem(problem) => ImportError::Line { line, problem },
        }
    }
}

fn read(input: &mut impl BufRead) -> Result<Option<Line>, Unread> {
    let mut text = Vec::new();
    let read = input.take(LONGEST_LINE).read_until(b'\n', &mut text);
    if read.map_err(Unread::Input)? == 0 {
        return Ok(None);
    }
    if text.pop() != Some(b'\n') {
        let problem = "the export was cut off in this line; export it again";
        return Err(Unread::Problem(problem.to_owned()));
    }
    let line = serde_json::from_slice(&text);
    line.map(Some).map_err(|error| Unread::Problem(format!("not a line of an export: {error}")))
}
