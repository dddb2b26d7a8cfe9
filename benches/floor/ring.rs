//! The loops on the raw ring: accept, receive, parse, reply. One thread, and of the ring what a server that is made for it uses:
//! `SINGLE_ISSUER | DEFER_TASKRUN | COOP_TASKRUN`, one multishot accept, receives into buffers that the kernel picks and that poll
//! first when they follow a reply.
//!
//! A connection is always in exactly one place: with a receive or a poll in flight, or among those that are ready for their next
//! chunk. Only a reply by `IORING_OP_SEND` is in flight beside a receive; so connections count what is out, and go when all is back.
//!
//! On kernels 6.6.1 to 6.8 multishot accept loses connections with `DEFER_TASKRUN`: the loops can't be run there.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};
use slab::Slab;

use crate::buffers::{Buffers, GROUP};
use crate::file::{Mover, Transfer, Turn};
use crate::http::{Request, Site};

const ENTRIES: u32 = 1024;
/// Receive only after the socket polls readable (`IORING_RECVSEND_POLL_FIRST`, io_uring_enter(2)).
const POLL_FIRST: u16 = 1;

/// How a reply is sent.
pub enum Reply {
    /// One send(2) from memory.
    Call,
    /// One `IORING_OP_SEND` from memory.
    Operation,
    /// The head by send(2), the body from the file.
    File(Mover),
}

/// What an operation was: the upper half of its `user_data`, above the connection's number.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Accept,
    Receive,
    Send,
    Room,
}

const KINDS: [Kind; 4] = [Kind::Accept, Kind::Receive, Kind::Send, Kind::Room];

struct Connection {
    socket: OwnedFd,
    transfer: Option<Transfer>,
    /// Whether it ends with the reply that is under way.
    last: bool,
    /// The bytes of an `IORING_OP_SEND` that is under way, or 0.
    sending: i32,
    /// Whether it is over, and waits only for what is in flight.
    over: bool,
    in_flight: u8,
}

/// A loop and all that belongs to it.
struct Loop {
    ring: IoUring,
    buffers: Buffers,
    listener: TcpListener,
    site: &'static Site,
    reply: Reply,
    connections: Slab<Connection>,
    /// Those that may move a chunk, in turn.
    ready: VecDeque<usize>,
    /// Room for a head.
    head: Vec<u8>,
}

/// Serves until something fails that is no connection's own fault.
///
/// # Errors
/// The ring can't be made, or does not accept any more.
pub fn serve(listener: TcpListener, site: &'static Site, reply: Reply) -> io::Result<()> {
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .build(ENTRIES)?;
    let buffers = Buffers::register(&ring)?;
    let (connections, ready, head) = (Slab::new(), VecDeque::new(), Vec::new());
    Loop { ring, buffers, listener, site, reply, connections, ready, head }.run()
}

impl Loop {
    fn run(&mut self) -> io::Result<()> {
        self.accept()?;
        let mut completions = Vec::new();
        loop {
            self.ring.submit_and_wait(usize::from(self.ready.is_empty()))?;
            completions.extend(self.ring.completion());
            for completion in completions.drain(..) {
                self.complete(&completion)?;
            }
            for _ in 0..self.ready.len() {
                if let Some(key) = self.ready.pop_front() {
                    self.turn(key)?;
                }
            }
        }
    }

    fn complete(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        let kind = KINDS[(completion.user_data() >> 32) as usize];
        let key = completion.user_data() as u32 as usize;
        if kind == Kind::Accept {
            return self.accepted(completion);
        }
        let connection = &mut self.connections[key];
        connection.in_flight -= 1;
        match kind {
            _ if connection.over => self.end(key),
            Kind::Receive => return self.received(key, completion),
            Kind::Send => {
                let whole = completion.result() == std::mem::take(&mut connection.sending);
                if connection.last || !whole {
                    self.end(key);
                }
            }
            // The kernel adds POLLRDHUP to what is asked for; a client that is done asking is not served on.
            Kind::Room if completion.result() == i32::from(libc::POLLOUT) => self.ready.push_back(key),
            _ => self.end(key),
        }
        Ok(())
    }

    fn accepted(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        if completion.result() < 0 {
            return Err(io::Error::from_raw_os_error(-completion.result()));
        }
        // SAFETY: the kernel has just made this descriptor for us and nobody else knows of it.
        let socket = unsafe { OwnedFd::from_raw_fd(completion.result()) };
        let connection = Connection { socket, transfer: None, last: false, sending: 0, over: false, in_flight: 0 };
        let key = self.connections.insert(connection);
        if !cqueue::more(completion.flags()) {
            self.accept()?;
        }
        self.receive(key, 0)
    }

    fn received(&mut self, key: usize, completion: &cqueue::Entry) -> io::Result<()> {
        if completion.result() == -libc::ENOBUFS {
            // All buffers were in this batch of completions: they are back by the time of the next.
            return self.receive(key, 0);
        }
        let Some(buffer) = cqueue::buffer_select(completion.flags()) else {
            self.end(key);
            return Ok(());
        };
        let site = self.site;
        let len = usize::try_from(completion.result()).unwrap_or(0);
        let request = self.buffers.take(buffer, len, |input| site.request(input));
        match request {
            // A second request in the middle of a reply: two sends would mix.
            Some(request) if self.connections[key].sending == 0 => self.begin(key, &request),
            _ => {
                self.end(key);
                Ok(())
            }
        }
    }

    fn begin(&mut self, key: usize, request: &Request<'static>) -> io::Result<()> {
        let connection = &mut self.connections[key];
        connection.last = request.last;
        let prepared = request.resource.prepared.as_deref();
        match (&self.reply, prepared) {
            (Reply::File(_), _) => match Transfer::begin(&connection.socket, request, &mut self.head) {
                Ok(transfer) => {
                    connection.transfer = Some(transfer);
                    self.ready.push_back(key);
                }
                Err(_) => self.end(key),
            },
            (Reply::Call, Some(bytes)) => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                let sent = send(connection.socket.as_raw_fd(), bytes, flags);
                return self.replied(key, sent == Ok(bytes.len()));
            }
            (Reply::Operation, Some(bytes)) => {
                connection.sending = bytes.len() as i32;
                let fd = Fd(connection.socket.as_raw_fd());
                let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
                let entry = opcode::Send::new(fd, bytes.as_ptr(), bytes.len() as u32).flags(flags).build();
                self.push(entry, Kind::Send, key)?;
                if !request.last {
                    return self.receive(key, POLL_FIRST);
                }
            }
            (_, None) => self.end(key),
        }
        Ok(())
    }

    /// Moves the next chunk of a connection.
    fn turn(&mut self, key: usize) -> io::Result<()> {
        let connection = &mut self.connections[key];
        let (Reply::File(mover), Some(transfer)) = (&mut self.reply, &mut connection.transfer) else { return Ok(()) };
        match mover.turn(&connection.socket, transfer) {
            Ok(Turn::Done) => return self.replied(key, true),
            Ok(Turn::GoOn) => self.ready.push_back(key),
            Ok(Turn::Full) => {
                let entry = opcode::PollAdd::new(Fd(connection.socket.as_raw_fd()), libc::POLLOUT as u32).build();
                return self.push(entry, Kind::Room, key);
            }
            Err(_) => self.end(key),
        }
        Ok(())
    }

    /// After a reply: on to the next request, or the end.
    fn replied(&mut self, key: usize, whole: bool) -> io::Result<()> {
        let connection = &mut self.connections[key];
        connection.transfer = None;
        if whole && !connection.last {
            return self.receive(key, POLL_FIRST);
        }
        self.end(key);
        Ok(())
    }

    /// Closes a connection, as soon as nothing of it is in flight.
    fn end(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        if connection.in_flight == 0 {
            self.connections.remove(key);
        } else if !connection.over {
            connection.over = true;
            // What is in flight ends by that. It fails where the peer was faster, which ends it as well.
            let _ = shutdown(connection.socket.as_raw_fd(), Shutdown::Both);
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let fd = Fd(self.listener.as_raw_fd());
        let entry = opcode::AcceptMulti::new(fd).flags(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC).build();
        self.submit(&entry.user_data((Kind::Accept as u64) << 32))
    }

    fn receive(&mut self, key: usize, ioprio: u16) -> io::Result<()> {
        let fd = Fd(self.connections[key].socket.as_raw_fd());
        // A length of 0 stands for that of the buffer that is picked.
        let entry = opcode::Recv::new(fd, std::ptr::null_mut(), 0).ioprio(ioprio).buf_group(GROUP).build();
        self.push(entry.flags(squeue::Flags::BUFFER_SELECT), Kind::Receive, key)
    }

    fn push(&mut self, entry: squeue::Entry, kind: Kind, key: usize) -> io::Result<()> {
        self.connections[key].in_flight += 1;
        self.submit(&entry.user_data((kind as u64) << 32 | key as u64))
    }

    fn submit(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: sends point to bytes of the site, which are never freed; no other operation here points anywhere. The
            // descriptors belong to connections, which stay until `in_flight` is 0, and to the listener.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }
}
