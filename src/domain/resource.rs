//! Required resources: their identity, their state, and what differs between two answers.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::text;

/// What a resource is called where the answer leaves its type or state out.
pub(super) const UNKNOWN: &str = "UNKNOWN";

/// A resource's state. Only three values are known; the set is open, and any other value is
/// kept as it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ResourceState {
    Required,
    InProgress,
    Complete,
    Other(Box<str>),
}

impl ResourceState {
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Required => "REQUIRED",
            Self::InProgress => "IN_PROGRESS",
            Self::Complete => "COMPLETE",
            Self::Other(text) => text,
        }
    }

    #[must_use]
    pub fn is_required(&self) -> bool {
        *self == Self::Required
    }
}

impl From<&str> for ResourceState {
    fn from(text: &str) -> Self {
        match text {
            "REQUIRED" => Self::Required,
            "IN_PROGRESS" => Self::InProgress,
            "COMPLETE" => Self::Complete,
            other => Self::Other(other.into()),
        }
    }
}

impl fmt::Display for ResourceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ResourceState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl JsonSchema for ResourceState {
    fn schema_name() -> Cow<'static, str> {
        "ResourceState".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "REQUIRED, IN_PROGRESS, COMPLETE, or whatever else the API said; \
                            UNKNOWN where it said nothing.",
            "examples": ["REQUIRED", "IN_PROGRESS", "COMPLETE"],
        })
    }
}

impl<'de> Deserialize<'de> for ResourceState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::read(deserializer, |text| Ok::<_, Infallible>(Self::from(text)))
    }
}

/// Identity of a resource within its session.
///
/// Ids are not relied on to be unique: examples in Yoti's documentation repeat one id for every
/// resource. The ordinal counts from 0 among resources of equal type and id.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct ResourceKey {
    /// As the API named it, such as `ID_DOCUMENT`.
    #[serde(rename = "type")]
    pub kind: Box<str>,
    pub id: Box<str>,
    /// Counts from 0 among resources of equal type and id.
    pub ordinal: u32,
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.id)?;
        if self.ordinal > 0 {
            write!(f, " #{}", self.ordinal)?;
        }
        Ok(())
    }
}

/// A resource and the state it was last seen in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resource {
    #[serde(rename = "resource")]
    pub key: ResourceKey,
    pub state: ResourceState,
}

/// A resource as one answer lists it, before it has an ordinal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub kind: Box<str>,
    pub id: Box<str>,
    pub state: ResourceState,
}

impl Listed {
    /// Nothing is dropped: a missing type or state is called `UNKNOWN`, a missing id is empty.
    #[must_use]
    pub fn new(kind: Option<&str>, id: Option<&str>, state: Option<&str>) -> Self {
        Self {
            kind: kind.unwrap_or(UNKNOWN).into(),
            id: id.unwrap_or_default().into(),
            state: state.unwrap_or(UNKNOWN).into(),
        }
    }
}

/// How many resources stand in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    pub total: u32,
    pub required: u32,
    pub in_progress: u32,
    pub complete: u32,
    /// In any other state.
    pub other: u32,
}

impl Progress {
    #[must_use]
    pub fn of(resources: &[Resource]) -> Self {
        let mut progress = Self::default();
        for resource in resources {
            progress.total += 1;
            match resource.state {
                ResourceState::Required => progress.required += 1,
                ResourceState::InProgress => progress.in_progress += 1,
                ResourceState::Complete => progress.complete += 1,
                ResourceState::Other(_) => progress.other += 1,
            }
        }
        progress
    }
}

/// One difference between two answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Difference {
    Changed { key: ResourceKey, from: ResourceState, to: ResourceState },
    Added(Resource),
    Removed(Resource),
}

/// Whether an answer lists exactly what is known, in the same order: nearly every answer does.
pub(super) fn unchanged(known: &[Resource], listed: &[Listed]) -> bool {
    known.len() == listed.len()
        && known
            .iter()
            .zip(listed)
            .all(|(k, l)| k.key.kind == l.kind && k.key.id == l.id && k.state == l.state)
}

/// Gives what is listed its ordinals, against what was known before.
///
/// Resources of equal type and id can't be told apart, so the reading with the fewest changes
/// is taken: what kept its state keeps its ordinal, wherever the list now puts it, and only
/// the rest is paired in order of listing. Without this, a reordered answer would look like
/// documents handed in and taken back.
pub(super) fn number(known: &[Resource], listed: Vec<Listed>) -> Vec<Resource> {
    let mut before: BTreeMap<(&str, &str), Vec<&Resource>> = BTreeMap::new();
    for resource in known {
        before.entry((&resource.key.kind, &resource.key.id)).or_default().push(resource);
    }
    let mut equals: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for (place, item) in listed.iter().enumerate() {
        equals.entry((&item.kind, &item.id)).or_default().push(place);
    }
    let mut ordinals = vec![0; listed.len()];
    for (name, places) in &equals {
        let states: Vec<&ResourceState> =
            places.iter().map(|&place| &listed[place].state).collect();
        let known = before.get(name).map_or(&[][..], Vec::as_slice);
        for (&place, ordinal) in places.iter().zip(pair(known, &states)) {
            ordinals[place] = ordinal;
        }
    }
    listed
        .into_iter()
        .zip(ordinals)
        .map(|(Listed { kind, id, state }, ordinal)| Resource {
            key: ResourceKey { kind, id, ordinal },
            state,
        })
        .collect()
}

/// One ordinal for each of `states`, which belong to resources of equal type and id.
fn pair(known: &[&Resource], states: &[&ResourceState]) -> Vec<u32> {
    let mut given: Vec<Option<u32>> = vec![None; states.len()];
    let mut changed: BTreeSet<u32> = BTreeSet::new();
    for resource in known {
        let kept = (0..states.len()).find(|&i| given[i].is_none() && *states[i] == resource.state);
        match kept {
            Some(i) => given[i] = Some(resource.key.ordinal),
            None => {
                changed.insert(resource.key.ordinal);
            }
        }
    }
    let taken: BTreeSet<u32> = known.iter().map(|r| r.key.ordinal).collect();
    let new = (0..).filter(|ordinal| !taken.contains(ordinal));
    let mut rest = changed.into_iter().chain(new);
    given.into_iter().filter_map(|ordinal| ordinal.or_else(|| rest.next())).collect()
}

/// What differs, in the order of the new listing, then what is gone in the order it had.
pub(super) fn differences(before: &[Resource], after: &[Resource]) -> Vec<Difference> {
    let states = |among: &'_ [Resource]| -> BTreeMap<ResourceKey, ResourceState> {
        among.iter().map(|r| (r.key.clone(), r.state.clone())).collect()
    };
    let (earlier, later) = (states(before), states(after));
    let mut found = Vec::new();
    for resource in after {
        match earlier.get(&resource.key) {
            None => found.push(Difference::Added(resource.clone())),
            Some(from) if *from != resource.state => found.push(Difference::Changed {
                key: resource.key.clone(),
                from: from.clone(),
                to: resource.state.clone(),
            }),
            Some(_) => {}
        }
    }
    let gone = before.iter().filter(|r| !later.contains_key(&r.key));
    found.extend(gone.cloned().map(Difference::Removed));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(states: &[&str]) -> Vec<Listed> {
        states.iter().map(|s| Listed::new(Some("ID_DOCUMENT"), Some("same"), Some(s))).collect()
    }

    fn changes(before: &[&str], after: &[&str]) -> usize {
        let known = number(&[], list(before));
        differences(&known, &number(&known, list(after))).len()
    }

    #[test]
    fn one_id_for_four_types_is_four_resources() {
        let listed: Vec<Listed> =
            ["ID_DOCUMENT", "SUPPLEMENTARY_DOCUMENT", "FACE_CAPTURE", "ID_DOCUMENT"]
                .iter()
                .map(|kind| Listed::new(Some(kind), Some("same"), Some("REQUIRED")))
                .collect();
        let keys: Vec<String> = number(&[], listed).iter().map(|r| r.key.to_string()).collect();
        assert_eq!(
            keys,
            [
                "ID_DOCUMENT same",
                "SUPPLEMENTARY_DOCUMENT same",
                "FACE_CAPTURE same",
                "ID_DOCUMENT same #1"
            ]
        );
    }

    #[test]
    fn an_answer_is_unchanged_only_if_it_lists_the_same_in_every_part() {
        let listed = |kind, id, state| vec![Listed::new(Some(kind), Some(id), Some(state))];
        let known = number(&[], listed("ID_DOCUMENT", "one", "REQUIRED"));
        assert!(unchanged(&known, &listed("ID_DOCUMENT", "one", "REQUIRED")));
        assert!(!unchanged(&known, &listed("LIVENESS", "one", "REQUIRED")));
        assert!(!unchanged(&known, &listed("ID_DOCUMENT", "two", "REQUIRED")));
        assert!(!unchanged(&known, &listed("ID_DOCUMENT", "one", "COMPLETE")));
        assert!(!unchanged(&known, &[]));
        assert!(!unchanged(&[], &listed("ID_DOCUMENT", "one", "REQUIRED")));
    }

    #[test]
    fn progress_counts_each_state() {
        let states = ["ODD", "REQUIRED", "IN_PROGRESS", "COMPLETE", "ODD", "EVEN"];
        let resources = number(&[], list(&states));
        let expected = Progress { total: 6, required: 1, in_progress: 1, complete: 1, other: 3 };
        assert_eq!(Progress::of(&resources), expected);
    }

    #[test]
    fn equals_in_another_order_are_no_change() {
        assert_eq!(changes(&["REQUIRED", "COMPLETE"], &["COMPLETE", "REQUIRED"]), 0);
        assert_eq!(
            changes(&["REQUIRED", "REQUIRED", "COMPLETE"], &["COMPLETE", "COMPLETE", "REQUIRED"]),
            1
        );
    }

    #[test]
    fn a_removed_equal_leaves_a_gap_that_the_next_added_one_fills() {
        let known = number(&[], list(&["REQUIRED", "COMPLETE"]));
        let fewer = number(&known, list(&["COMPLETE"]));
        assert_eq!(fewer[0].key.ordinal, 1);
        let more = number(&fewer, list(&["COMPLETE", "REQUIRED"]));
        assert_eq!(more[1].key.ordinal, 0);
        assert_eq!(differences(&known, &fewer), [Difference::Removed(known[0].clone())]);
    }

    #[test]
    fn what_is_missing_is_named_and_kept() {
        let listed = Listed::new(None, None, None);
        assert_eq!((&*listed.kind, &*listed.id), ("UNKNOWN", ""));
        assert_eq!(listed.state, ResourceState::Other("UNKNOWN".into()));
    }
}
