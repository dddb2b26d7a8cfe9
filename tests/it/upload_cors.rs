//! Uploads from pages of other sites: what a browser is told (WHATWG Fetch, "CORS protocol"), on raw sockets, and a browser itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::{Client, Fixture, Launch, Reply, Server, check_bytes, installed, not_shown, output};

const ORIGIN: &str = "Origin: https://a.example\r\n";
const TUS: &str = "Tus-Resumable: 1.0.0\r\n";
const TOKEN: &str = "a-token-of-ours-1";

/// A route `/up` that stores in this folder, with these keys and lines behind them.
#[track_caller]
fn serve(folder: &Fixture, keys: &str, lines: &str) -> Server {
    let dir = folder.path().display();
    Launch::routes()
        .config(&format!("[[route]]\nprefix = \"/up\"\nupload = {{ dir = \"{dir}\"{keys} }}\n{lines}"))
        .start()
}

/// The keys for pages of one site.
const LISTED: &str = ", origins = [\"http://b.example\", \"https://a.example\"]";

#[track_caller]
fn ask(client: &mut Client, method: &str, target: &str, fields: &str, body: &str) -> Reply {
    client.ask(method, target, &format!("{fields}Content-Length: {}\r\n", body.len()));
    client.send(body);
    client.reply_to(method)
}

#[track_caller]
fn preflight(client: &mut Client, target: &str, method: &str, fields: &str) -> Reply {
    client.request("OPTIONS", target, &format!("{fields}Access-Control-Request-Method: {method}\r\n")).expect(204)
}

/// Whether the page may read the reply, and that a cache won't hand it to another one.
#[track_caller]
fn check_readable(reply: &Reply) {
    assert_eq!(reply.head.all("Access-Control-Allow-Origin"), [b"https://a.example"], "{}", reply.text());
    assert_eq!(reply.head.all("Vary"), [b"Origin"]);
    let exposed = reply.field("Access-Control-Expose-Headers").expect("a list");
    for name in ["Location", "Upload-Offset", "Upload-Complete", "Content-Location", "Repr-Digest", "Tus-Resumable"] {
        assert!(exposed.split(", ").any(|exposed| exposed == name), "{name}");
    }
    assert_eq!(reply.field("Access-Control-Allow-Credentials"), None);
}

#[test]
fn h2_a_preflight_allows_what_upload_clients_send() {
    let folder = Fixture::new();
    let server = serve(&folder, LISTED, "");
    let mut client = server.connect();
    for (target, method) in [("/up", "POST"), ("/up/a.mp4", "PUT"), ("/up/.uploads/0", "PATCH")] {
        let reply = preflight(&mut client, target, method, ORIGIN);
        assert_eq!(reply.head.all("Access-Control-Allow-Origin"), [b"https://a.example"]);
        assert_eq!(reply.head.all("Vary"), [b"Origin"]);
        let methods: Vec<_> = reply.field("Access-Control-Allow-Methods").expect("a list").split(", ").collect();
        assert!(["POST", "PUT", "PATCH", "HEAD"].iter().all(|method| methods.contains(method)), "{methods:?}");
        let fields: Vec<_> = reply.field("Access-Control-Allow-Headers").expect("a list").split(", ").collect();
        for name in ["Authorization", "Content-Type", "Tus-Resumable", "Upload-Metadata", "Upload-Complete"] {
            assert!(fields.contains(&name), "{name}");
        }
    }
    // What is refused itself is no failure of the preflight, or the page would not learn why.
    preflight(&mut client, "/up/missing/%00", "PUT", ORIGIN);
    server.stop();
}

#[test]
fn h2_files_can_be_deleted_by_pages_only_where_that_is_switched_on() {
    let folder = Fixture::new();
    for (keys, of_file) in [("", false), (", delete = true", true)] {
        let server = serve(&folder, &format!("{LISTED}{keys}"), "");
        let mut client = server.connect();
        for (target, may) in [("/up/a.mp4", of_file), ("/up/.uploads/0", true)] {
            let reply = preflight(&mut client, target, "DELETE", ORIGIN);
            let methods = reply.field("Access-Control-Allow-Methods").expect("a list");
            assert_eq!(methods.split(", ").any(|method| method == "DELETE"), may, "{target} with {keys:?}");
        }
        server.stop();
    }
}

#[test]
fn h2_every_reply_can_be_read_by_the_page_refusals_too() {
    let folder = Fixture::new();
    let server = serve(&folder, &format!("{LISTED}, file_len = 10"), "");
    let mut client = server.connect();
    check_readable(&ask(&mut client, "PUT", "/up/a.bin", ORIGIN, "0123456789").expect(201));
    check_readable(&ask(&mut client, "PUT", "/up/a.bin", ORIGIN, "again").expect(409));
    check_readable(&ask(&mut client, "GET", "/up/a.bin", ORIGIN, "").expect(405));
    check_readable(
        &ask(&mut client, "POST", "/up", &format!("{ORIGIN}Content-Range: bytes 0-0/1\r\n"), "a").expect(400),
    );
    let tus = format!("{ORIGIN}{TUS}");
    let created = ask(&mut client, "POST", "/up", &format!("{tus}Upload-Length: 3\r\n"), "").expect(201);
    check_readable(&created);
    let upload = created.field("Location").expect("an upload").to_owned();
    let append = format!("{tus}Content-Type: application/offset+octet-stream\r\nUpload-Offset: ");
    check_readable(&ask(&mut client, "PATCH", &upload, &format!("{append}1\r\n"), "abc").expect(409));
    check_readable(&ask(&mut client, "PATCH", &upload, &format!("{append}0\r\n"), "abc").expect(204));
    check_readable(&ask(&mut client, "HEAD", &upload, &tus, "").expect(200));
    check_readable(&ask(&mut client, "HEAD", "/up/.uploads/0", &tus, "").expect(404));
    check_readable(&ask(&mut client, "POST", "/up", &format!("{ORIGIN}Tus-Resumable: 0.2\r\n"), "").expect(412));
    let draft = format!("{ORIGIN}Upload-Complete: ?1\r\n");
    check_readable(&ask(&mut client, "POST", "/up", &draft, "0123456789").expect(201));
    // What a client asks itself is answered as ever.
    check_readable(&client.request("OPTIONS", "/up", ORIGIN).expect(200));
    // A refusal that leaves the body unread.
    client.ask("POST", "/up", &format!("{ORIGIN}Content-Length: 11\r\nExpect: 100-continue\r\n"));
    check_readable(&client.reply_to("POST").expect(413));
    server.stop();
}

#[test]
fn h2_a_form_can_be_read_by_the_page() {
    let folder = Fixture::new();
    let server = serve(&folder, LISTED, "");
    let mut client = server.connect();
    let fields = format!("{ORIGIN}Content-Type: multipart/form-data; boundary=x\r\n");
    let part = "--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.bin\"\r\n\r\nabc\r\n";
    check_readable(&ask(&mut client, "POST", "/up", &fields, &format!("{part}--x--\r\n")).expect(201));
    check_readable(&ask(&mut client, "POST", "/up", &fields, part).expect(400));
    server.stop();
}

#[test]
fn h2_pages_of_other_sites_are_told_nothing_but_vary() {
    let folder = Fixture::new();
    let server = serve(&folder, LISTED, "");
    let mut client = server.connect();
    let of_cors = |reply: &Reply| {
        let mut names = reply.head.fields.iter().map(|(name, _)| name.to_ascii_lowercase());
        names.any(|name| name.starts_with("access-control-"))
    };
    for origin in ["", "Origin: null\r\n", "Origin: https://a.example.evil\r\n", "Origin: http://a.example\r\n"] {
        let replies = [
            preflight(&mut client, "/up", "POST", origin),
            ask(&mut client, "POST", "/up", origin, "abc").expect(201),
            ask(&mut client, "PATCH", "/up", origin, "").expect(405),
        ];
        for reply in replies {
            assert!(!of_cors(&reply), "{origin}: {:?}", reply.head);
            assert_eq!(reply.head.all("Vary"), [b"Origin"], "{origin}");
        }
    }
    server.stop();

    let server = serve(&folder, "", "");
    let mut client = server.connect();
    let asked = format!("{ORIGIN}Access-Control-Request-Method: POST\r\n");
    for reply in [client.request("OPTIONS", "/up", &asked).expect(200), ask(&mut client, "POST", "/up", ORIGIN, "abc")]
    {
        assert!(!of_cors(&reply) && reply.head.all("Vary").is_empty(), "without origins: {:?}", reply.head);
    }
    server.stop();
}

#[test]
fn h2_where_every_page_may_upload_replies_do_not_vary() {
    let folder = Fixture::new();
    let server = serve(&folder, ", origins = \"*\"", "");
    let mut client = server.connect();
    for origin in ["", ORIGIN, "Origin: null\r\n"] {
        let replies = [
            preflight(&mut client, "/up", "POST", origin),
            ask(&mut client, "POST", "/up", origin, "abc").expect(201),
            ask(&mut client, "PATCH", "/up", origin, "").expect(405),
        ];
        for reply in replies {
            assert_eq!(reply.head.all("Access-Control-Allow-Origin"), [b"*"], "{origin}");
            assert!(reply.head.all("Vary").is_empty(), "{origin}");
        }
    }
    server.stop();
}

#[test]
fn h2_preflights_pass_the_guard_and_its_refusals_can_be_read_by_the_page() {
    let (folder, secrets) = (Fixture::new(), Fixture::new());
    let tokens = secrets.text("tokens", format!("{TOKEN}\n"));
    let server = serve(&folder, LISTED, &format!("auth = {{ tokens = \"{}\" }}", tokens.display()));
    let mut client = server.connect();
    let allowed = preflight(&mut client, "/up/a.bin", "PUT", ORIGIN);
    assert_eq!(allowed.head.all("Access-Control-Allow-Origin"), [b"https://a.example"]);
    let refused = ask(&mut client, "PUT", "/up/a.bin", ORIGIN, "abc").expect(401);
    check_readable(&refused);
    let exposed = refused.field("Access-Control-Expose-Headers").expect("a list");
    assert!(exposed.contains("WWW-Authenticate") && refused.field("WWW-Authenticate").is_some());
    let token = format!("{ORIGIN}Authorization: Bearer {TOKEN}\r\n");
    check_readable(&ask(&mut client, "PUT", "/up/a.bin", &token, "abc").expect(201));
    check_readable(&ask(&mut client, "PUT", "/up/a.bin", &token, "abc").expect(409));
    server.stop();
}

/// How long a browser may take for all that it does.
const BROWSER_PATIENCE: Duration = Duration::from_secs(90);

const LEN: u64 = 3_000_000;

/// Fetches `film.bin` beside it and uploads it to the site that its query names; the DOM tells what came of that.
const PAGE: &str = include_str!("../clients/cross_origin.html");

/// tus-js-client for browsers, where `tools/clients` has put it.
fn tus_bundle() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/node_modules/tus-js-client/dist/tus.min.js");
    path.is_file().then_some(path)
}

/// What the page says when it is done.
#[track_caller]
fn browse(chromium: &Path, url: &str) -> String {
    let profile = Fixture::new();
    let options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --no-proxy-server \
        --disable-background-networking --disable-component-update --disable-sync --virtual-time-budget=600000 --dump-dom";
    let mut command = Command::new(chromium);
    command.args(options.split_whitespace()).arg(format!("--user-data-dir={}", profile.path().display())).arg(url);
    let ran = output(command.env("HOME", profile.path()).env("TMPDIR", profile.path()), BROWSER_PATIENCE);
    let dom = String::from_utf8_lossy(&ran.stdout);
    let told = dom.split_once("<pre id=\"outcome\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let (told, _) = told.unwrap_or_else(|| panic!("{dom}: {}", String::from_utf8_lossy(&ran.stderr)));
    told.to_owned()
}

#[test]
fn h2_a_browser_uploads_from_a_page_of_another_site() {
    let Some(chromium) = installed(&["chromium", "chromium-browser", "google-chrome"]) else { return };
    let (site, secrets, refusing, folder) =
        (Fixture::with(&[("film.bin", LEN)]), Fixture::new(), Fixture::new(), Fixture::new());
    site.text("page.html", PAGE);
    let mut ways = vec!["form", "put"];
    match tus_bundle() {
        Some(bundle) => {
            fs::copy(bundle, site.at("tus.min.js")).expect("a copy of the library");
            ways.push("tus");
        }
        None => not_shown("tus-js-client is not in target/clients"),
    }
    let pages = Server::start(site.path());
    let origin = format!("http://{}", pages.address());
    let tokens = secrets.text("tokens", format!("{TOKEN}\n"));
    let auth = format!("auth = {{ tokens = \"{}\" }}", tokens.display());
    let server = serve(&folder, &format!(", names = \"client\", origins = \"{origin}\""), &auth);
    let closed = serve(&refusing, ", origins = \"https://a.example\"", "");
    for way in ways {
        let at = |server: &Server, token: &str| {
            let to = format!("http://{}/up", server.address());
            browse(&chromium, &format!("{origin}/page.html?way={way}&to={to}&token={token}"))
        };
        let name = format!("{way}.bin");
        let expected = if way == "tus" { format!("/up/.uploads/ then /up/{name}") } else { format!("201 /up/{name}") };
        assert_eq!(at(&server, TOKEN), expected, "{way}");
        let stored = fs::read(folder.at(&name)).expect("the file");
        assert_eq!(stored.len() as u64, LEN, "{way}");
        check_bytes(0, &stored);
        assert_eq!(at(&server, "a-token-of-nobody"), "401 Bearer", "{way}: the page reads why it is refused");
        assert_eq!(at(&closed, TOKEN), "no reply", "{way}: pages that are not listed read nothing");
    }
    let left: Vec<_> = fs::read_dir(refusing.path()).expect("a folder").collect();
    assert!(left.is_empty(), "nothing comes past a preflight that fails: {left:?}");
    [server, closed, pages].into_iter().for_each(Server::stop);
}
