//! The operations a driver carries out: one closed set, so that a driver can be read whole and a fake can be complete.
//!
//! An operation owns everything that the kernel will touch on its behalf (buffers, path names): it lives in its slot until the
//! terminal completion and is handed back with it. A borrowed form was rejected: a future can be forgotten or dropped at any
//! point, and then the kernel would write into memory that is no longer ours.

use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use nix::sys::socket::{SockaddrLike, SockaddrStorage, UnixAddr};

use super::buf::Buf;
use super::pipe::Pipe;

/// One asynchronous operation.
#[derive(Debug)]
pub enum Op {
    /// Accepts connections, non-blocking and close-on-exec; where the kernel does it soundly, one operation accepts many and
    /// its completions say `more`.
    Accept {
        /// The listening socket.
        listener: RawFd,
    },
    /// Connects a socket of [`super::Driver::stream_socket`], and waits until that has succeeded or failed. A socket whose connect
    /// failed or was given up is good for nothing but to be closed.
    Connect {
        /// The socket, of the address's family and not connected yet.
        socket: RawFd,
        /// Where to.
        to: RemoteAddress,
    },
    /// Receives into a buffer that is picked from the receive pool when bytes are there, so that a waiting connection holds
    /// none. Completes with `ENOBUFS` when the pool is empty.
    Receive {
        /// The connected socket.
        socket: RawFd,
        /// Whether bytes are likely to be there already; only a hint.
        expect: Expect,
    },
    /// Reads from a file into the buffer's spare space, without blocking the thread on a cold page.
    Read {
        /// The open file.
        file: RawFd,
        /// Where in the file to start, in bytes.
        offset: u64,
        /// At most this many bytes; the buffer has to have that much spare space.
        len: u32,
        /// Filled by the kernel; comes back with the completion.
        buf: Buf,
    },
    /// Moves bytes of a file into an empty pipe, no more than [`Pipe::fill_len`], and waits for pages that are not resident on a
    /// thread of the kernel, one for each such operation. Completes with 0 at the end of the file.
    ///
    /// The kernel looks the file up when it gets to it, perhaps after a later close: the owner closes it when the operation has
    /// completed or was given up. Should the number have become another's by then, no harm is done: a place in a file is
    /// named, so a socket or a pipe is refused (`ESPIPE`, `EINVAL`), and nobody sees what another file yields.
    FillPipe {
        /// The open file.
        file: RawFd,
        /// Where in the file to start, in bytes.
        offset: u64,
        /// At most this many bytes.
        len: usize,
        /// Filled by the kernel; comes back with the completion. One that failed is good for nothing but to be dropped.
        pipe: Pipe,
    },
    /// Sends what the socket takes at once of a buffer's bytes, which the network card reads from where they are. Completes
    /// when the kernel needs them no more: the peer has acknowledged them, or they were copied after all. So a client that
    /// acknowledges nothing keeps a buffer, each send takes a round trip, and under a cork it waits for the cork.
    /// Completes with `WouldBlock` when the socket is full, `EOPNOTSUPP` where it can't be done (a Unix socket), `ENOMEM`
    /// when too much memory is locked already.
    SendZeroCopy {
        /// The connected socket.
        socket: RawFd,
        /// The bytes; comes back with the completion.
        buf: Buf,
        /// How many of its bytes were sent before.
        from: usize,
    },
    /// Writes to a file, in the page cache: completes when the kernel has the bytes, not when the disk has. Several may be in
    /// flight; they may take effect in any order. Completes with fewer bytes than asked when the disk or a quota is full just
    /// there, and the next write with `ENOSPC`, `EDQUOT` or `EFBIG`.
    Write {
        /// The open file.
        file: RawFd,
        /// Where in the file to start, in bytes.
        offset: u64,
        /// What to write; comes back with the completion.
        from: WriteFrom,
    },
    /// Waits until what was written to a file, or what was linked into a directory, is on the disk (fsync(2)).
    Sync {
        /// The open file or directory.
        fd: RawFd,
    },
    /// Reserves disk space for the first `len` bytes of a file and leaves its length as it is (fallocate(2),
    /// `FALLOC_FL_KEEP_SIZE`). Completes with `EOPNOTSUPP` where the file system can't.
    Allocate {
        /// The open file.
        file: RawFd,
        /// In bytes, at least 1.
        len: u64,
    },
    /// Gives an open file without a name one (linkat(2)). Completes with `EEXIST` if the name is taken.
    Link {
        /// The open file.
        file: RawFd,
        /// Its entry in `/proc/self/fd`, see [`Op::link`]: linking by the number alone needs a privilege.
        entry: CString,
        /// The directory.
        directory: RawFd,
        /// A name in it, not a path: links on the way would be followed.
        name: CString,
    },
    /// Moves a name, within a file system (renameat2(2)).
    Rename {
        /// The directory that it is in.
        directory: RawFd,
        /// The name in it.
        name: CString,
        /// The directory that it comes to.
        to_directory: RawFd,
        /// The name there.
        to_name: CString,
        /// What happens if that is taken.
        taken: Taken,
    },
    /// Takes the name of a file away (unlinkat(2)); a directory is `EISDIR`.
    Unlink {
        /// The directory.
        directory: RawFd,
        /// The name in it.
        name: CString,
    },
    /// Makes a directory (mkdirat(2)).
    MakeDirectory {
        /// The directory that it is made in.
        directory: RawFd,
        /// Its name.
        name: CString,
        /// Who may enter it.
        mode: DirectoryMode,
    },
    /// Opens a path beneath a directory (openat2 with `RESOLVE_BENEATH`), close-on-exec. A FIFO or a device is not waited for.
    Open {
        /// The directory, or `AT_FDCWD` with [`Opening::Anywhere`].
        root: RawFd,
        /// Relative to the directory.
        path: CString,
        /// What is opened, and for what.
        opening: Opening,
        /// The kernel's argument block; filled by the driver.
        how: Box<OpenHow>,
    },
    /// Waits until a socket can take or give bytes, or has failed. Its owner gives it up before it closes the socket.
    Poll {
        /// The socket.
        socket: RawFd,
        /// What to wait for.
        interest: Interest,
    },
    /// Closes a descriptor in order after everything submitted before it.
    Close {
        /// The descriptor; not used again by its owner.
        fd: RawFd,
        /// Where the closing is done.
        closing: Closing,
    },
}

/// Where a descriptor is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// At once, in the worker's own turn: sockets.
    Inline,
    /// On a thread of the kernel: the last close of a file that was deleted frees its blocks, which takes as long as it is large.
    Aside,
}

/// What a receive may hope for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Bytes may be waiting: try at once.
    Now,
    /// The peer has still to send: wait first and save the attempt.
    Later,
}

/// What a poll waits for. Errors and hang-ups always complete it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes, or the end of the stream, can be read.
    Readable,
    /// Bytes can be written.
    Writable,
    /// Nothing but an error or both directions closed.
    HangUp,
}

/// What an open opens, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// To read: a regular file, directory or other entry beneath the directory; nothing outside it, through links or `..`.
    Beneath,
    /// To read: a directory anywhere, following links: how a root is opened.
    Anywhere,
    /// To read and write: a file beneath the directory that is there, no link.
    Writable,
    /// To read and write: a new file of this name beneath the directory; `EEXIST` if the name is taken.
    New,
    /// To read and write: a new file without a name on the file system of the directory that the path leads to
    /// (`O_TMPFILE`); it is gone with its last descriptor unless it is linked. `EOPNOTSUPP` where the file system can't.
    Unnamed,
}

/// An address to connect to, as the kernel reads it: on the heap, so that it stays where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteAddress(Box<Sockaddr>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Sockaddr {
    Tcp(SocketAddr, SockaddrStorage),
    Unix(PathBuf, UnixAddr),
}

impl RemoteAddress {
    /// A TCP port.
    pub fn tcp(address: SocketAddr) -> Self {
        RemoteAddress(Box::new(Sockaddr::Tcp(address, SockaddrStorage::from(address))))
    }

    /// A socket in the file system.
    ///
    /// # Errors
    /// When the path has more than 107 bytes, or a NUL.
    pub fn unix(path: &Path) -> io::Result<Self> {
        Ok(RemoteAddress(Box::new(Sockaddr::Unix(path.to_path_buf(), UnixAddr::new(path)?))))
    }

    /// The family of sockets that can be connected to it.
    pub fn family(&self) -> Family {
        match &*self.0 {
            Sockaddr::Tcp(SocketAddr::V4(_), _) => Family::Ipv4,
            Sockaddr::Tcp(SocketAddr::V6(_), _) => Family::Ipv6,
            Sockaddr::Unix(..) => Family::Unix,
        }
    }

    /// What connect(2) takes; it stays where it is as long as this address does.
    pub(super) fn raw(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        match &*self.0 {
            Sockaddr::Tcp(_, raw) => (raw.as_ptr(), raw.len()),
            Sockaddr::Unix(_, raw) => (SockaddrLike::as_ptr(raw), raw.len()),
        }
    }
}

impl std::fmt::Display for RemoteAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.0 {
            Sockaddr::Tcp(address, _) => address.fmt(f),
            Sockaddr::Unix(path, _) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `AF_INET`.
    Ipv4,
    /// `AF_INET6`.
    Ipv6,
    /// `AF_UNIX`.
    Unix,
}

/// What happens when the name that something is moved to is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// `EEXIST` (`RENAME_NOREPLACE`); a file system that can't tell answers `EINVAL`.
    Refuse,
    /// The new one takes its place, in one step.
    Replace,
}

/// Who may enter a new directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryMode {
    /// This user: what is in it is not whole yet.
    Private,
    /// Whom the process's umask lets in.
    Public,
}

/// Bytes to write. They are shared, so that nobody can change them while the kernel reads.
#[derive(Clone, Debug)]
pub enum WriteFrom {
    /// Some of a buffer's.
    Buf {
        /// The buffer.
        buf: Rc<Buf>,
        /// Which of its filled bytes.
        range: Range<usize>,
    },
    /// On the heap.
    Bytes(Bytes),
}

impl WriteFrom {
    /// The same without the first `n` bytes.
    #[must_use]
    pub fn skip(self, n: usize) -> Self {
        match self {
            WriteFrom::Buf { buf, range } => WriteFrom::Buf { buf, range: (range.start + n).min(range.end)..range.end },
            WriteFrom::Bytes(bytes) => WriteFrom::Bytes(bytes.slice(n.min(bytes.len())..)),
        }
    }
}

impl std::ops::Deref for WriteFrom {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            WriteFrom::Buf { buf, range } => &buf[range.clone()],
            WriteFrom::Bytes(bytes) => bytes,
        }
    }
}

/// `struct open_how` of openat2(2), kept on the heap so that its address is stable while the kernel reads it.
#[derive(Debug, Default)]
pub struct OpenHow(pub(super) io_uring::types::OpenHow);

impl Op {
    /// See [`Op::Link`].
    pub fn link(file: RawFd, directory: RawFd, name: CString) -> Self {
        let entry = CString::new(format!("/proc/self/fd/{file}")).expect("no NUL in a number");
        Op::Link { file, entry, directory, name }
    }

    /// The descriptors that the kernel looks up when it gets to the operation, on a thread of its own and perhaps long after it
    /// was submitted. They are not closed before its completion ([`super::slot::SlotTable::park_close`]): their numbers could be a
    /// stranger's by then, and the operation would change what is not ours.
    pub(super) fn late_descriptors(&self) -> [Option<RawFd>; 2] {
        match self {
            Op::Open { root, .. } => [Some(*root), None],
            Op::Link { file, directory, .. } => [Some(*file), Some(*directory)],
            Op::Rename { directory, to_directory, .. } => [Some(*directory), Some(*to_directory)],
            Op::Unlink { directory, .. } | Op::MakeDirectory { directory, .. } => [Some(*directory), None],
            // Since Linux 6.3 these begin on the kernel's thread, too.
            Op::Allocate { file: fd, .. } | Op::Sync { fd } => [Some(*fd), None],
            _ => [None, None],
        }
    }

    /// Whether success yields a new descriptor, which someone has to close.
    pub(super) fn yields_descriptor(&self) -> bool {
        matches!(self, Op::Accept { .. } | Op::Open { .. })
    }
}
