//! Byte ranges: from the value of a Range field to the parts of a file, and to what they look like on the wire
//! (RFC 9110 §14, §15.3.7).
//!
//! A Range field is a wish. Whatever is wrong with it, the right answer is the whole file; only a set that is well
//! formed and lies wholly behind the end is an error (416). So [`resolve`] has no error type: its four outcomes are
//! the four replies. Offsets are half-open here and become inclusive in the one place that prints them.
//!
//! The field is also an amplifier: `bytes=0-,0-,0-` asks for the file three times. The bounds of [`RangeLimits`], the
//! merging of near ranges and the sum at the end keep a reply from costing more than the file itself (RFC 9110 §17.15).
//! Merging was chosen over refusing, because players do ask for ranges that touch.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use memchr::memchr;

/// A run of bytes of a file: `start` inclusive, `end` exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset behind the last byte.
    pub end: u64,
}

impl ByteRange {
    /// How many bytes it holds.
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a Range field asks of a file of a known length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// The field is ignored: 200 and the whole file.
    Whole,
    /// One range, never empty: 206 with Content-Range.
    One(ByteRange),
    /// Two or more ranges, none empty, disjoint, in the order they were asked: 206 as multipart/byteranges.
    Several(Vec<ByteRange>),
    /// Well formed, but nothing of it exists: 416 with [`unsatisfied`].
    Unsatisfiable,
}

/// How much a set of ranges may ask before it is ignored. RFC 9110 §14.2 allows that for sets that look like an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeLimits {
    /// The most ranges in a set.
    pub ranges: usize,
    /// The most ranges that start before the one they follow.
    pub out_of_order: usize,
    /// Ranges with fewer bytes than this between them are merged. It is also what a part is reckoned to cost beside its
    /// data: "around 80 bytes" (RFC 9110 §15.3.7.2).
    pub coalesce_gap: u64,
}

impl Default for RangeLimits {
    fn default() -> Self {
        RangeLimits { ranges: 128, out_of_order: 10, coalesce_gap: 80 }
    }
}

/// What the Range field `value` asks of a file of `len` bytes.
///
/// Time is linear in the value and, past the first comma, `n log n` in the number of ranges; one range allocates
/// nothing.
pub fn resolve(value: &[u8], len: u64, limits: &RangeLimits) -> Resolved {
    let Some(set) = byte_range_set(value) else { return Resolved::Whole };
    if memchr(b',', set).is_some() {
        return resolve_set(set, len, limits);
    }
    match resolve_spec(set.trim_ascii(), len) {
        Ok(Some(range)) => one(range),
        Ok(None) => Resolved::Unsatisfiable,
        Err(Malformed) => Resolved::Whole,
    }
}

/// What a Range field asks of a file that still grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfGrowing {
    /// All of it, as it comes: 200.
    Whole,
    /// What exists of a range, never empty: 206 with [`content_range_of_growing`].
    One(ByteRange),
    /// All from `start` on, as it comes: 206 with the last position that the client named (RFC 8673 §2).
    Following {
        /// Offset of the first byte.
        start: u64,
        /// The position that stands for an end that nobody knows; inclusive.
        last: u64,
    },
    /// Nothing of it exists yet: 416 with [`unsatisfied`].
    Unsatisfiable,
}

/// From this last position on, a client means that it wants to follow a file that grows: 2⁵³ − 1, the "Very Large Value" that
/// programs can count to without loss (RFC 8673 §4).
const VERY_LARGE: u64 = (1 << 53) - 1;

/// The last one that can be told back as it was named: [`position`] makes `u64::MAX` of all that is larger.
const LARGEST: u64 = u64::MAX - 1;

/// What the Range field `value` asks of a file that still grows and has `len` bytes now.
///
/// `bytes=0-` is all of it, which has no end yet; players ask so for any file, and mean it. A set of several ranges is ignored.
pub fn resolve_growing(value: &[u8], len: u64) -> OfGrowing {
    let Some(set) = byte_range_set(value).map(<[u8]>::trim_ascii) else { return OfGrowing::Whole };
    if memchr(b',', set).is_some() || set == b"0-" {
        return OfGrowing::Whole;
    }
    let (first, last) = set.split_at(memchr(b'-', set).unwrap_or(0));
    if let (Ok(start), Ok(last @ VERY_LARGE..=LARGEST)) = (position(first), position(last.get(1..).unwrap_or_default()))
        && start <= len
    {
        return OfGrowing::Following { start, last };
    }
    match resolve_spec(set, len) {
        Ok(Some(range)) if !range.is_empty() => OfGrowing::One(range),
        Ok(_) => OfGrowing::Unsatisfiable,
        Err(Malformed) => OfGrowing::Whole,
    }
}

/// The value of Content-Range for `range` of a file of `len` bytes (RFC 9110 §14.4).
pub fn content_range(range: ByteRange, len: u64) -> ContentRange {
    ContentRange { range: Some(range), len: Some(len) }
}

/// The value of Content-Range for `range` of a file whose length is not known yet (RFC 9110 §14.4).
pub fn content_range_of_growing(range: ByteRange) -> ContentRange {
    ContentRange { range: Some(range), len: None }
}

/// The value of Content-Range in a 416 about a file of `len` bytes (RFC 9110 §15.5.17).
pub fn unsatisfied(len: u64) -> ContentRange {
    ContentRange { range: None, len: Some(len) }
}

/// The value of a Content-Range field; its text is what [`Display`](fmt::Display) writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    range: Option<ByteRange>,
    len: Option<u64>,
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.range {
            // The last position on the wire is inclusive; a range that is sent is never empty.
            Some(range) => write!(f, "bytes {}-{}/", range.start, range.end.saturating_sub(1))?,
            None => f.write_str("bytes */")?,
        }
        match self.len {
            Some(len) => write!(f, "{len}"),
            None => f.write_str("*"),
        }
    }
}

/// The body of a 206 with several ranges: a multipart/byteranges message without the files' bytes (RFC 9110 §14.6).
///
/// The reply is `head, data, head, data, …, closing`. Heads are made when they are asked for, so that a reply with many
/// parts holds sixteen bytes a part while it waits.
#[derive(Clone, Debug)]
pub struct Parts {
    ranges: Vec<ByteRange>,
    len: u64,
    content_type: Cow<'static, str>,
    boundary: String,
    total_len: u64,
}

impl Parts {
    /// The parts `ranges` of a file of `len` bytes and of this media type.
    ///
    /// The boundary must not occur in the file: 1 to 70 letters and digits (RFC 2046 §5.1.1), random, from the caller.
    pub fn new(
        ranges: Vec<ByteRange>,
        len: u64,
        content_type: impl Into<Cow<'static, str>>,
        boundary: impl Into<String>,
    ) -> Self {
        let (content_type, boundary) = (content_type.into(), boundary.into());
        let mut parts = Parts { ranges, len, content_type, boundary, total_len: 0 };
        let body = parts.iter().map(|(head, range)| range.len().saturating_add(head.len() as u64));
        parts.total_len = body.fold(parts.closing().len() as u64, u64::saturating_add);
        parts
    }

    /// The Content-Length of the reply, in bytes, exact.
    pub fn total_len(&self) -> u64 {
        self.total_len
    }

    /// The Content-Type of the reply; the file's own stands in each part.
    pub fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// Each part as the bytes that go before its data, and the range of the file that is its data.
    pub fn iter(&self) -> impl Iterator<Item = (Vec<u8>, ByteRange)> + '_ {
        self.ranges.iter().enumerate().map(|(index, &range)| {
            // The line break before a delimiter belongs to the delimiter (RFC 2046 §5.1.1); the first needs none.
            let line_break = if index == 0 { "" } else { "\r\n" };
            let (boundary, content_type) = (&self.boundary, &self.content_type);
            let content_range = content_range(range, self.len);
            let head = format!(
                "{line_break}--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: {content_range}\r\n\r\n"
            );
            (head.into_bytes(), range)
        })
    }

    /// The bytes that go after the last part's data.
    pub fn closing(&self) -> Vec<u8> {
        format!("\r\n--{}--\r\n", self.boundary).into_bytes()
    }
}

/// An element of the set that is no range-spec. It makes the whole field invalid (RFC 9110 §14.2).
struct Malformed;

/// What follows `bytes=`; `None` for another unit. Units compare without case (RFC 9110 §14.1).
fn byte_range_set(value: &[u8]) -> Option<&[u8]> {
    let equals = memchr(b'=', value)?;
    value[..equals].eq_ignore_ascii_case(b"bytes").then(|| &value[equals + 1..])
}

/// One range-spec against a file of `len` bytes: the bytes it selects, or `None` if it is unsatisfiable.
///
/// Only a suffix of an empty file gives an empty range: it is satisfiable (RFC 9110 §14.1.2), yet a Content-Range
/// cannot express it; see [`one`].
fn resolve_spec(spec: &[u8], len: u64) -> Result<Option<ByteRange>, Malformed> {
    let dash = memchr(b'-', spec).ok_or(Malformed)?;
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    if first.is_empty() {
        let suffix = position(last)?;
        return Ok((suffix > 0).then(|| ByteRange { start: len.saturating_sub(suffix), end: len }));
    }
    let start = position(first)?;
    // "If the last-pos value is absent, or if the value is greater than or equal to the current length […], the byte
    // range is interpreted as the remainder of the representation" (RFC 9110 §14.1.2).
    let end = if last.is_empty() {
        len
    } else if compare_positions(last, first, position(last)?, start) == Ordering::Less {
        return Err(Malformed);
    } else {
        position(last)?.saturating_add(1).min(len)
    };
    Ok((start < len).then_some(ByteRange { start, end }))
}

/// A position, `1*DIGIT`. What does not fit is behind the end of every file, and `u64::MAX` stands for it.
fn position(digits: &[u8]) -> Result<u64, Malformed> {
    if digits.is_empty() {
        return Err(Malformed);
    }
    digits.iter().try_fold(0u64, |value, &byte| match byte {
        b'0'..=b'9' => Ok(value.saturating_mul(10).saturating_add(u64::from(byte - b'0'))),
        _ => Err(Malformed),
    })
}

/// The order of two positions, by their digits when both are too large for their values to tell.
fn compare_positions(a: &[u8], b: &[u8], a_value: u64, b_value: u64) -> Ordering {
    if (a_value, b_value) != (u64::MAX, u64::MAX) {
        return a_value.cmp(&b_value);
    }
    let significant = |digits: &[u8]| digits.iter().position(|&d| d != b'0').unwrap_or(digits.len());
    let (a, b) = (&a[significant(a)..], &b[significant(b)..]);
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// The reply with a single range. An empty one can only be a suffix of an empty file, and that is all of it.
fn one(range: ByteRange) -> Resolved {
    if range.is_empty() { Resolved::Whole } else { Resolved::One(range) }
}

/// A set with commas in it: every element is read and bounded before any is merged.
fn resolve_set(set: &[u8], len: u64, limits: &RangeLimits) -> Resolved {
    let (mut specs, mut out_of_order) = (0, 0);
    let mut ranges: Vec<ByteRange> = Vec::new();
    for spec in set.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
        // "A recipient MUST parse and ignore a reasonable number of empty list elements" (RFC 9110 §5.6.1.2).
        if spec.is_empty() {
            continue;
        }
        specs += 1;
        let Ok(selected) = resolve_spec(spec, len) else { return Resolved::Whole };
        let Some(range) = selected else { continue };
        out_of_order += usize::from(ranges.last().is_some_and(|previous| range.start < previous.start));
        if specs > limits.ranges || out_of_order > limits.out_of_order {
            return Resolved::Whole;
        }
        ranges.push(range);
    }
    // An empty set is no set: the grammar wants at least one range-spec.
    if specs == 0 || specs > limits.ranges {
        return Resolved::Whole;
    }
    coalesce(&mut ranges, limits.coalesce_gap);
    match ranges[..] {
        [] => Resolved::Unsatisfiable,
        [range] => one(range),
        _ if cost(&ranges, limits.coalesce_gap) > len => Resolved::Whole,
        _ => Resolved::Several(ranges),
    }
}

/// Merges ranges that overlap, touch, or have fewer than `gap` bytes between them, "regardless of the order in which
/// the corresponding range-spec appeared" (RFC 9110 §15.3.7.2). What is merged stands where its first piece was asked.
fn coalesce(ranges: &mut Vec<ByteRange>, gap: u64) {
    let mut by_start: Vec<(usize, ByteRange)> = ranges.drain(..).enumerate().collect();
    by_start.sort_unstable_by_key(|&(asked, range)| (range.start, asked));
    by_start.dedup_by(|next, kept| {
        let near = next.1.start <= kept.1.end || next.1.start - kept.1.end < gap;
        if near {
            kept.0 = kept.0.min(next.0);
            kept.1.end = kept.1.end.max(next.1.end);
        }
        near
    });
    by_start.sort_unstable_by_key(|&(asked, _)| asked);
    ranges.extend(by_start.into_iter().map(|(_, range)| range));
}

/// What the ranges cost to send when a part costs `part_len` bytes beside its data.
fn cost(ranges: &[ByteRange], part_len: u64) -> u64 {
    ranges.iter().fold(0, |sum: u64, range| sum.saturating_add(range.len()).saturating_add(part_len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY: u64 = 0;
    const FILE: u64 = 1000;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange { start, end }
    }

    #[track_caller]
    fn check_growing(value: &str, expected: OfGrowing) {
        assert_eq!(resolve_growing(value.as_bytes(), FILE), expected, "{value}");
    }

    #[test]
    fn rfc8673_a_last_position_that_nothing_reaches_means_to_follow() {
        const LAST: u64 = (1 << 53) - 1;
        let following = |start, last| OfGrowing::Following { start, last };
        check_growing("bytes=0-9007199254740991", following(0, LAST));
        check_growing("bytes=1000-9007199254740991", following(1000, LAST));
        check_growing("bytes=7-9223372036854775807", following(7, i64::MAX as u64));
        check_growing("bytes=1001-9007199254740991", OfGrowing::Unsatisfiable);
        check_growing("bytes=5-9007199254740990", OfGrowing::One(range(5, 1000)));
        // What no number holds can't be told back.
        check_growing("bytes=5-99999999999999999999", OfGrowing::One(range(5, 1000)));
        let shown = content_range_of_growing(ByteRange { start: 7, end: LAST + 1 });
        assert_eq!(shown.to_string(), "bytes 7-9007199254740991/*");
    }

    #[test]
    fn of_a_file_that_grows_a_range_is_what_exists_of_it() {
        check_growing("bytes=0-", OfGrowing::Whole);
        check_growing("bytes=1-", OfGrowing::One(range(1, 1000)));
        check_growing("bytes=0-0", OfGrowing::One(range(0, 1)));
        check_growing("bytes=990-2000", OfGrowing::One(range(990, 1000)));
        check_growing("bytes=-10", OfGrowing::One(range(990, 1000)));
        check_growing("bytes=-2000", OfGrowing::One(range(0, 1000)));
        for unsatisfiable in ["bytes=1000-", "bytes=1000-1001", "bytes=-0"] {
            check_growing(unsatisfiable, OfGrowing::Unsatisfiable);
        }
        for ignored in ["", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-4", "bytes=0-1,5-6", "lines=0-1"] {
            check_growing(ignored, OfGrowing::Whole);
        }
        assert_eq!(resolve_growing(b"bytes=-1", EMPTY), OfGrowing::Unsatisfiable, "nothing has come yet");
    }

    fn several(ranges: &[(u64, u64)]) -> Resolved {
        Resolved::Several(ranges.iter().map(|&(start, end)| range(start, end)).collect())
    }

    #[track_caller]
    fn check(value: &str, len: u64, expected: Resolved) {
        assert_eq!(resolve(value.as_bytes(), len, &RangeLimits::default()), expected, "{value} of {len}");
    }

    #[track_caller]
    fn check_one(value: &str, len: u64, start: u64, end: u64) {
        check(value, len, Resolved::One(range(start, end)));
    }

    #[test]
    fn r4_what_is_not_a_valid_set_of_bytes_is_ignored() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes= ",
            "bytes=,",
            "bytes=, ,",
            "bytes=-",
            "bytes=--1",
            "bytes=a-b",
            "bytes=1",
            "bytes=5-4",
            "bytes=+1-2",
            "bytes=0x0-1",
            "bytes=0 -1",
            "bytes=0- 1",
            "bytes=0-1-2",
            "bytes=0-1;2-3",
            "bytes=0-1 2-3",
            "bytes=0-1,x",
            "bytes=2000-,5-4",
            "bytes 0-1",
            "bytes =0-1",
            " bytes=0-1",
            "items=0-1",
            "bytes=0-\u{0661}",
            "=0-1",
        ] {
            check(value, FILE, Resolved::Whole);
        }
    }

    #[test]
    fn r4_unit_without_case_and_empty_elements_are_legal() {
        check_one("BYTES=0-1", FILE, 0, 2);
        check_one("bytes=,0-1", FILE, 0, 2);
        check_one("bytes=0-1,", FILE, 0, 2);
        check_one("bytes= , \t0-1 ,,", FILE, 0, 2);
    }

    #[test]
    fn r4_no_number_of_digits_overflows() {
        let many = "9".repeat(400);
        check_one(&format!("bytes=1-{many}"), FILE, 1, FILE);
        check_one(&format!("bytes=-{many}"), FILE, 0, FILE);
        check(&format!("bytes={many}-"), FILE, Resolved::Unsatisfiable);
        check(&format!("bytes={many}-{many}"), FILE, Resolved::Unsatisfiable);
        check(&format!("bytes={many}-{many}"), u64::MAX, Resolved::Unsatisfiable);
        check_one(&format!("bytes={}1-2", "0".repeat(400)), FILE, 1, 3);
    }

    #[test]
    fn r4_last_before_first_is_invalid_even_beyond_u64() {
        check("bytes=99999999999999999999999-99999999999999999999998", FILE, Resolved::Whole);
        check("bytes=99999999999999999999999-00099999999999999999999", FILE, Resolved::Whole);
        check("bytes=99999999999999999999999-99999999999999999999999", FILE, Resolved::Unsatisfiable);
        check("bytes=99999999999999999999999-1", FILE, Resolved::Whole);
    }

    #[test]
    fn r5_ends_clamp() {
        check_one("bytes=0-999", FILE, 0, 1000);
        check_one("bytes=0-1000", FILE, 0, 1000);
        check_one("bytes=999-", FILE, 999, 1000);
        check_one("bytes=0-0", FILE, 0, 1);
        check_one("bytes=0-0", 1, 0, 1);
    }

    #[test]
    fn r5_first_behind_the_end_is_unsatisfiable() {
        check("bytes=1000-", FILE, Resolved::Unsatisfiable);
        check("bytes=1000-1001", FILE, Resolved::Unsatisfiable);
        check("bytes=-0", FILE, Resolved::Unsatisfiable);
        check("bytes=-000", FILE, Resolved::Unsatisfiable);
    }

    #[test]
    fn r5_suffix_longer_than_file() {
        check_one("bytes=-1", FILE, 999, 1000);
        check_one("bytes=-1000", FILE, 0, 1000);
        check_one("bytes=-1001", FILE, 0, 1000);
    }

    #[test]
    fn r5_empty_file() {
        check("bytes=0-", EMPTY, Resolved::Unsatisfiable);
        check("bytes=0-0", EMPTY, Resolved::Unsatisfiable);
        check("bytes=-0", EMPTY, Resolved::Unsatisfiable);
        // Satisfiable (RFC 9110 §14.1.2), but no Content-Range can say "nothing": the whole of nothing as 200.
        check("bytes=-5", EMPTY, Resolved::Whole);
        check("bytes=-5,-6", EMPTY, Resolved::Whole);
    }

    #[test]
    fn r6_some_satisfiable_are_served_and_none_is_an_error() {
        check_one("bytes=0-0,1000-", FILE, 0, 1);
        check_one("bytes=2000-,-1", FILE, 999, 1000);
        check("bytes=1000-,2000-3000,-0", FILE, Resolved::Unsatisfiable);
    }

    #[test]
    fn r8_order_as_asked() {
        check("bytes=0-9,500-509", FILE, several(&[(0, 10), (500, 510)]));
        check("bytes=500-509,0-9", FILE, several(&[(500, 510), (0, 10)]));
        check("bytes=500-509,0-9,-10", FILE, several(&[(500, 510), (0, 10), (990, 1000)]));
    }

    #[test]
    fn r9_near_ranges_become_one_where_the_first_was_asked() {
        check_one("bytes=0-9,10-19", FILE, 0, 20);
        check_one("bytes=10-19,0-9", FILE, 0, 20);
        check_one("bytes=0-99,20-29", FILE, 0, 100);
        check_one("bytes=0-9,89-99", FILE, 0, 100);
        check("bytes=0-9,90-99", FILE, several(&[(0, 10), (90, 100)]));
        check("bytes=500-509,0-9,515-519", FILE, several(&[(500, 520), (0, 10)]));
        check("bytes=515-519,0-9,500-509", FILE, several(&[(500, 520), (0, 10)]));
        check_one("bytes=0-,0-,0-", FILE, 0, FILE);
    }

    #[test]
    fn r9_touching_ranges_merge_without_a_gap_to_bridge() {
        let limits = RangeLimits { coalesce_gap: 0, ..RangeLimits::default() };
        assert_eq!(resolve(b"bytes=0-9,5-19,20-29", FILE, &limits), Resolved::One(range(0, 30)));
        assert_eq!(resolve(b"bytes=0-9,11-19", FILE, &limits), several(&[(0, 10), (11, 20)]));
    }

    #[test]
    fn r9_more_than_the_file_is_the_file() {
        check("bytes=0-399,600-999", 1000, several(&[(0, 400), (600, 1000)]));
        check("bytes=0-449,550-999", 1000, Resolved::Whole);
        check("bytes=0-0,-1", 162, several(&[(0, 1), (161, 162)]));
        check("bytes=0-0,-1", 161, Resolved::Whole);
    }

    #[test]
    fn r9_at_most_128_ranges() {
        let set = |n: usize| format!("bytes={}", (0..n).map(|i| format!("{0}-{0},", i * 1000)).collect::<String>());
        assert!(matches!(
            resolve(set(128).as_bytes(), 1 << 20, &RangeLimits::default()),
            Resolved::Several(ranges) if ranges.len() == 128
        ));
        check(&set(129), 1 << 20, Resolved::Whole);
        check(&format!("bytes={}", "5000-,".repeat(128)), FILE, Resolved::Unsatisfiable);
        check(&format!("bytes={}", "5000-,".repeat(129)), FILE, Resolved::Whole);
        check(&format!("bytes={}", "0-0,".repeat(129)), FILE, Resolved::Whole);
    }

    #[test]
    fn r9_at_most_ten_out_of_order() {
        let descending = |n: u64| {
            let set: String = (0..n).rev().map(|i| format!("{0}-{0},", i * 1000)).collect();
            resolve(format!("bytes={set}").as_bytes(), 1 << 20, &RangeLimits::default())
        };
        assert!(matches!(descending(11), Resolved::Several(ranges) if ranges.len() == 11));
        assert_eq!(descending(12), Resolved::Whole);
    }

    #[test]
    fn r13_what_safari_asks_first() {
        check_one("bytes=0-1", FILE, 0, 2);
        check_one("bytes=0-", FILE, 0, FILE);
        check_one("bytes=0-", 6 << 30, 0, 6 << 30);
    }

    #[test]
    fn r14_beyond_four_gib() {
        check_one("bytes=5368709120-5368709129", 6 << 30, 5_368_709_120, 5_368_709_130);
        check_one("bytes=18446744073709551613-", u64::MAX, u64::MAX - 2, u64::MAX);
        check_one("bytes=0-18446744073709551615", u64::MAX, 0, u64::MAX);
    }

    #[test]
    fn r6_r7_content_range_is_inclusive_on_the_wire() {
        assert_eq!(content_range(range(0, 1), 26).to_string(), "bytes 0-0/26");
        assert_eq!(content_range(range(5_368_709_120, 5_368_709_130), 6 << 30).to_string(), {
            "bytes 5368709120-5368709129/6442450944"
        });
        assert_eq!(unsatisfied(0).to_string(), "bytes */0");
    }

    #[test]
    fn r8_parts_on_the_wire() {
        let parts = Parts::new(vec![range(500, 503), range(0, 2)], 1000, "video/mp4", "xyz");
        assert_eq!(parts.content_type(), "multipart/byteranges; boundary=xyz");
        let mut wire = Vec::new();
        for (head, range) in parts.iter() {
            wire.extend_from_slice(&head);
            wire.resize(wire.len() + range.len() as usize, b'.');
        }
        wire.extend_from_slice(&parts.closing());
        assert_eq!(
            String::from_utf8_lossy(&wire),
            "--xyz\r\nContent-Type: video/mp4\r\nContent-Range: bytes 500-502/1000\r\n\r\n...\r\n\
             --xyz\r\nContent-Type: video/mp4\r\nContent-Range: bytes 0-1/1000\r\n\r\n..\r\n--xyz--\r\n"
        );
        assert_eq!(parts.total_len(), wire.len() as u64);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn r4_any_bytes_resolve_within_the_file(value in "(bytes=)?[-0-9, a]{0,60}", len in 0u64..5000) {
            check_invariants(value.as_bytes(), len);
        }

        #[test]
        fn r9_a_set_selects_what_its_pieces_select(
            asked in proptest::collection::vec((0u64..4000, 1u64..300), 2..12),
            len in 1u64..5000,
        ) {
            let set: Vec<String> = asked.iter().map(|(start, n)| format!("{start}-{}", start + n - 1)).collect();
            let value = format!("bytes={}", set.join(","));
            check_invariants(value.as_bytes(), len);
            let served = match resolve(value.as_bytes(), len, &RangeLimits::default()) {
                Resolved::Whole => vec![range(0, len)],
                Resolved::One(range) => vec![range],
                Resolved::Several(ranges) => ranges,
                Resolved::Unsatisfiable => vec![],
            };
            for (start, n) in asked {
                for wanted in (start..start + n).filter(|&at| at < len) {
                    prop_assert!(served.iter().any(|r| r.start <= wanted && wanted < r.end), "{wanted} of {value}");
                }
            }
        }
    }

    fn check_invariants(value: &[u8], len: u64) {
        match resolve(value, len, &RangeLimits::default()) {
            Resolved::Whole | Resolved::Unsatisfiable => {}
            Resolved::One(range) => assert!(range.start < range.end && range.end <= len),
            Resolved::Several(mut ranges) => {
                assert!(ranges.len() >= 2);
                assert!(ranges.iter().map(|range| range.len() + 80).sum::<u64>() <= len);
                ranges.sort_by_key(|range| range.start);
                assert!(ranges.iter().all(|range| range.start < range.end && range.end <= len));
                assert!(ranges.windows(2).all(|pair| pair[1].start - pair[0].end >= 80));
            }
        }
    }
}
