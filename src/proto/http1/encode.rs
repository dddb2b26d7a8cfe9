//! Response heads: from a status and fields to bytes (RFC 9112 §4–6).
//!
//! ```text
//!  HTTP/1.1 200 OK␍␊ Date: …␍␊ │ etag: "x"␍␊ accept-ranges: bytes␍␊ │ Content-Length: 5␍␊ Connection: close␍␊ ␍␊
//!  └──────── encode ─────────┘ └───── ResponseHead, as it is ─────┘ └───────────────── encode ──────────────────┘
//! ```
//!
//! A [`ResponseHead`] keeps its fields as the lines that go out, so that encoding a head is copying a block, and a head
//! that was made once can be kept beside an open file. A header map was rejected: it hashes each name and allocates for
//! each value, to be walked exactly once.
//!
//! Framing is decided in [`encode`] only: what a handler says about length, coding, connection or date never reaches
//! the wire beside what the server says.

use std::fmt::{self, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, StatusCode, Version};

use super::head::is_token;

/// The interim reply to `Expect: 100-continue` (RFC 9110 §15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Room for the fields of a usual reply, in bytes, so that it costs one allocation.
const USUAL_LEN: usize = 256;

/// Room for what [`encode`] adds to the fields, in bytes.
const FRAMING_LEN: usize = 192;

/// The status and the fields of a reply, without those that [`encode`] decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// Lines, each `name: value\r\n`. No value holds a line end.
    lines: Vec<u8>,
    has_date: bool,
    closes: bool,
}

impl ResponseHead {
    /// A reply with this status and no field.
    pub fn new(status: StatusCode) -> Self {
        ResponseHead { status, lines: Vec::with_capacity(USUAL_LEN), has_date: false, closes: false }
    }

    /// Adds a field after the others. A control byte in the value becomes a space, so that no value can end its line
    /// (RFC 9110 §5.5). The name is the program's own, a token.
    pub fn field(&mut self, name: &str, value: &[u8]) {
        self.line(name, |lines| lines.extend_from_slice(value));
    }

    /// Adds a field whose value is formatted in place: `head.field_fmt("etag", format_args!("\"{tag:x}\""))`.
    pub fn field_fmt(&mut self, name: &str, value: fmt::Arguments<'_>) {
        struct Lines<'a>(&'a mut Vec<u8>);
        impl fmt::Write for Lines<'_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.extend_from_slice(text.as_bytes());
                Ok(())
            }
        }
        self.line(name, |lines| {
            // Only a `Display` that fails of itself can fail here; its field ends where it did.
            let _ = Lines(lines).write_fmt(value);
        });
    }

    /// Adds a field whose value is a decimal number.
    pub fn field_number(&mut self, name: &str, value: u64) {
        self.line(name, |lines| lines.extend_from_slice(Decimal::new(value).as_bytes()));
    }

    /// Adds the fields of `other`, which may have been made long before; its status does not count.
    pub fn append(&mut self, other: &ResponseHead) {
        self.lines.extend_from_slice(&other.lines);
        self.has_date |= other.has_date;
        self.closes |= other.closes;
    }

    /// Every field as (name, value), in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        lines(&self.lines).map(split_line)
    }

    /// The value of the first field of this name; names compare without case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// Whether a field of this name is there.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Takes every field of this name out.
    pub fn remove(&mut self, name: &str) {
        if !self.contains(name) {
            return;
        }
        let mut kept = Vec::with_capacity(self.lines.capacity());
        for line in lines(&self.lines).filter(|line| !split_line(line).0.eq_ignore_ascii_case(name.as_bytes())) {
            kept.extend_from_slice(line);
        }
        self.lines = kept;
    }

    /// Puts one field in the place of all of this name, at the end.
    pub fn replace(&mut self, name: &str, value: &[u8]) {
        self.remove(name);
        self.field(name, value);
    }

    /// Whether the reply asked for the connection to be closed after it.
    pub fn closes(&self) -> bool {
        self.closes
    }

    /// Adds a line, unless it is about framing: that is decided in [`encode`], and here kept from ever getting in, so that
    /// encoding needs not look for it.
    fn line(&mut self, name: &str, write_value: impl FnOnce(&mut Vec<u8>)) {
        debug_assert!(is_token(name.as_bytes()), "{name:?} is no field name");
        if !is_token(name.as_bytes()) {
            // It could end its line and begin another reply.
            return;
        }
        let start = self.lines.len();
        self.lines.extend_from_slice(name.as_bytes());
        self.lines.extend_from_slice(b": ");
        let value_start = self.lines.len();
        write_value(&mut self.lines);
        match Decided::of(name) {
            None => {}
            Some(Decided::Date) => self.has_date = true,
            Some(Decided::Framing) => return self.lines.truncate(start),
            Some(Decided::Connection) => {
                self.closes |= self.lines[value_start..].eq_ignore_ascii_case(b"close");
                return self.lines.truncate(start);
            }
        }
        for byte in &mut self.lines[value_start..] {
            if (*byte < b' ' && *byte != b'\t') || *byte == 0x7f {
                *byte = b' ';
            }
        }
        self.lines.extend_from_slice(b"\r\n");
    }
}

/// Fields that the server has a say in.
#[derive(Clone, Copy)]
enum Decided {
    /// A handler's own Date takes the place of the server's.
    Date,
    /// Content-Length and Transfer-Encoding are the server's alone.
    Framing,
    /// Of Connection, only `close` is heard.
    Connection,
}

impl Decided {
    fn of(name: &str) -> Option<Self> {
        // The lengths spare nearly every name the comparison.
        match name.len() {
            4 if name.eq_ignore_ascii_case("date") => Some(Decided::Date),
            10 if name.eq_ignore_ascii_case("connection") => Some(Decided::Connection),
            14 if name.eq_ignore_ascii_case("content-length") => Some(Decided::Framing),
            17 if name.eq_ignore_ascii_case("transfer-encoding") => Some(Decided::Framing),
            _ => None,
        }
    }
}

impl From<(StatusCode, &HeaderMap)> for ResponseHead {
    fn from((status, map): (StatusCode, &HeaderMap)) -> Self {
        let mut head = ResponseHead::new(status);
        for (name, value) in map {
            head.field(name.as_str(), value.as_bytes());
        }
        head
    }
}

/// What follows the head, as the client is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing ever follows a reply of this status (1xx, 204, 304), or how much a GET would get is not known (HEAD): no
    /// field.
    None,
    /// So many bytes; in a reply to HEAD, so many as a GET would get.
    Length(u64),
    /// Chunks. Not to a client of HTTP/1.0, see [`Payload::of_unknown_length`].
    Chunked,
    /// Bytes until the connection closes.
    UntilClose,
}

impl Payload {
    /// How a body is sent whose length is not known beforehand: "a server MUST NOT send a response containing
    /// Transfer-Encoding unless the corresponding request indicates HTTP/1.1 (or later minor revisions)" (RFC 9112
    /// §6.1).
    pub fn of_unknown_length(request_version: Version) -> Self {
        if request_version == Version::HTTP_10 { Payload::UntilClose } else { Payload::Chunked }
    }
}

/// What the server does with the connection after the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It waits for the next request.
    KeepAlive,
    /// It closes.
    Close,
}

/// Appends the whole head to `out`, its empty line included.
///
/// 1. The status line, always HTTP/1.1: the version is the server's own (RFC 9110 §6.2).
/// 2. The fields.
/// 3. `date`, unless the handler passes on another's (§6.6.1); without a clock, none.
/// 4. Length or coding, where the status may have one.
/// 5. Connection, where the version does not say it already.
pub fn encode(
    out: &mut Vec<u8>,
    request_version: Version,
    head: &ResponseHead,
    date: Option<&[u8; 29]>,
    payload: Payload,
    persistence: Persistence,
) {
    out.reserve(head.lines.len() + FRAMING_LEN);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    // The space stays where there is no phrase (RFC 9112 §4).
    out.push(b' ');
    out.extend_from_slice(head.status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");

    out.extend_from_slice(&head.lines);
    if let (Some(date), false) = (date, head.has_date) {
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(date);
        out.extend_from_slice(b"\r\n");
    }

    match payload {
        // "A server MUST NOT send" either field "in any response with a status code of 1xx (Informational) or 204 (No
        // Content)" (RFC 9110 §8.6, RFC 9112 §6.1).
        _ if head.status.is_informational() || head.status == StatusCode::NO_CONTENT => {}
        Payload::None | Payload::UntilClose => {}
        Payload::Length(len) => {
            out.extend_from_slice(b"Content-Length: ");
            out.extend_from_slice(Decimal::new(len).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Payload::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }

    if persistence == Persistence::Close || payload == Payload::UntilClose {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if request_version == Version::HTTP_10 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// The lines of a block of fields, each with its line end.
fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    memchr::memchr_iter(b'\n', block).map(move |line_feed| {
        let line = &block[start..=line_feed];
        start = line_feed + 1;
        line
    })
}

/// Name and value of a line that [`ResponseHead`] made.
fn split_line(line: &[u8]) -> (&[u8], &[u8]) {
    let colon = memchr::memchr(b':', line).unwrap_or(line.len());
    let value = line[colon..].strip_prefix(b": ").unwrap_or_default();
    (&line[..colon], value.strip_suffix(b"\r\n").unwrap_or(value))
}

/// A number in decimal digits, on the stack.
struct Decimal {
    bytes: [u8; 20],
    start: usize,
}

impl Decimal {
    fn new(value: u64) -> Self {
        let mut bytes = [b'0'; 20];
        let mut start = bytes.len();
        let mut rest = value;
        loop {
            start -= 1;
            bytes[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return Decimal { bytes, start };
            }
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// The IMF-fixdate (RFC 9110 §5.6.7) of a time in seconds since 1970, as in `Sun, 06 Nov 1994 08:49:37 GMT`. Times past
/// the year 9999, which it can't write, are its last second.
pub fn http_date(unix_seconds: u64) -> [u8; 29] {
    const LAST: u64 = 253_402_300_799;
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix_seconds.min(LAST)));
    let mut date = [b' '; 29];
    date.copy_from_slice(text.as_bytes());
    date
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

    /// A head with one field, that decides nothing.
    fn head(status: StatusCode) -> ResponseHead {
        let mut head = ResponseHead::new(status);
        head.field("etag", b"\"x\"");
        head
    }

    fn encoded(version: Version, head: &ResponseHead, payload: Payload, persistence: Persistence) -> String {
        let mut out = Vec::new();
        encode(&mut out, version, head, None, payload, persistence);
        String::from_utf8(out).unwrap()
    }

    #[track_caller]
    fn check(version: Version, status: StatusCode, payload: Payload, persistence: Persistence, expected: &str) {
        let text = encoded(version, &head(status), payload, persistence);
        assert_eq!(text, format!("HTTP/1.1 {status}\r\netag: \"x\"\r\n{expected}\r\n"));
    }

    #[test]
    fn f10_a_whole_head() {
        let mut out = b"what was there".to_vec();
        encode(&mut out, Version::HTTP_11, &head(StatusCode::OK), Some(DATE), Payload::Length(5), Persistence::Close);
        let expected = "what was thereHTTP/1.1 200 OK\r\netag: \"x\"\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
                        Content-Length: 5\r\nConnection: close\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn f10_a_date_that_is_passed_on_is_the_only_one() {
        let mut head = head(StatusCode::OK);
        head.field("DATE", b"then");
        let mut out = Vec::new();
        encode(&mut out, Version::HTTP_11, &head, Some(DATE), Payload::None, Persistence::KeepAlive);
        assert_eq!(out, b"HTTP/1.1 200 OK\r\netag: \"x\"\r\nDATE: then\r\n\r\n");
    }

    #[test]
    fn f6_connection() {
        use Persistence::{Close, KeepAlive};
        let ok = StatusCode::OK;
        check(Version::HTTP_11, ok, Payload::None, KeepAlive, "");
        check(Version::HTTP_11, ok, Payload::None, Close, "Connection: close\r\n");
        check(Version::HTTP_10, ok, Payload::None, KeepAlive, "Connection: keep-alive\r\n");
        check(Version::HTTP_10, ok, Payload::None, Close, "Connection: close\r\n");
        check(Version::HTTP_10, ok, Payload::UntilClose, KeepAlive, "Connection: close\r\n");
        check(Version::HTTP_11, ok, Payload::UntilClose, KeepAlive, "Connection: close\r\n");
    }

    #[test]
    fn f1_length_or_coding() {
        use Persistence::KeepAlive;
        let v = Version::HTTP_11;
        check(v, StatusCode::OK, Payload::Length(0), KeepAlive, "Content-Length: 0\r\n");
        check(v, StatusCode::OK, Payload::Length(u64::MAX), KeepAlive, "Content-Length: 18446744073709551615\r\n");
        check(v, StatusCode::OK, Payload::Chunked, KeepAlive, "Transfer-Encoding: chunked\r\n");
        check(v, StatusCode::NOT_MODIFIED, Payload::None, KeepAlive, "");
        // Statuses that may have neither, whatever the caller says.
        for payload in [Payload::None, Payload::Length(5), Payload::Chunked] {
            check(v, StatusCode::NO_CONTENT, payload, KeepAlive, "");
            check(v, StatusCode::EARLY_HINTS, payload, KeepAlive, "");
        }
        assert_eq!(Payload::of_unknown_length(Version::HTTP_10), Payload::UntilClose);
        assert_eq!(Payload::of_unknown_length(Version::HTTP_11), Payload::Chunked);
    }

    #[test]
    fn f1_a_handlers_framing_is_ignored() {
        let mut head = ResponseHead::new(StatusCode::OK);
        head.field("Content-Length", b"7");
        head.field("a", b"1");
        head.field("Transfer-Encoding", b"chunked");
        head.field("connection", b"keep-alive");
        head.field("b", b"2");
        head.field("CONTENT-LENGTH", b"8");
        let text = encoded(Version::HTTP_11, &head, Payload::Length(5), Persistence::KeepAlive);
        assert_eq!(text, "HTTP/1.1 200 OK\r\na: 1\r\nb: 2\r\nContent-Length: 5\r\n\r\n");
    }

    #[test]
    fn a_status_without_a_phrase_keeps_its_space() {
        let head = ResponseHead::new(StatusCode::from_u16(460).unwrap());
        let text = encoded(Version::HTTP_11, &head, Payload::Length(0), Persistence::KeepAlive);
        assert_eq!(text, "HTTP/1.1 460 \r\nContent-Length: 0\r\n\r\n");
    }

    #[test]
    fn fields_are_found_replaced_and_removed() {
        let mut head = head(StatusCode::OK);
        head.field("Vary", b"origin");
        head.field_fmt("content-range", format_args!("bytes {}-{}/{}", 1, 2, 3));
        head.field("vary", b"accept: x");
        head.field_number("age", 0);
        head.field("empty", b"");
        assert_eq!(head.get("VARY"), Some(&b"origin"[..]));
        assert_eq!(head.get("content-range"), Some(&b"bytes 1-2/3"[..]));
        assert_eq!(head.get("age"), Some(&b"0"[..]));
        assert_eq!(head.get("empty"), Some(&b""[..]));
        assert!(!head.contains("var") && !head.contains("varyy"));

        head.replace("vary", b"*");
        head.remove("age");
        head.remove("absent");
        let fields: Vec<_> = head.iter().collect();
        let expected: [(&[u8], &[u8]); 4] =
            [(b"etag", b"\"x\""), (b"content-range", b"bytes 1-2/3"), (b"empty", b""), (b"vary", b"*")];
        assert_eq!(fields, expected);
    }

    #[test]
    fn fields_made_before_are_appended() {
        let cached = head(StatusCode::NOT_FOUND);
        let mut reply = ResponseHead::new(StatusCode::OK);
        reply.field("a", b"b");
        reply.append(&cached);
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.iter().count(), 2);
        assert_eq!(reply.get("etag"), Some(&b"\"x\""[..]));
    }

    #[test]
    fn a_header_map_keeps_its_repeats() {
        let mut map = HeaderMap::new();
        map.append("set-cookie", HeaderValue::from_static("a=1"));
        map.append("set-cookie", HeaderValue::from_static("b=2"));
        map.append("x", HeaderValue::from_bytes(b"\xff").unwrap());
        let head = ResponseHead::from((StatusCode::CREATED, &map));
        let cookies: Vec<_> = head.iter().filter(|(name, _)| *name == b"set-cookie").map(|(_, value)| value).collect();
        assert_eq!(cookies, [b"a=1", b"b=2"]);
        assert_eq!(head.get("x"), Some(&b"\xff"[..]));
    }

    #[test]
    fn dates() {
        assert_eq!(&http_date(784_111_777), DATE);
        assert_eq!(&http_date(0), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(&http_date(u64::MAX), b"Fri, 31 Dec 9999 23:59:59 GMT");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn no_value_ends_its_line(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..6)) {
            let mut head = ResponseHead::new(StatusCode::OK);
            for value in &values {
                head.field("x", value);
                head.field_fmt("y", format_args!("{}", String::from_utf8_lossy(value)));
            }
            let mut out = Vec::new();
            encode(&mut out, Version::HTTP_11, &head, None, Payload::None, Persistence::KeepAlive);
            let mut slots = [httparse::EMPTY_HEADER; 16];
            let mut response = httparse::Response::new(&mut slots);
            prop_assert_eq!(response.parse(&out), Ok(httparse::Status::Complete(out.len())));
            prop_assert_eq!(response.headers.len(), 2 * values.len());
            prop_assert_eq!(head.iter().count(), 2 * values.len());
        }

        #[test]
        fn numbers_are_written_as_they_are_read(value: u64) {
            let mut head = ResponseHead::new(StatusCode::OK);
            head.field_number("n", value);
            let expected = value.to_string();
            prop_assert_eq!(head.get("n"), Some(expected.as_bytes()));
        }
    }
}
