//! A state that changes, and those on all workers who wait for that.
//!
//! ```text
//!   any thread                 worker 0                                worker 1
//!   Signal::notify ──┬──▶ relay ──▶ Watch, Watch, Watch …        ┌──▶ relay ──▶ Watch …
//!                    └───────────────────────────────────────────┘
//! ```
//!
//! A signal carries nothing but that there is news: a number that grows. Whoever watches remembers the number that it has seen, so
//! nothing is missed between looking and waiting, and ten changes in one turn are one wake-up. On each worker the watches of
//! one signal share a task, the relay: a change costs one wake-up a worker, by its wake-up descriptor, and not one for
//! each watch. The relay wakes its watches some at a time, with a turn of the worker after each, so that ten thousand who have
//! something to send don't keep the worker from its other clients. Off a worker a watch stands for itself.
//!
//! Rejected: a channel for each watch (its queue is a copy for each, or unbounded), messages from ring to ring (`IORING_OP_MSG_RING`
//! needs each ring to know all others, and the wake-up descriptor is there already).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::task::JoinHandle;
use super::{Runtime, yield_now};

/// How many watches are woken in a turn of their worker: at a few microseconds for what each then does, well below a millisecond.
const WOKEN_IN_A_TURN: usize = 128;

/// News of something that any number of tasks wait for. Cloning clones the handle.
#[derive(Clone, Debug, Default)]
pub struct Signal(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    generation: AtomicU64,
    /// Relays, and watches that stand for themselves.
    waiting: Mutex<Slab<Option<Waker>>>,
}

impl Signal {
    /// Nothing has changed yet.
    pub fn new() -> Self {
        Signal::default()
    }

    /// Says that there is news; from any thread. What was changed before is seen by who is woken.
    pub fn notify(&self) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        // Woken outside of the lock: a waker may run anything.
        let wakers: Vec<Waker> = lock(&self.0.waiting).iter_mut().filter_map(|(_, waker)| waker.take()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Waits for news from now on.
    pub fn watch(&self) -> Watch {
        let place = match Runtime::try_current() {
            Some(runtime) => Place::Relayed(Relay::of(self, &runtime).watch()),
            None => Place::Direct { signal: self.clone(), key: lock(&self.0.waiting).insert(None) },
        };
        Watch { seen: self.generation(), place }
    }

    fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Where the signal is: what tells it from others while it lives.
    fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

/// One who waits for news.
#[derive(Debug)]
pub struct Watch {
    /// The generation that was seen.
    seen: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Relayed(Relayed),
    Direct { signal: Signal, key: usize },
}

impl Watch {
    /// Ready once for all news since it was last ready, or since the watch began.
    pub fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_news() {
            return Poll::Ready(());
        }
        match &self.place {
            Place::Relayed(relayed) => relayed.wait(cx.waker()),
            Place::Direct { signal, key } => {
                keep(&mut lock(&signal.0.waiting)[*key], cx.waker());
                // The news may have come before the waker stood there.
                if self.has_news() {
                    return Poll::Ready(());
                }
            }
        }
        Poll::Pending
    }

    /// Waits for news.
    pub async fn changed(&mut self) {
        std::future::poll_fn(|cx| self.poll_changed(cx)).await;
    }

    fn has_news(&mut self) -> bool {
        let generation = match &self.place {
            Place::Relayed(relayed) => relayed.relay.signal.generation(),
            Place::Direct { signal, .. } => signal.generation(),
        };
        std::mem::replace(&mut self.seen, generation) != generation
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Place::Direct { signal, key } = &self.place {
            let waker = lock(&signal.0.waiting).remove(*key);
            // Outside of the lock: the last waker of a task may free it.
            drop(waker);
        }
    }
}

/// The relays of one worker, by the address of their signal.
pub(super) type Relays = RefCell<HashMap<usize, Weak<Relay>>>;

/// What wakes the watches of one signal on one worker.
pub(super) struct Relay {
    signal: Signal,
    runtime: Rc<Runtime>,
    watches: RefCell<Slab<Option<Waker>>>,
    /// The watches from this key on are still to be woken.
    next: Cell<usize>,
    task: RefCell<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Relay({} watches)", self.watches.borrow().len())
    }
}

impl Relay {
    /// The worker's relay for this signal, which is made if there is none.
    fn of(signal: &Signal, runtime: &Rc<Runtime>) -> Rc<Relay> {
        let address = signal.address();
        if let Some(relay) = runtime.relays.borrow().get(&address).and_then(Weak::upgrade) {
            return relay;
        }
        let relay = Rc::new(Relay {
            signal: signal.clone(),
            runtime: runtime.clone(),
            watches: RefCell::default(),
            next: Cell::new(usize::MAX),
            task: RefCell::default(),
        });
        runtime.relays.borrow_mut().insert(address, Rc::downgrade(&relay));
        let place = Waiting::new(signal);
        let task = runtime.spawn(run(Rc::downgrade(&relay), place));
        relay.task.replace(Some(task));
        relay
    }

    fn watch(self: Rc<Self>) -> Relayed {
        let key = self.watches.borrow_mut().insert(None);
        Relayed { relay: self, key }
    }

    /// Wakes as many as a turn may; whether some are left.
    fn wake_some(&self) -> bool {
        let mut watches = self.watches.borrow_mut();
        let end = watches.capacity();
        let mut wakers = Vec::new();
        let mut key = self.next.get();
        while key < end && wakers.len() < WOKEN_IN_A_TURN {
            wakers.extend(watches.get_mut(key).and_then(Option::take));
            key += 1;
        }
        self.next.set(key);
        drop(watches);
        wakers.into_iter().for_each(Waker::wake);
        key < end
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.runtime.relays.borrow_mut().remove(&self.signal.address());
    }
}

/// The relay's task: it ends with the last watch, which drops the relay.
async fn run(relay: Weak<Relay>, mut place: Waiting) {
    loop {
        place.changed().await;
        if let Some(relay) = relay.upgrade() {
            relay.next.set(0);
        }
        while relay.upgrade().is_some_and(|relay| relay.wake_some()) {
            yield_now().await;
        }
    }
}

/// A relay's own place among those who wait for the signal.
struct Waiting {
    signal: Signal,
    key: usize,
    seen: u64,
}

impl Waiting {
    fn new(signal: &Signal) -> Self {
        let key = lock(&signal.0.waiting).insert(None);
        Waiting { seen: signal.generation(), signal: signal.clone(), key }
    }

    async fn changed(&mut self) {
        std::future::poll_fn(|cx| {
            keep(&mut lock(&self.signal.0.waiting)[self.key], cx.waker());
            let generation = self.signal.generation();
            let has_news = std::mem::replace(&mut self.seen, generation) != generation;
            if has_news { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let waker = lock(&self.signal.0.waiting).remove(self.key);
        drop(waker);
    }
}

/// One watch's place in a relay.
#[derive(Debug)]
struct Relayed {
    relay: Rc<Relay>,
    key: usize,
}

impl Relayed {
    fn wait(&self, waker: &Waker) {
        keep(&mut self.relay.watches.borrow_mut()[self.key], waker);
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        let waker = self.relay.watches.borrow_mut().remove(self.key);
        drop(waker);
    }
}

fn keep(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(kept) => kept.clone_from(waker),
        None => *place = Some(waker.clone()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::sim::{Faults, World, explore};
    use crate::rt::fs::tests::run;
    use crate::rt::timer::sleep;
    use std::sync::mpsc;
    use std::time::Duration;

    /// As many tasks as this, each of which counts the news that it sees.
    fn watchers(runtime: &Rc<Runtime>, signal: &Signal, count: usize) -> (Vec<JoinHandle<()>>, Rc<Cell<usize>>) {
        let seen = Rc::new(Cell::new(0));
        let watch = |_| {
            let (mut watch, seen) = (signal.watch(), seen.clone());
            runtime.spawn(async move {
                loop {
                    watch.changed().await;
                    seen.set(seen.get() + 1);
                }
            })
        };
        ((0..count).map(watch).collect(), seen)
    }

    #[test]
    fn news_reach_every_watch_once_and_in_batches_of_a_turn() {
        explore(Faults::SLOW, |world: &Rc<World>| {
            run(world, async |runtime, _| {
                let _entered = runtime.enter();
                let signal = Signal::new();
                let count = 2 * WOKEN_IN_A_TURN + 3;
                let (tasks, seen) = watchers(&runtime, &signal, count);
                yield_now().await;
                assert_eq!(seen.get(), 0, "there was no news");
                signal.notify();
                signal.notify();
                let mut before = 0;
                while seen.get() < count {
                    yield_now().await;
                    assert!(seen.get() - before <= WOKEN_IN_A_TURN, "{before} and then {}", seen.get());
                    before = seen.get();
                }
                sleep(Duration::from_secs(1)).await;
                assert_eq!(seen.get(), count, "news that came together are told once");
                assert_eq!(runtime.relays.borrow().len(), 1);
                drop(tasks);
                yield_now().await;
                yield_now().await;
                assert_eq!(runtime.relays.borrow().len(), 0, "the relay goes with its last watch");
                assert!(lock(&signal.0.waiting).is_empty());
            });
        });
    }

    #[test]
    fn news_between_looking_and_waiting_are_not_missed() {
        explore(Faults::SLOW, |world: &Rc<World>| {
            run(world, async |runtime, _| {
                let _entered = runtime.enter();
                let signal = Signal::new();
                let mut watch = signal.watch();
                signal.notify();
                watch.changed().await;
                let mut cx = Context::from_waker(Waker::noop());
                assert!(watch.poll_changed(&mut cx).is_pending());
                signal.notify();
                assert!(watch.poll_changed(&mut cx).is_ready());
            });
        });
    }

    #[test]
    fn off_a_worker_a_watch_stands_for_itself() {
        let signal = Signal::new();
        let (told, begun) = mpsc::channel();
        let watching = signal.clone();
        let thread = std::thread::spawn(move || {
            let mut watch = watching.watch();
            let mut cx = Context::from_waker(Waker::noop());
            assert!(watch.poll_changed(&mut cx).is_pending());
            assert_eq!(lock(&watching.0.waiting).len(), 1);
            told.send(()).unwrap();
            while watch.poll_changed(&mut cx).is_pending() {
                std::thread::yield_now();
            }
        });
        begun.recv().unwrap();
        signal.notify();
        thread.join().unwrap();
        assert!(lock(&signal.0.waiting).is_empty());
    }
}
