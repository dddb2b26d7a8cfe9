//! Replies that are known by their request's bytes, and what lies under them: files that change on every request, requests that
//! differ in a byte, sockets that take a part, floods, reloads and drains.
//!
//! Whether a reply was known is told by the open-file cache, which a handler asks once for each request for a file: a scenario
//! that never gets a known reply shows nothing, and fails.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::guest::{check_bytes, check_unmixed};
use super::reply::{self, Framing, Reply};
use super::{BUMPY, MARK, Server, Shared, World, add_file, first, perhaps_cool, second, tight};
use crate::StatusCode;
use crate::config::MediaConfig;
use crate::driver::sim::{Client, Content, End, Faults, explore};
use crate::handler::media::Media;
use crate::http::{Holds, MakeHandler, Request, Response};
use crate::limits::Limits;
use crate::router::Routes;
use crate::rt::Runtime;
use crate::rt::timer::sleep;
use crate::telemetry::histogram::Times;

/// After so long a file's tag is strong, and what is said of it may be repeated.
const SETTLED: Duration = Duration::from_secs(3);
/// Short enough to be sent from memory.
const SMALL: u64 = 1000;
/// Too long for that, and one turn.
const LARGE: u64 = 9000;
/// More than any reply here.
const WIDE: usize = 64 << 10;
/// Between two looks of a client.
const STEP: Duration = Duration::from_micros(500);
/// All that goes wrong on the way to the client, while requests come as they were sent.
const FULL: Faults = Faults { short_read: 0.0, no_buffers: 0.0, ..BUMPY };

fn limits() -> Limits {
    Limits { high_water_mark: 64 << 10, ..tight() }
}

/// A server of these files, which have settled.
fn settled(world: &Rc<World>, limits: Limits, files: &[(&str, u64)]) -> Server {
    files.iter().for_each(|(path, len)| add_file(world, path, *len));
    let mut server = Server::start(world, limits);
    server.run_for(SETTLED);
    server
}

fn get(path: &str) -> String {
    format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// Looks every so often, as a client does, until this has come about.
#[track_caller]
fn look(server: &mut Server, what: &str, mut condition: impl FnMut(&Server) -> bool) {
    let begun = server.world.now();
    while !condition(server) {
        assert!(server.world.now() - begun < Duration::from_secs(60), "this does not come about: {what}");
        server.run_for(STEP);
    }
}

/// Sends a request whole, and takes its reply: exactly that.
#[track_caller]
fn ask(server: &mut Server, client: &Client, request: &str) -> Vec<u8> {
    client.send(request.as_bytes());
    receive(server, client, request.starts_with("HEAD "))
}

#[track_caller]
fn receive(server: &mut Server, client: &Client, to_head: bool) -> Vec<u8> {
    let mut received = Vec::new();
    look(server, "a whole reply", |_| {
        received.extend(client.take_received());
        whole_len(&received, to_head).is_some()
    });
    assert_eq!(whole_len(&received, to_head), Some(received.len()), "more than was asked for");
    received
}

/// Whether these bytes hold a whole reply, and how many of them it is.
fn whole_len(bytes: &[u8], to_head: bool) -> Option<usize> {
    let head = reply::head(bytes, to_head)?;
    let Framing::Length(body_len) = head.framing else { panic!("a reply of unknown length") };
    Some(head.len + body_len).filter(|len| *len <= bytes.len())
}

/// A reply to anything but HEAD.
#[track_caller]
fn parse(bytes: &[u8]) -> Reply {
    reply::take(bytes, false, false).expect("a whole reply").0
}

/// A reply but for its date.
fn undated(bytes: &[u8]) -> Vec<u8> {
    let at = memchr::memmem::find(bytes, b"\r\nDate: ").expect("a date");
    [&bytes[..at], &bytes[at + b"\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT".len()..]].concat()
}

/// How often a handler was asked for a file.
fn asked(server: &Server) -> u64 {
    server.metrics().file_cache_hits.get() + server.metrics().file_cache_misses.get()
}

/// A reply, and whether it was known.
#[track_caller]
fn ask_and_watch(server: &mut Server, client: &Client, request: &str) -> (Vec<u8>, bool) {
    let before = asked(server);
    let reply = ask(server, client, request);
    let is_known = asked(server) == before;
    (reply, is_known)
}

/// Asks until the reply is known. Beyond the third time only where a second ends meanwhile.
#[track_caller]
fn make_known(server: &mut Server, client: &Client, request: &str) -> Vec<u8> {
    let known = (0..6).find_map(|_| Some(ask_and_watch(server, client, request)).filter(|(_, is_known)| *is_known));
    known.expect("it is asked for again and again").0
}

/// As [`make_known`], when the file's bytes have been taken to memory.
#[track_caller]
fn make_hot(server: &mut Server, client: &Client, request: &str) -> Vec<u8> {
    for _ in 0..30 {
        ask(server, client, request);
        server.run_for(Duration::from_millis(70));
    }
    make_known(server, client, request)
}

/// Requests that differ in little, the status of each, and whether its reply may be known. `{tag}` is the small file's.
const REQUESTS: &[(&str, u16, bool)] = &[
    ("GET /small HTTP/1.1\r\nHost: a\r\n\r\n", 200, true),
    ("GET /small HTTP/1.1\r\nHost: b\r\n\r\n", 200, true),
    ("GET /small HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, true),
    ("HEAD /small HTTP/1.1\r\nHost: a\r\n\r\n", 200, true),
    ("GET /small HTTP/1.1\r\nHost: a\r\nIf-None-Match: {tag}\r\n\r\n", 304, false),
    ("GET /small HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"none\"\r\n\r\n", 200, true),
    ("GET /small HTTP/1.1\r\nHost: a\r\nIf-Match: \"none\"\r\n\r\n", 412, false),
    ("GET /small HTTP/1.1\r\nHost: a\r\nRange: bytes=0-9\r\n\r\n", 206, true),
    ("GET /small HTTP/1.1\r\nHost: a\r\nRange: bytes=1-9\r\n\r\n", 206, true),
    ("GET /small HTTP/1.1\r\nHost: a\r\nRange: bytes=9999-\r\n\r\n", 416, false),
    ("GET /small HTTP/1.1\r\nHost: a\r\nOrigin: https://one.example\r\n\r\n", 200, true),
    ("GET /small HTTP/1.1\r\nHost: a\r\nOrigin: https://two.example\r\n\r\n", 200, true),
    ("GET /small?download HTTP/1.1\r\nHost: a\r\n\r\n", 200, true),
    ("GET /small?download=x.bin HTTP/1.1\r\nHost: a\r\n\r\n", 200, true),
    ("GET /small?download=y.bin HTTP/1.1\r\nHost: a\r\n\r\n", 200, true),
    ("GET /large HTTP/1.1\r\nHost: a\r\n\r\n", 200, true),
    ("HEAD /large HTTP/1.1\r\nHost: a\r\n\r\n", 200, false),
    ("GET /large HTTP/1.1\r\nHost: a\r\nRange: bytes=5-8604\r\n\r\n", 206, true),
    ("GET /large HTTP/1.1\r\nHost: a\r\nRange: bytes=6-8605\r\n\r\n", 206, true),
    ("GET /page.html HTTP/1.1\r\nHost: a\r\n\r\n", 200, true),
    ("GET /page.html HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n", 200, false),
    ("GET /page.html HTTP/1.1\r\nHost: a\r\nAccept-Encoding: br\r\n\r\n", 200, false),
    ("GET /empty HTTP/1.1\r\nHost: a\r\n\r\n", 200, true),
    ("GET /missing HTTP/1.1\r\nHost: a\r\n\r\n", 404, false),
    ("DELETE /small HTTP/1.1\r\nHost: a\r\n\r\n", 405, false),
];

/// R1–R11, H2: a request that comes again is answered as it was the first time, on whatever connection, and one that differs
/// from it in a byte is answered for itself.
fn requests_are_answered_as_the_first_time(faults: Faults, come_whole: bool) {
    explore(faults, |world| {
        let files = [("small", SMALL), ("large", LARGE), ("empty", 0), ("page.html", 500), ("page.html.gz", 100)];
        files.iter().for_each(|(path, len)| add_file(world, path, *len));
        let mut routes = Routes::default();
        let cors = Some(vec![String::from("https://one.example"), String::from("https://two.example")]);
        let media = MediaConfig { cors, ..MediaConfig::new("/") };
        routes.add(None, "/", Arc::new(Media::new(media).expect("a root")));
        // So long that most of what is asked is known.
        let valid = Duration::from_secs(60);
        let limits = Limits { open_file_valid: valid, hot_file_valid: Duration::from_secs(1), ..limits() };
        let mut server = Server::with_routes(world, limits, routes);
        let clients = [server.connect(), server.connect()];
        server.run_for(SETTLED);
        let tag = parse(&ask(&mut server, &clients[0], &get("small"))).field("ETag").expect("a tag").to_owned();
        let requests: Vec<String> = REQUESTS.iter().map(|(request, ..)| request.replace("{tag}", &tag)).collect();
        let mut asked_before = HashMap::new();
        let mut known = [0; REQUESTS.len()];
        for round in 0..10 {
            for place in 0..requests.len() {
                let number = if round == 0 { place } else { world.below(requests.len() as u64) as usize };
                let (request, client) = (&requests[number], &clients[world.below(2) as usize]);
                let (reply, is_known) = ask_and_watch(&mut server, client, request);
                let status = reply::head(&reply, request.starts_with("HEAD ")).expect("a head").reply.status;
                assert_eq!(status, REQUESTS[number].1, "{request}");
                let truth = asked_before.entry(number).or_insert_with(|| undated(&reply));
                assert_eq!(*truth, undated(&reply), "{request}");
                // Where a handler does not look for a file, its silence says nothing.
                let looks = matches!(status, 200 | 206 | 304 | 412 | 416);
                assert!(!is_known || !looks || REQUESTS[number].2, "known: {request}");
                known[number] += usize::from(is_known && looks);
            }
        }
        assert!(!come_whole || known.iter().filter(|times| **times > 0).count() > 10, "{known:?}");
        clients.iter().for_each(Client::close);
        server.settle();
        server.finish();
    });
}

#[test]
fn h2_requests_that_differ_in_a_field_never_get_each_others_reply() {
    requests_are_answered_as_the_first_time(Faults::SLOW, true);
}

#[test]
fn h2_requests_that_come_in_pieces_never_get_each_others_reply() {
    requests_are_answered_as_the_first_time(BUMPY, false);
}

/// What happens to a file between two requests, and how long the old version may still be answered, for a file that is short
/// enough to be in memory and for one that is not.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    InPlace,
    Shorter,
    Replaced,
    Removed,
}

impl Change {
    fn happen(self, world: &World, path: &str, len: u64) {
        match self {
            Change::InPlace => world.overwrite(path, Content::Rule(len, second)),
            Change::Shorter => world.set_len(path, len / 2),
            Change::Replaced => world.add_file(path, Content::Rule(len, second)),
            Change::Removed => world.remove(path),
        }
    }

    fn bound(self, len: u64, limits: &Limits) -> Duration {
        match self {
            Change::InPlace | Change::Shorter if len == SMALL => limits.hot_file_valid,
            // Fstat says it with the very next request.
            Change::InPlace | Change::Shorter => Duration::ZERO,
            Change::Replaced | Change::Removed => limits.open_file_valid,
        }
    }

    /// Whether this is the version before it or the one after; that it is whole.
    fn is_old(self, reply: &Reply, len: u64) -> bool {
        if reply.status == 404 {
            assert_eq!(self, Change::Removed);
            return false;
        }
        assert_eq!(reply.status, 200);
        check_unmixed(&reply.body);
        let seen = (reply.body[0] == first(0), reply.body.len() as u64);
        let new = match self {
            Change::Shorter => (true, len / 2),
            Change::InPlace | Change::Replaced | Change::Removed => (false, len),
        };
        assert!(seen == (true, len) || seen == new, "neither version: {seen:?}");
        seen == (true, len)
    }
}

/// R13, promise 3: whatever happens to a file that everybody asks for, each reply is one version, whole, with the tag of that
/// version; the old one is gone when it may not be believed any more, and does not come back.
#[test]
fn r13_a_file_that_changes_under_known_replies_is_one_version_whole_and_soon_the_new_one() {
    explore(Faults::SLOW, |world| {
        for len in [SMALL, LARGE] {
            let changes = [Change::InPlace, Change::Shorter, Change::Replaced, Change::Removed];
            change_while_everybody_asks(world, len, changes[world.below(4) as usize]);
        }
    });
}

fn change_while_everybody_asks(world: &Rc<World>, len: u64, change: Change) {
    let (open_file_valid, hot_file_valid) = (Duration::from_millis(700), Duration::from_millis(250));
    let limits = Limits { open_file_valid, hot_file_valid, ..limits() };
    let mut server = settled(world, limits.clone(), &[("film", len)]);
    let clients = [server.connect(), server.connect()];
    make_hot(&mut server, &clients[0], &get("film"));
    let changed = Rc::new(Cell::new(None));
    let (theirs, flag) = (world.clone(), changed.clone());
    world.schedule(Duration::from_millis(500 + world.below(1000)), move || {
        change.happen(&theirs, "film", len);
        flag.set(Some(theirs.now()));
    });
    let bound = change.bound(len, &limits);
    let (mut tags, mut known, mut new_was_seen) = (HashMap::new(), 0, false);
    while changed.get().is_none_or(|at| world.now() - at < Duration::from_millis(1200)) {
        let sent = world.now();
        let client = &clients[world.below(2) as usize];
        let (reply, is_known) = ask_and_watch(&mut server, client, &get("film"));
        let reply = parse(&reply);
        let is_old = change.is_old(&reply, len);
        if let Some(tag) = reply.field("ETag") {
            // A tag that was weak becomes strong by age.
            let tag = tag.trim_start_matches("W/").to_owned();
            assert_eq!(*tags.entry(tag).or_insert(is_old), is_old, "a tag of another version");
        }
        known += usize::from(is_known && changed.get().is_none());
        if let Some(changed) = changed.get().filter(|changed| *changed <= sent) {
            assert!(!is_old || sent - changed < bound, "{change:?}, {len}: old after {:?}", sent - changed);
        }
        assert!(!(is_old && new_was_seen), "{change:?}, {len}: the old version came back");
        new_was_seen |= !is_old;
        server.run_for(Duration::from_millis(1 + world.below(40)));
    }
    assert!(known > 3 && new_was_seen, "{known} known replies");
    clients.iter().for_each(Client::close);
    server.settle();
    server.finish();
    if change != Change::Removed {
        world.remove("film");
    }
}

/// RFC 9110 §6.6.1: however often a reply is repeated, its Date is of the second in which the request came, or later.
#[test]
fn a_date_is_never_older_than_its_second() {
    explore(Faults::SLOW, |world| {
        let mut server = settled(world, limits(), &[("small", SMALL), ("large", LARGE)]);
        let client = server.connect();
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let mut known = 0;
        for _ in 0..100 {
            let path = ["small", "large"][world.below(2) as usize];
            let sent = seconds(world.wall_clock());
            let (reply, is_known) = ask_and_watch(&mut server, &client, &get(path));
            let date = httpdate::parse_http_date(parse(&reply).field("Date").expect("a date")).expect("a date");
            assert!((sent..=seconds(world.wall_clock())).contains(&seconds(date)), "asked at {sent}, dated {date:?}");
            known += usize::from(is_known);
            server.run_for(Duration::from_millis(world.below(70)));
        }
        assert!(known > 10, "{known} known replies");
        client.close();
        server.settle();
        server.finish();
    });
}

/// Begins to take a known reply through a window of so many bytes. Not at once, where it ceases to be known meanwhile.
#[track_caller]
fn begin_known(server: &mut Server, client: &Client, request: &str, window: usize) -> Vec<u8> {
    for _ in 0..5 {
        make_known(server, client, request);
        let before = asked(server);
        client.window(window);
        client.send(request.as_bytes());
        let mut received = Vec::new();
        look(server, "it begins", |_| {
            received.extend(client.take_received());
            !received.is_empty()
        });
        if asked(server) == before {
            return received;
        }
        client.window(WIDE);
        look(server, "it ends", |_| {
            received.extend(client.take_received());
            whole_len(&received, false).is_some()
        });
    }
    panic!("it is asked for again and again");
}

/// Promise 3: what a full socket does not take of a known reply comes when there is room, whole, and the connection goes on.
#[test]
fn a_known_reply_that_the_socket_does_not_take_arrives_whole() {
    explore(FULL, |world| {
        let mut server = settled(world, limits(), &[("small", SMALL), ("large", LARGE)]);
        let client = server.connect();
        for (path, hot) in [("small", false), ("small", true), ("large", false)] {
            let request = get(path);
            let truth = undated(&ask(&mut server, &client, &request));
            if hot {
                make_hot(&mut server, &client, &request);
            }
            for part in [30, 4] {
                let window = truth.len() / part + world.below(100) as usize;
                let mut received = begin_known(&mut server, &client, &request, window);
                // The next request waits behind it and is answered for itself.
                let has_next = world.below(2) == 0;
                if has_next {
                    client.send(get("small").as_bytes());
                }
                while whole_len(&received, false).is_none() {
                    server.run_for(STEP);
                    received.extend(client.take_received());
                    assert_eq!(client.end(), End::Open);
                }
                client.window(WIDE);
                let (_, used) = reply::take(&received, false, false).expect("a whole reply");
                assert_eq!(undated(&received[..used]), truth);
                let mut next = received.split_off(used);
                look(&mut server, "the next reply", |_| {
                    next.extend(client.take_received());
                    !has_next || whole_len(&next, false).is_some()
                });
                assert!(next.is_empty() != has_next, "exactly what was asked for");
                next.first().inspect(|_| check_bytes(&parse(&next).body, 0, SMALL));
            }
        }
        let mut times = Times::default();
        server.metrics().time_to_first_byte.add_to(&mut times);
        assert_eq!(times.count(), server.metrics().responses.get(200), "each first byte is counted once");
        client.close();
        server.settle();
        server.finish();
    });
}

/// R13, promise 3: a file that is cut while a known reply with it is sent ends that reply in a reset; bytes in memory arrive.
#[test]
fn r13_a_file_that_is_cut_under_a_known_reply_ends_it_in_a_reset() {
    explore(FULL, |world| {
        let mut server = settled(world, limits(), &[("small", SMALL), ("large", LARGE)]);
        let [client, other] = [server.connect(), server.connect()];
        make_hot(&mut server, &client, &get("small"));
        let mut received = begin_known(&mut server, &client, &get("small"), 500);
        world.set_len("small", world.below(SMALL));
        client.window(WIDE);
        look(&mut server, "the rest", |_| {
            received.extend(client.take_received());
            whole_len(&received, false).is_some()
        });
        check_bytes(&parse(&received).body, 0, SMALL);
        make_known(&mut server, &client, &get("large"));
        let mut received = begin_known(&mut server, &client, &get("large"), 2000);
        let len = LARGE - 1 - world.below(LARGE / 2);
        world.set_len("large", len);
        look(&mut server, "it ends", |_| {
            received.extend(client.take_received());
            client.end() != End::Open
        });
        assert_eq!((client.end(), server.metrics().truncated.get()), (End::Reset, 1));
        let head = reply::head(&received, false).expect("a head");
        assert!((received.len() - head.len) as u64 <= len, "padded");
        check_unmixed(&received[head.len..]);
        check_bytes(&parse(&ask(&mut server, &other, &get("large"))).body, 0, len);
        other.close();
        server.settle();
        server.finish();
    });
}

/// Promises 2 and 3: what has left memory under a known reply is read from the disk, and arrives all the same.
#[test]
fn a_known_reply_whose_file_leaves_memory_goes_on_from_the_disk() {
    explore(FULL, |world| {
        let mut server = settled(world, limits(), &[("large", LARGE)]);
        let client = server.connect();
        make_known(&mut server, &client, &get("large"));
        let mut received = begin_known(&mut server, &client, &get("large"), 2000);
        // Until nobody believes any more that it is in memory.
        server.run_for(Duration::from_millis(150));
        world.cool("large", 0..LARGE);
        look(&mut server, "the rest", |_| {
            received.extend(client.take_received());
            whole_len(&received, false).is_some()
        });
        check_bytes(&parse(&received).body, 0, LARGE);
        assert!(server.metrics().cold_reads.get() > 0);
        client.window(WIDE);
        // One that is cold from its beginning is no known reply, until it is in memory again.
        world.cool("large", 0..LARGE);
        server.run_for(Duration::from_millis(150));
        check_bytes(&parse(&ask(&mut server, &client, &get("large"))).body, 0, LARGE);
        make_known(&mut server, &client, &get("large"));
        client.close();
        server.settle();
        server.finish();
    });
}

/// F6, F7: bytes that begin with a known request and are more than it, or less, are not taken for it.
#[test]
fn f6_only_bytes_that_are_one_request_are_known_as_one() {
    explore(Faults::SLOW, |world| {
        let mut server = settled(world, limits(), &[("small", SMALL), ("large", LARGE)]);
        let client = server.connect();
        let (small, large) = (get("small"), get("large"));
        let with_body = "GET /small HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
        // What is sent in one packet each, and the replies that it has.
        let beginning = &small[..small.len() - 2];
        let (half, rest) = large.split_at(20);
        type Way<'a> = (&'a [&'a str], &'a [(u64, u64)]);
        let ways: [Way; 7] = [
            (&[&small, &large], &[(0, SMALL), (0, LARGE)]),
            (&[&format!("{small}{small}")], &[(0, SMALL), (0, SMALL)]),
            (&[&format!("{small}{large}")], &[(0, SMALL), (0, LARGE)]),
            (&[&format!("{small}{half}"), rest], &[(0, SMALL), (0, LARGE)]),
            (&[beginning, "\r\n", beginning, "Range: bytes=5-9\r\n\r\n"], &[(0, SMALL), (5, 10)]),
            (&[with_body, "abcde", &small], &[(0, SMALL), (0, SMALL)]),
            (&[&format!("{with_body}abcde"), &small], &[(0, SMALL), (0, SMALL)]),
        ];
        // Each several times in a row, which is what it takes to be known.
        let rounds: Vec<usize> = (0..12).map(|_| world.below(ways.len() as u64) as usize).collect();
        for (packets, replies) in rounds.into_iter().flat_map(|way| [ways[way]; 4]) {
            let mut received = Vec::new();
            for packet in packets {
                client.send(packet.as_bytes());
                // Longer than anything takes, so that the next packet is one of its own.
                server.run_for(Duration::from_millis(15));
                received.extend(client.take_received());
            }
            let mut left = &*received;
            for (start, end) in replies {
                let (reply, used) =
                    reply::take(left, false, false).unwrap_or_else(|| panic!("no reply to {packets:?}"));
                check_bytes(&reply.body, *start, *end);
                assert!(!reply.closes);
                left = &left[used..];
            }
            assert!(left.is_empty(), "more than was asked for by {packets:?}");
        }
        make_known(&mut server, &client, &small);
        client.close();
        server.settle();
        server.finish();
    });
}

/// T6: a drain lets a known reply under way arrive whole, and whatever is answered then says that the connection ends.
#[test]
fn t6_a_drain_finishes_known_replies_and_begins_none() {
    explore(FULL, |world| {
        let mut server = settled(world, limits(), &[("large", LARGE)]);
        let [under_way, half, idle] = [(); 3].map(|()| server.connect());
        let request = get("large");
        make_known(&mut server, &idle, &request);
        half.send(&request.as_bytes()[..10]);
        look(&mut server, "half a head", |server| server.metrics().connections_active.get() == 1);
        make_known(&mut server, &idle, &request);
        let mut received = begin_known(&mut server, &under_way, &request, 2000);
        server.drain();
        half.send(&request.as_bytes()[10..]);
        let mut last = Vec::new();
        look(&mut server, "all have ended", |_| {
            received.extend(under_way.take_received());
            last.extend(half.take_received());
            [&under_way, &half, &idle].iter().all(|client| client.end() == End::Finished)
        });
        check_bytes(&parse(&received).body, 0, LARGE);
        let last = reply::take(&last, false, true).expect("a whole reply").0;
        assert!(last.closes, "it was not told that the connection ends");
        check_bytes(&last.body, 0, LARGE);
        [&under_way, &half, &idle].iter().for_each(|client| client.close());
        look(&mut server, "the worker ends", Server::has_drained);
        server.finish();
    });
}

/// Routes that have nothing of the files: every reply is this one.
fn other_routes() -> Routes {
    let mut routes = Routes::default();
    routes.add(None, "/", Arc::new(async |_: Request| Response::text(StatusCode::OK, "other")));
    routes
}

/// T6: from a reload on, nothing that the old routes said is said again, also if they say it only then.
#[test]
fn t6_a_reload_forgets_what_is_known() {
    explore(Faults::SLOW, |world| {
        let mut slow = Routes::default();
        let answer = async |_: Request| {
            sleep(Duration::from_millis(50)).await;
            let until = Runtime::current().now() + Duration::from_secs(60);
            Response::text(StatusCode::OK, "old").which_holds(Some(Holds { until, stat: None }))
        };
        slow.add(None, "/slow", Arc::new(answer));
        add_file(world, "small", SMALL);
        let mut server = Server::with_routes(world, limits(), slow);
        server.run_for(SETTLED);
        let client = server.connect();
        make_known(&mut server, &client, &get("small"));
        ask(&mut server, &client, &get("slow"));
        client.send(get("slow").as_bytes());
        server.run_for(Duration::from_millis(20));
        let other = other_routes().make(&server.parts().worker);
        server.connections().replace_handler(0, other);
        assert_eq!(parse(&receive(&mut server, &client, false)).body, b"old\n", "what was under way goes on");
        for path in ["small", "slow", "slow", "small"] {
            assert_eq!(parse(&ask(&mut server, &client, &get(path))).body, b"other\n", "{path}");
        }
        client.close();
        server.settle();
        server.finish();
    });
}

/// Promise 1: distinct files and distinct requests for the same one take the bytes that there are, and give them back; who asks
/// for something that everybody wants gets what is known as soon as the flood is over.
#[test]
fn promise1_a_flood_of_distinct_requests_stays_within_its_bytes_and_gives_them_back() {
    explore(Faults::SLOW, |world| {
        for hot_files in [0, 20_000] {
            let names: Vec<String> = (0..40).map(|number| format!("file{number}")).collect();
            let files: Vec<(&str, u64)> = names.iter().map(|name| (&**name, 1000)).collect();
            let limits = Limits { hot_files, open_files: 64, ..limits() };
            let mut server = settled(world, limits, &files);
            let client = server.connect();
            let mut known = 0;
            for number in 0..60 {
                let query = if number < 40 { String::new() } else { format!("?{number}") };
                let request = get(&format!("{}{query}", names[number % 40]));
                for _ in 0..3 {
                    let (reply, is_known) = ask_and_watch(&mut server, &client, &request);
                    check_bytes(&parse(&reply).body, 0, 1000);
                    known += usize::from(is_known);
                }
            }
            assert!(if hot_files == 0 { known == 0 } else { known > 0 }, "{known} known replies");
            if hot_files > 0 {
                make_hot(&mut server, &client, &get("file7"));
                assert!(server.parts().worker.hot_files.left() < hot_files);
            }
            // With the routes goes what they have kept.
            let other = other_routes().make(&server.parts().worker);
            server.connections().replace_handler(0, other);
            assert_eq!(server.parts().worker.hot_files.left(), hot_files);
            client.close();
            server.settle();
            server.finish();
        }
    });
}

/// Promise 5: a known reply keeps no file open that the open-file cache has closed, and finds the one that took its place.
#[test]
fn a_known_reply_keeps_no_file_open() {
    explore(Faults::SLOW, |world| {
        let limits = Limits { open_files: 1, ..limits() };
        let mut server = settled(world, limits, &[("large", LARGE), ("other", LARGE)]);
        let client = server.connect();
        make_known(&mut server, &client, &get("large"));
        ask(&mut server, &client, &get("other"));
        server.run_for(Duration::from_millis(20));
        assert_eq!(world.open_descriptors().files, 1, "one for each entry of the cache");
        world.add_file("large", Content::Rule(LARGE, second));
        let reply = parse(&ask(&mut server, &client, &get("large")));
        assert_eq!(reply.body[0], second(0), "nothing is open of the old one");
        check_unmixed(&reply.body);
        client.close();
        server.settle();
        server.finish();
    });
}

/// Promises 2 and 3: a large reply goes from memory to the disk and back as its pages come and go, byte for byte, and the worker
/// waits for none of them, except for what left memory a moment after it was found there, or lies between two probes.
#[test]
fn a_large_reply_changes_its_way_as_pages_come_and_go() {
    const FILM: u64 = 50 * MARK as u64 + 77;
    explore(Faults::SLOW, |world| {
        add_file(world, "film", FILM);
        perhaps_cool(world, "film", FILM);
        let mut server = Server::start(world, tight());
        let client = server.connect();
        client.window(MARK);
        client.send(get("film").as_bytes());
        let mut received = Vec::new();
        let mut evictions: Vec<u64> = (1..4).map(|part| part * FILM / 4 + world.below(FILM / 8)).collect();
        // Ahead of all that has been looked at, or in the midst of it.
        let under_way = world.below(2) == 0;
        while whole_len(&received, false).is_none() {
            server.run_for(Duration::from_micros(100 + world.below(2000)));
            received.extend(client.take_received());
            let at = received.len() as u64;
            if evictions.first().is_some_and(|eviction| *eviction <= at) {
                evictions.remove(0);
                let start = if under_way { at } else { at + 3 * MARK as u64 };
                world.cool("film", start..start + 4 * MARK as u64);
            }
        }
        assert!(evictions.is_empty());
        check_bytes(&parse(&received).body, 0, FILM);
        let cold_reads = server.metrics().cold_reads.get();
        // A read from the disk brings more than a turn, so that the turns after it are from memory again.
        assert!(if under_way { cold_reads > 0 || world.stalls() > 0 } else { cold_reads >= 3 }, "{cold_reads}");
        assert!(cold_reads < 25, "{cold_reads} of 51 turns from the disk");
        // At either end of an eviction a probe may have made an island: less than a step lies between two probes.
        assert!(world.stalls() <= 6, "{} waits for 3 evictions", world.stalls());
        server.stalls_planned = world.stalls();
        client.close();
        server.settle();
        server.finish();
    });
}

/// How long a reader that is always ready takes for a file, beside so many who take a byte a second of something.
fn time_beside(world: &Rc<World>, dawdlers: usize) -> Duration {
    const FILM: u64 = 700_000;
    let grace = Duration::from_secs(1);
    let limits = Limits { reply_min_rate: 1024, rate_grace: grace, ..tight() };
    let mut server = settled(world, limits, &[("film", FILM), ("small", SMALL)]);
    let reader = server.connect();
    make_known(&mut server, &reader, &get("small"));
    world.cool("film", 0..FILM);
    let slow: Vec<Client> = (0..dawdlers).map(|_| server.connect()).collect();
    for (number, client) in slow.iter().enumerate() {
        client.window(1);
        client.send(get(["film", "small"][number % 2]).as_bytes());
        drip(world, client.clone());
    }
    let begun = world.now();
    reader.window(3000);
    reader.send(get("film").as_bytes());
    let (received, ended) = (Shared::default(), Rc::default());
    sip(world, &reader, &received, &ended);
    server.run_until("the reader has all", |_| ended.get().is_some());
    let time = ended.get().expect("it has all") - begun;
    assert!(time > grace + Duration::from_secs(1), "the slow ones have to be there, and gone, meanwhile");
    check_bytes(&parse(&received.take()).body, 0, FILM);
    assert_eq!(server.metrics().slow_clients_dropped.get(), dawdlers as u64);
    assert!(slow.iter().all(|client| client.end() == End::Reset));
    reader.close();
    server.settle();
    server.finish();
    world.remove("film");
    world.remove("small");
    time
}

/// Takes a byte a second, as long as there is someone to take it from.
fn drip(world: &Rc<World>, client: Client) {
    let theirs = world.clone();
    world.schedule(Duration::from_secs(1), move || {
        client.take_received();
        if client.end() == End::Open {
            drip(&theirs, client);
        }
    });
}

/// Takes what is there every ten milliseconds, until it has a whole reply, and notes when that is.
fn sip(world: &Rc<World>, client: &Client, into: &Shared<Vec<u8>>, ended: &Rc<Cell<Option<Instant>>>) {
    let (theirs, client, into, ended) = (world.clone(), client.clone(), into.clone(), ended.clone());
    world.schedule(Duration::from_millis(10), move || {
        into.borrow_mut().extend(client.take_received());
        match whole_len(&into.borrow(), false) {
            Some(_) => ended.set(Some(theirs.now())),
            None => sip(&theirs, &client, &into, &ended),
        }
    });
}

/// F11, promise 2: readers of a byte a second on nearly every connection are dropped by the minimum rate, and cost a reader
/// beside them less than a hundredth of its time.
#[test]
fn f11_readers_of_a_byte_a_second_are_dropped_and_cost_nobody_else_a_percent() {
    let faults = Faults { max_turn: Duration::from_micros(20), ..Faults::NONE };
    explore(faults, |world| {
        let alone = time_beside(world, 0);
        let beside = time_beside(world, 60);
        assert!(beside <= alone + alone / 100, "{alone:?} alone, {beside:?} beside the slow ones");
    });
}
