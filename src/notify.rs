//! What systemd is told of the service: that it is ready, reloads or stops, how it stands in
//! words, and that the poll loop moves.
//!
//! Started by anything but systemd, all of this does nothing.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::warn;

use crate::status::{Condition, Stage, Status};

/// The service, as systemd sees it.
#[derive(Debug, Clone, Default)]
pub struct Service(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// A reload ends with the word that also ends the start, which must not come too early.
    ready: AtomicBool,
    unheard: AtomicBool,
}

impl Service {
    /// A reload begins; [`Self::reloaded`] has to follow, however it goes.
    pub fn reloading(&self) {
        if self.0.ready.load(Ordering::SeqCst) {
            match NotifyState::monotonic_usec_now() {
                Ok(now) => self.tell(&[NotifyState::Reloading, now]),
                Err(error) => self.unheard(&error),
            }
        }
    }

    /// The new configuration is in force, or the old one stays.
    pub fn reloaded(&self) {
        if self.0.ready.load(Ordering::SeqCst) {
            self.tell(&[NotifyState::Ready]);
        }
    }

    /// Keeps systemd informed, as long as it is not dropped.
    pub async fn report(self, status: Status) -> Infallible {
        let mut stages = status.stages();
        let mut ticks = tokio::time::interval(tick(sd_notify::watchdog_enabled()));
        // What was missed while the machine was asleep need not be told.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Told::default();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = stages.changed() => {}
            }
            let news = told.news(&status);
            if !news.is_empty() {
                self.tell(&news);
            }
            if told.stage == Some(Stage::Running) {
                self.0.ready.store(true, Ordering::SeqCst);
            }
        }
    }

    fn tell(&self, states: &[NotifyState]) {
        if let Err(error) = sd_notify::notify(states) {
            self.unheard(&error);
        }
    }

    fn unheard(&self, error: &std::io::Error) {
        if !self.0.unheard.swap(true, Ordering::SeqCst) {
            warn!(
                "systemd can't be told how the service is, and may end it: {error}; check that \
                 $NOTIFY_SOCKET can be written to"
            );
        }
    }
}

/// How often to look: several times within what the watchdog waits.
fn tick(watchdog: Option<Duration>) -> Duration {
    const LONGEST: Duration = Duration::from_secs(1);
    watchdog.map_or(LONGEST, |watchdog| (watchdog / 4).clamp(Duration::from_millis(1), LONGEST))
}

/// What systemd was told last.
#[derive(Default)]
struct Told {
    stage: Option<Stage>,
    words: String,
    at: Option<Instant>,
}

impl Told {
    /// systemd passes every change on to all who listen, so figures that change all the time are
    /// told only so often.
    const EVERY: Duration = Duration::from_secs(5);

    fn news(&mut self, status: &Status) -> Vec<NotifyState<'_>> {
        let mut news = Vec::new();
        if status.live() {
            news.push(NotifyState::Watchdog);
        }
        let stage = status.stage();
        let is_new = self.stage.replace(stage) != Some(stage);
        if is_new {
            match stage {
                Stage::Starting => {}
                Stage::Running => news.push(NotifyState::Ready),
                Stage::Draining => news.push(NotifyState::Stopping),
            }
        }
        if is_new || self.at.is_none_or(|at| at.elapsed() >= Self::EVERY) {
            self.at = Some(Instant::now());
            let words = in_words(&status.condition());
            if self.words != words {
                self.words = words;
                news.push(NotifyState::Status(&self.words));
            }
        }
        news
    }
}

/// The condition in one line, the worst first.
fn in_words(condition: &Condition) -> String {
    let figures = match condition.stage {
        Stage::Starting => "Reading session files".to_owned(),
        Stage::Running => {
            let census = &condition.census;
            let phases = [
                (census.pending, "pending"),
                (census.quiet, "quiet"),
                (census.active, "active"),
                (census.failing, "failing"),
            ];
            let phases: Vec<String> = phases
                .iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, phase)| format!("{count} {phase}"))
                .collect();
            let phases = if phases.is_empty() { "none".to_owned() } else { phases.join(", ") };
            format!("Sessions: {phases}; polls overdue: {}", census.overdue)
        }
        Stage::Draining => "Finishing polls under way and writing events".to_owned(),
    };
    let words = match condition.troubles.as_slice() {
        [] => figures,
        [worst] => format!("{} | {figures}", worst.what),
        [worst, more @ ..] => format!("{} (and {} more) | {figures}", worst.what, more.len()),
    };
    // A line break would end the status and begin another message.
    words.replace(|c: char| c.is_control(), " ")
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::domain::Cause;
    use crate::status::tests::{NOON, World};

    fn news(told: &mut Told, world: &World) -> Vec<String> {
        told.news(&world.status).iter().map(ToString::to_string).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn each_stage_is_told_once_and_in_words() {
        let (mut told, world) = (Told::default(), World::new());
        assert_eq!(news(&mut told, &world), ["WATCHDOG=1", "STATUS=Reading session files"]);
        world.status.enter(Stage::Running);
        let ready = ["WATCHDOG=1", "READY=1", "STATUS=Sessions: 3 quiet; polls overdue: 0"];
        assert_eq!(news(&mut told, &world), ready);
        assert_eq!(news(&mut told, &world), ["WATCHDOG=1"]);
        world.status.enter(Stage::Draining);
        let stopping = news(&mut told, &world);
        assert_eq!(stopping[..2], ["WATCHDOG=1", "STOPPING=1"]);
        assert!(stopping[2].starts_with("STATUS=Finishing"), "{stopping:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_by_the_poll_loop_alone() {
        let (mut told, world) = (Told::default(), World::new());
        world.status.enter(Stage::Running);
        news(&mut told, &world);
        advance(Status::STUCK_AFTER).await;
        let stuck = news(&mut told, &world);
        assert!(!stuck.iter().any(|word| word == "WATCHDOG=1"), "{stuck:?}");
        assert!(stuck[0].contains("the poll loop has stood still for 15 seconds"), "{stuck:?}");
        world.beat();
        assert_eq!(news(&mut told, &world)[0], "WATCHDOG=1");
    }

    #[tokio::test(start_paused = true)]
    async fn the_words_name_the_worst_first_and_change_every_few_seconds_at_most() {
        let (mut told, world) = (Told::default(), World::new());
        world.status.enter(Stage::Running);
        news(&mut told, &world);
        world.poller.send_modify(|report| report.unavailable = Some((Cause::Unreachable, NOON)));
        assert_eq!(news(&mut told, &world), ["WATCHDOG=1"]);
        advance(Told::EVERY).await;
        let words = news(&mut told, &world).pop().unwrap();
        assert!(words.starts_with("STATUS=the API can't be used, "), "{words}");
        assert!(words.ends_with("| Sessions: 3 quiet; polls overdue: 0"), "{words}");
    }

    #[test]
    fn the_watchdog_is_fed_several_times_within_what_it_waits() {
        assert_eq!(tick(None), Duration::from_secs(1));
        assert_eq!(tick(Some(Duration::from_secs(30))), Duration::from_secs(1));
        assert_eq!(tick(Some(Duration::from_secs(2))), Duration::from_millis(500));
        assert_eq!(tick(Some(Duration::ZERO)), Duration::from_millis(1));
    }
}
