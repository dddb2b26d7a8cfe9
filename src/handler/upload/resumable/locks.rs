//! Who may go on with an upload: one request at a time, and always the one that came last (U6).
//!
//! A client whose connection broke comes back before the server has noticed; so whoever holds the upload is asked to stop, writes
//! down what it has, and gives it up. The locks are shared by the workers, because the client may come back to another one. A
//! request of another process can't be asked; it shows by the lock on the file (flock(2)). One table serves the process: the
//! numbers of uploads are random, and requests to the routes of an earlier configuration go on beside those of the present one.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The uploads that are held.
#[derive(Debug, Default)]
pub(in super::super) struct Locks {
    held: Mutex<HashMap<String, Holder>>,
    /// What the next one who waits is known by.
    next: AtomicU64,
}

#[derive(Debug)]
struct Holder {
    stop: Arc<Stop>,
    /// Those who wait now.
    waiting: BTreeMap<u64, Waker>,
}

/// What a holder is told.
#[derive(Debug, Default)]
struct Stop {
    is_asked: AtomicBool,
    holder: Mutex<Option<Waker>>,
}

/// An upload that is held by this request; given up when it is dropped.
#[derive(Debug)]
pub(in super::super) struct Lock {
    locks: Arc<Locks>,
    id: String,
    stop: Arc<Stop>,
}

/// Waits for an upload; dropped, it waits no more and leaves nothing behind.
pub(in super::super) struct Hold {
    locks: Arc<Locks>,
    id: String,
    number: u64,
}

impl Locks {
    /// Those of this process.
    pub fn of_process() -> Arc<Self> {
        static LOCKS: LazyLock<Arc<Locks>> = LazyLock::new(Arc::default);
        LOCKS.clone()
    }

    /// Holds the upload, as soon as whoever has it has stopped.
    pub fn hold(self: &Arc<Self>, id: &str) -> Hold {
        // The number tells those who wait apart, and nothing else depends on it.
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Hold { locks: self.clone(), id: id.to_owned(), number }
    }
}

impl Future for Hold {
    type Output = Lock;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Lock> {
        let mut held = lock(&self.locks.held);
        if let Some(holder) = held.get_mut(&self.id) {
            holder.waiting.insert(self.number, cx.waker().clone());
            holder.stop.ask();
            return Poll::Pending;
        }
        let stop = Arc::new(Stop::default());
        held.insert(self.id.clone(), Holder { stop: stop.clone(), waiting: BTreeMap::new() });
        Poll::Ready(Lock { locks: self.locks.clone(), id: self.id.clone(), stop })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let waker = lock(&self.locks.held).get_mut(&self.id).and_then(|holder| holder.waiting.remove(&self.number));
        // Outside of the lock: the last waker of a task may free it.
        drop(waker);
    }
}

impl Lock {
    /// Whether another request wants the upload.
    pub fn poll_asked_to_stop(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stop.is_asked.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        *lock(&self.stop.holder) = Some(cx.waker().clone());
        // It may have been asked between the two.
        if self.stop.is_asked.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Stop {
    fn ask(&self) {
        self.is_asked.store(true, Ordering::Release);
        if let Some(waker) = lock(&self.holder).take() {
            waker.wake();
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let holder = lock(&self.locks.held).remove(&self.id);
        holder.into_iter().flat_map(|holder| holder.waiting.into_values()).for_each(Waker::wake);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::{Pin, pin};

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[track_caller]
    fn ready<T>(poll: Poll<T>) -> T {
        match poll {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    fn u6_the_one_that_comes_back_gets_the_upload_as_soon_as_the_holder_has_stopped() {
        let locks = Arc::new(Locks::default());
        let mut cx = Context::from_waker(Waker::noop());
        let first = ready(poll(pin!(locks.hold("a"))));
        let other = ready(poll(pin!(locks.hold("b"))));
        assert!(first.poll_asked_to_stop(&mut cx).is_pending());

        let mut second = pin!(locks.hold("a"));
        assert!(poll(second.as_mut()).is_pending());
        assert!(first.poll_asked_to_stop(&mut cx).is_ready());
        assert!(other.poll_asked_to_stop(&mut cx).is_pending(), "another upload is not concerned");
        drop(first);
        let second = ready(poll(second));
        assert!(second.poll_asked_to_stop(&mut cx).is_pending(), "a new holder has been asked nothing");
        drop((second, other));
        assert!(lock(&locks.held).is_empty());
    }

    /// Promise 6: clients that ask for an upload which is not let go, and leave, cost nothing.
    #[test]
    fn promise6_whoever_waits_no_more_is_forgotten() {
        let locks = Arc::new(Locks::default());
        let first = ready(poll(pin!(locks.hold("a"))));
        let mut stays = pin!(locks.hold("a"));
        assert!(poll(stays.as_mut()).is_pending());
        for _ in 0..100 {
            let mut leaves = pin!(locks.hold("a"));
            assert!(poll(leaves.as_mut()).is_pending() && poll(leaves.as_mut()).is_pending());
        }
        assert_eq!(lock(&locks.held)["a"].waiting.len(), 1);
        drop(first);
        drop(ready(poll(stays)));
        assert!(lock(&locks.held).is_empty());
    }
}
