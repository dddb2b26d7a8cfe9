//! Listeners and connections: two bounded queues of bytes and the ways in which either side may leave.
//!
//! The server under test may also connect: then it is still "the server" here, and the [`Backend`] that the test plays has the
//! client's side.
//!
//! The server's side is driven through the [`super::Sim`], the client's by the test through [`Client`]. What Linux does is
//! followed where a server can tell: bytes that came before a reset can still be received, the reset is reported once and
//! then the stream has ended; closing with unread bytes is a reset. Where a client may lose bytes (a reset overtakes them),
//! here it always loses them.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use super::super::op::Interest;

/// How many unread bytes a server's side holds before a client's sends are refused.
const RECEIVE_QUEUE: usize = 64 << 10;
/// What a full packet carries, bytes.
const SEGMENT_LEN: usize = 1448;
/// How many unread bytes a client's side holds, unless [`Client::window`] says otherwise.
const CLIENT_WINDOW: usize = 256 << 10;

/// The client's side of a connection. Dropping it changes nothing; a client leaves by `finish`, `close` or `reset`.
#[derive(Clone, Debug)]
pub struct Client(Rc<RefCell<Connection>>);

/// How the server ended its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Not yet, or there are bytes to take before the end.
    Open,
    /// With a FIN: all that the server sent has been taken.
    Finished,
    /// With a reset: what had not been taken is lost.
    Reset,
}

impl Client {
    /// Sends as much as the server's side has room for, and returns how much that was.
    pub fn try_send(&self, bytes: &[u8]) -> usize {
        self.0.borrow_mut().client_sends(bytes)
    }

    /// Sends all of it.
    ///
    /// # Panics
    /// When the server's side has no room for it.
    #[track_caller]
    pub fn send(&self, bytes: &[u8]) {
        assert_eq!(self.try_send(bytes), bytes.len(), "the server's receive queue is full");
    }

    /// Sends no more (FIN); it still takes what the server sends.
    pub fn finish(&self) {
        self.0.borrow_mut().client = Side::Finished;
    }

    /// Leaves as a process does that ends: a FIN, and a reset as soon as the server sends more; at once a reset if there are
    /// bytes that were not taken.
    pub fn close(&self) {
        let mut connection = self.0.borrow_mut();
        if !connection.to_client.is_empty() {
            connection.reset_by_client();
        }
        connection.client = Side::Closed;
    }

    /// Breaks the connection.
    pub fn reset(&self) {
        self.0.borrow_mut().reset_by_client();
    }

    /// What the server sent since the last call; this makes room for more.
    pub fn take_received(&self) -> Vec<u8> {
        self.0.borrow_mut().to_client.drain(..).collect()
    }

    /// How many bytes it holds before the server's sends would block.
    pub fn window(&self, bytes: usize) {
        self.0.borrow_mut().window = bytes;
    }

    /// How the server ended its side.
    pub fn end(&self) -> End {
        let connection = self.0.borrow();
        match (connection.reset_by_server, connection.server) {
            (true, _) => End::Reset,
            (false, Side::Finished | Side::Closed) if connection.to_client.is_empty() => End::Finished,
            _ => End::Open,
        }
    }

    /// The rate that the server has asked the kernel to keep, in bytes a second; `u64::MAX` for none. It is only noted: how
    /// fast a client takes bytes is up to the test.
    pub fn max_pacing_rate(&self) -> u64 {
        self.0.borrow().max_pacing_rate
    }

    /// How long the server has asked the kernel to wait for acknowledgements, in milliseconds; 0 for the kernel's own way. It is
    /// only noted: here every client acknowledges.
    pub fn user_timeout_ms(&self) -> u32 {
        self.0.borrow().user_timeout_ms
    }

    /// Its own address.
    pub fn address(&self) -> SocketAddr {
        self.0.borrow().peer
    }
}

/// A server that the one under test connects to, at an address of its own; the test plays it.
#[derive(Debug, Default)]
pub struct Backend {
    connected: RefCell<VecDeque<Client>>,
    is_silent: Cell<bool>,
}

impl Backend {
    /// The oldest connection that has not been taken: the test is its other end.
    pub fn accept(&self) -> Option<Client> {
        self.connected.borrow_mut().pop_front()
    }

    /// Whether a connect gets no answer at all, as when packets are dropped on the way.
    pub fn fall_silent(&self, is_silent: bool) {
        self.is_silent.set(is_silent);
    }

    pub(super) fn answers(&self) -> bool {
        !self.is_silent.get()
    }

    pub(super) fn connect(&self, socket: &ServerSide) {
        socket.get().is_connected = true;
        self.connected.borrow_mut().push_back(Client(socket.0.clone()));
    }
}

/// A listening socket with the connections that wait to be accepted; they are reset with its last reference.
#[derive(Debug, Default)]
pub(super) struct Listener(RefCell<VecDeque<ServerSide>>);

impl Listener {
    pub fn connect(&self, peer: SocketAddr) -> Client {
        let connection = Rc::new(RefCell::new(Connection::new(peer)));
        let server_side = ServerSide(connection.clone());
        server_side.get().reset_on_close = true;
        self.0.borrow_mut().push_back(server_side);
        Client(connection)
    }

    pub fn is_ready(&self) -> bool {
        !self.0.borrow().is_empty()
    }

    pub fn accept(&self) -> Option<ServerSide> {
        let server_side = self.0.borrow_mut().pop_front()?;
        server_side.get().reset_on_close = false;
        Some(server_side)
    }
}

/// The server's side: its last reference (descriptor or operation in flight) closes it.
#[derive(Debug)]
pub(super) struct ServerSide(Rc<RefCell<Connection>>);

impl ServerSide {
    /// A socket that is not connected yet.
    pub fn unconnected() -> Self {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        ServerSide(Rc::new(RefCell::new(Connection { is_connected: false, ..Connection::new(nowhere) })))
    }

    /// The connection.
    #[track_caller]
    pub fn get(&self) -> RefMut<'_, Connection> {
        self.0.borrow_mut()
    }

    /// All that was sent up to now, as the client sees it.
    pub fn sent_so_far(&self) -> Sent {
        Sent { connection: self.0.clone(), end: self.get().sent }
    }
}

/// The bytes that a connection has sent up to some time.
#[derive(Debug)]
pub(super) struct Sent {
    connection: Rc<RefCell<Connection>>,
    end: u64,
}

impl Sent {
    /// Whether the server's kernel needs them no more: the client has taken them, or never will.
    pub fn is_over(&self) -> bool {
        let connection = self.connection.borrow();
        let gone = connection.reset_by_client || connection.reset_by_server || connection.server == Side::Closed;
        gone || connection.sent - (connection.to_client.len() + connection.corked.len()) as u64 >= self.end
    }
}

impl Drop for ServerSide {
    fn drop(&mut self) {
        let mut connection = self.0.borrow_mut();
        connection.uncork();
        if connection.reset_on_close || !connection.to_server.is_empty() {
            connection.reset_by_server();
        }
        connection.server = Side::Closed;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Open,
    /// It sends no more.
    Finished,
    /// It is gone.
    Closed,
}

#[derive(Debug)]
pub(super) struct Connection {
    peer: SocketAddr,
    /// Not before a connect has succeeded.
    pub is_connected: bool,
    to_server: VecDeque<u8>,
    to_client: VecDeque<u8>,
    /// Sent while the socket was corked, and less than a packet.
    corked: Vec<u8>,
    is_corked: bool,
    /// Bytes that were ever sent to the client.
    sent: u64,
    window: usize,
    client: Side,
    server: Side,
    reset_by_client: bool,
    reset_by_server: bool,
    /// Reported by the next call, once (`sk_err`).
    error: Option<i32>,
    pub reset_on_close: bool,
    pub max_pacing_rate: u64,
    pub user_timeout_ms: u32,
    /// How many bytes make it readable.
    pub receive_low_water: usize,
}

impl Connection {
    fn new(peer: SocketAddr) -> Self {
        Connection {
            peer,
            is_connected: true,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            corked: Vec::new(),
            is_corked: false,
            sent: 0,
            window: CLIENT_WINDOW,
            client: Side::Open,
            server: Side::Open,
            reset_by_client: false,
            reset_by_server: false,
            error: None,
            reset_on_close: false,
            max_pacing_rate: u64::MAX,
            user_timeout_ms: 0,
            receive_low_water: 1,
        }
    }

    pub fn peer(&self) -> io::Result<SocketAddr> {
        if self.reset_by_client { Err(errno(libc::ENOTCONN)) } else { Ok(self.peer) }
    }

    /// Whether a receive would not wait.
    pub fn is_readable(&self) -> bool {
        // A low water mark over what the queue holds would wait for ever; the kernel makes room instead.
        let enough = self.receive_low_water.clamp(1, RECEIVE_QUEUE);
        self.to_server.len() >= enough || self.has_ended()
    }

    /// Whether nothing more will come.
    pub fn has_ended(&self) -> bool {
        self.reset_by_client || self.client != Side::Open
    }

    /// How many bytes a receive has waiting; 0 is the end of the stream.
    pub fn receivable(&mut self) -> io::Result<usize> {
        match self.error {
            Some(error) if self.to_server.is_empty() => {
                self.error = None;
                Err(errno(error))
            }
            _ => Ok(self.to_server.len()),
        }
    }

    pub fn receive(&mut self, len: usize) -> Vec<u8> {
        self.to_server.drain(..len).collect()
    }

    /// How many of `len` bytes a send may hand to [`Connection::push`] now.
    pub fn sendable(&mut self, len: usize) -> io::Result<usize> {
        if let Some(error) = self.error.take() {
            return Err(errno(error));
        }
        if self.reset_by_client || self.server != Side::Open {
            return Err(errno(libc::EPIPE));
        }
        match self.room() {
            0 if len > 0 => Err(io::ErrorKind::WouldBlock.into()),
            room => Ok(len.min(room)),
        }
    }

    pub fn push(&mut self, bytes: impl Iterator<Item = u8>) {
        if self.client == Side::Closed {
            self.reset_by_client();
            return;
        }
        let before = self.to_client.len() + self.corked.len();
        self.corked.extend(bytes);
        let whole_packets = self.corked.len() / SEGMENT_LEN * SEGMENT_LEN;
        // Part of a packet is held back for more to come, which can't come when the window is full.
        let is_held = self.is_corked && self.to_client.len() + self.corked.len() < self.window;
        let leave = if is_held { whole_packets } else { self.corked.len() };
        self.to_client.extend(self.corked.drain(..leave));
        self.sent += (self.to_client.len() + self.corked.len() - before) as u64;
    }

    /// The kernel would let go of a packet after 200 ms; here a cork that is forgotten holds it for ever.
    pub fn cork(&mut self) {
        self.is_corked = true;
    }

    pub fn uncork(&mut self) {
        self.is_corked = false;
        self.to_client.extend(self.corked.drain(..));
    }

    pub fn shutdown_write(&mut self) -> io::Result<()> {
        if self.reset_by_client {
            return Err(errno(libc::ENOTCONN));
        }
        self.uncork();
        self.server = Side::Finished;
        Ok(())
    }

    /// The events of poll(2) that are there, of those that complete this interest.
    pub fn events(&self, interest: Interest) -> u32 {
        let mut events = 0;
        if self.reset_by_client {
            events |= libc::POLLHUP | if self.error.is_some() { libc::POLLERR } else { 0 };
        } else if self.client != Side::Open && self.server != Side::Open {
            events |= libc::POLLHUP;
        }
        let (wanted, there) = match interest {
            Interest::Readable => (libc::POLLIN, self.is_readable()),
            Interest::Writable => (libc::POLLOUT, self.is_writable()),
            Interest::HangUp => (0, false),
        };
        (events | if there { wanted } else { 0 }) as u32
    }

    /// Not at the first free byte: a third of the queue has to be free (`sk_stream_is_writeable` in the kernel).
    fn is_writable(&self) -> bool {
        let room = self.room();
        self.reset_by_client || (room > 0 && room >= self.to_client.len() / 2)
    }

    fn room(&self) -> usize {
        self.window.saturating_sub(self.to_client.len() + self.corked.len())
    }

    fn client_sends(&mut self, bytes: &[u8]) -> usize {
        if self.server == Side::Closed {
            // Nobody is there to read it: the answer is a reset.
            self.reset_by_server();
        }
        if self.reset_by_server || self.reset_by_client {
            return bytes.len();
        }
        assert_eq!(self.client, Side::Open, "sim: a client sends after its end");
        let n = bytes.len().min(RECEIVE_QUEUE - self.to_server.len());
        self.to_server.extend(&bytes[..n]);
        n
    }

    fn reset_by_client(&mut self) {
        if !self.reset_by_client && !self.reset_by_server {
            // Linux reports a reset that follows a FIN as EPIPE (`tcp_reset`).
            self.error = Some(if self.client == Side::Finished { libc::EPIPE } else { libc::ECONNRESET });
            self.reset_by_client = true;
            self.to_client.clear();
        }
    }

    fn reset_by_server(&mut self) {
        if !self.reset_by_client {
            self.reset_by_server = true;
            self.to_client.clear();
        }
    }
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}
