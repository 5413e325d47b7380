//! A store on a simulated disk, for the simulation: the ledger and the group writer are the real
//! ones, the disk takes its time, fails when it is told to, and is all that outlives a process.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::journal::{Answer, Decision, Journal, Receipt, Write};
use super::ledger::{Kept, Ledger};
use super::memory::Log;
use super::writer::{self, Command, Medium, PLACES, Place};
use super::{Context, EventPage, EventQuery, StoreError, WriteFailure};
use crate::domain::{ApiDetail, ApiEvent, Cause, Event, Record, Session, SessionId, Timestamp};
use crate::metrics::Writes;

pub(crate) type SimulatedStore<W> = Ledger<SimulatedJournal<W>>;

/// What the disk is part of, and who watches it.
pub(crate) trait Surroundings: Send + Sync + 'static {
    /// The process may die here, and then this never returns.
    fn pass(&self, point: &'static str) -> impl Future<Output = ()> + Send;

    /// False if the process is dead, and nothing that it does counts any more.
    fn is_alive(&self) -> bool;

    /// How long the disk takes for a transaction, and whether it then fails.
    fn transact(&self) -> (Duration, bool);

    /// A decision is made, in memory, and on its way to the disk.
    fn journaled(&self, write: &Written<'_>);

    /// As many of the writes that were journaled are now on the disk, which is given as it is.
    fn durable(&self, writes: usize, disk: &Disk);
}

/// A write, as far as others may see it.
#[derive(Debug)]
pub(crate) enum Written<'a> {
    Decisions(Vec<(&'a Session, &'a [Event])>),
    Announced(&'a ApiEvent),
    Cursor { sink: &'a str, up_to: u64 },
    Forgotten(Vec<SessionId>),
    Purge { up_to: u64 },
}

impl<'a> From<&'a Write> for Written<'a> {
    fn from(write: &'a Write) -> Self {
        match write {
            Write::Decisions(decisions) => {
                let seen = |Decision { session, events }: &'a Decision| (&**session, &**events);
                Self::Decisions(decisions.iter().map(seen).collect())
            }
            Write::Announce(event) => Self::Announced(event),
            Write::Cursor { sink, up_to } => Self::Cursor { sink, up_to: *up_to },
            Write::Forget(sessions) => {
                Self::Forgotten(sessions.iter().map(|session| session.id()).collect())
            }
            Write::Purge { up_to, .. } => Self::Purge { up_to: *up_to },
        }
    }
}

/// What is durable. Sessions are kept as the database keeps them: as text.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    log: Log,
    sessions: BTreeMap<SessionId, String>,
    cursors: HashMap<String, u64>,
    unavailable: Option<(Cause, Timestamp)>,
}

impl Disk {
    pub(crate) fn events(&self) -> &BTreeMap<u64, Record> {
        &self.log.events
    }

    /// The sequence of the last event ever recorded.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.log.last
    }

    pub(crate) fn unavailable(&self) -> Option<(Cause, Timestamp)> {
        self.unavailable
    }

    fn kept(&self, context: &Context) -> Kept {
        let mut kept = Kept::nothing(context);
        for text in self.sessions.values() {
            kept.take_up(serde_json::from_str(text).expect("a session as it was kept"));
        }
        kept.cursors.clone_from(&self.cursors);
        kept.unavailable = self.unavailable;
        kept
    }

    fn apply(&mut self, write: &Write, source: &str) -> u64 {
        let answer = self.log.apply(write, source).expect("events that can be written");
        match write {
            Write::Decisions(decisions) => {
                for Decision { session, .. } in decisions {
                    let text = serde_json::to_string(&**session).expect("a session that is kept");
                    self.sessions.insert(session.id(), text);
                }
            }
            Write::Announce(event) => {
                self.unavailable = match event.detail {
                    ApiDetail::Unavailable { .. } => Some((event.cause, event.time)),
                    ApiDetail::Available { .. } => None,
                };
            }
            Write::Cursor { sink, up_to } => {
                let cursor = self.cursors.entry(sink.clone()).or_default();
                *cursor = up_to.max(cursor).to_owned();
            }
            Write::Forget(sessions) => {
                for session in sessions {
                    self.sessions.remove(&session.id());
                }
            }
            Write::Purge { .. } => {}
        }
        answer
    }
}

#[derive(Debug)]
pub(crate) struct SimulatedJournal<W> {
    world: Arc<W>,
    disk: Arc<Mutex<Disk>>,
    commands: mpsc::Sender<Command>,
    committed: watch::Receiver<u64>,
    followers: Arc<Mutex<Followers>>,
    /// Of those who wait for what a dead process wrote.
    never: Mutex<Vec<oneshot::Sender<Answer>>>,
}

impl<W: Surroundings> SimulatedStore<W> {
    /// Reads what is on the disk, and spawns the writer.
    pub(crate) fn open(context: &Context, disk: &Arc<Mutex<Disk>>, world: &Arc<W>) -> Self {
        let (kept, last) = {
            let disk = lock(disk);
            (disk.kept(context), disk.last_sequence())
        };
        let (sender, commands) = mpsc::channel(PLACES);
        let committed = watch::Sender::new(last);
        let journal = SimulatedJournal {
            world: Arc::clone(world),
            disk: Arc::clone(disk),
            commands: sender,
            committed: committed.subscribe(),
            followers: Arc::default(),
            never: Mutex::default(),
        };
        tokio::spawn(tell(committed.subscribe(), Arc::clone(&journal.followers)));
        let platter = Platter {
            world: Arc::clone(world),
            disk: Arc::clone(disk),
            source: context.source.clone(),
        };
        tokio::spawn(writer::run(platter, commands, committed, Writes::default()));
        Self::resume(context, kept, journal)
    }
}

/// Whoever waits for commits, each by a channel of its own: those who wait on one channel are woken
/// in an order that no seed decides.
type Followers = Vec<watch::Sender<u64>>;

async fn tell(mut committed: watch::Receiver<u64>, followers: Arc<Mutex<Followers>>) {
    while committed.changed().await.is_ok() {
        let last = *committed.borrow_and_update();
        let mut followers = lock(&followers);
        followers.retain(|follower| !follower.is_closed());
        for follower in &*followers {
            follower.send_replace(last);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("a simulation that goes on")
}

struct Platter<W> {
    world: Arc<W>,
    disk: Arc<Mutex<Disk>>,
    source: String,
}

/// As the real writer's.
const PAUSE: Duration = Duration::from_secs(1);

impl<W: Surroundings> Medium for Platter<W> {
    async fn persist(&mut self, group: &[Command]) -> Result<(Vec<u64>, u64), StoreError> {
        self.world.pass("begun").await;
        loop {
            let (takes, fails) = self.world.transact();
            tokio::time::sleep(takes).await;
            if !fails {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.world.pass("applied").await;
        let done = {
            let mut disk = lock(&self.disk);
            let apply = |command: &Command| disk.apply(&command.write, &self.source);
            let answers = group.iter().map(apply).collect();
            self.world.durable(group.len(), &disk);
            (answers, disk.last_sequence())
        };
        self.world.pass("committed").await;
        Ok(done)
    }
}

impl<W: Surroundings> Journal for SimulatedJournal<W> {
    type Place = Place;

    async fn place(&self) -> Result<Place, StoreError> {
        self.world.pass("place").await;
        Place::among(self.commands.clone()).await
    }

    fn write(&self, place: Place, write: Write) -> Receipt {
        if !self.world.is_alive() {
            let (sender, receipt) = Receipt::new();
            lock(&self.never).push(sender);
            return receipt;
        }
        self.world.journaled(&Written::from(&write));
        place.write(write)
    }

    fn committed(&self) -> watch::Receiver<u64> {
        let (follower, receiver) = watch::channel(*self.committed.borrow());
        lock(&self.followers).push(follower);
        receiver
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.world.pass("read").await;
        Ok(lock(&self.disk).log.behind(after, limit))
    }

    fn write_failure(&self) -> Option<WriteFailure> {
        None
    }

    fn size(&self) -> Option<u64> {
        None
    }

    async fn find(&self, query: EventQuery) -> Result<EventPage, StoreError> {
        Ok(query.answer(lock(&self.disk).events()))
    }

    async fn forgotten(&self, ids: Vec<SessionId>) -> Result<HashMap<SessionId, u64>, StoreError> {
        self.world.pass("remember").await;
        Ok(lock(&self.disk).log.forgotten(ids))
    }
}
