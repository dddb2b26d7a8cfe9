//! One that writes and many that read, against a server of its own that can cheat each reader in each way that has to be told.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// By path: what has been published there, and by whom it is read.
#[derive(Default)]
struct Topics {
    published: Mutex<HashMap<String, Topic>>,
    changed: Condvar,
}

#[derive(Default)]
struct Topic {
    count: usize,
    subscribers: Vec<TcpStream>,
    body: Vec<u8>,
    has_ended: bool,
}

fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, topics) = (listener.local_addr().unwrap(), Arc::new(Topics::default()));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let topics = topics.clone();
            thread::spawn(move || answer_all(stream, &topics));
        }
    });
    address
}

/// Ends with the connection.
fn answer_all(mut stream: TcpStream, topics: &Topics) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut words = line.split(' ');
        let (method, path) = (words.next()?.to_string(), words.next()?.to_string());
        let mut length = 0;
        loop {
            let mut field = String::new();
            reader.read_line(&mut field).ok()?;
            if let Some(value) = field.strip_prefix("Content-Length: ") {
                length = value.trim().parse().ok()?;
            }
            if field.trim().is_empty() {
                break;
            }
        }
        match method.as_str() {
            "GET" if path.starts_with("/live") => return follow(&mut stream, &path, topics),
            "GET" => return subscribe(stream, path, topics),
            "PUT" => take(&mut reader, &path, topics)?,
            _ => {
                let mut data = vec![0; length];
                reader.read_exact(&mut data).ok()?;
                if path == "/slow" {
                    thread::sleep(Duration::from_millis(50));
                }
                publish(&path, &data, topics);
            }
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{{}}").ok()?;
    }
}

fn subscribe(mut stream: TcpStream, path: String, topics: &Topics) -> Option<()> {
    let framing = if matches!(path.as_str(), "/endless" | "/refused") { "" } else { "Transfer-Encoding: chunked\r\n" };
    let status = if path == "/refused" { "503 Busy\r\nContent-Length: 0" } else { "200 OK" };
    let mut topics = topics.published.lock().unwrap();
    write!(stream, "HTTP/1.1 {status}\r\n{framing}\r\n").ok()?;
    send(&mut stream, &path, b": hi\n\n");
    topics.entry(path).or_default().subscribers.push(stream);
    Some(())
}

fn publish(path: &str, data: &[u8], topics: &Topics) {
    let mut topics = topics.published.lock().unwrap();
    let topic = topics.entry(path.to_string()).or_default();
    let number = topic.count;
    topic.count += 1;
    let event = [b"id: 1\ndata: ", data, b"\n\n"].concat();
    for (i, subscriber) in topic.subscribers.iter_mut().enumerate() {
        // Each cheats one subscriber, by the third event.
        match path {
            _ if i != 1 || number != 2 => send(subscriber, path, &event),
            "/dropped" => {}
            "/doubled" => (0..2).for_each(|_| send(subscriber, path, &event)),
            "/flipped" => {
                let mut wrong = event.clone();
                wrong[500] ^= 1;
                send(subscriber, path, &wrong);
            }
            "/closed" => drop(subscriber.shutdown(std::net::Shutdown::Both)),
            "/named" => send(subscriber, path, &[b"event: lost\ndata: one\n\n".as_slice(), &event].concat()),
            _ => send(subscriber, path, &event),
        }
    }
}

fn send(subscriber: &mut TcpStream, path: &str, event: &[u8]) {
    let framed = match path {
        "/endless" => event.to_vec(),
        // Cut where no line ends.
        "/cut" => event.chunks(7).flat_map(chunk).collect(),
        _ => chunk(event),
    };
    // A subscriber that has left is not this test's concern.
    let _ = subscriber.write_all(&framed);
}

fn chunk(piece: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()
}

/// Takes an encoder's body.
fn take(reader: &mut impl BufRead, path: &str, topics: &Topics) -> Option<()> {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let length = usize::from_str_radix(line.trim(), 16).ok()?;
        let mut piece = vec![0; length + 2];
        reader.read_exact(&mut piece).ok()?;
        piece.truncate(length);
        if path == "/live/flipped" && length > 0 {
            piece[length - 1] ^= 1;
        }
        let mut all = topics.published.lock().unwrap();
        let topic = all.entry(path.to_string()).or_default();
        topic.body.extend_from_slice(&piece);
        topic.has_ended = length == 0;
        topics.changed.notify_all();
        if length == 0 {
            return Some(());
        }
    }
}

fn follow(stream: &mut TcpStream, path: &str, topics: &Topics) -> Option<()> {
    let mut sent = 0;
    loop {
        let mut all = topics.published.lock().unwrap();
        let Some(topic) = all.get(path).filter(|topic| !topic.body.is_empty()) else {
            drop(all);
            return write!(stream, "HTTP/1.1 404 No\r\nContent-Length: 4\r\n\r\nnone").ok();
        };
        if sent == 0 {
            write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").ok()?;
        }
        if sent == topic.body.len() && topic.has_ended {
            let end: &[u8] = if path == "/live/cut" { b"" } else { b"0\r\n\r\n" };
            return stream.write_all(end).ok();
        }
        if sent == topic.body.len() {
            all = topics.changed.wait(all).unwrap();
        }
        let piece = all.get(path)?.body[sent..].to_vec();
        drop(all);
        if !piece.is_empty() {
            stream.write_all(&chunk(&piece)).ok()?;
        }
        sent += piece.len();
    }
}

struct Outcome {
    code: Option<i32>,
    report: Value,
}

fn loadgen(path: &str, arguments: &[&str]) -> Outcome {
    run(path, "10s", arguments)
}

fn run(path: &str, timeout: &str, arguments: &[&str]) -> Outcome {
    let url = format!("http://{}{path}", serve());
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args([&url, "--json", "--timeout", timeout])
        .args(arguments)
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    Outcome { code: output.status.code(), report }
}

const EVENTS: [&str; 5] = ["--subscribe", "--events", "5", "-c", "4"];

fn events(path: &str, arguments: &[&str]) -> Outcome {
    loadgen(path, &[&EVENTS[..], arguments].concat())
}

#[track_caller]
fn check_right(path: &str, arguments: &[&str], deliveries: u64) -> Value {
    let outcome = events(path, arguments);
    assert_eq!(outcome.report["errors"], json!({}), "{path} {arguments:?}");
    assert_eq!(outcome.report["deliveries"], deliveries, "{path} {arguments:?}");
    assert_eq!(outcome.code, Some(0));
    outcome.report
}

#[track_caller]
fn check_caught(path: &str, errors: Value, deliveries: u64) {
    let outcome = events(path, &["--publish-rate", "100"]);
    assert_eq!(outcome.report["errors"], errors, "{path}");
    assert_eq!(outcome.report["deliveries"], deliveries, "{path}");
    assert_eq!(outcome.code, Some(1));
}

#[test]
fn every_subscriber_has_every_event() {
    let report = check_right("/all", &[], 20);
    assert_eq!(
        report["readers"],
        json!({ "asked": 4, "late": 0, "joined": 4, "stalled": 0, "stalled_dropped": 0, "retries": 0 })
    );
    assert_eq!(report["statuses"], json!({ "200": 9 }));
    assert!(report["latency_us"]["p90"].as_f64().unwrap() > 0.0 && report["spread_us"]["max"].as_f64().is_some());
    check_right("/all", &["--publish-rate", "200"], 20);
    check_right("/all", &["--in-flight", "3"], 20);
    check_right("/cut", &[], 20);
    check_right("/endless", &["--event-size", "100KiB"], 20);
    check_right("/topic/{0..1}", &[], 10);
    check_right("/topic/{0..1}", &["--publish-rate", "200"], 10);
}

#[test]
fn what_a_subscriber_has_not_had_or_had_otherwise_is_told() {
    check_caught("/dropped", json!({ "missing": 1 }), 19);
    check_caught("/doubled", json!({ "duplicated": 1 }), 20);
    check_caught("/flipped", json!({ "bytes": 1 }), 17);
    check_caught("/closed", json!({ "truncated": 1 }), 17);
    check_caught("/refused", json!({ "status": 4 }), 0);
}

#[test]
fn a_closed_loop_gives_up_an_event_that_does_not_come() {
    let outcome = run("/dropped", "3s", &EVENTS);
    assert_eq!(outcome.report["errors"], json!({ "missing": 1, "timeout": 1 }));
    assert_eq!(outcome.report["deliveries"], 19);
}

#[test]
fn events_with_a_name_are_counted_as_what_the_server_has_to_say() {
    assert_eq!(check_right("/named", &[], 20)["notices"], 1);
}

#[test]
fn subscribers_that_stop_are_not_waited_for() {
    let report = check_right("/all", &["--stalled-readers", "3"], 5);
    assert_eq!((&report["readers"]["joined"], &report["readers"]["stalled"]), (&json!(4), &json!(3)));
}

#[test]
fn events_that_were_due_are_late_from_then_on() {
    // All five are due within 40 ms, and each takes 50; so the last one is 200 ms late.
    let report = check_right("/slow", &["--publish-rate", "100"], 20);
    let latency = |name: &str| report["latency_us"][name].as_f64().unwrap();
    assert!(latency("max") >= 200_000.0 && latency("p50") >= 100_000.0, "{report}");
    // What the time was too short for is told.
    let report = loadgen("/slow", &["--subscribe", "-c", "4", "--publish-rate", "100", "-d", "200ms"]).report;
    assert_eq!(report["errors"], json!({}));
    assert!(report["unwritten"].as_u64().unwrap() >= 10, "{report}");
}

const LIVE: [&str; 8] = ["--live", "100kB", "--piece-size", "1000", "--requests", "40", "-c", "4"];

#[test]
fn every_reader_has_every_piece_of_a_live_body() {
    let outcome = loadgen("/live/all", &LIVE);
    let report = &outcome.report;
    assert_eq!((&report["errors"], outcome.code), (&json!({}), Some(0)));
    let all = report["deliveries"].as_u64().unwrap() + report["caught_up"].as_u64().unwrap();
    assert_eq!((all, &report["body_bytes"]), (160, &json!(160_000)));
    assert!(report["deliveries"].as_u64().unwrap() > 100, "{report}");
}

#[test]
fn a_reader_that_comes_late_catches_up_and_one_that_stops_is_not_waited_for() {
    let late = ["-d", "400ms", "--late-readers", "2", "--stalled-readers", "1"];
    let outcome = loadgen("/live/late", &[&LIVE[..], &late].concat());
    let report = &outcome.report;
    assert_eq!(report["errors"], json!({}));
    assert!(report["caught_up"].as_u64().unwrap() >= 20, "two readers, from the middle of forty pieces: {report}");
    assert!(report["catch_up_us"]["p50"].as_f64().is_some());
    assert_eq!(report["readers"]["joined"], 4);
}

#[test]
fn a_reader_with_much_to_catch_up_with_is_read_in_turns() {
    let large = ["--live", "50MB", "--piece-size", "5MB", "-c", "4", "-d", "3s", "--late-readers", "3"];
    for _ in 0..2 {
        let report = loadgen("/live/large", &large).report;
        assert_eq!(report["errors"], json!({}));
        let written = report["written"].as_u64().unwrap();
        assert!(written > 10 && report["body_bytes"] == written * 4 * 5_000_000, "{report}");
    }
}

#[test]
fn a_live_body_that_is_cut_or_wrong_is_told() {
    assert_eq!(loadgen("/live/cut", &LIVE).report["errors"], json!({ "truncated": 4 }));
    assert_eq!(loadgen("/live/flipped", &LIVE).report["errors"], json!({ "bytes": 4 }));
}

#[test]
fn the_memory_of_the_server_is_weighed_by_reader() {
    let pid = std::process::id().to_string();
    let server = &check_right("/all", &["--pid", &pid], 20)["server"];
    assert!(server["resident_attached_bytes"].as_u64().unwrap() > 0);
    assert!(server["resident_bytes_per_reader"].as_f64().is_some() && server["cpu_us_per_delivery"].as_f64().is_some());
}
