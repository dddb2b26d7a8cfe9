//! Bodies: those that replies carry, and the reader of those that requests bring.

use std::ops::{Deref, Range};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use futures_core::stream::LocalBoxStream;

use super::pacing::PacedBody;
use super::wire::{BodyState, Broken, Wire};
use crate::driver::buf::Buf;
use crate::driver::op::{Interest, Op};
use crate::error::Error;
use crate::proto::http1::chunked::Decoded;
use crate::proto::range::ByteRange;
use crate::rt::fs::File;
use crate::rt::timer::Timer;
use crate::rt::{Operation, queue};

/// What a reply carries.
#[derive(Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// Bytes in memory.
    Bytes(Bytes),
    /// A region of a file, which goes out without passing through user memory where that pays.
    File(FileRegion),
    /// Several pieces, one after the other.
    Segments(Vec<Segment>),
    /// Items as they come. It is polled only when the socket can take more, and each item is sent before the next is asked for.
    /// An error aborts the reply so that the client can tell.
    Stream {
        /// The items; empty ones are passed over.
        items: LocalBoxStream<'static, Result<Bytes, Error>>,
        /// Their length together, in bytes, if it is known; a stream that yields another is aborted.
        len: Option<u64>,
    },
    /// Any of these, sent no faster than it says: see [`super::Response::paced`].
    Paced(Box<PacedBody>),
}

/// Bytes of an open file. The descriptor stays open as long as the region lives.
#[derive(Clone, Debug)]
pub struct FileRegion {
    /// The file.
    pub file: Rc<File>,
    /// Which bytes, half-open; they have to be there when they are sent, else the reply is aborted.
    pub range: ByteRange,
}

/// A piece of a body.
#[derive(Clone, Debug)]
pub enum Segment {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A region of a file.
    File(FileRegion),
}

impl Segment {
    /// Length in bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Segment::Bytes(bytes) => bytes.len() as u64,
            Segment::File(region) => region.range.len(),
        }
    }
}

impl Body {
    /// A body of items of unknown length.
    pub fn stream(items: impl Stream<Item = Result<Bytes, Error>> + 'static) -> Self {
        Body::Stream { items: Box::pin(items), len: None }
    }

    /// A body and the sender that fills it. The queue between them holds at most `high_water_mark` bytes; over it, the sender
    /// waits for the client. Dropping the sender ends the body.
    pub fn channel(high_water_mark: usize) -> (queue::Sender<Bytes>, Self) {
        let (sender, mut receiver) = queue::bounded(high_water_mark);
        let items = futures_util::stream::poll_fn(move |cx| receiver.poll_next(cx).map(|item| item.map(Ok)));
        (sender, Body::stream(items))
    }

    /// Length in bytes, if it is known.
    pub fn len(&self) -> Option<u64> {
        match self {
            Body::Empty => Some(0),
            Body::Bytes(bytes) => Some(bytes.len() as u64),
            Body::File(region) => Some(region.range.len()),
            Body::Segments(segments) => Some(segments.iter().fold(0, |sum, segment| sum.saturating_add(segment.len()))),
            Body::Stream { len, .. } => *len,
            Body::Paced(paced) => paced.body.len(),
        }
    }

    /// Whether it is known to be empty.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Body({:?} bytes)", self.len())
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Body::Bytes(Bytes::from_static(text.as_bytes()))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Body::Bytes(Bytes::from(text))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body::Bytes(bytes)
    }
}

/// Some bytes of a request's body, still in the receive buffer that the kernel put them in. While a chunk is kept, its buffer
/// is missing from the pool; keep a copy instead.
#[derive(Clone, Debug)]
pub struct Chunk(Content);

#[derive(Clone, Debug)]
enum Content {
    Leased { buf: Rc<Buf>, range: Range<usize> },
    Copied(Vec<u8>),
}

impl Chunk {
    pub(super) fn leased(buf: Rc<Buf>, range: Range<usize>) -> Self {
        Chunk(Content::Leased { buf, range })
    }

    pub(super) fn copied(bytes: &[u8]) -> Self {
        Chunk(Content::Copied(bytes.to_vec()))
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Content::Leased { buf, range } => &buf[range.clone()],
            Content::Copied(bytes) => bytes,
        }
    }
}

impl From<Chunk> for Bytes {
    fn from(chunk: Chunk) -> Self {
        match chunk.0 {
            Content::Leased { buf, range } => Bytes::copy_from_slice(&buf[range]),
            Content::Copied(bytes) => Bytes::from(bytes),
        }
    }
}

/// Reads a request's body as it comes. Nothing is received unless it is polled, so a reader that stops makes TCP hold the
/// client back. The first poll answers `Expect: 100-continue` (F8).
///
/// Dropping it leaves the rest to the server, which drains a little and otherwise closes the connection (F7). One that outlives
/// its exchange is told that there is no more, and the connection closes.
pub struct BodyReader {
    /// Room for the 100 (Continue), where earlier replies fill the socket. Before the wire, so that it is given up before the
    /// socket is closed.
    room: Option<Operation>,
    /// Its own, because a reply may be sent, at its own pace, while the body is read.
    timer: Option<Timer>,
    has_failed: bool,
    wire: Rc<Wire>,
}

impl BodyReader {
    pub(super) fn new(wire: Rc<Wire>) -> Self {
        BodyReader { room: None, timer: None, has_failed: false, wire }
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

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, Error>>> {
        loop {
            match take_chunk(&self.wire) {
                Taken::Chunk(chunk) => return Poll::Ready(Some(Ok(chunk))),
                Taken::End => return Poll::Ready(None),
                Taken::Failed(error) => return Poll::Ready(self.fail(error)),
                Taken::NeedMore => {}
            }
            let more = self.poll_more(cx);
            self.wire.incoming.borrow_mut().reader = more.is_pending().then(|| cx.waker().clone());
            if let Err(broken) = ready!(more) {
                self.wire.incoming.borrow_mut().framing = BodyState::Broken;
                return Poll::Ready(self.fail(broken.into()));
            }
        }
    }

    /// The error, once; after it the stream is over.
    fn fail(&mut self, error: Error) -> Option<Result<Chunk, Error>> {
        (!std::mem::replace(&mut self.has_failed, true)).then_some(Err(error))
    }

    /// Receives more, after the client was told to go on (F8).
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
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
            match wire.try_continue() {
                Ok(()) => return wire.poll_receive_paced(cx, timer),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    let poll = Op::Poll { socket: wire.socket.raw(), interest: Interest::Writable };
                    self.room = Some(wire.runtime().operate(poll));
                    timer.set_after(wire.incoming.borrow().pace.patience());
                }
                Err(_) => return Poll::Ready(Err(Broken::Gone)),
            }
        }
    }
}

impl Stream for BodyReader {
    type Item = Result<Chunk, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_chunk(cx)
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
                Taken::Failed(Error::client("the request's body is malformed").because(error))
            }
        },
    }
}
