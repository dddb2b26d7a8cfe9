//! tus 1.0 with all its extensions: each sentence of U4 and U6, and what is left of an upload when its client, its connection
//! or the server itself is gone. `promise…` names a promise of the design.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::support::{
    Client, PATIENCE, Reply, Server, Uploads, bytes_at, digest_field, eventually, id_of, other_bytes_at,
};

const MIB: usize = 1 << 20;

/// A client that speaks tus. Every reply has to say so, refusals too.
pub struct Tus {
    address: SocketAddr,
    pub client: Client,
}

impl Tus {
    #[track_caller]
    pub fn of(server: &Server) -> Self {
        Tus { address: server.address(), client: server.connect() }
    }

    /// Sends a request with this body and reads its reply.
    #[track_caller]
    fn ask(&mut self, method: &str, target: &str, fields: &str, body: &[u8]) -> Reply {
        self.begin(method, target, &format!("{fields}Content-Length: {}\r\n", body.len()));
        self.client.send(body);
        self.reply_to(method)
    }

    /// Sends a request's head.
    #[track_caller]
    pub fn begin(&mut self, method: &str, target: &str, fields: &str) {
        self.client.ask(method, target, &format!("Tus-Resumable: 1.0.0\r\n{fields}"));
    }

    /// Begins a PATCH of `len` bytes.
    #[track_caller]
    fn begin_patch(&mut self, location: &str, offset: u64, len: u64) {
        self.begin("PATCH", location, &format!("{}Content-Length: {len}\r\n", patch_fields(offset)));
    }

    #[track_caller]
    pub fn reply_to(&mut self, method: &str) -> Reply {
        let reply = self.client.reply_to(method);
        assert_eq!(reply.field("Tus-Resumable"), Some("1.0.0"), "{:?}", reply.head);
        if reply.head.closes() {
            self.client = Client::connect(self.address);
        }
        reply
    }

    /// Creates an upload and returns its address.
    #[track_caller]
    pub fn create(&mut self, fields: &str) -> String {
        location_of(&self.ask("POST", "/up", fields, b"").expect(201))
    }

    /// Creates an upload of this length.
    #[track_caller]
    fn create_len(&mut self, len: u64) -> String {
        self.create(&format!("Upload-Length: {len}\r\n"))
    }

    #[track_caller]
    pub fn patch(&mut self, location: &str, offset: u64, body: &[u8]) -> Reply {
        self.patch_with(location, offset, "", body)
    }

    #[track_caller]
    pub fn patch_with(&mut self, location: &str, offset: u64, fields: &str, body: &[u8]) -> Reply {
        self.ask("PATCH", location, &format!("{}{fields}", patch_fields(offset)), body)
    }

    #[track_caller]
    pub fn head(&mut self, location: &str) -> Reply {
        self.begin("HEAD", location, "");
        self.reply_to("HEAD")
    }

    /// How much the server has of the upload.
    #[track_caller]
    pub fn offset(&mut self, location: &str) -> u64 {
        offset_of(&self.head(location).expect(200))
    }

    /// Sends what is missing of an upload of the rule's first `len` bytes.
    #[track_caller]
    pub fn complete(&mut self, location: &str, len: u64) -> Reply {
        let offset = self.offset(location);
        assert!(offset <= len, "{offset} of {len}");
        self.patch(location, offset, &bytes_at(offset, (len - offset) as usize)).expect(204)
    }
}

pub fn patch_fields(offset: u64) -> String {
    format!("Content-Type: application/offset+octet-stream\r\nUpload-Offset: {offset}\r\n")
}

#[track_caller]
pub fn offset_of(reply: &Reply) -> u64 {
    reply.field("Upload-Offset").expect("an offset").parse().expect("an offset of digits")
}

#[track_caller]
fn location_of(reply: &Reply) -> String {
    let location = reply.field("Location").expect("an address");
    let id = id_of(location);
    assert!(id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{location}");
    location.to_owned()
}

pub fn metadata(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{key} {}", STANDARD.encode(value))).collect();
    format!("Upload-Metadata: {}\r\n", pairs.join(","))
}

fn checksum(algorithm: &str, bytes: &[u8]) -> String {
    let digest = match algorithm {
        "sha1" => STANDARD.encode(Sha1::digest(bytes)),
        _ => STANDARD.encode(Sha256::digest(bytes)),
    };
    format!("Upload-Checksum: {algorithm} {digest}\r\n")
}

/// Makes it look as if nobody had gone on with an upload for so long, and tells since when.
#[track_caller]
fn age(uploads: &Uploads, location: &str, by: Duration) -> SystemTime {
    let changed = SystemTime::now() - by;
    for path in [uploads.part(location), uploads.record_path(location)] {
        fs::File::options().append(true).open(path).expect("its files").set_modified(changed).expect("an age");
    }
    changed
}

/// A server without a choice: an upload of 1000 bytes of which 400 are there.
#[track_caller]
fn begun(tus: &mut Tus) -> String {
    let location = tus.create_len(1000);
    assert_eq!(offset_of(&tus.patch(&location, 0, &bytes_at(0, 400)).expect(204)), 400);
    location
}

#[test]
fn promise1_what_is_kept_of_an_upload_and_what_it_is_made_of_are_bounded() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    // A key, a space and base64: exactly the bound, and four more.
    for (len, status) in [(8192, 201), (8196, 413)] {
        let metadata = format!("k:a {}", "A".repeat(len - 4));
        let reply = tus.ask("POST", "/up", &format!("Upload-Length: 1\r\nUpload-Metadata: {metadata}\r\n"), b"");
        assert_eq!(reply.status(), status, "{len}");
    }
    let part = tus.create("Upload-Length: 0\r\nUpload-Concat: partial\r\n");
    for (count, status) in [(100, 201), (101, 413)] {
        let urls = vec![part.as_str(); count].join(" ");
        let reply = tus.ask("POST", "/up", &format!("Upload-Concat: final;{urls}\r\n"), b"");
        assert_eq!(reply.status(), status, "{count}");
    }
    server.stop();
}

#[test]
fn u4_a_post_creates_an_upload_and_patches_make_it_a_file() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let created = tus.ask("POST", "/up", "Upload-Length: 1000\r\n", b"").expect(201);
    assert!(created.field("Upload-Expires").is_some() && created.field("Upload-Offset").is_none());
    let location = location_of(&created);
    for offset in [0, 1, 400, 999] {
        let next = [1, 400, 999, 1000][[0, 1, 400, 999].iter().position(|at| *at == offset).expect("one of them")];
        assert_eq!(uploads.files(), [""; 0], "not before it is whole");
        let reply = tus.patch(&location, offset, &bytes_at(offset, (next - offset) as usize)).expect(204);
        assert_eq!(offset_of(&reply), next);
        assert_eq!(reply.field("Upload-Expires").is_some(), next < 1000);
        assert_eq!(reply.field("Content-Location").is_some(), next == 1000);
        if next == 1000 {
            let name = uploads.check_stored(&reply, 1000);
            assert_eq!(uploads.files(), [name]);
        }
    }
    // What it became is told again.
    let head = tus.head(&location).expect(200);
    assert_eq!((offset_of(&head), head.field("Upload-Length")), (1000, Some("1000")));
    uploads.check_stored(&head, 1000);
    // Behind the reply, the name in the store goes.
    eventually(PATIENCE, || uploads.store() == [format!("{}.json", id_of(&location))]);
    server.stop();
}

#[test]
fn u4_head_tells_offset_length_and_what_was_said_at_creation_and_is_not_stored() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let said = metadata(&[("filename", "a.bin"), ("about", "Ä, b")]) + "Upload-Length: 1000\r\n";
    let location = tus.create(&said);
    tus.patch(&location, 0, &bytes_at(0, 400)).expect(204);
    let head = tus.head(&location).expect(200);
    let field = |name| head.field(name);
    assert_eq!((field("Upload-Offset"), field("Upload-Length")), (Some("400"), Some("1000")));
    assert_eq!((field("Upload-Defer-Length"), field("Cache-Control")), (None, Some("no-store")));
    assert_eq!(field("Upload-Metadata"), said.split("\r\n").next().unwrap().strip_prefix("Upload-Metadata: "));
    assert!(field("Upload-Expires").is_some() && field("Upload-Concat").is_none());
    server.stop();
}

#[test]
fn u4_another_version_is_412_and_the_right_one_is_told() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let location = begun(&mut tus);
    let patch = patch_fields(400) + "Content-Length: 3\r\n";
    let requests = [
        ("POST", "/up", "Upload-Length: 5\r\n", ""),
        ("HEAD", &*location, "", ""),
        ("PATCH", &*location, &*patch, "abc"),
        ("DELETE", &*location, "", ""),
    ];
    for (method, target, fields, body) in requests {
        for version in ["0.2.2", "1.0", "1.0.1", "2.0.0", "", "1.0.0\r\nTus-Resumable: 1.0.0"] {
            let mut client = server.connect();
            client.ask(method, target, &format!("Tus-Resumable: {version}\r\n{fields}"));
            client.send(body);
            let reply = client.reply_to(method).expect(412);
            assert_eq!(reply.field("Tus-Version"), Some("1.0.0"), "{method} {version}");
            assert_eq!(reply.field("Tus-Resumable"), Some("1.0.0"), "{method} {version}");
        }
    }
    // Without the field, the type says that it is tus.
    let mut client = server.connect();
    client.ask("PATCH", &location, &patch);
    client.send("abc");
    let reply = client.reply().expect(412);
    assert_eq!((reply.field("Tus-Version"), reply.field("Tus-Resumable")), (Some("1.0.0"), Some("1.0.0")));
    assert_eq!(tus.offset(&location), 400);
    assert_eq!(uploads.store().len(), 2, "nothing was created");
    server.stop();
}

#[test]
fn u4_options_is_200_and_tells_what_is_spoken() {
    let uploads = Uploads::new();
    let server = uploads.serve("file_len = \"5000B\"");
    let location = Tus::of(&server).create_len(5);
    for target in ["/up", "/up/", "/up/name.bin", &location] {
        // The field is ignored here, whatever it says.
        for version in ["", "Tus-Resumable: 1.0.0\r\n", "Tus-Resumable: 7\r\n"] {
            let reply = server.connect().request("OPTIONS", target, version).expect(200);
            assert_eq!(reply.field("Tus-Version"), Some("1.0.0"));
            assert_eq!(reply.field("Tus-Max-Size"), Some("5000"));
            assert_eq!(reply.field("Tus-Checksum-Algorithm"), Some("sha1,sha256"));
            let extensions: Vec<&str> = reply.field("Tus-Extension").expect("extensions").split(',').collect();
            let expected = [
                "creation",
                "creation-with-upload",
                "creation-defer-length",
                "checksum",
                "expiration",
                "termination",
                "concatenation",
            ];
            assert_eq!(extensions, expected);
        }
    }
    server.stop();
}

#[test]
fn u4_every_refusal_says_that_it_is_tus() {
    let uploads = Uploads::new();
    fs::create_dir(uploads.at("sub")).expect("a folder");
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let location = begun(&mut tus);
    let none = format!("/up/.uploads/{}", "0".repeat(32));
    // Each is checked for the field where it is asked.
    for (method, target, fields, status) in [
        ("POST", "/up", "", 400),
        ("POST", "/up", "Upload-Length: -1\r\n", 400),
        ("POST", "/up", "Upload-Length: 5\r\nUpload-Metadata: a b c\r\n", 400),
        ("POST", "/up/%00", "Upload-Length: 5\r\n", 400),
        ("PATCH", "/up", "", 405),
        ("HEAD", "/up", "", 405),
        ("DELETE", "/up/sub", "", 405),
        ("GET", &location, "", 405),
        ("PUT", &location, "", 405),
        ("PATCH", &location, "", 415),
        ("PATCH", &none, &patch_fields(0), 404),
        ("HEAD", &none, "", 404),
        ("DELETE", &none, "", 404),
        ("PATCH", &location, &patch_fields(399), 409),
    ] {
        let reply = tus.ask(method, target, fields, b"");
        assert_eq!(reply.status(), status, "{method} {target} {fields}");
        assert!(method == "HEAD" || !reply.body.is_empty(), "{method} {target} {fields}");
    }
    assert_eq!(tus.offset(&location), 400);
    server.stop();
}

#[test]
fn u4_bytes_of_another_type_are_415_and_not_taken() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let location = begun(&mut tus);
    let types = [
        "",
        "Content-Type: application/octet-stream\r\n",
        "Content-Type: application/offset+octet-stream; a=b\r\n",
        "Content-Type: application/partial-upload\r\n",
    ];
    for content_type in types {
        tus.ask("PATCH", &location, &format!("{content_type}Upload-Offset: 400\r\n"), b"abc").expect(415);
        tus.ask("POST", "/up", &format!("{content_type}Upload-Length: 3\r\n"), b"abc").expect(415);
    }
    assert_eq!(tus.offset(&location), 400);
    uploads.check_stored(&tus.complete(&location, 1000), 1000);
    server.stop();
}

#[test]
fn u4_another_offset_is_409_and_the_upload_is_untouched() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let location = begun(&mut tus);
    for offset in [0, 399, 401, 1000, 1001, u64::MAX] {
        tus.patch(&location, offset, &other_bytes_at(offset.min(1000), 10)).expect(409);
    }
    for offset in ["", "-1", "+400", "400.0", "0x190", "99999999999999999999999"] {
        let fields = format!("Content-Type: application/offset+octet-stream\r\nUpload-Offset: {offset}\r\n");
        tus.ask("PATCH", &location, &fields, b"abc").expect(400);
    }
    assert_eq!((tus.offset(&location), uploads.part_len(&location)), (400, 400));
    uploads.check_stored(&tus.complete(&location, 1000), 1000);
    server.stop();
}

#[test]
fn u4_an_empty_upload_metadata_is_legal() {
    let uploads = Uploads::new();
    let server = uploads.serve("names = \"client\"");
    let mut tus = Tus::of(&server);
    let location = tus.create("Upload-Length: 10\r\nUpload-Metadata: \r\n");
    assert_eq!(tus.head(&location).expect(200).field("Upload-Metadata"), None);
    uploads.check_stored(&tus.complete(&location, 10), 10);
    server.stop();
}

#[test]
fn u4_what_is_over_the_maximum_is_413() {
    let uploads = Uploads::new();
    let server = uploads.serve("file_len = \"5000B\"");
    let mut tus = Tus::of(&server);
    tus.ask("POST", "/up", "Upload-Length: 5001\r\n", b"").expect(413);
    assert_eq!(uploads.store(), [""; 0]);
    // By a body of a known length: refused before it is read.
    let location = begun(&mut tus);
    tus.patch(&location, 400, &bytes_at(400, 601)).expect(413);
    assert_eq!((tus.offset(&location), uploads.part_len(&location)), (400, 400));
    // By one whose length shows as it comes: nothing of what is behind the length is taken.
    tus.begin("PATCH", &location, &format!("{}Transfer-Encoding: chunked\r\n", patch_fields(400)));
    tus.client.send([b"12c\r\n", &bytes_at(400, 300)[..], b"\r\n"].concat());
    tus.client.send([b"12d\r\n", &bytes_at(700, 301)[..], b"\r\n0\r\n\r\n"].concat());
    tus.reply_to("PATCH").expect(413);
    let kept = tus.offset(&location);
    assert!((400..=700).contains(&kept), "{kept}");
    uploads.check_stored(&tus.complete(&location, 1000), 1000);
    // A length that is told later is held to the same.
    let deferred = tus.create("Upload-Defer-Length: 1\r\n");
    tus.patch_with(&deferred, 0, "Upload-Length: 5001\r\n", b"abc").expect(413);
    tus.patch(&deferred, 0, &bytes_at(0, 5001)).expect(413);
    assert_eq!(tus.offset(&deferred), 0);
    tus.patch_with(&deferred, 0, "Upload-Length: 5000\r\n", &bytes_at(0, 5000)).expect(204);
    // What is whole takes no more bytes.
    tus.patch(&location, 1000, b"more").expect(413);
    tus.patch(&location, 1000, b"").expect(204);
    assert_eq!(tus.offset(&location), 1000);
    server.stop();
}

#[test]
fn u4_an_upload_of_length_0_is_whole_at_once() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let created = tus.ask("POST", "/up", "Upload-Length: 0\r\n", b"").expect(201);
    uploads.check_stored(&created, 0);
    let head = tus.head(&location_of(&created)).expect(200);
    assert_eq!((head.field("Upload-Offset"), head.field("Upload-Length")), (Some("0"), Some("0")));
    uploads.check_stored(&head, 0);
    // A length of 0 that is told later.
    let deferred = tus.create("Upload-Defer-Length: 1\r\n");
    uploads.check_stored(&tus.patch_with(&deferred, 0, "Upload-Length: 0\r\n", b"").expect(204), 0);
    server.stop();
}

#[test]
fn u4_creation_with_upload_takes_the_bytes_of_the_post() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let typed = "Content-Type: application/offset+octet-stream\r\n";
    let fields = format!("{typed}Upload-Length: 1000\r\n");
    let part = tus.ask("POST", "/up", &fields, &bytes_at(0, 300)).expect(201);
    assert_eq!(offset_of(&part), 300);
    uploads.check_stored(&tus.complete(&location_of(&part), 1000), 1000);
    let whole = tus.ask("POST", "/up", &fields, &bytes_at(0, 1000)).expect(201);
    assert_eq!(offset_of(&whole), 1000);
    uploads.check_stored(&whole, 1000);
    // Over its length: the upload is there, without the bytes.
    let over = tus.ask("POST", "/up", &fields, &bytes_at(0, 1001)).expect(413);
    assert_eq!(tus.offset(&location_of(&over)), 0);
    let wrong = tus.ask("POST", "/up", &(fields.clone() + &checksum("sha1", b"x")), &bytes_at(0, 10)).expect(460);
    let location = location_of(&wrong);
    assert_eq!(tus.offset(&location), 0);
    uploads.check_stored(&tus.complete(&location, 1000), 1000);
    // Cut off: what came is kept, and nobody but the store knows where.
    let before = uploads.store();
    tus.begin("POST", "/up", &format!("{typed}Upload-Length: 1000\r\nContent-Length: 1000\r\n"));
    tus.client.send(bytes_at(0, 500));
    drop(tus);
    let mut tus = Tus::of(&server);
    let mut cut = None;
    eventually(PATIENCE, || {
        cut = uploads.store().into_iter().find(|name| !name.contains('.') && !before.contains(name));
        cut.as_ref().is_some_and(|name| uploads.part_len(&format!("/.uploads/{name}")) == 500)
    });
    let location = format!("/up/.uploads/{}", cut.expect("an upload"));
    assert_eq!(tus.offset(&location), 500);
    uploads.check_stored(&tus.complete(&location, 1000), 1000);
    server.stop();
}

#[test]
fn u4_a_deferred_length_is_told_by_a_later_patch_and_then_stays() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let location = tus.create("Upload-Defer-Length: 1\r\n");
    tus.patch(&location, 0, &bytes_at(0, 100)).expect(204);
    let head = tus.head(&location).expect(200);
    assert_eq!((head.field("Upload-Defer-Length"), head.field("Upload-Length")), (Some("1"), None));
    assert_eq!(offset_of(&head), 100);
    // Less than what is there.
    tus.patch_with(&location, 100, "Upload-Length: 99\r\n", b"").expect(400);
    tus.patch_with(&location, 100, "Upload-Length: ten\r\n", b"").expect(400);
    // Told, but more was sent: neither is taken.
    tus.patch_with(&location, 100, "Upload-Length: 150\r\n", &bytes_at(100, 51)).expect(413);
    assert_eq!(tus.head(&location).expect(200).field("Upload-Defer-Length"), Some("1"));
    tus.patch_with(&location, 100, "Upload-Length: 300\r\n", &bytes_at(100, 100)).expect(204);
    let head = tus.head(&location).expect(200);
    assert_eq!((head.field("Upload-Defer-Length"), head.field("Upload-Length")), (None, Some("300")));
    for length in [200, 299, 301] {
        tus.patch_with(&location, 200, &format!("Upload-Length: {length}\r\n"), &bytes_at(200, 1)).expect(400);
    }
    let whole = tus.patch_with(&location, 200, "Upload-Length: 300\r\n", &bytes_at(200, 100)).expect(204);
    uploads.check_stored(&whole, 300);
    // Where all is there already, it is told with nothing.
    let location = tus.create("Upload-Defer-Length: 1\r\n");
    tus.patch(&location, 0, &bytes_at(0, 100)).expect(204);
    uploads.check_stored(&tus.patch_with(&location, 100, "Upload-Length: 100\r\n", b"").expect(204), 100);
    for fields in ["Upload-Defer-Length: 0\r\n", "Upload-Defer-Length: 1\r\nUpload-Length: 5\r\n"] {
        tus.ask("POST", "/up", fields, b"").expect(400);
    }
    server.stop();
}

#[test]
fn u4_a_checksum_holds_or_its_chunk_is_discarded() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let location = tus.create_len(1000);
    let chunk = bytes_at(0, 400);
    for algorithm in ["sha1", "sha256"] {
        tus.patch_with(&location, 0, &checksum(algorithm, b"others"), &chunk).expect(460);
        assert_eq!(tus.offset(&location), 0);
        // Bytes that are not what was announced, as they arrive damaged.
        let damaged = other_bytes_at(0, 400);
        tus.patch_with(&location, 0, &checksum(algorithm, &chunk), &damaged).expect(460);
        assert_eq!(tus.offset(&location), 0);
    }
    for field in ["md5 1B2M2Y8AsgTpgAmY7PhCfg==", "sha1", "sha1 AAAA", "sha256 !", "SHA1 2jmj7l5rSw0yVb/vlWAYkK/YBwk="]
    {
        tus.patch_with(&location, 0, &format!("Upload-Checksum: {field}\r\n"), &chunk).expect(400);
    }
    assert_eq!(tus.offset(&location), 0);
    tus.patch_with(&location, 0, &checksum("sha1", &chunk), &chunk).expect(204);
    // A wrong one in the middle leaves what was before.
    tus.patch_with(&location, 400, &checksum("sha1", b"x"), &other_bytes_at(400, 600)).expect(460);
    assert_eq!(tus.offset(&location), 400);
    let next = bytes_at(400, 300);
    tus.patch_with(&location, 400, &checksum("sha256", &next), &next).expect(204);
    // A shorter last chunk than one that was discarded.
    tus.patch_with(&location, 700, &checksum("sha256", b"x"), &other_bytes_at(700, 300)).expect(460);
    uploads.check_stored(&tus.complete(&location, 1000), 1000);
    server.stop();
}

#[test]
fn u4_what_was_discarded_behind_the_end_is_no_part_of_the_file() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let location = tus.create("Upload-Defer-Length: 1\r\n");
    tus.patch_with(&location, 0, &checksum("sha1", b"x"), &other_bytes_at(0, 3 * MIB)).expect(460);
    let whole = tus.patch_with(&location, 0, "Upload-Length: 1000\r\n", &bytes_at(0, 1000)).expect(204);
    uploads.check_stored(&whole, 1000);
    server.stop();
}

#[test]
fn u4_a_chunk_with_a_checksum_that_is_cut_is_discarded() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let location = begun(&mut tus);
    let chunk = bytes_at(400, 600);
    for cut in [1, 300, 599] {
        let mut first = Tus::of(&server);
        let fields = format!("{}{}Content-Length: 600\r\n", patch_fields(400), checksum("sha1", &chunk));
        first.begin("PATCH", &location, &fields);
        first.client.send(&chunk[..cut]);
        first.client.finish();
        first.reply_to("PATCH").expect(400);
        assert_eq!(tus.offset(&location), 400);
    }
    let whole = tus.patch_with(&location, 400, &checksum("sha1", &chunk), &chunk).expect(204);
    uploads.check_stored(&whole, 1000);
    server.stop();
}

#[test]
fn u4_what_came_before_a_close_is_kept_to_the_last_byte() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let len = MIB as u64 + 77;
    for cut in [0, 1, 255, 16_384, 32_767, 32_768, 32_769, 262_144, 262_145, MIB, MIB + 76] {
        let location = Tus::of(&server).create_len(len);
        let mut first = Tus::of(&server);
        first.begin_patch(&location, 0, len);
        first.client.send(bytes_at(0, cut));
        first.client.finish();
        // The end has come to the server before its refusal came here.
        first.reply_to("PATCH").expect(400);
        let mut tus = Tus::of(&server);
        assert_eq!(tus.offset(&location), cut as u64);
        uploads.check_stored(&tus.complete(&location, len), len);
    }
    server.expect_rest(usize::MAX);
    server.stop();
}

#[test]
fn u4_what_came_before_a_close_without_a_word_is_kept() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let len = 3 * MIB as u64;
    for chunked in [false, true] {
        for cut in [1, 100_000, 2 * MIB] {
            let location = Tus::of(&server).create_len(len);
            let mut first = Tus::of(&server);
            if chunked {
                first.begin("PATCH", &location, &format!("{}Transfer-Encoding: chunked\r\n", patch_fields(0)));
                first.client.send(format!("{len:x}\r\n"));
            } else {
                first.begin_patch(&location, 0, len);
            }
            first.client.send(bytes_at(0, cut));
            drop(first);
            let mut tus = Tus::of(&server);
            eventually(PATIENCE, || uploads.record(&location)["offset"] == cut);
            assert_eq!(tus.offset(&location), cut as u64);
            uploads.check_stored(&tus.complete(&location, len), len);
        }
    }
    server.expect_rest(usize::MAX);
    server.stop();
}

#[test]
fn u4_what_had_reached_the_disk_before_a_reset_is_kept() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let len = 3 * MIB as u64;
    for cut in [1, 40_000, MIB, 2 * MIB + 5] {
        let location = Tus::of(&server).create_len(len);
        let mut first = Tus::of(&server);
        first.begin_patch(&location, 0, len);
        first.client.send(bytes_at(0, cut));
        // What is too little to be worth a write is left with the kernel, which a reset may make forget it.
        let written = (cut as u64).saturating_sub(32 << 10);
        eventually(PATIENCE, || uploads.part_len(&location) >= written);
        first.client.reset();
        let mut tus = Tus::of(&server);
        let kept = tus.offset(&location);
        assert!((written..=cut as u64).contains(&kept), "{kept} of {cut}");
        uploads.check_stored(&tus.complete(&location, len), len);
    }
    server.expect_rest(usize::MAX);
    server.stop();
}

#[test]
fn u4_an_upload_that_nobody_goes_on_with_is_swept_by_whichever_process() {
    let uploads = Uploads::new();
    let server = uploads.serve("resumable_expiry = \"8s\"");
    let mut tus = Tus::of(&server);
    let location = begun(&mut tus);
    age(&uploads, &location, Duration::from_secs(8));
    eventually(PATIENCE, || uploads.store().is_empty());
    tus.begin("HEAD", &location, "");
    tus.reply_to("HEAD").expect(404);
    tus.patch(&location, 400, b"abc").expect(404);
    server.stop();

    // Left behind by a process that was killed, and by its whole uploads.
    let mut server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let (cut, whole) = (begun(&mut tus), begun(&mut tus));
    let name = uploads.check_stored(&tus.complete(&whole, 1000), 1000);
    fs::write(uploads.at(".uploads/0123.new"), "left").expect("a file of a crash");
    // The whole one's record stays until it expires; its part goes.
    eventually(PATIENCE, || uploads.store().len() == 4);
    server.signal(Signal::SIGKILL);
    server.wait();
    let server = uploads.serve("resumable_expiry = \"1s\"");
    eventually(PATIENCE, || uploads.store().is_empty());
    Tus::of(&server).head(&cut).expect(404);
    assert_eq!(uploads.files(), [name], "what is whole stays");
    server.stop();
}

#[test]
fn u4_upload_expires_is_when_it_would_be_swept() {
    let uploads = Uploads::new();
    let server = uploads.serve("resumable_expiry = \"1h\"");
    let mut tus = Tus::of(&server);
    let location = begun(&mut tus);
    let changed = age(&uploads, &location, Duration::from_secs(1800));
    let expires = |reply: &Reply| {
        httpdate::parse_http_date(reply.field("Upload-Expires").expect("a date")).expect("a date of HTTP")
    };
    let left = expires(&tus.head(&location).expect(200)).duration_since(changed).expect("a time to come").as_secs();
    assert!((3599..=3600).contains(&left), "{left}");
    let after = tus.patch(&location, 400, &bytes_at(400, 1)).expect(204);
    assert!(expires(&after).duration_since(changed).expect("a time to come").as_secs() >= 1800 + 3599);
    server.stop();
}

#[test]
fn u4_termination_takes_an_unfinished_upload_away() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let location = begun(&mut tus);
    tus.ask("DELETE", &location, "", b"").expect(204);
    assert_eq!(uploads.store(), [""; 0]);
    for (method, fields) in [("HEAD", ""), ("DELETE", ""), ("PATCH", &*patch_fields(400))] {
        tus.ask(method, &location, fields, b"").expect(404);
    }
    // One that is under way: its client is told, or cut.
    let location = tus.create_len(MIB as u64);
    let mut first = Tus::of(&server);
    first.begin_patch(&location, 0, MIB as u64);
    first.client.send(bytes_at(0, MIB / 2));
    eventually(PATIENCE, || uploads.part_len(&location) > 0);
    tus.ask("DELETE", &location, "", b"").expect(204);
    assert_eq!(uploads.store(), [""; 0]);
    first.reply_to("PATCH").expect(409);
    server.stop();
}

#[test]
fn u4_termination_of_a_whole_upload_takes_the_file_only_where_clients_may_delete() {
    for delete in [false, true] {
        let uploads = Uploads::new();
        let server = uploads.serve(&format!("delete = {delete}"));
        let mut tus = Tus::of(&server);
        let location = tus.create_len(100);
        let name = uploads.check_stored(&tus.complete(&location, 100), 100);
        tus.ask("DELETE", &location, "", b"").expect(204);
        assert_eq!(uploads.files(), if delete { vec![] } else { vec![name] });
        // The name of its part goes behind the reply to what made it whole.
        eventually(PATIENCE, || uploads.store().is_empty());
        tus.head(&location).expect(404);
        server.stop();
    }
}

#[test]
fn u4_partial_uploads_become_one_file() {
    let uploads = Uploads::new();
    let server = uploads.serve("names = \"client\"");
    let mut tus = Tus::of(&server);
    for (number, count) in [1, 2, 10].into_iter().enumerate() {
        let part_len = 300_000 / count;
        let mut parts = Vec::new();
        for part in 0..count {
            let location = tus.create(&format!("Upload-Concat: partial\r\nUpload-Length: {part_len}\r\n"));
            tus.patch(&location, 0, &bytes_at(part * part_len, part_len as usize)).expect(204);
            let head = tus.head(&location).expect(200);
            assert_eq!((head.field("Upload-Concat"), head.field("Content-Location")), (Some("partial"), None));
            // By path, and by URL.
            parts.push(if part % 2 == 0 { location } else { format!("http://{}{location}", server.address()) });
        }
        assert_eq!(uploads.files().len(), number, "a part is no file");
        let list = format!("final;{}", parts.join(" "));
        let name = format!("of-{count}.bin");
        let fields = format!("Upload-Concat: {list}\r\n{}", metadata(&[("filename", &name)]));
        let made = tus.ask("POST", "/up", &fields, b"").expect(201);
        assert_eq!(uploads.check_stored(&made, count * part_len), name);
        let location = location_of(&made);
        let head = tus.head(&location).expect(200);
        assert_eq!(head.field("Upload-Concat"), Some(&*list));
        assert_eq!((offset_of(&head), head.field("Upload-Length")), (count * part_len, Some("300000")));
        tus.patch(&location, 300_000, b"").expect(403);
        tus.patch(&location, 0, b"abc").expect(403);
    }
    server.stop();
}

#[test]
fn u4_a_concatenation_of_what_is_not_whole_partial_and_there_is_refused_and_leaves_nothing() {
    let uploads = Uploads::new();
    let server = uploads.serve("file_len = \"1500B\"");
    let mut tus = Tus::of(&server);
    let partial = |tus: &mut Tus, len: usize, sent: usize| {
        let location = tus.create(&format!("Upload-Concat: partial\r\nUpload-Length: {len}\r\n"));
        tus.patch(&location, 0, &bytes_at(0, sent)).expect(204);
        location
    };
    let (whole, other) = (partial(&mut tus, 1000, 1000), partial(&mut tus, 1000, 1000));
    let (unfinished, ordinary) = (partial(&mut tus, 1000, 999), begun(&mut tus));
    let file = tus.create_len(0);
    eventually(PATIENCE, || !uploads.part(&file).exists());
    let before = uploads.store();
    let unknown = format!("/up/.uploads/{}", "f".repeat(32));
    for (list, status) in [
        (format!("{whole} {unfinished}"), 400),
        (format!("{whole} {ordinary}"), 400),
        (file.clone(), 400),
        (unknown, 404),
        (format!("{whole} /etc/passwd"), 404),
        (format!("{whole} /up/.uploads/../../x"), 404),
        // More than a file may have.
        (format!("{whole} {other}"), 413),
    ] {
        tus.ask("POST", "/up", &format!("Upload-Concat: final;{list}\r\n"), b"").expect(status);
        assert_eq!(uploads.store(), before, "{list}");
    }
    for field in ["final;", "final", "partial;", "Partial", "final;\t"] {
        tus.ask("POST", "/up", &format!("Upload-Concat: {field}\r\nUpload-Length: 5\r\n"), b"").expect(400);
    }
    tus.ask("POST", "/up", &format!("Upload-Concat: final;{whole}\r\nUpload-Length: 1000\r\n"), b"").expect(400);
    assert_eq!(uploads.store(), before);
    server.stop();
}

#[test]
fn u4_a_part_may_stand_twice_in_a_concatenation() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let part = tus.create("Upload-Concat: partial\r\nUpload-Length: 100\r\n");
    tus.patch(&part, 0, &bytes_at(0, 100)).expect(204);
    let made = tus.ask("POST", "/up", &format!("Upload-Concat: final;{part} {part}\r\n"), b"").expect(201);
    let name = made.field("Content-Location").expect("a place").strip_prefix("/up/").expect("in the folder");
    let expected = [bytes_at(0, 100), bytes_at(0, 100)].concat();
    assert!(fs::read(uploads.at(name)).expect("the file") == expected);
    assert_eq!(made.field("Repr-Digest"), Some(&*digest_field(&expected)));
    server.stop();
}

#[test]
fn u4_x_http_method_override_stands_for_patch_and_delete() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let location = tus.create_len(1000);
    let fields = format!("X-HTTP-Method-Override: PATCH\r\n{}", patch_fields(0));
    assert_eq!(offset_of(&tus.ask("POST", &location, &fields, &bytes_at(0, 1000)).expect(204)), 1000);
    uploads.check_stored(&tus.head(&location).expect(200), 1000);
    // In nothing but a POST, and for nothing else.
    tus.ask("GET", &location, "X-HTTP-Method-Override: DELETE\r\n", b"").expect(405);
    tus.ask("POST", &location, "X-HTTP-Method-Override: HEAD\r\n", b"").expect(405);
    tus.ask("POST", &location, "", b"").expect(405);
    tus.ask("POST", &location, "X-HTTP-Method-Override: DELETE\r\n", b"").expect(204);
    tus.head(&location).expect(404);
    server.stop();
}

#[test]
fn u6_the_client_that_comes_back_gets_the_upload_at_once_whichever_worker_it_meets() {
    let uploads = Uploads::new();
    let server = uploads.launch("").arg("--workers").arg("2").start();
    let len = 4 * MIB as u64;
    // So many that both workers have had both parts.
    for round in 0..12 {
        let location = Tus::of(&server).create_len(len);
        let mut stalled = Tus::of(&server);
        stalled.begin_patch(&location, 0, len);
        stalled.client.send(bytes_at(0, MIB));
        eventually(PATIENCE, || uploads.part_len(&location) >= MIB as u64 - (32 << 10));
        // It asks where it is, or knows. The stalled one would have a minute.
        let mut back = Tus::of(&server);
        let offset = if round % 2 == 0 { back.offset(&location) } else { uploads.part_len(&location) };
        let reply = back.patch(&location, offset, &bytes_at(offset, (len - offset) as usize));
        // The first has a refusal that can be read.
        let refused = stalled.reply_to("PATCH").expect(409);
        assert!(refused.text().contains("TAKEN_OVER"), "{}", refused.text());
        if reply.status() == 409 {
            // What had come of the last piece was still on its way to the disk.
            assert_eq!(round % 2, 1, "what HEAD told is true");
            uploads.check_stored(&back.complete(&location, len), len);
        } else {
            uploads.check_stored(&reply.expect(204), len);
        }
    }
    server.expect_rest(usize::MAX);
    server.stop();
}

#[test]
fn u6_no_byte_of_a_client_that_was_taken_over_is_mixed_in() {
    let uploads = Uploads::new();
    let server = uploads.launch("").arg("--workers").arg("2").start();
    let len = 8 * MIB as u64;
    for _ in 0..4 {
        let location = Tus::of(&server).create_len(len);
        let address = server.address();
        let target = location.clone();
        // It never stops by itself, and what it sends behind the first byte is wrong.
        let intruder = thread::spawn(move || {
            let mut client = Client::connect(address);
            client.ask(
                "PATCH",
                &target,
                &format!("Tus-Resumable: 1.0.0\r\n{}Content-Length: {len}\r\n", patch_fields(0)),
            );
            let mut offset = 0;
            while offset < len && client.try_send(bytes_at(offset, 10_000)).is_ok() {
                offset += 10_000;
            }
            client.rest_of_any_end().0
        });
        eventually(PATIENCE, || uploads.part_len(&location) > 0);
        let mut tus = Tus::of(&server);
        let offset = tus.offset(&location);
        let whole = tus.patch(&location, offset, &bytes_at(offset, (len - offset) as usize)).expect(204);
        uploads.check_stored(&whole, len);
        let told = intruder.join().expect("its thread");
        assert!(told.is_empty() || told.starts_with(b"HTTP/1.1 409 ") || told.starts_with(b"HTTP/1.1 204 "));
    }
    server.stop();
}

#[test]
fn u6_many_clients_of_one_upload_get_it_one_after_the_other() {
    let uploads = Uploads::new();
    let server = uploads.launch("").arg("--workers").arg("2").start();
    let len = 2 * MIB as u64;
    let location = Tus::of(&server).create_len(len);
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let mut tus = Tus::of(&server);
        let offset = tus.offset(&location);
        tus.begin_patch(&location, offset, len - offset);
        tus.client.send(bytes_at(offset, 100_000));
        eventually(PATIENCE, || uploads.part_len(&location) > offset);
        stalled.push(tus);
    }
    let mut tus = Tus::of(&server);
    assert!(tus.offset(&location) >= 8, "each has added something");
    uploads.check_stored(&tus.complete(&location, len), len);
    drop(tus);
    for mut tus in stalled {
        tus.reply_to("PATCH").expect(409);
    }
    server.expect_rest(usize::MAX);
    server.stop();
}

#[test]
fn u6_a_slow_route_gives_an_upload_up_at_once_too() {
    let uploads = Uploads::new();
    // A piece has to wait for minutes until the next may come.
    let server = uploads.serve("upload_rate = \"1KiB/s\"");
    let location = Tus::of(&server).create_len(MIB as u64);
    let mut first = Tus::of(&server);
    first.begin_patch(&location, 0, MIB as u64);
    first.client.send(bytes_at(0, MIB / 2));
    eventually(PATIENCE, || uploads.part_len(&location) > 0);
    let kept = Tus::of(&server).offset(&location);
    assert!(kept > 0 && kept <= MIB as u64 / 2, "{kept}");
    first.reply_to("PATCH").expect(409);
    server.stop();
}

#[test]
fn u4_a_creation_at_a_name_is_never_the_files_content() {
    let uploads = Uploads::new();
    let server = uploads.serve("on_conflict = \"replace\"");
    server.connect().put("/up/precious.bin", b"precious").expect(201);
    let mut tus = Tus::of(&server);
    let location = location_of(&tus.ask("POST", "/up/precious.bin", "Upload-Length: 3\r\n", b"").expect(201));
    assert!(location.starts_with("/up/.uploads/"), "{location}");
    assert_eq!(fs::read(uploads.at("precious.bin")).expect("the file"), b"precious");
    // When it is whole, it has the name that it was created at.
    tus.patch(&location, 0, b"new").expect(204);
    assert_eq!(fs::read(uploads.at("precious.bin")).expect("the file"), b"new");
    assert_eq!(uploads.files(), ["precious.bin"]);
    server.stop();
}

#[test]
fn u3_names_are_made_up_unless_the_route_takes_the_clients() {
    for (policy, expected) in [("generated", None), ("client", Some("film.bin"))] {
        let uploads = Uploads::new();
        let server = uploads.serve(&format!("names = \"{policy}\""));
        let mut tus = Tus::of(&server);
        // Only what follows the last separator counts.
        for name in ["film.bin", "/etc/film.bin", "..\\..\\film.bin", "C:\\a\\film.bin", "a/../../film.bin"] {
            let location = tus.create(&(metadata(&[("filename", name)]) + "Upload-Length: 100\r\n"));
            let stored = uploads.check_stored(&tus.complete(&location, 100), 100);
            match expected {
                Some(expected) => assert_eq!(stored, expected),
                None => assert!(stored != "film.bin" && stored.ends_with(".bin"), "{stored}"),
            }
            fs::remove_file(uploads.at(&stored)).expect("the file");
        }
        // Without a name one is made up.
        let location = tus.create_len(100);
        let stored = uploads.check_stored(&tus.complete(&location, 100), 100);
        assert!(!stored.contains('.'), "{stored}");
        for name in ["", ".", "..", ".hidden", "a/", "a\0b", "a\nb", &"x".repeat(256)] {
            let reply = tus.ask("POST", "/up", &(metadata(&[("filename", name)]) + "Upload-Length: 1\r\n"), b"");
            assert_eq!(reply.status(), if expected.is_some() { 400 } else { 201 }, "{name:?}");
        }
        server.stop();
    }
}

#[test]
fn a_name_that_is_taken_is_409_at_creation_and_at_the_end() {
    let uploads = Uploads::new();
    let server = uploads.serve("names = \"client\"");
    let mut tus = Tus::of(&server);
    let named = metadata(&[("filename", "a.bin")]) + "Upload-Length: 100\r\n";
    let location = tus.create(&named);
    fs::write(uploads.at("a.bin"), "first").expect("another's file");
    tus.ask("POST", "/up", &named, b"").expect(409);
    assert_eq!(uploads.store().len(), 2, "nothing was created");
    tus.patch(&location, 0, &bytes_at(0, 100)).expect(409);
    assert_eq!(fs::read(uploads.at("a.bin")).expect("the file"), b"first");
    // It can be taken away, or finished when the name is free again.
    tus.head(&location).expect(409);
    fs::remove_file(uploads.at("a.bin")).expect("a free name");
    assert_eq!(uploads.check_stored(&tus.head(&location).expect(200), 100), "a.bin");
    fs::remove_file(uploads.at("a.bin")).expect("a free name");
    let location = tus.create(&named);
    fs::write(uploads.at("a.bin"), "first").expect("another's file");
    tus.patch(&location, 0, &bytes_at(0, 100)).expect(409);
    tus.ask("DELETE", &location, "", b"").expect(204);
    // But for the one that became a file.
    eventually(PATIENCE, || uploads.store().len() == 1);
    assert_eq!(fs::read(uploads.at("a.bin")).expect("the file"), b"first");
    server.stop();
}

#[test]
fn on_conflict_rename_and_replace_hold_for_uploads_that_are_resumed() {
    for policy in ["rename", "replace"] {
        let uploads = Uploads::new();
        let server = uploads.serve(&format!("names = \"client\"\non_conflict = \"{policy}\""));
        let mut tus = Tus::of(&server);
        fs::write(uploads.at("a.bin"), "first").expect("another's file");
        let location = tus.create(&(metadata(&[("filename", "a.bin")]) + "Upload-Length: 100\r\n"));
        let name = uploads.check_stored(&tus.complete(&location, 100), 100);
        let expected: &[&str] = if policy == "rename" { &["a-2.bin", "a.bin"] } else { &["a.bin"] };
        assert_eq!((uploads.files(), &*name), (expected.iter().map(|name| String::from(*name)).collect(), expected[0]));
        eventually(PATIENCE, || uploads.store().len() == 1);
        server.stop();
    }
}

#[test]
fn names_and_types_that_are_not_taken_leave_nothing() {
    let uploads = Uploads::new();
    let server = uploads.serve("names = \"client\"\nname_patterns = [\"*.png\"]\ntypes = [\"image/png\"]");
    let mut tus = Tus::of(&server);
    let named = |name: &str| metadata(&[("filename", name)]) + "Upload-Length: 1000\r\n";
    tus.ask("POST", "/up", &named("a.exe"), b"").expect(403);
    assert_eq!(uploads.store(), [""; 0]);
    let location = tus.create(&named("a.png"));
    tus.patch(&location, 0, &bytes_at(0, 400)).expect(204);
    tus.patch(&location, 400, &bytes_at(400, 600)).expect(415);
    assert_eq!((uploads.files(), uploads.store()), (vec![], vec![]));
    tus.head(&location).expect(404);
    let png = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &bytes_at(0, 984)[..]].concat();
    let location = tus.create(&named("a.png"));
    tus.patch(&location, 0, &png).expect(204);
    assert_eq!(uploads.files(), ["a.png"]);
    server.stop();
}

#[test]
fn the_quota_counts_what_is_unfinished_and_gives_back_what_is_terminated() {
    let uploads = Uploads::new();
    let server = uploads.serve("quota = \"100000B\"\ndelete = true");
    let mut tus = Tus::of(&server);
    // What can't fit is refused before it is begun.
    tus.ask("POST", "/up", "Upload-Length: 100001\r\n", b"").expect(507);
    assert_eq!(uploads.store(), [""; 0]);
    let location = tus.create_len(80_000);
    tus.patch(&location, 0, &bytes_at(0, 60_000)).expect(204);
    let other = tus.create("Upload-Defer-Length: 1\r\n");
    tus.patch(&other, 0, &bytes_at(0, 50_000)).expect(507);
    assert_eq!(tus.offset(&other), 0);
    // Of unknown length: what fits may stay.
    tus.begin("PATCH", &other, &format!("{}Transfer-Encoding: chunked\r\n", patch_fields(0)));
    tus.client.send([b"c350\r\n", &bytes_at(0, 50_000)[..], b"\r\n0\r\n\r\n"].concat());
    tus.reply_to("PATCH").expect(507);
    assert!(tus.offset(&other) <= 40_000);
    tus.ask("DELETE", &other, "", b"").expect(204);
    uploads.check_stored(&tus.complete(&location, 80_000), 80_000);
    tus.ask("DELETE", &location, "", b"").expect(204);
    let location = tus.create_len(99_000);
    uploads.check_stored(&tus.complete(&location, 99_000), 99_000);
    server.stop();
}

#[test]
fn u4_an_upload_that_is_not_there_is_404_whatever_its_number() {
    let uploads = Uploads::new();
    let server = uploads.serve("names = \"client\"");
    let mut tus = Tus::of(&server);
    let location = tus.create(&(metadata(&[("filename", "a.bin")]) + "Upload-Length: 10\r\n"));
    let id = id_of(&location).to_owned();
    fs::write(uploads.at(".uploads/plain"), "a file").expect("a file of no upload");
    let before = uploads.store();
    let numbers = [
        "0".repeat(32),
        format!("{id}0"),
        id[..31].to_owned(),
        id.to_uppercase(),
        format!("{id}.json"),
        format!("{id}/x"),
        format!("x/{id}"),
        format!("x/../y/{id}"),
        "plain".into(),
        "%2e%2e%2fplain".into(),
        "a%20b".into(),
        "%ff".into(),
    ];
    for number in numbers.iter().filter(|number| **number != id) {
        let target = format!("/up/.uploads/{number}");
        for (method, fields) in [("HEAD", ""), ("DELETE", ""), ("PATCH", &*patch_fields(0))] {
            let reply = tus.ask(method, &target, fields, b"");
            // An encoded slash is no path at all (P1).
            assert_eq!(reply.status(), if number.contains("%2f") { 400 } else { 404 }, "{method} {target}");
        }
    }
    // These lead out of the store, to what is no upload.
    for target in ["/up/.uploads/../a.bin", "/up/.uploads/..", "/up/.uploads", "/up/.uploads/"] {
        for (method, fields) in [("HEAD", ""), ("DELETE", ""), ("PATCH", &*patch_fields(0))] {
            let status = tus.ask(method, target, fields, b"").status();
            assert!((400..500).contains(&status), "{method} {target}: {status}");
        }
    }
    assert_eq!(uploads.store(), before);
    uploads.check_stored(&tus.complete(&location, 10), 10);
    server.stop();
}

#[test]
fn without_resumable_uploads_the_store_is_not_there() {
    let uploads = Uploads::new();
    let server = uploads.serve("resumable = false");
    let mut client = server.connect();
    let id = "0".repeat(32);
    client.request("HEAD", &format!("/up/.uploads/{id}"), "Tus-Resumable: 1.0.0\r\n").expect(404);
    let options = client.request("OPTIONS", "/up", "").expect(200);
    assert!(options.field("Tus-Version").is_none() && options.field("Upload-Limit").is_none());
    server.stop();
}
