//! Live media: files that are read while they are made, playlists that are replaced whole, and who waits for what is to come.

use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::signal::Signal;

use crate::support::{
    Broken, Client, Fixture, Framing, Held, Launch, PATIENCE, Server, bytes_at, check_bytes, eventually, names_in,
    not_shown,
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
    assert_eq!(server.metric("bytes_received"), LEN as u64, "counted as they come");
    let info = server.connect().get("/film.ts?info", "").expect(200);
    let told: serde_json::Value = serde_json::from_str(info.text()).expect("JSON");
    let expected = serde_json::json!({ "name": "film.ts", "size": LEN, "type": "video/mp2t", "live": true });
    assert_eq!(told, expected);
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
    eventually(PATIENCE, || names_in(folder.path()) == ["a.incomplete-2.ts", "a.incomplete.ts"]);
}

#[test]
fn promise5_what_came_before_a_kill_is_kept_and_marked_at_the_next_start() {
    let folder = Fixture::new();
    let mut server = serve(&folder, "");
    Encoder::ask(&server, "/whole.ts").end();
    let mut encoder = Encoder::begin(&server, "/show/1/film.mp4");
    encoder.send(&bytes_at(0, 100_000));
    let mut playlist = Encoder::ask(&server, "/show/1/live.m3u8");
    playlist.send(b"#EXTM3U\n");
    let in_store = |folder: &Fixture| names_in(folder.path()).iter().filter(|name| name.starts_with(".live/")).count();
    let lens = || -> Vec<u64> {
        let names = names_in(folder.path()).into_iter().filter(|name| name.starts_with(".live/show/1/"));
        names.map(|name| fs::metadata(folder.at(&name)).map_or(0, |metadata| metadata.len())).collect()
    };
    eventually(PATIENCE, || lens() == [100_000, 8]);
    server.signal(Signal::SIGKILL);
    server.wait();
    // A second process that starts beside a running one leaves alone what that is making.
    let next = serve(&folder, "");
    eventually(PATIENCE, || folder.at("show/1/film.incomplete.mp4").exists() && in_store(&folder) == 0);
    let mut running = Encoder::begin(&next, "/film.ts");
    running.send(&bytes_at(0, 5));
    eventually(PATIENCE, || next.connect().get("/film.ts", "Range: bytes=4-4\r\n").status() == 206);
    let third = serve(&folder, "");
    third.connect().get("/film.ts", "").expect(404);
    running.send(&bytes_at(5, 5));
    assert_eq!(running.end(), 201);
    assert_eq!(names_in(folder.path()), ["film.ts", "show/1/film.incomplete.mp4", "whole.ts"]);
    check_bytes(0, &fs::read(folder.at("show/1/film.incomplete.mp4")).unwrap());
    next.connect().get("/show/1/film.incomplete.mp4", "").expect(200);
    third.stop();
    next.stop();
}

#[test]
fn a_second_encoder_is_refused() {
    let folder = Fixture::new();
    let server = serve(&folder, "");
    let mut first = Encoder::begin(&server, "/a.ts");
    for _ in 0..8 {
        // Before its body is asked for (F8).
        let mut second = server.connect();
        second.ask("PUT", "/a.ts", "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n");
        second.reply().refuses(409, "BEING_MADE");
        eventually(PATIENCE, || {
            server.log().contains("an encoder is refused: another is making the file of this name")
        });
    }
    first.send(&bytes_at(0, 10));
    assert_eq!(first.end(), 201);
    assert_eq!(Encoder::ask(&server, "/a.ts").end(), 204);
    assert_eq!(names_in(folder.path()), ["a.ts"]);
}

#[test]
fn a_second_encoder_takes_over_and_what_the_first_has_made_is_kept() {
    let folder = Fixture::new();
    let server = serve(&folder, "on_second_encoder = \"take-over\"");
    let mut first = Encoder::begin(&server, "/a.ts");
    first.send(&bytes_at(0, 1000));
    let mut reader = server.connect();
    reader.ask("GET", "/a.ts", "");
    reader.head();
    check_bytes(0, &follow(&mut reader, 1000));
    let mut second = Encoder::ask(&server, "/a.ts");
    assert!(reader.chunk().is_err(), "its file will not be whole");
    first.0.reply().refuses(409, "TAKEN_OVER");
    eventually(PATIENCE, || folder.at("a.incomplete.ts").exists());
    second.send(b"another");
    let mut reader = server.connect();
    reader.ask("GET", "/a.ts", "");
    assert_eq!(reader.head().status, 200);
    assert_eq!(follow(&mut reader, 7), b"another");
    assert_eq!(second.end(), 201);
    assert_eq!(fs::read(folder.at("a.ts")).unwrap(), b"another");
    check_bytes(0, &fs::read(folder.at("a.incomplete.ts")).unwrap());
    drop((first.0, reader));
    is_at_rest(&server);
}

#[test]
fn a_finished_file_is_replaced_at_the_end_and_stays_when_the_new_one_breaks_off() {
    let folder = Fixture::new();
    folder.text("a.ts", "old");
    let server = serve(&folder, "");
    let all = |expected: &[u8]| (0..8).for_each(|_| assert_eq!(server.connect().get("/a.ts", "").body, expected));
    all(b"old");
    Encoder::begin(&server, "/a.ts").0.reset();
    is_at_rest(&server);
    all(b"old");
    let mut encoder = Encoder::begin(&server, "/a.ts");
    encoder.send(b"new");
    assert_eq!(fs::read(folder.at("a.ts")).unwrap(), b"old");
    assert_eq!(encoder.end(), 204);
    // Whatever a worker believed of the name a moment ago.
    all(b"new");
}

#[test]
fn a_playlist_is_replaced_whole_and_seen_at_once() {
    let folder = Fixture::new();
    let server = serve(&folder, "");
    let old = "#EXTM3U\n".to_owned() + &"# old\n".repeat(300_000);
    let put = |text: &str| server.connect().upload("PUT", "/show/live.m3u8", "", Framing::Chunks(999), text.as_bytes());
    put(&old).expect(201);
    let mut slow = Client::connect_narrow(server.address(), 4096);
    slow.ask("GET", "/show/live.m3u8", "");
    assert_eq!(slow.head().content_length(), Some(old.len() as u64));
    let mut half = Encoder::ask(&server, "/show/live.m3u8");
    half.send(b"#EXTM3U\n# new\n");
    for n in 0..20 {
        let reply = server.connect().get("/show/live.m3u8", "").expect(200);
        assert_eq!(reply.body.len(), old.len(), "half of a playlist");
        assert_eq!(reply.field("Content-Type"), Some("application/vnd.apple.mpegurl"));
        if n % 5 == 0 {
            // Another is faster, and is replaced by the one that ends last.
            put(&old).expect(204);
        }
    }
    assert_eq!(half.end(), 204);
    for _ in 0..8 {
        assert_eq!(server.connect().get("/show/live.m3u8", "").text(), "#EXTM3U\n# new\n");
    }
    assert_eq!(slow.body(old.len()), old.as_bytes(), "who began to read the old one gets all of it");
    // One that breaks off changes nothing, and leaves nothing.
    let mut broken = Encoder::ask(&server, "/show/live.m3u8");
    broken.send(b"#EXTM3U\n");
    eventually(PATIENCE, || names_in(folder.path()).len() == 2);
    broken.0.reset();
    eventually(PATIENCE, || names_in(folder.path()) == ["show/live.m3u8"]);
    let too_long = vec![b'#'; (4 << 20) + 1];
    for framing in [Framing::Length, Framing::Chunks(1 << 20)] {
        server.connect().upload("PUT", "/show/live.m3u8", "", framing, &too_long).refuses(413, "LIMIT_FILE_SIZE");
    }
    assert_eq!(server.connect().get("/show/live.m3u8", "").text(), "#EXTM3U\n# new\n");
}

/// A playlist of low latency: so many whole segments, and parts of the next. What comes next is waited for longer than a test may
/// take, which is three times its target duration.
fn playlist(segments: u64, parts: u64) -> String {
    let head = "#EXTM3U\n#EXT-X-TARGETDURATION:20\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=0.6\n\
                #EXT-X-PART-INF:PART-TARGET=0.2\n";
    let whole = (0..segments).map(|n| format!("#EXTINF:1,\n{n}.m4s\n"));
    let parts =
        (0..parts).map(|n| format!("#EXT-X-PART:DURATION=0.2,URI=\"{segments}.{n}.m4s\"\n")).collect::<String>();
    let hint = format!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{segments}.{}.m4s\"\n", parts.lines().count());
    [head.to_owned(), whole.collect(), parts, hint].concat()
}

#[test]
fn a_reload_waits_for_the_part_that_it_names() {
    let folder = Fixture::new();
    let server = serve(&folder, "");
    let put = |text: String| server.connect().upload("PUT", "/a/live.m3u8", "", Framing::Chunks(99), text.as_bytes());
    // Nothing was put: nothing to wait for.
    server.connect().get("/a/live.m3u8?_HLS_msn=7", "").expect(404);
    put(playlist(3, 1)).expect(201);
    for query in ["_HLS_msn=2", "_HLS_msn=3&_HLS_part=0", "_HLS_msn=0&_HLS_part=9", "a=b"] {
        assert_eq!(server.connect().get(&format!("/a/live.m3u8?{query}"), "").expect(200).text(), playlist(3, 1));
    }
    for query in ["_HLS_part=1", "_HLS_msn=x", "_HLS_msn=6", "_HLS_msn=3&_HLS_part=99"] {
        let reply = server.connect().get(&format!("/a/live.m3u8?{query}"), "Origin: https://a.example\r\n").expect(400);
        assert_eq!(reply.field("Access-Control-Allow-Origin"), Some("*"));
    }
    let wait = |query: &str| {
        let waiting = (0..8).map(|_| {
            let mut client = server.connect();
            client.ask("GET", &format!("/a/live.m3u8?{query}"), "");
            client
        });
        waiting.collect::<Vec<Client>>()
    };
    let (next_part, next_segment) = (wait("_HLS_msn=3&_HLS_part=1"), wait("_HLS_msn=3"));
    eventually(PATIENCE, || server.metric("transfers") == 17);
    put(playlist(3, 2)).expect(204);
    next_part.into_iter().for_each(|mut client| assert_eq!(client.reply().expect(200).text(), playlist(3, 2)));
    // The others still wait.
    eventually(PATIENCE, || server.metric("transfers") == 9);
    put(playlist(4, 0)).expect(204);
    next_segment.into_iter().for_each(|mut client| assert_eq!(client.reply().expect(200).text(), playlist(4, 0)));
    // Three target durations, and no news.
    put(playlist(4, 0).replace("TARGETDURATION:20", "TARGETDURATION:1")).expect(204);
    server.connect().get("/a/live.m3u8?_HLS_msn=4", "").refuses(503, "STALLED");
    put(playlist(4, 0)).expect(204);
    let mut last = server.connect();
    last.ask("GET", "/a/live.m3u8?_HLS_msn=5", "");
    put(playlist(4, 0) + "#EXT-X-ENDLIST\n").expect(204);
    assert!(last.reply().expect(200).text().ends_with("#EXT-X-ENDLIST\n"));
    drop(last);
    is_at_rest(&server);
}

#[test]
fn t6_a_server_that_drains_sends_who_waits_to_the_next_one() {
    let folder = Fixture::new();
    let server = serve(&folder, "");
    server.connect().put("/a/live.m3u8", playlist(3, 1).as_bytes()).expect(201);
    let mut waiting: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    for (client, target) in waiting.iter_mut().zip(["/a/live.m3u8?_HLS_msn=3", "/a/3.1.m4s"].into_iter().cycle()) {
        client.ask("GET", target, "");
    }
    eventually(PATIENCE, || server.metric("transfers") == 9);
    server.signal(Signal::SIGTERM);
    for mut client in waiting {
        let reply = client.reply();
        assert_eq!(reply.field("Retry-After"), Some("1"));
        reply.refuses(503, "GOING_AWAY");
    }
    server.ended();
}

#[test]
fn an_announced_part_is_waited_for() {
    let folder = Fixture::new();
    let server = serve(&folder, "");
    server.connect().put("/a/live.m3u8", playlist(3, 1).as_bytes()).expect(201);
    server.connect().get("/a/3.2.m4s", "").expect(404);
    server.connect().get("/3.1.m4s", "").expect(404);
    let mut waiting: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    waiting.iter_mut().for_each(|client| client.ask("GET", "/a/3.1.m4s", ""));
    eventually(PATIENCE, || server.metric("transfers") == 9);
    let mut encoder = Encoder::begin(&server, "/a/3.1.m4s");
    encoder.send(&bytes_at(0, 500));
    for client in &mut waiting {
        assert_eq!(client.head().status, 200);
        check_bytes(0, &follow(client, 500));
    }
    assert_eq!(encoder.end(), 201);
    waiting.iter_mut().for_each(|client| assert_eq!(client.chunk(), Ok(Vec::new())));
    // The playlist still announces it, and it is there.
    server.connect().get("/a/3.1.m4s", "").expect(200);
}

#[test]
fn a_full_disk_is_507_and_what_came_is_kept() {
    let folder = Fixture::new();
    let Some(launch) = launch(&folder, "").small_disk(folder.path(), 1 << 20) else {
        return not_shown("this machine lets nobody mount a small disk");
    };
    let server = launch.start();
    let disk = server.sees(folder.path());
    let mut encoder = Encoder::begin(&server, "/a.ts");
    encoder.send(&bytes_at(0, 500_000));
    let mut reader = server.connect();
    reader.ask("GET", "/a.ts", "");
    reader.head();
    check_bytes(0, &follow(&mut reader, 500_000));
    // It may have been told before all of it is sent.
    let _ = encoder.0.try_send(chunk(&bytes_at(500_000, 2_000_000)));
    encoder.0.reply().refuses(507, "STORAGE_FULL");
    while reader.chunk().is_ok() {}
    eventually(PATIENCE, || names_in(&disk) == ["a.incomplete.ts"]);
    let kept = fs::read(disk.join("a.incomplete.ts")).unwrap();
    assert!(kept.len() >= 500_000, "{}", kept.len());
    check_bytes(0, &kept);
    drop((encoder.0, reader));
    is_at_rest(&server);
    server.stop();
}

#[test]
fn t1_readers_that_stop_cost_no_memory_and_hold_nobody_up() {
    const READERS: usize = 200;
    const PIECE: usize = 200_000;
    let folder = Fixture::new();
    let server = launch(&folder, "").arg("--workers").arg("2").start();
    let descriptors = server.descriptors();
    let mut encoder = Encoder::begin(&server, "/a.ts");
    let mut readers: Vec<Client> = (0..READERS).map(|_| server.connect()).collect();
    for reader in &mut readers {
        reader.ask("GET", "/a.ts", "");
        reader.head();
    }
    let stopped = readers.split_off(READERS / 2);
    let mut send = |at: u64, readers: &mut Vec<Client>| {
        encoder.send(&bytes_at(at, PIECE));
        readers.iter_mut().for_each(|reader| check_bytes(at, &follow(reader, PIECE)));
    };
    (0..4).for_each(|n| send(n * PIECE as u64, &mut readers));
    let before = server.memory("VmRSS");
    (4..16).for_each(|n| send(n * PIECE as u64, &mut readers));
    let after = server.memory("VmRSS");
    assert!(after < before + (1 << 20), "{before} bytes before, {after} after");
    assert_eq!(encoder.end(), 201);
    readers.iter_mut().for_each(|reader| assert_eq!(reader.chunk(), Ok(Vec::new())));
    drop((readers, stopped));
    is_at_rest(&server);
    // One of the file may be open in each worker's cache, beside its root.
    eventually(PATIENCE, || server.descriptors() <= descriptors + 4);
}

#[test]
fn p1_only_plain_names_beneath_the_folder_are_taken() {
    let folder = Fixture::new();
    let outside = Fixture::new();
    symlink(outside.path(), folder.at("away")).expect("a link");
    folder.text("file", "a file");
    let server = serve(&folder, "name_patterns = [\"*.ts\", \"*.m3u8\", \"file\", \"sub\"]");
    fs::create_dir(folder.at("sub")).unwrap();
    let put = |target: &str| server.connect().put(target, b"bytes");
    for target in ["/.hidden.ts", "/.", "/", "/a%2fb.ts", "/a%00.ts", "/%ff.ts", "/a.ts/", "/..", "/a%0a.ts"] {
        assert_eq!(put(target).status(), 400, "{target}");
    }
    for target in ["/.live/a.ts", "/.git/a.ts", "/away/a.ts", "/away/b/a.ts", "/file/a.ts"] {
        put(target).refuses(404, "NO_DIRECTORY");
    }
    put("/a.exe").refuses(403, "NAME_NOT_ALLOWED");
    put("/sub").refuses(409, "NAME_TAKEN");
    put(&format!("{}/a.ts", "/a".repeat(17))).refuses(400, "DEPTH");
    put(&format!("/{}.ts", "a".repeat(252))).refuses(400, "NAME");
    put(&format!("{}/a.ts", "/a".repeat(16))).expect(201);
    let mut client = server.connect();
    client
        .upload("PUT", "/a.ts", "Content-Range: bytes 0-4/9\r\n", Framing::Length, b"bytes")
        .refuses(400, "CONTENT_RANGE");
    server.connect().request("PATCH", "/a.ts", "").refuses(405, "METHOD");
    let mut encoder = Encoder::begin(&server, "/b.ts");
    encoder.send(b"bytes");
    let hidden =
        names_in(folder.path()).into_iter().find(|name| name.starts_with(".live/")).expect("what is being made");
    server.connect().get(&format!("/{hidden}"), "").expect(404);
    server.connect().get("/.live/", "").expect(404);
    assert!(names_in(outside.path()).is_empty());
}

#[test]
fn delete_takes_away_what_is_whole_where_that_is_allowed() {
    let folder = Fixture::new();
    folder.text("a.ts", "bytes");
    let refusing = serve(&folder, "");
    let reply = refusing.connect().request("DELETE", "/a.ts", "").refuses(405, "METHOD");
    assert_eq!(reply.field("Allow"), Some("GET, HEAD, PUT, POST, OPTIONS"));
    let server = serve(&folder, "delete = true");
    server.connect().get("/a.ts", "").expect(200);
    server.connect().request("DELETE", "/a.ts", "").expect(204);
    (0..8).for_each(|_| drop(server.connect().get("/a.ts", "").expect(404)));
    server.connect().request("DELETE", "/a.ts", "").refuses(404, "NO_FILE");
    let encoder = Encoder::begin(&server, "/a.ts");
    server.connect().request("DELETE", "/a.ts", "").refuses(409, "BEING_MADE");
    assert_eq!(encoder.end(), 201);
    let preflight = "Origin: https://a.example\r\nAccess-Control-Request-Method: DELETE\r\n";
    let reply = server.connect().request("OPTIONS", "/a.ts", preflight).expect(204);
    assert_eq!(reply.field("Access-Control-Allow-Methods"), Some("GET, HEAD, PUT, POST, DELETE, OPTIONS"));
}

#[test]
fn what_is_too_long_is_413_and_what_came_is_kept() {
    let folder = Fixture::new();
    let server = serve(&folder, "file_len = 10000");
    server.connect().put("/a.ts", &bytes_at(0, 10_001)).refuses(413, "LIMIT_FILE_SIZE");
    assert!(names_in(folder.path()).is_empty(), "refused before it came");
    server.connect().put("/a.ts", &bytes_at(0, 10_000)).expect(201);
    let mut encoder = Encoder::begin(&server, "/b.ts");
    encoder.send(&bytes_at(0, 9000));
    encoder.send(&bytes_at(9000, 1001));
    encoder.0.reply().refuses(413, "LIMIT_FILE_SIZE");
    eventually(PATIENCE, || names_in(folder.path()) == ["a.ts", "b.incomplete.ts"]);
    assert_eq!(fs::read(folder.at("b.incomplete.ts")).unwrap(), bytes_at(0, 10_000));
}

#[test]
fn an_encoder_that_stalls_is_given_up() {
    let folder = Fixture::new();
    let limits = "request_min_rate = \"1000B/s\"\nrate_grace = \"3s\"\n";
    let config =
        format!("[limits]\n{limits}[[route]]\n[route.media]\nroot = \"{}\"\n[route.live]\n", folder.path().display());
    let server = Launch::routes().config(&config).start();
    let mut encoder = Encoder::begin(&server, "/a.ts");
    encoder.send(&bytes_at(0, 100));
    let mut reader = server.connect();
    reader.ask("GET", "/a.ts", "");
    reader.head();
    check_bytes(0, &follow(&mut reader, 100));
    assert!(reader.chunk().is_err());
    eventually(PATIENCE, || names_in(folder.path()) == ["a.incomplete.ts"]);
}

#[test]
fn promise6_files_at_once_are_bounded() {
    let folder = Fixture::new();
    let config = format!(
        "[limits]\nuploads = 2\n[[route]]\n[route.media]\nroot = \"{}\"\n[route.live]\n",
        folder.path().display()
    );
    let server = Launch::routes().config(&config).start();
    let first = Encoder::begin(&server, "/a.ts");
    let second = Encoder::begin(&server, "/b.ts");
    server.connect().put("/c.ts", b"bytes").refuses(503, "BUSY");
    assert_eq!((first.end(), second.end()), (201, 201));
    server.connect().put("/c.ts", b"bytes").expect(201);
}

#[test]
fn t6_neither_a_reload_nor_a_drain_cuts_an_encoder_or_its_readers() {
    let folder = Fixture::new();
    let mut server = serve(&folder, "");
    let mut encoder = Encoder::begin(&server, "/a.ts");
    encoder.send(&bytes_at(0, 10));
    let mut before = server.connect();
    before.ask("GET", "/a.ts", "");
    before.head();
    check_bytes(0, &follow(&mut before, 10));
    let root = folder.path().display();
    let config = format!("[[route]]\n[route.media]\nroot = \"{root}\"\n[route.live]\ndelete = true\n");
    fs::write(server.config_path(), config).expect("another configuration");
    server.signal(Signal::SIGHUP);
    eventually(PATIENCE, || server.connect().request("DELETE", "/none.ts", "").status() == 404);
    // What is live is so for the new routes too, on all workers.
    let mut after: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    for reader in &mut after {
        reader.ask("GET", "/a.ts", "");
        reader.head();
        check_bytes(0, &follow(reader, 10));
    }
    eventually(PATIENCE, || server.connect().put("/a.ts", b"bytes").status() == 409);
    server.signal(Signal::SIGTERM);
    eventually(PATIENCE, || std::net::TcpStream::connect(server.address()).is_err());
    encoder.send(&bytes_at(10, 10));
    for reader in after.iter_mut().chain([&mut before]) {
        check_bytes(10, &follow(reader, 10));
    }
    assert_eq!(encoder.end(), 201);
    after.iter_mut().chain([&mut before]).for_each(|reader| assert_eq!(reader.chunk(), Ok(Vec::new())));
    drop((after, before));
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn t6_what_had_come_at_the_end_of_a_drain_is_marked_at_the_next_start() {
    let folder = Fixture::new();
    let root = folder.path().display();
    let config =
        format!("[limits]\nshutdown_timeout = \"1s\"\n[[route]]\n[route.media]\nroot = \"{root}\"\n[route.live]\n");
    let start = || Launch::routes().config(&config).start();
    let mut server = start();
    let mut encoder = Encoder::begin(&server, "/a.ts");
    encoder.send(&bytes_at(0, 1000));
    let mut reader = server.connect();
    reader.ask("GET", "/a.ts", "");
    reader.head();
    check_bytes(0, &follow(&mut reader, 1000));
    server.signal(Signal::SIGTERM);
    assert!(reader.chunk().is_err(), "it is cut, and can tell");
    server.wait();
    let next = start();
    eventually(PATIENCE, || names_in(folder.path()) == ["a.incomplete.ts"]);
    check_bytes(0, &fs::read(folder.at("a.incomplete.ts")).unwrap());
    next.stop();
}

/// An encoder that has put these bytes and goes on, once a reader can have them.
#[track_caller]
fn begun(server: &Server, target: &str, bytes: &[u8]) -> Encoder {
    let mut encoder = Encoder::begin(server, target);
    encoder.send(bytes);
    let last = format!("Range: bytes={0}-{0}\r\n", bytes.len() - 1);
    eventually(PATIENCE, || server.connect().get(target, &last).status() == 206);
    encoder
}

#[test]
fn name_patterns_hold_for_the_name_that_is_stored_or_taken_away() {
    let folder = Fixture::new();
    folder.text("cam2-7.ts", "another camera's");
    let server = serve(&folder, "name_patterns = [\"cam1-*.ts\"]\ndelete = true");
    for target in ["/cam2-7.ts", "/cam1-%5Ccam2-7.ts"] {
        server.connect().put(target, b"x").refuses(403, "NAME_NOT_ALLOWED");
        server.connect().request("DELETE", target, "").refuses(403, "NAME_NOT_ALLOWED");
    }
    assert_eq!(fs::read(folder.at("cam2-7.ts")).expect("the file"), b"another camera's");
    server.stop();
}

#[test]
fn r1_a_condition_never_holds_for_what_is_being_made() {
    let folder = Fixture::new();
    folder.text("a.bin", vec![b'o'; 5000]);
    let server = serve(&folder, "");
    let old = server.connect().get("/a.bin", "").expect(200);
    let tag = old.field("ETag").expect("a tag").to_owned();
    let encoder = begun(&server, "/a.bin", &bytes_at(0, 1000));
    let range = "Range: bytes=10-19\r\n";
    server.connect().get("/a.bin", &format!("{range}If-Match: {tag}\r\n")).expect(412);
    check_bytes(10, &server.connect().get("/a.bin", &format!("{range}If-Match: *\r\n")).expect(206).body);
    // What is said about a file is said of the one that is whole.
    let info = server.connect().get("/a.bin?info", "").expect(200);
    assert_eq!(info.field("Content-Type"), Some("application/json"));
    assert_eq!(encoder.end(), 204);
    server.stop();
}

#[test]
fn an_encoder_that_wants_to_replace_nothing_does_not() {
    let folder = Fixture::new();
    let server = serve(&folder, "");
    for name in ["a.ts", "a.m3u8"] {
        folder.text(name, "finished");
        let new =
            |target: &str| server.connect().upload("PUT", target, "If-None-Match: *\r\n", Framing::Length, b"new");
        new(&format!("/{name}")).refuses(412, "NAME_TAKEN");
        assert_eq!(fs::read(folder.at(name)).expect("the file"), b"finished");
        new(&format!("/b-{name}")).expect(201);
    }
    server.stop();
}

#[test]
fn a_directory_on_another_file_system_is_refused_before_the_body() {
    let folder = Fixture::new();
    fs::create_dir(folder.at("cam")).expect("a directory");
    let Some(launch) = launch(&folder, "").small_disk(&folder.at("cam"), 1 << 20) else {
        return not_shown("this machine lets nobody mount a small disk");
    };
    let server = launch.start();
    let mut client = server.connect();
    client.ask("PUT", "/cam/a.ts", "Content-Length: 1000\r\nExpect: 100-continue\r\n");
    client.reply().refuses(501, "OTHER_FILE_SYSTEM");
    server.connect().put("/a.ts", b"x").expect(201);
    server.stop();
}

#[test]
fn a_rate_holds_for_what_is_being_made() {
    let folder = Fixture::new();
    let root = folder.path().display();
    let media = format!("root = \"{root}\"\nlimit_rate = \"4MiB/s\"\nrate_burst = \"0\"");
    let config = format!("[[route]]\n[route.media]\n{media}\n[route.live]\n");
    let server = Launch::routes().config(&config).start();
    let encoder = begun(&server, "/a.ts", &bytes_at(0, 1_000_000));
    let mut follower = server.connect();
    follower.ask("GET", "/a.ts", "");
    follower.head();
    let mut taken = 0;
    while taken < 1_000_000 {
        taken += follower.chunk().expect("a stream that goes on").len();
    }
    check_bytes(1, &server.connect().get("/a.ts", "Range: bytes=1-999999\r\n").expect(206).body);
    assert!(server.metric("paced_replies") >= 2);
    assert_eq!(encoder.end(), 201);
    server.stop();
}

#[test]
fn pages_that_anybody_may_put_run_nothing() {
    let folder = Fixture::new();
    let policy = |keys: &str, name: &str| {
        let server = serve(&folder, keys);
        let reply = server.connect().get(&format!("/{name}"), "").expect(200);
        let policy = reply.field("Content-Security-Policy").map(str::to_owned);
        server.stop();
        policy
    };
    for name in ["a.html", "a.svg", "a.mp4"] {
        folder.text(name, "<script>");
    }
    assert_eq!(policy("", "a.html").as_deref(), Some("sandbox"));
    assert_eq!(policy("", "a.svg").as_deref(), Some("sandbox"));
    assert_eq!(policy("", "a.mp4"), None);
    let server = serve(&folder, "");
    let mut encoder = Encoder::begin(&server, "/live.html");
    let page = b"<script>alert(1)</script>";
    encoder.send(page);
    let mut first = server.connect();
    first.ask("GET", "/live.html", "");
    first.head();
    // So there is what a range names.
    assert_eq!(follow(&mut first, page.len()), page);
    for (fields, status) in [("", 200), ("Range: bytes=0-3\r\n", 206)] {
        let mut reader = server.connect();
        reader.ask("GET", "/live.html", fields);
        let head = reader.head();
        assert_eq!((head.status, head.field("Content-Security-Policy")), (status, Some("sandbox")));
    }
    assert_eq!(encoder.end(), 201);
    server.stop();
    // Where no pages are taken, those that are there are the operator's own.
    assert_eq!(policy("name_patterns = [\"*.ts\", \"*.m3u8\"]", "a.html"), None);
}
