//! The event log as it is read: in both directions, and up to where it is to be purged.

use async_nats::jetstream::stream::Purge;

use super::link::{Found, Link, PAGE};
use super::wire::EventBody;
use crate::domain::{Record, SessionId, Timestamp};
use crate::store::{EventFilter, EventPage, EventQuery, Position};

/// Events that one search looks through at most; the page says where the next one goes on.
const LOOKED_THROUGH: usize = 10_000;

pub(super) fn record(found: &Found) -> Result<Record, String> {
    let body: EventBody = serde_json::from_slice(&found.body)
        .map_err(|error| format!("{} is no event: {error}", found.subject))?;
    Ok(body.at(found.sequence))
}

impl Link {
    fn subject_of(&self, session: Option<SessionId>) -> String {
        session.map_or_else(|| self.subjects.events(), |id| self.subjects.events_of(id))
    }

    /// Events behind that sequence, in order, at most `limit`.
    pub(super) async fn events(
        &self,
        after: u64,
        limit: usize,
        filter: EventFilter,
    ) -> Result<Vec<Record>, String> {
        let mut events = Vec::new();
        let mut after = after;
        while events.len() < limit {
            let most = if filter.kind.is_some() { PAGE } else { (limit - events.len()).min(PAGE) };
            let subject = self.subject_of(filter.session);
            let page = self.page(&subject, after.saturating_add(1), most).await?;
            let Some(last) = page.last() else { break };
            after = last.sequence;
            for found in &page {
                let event = record(found)?;
                if filter.passes(&event) && events.len() < limit {
                    events.push(event);
                }
            }
        }
        Ok(events)
    }

    pub(super) async fn find(&self, query: EventQuery) -> Result<EventPage, String> {
        match query.from {
            Position::After(after) => self.find_after(after, query).await,
            Position::Before(before) => self.find_before(before, query).await,
        }
    }

    async fn find_after(&self, after: u64, query: EventQuery) -> Result<EventPage, String> {
        let EventQuery { limit, filter, .. } = query;
        let subject = self.subject_of(filter.session);
        let (mut after, mut looked_through) = (after, 0);
        let mut found = Vec::new();
        while found.len() <= limit {
            if looked_through >= LOOKED_THROUGH {
                return Ok(EventPage { events: found, next: Some(after) });
            }
            let page = self.page(&subject, after.saturating_add(1), PAGE).await?;
            let Some(last) = page.last() else { break };
            (after, looked_through) = (last.sequence, looked_through + page.len());
            for event in &page {
                let event = record(event)?;
                if filter.passes(&event) {
                    found.push(event);
                }
            }
        }
        Ok(EventPage::cut(found, limit))
    }

    /// The server reads forwards only: windows before the position are read, each twice as wide as
    /// the one behind it, since other messages stand between events.
    async fn find_before(&self, before: u64, query: EventQuery) -> Result<EventPage, String> {
        let EventQuery { limit, filter, .. } = query;
        let subject = self.subject_of(filter.session);
        let first = self.page(&subject, 1, 1).await?.first().map(|event| event.sequence);
        let Some(first) = first.filter(|&first| first < before) else {
            return Ok(EventPage::default());
        };
        let last = self.last(&subject).await?.map_or(first, |event| event.sequence);
        let mut end = before.min(last.saturating_add(1));
        let mut width = (limit as u64).saturating_mul(4).max(64);
        let (mut found, mut looked_through) = (Vec::new(), 0);
        while found.len() <= limit && end > first {
            if looked_through >= LOOKED_THROUGH {
                return Ok(EventPage { events: found, next: Some(end) });
            }
            let start = end.saturating_sub(width).max(first);
            let mut window = Vec::new();
            let mut from = start;
            'window: loop {
                let page = self.page(&subject, from, PAGE).await?;
                let Some(last) = page.last() else { break };
                from = last.sequence + 1;
                for event in page {
                    if event.sequence >= end {
                        break 'window;
                    }
                    window.push(event);
                }
            }
            looked_through += window.len();
            for event in window.iter().rev() {
                let event = record(event)?;
                if filter.passes(&event) {
                    found.push(event);
                }
            }
            // Each window is read in pages, so a wide one that is full takes long.
            width = if window.len() >= LOOKED_THROUGH / 2 { width } else { width * 2 };
            end = start;
        }
        Ok(EventPage::cut(found, limit))
    }

    /// Drops the events up to and with that sequence that happened before; those of about the same
    /// time as the first that didn't stay until the next purge.
    pub(super) async fn purge_events(&self, before: Timestamp, up_to: u64) -> Result<(), String> {
        let events = self.subjects.events();
        let Some(first) = self.page(&events, 1, 1).await?.into_iter().next() else {
            return Ok(());
        };
        if record(&first)?.time >= before {
            return Ok(());
        }
        let last = self.last(&events).await?.map_or(first.sequence, |event| event.sequence);
        // The event at `old` is old enough, and the first one from `young` on is not, or there is
        // none.
        let (mut old, mut young) = (first.sequence, last + 1);
        while young - old > 1 {
            let middle = old + (young - old) / 2;
            match self.page(&events, middle, 1).await?.first() {
                Some(event) if record(event)?.time < before => old = event.sequence.max(middle),
                Some(_) | None => young = middle,
            }
        }
        let up_to = up_to.min(old);
        let purge: Purge<_, _> = self.stream.purge();
        let purged = purge.filter(events).sequence(up_to.saturating_add(1)).await;
        purged.map(|_| ()).map_err(|error| format!("stream {}: purging events: {error}", self.name))
    }
}
