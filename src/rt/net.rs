//! Sockets: connected ones for tasks, listening ones for the worker.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, sockopt};

use super::{Descriptor, Operation, Runtime};
use crate::driver::buf::Buf;
use crate::driver::op::{Closing, Expect, Interest, Op, RemoteAddress};
use crate::driver::pipe::Pipe;
use crate::driver::{More, SocketOption};

/// Connections that the kernel queues for a listener before it refuses more; capped by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// As a rate: none.
const NO_RATE: u64 = u64::MAX;

/// A connected, non-blocking socket.
#[derive(Debug)]
pub struct Socket {
    descriptor: Descriptor,
    /// What the kernel was told last: see [`Socket::limit_rate`].
    rate: Cell<u64>,
}

impl Socket {
    /// Takes over a descriptor that an accept yielded.
    pub(crate) fn from_raw(raw: RawFd, runtime: &Rc<Runtime>) -> Self {
        let descriptor = Descriptor { raw, closing: Closing::Inline, runtime: runtime.clone() };
        Socket { descriptor, rate: Cell::new(NO_RATE) }
    }

    /// Connects to an address. Dropping the future closes the socket.
    ///
    /// # Errors
    /// As socket(2) and connect(2).
    pub async fn connect(runtime: &Rc<Runtime>, to: &RemoteAddress) -> io::Result<Self> {
        let raw = runtime.driver().stream_socket(to.family())?;
        let socket = Socket::from_raw(raw, runtime);
        runtime.operate(Op::Connect { socket: raw, to: to.clone() }).await.result?;
        Ok(socket)
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.descriptor.raw
    }

    /// The runtime that it belongs to.
    pub fn runtime(&self) -> &Rc<Runtime> {
        &self.descriptor.runtime
    }

    /// The next bytes, in a buffer of the receive pool; `None` at the end of the stream. While the pool is empty it waits.
    ///
    /// # Errors
    /// As recv(2).
    pub async fn receive(&self, expect: Expect) -> io::Result<Option<Buf>> {
        loop {
            let completion = self.descriptor.runtime.operate(Op::Receive { socket: self.descriptor.raw, expect }).await;
            match received(completion.result, completion.lease) {
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.descriptor.runtime.receive_pool().available().await;
                }
                result => return result,
            }
        }
    }

    /// Appends at most `len` bytes that have come to the buffer, and returns how many; 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has come; else as recv(2).
    pub fn try_receive(&self, buf: &mut Buf, len: usize) -> io::Result<usize> {
        self.descriptor.runtime.driver().receive(self.descriptor.raw, buf, len)
    }

    /// Sends what the socket takes at once.
    ///
    /// # Errors
    /// `WouldBlock` when it is full: [`Socket::writable`] waits for room; else as send(2).
    pub fn try_send(&self, bytes: &[u8], more: More) -> io::Result<usize> {
        self.descriptor.runtime.driver().send(self.descriptor.raw, bytes, more)
    }

    /// As [`Socket::try_send`], of two pieces, one behind the other.
    ///
    /// # Errors
    /// As [`Socket::try_send`].
    pub fn try_send_pair(&self, first: &[u8], second: &[u8], more: More) -> io::Result<usize> {
        self.descriptor.runtime.driver().send_pair(self.descriptor.raw, first, second, more)
    }

    /// Sends what the socket takes at once of a region of a file whose pages are resident; 0 at the file's end.
    ///
    /// # Errors
    /// As [`Socket::try_send`].
    pub fn try_send_file(&self, file: &super::fs::File, offset: u64, len: usize) -> io::Result<usize> {
        self.descriptor.runtime.driver().send_file(self.descriptor.raw, file.raw(), offset, len)
    }

    /// Moves out of a pipe what the socket takes at once; the rest stays in the pipe. 0 if that is empty.
    ///
    /// # Errors
    /// As [`Socket::try_send`].
    pub fn try_drain(&self, pipe: &mut Pipe, more: More) -> io::Result<usize> {
        self.descriptor.runtime.driver().drain_pipe(pipe, self.descriptor.raw, more)
    }

    /// Sends what the socket takes at once of a buffer's bytes behind the first `from`, without copying them, and waits until the
    /// kernel needs them no more: until the client has acknowledged them, which a cork would delay. The buffer comes back also
    /// with an error: that is `WouldBlock` when the socket is full, `EOPNOTSUPP` where it can't be done (a Unix socket),
    /// `ENOMEM` where it can't be done now; else as send(2).
    pub async fn send_zero_copy(&self, buf: Buf, from: usize) -> (io::Result<usize>, Buf) {
        let completion =
            self.descriptor.runtime.operate(Op::SendZeroCopy { socket: self.descriptor.raw, buf, from }).await;
        let Some(Op::SendZeroCopy { buf, .. }) = completion.op else {
            panic!("driver invariant: a send came back without its buffer")
        };
        (completion.result.map(|n| n as usize), buf)
    }

    /// While it is on, only full packets leave; switching it off sends the rest (tcp(7), `TCP_CORK`).
    pub fn cork(&self, on: bool) {
        // A Unix socket has no packets to fill, and one that has failed says so when it is used.
        let _ = self.descriptor.runtime.driver().set_option(self.descriptor.raw, SocketOption::Cork(on));
    }

    /// Waits until the socket can take bytes, or has failed.
    pub async fn writable(&self) {
        self.poll_for(Interest::Writable).await;
    }

    /// Waits until the connection is gone: reset, or closed both ways. It may be kept while others use the socket.
    pub fn hang_up(&self) -> HangUp {
        let poll = Op::Poll { socket: self.descriptor.raw, interest: Interest::HangUp };
        HangUp(self.descriptor.runtime.operate(poll))
    }

    /// How many bytes have to have come before the socket counts as readable; 1 is usual.
    ///
    /// # Errors
    /// As setsockopt(2).
    pub fn set_receive_low_water(&self, bytes: u32) -> io::Result<()> {
        self.descriptor.runtime.driver().set_option(self.descriptor.raw, SocketOption::ReceiveLowWater(bytes))
    }

    /// Ends our side of the connection.
    ///
    /// # Errors
    /// As shutdown(2).
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.descriptor.runtime.driver().shutdown_write(self.descriptor.raw)
    }

    /// Makes closing it a reset, so that the peer can tell a broken reply from a whole one.
    pub fn reset_on_close(&self) {
        // A socket that can't take the option is gone already.
        let _ = self.descriptor.runtime.driver().set_option(self.descriptor.raw, SocketOption::ResetOnClose);
    }

    /// Has the kernel send at most so many bytes a second from now on, those in the send queue included; `None` lifts that. A
    /// rate that it has already been told costs nothing. On a Unix socket there is no such bound.
    pub fn limit_rate(&self, rate: Option<u64>) {
        let rate = rate.unwrap_or(NO_RATE);
        if self.rate.replace(rate) != rate {
            // A socket that can't take the option is gone already.
            let _ = self.descriptor.runtime.driver().set_option(self.descriptor.raw, SocketOption::MaxPacingRate(rate));
        }
    }

    /// How long what was sent may stay unacknowledged until the connection is given up; `None` leaves that to the kernel, which
    /// tries for a quarter of an hour. It counts for what a client that reads nothing leaves unsent, too. Only TCP has it.
    pub fn expect_acknowledgement(&self, within: Option<Duration>) {
        let milliseconds = within.map_or(0, |within| u32::try_from(within.as_millis()).unwrap_or(u32::MAX).max(1));
        // A socket that can't take the option is gone already, or a Unix socket, whose peer can't vanish.
        let option = SocketOption::UserTimeout(milliseconds);
        let _ = self.descriptor.runtime.driver().set_option(self.descriptor.raw, option);
    }

    async fn poll_for(&self, interest: Interest) {
        // A poll that fails names a socket that has failed: the next call on it says how.
        let _ = self.descriptor.runtime.operate(Op::Poll { socket: self.descriptor.raw, interest }).await;
    }
}

/// The end of a connection; see [`Socket::hang_up`]. It is dropped before the socket is.
pub struct HangUp(Operation);

impl Future for HangUp {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // A poll that fails names a socket that has failed.
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}

/// What a receive's completion says.
pub(crate) fn received(result: io::Result<u32>, lease: Option<Buf>) -> io::Result<Option<Buf>> {
    match result? {
        0 => Ok(None),
        _ => Ok(Some(lease.expect("driver invariant: bytes without a buffer"))),
    }
}

/// A listening socket, made before the workers start.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    bound: BoundAddress,
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundAddress {
    /// An internet address, with the real port.
    Tcp(SocketAddr),
    /// A path in the file system.
    Unix(std::path::PathBuf),
}

impl std::fmt::Display for BoundAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BoundAddress::Tcp(address) => write!(f, "http://{address}"),
            BoundAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Whether other listeners may share the address, each with its own queue (`SO_REUSEPORT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// One listener for each worker.
    PerWorker,
    /// The only one: a second server on the address is refused.
    Alone,
}

impl Listener {
    /// Binds an internet address and listens.
    ///
    /// # Errors
    /// As bind(2): `AddrInUse`, `PermissionDenied`, `AddrNotAvailable`.
    pub fn tcp(address: SocketAddr, share: Share) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = stream_socket(family)?;
        nix::sys::socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        if share == Share::PerWorker {
            nix::sys::socket::setsockopt(&socket, sockopt::ReusePort, &true)?;
        }
        if address.is_ipv6() {
            nix::sys::socket::setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        }
        nix::sys::socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
        nix::sys::socket::listen(&socket, Backlog::new(BACKLOG)?)?;
        let socket = std::net::TcpListener::from(socket);
        let bound = BoundAddress::Tcp(socket.local_addr()?);
        Ok(Listener { socket: socket.into(), bound })
    }

    /// Binds a path and listens. A socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// `AddrInUse` when a server answers there or the path is no socket; else as bind(2).
    pub fn unix(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::FileTypeExt;
        if let Ok(metadata) = std::fs::symlink_metadata(path) {
            let stale = metadata.file_type().is_socket() && std::os::unix::net::UnixStream::connect(path).is_err();
            if !stale {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)?;
        }
        let socket = stream_socket(AddressFamily::Unix)?;
        nix::sys::socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        nix::sys::socket::listen(&socket, Backlog::new(BACKLOG)?)?;
        Ok(Listener { socket, bound: BoundAddress::Unix(path.to_path_buf()) })
    }

    /// A second handle on the same queue, for another worker.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Listener { socket: self.socket.try_clone()?, bound: self.bound.clone() })
    }

    /// Where it listens.
    pub fn bound(&self) -> &BoundAddress {
        &self.bound
    }

    /// The bare descriptor, which the caller has to close.
    pub(crate) fn into_raw(self) -> RawFd {
        self.socket.into_raw_fd()
    }
}

fn stream_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(nix::sys::socket::socket(family, SockType::Stream, flags, None)?)
}
