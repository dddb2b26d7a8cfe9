//! One reader: a socket, the reply that it follows, and what it has had of it. There are tens of thousands, so each is some hundred
//! bytes; what has come is read into one buffer that all share.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, recv, send, setsockopt, socket, sockopt,
};

use super::Medium;
use super::event::{EventReader, Item};
use super::ledger::Progress;
use super::stamp::{Differs, Pattern, PieceReader};
use crate::connection::failure;
use crate::reply::ReplyReader;
use crate::tally::Failure;

/// Where a reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is no socket yet, or it waits for another attempt.
    Unopened,
    /// The handshake is under way.
    Connecting,
    /// The head of the reply is awaited.
    Asking,
    /// It reads.
    Following,
    /// It has stopped reading, and stays.
    Stalled,
    /// Its reply has ended as it should.
    Ended,
    /// Its connection is gone, or what came was wrong.
    Failed,
}

/// A reader.
#[derive(Debug)]
pub struct Reader {
    /// Where it stands.
    pub phase: Phase,
    /// What it has had.
    pub progress: Progress,
    /// Whether it stops once it has the head.
    pub stalls: bool,
    /// Since when it follows.
    pub joined_ns: u64,
    reply: ReplyReader,
    content: Content,
    socket: Option<OwnedFd>,
}

#[derive(Debug)]
enum Content {
    Events(EventReader),
    Pieces(PieceReader),
}

impl Content {
    fn new(medium: Medium) -> Self {
        match medium {
            Medium::Events => Content::Events(EventReader::default()),
            Medium::Live => Content::Pieces(PieceReader::default()),
        }
    }
}

/// What one receive call gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Nothing; more will be told.
    Nothing,
    /// This many bytes, and no more wait.
    All(usize),
    /// As much as there was room for.
    Full(usize),
    /// The end of the connection.
    End,
}

impl Reader {
    /// Of a topic, without a socket yet.
    pub fn new(medium: Medium, topic: u64) -> Self {
        let reply = match medium {
            Medium::Events => ReplyReader::of_endless(),
            Medium::Live => ReplyReader::default(),
        };
        Reader {
            phase: Phase::Unopened,
            progress: Progress::new(topic),
            stalls: false,
            joined_ns: 0,
            reply,
            content: Content::new(medium),
            socket: None,
        }
    }

    /// Begins the handshake. Events are edge-triggered: each is one receive call where all that waits fits into the buffer, and
    /// nothing has to be changed from one phase to the next.
    ///
    /// # Errors
    /// There is no socket, or the address can't be reached.
    pub fn open(&mut self, address: SocketAddr, epoll: &Epoll, token: u64) -> Result<(), Errno> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        epoll.add(&socket, EpollEvent::new(interest, token))?;
        self.socket = Some(socket);
        self.phase = Phase::Connecting;
        self.reply.reset();
        // Of the body of a refusal it has read something too.
        self.content = match self.content {
            Content::Events(_) => Content::new(Medium::Events),
            Content::Pieces(_) => Content::new(Medium::Live),
        };
        Ok(())
    }

    /// Sends the request, which a new socket has room for.
    ///
    /// # Errors
    /// It has not.
    pub fn ask(&mut self, request: &[u8]) -> Result<(), Failure> {
        let Some(socket) = &self.socket else { return Err(Failure::System) };
        match send(socket.as_raw_fd(), request, MsgFlags::MSG_NOSIGNAL) {
            Ok(len) if len == request.len() => {
                self.phase = Phase::Asking;
                Ok(())
            }
            Ok(_) => Err(Failure::System),
            Err(errno) => Err(failure(errno)),
        }
    }

    /// One receive call.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn receive(&self, scratch: &mut [u8]) -> Result<Received, Failure> {
        let Some(socket) = &self.socket else { return Err(Failure::System) };
        match recv(socket.as_raw_fd(), scratch, MsgFlags::empty()) {
            Ok(0) => Ok(Received::End),
            Ok(len) if len == scratch.len() => Ok(Received::Full(len)),
            Ok(len) => Ok(Received::All(len)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Received::Nothing),
            Err(errno) => Err(failure(errno)),
        }
    }

    /// Reads what was received; `each` is called with every unit and every notice, in order. Says how many bytes of body it was.
    ///
    /// # Errors
    /// It breaks a rule, or a byte is wrong.
    pub fn take(&mut self, bytes: &[u8], pattern: &Pattern, mut each: impl FnMut(Item)) -> Result<u64, Failure> {
        let before = self.reply.body_len();
        let mut outcome = Ok(());
        let content = &mut self.content;
        let body = |_, piece: &[u8]| {
            outcome = outcome.and_then(|()| match content {
                Content::Events(reader) => reader.take(piece, pattern, &mut each),
                Content::Pieces(reader) => reader.take(piece, pattern, |stamp| each(Item::Unit(stamp))),
            });
        };
        self.reply.take(bytes, body).map_err(Failure::malformed)?;
        outcome.map_err(|Differs| Failure::Bytes)?;
        Ok(self.reply.body_len() - before)
    }

    /// The status, once the head has come.
    pub fn status(&self) -> Option<u16> {
        self.reply.head().map(|head| head.status)
    }

    /// Whether the reply is complete, and ends where a unit does.
    pub fn is_done(&self) -> bool {
        let is_whole = match &self.content {
            Content::Events(_) => true,
            Content::Pieces(reader) => reader.is_between_units(),
        };
        self.reply.is_done() && is_whole
    }

    /// Whether any of the reply has come.
    pub fn has_begun(&self) -> bool {
        self.reply.has_begun()
    }

    /// Stops reading; only the end of the connection is told from now on.
    ///
    /// # Errors
    /// The system refuses.
    pub fn stall(&mut self, epoll: &Epoll, token: u64) -> Result<(), Failure> {
        let Some(socket) = &self.socket else { return Err(Failure::System) };
        let mut interest = EpollEvent::new(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET, token);
        epoll.modify(socket, &mut interest).map_err(failure)?;
        self.phase = Phase::Stalled;
        Ok(())
    }

    /// Closes the socket, for this reason.
    pub fn close(&mut self, phase: Phase) {
        self.socket = None;
        self.phase = phase;
    }
}
