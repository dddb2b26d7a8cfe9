//! Replies that are held to a rate: when the kernel is told what, and that nobody is cut for taking what there is.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use super::guest::check_bytes;
use super::{BUMPY, MARK, Server, add_file, first, perhaps_cool, reply, tight};
use crate::StatusCode;
use crate::config::{MediaConfig, RateSource};
use crate::driver::sim::{Client, Content, End, Faults, explore};
use crate::handler::media::Media;
use crate::http::{AddressRates, Body, Pacing, Request, Response};
use crate::limits::Limits;
use crate::router::Routes;

const LEN: u64 = 5 * MARK as u64 + 7;
const BURST: u64 = MARK as u64 + 5;
const RATE: u64 = 100_000;
const NO_RATE: u64 = u64::MAX;
const SECOND: Duration = Duration::from_secs(1);

fn content() -> Vec<u8> {
    (0..LEN).map(first).collect()
}

const OWN: Pacing = Pacing { rate: Some(RATE), burst: BURST, address: None };
/// Less than may be.
const LOWEST: Pacing = Pacing { rate: Some(1), burst: 0, address: None };

/// `/bytes`, `/stream` and the files of `/limited` at a rate behind a burst, those of `/told` at their own, `/lowest` at the lowest, `/shared` at the rate of an address, `/plain` as
/// ever.
fn routes() -> Routes {
    let mut routes = Routes::default();
    let ok = |body| Response::new(StatusCode::OK).with_body(body);
    let bytes = || Body::Bytes(content().into());
    let stream = || {
        let items: Vec<_> = content().chunks(1000).map(|item| Ok(bytes::Bytes::from(item.to_vec()))).collect();
        Body::stream(futures_util::stream::iter(items))
    };
    let rates = AddressRates::new(RATE);
    let of_address = move |request: &Request| Pacing {
        address: request.peer().map(|peer| rates.share(peer.ip())),
        ..Pacing::default()
    };
    routes.add(None, "/bytes", Arc::new(move |_: Request| ready(ok(bytes()).paced(OWN))));
    routes.add(None, "/stream", Arc::new(move |_: Request| ready(ok(stream()).paced(OWN))));
    routes.add(None, "/lowest", Arc::new(move |_: Request| ready(ok(bytes()).paced(LOWEST))));
    routes.add(None, "/shared", Arc::new(move |request: Request| ready(ok(bytes()).paced(of_address(&request)))));
    let media = |media: MediaConfig| Arc::new(Media::new(media).expect("a root"));
    let limited = MediaConfig { limit_rate: Some(RATE), rate_burst: BURST, ..MediaConfig::new("/") };
    routes.add(None, "/limited", media(limited.clone()));
    // The rate that is told wins where it is lower.
    routes.add(None, "/told", media(MediaConfig { rate_from: Some(RateSource::Bitrate), ..limited }));
    routes.add(None, "/plain", Arc::new(move |_: Request| ready(ok(Body::from("plain")))));
    routes
}

fn ask(client: &Client, path: &str, fields: &str) {
    client.send(format!("GET /{path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes());
}

/// Takes what there is until the reply is whole, and looks at it each time with the number of its bytes so far.
fn take(server: &mut Server, client: &Client, mut look: impl FnMut(u64)) -> reply::Reply {
    let mut received = Vec::new();
    loop {
        // The client looks again and again: a turn does not wait for what comes without it.
        server.world.schedule(Duration::from_millis(1), || {});
        server.turn();
        let some = client.take_received();
        if some.is_empty() {
            continue;
        }
        received.extend(some);
        look(received.len() as u64);
        if let Some((reply, used)) = reply::take(&received, false, false) {
            assert_eq!(used, received.len());
            return reply;
        }
    }
}

/// The rate is told when the burst is used up, not a byte later or earlier. It outlives the reply, whose last bytes are in the
/// send queue, and ends with the next.
#[test]
fn a_rate_holds_from_the_end_of_the_burst_to_the_next_reply() {
    for path in ["bytes", "stream", "limited/film"] {
        explore(BUMPY, |world| {
            add_file(world, "film", LEN);
            perhaps_cool(world, "film", LEN);
            let mut server = Server::with_routes(world, tight(), routes());
            let client = server.connect();
            for round in 1..3 {
                ask(&client, path, "");
                let reply = take(&mut server, &client, |received| {
                    let expected = if received > BURST { RATE } else { NO_RATE };
                    let settled = received != BURST;
                    assert!(!settled || client.max_pacing_rate() == expected, "after {received} bytes");
                });
                check_bytes(&reply.body, 0, LEN);
                assert_eq!((client.max_pacing_rate(), server.metrics().paced_replies.get()), (RATE, round));
            }
            ask(&client, "plain", "");
            let reply = take(&mut server, &client, |_| {});
            assert_eq!((&*reply.body, client.max_pacing_rate()), (&b"plain"[..], NO_RATE));
            assert_eq!(server.metrics().paced_replies.get(), 2);
            client.close();
            server.settle();
            server.finish();
        });
    }
}

/// A film of `LEN` bytes and so many thousandths of a second, which it tells at its end.
fn film(thousandths: u32) -> Vec<u8> {
    let fields = [&[0; 12][..], &1000_u32.to_be_bytes(), &thousandths.to_be_bytes(), &[0; 80]].concat();
    let movie = [&b"\0\0\0\x74moov\0\0\0\x6Cmvhd"[..], &fields].concat();
    let samples = LEN as usize - 8 - movie.len();
    let head = [&(samples as u32 + 8).to_be_bytes()[..], b"mdat"].concat();
    [head, content()[..samples].to_vec(), movie].concat()
}

/// A film is held to its own bitrate times the factor, in ranges too, whether it has to be read from the disk for that or
/// not; and to another when it is another.
#[test]
fn a_film_is_held_to_its_bitrate() {
    explore(BUMPY, |world| {
        world.add_file("film", Content::Bytes(film(1000)));
        perhaps_cool(world, "film", LEN);
        add_file(world, "noise", LEN);
        let mut server = Server::with_routes(world, tight(), routes());
        let client = server.connect();
        let rate_of = |server: &mut Server, request: &str, expected: &[u8]| {
            ask(&client, request, "");
            let reply = take(server, &client, |_| {});
            assert!(reply.body == expected, "{request}");
            client.max_pacing_rate()
        };
        // Often enough that it is told of what is in memory as well as of what is not, young and settled.
        for _ in 0..3 {
            assert_eq!(rate_of(&mut server, "told/film", &film(1000)), LEN * 3 / 2);
            server.run_for(SECOND);
        }
        ask(&client, "told/film", "Range: bytes=1-20000\r\n");
        assert_eq!(take(&mut server, &client, |_| {}).body, film(1000)[1..20001]);
        assert_eq!(client.max_pacing_rate(), LEN * 3 / 2);
        // What goes out within the burst is not held.
        ask(&client, "told/film", "Range: bytes=0-99\r\n");
        assert_eq!(take(&mut server, &client, |_| {}).body, film(1000)[..100]);
        assert_eq!(client.max_pacing_rate(), NO_RATE);
        // The lower of both, and the other where there is no bitrate.
        world.overwrite("film", Content::Bytes(film(100)));
        perhaps_cool(world, "film", LEN);
        server.run_for(2 * SECOND);
        assert_eq!(rate_of(&mut server, "told/film", &film(100)), RATE);
        assert_eq!(rate_of(&mut server, "told/noise", &content()), RATE);
        client.close();
        server.settle();
        server.finish();
    });
}

/// An address's rate is divided among its transfers as they come and go, from the first byte on.
#[test]
fn an_addresss_transfers_share_its_rate_while_they_last() {
    explore(BUMPY, |world| {
        let mut server = Server::with_routes(world, tight(), routes());
        let [first, second] = [server.connect(), server.connect()];
        [&first, &second].iter().for_each(|client| client.window(1000));
        let read_until = |server: &mut Server, rates: [u64; 2]| {
            while [&first, &second].map(Client::max_pacing_rate) != rates {
                [&first, &second].iter().for_each(|client| drop(client.take_received()));
                server.run_for(Duration::from_millis(10));
                assert!(!server.connections().is_empty());
            }
        };
        ask(&first, "shared", "");
        read_until(&mut server, [RATE, NO_RATE]);
        ask(&second, "shared", "");
        read_until(&mut server, [RATE / 2, RATE / 2]);
        second.reset();
        read_until(&mut server, [RATE, RATE / 2]);
        first.close();
        server.settle();
        server.finish();
    });
}

/// F11: with a rate of twice the minimum, the lowest that there is, a full socket takes longer to have room than the grace
/// lasts. A client that takes what is sent is never cut for it; one that takes nothing is, after that time and the grace.
#[test]
fn f11_who_takes_a_reply_as_fast_as_it_is_sent_is_not_slow() {
    explore(Faults::SLOW, |world| {
        let limits = Limits { reply_min_rate: 1024, rate_grace: SECOND, ..tight() };
        let mut server = Server::with_routes(world, limits, routes());
        let [reader, dawdler] = [server.connect(), server.connect()];
        // The send queue and what lies in the client's.
        let queue = 2 * MARK;
        [&reader, &dawdler].iter().for_each(|client| {
            client.window(queue);
            ask(client, "lowest", "");
        });
        let (begun, mut received, mut cut_after) = (world.now(), Vec::new(), None);
        while received.len() < LEN as usize {
            server.run_until("the rate is told", |_| reader.max_pacing_rate() != NO_RATE);
            assert_eq!(reader.max_pacing_rate(), 2048, "no lower, whatever was asked for");
            // What a paced queue looks like from outside: nothing moves, and after its time there is room.
            server.run_for(SECOND * (queue / 2048) as u32);
            received.extend(reader.take_received());
            assert_eq!(reader.end(), End::Open, "cut after {} bytes", received.len());
            if cut_after.is_none() && dawdler.end() == End::Reset {
                cut_after = Some(world.now() - begun);
            }
        }
        assert!(cut_after.is_some_and(|time| time <= 4 * SECOND * (queue / 2048) as u32), "{cut_after:?}");
        assert_eq!(server.metrics().slow_clients_dropped.get(), 1);
        reader.close();
        server.settle();
        server.finish();
    });
}
