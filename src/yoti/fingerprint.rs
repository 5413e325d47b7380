//! Knows a configuration again without reading it.
//!
//! Nearly every answer is the one before but for the seconds that are left, so all that stands
//! around those is hashed. Of two bodies with one fingerprint the second lists what the first did, as
//! long as the seconds that were cut out of the first are those that a full reading found: then
//! they are so in the second as well, which is the same up to them and behind them.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use memchr::memmem;

use super::wire::{self, Unreadable};
use crate::domain::{Fingerprint, Listing, SessionId, Snapshot};

const TTL: &[u8] = b"\"client_session_token_ttl\"";
/// A number of that many digits is read alike as an integer and as a fraction.
const MOST_DIGITS: usize = 15;

/// Makes fingerprints, with a key of its own: nobody can find two bodies that have the same.
#[derive(Debug, Default)]
pub(super) struct Recognizer(RandomState);

impl Recognizer {
    /// Reads the configuration of the session that was asked about, unless it is known already.
    pub(super) fn read(
        &self,
        body: &[u8],
        asked: SessionId,
        known: Option<Fingerprint>,
    ) -> Result<Snapshot, Unreadable> {
        let parts = Parts::of(body);
        let fingerprint =
            parts.as_ref().map(|parts| Fingerprint::of(self.0.hash_one(parts.around())));
        if let Some(parts) = parts.as_ref().filter(|_| fingerprint == known) {
            return Ok(Snapshot { ttl: parts.ttl(), listing: Listing::Same });
        }
        let read = wire::configuration(body, asked)?;
        let cut_right = parts.is_some_and(|parts| match read.seconds() {
            Some(seconds) => std::ptr::eq(seconds.as_bytes(), parts.seconds),
            None => parts.seconds.is_empty(),
        });
        Ok(read.snapshot(fingerprint.filter(|_| cut_right)))
    }
}

/// A body, cut where the seconds that are left seem to stand.
struct Parts<'a> {
    before: &'a [u8],
    /// Digits, which may be the first of something else; empty where there are none.
    seconds: &'a [u8],
    after: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Nothing where the digits are too many, or none that JSON would take for a number.
    fn of(body: &'a [u8]) -> Option<Self> {
        let from = memmem::find(body, TTL).map_or(body.len(), |key| {
            let behind = &body[key + TTL.len()..];
            let value =
                behind.iter().position(|byte| !matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | b':'));
            value.map_or(body.len(), |value| key + TTL.len() + value)
        });
        let (before, rest) = body.split_at(from);
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (seconds, after) = rest.split_at(digits);
        let usual = digits <= MOST_DIGITS && (digits < 2 || seconds[0] != b'0');
        usual.then_some(Self { before, seconds, after })
    }

    /// What a fingerprint is of. Whether there are seconds belongs to it: JSON wants a value there.
    const fn around(&self) -> (&[u8], bool, &[u8]) {
        (self.before, self.seconds.is_empty(), self.after)
    }

    fn ttl(&self) -> Option<Duration> {
        let digit = |sum: u64, digit: &u8| sum * 10 + u64::from(digit - b'0');
        let seconds = (!self.seconds.is_empty()).then(|| self.seconds.iter().fold(0, digit));
        seconds.map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Listed;

    const ID: &str = "3fa85f64-5717-4562-b3fc-2c963f66afa6";

    fn body(ttl: &str, state: &str) -> String {
        format!(
            r#"{{"client_session_token_ttl" : {ttl},"session_id":"{ID}",
                "capture":{{"required_resources":[{{"type":"LIVENESS","id":"a","state":"{state}"}}]}}}}"#
        )
    }

    /// Reads one body, and then another with what is known from the first.
    fn one_after_the_other(
        first: &str,
        second: &str,
    ) -> (Result<Snapshot, Unreadable>, Result<Snapshot, Unreadable>) {
        let (recognizer, id) = (Recognizer::default(), ID.parse().unwrap());
        let read = |body: &str, known| recognizer.read(body.as_bytes(), id, known);
        let first = read(first, None);
        let fingerprint = first.as_ref().ok().and_then(|snapshot| snapshot.listing.fingerprint());
        let second = read(second, fingerprint);
        (first, second)
    }

    #[test]
    fn a_body_is_known_again_whatever_time_remains() {
        for (first, second) in
            [("599", "599"), ("599", "598"), ("100", "99"), ("5", "0"), ("0", "7")]
        {
            let (read, again) =
                one_after_the_other(&body(first, "REQUIRED"), &body(second, "REQUIRED"));
            assert!(read.unwrap().listing.resources().is_some());
            let ttl = Some(Duration::from_secs(second.parse().unwrap()));
            assert_eq!(again, Ok(Snapshot { ttl, listing: Listing::Same }));
        }
    }

    #[test]
    fn a_body_that_states_no_time_is_known_again() {
        for without in [format!(r#"{{"session_id":"{ID}"}}"#), body("null", "REQUIRED")] {
            let (_, again) = one_after_the_other(&without, &without);
            assert_eq!(again, Ok(Snapshot { ttl: None, listing: Listing::Same }));
        }
    }

    #[test]
    fn what_lists_anything_else_is_read() {
        let (_, other) = one_after_the_other(&body("599", "REQUIRED"), &body("598", "COMPLETE"));
        let expected = [Listed::new(Some("LIVENESS"), Some("a"), Some("COMPLETE"))];
        assert_eq!(other.unwrap().listing.resources(), Some(&expected[..]));
    }

    #[test]
    fn a_body_is_cut_nowhere_but_where_the_time_remaining_stands() {
        let within = |seconds| {
            format!(
                r#"{{"x":{{"client_session_token_ttl":{seconds}}},"session_id":"{ID}","client_session_token_ttl":9}}"#
            )
        };
        let as_a_text = format!(
            r#"{{"x":"client_session_token_ttl","client_session_token_ttl":9,"session_id":"{ID}"}}"#
        );
        let odd = ["599.0", "5.99e2", r#""599""#, "-5", "18446744073709551616"];
        let bodies = [within(1), as_a_text].into_iter();
        for body in bodies.chain(odd.map(|ttl| body(ttl, "REQUIRED"))) {
            let (read, again) = one_after_the_other(&body, &body);
            assert_eq!(again, read, "{body}");
            assert!(read.unwrap().listing.resources().is_some());
        }
    }

    #[test]
    fn a_number_that_json_does_not_know_is_no_time_remaining() {
        let (_, again) = one_after_the_other(&body("599", "REQUIRED"), &body("0599", "REQUIRED"));
        assert_eq!(again, Err(Unreadable::NotJson));
        let (_, without) = one_after_the_other(&body("599", "REQUIRED"), &body("", "REQUIRED"));
        assert_eq!(without, Err(Unreadable::NotJson));
    }

    fn whole(body: &str) -> Result<Snapshot, Unreadable> {
        wire::configuration(body.as_bytes(), ID.parse().unwrap()).map(|read| read.snapshot(None))
    }

    proptest! {
        #[test]
        fn what_is_known_again_is_what_reading_it_would_say(
            ttls in prop::array::uniform2(prop_oneof![
                "[0-9]{0,17}", "-?[0-9]{1,3}(\\.[0-9]{1,2})?", Just("null".to_owned()),
            ]),
            around in prop::array::uniform2(prop::sample::select(vec![
                "", r#""client_session_token_ttl":1,"#, r#""x":{"client_session_token_ttl":2},"#,
                r#""\"client_session_token_ttl":3,"#, r#""client_session_token_tt\u006c":4,"#,
                r#""y":[],"#,
            ])),
            key in prop::sample::select(vec!["client_session_token_ttl", "client_session_token_tt\\u006c"]),
            states in prop::array::uniform2(prop::sample::select(vec!["REQUIRED", "COMPLETE"])),
        ) {
            let bodies: Vec<String> = ttls.iter().zip(states).map(|(ttl, state)| {
                body(ttl, state).replacen("client_session_token_ttl", key, 1)
                    .replacen('{', &format!("{{{}", around[0]), 1)
                    .replacen(r#""capture""#, &format!(r#"{}"capture""#, around[1]), 1)
            }).collect();
            let (_, again) = one_after_the_other(&bodies[0], &bodies[1]);
            let expected = whole(&bodies[1]);
            match again {
                Ok(Snapshot { ttl, listing: Listing::Same }) => {
                    prop_assert_eq!(Ok(ttl), expected.clone().map(|it| it.ttl));
                    let listed = |it: Result<Snapshot, _>| it.map(|it| it.listing);
                    prop_assert_eq!(listed(whole(&bodies[0])), listed(expected));
                }
                Ok(Snapshot { ttl, listing }) => {
                    let listing = listing.resources().unwrap().to_vec().into();
                    prop_assert_eq!(Ok(Snapshot { ttl, listing }), expected);
                }
                Err(error) => prop_assert_eq!(Err(error), expected),
            }
        }
    }
}
