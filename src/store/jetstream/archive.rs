//! All of a stream out to an export, and an export into a stream that holds nothing yet.
//!
//! An event keeps its `sequence`, which is its message's place in the stream. So the events go in
//! first, each batch at the one place that is its own, and where the export has a gap, the stream is
//! made to count on by messages that nobody reads.
//!
//! A stream can't be filled in one piece, as a database is. The export is read to its end before
//! anything is written, and while it is written, a consumer without a purpose says so: no node
//! starts, and no other import, and the same export goes on where it was interrupted.

mod kept;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, Write};

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use futures_util::TryStreamExt;

use self::kept::Kept;
use super::batch::{self, Message, Refused};
use super::change::poll_messages;
use super::link::Link;
use super::log::record;
use super::nodes::HEARTBEAT_EVERY;
use super::reader;
use super::settings::Settings;
use super::sinks::{Sink, sink_of};
use super::wire::{self, EventBody, State};
use crate::clock::{Clock, SystemClock};
use crate::domain::{Policy, Record, Session};
use crate::store::archive::{self, Forgotten, Line, Unavailable};
use crate::store::{Carried, ExportError, ImportError, StoreError};

/// The consumer that stands beside a stream while an import fills it, and under which name it says
/// by the digest of which export.
const UNFINISHED: &str = "import";
const DIGEST: &str = "sha256";

fn failed(error: String) -> StoreError {
    StoreError::Failed(error)
}

/// Writes down all that the stream holds. No node may be running, or what it does meanwhile would be
/// told both here and wherever the export is taken to.
///
/// # Errors
/// The stream can't be read, a node runs, or `out` can't be written.
pub async fn export<W: Write>(settings: &Settings, out: W) -> Result<Carried, ExportError> {
    let link = Link::open(settings).await?;
    link.refuse_unfinished().await?;
    link.refuse_running().await?;
    let began = link.last_sequence().await?;
    let last_event = link.last(&link.subjects.events()).await.map_err(failed)?;
    let last_sequence = last_event.map_or(began, |event| event.sequence);
    let mut writer = archive::Writer::begin(out, last_sequence)?;
    writer.put(&Line::Api(api(&link).await?))?;
    for (name, delivered) in sinks(&link).await? {
        // It may have been set behind what is no event.
        let delivered = delivered.min(last_sequence);
        writer.put(&Line::Sink(archive::Sink { name, delivered }))?;
    }
    let events = link.subjects.events();
    link.each(&events, |found| writer.put(&Line::Event(record(&found).map_err(failed)?))).await?;
    for session in reader::sessions(&link).await? {
        writer.put(&Line::Session(Box::new(session)))?;
    }
    for (fingerprint, last) in forgotten(&link).await? {
        writer.put(&Line::Forgotten(Forgotten::new(fingerprint, last)))?;
    }
    let subjects = &link.subjects;
    for written in [subjects.nodes(), subjects.states(), subjects.events()] {
        let last = link.last(&written).await.map_err(failed)?;
        if last.is_some_and(|found| found.sequence > began) {
            return Err(StoreError::Unusable(format!(
                "a node has begun on stream {} meanwhile; stop every node, and export again",
                link.name
            ))
            .into());
        }
    }
    writer.end()
}

async fn api(link: &Link) -> Result<archive::Api, StoreError> {
    let subject = link.subjects.api();
    let api = match link.last(&subject).await.map_err(failed)? {
        Some(found) => serde_json::from_slice(&found.body)
            .map_err(|error| failed(format!("{subject} can't be read: {error}")))?,
        None => wire::Api::default(),
    };
    let unavailable = api.unavailable.map(|(cause, since)| Unavailable { cause, since });
    Ok(archive::Api { announced: api.announced, unavailable })
}

/// By name, up to where each has delivered.
async fn sinks(link: &Link) -> Result<BTreeMap<String, u64>, StoreError> {
    let consumers = link.stream.consumers().try_collect::<Vec<_>>().await;
    let consumers = consumers.map_err(|error| {
        failed(link.denied_or(format!("the consumers of stream {}: {error}", link.name)))
    })?;
    let sinks = consumers.into_iter().filter_map(|consumer| {
        Some((sink_of(&consumer.name)?.to_owned(), consumer.ack_floor.stream_sequence))
    });
    Ok(sinks.collect())
}

async fn forgotten(link: &Link) -> Result<BTreeMap<[u8; 32], u64>, StoreError> {
    let mut forgotten = BTreeMap::new();
    link.each(&link.subjects.all_forgotten(), |found| {
        let fingerprint = link.subjects.fingerprint(&found.subject);
        let last = wire::number(&found.body);
        let (Some(fingerprint), Some(last)) = (fingerprint, last) else {
            return Err(failed(format!("{} can't be read", found.subject)));
        };
        forgotten.insert(fingerprint, last);
        Ok(())
    })
    .await?;
    Ok(forgotten)
}

/// Takes an export over into a stream that holds nothing yet; makes it where there is none. Sessions
/// that a file named are named by the files of `settings.owner` from then on.
///
/// # Errors
/// What is read is no whole export, and nothing is written; the stream holds something already, or a
/// node runs; or it can't be written, and the same import goes on where it stopped.
pub async fn import<R: BufRead>(
    settings: &Settings,
    policy: &Policy,
    input: R,
) -> Result<Carried, ImportError> {
    let export = Kept::of(input)?;
    let link = Link::connect(settings).await?;
    link.open_stream(settings).await?;
    let goes_on = link.begin(&export).await?;
    let last = match link.place(&export, goes_on).await {
        Ok(last) => last,
        Err(error) => {
            if !goes_on {
                link.finish().await?;
            }
            return Err(error.into());
        }
    };
    let mut filling = Filling { link: &link, last, batch: Vec::new() };
    let mut sinks = Vec::new();
    let mut rest = Vec::new();
    let mut lines = export.lines()?;
    loop {
        match lines.next()? {
            Line::Export(_) => return Err(lines.second_header()),
            Line::Event(event) => {
                let ordinal = lines.ordinal(&event)?;
                filling.event(event, ordinal).await?;
            }
            Line::Sink(sink) => sinks.push(sink),
            Line::Api(api) if api.announced == 0 && api.unavailable.is_none() => {}
            Line::Api(api) => rest.push(filling.api(api)?),
            Line::Session(session) => {
                filling.count_to(export.last_sequence).await?;
                for message in filling.session(*session, &settings.owner, policy)? {
                    filling.put(message).await?;
                }
            }
            Line::Forgotten(forgotten) => {
                let fingerprint = lines.fingerprint(&forgotten)?;
                filling.count_to(export.last_sequence).await?;
                filling.put(filling.forgotten(fingerprint, forgotten.last_sequence)).await?;
            }
            Line::End(_) => break,
        }
    }
    filling.count_to(export.last_sequence).await?;
    for message in rest {
        filling.put(message).await?;
    }
    filling.flush().await?;
    for archive::Sink { name, delivered } in sinks {
        let sink = Sink::open(&link, &name).await.map_err(failed)?;
        sink.deliver_from(&link, &name, delivered + 1).await.map_err(failed)?;
    }
    link.finish().await?;
    Ok(export.carried)
}

impl Link {
    /// The digest of the export that an import into the stream was begun with and not finished.
    async fn unfinished(&self) -> Result<Option<String>, StoreError> {
        match self.stream.consumer_info(UNFINISHED).await {
            Ok(info) => Ok(Some(info.config.metadata.get(DIGEST).cloned().unwrap_or_default())),
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(self.denied_or(format!("consumer {UNFINISHED}: {error}")))),
        }
    }

    /// Keeps whoever would take a part for the whole from the stream.
    pub(super) async fn refuse_unfinished(&self) -> Result<(), StoreError> {
        if self.unfinished().await?.is_none() {
            return Ok(());
        }
        Err(StoreError::Unusable(format!(
            "an import into stream {} is not finished; run ibvwatch import with the same export \
             again, and it goes on where it stopped",
            self.name
        )))
    }

    /// A node that died has left its last word; one that lives is heard again soon.
    async fn refuse_running(&self) -> Result<(), StoreError> {
        let before = self.heard().await?;
        if before.is_empty() {
            return Ok(());
        }
        let deadline = tokio::time::Instant::now() + HEARTBEAT_EVERY * 2;
        while tokio::time::Instant::now() < deadline {
            tokio::time::sleep(HEARTBEAT_EVERY / 8).await;
            let now = self.heard().await?;
            if let Some((node, _)) = now.iter().find(|(node, at)| before.get(*node) != Some(*at)) {
                return Err(StoreError::Unusable(format!(
                    "stream {} is in use by node {node}; stop every node first",
                    self.name
                )));
            }
        }
        Ok(())
    }

    /// The nodes that have not said that they stop, and where their last word stands.
    async fn heard(&self) -> Result<HashMap<String, u64>, StoreError> {
        let mut heard = HashMap::new();
        self.each(&self.subjects.nodes(), |found| {
            if !found.body.is_empty() {
                heard.insert(
                    found.subject.rsplit('.').next().unwrap_or_default().to_owned(),
                    found.sequence,
                );
            }
            Ok::<(), StoreError>(())
        })
        .await?;
        Ok(heard)
    }

    pub(super) async fn last_sequence(&self) -> Result<u64, StoreError> {
        let info = self.stream.get_info().await.map_err(|error| {
            failed(self.denied_or(format!("stream {} can't be looked at: {error}", self.name)))
        })?;
        Ok(info.state.last_sequence)
    }

    /// Takes the stream for this import; whether it had been begun before.
    async fn begin(&self, export: &Kept) -> Result<bool, StoreError> {
        match self.unfinished().await? {
            Some(digest) if digest == export.digest => return Ok(true),
            Some(_) => {
                return Err(StoreError::Unusable(format!(
                    "an import of another export into stream {0} is not finished; import that \
                     one again, or delete the stream (nats stream rm {0})",
                    self.name
                )));
            }
            None => {}
        }
        let config = pull::Config {
            durable_name: Some(UNFINISHED.to_owned()),
            ack_policy: AckPolicy::None,
            filter_subject: self.subjects.gap(),
            metadata: [(DIGEST.to_owned(), export.digest.clone())].into(),
            ..pull::Config::default()
        };
        let made = self.stream.create_consumer_strict(config).await;
        made.map_err(|error| {
            failed(
                self.denied_or(format!(
                    "an import into stream {} can't be begun: {error}",
                    self.name
                )),
            )
        })?;
        Ok(false)
    }

    /// Sees that nobody is in the way, and has the stream count up to the first event; returns the
    /// last sequence that is given.
    async fn place(&self, export: &Kept, goes_on: bool) -> Result<u64, StoreError> {
        self.refuse_running().await?;
        let subjects = &self.subjects;
        let held = [subjects.states(), subjects.events(), subjects.all_forgotten(), subjects.api()];
        let name = &self.name;
        for subject in held.iter().filter(|_| !goes_on) {
            if self.last(subject).await.map_err(failed)?.is_some() {
                return Err(StoreError::Unusable(format!(
                    "stream {name} (store.jetstream.name) holds sessions or events already, and \
                     an import takes an empty one; delete it (nats stream rm {name}), or name \
                     another"
                )));
            }
        }
        let last = self.last_sequence().await?;
        let first = export.events.first().unwrap_or(export.last_sequence + 1);
        if last + 1 < first {
            let purged = self.stream.purge().sequence(first).await;
            purged.map_err(|error| failed(self.denied_or(format!("stream {name}: {error}"))))?;
            return Ok(first - 1);
        }
        // All that was written by then is there, and nothing else stands in its place.
        let there = self.last(&subjects.events()).await.map_err(failed)?;
        let events = export.events.up_to(last);
        if there.map(|found| found.sequence) != events {
            return Err(StoreError::Unusable(format!(
                "stream {name} has counted to {last} already, where events of the export would \
                 stand; delete it (nats stream rm {name}), or name another"
            )));
        }
        Ok(last)
    }

    /// The stream is whole.
    async fn finish(&self) -> Result<(), StoreError> {
        let failed = |error: String| {
            failed(
                self.denied_or(format!("the end of an import into stream {}: {error}", self.name)),
            )
        };
        let purged = self.stream.purge().filter(self.subjects.gap()).await;
        purged.map_err(|error| failed(error.to_string()))?;
        let deleted = self.stream.delete_consumer(UNFINISHED).await;
        deleted.map(|_| ()).map_err(|error| failed(error.to_string()))
    }
}

/// A stream that is being filled.
struct Filling<'a> {
    link: &'a Link,
    /// What is written, and what stands in the batch.
    last: u64,
    batch: Vec<Message>,
}

impl Filling<'_> {
    /// Puts an event at its own place; one that is behind that was put there before.
    async fn event(&mut self, event: Record, ordinal: u64) -> Result<(), StoreError> {
        let sequence = event.sequence;
        if sequence <= self.last {
            return Ok(());
        }
        self.count_to(sequence - 1).await?;
        let subject = match event.subject {
            Some(id) => self.link.subjects.event(id, ordinal),
            None => self.link.subjects.api_event(ordinal),
        };
        let message = json(subject, &EventBody::from(event))?;
        self.put_at(message).await
    }

    async fn count_to(&mut self, sequence: u64) -> Result<(), StoreError> {
        while self.last < sequence {
            self.put_at(Message::new(self.link.subjects.gap(), Vec::new())).await?;
        }
        Ok(())
    }

    /// Puts a message behind the last, or nowhere.
    async fn put_at(&mut self, message: Message) -> Result<(), StoreError> {
        let message = match self.batch.len() {
            0 => message.behind(self.last),
            _ => message,
        };
        self.put(message).await
    }

    async fn put(&mut self, message: Message) -> Result<(), StoreError> {
        self.batch.push(message);
        self.last += 1;
        if self.batch.len() < batch::MOST {
            return Ok(());
        }
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let name = &self.link.name;
        match self.link.publish(std::mem::take(&mut self.batch)).await {
            Ok(_) => Ok(()),
            Err(Refused::Stale) => Err(StoreError::Unusable(format!(
                "somebody else writes to stream {name}; stop every node, delete the stream (nats \
                 stream rm {name}), and import again"
            ))),
            Err(Refused::Failed(error)) => Err(failed(self.link.denied_or(format!(
                "stream {name} can't be written: {error}; import again, and it goes on where it \
                 stopped"
            )))),
        }
    }

    fn session(
        &self,
        session: Session,
        owner: &str,
        policy: &Policy,
    ) -> Result<Vec<Message>, StoreError> {
        let (id, subjects) = (session.id(), &self.link.subjects);
        let named_by = session.is_listed().then(|| owner.to_owned()).into_iter().collect();
        let poll_at = session.wake(policy).and_then(|wake| wake.poll).map(|(at, _)| at);
        let polls = poll_messages(subjects, id, poll_at, SystemClock.now().wall, 0);
        let mut messages = vec![json(subjects.state(id), &State { session, named_by })?];
        messages.extend(polls);
        Ok(messages)
    }

    fn forgotten(&self, fingerprint: [u8; 32], last: u64) -> Message {
        let subject = self.link.subjects.forgotten(fingerprint);
        Message::number(subject, last)
    }

    fn api(&self, api: archive::Api) -> Result<Message, StoreError> {
        let unavailable = api.unavailable.map(|Unavailable { cause, since }| (cause, since));
        json(self.link.subjects.api(), &wire::Api { announced: api.announced, unavailable })
    }
}

fn json<T: serde::Serialize>(subject: String, value: &T) -> Result<Message, StoreError> {
    Message::json(subject, value).map_err(|error| failed(error.to_string()))
}
