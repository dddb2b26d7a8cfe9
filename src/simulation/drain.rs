//! The server goes: what is under way ends well, what is idle ends at once, and nothing outlives the deadline (T6).

use std::time::Duration;

use super::guest::{Ask, Guest, Manner, check_bytes};
use super::{BUMPY, MARK, Server, add_file, perhaps_cool, reply, streams, tight};
use crate::driver::sim::{End, Faults, explore};
use crate::limits::Limits;

const FILM: u64 = 3 * MARK as u64 + 11;
const GET: &[u8] = b"GET /film HTTP/1.1\r\nHost: a\r\n\r\n";

/// T6: transfers under way arrive whole, also where the next request has been sent already; idle connections are closed, new
/// ones refused, and the worker ends.
#[test]
fn t6_a_drain_lets_transfers_finish() {
    explore(BUMPY, |world| {
        add_file(world, "film", FILM);
        perhaps_cool(world, "film", FILM);
        let mut server = Server::start(world, tight());
        let idle = server.connect();
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let client = server.connect();
                client.window(2000);
                client.send(GET);
                client
            })
            .collect();
        let mut received = vec![Vec::new(); clients.len()];
        server.run_until("all have begun", |_| {
            clients.iter().zip(&mut received).for_each(|(client, received)| received.extend(client.take_received()));
            received.iter().all(|received| !received.is_empty())
        });
        // The next request, of which the server has seen nothing, little or all.
        clients.iter().for_each(|client| client.send(&GET[..world.below(GET.len() as u64 + 1) as usize]));
        server.drain();
        server.run_until("idle connections are closed", |_| idle.end() == End::Finished);
        assert!(world.try_connect(server.listener).is_none(), "nobody listens");
        let begun = world.now();
        while !server.has_drained() {
            server.run_for(Duration::from_millis(1 + world.below(20)));
            clients.iter().zip(&mut received).for_each(|(client, received)| received.extend(client.take_received()));
        }
        assert!(!server.is_overdue() && world.now() - begun < server.limits.shutdown_timeout);
        for (client, received) in clients.iter().zip(&mut received) {
            received.extend(client.take_received());
            let (reply, _) = reply::take(received, false, true).expect("a whole reply");
            check_bytes(&reply.body, 0, FILM);
        }
        server.finish();
    });
}

/// T6: a request that comes on a connection under way is still answered, and told that it was the last.
#[test]
fn t6_a_reply_during_a_drain_says_that_the_connection_ends() {
    explore(BUMPY, |world| {
        add_file(world, "film", FILM);
        let mut server = Server::start(world, tight());
        let client = server.connect();
        client.send(&GET[..5]);
        server.run_until("it has begun", |server| server.metrics().connections_active.get() == 1);
        server.drain();
        client.send(&GET[5..]);
        let mut received = Vec::new();
        while client.end() == End::Open {
            server.run_for(Duration::from_millis(5));
            received.extend(client.take_received());
        }
        let (reply, used) = reply::take(&received, false, true).expect("a whole reply");
        check_bytes(&reply.body, 0, FILM);
        assert_eq!((reply.closes, used, client.end()), (true, received.len(), End::Finished));
        client.close();
        server.run_until("the worker ends", Server::has_drained);
        server.finish();
    });
}

/// T6, promise 3: at the deadline what is left is cut, in a way that no client takes for an end.
#[test]
fn t6_an_overdue_drain_cuts_what_is_left() {
    explore(Faults::SLOW, |world| {
        add_file(world, "film", FILM);
        let limits = Limits { shutdown_timeout: Duration::from_secs(7), ..tight() };
        let mut server = Server::with_routes(world, limits, streams::routes());
        let requests: &[&[u8]] = &[
            GET,
            b"GET /film HTTP/1.0\r\n\r\n",
            b"GET /silence HTTP/1.0\r\n\r\n",
            b"GET /silence HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST /echo HTTP/1.0\r\nContent-Length: 99\r\n\r\nsome",
        ];
        let clients: Vec<_> = requests
            .iter()
            .map(|request| {
                let client = server.connect();
                client.window(2000);
                client.send(request);
                client
            })
            .collect();
        server.run_for(Duration::from_secs(1));
        server.drain();
        let begun = world.now();
        server.run_until("the worker ends", Server::has_drained);
        let took = world.now() - begun;
        assert!(server.is_overdue());
        assert!((Duration::from_secs(7)..Duration::from_millis(7100)).contains(&took), "{took:?}");
        server.finish();
        let ends: Vec<End> = clients.iter().map(|client| client.end()).collect();
        assert_eq!(ends, [End::Reset; 6]);
    });
}

/// T6: a drain at any moment of busy keep-alive connections: every reply that was begun is whole.
#[test]
fn t6_a_drain_at_any_moment_cuts_no_reply() {
    explore(BUMPY, |world| {
        add_file(world, "film", FILM);
        perhaps_cool(world, "film", FILM);
        let mut server = Server::with_routes(world, tight(), streams::routes());
        let guests: Vec<Guest> = (0..5)
            .map(|_| {
                server.invite(Manner { depth: 1, ..Manner::drawn(world) }, (0..4).map(|_| Ask::whole("film", FILM)))
            })
            .collect();
        server.run_for(Duration::from_micros(world.below(60_000)));
        // What had not begun when the server went may be refused; a guest that has begun to read sees no reset.
        guests.iter().for_each(Guest::may_be_turned_away);
        server.drain();
        server.run_until("the worker ends", Server::has_drained);
        server.serve(&guests);
        server.finish();
    });
}
