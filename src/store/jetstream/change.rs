//! Changing sessions: decided against what is known, published under a guard, and decided anew
//! where somebody else was first.

use std::collections::BTreeSet;
use std::time::Instant;

use super::batch::{self, Message, Refused};
use super::link::AGAIN_AFTER;
use super::store::Inner;
use super::subjects::Subjects;
use super::view::Known;
use super::wire::{EventBody, Owners, State};
use crate::clock::{Clock, SystemClock};
use crate::domain::{Event, EventKind, Session, SessionId, Timestamp, Transition};
use crate::failpoint::Failpoint;
use crate::store::{StoreError, WriteFailure};

/// A session's new value, and what it was decided against.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) session: Session,
    pub(super) events: Vec<Event>,
    pub(super) named_by: Owners,
    /// 0 if there was no such session.
    pub(super) revision: u64,
}

impl Change {
    pub(super) fn of(known: &Known, transition: Transition) -> Self {
        let Transition { session, events, .. } = transition;
        let named_by = Owners::clone(&known.named_by);
        Self { session, events, named_by, revision: known.revision }
    }
}

/// Somebody else has moved a session on; nothing of the batch is in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stale;

impl Inner {
    /// Changes each of the sessions as `decide` says, against the latest value if it must be.
    pub(super) async fn alter<D>(&self, ids: &[SessionId], decide: D) -> Result<(), StoreError>
    where
        D: Fn(SessionId, Option<&Known>, Timestamp) -> Option<Change> + Send + Sync,
    {
        let mut ids: Vec<SessionId> =
            ids.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        // Of a batch, one session that somebody else has changed refuses all: the more often
        // that happens, the smaller it is made.
        let mut most = batch::MOST;
        while !ids.is_empty() {
            let changes: Vec<Change> = {
                let view = self.view();
                let now = self.now();
                ids.iter()
                    .filter_map(|&id| {
                        let known = view.get(id);
                        let change = decide(id, known.as_ref(), now)?;
                        Some(Change { revision: view.place(id), ..change })
                    })
                    .collect()
            };
            let mut again = Vec::new();
            for batch in self.batches(changes, most)? {
                if let Err(refused) = self.put(batch).await {
                    let place = |change: &Change| (change.session.id(), change.revision);
                    let refused: Vec<_> = refused.iter().map(place).collect();
                    again.extend(refused.iter().map(|(id, _)| *id));
                    self.finds_what_came_first(&refused).await;
                }
            }
            ids = again;
            most = (most / 4).max(1);
        }
        Ok(())
    }

    /// Makes changes durable; waits for as long as the servers can't do it. Gives them back if one
    /// of them, whichever, is stale.
    pub(super) async fn put(&self, batch: Batch) -> Result<(), Vec<Change>> {
        let Batch { changes, messages, states } = batch;
        let began = Instant::now();
        let Ok(first) = self.persist(messages).await else { return Err(changes) };
        Failpoint::Committed.reached();
        self.context.metrics.committed(began.elapsed());
        let policy = self.policy();
        let mut last_event = None;
        {
            let mut view = self.view();
            for (change, place) in changes.into_iter().zip(states) {
                let Change { session, events, named_by, .. } = change;
                let revision = first + place;
                last_event =
                    (!events.is_empty()).then(|| revision + events.len() as u64).or(last_event);
                for event in events {
                    self.context.metrics.event(event.kind());
                }
                let id = session.id();
                view.take(id, revision, Some(State { session, named_by }), &policy);
            }
        }
        if let Some(last) = last_event {
            self.recorded_up_to(last);
        }
        self.changed.notify_waiters();
        Failpoint::Published.reached();
        Ok(())
    }

    /// Publishes a batch, again and again until the servers have taken or refused it.
    pub(super) async fn persist(&self, messages: Vec<Message>) -> Result<u64, Stale> {
        Failpoint::Journaled.reached();
        loop {
            match self.link.publish(messages.clone()).await {
                Ok(first) => {
                    self.works();
                    return Ok(first);
                }
                Err(Refused::Stale) => {
                    self.works();
                    return Err(Stale);
                }
                Err(Refused::Failed(error)) => self.fails(&error),
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// Asks the leader for as long as it takes.
    pub(super) async fn insist<T, F, R>(&self, ask: F) -> T
    where
        F: Fn() -> R + Send,
        R: Future<Output = Result<T, String>> + Send,
    {
        loop {
            match ask().await {
                Ok(answer) => {
                    self.works();
                    return answer;
                }
                Err(error) => self.fails(&error),
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// Takes the session's latest value from the leader.
    pub(super) async fn look_again(&self, id: SessionId) {
        let policy = self.policy();
        let subject = self.link.subjects.state(id);
        let found = self.insist(|| self.link.last(&subject)).await;
        {
            let mut view = self.view();
            match found {
                Some(found) if found.body.is_empty() => view.is_over(id, found.sequence),
                Some(found) => view.read(id, found.sequence, &found.body, &policy),
                None => view.is_over(id, 0),
            }
        }
        self.changed.notify_waiters();
    }

    /// Looks again at sessions that were not to be changed where they stood; whether one of them has
    /// moved on. If none has, what came first is still on its way through the servers, or is lost with
    /// one of them, and the same change may yet be made in a moment, which is waited for.
    pub(super) async fn finds_what_came_first(&self, refused: &[(SessionId, u64)]) -> bool {
        for (id, _) in refused {
            self.look_again(*id).await;
        }
        let found = {
            let view = self.view();
            refused.iter().any(|&(id, revision)| view.place(id) != revision)
        };
        if !found {
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        found
    }

    pub(super) fn fails(&self, error: &str) {
        let denied = self.link.denials.take();
        let error = denied.as_deref().unwrap_or(error);
        let mut failure = self.failure();
        if failure.is_none() {
            tracing::error!(
                stream = self.link.name,
                "NATS can't be used, trying again until it can: {error}"
            );
            *failure = Some(WriteFailure {
                path: format!("JetStream stream {}", self.link.name).into(),
                error: error.to_owned(),
                remedy: "see that NATS servers of store.jetstream.servers answer, and that a \
                         majority of the stream's replicas is up; it is tried again until then, \
                         and nothing is lost",
                since: self.now(),
            });
        }
    }

    pub(super) fn works(&self) {
        if self.failure().take().is_some() {
            tracing::info!(stream = self.link.name, "NATS can be used again");
        }
    }

    /// Puts changes into batches of at most `most` messages, as far as a session's fit.
    pub(super) fn batches(
        &self,
        changes: Vec<Change>,
        most: usize,
    ) -> Result<Vec<Batch>, StoreError> {
        let mut batches: Vec<Batch> = Vec::new();
        for change in changes {
            let messages = self.messages(&change)?;
            let fits = |batch: &Batch| batch.messages.len() + messages.len() <= most;
            if !batches.last().is_some_and(fits) {
                batches.push(Batch::default());
            }
            if let Some(batch) = batches.last_mut() {
                batch.states.push(batch.messages.len() as u64);
                batch.messages.extend(messages);
                batch.changes.push(change);
            }
        }
        Ok(batches)
    }

    /// The state first, then the events, then what the server is to do about the next poll.
    fn messages(&self, change: &Change) -> Result<Vec<Message>, StoreError> {
        let Change { session, events, named_by, revision } = change;
        let id = session.id();
        let subjects = &self.link.subjects;
        let failed =
            |error: serde_json::Error| StoreError::Failed(format!("session {id}: {error}"));
        let state = State { session: session.clone(), named_by: named_by.clone() };
        let state = Message::json(subjects.state(id), &state).map_err(failed)?.after(*revision);
        let mut messages = vec![state];
        for event in events {
            let record = event.record(0, &self.context.source).map_err(failed)?;
            let subject = subjects.event(id, event.session_sequence);
            let message = Message::json(subject, &EventBody::from(record)).map_err(failed)?;
            messages.push(message.after(0));
        }
        let poll_at = session.wake(&self.policy()).and_then(|wake| wake.poll).map(|(at, _)| at);
        messages.extend(poll_messages(subjects, id, poll_at, self.now(), *revision));
        Ok(messages)
    }

    pub(super) fn recorded_up_to(&self, sequence: u64) {
        self.recorded.send_if_modified(|recorded| {
            let grown = sequence > *recorded;
            *recorded = sequence.max(*recorded);
            grown
        });
    }

    pub(super) fn event_recorded(&self, kind: EventKind, sequence: u64) {
        self.context.metrics.event(kind);
        self.recorded_up_to(sequence);
    }

    pub(super) fn known(&self, id: SessionId) -> Option<Known> {
        self.view().get(id)
    }
}

/// What the server is to do about a session's next poll. Its tick says where the state that goes in
/// with it, decided against that of `revision`, stands at least.
pub(super) fn poll_messages(
    subjects: &Subjects,
    id: SessionId,
    poll_at: Option<Timestamp>,
    now: Timestamp,
    revision: u64,
) -> Vec<Message> {
    let (schedule, due) = (subjects.schedule(id), subjects.due(id));
    let stands_at = revision + 1;
    match poll_at {
        Some(at) if at > now => {
            // What has to pass is the same by every clock, whatever ours says.
            let at = SystemClock.now().wall.plus(at.since(now));
            vec![Message::number(schedule, stands_at).scheduled(&due, at)]
        }
        due_now => {
            let over = (revision > 0).then(|| Message::over(schedule));
            over.into_iter().chain(due_now.map(|_| Message::number(due, stands_at))).collect()
        }
    }
}

/// Changes as messages that go in together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) changes: Vec<Change>,
    messages: Vec<Message>,
    /// Where among the messages each change's state stands.
    states: Vec<u64>,
}
