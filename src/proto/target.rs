//! The path of a request target: from what was sent to the name of a file, and from names back to links
//! (RFC 3986 §2, §3.3; RFC 9110 §4).
//!
//! A path is decoded once, here, and what comes out is bytes: file names on Linux are no text. Whatever could mean one
//! thing to us and another to a proxy before us (an encoded slash, a broken escape, a control byte, a way above the
//! root) is refused rather than repaired. Symlinks are not this module's matter; the kernel resolves beneath the root.

use std::borrow::Cow;
use std::fmt;

use http::StatusCode;
use memchr::{memchr, memrchr};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode, percent_encode};

/// A path beneath the root of a route, decoded, without empty segments, `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'a> {
    /// The segments with a slash between them and none at either end; empty for the root itself.
    pub path: Cow<'a, [u8]>,
    /// Whether a directory was named: the path as sent ended in a slash, `.` or `..`.
    pub trailing_slash: bool,
    /// Whether a segment begins with a dot.
    pub hidden: bool,
}

/// Why a path is refused. It is always the client's fault, and asking again does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetError {
    /// A `%` without two hexadecimal digits behind it.
    InvalidEscape,
    /// `%2F`: a slash that is part of a name, which no file's name can hold.
    EncodedSlash,
    /// NUL or another control byte, plain or encoded.
    ControlByte,
    /// More `..` than there are segments before it.
    AboveRoot,
}

impl TargetError {
    /// The status of the reply.
    pub fn status(self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TargetError::InvalidEscape => "a percent sign in the path lacks two hexadecimal digits",
            TargetError::EncodedSlash => "the path has an encoded slash in it",
            TargetError::ControlByte => "the path has a control byte in it",
            TargetError::AboveRoot => "the path leads above the root",
        })
    }
}

impl std::error::Error for TargetError {}

/// The file that `raw_path` names: the path as sent, without the query, from its leading slash on.
///
/// A path that is already normal, as nearly all are, is borrowed.
///
/// # Errors
/// See [`TargetError`].
pub fn normalize(raw_path: &str) -> Result<NormalPath<'_>, TargetError> {
    let segments = raw_path.strip_prefix('/').unwrap_or(raw_path).as_bytes();
    if is_normal(segments) {
        let (path, trailing_slash) = match segments.strip_suffix(b"/") {
            Some(path) => (path, true),
            None => (segments, segments.is_empty() && !raw_path.is_empty()),
        };
        return Ok(NormalPath { path: Cow::Borrowed(path), trailing_slash, hidden: false });
    }
    let (path, trailing_slash) = walk(segments)?;
    let hidden = path.split(|&byte| byte == b'/').any(|segment| segment.starts_with(b"."));
    Ok(NormalPath { path: Cow::Owned(path), trailing_slash, hidden })
}

/// The Location that leads from a directory named without its slash to the same one with it.
///
/// It is relative, one segment and a slash, and so it holds behind a proxy that strips a prefix, and can't lead to
/// another host: the segment is encoded whole, with its colons and backslashes.
pub fn slash_redirect(raw_path: &str, query: Option<&str>) -> String {
    let last_segment = &raw_path[raw_path.rfind('/').map_or(0, |slash| slash + 1)..];
    let name: Cow<'_, [u8]> = percent_decode(last_segment.as_bytes()).into();
    let mut location = format!("{}/", encode_segment(if name.is_empty() { b"." } else { &name }));
    if let Some(query) = query {
        location.push('?');
        location.extend(percent_encode(query.as_bytes(), NOT_IN_QUERY));
    }
    location
}

/// A file's name as one segment of a link, without a slash.
///
/// All but letters, digits and `-._~` is encoded: `:` because a relative link must not look like a scheme (RFC 3986
/// §4.2), the rest because programs that read listings agree on nothing else.
pub fn encode_segment(name: &[u8]) -> impl fmt::Display + '_ {
    percent_encode(name, NOT_IN_SEGMENT)
}

/// A switch in the query of a request target, such as `?download` or `?download=name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryFlag {
    /// It is not there.
    Absent,
    /// It is there, without a value or with one that is empty or not UTF-8.
    Bare,
    /// It is there with this value, decoded.
    Value(String),
}

/// The first `name` in a query of the form that browsers send, `a&b=c` (WHATWG URL, application/x-www-form-urlencoded).
pub fn query_flag(query: Option<&str>, name: &str) -> QueryFlag {
    let Some(query) = query else { return QueryFlag::Absent };
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let Some((_, value)) = pairs.find(|&(key, _)| key == name) else { return QueryFlag::Absent };
    match percent_decode(value.replace('+', " ").as_bytes()).decode_utf8() {
        Ok(text) if !text.is_empty() => QueryFlag::Value(text.into_owned()),
        _ => QueryFlag::Bare,
    }
}

/// All but the unreserved characters (RFC 3986 §2.3).
const NOT_IN_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What must not stand in a query as it is (RFC 3986 §3.4); escapes that are there stay.
const NOT_IN_QUERY: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'\\').add(b'`');

/// Whether there is nothing to decode, to merge, to resolve, to refuse or to hide.
fn is_normal(segments: &[u8]) -> bool {
    let mut previous = b'/';
    segments.iter().all(|&byte| {
        let begins_segment = std::mem::replace(&mut previous, byte) == b'/';
        byte != b'%' && !byte.is_ascii_control() && !(begins_segment && matches!(byte, b'/' | b'.'))
    })
}

/// Decodes the segments and walks them as a directory tree. Gives the path, and whether it ends at a directory.
///
/// An escape can't hide a slash from the split, because an encoded slash is refused; nor a dot, because the dots are
/// looked at after decoding (RFC 3986 §6.2.2.2).
fn walk(segments: &[u8]) -> Result<(Vec<u8>, bool), TargetError> {
    let mut path = Vec::with_capacity(segments.len());
    let mut at_directory = true;
    for segment in segments.split(|&byte| byte == b'/') {
        let parent_len = path.len();
        if parent_len > 0 {
            path.push(b'/');
        }
        let start = path.len();
        decode_into(&mut path, segment)?;
        at_directory = matches!(path[start..], [] | [b'.'] | [b'.', b'.']);
        if !at_directory {
            continue;
        }
        let is_up = path.len() - start == 2;
        path.truncate(parent_len);
        if is_up {
            if path.is_empty() {
                return Err(TargetError::AboveRoot);
            }
            path.truncate(memrchr(b'/', &path).unwrap_or(0));
        }
    }
    Ok((path, at_directory))
}

/// Appends `segment`, percent-decoded once (RFC 3986 §2.4).
fn decode_into(path: &mut Vec<u8>, segment: &[u8]) -> Result<(), TargetError> {
    let mut rest = segment;
    while let Some(percent) = memchr(b'%', rest) {
        let byte = match rest.get(percent + 1..percent + 3) {
            Some(&[high, low]) => hex(high).zip(hex(low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        let byte = byte.ok_or(TargetError::InvalidEscape)?;
        if byte == b'/' {
            return Err(TargetError::EncodedSlash);
        }
        append(path, &rest[..percent])?;
        append(path, &[byte])?;
        rest = &rest[percent + 3..];
    }
    append(path, rest)
}

fn append(path: &mut Vec<u8>, bytes: &[u8]) -> Result<(), TargetError> {
    if bytes.iter().any(u8::is_ascii_control) {
        return Err(TargetError::ControlByte);
    }
    path.extend_from_slice(bytes);
    Ok(())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(raw: &str, path: &[u8], trailing_slash: bool) {
        let normal = normalize(raw).unwrap_or_else(|error| panic!("{raw}: {error}"));
        assert_eq!((&*normal.path, normal.trailing_slash), (path, trailing_slash), "{raw}");
    }

    #[track_caller]
    fn refuse(raw: &str, expected: TargetError) {
        assert_eq!(normalize(raw), Err(expected), "{raw}");
        assert_eq!(expected.status(), 400);
    }

    #[test]
    fn p1_plain_paths_are_borrowed() {
        for raw in ["/", "/a", "/a/b.mp4", "/a/b/", "/a b\\c", "/caf\u{e9}", "/a.b/c..d"] {
            let normal = normalize(raw).unwrap();
            assert!(matches!(normal.path, Cow::Borrowed(_)), "{raw}");
            assert_eq!(normal.path, raw.trim_matches('/').as_bytes());
            assert_eq!(normal.trailing_slash, raw.ends_with('/'));
        }
    }

    #[test]
    fn p1_decoded_once() {
        check("/a%20b", b"a b", false);
        check("/%61/%62", b"a/b", false);
        check("/100%25", b"100%", false);
        check("/%2541", b"%41", false);
        check("/%252e%252e/x", b"%2e%2e/x", false);
        check("/%ff%C3%a9", b"\xff\xc3\xa9", false);
        check("/a%3Fb%23c", b"a?b#c", false);
        check("/a%5cb", b"a\\b", false);
        check("/..%5c..%5cb", b"..\\..\\b", false);
        check("/a+b", b"a+b", false);
    }

    #[test]
    fn p1_what_is_refused() {
        for raw in ["/%", "/%4", "/%4/b", "/%zz", "/%%41", "/%+1", "/a%", "/%c3%"] {
            refuse(raw, TargetError::InvalidEscape);
        }
        for raw in ["/a%2fb", "/a%2Fb", "/%2f", "/%2e%2e%2fx", "/%2f%2fhost"] {
            refuse(raw, TargetError::EncodedSlash);
        }
        for raw in ["/a%00", "/a\0", "/%0a", "/%0d%0aX: y", "/a\tb", "/%7f", "/\u{7f}", "/x/%1f/../y"] {
            refuse(raw, TargetError::ControlByte);
        }
    }

    #[test]
    fn p1_no_way_above_the_root() {
        for raw in ["/..", "/../", "/../etc/passwd", "/a/../..", "/a/../../b", "/%2e%2e/b", "/.%2e", "//..", "/./.."] {
            refuse(raw, TargetError::AboveRoot);
        }
    }

    #[test]
    fn p1_dots_and_empty_segments_go() {
        check("", b"", false);
        check("//", b"", true);
        check("/.", b"", true);
        check("/a/..", b"", true);
        check("/a//b", b"a/b", false);
        check("//a///b//", b"a/b", true);
        check("/a/./b", b"a/b", false);
        check("/a/b/.", b"a/b", true);
        check("/a/b/..", b"a", true);
        check("/a/b/../c", b"a/c", false);
        check("/a/b/../../c/", b"c", true);
        check("/a/%2e/b/%2E%2e/c", b"a/c", false);
        check("/a/...", b"a/...", false);
        check("/a/..b/.c", b"a/..b/.c", false);
        check("b/c", b"b/c", false);
    }

    #[test]
    fn p1_hidden_is_said_of_what_is_left() {
        let hidden = |raw| normalize(raw).unwrap().hidden;
        for raw in ["/.git", "/a/.b/c", "/%2egit/config", "/...", "/a/.b/"] {
            assert!(hidden(raw), "{raw}");
        }
        for raw in ["/", "/a.b", "/./a", "/.git/../a", "/a/../b"] {
            assert!(!hidden(raw), "{raw}");
        }
    }

    #[test]
    fn p3_redirect_is_relative_and_stays_here() {
        #[track_caller]
        fn check(raw_path: &str, query: Option<&str>, expected: &str) {
            assert_eq!(slash_redirect(raw_path, query), expected, "{raw_path}");
        }
        check("/a/b", None, "b/");
        check("/a/b", Some("x=1&y=%20"), "b/?x=1&y=%20");
        check("/a/b", Some(""), "b/?");
        check("//host", None, "host/");
        check("/\\host", None, "%5Chost/");
        check("/%5c%5chost", None, "%5C%5Chost/");
        check("/a:b", None, "a%3Ab/");
        check("/https:", None, "https%3A/");
        check("/%C3%a9 %ff%25", None, "%C3%A9%20%FF%25/");
        check("/a%0d%0aX:%20y", None, "a%0D%0AX%3A%20y/");
        check("/a", Some("q=\r\nX: y#\u{e9}"), "a/?q=%0D%0AX:%20y%23%C3%A9");
        check("", None, "./");
        check("/", None, "./");
    }

    #[test]
    fn p4_segments_are_encoded_exactly() {
        let encoded = |name: &[u8]| encode_segment(name).to_string();
        assert_eq!(encoded(b"clip-1_a.b~c.mp4"), "clip-1_a.b~c.mp4");
        assert_eq!(encoded(b"a b%20?#&;=+'\"<>:@\\"), "a%20b%2520%3F%23%26%3B%3D%2B%27%22%3C%3E%3A%40%5C");
        assert_eq!(encoded(b"\xff\xc3\xa9"), "%FF%C3%A9");
    }

    #[test]
    fn query_flags() {
        #[track_caller]
        fn check(query: Option<&str>, expected: QueryFlag) {
            assert_eq!(query_flag(query, "download"), expected, "{query:?}");
        }
        let value = |text: &str| QueryFlag::Value(text.to_string());
        check(None, QueryFlag::Absent);
        check(Some(""), QueryFlag::Absent);
        check(Some("downloads"), QueryFlag::Absent);
        check(Some("x=download"), QueryFlag::Absent);
        check(Some("download"), QueryFlag::Bare);
        check(Some("a=b&download&c"), QueryFlag::Bare);
        check(Some("download="), QueryFlag::Bare);
        check(Some("download=%ff"), QueryFlag::Bare);
        check(Some("download=a%20b+c.mp4"), value("a b c.mp4"));
        check(Some("download=%C3%A9%2B=1&x"), value("\u{e9}+=1"));
        check(Some("download=a&download=b"), value("a"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn p1_what_is_accepted_is_safe(raw in "/([a.%/2eEfF\\\\]|%2e|%41|\\.\\.|/){0,24}") {
            if let Ok(normal) = normalize(&raw) {
                prop_assert!(!normal.path.iter().any(u8::is_ascii_control));
                if !normal.path.is_empty() {
                    for segment in normal.path.split(|&byte| byte == b'/') {
                        prop_assert!(!matches!(segment, b"" | b"." | b".."), "{raw}");
                    }
                }
            }
        }

        #[test]
        fn p4_a_link_leads_back_to_its_file(name in proptest::collection::vec(0x20u8..=0xff, 1..20)) {
            prop_assume!(!name.contains(&b'/') && !name.contains(&0x7f) && name != b"." && name != b"..");
            let link = format!("/{}", encode_segment(&name));
            prop_assert_eq!(&*normalize(&link).unwrap().path, &name[..]);
        }
    }
}
