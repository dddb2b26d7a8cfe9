//! Topics of events: what is published reaches every subscriber once and in order, or they are told what they have lost.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    Browser, Client, Fixture, Launch, PATIENCE, Reply, Server, allow_descriptors, eventually, installed, not_shown,
};

/// An events route at `/events` with these keys.
fn route(keys: &str) -> String {
    format!("[[route]]\nprefix = \"/events\"\n[route.events]\n{keys}\n")
}

#[track_caller]
fn serve(keys: &str) -> Server {
    Launch::routes().config(&route(keys)).start()
}

/// An event as a subscriber gets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Event {
    id: String,
    kind: String,
    data: String,
}

/// A subscriber: a client that reads a stream of events.
struct Subscriber {
    client: Client,
    head: Reply,
    text: String,
}

impl Subscriber {
    #[track_caller]
    fn of(server: &Server, target: &str, fields: &str) -> Self {
        Subscriber::over(server.connect(), target, fields)
    }

    #[track_caller]
    fn over(mut client: Client, target: &str, fields: &str) -> Self {
        client.ask("GET", target, fields);
        let head = client.head();
        assert_eq!((head.status, head.field("Transfer-Encoding")), (200, Some("chunked")), "{target}");
        Subscriber { client, head: Reply { head, body: Vec::new() }, text: String::new() }
    }

    /// The next thing that comes: an event, or a comment as one without data; `None` at the end of the stream.
    #[track_caller]
    fn next(&mut self) -> Option<Event> {
        while !self.text.contains("\n\n") {
            let chunk = self.client.chunk().expect("a stream that goes on");
            if chunk.is_empty() {
                assert_eq!(self.text, "", "the stream ends within an event");
                return None;
            }
            self.text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
        let (lines, rest) = self.text.split_once("\n\n").expect("found above");
        let mut event = Event::default();
        let mut data = Vec::new();
        for line in lines.lines() {
            match line.split_once(": ").unwrap_or((line, "")) {
                ("id", value) => event.id = value.to_owned(),
                ("event", value) => event.kind = value.to_owned(),
                ("data", value) => data.push(value),
                (name, _) => assert!(matches!(name, ":" | "retry"), "{line:?}"),
            }
        }
        event.data = data.join("\n");
        self.text = rest.to_owned();
        Some(event)
    }

    #[track_caller]
    fn event(&mut self) -> Event {
        self.next().expect("an event")
    }

    #[track_caller]
    fn data(&mut self) -> String {
        self.event().data
    }

    #[track_caller]
    fn expect_data(&mut self, expected: &[&str]) {
        let found: Vec<String> = expected.iter().map(|_| self.data()).collect();
        assert_eq!(found, expected);
    }

    /// What it is told of what it has lost.
    #[track_caller]
    fn expect_lost(&mut self, topic: &str, reason: &str, lost: Option<u64>) {
        let Event { kind, data, id } = self.event();
        assert_eq!((kind.as_str(), id.as_str()), ("lost", ""), "{data}");
        let told: Value = serde_json::from_str(&data).expect("JSON");
        assert_eq!(told, serde_json::json!({ "topic": topic, "reason": reason, "lost": lost }));
    }
}

#[track_caller]
fn post(client: &mut Client, target: &str, fields: &str, body: impl AsRef<[u8]>) -> Reply {
    let body = body.as_ref();
    let head = format!("POST {target} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    client.send([head.as_bytes(), body].concat());
    client.reply()
}

/// Publishes, and returns the event's id.
#[track_caller]
fn publish(client: &mut Client, topic: &str, data: impl AsRef<[u8]>) -> String {
    let reply = post(client, &format!("/events/{topic}"), "", data).expect(200);
    told(&reply)["id"].as_str().expect("an id").to_owned()
}

#[track_caller]
fn told(reply: &Reply) -> Value {
    serde_json::from_str(reply.text()).unwrap_or_else(|_| panic!("no JSON: {}", reply.text()))
}

#[track_caller]
fn code(reply: &Reply) -> String {
    told(reply)["error"]["code"].as_str().expect("a code").to_owned()
}

const NDJSON: &str = "Content-Type: application/x-ndjson\r\n";

#[test]
fn s1_a_stream_says_what_it_is_and_each_event_comes_at_once() {
    let server = serve("retry = \"1500ms\"");
    let mut publisher = server.connect();
    let mut subscriber = Subscriber::of(&server, "/events/a/b", "");
    let field = |name| subscriber.head.field(name);
    assert_eq!(field("Content-Type"), Some("text/event-stream"));
    assert_eq!(field("Cache-Control"), Some("no-cache, no-transform"));
    assert_eq!((field("X-Accel-Buffering"), field("Content-Length")), (Some("no"), None));
    assert_eq!(subscriber.event(), Event::default(), "the time to wait before connecting again");
    for n in 0..20 {
        let id = publish(&mut publisher, "a/b", format!("{n}"));
        let event = Event { id, kind: String::new(), data: n.to_string() };
        assert_eq!(subscriber.event(), event, "before the next is published");
    }
    server.stop();
}

#[test]
fn s2_whatever_lines_data_has_it_arrives_as_it_was_published() {
    let server = serve("");
    let mut publisher = server.connect();
    let mut subscriber = Subscriber::of(&server, "/events/a", "");
    for (data, read) in [
        ("", ""),
        ("a\r\nb\rc\nd", "a\nb\nc\nd"),
        ("\n\n", "\n\n"),
        ("id: x\n\ndata: y", "id: x\n\ndata: y"),
        (" é\u{2028}\0", " é\u{2028}\0"),
    ] {
        publish(&mut publisher, "a", data);
        assert_eq!(subscriber.data(), read, "{data:?}");
    }
    let fields = "Event-ID: my id\r\nEvent-Type: tick\r\nEvent-Retry: 7\r\n";
    post(&mut publisher, "/events/a", fields, "1").expect(200);
    post(&mut publisher, "/events?topic=a&event=by%20query&id=q", "Event-ID: field\r\n", "2").expect(200);
    let event = |id: &str, kind: &str, data: &str| Event { id: id.into(), kind: kind.into(), data: data.into() };
    assert_eq!(subscriber.event(), event("my id", "tick", "1"));
    assert_eq!(subscriber.event(), event("q", "by query", "2"));
    server.stop();
}

#[test]
fn many_events_come_as_lines_of_json() {
    let server = serve("");
    let mut publisher = server.connect();
    let mut subscriber = Subscriber::of(&server, "/events/a", "");
    let lines = "{\"data\":1}\n\n{\"data\":\"x\\ny\",\"event\":\"e\",\"id\":\"i\"}\r\n{\"data\":{\"a\":[]}}";
    let reply = post(&mut publisher, "/events/a", NDJSON, lines).expect(200);
    assert_eq!(told(&reply)["published"], 3);
    subscriber.expect_data(&["1", "x\ny", "{\"a\":[]}"]);
    // Those before a line that is wrong stay published, and the publisher is told how many.
    let reply =
        post(&mut publisher, "/events/a", NDJSON, "{\"data\":2}\n{\"data\":3}\n{\"dato\":4}\n{\"data\":5}").expect(400);
    assert_eq!((told(&reply)["published"].as_u64(), code(&reply)), (Some(2), "MALFORMED".into()));
    assert!(reply.text().contains("Line 3: "), "{}", reply.text());
    subscriber.expect_data(&["2", "3"]);
    // They are published as they come, not when all have come.
    publisher.finish_if_open();
    let mut slow = server.connect();
    slow.send(format!("POST /events/a HTTP/1.1\r\nHost: a\r\n{NDJSON}Transfer-Encoding: chunked\r\n\r\n"));
    for n in ["6", "7"] {
        slow.send(format!("b\r\n{{\"data\":{n}}}\n\r\n"));
        subscriber.expect_data(&[n]);
    }
    slow.send("0\r\n\r\n");
    assert_eq!(told(&slow.reply().expect(200))["published"], 2);
    server.stop();
}

#[test]
fn s3_who_comes_back_gets_what_it_has_missed_or_is_told() {
    let server = serve("history_events = 5");
    let mut publisher = server.connect();
    let ids: Vec<String> = (0..10).map(|n| publish(&mut publisher, "a", n.to_string())).collect();
    let mut by_field = Subscriber::of(&server, "/events/a", &format!("Last-Event-ID: {}\r\n", ids[7]));
    by_field.expect_data(&["8", "9"]);
    assert_eq!(by_field.head.field("Last-Event-ID"), Some(ids[7].as_str()));
    assert_eq!(by_field.head.field("Events-Lost"), None);
    // The query is of the first connection; what the browser says is newer.
    let query = format!("/events/a?last_event_id={}", ids[6]);
    Subscriber::of(&server, &query, "").expect_data(&["7", "8", "9"]);
    Subscriber::of(&server, &query, &format!("Last-Event-ID: {}\r\n", ids[8])).expect_data(&["9"]);
    let mut expired = Subscriber::of(&server, "/events/a", &format!("Last-Event-ID: {}\r\n", ids[1]));
    assert_eq!(expired.head.field("Events-Lost"), Some("3"));
    expired.expect_lost("a", "expired", Some(3));
    expired.expect_data(&["5", "6", "7", "8", "9"]);
    let mut unknown = Subscriber::of(&server, "/events/a", "Last-Event-ID: never\r\n");
    assert_eq!(unknown.head.field("Events-Lost"), Some("unknown"));
    unknown.expect_lost("a", "unknown", None);
    unknown.expect_data(&["5", "6", "7", "8", "9"]);
    let (epoch, number) = ids[9].split_once('-').expect("a position");
    let future = format!("Last-Event-ID: {epoch}-{}\r\n", number.parse::<u64>().expect("a number") + 5);
    let mut future = Subscriber::of(&server, "/events/a", &future);
    future.expect_lost("a", "ahead", None);
    Subscriber::of(&server, "/events/a?last_event_id=earliest", "").expect_data(&["5", "6", "7", "8", "9"]);
    let mut new = Subscriber::of(&server, "/events/a", "");
    publish(&mut publisher, "a", "10");
    new.expect_data(&["10"]);
    future.expect_data(&["10"]);
    server.stop();
}

#[test]
fn s3_a_subscription_to_several_topics_goes_on_in_each_and_is_told_of_each() {
    let server = serve("history_events = 2");
    let mut publisher = server.connect();
    let target = "/events?topic=b&topic=a&topic=b";
    let mut both = Subscriber::of(&server, target, "");
    for (topic, data) in [("a", "a1"), ("b", "b1"), ("a", "a2")] {
        publish(&mut publisher, topic, data);
        assert_eq!(both.data(), data);
    }
    for (topic, data) in [("b", "b2"), ("b", "b3"), ("b", "b4"), ("a", "a3")] {
        publish(&mut publisher, topic, data);
    }
    let seen = both.event();
    assert_eq!(seen.data, "b2");
    let mut again = Subscriber::of(&server, target, &format!("Last-Event-ID: {}\r\n", seen.id));
    let mut rest = [again.data(), again.data(), again.data()];
    rest.sort();
    assert_eq!(rest, ["a3", "b3", "b4"]);
    for data in ["b5", "b6", "b7"] {
        publish(&mut publisher, "b", data);
    }
    let mut late = Subscriber::of(&server, target, &format!("Last-Event-ID: {}\r\n", seen.id));
    assert_eq!(late.head.field("Events-Lost"), Some("3"), "b3, b4 and b5");
    late.expect_lost("b", "expired", Some(3));
    let mut rest = [late.data(), late.data(), late.data()];
    rest.sort();
    assert_eq!(rest, ["a3", "b6", "b7"]);
    server.stop();
}

#[test]
fn a_key_keeps_its_newest_event_in_the_history() {
    let server = serve("");
    let mut publisher = server.connect();
    for (key, data) in [("x", "1"), ("y", "2"), ("x", "3"), ("x", "4")] {
        post(&mut publisher, &format!("/events/a?key={key}"), "", data).expect(200);
    }
    Subscriber::of(&server, "/events/a?last_event_id=earliest", "").expect_data(&["2", "4"]);
    server.stop();
}

/// A subscriber that stops reading until it has been left behind, and what it then finds.
fn left_behind(on_lag: &str) -> (Server, Subscriber, u64, Client) {
    let keys = format!("history_events = 10\nbacklog = \"64KiB\"\non_lag = \"{on_lag}\"\nevent_len = \"64KiB\"");
    let server = serve(&keys);
    let mut publisher = server.connect();
    let mut slow = Subscriber::over(Client::connect_narrow(server.address(), 4096), "/events/a", "");
    let mut quick = Subscriber::of(&server, "/events/a", "");
    let before = server.memory("VmRSS");
    for n in 0..1000 {
        let data = format!("{n} {}", "x".repeat(30_000));
        publish(&mut publisher, "a", &data);
        assert_eq!(quick.data(), data, "one that has stopped holds nobody up");
    }
    let grown = server.memory("VmRSS").saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes for a subscriber that does not read");
    // What it has been sent already, one after the other, and then the news.
    let mut expected = 0;
    loop {
        let event = slow.event();
        if event.kind == "lost" {
            let told: Value = serde_json::from_str(&event.data).expect("JSON");
            assert_eq!((told["reason"].as_str(), told["topic"].as_str()), (Some("slow"), Some("a")));
            let lost = told["lost"].as_u64().expect("a number");
            return (server, slow, expected + lost, publisher);
        }
        assert_eq!(event.data.split(' ').next(), Some(expected.to_string().as_str()));
        expected += 1;
    }
}

#[test]
fn s4_a_subscriber_that_is_too_slow_is_cut_off_and_told_exactly() {
    let (server, mut slow, next, _publisher) = left_behind("disconnect");
    assert!(next > 900, "{next}");
    assert_eq!(slow.next(), None);
    server.stop();
}

#[test]
fn s4_a_subscriber_that_is_too_slow_skips_to_what_is_kept_and_told_exactly() {
    let (server, mut slow, next, mut publisher) = left_behind("skip");
    for n in next..1000 {
        assert_eq!(slow.data().split(' ').next(), Some(n.to_string().as_str()));
    }
    publish(&mut publisher, "a", "more");
    slow.expect_data(&["more"]);
    server.stop();
}

#[test]
fn t1_a_stopped_reader_holds_no_more_than_the_bounds_of_the_route() {
    let server = serve("memory = \"2MiB\"\nhistory_bytes = \"16MiB\"\nevent_len = \"64KiB\"");
    let mut publisher = server.connect();
    let stopped: Vec<Subscriber> =
        (0..50).map(|_| Subscriber::over(Client::connect_narrow(server.address(), 4096), "/events/a", "")).collect();
    for n in 0..400 {
        publish(&mut publisher, "a", format!("{n} {}", "x".repeat(50_000)));
    }
    // Events that are on their way count until the last of their readers has them.
    assert!(server.memory("VmRSS") < server.metric("memory_ceiling_bytes"));
    drop(stopped);
    eventually(PATIENCE, || server.metric("subscribers") == 0);
    server.stop();
}

#[test]
fn s2_a_silent_topic_has_a_heartbeat_and_a_dead_client_is_freed_within_one() {
    let server = serve("heartbeat = \"1s\"");
    let mut subscriber = Subscriber::of(&server, "/events/a", "");
    assert_eq!((subscriber.event(), subscriber.event()), (Event::default(), Event::default()));
    server.stop();
}

/// A client that answers nothing any more once it has read the head, as one whose network is gone: a socket filter
/// (`SO_ATTACH_FILTER`, socket(7)) lets no packet in. It says so, and waits to be ended.
const VANISHING: &str = r#"
import ctypes, socket, struct, sys
client = socket.create_connection((sys.argv[1], int(sys.argv[2])))
client.sendall(b"GET /events/a HTTP/1.1\r\nHost: test.example\r\n\r\n")
while b"\r\n\r\n" not in client.recv(65536): pass
drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
client.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", 1, ctypes.addressof(drop_all)))
print("gone", flush=True)
sys.stdin.read()
"#;

#[test]
fn s4_a_client_that_vanishes_without_a_word_is_freed() {
    let Some(python) = installed(&["python3"]) else { return };
    let server = serve("heartbeat = \"1s\"");
    let mut stays = Subscriber::of(&server, "/events/a", "");
    let (host, port) = (server.address().ip().to_string(), server.address().port().to_string());
    let mut command = Command::new(python);
    command.args(["-c", VANISHING, &host, &port]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut vanishing = command.spawn().expect("a client");
    let mut said = BufReader::new(vanishing.stdout.take().expect("its output")).lines();
    assert_eq!(said.next().expect("a line").expect("text"), "gone");
    assert_eq!(server.metric("subscribers"), 2);
    // The heartbeats that it does not acknowledge tell; the kernel alone would try for a quarter of an hour.
    eventually(3 * PATIENCE, || server.metric("subscribers") == 1);
    drop(vanishing.stdin.take());
    assert!(vanishing.wait().expect("its end").success());
    publish(&mut server.connect(), "a", "still here");
    while stays.data() != "still here" {}
    server.stop();
}

#[test]
fn f10_a_subscriber_that_has_finished_its_side_is_found_out_at_once() {
    // A heartbeat would come too late for this test.
    let server = serve("heartbeat = \"1h\"");
    let gone: Vec<Subscriber> = (0..20).map(|_| Subscriber::of(&server, "/events/a", "")).collect();
    let mut finished = Subscriber::of(&server, "/events/a", "");
    eventually(PATIENCE, || server.metric("subscribers") == 21);
    drop(gone);
    eventually(PATIENCE, || server.metric("subscribers") == 1);
    finished.client.finish();
    assert_eq!(finished.event(), Event::default(), "whether it still reads");
    for n in ["1", "2"] {
        publish(&mut server.connect(), "a", n);
        finished.expect_data(&[n]);
    }
    drop(finished);
    publish(&mut server.connect(), "a", "3");
    eventually(PATIENCE, || server.metric("subscribers") == 0);
    server.stop();
}

#[test]
fn s4_ten_thousand_subscribers_that_come_and_leave_at_once_leave_nothing() {
    allow_descriptors(4000);
    let server = Launch::routes().limits("linger_timeout = \"100ms\"").config(&route("heartbeat = \"1s\"")).start();
    let mut publisher = server.connect();
    publish(&mut publisher, "all", "x");
    publisher.finish();
    server.expect_rest(server.descriptors());
    let before = server.descriptors();
    for round in 0..10 {
        let mut all: Vec<Client> = (0..1000).map(|_| server.connect()).collect();
        for (n, client) in all.iter_mut().enumerate() {
            let topic = if n % 2 == 0 { "all".to_owned() } else { format!("own-{n}") };
            client.ask("GET", &format!("/events/{topic}?last_event_id=earliest"), "");
        }
        for client in all {
            // With a reset and in order, before the reply and behind it.
            if round % 2 == 0 { client.reset() } else { drop(client) }
        }
    }
    server.expect_rest(before);
    assert_eq!(server.metric("subscribers"), 0);
    // Topics that nobody has used go with those who named them: there is room for as many others.
    let mut client = server.connect();
    for n in 0..999 {
        publish(&mut client, &format!("new-{n}"), "x");
    }
    server.stop();
}

#[test]
fn what_can_be_no_event_is_refused_and_says_why() {
    let server = serve("event_len = \"1KiB\"");
    let mut subscriber = Subscriber::of(&server, "/events/a", "");
    #[track_caller]
    fn check(server: &Server, target: &str, fields: &str, body: &[u8], status: u16, expected: &str) {
        let reply = post(&mut server.connect(), target, fields, body).expect(status);
        assert_eq!(code(&reply), expected, "{}", reply.text());
    }
    let long = "x".repeat(1025);
    for target in
        ["/events/a?id=%0a", "/events/a?id=%00", "/events/a?id=a%0d", "/events/a?event=a%0ab", "/events/a?key=%0a"]
    {
        check(&server, target, "", b"x", 400, "MALFORMED");
    }
    for target in [
        "/events/a?id=",
        "/events/a?evnt=tick",
        "/events/a?id=earliest",
        "/events/a?id=%ff",
        "/events/a?retry=1s",
        "/events/a?retry=-1",
        "/events/a?retry=99999999999",
    ] {
        check(&server, target, "", b"x", 400, "MALFORMED");
    }
    for target in [
        "/events",
        "/events/",
        "/events/a?topic=b",
        "/events?topic=a&topic=b",
        "/events?topic=a//b",
        "/events?topic=%07",
    ] {
        check(&server, target, "", b"x", 400, "MALFORMED");
    }
    check(&server, &format!("/events/{}", "x".repeat(256)), "", b"x", 400, "MALFORMED");
    check(&server, &format!("/events/a?id={}", "x".repeat(1025)), "", b"x", 400, "MALFORMED");
    check(&server, "/events/a", "", b"\xff", 400, "MALFORMED");
    check(&server, "/events/a", "", long.as_bytes(), 413, "LIMIT_EVENT_LEN");
    check(&server, "/events/a", NDJSON, format!("{{\"data\":\"{long}\"}}").as_bytes(), 413, "LIMIT_EVENT_LEN");
    check(&server, "/events/a", NDJSON, "x".repeat(1 << 20).as_bytes(), 400, "MALFORMED");
    check(&server, "/events/a", NDJSON, b"{\"data\":\"\xff\"}", 400, "MALFORMED");
    check(&server, "/events/a?id=1", NDJSON, b"{\"data\":1}", 400, "MALFORMED");
    let mut chunked = server.connect();
    chunked.send(format!(
        "POST /events/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n401\r\n{long}\r\n0\r\n\r\n"
    ));
    assert_eq!(code(&chunked.reply().expect(413)), "LIMIT_EVENT_LEN");
    let mut client = server.connect();
    assert_eq!(code(&client.get("/events", "").expect(400)), "MALFORMED");
    assert_eq!(code(&client.get("/events/a?last_evnt_id=1", "").expect(400)), "MALFORMED");
    let too_many: String = (0..65).map(|n| format!("&topic={n}")).collect();
    assert_eq!(code(&client.get(&format!("/events?{too_many}"), "").expect(400)), "MALFORMED");
    let allow = client.request("PUT", "/events/a", "").expect(405);
    assert_eq!(allow.field("Allow"), Some("GET, HEAD, POST, DELETE, OPTIONS"));
    client.request("DELETE", "/events/nobody", "").expect(404);
    // None of it was published.
    publish(&mut client, "a", "good");
    subscriber.expect_data(&["good"]);
    server.stop();
}

#[test]
fn s4_topics_subscribers_and_memory_are_bounded() {
    let server = serve("topics = 2\nsubscribers = 2\nmemory = \"64KiB\"\nevent_len = \"8KiB\"\nhistory_age = \"1h\"");
    let subscribers = [Subscriber::of(&server, "/events/a", ""), Subscriber::of(&server, "/events/b", "")];
    let mut client = server.connect();
    let refused = client.get("/events/a", "").expect(503);
    assert_eq!((code(&refused), refused.field("Retry-After")), ("LIMIT_SUBSCRIBERS".into(), Some("1")));
    assert_eq!(code(&post(&mut client, "/events/c", "", "x").expect(503)), "LIMIT_TOPICS");
    let mut publisher = server.connect();
    for n in 0..100 {
        // Older events go for newer ones.
        publish(&mut publisher, "b", format!("{n} {}", "x".repeat(8000)));
    }
    // But another topic's do not.
    assert_eq!(code(&post(&mut client, "/events/a", "", "x".repeat(8000)).expect(503)), "LIMIT_MEMORY");
    drop(subscribers);
    server.stop();
}

#[test]
fn s1_a_topic_that_is_closed_ends_its_streams_and_tells_clients_to_stop() {
    let server = serve("");
    let mut client = server.connect();
    let mut subscriber = Subscriber::of(&server, "/events/a", "");
    let first = publish(&mut client, "a", "1");
    let last = publish(&mut client, "a", "2");
    client.request("DELETE", "/events/a", "").expect(204);
    subscriber.expect_data(&["1", "2"]);
    assert_eq!(subscriber.next(), None);
    client.get("/events/a", "").expect(204);
    client.get("/events/a", &format!("Last-Event-ID: {last}\r\n")).expect(204);
    let mut behind = Subscriber::of(&server, "/events/a", &format!("Last-Event-ID: {first}\r\n"));
    behind.expect_data(&["2"]);
    assert_eq!(behind.next(), None);
    // What is published opens it again.
    publish(&mut client, "a", "3");
    Subscriber::of(&server, "/events/a", &format!("Last-Event-ID: {last}\r\n")).expect_data(&["3"]);
    server.stop();
}

#[test]
fn every_worker_s_subscribers_get_every_event_in_one_order() {
    let server = Launch::routes().arg("--workers").arg("3").config(&route("")).start();
    let mut subscribers: Vec<Subscriber> = (0..24).map(|_| Subscriber::of(&server, "/events/a", "")).collect();
    // Publishers on all workers, at the same time.
    let publishers: Vec<_> = (0..6)
        .map(|publisher| {
            let mut client = server.connect();
            std::thread::spawn(move || {
                for n in 0..50 {
                    publish(&mut client, "a", format!("{publisher}-{n}"));
                }
            })
        })
        .collect();
    let orders: Vec<Vec<Event>> =
        subscribers.iter_mut().map(|subscriber| (0..300).map(|_| subscriber.event()).collect()).collect();
    publishers.into_iter().for_each(|publisher| publisher.join().expect("a publisher"));
    for order in &orders {
        assert_eq!(order, &orders[0]);
    }
    for publisher in 0..6 {
        let own = orders[0].iter().filter_map(|event| event.data.strip_prefix(&format!("{publisher}-")));
        assert!(own.eq((0..50).map(|n| n.to_string())), "each publisher's in its order");
    }
    let handlers: Vec<String> = (0..3).map(|n| format!("highwater_subscribers{{worker=\"{n}\"}} 0")).collect();
    let metrics = server.metrics();
    if handlers.iter().any(|line| metrics.contains(line.as_str())) {
        not_shown("the kernel gave one of the workers no connection");
    }
    server.stop();
}

/// A server at this address. Where it is to be started again, it is one of which nobody else takes a port meanwhile.
#[track_caller]
fn serve_at(address: &str, config: &str) -> Server {
    Launch::routes().without_listen().arg("--listen").arg(address).config(config).start()
}

/// The same server again, at the same address.
#[track_caller]
fn again(mut server: Server, config: &str, signal: Signal) -> Server {
    let address = server.address();
    server.signal(signal);
    server.wait();
    // The kernel takes a dead ring apart, and closes what it holds, after the process is gone.
    eventually(PATIENCE, || TcpListener::bind(address).is_ok());
    serve_at(&address.to_string(), config)
}

#[test]
fn s3_a_journal_outlives_a_server_that_is_killed() {
    for sync in ["false", "true"] {
        let dir = Fixture::new();
        let journal = dir.at("journal");
        let config = route(&format!("journal = {journal:?}\njournal_sync = {sync}\nhistory_events = 100"));
        let mut server = serve_at("127.83.0.2:0", &config);
        let mut published = Vec::new();
        for round in 0..4 {
            let mut client = server.connect();
            for n in 0..30 {
                let target = format!("/events/a?event=e&id=own-{round}-{n}");
                match n % 3 {
                    0 => post(&mut client, &target, "", format!("{round} {n}\nline")).expect(200),
                    1 => post(&mut client, "/events/a?key=k", "", format!("{round} {n}")).expect(200),
                    _ => post(&mut client, "/events/a", "", format!("{round} {n}")).expect(200),
                };
                published.push((n % 3, format!("{round} {n}{}", if n % 3 == 0 { "\nline" } else { "" })));
            }
            let seen = publish(&mut client, "a", format!("mark {round}"));
            published.push((2, format!("mark {round}")));
            post(&mut client, "/events/b", "", format!("{round}")).expect(200);
            server = again(server, &config, Signal::SIGKILL);
            let mut behind = Subscriber::of(&server, "/events/a", &format!("Last-Event-ID: {seen}\r\n"));
            assert_eq!(behind.head.field("Events-Lost"), None, "the count goes on");
            publish(&mut server.connect(), "a", format!("new {round}"));
            published.push((2, format!("new {round}")));
            behind.expect_data(&[&format!("new {round}")]);
            let by_id = format!("Last-Event-ID: own-{round}-27\r\n");
            Subscriber::of(&server, "/events/a", &by_id).expect_data(&[&format!("{round} 28"), &format!("{round} 29")]);
        }
        let newest_of_key = published.iter().rposition(|(kind, _)| *kind == 1);
        let kept: Vec<&str> = (published.iter().enumerate())
            .filter(|(at, (kind, _))| *kind != 1 || Some(*at) == newest_of_key)
            .map(|(_, (_, data))| data.as_str())
            .collect();
        let kept = &kept[kept.len().saturating_sub(100)..];
        Subscriber::of(&server, "/events/a?last_event_id=earliest", "").expect_data(kept);
        Subscriber::of(&server, "/events/b?last_event_id=earliest", "").expect_data(&["0", "1", "2", "3"]);
        server.stop();
    }
}

#[test]
fn s4_a_journal_is_bounded_and_a_record_that_was_cut_is_not_there() {
    let dir = Fixture::new();
    let journal = dir.at("journal");
    let config = route(&format!(
        "journal = {journal:?}\njournal_bytes = \"1MiB\"\nhistory_events = 100000\nhistory_bytes = \"16MiB\""
    ));
    let mut server = Launch::routes().config(&config).start();
    let mut client = server.connect();
    for n in 0..400 {
        publish(&mut client, "a", format!("{n} {}", "x".repeat(10_000)));
    }
    let segments = || -> Vec<(String, u64)> {
        let entries = fs::read_dir(&journal).expect("the journal").map(|entry| entry.expect("an entry"));
        // One that the server has taken away meanwhile is none.
        let entries = entries
            .filter_map(|entry| Some((entry.file_name().into_string().expect("text"), entry.metadata().ok()?.len())));
        let mut segments: Vec<_> = entries.filter(|(name, _)| name.ends_with(".log")).collect();
        segments.sort();
        segments
    };
    eventually(PATIENCE, || segments().iter().map(|(_, len)| len).sum::<u64>() < 1_300_000);
    server.signal(Signal::SIGKILL);
    server.wait();
    let (last, len) = segments().pop().expect("a segment");
    let last = fs::OpenOptions::new().write(true).open(journal.join(last)).expect("the last segment");
    last.set_len(len - 1).expect("a torn tail");
    let server = Launch::routes().config(&config).start();
    let mut all = Subscriber::of(&server, "/events/a?last_event_id=earliest", "");
    let mut next = all.data().split(' ').next().expect("a number").parse::<u64>().expect("a number");
    assert!((250..350).contains(&next), "a megabyte of 10 KB each is kept, from {next} on");
    while next < 398 {
        next += 1;
        assert_eq!(all.data().split(' ').next(), Some(next.to_string().as_str()));
    }
    // The last one was cut, and its number is given anew.
    publish(&mut server.connect(), "a", "new");
    all.expect_data(&["new"]);
    server.stop();
}

#[test]
fn a_full_disk_under_the_journal_is_told_and_nothing_is_published_that_is_not_kept() {
    let dir = Fixture::new();
    let config = route(&format!("journal = {:?}", dir.at("journal")));
    let Some(launch) = Launch::routes().config(&config).small_disk(dir.path(), 1 << 20) else {
        return not_shown("no file system can be mounted");
    };
    let server = launch.start();
    let mut subscriber = Subscriber::of(&server, "/events/a", "");
    let mut client = server.connect();
    let mut kept = 0;
    let refused = loop {
        let reply = post(&mut client, "/events/a", "", format!("{kept} {}", "x".repeat(50_000)));
        if reply.status() != 200 {
            break reply.expect(507);
        }
        kept += 1;
        assert!(kept < 100, "a disk of a megabyte takes {kept} events");
    };
    assert_eq!(code(&refused), "STORAGE_FULL");
    // A short one may still fit, and the subscriber has seen what was acknowledged and nothing else.
    let small = post(&mut client, "/events/a", "", "small").status();
    for n in 0..kept {
        assert_eq!(subscriber.data().split(' ').next(), Some(n.to_string().as_str()));
    }
    if small == 200 {
        subscriber.expect_data(&["small"]);
    }
    server.stop();
}

#[test]
fn t6_a_reload_cuts_no_stream_and_keeps_what_there_is() {
    let server = serve("");
    let mut subscriber = Subscriber::of(&server, "/events/a", "");
    let first = publish(&mut server.connect(), "a", "1");
    subscriber.expect_data(&["1"]);
    fs::write(server.config_path(), route("event_len = \"1KiB\"")).expect("the new configuration");
    server.signal(Signal::SIGHUP);
    eventually(PATIENCE, || server.log().contains("the configuration was read again"));
    let mut client = server.connect();
    eventually(PATIENCE, || post(&mut server.connect(), "/events/b", "", "x".repeat(2000)).status() == 413);
    publish(&mut client, "a", "2");
    subscriber.expect_data(&["2"]);
    Subscriber::of(&server, "/events/a", &format!("Last-Event-ID: {first}\r\n")).expect_data(&["2"]);
    server.stop();
}

#[test]
fn t6_a_server_that_drains_ends_its_streams_in_order() {
    let server = serve("");
    let mut subscribers: Vec<Subscriber> = (0..300).map(|_| Subscriber::of(&server, "/events/a", "")).collect();
    server.signal(Signal::SIGTERM);
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.next(), None, "ended, not cut");
    }
    drop(subscribers);
    server.ended();
}

#[test]
fn s5_with_credentials_only_listed_origins_may_read() {
    let server = serve("origins = [\"https://app.example\"]\ncredentials = true");
    let fields = "Origin: https://app.example\r\n";
    let subscriber = Subscriber::of(&server, "/events/a", fields);
    let allowed = |reply: &Reply| {
        let field = |name| reply.field(name).map(str::to_owned);
        (field("Access-Control-Allow-Origin"), field("Access-Control-Allow-Credentials"))
    };
    let own = (Some("https://app.example".to_owned()), Some("true".to_owned()));
    assert_eq!(allowed(&subscriber.head), own);
    let mut client = server.connect();
    assert_eq!(allowed(&post(&mut client, "/events/a", fields, "x")), own);
    assert_eq!(allowed(&client.get("/events", fields).expect(400)), own, "errors too");
    assert_eq!(allowed(&post(&mut client, "/events/a", "Origin: https://evil.example\r\n", "x")), (None, None));
    let asked = format!("{fields}Access-Control-Request-Method: POST\r\n");
    let preflight = client.request("OPTIONS", "/events/a", &asked).expect(204);
    assert_eq!(allowed(&preflight), own);
    assert!(preflight.field("Access-Control-Allow-Headers").is_some_and(|fields| fields.contains("Last-Event-ID")));
    server.stop();
}

#[test]
fn publishing_and_reading_have_tokens_of_their_own() {
    let dir = Fixture::new();
    let (publishers, readers) =
        (dir.text("publishers", "publish-0123456789abcdef"), dir.text("readers", "read-0123456789abcdef"));
    let guards = format!(
        "[[route.auth]]\ntokens = {publishers:?}\nmethods = [\"POST\", \"DELETE\"]\n\
         [[route.auth]]\ntokens = {readers:?}\nmethods = [\"GET\"]\n"
    );
    let server = Launch::routes().config(&(route("") + &guards)).start();
    let token = |name: &str| format!("Authorization: Bearer {name}-0123456789abcdef\r\n");
    let mut client = server.connect();
    post(&mut client, "/events/a", &token("publish"), "x").expect(200);
    let target = "/events/a?last_event_id=earliest";
    Subscriber::of(&server, target, &token("read")).expect_data(&["x"]);
    for wrong in [String::new(), token("read")] {
        post(&mut server.connect(), "/events/a", &wrong, "x").expect(401);
    }
    for wrong in [String::new(), token("publish")] {
        server.connect().get(target, &wrong).expect(401);
    }
    server.stop();
}

#[test]
fn http_1_0_gets_the_stream_until_it_ends() {
    let server = serve("");
    let mut publisher = server.connect();
    publish(&mut publisher, "a", "1");
    let mut old = server.connect();
    old.send("GET /events/a?last_event_id=earliest HTTP/1.0\r\nHost: a\r\n\r\n");
    let head = old.head();
    assert_eq!((head.status, head.field("Transfer-Encoding")), (200, None));
    publisher.request("DELETE", "/events/a", "").expect(204);
    let stream = String::from_utf8(old.rest()).expect("text");
    assert!(stream.starts_with("id: ") && stream.ends_with("\ndata: 1\n\n"), "{stream:?}");
    // A HEAD says what a GET would, and subscribes to nothing.
    let head = publisher.request("HEAD", "/events/b", "").expect(200);
    assert_eq!(head.field("Content-Type"), Some("text/event-stream"));
    assert_eq!(server.metric("subscribers"), 0);
    server.stop();
}

/// A page whose own EventSource listens, and counts what it gets.
const PAGE: &str = r#"<!DOCTYPE html><meta charset="utf-8"><title>events</title><script>
const seen = [], lost = [];
let opened = 0;
const source = new EventSource("/events/a");
source.onopen = () => { opened += 1; };
source.onmessage = event => seen.push(event.data);
source.addEventListener("lost", event => lost.push(event.data));
</script>"#;

/// S3: what the standard's own client misses while there is no server, and no connection, it gets from the next server.
#[test]
fn s3_a_browser_s_eventsource_misses_nothing_across_a_restart_of_the_server() {
    let Some(browser) = Browser::open() else { return };
    let (dir, site) = (Fixture::new(), Fixture::new());
    site.text("index.html", PAGE);
    let config = format!(
        "{}[[route]]\nmedia = {{ root = {:?} }}\n",
        route(&format!("journal = {:?}\nretry = \"200ms\"", dir.at("journal"))),
        site.path()
    );
    let mut server = serve_at("127.83.0.3:0", &config);
    let address = server.address();
    browser.visit(&format!("http://{address}/"));
    browser.until("opened === 1");
    let mut published = 0;
    let burst = |server: &Server, published: &mut u64| {
        let mut client = server.connect();
        for _ in 0..20 {
            publish(&mut client, "a", published.to_string());
            *published += 1;
        }
    };
    burst(&server, &mut published);
    browser.until("seen.length === 20");
    for (round, signal) in [(1, Signal::SIGTERM), (2, Signal::SIGKILL), (3, Signal::SIGTERM)] {
        server = again(server, &config, signal);
        // Before the browser is back, and behind that.
        burst(&server, &mut published);
        browser.until(&format!("opened === {}", round + 1));
        burst(&server, &mut published);
        browser.until(&format!("seen.length === {published}"));
    }
    let seen = browser.run("return seen");
    let expected: Vec<Value> = (0..published).map(|n| Value::from(n.to_string())).collect();
    assert_eq!(seen, Value::from(expected), "each once, and in order");
    assert_eq!(browser.run("return lost"), Value::from(Vec::<Value>::new()));
    server.stop();
}
