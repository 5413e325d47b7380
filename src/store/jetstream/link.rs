//! The way to the servers: the connection, the stream, and what an acknowledgement of theirs means.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, LastRawMessageErrorKind, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{self, context::GetStreamErrorKind};
use async_nats::{Client, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::json;

use super::access::{self, Denials};
use super::settings::Settings;
use super::subjects::Subjects;
use crate::store::StoreError;

/// The first version with message schedules, atomic batches and consumers that can be set back.
const LEAST_VERSION: (i64, i64, i64) = (2, 14, 0);
/// A cluster that has just started or lost a server takes seconds to answer.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
/// Between two tries of what the servers could not do.
pub(super) const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// An answer that the servers owe at once.
pub(super) const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// Has every server say how it is set up.
pub(super) const VARZ: &str = "$SYS.REQ.SERVER.PING.VARZ";
/// Messages asked for at once.
pub(super) const PAGE: usize = 500;

/// A connection, and the stream that it is for.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) context: jetstream::Context,
    pub(super) stream: Stream<()>,
    pub(super) subjects: Subjects,
    pub(super) name: String,
    pub(super) denials: Denials,
}

/// A message of the stream.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) subject: String,
    pub(super) sequence: u64,
    pub(super) body: Bytes,
}

/// What was found out about the servers and the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflight {
    /// Of the server that answered.
    pub version: String,
    pub durability: Durability,
}

/// What it means that a change is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durability {
    pub replicas: usize,
    /// How long at most a server leaves a write to its operating system alone; zero if it doesn't.
    /// None if the servers don't tell.
    pub synced_within: Option<Duration>,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.replicas {
            0 | 1 => write!(f, "one copy")?,
            n => write!(f, "replicated to {n}")?,
        }
        match self.synced_within {
            Some(Duration::ZERO) => write!(f, ", fsynced always: ")?,
            Some(every) => write!(f, ", fsynced every {}: ", humantime::format_duration(every))?,
            None => write!(f, ", fsynced nobody here knows how often: ")?,
        }
        f.write_str(match (self.replicas > 1, self.synced_within) {
            (true, Some(Duration::ZERO)) => {
                "an acknowledged change survives the loss of a minority of the servers, and a \
                 power failure of them all"
            }
            (false, Some(Duration::ZERO)) => {
                "an acknowledged change survives a power failure, and is lost with the disk"
            }
            (true, Some(_)) => {
                "an acknowledged change survives the loss of a minority of the servers; a power \
                 failure of a majority at once can lose it"
            }
            (false, Some(_)) => {
                "an acknowledged change survives the death of the server; a power failure can \
                 lose it"
            }
            (true, None) => {
                "an acknowledged change survives the loss of a minority of the servers; whether \
                 it survives a power failure of a majority at once is up to their sync_interval, \
                 which is 2m unless somebody has set it, and then it may not"
            }
            (false, None) => {
                "an acknowledged change survives the death of the server; whether it survives a \
                 power failure is up to the server's sync_interval, which is 2m unless somebody \
                 has set it, and then it may not"
            }
        })
    }
}

fn unusable(text: String) -> StoreError {
    StoreError::Unusable(text)
}

impl Link {
    /// Connects; waits a while for servers that can't be reached.
    pub(super) async fn connect(settings: &Settings) -> Result<Self, StoreError> {
        let (client, denials) = access::connect(settings).await?;
        let (major, minor, patch) = LEAST_VERSION;
        if !client.is_server_compatible(major, minor, patch) {
            return Err(unusable(format!(
                "the NATS server is version {}, and ibvwatch needs {major}.{minor} or later for \
                 message schedules, atomic batches and resetting consumers; upgrade it",
                client.server_info().version
            )));
        }
        let context =
            jetstream::ContextBuilder::new().timeout(ANSWERED_WITHIN).build(client.clone());
        let stream = context.get_stream_no_info(&settings.name).await.map_err(|error| {
            unusable(format!("store.jetstream.name: {:?} {error}", settings.name))
        })?;
        let subjects = Subjects::new(&settings.name);
        Ok(Self { client, context, stream, subjects, name: settings.name.clone(), denials })
    }

    /// Connects to a stream that is there.
    pub(super) async fn open(settings: &Settings) -> Result<Self, StoreError> {
        let link = Self::connect(settings).await?;
        let there = async {
            link.context.get_stream(&settings.name).await.map_err(|error| {
                unusable(format!(
                    "there is no stream {} that can be read: {error}; ibvwatch run makes it",
                    settings.name
                ))
            })
        };
        link.denials.none_in(there).await?;
        Ok(link)
    }

    /// Makes the stream where there is none; says what an acknowledgement of it means.
    pub(super) async fn open_stream(&self, settings: &Settings) -> Result<Preflight, StoreError> {
        let wanted = Config {
            name: self.name.clone(),
            subjects: vec![self.subjects.all()],
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            storage: StorageType::File,
            max_messages_per_subject: 1,
            num_replicas: settings.replicas,
            allow_direct: true,
            allow_message_ttl: true,
            allow_message_schedules: true,
            allow_atomic_publish: true,
            ..Config::default()
        };
        self.at_first(|| self.find_or_make(&wanted)).await
    }

    async fn find_or_make(&self, wanted: &Config) -> Result<Preflight, StoreError> {
        let config = if let Some(config) = self.there().await? {
            config
        } else {
            let made = self.context.create_stream(wanted.clone()).await;
            made.map_err(|error| self.unmakeable(wanted, &error.to_string()))?
                .cached_info()
                .config
                .clone()
        };
        self.check(&config)?;
        if config.num_replicas != wanted.num_replicas {
            tracing::warn!(
                stream = self.name,
                replicas = config.num_replicas,
                configured = wanted.num_replicas,
                "the stream has other replicas than store.jetstream.replicas says; what is there \
                 counts: nats stream edit {} --replicas {}",
                self.name,
                wanted.num_replicas
            );
        }
        Ok(self.with(config.num_replicas).await)
    }

    /// What an acknowledgement means, of the stream that is there or of the one that is wanted.
    pub(super) async fn preflight(&self, settings: &Settings) -> Result<Preflight, StoreError> {
        let found = self.denials.none_in(self.there()).await?;
        if let Some(config) = &found {
            self.check(config)?;
        }
        Ok(self.with(found.map_or(settings.replicas, |config| config.num_replicas)).await)
    }

    async fn with(&self, replicas: usize) -> Preflight {
        let durability = Durability { replicas, synced_within: self.synced_within().await };
        Preflight { version: self.client.server_info().version, durability }
    }

    async fn there(&self) -> Result<Option<Config>, StoreError> {
        let error = match self.context.get_stream(&self.name).await {
            Ok(stream) => return Ok(Some(stream.cached_info().config.clone())),
            Err(error) => error,
        };
        match error.kind() {
            GetStreamErrorKind::JetStream(error) if error.code() == 404 => Ok(None),
            GetStreamErrorKind::JetStream(error) => Err(StoreError::Failed(format!(
                "JetStream can't be used: {error}; turn it on in the servers' configuration \
                 (jetstream {{}}) and for this account"
            ))),
            GetStreamErrorKind::EmptyName
            | GetStreamErrorKind::Request
            | GetStreamErrorKind::InvalidStreamName => {
                Err(StoreError::Failed(format!("stream {}: {error}", self.name)))
            }
        }
    }

    fn check(&self, config: &Config) -> Result<(), StoreError> {
        let fits = config.subjects == [self.subjects.all()]
            && config.max_messages_per_subject == 1
            && config.storage == StorageType::File
            && config.retention == RetentionPolicy::Limits
            && config.discard == DiscardPolicy::Old
            && config.max_age.is_zero()
            && config.allow_direct
            && config.allow_message_ttl
            && config.allow_message_schedules
            && config.allow_atomic_publish;
        if fits {
            return Ok(());
        }
        Err(unusable(format!(
            "stream {0} is there and not as ibvwatch needs it: subjects {0}.>, file storage, \
             limits retention, discard old, no max age, one message a subject, direct gets, \
             message TTLs, schedules and atomic publishes; give store.jetstream.name a name of \
             its own, or edit the stream (docs/CLUSTER.md)",
            self.name
        )))
    }

    fn unmakeable(&self, wanted: &Config, error: &str) -> StoreError {
        StoreError::Failed(format!(
            "stream {} with {} replicas can't be made: {error}; store.jetstream.replicas must not \
             be more than there are servers, and no other stream may have subjects under {}",
            self.name,
            wanted.num_replicas,
            self.subjects.all()
        ))
    }

    /// The longest that one of the servers leaves a write unsynced, if they tell this account.
    async fn synced_within(&self) -> Option<Duration> {
        const SERVERS_ANSWER_WITHIN: Duration = Duration::from_millis(300);
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.ok()?;
        self.client.publish_with_reply(VARZ, inbox, Bytes::new()).await.ok()?;
        let mut longest = None;
        while let Ok(Some(answer)) =
            tokio::time::timeout(SERVERS_ANSWER_WITHIN, answers.next()).await
        {
            let told: serde_json::Value = serde_json::from_slice(&answer.payload).ok()?;
            let config = &told["data"]["jetstream"]["config"];
            let every = config["sync_interval"].as_u64()?;
            let always = config["sync_always"].as_bool().unwrap_or(false);
            let every = if always { Duration::ZERO } else { Duration::from_nanos(every) };
            longest = longest.max(Some(every));
        }
        longest
    }

    /// The last message of that subject, by the word of the stream's leader.
    pub(super) async fn last(&self, subject: &str) -> Result<Option<Found>, String> {
        match self.stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(Found {
                subject: message.subject.to_string(),
                sequence: message.sequence,
                body: message.payload,
            })),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(self.denied_or(format!("{subject}: {error}"))),
        }
    }

    /// Why there was no answer, if it was that the servers deny it.
    pub(super) fn denied_or(&self, error: String) -> String {
        self.denials.take().unwrap_or(error)
    }

    /// Up to `limit` messages of the subjects, from the one with that sequence on, in order. Any
    /// replica answers; one that lags shows an earlier state of the stream.
    pub(super) async fn page(
        &self,
        subjects: &str,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Found>, String> {
        let request = json!({ "seq": from.max(1), "batch": limit, "next_by_subj": subjects });
        self.gather(&request).await
    }

    /// Shows all messages of the subjects, in order, up to the last by the word of the leader.
    pub(super) async fn each<E: From<StoreError>>(
        &self,
        subjects: &str,
        mut take: impl FnMut(Found) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |error| E::from(StoreError::Failed(error));
        let mut deadline = tokio::time::Instant::now() + SETTLED_WITHIN;
        let mut from = 1;
        loop {
            let page = self.page(subjects, from, PAGE).await.map_err(failed)?;
            let is_empty = page.is_empty();
            for found in page {
                from = found.sequence + 1;
                take(found)?;
            }
            if !is_empty {
                deadline = tokio::time::Instant::now() + SETTLED_WITHIN;
                continue;
            }
            let last = self.last(subjects).await.map_err(failed)?;
            if last.is_none_or(|last| last.sequence < from) {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(failed(format!("a replica of stream {} lags; try again", self.name)));
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// The last messages of single subjects; those without one are left out.
    pub(super) async fn last_of(&self, subjects: &[String]) -> Result<Vec<Found>, String> {
        let mut found = Vec::new();
        for subjects in subjects.chunks(PAGE) {
            found.extend(self.gather(&json!({ "multi_last": subjects })).await?);
        }
        Ok(found)
    }

    async fn gather(&self, request: &serde_json::Value) -> Result<Vec<Found>, String> {
        let subject = format!("$JS.API.DIRECT.GET.{}", self.name);
        let inbox = self.client.new_inbox();
        let mut answers =
            self.client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
        let payload = request.to_string().into();
        let sent = self.client.publish_with_reply(subject, inbox, payload).await;
        sent.map_err(|error| error.to_string())?;
        let mut found = Vec::new();
        loop {
            let answer = tokio::time::timeout(ANSWERED_WITHIN, answers.next()).await;
            let Ok(Some(answer)) = answer else {
                let error = format!("stream {} can't be read: no answer", self.name);
                return Err(self.denied_or(error));
            };
            match answer.status {
                None | Some(StatusCode::OK) => {}
                // The end of the batch, and that there is nothing.
                Some(status) if [204, 404].contains(&status.as_u16()) => return Ok(found),
                Some(status) => {
                    return Err(format!(
                        "stream {} can't be read: {status} {}",
                        self.name,
                        answer.description.unwrap_or_default()
                    ));
                }
            }
            let header = |name| answer.headers.as_ref().and_then(|headers| headers.get_last(name));
            let sequence = header("Nats-Sequence").and_then(|text| text.as_str().parse().ok());
            let subject = header("Nats-Subject").map(|text| text.as_str().to_owned());
            let (Some(sequence), Some(subject)) = (sequence, subject) else {
                return Err(format!("stream {}: an answer without its place", self.name));
            };
            found.push(Found { subject, sequence, body: answer.payload });
        }
    }

    /// The durable consumer of that name as it is, made or brought in step first.
    pub(super) async fn consumer(
        &self,
        config: pull::Config,
    ) -> Result<jetstream::consumer::Consumer<pull::Config>, String> {
        self.stream.create_consumer(config).await.map_err(|error| error.to_string())
    }
    /// Tries for a while what servers that have just been started may not be up to yet.
    pub(super) async fn at_first<T, F, R>(&self, ask: F) -> Result<T, StoreError>
    where
        F: Fn() -> R,
        R: Future<Output = Result<T, StoreError>>,
    {
        let deadline = tokio::time::Instant::now() + SETTLED_WITHIN;
        loop {
            match self.denials.none_in(ask()).await {
                Err(StoreError::Failed(_)) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                result => return result,
            }
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_is_put_in_words() {
        let said = |replicas, seconds: Option<u64>| {
            let synced_within = seconds.map(Duration::from_secs);
            Durability { replicas, synced_within }.to_string()
        };
        assert_eq!(
            said(3, Some(0)),
            "replicated to 3, fsynced always: an acknowledged change survives the loss of a \
             minority of the servers, and a power failure of them all"
        );
        assert_eq!(
            said(1, Some(120)),
            "one copy, fsynced every 2m: an acknowledged change survives the death of the \
             server; a power failure can lose it"
        );
        assert!(said(1, None).contains("up to the server's sync_interval"));
        assert!(said(3, None).contains("up to their sync_interval"));
    }
}
