//! Request heads: the request line and the field section of one HTTP/1 request (RFC 9112 §2–5).
//!
//! ```text
//!  GET /clip.mp4?t=1 HTTP/1.1␍␊  Host: a␍␊  Range: bytes=0-␍␊  ␍␊  body or next request …
//!      └──────────── one block, copied once: the target and the fields ──┘  └ not used
//! ```
//!
//! A head is read in two passes. [`HeadParser`] walks over line ends as bytes arrive, looks at each byte once, and is
//! where every limit is kept, so a client that sends a byte at a time costs no more than one that sends it all. When
//! the empty line is there, httparse cuts the field lines, and what it tolerates for the sake of old peers is refused
//! here: two parties that disagree about where a line ends disagree about where the request ends.
//!
//! The answer does not depend on how the bytes were cut: a complaint is raised at the first byte that proves it,
//! whether or not more is there. Rejected: running httparse from the start for each arrival (quadratic), and its
//! request line (it knows two versions only, so 400 and 505 look alike, and it has no place for a limit on the target).

use std::fmt;
use std::net::Ipv6Addr;

use http::{Method, StatusCode, Version};
use httparse::{EMPTY_HEADER, Status};

use super::super::fields::{Fields, Span};

/// A server should tolerate an empty line before the request line (RFC 9112 §2.2); nobody sends more than this.
const MAX_EMPTY_LINES: usize = 2;

/// Longer than any method that this server knows, in bytes.
const MAX_METHOD_LEN: usize = 32;

/// What follows the target in its line: a space, the version and a carriage return.
const AFTER_TARGET_LEN: usize = " HTTP/1.1\r".len();

/// Heads with at most so many fields are cut on the stack.
const USUAL_FIELDS: usize = 32;

/// The bounds of a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// The longest target, in bytes; a longer one is answered 414.
    pub target_len: usize,
    /// The longest head, in bytes, request line and empty line included; a longer one is answered 431, or 414 if the
    /// request line alone is longer. Not more than 4 GiB, whatever is set.
    pub head_len: usize,
    /// The most fields; more are answered 431.
    pub fields: usize,
}

/// The head of a request: syntactically sound, its authority known, nothing decoded yet.
///
/// It owns its bytes, in two allocations, so that the receive buffer can go at once.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// One of the methods of RFC 9110 §9.3 except CONNECT, or PATCH.
    pub method: Method,
    /// What this request is to be treated as: `HTTP_10`, or `HTTP_11` for any other minor version (RFC 9110 §6.2).
    pub version: Version,
    /// The fields, in order. Their block begins with the target.
    pub fields: Fields,
    target: Target,
    authority: Option<Text>,
}

impl RequestHead {
    /// The target as sent: visible characters, no fragment, not empty.
    pub fn target(&self) -> &str {
        self.text(self.target.whole)
    }

    /// The path, still percent-encoded, without the query: begins with `/`, or is `*` for `OPTIONS *`. An absolute
    /// target without a path has the path `/` (RFC 9110 §4.2.3).
    pub fn path(&self) -> &str {
        match self.text(self.target.path) {
            "" => "/",
            path => path,
        }
    }

    /// What follows the first `?` of the target, still percent-encoded; `Some("")` when nothing follows it.
    pub fn query(&self) -> Option<&str> {
        self.target.query.map(|query| self.text(query))
    }

    /// Host and port as sent, of an absolute target or else of the Host field (RFC 9112 §3.2.2). `None` only in
    /// HTTP/1.0.
    pub fn authority(&self) -> Option<&str> {
        self.authority.map(|authority| self.text(authority))
    }

    fn text(&self, text: Text) -> &str {
        // Parsing let only UTF-8 through to where a `Text` points.
        std::str::from_utf8(self.fields.slice(text.start as usize..text.end as usize)).unwrap_or_default()
    }
}

/// Why a head was refused. The connection closes after the reply, because where the next request begins is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// A line ended in LF without CR.
    BareLineFeed,
    /// The request line is not `method SP target SP version`.
    RequestLine,
    /// The target has a form, a scheme or a byte that it may not have.
    Target,
    /// A field name is empty, is not a token, or has white space around it; a folded line is such a name.
    FieldName,
    /// A field value holds a control byte.
    FieldValue,
    /// HTTP/1.1 without Host.
    HostMissing,
    /// More than one Host.
    HostRepeated,
    /// Host is not `host[:port]`.
    HostInvalid,
    /// The target is longer than its limit.
    TargetTooLong,
    /// The head is longer than its limit.
    HeadTooLong,
    /// More fields than the limit.
    TooManyFields,
    /// A method that this server does not have, CONNECT among them.
    UnknownMethod,
    /// A major version other than 1.
    UnsupportedVersion,
}

impl HeadError {
    /// The status to answer with.
    pub fn status(self) -> StatusCode {
        match self {
            HeadError::TargetTooLong => StatusCode::URI_TOO_LONG,
            HeadError::HeadTooLong | HeadError::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            HeadError::UnknownMethod => StatusCode::NOT_IMPLEMENTED,
            HeadError::UnsupportedVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            HeadError::BareLineFeed
            | HeadError::RequestLine
            | HeadError::Target
            | HeadError::FieldName
            | HeadError::FieldValue
            | HeadError::HostMissing
            | HeadError::HostRepeated
            | HeadError::HostInvalid => StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HeadError::BareLineFeed => "A line of the request's head does not end in CR LF.",
            HeadError::RequestLine => "The request line is malformed.",
            HeadError::Target => "The request's target is malformed.",
            HeadError::FieldName => "The name of a header field is malformed.",
            HeadError::FieldValue => "The value of a header field is malformed.",
            HeadError::HostMissing => "The request has no Host field.",
            HeadError::HostRepeated => "The request has more than one Host field.",
            HeadError::HostInvalid => "The Host field is malformed.",
            HeadError::TargetTooLong => "The request's target is too long.",
            HeadError::HeadTooLong => "The request's header fields are too long.",
            HeadError::TooManyFields => "The request has too many header fields.",
            HeadError::UnknownMethod => "This server does not know the request's method.",
            HeadError::UnsupportedVersion => "This server speaks HTTP/1.1.",
        })
    }
}

impl std::error::Error for HeadError {}

/// Reads one head from bytes that arrive in any pieces, remembering how far it looked.
#[derive(Debug, Default)]
pub struct HeadParser {
    /// How much has been looked at, counted from the request line's first byte, as all offsets here.
    scanned: usize,
    /// Where the line that is being looked at begins.
    line_start: usize,
    /// The request line, once it is whole.
    request_line: Option<RequestLine>,
    /// How many field lines are whole.
    fields: usize,
}

impl HeadParser {
    /// Reads the head at the beginning of `input`: `None` when more is needed, else the head and how many bytes it
    /// took.
    ///
    /// Until there is a head or an error, `input` must begin at the same byte each time and only grow. After either,
    /// the parser is as new.
    ///
    /// # Errors
    /// A [`HeadError`], as soon as the bytes prove it; limits therefore also hold for a head that never ends.
    pub fn parse(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Option<(RequestHead, usize)>, HeadError> {
        let result = self.advance(input, limits);
        if !matches!(result, Ok(None)) {
            *self = HeadParser::default();
        }
        result
    }

    /// 1. Skips empty lines. 2. Reads the request line. 3. Finds the empty line. 4. Cuts the fields.
    fn advance(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Option<(RequestHead, usize)>, HeadError> {
        let Some(start) = skip_empty_lines(input) else {
            return Ok(None);
        };
        // Spans count in `u32`, which this keeps sound.
        let max_len = limits.head_len.min(u32::MAX as usize);
        let rest = &input[start..];
        let window = &rest[..rest.len().min(max_len)];
        let full = window.len() == max_len;

        let request_line = match self.request_line.take() {
            Some(line) => line,
            None => match self.find_request_line(window, limits)? {
                Some(line) => line,
                None if full => return Err(HeadError::TargetTooLong),
                None => return Ok(None),
            },
        };
        match self.find_end(window, limits)? {
            Some(end) => Ok(Some((request_line.with_fields(&window[..end], self.fields)?, start + end))),
            None if full => Err(HeadError::HeadTooLong),
            None => {
                self.request_line = Some(request_line);
                Ok(None)
            }
        }
    }

    fn find_request_line(&mut self, window: &[u8], limits: &HeadLimits) -> Result<Option<RequestLine>, HeadError> {
        let Some(method_len) = method_len(window)? else {
            return Ok(None);
        };
        let target_start = method_len + 1;
        let line_feed = self.next_line_feed(window);
        let tail_len = line_feed.unwrap_or(window.len()).saturating_sub(target_start);
        if tail_len > limits.target_len.saturating_add(AFTER_TARGET_LEN) {
            return Err(HeadError::TargetTooLong);
        }
        let Some(line_feed) = line_feed else {
            return Ok(None);
        };
        let line = window[..line_feed].strip_suffix(b"\r").ok_or(HeadError::BareLineFeed)?;
        RequestLine::parse(line, target_start).map(Some)
    }

    /// Counts field lines; where the head ends, after the empty line, once that is there.
    fn find_end(&mut self, window: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
        loop {
            let line_start = self.line_start;
            let Some(line_feed) = self.next_line_feed(window) else {
                return Ok(None);
            };
            // RFC 9112 §2.2 lets a recipient take a bare LF for a line end. It is refused: an intermediary that does
            // not would read another message.
            match window[line_start..line_feed].strip_suffix(b"\r") {
                None => return Err(HeadError::BareLineFeed),
                Some([]) => return Ok(Some(self.scanned)),
                Some(_) if self.fields >= limits.fields => return Err(HeadError::TooManyFields),
                Some(_) => self.fields += 1,
            }
        }
    }

    /// Where the next LF is; the line after it becomes the one that is being looked at.
    fn next_line_feed(&mut self, window: &[u8]) -> Option<usize> {
        let unseen = window.get(self.scanned..)?;
        let Some(found) = memchr::memchr(b'\n', unseen) else {
            self.scanned = window.len();
            return None;
        };
        let line_feed = self.scanned + found;
        self.scanned = line_feed + 1;
        self.line_start = self.scanned;
        Some(line_feed)
    }
}

/// Where the request line begins; `None` while that is open.
fn skip_empty_lines(input: &[u8]) -> Option<usize> {
    let mut start = 0;
    for _ in 0..MAX_EMPTY_LINES {
        match &input[start..] {
            [b'\r', b'\n', ..] => start += 2,
            [] | [b'\r'] => return None,
            _ => break,
        }
    }
    Some(start)
}

/// How long the method is; `None` while its end is not there.
fn method_len(window: &[u8]) -> Result<Option<usize>, HeadError> {
    let beginning = &window[..window.len().min(MAX_METHOD_LEN + 1)];
    match beginning.iter().position(|&b| !is_token_byte(b)) {
        Some(len) if len > 0 && beginning[len] == b' ' => Ok(Some(len)),
        Some(_) => Err(HeadError::RequestLine),
        // "A server that receives a method longer than any that it implements SHOULD respond with a 501" (RFC 9112 §3).
        None if beginning.len() > MAX_METHOD_LEN => Err(HeadError::UnknownMethod),
        None => Ok(None),
    }
}

/// `request-line = method SP request-target SP HTTP-version` (RFC 9112 §3).
#[derive(Debug)]
struct RequestLine {
    method: Method,
    version: Version,
    target: Target,
    /// Where the target begins in the head, and so where the block of the fields does.
    target_start: usize,
    /// Where the field section begins in the head.
    end: usize,
}

impl RequestLine {
    /// `line` is the line without its CRLF, and `target_start` lies after the space that ends the method.
    fn parse(line: &[u8], target_start: usize) -> Result<Self, HeadError> {
        let (method, rest) = (&line[..target_start - 1], &line[target_start..]);
        // Without a second space it is a request of HTTP/0.9, which can't tell its fields from garbage.
        let space = memchr::memrchr(b' ', rest).ok_or(HeadError::RequestLine)?;
        let version = parse_version(&rest[space + 1..])?;
        let method = parse_method(method)?;
        let target = Target::parse(&rest[..space], &method)?;
        Ok(RequestLine { method, version, target, target_start, end: line.len() + 2 })
    }

    /// The request whose `head` is whole and has this many `count`ed field lines.
    fn with_fields(self, head: &[u8], count: usize) -> Result<RequestHead, HeadError> {
        let mut few = [EMPTY_HEADER; USUAL_FIELDS];
        let mut many;
        let slots = match few.get_mut(..count) {
            Some(slots) => slots,
            None => {
                many = vec![EMPTY_HEADER; count];
                &mut many[..]
            }
        };
        let section = &head[self.end..];
        let lines = match httparse::parse_headers(section, slots) {
            Ok(Status::Complete((used, lines))) if used == section.len() => lines,
            Err(httparse::Error::HeaderValue) => return Err(HeadError::FieldValue),
            _ => return Err(HeadError::FieldName),
        };

        let block = &head[self.target_start..];
        let mut spans = Vec::with_capacity(lines.len());
        let mut host = None;
        for line in lines {
            let name = Text::of(line.name.as_bytes(), block);
            let value = Text::of(line.value, block);
            spans.push(Span {
                name_start: name.start,
                name_end: name.end,
                value_start: value.start,
                value_end: value.end,
            });
            if line.name.eq_ignore_ascii_case("host") {
                // "A server MUST respond with a 400 … to any request message that contains more than one Host header
                // field line or a Host header field with an invalid field value" (RFC 9112 §3.2).
                if host.replace(value).is_some() {
                    return Err(HeadError::HostRepeated);
                }
                if !is_authority(line.value) {
                    return Err(HeadError::HostInvalid);
                }
            }
        }
        // The same for "any HTTP/1.1 request message that lacks a Host header field", of an absolute target too.
        if host.is_none() && self.version == Version::HTTP_11 {
            return Err(HeadError::HostMissing);
        }
        Ok(RequestHead {
            method: self.method,
            version: self.version,
            authority: self.target.authority.or(host),
            target: self.target,
            fields: Fields::new(block.into(), spans),
        })
    }
}

/// The methods that this server may have a handler for; names are case-sensitive (RFC 9110 §9.1).
fn parse_method(name: &[u8]) -> Result<Method, HeadError> {
    Ok(match name {
        b"GET" => Method::GET,
        b"HEAD" => Method::HEAD,
        b"POST" => Method::POST,
        b"PUT" => Method::PUT,
        b"PATCH" => Method::PATCH,
        b"DELETE" => Method::DELETE,
        b"OPTIONS" => Method::OPTIONS,
        b"TRACE" => Method::TRACE,
        _ => return Err(HeadError::UnknownMethod),
    })
}

/// `HTTP-version = "HTTP/" DIGIT "." DIGIT`, case-sensitive (RFC 9112 §2.3).
fn parse_version(text: &[u8]) -> Result<Version, HeadError> {
    match text {
        b"HTTP/1.0" => Ok(Version::HTTP_10),
        // A higher minor version is to be processed as the highest one that is implemented (RFC 9110 §6.2).
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Ok(Version::HTTP_11),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Err(HeadError::UnsupportedVersion),
        _ => Err(HeadError::RequestLine),
    }
}

/// Where the parts of a target lie, counted from its first byte (RFC 9112 §3.2).
#[derive(Clone, Copy, Debug)]
struct Target {
    whole: Text,
    path: Text,
    query: Option<Text>,
    /// Of the absolute form only.
    authority: Option<Text>,
}

impl Target {
    fn parse(target: &[u8], method: &Method) -> Result<Self, HeadError> {
        if !has_target_bytes(target) {
            return Err(HeadError::Target);
        }
        let authority = match target {
            [b'/', ..] => None,
            // asterisk-form "is only used for a server-wide OPTIONS request" (§3.2.4).
            b"*" if method == Method::OPTIONS => None,
            _ => Some(absolute_authority(target).ok_or(HeadError::Target)?),
        };
        let path_start = authority.map_or(0, |a| a.end as usize);
        let question = memchr::memchr(b'?', &target[path_start..]).map(|at| path_start + at);
        Ok(Target {
            whole: Text::new(0, target.len()),
            path: Text::new(path_start, question.unwrap_or(target.len())),
            query: question.map(|at| Text::new(at + 1, target.len())),
            authority,
        })
    }
}

/// Whether these may be the bytes of a target: not one of them white space, a control or the `#` of a fragment.
///
/// RFC 3986 wants the rest percent-encoded where it is not ASCII, but people type such names after `curl`, which sends
/// them as they are; they are let through if they are UTF-8. So are the visible ASCII characters that browsers do not
/// encode.
fn has_target_bytes(target: &[u8]) -> bool {
    // A fold, not `any`: without an early way out the compiler turns it into vector code.
    let invalid = target.iter().fold(false, |bad, &b| bad | (b <= b' ') | (b == 0x7f) | (b == b'#'));
    !invalid && (target.is_ascii() || std::str::from_utf8(target).is_ok_and(|text| !text.chars().any(char::is_control)))
}

/// The authority of a target in absolute form, which a server "MUST accept" (RFC 9112 §3.2.2).
fn absolute_authority(target: &[u8]) -> Option<Text> {
    let colon = memchr::memchr(b':', target)?;
    let (scheme, rest) = target.split_at(colon);
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return None;
    }
    let rest = rest.strip_prefix(b"://")?;
    let start = target.len() - rest.len();
    let len = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    is_authority(&rest[..len]).then(|| Text::new(start, start + len))
}

/// Whether this is `uri-host [ ":" port ]` (RFC 9110 §7.2) with a host that is not empty, which http URIs must have
/// (§4.2.1). User information is not part of it (§4.2.4).
fn is_authority(text: &[u8]) -> bool {
    let (host_is_valid, after_host) = match text {
        [b'[', rest @ ..] => {
            let Some(close) = memchr::memchr(b']', rest) else {
                return false;
            };
            let address = std::str::from_utf8(&rest[..close]);
            (address.is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok()), &rest[close + 1..])
        }
        _ => {
            let (host, port) = text.split_at(memchr::memchr(b':', text).unwrap_or(text.len()));
            (is_reg_name(host), port)
        }
    };
    host_is_valid
        && match after_host {
            [] | [b':'] => true,
            [b':', port @ ..] => is_port(port),
            _ => false,
        }
}

fn is_port(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_digit) && std::str::from_utf8(text).is_ok_and(|port| port.parse::<u16>().is_ok())
}

/// `reg-name = *( unreserved / pct-encoded / sub-delims )` (RFC 3986 §3.2.2), here not empty. IPv4 addresses are such
/// names.
fn is_reg_name(host: &[u8]) -> bool {
    let is_escape =
        |at: usize| matches!(host.get(at + 1..at + 3), Some([a, b]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    !host.is_empty()
        && host.iter().enumerate().all(|(at, &b)| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => true,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => true,
            b'%' => is_escape(at),
            _ => false,
        })
}

/// `tchar` of RFC 9110 §5.6.2.
pub(in crate::proto) fn is_token_byte(b: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let mut b = 0;
        while b < 256 {
            table[b] =
                matches!(b as u8, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_')
                    || matches!(b as u8, b'`' | b'|' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z');
            b += 1;
        }
        table
    };
    TOKEN[b as usize]
}

/// Whether this is a `token` of RFC 9110 §5.6.2.
pub(in crate::proto) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().copied().all(is_token_byte)
}

/// A piece of the block that a head keeps. The block is shorter than 4 GiB, see [`HeadLimits::head_len`].
#[derive(Clone, Copy, Debug)]
struct Text {
    start: u32,
    end: u32,
}

impl Text {
    fn new(start: usize, end: usize) -> Self {
        Text { start: start as u32, end: end as u32 }
    }

    /// Where `part` lies in `block`, which it was cut from.
    fn of(part: &[u8], block: &[u8]) -> Self {
        let start = part.as_ptr().addr() - block.as_ptr().addr();
        Text::new(start, start + part.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits { target_len: 64, head_len: 1024, fields: 40 };

    type Parsed = Result<Option<(RequestHead, usize)>, HeadError>;

    fn parse(input: &[u8]) -> Parsed {
        HeadParser::default().parse(input, &LIMITS)
    }

    #[track_caller]
    fn parsed(input: &str) -> RequestHead {
        every_split(input.as_bytes(), &LIMITS);
        let (head, used) = parse(input.as_bytes()).expect("a valid head").expect("a whole head");
        assert_eq!(used, input.len());
        head
    }

    #[track_caller]
    fn check_error(input: impl AsRef<[u8]>, error: HeadError) {
        let input = input.as_ref();
        every_split(input, &LIMITS);
        assert_eq!(parse(input).map(|_| "no error"), Err(error), "{}", input.escape_ascii());
    }

    /// A request line and fields that are well, around the `target` in question.
    #[track_caller]
    fn check_target(target: &str, path: &str, query: Option<&str>, authority: &str) {
        let head = parsed(&format!("OPTIONS {target} HTTP/1.1\r\nHost: field\r\n\r\n"));
        assert_eq!(head.target(), target);
        assert_eq!((head.path(), head.query(), head.authority()), (path, query, Some(authority)), "{target}");
    }

    #[track_caller]
    fn check_host(host: &str, error: Option<HeadError>) {
        let input = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        match error {
            None => assert_eq!(parsed(&input).authority(), Some(host)),
            Some(error) => check_error(&input, error),
        }
    }

    /// Byte by byte, and in two pieces cut anywhere, the answer must be that for the whole.
    #[track_caller]
    fn every_split(input: &[u8], limits: &HeadLimits) {
        let whole = format!("{:?}", HeadParser::default().parse(input, limits));
        let mut one_by_one = HeadParser::default();
        let stepped = (0..=input.len()).find_map(|len| decided(one_by_one.parse(&input[..len], limits)));
        assert_eq!(stepped.unwrap_or("Ok(None)".into()), whole, "byte by byte: {}", input.escape_ascii());
        for cut in 0..=input.len() {
            let mut parser = HeadParser::default();
            let answer = decided(parser.parse(&input[..cut], limits))
                .or_else(|| decided(parser.parse(input, limits)))
                .unwrap_or("Ok(None)".into());
            assert_eq!(answer, whole, "cut at {cut}: {}", input.escape_ascii());
        }
    }

    /// The answer as text, unless it is "need more".
    fn decided(answer: Parsed) -> Option<String> {
        (!matches!(answer, Ok(None))).then(|| format!("{answer:?}"))
    }

    #[test]
    fn a_head_is_cut_into_its_parts() {
        let head = parsed(
            "GET /clip.mp4?t=1?2 HTTP/1.1\r\nHost: a.example:8080\r\nRANGE:bytes=0-\t \r\n\
             Empty:\r\nBlank: \t\r\nrange: b: c\r\n\r\n",
        );
        assert_eq!(head.method, Method::GET);
        assert_eq!(head.version, Version::HTTP_11);
        assert_eq!(head.target(), "/clip.mp4?t=1?2");
        assert_eq!(head.path(), "/clip.mp4");
        assert_eq!(head.query(), Some("t=1?2"));
        assert_eq!(head.authority(), Some("a.example:8080"));
        let fields: Vec<_> = head.fields.iter().collect();
        let expected: [(&[u8], &[u8]); 5] = [
            (b"Host", b"a.example:8080"),
            (b"RANGE", b"bytes=0-"),
            (b"Empty", b""),
            (b"Blank", b""),
            (b"range", b"b: c"),
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn what_follows_the_head_is_left_alone() {
        for rest in ["body", "GET / HTTP/1.1\r\n\r\n", "\r\n", "\n\0"] {
            let head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
            let input = format!("{head}{rest}");
            every_split(input.as_bytes(), &LIMITS);
            let (_, used) = parse(input.as_bytes()).unwrap().unwrap();
            assert_eq!(used, head.len());
        }
    }

    #[test]
    fn a_parser_serves_one_head_after_the_other() {
        let mut parser = HeadParser::default();
        let input = b"GET /1 HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\nGET /2 HTTP/1.0\r\n\r\n";
        assert!(parser.parse(&input[..20], &LIMITS).unwrap().is_none());
        let (first, used) = parser.parse(input, &LIMITS).unwrap().unwrap();
        let (second, _) = parser.parse(&input[used..], &LIMITS).unwrap().unwrap();
        assert_eq!((first.path(), first.fields.len()), ("/1", 2));
        assert_eq!((second.path(), second.fields.len()), ("/2", 0));
    }

    #[test]
    fn f3_empty_lines_before_the_request_are_skipped_but_not_forever() {
        let head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        parsed(&format!("\r\n{head}"));
        parsed(&format!("\r\n\r\n{head}"));
        check_error(format!("\r\n\r\n\r\n{head}"), HeadError::RequestLine);
        check_error(format!("\n{head}"), HeadError::RequestLine);
        check_error(format!("\r{head}"), HeadError::RequestLine);
        check_error(format!(" {head}"), HeadError::RequestLine);
    }

    #[test]
    fn f3_bare_lf_anywhere() {
        check_error("GET / HTTP/1.1\nHost: a\r\n\r\n", HeadError::BareLineFeed);
        check_error("GET / HTTP/1.1\r\nHost: a\n\r\n", HeadError::BareLineFeed);
        check_error("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", HeadError::BareLineFeed);
        check_error("GET / HTTP/1.1\r\nHost: a\r\n\n", HeadError::BareLineFeed);
        check_error("GET / HTTP/1.1\n\n", HeadError::BareLineFeed);
        check_error("GET / HTTP/1.1\r\nHost: a\r\nX: y\n\nGET /b HTTP/1.1\r\n\r\n", HeadError::BareLineFeed);
    }

    #[test]
    fn f3_bare_cr_nul_and_controls() {
        check_error("GET / HTTP/1.1\rHost: a\r\n\r\n", HeadError::RequestLine);
        check_error("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", HeadError::RequestLine);
        check_error("GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::Target);
        check_error("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", HeadError::FieldValue);
        check_error("GET / HTTP/1.1\r\nHost: a\r\n\r\r\n\r\n", HeadError::FieldName);
        check_error("GET / HTTP/1.1\r\nHost: a\r\nX\r: y\r\n\r\n", HeadError::FieldName);
        for control in (0..0x20).chain([0x7f]).filter(|b| !b"\t\r\n".contains(b)) {
            let control = char::from(control);
            check_error(format!("G{control}T / HTTP/1.1\r\nHost: a\r\n\r\n"), HeadError::RequestLine);
            check_error(format!("GET /{control} HTTP/1.1\r\nHost: a\r\n\r\n"), HeadError::Target);
            check_error(format!("GET / HTTP/1.1{control}\r\nHost: a\r\n\r\n"), HeadError::RequestLine);
            check_error(format!("GET / HTTP/1.1\r\nHost: a\r\nX{control}: y\r\n\r\n"), HeadError::FieldName);
            check_error(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {control}\r\n\r\n"), HeadError::FieldValue);
            check_error(format!("GET / HTTP/1.1\r\nHost: a\r\nX: y{control}z\r\n\r\n"), HeadError::FieldValue);
        }
        check_error("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", HeadError::FieldValue);
    }

    #[test]
    fn f3_a_value_may_hold_tabs_and_obs_text() {
        let input = b"GET / HTTP/1.1\r\nHost: a\r\nX: caf\xe9\ty\xff\r\n\r\n";
        every_split(input, &LIMITS);
        let (head, _) = parse(input).unwrap().unwrap();
        assert_eq!(head.fields.get("x"), Some(&b"caf\xe9\ty\xff"[..]));
    }

    #[test]
    fn f3_names() {
        for line in [
            "Transfer-Encoding : chunked",
            "Transfer-Encoding\t: chunked",
            " X: y",
            "\tX: y",
            ": y",
            ":",
            "X",
            "X Y: z",
            "X(: y",
            "\"X\": y",
            "Caf\u{e9}: y",
            "X\0: y",
        ] {
            check_error(format!("GET / HTTP/1.1\r\n{line}\r\nHost: a\r\n\r\n"), HeadError::FieldName);
            check_error(format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n"), HeadError::FieldName);
        }
    }

    #[test]
    fn f3_obs_fold() {
        check_error("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", HeadError::FieldName);
        check_error("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n", HeadError::FieldName);
        check_error("GET / HTTP/1.1\r\nHost: a\r\nX:\r\n \r\n\r\n", HeadError::FieldName);
        check_error(
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\n",
            HeadError::FieldName,
        );
    }

    #[test]
    fn f3_the_request_line_is_exact() {
        for line in [
            "GET",
            "GET ",
            "GET /",
            "GET / ",
            "GET HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET / http/1.1",
            "GET / HTTP/1",
            "GET / HTTP/1.10",
            "GET / HTTP/11",
            "GET / HTTP/+1.1",
            "GET / HTTPS/1.1",
            "GET /\tHTTP/1.1",
            "GET\t/ HTTP/1.1",
            "G<T / HTTP/1.1",
            "\u{16}\u{3}\u{1}\u{2}",
            "\"GET\" / HTTP/1.1",
        ] {
            check_error(format!("{line}\r\nHost: a\r\n\r\n"), HeadError::RequestLine);
        }
        for line in
            ["GET  HTTP/1.1", "GET  / HTTP/1.1", "GET /  HTTP/1.1", "GET /a b HTTP/1.1", "GET /a HTTP/1.1 HTTP/1.1"]
        {
            check_error(format!("{line}\r\nHost: a\r\n\r\n"), HeadError::Target);
        }
    }

    #[test]
    fn f3_a_request_line_is_judged_before_the_head_is_whole() {
        // A client of HTTP/0.9 sends this and waits.
        check_error("GET /\r\n", HeadError::RequestLine);
        check_error("\x16", HeadError::RequestLine);
        check_error("PRI * HTTP/2.0\r\n", HeadError::UnsupportedVersion);
    }

    #[test]
    fn f4_forms_of_the_target() {
        check_target("/", "/", None, "field");
        check_target("/a%20b/../c?d=/e", "/a%20b/../c", Some("d=/e"), "field");
        check_target("/a?", "/a", Some(""), "field");
        check_target("//evil.example/x", "//evil.example/x", None, "field");
        check_target("/http://b/", "/http://b/", None, "field");
        check_target("/caf\u{e9}|{}\"", "/caf\u{e9}|{}\"", None, "field");
        check_target("*", "*", None, "field");
        check_target("http://b.example:81/c?d", "/c", Some("d"), "b.example:81");
        check_target("HTTPS://b", "/", None, "b");
        check_target("http://b?c/d", "/", Some("c/d"), "b");
        check_target("http://[::1]:8080/", "/", None, "[::1]:8080");
    }

    #[test]
    fn f4_targets_that_are_none() {
        for target in [
            "a",
            "a/b",
            "?a",
            "**",
            "/a#b",
            "b.example:80",
            "http:/b/",
            "http//b/",
            "http://",
            "http:///a",
            "http://?a",
            "http://:80/",
            "http://user@b/",
            "http://user:secret@b/",
            "http://b:8o/",
            "http://b:65536/",
            "http://[::1/",
            "http://[::1]x/",
            "http://b\u{e9}/",
            "ftp://b/",
            "httpx://b/",
            "://b/",
            "/\u{85}",
        ] {
            check_error(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), HeadError::Target);
        }
        check_error("GET * HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::Target);
        check_error(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::Target);
        check_error(b"GET /\xc3 HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::Target);
    }

    #[test]
    fn f4_host_is_there_once() {
        check_error("GET / HTTP/1.1\r\n\r\n", HeadError::HostMissing);
        check_error("GET / HTTP/1.1\r\nHos: a\r\nHostx: b\r\n\r\n", HeadError::HostMissing);
        check_error("GET http://a/ HTTP/1.1\r\n\r\n", HeadError::HostMissing);
        check_error("GET / HTTP/1.1\r\nHost: a\r\nhOST: a\r\n\r\n", HeadError::HostRepeated);
        check_error("GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", HeadError::HostRepeated);
        check_error("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", HeadError::HostRepeated);
        check_error("GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n", HeadError::HostInvalid);
        assert_eq!(parsed("GET / HTTP/1.0\r\n\r\n").authority(), None);
        assert_eq!(parsed("GET / HTTP/1.0\r\nHost: a\r\n\r\n").authority(), Some("a"));
        assert_eq!(parsed("GET http://b/ HTTP/1.0\r\n\r\n").authority(), Some("b"));
    }

    #[test]
    fn f4_host_is_a_host_and_a_port() {
        for host in [
            "a",
            "A.example",
            "127.0.0.1:8080",
            "a:",
            "a:0",
            "a:65535",
            "[::1]",
            "[::ffff:1.2.3.4]:80",
            "my_host",
            "%C3%A9",
            "x!$&'()*+,;=~",
        ] {
            check_host(host, None);
        }
        for host in [
            "",
            ":80",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "user@a",
            "a:b",
            "a:80:80",
            "a:+80",
            "a:65536",
            "a:99999999999999999999",
            "::1",
            "[]",
            "[::1",
            "::1]",
            "[::1]80",
            "[::1]:x",
            "[::1%25eth0]",
            "[1.2.3.4]",
            "a[",
            "%",
            "%4",
            "%zz",
            "http://a",
            "a\\b",
            "<a>",
            "caf\u{e9}",
        ] {
            check_host(host, Some(HeadError::HostInvalid));
        }
    }

    #[test]
    fn f5_target_at_its_limit_and_over_it() {
        let line = |len: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(len - 1));
        assert_eq!(parsed(&line(LIMITS.target_len)).target().len(), LIMITS.target_len);
        check_error(line(LIMITS.target_len + 1), HeadError::TargetTooLong);
        // It is clear before the line ends, and before anybody sends the rest.
        check_error(format!("GET /{}", "a".repeat(LIMITS.target_len + AFTER_TARGET_LEN)), HeadError::TargetTooLong);
    }

    #[test]
    fn f5_head_at_its_limit_and_over_it() {
        let head = |len: usize| {
            let rest = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(len - rest))
        };
        assert_eq!(parsed(&head(LIMITS.head_len)).fields.len(), 2);
        check_error(head(LIMITS.head_len + 1), HeadError::HeadTooLong);
        check_error(&head(2 * LIMITS.head_len)[..LIMITS.head_len], HeadError::HeadTooLong);
        // Empty lines before it do not count.
        assert_eq!(parsed(&format!("\r\n{}", head(LIMITS.head_len))).fields.len(), 2);
    }

    #[test]
    fn f5_a_head_shorter_than_its_own_request_line() {
        let limits = HeadLimits { head_len: 10, ..LIMITS };
        for input in ["GET /abcdefgh HTTP/1.1\r\n\r\n", "GET /abcde", "GETGETGETGET"] {
            every_split(input.as_bytes(), &limits);
            let error = HeadParser::default().parse(input.as_bytes(), &limits).map(|_| ());
            assert_eq!(error, Err(HeadError::TargetTooLong), "{input}");
        }
    }

    #[test]
    fn f5_fields_at_their_limit_and_over_it() {
        let head = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
        for count in [1, USUAL_FIELDS, USUAL_FIELDS + 1, LIMITS.fields] {
            assert_eq!(parsed(&head(count)).fields.len(), count);
        }
        check_error(head(LIMITS.fields + 1), HeadError::TooManyFields);
        // It is clear with the last line that is too many.
        check_error(head(LIMITS.fields + 1).strip_suffix("\r\n").unwrap(), HeadError::TooManyFields);
    }

    #[test]
    fn f5_methods() {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"] {
            assert_eq!(parsed(&format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).method.as_str(), method);
        }
        for method in ["get", "GETT", "G", "BREW", "PROPFIND", "!#$%&'*+-.^_`|~", &"A".repeat(MAX_METHOD_LEN)] {
            check_error(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"), HeadError::UnknownMethod);
        }
        check_error("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", HeadError::UnknownMethod);
        check_error("A".repeat(MAX_METHOD_LEN + 1), HeadError::UnknownMethod);
    }

    #[test]
    fn f5_versions() {
        let version = |text: &str| parsed(&format!("GET / HTTP/{text}\r\nHost: a\r\n\r\n")).version;
        assert_eq!(version("1.0"), Version::HTTP_10);
        assert_eq!(version("1.1"), Version::HTTP_11);
        assert_eq!(version("1.2"), Version::HTTP_11);
        for text in ["2.0", "3.0", "9.9", "0.9"] {
            check_error(format!("GET / HTTP/{text}\r\nHost: a\r\n\r\n"), HeadError::UnsupportedVersion);
        }
        check_error("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HeadError::UnsupportedVersion);
    }

    #[test]
    fn f5_each_byte_is_looked_at_once() {
        let input = format!("GET /{} HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(50), "x".repeat(900));
        let mut parser = HeadParser::default();
        for len in "GET ".len()..=input.len() {
            assert!(parser.parse(&input.as_bytes()[..len], &LIMITS).unwrap().is_none());
            assert_eq!(parser.scanned, len);
        }
    }

    #[test]
    fn f5_statuses() {
        let of = |input: &[u8]| parse(input).unwrap_err().status().as_u16();
        assert_eq!(of(b"GET / HTTP/1.1\n\n"), 400);
        assert_eq!(of(format!("GET /{}", "a".repeat(100)).as_bytes()), 414);
        assert_eq!(of(format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(2000)).as_bytes()), 431);
        assert_eq!(of(format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(41)).as_bytes()), 431);
        assert_eq!(of(b"BREW / HTTP/1.1\r\n"), 501);
        assert_eq!(of(b"GET / HTTP/2.0\r\n"), 505);
    }

    /// Pieces that heads are made of, and that break them.
    fn head_like() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => Just(&b"\r\n"[..]),
            2 => Just(&b"GET / HTTP/1.1\r\nHost: a\r\n"[..]),
            6 => prop::sample::select(vec![
                &b"\n"[..], b"\r", b" ", b"\t", b":", b"\0", b"\xff", b"GET", b"/", b"*", b"?", b"#", b"HTTP/1.0",
                b"HTTP/2.0", b"http://a", b"Host: ", b"host:", b"X: y\r\n", b"[::1]", b"%41", b"\xc3\xa9",
                b"aaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            ]),
        ];
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn f3_any_bytes_give_one_answer(input in prop::collection::vec(any::<u8>(), 0..200)) {
            every_split(&input, &LIMITS);
        }

        #[test]
        fn f3_almost_heads_give_one_answer(
            input in head_like(),
            target_len in 0usize..40,
            head_len in 0usize..400,
            fields in 0usize..4,
        ) {
            let limits = HeadLimits { target_len, head_len, fields };
            every_split(&input, &limits);
            if let Ok(Some((head, used))) = HeadParser::default().parse(&input, &limits) {
                prop_assert!(input[..used].ends_with(b"\r\n\r\n"));
                prop_assert!(head.target().len() <= target_len && head.fields.len() <= fields);
                prop_assert!(head.path().starts_with('/') || head.path() == "*");
                prop_assert!(head.authority().is_none_or(|authority| !authority.is_empty()));
                prop_assert!(head.fields.iter().all(|(name, value)| is_token(name) && !value.contains(&b'\n')));
            }
        }

        #[test]
        fn a_parser_survives_input_that_is_exchanged(pieces in prop::collection::vec(head_like(), 0..6)) {
            let mut parser = HeadParser::default();
            for piece in pieces {
                let _ = parser.parse(&piece, &LIMITS);
            }
        }
    }
}
