//! The library inside an application: handlers as async functions, bodies that stream both ways, and the handle.

use std::future::poll_fn;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use highwater::config::ListenAddress;
use highwater::error::Fault;
use highwater::runtime::Runtime;
use highwater::server::{Builder, Running};
use highwater::{
    AuthConfig, Body, BodyReader, BoundAddress, Config, Delivery, Error, Events, EventsConfig, Handle, Limits, Media,
    MediaConfig, Message, Queue, QueueConfig, QueueItem, Request, Response, Server, StatusCode,
};

use crate::support::{Client, Fixture, Form, Framing, PATIENCE, byte_at, bytes_at, check_bytes, eventually, not_shown};

/// A server on this process's own threads, with one worker.
struct Embedded {
    handle: Handle,
    running: Option<Running>,
}

fn config() -> Config {
    let any_port = ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    // What a failed test leaves open must not hold up its end.
    let limits = Limits { shutdown_timeout: Duration::from_millis(500), ..Limits::default() };
    Config { listen: vec![any_port], workers: 1.try_into().expect("one"), limits, ..Config::default() }
}

impl Embedded {
    #[track_caller]
    fn start(routes: impl FnOnce(Builder) -> Builder) -> Self {
        let running = routes(Server::builder(config())).bind().and_then(Server::start).expect("a server");
        Embedded { handle: running.handle(), running: Some(running) }
    }

    fn address(&self) -> SocketAddr {
        match &self.handle.addresses()[0] {
            BoundAddress::Tcp(address) => *address,
            BoundAddress::Unix(path) => panic!("an address: {}", path.display()),
        }
    }

    fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// Ends it in order.
    #[track_caller]
    fn stop(mut self) {
        self.handle.drain();
        self.running.take().expect("it runs").wait().expect("it ends in order");
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.handle.drain();
        if let Some(running) = self.running.take() {
            // A test that fails has said more than this could.
            let _ = running.wait();
        }
    }
}

/// Lets a task go on when the test says so.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<(bool, Option<Waker>)>>);

impl Gate {
    fn open(&self) {
        let mut state = self.0.lock().expect("a gate");
        state.0 = true;
        state.1.take().into_iter().for_each(Waker::wake);
    }

    async fn passed(&self) {
        poll_fn(|cx| {
            let mut state = self.0.lock().expect("a gate");
            state.1 = Some(cx.waker().clone());
            if state.0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Counts those of its guards that were dropped.
#[derive(Clone, Default)]
struct Dropped(Arc<AtomicU64>);

struct Guard(Dropped);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, SeqCst);
    }
}

impl Dropped {
    fn guard(&self) -> Guard {
        Guard(self.clone())
    }

    fn count(&self) -> u64 {
        self.0.load(SeqCst)
    }

    /// Waits for the first one.
    #[track_caller]
    fn await_it(&self) {
        eventually(PATIENCE, || self.count() > 0);
    }
}

/// Starts a task on the worker that calls this.
fn spawn(future: impl Future<Output = ()> + 'static) {
    Runtime::current().spawn(future).detach();
}

/// A second request on the same worker shows that it is alive and does not wait for the first.
#[track_caller]
fn check_alive(server: &Embedded) {
    assert_eq!(server.connect().get("/alive", "").expect(200).text(), "yes\n");
}

async fn alive(_: Request) -> Response {
    Response::text(StatusCode::OK, "yes")
}

#[test]
fn a_handler_is_an_async_function() {
    async fn tell(request: Request) -> Response {
        let text = format!(
            "{} {} {} {:?} {:?} {:?}",
            request.method(),
            request.path(),
            request.path_in_route(),
            request.query(),
            request.authority(),
            request.fields().get("X-Own").map(String::from_utf8_lossy)
        );
        assert!(request.peer().is_some_and(|peer| peer.ip().is_loopback()));
        Response::text(StatusCode::ACCEPTED, text).field("X-Told", "yes")
    }
    let server = Embedded::start(|builder| builder.route("/tell", tell));
    let mut client = server.connect();
    let reply = client.request("DELETE", "/tell/a%20b?c=d", "X-Own: e\r\n").expect(202);
    assert_eq!(reply.text(), "DELETE /tell/a%20b /a%20b Some(\"c=d\") Some(\"test.example\") Some(\"e\")\n");
    assert_eq!((reply.field("X-Told"), reply.head.content_length()), (Some("yes"), Some(reply.body.len() as u64)));
    assert_eq!(client.request("HEAD", "/tell", "").expect(202).field("X-Told"), Some("yes"));
    client.get("/tellers", "").expect(404);
    server.stop();
}

#[test]
fn a_guard_stands_in_front_of_any_handler() {
    async fn echo(mut request: Request) -> Response {
        let all = request.body().read_all(100).await.expect("a short body");
        Response::new(StatusCode::OK).with_body(all)
    }
    let fixture = Fixture::new();
    let tokens = fixture.text("tokens", "0123456789abcdef\n");
    let auth = AuthConfig { tokens: Some(tokens), ..AuthConfig::default() };
    let guard = highwater::Guard::new(auth, echo).expect("a guard");
    let server = Embedded::start(|builder| builder.route("/echo", guard));
    let mut client = server.connect();
    client.request("POST", "/echo", "Content-Length: 0\r\n").expect(401);
    client.ask("POST", "/echo", "Authorization: Bearer 0123456789abcdef\r\nContent-Length: 5\r\n");
    client.send("hello");
    assert_eq!(client.reply().expect(200).text(), "hello");
    let nobody = highwater::Guard::new(AuthConfig::default(), echo).map(drop).expect_err("nobody is let in");
    assert_eq!(nobody.report(), "auth lets nobody in: write tokens, signing_keys or request");
    server.stop();
}

#[test]
fn requests_and_replies_are_those_of_the_http_crate_too() {
    async fn turn(request: Request) -> Response {
        let Ok(request) = request.into_http() else { return Response::new(StatusCode::BAD_REQUEST) };
        let (parts, mut body) = request.into_parts();
        let all = BodyReader::read_all(&mut body, 1000).await.expect("a short body");
        let reply = http::Response::builder()
            .status(203)
            .header("X-Path", parts.uri.path())
            .header("X-Length", parts.headers.get("content-length").expect("a field"))
            .header("Set-Cookie", "a=1")
            .header("Set-Cookie", "b=2")
            .body(all)
            .expect("a reply");
        reply.into()
    }
    let server = Embedded::start(|builder| builder.route("/", turn));
    let mut client = server.connect();
    client.ask("POST", "/some/path?query", "Content-Length: 5\r\n");
    client.send("hello");
    let reply = client.reply().expect(203);
    assert_eq!(
        (reply.text(), reply.field("X-Path"), reply.field("X-Length")),
        ("hello", Some("/some/path"), Some("5"))
    );
    assert_eq!(reply.head.all("Set-Cookie"), [b"a=1", b"b=2"]);
    server.stop();
}

#[test]
fn media_is_one_handler_among_others() {
    let fixture = Fixture::with(&[("clip.mp4", 300_000)]);
    let media = Media::new(MediaConfig::new(fixture.path())).expect("a folder");
    let other = Fixture::new();
    other.text("clip.mp4", "of the host");
    let of_host = Media::new(MediaConfig::new(other.path())).expect("a folder");
    let server = Embedded::start(|builder| {
        builder.route("/media", media).route("/media/alive", alive).route("/alive", alive).host_route(
            "one.example",
            "/media",
            of_host,
        )
    });
    let mut client = server.connect();
    let part = client.get("/media/clip.mp4", "Range: bytes=100000-\r\n").expect(206);
    assert_eq!(part.field("Content-Range"), Some("bytes 100000-299999/300000"));
    check_bytes(100_000, &part.body);
    assert_eq!(client.get("/media/alive", "").expect(200).text(), "yes\n");
    check_alive(&server);
    client.send("GET /media/clip.mp4 HTTP/1.1\r\nHost: one.example\r\n\r\n");
    assert_eq!(client.reply().expect(200).text(), "of the host");
    assert!(Media::new(MediaConfig::new(fixture.at("gone"))).is_err_and(|error| error.fault() == Fault::Operator));
    server.stop();
}

/// A body of [`byte_at`] without an end, whose producer counts what it has made.
fn endless(produced: &Arc<AtomicU64>, ended: &Dropped, high_water_mark: usize) -> Body {
    const ITEM: usize = 10_000;
    let (produced, guard) = (produced.clone(), ended.guard());
    let (mut sender, body) = Body::channel(high_water_mark);
    spawn(async move {
        let _guard = guard;
        loop {
            let item = Bytes::from(bytes_at(produced.load(SeqCst), ITEM));
            produced.fetch_add(ITEM as u64, SeqCst);
            if sender.send(item).await.is_err() {
                return;
            }
        }
    });
    body
}

/// The next `len` bytes of the body of a reply in HTTP/1.0, which has no framing of its own.
#[track_caller]
fn ask_unframed(client: &mut Client, target: &str) {
    client.send(format!("GET {target} HTTP/1.0\r\n\r\n"));
    let head = client.head();
    assert_eq!((head.status, head.content_length(), head.closes()), (200, None, true));
}

#[test]
fn t1_a_producer_is_suspended_while_its_reader_has_stopped() {
    const MARK: usize = 256 << 10;
    let (produced, ended) = (Arc::new(AtomicU64::new(0)), Dropped::default());
    let (counter, guard) = (produced.clone(), ended.clone());
    let stream = move |_| {
        let body = endless(&counter, &guard, MARK);
        std::future::ready(Response::new(StatusCode::OK).with_body(body))
    };
    let server = Embedded::start(|builder| builder.route("/stream", stream).route("/alive", alive));
    let mut client = Client::connect_narrow(server.address(), 16 << 10);
    ask_unframed(&mut client, "/stream");
    check_bytes(0, &client.body(100_000));
    // One worker runs both: as often as it answers here, it would have run the producer.
    let mut second = server.connect();
    (0..300).for_each(|_| drop(second.get("/alive", "").expect(200)));
    // The queue, what may wait unsent in the socket, and the client's own window.
    let bound = 100_000 + (MARK + (512 << 10)) as u64;
    let made = produced.load(SeqCst);
    assert!(made < bound, "{made} bytes were made for a reader that has stopped");
    // It goes on where it stopped.
    let mut offset = 100_000;
    while offset < 4_000_000 {
        check_bytes(offset, &client.body(100_000));
        offset += 100_000;
    }
    assert!(produced.load(SeqCst) < offset + bound);
    assert_eq!(ended.count(), 0);
    client.reset();
    ended.await_it();
    check_alive(&server);
    server.stop();
}

#[test]
fn t2_a_producer_ends_when_its_reader_leaves_at_any_point() {
    let ended: Vec<Dropped> = (0..4).map(|_| Dropped::default()).collect();
    let guards = ended.clone();
    let stream = move |request: Request| {
        let number: usize = request.path_in_route()[1..].parse().expect("a number");
        let body = endless(&Arc::default(), &guards[number], 64 << 10);
        std::future::ready(Response::new(StatusCode::OK).with_body(body))
    };
    let server = Embedded::start(|builder| builder.route("/stream", stream).route("/alive", alive));
    for (number, read) in [0, 1, 100_000, 1_000_000].into_iter().enumerate() {
        let mut client = Client::connect_narrow(server.address(), 16 << 10);
        ask_unframed(&mut client, &format!("/stream/{number}"));
        check_bytes(0, &client.body(read));
        // Once with a reset, once by closing over bytes that were not read.
        if number % 2 == 0 {
            client.reset()
        } else {
            drop(client)
        }
        ended[number].await_it();
    }
    check_alive(&server);
    eventually(PATIENCE, || server.handle.metrics().transfers == 0);
    server.stop();
}

#[test]
fn t2_a_handler_ends_when_its_client_leaves() {
    let (begun, dropped) = (Arc::new(AtomicBool::new(false)), Dropped::default());
    let (flag, guard) = (begun.clone(), dropped.clone());
    let wait = move |_| {
        let (flag, guard) = (flag.clone(), guard.guard());
        async move {
            let _guard = guard;
            flag.store(true, SeqCst);
            std::future::pending::<Response>().await
        }
    };
    let server = Embedded::start(|builder| builder.route("/wait", wait).route("/alive", alive));
    let mut client = server.connect();
    client.ask("GET", "/wait", "");
    eventually(PATIENCE, || begun.load(SeqCst));
    check_alive(&server);
    assert_eq!(dropped.count(), 0);
    client.reset();
    dropped.await_it();
    server.stop();
}

#[test]
fn f10_a_client_that_has_finished_sending_still_gets_its_reply() {
    let gate = Gate::default();
    let inside = gate.clone();
    let wait = move |_| {
        let gate = inside.clone();
        async move {
            gate.passed().await;
            Response::text(StatusCode::OK, "late")
        }
    };
    let server = Embedded::start(|builder| builder.route("/wait", wait).route("/alive", alive));
    let mut client = server.connect();
    client.ask("GET", "/wait", "");
    client.finish();
    check_alive(&server);
    gate.open();
    assert_eq!(client.reply().expect(200).text(), "late\n");
    server.stop();
}

#[test]
fn the_first_item_arrives_before_the_second_exists() {
    let gate = Gate::default();
    let inside = gate.clone();
    let stream = move |_| {
        let gate = inside.clone();
        let (mut sender, body) = Body::channel(1000);
        spawn(async move {
            sender.send(Bytes::from_static(b"first")).await.expect("a reader");
            gate.passed().await;
            sender.send(Bytes::new()).await.expect("a reader");
            sender.send(Bytes::from_static(b"second")).await.expect("a reader");
        });
        std::future::ready(Response::new(StatusCode::OK).with_body(body))
    };
    let server = Embedded::start(|builder| builder.route("/stream", stream).route("/alive", alive));
    let mut client = server.connect();
    client.ask("GET", "/stream", "");
    let head = client.head();
    assert_eq!((head.field("Transfer-Encoding"), head.content_length()), (Some("chunked"), None));
    assert_eq!(client.body(10), b"5\r\nfirst\r\n");
    gate.open();
    // An empty item is not the end.
    assert_eq!(client.body(16), b"6\r\nsecond\r\n0\r\n\r\n");
    // The connection goes on.
    assert_eq!(client.get("/alive", "").expect(200).text(), "yes\n");
    server.stop();
}

#[test]
fn a_head_arrives_before_the_first_item_exists() {
    let gate = Gate::default();
    let inside = gate.clone();
    let stream = move |_| {
        let gate = inside.clone();
        let items = futures_util::stream::once(async move {
            gate.passed().await;
            Ok(Bytes::from_static(b"only"))
        });
        std::future::ready(Response::new(StatusCode::OK).with_body(Body::stream(items)))
    };
    let server = Embedded::start(|builder| builder.route("/stream", stream));
    let mut client = server.connect();
    client.ask("GET", "/stream", "");
    assert_eq!(client.head().status, 200);
    gate.open();
    assert_eq!(client.body(14), b"4\r\nonly\r\n0\r\n\r\n");
    server.stop();
}

/// Sends the request's body back as it comes.
async fn echo(request: Request) -> Response {
    let items = request.into_body().map(|chunk| chunk.map(Bytes::from));
    Response::new(StatusCode::OK).with_body(Body::stream(items))
}

#[test]
fn bodies_stream_both_ways_at_once() {
    let server = Embedded::start(|builder| builder.route("/echo", echo).route("/alive", alive));
    let mut client = server.connect();
    client.ask("POST", "/echo", "Transfer-Encoding: chunked\r\n");
    client.send("5\r\nhello\r\n");
    assert_eq!(client.head().status, 200);
    assert_eq!(client.body(10), b"5\r\nhello\r\n");
    client.send("3;ext=1\r\nyou\r\n");
    assert_eq!(client.body(8), b"3\r\nyou\r\n");
    client.send("0\r\nTrailer: x\r\n\r\n");
    assert_eq!(client.body(5), b"0\r\n\r\n");
    assert_eq!(client.get("/alive", "").expect(200).text(), "yes\n");

    // With a length, and unframed on the way back: 8 MiB, of which a piece at a time is on its way.
    const PIECE: usize = 64 << 10;
    const LEN: usize = 128 * PIECE;
    let mut client = server.connect();
    client.send(format!("PUT /echo HTTP/1.0\r\nContent-Length: {LEN}\r\n\r\n"));
    for offset in (0..LEN).step_by(PIECE) {
        client.send(bytes_at(offset as u64, PIECE));
        if offset == 0 {
            assert_eq!(client.head().content_length(), None);
        }
        check_bytes(offset as u64, &client.body(PIECE));
    }
    client.expect_close();
    server.stop();
}

/// Sums up a body as it comes.
async fn sum(mut request: Request) -> Response {
    let promised = request.body().remaining();
    let (mut len, mut wrong) = (0_u64, 0_u64);
    while let Some(chunk) = request.body().next().await {
        match chunk {
            Ok(chunk) => {
                wrong += chunk.iter().zip(len..).filter(|&(byte, at)| *byte != byte_at(at)).count() as u64;
                len += chunk.len() as u64;
            }
            Err(error) => return Response::text(StatusCode::BAD_REQUEST, error.report()),
        }
    }
    assert_eq!(request.body().remaining(), Some(0));
    Response::text(StatusCode::OK, format!("{promised:?} {len} {wrong}"))
}

#[test]
fn a_request_body_is_read_as_it_comes_whatever_its_framing() {
    const LEN: usize = 3_000_000;
    let server = Embedded::start(|builder| builder.route("/sum", sum));
    let mut client = server.connect();
    client.ask("PUT", "/sum", &format!("Content-Length: {LEN}\r\n"));
    client.send(bytes_at(0, LEN));
    assert_eq!(client.reply().expect(200).text(), format!("Some({LEN}) {LEN} 0\n"));
    client.ask("PUT", "/sum", "Transfer-Encoding: chunked\r\n");
    let mut offset = 0;
    // Chunks of every order of length, cut from the same bytes.
    for len in [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 16_384, 1, 65_536] {
        client.send(format!("{len:x}\r\n"));
        client.send(bytes_at(offset, len));
        client.send("\r\n");
        offset += len as u64;
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.reply().expect(200).text(), format!("None {offset} 0\n"));
    client.ask("PUT", "/sum", "Content-Length: 0\r\n");
    assert_eq!(client.reply().expect(200).text(), "Some(0) 0 0\n");
    assert_eq!(client.get("/sum", "").expect(200).text(), "Some(0) 0 0\n");
    server.stop();
}

/// Says of each part its name, its file's name, and the sum of its bytes; a part named `skip` is passed over, and one named `stop`
/// is the last that is looked at.
async fn parts(request: Request) -> Response {
    let mut form = match request.multipart() {
        Ok(form) => form,
        Err(refused) => return refused.into(),
    };
    let mut told = String::new();
    while let Some(part) = form.next_part().await {
        let mut part = match part {
            Ok(part) => part,
            Err(refused) => return refused.into(),
        };
        let name = part.head().name.clone();
        match name.as_str() {
            "skip" => continue,
            "stop" => break,
            _ => {}
        }
        let file = part.head().file_name.clone().unwrap_or_else(|| String::from("-"));
        let mut sum = 0;
        while let Some(chunk) = part.next().await {
            match chunk {
                Ok(chunk) => sum += chunk.iter().map(|byte| u64::from(*byte)).sum::<u64>(),
                Err(refused) => return refused.into(),
            }
        }
        told.push_str(&format!("{name} {file} {sum}\n"));
    }
    Response::new(StatusCode::OK).with_body(told)
}

#[test]
fn a_form_is_read_part_by_part_and_what_is_left_of_it_is_never_a_request() {
    let server = Embedded::start(|builder| builder.route("/form", parts).route("/alive", alive));
    let content = bytes_at(0, 300_000);
    let sum = content.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    let form = Form::new().file("f", "a b.bin", &content).field("skip", &content).field("t", "ab");
    for framing in [Framing::Length, Framing::Chunks(1000)] {
        let mut client = server.connect();
        let reply = client.upload("POST", "/form", &form.content_type(), framing, &form.closed()).expect(200);
        assert_eq!(reply.text(), format!("f a b.bin {sum}\nt - 195\n"));
        // F7: a little that is left is drained, more closes the connection.
        for (left, closes) in [(1000, false), (300_000, true)] {
            let mut client = server.connect();
            let form = Form::new().field("t", "a").field("stop", "").file("f", "x", &content[..left]);
            let reply = client.upload("POST", "/form", &form.content_type(), framing, &form.closed()).expect(200);
            assert_eq!(reply.text(), "t - 97\n");
            let _ = client.try_send("GET /alive HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.try_reply_to("GET").is_err(), closes, "{framing:?} {left}");
        }
    }
    let mut client = server.connect();
    let unclosed = client.upload("POST", "/form", &form.content_type(), Framing::Length, &form.open()).expect(400);
    assert!(unclosed.text().contains("UNCLOSED"), "{}", unclosed.text());
    let other = "Content-Type: text/plain\r\n";
    assert_eq!(server.connect().upload("POST", "/form", other, Framing::Length, b"a").status(), 415);
    check_alive(&server);
    server.stop();
}

#[test]
fn f8_a_body_that_is_read_is_asked_for() {
    async fn choose(mut request: Request) -> Response {
        match request.query() {
            Some("read") => {
                let body = request.body().read_all(100).await;
                let text = body.map_or_else(|error| error.report(), |body| String::from_utf8_lossy(&body).into_owned());
                Response::text(StatusCode::OK, text)
            }
            _ => Response::text(StatusCode::FORBIDDEN, "no"),
        }
    }
    let server = Embedded::start(|builder| builder.route("/", choose));
    let mut client = server.connect();
    client.ask("POST", "/?read", "Content-Length: 5\r\nExpect: 100-continue\r\n");
    assert_eq!(client.head().status, 100);
    client.send("hello");
    assert_eq!(client.reply().expect(200).text(), "hello\n");
    client.ask("POST", "/?read", "Content-Length: 101\r\n");
    client.send([b'a'; 101]);
    assert_eq!(client.reply().expect(200).text(), "the body is longer than 100 bytes\n");
    client.ask("POST", "/", "Content-Length: 5\r\nExpect: 100-continue\r\n");
    let refused = client.reply().expect(403);
    assert!(refused.head.closes(), "whether the body comes is not known: {:?}", refused.head);
    client.expect_close();
    server.stop();
}

#[test]
fn t2_a_handler_learns_that_its_body_ends_early() {
    let (told, ended) = (Arc::new(Mutex::new(Vec::new())), Dropped::default());
    let (telling, ending) = (told.clone(), ended.clone());
    let read = move |mut request: Request| {
        let (told, guard) = (telling.clone(), ending.guard());
        async move {
            let _guard = guard;
            let end = loop {
                match request.body().next().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break Some(error.fault()),
                    None => break None,
                }
            };
            told.lock().expect("a list").push(end);
            Response::text(StatusCode::OK, "read")
        }
    };
    let server = Embedded::start(|builder| builder.route("/read", read).route("/alive", alive));
    let framings = ["Content-Length: 10", "Transfer-Encoding: chunked"];
    for (number, framing) in framings.iter().enumerate() {
        let mut client = server.connect();
        client.ask("POST", "/read", &format!("{framing}\r\n"));
        client.send("3\r\nabc");
        // An orderly end in the middle of a body is as much of a failure as a reset.
        client.finish();
        eventually(PATIENCE, || told.lock().expect("a list").len() == number + 1);
    }
    assert_eq!(*told.lock().expect("a list"), [Some(Fault::Client); 2]);
    for (number, framing) in framings.iter().enumerate() {
        let mut client = server.connect();
        client.ask("POST", "/read", &format!("{framing}\r\n"));
        client.send("3\r\nabc");
        client.reset();
        // Whether it is told first or is dropped before that: it ends.
        eventually(PATIENCE, || ended.count() == 3 + number as u64);
    }
    assert!(told.lock().expect("a list").iter().all(|end| *end == Some(Fault::Client)));
    eventually(PATIENCE, || server.handle.metrics().transfers == 0);
    check_alive(&server);
    server.stop();
}

/// What a reader says that was kept beyond its exchange: its bytes, and then an error.
#[test]
fn f7_a_reader_that_outlives_its_exchange_reads_no_other_request() {
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let ended = Arc::new(AtomicBool::new(false));
    let (words, end) = (said.clone(), ended.clone());
    let keeps = move |request: Request| {
        let (words, end) = (words.clone(), end.clone());
        async move {
            let mut body = request.into_body();
            spawn(async move {
                while let Some(chunk) = body.next().await {
                    let word =
                        chunk.map_or_else(|error| error.to_string(), |c| String::from_utf8_lossy(&c).into_owned());
                    words.lock().expect("the words").push(word);
                }
                end.store(true, SeqCst);
            });
            Response::text(StatusCode::ACCEPTED, "early")
        }
    };
    let server = Embedded::start(|builder| builder.route("/keeps", keeps).route("/alive", alive));
    let mut client = server.connect();
    client.send("POST /keeps HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nmine");
    assert_eq!(client.reply_to("POST").status(), 202);
    // What the client sends after the reply is nobody's: the connection ends, and the reader with it.
    let _ = client.try_send("GET /alive?secret HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually(PATIENCE, || ended.load(SeqCst));
    let said = said.lock().expect("the words");
    assert!(said.iter().all(|word| !word.contains("secret")), "{said:?}");
    assert!(said.last().is_some_and(|word| word.contains("broken")), "{said:?}");
    check_alive(&server);
}

#[test]
fn a_panic_costs_its_own_reply_only() {
    async fn at_once(request: Request) -> Response {
        panic!("as planned, at {}", request.path())
    }
    async fn later(mut request: Request) -> Response {
        let body = request.body().read_all(100).await;
        panic!("as planned, with {body:?}")
    }
    fn before_its_future(request: Request) -> std::future::Ready<Response> {
        panic!("as planned, at {}", request.path())
    }
    async fn within_the_body(_: Request) -> Response {
        let items = futures_util::stream::iter(0..2).map(|n| match n {
            0 => Ok(Bytes::from_static(b"first")),
            _ => panic!("as planned, in the body"),
        });
        Response::new(StatusCode::OK).with_body(Body::stream(items))
    }
    let server = Embedded::start(|builder| {
        builder
            .route("/at_once", at_once)
            .route("/later", later)
            .route("/before", before_its_future)
            .route("/body", within_the_body)
            .route("/alive", alive)
    });
    for target in ["/at_once", "/before"] {
        server.connect().get(target, "").expect(500);
        check_alive(&server);
    }
    let mut client = server.connect();
    client.ask("POST", "/later", "Content-Length: 3\r\n");
    client.send("abc");
    client.reply().expect(500);
    check_alive(&server);
    assert_eq!(server.handle.metrics().handler_panics, 3);
    for version in ["1.0", "1.1"] {
        let mut client = server.connect();
        client.send(format!("GET /body HTTP/{version}\r\nHost: a\r\n\r\n"));
        let (_, orderly) = client.rest_of_any_end();
        assert!(!orderly, "what is broken off must not look whole");
        check_alive(&server);
    }
    eventually(PATIENCE, || server.handle.metrics().handler_panics == 5);
    eventually(PATIENCE, || server.handle.metrics().transfers == 0);
    server.stop();
}

#[test]
fn t3_a_stream_that_fails_does_not_look_whole() {
    async fn stream(request: Request) -> Response {
        let items = [Ok(Bytes::from_static(b"first")), Err(Error::upstream("as planned"))];
        let (count, len) = match request.query() {
            Some("fails") => (2, None),
            // Shorter and longer than was said.
            Some("short") => (1, Some(6)),
            Some("long") => (1, Some(4)),
            _ => (1, Some(5)),
        };
        let items = futures_util::stream::iter(items.into_iter().take(count));
        Response::new(StatusCode::OK).with_body(match len {
            Some(len) => Body::sized_stream(items, len),
            None => Body::stream(items),
        })
    }
    let server = Embedded::start(|builder| builder.route("/stream", stream).route("/alive", alive));
    for query in ["fails", "short", "long"] {
        for version in ["1.0", "1.1"] {
            let mut client = server.connect();
            client.send(format!("GET /stream?{query} HTTP/{version}\r\nHost: a\r\n\r\n"));
            let (_, orderly) = client.rest_of_any_end();
            assert!(!orderly, "{query} in HTTP/{version}");
            check_alive(&server);
        }
    }
    let mut client = server.connect();
    let reply = client.get("/stream?right", "").expect(200);
    assert_eq!((reply.head.content_length(), reply.text()), (Some(5), "first"));
    assert_eq!(client.request("HEAD", "/stream?right", "").expect(200).head.content_length(), Some(5));
    client.get("/alive", "").expect(200);
    server.stop();
}

#[test]
fn t6_a_handle_drains_from_any_thread() {
    let gate = Gate::default();
    let inside = gate.clone();
    let wait = move |_| {
        let gate = inside.clone();
        async move {
            gate.passed().await;
            Response::text(StatusCode::OK, "late")
        }
    };
    let mut config = config();
    config.limits.shutdown_timeout = PATIENCE;
    let server = Server::builder(config).route("/wait", wait).bind().expect("a server");
    let handle = server.handle();
    let BoundAddress::Tcp(address) = handle.addresses()[0] else { panic!("an address") };
    // Bound is not accepted, but a client that comes early waits in the queue.
    let mut client = Client::connect(address);
    client.ask("GET", "/wait", "");
    let running = thread::spawn(move || server.run());
    eventually(PATIENCE, || handle.metrics().transfers == 1);
    thread::scope(|scope| drop(scope.spawn(|| handle.drain())));
    eventually(PATIENCE, || std::net::TcpStream::connect(address).is_err());
    assert!(!running.is_finished(), "it waits for what is under way");
    gate.open();
    assert_eq!(client.reply().expect(200).text(), "late\n");
    client.expect_close();
    eventually(PATIENCE, || running.is_finished());
    running.join().expect("no panic").expect("it ended in order");
    // Once more is no harm.
    handle.drain();
    assert_eq!(handle.metrics().transfers, 0);
}

#[test]
fn a_handle_reads_metrics() {
    let server = Embedded::start(|builder| builder.route("/alive", alive));
    let mut client = server.connect();
    (0..3).for_each(|_| drop(client.get("/alive", "").expect(200)));
    client.get("/missing", "").expect(404);
    // Counted when the reply is on its way, which the client may have before.
    eventually(PATIENCE, || server.handle.metrics().connections_idle == 1);
    let totals = server.handle.metrics();
    assert_eq!((totals.requests, totals.connections_accepted), (4, 1));
    assert!(totals.bytes_sent > 0);
    assert!(server.handle.prometheus().contains("highwater_responses_total{code=\"404\"} 1\n"));
    server.stop();
}

#[test]
fn two_servers_in_one_process_know_nothing_of_each_other() {
    let [first, second] = [(); 2].map(|()| Embedded::start(|builder| builder.route("/alive", alive)));
    check_alive(&first);
    assert_eq!((first.handle.metrics().requests, second.handle.metrics().requests), (1, 0));
    first.stop();
    check_alive(&second);
    second.stop();
}

#[test]
fn what_is_wrong_with_a_configuration_is_the_operators_fault() {
    let server = Embedded::start(|builder| builder.route("/alive", alive));
    let taken = ListenAddress::Tcp(server.address());
    let wrongs: [fn(&mut Config); 3] = [
        |config| config.listen.clear(),
        |config| config.limits.high_water_mark = 100_000,
        |config| config.limits.connections = 0,
    ];
    let mut configs: Vec<Config> = vec![Config { listen: vec![taken], ..config() }];
    configs.extend(wrongs.map(|wrong| {
        let mut config = config();
        wrong(&mut config);
        config
    }));
    for config in configs {
        let error = Server::builder(config).route("/alive", alive).bind().err().expect("it is refused");
        assert_eq!(error.fault(), Fault::Operator, "{}", error.report());
        assert!(!error.report().contains('\n'));
    }
    check_alive(&server);
    server.stop();
}

#[test]
fn t6_a_reload_through_the_handle_keeps_the_applications_routes() {
    let (old, new) = (Fixture::with(&[("old.mp4", 10)]), Fixture::with(&[("new.mp4", 10)]));
    let with = |fixture: &Fixture| {
        let route = highwater::config::RouteConfig::media("/media", MediaConfig::new(fixture.path()));
        Config { routes: vec![route], ..config() }
    };
    let running = Server::builder(with(&old)).route("/alive", alive).bind().and_then(Server::start).expect("a server");
    let server = Embedded { handle: running.handle(), running: Some(running) };
    let mut client = server.connect();
    client.get("/media/old.mp4", "").expect(200);
    server.handle.reload(&with(&new)).expect("a good configuration");
    eventually(PATIENCE, || client.get("/media/new.mp4", "").status() == 200);
    client.get("/media/old.mp4", "").expect(404);
    check_alive(&server);
    server.stop();
}

#[test]
fn the_example_runs() {
    // Cargo builds examples beside the tests, unless it was told to build this one test alone.
    let test = std::env::current_exe().expect("this test's own path");
    let example = test.parent().and_then(|deps| deps.parent()).expect("a target directory").join("examples/embed");
    if !example.is_file() {
        return not_shown("the examples are not built (cargo build --examples)");
    }
    let fixture = Fixture::with(&[("clip.mp4", 100_000)]);
    let mut command = Command::new(example);
    command.arg(fixture.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the example starts");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("its standard output"));
    stdout.read_line(&mut line).expect("a line");
    let address =
        line.trim_end().strip_prefix("listening on http://").expect("its address").parse().expect("an address");
    let mut client = Client::connect(address);
    client.ask("PUT", "/received", "Transfer-Encoding: chunked\r\n");
    client.send("5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(client.reply().expect(200).text(), "5 bytes\n");
    client.ask("POST", "/received", "Content-Length: 1000000\r\n");
    client.send(bytes_at(0, 1_000_000));
    assert_eq!(client.reply().expect(200).text(), "1000000 bytes\n");
    assert_eq!(client.get("/received", "").expect(405).field("Allow"), Some("PUT, POST"));
    let part = client.get("/media/clip.mp4", "Range: bytes=50000-\r\n").expect(206);
    assert_eq!(part.field("Content-Range"), Some("bytes 50000-99999/100000"));
    check_bytes(50_000, &part.body);
    assert!(client.get("/media/", "").expect(200).text().contains("clip.mp4"));
    let status: serde_json::Value = serde_json::from_slice(&client.get("/status", "").expect(200).body).expect("JSON");
    assert_eq!(status["received"], 1_000_005);
    assert!(status["requests"].as_u64().is_some_and(|requests| requests >= 5), "{status}");
    // The end of its input is the end of the example.
    drop(child.stdin.take());
    client.expect_close();
    let mut status = None;
    eventually(PATIENCE, || {
        status = child.try_wait().expect("a child");
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(0));
}

/// Runs a future to its end on a thread that is no worker.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn an_application_publishes_to_topics_and_subscribes_to_them_from_its_own_threads() {
    let events = Events::new(EventsConfig { history_events: 2, ..EventsConfig::default() }).expect("topics");
    let (route, topic) = (events.clone(), events.topic("a").expect("a topic"));
    let server = Embedded::start(|builder| builder.route("/events", route));
    let mut own = topic.subscribe(None).expect("a subscription");
    let mut client = server.connect();
    client.ask("GET", "/events/a", "");
    assert_eq!(client.head().status, 200);
    assert_eq!(topic.subscribers(), 2);
    let publishing = {
        let topic = topic.clone();
        let message = Message { event: Some("tick".into()), ..Message::new("from a thread\nof its own") };
        thread::spawn(move || block_on(topic.publish(message)).expect("published"))
    };
    let id = publishing.join().expect("the thread");
    let lines = format!("id: {id}\nevent: tick\ndata: from a thread\ndata: of its own\n\n");
    assert_eq!(client.chunk(), Ok(lines.into_bytes()));
    // And what a client publishes, the application gets.
    let mut publisher = server.connect();
    publisher.send("POST /events/a?id=b HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nby a client");
    publisher.reply().expect(200);
    let event =
        |id: &str, event: &str, data: &str| Delivery::Event { id: id.into(), event: event.into(), data: data.into() };
    let expected = [event(&id, "tick", "from a thread\nof its own"), event("b", "message", "by a client")];
    assert_eq!([block_on(own.next()), block_on(own.next())].map(Option::unwrap), expected);
    drop(own);
    block_on(topic.publish(Message::new("1"))).expect("published");
    block_on(topic.publish(Message::new("2"))).expect("published");
    let mut late = topic.subscribe(Some(&id)).expect("a subscription");
    assert_eq!(block_on(late.next()), Some(Delivery::Lost(Some(1))));
    assert!(matches!(block_on(late.next()), Some(Delivery::Event { data, .. }) if data == "1"));
    for message in [Message { id: Some("a\nb".into()), ..Message::new("x") }, Message::new("x".repeat(1 << 20))] {
        assert_eq!(block_on(topic.publish(message)).expect_err("what can't be published").fault(), Fault::Client);
    }
    assert_eq!(events.topic("a//b").expect_err("no name").fault(), Fault::Client);
    drop((late, client));
    server.stop();
}

#[test]
fn an_application_puts_items_into_queues_and_takes_them_from_its_own_threads() {
    let queue = Queue::new(QueueConfig { queue_items: 1, item_len: 100, ..QueueConfig::default() }).expect("queues");
    let route = queue.clone();
    let server = Embedded::start(|builder| builder.route("/q", route));
    let text = |text: &str| QueueItem::new("text/plain", text.to_owned()).expect("an item");
    let mut client = server.connect();
    client.ask("GET", "/q/work", "");
    assert_eq!(client.head().status, 200);
    // More than fits in: its thread waits for the client.
    let pushing = {
        let queue = queue.clone();
        thread::spawn(move || (0..5).for_each(|n| block_on(queue.push("work", text(&n.to_string()))).expect("taken")))
    };
    (0..5).for_each(|n| assert_eq!(client.chunk(), Ok(format!("\"{n}\"\n").into_bytes())));
    pushing.join().expect("the thread");
    // And what a client brings, the application gets.
    let mut producer = server.connect();
    producer
        .send("POST /q/app HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 11\r\n\r\nby a client");
    producer.reply().expect(200);
    assert_eq!(block_on(queue.take("app")).expect("queues"), Some(text("by a client")));
    assert_eq!(block_on(queue.push("app", text(&"x".repeat(101)))).expect_err("too long").fault(), Fault::Client);
    server.stop();
}
