//! The queues of a route, and the journal beside them: what producers and consumers on any thread do.
//!
//! Where there is a journal, an item is ready when its record is written, and an item is done when the record that says so is on its way:
//! a kill between the two delivers it once more. Such records are gathered: one is on its way at a time, and says all that is
//! done by then. An acknowledgement is answered when it is written.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::item::{Item, LeaseMark};
use super::record::{self, Record};
use super::state::{Arrival, Bounds, Claim, Content, Depth, Give, NoLease, Side, State, Take, Taken, TooManyQueues};
use crate::config::QueueConfig;
use crate::error::Error;
use crate::limits::Limits;
use crate::rt::Runtime;
use crate::rt::journal::{Journal, Position, Room, Settings, Written};
use crate::telemetry::metrics::Depths;

/// What outlives a change of the configuration.
pub(super) struct Core {
    state: Mutex<State>,
    journal: Option<Journal>,
    /// Makes leases that nobody can guess.
    marks: RandomState,
}

/// The state, and the lock on it; when it is given back, those are woken who have something to do now.
struct Locked<'a>(Option<MutexGuard<'a, State>>);

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.0.as_ref().expect("there until it is dropped")
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.0.as_mut().expect("there until it is dropped")
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let wakes = self.0.take().map(|mut state| mem::take(&mut state.wakes));
        wakes.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Core {
    /// The queues of this configuration, with what the journal has of them.
    pub fn open(config: &QueueConfig) -> Result<Arc<Self>, Error> {
        let mut state = State::new(Bounds::of(config));
        let journal = config.journal.as_deref().map(|dir| {
            let settings = Settings {
                kind: "queue",
                segment_len: (config.journal_bytes / 16).max(Limits::QUEUE_SEGMENT_LEN_LEAST),
                // Of items of any bound: that may grow while the journal is open.
                record_len: 2 * Limits::EVENT_LEN_MOST,
                waiting_len: config.waiting_len(),
                sync: config.journal_sync,
            };
            let mut replay = Replay { state: &mut state, places: Default::default() };
            Journal::open(dir, settings, |position, record| replay.record(position, record)).map_err(|error| {
                Error::operator(format!("the queue's journal {} can't be opened", dir.display())).because(error)
            })
        });
        let journal = journal.transpose()?;
        if journal.as_ref().is_some_and(|journal| !journal.damage().is_empty()) {
            tracing::error!("the queues have lost items, or that some are done, which are delivered again");
        }
        let core = Arc::new(Core { journal, state: Mutex::new(state), marks: RandomState::new() });
        core.drop_unneeded(&mut core.lock());
        Ok(core)
    }

    /// From now on, these bounds hold. What is over them stays.
    pub fn rebound(&self, config: &QueueConfig) {
        let mut state = self.lock();
        state.bounds = Bounds::of(config);
        state.wake_all_first();
    }

    /// Whether nothing and nobody is left.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> Locked<'_> {
        Locked(Some(self.state.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    pub fn depth(&self, queue: &Arc<str>) -> Depth {
        self.lock().depth(queue, now())
    }

    pub fn add_to(&self, depths: &mut Depths) {
        let Depth { items, bytes, held_back, .. } = self.lock().all();
        depths.queue_items += items as u64;
        depths.queue_bytes += bytes;
        depths.producers_held_back += held_back as u64;
    }

    /// A producer's or a consumer's place at a queue.
    pub fn join(self: &Arc<Self>, queue: &Arc<str>, side: Side) -> Result<Seat, TooManyQueues> {
        self.lock().join(queue, side)?;
        Ok(Seat { core: self.clone(), queue: queue.clone(), side, ticket: None })
    }

    /// Ends the stream of a queue, after all that was put into it.
    pub async fn end(self: &Arc<Self>, queue: &Arc<str>) -> io::Result<()> {
        if let Some(journal) = &self.journal {
            let room = journal.room(record::of_end(queue).len()).await?;
            return self.write_end(queue, room).await.map(drop);
        }
        self.lock().end(queue);
        Ok(())
    }

    fn write_end(self: &Arc<Self>, queue: &Arc<str>, room: Room) -> Written {
        let record = record::of_end(queue);
        let (core, queue, len) = (self.clone(), queue.clone(), record.len());
        let mut state = self.lock();
        state.ledger.begin();
        room.append_then(record, move |written| {
            let mut state = core.lock();
            state.ledger.landed(written, len);
            if written.is_ok() {
                state.end(&queue);
            }
            core.after(state);
        })
    }

    /// The mark of a lease: the item's number, and what only we can know of the attempt.
    fn mark(&self, number: u64, attempt: u32) -> LeaseMark {
        LeaseMark { id: format!("{number:x}-{:016x}", self.marks.hash_one((number, attempt))), attempt }
    }

    /// The item that the lease is on.
    fn number_of(&self, state: &mut State, queue: &Arc<str>, lease: &str) -> Result<(u64, u32), NoLease> {
        let number = lease.split_once('-').and_then(|(number, _)| u64::from_str_radix(number, 16).ok());
        let number = number.ok_or(NoLease::Unknown)?;
        let attempt = state.leased(queue, number, now())?;
        if self.mark(number, attempt).id == lease { Ok((number, attempt)) } else { Err(NoLease::Expired) }
    }

    /// Gives an item back before its lease runs out.
    pub fn release(&self, queue: &Arc<str>, lease: &str) -> Result<(), NoLease> {
        let mut state = self.lock();
        let (number, attempt) = self.number_of(&mut state, queue, lease)?;
        state.give_back(queue, number, attempt);
        Ok(())
    }

    /// Acknowledges what these leases are on; the answer to each. Those that can't be written down stay leased to nobody, and
    /// are delivered again.
    pub async fn acknowledge(
        self: &Arc<Self>,
        queue: &Arc<str>,
        leases: &[String],
    ) -> io::Result<Vec<Result<(), NoLease>>> {
        let Some(journal) = &self.journal else {
            let mut state = self.lock();
            let finish = |lease: &String| {
                let (number, _) = self.number_of(&mut state, queue, lease)?;
                state.finish(queue, number);
                Ok(())
            };
            return Ok(leases.iter().map(finish).collect());
        };
        let room = journal.room(1 + 8 * leases.len()).await?;
        let (answers, written) = self.write_acknowledged(queue, leases, room);
        if let Some(written) = written {
            written.await?;
        }
        Ok(answers)
    }

    fn write_acknowledged(
        self: &Arc<Self>,
        queue: &Arc<str>,
        leases: &[String],
        room: Room,
    ) -> (Vec<Result<(), NoLease>>, Option<Written>) {
        let mut held = Vec::new();
        let mut state = self.lock();
        let mut hold = |lease: &String| {
            let (number, attempt) = self.number_of(&mut state, queue, lease)?;
            state.hold(queue, number);
            held.push((number, attempt));
            Ok(())
        };
        let answers = leases.iter().map(&mut hold).collect();
        if held.is_empty() {
            return (answers, None);
        }
        let record = record::of_done(&held.iter().map(|(number, _)| *number).collect::<Vec<_>>());
        let (core, queue, len) = (self.clone(), queue.clone(), record.len());
        state.ledger.begin();
        let written = room.append_then(record, move |written| core.acknowledged(&queue, &held, written, len));
        (answers, Some(written))
    }

    fn acknowledged(
        self: &Arc<Self>,
        queue: &Arc<str>,
        held: &[(u64, u32)],
        written: Result<Position, &io::Error>,
        len: usize,
    ) {
        let mut state = self.lock();
        state.ledger.landed(written, len);
        match written {
            Ok(_) => {
                for (number, _) in held {
                    if state.finish(queue, *number) {
                        // The record that was just written says it.
                        state.done.pop();
                    }
                }
            }
            Err(_) => held.iter().for_each(|(number, attempt)| state.give_back(queue, *number, *attempt)),
        }
        self.after(state);
    }

    /// What is due whenever items are done: segments that nobody needs, and the record that says what is done.
    fn after(self: &Arc<Self>, mut state: Locked<'_>) {
        self.drop_unneeded(&mut state);
        let Some(journal) = &self.journal else { return };
        if state.is_telling || state.done.is_empty() {
            return;
        }
        state.is_telling = true;
        let count = state.done.len().min(Limits::QUEUE_DONE_AT_ONCE);
        let numbers: Vec<u64> = state.done.drain(..count).collect();
        let record = record::of_done(&numbers);
        let (core, len) = (self.clone(), record.len());
        state.ledger.begin();
        // Its bound is that there is one.
        drop(journal.append_beside(record, move |written| core.told(numbers, written, len)));
    }

    fn told(self: &Arc<Self>, numbers: Vec<u64>, written: Result<Position, &io::Error>, len: usize) {
        let mut state = self.lock();
        state.is_telling = false;
        state.ledger.landed(written, len);
        match written {
            Ok(_) => self.after(state),
            // With the next ones: an error at once would be the same error. What nobody needs makes room for them.
            Err(_) => {
                state.done.extend(numbers);
                self.drop_unneeded(&mut state);
            }
        }
    }

    /// Waits, on the calling thread, until the journal has what it was given, but not for a disk that is stuck.
    pub fn settle(&self) {
        match &self.journal {
            Some(journal) => journal.settle(Limits::JOURNAL_LAST_WRITE),
            None => {
                let items = self.lock().all().items;
                if items > 0 {
                    tracing::warn!(items, "queues without a journal end with the program, and their items with them");
                }
            }
        }
    }

    fn drop_unneeded(&self, state: &mut State) {
        let Some(journal) = &self.journal else { return };
        if let Some(position) = state.ledger.drop_unneeded() {
            journal.drop_before(position);
            state.wake_starved();
        }
    }

    fn write_copy(self: &Arc<Self>, number: u64, queue: &Arc<str>, record: Bytes, room: Room) -> Option<Written> {
        let mut state = self.lock();
        // That it is done is never written before its copy.
        state.content(queue, number)?;
        let (core, of, len) = (self.clone(), queue.clone(), record.len());
        state.ledger.begin();
        let written = room.append_then(record, move |written| {
            let mut state = core.lock();
            state.ledger.landed(written, len);
            match (written, state.content(&of, number)) {
                (Ok(position), Some(_)) => state.moved(&of, number, position),
                // That it is done may stand before the copy: then it has to stand behind it, too.
                (Ok(_), None) => state.done.push(number),
                (Err(_), _) => {}
            }
            core.after(state);
        });
        if state.has_ended(queue)
            && let Some(journal) = &self.journal
        {
            // The end stands behind the items of its stream.
            let (core, record) = (self.clone(), record::of_end(queue));
            let len = record.len();
            state.ledger.begin();
            drop(journal.append_beside(record, move |written| {
                let mut state = core.lock();
                state.ledger.landed(written, len);
                core.after(state);
            }));
        }
        Some(written)
    }
}

/// Whoever copies forward; when it stops, another may.
struct Copying(Arc<Core>);

impl Copying {
    /// Copies an item to the end of the journal, so that its old segment can be dropped.
    async fn forward(self, number: u64, queue: Arc<str>) -> io::Result<()> {
        let core = &self.0;
        let Some(journal) = &core.journal else { return Ok(()) };
        let Some(Content::Disk { position, .. }) = core.lock().content(&queue, number) else { return Ok(()) };
        let record = match journal.read(position).await {
            Err(error) if is_lost(&error) => {
                let mut state = core.lock();
                // It may be done with by now, and its segment be dropped.
                let was_there = state.finish(&queue, number);
                core.after(state);
                if was_there {
                    tracing::error!(queue = &*queue, %error, "an item is no longer in the journal as it was written; it is lost");
                }
                return Ok(());
            }
            record => record?,
        };
        let room = journal.room(record.len()).await?;
        let written = core.write_copy(number, &queue, record, room);
        match written {
            Some(written) => written.await.map(drop),
            None => Ok(()),
        }
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_copying = false;
        state.wake_starved();
    }
}

/// Reads the journal.
struct Replay<'a> {
    state: &'a mut State,
    /// The queue of each live item.
    places: std::collections::HashMap<u64, Arc<str>>,
}

impl Replay<'_> {
    fn record(&mut self, position: Position, bytes: &[u8]) {
        self.state.ledger.wrote(position, bytes.len());
        match record::parse(bytes) {
            Some(Record::Item { number, queue, item }) => {
                self.state.restore(&queue, number, position, bytes.len(), item.len());
                self.places.insert(number, queue);
            }
            Some(Record::Done(numbers)) => {
                for number in numbers {
                    if let Some(queue) = self.places.remove(&number) {
                        self.state.restore_done(&queue, number);
                    }
                }
            }
            Some(Record::End(queue)) => self.state.end(&queue),
            None => tracing::error!(
                ?position,
                "a record of a queue's journal means nothing to this version; it is passed over"
            ),
        }
    }
}

/// A producer's or a consumer's place at a queue.
pub(super) struct Seat {
    core: Arc<Core>,
    queue: Arc<str>,
    side: Side,
    ticket: Option<u64>,
}

impl Seat {
    /// Waits for room for an item of this length, with its media type. `copy` is given what makes room in the journal, which is
    /// best done to its end whoever stops waiting.
    pub async fn claim(
        &mut self,
        len: usize,
        arrival: Arrival,
        copy: impl AsyncFn(BoxFuture<'static, io::Result<()>>) -> io::Result<()>,
    ) -> io::Result<Claimed> {
        loop {
            let give = std::future::poll_fn(|cx| {
                self.core.lock().poll_claim(&self.queue, (len, arrival), &mut self.ticket, cx.waker())
            });
            match give.await {
                Give::Claim(claim) => return Ok(Claimed { core: self.core.clone(), claim: Some(claim) }),
                Give::Copy(number, queue) => {
                    let copying = Copying(self.core.clone());
                    copy(Box::pin(copying.forward(number, queue))).await?;
                }
            }
        }
    }

    /// Waits for an item; none at the end of the stream. `rearm` is told when a lease runs out that it might be waiting for, and is
    /// polled to be woken then.
    pub fn poll_take(
        &mut self,
        lease: bool,
        cx: &mut Context<'_>,
        rearm: impl FnOnce(Option<Instant>),
    ) -> Poll<Option<Delivery>> {
        let take = self.core.lock().poll_take(&self.queue, lease, now(), &mut self.ticket, cx.waker());
        match take {
            Take::Item(taken) => Poll::Ready(Some(Delivery {
                core: self.core.clone(),
                queue: self.queue.clone(),
                taken,
                is_leased: lease,
                is_sent: false,
            })),
            Take::Ended => Poll::Ready(None),
            Take::Wait(expiry) => {
                rearm(expiry);
                Poll::Pending
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.core.lock().leave(&self.queue, self.side, self.ticket);
    }
}

/// Makes room in the journal where it is waited for, and no longer than that.
pub(super) async fn in_place(copying: BoxFuture<'static, io::Result<()>>) -> io::Result<()> {
    copying.await
}

/// Room for one item; given back when it is dropped.
pub(super) struct Claimed {
    core: Arc<Core>,
    claim: Option<Claim>,
}

impl Claimed {
    /// Puts the item into the room that was made for it. It is in the queue then, and where there is a journal, in that.
    ///
    /// # Errors
    /// The journal can't be written; the item is not in the queue.
    pub async fn put(mut self, item: Item) -> io::Result<()> {
        let core = self.core.clone();
        let Some(journal) = &core.journal else {
            let Some(claim) = self.claim.take() else { return Ok(()) };
            let mut state = core.lock();
            let (number, len) = (state.number(), item.len());
            state.insert(&claim, number, Content::Memory(item), len);
            return Ok(());
        };
        let room = journal.room(record::ITEM_OVERHEAD + item.len()).await?;
        self.write(item, room).await.map(drop)
    }

    /// Numbers and records follow each other in the same order, because the lock is held over both.
    fn write(mut self, item: Item, room: Room) -> Written {
        let core = self.core.clone();
        let queue = self.claim.as_ref().map_or_else(|| Arc::from(""), |claim| claim.queue.clone());
        let (record, len) = (record::of_item(&queue, &item), item.len());
        let record_len = record.len();
        let mut state = core.lock();
        let number = state.number();
        // Before it is written, so that an end that is copied forward meanwhile does not come to stand behind it.
        state.begin_anew(&queue);
        state.ledger.begin();
        room.append_then(record.numbered(number), move |written| {
            let mut state = self.core.lock();
            state.ledger.landed(written, record_len);
            // An item that is not written gives its room back, by the claim that is dropped. The last segment may have waited for it
            // to be dropped, and a full disk for that.
            let Ok(position) = written else { return self.core.after(state) };
            let Some(claim) = self.claim.take() else { return };
            state.insert(&claim, number, Content::Disk { position, record_len }, len);
            self.core.after(state);
        })
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            self.core.lock().unclaim(&claim);
        }
    }
}

/// An item in the hands of a consumer. Dropped before it is sent, it is delivered again.
pub(super) struct Delivery {
    core: Arc<Core>,
    queue: Arc<str>,
    taken: Taken,
    is_leased: bool,
    is_sent: bool,
}

impl Delivery {
    /// The lease and the attempt that the consumer is told.
    pub fn mark(&self) -> LeaseMark {
        self.core.mark(self.taken.number, self.taken.attempt)
    }

    /// The item, and the memory that it takes where it has to be read; none when it is not to be had any more. Then it is given up, and
    /// that is logged: it would be in the way of all others for ever.
    ///
    /// # Errors
    /// It can't be read now; it is delivered again.
    pub async fn item(&mut self) -> io::Result<Option<(Item, Option<Carry>)>> {
        if let Content::Memory(item) = &self.taken.content {
            return Ok(Some((item.clone(), None)));
        }
        let mut carry = Carry { core: self.core.clone(), ticket: None, held: 0 };
        carry.take(self.taken.len).await;
        match self.read().await {
            Ok(item) => Ok(Some((item, Some(carry)))),
            Err(error) if is_lost(&error) => {
                tracing::error!(queue = &*self.queue, %error, "an item is no longer in the journal as it was written; it is lost");
                self.done();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn read(&self) -> io::Result<Item> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let journal = self.core.journal.as_ref().ok_or_else(gone)?;
        let mut content = self.taken.content.clone();
        loop {
            let Content::Disk { position, .. } = content else { return Err(gone()) };
            match journal.read(position).await {
                Ok(bytes) => match record::parse(&bytes) {
                    Some(Record::Item { item, .. }) => return Ok(item),
                    _ => return Err(io::ErrorKind::InvalidData.into()),
                },
                // It may have been copied forward meanwhile.
                Err(error) => {
                    let now = self.core.lock().content(&self.queue, self.taken.number);
                    match now {
                        Some(Content::Disk { position: moved, record_len }) if moved != position => {
                            content = Content::Disk { position: moved, record_len };
                        }
                        _ => return Err(error),
                    }
                }
            }
        }
    }

    /// The kernel has all of it. With a lease, the consumer has so long to acknowledge it.
    pub fn sent(mut self, lease: Duration) {
        self.is_sent = true;
        if !self.is_leased {
            return self.done();
        }
        // Beyond the clock's end is never.
        let until = now().checked_add(lease);
        let Taken { number, attempt, .. } = self.taken;
        until.into_iter().for_each(|until| self.core.lock().sent(&self.queue, number, attempt, Some(until)));
    }

    fn done(&mut self) {
        self.is_sent = true;
        let mut state = self.core.lock();
        state.sent(&self.queue, self.taken.number, self.taken.attempt, None);
        self.core.after(state);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.is_sent {
            self.core.lock().give_back(&self.queue, self.taken.number, self.taken.attempt);
        }
    }
}

/// Memory for an item of the disk that a consumer has.
pub(super) struct Carry {
    core: Arc<Core>,
    ticket: Option<u64>,
    held: usize,
}

impl Carry {
    async fn take(&mut self, len: usize) {
        std::future::poll_fn(|cx| self.core.lock().poll_carry_out(len, &mut self.ticket, cx.waker())).await;
        self.held = len;
    }
}

impl Drop for Carry {
    fn drop(&mut self) {
        let mut state = self.core.lock();
        state.leave_carriers(self.ticket);
        if self.held > 0 {
            state.put_down_out(self.held);
        }
    }
}

/// Memory for what a producer has of an item that is not whole.
pub(super) struct Hand {
    core: Arc<Core>,
    held: usize,
}

impl Hand {
    pub fn empty(core: &Arc<Core>) -> Self {
        Hand { core: core.clone(), held: 0 }
    }

    /// Holds so many bytes, if there is memory for them. It never waits: who waits holds nothing.
    pub fn hold(&mut self, len: usize) -> bool {
        let mut state = self.core.lock();
        if len <= self.held {
            state.put_down_in(self.held - len);
        } else if !state.try_carry_in(len - self.held) {
            return false;
        }
        self.held = len;
        true
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.core.lock().put_down_in(self.held);
    }
}

/// Whether what was read will never be more than that.
fn is_lost(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// The worker's time, which tests can set; off a worker the clock's.
pub(super) fn now() -> Instant {
    Runtime::try_current().map_or_else(Instant::now, |runtime| runtime.now())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;
    use crate::rt::testing::block_on;

    fn put(seat: &mut Seat, item: Item) {
        let claimed = block_on(seat.claim(item.len(), Arrival::InHand, in_place)).unwrap();
        block_on(claimed.put(item)).unwrap();
    }

    /// The first item, which is there or comes.
    fn take(seat: &mut Seat, lease: bool) -> Delivery {
        block_on(std::future::poll_fn(|cx| seat.poll_take(lease, cx, |_| ()))).expect("an item")
    }

    #[test]
    fn what_is_acknowledged_is_not_copied_behind_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Some(dir.path().join("journal"));
        let config = QueueConfig { journal, journal_bytes: 1 << 20, item_len: 10_000, ..QueueConfig::default() };
        let core = Core::open(&config).unwrap();
        let name: Arc<str> = Arc::from("work");
        let item = || Item::new("text/plain", "once").unwrap();
        let mut seat = core.join(&name, Side::Producer).unwrap();
        put(&mut seat, item());
        drop(seat);
        let mut seat = core.join(&name, Side::Consumer).unwrap();
        let delivery = take(&mut seat, true);
        let (mark, number) = (delivery.mark(), delivery.taken.number);
        delivery.sent(Duration::from_secs(3600));
        let journal = core.journal.clone().unwrap();
        // The disk takes its time.
        let (go, wait) = std::sync::mpsc::channel::<()>();
        drop(journal.append_beside(record::of_end("other"), move |_| {
            let _ = wait.recv();
        }));
        let room = block_on(journal.room(100)).unwrap();
        let (answers, written) = core.write_acknowledged(&name, &[mark.id], room);
        assert!(answers[0].is_ok());
        let bytes = record::of_item(&name, &item()).numbered(number);
        let room = block_on(journal.room(bytes.len())).unwrap();
        let copied = core.write_copy(number, &name, bytes, room);
        go.send(()).unwrap();
        block_on(written.unwrap()).unwrap();
        copied.into_iter().for_each(|copied| {
            block_on(copied).unwrap();
        });
        journal.settle(Duration::from_secs(3));
        drop((seat, journal, core));
        let again = Core::open(&config).unwrap();
        assert_eq!(again.depth(&name).items, 0, "an acknowledged item is back");
    }

    #[test]
    fn what_makes_room_is_done_to_its_end_when_its_producer_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Some(dir.path().join("journal"));
        let config = QueueConfig { journal, journal_bytes: 1 << 20, item_len: 10_000, ..QueueConfig::default() };
        let core = Core::open(&config).unwrap();
        let (stays, goes): (Arc<str>, Arc<str>) = (Arc::from("stays"), Arc::from("goes"));
        let item = || Item::new("text/plain", vec![b'x'; 9000]).unwrap();
        let copies = RefCell::new(Vec::new());
        let copy = async |copying: BoxFuture<'static, io::Result<()>>| {
            copies.borrow_mut().push(copying);
            std::future::pending().await
        };
        let claim = |queue: &Arc<str>| {
            let mut seat = core.join(queue, Side::Producer).unwrap();
            // Whoever does not wait is polled once.
            let claimed = pin!(seat.claim(item().len(), Arrival::InHand, copy)).now_or_never()?;
            block_on(claimed.unwrap().put(item())).ok()
        };
        claim(&stays).unwrap();
        while claim(&goes).is_some() {
            let mut seat = core.join(&goes, Side::Consumer).unwrap();
            let delivery = take(&mut seat, false);
            delivery.sent(Duration::ZERO);
            core.settle();
        }
        assert!(claim(&goes).is_none(), "room without a copy");
        assert_eq!(copies.borrow().len(), 1, "one at a time");
        let copying = copies.borrow_mut().pop().unwrap();
        block_on(copying).unwrap();
        claim(&goes).expect("room");
    }

    #[test]
    fn what_is_acknowledged_while_it_is_sent_does_not_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let config = QueueConfig { journal: Some(dir.path().join("journal")), ..QueueConfig::default() };
        let core = Core::open(&config).unwrap();
        let name: Arc<str> = Arc::from("work");
        let item = Item::new("text/plain", "once").unwrap();
        let mut seat = core.join(&name, Side::Producer).unwrap();
        put(&mut seat, item);
        let mut consumer = core.join(&name, Side::Consumer).unwrap();
        let delivery = take(&mut consumer, true);
        let journal = core.journal.clone().unwrap();
        // The disk takes its time.
        let (go, wait) = std::sync::mpsc::channel::<()>();
        drop(journal.append_beside(record::of_end("other"), move |_| {
            let _ = wait.recv();
        }));
        let room = block_on(journal.room(100)).unwrap();
        let (_, written) = core.write_acknowledged(&name, &[delivery.mark().id], room);
        delivery.sent(Duration::ZERO);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(consumer.poll_take(true, &mut cx, |_| ()).is_pending(), "delivered again");
        go.send(()).unwrap();
        block_on(written.unwrap()).unwrap();
        assert_eq!(core.depth(&name).items, 0);
    }
}
