//! What stands in the messages.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::{Cause, Record, Session, SessionId, Timestamp};

/// What a message says that is a number alone.
pub(super) fn number(body: &[u8]) -> Option<u64> {
    std::str::from_utf8(body).ok()?.parse().ok()
}

/// In whose name a session is tracked: owners of session files.
pub(super) type Owners = BTreeSet<String>;

/// A session as it stands. Its field names are the record's of the other stores.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) session: Session,
    #[serde(default)]
    pub(super) named_by: Owners,
}

/// An event in CloudEvents form, but for its `sequence`, which is its message's place.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EventBody {
    specversion: String,
    id: String,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    subject: Option<SessionId>,
    time: Timestamp,
    datacontenttype: String,
    data: Box<RawValue>,
}

impl From<Record> for EventBody {
    fn from(record: Record) -> Self {
        let Record { sequence: _, id, source, kind, subject, time, data } = record;
        Self {
            specversion: "1.0".to_owned(),
            id,
            source,
            kind,
            subject,
            time,
            datacontenttype: "application/json".to_owned(),
            data,
        }
    }
}

impl EventBody {
    pub(super) fn at(self, sequence: u64) -> Record {
        let Self { id, source, kind, subject, time, data, .. } = self;
        Record { sequence, id, source, kind, subject, time, data }
    }
}

/// The API as a whole, as it was announced last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Api {
    pub(super) announced: u64,
    pub(super) unavailable: Option<(Cause, Timestamp)>,
}

/// What a node says of itself every few seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Heartbeat {
    /// Of this run of the node, so that two that share a name find out.
    pub(super) run: u64,
    pub(super) version: String,
    pub(super) owner: String,
    /// Polls of the last minute.
    pub(super) polls: u64,
    pub(super) in_flight: usize,
    /// The sinks it delivers to.
    #[serde(default)]
    pub(super) sinks: Vec<String>,
}
