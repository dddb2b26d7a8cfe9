//! One reply, read as it comes (RFC 9112): head, then a body framed by its length or in chunks. No descriptor and no clock here.
//!
//! A load generator that takes a broken reply for a fast one measures nothing, so the reading is strict: framing that is missing,
//! given twice or malformed is an error. A body that ends with the connection is an error too: a server that closes a
//! connection in the middle of a file would look like one that has sent all of it. Only a stream that never ends may come without
//! framing (RFC 9112 §6.3), which the caller has to allow.
//!
//! The reader says how many of the next bytes it need not look at ([`ReplyReader::discardable`]); the caller then drops them
//! inside the kernel.

use std::fmt;

/// A head longer than this is refused; the servers that are measured send some hundred bytes.
pub const HEAD_LEN_MAX: usize = 64 * 1024;

/// A chunk's size line longer than this, extensions included, is refused.
const CHUNK_LINE_LEN_MAX: usize = 4096;

const FIELDS_MAX: usize = 64;

/// What the head of a reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHead {
    /// The status code; never 1xx, for interim replies are passed over.
    pub status: u16,
    /// Whether the server will take another request on this connection (RFC 9112 §9.3).
    pub keep_alive: bool,
    /// The bytes that a 206 says it holds.
    pub content_range: Option<ContentRange>,
    /// How much of an upload the server has (tus 1.0, `Upload-Offset`).
    pub upload_offset: Option<u64>,
    framing: Framing,
}

/// `Content-Range: bytes first-last/complete` (RFC 9110 §14.4), with a half-open range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// The first byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// Why a reply can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The head is not HTTP/1, or longer than [`HEAD_LEN_MAX`].
    Head,
    /// Content-Length and Transfer-Encoding do not say exactly where the body ends.
    Framing,
    /// A Content-Range that is none, or that differs from the length.
    ContentRange,
    /// A chunk's size, its line end or the trailer section.
    Chunk,
    /// Bytes follow the reply that no request asked for.
    Excess,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Head => "head",
            Malformed::Framing => "framing",
            Malformed::ContentRange => "content-range",
            Malformed::Chunk => "chunk",
            Malformed::Excess => "excess",
        })
    }
}

/// Reads one reply. Bytes go in by [`ReplyReader::take`], or are accounted by [`ReplyReader::discarded`].
#[derive(Debug, Default)]
pub struct ReplyReader {
    stage: Stage,
    head: Option<ReplyHead>,
    location: Option<String>,
    /// A head or a line that is not complete yet.
    pending: Vec<u8>,
    body_len: u64,
    may_be_endless: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    /// Up to the end of the connection.
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Head,
    Body {
        remaining: u64,
    },
    ChunkSize,
    ChunkData {
        remaining: u64,
    },
    ChunkEnd,
    Trailer,
    Done,
}

impl ReplyReader {
    /// A reader that takes a body without framing for one that has no end.
    pub fn of_endless() -> Self {
        ReplyReader { may_be_endless: true, ..ReplyReader::default() }
    }

    /// Makes the reader ready for the next reply; its memory is kept.
    pub fn reset(&mut self) {
        self.stage = Stage::Head;
        self.head = None;
        self.location = None;
        self.pending.clear();
        self.body_len = 0;
    }

    /// The head, once it is complete.
    pub fn head(&self) -> Option<&ReplyHead> {
        self.head.as_ref()
    }

    /// The Location, once the head is complete and where it has one of printable ASCII.
    pub fn location(&self) -> Option<&str> {
        self.location.as_deref()
    }

    /// How many bytes of the body have come; chunked coding is not counted.
    pub fn body_len(&self) -> u64 {
        self.body_len
    }

    /// Whether the whole reply has come.
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Whether any byte of the reply has come.
    pub fn has_begun(&self) -> bool {
        self.head.is_some() || !self.pending.is_empty()
    }

    /// How many of the next bytes are body and nothing else.
    pub fn discardable(&self) -> u64 {
        match self.stage {
            Stage::Body { remaining } | Stage::ChunkData { remaining } => remaining,
            _ => 0,
        }
    }

    /// Accounts for `len` bytes of the body that were dropped unseen; `len` is at most [`ReplyReader::discardable`].
    pub fn discarded(&mut self, len: u64) {
        debug_assert!(len <= self.discardable());
        self.body_len += len;
        self.stage = match self.stage {
            Stage::Body { remaining } if remaining == len => Stage::Done,
            Stage::Body { remaining } => Stage::Body { remaining: remaining.saturating_sub(len) },
            Stage::ChunkData { remaining } if remaining == len => Stage::ChunkEnd,
            Stage::ChunkData { remaining } => Stage::ChunkData { remaining: remaining.saturating_sub(len) },
            other => other,
        };
    }

    /// Reads what has come. `body` is called with each piece of the body and its offset in the file, in order.
    ///
    /// # Errors
    /// The reply breaks a rule, or bytes follow its end: requests are not pipelined here, so nothing may.
    pub fn take(&mut self, mut bytes: &[u8], mut body: impl FnMut(u64, &[u8])) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            bytes = match self.stage {
                Stage::Head => self.take_head(bytes)?,
                Stage::Body { remaining } | Stage::ChunkData { remaining } => {
                    let (piece, rest) =
                        bytes.split_at(bytes.len().min(usize::try_from(remaining).unwrap_or(usize::MAX)));
                    body(self.file_offset(), piece);
                    self.discarded(piece.len() as u64);
                    rest
                }
                Stage::ChunkSize | Stage::ChunkEnd | Stage::Trailer => self.take_line(bytes)?,
                Stage::Done => return Err(Malformed::Excess),
            };
        }
        Ok(())
    }

    /// Where the next byte of the body lies in the file: a 206 begins where its Content-Range says.
    fn file_offset(&self) -> u64 {
        let start = self.head.and_then(|head| head.content_range).map_or(0, |range| range.start);
        start.saturating_add(self.body_len)
    }

    fn take_head<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], Malformed> {
        // The common case: the head came in one piece and is parsed where it lies.
        if self.pending.is_empty() {
            return match parse_head(bytes)? {
                Some((head, location, len)) => {
                    self.begin(head, location)?;
                    Ok(&bytes[len..])
                }
                None => {
                    self.pending.extend_from_slice(bytes);
                    Ok(&[])
                }
            };
        }
        let before = self.pending.len();
        self.pending.extend_from_slice(bytes);
        match parse_head(&self.pending)? {
            Some((head, location, len)) => {
                self.pending.clear();
                self.begin(head, location)?;
                // What was pending held no complete head, so the head ends in the new bytes.
                Ok(&bytes[len.saturating_sub(before)..])
            }
            None => Ok(&[]),
        }
    }

    fn begin(&mut self, head: ReplyHead, location: Option<String>) -> Result<(), Malformed> {
        if head.status < 200 {
            return Ok(()); // An interim reply: the final one follows (RFC 9110 §15.2).
        }
        self.head = Some(head);
        self.location = location;
        self.stage = match head.framing {
            Framing::Length(0) => Stage::Done,
            Framing::Length(remaining) => Stage::Body { remaining },
            Framing::Chunked => Stage::ChunkSize,
            Framing::None if self.may_be_endless => Stage::Body { remaining: u64::MAX },
            Framing::None => return Err(Malformed::Framing),
        };
        Ok(())
    }

    fn take_line<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], Malformed> {
        let end = bytes.iter().position(|&b| b == b'\n').map(|at| at + 1);
        let (piece, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        self.pending.extend_from_slice(piece);
        if self.pending.len() > CHUNK_LINE_LEN_MAX {
            return Err(Malformed::Chunk);
        }
        if end.is_some() {
            let line = self.pending.strip_suffix(b"\r\n").ok_or(Malformed::Chunk)?;
            self.stage = after_line(self.stage, line)?;
            self.pending.clear();
        }
        Ok(rest)
    }
}

/// chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF; last-chunk = 1*("0"); then the trailer section (RFC 9112 §7.1).
fn after_line(stage: Stage, line: &[u8]) -> Result<Stage, Malformed> {
    match stage {
        Stage::ChunkSize => {
            let digits = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
            let extension_follows = line.get(digits).is_none_or(|&b| matches!(b, b';' | b' ' | b'\t'));
            // Fifteen digits can't overflow; sixteen is more than any file has.
            if digits == 0 || digits > 15 || !extension_follows {
                return Err(Malformed::Chunk);
            }
            let remaining = line[..digits].iter().fold(0, |sum, &b| sum << 4 | u64::from(hex_value(b)));
            Ok(if remaining == 0 { Stage::Trailer } else { Stage::ChunkData { remaining } })
        }
        Stage::ChunkEnd if line.is_empty() => Ok(Stage::ChunkSize),
        Stage::Trailer if line.is_empty() => Ok(Stage::Done),
        Stage::Trailer => Ok(Stage::Trailer),
        _ => Err(Malformed::Chunk),
    }
}

fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// The head, its Location and its length, where all of it is there.
fn parse_head(bytes: &[u8]) -> Result<Option<(ReplyHead, Option<String>, usize)>, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) if len <= HEAD_LEN_MAX => len,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_LEN_MAX => return Ok(None),
        _ => return Err(Malformed::Head),
    };
    let (Some(status), Some(version)) = (response.code, response.version) else { return Err(Malformed::Head) };
    let mut seen = Seen::default();
    for field in response.headers.iter() {
        seen.field(field)?;
    }
    let framing = seen.framing(status)?;
    if let (206, Some(range), Framing::Length(len)) = (status, seen.content_range, framing)
        && range.end - range.start != len
    {
        return Err(Malformed::ContentRange);
    }
    let keep_alive = !seen.close && (version == 1 || seen.keep_alive);
    let content_range = seen.content_range.filter(|_| status == 206);
    let head = ReplyHead { status, keep_alive, content_range, upload_offset: seen.upload_offset, framing };
    Ok(Some((head, seen.location, len)))
}

/// The fields that matter, gathered from a head.
#[derive(Default)]
struct Seen {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    content_range: Option<ContentRange>,
    upload_offset: Option<u64>,
    location: Option<String>,
}

impl Seen {
    fn field(&mut self, field: &httparse::Header<'_>) -> Result<(), Malformed> {
        let value = field.value.trim_ascii();
        if field.name.eq_ignore_ascii_case("content-length") {
            let length = digits(value).ok_or(Malformed::Framing)?;
            if self.length.replace(length).is_some() {
                return Err(Malformed::Framing);
            }
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed::Framing);
            }
            self.chunked = true;
        } else if field.name.eq_ignore_ascii_case("connection") {
            for option in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
                self.close |= option.eq_ignore_ascii_case(b"close");
                self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        } else if field.name.eq_ignore_ascii_case("content-range") {
            self.content_range = content_range(value)?;
        } else if field.name.eq_ignore_ascii_case("upload-offset") {
            self.upload_offset = digits(value);
        } else if field.name.eq_ignore_ascii_case("location") && value.iter().all(u8::is_ascii_graphic) {
            self.location = String::from_utf8(value.to_vec()).ok();
        }
        Ok(())
    }

    /// RFC 9112 §6.3: 1xx, 204 and 304 have no body; then Transfer-Encoding or Content-Length, and here never both.
    fn framing(&self, status: u16) -> Result<Framing, Malformed> {
        match (status, self.chunked, self.length) {
            (100..200 | 204 | 304, _, _) => Ok(Framing::Length(0)),
            (_, true, None) => Ok(Framing::Chunked),
            (_, false, Some(length)) => Ok(Framing::Length(length)),
            (_, false, None) => Ok(Framing::None),
            _ => Err(Malformed::Framing),
        }
    }
}

/// `None` for an unsatisfied range, `bytes */complete`.
fn content_range(value: &[u8]) -> Result<Option<ContentRange>, Malformed> {
    let parse = || {
        let (range, complete) = split_once(value.strip_prefix(b"bytes ")?, b'/')?;
        let complete = if complete == b"*" { u64::MAX } else { digits(complete)? };
        if range == b"*" {
            return Some(None);
        }
        let (first, last) = split_once(range, b'-')?;
        let (start, last) = (digits(first)?, digits(last)?);
        (start <= last && last < complete).then(|| Some(ContentRange { start, end: last + 1 }))
    };
    parse().ok_or(Malformed::ContentRange)
}

fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&b| b == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// 1*DIGIT that fits: no sign, no space, no empty string.
fn digits(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0u64, |sum, &b| {
        if !b.is_ascii_digit() {
            return None;
        }
        sum.checked_mul(10)?.checked_add(u64::from(b - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stream_without_framing_has_to_be_allowed() {
        let stream = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hi\n";
        assert_eq!(every_split(stream), Err(Malformed::Framing));
        for step in [1, 7, stream.len()] {
            let (mut reader, mut body) = (ReplyReader::of_endless(), Vec::new());
            for piece in stream.chunks(step) {
                reader.take(piece, |_, bytes| body.extend_from_slice(bytes)).unwrap();
            }
            assert!(body == b": hi\n" && !reader.is_done());
        }
    }

    type Outcome = Result<(Option<(u16, bool)>, Vec<u8>, bool), Malformed>;

    fn read(pieces: &[&[u8]]) -> Outcome {
        let mut reader = ReplyReader::default();
        let mut body = Vec::new();
        for piece in pieces {
            reader.take(piece, |at, bytes| {
                assert_eq!(at, body.len() as u64);
                body.extend_from_slice(bytes);
            })?;
        }
        Ok((reader.head().map(|head| (head.status, head.keep_alive)), body, reader.is_done()))
    }

    /// Cut at every byte, the reader must agree with itself.
    #[track_caller]
    fn every_split(input: &[u8]) -> Outcome {
        let whole = read(&[input]);
        for at in 0..=input.len() {
            assert_eq!(read(&[&input[..at], &input[at..]]), whole, "cut at {at}");
        }
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(read(&bytes), whole, "byte by byte");
        whole
    }

    #[track_caller]
    fn check(input: &str, status: u16, keep_alive: bool, body: &str) {
        assert_eq!(every_split(input.as_bytes()), Ok((Some((status, keep_alive)), body.as_bytes().to_vec(), true)));
    }

    #[track_caller]
    fn refuse(input: &str, why: Malformed) {
        assert_eq!(every_split(input.as_bytes()), Err(why), "{input:?}");
    }

    #[test]
    fn bodies_by_length_and_in_chunks() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, true, "hello");
        check("HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n", 200, true, "");
        check("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, true, "");
        check("HTTP/1.1 204 No Content\r\n\r\n", 204, true, "");
        check("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, true, "x");
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            200,
            true,
            "hello0123456789",
        );
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\nTrailer: yes\r\n\r\n", 200, true, "");
    }

    #[test]
    fn connection_options() {
        check("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 200, false, "");
        check("HTTP/1.1 200 OK\r\nConnection: upgrade, CLOSE\r\nContent-Length: 0\r\n\r\n", 200, false, "");
        check("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 200, false, "");
        check("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", 200, true, "");
    }

    #[test]
    fn broken_replies_are_refused() {
        refuse("HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n", Malformed::Head);
        refuse("nonsense\r\n\r\n", Malformed::Head);
        refuse("HTTP/1.1 200 OK\r\n\r\n", Malformed::Framing);
        refuse("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", Malformed::Framing);
        refuse("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", Malformed::Framing);
        refuse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", Malformed::Framing);
        refuse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Malformed::Framing);
        refuse("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Malformed::Framing);
        refuse("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxy", Malformed::Excess);
        refuse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", Malformed::Chunk);
        refuse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", Malformed::Chunk);
        refuse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\nx", Malformed::Chunk);
        refuse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n", Malformed::Chunk);
        refuse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n", Malformed::Chunk);
    }

    #[test]
    fn content_ranges() {
        let head = |range: &str| {
            parse_head(format!("HTTP/1.1 206 P\r\nContent-Range: {range}\r\nContent-Length: 2\r\n\r\n").as_bytes())
        };
        let (parsed, ..) = head("bytes 3-4/10").unwrap().unwrap();
        assert_eq!(parsed.content_range, Some(ContentRange { start: 3, end: 5 }));
        for broken in [
            "bytes 3-5/10",
            "bytes 4-3/10",
            "bytes 9-10/10",
            "bytes 3-4",
            "lines 3-4/10",
            "bytes 0-18446744073709551615/*",
        ] {
            assert_eq!(head(broken), Err(Malformed::ContentRange), "{broken}");
        }
    }

    #[test]
    fn what_uploads_are_told() {
        let told = |fields: &str| {
            let (head, location, _) =
                parse_head(format!("HTTP/1.1 204 N\r\n{fields}\r\n").as_bytes()).unwrap().unwrap();
            (head.upload_offset, location)
        };
        assert_eq!(told("Location: /up/1\r\nUpload-Offset: 10\r\n"), (Some(10), Some("/up/1".to_string())));
        assert_eq!(told("location: /a b\r\nupload-offset: -1\r\n"), (None, None));
        let mut reader = ReplyReader::default();
        for at in 0..2 {
            let reply =
                ["HTTP/1.1 201 C\r\nLocation: /up/1\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 204 N\r\n\r\n"][at];
            reader.reset();
            reader.take(reply.as_bytes(), |_, _| {}).unwrap();
            assert_eq!(reader.location(), [Some("/up/1"), None][at]);
        }
    }

    #[test]
    fn an_endless_head_is_refused() {
        let mut reader = ReplyReader::default();
        reader.take(b"HTTP/1.1 200 OK\r\nX: ", |_, _| {}).unwrap();
        let outcome = (0..=HEAD_LEN_MAX / 1024).try_for_each(|_| reader.take(&[b'x'; 1024], |_, _| {}));
        assert_eq!(outcome, Err(Malformed::Head));
    }

    #[test]
    fn discarded_bytes_count_as_body() {
        let mut reader = ReplyReader::default();
        reader.take(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nab", |_, _| {}).unwrap();
        assert_eq!(reader.discardable(), 6);
        reader.discarded(6);
        assert_eq!((reader.discardable(), reader.body_len(), reader.is_done()), (0, 8, false));
        reader.take(b"\r\n0\r\n\r\n", |_, _| {}).unwrap();
        assert!(reader.is_done());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn no_input_panics_and_no_cut_matters(tail in proptest::collection::vec(any::<u8>(), 0..64), chunked in any::<bool>()) {
            let framing = if chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 20" };
            let mut input = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n").into_bytes();
            input.extend_from_slice(&tail);
            let _ = every_split(&input);
            let _ = every_split(&tail);
        }
    }
}
