//! The store that ends with its process: for tests, and the measure of the others.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::journal::{self, Decision, Journal, Receipt, Write, fingerprint};
use super::ledger::{Kept, Ledger};
use super::{Context, EventPage, EventQuery, StoreError, WriteFailure};
use crate::domain::{ApiEvent, Record, SessionId};
use crate::metrics::Writes;

/// Keeps everything in memory; durable as long as it lives.
pub type MemoryStore = Ledger<MemoryJournal>;

impl MemoryStore {
    #[must_use]
    pub fn new(context: &Context) -> Self {
        let journal = MemoryJournal {
            log: Mutex::default(),
            committed: watch::Sender::new(0),
            source: context.source.clone(),
            metrics: context.metrics.clone(),
        };
        Self::resume(context, Kept::nothing(context), journal)
    }
}

#[derive(Debug)]
pub struct MemoryJournal {
    log: Mutex<Log>,
    committed: watch::Sender<u64>,
    source: String,
    metrics: Writes,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) events: BTreeMap<u64, Record>,
    pub(super) last: u64,
    /// How many of the events are the API's.
    announced: u64,
    forgotten: HashMap<[u8; 32], u64>,
}

impl MemoryJournal {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal for MemoryJournal {
    type Place = ();

    async fn place(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn write(&self, (): (), write: Write) -> Receipt {
        let mut log = self.log();
        let events = write.events();
        let answer = log.apply(&write, &self.source);
        if answer.is_ok() {
            for kind in events {
                self.metrics.event(kind);
            }
        }
        self.committed.send_if_modified(|committed| {
            let grown = log.last > *committed;
            *committed = log.last;
            grown
        });
        Receipt::ready(answer)
    }

    fn committed(&self) -> watch::Receiver<u64> {
        self.committed.subscribe()
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        Ok(self.log().behind(after, limit))
    }

    fn write_failure(&self) -> Option<WriteFailure> {
        None
    }

    fn size(&self) -> Option<u64> {
        None
    }

    async fn find(&self, query: EventQuery) -> Result<EventPage, StoreError> {
        Ok(query.answer(&self.log().events))
    }

    async fn forgotten(&self, ids: Vec<SessionId>) -> Result<HashMap<SessionId, u64>, StoreError> {
        Ok(self.log().forgotten(ids))
    }
}

impl Log {
    pub(super) fn apply(&mut self, write: &Write, source: &str) -> journal::Answer {
        match write {
            Write::Decisions(decisions) => self.append(decisions, source).map(|()| 0),
            Write::Announce(event) => self.announce(event, source).map(|()| 0),
            // The ledger keeps the cursors, which need no better memory than that here.
            Write::Cursor { .. } => Ok(0),
            Write::Forget(sessions) => {
                let last = sessions.iter().map(|s| (fingerprint(s.id()), s.sequence()));
                self.forgotten.extend(last);
                Ok(0)
            }
            Write::Purge { before, up_to } => {
                let delivered = self.events.range(..=*up_to);
                let old = delivered.filter(|(_, record)| record.time < *before);
                let old: Vec<u64> = old.map(|(&sequence, _)| sequence).collect();
                for sequence in old {
                    self.events.remove(&sequence);
                }
                Ok(0)
            }
        }
    }

    pub(super) fn behind(&self, after: u64, limit: usize) -> Vec<Record> {
        let behind = self.events.range(after.saturating_add(1)..);
        behind.take(limit).map(|(_, record)| record.clone()).collect()
    }

    pub(super) fn forgotten(&self, ids: Vec<SessionId>) -> HashMap<SessionId, u64> {
        let last = |id| self.forgotten.get(&fingerprint(id)).map(|&last| (id, last));
        ids.into_iter().filter_map(last).collect()
    }

    fn announce(&mut self, event: &ApiEvent, source: &str) -> Result<(), StoreError> {
        let record = event
            .record(self.announced + 1, self.last + 1, source)
            .map_err(|error| StoreError::Failed(format!("an event of the API: {error}")))?;
        self.announced += 1;
        self.last += 1;
        self.events.insert(self.last, record);
        Ok(())
    }

    fn append(&mut self, decisions: &[Decision], source: &str) -> Result<(), StoreError> {
        for event in decisions.iter().flat_map(|decision| &decision.events) {
            let record = event
                .record(self.last + 1, source)
                .map_err(|error| StoreError::Failed(format!("event {}: {error}", event.id())))?;
            self.last += 1;
            self.events.insert(self.last, record);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::clock::{Clock, TokioClock};
    use crate::domain::{Exchange, Observation, Policy, Snapshot, Timestamp};
    use crate::store::Store;
    use crate::store::conformance::{entry, id};

    /// A reload may come before the keeper of time has begun.
    #[tokio::test(start_paused = true)]
    async fn a_policy_that_came_before_time_is_kept_is_taken_up() {
        let hour = Duration::from_secs(3_600);
        let policy = Policy { interval: hour, ..Policy::default() };
        let clock = Arc::new(TokioClock::starting_at(Timestamp::from_millis(0)));
        let policy = watch::Sender::new(Arc::new(policy));
        let store = Arc::new(MemoryStore::new(&Context {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            policy: policy.subscribe(),
            seed: 1,
            source: "ibvwatch".to_owned(),
            metrics: Writes::default(),
        }));
        store.track(vec![entry(1)]).await.unwrap();
        let lease = store.next_due().await.unwrap();
        let now = clock.now().wall;
        let transition = lease.session.observe(
            Observation::Configuration(Snapshot { ttl: None, listing: Vec::new().into() }),
            None,
            Exchange { sent: now, arrived: now, outage: false },
            &policy.borrow().clone(),
            &mut StdRng::seed_from_u64(1),
        );
        store.commit(lease, transition).await.unwrap();
        policy.send_replace(Arc::new(Policy::default()));
        let time = tokio::spawn({
            let store = Arc::clone(&store);
            async move { store.keep_time().await }
        });
        store.next_due().await.unwrap();
        assert!(clock.now().wall.since(now) <= hour / 10, "{}", clock.now().wall);
        time.abort();
    }

    /// What other tests rest on: no thread and no disk stands between it and its clock.
    #[tokio::test(start_paused = true)]
    async fn a_day_of_polls_passes_by_a_paused_clock_alone() {
        let policy = Policy { jitter: 0.0, ..Policy::default() };
        let clock = Arc::new(TokioClock::starting_at(Timestamp::from_millis(0)));
        let context = Context {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            policy: watch::Sender::new(Arc::new(policy.clone())).subscribe(),
            seed: 1,
            source: "ibvwatch".to_owned(),
            metrics: Writes::default(),
        };
        let store = MemoryStore::new(&context);
        store.track(vec![entry(1)]).await.unwrap();
        let rng = &mut StdRng::seed_from_u64(1);
        for n in 0..288 {
            let lease = store.next_due().await.unwrap();
            let now = clock.now().wall;
            assert_eq!((lease.session.id(), now), (id(1), Timestamp::from_millis(n * 300_000)));
            let quiet =
                Observation::Configuration(Snapshot { ttl: None, listing: Vec::new().into() });
            let transition = lease.session.observe(
                quiet,
                None,
                Exchange { sent: now, arrived: now, outage: false },
                &policy,
                rng,
            );
            store.commit(lease, transition).await.unwrap();
        }
    }
}
