//! Which segments of the journal are needed, and by which items.
//!
//! Whole segments are dropped from the front, so one item that nobody takes would keep everything behind it on the disk. When half of
//! the journal is of no use any more, what is left of the first segment is copied to the end.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::limits::Limits;
use crate::proto::journal::{HEAD_LEN, MAGIC};
use crate::rt::journal::Position;

/// The journal's segments as its records are known.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    segments: BTreeMap<u64, Segment>,
    /// Bytes of all of them.
    bytes: u64,
    /// Bytes of the records of live items.
    live_bytes: u64,
    /// Bytes of records that are to come.
    claimed: u64,
    /// Records that are on their way.
    under_way: usize,
    /// The end of the last record that is known.
    end: Option<Position>,
}

#[derive(Debug, Default)]
struct Segment {
    bytes: u64,
    /// The items whose record lies here, by number.
    live: BTreeMap<u64, Live>,
}

#[derive(Clone, Debug)]
struct Live {
    queue: Arc<str>,
    len: u64,
}

impl Ledger {
    /// Whether so many more bytes keep the journal within this bound.
    pub fn has_room(&self, len: u64, bound: u64) -> bool {
        self.bytes + self.claimed + len <= bound
    }

    pub fn claim(&mut self, len: u64) {
        self.claimed += len;
    }

    pub fn unclaim(&mut self, len: u64) {
        self.claimed -= len;
    }

    /// Notes that a record is on its way.
    pub fn begin(&mut self) {
        self.under_way += 1;
    }

    /// Notes what became of it.
    pub fn landed(&mut self, written: Result<Position, &io::Error>, len: usize) {
        self.under_way -= 1;
        written.into_iter().for_each(|position| self.wrote(position, len));
    }

    /// Notes a record of this length.
    pub fn wrote(&mut self, position: Position, len: usize) {
        let segment = self.segments.entry(position.segment).or_default();
        self.end = self.end.max(Some(Position { offset: position.offset + (HEAD_LEN + len) as u64, ..position }));
        let begun = if segment.bytes == 0 { MAGIC.len() } else { 0 };
        let len = (begun + HEAD_LEN + len) as u64;
        segment.bytes += len;
        self.bytes += len;
    }

    /// Notes that the item's record is this one.
    pub fn live(&mut self, number: u64, queue: &Arc<str>, position: Position, len: usize) {
        let len = (HEAD_LEN + len) as u64;
        let segment = self.segments.entry(position.segment).or_default();
        segment.live.insert(number, Live { queue: queue.clone(), len });
        self.live_bytes += len;
    }

    /// Notes that the item does not need the record any more.
    pub fn dead(&mut self, number: u64, position: Position) {
        let live = self.segments.get_mut(&position.segment).and_then(|segment| segment.live.remove(&number));
        self.live_bytes -= live.map_or(0, |live| live.len);
    }

    /// Before which position nothing is needed, if that is news. The last segment is not worth dropping while it is short, and while a
    /// record is on its way it is not known where it ends.
    pub fn drop_unneeded(&mut self) -> Option<Position> {
        let last = self.segments.last_key_value().map(|(number, _)| *number)?;
        let mut unneeded = None;
        while let Some(first) = self.segments.first_entry().filter(|first| first.get().live.is_empty()) {
            let number = *first.key();
            if number == last {
                let is_worth_it = first.get().bytes >= Limits::QUEUE_SEGMENT_LEN_LEAST && self.under_way == 0;
                return if is_worth_it {
                    self.bytes -= first.remove().bytes;
                    self.end
                } else {
                    unneeded
                };
            }
            self.bytes -= first.remove().bytes;
            unneeded = Some(Position { segment: number + 1, offset: 0 });
        }
        unneeded
    }

    /// An item that keeps the first segment from being dropped, where most of a journal of this bound is of no use.
    pub fn worth_copying(&self, bound: u64) -> Option<(u64, Arc<str>)> {
        if self.bytes <= bound / 2 || self.live_bytes > self.bytes / 2 || self.segments.len() < 2 {
            return None;
        }
        let (_, first) = self.segments.first_key_value()?;
        first.live.first_key_value().map(|(number, live)| (*number, live.queue.clone()))
    }

    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(segment: u64) -> Position {
        Position { segment, offset: 8 }
    }

    /// A ledger with an item of 88 bytes in each of these segments, numbered as they come.
    fn ledger(segments: &[u64]) -> Ledger {
        let mut ledger = Ledger::default();
        for (number, segment) in segments.iter().enumerate() {
            ledger.wrote(at(*segment), 88);
            ledger.live(number as u64, &Arc::from("q"), at(*segment), 88);
        }
        ledger
    }

    #[test]
    fn segments_are_dropped_from_the_front_when_their_last_item_is_done() {
        let mut ledger = ledger(&[1, 1, 2, 3]);
        assert_eq!(ledger.bytes(), 4 * 100 + 3 * 8);
        ledger.dead(2, at(2));
        ledger.dead(0, at(1));
        assert_eq!(ledger.drop_unneeded(), None, "one is left in the first");
        ledger.dead(1, at(1));
        assert_eq!((ledger.drop_unneeded(), ledger.bytes()), (Some(Position { segment: 3, offset: 0 }), 108));
        ledger.dead(3, at(3));
        assert_eq!((ledger.drop_unneeded(), ledger.bytes()), (None, 108));
        // But a long one is not kept for nothing.
        ledger.wrote(at(3), 100_000);
        let end = Position { segment: 3, offset: 8 + 100_012 };
        assert_eq!((ledger.drop_unneeded(), ledger.bytes()), (Some(end), 0));
    }

    #[test]
    fn what_pins_the_first_segment_is_worth_copying_when_most_is_garbage() {
        let mut ledger = ledger(&[1, 2, 3, 4]);
        assert!(ledger.worth_copying(100).is_none(), "all is needed");
        ledger.dead(1, at(2));
        ledger.dead(2, at(3));
        assert!(ledger.worth_copying(1000).is_none(), "there is room");
        assert_eq!(ledger.worth_copying(800), Some((0, Arc::from("q"))));
        ledger.wrote(at(4), 88);
        ledger.dead(0, at(1));
        ledger.live(0, &Arc::from("q"), at(4), 88);
        assert_eq!(ledger.drop_unneeded(), Some(Position { segment: 4, offset: 0 }));
        assert!(ledger.worth_copying(100).is_none());
    }

    #[test]
    fn what_is_on_its_way_counts() {
        let mut ledger = ledger(&[1]);
        assert!(ledger.has_room(92, 200) && !ledger.has_room(93, 200));
        ledger.claim(92);
        assert!(!ledger.has_room(1, 200));
        ledger.unclaim(92);
        assert!(ledger.has_room(92, 200));
    }
}
