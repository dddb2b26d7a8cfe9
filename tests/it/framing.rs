//! F1–F11: where a request ends, what its reply looks like on the wire, and what becomes of the connection.

use std::time::{Duration, Instant};

use crate::support::{Client, Fixture, Launch, PATIENCE, Reply, Server, bytes_at, check_bytes, eventually};

/// What the tests ask for when they ask for something that is there.
const FILE_LEN: usize = 1000;

fn fixture() -> Fixture {
    let fixture = Fixture::with(&[("a.bin", FILE_LEN as u64), ("big.bin", 300_000), ("empty.bin", 0)]);
    fixture.text("secret.txt", "a reply to a smuggled request");
    fixture
}

/// A request that is refused, and one hidden behind it that must never be answered.
#[track_caller]
fn check_refused(server: &Server, request: impl AsRef<[u8]>, status: u16) {
    let request = request.as_ref();
    let shown = String::from_utf8_lossy(request).into_owned();
    let mut client = server.connect();
    client.send([request, b"GET /secret.txt HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
    let reply = client.try_reply_to("GET").unwrap_or_else(|broken| panic!("{shown:?}: {broken:?}"));
    assert_eq!(reply.status(), status, "{shown:?}: {}", String::from_utf8_lossy(&reply.body));
    assert!(reply.head.closes(), "{shown:?}: {:?}", reply.head);
    let (rest, in_order) = client.rest_of_any_end();
    assert!(in_order, "{shown:?}: the reply may be lost to a reset");
    assert_eq!(String::from_utf8_lossy(&rest), "", "{shown:?}: answered twice");
}

/// The server is as it was: a request on a new connection is answered.
#[track_caller]
fn check_serves(server: &Server) {
    check_bytes(0, &server.connect().get("/a.bin", "").expect(200).body);
}

#[test]
fn f1_faulty_framing_is_400_and_close() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    let faulty = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 5 5",
        "Content-Length: 0x5",
        "Content-Length: 5;",
        "Content-Length: 5.0",
        "Content-Length: \"5\"",
        "Content-Length: a",
        "Content-Length:",
        "Content-Length: 5,",
        "Content-Length: 18446744073709551616",
        "Content-Length: 99999999999999999999999999999999999999",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chun ked",
        "Transfer-Encoding: , chunked,",
        "Transfer-Encoding:",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: chunked\x0b",
        "Transfer-Encoding: \u{e9}chunked",
    ];
    for fields in faulty {
        check_refused(
            &server,
            format!("POST /a.bin HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            400,
        );
    }
    check_refused(&server, "POST /a.bin HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
    let malformed = faulty.len() as u64 + 1;
    eventually(PATIENCE, || server.metric("requests_malformed") == malformed);
    check_serves(&server);
    server.stop();
}

#[test]
fn f1_an_unknown_coding_before_chunked_is_501() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    for coding in ["gzip, chunked", "gzip\r\nTransfer-Encoding: chunked", "a;b=c, chunked"] {
        let head = format!("POST /a.bin HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n");
        check_refused(&server, format!("{head}0\r\n\r\n"), 501);
    }
    server.stop();
}

#[test]
fn f1_framing_is_decided_for_requests_that_need_no_body_too() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    for method in ["GET", "OPTIONS", "DELETE"] {
        let fields = "Content-Length: 5\r\nTransfer-Encoding: chunked";
        check_refused(&server, format!("{method} /a.bin HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n"), 400);
    }
    server.stop();
}

#[test]
fn f2_broken_chunks_are_never_followed_by_another_request() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    let long_extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(5000));
    let long_trailer = format!("0\r\n{}\r\n", "Name: value\r\n".repeat(1000));
    let broken = [
        "g\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhelloo\r\n0\r\n\r\n",
        "5\r\nhell\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "\r\n\r\n",
        "10000000000000000\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "0\r\nBad Name: value\r\n\r\n",
        &long_extension,
        &long_trailer,
    ];
    for body in broken {
        let mut client = server.connect();
        client.send(format!("POST /a.bin HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
        client.send("GET /secret.txt HTTP/1.1\r\nHost: a\r\n\r\n");
        let status = client.reply().status();
        assert!(matches!(status, 400 | 405), "{body:?}: {status}");
        client.expect_close();
    }
    check_serves(&server);
    server.stop();
}

#[test]
fn f3_what_is_no_head_is_400_and_close() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    let heads: &[&[u8]] = &[
        b"GET /a.bin HTTP/1.1\nHost: a\n\n",
        b"GET /a.bin HTTP/1.1\r\nHost: a\n\r\n",
        b"GET /a.bin HTTP/1.1\r\nHost: a\r\nX: 1\nY: 2\r\n\r\n",
        b"GET /a.bin HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n",
        b"GET /a.bin HTTP/1.1\rHost: a\r\n\r\n",
        b"GET /a.bin HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        b"GET /a.bin HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n",
        b"GET /a.bin HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n",
        b"GET /a\0.bin HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a\x7f.bin HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a.bin HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /a.bin HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello",
        b"GET /a.bin HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
        b"GET /a.bin HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET /a.bin HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
        b"GET /a.bin HTTP/1.1\r\nHost: a\r\nX: 1\r\n\t2\r\n\r\n",
        b"GET /a.bin HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n",
        b"GET /a.bin HTTP/1.1\r\nHost: a\r\nNo colon\r\n\r\n",
        b"GET /a.bin HTTP/1.1\r\nHost: a\r\nX\0: 1\r\n\r\n",
        b"GET /a.bin HTTP/1.1\r\nHost: a\r\nX\xe9: 1\r\n\r\n",
        b"GET /a.bin HTTP/1.1\r\nHost: a\r\n\"X\": 1\r\n\r\n",
        b"GET  /a.bin HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a.bin  HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET\t/a.bin\tHTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a.bin HTTP/1.1 \r\nHost: a\r\n\r\n",
        b"GET /a.bin http/1.1\r\nHost: a\r\n\r\n",
        b"GET /a.bin HTTP/1\r\nHost: a\r\n\r\n",
        b"GET /a.bin HTTP/1.11\r\nHost: a\r\n\r\n",
        b"GET /a.bin HTTP /1.1\r\nHost: a\r\n\r\n",
        b"GET /a.bin\r\nHost: a\r\n\r\n",
        b"GET\r\nHost: a\r\n\r\n",
        b" GET /a.bin HTTP/1.1\r\nHost: a\r\n\r\n",
        b"(GET) /a.bin HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET a.bin HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a.bin#fragment HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ];
    for head in heads {
        check_refused(&server, head, 400);
    }
    check_serves(&server);
    server.stop();
}

#[test]
fn f4_a_host_that_is_missing_repeated_or_invalid_is_400() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    let hosts = [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: a@b\r\n",
        "Host: a:b\r\n",
        "Host: a:1:2\r\n",
        "Host: a:99999\r\n",
        "Host: [::1\r\n",
        "Host: [::g]\r\n",
        "Host: a?b\r\n",
        "Host: a#b\r\n",
        "Host: a\\b\r\n",
        "Host: %zz\r\n",
    ];
    for host in hosts {
        check_refused(&server, format!("GET /a.bin HTTP/1.1\r\n{host}\r\n"), 400);
    }
    check_refused(&server, "GET http://a/a.bin HTTP/1.1\r\n\r\n", 400);
    for host in ["a", "a:80", "a:", "127.0.0.1:8080", "[::1]", "[::1]:8080", "xn--bcher-kva.example"] {
        let mut client = server.connect();
        client.send(format!("GET /a.bin HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        check_bytes(0, &client.reply().expect(200).body);
    }
    server.stop();
}

#[test]
fn f4_the_authority_of_an_absolute_target_wins() {
    let (one, other) = (Fixture::new(), Fixture::new());
    one.text("name", "one");
    other.text("name", "other");
    let route =
        |host: &str, root: &Fixture| format!("[[route]]\nhost = \"{host}\"\nmedia = {{ root = {:?} }}\n", root.path());
    let server = Launch::routes().config(&route("one.example", &one)).config(&route("other.example", &other)).start();
    let mut client = server.connect();
    let cases = [
        ("/name", "one.example", "one"),
        ("/name", "other.example:81", "other"),
        ("/name", "OTHER.example", "other"),
        ("http://other.example/name", "one.example", "other"),
        ("http://ONE.example:1234/name?query", "other.example", "one"),
        ("HTTP://one.example/name", "unknown.example", "one"),
    ];
    for (target, host, expected) in cases {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.reply().expect(200).text(), expected, "{target} {host}");
    }
    client.send("GET http://unknown.example/name HTTP/1.1\r\nHost: one.example\r\n\r\n");
    client.reply().expect(404);
    server.stop();
}

#[test]
fn f5_heads_over_their_limits() {
    let fixture = fixture();
    let server = Server::with_limits(fixture.path(), "head_len = \"4KiB\"\ntarget_len = 256\nhead_fields = 16");
    check_refused(&server, format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(256)), 414);
    check_refused(&server, format!("GET /?{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(10_000)), 414);
    check_refused(&server, format!("GET /{}", "a".repeat(10_000)), 414);
    check_refused(&server, format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(4096)), 431);
    check_refused(&server, format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(100_000)), 431);
    check_refused(&server, format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "X: 1\r\n".repeat(16)), 431);
    check_refused(&server, format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "A:\r\n".repeat(20_000)), 431);

    let mut client = server.connect();
    client.get(&format!("/{}", "a".repeat(255)), "").expect(404);
    client.get("/a.bin", &"X: 1\r\n".repeat(15)).expect(200);
    client.get("/a.bin", &format!("X: {}\r\n", "a".repeat(3900))).expect(200);
    server.stop();
}

#[test]
fn f5_methods_and_versions_that_are_not_ours() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    for method in ["CONNECT", "BREW", "get", "PROPFIND", &"A".repeat(10_000)] {
        let target = if method == "CONNECT" { "a.example:443" } else { "/a.bin" };
        check_refused(&server, format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n"), 501);
    }
    check_refused(&server, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505);
    for version in ["HTTP/2.0", "HTTP/3.0", "HTTP/9.9", "HTTP/0.9"] {
        check_refused(&server, format!("GET /a.bin {version}\r\nHost: a\r\n\r\n"), 505);
    }
    let mut client = server.connect();
    for method in ["POST", "PUT", "PATCH", "DELETE", "TRACE"] {
        let reply = client.request(method, "/a.bin", "").expect(405);
        assert_eq!(reply.field("Allow"), Some("GET, HEAD, OPTIONS"), "{method}");
        assert!(!reply.head.closes(), "{method}");
    }
    // A higher minor version is treated as 1.1 (RFC 9110 §6.2).
    client.send("GET /a.bin HTTP/1.2\r\nHost: a\r\n\r\n");
    check_bytes(0, &client.reply().expect(200).body);
    server.stop();
}

#[test]
fn f5_options_says_what_is_allowed() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    for target in ["*", "/a.bin", "/nothing/here"] {
        let reply = client.request("OPTIONS", target, "").expect(204);
        assert_eq!(reply.field("Allow"), Some("GET, HEAD, OPTIONS"), "{target}");
    }
    check_bytes(0, &client.get("/a.bin", "").expect(200).body);
    server.stop();
}

#[test]
fn f6_http_1_0_closes_unless_keep_alive_was_asked() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    client.send("GET /a.bin HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let reply = client.reply().expect(200);
    assert!(
        reply.field("Connection").is_some_and(|value| value.eq_ignore_ascii_case("keep-alive")),
        "{:?}",
        reply.head
    );
    assert_eq!(reply.body.len(), FILE_LEN);
    client.send("GET /a.bin HTTP/1.0\r\n\r\n");
    let reply = client.reply().expect(200);
    check_bytes(0, &reply.body);
    assert!(reply.field("Connection").is_none_or(|value| value.eq_ignore_ascii_case("close")), "{:?}", reply.head);
    client.expect_close();
    server.stop();
}

#[test]
fn f6_connection_close_is_honoured_and_said() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    for (fields, target, status) in [
        ("Connection: close\r\n", "/a.bin", 200),
        ("Connection: keep-alive, Close\r\n", "/a.bin", 200),
        ("Connection: x\r\nConnection: CLOSE\r\n", "/nothing", 404),
        ("Connection: close\r\nRange: bytes=0-0\r\n", "/big.bin", 206),
    ] {
        let mut client = server.connect();
        client.send(format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\nGET /secret.txt HTTP/1.1\r\nHost: a\r\n\r\n"
        ));
        let reply = client.reply().expect(status);
        assert_eq!(reply.field("Connection"), Some("close"), "{fields}");
        client.expect_close();
    }
    let mut client = server.connect();
    for _ in 0..3 {
        let reply = client.get("/a.bin", "").expect(200);
        assert!(!reply.head.closes());
    }
    server.stop();
}

/// A request's method, target and fields, its reply's status, and where in the file the body begins and how long it is.
type Kind<'a> = (&'a str, &'a str, &'a str, u16, Option<(u64, usize)>);

#[test]
fn f6_pipelined_requests_are_answered_in_order() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    let kinds: [Kind; 8] = [
        ("GET", "/a.bin", "", 200, Some((0, FILE_LEN))),
        ("HEAD", "/big.bin", "", 200, None),
        ("GET", "/big.bin", "", 200, Some((0, 300_000))),
        ("GET", "/nothing", "", 404, None),
        ("GET", "/big.bin", "Range: bytes=1000-200999\r\n", 206, Some((1000, 200_000))),
        ("POST", "/a.bin", "Content-Length: 5\r\n", 405, None),
        ("GET", "/empty.bin", "", 200, Some((0, 0))),
        ("OPTIONS", "*", "", 204, None),
    ];
    let requests: String = kinds
        .iter()
        .map(|(method, target, fields, ..)| {
            let body = if *method == "POST" { "hello" } else { "" };
            format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}")
        })
        .collect();
    let mut client = server.connect();
    client.send(requests.repeat(8));
    client.finish();
    for round in 0..8 {
        for (method, target, _, status, content) in kinds {
            let reply = client.reply_to(method);
            assert_eq!(reply.status(), status, "{round} {method} {target}");
            if let Some((offset, len)) = content {
                assert_eq!(reply.body.len(), len, "{round} {method} {target}");
                check_bytes(offset, &reply.body);
            }
        }
    }
    client.expect_close();
    server.stop();
}

#[test]
fn f6_an_empty_line_before_a_request_is_passed_over() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    for _ in 0..3 {
        client.send("\r\nGET /a.bin HTTP/1.1\r\nHost: a\r\n\r\n");
        check_bytes(0, &client.reply().expect(200).body);
    }
    server.stop();
}

#[test]
fn f7_an_unread_body_is_drained_and_never_read_as_a_request() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    let smuggled = "GET /secret.txt HTTP/1.1\r\nHost: a\r\n\r\n";
    let body = smuggled.repeat(1000);
    let chunked: String = body
        .as_bytes()
        .chunks(777)
        .map(|chunk| format!("{:x};x=y\r\n{}\r\n", chunk.len(), std::str::from_utf8(chunk).expect("ASCII")))
        .collect();
    let mut client = server.connect();
    for (framing, body) in [
        (format!("Content-Length: {}", body.len()), body.clone()),
        (format!("Content-Length: {0}, {0}", body.len()), body),
        ("Transfer-Encoding: Chunked".to_owned(), format!("{chunked}0\r\nTrailer: value\r\n\r\n")),
        ("Transfer-Encoding: chunked".to_owned(), "0\r\n\r\n".to_owned()),
        ("Content-Length: 0".to_owned(), String::new()),
    ] {
        for method in ["POST", "GET"] {
            client.send(format!("{method} /a.bin HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}"));
            client.ask("GET", "/big.bin", "Range: bytes=5-9\r\n");
            let reply = client.reply().expect(if method == "GET" { 200 } else { 405 });
            assert!(!reply.head.closes(), "{framing}: {:?}", reply.head);
            assert_eq!(client.reply().expect(206).body, bytes_at(5, 5), "{framing}");
        }
    }
    server.stop();
}

#[test]
fn f7_a_body_that_comes_after_its_reply_is_drained() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    client.send("POST /a.bin HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n");
    assert!(!client.reply().expect(405).head.closes());
    for _ in 0..6 {
        client.send([b'x'; 10_000]);
    }
    check_bytes(0, &client.get("/a.bin", "").expect(200).body);
    server.stop();
}

#[test]
fn f7_a_body_over_the_bound_closes_the_connection() {
    let fixture = fixture();
    let server = Server::with_limits(fixture.path(), "drain_len = \"1KiB\"");
    let body = "GET /secret.txt HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    let mut client = server.connect();
    client.send(format!("POST /a.bin HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    let reply = client.reply().expect(405);
    assert!(reply.head.closes(), "{:?}", reply.head);
    client.expect_close();

    // How long a chunked body is shows only while it is drained.
    let mut client = server.connect();
    let head = "POST /a.bin HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
    client.reply().expect(405);
    client.expect_close();

    let mut client = server.connect();
    client.send(format!("POST /a.bin HTTP/1.1\r\nHost: a\r\nContent-Length: 1024\r\n\r\n{}", "x".repeat(1024)));
    client.reply().expect(405);
    check_bytes(0, &client.get("/a.bin", "").expect(200).body);
    server.stop();
}

#[test]
fn f8_a_refusal_comes_before_100_and_the_connection_closes() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    let smuggled = "GET /secret.txt HTTP/1.1\r\nHost: a\r\n\r\n";
    for framing in [format!("Content-Length: {}", smuggled.len()), "Transfer-Encoding: chunked".to_owned()] {
        for (method, target, status) in [("POST", "/a.bin", 405), ("GET", "/nothing", 404), ("GET", "/a.bin", 200)] {
            let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{framing}\r\nExpect: 100-Continue\r\n\r\n");
            // A client that waits, and one that does not.
            for body in ["", smuggled] {
                let mut client = server.connect();
                client.send([&head, body].concat());
                let reply = client.reply().expect(status);
                assert!(reply.head.closes(), "{head} {:?}", reply.head);
                client.expect_close();
            }
        }
    }
    server.stop();
}

#[test]
fn f8_without_a_body_there_is_nothing_to_continue() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    for fields in ["Expect: 100-continue\r\n", "Expect: 100-continue\r\nContent-Length: 0\r\n"] {
        let reply = client.get("/a.bin", fields).expect(200);
        check_bytes(0, &reply.body);
        assert!(!reply.head.closes());
    }
    // "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore that expectation" (RFC 9110
    // §10.1.1): its body is drained as any other.
    let head = "POST /a.bin HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    client.send([head, "hello"].concat());
    assert!(!client.reply().expect(405).head.closes());
    check_bytes(0, &client.get("/a.bin", "").expect(200).body);
    server.stop();
}

#[test]
fn f8_another_expectation_is_417() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    for expectation in ["200-ok", "100-continue, other", "100-continue=1", "100"] {
        let fields = format!("Expect: {expectation}\r\nContent-Length: 5");
        check_refused(&server, format!("POST /a.bin HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\nhello"), 417);
    }
    check_refused(&server, "GET /a.bin HTTP/1.1\r\nHost: a\r\nExpect: other\r\n\r\n", 417);
    server.stop();
}

#[test]
fn f9_a_client_that_sends_a_large_body_first_still_reads_the_reply() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    let rounds = 20;
    let body = vec![b'x'; 200 << 10];
    let heads = [
        ("POST /a.bin HTTP/1.1\r\nHost: a\r\nContent-Length: 204800\r\n\r\n".to_owned(), 405),
        ("POST /a.bin HTTP/1.1\r\nHost: a\r\nContent-Length: 204800\r\nExpect: 100-continue\r\n\r\n".to_owned(), 405),
        ("POST /a.bin HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n".to_owned(), 400),
        ("BREW /a.bin HTTP/1.1\r\nHost: a\r\nContent-Length: 204800\r\n\r\n".to_owned(), 501),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(10_000)), 414),
    ];
    for _ in 0..rounds {
        for (head, status) in &heads {
            let mut client = server.connect();
            client.send([head.as_bytes(), &body].concat());
            let reply = client.reply().expect(*status);
            assert!(reply.head.closes(), "{:?}", reply.head);
            client.expect_close();
        }
    }
    server.stop();
}

#[test]
fn f9_lingering_is_bounded_in_bytes() {
    let fixture = fixture();
    let server = Server::with_limits(fixture.path(), "linger_len = \"64KiB\"\nlinger_timeout = \"1m\"");
    let mut client = server.connect();
    client.send("POST /a.bin HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n");
    let block = [b'x'; 64 << 10];
    // Far more than the bound and what two socket buffers hold.
    let refused = (0..2000).any(|_| client.try_send(block).is_err());
    assert!(refused, "the server takes bytes without end");
    server.expect_rest(usize::MAX);
    server.stop();
}

#[test]
fn f9_lingering_has_a_deadline() {
    let fixture = fixture();
    let server = Server::with_limits(fixture.path(), "linger_timeout = \"50ms\"");
    let mut client = server.connect();
    client.send("GET / HTTP/9.9\r\n\r\n");
    client.reply().expect(505);
    // The client keeps its side open, and says nothing.
    server.expect_rest(usize::MAX);
    client.expect_close();
    server.stop();
}

#[test]
fn f10_a_half_closed_client_gets_its_reply() {
    let fixture = fixture();
    fixture.file("large.bin", 4 << 20);
    let server = Server::start(fixture.path());
    for target in ["/a.bin", "/big.bin", "/large.bin", "/nothing", "/"] {
        let mut client = Client::connect_narrow(server.address(), 16 << 10);
        client.ask("GET", target, "");
        client.finish();
        let reply = client.reply();
        if reply.status() == 200 {
            check_bytes(0, &reply.body);
        }
        client.expect_close();
    }
    server.expect_rest(usize::MAX);
    server.stop();
}

/// Every field but those that may differ from one reply to the next.
fn lasting(reply: &Reply) -> Vec<(String, Vec<u8>)> {
    reply.head.fields.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("Date")).cloned().collect()
}

#[test]
fn f10_head_has_the_fields_of_get_and_no_body() {
    let fixture = fixture();
    fixture.file("sub/a.bin", 1);
    let server = Launch::of(fixture.path()).arg("--listing").arg("--cors").arg("*").start();
    let mut client = server.connect();
    for (target, fields) in [
        ("/a.bin", ""),
        ("/big.bin", ""),
        ("/empty.bin", ""),
        ("/secret.txt?download", ""),
        ("/nothing", ""),
        ("/%00", ""),
        ("/sub", ""),
        ("/sub/", ""),
        ("/sub/", "Accept: application/json\r\n"),
        ("/a.bin", "If-None-Match: *\r\n"),
        ("/a.bin", "If-Match: \"other\"\r\n"),
    ] {
        let get = client.get(target, fields);
        let head = client.request("HEAD", target, fields);
        assert_eq!(head.status(), get.status(), "{target} {fields}");
        assert_eq!(lasting(&head), lasting(&get), "{target} {fields}");
        if get.status() != 304 {
            assert_eq!(head.head.content_length(), Some(get.body.len() as u64), "{target} {fields}");
        }
    }
    server.stop();
}

#[test]
fn f10_head_is_without_a_body_also_where_its_framing_is_refused() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    for fields in ["Expect: other", "Content-Length: x", "Transfer-Encoding: gzip, chunked"] {
        let mut client = server.connect();
        client.send(format!("HEAD /a.bin HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
        assert!(client.reply_to("HEAD").status() >= 400, "{fields}");
        client.expect_close();
    }
    server.stop();
}

#[test]
fn f10_every_reply_has_a_date() {
    let fixture = fixture();
    let server = Server::with_limits(fixture.path(), "head_timeout = \"50ms\"");
    let mut client = server.connect();
    for (method, target, fields, status) in [
        ("GET", "/a.bin", "", 200),
        ("HEAD", "/a.bin", "", 200),
        ("GET", "/a.bin", "Range: bytes=1-\r\n", 206),
        ("GET", "/a.bin", "Range: bytes=1-1,3-3\r\n", 206),
        ("GET", "/a.bin", "Range: bytes=5000-\r\n", 416),
        ("GET", "/a.bin", "If-None-Match: *\r\n", 304),
        ("GET", "/nothing", "", 404),
        ("OPTIONS", "*", "", 204),
        ("POST", "/a.bin", "", 405),
        ("GET", "/a.bin", "Expect: other\r\n", 417),
    ] {
        let reply = client.request(method, target, fields).expect(status);
        let date = reply.field("Date").unwrap_or_else(|| panic!("{status}: {:?}", reply.head));
        let age = httpdate::parse_http_date(date).expect("a date").elapsed().unwrap_or_default();
        assert!(age < Duration::from_secs(3600), "{date}");
    }
    let mut late = server.connect();
    late.send("GET");
    assert!(late.reply().expect(408).field("Date").is_some());
    server.stop();
}

#[test]
fn f11_a_head_may_come_byte_by_byte() {
    let fixture = fixture();
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    let request = "GET /big.bin HTTP/1.1\r\nHost: a\r\nRange: bytes=7-70\r\nX-Some-Field: and its value\r\n\r\n";
    for _ in 0..3 {
        for byte in request.bytes() {
            client.send([byte]);
        }
        assert_eq!(client.reply().expect(206).body, bytes_at(7, 64));
    }
    // The end of one request and the start of the next in one piece.
    let (first, second) = request.split_at(20);
    client.send(first);
    for _ in 0..5 {
        client.send([second, first].concat());
        assert_eq!(client.reply().expect(206).body, bytes_at(7, 64));
    }
    client.send(second);
    client.reply().expect(206);
    server.stop();
}

#[test]
fn f11_a_head_that_is_not_whole_in_time_ends_the_connection() {
    let fixture = fixture();
    let server = Server::with_limits(fixture.path(), "head_timeout = \"100ms\"");
    for start in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: ", "\r\n"] {
        let mut client = server.connect();
        client.send(start);
        let reply = client.reply().expect(408);
        assert!(reply.head.closes());
        client.expect_close();
    }
    // One that goes on byte after byte does not live longer.
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n");
    let end = Instant::now() + PATIENCE;
    while client.try_send("X").is_ok() {
        assert!(Instant::now() < end, "a head without end is read for ever");
    }
    // The second request of a connection has a deadline of its own.
    let mut client = server.connect();
    client.get("/a.bin", "").expect(200);
    client.send("GET /a.bin HTTP/1.1\r\n");
    client.reply().expect(408);
    client.expect_close();
    server.expect_rest(usize::MAX);
    server.stop();
}

#[test]
fn f11_an_idle_connection_is_closed() {
    let fixture = fixture();
    let server = Server::with_limits(fixture.path(), "idle_timeout = \"500ms\"");
    server.connect().expect_close();
    let mut client = server.connect();
    client.get("/a.bin", "").expect(200);
    client.expect_close();
    server.expect_rest(usize::MAX);
    server.stop();
}

#[test]
fn f11_a_body_that_stalls_ends_the_connection() {
    let fixture = fixture();
    let server = Server::with_limits(
        fixture.path(),
        "request_min_rate = \"1MiB/s\"\nrate_grace = \"100ms\"\nlinger_timeout = 0",
    );
    for (framing, start) in
        [("Content-Length: 1000", ""), ("Content-Length: 1000", "x"), ("Transfer-Encoding: chunked", "5\r\nhe")]
    {
        let mut client = server.connect();
        client.send(format!("POST /a.bin HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{start}"));
        client.reply().expect(405);
        client.expect_close();
    }
    server.expect_rest(usize::MAX);
    server.stop();
}

#[test]
fn f11_a_body_that_trickles_ends_the_connection() {
    let fixture = fixture();
    let server = Server::with_limits(fixture.path(), "request_min_rate = \"1GiB/s\"\nrate_grace = \"300ms\"");
    let mut client = server.connect();
    client.send("POST /a.bin HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n");
    client.reply().expect(405);
    // Each byte comes well before the grace is over, but what they earn together is far less than what they cost.
    let end = Instant::now() + PATIENCE;
    while server.held().connections_active > 0 && client.try_send("x").is_ok() {
        assert!(Instant::now() < end, "a body of single bytes is read for ever");
    }
    server.stop();
}

#[test]
fn f11_a_reader_below_the_minimum_rate_is_dropped_and_others_are_served() {
    let fixture = fixture();
    fixture.sparse("large.bin", 64 << 20, &[]);
    let server = Server::with_limits(fixture.path(), "reply_min_rate = \"16MiB/s\"\nrate_grace = \"300ms\"");
    let mut others = server.connect();
    // Whatever the test asks for is open from now on.
    for target in ["/a.bin", "/large.bin"] {
        others.request("HEAD", target, "").expect(200);
    }
    let descriptors = server.descriptors();
    let requests = [
        "",
        "Range: bytes=1-\r\n",
        // Several parts go another way through the server.
        "Range: bytes=0-30000000,40000000-60000000\r\n",
    ];
    for (dropped, fields) in (1..).zip(requests) {
        let mut slow = Client::connect_narrow(server.address(), 4096);
        slow.ask("GET", "/large.bin", fields);
        assert!(slow.head().status < 300);
        let end = Instant::now() + PATIENCE;
        while server.metric("slow_clients_dropped") < dropped {
            // A few bytes at a time, which is less than what it has to take.
            assert_eq!(slow.body(5).len(), 5);
            // In one send: where this test is held up, the others are no slow readers.
            check_bytes(0, &others.get("/a.bin", "").expect(200).body);
            assert!(Instant::now() < end, "a slow reader is served for ever");
        }
        // It can't take what it has for the whole.
        assert!(!slow.rest_of_any_end().1, "a reply that was cut ended in order");
    }
    drop(others);
    server.expect_rest(descriptors);
    server.stop();
}
