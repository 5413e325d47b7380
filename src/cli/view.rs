//! A session as the commands print it with `--json`: a stable form, apart from the record kept.

use serde::Serialize;

use crate::domain::{
    EndReason, Labels, Problem, Progress, Resource, Session, SessionId, Timestamp,
};

#[derive(Debug, Serialize)]
pub(super) struct SessionView<'a> {
    session_id: SessionId,
    phase: &'static str,
    ended: Option<EndedView>,
    labels: &'a Labels,
    progress: Progress,
    resources: &'a [Resource],
    tracked_at: Timestamp,
    expires_at: Timestamp,
    last_poll: Option<Timestamp>,
    next_poll: Option<Timestamp>,
    last_error: Option<&'a Problem>,
    session_sequence: u64,
}

#[derive(Debug, Serialize)]
struct EndedView {
    reason: EndReason,
    at: Timestamp,
}

impl<'a> SessionView<'a> {
    pub(super) fn of(session: &'a Session, now: Timestamp) -> Self {
        let schedule = session.schedule();
        Self {
            session_id: session.id(),
            phase: session.phase(now).as_str(),
            ended: session.ended().map(|(reason, at)| EndedView { reason, at }),
            labels: &session.entry().labels,
            progress: session.progress(),
            resources: session.resources(),
            tracked_at: session.tracked_at(),
            expires_at: session.expires_at(),
            last_poll: schedule.last_poll,
            next_poll: session.ended().is_none().then_some(schedule.poll_at),
            last_error: schedule.last_problem.as_ref(),
            session_sequence: session.sequence(),
        }
    }
}
