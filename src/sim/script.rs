//! What happens to a session by itself: applicants, written down beforehand.

use std::time::Duration;

use rand::{Rng, RngExt as _};

use super::requirement::Requirement;

/// One thing that happens to a session. Resources are counted from 0 in the order they were
/// given in; one that is removed keeps its number.
#[derive(Debug, Clone)]
pub enum Action {
    SetState {
        index: usize,
        state: String,
    },
    /// Sets the state of all assessments of a resource.
    SetAssessments {
        index: usize,
        state: String,
    },
    Add(Requirement),
    Remove {
        index: usize,
    },
    Complete,
    Expire,
    /// From now on the API knows no such session.
    Delete,
    /// Adds to what is left of the TTL.
    Extend {
        seconds: u32,
    },
}

impl Action {
    fn set(index: usize, state: &str) -> Self {
        Self::SetState { index, state: state.to_owned() }
    }
}

/// Actions, each at an offset from the session's creation, in order of time.
#[derive(Debug, Clone, Default)]
pub struct Script {
    steps: Vec<(Duration, Action)>,
}

const IN_PROGRESS: &str = "IN_PROGRESS";
const COMPLETE: &str = "COMPLETE";
const REQUIRED: &str = "REQUIRED";

impl Script {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an action. Of several at one offset, the one added first comes first.
    #[must_use]
    pub fn at(mut self, offset: Duration, action: Action) -> Self {
        let place = self.steps.partition_point(|(earlier, _)| *earlier <= offset);
        self.steps.insert(place, (offset, action));
        self
    }

    /// The one visit whose times are documented: documents complete 2:33, 5:25 and 7:32 minutes
    /// after the start, the session at 9:32. Each resource is in progress for the minute before.
    /// Where more than three are asked for, the rest follow evenly before the session completes.
    #[must_use]
    pub fn documented_visit(resources: usize) -> Self {
        const DOCUMENTS: [u64; 3] = [153, 325, 452];
        const COMPLETED: u64 = 572;
        let rest = resources.saturating_sub(DOCUMENTS.len()) as u64;
        let later =
            (1..=rest).map(|nth| DOCUMENTS[2] + (COMPLETED - DOCUMENTS[2]) * nth / (rest + 1));
        let mut script = Self::new();
        for (index, seconds) in DOCUMENTS.into_iter().chain(later).take(resources).enumerate() {
            let done = Duration::from_secs(seconds);
            script = script
                .at(done.saturating_sub(Duration::from_secs(60)), Action::set(index, IN_PROGRESS))
                .at(done, Action::set(index, COMPLETE));
        }
        script.at(Duration::from_secs(COMPLETED), Action::Complete)
    }

    /// An applicant who comes at some time within `window`, takes a while over each resource,
    /// sometimes fails an attempt and starts anew, sometimes is asked for something more or let
    /// off something; now and then nobody comes at all, or somebody leaves halfway.
    pub fn random_visit(rng: &mut impl Rng, resources: usize, window: Duration) -> Self {
        let mut script = Self::new();
        if rng.random_bool(0.1) {
            return script;
        }
        let arrival = Duration::from_secs(rng.random_range(0..=window.as_secs()));
        let mut visit = Visit { rng, clock: arrival, script: &mut script };
        let leaves_after = if visit.rng.random_bool(0.1) {
            visit.rng.random_range(0..=resources)
        } else {
            resources
        };
        for index in 0..leaves_after {
            visit.supply(index);
        }
        if leaves_after < resources {
            return script;
        }
        if visit.rng.random_bool(0.05) {
            visit.wait(5..60);
            visit.does(Action::Add(Requirement::face_capture()));
            visit.supply(resources);
        }
        visit.wait(30..180);
        visit.does(Action::Complete);
        script
    }

    /// The same, later.
    #[must_use]
    pub fn delayed(mut self, by: Duration) -> Self {
        for (offset, _) in &mut self.steps {
            *offset = offset.saturating_add(by);
        }
        self
    }

    pub(super) fn into_steps(self) -> Vec<(Duration, Action)> {
        self.steps
    }
}

struct Visit<'a, R> {
    rng: &'a mut R,
    clock: Duration,
    script: &'a mut Script,
}

impl<R: Rng> Visit<'_, R> {
    fn supply(&mut self, index: usize) {
        self.wait(20..90);
        if self.rng.random_bool(0.05) {
            self.does(Action::Remove { index });
            return;
        }
        self.does(Action::set(index, IN_PROGRESS));
        while self.rng.random_bool(0.15) {
            self.wait(20..60);
            self.does(Action::set(index, REQUIRED));
            self.wait(20..60);
            self.does(Action::set(index, IN_PROGRESS));
        }
        self.wait(20..180);
        self.does(Action::set(index, COMPLETE));
    }

    fn wait(&mut self, seconds: std::ops::Range<u64>) {
        self.clock += Duration::from_secs(self.rng.random_range(seconds));
    }

    fn does(&mut self, action: Action) {
        *self.script = std::mem::take(self.script).at(self.clock, action);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn one_seed_is_one_applicant() {
        let write = |seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            format!("{:?}", Script::random_visit(&mut rng, 3, Duration::from_secs(3_600)))
        };
        assert_eq!(write(4), write(4));
        assert_ne!(write(4), write(5));
    }

    #[test]
    fn random_applicants_do_everything_that_applicants_do() {
        let mut rng = StdRng::seed_from_u64(1);
        let scripts: Vec<Script> = (0..400)
            .map(|_| Script::random_visit(&mut rng, 3, Duration::from_secs(3_600)))
            .collect();
        let any = |wanted: fn(&Action) -> bool| {
            scripts.iter().flat_map(|s| &s.steps).any(|(_, action)| wanted(action))
        };
        assert!(scripts.iter().any(|s| s.steps.is_empty()), "everybody comes");
        assert!(any(|a| matches!(a, Action::SetState { state, .. } if state == REQUIRED)));
        assert!(any(|a| matches!(a, Action::Add(_))));
        assert!(any(|a| matches!(a, Action::Remove { .. })));
        assert!(any(|a| matches!(a, Action::Complete)));
        for script in &scripts {
            assert!(script.steps.is_sorted_by_key(|(offset, _)| *offset));
        }
    }

    #[test]
    fn actions_come_in_order_of_time_and_else_as_they_were_added() {
        let second = Duration::from_secs;
        let steps = Script::new()
            .at(second(2), Action::Expire)
            .at(second(1), Action::set(0, IN_PROGRESS))
            .at(second(1), Action::Complete)
            .delayed(second(3))
            .into_steps();
        let [(4, Action::SetState { .. }), (4, Action::Complete), (5, Action::Expire)] =
            &steps.into_iter().map(|(at, action)| (at.as_secs(), action)).collect::<Vec<_>>()[..]
        else {
            panic!("out of order");
        };
    }

    #[test]
    fn a_long_list_is_supplied_before_the_documented_end() {
        let steps = Script::documented_visit(6).into_steps();
        let (end, last) = steps.last().unwrap();
        assert!(matches!(last, Action::Complete));
        assert_eq!(*end, Duration::from_secs(572));
        assert_eq!(steps.len(), 13);
    }
}
