//! Queues: bounded, between producers and consumers, each item to one consumer.
//!
//! ```text
//!   POST ─▶ room, or held back ─▶ item ─▶ (journal) ─▶ ready ─▶ first consumer in line ─▶ pieces ─▶ kernel has all: done, or leased
//!           body not asked for                           ▲                                   │        DELETE ?lease=: done
//!                                                        └──── client left ── lease ran out ─┘
//! ```
//!
//! A producer over the high water mark is not read from, so TCP slows it down; a consumer is given one item at a time, and the next one
//! when the kernel has all of that (T1). An item is taken off when it was sent whole: whoever leaves before that, gives it back to the
//! front. What is behind that, the network and the consumer's own end, is for leases: what is not acknowledged in time is
//! delivered again.
//!
//! Rejected: batches of items for one consumer, which a slow one would hold while others wait; and a consumer that is known by name and
//! has a place in the stream, which is what `events` is for.

mod ask;
mod consume;
mod core;
mod item;
mod ledger;
mod patience;
mod produce;
mod record;
mod reply;
mod state;

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use ::http::{Method, StatusCode};
use futures_timer::Delay;
use futures_util::FutureExt;

use self::core::{Core, Delivery, Seat};
use self::reply::Refusal;
use self::state::{Arrival, Side};
use crate::config::QueueConfig;
use crate::error::Error;
use crate::http::{Answer, Handler, MakeHandler, Request, Response, Worker};
use crate::limits::Limits;
use crate::proto::cors::Cors;
use crate::telemetry::metrics::Depths;

pub use self::item::{Item, NotJson};

/// The queues of a route, as a handler and for the program that it is embedded in. Every clone is the same queues.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

struct Shared {
    config: QueueConfig,
    cors: Option<Cors>,
    core: Arc<Core>,
}

impl Queue {
    /// Queues with these bounds. With a journal, what it holds is read, which takes a moment.
    ///
    /// # Errors
    /// The operator's fault: what of the configuration can't be used, or why the journal can't be opened.
    pub fn new(config: QueueConfig) -> Result<Self, Error> {
        config.check().map_err(Error::operator)?;
        let core = Core::open(&config)?;
        Ok(Queue::with(config, core))
    }

    /// The same queues with other bounds, which hold for both from now on. With another journal they are other queues.
    ///
    /// # Errors
    /// As [`Queue::new`], and where `journal_sync` changes of a journal that stays.
    pub(crate) fn reconfigured(&self, config: QueueConfig) -> Result<Self, Error> {
        config.check().map_err(Error::operator)?;
        if config.journal != self.0.config.journal {
            return Queue::new(config);
        }
        if config.journal.is_some() && config.journal_sync != self.0.config.journal_sync {
            let text = "journal_sync: the journal is open and can't be written in another way: restart the server";
            return Err(Error::operator(text));
        }
        Ok(Queue::with(config, self.0.core.clone()))
    }

    /// Makes its bounds those of the queues, once all of a new configuration is taken.
    pub(crate) fn apply(&self) {
        self.0.core.rebound(&self.0.config);
    }

    fn with(config: QueueConfig, core: Arc<Core>) -> Self {
        Queue(Arc::new(Shared { cors: config.sharing(), config, core }))
    }

    /// Puts an item into the queue of this name, waiting while the queue is over its bounds; from any thread. It is in the journal then, if
    /// there is one.
    ///
    /// # Errors
    /// The client's fault: the item is too long. The server's: there are too many queues, or the journal can't be written.
    pub async fn push(&self, name: &str, item: Item) -> Result<(), Error> {
        if item.data().len() > self.0.config.item_len || item.content_type().len() > Limits::QUEUE_TYPE_LEN {
            return Err(Error::client("the item is too long for the queue"));
        }
        let unwritten = |error| Error::server("the queue's journal can't be written").because(error);
        let mut seat = self.seat(name, Side::Producer)?;
        let claimed = seat.claim(item.len(), Arrival::InHand, core::in_place).await.map_err(unwritten)?;
        claimed.put(item).await.map_err(unwritten)
    }

    /// Takes the first item of the queue of this name, waiting while there is none; from any thread. `None` is the end of its stream.
    /// Dropped while it waits, it takes nothing.
    ///
    /// # Errors
    /// The server's fault: there are too many queues, or the item can't be read.
    pub async fn take(&self, name: &str) -> Result<Option<Item>, Error> {
        let mut seat = self.seat(name, Side::Consumer)?;
        loop {
            let Some(mut delivery) = next_in(&mut seat).await else { return Ok(None) };
            let item = delivery.item().await.map_err(|error| Error::server("the item can't be read").because(error))?;
            if let Some((item, _)) = item {
                delivery.sent(self.0.config.lease);
                return Ok(Some(item));
            }
        }
    }

    /// Waits, on the calling thread, until the journal has what it was given: that items are done is written behind them. A program calls
    /// it before it ends, or those are delivered again; a server does it for the queues of its configuration.
    pub fn settle(&self) {
        self.0.core.settle();
    }

    /// Adds what the queues hold.
    pub(crate) fn add_to(&self, depths: &mut Depths) {
        self.0.core.add_to(depths);
    }

    fn seat(&self, name: &str, side: Side) -> Result<Seat, Error> {
        let seat = ask::name(name).map(|queue| self.0.core.join(&queue, side));
        match seat {
            Ok(Ok(seat)) => Ok(seat),
            Ok(Err(_)) => Err(Error::server("there are as many queues as there may be").retry_later()),
            Err(_) => Err(Error::client("a queue's name is 1 to 255 bytes without control characters")),
        }
    }
}

/// Waits for an item, also for one whose lease runs out meanwhile; on any thread, so by a timer that is no worker's.
async fn next_in(seat: &mut Seat) -> Option<Delivery> {
    let mut alarm: Option<(Instant, Delay)> = None;
    std::future::poll_fn(|cx| {
        let mut expiry = None;
        if let Poll::Ready(taken) = seat.poll_take(false, cx, |at| expiry = at) {
            return Poll::Ready(taken);
        }
        if alarm.as_ref().map(|(at, _)| *at) != expiry {
            alarm = expiry.map(|at| (at, Delay::new(at.saturating_duration_since(core::now()))));
        }
        if alarm.as_mut().is_some_and(|(_, delay)| delay.poll_unpin(cx).is_ready()) {
            alarm = None;
            // A worker's time stands still within a turn.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue({:?})", self.0.config)
    }
}

impl MakeHandler for Queue {
    fn make(&self, worker: &Rc<Worker>) -> Rc<dyn Handler> {
        Rc::new(QueueHandler { shared: self.0.clone(), worker: worker.clone() })
    }
}

struct QueueHandler {
    shared: Arc<Shared>,
    worker: Rc<Worker>,
}

/// What pages of other sites may use here.
const METHODS: &str = "GET, HEAD, POST, DELETE, OPTIONS";

impl Handler for QueueHandler {
    fn call(&self, request: Request) -> Answer {
        let preflight = request.fields().contains("Access-Control-Request-Method");
        if let Some(cors) = self.shared.cors.as_ref().filter(|_| request.method() == Method::OPTIONS && preflight) {
            return Response::new(StatusCode::NO_CONTENT)
                .fields(cors.preflight_fields(request.fields(), METHODS))
                .into();
        }
        let (shared, worker) = (self.shared.clone(), self.worker.clone());
        Answer::Later(Box::pin(async move {
            let fields = shared.cors.as_ref().map(|cors| cors.reply_fields(request.fields()));
            let response = shared.answer(&worker, request).await.unwrap_or_else(Response::from);
            response.fields(fields.into_iter().flatten())
        }))
    }
}

impl Shared {
    /// What is large is boxed, because a consumer that waits is no request any more.
    async fn answer(&self, worker: &Rc<Worker>, request: Request) -> Result<Response, Refusal> {
        let queue = ask::queue(request.path_in_route())?;
        match *request.method() {
            Method::GET => {
                let ask = ask::consume(request.query())?;
                if ask.status {
                    return Ok(reply::depth(self.core.depth(&queue)));
                }
                let client = request.into_body().into_client_end();
                Box::pin(consume::get(&self.core, worker, self.config.lease, &queue, ask, client)).await
            }
            Method::HEAD => Ok(reply::depth_fields(self.core.depth(&queue))),
            Method::POST => {
                let ask = ask::produce(request.query())?;
                if let Some(lease) = &ask.release {
                    self.core.release(&queue, lease).map_err(|why| Refusal::no_lease(why, lease))?;
                    return Ok(Response::new(StatusCode::NO_CONTENT));
                }
                Box::pin(produce::post(&self.core, worker, self.config.item_len, &queue, ask, request)).await
            }
            Method::DELETE => Box::pin(self.acknowledge(&queue, &request)).await,
            Method::OPTIONS => Ok(Response::new(StatusCode::NO_CONTENT).field("Allow", METHODS)),
            _ => Ok(Response::problem(StatusCode::METHOD_NOT_ALLOWED, "METHOD", &format!("Use {METHODS}."))
                .field("Allow", METHODS)),
        }
    }

    async fn acknowledge(&self, queue: &Arc<str>, request: &Request) -> Result<Response, Refusal> {
        let leases = ask::leases(request.query())?;
        let answers = self.core.acknowledge(queue, &leases).await.map_err(Refusal::unwritten)?;
        // The others are acknowledged whatever is said of the first that can't be.
        let refused = answers.into_iter().zip(&leases).find_map(|(answer, lease)| Some((answer.err()?, lease)));
        match refused {
            Some((why, lease)) => Err(Refusal::no_lease(why, lease)),
            None => Ok(Response::new(StatusCode::NO_CONTENT)),
        }
    }
}

#[cfg(test)]
mod tests;
