//! Events: topics that clients publish to, and subscribe to as streams of server-sent events.
//!
//! ```text
//!   POST /topic ─▶ Message ─▶ Hub: number, journal ─▶ Topic: one copy for all ─▶ Signal ─┬▶ worker 0: Feed, Feed, Feed …
//!                                                     History: bounded                   └▶ worker 1: Feed …
//! ```
//!
//! An event is encoded once, with its chunk's framing; a subscriber is a number in a topic's history, and what is sent to it is
//! the same memory for all. One that reads too slowly costs nothing, until the events that it has not been sent are gone: then
//! it is told how many, and cut off or taken to the newest.
//!
//! A client that comes back says where it was (Last-Event-ID, S3), and goes on there. What it has missed and cannot get any more it is told, by
//! an event of type `lost` and the field `Events-Lost`.

mod archive;
mod feed;
mod history;
mod hub;
mod message;
mod position;
mod publish;
mod record;
mod refusal;
mod subscription;
#[cfg(test)]
mod tests;
mod topic;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode};

use self::feed::Feed;
use self::hub::{Hub, Rules};
use self::position::Seen;
use self::refusal::Refusal;
use self::subscription::{Lost, Subscriber};
use crate::config::EventsConfig;
use crate::error::Error;
use crate::http::{Answer, Body, Framed, Handler, MakeHandler, Request, Response, Worker};
use crate::limits::Limits;
use crate::proto::cors::Cors;
use crate::proto::{query, signed_url, sse, target};
use crate::telemetry::metrics::Depths;

pub use self::message::Message;
pub use self::subscription::{Delivery, Subscription};

/// Topics of events, as a handler. Cloning clones the handle: all are the same topics.
#[derive(Clone, Debug)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: EventsConfig,
    rules: Rules,
    cors: Option<Cors>,
    hub: Arc<Hub>,
}

impl Events {
    /// Topics as the configuration has them; with a journal, those that are in it.
    ///
    /// # Errors
    /// The operator's fault: what of the configuration can't be used, or that the journal is in use or can't be read.
    pub fn new(config: EventsConfig) -> Result<Self, Error> {
        config.check().map_err(Error::operator)?;
        let hub = Arc::new(Hub::open(&config, milliseconds(SystemTime::now()))?);
        Ok(Events::over(config, hub))
    }

    /// The same topics, with their subscribers and events, under another configuration. The journal and the memory for events stay
    /// as they were: what differs there needs a restart, and is said in the log.
    ///
    /// # Errors
    /// The operator's fault: what of the configuration can't be used.
    pub(crate) fn reconfigured(&self, config: EventsConfig) -> Result<Self, Error> {
        config.check().map_err(Error::operator)?;
        let old = &self.0.config;
        let fixed = [
            ("journal", old.journal == config.journal),
            ("journal_bytes", old.journal_bytes == config.journal_bytes),
            ("journal_sync", old.journal_sync == config.journal_sync),
            ("memory", old.memory == config.memory),
            ("event_len", self.0.hub.longest_event(config.event_len) == config.event_len),
        ];
        for (key, _) in fixed.iter().filter(|(_, same)| !same) {
            tracing::warn!("{key} of events has changed: restart the server to apply it");
        }
        Ok(Events::over(config, self.0.hub.clone()))
    }

    fn over(config: EventsConfig, hub: Arc<Hub>) -> Self {
        let (mut rules, cors) = (Rules::of(&config), config.sharing());
        rules.event_len = hub.longest_event(config.event_len);
        Events(Arc::new(Shared { config, rules, cors, hub }))
    }

    /// Adds what the topics are.
    pub(crate) fn add_to(&self, depths: &mut Depths) {
        depths.topics += self.0.hub.topics() as u64;
    }

    /// The topic of this name, which is made if need be.
    ///
    /// # Errors
    /// The caller's fault: the name is none for a topic (1 to 255 bytes, no control characters, no empty segments). The server's:
    /// there are as many topics as there may be.
    pub fn topic(&self, name: &str) -> Result<Topic, Error> {
        let topic = self.0.hub.topic(name, &self.0.rules, milliseconds(SystemTime::now()))?;
        Ok(Topic { topic, shared: self.0.clone() })
    }
}

/// A topic, to publish to and to subscribe to from code; on any thread.
#[derive(Clone, Debug)]
pub struct Topic {
    topic: Arc<topic::Topic>,
    shared: Arc<Shared>,
}

impl Topic {
    /// Publishes an event, and returns its id once it is kept: at once, or where there is a journal when that is written.
    ///
    /// # Errors
    /// The caller's fault: the event is too long, or a name in it is none. The server's: there is no memory, or no room on the
    /// disk; then nobody is sent it.
    pub async fn publish(&self, message: Message) -> Result<String, Error> {
        let own = message.id.clone();
        let now_ms = milliseconds(SystemTime::now());
        let position = self.shared.hub.publish(&self.topic, message, &self.shared.rules, now_ms).await?;
        Ok(own.unwrap_or_else(|| position.to_string()))
    }

    /// Subscribes to what comes from now on; behind an event with `last_event_id`, to what came since, too.
    ///
    /// # Errors
    /// The server's: there are as many subscribers as there may be.
    pub fn subscribe(&self, last_event_id: Option<&str>) -> Result<Subscription, Error> {
        let seat = self.shared.hub.seat(self.shared.config.subscribers)?;
        let (hub, on_lag) = (self.shared.hub.clone(), self.shared.config.on_lag);
        let (subscriber, lost) =
            Subscriber::new(hub, vec![self.topic.clone()], &Seen::of(last_event_id, 1), on_lag, seat);
        Ok(Subscription::new(subscriber, lost))
    }

    /// How many subscribe to it, over all workers.
    pub fn subscribers(&self) -> usize {
        self.topic.subscribers()
    }
}

impl MakeHandler for Events {
    fn make(&self, worker: &Rc<Worker>) -> Rc<dyn Handler> {
        let desk = Desk { shared: self.0.clone(), worker: worker.clone(), heartbeat: Framed::new(sse::HEARTBEAT) };
        Rc::new(EventsHandler(Rc::new(desk)))
    }
}

struct EventsHandler(Rc<Desk>);

/// One worker's way to the topics.
struct Desk {
    shared: Arc<Shared>,
    worker: Rc<Worker>,
    heartbeat: Framed,
}

impl Handler for EventsHandler {
    fn call(&self, request: Request) -> Answer {
        let desk = &self.0;
        if let Some(response) = desk.preflight(&request) {
            return response.into();
        }
        match *request.method() {
            Method::GET | Method::HEAD => {
                let subscribed = desk.subscribe(&request);
                let response = match subscribed {
                    Ok(Subscribed::Not(response)) => desk.share(&request, response),
                    Ok(Subscribed::To { response, subscriber, lost }) => {
                        let response = desk.share(&request, response);
                        response.with_body(desk.feed(request, subscriber, &lost))
                    }
                    Err(refusal) => desk.share(&request, refusal.response(None)),
                };
                response.into()
            }
            Method::POST | Method::DELETE => {
                let desk = desk.clone();
                Answer::Later(Box::pin(async move {
                    let shared = desk.shared.clone();
                    let fields = shared.cors.as_ref().map(|cors| cors.reply_fields(request.fields()));
                    let response = match *request.method() {
                        Method::POST => publish::post(&desk, request).await,
                        _ => desk.close(&request).await.unwrap_or_else(|refusal| refusal.response(None)),
                    };
                    response.fields(fields.into_iter().flatten())
                }))
            }
            Method::OPTIONS => Response::new(StatusCode::NO_CONTENT).field("Allow", METHODS).into(),
            _ => {
                let response = Response::problem(StatusCode::METHOD_NOT_ALLOWED, "METHOD", &format!("Use {METHODS}."));
                desk.share(&request, response.field("Allow", METHODS)).into()
            }
        }
    }
}

/// What can be done with a topic.
const METHODS: &str = "GET, HEAD, POST, DELETE, OPTIONS";

impl Desk {
    fn now_ms(&self) -> u64 {
        milliseconds(self.worker.wall_clock())
    }

    fn preflight(&self, request: &Request) -> Option<Response> {
        let cors = self.shared.cors.as_ref().filter(|_| request.method() == Method::OPTIONS)?;
        Some(Response::new(StatusCode::NO_CONTENT).fields(cors.preflight_fields(request.fields(), METHODS)))
    }

    /// The same reply, with what other sites' pages may do with it.
    fn share(&self, request: &Request, response: Response) -> Response {
        response.fields(self.shared.cors.iter().flat_map(|cors| cors.reply_fields(request.fields())))
    }

    /// A stream of what is published from now on, or of what came behind the event that the client names, too.
    fn subscribe(&self, request: &Request) -> Result<Subscribed, Refusal> {
        let (names, last_event_id) = subscription_of(request)?;
        let seen = Seen::of(last_event_id.as_deref(), names.len());
        if *request.method() == Method::HEAD {
            return Ok(Subscribed::Not(stream_head().with_body(Body::stream::<Framed>(futures_util::stream::empty()))));
        }
        let seat = self.shared.hub.seat(self.shared.config.subscribers)?;
        let topics = names.iter().map(|name| self.shared.hub.topic(name, &self.shared.rules, self.now_ms()));
        let topics: Vec<_> = topics.collect::<Result<_, _>>()?;
        topics.iter().for_each(|topic| topic.trim(self.now_ms(), &self.shared.rules.bounds));
        let (hub, config) = (self.shared.hub.clone(), &self.shared.config);
        let (mut subscriber, lost) = Subscriber::new(hub, topics, &seen, config.on_lag, seat);
        if lost.is_empty() && subscriber.is_at_end() {
            // What tells a browser not to come back (S1).
            let response = Response::new(StatusCode::NO_CONTENT).field("Cache-Control", "no-store");
            return Ok(Subscribed::Not(response));
        }
        let mut response = stream_head().field("Last-Event-ID", subscriber.positions().to_string());
        if !lost.is_empty() {
            response = response.field("Events-Lost", total(&lost));
        }
        Ok(Subscribed::To { response, subscriber, lost })
    }

    /// The stream to a subscriber.
    fn feed(&self, request: Request, subscriber: Subscriber, lost: &[Lost]) -> Body {
        let config = &self.shared.config;
        let (client, heartbeat) = (request.into_body().into_client_end(), (self.heartbeat.clone(), config.heartbeat));
        Body::stream(Feed::new(subscriber, &self.worker, client, heartbeat, config.retry, lost))
    }

    /// Ends a topic: its subscribers' streams end behind its last event, and who subscribes then is told not to come back, until
    /// something is published again.
    async fn close(&self, request: &Request) -> Result<Response, Refusal> {
        let (_, topics) = Message::of_request(request.query(), request.fields())?;
        let name = single_topic(request, &topics)?;
        let Some(topic) = self.shared.hub.find(&name) else {
            return Ok(Response::problem(StatusCode::NOT_FOUND, "NO_TOPIC", "There is no such topic."));
        };
        self.shared.hub.close(&topic, &self.shared.rules, self.now_ms()).await?;
        Ok(Response::new(StatusCode::NO_CONTENT))
    }
}

/// What a request to subscribe comes to.
enum Subscribed {
    /// A reply without a stream.
    Not(Response),
    /// The head of a stream, who reads it, and what is lost.
    To { response: Response, subscriber: Subscriber, lost: Vec<Lost> },
}

/// A reply that streams events (S1).
fn stream_head() -> Response {
    Response::new(StatusCode::OK)
        .field("Content-Type", sse::MEDIA_TYPE)
        .field("X-Content-Type-Options", "nosniff")
        .field("Cache-Control", "no-cache, no-transform")
        // nginx would hold events back to fill its buffers.
        .field("X-Accel-Buffering", "no")
}

/// How many events were lost in all, or that nobody knows.
fn total(lost: &[Lost]) -> String {
    lost.iter().map(Lost::count).sum::<Option<u64>>().map_or_else(|| "unknown".to_owned(), |count| count.to_string())
}

/// The topics that a client subscribes to, by name and each once, and the event that it has seen last. A client whose library can't
/// set a field says it in the query, which is of the first connection; so the field, if there is one, is newer.
fn subscription_of(request: &Request) -> Result<(Vec<String>, Option<String>), Refusal> {
    let mut names: Vec<String> = topic_in_path(request)?.into_iter().collect();
    let mut last_event_id = None;
    for pair in query::pairs(request.query().unwrap_or_default()) {
        let (name, value) = pair.map_err(|error| Refusal::Malformed(error.to_string()))?;
        match &*name {
            "topic" => names.push(value.into_owned()),
            "last_event_id" => last_event_id = Some(value.into_owned()),
            _ if signed_url::is_parameter(&name) => {}
            _ => return Err(message::unknown_parameter(&name)),
        }
    }
    if let Some(value) = request.fields().get("Last-Event-ID") {
        let value = std::str::from_utf8(value).map_err(|_| Refusal::Malformed("Last-Event-ID is not UTF-8".into()))?;
        last_event_id = Some(value.to_owned());
    }
    names.sort_unstable();
    names.dedup();
    match names.len() {
        0 => Err(Refusal::Malformed("no topic is named: write it into the path, or as topic=NAME".into())),
        count if count > Limits::SUBSCRIPTION_TOPICS => {
            Err(Refusal::Malformed(format!("a subscription has at most {} topics", Limits::SUBSCRIPTION_TOPICS)))
        }
        _ => Ok((names, last_event_id)),
    }
}

/// The one topic that the path or the query names.
fn single_topic(request: &Request, topics: &[Cow<'_, str>]) -> Result<String, Refusal> {
    match (topic_in_path(request)?, topics) {
        (Some(name), []) => Ok(name),
        (None, [name]) => Ok(name.clone().into_owned()),
        (None, []) => Err(Refusal::Malformed("no topic is named: write it into the path, or as topic=NAME".into())),
        _ => Err(Refusal::Malformed("more than one topic is named".into())),
    }
}

/// The topic that the path names, decoded.
fn topic_in_path(request: &Request) -> Result<Option<String>, Refusal> {
    let path = target::normalize(request.path_in_route()).map_err(|error| Refusal::Malformed(error.to_string()))?;
    let name =
        String::from_utf8(path.path.into_owned()).map_err(|_| Refusal::Malformed("the path is not UTF-8".into()))?;
    Ok(Some(name).filter(|name| !name.is_empty()))
}

fn milliseconds(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis()).unwrap_or(u64::MAX)
}
