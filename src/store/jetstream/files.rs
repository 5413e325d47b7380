//! Who is in the registry: what session files make of sessions, and who is forgotten.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use super::batch::Message;
use super::change::{Change, Stale};
use super::store::{Inner, lock};
use super::view::Known;
use super::wire::number;
use crate::domain::{Entry, Session, SessionId, Timestamp, Transition};
use crate::failpoint::Failpoint;
use crate::store::StoreError;
use crate::store::journal::fingerprint;

/// Sessions decided on at once.
const BATCH: usize = 10_000;

impl Inner {
    pub(super) async fn track(&self, entries: &[Entry]) -> Result<(), StoreError> {
        for entries in entries.chunks(BATCH) {
            // Of several entries of one session, the last counts.
            let mut entries: HashMap<SessionId, &Entry> =
                entries.iter().map(|entry| (entry.session_id, entry)).collect();
            while !entries.is_empty() {
                let unknown: HashSet<SessionId> = {
                    let view = self.view();
                    entries.keys().copied().filter(|&id| !view.knows(id)).collect()
                };
                let forgotten = self.forgotten(&unknown).await;
                // Those that were forgotten only after they were known here.
                let missed = Mutex::new(HashSet::new());
                let ids: Vec<SessionId> = entries.keys().copied().collect();
                let track = |id, known: Option<&Known>, now| {
                    if known.is_none() && !unknown.contains(&id) {
                        lock(&missed).insert(id);
                        return None;
                    }
                    let last = forgotten.get(&id).copied().unwrap_or(0);
                    self.tracked(entries.get(&id)?, known, last, now)
                };
                self.alter(&ids, track).await?;
                let missed = std::mem::take(&mut *lock(&missed));
                entries.retain(|id, _| missed.contains(id));
            }
        }
        Ok(())
    }

    pub(super) async fn untrack(&self, ids: &[SessionId]) -> Result<(), StoreError> {
        self.alter(ids, |_, known, now| self.untracked(known?, now)).await
    }

    /// The last `session_sequence` of sessions that were forgotten.
    async fn forgotten(&self, ids: &HashSet<SessionId>) -> HashMap<SessionId, u64> {
        let subjects: HashMap<String, SessionId> =
            ids.iter().map(|&id| (self.link.subjects.forgotten(fingerprint(id)), id)).collect();
        let wanted: Vec<String> = subjects.keys().cloned().collect();
        let found = self.insist(|| self.link.last_of(&wanted)).await;
        let found = found
            .iter()
            .filter_map(|found| Some((*subjects.get(&found.subject)?, number(&found.body)?)));
        found.collect()
    }

    /// What a session file's entry makes of a session.
    fn tracked(
        &self,
        entry: &Entry,
        known: Option<&Known>,
        forgotten: u64,
        now: Timestamp,
    ) -> Option<Change> {
        let policy = self.policy();
        let owner = &self.settings.owner;
        let Some(known) = known else {
            let Transition { session, events, .. } =
                Session::track(entry.clone(), forgotten, now, &policy);
            return Some(Change { session, events, named_by: [owner.clone()].into(), revision: 0 });
        };
        if !known.session.is_listed() {
            let last = known.session.sequence();
            let begun = Session::track(entry.clone(), last, now, &policy);
            let change = Change::of(known, begun);
            return Some(Change { named_by: [owner.clone()].into(), ..change });
        }
        let mut named_by = known.named_by.as_ref().clone();
        let is_new = named_by.insert(owner.clone());
        // Where two owners say different things of a session, the first by name counts.
        let counts = named_by.first() == Some(owner);
        let amended = counts.then(|| known.session.amend(entry.clone(), now, &policy)).flatten();
        let change = match amended {
            Some(transition) => Change::of(known, transition),
            None if is_new => Self::unchanged(known),
            None => return None,
        };
        Some(Change { named_by, ..change })
    }

    /// The session is named by this node's files no longer; it ends once nobody's name it.
    fn untracked(&self, known: &Known, now: Timestamp) -> Option<Change> {
        let mut named_by = known.named_by.as_ref().clone();
        if !named_by.remove(&self.settings.owner) {
            return None;
        }
        let ended = if named_by.is_empty() { known.session.untrack(now) } else { None };
        let change = match ended {
            Some(transition) => Change::of(known, transition),
            None => Self::unchanged(known),
        };
        Some(Change { named_by, ..change })
    }

    fn unchanged(known: &Known) -> Change {
        let session = Session::clone(&known.session);
        Change::of(known, Transition { session, events: Vec::new(), steady: true })
    }

    /// Forgets those that ended before and that nobody names.
    pub(super) async fn forget_sessions(&self, before: Timestamp) {
        loop {
            let sessions: Vec<Known> = {
                let mut view = self.view();
                let desk = self.desk();
                let sessions = view.registry.forgettable(before, BATCH);
                let idle = sessions.iter().filter(|session| !desk.is_busy_with(session.id()));
                idle.filter_map(|session| view.get(session.id())).collect()
            };
            if sessions.is_empty() {
                return;
            }
            for known in sessions {
                self.forget(&known).await;
            }
        }
    }

    async fn forget(&self, known: &Known) {
        let id = known.session.id();
        let subjects = &self.link.subjects;
        let messages = vec![
            Message::over(subjects.state(id)).after(known.revision),
            Message::number(subjects.forgotten(fingerprint(id)), known.session.sequence()),
            Message::over(subjects.schedule(id)),
            Message::over(subjects.due(id)),
        ];
        if self.persist(messages).await == Err(Stale) {
            self.finds_what_came_first(&[(id, known.revision)]).await;
        } else {
            self.view().forget(id);
        }
        Failpoint::Forgotten.reached();
    }
}
