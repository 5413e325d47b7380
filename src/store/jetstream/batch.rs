//! Atomic batches: all of their messages are in the stream, side by side, or none is.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{
    NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE,
    NATS_EXPECTED_LAST_SEQUENCE, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_SCHEDULE,
    NATS_SCHEDULE_TARGET,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::link::Link;
use crate::domain::Timestamp;

/// The server takes no batch of more messages.
pub(super) const MOST: usize = 1_000;
/// The server forgets a batch that grows no more after ten seconds; whoever waits for the answer
/// to one has waited long enough by then.
pub(super) const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// How long a message without a body stays, for those who listen to hear of it.
const OVER_FOR: &str = "1h";

#[derive(Debug, Clone)]
pub(super) struct Message {
    subject: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Message {
    pub(super) fn new(subject: String, body: Vec<u8>) -> Self {
        Self { subject, headers: HeaderMap::new(), body: body.into() }
    }

    pub(super) fn json<T: Serialize>(subject: String, value: &T) -> serde_json::Result<Self> {
        Ok(Self::new(subject, serde_json::to_vec(value)?))
    }

    /// A number alone.
    pub(super) fn number(subject: String, number: u64) -> Self {
        Self::new(subject, number.to_string().into_bytes())
    }

    /// Says that the subject is over.
    pub(super) fn over(subject: String) -> Self {
        Self::new(subject, Vec::new()).lasting(OVER_FOR)
    }

    /// Has the server publish what it says on `target` at that time.
    pub(super) fn scheduled(mut self, target: &str, at: Timestamp) -> Self {
        self.headers.insert(NATS_SCHEDULE, format!("@at {at}"));
        self.headers.insert(NATS_SCHEDULE_TARGET, target);
        self
    }

    /// Refused unless this is the sequence of the subject's last message; 0 if there is to be none.
    pub(super) fn after(mut self, sequence: u64) -> Self {
        self.headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence.to_string());
        self
    }

    /// Refused unless this is the sequence of the stream's last message; the first of a batch alone
    /// may say so.
    pub(super) fn behind(mut self, sequence: u64) -> Self {
        self.headers.insert(NATS_EXPECTED_LAST_SEQUENCE, sequence.to_string());
        self
    }

    pub(super) fn lasting(mut self, ttl: &str) -> Self {
        self.headers.insert(async_nats::header::NATS_MESSAGE_TTL, ttl);
        self
    }
}

/// Why a batch is not in the stream, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("a subject has moved on")]
    Stale,
    /// It may be there after all, if the answer alone was lost.
    #[error("{0}")]
    Failed(String),
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    count: u64,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// "Wrong last sequence", with and without the sequence that would have been right.
const STALE: [u64; 2] = [10_071, 10_164];

impl Link {
    /// Publishes the messages as one; returns the sequence of the first.
    pub(super) async fn publish(&self, messages: Vec<Message>) -> Result<u64, Refused> {
        let failed = |error: &dyn std::fmt::Display| Refused::Failed(error.to_string());
        let batch = uuid::Uuid::new_v4().simple().to_string();
        let last = messages.len();
        for (n, message) in (1..).zip(messages) {
            let Message { subject, mut headers, body } = message;
            // One alone is no batch, which to the servers is dearer than the message.
            if last > 1 {
                headers.insert(NATS_BATCH_ID, batch.as_str());
                headers.insert(NATS_BATCH_SEQUENCE, n.to_string());
            }
            if n < last {
                let sent = self.client.publish_with_headers(subject, headers, body).await;
                sent.map_err(|error| failed(&error))?;
                continue;
            }
            if last > 1 {
                headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
            }
            let request = async_nats::Request::new()
                .headers(headers)
                .payload(body)
                .timeout(Some(ANSWERED_WITHIN));
            let answer = self.client.send_request(subject, request).await;
            let answer = answer.map_err(|error| failed(&error))?;
            let answer: Answer =
                serde_json::from_slice(&answer.payload).map_err(|error| failed(&error))?;
            return match answer.error {
                None => Ok(answer.seq - answer.count.saturating_sub(1)),
                Some(error) if STALE.contains(&error.err_code) => Err(Refused::Stale),
                Some(ApiError { err_code, description }) => {
                    Err(Refused::Failed(format!("{description} ({err_code})")))
                }
            };
        }
        Err(Refused::Failed("a batch of nothing".to_owned()))
    }
}
