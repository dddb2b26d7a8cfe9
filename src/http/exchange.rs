//! A request and its reply, again and again: the keep-alive state machine of one connection.
//!
//! An exchange, in this order:
//! 1. read the head, within its deadline;
//! 2. decide how the body is framed and what is expected;
//! 3. let the handler answer, unless the client goes;
//! 4. send the reply;
//! 5. take the rest of the request's body off the wire, within a bound;
//! 6. go on with the next request, park the connection, or close it in the way that the client can understand.
//!
//! What is rare is boxed, so that the task of a usual request stays small: it is allocated for each.

use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{Method, StatusCode, Version};

use super::body::{Body, FileRegion};
use super::connections::Seat;
use super::known::{Known, Reply};
use super::pace::Pace;
use super::reader::{Taken, take_chunk};
use super::send::{self, Unsent, unless_hung_up};
use super::wire::{BodyState, Broken, Wire};
use super::{Answer, Request, Response};
use crate::driver::More;
use crate::limits::Limits;
use crate::proto::http1::chunked::{ChunkLimits, Decoder};
use crate::proto::http1::encode::{self, Payload, Persistence, ResponseHead};
use crate::proto::http1::framing::{self, Framing};
use crate::proto::http1::head::{HeadLimits, HeadParser, RequestHead};
use crate::rt::net::Socket;
use crate::rt::task::contain;
use crate::rt::yield_now;
use crate::telemetry::access_log::{Outcome, Record};

/// What becomes of a connection after an exchange.
enum Next {
    /// The next request has begun to come.
    Request,
    /// Nothing has come yet: wait without a task.
    Park,
    /// Close it: all has been said, or nobody listens.
    Close,
    /// Close it so that the client reads the reply first (F9).
    Linger,
    /// Make the client see that the reply is broken.
    Reset,
}

/// Serves requests until the connection is parked or closed; first, if there is one, the rest of a reply that was begun.
///
/// The seat comes first so that it is dropped last: when it frees its place, the wire's descriptor is closed already.
pub(super) async fn serve(seat: Seat, wire: Rc<Wire>, mut begun: Option<Box<Begun>>) {
    loop {
        let next = match begun.take() {
            Some(begun) => Box::pin(finish(&wire, &seat, *begun)).await,
            None => exchange(&wire, &seat).await,
        };
        match next {
            Next::Request => yield_now().await,
            Next::Park => return seat.park(wire),
            Next::Close => return,
            Next::Linger => return Box::pin(linger(&wire)).await,
            Next::Reset => return wire.socket.reset_on_close(),
        }
    }
}

async fn exchange(wire: &Rc<Wire>, seat: &Seat) -> Next {
    // What has come may hold the whole head; only otherwise is there something to wait for.
    let head = match parse_head(wire, &mut HeadParser::default()).transpose() {
        Some(head) => head,
        None => {
            wire.asked.take();
            Box::pin(read_head(wire)).await
        }
    };
    let (mut account, answer) = match head.and_then(|head| ask(wire, seat, head)) {
        Ok(asked) => asked,
        Err(NoHead::Left) => return Next::Close,
        Err(NoHead::Refused(refusal)) => return Box::pin(refuse(wire, seat, refusal)).await,
    };
    let answered = match answer {
        Ok(Answer::Now(response)) => Ok(Ok(response)),
        Ok(Answer::Later(future)) => unless_hung_up(wire, contained(future)).await,
        Err(panic) => Ok(Err(panic)),
    };
    match answered {
        Ok(response) => reply(wire, &mut account, response.unwrap_or_else(|_| panicked(wire))).await,
        Err(broken) => {
            account.close(outcome_of(broken));
            Next::Close
        }
    }
}

/// Decides what follows the head, and asks the handler.
fn ask<'a>(
    wire: &'a Rc<Wire>,
    seat: &'a Seat,
    head: RequestHead,
) -> Result<(Account<'a>, std::thread::Result<Answer>), NoHead> {
    let (framing, continue_owed) = match (framing::of_request(&head), framing::expects_continue(&head)) {
        (Ok(framing), Ok(expected)) => (framing, expected && framing != Framing::Empty),
        (Err(error), _) | (_, Err(error)) => {
            let (status, why, is_head) = (error.status(), error.to_string(), head.method == Method::HEAD);
            return Err(NoHead::Refused(Refusal { status, why, is_head }));
        }
    };
    expect_body(wire, framing, continue_owed);
    if framing != Framing::Empty || !wire.input.borrow().unread().is_empty() {
        // The bytes that came were more than a head, and say more than what this reply answers.
        wire.asked.take();
    }
    let account = Account::open(wire, seat, Some(&head));
    let request = Request::new(head, seat.peer(), wire.clone());
    // What panics is dropped right after, and shares nothing that it could leave half-changed but its own state.
    let answer = contain(|| seat.handler().call(request));
    Ok((account, answer))
}

/// The future, its panics stopped at each poll.
fn contained(mut future: LocalBoxFuture<'static, Response>) -> impl Future<Output = std::thread::Result<Response>> {
    std::future::poll_fn(move |cx| match contain(|| future.as_mut().poll(cx)) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
}

/// An interim status can't end an exchange: the client would take the next reply for this one (RFC 9110 §15.2).
fn misused() -> Response {
    tracing::error!("a handler answered with an interim status");
    Response::text(StatusCode::INTERNAL_SERVER_ERROR, "The server failed to answer.")
}

fn panicked(wire: &Wire) -> Response {
    wire.worker.metrics.handler_panics.increment();
    Response::text(StatusCode::INTERNAL_SERVER_ERROR, "The server failed to answer.")
}

/// Answers what is no request, or none that can be served, and closes.
async fn refuse(wire: &Rc<Wire>, seat: &Seat, refusal: Refusal) -> Next {
    wire.incoming.borrow_mut().framing = BodyState::Broken;
    wire.worker.metrics.requests_malformed.increment();
    let mut account = Account::open(wire, seat, None);
    account.is_head = refusal.is_head;
    reply(wire, &mut account, Response::text(refusal.status, refusal.why)).await
}

/// What is kept of a request after the handler has taken it: how to frame the reply, and what the access log says. The line
/// is written when the account is closed, or, where a task is cut at shutdown, when it is dropped.
struct Account<'a> {
    wire: &'a Wire,
    seat: &'a Seat,
    begun: Instant,
    is_head: bool,
    version: Version,
    keeps_alive: bool,
    logged: Option<Logged>,
    status: u16,
    range: Option<Vec<u8>>,
    outcome: Outcome,
}

/// What the access log says of a request.
struct Logged {
    method: Method,
    target: String,
    referer: Option<Vec<u8>>,
    user_agent: Option<Vec<u8>>,
}

impl<'a> Account<'a> {
    /// Of this request, or of bytes that are none.
    fn open(wire: &'a Wire, seat: &'a Seat, head: Option<&RequestHead>) -> Self {
        wire.worker.metrics.transfers.increment();
        wire.body_sent.set(0);
        wire.first_byte.set(None);
        // What brings a body is as slow as its client is to send it.
        let has_body = !matches!(wire.incoming.borrow().framing, BodyState::Done);
        wire.asked_at.set((!has_body).then(|| wire.runtime().now()));
        let counted = head.filter(|head| matches!(head.method, Method::GET | Method::HEAD) && !seat.is_operators());
        *wire.path.borrow_mut() = counted.and_then(|head| wire.worker.counted_path(head.path()));
        let logging = wire.worker.access_log.is_some();
        Account {
            wire,
            seat,
            begun: wire.runtime().now(),
            is_head: head.is_some_and(|head| head.method == Method::HEAD),
            version: head.map_or(Version::HTTP_11, |head| head.version),
            keeps_alive: head.is_some_and(framing::keeps_alive),
            logged: head.filter(|_| logging).map(|head| Logged {
                method: head.method.clone(),
                target: head.target().to_owned(),
                referer: head.fields.get("Referer").map(<[u8]>::to_vec),
                user_agent: head.fields.get("User-Agent").map(<[u8]>::to_vec),
            }),
            // Nothing was answered (nginx's number for a client that left).
            status: 499,
            range: None,
            outcome: Outcome::ShutDown,
        }
    }

    /// Whether the client said that this request is its last, and it was answered as asked and in few bytes. After a refusal it
    /// may still be sending (F9), and a stray byte of it would cost what has not left yet; a short reply has, in the first
    /// packets of any connection (RFC 6928).
    fn was_last(&self) -> bool {
        !self.keeps_alive && self.status < 400 && self.wire.body_sent.get() <= Limits::SMALL_REPLY_LEN as u64
    }

    /// Notes what is about to be answered.
    fn answer(&mut self, head: &ResponseHead) {
        self.status = head.status.as_u16();
        self.wire.worker.count_answer(self.status);
        if self.status < 400 {
            self.wire.worker.count_path(self.wire.path.borrow().as_ref(), 1, 0);
        } else {
            self.wire.path.take();
        }
        if self.logged.is_some() {
            self.range = head.get("Content-Range").map(<[u8]>::to_vec);
        }
    }

    /// Notes how it ended.
    fn close(&mut self, outcome: Outcome) {
        self.outcome = outcome;
        match outcome {
            Outcome::Truncated => self.wire.worker.metrics.truncated.increment(),
            Outcome::ClientSlow => self.wire.worker.metrics.slow_clients_dropped.increment(),
            _ => {}
        }
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        self.wire.worker.metrics.transfers.decrement();
        if self.outcome == Outcome::ShutDown {
            // Cut at the deadline, or by a panic in the body's stream: it must not look like the end of the reply.
            self.wire.socket.reset_on_close();
        }
        if std::thread::panicking() {
            self.wire.worker.metrics.handler_panics.increment();
            self.outcome = Outcome::Failed;
        }
        let Some(log) = &self.wire.worker.access_log else { return };
        let logged = self.logged.as_ref();
        let malformed = logged.is_none() && self.outcome == Outcome::Complete;
        log.record(&Record {
            time: self.wire.worker.wall_clock(),
            peer: self.seat.peer(),
            method: logged.map_or("-", |logged| logged.method.as_str()),
            target: logged.map_or("-", |logged| &logged.target),
            version: self.version,
            status: self.status,
            bytes: self.wire.body_sent.get(),
            range: self.range.as_deref(),
            referer: logged.and_then(|logged| logged.referer.as_deref()),
            user_agent: logged.and_then(|logged| logged.user_agent.as_deref()),
            first_byte: self.wire.first_byte.get().map(|at| at.saturating_duration_since(self.begun)),
            duration: self.wire.runtime().precise_now().saturating_duration_since(self.begun),
            outcome: if malformed { Outcome::Malformed } else { self.outcome },
        });
    }
}

/// Why there is no head.
enum NoHead {
    /// The client went before it was whole.
    Left,
    /// There is none that can be served.
    Refused(Refusal),
}

/// What is answered to it.
struct Refusal {
    status: StatusCode,
    why: String,
    /// Whether it is known to be a HEAD request, whose reply has no body.
    is_head: bool,
}

/// Parses what has come; `None` when it is not whole. Then the receive buffer goes back: it does not wait for a client.
fn parse_head(wire: &Wire, parser: &mut HeadParser) -> Result<Option<RequestHead>, NoHead> {
    let limits = &wire.worker.limits;
    let bounds = HeadLimits { target_len: limits.target_len, head_len: limits.head_len, fields: limits.head_fields };
    let mut input = wire.input.borrow_mut();
    match parser.parse(input.unread(), &bounds) {
        Ok(Some((head, used))) => {
            input.consume(used);
            Ok(Some(head))
        }
        Ok(None) => {
            input.spill();
            Ok(None)
        }
        Err(error) => {
            let (status, why) = (error.status(), error.to_string());
            Err(NoHead::Refused(Refusal { status, why, is_head: false }))
        }
    }
}

/// Receives until the head is whole, within its deadline.
async fn read_head(wire: &Wire) -> Result<RequestHead, NoHead> {
    let mut parser = HeadParser::default();
    let deadline = wire.runtime().now() + wire.worker.limits.head_timeout;
    loop {
        wire.timer.set(Some(deadline));
        let received = wire.timer.race(std::future::poll_fn(|cx| wire.poll_receive(cx))).await;
        wire.timer.set(None);
        match received {
            Ok(Ok(0) | Err(_)) => return Err(NoHead::Left),
            Ok(Ok(_)) => {}
            Err(_) => {
                let why = "The head of the request did not come in time.".to_owned();
                return Err(NoHead::Refused(Refusal { status: StatusCode::REQUEST_TIMEOUT, why, is_head: false }));
            }
        }
        if let Some(head) = parse_head(wire, &mut parser)? {
            return Ok(head);
        }
    }
}

fn expect_body(wire: &Wire, framing: Framing, continue_owed: bool) {
    let limits = &wire.worker.limits;
    let mut incoming = wire.incoming.borrow_mut();
    incoming.continue_owed = if continue_owed { encode::CONTINUE } else { &[] };
    incoming.pace = Pace::new(limits.request_min_rate, limits.rate_grace);
    incoming.framing = match framing {
        Framing::Empty => BodyState::Done,
        Framing::Length(len) => BodyState::Length(len),
        Framing::Chunked => {
            let (extension_len, trailer_len) = (Limits::CHUNK_EXTENSION_LEN, Limits::TRAILER_LEN);
            BodyState::Chunked(Box::new(Decoder::new(ChunkLimits { extension_len, trailer_len })))
        }
    };
}

async fn reply(wire: &Rc<Wire>, account: &mut Account<'_>, response: Response) -> Next {
    let Response { head, body, holds } = if response.status().is_informational() { misused() } else { response };
    let persistence = persistence(wire, account.keeps_alive && !head.closes());
    let (body, payload) = frame(head.status, account, body);
    if !matches!(body, Body::Paced(_) | Body::Empty) {
        // What an earlier reply on this connection was held to does not hold for this one.
        wire.socket.limit_rate(None);
    }
    let mut bytes = Vec::new();
    encode::encode(&mut bytes, account.version, &head, Some(&wire.worker.date()), payload, persistence);
    account.answer(&head);
    if let (Some(asked), Some(holds)) = (wire.asked.take(), &holds)
        && (persistence == Persistence::KeepAlive || account.was_last() && is_small(&body))
    {
        let path = wire.path.borrow();
        let (status, path) = (account.status, path.as_ref());
        let reply = Reply { status, head: &bytes, body: &body, persistence, path, holds };
        wire.worker.known_replies.keep(&wire.worker, account.seat.gate(), *asked, &reply);
    }
    // What many streams wait beside is no more than they need.
    drop(head);
    let sent = send::reply(wire, bytes, body, payload).await;
    conclude(wire, account, sent, payload, persistence).await
}

/// Whether it leaves in the first packets of any connection.
fn is_small(body: &Body) -> bool {
    body.len().is_some_and(|len| len <= Limits::SMALL_REPLY_LEN as u64)
}

/// A known reply that the socket did not take whole.
pub(super) struct Begun {
    pub(super) known: Rc<Known>,
    /// The file's region behind the known bytes, if there is one.
    pub(super) region: Option<FileRegion>,
    /// How much is sent, of all of it.
    pub(super) sent: usize,
}

/// Sends the rest of a known reply. The request that it answers is what has come.
async fn finish(wire: &Rc<Wire>, seat: &Seat, begun: Begun) -> Next {
    let Begun { known, region, sent } = begun;
    let request_len = wire.input.borrow().unread().len();
    wire.input.borrow_mut().consume(request_len);
    let mut account = Account::open(wire, seat, None);
    account.status = known.status;
    wire.worker.count_answer(known.status);
    wire.worker.count_path(known.path.as_ref(), 1, 0);
    wire.path.borrow_mut().clone_from(&known.path);
    if sent > 0 {
        wire.note_first_byte();
    }
    let (head, behind) = known.bytes().split_at(known.head_len());
    let body = region.map_or_else(|| Body::Bytes(Bytes::copy_from_slice(behind)), Body::File);
    let payload = Payload::Length(body.len().unwrap_or(0));
    let result = send::rest(wire, head, body, payload, sent).await;
    conclude(wire, &mut account, result, payload, known.persistence).await
}

/// Notes how a reply ended, and says what becomes of the connection.
async fn conclude(
    wire: &Rc<Wire>,
    account: &mut Account<'_>,
    sent: Result<(), Unsent>,
    payload: Payload,
    persistence: Persistence,
) -> Next {
    let (next, outcome) = match sent {
        Ok(()) if payload == Payload::UntilClose => (Next::Linger, Outcome::Complete),
        Ok(()) => (after_reply(wire, account, persistence).await, Outcome::Complete),
        Err(Unsent::Broken(broken)) => (Next::Reset, outcome_of(broken)),
        Err(Unsent::Truncated) => (Next::Reset, Outcome::Truncated),
        Err(Unsent::Failed(error)) => {
            tracing::warn!(error = error.report(), "a reply was aborted");
            (Next::Reset, Outcome::Failed)
        }
    };
    account.close(outcome);
    next
}

/// What goes out behind the head: nothing where the method or the status says so (RFC 9110 §6.4.1), though its length is told.
fn frame(status: StatusCode, account: &Account<'_>, body: Body) -> (Body, Payload) {
    if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        return (Body::Empty, Payload::None);
    }
    if status == StatusCode::RESET_CONTENT {
        return (Body::Empty, Payload::Length(0));
    }
    match body.len() {
        Some(len) if account.is_head => (Body::Empty, Payload::Length(len)),
        None if account.is_head => (Body::Empty, Payload::None),
        Some(len) => (body, Payload::Length(len)),
        None => (body, Payload::of_unknown_length(account.version)),
    }
}

/// Whether the connection may serve another request, as far as it is known before the reply.
fn persistence(wire: &Wire, keeps_alive: bool) -> Persistence {
    let incoming = wire.incoming.borrow();
    let drainable = match incoming.framing {
        BodyState::Done | BodyState::Chunked(_) => true,
        BodyState::Length(left) => left <= wire.worker.limits.drain_len as u64,
        BodyState::Broken => false,
    };
    // A client that was not told to continue may or may not send its body: only closing is unambiguous (F8).
    let keeps = keeps_alive && drainable && incoming.continue_owed.is_empty() && !wire.worker.draining();
    if keeps { Persistence::KeepAlive } else { Persistence::Close }
}

async fn after_reply(wire: &Rc<Wire>, account: &Account<'_>, persistence: Persistence) -> Next {
    if Rc::strong_count(wire) > 1 {
        // Someone kept the reader of a body whose exchange is over; it must never read what comes next.
        let mut incoming = wire.incoming.borrow_mut();
        incoming.framing = BodyState::Broken;
        incoming.reader.take().into_iter().for_each(Waker::wake);
        return Next::Linger;
    }
    let unread_body = !matches!(wire.incoming.borrow().framing, BodyState::Done | BodyState::Length(0));
    match persistence {
        // It said that it will send nothing more, and what was sent has left: nobody is to be waited for.
        Persistence::Close if account.was_last() && !unread_body && wire.input.borrow().unread().is_empty() => {
            Next::Close
        }
        Persistence::Close => Next::Linger,
        Persistence::KeepAlive if unread_body && !Box::pin(drain(wire)).await => Next::Linger,
        Persistence::KeepAlive if !wire.input.borrow().unread().is_empty() => Next::Request,
        // The client was told that the connection goes on, and may have sent more: closing over it would cost it the reply's
        // end (F9).
        Persistence::KeepAlive if wire.worker.draining() => Next::Linger,
        Persistence::KeepAlive => Next::Park,
    }
}

/// Takes what is left of the request's body off the wire (F7); false when that is more than the bound, or does not come.
async fn drain(wire: &Wire) -> bool {
    let mut left = wire.worker.limits.drain_len;
    loop {
        match take_chunk(wire) {
            Taken::End => return true,
            Taken::Failed(_) => return false,
            Taken::Chunk(chunk) => match left.checked_sub(chunk.len()) {
                Some(rest) => left = rest,
                None => return false,
            },
            Taken::NeedMore => {
                if std::future::poll_fn(|cx| wire.poll_receive_paced(cx, &wire.timer)).await.is_err() {
                    return false;
                }
            }
        }
    }
}

/// Closes in the order that lets the reply arrive (F9, RFC 9112 §9.6): our side first; then what the client still sends is read
/// and discarded, within a bound and a deadline, because closing over unread bytes would reset the connection.
async fn linger(wire: &Wire) {
    let limits = &wire.worker.limits;
    if wire.socket.shutdown_write().is_err() {
        return;
    }
    wire.timer.set_after(limits.linger_timeout);
    let mut left = limits.linger_len;
    loop {
        let unread = wire.input.borrow().unread().len();
        wire.input.borrow_mut().consume(unread);
        let received = wire.timer.race(std::future::poll_fn(|cx| wire.poll_receive(cx))).await;
        let Ok(Ok(count @ 1..)) = received else { return };
        match left.checked_sub(count) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

fn outcome_of(broken: Broken) -> Outcome {
    match broken {
        Broken::Gone => Outcome::ClientGone,
        Broken::Slow => Outcome::ClientSlow,
    }
}

/// Tells a client that there is no room for it, as far as its socket takes that at once.
pub(super) fn turn_away(socket: &Socket, date: &[u8; 29]) {
    let Response { head, body, .. } =
        Response::text(StatusCode::SERVICE_UNAVAILABLE, "The server has no room for more connections.")
            .field("Retry-After", "1");
    let mut bytes = Vec::new();
    let payload = Payload::Length(body.len().unwrap_or(0));
    encode::encode(&mut bytes, Version::HTTP_11, &head, Some(date), payload, Persistence::Close);
    if let Body::Bytes(body) = body {
        bytes.extend_from_slice(&body);
    }
    // What it does not take now it will not get: it is over the limit.
    let _ = socket.try_send(&bytes, More::No);
}
