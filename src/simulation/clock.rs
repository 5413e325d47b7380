//! The machine's clocks, which the world sets, and the steady one that the daemon makes of them.

use std::sync::Arc;

use super::world::World;
use crate::clock::{Clock, SteadyClock};
use crate::domain::{Now, Step};

#[derive(Clone)]
pub(super) struct MachineClock(pub(super) Arc<World>);

impl Clock for MachineClock {
    fn now(&self) -> Now {
        self.0.machine_now()
    }
}

/// Tells the model of the moment in which the daemon takes over a step.
pub(super) struct DaemonClock {
    steady: SteadyClock<MachineClock>,
    world: Arc<World>,
}

impl DaemonClock {
    pub(super) fn new(world: &Arc<World>) -> Self {
        let steady = SteadyClock::new(MachineClock(Arc::clone(world)));
        Self { steady, world: Arc::clone(world) }
    }
}

impl Clock for DaemonClock {
    fn now(&self) -> Now {
        self.steady.now()
    }

    fn take_step(&self) -> Option<Step> {
        let step = self.steady.take_step();
        if let Some(step) = step {
            self.world.stepped(step);
        }
        step
    }
}
