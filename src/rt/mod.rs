//! The runtime of one worker: a driver, tasks that stay on their thread, timers, sockets and files.
//!
//! Everything here is safe code over [`crate::driver`]. A worker's runtime is reached through [`Runtime::current`]; sockets,
//! files and timers keep a handle on it, so that the hot path does not look it up.

pub mod fs;
#[allow(dead_code, reason = "the handlers that keep one come next")]
pub mod journal;
pub mod net;
pub mod offload;
pub mod queue;
mod residency;
pub mod signal;
pub mod task;
#[cfg(test)]
pub(crate) mod testing;
pub mod timer;
pub mod worker;

use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

use crate::driver::Driver;
use crate::driver::buf::BufferPool;
use crate::driver::op::{Closing, Op};
use crate::driver::pipe::PipePool;
use crate::driver::slot::{Completion, Owner, Slot};

use self::offload::Offload;
use self::residency::Residency;
use self::signal::Relays;
use self::task::{JoinHandle, Tasks};
use self::timer::Timers;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Runtime>>> = const { RefCell::new(None) };
}

/// What tasks of one worker share.
pub struct Runtime {
    driver: RefCell<Box<dyn Driver>>,
    timers: RefCell<Timers>,
    tasks: Tasks,
    offload: Offload,
    receive_pool: BufferPool,
    transfer_pool: BufferPool,
    upload_pool: BufferPool,
    residency: RefCell<Residency>,
    pipe_pool: PipePool,
    relays: Relays,
    now: Cell<Instant>,
}

impl Runtime {
    pub(crate) fn new(driver: Box<dyn Driver>, tasks: Tasks, offload: Offload) -> Rc<Self> {
        Rc::new(Runtime {
            receive_pool: driver.receive_pool().clone(),
            transfer_pool: driver.transfer_pool().clone(),
            upload_pool: driver.upload_pool().clone(),
            residency: RefCell::new(Residency::new(driver.now())),
            pipe_pool: driver.pipe_pool().clone(),
            relays: Relays::default(),
            now: Cell::new(driver.now()),
            driver: RefCell::new(driver),
            timers: RefCell::default(),
            tasks,
            offload,
        })
    }

    /// The runtime of the calling thread.
    ///
    /// # Panics
    /// When the thread is no worker.
    pub fn current() -> Rc<Runtime> {
        Runtime::try_current().expect("called on a worker's thread")
    }

    /// The runtime of the calling thread, if that is a worker.
    pub fn try_current() -> Option<Rc<Runtime>> {
        CURRENT.with_borrow(|current| current.clone())
    }

    /// Makes this the calling thread's runtime until the guard is dropped.
    pub(crate) fn enter(self: &Rc<Self>) -> Entered {
        CURRENT.set(Some(self.clone()));
        Entered(())
    }

    /// The time at which this turn of the worker began; monotonic.
    pub fn now(&self) -> Instant {
        self.now.get()
    }

    /// The clock itself, for durations within a turn.
    pub fn precise_now(&self) -> Instant {
        self.driver.borrow().now()
    }

    pub(crate) fn set_now(&self, now: Instant) {
        self.now.set(now);
    }

    /// The time of day.
    pub fn wall_clock(&self) -> SystemTime {
        self.driver.borrow().wall_clock()
    }

    /// Starts a task on this worker.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        self.tasks.spawn(future)
    }

    /// The pool of buffers of one high water mark each.
    pub fn transfer_pool(&self) -> &BufferPool {
        &self.transfer_pool
    }

    /// The pool of buffers for bodies on their way to a file.
    pub fn upload_pool(&self) -> &BufferPool {
        &self.upload_pool
    }

    /// The pool that receives pick from.
    pub fn receive_pool(&self) -> &BufferPool {
        &self.receive_pool
    }

    /// The pipes between files and sockets, each for one high water mark.
    pub fn pipe_pool(&self) -> &PipePool {
        &self.pipe_pool
    }

    /// Whether `fs::File::fill` can be carried out here.
    pub fn supports_ring_splice(&self) -> bool {
        self.driver.borrow().supports_ring_splice()
    }

    /// Whether `net::Socket::send_zero_copy` can be carried out here (Linux 6.0).
    pub fn supports_zero_copy_send(&self) -> bool {
        self.driver.borrow().supports_zero_copy_send()
    }

    /// Tasks of this worker.
    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Threads for calls that can block.
    pub fn offload(&self) -> &Offload {
        &self.offload
    }

    pub(crate) fn timers(&self) -> std::cell::RefMut<'_, Timers> {
        self.timers.borrow_mut()
    }

    pub(crate) fn driver(&self) -> std::cell::RefMut<'_, Box<dyn Driver>> {
        self.driver.borrow_mut()
    }

    /// Carries out one operation; dropping the future gives up interest in it.
    pub(crate) fn operate(self: &Rc<Self>, op: Op) -> Operation {
        let slot = self.driver().submit(op, Owner::Task(None));
        Operation { runtime: self.clone(), slot: Some(slot) }
    }
}

/// Ends [`Runtime::current`] for the thread when dropped.
pub(crate) struct Entered(());

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

/// An operation in flight.
pub(crate) struct Operation {
    runtime: Rc<Runtime>,
    slot: Option<Slot>,
}

impl Future for Operation {
    type Output = Completion;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Completion> {
        let slot = self.slot.expect("polled after completion");
        let completion = std::task::ready!(self.runtime.driver().poll(slot, cx));
        self.slot = None;
        Poll::Ready(completion)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.runtime.driver().abandon(slot);
        }
    }
}

/// A descriptor that closes itself, in order after every operation that names it.
pub(crate) struct Descriptor {
    pub(crate) raw: RawFd,
    pub(crate) closing: Closing,
    pub(crate) runtime: Rc<Runtime>,
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.runtime.driver().close(self.raw, self.closing);
    }
}

impl std::fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Descriptor({})", self.raw)
    }
}

/// Lets every other ready task run once before this one goes on.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
