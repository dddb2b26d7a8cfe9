//! The io_uring driver (io_uring(7)).
//!
//! One ring a worker, created on the worker's own thread with `SINGLE_ISSUER | DEFER_TASKRUN | COOP_TASKRUN` (kernel 6.1):
//! completions are then produced only inside our own `io_uring_enter`, in batches, without interrupts to this thread. Older
//! kernels get a plain ring.
//!
//! Rejected: multishot receive (it has had bugs, and one-shot receive that waits first costs the same for request and
//! reply); linked operations (a short read would cancel the send behind it); registered descriptors (no measurable gain
//! with a descriptor that is used a few times and closed).

mod poll;
mod zero_copy;

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::time::{Duration, Instant, SystemTime};

use io_uring::types::{self, Fd};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};

use self::poll::{Polls, Step};
use self::zero_copy::Sends;
use super::buf::{Buf, BufferPool};
use super::op::{Closing, DirectoryMode, Expect, Family, Op, Opening, Taken, WriteFrom};
use super::pipe::{Pipe, PipePool};
use super::slot::{Owner, Slot, SlotTable};
use super::{Advice, Driver, DriverCounts, FileStat, More, Setup, SocketOption, Wait, sys};

/// Submissions are handed over at the latest when this many wait.
const SUBMISSION_ENTRIES: u32 = 1024;
/// The kernel's bound on a completion queue (`IORING_MAX_CQ_ENTRIES`).
const MAX_COMPLETION_ENTRIES: usize = 65_536;
/// The group that receives pick their buffers from.
const RECEIVE_GROUP: u16 = 0;
/// `user_data` of what has no slot: cancellations.
const NO_SLOT: u64 = u64::MAX;
/// How long a teardown waits for the kernel to let go before it gives the memory up for lost.
const TEARDOWN: Duration = Duration::from_secs(5);
/// The mode of a new file, before the process's umask.
const NEW_FILE: u64 = 0o666;
/// The mode of a new directory that only this user may enter.
const PRIVATE_DIRECTORY: libc::mode_t = 0o700;
/// The mode of any other new directory, before the process's umask.
const PUBLIC_DIRECTORY: libc::mode_t = 0o777;
/// Receive only after the socket polls readable (`IORING_RECVSEND_POLL_FIRST`, io_uring_enter(2)).
const POLL_FIRST: u16 = 1;

/// One ring with its slots and buffers.
pub struct Uring {
    ring: IoUring,
    slots: SlotTable,
    polls: Polls,
    sends: Sends,
    receive_pool: BufferPool,
    transfer_pool: BufferPool,
    upload_pool: BufferPool,
    pipe_pool: PipePool,
    probe: Probe,
    multishot_accept: bool,
    counts: DriverCounts,
}

impl Uring {
    /// Makes a ring for the calling thread, which has to be the one that uses it.
    ///
    /// # Errors
    /// `Unsupported` when the kernel has no io_uring or lacks an operation, `PermissionDenied` when it is switched off for this
    /// process; else what mmap or the set-up answered.
    pub fn new(setup: &Setup) -> io::Result<Self> {
        Self::with_ring(build_ring(setup.in_flight)?, setup)
    }

    fn with_ring(ring: IoUring, setup: &Setup) -> io::Result<Self> {
        let probe = require_operations(&ring)?;
        let (blocks, len) = setup.receive_buffers;
        let receive_pool = BufferPool::provided(blocks, len)?;
        let (address, entries) = receive_pool.provided_ring().ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the ring's memory belongs to `receive_pool`. Once the driver is made, its fields' order drops that after
        // `ring`, and a teardown that fails leaks it. Should making fail below, nothing was received yet, and the kernel
        // holds pages that it has pinned itself.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, entries, RECEIVE_GROUP, 0)? };
        let (blocks, len) = setup.transfer_buffers;
        let transfer_pool = BufferPool::new(blocks, len)?;
        let (upload_blocks, upload_len) = setup.upload_buffers;
        let upload_pool = BufferPool::new(upload_blocks, upload_len)?;
        register_buffers(&ring, &transfer_pool);
        Ok(Uring {
            ring,
            slots: SlotTable::default(),
            polls: Polls::default(),
            sends: Sends::default(),
            receive_pool,
            transfer_pool,
            upload_pool,
            pipe_pool: PipePool::new(setup.pipes, len, Box::new(sys::KernelPipes::new())),
            probe,
            multishot_accept: multishot_accept_is_sound(&nix::sys::utsname::uname()?.release().to_string_lossy()),
            counts: DriverCounts::default(),
        })
    }

    fn push(&mut self, entry: &squeue::Entry) {
        self.counts.submissions += 1;
        loop {
            // SAFETY: everything that the entry points to (buffer, path, open_how, address) is owned by its slot until the terminal
            // completion, at addresses that do not move; a cancellation points to nothing.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            match self.ring.submit() {
                Ok(_) => {}
                // The completion queue is backed up: what has come is recorded first, which makes room.
                Err(error) if is_passing(&error) => self.collect(),
                Err(error) => panic!("driver invariant: io_uring_enter failed with work queued: {error}"),
            }
        }
    }

    fn entry(&mut self, slot: Slot) -> squeue::Entry {
        let multishot_accept = self.multishot_accept;
        let entry = match self.slots.op_mut(slot) {
            Op::Accept { listener } => {
                let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
                if multishot_accept {
                    opcode::AcceptMulti::new(Fd(*listener)).flags(flags).build()
                } else {
                    let null = std::ptr::null_mut();
                    opcode::Accept::new(Fd(*listener), null, std::ptr::null_mut()).flags(flags).build()
                }
            }
            Op::Connect { socket, to } => {
                let (address, len) = to.raw();
                opcode::Connect::new(Fd(*socket), address, len).build()
            }
            Op::Receive { socket, expect } => {
                let ioprio = match expect {
                    Expect::Now => 0,
                    Expect::Later => POLL_FIRST,
                };
                let receive =
                    opcode::Recv::new(Fd(*socket), std::ptr::null_mut(), self.receive_pool.block_len() as u32);
                let receive = receive.ioprio(ioprio).buf_group(RECEIVE_GROUP).build();
                receive.flags(squeue::Flags::BUFFER_SELECT)
            }
            Op::Read { file, offset, len, buf } => read_entry(*file, *offset, *len, buf),
            Op::FillPipe { file, offset, len, pipe } => fill_entry(*file, *offset, *len, pipe),
            Op::Write { file, offset, from } => write_entry(*file, *offset, from),
            Op::Sync { fd } => opcode::Fsync::new(Fd(*fd)).build(),
            Op::Allocate { file, len } => {
                opcode::Fallocate::new(Fd(*file), *len).mode(libc::FALLOC_FL_KEEP_SIZE).build()
            }
            Op::Link { entry, directory, name, .. } => {
                let (from, to) = (Fd(libc::AT_FDCWD), Fd(*directory));
                opcode::LinkAt::new(from, entry.as_ptr(), to, name.as_ptr()).flags(libc::AT_SYMLINK_FOLLOW).build()
            }
            Op::Rename { directory, name, to_directory, to_name, taken } => {
                let flags = match taken {
                    Taken::Refuse => libc::RENAME_NOREPLACE,
                    Taken::Replace => 0,
                };
                let (from, to) = (Fd(*directory), Fd(*to_directory));
                opcode::RenameAt::new(from, name.as_ptr(), to, to_name.as_ptr()).flags(flags).build()
            }
            Op::Unlink { directory, name } => opcode::UnlinkAt::new(Fd(*directory), name.as_ptr()).build(),
            Op::MakeDirectory { directory, name, mode } => {
                let mode = match mode {
                    DirectoryMode::Private => PRIVATE_DIRECTORY,
                    DirectoryMode::Public => PUBLIC_DIRECTORY,
                };
                opcode::MkDirAt::new(Fd(*directory), name.as_ptr()).mode(mode).build()
            }
            Op::SendZeroCopy { socket, buf, from } => {
                let bytes = &buf[*from..];
                // Without DONTWAIT the ring would wait for room; the worker does that with a poll.
                opcode::SendZc::new(Fd(*socket), bytes.as_ptr(), bytes.len() as u32)
                    .buf_index(buf.registered_index())
                    .flags(libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
                    .build()
            }
            Op::Open { root, path, opening, how } => {
                how.0 = open_how(*opening);
                opcode::OpenAt2::new(Fd(*root), path.as_ptr(), &raw const how.0).build()
            }
            Op::Poll { socket, interest } => opcode::PollAdd::new(Fd(*socket), poll::events(*interest)).build(),
            Op::Close { fd, closing } => {
                let close = opcode::Close::new(Fd(*fd)).build();
                match closing {
                    Closing::Inline => close,
                    Closing::Aside => close.flags(squeue::Flags::ASYNC),
                }
            }
        };
        entry.user_data(u64::from(slot.0))
    }

    /// Records every completion that has come, and submits what follows on them.
    fn collect(&mut self) {
        let mut sequels = Vec::new();
        let completions = self.ring.completion();
        for entry in completions {
            self.counts.completions += 1;
            if entry.user_data() != NO_SLOT {
                sequels.extend(record(&mut self.slots, &mut self.polls, &mut self.sends, &self.receive_pool, &entry));
            }
        }
        // Closing takes a new slot, maybe the number of one that ended in this very batch: what names a slot comes first.
        let mut orphans = Vec::new();
        for sequel in sequels {
            match sequel {
                Sequel::Close(fd) => orphans.push(fd),
                Sequel::Cancel(slot) => self.cancel(slot),
                Sequel::PollOn(slot) => self.poll_on(slot),
            }
        }
        for fd in orphans {
            self.close(fd, Closing::Aside);
        }
        self.close_parked();
    }

    /// Continues a poll as a multishot one.
    fn poll_on(&mut self, slot: Slot) {
        let Op::Poll { socket, interest } = self.slots.op_mut(slot) else { return };
        let entry = opcode::PollAdd::new(Fd(*socket), poll::events(*interest)).multi(true).build();
        self.push(&entry.user_data(u64::from(slot.0)));
    }

    /// Hands over what was submitted and waits. What interrupts a wait is no error; completions are collected anyway.
    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let result = match wait {
            Wait::No if self.has_nothing_to_do() => return Ok(()),
            Wait::No => self.ring.submit(),
            Wait::Forever => self.ring.submit_and_wait(1),
            Wait::Until(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let timespec = types::Timespec::from(left);
                self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&timespec))
            }
        };
        match result {
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Nothing to hand over, and the kernel has flagged nothing to fetch: a turn of busy tasks needs no system call.
    fn has_nothing_to_do(&mut self) -> bool {
        let submission = self.ring.submission();
        submission.is_empty() && !submission.taskrun() && !submission.cq_overflow()
    }

    /// Cancels what is in flight and waits until the kernel has let go of every slot.
    fn teardown(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + TEARDOWN;
        for fd in self.slots.drop_unclaimed() {
            self.close(fd, Closing::Aside);
        }
        for slot in self.slots.cancellable() {
            self.abandon(slot);
        }
        while self.slots.in_flight() > 0 {
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.enter(Wait::Until(deadline))?;
            self.collect();
        }
        Ok(())
    }
}

impl Driver for Uring {
    fn slots(&mut self) -> &mut SlotTable {
        &mut self.slots
    }

    fn submit(&mut self, op: Op, owner: Owner) -> Slot {
        let slot = self.slots.insert(op, owner);
        let entry = self.entry(slot);
        self.push(&entry);
        slot
    }

    fn cancel(&mut self, slot: Slot) {
        let entry = opcode::AsyncCancel::new(u64::from(slot.0)).build().user_data(NO_SLOT);
        self.push(&entry);
    }

    fn turn(&mut self, wait: Wait) -> io::Result<()> {
        self.enter(wait)?;
        self.collect();
        Ok(())
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::now()
    }

    fn receive_pool(&self) -> &BufferPool {
        &self.receive_pool
    }

    fn transfer_pool(&self) -> &BufferPool {
        &self.transfer_pool
    }

    fn upload_pool(&self) -> &BufferPool {
        &self.upload_pool
    }

    fn pipe_pool(&self) -> &PipePool {
        &self.pipe_pool
    }

    fn supports_ring_splice(&self) -> bool {
        self.probe.is_supported(opcode::Splice::CODE)
    }

    fn supports_zero_copy_send(&self) -> bool {
        self.probe.is_supported(opcode::SendZc::CODE)
    }

    fn counts(&self) -> DriverCounts {
        self.counts
    }

    fn stat(&mut self, fd: RawFd) -> io::Result<FileStat> {
        sys::stat(fd)
    }

    fn allow_waiting(&mut self, file: RawFd) -> io::Result<()> {
        sys::allow_waiting(file)
    }

    fn try_lock(&mut self, file: RawFd) -> io::Result<()> {
        sys::try_lock(file)
    }

    fn stream_socket(&mut self, family: Family) -> io::Result<RawFd> {
        sys::stream_socket(family)
    }

    fn receive(&mut self, socket: RawFd, buf: &mut Buf, len: usize) -> io::Result<usize> {
        let len = len.min(buf.spare_len());
        let received = sys::receive(socket, &mut buf.spare_mut()[..len])?;
        buf.advance(received);
        Ok(received)
    }

    fn send(&mut self, socket: RawFd, bytes: &[u8], more: More) -> io::Result<usize> {
        sys::send(socket, bytes, more)
    }

    fn send_pair(&mut self, socket: RawFd, first: &[u8], second: &[u8], more: More) -> io::Result<usize> {
        sys::send_pair(socket, first, second, more)
    }

    fn send_file(&mut self, socket: RawFd, file: RawFd, offset: u64, len: usize) -> io::Result<usize> {
        sys::send_file(socket, file, offset, len)
    }

    fn fill_pipe(&mut self, pipe: &mut Pipe, file: RawFd, offset: u64, len: usize) -> io::Result<usize> {
        let moved = sys::fill_pipe(pipe.write_end(), file, offset, pipe.fillable(len))?;
        pipe.filled(moved);
        Ok(moved)
    }

    fn drain_pipe(&mut self, pipe: &mut Pipe, socket: RawFd, more: More) -> io::Result<usize> {
        if pipe.is_empty() {
            return Ok(0);
        }
        // Exactly what is there: the kernel takes a longer length as a sign that more follows.
        let moved = sys::drain_pipe(pipe.read_end(), socket, pipe.len(), more)?;
        pipe.drained(moved);
        Ok(moved)
    }

    fn advise(&mut self, file: RawFd, offset: u64, len: u64, advice: Advice) -> io::Result<()> {
        sys::advise(file, offset, len, advice)
    }

    fn read_resident(&mut self, file: RawFd, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        sys::read_resident(file, offset, into)
    }

    fn shutdown_write(&mut self, socket: RawFd) -> io::Result<()> {
        sys::shutdown_write(socket)
    }

    fn set_option(&mut self, socket: RawFd, option: SocketOption) -> io::Result<()> {
        sys::set_option(socket, option)
    }

    fn peer(&mut self, socket: RawFd) -> io::Result<Option<std::net::SocketAddr>> {
        sys::peer(socket)
    }

    fn duplicate(&mut self, fd: RawFd) -> io::Result<OwnedFd> {
        sys::duplicate(fd)
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if let Err(error) = self.teardown() {
            tracing::error!(%error, in_flight = self.slots.in_flight(), "the kernel still holds buffers: leaving them mapped");
            self.receive_pool.leak();
            self.transfer_pool.leak();
            self.upload_pool.leak();
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

/// What a completion makes the driver submit.
enum Sequel {
    /// A descriptor that nobody owns.
    Close(RawFd),
    /// See [`Step::Cancel`].
    Cancel(Slot),
    /// See [`Step::GoOn`].
    PollOn(Slot),
}

fn record(
    slots: &mut SlotTable,
    polls: &mut Polls,
    sends: &mut Sends,
    receive_pool: &BufferPool,
    entry: &cqueue::Entry,
) -> Option<Sequel> {
    let slot = Slot(u32::try_from(entry.user_data()).expect("driver invariant: user_data is a slot"));
    let result = u32::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
    let received = *result.as_ref().unwrap_or(&0) as usize;
    let lease = cqueue::buffer_select(entry.flags()).map(|index| receive_pool.picked(index, received));
    let (wanted, more) = (slots.is_wanted(slot), cqueue::more(entry.flags()));
    let orphan = match (slots.op_mut(slot), &result) {
        (Op::Poll { interest, .. }, _) => match polls.step(slot, *interest, wanted, result, more) {
            Step::Over(result) => slots.complete(slot, result, None, false),
            Step::GoOn => return Some(Sequel::PollOn(slot)),
            Step::Cancel => return Some(Sequel::Cancel(slot)),
            Step::Wait => None,
        },
        (Op::Read { buf, .. }, Ok(n)) => {
            buf.advance(*n as usize);
            slots.complete(slot, result, None, false)
        }
        (Op::FillPipe { pipe, .. }, Ok(n)) => {
            pipe.filled(*n as usize);
            slots.complete(slot, result, None, false)
        }
        (Op::SendZeroCopy { .. }, _) => {
            let result = sends.step(slot, result, more, cqueue::notif(entry.flags()))?;
            slots.complete(slot, result, None, false)
        }
        _ => slots.complete(slot, result, lease, more),
    };
    orphan.map(Sequel::Close)
}

fn read_entry(file: RawFd, offset: u64, len: u32, buf: &mut Buf) -> squeue::Entry {
    let registered = buf.registered_index();
    let spare = buf.spare_mut();
    let len = len.min(spare.len() as u32);
    let target = spare.as_mut_ptr();
    match registered {
        Some(index) => opcode::ReadFixed::new(Fd(file), target, len, index).offset(place(offset)).build(),
        None => opcode::Read::new(Fd(file), target, len).offset(place(offset)).build(),
    }
}

/// Never from a registered buffer: a write into the page cache copies from those page by page, which costs a fifth more.
fn write_entry(file: RawFd, offset: u64, from: &WriteFrom) -> squeue::Entry {
    // The kernel takes 2 GiB at most, whatever it is asked for.
    let len = u32::try_from(from.len()).unwrap_or(u32::MAX);
    opcode::Write::new(Fd(file), from.as_ptr(), len).offset(place(offset)).build()
}

/// An offset as the kernel takes it. A negative number would be no place in the file but where the last operation ended; one
/// that is too large is refused.
fn place(offset: u64) -> u64 {
    offset.min(i64::MAX as u64)
}

fn fill_entry(file: RawFd, offset: u64, len: usize, pipe: &mut Pipe) -> squeue::Entry {
    let len = pipe.fillable(len) as u32;
    pipe.begin_fill();
    let splice = opcode::Splice::new(Fd(file), place(offset) as i64, Fd(pipe.write_end()), -1, len);
    splice.flags(sys::SPLICE_FLAGS).build()
}

fn open_how(opening: Opening) -> types::OpenHow {
    let beneath = |flags: i32| {
        let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
        types::OpenHow::new().flags((flags | libc::O_CLOEXEC) as u64).resolve(resolve)
    };
    match opening {
        Opening::Beneath => beneath(libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY),
        Opening::Anywhere => types::OpenHow::new().flags((libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) as u64),
        Opening::Writable => beneath(libc::O_RDWR | libc::O_NOFOLLOW | libc::O_NOCTTY),
        Opening::New => beneath(libc::O_RDWR | libc::O_CREAT | libc::O_EXCL).mode(NEW_FILE),
        Opening::Unnamed => beneath(libc::O_RDWR | libc::O_TMPFILE).mode(NEW_FILE),
    }
}

fn build_ring(in_flight: usize) -> io::Result<IoUring> {
    let plain = plain_ring(in_flight);
    let mut best = plain.clone();
    // The flag tells of deferred work, which only an enter that asks for events runs.
    best.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun().setup_taskrun_flag();
    match best.build(SUBMISSION_ENTRIES) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => plain.build(SUBMISSION_ENTRIES),
        result => result,
    }
}

fn plain_ring(in_flight: usize) -> io_uring::Builder {
    let completions =
        (4 * in_flight).next_power_of_two().clamp(2 * SUBMISSION_ENTRIES as usize, MAX_COMPLETION_ENTRIES);
    let mut builder = IoUring::builder();
    builder.setup_cqsize(completions as u32).setup_submit_all();
    builder
}

/// What the kernel can do, which is at least what every reply needs.
fn require_operations(ring: &IoUring) -> io::Result<Probe> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let required = [
        ("accept", opcode::Accept::CODE),
        ("connect", opcode::Connect::CODE),
        ("recv", opcode::Recv::CODE),
        ("read", opcode::Read::CODE),
        ("read_fixed", opcode::ReadFixed::CODE),
        ("openat2", opcode::OpenAt2::CODE),
        ("poll_add", opcode::PollAdd::CODE),
        ("close", opcode::Close::CODE),
        ("async_cancel", opcode::AsyncCancel::CODE),
        ("write", opcode::Write::CODE),
        ("fsync", opcode::Fsync::CODE),
        ("fallocate", opcode::Fallocate::CODE),
        ("linkat", opcode::LinkAt::CODE),
        ("renameat", opcode::RenameAt::CODE),
        ("unlinkat", opcode::UnlinkAt::CODE),
        ("mkdirat", opcode::MkDirAt::CODE),
    ];
    match required.iter().find(|(_, code)| !probe.is_supported(*code)) {
        None => Ok(probe),
        Some((name, _)) => {
            let text = format!("this kernel's io_uring lacks {name}: 5.19 or newer is needed");
            Err(io::Error::new(io::ErrorKind::Unsupported, text))
        }
    }
}

/// Registering spares the kernel a page walk on each read. It counts against `RLIMIT_MEMLOCK` for ordinary users, so it is a
/// gain and no need.
fn register_buffers(ring: &IoUring, pool: &BufferPool) {
    // SAFETY: the blocks belong to `pool`, which the driver drops after the ring and, when a teardown fails, not at all.
    match unsafe { ring.submitter().register_buffers(&pool.iovecs()) } {
        Ok(()) => pool.set_registered(),
        Err(error) => {
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(
                || tracing::info!(%error, "transfer buffers are not registered (RLIMIT_MEMLOCK): using plain ones"),
            );
        }
    }
}

/// Multishot accept together with `DEFER_TASKRUN` loses connections on kernels 6.6.1 to 6.8-rc; it came with 5.19.
fn multishot_accept_is_sound(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0_u32));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (5, 19) && !((6, 6)..(6, 9)).contains(&version)
}

/// Interrupted, timed out, or told to collect completions first: the next turn goes on.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN))
}

#[cfg(test)]
mod tests;
