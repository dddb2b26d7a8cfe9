//! Authorisation in front of a route: bearer tokens, signed URLs, and a service that is asked, with the real binary.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use highwater::proto::signed_url::{self, Access, Key};
use nix::sys::signal::Signal;

use crate::support::{Client, Fixture, Launch, PATIENCE, Reply, Server, check_bytes, eventually, output};

const TOKEN: &str = "a-token-of-ours-1";
const OTHER_TOKEN: &str = "a-token-of-ours-2";
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NEXT_SECRET: &str = "fedcba9876543210fedcba9876543210";
const LEN: u64 = 5000;

/// A folder with a film and the files of secrets.
fn fixture() -> Fixture {
    let fixture = Fixture::with(&[("film.mp4", LEN)]);
    fixture.text("tokens", format!("# two\n{TOKEN}\n\n{OTHER_TOKEN}\n"));
    fixture.text("keys", format!("{SECRET}\n"));
    fixture
}

/// A route of the folder's files, guarded.
fn guarded(fixture: &Fixture, auth: &str) -> String {
    let root = fixture.path().display();
    let auth = auth.replace('@', fixture.path().to_str().expect("a path"));
    format!("[[route]]\nmedia = {{ root = \"{root}\", cors = [\"https://a.example\"] }}\nauth = {{ {auth} }}\n")
}

#[track_caller]
fn serve(fixture: &Fixture, auth: &str) -> Server {
    Launch::routes().config(&guarded(fixture, auth)).start()
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

#[track_caller]
fn check_refused(reply: &Reply, status: u16, challenge: Option<&str>, text: &str) {
    assert_eq!((reply.status(), reply.field("WWW-Authenticate")), (status, challenge), "{}", reply.text());
    assert_eq!((reply.text(), reply.field("Cache-Control")), (text, Some("no-store")));
}

#[test]
fn a_token_of_the_file_lets_in_and_nothing_else_does() {
    let fixture = fixture();
    let server = serve(&fixture, "tokens = \"@/tokens\"");
    let mut client = server.connect();
    for field in [
        bearer(TOKEN),
        bearer(OTHER_TOKEN),
        format!("authorization: bearer {TOKEN}\r\n"),
        format!("AUTHORIZATION: BEARER   {TOKEN}\r\n"),
    ] {
        check_bytes(0, &client.get("/film.mp4", &field).expect(200).body);
    }
    let realm = "Bearer realm=\"highwater\"";
    for fields in ["", "Authorization: Basic dTpw\r\n", "Authorization:\r\n", &format!("Cookie: token={TOKEN}\r\n")] {
        let reply = client.get("/film.mp4", fields);
        check_refused(&reply, 401, Some(realm), "A bearer token is needed.\n");
    }
    let huge = "a".repeat(20_000);
    for token in ["a-token-of-ours-3", "A-token-of-ours-1", &TOKEN[1..], &huge] {
        let reply = client.get("/film.mp4", &bearer(token));
        let challenge = format!("{realm}, error=\"invalid_token\"");
        check_refused(&reply, 401, Some(&challenge), "The bearer token is not valid.\n");
    }
    let twice = bearer(TOKEN) + &bearer(TOKEN);
    for fields in [&twice, &bearer(&format!("{TOKEN} {TOKEN}")), "Authorization: Bearer\r\n"] {
        let reply = client.get("/film.mp4", fields);
        let challenge = format!("{realm}, error=\"invalid_request\"");
        check_refused(&reply, 400, Some(&challenge), "The Authorization field is malformed.\n");
    }
    // What is not there is nobody's business either.
    client.get(&format!("/film.mp4?access_token={TOKEN}"), "").expect(401);
    client.get("/missing", "").expect(401);
    client.get("/missing", &bearer(TOKEN)).expect(404);
    client.request("HEAD", "/film.mp4", "").expect(401);
    client.request("HEAD", "/film.mp4", &bearer(TOKEN)).expect(200);
    let ranged = client.get("/film.mp4", &format!("{}Range: bytes=100-199\r\n", bearer(TOKEN))).expect(206);
    check_bytes(100, &ranged.body);
    server.stop();
}

#[test]
fn h2_preflights_pass_and_refusals_can_be_read_by_the_page() {
    let fixture = fixture();
    let server = serve(&fixture, "tokens = \"@/tokens\"");
    let mut client = server.connect();
    let origin = "Origin: https://a.example\r\n";
    let asked = "Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: authorization\r\n";
    let preflight = client.request("OPTIONS", "/film.mp4", &format!("{origin}{asked}")).expect(204);
    assert!(preflight.field("Access-Control-Allow-Headers").is_some_and(|names| names.contains("Authorization")));
    let refused = client.get("/film.mp4", origin).expect(401);
    assert_eq!(refused.head.all("Access-Control-Allow-Origin"), [b"https://a.example"]);
    assert_eq!(refused.head.all("Vary"), [b"Origin"]);
    let passed = client.get("/film.mp4", &format!("{origin}{}", bearer(TOKEN))).expect(200);
    assert_eq!(passed.head.all("Access-Control-Allow-Origin"), [b"https://a.example"]);
    server.stop();
}

#[test]
fn only_the_methods_that_are_named_need_authorisation() {
    let fixture = fixture();
    let server = serve(&fixture, "tokens = \"@/tokens\", methods = [\"POST\", \"DELETE\"]");
    let mut client = server.connect();
    client.get("/film.mp4", "").expect(200);
    client.request("HEAD", "/film.mp4", "").expect(200);
    client.request("DELETE", "/film.mp4", "").expect(401);
    client.request("DELETE", "/film.mp4", &bearer(TOKEN)).expect(405);
    client.request("PATCH", "/film.mp4", "").expect(405);
    server.stop();
}

#[test]
fn f8_a_refusal_comes_before_100_continue_and_leaves_the_body() {
    let fixture = fixture();
    let server = serve(&fixture, "tokens = \"@/tokens\"");
    let mut client = server.connect();
    client.ask("POST", "/up", "Expect: 100-continue\r\nContent-Length: 1000000\r\n");
    // The first head that comes is the refusal's, not an interim one.
    let reply = client.reply();
    assert_eq!((reply.status(), reply.head.closes()), (401, true));
    client.expect_close();
    server.stop();
}

/// The target, signed by this secret for a while from now, or until this many seconds after 1970.
fn signed(secret: &str, access: Access, target: &str, until: Option<u64>) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs();
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let key = Key::new(secret.as_bytes()).expect("a long secret");
    let query = signed_url::sign(&key, access, path, until.unwrap_or(now + 3600), query).expect("a path");
    format!("{path}?{query}")
}

#[test]
fn a_signed_url_opens_its_path_for_its_methods_until_it_expires() {
    let fixture = fixture();
    fixture.file("other.mp4", LEN);
    fs::create_dir(fixture.at("a b")).expect("a folder");
    fixture.file("a b/c.mp4", LEN);
    let server = serve(&fixture, "signing_keys = \"@/keys\"");
    let mut client = server.connect();
    let url = signed(SECRET, Access::Read, "/film.mp4", None);
    check_bytes(0, &client.get(&url, "").expect(200).body);
    assert_eq!(client.request("HEAD", &url, "").expect(200).head.content_length(), Some(LEN));
    check_bytes(LEN - 10, &client.get(&url, "Range: bytes=-10\r\n").expect(206).body);
    // However the path is spelled, and what the rest of the query says.
    let spelled = signed(SECRET, Access::Read, "/a%20b/c.mp4", None);
    for target in [spelled.clone(), spelled.replace("c.mp4", "%63.m%704"), spelled.replace("/c", "/./x/../c")] {
        client.get(&target, "").expect(200);
    }
    client.get(&signed(SECRET, Access::Read, "/film.mp4?download=x", None), "").expect(200);
    client.get(&signed(SECRET, Access::Read, "/a%20b/", None).replace("/?", "/c.mp4?"), "").expect(200);

    let wrong = "The link's signature is not valid for this request.\n";
    for target in [
        url.replace("/film", "/other"),
        url.replace("expires=", "expires=1"),
        url.replace("?", "?download&"),
        signed(SECRET, Access::Write, "/film.mp4", None),
        signed(NEXT_SECRET, Access::Read, "/film.mp4", None),
        signed(SECRET, Access::Read, "/film.mp4?a=1", None).replace("a=1", "a=2"),
    ] {
        check_refused(&client.get(&target, ""), 403, None, wrong);
    }
    check_refused(&client.request("DELETE", &url, ""), 403, None, wrong);
    let write = signed(SECRET, Access::Write, "/film.mp4", None);
    client.request("DELETE", &write, "").expect(405);
    let expired = signed(SECRET, Access::Read, "/film.mp4", Some(1_700_000_000));
    check_refused(&client.get(&expired, ""), 403, None, "The link has expired.\n");
    check_refused(&client.get("/film.mp4", ""), 403, None, "The link is not signed.\n");
    let twice = format!("{url}&expires=9999999999");
    check_refused(&client.get(&twice, ""), 400, None, "The link's signature or its expiry is malformed.\n");
    server.stop();
}

#[test]
fn where_both_are_given_a_token_or_a_signature_suffices() {
    let fixture = fixture();
    let server = serve(&fixture, "tokens = \"@/tokens\", signing_keys = \"@/keys\"");
    let mut client = server.connect();
    let url = signed(SECRET, Access::Read, "/film.mp4", None);
    client.get(&url, "").expect(200);
    client.get("/film.mp4", &bearer(TOKEN)).expect(200);
    client.get(&url, &bearer("a-token-of-nobody")).expect(200);
    client.get(&url.replace("film", "fil"), &bearer(TOKEN)).expect(404);
    client.get("/film.mp4", "").expect(401);
    client.get("/film.mp4", &bearer("a-token-of-nobody")).expect(401);
    client.get(&url.replace("film", "fil"), "").expect(403);
    server.stop();
}

#[test]
fn t6_secrets_are_read_again_by_a_reload_and_a_wrong_file_is_refused_with_its_line() {
    let fixture = fixture();
    let server = serve(&fixture, "tokens = \"@/tokens\", signing_keys = \"@/keys\"");
    let (old, new) = (SECRET, NEXT_SECRET);
    let ask = |secret| server.connect().get(&signed(secret, Access::Read, "/film.mp4", None), "").status();
    assert_eq!((ask(old), ask(new)), (200, 403));
    let reload = |name: &str, text: String| {
        fixture.text(name, text);
        server.signal(Signal::SIGHUP);
    };
    reload("keys", format!("{NEXT_SECRET}\n{SECRET}\n"));
    eventually(PATIENCE, || ask(new) == 200);
    assert_eq!(ask(old), 200, "both are good while links are out");
    reload("keys", format!("{NEXT_SECRET}\n"));
    eventually(PATIENCE, || ask(old) == 403);
    assert_eq!(ask(new), 200);

    reload("tokens", format!("{OTHER_TOKEN}\n"));
    let with = |token| server.connect().get("/film.mp4", &bearer(token)).status();
    eventually(PATIENCE, || with(TOKEN) == 401);
    assert_eq!(with(OTHER_TOKEN), 200);

    reload("tokens", format!("# one\n{TOKEN}\n2-short\n"));
    eventually(PATIENCE, || server.log().contains("tokens:3: a token of 7 characters can be guessed"));
    assert!(!server.log().contains("2-short"), "no part of a token is shown");
    assert_eq!((with(TOKEN), with(OTHER_TOKEN)), (401, 200), "what was before stays");
    server.stop();
}

#[test]
fn highwater_sign_makes_urls_that_are_let_in() {
    let fixture = fixture();
    let server = serve(&fixture, "signing_keys = \"@/keys\"");
    let sign = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
        command.arg("sign").args(arguments).env("HIGHWATER_KEY_FILE", fixture.at("keys"));
        let made = output(&mut command, PATIENCE);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        (made.status.code(), text(&made.stdout), text(&made.stderr))
    };
    let (code, url, _) = sign(&["--expires", "1h", "https://m.example/film.mp4?download"]);
    let target = url.strip_prefix("https://m.example").unwrap_or_else(|| panic!("{url}"));
    let reply = server.connect().get(target, "").expect(200);
    assert!(code == Some(0) && reply.field("Content-Disposition").is_some());
    let (_, target, _) = sign(&["--expires", "1h", "--write", "/film.mp4"]);
    server.connect().request("DELETE", &target, "").expect(405);
    server.connect().get(&target, "").expect(403);
    let (code, _, refusal) = sign(&["--expires", "1 hour", "/film.mp4"]);
    assert_eq!((code, refusal.as_str()), (Some(2), "--expires: `1 hour` is not a time: write 1h"));
    server.stop();
}

/// What a service does with a request.
enum Act {
    Say(&'static str),
    Close,
    /// Nothing, until the other side goes.
    Hang,
}

/// A service that is asked, on a thread of its own until the process ends; it keeps what it was asked.
#[derive(Clone)]
struct Service {
    act: Arc<Mutex<Act>>,
    asked: Arc<Mutex<Vec<String>>>,
    left: Arc<Mutex<usize>>,
}

impl Service {
    fn new(act: Act) -> Self {
        Service { act: Arc::new(Mutex::new(act)), asked: Arc::default(), left: Arc::default() }
    }

    fn on_tcp(act: Act) -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let service = Service::new(act);
        let own = service.clone();
        thread::spawn(move || listener.incoming().for_each(|stream| own.clone().meet(stream.expect("a connection"))));
        (service, address)
    }

    fn on_unix(act: Act, path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("a socket");
        let service = Service::new(act);
        let own = service.clone();
        thread::spawn(move || listener.incoming().for_each(|stream| own.clone().meet(stream.expect("a connection"))));
        service
    }

    fn meet(self, mut stream: impl Read + Write + Send + 'static) {
        thread::spawn(move || {
            let (mut head, mut some) = (Vec::new(), [0; 4096]);
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut some) {
                    Ok(len @ 1..) => head.extend_from_slice(&some[..len]),
                    _ => return,
                }
            }
            self.asked.lock().expect("what was asked").push(String::from_utf8(head).expect("text"));
            let text = match &*self.act.lock().expect("an act") {
                Act::Say(text) => Some(*text),
                Act::Close => return,
                Act::Hang => None,
            };
            match text {
                // The other side may have read enough, and be gone.
                Some(text) => drop(stream.write_all(text.as_bytes())),
                None => {
                    while matches!(stream.read(&mut some), Ok(1..)) {}
                    *self.left.lock().expect("a count") += 1;
                }
            }
        });
    }

    fn set(&self, act: Act) {
        *self.act.lock().expect("an act") = act;
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("what was asked").clone()
    }
}

const YES: &str = "HTTP/1.1 204 No Content\r\n\r\n";
const NO: &str = "HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nsecret";

#[test]
fn a_service_is_told_who_asks_for_what_and_its_word_counts() {
    let fixture = fixture();
    let (service, address) = Service::on_tcp(Act::Say(YES));
    let server = serve(&fixture, &format!("request = \"http://{address}/check?a\", tokens = \"@/tokens\""));
    let mut client = server.connect();
    let fields = "Authorization: Basic dTpw\r\nCookie: a=b\r\nX-Forwarded-For: 192.0.2.1\r\nTE: x\r\nCookie: c=d\r\n";
    check_bytes(0, &client.get("/film.mp4?x=%20y", fields).expect(200).body);
    let expected = format!(
        "GET /check?a HTTP/1.1\r\nHost: {address}\r\nX-Original-URI: /film.mp4?x=%20y\r\nX-Original-Method: GET\r\n\
         X-Forwarded-For: 127.0.0.1\r\nAuthorization: Basic dTpw\r\nCookie: a=b\r\nCookie: c=d\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(service.asked(), [expected]);
    // Who has a token is let in without it.
    client.get("/film.mp4", &bearer(TOKEN)).expect(200);
    assert_eq!(service.asked().len(), 1);

    service.set(Act::Say("HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.0 200 OK\nContent-Length: 9\n\nall right"));
    client.get("/film.mp4", "").expect(200);
    service.set(Act::Say(NO));
    let refused = client.get("/film.mp4", "");
    check_refused(&refused, 403, None, "Authorisation is needed.\n");
    service
        .set(Act::Say("HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"a\"\r\nwww-authenticate: Negotiate\r\n\r\n"));
    let refused = client.get("/film.mp4", "").expect(401);
    assert_eq!(refused.head.all("WWW-Authenticate"), [&b"Basic realm=\"a\""[..], b"Negotiate"]);
    // A body that nothing read is no reason to wait for it.
    client.ask("POST", "/film.mp4", "Expect: 100-continue\r\nContent-Length: 1000000\r\n");
    assert_eq!((client.reply().status(), service.asked().len()), (401, 5));
    server.stop();
}

#[test]
fn a_service_that_does_not_answer_is_502_or_504() {
    let fixture = fixture();
    let (service, address) = Service::on_tcp(Act::Hang);
    let auth = format!("request = \"http://{address}\", request_timeout = \"50ms\"");
    let server = serve(&fixture, &auth);
    let mut client = server.connect();
    let unknown = "Whether this request may pass can't be told now.\n";
    check_refused(&client.get("/film.mp4", ""), 504, None, unknown);
    server.stop();
    // With time enough to answer.
    let server = serve(&fixture, &format!("request = \"http://{address}\""));
    let act = |act: Act, why: &str| {
        service.set(act);
        check_refused(&server.connect().get("/film.mp4", ""), 502, None, unknown);
        eventually(PATIENCE, || server.log().contains(why));
    };
    act(Act::Close, "it closed the connection without a reply");
    act(Act::Say("SSH-2.0-OpenSSH_9.9\r\n"), "its reply is no HTTP/1.1");
    act(Act::Say("HTTP/1.1 200 OK\r\nContent-Le"), "it closed the connection without a reply");
    act(Act::Say("HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n"), "neither yes nor no");
    act(Act::Say("HTTP/1.1 101 Switching Protocols\r\n\r\nx"), "another protocol");
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(16 << 10));
    act(Act::Say(long.leak()), "the head of its reply is too long");
    server.stop();
}

#[test]
fn a_service_that_is_not_there_is_502_and_one_on_a_unix_socket_can_be_asked() {
    let fixture = fixture();
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port");
    // It keeps the port, and listens no more.
    nix::sys::socket::shutdown(gone.as_raw_fd(), nix::sys::socket::Shutdown::Read).expect("a listener");
    let address = gone.local_addr().expect("an address");
    let server = serve(&fixture, &format!("request = \"http://{address}/\""));
    server.connect().get("/film.mp4", "").expect(502);
    eventually(PATIENCE, || server.log().contains("it can't be connected to"));
    server.stop();

    let path = fixture.at("socket");
    let server = serve(&fixture, "request = \"http+unix:@/socket:/check\"");
    server.connect().get("/film.mp4", "").expect(502);
    let service = Service::on_unix(Act::Say(YES), &path);
    server.connect().get("/film.mp4", "").expect(200);
    assert!(service.asked()[0].starts_with("GET /check HTTP/1.1\r\nHost: localhost\r\n"));
    server.stop();
}

#[test]
fn t5_a_client_that_leaves_cancels_the_question_and_waiting_ones_are_bounded() {
    let fixture = fixture();
    let (service, address) = Service::on_tcp(Act::Hang);
    let auth = guarded(&fixture, &format!("request = \"http://{address}\", request_timeout = \"1m\""));
    let server = Launch::routes().limits("auth_requests = 2").config(&auth).start();
    let before = server.descriptors();
    let mut waiting: Vec<Client> = (0..2).map(|_| server.connect()).collect();
    waiting.iter_mut().for_each(|client| client.ask("GET", "/film.mp4", ""));
    eventually(PATIENCE, || service.asked().len() == 2);
    let held = server.held();
    assert_eq!((held.receive_buffers, held.transfer_buffers), (0, 0), "nothing pooled waits");
    let turned_away = server.connect().get("/film.mp4", "").expect(503);
    assert_eq!(turned_away.field("Retry-After"), Some("1"));
    waiting.into_iter().for_each(Client::reset);
    eventually(PATIENCE, || *service.left.lock().expect("a count") == 2);
    server.expect_rest(before);
    service.set(Act::Say(YES));
    server.connect().get("/film.mp4", "").expect(200);
    server.stop();
}

#[test]
fn a_guarded_reply_is_never_repeated_without_asking_again() {
    let fixture = fixture();
    // Replies are known only of files that have settled.
    let film = fs::File::options().write(true).open(fixture.at("film.mp4")).expect("the film");
    film.set_modified(UNIX_EPOCH + Duration::from_secs(1_577_836_800)).expect("a modification time");
    let (service, address) = Service::on_tcp(Act::Say(YES));
    let server = serve(&fixture, &format!("request = \"http://{address}\""));
    let mut client = server.connect();
    for _ in 0..10 {
        client.get("/film.mp4", "").expect(200);
    }
    service.set(Act::Say(NO));
    // Byte for byte the same request.
    client.get("/film.mp4", "").expect(403);
    assert_eq!((server.metric("known_replies"), service.asked().len()), (0, 11));
    server.stop();

    let (auth, secret) =
        ("tokens = \"@/tokens\", signing_keys = \"@/keys\"", signed(SECRET, Access::Read, "/film.mp4", None));
    let server = serve(&fixture, auth);
    let mut client = server.connect();
    for _ in 0..10 {
        client.get("/film.mp4", &bearer(TOKEN)).expect(200);
        client.get(&secret, "").expect(200);
        client.get("/film.mp4", "").expect(401);
    }
    assert_eq!(server.metric("known_replies"), 0);
    server.stop();

    // Without a guard they are known, so that this test sees what it says.
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    for _ in 0..10 {
        client.get("/film.mp4", "").expect(200);
    }
    eventually(PATIENCE, || {
        client.get("/film.mp4", "").expect(200);
        server.metric("known_replies") > 0
    });
    server.stop();
}

#[test]
fn p3_what_is_guarded_can_not_be_reached_around_the_guard() {
    let fixture = fixture();
    fs::create_dir(fixture.at("members")).expect("a folder");
    fixture.file("members/film.mp4", LEN);
    let root = fixture.path().display().to_string();
    let inner =
        format!("[[route]]\nprefix = \"/members\"\nmedia.root = \"{root}/members\"\nauth.tokens = \"{root}/tokens\"\n");
    let server = Launch::routes().config(&format!("[[route]]\nmedia.root = \"{root}\"\n{inner}")).start();
    let mut client = server.connect();
    client.get("/film.mp4", "").expect(200);
    client.get("/members/film.mp4", &bearer(TOKEN)).expect(200);
    client.get("/%6Dembers/film.mp4", "").expect(401);
    for target in ["//members/film.mp4", "/./members/film.mp4", "/x/../members/film.mp4", "/x/%2e%2e/members/film.mp4"]
    {
        client.get(target, "").expect(400);
        client.get(target, &bearer(TOKEN)).expect(400);
    }
    client.get("/members%2Ffilm.mp4", "").expect(400);
    client.get("http://test.example//members/film.mp4", "").expect(400);
    server.stop();
}

#[test]
fn a_service_that_is_slow_to_take_a_question_gets_it_whole() {
    let fixture = fixture();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = serve(&fixture, &format!("request = \"http://{address}\""));
    let mut client = server.connect();
    let cookie = "c".repeat(15_000);
    client.ask("GET", "/film.mp4", &format!("Cookie: {cookie}\r\n"));
    let (mut stream, _): (TcpStream, _) = listener.accept().expect("a question");
    let (mut head, mut byte) = (Vec::new(), [0; 1]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("more of it");
        head.push(byte[0]);
    }
    assert!(String::from_utf8(head).expect("text").contains(&cookie));
    for piece in YES.as_bytes().chunks(1) {
        stream.write_all(piece).expect("it is read");
    }
    client.reply().expect(200);
    client.get("/film.mp4", &format!("Cookie: {}\r\n", "c".repeat(17_000))).expect(431);
    server.stop();
}
