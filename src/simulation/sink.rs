//! A sink: takes its time, fails in the middle, and remembers all that it was ever given.

use std::sync::Arc;

use super::world::World;
use crate::domain::Record;
use crate::sinks::{Sink, SinkError};

pub(super) const SINKS: [&str; 2] = ["first", "second"];

pub(super) struct Reader {
    pub(super) world: Arc<World>,
    pub(super) number: usize,
}

impl Sink for Reader {
    fn name(&self) -> &'static str {
        SINKS[self.number]
    }

    async fn deliver(&mut self, events: &[Record]) -> Result<(), SinkError> {
        for event in events {
            let (takes, fails) = self.world.takes(self.number);
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            self.world.pass("deliver").await;
            if fails {
                return Err(SinkError::Failed("the reader is away".to_owned()));
            }
            self.world.delivered(self.number, event);
        }
        self.world.pass("delivered").await;
        Ok(())
    }
}
