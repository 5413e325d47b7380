//! Who comes to the Post Office, and what befalls them there.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::cli::Failure;
use crate::domain::{Entry, Labels, SessionId};
use crate::sim::{Action, Requirement, Script, Session, Simulator};

/// Applicants, with the session file entry of each.
#[derive(Debug)]
pub(super) struct Cast(Vec<(&'static str, Entry)>);

const FORTNIGHT: Duration = Duration::from_secs(14 * 86_400);

impl Cast {
    /// Creates a session for each applicant; from here on the clock of their visits runs.
    pub(super) fn enter(simulator: &Simulator, speed: NonZeroU32) -> Result<Self, Failure> {
        // Chloe's deadline comes in earnest, after half a minute.
        let deadline = Duration::from_secs(30);
        let applicants = [
            // The one visit whose times are documented.
            ("Amira", FORTNIGHT, Script::documented_visit(3)),
            ("Ben", FORTNIGHT, second_attempt()),
            ("Chloe", deadline, leaves_half_way()),
            ("Dev", FORTNIGHT, Script::documented_visit(3).delayed(8 * speed.get() * SECOND)),
        ];
        let members = applicants.map(|(name, ttl, script)| {
            let session = Session::requiring(Requirement::three_documents())
                .with_ttl(ttl)
                .with_script(script);
            let labels = Labels::new([("applicant".to_owned(), name.to_owned())].into());
            let entry = Entry {
                session_id: simulator.create(session),
                labels: labels.map_err(Failure::failed)?,
                expires_at: None,
                interval: None,
            };
            Ok((name, entry))
        });
        members.into_iter().collect::<Result<_, Failure>>().map(Self)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().map(|(_, entry)| entry)
    }

    pub(super) fn name(&self, id: SessionId) -> &'static str {
        self.0.iter().find(|(_, entry)| entry.session_id == id).map_or("?", |(name, _)| name)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn set(index: usize, state: &str) -> Action {
    Action::SetState { index, state: state.to_owned() }
}

/// The second document is refused at first, so that it is required again.
fn second_attempt() -> Script {
    let at = |seconds: u32| seconds * SECOND;
    Script::new()
        .at(at(60), set(0, "IN_PROGRESS"))
        .at(at(130), set(0, "COMPLETE"))
        .at(at(180), set(1, "IN_PROGRESS"))
        .at(at(240), set(1, "REQUIRED"))
        .at(at(320), set(1, "IN_PROGRESS"))
        .at(at(380), set(1, "COMPLETE"))
        .at(at(430), set(2, "IN_PROGRESS"))
        .at(at(500), set(2, "COMPLETE"))
        .at(at(560), Action::Complete)
}

/// One document is handed in, and nobody comes back with the others.
fn leaves_half_way() -> Script {
    let at = |seconds: u32| seconds * SECOND;
    Script::new().at(at(100), set(0, "IN_PROGRESS")).at(at(190), set(0, "COMPLETE"))
}
