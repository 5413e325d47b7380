//! What befalls the process and its disk, at every place where it can: docs/TESTING.md says how
//! each of these runs at length.

mod corruption;
mod disk;
mod failpoints;
mod kills;
mod power;
mod resources;
mod shim;
mod soak;
mod story;

use std::fmt::Debug;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use ibvwatch::clock::SystemClock;
use ibvwatch::metrics::Writes;
use ibvwatch::store::sqlite::Reader;
use ibvwatch::store::{Context, EventFilter, SqliteStore, StoreError};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// How many daemons that wait more than they work are run side by side.
const MANY: usize = 12;

/// What the environment asks for in place of what is usual.
fn asked<T: FromStr<Err: Debug>>(variable: &str) -> Option<T> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|error| panic!("{variable}={value}: {error:?}")))
}

/// Opens a database as the daemon does, and reads it as the commands do: what is recorded.
fn recorded_in(database: &Path) -> Result<Vec<String>, StoreError> {
    let policy = watch::channel(Arc::default()).1;
    let clock = Arc::new(SystemClock);
    let (source, metrics) = ("ibvwatch".to_owned(), Writes::default());
    let context = Context { clock, policy, seed: 1, source, metrics };
    drop(SqliteStore::open(database, &context)?);
    let reader = Reader::open(database)?;
    let events = reader.events(0, 100_000, EventFilter::default())?;
    Ok(events.iter().map(|event| event.to_line().expect("a line")).collect())
}

/// Runs them all, so many at a time; panics as the first of them does.
async fn side_by_side<T: Send + 'static>(
    at_a_time: usize,
    tasks: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let places = Arc::new(Semaphore::new(at_a_time));
    let mut running = JoinSet::new();
    for task in tasks {
        let places = Arc::clone(&places);
        running.spawn(async move {
            let _place = places.acquire_owned().await.expect("a semaphore that stays open");
            task.await
        });
    }
    running.join_all().await
}
