//! Threads for calls that can block and that no operation of the ring covers: reading a directory.
//!
//! A few threads for the whole process, and a bounded queue before them: a disk that hangs makes later callers fail fast
//! instead of piling up.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Poll, Waker};

type Job = Box<dyn FnOnce() + Send>;

/// A handle on the threads. Cloning clones the handle; the threads end with the last one.
#[derive(Clone)]
pub struct Offload(Arc<Owner>);

/// Why a call has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoResult {
    /// The queue is full: the call was not begun.
    Busy,
    /// The call panicked.
    Failed,
}

struct Owner(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    bound: usize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Offload {
    /// Starts `threads` threads with a queue of at most `bound` calls.
    ///
    /// # Errors
    /// When a thread can't be started.
    pub fn start(threads: usize, bound: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new(), bound });
        let offload = Offload(Arc::new(Owner(shared.clone())));
        for number in 0..threads {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("offload-{number}")).spawn(move || shared.work())?;
        }
        Ok(offload)
    }

    /// Runs the call on one of the threads and waits for its result. A caller that stops waiting leaves the call to finish.
    ///
    /// # Errors
    /// [`NoResult`]: the queue is full, or the call panicked.
    pub async fn run<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> Result<T, NoResult> {
        let outcome = Arc::new(Mutex::new(Outcome { result: None, waker: None }));
        let promise = Promise(outcome.clone());
        self.0.0.push(Box::new(move || {
            let value = call();
            promise.settle(Ok(value));
        }))?;
        std::future::poll_fn(|cx| {
            let mut outcome = lock(&outcome);
            match outcome.result.take() {
                Some(result) => Poll::Ready(result),
                None => {
                    outcome.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

struct Outcome<T> {
    result: Option<Result<T, NoResult>>,
    waker: Option<Waker>,
}

/// The call's side of an outcome. The caller is told in any case: a call that unwinds drops it.
struct Promise<T>(Arc<Mutex<Outcome<T>>>);

impl<T> Promise<T> {
    fn settle(&self, result: Result<T, NoResult>) {
        let mut outcome = lock(&self.0);
        outcome.result = Some(result);
        if let Some(waker) = outcome.waker.take() {
            waker.wake();
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.settle(Err(NoResult::Failed));
        }
    }
}

impl Shared {
    fn push(&self, job: Job) -> Result<(), NoResult> {
        let mut queue = lock(&self.queue);
        if queue.jobs.len() >= self.bound {
            return Err(NoResult::Busy);
        }
        queue.jobs.push_back(job);
        self.changed.notify_one();
        Ok(())
    }

    fn work(&self) {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                // A panic costs its own call, not the thread that others wait for.
                if std::panic::catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!("an offloaded call panicked");
                }
                queue = lock(&self.queue);
            } else if queue.closed {
                return;
            } else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        lock(&self.0.queue).closed = true;
        self.0.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::testing::block_on;
    use std::pin::pin;
    use std::sync::mpsc;
    use std::task::Context;

    #[test]
    fn a_call_runs_elsewhere_and_its_result_comes_back() {
        let offload = Offload::start(1, 4).unwrap();
        let here = std::thread::current().id();
        let there = block_on(offload.run(|| std::thread::current().id())).unwrap();
        assert_ne!(here, there);
    }

    #[test]
    fn a_call_that_panics_fails_for_its_caller_and_spares_the_thread() {
        let offload = Offload::start(1, 4).unwrap();
        let (told, outcome) = mpsc::channel();
        let caller = offload.clone();
        std::thread::spawn(move || {
            told.send(block_on(caller.run(|| -> u8 { panic!("as planned") }))).unwrap();
            told.send(block_on(caller.run(|| 7))).unwrap();
        });
        let next = || outcome.recv_timeout(std::time::Duration::from_secs(30)).expect("an outcome");
        assert_eq!((next(), next()), (Err(NoResult::Failed), Ok(7)));
    }

    #[test]
    fn a_full_queue_fails_fast() {
        let offload = Offload::start(1, 1).unwrap();
        let (release, held) = mpsc::channel::<()>();
        let (started, wait_started) = mpsc::channel();
        let mut running = pin!(offload.run(move || {
            started.send(()).unwrap();
            held.recv().unwrap();
        }));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(running.as_mut().poll(&mut cx).is_pending());
        wait_started.recv().unwrap();
        let mut queued = pin!(offload.run(|| ()));
        assert!(queued.as_mut().poll(&mut cx).is_pending());
        assert_eq!(block_on(offload.run(|| ())), Err(NoResult::Busy));
        release.send(()).unwrap();
        block_on(running).unwrap();
        block_on(queued).unwrap();
    }
}
