//! Handlers as an embedder writes them: `async fn`, with bodies that stream in and out, that fail, panic or never end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;

use super::guest::{Ask, Guest, Manner, check_bytes};
use super::{BUMPY, PLANNED, Server, World, add_file, first, tight};
use crate::StatusCode;
use crate::driver::sim::{End, Faults, explore};
use crate::error::Error;
use crate::http::{Body, Request, Response};
use crate::limits::Limits;
use crate::router::Routes;
use crate::rt::Runtime;
use crate::rt::timer::sleep;

/// Handlers that several scenarios use.
pub fn routes() -> Routes {
    let mut routes = Routes::default();
    routes.add(None, "/echo", Arc::new(echo));
    routes.add(None, "/collect", Arc::new(collect));
    routes.add(None, "/relay", Arc::new(relay));
    routes.add(None, "/never", Arc::new(async |_: Request| std::future::pending::<Response>().await));
    routes.add(
        None,
        "/silence",
        Arc::new(async |_: Request| {
            Response::new(StatusCode::OK).with_body(Body::stream::<Bytes>(futures_util::stream::pending()))
        }),
    );
    routes
}

/// Sends back what has come, when all has come.
async fn collect(mut request: Request) -> Response {
    match request.body().read_all(1 << 20).await {
        Ok(body) => Response::new(StatusCode::OK).with_body(body),
        Err(_) => Response::text(StatusCode::BAD_REQUEST, "The body did not come."),
    }
}

/// Sends back what comes through a task of its own, so that the reply begins before the body is asked for.
async fn relay(request: Request) -> Response {
    let (mut sender, body) = Body::channel(3000);
    let relaying = async move {
        let mut incoming = request.into_body();
        while let Some(Ok(chunk)) = incoming.next().await {
            if sender.send(chunk.into()).await.is_err() {
                return;
            }
        }
    };
    Runtime::current().spawn(relaying).detach();
    Response::new(StatusCode::OK).with_body(body)
}

/// Sends back what comes, as it comes.
async fn echo(request: Request) -> Response {
    let items = request.into_body().map(|chunk| chunk.map(Bytes::from));
    Response::new(StatusCode::OK).with_body(Body::stream(items))
}

fn content(len: u64) -> Vec<u8> {
    (0..len).map(first).collect()
}

/// F1, F2, F8: a body goes in and out whole, by length or in chunks, with and without waiting to be told to go on.
#[test]
fn f8_bodies_are_echoed_byte_by_byte() {
    explore(BUMPY, |world| {
        add_file(world, "film", 12_000);
        let mut server = Server::with_routes(world, tight(), routes());
        let guests: Vec<Guest> = (0..4)
            .map(|_| {
                server.invite(Manner::drawn(world), (0..3).map(|_| any_echo(world)).chain([Ask::whole("film", 12_000)]))
            })
            .collect();
        server.serve(&guests);
        assert!(guests.iter().all(|guest| guest.answered() == 4));
        server.settle();
        server.finish();
    });
}

/// F8: earlier replies may fill the socket when a client is to be told to go on; and a reply that has begun can't be
/// interrupted for it.
#[test]
fn f8_a_client_is_told_to_go_on_before_the_reply_or_never() {
    explore(BUMPY, |world| {
        add_file(world, "film", 12_000);
        let mut server = Server::with_routes(world, tight(), routes());
        let guests: Vec<Guest> = ["collect", "echo", "relay"]
            .iter()
            .map(|path| {
                let manner = Manner { depth: 3, window: 500 + world.below(2000) as usize, ..Manner::drawn(world) };
                let head =
                    format!("POST /{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\nExpect: 100-continue\r\n\r\n");
                let mut last = Ask::new(head, |reply| check_bytes(&reply.body, 0, 5000));
                last.withheld = content(5000);
                server.invite(manner, [Ask::whole("film", 12_000), Ask::whole("film", 12_000), last])
            })
            .collect();
        server.serve(&guests);
        assert!(guests.iter().all(|guest| guest.answered() == 3));
        server.settle();
        server.finish();
    });
}

/// F11: a reader that has stopped is cut at its deadline although it goes on sending for a while.
#[test]
fn f11_a_body_that_comes_in_time_is_no_excuse_for_a_reply_that_does_not_go_out() {
    explore(Faults::SLOW, |world| {
        let mut server = Server::with_routes(world, tight(), routes());
        let client = server.connect();
        client.window(1000);
        client.send(b"POST /relay HTTP/1.1\r\nHost: a\r\nContent-Length: 999999\r\n\r\n");
        for _ in 0..20 {
            client.try_send(&[b'x'; 300]);
            server.run_for(Duration::from_secs(1));
        }
        server.run_for(Duration::from_secs(61));
        assert_eq!(client.end(), End::Reset);
        server.settle();
        server.finish();
    });
}

fn any_echo(world: &World) -> Ask {
    let len = [0, 1, 700, 5000][world.below(4) as usize];
    let (framing, body) = match world.below(2) {
        0 => (format!("Content-Length: {len}\r\n"), content(len)),
        _ => (String::from("Transfer-Encoding: chunked\r\n"), chunked(world, &content(len))),
    };
    let waits = len > 0 && world.below(3) == 0;
    let expect = if waits { "Expect: 100-continue\r\n" } else { "" };
    // Whether the body will be asked for is not known when the head of an echo is written, and then the connection ends.
    let path = if waits { "collect" } else { "echo" };
    let mut bytes = format!("POST /{path} HTTP/1.1\r\nHost: a\r\n{framing}{expect}\r\n").into_bytes();
    let mut withheld = Vec::new();
    if waits {
        withheld = body
    } else {
        bytes.extend(body)
    }
    let mut ask = Ask::new(bytes, move |reply| {
        assert_eq!(reply.status, 200);
        check_bytes(&reply.body, 0, len);
    });
    ask.withheld = withheld;
    ask
}

/// The same body in chunks of any length.
pub fn chunked(world: &World, mut body: &[u8]) -> Vec<u8> {
    let mut coded = Vec::new();
    while !body.is_empty() {
        let (chunk, rest) = body.split_at(body.len().min(1 + world.below(3000) as usize));
        coded.extend(format!("{:x}\r\n", chunk.len()).bytes());
        coded.extend_from_slice(chunk);
        coded.extend_from_slice(b"\r\n");
        body = rest;
    }
    coded.extend_from_slice(b"0\r\n\r\n");
    coded
}

/// Counts a thing for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Counted(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// T2: the client goes, at whatever moment, and the handler's future, its producer and its stream are dropped at once.
#[test]
fn t2_a_client_that_resets_ends_every_stage() {
    explore(BUMPY, |world| {
        let alive = Arc::new(AtomicUsize::new(0));
        let mut routes = Routes::default();
        let count = alive.clone();
        routes.add(
            None,
            "/thinks",
            Arc::new(move |_| {
                let held = Counted::new(&count);
                async move {
                    std::future::pending::<()>().await;
                    drop(held);
                    Response::new(StatusCode::OK)
                }
            }),
        );
        let count = alive.clone();
        routes.add(
            None,
            "/ticks",
            Arc::new(move |_| {
                let held = Counted::new(&count);
                let ticks = futures_util::stream::unfold(held, async |held| {
                    sleep(Duration::from_secs(5)).await;
                    Some((Ok(Bytes::from_static(b"tick")), held))
                });
                async { Response::new(StatusCode::OK).with_body(Body::stream(ticks)) }
            }),
        );
        let count = alive.clone();
        routes.add(
            None,
            "/pours",
            Arc::new(move |_| {
                let held = Counted::new(&count);
                let (mut sender, body) = Body::channel(5000);
                let pouring = async move {
                    let _held = held;
                    while sender.send(Bytes::from(vec![b'x'; 700])).await.is_ok() {}
                };
                Runtime::current().spawn(pouring).detach();
                async { Response::new(StatusCode::OK).with_body(body) }
            }),
        );
        let mut server = Server::with_routes(world, tight(), routes);
        let clients: Vec<_> = ["thinks", "ticks", "pours"]
            .iter()
            .map(|path| {
                let client = server.connect();
                client.window(6000);
                client.send(format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
                let theirs = client.clone();
                // All three have begun by then, and none is between two events.
                world.schedule(Duration::from_millis(100 + world.below(100)), move || theirs.reset());
                client
            })
            .collect();
        server.run_until("all have begun", |_| alive.load(Relaxed) == 3);
        let before = world.now();
        server.run_until("all have ended", |_| alive.load(Relaxed) == 0);
        assert!(world.now() - before < Duration::from_secs(1), "a stage went on until its next event");
        drop(clients);
        server.settle();
        server.finish();
    });
}

/// T1: a producer is at most a mark, an item and the socket's queue ahead of the reader, and waits for one that has stopped.
#[test]
fn t1_a_producer_is_never_further_ahead_than_the_mark_allows() {
    const QUEUE: u64 = 4000;
    const ITEM: u64 = 900;
    const WINDOW: u64 = 3000;
    const TOTAL: u64 = 60 * ITEM;
    explore(BUMPY, |world| {
        let produced = Arc::new(AtomicU64::new(0));
        let count = produced.clone();
        let mut routes = Routes::default();
        routes.add(
            None,
            "/pours",
            Arc::new(move |_| {
                let count = count.clone();
                async move {
                    let (mut sender, body) = Body::channel(QUEUE as usize);
                    let pouring = async move {
                        for start in (0..TOTAL).step_by(ITEM as usize) {
                            let item: Vec<u8> = (start..start + ITEM).map(first).collect();
                            if sender.send(Bytes::from(item)).await.is_err() {
                                return;
                            }
                            count.fetch_add(ITEM, Relaxed);
                        }
                    };
                    Runtime::current().spawn(pouring).detach();
                    Response::new(StatusCode::OK).with_body(body)
                }
            }),
        );
        let mut server = Server::with_routes(world, tight(), routes);
        let client = server.connect();
        client.window(WINDOW as usize);
        client.send(b"GET /pours HTTP/1.0\r\n\r\n");
        let mut received: Vec<u8> = Vec::new();
        while client.end() == End::Open {
            // Long enough for the producer to run into its bound.
            server.run_for(Duration::from_millis(10 + world.below(3) * 1000));
            let head_len = super::reply::head(&received, false).map_or(0, |head| head.len);
            let ahead = produced.load(Relaxed) - (received.len() - head_len) as u64;
            assert!(ahead <= QUEUE + ITEM + WINDOW, "{ahead} bytes ahead");
            received.extend(client.take_received());
        }
        assert_eq!(client.end(), End::Finished);
        let (reply, _) = super::reply::take(&received, false, true).unwrap();
        check_bytes(&reply.body, 0, TOTAL);
        client.close();
        server.settle();
        server.finish();
    });
}

/// A handler's panic costs its own request a 500, before it answers, and its own connection a reset, while it streams: also
/// a client of HTTP/1.0, for which only that tells a cut from an end.
#[test]
fn a_panic_costs_its_own_request_only() {
    explore(BUMPY, |world| {
        add_file(world, "film", 12_000);
        let mut routes = Routes::default();
        routes.add(None, "/at-once", Arc::new(|_| -> std::future::Ready<Response> { std::panic::panic_any(PLANNED) }));
        routes.add(
            None,
            "/later",
            Arc::new(async |_: Request| -> Response {
                sleep(Duration::from_millis(3)).await;
                std::panic::panic_any(PLANNED)
            }),
        );
        routes.add(
            None,
            "/streaming",
            Arc::new(async |_: Request| {
                let items = futures_util::stream::iter(0..).map(|number| match number {
                    3 => std::panic::panic_any(PLANNED),
                    _ => Ok(Bytes::from_static(b"item")),
                });
                Response::new(StatusCode::OK).with_body(Body::stream(items))
            }),
        );
        let mut server = Server::with_routes(world, tight(), routes);
        let failed = |path| Ask::get(path, "", |reply| assert_eq!((reply.status, reply.closes), (500, false)));
        let asks = [failed("at-once"), Ask::whole("film", 12_000), failed("later"), Ask::whole("film", 12_000)];
        let guest = server.invite(Manner::drawn(world), asks);
        let other = server.invite(Manner::drawn(world), [Ask::whole("film", 12_000), Ask::whole("film", 12_000)]);
        let cut = ["1.0", "1.1"].map(|version| {
            let client = server.connect();
            client.send(format!("GET /streaming HTTP/{version}\r\nHost: a\r\n\r\n").as_bytes());
            client
        });
        server.serve(&[guest.clone(), other.clone()]);
        assert_eq!((guest.answered(), other.answered()), (4, 2));
        server.run_until("the streams are cut", |_| cut.iter().all(|client| client.end() != End::Open));
        assert!(cut.iter().all(|client| client.end() == End::Reset), "a cut that looks like an end");
        server.panics_planned = 4;
        assert_eq!(server.metrics().handler_panics.get(), 4);
        server.settle();
        server.finish();
    });
}

/// T2, T3: a stream that fails, or is not as long as it said, is aborted so that the client can tell.
#[test]
fn t2_a_stream_that_fails_is_a_reset() {
    explore(BUMPY, |world| {
        let mut routes = Routes::default();
        routes.add(
            None,
            "/fails",
            Arc::new(async |_: Request| {
                let items = [item(), Err(Error::server("the source is gone"))];
                Response::new(StatusCode::OK).with_body(Body::stream(futures_util::stream::iter(items)))
            }),
        );
        for (path, len) in [("/short", 9), ("/long", 7)] {
            routes.add(
                None,
                path,
                Arc::new(move |_| async move {
                    let items = futures_util::stream::iter([item(), item()]);
                    Response::new(StatusCode::OK).with_body(Body::sized_stream(items, len))
                }),
            );
        }
        let mut server = Server::with_routes(world, tight(), routes);
        for (path, version) in [("fails", "1.0"), ("fails", "1.1"), ("short", "1.1"), ("long", "1.1")] {
            let client = server.connect();
            client.send(format!("GET /{path} HTTP/{version}\r\nHost: a\r\n\r\n").as_bytes());
            server.run_until("it is cut", |_| client.end() != End::Open);
            assert_eq!(client.end(), End::Reset, "{path}");
        }
        server.settle();
        server.finish();
    });
}

fn item() -> Result<Bytes, Error> {
    Ok(Bytes::from_static(b"item"))
}

/// F7: what a handler leaves of a small body is never read as the next request; a large one costs the connection.
#[test]
fn f7_a_body_that_nobody_reads_is_no_request() {
    explore(BUMPY, |world| {
        add_file(world, "one", 1);
        let mut server = Server::start(world, Limits { drain_len: 3000, ..tight() });
        let unread = |len: usize, closes| {
            let body = b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n".repeat(len / 32 + 1);
            let mut bytes = format!("POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n").into_bytes();
            bytes.extend_from_slice(&body[..len]);
            Ask::new(bytes, move |reply| assert_eq!((reply.status, reply.closes), (405, closes)))
        };
        let manner = Manner { depth: 1, ..Manner::drawn(world) };
        let guest = server
            .invite(manner, [unread(3000, false), Ask::whole("one", 1), unread(3001, true), Ask::whole("one", 1)]);
        server.serve(std::slice::from_ref(&guest));
        assert_eq!((guest.answered(), guest.end()), (3, End::Finished));
        server.settle();
        server.finish();
    });
}
