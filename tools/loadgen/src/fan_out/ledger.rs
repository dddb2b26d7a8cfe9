//! Who has had which unit: each reader is to have each unit of its topic once and in order, and whatever else happens is counted as
//! what it is. No descriptor and no clock here.
//!
//! Unit `n` belongs to topic `n % topics`; with one topic, every unit is for every reader.

use std::collections::VecDeque;
use std::ops::Range;

use super::stamp::Stamp;

/// The units that have been written, and the readers that have not had them yet.
#[derive(Debug)]
pub struct Ledger {
    /// How many readers follow each topic.
    followers: Vec<u32>,
    /// The number of the first unit in `underway`.
    first: u64,
    underway: VecDeque<Underway>,
}

#[derive(Clone, Copy, Debug)]
struct Underway {
    due_ns: u64,
    first_ns: u64,
    awaited: u32,
}

/// What one reader has had.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    topic: u64,
    /// The first unit that was written after it joined.
    joined_at: u64,
    /// Of its topic's units, which one comes next.
    next: u64,
    skipped: Vec<Range<u64>>,
}

/// What the arrival of a unit was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The next one. `spread_ns` where it was the last that somebody waited for: the time since the first reader had it.
    Next {
        /// First to last reader.
        spread_ns: Option<u64>,
    },
    /// The next one, which was written before the reader joined.
    CatchUp {
        /// Whether it is the last such.
        is_last: bool,
    },
    /// One that had been skipped.
    OutOfOrder,
    /// One that the reader has had.
    Duplicate,
    /// One that was never written, or not to this topic, or then.
    Foreign,
}

impl Progress {
    /// A reader that follows a topic from now on; or from its first unit on, where the units are the pieces of a body.
    pub fn new(topic: u64) -> Self {
        Progress { topic, ..Progress::default() }
    }

    /// How many units it has had no part in, of those that were written to its topic.
    pub fn missing(&self, written: u64, topics: u64) -> u64 {
        let of_topic = (written + topics - 1 - self.topic) / topics;
        let skipped: u64 = self.skipped.iter().map(|range| range.end - range.start).sum();
        of_topic.saturating_sub(self.next) + skipped
    }

    /// Takes the unit of this place in its topic.
    fn take(&mut self, place: u64) -> Arrival {
        if place >= self.next {
            if place > self.next {
                self.skipped.push(self.next..place);
            }
            self.next = place + 1;
            return Arrival::Next { spread_ns: None };
        }
        let Some(at) = self.skipped.iter().position(|range| range.contains(&place)) else {
            return Arrival::Duplicate;
        };
        let range = self.skipped.swap_remove(at);
        self.skipped.extend([range.start..place, place + 1..range.end].into_iter().filter(|range| !range.is_empty()));
        Arrival::OutOfOrder
    }
}

impl Ledger {
    /// For units of so many topics, at least one.
    pub fn new(topics: usize) -> Self {
        Ledger { followers: vec![0; topics], first: 0, underway: VecDeque::new() }
    }

    /// How many units have been written.
    pub fn written(&self) -> u64 {
        self.first + self.underway.len() as u64
    }

    /// How many of them somebody waits for.
    pub fn outstanding(&self) -> usize {
        self.underway.len()
    }

    /// A reader follows its topic from now on.
    pub fn join(&mut self, progress: &mut Progress) {
        progress.joined_at = self.written();
        self.followers[progress.topic as usize] += 1;
    }

    /// A reader follows its topic no longer.
    pub fn leave(&mut self, progress: &Progress) {
        self.followers[progress.topic as usize] -= 1;
        self.give_up(progress, progress.next..u64::MAX);
    }

    /// A unit is written now.
    pub fn write(&mut self, due_ns: u64) -> Stamp {
        let number = self.written();
        let awaited = self.followers[(number % self.topics()) as usize];
        self.underway.push_back(Underway { due_ns, first_ns: 0, awaited });
        self.retire();
        Stamp { number, due_ns }
    }

    /// A unit has come to a reader.
    pub fn arrive(&mut self, progress: &mut Progress, stamp: Stamp, now_ns: u64) -> Arrival {
        if stamp.number >= self.written() || stamp.number % self.topics() != progress.topic {
            return Arrival::Foreign;
        }
        let known = stamp.number.checked_sub(self.first).map(|at| at as usize);
        if known.is_some_and(|at| self.underway[at].due_ns != stamp.due_ns) {
            return Arrival::Foreign;
        }
        let (place, expected) = (stamp.number / self.topics(), progress.next);
        match progress.take(place) {
            Arrival::Next { .. } if stamp.number < progress.joined_at => {
                Arrival::CatchUp { is_last: stamp.number + self.topics() >= progress.joined_at }
            }
            Arrival::Next { .. } => {
                let spread_ns = known.and_then(|at| self.underway[at].count_off(now_ns));
                // Nobody waits for what was skipped; it would hold up the end of the run.
                self.give_up(progress, expected..place);
                self.retire();
                Arrival::Next { spread_ns }
            }
            other => other,
        }
    }

    /// Forgets what is outstanding: it will not come.
    pub fn abandon(&mut self) {
        self.first = self.written();
        self.underway.clear();
    }

    fn topics(&self) -> u64 {
        self.followers.len() as u64
    }

    /// Stops waiting for one reader and these units of its topic.
    fn give_up(&mut self, progress: &Progress, places: Range<u64>) {
        if places.is_empty() {
            return;
        }
        let topics = self.followers.len();
        let offset = (progress.topic + topics as u64 - self.first % topics as u64) % topics as u64;
        for at in (offset as usize..self.underway.len()).step_by(topics) {
            let number = self.first + at as u64;
            if places.contains(&(number / topics as u64)) && number >= progress.joined_at {
                let unit = &mut self.underway[at];
                unit.awaited = unit.awaited.saturating_sub(1);
            }
        }
        self.retire();
    }

    fn retire(&mut self) {
        while self.underway.front().is_some_and(|unit| unit.awaited == 0) {
            self.underway.pop_front();
            self.first += 1;
        }
    }
}

impl Underway {
    /// One reader more has it.
    fn count_off(&mut self, now_ns: u64) -> Option<u64> {
        if self.first_ns == 0 {
            self.first_ns = now_ns;
        }
        self.awaited = self.awaited.saturating_sub(1);
        (self.awaited == 0).then(|| now_ns.saturating_sub(self.first_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEXT: Arrival = Arrival::Next { spread_ns: None };

    fn followed(topics: usize, readers: usize) -> (Ledger, Vec<Progress>) {
        let mut ledger = Ledger::new(topics);
        let mut all: Vec<Progress> = (0..readers).map(|i| Progress::new((i % topics) as u64)).collect();
        all.iter_mut().for_each(|progress| ledger.join(progress));
        (ledger, all)
    }

    #[test]
    fn a_unit_is_outstanding_until_every_reader_has_it() {
        let (mut ledger, mut readers) = followed(1, 2);
        let stamp = ledger.write(5);
        assert_eq!((stamp, ledger.outstanding()), (Stamp { number: 0, due_ns: 5 }, 1));
        assert_eq!(ledger.arrive(&mut readers[0], stamp, 10), NEXT);
        assert_eq!(ledger.arrive(&mut readers[1], stamp, 17), Arrival::Next { spread_ns: Some(7) });
        assert_eq!((ledger.outstanding(), ledger.written()), (0, 1));
        assert_eq!(readers[0].missing(1, 1), 0);
    }

    #[test]
    fn whatever_is_not_the_next_one_is_told() {
        let (mut ledger, mut readers) = followed(1, 1);
        let stamps: Vec<Stamp> = (0..6).map(|due| ledger.write(due)).collect();
        let mut check = |number: usize, expected| {
            assert_eq!(ledger.arrive(&mut readers[0], stamps[number], 9), expected, "{number}")
        };
        check(0, Arrival::Next { spread_ns: Some(0) });
        check(0, Arrival::Duplicate);
        check(4, Arrival::Next { spread_ns: Some(0) });
        check(2, Arrival::OutOfOrder);
        check(2, Arrival::Duplicate);
        check(4, Arrival::Duplicate);
        assert_eq!(readers[0].missing(6, 1), 3, "1, 3 and 5");
        assert_eq!(ledger.outstanding(), 1, "nobody waits for what was skipped");
        ledger.abandon();
        assert_eq!((ledger.outstanding(), ledger.written()), (0, 6));
    }

    #[test]
    fn what_was_never_written_is_foreign() {
        let (mut ledger, mut readers) = followed(2, 2);
        let stamp = ledger.write(5);
        assert_eq!(ledger.arrive(&mut readers[0], Stamp { number: 2, due_ns: 5 }, 9), Arrival::Foreign);
        assert_eq!(ledger.arrive(&mut readers[0], Stamp { number: 0, due_ns: 6 }, 9), Arrival::Foreign);
        assert_eq!(ledger.arrive(&mut readers[1], stamp, 9), Arrival::Foreign, "it is the other topic's");
    }

    #[test]
    fn topics_take_turns() {
        let (mut ledger, mut readers) = followed(3, 7);
        let stamps: Vec<Stamp> = (0..5).map(|_| ledger.write(1)).collect();
        for (i, reader) in readers.iter_mut().enumerate() {
            for stamp in stamps.iter().filter(|stamp| stamp.number as usize % 3 == i % 3) {
                assert!(matches!(ledger.arrive(reader, *stamp, 2), Arrival::Next { .. }));
            }
            assert_eq!(reader.missing(5, 3), 0);
        }
        assert_eq!(ledger.outstanding(), 0);
        assert_eq!(Progress::new(0).missing(5, 3) + Progress::new(1).missing(5, 3) + Progress::new(2).missing(5, 3), 5);
    }

    #[test]
    fn a_reader_that_leaves_is_waited_for_no_longer() {
        let (mut ledger, mut readers) = followed(2, 4);
        let stamps: Vec<Stamp> = (0..4).map(|_| ledger.write(1)).collect();
        ledger.arrive(&mut readers[0], stamps[0], 2);
        ledger.leave(&readers[0]);
        assert_eq!(ledger.arrive(&mut readers[2], stamps[0], 3), Arrival::Next { spread_ns: Some(1) });
        assert_eq!(ledger.arrive(&mut readers[2], stamps[2], 3), Arrival::Next { spread_ns: Some(0) });
        ledger.leave(&readers[1]);
        ledger.leave(&readers[3]);
        assert_eq!(ledger.outstanding(), 0);
    }

    #[test]
    fn one_that_joins_late_catches_up_first() {
        let (mut ledger, mut readers) = followed(1, 1);
        let early = ledger.write(1);
        let mut late = Progress::new(0);
        ledger.join(&mut late);
        let live = ledger.write(6);
        assert_eq!(ledger.arrive(&mut late, early, 7), Arrival::CatchUp { is_last: true });
        assert_eq!(ledger.arrive(&mut late, live, 8), NEXT);
        assert_eq!(ledger.arrive(&mut readers[0], early, 9), Arrival::Next { spread_ns: Some(0) });
        assert_eq!(ledger.arrive(&mut readers[0], live, 9), Arrival::Next { spread_ns: Some(1) });
        assert_eq!((ledger.outstanding(), late.missing(2, 1)), (0, 0));
    }
}
