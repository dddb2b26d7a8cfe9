//! The events of one topic that are still there: its history, and what subscribers who are behind have yet to be sent.
//!
//! ```text
//!          first        history          next
//!   gone ▶ │ for those   │ also for those  │ ▶ to come
//!          │ behind      │ who come back   │
//! ```
//!
//! There is one copy, and a subscriber is a number: the next event that it is to get. So ten thousand subscribers cost ten thousand
//! numbers, and one that is behind costs nothing more until its events are gone; then it is told how many. An event
//! with a key takes the place of the earlier one with the same key, for whoever has not been sent that yet. Numbers have no meaning
//! beyond their order: one whose event could not be kept is passed over.
//!
//! Rejected: a queue for each subscriber (a copy of the handle for each event and subscriber, and a bound for each).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::http::Framed;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Events of the history.
    pub events: usize,
    /// Their bytes.
    pub bytes: usize,
    /// How old they get, in milliseconds.
    pub age_ms: u64,
    /// Bytes that are kept for subscribers who are there, whatever the history holds.
    pub backlog: usize,
}

/// An event as it is kept.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// The epoch that its id names, if that is the server's.
    pub epoch: u64,
    /// Its number in the topic; the first is 1.
    pub number: u64,
    /// When it was published, in milliseconds since 1970.
    pub at_ms: u64,
    /// Its lines, of which the first is its id.
    pub lines: Framed,
    /// Bytes of that first line.
    pub id_line_len: usize,
    /// The id that its publisher gave it.
    pub id: Option<Box<str>>,
    /// What it says something about: a later event of the same key takes its place.
    pub key: Option<Arc<str>>,
}

/// What a topic's events are.
#[derive(Debug, Default)]
pub(super) struct History {
    entries: VecDeque<Entry>,
    /// The next number.
    next: u64,
    /// Below this number events were given up.
    first: u64,
    /// Below this number events have left the history, though some may be kept for those behind.
    left: u64,
    /// The index of the history's first entry.
    history_at: usize,
    /// What all entries hold, and those of the history.
    bytes: usize,
    history_bytes: usize,
    history_events: usize,
    /// Entries without an event.
    vacant: usize,
    /// The entry of each key.
    keys: HashMap<Arc<str>, u64>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    kept: Option<Kept>,
}

impl Entry {
    fn len(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.lines.data().len())
    }
}

/// What there is for a subscriber.
#[derive(Debug)]
pub(super) enum Read<'a> {
    /// It has been sent everything.
    Nothing,
    /// So many events are gone that it was not sent; it goes on with the number.
    Lost { count: u64, next: u64 },
    /// Its next event.
    Event(&'a Kept),
}

/// Vacant entries are worth taking out when there are so many, and more than half are.
const VACANT: usize = 32;

impl History {
    /// Of a topic whose next event has this number.
    pub fn new(next: u64) -> Self {
        History { next, first: next, left: next, ..History::default() }
    }

    /// The number of the next event.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The number of the history's first event, or of the next one where there is no history.
    pub fn history_first(&self) -> u64 {
        self.entries.get(self.history_at).map_or(self.next, |entry| entry.number)
    }

    /// The number behind the newest event that has left the history: what was replaced before is not lost with it.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an event, and gives up what is over the bounds. `subscribers` is how many there are.
    pub fn push(&mut self, kept: Kept, bounds: &Bounds, subscribers: usize) {
        debug_assert!(kept.number >= self.next, "numbers only grow");
        let now_ms = kept.at_ms;
        if let Some(key) = &kept.key
            && let Some(earlier) = self.keys.insert(key.clone(), kept.number)
        {
            self.vacate(earlier);
        }
        self.next = kept.number + 1;
        let len = kept.lines.data().len();
        self.bytes += len;
        self.history_bytes += len;
        self.history_events += 1;
        self.entries.push_back(Entry { number: kept.number, kept: Some(kept) });
        self.trim(now_ms, bounds, subscribers);
    }

    /// Goes on behind an event that can't be kept: it is gone, as all before it are.
    pub fn pass_over(&mut self, number: u64) {
        while self.give_up_oldest() {}
        let next = self.next.max(number + 1);
        (self.next, self.first, self.left) = (next, next, next);
    }

    /// Gives up what is over the bounds now.
    pub fn trim(&mut self, now_ms: u64, bounds: &Bounds, subscribers: usize) {
        while let Some(entry) = self.entries.get(self.history_at) {
            let is_old = |kept: &Kept| now_ms.saturating_sub(kept.at_ms) >= bounds.age_ms;
            let goes = entry.kept.as_ref().is_none_or(|kept| {
                self.history_events > bounds.events || self.history_bytes > bounds.bytes || is_old(kept)
            });
            if !goes {
                break;
            }
            self.leave_history();
        }
        let backlog = if subscribers == 0 { 0 } else { bounds.backlog };
        while self.history_at > 0 && self.entries.front().is_some_and(|entry| self.bytes - entry.len() >= backlog) {
            self.drop_first();
        }
    }

    /// Gives up the oldest event, though it is within the bounds; whether there was one.
    pub fn give_up_oldest(&mut self) -> bool {
        if self.history_at == 0 && !self.entries.is_empty() {
            self.leave_history();
        }
        let has_one = !self.entries.is_empty();
        if has_one {
            self.drop_first();
        }
        has_one
    }

    /// What comes for a subscriber who is to get `next`.
    pub fn read(&self, next: u64) -> Read<'_> {
        if next >= self.next {
            return Read::Nothing;
        }
        if next < self.first {
            return Read::Lost { count: self.first - next, next: self.first };
        }
        let at = self.index_of(next);
        self.entries.range(at..).find_map(|entry| entry.kept.as_ref()).map_or(Read::Nothing, Read::Event)
    }

    /// The number of the event of the history that its publisher gave this id; the newest one.
    pub fn find(&self, id: &str) -> Option<u64> {
        let history = self.entries.range(self.history_at..).rev().filter_map(|entry| entry.kept.as_ref());
        history.filter(|kept| kept.id.as_deref() == Some(id)).map(|kept| kept.number).next()
    }

    /// The index of the first entry from this number on.
    fn index_of(&self, number: u64) -> usize {
        // Numbers without a gap between them, as most are, are where they are expected.
        let first = self.entries.front().map_or(number, |entry| entry.number);
        let guess = usize::try_from(number.saturating_sub(first)).unwrap_or(usize::MAX);
        match self.entries.get(guess) {
            Some(entry) if entry.number == number => guess,
            _ => self.entries.partition_point(|entry| entry.number < number),
        }
    }

    fn leave_history(&mut self) {
        let entry = &self.entries[self.history_at];
        self.history_bytes -= entry.len();
        if entry.kept.is_some() {
            self.history_events -= 1;
            self.left = entry.number + 1;
        }
        self.history_at += 1;
    }

    /// Takes out the first entry, which is not in the history.
    fn drop_first(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        self.history_at -= 1;
        self.bytes -= entry.len();
        let Some(kept) = entry.kept else {
            // What stood here was replaced, not lost.
            self.vacant -= 1;
            return;
        };
        self.first = kept.number + 1;
        if let Some(key) = kept.key.filter(|key| self.keys.get(key) == Some(&kept.number)) {
            self.keys.remove(&key);
        }
    }

    /// Takes an event out of its place, for which a later one stands.
    fn vacate(&mut self, number: u64) {
        let at = self.index_of(number);
        let Some(entry) = self.entries.get_mut(at).filter(|entry| entry.number == number) else { return };
        let len = entry.len();
        if entry.kept.take().is_none() {
            return;
        }
        self.vacant += 1;
        self.bytes -= len;
        if at >= self.history_at {
            self.history_bytes -= len;
            self.history_events -= 1;
        }
        if self.vacant > VACANT && self.vacant > self.entries.len() / 2 {
            self.history_at -= self.entries.range(..self.history_at).filter(|entry| entry.kept.is_none()).count();
            self.entries.retain(|entry| entry.kept.is_some());
            self.vacant = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { events: 3, bytes: 100, age_ms: 1000, backlog: 0 };

    fn kept(number: u64, at_ms: u64, len: usize, key: Option<&str>) -> Kept {
        let lines = Framed::new(&vec![b'x'; len]);
        Kept { epoch: 7, number, at_ms, lines, id_line_len: 0, id: None, key: key.map(Arc::from) }
    }

    /// The numbers that a subscriber gets from `next` on, and how many events it has lost on the way.
    fn rest(history: &History, mut next: u64) -> (Vec<u64>, u64) {
        let (mut got, mut lost) = (Vec::new(), 0);
        loop {
            match history.read(next) {
                Read::Nothing => return (got, lost),
                Read::Lost { count, next: first } => {
                    lost += count;
                    next = first;
                }
                Read::Event(kept) => {
                    got.push(kept.number);
                    next = kept.number + 1;
                }
            }
        }
    }

    fn filled(bounds: &Bounds, subscribers: usize, events: impl IntoIterator<Item = Kept>) -> History {
        let mut history = History::new(1);
        events.into_iter().for_each(|kept| history.push(kept, bounds, subscribers));
        history
    }

    #[test]
    fn s4_a_history_is_bounded_by_count_bytes_and_age() {
        let history = filled(&BOUNDS, 0, (1..=5).map(|number| kept(number, 0, 1, None)));
        assert_eq!((history.history_first(), rest(&history, 1)), (3, (vec![3, 4, 5], 2)));
        let history = filled(&BOUNDS, 0, [kept(1, 0, 60, None), kept(2, 0, 40, None), kept(3, 0, 1, None)]);
        assert_eq!(rest(&history, 1), (vec![2, 3], 1));
        let mut history = filled(&BOUNDS, 0, [kept(1, 0, 1, None), kept(2, 500, 1, None)]);
        history.trim(1000, &BOUNDS, 0);
        assert_eq!(rest(&history, 1), (vec![2], 1));
        history.trim(1500, &BOUNDS, 0);
        assert_eq!((rest(&history, 1), history.is_empty(), history.next()), ((vec![], 2), true, 3));
    }

    #[test]
    fn s4_who_is_there_and_behind_is_kept_a_backlog_that_is_no_history() {
        let bounds = Bounds { events: 0, backlog: 2, ..BOUNDS };
        let history = filled(&bounds, 1, (1..=5).map(|number| kept(number, 0, 1, None)));
        assert_eq!((history.history_first(), rest(&history, 1)), (6, (vec![4, 5], 3)));
        // One event may be longer than all of the backlog.
        let history = filled(&bounds, 1, [kept(1, 0, 1, None), kept(2, 0, 9, None)]);
        assert_eq!(rest(&history, 1), (vec![2], 1));
        let history = filled(&bounds, 0, (1..=5).map(|number| kept(number, 0, 1, None)));
        assert_eq!((rest(&history, 6), history.is_empty()), ((vec![], 0), true));
    }

    #[test]
    fn a_key_has_its_newest_event_only() {
        let mut history =
            filled(&BOUNDS, 0, [kept(1, 0, 1, Some("a")), kept(2, 0, 1, Some("b")), kept(3, 0, 1, Some("a"))]);
        assert_eq!(rest(&history, 1), (vec![2, 3], 0), "what was replaced is not lost");
        (4..200).for_each(|number| history.push(kept(number, 0, 1, Some("a")), &BOUNDS, 0));
        assert_eq!(rest(&history, 2), (vec![2, 199], 0));
        assert!(history.entries.len() <= 2 * VACANT + 4, "{} entries", history.entries.len());
    }

    #[test]
    fn a_number_that_was_never_kept_is_passed_over() {
        let history = filled(&BOUNDS, 0, [kept(1, 0, 1, None), kept(4, 0, 1, None)]);
        assert_eq!(rest(&history, 2), (vec![4], 0));
    }

    #[test]
    fn an_id_of_the_publisher_is_found_while_its_event_is_there() {
        let named = |number, id: &str| Kept { id: Some(id.into()), ..kept(number, 0, 1, None) };
        let history = filled(&BOUNDS, 0, [named(1, "x"), named(2, "y"), named(3, "x"), named(4, "z")]);
        let found = ["x", "y", "z", "w"].map(|id| history.find(id));
        assert_eq!(found, [Some(3), Some(2), Some(4), None]);
    }

    #[test]
    fn the_oldest_goes_first_when_memory_is_short() {
        let mut history = filled(&BOUNDS, 1, (1..=3).map(|number| kept(number, 0, 1, None)));
        assert!(history.give_up_oldest());
        assert_eq!(rest(&history, 1), (vec![2, 3], 1));
        assert!(history.give_up_oldest() && history.give_up_oldest() && !history.give_up_oldest());
        assert_eq!(rest(&history, 1), (vec![], 3));
    }

    proptest! {
        /// Whatever is published and given up: a subscriber is sent, or told as lost, or spared as replaced, every number once.
        #[test]
        fn s3_nothing_is_skipped_silently(
            steps in proptest::collection::vec((0u8..4, 0usize..40, 0u64..400), 1..200),
            events in 0usize..8, bytes in 0usize..120, backlog in 0usize..60, subscribers in 0usize..2,
        ) {
            let bounds = Bounds { events, bytes, age_ms: 1000, backlog };
            let (mut history, mut now, mut replaced) = (History::new(1), 0, Vec::new());
            let mut newest: HashMap<String, u64> = HashMap::new();
            for (key, len, later) in steps {
                now += later;
                let number = history.next();
                let key = (key > 0).then(|| key.to_string());
                if let Some(key) = &key {
                    replaced.extend(newest.insert(key.clone(), number));
                }
                history.push(kept(number, now, len + 1, key.as_deref()), &bounds, subscribers);
                let held: usize = history.entries.iter().map(Entry::len).sum();
                prop_assert_eq!(held, history.bytes);
                let in_history = history.entries.range(history.history_at..);
                prop_assert_eq!(in_history.clone().map(Entry::len).sum::<usize>(), history.history_bytes);
                prop_assert_eq!(in_history.filter(|e| e.kept.is_some()).count(), history.history_events);
                prop_assert!(history.history_bytes <= bytes && history.history_events <= events);
                let longest = history.entries.iter().map(Entry::len).max().unwrap_or(0);
                prop_assert!(history.bytes <= bytes.max(backlog) + longest);
            }
            for from in 1..history.next() {
                let (got, lost) = rest(&history, from);
                let due: Vec<u64> = (from.max(from + lost)..history.next()).filter(|n| !replaced.contains(n)).collect();
                prop_assert_eq!(got, due);
            }
        }
    }
}
