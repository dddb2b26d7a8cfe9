//! `GET`: items go out one after the other, each to one consumer.
//!
//! The send path asks for the next piece when it has handed the one before to the kernel. So the question for what follows an item's last
//! piece is the news that it was sent; and a stream that is dropped before that question gives its item back.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_core::stream::LocalBoxStream;
use futures_util::StreamExt;
use http::StatusCode;

use super::ask::Consume;
use super::core::{Carry, Core, Delivery, Seat};
use super::item::Rendering;
use super::patience::Patience;
use super::reply::Refusal;
use super::state::Side;
use crate::error::Error;
use crate::http::{Body, ClientEnd, Response, Segment, Worker};

/// A consumer under way.
struct Consumer {
    /// Before the seat, so that an item that was not sent is in the queue before anybody is told that a consumer left.
    sending: Option<Sending>,
    seat: Seat,
    patience: Patience,
    client: ClientEnd,
    ask: Consume,
    lease: Duration,
    left: u64,
    counted: Counted,
}

/// An item on its way.
struct Sending {
    delivery: Delivery,
    rendering: Rendering,
    /// The memory that it takes.
    _carry: Option<Carry>,
}

/// Counts a consumer for as long as it lives.
struct Counted(Rc<Worker>);

impl Counted {
    fn new(worker: &Rc<Worker>) -> Self {
        worker.metrics.queue_consumers.increment();
        Counted(worker.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.queue_consumers.decrement();
    }
}

/// Answers a consumer.
pub(super) async fn get(
    core: &Arc<Core>,
    worker: &Rc<Worker>,
    lease: Duration,
    queue: &Arc<str>,
    ask: Consume,
    client: ClientEnd,
) -> Result<Response, Refusal> {
    let seat = core.join(queue, Side::Consumer).map_err(|_| Refusal::too_many_queues())?;
    let lease = ask.lease_for.map_or(lease, |shorter| shorter.min(lease));
    let is_single = ask.raw && ask.max == Some(1);
    let consumer = Consumer {
        sending: None,
        seat,
        patience: Patience::new(worker),
        client,
        left: ask.max.unwrap_or(u64::MAX),
        ask,
        lease,
        counted: Counted::new(worker),
    };
    if is_single {
        return consumer.single().await;
    }
    let media_type = if consumer.ask.raw { "application/octet-stream" } else { "application/x-ndjson" };
    Ok(no_store(Response::new(StatusCode::OK))
        .field("Content-Type", media_type)
        .field("X-Accel-Buffering", "no")
        .with_body(Body::Stream { items: consumer.into_items(), len: None }))
}

/// Each item is for one reader.
fn no_store(response: Response) -> Response {
    response.field("Cache-Control", "no-store").field("X-Content-Type-Options", "nosniff")
}

impl Consumer {
    /// One item as it came, as a reply of its own.
    async fn single(mut self) -> Result<Response, Refusal> {
        let sending = self.next_item().await.map_err(Refusal::unreadable)?;
        let Some(sending) = sending else {
            return Ok(no_store(Response::new(StatusCode::NO_CONTENT)));
        };
        // A producer's document is nobody's page here, whatever it says that it is.
        let mut response = no_store(Response::new(StatusCode::OK)).field("Content-Security-Policy", "sandbox");
        let content_type = sending.rendering.content_type();
        if !content_type.is_empty() {
            response = response.field("Content-Type", content_type);
        }
        if self.ask.ack {
            let mark = sending.delivery.mark();
            response = response.field("Queue-Lease", mark.id).field("Queue-Attempt", mark.attempt.to_string());
        }
        let len = Some(sending.rendering.data_len());
        self.left = 0;
        self.sending = Some(sending);
        Ok(response.with_body(Body::Stream { items: self.into_items(), len }))
    }

    fn into_items(self) -> LocalBoxStream<'static, Result<Segment, Error>> {
        futures_util::stream::unfold(self, |mut consumer| async {
            let piece = consumer.next_piece().await.transpose()?;
            Some((piece.map(Segment::Bytes), consumer))
        })
        .boxed_local()
    }

    /// The next piece of an item; none at the end of the stream.
    ///
    /// # Errors
    /// An item can't be read now.
    async fn next_piece(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(piece) = self.sending.as_mut().and_then(|sending| sending.rendering.next_piece()) {
                return Ok(Some(piece));
            }
            if let Some(Sending { delivery, .. }) = self.sending.take() {
                delivery.sent(self.lease);
                self.counted.0.metrics.queue_items_out.increment();
            }
            if self.left == 0 {
                return Ok(None);
            }
            let next = self.next_item().await;
            let next = next.map_err(|error| Error::server("an item of a queue can't be read").because(error))?;
            if next.is_none() {
                return Ok(None);
            }
            self.sending = next;
            self.left -= 1;
        }
    }

    /// Waits for an item, as long as the consumer does.
    async fn next_item(&mut self) -> io::Result<Option<Sending>> {
        let deadline = self.patience.deadline(self.ask.wait);
        loop {
            let Some(mut delivery) = self.take(deadline).await else { return Ok(None) };
            let Some((item, carry)) = delivery.item().await? else { continue };
            let rendering = match (self.ask.raw, self.ask.ack) {
                (true, _) => Rendering::raw(item),
                (false, true) => Rendering::line(item, Some(&delivery.mark())),
                (false, false) => Rendering::line(item, None),
            };
            return Ok(Some(Sending { delivery, rendering, _carry: carry }));
        }
    }

    async fn take(&mut self, deadline: Option<Instant>) -> Option<Delivery> {
        let Consumer { seat, patience, client, ask: Consume { ack, .. }, .. } = self;
        std::future::poll_fn(|cx| {
            loop {
                let mut expiry = None;
                if let Poll::Ready(taken) = seat.poll_take(*ack, cx, |at| expiry = at) {
                    return Poll::Ready(taken);
                }
                // A client that has closed is not told from one that still reads until something is sent to it; so it gets
                // what there is, and the next item is not for it.
                if client.poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                // A lease may run out while everybody waits.
                let first = [deadline, expiry].into_iter().flatten().min();
                if patience.poll_over(first, cx).is_pending() {
                    return Poll::Pending;
                }
                if patience.is_over(deadline) {
                    return Poll::Ready(None);
                }
            }
        })
        .await
    }
}
