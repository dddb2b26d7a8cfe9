//! Clients and files that misbehave: the server answers as the rules say or closes, others notice nothing, and nothing is
//! left behind. `promise…` names a promise of the design, `r13` a rule about ranges.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::support::{
    Broken, Client, Fixture, Held, Launch, PATIENCE, Random, Server, allow_descriptors, byte_at, bytes_at, check_bytes,
    eventually, sample,
};

/// A server for this folder within these bounds, which has opened these files already: how many descriptors it has at rest.
fn at_rest(server: &Server, targets: &[&str]) -> usize {
    let mut client = server.connect();
    for target in targets {
        client.request("HEAD", target, "").expect(200);
    }
    drop(client);
    server.expect_rest(usize::MAX);
    server.descriptors()
}

/// The same metrics over a connection that was made before there were too many.
struct Admin(Client);

impl Admin {
    fn connect(server: &Server) -> Self {
        let mut admin = Admin(Client::connect(server.admin()));
        admin.metric("tasks");
        admin
    }

    #[track_caller]
    fn metric(&mut self, name: &str) -> u64 {
        sample(self.0.get("/metrics", "").expect(200).text(), name)
    }
}

#[test]
fn promise6_accepting_pauses_without_descriptors_and_goes_on_with_them() {
    allow_descriptors(1024);
    let fixture = Fixture::with(&[("a.bin", 1000), ("new.bin", 1000)]);
    // What is open serves on, although asking the file system again takes a descriptor that is not there.
    let server = Launch::of(fixture.path()).descriptors(40).limits("open_file_valid = \"10ms\"").start();
    let descriptors = at_rest(&server, &["/a.bin"]);
    let mut admin = Admin::connect(&server);
    let mut early = server.connect();
    check_bytes(0, &early.get("/a.bin", "").expect(200).body);

    let mut crowd: Vec<Client> = (0..80).map(|_| server.connect()).collect();
    crowd.iter_mut().for_each(|client| client.ask("GET", "/a.bin", ""));
    eventually(PATIENCE, || admin.metric("accept_pauses") > 0);
    // Who is in is served, except with what takes another descriptor.
    check_bytes(0, &early.get("/a.bin", "").expect(200).body);
    let refused = early.get("/new.bin", "").expect(503);
    assert!(refused.field("Retry-After").is_some(), "{:?}", refused.head);

    // While it waits it does little: a try now and then, and what is asked of it.
    let (begun, processor_time) = (Instant::now(), server.processor_time());
    let (pauses, submissions) = (admin.metric("accept_pauses"), admin.metric("submissions"));
    let mut asked = 0;
    eventually(PATIENCE, || {
        asked += 1;
        admin.metric("accept_pauses") >= pauses + 10
    });
    let submissions = admin.metric("submissions") - submissions;
    let busy = server.processor_time().saturating_sub(processor_time);
    let elapsed = begun.elapsed();
    // Bounds that a slow machine keeps all the more.
    assert!(elapsed > Duration::from_millis(500), "ten pauses in {elapsed:?}");
    assert!(submissions <= 10 * asked + 200, "{submissions} submissions in ten pauses, asked {asked} times");
    assert!(busy < elapsed / 2, "busy for {busy:?} of {elapsed:?}");

    // Everyone who waits is served in the end, as others leave.
    for mut client in crowd.drain(..) {
        check_bytes(0, &client.reply().expect(200).body);
    }
    check_bytes(0, &server.connect().get("/new.bin", "").expect(200).body);
    drop((early, admin));
    // One file more is open.
    server.expect_rest(descriptors + 1);
    server.stop();
}

#[test]
fn promise1_one_connection_over_the_limit_is_503() {
    let fixture = Fixture::with(&[("a.bin", 1000)]);
    let server = Server::with_limits(fixture.path(), "connections = 4");
    let descriptors = at_rest(&server, &["/a.bin"]);
    let mut admin = Admin::connect(&server);
    for round in 0..3 {
        let mut inside: Vec<Client> = (0..3).map(|_| server.connect()).collect();
        for client in &mut inside {
            check_bytes(0, &client.get("/a.bin", "").expect(200).body);
        }
        let refused = admin.metric("connections_refused");
        assert_eq!(refused, 10 * round);
        for request in ["", "GET /a.bin HTTP/1.1\r\nHost: a\r\n\r\n"].repeat(5) {
            let mut outside = server.connect();
            outside.send(request);
            let reply = outside.reply().expect(503);
            assert!(reply.head.closes() && reply.field("Retry-After").is_some(), "{:?}", reply.head);
            outside.expect_close();
        }
        for client in &mut inside {
            check_bytes(0, &client.get("/a.bin", "").expect(200).body);
        }
        inside.pop();
        eventually(PATIENCE, || admin.metric("connections_idle") == 2);
        check_bytes(0, &server.connect().get("/a.bin", "").expect(200).body);
        drop(inside);
        eventually(PATIENCE, || admin.metric("connections_idle") == 0);
    }
    drop(admin);
    server.expect_rest(descriptors);
    server.stop();
}

#[test]
fn promise1_a_crowd_over_the_limit_is_turned_away_and_forgotten() {
    allow_descriptors(1024);
    let fixture = Fixture::with(&[("a.bin", 1000)]);
    let server = Server::with_limits(fixture.path(), "connections = 4\nlinger_timeout = \"100ms\"");
    let descriptors = at_rest(&server, &["/a.bin"]);
    let mut admin = Admin::connect(&server);
    let mut inside: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    for client in &mut inside {
        client.get("/a.bin", "").expect(200);
    }
    let mut crowd: Vec<Client> = (0..300).map(|_| server.connect()).collect();
    for client in &mut crowd {
        // Told so or not, it is closed; nobody is kept waiting.
        match client.try_reply_to("GET") {
            Ok(reply) => assert_eq!(reply.status(), 503),
            Err(broken) => assert!(matches!(broken, Broken::Closed | Broken::Reset(_)), "{broken:?}"),
        }
    }
    for client in &mut inside {
        check_bytes(0, &client.get("/a.bin", "").expect(200).body);
    }
    // Not even those that keep their side open are kept.
    eventually(PATIENCE, || server.descriptors() <= descriptors + 4);
    eventually(PATIENCE, || admin.metric("tasks") == 1);
    drop((crowd, inside, admin));
    server.expect_rest(descriptors);
    server.stop();
}

/// A reply that is on its way to a reader who takes only a little of it at first.
struct UnderWay {
    client: Client,
    promised: u64,
    begun: Vec<u8>,
}

/// Longer than what socket buffers hold, so that most of it is yet to be read from the file when the test goes on.
const LARGE: u64 = 8 << 20;

/// More than the queues on both sides hold when the reader has stopped.
const QUEUES: usize = 1 << 20;

impl UnderWay {
    #[track_caller]
    fn begin(server: &Server, fields: &str) -> Self {
        let mut client = Client::connect_narrow(server.address(), 16 << 10);
        client.ask("GET", "/large.bin", fields);
        let head = client.head();
        assert!(matches!(head.status, 200 | 206), "{head:?}");
        let begun = client.body(10_000);
        UnderWay { client, promised: head.content_length().expect("a length"), begun }
    }

    /// All that came, if all came.
    #[track_caller]
    fn whole(mut self) -> (Vec<u8>, Client) {
        let rest = self.client.body(usize::try_from(self.promised).expect("a length") - self.begun.len());
        ([self.begun, rest].concat(), self.client)
    }

    /// All that came before the reset that has to come.
    #[track_caller]
    fn cut(mut self) -> Vec<u8> {
        let (rest, in_order) = self.client.rest_of_any_end();
        assert!(!in_order, "a reply that was cut ended in order");
        let came = [self.begun, rest].concat();
        assert!((came.len() as u64) < self.promised, "a file that was cut was sent whole");
        came
    }
}

#[test]
fn r13_a_file_that_is_cut_on_its_way_ends_in_a_reset() {
    let mut cuts = 0;
    let fixture = Fixture::new();
    let server = Server::start({
        fixture.file("large.bin", LARGE);
        fixture.path()
    });
    let descriptors = at_rest(&server, &["/large.bin"]);
    for len in [LARGE - 1, LARGE / 2, LARGE / 2 + 12_345, 1 << 20, 4096, 0] {
        for (fields, start) in [("", 0), ("Range: bytes=1-\r\n", 1), ("Range: bytes=4097-8388606\r\n", 4097)] {
            let path = fixture.file("large.bin", LARGE);
            let under_way = UnderWay::begin(&server, fields);
            OpenOptions::new().write(true).open(&path).expect("the file").set_len(len).expect("a shorter file");
            // The last byte alone may have been left out by the range.
            if len == LARGE - 1 && fields.contains("8388606") {
                assert_eq!(under_way.whole().0.len() as u64, LARGE - 1 - 4097);
                continue;
            }
            let came = under_way.cut();
            // What the kernel had queued before the cut is the file's own memory, and may now show as much of the file as
            // there is. Nothing follows it: neither to the end that was promised, nor further than the queues go.
            let there = usize::try_from(len.saturating_sub(start)).expect("a length").min(came.len());
            check_bytes(start, &came[..there]);
            assert!(came.len() <= there + QUEUES, "{} bytes, of which {there} are there", came.len());
            cuts += 1;
            eventually(PATIENCE, || server.metric("truncated") == cuts);
            server.expect_rest(descriptors);
        }
    }
    server.stop();
}

#[test]
fn r13_parts_of_a_file_that_is_cut_end_in_a_reset() {
    let fixture = Fixture::with(&[("large.bin", LARGE)]);
    let server = Server::start(fixture.path());
    let descriptors = at_rest(&server, &["/large.bin"]);
    let under_way = UnderWay::begin(&server, "Range: bytes=0-3999999,4200000-8000000\r\n");
    let file = OpenOptions::new().write(true).open(fixture.at("large.bin")).expect("the file");
    file.set_len(4_100_000).expect("a shorter file");
    let came = under_way.cut();
    // The first part, which is there, may have come whole; nothing stands in the place of the second.
    let start = came.windows(4).position(|window| window == b"\r\n\r\n").expect("a part's head") + 4;
    let part = &came[start..came.len().min(start + 4_000_000)];
    check_bytes(0, part);
    let second = came[start + part.len()..].windows(4).position(|window| window == b"\r\n\r\n");
    let second = second.map_or(&[][..], |at| &came[start + part.len() + at + 4..]);
    assert!(second.is_empty(), "{} bytes that are not there", second.len());
    assert_eq!(server.metric("truncated"), 1);
    server.expect_rest(descriptors);
    server.stop();
}

#[test]
fn r13_a_file_that_grows_on_its_way_sends_what_was_promised() {
    let fixture = Fixture::with(&[("large.bin", LARGE), ("a.bin", 1000)]);
    let server = Server::start(fixture.path());
    let under_way = UnderWay::begin(&server, "");
    let mut file = OpenOptions::new().append(true).open(fixture.at("large.bin")).expect("the file");
    file.write_all(&bytes_at(LARGE, 100_000)).expect("a longer file");
    let (came, mut client) = under_way.whole();
    check_bytes(0, &came);
    // The connection goes on where the reply ended, and the next reply is of the longer file.
    check_bytes(0, &client.get("/a.bin", "").expect(200).body);
    let tail = client.get("/large.bin", &format!("Range: bytes={}-\r\n", LARGE - 10)).expect(206);
    let range = format!("bytes {}-{}/{}", LARGE - 10, LARGE + 99_999, LARGE + 100_000);
    assert_eq!(tail.field("Content-Range"), Some(&*range));
    check_bytes(LARGE - 10, &tail.body);
    server.stop();
}

/// Something that happens to a file: its name, and how.
type Change<'a> = (&'a str, &'a dyn Fn(&Path));

#[test]
fn r13_a_file_that_is_replaced_removed_or_closed_on_its_way_is_sent_as_it_was() {
    let replace = |path: &Path| {
        let new = path.with_extension("new");
        fs::write(&new, vec![0; 5000]).expect("another file");
        fs::rename(new, path).expect("another file in its place");
    };
    let remove = |path: &Path| fs::remove_file(path).expect("no file");
    let close = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o000)).expect("a closed file");
    let changes: [Change; 3] = [("replaced", &replace), ("removed", &remove), ("closed", &close)];
    for (name, change) in changes {
        let fixture = Fixture::with(&[("large.bin", LARGE)]);
        let server = Server::with_limits(fixture.path(), "open_file_valid = \"10ms\"");
        let mut others = server.connect();
        let before = others.request("HEAD", "/large.bin", "").expect(200);
        let under_way = UnderWay::begin(&server, "");
        let part_under_way = UnderWay::begin(&server, "Range: bytes=100-8000000\r\n");
        change(&fixture.at("large.bin"));
        // What is asked for from now on is what is there now; root may read it even so.
        match name {
            "replaced" => eventually(PATIENCE, || others.get("/large.bin", "").body == [0; 5000]),
            "removed" => eventually(PATIENCE, || others.request("HEAD", "/large.bin", "").status() == 404),
            _ => assert!(matches!(others.request("HEAD", "/large.bin", "").status(), 200 | 403)),
        }
        if name == "replaced" {
            assert_ne!(others.request("HEAD", "/large.bin", "").field("ETag"), before.field("ETag"));
        }
        let (came, client) = under_way.whole();
        check_bytes(0, &came);
        let (came, other_client) = part_under_way.whole();
        check_bytes(100, &came);
        drop((client, other_client, others));
        server.expect_rest(usize::MAX);
        server.stop();
    }
}

#[test]
fn promise1_a_file_that_is_not_in_memory_comes_whole_with_one_buffer_for_all() {
    let fixture = Fixture::with(&[("large.bin", 3 << 20), ("small.bin", 50_000)]);
    let server = Server::with_limits(fixture.path(), "transfer_buffers = 1");
    let descriptors = at_rest(&server, &["/large.bin", "/small.bin"]);
    for name in ["large.bin", "small.bin"] {
        let file = File::open(fixture.at(name)).expect("the file");
        file.sync_all().expect("a file on the disk");
        // A file system in memory keeps it all the same; then this is a test like the others.
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("advice");
    }
    let mut clients: Vec<Client> = (0..16).map(|_| server.connect()).collect();
    for (client, start) in clients.iter_mut().zip(0..) {
        client.ask("GET", "/large.bin", &format!("Range: bytes={}-\r\n", start * 100_000));
        client.ask("GET", "/small.bin", "");
    }
    for (client, start) in clients.iter_mut().zip(0..) {
        let reply = client.reply().expect(206);
        assert_eq!(reply.body.len(), (3 << 20) - start * 100_000);
        check_bytes(start as u64 * 100_000, &reply.body);
        check_bytes(0, &client.reply().expect(200).body);
    }
    drop(clients);
    server.expect_rest(descriptors);
    server.stop();
}

#[test]
fn promise5_a_client_that_resets_within_its_request_leaves_nothing() {
    let fixture = Fixture::with(&[("a.bin", 1000)]);
    let server = Server::start(fixture.path());
    let descriptors = at_rest(&server, &["/a.bin"]);
    let requests = [
        "GET /a.bin HTTP/1.1\r\nHost: a\r\nRange: bytes=1-2\r\n\r\n",
        "POST /a.bin HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n12345678901234567890",
        "POST /a.bin HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: v\r\n\r\n",
        "POST /a.bin HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
        "BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    for request in requests {
        for len in 0..=request.len() {
            let mut client = server.connect();
            client.send(&request[..len]);
            client.reset();
        }
    }
    server.expect_rest(descriptors);
    check_bytes(0, &server.connect().get("/a.bin", "").expect(200).body);
    server.stop();
}

#[test]
fn promise5_a_client_that_resets_within_its_reply_leaves_nothing() {
    let fixture = Fixture::with(&[("large.bin", LARGE), ("a.bin", 1000), ("list/x", 1)]);
    let server = Launch::of(fixture.path()).arg("--listing").start();
    let descriptors = at_rest(&server, &["/large.bin", "/a.bin", "/list/"]);
    let mut others = server.connect();
    let positions =
        [0, 1, 2, 15, 16, 17, 100, 4095, 4096, 65_535, 65_536, 65_537, 262_143, 262_144, 1_000_000, 8_000_000];
    for fields in ["", "Range: bytes=17-\r\n", "Range: bytes=0-3000000,4000000-7999999\r\n"] {
        for position in positions {
            if position > 7_000_000 && fields.contains(',') {
                continue;
            }
            let mut client = server.connect();
            client.ask("GET", "/large.bin", fields);
            // Without a look at the head: the bytes of the reply are counted from its first one.
            client.skip(position);
            client.reset();
            check_bytes(0, &others.get("/a.bin", "").expect(200).body);
        }
    }
    // Whole conversations that nobody waits for.
    for target in ["/a.bin", "/large.bin", "/nothing", "/list/", "/list"] {
        for count in [1, 3, 10] {
            let mut client = server.connect();
            client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(count));
            client.reset();
        }
    }
    drop(others);
    server.expect_rest(descriptors);
    assert_eq!(server.metric("handler_panics"), 0);
    server.stop();
}

#[test]
fn promise2_readers_that_have_stopped_hold_no_buffer_and_nobody_up() {
    let fixture = Fixture::with(&[("large.bin", LARGE), ("a.bin", 1000)]);
    let server = Server::with_limits(fixture.path(), "transfer_buffers = 4\nreceive_buffers = 4");
    let descriptors = at_rest(&server, &["/large.bin", "/a.bin"]);
    let stopped: Vec<Client> = (0..100)
        .map(|_| {
            let mut client = Client::connect_narrow(server.address(), 4096);
            client.ask("GET", "/large.bin", "");
            client.ask("GET", "/a.bin", "");
            client
        })
        .collect();
    eventually(PATIENCE, || server.held().transfers == 100);
    let mut others = server.connect();
    for _ in 0..10 {
        check_bytes(0, &others.get("/a.bin", "").expect(200).body);
        check_bytes(0, &others.get("/large.bin", "Range: bytes=0-999999\r\n").expect(206).body);
    }
    eventually(PATIENCE, || {
        let held = server.held();
        (held.receive_buffers, held.transfer_buffers, held.connections_active) == (0, 0, 100)
    });
    drop((stopped, others));
    server.expect_rest(descriptors);
    server.stop();
}

#[test]
fn promise2_a_thousand_half_heads_hold_no_buffer_and_nobody_up() {
    allow_descriptors(4096);
    let fixture = Fixture::with(&[("a.bin", 1000)]);
    let server = Launch::of(fixture.path()).limits("head_timeout = \"1h\"").start();
    let descriptors = at_rest(&server, &["/a.bin"]);
    let mut others = server.connect();
    let starts = [
        "G",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "GET /a.bin HTTP/1.1\r\nHost: a\r\nX: y\r\n\r",
        "",
    ];
    let mut half: Vec<Client> = (0..1000)
        .map(|number| {
            let mut client = server.connect();
            client.send(starts[number % starts.len()]);
            client
        })
        .collect();
    eventually(PATIENCE, || server.held().connections_active == 800);
    check_bytes(0, &others.get("/a.bin", "").expect(200).body);
    assert_eq!(server.held().receive_buffers, 0, "a half head holds a buffer");
    // Each can still be made whole.
    for client in half.iter_mut().skip(3).step_by(starts.len()) {
        client.send("\n");
    }
    for client in half.iter_mut().skip(3).step_by(starts.len()) {
        check_bytes(0, &client.reply().expect(200).body);
    }
    drop((half, others));
    server.expect_rest(descriptors);
    server.stop();
}

#[test]
fn promise1_requests_wait_for_a_receive_buffer_and_are_all_answered() {
    let fixture = Fixture::with(&[("a.bin", 1000)]);
    let server = Server::with_limits(fixture.path(), "receive_buffers = 1\nreceive_buffer_len = \"4KiB\"");
    let descriptors = at_rest(&server, &["/a.bin"]);
    let mut clients: Vec<Client> = (0..50).map(|_| server.connect()).collect();
    let filler = format!("X: {}\r\n", "y".repeat(6000));
    for _ in 0..5 {
        for client in &mut clients {
            client.send(format!("POST /a.bin HTTP/1.1\r\nHost: a\r\n{filler}Content-Length: 30000\r\n\r\n"));
            client.send([b'x'; 30_000]);
            client.ask("GET", "/a.bin", &filler);
        }
        for client in &mut clients {
            client.reply().expect(405);
            check_bytes(0, &client.reply().expect(200).body);
        }
    }
    drop(clients);
    server.expect_rest(descriptors);
    server.stop();
}

impl Random {
    /// Bytes that get past the first checks now and then.
    fn garbage(&mut self) -> Vec<u8> {
        const PIECES: [&str; 30] = [
            "GET ",
            "POST ",
            "HEAD ",
            "OPTIONS * ",
            "/a.bin",
            "/%",
            "/../",
            "//",
            "?",
            " HTTP/1.1",
            " HTTP/1.0",
            "\r\n",
            "\r\n\r\n",
            "\n",
            "\r",
            "\0",
            "Host: a\r\n",
            "Content-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Expect: 100-continue\r\n",
            "Connection: close\r\n",
            "Range: bytes=0-",
            ",-1",
            "9999999999999999999999",
            ": ",
            "5\r\nhello\r\n",
            "0\r\n\r\n",
            "If-Range: \"",
            "GET /a.bin HTTP/1.1\r\nHost: a\r\n",
            "Accept-Encoding: br;q=",
        ];
        let mut bytes = Vec::new();
        for _ in 0..self.below(40) {
            match self.below(8) {
                0 => {
                    let len = self.below(20);
                    bytes.extend(self.bytes(len));
                }
                _ => bytes.extend_from_slice(PIECES[self.below(PIECES.len())].as_bytes()),
            }
        }
        bytes
    }
}

#[test]
fn promise6_garbage_is_answered_or_closed() {
    let fixture = Fixture::with(&[("a.bin", 1000)]);
    let server = Server::start(fixture.path());
    let descriptors = at_rest(&server, &["/a.bin"]);
    let mut others = server.connect();
    for seed in 1..=400 {
        let mut random = Random::new(seed);
        let mut client = server.connect();
        for _ in 0..=random.below(3) {
            let bytes = if random.below(4) == 0 { random.bytes(2000) } else { random.garbage() };
            // It may have closed already.
            if client.try_send(&bytes).is_err() {
                break;
            }
        }
        match random.below(3) {
            0 => client.reset(),
            1 => drop(client),
            // Says that this was all: then everything that can be answered is, and the connection ends.
            _ => {
                client.finish_if_open();
                let (answers, _) = client.rest_of_any_end();
                assert!(answers.is_empty() || answers.starts_with(b"HTTP/1.1 "), "seed {seed}: {answers:?}");
            }
        }
        check_bytes(0, &others.get("/a.bin", "").expect(200).body);
    }
    drop(others);
    server.expect_rest(descriptors);
    assert_eq!(server.metric("handler_panics"), 0);
    server.stop();
}

#[test]
fn promise5_nothing_is_left_of_a_server_full_of_everything() {
    let fixture = Fixture::with(&[("large.bin", LARGE), ("a.bin", 1000)]);
    let server = Server::start(fixture.path());
    let descriptors = at_rest(&server, &["/large.bin", "/a.bin"]);
    for _ in 0..3 {
        let mut clients = Vec::new();
        for kind in 0..60 {
            let mut client = Client::connect_narrow(server.address(), 16 << 10);
            match kind % 6 {
                0 => client.send("GET /a.bin HT"),
                1 => client.ask("GET", "/large.bin", ""),
                2 => client.send("POST /a.bin HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nhalf"),
                3 => client.send("GET / HTTP/7.7\r\n\r\n"),
                4 => assert_eq!(client.get("/a.bin", "").expect(200).body[0], byte_at(0)),
                _ => {}
            }
            clients.push(client);
        }
        eventually(PATIENCE, || server.held().connections_active >= 30);
        assert_ne!(server.held(), Held::default());
        for (number, client) in clients.into_iter().enumerate() {
            if number % 2 == 0 {
                client.reset();
            }
        }
        server.expect_rest(descriptors);
    }
    server.stop();
}
