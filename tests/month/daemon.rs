//! The daemon without its runtime: what the store's registry and the poller's loop do, one step
//! after the other in virtual time. All decisions are the core's own.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ibvwatch::clock::{Clock, SteadyClock};
use ibvwatch::config::Limits;
use ibvwatch::domain::{
    Admission, Admitted, Answer, Cause, DueQueue, Gate, Now, Observation, Policy, Seat, Session,
    Step, Timestamp, Transition, Turn, Urgency,
};
use ibvwatch::limiter::Bucket;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::clock::{At, SECOND, Virtual, millis};
use super::laws::{Laws, Poll};
use super::script::{Happening, Script};
use super::world::{SESSIONS, World};

pub(crate) struct Daemon {
    virt: Virtual,
    clock: Arc<SteadyClock<Virtual>>,
    policy: Policy,
    limits: Limits,
    bucket: Bucket,
    admission: Admission,
    unavailable: Option<(Cause, Timestamp)>,
    queue: DueQueue,
    slots: Vec<Option<Slot>>,
    live: u32,
    flights: BinaryHeap<Reverse<(At, usize)>>,
    /// Polls whose confirmation waits for a token.
    confirming: VecDeque<usize>,
    in_flight: usize,
    /// No token before that.
    token_at: At,
    rng: StdRng,
    /// Of what the daemon has no hand in.
    chance: StdRng,
    pub(crate) world: World,
    pub(crate) laws: Laws,
}

/// As the store's registry has it, with what its journal would give back after a crash.
struct Slot {
    session: Session,
    durable: Session,
    revision: u64,
    flight: Option<Flight>,
}

struct Flight {
    polled: Session,
    revision: u64,
    sent: Timestamp,
    sent_at: At,
    served_at: At,
    observation: Observation,
    /// When the configuration came, once the session endpoint is asked.
    confirming: Option<(Timestamp, Option<Observation>)>,
}

impl Daemon {
    pub(crate) fn new(seed: u64, policy: Policy, limits: Limits, script: &Script) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let world = World::new(script.outages.clone(), &mut chance);
        let virt = Virtual::default();
        let clock = Arc::new(SteadyClock::new(virt.clone()));
        Self {
            bucket: Bucket::new(limits, Arc::clone(&clock) as Arc<dyn Clock>),
            virt,
            clock,
            laws: Laws::new(policy.clone(), limits, script.disturbances()),
            policy,
            limits,
            admission: Admission::default(),
            unavailable: None,
            queue: DueQueue::default(),
            slots: (0..SESSIONS).map(|_| None).collect(),
            live: 0,
            flights: BinaryHeap::new(),
            confirming: VecDeque::new(),
            in_flight: 0,
            token_at: 0,
            rng: StdRng::seed_from_u64(seed ^ 0x5eed),
            chance,
            world,
        }
    }

    pub(crate) fn run(&mut self, mut script: Script) {
        script.add_sessions(&self.world.sessions);
        while let Some((at, happening)) = script.next() {
            self.run_until(at);
            self.happen(happening);
        }
    }

    fn run_until(&mut self, until: At) {
        loop {
            self.elapse();
            self.arrivals();
            self.confirm();
            self.take_up();
            match self.next_moment() {
                Some(next) if next < until => self.virt.advance_to(next.max(self.at())),
                _ => break,
            }
        }
        self.virt.advance_to(until.max(self.at()));
    }

    /// When the loop would wake next.
    fn next_moment(&self) -> Option<At> {
        let now = self.now();
        let at = self.at();
        let due = |time: Timestamp| at + millis(time.since(now.wall));
        let arrival = self.flights.peek().map(|Reverse((at, _))| *at);
        let timer = self.queue.next_timer().map(due);
        let confirmation = (!self.confirming.is_empty()).then_some(self.token_at);
        let poll = if self.in_flight < self.limits.max_in_flight {
            match self.admission.gate(now) {
                Gate::Closed(None) => None,
                Gate::Closed(Some(wait)) => Some(at + millis(wait) + 1),
                Gate::Open | Gate::Probe => {
                    self.queue.next_poll().map(|time| due(time).max(self.token_at))
                }
            }
        } else {
            None
        };
        [arrival, timer, confirmation, poll].into_iter().flatten().min()
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Track(n) => {
                let entry = self.world.sessions[n].entry();
                let transition = Session::track(entry, 0, self.now().wall, &self.policy);
                self.laws.tracked(n, &self.world.sessions[n]);
                self.live += 1;
                self.apply(n, transition);
            }
            Happening::Untrack(n) => {
                let now = self.now().wall;
                let transition = self.slots[n].as_ref().and_then(|s| s.session.untrack(now));
                if let Some(transition) = transition {
                    self.apply(n, transition);
                }
            }
            Happening::SetClock(by) => {
                self.virt.step(by);
                self.laws.clock_off += by;
            }
            Happening::TakeStep => {
                if let Some(step) = self.clock.take_step() {
                    self.step(step);
                }
            }
            Happening::Rate(share) => {
                let asked = self.asked_per_second();
                self.limits.rate = share.map_or(self.laws.limits.rate, |share| asked * share);
                self.bucket = Bucket::new(self.limits, Arc::clone(&self.clock) as Arc<dyn Clock>);
                self.token_at = 0;
                self.laws.limited_anew(self.limits, self.at());
            }
            Happening::Crash(downtime) => self.crash(downtime),
            Happening::Sleep(time) => {
                self.virt.advance_to(self.at() + time);
                self.spread_overdue();
            }
            Happening::Inspect => {
                let stretch = self.admission.stretch();
                let slots = self.slots.iter().enumerate();
                let sessions = slots.filter_map(|(n, slot)| Some((n, &slot.as_ref()?.session)));
                let live = sessions.filter(|(_, session)| session.ended().is_none());
                self.laws.inspect(self.virt.at(), stretch, live, &self.world);
            }
        }
    }

    /// Polls a second by the cadence of each session.
    fn asked_per_second(&self) -> f64 {
        let wall = self.now().wall;
        let live = self.slots.iter().flatten().filter(|slot| slot.session.ended().is_none());
        live.map(|slot| 1.0 / slot.session.cadence(wall, &self.policy).as_secs_f64()).sum()
    }

    fn elapse(&mut self) {
        while let Some(Seat(n)) = self.queue.pop_timer(self.now().wall) {
            let n = n as usize;
            let session = &self.slot(n).session;
            let transition = session.elapse(self.now().wall, &self.policy);
            self.apply(n, transition);
        }
    }

    /// Answers that have come by now.
    fn arrivals(&mut self) {
        while let Some(&Reverse((at, n))) = self.flights.peek()
            && at <= self.at()
        {
            self.flights.pop();
            let arrived = self.now().wall;
            let policy = &self.policy;
            let slot = self.slots[n].as_mut().expect("a session that was polled");
            let flight = slot.flight.as_mut().expect("an answer to a request");
            if flight.confirming.is_none() && flight.polled.asks_state(&flight.observation, policy)
            {
                flight.confirming = Some((arrived, None));
                self.confirming.push_back(n);
            } else {
                self.answered(n, arrived);
            }
        }
    }

    /// Asks the session endpoint, as far as there are tokens.
    fn confirm(&mut self) {
        while let Some(&n) = self.confirming.front() {
            if !self.token() {
                return;
            }
            self.confirming.pop_front();
            let at = self.at();
            self.laws.request(at);
            self.laws.summary.confirmations += 1;
            let served = at + 50;
            let reply = self.world.state(n, served, &mut self.chance);
            let flight = self.flight(n);
            if let Some((_, state)) = &mut flight.confirming {
                *state = Some(reply.observation);
            }
            self.flights.push(Reverse((served + reply.way_back, n)));
        }
    }

    fn take_up(&mut self) {
        while self.in_flight < self.limits.max_in_flight {
            let now = self.now();
            if matches!(self.admission.gate(now), Gate::Closed(_)) {
                return;
            }
            let Some((Seat(n), due_at, urgency)) = self.queue.pop_poll(now.wall) else { return };
            let n = n as usize;
            let give_back = |daemon: &mut Self| {
                daemon.queue.not_polled();
                daemon.enqueue(n);
            };
            if !self.token() {
                give_back(self);
                return;
            }
            let session = &self.slots[n].as_ref().expect("a session in the queue").session;
            let cadence = session.cadence(now.wall, &self.policy);
            match self.admission.admit(session, due_at, cadence, now) {
                Admitted::No => give_back(self),
                Admitted::Yes { stretched } => {
                    self.laws.warned(self.virt.at(), stretched);
                    self.send(n, due_at, urgency, now);
                }
            }
        }
    }

    fn send(&mut self, n: usize, due_at: Timestamp, urgency: Urgency, now: Now) {
        let at = self.at();
        self.laws.request(at);
        let late = now.wall.since(due_at);
        self.laws.polled(n, &Poll { at, urgency, late, live: self.live });
        let served_at = at + 50;
        let reply = self.world.configuration(n, served_at, &mut self.chance);
        let slot = self.slots[n].as_mut().expect("a session that is polled");
        assert!(slot.flight.is_none(), "session {n} is polled twice at once");
        slot.flight = Some(Flight {
            polled: slot.session.clone(),
            revision: slot.revision,
            sent: now.wall,
            sent_at: at,
            served_at,
            observation: reply.observation,
            confirming: None,
        });
        self.in_flight += 1;
        self.flights.push(Reverse((served_at + reply.way_back, n)));
    }

    /// All that the poll asked for has come.
    fn answered(&mut self, n: usize, at: Timestamp) {
        let (now, live) = (self.now(), usize::try_from(self.live).expect("few sessions"));
        let slot = self.slots[n].as_mut().expect("a session that was polled");
        let flight = slot.flight.take().expect("a poll under way");
        self.in_flight -= 1;
        let (arrived, state) = flight.confirming.unwrap_or((at, None));
        let good = matches!(flight.observation, Observation::Configuration(_));
        let answer = Answer { observation: flight.observation, state, sent: flight.sent, arrived };
        let (turn, transition) =
            self.admission.answered(&flight.polled, answer, live, now, &self.policy, &mut self.rng);
        self.laws.answered(n);
        let here = self.virt.at();
        if slot.revision == flight.revision {
            if good {
                let times = (flight.sent_at, flight.served_at, here);
                let truth = &self.world.sessions[n];
                self.laws.configured(n, truth, times, &flight.polled, &transition, now.wall);
            }
            let cadence = transition.session.cadence(now.wall, &self.policy);
            self.laws.settled(n, here, &transition, cadence);
            self.apply(n, transition);
        } else {
            self.enqueue(n);
        }
        if let Some(turn) = turn {
            self.turned(&turn);
        }
    }

    fn turned(&mut self, turn: &Turn) {
        let at = self.at();
        let told = match turn {
            Turn::Opened { cause, .. } => {
                self.unavailable = Some((*cause, self.now().wall));
                true
            }
            Turn::Closed { told, spread, .. } => {
                self.unavailable = None;
                if *spread {
                    self.spread_overdue();
                }
                *told
            }
        };
        if told {
            self.laws.turned(at, turn, self.world.outage(at), self.live);
        }
    }

    fn spread_overdue(&mut self) {
        let now = self.now().wall;
        for n in 0..self.slots.len() {
            let Some(slot) = &mut self.slots[n] else { continue };
            let idle = slot.flight.is_none() && slot.session.ended().is_none();
            if idle && slot.session.schedule().poll_at <= now {
                slot.session.resume(now, &self.policy, &mut self.rng);
                slot.revision += 1;
                self.enqueue(n);
            }
        }
    }

    fn step(&mut self, step: Step) {
        let now = self.now().wall;
        for n in 0..self.slots.len() {
            let Some(slot) = &mut self.slots[n] else { continue };
            if slot.session.ended().is_none() {
                slot.session = slot.session.stepped(step, now, &self.policy);
                slot.durable = slot.session.clone();
                slot.revision += 1;
                self.enqueue(n);
            }
        }
    }

    /// The process is killed and started again some time later, with what its journal holds.
    fn crash(&mut self, downtime: At) {
        self.virt.advance_to(self.at() + downtime);
        self.flights.clear();
        self.confirming.clear();
        self.in_flight = 0;
        self.token_at = 0;
        self.queue = DueQueue::default();
        self.bucket = Bucket::new(self.limits, Arc::clone(&self.clock) as Arc<dyn Clock>);
        self.laws.limited_anew(self.limits, self.at());
        self.admission = Admission::resume(self.unavailable);
        let now = self.now().wall;
        for n in 0..self.slots.len() {
            let Some(slot) = &mut self.slots[n] else { continue };
            let kept = serde_json::to_string(&slot.durable).expect("a session as JSON");
            slot.session = serde_json::from_str(&kept).expect("the same session");
            slot.session.resume(now, &self.policy, &mut self.rng);
            slot.revision += 1;
            slot.flight = None;
            self.enqueue(n);
        }
    }

    fn apply(&mut self, n: usize, transition: Transition) {
        let Transition { session, events, steady } = transition;
        let at = self.virt.at();
        for event in &events {
            self.laws.told(at, event, &self.world);
        }
        let ended = session.ended().is_some();
        match &mut self.slots[n] {
            Some(slot) => {
                if ended && slot.session.ended().is_none() {
                    self.live -= 1;
                }
                slot.revision += 1;
                slot.session = session;
                if !steady {
                    slot.durable = slot.session.clone();
                }
            }
            none => {
                let durable = session.clone();
                *none = Some(Slot { session, durable, revision: 0, flight: None });
            }
        }
        self.enqueue(n);
    }

    fn enqueue(&mut self, n: usize) {
        let Some(slot) = &self.slots[n] else { return };
        let seat = Seat(u32::try_from(n).expect("a few sessions"));
        let idle = slot.flight.is_none();
        match idle.then(|| slot.session.wake(&self.policy)).flatten() {
            Some(wake) => self.queue.set(seat, wake),
            None => self.queue.remove(seat),
        }
    }

    fn token(&mut self) -> bool {
        match self.bucket.try_take() {
            Ok(()) => true,
            Err(wait) => {
                self.token_at = self.at() + millis(wait) + 1;
                false
            }
        }
    }

    fn slot(&self, n: usize) -> &Slot {
        self.slots[n].as_ref().expect("a session that is tracked")
    }

    fn flight(&mut self, n: usize) -> &mut Flight {
        let slot = self.slots[n].as_mut().expect("a session that was polled");
        slot.flight.as_mut().expect("a poll under way")
    }

    fn at(&self) -> At {
        self.virt.at()
    }

    fn now(&self) -> Now {
        self.clock.now()
    }
}

/// How long the daemon takes to notice that its clock was set.
pub(crate) const STEP_NOTICED_AFTER: At = SECOND;

/// A cadence at which ten thousand sessions leave the rate limit some room, and at which the
/// month passes in seconds.
pub(crate) fn policy() -> Policy {
    Policy { interval: Duration::from_secs(2 * 3_600), ..Policy::default() }
}
