//! A registry in memory and a journal behind it: what every store in this process is made of.
//!
//! Each decision takes a place in the journal, then is made and journaled under one lock, then
//! waits for the disk. A task that gives up at any of these points leaves nothing half done.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Notify, watch};

use super::journal::{Decision, Journal, Receipt, Write, ended};
use super::registry::Registry;
use super::{
    Context, EventPage, EventQuery, Gauges, Lease, SessionPage, SessionQuery, Store, StoreError,
    TOGETHER, WriteFailure,
};
use crate::clock::Clock;
use crate::domain::{
    ApiDetail, ApiEvent, Cause, Census, Entry, Policy, Record, Session, SessionId, Timestamp,
    Transition,
};
use crate::failpoint::Failpoint;

/// Sessions decided on under one lock and in one write. Large enough that a transaction costs
/// little a session, small enough that a poll which waits behind it hardly notices.
const BATCH: usize = 10_000;

/// The longest sleep: the wall clock may be stepped, and the machine suspended, in the middle
/// of any.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Who should have woken within [`LONGEST_SLEEP`] and did not for so long was not merely busy.
const ASLEEP_FROM: Duration = Duration::from_secs(10);

/// Polls that are worth a wake-up of their own: to wait for more would only make them late.
const MANY: usize = 16;

/// Sleeps until `next`, by a clock that says `now`, or as long as one may.
async fn sleep_until(next: Option<Timestamp>, now: Timestamp) {
    tokio::time::sleep(next.map_or(LONGEST_SLEEP, |at| at.since(now).min(LONGEST_SLEEP))).await;
}

/// See [`MemoryStore`](super::MemoryStore) and [`SqliteStore`](super::SqliteStore).
pub struct Ledger<J> {
    clock: Arc<dyn Clock>,
    policy: watch::Receiver<Arc<Policy>>,
    registry: Mutex<Registry>,
    /// Something may have become due sooner.
    changed: Notify,
    /// Held by who adds or removes sessions, so that what the journal says of a session
    /// that the registry doesn't know stays true until the registry knows it.
    membership: tokio::sync::Mutex<()>,
    /// As they are durable.
    cursors: Mutex<HashMap<String, u64>>,
    /// As it was announced last.
    unavailable: Mutex<Option<(Cause, Timestamp)>>,
    /// Taken before the registry where both are.
    rng: Mutex<StdRng>,
    journal: J,
}

/// What a journal holds beside events.
pub(super) struct Kept {
    registry: Registry,
    policy: Arc<Policy>,
    now: Timestamp,
    rng: StdRng,
    pub(super) cursors: HashMap<String, u64>,
    pub(super) unavailable: Option<(Cause, Timestamp)>,
}

impl Kept {
    pub(super) fn nothing(context: &Context) -> Self {
        Self {
            registry: Registry::default(),
            policy: Arc::clone(&context.policy.borrow()),
            now: context.clock.now().wall,
            rng: StdRng::seed_from_u64(context.seed),
            cursors: HashMap::new(),
            unavailable: None,
        }
    }

    /// Takes up one of the sessions where it was left.
    pub(super) fn take_up(&mut self, mut session: Session) {
        let poll_at = session.schedule().poll_at;
        session.resume(self.now, &self.policy, &mut self.rng);
        let unsaved = session.schedule().poll_at != poll_at;
        self.registry.insert(&session, unsaved, &self.policy);
    }
}

impl<J> fmt::Debug for Ledger<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

impl<J> Ledger<J> {
    /// Goes on from what the journal holds.
    pub(super) fn resume(context: &Context, kept: Kept, journal: J) -> Self {
        Self {
            clock: Arc::clone(&context.clock),
            policy: context.policy.clone(),
            registry: Mutex::new(kept.registry),
            changed: Notify::new(),
            membership: tokio::sync::Mutex::new(()),
            cursors: Mutex::new(kept.cursors),
            unavailable: Mutex::new(kept.unavailable),
            rng: Mutex::new(kept.rng),
            journal,
        }
    }

    #[cfg(test)]
    pub(super) fn journal(&self) -> &J {
        &self.journal
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        lock(&self.registry)
    }

    fn cursor(&self, sink: &str) -> u64 {
        lock(&self.cursors).get(sink).copied().unwrap_or(0)
    }

    fn now(&self) -> Timestamp {
        self.clock.now().wall
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.borrow())
    }
}

/// A decision is made before it is put in place, so whoever panicked left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<J: Journal> Ledger<J> {
    /// Decides and journals under one lock; no receipt where nothing came of it.
    async fn decide<F>(&self, decide: F) -> Result<Option<Receipt>, StoreError>
    where
        F: FnOnce(&mut Registry, Timestamp, &Policy) -> Vec<Decision> + Send,
    {
        let place = self.journal.place().await?;
        let policy = self.policy();
        let receipt = {
            let mut registry = self.registry();
            // Read under the lock, or a step of the clock could come in between.
            let now = self.now();
            let decisions = decide(&mut registry, now, &policy);
            (!decisions.is_empty()).then(|| self.journal.write(place, Write::Decisions(decisions)))
        };
        Failpoint::Journaled.reached();
        self.changed.notify_waiters();
        Ok(receipt)
    }

    async fn write(&self, write: Write) -> Result<u64, StoreError> {
        let place = self.journal.place().await?;
        self.journal.write(place, write).durable().await
    }

    /// Moves everything with the wall clock, in the instant in which the clock takes its step.
    async fn take_step(&self) -> Result<(), StoreError> {
        let policy = self.policy();
        {
            let mut registry = self.registry();
            let Some(step) = self.clock.take_step() else { return Ok(()) };
            tracing::warn!(
                seconds = step.as_seconds(),
                "the wall clock was set; due times move with it"
            );
            registry.step(step, self.now(), &policy);
        }
        self.changed.notify_waiters();
        self.checkpoint().await
    }

    fn repace(&self) {
        let (policy, mut rng) = (self.policy(), lock(&self.rng));
        let mut registry = self.registry();
        let now = self.now();
        registry.replan(&policy, |session| {
            session.repace(now, &policy, &mut *rng);
            true
        });
        drop(registry);
        self.changed.notify_waiters();
    }

    async fn forget_sessions(&self, before: Timestamp) -> Result<(), StoreError> {
        loop {
            let place = self.journal.place().await?;
            let (sessions, receipt) = {
                let mut registry = self.registry();
                let sessions = registry.forgettable(before, BATCH);
                if sessions.is_empty() {
                    return Ok(());
                }
                let receipt = self.journal.write(place, Write::Forget(sessions.clone()));
                (sessions, receipt)
            };
            receipt.durable().await?;
            Failpoint::Forgotten.reached();
            self.registry().forget(&sessions);
        }
    }
}

async fn durable(receipt: Option<Receipt>) -> Result<(), StoreError> {
    match receipt {
        Some(receipt) => receipt.durable().await.map(|_| ()),
        None => Ok(()),
    }
}

impl<J: Journal> Gauges for Ledger<J> {
    fn census(&self) -> Census {
        let registry = self.registry();
        registry.census(self.now())
    }

    fn undelivered(&self, sink: &str) -> u64 {
        let last = *self.journal.committed().borrow();
        last.saturating_sub(self.cursor(sink))
    }

    fn write_failure(&self) -> Option<WriteFailure> {
        self.journal.write_failure()
    }

    fn size(&self) -> Option<u64> {
        self.journal.size()
    }
}

impl<J: Journal> Store for Ledger<J> {
    async fn track(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        let _membership = self.membership.lock().await;
        // One batch after the other: all at once would be many times what is kept in memory.
        for entries in entries.chunks(BATCH) {
            let unknown = self.registry().unknown(entries);
            let forgotten = if unknown.is_empty() {
                HashMap::new()
            } else {
                self.journal.forgotten(unknown).await?
            };
            let track = |registry: &mut Registry, now, policy: &_| {
                registry.track(entries, &forgotten, now, policy)
            };
            durable(self.decide(track).await?).await?;
        }
        Ok(())
    }

    async fn untrack(&self, ids: Vec<SessionId>) -> Result<(), StoreError> {
        for ids in ids.chunks(BATCH) {
            let untrack =
                |registry: &mut Registry, now, policy: &_| registry.untrack(ids, now, policy);
            durable(self.decide(untrack).await?).await?;
        }
        Ok(())
    }

    async fn next_due(&self) -> Result<Lease, StoreError> {
        loop {
            // From here on no change is missed, whenever it comes.
            let changed = self.changed.notified();
            let now = self.now();
            let next = {
                let mut registry = self.registry();
                if let Some(lease) = registry.lease(now) {
                    return Ok(lease);
                }
                registry.next_polls(MANY, TOGETHER)
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(next, now) => {}
            }
        }
    }

    async fn keep_time(&self) -> Result<Infallible, StoreError> {
        // One that came since the store was opened counts as a change.
        let mut policy = self.policy.clone();
        loop {
            self.take_step().await?;
            let now = self.clock.now();
            if self.registry().has_timer_due(now.wall) {
                let elapse =
                    |registry: &mut Registry, now, policy: &_| registry.elapse(BATCH, now, policy);
                durable(self.decide(elapse).await?).await?;
                continue;
            }
            let next = self.registry().next_timer();
            let fell_asleep = self.clock.monotonic();
            tokio::select! {
                biased;
                Ok(()) = policy.changed() => self.repace(),
                () = sleep_until(next, now.wall) => {}
            }
            let slept = self.clock.monotonic().saturating_sub(fell_asleep);
            if slept > ASLEEP_FROM {
                tracing::info!("the process or the machine was asleep; overdue polls are spread");
                self.spread_overdue();
            }
        }
    }

    fn spread_overdue(&self) {
        let (policy, mut rng) = (self.policy(), lock(&self.rng));
        let mut registry = self.registry();
        let now = self.now();
        registry.replan(&policy, |session| {
            let overdue = session.schedule().poll_at <= now;
            if overdue {
                session.resume(now, &policy, &mut *rng);
            }
            overdue
        });
        drop(registry);
        self.changed.notify_waiters();
    }

    fn live(&self) -> usize {
        self.registry().live()
    }

    async fn announce(&self, event: ApiEvent) -> Result<(), StoreError> {
        let unavailable = match event.detail {
            ApiDetail::Unavailable { .. } => Some((event.cause, event.time)),
            ApiDetail::Available { .. } => None,
        };
        let place = self.journal.place().await?;
        let receipt = {
            // Under the lock, so that of two events the later one stays.
            let mut announced = lock(&self.unavailable);
            *announced = unavailable;
            self.journal.write(place, Write::Announce(event))
        };
        receipt.durable().await.map(|_| ())
    }

    fn unavailable(&self) -> Option<(Cause, Timestamp)> {
        *lock(&self.unavailable)
    }

    async fn commit(&self, lease: Lease, transition: Transition) -> Result<(), StoreError> {
        let place = if transition.steady { None } else { Some(self.journal.place().await?) };
        let policy = self.policy();
        let (settled, sooner) = {
            let mut registry = self.registry();
            let before = registry.next_poll();
            let decision = registry.settle(&lease, transition, &policy);
            let settled = decision.map(|decision| {
                let write =
                    |(place, decision)| self.journal.write(place, Write::Decisions(vec![decision]));
                place.zip(decision).map(write)
            });
            (settled, registry.next_poll() != before)
        };
        Failpoint::Journaled.reached();
        // Nearly always the next poll is another's, and nobody need be woken for this one.
        if sooner {
            self.changed.notify_waiters();
        }
        durable(settled?).await
    }

    fn release(&self, lease: Lease) {
        let policy = self.policy();
        self.registry().release(&lease, &policy);
        self.changed.notify_waiters();
    }

    async fn read_events(&self, sink: &str, limit: usize) -> Result<Vec<Record>, StoreError> {
        let mut committed = self.journal.committed();
        loop {
            let (last, cursor) = (*committed.borrow_and_update(), self.cursor(sink));
            if last > cursor {
                let mut events = self.journal.events(cursor, limit.max(1)).await?;
                // The journal may show more by now; what is returned must stand an `ack`.
                events.retain(|event| event.sequence <= last);
                if !events.is_empty() {
                    return Ok(events);
                }
                // All that was there has been purged, which needed this sink no longer.
                self.ack_events(sink, last).await?;
            }
            committed.changed().await.map_err(|_| ended())?;
        }
    }

    async fn ack_events(&self, sink: &str, up_to: u64) -> Result<(), StoreError> {
        // What is not there yet can't have been delivered.
        let up_to = up_to.min(*self.journal.committed().borrow());
        if up_to <= self.cursor(sink) {
            return Ok(());
        }
        self.write(Write::Cursor { sink: sink.to_owned(), up_to }).await?;
        let mut cursors = lock(&self.cursors);
        let cursor = cursors.entry(sink.to_owned()).or_default();
        *cursor = up_to.max(*cursor);
        Ok(())
    }

    fn listed(&self) -> Vec<SessionId> {
        self.registry().listed()
    }

    async fn sessions(&self) -> Result<Vec<Session>, StoreError> {
        let sessions = self.registry().sessions();
        Ok(sessions.into_iter().map(Arc::unwrap_or_clone).collect())
    }

    async fn session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        let session = self.registry().session(id);
        Ok(session.map(Arc::unwrap_or_clone))
    }

    async fn find_sessions(&self, query: &SessionQuery) -> Result<SessionPage, StoreError> {
        let now = self.now();
        let filter = query.filter.prepared();
        let search = |after, portion| self.registry().search(after, portion, &filter, now);
        Ok(query.answer(search).await)
    }

    async fn find_events(&self, query: EventQuery) -> Result<EventPage, StoreError> {
        self.journal.find(query).await
    }

    fn recorded(&self) -> watch::Receiver<u64> {
        self.journal.committed()
    }

    async fn checkpoint(&self) -> Result<(), StoreError> {
        let mut from = Some(SessionId::FIRST);
        while let Some(next) = from.take() {
            let unsaved = |registry: &mut Registry, _, _: &_| {
                let (unsaved, rest) = registry.take_unsaved(next, BATCH);
                from = rest;
                unsaved
            };
            // As when they are tracked.
            durable(self.decide(unsaved).await?).await?;
        }
        Ok(())
    }

    async fn purge(&self, retention: Duration, sinks: &[&str]) -> Result<(), StoreError> {
        let _membership = self.membership.lock().await;
        let before = self.now().minus(retention);
        self.forget_sessions(before).await?;
        let delivered = sinks.iter().map(|sink| self.cursor(sink)).min();
        let up_to = delivered.unwrap_or(u64::MAX);
        while self.write(Write::Purge { before, up_to }).await? == Write::PURGED_AT_ONCE {}
        Ok(())
    }
}
