//! What all workers share of a route's queues: who waits, and where each item is.
//!
//! ```text
//!            claim          insert            take             sent, without a lease: done
//!   producer ────▶ on its way ───▶ ready, by number ───▶ out ────────────────────────────────▶
//!      waits in line of             ▲                     │    sent, with a lease ─▶ acknowledged: done
//!      its queue                    └── dropped unsent, ──┘
//!                                       released, expired
//! ```
//!
//! An item keeps the number that it came with, and the ready ones are taken in the order of their numbers: what comes back is
//! delivered again first. Consumers and producers wait in lines of their own, first come, first served; whatever happens wakes the first
//! of a line only, and who leaves a line wakes the next.
//!
//! There is one lock for the route, held for some hundred nanoseconds. Rejected: a lock for each queue, which needs a second one
//! for the memory that they share and an order between the two.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Instant;

use super::item::Item;
use super::ledger::Ledger;
use super::record;
use crate::config::QueueConfig;
use crate::proto::journal::HEAD_LEN;
use crate::rt::journal::Position;

/// What is kept of an item beside its bytes: its places in the queue and in the ledger, in bytes.
pub(super) const ITEM_BYTES: usize = 256;

/// How much there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    queues: usize,
    items: usize,
    bytes: u64,
    /// Bytes of memory of what is in the queues.
    stored: usize,
    /// Bytes that producers hold of items that are not whole; the same for what consumers hold of items of the disk.
    carried: usize,
    /// Bytes of the journal.
    pub disk: Option<u64>,
}

impl Bounds {
    /// A quarter of the memory is for what producers hold, and where items are on the disk another for what consumers hold.
    pub fn of(config: &QueueConfig) -> Self {
        let carried = config.memory / 4;
        let carriers = if config.journal.is_some() { 2 } else { 1 };
        Bounds {
            queues: config.queues,
            items: config.queue_items,
            bytes: config.queue_bytes,
            stored: config.memory - carriers * carried,
            carried,
            // The rest is for acknowledgements, and for what is copied forward.
            disk: config.journal.as_ref().map(|_| config.journal_bytes / 8 * 7),
        }
    }
}

/// All queues of a route.
#[derive(Debug)]
pub(super) struct State {
    pub bounds: Bounds,
    lanes: HashMap<Arc<str>, Lane>,
    stored: usize,
    /// In the hands of producers, and of consumers.
    carried_in: usize,
    carried_out: usize,
    /// Consumers that wait to hold an item.
    carriers: BTreeMap<u64, Waker>,
    /// The queues whose first producer waits for room that all share.
    starved: HashSet<Arc<str>>,
    pub ledger: Ledger,
    /// Items that are done, which the journal does not say yet.
    pub done: Vec<u64>,
    /// A record about those is on its way.
    pub is_telling: bool,
    /// Someone copies forward.
    pub is_copying: bool,
    next_ticket: u64,
    next_item: u64,
    /// Woken when the lock is given back.
    pub wakes: Vec<Waker>,
}

/// One queue. It exists while it holds anything or anybody.
#[derive(Debug, Default)]
struct Lane {
    ready: BTreeMap<u64, Stored>,
    out: HashMap<u64, Out>,
    /// When which leases run out.
    expiry: BTreeSet<(Instant, u64)>,
    /// All items, with those on their way into the queue.
    items: usize,
    bytes: u64,
    consumers: usize,
    producers: usize,
    /// Who waits, by ticket.
    takers: BTreeMap<u64, Waker>,
    givers: BTreeMap<u64, Waker>,
    has_ended: bool,
}

#[derive(Clone, Debug)]
struct Stored {
    content: Content,
    len: usize,
    /// How often it was taken.
    attempts: u32,
}

/// Where an item's bytes are.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Memory(Item),
    /// In the journal, in a record of this length.
    Disk {
        position: Position,
        record_len: usize,
    },
}

impl Content {
    fn weight(&self) -> usize {
        match self {
            Content::Memory(item) => ITEM_BYTES + item.len(),
            Content::Disk { .. } => ITEM_BYTES,
        }
    }
}

/// An item that a consumer has.
#[derive(Debug)]
struct Out {
    stored: Stored,
    /// It comes back unless it is acknowledged.
    is_leased: bool,
    /// From when on it does; not while it is being sent.
    until: Option<Instant>,
}

/// Room in a queue for one item.
#[derive(Debug)]
pub(super) struct Claim {
    pub queue: Arc<str>,
    len: usize,
    weight: usize,
    disk: u64,
    /// In the hands of the producer until it is an item.
    carried: usize,
}

/// An item that was taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub number: u64,
    pub attempt: u32,
    pub content: Content,
    pub len: usize,
}

/// What a consumer gets.
#[derive(Debug)]
pub(super) enum Take {
    Item(Taken),
    /// The stream has ended.
    Ended,
    /// Nothing yet; a lease runs out then.
    Wait(Option<Instant>),
}

/// What a producer gets.
#[derive(Debug)]
pub(super) enum Give {
    Claim(Claim),
    /// Room is to be made on the disk: this item is in the way.
    Copy(u64, Arc<str>),
}

/// There are as many queues as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooManyQueues;

/// A lease that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoLease {
    /// The item is not in the queue, or never was.
    Unknown,
    /// The item is free again, or someone else's.
    Expired,
}

/// What a queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Depth {
    pub items: usize,
    pub bytes: u64,
    pub leased: usize,
    pub consumers: usize,
    pub held_back: usize,
}

/// Where an item is whose room is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Its producer's memory for it was counted.
    InHand,
    /// It is read when there is room.
    ToCome,
}

/// Which side of a queue someone is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Producer,
    Consumer,
}

impl State {
    pub fn new(bounds: Bounds) -> Self {
        State {
            bounds,
            lanes: HashMap::new(),
            stored: 0,
            carried_in: 0,
            carried_out: 0,
            carriers: BTreeMap::new(),
            starved: HashSet::new(),
            ledger: Ledger::default(),
            done: Vec::new(),
            is_telling: false,
            is_copying: false,
            next_ticket: 0,
            next_item: 1,
            wakes: Vec::new(),
        }
    }

    /// A producer or a consumer comes.
    pub fn join(&mut self, queue: &Arc<str>, side: Side) -> Result<(), TooManyQueues> {
        let is_full = self.lanes.len() >= self.bounds.queues && !self.lanes.contains_key(queue);
        if is_full {
            return Err(TooManyQueues);
        }
        let lane = self.lanes.entry(queue.clone()).or_default();
        match side {
            Side::Producer => lane.producers += 1,
            Side::Consumer => lane.consumers += 1,
        }
        Ok(())
    }

    /// It goes, and gives up its place in the line.
    pub fn leave(&mut self, queue: &Arc<str>, side: Side, ticket: Option<u64>) {
        let Some(lane) = self.lanes.get_mut(queue) else { return };
        match side {
            Side::Producer => lane.producers -= 1,
            Side::Consumer => lane.consumers -= 1,
        }
        self.leave_line(queue, side, ticket);
        self.forget_if_empty(queue);
    }

    fn leave_line(&mut self, queue: &Arc<str>, side: Side, ticket: Option<u64>) {
        let (Some(ticket), Some(lane)) = (ticket, self.lanes.get_mut(queue)) else { return };
        let line = match side {
            Side::Producer => &mut lane.givers,
            Side::Consumer => &mut lane.takers,
        };
        line.remove(&ticket);
        self.wakes.extend(line.values().next().cloned());
    }

    fn forget_if_empty(&mut self, queue: &Arc<str>) {
        if self.lanes.get(queue).is_some_and(|lane| lane.items == 0 && lane.consumers == 0 && lane.producers == 0) {
            self.lanes.remove(queue);
            self.starved.remove(queue);
        }
    }

    /// Room for an item of this length, for who is first in line. An item that is still `to_come` takes memory until then.
    pub fn poll_claim(
        &mut self,
        queue: &Arc<str>,
        (len, arrival): (usize, Arrival),
        ticket: &mut Option<u64>,
        waker: &Waker,
    ) -> Poll<Give> {
        let (weight, carried) = match (self.bounds.disk, arrival) {
            (None, _) => (ITEM_BYTES + len, 0),
            (Some(_), Arrival::ToCome) => (ITEM_BYTES, len),
            (Some(_), Arrival::InHand) => (ITEM_BYTES, 0),
        };
        let disk = (HEAD_LEN + record::ITEM_OVERHEAD + len) as u64;
        let Some(lane) = self.lanes.get_mut(queue) else { return Poll::Pending };
        let is_first = lane.givers.keys().next().copied() == *ticket;
        let fits_lane =
            lane.items == 0 || lane.items < self.bounds.items && lane.bytes + len as u64 <= self.bounds.bytes;
        let fits_memory = (self.stored == 0 || self.stored + weight <= self.bounds.stored)
            && (carried == 0 || self.carried_in == 0 || self.carried_in + carried <= self.bounds.carried);
        let fits_disk = self.bounds.disk.is_none_or(|bound| self.ledger.has_room(disk, bound));
        if is_first && fits_lane && fits_memory {
            if !fits_disk
                && !self.is_copying
                && let Some((number, of)) = self.bounds.disk.and_then(|bound| self.ledger.worth_copying(bound))
            {
                self.is_copying = true;
                return Poll::Ready(Give::Copy(number, of));
            }
            if fits_disk {
                lane.items += 1;
                lane.bytes += len as u64;
                self.stored += weight;
                self.carried_in += carried;
                let disk = if self.bounds.disk.is_some() { disk } else { 0 };
                self.ledger.claim(disk);
                self.leave_line(queue, Side::Producer, ticket.take());
                return Poll::Ready(Give::Claim(Claim { queue: queue.clone(), len, weight, disk, carried }));
            }
        }
        if is_first && fits_lane {
            self.starved.insert(queue.clone());
        }
        lane.givers.insert(*ticket.get_or_insert_with(|| next(&mut self.next_ticket)), waker.clone());
        Poll::Pending
    }

    /// A stream that had ended goes on.
    pub fn begin_anew(&mut self, queue: &Arc<str>) {
        if let Some(lane) = self.lanes.get_mut(queue) {
            lane.has_ended = false;
        }
    }

    /// The number of the next item. Items become ready in the order of their numbers.
    pub fn number(&mut self) -> u64 {
        next(&mut self.next_item)
    }

    /// The claim was not used.
    pub fn unclaim(&mut self, claim: &Claim) {
        self.ledger.unclaim(claim.disk);
        self.carried_in -= claim.carried;
        self.free(&claim.queue, claim.len, claim.weight);
    }

    /// The claim becomes an item, which begins an ended stream anew. The claim may have been made for a longer one.
    pub fn insert(&mut self, claim: &Claim, number: u64, content: Content, len: usize) {
        debug_assert!(len <= claim.len);
        self.ledger.unclaim(claim.disk);
        self.put_down_in(claim.carried);
        let Some(lane) = self.lanes.get_mut(&claim.queue) else { return };
        lane.has_ended = false;
        lane.bytes -= (claim.len - len) as u64;
        self.stored -= claim.weight - content.weight();
        if let Content::Disk { position, record_len } = content {
            self.ledger.live(number, &claim.queue, position, record_len);
        }
        self.put_back(&claim.queue, number, Stored { content, len, attempts: 0 });
        // The claim may have been for more than was needed.
        self.wake_starved();
    }

    /// An item that was found in the journal. It is there, whatever the bounds are now.
    pub fn restore(&mut self, queue: &Arc<str>, number: u64, position: Position, record_len: usize, len: usize) {
        self.next_item = self.next_item.max(number + 1);
        let lane = self.lanes.entry(queue.clone()).or_default();
        let content = Content::Disk { position, record_len };
        match lane.ready.contains_key(&number) {
            // Copied forward: the later record is its place.
            true => self.moved(queue, number, position),
            false => {
                lane.has_ended = false;
                lane.items += 1;
                lane.bytes += len as u64;
                self.stored += content.weight();
                lane.ready.insert(number, Stored { content, len, attempts: 0 });
                self.ledger.live(number, queue, position, record_len);
            }
        }
    }

    /// An item that the journal says is done.
    pub fn restore_done(&mut self, queue: &Arc<str>, number: u64) {
        let stored = self.lanes.get_mut(queue).and_then(|lane| lane.ready.remove(&number));
        if let Some(stored) = stored {
            self.done_with(queue, number, &stored);
        }
    }

    /// The stream ends: consumers that find nothing are told. Nothing to tell where there is nobody and nothing.
    pub fn end(&mut self, queue: &Arc<str>) {
        if let Some(lane) = self.lanes.get_mut(queue) {
            lane.has_ended = true;
            self.wakes.extend(lane.takers.values().next().cloned());
        }
    }

    /// The first ready item, for who is first in line.
    pub fn poll_take(
        &mut self,
        queue: &Arc<str>,
        lease: bool,
        now: Instant,
        ticket: &mut Option<u64>,
        waker: &Waker,
    ) -> Take {
        self.expire(queue, now);
        let Some(lane) = self.lanes.get_mut(queue) else { return Take::Ended };
        let is_first = lane.takers.keys().next().copied() == *ticket;
        if is_first && let Some((number, mut stored)) = lane.ready.pop_first() {
            stored.attempts = stored.attempts.saturating_add(1);
            let Stored { content, len, attempts: attempt } = stored.clone();
            lane.out.insert(number, Out { stored, is_leased: lease, until: None });
            self.leave_line(queue, Side::Consumer, ticket.take());
            return Take::Item(Taken { number, attempt, content, len });
        }
        if lane.ready.is_empty() && lane.has_ended {
            self.leave_line(queue, Side::Consumer, ticket.take());
            return Take::Ended;
        }
        let expiry = lane.expiry.first().map(|(at, _)| *at);
        lane.takers.insert(*ticket.get_or_insert_with(|| next(&mut self.next_ticket)), waker.clone());
        Take::Wait(expiry)
    }

    /// Gives back what was leased for too long.
    fn expire(&mut self, queue: &Arc<str>, now: Instant) {
        let Some(lane) = self.lanes.get_mut(queue) else { return };
        let mut expired = Vec::new();
        while let Some((at, number)) = lane.expiry.first().copied()
            && at <= now
        {
            lane.expiry.remove(&(at, number));
            expired.extend(lane.out.remove(&number).map(|out| (number, out.stored)));
        }
        for (number, stored) in expired {
            self.put_back(queue, number, stored);
        }
    }

    fn put_back(&mut self, queue: &Arc<str>, number: u64, stored: Stored) {
        let Some(lane) = self.lanes.get_mut(queue) else { return };
        lane.ready.insert(number, stored);
        self.wakes.extend(lane.takers.values().next().cloned());
    }

    /// The kernel has all of an item. With a lease it waits for the acknowledgement, which may have come already; else it is done.
    pub fn sent(&mut self, queue: &Arc<str>, number: u64, attempt: u32, until: Option<Instant>) {
        let Some(lane) = self.lanes.get_mut(queue) else { return };
        let Some(out) = lane.out.get_mut(&number).filter(|out| out.stored.attempts == attempt) else { return };
        match until {
            // Acknowledged before its last byte was sent: the journal is being told.
            Some(_) if !out.is_leased => {}
            Some(until) => {
                out.until = Some(until);
                lane.expiry.insert((until, number));
                // Whoever waits for leases to run out has one more to wait for.
                self.wakes.extend(lane.takers.values().next().cloned());
            }
            None => {
                self.finish(queue, number);
            }
        }
    }

    /// An item was not sent whole, or is given back: it is delivered again.
    pub fn give_back(&mut self, queue: &Arc<str>, number: u64, attempt: u32) {
        let Some(lane) = self.lanes.get_mut(queue) else { return };
        if lane.out.get(&number).is_none_or(|out| out.stored.attempts != attempt) {
            return;
        }
        if let Some(out) = lane.out.remove(&number) {
            out.until.map(|until| lane.expiry.remove(&(until, number)));
            self.put_back(queue, number, out.stored);
        }
    }

    /// The attempt that a consumer has this item by, if it has a lease that holds.
    pub fn leased(&mut self, queue: &Arc<str>, number: u64, now: Instant) -> Result<u32, NoLease> {
        self.expire(queue, now);
        let lane = self.lanes.get(queue).ok_or(NoLease::Unknown)?;
        match lane.out.get(&number) {
            Some(out) if out.is_leased => Ok(out.stored.attempts),
            Some(_) => Err(NoLease::Expired),
            None if lane.ready.contains_key(&number) => Err(NoLease::Expired),
            None => Err(NoLease::Unknown),
        }
    }

    /// A consumer is done with an item that it has: where there is a journal, it is to be told. Whether there was such an item.
    pub fn finish(&mut self, queue: &Arc<str>, number: u64) -> bool {
        let Some(lane) = self.lanes.get_mut(queue) else { return false };
        let out = lane.out.remove(&number).map(|out| (out.until, out.stored));
        // It may have been given back since the consumer said so.
        let found = out.or_else(|| lane.ready.remove(&number).map(|stored| (None, stored)));
        let Some((until, stored)) = found else { return false };
        until.map(|until| lane.expiry.remove(&(until, number)));
        self.done_with(queue, number, &stored);
        if self.bounds.disk.is_some() {
            self.done.push(number);
        }
        true
    }

    /// Takes an item from its consumer while the journal is told that it is done; it must be finished or given back.
    pub fn hold(&mut self, queue: &Arc<str>, number: u64) {
        let Some(lane) = self.lanes.get_mut(queue) else { return };
        if let Some(out) = lane.out.get_mut(&number) {
            out.is_leased = false;
            out.until.take().map(|until| lane.expiry.remove(&(until, number)));
        }
    }

    fn done_with(&mut self, queue: &Arc<str>, number: u64, stored: &Stored) {
        if let Content::Disk { position, .. } = stored.content {
            self.ledger.dead(number, position);
        }
        self.free(queue, stored.len, stored.content.weight());
    }

    /// Gives room back, and wakes who may use it.
    fn free(&mut self, queue: &Arc<str>, len: usize, weight: usize) {
        self.stored -= weight;
        if let Some(lane) = self.lanes.get_mut(queue) {
            lane.items -= 1;
            lane.bytes -= len as u64;
            self.wakes.extend(lane.givers.values().next().cloned());
        }
        self.wake_starved();
        self.forget_if_empty(queue);
    }

    /// Wakes the first producer of each queue that waits for what all share; who still has no room says so again.
    pub fn wake_starved(&mut self) {
        for queue in self.starved.drain() {
            let first = self.lanes.get(&queue).and_then(|lane| lane.givers.values().next());
            self.wakes.extend(first.cloned());
        }
    }

    /// Wakes the first producer of each queue, and the first consumer that waits to hold an item: the bounds have changed.
    pub fn wake_all_first(&mut self) {
        let first = self.lanes.values().filter_map(|lane| lane.givers.values().next());
        self.wakes.extend(first.chain(self.carriers.values().next()).cloned());
        self.starved.clear();
    }

    /// Whether the stream of this queue has ended.
    pub fn has_ended(&self, queue: &Arc<str>) -> bool {
        self.lanes.get(queue).is_some_and(|lane| lane.has_ended)
    }

    /// Where the item lies now, if it is still in the queue.
    pub fn content(&self, queue: &Arc<str>, number: u64) -> Option<Content> {
        let lane = self.lanes.get(queue)?;
        let stored = lane.ready.get(&number).or_else(|| lane.out.get(&number).map(|out| &out.stored))?;
        Some(stored.content.clone())
    }

    /// The item was copied.
    pub fn moved(&mut self, queue: &Arc<str>, number: u64, to: Position) {
        let Some(lane) = self.lanes.get_mut(queue) else { return };
        let out = lane.out.get_mut(&number).map(|out| &mut out.stored);
        let Some(stored) = lane.ready.get_mut(&number).or(out) else { return };
        if let Content::Disk { position, record_len } = &mut stored.content {
            self.ledger.dead(number, *position);
            self.ledger.live(number, queue, to, *record_len);
            *position = to;
        }
    }

    /// More bytes in the hands of a producer, if there is memory for them or nobody else has any.
    pub fn try_carry_in(&mut self, len: usize) -> bool {
        let fits = self.carried_in == 0 || self.carried_in + len <= self.bounds.carried;
        self.carried_in += if fits { len } else { 0 };
        fits
    }

    pub fn put_down_in(&mut self, len: usize) {
        self.carried_in -= len;
        if len > 0 {
            self.wake_starved();
        }
    }

    /// Memory for an item of the disk in the hands of a consumer, in the order in which they ask.
    pub fn poll_carry_out(&mut self, len: usize, ticket: &mut Option<u64>, waker: &Waker) -> Poll<()> {
        let is_first = self.carriers.keys().next().copied() == *ticket;
        if is_first && (self.carried_out == 0 || self.carried_out + len <= self.bounds.carried) {
            self.carried_out += len;
            self.leave_carriers(ticket.take());
            return Poll::Ready(());
        }
        self.carriers.insert(*ticket.get_or_insert_with(|| next(&mut self.next_ticket)), waker.clone());
        Poll::Pending
    }

    pub fn put_down_out(&mut self, len: usize) {
        self.carried_out -= len;
        self.wakes.extend(self.carriers.values().next().cloned());
    }

    pub fn leave_carriers(&mut self, ticket: Option<u64>) {
        let Some(ticket) = ticket else { return };
        self.carriers.remove(&ticket);
        self.wakes.extend(self.carriers.values().next().cloned());
    }

    /// What all queues hold, but for what is leased.
    pub fn all(&self) -> Depth {
        self.lanes.values().fold(Depth::default(), |all, lane| Depth {
            items: all.items + lane.ready.len() + lane.out.len(),
            bytes: all.bytes + lane.bytes,
            leased: 0,
            consumers: all.consumers + lane.consumers,
            held_back: all.held_back + lane.givers.len(),
        })
    }

    pub fn depth(&mut self, queue: &Arc<str>, now: Instant) -> Depth {
        self.expire(queue, now);
        self.lanes.get(queue).map_or_else(Depth::default, |lane| Depth {
            items: lane.ready.len() + lane.out.len(),
            bytes: lane.bytes,
            leased: lane.out.values().filter(|out| out.is_leased).count(),
            consumers: lane.consumers,
            held_back: lane.givers.len(),
        })
    }

    /// Whether nothing and nobody is left.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        let counts = [self.lanes.len(), self.stored, self.carried_in, self.carried_out, self.carriers.len()];
        counts == [0; 5] && self.starved.is_empty()
    }
}

fn next(counter: &mut u64) -> u64 {
    let value = *counter;
    *counter += 1;
    value
}
