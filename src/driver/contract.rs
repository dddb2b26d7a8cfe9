//! What every driver promises, checked on each: the ring, the plain ring of older kernels, and the fake one with many seeds.
//!
//! A scenario sees the kernel from both sides: a [`Stage`] is a driver with the clients and files that lie behind it, real
//! or fake. Where a kernel may answer in several ways, a scenario takes each of them and checks what follows.

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::op::{Closing, Expect, Interest, Op, OpenHow, Resolve};
use super::sim::{Client, Content, End, Faults, Sim, World, explore};
use super::slot::{Completion, Event, Owner, Slot, Token};
use super::uring::Uring;
use super::{Driver, FileKind, More, Setup, SocketOption, Wait};
use crate::rt::Runtime;
use crate::rt::fs::File;
use crate::rt::net::Socket;
use crate::rt::offload::Offload;
use crate::rt::task::{Remote, Tasks};
use crate::rt::timer::Timer;
use crate::rt::worker::{self, Agent, Turns};

macro_rules! on_every_driver {
    ($($scenario:ident),* $(,)?) => {
        mod ring {
            $(#[test] fn $scenario() { super::$scenario(super::Stage::ring()); })*
        }
        mod plain_ring {
            $(#[test] fn $scenario() { super::$scenario(super::Stage::plain_ring()); })*
        }
        mod sim {
            $(#[test] fn $scenario() {
                super::explore(super::Faults::NONE, |world| super::$scenario(super::Stage::fake(world)));
                super::explore(super::Faults::SLOW, |world| super::$scenario(super::Stage::fake(world)));
            })*
        }
    };
}

on_every_driver! {
    a_read_that_was_given_up_keeps_its_buffer_until_its_completion,
    a_receive_that_was_given_up_takes_no_bytes,
    an_accept_that_was_given_up_closes_what_it_yields,
    an_accept_that_was_given_up_closes_what_it_had_yielded,
    an_open_that_was_given_up_closes_what_it_yields,
    a_close_never_overtakes_what_was_submitted_before,
    an_empty_pool_is_enobufs_and_holds_no_bytes_back,
    a_socket_waits_until_a_buffer_returns,
    a_reset_completes_a_poll_for_a_hang_up,
    a_full_socket_would_block_and_becomes_writable,
    a_half_closed_peer_completes_no_poll_but_for_reading,
    a_wait_ends_at_its_deadline,
    a_turn_that_does_not_wait_still_collects,
    a_teardown_returns_every_buffer_and_closes_what_nobody_fetched,
    another_thread_ends_a_wait,
    tasks_that_are_shut_down_release_everything,
    a_read_appends_to_what_the_buffer_holds,
    paths_stay_beneath_their_directory,
    a_connection_ends_as_it_was_told,
    a_file_region_ends_at_the_end_of_the_file,
    a_pacing_rate_is_kept_until_it_is_lifted,
}

/// How long the driver's clock may run before a scenario fails.
const PATIENCE: Duration = Duration::from_secs(10);
const SETUP: Setup = Setup { in_flight: 64, receive_buffers: (2, 4096), transfer_buffers: (2, 4096) };
const TOKEN: Token = Token(7);

fn a_read_that_was_given_up_keeps_its_buffer_until_its_completion(mut stage: Stage) {
    stage.add_file("file", b"content");
    let file = stage.open("file").unwrap();
    let pool = stage.driver.transfer_pool().clone();
    let buf = pool.try_take().unwrap();
    let slot = stage.driver.submit(Op::Read { file, offset: 0, len: 7, buf }, Owner::Task(None));
    stage.driver.abandon(slot);
    assert_eq!(pool.in_use(), 1, "the kernel may still write to it");
    stage.turn_until("the kernel lets go", |stage| {
        let released = stage.driver.slots().in_flight() == 0;
        assert_eq!(pool.in_use(), usize::from(!released));
        released
    });
}

fn a_receive_that_was_given_up_takes_no_bytes(mut stage: Stage) {
    let (socket, mut peer) = stage.connection();
    let slot = stage.submit(Op::Receive { socket, expect: Expect::Later });
    stage.turn();
    stage.driver.abandon(slot);
    stage.turn_until("the receive ends", |stage| stage.driver.slots().in_flight() == 0);
    peer.send(b"late");
    assert_eq!(stage.receive(socket).unwrap(), b"late");
}

fn an_accept_that_was_given_up_closes_what_it_yields(mut stage: Stage) {
    let listener = stage.listen();
    let mut peer = stage.connect(&listener);
    let slot = stage.driver.submit(Op::Accept { listener: listener.raw() }, Owner::Worker(TOKEN));
    stage.driver.abandon(slot);
    stage.turn_until("the accept ends", |stage| stage.driver.slots().in_flight() == 0);
    assert!(stage.driver.next_event().is_none());
    // If the cancellation won, the connection waits with the listener still.
    stage.close_listener(listener);
    stage.turn_until("the peer is told", |_| peer.end() != End::Open);
}

fn an_accept_that_was_given_up_closes_what_it_had_yielded(mut stage: Stage) {
    let listener = stage.listen();
    let mut peer = stage.connect(&listener);
    let slot = stage.driver.submit(Op::Accept { listener: listener.raw() }, Owner::Worker(TOKEN));
    stage.turn_until("an event", |stage| stage.driver.slots().events() > 0);
    stage.driver.abandon(slot);
    stage.turn_until("the accept ends", |stage| stage.driver.slots().in_flight() == 0);
    assert!(stage.driver.next_event().is_none());
    stage.turn_until("the peer is told", |_| peer.end() != End::Open);
    stage.close_listener(listener);
}

fn an_open_that_was_given_up_closes_what_it_yields(mut stage: Stage) {
    stage.add_file("file", b"content");
    let root = stage.root();
    for turns_before in 0..3 {
        let slot = stage.submit(open_op(root, "file", Resolve::Beneath));
        for _ in 0..turns_before {
            stage.turn();
        }
        stage.driver.abandon(slot);
        stage.turn_until("all is closed", |stage| {
            stage.driver.slots().in_flight() == 0 && stage.open_count("file") == 0
        });
    }
}

fn a_close_never_overtakes_what_was_submitted_before(mut stage: Stage) {
    stage.add_file("file", b"content");
    let root = stage.root();
    let (socket, mut peer) = stage.connection();
    peer.send(b"before");
    let receive = stage.submit(Op::Receive { socket, expect: Expect::Now });
    stage.driver.close(socket, Closing::Inline);
    // On a real kernel it is likely to get the number that has become free.
    let open = stage.submit(open_op(root, "file", Resolve::Beneath));
    let file = stage.finish(open).result.unwrap() as RawFd;
    assert_eq!(stage.driver.stat(file).unwrap().kind, FileKind::Regular);
    assert_eq!(&**stage.finish(receive).lease.as_ref().unwrap(), b"before");
    stage.turn_until("the peer is told", |_| peer.end() != End::Open);
}

fn an_empty_pool_is_enobufs_and_holds_no_bytes_back(mut stage: Stage) {
    let (socket, mut peer) = stage.connection();
    let mut held = Vec::new();
    for _ in 0..SETUP.receive_buffers.0 {
        peer.send(b"x");
        let receive = stage.submit(Op::Receive { socket, expect: Expect::Later });
        held.push(stage.finish(receive).lease.unwrap());
    }
    peer.send(b"more");
    for expect in [Expect::Now, Expect::Later] {
        let receive = stage.submit(Op::Receive { socket, expect });
        let completion = stage.finish(receive);
        assert_eq!(completion.result.unwrap_err().raw_os_error(), Some(libc::ENOBUFS));
        assert!(completion.lease.is_none());
    }
    held.clear();
    assert_eq!(stage.receive(socket).unwrap(), b"more");
    assert_eq!(stage.driver.receive_pool().in_use(), 0);
}

fn a_socket_waits_until_a_buffer_returns(mut stage: Stage) {
    let (socket, mut peer) = stage.connection();
    let (runtime, _outside) = stage.into_runtime();
    let (received_in, received) = std::sync::mpsc::channel();
    let socket = Socket::from_raw(socket, &runtime);
    let task = runtime.spawn(async move {
        while let Ok(Some(buf)) = socket.receive(Expect::Later).await {
            received_in.send(buf).unwrap();
        }
    });
    let mut turns = Turns::new(&runtime);
    let mut held = Vec::new();
    for _ in 0..SETUP.receive_buffers.0 {
        peer.send(b"x");
        turn_until(&mut turns, &runtime, || received.try_recv().map(|buf| held.push(buf)).is_ok());
    }
    peer.send(b"y");
    let mut turns_left = 10;
    turn_until(&mut turns, &runtime, || {
        assert!(received.try_recv().is_err(), "there is no buffer");
        turns_left -= 1;
        turns_left == 0
    });
    held.pop();
    turn_until(&mut turns, &runtime, || received.try_recv().is_ok_and(|buf| &*buf == b"y"));
    drop(task);
    runtime.tasks().shut_down();
}

fn a_reset_completes_a_poll_for_a_hang_up(mut stage: Stage) {
    let (socket, mut peer) = stage.connection();
    let poll = stage.driver.submit(Op::Poll { socket, interest: Interest::HangUp }, Owner::Worker(TOKEN));
    peer.send(b"bytes are no hang-up");
    for _ in 0..3 {
        stage.turn();
        assert_eq!(stage.driver.slots().events(), 0);
    }
    peer.reset();
    let event = stage.next_event();
    assert_eq!((event.token, event.slot), (TOKEN, poll));
    assert_ne!(event.completion.result.unwrap() & libc::POLLHUP as u32, 0);
    assert_eq!(stage.receive(socket).unwrap(), b"bytes are no hang-up", "what came before the reset is there");
    assert_eq!(stage.receive(socket).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(stage.receive(socket).unwrap(), b"", "the error is told once");
    assert_eq!(stage.driver.send(socket, b"x", More::No).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(stage.driver.shutdown_write(socket).unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert_eq!(stage.driver.peer(socket).unwrap_err().kind(), io::ErrorKind::NotConnected);
}

fn a_full_socket_would_block_and_becomes_writable(mut stage: Stage) {
    let (socket, mut peer) = stage.connection();
    let (poll, mut sent) = stage.fill(socket);
    let mut received = 0;
    let mut events = None;
    stage.turn_until("the socket is writable", |stage| {
        received += peer.take().len();
        events = match stage.poll(poll) {
            Poll::Ready(completion) => Some(completion.result.unwrap()),
            Poll::Pending => None,
        };
        events.is_some()
    });
    assert_eq!(events, Some(libc::POLLOUT as u32));
    sent += stage.driver.send(socket, b"z", More::No).unwrap();
    stage.turn_until("all has come", |_| {
        received += peer.take().len();
        received == sent
    });
}

/// F10: it still gets its reply, and a worker that waits for room does not spin. (io_uring adds `POLLRDHUP` to every poll.)
fn a_half_closed_peer_completes_no_poll_but_for_reading(mut stage: Stage) {
    for finish_first in [true, false] {
        let (socket, mut peer) = stage.connection();
        if finish_first {
            peer.finish();
        }
        let hang_up = stage.submit(Op::Poll { socket, interest: Interest::HangUp });
        let (writable, sent) = stage.fill(socket);
        if !finish_first {
            peer.finish();
        }
        assert_eq!(stage.receive(socket).unwrap(), b"");
        let given_up = stage.submit(Op::Poll { socket, interest: Interest::HangUp });
        for _ in 0..20 {
            stage.turn();
            assert!(stage.poll(hang_up).is_pending() && stage.poll(writable).is_pending());
        }
        stage.driver.abandon(given_up);
        let mut received = 0;
        stage.turn_until("there is room", |stage| {
            received += peer.take().len();
            stage.poll(writable).map(|completion| completion.result.unwrap() as i16 & libc::POLLOUT != 0)
                == Poll::Ready(true)
        });
        stage.turn_until("all has come", |_| {
            received += peer.take().len();
            received == sent
        });
        assert!(stage.poll(hang_up).is_pending());
        peer.reset();
        // A reset that finds nothing of the peer's unread is told by the poll alone.
        assert_ne!(stage.finish(hang_up).result.unwrap() & libc::POLLHUP as u32, 0);
        stage.turn_until("nothing is left", |stage| stage.driver.slots().in_flight() == 0);
    }
}

fn a_wait_ends_at_its_deadline(mut stage: Stage) {
    let (socket, _peer) = stage.connection();
    stage.submit(Op::Poll { socket, interest: Interest::Readable });
    let deadline = stage.driver.now() + Duration::from_millis(20);
    stage.driver.turn(Wait::Until(deadline)).unwrap();
    assert!(stage.driver.now() >= deadline);
    stage.driver.turn(Wait::Until(deadline)).unwrap();
}

fn a_turn_that_does_not_wait_still_collects(mut stage: Stage) {
    let (socket, mut peer) = stage.connection();
    let receive = stage.submit(Op::Receive { socket, expect: Expect::Later });
    stage.driver.turn(Wait::No).unwrap();
    peer.send(b"x");
    let deadline = std::time::Instant::now() + PATIENCE;
    while stage.poll(receive).is_pending() {
        stage.driver.turn(Wait::No).unwrap();
        assert!(std::time::Instant::now() < deadline, "a worker that is never idle has to be told, too");
    }
}

fn a_teardown_returns_every_buffer_and_closes_what_nobody_fetched(mut stage: Stage) {
    stage.add_file("file", b"content");
    let (file, unfetched) = (stage.open("file").unwrap(), stage.root());
    let listener = stage.listen();
    let (idle, _idle_peer) = stage.connection();
    let (busy, mut busy_peer) = stage.connection();
    let pools = [stage.driver.receive_pool().clone(), stage.driver.transfer_pool().clone()];

    stage.driver.submit(Op::Accept { listener: listener.raw() }, Owner::Worker(TOKEN));
    let mut accepted_peer = stage.connect(&listener);
    busy_peer.send(b"nobody fetches this");
    stage.submit(Op::Receive { socket: busy, expect: Expect::Now });
    stage.submit(open_op(unfetched, "file", Resolve::Beneath));
    stage.turn_until("they complete", |stage| {
        stage.driver.slots().events() == 1 && pools[0].in_use() == 1 && stage.open_count("file") == 2
    });
    stage.submit(Op::Receive { socket: idle, expect: Expect::Later });
    stage.submit(Op::Poll { socket: idle, interest: Interest::HangUp });
    stage.turn();
    let buf = pools[1].try_take().unwrap();
    stage.submit(Op::Read { file, offset: 0, len: 7, buf });
    stage.driver.close(file, Closing::Inline);

    let Stage { driver, outside } = stage;
    drop(driver);
    assert_eq!(pools.map(|pool| pool.in_use()), [0, 0]);
    assert_eq!(outside.open_count("file"), 0);
    assert_ne!(accepted_peer.wait_for_end(), End::Open);
}

fn another_thread_ends_a_wait(stage: Stage) {
    let (runtime, _outside) = stage.into_runtime();
    let mut agent = WokenTwice { remote: runtime.tasks().remote().clone(), woken: 0 };
    agent.wake_up_from_elsewhere();
    worker::run(&runtime, &mut agent).unwrap();
    assert_eq!(agent.woken, 2);
}

fn tasks_that_are_shut_down_release_everything(mut stage: Stage) {
    stage.add_file("file", b"content");
    let (receiving, mut receiving_peer) = stage.connection();
    let (polling, mut polling_peer) = stage.connection();
    let root_path = stage.root_path();
    let (runtime, outside) = stage.into_runtime();
    let pools = [runtime.receive_pool().clone(), runtime.transfer_pool().clone()];
    let sockets = [receiving, polling].map(|socket| Socket::from_raw(socket, &runtime));
    let [receiving, polling] = sockets;
    receiving_peer.send(b"x");
    runtime
        .spawn(async move {
            let _held = receiving.receive(Expect::Now).await;
            receiving.receive(Expect::Later).await
        })
        .detach();
    runtime.spawn(async move { polling.hung_up().await }).detach();
    let worker = runtime.clone();
    runtime
        .spawn(async move {
            let root = File::open_root(&worker, &root_path).await.unwrap();
            let file = root.open_beneath(b"file").await.unwrap();
            loop {
                let buf = worker.transfer_pool().acquire().await;
                let (read, buf) = file.read(0, 7, buf).await;
                assert_eq!((read.unwrap(), &*buf), (7, &b"content"[..]));
            }
        })
        .detach();
    let mut turns = Turns::new(&runtime);
    turn_until(&mut turns, &runtime, || pools.iter().all(|pool| pool.in_use() == 1) && outside.open_count("file") == 1);
    runtime.tasks().shut_down();
    // What remains is the watch on the wake-up descriptor.
    turn_until(&mut turns, &runtime, || runtime.driver().slots().in_flight() == 1);
    assert_eq!((runtime.tasks().live(), outside.open_count("file")), (0, 0));
    assert_eq!(pools.map(|pool| pool.in_use()), [0, 0]);
    turn_until(&mut turns, &runtime, || receiving_peer.end() != End::Open && polling_peer.end() != End::Open);
}

fn a_read_appends_to_what_the_buffer_holds(mut stage: Stage) {
    stage.add_file("file", b"0123456789");
    let file = stage.open("file").unwrap();
    let mut buf = stage.driver.transfer_pool().try_take().unwrap();
    for (offset, len, expected) in [(8, 1, "8"), (3, 4, "83456"), (9, 100, "834569"), (10, 100, "834569")] {
        let read = stage.submit(Op::Read { file, offset, len, buf });
        let completion = stage.finish(read);
        let Some(Op::Read { buf: back, .. }) = completion.op else { panic!("another operation") };
        assert_eq!(std::str::from_utf8(&back).unwrap(), expected);
        buf = back;
    }
}

fn paths_stay_beneath_their_directory(mut stage: Stage) {
    stage.add_directory("inner");
    stage.add_file("inner/file", b"content");
    stage.add_file("file", b"content");
    stage.add_fifo("fifo");
    let long = "n".repeat(256);
    let cases = [
        ("file", Ok(FileKind::Regular)),
        ("inner/file", Ok(FileKind::Regular)),
        ("inner//./file", Ok(FileKind::Regular)),
        ("inner/../file", Ok(FileKind::Regular)),
        ("inner/", Ok(FileKind::Directory)),
        (".", Ok(FileKind::Directory)),
        ("fifo", Ok(FileKind::Other)),
        ("", Err(libc::ENOENT)),
        ("missing", Err(libc::ENOENT)),
        ("missing/file", Err(libc::ENOENT)),
        ("file/", Err(libc::ENOTDIR)),
        ("file/.", Err(libc::ENOTDIR)),
        ("file/below", Err(libc::ENOTDIR)),
        ("..", Err(libc::EXDEV)),
        ("inner/../../file", Err(libc::EXDEV)),
        ("/etc/passwd", Err(libc::EXDEV)),
        (&*long, Err(libc::ENAMETOOLONG)),
    ];
    for (path, expected) in cases {
        let opened = stage.open(path);
        let found = opened.map(|fd| stage.driver.stat(fd).unwrap().kind).map_err(|error| error.raw_os_error().unwrap());
        assert_eq!(found, expected, "{path:?}");
    }
    let path = stage.root_path().join("file");
    let open = stage.submit(open_op(libc::AT_FDCWD, path.to_str().unwrap(), Resolve::Anywhere));
    assert_eq!(stage.finish(open).result.unwrap_err().raw_os_error(), Some(libc::ENOTDIR), "a root is a directory");
}

fn a_connection_ends_as_it_was_told(mut stage: Stage) {
    let (socket, mut peer) = stage.connection();
    stage.driver.set_option(socket, SocketOption::NoDelay).unwrap();
    stage.driver.set_option(socket, SocketOption::NotSentLowWater(128 << 10)).unwrap();
    assert_eq!(stage.driver.send(socket, b"last", More::No).unwrap(), 4);
    stage.driver.shutdown_write(socket).unwrap();
    let mut received = Vec::new();
    stage.turn_until("the end comes after the bytes", |_| {
        received.extend(peer.take());
        peer.end() == End::Finished
    });
    assert_eq!(received, b"last");
    assert_eq!(stage.driver.send(socket, b"x", More::No).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    peer.send(b"and yet");
    assert_eq!(stage.receive(socket).unwrap(), b"and yet");
    let poll = stage.submit(Op::Poll { socket, interest: Interest::HangUp });
    peer.finish();
    assert_eq!(stage.receive(socket).unwrap(), b"");
    assert_ne!(stage.finish(poll).result.unwrap() & libc::POLLHUP as u32, 0, "both directions have ended");
    stage.driver.close(socket, Closing::Inline);

    let (broken, mut broken_peer) = stage.connection();
    stage.driver.set_option(broken, SocketOption::ResetOnClose).unwrap();
    stage.driver.close(broken, Closing::Inline);
    stage.turn_until("a reset", |_| broken_peer.end() == End::Reset);

    let (unread, mut unread_peer) = stage.connection();
    unread_peer.send(b"nobody reads this");
    let poll = stage.submit(Op::Poll { socket: unread, interest: Interest::Readable });
    assert_eq!(stage.finish(poll).result.unwrap(), libc::POLLIN as u32);
    stage.driver.close(unread, Closing::Inline);
    stage.turn_until("a reset, because bytes were not read", |_| unread_peer.end() == End::Reset);
}

fn a_pacing_rate_is_kept_until_it_is_lifted(mut stage: Stage) {
    let (socket, mut peer) = stage.connection();
    assert_eq!(stage.max_pacing_rate(socket, &peer), u64::MAX);
    // More than 32 bits hold.
    for rate in [2 << 20, 5 << 32, u64::MAX] {
        stage.driver.set_option(socket, SocketOption::MaxPacingRate(rate)).unwrap();
        assert_eq!(stage.max_pacing_rate(socket, &peer), rate);
    }
    stage.driver.set_option(socket, SocketOption::MaxPacingRate(1 << 20)).unwrap();
    assert_eq!(stage.driver.send(socket, b"paced", More::No).unwrap(), 5);
    let mut received = Vec::new();
    stage.turn_until("a paced byte is still a byte", |_| {
        received.extend(peer.take());
        received == b"paced"
    });
}

fn a_file_region_ends_at_the_end_of_the_file(mut stage: Stage) {
    stage.add_file("file", b"0123456789");
    let file = stage.open("file").unwrap();
    assert_eq!(stage.driver.stat(file).unwrap().len, 10);
    let (socket, mut peer) = stage.connection();
    for (offset, len, sent) in [(2, 3, 3), (8, 100, 2), (10, 100, 0), (1 << 40, 1, 0)] {
        assert_eq!(stage.driver.send_file(socket, file, offset, len).unwrap(), sent);
    }
    let mut received = Vec::new();
    stage.turn_until("all has come", |_| {
        received.extend(peer.take());
        received.len() == 5
    });
    assert_eq!(received, b"23489");
}

fn open_op(root: RawFd, path: &str, resolve: Resolve) -> Op {
    Op::Open { root, path: CString::new(path).unwrap(), resolve, how: Box::<OpenHow>::default() }
}

/// Sends until the socket is full.
fn fill(driver: &mut dyn Driver, socket: RawFd) -> usize {
    let block = vec![b'z'; 256 << 10];
    let mut sent = 0;
    loop {
        match driver.send(socket, &block, More::Follows) {
            Ok(n) => sent += n,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                return sent;
            }
        }
    }
}

/// Turns that wait a little each.
#[track_caller]
fn turn_until(turns: &mut Turns, runtime: &Rc<Runtime>, mut condition: impl FnMut() -> bool) {
    let (tick, deadline) = (Timer::new(runtime), runtime.precise_now() + PATIENCE);
    while !condition() {
        assert!(runtime.precise_now() < deadline, "this never happens");
        tick.set(Some(runtime.precise_now() + Duration::from_millis(1)));
        turns.turn(&mut Idle).unwrap();
    }
}

/// An agent without events of its own.
struct Idle;

impl Agent for Idle {
    fn completed(&mut self, event: Event) {
        panic!("nobody asked for {event:?}");
    }
    fn expired(&mut self, _: Token) {}
    fn woken(&mut self) {}
    fn turned(&mut self) {}
    fn finished(&self) -> bool {
        false
    }
}

struct WokenTwice {
    remote: Arc<Remote>,
    woken: usize,
}

impl WokenTwice {
    fn wake_up_from_elsewhere(&self) {
        let remote = self.remote.clone();
        std::thread::spawn(move || remote.wake_up());
    }
}

impl Agent for WokenTwice {
    fn completed(&mut self, event: Event) {
        panic!("nobody asked for {event:?}");
    }
    fn expired(&mut self, _: Token) {}
    fn woken(&mut self) {
        self.woken += 1;
        if !self.finished() {
            self.wake_up_from_elsewhere();
        }
    }
    fn turned(&mut self) {}
    fn finished(&self) -> bool {
        self.woken == 2
    }
}

/// A driver and what lies behind it.
struct Stage {
    driver: Box<dyn Driver>,
    outside: Outside,
}

enum Outside {
    Real(tempfile::TempDir),
    Fake(Rc<World>),
}

enum Listener {
    Real(TcpListener),
    Fake(RawFd),
}

enum Peer {
    Real { stream: Option<TcpStream>, unread: Vec<u8> },
    Fake(Client),
}

impl Stage {
    fn ring() -> Self {
        Self::real(Uring::new(&SETUP).expect("io_uring"))
    }

    fn plain_ring() -> Self {
        Self::real(Uring::plain(&SETUP).expect("io_uring"))
    }

    fn fake(world: &Rc<World>) -> Self {
        world.add_directory("root");
        Stage { driver: Box::new(Sim::new(world, &SETUP)), outside: Outside::Fake(world.clone()) }
    }

    fn real(driver: Uring) -> Self {
        Stage { driver: Box::new(driver), outside: Outside::Real(tempfile::tempdir().unwrap()) }
    }

    fn into_runtime(self) -> (Rc<Runtime>, Outside) {
        let offload = Offload::start(1, 1).unwrap();
        (Runtime::new(self.driver, Tasks::new().unwrap(), offload), self.outside)
    }

    fn add_file(&self, path: &str, content: &[u8]) {
        match &self.outside {
            Outside::Real(root) => std::fs::write(root.path().join(path), content).unwrap(),
            Outside::Fake(world) => world.add_file(&format!("root/{path}"), Content::Bytes(content.to_vec())),
        }
    }

    fn add_directory(&self, path: &str) {
        match &self.outside {
            Outside::Real(root) => std::fs::create_dir(root.path().join(path)).unwrap(),
            Outside::Fake(world) => world.add_directory(&format!("root/{path}")),
        }
    }

    fn add_fifo(&self, path: &str) {
        match &self.outside {
            Outside::Real(root) => {
                nix::unistd::mkfifo(&root.path().join(path), nix::sys::stat::Mode::S_IRWXU).unwrap();
            }
            Outside::Fake(world) => world.add_fifo(&format!("root/{path}")),
        }
    }

    fn root_path(&self) -> PathBuf {
        match &self.outside {
            Outside::Real(root) => root.path().to_path_buf(),
            Outside::Fake(_) => "/root".into(),
        }
    }

    fn root(&mut self) -> RawFd {
        let path = self.root_path();
        let open = self.submit(open_op(libc::AT_FDCWD, path.to_str().unwrap(), Resolve::Anywhere));
        self.finish(open).result.unwrap() as RawFd
    }

    fn open(&mut self, path: &str) -> io::Result<RawFd> {
        let root = self.root();
        let open = self.submit(open_op(root, path, Resolve::Beneath));
        let opened = self.finish(open).result;
        self.driver.close(root, Closing::Inline);
        self.turn_until("the root is closed", |stage| stage.driver.slots().in_flight() == 0);
        opened.map(|fd| fd as RawFd)
    }

    fn open_count(&self, path: &str) -> usize {
        self.outside.open_count(path)
    }

    fn listen(&self) -> Listener {
        match &self.outside {
            Outside::Real(_) => Listener::Real(TcpListener::bind("127.0.0.1:0").unwrap()),
            Outside::Fake(world) => Listener::Fake(world.listen()),
        }
    }

    fn close_listener(&mut self, listener: Listener) {
        match listener {
            Listener::Real(listener) => drop(listener),
            Listener::Fake(fd) => self.driver.close(fd, Closing::Inline),
        }
    }

    fn connect(&self, listener: &Listener) -> Peer {
        match (&self.outside, listener) {
            (Outside::Fake(world), Listener::Fake(fd)) => Peer::Fake(world.connect(*fd)),
            (Outside::Real(_), Listener::Real(listener)) => {
                let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                stream.set_nonblocking(true).unwrap();
                Peer::Real { stream: Some(stream), unread: Vec::new() }
            }
            _ => unreachable!("a listener of another stage"),
        }
    }

    /// A connection, accepted through the driver.
    fn connection(&mut self) -> (RawFd, Peer) {
        let listener = self.listen();
        let accept = self.driver.submit(Op::Accept { listener: listener.raw() }, Owner::Worker(TOKEN));
        let peer = self.connect(&listener);
        let event = self.next_event();
        assert_eq!((event.token, event.slot), (TOKEN, accept));
        if event.completion.op.is_none() {
            self.driver.abandon(accept);
        }
        self.turn_until("the accept ends", |stage| stage.driver.slots().in_flight() == 0);
        self.close_listener(listener);
        self.turn_until("the listener is closed", |stage| stage.driver.slots().in_flight() == 0);
        (event.completion.result.unwrap() as RawFd, peer)
    }

    /// What the kernel holds a socket to, in bytes a second.
    fn max_pacing_rate(&self, socket: RawFd, peer: &Peer) -> u64 {
        match peer {
            Peer::Real { .. } => super::sys::max_pacing_rate(socket).unwrap(),
            Peer::Fake(client) => client.max_pacing_rate(),
        }
    }

    fn submit(&mut self, op: Op) -> Slot {
        self.driver.submit(op, Owner::Task(None))
    }

    fn poll(&mut self, slot: Slot) -> Poll<Completion> {
        self.driver.poll(slot, &mut Context::from_waker(Waker::noop()))
    }

    /// Sends until the socket is full and a poll for room waits; returns that and how much was sent.
    fn fill(&mut self, socket: RawFd) -> (Slot, usize) {
        let mut sent = 0;
        loop {
            sent += fill(&mut *self.driver, socket);
            let poll = self.submit(Op::Poll { socket, interest: Interest::Writable });
            (0..3).for_each(|_| self.turn());
            // A real kernel may find more room while it moves the bytes.
            match self.poll(poll) {
                Poll::Pending => return (poll, sent),
                Poll::Ready(completion) => assert_ne!(completion.result.unwrap() & libc::POLLOUT as u32, 0),
            }
        }
    }

    #[track_caller]
    fn finish(&mut self, slot: Slot) -> Completion {
        let mut completion = None;
        self.turn_until("a completion", |stage| {
            if let Poll::Ready(ready) = stage.poll(slot) {
                completion = Some(ready);
            }
            completion.is_some()
        });
        completion.unwrap()
    }

    #[track_caller]
    fn receive(&mut self, socket: RawFd) -> io::Result<Vec<u8>> {
        let receive = self.submit(Op::Receive { socket, expect: Expect::Later });
        let completion = self.finish(receive);
        let len = completion.result? as usize;
        let bytes = completion.lease.map(|buf| buf.to_vec()).unwrap_or_default();
        assert_eq!(bytes.len(), len);
        Ok(bytes)
    }

    #[track_caller]
    fn next_event(&mut self) -> Event {
        self.turn_until("an event", |stage| stage.driver.slots().events() > 0);
        self.driver.next_event().unwrap()
    }

    /// A turn that waits a little.
    fn turn(&mut self) {
        let deadline = self.driver.now() + Duration::from_millis(1);
        self.driver.turn(Wait::Until(deadline)).unwrap();
    }

    #[track_caller]
    fn turn_until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let deadline = self.driver.now() + PATIENCE;
        while !condition(self) {
            assert!(self.driver.now() < deadline, "this never happens: {what}");
            self.turn();
        }
    }
}

impl Outside {
    /// How many descriptors are open on a file of this stage.
    fn open_count(&self, path: &str) -> usize {
        match self {
            Outside::Real(root) => {
                let path = root.path().join(path);
                let links = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
                links.filter(|link| std::fs::read_link(link).is_ok_and(|target| target == path)).count()
            }
            Outside::Fake(world) => world.open_descriptors().files,
        }
    }
}

impl Listener {
    fn raw(&self) -> RawFd {
        match self {
            Listener::Real(listener) => listener.as_raw_fd(),
            Listener::Fake(fd) => *fd,
        }
    }
}

impl Peer {
    fn send(&mut self, bytes: &[u8]) {
        match self {
            Peer::Real { stream, .. } => stream.as_mut().unwrap().write_all(bytes).unwrap(),
            Peer::Fake(client) => client.send(bytes),
        }
    }

    fn finish(&mut self) {
        match self {
            Peer::Real { stream, .. } => stream.as_mut().unwrap().shutdown(std::net::Shutdown::Write).unwrap(),
            Peer::Fake(client) => client.finish(),
        }
    }

    fn reset(&mut self) {
        match self {
            Peer::Real { stream, .. } => {
                let linger = libc::linger { l_onoff: 1, l_linger: 0 };
                nix::sys::socket::setsockopt(stream.as_ref().unwrap(), nix::sys::socket::sockopt::Linger, &linger)
                    .unwrap();
                *stream = None;
            }
            Peer::Fake(client) => client.reset(),
        }
    }

    /// What has come since the last call.
    fn take(&mut self) -> Vec<u8> {
        self.look();
        match self {
            Peer::Real { unread, .. } => std::mem::take(unread),
            Peer::Fake(client) => client.take_received(),
        }
    }

    fn end(&mut self) -> End {
        self.look()
    }

    /// Waits for the end in real time, without a driver.
    fn wait_for_end(&mut self) -> End {
        if let Peer::Real { stream: Some(stream), .. } = self {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        self.look()
    }

    fn look(&mut self) -> End {
        let (stream, unread) = match self {
            Peer::Fake(client) => return client.end(),
            Peer::Real { stream, unread } => (stream.as_mut().unwrap(), unread),
        };
        match stream.read_to_end(unread) {
            Ok(_) if unread.is_empty() => End::Finished,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => End::Reset,
            _ => End::Open,
        }
    }
}
