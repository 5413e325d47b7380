use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Sink, SinkError};
use crate::clock::Clock;
use crate::domain::Timestamp;
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

/// How a sink fares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// When the oldest event happened that was taken up and is not delivered yet.
    pub oldest: Option<Timestamp>,
    /// Since when delivery fails, and how it failed last.
    pub failing: Option<(Timestamp, String)>,
    /// How often delivery has failed.
    pub failures: u64,
}

/// Events read at once: enough that one write of the cursor serves many events, few enough
/// that little is delivered twice when the process dies before that write.
const BATCH: usize = 256;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Carries events from the log to a sink, and moves its cursor once they are delivered; `report`
/// says how that goes.
///
/// # Errors
/// The sink is closed, or the store has failed for good. Otherwise it returns once `flush` is
/// cancelled and every event is delivered.
pub async fn dispatch<S: Store, K: Sink>(
    store: Arc<S>,
    mut sink: K,
    clock: Arc<dyn Clock>,
    report: watch::Sender<Report>,
    flush: CancellationToken,
) -> Result<(), DispatchError> {
    let name = sink.name();
    loop {
        if flush.is_cancelled() && store.undelivered(name) == 0 {
            return Ok(());
        }
        let events = tokio::select! {
            biased;
            () = flush.cancelled(), if !flush.is_cancelled() => continue,
            events = store.read_events(name, BATCH) => events?,
        };
        let Some(last) = events.last().map(|event| event.sequence) else { continue };
        Failpoint::Read.reached();
        report.send_modify(|report| report.oldest = events.first().map(|event| event.time));
        let mut retry = RETRY_FIRST;
        loop {
            match sink.deliver(&events).await {
                Ok(()) => break,
                Err(SinkError::Closed) => return Err(DispatchError::Closed(name)),
                Err(SinkError::Failed(message)) => {
                    report.send_modify(|report| {
                        let since = report.failing.take().map(|(since, _)| since);
                        let since = since.unwrap_or_else(|| clock.now().wall);
                        report.failing = Some((since, message.clone()));
                        report.failures += 1;
                    });
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
        report.send_modify(|report| report.failing = None);
        Failpoint::Delivered.reached();
        store.ack_events(name, last).await?;
        Failpoint::Acknowledged.reached();
        report.send_modify(|report| report.oldest = None);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;
    use crate::clock::TokioClock;
    use crate::domain::{Entry, Labels, Policy, Record, SessionId};
    use crate::metrics::Writes;
    use crate::store::{Context, Gauges, MemoryStore};

    const START: Timestamp = Timestamp::from_millis(1_795_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    /// Delivers while it is told to.
    struct Switch(watch::Receiver<bool>);

    impl Sink for Switch {
        fn name(&self) -> &'static str {
            "switch"
        }

        async fn deliver(&mut self, _: &[Record]) -> Result<(), SinkError> {
            if *self.0.borrow() { Ok(()) } else { Err(SinkError::Failed("is off".to_owned())) }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_report_says_since_when_delivery_fails_and_how_old_what_waits_is() {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(START));
        let store = Arc::new(MemoryStore::new(&Context {
            clock: Arc::clone(&clock),
            policy: watch::Sender::new(Arc::new(Policy::default())).subscribe(),
            seed: 1,
            source: "test".to_owned(),
            metrics: Writes::default(),
        }));
        let (on, switch) = watch::channel(false);
        let (report, reported) = watch::channel(Report::default());
        let flush = CancellationToken::new();
        let dispatching =
            dispatch(Arc::clone(&store), Switch(switch), clock, report, flush.clone());
        let dispatching = tokio::spawn(dispatching);
        sleep(10 * SECOND).await;
        assert_eq!(*reported.borrow(), Report::default());

        let entry = |n| Entry {
            session_id: SessionId::from_bytes([n; 16]),
            labels: Labels::default(),
            expires_at: None,
            interval: None,
        };
        store.track(vec![entry(1)]).await.unwrap();
        sleep(10 * SECOND).await;
        store.track(vec![entry(2)]).await.unwrap();
        sleep(20 * SECOND).await;
        let Report { oldest, failing, failures } = reported.borrow().clone();
        let happened = START.plus(10 * SECOND);
        assert_eq!(oldest, Some(happened), "of the first event");
        assert_eq!(failing, Some((happened, "is off".to_owned())));
        assert!((8..=10).contains(&failures), "{failures} tries in 30 s at growing distances");
        assert_eq!(store.undelivered("switch"), 2);

        on.send_replace(true);
        sleep(30 * SECOND).await;
        assert_eq!(*reported.borrow(), Report { oldest: None, failing: None, failures });
        flush.cancel();
        dispatching.await.unwrap().unwrap();
    }
}
