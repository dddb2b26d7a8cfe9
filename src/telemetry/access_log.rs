//! The access log: a line for each request, formatted by the worker and handed to a [`LineWriter`](super::line_writer).
//!
//! What clients send is escaped, so that no request can forge a line or send a sequence to the reader's terminal.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Version;

use super::line_writer::{LineWriter, News, Open, Reports};

/// A thread's line buffer keeps at most this many bytes from one line to the next.
const LINE_KEPT_LEN: usize = 8 << 10;

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file: appended to, and created where it is missing, readable by its owner and group.
    File(PathBuf),
}

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The combined format of Apache and nginx, then range, time to first byte, duration (both in seconds) and outcome.
    Text,
    /// A JSON object a line.
    Json,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The whole reply was sent.
    Complete,
    /// The client left before the end.
    ClientGone,
    /// The client fell behind its minimum rate, or missed a deadline.
    ClientSlow,
    /// The file became shorter than was promised.
    Truncated,
    /// The request broke the protocol.
    Malformed,
    /// The server, or one behind it, failed.
    Failed,
    /// The server was asked to stop and cut the reply at its deadline.
    ShutDown,
}

impl Outcome {
    /// The word for it in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Complete => "complete",
            Outcome::ClientGone => "client_gone",
            Outcome::ClientSlow => "client_slow",
            Outcome::Truncated => "truncated",
            Outcome::Malformed => "malformed",
            Outcome::Failed => "failed",
            Outcome::ShutDown => "shut_down",
        }
    }
}

/// One request, as it is logged. Everything that a client sent may hold any bytes.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// When the request began.
    pub time: SystemTime,
    /// The client; none on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The method; empty where no request line could be read.
    pub method: &'a str,
    /// The target as it was sent.
    pub target: &'a str,
    /// The version of the request.
    pub version: Version,
    /// The status of the reply; 0 where there was none.
    pub status: u16,
    /// Bytes of the reply's body that were sent.
    pub bytes: u64,
    /// The Content-Range of the reply.
    pub range: Option<&'a [u8]>,
    /// The request's Referer.
    pub referer: Option<&'a [u8]>,
    /// The request's User-Agent.
    pub user_agent: Option<&'a [u8]>,
    /// From the beginning of the request to the first byte of the reply; none where none was sent.
    pub first_byte: Option<Duration>,
    /// From the beginning of the request to the end of the reply.
    pub duration: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// A handle to a log; every clone is the same log. When the last one is dropped, the log closes.
#[derive(Clone, Debug)]
pub struct AccessLog {
    inner: Arc<Inner>,
}

impl AccessLog {
    /// Opens the destination and starts the thread that writes to it.
    ///
    /// `buffer_len` bounds the bytes that wait to be written, what is being written included. A line longer than half of
    /// it never finds room.
    ///
    /// # Errors
    /// The destination can't be opened, or the thread can't be started.
    pub fn start(destination: Destination, format: Format, buffer_len: usize) -> io::Result<AccessLog> {
        AccessLog::start_with(Box::new(move || destination.open()), format, buffer_len)
    }

    /// The same, to whatever `open` opens.
    fn start_with(open: Open, format: Format, buffer_len: usize) -> io::Result<AccessLog> {
        // What was dropped is in the metrics; the log itself holds nothing but requests.
        let lines = LineWriter::start("access-log", open, Reports { news: tell, gap: None }, buffer_len)?;
        Ok(AccessLog { inner: Arc::new(Inner { format, lines }) })
    }

    /// Logs a request. The line is in the buffer when this returns, or it is counted as dropped; nothing here waits for
    /// the destination.
    pub fn record(&self, record: &Record<'_>) {
        thread_local! {
            static LINE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
        }
        // A thread that is ending has no such buffer any more, and its last lines count too.
        let mut line = LINE.try_with(Cell::take).unwrap_or_default();
        line.clear();
        match self.inner.format {
            Format::Text => write_text(&mut line, record),
            Format::Json => write_json(&mut line, record),
        }
        self.inner.lines.append(&line);
        line.clear();
        line.shrink_to(LINE_KEPT_LEN);
        let _ = LINE.try_with(|kept| kept.set(line));
    }

    /// Lines that found no room, came after the log was closed, or could not be written.
    pub fn dropped(&self) -> u64 {
        self.inner.lines.dropped()
    }

    /// Opens the destination again, as after a rotation that renamed the file: every line that hasn't been taken for
    /// writing goes to the new one. Where it can't be opened, the old one stays. Returns at once.
    pub fn reopen(&self) {
        self.inner.lines.reopen();
    }

    /// Writes what is buffered and ends the thread; what is recorded from now on is dropped. Closing again does nothing.
    ///
    /// Waits some seconds for the destination: it is for the end of the process, not for a worker.
    pub fn close(&self) {
        self.inner.lines.close();
    }
}

/// What every handle shares.
#[derive(Debug)]
struct Inner {
    format: Format,
    lines: LineWriter,
}

fn tell(news: News) {
    match news {
        News::Failing(error) => tracing::error!("the access log can't be written, lines are lost: {error}"),
        News::Recovered => tracing::info!("the access log is written again"),
        News::NotReopened(error) => {
            tracing::error!("the access log can't be opened again, the old file stays in use: {error}")
        }
    }
}

impl Destination {
    fn open(&self) -> io::Result<Box<dyn Write + Send>> {
        Ok(Box::new(match self {
            // Not `io::Stdout`: its own buffer would hide which lines were written when a write fails.
            Destination::Stdout => File::from(io::stdout().as_fd().try_clone_to_owned()?),
            Destination::File(path) => OpenOptions::new().append(true).create(true).mode(0o640).open(path)?,
        }))
    }
}

/// Appends the record in the combined format and what comes after it.
fn write_text(out: &mut Vec<u8>, record: &Record<'_>) {
    match record.peer {
        Some(peer) => put(out, format_args!("{}", peer.ip().to_canonical())),
        None => out.extend_from_slice(b"unix"),
    }
    let t = Civil::from(record.time);
    let month = MONTHS[t.month as usize - 1];
    let Civil { year, day, hour, minute, second, .. } = t;
    put(out, format_args!(" - - [{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000] \""));
    if record.method.is_empty() {
        out.push(b'-');
    } else {
        // Without its spaces, so that a tool that splits at spaces finds the status where it expects it.
        put_escaped(out, record.method.as_bytes(), |byte| is_plain(byte) && byte != b' ');
        out.push(b' ');
        put_escaped(out, record.target.as_bytes(), |byte| is_plain(byte) && byte != b' ');
        put(out, format_args!(" {}", version_name(record.version)));
    }
    put(out, format_args!("\" {:03} {}", record.status, record.bytes));
    for value in [record.referer, record.user_agent, record.range] {
        out.extend_from_slice(b" \"");
        put_escaped(out, value.unwrap_or(b"-"), is_plain);
        out.push(b'"');
    }
    match record.first_byte {
        Some(time) => put(out, format_args!(" {}.{:06}", time.as_secs(), time.subsec_micros())),
        None => out.extend_from_slice(b" -"),
    }
    let duration = record.duration;
    let outcome = record.outcome.as_str();
    put(out, format_args!(" {}.{:06} {outcome}\n", duration.as_secs(), duration.subsec_micros()));
}

/// Appends the record as a JSON object (RFC 8259) and a line feed.
fn write_json(out: &mut Vec<u8>, record: &Record<'_>) {
    let Civil { year, month, day, hour, minute, second, millisecond } = Civil::from(record.time);
    // RFC 3339 §5.6.
    put(out, format_args!("{{\"time\":\"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}."));
    put(out, format_args!("{millisecond:03}Z\",\"peer\":"));
    match record.peer {
        Some(peer) => put(out, format_args!("\"{}\"", SocketAddr::new(peer.ip().to_canonical(), peer.port()))),
        None => out.extend_from_slice(b"\"unix\""),
    }
    put_json(out, "method", Some(record.method.as_bytes()));
    put_json(out, "target", Some(record.target.as_bytes()));
    put(out, format_args!(",\"version\":\"{}\"", version_name(record.version)));
    put(out, format_args!(",\"status\":{},\"bytes\":{}", record.status, record.bytes));
    put_json(out, "range", record.range);
    put_json(out, "referer", record.referer);
    put_json(out, "user_agent", record.user_agent);
    match record.first_byte {
        Some(time) => {
            put(out, format_args!(",\"first_byte_ms\":{}.{:03}", time.as_millis(), time.subsec_micros() % 1000))
        }
        None => out.extend_from_slice(b",\"first_byte_ms\":null"),
    }
    let duration = record.duration;
    let outcome = record.outcome.as_str();
    put(out, format_args!(",\"duration_ms\":{}.{:03}", duration.as_millis(), duration.subsec_micros() % 1000));
    put(out, format_args!(",\"outcome\":\"{outcome}\"}}\n"));
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A `Vec` takes every write.
    let _ = out.write_fmt(text);
}

/// Appends `bytes`, those that aren't plain as `\xHH`.
fn put_escaped(out: &mut Vec<u8>, bytes: &[u8], plain: impl Fn(u8) -> bool) {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| !plain(*byte)) {
        out.extend_from_slice(&rest[..at]);
        put(out, format_args!("\\x{:02X}", rest[at]));
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// Printable ASCII that can't end a quoted field or be taken for an escape.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')
}

/// Appends a member whose value is a string, or null. Bytes that aren't UTF-8 become U+FFFD.
///
/// By hand, because `serde_json` leaves DEL and the controls U+0080 to U+009F as they are (RFC 8259 §7 allows it), and a
/// terminal may obey them.
fn put_json(out: &mut Vec<u8>, key: &str, value: Option<&[u8]>) {
    put(out, format_args!(",\"{key}\":"));
    let Some(value) = value else {
        out.extend_from_slice(b"null");
        return;
    };
    out.push(b'"');
    for chunk in value.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(at) = rest.find(|c: char| c.is_control() || c == '"' || c == '\\') {
            let (plain, tail) = rest.split_at(at);
            out.extend_from_slice(plain.as_bytes());
            let mut chars = tail.chars();
            put(out, format_args!("\\u{:04x}", chars.next().map_or(0, u32::from)));
            rest = chars.as_str();
        }
        out.extend_from_slice(rest.as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{FFFD}".as_bytes());
        }
    }
    out.push(b'"');
}

fn version_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A moment in UTC by the Gregorian calendar. `month` and `day` count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    millisecond: u32,
}

impl From<SystemTime> for Civil {
    /// A clock that stands before 1970 is shown as 1970.
    fn from(time: SystemTime) -> Civil {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil_from_days(days);
        Civil {
            year,
            month,
            day,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
            millisecond: since.subsec_millis(),
        }
    }
}

/// Year, month and day of a count of days since 1970-01-01.
///
/// After Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms": years begin in March, so that the leap day is the
/// last of its year, and 400 years are always 146,097 days.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // since 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::fs;
    use std::sync::mpsc::{self, Receiver, Sender};
    use std::thread;

    // ---- lines ----

    #[test]
    fn text_is_combined_with_range_times_and_outcome() {
        let full = sample();
        check_text(
            &full,
            "192.0.2.7 - - [10/Oct/2000:13:55:36 +0000] \"GET /clip.mp4?t=1 HTTP/1.1\" 206 65536 \
             \"http://example.org/\" \"VLC/3.0\" \"bytes 0-65535/1000000\" 0.001250 2.000003 complete",
        );
        check_text(
            &Record { peer: Some("[2001:db8::1]:9".parse().unwrap()), range: None, ..full },
            "2001:db8::1 - - [10/Oct/2000:13:55:36 +0000] \"GET /clip.mp4?t=1 HTTP/1.1\" 206 65536 \
             \"http://example.org/\" \"VLC/3.0\" \"-\" 0.001250 2.000003 complete",
        );
        // A socket that takes both families shows IPv4 clients as IPv4.
        let mapped = Record { peer: Some("[::ffff:192.0.2.7]:9".parse().unwrap()), ..full };
        assert_eq!(text(&mapped), text(&full));
        check_text(
            &nothing(),
            "unix - - [01/Jan/1970:00:00:00 +0000] \"-\" 000 0 \"-\" \"-\" \"-\" - 0.000000 malformed",
        );
    }

    #[test]
    fn json_is_an_object_with_numbers_as_numbers() {
        check_json(
            &sample(),
            json!({
                "time": "2000-10-10T13:55:36.789Z", "peer": "192.0.2.7:4711", "method": "GET", "target": "/clip.mp4?t=1",
                "version": "HTTP/1.1", "status": 206, "bytes": 65536, "range": "bytes 0-65535/1000000",
                "referer": "http://example.org/", "user_agent": "VLC/3.0", "first_byte_ms": 1.25,
                "duration_ms": 2000.003, "outcome": "complete",
            }),
        );
        check_json(
            &nothing(),
            json!({
                "time": "1970-01-01T00:00:00.000Z", "peer": "unix", "method": "", "target": "", "version": "HTTP/1.0",
                "status": 0, "bytes": 0, "range": null, "referer": null, "user_agent": null, "first_byte_ms": null,
                "duration_ms": 0.0, "outcome": "malformed",
            }),
        );
    }

    #[test]
    fn a_client_can_not_forge_a_line() {
        let agent = b"x\" 0 complete\n10.0.0.1 - - [\x1b[2J\\\x7f\xc3\xa9\xff".as_slice();
        let forged = Record { user_agent: Some(agent), target: "/a b\r\n\"HTTP/1.1\" 200", ..sample() };

        let line = text(&forged);
        assert!(line.contains("\"GET /a\\x20b\\x0D\\x0A\\x22HTTP/1.1\\x22\\x20200 HTTP/1.1\" 206 "), "{line}");
        assert!(
            line.contains("\"x\\x22 0 complete\\x0A10.0.0.1 - - [\\x1B[2J\\x5C\\x7F\\xC3\\xA9\\xFF\" \"bytes"),
            "{line}"
        );

        let line = json(&forged);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["user_agent"], String::from_utf8_lossy(agent).as_ref());
        assert_eq!(value["target"], forged.target);
    }

    #[test]
    fn json_escapes_what_a_terminal_may_obey() {
        let agent = "\u{9b}2J\u{7f}\u{85}é".as_bytes();
        let line = json(&Record { user_agent: Some(agent), ..sample() });
        assert!(line.contains(r#""user_agent":"\u009b2J\u007f\u0085é""#), "{line}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a_record_is_one_line_whatever_it_holds(
            target: String,
            agent: Vec<u8>,
            referer: Vec<u8>,
            seconds: u64,
            bytes: u64,
        ) {
            let record = Record {
                target: &target,
                user_agent: Some(&agent),
                referer: Some(&referer),
                bytes,
                duration: Duration::from_secs(seconds),
                ..sample()
            };
            let line = text(&record);
            prop_assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            prop_assert_eq!(line.matches('"').count(), 8);
            let line = json(&record);
            prop_assert!(!line.contains(char::is_control));
            let value: Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(&value["target"], &json!(target));
            prop_assert_eq!(&value["user_agent"], &json!(String::from_utf8_lossy(&agent)));
            prop_assert_eq!(&value["bytes"], &json!(bytes));
        }
    }

    #[test]
    fn outcomes_have_words() {
        let outcomes = [
            (Outcome::Complete, "complete"),
            (Outcome::ClientGone, "client_gone"),
            (Outcome::ClientSlow, "client_slow"),
            (Outcome::Truncated, "truncated"),
            (Outcome::Malformed, "malformed"),
            (Outcome::Failed, "failed"),
            (Outcome::ShutDown, "shut_down"),
        ];
        for (outcome, word) in outcomes {
            assert!(text(&Record { outcome, ..sample() }).ends_with(&format!(" {word}")));
        }
    }

    #[test]
    fn versions_have_names() {
        let versions = [Version::HTTP_09, Version::HTTP_10, Version::HTTP_11, Version::HTTP_2, Version::HTTP_3];
        for version in versions {
            assert_eq!(version_name(version), format!("{version:?}"));
        }
    }

    #[test]
    fn days_are_counted_by_the_calendar() {
        #[track_caller]
        fn check(seconds: u64, expected: &str) {
            let line = text(&Record { time: UNIX_EPOCH + Duration::from_secs(seconds), ..sample() });
            assert_eq!(line.split(['[', ' ']).nth(4), Some(expected));
        }
        check(0, "01/Jan/1970:00:00:00");
        check(951_782_399, "28/Feb/2000:23:59:59");
        check(951_782_400, "29/Feb/2000:00:00:00");
        check(951_868_800, "01/Mar/2000:00:00:00");
        check(1_709_164_800, "29/Feb/2024:00:00:00");
        check(1_735_689_599, "31/Dec/2024:23:59:59");
        check(4_107_542_400, "01/Mar/2100:00:00:00");
        check(253_402_300_799, "31/Dec/9999:23:59:59");
    }

    #[test]
    fn every_day_until_9999_agrees_with_counting_them() {
        let mut expected = (1970, 1, 1);
        for days in 0.. {
            assert_eq!(civil_from_days(days), expected);
            let (year, month, day) = expected;
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let month_len = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                _ if day == month_len => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
            if expected.0 == 10_000 {
                return;
            }
        }
    }

    #[test]
    fn a_clock_at_its_ends_is_shown() {
        let line = text(&Record { time: UNIX_EPOCH - Duration::from_secs(1), ..sample() });
        assert!(line.contains("[01/Jan/1970:00:00:00 +0000]"), "{line}");
        let last = UNIX_EPOCH + Duration::from_secs(i64::MAX as u64);
        assert!(text(&Record { time: last, ..sample() }).contains("/292277026596:"));
    }

    // ---- the buffer and the thread ----

    #[test]
    fn close_writes_what_is_buffered_and_what_comes_later_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        fs::write(&path, "before\n").unwrap();
        let log = AccessLog::start(Destination::File(path.clone()), Format::Text, 64 << 10).unwrap();
        log.record(&sample());
        log.clone().record(&nothing());
        log.close();
        log.record(&sample());
        log.close();
        assert_eq!(log.dropped(), 1);
        let expected = format!("before\n{}\n{}\n", text(&sample()), text(&nothing()));
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn the_last_handle_closes_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let log = AccessLog::start(Destination::File(path.clone()), Format::Json, 64 << 10).unwrap();
        let other = log.clone();
        drop(log);
        other.record(&sample());
        drop(other);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", json(&sample())));
    }

    #[test]
    fn a_destination_that_can_not_be_opened_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing/access.log");
        let error = AccessLog::start(Destination::File(path), Format::Text, 4096).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn reopen_follows_a_rename() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rotated) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
        let (opened_tx, opened) = mpsc::channel();
        let destination = Destination::File(path.clone());
        let open = Box::new(move || {
            opened_tx.send(()).unwrap();
            destination.open()
        });
        let log = AccessLog::start_with(open, Format::Text, 64 << 10).unwrap();
        opened.recv().unwrap();
        fs::rename(&path, &rotated).unwrap();
        log.reopen();
        // The old file is let go of at once, not at the next request.
        opened.recv_timeout(Duration::from_secs(30)).expect("opened again");
        log.record(&sample());
        log.close();
        assert_eq!(fs::read_to_string(&rotated).unwrap(), "");
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", text(&sample())));
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn a_reopen_that_fails_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let (logs, moved) = (dir.path().join("logs"), dir.path().join("moved"));
        fs::create_dir(&logs).unwrap();
        let log = AccessLog::start(Destination::File(logs.join("access.log")), Format::Text, 64 << 10).unwrap();
        fs::rename(&logs, &moved).unwrap();
        log.reopen();
        log.record(&sample());
        log.close();
        assert_eq!(fs::read_to_string(moved.join("access.log")).unwrap(), format!("{}\n", text(&sample())));
    }

    #[test]
    fn a_writer_that_is_stuck_costs_lines_and_never_a_wait() {
        let line_len = text(&sample()).len() + 1;
        // Each half has room for three lines and a bit.
        let (stuck, taken, release) = stuck_writer();
        let log = AccessLog::start_with(stuck, Format::Text, 2 * (3 * line_len + line_len / 2)).unwrap();
        // Declared after the log, so that a failed assertion lets go of the writer before the log waits for it.
        let release = release;
        log.record(&sample());
        assert_eq!(taken.recv().unwrap(), line_len, "the writer has taken the first line, and hangs");
        for _ in 0..5 {
            log.record(&sample());
        }
        assert_eq!(log.dropped(), 2);
        drop(release);
        log.close();
        assert_eq!(taken.iter().sum::<usize>(), 3 * line_len, "lines are kept whole or not at all");
        assert_eq!(log.dropped(), 2);
    }

    #[test]
    fn a_line_longer_than_a_half_is_dropped_and_the_next_one_is_not() {
        let (stuck, taken, release) = stuck_writer();
        drop(release);
        let log = AccessLog::start_with(stuck, Format::Text, 4096).unwrap();
        let long = "a".repeat(2048);
        log.record(&Record { target: &long, ..sample() });
        log.record(&sample());
        log.close();
        assert_eq!(log.dropped(), 1);
        assert_eq!(taken.iter().sum::<usize>(), text(&sample()).len() + 1);
    }

    #[test]
    fn lines_of_many_threads_stay_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let log = AccessLog::start(Destination::File(path.clone()), Format::Json, 32 << 10).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..2000).for_each(|bytes| log.record(&Record { bytes, ..sample() })));
            }
        });
        log.close();
        let written = fs::read_to_string(&path).unwrap();
        assert!(written.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
        assert_eq!(written.lines().count() as u64 + log.dropped(), 8000);
    }

    fn sample() -> Record<'static> {
        Record {
            time: UNIX_EPOCH + Duration::from_millis(971_186_136_789),
            peer: Some(SocketAddr::from(([192, 0, 2, 7], 4711))),
            method: "GET",
            target: "/clip.mp4?t=1",
            version: Version::HTTP_11,
            status: 206,
            bytes: 65_536,
            range: Some(b"bytes 0-65535/1000000"),
            referer: Some(b"http://example.org/"),
            user_agent: Some(b"VLC/3.0"),
            first_byte: Some(Duration::from_micros(1250)),
            duration: Duration::from_micros(2_000_003),
            outcome: Outcome::Complete,
        }
    }

    /// What is left of a request that broke off at once.
    fn nothing() -> Record<'static> {
        Record {
            time: UNIX_EPOCH,
            peer: None,
            method: "",
            target: "",
            version: Version::HTTP_10,
            status: 0,
            bytes: 0,
            range: None,
            referer: None,
            user_agent: None,
            first_byte: None,
            duration: Duration::ZERO,
            outcome: Outcome::Malformed,
        }
    }

    /// The record as text, without the line feed that must be its only one.
    #[track_caller]
    fn text(record: &Record<'_>) -> String {
        one_line(write_text, record)
    }

    /// The same as JSON.
    #[track_caller]
    fn json(record: &Record<'_>) -> String {
        one_line(write_json, record)
    }

    #[track_caller]
    fn one_line(write: fn(&mut Vec<u8>, &Record<'_>), record: &Record<'_>) -> String {
        let mut out = Vec::new();
        write(&mut out, record);
        let out = String::from_utf8(out).unwrap();
        let line = out.strip_suffix('\n').unwrap();
        assert!(!line.contains('\n'), "{line}");
        line.to_owned()
    }

    #[track_caller]
    fn check_text(record: &Record<'_>, expected: &str) {
        assert_eq!(text(record), expected);
    }

    #[track_caller]
    fn check_json(record: &Record<'_>, expected: Value) {
        assert_eq!(serde_json::from_str::<Value>(&json(record)).unwrap(), expected);
    }

    /// A destination that tells the length of each write and returns from it when it may: at a message, or at once when
    /// the sender is gone.
    struct Stuck {
        taken: Sender<usize>,
        release: Receiver<()>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.taken.send(bytes.len()).unwrap();
            let _ = self.release.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn stuck_writer() -> (Open, Receiver<usize>, Sender<()>) {
        let (taken_tx, taken) = mpsc::channel();
        let (release, release_rx) = mpsc::channel();
        let mut stuck = Some(Stuck { taken: taken_tx, release: release_rx });
        let open: Open = Box::new(move || match stuck.take() {
            Some(stuck) => Ok(Box::new(stuck)),
            None => Err(io::ErrorKind::NotFound.into()),
        });
        (open, taken, release)
    }
}
