//! Exchanges that have to succeed, whatever the kernel does: byte for byte, on as little memory as there may be.

use std::time::Duration;

use super::guest::{Ask, Guest, Manner, check_bytes};
use super::reply;
use super::{BUMPY, MARK, Server, World, add_file, perhaps_cool, tight};
use crate::driver::sim::{Client, End, Faults, explore};
use crate::limits::Limits;

const FILES: &[(&str, u64)] = &[
    ("empty", 0),
    ("one", 1),
    ("page", 4096),
    ("below", MARK as u64 - 400),
    ("mark", MARK as u64),
    ("film", 3 * MARK as u64 + 7),
];
const FILM: u64 = 3 * MARK as u64 + 7;

/// F6, R5–R8, promise 3: whatever is asked, in whatever order and pace, each guest gets exactly that.
#[test]
fn f6_keep_alive_exchanges_are_byte_exact_on_a_bumpy_kernel() {
    explore(BUMPY, |world| {
        FILES.iter().for_each(|(path, len)| add_file(world, path, *len));
        FILES.iter().for_each(|(path, len)| perhaps_cool(world, path, *len));
        let mut server = Server::start(world, tight());
        let guests: Vec<Guest> =
            (0..5).map(|_| server.invite(Manner::drawn(world), (0..5).map(|_| any(world)))).collect();
        server.serve(&guests);
        assert!(guests.iter().all(|guest| guest.answered() == 5));
        server.settle();
        server.finish();
    });
}

/// Something to ask, with its answer.
fn any(world: &World) -> Ask {
    let (path, len) = FILES[world.below(FILES.len() as u64) as usize];
    match world.below(10) {
        0 => Ask::new(format!("HEAD /{path} HTTP/1.1\r\nHost: a\r\nRange: bytes=0-0\r\n\r\n"), move |reply| {
            assert_eq!((reply.status, reply.field("Content-Length")), (200, Some(&*len.to_string())));
        }),
        1 => Ask::get("missing", "", |reply| assert_eq!(reply.status, 404)),
        2 => Ask::get("film", "Range: bytes=99999999-\r\n", |reply| {
            assert_eq!((reply.status, reply.field("Content-Range")), (416, Some(&*format!("bytes */{FILM}"))));
        }),
        3 => Ask::get("film", "If-None-Match: *\r\n", |reply| assert_eq!(reply.status, 304)),
        4 => Ask::new("POST /film HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nunread by", |reply| {
            assert_eq!((reply.status, reply.field("Allow").is_some(), reply.closes), (405, true, false));
        }),
        5 | 6 => {
            let start = world.below(FILM);
            let end = start + 1 + world.below(FILM - start);
            Ask::get("film", &format!("Range: bytes={start}-{}\r\n", end - 1), move |reply| {
                let range = format!("bytes {start}-{}/{FILM}", end - 1);
                assert_eq!((reply.status, reply.field("Content-Range")), (206, Some(&*range)));
                check_bytes(&reply.body, start, end);
            })
        }
        7 => {
            let ranges = [(12_000, 21_000), (0, 10), (FILM - 5, FILM)];
            Ask::get("film", &format!("Range: bytes=12000-20999,0-9,{}-\r\n", FILM - 5), move |reply| {
                assert_eq!(reply.status, 206);
                let parts = reply::parts(reply);
                assert_eq!(parts.len(), ranges.len());
                for ((content_range, bytes), (start, end)) in parts.into_iter().zip(ranges) {
                    assert_eq!(content_range, format!("bytes {start}-{}/{FILM}", end - 1));
                    check_bytes(&bytes, start, end);
                }
            })
        }
        _ => Ask::whole(path, len),
    }
}

/// Promise 2: with a turn of several probes, a file that is cold from its beginning, from some page on, or in a stretch as
/// long as the distance between two probes is never sent from before it is in memory.
#[test]
fn a_cold_stretch_of_one_probe_step_is_never_sent_from() {
    let len = 300 << 10;
    explore(Faults::SLOW, |world| {
        add_file(world, "film", len);
        let start = world.below(len);
        // A page more than the step, because a stretch may begin in the middle of one.
        let hole = start..start + PROBE_STEP + PAGE;
        world.cool("film", [0..len, start..len, hole][world.below(3) as usize].clone());
        let mut server = Server::start(world, Limits { high_water_mark: 256 << 10, ..tight() });
        let guest = server.invite(Manner { window: 300 << 10, ..Manner::PLAIN }, [Ask::whole("film", len)]);
        server.serve(&[guest]);
        assert!(server.metrics().cold_reads.get() > 0 || hole_is_behind(start, len));
        server.settle();
        server.finish();
    });
}

const PROBE_STEP: u64 = 128 << 10;
const PAGE: u64 = 4096;

/// A hole in the last page may be rounded away.
fn hole_is_behind(start: u64, len: u64) -> bool {
    start + PAGE > len
}

/// Promise 2, its bound: between two probes lies less than a step, so what such a hole costs is one wait of the worker for
/// one read of the disk, and the next reader finds it filled.
#[test]
fn a_hole_between_two_probes_costs_one_wait_at_most() {
    let len = 300 << 10;
    explore(Faults::SLOW, |world| {
        add_file(world, "film", len);
        let start = world.below(len - PROBE_STEP);
        world.cool("film", start..start + 1 + world.below(PROBE_STEP - PAGE));
        let mut server = Server::start(world, Limits { high_water_mark: 256 << 10, ..tight() });
        let manner = Manner { window: 300 << 10, ..Manner::PLAIN };
        let guest = server.invite(manner, [Ask::whole("film", len), Ask::whole("film", len)]);
        server.serve(&[guest]);
        assert!(world.stalls() <= 1, "{} waits for one hole", world.stalls());
        server.stalls_planned = world.stalls();
        server.settle();
        server.finish();
    });
}

/// Promise 1: no pooled buffer waits for a client. With one transfer buffer and two receive buffers, guests of any slowness
/// are all served.
#[test]
fn many_slow_guests_on_a_tiny_pool_are_all_served() {
    explore(BUMPY, |world| {
        add_file(world, "film", FILM);
        let mut server = Server::start(world, tiny());
        let guests: Vec<Guest> = (0..8)
            .map(|_| {
                let pace = Duration::from_millis(1 + world.below(40));
                let window = 2000 + world.below(4000) as usize;
                // Cold again and again: transfer buffers are needed.
                let film = world.clone();
                world.schedule(Duration::from_millis(world.below(200)), move || film.cool("film", 0..FILM));
                server.invite(Manner { pace, window, ..Manner::drawn(world) }, [Ask::whole("film", FILM)])
            })
            .collect();
        world.cool("film", 0..FILM);
        server.serve(&guests);
        assert!(guests.iter().all(|guest| guest.answered() == 1));
        // What was evicted a moment after it was used is still believed to be there.
        assert!(world.stalls() <= guests.len(), "{} waits for {} evictions", world.stalls(), guests.len());
        server.stalls_planned = world.stalls();
        server.settle();
        server.finish();
    });
}

fn tiny() -> Limits {
    Limits { transfer_buffers: 1, receive_buffers: 2, receive_buffer_len: 512, ..tight() }
}

/// Promise 1: however many clients have stopped, at whatever point, one that goes on is served as if it were alone.
#[test]
fn clients_that_have_stopped_hold_nothing_that_another_needs() {
    explore(BUMPY, |world| {
        add_file(world, "film", FILM);
        world.cool("film", 0..FILM);
        let mut server = Server::with_routes(world, tiny(), super::streams::routes());
        let stopped: Vec<Client> = STOPPED
            .iter()
            .chain(STOPPED)
            .chain(STOPPED)
            .map(|bytes| {
                let client = server.connect();
                client.window(600);
                client.send(bytes);
                client
            })
            .collect();
        server.run_for(Duration::from_millis(200));
        assert_eq!(server.pools().map(|pool| pool.in_use()), [0; 3], "held for clients that have stopped");
        let begun = world.now();
        let guest = server.invite(Manner::PLAIN, [Ask::whole("film", FILM), Ask::whole("film", FILM)]);
        server.serve(std::slice::from_ref(&guest));
        assert_eq!(guest.answered(), 2);
        assert!(world.now() - begun < Duration::from_secs(2), "it had to wait for them");
        assert!(stopped.iter().all(|client| client.end() == End::Open));
        server.finish();
    });
}

/// Ways of stopping: in a head, in a reply with and without more behind the request, in a body, in what a handler waits for.
const STOPPED: &[&[u8]] = &[
    b"",
    b"GET /film HT",
    b"GET /film HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /film HTTP/1.1\r\nHost: a\r\n\r\nGET /film HTTP/1.1\r\nHo",
    b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\n\r\nsome of it",
    b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\nff\r\n12",
    b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /never HTTP/1.1\r\nHost: a\r\n\r\nGET /never HTT",
    b"POST /never HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nunread",
    b"GET /silence HTTP/1.1\r\nHost: a\r\n\r\nGET /never HTT",
];

/// Promise 1, with a limit on connections: the one over it is told so, and those within notice nothing.
#[test]
fn a_connection_over_the_limit_is_answered_503() {
    // What a socket that is new does not take at once is not waited for.
    let faults = Faults { short_send: 0.0, full_socket: 0.0, ..BUMPY };
    explore(faults, |world| {
        add_file(world, "one", 1);
        let mut server = Server::start(world, Limits { connections: 2, ..tight() });
        let held = [server.connect(), server.connect()];
        server.run_until("both are in", |server| server.connections().len() == 2);
        let over: Vec<Guest> = (0..3)
            .map(|_| {
                let refused = Ask::get("one", "", |reply| {
                    assert_eq!((reply.status, reply.closes, reply.field("Retry-After")), (503, true, Some("1")));
                });
                server.invite(Manner { pace: Duration::from_millis(20), ..Manner::drawn(world) }, [refused])
            })
            .collect();
        server.serve(&over);
        assert!(over.iter().all(|guest| guest.answered() == 1));
        held[0].close();
        server.run_until("one is out", |server| server.connections().len() == 1);
        let guest = server.invite(Manner::drawn(world), [Ask::whole("one", 1)]);
        server.serve(std::slice::from_ref(&guest));
        assert_eq!(guest.answered(), 1);
        held[1].close();
        server.settle();
        server.finish();
    });
}
