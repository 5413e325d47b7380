//! What the month came to, and the laws that hold for it as a whole.

use std::fmt;

use ibvwatch::config::Limits;
use ibvwatch::domain::Policy;

use super::clock::{At, MINUTE, SECOND, millis};
use super::laws::SLACK;
use super::world::{COHORT, CROWD};

#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) polls: u32,
    pub(crate) confirmations: u32,
    pub(crate) events: u32,
    pub(crate) warnings: u32,
    pub(crate) pauses: u32,
    pub(crate) probes: u32,
    pub(crate) most_live: usize,
    /// Polls of calm times, and what the cadence asks for in the same.
    pub(crate) calm: (f64, f64),
    /// From a change to its event, of sessions that were active and that were quiet.
    pub(crate) latency: [Vec<At>; 2],
    /// Lateness in the overload, of final, active and quiet polls.
    pub(crate) late: [Vec<At>; 3],
    /// Quiet polls, and all polls, while the active ones alone are too many.
    pub(crate) flood: (u32, u32),
    pub(crate) crowd_final: u32,
    /// By reason.
    pub(crate) ends: [u32; 4],
}

impl Summary {
    pub(crate) fn conclude(&mut self, policy: &Policy, limits: Limits) {
        let ratio = self.ratio();
        assert!(
            (0.98..=1.02).contains(&ratio),
            "{ratio} times the polls that the cadence asks for"
        );
        self.latency.iter_mut().chain(&mut self.late).for_each(|samples| samples.sort_unstable());
        let [active, quiet] = &self.latency;
        let most = millis(policy.active_interval.mul_f64(1.2));
        assert!(percentile(active, 99) <= most, "active sessions: {}", Latency(active));
        let most = millis(policy.interval.mul_f64(1.0 + policy.jitter)) + SLACK;
        assert!(percentile(quiet, 100) <= most, "quiet sessions: {}", Latency(quiet));
        let [last, busy, idle] = &self.late;
        for samples in [last, busy] {
            assert!(percentile(samples, 99) <= 15 * SECOND, "overload: {}", Latency(samples));
        }
        assert!(percentile(idle, 50) >= 10 * MINUTE, "no overload: {}", Latency(idle));
        assert!(self.warnings > 0, "nobody was warned of the overload");
        let share = self.share_of_quiet();
        assert!((0.2..0.35).contains(&share), "{share} of the polls of a flood are quiet ones");
        // Three of four slots are theirs at least; some go to those that came back too early.
        let slots = limits.rate * policy.final_poll_before_expiry.as_secs_f64() * 2.0;
        let crowd = f64::from(self.crowd_final);
        assert!(crowd >= slots * 0.75 * 0.9, "{crowd} final polls of the crowd, {slots} slots");
    }

    fn ratio(&self) -> f64 {
        self.calm.0 / self.calm.1
    }

    fn share_of_quiet(&self) -> f64 {
        f64::from(self.flood.0) / f64::from(self.flood.1)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { polls, confirmations, events, pauses, probes, most_live, .. } = self;
        writeln!(
            f,
            "{polls} polls and {confirmations} confirmations of {most_live} sessions at most"
        )?;
        writeln!(f, "{:.4} times the polls that the cadence asks for in calm times", self.ratio())?;
        let [active, quiet] = &self.latency;
        writeln!(f, "change to event: active {}; quiet {}", Latency(active), Latency(quiet))?;
        let [last, busy, idle] = &self.late;
        write!(f, "late in the overload: final {}; ", Latency(last))?;
        writeln!(
            f,
            "active {}; quiet {}; {} warnings",
            Latency(busy),
            Latency(idle),
            self.warnings
        )?;
        writeln!(f, "{:.2} of a flood's polls are of quiet sessions", self.share_of_quiet())?;
        writeln!(f, "{pauses} pauses with {probes} probes")?;
        writeln!(
            f,
            "final polls: all {} that fit, {} of {} that don't",
            COHORT.len(),
            self.crowd_final,
            CROWD.len()
        )?;
        writeln!(
            f,
            "{events} events; ended as expired, completed, not found, untracked: {:?}",
            self.ends
        )
    }
}

/// Of samples in order.
fn percentile(samples: &[At], percent: usize) -> At {
    let last = samples.len().checked_sub(1).expect("samples");
    samples[last * percent / 100]
}

struct Latency<'a>(&'a [At]);

impl fmt::Display for Latency<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, most] = [50, 99, 100].map(|percent| percentile(self.0, percent) / 100);
        let seconds = |tenths: At| format!("{}.{} s", tenths / 10, tenths % 10);
        write!(f, "p50 {}, p99 {}, most {}", seconds(p50), seconds(p99), seconds(most))
    }
}
