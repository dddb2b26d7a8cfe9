//! Files that everybody asks for, while they change: replaced, cut, removed, written in place. And floods of files that nobody
//! asks for again.
//!
//! What a version is has to be well-defined for a test of it. A file that is replaced by rename(2) has one version for each
//! inode. One that is written in place has one only where nobody looks meanwhile, since neither read(2) nor write(2) is atomic
//! for the other: there, no request is under way while the file is written. One that is cut has two, and a reply that was
//! promised before and is sent after has to end in a reset; but what sendfile(2) has queued of a large reply is the page
//! cache's own, where a cut may clear it: then zeros stand for what lies behind the cut, and nothing else does.

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde_json::Value;

use crate::support::{Broken, Client, Fixture, Launch, PATIENCE, Reply, Server, check_bytes, eventually, output};

/// Sent from memory once it is hot, and cut to half of it at a page's border.
const SMALL: usize = 8 << 10;
/// Sent by sendfile(2), in one turn.
const LARGE: usize = 64 << 10;

/// This many bytes of a version: its number and their place stand in each eight of them, so that they are never zero.
fn content(version: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (place, word) in bytes.chunks_exact_mut(8).enumerate() {
        word[..4].copy_from_slice(&(version + 1).to_le_bytes());
        word[4..].copy_from_slice(&(place as u32).to_le_bytes());
    }
    bytes
}

/// Which version these bytes are of, all of them.
#[track_caller]
fn version_of(bytes: &[u8]) -> u32 {
    let version = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes")) - 1;
    let expected = content(version, bytes.len().next_multiple_of(8));
    if bytes != &expected[..bytes.len()] {
        let wrong = bytes.iter().zip(&expected).position(|(byte, expected)| byte != expected);
        panic!("not all of version {version}, but from {wrong:?} on");
    }
    version
}

/// A time long ago that is this version's own: a file with it has settled.
fn modified(version: u32) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_577_836_800 + u64::from(version))
}

/// Puts a version in the place of what has this name, at once.
#[track_caller]
fn replace(fixture: &Fixture, name: &str, version: u32, len: usize) {
    let next = fixture.text(&format!("{name}.next"), content(version, len));
    let file = File::options().write(true).open(&next).expect("the file just made");
    file.set_modified(modified(version)).expect("a modification time");
    fs::rename(next, fixture.at(name)).expect("a replacement");
}

/// The tag of a reply; one that is weak becomes strong by age.
#[track_caller]
fn tag(reply: &Reply) -> String {
    reply.field("ETag").expect("a tag").trim_start_matches("W/").to_owned()
}

/// Which versions were seen under which tags.
#[derive(Default)]
struct Tags(Mutex<HashMap<String, (u32, usize)>>);

impl Tags {
    /// Notes a version and its length under a tag, which is of no other.
    #[track_caller]
    fn note(&self, tag: String, version: (u32, usize)) {
        let mut tags = self.0.lock().expect("no other check has failed");
        assert_eq!(*tags.entry(tag).or_insert(version), version, "a tag of another version");
    }

    fn versions(&self) -> usize {
        self.0.lock().expect("no other check has failed").len()
    }
}

/// Waits until this many requests have been answered; false when there will be no more.
fn answered(requests: usize, from: &Receiver<()>) -> bool {
    (0..requests).all(|_| from.recv_timeout(PATIENCE).is_ok())
}

const READERS: usize = 4;
const REQUESTS: usize = 1000;

#[test]
fn r13_files_that_change_all_the_time_are_one_version_whole_or_none() {
    let fixture = Fixture::new();
    let files = [("small", SMALL), ("large", LARGE)];
    files.iter().for_each(|(name, len)| replace(&fixture, name, 0, *len));
    let limits = "open_file_valid = \"2ms\"\nhot_file_valid = \"1ms\"";
    let server = Launch::of(fixture.path()).limits(limits).start();
    let (tags, counts) = (Tags::default(), Mutex::new(HashMap::new()));
    thread::scope(|scope| {
        let (progress, changes) = channel();
        for reader in 0..READERS {
            let (address, tags, counts, progress) = (server.address(), &tags, &counts, progress.clone());
            scope.spawn(move || {
                let mut client = Client::connect(address);
                for request in 0..REQUESTS {
                    let (name, len) = files[(request / 10 + reader) % 2];
                    let outcome = take_a_version(address, &mut client, name, len, tags);
                    *counts.lock().expect("no other check has failed").entry((name, outcome)).or_insert(0) += 1;
                    // The writer may have failed, and says so itself.
                    let _ = progress.send(());
                }
            });
        }
        drop(progress);
        change_all_the_time(&fixture, &files, &changes);
    });
    let counts = counts.into_inner().expect("no check has failed");
    for (name, _) in files {
        let count = |outcome| counts.get(&(name, outcome)).copied().unwrap_or(0);
        assert!(count("whole") > READERS * REQUESTS / 4 && count("missing") > 0, "{counts:?}");
    }
    assert!(tags.versions() > 50, "{} versions", tags.versions());
    server.stop();
}

/// Replaces, cuts and removes the files, each time after some requests, until there are no more.
fn change_all_the_time(fixture: &Fixture, files: &[(&str, usize)], answers: &Receiver<()>) {
    for version in 1.. {
        for (name, len) in files {
            replace(fixture, name, version, *len);
            if !answered(8, answers) {
                return;
            }
            if version % 3 == 0 {
                let file = File::options().write(true).open(fixture.at(name));
                file.and_then(|file| file.set_len(*len as u64 / 2)).expect("a shorter file");
                if !answered(8, answers) {
                    return;
                }
            }
        }
        if version % 16 == 0 {
            files.iter().for_each(|(name, _)| fs::remove_file(fixture.at(name)).expect("a file less"));
            if !answered(200, answers) {
                return;
            }
        }
    }
}

/// Asks for a file and checks what comes of it, which it names.
fn take_a_version(address: SocketAddr, client: &mut Client, name: &str, len: usize, tags: &Tags) -> &'static str {
    client.ask("GET", &format!("/{name}"), "");
    let reply = match client.try_reply_to("GET") {
        Ok(reply) => reply,
        Err(broken) => {
            let (Broken::Reset(begun) | Broken::Cut(begun)) = broken else { panic!("closed without a word") };
            if begun.len() > 8 {
                check_cut(&begun, len);
            }
            *client = Client::connect(address);
            return "cut";
        }
    };
    if reply.status() == 404 {
        return "missing";
    }
    assert_eq!(reply.status(), 200);
    assert!([len, len / 2].contains(&reply.body.len()), "{} bytes of {name}", reply.body.len());
    let version = if len == SMALL { version_of(&reply.body) } else { check_cut(&reply.body, len) };
    tags.note(tag(&reply), (version, reply.body.len()));
    "whole"
}

/// Which version this is the beginning of; behind the cut some may have been cleared, see above.
#[track_caller]
fn check_cut(bytes: &[u8], len: usize) -> u32 {
    let cut = bytes.len().min(len / 2);
    let version = version_of(&bytes[..cut]);
    let expected = content(version, len);
    let wrong = (cut..bytes.len()).find(|at| ![0, expected[*at]].contains(&bytes[*at]));
    assert_eq!(wrong, None, "not all of version {version}");
    version
}

/// What was sent of a small file is a copy of it: no change that comes later reaches it on its way, whether the file is in memory,
/// its reply known, or neither.
#[test]
fn r13_a_small_reply_is_not_reached_by_what_happens_to_the_file_once_it_is_sent() {
    let fixture = Fixture::new();
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    for asked_before in 0..5 {
        let name = format!("file{asked_before}");
        replace(&fixture, &name, 0, SMALL);
        let target = format!("/{name}");
        for _ in 0..asked_before {
            assert_eq!(version_of(&client.get(&target, "").expect(200).body), 0);
        }
        client.ask("GET", &target, "");
        client.expect_waiting(SMALL);
        let file = File::options().write(true).open(fixture.at(&name)).expect("the file");
        file.write_all_at(&content(1, SMALL), 0).expect("a change");
        let reply = client.reply().expect(200);
        assert_eq!((reply.body.len(), version_of(&reply.body)), (SMALL, 0), "asked {asked_before} times before");
    }
    server.stop();
}

/// In place, with the date set back, between two requests: a large file is the new version at once, a small one when it is not
/// believed any more, and never the old one again.
#[test]
fn r13_files_written_in_place_between_requests_are_the_new_version_and_stay_it() {
    let fixture = Fixture::new();
    let files = [("small", SMALL), ("large", LARGE)];
    let open = files.map(|(name, len)| {
        replace(&fixture, name, 0, len);
        File::options().write(true).open(fixture.at(name)).expect("the file")
    });
    let server = Launch::of(fixture.path()).limits("open_file_valid = \"1h\"\nhot_file_valid = \"1ms\"").start();
    let (tags, current, quiet) = (Tags::default(), AtomicU32::new(0), RwLock::new(()));
    thread::scope(|scope| {
        let (progress, changes): (Sender<()>, _) = channel();
        for reader in 0..READERS {
            let (address, tags, current, quiet, progress) =
                (server.address(), &tags, &current, &quiet, progress.clone());
            scope.spawn(move || {
                let (mut client, mut newest) = (Client::connect(address), [0; 2]);
                for request in 0..REQUESTS {
                    let which = (request / 10 + reader) % 2;
                    let under_way = quiet.read().expect("no other check has failed");
                    let reply = client.get(&format!("/{}", files[which].0), "").expect(200);
                    let now = current.load(SeqCst);
                    drop(under_way);
                    let version = version_of(&reply.body);
                    assert_eq!(reply.body.len(), files[which].1);
                    tags.note(tag(&reply), (version, reply.body.len()));
                    assert!((newest[which]..=now).contains(&version), "version {version} after {}", newest[which]);
                    assert!(version == now || which == 0, "fstat has said so");
                    newest[which] = version;
                    // The writer may have failed, and says so itself.
                    let _ = progress.send(());
                }
            });
        }
        drop(progress);
        for version in 1.. {
            if !answered(16, &changes) {
                break;
            }
            let _nobody_asks = quiet.write().expect("no check has failed");
            for (file, (_, len)) in open.iter().zip(files) {
                file.write_all_at(&content(version, len), 0).expect("a change");
                file.set_modified(modified(version)).expect("a modification time");
            }
            current.store(version, SeqCst);
        }
    });
    assert!(tags.versions() > 50, "{} versions", tags.versions());
    server.stop();
}

/// What a configuration may take, as `highwater check` prints it, in bytes.
#[track_caller]
fn ceiling(server: &Server, fixture: &Fixture) -> f64 {
    let mut check = Command::new(env!("CARGO_BIN_EXE_highwater"));
    check.arg("check").arg(fixture.path()).args(["--workers", "1"]).arg("--config").arg(server.config_path());
    let checked = output(check.stdin(Stdio::null()), PATIENCE);
    let text = String::from_utf8(checked.stdout).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix("# memory ceiling: ")).expect("a ceiling");
    line.strip_suffix(" MiB").and_then(|mib| mib.parse::<f64>().ok()).expect("MiB") * f64::from(1 << 20)
}

/// Promise 1: small files without end, each asked for until it would be kept, take no more than there is for them.
#[test]
fn t1_a_flood_of_small_files_stays_within_the_bytes_for_hot_files() {
    const FILES: u32 = 12_000;
    const LIMITS: &str = "connections = 16\nhigh_water_mark = \"16KiB\"\ntransfer_buffers = 4\nreceive_buffers = 16\n\
                          head_len = \"4KiB\"\nopen_files = 256\nhot_files = \"1MiB\"\noffload_threads = 1\n\
                          access_log_buffer = \"64KiB\"\nlisting_entries = 100\nlisting_bytes = \"64KiB\"\n";
    let fixture = Fixture::new();
    for number in 0..FILES {
        let file = File::create(fixture.at(&number.to_string())).expect("a file");
        file.write_all_at(&content(number, 1024), 0).expect("a file");
        file.set_modified(modified(0)).expect("a modification time");
    }
    let server = Launch::of(fixture.path()).limits(LIMITS).start();
    let ceiling = ceiling(&server, &fixture);
    let before = server.metric("process_resident_memory_bytes");
    assert!((before as f64) < ceiling, "{before} bytes at rest");
    thread::scope(|scope| {
        for reader in 0..READERS as u32 {
            let address = server.address();
            scope.spawn(move || {
                let mut client = Client::connect(address);
                for number in (reader..FILES).step_by(READERS) {
                    for _ in 0..3 {
                        assert_eq!(version_of(&client.get(&format!("/{number}"), "").expect(200).body), number);
                    }
                }
            });
        }
    });
    let after = server.metric("process_resident_memory_bytes");
    assert!((after as f64) < ceiling, "{after} bytes, over the ceiling of {ceiling}");
    // What it has for them, and for its tables; the files are four times that.
    assert!(after - before < 3 << 20, "{before} bytes before, {after} after");
    // Who wants what everybody wants gets it fast again: then no handler looks for it.
    let looked = || server.metric("file_cache_hits") + server.metric("file_cache_misses");
    let mut client = server.connect();
    eventually(PATIENCE, || {
        let before = looked();
        assert_eq!(version_of(&client.get("/7", "").expect(200).body), 7);
        looked() == before
    });
    server.stop();
}

/// A log has a line for each request, however often it was made before.
#[test]
fn every_request_is_in_the_access_log_also_one_that_comes_again_and_again() {
    let (fixture, logs) = (Fixture::new(), Fixture::new());
    replace(&fixture, "small", 0, SMALL);
    let log = logs.at("access.log");
    let server = Launch::of(fixture.path()).arg("--access-log").arg(&log).arg("--log-format").arg("json").start();
    let mut clients = [server.connect(), server.connect()];
    for number in 0..40 {
        assert_eq!(version_of(&clients[number % 2].get("/small", "").expect(200).body), 0);
    }
    server.stop();
    let lines = fs::read_to_string(&log).expect("a log");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    let as_asked =
        |line: &Value| (line["target"].as_str(), line["bytes"].as_u64()) == (Some("/small"), Some(SMALL as u64));
    assert_eq!((lines.len(), lines.iter().filter(|line| as_asked(line)).count()), (40, 40));
}

/// Whichever way bytes take from a file to a socket, they are the file's: whole and by unaligned ranges, from memory and from the
/// disk, on a connection that goes on and over a Unix socket.
#[test]
fn every_send_path_sends_the_same_bytes() {
    const LEN: u64 = 3_000_001;
    let fixture = Fixture::with(&[("film.bin", LEN), ("page.bin", 70_000)]);
    for path in ["auto", "sendfile", "splice", "ring-splice", "read", "send-zc"] {
        let socket = fixture.at(&format!("{path}.sock"));
        let listen = format!("unix:{}", socket.display());
        let launch = Launch::of(fixture.path()).arg("--send-path").arg(path).arg("--listen").arg(listen);
        let server = launch.arg("--high-water-mark").arg("64KiB").start();
        for mut client in [server.connect(), Client::connect_unix(&socket)] {
            for _ in 0..2 {
                // Where the file system can do without it, the file leaves memory.
                let film = File::open(fixture.at("film.bin")).unwrap();
                film.sync_all().unwrap();
                posix_fadvise(&film, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
                let reply = client.get("/film.bin", "").expect(200);
                assert_eq!(reply.body.len() as u64, LEN, "{path}");
                check_bytes(0, &reply.body);
                let reply = client.get("/film.bin", "Range: bytes=4097-1000000\r\n").expect(206);
                assert_eq!(reply.body.len(), 995_904, "{path}");
                check_bytes(4097, &reply.body);
                check_bytes(0, &client.get("/page.bin", "").expect(200).body);
            }
        }
        let pipes = server.metric("pipes_open");
        assert_eq!(pipes > 0, path.contains("splice"), "{pipes} pipes for {path}");
        assert_eq!(server.metric("pipes_in_use"), 0);
        server.stop();
    }
}
