//! A topic: its events, and who is told when one comes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::history::{Bounds, History, Kept, Read};
use super::position::{Position, Seen};
use super::record::NewEpoch;
use crate::http::Framed;
use crate::limits::Limits;
use crate::rt::signal::Signal;

/// A topic, as all workers share it.
#[derive(Debug)]
pub(super) struct Topic {
    pub name: Arc<str>,
    /// Is held while an event gets its number and its place behind the others, so that both are in the same order.
    order: Mutex<()>,
    state: Mutex<State>,
    /// Tells subscribers that there is something to read.
    pub changed: Signal,
    subscribers: AtomicUsize,
}

#[derive(Debug)]
struct State {
    epoch: u64,
    /// Those whose count goes on in this one, the oldest first.
    earlier: Vec<Earlier>,
    history: History,
    /// The number of the event that is handed over next: events on their way to the journal have theirs already.
    handed: u64,
    /// Its publisher has ended it.
    is_closed: bool,
    /// When the last event came, in milliseconds since 1970.
    changed_ms: u64,
}

/// An epoch that ended because events may have been lost that subscribers had: of those, the ids are not used again.
#[derive(Clone, Copy, Debug)]
struct Earlier {
    epoch: u64,
    /// The number behind its last event that is known.
    end: u64,
}

/// Why a subscriber is not sent what it expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Events that it has not seen are gone: so many.
    Gone(u64),
    /// Its position is of another count, or its id of no event that is kept: how many it has lost can't be told.
    Unknown,
    /// It has seen events that this server has not.
    Ahead,
}

/// What is next for a subscriber.
#[derive(Debug)]
pub(super) enum Next {
    /// Nothing now.
    Nothing,
    /// Nothing, and nothing more will come.
    End,
    /// It has lost so many events, and goes on with the number.
    Lost { count: u64, next: u64 },
    /// An event, and whether it is the newest there is. `renamed` is where it stands now, where its own id is of an epoch of which
    /// nothing is known any more: who came back with that would be told of a loss again.
    Event { number: u64, lines: Framed, id_line_len: usize, renamed: Option<Position>, is_newest: bool },
}

impl Topic {
    /// A topic whose events are counted from `epoch` on.
    #[cfg(test)]
    pub fn new(name: Arc<str>, epoch: u64) -> Self {
        Topic::from(name, epoch, 1)
    }

    /// The same, of which the events before this number are gone.
    pub fn from(name: Arc<str>, epoch: u64, first: u64) -> Self {
        let history = History::new(first);
        let state = State { epoch, earlier: Vec::new(), history, handed: first, is_closed: false, changed_ms: 0 };
        Topic {
            name,
            order: Mutex::default(),
            state: Mutex::new(state),
            changed: Signal::new(),
            subscribers: AtomicUsize::new(0),
        }
    }

    /// The topic's publishers, one at a time: until it is dropped, nobody else's event comes between.
    pub fn in_order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The position of the next event, which is its alone.
    pub fn hand_out(&self) -> Position {
        let mut state = self.lock();
        let number = state.handed;
        state.handed += 1;
        Position { epoch: state.epoch, number }
    }

    /// Goes on with its count under another epoch: a position beyond what is known now is not taken for that of an event to come.
    pub fn begin_epoch(&self, begun: &NewEpoch) {
        let mut state = self.lock();
        let ended = Earlier { epoch: state.epoch, end: state.handed };
        state.epoch = begun.epoch;
        if begun.is_past_unknown {
            state.earlier.clear();
        } else {
            state.earlier.push(ended);
            let spare = state.earlier.len().saturating_sub(Limits::TOPIC_EPOCHS);
            state.earlier.drain(..spare);
        }
    }

    /// Keeps an event, and opens the topic again if it was closed; its subscribers are told by [`Topic::changed`].
    pub fn keep(&self, kept: Kept, bounds: &Bounds) {
        let mut state = self.lock();
        state.is_closed = false;
        state.changed_ms = kept.at_ms;
        state.handed = state.handed.max(kept.number + 1);
        state.history.push(kept, bounds, self.subscribers());
    }

    /// Counts an event that can't be kept, so that its number is not given again.
    pub fn pass_over(&self, number: u64, at_ms: u64) {
        let mut state = self.lock();
        state.is_closed = false;
        state.changed_ms = at_ms;
        state.handed = state.handed.max(number + 1);
        state.history.pass_over(number);
    }

    /// Counts the number of an end, which no event has.
    pub fn count(&self, number: u64) {
        let mut state = self.lock();
        state.handed = state.handed.max(number + 1);
    }

    /// Ends the topic: its subscribers are sent what there is, and nothing more will come.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify();
    }

    /// Gives up what is too old.
    pub fn trim(&self, now_ms: u64, bounds: &Bounds) {
        self.lock().history.trim(now_ms, bounds, self.subscribers());
    }

    /// Gives up the oldest event; whether there was one.
    pub fn give_up_oldest(&self) -> bool {
        self.lock().history.give_up_oldest()
    }

    /// Since when nothing came, of a topic that nobody would miss: it has no subscriber and no event.
    pub fn unused_since(&self) -> Option<u64> {
        let state = self.lock();
        (self.subscribers() == 0 && state.history.is_empty()).then_some(state.changed_ms)
    }

    /// Whether it was never used: it has no subscriber, had no event, and is not closed.
    pub fn is_blank(&self) -> bool {
        let state = self.lock();
        self.subscribers() == 0 && state.handed == 1 && !state.is_closed
    }

    /// How many subscribe to it.
    pub fn subscribers(&self) -> usize {
        self.subscribers.load(Ordering::Relaxed)
    }

    /// One more subscriber.
    pub fn enter(&self) {
        self.subscribers.fetch_add(1, Ordering::Relaxed);
    }

    /// One less; whether it was the last.
    pub fn leave(&self) -> bool {
        self.subscribers.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// Where the topic is now.
    pub fn position(&self) -> Position {
        let state = self.lock();
        Position { epoch: state.epoch, number: state.history.next() - 1 }
    }

    /// The place before an event.
    pub fn position_before(&self, next: u64) -> Position {
        Position { epoch: self.lock().epoch, number: next - 1 }
    }

    /// The number of the event with which a client goes on that has seen this, and what it has lost. `index` is the topic's among
    /// those of the subscription.
    pub fn resume(&self, seen: &Seen<'_>, index: usize) -> (u64, Option<Loss>) {
        let state = self.lock();
        let (history_first, next) = (state.history.history_first(), state.history.next());
        match seen {
            Seen::Nothing => (next, None),
            Seen::NothingYet => (history_first, None),
            Seen::Positions(positions, id) => {
                let known = positions.get(index).and_then(|seen| Some((seen.number, state.end_of(seen.epoch)?)));
                let left = state.history.left();
                match known {
                    Some((number, end)) if number >= end => (end.max(left), Some(Loss::Ahead)),
                    Some((number, _)) => {
                        let lost = left.saturating_sub(number + 1);
                        (left.max(number + 1), (lost > 0).then_some(Loss::Gone(lost)))
                    }
                    // A publisher's own id may look like a position.
                    None => match state.history.find(id) {
                        Some(number) => (number + 1, None),
                        None => (history_first, Some(Loss::Unknown)),
                    },
                }
            }
            Seen::Id(id) => match state.history.find(id) {
                Some(number) => (number + 1, None),
                None => (history_first, Some(Loss::Unknown)),
            },
        }
    }

    /// What is next for a subscriber that is to get this number.
    pub fn read(&self, next: u64) -> Next {
        let state = self.lock();
        match state.history.read(next) {
            Read::Nothing if state.is_closed => Next::End,
            Read::Nothing => Next::Nothing,
            Read::Lost { count, next } => Next::Lost { count, next },
            Read::Event(kept) => Next::Event {
                number: kept.number,
                lines: kept.lines.clone(),
                id_line_len: kept.id_line_len,
                renamed: (kept.id.is_none() && state.end_of(kept.epoch).is_none())
                    .then_some(Position { epoch: state.epoch, number: kept.number }),
                is_newest: kept.number + 1 == state.history.next() && !state.is_closed,
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The number behind the last event of an epoch, if the epoch is known.
    fn end_of(&self, epoch: u64) -> Option<u64> {
        let earlier = || self.earlier.iter().find(|earlier| earlier.epoch == epoch).map(|earlier| earlier.end);
        if epoch == self.epoch { Some(self.history.next()) } else { earlier() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { events: 3, bytes: 1000, age_ms: 1000, backlog: 0 };

    fn topic(events: u64) -> Topic {
        let topic = Topic::new("a".into(), 7);
        for number in 1..=events {
            assert_eq!(topic.hand_out(), Position { epoch: 7, number });
            let id = Some(format!("id-{number}").into());
            let kept = Kept { epoch: 7, number, at_ms: 0, lines: Framed::new(b"x"), id_line_len: 0, id, key: None };
            topic.keep(kept, &BOUNDS);
        }
        topic
    }

    #[track_caller]
    fn check(topic: &Topic, seen: &str, expected: (u64, Option<Loss>)) {
        assert_eq!(topic.resume(&Seen::of(Some(seen).filter(|id| *id != "-"), 1), 0), expected, "{seen}");
    }

    #[test]
    fn s3_who_comes_back_goes_on_where_it_was_or_is_told() {
        let topic = topic(5);
        check(&topic, "-", (6, None));
        check(&topic, "earliest", (3, None));
        check(&topic, "7-5", (6, None));
        check(&topic, "7-3", (4, None));
        check(&topic, "7-2", (3, None));
        check(&topic, "7-1", (3, Some(Loss::Gone(1))));
        check(&topic, "7-0", (3, Some(Loss::Gone(2))));
        check(&topic, "7-6", (6, Some(Loss::Ahead)));
        check(&topic, "7-18446744073709551615", (6, Some(Loss::Ahead)));
        check(&topic, "8-3", (3, Some(Loss::Unknown)));
        check(&topic, "id-4", (5, None));
        check(&topic, "id-5", (6, None));
        check(&topic, "id-1", (3, Some(Loss::Unknown)));
        check(&topic, "7-3.7-3", (3, Some(Loss::Unknown)));
    }

    #[test]
    fn s3_an_id_of_an_event_that_the_power_took_is_told_from_the_one_in_its_place() {
        let topic = topic(5);
        topic.begin_epoch(&NewEpoch { epoch: 9, is_past_unknown: false });
        let keep = |number| {
            assert_eq!(topic.hand_out(), Position { epoch: 9, number });
            let kept =
                Kept { epoch: 7, number, at_ms: 0, lines: Framed::new(b"x"), id_line_len: 0, id: None, key: None };
            topic.keep(kept, &BOUNDS);
        };
        check(&topic, "7-5", (6, None));
        check(&topic, "7-6", (6, Some(Loss::Ahead)));
        keep(6);
        keep(7);
        check(&topic, "7-5", (6, None));
        check(&topic, "7-6", (6, Some(Loss::Ahead)));
        check(&topic, "9-6", (7, None));
        check(&topic, "9-5", (6, None));
        check(&topic, "9-8", (8, Some(Loss::Ahead)));
        check(&topic, "7-3", (5, Some(Loss::Gone(1))));
        keep(8);
        keep(9);
        // What came in its place has left the history, too.
        check(&topic, "7-6", (7, Some(Loss::Ahead)));
        topic.begin_epoch(&NewEpoch { epoch: 11, is_past_unknown: false });
        check(&topic, "7-5", (7, Some(Loss::Gone(1))));
        check(&topic, "9-9", (10, None));
        check(&topic, "9-10", (10, Some(Loss::Ahead)));
        topic.begin_epoch(&NewEpoch { epoch: 12, is_past_unknown: true });
        for id in ["7-5", "9-9", "11-9"] {
            check(&topic, id, (7, Some(Loss::Unknown)));
        }
        check(&topic, "c-9", (10, None));
    }

    #[test]
    fn only_so_many_epochs_are_known() {
        let topic = topic(1);
        for epoch in 0..Limits::TOPIC_EPOCHS as u64 {
            topic.begin_epoch(&NewEpoch { epoch: 8 + epoch, is_past_unknown: false });
        }
        check(&topic, "7-1", (2, None));
        topic.begin_epoch(&NewEpoch { epoch: 99, is_past_unknown: false });
        check(&topic, "7-1", (1, Some(Loss::Unknown)));
        check(&topic, "8-1", (2, None));
    }

    #[test]
    fn s1_a_closed_topic_ends_behind_its_last_event_and_opens_with_the_next() {
        let topic = topic(2);
        topic.close();
        assert!(matches!(topic.read(2), Next::Event { number: 2, .. }));
        assert!(matches!(topic.read(3), Next::End));
        let kept =
            Kept { epoch: 7, number: 3, at_ms: 0, lines: Framed::new(b"x"), id_line_len: 0, id: None, key: None };
        topic.keep(kept, &BOUNDS);
        assert!(matches!(topic.read(4), Next::Nothing));
    }
}
