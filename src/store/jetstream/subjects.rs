//! The subjects of the stream; `mod` says what each is for.

use crate::domain::SessionId;

/// Makes and reads subjects under the stream's name.
#[derive(Debug, Clone)]
pub(super) struct Subjects(String);

impl Subjects {
    pub(super) fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    pub(super) fn all(&self) -> String {
        format!("{}.>", self.0)
    }

    pub(super) fn state(&self, id: SessionId) -> String {
        format!("{}.state.{id}", self.0)
    }

    pub(super) fn states(&self) -> String {
        format!("{}.state.>", self.0)
    }

    pub(super) fn event(&self, id: SessionId, n: u64) -> String {
        format!("{}.event.{id}.{n}", self.0)
    }

    pub(super) fn api_event(&self, n: u64) -> String {
        format!("{}.event.api.{n}", self.0)
    }

    pub(super) fn events(&self) -> String {
        format!("{}.event.>", self.0)
    }

    pub(super) fn events_of(&self, id: SessionId) -> String {
        format!("{}.event.{id}.*", self.0)
    }

    pub(super) fn schedule(&self, id: SessionId) -> String {
        format!("{}.schedule.{id}", self.0)
    }

    pub(super) fn due(&self, id: SessionId) -> String {
        format!("{}.due.{id}", self.0)
    }

    pub(super) fn all_due(&self) -> String {
        format!("{}.due.>", self.0)
    }

    pub(super) fn all_forgotten(&self) -> String {
        format!("{}.forgotten.>", self.0)
    }

    /// Of the session that a subject of [`forgotten`](Self::forgotten) is about.
    pub(super) fn fingerprint(&self, subject: &str) -> Option<[u8; 32]> {
        let hex = subject.strip_prefix(&self.0)?.strip_prefix(".forgotten.")?;
        let mut fingerprint = [0; 32];
        if hex.len() != fingerprint.len() * 2 {
            return None;
        }
        for (n, byte) in fingerprint.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(n * 2..n * 2 + 2)?, 16).ok()?;
        }
        Some(fingerprint)
    }

    pub(super) fn gap(&self) -> String {
        format!("{}.gap", self.0)
    }

    pub(super) fn forgotten(&self, fingerprint: [u8; 32]) -> String {
        use std::fmt::Write;
        let mut subject = format!("{}.forgotten.", self.0);
        for byte in fingerprint {
            // Writing to a text can't fail.
            let _ = write!(subject, "{byte:02x}");
        }
        subject
    }

    pub(super) fn api(&self) -> String {
        format!("{}.api", self.0)
    }

    pub(super) fn node(&self, node: &str) -> String {
        format!("{}.node.{node}", self.0)
    }

    pub(super) fn nodes(&self) -> String {
        format!("{}.node.>", self.0)
    }

    pub(super) fn place(&self, subject: &str) -> Option<Place> {
        let rest = subject.strip_prefix(&self.0)?.strip_prefix('.')?;
        let (kind, rest) = rest.split_once('.').unwrap_or((rest, ""));
        match kind {
            "state" => rest.parse().ok().map(Place::State),
            "due" => rest.parse().ok().map(Place::Due),
            "api" => Some(Place::Api),
            "node" => Some(Place::Node(rest.to_owned())),
            _ => None,
        }
    }
}

/// What a message that a node listens for is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    State(SessionId),
    Due(SessionId),
    Api,
    Node(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_read_back_and_what_is_foreign_is_not() {
        let (subjects, id) = (Subjects::new("watch"), SessionId::from_bytes([7; 16]));
        assert_eq!(subjects.place(&subjects.state(id)), Some(Place::State(id)));
        assert_eq!(subjects.place(&subjects.due(id)), Some(Place::Due(id)));
        assert_eq!(subjects.place(&subjects.api()), Some(Place::Api));
        assert_eq!(subjects.place(&subjects.node("a")), Some(Place::Node("a".to_owned())));
        for foreign in ["watch.event.api.1", "watcher.api", "other.state.x", "watch.state.x"] {
            assert_eq!(subjects.place(foreign), None, "{foreign}");
        }
        let fingerprint = std::array::from_fn(|n| u8::try_from(n * 8).unwrap());
        let subject = subjects.forgotten(fingerprint);
        assert_eq!(subjects.fingerprint(&subject), Some(fingerprint));
        assert_eq!(subjects.fingerprint(&format!("{subject}00")), None);
        assert_eq!(Subjects::new("other").fingerprint(&subject), None);
    }
}
