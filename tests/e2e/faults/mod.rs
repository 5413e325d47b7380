//! What befalls the process and its disk, at every place where it can: docs/TESTING.md says how
//! each of these runs at length.

mod corruption;
mod disk;
mod failpoints;
mod power;
mod shim;
mod story;

use std::fmt::Debug;
use std::str::FromStr;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How many daemons are run side by side: they wait more than they work.
const SIDE_BY_SIDE: usize = 12;

/// What the environment asks for in place of what is usual.
fn asked<T: FromStr<Err: Debug>>(variable: &str) -> Option<T> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|error| panic!("{variable}={value}: {error:?}")))
}

/// Runs them all, some at a time; panics as the first of them does.
async fn side_by_side<T: Send + 'static>(
    tasks: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let places = Arc::new(Semaphore::new(SIDE_BY_SIDE));
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
