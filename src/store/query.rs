//! What somebody who looks may ask of a store.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::{EventKind, PhaseName, Record, Session, SessionId, Timestamp};

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
    /// Answers the query from sessions that `behind` shows in portions, in order of id.
    pub(super) async fn answer<F>(&self, now: Timestamp, behind: F) -> SessionPage
    where
        F: Fn(Option<SessionId>, usize) -> Vec<Arc<Session>> + Send,
    {
        let most = self.limit.saturating_add(1);
        let portion = if self.filter.is_empty() { most.min(PORTION) } else { PORTION };
        let mut page = SessionPage::default();
        let mut after = self.after;
        loop {
            let sessions = behind(after, portion);
            after = sessions.last().map(|session| session.id());
            let is_last = sessions.len() < portion;
            for session in sessions {
                if !self.filter.passes(&session, now) {
                    continue;
                }
                if page.sessions.len() == self.limit {
                    page.next = page.sessions.last().map(|session| session.id());
                    return page;
                }
                page.sessions.push(session);
            }
            if is_last {
                return page;
            }
            tokio::task::yield_now().await;
        }
    }
}

impl SessionFilter {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    #[must_use]
    pub fn passes(&self, session: &Session, now: Timestamp) -> bool {
        let labels = &session.entry().labels;
        self.phase.is_none_or(|phase| session.phase(now).name() == phase)
            && self.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
            && self.text.as_deref().is_none_or(|text| {
                let text = text.to_lowercase();
                session.id().to_string().starts_with(&text)
                    || labels.iter().any(|(_, value)| value.to_lowercase().contains(&text))
            })
    }
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
