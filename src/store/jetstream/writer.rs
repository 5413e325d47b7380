//! How commits share a batch: what has gathered while the servers were at one is the next.
//!
//! To the servers a batch is dear, however small it is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::batch;
use super::change::Change;
use super::store::Inner;
use crate::domain::SessionId;
use crate::store::StoreError;

/// Sessions taken into a batch at most; each has two messages at least.
const TOGETHER: usize = batch::MOST / 2;

type Answer = oneshot::Sender<Result<(), StoreError>>;

/// A change that a batch is wanted for, and who waits for it.
pub(super) type Commit = (Change, Answer);

impl Inner {
    /// Makes a session's change durable, together with those of others; it is refused alone.
    pub(super) async fn commit(&self, change: Change) -> Result<(), StoreError> {
        let ended = || StoreError::Failed("the store is being closed".to_owned());
        let (answer, answered) = oneshot::channel();
        self.commits.send((change, answer)).map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    pub(super) async fn write(self: Arc<Self>, mut commits: mpsc::UnboundedReceiver<Commit>) {
        let mut group = Vec::new();
        while commits.recv_many(&mut group, TOGETHER).await > 0 {
            self.write_group(std::mem::take(&mut group)).await;
        }
    }

    /// What is refused goes again without those that are known to be stale, and in halves where that
    /// doesn't help, until whoever is stale stands alone.
    async fn write_group(&self, group: Vec<Commit>) {
        let mut groups = vec![group];
        while let Some(group) = groups.pop() {
            let (changes, answers): (Vec<Change>, Vec<Answer>) = group.into_iter().unzip();
            let batches = match self.batches(changes, batch::MOST) {
                Ok(batches) => batches,
                Err(error) => {
                    tell(answers, &Err(error));
                    continue;
                }
            };
            let mut answers = answers.into_iter();
            for batch in batches {
                let answers = answers.by_ref().take(batch.changes.len());
                match self.put(batch).await {
                    Ok(()) => tell(answers, &Ok(())),
                    Err(mut refused) if refused.len() == 1 => {
                        let stale = refused.remove(0).session.id();
                        tell(answers, &Err(StoreError::Stale(stale)));
                    }
                    Err(refused) => {
                        let moved_on = self.moved_on(&refused).await;
                        let all = refused.into_iter().zip(answers);
                        let (stale, mut rest): (Vec<Commit>, Vec<Commit>) =
                            all.partition(|(change, _)| moved_on.contains(&change.session.id()));
                        if stale.is_empty() {
                            groups.push(rest.split_off(rest.len() / 2));
                        }
                        groups.push(rest);
                        for (change, answer) in stale {
                            tell([answer], &Err(StoreError::Stale(change.session.id())));
                        }
                    }
                }
            }
        }
    }

    /// Those of the changes' sessions that stand elsewhere than they were decided against. Any
    /// replica may have answered, so there may be more of them.
    async fn moved_on(&self, changes: &[Change]) -> HashSet<SessionId> {
        let state = |change: &Change| self.link.subjects.state(change.session.id());
        let subjects: Vec<String> = changes.iter().map(state).collect();
        let found = self.insist(|| self.link.last_of(&subjects)).await;
        let places: HashMap<String, u64> =
            found.into_iter().map(|found| (found.subject, found.sequence)).collect();
        let stands = changes.iter().zip(&subjects).map(|(it, subject)| (it, places.get(subject)));
        let moved_on = stands.filter(|(it, place)| place.is_some_and(|place| *place > it.revision));
        moved_on.map(|(change, _)| change.session.id()).collect()
    }
}

fn tell(answers: impl IntoIterator<Item = Answer>, answer: &Result<(), StoreError>) {
    for waiting in answers {
        // Whoever doesn't wait any more need not be told.
        let _ = waiting.send(answer.clone());
    }
}
