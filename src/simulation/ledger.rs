//! What is in the daemon's memory, what is on its disk, and what its sinks were given, as it must
//! be; with the laws that say so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::book::Book;
use super::plan::At;
use super::sink::SINKS;
use crate::domain::{Record, SessionId};
use crate::store::simulated::Disk;

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// By what the process has decided.
    pub(super) books: BTreeMap<SessionId, Book>,
    /// By what is on the disk.
    pub(super) durable: BTreeMap<SessionId, Book>,
    journaled: VecDeque<Journaled>,
    /// Every event that was ever durable, as a line.
    pub(super) log: BTreeMap<u64, String>,
    ids: BTreeSet<String>,
    /// Those that no purge has dropped.
    present: BTreeSet<u64>,
    last: u64,
    announced: u64,
    pub(super) sinks: [Consumer; SINKS.len()],
}

#[derive(Debug, Default)]
pub(super) struct Consumer {
    /// The sequence of the last event that it was given.
    pub(super) given: u64,
    /// Its cursor on the disk.
    pub(super) cursor: u64,
}

/// One write on its way to the disk.
#[derive(Debug)]
pub(super) enum Journaled {
    Decisions {
        books: Vec<(SessionId, Book)>,
        /// Ids and data of the events.
        events: Vec<(String, String)>,
    },
    Announced,
    Cursor {
        sink: usize,
        up_to: u64,
    },
    Forgotten,
    Purge {
        up_to: u64,
    },
}

impl Ledger {
    pub(super) fn journaled(&mut self, write: Journaled) {
        if let Journaled::Cursor { sink, up_to } = write {
            let given = self.sinks[sink].given;
            assert!(up_to <= given, "the cursor of {} is at {up_to} before {given}", SINKS[sink]);
        }
        self.journaled.push_back(write);
    }

    /// So many writes have become durable, together and in their order.
    pub(super) fn durable(&mut self, writes: usize, disk: &Disk) {
        for _ in 0..writes {
            match self.journaled.pop_front().expect("a write that was journaled") {
                Journaled::Decisions { books, events } => {
                    for (id, data) in events {
                        self.recorded(&id, Some(&data), disk);
                    }
                    self.durable.extend(books);
                }
                Journaled::Announced => {
                    self.announced += 1;
                    self.recorded(&format!("api/{}", self.announced), None, disk);
                }
                Journaled::Cursor { sink, up_to } => {
                    let cursor = &mut self.sinks[sink].cursor;
                    *cursor = up_to.max(*cursor);
                }
                Journaled::Forgotten => {}
                Journaled::Purge { up_to } => self.purged(up_to, disk),
            }
        }
        assert_eq!(disk.last_sequence(), self.last, "events that nobody decided");
    }

    fn recorded(&mut self, id: &str, data: Option<&str>, disk: &Disk) {
        self.last += 1;
        let record = disk.events().get(&self.last).expect("an event at the next place");
        assert_eq!(record.id, id, "events are not in the order in which they were decided");
        if let Some(data) = data {
            assert_eq!(record.data.get(), data, "{id} is not recorded as it was decided");
        }
        assert!(self.ids.insert(id.to_owned()), "{id} is recorded twice");
        self.log.insert(self.last, line(record));
        self.present.insert(self.last);
    }

    fn purged(&mut self, up_to: u64, disk: &Disk) {
        let gone = self.present.iter().filter(|sequence| !disk.events().contains_key(sequence));
        let gone: Vec<u64> = gone.copied().collect();
        for sequence in gone {
            let given = self.sinks.iter().all(|sink| sink.given >= sequence);
            assert!(
                given && sequence <= up_to,
                "event {sequence} is purged before it is delivered"
            );
            self.present.remove(&sequence);
        }
    }

    /// A sink is given an event; returns whether for the first time.
    pub(super) fn delivered(&mut self, sink: usize, record: &Record) -> bool {
        let (name, sequence) = (SINKS[sink], record.sequence);
        let known = self.log.get(&sequence);
        assert_eq!(
            known.map(String::as_str),
            Some(line(record).as_str()),
            "{name} is given an event that is not recorded like that"
        );
        let consumer = &mut self.sinks[sink];
        assert!(sequence > consumer.cursor, "{name} is given {sequence} after it acknowledged it");
        if sequence <= consumer.given {
            return false;
        }
        let next = self.log.range(consumer.given + 1..).next().map(|(next, _)| *next);
        assert_eq!(next, Some(sequence), "{name} is given {sequence} before what comes first");
        consumer.given = sequence;
        true
    }

    /// What was not on the disk is gone.
    pub(super) fn crashed(&mut self) {
        self.journaled.clear();
        self.books.clone_from(&self.durable);
    }

    pub(super) fn live(&self) -> impl Iterator<Item = (&SessionId, &Book)> {
        self.books.iter().filter(|(_, book)| book.is_alive())
    }

    /// When a session last fell silent, and that was too long ago.
    pub(super) fn last_heard(&self, id: SessionId) -> Option<At> {
        self.books.get(&id).map(|book| book.settled.map_or(book.begun, |(at, _)| at))
    }
}

fn line(record: &Record) -> String {
    record.to_line().expect("an event that can be written")
}
