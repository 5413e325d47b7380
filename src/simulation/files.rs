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
    /// Whom each file named when it was last good.
    last_good: [BTreeSet<SessionId>; FILES],
    /// Since when no file names a session that one once named.
    absent_since: BTreeMap<SessionId, At>,
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
            last_good: Default::default(),
            absent_since: BTreeMap::new(),
        }
    }
}

impl Files {
    pub(super) fn add(&mut self, file: usize, id: SessionId, at: At) {
        self.members[file].entry(id).or_default();
        self.note(at);
    }

    pub(super) fn remove(&mut self, id: SessionId, at: At) {
        for members in &mut self.members {
            members.remove(&id);
        }
        self.note(at);
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

    pub(super) fn set(&mut self, file: usize, condition: Condition, at: At) {
        self.conditions[file] = condition;
        self.note(at);
    }

    pub(super) fn hide(&mut self, directory: usize, hidden: bool) {
        self.hidden[directory] = hidden;
    }

    pub(super) fn mend(&mut self, at: At) {
        self.hidden = [false; DIRECTORIES];
        self.conditions = [Condition::Good; FILES];
        self.note(at);
    }

    /// Every session that a file names, or named when it was last good.
    pub(super) fn named(&self) -> BTreeSet<SessionId> {
        self.last_good.iter().flatten().copied().collect()
    }

    /// Since when none does.
    pub(super) fn absent_since(&self, id: SessionId) -> Option<At> {
        self.absent_since.get(&id).copied()
    }

    pub(super) fn was_named(&self, id: SessionId) -> bool {
        self.absent_since.contains_key(&id) || self.named().contains(&id)
    }

    fn note(&mut self, at: At) {
        let before = self.named();
        for file in 0..FILES {
            match self.conditions[file] {
                Condition::Good => {
                    self.last_good[file] = self.members[file].keys().copied().collect();
                }
                Condition::Gone => self.last_good[file].clear(),
                Condition::Spoiled | Condition::Empty | Condition::Torn | Condition::Unreadable => {
                }
            }
        }
        let named = self.named();
        for id in before.difference(&named) {
            self.absent_since.insert(*id, at);
        }
        for id in &named {
            self.absent_since.remove(id);
        }
    }

    /// What a look at the directories finds.
    pub(super) fn look(&self) -> simulated::Files {
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
