//! Tasks: futures that stay on their worker's thread and need not be `Send`.
//!
//! `async-task` carries the unsafe part of an executor. A wake on the worker's own thread pushes onto a plain queue; a wake
//! from elsewhere (an offloaded call, another worker) goes through a lock and the worker's wake-up descriptor. The queue of
//! ready tasks is bounded by the number of tasks, each of which stands in it at most once.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use async_task::Runnable;
use nix::sys::eventfd::{EfdFlags, EventFd};
use pin_project_lite::pin_project;
use slab::Slab;

/// How long [`Tasks::shut_down`] waits for threads that are about to wake a task.
const STRAGGLERS: Duration = Duration::from_secs(1);

/// How long an abort waits for its reason to be written.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What a panic's message begins with when the kernel's answer or the driver's bookkeeping can't be true.
const BROKEN_INVARIANT: &str = "driver invariant";

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
            if contain(|| runnable.run()).is_err() {
                tracing::error!("a task panicked; its connection is closed");
            }
        }
        READY.with_borrow(|ready| !ready.is_empty())
    }

    /// How many tasks have not ended.
    pub fn live(&self) -> usize {
        self.live.borrow().len()
    }

    /// Ends every task by dropping its future. One that another thread is just waking is waited for, within bounds.
    pub fn shut_down(&self) {
        let deadline = Instant::now() + STRAGGLERS;
        while self.live() > 0 {
            let wakers: Vec<Waker> = self.live.borrow().iter().filter_map(|(_, waker)| waker.clone()).collect();
            wakers.into_iter().for_each(Waker::wake);
            let mut dropped = READY.with_borrow_mut(std::mem::take);
            dropped.append(&mut self.remote.ready.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
            if dropped.is_empty() {
                // Another thread has marked the task as woken and not queued it yet: only that thread can hand it over.
                std::thread::yield_now();
            }
            // Outside of the borrow: a future's drop may wake others.
            drop(dropped);
            if Instant::now() >= deadline {
                tracing::error!(tasks = self.live(), "tasks are left that nobody hands over");
                return;
            }
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
            // A thread that ends has no queue any more, and the task goes with it.
            let _ = READY.try_with(|ready| ready.borrow_mut().push_back(runnable));
        } else {
            self.ready.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push_back(runnable);
            self.wake_up();
        }
    }
}

/// Runs what may panic for its own reasons, and stops the panic here. A broken invariant of the driver is not stopped: what
/// it would write or send from then on could be anyone's bytes, so the process ends.
///
/// # Errors
/// What it panicked with.
pub(crate) fn contain<T>(run: impl FnOnce() -> T) -> std::thread::Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(run)).inspect_err(|panic| {
        if let Some(message) = broken_invariant(&**panic) {
            abort(message);
        }
    })
}

fn broken_invariant(panic: &(dyn Any + Send)) -> Option<&str> {
    let message = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied())?;
    message.starts_with(BROKEN_INVARIANT).then_some(message)
}

/// Says why on standard error, but does not let a reader who has stopped keep the process alive.
fn abort(message: &str) -> ! {
    let (told, telling) = mpsc::channel();
    let line = format!("aborting: {message}");
    // Where no thread is to be had the core dump has to do.
    let _ = std::thread::Builder::new().spawn(move || {
        eprintln!("{line}");
        let _ = told.send(());
    });
    let _ = telling.recv_timeout(LAST_WORD);
    std::process::abort()
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

impl<T: 'static> JoinHandle<T> {
    /// The result of a task that has to run to its end: whoever stops waiting for it lets it go on alone.
    pub async fn lasting(self) -> T {
        struct Lasting<T>(Option<JoinHandle<T>>);
        impl<T> Drop for Lasting<T> {
            fn drop(&mut self) {
                self.0.take().into_iter().for_each(JoinHandle::detach);
            }
        }
        let mut lasting = Lasting(Some(self));
        std::future::poll_fn(|cx| Pin::new(lasting.0.as_mut().expect("kept until the drop")).poll(cx)).await
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

    #[test]
    fn shutting_down_waits_for_a_wake_that_another_thread_has_begun() {
        /// Tells when it is dropped.
        struct Tell(mpsc::Sender<()>);
        impl Drop for Tell {
            fn drop(&mut self) {
                self.0.send(()).unwrap();
            }
        }
        let tasks = Tasks::new().unwrap();
        tasks.spawn(std::future::pending::<()>()).detach();
        // The other thread stands between marking the task as woken and queueing it: it holds what the queue lacks.
        let held = READY.with_borrow_mut(VecDeque::pop_front).unwrap();
        let (begun, shutting_down) = mpsc::channel();
        let tell = Tell(begun);
        tasks
            .spawn(async move {
                std::future::pending::<()>().await;
                drop(tell);
            })
            .detach();
        let remote = tasks.remote().clone();
        let other = std::thread::spawn(move || {
            shutting_down.recv().unwrap();
            remote.schedule(held);
        });
        tasks.shut_down();
        assert_eq!(tasks.live(), 0);
        other.join().unwrap();
    }

    #[test]
    fn only_the_driver_breaks_an_invariant() {
        #[track_caller]
        fn check(panic: Box<dyn Any + Send>, expected: Option<&str>) {
            assert_eq!(broken_invariant(&*panic), expected);
        }
        check(Box::new("driver invariant: no such slot"), Some("driver invariant: no such slot"));
        check(Box::new(String::from("driver invariant: slot 7")), Some("driver invariant: slot 7"));
        check(Box::new("the driver invariant holds"), None);
        check(Box::new(7), None);
    }

    /// Aborts where it is told to: [`a_broken_invariant_ends_the_process`] runs it in a process of its own.
    #[test]
    fn a_task_breaks_an_invariant() {
        if std::env::var_os("HIGHWATER_TEST_ABORT").is_none() {
            return;
        }
        let tasks = Tasks::new().unwrap();
        tasks.spawn(async { panic!("driver invariant: slot {} has completed", 7) }).detach();
        tasks.run_ready();
    }

    #[test]
    fn a_broken_invariant_ends_the_process() {
        let test = "rt::task::tests::a_task_breaks_an_invariant";
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env("HIGHWATER_TEST_ABORT", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(libc::SIGABRT), "{said}");
        assert!(said.contains("aborting: driver invariant: slot 7 has completed"), "{said}");
    }
}
