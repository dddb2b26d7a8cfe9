//! Validators and conditions: is what the client holds still the file, and may a range be joined to it
//! (RFC 9110 §8.8, §13)?
//!
//! [`Validators`] say what version a file is, [`evaluate`] holds a request's conditions against them. The verdict
//! carries the Range value that is left to resolve, so that the rules on when Range counts are kept here and nowhere
//! else. The fields are walked once: most requests have no condition, and must not pay for five searches to learn
//! that.
//!
//! An entity tag spells out inode, length and both times in hexadecimal. A hash would be shorter, but two files with
//! one tag would be mixed into one by a client that resumes; spelled out, that can't happen.

use std::fmt::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use http::Method;
use httpdate::HttpDate;

use crate::proto::content_coding::Coding;
use crate::proto::fields::Fields;

/// The fields of the 200 that a 304 repeats, if the 200 would have them (RFC 9110 §15.4.5).
pub const REPEATED_IN_NOT_MODIFIED: [&str; 6] =
    ["Cache-Control", "Content-Location", "Date", "ETag", "Expires", "Vary"];

/// What tells one version of a file from another: the facts of one `fstat` of the descriptor that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileVersion {
    /// The inode's number.
    pub inode: u64,
    /// Length in bytes.
    pub len: u64,
    /// mtime in nanoseconds since the epoch, negative before it.
    pub modified_ns: i64,
    /// ctime in nanoseconds since the epoch. It can't be set, so it betrays a change that hides its mtime.
    pub changed_ns: i64,
}

/// The validators of one representation.
#[derive(Clone, Copy, Debug)]
pub struct Validators {
    /// The entity tag.
    pub etag: EntityTag,
    /// Last-Modified, in seconds since the epoch.
    pub modified: u64,
    /// Whether `modified` may serve as a strong validator (RFC 9110 §8.8.2.2).
    pub modified_is_strong: bool,
}

impl Validators {
    /// The validators of a file as it stands at `now_ns` (nanoseconds since the epoch), stored under `coding`.
    ///
    /// They are settled, the same for every later `now_ns`, once the file is [`SETTLED_AFTER_NS`] old.
    pub fn of_file(version: &FileVersion, coding: Option<Coding>, now_ns: i64) -> Self {
        let seconds = |ns: i64| u64::try_from(ns / NS_PER_S).unwrap_or(0);
        // "If the last modification time is derived from implementation-specific metadata that evaluates to some time
        // in the future […] the origin server MUST replace that value with the message origination date" (§8.8.2.1).
        let modified = seconds(version.modified_ns).min(seconds(now_ns));
        Validators {
            etag: EntityTag::of_file(version, coding, now_ns),
            modified,
            // The date is strong if the file did not change twice in the second it names. That can be known only when
            // the second is over. RFC 7232 waited a minute, in case Date and Last-Modified came from different clocks;
            // RFC 9110 waits "at least one second", and here kernel and server share the clock.
            modified_is_strong: seconds(now_ns) > seconds(version.modified_ns),
        }
    }

    /// The value of Last-Modified.
    pub fn last_modified(&self) -> HttpDate {
        HttpDate::from(UNIX_EPOCH + Duration::from_secs(self.modified.min(LAST_HTTP_SECOND)))
    }
}

/// How old a file must be for its entity tag to be strong, in nanoseconds.
///
/// Two writes within one tick of the clock that stamps files leave the same mtime and, of equal length, the same tag.
/// The kernel's tick is at most 10 ms, but what is stored is coarser: 1 s on ext3 and many network shares, 2 s on FAT.
/// Two seconds bound them all, and cost a file no more than two seconds of weak tags.
pub const SETTLED_AFTER_NS: i64 = 2 * NS_PER_S;

/// An entity tag as it stands in the field, quotes and `W/` included.
#[derive(Clone, Copy)]
pub struct EntityTag {
    bytes: [u8; EntityTag::CAPACITY],
    len: u8,
}

impl EntityTag {
    /// `W/`, two quotes, four numbers of sixteen digits, three dashes, and a dash with the longest coding.
    const CAPACITY: usize = 2 + 2 + 4 * 16 + 3 + 5;

    /// The tag of a file as it stands at `now_ns` (nanoseconds since the epoch), stored under `coding`.
    ///
    /// Representations that differ in their coding differ in their tag (RFC 9110 §8.8.3.3). The tag is weak while the
    /// file is younger than [`SETTLED_AFTER_NS`], or comes from the future.
    pub fn of_file(version: &FileVersion, coding: Option<Coding>, now_ns: i64) -> Self {
        let mut tag = EntityTag { bytes: [0; EntityTag::CAPACITY], len: 0 };
        if now_ns.saturating_sub(version.modified_ns) < SETTLED_AFTER_NS {
            tag.push(b"W/");
        }
        tag.push(b"\"");
        tag.push_hex(version.inode);
        for number in [version.len, version.modified_ns as u64, version.changed_ns as u64] {
            tag.push(b"-");
            tag.push_hex(number);
        }
        if let Some(coding) = coding {
            tag.push(b"-");
            tag.push(coding.token().as_bytes());
        }
        tag.push(b"\"");
        tag
    }

    /// The value of the ETag field.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Whether it is good for If-None-Match only.
    pub fn is_weak(&self) -> bool {
        self.bytes[0] == b'W'
    }

    /// Whether both are strong and equal (RFC 9110 §8.8.3.2).
    fn matches_strongly(&self, presented: &[u8]) -> bool {
        !self.is_weak() && self.as_bytes() == presented
    }

    /// Whether they are equal but for the `W/` (RFC 9110 §8.8.3.2).
    fn matches_weakly(&self, presented: &[u8]) -> bool {
        without_weakness(self.as_bytes()) == without_weakness(presented)
    }

    fn push(&mut self, bytes: &[u8]) {
        let start = usize::from(self.len);
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }

    fn push_hex(&mut self, number: u64) {
        let digits = (67 - number.leading_zeros()).max(4) / 4;
        for place in (0..digits).rev() {
            self.push(&[b"0123456789abcdef"[(number >> (4 * place)) as usize & 0xf]]);
        }
    }
}

impl fmt::Display for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|&byte| f.write_char(char::from(byte)))
    }
}

impl fmt::Debug for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the conditions of a request come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'f> {
    /// Perform the method. `range` is the value of the Range field if there is one that counts: with any other method
    /// than GET, or a false If-Range, it does not.
    Proceed {
        /// What [`resolve`](crate::proto::range::resolve) is to be asked, or `None` for the whole file.
        range: Option<&'f [u8]>,
    },
    /// 304, without a body.
    NotModified,
    /// 412.
    PreconditionFailed,
}

/// Holds the conditions of a request against the validators of the file it asks for.
///
/// The steps are those of RFC 9110 §13.2.2, in its order:
/// 1. If-Match, which hides
/// 2. If-Unmodified-Since;
/// 3. If-None-Match, which hides
/// 4. If-Modified-Since;
/// 5. If-Range.
pub fn evaluate<'f>(method: &Method, fields: &'f Fields, validators: &Validators) -> Verdict<'f> {
    // §13.2.1: methods that select no representation ignore conditions.
    if matches!(*method, Method::OPTIONS | Method::TRACE | Method::CONNECT) {
        return Verdict::Proceed { range: None };
    }
    let found = Found::within(fields);
    let reads = matches!(*method, Method::GET | Method::HEAD);

    if found.if_match {
        if !any_tag(fields, "if-match", |tag| validators.etag.matches_strongly(tag)) {
            return Verdict::PreconditionFailed;
        }
    } else if found.if_unmodified_since.date().is_some_and(|date| validators.modified > date) {
        return Verdict::PreconditionFailed;
    }

    if found.if_none_match {
        if any_tag(fields, "if-none-match", |tag| validators.etag.matches_weakly(tag)) {
            return if reads { Verdict::NotModified } else { Verdict::PreconditionFailed };
        }
    } else if reads && found.if_modified_since.date().is_some_and(|date| validators.modified <= date) {
        return Verdict::NotModified;
    }

    // "A server MUST ignore a Range header field received with a request method that is unrecognized or for which range
    // handling is not defined" (§14.2), and defines it for GET alone. Two Range lines make one invalid set.
    let range = match found.range {
        Once::One(range) if *method == Method::GET && may_join(found.if_range, validators) => Some(range),
        _ => None,
    };
    Verdict::Proceed { range }
}

const NS_PER_S: i64 = 1_000_000_000;

/// 9999-12-31T23:59:59Z, the last second that an HTTP-date has digits for.
const LAST_HTTP_SECOND: u64 = 253_402_300_799;

/// The conditions that a request carries.
struct Found<'f> {
    if_match: bool,
    if_none_match: bool,
    if_unmodified_since: Once<'f>,
    if_modified_since: Once<'f>,
    if_range: Once<'f>,
    range: Once<'f>,
}

impl<'f> Found<'f> {
    fn within(fields: &'f Fields) -> Self {
        let mut found = Found {
            if_match: false,
            if_none_match: false,
            if_unmodified_since: Once::Absent,
            if_modified_since: Once::Absent,
            if_range: Once::Absent,
            range: Once::Absent,
        };
        for (name, value) in fields.iter() {
            // The length rules out almost every field before a name is compared.
            match name.len() {
                5 if name.eq_ignore_ascii_case(b"range") => found.range.add(value),
                8 if name.eq_ignore_ascii_case(b"if-range") => found.if_range.add(value),
                8 if name.eq_ignore_ascii_case(b"if-match") => found.if_match = true,
                13 if name.eq_ignore_ascii_case(b"if-none-match") => found.if_none_match = true,
                17 if name.eq_ignore_ascii_case(b"if-modified-since") => found.if_modified_since.add(value),
                19 if name.eq_ignore_ascii_case(b"if-unmodified-since") => found.if_unmodified_since.add(value),
                _ => {}
            }
        }
        found
    }
}

/// The value of a field that is no list. Sent twice, it has no valid value.
#[derive(Clone, Copy)]
enum Once<'f> {
    Absent,
    One(&'f [u8]),
    Repeated,
}

impl<'f> Once<'f> {
    fn add(&mut self, value: &'f [u8]) {
        *self = match self {
            Once::Absent => Once::One(value),
            Once::One(_) | Once::Repeated => Once::Repeated,
        };
    }

    /// The date in it, in seconds since the epoch.
    ///
    /// "A recipient MUST ignore the […] header field if the received field value is not a valid HTTP-date, [or] has
    /// more than one member" (§13.1.3, §13.1.4).
    fn date(self) -> Option<u64> {
        match self {
            Once::One(value) => parse_date(value),
            Once::Absent | Once::Repeated => None,
        }
    }
}

/// Whether a range of this version may be joined to what the client holds (§13.1.5). Without If-Range, it says so
/// itself.
fn may_join(if_range: Once<'_>, validators: &Validators) -> bool {
    match if_range {
        Once::Absent => true,
        Once::Repeated => false,
        // "A valid entity-tag can be distinguished from a valid HTTP-date by examining the first three characters for a
        // DQUOTE" (§13.1.5).
        Once::One(value) if value.iter().take(3).any(|&byte| byte == b'"') => validators.etag.matches_strongly(value),
        // "If the HTTP-date validator provided exactly matches the Last-Modified field value" – not later, not earlier.
        Once::One(value) => validators.modified_is_strong && parse_date(value) == Some(validators.modified),
    }
}

/// An HTTP-date, in the preferred or either obsolete form (§5.6.7), in seconds since the epoch.
fn parse_date(value: &[u8]) -> Option<u64> {
    let date = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// Whether the field, on however many lines, is `*` or lists a tag that `matches`.
fn any_tag(fields: &Fields, name: &str, mut matches: impl FnMut(&[u8]) -> bool) -> bool {
    fields.get_all(name).any(|list| list == b"*" || elements(list).any(&mut matches))
}

/// The elements of a list. One that is no entity tag equals none of ours, and so needs no look of its own: a list is not
/// worth refusing a request for.
fn elements(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(list);
    std::iter::from_fn(move || {
        let here = rest?;
        let len = element_len(here);
        rest = here.get(len + 1..);
        Some(here[..len].trim_ascii())
    })
}

/// The length of the list element that `rest` begins with; a comma between quotes is part of it (§8.8.3).
fn element_len(rest: &[u8]) -> usize {
    let mut quoted = false;
    let comma = rest.iter().position(|&byte| {
        quoted ^= byte == b'"';
        byte == b',' && !quoted
    });
    comma.unwrap_or(rest.len())
}

/// The tag without its `W/`, which has case (§8.8.3).
fn without_weakness(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110 §5.6.7.
    const MODIFIED: u64 = 784_111_777;
    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const TAG: &str = "\"1-2-ae1b981bc490a00-4\"";
    const OTHER: &str = "\"other\"";
    const HOUR_NS: i64 = 3600 * NS_PER_S;

    fn version() -> FileVersion {
        FileVersion { inode: 1, len: 2, modified_ns: MODIFIED as i64 * NS_PER_S, changed_ns: 4 }
    }

    fn settled() -> Validators {
        Validators::of_file(&version(), None, version().modified_ns + HOUR_NS)
    }

    fn fresh() -> Validators {
        Validators::of_file(&version(), None, version().modified_ns)
    }

    #[track_caller]
    fn check_with(validators: &Validators, method: Method, pairs: &[(&str, &str)], expected: Verdict<'_>) {
        let fields = Fields::from_pairs(pairs.iter().copied());
        assert_eq!(evaluate(&method, &fields, validators), expected, "{method} {pairs:?}");
    }

    #[track_caller]
    fn check(method: Method, pairs: &[(&str, &str)], expected: Verdict<'_>) {
        check_with(&settled(), method, pairs, expected);
    }

    const WHOLE: Verdict<'static> = Verdict::Proceed { range: None };
    const RANGE: Verdict<'static> = Verdict::Proceed { range: Some(b"bytes=0-1") };

    #[test]
    fn r1_no_condition_proceeds() {
        check(Method::GET, &[("Host", "a")], WHOLE);
        check(Method::GET, &[("RANGE", "bytes=0-1")], RANGE);
    }

    #[test]
    fn r1_if_match() {
        check(Method::GET, &[("If-Match", TAG)], WHOLE);
        check(Method::GET, &[("If-Match", "*")], WHOLE);
        check(Method::GET, &[("If-Match", OTHER)], Verdict::PreconditionFailed);
        check(Method::HEAD, &[("If-Match", "")], Verdict::PreconditionFailed);
        check(Method::PUT, &[("If-Match", OTHER)], Verdict::PreconditionFailed);
    }

    #[test]
    fn r1_if_match_hides_if_unmodified_since() {
        check(Method::GET, &[("If-Match", TAG), ("If-Unmodified-Since", EARLIER)], WHOLE);
        check(Method::GET, &[("If-Match", OTHER), ("If-Unmodified-Since", LATER)], Verdict::PreconditionFailed);
    }

    #[test]
    fn r1_if_unmodified_since() {
        check(Method::GET, &[("If-Unmodified-Since", EARLIER)], Verdict::PreconditionFailed);
        check(Method::GET, &[("If-Unmodified-Since", SAME)], WHOLE);
        check(Method::GET, &[("If-Unmodified-Since", LATER)], WHOLE);
        check(Method::GET, &[("If-Unmodified-Since", "yesterday")], WHOLE);
        check(Method::GET, &[("If-Unmodified-Since", EARLIER), ("If-Unmodified-Since", EARLIER)], WHOLE);
    }

    #[test]
    fn r1_if_none_match() {
        check(Method::GET, &[("If-None-Match", TAG)], Verdict::NotModified);
        check(Method::HEAD, &[("If-None-Match", "*")], Verdict::NotModified);
        check(Method::POST, &[("If-None-Match", TAG)], Verdict::PreconditionFailed);
        check(Method::PUT, &[("If-None-Match", "*")], Verdict::PreconditionFailed);
        check(Method::GET, &[("If-None-Match", OTHER)], WHOLE);
    }

    #[test]
    fn r1_if_none_match_hides_if_modified_since() {
        check(Method::GET, &[("If-None-Match", OTHER), ("If-Modified-Since", LATER)], WHOLE);
        check(Method::GET, &[("If-Modified-Since", EARLIER), ("If-None-Match", TAG)], Verdict::NotModified);
        check(Method::GET, &[("If-None-Match", "malformed"), ("If-Modified-Since", LATER)], WHOLE);
    }

    #[test]
    fn r1_if_modified_since() {
        check(Method::GET, &[("If-Modified-Since", EARLIER)], WHOLE);
        check(Method::GET, &[("If-Modified-Since", SAME)], Verdict::NotModified);
        check(Method::HEAD, &[("If-Modified-Since", LATER)], Verdict::NotModified);
        check(Method::POST, &[("If-Modified-Since", LATER)], WHOLE);
    }

    #[test]
    fn r1_every_form_of_a_date_and_nothing_else() {
        for date in ["Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", SAME] {
            check(Method::GET, &[("If-Modified-Since", date)], Verdict::NotModified);
        }
        for date in [
            "",
            "0",
            "Sun, 31 Feb 2094 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "784111777",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Fri, 31 Dec 1920 00:00:00 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
            "\u{e9}",
        ] {
            check(Method::GET, &[("If-Modified-Since", date)], WHOLE);
        }
    }

    #[test]
    fn r1_failed_precondition_goes_before_not_modified() {
        check(Method::GET, &[("If-None-Match", TAG), ("If-Match", OTHER)], Verdict::PreconditionFailed);
        check(Method::GET, &[("If-Match", TAG), ("If-None-Match", TAG), ("Range", "bytes=0-1")], Verdict::NotModified);
    }

    #[test]
    fn r1_options_has_no_conditions() {
        check(Method::OPTIONS, &[("If-Match", OTHER), ("Range", "bytes=0-1")], WHOLE);
    }

    #[test]
    fn r2_if_match_compares_strongly_if_none_match_weakly() {
        let weak = format!("W/{TAG}");
        check(Method::GET, &[("If-Match", &weak)], Verdict::PreconditionFailed);
        check(Method::GET, &[("If-None-Match", &weak)], Verdict::NotModified);
        for presented in [TAG, &weak] {
            check_with(&fresh(), Method::GET, &[("If-Match", presented)], Verdict::PreconditionFailed);
            check_with(&fresh(), Method::GET, &[("If-None-Match", presented)], Verdict::NotModified);
        }
    }

    #[test]
    fn r2_lists_of_tags() {
        let found = [
            format!("{OTHER}, {TAG}"),
            format!(",,\t{TAG} ,"),
            format!("\"with, comma\",{TAG}"),
            format!("unquoted, {TAG}"),
            format!("W/\"\", \"\", {TAG}, \"open"),
            format!("w/{OTHER}, {TAG}"),
        ];
        for list in &found {
            check(Method::GET, &[("If-None-Match", list)], Verdict::NotModified);
        }
        let inner = TAG.trim_matches('"');
        let not_found = [
            inner.to_string(),
            format!("w/{TAG}"),
            format!("W/ {TAG}"),
            format!("{TAG}x"),
            format!("x{TAG}"),
            format!("\"{inner}"),
            format!("\"a,{TAG}"),
            "\"".to_string(),
            "*, *".to_string(),
        ];
        for list in &not_found {
            check(Method::GET, &[("If-None-Match", list)], WHOLE);
        }
        check(Method::GET, &[("If-None-Match", OTHER), ("if-none-match", TAG)], Verdict::NotModified);
        check(Method::GET, &[("If-Match", OTHER), ("if-match", TAG)], WHOLE);
    }

    #[test]
    fn r2_if_range_with_a_tag() {
        let joined = |if_range: &str, expected| {
            check(Method::GET, &[("Range", "bytes=0-1"), ("If-Range", if_range)], expected);
        };
        joined(TAG, RANGE);
        joined(OTHER, WHOLE);
        joined(&format!("W/{TAG}"), WHOLE);
        joined(&format!("{TAG}, {OTHER}"), WHOLE);
        joined("*", WHOLE);
        joined("", WHOLE);
        for presented in [TAG, &format!("W/{TAG}")] {
            check_with(&fresh(), Method::GET, &[("Range", "bytes=0-1"), ("If-Range", presented)], WHOLE);
        }
        check(Method::GET, &[("Range", "bytes=0-1"), ("If-Range", TAG), ("If-Range", TAG)], WHOLE);
    }

    #[test]
    fn r2_if_range_with_a_date() {
        check(Method::GET, &[("Range", "bytes=0-1"), ("If-Range", SAME)], RANGE);
        check(Method::GET, &[("Range", "bytes=0-1"), ("If-Range", EARLIER)], WHOLE);
        check(Method::GET, &[("Range", "bytes=0-1"), ("If-Range", LATER)], WHOLE);
        check(Method::GET, &[("Range", "bytes=0-1"), ("If-Range", "today")], WHOLE);
        check_with(&fresh(), Method::GET, &[("Range", "bytes=0-1"), ("If-Range", SAME)], WHOLE);
    }

    #[test]
    fn r2_date_is_strong_when_its_second_is_over() {
        let strong_after = |ns| {
            let version = FileVersion { modified_ns: version().modified_ns + 900_000_000, ..version() };
            Validators::of_file(&version, None, version.modified_ns + ns).modified_is_strong
        };
        assert!(!strong_after(-NS_PER_S));
        assert!(!strong_after(0));
        assert!(!strong_after(99_999_999));
        assert!(strong_after(100_000_000));
    }

    #[test]
    fn r3_range_counts_for_get_only() {
        check(Method::HEAD, &[("Range", "bytes=0-1")], WHOLE);
        check(Method::POST, &[("Range", "bytes=0-1"), ("If-Range", TAG)], WHOLE);
        check(Method::GET, &[("If-Range", OTHER)], WHOLE);
    }

    #[test]
    fn r4_two_range_fields_are_an_invalid_set() {
        check(Method::GET, &[("Range", "bytes=0-1"), ("Range", "bytes=4-5")], WHOLE);
    }

    #[track_caller]
    fn check_tag(version: FileVersion, coding: Option<Coding>, age_ns: i64, expected: &str) {
        let tag = EntityTag::of_file(&version, coding, version.modified_ns.saturating_add(age_ns));
        assert_eq!(tag.to_string(), expected);
        assert_eq!(tag.as_bytes(), expected.as_bytes());
        assert_eq!(tag.is_weak(), expected.starts_with("W/"));
    }

    #[test]
    fn r11_tag_differs_by_coding() {
        check_tag(version(), None, HOUR_NS, TAG);
        check_tag(version(), Some(Coding::Gzip), HOUR_NS, "\"1-2-ae1b981bc490a00-4-gzip\"");
        check_tag(version(), Some(Coding::Brotli), 0, "W/\"1-2-ae1b981bc490a00-4-br\"");
    }

    #[test]
    fn r12_tag_is_weak_while_young() {
        check_tag(version(), None, SETTLED_AFTER_NS, TAG);
        check_tag(version(), None, SETTLED_AFTER_NS - 1, &format!("W/{TAG}"));
        check_tag(version(), None, -HOUR_NS, &format!("W/{TAG}"));
        let oldest = FileVersion { modified_ns: i64::MIN, ..version() };
        assert!(!EntityTag::of_file(&oldest, None, i64::MAX).is_weak());
    }

    #[test]
    fn r12_tag_holds_every_number_whole() {
        let zero = FileVersion { inode: 0, len: 0, modified_ns: 0, changed_ns: 0 };
        check_tag(zero, None, HOUR_NS, "\"0-0-0-0\"");
        let full = FileVersion { inode: u64::MAX, len: 0x10, modified_ns: -1, changed_ns: i64::MIN };
        check_tag(full, None, HOUR_NS, "\"ffffffffffffffff-10-ffffffffffffffff-8000000000000000\"");
        let longest = FileVersion { inode: u64::MAX, len: u64::MAX, modified_ns: -1, changed_ns: -1 };
        let digits = "f".repeat(16);
        check_tag(longest, Some(Coding::Gzip), 0, &format!("W/\"{digits}-{digits}-{digits}-{digits}-gzip\""));
    }

    #[test]
    fn last_modified_is_never_later_than_now_and_never_a_panic() {
        let at = |modified_ns, now_ns| {
            let version = FileVersion { modified_ns, ..version() };
            Validators::of_file(&version, None, now_ns).last_modified().to_string()
        };
        assert_eq!(at(MODIFIED as i64 * NS_PER_S, i64::MAX), SAME);
        assert_eq!(at(i64::MAX, MODIFIED as i64 * NS_PER_S), SAME);
        assert_eq!(at(i64::MIN, i64::MAX), "Thu, 01 Jan 1970 00:00:00 GMT");
        let far = Validators { modified: u64::MAX, ..settled() };
        assert_eq!(far.last_modified().to_string(), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn r10_what_a_304_repeats() {
        assert_eq!(REPEATED_IN_NOT_MODIFIED.join(" "), "Cache-Control Content-Location Date ETag Expires Vary");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn r2_any_value_is_answered(value in "[W/\"*, a0-9]{0,40}|\\PC{0,40}") {
            let names = ["If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"];
            for name in names {
                let fields = Fields::from_pairs([(name, value.as_str()), ("Range", "bytes=0-1")]);
                evaluate(&Method::GET, &fields, &settled());
            }
        }

        #[test]
        fn r2_a_tag_in_a_list_of_tags_is_found(others in proptest::collection::vec("(W/)?\"[!#-~]{0,8}\"", 0..4)) {
            let mut list = others;
            list.insert(list.len() / 2, TAG.to_string());
            check(Method::GET, &[("If-None-Match", &list.join(" , "))], Verdict::NotModified);
        }
    }
}
