//! How writes become durable: in groups, in order, and told of only then.
//!
//! What has gathered while the disk was busy with one group is the next. Sinks are shown a group's
//! events, and whoever waits for it is told, once all of it is durable and not before.

use std::future::Future;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};

use super::StoreError;
use super::journal::{Answer, Receipt, Write, ended};
use crate::failpoint::Failpoint;
use crate::metrics::Writes;

/// More than there are polls in flight and sinks, so that none of them waits for a place while
/// the disk is well; and no more, since when it is not, waiting is right.
pub(super) const PLACES: usize = 256;

/// Ends a group: a transaction of this many rows gains nothing by more of them, and each of
/// its callers waits for the last.
const GROUP_ROWS: usize = 10_000;

/// Keeps what is written.
pub(super) trait Medium {
    /// Returns once all of the group is durable: each one's answer, and the sequence of the last
    /// event. However long the disk makes it try, nothing else is written meanwhile.
    ///
    /// # Errors
    /// It never will be, and nothing of it is.
    fn persist(
        &mut self,
        group: &[Command],
    ) -> impl Future<Output = Result<(Vec<u64>, u64), StoreError>>;
}

#[derive(Debug)]
pub(super) struct Command {
    pub(super) write: Write,
    answer: oneshot::Sender<Answer>,
}

/// The right to one write.
#[derive(Debug)]
pub struct Place(mpsc::OwnedPermit<Command>);

impl Place {
    pub(super) async fn among(commands: mpsc::Sender<Command>) -> Result<Self, StoreError> {
        commands.reserve_owned().await.map(Self).map_err(|_| ended())
    }

    pub(super) fn write(self, write: Write) -> Receipt {
        let (answer, receipt) = Receipt::new();
        drop(self.0.send(Command { write, answer }));
        receipt
    }
}

/// Writes until nobody can give it anything any more, or the medium has failed for good.
pub(super) async fn run(
    mut medium: impl Medium,
    mut commands: mpsc::Receiver<Command>,
    committed: watch::Sender<u64>,
    metrics: Writes,
) {
    while let Some(first) = commands.recv().await {
        let group = gather(first, &mut commands);
        let began = Instant::now();
        match medium.persist(&group).await {
            Ok((answers, last_sequence)) => {
                Failpoint::Committed.reached();
                metrics.committed(began.elapsed());
                for kind in group.iter().flat_map(|command| command.write.events()) {
                    metrics.event(kind);
                }
                publish(&committed, last_sequence);
                Failpoint::Published.reached();
                for (command, answer) in group.into_iter().zip(answers) {
                    // Whoever doesn't wait any more need not be told.
                    let _ = command.answer.send(Ok(answer));
                }
            }
            Err(error) => {
                tracing::error!("the store has failed for good: {error}");
                refuse(group, &mut commands, &error).await;
                return;
            }
        }
    }
}

fn gather(first: Command, commands: &mut mpsc::Receiver<Command>) -> Vec<Command> {
    let mut rows = first.write.rows();
    let mut group = vec![first];
    while rows < GROUP_ROWS
        && let Ok(command) = commands.try_recv()
    {
        rows += command.write.rows();
        group.push(command);
    }
    group
}

fn publish(committed: &watch::Sender<u64>, last_sequence: u64) {
    committed.send_if_modified(|committed| {
        let grown = last_sequence > *committed;
        *committed = last_sequence;
        grown
    });
}

/// Memory is ahead of the disk from here on, so nothing may be written over what is missing.
async fn refuse(group: Vec<Command>, commands: &mut mpsc::Receiver<Command>, error: &StoreError) {
    for command in group {
        // As above.
        let _ = command.answer.send(Err(error.clone()));
    }
    while let Some(command) = commands.recv().await {
        let _ = command.answer.send(Err(error.clone()));
    }
}
