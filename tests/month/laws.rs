//! What must hold at every step of the month, checked from outside: against what is true, and
//! never against what the daemon believes.

use std::time::Duration;

use ibvwatch::config::Limits;
use ibvwatch::domain::{
    Detail, DueQueue, EndReason, Event, Phase, Policy, Session, Timestamp, Transition, Turn,
    Urgency,
};

use super::clock::{At, DAY, HOUR, MINUTE, SECOND, millis, span};
use super::script::{Disturbance, DisturbanceKind};
use super::summary::Summary;
use super::world::{CROWD, Change, DAYS, Outage, SESSIONS, Truth, World, number};

/// By how much a poll may come late when nothing is wrong: an evening's final polls go first.
pub(crate) const SLACK: At = MINUTE;
/// The API's word on the time left differs by some seconds from answer to answer.
const DEADLINE_SLACK: At = 8 * SECOND;

const PRESSURES: [DisturbanceKind; 3] =
    [DisturbanceKind::Overload, DisturbanceKind::Flood, DisturbanceKind::Throttle];

/// Polls of one session: what the active cadence asks for, the first quick tries after several
/// failures, and those of a final poll.
const MOST_AN_HOUR: u32 = 200;

pub(crate) struct Laws {
    policy: Policy,
    /// As configured.
    pub(crate) limits: Limits,
    disturbances: Vec<Disturbance>,
    times: Times,
    books: Vec<Book>,
    meter: Meter,
    outage: Option<Pause>,
    /// Polls in each minute of the month.
    minutes: Vec<u32>,
    recoveries: Vec<(At, u32)>,
    /// By how much the wall clock is set ahead.
    pub(crate) clock_off: i64,
    pub(crate) summary: Summary,
}

/// A time in which nothing begins or ends that disturbs the schedule.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    from: At,
    to: At,
    /// Since when nothing has been wrong, if nothing is.
    calm: Option<At>,
    /// Why more polls are due than can be made, if they are.
    pressure: Option<DisturbanceKind>,
    /// The clock is set, or the daemon is away.
    jump: bool,
}

/// What is known of one session from outside.
#[derive(Debug, Clone, Default)]
struct Book {
    tracked: At,
    sequence: u64,
    sent: Option<At>,
    /// When the last answer was decided on, at which cadence polls go on, and whether nothing
    /// is wrong with the session.
    settled: Option<(At, Duration, bool)>,
    /// The last good answer: when it was asked for, and when the API looked.
    good: Option<(At, At)>,
    ended: Option<EndReason>,
    /// Polls in the present hour.
    hour: (At, u32),
}

/// A time in which polls pause.
#[derive(Debug)]
struct Pause {
    since: At,
    probe: Option<usize>,
    probes: u32,
}

#[derive(Debug)]
pub(crate) struct Poll {
    pub(crate) at: At,
    pub(crate) urgency: Urgency,
    pub(crate) late: Duration,
    pub(crate) live: u32,
}

/// A leaky bucket, which runs over if and only if some window holds more than burst and rate.
#[derive(Debug)]
struct Meter {
    limits: Limits,
    level: f64,
    at: At,
}

impl Meter {
    fn request(&mut self, at: At) {
        self.level = (self.level - (span(at - self.at).as_secs_f64() * self.limits.rate)).max(0.0);
        self.level += 1.0;
        self.at = at;
        assert!(
            self.level <= f64::from(self.limits.burst) + 0.01,
            "more requests than burst and rate allow at {at}: {}",
            self.level
        );
    }
}

impl Laws {
    pub(crate) fn new(policy: Policy, limits: Limits, disturbances: Vec<Disturbance>) -> Self {
        Self {
            policy,
            limits,
            disturbances,
            times: Times::default(),
            books: vec![Book::default(); SESSIONS],
            meter: Meter { limits, level: 0.0, at: 0 },
            outage: None,
            minutes: vec![0; usize::try_from((DAYS + 1) * DAY / MINUTE).expect("few")],
            recoveries: Vec::new(),
            clock_off: 0,
            summary: Summary::default(),
        }
    }

    fn disturbed(&self, from: At, to: At) -> bool {
        self.disturbances.iter().any(|d| d.from <= to && from < d.to)
    }

    /// What is going on at that moment. Known for a while, since it is asked at every poll.
    fn times(&mut self, at: At) -> Times {
        if !(self.times.from..self.times.to).contains(&at) {
            let edges = self.disturbances.iter().flat_map(|d| [d.from, d.to]);
            let in_a = |kind| {
                self.disturbances.iter().any(|d| d.kind == kind && (d.from..d.to).contains(&at))
            };
            let begun = self.disturbances.iter().filter(|d| d.from <= at);
            let over = begun.map(|d| d.to).max().unwrap_or(0);
            self.times = Times {
                from: edges.clone().filter(|&edge| edge <= at).max().unwrap_or(0),
                to: edges.filter(|&edge| edge > at).min().unwrap_or(At::MAX),
                calm: (over <= at).then_some(over),
                pressure: PRESSURES.into_iter().find(|&kind| in_a(kind)),
                jump: in_a(DisturbanceKind::Clock) || in_a(DisturbanceKind::Away),
            };
        }
        self.times
    }

    pub(crate) fn tracked(&mut self, n: usize, truth: &Truth) {
        self.books[n].tracked = truth.tracked;
    }

    /// New limits come with a full bucket.
    pub(crate) fn limited_anew(&mut self, limits: Limits, at: At) {
        self.meter = Meter { limits, level: 0.0, at };
    }

    /// A request goes out, of either kind.
    pub(crate) fn request(&mut self, at: At) {
        self.meter.request(at);
    }

    pub(crate) fn warned(&mut self, at: At, stretched: Option<f64>) {
        if stretched.is_some() {
            self.summary.warnings += 1;
            let pressed = self.times(at).pressure.is_some();
            assert!(pressed, "warned of too many polls at {at}, when they were not");
        }
    }

    /// A poll goes out.
    pub(crate) fn polled(&mut self, n: usize, poll: &Poll) {
        let &Poll { at, urgency, late, live } = poll;
        self.summary.polls += 1;
        self.minutes[usize::try_from(at / MINUTE).expect("few")] += 1;
        if let Some(pause) = &mut self.outage {
            assert_eq!(pause.probe, None, "session {n} is polled beside the probe at {at}");
            pause.probe = Some(n);
            pause.probes += 1;
        }
        let times = self.times(at);
        self.in_time(n, at, times);
        if let Some((settled, cadence, true)) = self.books[n].settled
            && urgency != Urgency::Final
            && times.calm.is_some_and(|since| since <= settled)
        {
            self.summary.calm.0 += 1.0;
            self.summary.calm.1 += span(at - settled).as_secs_f64() / cadence.as_secs_f64();
        }
        let limited = self.meter.limits.rate < self.limits.rate;
        if times.pressure == Some(DisturbanceKind::Overload) && limited {
            self.summary.late[urgency as usize].push(millis(late));
            let polls = DueQueue::FAIR_SHARE * u64::from(live);
            let bound = Duration::from_secs(polls).div_f64(self.meter.limits.rate);
            assert!(late <= bound, "session {n} starves: its poll is {late:?} late");
        }
        if times.pressure == Some(DisturbanceKind::Flood) && limited {
            self.summary.flood.0 += u32::from(urgency == Urgency::Quiet);
            self.summary.flood.1 += 1;
        }
        let book = &mut self.books[n];
        book.sent = Some(at);
        book.hour = (at / HOUR, if book.hour.0 == at / HOUR { book.hour.1 + 1 } else { 1 });
        assert!(book.hour.1 <= MOST_AN_HOUR, "session {n} is polled all the time at {at}");
    }

    /// No session waits longer for its poll than the cadence and the jitter make it.
    fn in_time(&self, n: usize, at: At, times: Times) {
        let book = &self.books[n];
        let Some(calm) = times.calm else { return };
        let sent = book.sent.unwrap_or(book.tracked);
        let since = sent.max(calm);
        let cadence = match book.settled {
            None => Duration::ZERO,
            // Planned anew since, when it was perhaps not active any more.
            Some(_) if sent < calm => self.policy.interval,
            Some((_, cadence, true)) => cadence,
            Some((_, cadence, false)) => cadence.max(self.policy.backoff_max),
        };
        let longest = millis(cadence.mul_f64(1.0 + self.policy.jitter)) + SLACK;
        let waits = at - since;
        assert!(waits <= longest, "session {n} has not been polled for {waits} ms at {at}");
    }

    pub(crate) fn answered(&mut self, n: usize) {
        if let Some(pause) = &mut self.outage
            && pause.probe == Some(n)
        {
            pause.probe = None;
        }
    }

    /// A configuration has come. Exactly what changed since the last one is told.
    pub(crate) fn configured(
        &mut self,
        n: usize,
        truth: &Truth,
        (sent, served, arrived): (At, At, At),
        polled: &Session,
        transition: &Transition,
        wall: Timestamp,
    ) {
        let book = &mut self.books[n];
        let before = book.good.replace((sent, served));
        let previous_poll = before.map(|(sent, _)| sent);
        let told: Vec<(&str, Timestamp, Timestamp)> = transition
            .events
            .iter()
            .filter_map(|event| {
                let Detail::StateChanged { to, changed_after, changed_before, .. } = &event.detail
                else {
                    return None;
                };
                Some((to.as_str(), *changed_after, *changed_before))
            })
            .collect();
        let Some((_, last_served)) = before else {
            assert!(told.is_empty(), "session {n} changed before it was observed");
            return;
        };
        if truth.changes.is_empty() {
            assert!(told.is_empty(), "session {n} never changes");
            return;
        }
        let (then, now) = (truth.states(last_served), truth.states(served));
        let differ: Vec<usize> = (0..then.len()).filter(|&r| then[r] != now[r]).collect();
        let expected: Vec<&str> = differ.iter().map(|&r| now[r]).collect();
        let states: Vec<&str> = told.iter().map(|(to, ..)| *to).collect();
        assert_eq!(states, expected, "session {n}, polled at {sent}");
        let untroubled =
            truth.trouble.is_none_or(|t| t.to + 10 * MINUTE < last_served || served < t.from);
        let calm = untroubled
            && previous_poll.is_some_and(|previous| {
                self.times(arrived).calm.is_some_and(|since| since < previous)
            });
        if !calm {
            return;
        }
        let in_between = |change: &&Change| (last_served + 1..=served).contains(&change.at);
        for change in truth.changes.iter().filter(in_between) {
            let at_the_time = wall.minus(span(arrived - change.at));
            for (_, after, before) in &told {
                assert!((*after..=*before).contains(&at_the_time), "session {n}: wrong bounds");
            }
            let latency = arrived - change.at;
            if polled.phase(at_the_time) == Phase::Active {
                self.summary.latency[0].push(latency);
            } else {
                self.summary.latency[1].push(latency);
            }
        }
    }

    /// The answer has been decided on.
    pub(crate) fn settled(&mut self, n: usize, at: At, transition: &Transition, cadence: Duration) {
        let well = transition.session.schedule().last_problem.is_none();
        self.books[n].settled = Some((at, cadence, well));
    }

    pub(crate) fn told(&mut self, at: At, event: &Event, world: &World) {
        let n = number(event.session_id);
        let book = &mut self.books[n];
        self.summary.events += 1;
        book.sequence += 1;
        assert_eq!(event.session_sequence, book.sequence, "session {n} at {at}");
        assert_eq!(book.ended, None, "session {n} is told of after its end");
        if let Detail::Ended { reason, .. } = event.detail {
            book.ended = Some(reason);
            self.ended(n, at, reason, &world.sessions[n]);
        }
    }

    fn ended(&mut self, n: usize, at: At, reason: EndReason, truth: &Truth) {
        let happened = |time: Option<At>| time.is_some_and(|time| time <= at);
        match reason {
            EndReason::Untracked => assert!(happened(truth.untracked), "session {n} at {at}"),
            EndReason::Completed => assert!(happened(truth.completed), "session {n} at {at}"),
            EndReason::NotFound => {
                let twice = at.checked_sub(MINUTE);
                assert!(truth.deleted.is_some_and(|d| Some(d) <= twice), "session {n} at {at}");
            }
            EndReason::Expired => self.expired(n, at, truth),
        }
        self.summary.ends[reason as usize] += 1;
    }

    fn expired(&mut self, n: usize, at: At, truth: &Truth) {
        // What a file says is meant by the daemon's own clock.
        let said = truth.said.map(|said| said.saturating_add_signed(-self.clock_off));
        let ends = said.map_or(truth.deadline, |said| said.min(truth.deadline));
        let off = ends.abs_diff(at);
        // A clock that is set ahead, and a daemon that was away, jump over a deadline.
        let jumped = at > ends && (self.times(at - 2 * SECOND).jump || self.times(at).jump);
        assert!(off <= DEADLINE_SLACK || jumped, "session {n} ends {off} ms off at {at}");
        let window = millis(self.policy.final_poll_before_expiry) * 2 + DEADLINE_SLACK;
        let from = ends - window;
        let last_chance = self.books[n].good.is_some_and(|(sent, _)| sent >= from);
        if CROWD.contains(&n) {
            self.summary.crowd_final += u32::from(last_chance);
            return;
        }
        let troubled = truth.trouble.is_some_and(|t| t.from <= ends && from < t.to + 10 * MINUTE);
        if self.disturbed(from, at) || troubled {
            return;
        }
        let over = |time: Option<At>| time.is_some_and(|time| time < from);
        assert!(!over(truth.completed), "session {n} was completed and is told as expired");
        // Denied once by the poll before, and again a minute later.
        let known = millis(self.policy.interval.mul_f64(1.0 + self.policy.jitter)) + 2 * MINUTE;
        assert!(!over(truth.deleted.map(|d| d + known)), "session {n} was deleted");
        let soon = |time: Option<At>| time.is_some_and(|time| time < ends);
        if !soon(truth.completed) && !soon(truth.deleted) {
            assert!(
                last_chance,
                "session {n} had no final poll before {ends}: {:?}",
                self.books[n]
            );
        }
    }

    pub(crate) fn turned(&mut self, at: At, turn: &Turn, outage: Option<Outage>, live: u32) {
        match turn {
            Turn::Opened { cause, .. } => {
                assert!(self.outage.is_none(), "told twice of one outage at {at}");
                let outage = outage.expect("an outage to tell of");
                assert_eq!(*cause, outage.kind.cause());
                self.outage = Some(Pause { since: at, probe: None, probes: 0 });
                self.summary.pauses += 1;
            }
            Turn::Closed { .. } => {
                let pause = self.outage.take().expect("an outage that ends");
                let lasted = at - pause.since;
                let most = 15 + 3 * lasted / millis(self.policy.backoff_max);
                assert!(u64::from(pause.probes) <= most, "{} probes in {lasted} ms", pause.probes);
                self.summary.probes += pause.probes;
                if lasted > 20 * MINUTE {
                    self.recoveries.push((at, live));
                }
            }
        }
    }

    pub(crate) fn inspect<'a>(
        &mut self,
        at: At,
        stretch: f64,
        live: impl Iterator<Item = (usize, &'a Session)>,
        world: &World,
    ) {
        let times = self.times(at);
        let mut count = 0;
        for (n, session) in live {
            count += 1;
            if session.wake(&self.policy).is_some_and(|wake| wake.poll.is_some()) {
                self.in_time(n, at, times);
            }
            if let Some(calm) = times.calm {
                self.not_over(n, at, calm, &world.sessions[n]);
            }
        }
        self.summary.most_live = self.summary.most_live.max(count);
        if times.calm.is_some_and(|since| since + 4 * HOUR < at) {
            assert!(stretch < 1.1, "stretched by {stretch} at {at}");
        }
    }

    /// A session that still goes on: nothing has been true for long that would have ended it.
    fn not_over(&self, n: usize, at: At, calm: At, truth: &Truth) {
        let untroubled = truth.trouble.map_or(0, |trouble| trouble.to);
        let since = |time: Option<At>| {
            time.map_or(0, |time| at.saturating_sub(time.max(calm).max(untroubled)))
        };
        let found = 2 * millis(self.policy.interval);
        assert!(since(truth.completed) < found, "session {n} was completed and goes on at {at}");
        assert!(since(truth.deleted) < found, "session {n} was deleted and goes on at {at}");
        assert!(since(truth.untracked) < SECOND, "session {n} was untracked and goes on at {at}");
        assert!(since(Some(truth.deadline)) < MINUTE, "session {n} expired and goes on at {at}");
    }

    /// What can be said only of the month as a whole.
    pub(crate) fn conclude(mut self) -> Summary {
        assert!(self.outage.is_none(), "an outage that never ends");
        for (at, live) in &self.recoveries {
            self.spread_after(*at, *live);
        }
        self.summary.conclude(&self.policy, self.limits);
        self.summary
    }

    /// Overdue polls are spread over an interval, beside those that fall due in it.
    fn spread_after(&self, at: At, live: u32) {
        let per_minute = f64::from(live) / (self.policy.interval.as_secs_f64() / 60.0);
        let most = per_minute * 2.3 + 60.0;
        let first = usize::try_from(at / MINUTE).expect("few") + 1;
        for count in &self.minutes[first..first + 55] {
            assert!(
                f64::from(*count) <= most,
                "{count} polls in a minute after the outage that ended at {at}, {most} at most"
            );
        }
    }
}
