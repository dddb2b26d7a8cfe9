//! One connection: its socket, the request that is on its way and the reply that comes back.
//!
//! It does what it is told and says what became of it; which request comes next, and when, is the run's affair.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, recv, send, sendmsg, setsockopt, socket,
    sockopt,
};

use crate::pace::Pace;
use crate::reply::{Malformed, ReplyReader};
use crate::tally::Failure;
use crate::targets::{Request, Targets};
use crate::upload::{Form, Outgoing, Pieces, Upload};
use crate::verify::Verifier;

/// Reads of a head ask for this much: it takes a small reply whole, and leaves the most of a large one to be discarded.
const HEAD_READ_LEN: usize = 4096;

/// At most this much is read in one turn; then the other connections have theirs.
pub const TURN_LEN: usize = 1 << 20;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is no socket.
    Closed,
    /// The handshake is under way.
    Connecting,
    /// Open, without a request.
    Ready,
    /// The request is being written.
    Sending,
    /// The reply is being read.
    Receiving,
    /// A reply is being read and its reader waits for its rate.
    Pausing,
    /// The last reply is complete and the server is to close.
    Draining,
    /// Open, and to stay so without a word.
    Held,
}

/// A connection and its one request.
#[derive(Debug)]
pub struct Connection {
    /// Where it stands.
    pub phase: Phase,
    /// The reply.
    pub reader: ReplyReader,
    /// What was asked.
    pub request: Request,
    /// When the request was due.
    pub due: Instant,
    /// When it was sent.
    pub sent: Instant,
    /// When the last byte moved, or the socket was opened.
    pub moved: Instant,
    /// When the last byte of an upload was written.
    pub written_last: Instant,
    /// How fast the body may be read, where its reader is a slow one.
    pub pace: Option<Pace>,
    /// Whether every byte so far was the expected one.
    pub agrees: bool,
    /// Bytes of bodies since measuring began.
    pub taken: u64,
    /// Replies on this socket so far.
    pub answered: u64,
    /// The upload that is on its way.
    pub upload: Option<Outgoing>,
    /// Uploads begun so far, on all its sockets.
    pub uploads: u64,
    /// Whether the request creates an upload, whose bytes go with the next one.
    pub creates: bool,
    socket: Option<OwnedFd>,
    interest: EpollFlags,
    out: Vec<u8>,
    written: usize,
}

impl Connection {
    /// Without a socket yet.
    pub fn new(now: Instant) -> Self {
        Connection {
            phase: Phase::Closed,
            reader: ReplyReader::default(),
            request: Request::default(),
            due: now,
            sent: now,
            moved: now,
            written_last: now,
            pace: None,
            agrees: true,
            taken: 0,
            answered: 0,
            upload: None,
            uploads: 0,
            creates: false,
            socket: None,
            interest: EpollFlags::empty(),
            out: Vec::new(),
            written: 0,
        }
    }

    /// Begins the handshake; the socket's events carry `token`.
    ///
    /// # Errors
    /// There is no socket, or the address can't be reached.
    pub fn open(&mut self, address: SocketAddr, epoll: &Epoll, token: u64, now: Instant) -> Result<(), Errno> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        self.interest = EpollFlags::EPOLLOUT;
        epoll.add(&socket, EpollEvent::new(self.interest, token))?;
        self.socket = Some(socket);
        self.phase = Phase::Connecting;
        self.answered = 0;
        self.moved = now;
        Ok(())
    }

    /// Closes the socket.
    pub fn close(&mut self) {
        self.socket = None;
        self.phase = Phase::Closed;
    }

    /// Closes a socket whose other end has closed already, by a reset: the port is free again at once, where TIME_WAIT would
    /// hold it for a minute and a run of short connections would be out of ports in seconds.
    pub fn close_both_ends(&mut self) {
        if let Some(socket) = &self.socket {
            // When it can't be set the socket closes in the ordinary way.
            let _ = setsockopt(socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
        }
        self.close();
    }

    /// Changes the phase, and the events that are waited for with it.
    ///
    /// # Errors
    /// The system refuses.
    pub fn enter(&mut self, phase: Phase, epoll: &Epoll, token: u64) -> Result<(), Errno> {
        self.phase = phase;
        let interest = match phase {
            Phase::Closed => return Ok(()),
            Phase::Connecting => EpollFlags::EPOLLOUT,
            // A server need not read all of an upload before it answers.
            Phase::Sending => EpollFlags::EPOLLOUT | EpollFlags::EPOLLIN,
            // Also while nothing is under way: bytes or an end that come then are news.
            Phase::Ready | Phase::Receiving | Phase::Draining => EpollFlags::EPOLLIN,
            Phase::Held => EpollFlags::EPOLLRDHUP,
            // The end may be announced long before the rest of the body is read; only errors are news.
            Phase::Pausing => EpollFlags::empty(),
        };
        if let Some(socket) = &self.socket
            && interest != self.interest
        {
            self.interest = interest;
            epoll.modify(socket, &mut EpollEvent::new(interest, token))?;
        }
        Ok(())
    }

    /// Takes up a request.
    pub fn begin(&mut self, request: Request, targets: &Targets, fields: &[u8], due: Instant, now: Instant) {
        targets.write_head(&request, fields, &mut self.out);
        self.written = 0;
        self.request = request;
        self.reader.reset();
        self.pace = None;
        self.agrees = true;
        (self.due, self.sent, self.moved) = (due, now, now);
    }

    /// Takes up a request that carries bytes, of an upload that was due when `self.due` says.
    pub fn begin_upload(&mut self, outgoing: Outgoing, creates: bool, now: Instant) {
        self.upload = Some(outgoing);
        self.creates = creates;
        self.reader.reset();
        self.pace = None;
        self.moved = now;
    }

    /// Writes what is left of the request, or a piece of an upload; true when all of it is written.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn write(&mut self, pieces: &mut Pieces) -> Result<bool, Failure> {
        match self.upload.take() {
            Some(mut outgoing) => {
                let written = self.write_piece(outgoing.next(pieces)).map(|len| outgoing.advance(len));
                let is_done = outgoing.is_done();
                self.upload = Some(outgoing);
                written.map(|()| is_done)
            }
            None => self.write_head(),
        }
    }

    fn write_piece(&mut self, slices: [IoSlice<'_>; 2]) -> Result<usize, Failure> {
        let Some(socket) = &self.socket else { return Err(Failure::System) };
        match sendmsg::<SockaddrStorage>(socket.as_raw_fd(), &slices, &[], MsgFlags::MSG_NOSIGNAL, None) {
            Ok(len) => {
                self.moved = Instant::now();
                self.written_last = self.moved;
                Ok(len)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(errno) => Err(failure(errno)),
        }
    }

    fn write_head(&mut self) -> Result<bool, Failure> {
        let Some(socket) = &self.socket else { return Err(Failure::System) };
        while self.written < self.out.len() {
            match send(socket.as_raw_fd(), &self.out[self.written..], MsgFlags::MSG_NOSIGNAL) {
                Ok(len) => self.written += len,
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(failure(errno)),
            }
        }
        Ok(true)
    }

    /// Reads once: of the body at most `allowance` bytes, unseen inside the kernel unless they are to be compared. False when
    /// nothing more waits to be read.
    ///
    /// # Errors
    /// The connection ended or the reply breaks a rule.
    pub fn read(
        &mut self,
        allowance: u64,
        scratch: &mut [u8],
        verifier: &mut Verifier,
        targets: &Targets,
    ) -> Result<bool, Failure> {
        let Some(socket) = &self.socket else { return Err(Failure::System) };
        let discardable = self.reader.discardable();
        let (wanted, flags) = match discardable {
            0 => (HEAD_READ_LEN, MsgFlags::empty()),
            // MSG_TRUNC on a TCP socket drops the bytes instead of copying them out (tcp(7)).
            body if verifier.is_off() => (bounded(body.min(allowance), scratch), MsgFlags::MSG_TRUNC),
            body => (bounded(body.min(allowance), scratch), MsgFlags::empty()),
        };
        let len = match recv(socket.as_raw_fd(), &mut scratch[..wanted], flags) {
            Ok(0) if self.reader.has_begun() => return Err(Failure::Truncated),
            Ok(0) => return Err(Failure::Closed),
            Ok(len) => len,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
            Err(errno) => return Err(failure(errno)),
        };
        if flags.contains(MsgFlags::MSG_TRUNC) {
            self.reader.discarded(len as u64);
        } else {
            let (target, agrees) = (self.request.target, &mut self.agrees);
            let compare =
                |offset, bytes: &[u8]| *agrees &= verifier.agrees(target, targets.path(target), offset, bytes);
            self.reader.take(&scratch[..len], compare).map_err(Failure::malformed)?;
        }
        Ok(len == wanted)
    }

    /// Whether the server has closed; bytes that come instead are a failure.
    ///
    /// # Errors
    /// Bytes came, or a reset.
    pub fn has_ended(&self, scratch: &mut [u8]) -> Result<bool, Failure> {
        let Some(socket) = &self.socket else { return Ok(true) };
        match recv(socket.as_raw_fd(), &mut scratch[..HEAD_READ_LEN], MsgFlags::empty()) {
            Ok(0) => Ok(true),
            Ok(_) => Err(Failure::malformed(Malformed::Excess)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            Err(errno) => Err(failure(errno)),
        }
    }

    /// Whether the reply says that the server has the upload, whole.
    ///
    /// # Errors
    /// Says in what it differs.
    pub fn judge_upload(&self, upload: &Upload) -> Result<(), Failure> {
        let Some(head) = self.reader.head() else { return Err(Failure::System) };
        match head.status {
            200..300 if self.creates => Err(Failure::Location),
            200..300 if upload.form == Form::Tus && head.upload_offset != Some(upload.len) => Err(Failure::Length),
            200..300 => Ok(()),
            _ => Err(Failure::Status),
        }
    }

    /// Whether the reply is the one that was asked for.
    ///
    /// # Errors
    /// Says in what it differs.
    pub fn judge(&self, file_len: Option<u64>) -> Result<(), Failure> {
        let Some(head) = self.reader.head() else { return Err(Failure::System) };
        match &self.request.range {
            Some(_) if head.status != 206 => return Err(Failure::Status),
            Some(range) if head.content_range.map(|got| got.start..got.end).as_ref() != Some(range) => {
                return Err(Failure::Range);
            }
            None if !(200..300).contains(&head.status) => return Err(Failure::Status),
            _ => {}
        }
        let expected = match &self.request.range {
            Some(range) => Some(range.end - range.start),
            None if head.status == 200 => file_len,
            None => None,
        };
        if expected.is_some_and(|expected| expected != self.reader.body_len()) {
            return Err(Failure::Length);
        }
        if self.agrees { Ok(()) } else { Err(Failure::Bytes) }
    }
}

fn bounded(len: u64, scratch: &[u8]) -> usize {
    scratch.len().min(usize::try_from(len).unwrap_or(usize::MAX))
}

/// The failure that an error of a socket is.
pub fn failure(errno: Errno) -> Failure {
    match errno {
        Errno::ECONNRESET | Errno::EPIPE => Failure::Reset,
        Errno::ECONNREFUSED | Errno::ETIMEDOUT | Errno::EHOSTUNREACH | Errno::ENETUNREACH => Failure::Connect,
        _ => Failure::System,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(range: Option<std::ops::Range<u64>>, reply: &str, expected: Result<(), Failure>) {
        let mut connection = Connection::new(Instant::now());
        connection.request.range = range;
        connection.reader.take(reply.as_bytes(), |_, _| {}).unwrap();
        assert_eq!(connection.judge(Some(3)), expected, "{reply:?}");
    }

    #[test]
    fn only_what_was_asked_for_is_right() {
        check(None, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Ok(()));
        check(None, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", Err(Failure::Length));
        check(None, "HTTP/1.1 404 No\r\nContent-Length: 3\r\n\r\nabc", Err(Failure::Status));
        check(Some(0..1), "HTTP/1.1 206 P\r\nContent-Range: bytes 0-0/3\r\nContent-Length: 1\r\n\r\na", Ok(()));
        check(
            Some(0..1),
            "HTTP/1.1 206 P\r\nContent-Range: bytes 1-1/3\r\nContent-Length: 1\r\n\r\nb",
            Err(Failure::Range),
        );
        check(Some(0..1), "HTTP/1.1 206 P\r\nContent-Length: 1\r\n\r\na", Err(Failure::Range));
        check(Some(0..1), "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Err(Failure::Status));
    }

    #[test]
    fn an_upload_is_there_when_all_of_it_is() {
        let check = |form, creates, reply: &str, expected| {
            let mut connection = Connection::new(Instant::now());
            connection.creates = creates;
            connection.reader.take(format!("HTTP/1.1 {reply}\r\n\r\n").as_bytes(), |_, _| {}).unwrap();
            let upload = Upload { form, len: 3, prefix: "/".to_string() };
            assert_eq!(connection.judge_upload(&upload), expected, "{form:?} {reply:?}");
        };
        check(Form::Put, false, "201 C\r\nContent-Length: 0", Ok(()));
        check(Form::Put, false, "204 N", Ok(()));
        check(Form::Put, false, "413 L\r\nContent-Length: 0", Err(Failure::Status));
        check(Form::Tus, false, "204 N\r\nUpload-Offset: 3", Ok(()));
        check(Form::Tus, false, "204 N\r\nUpload-Offset: 2", Err(Failure::Length));
        check(Form::Tus, false, "204 N", Err(Failure::Length));
        check(Form::Tus, true, "201 C\r\nContent-Length: 0", Err(Failure::Location));
        check(Form::Tus, true, "404 N\r\nContent-Length: 0", Err(Failure::Status));
    }
}
