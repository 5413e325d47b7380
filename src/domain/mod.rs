//! The pure core: what a session is, what an answer means for it, and when to ask again.
//!
//! Nothing here does IO, reads a clock, or has randomness of its own: the time and the random
//! numbers are arguments, so equal inputs give equal bytes and a test can run a month in a
//! millisecond. `tests/layering.rs` keeps it so.

mod admission;
mod breaker;
mod census;
mod event;
mod id;
mod labels;
mod observation;
mod pace;
mod packing;
mod plan;
mod policy;
mod queue;
mod resource;
mod schedule;
mod session;
mod text;
mod time;
mod visible;

pub use admission::{Admission, Admitted, Answer};
pub use breaker::{Breaker, Cause, Gate, Turn};
pub use census::{Census, Tally};
pub use event::{ApiDetail, ApiEvent, Detail, EndReason, Event, EventKind, Record};
pub use id::{InvalidSessionId, SessionId};
pub use labels::{InvalidLabels, Labels};
pub use observation::{Fingerprint, Listing, Observation, Problem, ProblemKind, Snapshot};
pub use pace::Pace;
pub use plan::{Advice, Capacity, Demand, Latency, Plan};
pub use policy::Policy;
pub use queue::{DueQueue, Seat, Wake};
pub use resource::{Listed, Progress, Resource, ResourceKey, ResourceState};
pub use schedule::{Backoff, Urgency, jittered};
pub use session::{Entry, Exchange, Packed, Phase, PhaseName, Schedule, Session, Transition};
pub use time::{DURATION_PATTERN, InvalidTimestamp, Now, Step, Timestamp};
pub use visible::{Visible, is_visible};
