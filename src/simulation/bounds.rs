//! Deadlines, in virtual time: neither the slow nor the silent outlive them, and who keeps them is never cut.

use std::sync::Arc;
use std::time::Duration;

use super::guest::{Ask, Manner};
use super::{BUMPY, MARK, Server, add_file, reply, streams, tight};
use crate::config::UploadConfig;
use crate::driver::sim::{Client, End, Faults, explore};
use crate::handler::upload::Upload;
use crate::limits::Limits;
use crate::router::Routes;

const FILM: u64 = 5 * MARK as u64;
const SECOND: Duration = Duration::from_secs(1);

/// How long the client lives when this is done each second, in seconds, and what it has got by then.
fn life(server: &mut Server, client: &Client, mut each_second: impl FnMut(&Client) -> Vec<u8>) -> (u64, Vec<u8>) {
    let begun = server.world.now();
    let mut received = Vec::new();
    while client.end() == End::Open && server.world.now() - begun < Duration::from_secs(600) {
        received.extend(each_second(client));
        server.run_for(SECOND);
    }
    ((server.world.now() - begun).as_secs(), received)
}

fn status(received: &[u8]) -> u16 {
    reply::take(received, false, false).expect("a whole reply").0.status
}

/// F11: a head of one byte a second is answered 408 when its time is over, however many bytes have come.
#[test]
fn f11_a_head_that_drips_is_cut_at_its_deadline() {
    explore(Faults::SLOW, |world| {
        let mut server = Server::start(world, tight());
        let client = server.connect();
        let mut head = b"GET /a-rather-long-name HTTP/1.1\r\nHost: a\r\n\r\n".iter();
        let (seconds, received) = life(&mut server, &client, |client| {
            client.try_send(&[*head.next().unwrap()]);
            client.take_received()
        });
        assert_eq!(status(&received), 408);
        // The deadline of 10 s counts from the first byte; then the server lingers for 2 s.
        assert!((11..=14).contains(&seconds), "{seconds} s");
        client.close();
        server.settle();
        server.finish();
    });
}

/// F11: a connection that says nothing is closed after the idle time, before its first request as after its last.
#[test]
fn f11_an_idle_connection_is_closed_at_its_deadline() {
    explore(Faults::SLOW, |world| {
        add_file(world, "one", 1);
        let mut server = Server::start(world, tight());
        let silent = server.connect();
        let (seconds, _) = life(&mut server, &silent, Client::take_received);
        assert!((75..=76).contains(&seconds), "{seconds} s");
        let client = server.connect();
        client.send(b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
        let (seconds, received) = life(&mut server, &client, Client::take_received);
        assert_eq!((status(&received), client.end()), (200, End::Finished));
        assert!((75..=77).contains(&seconds), "{seconds} s");
        server.settle();
        server.finish();
    });
}

/// F11: a reader of one byte a second is cut when its grace is used up; one a little over the minimum rate is never.
#[test]
fn f11_a_reader_has_to_keep_the_minimum_rate() {
    explore(Faults::SLOW, |world| {
        add_file(world, "film", FILM);
        let limits = Limits { reply_min_rate: 1024, rate_grace: Duration::from_secs(20), ..tight() };
        let mut server = Server::start(world, limits);
        let (dawdler, reader) = (server.connect(), server.connect());
        dawdler.window(1);
        reader.window(1200);
        [&dawdler, &reader].iter().for_each(|client| client.send(b"GET /film HTTP/1.1\r\nHost: a\r\n\r\n"));
        let mut whole = Vec::new();
        let (seconds, _) = life(&mut server, &dawdler, |dawdler| {
            whole.extend(reader.take_received());
            dawdler.take_received()
        });
        assert!((20..=23).contains(&seconds), "{seconds} s");
        assert_eq!((dawdler.end(), server.metrics().slow_clients_dropped.get()), (End::Reset, 1));
        while whole.len() < FILM as usize + 100 {
            server.run_for(SECOND);
            whole.extend(reader.take_received());
            assert_eq!(reader.end(), End::Open, "cut after {} bytes", whole.len());
        }
        assert_eq!(status(&whole), 200);
        reader.close();
        server.settle();
        server.finish();
    });
}

/// F11: a body of one byte a second is cut when its grace is used up, though a byte keeps coming; so is one that nobody reads.
#[test]
fn f11_a_body_has_to_keep_the_minimum_rate() {
    explore(Faults::SLOW, |world| {
        for path in ["echo", "film"] {
            add_file(world, "film", 1);
            let limits = Limits { request_min_rate: 1024, rate_grace: Duration::from_secs(20), ..tight() };
            let mut server = Server::with_routes(world, limits, streams::routes());
            let client = server.connect();
            client.send(format!("POST /{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n").as_bytes());
            let (seconds, _) = life(&mut server, &client, |client| {
                client.try_send(b"x");
                client.take_received()
            });
            assert!((20..=24).contains(&seconds), "{path}: {seconds} s");
            server.settle();
            server.finish();
        }
    });
}

/// F9: the reply to a body that is too large to be drained arrives although the client sends on and reads only then.
#[test]
fn f9_a_refusal_arrives_although_the_client_is_still_sending() {
    explore(BUMPY, |world| {
        add_file(world, "one", 1);
        let mut server = Server::start(world, tight());
        let client = server.connect();
        let len = 150 << 10;
        let mut outgoing = format!("POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n").into_bytes();
        outgoing.extend(vec![b'x'; len]);
        let mut rest = &*outgoing;
        while !rest.is_empty() {
            rest = &rest[client.try_send(&rest[..rest.len().min(1 + world.below(9000) as usize)])..];
            server.run_for(Duration::from_millis(1));
            assert_ne!(client.end(), End::Reset, "with {} bytes left", rest.len());
        }
        server.run_for(Duration::from_millis(100));
        assert_eq!(status(&client.take_received()), 405);
        client.finish();
        server.settle();
        assert_eq!(client.end(), End::Finished);
        server.finish();
    });
}

/// F9: lingering is bounded, in time and in bytes.
#[test]
fn f9_a_client_that_never_stops_sending_is_closed_all_the_same() {
    explore(Faults::SLOW, |world| {
        let mut server = Server::start(world, Limits { linger_len: 20_000, ..tight() });
        let [silent, loud] = [server.connect(), server.connect()];
        [&silent, &loud].iter().for_each(|client| client.send(b"nonsense\r\n\r\n"));
        let begun = world.now();
        server.run_until("the loud one is closed", |server| {
            let _ = loud.try_send(&[b'x'; 100]);
            server.connections().len() == 1
        });
        assert!(world.now() - begun < SECOND, "bytes are bounded");
        server.run_until("the silent one is closed", |server| server.connections().is_empty());
        let lingered = world.now() - begun;
        assert!((2 * SECOND..3 * SECOND).contains(&lingered), "{lingered:?}");
        assert_eq!((status(&silent.take_received()), silent.end()), (400, End::Finished));
        server.settle();
        server.finish();
    });
}

/// What comes behind a chunked body that is read in large pieces is held in no more memory than what any receive brings.
#[test]
fn promise1_requests_behind_a_chunked_upload_are_answered_from_bounded_memory() {
    explore(BUMPY, |world| {
        let mut routes = Routes::default();
        let config = UploadConfig { resumable: false, ..UploadConfig::new("/") };
        routes.add(None, "/up", Arc::new(Upload::new(config).expect("a folder")));
        let mut server = Server::with_routes(world, tight(), routes);
        let client = server.connect();
        let count = 100;
        let behind = "OPTIONS /up HTTP/1.1\r\nHost: a\r\n\r\n".repeat(count);
        assert!(behind.len() > 2 * server.limits.receive_buffer_len);
        let head = "PUT /up/file HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(head.as_bytes());
        // The rest goes past the receive buffers.
        server.run_for(Duration::from_millis(100));
        client.send(format!("3\r\nabc\r\n0\r\n\r\n{behind}").as_bytes());
        let mut received = Vec::new();
        server.run_until("all are answered", |_| {
            received.extend(client.take_received());
            received.windows(9).filter(|bytes| bytes == b"HTTP/1.1 ").count() == count + 1
        });
        assert_eq!((status(&received), world.content("file")), (201, b"abc".to_vec()));
        client.close();
        server.settle();
        server.finish();
    });
}

/// F4, F5: what can't be served is answered and costs its own connection only.
#[test]
fn f5_nonsense_is_answered_and_others_notice_nothing() {
    explore(BUMPY, |world| {
        add_file(world, "film", 9000);
        let mut server = Server::start(world, Limits { head_len: 2000, target_len: 500, ..tight() });
        let nonsense: &[(String, u16)] = &[
            ("GET / HTTP/1.1\r\n\r\n".into(), 400),
            (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(600)), 414),
            (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(2000)), 431),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".into(), 505),
            ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 501),
            ("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".into(), 400),
            ("POST /film HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: magic\r\n\r\n".into(), 417),
        ];
        let mut guests: Vec<_> = nonsense
            .iter()
            .cloned()
            .map(|(bytes, status)| {
                let refused = Ask::new(bytes, move |reply| assert_eq!((reply.status, reply.closes), (status, true)));
                // A client that is told to go while it still sends is answered all the same.
                server.invite(Manner { depth: 1, ..Manner::drawn(world) }, [Ask::whole("film", 9000), refused])
            })
            .collect();
        guests.push(server.invite(Manner::drawn(world), [Ask::whole("film", 9000), Ask::whole("film", 9000)]));
        server.serve(&guests);
        assert!(guests.iter().all(|guest| guest.answered() == 2));
        server.settle();
        server.finish();
    });
}
