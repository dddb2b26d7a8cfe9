//! The generator against a server of its own, small enough to see what it does and able to lie in each way that has to be caught.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

const FILE_LEN: u64 = 300_000;

/// The rule of `--verify`, written out again so that the two are checked against each other.
fn byte_at(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer_all(stream));
        }
    });
    address
}

struct Asked {
    path: String,
    range: Option<(u64, u64)>,
    close: bool,
}

/// A client that leaves ends the thread; that is not an error here.
fn answer_all(mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(asked) = read_request(&mut reader) {
        if answer(&mut stream, &asked).is_err() || asked.close || asked.path == "/cut" {
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Asked> {
    let mut asked = Asked { path: String::new(), range: None, close: false };
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Some(asked);
        } else if let Some(rest) = line.strip_prefix("GET ") {
            asked.path = rest.split(' ').next()?.to_string();
        } else if let Some(rest) = line.strip_prefix("Range: bytes=") {
            let (first, last) = rest.split_once('-')?;
            asked.range = Some((first.parse().ok()?, last.parse().ok()?));
        } else if line.eq_ignore_ascii_case("Connection: close") {
            asked.close = true;
        }
    }
}

fn answer(stream: &mut TcpStream, asked: &Asked) -> std::io::Result<()> {
    let (first, last) = asked.range.unwrap_or((0, FILE_LEN - 1));
    let mut body: Vec<u8> = (first..=last).map(byte_at).collect();
    let shift = u64::from(asked.path == "/shifted");
    let (status, range) = match asked.range {
        Some(_) => (206, format!("Content-Range: bytes {}-{}/{FILE_LEN}\r\n", first + shift, last + shift)),
        None if asked.path == "/missing" => (404, String::new()),
        None => (200, String::new()),
    };
    match asked.path.as_str() {
        "/chunked" => {
            write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for piece in body.chunks(70_000) {
                write!(stream, "{:x}\r\n", piece.len())?;
                stream.write_all(piece)?;
                stream.write_all(b"\r\n")?;
            }
            return stream.write_all(b"0\r\n\r\n");
        }
        "/flipped" => body[FILE_LEN as usize / 2] ^= 1,
        "/slow" => thread::sleep(Duration::from_millis(300)),
        _ => {}
    }
    write!(stream, "HTTP/1.1 {status} X\r\n{range}Content-Length: {}\r\n\r\n", body.len())?;
    if asked.path == "/cut" {
        body.pop();
    }
    if asked.path == "/withheld" {
        // Nothing of the body comes; the client leaves when its time is up.
        return std::io::copy(stream, &mut std::io::sink()).map(drop);
    }
    stream.write_all(&body)
}

struct Outcome {
    code: Option<i32>,
    report: Value,
}

fn loadgen(url: &str, arguments: &[&str]) -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).arg(url).arg("--json").args(arguments).output().unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    Outcome { code: output.status.code(), report }
}

#[track_caller]
fn check_right(path: &str, arguments: &[&str]) -> Value {
    let url = format!("http://{}{path}", serve());
    let outcome = loadgen(&url, &[&["-n", "40", "-c", "4"], arguments].concat());
    assert_eq!(outcome.report["errors"], serde_json::json!({}), "{path} {arguments:?}");
    assert_eq!(outcome.report["requests"], 40, "{path} {arguments:?}");
    assert_eq!(outcome.code, Some(0));
    outcome.report
}

#[track_caller]
fn check_caught(path: &str, arguments: &[&str], error: &str) {
    let url = format!("http://{}{path}", serve());
    let outcome = loadgen(&url, &[&["-n", "4", "-c", "1"], arguments].concat());
    assert_eq!(outcome.report["errors"], serde_json::json!({ error: 4 }), "{path} {arguments:?}");
    assert_eq!(outcome.report["requests"], 0);
    assert_eq!(outcome.code, Some(1));
}

#[test]
fn right_replies_are_counted() {
    let report = check_right("/file", &[]);
    assert_eq!(report["body_bytes"], 40 * FILE_LEN);
    assert_eq!(report["statuses"], serde_json::json!({ "200": 40 }));
    check_right("/file", &["--verify"]);
    check_right("/chunked", &[]);
    check_right("/chunked", &["--verify"]);
    check_right("/{0..9}", &["--verify", "--file-size", "300000"]);
    let report = check_right("/file", &["--verify", "--random-range", "5000", "--file-size", "300000"]);
    assert_eq!(report["statuses"], serde_json::json!({ "206": 40 }));
    let report = check_right("/file", &["--no-keep-alive", "--verify"]);
    assert!(report["connections"]["made"].as_u64().unwrap() >= 40);
}

#[test]
fn wrong_replies_are_caught() {
    check_caught("/flipped", &["--verify"], "bytes");
    check_caught("/shifted", &["--random-range", "10", "--file-size", "1000"], "range");
    check_caught("/cut", &[], "truncated");
    check_caught("/missing", &[], "status");
    check_caught("/file", &["--file-size", "300001"], "length");
    check_caught("/slow", &["--timeout", "50ms"], "timeout");
}

#[test]
fn a_paced_reader_takes_its_time() {
    let url = format!("http://{}/file", serve());
    let begin = Instant::now();
    let outcome = loadgen(&url, &["-n", "1", "-c", "1", "--rate", "600000", "--verify"]);
    assert_eq!(outcome.report["requests"], 1);
    assert!(begin.elapsed() >= Duration::from_millis(450), "300 kB at 600 kB/s took {:?}", begin.elapsed());
}

#[test]
fn readers_that_did_not_get_their_pace_are_counted() {
    let address = serve();
    let (given, withheld) = (format!("http://{address}/file"), format!("http://{address}/withheld"));
    let outcome = loadgen(&given, &[&withheld, "-c", "2", "-d", "1s", "--rate", "100000"]);
    assert_eq!(outcome.report["pace"], serde_json::json!({ "readers": 2, "kept": 1 }));
    assert_eq!(loadgen(&given, &["-n", "1", "-c", "1"]).report["pace"], Value::Null);
}

#[test]
fn readers_that_stop_hold_their_connections() {
    let url = format!("http://{}/file", serve());
    let outcome = loadgen(&url, &["-c", "5", "-d", "300ms", "--stall-after", "10000"]);
    assert_eq!(outcome.report["connections"], serde_json::json!({ "made": 5, "held": 5, "dropped": 0 }));
    assert_eq!(outcome.report["body_bytes"], 50_000);
    assert_eq!(outcome.code, Some(0));
}

#[test]
fn idle_connections_are_held_after_their_requests() {
    let url = format!("http://{}/file", serve());
    let outcome = loadgen(&url, &["-c", "5", "-d", "300ms", "--idle=2"]);
    assert_eq!(outcome.report["connections"]["held"], 5);
    assert_eq!(outcome.report["requests"], 10);
}

#[test]
fn the_open_loop_charges_a_stall_to_all_that_wait() {
    let url = format!("http://{}/slow", serve());
    let outcome = loadgen(&url, &["-c", "1", "-d", "1s", "--rps", "100"]);
    let latency = outcome.report["latency_us"]["max"].as_f64().unwrap();
    let service = outcome.report["service_us"]["p50"].as_f64().unwrap();
    assert!(outcome.report["requests"].as_u64().unwrap() <= 3);
    assert!(service < 600_000.0, "a reply takes 300 ms: {service} us");
    assert!(latency > 600_000.0, "the last ones waited for most of the second: {latency} us");
    assert!(outcome.report["unanswered"].as_u64().unwrap() >= 90);
}

#[test]
fn the_usage_of_a_process_is_reported() {
    let pid = std::process::id().to_string();
    let url = format!("http://{}/file", serve());
    let outcome = loadgen(&url, &["-n", "200", "-c", "2", "--pid", &pid]);
    assert!(outcome.report["server"]["resident_max_bytes"].as_u64().unwrap() > 0);
    assert!(outcome.report["server"]["cpu_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_server_that_is_not_there_is_told_at_once() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).arg(format!("http://{closed}/")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&closed.to_string()));
}
