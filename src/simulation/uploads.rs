//! Uploads on a kernel on which everything goes wrong: in the end the folder holds whole files and nothing else, the space of
//! what broke off has come back, and neither a descriptor nor a buffer is left.

use std::sync::Arc;
use std::time::Duration;

use super::guest::{Ask, Guest, Manner, Mishap};
use super::{BUMPY, MARK, Server, World, first, second, tight};
use crate::config::{Names, OnConflict, UploadConfig};
use crate::driver::sim::{Client, End, Faults, explore};
use crate::handler::upload::Upload;
use crate::limits::Limits;
use crate::router::Routes;

/// Several high water marks, not a round number of buffers.
const LEN: u64 = 5 * MARK as u64 + 333;
const SPACE: u64 = 1 << 30;
const SECOND: Duration = Duration::from_secs(1);

/// The folder is the root of the world.
fn config() -> UploadConfig {
    UploadConfig { names: Names::Client, ..UploadConfig::new("/") }
}

fn routes(config: UploadConfig) -> Routes {
    let mut routes = Routes::default();
    routes.add(None, "/up", Arc::new(Upload::new(config).expect("a folder")));
    routes
}

fn content(rule: fn(u64) -> u8, len: u64) -> Vec<u8> {
    (0..len).map(rule).collect()
}

/// The ways in which a file goes up.
#[derive(Clone, Copy, Debug)]
enum Way {
    Length,
    Chunks,
    Form,
}

const WAYS: [Way; 3] = [Way::Length, Way::Chunks, Way::Form];

/// A request that stores this under a name.
fn request(world: &World, way: Way, name: &str, content: &[u8]) -> Vec<u8> {
    let (target, fields, body) = match way {
        Way::Length => (name, format!("Content-Length: {}\r\n", content.len()), content.to_vec()),
        Way::Chunks => (name, String::from("Transfer-Encoding: chunked\r\n"), super::streams::chunked(world, content)),
        Way::Form => {
            let head = format!("--b\r\nContent-Disposition: form-data; name=f; filename={name}\r\n\r\n");
            let body = [head.as_bytes(), content, b"\r\n--b--\r\n"].concat();
            ("", format!("Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {}\r\n", body.len()), body)
        }
    };
    let method = if target.is_empty() { "POST" } else { "PUT" };
    [format!("{method} /up/{target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes(), &body].concat()
}

/// Any way of storing this, which has to end with one of these statuses.
fn store(world: &World, name: &str, content: &[u8], statuses: &'static [u16]) -> Ask {
    let way = WAYS[world.below(3) as usize];
    let bytes = request(world, way, name, content);
    Ask::new(bytes, move |reply| {
        let body = String::from_utf8_lossy(&reply.body);
        assert!(statuses.contains(&reply.status), "{way:?}: {} {body}", reply.status);
    })
}

/// The names of stored files.
fn stored(world: &World) -> Vec<String> {
    world.names(".").into_iter().filter(|name| name != STORE).collect()
}

/// What the server keeps for itself.
const STORE: &str = ".uploads";

/// What is left of uploads that have ended.
fn left(world: &World) -> Vec<String> {
    if world.names(".").iter().any(|name| name == STORE) { world.names(STORE) } else { Vec::new() }
}

/// That each stored file is whole and none of the rest has taken space.
#[track_caller]
fn check_folder(world: &World, space: u64, is_whole: impl Fn(&str, &[u8]) -> bool) {
    assert_eq!(left(world), [""; 0], "left in the store");
    check_files(world, space, is_whole);
}

#[track_caller]
fn check_files(world: &World, space: u64, is_whole: impl Fn(&str, &[u8]) -> bool) {
    let mut taken = 0;
    for name in stored(world) {
        let bytes = world.content(&name);
        assert!(is_whole(&name, &bytes), "{name} is not whole: {} bytes", bytes.len());
        taken += bytes.len() as u64;
    }
    assert_eq!(world.free_space() + taken, space, "the space of what broke off");
}

fn is_first(_: &str, bytes: &[u8]) -> bool {
    bytes == content(first, LEN)
}

/// T1, T2: short reads, short writes, writes in any order, with files without a name, where there are none, and where there are
/// no links either: all is stored.
#[test]
fn u1_uploads_are_byte_exact_on_a_bumpy_kernel() {
    for (no_unnamed_files, no_links) in [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)] {
        explore(Faults { no_unnamed_files, no_links, ..BUMPY }, |world| {
            world.limit_space(SPACE);
            let mut server = Server::with_routes(world, tight(), routes(config()));
            let lens = [0, 1, 700, MARK as u64 / 4, LEN];
            let guests: Vec<Guest> = (0..4)
                .map(|guest| {
                    let asks = lens
                        .iter()
                        .enumerate()
                        .map(|(number, len)| store(world, &format!("{guest}-{number}"), &content(first, *len), &[201]));
                    server.invite(Manner::drawn(world), asks.collect::<Vec<_>>())
                })
                .collect();
            server.serve(&guests);
            assert!(guests.iter().all(|guest| guest.answered() == lens.len()));
            server.settle();
            assert_eq!(stored(world).len(), 4 * lens.len());
            check_folder(world, SPACE, |name, bytes| {
                let number: usize = name.split_once('-').expect("a number").1.parse().expect("a number");
                bytes == content(first, lens[number])
            });
            server.finish();
        });
    }
}

/// U2, T2: a client that goes at any step leaves a whole file or nothing, and others go on.
#[test]
fn u2_a_client_that_goes_at_any_step_leaves_nothing_half() {
    for no_unnamed_files in [0.0, 1.0] {
        explore(Faults { no_unnamed_files, ..BUMPY }, |world| {
            world.limit_space(SPACE);
            let mut server = Server::with_routes(world, tight(), routes(config()));
            let leaving: Vec<Guest> = (0..8)
                .map(|guest| {
                    let mishap = [Mishap::Reset, Mishap::Close][world.below(2) as usize];
                    let mishap = Some((world.below(60) as usize, mishap));
                    let manner = Manner { mishap, may_be_cut: true, split: 5000, ..Manner::drawn(world) };
                    let asks = [store(world, &format!("gone-{guest}"), &content(first, LEN), &[201])];
                    server.invite(manner, asks)
                })
                .collect();
            let staying = server.invite(Manner::drawn(world), [store(world, "whole", &content(first, LEN), &[201])]);
            server.serve(&leaving);
            server.serve(std::slice::from_ref(&staying));
            assert_eq!(staying.answered(), 1);
            server.settle();
            check_folder(world, SPACE, is_first);
            assert!(stored(world).iter().any(|name| name == "whole"));
            server.finish();
        });
    }
}

/// U2: a disk that fails in some writes, syncs and links is told as such; what is answered 201 is there, whole.
#[test]
fn u2_a_failing_disk_leaves_whole_files_or_nothing() {
    explore(Faults { write_error: 0.03, ..BUMPY }, |world| {
        world.limit_space(SPACE);
        let mut server = Server::with_routes(world, tight(), routes(config()));
        let guests: Vec<Guest> = (0..6)
            .map(|guest| {
                let manner = Manner { may_be_cut: true, ..Manner::drawn(world) };
                server.invite(manner, [store(world, &format!("{guest}"), &content(first, LEN), &[201, 500])])
            })
            .collect();
        server.serve(&guests);
        server.settle();
        check_folder(world, SPACE, is_first);
        // A disk that has recovered.
        world.set_faults(BUMPY);
        let guest = server.invite(Manner::drawn(world), [store(world, "after", &content(first, LEN), &[201])]);
        server.serve(&[guest]);
        server.settle();
        check_folder(world, SPACE, is_first);
        server.finish();
    });
}

/// U2: a disk that fills up at any byte is 507; the space comes back, and what fits is stored then.
#[test]
fn u2_a_disk_that_is_full_at_any_byte_leaves_nothing() {
    explore(BUMPY, |world| {
        let space = world.below(2 * LEN);
        world.limit_space(space);
        let mut server = Server::with_routes(world, tight(), routes(config()));
        let guests: Vec<Guest> = (0..3)
            .map(|guest| {
                let manner = Manner { may_be_cut: true, ..Manner::drawn(world) };
                server.invite(manner, [store(world, &format!("{guest}"), &content(first, LEN), &[201, 507])])
            })
            .collect();
        server.serve(&guests);
        server.settle();
        check_folder(world, space, is_first);
        assert!(stored(world).len() as u64 <= space / LEN);
        let fits = content(first, world.free_space());
        let guest = server.invite(Manner::drawn(world), [store(world, "fits", &fits, &[201])]);
        server.serve(std::slice::from_ref(&guest));
        assert_eq!((guest.answered(), world.content("fits")), (1, fits));
        server.settle();
        server.finish();
    });
}

/// T6: a worker that is shut down in the midst of uploads, at any time.
#[test]
fn t2_a_shutdown_in_the_middle_leaves_nothing_half() {
    for no_unnamed_files in [0.0, 1.0] {
        explore(Faults { no_unnamed_files, ..BUMPY }, |world| {
            world.limit_space(SPACE);
            let mut server = Server::with_routes(world, tight(), routes(config()));
            let guests: Vec<Guest> = (0..6)
                .map(|guest| {
                    let manner = Manner { may_be_cut: true, split: 3000, ..Manner::drawn(world) };
                    server.invite(manner, [store(world, &format!("{guest}"), &content(first, LEN), &[201])])
                })
                .collect();
            server.run_for(Duration::from_micros(world.below(60_000)));
            server.finish();
            drop(guests);
            // Where files need names, those that were about to be made are swept when the server is back. They are empty.
            assert!(no_unnamed_files > 0.0 || left(world).is_empty());
            check_files(world, SPACE, is_first);
        });
    }
}

/// U2: whoever replaces a file that others replace too, and breaks off at times: there is always one version, whole.
#[test]
fn u2_a_file_that_is_replaced_again_and_again_is_always_whole() {
    explore(BUMPY, |world| {
        world.limit_space(SPACE);
        let config = UploadConfig { on_conflict: OnConflict::Replace, ..config() };
        let mut server = Server::with_routes(world, tight(), routes(config));
        let guests: Vec<Guest> = (0..6)
            .map(|guest| {
                let version = content(if guest % 2 == 0 { first } else { second }, LEN - guest);
                let mishap = (guest > 3).then(|| (world.below(60) as usize, Mishap::Reset));
                let manner = Manner { mishap, may_be_cut: true, split: 5000, ..Manner::drawn(world) };
                server.invite(manner, [store(world, "film", &version, &[200, 201])])
            })
            .collect();
        let is_version = |_: &str, bytes: &[u8]| {
            let rule = if bytes.first() == Some(&first(0)) { first } else { second };
            LEN - (bytes.len() as u64) < 6 && bytes == content(rule, bytes.len() as u64)
        };
        let mut is_there = false;
        while !guests.iter().all(Guest::has_left) {
            server.run_for(Duration::from_micros(200));
            let was_there = std::mem::replace(&mut is_there, stored(world) == ["film"]);
            assert!(is_there || !was_there, "gone while it is replaced");
            assert!(!is_there || is_version("film", &world.content("film")), "not whole while it is replaced");
        }
        server.settle();
        check_folder(world, SPACE, is_version);
        server.finish();
    });
}

/// Sends what is taken of a request, until it is all or this long has passed; how much was taken.
fn pour(server: &mut Server, client: &Client, bytes: &[u8], time: Duration, mut look: impl FnMut(&Server, u64)) -> u64 {
    let (begun, mut sent) = (server.world.now(), 0);
    while sent < bytes.len() && server.world.now() - begun < time && client.end() == End::Open {
        sent += client.try_send(&bytes[sent..]);
        server.run_for(Duration::from_millis(5));
        look(server, sent as u64);
    }
    sent as u64
}

/// T1: a disk that is slower than its client holds the client back: what has been taken and is not written is a high water mark
/// at most, whatever the way.
#[test]
fn t1_a_slow_disk_holds_the_client_back() {
    /// What the fake kernel's socket holds.
    const SOCKET: u64 = 64 << 10;
    for way in WAYS {
        // Each operation takes up to so long: a client that sends 64 KiB every 5 ms is far ahead of that.
        let slow = Faults { max_latency: SECOND / 2, short_write: 0.5, ..Faults::NONE };
        explore(slow, |world| {
            world.limit_space(SPACE);
            let limits = Limits { upload_buffers: 64, request_min_rate: 16, ..tight() };
            let mut server = Server::with_routes(world, limits, routes(config()));
            let all = content(first, 30 * MARK as u64);
            let bytes = request(world, way, "film", &all);
            let client = server.connect();
            let mut farthest = 0;
            let reserved = if matches!(way, Way::Length) { all.len() as u64 } else { 0 };
            let sent = pour(&mut server, &client, &bytes, 1000 * SECOND, |server, sent| {
                // What is written has taken space; what was reserved says nothing.
                let written = SPACE - server.world.free_space();
                let in_use = server.parts().runtime.upload_pool().in_use();
                assert!(in_use <= Limits::UPLOAD_BUFFERS_EACH, "{in_use} buffers for one upload");
                if reserved == 0 {
                    farthest = farthest.max(sent.saturating_sub(written));
                }
            });
            assert_eq!(sent, bytes.len() as u64, "it came to its end");
            // The framing of chunks of some bytes each, and the receive buffer in which the head came.
            let framing = (bytes.len() - all.len()) as u64 + 1024;
            assert!(farthest <= SOCKET + MARK as u64 + framing, "{farthest} bytes ahead of the disk");
            assert!(reserved > 0 || farthest > SOCKET, "the disk was not slow");
            server.run_until("it is stored", |_| client.end() == End::Open && !client.take_received().is_empty());
            client.close();
            server.settle();
            check_folder(world, SPACE, |_, bytes| bytes == all);
            server.finish();
        });
    }
}

/// A route's rate holds for each upload, and a client that is held back is not taken for a slow one.
#[test]
fn u1_an_upload_comes_at_the_routes_rate() {
    const RATE: u64 = 4096;
    for way in WAYS {
        explore(Faults::SLOW, |world| {
            world.limit_space(SPACE);
            let config = UploadConfig { upload_rate: Some(RATE), ..config() };
            let limits = Limits { request_min_rate: 64 << 10, rate_grace: SECOND, ..tight() };
            let mut server = Server::with_routes(world, limits, routes(config));
            let all = content(first, 20 * RATE);
            let manner = Manner { pace: Duration::from_millis(1), ..Manner::PLAIN };
            let begun = world.now();
            let guests = ["a", "b"].map(|name| {
                let ask = Ask::new(request(world, way, name, &all), |reply| assert_eq!(reply.status, 201));
                server.invite(manner, [ask])
            });
            server.serve(&guests);
            let took = world.now() - begun;
            assert!(guests.iter().all(|guest| guest.answered() == 1));
            // The last piece is not waited for, and a piece is a quarter of a high water mark at most.
            let least = 20 - (MARK as u64 / 4).div_ceil(RATE);
            assert!((least..=22).contains(&took.as_secs()), "{way:?}: {took:?}");
            server.settle();
            check_folder(world, SPACE, |_, bytes| bytes == all);
            server.finish();
        });
    }
}
