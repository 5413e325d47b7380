//! A run: one process after the other, and the world that goes on around them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep_until};

use super::plan::{Act, At, FILES, MINUTE, Plan, SECOND, Trouble, millis, span};
use super::process::Process;
use super::world::{Lateness, World};
use crate::config::Limits;
use crate::domain::{Policy, Session, SessionId};
use crate::store::Store;

/// What a run came to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) lasted: At,
    pub(super) deaths: u64,
    /// How much the first process had done at each of its awaits, and of what kind that was.
    pub(super) steps: Vec<(u64, &'static str)>,
    pub(super) seen: BTreeMap<String, u64>,
    pub(super) lateness: Lateness,
}

/// How a process was ended.
enum End {
    Down(At),
    Over,
}

/// Carries the plan out; the first process dies at that step, if one is given.
pub(super) fn run(world: &Arc<World>, first_dies_at: Option<u64>) -> Outcome {
    let mut dies_at = first_dies_at;
    let mut acts = VecDeque::from(world.plan.acts.clone());
    let mut steps = None;
    loop {
        let mut runtime = Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
        // Its end is what the process dies by.
        let over = runtime.block_on(async {
            let end = life(world, dies_at.take(), &mut acts).await;
            steps.get_or_insert_with(|| world.steps());
            match end {
                End::Down(down) => {
                    world.end(down);
                    None
                }
                End::Over => Some(world.at()),
            }
        });
        let Some(lasted) = over else { continue };
        let mut state = world.state();
        // It holds the world, which would never be let go of.
        state.life.clock = None;
        return Outcome {
            lasted,
            deaths: state.life.deaths,
            steps: steps.unwrap_or_default(),
            seen: state.seen.clone(),
            lateness: state.lateness,
        };
    }
}

async fn life(world: &Arc<World>, dies_at: Option<u64>, acts: &mut VecDeque<(At, Act)>) -> End {
    while acts.front().is_some_and(|(at, _)| *at <= world.at())
        && let Some((_, act)) = acts.pop_front()
    {
        meanwhile(world, act);
    }
    world.begin(dies_at);
    let mut process = Process::start(world);
    same(world, &process).await;
    // When all must have come to rest.
    let mut over = None;
    loop {
        let next = match acts.front() {
            Some((at, _)) => *at,
            None => over.unwrap_or(world.plan.horizon),
        };
        let now = world.at();
        if next > now {
            tokio::select! {
                biased;
                () = world.died.notified() => {
                    return End::Down(world.state().life.down);
                }
                part = process.ended() => panic!("{part}"),
                // The machine may be suspended meanwhile.
                () = sleep_until(Instant::now() + span(next - now)) => {}
            }
            continue;
        }
        match acts.pop_front() {
            Some((_, Act::Kill { steps: 0, down })) => world.die(down),
            Some((_, Act::Kill { steps, down })) => world.die_within(steps, down),
            Some((_, Act::Stop { down })) => {
                world.state().cover("stop");
                let stopped = tokio::select! {
                    biased;
                    () = world.died.notified() => false,
                    stopped = process.stop() => stopped,
                };
                world.state().say(format_args!("stops, in time: {stopped}"));
                return End::Down(down);
            }
            Some((_, Act::Reload(limits, interval))) => {
                process.reload(reload(world, limits, interval), limits);
            }
            Some((_, act)) => carry_out(world, act),
            None if over.is_none() => {
                over = Some(now + quiet(&world.plan));
                let mut state = world.state();
                state.files.mend();
                state.life.spare();
                drop(state);
                world.hint.notify_one();
            }
            None => {
                settled(world, &process).await;
                assert!(process.stop().await, "a stop in quiet times takes too long");
                told(world);
                return End::Over;
            }
        }
    }
}

/// How long it may take until all has come to rest.
fn quiet(plan: &Plan) -> At {
    let longest = plan.longest_interval().max(plan.policy.backoff_max);
    // The longest `Retry-After` that is honoured.
    let hour = plan.windows.iter().any(|window| {
        let (Trouble::ServerError(Some(wait)) | Trouble::RateLimited(Some(wait))) = window.trouble
        else {
            return false;
        };
        wait > longest
    });
    3 * millis(longest) + 3 * MINUTE + if hour { 3_700 * SECOND } else { 0 }
}

fn carry_out(world: &World, act: Act) {
    match act {
        Act::SetClock(by) => return world.set_clock(by),
        Act::Suspend(millis) => return world.suspend(millis),
        Act::Add(_)
        | Act::Drop(_)
        | Act::Amend(..)
        | Act::Double(_)
        | Act::File(..)
        | Act::Hide(..)
        | Act::Reload(..)
        | Act::Kill { .. }
        | Act::Stop { .. } => {}
    }
    let wall = world.machine_now().wall;
    let mut state = world.state();
    let id = |n: usize| world.plan.truths[n].id;
    state.say(format_args!("files: {act:?}"));
    match act {
        Act::Add(n) => state.files.add(n % FILES, id(n)),
        Act::Double(n) => state.files.add((n + 1) % FILES, id(n)),
        Act::Drop(n) => state.files.remove(id(n)),
        Act::Amend(n, interval, expires) => {
            let expires_at = expires.map(|expires| wall.plus(expires));
            state.files.amend(id(n), interval, expires_at);
        }
        Act::File(file, condition) => {
            state.files.set(file, condition);
            state.cover(&format!("file {condition:?}"));
        }
        Act::Hide(directory, hidden) => state.files.hide(directory, hidden),
        Act::SetClock(_)
        | Act::Suspend(_)
        | Act::Reload(..)
        | Act::Kill { .. }
        | Act::Stop { .. } => {}
    }
    let noticed = state.rng.random_bool(0.7);
    drop(state);
    if noticed {
        world.hint.notify_one();
    }
}

/// Something happens while there is no process.
fn meanwhile(world: &World, act: Act) {
    match act {
        Act::Kill { .. } | Act::Stop { .. } | Act::Suspend(_) => {}
        Act::Reload(limits, interval) => {
            reload(world, limits, interval);
        }
        Act::SetClock(_) => {
            world.state().cover("clock set while down");
            carry_out(world, act);
        }
        Act::Add(_)
        | Act::Drop(_)
        | Act::Amend(..)
        | Act::Double(_)
        | Act::File(..)
        | Act::Hide(..) => carry_out(world, act),
    }
}

/// Another configuration is in force from here on.
fn reload(world: &World, limits: Limits, interval: Duration) -> Policy {
    let mut state = world.state();
    let at = state.at();
    state.policy.interval = interval;
    // Those under way stay.
    let most = state.limits.max_in_flight.max(limits.max_in_flight);
    state.limits = Limits { max_in_flight: most, ..limits };
    state.traffic.limit(limits, at);
    state.disturb();
    state.cover("reload");
    state.policy.clone()
}

/// What is read from the disk is what was put there.
async fn same(world: &World, process: &Process) {
    let sessions = process.store.sessions().await.expect("a store that can be read");
    let state = world.state();
    for session in &sessions {
        let book = state.ledger.books.get(&session.id()).expect("a session that was written");
        assert_eq!(session.sequence(), book.session.sequence, "{}", session.id());
        assert_eq!(session.entry(), &book.entry);
        assert_eq!(session.is_listed(), book.listed, "{}", session.id());
        let ended = session.ended().map(|(reason, _)| reason);
        assert_eq!(ended, book.session.ended, "{}", session.id());
        let resources = session.resources().iter().map(|r| (r.key.clone(), r.state.clone()));
        let resources: BTreeMap<_, _> = resources.collect();
        assert_eq!(resources, book.session.resources, "{}", session.id());
    }
    let kept: Vec<SessionId> = sessions.iter().map(Session::id).collect();
    for (id, _) in state.ledger.live() {
        assert!(kept.contains(id), "{id} is lost");
    }
}

/// Nothing has happened for long: all is known and as it truly is.
async fn settled(world: &World, process: &Process) {
    same(world, process).await;
    let wall = world.wall();
    let mut state = world.state();
    let at = state.at();
    let (named, horizon) = (state.files.named(), world.plan.horizon);
    let live: Vec<SessionId> = state.ledger.live().map(|(id, _)| *id).collect();
    assert!(live.is_empty() || state.traffic.pause.is_none(), "polls pause for no reason");
    for id in live {
        world.in_time(&mut state, id, at);
    }
    for truth in &world.plan.truths {
        let id = truth.id;
        let book = state.ledger.books.get(&id);
        let listed = book.is_some_and(|book| book.listed);
        assert_eq!(listed, named.contains(&id), "{id} is listed, or is named");
        let Some(book) = book.filter(|_| listed) else { continue };
        let confirmed = world.plan.policy.confirm;
        let over = match truth.completed {
            Some(_) => world.plan.policy.stop_on_completed,
            None => truth.deleted.is_some() || truth.deadline <= horizon,
        };
        if over && confirmed {
            assert!(!book.is_alive(), "{id} is over and goes on");
        }
        if !book.is_alive() {
            continue;
        }
        assert!(book.expires_at() > wall, "{id} goes on after its deadline");
        let heard = state.ledger.last_heard(id).expect("a session that is known");
        assert!(heard > horizon, "{id} has not been heard of since {heard}");
        if let Some(listed) = truth.states(at) {
            let mut known: Vec<_> = book
                .session
                .resources
                .iter()
                .map(|(key, state)| (key.kind.to_string(), key.id.to_string(), state.to_string()))
                .collect();
            known.sort();
            assert_eq!(known, listed, "{id}: what is known is not what is true");
        }
    }
}

/// Each sink was given every event.
fn told(world: &World) {
    let state = world.state();
    let last = state.ledger.log.keys().last().copied().unwrap_or(0);
    for sink in &state.ledger.sinks {
        assert_eq!((sink.given, sink.cursor), (last, last), "not everything was delivered");
    }
    let mut ends: BTreeMap<SessionId, i32> = BTreeMap::new();
    for line in state.ledger.log.values() {
        let event: serde_json::Value = serde_json::from_str(line).expect("an event");
        let Some(id) = event["subject"].as_str() else { continue };
        let lives = ends.entry(id.parse().expect("an id")).or_default();
        match event["type"].as_str().expect("a type") {
            "ibvwatch.session.tracked" => *lives += 1,
            "ibvwatch.session.ended" => *lives -= 1,
            _ => {}
        }
        assert!((0..=1).contains(lives), "{id} ends more than once in a life, or begins again");
    }
    for (id, lives) in ends {
        let alive = state.ledger.books[&id].is_alive();
        assert_eq!(lives, i32::from(alive), "{id}");
    }
}
