use std::io::Write;
use std::time::Duration;

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::failure::SUCCESS;
use super::records::Records;
use super::table::printable_json;
use super::{ConfigFiles, Failure, runtime};
use crate::domain::{EventKind, SessionId};
use crate::store::EventFilter;

#[derive(Debug, Args)]
pub(super) struct Events {
    #[command(flatten)]
    config: ConfigFiles,
    /// Only events after this sequence
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
    /// Only events of this session
    #[arg(long, value_name = "ID")]
    session: Option<SessionId>,
    /// Only events of this type, such as `resource.state_changed`
    #[arg(long = "type", value_name = "T", value_parser = kind)]
    kind: Option<EventKind>,
    /// Go on with new events as they are recorded
    #[arg(long)]
    follow: bool,
}

const PAGE: usize = 1_000;
/// How often a followed log is looked at; the store tells nobody outside its process.
const LOOK_EVERY: Duration = Duration::from_millis(250);

fn kind(text: &str) -> Result<EventKind, String> {
    EventKind::parse(text).ok_or_else(|| {
        let all = EventKind::ALL.map(EventKind::short_name);
        format!("there is no such type; there are {}", all.join(", "))
    })
}

impl Events {
    pub(super) fn execute(self) -> Result<i32, Failure> {
        let config = self.config.load()?.require(&["store"])?;
        let filter = EventFilter { session: self.session, kind: self.kind };
        let mut after = self.after;
        runtime()?.block_on(async {
            let records = Records::open(&config.store).await?;
            if !self.follow {
                while print_page(&records, filter, &mut after).await? {}
                return Ok(SUCCESS);
            }
            let mut look = tokio::time::interval(LOOK_EVERY);
            loop {
                look.tick().await;
                while print_page(&records, filter, &mut after).await? {}
                if reader_has_gone() {
                    return Ok(SUCCESS);
                }
            }
        })
    }
}

/// Whether nobody will read what is printed, which no write says while there is nothing to print.
fn reader_has_gone() -> bool {
    let out = std::io::stdout();
    let mut fds = [PollFd::new(&out, PollFlags::empty())];
    let looked = poll(&mut fds, Some(&Timespec::default()));
    looked.is_ok() && fds[0].revents().contains(PollFlags::ERR)
}

/// Prints the next events; false when there were none.
async fn print_page(
    records: &Records,
    filter: EventFilter,
    after: &mut u64,
) -> Result<bool, Failure> {
    let events = records.events(*after, PAGE, filter).await?;
    let mut out = std::io::stdout().lock();
    for event in &events {
        let line = printable_json(event.to_line().map_err(Failure::failed)?);
        out.write_all(line.as_bytes())?;
        *after = event.sequence;
    }
    out.flush()?;
    Ok(!events.is_empty())
}
