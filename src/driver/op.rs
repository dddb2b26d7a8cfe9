//! The operations a driver carries out: one closed set, so that a driver can be read whole and a fake can be complete.
//!
//! An operation owns everything that the kernel will touch on its behalf (buffers, path names): it lives in its slot until the
//! terminal completion and is handed back with it. A borrowed form was rejected: a future can be forgotten or dropped at any
//! point, and then the kernel would write into memory that is no longer ours.

use std::ffi::CString;
use std::os::fd::RawFd;

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
    /// Opens a path beneath a directory (openat2 with `RESOLVE_BENEATH`), read-only and close-on-exec. A FIFO or a device is
    /// not waited for. The kernel looks the directory up when it gets to it, perhaps after a later close: the owner closes it
    /// when the open has completed or was given up.
    Open {
        /// The directory, or `AT_FDCWD` with [`Resolve::Anywhere`].
        root: RawFd,
        /// Relative to the directory.
        path: CString,
        /// What the path may resolve to.
        resolve: Resolve,
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

/// How far a path may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolve {
    /// A regular file, directory or other entry beneath the directory; nothing outside it, through links or `..`.
    Beneath,
    /// A directory anywhere, following links: how a root is opened.
    Anywhere,
}

/// `struct open_how` of openat2(2), kept on the heap so that its address is stable while the kernel reads it.
#[derive(Debug, Default)]
pub struct OpenHow(pub(super) io_uring::types::OpenHow);

impl Op {
    /// Whether success yields a new descriptor, which someone has to close.
    pub(super) fn yields_descriptor(&self) -> bool {
        matches!(self, Op::Accept { .. } | Op::Open { .. })
    }
}
