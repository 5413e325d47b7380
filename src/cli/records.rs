//! What the daemons have recorded, wherever that is.

use crate::config;
use crate::domain::{Record, Session, SessionId};
use crate::refresh::{self, Refreshed};
use crate::store::{EventFilter, StoreError, jetstream, sqlite};

/// Reads the configured store, whether or not a daemon runs.
pub(super) enum Records {
    Database(sqlite::Reader),
    Stream(Box<jetstream::Reader>),
}

impl Records {
    pub(super) async fn open(store: &config::Store) -> Result<Self, StoreError> {
        match &store.jetstream {
            None => sqlite::Reader::open(&store.path).map(Self::Database),
            Some(settings) => {
                let reader = jetstream::Reader::open(settings).await?;
                Ok(Self::Stream(Box::new(reader)))
            }
        }
    }

    /// Has a daemon write down what only it knows. A cluster's stream has all of it.
    pub(super) fn refreshed(store: &config::Store) -> Refreshed {
        match store.jetstream {
            None => refresh::ask(&store.path),
            Some(_) => Refreshed::Yes,
        }
    }

    pub(super) async fn sessions(&self) -> Result<Vec<Session>, StoreError> {
        match self {
            Self::Database(reader) => reader.sessions(),
            Self::Stream(reader) => reader.sessions().await,
        }
    }

    pub(super) async fn session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        match self {
            Self::Database(reader) => reader.session(id),
            Self::Stream(reader) => reader.session(id).await,
        }
    }

    pub(super) async fn events(
        &self,
        after: u64,
        limit: usize,
        filter: EventFilter,
    ) -> Result<Vec<Record>, StoreError> {
        match self {
            Self::Database(reader) => reader.events(after, limit, filter),
            Self::Stream(reader) => reader.events(after, limit, filter).await,
        }
    }

    /// The nodes of a cluster and their polls of the last minute; none beside a database.
    pub(super) async fn nodes(&self) -> Result<Vec<(String, u64)>, StoreError> {
        match self {
            Self::Database(_) => Ok(Vec::new()),
            Self::Stream(reader) => reader.nodes().await,
        }
    }
}
