//! A session in few bytes: a million of them are kept in memory, and hardly any is looked at.
//!
//! Four resources and two labels take some 130 bytes, of which 64 are the resources' ids. What is
//! nearly always absent has a bit that says so, times are distances from one another, and the
//! words that everybody uses are numbers. Nothing of this form leaves the process, so it may be
//! another in every version.

use uuid::Uuid;

use super::super::event::EndReason;
use super::super::id::SessionId;
use super::super::labels::Labels;
use super::super::observation::{Fingerprint, Problem, ProblemKind};
use super::super::packing::{Moments, Reader, Writer};
use super::super::resource::{Resource, ResourceKey, ResourceState};
use super::super::schedule::Urgency;
use super::super::time::Timestamp;
use super::{Entry, Life, Phase, PhaseName, Schedule, Session, Told};

/// A session without its id and its fingerprint, packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed(Box<[u8]>);

/// Types of resources that are written as their place in this list.
const KINDS: [&str; 6] = [
    "ID_DOCUMENT",
    "SUPPLEMENTARY_DOCUMENT",
    "LIVENESS",
    "FACE_CAPTURE",
    "APPLICANT_PROFILE",
    "UNKNOWN",
];

/// Bits of the first two bytes: what the session is, and what is there of it.
mod bit {
    pub(super) const LISTED: u16 = 1;
    pub(super) const OBSERVED: u16 = 1 << 1;
    pub(super) const TOLD_EXPIRING: u16 = 1 << 2;
    pub(super) const TOLD_COMPLETED: u16 = 1 << 3;
    pub(super) const TOLD_FAILING: u16 = 1 << 4;
    pub(super) const ENDED: u16 = 1 << 5;
    pub(super) const ACTIVE_UNTIL: u16 = 1 << 6;
    pub(super) const MISSING_SINCE: u16 = 1 << 7;
    pub(super) const LAST_POLL: u16 = 1 << 8;
    pub(super) const LAST_GOOD: u16 = 1 << 9;
    pub(super) const TROUBLE: u16 = 1 << 10;
    pub(super) const OVERTIME: u16 = 1 << 11;
    pub(super) const EXPIRES_AT: u16 = 1 << 12;
    pub(super) const INTERVAL: u16 = 1 << 13;
    /// Two bits.
    pub(super) const URGENCY_FROM: u32 = 14;
}

impl Packed {
    /// What is in `scratch` doesn't matter; its memory is used again and again.
    #[must_use]
    pub fn of(session: &Session, scratch: &mut Vec<u8>) -> Self {
        Self(pack(session, scratch).into())
    }

    /// Packs another value of the session, into the same memory if it takes as much of it.
    pub fn replace(&mut self, session: &Session, scratch: &mut Vec<u8>) {
        let bytes = pack(session, scratch);
        if self.0.len() == bytes.len() {
            self.0.copy_from_slice(bytes);
        } else {
            self.0 = bytes.into();
        }
    }

    #[must_use]
    pub fn unpack(&self, id: SessionId, fingerprint: Option<Fingerprint>) -> Session {
        let mut bytes = Reader(&self.0);
        let head = bytes.head();
        let has = |bit| head.bits & bit != 0;
        let labels = Labels::from_packed(bytes.text());
        let moment = &mut Moments::default();
        let tracked_at = bytes.moment(moment);
        let deadline = bytes.moment(moment);
        let poll_at = bytes.moment(moment);
        let mut optional = |bit| has(bit).then(|| bytes.moment(moment));
        let last_poll = optional(bit::LAST_POLL);
        let last_good = optional(bit::LAST_GOOD);
        let missing_since = optional(bit::MISSING_SINCE);
        let overtime = optional(bit::OVERTIME);
        let expires_at = optional(bit::EXPIRES_AT);
        let interval = has(bit::INTERVAL).then(|| bytes.duration());
        let trouble = if has(bit::TROUBLE) { bytes.trouble() } else { Trouble::default() };
        Session {
            entry: Entry { session_id: id, labels, expires_at, interval },
            life: Life {
                listed: has(bit::LISTED),
                tracked_at,
                deadline,
                observed: has(bit::OBSERVED),
                active_until: head.active_until,
                missing_since,
                told: Told {
                    expiring: has(bit::TOLD_EXPIRING),
                    completed: has(bit::TOLD_COMPLETED),
                    failing: has(bit::TOLD_FAILING),
                },
                ended: head.ended,
                sequence: bytes.number(),
                resources: (0..bytes.number()).map(|_| bytes.resource()).collect(),
            },
            schedule: Schedule {
                poll_at,
                urgency: head.urgency(),
                last_poll,
                last_good,
                failures: trouble.failures,
                strikes: trouble.strikes,
                failing_since: trouble.failing_since,
                last_problem: trouble.last_problem,
                fingerprint,
                overtime,
            },
        }
    }

    #[must_use]
    pub fn is_listed(&self) -> bool {
        Reader(&self.0).head().bits & bit::LISTED != 0
    }

    #[must_use]
    pub fn ended(&self) -> Option<(EndReason, Timestamp)> {
        Reader(&self.0).head().ended
    }

    #[must_use]
    pub fn phase(&self, now: Timestamp) -> PhaseName {
        let head = Reader(&self.0).head();
        let has = |bit| head.bits & bit != 0;
        let phase = Session::phase_of(
            head.ended.map(|(reason, _)| reason),
            has(bit::TOLD_FAILING),
            has(bit::OBSERVED),
            head.active_until.is_some_and(|until| now < until),
        );
        Phase::name(phase)
    }

    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut bytes = Reader(&self.0);
        bytes.head();
        Labels::pairs(bytes.text())
    }
}

fn pack<'a>(session: &Session, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    scratch.clear();
    let mut bytes = Writer(std::mem::take(scratch));
    bytes.session(session);
    *scratch = bytes.0;
    scratch
}

impl Entry {
    /// Appends the entry, packed.
    pub fn pack(&self, to: &mut Vec<u8>) {
        let mut bytes = Writer(std::mem::take(to));
        bytes.0.extend(self.session_id.as_bytes());
        bytes.flags([self.expires_at.is_some(), self.interval.is_some(), false]);
        if let Some(at) = self.expires_at {
            bytes.moment(at, &mut Moments::default());
        }
        if let Some(interval) = self.interval {
            bytes.duration(interval);
        }
        bytes.text(self.labels.packed());
        *to = bytes.0;
    }

    /// Takes a [`packed`](Self::pack) entry off the front of the bytes.
    pub fn unpack(bytes: &mut &[u8]) -> Self {
        let mut reader = Reader(bytes);
        let session_id = SessionId::from_bytes(reader.array());
        let [expires, has_interval, _] = reader.flags();
        let entry = Self {
            session_id,
            expires_at: expires.then(|| reader.moment(&mut Moments::default())),
            interval: has_interval.then(|| reader.duration()),
            labels: Labels::from_packed(reader.text()),
        };
        *bytes = reader.0;
        entry
    }
}

/// What stands before everything else: what sessions are counted and searched by.
struct Head {
    bits: u16,
    ended: Option<(EndReason, Timestamp)>,
    active_until: Option<Timestamp>,
}

impl Head {
    fn urgency(&self) -> Urgency {
        Urgency::ALL[usize::from(self.bits >> bit::URGENCY_FROM)]
    }
}

/// What a session that fares well has nothing of.
#[derive(Default, PartialEq)]
struct Trouble {
    failures: u32,
    strikes: u32,
    failing_since: Option<Timestamp>,
    last_problem: Option<Problem>,
}

impl Writer {
    fn session(&mut self, session: &Session) {
        let Session { entry, life, schedule } = session;
        let trouble = schedule.failures != 0
            || schedule.strikes != 0
            || schedule.failing_since.is_some()
            || schedule.last_problem.is_some();
        let bits = [
            (life.listed, bit::LISTED),
            (life.observed, bit::OBSERVED),
            (life.told.expiring, bit::TOLD_EXPIRING),
            (life.told.completed, bit::TOLD_COMPLETED),
            (life.told.failing, bit::TOLD_FAILING),
            (life.ended.is_some(), bit::ENDED),
            (life.active_until.is_some(), bit::ACTIVE_UNTIL),
            (life.missing_since.is_some(), bit::MISSING_SINCE),
            (schedule.last_poll.is_some(), bit::LAST_POLL),
            (schedule.last_good.is_some(), bit::LAST_GOOD),
            (trouble, bit::TROUBLE),
            (schedule.overtime.is_some(), bit::OVERTIME),
            (entry.expires_at.is_some(), bit::EXPIRES_AT),
            (entry.interval.is_some(), bit::INTERVAL),
        ];
        let bits = bits.into_iter().filter(|(is_set, _)| *is_set).map(|(_, bit)| bit).sum::<u16>()
            | (schedule.urgency as u16) << bit::URGENCY_FROM;
        self.0.extend(bits.to_le_bytes());
        if let Some((reason, at)) = life.ended {
            self.0.push(reason as u8);
            self.moment(at, &mut Moments::default());
        }
        if let Some(until) = life.active_until {
            self.moment(until, &mut Moments::default());
        }
        self.text(entry.labels.packed());
        let moment = &mut Moments::default();
        let certain = [life.tracked_at, life.deadline, schedule.poll_at].map(Some);
        let optional = [
            schedule.last_poll,
            schedule.last_good,
            life.missing_since,
            schedule.overtime,
            entry.expires_at,
        ];
        for at in certain.into_iter().chain(optional).flatten() {
            self.moment(at, moment);
        }
        if let Some(interval) = entry.interval {
            self.duration(interval);
        }
        if trouble {
            self.trouble(schedule);
        }
        self.number(life.sequence);
        self.number(life.resources.len() as u64);
        for resource in &*life.resources {
            self.resource(resource);
        }
    }

    fn trouble(&mut self, schedule: &Schedule) {
        let problem = schedule.last_problem.as_ref();
        self.flags([schedule.failing_since.is_some(), problem.is_some(), false]);
        self.number(schedule.failures.into());
        self.number(schedule.strikes.into());
        if let Some(since) = schedule.failing_since {
            self.moment(since, &mut Moments::default());
        }
        if let Some(Problem { kind, status, code, request_id, message }) = problem {
            self.0.push(*kind as u8);
            self.flags([status.is_some(), code.is_some(), request_id.is_some()]);
            if let Some(status) = status {
                self.number((*status).into());
            }
            for text in code.iter().chain(request_id).chain([message]) {
                self.text(text);
            }
        }
    }

    fn resource(&mut self, Resource { key, state }: &Resource) {
        let kind = KINDS.iter().position(|&known| known == &*key.kind);
        let id = as_uuid(&key.id);
        let state_number = match state {
            ResourceState::Other(_) => 0,
            ResourceState::Required => 1,
            ResourceState::InProgress => 2,
            ResourceState::Complete => 3,
        };
        // The types take three bits, where one beyond them all stands for a text.
        let kind_number = u8::try_from(kind.unwrap_or(KINDS.len())).unwrap_or(u8::MAX);
        let (has_ordinal, is_uuid) = (u8::from(key.ordinal > 0), u8::from(id.is_some()));
        self.0.push(kind_number | state_number << 3 | has_ordinal << 5 | is_uuid << 6);
        if kind.is_none() {
            self.text(&key.kind);
        }
        match id {
            Some(id) => self.0.extend(id.as_bytes()),
            None => self.text(&key.id),
        }
        if key.ordinal > 0 {
            self.number(key.ordinal.into());
        }
        if let ResourceState::Other(state) = state {
            self.text(state);
        }
    }
}

impl Reader<'_> {
    fn head(&mut self) -> Head {
        let bits = u16::from_le_bytes(self.array());
        let has = |bit| bits & bit != 0;
        let moment = |reader: &mut Self| reader.moment(&mut Moments::default());
        let ended =
            has(bit::ENDED).then(|| (EndReason::ALL[usize::from(self.byte())], moment(self)));
        let active_until = has(bit::ACTIVE_UNTIL).then(|| moment(self));
        Head { bits, ended, active_until }
    }

    fn trouble(&mut self) -> Trouble {
        let [is_failing, has_problem, _] = self.flags();
        Trouble {
            failures: self.small(),
            strikes: self.small(),
            failing_since: is_failing.then(|| self.moment(&mut Moments::default())),
            last_problem: has_problem.then(|| self.problem()),
        }
    }

    fn problem(&mut self) -> Problem {
        let kind = ProblemKind::ALL[usize::from(self.byte())];
        let [has_status, has_code, has_request_id] = self.flags();
        Problem {
            kind,
            status: has_status.then(|| u16::try_from(self.number()).unwrap_or(0)),
            code: has_code.then(|| self.text().to_owned()),
            request_id: has_request_id.then(|| self.text().to_owned()),
            message: self.text().to_owned(),
        }
    }

    fn resource(&mut self) -> Resource {
        let head = self.byte();
        let has = |bit: u32| head >> bit & 1 == 1;
        let kind = KINDS.get(usize::from(head & 7)).copied().unwrap_or_else(|| self.text());
        let id = if has(6) {
            let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
            Box::from(&*Uuid::from_bytes(self.array()).hyphenated().encode_lower(&mut text))
        } else {
            Box::from(self.text())
        };
        let ordinal = if has(5) { self.small() } else { 0 };
        let state = match head >> 3 & 3 {
            1 => ResourceState::Required,
            2 => ResourceState::InProgress,
            3 => ResourceState::Complete,
            _ => ResourceState::Other(self.text().into()),
        };
        Resource { key: ResourceKey { kind: kind.into(), id, ordinal }, state }
    }
}

/// The UUID that is written so; other spellings of one stay text, and come back as they were.
fn as_uuid(text: &str) -> Option<Uuid> {
    let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
    let id = (text.len() == buffer.len()).then(|| Uuid::try_parse(text).ok())??;
    (*id.hyphenated().encode_lower(&mut buffer) == *text).then_some(id)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn moment() -> impl Strategy<Value = Timestamp> {
        prop_oneof![
            (1_790_000_000_000..1_800_000_000_000_i64).prop_map(Timestamp::from_millis),
            any::<i64>().prop_map(Timestamp::from_millis),
        ]
    }

    fn some_moment() -> impl Strategy<Value = Option<Timestamp>> {
        prop::option::of(moment())
    }

    fn word() -> impl Strategy<Value = Box<str>> {
        prop_oneof![
            prop::sample::select(KINDS.to_vec()).prop_map(Into::into),
            any::<u128>().prop_map(|n| Uuid::from_u128(n).to_string().into()),
            any::<u128>().prop_map(|n| Uuid::from_u128(n).to_string().to_uppercase().into()),
            any::<u128>().prop_map(|n| Uuid::from_u128(n).simple().to_string().into()),
            "(?s).{0,40}".prop_map(Into::into),
        ]
    }

    fn resource() -> impl Strategy<Value = Resource> {
        let state = prop_oneof![
            Just("REQUIRED".to_owned()),
            Just("IN_PROGRESS".to_owned()),
            Just("COMPLETE".to_owned()),
            "(?s).{0,30}",
        ];
        (word(), word(), prop_oneof![Just(0), any::<u32>()], state).prop_map(
            |(kind, id, ordinal, state)| Resource {
                key: ResourceKey { kind, id, ordinal },
                state: state.as_str().into(),
            },
        )
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let pairs = prop::collection::btree_map("(?s).{1,20}", "(?s).{0,40}", 0..4);
        let interval = prop::option::of((any::<u64>(), 0..1_000_000_000_u32));
        (any::<[u8; 16]>(), pairs, some_moment(), interval).prop_map(
            |(id, pairs, expires_at, interval)| Entry {
                session_id: SessionId::from_bytes(id),
                labels: Labels::new(pairs).expect("labels within bounds"),
                expires_at,
                interval: interval.map(|(seconds, nanos)| Duration::new(seconds, nanos)),
            },
        )
    }

    fn life() -> impl Strategy<Value = Life> {
        let ended = prop::option::of((prop::sample::select(EndReason::ALL.to_vec()), moment()));
        (
            (any::<[bool; 5]>(), any::<u64>(), moment(), moment()),
            (some_moment(), some_moment(), ended, prop::collection::vec(resource(), 0..6)),
        )
            .prop_map(
                |((flags, sequence, tracked_at, deadline), (until, since, ended, resources))| {
                    let [listed, observed, expiring, completed, failing] = flags;
                    Life {
                        sequence,
                        listed,
                        tracked_at,
                        deadline,
                        observed,
                        resources: resources.into(),
                        active_until: until,
                        missing_since: since,
                        told: Told { expiring, completed, failing },
                        ended,
                    }
                },
            )
    }

    fn problem() -> impl Strategy<Value = Problem> {
        let text = || prop::option::of("(?s).{0,40}");
        let kind = prop::sample::select(ProblemKind::ALL.to_vec());
        (kind, any::<Option<u16>>(), text(), text(), "(?s).{0,80}").prop_map(
            |(kind, status, code, request_id, message)| Problem {
                kind,
                status,
                code,
                request_id,
                message,
            },
        )
    }

    fn schedule() -> impl Strategy<Value = Schedule> {
        let count = || prop_oneof![Just(0), any::<u32>()];
        (
            (moment(), prop::sample::select(Urgency::ALL.to_vec()), some_moment(), some_moment()),
            (count(), count(), some_moment(), prop::option::of(problem()), some_moment()),
            any::<Option<u64>>(),
        )
            .prop_map(|((poll_at, urgency, last_poll, last_good), rest, fingerprint)| {
                let (failures, strikes, failing_since, last_problem, overtime) = rest;
                Schedule {
                    poll_at,
                    urgency,
                    last_poll,
                    last_good,
                    failures,
                    strikes,
                    failing_since,
                    last_problem,
                    fingerprint: fingerprint.map(Fingerprint::of),
                    overtime,
                }
            })
    }

    fn session() -> impl Strategy<Value = Session> {
        (entry(), life(), schedule()).prop_map(|(entry, life, schedule)| Session {
            entry,
            life,
            schedule,
        })
    }

    proptest! {
        #[test]
        fn any_session_comes_back_as_it_was(session in session(), now in moment()) {
            let packed = Packed::of(&session, &mut Vec::new());
            prop_assert_eq!(packed.unpack(session.id(), session.fingerprint()), session.clone());
            prop_assert_eq!(packed.is_listed(), session.is_listed());
            prop_assert_eq!(packed.ended(), session.ended());
            prop_assert_eq!(packed.phase(now), session.phase(now).name());
            let labels: Vec<_> = session.entry().labels.iter().collect();
            prop_assert_eq!(packed.labels().collect::<Vec<_>>(), labels);
        }

        #[test]
        fn entries_come_back_one_behind_the_other(
            entries in prop::collection::vec(entry(), 0..5)
        ) {
            let mut bytes = Vec::new();
            for entry in &entries {
                entry.pack(&mut bytes);
            }
            let mut rest = bytes.as_slice();
            for entry in entries {
                prop_assert_eq!(Entry::unpack(&mut rest), entry);
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn another_value_takes_the_place_of_the_one_before(one in session(), other in session()) {
            let mut packed = Packed::of(&one, &mut Vec::new());
            packed.replace(&other, &mut vec![1, 2, 3]);
            prop_assert_eq!(packed, Packed::of(&other, &mut Vec::new()));
        }
    }

    #[test]
    fn each_word_has_the_number_of_its_place() {
        for (place, reason) in EndReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
        for (place, kind) in ProblemKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
        for (place, urgency) in Urgency::ALL.into_iter().enumerate() {
            assert_eq!(urgency as usize, place);
        }
    }

    /// What docs/OPERATIONS.md says of memory rests on it.
    #[test]
    fn an_ordinary_session_takes_some_130_bytes() {
        let pairs = [("case", "A-123456"), ("branch", "branch 123")];
        let labels = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let entry = Entry {
            session_id: SessionId::from_bytes([1; 16]),
            labels: Labels::new(labels.into()).unwrap(),
            expires_at: None,
            interval: None,
        };
        let now = Timestamp::from_millis(1_795_000_000_000);
        let policy = super::super::Policy::default();
        let mut session = Session::track(entry, 0, now, &policy).session;
        session.life.resources =
            ["ID_DOCUMENT", "SUPPLEMENTARY_DOCUMENT", "LIVENESS", "FACE_CAPTURE"]
                .map(|kind| Resource {
                    key: ResourceKey {
                        kind: kind.into(),
                        id: Uuid::from_u128(0x3fa8_5f64).to_string().into(),
                        ordinal: 0,
                    },
                    state: ResourceState::Required,
                })
                .into();
        session.schedule.last_poll = Some(now.plus(Duration::from_millis(52)));
        session.schedule.last_good = Some(now);
        session.schedule.poll_at = now.plus(Duration::from_secs(287));
        let bytes = Packed::of(&session, &mut Vec::new()).0.len();
        assert!(bytes <= 136, "{bytes}");
    }
}
