//! A subscription: a number in each of its topics, and what comes next.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::hub::{Hub, Seat};
use super::position::{Position, Positions, Seen};
use super::topic::{Loss, Next, Topic};
use crate::config::OnLag;
use crate::http::Framed;
use crate::proto::sse;
use crate::rt::signal::Watch;

/// One who reads topics.
pub(super) struct Subscriber {
    hub: Arc<Hub>,
    places: Vec<Place>,
    /// The topic to look at first, so that a busy one does not keep the others from being read.
    turn: usize,
    on_lag: OnLag,
    /// It was too slow, and gets nothing more.
    is_cut: bool,
    /// It counts among the subscribers as long as it lives.
    _seat: Seat,
}

/// Where it is in one topic.
struct Place {
    topic: Arc<Topic>,
    /// The number of its next event.
    next: u64,
    watch: Watch,
    /// Nothing is there that it has not been given, unless the watch has news: so a topic is looked at once for each event.
    is_current: bool,
    has_ended: bool,
}

/// What it lost of a topic, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub topic: Arc<str>,
    pub loss: Loss,
    /// Whether it was there, and too slow.
    pub was_slow: bool,
}

/// What comes for it.
#[derive(Debug)]
pub(super) enum Item {
    /// An event: all its lines, how long its id's is, and the id that it has now, if that is another.
    Event { lines: Framed, id_line_len: usize, renamed: Option<Position> },
    /// Events that it will not get.
    Lost(Lost),
}

impl Subscriber {
    /// Of these topics, each once; goes on behind what it has seen. What it has lost since then comes with it.
    pub fn new(
        hub: Arc<Hub>,
        topics: Vec<Arc<Topic>>,
        seen: &Seen<'_>,
        on_lag: OnLag,
        seat: Seat,
    ) -> (Self, Vec<Lost>) {
        let mut lost = Vec::new();
        let place = |(index, topic): (usize, Arc<Topic>)| {
            topic.enter();
            // Before it is looked at, so that nothing comes between.
            let watch = topic.changed.watch();
            let (next, loss) = topic.resume(seen, index);
            lost.extend(loss.map(|loss| Lost { topic: topic.name.clone(), loss, was_slow: false }));
            Place { topic, next, watch, is_current: false, has_ended: false }
        };
        let places = topics.into_iter().enumerate().map(place).collect();
        (Subscriber { hub, places, turn: 0, on_lag, is_cut: false, _seat: seat }, lost)
    }

    /// Where it is: in each topic behind the last event that it was given.
    pub fn positions(&self) -> Positions<impl Iterator<Item = Position> + Clone + '_> {
        Positions(self.places.iter().map(|place| place.topic.position_before(place.next)))
    }

    /// Whether it has a position in more than one topic.
    pub fn has_several(&self) -> bool {
        self.places.len() > 1
    }

    /// Whether its topics have ended.
    pub fn has_ended(&self) -> bool {
        self.is_cut || self.places.iter().all(|place| place.has_ended)
    }

    /// What is there for it now.
    pub fn try_next(&mut self) -> Option<Item> {
        if self.is_cut {
            return None;
        }
        let count = self.places.len();
        for offset in 0..count {
            let at = (self.turn + offset) % count;
            let place = &mut self.places[at];
            if place.is_current {
                continue;
            }
            match place.topic.read(place.next) {
                // One that has ended may begin again, which is news.
                Next::Nothing => (place.is_current, place.has_ended) = (true, false),
                Next::End => (place.is_current, place.has_ended) = (true, true),
                Next::Lost { count, next } => {
                    place.next = next;
                    let lost = Lost { topic: place.topic.name.clone(), loss: Loss::Gone(count), was_slow: true };
                    if self.on_lag == OnLag::Disconnect {
                        self.is_cut = true;
                    }
                    return Some(Item::Lost(lost));
                }
                Next::Event { number, lines, id_line_len, renamed, is_newest } => {
                    place.next = number + 1;
                    place.is_current = is_newest;
                    place.has_ended = false;
                    self.turn = (at + 1) % count;
                    return Some(Item::Event { lines, id_line_len, renamed });
                }
            }
        }
        None
    }

    /// Whether it is behind the last event of topics that have ended.
    pub fn is_at_end(&mut self) -> bool {
        let is_over = |place: &mut Place| {
            place.has_ended = matches!(place.topic.read(place.next), Next::End);
            place.has_ended
        };
        self.places.iter_mut().all(is_over)
    }

    /// Ready when there may be something again.
    pub fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut changed = Poll::Pending;
        for place in &mut self.places {
            if place.watch.poll_changed(cx).is_ready() {
                place.is_current = false;
                changed = Poll::Ready(());
            }
        }
        changed
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        for place in &self.places {
            if place.topic.leave() {
                self.hub.forget_if_blank(&place.topic);
            }
        }
    }
}

/// What comes to a subscription in code. Dropping it ends it.
pub struct Subscription {
    subscriber: Subscriber,
    lost: std::vec::IntoIter<Lost>,
}

/// What a subscription yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// An event.
    Event {
        /// Its id, by which a later subscription goes on behind it.
        id: String,
        /// Its type; `message` where its publisher gave none.
        event: String,
        /// What it says; lines end with a line feed.
        data: String,
    },
    /// So many events are gone that were not yielded; `None` where nobody knows how many.
    Lost(Option<u64>),
}

impl Subscription {
    pub(super) fn new(subscriber: Subscriber, lost: Vec<Lost>) -> Self {
        Subscription { subscriber, lost: lost.into_iter() }
    }
}

impl Stream for Subscription {
    type Item = Delivery;

    /// The end is that of a topic that was closed, or of a subscription that was too slow.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        let this = &mut *self;
        loop {
            if let Some(lost) = this.lost.next() {
                return Poll::Ready(Some(lost.delivery()));
            }
            match this.subscriber.try_next() {
                Some(Item::Lost(lost)) => return Poll::Ready(Some(lost.delivery())),
                Some(Item::Event { lines, renamed, .. }) => {
                    let sse::Received { id, event, data } = sse::receive(lines.data());
                    let id = renamed.map_or(id, |position| position.to_string());
                    return Poll::Ready(Some(Delivery::Event { id, event, data }));
                }
                None if this.subscriber.has_ended() => return Poll::Ready(None),
                None => std::task::ready!(this.subscriber.poll_changed(cx)),
            }
        }
    }
}

impl Lost {
    /// How many events it is about, if that is known.
    pub fn count(&self) -> Option<u64> {
        match self.loss {
            Loss::Gone(count) => Some(count),
            Loss::Unknown | Loss::Ahead => None,
        }
    }

    fn delivery(&self) -> Delivery {
        Delivery::Lost(self.count())
    }
}
