//! Publishing by a request: a body that is one event, or lines of JSON that are one each.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use serde_json::json;

use super::hub::Begun;
use super::message::Message;
use super::position::Position;
use super::refusal::Refusal;
use super::topic::Topic;
use super::{Desk, single_topic};
use crate::http::{Request, Response};
use crate::limits::Limits;
use crate::proto::ndjson::{self, LineTooLong, Lines};
use crate::rt::yield_now;

/// Answers a POST.
pub(super) async fn post(desk: &Rc<Desk>, request: Request) -> Response {
    match single(desk, &request) {
        Err(refusal) => refusal.response(None),
        Ok((topic, message)) if is_many(&request) => many(desk, &topic, &message, request).await,
        Ok((topic, message)) => {
            one(desk, &topic, message, request).await.unwrap_or_else(|refusal| refusal.response(None))
        }
    }
}

fn is_many(request: &Request) -> bool {
    request.fields().get("Content-Type").is_some_and(ndjson::is_ndjson)
}

/// The topic, and what is said beside the body.
fn single(desk: &Rc<Desk>, request: &Request) -> Result<(Arc<Topic>, Message), Refusal> {
    let (message, topics) = Message::of_request(request.query(), request.fields())?;
    message.check(usize::MAX)?;
    let name = single_topic(request, &topics)?;
    let topic = desk.shared.hub.topic(&name, &desk.shared.rules, desk.now_ms())?;
    Ok((topic, message))
}

async fn one(
    desk: &Rc<Desk>,
    topic: &Arc<Topic>,
    mut message: Message,
    mut request: Request,
) -> Result<Response, Refusal> {
    let (rules, hub) = (&desk.shared.rules, &desk.shared.hub);
    let len = request.body().remaining();
    if len.is_some_and(|len| len > rules.event_len as u64) {
        return Err(Refusal::TooLong(rules.event_len));
    }
    // The body is in memory until it is an event.
    let len = len.and_then(|len| usize::try_from(len).ok()).unwrap_or(rules.event_len);
    let held = hub.room_for(topic, len, rules, desk.now_ms())?;
    let mut body = Vec::with_capacity(request.body().remaining().map_or(0, |_| len));
    while let Some(chunk) = request.body().next().await {
        let chunk = chunk.map_err(Refusal::Body)?;
        if chunk.len() > rules.event_len - body.len() {
            return Err(Refusal::TooLong(rules.event_len));
        }
        body.extend_from_slice(&chunk);
    }
    message.data = String::from_utf8(body).map_err(|_| Refusal::Malformed("the event is not UTF-8".into()))?;
    let own = message.id.clone();
    let position = hub.publish(topic, message, rules, desk.now_ms()).await?;
    drop(held);
    desk.worker.metrics.events_published.increment();
    let id = own.unwrap_or_else(|| position.to_string());
    let told = json!({ "topic": &*topic.name, "id": id, "subscribers": topic.subscribers() });
    Ok(Response::new(StatusCode::OK).with_json(told.to_string()))
}

/// A body of many events. Each is published as its line comes; those before one that is refused stay published, and the reply says
/// how many.
async fn many(desk: &Rc<Desk>, topic: &Arc<Topic>, beside: &Message, request: Request) -> Response {
    if *beside != Message::default() {
        let what = "the lines say id, event, retry and key, not the request".to_owned();
        return Refusal::Malformed(what).response(None);
    }
    let mut batch = Batch { desk, topic, under_way: VecDeque::new(), published: 0, last: None };
    match batch.take(request).await {
        Ok(()) => {
            let id = batch.last.map(|position| position.to_string());
            let told = json!({
                "topic": &*topic.name, "published": batch.published, "last_id": id, "subscribers": topic.subscribers(),
            });
            Response::new(StatusCode::OK).with_json(told.to_string())
        }
        Err(refusal) => refusal.response(Some(batch.published)),
    }
}

/// Events of one body, several of them on their way to the journal.
struct Batch<'a> {
    desk: &'a Rc<Desk>,
    topic: &'a Arc<Topic>,
    under_way: VecDeque<Begun>,
    published: u64,
    last: Option<Position>,
}

impl Batch<'_> {
    async fn take(&mut self, mut request: Request) -> Result<(), Refusal> {
        let (rules, hub) = (&self.desk.shared.rules, &self.desk.shared.hub);
        let line_len = rules.event_len + Limits::EVENT_LINE_SPARE;
        let _held = hub.room_for(self.topic, line_len, rules, self.desk.now_ms())?;
        let mut lines = Lines::new(line_len);
        let mut result = Ok(());
        while let Some(chunk) = request.body().next().await {
            result = match chunk {
                Ok(chunk) => self.lines(&mut lines, &chunk).await,
                Err(error) => Err(Refusal::Body(error)),
            };
            if result.is_err() {
                break;
            }
        }
        if let (Ok(()), Some(line)) = (&result, lines.finish()) {
            result = self.line(line).await;
        }
        // Those that were begun are published, whatever comes behind them.
        let settled = self.settle(0).await;
        result.and(settled)
    }

    async fn lines(&mut self, lines: &mut Lines, mut input: &[u8]) -> Result<(), Refusal> {
        let malformed = |error: LineTooLong| Refusal::Malformed(error.to_string());
        let mut in_turn = 0;
        while let Some(line) = lines.next(&mut input).map_err(malformed)? {
            self.line(line).await?;
            in_turn += 1;
            if in_turn % Limits::LINES_IN_A_TURN == 0 {
                yield_now().await;
            }
        }
        Ok(())
    }

    async fn line(&mut self, line: ndjson::Line) -> Result<(), Refusal> {
        let ndjson::Line { number, text } = line;
        let (shared, now_ms) = (&self.desk.shared, self.desk.now_ms());
        let of_line = |refusal| match refusal {
            Refusal::Malformed(what) => Refusal::Malformed(format!("line {number}: {what}")),
            other => other,
        };
        let message = Message::of_json(&text).and_then(|message| {
            message.check(shared.rules.event_len)?;
            Ok(message)
        });
        let message = message.map_err(of_line)?;
        let begun = shared.hub.begin(self.topic, message, &shared.rules, now_ms).await?;
        self.under_way.push_back(begun);
        self.settle(Limits::EVENTS_UNDER_WAY).await
    }

    /// Waits until no more than `most` are under way.
    async fn settle(&mut self, most: usize) -> Result<(), Refusal> {
        let mut result = Ok(());
        while self.under_way.len() > most {
            let Some(oldest) = self.under_way.pop_front() else { break };
            let noted = self.note(oldest.kept().await);
            result = result.and(noted);
        }
        result
    }

    fn note(&mut self, published: Result<Position, Refusal>) -> Result<(), Refusal> {
        self.last = Some(published?);
        self.published += 1;
        self.desk.worker.metrics.events_published.increment();
        Ok(())
    }
}
