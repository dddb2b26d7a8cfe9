//! The connections of one worker: accepted, idle, busy, refused.
//!
//! An idle connection is a record (descriptor, peer, deadline) and a posted receive that holds no buffer. When bytes come it
//! gets a task and a [`Wire`]; after the reply it is a record again. So ten thousand idle connections cost ten thousand
//! records, and memory for work is taken only by work.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::exchange::{Begun, serve, turn_away};
use super::known::{Asked, Lookup};
use super::send::{self, Repeated};
use super::wire::Wire;
use super::{Handler, Worker};
use crate::driver::SocketOption;
use crate::driver::buf::Buf;
use crate::driver::op::{Closing, Expect, Op};
use crate::driver::slot::{Event, Owner, Slot, Token};
use crate::limits::Limits;
use crate::proto::http1::encode::Persistence;
use crate::rt::Descriptor;
use crate::rt::net::{BoundAddress, Listener, Socket, received};
use crate::rt::timer::Timer;

/// How long accepting pauses when it fails for a reason that lasts, unless a connection closes before.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Pauses are in the log at most this often; the metrics count all of them.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(1);

/// The connections of one worker. Cloning clones the handle.
#[derive(Clone)]
pub struct Connections(Rc<Shared>);

struct Shared {
    worker: Rc<Worker>,
    records: RefCell<Slab<Record>>,
    gates: RefCell<Vec<Gate>>,
    pause: Timer,
    /// When a pause was last in the log.
    warned: Cell<Option<Instant>>,
    /// Connections over the limit that are still told so.
    turned_away: Cell<usize>,
}

/// A listener and what serves its connections.
struct Gate {
    listener: Option<Descriptor>,
    is_tcp: bool,
    accept: Option<Slot>,
    handler: Rc<dyn Handler>,
    /// Connections that are admitted here beyond the limit.
    reserve: usize,
}

struct Record {
    gate: usize,
    peer: Option<SocketAddr>,
    state: State,
}

enum State {
    Idle {
        socket: Socket,
        timer: Timer,
        receive: Slot,
    },
    /// No buffer was free when bytes came; the connection asks again when one is.
    Starved {
        socket: Socket,
        timer: Timer,
    },
    Busy,
}

/// What an event is for, packed into its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Accept(usize),
    Receive(usize),
    Idle(usize),
    Pause,
}

impl Connections {
    /// No connections yet.
    pub fn new(worker: &Rc<Worker>) -> Self {
        let pause = Timer::new(&worker.runtime);
        pause.tell_worker(Some(Purpose::Pause.token()));
        Connections(Rc::new(Shared {
            worker: worker.clone(),
            records: RefCell::default(),
            gates: RefCell::default(),
            pause,
            warned: Cell::new(None),
            turned_away: Cell::new(0),
        }))
    }

    /// Accepts on this listener from now on; its connections are served by `handler`. `reserve` of them are admitted beyond
    /// the limit on all connections.
    pub fn open_gate(&self, listener: Listener, handler: Rc<dyn Handler>, reserve: usize) {
        let is_tcp = matches!(listener.bound(), BoundAddress::Tcp(_));
        self.add_gate(listener.into_raw(), is_tcp, handler);
        if let Some(gate) = self.0.gates.borrow_mut().last_mut() {
            gate.reserve = reserve;
        }
    }

    pub(crate) fn add_gate(&self, listener: std::os::fd::RawFd, is_tcp: bool, handler: Rc<dyn Handler>) {
        let worker = &self.0.worker;
        if is_tcp {
            // Accepted sockets inherit them (tcp(7)), which saves the calls for each connection.
            let low_water = worker.limits.notsent_lowat() as u32;
            // Who waits in silence, for an item or for room, would else be waited for when it has vanished.
            let keep_alive = SocketOption::KeepAlive {
                idle: Limits::KEEP_ALIVE_IDLE.as_secs() as u32,
                interval: Limits::KEEP_ALIVE_INTERVAL.as_secs() as u32,
                probes: Limits::KEEP_ALIVE_PROBES,
            };
            for option in [SocketOption::NoDelay, SocketOption::NotSentLowWater(low_water), keep_alive] {
                if let Err(error) = worker.runtime.driver().set_option(listener, option) {
                    tracing::warn!(%error, ?option, "the listener does not take an option");
                }
            }
        }
        let listener = Some(Descriptor { raw: listener, closing: Closing::Inline, runtime: worker.runtime.clone() });
        self.0.gates.borrow_mut().push(Gate { listener, is_tcp, accept: None, handler, reserve: 0 });
        self.accept();
    }

    /// Serves the connections of the n-th gate by another handler, from their next request on.
    pub fn replace_handler(&self, gate: usize, handler: Rc<dyn Handler>) {
        self.0.worker.known_replies.clear();
        self.0.gates.borrow_mut()[gate].handler = handler;
    }

    /// Accepts no more, closes idle connections, and lets requests under way finish.
    pub fn drain(&self) {
        self.0.worker.begin_to_drain();
        let mut driver = self.0.worker.runtime.driver();
        let slots: Vec<Slot> = self.0.gates.borrow_mut().iter_mut().filter_map(|gate| gate.accept.take()).collect();
        slots.into_iter().for_each(|slot| driver.abandon(slot));
        drop(driver);
        for gate in self.0.gates.borrow_mut().iter_mut() {
            gate.listener = None;
        }
        let records = self.0.records.borrow();
        let idle: Vec<usize> =
            records.iter().filter(|(_, record)| !matches!(record.state, State::Busy)).map(|(key, _)| key).collect();
        drop(records);
        idle.into_iter().for_each(|key| self.close_idle(key));
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.0.records.borrow().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes an event of one of the gates or idle connections.
    pub fn completed(&self, event: Event) {
        match Purpose::of(event.token) {
            Purpose::Accept(gate) => self.accepted(gate, event),
            Purpose::Receive(key) => self.readable(key, event),
            Purpose::Idle(_) | Purpose::Pause => {}
        }
    }

    /// Takes a deadline of an idle connection, or of the pause.
    pub fn expired(&self, token: Token) {
        match Purpose::of(token) {
            Purpose::Idle(key) => self.close_idle(key),
            Purpose::Pause => self.resume(),
            Purpose::Accept(_) | Purpose::Receive(_) => {}
        }
    }

    /// Posts an accept at every gate that has none; not while accepting pauses.
    fn accept(&self) {
        if self.0.pause.deadline().is_some() {
            return;
        }
        for (number, gate) in self.0.gates.borrow_mut().iter_mut().enumerate() {
            if let (Some(listener), None) = (&gate.listener, gate.accept) {
                let owner = Owner::Worker(Purpose::Accept(number).token());
                gate.accept = Some(self.0.worker.runtime.driver().submit(Op::Accept { listener: listener.raw }, owner));
            }
        }
    }

    fn accepted(&self, gate: usize, event: Event) {
        if event.completion.op.is_some() {
            self.0.gates.borrow_mut()[gate].accept = None;
        }
        match event.completion.result {
            Ok(raw) => {
                let socket = Socket::from_raw(raw as i32, &self.0.worker.runtime);
                self.admit(gate, socket);
            }
            Err(error) if !is_passing(&error) => self.pause(&error),
            Err(_) => {}
        }
        self.accept();
    }

    /// Waits for descriptors, memory or permission to come back, without spinning on an accept that fails at once.
    fn pause(&self, error: &io::Error) {
        let now = self.0.worker.runtime.now();
        if self.0.warned.get().is_none_or(|warned| now.saturating_duration_since(warned) >= BETWEEN_WARNINGS) {
            self.0.warned.set(Some(now));
            tracing::warn!(%error, connections = self.len(), "accepting pauses");
        }
        self.0.worker.metrics.accept_pauses.increment();
        self.0.pause.set_after(ACCEPT_PAUSE);
    }

    /// The pause is over, or something has come back before its end.
    fn resume(&self) {
        self.0.pause.set(None);
        self.accept();
    }

    fn admit(&self, gate: usize, socket: Socket) {
        let metrics = &self.0.worker.metrics;
        metrics.connections_accepted.increment();
        let (is_tcp, reserve) = {
            let gate = &self.0.gates.borrow()[gate];
            (gate.is_tcp, gate.reserve)
        };
        if self.len() >= self.0.worker.limits.connections + reserve {
            metrics.connections_refused.increment();
            return self.refuse(socket);
        }
        let peer = if is_tcp { self.0.worker.runtime.driver().peer(socket.raw()).ok().flatten() } else { None };
        let key = self.0.records.borrow_mut().insert(Record { gate, peer, state: State::Busy });
        self.rest(key, socket, Timer::new(&self.0.worker.runtime), Expect::Now);
    }

    /// Over the limit: says so and closes. A few at a time are given the moment to read it; more are simply closed.
    fn refuse(&self, socket: Socket) {
        turn_away(&socket, &self.0.worker.date());
        if self.0.turned_away.get() >= Limits::TURNED_AWAY || socket.shutdown_write().is_err() {
            return;
        }
        self.0.turned_away.set(self.0.turned_away.get() + 1);
        let connections = self.clone();
        let telling = async move {
            let timer = Timer::new(&connections.0.worker.runtime);
            timer.set_after(connections.0.worker.limits.linger_timeout);
            while let Ok(Ok(Some(_))) = timer.race(socket.receive(Expect::Later)).await {}
            connections.0.turned_away.set(connections.0.turned_away.get() - 1);
        };
        self.0.worker.runtime.spawn(telling).detach();
    }

    /// Makes a connection idle: a record, and a receive that holds no buffer.
    fn rest(&self, key: usize, socket: Socket, timer: Timer, expect: Expect) {
        timer.tell_worker(Some(Purpose::Idle(key).token()));
        timer.set_after(self.0.worker.limits.idle_timeout);
        let owner = Owner::Worker(Purpose::Receive(key).token());
        let receive = self.0.worker.runtime.driver().submit(Op::Receive { socket: socket.raw(), expect }, owner);
        self.0.records.borrow_mut()[key].state = State::Idle { socket, timer, receive };
        self.0.worker.metrics.connections_idle.increment();
    }

    fn readable(&self, key: usize, event: Event) {
        let Some((socket, timer)) = self.wake(key) else { return };
        match received(event.completion.result, event.completion.lease) {
            Ok(Some(buf)) => self.answer(key, socket, timer, buf),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.starve(key, socket, timer),
            Ok(None) | Err(_) => {
                self.leave(key, (socket, timer));
            }
        }
    }

    /// Closes a connection that has no task.
    fn leave<T>(&self, key: usize, held: T) {
        // Closed before the next accept is posted, which may have been waiting for just this descriptor.
        drop(held);
        self.forget(key);
    }

    /// Takes a connection out of idleness.
    fn wake(&self, key: usize) -> Option<(Socket, Timer)> {
        let mut records = self.0.records.borrow_mut();
        let record = records.get_mut(key)?;
        match std::mem::replace(&mut record.state, State::Busy) {
            State::Idle { socket, timer, .. } => {
                self.0.worker.metrics.connections_idle.decrement();
                Some((socket, timer))
            }
            other => {
                record.state = other;
                None
            }
        }
    }

    /// A request has come: its reply is known, and at best sent with that, or a task finds out.
    fn answer(&self, key: usize, socket: Socket, timer: Timer, request: Buf) {
        let worker = &self.0.worker;
        let gate = self.0.records.borrow()[key].gate;
        let known = match worker.known_replies.look_up(worker, gate, &request) {
            Lookup::Known(known) => known,
            Lookup::Unknown(asked) => return self.begin(key, socket, timer, request, asked, None),
        };
        match send::known(worker, &socket, &known) {
            Repeated::Whole => {
                worker.metrics.known_replies.increment();
                worker.count_answer(known.status);
                worker.note_answered_in_turn();
                worker.note_quick();
                // Before the next receive, which may need just this buffer.
                drop(request);
                match known.persistence {
                    Persistence::KeepAlive => self.rest(key, socket, timer, Expect::Later),
                    Persistence::Close => self.leave(key, (socket, timer)),
                }
            }
            Repeated::Part { region, sent } => {
                let begun = Begun { known, region, sent };
                self.begin(key, socket, timer, request, None, Some(Box::new(begun)));
            }
            Repeated::NotNow => self.begin(key, socket, timer, request, None, None),
        }
    }

    fn begin(
        &self,
        key: usize,
        socket: Socket,
        timer: Timer,
        first: Buf,
        asked: Option<Box<Asked>>,
        begun: Option<Box<Begun>>,
    ) {
        timer.tell_worker(None);
        timer.set(None);
        let wire = Wire::new(socket, &self.0.worker, timer, first);
        wire.asked.set(asked);
        self.0.worker.metrics.connections_active.increment();
        let seat = Seat { connections: self.clone(), key, taken: true };
        self.0.worker.runtime.spawn(serve(seat, wire, begun)).detach();
    }

    /// Bytes have come and no buffer is free: the connection stands in line for one, no longer than its deadline.
    fn starve(&self, key: usize, socket: Socket, timer: Timer) {
        self.0.records.borrow_mut()[key].state = State::Starved { socket, timer };
        self.0.worker.metrics.connections_idle.increment();
        let connections = self.clone();
        let standing = async move {
            connections.0.worker.runtime.receive_pool().available().await;
            let mut records = connections.0.records.borrow_mut();
            let Some(record) = records.get_mut(key) else { return };
            if let State::Starved { .. } = record.state
                && let State::Starved { socket, timer } = std::mem::replace(&mut record.state, State::Busy)
            {
                drop(records);
                connections.0.worker.metrics.connections_idle.decrement();
                connections.rest(key, socket, timer, Expect::Now);
            }
        };
        self.0.worker.runtime.spawn(standing).detach();
    }

    fn close_idle(&self, key: usize) {
        let mut records = self.0.records.borrow_mut();
        let Some(record) = records.get_mut(key) else { return };
        let state = std::mem::replace(&mut record.state, State::Busy);
        drop(records);
        match &state {
            State::Busy => return,
            State::Idle { receive, .. } => self.0.worker.runtime.driver().abandon(*receive),
            State::Starved { .. } => {}
        }
        self.0.worker.metrics.connections_idle.decrement();
        self.leave(key, state);
    }

    fn forget(&self, key: usize) {
        let record = self.0.records.borrow_mut().remove(key);
        // Outside of the borrow: what the record holds closes itself.
        drop(record);
        if self.0.pause.deadline().is_some() {
            self.resume();
        }
    }
}

/// A busy connection's place among the others; given up when it is dropped.
pub(super) struct Seat {
    connections: Connections,
    key: usize,
    taken: bool,
}

impl Seat {
    /// Who is at the other end.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.connections.0.records.borrow()[self.key].peer
    }

    /// The number of the gate through which the connection came.
    pub(super) fn gate(&self) -> usize {
        self.connections.0.records.borrow()[self.key].gate
    }

    /// Whether it came through a gate for those who run the server, not for those whom it serves.
    pub(super) fn is_operators(&self) -> bool {
        self.connections.0.gates.borrow()[self.gate()].reserve > 0
    }

    /// What serves this connection's next request.
    pub(super) fn handler(&self) -> Rc<dyn Handler> {
        self.connections.0.gates.borrow()[self.gate()].handler.clone()
    }

    /// Makes the connection idle. One that someone still reads from, or that is to end, is closed.
    pub(super) fn park(mut self, wire: Rc<Wire>) {
        let draining = self.connections.0.worker.draining();
        let Some(wire) = Rc::into_inner(wire).filter(|wire| !wire.is_receiving() && !draining) else { return };
        self.leave();
        self.connections.rest(self.key, wire.socket, wire.timer, Expect::Later);
    }

    fn leave(&mut self) {
        self.taken = false;
        self.connections.0.worker.metrics.connections_active.decrement();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.taken {
            self.leave();
            self.connections.forget(self.key);
        }
    }
}

impl Purpose {
    fn token(self) -> Token {
        let (kind, key) = match self {
            Purpose::Accept(gate) => (0, gate),
            Purpose::Receive(key) => (1, key),
            Purpose::Idle(key) => (2, key),
            Purpose::Pause => (3, 0),
        };
        Token((kind << 56) | key as u64)
    }

    fn of(token: Token) -> Self {
        let key = (token.0 & ((1 << 56) - 1)) as usize;
        match token.0 >> 56 {
            0 => Purpose::Accept(key),
            1 => Purpose::Receive(key),
            2 => Purpose::Idle(key),
            _ => Purpose::Pause,
        }
    }
}

/// Whether the error is one connection's own, which was gone before it was accepted, or the accept was only interrupted. Any
/// other lasts (no descriptors, no memory, no permission): trying again at once would fail again.
fn is_passing(error: &io::Error) -> bool {
    let own = [libc::ECONNABORTED, libc::EPROTO, libc::EINTR, libc::ECANCELED, libc::EAGAIN];
    // Errors of the network that was between, which accept(2) passes on.
    let network = [libc::ENETDOWN, libc::ENETUNREACH, libc::EHOSTDOWN, libc::EHOSTUNREACH, libc::ENONET];
    error.raw_os_error().is_some_and(|error| own.contains(&error) || network.contains(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_one_connection_suffered_is_tried_again_at_once() {
        #[track_caller]
        fn check(errors: &[i32], passing: bool) {
            for error in errors {
                let error = io::Error::from_raw_os_error(*error);
                assert_eq!(is_passing(&error), passing, "{error}");
            }
        }
        check(&[libc::ECONNABORTED, libc::EPROTO, libc::EINTR, libc::ECANCELED, libc::ENETDOWN], true);
        check(&[libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM], false);
        check(&[libc::EACCES, libc::EPERM, libc::EINVAL, libc::EBADF, libc::ENOTSOCK, libc::EOPNOTSUPP], false);
    }
}
