//! A look at the WAL before SQLite does.
//!
//! SQLite ends a WAL at the first frame that is not as it was written, and drops what is behind
//! it without a word: after a power failure that is a transaction nobody was told of. But each
//! transaction is synced before the next is begun, so that behind a frame which is torn nothing
//! follows but the rest of its transaction. Where another transaction does, the file has been
//! damaged, and events that were told would be forgotten and their ids given again.
//!
//! A torn frame may be part old and part new and look like anything. So only frames behind it
//! count whose checksum continues that of the frame before.
//!
//! The format is that of <https://www.sqlite.org/fileformat2.html#walformat>.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// Its lowest bit says that checksums are over big-endian words.
const MAGIC: u32 = 0x377f_0682;
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 512..=65_536;

/// The offset at which a WAL is damaged, if it is.
///
/// # Errors
/// It can't be read.
pub(super) fn damage(path: &Path) -> io::Result<Option<u64>> {
    match File::open(path) {
        Ok(file) => scan(BufReader::new(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn scan(mut wal: impl Read) -> io::Result<Option<u64>> {
    let mut header = [0; HEADER];
    // One that never got to the disk is as none.
    if !filled(&mut wal, &mut header)? || header == [0; HEADER] {
        return Ok(None);
    }
    let big_endian = word(&header, 0) & 1 == 1;
    let page_size = word(&header, 8);
    let mut sum = Checksum { big_endian, value: (0, 0) };
    sum.add(&header[..24]);
    let sound = word(&header, 0) & !1 == MAGIC && PAGE_SIZES.contains(&page_size);
    if !sound || !sum.is(&header[24..]) {
        return Ok(Some(0));
    }
    let salts = &header[16..24];
    let mut frame = vec![0; FRAME_HEADER + page_size as usize];
    let (mut offset, mut broken_at, mut over) = (HEADER as u64, None, false);
    while filled(&mut wal, &mut frame)? {
        let (head, page) = frame.split_at(FRAME_HEADER);
        sum.add(&head[..8]);
        sum.add(page);
        let whole = &head[8..16] == salts && sum.is(&head[16..]);
        if !whole && broken_at.is_none() {
            broken_at = Some(offset);
        }
        if whole && over {
            return Ok(broken_at);
        }
        let commits = word(head, 4) != 0;
        over = broken_at.is_some() && whole && commits;
        // As it should be; so the next is judged by itself.
        sum.value = (word(head, 16), word(head, 20));
        offset += frame.len() as u64;
    }
    Ok(None)
}

/// Fills the buffer; false where the file ends before.
fn filled(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}

struct Checksum {
    big_endian: bool,
    value: (u32, u32),
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        let read = |at| {
            let word = word(bytes, at);
            if self.big_endian { word } else { word.swap_bytes() }
        };
        let (mut first, mut second) = self.value;
        for at in (0..bytes.len()).step_by(8) {
            first = first.wrapping_add(read(at)).wrapping_add(second);
            second = second.wrapping_add(read(at + 4)).wrapping_add(first);
        }
        self.value = (first, second);
    }

    fn is(&self, stored: &[u8]) -> bool {
        self.value == (word(stored, 0), word(stored, 4))
    }
}
