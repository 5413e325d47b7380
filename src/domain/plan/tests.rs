use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::id::SessionId;
use super::super::labels::Labels;
use super::super::observation::{Observation, Snapshot};
use super::super::resource::Listed;
use super::super::schedule::jittered;
use super::super::session::Exchange;
use super::*;

const CAPACITY: Capacity =
    Capacity { rate: 10.0, burst: 20, max_in_flight: 8, timeout: Duration::from_secs(10) };
const START: Timestamp = Timestamp::from_millis(1_795_000_000_000);

fn plan(sessions: u32) -> Plan {
    Plan::new(&Demand::of_number(sessions), &CAPACITY, &Policy::default())
}

fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

fn entry(n: u8, expires_at: Option<Timestamp>, interval: Option<u64>) -> Entry {
    Entry {
        session_id: SessionId::from_bytes([n; 16]),
        labels: Labels::default(),
        expires_at,
        interval: interval.map(Duration::from_secs),
    }
}

#[test]
fn the_rate_asked_is_that_of_the_cadence() {
    let plan = plan(1_200);
    assert!((plan.quiet_rate - 4.0).abs() < 1e-9);
    assert!((plan.busy_rate - (0.95 * 4.0 + 60.0 / 30.0)).abs() < 1e-9);
    assert!(plan.fits() && plan.advice.is_empty());
    assert!((plan.stretch - 1.0).abs() < f64::EPSILON);
}

#[test]
fn an_interval_of_its_own_counts_for_its_session() {
    let policy = Policy::default();
    let entries = [entry(1, None, Some(10)), entry(2, None, None), entry(3, None, Some(600))];
    let demand = Demand::of_entries(&entries, &policy);
    let plan = Plan::new(&demand, &CAPACITY, &policy);
    assert!((plan.quiet_rate - (0.1 + 1.0 / 300.0 + 1.0 / 600.0)).abs() < 1e-9);
}

#[test]
fn sessions_that_list_only_complete_cost_two_requests_and_ended_ones_none() {
    let policy = Policy::default();
    let rng = &mut StdRng::seed_from_u64(1);
    let mut sessions: Vec<Session> =
        (0..4).map(|n| Session::track(entry(n, None, None), 0, START, &policy).session).collect();
    let resources = vec![Listed::new(Some("LIVENESS"), Some("a"), Some("COMPLETE"))];
    let exchange = Exchange { sent: START, arrived: START, outage: false };
    let answer = Observation::Configuration(Snapshot { ttl: None, listing: resources.into() });
    sessions[0] = sessions[0].observe(answer, None, exchange, &policy, rng).session;
    sessions[1] = sessions[1].untrack(START).unwrap().session;
    let demand = Demand::of_sessions(&sessions, &policy);
    assert_eq!((demand.sessions, demand.confirming), (3, 1));
    let plan = Plan::new(&demand, &CAPACITY, &policy);
    assert!((plan.quiet_rate - 4.0 / 300.0).abs() < 1e-9);
}

#[test]
fn in_an_overload_the_active_go_first_and_the_quiet_get_their_share() {
    let plan = plan(4_000);
    // 6.7 of the active fit into three quarters of 10; 12.7 of the quiet have what is left.
    assert!((plan.stretch - (12.666 + 6.666) / 10.0).abs() < 0.01, "{}", plan.stretch);
    assert_eq!(plan.active.worst, Duration::from_millis(33_200));
    let quiet = plan.quiet.worst.as_secs_f64() / 330.0;
    assert!((quiet - 12.666 / 3.333).abs() < 0.01, "{quiet}");
}

/// Advice that is followed must help.
#[test]
fn each_piece_of_advice_makes_it_fit() {
    for sessions in [3_000, 10_000, 50_000] {
        let policy = Policy::default();
        let told = plan(sessions);
        assert!(!told.fits());
        let mut capacity = CAPACITY;
        for advice in &told.advice {
            match *advice {
                Advice::RateLimit(rate) => capacity.rate = rate,
                Advice::MaxInFlight(count) => capacity.max_in_flight = count as usize,
                Advice::Interval(interval) => {
                    let policy = Policy { interval, ..policy.clone() };
                    let plan = Plan::new(&Demand::of_number(sessions), &CAPACITY, &policy);
                    assert!(plan.fits(), "{sessions} sessions every {interval:?}");
                }
                Advice::FinalPollBeforeExpiry(_) => panic!("no deadline is known"),
            }
        }
        let plan = Plan::new(&Demand::of_number(sessions), &capacity, &policy);
        assert!(plan.fits(), "{sessions} sessions with {capacity:?}");
    }
}

#[test]
fn advice_names_what_would_be_used_to_four_fifths() {
    let policy = Policy::default();
    assert_eq!(plan(3_000).advice, [Advice::RateLimit(19.0), Advice::Interval(minutes(16))]);
    // Active sessions alone take four fifths of what is allowed: no interval helps.
    assert_eq!(plan(4_800).advice, [Advice::RateLimit(29.0)]);
    assert_eq!(plan(10_000).advice, [Advice::RateLimit(61.0), Advice::MaxInFlight(13)]);

    // Sessions that don't go by the interval get what they ask for, and so do active ones.
    let mut entries = vec![entry(1, None, None); 2_000];
    entries.extend(vec![entry(2, None, Some(60)); 100]);
    let mut demand = Demand::of_entries(&entries, &policy);
    let advice = |demand: &Demand| Plan::new(demand, &CAPACITY, &policy).advice;
    assert_eq!(advice(&demand), [Advice::RateLimit(15.0), Advice::Interval(minutes(11))]);
    demand.confirming = 1_050;
    assert_eq!(advice(&demand), [Advice::RateLimit(22.0), Advice::Interval(minutes(127))]);
}

#[test]
fn what_is_just_enough_needs_no_advice() {
    let every_second = Duration::from_secs(1);
    let policy =
        Policy { interval: every_second, active_interval: every_second, ..Policy::default() };
    let capacity = Capacity { rate: 40.0, ..CAPACITY };
    let plan = Plan::new(&Demand::of_number(40), &capacity, &policy);
    assert_eq!((plan.busy_rate, plan.allowed_rate, plan.in_flight_rate), (40.0, 40.0, 40.0));
    assert!(plan.fits() && plan.advice.is_empty(), "{plan:?}");
    assert_eq!(plan.quiet.worst, Duration::from_millis(1_300));
}

#[test]
fn who_expires_together_does_within_the_window_and_the_first_of_equal_crowds_is_named() {
    let window = Duration::from_secs(60);
    let crowd = |after: &[u64]| {
        let deadlines = after.iter().map(|&millis| START.plus(Duration::from_millis(millis)));
        let entries: Vec<Entry> = deadlines.map(|at| entry(1, Some(at), None)).collect();
        Demand::of_entries(&entries, &Policy::default()).largest_cohort(window)
    };
    let at = |millis| START.plus(Duration::from_millis(millis));
    assert_eq!(crowd(&[]), None);
    assert_eq!(crowd(&[60_000, 0]), Some((2, at(60_000))));
    assert_eq!(crowd(&[60_001, 0]), Some((1, at(0))));
    assert_eq!(crowd(&[0, 1, 200_000, 200_001, 200_002]), Some((3, at(200_002))));
}

#[test]
fn times_are_rounded_up_to_what_people_would_write() {
    let rounded = |millis| rounded_up(Duration::from_millis(millis)).as_secs();
    assert_eq!([0, 1, 1_000, 1_001, 599_000].map(rounded), [1, 1, 1, 2, 599]);
    assert_eq!([600_000, 600_001, 660_000, 660_001].map(rounded), [600, 660, 660, 720]);
}

#[test]
fn a_crowd_too_large_for_its_final_polls_gets_more_time() {
    let policy = Policy::default();
    let evening = START.plus(Duration::from_secs(86_400));
    let mut entries: Vec<Entry> = (0..200).map(|n| entry(n, Some(evening), Some(86_400))).collect();
    entries.extend((0..50).map(|n| entry(n, Some(START), Some(86_400))));
    let demand = Demand::of_entries(&entries, &policy);
    let capacity = Capacity { rate: 2.0, ..CAPACITY };
    let plan = Plan::new(&demand, &capacity, &policy);
    assert_eq!((plan.cohort, plan.largest_cohort), (90, Some((200, evening))));
    let [Advice::FinalPollBeforeExpiry(before)] = plan.advice[..] else { panic!("{plan:?}") };
    assert_eq!(before, Duration::from_secs(67));
    let policy = Policy { final_poll_before_expiry: before, ..policy };
    let plan = Plan::new(&demand, &capacity, &policy);
    assert!(plan.cohort >= 200 && plan.advice.is_empty(), "{plan:?}");
    let just = Demand::of_entries(&entries[..90], &policy);
    assert!(Plan::new(&just, &capacity, &Policy::default()).advice.is_empty());
}

#[test]
fn a_change_waits_for_half_an_interval_and_a_little_for_the_jitter() {
    let latency = Latency::of(Duration::from_secs(300), 0.1, 1.0);
    assert_eq!(latency.mean, Duration::from_millis(150_700));
    assert_eq!(latency.p50, Duration::from_millis(150_200));
    assert_eq!(latency.worst, Duration::from_millis(330_200));
}

#[test]
fn first_polls_take_as_long_as_the_rate_makes_them() {
    assert_eq!(plan(6_020).first_polls, Duration::from_secs(600));
    assert_eq!(plan(20).first_polls, Duration::ZERO);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// The formulas, against changes that come at random between polls as the schedule draws them.
    #[test]
    fn latencies_are_those_of_the_schedule(seed: u64, jitter in 0.0..0.95_f64) {
        const CHANGES: usize = 20_000;
        let rng = &mut StdRng::seed_from_u64(seed);
        let interval = Duration::from_secs(300);
        let mut waits = Vec::new();
        let (mut poll, mut change) = (0.0, 0.0);
        while waits.len() < CHANGES {
            change += rng.random_range(0.0..2_000.0);
            while poll < change {
                poll += jittered(interval, jitter, rng).as_secs_f64();
            }
            waits.push(poll - change + Plan::ANSWER_TIME.as_secs_f64());
        }
        waits.sort_by(f64::total_cmp);
        let Latency { mean, p50, p99, worst } = Latency::of(interval, jitter, 1.0);
        let near = |measured: f64, stated: Duration| (measured - stated.as_secs_f64()).abs() < 12.0;
        let average = waits.iter().sum::<f64>() / 20_000.0;
        prop_assert!(near(average, mean), "mean {average}, not {mean:?}");
        prop_assert!(near(waits[CHANGES / 2], p50), "p50 {}, not {p50:?}", waits[CHANGES / 2]);
        let measured = waits[CHANGES * 99 / 100];
        prop_assert!(near(measured, p99), "p99 {measured}, not {p99:?}");
        prop_assert!(waits[CHANGES - 1] <= worst.as_secs_f64() + 0.001);
    }
}
