//! Points in time, as whole milliseconds that saturate instead of overflowing.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::text;

/// How people write a duration: numbers with units, like `90s` or `1h 30m`.
pub const DURATION_PATTERN: &str = concat!(
    r"^\s*([0-9]+(\.[0-9]+)?\s*(ns|nsec|nanos|us|usec|ms|msec|millis|s|sec|secs|second|seconds",
    r"|m|min|mins|minute|minutes|h|hr|hrs|hour|hours|d|day|days|w|week|weeks|M|month|months",
    r"|y|year|years)\s*)+$"
);

/// A moment of the wall clock: milliseconds since the Unix epoch, UTC.
///
/// Arithmetic saturates at the years 0 and 9999, so that an absurd TTL is a far deadline
/// and not a panic. Prints and parses RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an RFC 3339 time; write it like \"2026-12-07T22:00:00Z\"")]
pub struct InvalidTimestamp(pub String);

impl Timestamp {
    /// 0000-01-01T00:00:00Z
    pub const MIN: Self = Self(-62_167_219_200_000);
    /// 9999-12-30T22:00:00Z, the last moment that every time zone can write.
    pub const MAX: Self = Self(253_402_207_200_000);

    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        if millis < Self::MIN.0 {
            Self::MIN
        } else if millis > Self::MAX.0 {
            Self::MAX
        } else {
            Self(millis)
        }
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Seconds since the Unix epoch; zero before it.
    #[must_use]
    pub fn as_seconds(self) -> f64 {
        self.since(Self(0)).as_secs_f64()
    }

    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(whole_millis(duration)))
    }

    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self::from_millis(self.0.saturating_sub(whole_millis(duration)))
    }

    /// Time passed since `earlier`; zero where `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The distance to `other`, in whichever direction it lies.
    #[must_use]
    pub fn distance(self, other: Self) -> Duration {
        Duration::from_millis(self.0.abs_diff(other.0))
    }

    /// The moment, cut to whole seconds.
    #[must_use]
    pub const fn floor_seconds(self) -> Self {
        Self(self.0 - self.0.rem_euclid(1_000))
    }
}

fn whole_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = jiff::Timestamp::from_millisecond(self.0).map_err(|_| fmt::Error)?;
        if self.0.rem_euclid(1_000) == 0 {
            write!(f, "{moment:.0}")
        } else {
            write!(f, "{moment:.3}")
        }
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<jiff::Timestamp>()
            .map(|moment| Self::from_millis(moment.as_millisecond()))
            .map_err(|_| InvalidTimestamp(text.to_owned()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Timestamp {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::read(deserializer, str::parse)
    }
}

/// By how much a wall clock was set ahead, or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    millis: i64,
}

impl Step {
    #[must_use]
    pub const fn between(before: Timestamp, after: Timestamp) -> Self {
        Self { millis: after.0.saturating_sub(before.0) }
    }

    /// What was that moment by the clock before the step.
    #[must_use]
    pub const fn of(self, time: Timestamp) -> Timestamp {
        Timestamp::from_millis(time.0.saturating_add(self.millis))
    }

    /// Seconds ahead, or behind if negative.
    #[must_use]
    pub const fn as_seconds(self) -> i64 {
        self.millis / 1_000
    }
}

/// The present, as the shell reads it and hands it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// What the wall clock says; may be stepped in either direction.
    pub wall: Timestamp,
    /// Time since an arbitrary start; never goes back, and counts while the machine is suspended.
    pub monotonic: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_whole_seconds_without_a_fraction_and_others_with_three_digits() {
        assert_eq!(Timestamp::from_millis(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Timestamp::from_millis(1_100).to_string(), "1970-01-01T00:00:01.100Z");
        assert_eq!(Timestamp::from_millis(-1).to_string(), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn reads_offsets_and_refuses_what_has_none() {
        assert_eq!(
            "2026-12-07T23:00:00+01:00".parse::<Timestamp>().unwrap().to_string(),
            "2026-12-07T22:00:00Z"
        );
        assert!("2026-12-07".parse::<Timestamp>().is_err());
        assert!("2026-12-07T22:00:00".parse::<Timestamp>().is_err());
    }

    #[test]
    fn saturates_at_both_ends_and_still_prints() {
        let far = Timestamp::from_millis(0).plus(Duration::MAX);
        assert_eq!(far, Timestamp::MAX);
        assert!(far.to_string().starts_with("9999-12-30"));
        let old = Timestamp::from_millis(0).minus(Duration::MAX);
        assert_eq!(old, Timestamp::MIN);
        assert!(old.to_string().starts_with("0000-01-01"));
        assert_eq!(old.since(far), Duration::ZERO);
    }

    #[test]
    fn is_counted_in_millis_and_in_seconds_from_the_epoch_on() {
        let at = Timestamp::from_millis(1_795_000_000_250);
        assert_eq!(at.as_millis(), 1_795_000_000_250);
        assert!((at.as_seconds() - 1_795_000_000.25).abs() < 1e-6);
        assert!(Timestamp::MIN.as_seconds().abs() < f64::EPSILON);
        assert_eq!(at.floor_seconds(), Timestamp::from_millis(1_795_000_000_000));
        assert_eq!(at.distance(at.plus(Duration::from_secs(3))), Duration::from_secs(3));
        assert_eq!(at.distance(at.minus(Duration::from_secs(3))), Duration::from_secs(3));
    }

    #[test]
    fn is_read_from_nothing_but_a_text() {
        let error = serde_json::from_str::<Timestamp>("7").unwrap_err().to_string();
        assert!(error.contains("expected a string"), "{error}");
    }

    #[test]
    fn a_step_moves_in_its_direction() {
        let (before, after) = (Timestamp::from_millis(10_000), Timestamp::from_millis(4_500));
        let back = Step::between(before, after);
        assert_eq!((back.of(before), back.as_seconds()), (after, -5));
    }
}
