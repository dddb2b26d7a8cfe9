//! Files that change while they are sent, descriptors that run out, and clients to which things happen.

use std::time::Duration;

use super::guest::{Ask, Guest, Manner, Mishap, check_unmixed};
use super::{BUMPY, MARK, Server, add_file, perhaps_cool, second, streams, tight};
use crate::driver::sim::{Content, End, Faults, explore};
use crate::limits::Limits;

const FILM: u64 = 2 * MARK as u64 + 123;

/// R13, promise 3: a file is cut, replaced, removed, broken or grows while it is sent. Each reply is one version, whole, or a
/// beginning of one and a reset; after that nothing more comes on the connection.
#[test]
fn r13_a_file_that_changes_is_sent_whole_or_cut_but_never_padded_or_mixed() {
    let faults = Faults { read_error: 0.02, ..BUMPY };
    explore(faults, |world| {
        add_file(world, "film", FILM);
        perhaps_cool(world, "film", FILM);
        let mut server = Server::start(world, tight());
        let guests: Vec<Guest> = (0..4)
            .map(|_| {
                let asks = (0..3).map(|_| {
                    Ask::get("film", "", |reply| match reply.status {
                        200 => check_unmixed(&reply.body),
                        status => assert!(matches!(status, 404 | 500), "{status}"),
                    })
                });
                server.invite(Manner { may_be_cut: true, ..Manner::drawn(world) }, asks)
            })
            .collect();
        let (theirs, what) = (world.clone(), world.below(5));
        world.schedule(Duration::from_micros(world.below(40_000)), move || match what {
            0 => theirs.set_len("film", theirs.below(FILM)),
            1 => theirs.add_file("film", Content::Rule(FILM / 2, second)),
            2 => theirs.remove("film"),
            3 => theirs.break_reads("film"),
            _ => theirs.set_len("film", 2 * FILM),
        });
        server.serve(&guests);
        for guest in &guests {
            assert!(guest.answered() == 3 || guest.end() == End::Reset, "{} replies", guest.answered());
        }
        server.settle();
        server.finish();
    });
}

/// R13: what was promised is sent of a file that grows, and a reset ends what can't be kept of one that shrinks, at once.
#[test]
fn r13_a_file_that_shrinks_under_a_reader_ends_in_a_reset() {
    explore(BUMPY, |world| {
        add_file(world, "film", FILM);
        world.cool("film", world.below(2 * FILM)..FILM);
        let mut server = Server::start(world, tight());
        let client = server.connect();
        client.window(2000);
        // The second request is never answered.
        client.send(&b"GET /film HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2));
        server.run_for(Duration::from_millis(50));
        let mut received = client.take_received();
        assert!(!received.is_empty());
        let len = FILM - 1 - world.below(MARK as u64);
        world.set_len("film", len);
        let begun = world.now();
        while client.end() == End::Open {
            server.run_for(Duration::from_millis(5));
            received.extend(client.take_received());
            assert!(world.now() - begun < Duration::from_secs(10), "it stalls");
        }
        assert_eq!((client.end(), server.metrics().truncated.get()), (End::Reset, 1));
        let head = super::reply::head(&received, false).unwrap();
        assert!((received.len() - head.len) as u64 <= len, "padded");
        check_unmixed(&received[head.len..]);
        server.settle();
        server.finish();
    });
}

/// Descriptors run out, for accepts and for opens: everybody is served in the end or told to come again, and nothing spins.
#[test]
fn descriptors_that_run_out_cost_time_only() {
    explore(Faults { no_descriptors: 0.1, ..BUMPY }, |world| {
        add_file(world, "film", FILM);
        add_file(world, "one", 1);
        // The listener, the root, and one more than a connection with its file needs.
        world.limit_descriptors(5);
        let mut server = Server::start(world, Limits { open_files: 1, ..tight() });
        let guests: Vec<Guest> = (0..6)
            .map(|_| {
                let asks = [Ask::whole_or_busy("film", FILM), Ask::whole_or_busy("one", 1)];
                server.invite(Manner::drawn(world), asks)
            })
            .collect();
        server.serve(&guests);
        assert!(guests.iter().all(|guest| guest.answered() == 2));
        // The cache may hold the last one.
        world.limit_descriptors(6);
        world.set_faults(BUMPY);
        let last = server.invite(Manner::PLAIN, [Ask::whole("film", FILM)]);
        server.serve(std::slice::from_ref(&last));
        assert_eq!(last.answered(), 1);
        server.settle();
        server.finish();
    });
}

/// A worker whose accepts fail looks again ten times a second, not ten thousand times; and at once when a connection closes.
#[test]
fn an_accept_without_descriptors_does_not_spin() {
    explore(Faults::NONE, |world| {
        add_file(world, "one", 1);
        let mut server = Server::start(world, tight());
        let held = server.connect();
        server.run_until("it is in", |server| server.connections().len() == 1);
        world.limit_descriptors(2);
        let waiting = server.invite(Manner::PLAIN, [Ask::whole_or_busy("one", 1)]);
        let turns_before = server.turns_taken;
        // Its own steps become rare while nothing comes.
        server.run_for(Duration::from_secs(20));
        let turns = server.turns_taken - turns_before;
        assert!(turns < 2000, "{turns} turns in 20 s");
        assert!((100..=210).contains(&server.metrics().accept_pauses.get()));
        let before = server.metrics().accept_pauses.get();
        held.close();
        server.run_until("the next is in", |server| server.metrics().connections_accepted.get() == 2);
        assert!(server.metrics().accept_pauses.get() <= before + 1);
        server.serve(&[waiting]);
        server.settle();
        server.finish();
    });
}

/// Promise 5: whatever happens to clients at whatever step, nothing is left of them, and others notice nothing.
#[test]
fn a_client_that_leaves_at_any_step_leaves_nothing() {
    explore(BUMPY, |world| {
        add_file(world, "film", FILM);
        perhaps_cool(world, "film", FILM);
        let limits = Limits { idle_timeout: Duration::from_secs(5), rate_grace: Duration::from_secs(5), ..tight() };
        let mut server = Server::with_routes(world, limits, streams::routes());
        let mishaps = [Mishap::Reset, Mishap::Close, Mishap::HalfClose, Mishap::Stop];
        let mut guests = Vec::new();
        for step in 0..6 {
            for mishap in mishaps {
                // Early steps one by one, later ones as they come.
                let step = if step < 4 { step } else { world.below(40) as usize };
                // A client that has stopped may be cut; nobody is there to see it.
                let manner = Manner { mishap: Some((step, mishap)), ..Manner::drawn(world) };
                guests.push(server.invite(manner, [Ask::whole("film", FILM), upload(), Ask::whole("film", FILM)]));
            }
        }
        let sound = server.invite(Manner::drawn(world), [Ask::whole("film", FILM), upload(), Ask::whole("film", FILM)]);
        guests.push(sound.clone());
        server.serve(&guests);
        assert_eq!(sound.answered(), 3);
        server.settle();
        server.finish();
    });
}

fn upload() -> Ask {
    let body: Vec<u8> = (0..5000).map(super::first).collect();
    let mut bytes = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n".to_vec();
    bytes.extend(body);
    Ask::new(bytes, |reply| super::guest::check_bytes(&reply.body, 0, 5000))
}

/// F10: a client that has said all it has to say still gets every reply it asked for.
#[test]
fn f10_a_half_closed_client_gets_its_replies() {
    explore(BUMPY, |world| {
        add_file(world, "film", FILM);
        world.cool("film", world.below(2 * FILM)..FILM);
        let mut server = Server::start(world, tight());
        let client = server.connect();
        client.window(3000);
        client.send(&b"GET /film HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2));
        client.finish();
        let mut received = Vec::new();
        while client.end() == End::Open {
            server.run_for(Duration::from_millis(1 + world.below(30)));
            received.extend(client.take_received());
        }
        assert_eq!(client.end(), End::Finished);
        let mut rest = &*received;
        for _ in 0..2 {
            let (reply, used) = super::reply::take(rest, false, true).unwrap();
            super::guest::check_bytes(&reply.body, 0, FILM);
            rest = &rest[used..];
        }
        assert!(rest.is_empty());
        server.settle();
        server.finish();
    });
}
