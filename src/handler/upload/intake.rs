//! How fast a body is taken: no faster than the disk takes it, nor than the route's rate.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::http::Sink;
use crate::rt::Runtime;
use crate::rt::timer::Timer;

/// The pace of one request.
pub(super) struct Intake {
    runtime: Rc<Runtime>,
    rate: Option<(u64, Timer)>,
    /// When what has come would have come at the rate.
    due: Instant,
}

impl Intake {
    /// At most `rate` bytes a second.
    pub fn new(runtime: &Rc<Runtime>, rate: Option<u64>) -> Self {
        let rate = rate.map(|rate| (rate, Timer::new(runtime)));
        Intake { due: runtime.now(), rate, runtime: runtime.clone() }
    }

    /// What comes next, when there is room for it in the sink. What has come already is not held up for the rate: it would keep
    /// its buffer from others.
    ///
    /// # Errors
    /// The disk's.
    pub async fn next<T>(
        &mut self,
        sink: Option<&mut Sink>,
        has_come: bool,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> io::Result<T> {
        let mut sink = sink;
        std::future::poll_fn(|cx| {
            if let Some(sink) = &mut sink {
                ready!(sink.poll_room(cx))?;
            }
            if !has_come {
                ready!(self.poll_due(cx));
            }
            poll(cx).map(Ok)
        })
        .await
    }

    /// Notes bytes that have come.
    pub fn count(&mut self, len: usize) {
        if let Some((rate, _)) = &self.rate {
            let time = Duration::from_micros((len as u64).saturating_mul(1_000_000) / rate);
            self.due = self.due.max(self.runtime.now()) + time;
        }
    }

    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some((_, timer)) = self.rate.as_ref().filter(|_| self.due > self.runtime.now()) {
            if timer.deadline() != Some(self.due) {
                timer.set(Some(self.due));
            }
            ready!(timer.poll_expired(cx));
        }
        Poll::Ready(())
    }
}
