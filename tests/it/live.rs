//! Live media: files that are read while they are made, playlists that are replaced whole, and who waits for what is to come.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::{
    Broken, Client, Fixture, Framing, Held, Launch, PATIENCE, Server, byte_at, bytes_at, check_bytes, eventually,
    names_in,
};

/// A server of a folder that encoders put files into, with these keys of `live`.
fn launch(folder: &Fixture, keys: &str) -> Launch {
    let root = folder.path().display();
    let config = format!("[[route]]\n[route.media]\nroot = \"{root}\"\ncors = [\"*\"]\n[route.live]\n{keys}");
    Launch::routes().config(&config)
}

#[track_caller]
fn serve(folder: &Fixture, keys: &str) -> Server {
    launch(folder, keys).arg("--workers").arg("2").start()
}

/// An encoder that sends its file in chunks.
struct Encoder(Client);

impl Encoder {
    /// Begins to put a file, and waits until the server has it.
    #[track_caller]
    fn begin(server: &Server, target: &str) -> Self {
        let streams = server.metric("live_streams");
        let encoder = Encoder::ask(server, target);
        eventually(PATIENCE, || server.metric("live_streams") > streams);
        encoder
    }

    /// Only asks for it.
    fn ask(server: &Server, target: &str) -> Self {
        let mut client = server.connect();
        client.ask("PUT", target, "Transfer-Encoding: chunked\r\n");
        Encoder(client)
    }

    #[track_caller]
    fn send(&mut self, bytes: &[u8]) {
        self.0.send(chunk(bytes));
    }

    #[track_caller]
    fn end(mut self) -> u16 {
        self.0.send(b"0\r\n\r\n");
        self.0.reply().status()
    }
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// Reads so many bytes of a chunked body, however it is cut.
#[track_caller]
fn follow(client: &mut Client, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        bytes.extend(client.chunk().expect("more of the file"));
    }
    assert_eq!(bytes.len(), len, "more than was sent");
    bytes
}

#[track_caller]
fn is_at_rest(server: &Server) {
    eventually(PATIENCE, || {
        let held = server.held();
        Held { connections_idle: 0, ..held } == Held::default()
            && server.metric("live_streams") + server.metric("live_readers") == 0
    });
}

#[test]
fn bytes_reach_readers_on_all_workers_before_the_encoder_ends() {
    let folder = Fixture::new();
    let server = serve(&folder, "");
    let mut encoder = Encoder::begin(&server, "/show/film.mp4");
    // As many connections as make sure that each worker has some.
    let mut readers: Vec<Client> = (0..16).map(|_| server.connect()).collect();
    for reader in &mut readers {
        reader.ask("GET", "/show/film.mp4", "Origin: https://a.example\r\n");
        let head = reader.head();
        assert_eq!((head.status, head.field("Content-Type")), (200, Some("video/mp4")));
        assert_eq!(head.field("Transfer-Encoding"), Some("chunked"));
        assert_eq!(head.field("Cache-Control"), Some("no-store"));
        assert_eq!((head.field("ETag"), head.field("Access-Control-Allow-Origin")), (None, Some("*")));
    }
    let mut at = 0;
    for len in [1, 7, 100, 4096, 70_000, 300_000, 1] {
        encoder.send(&bytes_at(at, len));
        readers.iter_mut().for_each(|reader| check_bytes(at, &follow(reader, len)));
        at += len as u64;
    }
    let head = server.connect().request("HEAD", "/show/film.mp4", "");
    assert_eq!((head.status(), head.field("Content-Length")), (200, None));
    assert_eq!(encoder.end(), 201);
    for reader in &mut readers {
        assert_eq!(reader.chunk(), Ok(Vec::new()), "the end of the body");
    }
    // An ordinary file from now on, on every worker.
    for _ in 0..16 {
        let reply = server.connect().get("/show/film.mp4", "Range: bytes=1-2\r\n").expect(206);
        assert_eq!(reply.field("Content-Range"), Some(&*format!("bytes 1-2/{at}")));
        assert!(reply.field("ETag").is_some());
    }
    assert_eq!(names_in(folder.path()), ["show/film.mp4"]);
    check_bytes(0, &fs::read(folder.at("show/film.mp4")).unwrap());
    drop(readers);
    is_at_rest(&server);
}

#[test]
fn a_late_reader_catches_up_and_then_follows() {
    const LEN: usize = 50 << 20;
    let folder = Fixture::new();
    let server = serve(&folder, "");
    let mut encoder = Encoder::begin(&server, "/film.ts");
    for at in (0..LEN).step_by(1 << 20) {
        encoder.send(&bytes_at(at as u64, 1 << 20));
    }
    let mut reader = server.connect();
    reader.ask("GET", "/film.ts", "");
    reader.head();
    check_bytes(0, &follow(&mut reader, LEN));
    encoder.send(&bytes_at(LEN as u64, 10));
    check_bytes(LEN as u64, &follow(&mut reader, 10));
    assert_eq!(encoder.end(), 201);
    assert_eq!(reader.chunk(), Ok(Vec::new()));
    drop(reader);
    is_at_rest(&server);
}

#[test]
fn ranges_are_what_exists_and_rfc8673_follows() {
    let folder = Fixture::new();
    let server = serve(&folder, "");
    let mut encoder = Encoder::begin(&server, "/a.bin");
    encoder.send(&bytes_at(0, 1000));
    let mut client = server.connect();
    eventually(PATIENCE, || client.get("/a.bin", "Range: bytes=999-999\r\n").status() == 206);
    for (range, start, end) in [("0-9", 0, 10), ("990-2000", 990, 1000), ("5-", 5, 1000), ("-3", 997, 1000)] {
        let reply = client.get("/a.bin", &format!("Range: bytes={range}\r\n")).expect(206);
        assert_eq!(reply.field("Content-Range"), Some(&*format!("bytes {start}-{}/*", end - 1)));
        assert_eq!(reply.body.len(), end - start);
        check_bytes(start as u64, &reply.body);
    }
    let reply = client.get("/a.bin", "Range: bytes=1000-\r\n").expect(416);
    assert_eq!(reply.field("Content-Range"), Some("bytes */1000"));

    let mut follower = server.connect();
    follower.ask("GET", "/a.bin", "Range: bytes=990-9007199254740991\r\n");
    let head = follower.head();
    assert_eq!((head.status, head.field("Content-Range")), (206, Some("bytes 990-9007199254740991/*")));
    check_bytes(990, &follow(&mut follower, 10));
    encoder.send(&bytes_at(1000, 50));
    check_bytes(1000, &follow(&mut follower, 50));
    // What has no end yet is asked for from its beginning by players.
    let mut player = server.connect();
    player.ask("GET", "/a.bin", "Range: bytes=0-\r\n");
    assert_eq!(player.head().status, 200);
    check_bytes(0, &follow(&mut player, 1050));
    assert_eq!(encoder.end(), 201);
    assert_eq!((follower.chunk(), player.chunk()), (Ok(Vec::new()), Ok(Vec::new())));
}

#[test]
fn t3_an_encoder_that_dies_breaks_its_readers_off_and_what_came_is_kept() {
    let folder = Fixture::with(&[("a.incomplete.ts", 1)]);
    let server = serve(&folder, "");
    let mut encoder = Encoder::begin(&server, "/a.ts");
    encoder.send(&bytes_at(0, 5000));
    let mut reader = server.connect();
    reader.ask("GET", "/a.ts", "");
    reader.head();
    check_bytes(0, &follow(&mut reader, 5000));
    encoder.0.reset();
    assert!(matches!(reader.chunk(), Err(Broken::Reset(_) | Broken::Cut(_))));
    eventually(PATIENCE, || folder.at("a.incomplete-2.ts").exists());
    check_bytes(0, &fs::read(folder.at("a.incomplete-2.ts")).unwrap());
    assert_eq!(names_in(folder.path()), ["a.incomplete-2.ts", "a.incomplete.ts"]);
    server.connect().get("/a.ts", "").expect(404);
    // One of which nothing came leaves nothing.
    Encoder::begin(&server, "/b.ts").0.reset();
    drop(reader);
    is_at_rest(&server);
    assert_eq!(names_in(folder.path()), ["a.incomplete-2.ts", "a.incomplete.ts"]);
}
