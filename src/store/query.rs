//! What somebody who looks may ask of a store.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::{EventKind, Packed, PhaseName, Record, Session, SessionId, Timestamp};

/// Which sessions to find, in order of id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionQuery {
    /// Those behind this one; from the first without it.
    pub after: Option<SessionId>,
    pub limit: usize,
    pub filter: SessionFilter,
}

/// Lets a session pass that all of it holds for; an empty one lets all pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionFilter {
    pub phase: Option<PhaseName>,
    /// Labels with exactly these values.
    pub labels: Vec<(String, String)>,
    /// The beginning of the id, or a part of a label's value; in lower or upper case alike.
    pub text: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub struct SessionPage {
    pub sessions: Vec<Arc<Session>>,
    /// Behind which one the next page begins, if there is one.
    pub next: Option<SessionId>,
}

/// Sessions looked through under one lock for somebody who looks: less than a poll notices.
const PORTION: usize = 1_000;

impl SessionQuery {
    /// Answers the query by what `search` finds in portions, in order of id: among so many
    /// sessions behind one, those that pass the filter, and the last of them all, unless there are
    /// none behind it.
    pub(super) async fn answer<F>(&self, search: F) -> SessionPage
    where
        F: Fn(Option<SessionId>, usize) -> (Vec<Arc<Session>>, Option<SessionId>) + Send,
    {
        let most = self.limit.saturating_add(1);
        let portion = if self.filter.is_empty() { most.min(PORTION) } else { PORTION };
        let mut page = SessionPage::default();
        let mut after = self.after;
        loop {
            let (found, last) = search(after, portion);
            for session in found {
                if page.sessions.len() == self.limit {
                    page.next = page.sessions.last().map(|session| session.id());
                    return page;
                }
                page.sessions.push(session);
            }
            if last.is_none() {
                return page;
            }
            after = last;
            tokio::task::yield_now().await;
        }
    }
}

impl SessionFilter {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Made ready to be held against many sessions.
    pub(super) fn prepared(&self) -> Prepared<'_> {
        Prepared { filter: self, text: self.text.as_deref().map(str::to_lowercase) }
    }
}

/// A filter that does once what is the same for every session.
pub(super) struct Prepared<'a> {
    filter: &'a SessionFilter,
    /// In lower case.
    text: Option<String>,
}

impl Prepared<'_> {
    pub(super) fn passes(&self, id: SessionId, session: &Packed, now: Timestamp) -> bool {
        self.filter.phase.is_none_or(|phase| session.phase(now) == phase)
            && self.filter.labels.iter().all(|(name, value)| {
                session.labels().any(|(known, has)| known == name && has == value)
            })
            && self.text.as_deref().is_none_or(|text| {
                id.starts_with(text) || session.labels().any(|(_, value)| contains(value, text))
            })
    }
}

/// Whether a part of `value`, in lower or upper case alike, is `text`, which is in lower case.
fn contains(value: &str, text: &str) -> bool {
    if text.is_empty() || !value.is_ascii() {
        return value.to_lowercase().contains(text);
    }
    value.as_bytes().windows(text.len()).any(|part| part.eq_ignore_ascii_case(text.as_bytes()))
}

/// Which events; an empty filter lets all pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventFilter {
    pub session: Option<SessionId>,
    pub kind: Option<EventKind>,
}

/// Which events to find, and in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventQuery {
    pub from: Position,
    pub limit: usize,
    pub filter: EventFilter,
}

/// A place in the event log, and a direction from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Those behind that sequence, the oldest first.
    After(u64),
    /// Those before that sequence, the latest first.
    Before(u64),
}

#[derive(Debug, Clone, Default)]
pub struct EventPage {
    pub events: Vec<Record>,
    /// From which sequence the next page goes on in the same direction, if it may hold anything: a
    /// page can be short of its limit, or empty, and not be the last.
    pub next: Option<u64>,
}

impl EventFilter {
    #[must_use]
    pub fn passes(&self, event: &Record) -> bool {
        self.session.is_none_or(|session| event.subject == Some(session))
            && self.kind.is_none_or(|kind| event.kind == kind.as_str())
    }
}

impl EventQuery {
    /// Answers the query from a log that is in memory.
    pub(super) fn answer(&self, log: &BTreeMap<u64, Record>) -> EventPage {
        let passes = |event: &&Record| self.filter.passes(event);
        let most = self.limit.saturating_add(1);
        let found = match self.from {
            Position::After(after) => {
                let behind = log.range(after.saturating_add(1)..);
                behind.map(|(_, event)| event).filter(passes).take(most).cloned().collect()
            }
            Position::Before(before) => {
                let ahead = log.range(..before).rev();
                ahead.map(|(_, event)| event).filter(passes).take(most).cloned().collect()
            }
        };
        EventPage::cut(found, self.limit)
    }
}

impl EventPage {
    /// The page of what was found, which is one more than `limit` where there is a next page.
    pub(super) fn cut(mut found: Vec<Record>, limit: usize) -> Self {
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().map(|event| event.sequence).filter(|_| more);
        Self { events: found, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_value_is_found_in_lower_and_upper_case_alike() {
        for (value, text) in [
            ("Case A-17", "a-17"),
            ("A-17", "a-17"),
            ("Łódź", "łódź"),
            ("12 \u{212a}", "k"),
            ("a", ""),
            ("", ""),
        ] {
            assert!(contains(value, text), "{text:?} in {value:?}");
        }
        for (value, text) in [("A-17", "a-18"), ("A", "a-17"), ("Lodz", "łódź"), ("", "a")] {
            assert!(!contains(value, text), "{text:?} in {value:?}");
        }
    }
}
