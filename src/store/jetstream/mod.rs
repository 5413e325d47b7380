//! The store on NATS JetStream: any number of nodes share the work, and any of them, or a NATS
//! server, may die at any moment.
//!
//! Nothing here coordinates nodes. What decides is the server, by refusing: a session's value is
//! published with the sequence of the value that it was decided against, and of two decisions
//! against one value the second is refused, whole, as stale.
//!
//! # Subjects
//!
//! One stream, `<name>`, keeps the last message of each subject: file storage, limits retention,
//! discard old, `max_msgs_per_subject` 1, message TTLs, message schedules and atomic batches.
//!
//! | Subject | What |
//! |---|---|
//! | `<name>.state.<session>` | `wire::State`: the session, and which owners' files name it |
//! | `<name>.event.<session>.<n>` | `wire::EventBody`: event `n` of the session, for ever the same bytes |
//! | `<name>.event.api.<n>` | event `n` of the API as a whole |
//! | `<name>.schedule.<session>` | the server's timer: publishes a tick when the next poll is due |
//! | `<name>.due.<session>` | the tick: a poll is due, of a session that stands where it says or later |
//! | `<name>.forgotten.<hash>` | the last `session_sequence` of a session that was forgotten |
//! | `<name>.api` | `wire::Api`: how many events the API has, and why it is unavailable, if it is |
//! | `<name>.node.<node>` | `wire::Heartbeat`: a node lives; with a TTL |
//! | `<name>.gap` | nothing: it has the stream count on, while an import fills it |
//!
//! Durable consumers: `polls` shares the ticks among the nodes, `sink-<sink>` the events.
//! An event's `sequence` is the stream sequence of its message, added when it is read; it grows,
//! and has gaps where other messages stand.
//!
//! A message without a body says that its subject is over; it goes by its TTL.
//!
//! # What rests on what
//!
//! - **A commit** is one atomic batch: the state, guarded; each event, guarded so that its number
//!   is never given twice; and the schedule of the next poll. A steady poll is the same batch
//!   without events: every node then knows the true schedule, and whoever polls next knows when
//!   the last good answer was asked for and how often it failed. It costs two small messages.
//!   Polls that end together share a batch (`writer`), which to the servers is dearer than what
//!   is in it; where one of them is stale, it alone is refused.
//! - **A tick is a lease.** The consumer hands it to one node, which acknowledges it after the
//!   commit, and says meanwhile that it is at it. A node that dies says nothing, and the tick goes
//!   to another after `polls::ACK_WAIT`. `max_ack_pending` is `poll.max_in_flight`, so it bounds
//!   the requests of the whole cluster.
//! - **Ticks are hints.** Whoever gets one looks at the session; one that is not due is done with.
//!   A session that is overdue and whose last tick is done with, or gone, gets another (`sweep`).
//! - **Each node has a view** of all states, kept by an ordered consumer. It is what is decided
//!   against and shown; where it lags behind a tick, the state is read from the leader before the
//!   poll, since what is decided against an older one is refused.
//! - **Timers that ask for no request**, the deadline and its approach, are decided by every node
//!   from its view, one after the other in order of name, `nodes::STAGGER` apart; the guard lets
//!   the first through.
//! - **A sink's consumer** lets one event at a time be out. Whoever holds it has the sink: it reads
//!   on from there, delivers in order, and sets the consumer behind the last delivered event, which
//!   is the acknowledgement of them all. A holder that dies is followed by another after
//!   `sinks::ACK_WAIT`, from the first event that was not acknowledged. So each event is
//!   delivered by one live node, at least once, and the first deliveries are in order.
//!
//! A batch that was sent and never answered may be in the stream or not. It is sent again, under
//! the same guard: what is refused then was overtaken, or was there already, and either way the
//! stream holds the truth. Where the stream shows nothing later than what was decided against, what
//! came first is still on its way through the servers, and may never arrive: the batch is sent again
//! until one or the other is there, that of a poll for half a minute (`writer`).

mod access;
mod archive;
mod batch;
mod change;
mod files;
mod link;
mod log;
mod nodes;
mod polls;
mod reader;
mod settings;
mod sinks;
mod store;
mod subjects;
mod tasks;
#[cfg(test)]
mod tests;
mod time;
mod view;
mod wire;
mod writer;

pub use archive::{export, import};
pub use link::{Durability, Preflight};
pub use nodes::{Cluster, Node};
pub use reader::Reader;
pub use settings::{Settings, Sweep};
pub use store::JetStreamStore;
