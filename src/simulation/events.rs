//! Topics of events: subscribers that read at their own pace, come back, vanish at any step, and are left behind.

use std::sync::Arc;
use std::time::Duration;

use super::{BUMPY, Server, tight};
use crate::config::{EventsConfig, OnLag};
use crate::driver::sim::{Client, End, World, explore};
use crate::handler::events::Events;
use crate::limits::Limits;
use crate::proto::http1::chunked::{ChunkLimits, Decoded, Decoder};
use crate::router::Routes;

const EVENTS: u64 = 40;

fn server(world: &std::rc::Rc<World>, config: EventsConfig) -> Server {
    let mut routes = Routes::default();
    routes.add(None, "/events", Arc::new(Events::new(config).expect("a configuration")));
    // Who stops is to be left behind, not cut for being slow.
    let limits = Limits { rate_grace: Duration::from_secs(3600), ..tight() };
    Server::with_routes(world, limits, routes)
}

/// One who reads a stream, and what it has got so far.
struct Subscriber {
    client: Client,
    received: Vec<u8>,
}

impl Subscriber {
    fn of(server: &Server, window: usize, fields: &str) -> Self {
        let client = server.connect();
        client.window(window);
        client.send(format!("GET /events/a HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes());
        Subscriber { client, received: Vec::new() }
    }

    fn read(&mut self) {
        self.received.extend(self.client.take_received());
    }

    /// The stream behind the reply's head, as far as it has come; whether its end has.
    fn stream(&self) -> (String, bool) {
        let Some(at) = self.received.windows(4).position(|end| end == b"\r\n\r\n") else {
            return (String::new(), false);
        };
        let mut decoder = Decoder::new(ChunkLimits { extension_len: 0, trailer_len: 2 });
        let (mut rest, mut stream) = (&self.received[at + 4..], Vec::new());
        loop {
            match decoder.decode(rest).expect("a chunked body") {
                Decoded::Data { data, used } => {
                    stream.extend_from_slice(&rest[data]);
                    rest = &rest[used..];
                }
                Decoded::NeedMore { .. } => return (String::from_utf8(stream).expect("text"), false),
                Decoded::End { .. } => return (String::from_utf8(stream).expect("text"), true),
            }
        }
    }

    /// The numbers of the events that have come whole, the id of the last, and how many it was told that it has lost.
    fn events(&self) -> (Vec<u64>, Option<String>, u64) {
        let (stream, _) = self.stream();
        let whole = stream.rfind("\n\n").map_or("", |end| &stream[..end]);
        let (mut numbers, mut id, mut lost) = (Vec::new(), None, 0);
        for event in whole.split("\n\n") {
            let value = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
            match (value("data: "), value("event: ")) {
                (Some(data), Some("lost")) => {
                    let told: serde_json::Value = serde_json::from_str(data).expect("JSON");
                    lost += told["lost"].as_u64().expect("a number");
                }
                (Some(data), _) => {
                    numbers.push(data.split(' ').next().expect("a number").parse().expect("a number"));
                    id = value("id: ").map(str::to_owned).or(id);
                }
                (None, _) => {}
            }
        }
        (numbers, id, lost)
    }
}

/// Publishes one event after the other, and lets some time pass between.
fn publish(server: &mut Server, numbers: std::ops::Range<u64>, mut between: impl FnMut(&mut Server)) {
    let publisher = server.connect();
    for number in numbers {
        let body = format!("{number} {}", "x".repeat(300));
        let head = format!("POST /events/a HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        publisher.send((head + &body).as_bytes());
        let mut reply = Vec::new();
        server.run_until("the event is published", |_| {
            reply.extend(publisher.take_received());
            reply.ends_with(b"}")
        });
        assert!(reply.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&reply));
        between(server);
    }
    publisher.close();
}

/// S3, T1: whoever reads slowly, comes back or is there all the time gets each event once and in order; whoever vanishes leaves
/// nothing.
#[test]
fn s3_every_subscriber_gets_every_event_once_however_it_reads() {
    explore(BUMPY, |world| {
        let mut server = server(world, EventsConfig::default());
        let mut steady: Vec<Subscriber> =
            (0..3).map(|_| Subscriber::of(&server, 400 + world.below(4000) as usize, "")).collect();
        let mut comes_back = Subscriber::of(&server, 2000, "");
        let vanishing: Vec<Subscriber> = (0..4).map(|_| Subscriber::of(&server, 700, "")).collect();
        for subscriber in &vanishing {
            let client = subscriber.client.clone();
            world.schedule(Duration::from_millis(world.below(400)), move || client.reset());
        }
        server.run_until("all subscribe", |_| {
            steady.iter_mut().chain([&mut comes_back]).for_each(Subscriber::read);
            let there = |subscriber: &Subscriber| subscriber.received.windows(4).any(|end| end == b"\r\n\r\n");
            steady.iter().chain([&comes_back]).all(there)
        });
        let (mut seen, mut numbers) = (String::new(), Vec::new());
        publish(&mut server, 0..EVENTS, |server| {
            if server.world.below(3) == 0 {
                server.run_for(Duration::from_millis(server.world.below(30)));
            }
            steady.iter_mut().for_each(Subscriber::read);
            comes_back.read();
            if server.world.below(8) == 0 {
                let (got, id, lost) = comes_back.events();
                assert_eq!(lost, 0);
                numbers.extend(got);
                seen = id.unwrap_or(std::mem::take(&mut seen));
                comes_back.client.reset();
                let fields = if seen.is_empty() {
                    "Last-Event-ID: earliest\r\n".to_owned()
                } else {
                    format!("Last-Event-ID: {seen}\r\n")
                };
                comes_back = Subscriber::of(server, 2000, &fields);
            }
        });
        let due: Vec<u64> = (0..EVENTS).collect();
        server.run_until("all have all", |_| {
            steady.iter_mut().for_each(Subscriber::read);
            comes_back.read();
            let all = [numbers.clone(), comes_back.events().0].concat();
            steady.iter().all(|subscriber| subscriber.events().0 == due) && all == due
        });
        server.drain();
        server.run_until("the streams end", |_| {
            steady.iter_mut().for_each(Subscriber::read);
            steady.iter().all(|subscriber| subscriber.stream().1)
        });
        steady.iter().chain([&comes_back]).for_each(|subscriber| subscriber.client.close());
        server.run_until("it has drained", Server::has_drained);
        server.finish();
    });
}

/// S4: one that stops is left behind, and told exactly; in both ways the others don't notice.
#[test]
fn s4_who_stops_is_told_exactly_how_much_it_has_lost() {
    explore(BUMPY, |world| {
        let on_lag = if world.below(2) == 0 { OnLag::Skip } else { OnLag::Disconnect };
        let config = EventsConfig { history_events: 3, backlog: 1500, on_lag, ..EventsConfig::default() };
        let mut server = server(world, config);
        let mut stops = Subscriber::of(&server, 900, "");
        let mut quick = Subscriber::of(&server, 9000, "");
        server.run_until("both subscribe", |server| server.metrics().subscribers.get() == 2);
        publish(&mut server, 0..EVENTS, |server| {
            server.run_until("the quick one has it", |_| {
                quick.read();
                true
            });
        });
        server.run_until("the quick one has all", |_| {
            quick.read();
            quick.events().0.len() as u64 == EVENTS
        });
        let is_told = |stops: &mut Subscriber| {
            stops.read();
            let (numbers, _, lost) = stops.events();
            match on_lag {
                OnLag::Disconnect => stops.client.end() != End::Open || stops.stream().1,
                OnLag::Skip => numbers.len() as u64 + lost == EVENTS,
            }
        };
        server.run_until("it is told", |_| is_told(&mut stops));
        let (numbers, _, lost) = stops.events();
        assert!(lost > 0, "{numbers:?}");
        let before = numbers.iter().zip(0..).take_while(|(number, expected)| *number == expected).count() as u64;
        let behind: Vec<u64> = numbers[before as usize..].to_vec();
        assert_eq!(behind, (before + lost..before + lost + behind.len() as u64).collect::<Vec<_>>());
        [&stops, &quick].into_iter().for_each(|subscriber| subscriber.client.close());
        // A client that has left is noticed with the next thing that it is sent.
        server.settle();
        server.finish();
    });
}
