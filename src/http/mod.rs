//! HTTP on connections: what a handler is given, what it gives back, and the exchange between.
//!
//! ```text
//!                 idle: a record in `Connections`          busy: one task, `exchange::serve`
//!   accept ──▶ record ──first bytes──▶ Wire ─▶ head ─▶ framing ─▶ Handler ─▶ send ─▶ drain ─┐
//!                ▲                      ▲                                                  │ more bytes
//!                └──────── park ────────┴──────────────────────────────────────────────────┘
//! ```
//!
//! Invariant: no pooled buffer waits for a client. A receive buffer is picked when bytes have come; what can't be used at once
//! moves to the heap, bounded by the head's limit. A transfer buffer is held while the disk works, and given back before
//! the socket is waited for.

pub mod body;
mod budget;
pub(crate) mod client;
pub(crate) mod connections;
mod draft;
mod exchange;
mod known;
mod multipart;
mod pace;
mod pacing;
pub(crate) mod page;
mod reader;
mod refusal;
mod region;
mod request;
mod response;
mod send;
mod sink;
mod wire;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::LocalBoxFuture;
use http::StatusCode;

use self::known::KnownReplies;
use crate::config::SendPath;
use crate::limits::Limits;
use crate::proto::http1::encode;
use crate::rt::Runtime;
use crate::rt::signal::{Signal, Watch};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::busiest::{BusiestPaths, BusyPath, CountedPath};
use crate::telemetry::metrics::WorkerMetrics;

pub use self::body::{Body, Chunk, FileRegion, Framed, Segment};
pub use self::budget::{Budget, Share};
pub(crate) use self::draft::{Draft, STORE, Target, check_fields, hex, look_up, open_store, random, random_name};
pub(crate) use self::multipart::FormEvent;
pub use self::multipart::{FormError, Multipart, Part, PartHead};
pub use self::pacing::{AddressRates, AddressShare, PacedBody, Pacing};
pub use self::reader::BodyReader;
pub(crate) use self::reader::{Answering, ClientEnd};
pub(crate) use self::refusal::Refusal;
pub use self::request::Request;
pub use self::response::{Holds, Response};
pub(crate) use self::sink::Sink;

/// Answers requests on one worker.
pub trait Handler {
    /// The reply to a request, or the promise of one.
    fn call(&self, request: Request) -> Answer;
}

/// What a handler answers with. A reply that is at hand costs no future.
pub enum Answer {
    /// The reply.
    Now(Response),
    /// The reply when it is ready. The future need not be `Send`: it stays on its thread. Dropping it is how a handler learns
    /// that the client is gone.
    Later(LocalBoxFuture<'static, Response>),
}

impl Answer {
    /// The same answer, which is never repeated to the same request without asking the handler again.
    #[must_use]
    pub fn unrepeated(self) -> Self {
        match self {
            Answer::Now(response) => response.which_holds(None).into(),
            Answer::Later(future) => Answer::Later(Box::pin(async { future.await.which_holds(None) })),
        }
    }

    /// The reply, when it is ready.
    pub async fn response(self) -> Response {
        match self {
            Answer::Now(response) => response,
            Answer::Later(future) => future.await,
        }
    }
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Answer::Now(response)
    }
}

/// Makes a worker's own handler, once on each worker: the seam between what workers share and what each has for itself.
pub trait MakeHandler: Send + Sync {
    /// The handler of the calling worker.
    fn make(&self, worker: &Rc<Worker>) -> Rc<dyn Handler>;
}

impl<F, Fut> MakeHandler for F
where
    F: Fn(Request) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response> + 'static,
{
    fn make(&self, _worker: &Rc<Worker>) -> Rc<dyn Handler> {
        Rc::new(FnHandler(self.clone()))
    }
}

struct FnHandler<F>(F);

impl<F, Fut> Handler for FnHandler<F>
where
    F: Fn(Request) -> Fut,
    Fut: Future<Output = Response> + 'static,
{
    fn call(&self, request: Request) -> Answer {
        Answer::Later(Box::pin((self.0)(request)))
    }
}

/// What the connections of one worker share.
pub struct Worker {
    /// Its runtime.
    pub runtime: Rc<Runtime>,
    /// Its bounds.
    pub limits: Limits,
    /// Its counters.
    pub metrics: Arc<WorkerMetrics>,
    /// Where replies are logged, if anywhere.
    pub access_log: Option<AccessLog>,
    /// How bytes of files reach a socket.
    pub send_path: SendPath,
    /// Entries that the open-file caches of all its routes may hold.
    pub open_files: Budget,
    /// Bytes of small files that they may keep in memory.
    pub hot_files: Budget,
    /// Bytes of names and text fields of forms.
    pub forms: Budget,
    /// Files that may come in at once.
    pub uploads: Budget,
    /// Sub-requests that its guards may have under way.
    pub auth_requests: Budget,
    /// When a reply last went out whole at once.
    quick: Cell<Option<Instant>>,
    /// The paths that keep it busiest, where somebody may want to know.
    busiest: OnceCell<RefCell<BusiestPaths>>,
    /// Known replies of this turn, whose time to the first byte is not counted yet.
    answered_in_turn: Cell<u64>,
    /// Replies to requests that have come before.
    known_replies: KnownReplies,
    draining: Cell<bool>,
    /// Tells those who would go on for ever that the server drains.
    drain: Signal,
    date: Cell<(u64, [u8; 29])>,
}

impl Worker {
    /// The shared state of the calling thread's worker.
    pub(crate) fn new(
        runtime: &Rc<Runtime>,
        limits: Limits,
        metrics: Arc<WorkerMetrics>,
        access_log: Option<AccessLog>,
        send_path: SendPath,
    ) -> Rc<Self> {
        let runtime = runtime.clone();
        let date = Cell::new((0, encode::http_date(0)));
        let (open_files, hot_files) = (Budget::new(limits.open_files), Budget::new(limits.hot_files));
        let forms = Budget::new(limits.form_bytes);
        let uploads = Budget::new(limits.uploads);
        let auth_requests = Budget::new(limits.auth_requests);
        let draining = Cell::new(false);
        let known_replies = KnownReplies::new();
        let quick = Cell::new(None);
        let (busiest, answered_in_turn) = (OnceCell::new(), Cell::new(0));
        Rc::new(Worker {
            runtime,
            limits,
            metrics,
            access_log,
            open_files,
            hot_files,
            forms,
            uploads,
            auth_requests,
            busiest,
            answered_in_turn,
            known_replies,
            quick,
            send_path,
            draining,
            drain: Signal::new(),
            date,
        })
    }

    /// Whether the server is going away: replies say `Connection: close`.
    pub fn draining(&self) -> bool {
        self.draining.get()
    }

    /// What changes when the server begins to go away: a reply without an end of its own ends then. Nobody needs to look at it
    /// where [`Worker::draining`] is true already.
    pub fn drain_watch(&self) -> Watch {
        self.drain.watch()
    }

    /// Begins to go away.
    fn begin_to_drain(&self) {
        self.draining.set(true);
        self.drain.notify();
    }

    /// A part of the bytes for hot files, for which known replies make room that do not hold any more.
    pub(crate) fn hot_share(&self, len: usize) -> Option<Share> {
        self.hot_files.take(len).or_else(|| {
            self.known_replies.forget_expired(self.runtime.now());
            self.hot_files.take(len)
        })
    }

    /// Counts a reply by its status.
    fn count_answer(&self, status: u16) {
        self.metrics.responses.count(status);
        if status == StatusCode::PARTIAL_CONTENT {
            self.metrics.ranges.increment();
        }
    }

    /// From now on, requests are counted by their paths: costs a look-up for each.
    pub(crate) fn count_paths(&self) {
        let new = || BusiestPaths::new(Limits::BUSIEST_PATHS, Limits::BUSIEST_PATH_LEN, self.runtime.now());
        self.busiest.get_or_init(|| RefCell::new(new()));
    }

    /// The paths that have kept it busiest; none where they are not counted.
    pub(crate) fn busiest_paths(&self) -> Vec<BusyPath> {
        self.busiest.get().map_or_else(Vec::new, |busiest| busiest.borrow_mut().list(self.runtime.now()))
    }

    /// What to count this path by, if it is counted.
    fn counted_path(&self, path: &str) -> Option<Rc<CountedPath>> {
        self.busiest.get()?.borrow().path(path)
    }

    /// So many more requests for a path, and bytes of it.
    fn count_path(&self, path: Option<&Rc<CountedPath>>, requests: u64, bytes: u64) {
        if let (Some(busiest), Some(path)) = (self.busiest.get(), path)
            && requests + bytes > 0
        {
            busiest.borrow_mut().count(path, requests, bytes, self.runtime.now());
        }
    }

    /// Notes a known reply whose first byte has left in this turn.
    fn note_answered_in_turn(&self) {
        self.answered_in_turn.set(self.answered_in_turn.get() + 1);
    }

    /// A turn is over. What it answered by known replies had its first byte by now: one look at the clock for all of them, where
    /// one for each would be half a hundredth of what such a reply costs.
    fn count_answered_in_turn(&self) {
        let answered = self.answered_in_turn.take();
        if answered > 0 {
            let time = self.runtime.precise_now().saturating_duration_since(self.runtime.now());
            self.metrics.time_to_first_byte.observe_several(time, answered);
        }
    }

    /// Notes a reply that went out whole at once.
    fn note_quick(&self) {
        self.quick.set(Some(self.runtime.now()));
    }

    /// How many bytes a long transfer moves in a turn: a high water mark, or a part of it while there are others in this worker
    /// whose replies are short, because each turn of each transfer is a time that they wait.
    fn turn_len(&self) -> u64 {
        let mark = self.limits.high_water_mark as u64;
        let now = self.runtime.now();
        let has_quick = self.quick.get().is_some_and(|at| now.saturating_duration_since(at) < Limits::QUICK_FOR);
        if has_quick { mark.min(Limits::TURN_BESIDE_QUICK as u64) } else { mark }
    }

    /// The Date field's value for now, made once a second.
    fn date(&self) -> [u8; 29] {
        let now = self.runtime.wall_clock().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let (second, date) = self.date.get();
        if second == now {
            return date;
        }
        let date = encode::http_date(now);
        self.date.set((now, date));
        date
    }

    /// Shows what is held now, at the end of a turn.
    pub(crate) fn note_resources(&self) {
        self.count_answered_in_turn();
        let counts = self.runtime.driver().counts();
        self.metrics.submissions.set(counts.submissions);
        self.metrics.completions.set(counts.completions);
        self.metrics.operations_in_flight.set(self.runtime.driver().slots().in_flight() as u64);
        self.metrics.receive_buffers_in_use.set(self.runtime.receive_pool().in_use() as u64);
        self.metrics.upload_buffers_in_use.set(self.runtime.upload_pool().in_use() as u64);
        self.metrics.transfer_buffers_in_use.set(self.runtime.transfer_pool().in_use() as u64);
        self.metrics.notsent_lowat_bytes.set(self.limits.notsent_lowat() as u64);
        self.metrics.pipes_open.set(self.runtime.pipe_pool().open() as u64);
        self.metrics.pipes_in_use.set(self.runtime.pipe_pool().in_use() as u64);
        self.metrics.tasks.set(self.runtime.tasks().live() as u64);
    }

    /// The time of day.
    pub fn wall_clock(&self) -> SystemTime {
        self.runtime.wall_clock()
    }
}
