//! Forms: what becomes of their parts, every bound of theirs, and that a form is stored whole or not at all. `u…` names a rule.

use std::fs;

use crate::support::{
    Fixture, Form, Framing, Launch, PATIENCE, Server, bytes_at, check_stored, eventually, names_in, upload_routes,
};

const FRAMINGS: [Framing; 3] = [Framing::Length, Framing::Chunks(1000), Framing::Chunks(1)];

/// A server that takes forms into this folder under the names that clients give, within these limits and by these keys.
#[track_caller]
fn serve(folder: &Fixture, limits: &str, keys: &str) -> Server {
    Launch::routes()
        .limits(limits)
        .config(&upload_routes(folder.path(), &format!("names = \"client\"\n{keys}")))
        .start()
}

#[test]
fn u1_fields_and_files_come_in_any_number_and_order() {
    let folder = Fixture::new();
    let server = serve(&folder, "", "");
    let (film, clip) = (bytes_at(1, 300_000), bytes_at(2, 4097));
    for (number, framing) in FRAMINGS.into_iter().enumerate() {
        let name = |name: &str| format!("{number}-{name}");
        // What looks like a boundary and is none.
        let lines = format!("one\r\n--{}x\r\n--\r\n\r\n", &Form::BOUNDARY[..10]);
        let form = Form::new()
            .field("title", "Ferien in Graub\u{fc}nden")
            .file("file", &name("film.mp4"), &film)
            .field("title", "")
            .file("file", &name("clip.mp4"), &clip)
            .field("lines", &lines)
            .file("none", "", "")
            .field("bytes", b"a\xff\xfeb")
            .file("empty", &name("empty"), "")
            .field("a b;\u{1f3ac}", "=");
        let mut client = server.connect();
        let reply = client.submit(&form, framing).expect(201);
        let (files, fields) = (reply.files(), reply.fields());
        let contents = [("file", "film.mp4", &film[..]), ("file", "clip.mp4", &clip), ("empty", "empty", b"")];
        assert_eq!(files.len(), contents.len(), "{}", reply.text());
        for (file, (field, file_name, content)) in files.iter().zip(contents) {
            assert_eq!(check_stored(folder.path(), file, content), name(file_name));
            assert_eq!((&file["field"], &file["file_name"]), (&field.into(), &name(file_name).into()));
            assert_eq!(file["url"], format!("/{}", name(file_name)));
            assert!(client.get(file["url"].as_str().expect("a URL"), "").expect(200).body == content);
        }
        let expected = [
            ("title", "Ferien in Graub\u{fc}nden"),
            ("title", ""),
            ("lines", &lines),
            ("bytes", "a\u{fffd}\u{fffd}b"),
            ("a b;\u{1f3ac}", "="),
        ];
        assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        // A form of nothing is one, too.
        let nothing = client.upload("POST", "/up", &form.content_type(), framing, &Form::new().closed()).expect(201);
        assert_eq!((nothing.files().len(), nothing.fields().len()), (0, 0));
    }
    server.expect_rest(usize::MAX);
    assert_eq!(names_in(folder.path()).len(), 9);
    server.stop();
}

/// Bounds that are soon reached.
const LIMITS: &str = "form_field_name_len = \"8B\"\nform_field_len = \"50B\"\nform_fields = 3\nform_files = 2\nform_parts = 4\n\
    form_header_pairs = 9\nform_part_head_len = \"300B\"";
const KEYS: &str = "file_len = \"2000B\"\ntotal_len = \"3500B\"\nfile_fields = [\"file\"]\non_conflict = \"replace\"";

/// A part whose head, with its empty line, has this length.
fn padded_head(len: usize) -> String {
    let (plain, pad) = ("Content-Disposition: form-data; name=\"a\"\r\n", "X: ");
    format!("{plain}{pad}{}\r\n", "x".repeat(len - plain.len() - pad.len() - 4))
}

/// So many text fields, and then so many files.
fn parts(fields: usize, files: usize) -> Form {
    let form = (0..fields).fold(Form::new(), |form, _| form.field("a", "b"));
    (0..files).fold(form, |form, number| form.file("file", &format!("{number}"), "x"))
}

/// So many header fields in all, in a part or two.
fn pairs(count: usize) -> Form {
    let part = |more: usize| format!("Content-Disposition: form-data; name=\"a\"\r\n{}", "X: y\r\n".repeat(more));
    Form::new().part(&part(3), "1").part(&part(count - 5), "2")
}

#[test]
fn u1_every_bound_can_be_reached_and_not_overrun() {
    let folder = Fixture::new();
    let server = serve(&folder, LIMITS, KEYS);
    let file = |len: usize| Form::new().file("file", "a", bytes_at(0, len));
    let two = |len: usize| file(2000).field("a", "b").file("file", "b", bytes_at(0, len));
    let cases = [
        ("LIMIT_FIELD_KEY", Form::new().field(&"n".repeat(8), "v"), Form::new().field(&"n".repeat(9), "v")),
        ("LIMIT_FIELD_VALUE", Form::new().field("a", "v".repeat(50)), Form::new().field("a", "v".repeat(51))),
        ("LIMIT_FIELD_COUNT", parts(3, 1), parts(4, 0)),
        ("LIMIT_FILE_COUNT", parts(2, 2), parts(1, 3)),
        ("LIMIT_PART_COUNT", parts(2, 2), parts(3, 2)),
        ("LIMIT_FILE_SIZE", file(2000), file(2001)),
        ("LIMIT_TOTAL_SIZE", two(1499), two(1500)),
        ("LIMIT_HEADER_PAIRS", pairs(9), pairs(10)),
        ("LIMIT_PART_HEAD", Form::new().part(&padded_head(300), "v"), Form::new().part(&padded_head(301), "v")),
        ("LIMIT_UNEXPECTED_FILE", file(1), file(1).file("other", "b", "x")),
    ];
    for framing in FRAMINGS {
        for (code, within, over) in &cases {
            server.connect().submit(within, framing).expect(201);
            for name in names_in(folder.path()) {
                fs::remove_file(folder.at(&name)).expect("what was stored");
            }
            server.connect().submit(over, framing).refuses(413, code);
            // Nor of the files before the one that is too much (U2).
            assert_eq!(names_in(folder.path()), [""; 0], "{code} {framing:?}");
        }
    }
    server.expect_rest(usize::MAX);
    server.stop();
}

#[test]
fn u1_the_head_of_a_part_has_a_bound_however_it_comes() {
    let folder = Fixture::new();
    let server = serve(&folder, "", "");
    let megabyte = Form::new().part(&padded_head(1 << 20), "v");
    let many = Form::new().part(&"X: y\r\n".repeat(200_000), "v");
    for framing in [Framing::Length, Framing::Chunks(100_000), Framing::Chunks(500)] {
        server.connect().submit(&megabyte, framing).refuses(413, "LIMIT_PART_HEAD");
        server.connect().submit(&many, framing).refuses(413, "LIMIT_HEADER_PAIRS");
    }
    server.expect_rest(usize::MAX);
    server.stop();
}

#[test]
fn u2_what_is_no_form_is_400_and_stores_nothing() {
    let folder = Fixture::new();
    let server = serve(&folder, "", "");
    let form = Form::new().field("title", "x").file("file", "a.bin", bytes_at(0, 100_000));
    let (open, closed) = (form.open(), form.closed());
    let disposition = "Content-Disposition: form-data; name=\"a\"\r\n";
    let part = |head: &str| form.clone().part(head, "v").closed();
    let behind = |text: &str| [&open, text.as_bytes()].concat();
    let dashes = format!("--{}", Form::BOUNDARY);
    let cases = [
        ("UNCLOSED", open.clone()),
        ("UNCLOSED", behind(&dashes)),
        ("UNCLOSED", behind(&format!("{dashes}-"))),
        ("UNCLOSED", behind(&format!("{dashes}\r\n{disposition}"))),
        ("UNCLOSED", closed[..closed.len() - 10].to_vec()),
        ("UNCLOSED", closed[..5000].to_vec()),
        ("MALFORMED_DELIMITER", behind(&format!("{dashes}x\r\n{disposition}\r\n"))),
        ("MISSING_BOUNDARY", Vec::new()),
        ("MISSING_BOUNDARY", b"a=b&c=d".to_vec()),
        ("MISSING_BOUNDARY", bytes_at(0, 100_000)),
        ("MISSING_BOUNDARY", String::from_utf8_lossy(&closed[..200]).replace(Form::BOUNDARY, "another").into_bytes()),
        ("MISSING_FIELD_NAME", part("Content-Disposition: form-data\r\n")),
        ("MISSING_FIELD_NAME", part("Content-Disposition: form-data; filename=\"b\"\r\n")),
        ("MISSING_FIELD_NAME", part("Content-Type: text/plain\r\n")),
        ("MALFORMED_PART_HEAD", part(&disposition.repeat(2))),
        ("MALFORMED_PART_HEAD", part(&format!("{disposition}X y\r\n"))),
        ("MALFORMED_PART_HEAD", part(&format!("{disposition}X: y\n"))),
        ("UNSUPPORTED_TRANSFER_ENCODING", part(&format!("{disposition}Content-Transfer-Encoding: base64\r\n"))),
        ("NAME", form.clone().file("file", "", "bytes").closed()),
    ];
    for framing in [Framing::Length, Framing::Chunks(1000), Framing::Chunks(7)] {
        for (code, body) in &cases {
            let reply = server.connect().upload("POST", "/up/", &form.content_type(), framing, body);
            reply.refuses(400, code);
            assert_eq!(names_in(folder.path()), [""; 0], "{code}");
        }
    }
    let long = format!("multipart/form-data; boundary={}", "x".repeat(71));
    for (content_type, status, code) in [
        ("multipart/form-data", 400, "MISSING_BOUNDARY"),
        ("multipart/form-data; charset=utf-8", 400, "MISSING_BOUNDARY"),
        ("multipart/form-data; boundary=", 400, "MALFORMED_BOUNDARY"),
        ("multipart/form-data; boundary=a; boundary=b", 400, "MALFORMED_CONTENT_TYPE"),
        (&long, 400, "MALFORMED_BOUNDARY"),
    ] {
        let fields = format!("Content-Type: {content_type}\r\n");
        server.connect().upload("POST", "/up/", &fields, Framing::Length, &closed).refuses(status, code);
    }
    assert_eq!(names_in(folder.path()), [""; 0]);
    server.expect_rest(usize::MAX);
    server.stop();
}

#[test]
fn u2_a_length_that_lies_is_no_way_to_more_or_less() {
    let folder = Fixture::with(&[("clip.mp4", 1000)]);
    let server = serve(&folder, "", "");
    let form = Form::new().file("file", "a.bin", bytes_at(0, 200_000));
    let body = form.closed();
    let send = |len: usize, sent: &[u8]| {
        let mut client = server.connect();
        let content_type = form.content_type();
        client.send(format!("POST /up/ HTTP/1.1\r\nHost: a\r\n{content_type}Content-Length: {len}\r\n\r\n"));
        client.send(sent);
        client
    };
    // It promises more than it sends, of a form that is not whole.
    for more in [1, 1000, 1 << 30] {
        let mut client = send(body.len() + more, &form.open());
        client.finish();
        client.reply().refuses(400, "BROKEN_BODY");
        client.expect_close();
    }
    // It promises less than it sends: the rest belongs to no form, and is a request or none.
    for less in [1, 5, 100, 100_000] {
        let mut client = send(body.len() - less, &body);
        let first = client.reply();
        if less <= 2 {
            // The line end behind the last boundary means nothing.
            first.expect(201);
            fs::remove_file(folder.at("a.bin")).expect("what was stored");
        } else {
            first.refuses(400, "UNCLOSED");
        }
        client.finish_if_open();
        let (rest, _) = client.rest_of_any_end();
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 400 "), "{less}: {}", String::from_utf8_lossy(&rest));
    }
    // What follows the form within its length is its epilogue, and the next request comes behind that.
    let mut client = send(body.len() + 3000, &[&body[..], &[b'x'; 3000]].concat());
    client.reply().expect(201);
    assert_eq!(client.get("/clip.mp4", "").expect(200).body, bytes_at(0, 1000));
    drop(client);
    server.expect_rest(usize::MAX);
    assert_eq!(names_in(folder.path()), ["a.bin", "clip.mp4"]);
    server.stop();
}

#[test]
fn u2_a_conflict_of_the_last_file_takes_the_earlier_ones_back() {
    for (policy, status) in [("reject", 409), ("rename", 201), ("replace", 200)] {
        let folder = Fixture::with(&[("taken.bin", 10)]);
        fs::create_dir(folder.at("directory")).expect("a directory");
        let server = serve(&folder, "", &format!("on_conflict = \"{policy}\""));
        let form = |last: &str| {
            let form = Form::new().file("a", "first.bin", "1").file("b", "second.bin", "2");
            form.field("title", "x").file("c", last, bytes_at(3, 200_000))
        };
        let reply = server.connect().submit(&form("taken.bin"), Framing::Length);
        if status == 409 {
            reply.refuses(409, "NAME_TAKEN");
            assert_eq!(names_in(folder.path()), ["taken.bin"]);
            assert_eq!(fs::read(folder.at("taken.bin")).expect("it is there"), bytes_at(0, 10));
            // The same name twice in one form is a conflict, too.
            server.connect().submit(&form("first.bin"), Framing::Length).refuses(409, "NAME_TAKEN");
            server.connect().submit(&form("directory"), Framing::Length).refuses(409, "NAME_TAKEN");
            assert_eq!(names_in(folder.path()), ["taken.bin"]);
        } else {
            let files = reply.expect(201).files();
            let last = check_stored(folder.path(), &files[2], &bytes_at(3, 200_000));
            assert_eq!(last, if policy == "rename" { "taken-2.bin" } else { "taken.bin" });
        }
        server.expect_rest(usize::MAX);
        server.stop();
    }
}

#[test]
fn u1_what_a_form_replaces_gives_its_room_back() {
    let folder = Fixture::new();
    let server = serve(&folder, "", "on_conflict = \"replace\"\nquota = \"10000B\"");
    let form = |len: usize| Form::new().file("a", "a.bin", bytes_at(0, len)).file("b", "b.bin", bytes_at(1, len));
    // Old and new lie side by side until the new ones are whole.
    for _ in 0..8 {
        server.connect().submit(&form(2500), Framing::Length).expect(201);
    }
    server.connect().submit(&form(2501), Framing::Length).refuses(507, "STORAGE_FULL");
    server.connect().submit(&form(2500), Framing::Chunks(100)).expect(201);
    assert_eq!(names_in(folder.path()), ["a.bin", "b.bin"]);
    server.stop();
}

#[test]
fn u1_a_form_may_fill_a_quota_and_no_more() {
    let folder = Fixture::new();
    let server = serve(&folder, "", "quota = \"10000B\"");
    let form = |len: usize| Form::new().file("a", "a.bin", bytes_at(0, 6000)).file("b", "b.bin", bytes_at(1, len));
    for framing in FRAMINGS {
        server.connect().submit(&form(4001), framing).refuses(507, "STORAGE_FULL");
        assert_eq!(names_in(folder.path()), [""; 0]);
    }
    // Nothing but files takes room.
    server.connect().submit(&form(4000).field("title", "x".repeat(20_000)), Framing::Length).expect(201);
    server.connect().submit(&Form::new().file("c", "c.bin", "x"), Framing::Length).refuses(507, "STORAGE_FULL");
    server.connect().submit(&Form::new().file("c", "c.bin", ""), Framing::Length).expect(201);
    server.stop();
}

#[test]
fn u3_a_generated_name_keeps_no_extension_that_lies() {
    let folder = Fixture::new();
    let server = Launch::routes().config(&upload_routes(folder.path(), "")).start();
    let png = [&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..], &bytes_at(0, 100)].concat();
    let html = b"<!doctype html><script>alert(1)</script>".to_vec();
    for (file_name, content, extension) in [
        ("picture.png", &png, Some("png")),
        ("picture.PNG", &png, Some("png")),
        ("page.html", &png, None),
        ("page.svg", &png, None),
        ("picture.png", &html, None),
        ("page.html", &bytes_at(0, 100), None),
        ("script.js", &bytes_at(0, 100), None),
        ("run.sh;", &bytes_at(0, 100), None),
        ("a.b/c", &bytes_at(0, 100), None),
        ("../../up.mkv", &bytes_at(0, 100), Some("mkv")),
        ("no extension", &bytes_at(0, 100), None),
        ("long.abcdefghijk", &bytes_at(0, 100), None),
    ] {
        let form = Form::new().file("file", file_name, content);
        let reply = server.connect().submit(&form, Framing::Length).expect(201);
        let name = check_stored(folder.path(), &reply.files()[0], content);
        let (stem, kept) = name.split_once('.').map_or((&name[..], None), |(stem, kept)| (stem, Some(kept)));
        assert!(stem.len() == 26 && stem.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{name}");
        assert_eq!(kept, extension, "{file_name}");
    }
    server.stop();
}

/// What a form calls a file, and how that is stored, or the reason why not.
#[rustfmt::skip]
const NAMES: [(&str, Result<&str, &str>); 22] = [
    ("film.mp4", Ok("film.mp4")),
    ("d\u{ed}a %22\u{f1}%22 \u{65e5}\u{672c}.mp4", Ok("d\u{ed}a \"\u{f1}\" \u{65e5}\u{672c}.mp4")),
    ("\u{1f3ac}.mp4", Ok("\u{1f3ac}.mp4")),
    ("C:\\Users\\me\\windows.mp4", Ok("windows.mp4")),
    ("../../etc/unix.mp4", Ok("unix.mp4")),
    ("/etc/absolute", Ok("absolute")),
    ("%2e%2e%2fkept", Ok("%2e%2e%2fkept")),
    ("a b; name=x.mp4", Ok("a b; name=x.mp4")),
    (".", Err("NAME")),
    ("..", Err("NAME")),
    ("a/..", Err("NAME")),
    ("a/", Err("NAME")),
    ("\\\\", Err("NAME")),
    (".htaccess", Err("NAME")),
    (".uploads", Err("NAME")),
    ("a%0Ab", Err("NAME")),
    ("a%0D%0AX: y", Err("NAME")),
    ("a\u{85}", Err("NAME")),
    ("holiday-\u{202e}4pm.exe", Err("NAME")),
    ("a\0b", Err("MALFORMED_PART_HEAD")),
    ("a\tb", Err("NAME")),
    ("a\u{7f}", Err("MALFORMED_PART_HEAD")),
];

#[test]
fn u3_names_of_forms_are_one_component_or_refused() {
    let folder = Fixture::new();
    let server = serve(&folder, "", "");
    let long = ["a".repeat(255), "a".repeat(256), "a".repeat(5000), format!("{}/short", "a".repeat(5000))];
    let longest =
        [(&long[0][..], Ok(&long[0][..])), (&long[1], Err("NAME")), (&long[2], Err("NAME")), (&long[3], Ok("short"))];
    for (asked, expected) in NAMES.into_iter().chain(longest) {
        let form = Form::new().file("first", "first", "1").file("file", asked, "content");
        let reply = server.connect().submit(&form, Framing::Length);
        match expected {
            Ok(name) => {
                assert_eq!(check_stored(folder.path(), &reply.expect(201).files()[1], b"content"), name);
                fs::remove_file(folder.at(name)).expect("what was stored");
                fs::remove_file(folder.at("first")).expect("what was stored");
            }
            Err(code) => drop(reply.refuses(400, code)),
        }
        assert_eq!(names_in(folder.path()), [""; 0], "{asked:?}");
    }
    // RFC 8187: the extended name wins.
    let head = "Content-Disposition: form-data; name=\"f\"; filename=\"plain\"; filename*=UTF-8''..%2F%e2%82%ac\r\n";
    let reply = server.connect().submit(&Form::new().part(head, "x"), Framing::Length).expect(201);
    assert_eq!(check_stored(folder.path(), &reply.files()[0], b"x"), "\u{20ac}");
    server.stop();
}

#[test]
fn u3_a_file_of_another_type_takes_the_whole_form_with_it() {
    let folder = Fixture::new();
    let server = serve(&folder, "", "types = [\"image/*\"]");
    let png = [&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..], &bytes_at(0, 100)].concat();
    let html = b"<!doctype html><script>alert(1)</script>";
    for content in [html.to_vec(), [&html[..], &bytes_at(0, 100_000)].concat()] {
        for framing in FRAMINGS {
            let form = Form::new().file("a", "good.png", &png).file("b", "page.png", &content);
            server.connect().submit(&form, framing).refuses(415, "TYPE_NOT_ALLOWED");
            assert_eq!(names_in(folder.path()), [""; 0]);
        }
    }
    server
        .connect()
        .submit(&Form::new().file("a", "page.html", &png), Framing::Length)
        .refuses(415, "TYPE_NOT_ALLOWED");
    server.connect().submit(&Form::new().file("a", "good.png", &png), Framing::Length).expect(201);
    assert_eq!(names_in(folder.path()), ["good.png"]);
    server.stop();
}

#[test]
fn u2_a_form_that_is_cut_anywhere_leaves_nothing() {
    let folder = Fixture::with(&[("clip.mp4", 1000)]);
    let server = serve(&folder, "", "");
    let mut others = server.connect();
    others.get("/clip.mp4", "").expect(200);
    let form = Form::new().file("a", "first.bin", bytes_at(0, 70_000)).field("title", "x").file("b", "b.bin", "y");
    for framing in [Framing::Length, Framing::Chunks(1000)] {
        let request = framing.request("POST", "/up/", &form.content_type(), &form.closed());
        // Few where there is much of the same, many about the end, and none behind the bytes that make the form whole.
        let body = request.len() - 400;
        let ends = if framing == Framing::Length { 4 } else { 5 + 4 };
        let cuts = (0..20).map(|step| step * body / 20).chain((body..request.len() - ends).step_by(17));
        for cut in cuts {
            for resets in [false, true] {
                let mut client = server.connect();
                client.send(&request[..cut]);
                if resets {
                    client.reset();
                } else {
                    drop(client);
                }
            }
            assert_eq!(others.get("/clip.mp4", "").expect(200).body, bytes_at(0, 1000));
            eventually(PATIENCE, || server.held().transfers == 0 && server.drafts(folder.path()).is_empty());
            assert_eq!(names_in(folder.path()), ["clip.mp4"], "cut at {cut} of {}", request.len());
        }
    }
    drop(others);
    // Whoever comes now comes behind all of them.
    server.connect().submit(&form, Framing::Length).expect(201);
    server.expect_rest(usize::MAX);
    assert_eq!(names_in(folder.path()), ["b.bin", "clip.mp4", "first.bin"]);
    server.stop();
}

#[test]
fn u1_forms_share_the_memory_for_their_text() {
    let folder = Fixture::new();
    let server = serve(&folder, "form_bytes = \"64KiB\"\nform_part_head_len = \"1KiB\"", "");
    let mut client = server.connect();
    client.submit(&Form::new().field("a", "x".repeat(10_000)), Framing::Length).expect(201);
    let large = Form::new().file("f", "f.bin", "x").field("a", "x".repeat(100_000));
    let reply = server.connect().submit(&large, Framing::Length).refuses(503, "BUSY");
    assert_eq!(reply.field("Retry-After"), Some("1"));
    assert_eq!(names_in(folder.path()), [""; 0]);
    // Files are not kept in memory.
    client.submit(&Form::new().file("f", "f.bin", bytes_at(0, 3_000_000)), Framing::Length).expect(201);
    client.submit(&Form::new().field("a", "x".repeat(10_000)), Framing::Length).expect(201);
    server.stop();
}
