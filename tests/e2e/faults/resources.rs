//! Too few descriptors, too little memory, small stacks: no busy loop, and all is well once there
//! is enough again.

use std::time::Duration;

use ibvwatch::sim::{Effect, Fault, Requirement, Session};
use procfs::process::Process;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::story::Story;
use crate::common::{Daemon, Home};

/// The part of one core that a daemon may use that can do nothing.
const IDLE: f64 = 0.5;

/// `ibvwatch run` as a shell starts it under those limits.
fn limited(home: &Home, limits: &str) -> Command {
    let run = home.command(&["run"]);
    let run = run.as_std();
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{limits}; exec \"$0\" \"$@\""));
    shell.arg(run.get_program()).args(run.get_args());
    shell.env_clear().current_dir(home.path("")).kill_on_drop(true);
    shell
}

/// Sets the limit for a process that runs; lifts it where there is none.
fn limit(pid: Pid, resource: Resource, current: Option<u64>) {
    let ours = getrlimit(resource);
    let current = current.or(ours.current);
    let limit = Rlimit { current, maximum: ours.maximum };
    prlimit(Some(pid), resource, limit).expect("a limit to set");
}

/// What a process got of the cores, and how long it had to wait for one, in seconds.
fn ran_and_waited(pid: Pid) -> Option<(f64, f64)> {
    let process = Process::new(pid.as_raw_nonzero().get()).ok()?;
    process.stat().ok().filter(|stat| stat.state != 'Z')?;
    let threads = process.tasks().ok()?.filter_map(|thread| thread.ok()?.schedstat().ok());
    let seconds = |nanos| Duration::from_nanos(nanos).as_secs_f64();
    Some(threads.fold((0.0, 0.0), |(ran, waited), thread| {
        (ran + seconds(thread.sum_exec_runtime), waited + seconds(thread.run_delay))
    }))
}

/// The part of a core that it uses from now on, of what it could have had: a busy machine makes
/// no loop less busy. None if it ends meanwhile.
async fn load(pid: Pid) -> Option<f64> {
    let (begun, (ran, waited)) = (Instant::now(), ran_and_waited(pid)?);
    sleep(Duration::from_secs(3)).await;
    let (ran_since, waited_since) = ran_and_waited(pid)?;
    let (ran, waited) = (ran_since - ran, waited_since - waited);
    Some(ran / (begun.elapsed().as_secs_f64() - waited).max(ran))
}

#[tokio::test]
async fn with_few_descriptors_and_small_stacks_everything_is_polled_and_told() {
    let home = Home::new().await;
    let ids: Vec<_> = (0..100).map(|_| home.track_new()).collect();
    home.serve_body(ids[0], "[".repeat(100_000)).expect("the session just created");
    let mut daemon = Daemon::spawn(limited(&home, "ulimit -n 64; ulimit -s 2048"));
    for &id in &ids[1..] {
        daemon.event(|event| event.is("session.observed", id)).await;
    }
    daemon.event(|event| event.is("session.poll_failing", ids[0])).await;
    daemon.stop().await;
}

#[tokio::test]
async fn without_descriptors_it_waits_and_with_them_it_goes_on() {
    let mut home = Home::new().await;
    home.set("sessions.rescan_interval", "\"1s\"");
    let (one, two) = (home.track_new(), home.track_new());
    let mut daemon = Daemon::start(&home);
    for id in [one, two] {
        daemon.event(|event| event.is("session.observed", id)).await;
    }
    let pid = daemon.pid();
    limit(pid, Resource::Nofile, Some(4));
    // Connections that are open would last; a new one needs a descriptor.
    home.fault(Fault::new(Effect::Reset));
    daemon.event(|event| event.kind() == "api.unavailable").await;
    home.clear_faults();
    let three = home.track_new();
    home.set_state(one, 0, "IN_PROGRESS").unwrap();
    let load = load(pid).await.expect("a daemon that lives on");
    println!("{load:.3} of a core without descriptors");
    assert!(load < IDLE, "{load}\n{}", daemon.log());
    limit(pid, Resource::Nofile, None);
    daemon.event(|event| event.tells(one, "IN_PROGRESS")).await;
    daemon.event(|event| event.is("session.observed", three)).await;
    assert!(daemon.events().iter().all(|event| event.kind() != "session.ended"));
    daemon.stop().await;
}

/// Who gets no memory is ended by it; whoever starts it again finds everything as it was.
#[tokio::test]
async fn without_memory_it_ends_or_waits_and_loses_nothing() {
    let mut story = Story::in_a_home().await;
    story.begin(|_, _| {});
    let first = story.home.track_new();
    story.until(|event| event.is("session.observed", first)).await;
    let pid = story.pid();
    limit(pid, Resource::As, Some(16 << 20));
    for n in 0..3 {
        let create = || story.home.create(Session::requiring([Requirement::passport()]));
        let ids: Vec<_> = (0..100).map(|_| create().to_string()).collect();
        story.home.put(&format!("many-{n}.json"), &format!("{ids:?}"));
    }
    if let Some(load) = load(pid).await {
        println!("{load:.3} of a core without memory");
        assert!(load < IDLE, "{load}");
        limit(pid, Resource::As, None);
    }
    for id in story.home.ids() {
        story.until(|event| event.is("session.observed", id)).await;
    }
    story.stop().await;
    println!("it ended {} times", story.casualties.len());
    story.hold().await;
}
