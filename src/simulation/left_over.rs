//! Uploads that stand in the store: as a crash, a full folder or another configuration has left them, they are gone on with, or taken
//! away, and never become a file that nobody sent.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{Server, World, tight};
use crate::config::{Names, OnConflict, UploadConfig};
use crate::driver::sim::{Content, Faults, explore};
use crate::handler::upload::Upload;
use crate::router::Routes;

/// The number of an upload: one for each test, because they share the locks of the process.
fn id(test: u8) -> String {
    format!("{test:032x}")
}

/// A server of the world's root. Its sweeper lives as long as it does.
fn server(world: &Rc<World>, config: UploadConfig) -> Server {
    let mut routes = Routes::default();
    routes.add(None, "/up", Arc::new(Upload::new(config).expect("a folder")));
    Server::with_routes(world, tight(), routes)
}

fn config() -> UploadConfig {
    UploadConfig { names: Names::Client, ..UploadConfig::new("/") }
}

/// An upload of so many bytes, of which the record says this.
fn leave(world: &World, id: &str, len: usize, record: &str) {
    world.add_directory(".uploads");
    world.add_file(&format!(".uploads/{id}"), Content::Bytes(vec![b'x'; len]));
    let record = format!("{{\"directory\":\"\",{record}}}");
    world.add_file(&format!(".uploads/{id}.json"), Content::Bytes(record.into_bytes()));
}

/// The reply to a request that speaks tus.
fn ask(server: &mut Server, request: &str, fields: &str, body: &str) -> String {
    let client = server.connect();
    let len = body.len();
    let head =
        format!("{request} HTTP/1.1\r\nHost: a\r\nTus-Resumable: 1.0.0\r\nContent-Length: {len}\r\n{fields}\r\n");
    client.send((head + body).as_bytes());
    let mut reply = Vec::new();
    server.run_until("it is answered", |_| {
        reply.extend(client.take_received());
        reply.windows(4).any(|bytes| bytes == b"\r\n\r\n")
    });
    client.close();
    String::from_utf8(reply).expect("text")
}

#[track_caller]
fn check(reply: &str, status: u16, field: &str) {
    assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")) && reply.contains(field), "{reply}");
}

/// Promise 3: bytes that the record tells of and the disk does not have are asked for again, and no hole takes their place.
#[test]
fn promise3_bytes_that_a_crash_took_are_asked_for_again() {
    explore(Faults::SLOW, |world| {
        let id = id(1);
        leave(world, &id, 40, r#""offset":100,"length":200,"digest":"AAAA","name":"film""#);
        let mut server = server(world, config());
        let upload = format!("/up/.uploads/{id}");
        check(&ask(&mut server, &format!("HEAD {upload}"), "", ""), 200, "Upload-Offset: 40\r\n");
        let fields = "Upload-Offset: 40\r\nContent-Type: application/offset+octet-stream\r\n";
        check(&ask(&mut server, &format!("PATCH {upload}"), fields, &"y".repeat(160)), 204, "Upload-Offset: 200\r\n");
        assert_eq!(world.content("film"), ["x".repeat(40), "y".repeat(160)].concat().into_bytes());
        server.finish();
    });
}

/// U4: a configuration that takes less than what has come already refuses the rest.
#[test]
fn u4_an_upload_over_a_bound_that_was_lowered_is_refused() {
    explore(Faults::SLOW, |world| {
        let id = id(2);
        leave(world, &id, 100, r#""offset":100,"length":null"#);
        let mut server = server(world, UploadConfig { file_len: 50, ..config() });
        let fields = "Upload-Offset: 100\r\nContent-Type: application/offset+octet-stream\r\n";
        check(&ask(&mut server, &format!("PATCH /up/.uploads/{id}"), fields, "y"), 413, "");
        server.finish();
    });
}

/// U4: an upload whose place was taken meanwhile can be taken away.
#[test]
fn u4_an_upload_that_can_not_be_put_in_its_place_can_be_terminated() {
    explore(Faults::SLOW, |world| {
        let id = id(3);
        leave(world, &id, 3, r#""offset":3,"length":3,"name":"film""#);
        world.add_file("film", Content::Bytes(b"old".to_vec()));
        let mut server = server(world, UploadConfig { on_conflict: OnConflict::Reject, ..config() });
        check(&ask(&mut server, &format!("HEAD /up/.uploads/{id}"), "", ""), 409, "");
        check(&ask(&mut server, &format!("DELETE /up/.uploads/{id}"), "", ""), 204, "");
        assert_eq!((world.names(".uploads"), world.content("film")), (vec![], b"old".to_vec()));
        server.finish();
    });
}

/// Promise 6: what a client says that it will send takes no space.
#[test]
fn promise6_an_upload_that_is_only_announced_takes_no_space() {
    explore(Faults::SLOW, |world| {
        world.limit_space(1 << 20);
        let mut server = server(world, config());
        for _ in 0..10 {
            check(&ask(&mut server, "POST /up/", "Upload-Length: 1000000\r\n", ""), 201, "Location: ");
        }
        assert!(world.free_space() > 1_000_000, "{} bytes are left", world.free_space());
        server.finish();
    });
}

/// U4: a concatenation may name a part twice, and does not wait for itself.
#[test]
fn u4_a_part_that_is_named_twice_comes_twice() {
    explore(Faults::SLOW, |world| {
        let id = id(4);
        leave(world, &id, 3, r#""offset":3,"length":3,"concat":"partial""#);
        let mut server = server(world, config());
        let (url, begun) = (format!("/up/.uploads/{id}"), world.now());
        let metadata = "Upload-Metadata: filename ZmlsbQ==\r\n";
        let fields = format!("Upload-Concat: final;{url} {url}\r\n{metadata}");
        check(&ask(&mut server, "POST /up/", &fields, ""), 201, "Location: ");
        assert_eq!(world.content("film"), b"xxxxxx");
        assert!(world.now() - begun < Duration::from_secs(5), "it waited for its own lock");
        server.finish();
    });
}

/// U3: a page does not come in as a picture, by the first bytes of one.
#[test]
fn u3_a_name_of_another_type_is_refused_whatever_the_bytes_say() {
    explore(Faults::SLOW, |world| {
        let mut server = server(world, UploadConfig { types: vec!["image/*".into()], ..config() });
        let picture = "GIF89a\u{1}\0\u{1}\0\0\0\0<script>";
        for (name, status) in [("a.html", 415), ("a.xhtml", 415), ("a.gif", 201), ("a.unknown", 201), ("a", 201)] {
            check(&ask(&mut server, &format!("PUT /up/{name}"), "", picture), status, "");
        }
        server.finish();
    });
}

/// U2: a form of which one file can't be put in its place replaces none.
#[test]
fn u2_a_form_that_can_not_replace_all_replaces_nothing() {
    explore(Faults::SLOW, |world| {
        world.add_file("film", Content::Bytes(b"old".to_vec()));
        world.add_directory("folder");
        let mut server = server(world, UploadConfig { on_conflict: OnConflict::Replace, ..config() });
        let part = |name| format!("--b\r\nContent-Disposition: form-data; name=f; filename={name}\r\n\r\nnew\r\n");
        let body = [part("film"), part("folder"), String::from("--b--\r\n")].concat();
        let client = server.connect();
        let len = body.len();
        let head = format!(
            "POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: {len}\r\n\r\n"
        );
        client.send((head + &body).as_bytes());
        let mut reply = Vec::new();
        server.run_until("it is answered", |_| {
            reply.extend(client.take_received());
            reply.ends_with(b"}")
        });
        check(&String::from_utf8_lossy(&reply), 409, "NAME_TAKEN");
        assert_eq!(world.content("film"), b"old");
        server.finish();
    });
}
