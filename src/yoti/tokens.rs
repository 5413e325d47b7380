//! Access tokens, kept and renewed so that as few as possible are asked for: Yoti allows an SDK
//! id 200 live ones.
//!
//! One request for a token at most is under way, and all who need its outcome share it, good
//! or bad. A token is renewed in the background once it has lived most of its life, so that
//! nobody waits for it and none expires on its way. Its life is counted on the monotonic clock,
//! from before it was asked for: no step of the wall clock makes it seem younger than it is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::clock::Clock;
use crate::domain::{Observation, ProblemKind};

use super::answer::unsent;
use super::secret::Secret;
use super::token_endpoint::{Grant, TokenEndpoint};

/// Assumed of a token that doesn't state its life. Should such tokens live a whole day in
/// truth, renewing them this often still leaves no more than 120 alive; should they live less
/// than this, the first refusal renews them.
const UNSTATED_LIFE: Duration = Duration::from_secs(15 * 60);
/// Before its end a token isn't shown any more, as it may expire on its way; at most a tenth
/// of its life.
const ON_ITS_WAY: Duration = Duration::from_secs(10);
/// A failure is everybody's answer for this long (longer where the endpoint asks for more), so
/// that requests that come one after the other make no stampede either.
const FAILURE_HOLDS: Duration = Duration::from_secs(1);
/// From a failed renewal to the next while the token still holds.
const RENEWAL_PAUSE: Duration = Duration::from_secs(30);
/// From one token given up because the API refused it to the next.
const REFUSAL_PAUSE: Duration = Duration::from_secs(60);
/// The same where the API has never accepted the second one either: more won't help, and an API
/// that refuses every token must not have them all. In a day this makes 96.
const DOUBT_PAUSE: Duration = Duration::from_secs(15 * 60);

/// An access token and its times, on the monotonic clock.
#[derive(Debug)]
pub(super) struct Token {
    value: Secret<String>,
    renew_at: Duration,
    unusable_at: Duration,
    expires_at: Duration,
    accepted: AtomicBool,
}

impl Token {
    fn new(grant: Grant, asked_at: Duration) -> Self {
        let life = grant.life.unwrap_or(UNSTATED_LIFE);
        let after = |part| asked_at.saturating_add(part);
        Self {
            value: grant.value,
            renew_at: after(life / 5 * 4),
            unusable_at: after(life.saturating_sub(ON_ITS_WAY.min(life / 10))),
            expires_at: after(life),
            accepted: AtomicBool::new(false),
        }
    }

    pub(super) const fn value(&self) -> &Secret<String> {
        &self.value
    }

    /// The API has let a request with this token in.
    pub(super) fn note_accepted(&self) {
        self.accepted.store(true, Ordering::Relaxed);
    }

    /// How long ago the last refusal must be for this token to be given up for one, too.
    fn pause(&self) -> Duration {
        if self.accepted.load(Ordering::Relaxed) { REFUSAL_PAUSE } else { DOUBT_PAUSE }
    }
}

type Outcome = Result<Arc<Token>, Observation>;

pub(super) struct Tokens {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: TokenEndpoint,
    clock: Arc<dyn Clock>,
    shelf: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    token: Option<Arc<Token>>,
    under_way: Option<watch::Receiver<Option<Outcome>>>,
    failure: Option<Failure>,
    /// When the API last refused the token that was on the shelf.
    refused_at: Option<Duration>,
}

struct Failure {
    at: Duration,
    holds_until: Duration,
    observation: Observation,
}

impl Tokens {
    pub(super) fn new(endpoint: TokenEndpoint, clock: Arc<dyn Clock>) -> Self {
        Self { shared: Arc::new(Shared { endpoint, clock, shelf: Mutex::default() }) }
    }

    pub(super) fn set_timeout(&self, timeout: Duration) {
        self.shared.endpoint.server.set_timeout(timeout);
    }

    /// How long the token on the shelf lives on.
    pub(super) fn expires_in(&self) -> Option<Duration> {
        let expires_at = self.shared.shelf().token.as_ref()?.expires_at;
        Some(expires_at.saturating_sub(self.shared.now()))
    }

    /// A token that holds, waited for if there is none yet.
    pub(super) async fn current(&self, deadline: Instant) -> Outcome {
        let awaited = {
            let (mut held, now) = (self.shared.shelf(), self.shared.now());
            if let Some(token) = held.usable(now) {
                if held.is_due_for_renewal(&token, now) {
                    self.renew(&mut held);
                }
                return Ok(token);
            }
            if let Some(failure) = held.failure.as_ref().filter(|f| now < f.holds_until) {
                return Err(failure.told_at(now));
            }
            self.renew(&mut held)
        };
        self.outcome(awaited, deadline).await
    }

    /// A token other than the one that the API has refused; nothing if tokens were refused so
    /// lately that another would be, too.
    pub(super) async fn instead_of(
        &self,
        refused: &Arc<Token>,
        deadline: Instant,
    ) -> Result<Option<Arc<Token>>, Observation> {
        {
            let (mut held, now) = (self.shared.shelf(), self.shared.now());
            if held.token.as_ref().is_some_and(|token| Arc::ptr_eq(token, refused)) {
                let just_now = |at: Duration| now.saturating_sub(at) < refused.pause();
                if held.refused_at.is_some_and(just_now) {
                    return Ok(None);
                }
                held.refused_at = Some(now);
                held.token = None;
            }
        }
        self.current(deadline).await.map(Some)
    }

    /// Asks for a token, unless that is under way.
    fn renew(&self, held: &mut Shelf) -> watch::Receiver<Option<Outcome>> {
        // One whose sender is gone died without an outcome.
        if let Some(under_way) = held.under_way.as_ref().filter(|it| it.has_changed().is_ok()) {
            return under_way.clone();
        }
        let (sender, receiver) = watch::channel(None);
        held.under_way = Some(receiver.clone());
        // A task of its own, as whoever began it may give up waiting.
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let asked_at = shared.now();
            let answer = shared.endpoint.ask(&*shared.clock).await;
            let outcome = answer.map(|grant| Arc::new(Token::new(grant, asked_at)));
            shared.shelf().put(&outcome, shared.now());
            sender.send_replace(Some(outcome));
        });
        receiver
    }

    async fn outcome(
        &self,
        mut awaited: watch::Receiver<Option<Outcome>>,
        deadline: Instant,
    ) -> Outcome {
        let given_up = || {
            let message = "no access token came, as asking for one was broken off; ask again";
            Err(Observation::Unreachable(unsent(ProblemKind::Unreachable, message)))
        };
        match timeout_at(deadline, awaited.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or_else(given_up),
            Ok(Err(_)) => given_up(),
            Err(_) => Err(self.shared.endpoint.server.late()),
        }
    }
}

impl Shared {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.clock.monotonic()
    }
}

impl Shelf {
    fn usable(&self, now: Duration) -> Option<Arc<Token>> {
        self.token.as_ref().filter(|token| now < token.unusable_at).cloned()
    }

    fn is_due_for_renewal(&self, token: &Token, now: Duration) -> bool {
        let paused = |failure: &Failure| {
            now < failure.holds_until.max(failure.at.saturating_add(RENEWAL_PAUSE))
        };
        now >= token.renew_at && !self.failure.as_ref().is_some_and(paused)
    }

    fn put(&mut self, outcome: &Outcome, now: Duration) {
        self.under_way = None;
        match outcome {
            Ok(token) => {
                tracing::debug!(
                    expires_in = ?token.expires_at.saturating_sub(now),
                    "an access token was given"
                );
                self.token = Some(Arc::clone(token));
                self.failure = None;
            }
            Err(observation) => {
                if let (Some(_), Some(problem), None) =
                    (self.usable(now), observation.problem(), &self.failure)
                {
                    tracing::warn!(
                        "the access token can't be renewed; it is used while it holds, and the renewal tried again: {problem}"
                    );
                }
                self.failure = Some(Failure::new(observation.clone(), now));
            }
        }
    }
}

impl Failure {
    fn new(mut observation: Observation, now: Duration) -> Self {
        let asked = retry_after(&mut observation).and_then(|wait| *wait);
        let holds_until = now.saturating_add(FAILURE_HOLDS.max(asked.unwrap_or_default()));
        Self { at: now, holds_until, observation }
    }

    /// What to tell somebody who asks while it holds.
    fn told_at(&self, now: Duration) -> Observation {
        let mut observation = self.observation.clone();
        if let Some(Some(wait)) = retry_after(&mut observation) {
            *wait = self.holds_until.saturating_sub(now);
        }
        observation
    }
}

fn retry_after(observation: &mut Observation) -> Option<&mut Option<Duration>> {
    match observation {
        Observation::RateLimited { retry_after, .. }
        | Observation::ServerError { retry_after, .. } => Some(retry_after),
        Observation::Configuration(_)
        | Observation::Ongoing
        | Observation::Completed
        | Observation::Expired
        | Observation::NotReady(_)
        | Observation::NotFound(_)
        | Observation::Unauthorized(_)
        | Observation::Unreachable(_)
        | Observation::Malformed(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3_600);

    fn token(life: Option<Duration>, asked_at: Duration) -> Arc<Token> {
        Arc::new(Token::new(Grant { value: Secret::new("a".to_owned()), life }, asked_at))
    }

    fn failure(retry_after: Option<Duration>) -> Observation {
        let problem = unsent(ProblemKind::ServerError, "failed");
        Observation::ServerError { problem, retry_after }
    }

    #[test]
    fn a_token_is_renewed_before_its_end_and_not_shown_shortly_before_it() {
        let long = token(Some(HOUR), HOUR);
        assert_eq!(long.renew_at, HOUR + 2_880 * SECOND);
        assert_eq!(long.unusable_at, HOUR + 3_590 * SECOND);
        assert_eq!(long.expires_at, 2 * HOUR);
        let short = token(Some(10 * SECOND), HOUR);
        assert_eq!(short.renew_at, HOUR + 8 * SECOND);
        assert_eq!(short.unusable_at, HOUR + 9 * SECOND);
        let endless = token(Some(Duration::MAX), HOUR);
        assert_eq!(endless.expires_at, Duration::MAX);
        assert_eq!(token(None, HOUR).expires_at, HOUR + UNSTATED_LIFE);
    }

    #[test]
    fn a_failed_renewal_is_tried_again_after_a_pause_while_the_token_holds() {
        let mut shelf = Shelf::default();
        let token = token(Some(HOUR), Duration::ZERO);
        shelf.put(&Ok(Arc::clone(&token)), SECOND);
        let at = 3_000 * SECOND;
        assert!(shelf.is_due_for_renewal(&token, at));
        shelf.put(&Err(failure(None)), at);
        assert!(shelf.usable(at).is_some(), "a failure took the token away");
        assert!(!shelf.is_due_for_renewal(&token, at + 29 * SECOND));
        assert!(shelf.is_due_for_renewal(&token, at + 30 * SECOND));
        shelf.put(&Err(failure(Some(100 * SECOND))), at);
        assert!(!shelf.is_due_for_renewal(&token, at + 99 * SECOND));
        assert!(shelf.is_due_for_renewal(&token, at + 100 * SECOND));
    }

    #[test]
    fn a_failure_holds_a_second_or_as_long_as_the_endpoint_asks() {
        for (asked, holds) in [(None, 1), (Some(0), 1), (Some(30), 30)] {
            let failure = Failure::new(failure(asked.map(Duration::from_secs)), HOUR);
            assert_eq!(failure.holds_until, HOUR + holds * SECOND);
        }
    }

    #[test]
    fn a_new_token_makes_up_for_a_failure() {
        let mut shelf = Shelf::default();
        shelf.put(&Err(failure(None)), HOUR);
        shelf.put(&Ok(token(None, HOUR)), HOUR);
        assert!(shelf.failure.is_none() && shelf.usable(HOUR).is_some());
    }

    #[test]
    fn a_token_prints_as_nothing() {
        assert!(format!("{:?}", token(None, HOUR)).starts_with("Token { value: [redacted]"));
    }
}
