//! What every driver promises, checked on each: the ring, the plain ring of older kernels, and the fake one with many seeds.
//!
//! A scenario sees the kernel from both sides: a [`Stage`] is a driver with the clients and files that lie behind it, real
//! or fake. Where a kernel may answer in several ways, a scenario takes each of them and checks what follows.

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::op::{Closing, Expect, Interest, Op, OpenHow, Opening, RemoteAddress};
use super::pipe::Pipe;
use super::sim::{Backend, Client, Content, End, Faults, Sim, World, explore};
use super::slot::{Completion, Event, Owner, Slot, Token};
use super::uring::Uring;
use super::{Advice, Driver, FileKind, More, Setup, SocketOption, Wait};
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

mod files;

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
    a_file_region_comes_out_of_a_pipe_as_it_went_in,
    what_a_full_socket_does_not_take_stays_in_the_pipe,
    a_pipe_that_was_given_back_with_bytes_is_lent_without_them,
    a_fill_that_was_given_up_leaves_nothing,
    a_teardown_closes_every_pipe,
    a_zero_copy_send_keeps_its_buffer_until_the_client_has_the_bytes,
    a_zero_copy_send_that_was_given_up_keeps_its_buffer_until_the_client_has_the_bytes,
    a_zero_copy_send_that_fails_returns_its_buffer,
    a_file_goes_out_by_every_way,
    advice_brings_pages_and_takes_them_away,
    a_cork_holds_part_of_a_packet_back_until_it_is_drawn,
    a_pacing_rate_is_kept_until_it_is_lifted,
    an_acknowledgement_is_waited_for_as_long_as_was_said,
    a_direct_receive_takes_no_byte_more_than_asked,
    a_direct_receive_takes_what_came_before_a_reset,
    a_low_water_mark_holds_readability_back_until_so_many_bytes_or_the_end,
    a_connect_reaches_who_listens_there,
    a_connect_to_nobody_is_refused,
    a_connect_that_is_not_answered_can_be_given_up,
    a_connect_that_was_given_up_and_closed_leaves_nothing,
}

/// How long the driver's clock may run before a scenario fails.
const PATIENCE: Duration = Duration::from_secs(10);
const SETUP: Setup = Setup {
    in_flight: 64,
    receive_buffers: (2, 4096),
    transfer_buffers: (2, 4096),
    upload_buffers: (2, 4096),
    pipes: 2,
};
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
        let slot = stage.submit(open_op(root, "file", Opening::Beneath));
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
    let open = stage.submit(open_op(root, "file", Opening::Beneath));
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
    stage.submit(open_op(unfetched, "file", Opening::Beneath));
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
    runtime.spawn(async move { polling.hang_up().await }).detach();
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
    let open = stage.submit(open_op(libc::AT_FDCWD, path.to_str().unwrap(), Opening::Anywhere));
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

fn an_acknowledgement_is_waited_for_as_long_as_was_said(mut stage: Stage) {
    let (socket, mut peer) = stage.connection();
    for milliseconds in [1, 0, 15_000] {
        stage.driver.set_option(socket, SocketOption::UserTimeout(milliseconds)).unwrap();
        match &peer {
            Peer::Real { .. } => assert_eq!(super::sys::patience(socket).unwrap(), (milliseconds, false)),
            Peer::Fake(client) => assert_eq!(client.user_timeout_ms(), milliseconds),
        }
    }
    let keep_alive = SocketOption::KeepAlive { idle: 60, interval: 15, probes: 4 };
    stage.driver.set_option(socket, keep_alive).unwrap();
    if let Peer::Real { .. } = &peer {
        assert_eq!(super::sys::patience(socket).unwrap(), (15_000, true));
    }
    // Who answers at once is not given up.
    assert_eq!(stage.driver.send(socket, b"answered", More::No).unwrap(), 8);
    let mut received = Vec::new();
    stage.turn_until("a client that acknowledges gets its bytes", |_| {
        received.extend(peer.take());
        received == b"answered"
    });
}

fn a_direct_receive_takes_no_byte_more_than_asked(mut stage: Stage) {
    let (socket, mut peer) = stage.connection();
    let mut buf = stage.driver.transfer_pool().try_take().unwrap();
    assert_eq!(stage.driver.receive(socket, &mut buf, 9).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    peer.send(b"0123456789");
    stage.wait_for_bytes(socket);
    for (len, expected) in [(3, "012"), (1, "0123"), (100, "0123456789")] {
        stage.driver.receive(socket, &mut buf, len).unwrap();
        assert_eq!(std::str::from_utf8(&buf).unwrap(), expected);
    }
    assert_eq!(stage.driver.receive(socket, &mut buf, 1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    buf.append(&vec![b'.'; buf.spare_len() - 2]);
    peer.send(b"abc");
    stage.wait_for_bytes(socket);
    assert_eq!(stage.driver.receive(socket, &mut buf, 3).unwrap(), 2, "there is no more room");
    assert!(buf.ends_with(b".ab"));
    buf.truncate(0);
    peer.finish();
    assert_eq!(stage.driver.receive(socket, &mut buf, 3).unwrap(), 1);
    stage.wait_for_bytes(socket);
    assert_eq!(stage.driver.receive(socket, &mut buf, 3).unwrap(), 0);
    assert_eq!(&*buf, b"c");
}

fn a_direct_receive_takes_what_came_before_a_reset(mut stage: Stage) {
    let (socket, mut peer) = stage.connection();
    let mut buf = stage.driver.transfer_pool().try_take().unwrap();
    peer.send(b"last");
    peer.reset();
    let poll = stage.submit(Op::Poll { socket, interest: Interest::HangUp });
    stage.finish(poll);
    assert_eq!(stage.driver.receive(socket, &mut buf, 3).unwrap(), 3);
    assert_eq!(stage.driver.receive(socket, &mut buf, 3).unwrap(), 1);
    assert_eq!(&*buf, b"last");
    assert_eq!(stage.driver.receive(socket, &mut buf, 3).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(stage.driver.receive(socket, &mut buf, 3).unwrap(), 0, "the error is told once");
}

fn a_low_water_mark_holds_readability_back_until_so_many_bytes_or_the_end(mut stage: Stage) {
    let (socket, mut peer) = stage.connection();
    let mut buf = stage.driver.transfer_pool().try_take().unwrap();
    stage.driver.set_option(socket, SocketOption::ReceiveLowWater(4000)).unwrap();
    for ending in [false, true] {
        let poll = stage.submit(Op::Poll { socket, interest: Interest::Readable });
        peer.send(&[b'x'; 3999]);
        for _ in 0..20 {
            stage.turn();
            assert!(stage.poll(poll).is_pending());
        }
        if ending {
            peer.finish();
        } else {
            peer.send(b"x");
        }
        assert_ne!(stage.finish(poll).result.unwrap() & libc::POLLIN as u32, 0);
        let there = if ending { 3999 } else { 4000 };
        assert_eq!(stage.driver.receive(socket, &mut buf, 4096).unwrap(), there);
        buf.truncate(0);
    }

    let (socket, mut peer) = stage.connection();
    for mark in [4000, 1, 4000, 0] {
        stage.driver.set_option(socket, SocketOption::ReceiveLowWater(mark)).unwrap();
        let poll = stage.submit(Op::Poll { socket, interest: Interest::Readable });
        (0..3).for_each(|_| stage.turn());
        assert!(stage.poll(poll).is_pending());
        if mark < 2 {
            peer.send(b"x");
            stage.finish(poll);
            assert_eq!(stage.driver.receive(socket, &mut buf, 2).unwrap(), 1);
        } else {
            stage.driver.abandon(poll);
        }
    }
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

fn a_file_region_comes_out_of_a_pipe_as_it_went_in(mut stage: Stage) {
    let content = pattern(20_000);
    stage.add_file("file", &content);
    let file = stage.open("file").unwrap();
    let (socket, mut peer) = stage.connection();
    let mut pipe = stage.take_pipe();
    let cases = [
        (0, 4096, 4096),
        (1, 4096, 4096),
        (4095, 4096, 4096),
        (8191, 2, 2),
        (5000, 100_000, 4096),
        (19_990, 100, 10),
        (20_000, 1, 0),
        (1 << 40, 1, 0),
    ];
    for (offset, len, expected) in cases {
        for by_ring in [false, true] {
            let moved;
            (moved, pipe) = stage.fill_pipe(pipe, file, offset, len, by_ring);
            assert_eq!((moved.unwrap(), pipe.len()), (expected, expected), "{len} bytes at {offset}");
            let from = offset.min(20_000) as usize;
            stage.drain_to(&mut pipe, socket, &mut peer, &content[from..from + expected]);
        }
    }
    assert_eq!(stage.driver.drain_pipe(&mut pipe, socket, More::No).unwrap(), 0, "an empty pipe never blocks");
    assert_eq!((pipe.fill_len(), stage.driver.pipe_pool().open()), (4096, 1));
}

fn what_a_full_socket_does_not_take_stays_in_the_pipe(mut stage: Stage) {
    let content = pattern(4096);
    stage.add_file("file", &content);
    let file = stage.open("file").unwrap();
    let (socket, mut peer) = stage.connection();
    let mut pipe = stage.take_pipe();
    let (mut sent, mut received) = (0, Vec::new());
    let left = loop {
        if pipe.is_empty() {
            assert_eq!(stage.driver.fill_pipe(&mut pipe, file, 0, 4096).unwrap(), 4096);
        }
        match stage.driver.drain_pipe(&mut pipe, socket, More::Follows) {
            Ok(n) => sent += n,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                break pipe.len();
            }
        }
    };
    assert_eq!((sent + left) % 4096, 0, "all that was filled has been sent or is in the pipe");
    stage.turn_until("the rest goes out, too", |stage| {
        received.extend(peer.take());
        sent += stage.driver.drain_pipe(&mut pipe, socket, More::No).unwrap_or(0);
        pipe.is_empty() && received.len() == sent
    });
    assert_eq!(sent % 4096, 0);
    assert!(received.chunks(4096).all(|chunk| chunk == content));
}

fn a_pipe_that_was_given_back_with_bytes_is_lent_without_them(mut stage: Stage) {
    let content = pattern(4096);
    stage.add_file("file", &content);
    let file = stage.open("file").unwrap();
    let (socket, mut peer) = stage.connection();
    for by_ring in [false, true] {
        let pipe = stage.take_pipe();
        let name = stage.outside.pipe_name(&pipe);
        let (moved, pipe) = stage.fill_pipe(pipe, file, 0, 3000, by_ring);
        assert_eq!(moved.unwrap(), 3000);
        drop(pipe);
        assert_eq!(stage.driver.pipe_pool().in_use(), 0);
        let mut pipe = stage.take_pipe();
        assert!(pipe.is_empty());
        assert_eq!(stage.outside.pipe_name(&pipe), name, "it was emptied and not closed");
        assert_eq!(stage.driver.fill_pipe(&mut pipe, file, 4000, 9).unwrap(), 9);
        stage.drain_to(&mut pipe, socket, &mut peer, &content[4000..4009]);
    }
}

fn a_fill_that_was_given_up_leaves_nothing(mut stage: Stage) {
    let content = pattern(4096);
    stage.add_file("file", &content);
    let file = stage.open("file").unwrap();
    let (socket, mut peer) = stage.connection();
    let pool = stage.driver.pipe_pool().clone();
    for turns_before in 0..3 {
        let pipe = stage.take_pipe();
        let name = stage.outside.pipe_name(&pipe);
        let slot = stage.submit(Op::FillPipe { file, offset: 1, len: 4000, pipe });
        for _ in 0..turns_before {
            stage.turn();
        }
        stage.driver.abandon(slot);
        stage.turn_until("the kernel lets go", |stage| {
            let released = stage.driver.slots().in_flight() == 0;
            assert_eq!(pool.in_use(), usize::from(!released), "the kernel may still fill it");
            released
        });
        // If the fill won, the pipe was emptied; if the cancellation did, it was closed.
        assert_eq!(stage.outside.pipe_count(&name), pool.open());
        let mut pipe = stage.take_pipe();
        assert_eq!(stage.driver.fill_pipe(&mut pipe, file, 100, 5).unwrap(), 5);
        stage.drain_to(&mut pipe, socket, &mut peer, &content[100..105]);
    }
}

fn a_teardown_closes_every_pipe(mut stage: Stage) {
    stage.add_file("file", b"content");
    let file = stage.open("file").unwrap();
    let [returned, filling] = [stage.take_pipe(), stage.take_pipe()];
    let names = [&returned, &filling].map(|pipe| stage.outside.pipe_name(pipe));
    drop(returned);
    stage.submit(Op::FillPipe { file, offset: 0, len: 7, pipe: filling });
    let Stage { driver, outside } = stage;
    drop(driver);
    assert_eq!(names.map(|name| outside.pipe_count(&name)), [0, 0]);
}

fn a_zero_copy_send_keeps_its_buffer_until_the_client_has_the_bytes(mut stage: Stage) {
    let (socket, mut peer, before) = stage.connection_with_unread_bytes();
    let slot = stage.send_zero_copy(socket, b"left out, and sent", 14);
    for _ in 0..20 {
        stage.turn();
        assert!(stage.poll(slot).is_pending(), "the bytes have not gone out");
    }
    let mut received = Vec::new();
    let mut completion = None;
    stage.turn_until("the client has the bytes", |stage| {
        received.extend(peer.take());
        if completion.is_none()
            && let Poll::Ready(ready) = stage.poll(slot)
        {
            completion = Some(ready);
        }
        completion.is_some() && received.len() == before + 4
    });
    assert_eq!(&received[before..], b"sent");
    let completion = completion.unwrap();
    assert_eq!(completion.result.unwrap(), 4);
    let Some(Op::SendZeroCopy { buf, .. }) = completion.op else { panic!("another operation") };
    assert_eq!(&*buf, b"left out, and sent");
}

fn a_zero_copy_send_that_was_given_up_keeps_its_buffer_until_the_client_has_the_bytes(mut stage: Stage) {
    let (socket, mut peer, before) = stage.connection_with_unread_bytes();
    let pool = stage.driver.transfer_pool().clone();
    let slot = stage.send_zero_copy(socket, b"sent", 0);
    // Until the socket has taken it, it can still be cancelled.
    for _ in 0..20 {
        stage.turn();
    }
    stage.driver.abandon(slot);
    for _ in 0..20 {
        stage.turn();
        assert_eq!((pool.in_use(), stage.driver.slots().in_flight()), (1, 1), "the kernel may still read it");
    }
    let mut received = Vec::new();
    stage.turn_until("the client has the bytes", |stage| {
        received.extend(peer.take());
        received.len() == before + 4 && stage.driver.slots().in_flight() == 0
    });
    assert_eq!((&received[before..], pool.in_use()), (&b"sent"[..], 0));
}

fn a_zero_copy_send_that_fails_returns_its_buffer(mut stage: Stage) {
    let (socket, mut peer) = stage.connection();
    let (poll, _) = stage.fill(socket);
    let full = stage.send_zero_copy(socket, b"no room", 0);
    let full = stage.finish(full);
    assert_eq!(full.result.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    peer.reset();
    stage.finish(poll);
    let errors = [(); 2].map(|()| {
        let send = stage.send_zero_copy(socket, b"nobody", 0);
        stage.finish(send).result.unwrap_err().kind()
    });
    assert_eq!(errors, [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe]);
    drop(full.op);
    assert_eq!(stage.driver.transfer_pool().in_use(), 0);
}

fn a_file_goes_out_by_every_way(mut stage: Stage) {
    let content = pattern(30_000);
    stage.add_file("file", &content);
    let (socket, mut peer) = stage.connection();
    let root_path = stage.root_path();
    let (runtime, _outside) = stage.into_runtime();
    assert!(runtime.supports_ring_splice() && runtime.supports_zero_copy_send());
    let worker = runtime.clone();
    let sender = runtime.spawn(async move {
        let root = File::open_root(&worker, &root_path).await.unwrap();
        let file = root.open_beneath(b"file").await.unwrap();
        let socket = Socket::from_raw(socket, &worker);
        for way in [Way::Splice, Way::RingSplice, Way::ZeroCopy] {
            let mut offset = 0;
            // What a cork holds back is not acknowledged, so a zero-copy send would wait for it.
            socket.cork(!matches!(way, Way::ZeroCopy));
            while offset < 30_000 {
                offset += send_some(&file, &socket, offset, way).await as u64;
            }
        }
    });
    sender.detach();
    let mut turns = Turns::new(&runtime);
    let mut received = Vec::new();
    turn_until(&mut turns, &runtime, || {
        received.extend(peer.take());
        received.len() == 3 * content.len() && runtime.tasks().live() == 0
    });
    assert!(received.chunks(content.len()).all(|sent| sent == content));
    assert_eq!((runtime.pipe_pool().in_use(), runtime.transfer_pool().in_use()), (0, 0));
}

#[derive(Clone, Copy)]
enum Way {
    Splice,
    RingSplice,
    ZeroCopy,
}

/// Sends what goes out at once of what lies at `offset`, and waits until there is room for that.
async fn send_some(file: &File, socket: &Socket, offset: u64, way: Way) -> usize {
    let runtime = socket.runtime();
    loop {
        let sent = match way {
            Way::Splice => {
                let mut pipe = runtime.pipe_pool().acquire().await.unwrap();
                file.try_fill(&mut pipe, offset, 5000).unwrap();
                socket.try_drain(&mut pipe, More::No)
            }
            Way::RingSplice => {
                let pipe = runtime.pipe_pool().acquire().await.unwrap();
                let (filled, mut pipe) = file.fill(pipe, offset, 5000).await;
                filled.unwrap();
                socket.try_drain(&mut pipe, More::No)
            }
            Way::ZeroCopy => {
                let buf = runtime.transfer_pool().acquire().await;
                let (read, buf) = file.read(offset, 5000, buf).await;
                read.unwrap();
                socket.send_zero_copy(buf, 0).await.0
            }
        };
        match sent {
            Ok(sent) => return sent,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        socket.writable().await;
    }
}

fn advice_brings_pages_and_takes_them_away(mut stage: Stage) {
    const LEN: usize = 1 << 20;
    const REGION: std::ops::Range<usize> = 512 << 10..576 << 10;
    stage.add_file("file", &pattern(LEN));
    let file = stage.open("file").unwrap();
    stage.turn_until("the pages leave", |stage| {
        stage.driver.advise(file, 0, 0, Advice::DontNeed).unwrap();
        stage.outside.resident("file", 0..LEN) == 0 || stage.outside.is_all_in_memory()
    });
    let (offset, len) = (REGION.start as u64, REGION.len() as u64);
    stage.driver.advise(file, offset, len, Advice::WillNeed).unwrap();
    stage.turn_until("the pages come", |stage| stage.outside.resident("file", REGION) == REGION.len());
    assert_eq!(stage.driver.read_resident(file, offset + len - 1, &mut [0]).unwrap(), 1);
    if !stage.outside.is_all_in_memory() {
        assert_eq!(stage.outside.resident("file", 0..4096), 0, "nobody asked for these");
    }
}

fn a_cork_holds_part_of_a_packet_back_until_it_is_drawn(mut stage: Stage) {
    let (socket, mut peer) = stage.connection();
    let mut received = Vec::new();
    for draw in [true, false] {
        stage.driver.set_option(socket, SocketOption::Cork(true)).unwrap();
        assert_eq!(stage.driver.send(socket, b"part", More::No).unwrap(), 4);
        match &stage.outside {
            // It goes out after 200 ms, which may have passed before anyone looks.
            Outside::Real(_) => assert_eq!(cork(socket), 1),
            Outside::Fake(_) => {
                (0..20).for_each(|_| stage.turn());
                assert_eq!(peer.take(), b"");
            }
        }
        if draw {
            stage.driver.set_option(socket, SocketOption::Cork(false)).unwrap();
            assert!(matches!(stage.outside, Outside::Fake(_)) || cork(socket) == 0);
        } else {
            stage.driver.shutdown_write(socket).unwrap();
        }
        stage.turn_until("it goes out", |_| {
            received.extend(peer.take());
            received.ends_with(b"part")
        });
        received.clear();
    }
}

/// Whether a real socket is corked.
fn a_connect_reaches_who_listens_there(mut stage: Stage) {
    for (address, backend) in stage.backends() {
        let socket = stage.driver.stream_socket(address.family()).unwrap();
        let connect = stage.submit(Op::Connect { socket, to: address });
        assert_eq!(stage.finish(connect).result.unwrap(), 0);
        let mut peer = backend.accept();
        peer.send(b"reply");
        assert_eq!(stage.receive(socket).unwrap(), b"reply");
        assert_eq!(stage.driver.send(socket, b"request", More::No).unwrap(), 7);
        assert_eq!(peer.take(), b"request");
        stage.driver.close(socket, Closing::Inline);
        stage.turn_until("the peer is told", |_| peer.end() != End::Open);
    }
}

fn a_connect_to_nobody_is_refused(mut stage: Stage) {
    for (address, backend) in stage.backends() {
        let _refusing = backend.stop();
        let socket = stage.driver.stream_socket(address.family()).unwrap();
        let connect = stage.submit(Op::Connect { socket, to: address });
        assert_eq!(stage.finish(connect).result.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        stage.driver.close(socket, Closing::Inline);
        stage.turn_until("it is closed", |stage| stage.driver.slots().in_flight() == 0);
    }
}

fn a_connect_that_is_not_answered_can_be_given_up(mut stage: Stage) {
    let (address, _silent) = stage.silent_backend();
    let socket = stage.driver.stream_socket(address.family()).unwrap();
    let connect = stage.submit(Op::Connect { socket, to: address });
    for _ in 0..3 {
        stage.driver.turn(Wait::No).unwrap();
    }
    assert!(stage.poll(connect).is_pending());
    stage.driver.abandon(connect);
    stage.driver.close(socket, Closing::Inline);
    stage.turn_until("all ends", |stage| stage.driver.slots().in_flight() == 0);
    if let Outside::Fake(world) = &stage.outside {
        assert_eq!(world.open_descriptors().sockets, 0);
    }
}

fn a_connect_that_was_given_up_and_closed_leaves_nothing(mut stage: Stage) {
    for (address, backend) in stage.backends() {
        let socket = stage.driver.stream_socket(address.family()).unwrap();
        let connect = stage.submit(Op::Connect { socket, to: address });
        stage.driver.abandon(connect);
        stage.driver.close(socket, Closing::Inline);
        stage.turn_until("all ends", |stage| stage.driver.slots().in_flight() == 0);
        // Whether it was connected before it was given up is a race; if so, the peer is told of the end.
        if let Some(mut peer) = backend.try_accept() {
            stage.turn_until("the peer is told", |_| peer.end() != End::Open);
        }
    }
}

fn cork(socket: RawFd) -> i32 {
    let (mut value, mut len) = (-1_i32, size_of::<i32>() as libc::socklen_t);
    let (to, to_len) = ((&raw mut value).cast(), &raw mut len);
    // SAFETY: both point to live locals, and `len` is the length of the one that is written.
    assert_eq!(unsafe { libc::getsockopt(socket, libc::IPPROTO_TCP, libc::TCP_CORK, to, to_len) }, 0);
    value
}

/// Bytes of which no two stretches are alike.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(0x9E37_79B1) >> 24) as u8).collect()
}

fn open_op(root: RawFd, path: &str, opening: Opening) -> Op {
    Op::Open { root, path: CString::new(path).unwrap(), opening, how: Box::<OpenHow>::default() }
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

/// A server that the driver connects to.
enum Elsewhere {
    Tcp(TcpListener),
    Unix(UnixListener),
    Fake(Rc<Backend>),
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
            Outside::Real(root) => {
                let mut file = std::fs::File::create(root.path().join(path)).unwrap();
                file.write_all(content).unwrap();
                // What is dirty can't leave memory.
                file.sync_all().unwrap();
            }
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
        let open = self.submit(open_op(libc::AT_FDCWD, path.to_str().unwrap(), Opening::Anywhere));
        self.finish(open).result.unwrap() as RawFd
    }

    fn open(&mut self, path: &str) -> io::Result<RawFd> {
        let root = self.root();
        let open = self.submit(open_op(root, path, Opening::Beneath));
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

    /// Servers to connect to, of every kind.
    fn backends(&self) -> Vec<(RemoteAddress, Elsewhere)> {
        match &self.outside {
            Outside::Real(dir) => {
                let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
                let path = dir.path().join("socket");
                let unix = UnixListener::bind(&path).unwrap();
                vec![
                    (RemoteAddress::tcp(tcp.local_addr().unwrap()), Elsewhere::Tcp(tcp)),
                    (RemoteAddress::unix(&path).unwrap(), Elsewhere::Unix(unix)),
                ]
            }
            Outside::Fake(world) => {
                let addresses = [
                    RemoteAddress::tcp("192.0.2.9:80".parse().unwrap()),
                    RemoteAddress::unix(Path::new("/socket")).unwrap(),
                ];
                addresses.map(|address| (address.clone(), Elsewhere::Fake(world.serve(address)))).into()
            }
        }
    }

    /// A server that does not answer a connect, until it is dropped.
    fn silent_backend(&self) -> (RemoteAddress, Box<dyn std::any::Any>) {
        match &self.outside {
            Outside::Real(_) => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                // Of a queue of none, one place is filled; the kernel drops what comes then.
                nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
                let address = listener.local_addr().unwrap();
                let first = TcpStream::connect(address).unwrap();
                (RemoteAddress::tcp(address), Box::new((listener, first)))
            }
            Outside::Fake(world) => {
                let address = RemoteAddress::tcp("192.0.2.9:80".parse().unwrap());
                let backend = world.serve(address.clone());
                backend.fall_silent(true);
                (address, Box::new(backend))
            }
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

    /// A connection whose client has yet to take so many bytes, more than its side holds (`tcp_rmem`), so that a part of them
    /// has not left; there is room for some more.
    fn connection_with_unread_bytes(&mut self) -> (RawFd, Peer, usize) {
        const UNREAD: usize = 192 << 10;
        let (socket, peer) = self.connection();
        set_room(socket, &peer, UNREAD + (16 << 10));
        let bytes = vec![b'u'; UNREAD];
        let mut sent = 0;
        while sent < UNREAD {
            sent += self.driver.send(socket, &bytes[sent..], More::No).unwrap();
        }
        (socket, peer, sent)
    }

    fn send_zero_copy(&mut self, socket: RawFd, bytes: &[u8], from: usize) -> Slot {
        let mut buf = self.driver.transfer_pool().try_take().unwrap();
        buf.append(bytes);
        self.submit(Op::SendZeroCopy { socket, buf, from })
    }

    fn take_pipe(&self) -> Pipe {
        self.driver.pipe_pool().try_take().unwrap().expect("a free pipe")
    }

    fn fill_pipe(
        &mut self,
        mut pipe: Pipe,
        file: RawFd,
        offset: u64,
        len: usize,
        by_ring: bool,
    ) -> (io::Result<usize>, Pipe) {
        if !by_ring {
            return (self.driver.fill_pipe(&mut pipe, file, offset, len), pipe);
        }
        let fill = self.submit(Op::FillPipe { file, offset, len, pipe });
        let completion = self.finish(fill);
        let Some(Op::FillPipe { pipe, .. }) = completion.op else { panic!("another operation") };
        (completion.result.map(|n| n as usize), pipe)
    }

    /// Empties a pipe into a socket, whose client gets exactly these bytes.
    #[track_caller]
    fn drain_to(&mut self, pipe: &mut Pipe, socket: RawFd, peer: &mut Peer, expected: &[u8]) {
        let mut received = Vec::new();
        self.turn_until("what was in the pipe has come", |stage| {
            stage.driver.drain_pipe(pipe, socket, More::No).unwrap();
            received.extend(peer.take());
            pipe.is_empty() && received.len() >= expected.len()
        });
        assert!(received == expected, "{} bytes for {}", received.len(), expected.len());
    }

    /// What the kernel holds a socket to, in bytes a second.
    fn max_pacing_rate(&self, socket: RawFd, peer: &Peer) -> u64 {
        match peer {
            Peer::Real { .. } => super::sys::max_pacing_rate(socket).unwrap(),
            Peer::Fake(client) => client.max_pacing_rate(),
        }
    }

    /// Waits until there are bytes to receive, or the end.
    #[track_caller]
    fn wait_for_bytes(&mut self, socket: RawFd) {
        let poll = self.submit(Op::Poll { socket, interest: Interest::Readable });
        assert_ne!(self.finish(poll).result.unwrap() & libc::POLLIN as u32, 0);
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
            Outside::Real(root) => links_to(&root.path().join(path)),
            Outside::Fake(world) => world.open_descriptors().files,
        }
    }

    /// What a pipe is called, for as long as it is open.
    fn pipe_name(&self, pipe: &Pipe) -> PathBuf {
        match self {
            Outside::Real(_) => std::fs::read_link(format!("/proc/self/fd/{}", pipe.read_end())).unwrap(),
            Outside::Fake(_) => pipe.read_end().to_string().into(),
        }
    }

    /// How many pipes of this name are open, or of a world of any name.
    fn pipe_count(&self, name: &Path) -> usize {
        match self {
            Outside::Real(_) => links_to(name) / 2,
            Outside::Fake(world) => world.open_descriptors().pipes,
        }
    }

    /// How many bytes of a region are in the page cache.
    fn resident(&self, path: &str, region: std::ops::Range<usize>) -> usize {
        match self {
            Outside::Real(root) => {
                let file = std::fs::File::open(root.path().join(path)).unwrap();
                let pages = resident_pages(&file);
                pages[region.start / 4096..region.end / 4096].iter().filter(|is_resident| **is_resident).count() * 4096
            }
            Outside::Fake(world) => world.resident(&format!("root/{path}"), region.start as u64, region.len()),
        }
    }

    /// Whether files lie in memory alone, from where no page can go.
    fn is_all_in_memory(&self) -> bool {
        match self {
            Outside::Real(root) => {
                let kind = nix::sys::statfs::statfs(root.path()).unwrap().filesystem_type();
                kind == nix::sys::statfs::TMPFS_MAGIC
            }
            Outside::Fake(_) => false,
        }
    }
}

/// Which pages of 4096 bytes of a file are in the page cache; that asks the disk for none.
fn resident_pages(file: &std::fs::File) -> Vec<bool> {
    let len = file.metadata().unwrap().len() as usize;
    let mut pages = vec![0_u8; len.div_ceil(4096)];
    let (null, fd) = (std::ptr::null_mut(), file.as_raw_fd());
    // SAFETY: a new mapping at an address of the kernel's choice, which nothing reads or writes; mincore(2) writes one byte for
    // each of its pages, and there are that many.
    unsafe {
        let map = libc::mmap(null, len, libc::PROT_READ, libc::MAP_SHARED, fd, 0);
        assert_ne!(map, libc::MAP_FAILED);
        assert_eq!(libc::mincore(map, len, pages.as_mut_ptr()), 0);
        libc::munmap(map, len);
    }
    pages.into_iter().map(|page| page & 1 == 1).collect()
}

/// How many descriptors of this process lead to this.
fn links_to(target: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    links.filter(|link| std::fs::read_link(link).is_ok_and(|found| found == target)).count()
}

/// Makes room for at least so many bytes on their way to a client.
fn set_room(socket: RawFd, peer: &Peer, bytes: usize) {
    match peer {
        Peer::Real { .. } => {
            // SAFETY: the number is that of a connection of the scenario, which is open.
            let socket = unsafe { std::os::fd::BorrowedFd::borrow_raw(socket) };
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::SndBuf, &bytes).unwrap();
        }
        Peer::Fake(client) => client.window(bytes),
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

impl Elsewhere {
    /// Listens no more. What is returned keeps the address, so that nobody else gets it.
    fn stop(self) -> Option<Self> {
        let fd = match &self {
            Elsewhere::Fake(_) => return None,
            Elsewhere::Tcp(listener) => listener.as_raw_fd(),
            Elsewhere::Unix(listener) => listener.as_raw_fd(),
        };
        nix::sys::socket::shutdown(fd, nix::sys::socket::Shutdown::Read).unwrap();
        Some(self)
    }

    #[track_caller]
    fn accept(&self) -> Peer {
        self.try_accept().expect("a connection")
    }

    fn try_accept(&self) -> Option<Peer> {
        // Both are stream sockets, and nothing that is done with a peer is particular to one.
        let stream = match self {
            Elsewhere::Fake(backend) => return backend.accept().map(Peer::Fake),
            Elsewhere::Tcp(listener) => {
                listener.set_nonblocking(true).unwrap();
                listener.accept().ok()?.0
            }
            Elsewhere::Unix(listener) => {
                listener.set_nonblocking(true).unwrap();
                TcpStream::from(std::os::fd::OwnedFd::from(listener.accept().ok()?.0))
            }
        };
        stream.set_nonblocking(true).unwrap();
        Some(Peer::Real { stream: Some(stream), unread: Vec::new() })
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
