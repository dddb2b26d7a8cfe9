//! The send path: a head and a body, out through one socket, at most one high water mark a turn.
//!
//! | body | how |
//! |---|---|
//! | bytes | head and body as one send, joined in a buffer up to `SMALL_REPLY_LEN`, else as two pieces |
//! | a file region up to `SMALL_REPLY_LEN`, resident | head and body in one buffer, one send |
//! | a larger region | by the `send_path`, one high water mark a turn (see [`super::region`]) |
//! | a stream | item by item, each asked for when the one before has been sent |
//!
//! More than a turn goes out corked: the end of every turn would else leave as a packet of its own, which costs an eighth of the
//! whole. What fits into one turn and is in the page cache is sent with the head at once, without a future.

use std::io;
use std::num::NonZeroU64;
use std::pin::{Pin, pin};
use std::task::Poll;

use futures_core::stream::LocalBoxStream;
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;

use super::Worker;
use super::body::{Body, FileRegion, Segment};
use super::known::Known;
use super::pace::Pace;
use super::pacing::Throttle;
use super::region::Turns;
use super::wire::{Broken, Wire};
use crate::config::SendPath;
use crate::driver::More;
use crate::driver::buf::{Buf, BufferPool};
use crate::error::Error;
use crate::limits::Limits;
use crate::proto::http1::chunked::{CHUNK_END, ChunkHead, LAST_CHUNK};
use crate::proto::http1::encode::Payload;
use crate::proto::range::ByteRange;
use crate::rt::net::{HangUp, Socket};
use crate::rt::yield_now;

/// Items of a stream up to this length are framed in one buffer, in bytes; longer ones go out uncopied.
const COPIED_ITEM_LEN: usize = 16 << 10;

/// What an item of a stream costs beside its bytes, as bytes of a turn: short ones would else make it long.
const ITEM_COST: u64 = 4 << 10;

/// Why a reply was not sent whole. The connection can't go on.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The client's doing.
    Broken(Broken),
    /// The file is shorter than was promised.
    Truncated,
    /// Ours, or an upstream's.
    Failed(Error),
}

impl From<Broken> for Unsent {
    fn from(broken: Broken) -> Self {
        Unsent::Broken(broken)
    }
}

/// Sends a reply's head and its body.
///
/// # Errors
/// See [`Unsent`].
pub(super) async fn reply(wire: &Wire, head: Vec<u8>, body: Body, payload: Payload) -> Result<(), Unsent> {
    let Sent::Part(sent) = at_once(wire, &head, &body)? else {
        wire.worker.note_quick();
        return Ok(());
    };
    slowly(wire, head, body, payload, sent).await
}

/// What is left of a reply, in a future of its own: the exchange's stays small, and so does that of a stream, of which many may wait.
fn slowly(
    wire: &Wire,
    head: Vec<u8>,
    body: Body,
    payload: Payload,
    sent: usize,
) -> LocalBoxFuture<'_, Result<(), Unsent>> {
    match body {
        Body::Stream { items, .. } => {
            Box::pin(async move { Sending::new(wire, Throttle::none()).stream(head, items, payload).await })
        }
        body => Box::pin(async move { rest(wire, &head, body, payload, sent).await }),
    }
}

/// How far a reply got without waiting.
enum Sent {
    Whole,
    /// So many bytes of head and body together.
    Part(usize),
}

/// Sends head and body as one, if the body is at hand. Nothing is waited for.
fn at_once(wire: &Wire, head: &[u8], body: &Body) -> Result<Sent, Unsent> {
    let (result, len) = match body {
        Body::Empty => (wire.try_send(head, More::No), head.len()),
        Body::Bytes(bytes) if bytes.len() > wire.worker.limits.high_water_mark => return Ok(Sent::Part(0)),
        Body::Bytes(bytes) => {
            let joined = (bytes.len() <= Limits::SMALL_REPLY_LEN)
                .then(|| joined(wire.runtime().transfer_pool(), head, bytes))
                .flatten();
            let result = match joined {
                Some(buf) => wire.try_send(&buf, More::No),
                None => wire.try_send_pair(head, bytes, More::No),
            };
            (result, head.len() + bytes.len())
        }
        Body::File(region) => match small_file(wire.runtime().transfer_pool(), head, region) {
            Some(buf) => (wire.try_send(&buf, More::No), buf.len()),
            None if goes_at_once(&wire.worker, region) => return one_turn(wire, head, region),
            None => return Ok(Sent::Part(0)),
        },
        Body::Segments(_) | Body::Stream { .. } | Body::Paced(_) => return Ok(Sent::Part(0)),
    };
    let sent = taken(result)?;
    count(wire, sent.saturating_sub(head.len()));
    Ok(if sent == len { Sent::Whole } else { Sent::Part(sent) })
}

/// What the socket took: nothing, when it was full.
fn taken(result: io::Result<usize>) -> Result<usize, Unsent> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result.map_err(|_| Broken::Gone.into()),
    }
}

/// Whether a region is one turn, and goes out by sendfile.
fn goes_at_once(worker: &Worker, region: &FileRegion) -> bool {
    region.range.len() <= worker.limits.high_water_mark as u64
        && matches!(worker.send_path, SendPath::Auto | SendPath::Sendfile)
}

/// Sends the head, and behind it a region of one turn, if it is resident.
fn one_turn(wire: &Wire, head: &[u8], region: &FileRegion) -> Result<Sent, Unsent> {
    let len = region.range.len() as usize;
    if !region.file.is_resident(region.range.start, len).map_err(failed_read)? {
        return Ok(Sent::Part(0));
    }
    let sent = taken(wire.try_send(head, before(len == 0)))?;
    if sent < head.len() {
        return Ok(Sent::Part(sent));
    }
    let of_body = match wire.socket.try_send_file(&region.file, region.range.start, len) {
        Ok(0) if len > 0 => return Err(Unsent::Truncated),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(of_socket_or_file(error)),
        result => result.unwrap_or(0),
    };
    count(wire, of_body);
    Ok(if of_body == len { Sent::Whole } else { Sent::Part(sent + of_body) })
}

/// How far a known reply got.
pub(super) enum Repeated {
    /// The socket took all of it.
    Whole,
    /// So many bytes of it, maybe none; behind the known bytes follows the region, if there is one. Where the socket or the
    /// file is the reason, going on with it will tell.
    Part { region: Option<FileRegion>, sent: usize },
    /// Nothing was sent: the file has changed, or has to be waited for.
    NotNow,
}

/// Sends what the socket takes at once of a known reply, in the way of any other with this body.
pub(super) fn known(worker: &Worker, socket: &Socket, known: &Known) -> Repeated {
    let Ok(region) = known.region() else { return Repeated::NotNow };
    let bytes = known.bytes();
    let whole = bytes.len() + region.as_ref().map_or(0, |region| region.range.len() as usize);
    if whole > known.head_len() {
        // What an earlier reply on this connection was held to does not hold for this one.
        socket.limit_rate(None);
    }
    let sent = match &region {
        None => socket.try_send(bytes, More::No).unwrap_or(0),
        Some(region) => match small_file(worker.runtime.transfer_pool(), bytes, region) {
            Some(buf) => socket.try_send(&buf, More::No).unwrap_or(0),
            None => match known_turn(worker, socket, bytes, region) {
                Some(sent) => sent,
                None => return Repeated::NotNow,
            },
        },
    };
    let of_body = sent.saturating_sub(known.head_len()) as u64;
    worker.metrics.bytes_sent.add(of_body);
    worker.count_path(known.path.as_ref(), u64::from(sent == whole), of_body);
    if sent == whole { Repeated::Whole } else { Repeated::Part { region, sent } }
}

/// Sends known bytes, and behind them a region of one turn that is too long to be joined to them; `None` if it is another.
fn known_turn(worker: &Worker, socket: &Socket, bytes: &[u8], region: &FileRegion) -> Option<usize> {
    let FileRegion { file, range } = region;
    let len = range.len() as usize;
    if !goes_at_once(worker, region) || !file.is_resident(range.start, len).unwrap_or(false) {
        return None;
    }
    let sent = socket.try_send(bytes, More::Follows).unwrap_or(0);
    let of_body = if sent < bytes.len() { 0 } else { socket.try_send_file(file, range.start, len).unwrap_or(0) };
    Some(sent + of_body)
}

/// A buffer that begins with the head and has room for so much body, if one is free and long enough.
fn headed(pool: &BufferPool, head: &[u8], len: usize) -> Option<Buf> {
    let mut buf = if head.len() + len <= pool.block_len() { pool.try_take()? } else { return None };
    buf.append(head);
    Some(buf)
}

/// Head and bytes in one buffer.
fn joined(pool: &BufferPool, head: &[u8], bytes: &[u8]) -> Option<Buf> {
    let mut buf = headed(pool, head, bytes.len())?;
    buf.append(bytes);
    Some(buf)
}

/// Head and file region in one buffer, if the region is small and all of it is in the page cache.
fn small_file(pool: &BufferPool, head: &[u8], region: &FileRegion) -> Option<Buf> {
    let len = usize::try_from(region.range.len()).ok().filter(|len| *len <= Limits::SMALL_REPLY_LEN)?;
    let mut buf = headed(pool, head, len)?;
    // What is cold, has shrunk or can't be read is left to the path that can wait and say which.
    let read = region.file.read_resident(region.range.start, &mut buf.spare_mut()[..len]).ok()?;
    buf.advance(read);
    (read == len).then_some(buf)
}

/// Whether to hold a packet back for what follows: never for nothing, which would come late (tcp(7), `TCP_CORK`).
fn before(is_last: bool) -> More {
    if is_last { More::No } else { More::Follows }
}

/// Sends what [`at_once`] did not, waiting for the disk and for the client.
pub(super) async fn rest(wire: &Wire, head: &[u8], body: Body, payload: Payload, sent: usize) -> Result<(), Unsent> {
    let (body, throttle) = Throttle::of(body);
    let mut sending = Sending::new(wire, throttle);
    let (head, of_body) = (&head[sent.min(head.len())..], sent.saturating_sub(head.len()));
    // A buffer that is sent uncopied comes back with the acknowledgement, which a cork would delay.
    let in_turns = wire.worker.send_path != SendPath::SendZc
        && matches!(body, Body::File(_) | Body::Segments(_))
        && body.len().is_some_and(|len| len - of_body as u64 > wire.worker.limits.high_water_mark as u64);
    if in_turns {
        wire.socket.cork(true);
    }
    let result = sending.body(head, body, of_body, payload).await;
    if in_turns && result.is_ok() {
        wire.socket.cork(false);
    }
    result
}

/// The future's output, or the news that the client has gone meanwhile. Costs nothing for a future that is ready at once.
pub(super) async fn unless_hung_up<F: Future>(wire: &Wire, future: F) -> Result<F::Output, Broken> {
    let mut future = pin!(future);
    let mut hung_up = None;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        // What has come and nobody asked for, such as the next request, waits on the heap.
        wire.input.borrow_mut().spill();
        let hung_up = hung_up.get_or_insert_with(|| wire.socket.hang_up());
        Pin::new(hung_up).poll(cx).map(|()| Err(Broken::Gone))
    })
    .await
}

struct Sending<'a> {
    wire: &'a Wire,
    pace: Pace,
    throttle: Throttle,
}

impl<'a> Sending<'a> {
    fn new(wire: &'a Wire, throttle: Throttle) -> Self {
        let limits = &wire.worker.limits;
        Sending { wire, pace: Pace::new(limits.reply_min_rate, limits.rate_grace), throttle }
    }

    /// The head's rest, and the body without its first bytes, which have been sent.
    async fn body(&mut self, head: &[u8], body: Body, of_body: usize, payload: Payload) -> Result<(), Unsent> {
        match body {
            Body::Empty => self.all(head, More::No).await,
            Body::Bytes(bytes) => {
                let bytes = &bytes[of_body..];
                self.all(head, before(bytes.is_empty())).await?;
                self.bytes(bytes, More::No).await
            }
            Body::File(mut region) => {
                region.range.start += of_body as u64;
                self.all(head, before(region.range.is_empty())).await?;
                self.region(region).await
            }
            Body::Segments(mut segments) => {
                segments.retain(|segment| segment.len() > 0);
                self.all(head, before(segments.is_empty())).await?;
                self.segments(segments).await
            }
            Body::Stream { items, .. } => self.stream(head.to_vec(), items, payload).await,
            Body::Paced(_) => panic!("invariant: a body is paced once"),
        }
    }

    async fn all(&mut self, mut bytes: &[u8], more: More) -> Result<(), Unsent> {
        while !bytes.is_empty() {
            let (turn, rest) = bytes.split_at(self.throttle.turn(self.wire, &mut self.pace, bytes.len()));
            let more = if rest.is_empty() { more } else { More::Follows };
            self.wire.send_all(turn, more, &mut self.pace).await?;
            self.throttle.moved(turn.len());
            bytes = rest;
            if !bytes.is_empty() {
                yield_now().await;
            }
        }
        Ok(())
    }

    /// Bytes of the body.
    async fn bytes(&mut self, bytes: &[u8], more: More) -> Result<(), Unsent> {
        self.all(bytes, more).await?;
        count(self.wire, bytes.len());
        Ok(())
    }

    async fn segments(&mut self, segments: Vec<Segment>) -> Result<(), Unsent> {
        let last = segments.len().saturating_sub(1);
        for (index, segment) in segments.into_iter().enumerate() {
            let more = before(index == last);
            match segment {
                Segment::Bytes(bytes) => self.bytes(&bytes, more).await?,
                Segment::Framed(framed) => self.bytes(framed.data(), more).await?,
                Segment::File(region) => self.region(region).await?,
            }
        }
        Ok(())
    }

    /// A region of any length, one high water mark a turn.
    async fn region(&mut self, region: FileRegion) -> Result<(), Unsent> {
        let ByteRange { start: mut offset, end } = region.range;
        let mut turns = Turns::new(self.wire, &region);
        while offset < end {
            let turn = (end - offset).min(self.wire.worker.turn_len()) as usize;
            let turn = self.throttle.turn(self.wire, &mut self.pace, turn);
            match turns.turn(offset, turn).await? {
                Ok(0) => return Err(Unsent::Truncated),
                Ok(sent) => {
                    offset += sent as u64;
                    count(self.wire, sent);
                    self.pace.moved(sent as u64);
                    self.throttle.moved(sent);
                    if sent < turn {
                        self.wire.writable(&mut self.pace).await?;
                    } else if offset < end {
                        yield_now().await;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wire.writable(&mut self.pace).await?,
                Err(error) => return Err(of_socket_or_file(error)),
            }
        }
        Ok(())
    }

    /// The items, one after the other. What there is goes out a high water mark a turn, as everything does; while there is
    /// nothing, one operation waits for the client to leave, however many items come meanwhile.
    async fn stream(
        &mut self,
        mut head: Vec<u8>,
        mut items: LocalBoxStream<'static, Result<Segment, Error>>,
        payload: Payload,
    ) -> Result<(), Unsent> {
        let mut left = match payload {
            Payload::Length(len) => Some(len),
            _ => None,
        };
        let mut hang_up = None;
        let mut in_turn = 0;
        loop {
            let at_once = std::future::poll_fn(|cx| Poll::Ready(items.poll_next_unpin(cx))).await;
            let item = match at_once {
                Poll::Ready(item) => item,
                // The head does not wait for an item that takes its time, and goes along with one that does not.
                Poll::Pending => {
                    self.owed(std::mem::take(&mut head)).await?;
                    in_turn = 0;
                    next_item(self.wire, &mut items, &mut hang_up).await?
                }
            };
            let Some(item) = item else { break };
            let item = item.map_err(Unsent::Failed)?;
            if let Some(left) = &mut left {
                *left = left.checked_sub(item.len()).ok_or_else(wrong_length)?;
            }
            in_turn += item.len() + ITEM_COST;
            let sent = if head.is_empty() { self.framed_at_once(&item, payload)? } else { Some(0) };
            if let Some(sent) = sent {
                // Boxed, because the streams that wait for an item are many, and those that wait for room are few.
                Box::pin(self.item(std::mem::take(&mut head), item, payload, sent)).await?;
            }
            if in_turn >= self.wire.worker.turn_len() {
                in_turn = 0;
                yield_now().await;
            }
        }
        if left.is_some_and(|left| left > 0) {
            return Err(wrong_length());
        }
        if payload == Payload::Chunked {
            head.extend_from_slice(LAST_CHUNK);
        }
        self.owed(head).await
    }

    /// What is still to be said before, between or behind items.
    async fn owed(&mut self, bytes: Vec<u8>) -> Result<(), Unsent> {
        if !bytes.is_empty() {
            Box::pin(self.all(&bytes, More::No)).await?;
        }
        Ok(())
    }

    /// Sends what the socket takes at once of an item that many get: `None` for all of it, else how many bytes with their framing.
    fn framed_at_once(&mut self, item: &Segment, payload: Payload) -> Result<Option<usize>, Unsent> {
        let Segment::Framed(framed) = item else { return Ok(Some(0)) };
        if !self.throttle.is_none() {
            return Ok(Some(0));
        }
        let bytes = framed.for_payload(payload);
        let sent = taken(self.wire.try_send(bytes, More::No))?;
        self.pace.moved(sent as u64);
        if sent < bytes.len() {
            return Ok(Some(sent));
        }
        count(self.wire, framed.data().len());
        Ok(None)
    }

    /// One item, framed, behind what is still owed of the head. Of a framed one, so many bytes have been sent.
    async fn item(&mut self, head: Vec<u8>, item: Segment, payload: Payload, sent: usize) -> Result<(), Unsent> {
        let len = item.len();
        let chunk_head = NonZeroU64::new(len).filter(|_| payload == Payload::Chunked).map(ChunkHead::new);
        let (prefix, suffix): (&[u8], &[u8]) = match &chunk_head {
            Some(chunk_head) => (chunk_head, CHUNK_END),
            None => (&[], &[]),
        };
        match item {
            Segment::File(region) => {
                self.all(&[&head, prefix].concat(), before(len == 0)).await?;
                self.region(region).await?;
                // Counts itself.
                return self.all(suffix, More::No).await;
            }
            Segment::Framed(framed) => {
                self.all(&head, before(len == 0)).await?;
                self.all(&framed.for_payload(payload)[sent..], More::No).await?;
            }
            Segment::Bytes(bytes) if bytes.len() <= COPIED_ITEM_LEN => {
                self.all(&[&head, prefix, &bytes, suffix].concat(), More::No).await?;
            }
            Segment::Bytes(bytes) => {
                self.all(&[&head, prefix].concat(), More::Follows).await?;
                self.all(&bytes, before(suffix.is_empty())).await?;
                self.all(suffix, More::No).await?;
            }
        }
        count(self.wire, len as usize);
        Ok(())
    }
}

/// The next item of a stream that had none, or the news that the client has gone. `hang_up` is kept by the caller from item to
/// item, so that waiting for many of them costs one operation.
async fn next_item(
    wire: &Wire,
    items: &mut LocalBoxStream<'static, Result<Segment, Error>>,
    hang_up: &mut Option<HangUp>,
) -> Result<Option<Result<Segment, Error>>, Broken> {
    // What has come and nobody asked for, such as the next request, waits on the heap.
    wire.input.borrow_mut().spill();
    std::future::poll_fn(|cx| {
        if let Poll::Ready(item) = items.poll_next_unpin(cx) {
            return Poll::Ready(Ok(item));
        }
        let hang_up = hang_up.get_or_insert_with(|| wire.socket.hang_up());
        Pin::new(hang_up).poll(cx).map(|()| Err(Broken::Gone))
    })
    .await
}

fn count(wire: &Wire, sent: usize) {
    wire.body_sent.set(wire.body_sent.get() + sent as u64);
    wire.worker.metrics.bytes_sent.add(sent as u64);
    wire.worker.count_path(wire.path.borrow().as_ref(), 0, sent as u64);
}

pub(super) fn failed_read(error: io::Error) -> Unsent {
    Unsent::Failed(Error::server("a file can't be read").because(error))
}

fn wrong_length() -> Unsent {
    Unsent::Failed(Error::server("a stream is not as long as its handler said"))
}

fn of_socket_or_file(error: io::Error) -> Unsent {
    match error.kind() {
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::NotConnected
        | io::ErrorKind::TimedOut => Unsent::Broken(Broken::Gone),
        _ => failed_read(error),
    }
}
