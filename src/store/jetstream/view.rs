//! What a node knows of all sessions: the registry of the other stores, and beside each session
//! the sequence that its state stands at, which is what decisions are guarded with.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::wire::{Owners, State};
use crate::domain::{Policy, Session, SessionId};
use crate::store::registry::Registry;

#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) registry: Registry,
    held: HashMap<SessionId, Held>,
    /// Where what says that a session was forgotten stands, as far as somebody had to know.
    over: HashMap<SessionId, u64>,
    /// Few sets name many sessions.
    owners: HashSet<Arc<Owners>>,
}

#[derive(Debug, Clone)]
struct Held {
    revision: u64,
    named_by: Arc<Owners>,
}

/// A session as the stream has it.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) session: Arc<Session>,
    pub(super) revision: u64,
    pub(super) named_by: Arc<Owners>,
}

impl View {
    /// Takes in what stands at that sequence, unless something later is known; nothing stands
    /// there if the session was forgotten.
    pub(super) fn take(
        &mut self,
        id: SessionId,
        revision: u64,
        state: Option<State>,
        policy: &Policy,
    ) -> bool {
        if self.is_past(id, revision) {
            return false;
        }
        match state {
            Some(State { session, named_by }) => {
                let named_by = self.shared(named_by);
                self.held.insert(id, Held { revision, named_by });
                self.over.remove(&id);
                self.registry.put(&session, policy);
            }
            None => self.forget(id),
        }
        true
    }

    /// Takes in a state's message. That of a change of one's own is known before it comes.
    pub(super) fn read(&mut self, id: SessionId, sequence: u64, body: &[u8], policy: &Policy) {
        if self.is_past(id, sequence) {
            return;
        }
        if body.is_empty() {
            self.take(id, sequence, None, policy);
            return;
        }
        match serde_json::from_slice::<State>(body) {
            Ok(state) => {
                self.take(id, sequence, Some(state), policy);
            }
            Err(error) => tracing::error!(
                session = %id,
                "a session's state can't be read and is left alone: {error}; another version of \
                 ibvwatch may have written it"
            ),
        }
    }

    /// Whether what stands at that sequence, or something later, is known of the session.
    pub(super) fn is_past(&self, id: SessionId, sequence: u64) -> bool {
        self.held.get(&id).is_some_and(|held| held.revision >= sequence)
    }

    pub(super) fn forget(&mut self, id: SessionId) {
        self.held.remove(&id);
        if let Some(session) = self.registry.session(id) {
            self.registry.forget(&[session]);
        }
    }

    pub(super) fn get(&self, id: SessionId) -> Option<Known> {
        let Held { revision, named_by } = self.held.get(&id)?.clone();
        Some(Known { session: self.registry.session(id)?, revision, named_by })
    }

    /// What the session's next value is to stand behind.
    pub(super) fn place(&self, id: SessionId) -> u64 {
        let over = || self.over.get(&id).copied().unwrap_or(0);
        self.held.get(&id).map_or_else(over, |held| held.revision)
    }

    /// Where the session's subject stands that holds no session; 0 if it holds nothing.
    pub(super) fn is_over(&mut self, id: SessionId, revision: u64) {
        // What stands there was begun anew since.
        if revision > 0 && self.is_past(id, revision) {
            return;
        }
        self.forget(id);
        match revision {
            0 => self.over.remove(&id),
            revision => self.over.insert(id, revision),
        };
    }

    pub(super) fn knows(&self, id: SessionId) -> bool {
        self.held.contains_key(&id)
    }

    /// The sessions that this owner's files name.
    pub(super) fn named_by(&self, owner: &str) -> Vec<SessionId> {
        let mut ids: Vec<SessionId> = self
            .held
            .iter()
            .filter(|(_, held)| held.named_by.contains(owner))
            .map(|(&id, _)| id)
            .collect();
        ids.sort_unstable();
        ids
    }

    fn shared(&mut self, owners: Owners) -> Arc<Owners> {
        if let Some(shared) = self.owners.get(&owners) {
            return Arc::clone(shared);
        }
        let shared = Arc::new(owners);
        self.owners.insert(Arc::clone(&shared));
        shared
    }
}
