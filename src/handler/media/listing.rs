//! The listing of a directory, as a page and as JSON.
//!
//! Pure rendering: the caller reads the directory and leaves out what is not to be seen. The page is for people and
//! for programs that walk it (rclone, `wget -r`, lftp), so every entry is one plain relative `<a href>`. A name that
//! is not UTF-8 is shown with replacement characters and linked byte by byte. No script, no request for another file.

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

/// The page for the directory `path`, decoded, with a slash at its start and its end.
pub fn html<'a>(path: &'a [u8], listing: &'a Listing) -> impl fmt::Display + 'a {
    Page { path: String::from_utf8_lossy(path), entries: sorted(&listing.entries), truncated: listing.truncated }
}

/// The same as JSON: `{"path", "entries": [{"name", "href", "type", "size", "modified"}], "truncated"}`.
///
/// `type` is `directory` or `file`, `size` is in bytes and null for a directory, `modified` is in UTC (RFC 3339), and
/// `href` is the link of the page, exact even where `name` had to be made readable.
pub fn json<'a>(path: &'a [u8], listing: &'a Listing) -> impl fmt::Display + 'a {
    Json(Page { path: String::from_utf8_lossy(path), entries: sorted(&listing.entries), truncated: listing.truncated })
}

/// Directories first, then by name, byte by byte: the one order that is the same in every language.
fn sorted(entries: &[Entry]) -> Vec<&Entry> {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    sorted
}

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:1rem/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}\
h1{font-size:1.25rem;overflow-wrap:anywhere}\
table{width:100%;border-collapse:collapse}\
th,td{padding:.25rem .5rem;text-align:left;border-bottom:1px solid #ddd}\
td:first-child{overflow-wrap:anywhere}\
.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}\
a{color:#0b57d0}\
@media(prefers-color-scheme:dark){\
body{color:#e3e3e3;background:#161616}th,td{border-color:#3a3a3a}a{color:#a8c7fa}}";

/// The page; entries are in the order they are shown.
struct Page<'a> {
    path: Cow<'a, str>,
    entries: Vec<&'a Entry>,
    truncated: bool,
}

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = Escaped(&self.path);
        write!(
            f,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
             <style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n<table>\n\
             <thead><tr><th scope=\"col\">Name</th><th scope=\"col\" class=\"n\">Size</th>\
             <th scope=\"col\" class=\"n\">Modified (UTC)</th></tr></thead>\n<tbody>\n"
        )?;
        if self.path != "/" {
            f.write_str("<tr><td><a href=\"../\">../</a></td><td></td><td></td></tr>\n")?;
        }
        for entry in &self.entries {
            row(f, entry)?;
        }
        f.write_str("</tbody>\n</table>\n")?;
        if self.truncated {
            f.write_str("<p>There are too many entries: not all of them are listed.</p>\n")?;
        }
        f.write_str("</main>\n</body>\n</html>\n")
    }
}

/// The page as JSON, one entry after the other: a tree of them all would take many times the memory of its text.
struct Json<'a>(Page<'a>);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Page { path, entries, truncated } = &self.0;
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
        "modified": format!("{}Z", Time { seconds: entry.modified, between: "T" }),
    })
}

fn row(f: &mut fmt::Formatter<'_>, entry: &Entry) -> fmt::Result {
    let (name, slash) = (String::from_utf8_lossy(&entry.name), slash_of(entry));
    write!(f, "<tr><td><a href=\"{}\">{}{slash}</a></td><td class=\"n\">", Href(entry), Escaped(&name))?;
    match entry.kind {
        EntryKind::Directory => {}
        EntryKind::File => write!(f, "<data value=\"{}\">{}</data>", entry.len, HumanLen(entry.len))?,
    }
    let (machine, human) =
        (Time { seconds: entry.modified, between: "T" }, Time { seconds: entry.modified, between: " " });
    writeln!(f, "</td><td class=\"n\"><time datetime=\"{machine}Z\">{human}</time></td></tr>")
}

/// The link to an entry, relative to its directory.
struct Href<'a>(&'a Entry);

impl fmt::Display for Href<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", target::encode_segment(&self.0.name), slash_of(self.0))
    }
}

fn slash_of(entry: &Entry) -> &'static str {
    match entry.kind {
        EntryKind::Directory => "/",
        EntryKind::File => "",
    }
}

/// Text that is safe between tags and between quotes.
struct Escaped<'a>(&'a str);

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
struct HumanLen(u64);

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

/// A time in UTC, `2024-01-31T12:00:00`, with `between` in the place of the `T`.
struct Time {
    seconds: u64,
    between: &'static str,
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 9999-12-31T23:59:59, the last second with a year of four digits.
        let seconds = self.seconds.min(253_402_300_799);
        let (year, month, day) = civil(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}{}{hour:02}:{minute:02}:{second:02}", self.between)
    }
}

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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn directory(name: &str) -> Entry {
        Entry { name: name.into(), kind: EntryKind::Directory, len: 4096, modified: 0 }
    }

    fn file(name: impl Into<Vec<u8>>, len: u64) -> Entry {
        Entry { name: name.into(), kind: EntryKind::File, len, modified: 784_111_777 }
    }

    fn listing(entries: impl Into<Vec<Entry>>) -> Listing {
        Listing { entries: entries.into(), truncated: false }
    }

    fn links(page: &str) -> Vec<&str> {
        page.split("<a href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect()
    }

    #[test]
    fn p4_links_are_plain_relative_and_exact() {
        let entries = [file("b c.mp4", 1), file("a:b?#%.ts", 2), file(b"\xff.ts", 3), directory("z"), directory("<y>")];
        let page = html(b"/x/", &listing(entries)).to_string();
        assert_eq!(links(&page), ["../", "%3Cy%3E/", "z/", "a%3Ab%3F%23%25.ts", "b%20c.mp4", "%FF.ts"]);
        assert!(page.contains(">&lt;y&gt;/</a>") && page.contains(">\u{fffd}.ts</a>"));
    }

    #[test]
    fn p4_the_root_has_no_parent() {
        assert_eq!(links(&html(b"/", &listing([])).to_string()), Vec::<&str>::new());
        assert_eq!(links(&html(b"/a/", &listing([])).to_string()), ["../"]);
    }

    #[test]
    fn names_and_path_are_escaped() {
        let page = html(b"/<script>&\"'/", &listing([file("<img src=x onerror='1'>&amp;\"", 1)])).to_string();
        assert!(!page.contains("<script") && !page.contains("<img"));
        assert!(page.contains("<h1>/&lt;script&gt;&amp;&quot;&#39;/</h1>"));
        assert!(page.contains(">&lt;img src=x onerror=&#39;1&#39;&gt;&amp;amp;&quot;</a>"));
    }

    #[test]
    fn a_row_tells_size_and_date() {
        let page = html(b"/", &listing([file("a", 1536)])).to_string();
        assert!(page.contains(
            "<tr><td><a href=\"a\">a</a></td><td class=\"n\"><data value=\"1536\">1.5 KiB</data></td>\
             <td class=\"n\"><time datetime=\"1994-11-06T08:49:37Z\">1994-11-06 08:49:37</time></td></tr>"
        ));
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
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (4_107_542_400, "2100-03-01 00:00:00"),
            (u64::MAX, "9999-12-31 23:59:59"),
        ] {
            assert_eq!(Time { seconds, between: " " }.to_string(), expected);
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

        #[test]
        fn p4_any_name_stays_one_link(name in proptest::collection::vec(any::<u8>(), 1..30)) {
            let page = html(b"/", &listing([file(name, 1)])).to_string();
            prop_assert_eq!(links(&page).len(), 1);
        }
    }
}
