//! Tasks: futures that stay on their worker's thread and need not be `Send`.
//!
//! `async-task` carries the unsafe part of an executor. A wake on the worker's own thread pushes onto a plain queue; a wake
//! from elsewhere (an offloaded call, another worker) goes through a lock and the worker's wake-up descriptor. The queue of
//! ready tasks is bounded by the number of tasks, each of which stands in it at most once.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::ThreadId;

use async_task::Runnable;
use nix::sys::eventfd::{EfdFlags, EventFd};
use pin_project_lite::pin_project;
use slab::Slab;

thread_local! {
    static READY: RefCell<VecDeque<Runnable>> = const { RefCell::new(VecDeque::new()) };
}

/// The tasks of one worker.
pub struct Tasks {
    remote: Arc<Remote>,
    live: Rc<RefCell<Slab<Option<Waker>>>>,
}

/// The side of a worker that other threads may touch.
pub struct Remote {
    thread: ThreadId,
    ready: Mutex<VecDeque<Runnable>>,
    wake_up: EventFd,
}

impl Tasks {
    /// The tasks of the calling thread.
    ///
    /// # Errors
    /// When no eventfd is to be had.
    pub fn new() -> std::io::Result<Self> {
        let wake_up = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let remote = Remote { thread: std::thread::current().id(), ready: Mutex::default(), wake_up };
        Ok(Tasks { remote: Arc::new(remote), live: Rc::default() })
    }

    /// Starts a task; it runs in this or the next turn.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        let live = Live { key: self.live.borrow_mut().insert(None), live: self.live.clone() };
        let remote = self.remote.clone();
        let (runnable, task) =
            async_task::spawn_local(Tracked { future, live, is_registered: false }, move |runnable| {
                remote.schedule(runnable)
            });
        runnable.schedule();
        JoinHandle(Some(task))
    }

    /// Runs the tasks that are ready now, not those that become ready meanwhile: a turn is bounded. Returns whether some are
    /// ready again.
    pub fn run_ready(&self) -> bool {
        let ready_now = READY.with_borrow_mut(|ready| {
            let mut remote = self.remote.ready.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            ready.append(&mut remote);
            ready.len()
        });
        for _ in 0..ready_now {
            let Some(runnable) = READY.with_borrow_mut(VecDeque::pop_front) else { break };
            // A panic in a handler costs its own connection, which the dropped future closes; not the worker.
            if std::panic::catch_unwind(AssertUnwindSafe(|| runnable.run())).is_err() {
                tracing::error!("a task panicked; its connection is closed");
            }
        }
        READY.with_borrow(|ready| !ready.is_empty())
    }

    /// How many tasks have not ended.
    pub fn live(&self) -> usize {
        self.live.borrow().len()
    }

    /// Ends every task by dropping its future.
    pub fn shut_down(&self) {
        while self.live() > 0 {
            let wakers: Vec<Waker> = self.live.borrow().iter().filter_map(|(_, waker)| waker.clone()).collect();
            wakers.into_iter().for_each(Waker::wake);
            let mut dropped = READY.with_borrow_mut(std::mem::take);
            dropped.append(&mut self.remote.ready.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
            if dropped.is_empty() {
                break;
            }
            // Outside of the borrow: a future's drop may wake others.
            drop(dropped);
        }
    }

    /// The side that other threads may touch.
    pub fn remote(&self) -> &Arc<Remote> {
        &self.remote
    }
}

impl Remote {
    /// Makes the worker take another turn.
    pub fn wake_up(&self) {
        // EAGAIN means that the counter is full, and then the worker has been woken already.
        let _ = self.wake_up.write(1);
    }

    /// The descriptor that becomes readable when another thread has work for this worker.
    pub fn descriptor(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.wake_up)
    }

    /// Makes the descriptor unreadable again.
    pub fn acknowledge(&self) {
        // EAGAIN means that nothing was pending.
        let _ = self.wake_up.read();
    }

    fn schedule(&self, runnable: Runnable) {
        if std::thread::current().id() == self.thread {
            READY.with_borrow_mut(|ready| ready.push_back(runnable));
        } else {
            self.ready.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push_back(runnable);
            self.wake_up();
        }
    }
}

/// A task's result. Dropping the handle ends the task; [`JoinHandle::detach`] lets it go on alone.
#[must_use = "dropping the handle ends the task"]
pub struct JoinHandle<T>(Option<async_task::Task<T>>);

impl<T> JoinHandle<T> {
    /// Lets the task run to its end by itself.
    pub fn detach(mut self) {
        if let Some(task) = self.0.take() {
            task.detach();
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        Pin::new(self.0.as_mut().expect("polled after detach")).poll(cx)
    }
}

pin_project! {
    /// A task's future, in the list of those that live. A struct and not an `async` block around it: that would hold the
    /// future twice, as what it captured and as what it awaits.
    struct Tracked<F> {
        #[pin]
        future: F,
        live: Live,
        is_registered: bool,
    }
}

impl<F: Future> Future for Tracked<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if !*this.is_registered {
            *this.is_registered = true;
            this.live.live.borrow_mut()[this.live.key] = Some(cx.waker().clone());
        }
        this.future.poll(cx)
    }
}

/// A task's place in the list.
struct Live {
    key: usize,
    live: Rc<RefCell<Slab<Option<Waker>>>>,
}

impl Drop for Live {
    fn drop(&mut self) {
        let waker = self.live.borrow_mut().try_remove(self.key);
        // Outside of the borrow: the last waker of a task may free it.
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::yield_now;
    use std::cell::Cell;

    #[test]
    fn a_turn_runs_each_ready_task_once() {
        let tasks = Tasks::new().unwrap();
        let count = Rc::new(Cell::new(0));
        for _ in 0..2 {
            let count = count.clone();
            tasks
                .spawn(async move {
                    loop {
                        count.set(count.get() + 1);
                        yield_now().await;
                    }
                })
                .detach();
        }
        assert!(tasks.run_ready());
        assert_eq!(count.get(), 2);
        assert!(tasks.run_ready());
        assert_eq!((count.get(), tasks.live()), (4, 2));
        tasks.shut_down();
        assert_eq!(tasks.live(), 0);
    }

    #[test]
    fn a_wake_from_another_thread_reaches_the_worker() {
        let tasks = Tasks::new().unwrap();
        let (send_waker, receive_waker) = std::sync::mpsc::sync_channel(1);
        let mut handed_over = false;
        let task = tasks.spawn(std::future::poll_fn(move |cx| {
            if handed_over {
                return Poll::Ready(());
            }
            handed_over = true;
            send_waker.send(cx.waker().clone()).unwrap();
            Poll::Pending
        }));
        assert!(!tasks.run_ready());
        std::thread::spawn(move || receive_waker.recv().unwrap().wake()).join().unwrap();
        assert!(tasks.remote.wake_up.read().is_ok(), "the descriptor is readable");
        tasks.run_ready();
        assert_eq!(tasks.live(), 0);
        drop(task);
    }

    #[test]
    fn a_panic_ends_its_own_task_only() {
        let tasks = Tasks::new().unwrap();
        let done = Rc::new(Cell::new(false));
        tasks.spawn(async { panic!("as planned") }).detach();
        let flag = done.clone();
        tasks.spawn(async move { flag.set(true) }).detach();
        tasks.run_ready();
        assert!(done.get());
        assert_eq!(tasks.live(), 0);
    }
}
