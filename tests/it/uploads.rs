//! Bodies that become files: what is stored and what is said of it, what is refused and when, and that nothing is left of what did
//! not come whole. `u…`, `f…` and `t…` name rules of behaviour, `promise…` one of the design.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use nix::sys::statvfs::statvfs;
use percent_encoding::percent_decode_str;

use crate::support::{
    Client, Fixture, Form, Framing, Launch, PATIENCE, Random, Reply, Server, allow_descriptors, bytes_at, check_stored,
    eventually, names_in, not_shown, upload_routes,
};

/// A server that takes uploads into this folder by these keys, and serves it.
#[track_caller]
fn serve(folder: &Fixture, keys: &str) -> Server {
    Launch::routes().config(&upload_routes(folder.path(), keys)).start()
}

/// Lengths about the edges of one read, one upload buffer and one high water mark.
const LENS: [usize; 8] = [0, 1, 4096, 65_536, 131_071, 131_072, 131_073, 3_000_000];

const FRAMINGS: [Framing; 3] = [Framing::Length, Framing::Chunks(100_000), Framing::Chunks(1)];

/// That a reply says where a new file is, and that it is served there at once.
#[track_caller]
fn check_new(client: &mut Client, folder: &Path, reply: &Reply, content: &[u8]) -> String {
    let files = reply.files();
    assert_eq!(files.len(), 1, "{}", reply.text());
    let name = check_stored(folder, &files[0], content);
    let url = files[0]["url"].as_str().expect("a URL");
    assert_eq!((reply.field("Location"), reply.head.closes()), (Some(url), false));
    let decoded = percent_decode_str(url).decode_utf8().expect("text");
    assert_eq!(decoded, format!("/{name}"), "the media route serves the folder");
    assert!(client.get(url, "").expect(200).body == content, "{url} is not what was sent");
    name
}

#[test]
fn u1_a_body_is_stored_and_served_byte_for_byte() {
    let folder = Fixture::new();
    let server = serve(&folder, "");
    let mut client = server.connect();
    let mut stored = 0;
    for (number, len) in LENS.into_iter().enumerate() {
        let content = bytes_at(number as u64, len);
        for framing in FRAMINGS.into_iter().filter(|framing| *framing != Framing::Chunks(1) || len <= 131_073) {
            for (method, asked) in [("PUT", Some("put")), ("POST", Some("post")), ("POST", None)] {
                stored += 1;
                let asked = asked.map(|asked| format!("{asked}-{stored}.bin"));
                let target = format!("/up/{}", asked.as_deref().unwrap_or_default());
                let reply = client.upload(method, &target, "", framing, &content).expect(201);
                let name = check_new(&mut client, folder.path(), &reply, &content);
                match asked {
                    Some(asked) => assert_eq!(name, asked),
                    None => assert!(name.len() == 26 && !name.contains(['.', '-']), "{name}"),
                }
            }
        }
    }
    drop(client);
    server.expect_rest(usize::MAX);
    assert_eq!(names_in(folder.path()).len(), stored);
    server.stop();
}

#[test]
fn f2_a_body_may_be_cut_anywhere_on_its_way() {
    let folder = Fixture::new();
    let server = serve(&folder, "");
    let content = bytes_at(3, 200_000);
    for (seed, framing) in
        (1..=12).zip([Framing::Length, Framing::Chunks(777), Framing::Chunks(100_000)].iter().cycle())
    {
        let mut random = Random::new(seed);
        let target = format!("/up/{seed}");
        let request = framing.request("PUT", &target, "", &content);
        let mut client = server.connect();
        let mut rest = &request[..];
        while !rest.is_empty() {
            let most = [1, 20, 3000, 70_000][random.below(4)];
            let (piece, behind) = rest.split_at(rest.len().min(1 + random.below(most)));
            client.send(piece);
            rest = behind;
        }
        let reply = client.reply().expect(201);
        check_new(&mut client, folder.path(), &reply, &content);
    }
    server.stop();
}

#[test]
fn f6_a_request_behind_a_body_is_answered_rightly() {
    let folder = Fixture::new();
    folder.file("clip.mp4", 1000);
    let server = serve(&folder, "");
    let mut random = Random::new(7);
    let next = b"GET /clip.mp4 HTTP/1.1\r\nHost: a\r\n\r\n";
    for (number, len) in LENS.into_iter().enumerate() {
        let content = bytes_at(5, len);
        for (kind, framing) in
            [Framing::Length, Framing::Chunks(4096), Framing::Chunks(100_000)].into_iter().enumerate()
        {
            // All at once, and with a cut somewhere about the end of the body.
            for behind in [0, next.len() + random.below(80)] {
                let target = format!("/up/{number}-{kind}-{behind}");
                let request = [&framing.request("PUT", &target, "", &content)[..], next, next].concat();
                let mut client = server.connect();
                client.send(&request[..request.len() - behind]);
                client.send(&request[request.len() - behind..]);
                let files = client.reply().expect(201).files();
                check_stored(folder.path(), &files[0], &content);
                for _ in 0..2 {
                    assert_eq!(client.reply().expect(200).body, bytes_at(0, 1000), "{target}");
                }
            }
        }
    }
    server.stop();
}

#[test]
fn u2_a_name_that_is_taken_is_refused_renamed_or_replaced() {
    let (old, new) = (bytes_at(0, 5000), bytes_at(9, 150_000));
    for framing in FRAMINGS {
        let put = |client: &mut Client, fields: &str, content: &[u8]| {
            client.upload("PUT", "/up/film.mp4", fields, framing, content)
        };
        let (reject, rename, replace) = (Fixture::new(), Fixture::new(), Fixture::new());
        let server = serve(&reject, "");
        let mut client = server.connect();
        put(&mut client, "", &old).expect(201);
        put(&mut client, "", &new).refuses(409, "NAME_TAKEN");
        put(&mut server.connect(), "If-None-Match: *\r\n", &new).refuses(412, "NAME_TAKEN");
        assert_eq!(fs::read(reject.at("film.mp4")).expect("the old one"), old);
        server.stop();

        let server = serve(&rename, "on_conflict = \"rename\"");
        let mut client = server.connect();
        for name in ["film.mp4", "film-2.mp4", "film-3.mp4"] {
            let reply = put(&mut client, "", &new).expect(201);
            assert_eq!(check_new(&mut client, rename.path(), &reply, &new), name);
        }
        put(&mut client, "If-None-Match: *\r\n", &new).refuses(412, "NAME_TAKEN");
        assert_eq!(names_in(rename.path()), ["film-2.mp4", "film-3.mp4", "film.mp4"]);
        server.stop();

        let quick = Launch::routes().limits("open_file_valid = \"10ms\"");
        let server = quick.config(&upload_routes(replace.path(), "on_conflict = \"replace\"")).start();
        let mut client = server.connect();
        put(&mut client, "If-None-Match: *\r\n", &old).expect(201);
        put(&mut client, "If-None-Match: *\r\n", &new).refuses(412, "NAME_TAKEN");
        let mut client = server.connect();
        assert_eq!(client.get("/film.mp4", "").expect(200).body, old);
        for content in [&new, &old, &new] {
            let reply = put(&mut client, "", content).expect(200);
            assert_eq!(check_stored(replace.path(), &reply.files()[0], content), "film.mp4");
            // What is open is believed for a moment; then it is the new one, whole.
            eventually(PATIENCE, || {
                let body = client.get("/film.mp4", "").expect(200).body;
                assert!(body == old || body == new, "mixed");
                body == **content
            });
        }
        assert_eq!(names_in(replace.path()), ["film.mp4"]);
        server.stop();
    }
}

#[test]
fn u2_a_part_of_a_file_or_a_coded_one_is_not_stored() {
    let folder = Fixture::new();
    let server = serve(&folder, "");
    for framing in FRAMINGS {
        let mut client = server.connect();
        let mut put = |fields: &str| client.upload("PUT", "/up/a", fields, framing, &bytes_at(0, 3000));
        // The body is small: it is drained, and the connection goes on (F7).
        put("Content-Range: bytes 0-2999/9000\r\n").refuses(400, "CONTENT_RANGE");
        for coding in ["gzip", "br", "identity, gzip", "x"] {
            put(&format!("Content-Encoding: {coding}\r\n")).refuses(415, "CONTENT_ENCODING");
        }
        assert_eq!(names_in(folder.path()), [""; 0]);
        put("Content-Encoding: identity\r\n").expect(201);
        fs::remove_file(folder.at("a")).expect("what was stored");
    }
    server.stop();
}

#[test]
fn f7_what_is_left_of_a_refused_body_is_never_a_request() {
    let folder = Fixture::new();
    let server = Launch::routes()
        .limits("drain_len = \"4KiB\"\nlinger_timeout = \"100ms\"")
        .config(&upload_routes(folder.path(), "file_len = \"1KiB\"\ndelete = true"))
        .start();
    let smuggled = b"DELETE /up/kept HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2000);
    server.connect().put("/up/kept", b"kept").expect(201);
    for framing in [Framing::Length, Framing::Chunks(38)] {
        for len in [1025, 4096, 4097, 74_000] {
            let mut client = server.connect();
            let reply = client.upload("PUT", "/up/a", "", framing, &smuggled[..len]).refuses(413, "LIMIT_FILE_SIZE");
            if !reply.head.closes() {
                client.ask("OPTIONS", "/up/a", "");
                // Where the rest was longer than it looked, the connection ends instead.
                assert!(client.try_reply_to("OPTIONS").is_ok_and(|reply| reply.status() == 200) || len > 4096, "{len}");
            }
            drop(client);
            assert_eq!(names_in(folder.path()), ["kept"]);
        }
    }
    server.stop();
}

/// What is refused by its head alone: method, target, fields with a length, status, code.
const REFUSED: [(&str, &str, &str, u16, &str); 17] = [
    ("PUT", "/up/a.bin", "Content-Length: 5001\r\n", 413, "LIMIT_FILE_SIZE"),
    ("POST", "/up/", "Content-Length: 18446744073709551615\r\n", 413, "LIMIT_FILE_SIZE"),
    ("PUT", "/up/taken.bin", "Content-Length: 9\r\n", 409, "NAME_TAKEN"),
    ("PUT", "/up/taken.bin", "Transfer-Encoding: chunked\r\n", 409, "NAME_TAKEN"),
    ("PUT", "/up/taken.bin", "Transfer-Encoding: chunked\r\nIf-None-Match: *\r\n", 412, "NAME_TAKEN"),
    ("PUT", "/up/directory.bin", "Content-Length: 9\r\n", 409, "NAME_TAKEN"),
    ("PUT", "/up/a.txt", "Transfer-Encoding: chunked\r\n", 403, "NAME_NOT_ALLOWED"),
    ("PUT", "/up/.a.bin", "Content-Length: 9\r\n", 400, "NAME"),
    ("PUT", "/up/a%2Fb.bin", "Content-Length: 9\r\n", 400, "PATH"),
    ("PUT", "/up/a.bin", "Content-Length: 3001\r\n", 507, "STORAGE_FULL"),
    ("PUT", "/up/nowhere/a.bin", "Content-Length: 9\r\n", 404, "NO_DIRECTORY"),
    ("PUT", "/up/", "Content-Length: 9\r\n", 405, "METHOD"),
    ("GET", "/up/a.bin", "Content-Length: 9\r\n", 405, "METHOD"),
    ("DELETE", "/up/taken.bin", "Transfer-Encoding: chunked\r\n", 405, "METHOD"),
    ("PUT", "/up/a.bin", "Content-Length: 9\r\nContent-Encoding: gzip\r\n", 415, "CONTENT_ENCODING"),
    ("PUT", "/up/a.bin", "Content-Length: 9\r\nContent-Range: bytes 0-8/10\r\n", 400, "CONTENT_RANGE"),
    ("POST", "/up/", "Content-Length: 9\r\nContent-Type: multipart/form-data\r\n", 400, "MISSING_BOUNDARY"),
];

#[test]
fn f8_a_refusal_comes_without_a_100_and_can_be_read() {
    let folder = Fixture::with(&[("taken.bin", 2000)]);
    fs::create_dir(folder.at("directory.bin")).expect("a directory");
    let keys = "file_len = \"5000B\"\nquota = \"5000B\"\nname_patterns = [\"*.bin\"]";
    let server = serve(&folder, keys);
    let body = bytes_at(0, 300_000);
    for (method, target, fields, status, code) in REFUSED {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{fields}");
        // A client that waits to be told to go on, and two that do not.
        for (expect, sent) in [("Expect: 100-continue\r\n", 0), ("Expect: 100-continue\r\n", 9), ("", body.len())] {
            let mut client = server.connect();
            client.send(format!("{head}{expect}\r\n"));
            let _ = client.try_send(&body[..sent]);
            let reply = client.reply_to(method).refuses(status, code);
            assert_eq!(reply.field("Allow").is_some(), status == 405, "{:?}", reply.head);
            assert!(reply.head.closes() || expect.is_empty(), "{head} {:?}", reply.head);
        }
    }
    assert_eq!(names_in(folder.path()), ["taken.bin"]);
    server.expect_rest(usize::MAX);
    server.stop();
}

#[test]
fn promise1_one_upload_more_than_there_is_room_for_is_told_to_come_later() {
    let folder = Fixture::new();
    let server =
        Launch::routes().limits("uploads = 3").config(&upload_routes(folder.path(), "names = \"client\"")).start();
    // Two raw bodies, and a form with its first file, are under way.
    let mut open: Vec<Client> = (0..2).map(|_| server.connect()).collect();
    for (number, client) in open.iter_mut().enumerate() {
        client.send(format!("PUT /up/{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na"));
    }
    eventually(PATIENCE, || server.held().transfers == 2);
    let mut third = server.connect();
    let form = Form::new().file("f", "first", b"a");
    // The form itself takes the last place, so that its file finds none.
    let reply = third.upload("POST", "/up", &form.content_type(), Framing::Length, &form.closed());
    assert_eq!(reply.refuses(503, "BUSY").field("Retry-After"), Some("1"));
    // What was refused has given its place back.
    let mut fourth = server.connect();
    fourth.put("/up/c", b"c").expect(201);
    for client in &mut open {
        client.send("b");
        client.reply().expect(201);
    }
    server.connect().upload("PUT", "/up/d", "", Framing::Length, b"d").expect(201);
    assert_eq!(names_in(folder.path()), ["0", "1", "c", "d"]);
    assert_eq!((server.metric("files_stored"), server.metric("upload_bytes")), (4, 2 + 2 + 1 + 1));
    drop((open, third, fourth));
    server.expect_rest(usize::MAX);
    server.stop();
}

#[test]
fn f8_a_body_that_will_be_read_is_asked_for() {
    let folder = Fixture::new();
    let server = serve(&folder, "quota = \"6000B\"");
    let content = bytes_at(0, 3000);
    let mut client = server.connect();
    for (target, framing) in [("/up/a", Framing::Length), ("/up/b", Framing::Chunks(1000))] {
        let field = framing.field(&content);
        client.send(format!("PUT {target} HTTP/1.1\r\nHost: a\r\n{field}Expect: 100-continue\r\n\r\n"));
        assert_eq!(client.head().status, 100);
        client.send(framing.frame(&content));
        let reply = client.reply().expect(201);
        check_new(&mut client, folder.path(), &reply, &content);
    }
    // Without a body there is nothing to ask for, and no room is needed.
    let nothing = client.upload("PUT", "/up/c", "Expect: 100-continue\r\n", Framing::Length, b"").expect(201);
    check_new(&mut client, folder.path(), &nothing, b"");
    // Where the length is not known, the refusal comes when it is: 100 first.
    client.send("PUT /up/d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.head().status, 100);
    client.send("1\r\nx\r\n0\r\n\r\n");
    client.reply().refuses(507, "STORAGE_FULL");
    // HTTP/1.0 knows no interim reply.
    client.send("PUT /up/d HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.reply().expect(201).head.minor_version, 1);
    assert_eq!(names_in(folder.path()), ["a", "b", "c", "d"]);
    server.stop();
}

/// The name that a file gets, or the status and the code of the refusal.
type Name = Result<&'static str, (u16, &'static str)>;

/// A name in a path, and how it is stored, or the reason why not.
#[rustfmt::skip]
const NAMES: [(&str, Name); 29] = [
    ("film.mp4", Ok("film.mp4")),
    ("a%20b;%20c'd%22e&f.mp4", Ok("a b; c'd\"e&f.mp4")),
    ("%F0%9F%8E%AC.mp4", Ok("\u{1f3ac}.mp4")),
    ("%E4%BD%A0%E5%A5%BD.txt", Ok("\u{4f60}\u{597d}.txt")),
    ("%25%32%65%25%32%65", Ok("%2e%2e")),
    ("a..b", Ok("a..b")),
    ("-rf", Ok("-rf")),
    ("trailing.", Ok("trailing.")),
    ("C%3A%5CUsers%5Cme%5Cwindows.mp4", Ok("windows.mp4")),
    ("..%5C..%5Cup.mp4", Ok("up.mp4")),
    ("%5C%5Chost%5Cshare%5Cunc.mp4", Ok("unc.mp4")),
    (".", Err((405, "METHOD"))),
    ("./", Err((405, "METHOD"))),
    ("%2e", Err((405, "METHOD"))),
    ("a%2Fb", Err((400, "PATH"))),
    ("..%2Fb", Err((400, "PATH"))),
    ("a%00.mp4", Err((400, "PATH"))),
    ("a%0Ab", Err((400, "PATH"))),
    ("%1b%5B2J", Err((400, "PATH"))),
    ("a%7F", Err((400, "PATH"))),
    ("a%C2%85", Err((400, "NAME"))),
    ("a%zz", Err((400, "PATH"))),
    ("a%FF", Err((400, "NAME"))),
    ("holiday-%E2%80%AE4pm.exe", Err((400, "NAME"))),
    (".htaccess", Err((400, "NAME"))),
    ("...", Err((400, "NAME"))),
    ("a%5C", Err((400, "NAME"))),
    ("a%5C..", Err((400, "NAME"))),
    ("a/", Err((400, "NAME"))),
];

#[test]
fn u3_names_are_one_component_or_refused() {
    let folder = Fixture::new();
    let server = serve(&folder, "");
    let mut client = server.connect();
    let long = ["a".repeat(255), "a".repeat(256), "a".repeat(5000), "%F0%9F%8E%AC".repeat(64)];
    let too_long = long[1..].iter().map(|name| (&name[..], Err((400, "NAME"))));
    let longest = [(&long[0][..], Ok(&long[0][..]))];
    // These are another route's, or no path at all.
    for asked in ["..", "%2e%2E", "../up.mp4", "a/../../up.mp4"] {
        assert_eq!(client.put(&format!("/up/{asked}"), b"content").status(), 400, "{asked}");
    }
    for (asked, expected) in NAMES.into_iter().chain(longest).chain(too_long) {
        let reply = client.put(&format!("/up/{asked}"), b"content");
        match expected {
            Ok(name) => {
                assert_eq!(check_new(&mut client, folder.path(), &reply.expect(201), b"content"), name);
                assert_eq!(names_in(folder.path()), [name]);
                fs::remove_file(folder.at(name)).expect("what was stored");
            }
            Err((status, code)) => {
                drop(reply.refuses(status, code));
                assert_eq!(names_in(folder.path()), [""; 0], "{asked}");
            }
        }
    }
    server.stop();
}

#[test]
fn u3_only_names_that_fit_a_pattern_are_taken() {
    let folder = Fixture::new();
    let server = serve(&folder, "name_patterns = [\"*.mp4\", \"clip-*\"]\non_conflict = \"rename\"");
    let mut client = server.connect();
    for name in ["film.mp4", "clip-1", "a/../clip-2.html"] {
        client.put(&format!("/up/{name}"), b"x").expect(201);
    }
    for name in ["film.mp4.html", "film.MP4", "film", "Xclip-1", "clip"] {
        client.put(&format!("/up/{name}"), b"x").refuses(403, "NAME_NOT_ALLOWED");
    }
    // A name that the server makes is no choice of the client's.
    client.upload("POST", "/up/", "", Framing::Length, b"x").expect(201);
    assert_eq!(names_in(folder.path()).len(), 4);
    server.stop();
}

/// As long as it takes for a file to be told by its bytes, and longer than one upload buffer.
fn padded(start: &[u8], len: usize) -> Vec<u8> {
    [start, &bytes_at(0, len - start.len())].concat()
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
const HTML: &[u8] = b"<!doctype html><script>alert(1)</script>";

#[test]
fn u3_types_are_told_by_the_bytes() {
    let folder = Fixture::new();
    let server = serve(&folder, "types = [\"image/*\"]");
    for framing in FRAMINGS {
        for len in [60, 4095, 4096, 4097, 100_000] {
            let put = |target: &str, content: &[u8]| server.connect().upload("PUT", target, "", framing, content);
            for content in [padded(HTML, len), bytes_at(0, len), padded(b"  \r\n<!DOCTYPE HTML>", len)] {
                put("/up/picture.png", &content).refuses(415, "TYPE_NOT_ALLOWED");
                assert_eq!(names_in(folder.path()), [""; 0]);
            }
            // Bytes of a picture under a name that makes a page of it are none: it is served by its name.
            for name in ["page.html", "page.HTM", "page.xhtml", "script.js", "film.mp4"] {
                put(&format!("/up/{name}"), &padded(PNG, len)).refuses(415, "TYPE_NOT_ALLOWED");
                assert_eq!(names_in(folder.path()), [""; 0]);
            }
            for name in ["picture.png", "picture"] {
                let reply = put(&format!("/up/{name}"), &padded(PNG, len)).expect(201);
                assert_eq!(reply.files()[0]["type"], "image/png");
                fs::remove_file(folder.at(name)).expect("what was stored");
            }
        }
        server.connect().upload("PUT", "/up/empty.png", "", framing, b"").refuses(415, "TYPE_NOT_ALLOWED");
    }
    assert_eq!(names_in(folder.path()), [""; 0]);
    server.stop();
}

#[test]
fn u2_a_stored_file_is_deleted_where_that_is_allowed() {
    let folder = Fixture::with(&[("a.bin", 10), ("sub/b.bin", 10)]);
    let server = serve(&folder, "delete = true\nname_patterns = [\"*.bin\", \"sub\"]");
    let mut client = server.connect();
    fs::write(folder.at("secret.txt"), "kept").expect("a file");
    client.request("DELETE", "/up/a.bin", "").expect(204);
    client.request("DELETE", "/up/sub/b.bin", "").expect(204);
    for (target, status, code) in [
        ("/up/a.bin", 404, "NO_FILE"),
        ("/up/sub", 409, "NAME_TAKEN"),
        ("/up/secret.txt", 403, "NAME_NOT_ALLOWED"),
        ("/up/", 405, "METHOD"),
        ("/up/nowhere/a.bin", 404, "NO_DIRECTORY"),
    ] {
        client.request("DELETE", target, "").refuses(status, code);
    }
    assert_eq!(names_in(folder.path()), ["secret.txt"]);
    let allow = |reply: Reply| reply.field("Allow").map(str::to_owned);
    assert_eq!(
        allow(client.request("OPTIONS", "/up/a.bin", "").expect(200)).as_deref(),
        Some("PUT, POST, DELETE, OPTIONS")
    );
    server.stop();

    let server = serve(&folder, "");
    let mut client = server.connect();
    client.put("/up/a.bin", b"x").expect(201);
    let refused = client.request("DELETE", "/up/a.bin", "").refuses(405, "METHOD");
    assert_eq!(allow(refused).as_deref(), Some("PUT, POST, OPTIONS"));
    server.stop();
}

#[test]
fn u2_directories_have_to_be_there_and_to_stay_beneath() {
    let (folder, outside) = (Fixture::with(&[("sub/deep/x", 1), (".hidden/x", 1)]), Fixture::with(&[("target", 1)]));
    symlink(outside.path(), folder.at("out")).expect("a link");
    symlink("sub", folder.at("in")).expect("a link");
    symlink(outside.at("target"), folder.at("file")).expect("a link");
    symlink("nowhere", folder.at("dangling")).expect("a link");
    symlink("loop", folder.at("loop")).expect("a link");
    for on_conflict in ["reject", "rename", "replace"] {
        let server = serve(&folder, &format!("on_conflict = \"{on_conflict}\"\ndelete = true"));
        let mut client = server.connect();
        for target in ["/up/sub/a", "/up/sub/deep/a", "/up/in/b", "/up//sub//c", "/up/sub/./x/../d"] {
            let reply = client.put(target, on_conflict.as_bytes());
            if on_conflict != "reject" || reply.status() != 409 {
                assert!(matches!(reply.status(), 200 | 201), "{target}: {}", reply.text());
                check_stored(folder.path(), &reply.files()[0], on_conflict.as_bytes());
            }
        }
        for target in [
            "/up/nowhere/a",
            "/up/sub/x/a",
            "/up/out/a",
            "/up/out/target/a",
            "/up/dangling/a",
            "/up/loop/a",
            "/up/.hidden/a",
            "/up/sub/.uploads/a",
        ] {
            client.put(target, b"x").refuses(404, "NO_DIRECTORY");
            client.request("DELETE", target, "").refuses(404, "NO_DIRECTORY");
        }
        for target in ["/up/.uploads", "/up/%2euploads", "/up/.hidden", "/up/.."] {
            assert_eq!(client.put(target, b"x").status(), 400, "{target}");
            assert_eq!(client.request("DELETE", target, "").status(), 400, "{target}");
        }
        client.get("/.uploads/", "").expect(404);
        client.get("/.uploads", "").expect(404);
        // What is not a file of this folder is neither replaced nor followed nor deleted.
        for target in ["/up/file", "/up/loop", "/up/sub"] {
            let reply = client.put(target, b"x");
            if on_conflict == "rename" {
                assert_eq!(reply.expect(201).field("Location"), Some(&*format!("{}-2", &target[3..])));
            } else {
                reply.refuses(409, "NAME_TAKEN");
            }
            client.request("DELETE", target, "").refuses(409, "NAME_TAKEN");
        }
        server.stop();
    }
    assert_eq!(names_in(outside.path()), ["target"]);
    assert_eq!(fs::read(outside.at("target")).expect("it is there"), bytes_at(0, 1));
    assert!(fs::symlink_metadata(folder.at("file")).expect("it is there").is_symlink());
}

#[test]
fn u1_a_quota_may_be_full_and_not_more() {
    for framing in FRAMINGS {
        let folder = Fixture::with(&[("old", 1000), ("sub/old", 500)]);
        let server = serve(&folder, "quota = \"10000B\"\ndelete = true\non_conflict = \"replace\"");
        let mut client = server.connect();
        let mut put = |target: &str, len: usize| {
            let reply = client.upload("PUT", target, "", framing, &bytes_at(0, len));
            if reply.head.closes() {
                client = server.connect();
            }
            reply
        };
        put("/up/a", 8501).refuses(507, "STORAGE_FULL");
        put("/up/a", 8500).expect(201);
        put("/up/b", 1).refuses(507, "STORAGE_FULL");
        put("/up/b", 0).expect(201);
        put("/up/a", 1).refuses(507, "STORAGE_FULL");
        let mut other = server.connect();
        other.request("DELETE", "/up/sub/old", "").expect(204);
        put("/up/c", 501).refuses(507, "STORAGE_FULL");
        put("/up/c", 500).expect(201);
        other.request("DELETE", "/up/a", "").expect(204);
        // What takes the place of another file gives the other's room back.
        for _ in 0..5 {
            put("/up/d", 4250);
            put("/up/d", 4250).expect(200);
        }
        put("/up/e", 4251).refuses(507, "STORAGE_FULL");
        put("/up/e", 4250).expect(201);
        assert_eq!(names_in(folder.path()), ["b", "c", "d", "e", "old"]);
        server.stop();
    }
}

#[test]
fn u2_the_room_of_an_upload_that_breaks_off_comes_back() {
    let content = bytes_at(0, 1 << 20);
    for framing in [Framing::Length, Framing::Chunks(1000)] {
        let folder = Fixture::new();
        let server = serve(&folder, "quota = \"1MiB\"");
        let request = framing.request("PUT", "/up/a", "", &content);
        for _ in 0..3 {
            let mut broken = server.connect();
            broken.send(&request[..900_000]);
            eventually(PATIENCE, || server.drafts(folder.path()).iter().any(|len| *len > 800_000));
            server.connect().upload("PUT", "/up/b", "", framing, &content[..500_000]).refuses(507, "STORAGE_FULL");
            broken.reset();
            server.expect_rest(usize::MAX);
        }
        server.connect().upload("PUT", "/up/a", "", framing, &content).expect(201);
        assert_eq!(names_in(folder.path()), ["a"]);
        server.stop();
    }
}

#[test]
fn u1_a_file_may_have_its_bound_and_not_more() {
    let folder = Fixture::new();
    for bound in [0, 1, 65_536, 100_000, 131_072] {
        let server = serve(&folder, &format!("file_len = {bound}\non_conflict = \"replace\""));
        for framing in [Framing::Length, Framing::Chunks(100_000), Framing::Chunks(7)] {
            let put = |len: usize| server.connect().upload("PUT", "/up/a", "", framing, &bytes_at(0, len));
            let reply = put(bound);
            assert!(matches!(reply.status(), 200 | 201), "{}", reply.text());
            check_stored(folder.path(), &reply.files()[0], &bytes_at(0, bound));
            for over in [1, 2, 1000, 1 << 20] {
                put(bound + over).refuses(413, "LIMIT_FILE_SIZE");
                assert_eq!(fs::metadata(folder.at("a")).expect("the last whole one").len(), bound as u64);
            }
        }
        assert_eq!(names_in(folder.path()), ["a"]);
        server.expect_rest(usize::MAX);
        server.stop();
    }
}

/// The ways in which a file goes up to `/up/`, and a request of each that makes `name` of this content.
fn ways(name: &str, content: &[u8]) -> [(&'static str, Vec<u8>); 3] {
    let target = format!("/up/{name}");
    let form = Form::new().field("title", "a film").file("file", name, content);
    [
        ("length", Framing::Length.request("PUT", &target, "", content)),
        ("chunks", Framing::Chunks(100_000).request("PUT", &target, "", content)),
        ("form", Framing::Length.request("POST", "/up/", &form.content_type(), &form.closed())),
    ]
}

#[test]
fn u2_nothing_is_left_of_a_client_that_is_gone() {
    let folder = Fixture::with(&[("clip.mp4", 1000)]);
    let server = serve(&folder, "names = \"client\"");
    let mut others = server.connect();
    others.get("/clip.mp4", "").expect(200);
    server.connect().put("/up/warm.bin", b"x").expect(201);
    // The one that others keep is not among them.
    let descriptors = server.descriptors() - 1;
    let content = bytes_at(0, 5_000_000);
    for (way, request) in ways("gone.bin", &content) {
        for tenth in 0..10 {
            let cut = 200 + request.len() * tenth / 10;
            let mut closes = server.connect();
            closes.send(&request[..cut]);
            drop(closes);
            let mut resets = server.connect();
            resets.send(&request[..cut]);
            resets.reset();
            assert_eq!(others.get("/clip.mp4", "").expect(200).body, bytes_at(0, 1000));
            eventually(PATIENCE, || server.held().transfers == 0 && server.drafts(folder.path()).is_empty());
            assert_eq!(names_in(folder.path()), ["clip.mp4", "warm.bin"], "{way}, {tenth} tenths");
        }
        // One that says nothing more, and listens, is told.
        let mut half = server.connect();
        half.send(&request[..1_000_000]);
        half.finish();
        half.reply().refuses(400, "BROKEN_BODY");
        half.expect_close();
    }
    drop(others);
    // Whoever comes now comes behind all of them, and is served.
    for (_, request) in ways("whole.bin", &content) {
        let mut client = server.connect();
        client.send(request);
        check_stored(folder.path(), &client.reply().expect(201).files()[0], &content);
        fs::remove_file(folder.at("whole.bin")).expect("what was stored");
    }
    server.expect_rest(descriptors);
    assert_eq!(names_in(folder.path()), ["clip.mp4", "warm.bin"]);
    server.stop();
}

#[test]
fn u2_a_full_disk_is_507_and_leaves_nothing() {
    let folder = Fixture::new();
    let launch = Launch::routes().config(&upload_routes(folder.path(), "names = \"client\"\ndelete = true"));
    let Some(launch) = launch.small_disk(folder.path(), 1 << 20) else {
        return not_shown("this machine lets nobody mount a small disk");
    };
    let server = launch.start();
    let disk = server.sees(folder.path());
    let free = || statvfs(&disk).expect("a file system").blocks_free();
    let (all_free, descriptors) = (free(), server.descriptors());
    for round in 0..3 {
        for len in [1_048_577, 3_000_000] {
            for (way, request) in ways("large.bin", &bytes_at(0, len)) {
                let mut client = server.connect();
                // It closes when it has told why, and may do so while this is still sent.
                let _ = client.try_send(&request);
                client.reply().refuses(507, "STORAGE_FULL");
                drop(client);
                server.expect_rest(descriptors);
                assert_eq!(names_in(&disk), [""; 0], "{way}, {len} bytes, round {round}");
                // A file without a name goes behind the reply.
                eventually(PATIENCE, || free() == all_free);
            }
        }
        for (_, request) in ways("small.bin", &bytes_at(0, 900_000)) {
            let mut client = server.connect();
            client.send(request);
            check_stored(&disk, &client.reply().expect(201).files()[0], &bytes_at(0, 900_000));
            // With that, there is no room for another.
            let mut other = server.connect();
            let _ = other.try_send(&ways("other.bin", &bytes_at(0, 300_000))[round].1);
            other.reply().refuses(507, "STORAGE_FULL");
            client.request("DELETE", "/up/small.bin", "").expect(204);
            eventually(PATIENCE, || free() == all_free);
        }
        server.expect_rest(descriptors);
    }
    server.stop();
}

#[test]
fn promise1_many_uploads_at_once_take_a_high_water_mark_each() {
    const CLIENTS: usize = 32;
    const MARK: u64 = 64 << 10;
    // What a request takes beside, as the ceiling counts it: its task, its head, a digest, a reply, and what came of the body
    // in the head's receive buffer.
    const REQUEST: u64 = (8 + 16) << 10;
    allow_descriptors(1024);
    let folder = Fixture::new();
    let server = Launch::routes()
        .limits("high_water_mark = \"64KiB\"\nreceive_buffers = 32")
        .config(&upload_routes(folder.path(), "on_conflict = \"rename\"\nnames = \"client\""))
        .start();
    // All of them have sent half before any sends the rest.
    let at_once = |requests: &[(&str, Vec<u8>); 3], way: usize| {
        let (half_way, address) = (Barrier::new(CLIENTS), server.address());
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let request = &requests[way].1;
                    let mut client = Client::connect(address);
                    client.send(&request[..request.len() / 2]);
                    half_way.wait();
                    client.send(&request[request.len() / 2..]);
                    client.reply().expect(201);
                });
            }
        });
        server.expect_rest(usize::MAX);
    };
    // Receive buffers, stacks of the kernel's workers and whatever else is taken once is taken now; no upload buffer is.
    (0..3).for_each(|way| at_once(&ways("small", &bytes_at(0, 1000)), way));
    let before = server.memory("VmRSS");
    let large = ways("large", &bytes_at(0, 8 << 20));
    for way in 0..3 {
        at_once(&large, way);
        let grown = server.memory("VmHWM").saturating_sub(before);
        assert!(grown <= CLIENTS as u64 * (MARK + REQUEST), "{grown} bytes more at the peak, way {way}");
    }
    server.stop();
}
