//! The body of a subscriber's reply: events as they come, comments when none does, and an end when the server goes away.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;

use super::subscription::{Item, Lost, Subscriber};
use super::topic::Loss;
use crate::error::Error;
use crate::http::{Answering, ClientEnd, Framed, Segment, Worker};
use crate::limits::Limits;
use crate::proto::sse::{self, Event};
use crate::rt::signal::Watch;
use crate::rt::timer::Timer;

/// Events that wait together go out in one piece, up to so many bytes.
const TOGETHER: usize = 16 << 10;

/// The type of the event that tells what was lost.
const LOST: &str = "lost";

/// A subscriber's stream.
pub(super) struct Feed {
    subscriber: Subscriber,
    worker: Rc<Worker>,
    heartbeat: Framed,
    every: Duration,
    timer: Timer,
    drain: Watch,
    /// Tells when the client has finished its side, until it has.
    client: Option<ClientEnd>,
    /// A client that vanished without a word is told by the heartbeat that it does not acknowledge (S4).
    _answering: Answering,
    /// What is sent before anything else.
    first: Vec<u8>,
    /// What was found while events were put together, and did not fit.
    ahead: Option<Item>,
    /// What is behind an id that was sent, in the memory that all share.
    rest: Option<Bytes>,
}

impl Feed {
    /// A stream to this subscriber, whose own end `client` tells. `retry` is what it is told first, and then what it has lost.
    pub fn new(
        subscriber: Subscriber,
        worker: &Rc<Worker>,
        client: ClientEnd,
        heartbeat: (Framed, Duration),
        retry: Option<Duration>,
        lost: &[Lost],
    ) -> Self {
        let mut first = Vec::new();
        if retry.is_some() {
            first.extend(sse::encode(&Event { retry, ..Event::default() }));
        }
        for lost in lost {
            worker.metrics.events_lost.add(lost.count().unwrap_or(0));
            first.extend(notice(lost));
        }
        worker.metrics.subscribers.increment();
        let (heartbeat, every) = heartbeat;
        let timer = Timer::new(&worker.runtime);
        timer.set_after(every);
        let (worker, drain) = (worker.clone(), worker.drain_watch());
        Feed {
            subscriber,
            worker,
            heartbeat,
            every,
            timer,
            drain,
            _answering: client.answering_within(every.clamp(Limits::ANSWER_WITHIN.0, Limits::ANSWER_WITHIN.1)),
            client: Some(client),
            first,
            ahead: None,
            rest: None,
        }
    }

    /// What there is to be sent now.
    fn gather(&mut self) -> Option<Segment> {
        if !self.first.is_empty() {
            return Some(Bytes::from(std::mem::take(&mut self.first)).into());
        }
        if let Some(rest) = self.rest.take() {
            return Some(rest.into());
        }
        let item = self.ahead.take().or_else(|| self.subscriber.try_next())?;
        if let Item::Event { lines, id_line_len, .. } = &item
            && self.subscriber.has_several()
            && lines.data().len() > TOGETHER
        {
            self.worker.metrics.events_delivered.increment();
            self.rest = Some(lines.data_from(*id_line_len));
            return Some(Bytes::from(format!("id: {}\n", self.subscriber.positions())).into());
        }
        let is_alone = |feed: &mut Self| {
            feed.ahead = feed.subscriber.try_next();
            feed.ahead.is_none()
        };
        // The usual case: one event, whose bytes all subscribers share.
        if let Item::Event { lines, renamed: None, .. } = &item
            && !self.subscriber.has_several()
            && (lines.data().len() > TOGETHER || is_alone(self))
        {
            self.worker.metrics.events_delivered.increment();
            return Some(lines.clone().into());
        }
        let mut bytes = Vec::new();
        self.write(&item, &mut bytes);
        while let Some(next) = self.ahead.take().or_else(|| self.subscriber.try_next()) {
            if bytes.len() + next.len() > TOGETHER {
                self.ahead = Some(next);
                break;
            }
            self.write(&next, &mut bytes);
        }
        Some(Bytes::from(bytes).into())
    }

    /// The lines of an item. Of several topics, the id is where the subscriber is in all of them.
    fn write(&self, item: &Item, out: &mut Vec<u8>) {
        match item {
            Item::Lost(lost) => {
                self.worker.metrics.events_lost.add(lost.count().unwrap_or(0));
                out.extend(notice(lost));
            }
            Item::Event { lines, id_line_len, renamed } => {
                self.worker.metrics.events_delivered.increment();
                let lines = lines.data();
                let id = match renamed {
                    _ if self.subscriber.has_several() => self.subscriber.positions().to_string(),
                    Some(position) => position.to_string(),
                    None => return out.extend_from_slice(lines),
                };
                out.extend_from_slice(format!("id: {id}\n").as_bytes());
                out.extend_from_slice(&lines[*id_line_len..]);
            }
        }
    }
}

impl Stream for Feed {
    type Item = Result<Segment, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let feed = &mut *self;
        loop {
            // First, so that what a look finds is all that there was when it was told.
            let has_changed = feed.subscriber.poll_changed(cx).is_ready();
            if let Some(segment) = feed.gather() {
                feed.timer.set_after(feed.every);
                return Poll::Ready(Some(Ok(segment)));
            }
            // Nobody waits for a drain that has begun: a client that is cut off here comes back to whoever serves next.
            if feed.subscriber.has_ended() || feed.worker.draining() {
                return Poll::Ready(None);
            }
            if has_changed || feed.drain.poll_changed(cx).is_ready() {
                continue;
            }
            // A client that has finished may still read (F10), or it has closed: what it is sent now finds out which.
            let has_finished = feed.client.as_mut().is_some_and(|client| client.poll(cx).is_ready());
            if has_finished {
                feed.client = None;
            }
            if has_finished || feed.timer.poll_expired(cx).is_ready() {
                feed.timer.set_after(feed.every);
                return Poll::Ready(Some(Ok(feed.heartbeat.clone().into())));
            }
            return Poll::Pending;
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.worker.metrics.subscribers.decrement();
    }
}

impl Item {
    /// About how many bytes it is.
    fn len(&self) -> usize {
        match self {
            Item::Event { lines, .. } => lines.data().len(),
            Item::Lost(_) => 0,
        }
    }
}

/// What a subscriber is told of what it has lost: an event without an id, so that its position stays what it was.
fn notice(lost: &Lost) -> Vec<u8> {
    let (reason, count) = match lost.loss {
        Loss::Gone(count) if lost.was_slow => ("slow", Some(count)),
        Loss::Gone(count) => ("expired", Some(count)),
        Loss::Unknown => ("unknown", None),
        Loss::Ahead => ("ahead", None),
    };
    let data = serde_json::json!({ "topic": &*lost.topic, "reason": reason, "lost": count }).to_string();
    sse::encode(&Event { event: Some(LOST), data: Some(&data), ..Event::default() })
}
