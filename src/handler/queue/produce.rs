//! `POST`: a body becomes an item, or each of its lines does.
//!
//! Who is held back holds nothing: room for an item whose length is known is waited for before its body is asked for, so TCP slows
//! its producer down. Of a body in pieces, what has come is counted among what producers have in their hands; where there is no memory
//! for more, the producer is refused and not held back, because those who wait with full hands could wait for each other.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::ask::Produce;
use super::core::{Claimed, Core, Hand, Seat};
use super::item::Item;
use super::patience::{Over, Patience};
use super::reply::{self, Refusal};
use super::state::{Arrival, Side};
use crate::http::{Request, Response, Worker};
use crate::limits::Limits;
use crate::proto::ndjson::{self, Line, LineTooLong, Lines};
use crate::rt::yield_now;

/// A producer's request under way.
struct Producer {
    core: Arc<Core>,
    seat: Seat,
    patience: Patience,
    wait: Option<Duration>,
    item_len: usize,
    worker: Rc<Worker>,
    taken: u64,
}

/// Takes what a request brings.
pub(super) async fn post(
    core: &Arc<Core>,
    worker: &Rc<Worker>,
    item_len: usize,
    queue: &Arc<str>,
    ask: Produce,
    mut request: Request,
) -> Result<Response, Refusal> {
    let content_type = content_type(&request)?;
    let seat = core.join(queue, Side::Producer).map_err(|_| Refusal::too_many_queues())?;
    let (patience, worker) = (Patience::new(worker), worker.clone());
    let mut producer = Producer { core: core.clone(), seat, patience, wait: ask.wait, item_len, worker, taken: 0 };
    let is_only_the_end = ask.ends && request.body().remaining() == Some(0);
    let result = match ndjson::is_ndjson(&content_type) {
        _ if is_only_the_end => Ok(()),
        true => producer.lines(&mut request).await,
        false => producer.whole(&mut request, content_type).await,
    };
    let taken = producer.taken;
    result.map_err(|refusal| refusal.after(taken))?;
    if ask.ends {
        core.end(queue).await.map_err(|error| Refusal::unwritten(error).after(taken))?;
    }
    Ok(reply::taken(taken))
}

impl Producer {
    /// A body that is one item.
    async fn whole(&mut self, request: &mut Request, content_type: Bytes) -> Result<(), Refusal> {
        let mut hand = Hand::empty(&self.core);
        let (claimed, data) = match request.body().remaining() {
            Some(len) => {
                let len = usize::try_from(len).ok().filter(|len| *len <= self.item_len);
                let len = len.ok_or_else(|| Refusal::too_long(self.item_len))?;
                let claimed = self.claim(content_type.len() + len, Arrival::ToCome).await?;
                let mut data = Vec::with_capacity(len);
                while let Some(piece) = request.body().next().await {
                    data.extend_from_slice(&piece.map_err(|error| Refusal::broken_body(&error))?);
                }
                (claimed, data)
            }
            None => {
                self.wait_with_empty_hands().await?;
                let mut data = Vec::new();
                while let Some(piece) = request.body().next().await {
                    let piece = piece.map_err(|error| Refusal::broken_body(&error))?;
                    let len = data.len() + piece.len();
                    if len > self.item_len {
                        return Err(Refusal::too_long(self.item_len));
                    }
                    // A vector grows by doubling.
                    if !hand.hold(2 * len) {
                        return Err(Refusal::busy());
                    }
                    data.extend_from_slice(&piece);
                }
                (self.claim(content_type.len() + data.len(), Arrival::InHand).await?, data)
            }
        };
        let item = Item::new(content_type, data).map_err(|_| Refusal::not_json())?;
        self.put(claimed, item).await
    }

    /// A body of lines, each a JSON value and an item.
    async fn lines(&mut self, request: &mut Request) -> Result<(), Refusal> {
        self.wait_with_empty_hands().await?;
        let item_len = self.item_len;
        let too_long = |LineTooLong { line, .. }| Refusal::too_long(item_len).in_line(line);
        let (mut lines, mut hand) = (Lines::new(item_len), Hand::empty(&self.core));
        while let Some(piece) = request.body().next().await {
            // A copy, because a buffer of the pool waits for nobody.
            let piece = Bytes::from(piece.map_err(|error| Refusal::broken_body(&error))?);
            if !hand.hold(piece.len() + 2 * lines.held()) {
                return Err(Refusal::busy());
            }
            let mut rest = &piece[..];
            let mut in_turn = 0;
            while let Some(line) = lines.next(&mut rest).map_err(too_long)? {
                self.line(line).await?;
                in_turn += 1;
                if in_turn % Limits::LINES_IN_A_TURN == 0 {
                    yield_now().await;
                }
            }
            if !hand.hold(2 * lines.held()) {
                return Err(Refusal::busy());
            }
        }
        match lines.finish() {
            Some(line) => self.line(line).await,
            None => Ok(()),
        }
    }

    async fn line(&mut self, line: Line) -> Result<(), Refusal> {
        let json = Bytes::from(line.text);
        let item = Item::json(json).map_err(|_| Refusal::not_json().in_line(line.number))?;
        let claimed = self.claim(item.len(), Arrival::InHand).await?;
        self.put(claimed, item).await.map_err(|refusal| refusal.in_line(line.number))
    }

    async fn put(&mut self, claimed: Claimed, item: Item) -> Result<(), Refusal> {
        claimed.put(item).await.map_err(Refusal::unwritten)?;
        self.taken += 1;
        self.worker.metrics.queue_items_in.increment();
        Ok(())
    }

    /// Waits until there is room for anything, before the body is asked for.
    async fn wait_with_empty_hands(&mut self) -> Result<(), Refusal> {
        self.claim(0, Arrival::InHand).await.map(drop)
    }

    async fn claim(&mut self, len: usize, arrival: Arrival) -> Result<Claimed, Refusal> {
        // Who does not wait leaves room for the next one all the same.
        let copy = async |copying| self.worker.runtime.spawn(copying).lasting().await;
        match self.patience.race(self.wait, self.seat.claim(len, arrival, copy)).await {
            Ok(claimed) => claimed.map_err(Refusal::unwritten),
            Err(Over::Late) => Err(Refusal::full()),
            Err(Over::Draining) => Err(Refusal::draining()),
        }
    }
}

fn content_type(request: &Request) -> Result<Bytes, Refusal> {
    let value = request.fields().get("Content-Type").unwrap_or_default().trim_ascii();
    if value.len() > Limits::QUEUE_TYPE_LEN {
        let text = format!("A media type has {} bytes at most.", Limits::QUEUE_TYPE_LEN);
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "TYPE", text));
    }
    Ok(Bytes::copy_from_slice(value))
}
