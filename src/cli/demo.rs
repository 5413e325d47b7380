//! What a newcomer sees first: applicants at Post Offices, and the events that follow.
//!
//! Nothing of it is staged but the applicants. The API is the simulator, which verifies every
//! signature; the daemon is this very program, started as `run` with a configuration and
//! session files in a temporary directory, and killed half-way; and at the end its events are
//! held against what the simulator knows to have happened.

mod cast;
mod daemon;
mod stage;

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep_until};

use self::cast::Cast;
use self::daemon::{Daemon, SDK_ID, Setting};
use self::stage::Stage;
use super::failure::SUCCESS;
use super::{Failure, runtime, told_to_stop};
use crate::directory;
use crate::sim::{PublicKey, Settings, Simulator};

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// How long it lasts at most
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    within: Duration,
}

/// A visit takes ten minutes; here it takes less than half a minute.
const SPEED: NonZeroU32 = NonZeroU32::new(25).unwrap();
/// When the daemon is killed, in the middle of everything.
const KILLED_AFTER: Duration = Duration::from_secs(12);

impl Demo {
    pub(super) fn execute(self) -> Result<i32, Failure> {
        let home =
            tempfile::Builder::new().prefix("ibvwatch-demo-").tempdir().map_err(|error| {
                Failure::failed(format!("a temporary directory can't be made: {error}"))
            })?;
        runtime()?.block_on(play(home.path(), self.within))
    }
}

async fn play(home: &Path, within: Duration) -> Result<i32, Failure> {
    let end = Instant::now() + within;
    let (private_key, public_key) = PublicKey::generate().map_err(Failure::failed)?;
    let mut settings = Settings::new(SDK_ID);
    settings.public_key = Some(public_key);
    settings.speed = SPEED;
    let simulator = Simulator::start(settings)
        .await
        .map_err(|error| Failure::failed(format!("the simulated API can't listen: {error}")))?;
    let setting = Setting::prepare(home, &simulator.base_url(), &private_key)
        .map_err(|error| Failure::failed(format!("{}: {error}", home.display())))?;
    let cast = Cast::enter(&simulator, SPEED)?;
    let mut stage = Stage::open(simulator.world(), cast);
    stage.prologue(&simulator.base_url(), setting.page, SPEED)?;
    for entry in stage.cast().entries() {
        directory::track(&setting.sessions, entry).map_err(Failure::failed)?;
    }
    let mut daemon = setting.start()?;
    let kill_at = Instant::now() + KILLED_AFTER;
    if follow(&mut daemon, &mut stage, kill_at.min(end)).await? == Pause::Time && kill_at < end {
        for line in daemon.kill().await? {
            stage.event(&line)?;
        }
        stage.says("kill -9 of the daemon, and it is started again")?;
        daemon = setting.start()?;
        follow(&mut daemon, &mut stage, end).await?;
    }
    for line in daemon.stop().await? {
        stage.event(&line)?;
    }
    stage.epilogue()?;
    simulator.stop().await;
    Ok(SUCCESS)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// Every session has ended.
    Over,
    Time,
    Interrupted,
}

/// Tells events until every session has ended, the time has come, or Ctrl-C.
async fn follow(daemon: &mut Daemon, stage: &mut Stage, until: Instant) -> Result<Pause, Failure> {
    while !stage.is_over() {
        let line = tokio::select! {
            line = daemon.line() => line?,
            () = sleep_until(until) => return Ok(Pause::Time),
            told = told_to_stop() => return told.map(|()| Pause::Interrupted),
        };
        let Some(line) = line else {
            return Err(Failure::failed("the daemon ended by itself; what it said is above"));
        };
        stage.event(&line)?;
    }
    Ok(Pause::Over)
}
