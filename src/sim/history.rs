//! What truly happened to a session: what a client's events are compared with.

use serde::Serialize;

use crate::domain::{Resource, ResourceKey, ResourceState, Timestamp};

/// Something that happened, at the moment from which on answers show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    pub at: Timestamp,
    #[serde(flatten)]
    pub what: Happening,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Happening {
    Created { resources: Vec<Resource> },
    StateChanged { resource: ResourceKey, from: ResourceState, to: ResourceState },
    Added { resource: ResourceKey, state: ResourceState },
    Removed { resource: ResourceKey, last_state: ResourceState },
    Completed,
    Expired,
    Deleted,
}
