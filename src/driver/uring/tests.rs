//! What only the real ring can get wrong; what every driver promises is checked in `driver::contract`.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::super::op::Interest;
use super::super::slot::Token;
use super::*;

impl Uring {
    /// A driver on the ring that kernels before 6.1 get.
    pub(in crate::driver) fn plain(setup: &Setup) -> io::Result<Self> {
        Self::with_ring(plain_ring(setup.in_flight).build(SUBMISSION_ENTRIES)?, setup)
    }
}

const SETUP: Setup = Setup {
    in_flight: 1,
    receive_buffers: (1, 4096),
    transfer_buffers: (2, 4096),
    upload_buffers: (1, 1024),
    pipes: 2,
};

fn readable() -> EventFd {
    EventFd::from_value_and_flags(1, EfdFlags::EFD_CLOEXEC).unwrap()
}

#[track_caller]
fn turn_until(driver: &mut Uring, mut condition: impl FnMut(&mut Uring) -> bool) {
    let deadline = Instant::now() + TEARDOWN;
    while !condition(driver) {
        assert!(Instant::now() < deadline);
        driver.turn(Wait::Until(deadline)).unwrap();
    }
}

/// More submissions than the ring takes at once, and more completions than the completion queue holds.
#[test]
fn no_submission_and_no_completion_is_lost_when_a_queue_is_full() {
    for mut driver in [Uring::new(&SETUP).unwrap(), Uring::plain(&SETUP).unwrap()] {
        let ready = readable();
        let polls = 5 * u64::from(SUBMISSION_ENTRIES) / 2 + 7;
        for number in 0..polls {
            let op = Op::Poll { socket: ready.as_raw_fd(), interest: Interest::Readable };
            driver.submit(op, Owner::Worker(Token(number)));
        }
        driver.enter(Wait::No).unwrap();
        assert!(driver.ring.submission().cq_overflow(), "the test is large enough");
        let mut seen = Vec::new();
        turn_until(&mut driver, |driver| {
            while let Some(event) = driver.next_event() {
                assert_eq!(event.completion.result.unwrap(), libc::POLLIN as u32);
                seen.push(event.token.0);
            }
            seen.len() as u64 == polls
        });
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..polls), "each once");
        assert_eq!(driver.counts(), DriverCounts { submissions: polls, completions: polls });
    }
}

/// As when RLIMIT_MEMLOCK is small: registering fails (here because other buffers are registered), reading does not.
#[test]
fn buffers_that_cannot_be_registered_are_read_into_all_the_same() {
    let others = BufferPool::new(1, 4096).unwrap();
    let ring = build_ring(SETUP.in_flight).unwrap();
    register_buffers(&ring, &others);
    assert!(others.try_take().unwrap().registered_index().is_some());
    let mut driver = Uring::with_ring(ring, &SETUP).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, b"content").unwrap();
    for plain in [true, false] {
        if !plain {
            driver = Uring::new(&SETUP).unwrap();
        }
        let buf = driver.transfer_pool().try_take().unwrap();
        assert_eq!(buf.registered_index().is_none(), plain);
        driver.submit(Op::Read { file: file.as_raw_fd(), offset: 3, len: 99, buf }, Owner::Worker(Token(0)));
        turn_until(&mut driver, |driver| driver.slots.events() > 0);
        let completion = driver.next_event().unwrap().completion;
        let Some(Op::Read { buf, .. }) = completion.op else { panic!("another operation") };
        assert_eq!((completion.result.unwrap(), &*buf), (4, &b"tent"[..]));
    }
}

/// A zero-copy send of `bytes`, to its end.
#[track_caller]
fn send_zero_copy(driver: &mut Uring, socket: RawFd, bytes: &[u8]) -> io::Result<u32> {
    let mut buf = driver.transfer_pool().try_take().unwrap();
    buf.append(bytes);
    driver.submit(Op::SendZeroCopy { socket, buf, from: 0 }, Owner::Worker(Token(0)));
    turn_until(driver, |driver| driver.slots.events() > 0);
    driver.next_event().unwrap().completion.result
}

#[test]
fn buffers_that_cannot_be_registered_are_sent_from_all_the_same() {
    let others = BufferPool::new(1, 4096).unwrap();
    let ring = build_ring(SETUP.in_flight).unwrap();
    register_buffers(&ring, &others);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    for mut driver in [Uring::with_ring(ring, &SETUP).unwrap(), Uring::new(&SETUP).unwrap()] {
        assert!(driver.supports_zero_copy_send() && driver.supports_ring_splice());
        assert_eq!(send_zero_copy(&mut driver, server.as_raw_fd(), b"content").unwrap(), 7);
        let mut received = [0; 7];
        client.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"content");
    }
}

/// What callers fall back from.
#[test]
fn a_unix_socket_takes_neither_a_zero_copy_send_nor_a_cork() {
    let mut driver = Uring::new(&SETUP).unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    let refused = [
        send_zero_copy(&mut driver, socket.as_raw_fd(), b"x").map(|_| ()),
        driver.set_option(socket.as_raw_fd(), SocketOption::Cork(true)),
    ];
    assert_eq!(refused.map(|result| result.unwrap_err().raw_os_error()), [Some(libc::EOPNOTSUPP); 2]);
    assert_eq!(driver.transfer_pool().in_use(), 0);
}

/// Why a file may be closed when a fill from it was given up: by then its number may be another's.
#[test]
fn a_fill_takes_no_bytes_from_a_socket_or_a_pipe() {
    let mut driver = Uring::new(&SETUP).unwrap();
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    for stream in [&mut theirs as &mut dyn std::io::Write, &mut writer] {
        stream.write_all(b"x").unwrap();
    }
    for file in [ours.as_raw_fd(), reader.as_raw_fd()] {
        let pipe = driver.pipe_pool().try_take().unwrap().unwrap();
        driver.submit(Op::FillPipe { file, offset: 0, len: 1, pipe }, Owner::Worker(Token(0)));
        turn_until(&mut driver, |driver| driver.slots.events() > 0);
        let error = driver.next_event().unwrap().completion.result.unwrap_err().raw_os_error();
        assert!(matches!(error, Some(libc::ESPIPE | libc::EINVAL)), "{error:?}");
    }
    for stream in [&mut ours as &mut dyn Read, &mut reader] {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }
}

#[test]
fn multishot_accept_is_used_where_it_works() {
    let sound = ["5.19.0", "6.1.0-18-amd64", "6.5.13", "6.9.0", "6.10.3-arch1", "7.0.0-rc1", "10.0"];
    let unsound = ["5.18.19", "5.4.0", "6.6.1", "6.7.9-200.fc39", "6.8.0-rc7", "", "x"];
    assert!(sound.into_iter().all(multishot_accept_is_sound));
    assert!(!unsound.into_iter().any(multishot_accept_is_sound));
}
