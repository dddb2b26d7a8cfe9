//! What was lately found in the page cache, so that a region that everybody asks for is not probed for each of them.
//!
//! A probe costs half a microsecond, and a turn needs one for each block. Pages that were there a moment ago are there still:
//! what is evicted is what has not been used for longest, and a probe is a use. So a block that was found resident is believed
//! for [`BELIEVED`]. One table of fixed size serves the worker; a newcomer takes the place of whatever its key collides with,
//! which costs a probe and no more. Rejected: a bitmap for each file (its size grows with the file), mincore(2) and cachestat(2)
//! (they lie, or are refused, for files that the server does not own, and both count pages that are still being read).

use std::ops::Range;
use std::time::{Duration, Instant};

/// Bytes of a block: what one probe stands for. Read-ahead brings pages in by at least this much.
pub const BLOCK_LEN: u64 = 128 << 10;

/// How long a probe's answer is believed.
const BELIEVED: Duration = Duration::from_millis(100);

/// Blocks that are remembered: half a gigabyte of content in 160 KiB of memory. A power of two.
const ENTRIES: usize = 4096;

/// The table of one worker.
pub struct Residency {
    blocks: Box<[Block]>,
    files: u32,
}

/// A block, between the bytes that were probed.
#[derive(Clone, Copy)]
struct Block {
    /// Number of the file, and of the block in it.
    key: (u32, u64),
    /// What is known, in bytes from the block's start.
    start: u32,
    /// See `start`; exclusive.
    end: u32,
    until: Instant,
}

impl Residency {
    /// Nothing is known.
    pub fn new(now: Instant) -> Self {
        let nothing = Block { key: (0, 0), start: 0, end: 0, until: now };
        Residency { blocks: vec![nothing; ENTRIES].into(), files: 0 }
    }

    /// A number for a file that was opened. It comes again only after four thousand million others.
    pub fn number(&mut self) -> u32 {
        self.files = self.files.wrapping_add(1);
        self.files
    }

    /// Whether this range, which lies in one block, was lately resident.
    pub fn knows(&self, file: u32, range: &Range<u64>, now: Instant) -> bool {
        let (number, start, end) = split(range);
        let block = &self.blocks[place(file, number)];
        block.key == (file, number) && block.start <= start && end <= block.end && now < block.until
    }

    /// Notes that this range, which lies in one block, was found resident.
    pub fn note(&mut self, file: u32, range: &Range<u64>, now: Instant) {
        let (number, start, end) = split(range);
        let block = &mut self.blocks[place(file, number)];
        // What lies inside of what is known already would only shorten it.
        let inside = block.key == (file, number) && block.start <= start && end <= block.end && now < block.until;
        if !inside {
            *block = Block { key: (file, number), start, end, until: now + BELIEVED };
        }
    }
}

/// The number of the block that holds the range, and the range from that block's start.
fn split(range: &Range<u64>) -> (u64, u32, u32) {
    let number = range.start / BLOCK_LEN;
    let base = number * BLOCK_LEN;
    debug_assert!(range.start < range.end && range.end - base <= BLOCK_LEN);
    (number, (range.start - base) as u32, (range.end - base) as u32)
}

fn place(file: u32, number: u64) -> usize {
    // Fibonacci hashing: blocks that follow each other are spread over the table.
    let mixed = (u64::from(file) << 40 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 52) as usize % ENTRIES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_known_for_a_while_and_no_further_than_it_was_looked_at() {
        let start = Instant::now();
        let mut residency = Residency::new(start);
        let file = residency.number();
        residency.note(file, &(100..1000), start);
        assert!(residency.knows(file, &(100..1000), start) && residency.knows(file, &(500..501), start));
        assert!(!residency.knows(file, &(99..1000), start) && !residency.knows(file, &(100..1001), start));
        assert!(!residency.knows(file, &(BLOCK_LEN + 100..BLOCK_LEN + 101), start), "the next block");
        let another = residency.number();
        assert!(!residency.knows(another, &(100..1000), start), "another file");
        assert!(!residency.knows(file, &(100..1000), start + BELIEVED), "too long ago");
    }

    #[test]
    fn a_part_takes_nothing_back_while_the_whole_is_believed() {
        let start = Instant::now();
        let mut residency = Residency::new(start);
        let file = residency.number();
        let (whole, part) = (2 * BLOCK_LEN..3 * BLOCK_LEN, 2 * BLOCK_LEN + 7..2 * BLOCK_LEN + 9);
        residency.note(file, &whole, start);
        residency.note(file, &part, start);
        assert!(residency.knows(file, &whole, start));
        residency.note(file, &part, start + BELIEVED);
        assert!(!residency.knows(file, &whole, start + BELIEVED) && residency.knows(file, &part, start + BELIEVED));
    }

    #[test]
    fn a_table_that_overflows_forgets_and_never_invents() {
        let start = Instant::now();
        let mut residency = Residency::new(start);
        let file = residency.number();
        let block = |number: u64| number * BLOCK_LEN..(number + 1) * BLOCK_LEN;
        let numbers = 0..10 * ENTRIES as u64;
        for number in numbers.clone().step_by(2) {
            residency.note(file, &block(number), start);
        }
        let (known, invented): (Vec<u64>, Vec<u64>) =
            numbers.filter(|number| residency.knows(file, &block(*number), start)).partition(|number| number % 2 == 0);
        assert!(known.len() > ENTRIES / 2 && known.len() <= ENTRIES);
        assert!(invented.is_empty(), "{invented:?}");
    }
}
