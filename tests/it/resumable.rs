//! Resumable uploads of the IETF's draft: each sentence of U5, over raw sockets, because no client that people have is of one of
//! the versions that are answered.

use std::fs;

use serde_json::Value;

use crate::support::{
    Client, PATIENCE, Reply, Server, Uploads, bytes_at, digest_field, eventually, id_of, other_bytes_at,
};

const MIB: usize = 1 << 20;
const PARTIAL: &str = "Content-Type: application/partial-upload\r\n";
const DRAFT: &str = "Upload-Draft-Interop-Version: 9\r\n";

/// Sends a request with a body of known length.
#[track_caller]
fn send(client: &mut Client, method: &str, target: &str, fields: &str, body: &[u8]) {
    client.ask(method, target, &format!("{fields}Content-Length: {}\r\n", body.len()));
    client.send(body);
}

/// Sends one over a connection of its own and reads its reply; one that is not final fails the test.
#[track_caller]
fn ask(server: &Server, method: &str, target: &str, fields: &str, body: &[u8]) -> Reply {
    let mut client = server.connect();
    send(&mut client, method, target, fields, body);
    client.reply_to(method)
}

#[track_caller]
fn patch(server: &Server, location: &str, offset: usize, complete: &str, body: &[u8]) -> Reply {
    let fields = format!("{PARTIAL}Upload-Offset: {offset}\r\nUpload-Complete: {complete}\r\n");
    ask(server, "PATCH", location, &fields, body)
}

/// Begins an upload with these bytes, which are not all, and returns its address.
#[track_caller]
fn begin(server: &Server, target: &str, fields: &str, body: &[u8]) -> String {
    let reply = ask(server, "PUT", target, &format!("Upload-Complete: ?0\r\n{fields}"), body).expect(201);
    assert_eq!((reply.field("Upload-Complete"), offset_of(&reply)), (Some("?0"), body.len() as u64));
    let location = reply.field("Location").expect("an address").to_owned();
    assert_eq!(id_of(&location).len(), 32);
    location
}

#[track_caller]
fn head(server: &Server, location: &str) -> Reply {
    ask(server, "HEAD", location, "", b"")
}

#[track_caller]
fn offset_of(reply: &Reply) -> u64 {
    reply.field("Upload-Offset").expect("an offset").parse().expect("an offset of digits")
}

/// Fails the test unless the reply is the draft's own problem of this name.
#[track_caller]
fn check_problem(reply: &Reply, status: u16, name: &str) -> Value {
    assert_eq!((reply.status(), reply.field("Content-Type")), (status, Some("application/problem+json")));
    let problem: Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!(problem["type"], format!("https://iana.org/assignments/http-problem-types#{name}"));
    assert_eq!(problem["status"], status);
    problem
}

#[test]
fn u5_a_104_tells_the_place_and_the_limits_in_the_clients_own_version() {
    let uploads = Uploads::new();
    let server = uploads.serve("file_len = \"5000B\"\nresumable_expiry = \"1h\"");
    for version in 6..=10 {
        let mut client = server.connect();
        let fields =
            format!("Upload-Complete: ?1\r\nUpload-Draft-Interop-Version: {version}\r\nContent-Length: 1000\r\n");
        client.ask("PUT", &format!("/up/of-{version}.bin"), &fields);
        // Before a byte of it has come.
        let interim = client.head();
        assert_eq!(interim.status, 104);
        assert_eq!(interim.field("Upload-Draft-Interop-Version"), Some(&*version.to_string()));
        let location = interim.field("Location").expect("an address").to_owned();
        assert_eq!(id_of(&location).len(), 32);
        assert_eq!(interim.field("Upload-Limit"), Some("max-size=5000, max-age=3600"));
        client.send(bytes_at(0, 1000));
        let reply = client.reply().expect(201);
        assert_eq!(uploads.check_stored(&reply, 1000), format!("of-{version}.bin"));
        assert_eq!(reply.field("Location"), Some(&*location));
    }
    for version in ["5", "11", "", "9.0", "?1", "9;a=b", "99999999999999999999"] {
        let fields = format!("Upload-Complete: ?1\r\nUpload-Draft-Interop-Version: {version}\r\n");
        let reply = ask(&server, "POST", "/up", &fields, &bytes_at(0, 10)).expect(201);
        uploads.check_stored(&reply, 10);
    }
    uploads.check_stored(&ask(&server, "POST", "/up", "Upload-Complete: ?1\r\n", &bytes_at(0, 10)).expect(201), 10);
    // HTTP/1.0 knows no interim replies.
    let mut client = server.connect();
    client.send(format!(
        "PUT /up/old.bin HTTP/1.0\r\nHost: a\r\n{DRAFT}Upload-Complete: ?1\r\nContent-Length: 10\r\n\r\n"
    ));
    client.send(bytes_at(0, 10));
    uploads.check_stored(&client.reply().expect(201), 10);
    server.stop();
}

#[test]
fn u5_an_upload_in_one_go_is_answered_as_an_ordinary_one() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let plain = ask(&server, "PUT", "/up/plain.bin", "", &bytes_at(0, 1000)).expect(201);
    let resumable = ask(&server, "PUT", "/up/other.bin", "Upload-Complete: ?1\r\n", &bytes_at(0, 1000)).expect(201);
    let receipt = |reply: &Reply| -> Value {
        serde_json::from_str(&reply.text().replace("other.bin", "plain.bin")).expect("JSON")
    };
    assert_eq!(receipt(&resumable), receipt(&plain));
    assert_eq!((resumable.field("Upload-Complete"), offset_of(&resumable)), (Some("?1"), 1000));
    assert_eq!(uploads.check_stored(&resumable, 1000), "other.bin");
    // An empty one, too; and a field that means nothing is as none.
    uploads.check_stored(&ask(&server, "PUT", "/up/empty.bin", "Upload-Complete: ?1\r\n", b"").expect(201), 0);
    for value in ["1", "true", "?2", "?1;a", "?1, ?1"] {
        let reply = ask(&server, "POST", "/up", &format!("Upload-Complete: {value}\r\n"), b"abc").expect(201);
        assert_eq!((reply.field("Upload-Complete"), reply.field("Upload-Offset")), (None, None), "{value}");
    }
    server.stop();
}

#[test]
fn u5_an_upload_goes_on_with_appends() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    for (name, fields) in [("told.bin", "Upload-Length: 1000\r\n"), ("untold.bin", "")] {
        let location = begin(&server, &format!("/up/{name}"), fields, &bytes_at(0, 100));
        let part = patch(&server, &location, 100, "?0", &bytes_at(100, 300)).expect(201);
        assert_eq!((part.field("Upload-Complete"), offset_of(&part)), (Some("?0"), 400));
        assert!(!uploads.files().contains(&name.to_owned()));
        let whole = patch(&server, &location, 400, "?1", &bytes_at(400, 600)).expect(200);
        assert_eq!((whole.field("Upload-Complete"), offset_of(&whole)), (Some("?1"), 1000));
        assert_eq!(uploads.check_stored(&whole, 1000), name);
        let receipt: Value = serde_json::from_slice(&whole.body).expect("JSON");
        assert_eq!((&receipt["files"][0]["name"], &receipt["files"][0]["size"]), (&name.into(), &1000.into()));
    }
    // An end without a byte more, which is what tells it.
    let location = begin(&server, "/up/end.bin", "", &bytes_at(0, 100));
    uploads.check_stored(&patch(&server, &location, 100, "?1", b"").expect(200), 100);
    server.stop();
}

#[test]
fn u5_chunked_bodies_of_unknown_length_are_taken() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let chunked = |fields: &str, method: &str, target: &str, offset: u64, len: usize| {
        let mut client = server.connect();
        client.ask(method, target, &format!("{fields}Transfer-Encoding: chunked\r\n"));
        for at in (0..len).step_by(700) {
            let piece = (len - at).min(700);
            client.send([format!("{piece:x}\r\n").as_bytes(), &bytes_at(offset + at as u64, piece), b"\r\n"].concat());
        }
        client.send("0\r\n\r\n");
        client.reply()
    };
    let whole = chunked("Upload-Complete: ?1\r\n", "PUT", "/up/a.bin", 0, 100_000).expect(201);
    assert_eq!(uploads.check_stored(&whole, 100_000), "a.bin");
    let part = chunked("Upload-Complete: ?0\r\n", "PUT", "/up/b.bin", 0, 30_000).expect(201);
    let location = part.field("Location").expect("an address").to_owned();
    assert_eq!((offset_of(&part), head(&server, &location).field("Upload-Length")), (30_000, None));
    let fields = format!("{PARTIAL}Upload-Offset: 30000\r\nUpload-Complete: ?1\r\n");
    let whole = chunked(&fields, "PATCH", &location, 30_000, 20_000).expect(200);
    assert_eq!(uploads.check_stored(&whole, 50_000), "b.bin");
    assert_eq!(head(&server, &location).field("Upload-Length"), Some("50000"));
    server.stop();
}

#[test]
fn u5_head_tells_how_far_it_is() {
    let uploads = Uploads::new();
    let server = uploads.serve("file_len = \"5000B\"\nresumable_expiry = \"1h\"");
    let location = begin(&server, "/up/a.bin", "Upload-Length: 1000\r\n", &bytes_at(0, 400));
    let reply = head(&server, &location).expect(204);
    assert_eq!((offset_of(&reply), reply.field("Upload-Length")), (400, Some("1000")));
    assert_eq!((reply.field("Upload-Complete"), reply.field("Cache-Control")), (Some("?0"), Some("no-store")));
    assert_eq!(reply.field("Upload-Limit"), Some("max-size=5000, max-age=3600"));
    patch(&server, &location, 400, "?1", &bytes_at(400, 600)).expect(200);
    let reply = head(&server, &location).expect(204);
    assert_eq!((offset_of(&reply), reply.field("Upload-Complete")), (1000, Some("?1")));
    let options = ask(&server, "OPTIONS", "/up/a.bin", "", b"").expect(200);
    assert_eq!(options.field("Upload-Limit"), Some("max-size=5000, max-age=3600"));
    assert_eq!(options.field("Accept-Patch"), Some("application/partial-upload"));
    server.stop();
}

#[test]
fn u5_another_offset_is_409_with_the_right_one_and_the_upload_is_untouched() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let location = begin(&server, "/up/a.bin", "Upload-Length: 1000\r\n", &bytes_at(0, 400));
    for offset in [0, 399, 401, 900] {
        let reply = patch(&server, &location, offset, "?0", &other_bytes_at(offset as u64, 10));
        let problem = check_problem(&reply, 409, "mismatching-upload-offset");
        assert_eq!((&problem["expected-offset"], &problem["provided-offset"]), (&400.into(), &offset.into()));
        assert_eq!(reply.field("Upload-Offset"), Some("400"));
    }
    assert_eq!(uploads.part_len(&location), 400);
    uploads.check_stored(&patch(&server, &location, 400, "?1", &bytes_at(400, 600)).expect(200), 1000);
    server.stop();
}

#[test]
fn u5_a_complete_upload_takes_nothing_more() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let location = begin(&server, "/up/a.bin", "", &bytes_at(0, 400));
    patch(&server, &location, 400, "?1", b"").expect(200);
    for (offset, complete) in [(400, "?1"), (400, "?0"), (0, "?1")] {
        let reply = patch(&server, &location, offset, complete, b"more");
        check_problem(&reply, 400, "completed-upload");
        assert_eq!(reply.field("Upload-Offset"), Some("400"));
    }
    uploads.check_stored(&patch_free(&uploads, &server), 10);
    server.stop();
}

/// Another upload goes on beside.
#[track_caller]
fn patch_free(uploads: &Uploads, server: &Server) -> Reply {
    let location = begin(server, "/up/free.bin", "", &bytes_at(0, 5));
    assert!(uploads.part(&location).exists());
    patch(server, &location, 5, "?1", &bytes_at(5, 5)).expect(200)
}

#[test]
fn u5_lengths_that_contradict_each_other_are_refused() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    for fields in ["Upload-Complete: ?1\r\nUpload-Length: 9\r\n", "Upload-Complete: ?1\r\nUpload-Length: 11\r\n"] {
        check_problem(&ask(&server, "PUT", "/up/a.bin", fields, &bytes_at(0, 10)), 400, "inconsistent-upload-length");
    }
    assert_eq!(uploads.store(), [""; 0]);
    let location = begin(&server, "/up/a.bin", "Upload-Length: 1000\r\n", &bytes_at(0, 400));
    let again = format!("{PARTIAL}Upload-Offset: 400\r\nUpload-Complete: ?0\r\nUpload-Length: 999\r\n");
    check_problem(&ask(&server, "PATCH", &location, &again, b"abc"), 400, "inconsistent-upload-length");
    check_problem(&patch(&server, &location, 400, "?1", &bytes_at(400, 599)), 400, "inconsistent-upload-length");
    check_problem(&patch(&server, &location, 400, "?1", &bytes_at(400, 601)), 400, "inconsistent-upload-length");
    // A body that shows its length only as it comes: what it brought within the length is kept.
    for (len, status) in [(599, 400), (601, 413)] {
        let location = begin(&server, &format!("/up/{len}.bin"), "Upload-Length: 1000\r\n", &bytes_at(0, 400));
        let mut client = server.connect();
        let fields = format!("{PARTIAL}Upload-Offset: 400\r\nUpload-Complete: ?1\r\nTransfer-Encoding: chunked\r\n");
        client.ask("PATCH", &location, &fields);
        client.send([format!("{len:x}\r\n").as_bytes(), &bytes_at(400, len), b"\r\n0\r\n\r\n"].concat());
        client.reply().expect(status);
        let offset = offset_of(&head(&server, &location).expect(204));
        assert!((400..=1000).contains(&offset), "{offset}");
        let rest = bytes_at(offset, 1000 - offset as usize);
        let whole = patch(&server, &location, offset as usize, "?1", &rest).expect(200);
        uploads.check_stored(&whole, 1000);
    }
    uploads.check_stored(&patch(&server, &location, 400, "?1", &bytes_at(400, 600)).expect(200), 1000);
    server.stop();
}

#[test]
fn u5_what_is_missing_malformed_or_too_long_is_refused() {
    let uploads = Uploads::new();
    let server = uploads.serve("file_len = \"5000B\"");
    let location = begin(&server, "/up/a.bin", "", &bytes_at(0, 400));
    for (fields, status) in [
        ("Upload-Offset: 400\r\nUpload-Complete: ?0\r\n", 415),
        ("Content-Type: application/octet-stream\r\nUpload-Offset: 400\r\nUpload-Complete: ?0\r\n", 415),
        (&*format!("{PARTIAL}Upload-Complete: ?0\r\n"), 400),
        (&*format!("{PARTIAL}Upload-Offset: -1\r\nUpload-Complete: ?0\r\n"), 400),
        (&*format!("{PARTIAL}Upload-Offset: \"400\"\r\nUpload-Complete: ?0\r\n"), 400),
        (&*format!("{PARTIAL}Upload-Offset: 400\r\n"), 400),
        (&*format!("{PARTIAL}Upload-Offset: 400\r\nUpload-Complete: 0\r\n"), 400),
        (&*format!("{PARTIAL}Upload-Offset: 400\r\nUpload-Complete: ?0\r\nUpload-Length: 5001\r\n"), 413),
    ] {
        let reply = ask(&server, "PATCH", &location, fields, b"abc");
        assert_eq!(
            (reply.status(), reply.field("Content-Type")),
            (status, Some("application/problem+json")),
            "{fields}"
        );
        assert_eq!(reply.field("Upload-Limit").is_some(), status == 413);
    }
    let over = ask(&server, "PUT", "/up/b.bin", "Upload-Complete: ?0\r\nUpload-Length: 5001\r\n", b"abc").expect(413);
    assert!(over.field("Upload-Limit").is_some());
    patch(&server, &location, 400, "?0", &bytes_at(400, 4601)).expect(413);
    assert_eq!(offset_of(&head(&server, &location)), 400);
    assert_eq!(uploads.store().len(), 2, "nothing else was created");
    // In interop version 6 a request that brings all the rest need not say so.
    let fields = format!("Upload-Draft-Interop-Version: 6\r\n{PARTIAL}Upload-Offset: 400\r\n");
    let mut client = server.connect();
    send(&mut client, "PATCH", &location, &fields, &bytes_at(400, 600));
    let mut reply = client.reply();
    while reply.status() == 104 {
        reply = client.reply();
    }
    uploads.check_stored(&reply.expect(200), 1000);
    server.stop();
}

#[test]
fn u5_delete_takes_an_upload_away() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let location = begin(&server, "/up/a.bin", "", &bytes_at(0, 400));
    ask(&server, "DELETE", &location, "", b"").expect(204);
    assert_eq!(uploads.store(), [""; 0]);
    head(&server, &location).expect(404);
    patch(&server, &location, 400, "?1", b"").expect(404);
    ask(&server, "DELETE", &location, "", b"").expect(404);
    server.stop();
}

#[test]
fn u5_a_long_body_is_told_how_much_of_it_is_kept() {
    let uploads = Uploads::new();
    let server = uploads.serve("fsync = \"none\"");
    let len = 80 * MIB;
    let mut client = server.connect();
    client.ask("PUT", "/up/long.bin", &format!("{DRAFT}Upload-Complete: ?1\r\nContent-Length: {len}\r\n"));
    let location = client.head().field("Location").expect("an address").to_owned();
    // As a client may that believes what it is told: the next bytes follow on the word that the first are kept.
    let (mut sent, mut told) = (0, 0);
    for until in [33 * MIB, 66 * MIB] {
        while sent < until {
            client.send(bytes_at(sent as u64, MIB));
            sent += MIB;
        }
        let interim = client.head();
        assert_eq!((interim.status, interim.field("Upload-Draft-Interop-Version")), (104, Some("9")));
        let offset = interim.field("Upload-Offset").expect("an offset").parse::<usize>().expect("digits");
        assert!(offset >= told + 32 * MIB && offset <= sent, "{offset} of {sent}, after {told}");
        assert!(uploads.record(&location)["offset"].as_u64().expect("an offset") >= offset as u64);
        told = offset;
    }
    client.send(bytes_at(sent as u64, len - sent));
    uploads.check_stored(&client.reply().expect(201), len as u64);
    server.stop();
}

#[test]
fn u5_an_upload_that_was_cut_goes_on_where_it_was() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let len = 2 * MIB;
    for cut in [0, 1, 32_768, MIB + 3] {
        for reset in [false, true] {
            let name = format!("{cut}-{reset}.bin");
            let mut client = server.connect();
            client.ask(
                "PUT",
                &format!("/up/{name}"),
                &format!("{DRAFT}Upload-Complete: ?1\r\nContent-Length: {len}\r\n"),
            );
            let location = client.head().field("Location").expect("an address").to_owned();
            client.send(bytes_at(0, cut));
            // What is too little to be worth a write is left with the kernel, which a reset may make forget it.
            let written = if reset { cut.saturating_sub(32 << 10) } else { cut } as u64;
            if reset {
                eventually(PATIENCE, || uploads.part_len(&location) >= written);
                client.reset();
            } else {
                client.finish();
                client.reply().expect(400);
            }
            let told = head(&server, &location).expect(204);
            assert_eq!((told.field("Upload-Complete"), told.field("Upload-Length")), (Some("?0"), Some("2097152")));
            let offset = offset_of(&told) as usize;
            assert!((written..=cut as u64).contains(&(offset as u64)), "{offset} of {cut}");
            let whole = patch(&server, &location, offset, "?1", &bytes_at(offset as u64, len - offset)).expect(200);
            assert_eq!(uploads.check_stored(&whole, len as u64), name);
        }
    }
    server.expect_rest(usize::MAX);
    server.stop();
}

#[test]
fn u5_a_new_request_takes_over_a_stalled_one_whichever_worker_it_meets() {
    let uploads = Uploads::new();
    let server = uploads.launch("").arg("--workers").arg("2").start();
    let len = 3 * MIB;
    for round in 0..8 {
        let mut stalled = server.connect();
        let fields = format!("{DRAFT}Upload-Complete: ?1\r\nContent-Length: {len}\r\n");
        stalled.ask("PUT", &format!("/up/{round}.bin"), &fields);
        let location = stalled.head().field("Location").expect("an address").to_owned();
        stalled.send(bytes_at(0, MIB));
        eventually(PATIENCE, || uploads.part_len(&location) + (32 << 10) >= MIB as u64);
        let offset = offset_of(&head(&server, &location).expect(204)) as usize;
        let whole = patch(&server, &location, offset, "?1", &bytes_at(offset as u64, len - offset)).expect(200);
        assert_eq!(uploads.check_stored(&whole, len as u64), format!("{round}.bin"));
        assert!(stalled.reply().expect(409).text().contains("TAKEN_OVER"));
    }
    server.expect_rest(usize::MAX);
    server.stop();
}

#[test]
fn u5_what_an_ordinary_upload_is_refused_for_is_refused_here_too() {
    let uploads = Uploads::new();
    let server = uploads.serve("on_conflict = \"replace\"");
    fs::write(uploads.at("a.bin"), "first").expect("another's file");
    let fields = "Upload-Complete: ?1\r\n";
    for (more, status) in
        [("Content-Range: bytes 0-2/3\r\n", 400), ("Content-Encoding: gzip\r\n", 415), ("If-None-Match: *\r\n", 412)]
    {
        ask(&server, "PUT", "/up/a.bin", more, b"abc").expect(status);
        ask(&server, "PUT", "/up/a.bin", &format!("{fields}{more}"), b"abc").expect(status);
    }
    assert_eq!(uploads.store(), [""; 0]);
    assert_eq!(fs::read(uploads.at("a.bin")).expect("the file"), b"first");
    // Nor does one that was begun while the name was free.
    let only_new = "If-None-Match: *\r\n";
    let location = begin(&server, "/up/b.bin", only_new, &bytes_at(0, 400));
    fs::write(uploads.at("b.bin"), "first").expect("another's file");
    patch(&server, &location, 400, "?1", &bytes_at(400, 600)).expect(412);
    assert_eq!(fs::read(uploads.at("b.bin")).expect("the file"), b"first");
    fs::remove_file(uploads.at("b.bin")).expect("a free name");
    head(&server, &location).expect(204);
    assert_eq!(fs::read(uploads.at("b.bin")).expect("the file").len(), 1000);
    ask(&server, "PUT", "/up/a.bin", fields, b"abc").expect(201);
    assert_eq!(fs::read(uploads.at("a.bin")).expect("the file"), b"abc");
    assert_eq!(digest_field(b"abc"), "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:");
    server.stop();
}
