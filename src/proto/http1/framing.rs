//! How a request's body is delimited, and what the connection does after it (RFC 9112 §6 and §9.3, RFC 9110 §10.1.1).
//!
//! This is the one place that reads Content-Length, Transfer-Encoding, Connection and Expect of a request. Where the
//! RFC lets a recipient repair a message, this one refuses it: whoever stands in front of it may have repaired it
//! differently, and the difference is where a second request is smuggled in (§11.2).

use std::fmt;

use http::{StatusCode, Version};

use super::head::{RequestHead, is_token};

const CONTENT_LENGTH: &str = "content-length";
const TRANSFER_ENCODING: &str = "transfer-encoding";

/// What follows the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Nothing: the next byte is the next request's.
    Empty,
    /// So many bytes, at least one.
    Length(u64),
    /// Chunks, see [`chunked`](super::chunked).
    Chunked,
}

/// Why the fields do not say what follows the head, or ask for what there is not. The connection closes after the
/// reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramingError {
    /// Content-Length and Transfer-Encoding in one request.
    LengthAndCoding,
    /// Content-Length is not one number.
    ContentLength,
    /// Transfer-Encoding is no list of codings that ends in the only `chunked`.
    TransferEncoding,
    /// Transfer-Encoding in HTTP/1.0, which does not have it.
    CodingInHttp10,
    /// A transfer coding other than `chunked`.
    UnknownCoding,
    /// An expectation other than `100-continue`.
    Expectation,
}

impl FramingError {
    /// The status to answer with.
    pub fn status(self) -> StatusCode {
        match self {
            FramingError::UnknownCoding => StatusCode::NOT_IMPLEMENTED,
            FramingError::Expectation => StatusCode::EXPECTATION_FAILED,
            FramingError::LengthAndCoding
            | FramingError::ContentLength
            | FramingError::TransferEncoding
            | FramingError::CodingInHttp10 => StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for FramingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FramingError::LengthAndCoding => "The request has both Content-Length and Transfer-Encoding.",
            FramingError::ContentLength => "The Content-Length field is malformed.",
            FramingError::TransferEncoding => "The Transfer-Encoding field is malformed.",
            FramingError::CodingInHttp10 => "HTTP/1.0 does not have Transfer-Encoding.",
            FramingError::UnknownCoding => "This server decodes no transfer coding but chunked.",
            FramingError::Expectation => "This server meets no expectation but 100-continue.",
        })
    }
}

impl std::error::Error for FramingError {}

/// How the body of the request is delimited (RFC 9112 §6.3).
///
/// # Errors
/// Any [`FramingError`] but `Expectation`.
pub fn of_request(head: &RequestHead) -> Result<Framing, FramingError> {
    let fields = &head.fields;
    if fields.contains(TRANSFER_ENCODING) {
        // "Such a message might indicate an attempt to perform request smuggling … and ought to be handled as an error"
        // (§6.3, rule 3).
        if fields.contains(CONTENT_LENGTH) {
            return Err(FramingError::LengthAndCoding);
        }
        // §6.1: "A server … that receives an HTTP/1.0 message containing a Transfer-Encoding header field MUST treat
        // the message as if the framing is faulty".
        if head.version == Version::HTTP_10 {
            return Err(FramingError::CodingInHttp10);
        }
        check_codings(fields.get_all(TRANSFER_ENCODING))?;
        return Ok(Framing::Chunked);
    }
    match content_length(fields.get_all(CONTENT_LENGTH))? {
        None | Some(0) => Ok(Framing::Empty),
        Some(len) => Ok(Framing::Length(len)),
    }
}

/// Whether the client lets the connection serve another request (RFC 9112 §9.3).
pub fn keeps_alive(head: &RequestHead) -> bool {
    let (mut close, mut keep_alive) = (false, false);
    for option in head.fields.get_all("connection").flat_map(elements) {
        close |= option.eq_ignore_ascii_case(b"close");
        keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
    }
    !close && (keep_alive || head.version != Version::HTTP_10)
}

/// Whether the client waits for a 100 before it sends the body. If there is no body, none need be sent.
///
/// # Errors
/// [`FramingError::Expectation`] for any other expectation (RFC 9110 §10.1.1).
pub fn expects_continue(head: &RequestHead) -> Result<bool, FramingError> {
    // "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore that expectation."
    if head.version == Version::HTTP_10 {
        return Ok(false);
    }
    let mut expected = false;
    for expectation in head.fields.get_all("expect").flat_map(elements).filter(|element| !element.is_empty()) {
        if !expectation.eq_ignore_ascii_case(b"100-continue") {
            return Err(FramingError::Expectation);
        }
        expected = true;
    }
    Ok(expected)
}

/// `Transfer-Encoding = #transfer-coding`, whose last must be the only `chunked` (RFC 9112 §6.3, rule 4). Empty
/// elements, legal in other lists, are no tokens and thus refused.
fn check_codings<'a>(values: impl Iterator<Item = &'a [u8]>) -> Result<(), FramingError> {
    let (mut chunked, mut others) = (false, false);
    for coding in values.flat_map(elements) {
        let (name, has_parameters) = match memchr::memchr(b';', coding) {
            Some(semicolon) => (coding[..semicolon].trim_ascii_end(), true),
            None => (coding, false),
        };
        if chunked || !is_token(name) {
            return Err(FramingError::TransferEncoding);
        }
        if !name.eq_ignore_ascii_case(b"chunked") {
            others = true;
        } else if has_parameters {
            // "The chunked coding does not define any parameters. Their presence SHOULD be treated as an error" (§7.1).
            return Err(FramingError::TransferEncoding);
        } else {
            chunked = true;
        }
    }
    match (chunked, others) {
        (false, _) => Err(FramingError::TransferEncoding),
        (true, true) => Err(FramingError::UnknownCoding),
        (true, false) => Ok(()),
    }
}

/// `Content-Length = 1*DIGIT`. A list is taken if all its members are valid and the same number (RFC 9112 §6.3, rule
/// 5).
fn content_length<'a>(values: impl Iterator<Item = &'a [u8]>) -> Result<Option<u64>, FramingError> {
    let mut length = None;
    for element in values.flat_map(elements) {
        let value = decimal(element).ok_or(FramingError::ContentLength)?;
        if length.is_some_and(|earlier| earlier != value) {
            return Err(FramingError::ContentLength);
        }
        length = Some(value);
    }
    Ok(length)
}

/// `1*DIGIT` that fits. `str::parse` was rejected: it takes a sign.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, b| {
        let digit = b.is_ascii_digit().then_some(b.wrapping_sub(b'0'))?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The elements of a list, empty ones too, without the white space around them (RFC 9110 §5.6.1). `trim_ascii` takes
/// off more than blanks and tabs, but nothing more is left in a value.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::super::head::{HeadLimits, HeadParser};
    use super::*;

    /// A request of this version with these field lines.
    #[track_caller]
    fn request(version: &str, fields: &[&str]) -> RequestHead {
        let lines: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let input = format!("POST / {version}\r\nHost: a\r\n{lines}\r\n");
        let limits = HeadLimits { target_len: 100, head_len: 10_000, fields: 10 };
        HeadParser::default().parse(input.as_bytes(), &limits).expect("a valid head").expect("a whole head").0
    }

    #[track_caller]
    fn check(fields: &[&str], expected: Result<Framing, FramingError>) {
        assert_eq!(of_request(&request("HTTP/1.1", fields)), expected, "{fields:?}");
    }

    #[test]
    fn f1_without_a_field_there_is_no_body() {
        check(&[], Ok(Framing::Empty));
        check(&["Content-Length: 0"], Ok(Framing::Empty));
        check(&["X-Content-Length: 5", "Transfer-Encodin: chunked", "TE: trailers"], Ok(Framing::Empty));
        assert_eq!(of_request(&request("HTTP/1.0", &[])), Ok(Framing::Empty));
    }

    #[test]
    fn f1_content_length() {
        check(&["Content-Length: 5"], Ok(Framing::Length(5)));
        check(&["content-length:\t5 "], Ok(Framing::Length(5)));
        check(&["Content-Length: 0005"], Ok(Framing::Length(5)));
        check(&["Content-Length: 18446744073709551615"], Ok(Framing::Length(u64::MAX)));
        check(&["Content-Length: 5, 5"], Ok(Framing::Length(5)));
        check(&["Content-Length: 5", "Content-Length: 5"], Ok(Framing::Length(5)));
        assert_eq!(of_request(&request("HTTP/1.0", &["Content-Length: 5"])), Ok(Framing::Length(5)));
    }

    #[test]
    fn f1_content_length_that_is_none() {
        for value in [
            "",
            " ",
            "+5",
            "-5",
            "-0",
            "0x5",
            "5 5",
            "5\t5",
            "5 ,6",
            "5, 6",
            "5,",
            ",5",
            "5,,5",
            "5;5",
            "5.0",
            "5e1",
            "five",
            "5a",
            "a5",
            "\"5\"",
            "_5",
            "1_000",
            "18446744073709551616",
            "99999999999999999999999999",
            "\u{665}",
            "5, 5, 6",
            "0, 5",
        ] {
            check(&[&format!("Content-Length: {value}")], Err(FramingError::ContentLength));
        }
        check(&["Content-Length: 5", "Content-Length: 6"], Err(FramingError::ContentLength));
        check(&["Content-Length: 0", "content-length: 5"], Err(FramingError::ContentLength));
        check(&["Content-Length: 5", "Content-Length:"], Err(FramingError::ContentLength));
    }

    #[test]
    fn f1_chunked() {
        for value in ["chunked", "Chunked", "CHUNKED", "\tchunked", " chunked\t"] {
            check(&[&format!("Transfer-Encoding:{value}")], Ok(Framing::Chunked));
        }
    }

    #[test]
    fn f1_transfer_encoding_that_does_not_end_in_the_only_chunked() {
        for value in [
            "",
            "xchunked",
            "chunkedx",
            "identity",
            "gzip",
            "chunked, chunked",
            "chunked,chunked",
            "chunked, gzip",
            "chunked, identity",
            "gzip, chunked, gzip",
            "chunked,",
            ",chunked",
            ", chunked",
            "chunked;",
            "chunked;q=1",
            "chunked;q=1, chunked",
            "\"chunked\"",
            "'chunked'x",
            "chun ked",
            "chunked chunked",
            "gzip chunked",
            "gzip;a=\"x,y\", chunked",
            "(x) chunked",
            "chunked\u{e9}",
            "[chunked]",
        ] {
            check(&[&format!("Transfer-Encoding: {value}")], Err(FramingError::TransferEncoding));
        }
        check(&["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], Err(FramingError::TransferEncoding));
        check(&["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], Err(FramingError::TransferEncoding));
        check(&["Transfer-Encoding: chunked", "Transfer-Encoding:"], Err(FramingError::TransferEncoding));
    }

    #[test]
    fn f1_unknown_coding_before_chunked() {
        for value in
            ["gzip, chunked", "identity,chunked", "xchunked, chunked", "a;b=c, chunked", "gzip, deflate, chunked"]
        {
            check(&[&format!("Transfer-Encoding: {value}")], Err(FramingError::UnknownCoding));
        }
        check(&["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"], Err(FramingError::UnknownCoding));
        assert_eq!(FramingError::UnknownCoding.status(), StatusCode::NOT_IMPLEMENTED);
    }

    #[test]
    fn f1_both_fields_in_either_order() {
        check(&["Content-Length: 5", "Transfer-Encoding: chunked"], Err(FramingError::LengthAndCoding));
        check(&["Transfer-Encoding: chunked", "Content-Length: 5"], Err(FramingError::LengthAndCoding));
        check(&["Transfer-Encoding: identity", "Content-Length: 5"], Err(FramingError::LengthAndCoding));
        check(&["Transfer-Encoding:", "Content-Length:"], Err(FramingError::LengthAndCoding));
        assert_eq!(FramingError::LengthAndCoding.status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn f1_transfer_encoding_in_http_10() {
        let head = request("HTTP/1.0", &["Transfer-Encoding: chunked"]);
        assert_eq!(of_request(&head), Err(FramingError::CodingInHttp10));
        assert_eq!(FramingError::CodingInHttp10.status(), StatusCode::BAD_REQUEST);
    }

    #[track_caller]
    fn check_keeps_alive(version: &str, fields: &[&str], expected: bool) {
        assert_eq!(keeps_alive(&request(version, fields)), expected, "{version} {fields:?}");
    }

    #[test]
    fn f6_persistence() {
        check_keeps_alive("HTTP/1.1", &[], true);
        check_keeps_alive("HTTP/1.1", &["Connection: upgrade, x"], true);
        check_keeps_alive("HTTP/1.1", &["Connection: closed"], true);
        check_keeps_alive("HTTP/1.1", &["Connection: close"], false);
        check_keeps_alive("HTTP/1.1", &["connection: keep-alive,\tCLOSE"], false);
        check_keeps_alive("HTTP/1.1", &["Connection: x", "Connection: ,close,"], false);
        check_keeps_alive("HTTP/1.0", &[], false);
        check_keeps_alive("HTTP/1.0", &["Connection: Keep-Alive"], true);
        check_keeps_alive("HTTP/1.0", &["Connection: x, keep-alive"], true);
        check_keeps_alive("HTTP/1.0", &["Connection: keep-alive", "Connection: close"], false);
        check_keeps_alive("HTTP/1.0", &["Keep-Alive: timeout=5"], false);
    }

    #[track_caller]
    fn check_expects(version: &str, fields: &[&str], expected: Result<bool, FramingError>) {
        assert_eq!(expects_continue(&request(version, fields)), expected, "{version} {fields:?}");
    }

    #[test]
    fn f8_expectations() {
        check_expects("HTTP/1.1", &[], Ok(false));
        check_expects("HTTP/1.1", &["Expect:"], Ok(false));
        check_expects("HTTP/1.1", &["Expect: 100-Continue"], Ok(true));
        check_expects("HTTP/1.1", &["Expect: 100-continue, 100-continue"], Ok(true));
        for value in [
            "100-continue, x",
            "x, 100-continue",
            "200-ok",
            "100-continue;x",
            "100-continuex",
            "100",
            "\"100-continue\"",
        ] {
            check_expects("HTTP/1.1", &[&format!("Expect: {value}")], Err(FramingError::Expectation));
        }
        check_expects("HTTP/1.0", &["Expect: 100-continue"], Ok(false));
        check_expects("HTTP/1.0", &["Expect: x"], Ok(false));
        assert_eq!(FramingError::Expectation.status(), StatusCode::EXPECTATION_FAILED);
    }
}
