//! Signed URLs: a link that opens one file, or all beneath a directory, until a certain second, without an account.
//!
//! The query carries `expires` (seconds since 1970) and `signature` (HMAC-SHA256, RFC 2104, as base64url without
//! padding). What is signed is, one to a line: a version tag, `read` or `write`, the expiry, `path` or `prefix`, the path
//! or prefix, and the rest of the query in its order, as it was sent.
//!
//! The path is signed decoded and normalised, which is how it is opened: then two spellings of one path are one path,
//! and nothing can be spelled so that the signature is checked for one file and another is served. An encoded slash, a
//! control byte or a way above the root is refused before, and no line can hold a line break. Signing the path as it is
//! sent was rejected: browsers and proxies spell paths anew, and good links would break.
//!
//! A path that ends in a slash is signed as `prefix`, a parameter of that name, and holds for all that is beneath it:
//! a playlist's segments, an upload's resources. Other parameters are signed there too, so a player that adds its own to
//! the query, rather than in fields, needs another kind of permission.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use http::{Method, StatusCode};
use percent_encoding::{percent_decode_str, percent_encode};
use sha2::Sha256;

use crate::proto::target::{self, TargetError};

/// The fewest bytes of a secret: 128 bits, if they are random.
pub const MIN_SECRET_LEN: usize = 16;

/// A secret that signs. A server may take several, so that they can be changed while links are out.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl Key {
    /// The key of this secret; `None` if it has fewer than [`MIN_SECRET_LEN`] bytes.
    pub fn new(secret: &[u8]) -> Option<Self> {
        if secret.len() < MIN_SECRET_LEN {
            return None;
        }
        // A key of any length is a key of HMAC.
        Hmac::new_from_slice(secret).ok().map(Key)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// What a signature allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// GET and HEAD.
    Read,
    /// POST, PUT, PATCH and DELETE; HEAD too, since a client asks so how much of its upload has arrived.
    Write,
}

/// The query of a URL that is signed: `query`, then the parameters of the signature.
///
/// `path` is as it stands in the URL, from its slash on; with a slash at the end all beneath it is signed. The URL is
/// valid before the second `expires`.
///
/// # Errors
/// The path is refused as that of a request would be, or the query has one of our parameters already.
pub fn sign(key: &Key, access: Access, path: &str, expires: u64, query: Option<&str>) -> Result<String, Refusal> {
    let parameters = Parameters::parse(query)?;
    if parameters.expires.is_some() || parameters.prefix.is_some() || parameters.signature.is_some() {
        return Err(Refusal::Malformed);
    }
    let path = normal(path)?;
    let scope = if path.ends_with(b"/") { Scope::Prefix(&path) } else { Scope::Path(&path) };
    let signature = mac(key, access, expires, scope, &parameters.others).finalize().into_bytes();
    let mut signed = parameters.others.join("&");
    if query.is_some() {
        signed.push('&');
    }
    signed.push_str(&format!("expires={expires}"));
    if let Scope::Prefix(prefix) = scope {
        signed.push_str("&prefix=");
        signed.extend(percent_encode(prefix, PREFIX_ESCAPES));
    }
    signed.push_str("&signature=");
    signed.push_str(&URL_SAFE_NO_PAD.encode(signature));
    Ok(signed)
}

/// Whether a request may do what it asks for, by the signature in its query. OPTIONS needs none, because a browser asks
/// so before it knows whether it may ask.
///
/// `path` is as it was sent, without the query; `now` is in seconds since 1970. Every key is tried, in a time that does
/// not tell how much of a signature was right.
///
/// # Errors
/// See [`Refusal`]. That a link is too old is told to those only whose signature is right.
pub fn verify(keys: &[Key], method: &Method, path: &str, query: Option<&str>, now: u64) -> Result<(), Refusal> {
    let accesses: &[Access] = match *method {
        Method::OPTIONS => return Ok(()),
        Method::GET => &[Access::Read],
        Method::HEAD => &[Access::Read, Access::Write],
        _ => &[Access::Write],
    };
    let parameters = Parameters::parse(query)?;
    let (Some(signature), Some(expires)) = (parameters.signature, parameters.expires) else {
        return Err(Refusal::Missing);
    };
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refusal::Malformed)?;
    let expires = number(expires).ok_or(Refusal::Malformed)?;
    let path = normal(path)?;
    let prefix = parameters.prefix.map(|prefix| percent_decode_str(prefix).collect::<Vec<u8>>());
    let scope = match &prefix {
        None => Scope::Path(&path),
        // The path is normal, so a prefix that it begins with is normal too: without `..`, without line breaks.
        Some(prefix) if prefix.ends_with(b"/") && path.starts_with(prefix) => Scope::Prefix(prefix),
        Some(_) => return Err(Refusal::Invalid),
    };
    let is_right = keys.iter().flat_map(|key| accesses.iter().map(move |&access| (key, access))).fold(
        false,
        |is_right, (key, access)| {
            is_right | mac(key, access, expires, scope, &parameters.others).verify_slice(&signature).is_ok()
        },
    );
    match is_right {
        false => Err(Refusal::Invalid),
        true if now >= expires => Err(Refusal::Expired),
        true => Ok(()),
    }
}

/// Why a request is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not signed.
    Missing,
    /// A parameter of the signature is repeated or not in its form.
    Malformed,
    /// The signature is not that of this request.
    Invalid,
    /// The signature was right, and its time is over.
    Expired,
    /// The path itself is refused.
    Path(TargetError),
}

impl Refusal {
    /// The status of the reply. A signature is no authentication in the sense of 401.
    pub fn status(self) -> StatusCode {
        match self {
            Refusal::Malformed => StatusCode::BAD_REQUEST,
            Refusal::Path(error) => error.status(),
            Refusal::Missing | Refusal::Invalid | Refusal::Expired => StatusCode::FORBIDDEN,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Missing => f.write_str("the link is not signed"),
            Refusal::Malformed => f.write_str("the link's signature or its expiry is malformed"),
            Refusal::Invalid => f.write_str("the link's signature is not valid for this request"),
            Refusal::Expired => f.write_str("the link has expired"),
            Refusal::Path(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

/// Whether a parameter of a query is the signature's, and none of those of whoever answers.
pub fn is_parameter(name: &str) -> bool {
    matches!(name, "expires" | "prefix" | "signature")
}

/// Begins everything that is signed, so that a signature of another form, or of another program with the same secret,
/// is none of ours.
const VERSION_TAG: &str = "highwater-url-1";

/// The path in `prefix=`: slashes stay, the rest is escaped as in links.
const PREFIX_ESCAPES: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// What a signature is for, as normal paths.
#[derive(Clone, Copy)]
enum Scope<'a> {
    Path(&'a [u8]),
    Prefix(&'a [u8]),
}

/// A query, taken apart. Names are compared as they were sent; one that is spelled in escapes is none of ours, and is
/// signed like the others.
struct Parameters<'a> {
    expires: Option<&'a str>,
    prefix: Option<&'a str>,
    signature: Option<&'a str>,
    others: Vec<&'a str>,
}

impl<'a> Parameters<'a> {
    fn parse(query: Option<&'a str>) -> Result<Self, Refusal> {
        let mut parameters = Parameters { expires: None, prefix: None, signature: None, others: Vec::new() };
        for pair in query.into_iter().flat_map(|query| query.split('&')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let slot = match name {
                "expires" => &mut parameters.expires,
                "prefix" => &mut parameters.prefix,
                "signature" => &mut parameters.signature,
                _ => {
                    parameters.others.push(pair);
                    continue;
                }
            };
            if slot.replace(value).is_some() {
                return Err(Refusal::Malformed);
            }
        }
        Ok(parameters)
    }
}

/// The path from its slash on, decoded, with a slash at the end if it names a directory.
fn normal(raw_path: &str) -> Result<Vec<u8>, Refusal> {
    let normal = target::normalize(raw_path).map_err(Refusal::Path)?;
    let end: &[u8] = if normal.trailing_slash && !normal.path.is_empty() { b"/" } else { b"" };
    Ok([b"/", &*normal.path, end].concat())
}

fn mac(key: &Key, access: Access, expires: u64, scope: Scope<'_>, others: &[&str]) -> Hmac<Sha256> {
    let access = match access {
        Access::Read => "read",
        Access::Write => "write",
    };
    let (kind, path) = match scope {
        Scope::Path(path) => ("path", path),
        Scope::Prefix(path) => ("prefix", path),
    };
    let mut mac = key.0.clone();
    mac.update(format!("{VERSION_TAG}\n{access}\n{expires}\n{kind}\n").as_bytes());
    mac.update(path);
    mac.update(b"\n");
    mac.update(others.join("&").as_bytes());
    mac
}

fn number(digits: &str) -> Option<u64> {
    // The standard parser would take a plus sign.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXPIRES: u64 = 2_000_000_000;
    const BEFORE: u64 = EXPIRES - 1;

    fn key(n: u8) -> Key {
        Key::new(&[n; 32]).unwrap()
    }

    #[track_caller]
    fn signed(access: Access, path: &str, query: Option<&str>) -> String {
        sign(&key(1), access, path, EXPIRES, query).unwrap_or_else(|refusal| panic!("{path}: {refusal}"))
    }

    #[track_caller]
    fn check(method: Method, path: &str, query: &str, expected: Result<(), Refusal>) {
        assert_eq!(verify(&[key(1)], &method, path, Some(query), BEFORE), expected, "{method} {path}?{query}");
    }

    #[test]
    fn a_signature_is_stable() {
        // Computed by Python's hmac module.
        assert_eq!(
            signed(Access::Read, "/a%20b/film.mp4", Some("x=1&y")),
            "x=1&y&expires=2000000000&signature=5vL0oqfQhA6hbVD_S6spWqpOvlmCGssZMbR2eNDhwWY"
        );
        assert_eq!(
            signed(Access::Write, "/a%20b/", None),
            "expires=2000000000&prefix=/a%20b/&signature=k2j-c_vFHiOePy1PYwYwFG-Kk1pNCbsDVPGumlBD48E"
        );
    }

    #[test]
    fn a_link_opens_its_path_until_it_expires() {
        let query = signed(Access::Read, "/a/film.mp4", None);
        let at = |now| verify(&[key(1)], &Method::GET, "/a/film.mp4", Some(&query), now);
        assert_eq!(at(0), Ok(()));
        assert_eq!(at(BEFORE), Ok(()));
        assert_eq!(at(EXPIRES), Err(Refusal::Expired));
        assert_eq!(at(u64::MAX), Err(Refusal::Expired));
        for path in ["/a/film.mp", "/a/film.mp4/", "/a/", "/", "/a/film.mp4/b", "/A/film.mp4", "/b/film.mp4"] {
            check(Method::GET, path, &query, Err(Refusal::Invalid));
        }
    }

    #[test]
    fn methods_are_of_two_kinds() {
        let read = signed(Access::Read, "/a", None);
        let write = signed(Access::Write, "/a", None);
        let (yes, no) = (Ok(()), Err(Refusal::Invalid));
        check(Method::GET, "/a", &read, yes);
        check(Method::GET, "/a", &write, no);
        check(Method::HEAD, "/a", &read, yes);
        check(Method::HEAD, "/a", &write, yes);
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            check(method.clone(), "/a", &read, no);
            check(method, "/a", &write, yes);
        }
        check(Method::OPTIONS, "/a", "", yes);
    }

    #[test]
    fn spellings_of_a_path_are_one_path() {
        let query = signed(Access::Read, "/a%20b/film.mp4", None);
        for path in ["/a%20b/film.mp4", "/a%20b/%66ilm.mp4", "//a%20b/./film.mp4", "/x/../a%20b/film.mp4"] {
            check(Method::GET, path, &query, Ok(()));
        }
        check(Method::GET, "/a+b/film.mp4", &query, Err(Refusal::Invalid));
        check(Method::GET, "/a%2520b/film.mp4", &query, Err(Refusal::Invalid));
        for (path, error) in [
            ("/a%20b%2ffilm.mp4", TargetError::EncodedSlash),
            ("/a%20b/../../film.mp4", TargetError::AboveRoot),
            ("/a%20b/film.mp4%0a", TargetError::ControlByte),
            ("/a%20b/film.mp4%", TargetError::InvalidEscape),
        ] {
            check(Method::GET, path, &query, Err(Refusal::Path(error)));
        }
    }

    #[test]
    fn a_prefix_opens_what_is_beneath_it() {
        let query = signed(Access::Read, "/live/a%20b/", None);
        for path in ["/live/a%20b/", "/live/a%20b/x.m3u8", "/live/a%20b/1/seg.ts", "/live/a%20b/1/../x"] {
            check(Method::GET, path, &query, Ok(()));
        }
        for path in ["/live/a%20b", "/live/a%20bc/x", "/live/", "/live/a%20b/../c/x", "/live/a%20b/%2e%2e/x", "/"] {
            check(Method::GET, path, &query, Err(Refusal::Invalid));
        }
        check(Method::GET, "/live/a%20b/..%2fc", &query, Err(Refusal::Path(TargetError::EncodedSlash)));
        // A program that spells the query anew does no harm.
        let respelled = query.replace("prefix=/live/a%20b/", "prefix=%2Flive%2Fa%20b%2F");
        assert_ne!(query, respelled);
        check(Method::GET, "/live/a%20b/x", &respelled, Ok(()));
        let everything = signed(Access::Read, "/", None);
        check(Method::GET, "/any/thing", &everything, Ok(()));
    }

    #[test]
    fn a_prefix_is_not_moved_and_not_taken_off() {
        let query = signed(Access::Read, "/live/a/", None);
        let with = |prefix: &str| query.replace("&prefix=/live/a/", prefix);
        for prefix in
            ["", "&prefix=/", "&prefix=/live/", "&prefix=/live/a", "&prefix=/live/a/b/", "&prefix=", "&prefix"]
        {
            check(Method::GET, "/live/a/b/c", &with(prefix), Err(Refusal::Invalid));
        }
        check(Method::GET, "/live/a/", &with(""), Err(Refusal::Invalid));
        let path = signed(Access::Read, "/live/a", None);
        check(Method::GET, "/live/a/b", &format!("prefix=/live/a/&{path}"), Err(Refusal::Invalid));
        // Not even the key's owner opens `/live/ab` by half a name.
        let half = mac(&key(1), Access::Read, EXPIRES, Scope::Prefix(b"/live/a"), &[]).finalize().into_bytes();
        let half = format!("expires={EXPIRES}&prefix=/live/a&signature={}", URL_SAFE_NO_PAD.encode(half));
        check(Method::GET, "/live/ab", &half, Err(Refusal::Invalid));
    }

    #[test]
    fn the_rest_of_the_query_is_signed() {
        let query = signed(Access::Read, "/a", Some("download=x&b"));
        check(Method::GET, "/a", &query, Ok(()));
        let (others, ours) = query.split_once("&expires").unwrap();
        check(Method::GET, "/a", &format!("expires{ours}&{others}"), Ok(()));
        for changed in ["", "download=y&b&", "b&download=x&", "download=x&b&c&", "download=x&", "download=x&b&&"] {
            check(Method::GET, "/a", &format!("{changed}expires{ours}"), Err(Refusal::Invalid));
        }
        for more in ["&", "&Signature=x", "&%65xpires=9"] {
            check(Method::GET, "/a", &format!("{query}{more}"), Err(Refusal::Invalid));
        }
        check(Method::GET, "/a", &query.replace("2000000000", "2000000001"), Err(Refusal::Invalid));
    }

    #[test]
    fn parameters_that_are_not_there_or_not_right() {
        for query in ["", "x", "expires=1", "signature=x", "prefix=/"] {
            check(Method::GET, "/a", query, Err(Refusal::Missing));
        }
        assert_eq!(verify(&[key(1)], &Method::GET, "/a", None, 0), Err(Refusal::Missing));
        let query = signed(Access::Read, "/a", None);
        for more in ["expires=2000000000", "signature=x", "prefix=/a/&prefix=/a/"] {
            check(Method::GET, "/a", &format!("{query}&{more}"), Err(Refusal::Malformed));
        }
        for expires in ["", "-1", "+2000000000", "1e9", "0x1", "18446744073709551616"] {
            check(Method::GET, "/a", &query.replace("2000000000", expires), Err(Refusal::Malformed));
        }
        for end in ["=", "*", "AA", "%3D"] {
            check(Method::GET, "/a", &format!("{query}{end}"), Err(Refusal::Malformed));
        }
        for signature in ["", "AAAA", &"A".repeat(43)] {
            check(Method::GET, "/a", &format!("expires=2000000000&signature={signature}"), Err(Refusal::Invalid));
        }
    }

    #[test]
    fn keys_are_rotated() {
        let query = signed(Access::Read, "/a", None);
        let with = |keys: &[Key]| verify(keys, &Method::GET, "/a", Some(&query), BEFORE);
        assert_eq!(with(&[key(2), key(1)]), Ok(()));
        assert_eq!(with(&[key(1), key(2)]), Ok(()));
        assert_eq!(with(&[key(2), key(3)]), Err(Refusal::Invalid));
        assert_eq!(with(&[]), Err(Refusal::Invalid));
        assert!(Key::new(&[1; 15]).is_none() && Key::new(&[1; 16]).is_some());
        assert_eq!(format!("{:?}", key(1)), "Key(..)");
    }

    #[test]
    fn what_can_not_be_signed() {
        let refused = |path, query| sign(&key(1), Access::Read, path, EXPIRES, query).unwrap_err();
        assert_eq!(refused("/a%2fb", None), Refusal::Path(TargetError::EncodedSlash));
        assert_eq!(refused("/../a", None), Refusal::Path(TargetError::AboveRoot));
        for query in ["expires=1", "a&signature=x", "prefix"] {
            assert_eq!(refused("/a", Some(query)), Refusal::Malformed);
        }
        assert_eq!(Refusal::Malformed.status(), 400);
        assert_eq!(Refusal::Path(TargetError::AboveRoot).status(), 400);
        for refusal in [Refusal::Missing, Refusal::Invalid, Refusal::Expired] {
            assert_eq!(refusal.status(), 403);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn what_is_signed_is_let_through_and_nothing_else(
            path in "/[a-c./ \u{e9}]{0,12}",
            other in "/[a-c./ \u{e9}]{0,12}",
            query in proptest::option::of("[a-c=&]{0,8}"),
        ) {
            let escape = |path: &str| percent_encode(path.as_bytes(), PREFIX_ESCAPES).to_string();
            let (path, other) = (escape(&path), escape(&other));
            if let (Ok(signed), Ok(normal_path)) =
                (sign(&key(1), Access::Read, &path, EXPIRES, query.as_deref()), normal(&path))
            {
                let open = |path: &str| verify(&[key(1)], &Method::GET, path, Some(&signed), BEFORE);
                prop_assert_eq!(open(&path), Ok(()));
                if let Ok(normal_other) = normal(&other) {
                    let beneath = normal_path.ends_with(b"/") && normal_other.starts_with(&normal_path);
                    prop_assert_eq!(open(&other).is_ok(), normal_other == normal_path || beneath);
                }
            }
        }

        #[test]
        fn any_query_is_read_without_a_panic(path in "\\PC{0,20}", query in "\\PC{0,40}|(expires=[0-9]{0,21}|&|signature=|prefix=/|%2){0,5}") {
            prop_assert!(verify(&[key(1)], &Method::GET, &path, Some(&query), BEFORE).is_err());
        }
    }
}
