//! Uploads to a server of its own, which keeps what comes and can refuse it in each way that has to be told.

use std::io::{BufRead, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

/// The largest prime below 256 KiB: as sent without `--verify`, a file repeats after it.
const PERIOD: u64 = 262_139;

/// The rule of `--verify`, written out again so that the two are checked against each other.
fn byte_at(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// A file that has come: its name and its bytes.
type Kept = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

fn serve() -> (SocketAddr, Kept) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, kept) = (listener.local_addr().unwrap(), Kept::default());
    let keep = kept.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let kept = keep.clone();
            thread::spawn(move || answer_all(&stream, &kept));
        }
    });
    (address, kept)
}

/// Ends with the connection.
fn answer_all(stream: &TcpStream, kept: &Kept) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut words = line.split(' ');
        let (method, path) = (words.next()?.to_string(), words.next()?.to_string());
        let fields = fields(&mut reader)?;
        if let Some(reply) = early(&path) {
            send(stream, reply)?;
            body(&mut reader, &fields)?;
            continue;
        }
        let body = body(&mut reader, &fields)?;
        let number = |name: &str| field(&fields, name).and_then(|value| value.parse::<u64>().ok());
        match method.as_str() {
            "PUT" => {
                keep(kept, path.rsplit('/').next()?, body);
                send(stream, "201 Created\r\nContent-Length: 0")?;
            }
            "POST" if number("Upload-Length").is_some() => {
                let name = field(&fields, "Upload-Metadata")?.strip_prefix("filename ")?.to_string();
                let location =
                    if path == "/nowhere" { String::new() } else { format!("Location: {path}/made/{name}\r\n") };
                send(stream, &format!("201 Created\r\n{location}Content-Length: 0"))?;
            }
            "POST" => {
                let name = part(&fields, &body, "filename=\"", "\"")?;
                let name = String::from_utf8(name.to_vec()).ok()?;
                keep(kept, &name, file_of(&fields, &body)?.to_vec());
                send(stream, "200 OK\r\nContent-Length: 2\r\n\r\n{}")?;
            }
            _ => {
                let len = body.len() as u64 - u64::from(path.starts_with("/short/"));
                keep(kept, path.rsplit('/').next()?, body);
                send(stream, &format!("204 No Content\r\nUpload-Offset: {len}"))?;
            }
        }
    }
}

/// What is said before the body is read.
fn early(path: &str) -> Option<&'static str> {
    match path.split('/').nth(1)? {
        "full" => Some("413 Content Too Large\r\nContent-Length: 0"),
        "rash" => Some("201 Created\r\nContent-Length: 0"),
        _ => None,
    }
}

fn send(mut stream: &TcpStream, reply: &str) -> Option<()> {
    let end = if reply.contains("\r\n\r\n") { "" } else { "\r\n\r\n" };
    write!(stream, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 {reply}{end}").ok()
}

fn keep(kept: &Kept, name: &str, bytes: Vec<u8>) {
    kept.lock().unwrap().push((name.to_string(), bytes));
}

fn fields(reader: &mut impl BufRead) -> Option<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => fields.push((name.to_string(), value.to_string())),
            None => return Some(fields),
        }
    }
}

fn field<'f>(fields: &'f [(String, String)], name: &str) -> Option<&'f str> {
    fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn body(reader: &mut impl BufRead, fields: &[(String, String)]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if let Some(len) = field(fields, "Content-Length") {
        body.resize(len.parse().ok()?, 0);
        reader.read_exact(&mut body).ok()?;
        return Some(body);
    }
    assert_eq!(field(fields, "Transfer-Encoding"), Some("chunked"));
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let len = usize::from_str_radix(line.trim_end(), 16).expect("a chunk's size");
        let mut chunk = vec![0; len + 2];
        reader.read_exact(&mut chunk).ok()?;
        assert_eq!(chunk.split_off(len), b"\r\n");
        if chunk.is_empty() {
            return Some(body);
        }
        body.append(&mut chunk);
    }
}

/// What stands in the form between two strings.
fn part<'b>(fields: &[(String, String)], body: &'b [u8], before: &str, after: &str) -> Option<&'b [u8]> {
    assert!(field(fields, "Content-Type")?.starts_with("multipart/form-data; boundary="));
    let begin = body.windows(before.len()).position(|window| window == before.as_bytes())? + before.len();
    let len = body[begin..].windows(after.len()).position(|window| window == after.as_bytes())?;
    Some(&body[begin..begin + len])
}

fn file_of<'b>(fields: &[(String, String)], body: &'b [u8]) -> Option<&'b [u8]> {
    let boundary = field(fields, "Content-Type")?.split_once("boundary=")?.1;
    assert!(body.starts_with(format!("--{boundary}\r\n").as_bytes()));
    part(fields, body, "\r\n\r\n", &format!("\r\n--{boundary}--\r\n"))
}

fn loadgen(url: &str, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).arg(url).arg("--json").args(arguments).output().unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

#[track_caller]
fn check_right(form: &str, len: u64, names: [&str; 2], statuses: Value) {
    for (verify, of) in [(&["--verify"][..], u64::MAX), (&[], PERIOD)] {
        let (address, kept) = serve();
        let size = len.to_string();
        let arguments = ["--upload", form, "--size", &size, "--uploads", "2", "-c", "1"];
        let (code, report) = loadgen(&format!("http://{address}/up"), &[&arguments, verify].concat());
        assert_eq!((code, &report["errors"]), (Some(0), &json!({})), "{form}");
        assert_eq!((&report["requests"], &report["body_bytes"]), (&json!(2), &json!(2 * len)), "{form}");
        assert_eq!(report["statuses"], statuses, "{form}");
        assert!(report["upload"]["reply_wait_us"]["max"].as_f64().unwrap() > 0.0, "{form}");
        let kept = kept.lock().unwrap();
        assert_eq!(kept.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names, "{form}");
        let expected: Vec<u8> = (0..len).map(|at| byte_at(at % of)).collect();
        assert!(kept.iter().all(|(_, bytes)| *bytes == expected), "{form} {verify:?}: other bytes have come");
    }
}

#[test]
fn files_arrive_as_they_were_meant() {
    for len in [0, 1, PERIOD, 600_001] {
        check_right("put", len, ["load-0-0", "load-0-1"], json!({ "201": 2 }));
        check_right("chunked", len, ["load-0-0", "load-0-1"], json!({ "201": 2 }));
        check_right("multipart", len, ["load-0-0", "load-0-1"], json!({ "200": 2 }));
        // base64 of the same names.
        check_right("tus", len, ["bG9hZC0wLTA=", "bG9hZC0wLTE="], json!({ "201": 2, "204": 2 }));
    }
}

#[test]
fn every_connection_has_names_of_its_own() {
    let (address, kept) = serve();
    let (code, _) =
        loadgen(&format!("http://{address}/"), &["--upload", "put", "--size", "10", "--uploads", "60", "-c", "4"]);
    let mut names: Vec<String> = kept.lock().unwrap().iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    names.dedup();
    assert_eq!((code, names.len()), (Some(0), 60));
}

#[track_caller]
fn check_told(path: &str, form: &str, error: &str, statuses: Value) {
    let (address, _) = serve();
    let arguments = ["--upload", form, "--size", "50MB", "--uploads", "3", "-c", "1"];
    let (code, report) = loadgen(&format!("http://{address}{path}"), &arguments);
    assert_eq!(report["errors"], json!({ error: 3 }), "{path} {form}");
    assert_eq!((code, &report["requests"], &report["statuses"]), (Some(1), &json!(0), &statuses), "{path} {form}");
}

#[test]
fn what_was_not_stored_is_told() {
    // Both answer while most of the file is still to be sent.
    for form in ["put", "chunked", "multipart"] {
        check_told("/full", form, "status", json!({ "413": 3 }));
        check_told("/rash", form, "early", json!({ "201": 3 }));
    }
    check_told("/full", "tus", "status", json!({ "413": 3 }));
    check_told("/nowhere", "tus", "location", json!({ "201": 3 }));
    check_told("/short", "tus", "length", json!({ "201": 3, "204": 3 }));
}

#[test]
fn a_hash_has_its_cost() {
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).args(["--hash", "20MB", "--json"]).output().unwrap();
    let cost: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&cost["hash"], &cost["bytes"]), (&json!("sha256"), &json!(20_000_000)));
    assert!(cost["cpu_ms_per_gb"].as_f64().unwrap() > 0.0);
}
