use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;

use super::super::event::EventKind;
use super::super::observation::{ProblemKind, Snapshot};
use super::super::resource::Listed;
use super::super::time::Step;
use super::*;

mod laws;

const START: Timestamp = Timestamp::from_millis(1_795_000_000_000);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// One session, driven through answers at chosen times.
struct Life {
    session: Session,
    events: Vec<Event>,
    now: Timestamp,
    outage: bool,
    policy: Policy,
    rng: StdRng,
}

impl Life {
    fn tracked() -> Self {
        Self::with(Policy::default(), |_| {})
    }

    fn with(policy: Policy, change: impl FnOnce(&mut Entry)) -> Self {
        let session_id = "3fa85f64-5717-4562-b3fc-2c963f66afa6".parse().unwrap();
        let mut entry =
            Entry { session_id, labels: Labels::default(), expires_at: None, interval: None };
        change(&mut entry);
        let Transition { session, events, .. } = Session::track(entry, 0, START, &policy);
        Self { session, events, now: START, outage: false, policy, rng: StdRng::seed_from_u64(1) }
    }

    fn wait(&mut self, time: Duration) -> &mut Self {
        self.now = self.now.plus(time);
        self
    }

    fn take(&mut self, transition: Transition) -> Vec<EventKind> {
        let kinds = transition.events.iter().map(Event::kind).collect();
        self.events.extend(transition.events);
        self.session = transition.session;
        kinds
    }

    fn sees(&mut self, observation: Observation, state: Option<Observation>) -> Vec<EventKind> {
        let exchange =
            Exchange { sent: self.now.minus(SECOND / 10), arrived: self.now, outage: self.outage };
        let transition =
            self.session.observe(observation, state, exchange, &self.policy, &mut self.rng);
        self.take(transition)
    }

    fn answer(&mut self, states: &[&str]) -> Vec<EventKind> {
        self.sees(configuration(Some(10 * DAY), states), None)
    }

    fn elapses(&mut self) -> Vec<EventKind> {
        let transition = self.session.elapse(self.now, &self.policy);
        self.take(transition)
    }

    fn next_poll(&self) -> Duration {
        self.session.schedule.poll_at.since(self.now)
    }

    fn reason(&self) -> Option<EndReason> {
        self.session.ended().map(|(reason, _)| reason)
    }
}

fn configuration(ttl: Option<Duration>, states: &[&str]) -> Observation {
    let listed = |(n, state): (usize, &&str)| {
        Listed::new(Some("ID_DOCUMENT"), Some(&format!("resource-{n}")), Some(state))
    };
    Observation::Configuration(Snapshot {
        ttl,
        listing: states.iter().enumerate().map(listed).collect::<Vec<_>>().into(),
    })
}

fn problem(kind: ProblemKind) -> Problem {
    Problem { kind, status: None, code: None, request_id: None, message: "it failed".to_owned() }
}

fn not_found() -> Observation {
    Observation::NotFound(problem(ProblemKind::NotFound))
}

fn rate_limited(retry_after: Duration) -> Observation {
    let problem = problem(ProblemKind::RateLimited);
    Observation::RateLimited { problem, retry_after: Some(retry_after) }
}

fn unreachable() -> Observation {
    Observation::Unreachable(problem(ProblemKind::Unreachable))
}

use EventKind::*;

#[test]
fn a_life_is_told_in_order_and_counted_without_gaps() {
    let mut life = Life::tracked();
    assert_eq!(life.answer(&["REQUIRED", "REQUIRED"]), [SessionObserved]);
    life.wait(MINUTE);
    assert_eq!(life.answer(&["REQUIRED", "REQUIRED"]), []);
    life.wait(MINUTE);
    assert_eq!(life.answer(&["IN_PROGRESS", "REQUIRED"]), [ResourceStateChanged]);
    life.wait(MINUTE);
    assert_eq!(
        life.answer(&["COMPLETE", "COMPLETE"]),
        [ResourceStateChanged, ResourceStateChanged, SessionNothingRequired]
    );
    let sequences: Vec<u64> = life.events.iter().map(|e| e.session_sequence).collect();
    assert_eq!(sequences, (1..=6).collect::<Vec<_>>());
    let states: Vec<&str> = life.session.resources().iter().map(|r| r.state.as_str()).collect();
    assert_eq!(states, ["COMPLETE", "COMPLETE"]);
}

#[test]
fn an_answer_known_again_counts_as_one_that_lists_the_same() {
    let mut life = Life::tracked();
    let read = |states: &[&str], hash| {
        let Observation::Configuration(Snapshot { ttl, listing }) =
            configuration(Some(10 * DAY), states)
        else {
            unreachable!()
        };
        let resources = listing.resources().unwrap().to_vec();
        let listing = Listing::Read { resources, fingerprint: Some(Fingerprint::of(hash)) };
        Observation::Configuration(Snapshot { ttl, listing })
    };
    let same = |ttl| Observation::Configuration(Snapshot { ttl, listing: Listing::Same });
    assert_eq!(life.session.fingerprint(), None);
    life.sees(read(&["REQUIRED"], 1), None);
    assert_eq!(life.session.fingerprint(), Some(Fingerprint::of(1)));
    life.wait(MINUTE);
    let asked = life.now.minus(SECOND / 10);
    assert_eq!(life.sees(same(Some(9 * DAY)), None), []);
    assert_eq!(life.session.schedule.last_good, Some(asked));
    assert!(!life.session.asks_state(&same(Some(DAY)), &life.policy));
    assert!(life.session.asks_state(&same(Some(Duration::ZERO)), &life.policy));
    // The time remaining is heard all the same.
    let deadline = life.session.expires_at();
    life.sees(same(Some(20 * DAY)), None);
    assert!(life.session.expires_at() > deadline);
    assert_eq!(life.sees(read(&["COMPLETE"], 2), None)[0], ResourceStateChanged);
    assert_eq!(life.session.fingerprint(), Some(Fingerprint::of(2)));
    assert!(life.session.asks_state(&same(Some(DAY)), &life.policy));
    // An answer without a fingerprint leaves nothing to know the next one by.
    life.answer(&["COMPLETE"]);
    assert_eq!(life.session.fingerprint(), None);
}

#[test]
fn an_answer_that_changes_nothing_is_steady_and_one_that_does_is_not() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED"]);
    life.wait(MINUTE);
    let exchange = Exchange { sent: life.now, arrived: life.now, outage: false };
    let ttl = Some(9 * DAY + 23 * 60 * MINUTE + 59 * MINUTE);
    let mut observe = |ttl, states: &[&str]| {
        life.session.observe(
            configuration(ttl, states),
            None,
            exchange,
            &life.policy,
            &mut life.rng,
        )
    };
    assert!(observe(ttl, &["REQUIRED"]).steady);
    let tolerated = Policy::DEADLINE_TOLERANCE;
    assert!(observe(ttl.map(|ttl| ttl + tolerated), &["REQUIRED"]).steady);
    assert!(!observe(ttl.map(|ttl| ttl + tolerated + SECOND), &["REQUIRED"]).steady);
    assert!(!observe(ttl, &["COMPLETE"]).steady);
}

#[test]
fn a_change_is_bounded_by_the_last_asking_and_this_arrival() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED"]);
    let asked = life.now.minus(SECOND / 10);
    life.wait(MINUTE);
    life.answer(&["COMPLETE"]);
    let change = life.events.iter().find(|e| e.kind() == ResourceStateChanged).unwrap();
    let Detail::StateChanged { changed_after, changed_before, left_required, .. } = change.detail
    else {
        panic!("{change:?}");
    };
    assert_eq!((changed_after, changed_before), (asked, life.now));
    assert!(left_required);
}

#[test]
fn what_left_required_before_the_first_answer_stands_in_the_baseline_only() {
    let mut life = Life::tracked();
    assert_eq!(life.answer(&["COMPLETE", "REQUIRED"]), [SessionObserved]);
    assert_eq!(life.events[1].progress.complete, 1);
}

#[test]
fn nothing_required_is_told_again_after_a_regression_and_never_of_absence() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED"]);
    assert_eq!(life.answer(&["COMPLETE"]), [ResourceStateChanged, SessionNothingRequired]);
    assert_eq!(life.answer(&["REQUIRED"]), [ResourceStateChanged]);
    assert_eq!(life.answer(&["IN_PROGRESS"]), [ResourceStateChanged, SessionNothingRequired]);
    assert_eq!(life.answer(&["REQUIRED"]), [ResourceStateChanged]);
    assert_eq!(life.answer(&[]), [ResourceRemoved]);
    assert_eq!(life.answer(&["REQUIRED"]), [ResourceAdded]);
    assert_eq!(life.answer(&["COMPLETE", "REQUIRED"]), [ResourceStateChanged, ResourceAdded]);
    assert_eq!(life.answer(&["COMPLETE"]), [ResourceRemoved]);
}

#[test]
fn what_has_left_required_leaves_it_no_second_time() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED"]);
    assert_eq!(life.answer(&["IN_PROGRESS"]), [ResourceStateChanged, SessionNothingRequired]);
    assert_eq!(life.answer(&["COMPLETE"]), [ResourceStateChanged]);
    let Some(Detail::StateChanged { left_required, .. }) = life.events.last().map(|e| &e.detail)
    else {
        panic!("{:?}", life.events);
    };
    assert!(!left_required);
}

#[test]
fn a_changed_session_is_polled_at_the_active_cadence_for_a_while() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED"]);
    assert!(life.next_poll() >= Duration::from_secs(270));
    life.answer(&["IN_PROGRESS"]);
    assert_eq!(life.session.phase(life.now), Phase::Active);
    assert!(life.next_poll() <= Duration::from_secs(33));
    life.wait(16 * MINUTE);
    life.answer(&["IN_PROGRESS"]);
    assert_eq!(life.session.phase(life.now), Phase::Quiet);
    assert!(life.next_poll() >= Duration::from_secs(270));
}

#[test]
fn an_entry_sets_its_own_interval_and_can_only_shorten_the_deadline() {
    let sooner = START.plus(DAY);
    let mut life = Life::with(Policy::default(), |entry| {
        entry.interval = Some(10 * SECOND);
        entry.expires_at = Some(sooner);
    });
    life.answer(&["REQUIRED"]);
    assert!(life.next_poll() <= 11 * SECOND);
    assert_eq!(life.session.expires_at(), sooner);
    let entry = Entry { expires_at: Some(START.plus(20 * DAY)), ..life.session.entry.clone() };
    let amended = life.session.amend(entry, life.now, &life.policy).unwrap();
    assert_eq!(amended.session.expires_at(), START.plus(10 * DAY));
    assert!(amended.events.is_empty() && !amended.steady);
}

#[test]
fn the_final_poll_comes_whatever_the_backoff_says_and_the_end_at_the_deadline() {
    let mut life = Life::tracked();
    life.sees(configuration(Some(10 * MINUTE), &["REQUIRED"]), None);
    let deadline = life.session.expires_at();
    life.session.schedule.failures = 20;
    while life.session.schedule.urgency != Urgency::Final {
        life.now = life.session.schedule.poll_at;
        life.sees(unreachable(), None);
    }
    let before = deadline.since(life.session.schedule.poll_at);
    assert!((30 * SECOND..=60 * SECOND).contains(&before), "{before:?}");
    life.now = life.session.schedule.poll_at;
    life.sees(configuration(Some(before), &["REQUIRED"]), None);
    assert_eq!(life.session.wake(&life.policy).unwrap().poll, None);
    life.now = life.session.wake(&life.policy).unwrap().timer;
    assert_eq!(life.elapses(), [SessionEnded]);
    assert_eq!(life.reason(), Some(EndReason::Expired));
    assert_eq!(life.session.wake(&life.policy), None);
    assert!(life.now.distance(deadline) <= 5 * SECOND);
}

#[test]
fn expiring_is_told_once_when_something_is_still_required() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED", "COMPLETE"]);
    life.now = life.session.wake(&life.policy).unwrap().timer;
    assert_eq!(life.elapses(), [SessionExpiring]);
    let Detail::Expiring { required } = &life.events[2].detail else { panic!() };
    assert_eq!(required.len(), 1);
    assert_eq!(life.elapses(), []);
}

#[test]
fn expiring_is_told_again_where_the_deadline_was_put_off() {
    let mut life = Life::tracked();
    let before = life.policy.expiring_before;
    life.answer(&["REQUIRED"]);
    life.now = life.session.wake(&life.policy).unwrap().timer;
    assert_eq!(life.elapses(), [SessionExpiring]);
    // Put off by an hour, and no farther away than that for it.
    life.wait(60 * MINUTE);
    assert_eq!(life.sees(configuration(Some(before), &["REQUIRED"]), None), []);
    assert_eq!(life.elapses(), []);
    assert_eq!(life.answer(&["REQUIRED"]), []);
    life.now = life.session.wake(&life.policy).unwrap().timer;
    assert_eq!(life.elapses(), [SessionExpiring]);
}

#[test]
fn a_ttl_of_zero_or_none_or_for_ever_ends_nothing() {
    for ttl in [None, Some(Duration::ZERO), Some(Duration::MAX)] {
        let mut life = Life::tracked();
        assert_eq!(life.sees(configuration(ttl, &["REQUIRED"]), None), [SessionObserved]);
        life.wait(MINUTE);
        assert_eq!(
            life.sees(configuration(ttl, &["COMPLETE"]), Some(Observation::Ongoing)).len(),
            2
        );
        assert_eq!(life.reason(), None);
        assert!(life.session.expires_at() > life.now);
    }
    let life = Life::tracked();
    let zero = configuration(Some(Duration::ZERO), &["REQUIRED"]);
    assert!(life.session.asks_state(&zero, &life.policy));
}

#[test]
fn the_session_endpoint_decides_how_a_session_ended() {
    let conflict = || Observation::NotReady(problem(ProblemKind::NotReady));
    let mut life = Life::tracked();
    assert!(life.session.asks_state(&conflict(), &life.policy));
    assert_eq!(life.sees(conflict(), Some(Observation::Ongoing)), []);
    assert_eq!(
        life.sees(conflict(), Some(Observation::Completed)),
        [SessionCompleted, SessionEnded]
    );
    assert_eq!(life.reason(), Some(EndReason::Completed));

    let mut life = Life::tracked();
    assert_eq!(life.sees(not_found(), Some(Observation::Expired)), [SessionEnded]);
    assert_eq!(life.reason(), Some(EndReason::Expired));
}

#[test]
fn an_answer_of_complete_resources_asks_and_tells_changes_before_the_end() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED"]);
    let complete = configuration(Some(9 * DAY), &["COMPLETE"]);
    assert!(life.session.asks_state(&complete, &life.policy));
    assert_eq!(
        life.sees(complete, Some(Observation::Completed)),
        [ResourceStateChanged, SessionNothingRequired, SessionCompleted, SessionEnded]
    );
}

#[test]
fn without_stop_on_completed_the_session_goes_on_and_completed_is_told_once() {
    let policy = Policy { stop_on_completed: false, ..Policy::default() };
    let mut life = Life::with(policy, |_| {});
    let complete = || configuration(Some(9 * DAY), &["COMPLETE"]);
    life.sees(complete(), Some(Observation::Completed));
    assert!(!life.session.asks_state(&complete(), &life.policy));
    assert_eq!(life.sees(complete(), None), []);
    assert_eq!(life.reason(), None);
}

#[test]
fn an_end_lists_what_was_not_complete_by_then() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED", "COMPLETE", "IN_PROGRESS", "ODD"]);
    let untracked = life.session.untrack(life.now).unwrap();
    life.take(untracked);
    let Some(Detail::Ended { unresolved, .. }) = life.events.last().map(|event| &event.detail)
    else {
        panic!("{:?}", life.events);
    };
    let states: Vec<_> = unresolved.iter().map(|resource| resource.state.as_str()).collect();
    assert_eq!(states, ["REQUIRED", "IN_PROGRESS", "ODD"]);
}

#[test]
fn a_session_is_not_found_after_two_404_a_minute_apart_and_not_before() {
    let mut life = Life::tracked();
    assert_eq!(life.sees(not_found(), Some(not_found())), []);
    assert!(life.next_poll() >= MINUTE);
    life.wait(59 * SECOND);
    assert_eq!(life.sees(not_found(), Some(not_found())), []);
    life.wait(SECOND);
    life.sees(configuration(None, &["REQUIRED"]), None);
    assert_eq!(life.sees(not_found(), Some(not_found())), [], "the count begins anew");
    life.wait(MINUTE);
    let half = Observation::Unreachable(problem(ProblemKind::Unreachable));
    life.sees(configuration(None, &["COMPLETE"]), Some(half));
    assert_eq!(life.sees(not_found(), Some(not_found())), [], "after half an answer, too");
    life.wait(10 * SECOND).sees(unreachable(), None);
    life.wait(MINUTE);
    assert_eq!(life.sees(not_found(), Some(not_found())), [SessionEnded]);
    assert_eq!(life.reason(), Some(EndReason::NotFound));
}

#[test]
fn failing_is_told_after_three_failures_and_recovery_before_what_it_brings() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED"]);
    assert_eq!(life.sees(unreachable(), None), []);
    assert_eq!(life.sees(unreachable(), None), []);
    assert_eq!(life.sees(unreachable(), None), [SessionPollFailing]);
    assert_eq!(life.sees(unreachable(), None), []);
    assert_eq!(life.session.phase(life.now), Phase::Failing);
    assert_eq!(
        life.answer(&["COMPLETE"]),
        [SessionPollRecovered, ResourceStateChanged, SessionNothingRequired]
    );
}

#[test]
fn being_refused_or_slowed_down_is_no_fault_of_the_session() {
    let mut life = Life::tracked();
    for _ in 0..50 {
        let refused = Observation::Unauthorized(problem(ProblemKind::Unauthorized));
        assert_eq!(life.sees(refused, None), []);
        assert_eq!(life.sees(rate_limited(7 * SECOND), None), []);
        assert!(life.next_poll() >= 7 * SECOND);
    }
}

#[test]
fn in_an_outage_no_session_is_to_blame() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED"]);
    life.outage = true;
    for _ in 0..50 {
        assert_eq!(life.sees(unreachable(), None), []);
    }
}

#[test]
fn a_step_of_the_wall_clock_moves_what_was_measured_and_not_what_was_said() {
    let said = START.plus(5 * DAY);
    let mut life = Life::with(Policy::default(), |entry| entry.expires_at = Some(said));
    life.answer(&["REQUIRED"]);
    life.wait(MINUTE).answer(&["IN_PROGRESS"]);
    let hour = 60 * MINUTE;
    for now in [life.now.plus(hour), life.now.minus(hour)] {
        let stepped = life.session.stepped(Step::between(life.now, now), now, &life.policy);
        assert_eq!(stepped.schedule.poll_at.distance(now), life.next_poll());
        assert!(stepped.is_active(now));
        assert_eq!(stepped.life.deadline.since(now), life.session.life.deadline.since(life.now));
        assert_eq!(stepped.expires_at(), said);
    }
}

#[test]
fn a_retry_after_of_a_year_is_an_hour() {
    let mut life = Life::tracked();
    life.sees(rate_limited(365 * DAY), None);
    assert!(life.next_poll() <= Policy::RETRY_AFTER_MAX);
}

#[test]
fn a_phase_is_read_as_it_is_written() {
    let words = ["pending", "quiet", "active", "failing", "ended"];
    assert_eq!(PhaseName::ALL.map(PhaseName::as_str), words);
    assert_eq!(words.map(PhaseName::parse), PhaseName::ALL.map(Some));
    assert_eq!(PhaseName::parse("Quiet"), None);
    assert_eq!(Phase::Ended(EndReason::Expired).as_str(), "ended");
}

#[test]
fn another_interval_brings_the_next_poll_forward_and_other_labels_do_not() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED"]);
    let due = life.session.schedule.poll_at;
    let amended = |life: &Life, change: fn(&mut Entry)| {
        let mut entry = life.session.entry().clone();
        change(&mut entry);
        life.session.amend(entry, life.now, &life.policy).map(|amended| amended.session)
    };
    let label = |entry: &mut Entry| {
        entry.labels = Labels::new([("case".to_owned(), "A-17".to_owned())].into()).unwrap();
    };
    assert_eq!(amended(&life, label).unwrap().schedule.poll_at, due);
    let often = |entry: &mut Entry| entry.interval = Some(MINUTE);
    let share = MINUTE.mul_f64(life.session.share());
    assert_eq!(amended(&life, often).unwrap().schedule.poll_at, life.now.plus(share));
    let seldom = |entry: &mut Entry| entry.interval = Some(DAY);
    assert_eq!(amended(&life, seldom).unwrap().schedule.poll_at, due);

    assert!(amended(&life, |_| {}).is_none(), "nothing is amended");
    life.sees(Observation::Ongoing, Some(Observation::Expired));
    assert!(amended(&life, often).is_none(), "it has ended");
}

#[test]
fn untracking_ends_once_and_tracking_again_counts_on() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED"]);
    let untracked = life.session.untrack(life.now).unwrap();
    assert_eq!(life.take(untracked), [SessionEnded]);
    assert_eq!(life.session.untrack(life.now), None);
    let entry = life.session.entry.clone();
    let again = Session::track(entry, life.session.sequence(), life.now, &life.policy);
    assert_eq!(again.events[0].session_sequence, 4);
}

#[test]
fn an_ended_session_whose_file_goes_is_let_go_without_a_word() {
    let mut life = Life::tracked();
    life.sees(not_found(), Some(Observation::Expired));
    let released = life.session.untrack(life.now).unwrap();
    assert!(released.events.is_empty() && !released.steady);
    assert!(!released.session.is_listed());
}

/// By less than the longest delay there is, so that the due time alone doesn't show it.
#[test]
fn a_clock_set_back_while_the_daemon_was_down_keeps_no_session_waiting() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED"]);
    life.now = life.now.minus(50 * MINUTE);
    life.session.resume(life.now, &life.policy, &mut life.rng);
    assert!(life.next_poll() <= life.policy.interval, "{:?}", life.next_poll());

    let mut unpolled = Life::tracked();
    unpolled.now = unpolled.now.minus(50 * MINUTE);
    unpolled.session.resume(unpolled.now, &unpolled.policy, &mut unpolled.rng);
    assert!(unpolled.next_poll() <= unpolled.policy.interval, "{:?}", unpolled.next_poll());
}

#[test]
fn a_404_of_the_future_counts_from_now() {
    let mut life = Life::tracked();
    assert_eq!(life.sees(not_found(), Some(not_found())), []);
    life.now = life.now.minus(50 * MINUTE);
    life.session.resume(life.now, &life.policy, &mut life.rng);
    assert_eq!(life.sees(not_found(), Some(not_found())), []);
    life.wait(MINUTE);
    assert_eq!(life.sees(not_found(), Some(not_found())), [SessionEnded]);
}

#[test]
fn after_a_restart_due_times_stay_and_what_fell_due_is_spread() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED"]);
    let due = life.session.schedule.poll_at;
    life.session.resume(due.minus(SECOND), &life.policy, &mut life.rng);
    assert_eq!(life.session.schedule.poll_at, due);
    let late = due.plus(DAY);
    let spread: Vec<Duration> = (0..200)
        .map(|_| {
            let mut session = life.session.clone();
            session.resume(late, &life.policy, &mut life.rng);
            session.schedule.poll_at.since(late)
        })
        .collect();
    assert!(spread.iter().all(|after| *after <= life.policy.interval));
    let early = spread.iter().filter(|after| **after < life.policy.interval / 2).count();
    assert!((60..140).contains(&early), "{early} of 200 in the first half");
}

#[test]
fn a_shorter_interval_is_taken_up_after_a_restart_but_by_what_waits_for_a_failure_to_pass() {
    let shorter = Policy { interval: 30 * SECOND, ..Policy::default() };
    // How long it waits before and after a restart.
    let restarted = |mut life: Life| {
        let before = life.next_poll();
        life.session.resume(life.now, &shorter, &mut life.rng);
        (before, life.next_poll())
    };
    for _ in 0..20 {
        let mut healthy = Life::tracked();
        healthy.answer(&["REQUIRED"]);
        let (before, after) = restarted(healthy);
        assert!(before > MINUTE && after <= 30 * SECOND, "{before:?}, {after:?}");
    }
    let mut missing = Life::tracked();
    missing.sees(not_found(), Some(not_found()));
    let mut limited = Life::tracked();
    limited.sees(rate_limited(3 * MINUTE), None);
    for life in [missing, limited] {
        let (before, after) = restarted(life);
        assert!(before > 33 * SECOND && after == before, "{before:?}, {after:?}");
    }
}

#[test]
fn after_a_restart_all_stays_that_the_policy_may_have_asked_for_and_nothing_beyond() {
    let mut healthy = Life::tracked();
    healthy.answer(&["REQUIRED"]);
    let mut failing = Life::tracked();
    failing.sees(unreachable(), None);
    let jittered = healthy.policy.interval.mul_f64(1.1);
    for (mut life, longest) in [(healthy, jittered), (failing, Policy::RETRY_AFTER_MAX)] {
        let mut resumed = |wait| {
            life.session.schedule.poll_at = life.now.plus(wait);
            life.session.resume(life.now, &life.policy, &mut life.rng);
            life.next_poll()
        };
        assert_eq!(resumed(longest), longest);
        assert!(resumed(longest + SECOND / 1_000) <= Policy::default().interval);
        assert!(resumed(365 * DAY) <= Policy::default().interval);
    }
}

#[test]
fn a_session_has_a_last_chance_until_its_final_poll_is_planned() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED"]);
    let last_chance = life.session.wake(&life.policy).unwrap().last_chance;
    let final_poll = life.session.final_poll_at(&life.policy);
    assert_eq!(last_chance, Some(final_poll));
    let by_id = f64::from(0x3fa8) / 65_536.0;
    assert!((life.session.share() - by_id).abs() < f64::EPSILON);
    let share = life.policy.final_poll_before_expiry.mul_f64(life.session.share());
    let before = life.policy.final_poll_before_expiry + share;
    assert_eq!(final_poll, life.session.expires_at().minus(before));

    life.now = final_poll.minus(MINUTE);
    let left = life.session.expires_at().since(life.now);
    life.sees(configuration(Some(left), &["REQUIRED"]), None);
    let final_poll = life.session.final_poll_at(&life.policy);
    let wake = life.session.wake(&life.policy).unwrap();
    assert_eq!((wake.poll, wake.last_chance), (Some((final_poll, Urgency::Final)), None));
}

#[test]
fn a_session_is_given_up_at_its_deadline_and_has_no_poll_then() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED"]);
    let deadline = life.session.expires_at();
    assert!(!life.session.is_given_up(deadline.minus(SECOND)));
    assert!(life.session.is_given_up(deadline));
    life.session.schedule.poll_at = deadline;
    assert_eq!(life.session.wake(&life.policy).unwrap().poll, None);
}

#[test]
fn what_a_wrong_clock_has_put_off_for_a_year_is_polled_within_an_interval() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED"]);
    life.session.schedule.poll_at = life.now.plus(365 * DAY);
    life.session.resume(life.now, &life.policy, &mut life.rng);
    assert!(life.next_poll() <= life.policy.interval);
}

#[test]
fn a_session_whose_deadline_passed_unseen_is_polled_once_more_before_it_ends() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED"]);
    life.wait(20 * DAY);
    life.session.resume(life.now, &life.policy, &mut life.rng);
    assert_eq!(life.elapses(), []);
    let wake = life.session.wake(&life.policy).unwrap();
    let (poll_at, urgency) = wake.poll.unwrap();
    assert_eq!(urgency, Urgency::Final);
    assert!(poll_at < wake.timer && poll_at.since(life.now) <= MINUTE);

    // Failures don't end it before the time for it is over ...
    life.now = poll_at;
    assert_eq!(life.sees(unreachable(), None), []);
    assert!(life.session.wake(&life.policy).unwrap().poll.is_some());
    // ... and an answer decides.
    let mut completed =
        Life { session: life.session.clone(), events: Vec::new(), ..Life::tracked() };
    completed.now = life.now;
    let conflict = Observation::NotReady(problem(ProblemKind::NotReady));
    assert_eq!(
        completed.sees(conflict, Some(Observation::Completed)),
        [SessionCompleted, SessionEnded]
    );
    let late = configuration(None, &["COMPLETE"]);
    assert_eq!(
        life.sees(late, Some(Observation::Ongoing)),
        [ResourceStateChanged, SessionNothingRequired, SessionEnded]
    );
    assert_eq!(life.reason(), Some(EndReason::Expired));
}

#[test]
fn a_session_tracked_in_its_last_seconds_is_polled_as_one_that_has_no_time_left() {
    let life = Life::with(Policy::default(), |e| e.expires_at = Some(START.plus(20 * SECOND)));
    assert_eq!(life.session.schedule.urgency, Urgency::Final);
}

#[test]
fn a_deadline_that_a_session_file_set_is_not_overrun() {
    let mut life = Life::with(Policy::default(), |entry| entry.expires_at = Some(START.plus(DAY)));
    life.answer(&["COMPLETE"]);
    life.wait(20 * DAY);
    life.session.resume(life.now, &life.policy, &mut life.rng);
    assert_eq!(life.elapses(), [SessionEnded]);
}

#[test]
fn equal_inputs_give_equal_bytes() {
    let run = || {
        let mut life = Life::tracked();
        life.answer(&["REQUIRED", "REQUIRED"]);
        life.wait(MINUTE).answer(&["COMPLETE", "FUTURE"]);
        life.wait(MINUTE).sees(unreachable(), None);
        let lines: Vec<String> =
            life.events.iter().map(|e| e.record(1, "test").unwrap().to_line().unwrap()).collect();
        (lines, serde_json::to_string(&life.session).unwrap())
    };
    assert_eq!(run(), run());
}

#[test]
fn a_session_is_stored_without_what_each_of_a_million_would_say_again() {
    let mut life = Life::tracked();
    life.answer(&["REQUIRED", "FUTURE"]);
    let stored = serde_json::to_value(&life.session).unwrap();
    let resources = json!([
        [["ID_DOCUMENT", "resource-0", 0], "REQUIRED"],
        [["ID_DOCUMENT", "resource-1", 0], "FUTURE"],
    ]);
    assert_eq!(stored["life"]["resources"], resources);
    assert_eq!(stored["life"].get("told"), None);
    assert_eq!(stored["schedule"].get("failures"), None);
    assert_eq!(stored["schedule"].get("strikes"), None);
    let mut with_names = stored.clone();
    with_names["life"]["resources"] = json!([
        { "resource": { "type": "ID_DOCUMENT", "id": "resource-0", "ordinal": 0 }, "state": "REQUIRED" },
        { "resource": { "type": "ID_DOCUMENT", "id": "resource-1", "ordinal": 0 }, "state": "FUTURE" },
    ]);
    for stored in [stored, with_names] {
        let again: Session = serde_json::from_value(stored).unwrap();
        assert_eq!(again.life, life.session.life);
        assert_eq!((again.schedule.failures, again.schedule.strikes), (0, 0));
    }

    life.wait(MINUTE).sees(unreachable(), None);
    let stored = serde_json::to_string(&life.session).unwrap();
    let again: Session = serde_json::from_str(&stored).unwrap();
    assert_eq!((again.schedule.failures, again.schedule.strikes), (1, 1));
}

fn any_observation() -> impl Strategy<Value = Observation> {
    let state = prop_oneof!["REQUIRED", "IN_PROGRESS", "COMPLETE", "FUTURE"];
    let ttl = prop_oneof![Just(None), any::<u64>().prop_map(|s| Some(Duration::from_secs(s)))];
    prop_oneof![
        4 => (ttl, prop::collection::vec(state, 0..5)).prop_map(|(ttl, states)| {
            configuration(ttl, &states.iter().map(String::as_str).collect::<Vec<_>>())
        }),
        1 => Just(Observation::NotReady(problem(ProblemKind::NotReady))),
        3 => any_failure(),
    ]
}

fn any_failure() -> impl Strategy<Value = Observation> {
    let retry_after = any::<Option<u32>>().prop_map(|s| s.map(|s| Duration::from_secs(s.into())));
    prop_oneof![
        Just(Observation::Unauthorized(problem(ProblemKind::Unauthorized))),
        Just(unreachable()),
        Just(Observation::Malformed(problem(ProblemKind::Malformed))),
        retry_after.prop_map(|retry_after| Observation::RateLimited {
            problem: problem(ProblemKind::RateLimited),
            retry_after
        }),
        Just(Observation::ServerError {
            problem: problem(ProblemKind::ServerError),
            retry_after: None
        }),
    ]
}

proptest! {
    /// Whatever comes back: sequences without gaps, states that agree with the last listing,
    /// exactly one end, and nothing after it.
    #[test]
    fn any_order_of_answers_keeps_the_laws(
        answers in prop::collection::vec((any_observation(), 0_u64..400_000), 1..40)
    ) {
        let mut life = Life::tracked();
        let mut ended_at = None;
        for (answer, pause) in answers {
            life.wait(Duration::from_secs(pause));
            life.elapses();
            life.sees(answer, None);
            if life.reason().is_some() && ended_at.is_none() {
                ended_at = Some(life.events.len());
            }
        }
        let sequences: Vec<u64> = life.events.iter().map(|e| e.session_sequence).collect();
        prop_assert_eq!(sequences, (1..=life.events.len() as u64).collect::<Vec<_>>());
        let ends = life.events.iter().filter(|e| e.kind() == SessionEnded).count();
        prop_assert_eq!(ends, usize::from(ended_at.is_some()));
        prop_assert_eq!(ended_at.unwrap_or(life.events.len()), life.events.len());
    }

    /// 401, 429, 5xx, timeouts, garbage and one 404, in any order, end no session.
    #[test]
    fn no_failure_ends_a_session(
        failures in prop::collection::vec((any_failure(), 0_u64..5_000), 1..60), not_found_at: usize
    ) {
        let mut life = Life::tracked();
        let missing = not_found_at % failures.len();
        for (i, (failure, pause)) in failures.into_iter().enumerate() {
            life.wait(Duration::from_secs(pause));
            if i == missing {
                life.sees(not_found(), Some(not_found()));
            }
            life.sees(failure, None);
        }
        prop_assert_eq!(life.reason(), None);
    }

    /// The events are enough to know every resource's state: a consumer that applies them
    /// arrives at what the API last said.
    #[test]
    fn the_events_replayed_give_the_last_listing(
        answers in prop::collection::vec(prop::collection::vec(
            ("[AB]", prop_oneof!["REQUIRED", "IN_PROGRESS", "COMPLETE"]), 0..6), 1..12)
    ) {
        let mut life = Life::tracked();
        for answer in &answers {
            let resources: Vec<_> = answer
                .iter()
                .map(|(id, state)| Listed::new(Some("ID_DOCUMENT"), Some(id), Some(state)))
                .collect();
            life.sees(Observation::Configuration(Snapshot { ttl: None, listing: resources.into() }), None);
        }
        let mut replayed = std::collections::BTreeMap::new();
        for event in &life.events {
            match event.detail.clone() {
                Detail::Observed { resources } => {
                    replayed.extend(resources.into_iter().map(|r| (r.key, r.state)));
                }
                Detail::StateChanged { resource, from, to, .. } => {
                    prop_assert_eq!(replayed.insert(resource, to), Some(from));
                }
                Detail::Added { resource, state, .. } => {
                    prop_assert_eq!(replayed.insert(resource, state), None);
                }
                Detail::Removed { resource, last_state, .. } => {
                    prop_assert_eq!(replayed.remove(&resource), Some(last_state));
                }
                Detail::Tracked {}
                | Detail::NothingRequired {}
                | Detail::Completed {}
                | Detail::Expiring { .. }
                | Detail::Ended { .. }
                | Detail::PollFailing { .. }
                | Detail::PollRecovered { .. } => {}
            }
        }
        let mut last: Vec<(String, String)> = answers.last().unwrap().clone();
        let mut known: Vec<(String, String)> =
            replayed.iter().map(|(k, s)| (k.id.to_string(), s.to_string())).collect();
        last.sort();
        known.sort();
        prop_assert_eq!(known, last);
    }
}
