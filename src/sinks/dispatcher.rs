use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Sink, SinkError};
use crate::failpoint::Failpoint;
use crate::store::{Store, StoreError};

/// Why a dispatcher ended.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    #[error("sink {0}: whoever read the events has gone away")]
    Closed(&'static str),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Events read at once: enough that one write of the cursor serves many events, few enough
/// that little is delivered twice when the process dies before that write.
const BATCH: usize = 256;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Carries events from the log to a sink, and moves its cursor once they are delivered.
///
/// # Errors
/// The sink is closed, or the store has failed for good. Otherwise it returns once `flush` is
/// cancelled and every event is delivered.
pub async fn dispatch<S: Store, K: Sink>(
    store: Arc<S>,
    mut sink: K,
    flush: CancellationToken,
) -> Result<(), DispatchError> {
    let name = sink.name();
    loop {
        if flush.is_cancelled() && store.undelivered(name) == 0 {
            return Ok(());
        }
        let events = tokio::select! {
            () = flush.cancelled(), if !flush.is_cancelled() => continue,
            events = store.read_events(name, BATCH) => events?,
        };
        let Some(last) = events.last().map(|event| event.sequence) else { continue };
        Failpoint::Read.reached();
        let mut retry = RETRY_FIRST;
        loop {
            match sink.deliver(&events).await {
                Ok(()) => break,
                Err(SinkError::Closed) => return Err(DispatchError::Closed(name)),
                Err(SinkError::Failed(message)) => {
                    if retry == RETRY_FIRST {
                        warn!(sink = name, "events can't be delivered, trying again: {message}");
                    }
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
        if retry > RETRY_FIRST {
            info!(sink = name, "events are delivered again");
        }
        Failpoint::Delivered.reached();
        store.ack_events(name, last).await?;
        Failpoint::Acknowledged.reached();
    }
}
