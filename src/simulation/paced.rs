//! Replies that are held to a rate: when the kernel is told what, and that nobody is cut for taking what there is.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use super::guest::check_bytes;
use super::{BUMPY, MARK, Server, first, reply, tight};
use crate::StatusCode;
use crate::driver::sim::{Client, End, Faults, explore};
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

/// `/bytes` and `/stream` at a rate behind a burst, `/lowest` at the lowest, `/shared` at the rate of an address, `/plain` as
/// ever.
fn routes() -> Routes {
    let mut routes = Routes::default();
    let ok = |body| Response::new(StatusCode::OK).with_body(body);
    let bytes = || Body::Bytes(content().into());
    let stream = || {
        let items: Vec<_> = content().chunks(1000).map(|item| Ok(item.to_vec().into())).collect();
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
    routes.add(None, "/plain", Arc::new(move |_: Request| ready(ok(Body::from("plain")))));
    routes
}

fn ask(client: &Client, path: &str) {
    client.send(format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
}

/// Takes what there is until the reply is whole, and looks at it each time with the number of its bytes so far.
fn take(server: &mut Server, client: &Client, mut look: impl FnMut(u64)) -> reply::Reply {
    let mut received = Vec::new();
    loop {
        server.turn();
        received.extend(client.take_received());
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
    for path in ["bytes", "stream"] {
        explore(BUMPY, |world| {
            let mut server = Server::with_routes(world, tight(), routes());
            let client = server.connect();
            for round in 1..3 {
                ask(&client, path);
                let reply = take(&mut server, &client, |received| {
                    let expected = if received > BURST { RATE } else { NO_RATE };
                    let settled = received != 0 && received != BURST;
                    assert!(!settled || client.max_pacing_rate() == expected, "after {received} bytes");
                });
                check_bytes(&reply.body, 0, LEN);
                assert_eq!((client.max_pacing_rate(), server.metrics().paced_replies.get()), (RATE, round));
            }
            ask(&client, "plain");
            let reply = take(&mut server, &client, |_| {});
            assert_eq!((&*reply.body, client.max_pacing_rate()), (&b"plain"[..], NO_RATE));
            assert_eq!(server.metrics().paced_replies.get(), 2);
            client.close();
            server.settle();
            server.finish();
        });
    }
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
        ask(&first, "shared");
        read_until(&mut server, [RATE, NO_RATE]);
        ask(&second, "shared");
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
            ask(client, "lowest");
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
