//! The direct calls of the real drivers: thin, each one system call that answers at once.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{MsgFlags, SockaddrLike, SockaddrStorage};

use super::{FileKind, FileStat, More, SocketOption};

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
    nix::fcntl::fcntl(borrow(file), nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()))?;
    Ok(())
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
        SocketOption::ResetOnClose => {
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            set(socket, libc::SOL_SOCKET, libc::SO_LINGER, &linger)
        }
        // All 64 bits count since Linux 5.0, which is older than the oldest ring.
        SocketOption::MaxPacingRate(rate) => set(socket, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, &rate),
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

fn count(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn signed(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}
