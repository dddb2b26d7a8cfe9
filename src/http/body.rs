//! Bodies: those that replies carry, and the pieces of those that requests bring.

use std::num::NonZeroU64;
use std::ops::{Deref, Range};
use std::rc::Rc;

use bytes::Bytes;
use futures_core::Stream;
use futures_core::stream::LocalBoxStream;
use futures_util::StreamExt;

use super::pacing::PacedBody;
use crate::driver::buf::Buf;
use crate::driver::op::WriteFrom;
use crate::error::Error;
use crate::proto::http1::chunked::{CHUNK_END, ChunkHead};
use crate::proto::http1::encode::Payload;
use crate::proto::range::ByteRange;
use crate::rt::fs::File;
use crate::rt::queue;

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
    /// Items as they come. Each is sent before the next is asked for, so a client that takes none holds one. An error aborts the
    /// reply so that the client can tell.
    Stream {
        /// The items; empty ones are passed over.
        items: LocalBoxStream<'static, Result<Segment, Error>>,
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
    /// Bytes that go to many clients.
    Framed(Framed),
}

impl Segment {
    /// Length in bytes, without any framing.
    pub(super) fn len(&self) -> u64 {
        match self {
            Segment::Bytes(bytes) => bytes.len() as u64,
            Segment::File(region) => region.range.len(),
            Segment::Framed(framed) => framed.data().len() as u64,
        }
    }
}

impl From<Bytes> for Segment {
    fn from(bytes: Bytes) -> Self {
        Segment::Bytes(bytes)
    }
}

impl From<FileRegion> for Segment {
    fn from(region: FileRegion) -> Self {
        Segment::File(region)
    }
}

impl From<Framed> for Segment {
    fn from(framed: Framed) -> Self {
        Segment::Framed(framed)
    }
}

/// Bytes with the framing of one chunk around them (RFC 9112 §7.1), made once for all clients that get them: each is a send of
/// the same memory. Cloning clones the handle.
#[derive(Clone, Debug)]
pub struct Framed {
    chunk: Bytes,
    /// Where the data begins in the chunk; it ends before the chunk's last line end.
    data_start: u32,
}

impl Framed {
    /// What [`Framed::new`] adds to the data at most, in bytes.
    pub const OVERHEAD: usize = 20;

    /// One chunk of this data, in memory of its own.
    ///
    /// # Panics
    /// When there is no data: an empty chunk is the end of a body.
    pub fn new(data: &[u8]) -> Self {
        Framed::around(data, Bytes::from)
    }

    /// As [`Framed::new`], with what keeps the bytes, such as a share of a [`super::Budget`] that counts them.
    ///
    /// # Panics
    /// As [`Framed::new`].
    pub fn around(data: &[u8], keep: impl FnOnce(Vec<u8>) -> Bytes) -> Self {
        let len = NonZeroU64::new(data.len() as u64).expect("a chunk has data");
        let head = ChunkHead::new(len);
        let mut chunk = Vec::with_capacity(head.len() + data.len() + CHUNK_END.len());
        chunk.extend_from_slice(&head);
        chunk.extend_from_slice(data);
        chunk.extend_from_slice(CHUNK_END);
        Framed { data_start: head.len() as u32, chunk: keep(chunk) }
    }

    /// The data alone.
    pub fn data(&self) -> &[u8] {
        &self.chunk[self.data_start as usize..self.chunk.len() - CHUNK_END.len()]
    }

    /// The data from this offset on, in the same memory.
    pub fn data_from(&self, start: usize) -> Bytes {
        self.chunk.slice(self.data_start as usize + start..self.chunk.len() - CHUNK_END.len())
    }

    /// What goes out: a chunk in the chunked coding, else the data alone.
    pub(super) fn for_payload(&self, payload: Payload) -> &[u8] {
        if payload == Payload::Chunked { &self.chunk } else { self.data() }
    }
}

impl Body {
    /// A body of items of unknown length.
    pub fn stream<T: Into<Segment>>(items: impl Stream<Item = Result<T, Error>> + 'static) -> Self {
        Body::Stream { items: Box::pin(items.map(|item| item.map(Into::into))), len: None }
    }

    /// A body of items that are so many bytes together; a stream that yields another number is aborted.
    pub fn sized_stream<T: Into<Segment>>(items: impl Stream<Item = Result<T, Error>> + 'static, len: u64) -> Self {
        match Body::stream(items) {
            Body::Stream { items, .. } => Body::Stream { items, len: Some(len) },
            body => body,
        }
    }

    /// A body and the sender that fills it. The queue between them holds at most `high_water_mark` bytes; over it, the sender
    /// waits for the client. Dropping the sender ends the body.
    pub fn channel(high_water_mark: usize) -> (queue::Sender<Bytes>, Self) {
        let (sender, mut receiver) = queue::bounded(high_water_mark);
        let items = futures_util::stream::poll_fn(move |cx| receiver.poll_next(cx).map(|item| item.map(Ok)));
        (sender, Body::stream::<Bytes>(items))
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

/// Some bytes of a request's body, still in the buffer that the kernel put them in: a receive buffer, or an
/// upload buffer (see [`super::BodyReader::in_large_pieces`]). While a chunk is kept, its buffer
/// is missing from the pool; keep a copy instead.
#[derive(Clone, Debug)]
pub struct Chunk(Content);

#[derive(Clone, Debug)]
enum Content {
    Leased { buf: Rc<Buf>, range: Range<usize> },
    Copied(Bytes),
}

impl Chunk {
    /// All of a buffer's bytes.
    pub(crate) fn leased(buf: Rc<Buf>) -> Self {
        let range = 0..buf.len();
        Chunk(Content::Leased { buf, range })
    }

    pub(super) fn copied(bytes: &[u8]) -> Self {
        Chunk(Content::Copied(Bytes::copy_from_slice(bytes)))
    }

    /// A part of it, in the same place.
    ///
    /// # Panics
    /// When the range is not within it.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Chunk {
        Chunk(match &self.0 {
            Content::Leased { buf, range: of } => {
                assert!(range.start <= range.end && range.end <= of.len(), "{range:?} of {} bytes", of.len());
                Content::Leased { buf: buf.clone(), range: of.start + range.start..of.start + range.end }
            }
            Content::Copied(bytes) => Content::Copied(bytes.slice(range)),
        })
    }

    /// The same bytes as a file's write takes them, without a copy.
    pub(crate) fn into_write(self) -> WriteFrom {
        match self.0 {
            Content::Leased { buf, range } => WriteFrom::Buf { buf, range },
            Content::Copied(bytes) => WriteFrom::Bytes(bytes),
        }
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
            Content::Copied(bytes) => bytes,
        }
    }
}
