//! A queue bounded in bytes: over its high water mark, the producer waits.
//!
//! One producer side and one consumer side on the same worker. The bound is in bytes and not in items, because that is what
//! memory is: a queue of a thousand items says nothing. One item may exceed the mark, alone; otherwise it could never pass.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// How many bytes an item holds.
pub trait Weigh {
    /// Bytes of memory that the item keeps.
    fn weight(&self) -> usize;
}

impl Weigh for bytes::Bytes {
    fn weight(&self) -> usize {
        self.len()
    }
}

struct Shared<T> {
    items: VecDeque<T>,
    weight: usize,
    high_water_mark: usize,
    sender_gone: bool,
    receiver_gone: bool,
    sender: Option<Waker>,
    receiver: Option<Waker>,
}

/// A queue of at most `high_water_mark` bytes.
pub fn bounded<T: Weigh>(high_water_mark: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(RefCell::new(Shared {
        items: VecDeque::new(),
        weight: 0,
        high_water_mark,
        sender_gone: false,
        receiver_gone: false,
        sender: None,
        receiver: None,
    }));
    (Sender(shared.clone()), Receiver(shared))
}

/// The producer's side; dropping it ends the queue.
pub struct Sender<T>(Rc<RefCell<Shared<T>>>);

/// The consumer's side; dropping it tells the producer.
pub struct Receiver<T>(Rc<RefCell<Shared<T>>>);

/// The consumer is gone; the item comes back.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed<T>(pub T);

impl<T: Weigh> Sender<T> {
    /// Adds an item, waiting while it would take the queue over its mark.
    ///
    /// # Errors
    /// [`Closed`] when the consumer is gone.
    pub async fn send(&mut self, item: T) -> Result<(), Closed<T>> {
        let mut item = Some(item);
        std::future::poll_fn(|cx| {
            let mut shared = self.0.borrow_mut();
            let Some(weight) = item.as_ref().map(Weigh::weight) else { return Poll::Ready(Ok(())) };
            if shared.receiver_gone {
                return Poll::Ready(item.take().map_or(Ok(()), |item| Err(Closed(item))));
            }
            if !shared.items.is_empty() && shared.weight.saturating_add(weight) > shared.high_water_mark {
                shared.sender = Some(cx.waker().clone());
                return Poll::Pending;
            }
            shared.weight = shared.weight.saturating_add(weight);
            shared.items.extend(item.take());
            wake(&mut shared.receiver);
            Poll::Ready(Ok(()))
        })
        .await
    }
}

impl<T: Weigh> Receiver<T> {
    /// The next item; `None` when the producer has ended and all is taken.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut shared = self.0.borrow_mut();
        if let Some(item) = shared.items.pop_front() {
            shared.weight -= item.weight();
            wake(&mut shared.sender);
            return Poll::Ready(Some(item));
        }
        if shared.sender_gone {
            return Poll::Ready(None);
        }
        shared.receiver = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut shared = self.0.borrow_mut();
        shared.sender_gone = true;
        wake(&mut shared.receiver);
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut shared = self.0.borrow_mut();
        shared.receiver_gone = true;
        wake(&mut shared.sender);
        // Outside of the borrow: an item's drop may be anything.
        let items = std::mem::take(&mut shared.items);
        drop(shared);
        drop(items);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::pin::pin;

    fn now<F: Future>(future: F) -> Poll<F::Output> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn next(receiver: &mut Receiver<Bytes>) -> Poll<Option<Bytes>> {
        receiver.poll_next(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn t1_over_the_high_water_mark_the_producer_waits() {
        let (mut sender, mut receiver) = bounded(10);
        assert_eq!(now(sender.send(Bytes::from_static(b"123456"))), Poll::Ready(Ok(())));
        assert_eq!(now(sender.send(Bytes::from_static(b"7890"))), Poll::Ready(Ok(())));
        assert_eq!(now(sender.send(Bytes::from_static(b"x"))), Poll::Pending);
        assert_eq!(next(&mut receiver), Poll::Ready(Some(Bytes::from_static(b"123456"))));
        assert_eq!(now(sender.send(Bytes::from_static(b"x"))), Poll::Ready(Ok(())));
    }

    #[test]
    fn an_item_over_the_mark_passes_alone() {
        let (mut sender, mut receiver) = bounded(2);
        assert_eq!(now(sender.send(Bytes::from_static(b"large"))), Poll::Ready(Ok(())));
        assert_eq!(now(sender.send(Bytes::from_static(b""))), Poll::Pending);
        assert!(next(&mut receiver).is_ready());
    }

    #[test]
    fn t2_each_side_learns_that_the_other_is_gone() {
        let (mut sender, receiver) = bounded(10);
        drop(receiver);
        assert_eq!(now(sender.send(Bytes::from_static(b"a"))), Poll::Ready(Err(Closed(Bytes::from_static(b"a")))));

        let (mut sender, mut receiver) = bounded(10);
        assert!(now(sender.send(Bytes::from_static(b"last"))).is_ready());
        drop(sender);
        assert_eq!(next(&mut receiver), Poll::Ready(Some(Bytes::from_static(b"last"))));
        assert_eq!(next(&mut receiver), Poll::Ready(None));
    }
}
