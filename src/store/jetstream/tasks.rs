//! What a node does on its own: listens, asks for ticks, says that it is at it, and looks for
//! what was lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use futures_util::StreamExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::batch::Message;
use super::change::Change;
use super::link::{AGAIN_AFTER, PAGE};
use super::nodes::{HEARTBEAT_EVERY, HEARTBEAT_TTL, LIVE_FOR};
use super::polls::{PROGRESS_EVERY, Word};
use super::store::Inner;
use super::subjects::Place;
use super::wire::{self, Api, Heartbeat};
use crate::clock::{Clock, SystemClock};
use crate::domain::{Session, SessionId, Timestamp};
use crate::store::StoreError;

/// How long a pull waits at the server for a tick.
const ASKED_FOR: Duration = Duration::from_secs(1);
/// A tick that waits here is one that no other node can take up, so no more of them are asked for
/// than are polled within so long.
const AHEAD: Duration = Duration::from_millis(50);
/// Each poll is chosen from among all that wait.
const TICKS_AT_ONCE: usize = 32;
/// Sessions looked at in one step, under one lock.
pub(super) const PORTION: usize = 1_000;

impl Inner {
    /// Keeps the view; tells once it has caught up with what was there at the start.
    pub(super) async fn follow(self: Arc<Self>, caught_up: oneshot::Sender<()>) {
        let mut caught_up = Some(caught_up);
        let mut last = 0;
        loop {
            if let Err(error) = self.follow_from(&mut last, &mut caught_up).await {
                self.fails(&error);
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    async fn follow_from(
        &self,
        last: &mut u64,
        caught_up: &mut Option<oneshot::Sender<()>>,
    ) -> Result<(), String> {
        let subjects = &self.link.subjects;
        let config = pull::OrderedConfig {
            filter_subjects: vec![subjects.states(), subjects.api(), subjects.nodes()],
            deliver_policy: match *last {
                0 => DeliverPolicy::All,
                last => DeliverPolicy::ByStartSequence { start_sequence: last + 1 },
            },
            ..pull::OrderedConfig::default()
        };
        let consumer = self.link.stream.create_consumer(config).await;
        let consumer = consumer.map_err(|error| error.to_string())?;
        if consumer.cached_info().num_pending == 0 {
            tell(caught_up);
        }
        let mut messages = consumer.messages().await.map_err(|error| error.to_string())?;
        while let Some(message) = messages.next().await {
            let message = message.map_err(|error| error.to_string())?;
            let info = message.info().map_err(|error| error.to_string())?;
            let (sequence, pending) = (info.stream_sequence, info.pending);
            let published = Timestamp::from_millis(info.published.unix_timestamp() * 1_000);
            self.take(&message.subject, sequence, published, &message.payload);
            *last = sequence;
            self.behind(pending);
            if pending == 0 {
                tell(caught_up);
            }
        }
        Ok(())
    }

    fn take(&self, subject: &str, sequence: u64, published: Timestamp, body: &[u8]) {
        match self.link.subjects.place(subject) {
            Some(Place::State(id)) => {
                let policy = self.policy();
                self.view().read(id, sequence, body, &policy);
                self.changed.notify_waiters();
            }
            Some(Place::Api) => self.take_api(sequence, body),
            Some(Place::Node(node)) => {
                // At the start, what dead nodes said last comes as well.
                let is_old = SystemClock.now().wall.since(published) >= LIVE_FOR;
                let heartbeat: Option<Heartbeat> = serde_json::from_slice(body).ok();
                let heartbeat = heartbeat.filter(|_| !is_old);
                let count = {
                    let mut nodes = self.nodes();
                    nodes.heard(node, heartbeat);
                    nodes.count()
                };
                self.live_nodes(count);
            }
            Some(Place::Due(_)) | None => {}
        }
    }

    pub(super) fn take_api(&self, sequence: u64, body: &[u8]) {
        match serde_json::from_slice::<Api>(body) {
            Ok(value) => {
                let mut api = self.api();
                if api.0 < sequence {
                    *api = (sequence, value);
                }
            }
            Err(error) => tracing::error!("what was announced of the API can't be read: {error}"),
        }
    }

    /// Hears of new events.
    pub(super) async fn follow_events(self: Arc<Self>) {
        loop {
            if let Err(error) = self.hear_events().await {
                self.fails(&error);
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    async fn hear_events(&self) -> Result<(), String> {
        let config = pull::OrderedConfig {
            filter_subject: self.link.subjects.events(),
            deliver_policy: DeliverPolicy::Last,
            headers_only: true,
            ..pull::OrderedConfig::default()
        };
        let consumer = self.link.stream.create_consumer(config).await;
        let consumer = consumer.map_err(|error| error.to_string())?;
        let mut messages = consumer.messages().await.map_err(|error| error.to_string())?;
        while let Some(message) = messages.next().await {
            let message = message.map_err(|error| error.to_string())?;
            let info = message.info().map_err(|error| error.to_string())?;
            self.recorded_up_to(info.stream_sequence);
        }
        Ok(())
    }

    /// Gets ticks while somebody asks for a poll.
    pub(super) async fn pull(self: Arc<Self>) {
        let mut began = Instant::now();
        let mut taken = 0;
        loop {
            self.asked.notified().await;
            if !self.desk().is_empty_handed() || self.is_leaving() {
                continue;
            }
            let most = taken_up_ahead(taken, began.elapsed());
            (began, taken) = (Instant::now(), 0);
            let asked = self.polls.fetch().max_messages(most).expires(ASKED_FOR).messages().await;
            let mut messages = match asked {
                Ok(messages) => messages,
                Err(error) => {
                    self.fails(&error.to_string());
                    tokio::time::sleep(AGAIN_AFTER).await;
                    continue;
                }
            };
            while let Some(Ok(message)) = messages.next().await {
                let Some(Place::Due(id)) = self.link.subjects.place(&message.subject) else {
                    continue;
                };
                let Some(reply) = message.reply.clone() else { continue };
                if !self.is_abreast_of(id, &message) {
                    self.look_again(id).await;
                }
                taken += 1;
                if self.spread(id).await {
                    self.desk().done_with(&reply);
                    continue;
                }
                self.desk().take_in(id, reply);
                if self.is_leaving() {
                    self.desk().hand_all_back();
                    continue;
                }
                self.changed.notify_waiters();
            }
        }
    }

    /// Whether what is known of the session is what led to this tick, or later. Of one that comes for
    /// another time, or because the last was lost, nobody can tell.
    pub(super) fn is_abreast_of(
        &self,
        id: SessionId,
        tick: &async_nats::jetstream::Message,
    ) -> bool {
        let is_first = tick.info().is_ok_and(|info| info.delivered == 1);
        let stands_at = wire::number(&tick.payload).filter(|_| is_first);
        stands_at.is_some_and(|stands_at| self.view().is_past(id, stands_at))
    }

    /// Puts off the poll of a session that fell due while polls paused; whether it is put off.
    async fn spread(&self, id: SessionId) -> bool {
        let Some(paused_until) = self.paused_until() else { return false };
        let Some(known) = self.known(id) else { return false };
        if known.session.schedule().poll_at > paused_until || known.session.ended().is_some() {
            return false;
        }
        let mut session = Session::clone(&known.session);
        session.resume(self.now(), &self.policy(), &mut *self.rng());
        if session.schedule().poll_at <= self.now() || self.desk().is_busy_with(id) {
            return false;
        }
        let named_by = known.named_by.as_ref().clone();
        let change = Change { session, events: Vec::new(), named_by, revision: known.revision };
        match self.commit(change).await {
            Ok(()) => return true,
            // Somebody else has moved it on, and its tick is looked at again.
            Err(StoreError::Stale(_)) => {}
            Err(error) => tracing::error!(session = %id, "a poll could not be put off: {error}"),
        }
        false
    }

    pub(super) async fn talk(self: Arc<Self>, mut words: mpsc::UnboundedReceiver<Word>) {
        while let Some((reply, kind)) = words.recv().await {
            if let Err(error) = self.link.client.publish(reply, kind.into()).await {
                tracing::debug!("a word about a tick did not get out: {error}");
            }
        }
    }

    pub(super) async fn keep_up(self: Arc<Self>) {
        let mut again = tokio::time::interval(PROGRESS_EVERY);
        loop {
            again.tick().await;
            self.desk().keep_up();
            for (_, sink) in self.known_sinks() {
                sink.keep_up(&self.link).await;
            }
        }
    }

    pub(super) async fn beat(self: Arc<Self>) {
        let mut again = tokio::time::interval(HEARTBEAT_EVERY);
        loop {
            again.tick().await;
            self.polled().beat();
            match tokio::time::timeout(HEARTBEAT_EVERY, self.say_how_it_is()).await {
                Ok(Ok(())) => {
                    self.works();
                    let count = self.nodes().count();
                    self.live_nodes(count);
                    self.measure().await;
                }
                said => {
                    // Whoever isn't heard is not heard from: the others may be as well as ever.
                    self.nodes().give_time();
                    let late = || "no answer to a heartbeat".to_owned();
                    self.fails(
                        &said.map_or_else(|_| late(), |said| said.err().unwrap_or_default()),
                    );
                }
            }
        }
    }

    pub(super) async fn say_how_it_is(&self) -> Result<(), String> {
        let subject = self.link.subjects.node(&self.settings.node);
        let message = Message::json(subject, &self.heartbeat()).map_err(|e| e.to_string())?;
        let published = self.link.publish(vec![message.lasting(HEARTBEAT_TTL)]).await;
        published.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Has the server publish the ticks anew that were lost: of sessions that are overdue and
    /// whose last tick every node is done with.
    pub(super) async fn sweep(self: Arc<Self>) {
        let mut again = tokio::time::interval(self.settings.sweep.every);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut after = None;
        loop {
            again.tick().await;
            let overdue = {
                let mut view = self.view();
                let now = self.now();
                if view.registry.census(now).overdue == 0 || !self.nodes().is_first() {
                    continue;
                }
                let portion = view.registry.behind(after, PORTION);
                after =
                    portion.last().map(|session| session.id()).filter(|_| portion.len() == PORTION);
                self.lost(portion.iter().map(AsRef::as_ref), now)
            };
            if overdue.is_empty() {
                continue;
            }
            if let Err(error) = self.publish_lost(overdue).await {
                tracing::debug!("lost ticks could not be looked for: {error}");
            }
        }
    }

    /// In the order in which they fell due.
    fn lost<'a>(
        &self,
        sessions: impl Iterator<Item = &'a Session>,
        now: Timestamp,
    ) -> Vec<SessionId> {
        let policy = self.policy();
        let lost_by = now.minus(self.settings.sweep.lost_after);
        let due_at =
            |session: &Session| session.wake(&policy).and_then(|w| w.poll).map(|(at, _)| at);
        let mut lost: Vec<(Timestamp, SessionId)> = sessions
            .filter_map(|session| Some((due_at(session)?, session.id())))
            .filter(|&(at, id)| at <= lost_by && !self.desk().has(id))
            .collect();
        lost.sort_unstable();
        lost.into_iter().map(|(_, id)| id).collect()
    }

    async fn publish_lost(&self, ids: Vec<SessionId>) -> Result<(), String> {
        let info = self.polls.get_info().await.map_err(|error| error.to_string())?;
        let done = info.ack_floor.stream_sequence;
        for ids in ids.chunks(PAGE) {
            let subjects: Vec<String> = ids.iter().map(|&id| self.link.subjects.due(id)).collect();
            let found = self.link.last_of(&subjects).await?;
            let ticks: HashMap<&str, u64> =
                found.iter().map(|tick| (tick.subject.as_str(), tick.sequence)).collect();
            for subject in &subjects {
                let last = ticks.get(subject.as_str()).copied().unwrap_or(0);
                if last > done {
                    continue;
                }
                let tick = Message::new(subject.clone(), Vec::new()).after(last);
                // Refused if somebody else has seen to it.
                if let Err(super::batch::Refused::Failed(error)) =
                    self.link.publish(vec![tick]).await
                {
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// How many ticks to ask for, by how many were taken up since the time before.
fn taken_up_ahead(taken: usize, within: Duration) -> usize {
    let at_that_rate = AHEAD.as_micros() * taken as u128 / within.as_micros().max(1);
    usize::try_from(at_that_rate).unwrap_or(usize::MAX).min(taken * 2).clamp(1, TICKS_AT_ONCE)
}

fn tell(caught_up: &mut Option<oneshot::Sender<()>>) {
    if let Some(caught_up) = caught_up.take() {
        // Whoever opened the store may have given up.
        let _ = caught_up.send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_ticks_are_asked_for_as_are_polled_within_a_moment() {
        let ask = |taken, millis| taken_up_ahead(taken, Duration::from_millis(millis));
        assert_eq!(ask(0, 1_000), 1);
        assert_eq!(ask(1, 200), 1);
        assert_eq!(ask(10, 100), 5);
        assert_eq!(ask(10, 10), 20, "no more than twice as many at once");
        assert_eq!(ask(TICKS_AT_ONCE, 0), TICKS_AT_ONCE);
    }
}
