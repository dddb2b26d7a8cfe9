//! Queues: consumers that vanish at any step. No item is lost, and none comes twice unless its lease ran out.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::{BUMPY, Server, tight};
use crate::config::QueueConfig;
use crate::driver::sim::{Client, End, World, explore};
use crate::handler::queue::{Item, Queue};
use crate::router::Routes;
use crate::rt::testing::block_on;

/// A server with a queue of these many items at `/q/work`: each its number, and so many blanks that it is long.
fn queue(world: &std::rc::Rc<World>, items: u64) -> (Server, Queue) {
    let queue = Queue::new(QueueConfig::default()).expect("queues");
    for number in 0..items {
        let item = Item::json(format!("{number}{}", " ".repeat(world.below(9000) as usize))).expect("a number");
        block_on(queue.push("work", item)).expect("room");
    }
    let mut routes = Routes::default();
    routes.add(None, "/q", Arc::new(queue.clone()));
    (Server::with_routes(world, tight(), routes), queue)
}

fn ask(client: &Client, parameters: &str) {
    client.send(format!("GET /q/work?{parameters} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
}

/// The lines that came whole: those whose last chunk did.
fn lines(received: &[u8]) -> Vec<Value> {
    let head = received.windows(4).position(|window| window == b"\r\n\r\n");
    let mut rest = head.map_or(&[][..], |at| &received[at + 4..]);
    let mut text = Vec::new();
    while let Some(line) = rest.windows(2).position(|window| window == b"\r\n") {
        let len = usize::from_str_radix(std::str::from_utf8(&rest[..line]).expect("digits"), 16).expect("a length");
        let Some(chunk) = rest.get(line + 2..line + 4 + len) else { break };
        text.extend_from_slice(&chunk[..len]);
        rest = &rest[line + 4 + len..];
    }
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let lines = text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect()
}

/// What the kernel takes for a client that has closed in order, and did not say so by a reset yet, is lost with it: that is what
/// leases are for.
#[test]
fn t1_consumers_that_vanish_at_any_step_lose_nothing_and_get_nothing_twice() {
    explore(BUMPY, |world| {
        let items = 6;
        let (mut server, queue) = queue(world, items);
        let mut found: Vec<u64> = Vec::new();
        let mut note =
            |received: &[u8]| found.extend(lines(received).iter().map(|item| item.as_u64().expect("a number")));
        for _ in 0..3 {
            let client = server.connect();
            client.window(1 + world.below(12_000) as usize);
            ask(&client, ["", "max=2", "wait=0"][world.below(3) as usize]);
            let (gone, theirs) = (super::Shared::<Option<Vec<u8>>>::default(), client.clone());
            let kept = gone.clone();
            world.schedule(Duration::from_micros(world.below(3000)), move || {
                // What the kernel took is the client's, whether it reads it or not.
                kept.replace(Some(theirs.take_received()));
                theirs.reset();
            });
            server.run_until("it has gone", |_| gone.borrow().is_some());
            server.run_until("that was noticed", |server| server.metrics().queue_consumers.get() == 0);
            note(&[gone.take().expect("what came"), client.take_received()].concat());
        }
        let client = server.connect();
        ask(&client, "wait=0");
        let mut received = Vec::new();
        while !received.ends_with(b"\r\n0\r\n\r\n") && client.end() == End::Open {
            server.run_for(Duration::from_millis(1));
            received.extend(client.take_received());
        }
        note(&received);
        found.sort_unstable();
        assert_eq!(found, (0..items).collect::<Vec<_>>());
        client.close();
        server.settle();
        server.finish();
        drop(queue);
    });
}

#[test]
fn a_lease_that_runs_out_is_the_only_way_to_get_an_item_again() {
    explore(BUMPY, |world| {
        let items = 3;
        let (mut server, _queue) = queue(world, items);
        let dead = server.connect();
        dead.window(100_000);
        ask(&dead, "ack=1&max=3");
        let mut received = Vec::new();
        while !received.ends_with(b"0\r\n\r\n") {
            server.run_for(Duration::from_millis(1));
            received.extend(dead.take_received());
        }
        let taken = world.now();
        dead.reset();
        let waiting = server.connect();
        waiting.window(100_000);
        ask(&waiting, "ack=1&max=3");
        let mut again = Vec::new();
        server.run_until("it has all again", |_| {
            again.extend(waiting.take_received());
            again.ends_with(b"0\r\n\r\n")
        });
        let waited = world.now() - taken;
        assert!((Duration::from_secs(28)..Duration::from_secs(40)).contains(&waited), "after {waited:?}");
        for (attempt, received) in [(1, received), (2, again)] {
            let lines = lines(&received);
            let seen: Vec<_> = lines.iter().map(|line| (line["item"].as_u64(), line["attempt"].as_u64())).collect();
            assert_eq!(seen, (0..items).map(|item| (Some(item), Some(attempt))).collect::<Vec<_>>());
        }
        waiting.close();
        server.settle();
        server.finish();
    });
}
