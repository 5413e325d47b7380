//! How a session's resources are stored, one like `["ID_DOCUMENT", "<id>", 0, "REQUIRED"]`: a start reads
//! millions of them, to which a name for each part would be most of what is to be read.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serializer};

use super::super::resource::{Resource, ResourceKey, ResourceState};

pub(super) fn serialize<S: Serializer>(
    resources: &[Resource],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(resources.iter().map(|Resource { key, state }| {
        let ResourceKey { kind, id, ordinal } = key;
        (kind, id, ordinal, state)
    }))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Arc<[Resource]>, D::Error> {
    type Parts = (Box<str>, Box<str>, u32, ResourceState);
    let resource = |(kind, id, ordinal, state)| {
        let key = ResourceKey { kind, id, ordinal };
        Resource { key, state }
    };
    Ok(Vec::<Parts>::deserialize(deserializer)?.into_iter().map(resource).collect())
}
