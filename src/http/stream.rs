//! Events as they come, as server-sent events.
//!
//! A reader is given the next events only when it has taken those before, so one that is slow is
//! buffered no more than a connection is, until the server cuts it off.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use http::HeaderMap;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::Site;
use super::parameters::BadParameter;
use crate::domain::Record;
use crate::store::{EventFilter, EventQuery, Position, Store, StoreError};

pub(super) const CONTENT_TYPE: &str = "text/event-stream";
/// Proxies close connections that are silent, most of them after a minute.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// When a client that has lost its connection is to come again.
const RETRY: Duration = Duration::from_secs(2);
/// Events read at once.
const PAGE: usize = 100;

/// Where a client that comes again has been.
pub(super) fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, BadParameter> {
    const NAME: &str = "Last-Event-ID";
    let Some(value) = headers.get(NAME) else { return Ok(None) };
    let sequence = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    let wrong = || BadParameter::new(NAME, "is no sequence; send the id of an event, like 42");
    sequence.map(Some).ok_or_else(wrong)
}

/// All events behind `after` that pass the filter, and then each new one; `None` where there
/// are too many readers already.
pub(super) fn follow<S: Store>(
    site: &Arc<Site<S>>,
    after: u64,
    filter: EventFilter,
) -> Option<Response> {
    let place = Arc::clone(&site.streams).try_acquire_owned().ok()?;
    let follower = Follower {
        recorded: site.store.recorded(),
        site: Arc::clone(site),
        after,
        filter,
        read: VecDeque::new(),
        _place: place,
    };
    let keep_alive = KeepAlive::new().interval(HEARTBEAT);
    Some(Sse::new(follower.stream()).keep_alive(keep_alive).into_response())
}

struct Follower<S> {
    site: Arc<Site<S>>,
    recorded: watch::Receiver<u64>,
    after: u64,
    filter: EventFilter,
    read: VecDeque<Record>,
    _place: OwnedSemaphorePermit,
}

impl<S: Store> Follower<S> {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        let hello = Event::default().comment("events follow").retry(RETRY);
        stream::unfold((Some(hello), self), |(hello, mut follower)| async move {
            if let Some(hello) = hello {
                return Some((Ok(hello), (None, follower)));
            }
            let event = follower.next().await?;
            Some((Ok(event), (None, follower)))
        })
    }

    /// The next event; none once the server stops or the store has failed, which the client takes
    /// for a broken connection.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(record) = self.read.pop_front() {
                return event(&record);
            }
            let last = *self.recorded.borrow_and_update();
            if last > self.after {
                self.read_on(last).await.ok()?;
                continue;
            }
            tokio::select! {
                () = self.site.stop.cancelled() => return None,
                changed = self.recorded.changed() => changed.ok()?,
            }
        }
    }

    async fn read_on(&mut self, last: u64) -> Result<(), StoreError> {
        let from = Position::After(self.after);
        let query = EventQuery { from, limit: PAGE, filter: self.filter };
        let page = self.site.store.find_events(query).await?;
        let seen = page.events.last().map_or(last, |event| last.max(event.sequence));
        self.after = page.next.unwrap_or(seen);
        self.read = page.events.into();
        Ok(())
    }
}

/// Without an event name, so that one handler in a browser sees every type: it stands in the data.
fn event(record: &Record) -> Option<Event> {
    let line = record.to_line().ok()?;
    let id = format!("{:020}", record.sequence);
    Some(Event::default().id(id).data(line.trim_end()))
}
