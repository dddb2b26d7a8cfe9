//! What a directory holds, its form as JSON, and how its parts are written; the page for people is made by [`super::library`].
//!
//! Pure rendering: the caller reads the directory and leaves out what is not to be seen. A name that is not UTF-8 is shown with
//! replacement characters and linked byte by byte.

use std::borrow::Cow;
use std::fmt;

use serde_json::json;

use crate::proto::target;

/// What is shown of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The entries, in no order.
    pub entries: Vec<Entry>,
    /// Whether there are more than are listed.
    pub truncated: bool,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name, without a slash.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Length in bytes; of no meaning for a directory.
    pub len: u64,
    /// When it was last modified, in seconds since the epoch.
    pub modified: u64,
}

/// What an entry of a directory is; others are not listed, because they are not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// A directory; its name is shown and linked with a slash behind it.
    Directory,
    /// A regular file.
    File,
}

/// The directory `path`, decoded, with a slash at its start and its end, as JSON: `{"path", "entries": [{"name", "href", "type", "size", "modified"}], "truncated"}`.
///
/// `type` is `directory` or `file`, `size` is in bytes and null for a directory, `modified` is in UTC (RFC 3339), and
/// `href` is the link of the page, exact even where `name` had to be made readable.
pub fn json<'a>(path: &'a [u8], listing: &'a Listing) -> impl fmt::Display + 'a {
    Json { path: String::from_utf8_lossy(path), entries: sorted(&listing.entries), truncated: listing.truncated }
}

/// Directories first, then by name, byte by byte: the one order that is the same in every language.
pub fn sorted(entries: &[Entry]) -> Vec<&Entry> {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    sorted
}

/// The page as JSON, one entry after the other: a tree of them all would take many times the memory of its text.
struct Json<'a> {
    path: Cow<'a, str>,
    entries: Vec<&'a Entry>,
    truncated: bool,
}

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Json { path, entries, truncated } = self;
        write!(f, "{{\"path\":{},\"entries\":[", json!(path))?;
        for (index, entry) in entries.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}", json_entry(entry))?;
        }
        write!(f, "],\"truncated\":{truncated}}}")
    }
}

fn json_entry(entry: &Entry) -> serde_json::Value {
    let (kind, size) = match entry.kind {
        EntryKind::Directory => ("directory", None),
        EntryKind::File => ("file", Some(entry.len)),
    };
    json!({
        "name": String::from_utf8_lossy(&entry.name),
        "href": Href(entry).to_string(),
        "type": kind,
        "size": size,
        "modified": Utc(entry.modified).to_string(),
    })
}

/// The link to an entry, relative to its directory.
pub struct Href<'a>(pub &'a Entry);

impl fmt::Display for Href<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", target::encode_segment(&self.0.name), slash_of(self.0))
    }
}

/// What is behind the name of an entry.
pub fn slash_of(entry: &Entry) -> &'static str {
    match entry.kind {
        EntryKind::Directory => "/",
        EntryKind::File => "",
    }
}

/// Text that is safe between tags and between quotes.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
            f.write_str(&rest[..at])?;
            f.write_str(match rest.as_bytes()[at] {
                b'&' => "&amp;",
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'"' => "&quot;",
                _ => "&#39;",
            })?;
            rest = &rest[at + 1..];
        }
        f.write_str(rest)
    }
}

/// A length for people: three digits and a binary unit, rounded down.
pub struct HumanLen(pub u64);

impl fmt::Display for HumanLen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let power = self.0.checked_ilog2().unwrap_or(0) / 10;
        let (whole, fraction) = (self.0 >> (10 * power), self.0 & ((1 << (10 * power)) - 1));
        let unit = UNITS[power as usize];
        if power == 0 || whole >= 100 {
            return write!(f, "{whole} {unit}");
        }
        // The fraction has at most 60 bits; its upper ten are enough for one decimal, and can't overflow.
        let tenths = (fraction >> (10 * (power - 1))) * 10 / 1024;
        write!(f, "{whole}.{tenths} {unit}")
    }
}

/// A time in seconds since the epoch for programs, `2024-01-31T12:00:00Z` (RFC 3339).
pub struct Utc(pub u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.min(LAST_SECOND);
        let (year, month, day) = civil(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// The same for people, to the minute: `2024-01-31 12:00`.
pub struct HumanUtc(pub u64);

impl fmt::Display for HumanUtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.min(LAST_SECOND);
        let (year, month, day) = civil(seconds / 86_400);
        write!(f, "{year:04}-{month:02}-{day:02} {:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60)
    }
}

/// 9999-12-31T23:59:59, the last second with a year of four digits.
const LAST_SECOND: u64 = 253_402_300_799;

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms"): years begin in March there, so that the leap day is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    pub fn directory(name: &str) -> Entry {
        Entry { name: name.into(), kind: EntryKind::Directory, len: 4096, modified: 0 }
    }

    pub fn file(name: impl Into<Vec<u8>>, len: u64) -> Entry {
        Entry { name: name.into(), kind: EntryKind::File, len, modified: 784_111_777 }
    }

    fn listing(entries: impl Into<Vec<Entry>>) -> Listing {
        Listing { entries: entries.into(), truncated: false }
    }

    #[test]
    fn json_says_the_same() {
        let listing: serde_json::Value =
            serde_json::from_str(&json(b"/x/", &listing([file(b"a\"\xff", 6 << 30), directory("d d")])).to_string())
                .unwrap();
        assert_eq!(
            listing,
            json!({ "path": "/x/", "entries": [
                { "name": "d d", "href": "d%20d/", "type": "directory", "size": null,
                  "modified": "1970-01-01T00:00:00Z" },
                { "name": "a\"\u{fffd}", "href": "a%22%FF", "type": "file", "size": 6_442_450_944u64,
                  "modified": "1994-11-06T08:49:37Z" },
            ], "truncated": false })
        );
    }

    #[test]
    fn lengths_for_people() {
        for (len, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (102_399, "99.9 KiB"),
            (102_400, "100 KiB"),
            ((1 << 20) - 1, "1023 KiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(HumanLen(len).to_string(), expected);
        }
    }

    #[test]
    fn times_are_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Utc(seconds).to_string(), expected);
            assert_eq!(HumanUtc(seconds).to_string(), expected[..16].replace('T', " "));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn times_agree_with_http_dates(seconds in 0u64..253_402_300_800) {
            let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
            let (year, month, day) = civil(seconds / 86_400);
            let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
            let expected = format!("{day:02} {} {year:04}", months[month as usize - 1]);
            prop_assert!(date.contains(&expected), "{date} {expected}");
        }
    }
}
