//! Events: what is told, in CloudEvents 1.0 form.
//!
//! An [`Event`] is what the core decides; a [`Record`] is the same event once it has its place in
//! the event log. A record's line is made from what is stored and nothing else, so a redelivery
//! is the same line to the byte.

use std::fmt;

use schemars::JsonSchema;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::breaker::Cause;
use super::id::SessionId;
use super::labels::Labels;
use super::observation::Problem;
use super::resource::{Progress, Resource, ResourceKey, ResourceState};
use super::time::Timestamp;

/// Something that happened to a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Event {
    #[serde(skip)]
    pub time: Timestamp,
    pub session_id: SessionId,
    /// Counts from 1 without gaps, across all lives of the session.
    pub session_sequence: u64,
    pub labels: Labels,
    #[serde(flatten)]
    #[schemars(skip)]
    pub detail: Detail,
    pub progress: Progress,
    /// When polling stops: the API's deadline, or the assumed one until there is an answer.
    pub expires_at: Timestamp,
}

/// Something that happened to the API as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ApiEvent {
    #[serde(skip)]
    pub time: Timestamp,
    pub cause: Cause,
    #[serde(flatten)]
    #[schemars(skip)]
    pub detail: ApiDetail,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ApiDetail {
    /// The API as a whole can't be used; polls pause but for probes.
    Unavailable { error: Problem },
    /// A probe succeeded, and polls go on.
    Available { unavailable_since: Timestamp },
}

impl ApiEvent {
    #[must_use]
    pub const fn kind(&self) -> EventKind {
        match self.detail {
            ApiDetail::Unavailable { .. } => EventKind::ApiUnavailable,
            ApiDetail::Available { .. } => EventKind::ApiAvailable,
        }
    }

    /// The CloudEvents `id` of the API's `n`th event.
    #[must_use]
    pub fn id(n: u64) -> String {
        format!("api/{n}")
    }

    /// Gives the event, the API's `n`th, its place in the log.
    ///
    /// # Errors
    /// None in practice: `data` has only string keys and finite numbers.
    pub fn record(&self, n: u64, sequence: u64, source: &str) -> Result<Record, serde_json::Error> {
        Ok(Record {
            sequence,
            id: Self::id(n),
            source: source.to_owned(),
            kind: self.kind().as_str().to_owned(),
            subject: None,
            time: self.time,
            data: serde_json::value::to_raw_value(self)?,
        })
    }
}

/// What an event says beyond the part common to all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Detail {
    /// The session enters the registry.
    Tracked {},
    /// The first good answer: the baseline.
    Observed {
        /// What was not REQUIRED any more by then is told by this event alone.
        resources: Vec<Resource>,
    },
    /// A resource's state differs from the last good answer.
    StateChanged {
        resource: ResourceKey,
        from: ResourceState,
        to: ResourceState,
        /// Whether it was REQUIRED and is not any more.
        left_required: bool,
        /// When the last good answer without the change was asked for.
        changed_after: Timestamp,
        /// When the answer with the change arrived.
        changed_before: Timestamp,
    },
    /// A resource is listed that was not.
    Added {
        resource: ResourceKey,
        state: ResourceState,
        /// When the last good answer without it was asked for.
        changed_after: Timestamp,
        /// When the answer with it arrived.
        changed_before: Timestamp,
    },
    /// A resource is listed no longer, which is not completion.
    Removed {
        resource: ResourceKey,
        last_state: ResourceState,
        /// When the last good answer with it was asked for.
        changed_after: Timestamp,
        /// When the answer without it arrived.
        changed_before: Timestamp,
    },
    /// The last REQUIRED resource left REQUIRED; again, if one came back.
    NothingRequired {},
    /// The API says that the session is COMPLETED.
    Completed {},
    /// `poll.expiring_before` is reached with something still REQUIRED.
    Expiring {
        /// What is still REQUIRED.
        required: Vec<ResourceKey>,
    },
    /// The end; exactly one for each time the session is tracked.
    Ended {
        reason: EndReason,
        /// What was not COMPLETE.
        unresolved: Vec<Resource>,
    },
    /// `poll.failing_after` polls of the session failed in a row.
    PollFailing {
        /// The last failure.
        error: Problem,
        /// When the first of these failed.
        failing_since: Timestamp,
    },
    /// The first success after that.
    PollRecovered {
        /// The last failure before it.
        error: Problem,
        failing_since: Timestamp,
    },
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    Expired,
    Completed,
    /// The API knows no such session: deleted, or the id was wrong. The two look alike.
    NotFound,
    /// No session file names it any more.
    Untracked,
}

impl EndReason {
    /// In the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Expired, Self::Completed, Self::NotFound, Self::Untracked];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Completed => "completed",
            Self::NotFound => "not_found",
            Self::Untracked => "untracked",
        }
    }
}

/// The type of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    SessionTracked,
    SessionObserved,
    ResourceStateChanged,
    ResourceAdded,
    ResourceRemoved,
    SessionNothingRequired,
    SessionCompleted,
    SessionExpiring,
    SessionEnded,
    SessionPollFailing,
    SessionPollRecovered,
    ApiUnavailable,
    ApiAvailable,
}

impl EventKind {
    pub const ALL: [Self; 13] = [
        Self::SessionTracked,
        Self::SessionObserved,
        Self::ResourceStateChanged,
        Self::ResourceAdded,
        Self::ResourceRemoved,
        Self::SessionNothingRequired,
        Self::SessionCompleted,
        Self::SessionExpiring,
        Self::SessionEnded,
        Self::SessionPollFailing,
        Self::SessionPollRecovered,
        Self::ApiUnavailable,
        Self::ApiAvailable,
    ];

    /// The CloudEvents `type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SessionTracked => "ibvwatch.session.tracked",
            Self::SessionObserved => "ibvwatch.session.observed",
            Self::ResourceStateChanged => "ibvwatch.resource.state_changed",
            Self::ResourceAdded => "ibvwatch.resource.added",
            Self::ResourceRemoved => "ibvwatch.resource.removed",
            Self::SessionNothingRequired => "ibvwatch.session.nothing_required",
            Self::SessionCompleted => "ibvwatch.session.completed",
            Self::SessionExpiring => "ibvwatch.session.expiring",
            Self::SessionEnded => "ibvwatch.session.ended",
            Self::SessionPollFailing => "ibvwatch.session.poll_failing",
            Self::SessionPollRecovered => "ibvwatch.session.poll_recovered",
            Self::ApiUnavailable => "ibvwatch.api.unavailable",
            Self::ApiAvailable => "ibvwatch.api.available",
        }
    }

    /// The `type` without the leading `ibvwatch.`.
    #[must_use]
    pub fn short_name(self) -> &'static str {
        self.as_str().trim_start_matches("ibvwatch.")
    }

    /// The kind of that CloudEvents `type`, with or without the leading `ibvwatch.`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let full = |kind: &Self| kind.as_str() == text;
        let short = |kind: &Self| kind.short_name() == text;
        Self::ALL.into_iter().find(|kind| full(kind) || short(kind))
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Event {
    #[must_use]
    pub const fn kind(&self) -> EventKind {
        match self.detail {
            Detail::Tracked {} => EventKind::SessionTracked,
            Detail::Observed { .. } => EventKind::SessionObserved,
            Detail::StateChanged { .. } => EventKind::ResourceStateChanged,
            Detail::Added { .. } => EventKind::ResourceAdded,
            Detail::Removed { .. } => EventKind::ResourceRemoved,
            Detail::NothingRequired {} => EventKind::SessionNothingRequired,
            Detail::Completed {} => EventKind::SessionCompleted,
            Detail::Expiring { .. } => EventKind::SessionExpiring,
            Detail::Ended { .. } => EventKind::SessionEnded,
            Detail::PollFailing { .. } => EventKind::SessionPollFailing,
            Detail::PollRecovered { .. } => EventKind::SessionPollRecovered,
        }
    }

    /// The CloudEvents `id`: equal for every delivery of this event.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.session_id, self.session_sequence)
    }

    /// Gives the event its place in the log.
    ///
    /// # Errors
    /// None in practice: `data` has only string keys and finite numbers.
    pub fn record(&self, sequence: u64, source: &str) -> Result<Record, serde_json::Error> {
        Ok(Record {
            sequence,
            id: self.id(),
            source: source.to_owned(),
            kind: self.kind().as_str().to_owned(),
            subject: Some(self.session_id),
            time: self.time,
            data: serde_json::value::to_raw_value(self)?,
        })
    }
}

/// An event in the log. Serializes to the CloudEvents JSON that every sink writes.
#[derive(Debug, Clone, Deserialize)]
pub struct Record {
    /// Position in the event log; grows, and is never given twice.
    #[serde(deserialize_with = "digits")]
    pub sequence: u64,
    pub id: String,
    pub source: String,
    /// The CloudEvents `type`: text, since an older version's log may hold kinds that are gone.
    #[serde(rename = "type")]
    pub kind: String,
    pub subject: Option<SessionId>,
    pub time: Timestamp,
    pub data: Box<RawValue>,
}

impl Record {
    /// The event's number among those of its session, or of the API; none if its id is of neither.
    #[must_use]
    pub fn ordinal(&self) -> Option<u64> {
        let (whose, ordinal) = self.id.rsplit_once('/')?;
        let right = match self.subject {
            Some(session) => session.to_string() == whose,
            None => whose == "api",
        };
        ordinal.parse().ok().filter(|_| right)
    }

    /// The event as one line of NDJSON, with its line feed.
    ///
    /// # Errors
    /// None in practice: there are only string keys.
    pub fn to_line(&self) -> Result<String, serde_json::Error> {
        let mut line = serde_json::to_string(self)?;
        line.push('\n');
        Ok(line)
    }
}

/// A sequence as it is written.
fn digits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = 8 + usize::from(self.subject.is_some());
        let mut object = serializer.serialize_struct("Event", fields)?;
        object.serialize_field("specversion", "1.0")?;
        object.serialize_field("id", &self.id)?;
        object.serialize_field("source", &self.source)?;
        object.serialize_field("type", &self.kind)?;
        match &self.subject {
            Some(subject) => object.serialize_field("subject", subject)?,
            None => object.skip_field("subject")?,
        }
        object.serialize_field("time", &self.time)?;
        object.serialize_field("datacontenttype", "application/json")?;
        object.serialize_field("sequence", &format_args!("{:020}", self.sequence))?;
        object.serialize_field("data", &self.data)?;
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_the_one_in_the_contract() {
        let event = Event {
            time: "2026-11-23T10:15:30.123Z".parse().unwrap(),
            session_id: "3fa85f64-5717-4562-b3fc-2c963f66afa6".parse().unwrap(),
            session_sequence: 3,
            labels: Labels::new([("case".to_owned(), "A-17".to_owned())].into()).unwrap(),
            detail: Detail::StateChanged {
                resource: ResourceKey {
                    kind: "ID_DOCUMENT".into(),
                    id: "d430440c-5c6d-402c-9855-3aebc8145a94".into(),
                    ordinal: 0,
                },
                from: ResourceState::Required,
                to: ResourceState::InProgress,
                left_required: true,
                changed_after: "2026-11-23T10:14:58.900Z".parse().unwrap(),
                changed_before: "2026-11-23T10:15:30.101Z".parse().unwrap(),
            },
            progress: Progress { total: 3, required: 2, in_progress: 1, complete: 0, other: 0 },
            expires_at: "2026-12-07T22:00:00Z".parse().unwrap(),
        };
        let line = event.record(42, "ibvwatch").unwrap().to_line().unwrap();
        let expected = concat!(
            r#"{"specversion":"1.0","id":"3fa85f64-5717-4562-b3fc-2c963f66afa6/3","source":"ibvwatch","#,
            r#""type":"ibvwatch.resource.state_changed","subject":"3fa85f64-5717-4562-b3fc-2c963f66afa6","#,
            r#""time":"2026-11-23T10:15:30.123Z","datacontenttype":"application/json","sequence":"00000000000000000042","#,
            r#""data":{"session_id":"3fa85f64-5717-4562-b3fc-2c963f66afa6","session_sequence":3,"labels":{"case":"A-17"},"#,
            r#""resource":{"type":"ID_DOCUMENT","id":"d430440c-5c6d-402c-9855-3aebc8145a94","ordinal":0},"#,
            r#""from":"REQUIRED","to":"IN_PROGRESS","left_required":true,"#,
            r#""changed_after":"2026-11-23T10:14:58.900Z","changed_before":"2026-11-23T10:15:30.101Z","#,
            r#""progress":{"total":3,"required":2,"in_progress":1,"complete":0,"other":0},"#,
            r#""expires_at":"2026-12-07T22:00:00Z"}}"#,
            "\n"
        );
        assert_eq!(line, expected);
        let read: Record = serde_json::from_str(&line).unwrap();
        assert_eq!(read.to_line().unwrap(), expected);
    }

    #[test]
    fn an_event_of_the_api_goes_by_a_number_and_is_about_no_session() {
        let event = ApiEvent {
            time: "2026-11-23T10:15:30.123Z".parse().unwrap(),
            cause: Cause::Unreachable,
            detail: ApiDetail::Available {
                unavailable_since: "2026-11-23T10:14:58.900Z".parse().unwrap(),
            },
        };
        let expected = concat!(
            r#"{"specversion":"1.0","id":"api/7","source":"ibvwatch","type":"ibvwatch.api.available","#,
            r#""time":"2026-11-23T10:15:30.123Z","datacontenttype":"application/json","#,
            r#""sequence":"00000000000000000042","#,
            r#""data":{"cause":"unreachable","unavailable_since":"2026-11-23T10:14:58.900Z"}}"#,
            "\n"
        );
        assert_eq!(event.record(7, 42, "ibvwatch").unwrap().to_line().unwrap(), expected);
    }

    #[test]
    fn an_id_counts_the_events_of_its_subject_alone() {
        const SESSION: &str = "3fa85f64-5717-4562-b3fc-2c963f66afa6";
        let ordinal = |id: &str, subject: Option<&str>| {
            let subject = subject.map(|subject| subject.parse().unwrap());
            let time = "2026-11-23T10:15:30.123Z".parse().unwrap();
            let data = serde_json::value::to_raw_value(&()).unwrap();
            let (id, source, kind) = (id.to_owned(), String::new(), String::new());
            Record { sequence: 42, id, source, kind, subject, time, data }.ordinal()
        };
        assert_eq!(ordinal(&format!("{SESSION}/3"), Some(SESSION)), Some(3));
        assert_eq!(ordinal("api/7", None), Some(7));
        assert_eq!(ordinal("api/7", Some(SESSION)), None);
        assert_eq!(ordinal(&format!("{SESSION}/3"), None), None);
        assert_eq!(ordinal("api/seven", None), None);
        assert_eq!(ordinal("api", None), None);
    }

    #[test]
    fn a_reason_is_shown_in_the_word_that_events_have_for_it() {
        for reason in EndReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    #[test]
    fn every_kind_is_found_by_its_long_and_its_short_name() {
        for kind in EventKind::ALL {
            assert_eq!(kind.to_string(), kind.as_str());
            assert_eq!(EventKind::parse(kind.as_str()), Some(kind));
            assert_eq!(EventKind::parse(&kind.as_str()["ibvwatch.".len()..]), Some(kind));
        }
        assert_eq!(EventKind::parse("session"), None);
    }
}
