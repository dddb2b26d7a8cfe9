//! How long a request waits: until its time is up, or the worker goes away.

use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::http::Worker;
use crate::rt::signal::Watch;
use crate::rt::timer::Timer;

/// Why waiting is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// It took too long.
    Late,
    /// The worker is going away.
    Draining,
}

/// One request's patience.
pub(super) struct Patience {
    worker: Rc<Worker>,
    drain: Watch,
    timer: Timer,
}

impl Patience {
    pub fn new(worker: &Rc<Worker>) -> Self {
        Patience { worker: worker.clone(), drain: worker.drain_watch(), timer: Timer::new(&worker.runtime) }
    }

    /// When something that begins now is late.
    pub fn deadline(&self, wait: Option<Duration>) -> Option<Instant> {
        wait.and_then(|wait| self.worker.runtime.now().checked_add(wait))
    }

    /// The future's output, if it is ready within this time.
    pub async fn race<F: Future>(&mut self, wait: Option<Duration>, future: F) -> Result<F::Output, Over> {
        let deadline = self.deadline(wait);
        let mut future = pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            self.poll_over(deadline, cx).map(Err)
        })
        .await
    }

    /// Whether it is over now.
    pub fn is_over(&self, deadline: Option<Instant>) -> bool {
        self.worker.draining() || deadline.is_some_and(|deadline| deadline <= self.worker.runtime.now())
    }

    /// Whether waiting is over at this time; else wakes the task when it is.
    pub fn poll_over(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> Poll<Over> {
        if self.worker.draining() || self.drain.poll_changed(cx).is_ready() {
            return Poll::Ready(Over::Draining);
        }
        if deadline.is_some_and(|deadline| deadline <= self.worker.runtime.now()) {
            return Poll::Ready(Over::Late);
        }
        if self.timer.deadline() != deadline {
            self.timer.set(deadline);
        }
        self.timer.poll_expired(cx).map(|_| Over::Late)
    }
}
