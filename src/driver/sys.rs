//! The direct calls of the real drivers: thin, each one system call that answers at once.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, SockaddrLike, SockaddrStorage};
use nix::sys::stat::makedev;

use super::op::Family;
use super::pipe::{Ends, Plumbing};
use super::{Advice, FileKind, FileStat, More, SocketOption};

/// `SPLICE_F_NONBLOCK` is about the pipe only: the file and the socket wait or don't as they are.
pub const SPLICE_FLAGS: libc::c_uint = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;

/// See [`super::Driver::stat`].
pub fn stat(fd: RawFd) -> io::Result<FileStat> {
    let stat = nix::sys::stat::fstat(borrow(fd))?;
    let kind = match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => FileKind::Regular,
        libc::S_IFDIR => FileKind::Directory,
        _ => FileKind::Other,
    };
    Ok(FileStat {
        kind,
        len: u64::try_from(stat.st_size).map_err(|_| io::Error::other("fstat answered a negative length"))?,
        device: stat.st_dev,
        inode: stat.st_ino,
        modified_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        changed_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
    })
}

/// See [`super::Driver::allow_waiting`].
pub fn allow_waiting(file: RawFd) -> io::Result<()> {
    nix::fcntl::fcntl(borrow(file), FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(())
}

/// See [`super::Driver::try_lock`].
pub fn try_lock(file: RawFd) -> io::Result<()> {
    // SAFETY: no memory is named; the descriptor is only a number to the kernel.
    let locked = unsafe { libc::flock(file, libc::LOCK_EX | libc::LOCK_NB) };
    if locked == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// See [`super::Driver::stream_socket`].
pub fn stream_socket(family: Family) -> io::Result<RawFd> {
    let family = match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
        Family::Unix => AddressFamily::Unix,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(nix::sys::socket::socket(family, SockType::Stream, flags, None)?.into_raw_fd())
}

/// See [`super::Driver::receive`].
pub fn receive(socket: RawFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length come from one live, exclusively borrowed slice, which the kernel writes only during the call.
    let received = unsafe { libc::recv(socket, into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) };
    count(received)
}

/// See [`super::Driver::send`].
pub fn send(socket: RawFd, bytes: &[u8], more: More) -> io::Result<usize> {
    // SAFETY: pointer and length come from one live slice, and the kernel only reads it during the call.
    let sent = unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), send_flags(more)) };
    count(sent)
}

/// See [`super::Driver::send_pair`].
pub fn send_pair(socket: RawFd, first: &[u8], second: &[u8], more: More) -> io::Result<usize> {
    let pieces = [io::IoSlice::new(first), io::IoSlice::new(second)];
    let flags = MsgFlags::from_bits_retain(send_flags(more));
    Ok(nix::sys::socket::sendmsg::<()>(socket, &pieces, &[], flags, None)?)
}

fn send_flags(more: More) -> libc::c_int {
    let more = match more {
        More::Follows => libc::MSG_MORE,
        More::No => 0,
    };
    libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | more
}

/// See [`super::Driver::send_file`].
pub fn send_file(socket: RawFd, file: RawFd, offset: u64, len: usize) -> io::Result<usize> {
    let mut offset = signed(offset)?;
    // SAFETY: the offset is a live local that the kernel writes during the call; the descriptors are only numbers to it.
    let sent = unsafe { libc::sendfile(socket, file, &raw mut offset, len) };
    count(sent)
}

/// See [`super::Driver::fill_pipe`].
pub fn fill_pipe(write_end: RawFd, file: RawFd, offset: u64, len: usize) -> io::Result<usize> {
    let mut offset = signed(offset)?;
    // SAFETY: the offset is a live local that the kernel writes during the call; the descriptors are only numbers to it.
    let moved = unsafe { libc::splice(file, &raw mut offset, write_end, std::ptr::null_mut(), len, SPLICE_FLAGS) };
    count(moved)
}

/// See [`super::Driver::drain_pipe`]. `to` is a socket, or whatever else takes the bytes.
pub fn drain_pipe(read_end: RawFd, to: RawFd, len: usize, more: More) -> io::Result<usize> {
    let more = match more {
        More::Follows => libc::SPLICE_F_MORE,
        More::No => 0,
    };
    let null = std::ptr::null_mut();
    // SAFETY: no memory is named; the descriptors are only numbers to the kernel.
    let moved = unsafe { libc::splice(read_end, null, to, null, len, SPLICE_FLAGS | more) };
    count(moved)
}

/// See [`super::Driver::advise`].
pub fn advise(file: RawFd, offset: u64, len: u64, advice: Advice) -> io::Result<()> {
    let advice = match advice {
        Advice::WillNeed => PosixFadviseAdvice::POSIX_FADV_WILLNEED,
        Advice::DontNeed => PosixFadviseAdvice::POSIX_FADV_DONTNEED,
    };
    Ok(nix::fcntl::posix_fadvise(borrow(file), signed(offset)?, signed(len)?, advice)?)
}

/// See [`super::Driver::read_resident`].
pub fn read_resident(file: RawFd, offset: u64, into: &mut [u8]) -> io::Result<usize> {
    let iovec = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: the iovec names one live, exclusively borrowed slice, which the kernel writes only during the call.
    let read = unsafe { libc::preadv2(file, &raw const iovec, 1, signed(offset)?, libc::RWF_NOWAIT) };
    count(read)
}

/// See [`super::Driver::shutdown_write`].
pub fn shutdown_write(socket: RawFd) -> io::Result<()> {
    Ok(nix::sys::socket::shutdown(socket, nix::sys::socket::Shutdown::Write)?)
}

/// See [`super::Driver::set_option`].
pub fn set_option(socket: RawFd, option: SocketOption) -> io::Result<()> {
    match option {
        SocketOption::NoDelay => set(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1_i32),
        SocketOption::NotSentLowWater(bytes) => set(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, &bytes),
        SocketOption::ReceiveLowWater(bytes) => set(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &bytes),
        SocketOption::Cork(on) => set(socket, libc::IPPROTO_TCP, libc::TCP_CORK, &i32::from(on)),
        SocketOption::ResetOnClose => {
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            set(socket, libc::SOL_SOCKET, libc::SO_LINGER, &linger)
        }
        // All 64 bits count since Linux 5.0, which is older than the oldest ring.
        SocketOption::MaxPacingRate(rate) => set(socket, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, &rate),
        SocketOption::UserTimeout(milliseconds) => {
            set(socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &milliseconds)
        }
        SocketOption::KeepAlive { idle, interval, probes } => {
            set(socket, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, &idle)?;
            set(socket, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, &interval)?;
            set(socket, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, &probes)?;
            set(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &1_i32)
        }
    }
}

/// See [`super::Driver::peer`].
pub fn peer(socket: RawFd) -> io::Result<Option<SocketAddr>> {
    let address: SockaddrStorage = nix::sys::socket::getpeername(socket)?;
    Ok(match address.family() {
        Some(nix::sys::socket::AddressFamily::Inet) => {
            address.as_sockaddr_in().map(|a| SocketAddr::from((Ipv4Addr::from(a.ip().octets()), a.port())))
        }
        Some(nix::sys::socket::AddressFamily::Inet6) => {
            address.as_sockaddr_in6().map(|a| SocketAddr::from((Ipv6Addr::from(a.ip().octets()), a.port())))
        }
        _ => None,
    })
}

/// See [`super::Driver::duplicate`].
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    borrow(fd).try_clone_to_owned()
}

/// The length of a page, in bytes.
pub fn page_len() -> usize {
    // SAFETY: the call reads a constant of the process.
    let len = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(len).expect("every kernel says how long a page is")
}

/// Pipes of the kernel.
#[derive(Debug)]
pub struct KernelPipes {
    /// `/dev/null`, where it is what its name says.
    sink: Option<OwnedFd>,
}

impl KernelPipes {
    /// Opens what takes the bytes that are thrown away; without it, pipes that hold some are closed.
    pub fn new() -> Self {
        let null = std::fs::OpenOptions::new().write(true).open("/dev/null").ok().map(OwnedFd::from);
        // In a container it may be a plain file, which would grow.
        KernelPipes { sink: null.filter(is_null_device) }
    }
}

impl Plumbing for KernelPipes {
    fn open(&self, len: usize) -> io::Result<Ends> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let capacity = resize_pipe(&write, len)?;
        Ok(Ends { read: read.into_raw_fd(), write: write.into_raw_fd(), capacity })
    }

    fn empty(&self, ends: Ends) -> io::Result<usize> {
        let sink = self.sink.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        // All there is, not what is believed to be there.
        drain_pipe(ends.read, sink.as_raw_fd(), ends.capacity, More::No)
    }

    fn close(&self, ends: Ends) {
        for fd in [ends.read, ends.write] {
            // SAFETY: `open` gave these descriptors away, and the pool that keeps them closes each pipe once, when neither a
            // lease nor an operation names it any more.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
}

fn is_null_device(fd: &OwnedFd) -> bool {
    nix::sys::stat::fstat(fd)
        .is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == makedev(1, 3))
}

/// Makes a new pipe hold `len` bytes and returns what it holds then. Where that is refused, because of
/// `/proc/sys/fs/pipe-max-size` or of what this user's pipes take together, it tries for half, down to what the pipe has.
fn resize_pipe(pipe: &OwnedFd, len: usize) -> io::Result<usize> {
    let before = nix::fcntl::fcntl(pipe, FcntlArg::F_GETPIPE_SZ)? as usize;
    let mut wanted = len;
    loop {
        let resized = nix::fcntl::fcntl(pipe, FcntlArg::F_SETPIPE_SZ(i32::try_from(wanted).unwrap_or(i32::MAX)));
        match resized {
            Ok(capacity) => return Ok(capacity as usize),
            Err(_) if wanted / 2 > before => wanted /= 2,
            Err(_) => return Ok(before),
        }
    }
}

fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the descriptor is used within one call only, and its owner (a socket or file of `rt`) is alive during it.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

fn set<T>(socket: RawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe one live value, which the kernel only reads during the call.
    let result = unsafe { libc::setsockopt(socket, level, name, std::ptr::from_ref(value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What the kernel holds a socket to, in bytes a second: how tests look at [`SocketOption::MaxPacingRate`].
#[cfg(test)]
pub fn max_pacing_rate(socket: RawFd) -> io::Result<u64> {
    let (mut rate, mut len) = (0_u64, size_of::<u64>() as libc::socklen_t);
    let (level, name) = (libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE);
    // SAFETY: both pointers are to live locals, which the kernel writes only during the call, the first at most `len` bytes.
    let result = unsafe { libc::getsockopt(socket, level, name, (&raw mut rate).cast(), &raw mut len) };
    if result == 0 { Ok(rate) } else { Err(io::Error::last_os_error()) }
}

/// How long the kernel waits for acknowledgements, in milliseconds, and whether it asks a silent peer: how tests look at
/// [`SocketOption::UserTimeout`] and [`SocketOption::KeepAlive`].
#[cfg(test)]
pub fn patience(socket: RawFd) -> io::Result<(u32, bool)> {
    use nix::sys::socket::{getsockopt, sockopt};
    let socket = borrow(socket);
    Ok((getsockopt(&socket, sockopt::TcpUserTimeout)?, getsockopt(&socket, sockopt::KeepAlive)?))
}

fn count(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn signed(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}
