//! Ranges, conditions and validators (RFC 9110 §8.8, §13, §14): what a client may join to what it holds, byte by byte.

use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::{Client, Fixture, Launch, PATIENCE, Reply, Server, byte_at, bytes_at, check_bytes, eventually};

/// 2020-01-01T00:00:00Z: old enough for every validator to be strong.
const SETTLED: u64 = 1_577_836_800;
const SETTLED_DATE: &str = "Wed, 01 Jan 2020 00:00:00 GMT";

/// Gives a file the modification time that the tests know the date of.
#[track_caller]
fn settle(path: &Path) {
    modify(path, UNIX_EPOCH + Duration::from_secs(SETTLED));
}

#[track_caller]
fn modify(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).and_then(|file| file.set_modified(time)).expect("a modification time");
}

/// A server over one settled file, `clip.mp4`, of this length.
struct Clip {
    server: Server,
    fixture: Fixture,
}

impl Clip {
    #[track_caller]
    fn of(len: u64) -> Self {
        let fixture = Fixture::with(&[("clip.mp4", len)]);
        settle(&fixture.at("clip.mp4"));
        Clip { server: Server::start(fixture.path()), fixture }
    }

    fn connect(&self) -> Client {
        self.server.connect()
    }
}

/// The entity tag of a reply.
#[track_caller]
fn tag_of(reply: &Reply) -> String {
    reply.field("ETag").expect("an ETag").to_owned()
}

/// A part of a multipart reply: which bytes, of how many, and the bytes.
struct Part {
    bytes: Range<u64>,
    total: u64,
    content_type: String,
    content: Vec<u8>,
}

/// `bytes 0-1/1000` as a half-open range and the total.
#[track_caller]
fn content_range(value: &str) -> (Range<u64>, u64) {
    let (range, total) =
        value.strip_prefix("bytes ").and_then(|rest| rest.split_once('/')).expect("a range and a total");
    let (first, last) = range.split_once('-').expect("two positions");
    let number = |text: &str| {
        assert!(!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()), "Content-Range: {value}");
        text.parse::<u64>().expect("a number")
    };
    (number(first)..number(last) + 1, number(total))
}

/// The parts of a multipart/byteranges body, read strictly (RFC 2046 §5.1.1, RFC 9110 §14.6): each is as long as it says,
/// and every byte between is one that the format asks for.
#[track_caller]
fn parts(reply: &Reply) -> Vec<Part> {
    let content_type = reply.field("Content-Type").expect("a type");
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").expect("a boundary");
    assert!(
        boundary.len() <= 70 && boundary.bytes().all(|b| b.is_ascii_alphanumeric()),
        "a plain boundary: {boundary}"
    );
    assert_eq!(reply.field("Content-Range"), None, "Content-Range belongs to the parts");
    let (opening, delimiter) = (format!("--{boundary}\r\n"), format!("\r\n--{boundary}"));
    let mut rest = reply.body.strip_prefix(opening.as_bytes()).expect("the first delimiter");
    let mut parts = Vec::new();
    loop {
        let head_len = rest.windows(4).position(|window| window == b"\r\n\r\n").expect("a part's head") + 4;
        let head = std::str::from_utf8(&rest[..head_len]).expect("a part's head");
        let field = |name: &str| {
            let mut values = head.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            let value = values.next().unwrap_or_else(|| panic!("a part without {name}: {head}"));
            assert_eq!(values.next(), None, "{name} twice: {head}");
            value.to_owned()
        };
        let (bytes, total) = content_range(&field("Content-Range"));
        let len = (bytes.end - bytes.start) as usize;
        let content = rest[head_len..][..len].to_vec();
        parts.push(Part { bytes, total, content_type: field("Content-Type"), content });
        rest = rest[head_len + len..].strip_prefix(delimiter.as_bytes()).expect("a delimiter right behind the part");
        match rest.strip_prefix(b"\r\n") {
            Some(next) => rest = next,
            None => break,
        }
    }
    assert_eq!(rest, b"--\r\n", "nothing follows the last delimiter");
    parts
}

/// Fails the test unless the reply is exactly these bytes of a file of this length.
#[track_caller]
fn check_single(reply: &Reply, bytes: &Range<u64>, total: u64) {
    assert_eq!(reply.status(), 206, "{:?}", reply.head);
    assert_eq!(content_range(reply.field("Content-Range").expect("Content-Range")), (bytes.clone(), total));
    assert_eq!(reply.head.content_length(), Some(bytes.end - bytes.start));
    assert!(!reply.field("Content-Type").expect("a type").starts_with("multipart"), "one range is never multipart");
    check_bytes(bytes.start, &reply.body);
}

/// Fails the test unless the reply is exactly these ranges of a file of this length, in this order.
#[track_caller]
fn check_several(reply: &Reply, ranges: &[Range<u64>], total: u64) {
    assert_eq!(reply.status(), 206, "{:?}", reply.head);
    let parts = parts(reply);
    assert_eq!(parts.iter().map(|part| part.bytes.clone()).collect::<Vec<_>>(), ranges);
    for part in &parts {
        assert_eq!((part.total, part.content_type.as_str()), (total, "video/mp4"));
        check_bytes(part.bytes.start, &part.content);
    }
}

/// Fails the test unless the reply is the whole file.
#[track_caller]
fn check_whole(reply: &Reply, len: u64) {
    assert_eq!((reply.status(), reply.field("Content-Range")), (200, None), "{:?}", reply.head);
    assert_eq!(reply.body.len() as u64, len);
    check_bytes(0, &reply.body);
}

/// A field line with a Range.
fn range(value: &str) -> String {
    format!("Range: {value}\r\n")
}

#[test]
fn r1_conditions_are_held_in_the_order_of_the_rfc() {
    const EARLIER: &str = "Tue, 31 Dec 2019 23:59:59 GMT";
    const LATER: &str = "Wed, 01 Jan 2020 00:00:01 GMT";
    const LEN: u64 = 1000;
    let clip = Clip::of(LEN);
    let mut client = clip.connect();
    let tag = tag_of(&client.get("/clip.mp4", ""));
    assert!(tag.starts_with('"'), "the tag of a settled file is strong: {tag}");
    // What is asked beside the range, and the status without a range, with one, and with one behind the end. A HEAD is
    // answered as a GET without the range.
    let table: &[(&str, [u16; 3])] = &[
        ("", [200, 206, 416]),
        ("If-Match: {tag}", [200, 206, 416]),
        ("If-Match: \"other\", {tag}", [200, 206, 416]),
        ("If-Match: *", [200, 206, 416]),
        ("If-Match: \"other\"", [412, 412, 412]),
        ("If-Match: W/{tag}", [412, 412, 412]),
        // If-Match hides If-Unmodified-Since.
        ("If-Match: {tag}\r\nIf-Unmodified-Since: {earlier}", [200, 206, 416]),
        ("If-Match: \"other\"\r\nIf-Unmodified-Since: {later}", [412, 412, 412]),
        ("If-Unmodified-Since: {date}", [200, 206, 416]),
        ("If-Unmodified-Since: {later}", [200, 206, 416]),
        ("If-Unmodified-Since: {earlier}", [412, 412, 412]),
        ("If-Unmodified-Since: yesterday", [200, 206, 416]),
        ("If-None-Match: {tag}", [304, 304, 304]),
        ("If-None-Match: W/{tag}", [304, 304, 304]),
        ("If-None-Match: \"other\",{tag}", [304, 304, 304]),
        ("If-None-Match: \"other\"\r\nIf-None-Match: {tag}", [304, 304, 304]),
        ("If-None-Match: *", [304, 304, 304]),
        ("If-None-Match: \"other\"", [200, 206, 416]),
        // If-None-Match hides If-Modified-Since.
        ("If-None-Match: \"other\"\r\nIf-Modified-Since: {date}", [200, 206, 416]),
        ("If-None-Match: {tag}\r\nIf-Modified-Since: {earlier}", [304, 304, 304]),
        ("If-Modified-Since: {date}", [304, 304, 304]),
        ("If-Modified-Since: {later}", [304, 304, 304]),
        ("If-Modified-Since: {earlier}", [200, 206, 416]),
        ("If-Modified-Since: yesterday", [200, 206, 416]),
        // The three forms of a date (RFC 9110 §5.6.7).
        ("If-Modified-Since: Wednesday, 01-Jan-20 00:00:00 GMT", [304, 304, 304]),
        ("If-Modified-Since: Wed Jan  1 00:00:00 2020", [304, 304, 304]),
        // Failing comes before not being modified.
        ("If-Match: {tag}\r\nIf-None-Match: {tag}", [304, 304, 304]),
        ("If-Match: \"other\"\r\nIf-None-Match: {tag}", [412, 412, 412]),
        ("If-Unmodified-Since: {earlier}\r\nIf-None-Match: {tag}", [412, 412, 412]),
        ("If-Unmodified-Since: {earlier}\r\nIf-Modified-Since: {date}", [412, 412, 412]),
        // If-Range comes last, and when it is false there is no range that could be unsatisfiable.
        ("If-Range: {tag}", [200, 206, 416]),
        ("If-Range: \"other\"", [200, 200, 200]),
        ("If-Range: {tag}\r\nIf-None-Match: {tag}", [304, 304, 304]),
        ("If-Range: {tag}\r\nIf-Match: \"other\"", [412, 412, 412]),
    ];
    for (conditions, expected) in table {
        let conditions = conditions
            .replace("{tag}", &tag)
            .replace("{date}", SETTLED_DATE)
            .replace("{earlier}", EARLIER)
            .replace("{later}", LATER);
        let conditions = if conditions.is_empty() { conditions } else { conditions + "\r\n" };
        let asked = ["", "Range: bytes=10-19\r\n", "Range: bytes=1000-\r\n"];
        for (range, expected) in asked.iter().zip(expected) {
            let fields = format!("{conditions}{range}");
            let reply = client.get("/clip.mp4", &fields);
            assert_eq!(reply.status(), *expected, "GET with {fields:?}");
            match expected {
                200 => check_whole(&reply, LEN),
                206 => check_single(&reply, &(10..20), LEN),
                304 => assert_eq!(tag_of(&reply), tag),
                _ => {}
            }
        }
        for range in asked {
            let fields = format!("{conditions}{range}");
            assert_eq!(client.request("HEAD", "/clip.mp4", &fields).status(), expected[0], "HEAD with {fields:?}");
        }
    }
}

#[test]
fn r2_a_range_is_joined_only_to_what_is_surely_the_same() {
    let clip = Clip::of(1000);
    let mut client = clip.connect();
    let tag = tag_of(&client.get("/clip.mp4", ""));
    for (if_range, joins) in [
        (tag.clone(), true),
        (format!("W/{tag}"), false),
        ("\"other\"".to_owned(), false),
        (tag.trim_matches('"').to_owned(), false),
        (SETTLED_DATE.to_owned(), true),
        // Neither older nor newer than the file: exactly its date.
        ("Tue, 31 Dec 2019 23:59:59 GMT".to_owned(), false),
        ("Wed, 01 Jan 2020 00:00:01 GMT".to_owned(), false),
        ("yesterday".to_owned(), false),
    ] {
        let reply = client.get("/clip.mp4", &format!("If-Range: {if_range}\r\nRange: bytes=500-\r\n"));
        match joins {
            true => check_single(&reply, &(500..1000), 1000),
            false => check_whole(&reply, 1000),
        }
    }
}

#[test]
fn r2_nothing_is_joined_to_a_file_that_is_still_young() {
    let clip = Clip::of(1000);
    // A time to come is as little settled as the present, and stays so while the test runs.
    modify(&clip.fixture.at("clip.mp4"), SystemTime::now() + Duration::from_secs(3600));
    let mut client = clip.connect();
    let reply = client.get("/clip.mp4", "");
    let (tag, date) = (tag_of(&reply), reply.field("Last-Modified").expect("a date").to_owned());
    assert!(tag.starts_with("W/\""), "the tag of a young file is weak: {tag}");
    // RFC 9110 §8.8.2.1: a date to come is replaced by that of the message.
    assert!(httpdate::parse_http_date(&date).expect("a date") <= SystemTime::now());
    for if_range in [&tag, tag.trim_start_matches("W/"), &date] {
        let reply = client.get("/clip.mp4", &format!("If-Range: {if_range}\r\nRange: bytes=500-\r\n"));
        check_whole(&reply, 1000);
    }
    client.get("/clip.mp4", &format!("If-None-Match: {tag}\r\n")).expect(304);
    client.get("/clip.mp4", &format!("If-Match: {tag}\r\n")).expect(412);
}

#[test]
fn r3_a_range_counts_with_get_only_and_if_range_with_a_range_only() {
    let clip = Clip::of(1000);
    let mut client = clip.connect();
    let whole = client.request("HEAD", "/clip.mp4", "");
    for fields in ["Range: bytes=0-9\r\n", "Range: bytes=0-9,500-599\r\n", "Range: bytes=1000-\r\n"] {
        let reply = client.request("HEAD", "/clip.mp4", fields).expect(200);
        assert_eq!(reply.head.content_length(), Some(1000), "{fields}");
        assert_eq!(without_date(&reply), without_date(&whole), "{fields}");
    }
    for if_range in ["\"other\"", SETTLED_DATE, "yesterday"] {
        check_whole(&client.get("/clip.mp4", &format!("If-Range: {if_range}\r\n")), 1000);
    }
}

fn without_date(reply: &Reply) -> Vec<(String, Vec<u8>)> {
    reply.head.fields.iter().filter(|(name, _)| name != "Date").cloned().collect()
}

#[test]
fn r4_r5_r6_r7_one_range_of_every_kind() {
    const LEN: u64 = 1000;
    /// What a Range value comes to.
    enum Expected {
        Whole,
        Bytes(Range<u64>),
        Unsatisfiable,
    }
    use Expected::{Bytes, Unsatisfiable, Whole};
    let nines = "9".repeat(40);
    let table = [
        ("bytes=0-0".to_owned(), Bytes(0..1)),
        ("bytes=0-1".to_owned(), Bytes(0..2)),
        ("bytes=0-".to_owned(), Bytes(0..LEN)),
        ("bytes=0-999".to_owned(), Bytes(0..LEN)),
        ("bytes=0-1000".to_owned(), Bytes(0..LEN)),
        ("bytes=999-".to_owned(), Bytes(999..LEN)),
        ("bytes=999-5000".to_owned(), Bytes(999..LEN)),
        ("bytes=500-500".to_owned(), Bytes(500..501)),
        ("bytes=007-0010".to_owned(), Bytes(7..11)),
        ("bytes=-1".to_owned(), Bytes(999..LEN)),
        ("bytes=-1000".to_owned(), Bytes(0..LEN)),
        ("bytes=-1001".to_owned(), Bytes(0..LEN)),
        ("BYTES=0-1".to_owned(), Bytes(0..2)),
        ("Bytes=-2".to_owned(), Bytes(998..LEN)),
        ("bytes=,0-1".to_owned(), Bytes(0..2)),
        ("bytes=, ,0-1,,".to_owned(), Bytes(0..2)),
        ("bytes=1000-".to_owned(), Unsatisfiable),
        ("bytes=1000-1000".to_owned(), Unsatisfiable),
        ("bytes=-0".to_owned(), Unsatisfiable),
        ("bytes=1000-,2000-3000,-0".to_owned(), Unsatisfiable),
        // Some of it is satisfiable.
        ("bytes=1000-,5-6,-0".to_owned(), Bytes(5..7)),
        // Any number of digits.
        (format!("bytes=0-{nines}"), Bytes(0..LEN)),
        (format!("bytes=-{nines}"), Bytes(0..LEN)),
        (format!("bytes={nines}-"), Unsatisfiable),
        ("bytes=18446744073709551615-18446744073709551616".to_owned(), Unsatisfiable),
        ("bytes=0-18446744073709551616".to_owned(), Bytes(0..LEN)),
        ("bytes=0-18446744073709551615".to_owned(), Bytes(0..LEN)),
        (format!("bytes={nines}-0"), Whole),
        // Another unit, or none.
        ("items=0-1".to_owned(), Whole),
        ("none=0-1".to_owned(), Whole),
        ("bytes".to_owned(), Whole),
        ("0-1".to_owned(), Whole),
        // No valid set, though a part of it may be.
        ("bytes=".to_owned(), Whole),
        ("bytes=,".to_owned(), Whole),
        ("bytes=-".to_owned(), Whole),
        ("bytes=1".to_owned(), Whole),
        ("bytes=2-1".to_owned(), Whole),
        ("bytes=a-b".to_owned(), Whole),
        ("bytes=0x0-0x1".to_owned(), Whole),
        ("bytes=+0-1".to_owned(), Whole),
        ("bytes=--1".to_owned(), Whole),
        ("bytes=0-1-2".to_owned(), Whole),
        ("bytes=0-1;2-3".to_owned(), Whole),
        ("bytes=0-1,2-1".to_owned(), Whole),
        ("bytes=0-1,x".to_owned(), Whole),
        ("bytes=1000-,x".to_owned(), Whole),
    ];
    let clip = Clip::of(LEN);
    let mut client = clip.connect();
    for (value, expected) in table {
        eprintln!("Range: {value}");
        let reply = client.get("/clip.mp4", &range(&value));
        match expected {
            Whole => check_whole(&reply, LEN),
            Bytes(bytes) => check_single(&reply, &bytes, LEN),
            Unsatisfiable => {
                assert_eq!((reply.status(), reply.field("Content-Range")), (416, Some("bytes */1000")));
                assert_ne!(reply.field("Content-Type"), Some("video/mp4"), "the type is that of the message");
            }
        }
    }
    let twice = client.get("/clip.mp4", "Range: bytes=0-1\r\nRange: bytes=2-3\r\n");
    check_whole(&twice, LEN);
}

#[test]
fn r5_an_empty_file_has_no_range() {
    let clip = Clip::of(0);
    let mut client = clip.connect();
    let whole = client.get("/clip.mp4", "").expect(200);
    assert_eq!((whole.head.content_length(), whole.body.len()), (Some(0), 0));
    for value in ["bytes=0-", "bytes=0-0", "bytes=1-2", "bytes=-0"] {
        let reply = client.get("/clip.mp4", &range(value)).expect(416);
        assert_eq!(reply.field("Content-Range"), Some("bytes */0"), "{value}");
    }
    let tag = tag_of(&whole);
    client.get("/clip.mp4", &format!("If-None-Match: {tag}\r\n")).expect(304);
    assert_eq!(client.request("HEAD", "/clip.mp4", "").expect(200).head.content_length(), Some(0));
}

#[test]
fn r8_several_ranges_come_in_parts_as_they_were_asked() {
    const LEN: u64 = 1 << 20;
    let clip = Clip::of(LEN);
    let mut client = clip.connect();
    let reply = client.get("/clip.mp4", &range("bytes=0-0, 1000-1999 ,-1"));
    check_several(&reply, &[0..1, 1000..2000, LEN - 1..LEN], LEN);
    let unordered = client.get("/clip.mp4", &range("bytes=900000-900099,0-99,500000-699999"));
    check_several(&unordered, &[900_000..900_100, 0..100, 500_000..700_000], LEN);
    let clamped = client.get("/clip.mp4", &range("bytes=10-19,1048576-,1048000-9999999"));
    check_several(&clamped, &[10..20, 1_048_000..LEN], LEN);
    assert_ne!(reply.field("Content-Type"), unordered.field("Content-Type"), "each reply has a boundary of its own");
    // Had the length been wrong, this would not be a reply.
    check_single(&client.get("/clip.mp4", &range("bytes=7-8")), &(7..9), LEN);
}

#[test]
fn r9_a_set_of_ranges_is_bounded() {
    const LEN: u64 = 1 << 20;
    let clip = Clip::of(LEN);
    let mut client = clip.connect();
    let every = |count: u64| (0..count).map(|n| n * 1000..n * 1000 + 10).collect::<Vec<_>>();
    let value = |ranges: &[Range<u64>]| {
        let specs: Vec<_> = ranges.iter().map(|range| format!("{}-{}", range.start, range.end - 1)).collect();
        format!("Range: bytes={}\r\n", specs.join(","))
    };
    check_several(&client.get("/clip.mp4", &value(&every(128))), &every(128), LEN);
    check_whole(&client.get("/clip.mp4", &value(&every(129))), LEN);
    // Each of the small ones starts before the one in front of it.
    let backwards = |count: u64| (0..=count).rev().map(|n| n * 1000..n * 1000 + 10).collect::<Vec<_>>();
    check_several(&client.get("/clip.mp4", &value(&backwards(10))), &backwards(10), LEN);
    check_whole(&client.get("/clip.mp4", &value(&backwards(11))), LEN);
    // Overlapping, touching, and less than 80 bytes apart.
    check_single(&client.get("/clip.mp4", &range("bytes=0-99,50-149")), &(0..150), LEN);
    check_single(&client.get("/clip.mp4", &range("bytes=0-99,100-149")), &(0..150), LEN);
    check_single(&client.get("/clip.mp4", &range("bytes=0-99,179-199")), &(0..200), LEN);
    check_several(&client.get("/clip.mp4", &range("bytes=0-99,180-199")), &[0..100, 180..200], LEN);
    check_several(&client.get("/clip.mp4", &range("bytes=5000-5099,0-99,5050-5199")), &[5000..5200, 0..100], LEN);
    // The whole file many times over is the whole file once.
    check_single(&client.get("/clip.mp4", &range(&format!("bytes=0-{}", ",0-".repeat(100)))), &(0..LEN), LEN);
}

#[test]
fn r9_a_set_that_costs_more_than_the_file_is_the_file() {
    let clip = Clip::of(1000);
    let mut client = clip.connect();
    check_whole(&client.get("/clip.mp4", &range("bytes=0-399,500-999")), 1000);
    check_several(&client.get("/clip.mp4", &range("bytes=0-99,500-599")), &[0..100, 500..600], 1000);
}

#[test]
fn r10_not_modified_and_partial_replies_repeat_what_the_whole_one_says() {
    let fixture = Fixture::with(&[("list.m3u8", 1000), ("clip.mp4", 1000)]);
    ["list.m3u8", "clip.mp4"].iter().for_each(|name| settle(&fixture.at(name)));
    let config = format!(
        "[[route]]\nmedia = {{ root = {:?}, cache_control = [{{ pattern = \"*\", value = \"max-age=5\" }}] }}",
        fixture.path()
    );
    let server = Launch::routes().config(&config).start();
    let mut client = server.connect();
    for target in ["/list.m3u8", "/clip.mp4"] {
        let whole = client.get(target, "").expect(200);
        let tag = tag_of(&whole);
        let kept = client.get(target, &format!("If-None-Match: {tag}\r\n")).expect(304);
        for name in ["Cache-Control", "ETag", "Vary"] {
            assert_eq!(kept.field(name), whole.field(name), "{name} of {target}");
        }
        assert!(kept.field("Date").is_some() && kept.field("Cache-Control") == Some("max-age=5"));
        assert_eq!((kept.field("Content-Type"), kept.field("Content-Range")), (None, None));
        let part = client.get(target, "Range: bytes=0-9\r\n").expect(206);
        let several = client.get(target, "Range: bytes=0-9,500-509\r\n").expect(206);
        for (name, value) in without_date(&whole) {
            match name.as_str() {
                "Content-Length" => {}
                "Content-Type" => assert_eq!(part.head.all(&name), [&value[..]]),
                _ => {
                    assert_eq!(part.head.all(&name), [&value[..]], "{name} of {target}");
                    assert_eq!(several.head.all(&name), [&value[..]], "{name} of {target}");
                }
            }
        }
        assert!(parts(&several).iter().all(|part| whole.field("Content-Type") == Some(&part.content_type)));
    }
}

#[test]
fn r11_precompressed_siblings_are_representations_of_their_own() {
    let fixture = Fixture::new();
    let contents = [
        ("list.m3u8", "plain plain plain plain"),
        ("list.m3u8.br", "brotli brotli"),
        ("list.m3u8.zst", "zstandard"),
        ("list.m3u8.gz", "gzipped gzipped gz"),
        ("clip.mp4", "media is compressed already"),
        ("clip.mp4.gz", "so this is never sent"),
    ];
    for (name, content) in contents {
        settle(&fixture.text(name, content));
    }
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    let mut tags = Vec::new();
    for (accepted, coding, content) in [
        ("", None, contents[0].1),
        ("Accept-Encoding: br\r\n", Some("br"), contents[1].1),
        ("Accept-Encoding: zstd\r\n", Some("zstd"), contents[2].1),
        ("Accept-Encoding: gzip\r\n", Some("gzip"), contents[3].1),
    ] {
        let reply = client.get("/list.m3u8", accepted).expect(200);
        assert_eq!((reply.field("Content-Encoding"), reply.text()), (coding, content));
        assert_eq!(reply.field("Vary"), Some("Accept-Encoding"), "{accepted}");
        assert_eq!(reply.field("Content-Type"), Some("application/vnd.apple.mpegurl"), "{accepted}");
        assert_eq!(without_date(&client.request("HEAD", "/list.m3u8", accepted)), without_date(&reply), "{accepted}");
        // Ranges, lengths and conditions are those of the representation.
        let part = client.get("/list.m3u8", &format!("{accepted}Range: bytes=-4\r\n")).expect(206);
        let len = content.len() as u64;
        assert_eq!(content_range(part.field("Content-Range").expect("a range")), (len - 4..len, len));
        assert_eq!((part.text(), part.field("Content-Encoding")), (&content[content.len() - 4..], coding));
        let tag = tag_of(&reply);
        assert_eq!(tag_of(&part), tag);
        let kept = client.get("/list.m3u8", &format!("{accepted}If-None-Match: {tag}\r\n")).expect(304);
        assert_eq!((kept.field("Vary"), tag_of(&kept)), (Some("Accept-Encoding"), tag.clone()));
        let of_plain = client.get("/list.m3u8", &format!("If-None-Match: {tag}\r\n"));
        assert_eq!(of_plain.status(), if coding.is_some() { 200 } else { 304 });
        tags.push(tag);
    }
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 4, "a tag for each representation");
    for (accepted, coding) in [
        ("Accept-Encoding: gzip, deflate, br, zstd\r\n", Some("br")),
        ("Accept-Encoding: gzip;q=1, br;q=0.5\r\n", Some("gzip")),
        ("Accept-Encoding: br;q=0, zstd;q=0.1\r\n", Some("zstd")),
        ("Accept-Encoding: *\r\n", Some("br")),
        ("Accept-Encoding: deflate\r\n", None),
        ("Accept-Encoding: br;q=0\r\n", None),
        ("Accept-Encoding: identity, gzip;q=0.5\r\n", None),
        ("Accept-Encoding: gzip\r\nAccept-Encoding: zstd\r\n", Some("zstd")),
    ] {
        assert_eq!(client.get("/list.m3u8", accepted).expect(200).field("Content-Encoding"), coding, "{accepted}");
    }
    let media = client.get("/clip.mp4", "Accept-Encoding: gzip\r\n").expect(200);
    assert_eq!((media.text(), media.field("Vary"), media.field("Content-Encoding")), (contents[4].1, None, None));
    client.get("/list.m3u8.gz", "").expect(200);
}

#[test]
fn r11_a_tag_differs_by_coding_even_where_the_file_is_one() {
    let fixture = Fixture::new();
    settle(&fixture.text("list.m3u8", "the same bytes under two names"));
    fs::hard_link(fixture.at("list.m3u8"), fixture.at("list.m3u8.gz")).expect("a second name");
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    let (plain, coded) = (client.get("/list.m3u8", ""), client.get("/list.m3u8", "Accept-Encoding: gzip\r\n"));
    assert_eq!(coded.field("Content-Encoding"), Some("gzip"));
    assert_ne!(tag_of(&plain), tag_of(&coded));
}

#[test]
fn r11_a_sibling_that_is_older_than_its_file_is_not_sent() {
    let fixture = Fixture::new();
    fixture.text("list.m3u8", "edited since");
    settle(&fixture.text("list.m3u8.gz", "stale"));
    let server = Server::start(fixture.path());
    let reply = server.connect().get("/list.m3u8", "Accept-Encoding: gzip\r\n").expect(200);
    assert_eq!((reply.text(), reply.field("Content-Encoding")), ("edited since", None));
    assert_eq!(reply.field("Vary"), Some("Accept-Encoding"));
}

#[test]
fn r12_a_tag_is_the_same_for_everyone_and_changes_with_the_file() {
    let fixture = Fixture::with(&[("clip.mp4", 1000), ("other.mp4", 1000)]);
    let path = fixture.at("clip.mp4");
    settle(&path);
    settle(&fixture.at("other.mp4"));
    let launch = || {
        Launch::of(fixture.path()).arg("--workers").arg("2").limits("open_file_valid = \"0\"\nhot_file_valid = \"0\"")
    };
    let server = launch().start();
    let tag = || tag_of(&server.connect().request("HEAD", "/clip.mp4", ""));
    let first = tag();
    // Whichever worker answers, and after a restart.
    assert!((0..16).all(|_| tag() == first));
    assert_eq!(tag_of(&launch().start().connect().get("/clip.mp4", "")), first);
    assert_ne!(tag_of(&server.connect().get("/other.mp4", "")), first, "another file of the same length and date");
    let mut seen = vec![first];
    let mut check_changed = |what: &str| {
        let tag = tag();
        assert!(!seen.contains(&tag), "{what} keeps the tag {tag}");
        seen.push(tag);
    };
    modify(&path, UNIX_EPOCH + Duration::from_secs(SETTLED + 1));
    check_changed("touching");
    // The same length and the same date: only the change time tells, as finely as the file system's clock ticks.
    let changed = || fs::metadata(&path).map(|metadata| (metadata.ctime(), metadata.ctime_nsec())).expect("a file");
    let before = changed();
    eventually(PATIENCE, || {
        fs::write(&path, vec![1; 1000]).expect("other content");
        modify(&path, UNIX_EPOCH + Duration::from_secs(SETTLED + 1));
        changed() != before
    });
    check_changed("writing in place and setting the date back");
    fs::write(&path, vec![1; 1001]).expect("one byte more");
    check_changed("appending");
    let next = fixture.text("next", vec![1; 1001]);
    settle(&next);
    fs::rename(next, &path).expect("a replacement");
    check_changed("replacing");
}

#[test]
fn r13_the_length_is_that_of_the_file_as_it_is_sent() {
    let clip = Clip::of(1000);
    let mut client = clip.connect();
    check_single(&client.get("/clip.mp4", &range("bytes=-1")), &(999..1000), 1000);
    clip.fixture.file("clip.mp4", 2000);
    check_whole(&client.get("/clip.mp4", ""), 2000);
    check_single(&client.get("/clip.mp4", &range("bytes=-1")), &(1999..2000), 2000);
    clip.fixture.file("clip.mp4", 500);
    client.get("/clip.mp4", &range("bytes=999-")).expect(416);
    check_whole(&client.get("/clip.mp4", ""), 500);
}

#[test]
fn r13_a_file_that_shrinks_on_its_way_ends_in_a_reset() {
    const LEN: u64 = 64 << 20;
    let fixture = Fixture::new();
    let path = fixture.sparse("clip.mp4", LEN, &[(0, 100_000)]);
    let server = Server::start(fixture.path());
    let mut client = Client::connect_narrow(server.address(), 16 << 10);
    client.ask("GET", "/clip.mp4", "");
    assert_eq!(client.head().content_length(), Some(LEN));
    check_bytes(0, &client.body(100_000));
    File::options().write(true).open(&path).and_then(|file| file.set_len(200_000)).expect("a shorter file");
    let (rest, orderly) = client.rest_of_any_end();
    assert!(!orderly, "a broken reply must not look like a whole one");
    assert!(100_000 + (rest.len() as u64) < LEN, "nothing is made up in the place of what is missing");
    eventually(PATIENCE, || server.metric("truncated") == 1);
    let next = server.connect().get("/clip.mp4", "Range: bytes=-1\r\n").expect(206);
    assert_eq!(next.field("Content-Range"), Some("bytes 199999-199999/200000"));
    server.stop();
}

#[test]
fn r13_a_file_that_grows_on_its_way_sends_what_was_promised() {
    const LEN: usize = 8 << 20;
    let clip = Clip::of(LEN as u64);
    let mut client = Client::connect_narrow(clip.server.address(), 16 << 10);
    client.ask("GET", "/clip.mp4", "");
    assert_eq!(client.head().content_length(), Some(LEN as u64));
    let file = File::options().append(true).open(clip.fixture.at("clip.mp4"));
    file.and_then(|mut file| file.write_all(&[0; 100_000])).expect("a longer file");
    check_bytes(0, &client.body(LEN));
    // The connection goes on exactly behind the promised bytes.
    let total = LEN as u64 + 100_000;
    check_single(&client.get("/clip.mp4", &range("bytes=0-9")), &(0..10), total);
}

#[test]
fn r14_ranges_past_four_gibibytes() {
    const GIB: u64 = 1 << 30;
    const LEN: u64 = 6 * GIB;
    const SPAN: usize = 2 << 20;
    let fixture = Fixture::new();
    let spans = [(0, SPAN), (2 * GIB - (SPAN as u64) / 2, SPAN), (4 * GIB - (SPAN as u64) / 2, SPAN), (5 * GIB, SPAN)];
    let tail = (LEN - SPAN as u64, SPAN);
    let path = fixture.sparse("film.mp4", LEN, &[&spans[..], &[tail]].concat());
    settle(&path);
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    assert_eq!(client.request("HEAD", "/film.mp4", "").expect(200).head.content_length(), Some(LEN));
    let edge = 4 * GIB;
    for bytes in [
        0..1,
        edge - 1..edge,
        edge..edge + 1,
        edge - 1..edge + 1,
        // More than one turn, across the edges of 31 and 32 bits.
        2 * GIB - 700_000..2 * GIB + 700_001,
        edge - 700_001..edge + 700_000,
        5 * GIB..5 * GIB + SPAN as u64,
        LEN - 1..LEN,
        LEN - SPAN as u64..LEN,
    ] {
        let reply = client.get("/film.mp4", &range(&format!("bytes={}-{}", bytes.start, bytes.end - 1)));
        check_single(&reply, &bytes, LEN);
    }
    check_single(&client.get("/film.mp4", &range("bytes=6442450943-")), &(LEN - 1..LEN), LEN);
    check_single(&client.get("/film.mp4", &range("bytes=-100000")), &(LEN - 100_000..LEN), LEN);
    check_several(
        &client.get("/film.mp4", &range("bytes=0-9,4294967290-4294967299,5368709120-5368709129,-10")),
        &[0..10, 4_294_967_290..4_294_967_300, 5 * GIB..5 * GIB + 10, LEN - 10..LEN],
        LEN,
    );
    let behind = client.get("/film.mp4", &range("bytes=6442450944-")).expect(416);
    assert_eq!(behind.field("Content-Range"), Some("bytes */6442450944"));
    server.stop();
}

#[test]
fn r14_an_offset_that_no_32_bits_hold() {
    // The most that one file has on ext4 with blocks of 4 KiB is 16 TiB less a block.
    const LEN: u64 = (1 << 43) + 12_345;
    let fixture = Fixture::new();
    let path = fixture.text("film.mp4", "");
    let file = File::options().write(true).open(&path).expect("a file");
    if let Err(error) = file.set_len(LEN) {
        return eprintln!("not checked: this file system has no files of 8 TiB ({error})");
    }
    let span = file.write_all_at(&bytes_at(LEN - 5000, 5000), LEN - 5000);
    span.expect("the last bytes");
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    check_single(&client.get("/film.mp4", &range("bytes=-5000")), &(LEN - 5000..LEN), LEN);
    let last = client.get("/film.mp4", &range(&format!("bytes={}-", LEN - 1)));
    check_single(&last, &(LEN - 1..LEN), LEN);
    assert_eq!(last.body, [byte_at(LEN - 1)]);
}

#[test]
fn r7_any_range_of_a_large_file_byte_for_byte() {
    const LEN: u64 = 12 << 20;
    let clip = Clip::of(LEN);
    let address = clip.server.address();
    let clients: Vec<_> = (0..4_u64)
        .map(|number| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                // A fixed sequence (Numerical Recipes' generator): what fails once fails again.
                let mut state = number + 1;
                let mut random = |below: u64| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 33) % below
                };
                for round in 0..24 {
                    let start = random(LEN);
                    // Short ones, ones about a high water mark, and long ones.
                    let end = (start + 1 + random([1000, 600_000, LEN][round % 3])).min(LEN);
                    let reply = client.get("/clip.mp4", &range(&format!("bytes={start}-{}", end - 1)));
                    check_single(&reply, &(start..end), LEN);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("every byte as it is in the file");
    }
    clip.server.stop();
}

#[test]
fn r7_a_reply_that_is_cut_by_its_client_costs_nobody_else() {
    const LEN: u64 = 32 << 20;
    let clip = Clip::of(LEN);
    let descriptors = clip.server.descriptors();
    for _ in 0..8 {
        let mut leaver = Client::connect_narrow(clip.server.address(), 16 << 10);
        leaver.ask("GET", "/clip.mp4", "Range: bytes=1000-\r\n");
        leaver.head();
        check_bytes(1000, &leaver.body(10_000));
        leaver.reset();
    }
    check_single(&clip.connect().get("/clip.mp4", &range("bytes=31000000-")), &(31_000_000..LEN), LEN);
    // The file itself stays open in the cache.
    clip.server.expect_rest(descriptors + 2);
    clip.server.stop();
}
