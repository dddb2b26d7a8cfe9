//! Who may go on with an upload: one request at a time, and always the one that came last (U6).
//!
//! A client whose connection broke comes back before the server has noticed; so whoever holds the upload is asked to stop, writes
//! down what it has, and gives it up. The locks are shared by the workers, because the client may come back to another one. A
//! request of another process can't be asked; it shows by the lock on the file (flock(2)).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The uploads that are held.
#[derive(Debug, Default)]
pub(in super::super) struct Locks(Mutex<HashMap<String, Holder>>);

#[derive(Debug)]
struct Holder {
    stop: Arc<Stop>,
    waiting: Vec<Waker>,
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

impl Locks {
    /// Holds the upload, as soon as whoever has it has stopped.
    pub async fn hold(self: &Arc<Self>, id: &str) -> Lock {
        std::future::poll_fn(|cx| self.poll_hold(id, cx)).await
    }

    fn poll_hold(self: &Arc<Self>, id: &str, cx: &mut Context<'_>) -> Poll<Lock> {
        let mut held = lock(&self.0);
        if let Some(holder) = held.get_mut(id) {
            if !holder.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                holder.waiting.push(cx.waker().clone());
            }
            holder.stop.ask();
            return Poll::Pending;
        }
        let stop = Arc::new(Stop::default());
        held.insert(id.to_owned(), Holder { stop: stop.clone(), waiting: Vec::new() });
        Poll::Ready(Lock { locks: self.clone(), id: id.to_owned(), stop })
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
        let holder = lock(&self.locks.0).remove(&self.id);
        holder.into_iter().flat_map(|holder| holder.waiting).for_each(Waker::wake);
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
        assert!(lock(&locks.0).is_empty());
    }
}
