//! What the dashboard is fed with: the server's counters once a second, as an event stream for any number of watchers.
//!
//! A task makes a snapshot a second while somebody watches, frames it once, and tells the watchers by a signal; each sends the same
//! memory. Who is slow gets the newest and skips what lies between, so nothing queues up for anyone. When the last watcher leaves,
//! the task goes with it, and nothing is computed any more.
//!
//! The other workers are not read but asked: each shows what keeps it busiest by copying it to where this one finds it, between
//! two of its turns. So a snapshot has what they showed for the one before, and no request ever takes a lock for it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use futures_util::stream::empty;
use http::{Method, StatusCode};
use serde_json::json;

use crate::error::Error;
use crate::http::{Body, Framed, Response, Worker};
use crate::limits::{Limits, MemoryCeiling, Term};
use crate::proto::sse::{self, Event};
use crate::rt::signal::{Signal, Watch};
use crate::rt::task::JoinHandle;
use crate::rt::timer::sleep;
use crate::telemetry::histogram::Times;
use crate::telemetry::metrics::Metrics;

/// Between two snapshots.
const INTERVAL: Duration = Duration::from_secs(1);

/// After how long a browser comes back when the stream has broken off.
const RETRY: Duration = Duration::from_secs(1);

/// Asks all workers to show what keeps them busiest.
pub type Ask = Arc<dyn Fn() + Send + Sync>;

/// The event stream of one worker.
pub struct Dashboard {
    worker: Rc<Worker>,
    metrics: Arc<Metrics>,
    ask: Ask,
    /// The first event of each stream: what does not change.
    description: Framed,
    news: Signal,
    latest: RefCell<Option<Framed>>,
    /// The number of the latest snapshot.
    number: Cell<u64>,
    /// Times to the first byte as the latest snapshot found them.
    times: Cell<Times>,
    watchers: Cell<usize>,
    /// Makes snapshots while there are watchers.
    sampler: RefCell<Option<JoinHandle<()>>>,
}

impl Dashboard {
    /// Nobody watches yet.
    pub fn new(worker: &Rc<Worker>, metrics: &Arc<Metrics>, ceiling: &MemoryCeiling, ask: Ask) -> Rc<Self> {
        let description = json!({
            "server": metrics.description(),
            "ceiling": {
                "bytes": ceiling.bytes(),
                "workers": ceiling.workers,
                "process": terms(&ceiling.process),
                "worker": terms(&ceiling.worker),
                "kernel": terms(&ceiling.kernel),
            },
        });
        let data = description.to_string();
        let event = Event { event: Some("server"), retry: Some(RETRY), data: Some(&data), ..Event::default() };
        let description = Framed::new(&sse::encode(&event));
        Rc::new(Dashboard {
            worker: worker.clone(),
            metrics: metrics.clone(),
            ask,
            description,
            news: Signal::new(),
            latest: RefCell::default(),
            number: Cell::new(0),
            times: Cell::default(),
            watchers: Cell::new(0),
            sampler: RefCell::default(),
        })
    }

    /// The stream for one more watcher (S1); 503 when there are enough of them, or the server goes away.
    pub fn answer(self: &Rc<Self>, method: &Method) -> Response {
        if self.worker.draining() || self.watchers.get() >= Limits::DASHBOARDS {
            let text = "The server drains, or as many dashboards watch it as may.";
            return Response::text(StatusCode::SERVICE_UNAVAILABLE, text).field("Retry-After", "1");
        }
        // A HEAD request takes no seat: its reply has the same head, and no body that could give one up.
        let body = if *method == Method::HEAD { Body::stream::<Framed>(empty()) } else { Body::stream(self.watch()) };
        Response::new(StatusCode::OK)
            .field("Content-Type", sse::MEDIA_TYPE)
            .field("Cache-Control", "no-cache, no-transform")
            .field("X-Accel-Buffering", "no")
            .field("X-Content-Type-Options", "nosniff")
            .with_body(body)
    }

    /// The description at once, the latest snapshot, and then each new one, until the server drains.
    fn watch(self: &Rc<Self>) -> impl Stream<Item = Result<Framed, Error>> + use<> {
        let mut seat = Seat::take(self);
        futures_util::stream::poll_fn(move |cx| {
            if seat.drain.poll_changed(cx).is_ready() {
                return Poll::Ready(None);
            }
            if let Some(event) = seat.first.pop() {
                return Poll::Ready(Some(Ok(event)));
            }
            ready!(seat.news.poll_changed(cx));
            Poll::Ready(seat.dashboard.latest.borrow().clone().map(Ok))
        })
    }

    async fn sample(self: Rc<Self>) {
        loop {
            self.take_snapshot();
            self.news.notify();
            sleep(INTERVAL).await;
        }
    }

    fn take_snapshot(&self) {
        let mut times = self.times.get();
        let snapshot = self.metrics.snapshot(&mut times, Limits::BUSIEST_SHOWN);
        self.times.set(times);
        self.number.set(self.number.get() + 1);
        let json = serde_json::to_string(&snapshot).expect("a snapshot is JSON");
        let id = self.number.get().to_string();
        let event = Event { id: Some(&id), data: Some(&json), ..Event::default() };
        *self.latest.borrow_mut() = Some(Framed::new(&sse::encode(&event)));
        (self.ask)();
    }
}

/// Each term of a sum: its name, how many, and the bytes of each.
fn terms(terms: &[Term]) -> Vec<(&'static str, u64, u64)> {
    terms.iter().map(|term| (term.name, term.count, term.each)).collect()
}

/// A watcher's place; the last one that is given up ends the snapshots.
struct Seat {
    dashboard: Rc<Dashboard>,
    /// What it gets at once, the last of it first.
    first: Vec<Framed>,
    news: Watch,
    drain: Watch,
}

impl Seat {
    fn take(dashboard: &Rc<Dashboard>) -> Self {
        let seat = Seat {
            dashboard: dashboard.clone(),
            first: dashboard.latest.borrow().clone().into_iter().chain([dashboard.description.clone()]).collect(),
            // Before the first snapshot, so that it is news.
            news: dashboard.news.watch(),
            drain: dashboard.worker.drain_watch(),
        };
        dashboard.watchers.set(dashboard.watchers.get() + 1);
        dashboard.sampler.borrow_mut().get_or_insert_with(|| {
            dashboard.times.set(dashboard.metrics.first_byte());
            dashboard.worker.runtime.spawn(dashboard.clone().sample())
        });
        seat
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let dashboard = &self.dashboard;
        dashboard.watchers.set(dashboard.watchers.get() - 1);
        if dashboard.watchers.get() == 0 {
            dashboard.latest.take();
            let sampler = dashboard.sampler.take();
            // Outside of the borrow: the task holds the dashboard.
            drop(sampler);
        }
    }
}
