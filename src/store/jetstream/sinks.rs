//! Who delivers to a sink: whoever holds the one event that the sink's consumer lets out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Subject;
use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::consumer::{Consumer, Info, pull};
use futures_util::StreamExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::link::{AGAIN_AFTER, Link};

/// A holder that was not heard of for so long is followed by another.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(15);
/// How long a node that would deliver waits at the server for its turn, before it asks anew.
const ASKED_FOR: Duration = Duration::from_secs(5);

/// One sink, as this node sees it.
pub(super) struct Sink {
    consumer: Consumer<pull::Config>,
    hold: Mutex<Option<Hold>>,
    /// Somebody waits for events.
    pub(super) wanted: Notify,
    pub(super) taken: Notify,
    /// Everything up to here is delivered, as last heard.
    floor: AtomicU64,
    /// Events that are not, as last heard.
    pending: AtomicU64,
}

#[derive(Debug, Clone)]
struct Hold {
    /// Where to say what becomes of it.
    reply: Subject,
    first: u64,
    told: Instant,
}

pub(super) fn consumer_name(sink: &str) -> String {
    format!("sink-{sink}")
}

/// The sink that a consumer is of.
pub(super) fn sink_of(consumer: &str) -> Option<&str> {
    consumer.strip_prefix("sink-")
}

impl Sink {
    /// The sink's consumer, which starts at the oldest event if it is new.
    pub(super) async fn open(link: &Link, name: &str) -> Result<Self, String> {
        let config = pull::Config {
            durable_name: Some(consumer_name(name)),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: -1,
            max_ack_pending: 1,
            filter_subject: link.subjects.events(),
            ..pull::Config::default()
        };
        let consumer = link.consumer(config).await?;
        let sink = Self {
            hold: Mutex::default(),
            wanted: Notify::new(),
            taken: Notify::new(),
            floor: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            consumer,
        };
        sink.heard(sink.consumer.cached_info());
        Ok(sink)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Hold>> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first event that is not delivered yet, if this node is to deliver it.
    pub(super) fn held(&self) -> Option<u64> {
        self.lock().as_ref().map(|hold| hold.first)
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor.load(Ordering::Acquire)
    }

    pub(super) fn pending(&self) -> u64 {
        self.pending.load(Ordering::Acquire)
    }

    fn heard(&self, info: &Info) {
        self.floor.store(info.ack_floor.stream_sequence, Ordering::Release);
        self.pending.store(info.num_pending + info.num_ack_pending as u64, Ordering::Release);
    }

    /// Asks the server how far the sink is.
    pub(super) async fn refresh(&self) -> Result<u64, String> {
        let info = self.consumer.get_info().await.map_err(|error| error.to_string())?;
        self.heard(&info);
        Ok(self.floor())
    }

    /// Gets hold of the sink whenever somebody waits for its events.
    pub(super) async fn follow(self: Arc<Self>) {
        loop {
            self.wanted.notified().await;
            if self.held().is_some() {
                continue;
            }
            let asked = self.consumer.fetch().max_messages(1).expires(ASKED_FOR).messages().await;
            let Ok(mut messages) = asked else {
                tokio::time::sleep(AGAIN_AFTER).await;
                continue;
            };
            while let Some(Ok(message)) = messages.next().await {
                let Ok(first) = message.info().map(|info| info.stream_sequence) else { continue };
                let Some(reply) = message.reply.clone() else { continue };
                *self.lock() = Some(Hold { reply, first, told: Instant::now() });
                self.floor.fetch_max(first - 1, Ordering::AcqRel);
                self.taken.notify_waiters();
            }
        }
    }

    /// Says that this node is at it. A hold that nothing was said of for too long is lost.
    pub(super) async fn keep_up(&self, link: &Link) {
        let reply = {
            let mut hold = self.lock();
            if hold.as_ref().is_some_and(|hold| hold.told.elapsed() >= ACK_WAIT) {
                *hold = None;
            }
            hold.as_mut().map(|hold| {
                hold.told = Instant::now();
                hold.reply.clone()
            })
        };
        if let Some(reply) = reply {
            say(link, reply, AckKind::Progress).await;
        }
    }

    /// The first event is gone: purged, since it needn't be delivered.
    pub(super) async fn skip(&self, link: &Link) {
        let hold = self.lock().take();
        if let Some(hold) = hold {
            say(link, hold.reply, AckKind::Ack).await;
        }
    }

    /// Leaves the sink to another node.
    pub(super) async fn let_go(&self, link: &Link) {
        let hold = self.lock().take();
        if let Some(hold) = hold {
            say(link, hold.reply, AckKind::Nak(None)).await;
        }
    }

    /// Everything up to there is delivered.
    pub(super) async fn deliver_from(
        &self,
        link: &Link,
        name: &str,
        next: u64,
    ) -> Result<(), String> {
        // Another node may have taken over, and have come further.
        if self.refresh().await? < next - 1 {
            let reset = link.stream.reset_consumer(&consumer_name(name), Some(next)).await;
            reset.map_err(|error| format!("sink {name}: {error}"))?;
        }
        *self.lock() = None;
        self.refresh().await.map(|_| ())
    }
}

/// A word that is lost costs a second delivery.
async fn say(link: &Link, reply: Subject, kind: AckKind) {
    if let Err(error) = link.client.publish(reply, kind.into()).await {
        tracing::debug!("a word about an event did not get out: {error}");
    }
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").field("floor", &self.floor()).finish_non_exhaustive()
    }
}
