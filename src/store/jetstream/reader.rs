//! Reading for commands, whether or not a daemon runs.

use super::link::{Link, PAGE, Preflight};
use super::settings::Settings;
use super::wire::{Heartbeat, State};
use crate::domain::{Record, Session, SessionId};
use crate::store::{EventFilter, StoreError};

/// Reads the stream; sees what is acknowledged.
#[derive(Debug)]
pub struct Reader {
    link: Link,
}

fn failed(error: String) -> StoreError {
    StoreError::Failed(error)
}

impl Reader {
    /// # Errors
    /// No server can be reached, or lets this user in; or there is no such stream yet.
    pub async fn open(settings: &Settings) -> Result<Self, StoreError> {
        Ok(Self { link: Link::open(settings).await? })
    }

    /// What an acknowledgement means with these servers and this stream. Makes nothing: without a
    /// stream, it is said of the one that would be made.
    ///
    /// # Errors
    /// As of opening the store.
    pub async fn preflight(settings: &Settings) -> Result<Preflight, StoreError> {
        Link::connect(settings).await?.preflight(settings).await
    }

    /// All sessions in order of id.
    ///
    /// # Errors
    /// The stream can't be read.
    pub async fn sessions(&self) -> Result<Vec<Session>, StoreError> {
        sessions(&self.link).await
    }

    /// # Errors
    /// The stream can't be read.
    pub async fn session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        let found = self.link.last(&self.link.subjects.state(id)).await.map_err(failed)?;
        let found = found.filter(|found| !found.body.is_empty());
        found.map(|found| session(&found.subject, &found.body)).transpose()
    }

    /// Events behind the sequence `after` that pass the filter, in order, at most `limit`.
    ///
    /// # Errors
    /// The stream can't be read.
    pub async fn events(
        &self,
        after: u64,
        limit: usize,
        filter: EventFilter,
    ) -> Result<Vec<Record>, StoreError> {
        self.link.events(after, limit, filter).await.map_err(failed)
    }

    /// The nodes that were heard of within the last minute, by name, with their polls of that
    /// minute.
    ///
    /// # Errors
    /// The stream can't be read.
    pub async fn nodes(&self) -> Result<Vec<(String, u64)>, StoreError> {
        let nodes = self.link.subjects.nodes();
        let page = self.link.page(&nodes, 1, PAGE).await.map_err(failed)?;
        let heard = page.iter().filter_map(|found| {
            let node = found.subject.rsplit('.').next()?.to_owned();
            let heartbeat: Heartbeat = serde_json::from_slice(&found.body).ok()?;
            Some((node, heartbeat.polls))
        });
        let mut nodes: Vec<_> = heard.collect();
        nodes.sort();
        Ok(nodes)
    }
}

pub(super) async fn sessions(link: &Link) -> Result<Vec<Session>, StoreError> {
    let mut sessions = Vec::new();
    link.each(&link.subjects.states(), |found| {
        if !found.body.is_empty() {
            sessions.push(session(&found.subject, &found.body)?);
        }
        Ok::<(), StoreError>(())
    })
    .await?;
    // A session that moved on meanwhile was met twice; the later value counts.
    sessions.reverse();
    sessions.sort_by_key(Session::id);
    sessions.dedup_by_key(|session| session.id());
    Ok(sessions)
}

fn session(subject: &str, body: &[u8]) -> Result<Session, StoreError> {
    let state: State = serde_json::from_slice(body).map_err(|error| {
        StoreError::Unusable(format!(
            "{subject} can't be read: {error}; another version of ibvwatch may have written it"
        ))
    })?;
    Ok(state.session)
}
