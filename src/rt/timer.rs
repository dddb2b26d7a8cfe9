//! Deadlines, cheap to move later.
//!
//! A connection moves its deadline with every request and almost none is ever reached. So a deadline that moves later is only
//! noted; the ordered tree is touched when the old time comes, or when a deadline moves earlier. An entry is removed with its
//! timer, so the tree never holds more than there are timers. A hashed wheel was rejected: it is no faster once moving is
//! free, and coarser.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use super::Runtime;
use crate::driver::slot::Token;

/// All timers of a worker.
#[derive(Default)]
pub struct Timers {
    entries: Slab<Entry>,
    armed: BTreeSet<(Instant, usize)>,
}

struct Entry {
    deadline: Option<Instant>,
    armed_at: Option<Instant>,
    expired: bool,
    waker: Option<Waker>,
    token: Option<Token>,
}

impl Timers {
    fn insert(&mut self) -> usize {
        self.entries.insert(Entry { deadline: None, armed_at: None, expired: false, waker: None, token: None })
    }

    fn remove(&mut self, key: usize) {
        if let Some(at) = self.entries.remove(key).armed_at {
            self.armed.remove(&(at, key));
        }
    }

    fn set(&mut self, key: usize, deadline: Option<Instant>) {
        let entry = &mut self.entries[key];
        entry.deadline = deadline;
        entry.expired = false;
        let Some(deadline) = deadline else { return };
        if entry.armed_at.is_none_or(|at| deadline < at) {
            self.arm(key, deadline);
        }
    }

    fn arm(&mut self, key: usize, at: Instant) {
        if let Some(old) = self.entries[key].armed_at.replace(at) {
            self.armed.remove(&(old, key));
        }
        self.armed.insert((at, key));
    }

    /// When the next timer has to be looked at.
    pub(super) fn next(&self) -> Option<Instant> {
        self.armed.first().map(|(at, _)| *at)
    }

    /// Tells the owners of all timers whose deadline has passed; those that belong to the worker itself are added to `tokens`.
    pub(super) fn fire(&mut self, now: Instant, tokens: &mut Vec<Token>) {
        while let Some(&(at, key)) = self.armed.first() {
            if at > now {
                break;
            }
            self.armed.remove(&(at, key));
            let entry = &mut self.entries[key];
            entry.armed_at = None;
            match entry.deadline {
                Some(deadline) if deadline > now => self.arm(key, deadline),
                Some(_) => {
                    entry.expired = true;
                    tokens.extend(entry.token);
                    if let Some(waker) = entry.waker.take() {
                        waker.wake();
                    }
                }
                None => {}
            }
        }
    }

    /// How many timers there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

/// One deadline, which can be moved; none at first.
pub struct Timer {
    runtime: Rc<Runtime>,
    key: usize,
}

/// The deadline passed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired;

impl Timer {
    /// A timer without a deadline.
    pub fn new(runtime: &Rc<Runtime>) -> Self {
        let key = runtime.timers().insert();
        Timer { runtime: runtime.clone(), key }
    }

    /// Moves the deadline; `None` takes it away.
    pub fn set(&self, deadline: Option<Instant>) {
        self.runtime.timers().set(self.key, deadline);
    }

    /// Moves the deadline to this long from now.
    pub fn set_after(&self, duration: Duration) {
        // Beyond the clock's end is never.
        self.set(self.runtime.now().checked_add(duration));
    }

    /// The deadline, if there is one.
    pub fn deadline(&self) -> Option<Instant> {
        self.runtime.timers().entries[self.key].deadline
    }

    /// Makes the worker's loop, with this token, the one that is told; `None` makes it the task that polls.
    pub(crate) fn tell_worker(&self, token: Option<Token>) {
        let mut timers = self.runtime.timers();
        let entry = &mut timers.entries[self.key];
        entry.token = token;
        entry.waker = None;
    }

    /// Waits for the deadline to pass; for ever if there is none.
    pub fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<Expired> {
        let mut timers = self.runtime.timers();
        let entry = &mut timers.entries[self.key];
        if entry.expired {
            return Poll::Ready(Expired);
        }
        match &mut entry.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => entry.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// The future's output, or [`Expired`] when the deadline passes first. The deadline may move meanwhile.
    ///
    /// # Errors
    /// [`Expired`].
    pub async fn race<F: Future>(&self, future: F) -> Result<F::Output, Expired> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll_expired(cx).map(Err),
        })
        .await
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.runtime.timers().remove(self.key);
    }
}

/// Waits this long on the worker's clock.
pub async fn sleep(duration: Duration) {
    let timer = Timer::new(&Runtime::current());
    timer.set_after(duration);
    std::future::poll_fn(|cx| timer.poll_expired(cx)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(timers: &mut Timers, now: Instant) -> Vec<u64> {
        let mut tokens = Vec::new();
        timers.fire(now, &mut tokens);
        tokens.into_iter().map(|t| t.0).collect()
    }

    #[test]
    fn a_deadline_that_moved_later_fires_once_at_its_new_time() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        let after = |s| start + Duration::from_secs(s);
        let key = timers.insert();
        timers.entries[key].token = Some(Token(1));
        timers.set(key, Some(after(5)));
        timers.set(key, Some(after(9)));
        assert_eq!(timers.next(), Some(after(5)), "moving later does not touch the tree");
        assert!(fired(&mut timers, after(6)).is_empty());
        assert_eq!(timers.next(), Some(after(9)));
        assert_eq!(fired(&mut timers, after(9)), [1]);
        assert_eq!((fired(&mut timers, after(99)), timers.next()), (vec![], None));
    }

    #[test]
    fn a_deadline_that_moved_earlier_is_kept() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        let key = timers.insert();
        timers.entries[key].token = Some(Token(1));
        timers.set(key, Some(start + Duration::from_secs(9)));
        timers.set(key, Some(start + Duration::from_secs(2)));
        assert_eq!(fired(&mut timers, start + Duration::from_secs(2)), [1]);
    }

    #[test]
    fn a_timer_that_is_dropped_or_disarmed_never_fires_and_leaves_nothing() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        let (gone, off) = (timers.insert(), timers.insert());
        for key in [gone, off] {
            timers.entries[key].token = Some(Token(key as u64));
            timers.set(key, Some(start));
        }
        timers.remove(gone);
        timers.set(off, None);
        assert!(fired(&mut timers, start + Duration::from_secs(1)).is_empty());
        timers.remove(off);
        assert_eq!((timers.len(), timers.armed.len()), (0, 0));
    }
}
