//! Servers that are killed with uploads under way, and what the next one finds on the disk. Nothing that was acknowledged is lost,
//! and an upload becomes a file once.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Launch, PATIENCE, Server, Uploads, bytes_at, eventually, id_of};
use crate::tus::{Tus, metadata, offset_of, patch_fields};

const MIB: u64 = 1 << 20;

#[track_caller]
fn kill(mut server: Server) {
    server.signal(Signal::SIGKILL);
    server.wait();
}

#[test]
fn promise5_an_upload_outlives_servers_that_are_killed() {
    let uploads = Uploads::new();
    let len = 100 * MIB;
    // Bytes are synced to the disk for a loss of power, which is not tested here.
    let launch = || -> Launch { uploads.launch("fsync = \"none\"") };
    let mut server = launch().start();
    let location = Tus::of(&server).create(&format!("Upload-Length: {len}\r\n"));
    let mut acknowledged = 0;
    // How much has reached the disk when it is killed: nothing, less than what is written down at a time, more, nearly all.
    for until in [0, 1, 5 * MIB, 40 * MIB, 75 * MIB, len - 1] {
        let mut tus = Tus::of(&server);
        let mut offset = tus.offset(&location);
        assert!(offset >= acknowledged, "{offset} of {acknowledged} that were acknowledged");
        // A request that ends, and one that does not.
        acknowledged = offset_of(&tus.patch(&location, offset, &bytes_at(offset, 1000)).expect(204));
        offset += 1000;
        assert_eq!(acknowledged, offset);
        tus.begin("PATCH", &location, &format!("{}Content-Length: {}\r\n", patch_fields(offset), len - offset));
        while offset < until {
            let piece = (until - offset).min(MIB);
            tus.client.send(bytes_at(offset, piece as usize));
            offset += piece;
            // So it is not the socket that holds it.
            eventually(PATIENCE, || uploads.part_len(&location) + (64 << 10) >= offset);
            acknowledged = acknowledged.max(uploads.record(&location)["offset"].as_u64().expect("an offset"));
        }
        assert!(offset - acknowledged <= 33 * MIB, "{offset}, of which {acknowledged} are written down");
        kill(server);
        server = launch().start();
    }
    let whole = Tus::of(&server).complete(&location, len);
    let name = uploads.check_stored(&whole, len);
    assert_eq!(uploads.files(), [name]);
    eventually(PATIENCE, || uploads.store().len() == 1);
    server.stop();
}

/// An upload of 1000 bytes, named so, that was whole when the server was killed, but not in its place yet.
fn cut_before_its_place(uploads: &Uploads, keys: &str, name: &str) -> String {
    let server = uploads.serve(keys);
    let mut tus = Tus::of(&server);
    let location = tus.create(&(metadata(&[("filename", name)]) + "Upload-Length: 1000\r\n"));
    tus.patch(&location, 0, &bytes_at(0, 999)).expect(204);
    kill(server);
    fs::write(uploads.part(&location), bytes_at(0, 1000)).expect("its bytes");
    uploads.edit_record(&location, |record| {
        record["offset"] = json!(1000);
        record["digest"] = Value::Null;
    });
    location
}

#[test]
fn promise5_an_upload_that_was_whole_when_the_server_was_killed_becomes_a_file_once() {
    for policy in ["reject", "rename", "replace"] {
        for state in ["free", "linked", "taken", "renamed", "moving"] {
            let uploads = Uploads::new();
            let keys = format!("names = \"client\"\non_conflict = \"{policy}\"");
            let location = cut_before_its_place(&uploads, &keys, "a.bin");
            let link = |name: &str| fs::hard_link(uploads.part(&location), uploads.at(name)).expect("a link");
            let expected = match (state, policy) {
                ("free", _) => vec!["a.bin"],
                ("linked", _) => {
                    link("a.bin");
                    vec!["a.bin"]
                }
                ("taken", "reject") => {
                    fs::write(uploads.at("a.bin"), "another's").expect("another's file");
                    vec![]
                }
                ("taken", "replace") => {
                    fs::write(uploads.at("a.bin"), "another's").expect("another's file");
                    vec!["a.bin"]
                }
                ("taken", _) => {
                    fs::write(uploads.at("a.bin"), "another's").expect("another's file");
                    vec!["a-2.bin", "a.bin"]
                }
                ("renamed", "rename") => {
                    fs::write(uploads.at("a.bin"), "another's").expect("another's file");
                    link("a-2.bin");
                    vec!["a-2.bin", "a.bin"]
                }
                // On its way over the file that it replaces.
                ("moving", "replace") => {
                    fs::write(uploads.at("a.bin"), "another's").expect("another's file");
                    link(&format!(".uploads/{}", "1".repeat(32)));
                    vec!["a.bin"]
                }
                _ => continue,
            };
            let server = uploads.serve(&keys);
            // It is asked for twice, and by two at once.
            let mut both = [Tus::of(&server), Tus::of(&server)];
            both.iter_mut().for_each(|tus| tus.begin("HEAD", &location, ""));
            for tus in &mut both {
                let head = tus.reply_to("HEAD");
                if expected.is_empty() {
                    head.expect(409);
                    continue;
                }
                let name = uploads.check_stored(&head.expect(200), 1000);
                assert_eq!(name, expected[0], "{policy}, {state}");
            }
            assert_eq!(
                uploads.files(),
                if expected.is_empty() { vec!["a.bin"] } else { expected.clone() },
                "{policy}, {state}"
            );
            let Some(name) = expected.first() else { continue };
            eventually(PATIENCE, || !uploads.part(&location).exists());
            let record = format!("{}.json", id_of(&location));
            let others = if state == "moving" { vec!["1".repeat(32)] } else { vec![] };
            // The name in the store, and one on the way over another file, go behind the reply.
            eventually(PATIENCE, || {
                uploads.store().into_iter().filter(|name| *name != record).collect::<Vec<_>>() == others
            });
            let links = fs::metadata(uploads.at(name)).expect("the file").nlink();
            assert_eq!(links, 1 + others.len() as u64, "{policy}, {state}");
            server.stop();
        }
    }
}

#[test]
fn promise5_a_name_that_was_made_up_before_the_kill_is_the_one() {
    for linked in [false, true] {
        let uploads = Uploads::new();
        let location = cut_before_its_place(&uploads, "", "film.bin");
        uploads.edit_record(&location, |record| record["name"] = json!("made-up.bin"));
        if linked {
            fs::hard_link(uploads.part(&location), uploads.at("made-up.bin")).expect("a link");
        }
        let server = uploads.serve("");
        let name = uploads.check_stored(&Tus::of(&server).head(&location).expect(200), 1000);
        assert_eq!((&*name, uploads.files()), ("made-up.bin", vec![name.clone()]));
        server.stop();
    }
}

#[test]
fn promise5_an_upload_goes_on_with_bytes_behind_its_end_and_a_record_half_written() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let location = tus.create("Upload-Defer-Length: 1\r\n");
    tus.patch(&location, 0, &bytes_at(0, 400)).expect(204);
    kill(server);
    // Writes that were under way, in any order, and the next record.
    fs::write(uploads.part(&location), [bytes_at(0, 400), vec![0; 5000]].concat()).expect("its bytes");
    fs::write(uploads.part(&location).with_extension("new"), "{\"offset\":").expect("half a record");
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    assert_eq!(tus.offset(&location), 400);
    let whole = tus.patch_with(&location, 400, "Upload-Length: 1000\r\n", &bytes_at(400, 600)).expect(204);
    uploads.check_stored(&whole, 1000);
    eventually(PATIENCE, || uploads.store().len() == 1);
    server.stop();
}

#[test]
fn promise6_a_record_that_can_not_be_read_is_said_to_be_and_harms_no_other() {
    let uploads = Uploads::new();
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let sound = tus.create("Upload-Length: 1000\r\n");
    tus.patch(&sound, 0, &bytes_at(0, 400)).expect(204);
    let location = tus.create("Upload-Length: 1000\r\n");
    tus.patch(&location, 0, &bytes_at(0, 400)).expect(204);
    kill(server);
    let server = uploads.serve("");
    let mut tus = Tus::of(&server);
    let record = uploads.record(&location);
    let changed = |key: &str, value: Value| {
        let mut record = record.clone();
        record[key] = value;
        record.to_string().into_bytes()
    };
    let mut without = record.clone();
    without.as_object_mut().expect("an object").remove("offset");
    let half = record.to_string().into_bytes();
    let records = [
        Vec::new(),
        b"garbage \0\xff".to_vec(),
        b"[]".to_vec(),
        b"null".to_vec(),
        half[..half.len() / 2].to_vec(),
        changed("offset", json!(-1)),
        changed("offset", json!("400")),
        changed("offset", json!(1001)),
        changed("offset", json!(u64::MAX)),
        changed("stored", json!({"path": 5})),
        without.to_string().into_bytes(),
        vec![b'['; 100_000],
        vec![b' '; 9 << 20],
    ];
    for bytes in records {
        fs::write(uploads.record_path(&location), &bytes).expect("another record");
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        tus.head(&location).expect(500);
        let refused = tus.patch(&location, 400, b"abc").expect(500);
        assert!(refused.text().contains("FAILED"), "{shown}: {}", refused.text());
        assert_eq!(tus.offset(&sound), 400, "{shown}");
    }
    eventually(PATIENCE, || server.log().contains("an upload can't be opened"));
    uploads.check_stored(&tus.complete(&sound, 1000), 1000);
    server.stop();
}

#[test]
fn u4_the_digest_is_right_where_its_state_can_not_be_read() {
    for state in [Value::Null, json!(""), json!("no base64!"), json!("AAAA")] {
        let uploads = Uploads::new();
        let server = uploads.serve("");
        let mut tus = Tus::of(&server);
        let location = tus.create("Upload-Length: 1000000\r\n");
        tus.patch(&location, 0, &bytes_at(0, 700_000)).expect(204);
        kill(server);
        uploads.edit_record(&location, |record| record["digest"] = state);
        let server = uploads.serve("");
        uploads.check_stored(&Tus::of(&server).complete(&location, 1_000_000), 1_000_000);
        server.stop();
    }
}
