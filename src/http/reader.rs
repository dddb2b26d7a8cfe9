//! The reader of a request's body, as it comes.
//!
//! Small pieces are handed out in the receive buffers that the kernel put them in. A reader of much, an upload, asks for
//! [`BodyReader::in_large_pieces`]: then bytes go from the socket to an upload buffer, half a high water mark at a
//! time, and from there to wherever they are written, without a copy between. Such a buffer is taken when there are bytes to
//! put in it, and given back while the client is waited for; `SO_RCVLOWAT` keeps a slow client's bytes in the kernel until
//! there are enough of them to be worth a write. A provided-buffer ring of large buffers was rejected: a receive could take
//! bytes of the next request, which are not to be held in a buffer for a body.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_core::Stream;
use http::Version;

use super::body::Chunk;
use super::multipart::Multipart;
use super::wire::{BodyState, Broken, Wire};
use crate::driver::buf::Buf;
use crate::driver::leases::Available;
use crate::driver::op::{Interest, Op};
use crate::error::Error;
use crate::limits::Limits;
use crate::proto::http1::chunked::{ChunkedError, Decoded, Decoder};
use crate::proto::http1::encode::{self, Payload, Persistence, ResponseHead};
use crate::proto::multipart::Boundary;
use crate::rt::Operation;
use crate::rt::timer::Timer;

/// Reads a request's body as it comes. Nothing is received unless it is polled, so a reader that stops makes TCP hold the
/// client back. The first poll answers `Expect: 100-continue` (F8).
///
/// Dropping it leaves the rest to the server, which drains a little and otherwise closes the connection (F7). One that outlives
/// its exchange is told that there is no more, and the connection closes.
pub struct BodyReader {
    /// Room for the 100 (Continue), where earlier replies fill the socket. Before the wire, so that it is given up before the
    /// socket is closed.
    room: Option<Operation>,
    large: Option<Large>,
    /// Its own, because a reply may be sent, at its own pace, while the body is read.
    timer: Option<Timer>,
    has_failed: bool,
    wire: Rc<Wire>,
}

/// The news that a client has finished its side while its reply waits for something. It may still read (F10), or it may be gone: only
/// sending would tell. Who has sent its next request is never said to have finished.
pub(crate) struct ClientEnd {
    /// Given up before the socket is closed.
    readable: Option<Operation>,
    has_sent_more: bool,
    wire: Rc<Wire>,
}

impl ClientEnd {
    /// Has the client answer what it is sent within this time, as long as the result lives.
    pub fn answering_within(&self, time: Duration) -> Answering {
        Answering::within(&self.wire, time)
    }

    /// Ready when the client has finished.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let has_body = !matches!(self.wire.incoming.borrow().framing, BodyState::Done | BodyState::Length(0));
        if has_body || self.has_sent_more || !self.wire.input.borrow().unread().is_empty() {
            return Poll::Pending;
        }
        // A poll and not a receive, which would keep the connection from being parked.
        if !self.wire.is_receiving() {
            let poll = Op::Poll { socket: self.wire.socket.raw(), interest: Interest::Readable };
            let readable = self.readable.get_or_insert_with(|| self.wire.runtime().operate(poll));
            ready!(Pin::new(readable).poll(cx));
            self.readable = None;
        }
        match ready!(self.wire.poll_receive(cx)) {
            Ok(0) | Err(_) => Poll::Ready(()),
            Ok(_) => {
                self.has_sent_more = true;
                // No buffer of the pool waits for a client.
                self.wire.input.borrow_mut().spill();
                Poll::Pending
            }
        }
    }
}

/// While it lives, a client that acknowledges nothing of what it was sent is gone after this time.
pub(crate) struct Answering(Rc<Wire>);

impl Answering {
    fn within(wire: &Rc<Wire>, time: Duration) -> Self {
        wire.socket.expect_acknowledgement(Some(time));
        Answering(wire.clone())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        // The next reply may be a film that its client has stopped for a while.
        self.0.socket.expect_acknowledgement(None);
    }
}

/// What reading in large pieces needs.
#[derive(Default)]
struct Large {
    /// More bytes, and since when they are waited for.
    readable: Option<(Operation, Instant)>,
    buffer: Option<Available>,
    /// How many bytes make the socket readable; 0 for as many as the kernel likes.
    low_water: usize,
    /// The last poll yielded a piece: others have their turn first.
    has_had_turn: bool,
    /// Whether few bytes are worth a write.
    is_prompt: bool,
}

impl BodyReader {
    pub(super) fn new(wire: Rc<Wire>) -> Self {
        BodyReader { room: None, large: None, timer: None, has_failed: false, wire }
    }

    /// The same reader, whose pieces come in upload buffers: up to half a high water mark each, and none while the pool
    /// is empty. Such a buffer is missing from the pool as long as its [`Chunk`] is kept.
    #[must_use]
    pub fn in_large_pieces(mut self) -> Self {
        self.large.get_or_insert_default();
        self
    }

    /// The same reader, as [`BodyReader::in_large_pieces`], for a body that somebody follows: what has come is handed out at
    /// once, however little.
    #[must_use]
    pub(crate) fn promptly(mut self) -> Self {
        self.large.get_or_insert_default().is_prompt = true;
        self
    }

    /// The form in this body.
    pub(super) fn into_form(self, boundary: &Boundary, file_len: u64, total_len: u64) -> Multipart {
        let worker = self.wire.worker.clone();
        Multipart::new(self, boundary, &worker.limits, file_len, total_len)
    }

    /// What tells that the client has finished its side. The body is read, or there is none; else nothing is told.
    pub(crate) fn into_client_end(self) -> ClientEnd {
        ClientEnd { readable: None, has_sent_more: false, wire: self.wire.clone() }
    }

    /// The next bytes; `None` at the end of the body.
    ///
    /// # Errors
    /// The client's fault: it left, is too slow, or its framing is broken.
    pub async fn next(&mut self) -> Option<Result<Chunk, Error>> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// The whole body, if it is no longer than `limit` bytes.
    ///
    /// # Errors
    /// As [`BodyReader::next`]; and the client's fault when it is longer.
    pub async fn read_all(&mut self, limit: usize) -> Result<Bytes, Error> {
        let mut all = Vec::new();
        while let Some(chunk) = self.next().await {
            let chunk = chunk?;
            if chunk.len() > limit - all.len() {
                return Err(Error::client(format!("the body is longer than {limit} bytes")));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.into())
    }

    /// What is left, in bytes, if the client said so.
    pub fn remaining(&self) -> Option<u64> {
        match self.wire.incoming.borrow().framing {
            BodyState::Done => Some(0),
            BodyState::Length(left) => Some(left),
            BodyState::Chunked(_) | BodyState::Broken => None,
        }
    }

    /// Sends an interim reply, such as 104 (RFC 9110 §15.2), before the final one. A client of HTTP/1.0 gets none.
    ///
    /// # Errors
    /// The client's fault: it left, or does not take it.
    pub(crate) async fn inform(&mut self, version: Version, head: &ResponseHead) -> Result<(), Error> {
        debug_assert!(head.status.is_informational());
        if version < Version::HTTP_11 {
            return Ok(());
        }
        let mut bytes = Vec::new();
        encode::encode(&mut bytes, version, head, None, Payload::None, Persistence::KeepAlive);
        let mut left = &bytes[..];
        std::future::poll_fn(|cx| self.poll_room(cx, |wire| wire.try_inform(&mut left))).await.map_err(Error::from)
    }

    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, Error>>> {
        let polled = self.poll_piece(cx);
        self.wire.incoming.borrow_mut().reader = polled.is_pending().then(|| cx.waker().clone());
        let piece = ready!(polled);
        if !matches!(piece, Ok(Some(_))) {
            self.stop_waiting();
        }
        Poll::Ready(match piece {
            Ok(chunk) => chunk.map(|chunk| {
                self.wire.worker.metrics.bytes_received.add(chunk.len() as u64);
                Ok(chunk)
            }),
            // Once; after it the stream is over.
            Err(error) => (!std::mem::replace(&mut self.has_failed, true)).then_some(Err(error)),
        })
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, Error>> {
        loop {
            match take_chunk(&self.wire) {
                Taken::Chunk(chunk) => return Poll::Ready(Ok(Some(chunk))),
                Taken::End => return Poll::Ready(Ok(None)),
                Taken::Failed(error) => return Poll::Ready(Err(error)),
                Taken::NeedMore => {}
            }
            let more = match self.large {
                // A receive that was begun belongs to the wire, and is finished as it is.
                Some(_) if !self.wire.is_receiving() => ready!(self.poll_large(cx)),
                _ => ready!(self.poll_more(cx)).map(|_| Piece::InInput).map_err(Failure::from),
            };
            match more {
                Ok(Piece::InInput) => {}
                Ok(Piece::Chunk(chunk)) => return Poll::Ready(Ok(Some(chunk))),
                Err(failure) => {
                    self.wire.incoming.borrow_mut().framing = BodyState::Broken;
                    return Poll::Ready(Err(failure.into()));
                }
            }
        }
    }

    /// Receives more, after the client was told to go on (F8).
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        ready!(self.poll_room(cx, Wire::try_continue))?;
        let timer = self.timer.get_or_insert_with(|| Timer::new(self.wire.runtime()));
        self.wire.poll_receive_paced(cx, timer)
    }

    /// Carries out what needs room in the socket, as soon as there is some.
    fn poll_room(
        &mut self,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&Wire) -> io::Result<()>,
    ) -> Poll<Result<(), Broken>> {
        let wire = &self.wire;
        let timer = self.timer.get_or_insert_with(|| Timer::new(wire.runtime()));
        loop {
            if let Some(room) = &mut self.room {
                if Pin::new(room).poll(cx).is_pending() {
                    return timer.poll_expired(cx).map(|_| Err(Broken::Slow));
                }
                self.room = None;
                timer.set(None);
            }
            match send(wire) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let poll = Op::Poll { socket: wire.socket.raw(), interest: Interest::Writable };
                    self.room = Some(wire.runtime().operate(poll));
                    timer.set_after(wire.incoming.borrow().pace.patience());
                }
                Err(_) => return Poll::Ready(Err(Broken::Gone)),
            }
        }
    }

    /// Receives into an upload buffer.
    fn poll_large(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Failure>> {
        ready!(self.poll_room(cx, Wire::try_continue))?;
        loop {
            let mut has_waited_long = false;
            if self.large.as_ref().is_some_and(|large| large.readable.is_some()) {
                has_waited_long = ready!(self.poll_readable(cx));
            }
            let large = self.large.get_or_insert_default();
            if std::mem::take(&mut large.has_had_turn) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut buf = ready!(large.poll_buffer(cx, &self.wire));
            match receive_into(&self.wire, &mut buf) {
                Ok(()) if !buf.is_empty() => {
                    large.has_had_turn = true;
                    return Poll::Ready(Ok(Piece::Chunk(Chunk::leased(Rc::new(buf)))));
                }
                // Nothing but framing; what follows on it stands in the input, or is still to come.
                Ok(()) => return Poll::Ready(Ok(Piece::InInput)),
                Err(Failure::Empty) if has_waited_long => return Poll::Ready(Err(Broken::Slow.into())),
                Err(Failure::Empty) => self.wait(),
                Err(failure) => return Poll::Ready(Err(failure)),
            }
        }
    }

    /// Begins to wait for more bytes, as many as are worth a write where so many will come.
    fn wait(&mut self) {
        let (wire, large) = (&self.wire, self.large.get_or_insert_default());
        let wanted = match wire.incoming.borrow().framing {
            BodyState::Length(left) if left >= Limits::RECEIVE_LOW_WATER as u64 && !large.is_prompt => {
                Limits::RECEIVE_LOW_WATER
            }
            _ => 1,
        };
        large.set_low_water(wire, wanted);
        let poll = Op::Poll { socket: wire.socket.raw(), interest: Interest::Readable };
        large.readable = Some((wire.runtime().operate(poll), wire.runtime().now()));
    }

    /// Waits until bytes have come; true when the client's patience is used up first. Then it may still have sent some, but
    /// fewer than are worth a write.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let wire = &self.wire;
        let Some((poll, since)) = self.large.as_mut().and_then(|large| large.readable.as_mut()) else {
            return Poll::Ready(false);
        };
        let timer = self.timer.get_or_insert_with(|| Timer::new(wire.runtime()));
        let (now, since) = (wire.runtime().now(), *since);
        let mut incoming = wire.incoming.borrow_mut();
        let mut has_waited_long = false;
        if Pin::new(poll).poll(cx).is_pending() {
            let deadline = since + incoming.pace.patience();
            if deadline > now {
                timer.set(Some(deadline));
                ready!(timer.poll_expired(cx));
            }
            has_waited_long = true;
        }
        timer.set(None);
        incoming.pace.waited(now.saturating_duration_since(since));
        drop(incoming);
        self.large.get_or_insert_default().readable = None;
        Poll::Ready(has_waited_long)
    }

    /// Leaves the socket as who reads from it next expects it.
    fn stop_waiting(&mut self) {
        if let Some(large) = &mut self.large {
            large.readable = None;
            large.set_low_water(&self.wire, 1);
        }
    }
}

impl Large {
    /// The next upload buffer that is free.
    fn poll_buffer(&mut self, cx: &mut Context<'_>, wire: &Wire) -> Poll<Buf> {
        let pool = wire.runtime().upload_pool();
        loop {
            match &mut self.buffer {
                None => match pool.try_take() {
                    Some(buf) => return Poll::Ready(buf),
                    None => self.buffer = Some(pool.available()),
                },
                Some(available) => {
                    ready!(Pin::new(available).poll(cx));
                    self.buffer = None;
                    if let Some(buf) = pool.take_promised() {
                        return Poll::Ready(buf);
                    }
                }
            }
        }
    }

    fn set_low_water(&mut self, wire: &Wire, wanted: usize) {
        if self.low_water.max(1) != wanted {
            // Only a hint: where it can't be set, more writes are made.
            let _ = wire.socket.set_receive_low_water(wanted as u32);
            self.low_water = wanted;
        }
    }
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        self.stop_waiting();
    }
}

impl Stream for BodyReader {
    type Item = Result<Chunk, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_chunk(cx)
    }
}

/// Where more of the body is.
enum Piece {
    /// In the wire's input.
    InInput,
    /// Here.
    Chunk(Chunk),
}

/// Why there is no more of the body.
enum Failure {
    /// Nothing has come.
    Empty,
    Broken(Broken),
    Malformed(ChunkedError),
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        Failure::Broken(broken)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Empty => Broken::Slow.into(),
            Failure::Broken(broken) => broken.into(),
            Failure::Malformed(error) => malformed(error),
        }
    }
}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Gone => Error::client("the client left before its request was whole"),
            Broken::Slow => Error::client("the client is slower than the minimum rate"),
        }
    }
}

fn malformed(error: ChunkedError) -> Error {
    Error::client("the request's body is malformed").because(error)
}

/// Receives what has come of the body, and nothing of what follows it, into an empty buffer; a coding is taken out in place.
fn receive_into(wire: &Wire, buf: &mut Buf) -> Result<(), Failure> {
    let mut incoming = wire.incoming.borrow_mut();
    let most = usize::try_from(wire.worker.turn_len()).unwrap_or(usize::MAX);
    let most = match &incoming.framing {
        BodyState::Length(left) => most.min(usize::try_from(*left).unwrap_or(usize::MAX)),
        // Behind the chunk at hand the next request may begin: no more of that is put back than a receive may bring.
        BodyState::Chunked(decoder) => {
            let data = usize::try_from(decoder.data_left()).unwrap_or(usize::MAX);
            most.min(data.saturating_add(wire.worker.limits.receive_buffer_len))
        }
        _ => most,
    };
    let received = match wire.socket.try_receive(buf, most) {
        Ok(0) => return Err(Broken::Gone.into()),
        Ok(received) => received,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Failure::Empty),
        Err(_) => return Err(Broken::Gone.into()),
    };
    incoming.pace.moved(received as u64);
    match &mut incoming.framing {
        BodyState::Length(left) => *left -= received as u64,
        BodyState::Chunked(decoder) => {
            let behind = decode_in_place(decoder, buf).map_err(Failure::Malformed)?;
            if let Some(next_request) = behind {
                debug_assert!(next_request.len() <= wire.worker.limits.receive_buffer_len, "more than is counted");
                incoming.framing = BodyState::Done;
                wire.input.borrow_mut().put_back(next_request);
            }
        }
        BodyState::Done | BodyState::Broken => {}
    }
    Ok(())
}

/// Leaves only the data of a chunked body in the buffer. At the end of the body: what came behind it.
fn decode_in_place(decoder: &mut Decoder, buf: &mut Buf) -> Result<Option<Vec<u8>>, ChunkedError> {
    let bytes = buf.filled_mut();
    let (mut at, mut kept, mut behind) = (0, 0, None);
    while at < bytes.len() && behind.is_none() {
        match decoder.decode(&bytes[at..])? {
            Decoded::Data { data, used } => {
                bytes.copy_within(at + data.start..at + data.end, kept);
                kept += data.len();
                at += used;
            }
            Decoded::NeedMore { used } => at += used,
            Decoded::End { used } => behind = Some(bytes[at + used..].to_vec()),
        }
    }
    buf.truncate(kept);
    Ok(behind)
}

/// What the input holds of the body.
pub(super) enum Taken {
    /// Some bytes.
    Chunk(Chunk),
    /// All of it has been taken.
    End,
    /// The input is used up.
    NeedMore,
    /// It can't be read any further.
    Failed(Error),
}

/// Takes the next bytes of the body that have come already.
pub(super) fn take_chunk(wire: &Wire) -> Taken {
    let mut incoming = wire.incoming.borrow_mut();
    let mut input = wire.input.borrow_mut();
    match &mut incoming.framing {
        BodyState::Done | BodyState::Length(0) => {
            incoming.framing = BodyState::Done;
            Taken::End
        }
        BodyState::Broken => Taken::Failed(Error::client("the request's body is broken")),
        BodyState::Length(left) => {
            let len = usize::try_from(*left).unwrap_or(usize::MAX).min(input.unread().len());
            if len == 0 {
                return Taken::NeedMore;
            }
            *left -= len as u64;
            Taken::Chunk(input.take(0..len, len))
        }
        BodyState::Chunked(decoder) => match decoder.decode(input.unread()) {
            Ok(Decoded::Data { data, used }) => Taken::Chunk(input.take(data, used)),
            Ok(Decoded::NeedMore { used }) => {
                input.consume(used);
                Taken::NeedMore
            }
            Ok(Decoded::End { used }) => {
                input.consume(used);
                incoming.framing = BodyState::Done;
                Taken::End
            }
            Err(error) => {
                incoming.framing = BodyState::Broken;
                Taken::Failed(malformed(error))
            }
        },
    }
}
