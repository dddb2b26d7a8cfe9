//! A client with a will of its own: it sends in splits, reads at a pace, pipelines, and at a step of its choice something
//! happens to it. Every reply is checked when it is whole.

use std::rc::{Rc, Weak};
use std::time::Duration;

use super::reply::{self, Framing, Head, Reply};
use super::{Shared, World, first, second};
use crate::driver::sim::{Client, End};

/// A request and what has to come back.
pub struct Ask {
    /// The head, and the body unless that is withheld.
    pub bytes: Vec<u8>,
    /// Sent when the server says to go on (100).
    pub withheld: Vec<u8>,
    to_head: bool,
    check: Box<dyn Fn(&Reply)>,
}

impl Ask {
    pub fn new(bytes: impl Into<Vec<u8>>, check: impl Fn(&Reply) + 'static) -> Self {
        let bytes = bytes.into();
        Ask { to_head: bytes.starts_with(b"HEAD "), bytes, withheld: Vec::new(), check: Box::new(check) }
    }

    /// A GET with more fields, each with its line end.
    pub fn get(path: &str, fields: &str, check: impl Fn(&Reply) + 'static) -> Self {
        Ask::new(format!("GET /{path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"), check)
    }

    /// All of a file by the first rule.
    pub fn whole(path: &str, len: u64) -> Self {
        Ask::get(path, "", move |reply| {
            assert_eq!(reply.status, 200);
            check_bytes(&reply.body, 0, len);
        })
    }

    /// All of a file by the first rule; or 503, as long as descriptors are scarce.
    pub fn whole_or_busy(path: &str, len: u64) -> Self {
        Ask::get(path, "", move |reply| match reply.status {
            503 => assert!(reply.field("Retry-After").is_some()),
            _ => check_bytes(&reply.body, 0, len),
        })
    }
}

/// That these are the bytes from `start` to `end` of a file by the first rule.
#[track_caller]
pub fn check_bytes(bytes: &[u8], start: u64, end: u64) {
    assert_eq!(bytes.len() as u64, end - start, "length");
    assert_eq!(mismatch(bytes, start, first), None);
}

/// That these are bytes of one version: all by the first rule or all by the second.
#[track_caller]
pub fn check_unmixed(bytes: &[u8]) {
    let version = if bytes.first().is_none_or(|byte| *byte == first(0)) { first } else { second };
    assert_eq!(mismatch(bytes, 0, version), None, "padded or mixed");
}

fn mismatch(bytes: &[u8], start: u64, rule: fn(u64) -> u8) -> Option<usize> {
    bytes.iter().zip(start..).position(|(byte, offset)| *byte != rule(offset))
}

/// How a guest behaves.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// How many requests it has under way at once.
    pub depth: usize,
    /// The most bytes that it sends at a time.
    pub split: u64,
    /// How many bytes its side of the connection holds, all taken at each step.
    pub window: usize,
    /// The longest time between two steps in which something moves.
    pub pace: Duration,
    /// What happens to it, and before which step.
    pub mishap: Option<(usize, Mishap)>,
    /// Whether its replies may be cut by a reset.
    pub may_be_cut: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// It breaks the connection.
    Reset,
    /// It ends as a process does.
    Close,
    /// It sends no more, and reads on.
    HalfClose,
    /// It neither sends nor reads any more.
    Stop,
}

impl Manner {
    /// One request after the other, quick.
    pub const PLAIN: Manner = Manner {
        depth: 1,
        split: 1 << 20,
        window: 64 << 10,
        pace: Duration::from_micros(500),
        mishap: None,
        may_be_cut: false,
    };

    /// As the seed says.
    pub fn drawn(world: &World) -> Self {
        let choose = |choices: &[u64]| choices[world.below(choices.len() as u64) as usize];
        Manner {
            depth: choose(&[1, 1, 2, 4]) as usize,
            split: choose(&[20, 100, 1000, 1 << 20]),
            window: choose(&[1_500, 5_000, 20_000, 100_000]) as usize,
            pace: Duration::from_micros(choose(&[100, 1_000, 5_000])),
            ..Manner::PLAIN
        }
    }
}

/// A client in the world.
#[derive(Clone)]
pub struct Guest(Shared<Visit>);

struct Visit {
    world: Weak<World>,
    client: Client,
    manner: Manner,
    /// Not yet begun to be sent, last first.
    asks: Vec<Ask>,
    /// Under way, in order.
    awaited: std::collections::VecDeque<Ask>,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// The reply under way is not whole before this many bytes have come.
    wanted: usize,
    answered: usize,
    steps: usize,
    idle_steps: u32,
    no_more_sends: bool,
    may_be_turned_away: bool,
    left: bool,
    end: End,
}

impl Guest {
    pub fn arrive(world: &Rc<World>, client: Client, manner: Manner, asks: impl IntoIterator<Item = Ask>) -> Self {
        client.window(manner.window);
        let mut asks: Vec<Ask> = asks.into_iter().collect();
        asks.reverse();
        let guest = Guest(Rc::new(std::cell::RefCell::new(Visit {
            world: Rc::downgrade(world),
            client,
            manner,
            asks,
            awaited: std::collections::VecDeque::new(),
            outgoing: Vec::new(),
            incoming: Vec::new(),
            wanted: 0,
            answered: 0,
            steps: 0,
            idle_steps: 0,
            no_more_sends: false,
            may_be_turned_away: false,
            left: false,
            end: End::Open,
        })));
        guest.step_later(world);
        guest
    }

    /// Whether it does nothing any more.
    pub fn has_left(&self) -> bool {
        self.0.borrow().left
    }

    /// How many final replies it has got.
    pub fn answered(&self) -> usize {
        self.0.borrow().answered
    }

    /// How the server ended the connection before the guest left.
    pub fn end(&self) -> End {
        self.0.borrow().end
    }

    /// From now on, a reset is no surprise as long as nothing of a reply has come.
    pub fn may_be_turned_away(&self) {
        self.0.borrow_mut().may_be_turned_away = true;
    }

    fn step_later(&self, world: &Rc<World>) {
        let visit = self.0.borrow();
        let longest = visit.manner.pace * 2_u32.pow(visit.idle_steps.min(10));
        let delay = Duration::from_micros(1 + world.below(longest.as_micros() as u64));
        let guest = self.clone();
        world.schedule(delay, move || {
            if guest.0.borrow_mut().step()
                && let Some(world) = guest.0.borrow().world.upgrade()
            {
                guest.step_later(&world);
            }
        });
    }
}

impl Visit {
    /// Does what there is to do now; whether there will be more.
    fn step(&mut self) -> bool {
        if let Some((step, mishap)) = self.manner.mishap
            && step == self.steps
            && self.happens(mishap)
        {
            self.left = true;
            return false;
        }
        self.steps += 1;
        let moved = self.send() | self.receive();
        self.idle_steps = if moved { 0 } else { self.idle_steps + 1 };
        self.end = self.client.end();
        self.left = match self.end {
            End::Open => self.awaited.is_empty() && (self.asks.is_empty() || self.no_more_sends),
            End::Finished => true,
            End::Reset => {
                let turned_away = self.may_be_turned_away && self.incoming.is_empty();
                assert!(
                    self.manner.may_be_cut || turned_away,
                    "cut after {} replies; {:?}",
                    self.answered,
                    self.manner
                );
                self.check_what_was_cut();
                true
            }
        };
        if self.left && self.end == End::Finished {
            assert!(self.incoming.is_empty(), "a FIN in the middle of a reply: {} bytes of it", self.incoming.len());
        }
        if self.left && self.end == End::Open {
            self.client.close();
        }
        !self.left
    }

    /// Whether it is the end of the visit.
    fn happens(&mut self, mishap: Mishap) -> bool {
        match mishap {
            Mishap::Reset => self.client.reset(),
            Mishap::Close => self.client.close(),
            Mishap::Stop => {}
            Mishap::HalfClose => {
                self.client.finish();
                self.no_more_sends = true;
                // What is not on the wire whole will not be answered.
                if !self.outgoing.is_empty() {
                    self.awaited.clear();
                    self.outgoing.clear();
                }
                return false;
            }
        }
        true
    }

    fn send(&mut self) -> bool {
        if self.no_more_sends {
            return false;
        }
        while self.awaited.len() < self.manner.depth
            && self.awaited.iter().all(|ask| ask.withheld.is_empty())
            && let Some(ask) = self.asks.pop()
        {
            self.outgoing.extend_from_slice(&ask.bytes);
            self.awaited.push_back(ask);
        }
        let Some(world) = self.world.upgrade().filter(|_| !self.outgoing.is_empty()) else { return false };
        let most = 1 + world.below(self.manner.split) as usize;
        let sent = self.client.try_send(&self.outgoing[..most.min(self.outgoing.len())]);
        self.outgoing.drain(..sent);
        sent > 0
    }

    fn receive(&mut self) -> bool {
        let taken = self.client.take_received();
        self.incoming.extend_from_slice(&taken);
        let ended = self.client.end() == End::Finished;
        if !ended && (taken.is_empty() || self.incoming.len() < self.wanted) {
            return !taken.is_empty();
        }
        while let Some(ask) = self.awaited.front()
            && let Some((reply, used)) = reply::take(&self.incoming, ask.to_head, ended)
        {
            self.incoming.drain(..used);
            if reply.status == 100 {
                assert!(!ask.withheld.is_empty(), "nobody asked for it");
                self.outgoing.extend(self.awaited.front_mut().map(|ask| std::mem::take(&mut ask.withheld)).unwrap());
                continue;
            }
            (ask.check)(&reply);
            self.answered += 1;
            self.awaited.pop_front();
        }
        let to_head = self.awaited.front().is_some_and(|ask| ask.to_head);
        self.wanted = match reply::head(&self.incoming, to_head) {
            Some(Head { len, framing: Framing::Length(body), .. }) => len + body,
            _ => 0,
        };
        if let Some(ask) = self.awaited.front_mut()
            && reply::head(&self.incoming, ask.to_head).is_some_and(|head| head.reply.status >= 200)
        {
            // It is not told to go on any more, and goes on all the same.
            self.outgoing.append(&mut ask.withheld);
        }
        assert!(
            !self.awaited.is_empty() || self.incoming.is_empty() || self.no_more_sends,
            "bytes that nobody asked for"
        );
        !taken.is_empty()
    }

    /// A reply that was cut is a beginning of a whole one.
    fn check_what_was_cut(&self) {
        let Some(ask) = self.awaited.front() else { return };
        if let Some(Head { len, framing: Framing::Length(body), .. }) = reply::head(&self.incoming, ask.to_head) {
            assert!(self.incoming.len() - len < body, "a whole reply was not taken");
            check_unmixed(&self.incoming[len..]);
        }
    }
}
