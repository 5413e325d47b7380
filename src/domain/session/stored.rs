//! How a session's resources are stored, one like `[["ID_DOCUMENT", "<id>", 0], "REQUIRED"]`: a start reads
//! millions of them, to which a name for each part would be most of what is to be read. Where the names
//! are there, they are read as well.

use serde::Serializer;

use super::super::resource::{Resource, ResourceKey};

pub(super) fn serialize<S: Serializer>(
    resources: &[Resource],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(resources.iter().map(|Resource { key, state }| {
        let ResourceKey { kind, id, ordinal } = key;
        ((kind, id, ordinal), state)
    }))
}
