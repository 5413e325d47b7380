//! What every test stands on: a home with a simulated API beside it, a daemon in it, and the
//! events that come out.

mod daemon;
mod event;
mod gate;
mod home;
mod http;
mod journal;
mod oracle;
mod proxy;
mod schema;
mod text;

use std::time::Duration;

pub(crate) use daemon::{Daemon, Run};
pub(crate) use event::{Event, ids_in, lines};
pub(crate) use gate::Gate;
pub(crate) use home::{Home, PRIVATE_KEY, Printed, SDK_ID, write_private};
pub(crate) use http::{Answer, Site};
pub(crate) use journal::Journal;
pub(crate) use oracle::{Deliveries, Score, Truth};
pub(crate) use proxy::Proxy;
pub(crate) use schema::{judge, validator};
pub(crate) use text::redacted;

/// Far longer than anything takes on a busy machine; only a test that fails waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Within which a stop has to be over, by the contract.
pub(crate) const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Says that part of a test was not run.
#[expect(clippy::print_stderr, reason = "nobody may take what was left out for what went well")]
pub(crate) fn leave_out(what: &str) {
    eprintln!("*** LEFT OUT: {what}");
}
