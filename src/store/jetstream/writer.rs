//! How commits share a batch: what has gathered while the servers were at one is the next.
//!
//! To the servers a batch is dear, however small it is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::batch;
use super::change::Change;
use super::store::Inner;
use crate::domain::SessionId;
use crate::store::StoreError;

/// Sessions taken into a batch at most; each has two messages at least.
const TOGETHER: usize = batch::MOST / 2;

/// What came first is there by then, or a leader that can't bring it about is none any more.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

type Outcome = Result<(), NotMade>;
type Answer = oneshot::Sender<Outcome>;

/// Why a change was not made.
pub(super) enum NotMade {
    /// Somebody else seems to have been first; it is given back.
    Stale(Box<Change>),
    Failed(StoreError),
}

/// A change that a batch is wanted for, and who waits for it.
pub(super) type Commit = (Change, Answer);

impl Inner {
    /// Makes a session's change durable, together with those of others; it is refused alone.
    pub(super) async fn commit(&self, mut change: Change) -> Result<(), StoreError> {
        let ended = || StoreError::Failed("the store is being closed".to_owned());
        let mut refused_since = None;
        loop {
            let (answer, answered) = oneshot::channel();
            self.commits.send((change, answer)).map_err(|_| ended())?;
            change = match answered.await.map_err(|_| ended())? {
                Ok(()) => return Ok(()),
                Err(NotMade::Failed(error)) => return Err(error),
                Err(NotMade::Stale(change)) => *change,
            };
            let id = change.session.id();
            if self.finds_what_came_first(&[(id, change.revision)]).await {
                return Err(StoreError::Stale(id));
            }
            if refused_since.get_or_insert_with(Instant::now).elapsed() > ARRIVES_WITHIN {
                tracing::warn!(
                    stream = self.link.name,
                    session = %id,
                    "what was decided of the session is refused, and nothing came first: it is polled \
                     again; if this goes on, restart ibvwatch, which reads anew what the stream holds"
                );
                return Err(StoreError::Stale(id));
            }
        }
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
                    for answer in answers {
                        tell(answer, Err(NotMade::Failed(error.clone())));
                    }
                    continue;
                }
            };
            let mut answers = answers.into_iter();
            for batch in batches {
                let answers = answers.by_ref().take(batch.changes.len());
                match self.put(batch).await {
                    Ok(()) => answers.for_each(|answer| tell(answer, Ok(()))),
                    Err(refused) if refused.len() == 1 => {
                        give_back(refused.into_iter().zip(answers));
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
                        give_back(stale);
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

fn give_back(stale: impl IntoIterator<Item = Commit>) {
    for (change, answer) in stale {
        tell(answer, Err(NotMade::Stale(Box::new(change))));
    }
}

fn tell(answer: Answer, outcome: Outcome) {
    // Whoever doesn't wait any more need not be told.
    let _ = answer.send(outcome);
}
