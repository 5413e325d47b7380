//! How commits share a batch: what has gathered while the servers were at one is the next.
//!
//! To the servers a batch is dear, however small it is.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::batch;
use super::change::Change;
use super::store::Inner;
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

    /// What is refused goes again in halves, until whoever is stale stands alone.
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
                        let mut half: Vec<Commit> = refused.into_iter().zip(answers).collect();
                        groups.push(half.split_off(half.len() / 2));
                        groups.push(half);
                    }
                }
            }
        }
    }
}

fn tell(answers: impl IntoIterator<Item = Answer>, answer: &Result<(), StoreError>) {
    for waiting in answers {
        // Whoever doesn't wait any more need not be told.
        let _ = waiting.send(answer.clone());
    }
}
