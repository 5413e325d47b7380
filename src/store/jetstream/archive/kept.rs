//! An export that was read to its end and can be read again.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, Write};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;

use crate::store::archive::{Line, Reader};
use crate::store::{Carried, ImportError};

/// A whole export, in a file without a name.
pub(super) struct Kept {
    file: File,
    pub(super) digest: String,
    pub(super) events: Sequences,
    pub(super) last_sequence: u64,
    pub(super) carried: Carried,
}

/// Where the events stand, as what follows on each other.
#[derive(Debug, Default)]
pub(super) struct Sequences(Vec<(u64, u64)>);

impl Sequences {
    fn add(&mut self, sequence: u64) {
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 == sequence => *last = sequence,
            Some(_) | None => self.0.push((sequence, sequence)),
        }
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.0.first().map(|(first, _)| *first)
    }

    /// The last that is no greater.
    pub(super) fn up_to(&self, sequence: u64) -> Option<u64> {
        let behind = self.0.partition_point(|(first, _)| *first <= sequence);
        let (_, last) = self.0[..behind].last()?;
        Some(sequence.min(*last))
    }
}

impl Kept {
    /// # Errors
    /// What is read is no whole export.
    pub(super) fn of(mut input: impl BufRead) -> Result<Self, ImportError> {
        let mut file = tempfile::tempfile()?;
        let mut digest = digest::Context::new(&digest::SHA256);
        loop {
            let bytes = input.fill_buf()?;
            if bytes.is_empty() {
                break;
            }
            digest.update(bytes);
            file.write_all(bytes)?;
            let read = bytes.len();
            input.consume(read);
        }
        let digest = BASE64.encode(digest.finish());
        let mut lines = open(&file)?;
        let mut events = Sequences::default();
        let mut has_rest = false;
        let end = loop {
            match lines.next()? {
                Line::Export(_) => return Err(lines.second_header()),
                Line::Event(event) => {
                    lines.ordinal(&event)?;
                    if has_rest {
                        return Err(lines.problem("an event behind a session; export it again"));
                    }
                    events.add(event.sequence);
                }
                Line::Session(_) => has_rest = true,
                Line::Forgotten(forgotten) => {
                    lines.fingerprint(&forgotten)?;
                    has_rest = true;
                }
                Line::Api(_) | Line::Sink(_) => {}
                Line::End(end) => break end,
            }
        };
        let (last_sequence, carried) = lines.finish(&end)?;
        Ok(Self { file, digest, events, last_sequence, carried })
    }

    pub(super) fn lines(&self) -> Result<Reader<BufReader<&File>>, ImportError> {
        open(&self.file)
    }
}

fn open(mut file: &File) -> Result<Reader<BufReader<&File>>, ImportError> {
    file.seek(io::SeekFrom::Start(0))?;
    Reader::begin(BufReader::new(file))
}

#[cfg(test)]
mod tests {
    use super::Sequences;

    #[test]
    fn the_last_of_some_sequences_is_found() {
        let mut sequences = Sequences::default();
        assert_eq!((sequences.first(), sequences.up_to(9)), (None, None));
        for sequence in [3, 4, 5, 8] {
            sequences.add(sequence);
        }
        assert_eq!(sequences.first(), Some(3));
        let last: Vec<Option<u64>> = (2..10).map(|n| sequences.up_to(n)).collect();
        let wanted = [0, 3, 4, 5, 5, 5, 8, 8].map(|n| (n > 0).then_some(n));
        assert_eq!(last, wanted);
    }
}
