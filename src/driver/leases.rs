//! A fixed number of things that are lent out, and the tasks that wait for one: what all pools have in common.
//!
//! First come, first served, and one at a time: what comes back wakes only the first who waits, and whoever is served or leaves
//! wakes the next. Waking all of them was rejected: with many waiters each return would run every one for nothing.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// How many of a pool's things are lent, and who waits.
#[derive(Debug)]
pub(super) struct Leases {
    total: usize,
    in_use: Cell<usize>,
    waiters: RefCell<Waiters>,
}

/// In order of arrival.
#[derive(Debug, Default)]
struct Waiters {
    queue: BTreeMap<u64, Waker>,
    next_ticket: u64,
}

impl Waiters {
    fn wake_first(&self) {
        if let Some(waker) = self.queue.values().next() {
            waker.wake_by_ref();
        }
    }
}

impl Leases {
    /// None lent yet.
    pub fn new(total: usize) -> Rc<Self> {
        Rc::new(Leases { total, in_use: Cell::new(0), waiters: RefCell::default() })
    }

    /// How many there are.
    pub fn total(&self) -> usize {
        self.total
    }

    /// How many are lent now.
    pub fn in_use(&self) -> usize {
        self.in_use.get()
    }

    /// Whether one is free that nobody waits for.
    pub fn is_free_for_a_newcomer(&self) -> bool {
        self.is_free() && self.waiters.borrow().queue.is_empty()
    }

    /// Whether one is free.
    pub fn is_free(&self) -> bool {
        self.in_use.get() < self.total
    }

    /// Counts one more as lent.
    pub fn lend(&self) {
        self.in_use.set(self.in_use.get() + 1);
    }

    /// Counts one as returned, which is in its place again, and lets the first who waits try.
    pub fn take_back(&self) {
        self.in_use.set(self.in_use.get() - 1);
        self.waiters.borrow().wake_first();
    }

    /// Waits, first come first served, until one is free. It is not reserved.
    pub fn available(self: &Rc<Self>) -> Available {
        Available { leases: self.clone(), ticket: None }
    }
}

/// Waits for something free; made by a pool.
#[derive(Debug)]
pub struct Available {
    leases: Rc<Leases>,
    ticket: Option<u64>,
}

impl Future for Available {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let leases = self.leases.clone();
        let mut waiters = leases.waiters.borrow_mut();
        let first = waiters.queue.keys().next().copied();
        if (first.is_none() || first == self.ticket) && leases.is_free() {
            if let Some(ticket) = self.ticket.take() {
                waiters.queue.remove(&ticket);
                // Several may have come back while only the first waiter was told.
                waiters.wake_first();
            }
            return Poll::Ready(());
        }
        let ticket = self.ticket.unwrap_or(waiters.next_ticket);
        if self.ticket.is_none() {
            waiters.next_ticket += 1;
            self.ticket = Some(ticket);
        }
        waiters.queue.insert(ticket, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Available {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let mut waiters = self.leases.waiters.borrow_mut();
            waiters.queue.remove(&ticket);
            // It may have been told of something that it will not take.
            waiters.wake_first();
        }
    }
}
