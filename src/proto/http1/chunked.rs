//! The chunked transfer coding (RFC 9112 §7.1): a decoder for what clients send, and the few bytes around what we send.
//!
//! ```text
//!   5;a=b ␍␊ hello ␍␊   …   0 ␍␊  Name: value ␍␊  ␍␊
//!   size ext   data          last  trailer
//! ```
//!
//! The decoder is given bytes and answers where the data in them is; it copies nothing and keeps a few words of state.
//! It steps through the coding's own bytes one by one and over data at once, and does the same small work for each
//! step, so a flood of tiny chunks costs no more a byte than one large head does. Extensions and trailers mean nothing
//! to this server, so they are checked, counted against a bound, and dropped.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::{Deref, Range};

use http::StatusCode;

use super::head::is_token_byte;

/// As many hexadecimal digits as a `u64` has.
const MAX_SIZE_DIGITS: usize = 16;

/// The bounds of a chunked body's overhead. The data has its own, which is the reader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkLimits {
    /// All extensions of one body together, in bytes.
    pub extension_len: usize,
    /// The whole trailer section, line ends included, in bytes.
    pub trailer_len: usize,
}

/// What [`Decoder::decode`] found. `used` bytes of the input are done with and are not to be passed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Nothing but framing so far, and all of it used.
    NeedMore {
        /// The length of the input.
        used: usize,
    },
    /// Bytes of the body.
    Data {
        /// Where they lie in the input; never empty.
        data: Range<usize>,
        /// The end of the data; what follows has not been looked at.
        used: usize,
    },
    /// The body is over. What follows is the next request.
    End {
        /// The end of the body.
        used: usize,
    },
}

/// Why a chunked body was refused. The connection closes after the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkedError {
    /// A chunk's size is no hexadecimal number that fits in 64 bits.
    Size,
    /// A line, or a chunk's data, does not end in CR LF.
    LineEnd,
    /// A control byte in an extension.
    Extension,
    /// The extensions are longer than their limit.
    ExtensionTooLong,
    /// A trailer line is no field.
    Trailer,
    /// The trailers are longer than their limit.
    TrailerTooLong,
}

impl ChunkedError {
    /// The status to answer with.
    pub fn status(self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
}

impl fmt::Display for ChunkedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChunkedError::Size => "The size of a chunk is malformed.",
            ChunkedError::LineEnd => "A line or a chunk does not end in CR LF.",
            ChunkedError::Extension => "A chunk extension is malformed.",
            ChunkedError::ExtensionTooLong => "The chunk extensions are too long.",
            ChunkedError::Trailer => "A trailer field is malformed.",
            ChunkedError::TrailerTooLong => "The trailer fields are too long.",
        })
    }
}

impl std::error::Error for ChunkedError {}

/// Takes one body apart.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    /// What the extensions may still take, in bytes.
    extension_left: usize,
    /// What the trailers may still take, in bytes.
    trailer_left: usize,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug)]
enum State {
    /// A chunk's size, of which so many digits are there.
    Size {
        size: u64,
        digits: usize,
    },
    /// White space between the size and the semicolon of an extension.
    BeforeExtension {
        size: u64,
    },
    Extension {
        size: u64,
    },
    /// The LF that ends a size line.
    SizeLf {
        size: u64,
    },
    /// Data, so many bytes of it.
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// The first byte of a trailer line, or the CR of the empty line.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    /// The last LF of all.
    FinalLf,
    Done,
    Failed(ChunkedError),
}

impl Decoder {
    /// A decoder that stands before the first chunk's size.
    pub fn new(limits: ChunkLimits) -> Self {
        Decoder {
            state: State::Size { size: 0, digits: 0 },
            extension_left: limits.extension_len,
            trailer_left: limits.trailer_len,
        }
    }

    /// Reads on, up to the first data in `input`, its end, or the end of the body.
    ///
    /// # Errors
    /// A [`ChunkedError`] at the first byte that proves it, and the same again in every later call.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, ChunkedError> {
        let mut used = 0;
        loop {
            match self.state {
                State::Done => return Ok(Decoded::End { used }),
                State::Failed(error) => return Err(error),
                State::Data { left } if used < input.len() => {
                    let available = (input.len() - used) as u64;
                    let len = left.min(available);
                    self.state = if len == left { State::DataCr } else { State::Data { left: left - len } };
                    let data = used..used + len as usize;
                    return Ok(Decoded::Data { used: data.end, data });
                }
                state => {
                    let Some(&byte) = input.get(used) else {
                        return Ok(Decoded::NeedMore { used });
                    };
                    used += 1;
                    self.state = self.step(state, byte).unwrap_or_else(State::Failed);
                }
            }
        }
    }

    /// How many bytes of data come before the next byte of framing.
    pub fn data_left(&self) -> u64 {
        match self.state {
            State::Data { left } => left,
            _ => 0,
        }
    }

    /// Where one byte of framing leads.
    fn step(&mut self, state: State, byte: u8) -> Result<State, ChunkedError> {
        match state {
            State::Size { size, digits } => self.size_byte(size, digits, byte),
            State::BeforeExtension { size } | State::Extension { size } => self.extension_byte(state, size, byte),
            // "The chunked coding is complete when a chunk with a chunk-size of zero is received" (§7.1).
            State::SizeLf { size: 0 } => expect(byte, b'\n', State::TrailerStart),
            State::SizeLf { size } => expect(byte, b'\n', State::Data { left: size }),
            State::DataCr => expect(byte, b'\r', State::DataLf),
            State::DataLf => expect(byte, b'\n', State::Size { size: 0, digits: 0 }),
            State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLf | State::FinalLf => {
                self.trailer_left = self.trailer_left.checked_sub(1).ok_or(ChunkedError::TrailerTooLong)?;
                trailer_byte(state, byte)
            }
            // `decode` deals with these; they have no framing.
            State::Data { .. } | State::Done | State::Failed(_) => Ok(state),
        }
    }

    /// `chunk-size = 1*HEXDIG`, followed by an extension or the line's end.
    fn size_byte(&mut self, size: u64, digits: usize, byte: u8) -> Result<State, ChunkedError> {
        if let Some(digit) = hex_digit(byte) {
            // "A recipient MUST anticipate potentially large hexadecimal numerals and prevent parsing errors due to
            // integer conversion overflows" (§7.1): so many digits can't overflow, and leading zeros have an end, too.
            if digits == MAX_SIZE_DIGITS {
                return Err(ChunkedError::Size);
            }
            return Ok(State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 });
        }
        match byte {
            _ if digits == 0 => Err(ChunkedError::Size),
            b'\r' => Ok(State::SizeLf { size }),
            b'\n' => Err(ChunkedError::LineEnd),
            b' ' | b'\t' | b';' => self.extension_byte(State::BeforeExtension { size }, size, byte),
            _ => Err(ChunkedError::Size),
        }
    }

    /// `chunk-ext = *( BWS ";" BWS name [ BWS "=" BWS value ] )` (§7.1.1). What stands after the semicolon is taken as
    /// it is: neither tokens nor quoted strings can hold a line end, so its structure does not matter for where the
    /// line ends.
    fn extension_byte(&mut self, state: State, size: u64, byte: u8) -> Result<State, ChunkedError> {
        let next = match (state, byte) {
            (_, b'\n') => return Err(ChunkedError::LineEnd),
            (State::Extension { .. }, b'\r') => return Ok(State::SizeLf { size }),
            (State::Extension { .. }, _) if is_text_byte(byte) => state,
            (State::BeforeExtension { .. }, b' ' | b'\t') => state,
            (State::BeforeExtension { .. }, b';') => State::Extension { size },
            _ => return Err(ChunkedError::Extension),
        };
        self.extension_left = self.extension_left.checked_sub(1).ok_or(ChunkedError::ExtensionTooLong)?;
        Ok(next)
    }
}

/// `trailer-section = *( field-line CRLF )`, then the empty line (§7.1.2).
fn trailer_byte(state: State, byte: u8) -> Result<State, ChunkedError> {
    match (state, byte) {
        (State::TrailerLf, _) => expect(byte, b'\n', State::TrailerStart),
        (State::FinalLf, _) => expect(byte, b'\n', State::Done),
        (_, b'\n') => Err(ChunkedError::LineEnd),
        (State::TrailerStart, b'\r') => Ok(State::FinalLf),
        (State::TrailerStart | State::TrailerName, _) if is_token_byte(byte) => Ok(State::TrailerName),
        (State::TrailerName, b':') => Ok(State::TrailerValue),
        (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
        (State::TrailerValue, _) if is_text_byte(byte) => Ok(state),
        _ => Err(ChunkedError::Trailer),
    }
}

fn expect(byte: u8, wanted: u8, next: State) -> Result<State, ChunkedError> {
    if byte == wanted { Ok(next) } else { Err(ChunkedError::LineEnd) }
}

/// Visible characters, blanks, tabs, and what is not ASCII.
fn is_text_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// What ends a chunk's data.
pub const CHUNK_END: &[u8] = b"\r\n";

/// What ends a chunked body, after the last chunk's [`CHUNK_END`].
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The line before a chunk's data, on the stack: `1a2b\r\n`.
#[derive(Clone, Copy, Debug)]
pub struct ChunkHead {
    bytes: [u8; MAX_SIZE_DIGITS + 2],
    start: usize,
}

impl ChunkHead {
    /// The line before `len` bytes of data. Not of none: an empty chunk is the end of the body.
    pub fn new(len: NonZeroU64) -> Self {
        let mut bytes = [0; MAX_SIZE_DIGITS + 2];
        bytes[MAX_SIZE_DIGITS..].copy_from_slice(b"\r\n");
        let mut start = MAX_SIZE_DIGITS;
        let mut rest = len.get();
        while rest > 0 {
            start -= 1;
            bytes[start] = b"0123456789abcdef"[(rest & 0xf) as usize];
            rest >>= 4;
        }
        ChunkHead { bytes, start }
    }
}

impl Deref for ChunkHead {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: ChunkLimits = ChunkLimits { extension_len: 16, trailer_len: 32 };

    /// A body and how many bytes of the input it took; `None` when it has not ended.
    type Outcome = Result<(Vec<u8>, Option<usize>), ChunkedError>;

    /// Decodes `pieces` one after the other, as they would arrive.
    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let mut decoder = Decoder::new(LIMITS);
        let mut body = Vec::new();
        let mut total = 0;
        for piece in pieces {
            let mut rest = piece;
            loop {
                let used = match decoder.decode(rest)? {
                    Decoded::NeedMore { used } => {
                        assert_eq!(used, rest.len(), "asks for more before it has used what there is");
                        total += used;
                        break;
                    }
                    Decoded::Data { data, used } => {
                        assert!(!data.is_empty() && data.end == used);
                        body.extend_from_slice(&rest[data]);
                        used
                    }
                    Decoded::End { used } => return Ok((body, Some(total + used))),
                };
                total += used;
                rest = &rest[used..];
            }
        }
        Ok((body, None))
    }

    /// Byte by byte, and in two pieces cut anywhere, the outcome must be that of the whole.
    #[track_caller]
    fn every_split(input: &[u8]) -> Outcome {
        let whole = decode([input]);
        assert_eq!(decode(input.chunks(1)), whole, "byte by byte: {}", input.escape_ascii());
        for cut in 0..=input.len() {
            assert_eq!(decode([&input[..cut], &input[cut..]]), whole, "cut at {cut}: {}", input.escape_ascii());
        }
        whole
    }

    #[track_caller]
    fn check(input: &str, body: &str) {
        let (decoded, used) = every_split(input.as_bytes()).expect("a valid body");
        assert_eq!((decoded.as_slice(), used), (body.as_bytes(), Some(input.len())), "{input:?}");
    }

    #[track_caller]
    fn check_error(input: impl AsRef<[u8]>, error: ChunkedError) {
        assert_eq!(every_split(input.as_ref()), Err(error), "{}", input.as_ref().escape_ascii());
    }

    #[test]
    fn what_is_left_of_a_chunk_is_known() {
        let mut decoder = Decoder::new(LIMITS);
        for (input, left) in [("1", 0), ("0\r\n", 16), ("0123456", 9), ("789abcdef", 0), ("\r\n2\r\n", 2), ("x", 1)] {
            decoder.decode(input.as_bytes()).expect("a valid body");
            assert_eq!(decoder.data_left(), left, "behind {input:?}");
        }
    }

    #[test]
    fn f2_bodies() {
        check("0\r\n\r\n", "");
        check("5\r\nhello\r\n0\r\n\r\n", "hello");
        check("5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n", "hello world");
        check("1A\r\nabcdefghijklmnopqrstuvwxyz\r\n00\r\n\r\n", "abcdefghijklmnopqrstuvwxyz");
        check("0000000000000005\r\n\r\n\r\n\n\r\n0\r\n\r\n", "\r\n\r\n\n");
    }

    #[test]
    fn f2_the_next_request_is_left_alone() {
        let outcome = every_split(b"1\r\nx\r\n0\r\n\r\nGET / HTTP/1.1\r\n");
        assert_eq!(outcome, Ok((b"x".to_vec(), Some(11))));
    }

    #[test]
    fn f2_sizes_that_are_none() {
        for size in [
            "",
            " 5",
            "\t5",
            "+5",
            "-5",
            "0x5",
            "g",
            "5g",
            "5.",
            "5,5",
            "\"5\"",
            "\0",
            "\u{665}",
            "5\0",
            "12345678901234567",
        ] {
            check_error(format!("{size}\r\nhello\r\n0\r\n\r\n"), ChunkedError::Size);
        }
        check_error("00000000000000005\r\nhello\r\n", ChunkedError::Size);
        check_error("10000000000000005\r\nhello\r\n", ChunkedError::Size);
        check_error("\n5\r\nhello", ChunkedError::Size);
    }

    #[test]
    fn f2_the_largest_size_does_not_overflow() {
        let outcome = every_split(b"ffffffffffffffff\r\nabc");
        assert_eq!(outcome, Ok((b"abc".to_vec(), None)));
    }

    #[test]
    fn f2_line_ends_are_exact() {
        for input in [
            "5\nhello\r\n0\r\n\r\n",
            "5\rhello\r\n0\r\n\r\n",
            "5\r\rhello",
            "5;a\nhello\r\n",
            "5 \nhello\r\n",
            "5;a\rb\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello!\r\n0\r\n\r\n",
            "5\r\nhello\r0\r\n\r\n",
            "5\r\nhello\r\r\n0\r\n",
            "0\n\r\n",
            "0\r\n\n",
            "0\r\n\r\r",
            "0\r\n\rX",
            "0\r\nX: y\n\r\n",
            "0\r\nX: y\rz\r\n",
            "0\r\nX\n\r\n",
        ] {
            check_error(input, ChunkedError::LineEnd);
        }
    }

    #[test]
    fn f2_a_chunk_that_is_shorter_than_it_says() {
        // The size of the "next chunk" is taken for data, so that the data does not end where it must.
        check_error("6\r\nhello\r\n0\r\n\r\n", ChunkedError::LineEnd);
        check_error("4\r\nhello\r\n0\r\n\r\n", ChunkedError::LineEnd);
    }

    #[test]
    fn f2_extensions() {
        check("5;a\r\nhello\r\n0;b=c\r\n\r\n", "hello");
        check("5 ;\ta = \"\u{e9}\"\r\nhello\r\n0\r\n\r\n", "hello");
        check("5;\r\nhello\r\n0\r\n\r\n", "hello");
        for line in ["5 ", "5\t", "5 a", "5 5", "5;a\0", "5;\u{b}", "5;\u{7f}", "5 =a"] {
            check_error(format!("{line}\r\nhello\r\n0\r\n\r\n"), ChunkedError::Extension);
        }
    }

    #[test]
    fn f2_extensions_are_bounded_over_the_whole_body() {
        let extension = |len: usize| format!("1;{}\r\nx\r\n", "e".repeat(len - 1));
        check(&format!("{}0\r\n\r\n", extension(LIMITS.extension_len)), "x");
        check_error(extension(LIMITS.extension_len + 1), ChunkedError::ExtensionTooLong);
        check(&format!("{}0\r\n\r\n", extension(2).repeat(LIMITS.extension_len / 2)), "xxxxxxxx");
        check_error(extension(2).repeat(LIMITS.extension_len / 2 + 1), ChunkedError::ExtensionTooLong);
        check_error(format!("1{}", " ".repeat(LIMITS.extension_len + 1)), ChunkedError::ExtensionTooLong);
    }

    #[test]
    fn f2_trailers() {
        check("0\r\nX: y\r\n\r\n", "");
        check("0\r\nA:\r\nb: \tc\u{e9}\r\n\r\n", "");
        for line in
            [": y", " X: y", "\tX: y", "X : y", "X", "X y: z", "X: \0", "X: \u{7f}", "\0", "X\u{e9}: y", "X: y\r\n z"]
        {
            check_error(format!("0\r\n{line}\r\n\r\n"), ChunkedError::Trailer);
        }
    }

    #[test]
    fn f2_trailers_are_bounded() {
        let trailer = |len: usize| format!("0\r\nX: {}\r\n\r\n", "y".repeat(len - "X: \r\n\r\n".len()));
        check(&trailer(LIMITS.trailer_len), "");
        check_error(trailer(LIMITS.trailer_len + 1), ChunkedError::TrailerTooLong);
        check_error(format!("0\r\n{}", "X:\r\n".repeat(LIMITS.trailer_len)), ChunkedError::TrailerTooLong);
    }

    #[test]
    fn f2_an_answer_is_final() {
        let mut decoder = Decoder::new(LIMITS);
        assert_eq!(decoder.decode(b"0\r\n\r\n"), Ok(Decoded::End { used: 5 }));
        assert_eq!(decoder.decode(b"5\r\nhello"), Ok(Decoded::End { used: 0 }));
        let mut decoder = Decoder::new(LIMITS);
        assert_eq!(decoder.decode(b"x"), Err(ChunkedError::Size));
        assert_eq!(decoder.decode(b"0\r\n\r\n"), Err(ChunkedError::Size));
        assert_eq!(ChunkedError::Size.status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn f2_a_flood_of_tiny_chunks_takes_one_call_a_chunk() {
        let input = b"1\r\nx\r\n".repeat(1000);
        let mut decoder = Decoder::new(LIMITS);
        let (mut at, mut calls) = (0, 0);
        while at < input.len() {
            calls += 1;
            at += match decoder.decode(&input[at..]).unwrap() {
                Decoded::NeedMore { used } | Decoded::Data { used, .. } | Decoded::End { used } => used,
            };
        }
        assert_eq!(calls, 1001);
    }

    #[test]
    fn chunk_heads() {
        for (len, line) in
            [(1, "1\r\n"), (15, "f\r\n"), (16, "10\r\n"), (0x1a2b, "1a2b\r\n"), (u64::MAX, "ffffffffffffffff\r\n")]
        {
            assert_eq!(&*ChunkHead::new(NonZeroU64::new(len).unwrap()), line.as_bytes());
        }
    }

    /// Pieces that bodies are made of, and that break them.
    fn body_like() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            &b"\r\n"[..],
            b"\r\n",
            b"3\r\nabc\r\n",
            b"1;x\r\ny\r\n",
            b"0\r\n",
            b"0\r\n\r\n",
            b"X: y\r\n",
            b"5",
            b"\n",
            b"\r",
            b";",
            b" ",
            b"\0",
            b"\xff",
            b"ffffffffffffffff",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn f2_any_bytes_have_one_outcome(input in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = every_split(&input);
        }

        #[test]
        fn f2_almost_bodies_have_one_outcome(input in body_like()) {
            let _ = every_split(&input);
        }

        #[test]
        fn f2_what_is_encoded_is_decoded(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in prop::collection::vec(1usize..20, 1..20),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(&ChunkHead::new(NonZeroU64::new(chunk.len() as u64).unwrap()));
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(CHUNK_END);
            }
            wire.extend_from_slice(LAST_CHUNK);
            let mut rest = wire.as_slice();
            let mut pieces = Vec::new();
            for &len in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(len.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            prop_assert_eq!(decode(pieces), Ok((chunks.concat(), Some(wire.len()))));
        }
    }
}
