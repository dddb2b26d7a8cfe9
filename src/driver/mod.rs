//! The seam to the kernel: the only place with unsafe code, and one contract with several drivers behind it.
//!
//! ```text
//!   rt ──submit(Op, Owner)──▶ Driver ──SQE──▶ kernel          direct calls (never block): stat, send, send_file,
//!      ◀──poll(Slot)────────  Driver ◀──CQE── kernel          fill_pipe, drain_pipe, read_resident, shutdown, options
//! ```
//!
//! **The contract.** An operation belongs to its slot from [`Driver::submit`] to its terminal completion, and so does every
//! buffer in it; a future that is dropped gives up its interest ([`Driver::abandon`]), never the memory. A [`Driver::turn`]
//! hands over what was submitted, waits as it was told, and records every answer that has come; it runs nothing, so there is
//! no re-entrance: wakers only mark tasks as ready, and events are taken afterwards. Operations that name a descriptor are
//! started in the order in which they were submitted, so a [`Op::Close`] never overtakes its descriptor's last use.
//!
//! *Direct calls* are those that the kernel answers at once: they return `WouldBlock` instead of waiting, and they touch
//! neither a cold page nor a path. Sending is one of them: a send to a socket with room costs the same through the ring and
//! as a call, and a call leaves no buffer behind with the kernel (figures in `docs/DECISIONS.md`).
//!
//! Drivers: [`uring`] is the real one; `sim` is the seeded fake for tests. The place of an epoll driver is beside them.
#![allow(unsafe_code)]

pub mod buf;
#[cfg(test)]
mod contract;
pub mod leases;
pub mod op;
pub mod pipe;
#[cfg(test)]
pub mod sim;
pub mod slot;
mod sys;
pub mod uring;

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

use self::buf::{Buf, BufferPool};
use self::op::{Closing, Family, Op};
use self::pipe::{Pipe, PipePool};
use self::slot::{Abandoned, Completion, Event, Owner, Slot, SlotTable};

/// What a driver is made with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many operations may be in flight; the completion queue holds four times as many, up to the kernel's bound.
    pub in_flight: usize,
    /// Receive buffers, a power of two, and the length of each in bytes.
    pub receive_buffers: (u16, usize),
    /// Transfer buffers and the length of each in bytes: one high water mark.
    pub transfer_buffers: (u16, usize),
    /// Buffers for uploads, and the length of each in bytes.
    pub upload_buffers: (u16, usize),
    /// Pipes, each for as many bytes as a transfer buffer.
    pub pipes: usize,
}

/// How long a turn waits for a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: there is other work.
    No,
    /// Until the first completion or this time.
    Until(Instant),
    /// Until the first completion.
    Forever,
}

/// What `fstat` says of an open descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes.
    pub len: u64,
    /// Device and inode number: together they name the file.
    pub device: u64,
    /// See `device`.
    pub inode: u64,
    /// Last change of the content, nanoseconds since 1970.
    pub modified_ns: i64,
    /// Last change of content or attributes, nanoseconds since 1970.
    pub changed_ns: i64,
}

/// The kinds of file that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A socket, device, FIFO or anything else: never served.
    Other,
}

/// Whether more bytes of the same message follow at once, so that the kernel may fill a packet (`MSG_MORE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// More follows.
    Follows,
    /// This is the end of what there is to say now.
    No,
}

/// A setting of a connected socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketOption {
    /// `TCP_NODELAY` on.
    NoDelay,
    /// `TCP_NOTSENT_LOWAT`: how many bytes may wait in the send queue before the socket counts as full.
    NotSentLowWater(u32),
    /// `TCP_CORK`: while it is on, only full packets leave; switching it off sends the rest. A packet waits 200 ms at most
    /// (tcp(7)). Only TCP has it.
    Cork(bool),
    /// `SO_RCVLOWAT`: how many bytes have to have come before the socket counts as readable; 1 is usual. The end of the stream and
    /// an error always count.
    ReceiveLowWater(u32),
    /// `SO_LINGER` of zero: closing resets the connection, so that a broken reply can't pass for a whole one.
    ResetOnClose,
    /// `SO_MAX_PACING_RATE`: the most bytes a second that the kernel sends from now on, those in the send queue included
    /// (socket(7)); `u64::MAX` is no bound. A Unix socket takes it, and nothing follows.
    MaxPacingRate(u64),
    /// `TCP_USER_TIMEOUT`, in milliseconds: how long what was sent may stay unacknowledged, or unsent for want of a window, until the
    /// kernel gives the connection up (tcp(7)); 0 leaves that to its retransmissions, which takes a quarter of an hour.
    UserTimeout(u32),
    /// `SO_KEEPALIVE`: a peer that was silent for `idle` seconds is asked every `interval` seconds whether it is there, and given
    /// up when it has not answered `probes` times (tcp(7)).
    KeepAlive {
        /// Seconds without a byte either way.
        idle: u32,
        /// Seconds between two questions.
        interval: u32,
        /// Questions without an answer.
        probes: u32,
    },
}

/// What is going to happen with a region of a file (posix_fadvise(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// It will be read: the kernel asks the disk for its pages and does not wait for them. But it may wait for a free place in
    /// the disk's queue, or for the blocks that say where the file lies, and making the requests takes time: 40 to
    /// 140 µs for 512 KiB. One call asks for no more than the device's read-ahead window or its longest request,
    /// whichever is longer (128 KiB and 8 MiB, say); what lies behind that is left out in silence.
    WillNeed,
    /// It will not be read soon: whole pages of it leave the page cache, unless they are dirty, mapped or in use, and dirty
    /// ones start to be written. Others who read the file lose them, too.
    DontNeed,
}

/// Counts since the driver was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverCounts {
    /// Operations handed to the kernel.
    pub submissions: u64,
    /// Answers that came back.
    pub completions: u64,
}

/// One worker's way to the kernel; see the module for the contract.
pub trait Driver {
    /// The slots and events of this driver.
    fn slots(&mut self) -> &mut SlotTable;

    /// Starts an operation; the owner is told when it completes.
    fn submit(&mut self, op: Op, owner: Owner) -> Slot;

    /// Asks the kernel to end an operation early; its completion still comes.
    fn cancel(&mut self, slot: Slot);

    /// Hands over what was submitted, waits, and records what has come.
    ///
    /// # Errors
    /// When the kernel refuses to go on; the worker can't.
    fn turn(&mut self, wait: Wait) -> io::Result<()>;

    /// The present, monotonic.
    fn now(&self) -> Instant;

    /// The time of day.
    fn wall_clock(&self) -> SystemTime;

    /// The pool that receives pick from.
    fn receive_pool(&self) -> &BufferPool;

    /// The pool for reads from files.
    fn transfer_pool(&self) -> &BufferPool;

    /// The pool for bodies on their way to a file.
    fn upload_pool(&self) -> &BufferPool;

    /// The pipes between files and sockets.
    fn pipe_pool(&self) -> &PipePool;

    /// Whether [`Op::FillPipe`] can be carried out.
    fn supports_ring_splice(&self) -> bool;

    /// Whether [`Op::SendZeroCopy`] can be carried out (Linux 6.0).
    fn supports_zero_copy_send(&self) -> bool;

    /// Operations since the start.
    fn counts(&self) -> DriverCounts;

    /// `fstat` of an open descriptor.
    ///
    /// # Errors
    /// As fstat(2).
    fn stat(&mut self, fd: RawFd) -> io::Result<FileStat>;

    /// Lets reads of a regular file wait for the disk. It was opened so that a FIFO would not be waited for; but the ring takes
    /// that flag for the file system's word that reads never block, and would then read a cold page on the worker's thread.
    ///
    /// # Errors
    /// As fcntl(2).
    fn allow_waiting(&mut self, file: RawFd) -> io::Result<()>;

    /// Takes the file for this descriptor alone, if nobody else has it; closing it gives it back (flock(2)).
    ///
    /// # Errors
    /// `WouldBlock` when another has it, of this process or of another; else as flock(2).
    fn try_lock(&mut self, file: RawFd) -> io::Result<()>;

    /// A stream socket that is not connected yet, non-blocking and close-on-exec; see [`Op::Connect`].
    ///
    /// # Errors
    /// As socket(2): no descriptor is left, or the family is not there.
    fn stream_socket(&mut self, family: Family) -> io::Result<RawFd>;

    /// Appends at most `len` bytes that have come to the buffer, as far as it has room, and returns how many; 0 is the end of the
    /// stream, so at least one byte is asked for and there is room for it. Unlike [`Op::Receive`] it takes no byte that was not
    /// asked for, and waits for none.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has come; else as recv(2).
    fn receive(&mut self, socket: RawFd, buf: &mut Buf, len: usize) -> io::Result<usize>;

    /// Sends what the socket takes at once and returns how much.
    ///
    /// # Errors
    /// `WouldBlock` when the socket is full; else as send(2). There is no SIGPIPE.
    fn send(&mut self, socket: RawFd, bytes: &[u8], more: More) -> io::Result<usize>;

    /// As [`Driver::send`], of two pieces, one behind the other.
    ///
    /// # Errors
    /// As [`Driver::send`].
    fn send_pair(&mut self, socket: RawFd, first: &[u8], second: &[u8], more: More) -> io::Result<usize>;

    /// Sends what the socket takes at once of a file region, without a copy through our memory. Every page of the region
    /// should be resident ([`Driver::read_resident`]), else the call waits for the disk. 0 means the end of the file.
    ///
    /// # Errors
    /// `WouldBlock` when the socket is full; else as sendfile(2).
    fn send_file(&mut self, socket: RawFd, file: RawFd, offset: u64, len: usize) -> io::Result<usize>;

    /// Moves at most `len` bytes of a file into an empty pipe, without a copy, and no more than [`Pipe::fill_len`]. Every page of
    /// the region should be resident ([`Driver::read_resident`]), else the call waits for the disk. 0 means the end of the file.
    ///
    /// # Errors
    /// As splice(2); the pipe is still empty.
    ///
    /// # Panics
    /// When the pipe is not empty.
    fn fill_pipe(&mut self, pipe: &mut Pipe, file: RawFd, offset: u64, len: usize) -> io::Result<usize>;

    /// Moves as much out of a pipe as the non-blocking socket takes at once, and returns how much; 0 if the pipe is empty.
    /// What is left stays in the pipe.
    ///
    /// # Errors
    /// `WouldBlock` when the socket is full; else as splice(2) and send(2). SIGPIPE has to be ignored, as Rust's runtime does.
    fn drain_pipe(&mut self, pipe: &mut Pipe, socket: RawFd, more: More) -> io::Result<usize>;

    /// Tells the kernel what is going to happen with `len` bytes of a file, 0 for all behind `offset`; see [`Advice`].
    ///
    /// # Errors
    /// As posix_fadvise(2). It is a hint: where it can't be taken, nothing is different.
    fn advise(&mut self, file: RawFd, offset: u64, len: u64, advice: Advice) -> io::Result<()>;

    /// Reads what is in the page cache and never waits for the disk (`RWF_NOWAIT`); a one-byte read is the honest probe of
    /// residency. 0 means the end of the file.
    ///
    /// # Errors
    /// `WouldBlock` when the first page is not resident; else as preadv2(2).
    fn read_resident(&mut self, file: RawFd, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Ends our side of a connection; the peer's may go on.
    ///
    /// # Errors
    /// As shutdown(2).
    fn shutdown_write(&mut self, socket: RawFd) -> io::Result<()>;

    /// Applies a setting.
    ///
    /// # Errors
    /// As setsockopt(2).
    fn set_option(&mut self, socket: RawFd, option: SocketOption) -> io::Result<()>;

    /// Who is at the other end, and where the connection arrived; `None` for what is not an internet address.
    ///
    /// # Errors
    /// As getpeername(2).
    fn peer(&mut self, socket: RawFd) -> io::Result<Option<std::net::SocketAddr>>;

    /// A second descriptor on the same file, close-on-exec, that other threads may use.
    ///
    /// # Errors
    /// When no descriptor is left.
    fn duplicate(&mut self, fd: RawFd) -> io::Result<OwnedFd>;

    /// The completion of a task's operation; frees the slot.
    fn poll(&mut self, slot: Slot, cx: &mut Context<'_>) -> Poll<Completion> {
        self.slots().poll(slot, cx)
    }

    /// Gives up interest in an operation and asks the kernel to end it. What it yields is dropped.
    fn abandon(&mut self, slot: Slot) {
        match self.slots().abandon(slot) {
            Abandoned::StillInFlight => self.cancel(slot),
            Abandoned::Done { orphan: Some(fd) } => self.close(fd, Closing::Aside),
            Abandoned::Done { orphan: None } => {}
        }
    }

    /// Closes a descriptor after everything that was submitted before.
    fn close(&mut self, fd: RawFd, closing: Closing) {
        if !self.slots().park_close(fd, closing) {
            self.submit(Op::Close { fd, closing }, Owner::Nobody);
        }
    }

    /// Closes what operations kept open that have completed.
    fn close_parked(&mut self) {
        for (fd, closing) in self.slots().take_ready_closes() {
            self.close(fd, closing);
        }
    }

    /// The oldest event of the worker's own operations. An event whose slot was given up is dropped.
    fn next_event(&mut self) -> Option<Event> {
        loop {
            match self.slots().take_event()? {
                Ok(event) => return Some(event),
                Err(Some(fd)) => self.close(fd, Closing::Aside),
                Err(None) => {}
            }
        }
    }
}
