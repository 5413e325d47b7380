//! The store, with somebody who looks on: what is leased, given back, decided and refused.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::sink::SINKS;
use super::world::World;
use crate::domain::{
    ApiEvent, Cause, Census, Entry, Record, Session, SessionId, Timestamp, Transition,
};
use crate::store::simulated::SimulatedStore;
use crate::store::{
    EventPage, EventQuery, Gauges, Lease, SessionPage, SessionQuery, Store, StoreError,
    WriteFailure,
};

pub(super) struct Watched {
    pub(super) store: SimulatedStore<World>,
    pub(super) world: Arc<World>,
}

impl Gauges for Watched {
    fn census(&self) -> Census {
        self.store.census()
    }

    fn undelivered(&self, sink: &str) -> u64 {
        self.store.undelivered(sink)
    }

    fn write_failure(&self) -> Option<WriteFailure> {
        self.store.write_failure()
    }

    fn size(&self) -> Option<u64> {
        self.store.size()
    }
}

impl Store for Watched {
    async fn track(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.store.track(entries).await
    }

    async fn untrack(&self, ids: Vec<SessionId>) -> Result<(), StoreError> {
        self.store.untrack(ids).await
    }

    async fn next_due(&self) -> Result<Lease, StoreError> {
        let lease = self.store.next_due().await?;
        self.world.leased(&lease);
        Ok(lease)
    }

    async fn keep_time(&self) -> Result<Infallible, StoreError> {
        self.store.keep_time().await
    }

    fn spread_overdue(&self) {
        self.world.spread();
        self.store.spread_overdue();
    }

    fn live(&self) -> usize {
        self.store.live()
    }

    async fn announce(&self, event: ApiEvent) -> Result<(), StoreError> {
        self.world.announced(&event);
        self.store.announce(event).await
    }

    fn unavailable(&self) -> Option<(Cause, Timestamp)> {
        self.store.unavailable()
    }

    async fn commit(&self, lease: Lease, transition: Transition) -> Result<(), StoreError> {
        let id = lease.session.id();
        self.world.committing(id, &transition);
        let committed = self.store.commit(lease, transition).await;
        self.world.committed(id, committed.as_ref());
        committed
    }

    fn release(&self, lease: Lease) {
        self.world.released(lease.session.id());
        self.store.release(lease);
    }

    async fn read_events(&self, sink: &str, limit: usize) -> Result<Vec<Record>, StoreError> {
        let events = self.store.read_events(sink, limit).await;
        // Those who wait for the same watch are woken in an order that no seed decides.
        if sink != SINKS[0] {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        events
    }

    async fn ack_events(&self, sink: &str, up_to: u64) -> Result<(), StoreError> {
        self.store.ack_events(sink, up_to).await
    }

    fn listed(&self) -> Vec<SessionId> {
        self.store.listed()
    }

    async fn sessions(&self) -> Result<Vec<Session>, StoreError> {
        self.store.sessions().await
    }

    async fn session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        self.store.session(id).await
    }

    async fn find_sessions(&self, query: &SessionQuery) -> Result<SessionPage, StoreError> {
        self.store.find_sessions(query).await
    }

    async fn find_events(&self, query: EventQuery) -> Result<EventPage, StoreError> {
        self.store.find_events(query).await
    }

    fn recorded(&self) -> watch::Receiver<u64> {
        self.store.recorded()
    }

    async fn checkpoint(&self) -> Result<(), StoreError> {
        self.store.checkpoint().await
    }

    async fn purge(&self, retention: Duration, sinks: &[&str]) -> Result<(), StoreError> {
        self.store.purge(retention, sinks).await
    }
}
