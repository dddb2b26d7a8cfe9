//! Queues over the wire: producers that are held back, consumers that leave, leases, ends, and what a kill leaves on the disk.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Client, Launch, PATIENCE, Reply, Server, allow_descriptors, bytes_at, eventually, installed, not_shown, output, url,
};

/// A server with a queue route at `/q`, with these keys.
fn launch(keys: &str) -> Launch {
    Launch::routes().config(&route(keys))
}

fn route(keys: &str) -> String {
    format!("[[route]]\nprefix = \"/q\"\n[route.queue]\n{keys}")
}

fn serve(keys: &str) -> Server {
    launch(keys).start()
}

fn journal(dir: &Path, keys: &str) -> String {
    format!("journal = {:?}\n{keys}", dir.join("journal"))
}

/// Sends a request with a body of this type.
#[track_caller]
fn send(client: &mut Client, target: &str, content_type: &str, body: &[u8]) {
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.send([head.as_bytes(), body].concat());
}

#[track_caller]
fn post(server: &Server, target: &str, content_type: &str, body: impl AsRef<[u8]>) -> Reply {
    let mut client = server.connect();
    send(&mut client, target, content_type, body.as_ref());
    client.reply()
}

#[track_caller]
fn get(server: &Server, target: &str) -> Reply {
    server.connect().get(target, "")
}

fn status(server: &Server, queue: &str) -> Value {
    let reply = get(server, &format!("/q/{queue}?status")).expect(200);
    serde_json::from_slice(&reply.body).expect("JSON")
}

#[track_caller]
fn lines(reply: &Reply) -> Vec<Value> {
    reply.text().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// The code of an error, the line that it names, and how many items were taken before it.
#[track_caller]
fn refusal(reply: &Reply) -> (u16, String, Option<u64>, Option<u64>) {
    let body: Value = serde_json::from_slice(&reply.body).expect("an error in JSON");
    let code = body["error"]["code"].as_str().expect("a code").to_owned();
    assert!(body["error"]["message"].as_str().is_some_and(|message| message.ends_with('.')), "{body}");
    (reply.status(), code, body["error"]["line"].as_u64(), body["taken"].as_u64())
}

#[test]
fn items_come_out_once_each_as_lines_or_as_they_came() {
    let server = serve("");
    assert_eq!(post(&server, "/q/work", "application/json", "{\"a\":\n1}").expect(200).text(), "{\"taken\":1}");
    post(&server, "/q/work", "text/plain", "caf\u{e9}\n").expect(200);
    post(&server, "/q/work", "image/png", b"\x89PNG").expect(200);
    let seen = status(&server, "work");
    assert_eq!((&seen["items"], &seen["bytes"]), (&json!(3), &json!(16 + 8 + 10 + 6 + 9 + 4)));
    let reply = get(&server, "/q/work?max=2&wait=0").expect(200);
    assert_eq!(reply.field("Content-Type"), Some("application/x-ndjson"));
    assert_eq!(reply.field("Cache-Control"), Some("no-store"));
    assert_eq!(reply.text(), "{\"a\": 1}\n\"caf\u{e9}\\n\"\n");
    let reply = get(&server, "/q/work?max=1&as=raw").expect(200);
    assert_eq!((reply.field("Content-Type"), reply.field("Content-Length")), (Some("image/png"), Some("4")));
    assert_eq!(reply.body, b"\x89PNG");
    assert_eq!(reply.field("Content-Security-Policy"), Some("sandbox"), "it may be somebody's page");
    get(&server, "/q/work?max=1&as=raw&wait=0").expect(204);
    assert_eq!(get(&server, "/q/work?wait=0").expect(200).body, b"");
    // Lines come in pieces of any length, with blank ones between them.
    let mut client = server.connect();
    client.send(
        "POST /q/work HTTP/1.1\r\nHost: a\r\nContent-Type: application/jsonl\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    for piece in ["1\n\n[2", ",2]\r\n", "\"th", "ree\""] {
        client.send(format!("{:x}\r\n{piece}\r\n", piece.len()));
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.reply().expect(200).text(), "{\"taken\":3}");
    assert_eq!(get(&server, "/q/work?as=raw&wait=0").expect(200).text(), "1[2,2]\"three\"");
    assert_eq!((server.metric("queue_items_in"), server.metric("queue_items_out")), (6, 6));
    let reply = server.connect().request("HEAD", "/q/work", "").expect(200);
    assert_eq!((reply.field("Queue-Items"), reply.field("Queue-Consumers")), (Some("0"), Some("0")));
    server.stop();
}

#[test]
fn a_consumer_that_waits_gets_an_item_when_it_comes_and_its_end() {
    let server = serve("");
    let mut streaming = server.connect();
    streaming.ask("GET", "/q/work", "");
    assert_eq!(streaming.head().status, 200);
    let mut single = server.connect();
    eventually(PATIENCE, || status(&server, "work")["consumers"] == 1);
    single.ask("GET", "/q/work?max=1&as=raw", "");
    eventually(PATIENCE, || status(&server, "work")["consumers"] == 2);
    assert_eq!(server.metric("queue_consumers"), 2);
    post(&server, "/q/work", "application/json", "1").expect(200);
    assert_eq!(streaming.body(7), b"2\r\n1\n\r\n", "who waited longest is first");
    post(&server, "/q/work?end=1", "text/plain", "two").expect(200);
    assert_eq!(single.reply().expect(200).text(), "two");
    assert_eq!(streaming.body(5), b"0\r\n\r\n", "the stream has ended");
    // The end alone, to one that waits.
    streaming.ask("GET", "/q/work", "");
    assert_eq!(streaming.head().status, 200);
    eventually(PATIENCE, || status(&server, "work")["consumers"] == 1);
    post(&server, "/q/work?end=1", "text/plain", "").expect(200);
    assert_eq!(streaming.body(5), b"0\r\n\r\n");
    // A consumer that waits for so long and no longer.
    get(&server, "/q/work?max=1&as=raw&wait=0.05").expect(204);
    drop((streaming, single));
    server.expect_rest(usize::MAX);
    assert_eq!(status(&server, "work")["consumers"], 0);
    server.stop();
}

/// T1: what a producer sends beyond the bound stays with it, and the server's memory stays flat.
#[test]
fn t1_a_producer_over_the_high_water_mark_is_held_back() {
    let server = serve("queue_bytes = \"64KiB\"\nitem_len = \"16KiB\"\nmemory = \"1MiB\"");
    let line = format!("\"{}\"\n", "x".repeat(998));
    // Buffers and whatever else is taken once is taken now.
    for _ in 0..40 {
        post(&server, "/q/work", "application/x-ndjson", line.repeat(50)).expect(200);
        assert_eq!(get(&server, "/q/work?wait=0").expect(200).body.len(), 50 * line.len());
    }
    // A body that does not end before it is taken, and a consumer that has stopped reading.
    let mut stopped = Client::connect_narrow(server.address(), 4096);
    stopped.ask("GET", "/q/work", "");
    let (started, until) = (server.memory("VmRSS"), 20_000);
    let producer = thread::spawn({
        let mut client = server.connect();
        let line = line.clone();
        move || {
            let len = line.len() * until;
            client.send(format!(
                "POST /q/work HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\nContent-Length: {len}\r\n\r\n"
            ));
            // It is held back in here for as long as nobody reads.
            (0..until / 100).for_each(|_| client.send(line.repeat(100)));
            client.reply().expect(200).text().to_owned()
        }
    });
    eventually(PATIENCE, || status(&server, "work")["producers_held_back"] == 1);
    let seen = status(&server, "work");
    assert!(seen["bytes"].as_u64().expect("a number") <= 64 << 10, "{seen}");
    // One more, whose item's length is known: its body is not asked for.
    let mut held = server.connect();
    held.send("POST /q/work HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n");
    eventually(PATIENCE, || status(&server, "work")["producers_held_back"] == 2);
    let grown = server.memory("VmRSS").saturating_sub(started);
    assert!(grown < 4 << 20, "{grown} bytes more");
    held.reset();
    eventually(PATIENCE, || status(&server, "work")["producers_held_back"] == 1);
    // Now they go out, what the stopped one gave back among them.
    stopped.reset();
    let address = server.address();
    let consumer = thread::spawn(move || Client::connect(address).get("/q/work", "").expect(200).body.len());
    assert_eq!(producer.join().expect("a producer"), format!("{{\"taken\":{until}}}"));
    let grown = server.memory("VmHWM").saturating_sub(started);
    assert!(grown < 4 << 20, "{grown} bytes more at the peak");
    post(&server, "/q/work?end=1", "text/plain", "").expect(200);
    let len = consumer.join().expect("a consumer");
    assert!(len > (until - 1000) * line.len(), "{len} bytes");
    server.stop();
}

#[test]
fn a_producer_that_will_not_wait_is_told_at_once_or_in_time() {
    let server = serve("queue_items = 2");
    assert_eq!(post(&server, "/q/work?wait=0", "application/x-ndjson", "1\n2\n").expect(200).text(), "{\"taken\":2}");
    for target in ["/q/work?wait=0", "/q/work?wait=0.05"] {
        let reply = post(&server, target, "text/plain", "three");
        assert_eq!(refusal(&reply), (429, "QUEUE_FULL".into(), None, Some(0)));
        assert_eq!(reply.field("Retry-After"), Some("1"));
    }
    // The refusal comes before the body is asked for (F8).
    let mut client = server.connect();
    client.send("POST /q/work?wait=0 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    client.reply().expect(429);
    get(&server, "/q/work?max=1&wait=0").expect(200);
    let reply = post(&server, "/q/work?wait=0", "application/x-ndjson", "3\n4\n5\n");
    assert_eq!(refusal(&reply), (429, "QUEUE_FULL".into(), None, Some(1)));
    assert_eq!(lines(&get(&server, "/q/work?wait=0")), [json!(2), json!(3)]);
    server.stop();
}

#[test]
fn each_item_goes_to_one_of_many_consumers_on_two_workers() {
    const ITEMS: usize = 2000;
    let server = launch("queue_items = 50").arg("--workers").arg("2").start();
    let address = server.address();
    let mut found: Vec<u64> = thread::scope(|scope| {
        let consumers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(move || {
                    let reply = Client::connect(address).get("/q/work", "").expect(200);
                    lines(&reply).iter().map(|item| item.as_u64().expect("a number")).collect::<Vec<_>>()
                })
            })
            .collect();
        eventually(PATIENCE, || status(&server, "work")["consumers"] == 8);
        thread::scope(|scope| {
            for producer in 0..4 {
                let numbers = producer * ITEMS / 4..(producer + 1) * ITEMS / 4;
                let body = numbers.fold(String::new(), |body, number| format!("{body}{number}\n"));
                scope.spawn(move || {
                    let mut client = Client::connect(address);
                    send(&mut client, "/q/work", "application/x-ndjson", body.as_bytes());
                    client.reply().expect(200);
                });
            }
        });
        post(&server, "/q/work?end=1", "text/plain", "").expect(200);
        consumers.into_iter().flat_map(|consumer| consumer.join().expect("a consumer")).collect()
    });
    found.sort_unstable();
    assert_eq!(found, (0..ITEMS as u64).collect::<Vec<_>>());
    server.expect_rest(usize::MAX);
    server.stop();
}

/// Takes one item with a lease: the item, the attempt, the lease.
#[track_caller]
fn lease(server: &Server, parameters: &str) -> (Value, u64, String) {
    let reply = get(server, &format!("/q/work?ack=1&max=1{parameters}")).expect(200);
    let line = lines(&reply).remove(0);
    (
        line["item"].clone(),
        line["attempt"].as_u64().expect("an attempt"),
        line["lease"].as_str().expect("a lease").into(),
    )
}

#[test]
fn an_item_of_a_consumer_that_dies_is_delivered_again_first() {
    let server = serve("");
    post(&server, "/q/work", "application/x-ndjson", "1\n2\n3\n").expect(200);
    // Only this lease runs out, and not before the others are taken.
    let (item, attempt, dead) = lease(&server, "&lease_for=3");
    assert_eq!((item, attempt), (json!(1), 1));
    let (item, _, kept) = lease(&server, "");
    assert_eq!(item, json!(2));
    server.connect().request("DELETE", &format!("/q/work?lease={kept}"), "").expect(204);
    // It waits for the lease to run out, although something else is there; then for nothing but that.
    assert_eq!(lines(&get(&server, "/q/work?max=1")), [json!(3)]);
    let (item, attempt, again) = lease(&server, "");
    assert_eq!((item, attempt), (json!(1), 2), "delivered again, by the clock of one that waits");
    let reply = server.connect().request("DELETE", &format!("/q/work?lease={dead}"), "");
    assert_eq!(refusal(&reply), (410, "LEASE_EXPIRED".into(), None, None));
    let reply = server.connect().request("DELETE", &format!("/q/work?lease={kept}"), "");
    assert_eq!(refusal(&reply), (404, "LEASE_UNKNOWN".into(), None, None));
    // Given back at once.
    server.connect().request("POST", &format!("/q/work?release={again}"), "").expect(204);
    let reply = get(&server, "/q/work?ack=1&max=1&as=raw&wait=0").expect(200);
    assert_eq!((reply.text(), reply.field("Queue-Attempt")), ("1", Some("3")));
    let raw = reply.field("Queue-Lease").expect("a lease").to_owned();
    let both = format!("/q/work?lease={raw}&lease={kept}");
    server.connect().request("DELETE", &both, "").expect(404);
    assert_eq!(status(&server, "work")["items"], 0, "what can be acknowledged is");
    server.stop();
}

#[test]
fn what_does_not_reach_the_kernel_goes_to_another_consumer() {
    let server = serve("");
    let item = bytes_at(0, 1 << 20);
    // More than what the sockets between them take.
    let mut stopped = Client::connect_narrow(server.address(), 4096);
    (0..4).for_each(|_| drop(post(&server, "/q/work", "video/mp4", &item).expect(200)));
    stopped.ask("GET", "/q/work?as=raw", "");
    eventually(PATIENCE, || server.metric("send_queue_waits") > 0);
    let left = status(&server, "work")["items"].as_u64().expect("a number");
    assert!(left >= 3, "it has one, and no more: {left}");
    stopped.reset();
    eventually(PATIENCE, || status(&server, "work")["consumers"] == 0);
    assert_eq!(status(&server, "work")["items"], left, "what it did not get whole is there again");
    for _ in 0..left {
        assert_eq!(get(&server, "/q/work?max=1&as=raw&wait=0").expect(200).body, item);
    }
    server.stop();
}

#[test]
fn a_queue_on_disk_outlives_servers_that_are_killed() {
    let dir = TempDir::new().expect("a folder");
    for sync in ["false", "true"] {
        let keys = journal(dir.path(), &format!("journal_sync = {sync}"));
        let mut server = serve(&keys);
        let (mut next, mut expected, mut seen) = (0, 0, BTreeSet::new());
        for round in 0..5 {
            let body = (next..next + 20).fold(String::new(), |body, number| format!("{body}{number}\n"));
            post(&server, "/q/work", "application/x-ndjson", body).expect(200);
            next += 20;
            // Taken and acknowledged, taken and not.
            let reply = get(&server, "/q/work?ack=1&max=6&wait=0").expect(200);
            for line in &lines(&reply)[..5] {
                let lease = line["lease"].as_str().expect("a lease");
                server.connect().request("DELETE", &format!("/q/work?lease={lease}"), "").expect(204);
                assert!(seen.insert(line["item"].as_u64().expect("a number")), "{line} was acknowledged");
            }
            expected += 15;
            // A producer that was cut off in the middle of an item.
            let mut cut = server.connect();
            cut.send("POST /q/work HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf");
            eventually(PATIENCE, || server.held().connections_active > 0);
            server.signal(Signal::SIGKILL);
            server.wait();
            server = serve(&keys);
            assert_eq!(status(&server, "work")["items"], expected, "round {round}");
        }
        let rest = lines(&get(&server, "/q/work?wait=0").expect(200));
        assert_eq!(rest.len(), expected);
        for item in rest {
            assert!(seen.insert(item.as_u64().expect("a number")));
        }
        assert_eq!(seen, (0..next).collect());
        eventually(PATIENCE, || status(&server, "work")["items"] == 0);
        server.stop();
        let server = serve(&keys);
        assert_eq!(status(&server, "work")["items"], 0);
        server.stop();
    }
}

#[test]
fn a_second_server_is_refused_the_journal_and_a_damaged_one_is_told() {
    let dir = TempDir::new().expect("a folder");
    let keys = journal(dir.path(), "");
    let server = serve(&keys);
    (0..3).for_each(|n| drop(post(&server, "/q/work", "text/plain", format!("item {n}")).expect(200)));
    let config = TempDir::new().expect("a folder");
    let path = config.path().join("second.toml");
    fs::write(&path, route(&keys)).expect("a file");
    let mut second = Command::new(env!("CARGO_BIN_EXE_highwater"));
    second.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&path);
    let second = output(&mut second, PATIENCE);
    let told = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && told.contains("is in use by another process or another route"), "{told}");
    server.stop();
    let segment = dir.path().join("journal/0000000000000001.log");
    let mut bytes = fs::read(&segment).expect("a segment");
    let at = bytes.windows(6).position(|window| window == b"item 1").expect("the second item");
    bytes[at] ^= 1;
    fs::write(&segment, bytes).expect("a changed segment");
    let server = serve(&keys);
    eventually(PATIENCE, || server.log().contains("0000000000000001.log") && server.log().contains("damaged"));
    assert_eq!(lines(&get(&server, "/q/work?wait=0")), [json!("item 0")]);
    server.stop();
}

#[test]
fn a_full_disk_is_507_and_loses_nothing() {
    let dir = TempDir::new().expect("a folder");
    let keys = journal(dir.path(), "item_len = \"100KiB\"");
    let Some(launch) = launch(&keys).small_disk(dir.path(), 1 << 20) else {
        return not_shown("this machine lets nobody mount a small disk");
    };
    let server = launch.start();
    let item = bytes_at(0, 90_000);
    let mut taken = 0;
    let refused = loop {
        let reply = post(&server, "/q/work", "video/mp4", &item);
        if reply.status() != 200 {
            break reply;
        }
        taken += 1;
        assert!(taken < 20, "the disk does not fill up");
    };
    assert_eq!(refusal(&refused), (507, "STORAGE_FULL".into(), None, Some(0)));
    assert!(taken > 5, "{taken} items");
    // What is short still fits, and each thing that was taken comes out.
    assert_eq!(status(&server, "work")["items"], taken);
    for _ in 0..taken {
        assert_eq!(get(&server, "/q/work?max=1&as=raw&wait=0").expect(200).body, item);
    }
    eventually(PATIENCE, || post(&server, "/q/work", "video/mp4", &item).status() == 200);
    assert_eq!(get(&server, "/q/work?max=1&as=raw&wait=0").expect(200).body, item);
    server.stop();
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason() {
    let server = serve("item_len = 100\nqueues = 2");
    let check = |reply: Reply, status: u16, code: &str, line: Option<u64>, taken: Option<u64>| {
        assert_eq!(refusal(&reply), (status, code.into(), line, taken));
    };
    let ndjson = |body: &str| post(&server, "/q/a", "application/x-ndjson", body);
    check(ndjson("1\n\n2\nthree\n4\n"), 400, "NOT_JSON", Some(4), Some(2));
    check(ndjson("{\"a\":1}{\"b\":2}\n"), 400, "NOT_JSON", Some(1), Some(0));
    check(ndjson(&format!("1\n\"{}\"\n", "x".repeat(99))), 413, "ITEM_TOO_LONG", Some(2), Some(1));
    check(post(&server, "/q/a", "application/json", "{"), 400, "NOT_JSON", None, Some(0));
    check(post(&server, "/q/a", "text/plain", "x".repeat(101)), 413, "ITEM_TOO_LONG", None, Some(0));
    check(post(&server, "/q/a", &"t".repeat(256), "x"), 400, "TYPE", None, None);
    let mut client = server.connect();
    client.send("POST /q/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n");
    client.send("x".repeat(101));
    client.send("\r\n0\r\n\r\n");
    check(client.reply(), 413, "ITEM_TOO_LONG", None, Some(0));
    for (method, target, code) in [
        ("GET", "/q/a?max=0", "PARAMETER"),
        ("GET", "/q/a?ack=1&as=raw", "PARAMETER"),
        ("GET", "/q/a?wait=99999999", "PARAMETER"),
        ("POST", "/q/a?max=1", "PARAMETER"),
        ("DELETE", "/q/a", "PARAMETER"),
        ("GET", "/q/%00", "PATH"),
        ("GET", "/q/%ff", "NAME"),
    ] {
        check(server.connect().request(method, target, ""), 400, code, None, None);
    }
    check(server.connect().request("DELETE", "/q/a?lease=nonsense", ""), 404, "LEASE_UNKNOWN", None, None);
    check(server.connect().request("POST", "/q/a?release=ffff-1", ""), 404, "LEASE_UNKNOWN", None, None);
    check(get(&server, "/q/"), 404, "NAME", None, None);
    let reply = server.connect().request("PUT", "/q/a", "").expect(405);
    assert_eq!(reply.field("Allow"), Some("GET, HEAD, POST, DELETE, OPTIONS"));
    post(&server, "/q/b", "text/plain", "x").expect(200);
    let reply = post(&server, "/q/c", "text/plain", "x");
    assert_eq!((refusal(&reply).0, reply.field("Retry-After")), (503, Some("1")));
    check(get(&server, "/q/c?wait=0"), 503, "TOO_MANY_QUEUES", None, None);
    assert_eq!(lines(&get(&server, "/q/a?wait=0")).len(), 3, "what came before the mistakes");
    server.stop();
}

#[test]
fn h2_pages_of_other_sites_may_where_they_are_let() {
    let server = serve("origins = [\"https://app.example\"]");
    let origin = "Origin: https://app.example\r\n";
    let preflight = format!("{origin}Access-Control-Request-Method: DELETE\r\n");
    let reply = server.connect().request("OPTIONS", "/q/a", &preflight).expect(204);
    assert!(reply.field("Access-Control-Allow-Methods").is_some_and(|methods| methods.contains("DELETE")));
    for (method, target, status) in [("GET", "/q/a?wait=0", 200), ("GET", "/q/a?nonsense", 400), ("PUT", "/q/a", 405)] {
        let reply = server.connect().request(method, target, origin).expect(status);
        assert_eq!(reply.field("Access-Control-Allow-Origin"), Some("https://app.example"));
    }
    server.stop();
}

#[test]
fn consumers_that_connect_and_leave_leave_nothing() {
    const CLIENTS: usize = 1000;
    allow_descriptors(4096);
    let server = launch("").arg("--workers").arg("2").start();
    post(&server, "/q/other", "text/plain", "stays").expect(200);
    let before = server.descriptors();
    for way in ["/q/work", "/q/work?max=1&as=raw", "/q/work?ack=1&wait=3600"] {
        let clients: Vec<Client> = (0..CLIENTS)
            .map(|_| {
                let mut client = server.connect();
                client.ask("GET", way, "");
                client
            })
            .collect();
        let are = |count: usize| {
            status(&server, "work")["consumers"] == count && server.metric("queue_consumers") == count as u64
        };
        eventually(PATIENCE, || are(CLIENTS));
        for (n, client) in clients.into_iter().enumerate() {
            if n % 2 == 0 { drop(client) } else { client.reset() }
        }
        eventually(PATIENCE, || are(0));
    }
    // Nothing was lost to one of them.
    post(&server, "/q/work", "application/json", "1").expect(200);
    assert_eq!(lines(&get(&server, "/q/work?max=1&wait=0")), [json!(1)]);
    server.expect_rest(before + 2);
    server.stop();
}

#[test]
fn t6_a_server_that_goes_away_ends_streams_and_tells_producers() {
    let mut server = serve("queue_items = 1");
    post(&server, "/q/full", "text/plain", "x").expect(200);
    let (mut consumer, mut single, mut producer) = (server.connect(), server.connect(), server.connect());
    consumer.ask("GET", "/q/work", "");
    assert_eq!(consumer.head().status, 200);
    single.ask("GET", "/q/work?max=1&as=raw", "");
    send(&mut producer, "/q/full", "text/plain", b"y");
    eventually(PATIENCE, || {
        server.metric("queue_consumers") == 2 && status(&server, "full")["producers_held_back"] == 1
    });
    let depths = ["queue_items", "queue_bytes", "queue_producers_held_back", "event_topics"];
    assert_eq!(depths.map(|name| server.metric(name)), [1, 11, 1, 0]);
    server.signal(Signal::SIGTERM);
    assert_eq!(consumer.body(5), b"0\r\n\r\n");
    single.reply().expect(204);
    let reply = producer.reply();
    assert_eq!((refusal(&reply).0, reply.field("Retry-After")), (503, Some("1")));
    assert_eq!(server.wait().code(), Some(0));
    // What is lost is told.
    eventually(PATIENCE, || server.log().contains("their items with them items=1"));
}

#[test]
fn curl_produces_and_consumes() {
    let Some(curl) = installed(&["curl"]) else { return };
    let server = serve("");
    let run = |arguments: &[&str]| {
        let output = output(Command::new(&curl).arg("-sS").args(arguments), PATIENCE);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let at = url(&server, "q/work");
    assert_eq!(run(&["-d", "hello", &at]), "{\"taken\":1}");
    let json = "Content-Type: application/x-ndjson";
    assert_eq!(run(&["-H", json, "--data-binary", "{\"a\":1}\n[2]\n", &at]), "{\"taken\":2}");
    assert_eq!(run(&["-N", &format!("{at}?wait=0")]), "\"hello\"\n{\"a\":1}\n[2]\n");
    server.stop();
}

#[test]
fn a_reload_keeps_what_is_in_the_queues_and_who_waits() {
    let server = serve("queue_items = 1");
    post(&server, "/q/work", "text/plain", "kept").expect(200);
    let mut waiting = server.connect();
    waiting.ask("GET", "/q/other?max=1&as=raw", "");
    eventually(PATIENCE, || server.metric("queue_consumers") == 1);
    fs::write(server.config_path(), route("queue_items = 5")).expect("a configuration");
    server.signal(Signal::SIGHUP);
    // There is no room for it until the worker has the new bound.
    eventually(PATIENCE, || post(&server, "/q/work?wait=0", "application/json", "1").status() == 200);
    post(&server, "/q/work?wait=0", "application/json", "2").expect(200);
    assert_eq!(lines(&get(&server, "/q/work?wait=0")), [json!("kept"), json!(1), json!(2)]);
    post(&server, "/q/other", "text/plain", "found").expect(200);
    assert_eq!(waiting.reply().expect(200).text(), "found");
    server.stop();
}
