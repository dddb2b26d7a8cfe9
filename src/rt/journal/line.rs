//! What waits for a journal's thread, and who waits for room among it.
//!
//! Room is a count of bytes, given to those who ask in the order in which they asked. Who stops waiting leaves the line, and wakes the
//! one behind, who may be first now.

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::{Commit, Position};

/// A record on its way to the file.
pub(super) struct Appending {
    pub record: Bytes,
    /// The room that it has, in bytes.
    pub held: usize,
    pub commit: Commit,
    pub promise: Promise<Position>,
}

impl Appending {
    pub fn new(record: Bytes, held: usize, commit: Commit) -> (Self, Outcome<Position>) {
        let (promise, outcome) = promise();
        (Appending { record, held, commit, promise }, outcome)
    }
}

/// A record that is asked for.
pub(super) struct Reading {
    pub position: Position,
    pub promise: Promise<Bytes>,
}

/// What the thread is to do, in this order.
#[derive(Default)]
pub(super) struct Work {
    /// Nothing before this position is needed any more.
    pub drop_before: Option<Position>,
    pub reads: Vec<Reading>,
    pub appends: Vec<Appending>,
}

/// The work that waits, and the room for it.
pub(super) struct Line {
    bound: usize,
    state: Mutex<State>,
    changed: Condvar,
    /// The thread has done all that there was.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    work: Work,
    /// Bytes that are given away.
    held: usize,
    waiting: BTreeMap<u64, Waker>,
    next: u64,
    /// The thread is at work.
    is_busy: bool,
    /// There is no handle any more.
    closed: bool,
    /// There is no thread any more.
    ended: bool,
}

impl Line {
    pub fn new(bound: usize) -> Self {
        Line { bound, state: Mutex::default(), changed: Condvar::new(), idle: Condvar::new() }
    }

    /// Waits for room, and takes it.
    pub async fn enter(&self, len: usize) -> io::Result<()> {
        let mut place = Place { line: self, number: None };
        std::future::poll_fn(|cx| place.poll(len, cx)).await
    }

    /// Gives room back.
    pub fn leave(&self, len: usize) {
        let mut state = self.lock();
        state.held -= len;
        let first = state.first_in_line();
        drop(state);
        first.into_iter().for_each(Waker::wake);
    }

    /// Puts a record behind the others; it comes back when the thread has died.
    pub fn append(&self, appending: Appending) -> Option<Appending> {
        self.push(appending, |work, appending| work.appends.push(appending))
    }

    /// A read for a thread that has died is dropped, and so its promise is broken.
    pub fn read(&self, reading: Reading) {
        drop(self.push(reading, |work, reading| work.reads.push(reading)));
    }

    pub fn drop_before(&self, position: Position) {
        self.push(position, |work, position| work.drop_before = work.drop_before.max(Some(position)));
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// The thread's: all that waits, as soon as there is something; none when nothing can come any more.
    pub fn take(&self) -> Option<Work> {
        let mut state = self.lock();
        loop {
            state.is_busy = !state.work.is_empty();
            if state.is_busy {
                return Some(mem::take(&mut state.work));
            }
            self.idle.notify_all();
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until there is nothing to do, or no one to do it, but no longer than this.
    pub fn wait_idle(&self, patience: Duration) {
        let is_at_work = |state: &mut State| !state.ended && (state.is_busy || !state.work.is_empty());
        drop(self.idle.wait_timeout_while(self.lock(), patience, is_at_work));
    }

    /// Adds to the work, or gives the thing back when there is nobody to do it.
    fn push<T>(&self, thing: T, add: impl FnOnce(&mut Work, T)) -> Option<T> {
        let mut state = self.lock();
        if state.ended {
            return Some(thing);
        }
        let was_empty = state.work.is_empty();
        add(&mut state.work, thing);
        drop(state);
        if was_empty {
            self.changed.notify_one();
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn first_in_line(&self) -> Option<Waker> {
        self.waiting.values().next().cloned()
    }
}

impl Work {
    fn is_empty(&self) -> bool {
        self.reads.is_empty() && self.appends.is_empty() && self.drop_before.is_none()
    }
}

/// A place among those who wait for room.
struct Place<'a> {
    line: &'a Line,
    number: Option<u64>,
}

impl Place<'_> {
    fn poll(&mut self, len: usize, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.line.lock();
        if state.ended {
            return Poll::Ready(Err(ended()));
        }
        let is_first = state.waiting.keys().next().copied() == self.number;
        if is_first && (state.held == 0 || state.held + len <= self.line.bound) {
            state.held += len;
            // With the place, `drop` wakes the one behind, for whom there may be room too.
            return Poll::Ready(Ok(()));
        }
        let number = match self.number {
            Some(number) => number,
            None => {
                state.next += 1;
                *self.number.insert(state.next)
            }
        };
        state.waiting.insert(number, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut state = self.line.lock();
        state.waiting.remove(&number);
        let first = state.first_in_line();
        drop(state);
        first.into_iter().for_each(Waker::wake);
    }
}

/// Lets nobody wait for a thread that has ended, also when it panicked.
pub(super) struct Ending<'a>(pub &'a Line);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.ended = true;
        self.0.idle.notify_all();
        let left = mem::take(&mut state.work);
        let waiting = mem::take(&mut state.waiting);
        drop(state);
        drop(left);
        waiting.into_values().for_each(Waker::wake);
    }
}

/// A result that is to come, and who it is for.
pub(super) fn promise<T>() -> (Promise<T>, Outcome<T>) {
    let outcome = Arc::new(Mutex::new(Settling { result: None, waker: None }));
    (Promise(Some(outcome.clone())), Outcome(outcome))
}

struct Settling<T> {
    result: Option<io::Result<T>>,
    waker: Option<Waker>,
}

/// The thread's side. Dropped, it is broken, and that is told.
pub(super) struct Promise<T>(Option<Arc<Mutex<Settling<T>>>>);

impl<T> Promise<T> {
    pub fn settle(mut self, result: io::Result<T>) {
        self.tell(result);
    }

    fn tell(&mut self, result: io::Result<T>) {
        let Some(outcome) = self.0.take() else { return };
        let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.result = Some(result);
        let waker = outcome.waker.take();
        drop(outcome);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        self.tell(Err(ended()));
    }
}

/// The caller's side.
pub(super) struct Outcome<T>(Arc<Mutex<Settling<T>>>);

impl<T> Future for Outcome<T> {
    type Output = io::Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut outcome = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                outcome.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the journal's thread has ended")
}
