//! The laws of the schedule, for sessions driven through random answers at the times that the
//! schedule itself asks for.

use super::*;

/// Runs a session from poll to poll: each poll goes out when it is due and `answer` says what
/// comes back. Returns when the polls went out.
fn run(
    life: &mut Life,
    at_most: usize,
    mut answer: impl FnMut(&mut Life) -> (Observation, Option<Observation>),
) -> Vec<Timestamp> {
    let mut polls = Vec::new();
    while polls.len() < at_most
        && let Some(wake) = life.session.wake(&life.policy)
    {
        match wake.poll {
            Some((at, _)) if at <= wake.timer => {
                life.now = life.now.max(at);
                polls.push(life.now);
                let (observation, state) = answer(life);
                life.sees(observation, state);
            }
            _ => {
                life.now = life.now.max(wake.timer);
                life.elapses();
            }
        }
    }
    polls
}

fn gaps(polls: &[Timestamp]) -> Vec<Duration> {
    polls.windows(2).map(|pair| pair[1].since(pair[0])).collect()
}

fn mean_seconds(gaps: &[Duration]) -> f64 {
    let count = u32::try_from(gaps.len()).unwrap();
    gaps.iter().sum::<Duration>().as_secs_f64() / f64::from(count)
}

/// What the session endpoint may say, or fail to say.
fn any_word() -> impl Strategy<Value = Option<Observation>> {
    prop_oneof![
        Just(None),
        Just(Some(Observation::Ongoing)),
        Just(Some(Observation::NotReady(problem(ProblemKind::NotReady)))),
        any_failure().prop_map(Some),
    ]
}

/// Anything but the two answers that may end a session: COMPLETED or EXPIRED, and a second 404.
fn any_harmless_answer() -> impl Strategy<Value = (Observation, Option<Observation>)> {
    let configuration = prop_oneof![Just(vec![]), Just(vec!["COMPLETE"]), Just(vec!["REQUIRED"])]
        .prop_map(|states| configuration(None, &states));
    let conflict = Just(Observation::NotReady(problem(ProblemKind::NotReady)));
    let missing = Just(not_found());
    prop_oneof![
        (configuration.clone(), any_word()),
        // A session that has a configuration is there, whatever the session endpoint knows.
        configuration.prop_map(|good| (good, Some(not_found()))),
        (conflict, any_word()),
        (any_failure(), Just(None)),
        // The session endpoint fails to confirm it, or denies it.
        (missing, any_word().prop_filter("believed", Option::is_some)),
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let seconds = |range| Strategy::prop_map(range, Duration::from_secs);
    (
        (seconds(1..20_000_u64), seconds(1..600_u64), seconds(0..7_200_u64), 0.0..0.95_f64),
        (seconds(1..3_600_u64), seconds(1..60_u64), seconds(1..7_200_u64)),
    )
        .prop_map(|((interval, active, active_for, jitter), (before, initial, max))| Policy {
            interval,
            active_interval: active.min(interval),
            active_for,
            jitter,
            final_poll_before_expiry: before,
            backoff_initial: initial.min(max),
            backoff_max: max,
            ..Policy::default()
        })
}

/// When the last poll may come: from twice `final_poll_before_expiry` before the deadline on.
fn final_polls<'a>(
    polls: &'a [Timestamp],
    deadline: Timestamp,
    policy: &Policy,
) -> impl Iterator<Item = Timestamp> + 'a {
    let from = deadline.minus(policy.final_poll_before_expiry.saturating_mul(2));
    polls.iter().copied().filter(move |&at| at >= from && at < deadline)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// The jitter costs no request and saves none: polls come one interval apart on average.
    #[test]
    fn the_mean_distance_of_quiet_polls_is_the_interval(
        seed: u64, jitter in 0.0..0.95_f64, seconds in 1_u64..100_000, own in any::<bool>()
    ) {
        const POLLS: usize = 2_000;
        let interval = Duration::from_secs(seconds);
        let policy = Policy {
            jitter,
            interval: if own { 7 * DAY } else { interval },
            unknown_ttl: 100_000 * DAY,
            ..Policy::default()
        };
        let mut life = Life::with(policy, |entry| entry.interval = own.then_some(interval));
        life.rng = StdRng::seed_from_u64(seed);
        let polls = run(&mut life, POLLS, |_| (configuration(None, &["REQUIRED"]), None));
        let tolerance = 6.0 * interval.as_secs_f64() * jitter / 3.0_f64.sqrt() / 2_000_f64.sqrt();
        let mean = mean_seconds(&gaps(&polls));
        prop_assert!((mean - interval.as_secs_f64()).abs() <= tolerance + 0.001, "mean {mean}");
    }

    #[test]
    fn the_mean_distance_of_active_polls_is_the_active_interval(
        seed: u64, jitter in 0.0..0.95_f64, seconds in 1_u64..600
    ) {
        let active_interval = Duration::from_secs(seconds);
        let policy = Policy {
            jitter,
            active_interval,
            interval: 2 * DAY,
            active_for: DAY,
            unknown_ttl: 100_000 * DAY,
            ..Policy::default()
        };
        let mut life = Life::with(policy, |_| {});
        life.rng = StdRng::seed_from_u64(seed);
        // Every answer is a change, so the session stays active.
        let mut required = false;
        let polls = run(&mut life, 2_000, |_| {
            required = !required;
            (configuration(None, &[if required { "REQUIRED" } else { "IN_PROGRESS" }]), None)
        });
        let tolerance =
            6.0 * active_interval.as_secs_f64() * jitter / 3.0_f64.sqrt() / 2_000_f64.sqrt();
        let mean = mean_seconds(&gaps(&polls)[1..]);
        prop_assert!(
            (mean - active_interval.as_secs_f64()).abs() <= tolerance + 0.001, "mean {mean}"
        );
    }
}

proptest! {
    /// Whatever the policy, the answers and the backoff: a session that is polled when it asks
    /// to be gets its final poll, and failed ones are tried again until there is no time left.
    #[test]
    fn every_session_gets_its_final_poll(
        seed: u64,
        policy in any_policy(),
        ttl in 1_u64..200_000,
        own in prop::option::of(1_u64..50_000),
        said in prop::option::of(1_u64..200_000),
        fates in prop::collection::vec((any::<bool>(), any_failure()), 1..8),
    ) {
        let mut life = Life::with(policy, |entry| {
            entry.interval = own.map(Duration::from_secs);
            entry.expires_at = said.map(|seconds| START.plus(Duration::from_secs(seconds)));
        });
        life.rng = StdRng::seed_from_u64(seed);
        let mut first = true;
        let mut fates = fates.into_iter().cycle();
        let mut last_failed = false;
        let polls = run(&mut life, 50_000, |life| {
            let (good, failure) = fates.next().unwrap();
            last_failed = !(first || good);
            if last_failed {
                return (failure, None);
            }
            let elapsed = life.now.since(START);
            let left = Duration::from_secs(ttl).saturating_sub(elapsed);
            first = false;
            (configuration(Some(left.max(SECOND)), &["REQUIRED"]), None)
        });
        prop_assume!(polls.len() < 50_000);
        prop_assert_eq!(life.reason(), Some(EndReason::Expired));
        let deadline = life.session.expires_at();
        let last = final_polls(&polls, deadline, &life.policy).last();
        prop_assert!(last.is_some(), "none of {} polls before {deadline}", polls.len());
        if last_failed {
            let left = deadline.since(last.unwrap());
            prop_assert!(left <= life.policy.final_poll_before_expiry / 4, "given up {left:?} early");
        }
    }

    /// An outage that ends in time costs no session its final poll, however its failures stood.
    #[test]
    fn a_session_taken_up_again_before_its_deadline_gets_its_final_poll(
        seed: u64, policy in any_policy(), failures in 0_usize..5, back in 0.05..0.95_f64,
    ) {
        let mut life = Life::with(policy, |_| {});
        life.rng = StdRng::seed_from_u64(seed);
        let before = life.policy.final_poll_before_expiry;
        life.sees(configuration(Some(5 * DAY), &["REQUIRED"]), None);
        let deadline = life.session.expires_at();
        life.now = deadline.minus(before);
        life.outage = true;
        for _ in 0..failures {
            life.sees(unreachable(), None);
        }
        let left = before.mul_f64(1.0 - back);
        life.now = deadline.minus(left);
        life.session.schedule.poll_at = life.session.schedule.poll_at.min(life.now);
        life.session.resume(life.now, &life.policy, &mut life.rng);
        life.outage = false;
        let polls = run(&mut life, 1_000, |life| {
            let left = deadline.since(life.now);
            (configuration(Some(left.max(SECOND)), &["REQUIRED"]), None)
        });
        if left > before / 4 {
            prop_assert!(final_polls(&polls, deadline, &life.policy).next().is_some());
        }
    }

    /// A file's deadline is of the true time: it comes nearer when the clock is set ahead.
    #[test]
    fn a_step_of_the_wall_clock_costs_no_session_its_final_poll(
        seed: u64,
        policy in any_policy(),
        said in prop::option::of(5_000_u64..400_000),
        ahead in -3_600_i64..3_600,
        at in 0.0..0.95_f64,
    ) {
        let mut life = Life::with(policy, |entry| {
            entry.expires_at = said.map(|seconds| START.plus(Duration::from_secs(seconds)));
        });
        life.rng = StdRng::seed_from_u64(seed);
        let mut deadline = START.plus(5 * DAY);
        let step_at = START.plus(life.session.expires_at().min(deadline).since(START).mul_f64(at));
        let mut polls = Vec::new();
        for stepped in [false, true] {
            while let Some(wake) = life.session.wake(&life.policy) {
                let poll_at = wake.poll.map_or(wake.timer, |(at, _)| at).min(wake.timer);
                if !stepped && poll_at.max(life.now) >= step_at {
                    break;
                }
                life.now = life.now.max(poll_at);
                if wake.poll.is_some_and(|(at, _)| at <= life.now) {
                    polls.push(life.now);
                    let left = deadline.since(life.now).max(SECOND);
                    life.sees(configuration(Some(left), &["REQUIRED"]), None);
                } else {
                    life.elapses();
                }
            }
            if !stepped && life.reason().is_none() {
                life.now = step_at.max(life.now);
                let now = Timestamp::from_millis(life.now.as_millis() + ahead * 1_000);
                let step = Step::between(life.now, now);
                life.session = life.session.stepped(step, now, &life.policy);
                polls = polls.into_iter().map(|at| step.of(at)).collect();
                (life.now, deadline) = (now, step.of(deadline));
            }
        }
        prop_assert_eq!(life.reason(), Some(EndReason::Expired));
        let ends = life.session.expires_at();
        // A step may leave no time at all.
        if ends > Timestamp::from_millis(step_at.as_millis() + ahead * 1_000) {
            prop_assert!(final_polls(&polls, ends, &life.policy).next().is_some());
        }
    }

    /// Neither do answers that mean nothing by themselves, nor a session endpoint that fails to
    /// confirm an ending, in whatever way and order.
    #[test]
    fn nothing_ends_a_session_but_the_word_of_the_api_or_its_deadline(
        answers in prop::collection::vec((any_harmless_answer(), 0_u64..30_000), 1..80),
        outage in any::<bool>(),
    ) {
        let mut life = Life::tracked();
        life.outage = outage;
        for ((observation, state), pause) in answers {
            life.wait(Duration::from_secs(pause));
            life.sees(observation, state);
        }
        prop_assert_eq!(life.reason(), None);
        prop_assert!(life.session.wake(&life.policy).unwrap().poll.is_some());
    }

    /// Failing doesn't make a session the one that is asked most: after a few quick tries it is
    /// left in peace, whichever of the two endpoints it is that fails.
    #[test]
    fn a_session_that_fails_for_ever_is_asked_ever_less_often(
        seed: u64, failure in any_failure(), confirming in any::<bool>()
    ) {
        let mut life = Life::tracked();
        life.rng = StdRng::seed_from_u64(seed);
        let complete = configuration(Some(25 * DAY), &["COMPLETE"]);
        life.sees(complete.clone(), Some(Observation::Ongoing));
        let polls = run(&mut life, 200, |_| {
            if confirming { (complete.clone(), Some(failure.clone())) } else { (failure.clone(), None) }
        });
        let mean = mean_seconds(&gaps(&polls)[20..]);
        prop_assert!(mean > life.policy.backoff_max.as_secs_f64() * 0.35, "mean {mean}");
    }
}

#[test]
fn a_configuration_whose_confirmation_fails_is_taken_in_and_the_failing_is_told() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED"]);
    let complete = || configuration(Some(9 * DAY), &["COMPLETE"]);
    assert_eq!(
        life.sees(complete(), Some(unreachable())),
        [ResourceStateChanged, SessionNothingRequired]
    );
    assert_eq!(life.sees(complete(), Some(unreachable())), []);
    assert_eq!(life.sees(complete(), Some(unreachable())), [SessionPollFailing]);
    assert_eq!(
        life.sees(complete(), Some(Observation::Completed)),
        [SessionPollRecovered, SessionCompleted, SessionEnded]
    );
}

#[test]
fn a_session_with_a_configuration_is_there_whatever_the_session_endpoint_knows() {
    let mut life = Life::tracked();
    for _ in 0..5 {
        life.wait(10 * MINUTE);
        life.sees(configuration(Some(9 * DAY), &["COMPLETE"]), Some(not_found()));
    }
    assert_eq!(life.reason(), None);
    assert_eq!(
        life.session.schedule.last_problem.as_ref().map(|p| p.kind),
        Some(ProblemKind::NotFound)
    );
}
