//! What time brings about without a request: deadlines and their approach, and a policy that asks
//! for polls sooner.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::change::Change;
use super::store::{Inner, LONGEST_SLEEP};
use super::tasks::PORTION;
use super::view::Known;
use crate::domain::{Session, SessionId, Transition};
use crate::store::StoreError;

/// Who should have woken within [`LONGEST_SLEEP`] and did not for so long was not merely busy.
const ASLEEP_FROM: Duration = Duration::from_secs(10);
/// Timers decided at once: few enough that whoever gives up in between has come further.
const TIMERS_AT_ONCE: usize = 500;
/// How long the end of a session waits for a poll of it that another node may have under way.
const ANSWERED_WITHIN: Duration = Duration::from_secs(25);

impl Inner {
    pub(super) async fn keep_time(&self) -> Result<Infallible, StoreError> {
        let mut policy = self.context.policy.clone();
        policy.mark_unchanged();
        let mut waited = HashMap::new();
        // The policy may be another one than before the start.
        self.repace().await?;
        loop {
            if let Some(step) = self.context.clock.take_step() {
                tracing::warn!(
                    seconds = step.as_seconds(),
                    "the wall clock was set; due times are the cluster's and stay where they are"
                );
            }
            let now = self.now();
            let patience = self.nodes().patience();
            let (due, next) = {
                let view = self.view();
                let desk = self.desk();
                let due = view.registry.timers_due(now.minus(patience));
                let due = due.into_iter().filter(|&id| !desk.is_busy_with(id)).take(TIMERS_AT_ONCE);
                (due.collect::<Vec<_>>(), view.registry.next_timer())
            };
            let mut wait = next.map_or(LONGEST_SLEEP, |at| at.since(now).min(LONGEST_SLEEP));
            if !due.is_empty() {
                let ripe = self.ripe(due, &mut waited).await;
                let policy = self.policy();
                let elapse = |_, known: Option<&Known>, now| {
                    let known = known?;
                    let transition = known.session.elapse(now, &policy);
                    (!transition.steady).then(|| Change::of(known, transition))
                };
                if !ripe.is_empty() {
                    self.alter(&ripe, elapse).await?;
                    continue;
                }
                wait = LONGEST_SLEEP;
            }
            // A timer that is left to the nodes before this one is looked at again soon.
            let wait = wait.max(patience.min(LONGEST_SLEEP));
            let fell_asleep = self.context.clock.monotonic();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                Ok(()) = policy.changed() => self.repace().await?,
            }
            let slept = self.context.clock.monotonic().saturating_sub(fell_asleep);
            if slept > ASLEEP_FROM {
                tracing::info!("the process or the machine was asleep");
            }
        }
    }

    /// While no node ran, deadlines may have passed; such a session is not given up unseen.
    pub(super) fn take_up_what_is_over(&self) {
        let policy = self.policy();
        let now = self.now();
        let over = |session: &Session| session.ended().is_none() && session.is_given_up(now);
        for id in self.in_portions().flatten().filter(|it| over(it)).map(|it| it.id()) {
            // Another node may have moved it on meanwhile.
            let mut view = self.view();
            let Some(session) = view.registry.session(id).filter(|it| over(it)) else { continue };
            let mut session = Session::clone(&session);
            session.resume(now, &policy, &mut *self.rng());
            view.registry.put(&session, &policy);
        }
    }

    /// All sessions, in order of id; the view is free in between.
    pub(super) fn in_portions(&self) -> impl Iterator<Item = Vec<Arc<Session>>> {
        let mut after = None;
        std::iter::from_fn(move || {
            let portion = self.view().registry.behind(after, PORTION);
            after = portion.last().map(|session| session.id()).or(after);
            (!portion.is_empty()).then_some(portion)
        })
    }

    /// Those of the sessions whose time has come to be decided. A poll that another node may have
    /// under way is waited for, but not for ever.
    async fn ripe(
        &self,
        ids: Vec<SessionId>,
        waited: &mut HashMap<SessionId, Instant>,
    ) -> Vec<SessionId> {
        let now = self.now();
        let policy = self.policy();
        let (polled, mut ripe): (Vec<SessionId>, Vec<SessionId>) = {
            let view = self.view();
            ids.into_iter().partition(|&id| {
                let wake = view.registry.session(id).and_then(|session| session.wake(&policy));
                wake.and_then(|wake| wake.poll).is_some_and(|(at, _)| at <= now)
            })
        };
        waited.retain(|id, _| polled.contains(id));
        if polled.is_empty() {
            return ripe;
        }
        let subjects: Vec<String> = polled.iter().map(|&id| self.link.subjects.due(id)).collect();
        let out = match (self.polls.get_info().await, self.link.last_of(&subjects).await) {
            (Ok(info), Ok(ticks)) => {
                let out = info.ack_floor.stream_sequence + 1..=info.delivered.stream_sequence;
                let ticks = ticks.into_iter().filter(|tick| out.contains(&tick.sequence));
                ticks.map(|tick| tick.subject).collect::<BTreeSet<String>>()
            }
            _ => subjects.iter().cloned().collect(),
        };
        for (id, subject) in polled.into_iter().zip(subjects) {
            let since = *waited.entry(id).or_insert_with(Instant::now);
            if !out.contains(&subject) || since.elapsed() >= ANSWERED_WITHIN {
                ripe.push(id);
            }
        }
        ripe
    }

    /// Takes up a policy that asks for polls sooner; each node does so for all sessions when it is
    /// told, and the later ones find nothing to do.
    async fn repace(&self) -> Result<(), StoreError> {
        let policy = self.policy();
        let sooner = |known: &Session, now| {
            let mut session = known.clone();
            session.repace(now, &policy, &mut *self.rng());
            let is_sooner = session.schedule().poll_at < known.schedule().poll_at;
            is_sooner.then_some(Transition { session, events: Vec::new(), steady: true })
        };
        for portion in self.in_portions() {
            let now = self.now();
            let live = portion.iter().filter(|session| session.ended().is_none());
            let late = live.filter(|session| sooner(session, now).is_some());
            let ids: Vec<SessionId> = late.map(|session| session.id()).collect();
            self.alter(&ids, |id, known, now| {
                let known = known.filter(|_| !self.desk().is_busy_with(id))?;
                sooner(&known.session, now).map(|steady| Change::of(known, steady))
            })
            .await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}
