//! A folder as players and browsers see it: types, cross-origin fields, caching, downloads, index files, listings, routes by
//! host and prefix, and files that change while they are served.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{Client, Fixture, Launch, PATIENCE, Reply, Server, bytes_at, check_bytes, eventually};

/// A `[[route]]` over the fixture, with these further lines of `[route.media]`.
fn route(fixture: &Fixture, above: &str, media: &str) -> String {
    format!("[[route]]\n{above}\n[route.media]\nroot = {:?}\n{media}\n", fixture.path())
}

/// A server over one such route.
#[track_caller]
fn serve(fixture: &Fixture, media: &str) -> Server {
    Launch::routes().config(&route(fixture, "", media)).start()
}

/// Lets a file's validators settle: 2020-01-01.
#[track_caller]
fn settle(fixture: &Fixture, name: &str) {
    let time = UNIX_EPOCH + Duration::from_secs(1_577_836_800);
    let file = File::options().write(true).open(fixture.at(name));
    file.and_then(|file| file.set_modified(time)).expect("a modification time");
}

#[test]
fn h1_every_file_has_the_type_that_players_expect() {
    let table = [
        ("a.m3u8", "application/vnd.apple.mpegurl"),
        ("a.mpd", "application/dash+xml"),
        ("a.ts", "video/mp2t"),
        ("a.mp4", "video/mp4"),
        ("a.m4s", "video/mp4"),
        ("a.m4v", "video/mp4"),
        ("a.m4a", "audio/mp4"),
        ("a.webm", "video/webm"),
        ("a.mkv", "video/matroska"),
        ("a.ogg", "audio/ogg"),
        ("a.opus", "audio/ogg"),
        ("a.mp3", "audio/mpeg"),
        ("a.flac", "audio/flac"),
        ("a.wav", "audio/wav"),
        ("a.aac", "audio/aac"),
        ("a.avif", "image/avif"),
        ("a.webp", "image/webp"),
        ("a.vtt", "text/vtt; charset=utf-8"),
        ("a.srt", "application/x-subrip"),
        ("a.html", "text/html; charset=utf-8"),
        ("A.MP4", "video/mp4"),
        ("a.tar.mp4", "video/mp4"),
        ("a.unheard-of", "application/octet-stream"),
        ("mp4", "application/octet-stream"),
    ];
    let fixture = Fixture::with(&table.map(|(name, _)| (name, 10)));
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    for (name, expected) in table {
        for (method, fields, status) in [("GET", "", 200), ("HEAD", "", 200), ("GET", "Range: bytes=1-2\r\n", 206)] {
            let reply = client.request(method, &format!("/{name}"), fields).expect(status);
            assert_eq!(reply.field("Content-Type"), Some(expected), "{name}");
            assert_eq!(reply.field("X-Content-Type-Options"), Some("nosniff"), "{name}");
        }
    }
    let missing = client.get("/missing.mp4", "").expect(404);
    assert_eq!(
        missing.field("X-Content-Type-Options"),
        Some("nosniff"),
        "an error's text is not to be guessed at either"
    );
}

#[test]
fn h1_a_route_may_say_types_of_its_own() {
    let fixture = Fixture::with(&[("book.m4b", 10), ("BOOK.M4B", 10), ("a.mp4", 10)]);
    let server = serve(&fixture, "content_types = { m4b = \"audio/x-book\" }");
    let mut client = server.connect();
    for (target, expected) in [("/book.m4b", "audio/x-book"), ("/BOOK.M4B", "audio/x-book"), ("/a.mp4", "video/mp4")] {
        assert_eq!(client.get(target, "").expect(200).field("Content-Type"), Some(expected));
    }
}

const ORIGIN: &str = "Origin: https://player.example\r\n";

/// Every status that a media route answers with: what is asked for it. `{tag}` is the file's.
const REPLIES: &[(u16, &str, &str, &str)] = &[
    (200, "GET", "/clip.mp4", ""),
    (200, "HEAD", "/clip.mp4", ""),
    (200, "GET", "/list.m3u8", "Accept-Encoding: gzip\r\n"),
    (200, "GET", "/", ""),
    (206, "GET", "/clip.mp4", "Range: bytes=0-9\r\n"),
    (206, "GET", "/clip.mp4", "Range: bytes=0-9,500-509\r\n"),
    (301, "GET", "/folder", ""),
    (304, "GET", "/clip.mp4", "If-None-Match: {tag}\r\n"),
    (400, "GET", "/%zz", ""),
    (404, "GET", "/missing.mp4", ""),
    (405, "POST", "/clip.mp4", "Content-Length: 0\r\n"),
    (405, "DELETE", "/clip.mp4", ""),
    (412, "GET", "/clip.mp4", "If-Match: \"other\"\r\n"),
    (416, "GET", "/clip.mp4", "Range: bytes=1000-\r\n"),
];

/// A server whose one route allows these origins.
struct Shared {
    server: Server,
    tag: String,
    _fixture: Fixture,
}

impl Shared {
    fn with(origins: &str) -> Self {
        let fixture = Fixture::with(&[("clip.mp4", 1000), ("list.m3u8", 100), ("list.m3u8.gz", 10)]);
        ["clip.mp4", "list.m3u8", "list.m3u8.gz"].iter().for_each(|name| settle(&fixture, name));
        fs::create_dir(fixture.at("folder")).expect("a folder");
        let server = serve(&fixture, &format!("listing = true\n{origins}"));
        let tag = server.connect().get("/clip.mp4", "").field("ETag").expect("a tag").to_owned();
        Shared { server, tag, _fixture: fixture }
    }

    /// Every kind of reply to a page of this origin.
    fn replies(&self, origin: &str) -> impl Iterator<Item = Reply> {
        REPLIES.iter().map(move |(status, method, target, fields)| {
            let fields = fields.replace("{tag}", &self.tag);
            self.server.connect().request(method, target, &format!("{origin}{fields}")).expect(*status)
        })
    }
}

/// The members of all list fields of this name, in small letters.
fn members(reply: &Reply, name: &str) -> Vec<String> {
    let text = reply.head.all(name).join(&b", "[..]).to_ascii_lowercase();
    let text = String::from_utf8(text).expect("a list of text");
    text.split(',').map(|member| member.trim().to_owned()).filter(|member| !member.is_empty()).collect()
}

/// Fails the test unless a page of the allowed origin may read the reply and the fields it needs.
#[track_caller]
fn check_readable(reply: &Reply, allowed: &str) {
    assert_eq!(reply.head.all("Access-Control-Allow-Origin"), [allowed.as_bytes()], "{:?}", reply.head);
    assert_eq!(reply.field("Access-Control-Allow-Credentials"), None);
    let exposed = members(reply, "Access-Control-Expose-Headers");
    for name in ["content-length", "content-range", "accept-ranges", "date", "etag"] {
        assert!(exposed.iter().any(|member| member == name), "{name} is not exposed: {:?}", reply.head);
    }
}

#[track_caller]
fn check_unreadable(reply: &Reply) {
    let named = |(name, _): &(String, _)| name.to_ascii_lowercase().starts_with("access-control-");
    assert!(!reply.head.fields.iter().any(named), "{:?}", reply.head);
}

fn varies_by_origin(reply: &Reply) -> bool {
    members(reply, "Vary").contains(&"origin".to_owned())
}

#[test]
fn h2_with_any_origin_every_reply_is_readable() {
    let shared = Shared::with("cors = \"*\"");
    for origin in [ORIGIN, "Origin: null\r\n", ""] {
        for reply in shared.replies(origin) {
            check_readable(&reply, "*");
            assert!(!varies_by_origin(&reply), "the reply is the same for every origin: {:?}", reply.head);
        }
    }
}

#[test]
fn h2_with_a_list_every_reply_is_readable_for_those_alone() {
    let shared = Shared::with("cors = [\"https://player.example\", \"http://localhost:3000\"]");
    for origin in ["https://player.example", "http://localhost:3000"] {
        for reply in shared.replies(&format!("Origin: {origin}\r\n")) {
            check_readable(&reply, origin);
            assert!(varies_by_origin(&reply), "{:?}", reply.head);
        }
    }
    let others = [
        "",
        "Origin: null\r\n",
        "Origin: http://player.example\r\n",
        "Origin: https://player.example:8443\r\n",
        "Origin: https://player.example.evil.example\r\n",
        "Origin: https://evil-player.example\r\n",
        "Origin: http://localhost\r\n",
    ];
    for other in others {
        for reply in shared.replies(other) {
            check_unreadable(&reply);
            // A cache must not hand this reply to a page that may read it, nor the other way round.
            assert!(varies_by_origin(&reply), "{:?}", reply.head);
        }
    }
    let coded = shared.server.connect().get("/list.m3u8", ORIGIN).expect(200);
    assert_eq!(members(&coded, "Vary"), ["accept-encoding", "origin"]);
}

#[test]
fn h2_switched_off_nothing_is_said() {
    let shared = Shared::with("");
    for reply in shared.replies(ORIGIN) {
        check_unreadable(&reply);
        assert!(!varies_by_origin(&reply), "{:?}", reply.head);
    }
    check_unreadable(&shared.server.connect().request("OPTIONS", "/clip.mp4", &preflight("https://player.example")));
}

fn preflight(origin: &str) -> String {
    format!(
        "Origin: {origin}\r\nAccess-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: range, cmcd-session\r\n"
    )
}

#[test]
fn h2_a_preflight_is_answered_with_what_players_send() {
    for (origins, allowed) in [("\"*\"", "*"), ("\"https://player.example\"", "https://player.example")] {
        let shared = Shared::with(&format!("cors = {origins}"));
        let mut client = shared.server.connect();
        // Also for what is not there: only the request itself may say so.
        for target in ["/clip.mp4", "/missing.mp4", "/"] {
            let reply = client.request("OPTIONS", target, &preflight("https://player.example")).expect(204);
            assert_eq!(reply.head.all("Access-Control-Allow-Origin"), [allowed.as_bytes()]);
            let methods = members(&reply, "Access-Control-Allow-Methods");
            assert!(methods.contains(&"get".to_owned()) && methods.contains(&"head".to_owned()), "{methods:?}");
            let fields = members(&reply, "Access-Control-Allow-Headers");
            for name in ["range", "if-range", "cmcd-object", "cmcd-request", "cmcd-session", "cmcd-status"] {
                assert!(fields.iter().any(|field| field == name), "{name} is not allowed: {fields:?}");
            }
            assert_eq!(varies_by_origin(&reply), allowed != "*");
        }
    }
    let shared = Shared::with("cors = \"https://player.example\"");
    let reply = shared.server.connect().request("OPTIONS", "/clip.mp4", &preflight("https://evil.example")).expect(204);
    check_unreadable(&reply);
    assert!(varies_by_origin(&reply));
}

#[test]
fn h2_the_flag_allows_origins_too() {
    let fixture = Fixture::with(&[("clip.mp4", 10)]);
    let flags = ["--cors", "https://player.example", "--cors", "http://localhost:3000"];
    let server = flags.iter().fold(Launch::of(fixture.path()), |launch, flag| launch.arg(flag)).start();
    check_readable(&server.connect().get("/clip.mp4", ORIGIN), "https://player.example");
    check_readable(&server.connect().get("/clip.mp4", "Origin: http://localhost:3000\r\n"), "http://localhost:3000");
    check_unreadable(&server.connect().get("/clip.mp4", "Origin: http://localhost:3001\r\n"));
}

#[test]
fn h3_caching_goes_by_patterns_and_the_first_wins() {
    let files = ["live/list.m3u8", "live/1.m4s", "vod/list.m3u8", "vod/1.m4s", "vod/clip.mp4"];
    let fixture = Fixture::with(&files.map(|name| (name, 100)));
    files.iter().for_each(|name| settle(&fixture, name));
    let server = serve(
        &fixture,
        "cache_control = [
            { pattern = \"live/*.m3u8\", value = \"max-age=1\" },
            { pattern = \"*.m3u8\", value = \"max-age=60\" },
            { pattern = \"*.m4s\", value = \"public, max-age=31536000, immutable\" },
        ]",
    );
    let mut client = server.connect();
    for (name, expected) in [
        ("live/list.m3u8", Some("max-age=1")),
        ("vod/list.m3u8", Some("max-age=60")),
        ("live/1.m4s", Some("public, max-age=31536000, immutable")),
        ("vod/1.m4s", Some("public, max-age=31536000, immutable")),
        ("vod/clip.mp4", None),
    ] {
        let target = format!("/{name}");
        let whole = client.get(&target, "").expect(200);
        let tag = whole.field("ETag").expect("a tag").to_owned();
        let part = client.get(&target, "Range: bytes=0-9\r\n").expect(206);
        let kept = client.get(&target, &format!("If-None-Match: {tag}\r\n")).expect(304);
        for reply in [whole, part, kept] {
            assert_eq!(reply.field("Cache-Control"), expected, "{name} {}", reply.status());
        }
    }
    assert_eq!(client.get("/live/missing.m4s", "").expect(404).field("Cache-Control"), None, "a 404 is not immutable");
}

#[test]
fn h3_playlists_are_asked_for_anew_unless_a_route_says_otherwise() {
    let fixture = Fixture::with(&[("a.m3u8", 10), ("a.mpd", 10), ("a.m4s", 10)]);
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    for (target, expected) in [("/a.m3u8", Some("no-cache")), ("/a.mpd", Some("no-cache")), ("/a.m4s", None)] {
        assert_eq!(client.get(target, "").expect(200).field("Cache-Control"), expected, "{target}");
    }
}

#[test]
fn h1_download_names_the_file() {
    let fixture = Fixture::with(&[("clip.mp4", 100), ("día 1.mp4", 100)]);
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    for (target, expected) in [
        ("/clip.mp4", None),
        ("/clip.mp4?other=1", None),
        ("/clip.mp4?download", Some("attachment; filename=\"clip.mp4\"")),
        ("/clip.mp4?download=", Some("attachment; filename=\"clip.mp4\"")),
        ("/clip.mp4?a=b&download=my+clip.mp4", Some("attachment; filename=\"my clip.mp4\"")),
        (
            "/clip.mp4?download=a%22b%5C%2F..%2Fc%0D%0AX:%20y.mp4",
            Some("attachment; filename=\"a_b..cX: y.mp4\"; filename*=UTF-8''a%22b..cX%3A%20y.mp4"),
        ),
        ("/d%C3%ADa%201.mp4?download", Some("attachment; filename=\"d_a 1.mp4\"; filename*=UTF-8''d%C3%ADa%201.mp4")),
    ] {
        let reply = client.get(target, "").expect(200);
        assert_eq!(reply.field("Content-Disposition"), expected, "{target}");
        assert_eq!(reply.field("Content-Type"), Some("video/mp4"));
        check_bytes(0, &reply.body);
        // What a download manager resumes is the same file.
        let part = client.get(target, "Range: bytes=50-\r\n").expect(206);
        assert_eq!(part.field("Content-Disposition"), expected, "{target}");
    }
}

#[test]
fn h1_a_folder_is_answered_by_its_index() {
    let fixture = Fixture::new();
    fixture.text("index.html", "<p>root");
    fixture.text("show/index.html", "<p>show");
    fixture.text("plain/a.mp4", "a");
    let server = Server::start(fixture.path());
    let mut client = server.connect();
    let root = client.get("/", "").expect(200);
    assert_eq!((root.text(), root.field("Content-Type")), ("<p>root", Some("text/html; charset=utf-8")));
    assert_eq!(client.get("/show/", "").expect(200).text(), "<p>show");
    assert_eq!(client.get("/show/", "Range: bytes=3-\r\n").expect(206).text(), "show");
    assert_eq!(client.get("/show", "").expect(301).field("Location"), Some("show/"));
    // A folder without one is not listed unless that was asked for.
    client.get("/plain/", "").expect(404);
    client.get("/index.html/", "").expect(404);
}

#[test]
fn h1_a_route_may_name_its_index_files() {
    let fixture = Fixture::new();
    fixture.text("a/index.html", "html");
    fixture.text("a/index.m3u8", "playlist");
    fixture.text("b/index.html", "html");
    let server = serve(&fixture, "index = [\"index.m3u8\", \"index.html\"]");
    let mut client = server.connect();
    assert_eq!(client.get("/a/", "").expect(200).text(), "playlist");
    assert_eq!(client.get("/b/", "").expect(200).text(), "html");
    let without = serve(&fixture, "index = []\nlisting = true");
    assert!(without.connect().get("/a/", "").expect(200).text().contains("href=\"index.m3u8\""));
}

/// The targets of a page's links.
fn links(page: &str) -> Vec<&str> {
    page.split("<a href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn p4_a_listing_is_a_page_and_json() {
    let fixture =
        Fixture::with(&[("b c.mp4", 1536), ("a&b.ts", 10), ("%41#?.ts", 11), (".hidden", 1), ("show/1.mp4", 12)]);
    fs::create_dir(fixture.at("empty")).expect("a folder");
    let server = Launch::of(fixture.path()).arg("--listing").start();
    let mut client = server.connect();
    let page = client.get("/", "").expect(200);
    assert_eq!(page.field("Content-Type"), Some("text/html; charset=utf-8"));
    assert!(members(&page, "Vary").contains(&"accept".to_owned()));
    assert_eq!(links(page.text()), ["empty/", "show/", "%2541%23%3F.ts", "a%26b.ts", "b%20c.mp4"]);
    // Every link leads to what it names.
    for link in links(page.text()) {
        client.get(&format!("/{link}"), "").expect(200);
    }
    assert_eq!(links(client.get("/show/", "").expect(200).text()), ["../", "1.mp4"]);
    assert_eq!(client.get("/show?x=y", "").expect(301).field("Location"), Some("show/?x=y"));
    let json = client.get("/", "Accept: application/json\r\n").expect(200);
    assert_eq!(json.field("Content-Type"), Some("application/json"));
    let listing: Value = serde_json::from_slice(&json.body).expect("JSON");
    let entry = |entry: &Value| {
        let text = |key: &str| entry[key].as_str().expect("text").to_owned();
        (text("name"), text("href"), text("type"), entry["size"].as_u64())
    };
    let entries: Vec<_> = listing["entries"].as_array().expect("entries").iter().map(entry).collect();
    let expected = [
        ("empty", "empty/", "directory", None),
        ("show", "show/", "directory", None),
        ("%41#?.ts", "%2541%23%3F.ts", "file", Some(11)),
        ("a&b.ts", "a%26b.ts", "file", Some(10)),
        ("b c.mp4", "b%20c.mp4", "file", Some(1536)),
    ];
    let expected = expected.map(|(name, href, kind, size)| (name.to_owned(), href.to_owned(), kind.to_owned(), size));
    assert_eq!(entries, expected);
    // A browser names HTML beside everything else.
    let browser = "Accept: text/html,application/xhtml+xml,application/json;q=0.9,*/*;q=0.8\r\n";
    assert_eq!(client.get("/", browser).field("Content-Type"), page.field("Content-Type"));
    assert_eq!(client.request("HEAD", "/", "").expect(200).head.content_length(), Some(page.body.len() as u64));
}

#[test]
fn p4_a_page_may_run_nothing_but_its_own() {
    let fixture = Fixture::with(&[("a.mp4", 10)]);
    let server = serve(&fixture, "listing = true");
    let page = server.connect().get("/", "").expect(200);
    let policy = page.field("Content-Security-Policy").expect("a policy");
    for (open, directive) in [("<script>", "script-src"), ("<style>", "style-src")] {
        let close = open.replace('<', "</");
        let text = page.text().split_once(open).and_then(|(_, rest)| rest.split_once(&close)).expect("one of them").0;
        let hash = STANDARD.encode(Sha256::digest(text));
        assert!(policy.split("; ").any(|part| part == format!("{directive} 'sha256-{hash}'")), "{policy}");
    }
    for part in
        ["default-src 'none'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    {
        assert!(policy.split("; ").any(|own| own == part), "{policy}");
    }
    // All that goes with it is in it.
    assert!(!page.text().contains(" src=") && !page.text().contains("@import"));
}

#[test]
fn a_file_tells_what_it_is_when_it_is_asked() {
    let fixture = Fixture::with(&[("a \"b\".bin", 1000), ("broken.mp4", 100)]);
    fs::create_dir(fixture.at("folder")).expect("a folder");
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("media/sample.mp4");
    let len = fs::copy(&sample, fixture.at("sample.mp4")).expect("a copy");
    settle(&fixture, "sample.mp4");
    fs::copy(&sample, fixture.at("book.m4b")).expect("a copy");
    let server = serve(&fixture, "listing = true\ncors = \"*\"\ncontent_types = { m4b = \"audio/x-book\" }");
    let mut client = server.connect();
    let mut told = |target: &str| {
        let reply = client.get(target, "").expect(200);
        assert_eq!(reply.field("Access-Control-Allow-Origin"), Some("*"));
        assert_eq!(reply.field("Cache-Control"), Some("no-store"));
        reply.json()
    };
    // Whether or not the file has been open before.
    for _ in 0..2 {
        let mut sample = told("/sample.mp4?info");
        let duration = sample["duration"].take().as_f64().expect("seconds");
        assert!((duration - 12.0).abs() < 0.1, "{duration}");
        assert_eq!(
            sample,
            json!({ "name": "sample.mp4", "size": len, "type": "video/mp4", "modified": "2020-01-01T00:00:00Z",
                    "duration": null })
        );
    }
    assert_eq!(told("/book.m4b?info")["type"], "audio/x-book");
    let file = told("/a%20%22b%22.bin?x&info=1");
    assert_eq!((&file["name"], &file["size"], &file["duration"]), (&json!("a \"b\".bin"), &json!(1000), &Value::Null));
    assert_eq!(told("/broken.mp4?info")["duration"], Value::Null);
    // Another version is asked anew.
    fs::copy(&sample, fixture.at("broken.mp4")).expect("a copy");
    assert!(told("/broken.mp4?info")["duration"].as_f64().is_some());
    client.get("/missing.mp4?info", "").expect(404);
    assert_eq!(
        client.request("HEAD", "/sample.mp4?info", "").expect(200).field("Content-Type"),
        Some("application/json")
    );
    // A folder, and a file that is not asked about, are what they are.
    assert_eq!(client.get("/?info", "").expect(200).field("Content-Type"), Some("text/html; charset=utf-8"));
    assert_eq!(client.get("/sample.mp4?information", "").expect(200).body.len() as u64, len);
}

#[test]
fn p4_a_listing_that_is_cut_says_so() {
    let fixture = Fixture::new();
    (0..20).for_each(|n| drop(fixture.text(&format!("{n:02}.ts"), "")));
    let server = Launch::of(fixture.path()).arg("--listing").limits("listing_entries = 8").start();
    let mut client = server.connect();
    let page = client.get("/", "").expect(200);
    assert_eq!(links(page.text()).len(), 8);
    assert!(page.text().contains("not all"), "{}", page.text());
    let json = client.get("/", "Accept: application/json\r\n").expect(200);
    let listing: Value = serde_json::from_slice(&json.body).expect("JSON");
    assert_eq!((listing["entries"].as_array().map(Vec::len), &listing["truncated"]), (Some(8), &Value::Bool(true)));
    (8..20).for_each(|n| fs::remove_file(fixture.at(&format!("{n:02}.ts"))).expect("a file less"));
    let json = client.get("/", "Accept: application/json\r\n").expect(200);
    let listing: Value = serde_json::from_slice(&json.body).expect("JSON");
    assert_eq!((listing["entries"].as_array().map(Vec::len), &listing["truncated"]), (Some(8), &Value::Bool(false)));
}

/// A folder whose one file says what it is.
fn labelled(label: &str) -> Fixture {
    let fixture = Fixture::new();
    fixture.text("which.txt", label);
    fixture
}

/// A `GET` for one host, without the client's own Host field.
#[track_caller]
fn get_of_host(client: &mut Client, host: &str, target: &str) -> Reply {
    client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    client.reply()
}

#[test]
fn h3_routes_go_by_host_and_then_by_the_longest_prefix() {
    let folders = ["root", "a", "a/b", "host root", "host a", "spaced"].map(|label| (label, labelled(label)));
    let of = |label: &str| &folders.iter().find(|(own, _)| *own == label).expect("a folder").1;
    let config = [
        route(of("a"), "prefix = \"/a\"", ""),
        route(of("root"), "", ""),
        route(of("a/b"), "prefix = \"/a/b\"", ""),
        route(of("host root"), "host = \"one.example\"", ""),
        route(of("host a"), "host = \"two.example\"\nprefix = \"/a\"", ""),
        route(of("spaced"), "prefix = \"/a b\"", ""),
    ];
    let server = Launch::routes().config(&config.concat()).start();
    let mut client = server.connect();
    for (host, target, expected) in [
        ("any.example", "/which.txt", "root"),
        ("any.example", "/a/which.txt", "a"),
        ("any.example", "/a/b/which.txt", "a/b"),
        ("any.example", "/a/which.txt?/a/b/", "a"),
        // The host's own routes come first, even with a shorter prefix.
        ("one.example", "/which.txt", "host root"),
        ("two.example", "/a/which.txt", "host a"),
        ("two.example", "/which.txt", "root"),
        // A host is compared without case and port.
        ("ONE.example", "/which.txt", "host root"),
        ("one.example:8080", "/which.txt", "host root"),
        // The prefix is that of the decoded path.
        ("any.example", "/a%20b/which.txt", "spaced"),
        ("any.example", "/%61/which.txt", "a"),
    ] {
        let reply = get_of_host(&mut client, host, target);
        assert_eq!((reply.status(), reply.text()), (200, expected), "{host} {target}");
    }
    // The host of an absolute target counts, and not the field (RFC 9112 §3.2.2).
    client.send("GET http://one.example/which.txt HTTP/1.1\r\nHost: any.example\r\n\r\n");
    assert_eq!(client.reply().expect(200).text(), "host root");
    for (host, target) in [
        ("one.example", "/a/which.txt"),
        ("two.example", "/a/b/which.txt"),
        ("sub.one.example", "/a/c/which.txt"),
        ("any.example", "/abc/which.txt"),
        ("any.example", "/A/which.txt"),
    ] {
        assert_eq!(get_of_host(&mut client, host, target).status(), 404, "{host} {target}");
    }
}

#[test]
fn p3_a_prefix_without_its_slash_redirects_to_it() {
    let fixture = Fixture::new();
    fixture.text("index.html", "<p>here");
    let server = Launch::routes().config(&route(&fixture, "prefix = \"/media/vod\"", "")).start();
    let mut client = server.connect();
    for (target, location) in [("/media/vod", "vod/"), ("/media/vod?a=b", "vod/?a=b")] {
        let reply = client.get(target, "");
        assert_eq!((reply.status(), reply.field("Location")), (301, Some(location)), "{target}");
    }
    assert_eq!(client.get("/media/vod/", "").expect(200).text(), "<p>here");
    for outside in ["/", "/media", "/media/", "/media/vodka", "/media/vod2/"] {
        client.get(outside, "").expect(404);
    }
}

#[test]
fn p1_a_prefix_is_no_way_out_of_its_folder() {
    let (outer, inner) = (labelled("outer"), labelled("inner"));
    let config = [route(&outer, "", ""), route(&inner, "prefix = \"/inner\"", "")];
    let server = Launch::routes().config(&config.concat()).start();
    let mut client = server.connect();
    for target in ["/inner/../which.txt", "/inner/%2e%2e/which.txt", "/inner/x/../../which.txt"] {
        client.get(target, "").expect(400);
    }
    assert_eq!(client.get("/inner/x/../which.txt", "").expect(200).text(), "inner");
}

#[test]
fn r13_a_file_changed_in_place_is_served_changed_at_once() {
    let fixture = Fixture::with(&[("list.m3u8", 100)]);
    let server = Launch::of(fixture.path()).limits("open_file_valid = \"1h\"").start();
    let mut client = server.connect();
    let mut tags = Vec::new();
    for len in [100, 50, 5000, 0, 100_000] {
        fixture.file("list.m3u8", len);
        let reply = client.get("/list.m3u8", "").expect(200);
        assert_eq!(reply.body, bytes_at(0, len as usize));
        tags.push(reply.field("ETag").expect("a tag").to_owned());
    }
    tags.dedup();
    assert_eq!(tags.len(), 5, "a tag for each state");
    assert_eq!(
        (server.metric("file_cache_misses"), server.metric("file_cache_hits")),
        (1, 4),
        "one descriptor served all"
    );
}

/// Changes a file that is kept in memory: every reply is one version, whole, with its own tag, and the new one comes.
#[test]
fn r13_a_hot_file_that_changes_is_served_whole_and_soon_new() {
    let fixture = Fixture::new();
    let old = vec![1; 40_000];
    let path = fixture.text("hot.js", old.clone());
    settle(&fixture, "hot.js");
    let server = Launch::of(fixture.path()).limits("hot_file_valid = \"50ms\"").start();
    let mut client = server.connect();
    let tags: Vec<String> = (0..50)
        .map(|_| {
            let reply = client.get("/hot.js", "").expect(200);
            assert_eq!(reply.body, old);
            reply.field("ETag").expect("a tag").to_owned()
        })
        .collect();
    assert!(tags.iter().all(|tag| *tag == tags[0]));
    assert_eq!(client.get("/hot.js", "Range: bytes=5-9\r\n").expect(206).body, [1; 5]);
    for (round, len) in [40_000, 100, 60_000].into_iter().enumerate() {
        let new = vec![round as u8 + 2; len];
        File::options()
            .write(true)
            .truncate(true)
            .open(&path)
            .and_then(|mut file| file.write_all(&new))
            .expect("a change");
        eventually(PATIENCE, || {
            client.ask("GET", "/hot.js", "");
            let Ok(reply) = client.try_reply_to("GET") else {
                // Cut while it was sent: then the connection is cut too.
                client = server.connect();
                return false;
            };
            let value = reply.body.first().copied().unwrap_or_default();
            assert!(reply.body.iter().all(|byte| *byte == value), "two versions in one reply");
            reply.body == new && reply.field("ETag") != Some(tags[0].as_str())
        });
    }
}

#[test]
fn r13_a_file_that_is_replaced_is_never_mixed_and_soon_new() {
    const LEN: usize = 300_000;
    for valid in ["0", "50ms"] {
        let fixture = Fixture::new();
        fixture.text("clip.mp4", vec![0; LEN]);
        let server = Launch::of(fixture.path()).limits(&format!("open_file_valid = \"{valid}\"")).start();
        let mut client = server.connect();
        for generation in 1..20_u8 {
            fixture.text("next", vec![generation; LEN + usize::from(generation)]);
            fs::rename(fixture.at("next"), fixture.at("clip.mp4")).expect("a replacement");
            let mut looks = 0;
            eventually(PATIENCE, || {
                looks += 1;
                let reply = client.get("/clip.mp4", "").expect(200);
                let first = reply.body[0];
                assert!(reply.body.iter().all(|byte| *byte == first), "two versions in one reply");
                assert_eq!(reply.body.len(), LEN + usize::from(first));
                assert!(first == generation || first == generation - 1, "neither this version nor the one before");
                first == generation
            });
            assert!(valid != "0" || looks == 1, "nothing is believed for any time");
        }
        // A file that goes is gone, and one that comes back is there.
        fs::remove_file(fixture.at("clip.mp4")).expect("a file less");
        eventually(PATIENCE, || client.get("/clip.mp4", "").status() == 404);
        fixture.text("clip.mp4", "back");
        eventually(PATIENCE, || client.get("/clip.mp4", "").status() == 200);
    }
}

#[test]
fn r13_without_a_cache_every_request_looks_for_itself() {
    let fixture = labelled("old");
    let server = Launch::of(fixture.path()).limits("open_files = 0\nopen_file_valid = \"1h\"").start();
    let mut client = server.connect();
    for generation in ["one", "two", "three"] {
        fixture.text("next", generation);
        fs::rename(fixture.at("next"), fixture.at("which.txt")).expect("a replacement");
        assert_eq!(client.get("/which.txt", "").expect(200).text(), generation);
    }
    assert_eq!(server.metric("file_cache_hits"), 0);
}

#[test]
fn a_cache_of_few_files_serves_many() {
    let fixture = Fixture::new();
    let names: Vec<String> = (0..20).map(|n| format!("{n}.txt")).collect();
    names.iter().for_each(|name| drop(fixture.text(name, name)));
    let server = Launch::of(fixture.path()).limits("open_files = 4\nopen_file_valid = \"1h\"").start();
    let mut client = server.connect();
    client.get("/0.txt", "").expect(200);
    let descriptors = server.descriptors();
    for name in names.iter().chain(&names) {
        assert_eq!(client.get(&format!("/{name}"), "").expect(200).text(), name);
    }
    eventually(PATIENCE, || server.descriptors() <= descriptors + 3);
    server.stop();
}

/// A folder of so many empty files with long names.
fn crowded(count: usize) -> Fixture {
    let fixture = Fixture::new();
    (0..count).for_each(|n| drop(fixture.text(&format!("{n:0100}.ts"), "")));
    fixture
}

#[test]
fn t1_listings_that_nobody_reads_are_bounded_in_all() {
    const LIMITS: &str = "connections = 256\nhigh_water_mark = \"16KiB\"\ntransfer_buffers = 4\nreceive_buffers = 32\n\
                          head_len = \"1KiB\"\nreceive_buffer_len = \"4KiB\"\nopen_files = 16\nhot_files = 0\n\
                          access_log_buffer = \"64KiB\"\nlisting_entries = 2000\nlisting_bytes = \"4MiB\"\n";
    let fixture = crowded(2000);
    let server = Launch::of(fixture.path()).arg("--listing").limits(LIMITS).start();
    let page_len = server.connect().get("/", "").expect(200).body.len();
    assert!(page_len > 500_000, "too short to stay in the server: {page_len}");
    let mut stopped = Vec::new();
    for _ in 0..200 {
        let mut client = Client::connect_narrow(server.address(), 16 << 10);
        client.ask("GET", "/", "");
        let head = client.head();
        if head.status == 200 {
            stopped.push(client);
        } else {
            assert_eq!((head.status, head.field("Retry-After")), (503, Some("1")));
        }
    }
    assert!(!stopped.is_empty() && stopped.len() * page_len <= 4 << 20, "{} × {page_len} bytes", stopped.len());
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).expect("a peak");
    let (peak, ceiling) = (peak.parse::<u64>().expect("a number") * 1024, server.metric("memory_ceiling_bytes"));
    assert!(peak < ceiling, "{peak} bytes at the peak, over the ceiling of {ceiling}");
    // What they held comes back with them.
    drop(stopped);
    eventually(PATIENCE, || server.connect().get("/", "").status() == 200);
    server.stop();
}

#[test]
fn a_listing_that_can_never_fit_is_refused_in_either_form() {
    let fixture = crowded(1000);
    fs::create_dir(fixture.at("empty")).expect("a folder");
    let server = Launch::of(fixture.path()).arg("--listing").limits("listing_bytes = \"64KiB\"").start();
    let mut client = server.connect();
    for fields in ["", "Accept: application/json\r\n"] {
        let refused = client.get("/", fields).expect(503);
        assert_eq!(refused.field("Retry-After"), Some("1"));
        client.get("/empty/", fields).expect(200);
    }
}

#[test]
fn a_route_whose_entries_others_have_taken_is_cached_too() {
    let (walked, asked) = (Fixture::new(), labelled("asked"));
    (0..20).for_each(|n| drop(walked.text(&format!("{n}.txt"), "")));
    let config = [route(&walked, "prefix = \"/walked\"", ""), route(&asked, "prefix = \"/asked\"", "")];
    let launch = Launch::routes().config(&config.concat()).limits("open_files = 16\nopen_file_valid = \"1h\"");
    let server = launch.start();
    let mut client = server.connect();
    (0..20).for_each(|n| drop(client.get(&format!("/walked/{n}.txt"), "").expect(200)));
    for asked_before in 0..10 {
        // No two are the same bytes, to which the reply would be known without the cache.
        client.get("/asked/which.txt", &format!("X-Round: {asked_before}\r\n")).expect(200);
        assert_eq!((server.metric("file_cache_misses"), server.metric("file_cache_hits")), (21, asked_before));
    }
}
