//! What an operator does with the server, and sees of it: starting it, stopping it, changing its configuration, rotating its
//! log, watching its metrics, asking what it will take, and getting it wrong.

use std::collections::{HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{
    Client, Fixture, Launch, PATIENCE, Server, bytes_at, check_bytes, eventually, installed, not_shown, output, sample,
};

/// The binary with these arguments, and none of the environment's settings.
fn highwater(arguments: &[&str]) -> Command {
    command(env!("CARGO_BIN_EXE_highwater"), arguments)
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let settings = std::env::vars_os().map(|(name, _)| name);
    for name in settings.filter(|name| name.to_string_lossy().starts_with("HIGHWATER_")) {
        command.env_remove(name);
    }
    command
}

/// How a run of the binary ended that was to end by itself.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

#[track_caller]
fn run(mut command: Command) -> Ended {
    let output = output(&mut command, PATIENCE);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A path as an argument.
fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

/// A client that has begun to take a reply that does not fit into the sockets' buffers.
struct Transfer {
    client: Client,
    len: usize,
    taken: usize,
}

impl Transfer {
    #[track_caller]
    fn begin(address: SocketAddr, target: &str) -> Self {
        let mut client = Client::connect_narrow(address, 16 << 10);
        client.ask("GET", target, "");
        let len = client.head().content_length().expect("a length") as usize;
        let taken = 10_000;
        check_bytes(0, &client.body(taken));
        Transfer { client, len, taken }
    }

    /// Takes the rest: it has to be whole.
    #[track_caller]
    fn finish(mut self) -> Client {
        check_bytes(self.taken as u64, &self.client.body(self.len - self.taken));
        self.client
    }
}

const FILM_LEN: u64 = 16 << 20;

#[test]
fn it_says_where_it_listens_and_serves_on_all_of_it() {
    let (fixture, run_dir) = (Fixture::with(&[("clip.mp4", 1000)]), Fixture::new());
    let socket = run_dir.at("highwater.sock");
    let unix = format!("unix:{}", text(&socket));
    let mut listen = vec!["127.0.0.1:0", unix.as_str(), "127.0.0.1:0"];
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        listen.push("[::1]:0");
    } else {
        not_shown("this machine has no IPv6");
    }
    let launch = Launch::of(fixture.path()).without_listen().arg("--workers").arg("2");
    let server = listen.iter().fold(launch, |launch, address| launch.arg("--listen").arg(address)).start();
    let asked: Vec<_> = listen.iter().filter_map(|address| address.parse::<SocketAddr>().ok()).collect();
    let ips = |addresses: &[SocketAddr]| addresses.iter().map(SocketAddr::ip).collect::<Vec<_>>();
    assert_eq!(ips(server.addresses()), ips(&asked));
    assert_eq!(server.unix_paths(), [socket.as_path()]);
    let clients = server.addresses().iter().map(|address| {
        assert_ne!(address.port(), 0, "the real port");
        Client::connect(*address)
    });
    for mut client in clients.chain([Client::connect_unix(&socket)]) {
        assert_eq!(client.get("/clip.mp4", "").expect(200).body, bytes_at(0, 1000));
    }
    server.stop();
    assert!(!socket.exists(), "the socket goes with its server");
}

#[test]
fn curl_reaches_it_over_a_unix_socket() {
    let Some(curl) = installed(&["curl"]) else { return };
    let (fixture, run_dir) = (Fixture::with(&[("clip.mp4", 200_000)]), Fixture::new());
    let socket = run_dir.at("highwater.sock");
    // One that a crashed server has left behind is no obstacle.
    drop(UnixListener::bind(&socket).expect("a socket that nobody answers on"));
    let launch = || Launch::of(fixture.path()).arg("--listen").arg(format!("unix:{}", text(&socket)));
    let server = launch().start();
    let arguments =
        ["-q", "-sS", "--fail", "-r", "1000-", "--unix-socket", text(&socket), "http://any.example/clip.mp4"];
    let fetched = output(&mut command(text(&curl), &arguments), PATIENCE);
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    assert_eq!(fetched.stdout, bytes_at(1000, 199_000));
    let second = run(highwater(&["serve", text(fixture.path()), "--listen", &format!("unix:{}", text(&socket))]));
    check_wrong_use(&second, "is taken");
    Client::connect_unix(&socket).get("/clip.mp4", "").expect(200);
    server.stop();
    assert!(!socket.exists());
}

#[test]
fn t6_a_drain_finishes_what_is_under_way_and_takes_nothing_new() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let fixture = Fixture::with(&[("film.mp4", FILM_LEN), ("clip.mp4", 1000)]);
        let mut server = Launch::of(fixture.path()).arg("--workers").arg("2").start();
        let mut transfers: Vec<Transfer> = (0..4).map(|_| Transfer::begin(server.address(), "/film.mp4")).collect();
        let mut idle: Vec<Client> = (0..4).map(|_| server.connect()).collect();
        idle.iter_mut().for_each(|client| drop(client.get("/clip.mp4", "").expect(200)));
        server.signal(signal);
        idle.iter_mut().for_each(Client::expect_close);
        eventually(PATIENCE, || TcpStream::connect(server.address()).is_err());
        assert!(server.runs(), "it waits for what is under way");
        // What comes behind a request that was under way is not served any more.
        transfers[0].client.ask("GET", "/clip.mp4", "");
        for transfer in transfers {
            transfer.finish().rest_of_any_end();
        }
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn t6_a_drain_tells_a_client_that_the_connection_ends() {
    let fixture = Fixture::with(&[("clip.mp4", 1000)]);
    let mut server = Server::start(fixture.path());
    let mut client = server.connect();
    // The head is half here when the server is asked to stop, and so the request is under way.
    client.send("GET /clip.mp4 HTTP/1.1\r\nHost: a\r\n");
    eventually(PATIENCE, || server.held().connections_active == 1);
    server.signal(Signal::SIGTERM);
    eventually(PATIENCE, || TcpStream::connect(server.address()).is_err());
    client.send("\r\n");
    let reply = client.reply().expect(200);
    assert!(reply.head.closes(), "{:?}", reply.head);
    check_bytes(0, &reply.body);
    client.expect_close();
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn t6_a_drain_has_a_deadline() {
    let fixture = Fixture::with(&[("film.mp4", FILM_LEN)]);
    let log = fixture.at("access.log");
    let mut server = Launch::of(fixture.path())
        .arg("--access-log")
        .arg(&log)
        .arg("--log-format")
        .arg("json")
        .limits("shutdown_timeout = \"100ms\"")
        .start();
    let mut stopped = Transfer::begin(server.address(), "/film.mp4");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    let (rest, orderly) = stopped.client.rest_of_any_end();
    assert!(stopped.taken + rest.len() < stopped.len && !orderly, "a cut reply must not look whole");
    let lines = fs::read_to_string(&log).expect("the log, written to its end");
    let line: Value = serde_json::from_str(lines.trim_end()).expect("one line");
    assert_eq!((line["target"].as_str(), line["outcome"].as_str()), (Some("/film.mp4"), Some("shut_down")), "{line}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// A route over a folder.
fn route(root: &Fixture) -> String {
    format!("[[route]]\nmedia = {{ root = {:?} }}\n", root.path())
}

#[test]
fn t6_a_reload_serves_other_routes_and_cuts_nothing() {
    let old = Fixture::with(&[("film.mp4", FILM_LEN)]);
    let new = Fixture::new();
    for (fixture, label) in [(&old, "old"), (&new, "new")] {
        fixture.text("which.txt", label);
    }
    let server = Launch::routes().arg("--workers").arg("2").config(&route(&old)).start();
    let transfer = Transfer::begin(server.address(), "/film.mp4");
    let mut kept: Vec<Client> = (0..4).map(|_| server.connect()).collect();
    for client in &mut kept {
        assert_eq!(client.get("/which.txt", "").expect(200).text(), "old");
    }
    fs::write(server.config_path(), route(&new)).expect("another configuration");
    server.signal(Signal::SIGHUP);
    // Whichever worker has the connection, and whether it is new or kept.
    for client in &mut kept {
        eventually(PATIENCE, || client.get("/which.txt", "").expect(200).text() == "new");
    }
    // Those that were kept may all be one worker's.
    eventually(PATIENCE, || (0..16).all(|_| server.connect().get("/which.txt", "").expect(200).text() == "new"));
    server.connect().get("/film.mp4", "").expect(404);
    let mut after = transfer.finish();
    after.get("/film.mp4", "").expect(404);
    assert_eq!(after.get("/which.txt", "").expect(200).text(), "new");
    server.stop();
}

#[test]
fn t6_a_reload_of_a_wrong_file_is_refused_with_its_reason() {
    let fixture = Fixture::with(&[("clip.mp4", 1000)]);
    let server = Launch::routes().config(&route(&fixture)).start();
    let transfer_ok = || server.connect().get("/clip.mp4", "").expect(200);
    let path = server.config_path();
    let gone = format!("{}/gone", text(fixture.path()));
    for (wrong, line, reason) in [
        ("[[route]]\nmedia = { roof = \"x\" }\n".to_owned(), 2, "roof"),
        (format!("\n\n[[route]]\nmedia = {{ root = {gone:?} }}\n"), 4, "gone"),
        ("[server]\nworkers = \"many\"\n".to_owned(), 2, "workers"),
        ("[[route]\n".to_owned(), 1, ""),
    ] {
        fs::write(&path, &wrong).expect("a wrong configuration");
        server.signal(Signal::SIGHUP);
        let place = format!("{}:{line}: ", text(&path));
        eventually(PATIENCE, || {
            let log = server.log();
            log.lines().any(|said| said.contains(&place) && said.contains(reason) && said.contains("refused"))
        });
        transfer_ok();
    }
    fs::remove_file(&path).expect("no configuration at all");
    server.signal(Signal::SIGHUP);
    eventually(PATIENCE, || server.log().matches("refused").count() == 5);
    transfer_ok();
    // After that a good one is taken.
    let other = Fixture::with(&[("other.mp4", 10)]);
    fs::write(&path, route(&other)).expect("a good configuration");
    server.signal(Signal::SIGHUP);
    eventually(PATIENCE, || server.connect().get("/other.mp4", "").status() == 200);
    server.stop();
}

#[test]
fn t6_a_reload_says_what_needs_a_restart() {
    let fixture = Fixture::with(&[("clip.mp4", 1000)]);
    let server = Launch::routes().config(&route(&fixture)).start();
    let changed = format!("[limits]\nidle_timeout = \"3s\"\n{}", route(&fixture));
    fs::write(server.config_path(), changed).expect("another configuration");
    server.signal(Signal::SIGHUP);
    eventually(PATIENCE, || server.log().lines().any(|line| line.contains("[limits]") && line.contains("restart")));
    server.connect().get("/clip.mp4", "").expect(200);
    server.stop();
}

/// One request of each kind that the log has to tell apart: status, method, target, field lines, bytes of body sent.
const LOGGED: &[(u16, &str, &str, &str, u64)] = &[
    (200, "GET", "/clip.mp4?a=b", "", 1000),
    (200, "HEAD", "/clip.mp4", "", 0),
    (
        206,
        "GET",
        "/clip.mp4",
        "Range: bytes=100-299\r\nReferer: http://page.example/\r\nUser-Agent: player \"1\"\\\r\n",
        200,
    ),
    (304, "GET", "/clip.mp4", "If-None-Match: *\r\n", 0),
];

/// Asks for all of [`LOGGED`] on one connection.
#[track_caller]
fn ask_all(client: &mut Client) {
    for (status, method, target, fields, _) in LOGGED {
        client.request(method, target, fields).expect(*status);
    }
    client.get("/missing", "").expect(404);
}

#[test]
fn the_log_has_a_line_of_json_for_each_request() {
    let fixture = Fixture::with(&[("clip.mp4", 1000)]);
    let server = Launch::of(fixture.path()).arg("--access-log").arg("-").arg("--log-format").arg("json").start();
    ask_all(&mut server.connect());
    for (status, method, target, fields, bytes) in LOGGED {
        let line: Value = serde_json::from_str(&server.next_line()).expect("JSON");
        let text = |key: &str| line[key].as_str();
        assert_eq!(
            (line["status"].as_u64(), text("method"), text("target")),
            (Some((*status).into()), Some(*method), Some(*target))
        );
        assert_eq!(
            (line["bytes"].as_u64(), text("outcome"), text("version")),
            (Some(*bytes), Some("complete"), Some("HTTP/1.1"))
        );
        assert!(text("peer").is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{line}");
        let time = text("time").expect("a time");
        assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{line}");
        for name in ["first_byte_ms", "duration_ms"] {
            assert!(line[name].as_f64().is_some_and(|ms| (0.0..60_000.0).contains(&ms)), "{line}");
        }
        if fields.contains("User-Agent") {
            assert_eq!((text("user_agent"), text("referer")), (Some("player \"1\"\\"), Some("http://page.example/")));
            assert_eq!(text("range"), Some("bytes 100-299/1000"));
        }
    }
    let missing: Value = serde_json::from_str(&server.next_line()).expect("JSON");
    assert_eq!((missing["status"].as_u64(), missing["target"].as_str()), (Some(404), Some("/missing")));
    server.connect().send("no request\r\n\r\n");
    let malformed: Value = serde_json::from_str(&server.next_line()).expect("JSON");
    assert_eq!((malformed["status"].as_u64(), malformed["outcome"].as_str()), (Some(400), Some("malformed")));
    server.stop();
}

#[test]
fn the_log_has_a_line_of_text_for_each_request() {
    let fixture = Fixture::with(&[("clip.mp4", 1000)]);
    let (logs, path) = (Fixture::new(), "access.log");
    let server = Launch::of(fixture.path()).arg("--access-log").arg(logs.at(path)).start();
    ask_all(&mut server.connect());
    server.stop();
    // What was buffered is there when the server has ended.
    let log = fs::read_to_string(logs.at(path)).expect("a log");
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), LOGGED.len() + 1, "{log}");
    for ((status, method, target, _, bytes), line) in LOGGED.iter().zip(&lines) {
        // The combined format: host, two dashes, time, request line, status, bytes, referer, user agent; then our own.
        let rest = line.strip_prefix("127.0.0.1 - - [").unwrap_or_else(|| panic!("{line}"));
        let (time, rest) = rest.split_once("] ").expect("a time in brackets");
        assert!(time.len() == 26 && time.ends_with(" +0000"), "{line}");
        let expected = format!("\"{method} {target} HTTP/1.1\" {status} {bytes} \"");
        assert!(rest.starts_with(&expected), "{line}");
        assert!(line.ends_with(" complete"), "{line}");
    }
    assert!(lines[2].contains(" \"http://page.example/\" \"player "), "{}", lines[2]);
    assert!(!lines[2].contains("player \"1\""), "a quote of the client's must not end the field: {}", lines[2]);
    assert!(lines[0].contains(" \"-\" \"-\" "), "what was not sent is a dash: {}", lines[0]);
}

#[test]
fn the_log_is_rotated_without_losing_a_line() {
    let fixture = Fixture::with(&[("clip.mp4", 1000)]);
    let logs = Fixture::new();
    let (path, rotated) = (logs.at("access.log"), logs.at("access.log.1"));
    let server = Launch::of(fixture.path()).arg("--access-log").arg(&path).arg("--workers").arg("2").start();
    let mut client = server.connect();
    (0..10).for_each(|n| drop(client.get(&format!("/clip.mp4?before={n}"), "").expect(200)));
    let count = |path: &Path, what: &str| fs::read_to_string(path).unwrap_or_default().matches(what).count();
    eventually(PATIENCE, || count(&path, "before=") == 10);
    fs::rename(&path, &rotated).expect("a rotation");
    server.signal(Signal::SIGHUP);
    eventually(PATIENCE, || path.exists());
    (0..10).for_each(|n| drop(client.get(&format!("/clip.mp4?after={n}"), "").expect(200)));
    server.stop();
    assert_eq!((count(&rotated, "before="), count(&rotated, "after=")), (10, 0));
    assert_eq!((count(&path, "before="), count(&path, "after=")), (0, 10));
}

/// The samples of a Prometheus exposition, read strictly: each family has its help and type before its samples and comes
/// once, names and labels are well formed, and no series comes twice.
#[track_caller]
fn exposition(text: &str) -> HashMap<String, f64> {
    assert!(text.ends_with('\n'), "the last line ends too");
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let (mut helped, mut family) = (HashSet::new(), (String::new(), String::new()));
    let mut samples = HashMap::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a help");
            assert!(is_name(name) && !help.is_empty() && helped.insert(name.to_owned()), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert!(helped.contains(name) && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_ne!(family.0, name, "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            family = (name.to_owned(), kind.to_owned());
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a sample");
            let (name, labels) = series.split_once('{').map_or((series, None), |(name, labels)| (name, Some(labels)));
            let suffixes: &[&str] = if family.1 == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            let is_own = name.strip_prefix(&*family.0).is_some_and(|suffix| suffixes.contains(&suffix));
            assert!(is_own, "a sample under another family: {line}");
            if let Some(labels) = labels {
                for pair in labels.strip_suffix('}').expect("closed labels").split(',') {
                    let (label, value) = pair.split_once('=').expect("a label");
                    let value =
                        value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).expect("a quoted value");
                    assert!(is_name(label) && !value.contains(['"', '\\', '\n']), "{line}");
                }
            }
            let value: f64 = value.parse().expect("a number");
            assert!(value >= 0.0, "{line}");
            assert_eq!(samples.insert(series.to_owned(), value), None, "twice: {line}");
        }
    }
    samples
}

#[test]
fn metrics_are_well_formed_and_move() {
    let fixture = Fixture::with(&[("film.mp4", FILM_LEN), ("clip.mp4", 1000)]);
    let server = Launch::of(fixture.path()).arg("--workers").arg("2").start();
    let reply = Client::connect(server.admin()).get("/metrics", "").expect(200);
    assert!(reply.field("Content-Type").is_some_and(|value| value.starts_with("text/plain; version=0.0.4")));
    let before = exposition(reply.text());
    assert!(before.contains_key("highwater_driver_info{driver=\"uring\"}"));
    assert!(before["highwater_memory_ceiling_bytes"] > 0.0);
    let mut client = server.connect();
    client.get("/clip.mp4", "").expect(200);
    client.get("/clip.mp4", "Range: bytes=0-9\r\n").expect(206);
    client.get("/clip.mp4", "If-None-Match: *\r\n").expect(304);
    client.get("/clip.mp4", "Range: bytes=1000-\r\n").expect(416);
    client.get("/missing", "").expect(404);
    server.connect().send("no request\r\n\r\n");
    eventually(PATIENCE, || server.metric("requests_malformed") == 1);
    let text = server.metrics();
    let after = exposition(&text);
    for (series, value) in &before {
        let counts = series.split('{').next().is_some_and(|name| name.ends_with("_total"));
        assert!(!counts || after.get(series).is_some_and(|now| now >= value), "a counter never goes down: {series}");
    }
    for (name, moved) in [
        ("connections_accepted", 2),
        ("responses{code=\"206\"}", 1),
        ("responses{code=\"304\"}", 1),
        ("responses{code=\"400\"}", 1),
        ("responses{code=\"404\"}", 1),
        ("responses{code=\"416\"}", 1),
        ("ranges", 1),
        ("bytes_sent", 1010),
        ("file_cache_misses", 2),
        ("file_cache_hits", 3),
        ("submissions", 5),
        ("completions", 5),
    ] {
        let grown = sample(&text, name).saturating_sub(sample(reply.text(), name));
        assert!(grown >= moved, "{name} has grown by {grown}");
    }
    // What is held, and is given back.
    let transfer = Transfer::begin(server.address(), "/film.mp4");
    eventually(PATIENCE, || server.held().transfers == 1 && server.held().connections_active == 1);
    assert!(server.metric("connections_idle") >= 1, "the client from before");
    drop((transfer, client));
    eventually(PATIENCE, || server.held().transfers == 0 && server.held().connections_idle == 0);
    server.stop();
}

#[test]
fn the_admin_address_answers_nothing_else_and_alone() {
    let fixture = Fixture::with(&[("clip.mp4", 1000)]);
    let server = Server::start(fixture.path());
    let mut admin = Client::connect(server.admin());
    assert_eq!(admin.get("/healthz", "").expect(200).text().trim(), "ok");
    admin.request("HEAD", "/metrics", "").expect(200);
    assert_eq!(
        admin.request("POST", "/metrics", "Content-Length: 0\r\n").expect(405).field("Allow"),
        Some("GET, HEAD")
    );
    for target in ["/clip.mp4", "/metrics/", "/healthz/x"] {
        admin.get(target, "").expect(404);
    }
    let mut client = server.connect();
    client.get("/metrics", "").expect(404);
    client.get("/healthz", "").expect(404);
    server.stop();
}

#[test]
fn two_workers_serve_both() {
    let fixture = Fixture::with(&[("clip.mp4", 1000)]);
    let server = Launch::of(fixture.path()).arg("--workers").arg("2").start();
    // The kernel spreads connections by a hash of their ports: that 64 all fall to one worker happens once in 2⁶³ times.
    let mut clients: Vec<Client> = (0..64).map(|_| server.connect()).collect();
    for client in &mut clients {
        check_bytes(0, &client.get("/clip.mp4", "").expect(200).body);
    }
    let idle = |worker| server.metric(&format!("connections_idle{{worker=\"{worker}\"}}"));
    eventually(PATIENCE, || idle(0) + idle(1) == 64);
    assert!(idle(0) > 0 && idle(1) > 0, "{} and {}", idle(0), idle(1));
    server.stop();
}

#[test]
fn check_prints_a_file_that_gives_the_same_configuration() {
    let fixture = Fixture::with(&[("clip.mp4", 1000)]);
    let given = format!(
        "[server]\nlisten = [\"127.0.0.1:0\", \"unix:run.sock\"]\nadmin = \"127.0.0.1:0\"\naccess_log = \"log\"\n\
         [limits]\nhigh_water_mark = \"64KiB\"\nidle_timeout = \"90s\"\nrequest_min_rate = \"2KiB/s\"\n\
         [[route]]\nprefix = \"/a \\\"quoted\\\" prefix\"\n[route.media]\nroot = {:?}\ncors = [\"https://a.example\"]\n\
         index = []\ncontent_types = {{ m4b = \"audio/x-book\" }}\n\
         cache_control = [{{ pattern = \"*.m4s\", value = \"max-age=60\" }}]\n\
         [[route]]\nhost = \"one.example\"\nmedia = {{ root = {:?}, hidden = true }}\n",
        fixture.path(),
        fixture.path()
    );
    let (first, second) = (fixture.text("first.toml", given), fixture.at("second.toml"));
    let flags = ["--workers", "3", "--high-water-mark", "128KiB", "--log-format", "json", "--listing"];
    let printed = run(highwater(&[&["check", "--config", text(&first)], &flags[..]].concat()));
    assert_eq!((printed.code, printed.stderr.as_str()), (Some(0), ""));
    for expected in [
        "workers = 3",
        "high_water_mark = \"128KiB\"",
        "idle_timeout = \"90s\"",
        "log_format = \"json\"",
        "listing = true",
    ] {
        assert!(printed.stdout.lines().any(|line| line == expected), "no `{expected}` in {}", printed.stdout);
    }
    fs::write(&second, &printed.stdout).expect("a second file");
    let again = run(highwater(&["check", "--config", text(&second)]));
    assert_eq!((again.code, &again.stdout), (Some(0), &printed.stdout));
    // It is what a server runs with.
    fs::write(&second, printed.stdout.replace(&format!("unix:{}", text(&fixture.at("run.sock"))), "127.0.0.1:0"))
        .expect("a file");
    let server = Launch::routes().without_listen().arg("--config").arg(&second).start();
    server.connect().get("/a%20%22quoted%22%20prefix/clip.mp4", "").expect(200);
    server.stop();
}

#[test]
fn check_and_serve_say_file_line_and_what_to_write() {
    let fixture = Fixture::new();
    let media = format!("media = {{ root = {:?} }}", fixture.path());
    let path = fixture.at("wrong.toml");
    for (toml, line, expected) in [
        ("[server]\nlisten = \"127.0.0.1\"\n".to_owned(), 2, "127.0.0.1"),
        ("[server]\nlissten = \"127.0.0.1:1\"\n".to_owned(), 2, "`listen`"),
        ("[servers]\n".to_owned(), 1, "server"),
        ("\n\n[limits]\n\nhigh_water_mark = \"100KB\"\n".to_owned(), 5, "KiB"),
        ("[limits]\nhigh_water_mark = \"100KiB\"\n".to_owned(), 2, "64KiB or 128KiB"),
        ("[limits]\nidle_timeout = 30\n".to_owned(), 2, "30s"),
        ("[limits]\nconnections = 0\n".to_owned(), 2, "1 to 1000000"),
        ("[[route]]\nmedia = { root = \"gone\" }\n".to_owned(), 2, "gone"),
        (format!("[[route]]\n{media}\nprefix = \"vod/\"\n"), 3, "`/vod"),
        (format!("[[route]]\n{media}\n[[route]]\n{media}\n"), 3, "earlier route"),
        ("[server]\nworkers = 1\nworkers = 2\n".to_owned(), 3, "workers"),
        ("[server]\nadmin = \"127.0.0.1:8080\"\nlisten = \"127.0.0.1:8080\"\n".to_owned(), 0, "admin"),
    ] {
        fs::write(&path, &toml).expect("a wrong configuration");
        let place = if line == 0 { format!("{}: ", text(&path)) } else { format!("{}:{line}: ", text(&path)) };
        for (verb, code) in [("check", 1), ("serve", 2)] {
            let ended = run(highwater(&[verb, "--config", text(&path)]));
            assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{verb} of {toml}");
            let said = ended.stderr.trim_end();
            assert!(
                said.starts_with(&place) && said.contains(expected) && !said.contains('\n'),
                "{verb} of {toml}: {said}"
            );
        }
    }
}

/// Fails the test unless this is how wrong use ends: one line that names the matter, status 2, nothing else.
#[track_caller]
fn check_wrong_use(ended: &Ended, expected: &str) {
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{}", ended.stderr);
    let said = ended.stderr.trim_end();
    assert!(!said.contains('\n') && said.contains(expected), "{said:?} and not {expected:?}");
    for sign in ["panicked", "RUST_BACKTRACE", "unwrap", "Err("] {
        assert!(!said.contains(sign), "{said}");
    }
}

#[test]
fn wrong_use_ends_with_one_line_that_says_what_to_do() {
    let fixture = Fixture::with(&[("file", 10)]);
    let root = text(fixture.path());
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = held.local_addr().expect("its address").to_string();
    let (file, gone) = (fixture.at("file"), fixture.at("gone"));
    let (below_file, log_below_file) = (format!("unix:{}", text(&file)), format!("{}/log", text(&file)));
    for (arguments, expected) in [
        (&["serve"][..], "name a directory"),
        (&["serve", text(&gone)], "gone"),
        (&["serve", text(&file)], "file"),
        (&["serve", root, "--listen", &taken], "is taken"),
        (&["serve", root, "--listen", "127.0.0.1:0", "--admin", &taken], "is taken"),
        (&["serve", root, "--listen", "127.0.0.1:0", "--listen", &taken], "is taken"),
        (&["serve", root, "--listen", &below_file], "is taken"),
        // TEST-NET-1 (RFC 5737) is no machine's address.
        (&["serve", root, "--listen", "192.0.2.1:0"], "is not an address of this machine"),
        (&["serve", root, "--listen", "8080"], "--listen"),
        (&["serve", root, "--listen", "127.0.0.1:99999"], "--listen"),
        (&["serve", root, "--listen", "127.0.0.1:0", "--workers", "0"], "--workers"),
        (&["serve", root, "--high-water-mark", "100KB"], "--high-water-mark"),
        (&["serve", root, "--cors", "example.com"], "--cors"),
        (&["serve", root, "--driver", "epoll"], "uring"),
        (&["serve", root, "--log-format", "xml"], "json"),
        (&["serve", root, "--listen", "127.0.0.1:0", "--access-log", &log_below_file], "access log"),
        (&["serve", "--config", text(&gone)], "gone"),
        (&["serve", root, "--lisen", "127.0.0.1:0"], "--listen"),
        (&["serve", root, "--listen"], "--listen"),
        (&["serve", root, root], "unexpected"),
        (&["server", root], "serve"),
    ] {
        check_wrong_use(&run(highwater(arguments)), expected);
    }
    drop(held);
}

#[test]
fn an_address_is_not_shared_with_another_server() {
    let fixture = Fixture::with(&[("clip.mp4", 1000)]);
    for (first, second) in [("1", "1"), ("2", "2"), ("1", "2"), ("2", "1")] {
        let server = Launch::of(fixture.path()).arg("--workers").arg(first).start();
        let taken = server.address().to_string();
        let ended = run(highwater(&["serve", text(fixture.path()), "--workers", second, "--listen", &taken]));
        check_wrong_use(&ended, "is taken");
        server.connect().get("/clip.mp4", "").expect(200);
    }
}

#[test]
fn a_port_that_may_not_be_bound_is_named() {
    if TcpListener::bind("127.0.0.1:1023").is_ok() {
        return not_shown("this user may bind any port");
    }
    let fixture = Fixture::new();
    let ended = run(highwater(&["serve", text(fixture.path()), "--listen", "127.0.0.1:1023"]));
    check_wrong_use(&ended, "127.0.0.1:1023 may not be bound");
}

/// Becomes another program in which io_uring_setup(2), 425 everywhere, fails with the error number that is given first: what
/// container runtimes do. The test binary itself must not, as it would hold for all other tests.
const WITHOUT_URING: &str = r#"
    my $error = shift;
    my $filter = pack("SCCL" x 4, 0x20,0,0,0, 0x15,0,1,425, 0x06,0,0,0x50000 | $error, 0x06,0,0,0x7fff0000);
    my $program = pack("Sx6P", 4, $filter);
    syscall(157, 38, 1, 0, 0, 0) == 0 or die "no_new_privs: $!";
    syscall(157, 22, 2, $program) == 0 or die "seccomp: $!";
    exec { $ARGV[0] } @ARGV;
"#;

#[test]
fn without_io_uring_it_says_so() {
    if !cfg!(target_arch = "x86_64") {
        return not_shown("prctl has another number on this processor");
    }
    let Some(perl) = installed(&["perl"]) else { return };
    let fixture = Fixture::new();
    for (error, expected) in [(nix::libc::EPERM, "io_uring is switched off here"), (nix::libc::ENOSYS, "no io_uring")] {
        let error = error.to_string();
        let binary = env!("CARGO_BIN_EXE_highwater");
        let serve = ["serve", text(fixture.path()), "--listen", "127.0.0.1:0"];
        let ended = run(command(text(&perl), &[&["-e", WITHOUT_URING, &error, binary], &serve[..]].concat()));
        if ended.stderr.contains("seccomp: ") {
            return not_shown("this kernel has no seccomp filters");
        }
        check_wrong_use(&ended, expected);
    }
}

/// A line of `/proc/PID/status`, in bytes.
#[track_caller]
fn memory(server: &Server, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("a line");
    line.trim().strip_suffix(" kB").and_then(|kb| kb.trim().parse::<u64>().ok()).expect("kilobytes") * 1024
}

#[test]
fn t1_memory_stays_below_the_ceiling_that_check_prints() {
    const CLIENTS: usize = 200;
    // As tight as it goes: if each of the clients held a high water mark, they would take three times the ceiling.
    const LIMITS: &str = "connections = 256\ntransfer_buffers = 4\nreceive_buffers = 32\n\
                          head_len = \"4KiB\"\nopen_files = 16\nlisting_entries = 100\noffload_threads = 1\n\
                          access_log_buffer = \"64KiB\"\n";
    let fixture = Fixture::new();
    fixture.sparse("film.mp4", 100_000_000, &[(0, 1000)]);
    let server = Launch::of(fixture.path()).limits(LIMITS).start();
    let config = server.config_path();
    let checked = run(highwater(&["check", text(fixture.path()), "--workers", "1", "--config", text(&config)]));
    let ceiling = checked.stdout.lines().find_map(|line| line.strip_prefix("# memory ceiling: ")).expect("a ceiling");
    let ceiling =
        ceiling.strip_suffix(" MiB").and_then(|mib| mib.parse::<f64>().ok()).expect("MiB") * f64::from(1 << 20);
    let counted = server.metric("memory_ceiling_bytes") as f64;
    assert!((counted - ceiling).abs() < 0.1 * f64::from(1 << 20), "check says {ceiling}, the server {counted}");
    let mut stopped: Vec<Client> = Vec::with_capacity(CLIENTS);
    for _ in 0..CLIENTS {
        let mut client = Client::connect_narrow(server.address(), 16 << 10);
        client.ask("GET", "/film.mp4", "");
        stopped.push(client);
    }
    for client in &mut stopped {
        assert_eq!(client.head().content_length(), Some(100_000_000));
        check_bytes(0, &client.body(1000));
    }
    assert_eq!(server.held().transfers, CLIENTS as u64);
    eventually(PATIENCE, || server.metric("transfer_buffers_in_use") == 0);
    let peak = memory(&server, "VmHWM");
    assert!((peak as f64) < ceiling, "{peak} bytes at the peak, over the ceiling of {ceiling}");
    drop(stopped);
    eventually(PATIENCE, || server.held().transfers == 0);
    server.stop();
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [&["--help"][..], &["serve", "--help"], &["check", "-h"], &["--version"]] {
        let ended = run(highwater(arguments));
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        assert!(ended.stdout.contains("highwater"), "{}", ended.stdout);
    }
}

#[test]
fn a_log_whose_reader_stops_stalls_nobody() {
    let fixture = Fixture::with(&[("clip.mp4", 1000)]);
    let pipe = fixture.at("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    // Both ends are open, and nobody reads.
    let _reader = OpenOptions::new().read(true).write(true).open(&pipe).expect("its reader");
    let server =
        Launch::of(fixture.path()).arg("--access-log").arg(&pipe).limits("access_log_buffer = \"4KiB\"").start();
    let mut client = server.connect();
    let agent = format!("User-Agent: {}\r\n", "a".repeat(1000));
    eventually(PATIENCE, || {
        client.get("/clip.mp4", &agent).expect(200);
        server.metric("access_log_dropped") > 0
    });
    client.get("/clip.mp4", "").expect(200);
}

#[test]
fn the_environment_stands_between_flags_and_file() {
    let fixture = Fixture::with(&[("clip.mp4", 1000)]);
    let config =
        fixture.text("site.toml", format!("[server]\nworkers = 1\nlog_format = \"text\"\n{}", route(&fixture)));
    let mut check = highwater(&["check", "--workers", "3"]);
    check.env("HIGHWATER_CONFIG", &config).env("HIGHWATER_WORKERS", "2").env("HIGHWATER_LOG_FORMAT", "json");
    let printed = run(check).stdout;
    assert!(printed.contains("workers = 3\n") && printed.contains("log_format = \"json\"\n"), "{printed}");
    let mut wrong = highwater(&["serve", text(fixture.path())]);
    wrong.env("HIGHWATER_WORKERS", "many");
    check_wrong_use(&run(wrong), "HIGHWATER_WORKERS");
}

#[test]
fn t6_a_server_that_drains_leaves_its_successors_socket_alone() {
    let (fixture, run_dir) = (Fixture::with(&[("film.mp4", FILM_LEN), ("clip.mp4", 1000)]), Fixture::new());
    let socket = run_dir.at("highwater.sock");
    let launch =
        || Launch::of(fixture.path()).without_listen().arg("--listen").arg(format!("unix:{}", text(&socket))).start();
    let mut first = launch();
    let mut slow = Client::connect_unix(&socket);
    slow.ask("GET", "/film.mp4", "");
    slow.head().content_length().expect("a length");
    first.signal(Signal::SIGTERM);
    eventually(PATIENCE, || UnixStream::connect(&socket).is_err());
    let second = launch();
    check_bytes(0, &slow.body(FILM_LEN as usize));
    drop(slow);
    assert_eq!(first.wait().code(), Some(0));
    check_bytes(0, &Client::connect_unix(&socket).get("/clip.mp4", "").expect(200).body);
    second.stop();
    assert!(!socket.exists());
}

#[test]
fn a_socket_that_took_the_place_of_the_servers_is_left_alone() {
    let (fixture, run_dir) = (Fixture::new(), Fixture::new());
    let socket = run_dir.at("highwater.sock");
    let listen = format!("unix:{}", text(&socket));
    let server = Launch::of(fixture.path()).arg("--listen").arg(listen).start();
    fs::remove_file(&socket).expect("the server's socket");
    let _other = UnixListener::bind(&socket).expect("another one");
    server.stop();
    UnixStream::connect(&socket).expect("it is still there");
}

/// A server on a Unix socket whose standard streams are the caller's. It is killed when it is dropped.
struct Bare(Child);

impl Bare {
    /// Starts it with a drain of 100 ms and waits until it accepts.
    #[track_caller]
    fn start(folder: &Fixture, socket: &Path, stdout: Stdio, stderr: Stdio) -> Self {
        let config = folder.text("highwater.toml", "[limits]\nshutdown_timeout = \"100ms\"\n");
        let listen = format!("unix:{}", text(socket));
        let mut command = highwater(&["serve", text(folder.path()), "--config", text(&config), "--listen", &listen]);
        let server = Bare(command.args(["--workers", "1"]).stdout(stdout).stderr(stderr).spawn().expect("the binary"));
        eventually(PATIENCE, || UnixStream::connect(socket).is_ok());
        server
    }

    /// Asks it to end, which it has to.
    #[track_caller]
    fn stop(&mut self) -> ExitStatus {
        kill(Pid::from_raw(self.0.id().try_into().expect("a process id")), Signal::SIGTERM).expect("it runs");
        let mut status = None;
        eventually(PATIENCE, || {
            status = self.0.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("it has ended")
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // It has ended already where all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The ends of a pipe that is full.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let len = fcntl(&writer, FcntlArg::F_GETPIPE_SZ).expect("its length");
    writer.write_all(&vec![b'.'; len.try_into().expect("a length")]).expect("just what it holds");
    (reader, writer)
}

#[test]
fn a_standard_error_that_nobody_reads_stops_neither_serving_nor_ending() {
    let (fixture, run_dir) = (Fixture::with(&[("film.mp4", FILM_LEN), ("clip.mp4", 1000)]), Fixture::new());
    let (_reader, full) = full_pipe();
    let socket = run_dir.at("highwater.sock");
    let mut server = Bare::start(&fixture, &socket, Stdio::null(), full.into());
    // It is cut at the drain's deadline, of which the worker has something to say.
    let mut slow = Client::connect_unix(&socket);
    slow.ask("GET", "/film.mp4", "");
    slow.head().content_length().expect("a length");
    check_bytes(0, &Client::connect_unix(&socket).get("/clip.mp4", "").expect(200).body);
    assert_eq!(server.stop().code(), Some(0));
    assert!(slow.rest_of_any_end().0.len() < FILM_LEN as usize);
}

#[test]
fn a_standard_output_that_nobody_reads_stops_neither_serving_nor_ending() {
    let (fixture, run_dir) = (Fixture::with(&[("clip.mp4", 1000)]), Fixture::new());
    let (_reader, full) = full_pipe();
    let socket = run_dir.at("highwater.sock");
    let mut server = Bare::start(&fixture, &socket, full.into(), Stdio::null());
    check_bytes(0, &Client::connect_unix(&socket).get("/clip.mp4", "").expect(200).body);
    assert_eq!(server.stop().code(), Some(0));
}
