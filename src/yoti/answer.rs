//! What an answer's status and headers mean, before and without its body.

use std::time::{Duration, UNIX_EPOCH};

use http::header::{AsHeaderName, DATE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};

use crate::domain::{Observation, Policy, Problem, ProblemKind, Timestamp};

use super::auth::Scheme;
use super::text;
use super::wire::{self, Reason, Unreadable};

/// Clocks closer than this explain no refusal. Dates come in whole seconds, and travel.
const CLOCK_TOLERANCE_SECONDS: u64 = 60;

/// The status line and headers of an answer, as far as they matter here.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    request_id: Option<String>,
    pub(super) retry_after: Option<Duration>,
    /// By how many seconds the server's clock is ahead of this machine's.
    pub(super) server_ahead_seconds: Option<i64>,
}

impl Head {
    /// Reads an answer that has arrived just now.
    pub(super) fn read(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Self {
        let date = header(headers, DATE).and_then(http_date);
        Self {
            status,
            request_id: header(headers, "x-request-id").and_then(text::identifier),
            retry_after: header(headers, RETRY_AFTER)
                .and_then(|value| retry_after(value, date.unwrap_or(now))),
            server_ahead_seconds: date.map(|date| (date.as_millis() - now.as_millis()) / 1_000),
        }
    }

    /// An answer that should have been good and makes no sense.
    pub(super) fn malformed(&self, unreadable: &Unreadable) -> Observation {
        Observation::Malformed(
            self.problem(ProblemKind::Malformed, format!("the answer {unreadable}")),
        )
    }

    pub(super) fn problem(&self, kind: ProblemKind, message: String) -> Problem {
        Problem {
            kind,
            status: Some(self.status.as_u16()),
            code: None,
            request_id: self.request_id.clone(),
            message,
        }
    }

    /// What any answer but 200 means. The body only adds the reason in words.
    pub(super) fn refusal(&self, body: &[u8], scheme: Scheme) -> Observation {
        let Reason { code, words } = wire::reason(body);
        let words = words.map_or(String::new(), |words| format!(": {words}"));
        let problem =
            |kind, message: String| Problem { code: code.clone(), ..self.problem(kind, message) };
        let malformed = |message| Observation::Malformed(problem(ProblemKind::Malformed, message));
        match self.status.as_u16() {
            401 | 403 => {
                let (kind, message) = self.unauthorized(&words, scheme);
                Observation::Unauthorized(problem(kind, message))
            }
            // The application is unknown, which says nothing of the session: taken for a missing
            // session, a wrong SDK id would end every one of them.
            404 if code.as_deref() == Some("APP_NOT_FOUND") => Observation::Unauthorized(problem(
                ProblemKind::Unauthorized,
                format!("the API does not know this application{words}; check api.sdk_id"),
            )),
            // Anything that is not Yoti's answers 404 as well, and a wrong api.base_url must not
            // end every session as not found.
            404 if code.is_none() => malformed(
                "what answered 404 does not look like the API; check api.base_url and the paths"
                    .to_owned(),
            ),
            404 => Observation::NotFound(problem(
                ProblemKind::NotFound,
                format!("the API knows no such session (deleted, or the id is wrong){words}"),
            )),
            408 => Observation::Unreachable(problem(
                ProblemKind::Unreachable,
                format!("the server timed out waiting for the request{words}"),
            )),
            409 => Observation::NotReady(problem(
                ProblemKind::NotReady,
                format!("the session has no configuration at present{words}"),
            )),
            429 => Observation::RateLimited {
                problem: problem(
                    ProblemKind::RateLimited,
                    format!("the API asks for fewer requests{words}; lower poll.rate_limit"),
                ),
                retry_after: self.retry_after,
            },
            500..=599 => Observation::ServerError {
                problem: problem(ProblemKind::ServerError, format!("the server failed{words}")),
                retry_after: self.retry_after,
            },
            300..=399 => malformed(
                "the answer redirects to another address, which is not followed; check api.base_url"
                    .to_owned(),
            ),
            400..=499 => malformed(format!(
                "the API did not understand the request{words}; check api.base_url, api.sdk_id and the paths"
            )),
            _ => malformed("the answer is a success of an undocumented kind; check api.base_url".to_owned()),
        }
    }

    fn unauthorized(&self, words: &str, scheme: Scheme) -> (ProblemKind, String) {
        match (scheme, self.clock_skew()) {
            (Scheme::SignedRequest, Some(skew)) => {
                (ProblemKind::ClockSkew, format!("the API refused the request{words}; {skew}"))
            }
            (Scheme::SignedRequest, None) => (
                ProblemKind::Unauthorized,
                format!(
                    "the API refused the request{words}; check api.sdk_id and api.auth.private_key_file"
                ),
            ),
            // No clock but the server's decides whether a token still holds.
            (Scheme::Bearer, _) => (
                ProblemKind::Unauthorized,
                format!(
                    "the API refused the access token{words}; check api.auth.scopes, and that api.base_url and api.auth.token_url belong together"
                ),
            ),
        }
    }

    /// That this machine's clock is so far off that it explains a refusal.
    pub(super) fn clock_skew(&self) -> Option<String> {
        let ahead = self.server_ahead_seconds?;
        let off = ahead.unsigned_abs();
        let side = if ahead > 0 { "behind" } else { "ahead of" };
        (off > CLOCK_TOLERANCE_SECONDS)
            .then(|| format!("this machine's clock is {off} s {side} the server's: set it right"))
    }
}

/// The problem of a request that was never sent.
pub(super) fn unsent(kind: ProblemKind, message: &str) -> Problem {
    Problem { kind, status: None, code: None, request_id: None, message: message.to_owned() }
}

fn header(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn http_date(value: &str) -> Option<Timestamp> {
    let date = httpdate::parse_http_date(value).ok()?;
    date.duration_since(UNIX_EPOCH).ok().map(|after| Timestamp::from_millis(0).plus(after))
}

/// Seconds, or a date that is compared with the server's own `now`. Anything else is ignored:
/// the backoff does without it.
fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let wait = if digits {
        // More digits than fit are a long wait all the same.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        http_date(value)?.since(now)
    };
    Some(wait.min(Policy::RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const NOW: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn now() -> Timestamp {
        http_date(NOW).unwrap()
    }

    fn head(status: u16, headers: &[(&'static str, &str)]) -> Head {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        Head::read(StatusCode::from_u16(status).unwrap(), &map, now())
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date_up_to_an_hour() {
        for (value, seconds) in [
            ("7", 7),
            ("0", 0),
            (" 12 ", 12),
            ("86400", 3600),
            ("99999999999999999999999999", 3600),
            ("Sun, 06 Nov 1994 08:50:37 GMT", 60),
            ("Sunday, 06-Nov-94 08:50:37 GMT", 60),
            ("Sun Nov  6 08:50:37 1994", 60),
            ("Sun, 06 Nov 1994 08:00:00 GMT", 0),
            ("Mon, 06 Nov 2034 08:49:37 GMT", 3600),
        ] {
            let wait = retry_after(value, now());
            assert_eq!(wait, Some(Duration::from_secs(seconds)), "{value}");
        }
        for garbage in ["", "-1", "1.5", "soon", "1e3", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(retry_after(garbage, now()), None, "{garbage}");
        }
    }

    #[test]
    fn a_retry_date_is_relative_to_the_servers_own_clock() {
        let head = head(
            503,
            &[
                ("date", "Sun, 06 Nov 1994 10:00:00 GMT"),
                ("retry-after", "Sun, 06 Nov 1994 10:00:30 GMT"),
            ],
        );
        assert_eq!(head.retry_after, Some(Duration::from_secs(30)));
        assert_eq!(head.server_ahead_seconds, Some(4223));
    }

    #[test]
    fn a_refusal_with_the_clock_far_off_says_so() {
        for (date, words) in [
            ("Sun, 06 Nov 1994 09:49:37 GMT", "clock is 3600 s behind the server's"),
            ("Sun, 06 Nov 1994 08:48:07 GMT", "clock is 90 s ahead of the server's"),
            ("Sun, 06 Nov 1994 08:50:37 GMT", "check api.sdk_id"),
            ("garbage", "check api.sdk_id"),
        ] {
            let observation = head(401, &[("date", date)]).refusal(b"", Scheme::SignedRequest);
            let message = &observation.problem().unwrap().message;
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn a_refused_token_is_not_put_down_to_the_clock() {
        let head = head(401, &[("date", "Sun, 06 Nov 1994 09:49:37 GMT")]);
        let observation = head.refusal(b"", Scheme::Bearer);
        let problem = observation.problem().unwrap();
        assert_eq!(problem.kind, ProblemKind::Unauthorized);
        assert!(problem.message.contains("api.auth.scopes"), "{}", problem.message);
    }

    #[test]
    fn every_status_has_one_meaning() {
        for status in 201..600 {
            let observation =
                head(status, &[]).refusal(br#"{"code":"SOME_CODE"}"#, Scheme::SignedRequest);
            let kind = match status {
                401 | 403 => ProblemKind::Unauthorized,
                404 => ProblemKind::NotFound,
                408 => ProblemKind::Unreachable,
                409 => ProblemKind::NotReady,
                429 => ProblemKind::RateLimited,
                500.. => ProblemKind::ServerError,
                _ => ProblemKind::Malformed,
            };
            let problem = observation.problem().unwrap();
            assert_eq!((problem.kind, problem.status), (kind, Some(status)));
        }
    }

    #[test]
    fn a_404_of_something_that_is_not_the_api_is_no_missing_session() {
        for body in [&b""[..], b"{}", b"<html>not here</html>", br#"{"message":"no route"}"#] {
            let observation = head(404, &[]).refusal(body, Scheme::SignedRequest);
            assert!(matches!(observation, Observation::Malformed(_)), "{observation:?}");
        }
    }

    #[test]
    fn an_unknown_application_is_no_missing_session() {
        let observation =
            head(404, &[]).refusal(br#"{"code":"APP_NOT_FOUND"}"#, Scheme::SignedRequest);
        assert!(matches!(observation, Observation::Unauthorized(_)), "{observation:?}");
    }

    #[test]
    fn an_odd_request_id_is_cleaned() {
        let observation =
            head(500, &[("x-request-id", "a b<script>\t1")]).refusal(b"", Scheme::SignedRequest);
        let problem = observation.problem().unwrap();
        assert_eq!(problem.request_id.as_deref(), Some("abscript1"));
    }
}
