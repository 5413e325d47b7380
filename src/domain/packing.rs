//! Numbers, texts and moments in few bytes: for what is kept a million times over.

use std::time::Duration;

use super::time::Timestamp;

/// The moment before, from which the next is measured.
#[derive(Default)]
pub(super) struct Moments(i64);

pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn flags(&mut self, flags: [bool; 3]) {
        self.0.push(flags.into_iter().rev().fold(0, |all, flag| all << 1 | u8::from(flag)));
    }

    pub(super) fn moment(&mut self, at: Timestamp, before: &mut Moments) {
        let distance = at.as_millis() - before.0;
        before.0 = at.as_millis();
        // Small numbers of either sign are small numbers.
        self.number(((distance << 1) ^ (distance >> 63)).cast_unsigned());
    }

    pub(super) fn duration(&mut self, duration: Duration) {
        self.number(duration.as_secs());
        self.number(duration.subsec_nanos().into());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend(text.as_bytes());
    }

    /// Seven bits a byte, the lowest first; the eighth says that more follow.
    pub(super) fn number(&mut self, mut number: u64) {
        while let low @ 0x80.. = number {
            self.0.push(low.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.0.push(number.to_le_bytes()[0]);
    }
}

/// Reads what a [`Writer`] wrote, and nothing else.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn flags(&mut self) -> [bool; 3] {
        let flags = self.byte();
        [0, 1, 2].map(|bit| flags >> bit & 1 == 1)
    }

    pub(super) fn moment(&mut self, before: &mut Moments) -> Timestamp {
        let number = self.number();
        before.0 += (number >> 1).cast_signed() ^ -(number & 1).cast_signed();
        Timestamp::from_millis(before.0)
    }

    pub(super) fn duration(&mut self) -> Duration {
        Duration::new(self.number(), self.small())
    }

    pub(super) fn text(&mut self) -> &'a str {
        let length = usize::try_from(self.number()).unwrap_or(usize::MAX);
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        str::from_utf8(text).expect("text that was written")
    }

    pub(super) fn small(&mut self) -> u32 {
        u32::try_from(self.number()).unwrap_or(u32::MAX)
    }

    pub(super) fn number(&mut self) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return number;
            }
            shift += 7;
        }
    }

    pub(super) fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let (first, rest) = self.0.split_first_chunk().expect("bytes that were written");
        self.0 = rest;
        *first
    }
}
