//! The session files as they truly are, and what may follow from them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::plan::{At, Condition, DIRECTORIES, FILES};
use crate::directory::simulated::{self, Text};
use crate::domain::{SessionId, Timestamp};

#[derive(Debug)]
pub(super) struct Files {
    /// What is written of each session, by file.
    members: [BTreeMap<SessionId, Entry>; FILES],
    conditions: [Condition; FILES],
    hidden: [bool; DIRECTORIES],
    /// Whom each file named when a look last found it good.
    seen: [BTreeSet<SessionId>; FILES],
    /// Since which look none is known to name a session that one once named.
    absent_since: BTreeMap<SessionId, At>,
    looked_at: At,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    version: u32,
    interval: Option<Duration>,
    expires_at: Option<Timestamp>,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            members: Default::default(),
            conditions: [Condition::Good; FILES],
            hidden: [false; DIRECTORIES],
            seen: Default::default(),
            absent_since: BTreeMap::new(),
            looked_at: 0,
        }
    }
}

impl Files {
    pub(super) fn add(&mut self, file: usize, id: SessionId) {
        self.members[file].entry(id).or_default();
    }

    pub(super) fn remove(&mut self, id: SessionId) {
        for members in &mut self.members {
            members.remove(&id);
        }
    }

    /// Writes something else of a session wherever it stands.
    pub(super) fn amend(
        &mut self,
        id: SessionId,
        interval: Option<Duration>,
        expires_at: Option<Timestamp>,
    ) {
        for entry in self.members.iter_mut().filter_map(|members| members.get_mut(&id)) {
            *entry = Entry { version: entry.version + 1, interval, expires_at };
        }
    }

    pub(super) fn set(&mut self, file: usize, condition: Condition) {
        self.conditions[file] = condition;
    }

    pub(super) fn hide(&mut self, directory: usize, hidden: bool) {
        self.hidden[directory] = hidden;
    }

    pub(super) fn mend(&mut self) {
        self.hidden = [false; DIRECTORIES];
        self.conditions = [Condition::Good; FILES];
    }

    /// Every session that is written in some file.
    pub(super) fn named(&self) -> BTreeSet<SessionId> {
        self.members.iter().flat_map(BTreeMap::keys).copied().collect()
    }

    /// For how long looks had found none that names it by the last one. What came and went, or
    /// changed behind a directory's back, in between could not be seen.
    pub(super) fn absent_for(&self, id: SessionId) -> Option<At> {
        self.absent_since.get(&id).map(|since| self.looked_at - since)
    }

    pub(super) fn was_seen(&self, id: SessionId) -> bool {
        self.absent_since.contains_key(&id) || self.seen.iter().any(|ids| ids.contains(&id))
    }

    fn see(&mut self, at: At) {
        let before: BTreeSet<SessionId> = self.seen.iter().flatten().copied().collect();
        for file in (0..FILES).filter(|file| !self.hidden[file % DIRECTORIES]) {
            match self.conditions[file] {
                Condition::Good => self.seen[file] = self.members[file].keys().copied().collect(),
                Condition::Gone => self.seen[file].clear(),
                Condition::Spoiled | Condition::Empty | Condition::Torn | Condition::Unreadable => {
                }
            }
        }
        let seen: BTreeSet<SessionId> = self.seen.iter().flatten().copied().collect();
        self.absent_since.retain(|id, _| !seen.contains(id));
        self.absent_since.extend(before.difference(&seen).map(|id| (*id, at)));
        self.looked_at = at;
    }

    /// What a look at the directories finds.
    pub(super) fn look(&mut self, at: At) -> simulated::Files {
        self.see(at);
        let directory = |n: usize| PathBuf::from(format!("/sessions/{n}"));
        let mut found: simulated::Files = (0..DIRECTORIES)
            .map(|n| (directory(n), (!self.hidden[n]).then(BTreeMap::new)))
            .collect();
        for file in 0..FILES {
            let text = match self.conditions[file] {
                Condition::Good => Text::Whole(self.text(file)),
                Condition::Spoiled => Text::Whole(format!("{} x", self.text(file))),
                Condition::Empty => Text::Whole(String::new()),
                Condition::Torn => Text::Torn,
                Condition::Unreadable => Text::Unreadable,
                Condition::Gone => continue,
            };
            if let Some(Some(files)) = found.get_mut(&directory(file % DIRECTORIES)) {
                files.insert(format!("{file}.json"), text);
            }
        }
        found
    }

    fn text(&self, file: usize) -> String {
        let entries = self.members[file].iter().map(|(id, entry)| {
            let mut text = format!(
                r#"{{"session_id":"{id}","labels":{{"version":"{file}/{}"}}"#,
                entry.version
            );
            let more = (|| {
                if let Some(interval) = entry.interval {
                    write!(text, r#","interval":"{}ms""#, interval.as_millis())?;
                }
                if let Some(at) = entry.expires_at {
                    write!(text, r#","expires_at":"{at}""#)?;
                }
                text.write_char('}')
            })();
            more.expect("memory to write to");
            text
        });
        format!("[{}]", entries.collect::<Vec<_>>().join(","))
    }
}
