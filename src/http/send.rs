//! The send path: a head and a body, out through one socket, at most one high water mark a turn.
//!
//! | body | how |
//! |---|---|
//! | bytes | head and body as one send, joined in a buffer or as two pieces |
//! | a file region up to `SMALL_REPLY_LEN`, resident | head and body in one buffer, one send |
//! | a larger region, resident | sendfile(2), one high water mark, then the next connection has its turn |
//! | a larger region, cold | read through the ring into a transfer buffer, then sent; the worker does not wait |
//! | a stream | item by item, each asked for when the socket can take more |
//!
//! Whether a region is resident is probed (`RWF_NOWAIT`), never assumed. What a full socket did not take of a transfer buffer
//! is dropped with the buffer and sent again from the page cache, so that no buffer waits for a client.

use std::io;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use futures_core::stream::LocalBoxStream;
use futures_util::StreamExt;

use super::body::{Body, FileRegion, Segment};
use super::pace::Pace;
use super::pacing::Throttle;
use super::wire::{Broken, Wire};
use crate::driver::More;
use crate::driver::buf::Buf;
use crate::error::Error;
use crate::limits::Limits;
use crate::proto::http1::chunked::{CHUNK_END, ChunkHead, LAST_CHUNK};
use crate::proto::http1::encode::Payload;
use crate::rt::yield_now;

/// Distance between the pages that are probed before a region is given to sendfile, in bytes. Read-ahead brings pages in by
/// at least this much, so that a hole between two resident probes is rare.
const PROBE_STEP: usize = 64 << 10;

/// Up to this length, in bytes, copying bytes behind the head costs less than a send of two pieces.
const JOINED_LEN: usize = 8 << 10;

/// Items of a stream up to this length are framed in one buffer, in bytes; longer ones go out uncopied.
const COPIED_ITEM_LEN: usize = 16 << 10;

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
pub(super) async fn reply(wire: &Wire, head: &[u8], body: Body, payload: Payload) -> Result<(), Unsent> {
    match at_once(wire, head, &body)? {
        Sent::Whole => Ok(()),
        Sent::Part(sent) => Box::pin(rest(wire, head, body, payload, sent)).await,
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
            let joined = (bytes.len() <= JOINED_LEN).then(|| joined(wire, head, bytes)).flatten();
            let result = match joined {
                Some(buf) => wire.try_send(&buf, More::No),
                None => wire.try_send_pair(head, bytes, More::No),
            };
            (result, head.len() + bytes.len())
        }
        Body::File(region) => match small_file(wire, head, region) {
            Some(buf) => (wire.try_send(&buf, More::No), buf.len()),
            None => return Ok(Sent::Part(0)),
        },
        Body::Segments(_) | Body::Stream { .. } | Body::Paced(_) => return Ok(Sent::Part(0)),
    };
    let sent = match result {
        Ok(sent) => sent,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(_) => return Err(Broken::Gone.into()),
    };
    count(wire, sent.saturating_sub(head.len()));
    Ok(if sent == len { Sent::Whole } else { Sent::Part(sent) })
}

/// A buffer that begins with the head and has room for so much body, if one is free and long enough.
fn headed(wire: &Wire, head: &[u8], len: usize) -> Option<Buf> {
    let pool = wire.runtime().transfer_pool();
    let mut buf = if head.len() + len <= pool.block_len() { pool.try_take()? } else { return None };
    buf.append(head);
    Some(buf)
}

/// Head and bytes in one buffer.
fn joined(wire: &Wire, head: &[u8], bytes: &[u8]) -> Option<Buf> {
    let mut buf = headed(wire, head, bytes.len())?;
    buf.append(bytes);
    Some(buf)
}

/// Head and file region in one buffer, if the region is small and all of it is in the page cache.
fn small_file(wire: &Wire, head: &[u8], region: &FileRegion) -> Option<Buf> {
    let len = usize::try_from(region.range.len()).ok().filter(|len| *len <= Limits::SMALL_REPLY_LEN)?;
    let mut buf = headed(wire, head, len)?;
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
async fn rest(wire: &Wire, head: &[u8], body: Body, payload: Payload, sent: usize) -> Result<(), Unsent> {
    let (body, throttle) = Throttle::of(body);
    let mut sending =
        Sending { wire, pace: Pace::new(wire.worker.limits.reply_min_rate, wire.worker.limits.rate_grace), throttle };
    let (head, of_body) = (&head[sent.min(head.len())..], sent.saturating_sub(head.len()));
    match body {
        Body::Empty => sending.all(head, More::No).await,
        Body::Bytes(bytes) => {
            let bytes = &bytes[of_body..];
            sending.all(head, before(bytes.is_empty())).await?;
            sending.bytes(bytes, More::No).await
        }
        Body::File(mut region) => {
            region.range.start += of_body as u64;
            sending.all(head, before(region.range.is_empty())).await?;
            sending.region(region).await
        }
        Body::Segments(mut segments) => {
            segments.retain(|segment| segment.len() > 0);
            sending.all(head, before(segments.is_empty())).await?;
            sending.segments(segments).await
        }
        Body::Stream { items, .. } => sending.stream(head, items, payload).await,
        Body::Paced(_) => panic!("invariant: a body is paced once"),
    }
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
        let hung_up = hung_up.get_or_insert_with(|| Box::pin(wire.socket.hung_up()));
        hung_up.as_mut().poll(cx).map(|()| Err(Broken::Gone))
    })
    .await
}

struct Sending<'a> {
    wire: &'a Wire,
    pace: Pace,
    throttle: Throttle,
}

impl Sending<'_> {
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
                Segment::File(region) => self.region(region).await?,
            }
        }
        Ok(())
    }

    /// A region of any length, one high water mark a turn.
    async fn region(&mut self, region: FileRegion) -> Result<(), Unsent> {
        let mark = self.wire.worker.limits.high_water_mark as u64;
        let FileRegion { file, range } = &region;
        let mut offset = range.start;
        while offset < range.end {
            let turn = (range.end - offset).min(mark) as usize;
            let turn = self.throttle.turn(self.wire, &mut self.pace, turn);
            let sent = if self.is_resident(&region, offset, turn)? {
                self.wire.socket.try_send_file(file, offset, turn)
            } else {
                self.cold_turn(&region, offset, turn).await?
            };
            match sent {
                Ok(0) => return Err(Unsent::Truncated),
                Ok(sent) => {
                    offset += sent as u64;
                    count(self.wire, sent);
                    self.pace.moved(sent as u64);
                    self.throttle.moved(sent);
                    if sent < turn {
                        self.wire.writable(&mut self.pace).await?;
                    } else if offset < range.end {
                        yield_now().await;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wire.writable(&mut self.pace).await?,
                Err(error) => return Err(of_socket_or_file(error)),
            }
        }
        Ok(())
    }

    /// Whether the probed pages of the turn are in the page cache; the disk is asked for those that are not.
    fn is_resident(&self, region: &FileRegion, offset: u64, len: usize) -> Result<bool, Unsent> {
        let last = len.saturating_sub(1);
        for at in (0..last).step_by(PROBE_STEP).chain([last]) {
            match region.file.read_resident(offset + at as u64, &mut [0]) {
                // The file has become shorter: what lies before its new end may be cold.
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) if is_cold(&error) => return Ok(false),
                Err(error) => return Err(failed_read(error)),
            }
        }
        Ok(true)
    }

    /// Reads a turn from the disk and sends what the socket takes of it.
    async fn cold_turn(&self, region: &FileRegion, offset: u64, len: usize) -> Result<io::Result<usize>, Unsent> {
        self.wire.worker.metrics.cold_reads.increment();
        let buf = self.wire.runtime().transfer_pool().acquire().await;
        let (read, buf) = region.file.read(offset, len, buf).await;
        match read {
            Ok(0) => Ok(Ok(0)),
            Ok(_) => Ok(self.wire.try_send(&buf, More::No)),
            Err(error) => Err(failed_read(error)),
        }
    }

    async fn stream(
        &mut self,
        head: &[u8],
        mut items: LocalBoxStream<'static, Result<Bytes, Error>>,
        payload: Payload,
    ) -> Result<(), Unsent> {
        // The head does not wait for an item that takes its time, and goes along with one that does not.
        let mut head = Some(head);
        let mut left = match payload {
            Payload::Length(len) => Some(len),
            _ => None,
        };
        loop {
            let at_once = std::future::poll_fn(|cx| Poll::Ready(items.poll_next_unpin(cx))).await;
            let item = match at_once {
                Poll::Ready(item) => item,
                Poll::Pending => {
                    self.all(head.take().unwrap_or_default(), More::No).await?;
                    unless_hung_up(self.wire, items.next()).await?
                }
            };
            let Some(item) = item else { break };
            let item = item.map_err(Unsent::Failed)?;
            if let Some(left) = &mut left {
                *left = left.checked_sub(item.len() as u64).ok_or_else(wrong_length)?;
            }
            self.item(head.take().unwrap_or_default(), item, payload).await?;
            self.wire.writable(&mut self.pace).await?;
        }
        if left.is_some_and(|left| left > 0) {
            return Err(wrong_length());
        }
        let end = if payload == Payload::Chunked { LAST_CHUNK } else { &[] };
        self.all(&[head.unwrap_or_default(), end].concat(), More::No).await
    }

    /// One item, framed, behind what is still owed of the head.
    async fn item(&mut self, head: &[u8], item: Bytes, payload: Payload) -> Result<(), Unsent> {
        let chunk_head = std::num::NonZeroU64::new(item.len() as u64).map(ChunkHead::new);
        let (prefix, suffix): (&[u8], &[u8]) = match (&chunk_head, payload) {
            (Some(chunk_head), Payload::Chunked) => (chunk_head, CHUNK_END),
            _ => (&[], &[]),
        };
        if item.len() <= COPIED_ITEM_LEN {
            self.all(&[head, prefix, &item, suffix].concat(), More::No).await?;
        } else {
            self.all(&[head, prefix].concat(), More::Follows).await?;
            self.all(&item, before(suffix.is_empty())).await?;
            self.all(suffix, More::No).await?;
        }
        count(self.wire, item.len());
        Ok(())
    }
}

fn count(wire: &Wire, sent: usize) {
    wire.body_sent.set(wire.body_sent.get() + sent as u64);
    wire.worker.metrics.bytes_sent.add(sent as u64);
}

/// Not in the page cache; or a file system that can't tell, whose files then all count as cold.
fn is_cold(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::EOPNOTSUPP)
}

fn failed_read(error: io::Error) -> Unsent {
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
