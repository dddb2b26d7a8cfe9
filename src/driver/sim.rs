//! The seeded fake kernel: a driver for tests, in which everything that can go wrong does, and again if asked.
//!
//! ```text
//!   test ──▶ World (clock, chances, files, clients) ◀── Sim ◀── the server, through the contract
//! ```
//!
//! An operation waits until the world has what it needs, then for a time drawn from the seed; when that has passed, it is
//! carried out and completes. So completions come in any order, and a cancellation may win or lose its race. Virtual time
//! moves only in turns, to whatever comes first: a completion, an action of the test, the deadline. A wait that nothing can
//! end is a panic, and so is what would be a bug of ours: a descriptor that is closed twice, used after its close or of the
//! wrong kind, and turns without end that do nothing.
//!
//! Rejected: threads that play the kernel (nothing would replay), and mocks of single operations (they keep no contract).

mod files;
mod net;
mod pipes;
mod random;
mod world;

pub use self::files::Content;
pub use self::net::{Backend, Client, End};
pub use self::world::{Descriptors, Faults, World, explore};

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use self::files::{Directory, File, Node};
use self::net::{Connection, Sent, ServerSide};
use self::pipes::FakePipes;
use self::world::{FIRST_DESCRIPTOR, Object};
use super::buf::{Buf, BufferPool};
use super::op::{Closing, Expect, Family, Interest, Op, Opening, Taken};
use super::pipe::{Pipe, PipePool};
use super::slot::{Owner, Slot, SlotTable};
use super::{Advice, Driver, DriverCounts, FileKind, FileStat, More, Setup, SocketOption, Wait};

/// After this many turns that neither wait nor do anything, the server is taken to spin.
const FRUITLESS_TURNS: usize = 10_000;
/// How long, in real time, a wait that only another thread can end lasts before it counts as a deadlock.
const OTHER_THREADS: Duration = Duration::from_secs(2);

/// A driver over a [`World`].
pub struct Sim {
    world: Rc<World>,
    slots: SlotTable,
    receive_pool: BufferPool,
    transfer_pool: BufferPool,
    upload_pool: BufferPool,
    pipe_pool: PipePool,
    /// Receive buffers picked since the start: the kernel's place in the provided ring.
    picked: u16,
    submitted: Vec<Submission>,
    /// In the order of submission.
    flights: BTreeMap<u64, Flight>,
    counts: DriverCounts,
    fruitless_turns: usize,
}

enum Submission {
    Start(u64, Flight),
    Cancel(Slot),
}

/// An operation in flight.
struct Flight {
    slot: Slot,
    work: Work,
    phase: Phase,
    /// A cancellation came too late for what is due; nothing follows on that.
    cancelled: bool,
}

/// What an operation does, with the objects that it keeps alive.
enum Work {
    Accept(Rc<Object>),
    Connect(Rc<Object>, Weak<Backend>),
    Receive(Rc<Object>, Expect),
    Read(Rc<Object>),
    FillPipe(Rc<Object>),
    SendZeroCopy(Rc<Object>),
    /// The second half of a zero-copy send that took so many bytes: it is over when the client has them.
    Acknowledgement(Sent, u32),
    Open(Option<Rc<Object>>),
    /// Changes a file or a directory, or a name in two of them.
    Change(&'static str, Rc<Object>, Option<Rc<Object>>),
    Poll(Rc<Object>, Interest),
    /// A poll of a real descriptor: how other threads wake the worker.
    PollReal(RawFd),
    Close(RawFd),
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// For the world.
    Waiting,
    /// Completes at this virtual time, a while after it could.
    Due(Duration, Outcome),
}

impl Phase {
    fn soon(world: &World, outcome: Outcome) -> Self {
        Phase::Due(world.elapsed() + world.latency(), outcome)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    CarriedOut,
    Failed(i32),
}

struct Answer {
    result: io::Result<u32>,
    lease: Option<Buf>,
    more: bool,
}

impl Answer {
    fn last(result: io::Result<u32>) -> Self {
        Answer { result, lease: None, more: false }
    }
}

impl Sim {
    /// A driver of this world.
    ///
    /// # Panics
    /// When there is no memory for the pools.
    pub fn new(world: &Rc<World>, setup: &Setup) -> Self {
        let (receive_blocks, receive_len) = setup.receive_buffers;
        let (transfer_blocks, transfer_len) = setup.transfer_buffers;
        let (upload_blocks, upload_len) = setup.upload_buffers;
        Sim {
            world: world.clone(),
            slots: SlotTable::default(),
            receive_pool: BufferPool::provided(receive_blocks, receive_len).expect("memory"),
            transfer_pool: BufferPool::new(transfer_blocks, transfer_len).expect("memory"),
            upload_pool: BufferPool::new(upload_blocks, upload_len).expect("memory"),
            pipe_pool: PipePool::new(setup.pipes, transfer_len, Box::new(FakePipes(world.clone()))),
            picked: 0,
            submitted: Vec::new(),
            flights: BTreeMap::new(),
            counts: DriverCounts::default(),
            fruitless_turns: 0,
        }
    }

    /// Starts what was submitted, in order, as `io_uring_enter` does.
    fn hand_over(&mut self) {
        for submission in std::mem::take(&mut self.submitted) {
            match submission {
                Submission::Start(number, mut flight) => {
                    self.start(&mut flight);
                    self.flights.insert(number, flight);
                }
                Submission::Cancel(slot) => self.end_early(slot),
            }
        }
    }

    fn start(&mut self, flight: &mut Flight) {
        match flight.work {
            Work::Close(fd) => self.world.finish_close(fd),
            // Without POLL_FIRST the kernel takes a buffer first and looks for bytes then.
            Work::Receive(_, Expect::Now) if self.receive_pool.provided_next(self.picked).is_none() => {
                flight.phase = Phase::soon(&self.world, Outcome::Failed(libc::ENOBUFS));
            }
            _ => {}
        }
    }

    fn end_early(&mut self, slot: Slot) {
        let Some(flight) = self.flights.values_mut().find(|flight| flight.slot == slot) else { return };
        let lost = match (&flight.work, flight.phase) {
            (Work::Close(_) | Work::Acknowledgement(..), _) => true,
            (_, Phase::Waiting) => false,
            (_, Phase::Due(..)) => self.world.chance(|faults| faults.late_cancel),
        };
        flight.cancelled = true;
        if !lost {
            flight.phase = Phase::soon(&self.world, Outcome::Failed(libc::ECANCELED));
        }
    }

    /// Gives every operation that the world is ready for its time of completion.
    fn arm(&mut self) {
        for flight in self.flights.values_mut().filter(|flight| flight.phase == Phase::Waiting) {
            flight.phase = match flight.work {
                _ if !flight.work.is_ready() => Phase::Waiting,
                // When another thread acts is no part of the seed's story: it draws no number.
                Work::PollReal(_) => Phase::Due(self.world.elapsed(), Outcome::CarriedOut),
                _ => Phase::soon(&self.world, Outcome::CarriedOut),
            };
        }
    }

    /// Completes what is due, earliest first; whether there was anything.
    fn complete(&mut self) -> bool {
        let before = self.counts.completions;
        while let Some((number, mut flight)) = self.take_due() {
            let answer = match flight.phase {
                Phase::Due(_, Outcome::Failed(error)) => Some(Answer::last(Err(errno(error)))),
                _ => self.carry_out(&mut flight),
            };
            self.record(number, flight, answer);
        }
        self.counts.completions > before
    }

    /// Records an answer; without one, what the operation waited for has gone again, or has still to come.
    fn record(&mut self, number: u64, mut flight: Flight, answer: Option<Answer>) {
        let cancelled = || Answer::last(Err(errno(libc::ECANCELED)));
        let answer = answer.or_else(|| flight.cancelled.then(cancelled));
        let more = answer.as_ref().is_none_or(|answer| answer.more) && !flight.cancelled;
        let slot = flight.slot;
        if let Some(answer) = &answer {
            self.counts.completions += 1;
            if !matches!(flight.work, Work::PollReal(_)) {
                self.world.note(format_args!("{} #{number} {:?} more={more}", flight.work.name(), answer.result));
            }
        }
        if more {
            flight.phase = Phase::Waiting;
            self.flights.insert(number, flight);
        }
        if let Some(orphan) = answer.and_then(|answer| self.slots.complete(slot, answer.result, answer.lease, more)) {
            self.close(orphan, Closing::Aside);
        }
        self.close_parked();
    }

    fn take_due(&mut self) -> Option<(u64, Flight)> {
        let (at, number) = self.next_due()?;
        (at <= self.world.elapsed()).then(|| self.flights.remove_entry(&number)).flatten()
    }

    fn next_due(&self) -> Option<(Duration, u64)> {
        let due = |(number, flight): (&u64, &Flight)| match flight.phase {
            Phase::Due(at, _) => Some((at, *number)),
            Phase::Waiting => None,
        };
        self.flights.iter().filter_map(due).min()
    }

    fn carry_out(&mut self, flight: &mut Flight) -> Option<Answer> {
        let slot = flight.slot;
        for object in flight.work.looked_up_late() {
            assert!(self.world.is_open(object), "sim: a descriptor is closed before its {}", flight.work.name());
        }
        match &flight.work {
            Work::Accept(listener) => self.accept(listener),
            Work::Connect(socket, backend) => Some(Answer::last(match backend.upgrade() {
                Some(backend) => {
                    backend.connect(socket.unconnected());
                    Ok(0)
                }
                None => Err(errno(libc::ECONNREFUSED)),
            })),
            Work::Receive(socket, _) => self.receive(&mut socket.socket().get()),
            Work::Read(file) => Some(Answer::last(self.read(slot, file))),
            Work::FillPipe(file) => Some(Answer::last(self.fill(slot, file))),
            Work::SendZeroCopy(socket) => {
                let sent = match self.send_zero_copy(slot, socket) {
                    Ok(sent) => sent,
                    Err(error) => return Some(Answer::last(Err(error))),
                };
                *flight = Flight {
                    work: Work::Acknowledgement(socket.socket().sent_so_far(), sent),
                    cancelled: false,
                    ..*flight
                };
                None
            }
            Work::Acknowledgement(_, sent) => Some(Answer::last(Ok(*sent))),
            Work::Open(root) => Some(Answer::last(self.open(slot, root.as_deref()))),
            Work::Change(_, object, other) => Some(Answer::last(self.change(slot, object, other.as_deref()))),
            Work::Poll(socket, interest) => match socket.socket().get().events(*interest) {
                0 => None,
                events => Some(Answer::last(Ok(events))),
            },
            Work::PollReal(_) => Some(Answer::last(Ok(libc::POLLIN as u32))),
            Work::Close(_) => Some(Answer::last(Ok(0))),
        }
    }

    fn accept(&self, listener: &Object) -> Option<Answer> {
        let listener = listener.listener();
        if !listener.is_ready() {
            return None;
        }
        if !self.world.descriptor_is_free() {
            return Some(Answer::last(Err(errno(libc::EMFILE))));
        }
        let fd = self.world.add_descriptor(Object::Socket(listener.accept()?));
        // A multishot accept may end after any connection.
        let more = self.world.multishot_accept() && !self.world.chance(|_| 0.1);
        Some(Answer { result: Ok(fd as u32), lease: None, more })
    }

    fn receive(&mut self, connection: &mut Connection) -> Option<Answer> {
        if !connection.is_readable() {
            return None;
        }
        let Some(mut buf) = self.pick() else { return Some(Answer::last(Err(errno(libc::ENOBUFS)))) };
        let len = match connection.receivable() {
            Ok(len) => len.min(buf.spare_len()),
            Err(error) => return Some(Answer::last(Err(error))),
        };
        let len = self.world.perhaps_less(len, |faults| faults.short_read);
        buf.append(&connection.receive(len));
        let lease = (len > 0).then_some(buf);
        Some(Answer { result: Ok(len as u32), lease, more: false })
    }

    /// The next receive buffer, as the kernel takes it from the provided ring.
    fn pick(&mut self) -> Option<Buf> {
        if self.world.chance(|faults| faults.no_buffers) {
            return None;
        }
        let index = self.receive_pool.provided_next(self.picked)?;
        self.picked = self.picked.wrapping_add(1);
        Some(self.receive_pool.picked(index, 0))
    }

    fn read(&mut self, slot: Slot, file: &Object) -> io::Result<u32> {
        let mut file = file.file().borrow_mut();
        let Op::Read { offset, len, buf, .. } = self.slots.op_mut(slot) else { unreachable!("a read's slot") };
        if file.broken || self.world.chance(|faults| faults.read_error) {
            return Err(errno(libc::EIO));
        }
        let len = file.available(*offset, (*len as usize).min(buf.spare_len()));
        file.arrive(*offset, len, self.world.elapsed());
        file.bring(*offset, len, self.world.elapsed());
        let len = self.world.perhaps_less(len, |faults| faults.short_read);
        buf.spare_mut().iter_mut().zip(file.bytes(*offset, len)).for_each(|(to, byte)| *to = byte);
        buf.advance(len);
        Ok(len as u32)
    }

    /// Brings what a pipe is filled with into memory, however long that takes.
    fn fill(&mut self, slot: Slot, file: &Object) -> io::Result<u32> {
        let Op::FillPipe { offset, len, pipe, .. } = self.slots.op_mut(slot) else { unreachable!("a fill's slot") };
        let mut file = file.file().borrow_mut();
        if file.broken || self.world.chance(|faults| faults.read_error) {
            return Err(errno(libc::EIO));
        }
        file.bring(*offset, *len, self.world.elapsed());
        let len = pour(&self.world, &file, *offset, *len, pipe);
        pipe.filled(len);
        Ok(len as u32)
    }

    fn send_zero_copy(&mut self, slot: Slot, socket: &Object) -> io::Result<u32> {
        let Op::SendZeroCopy { buf, from, .. } = self.slots.op_mut(slot) else { unreachable!("a send's slot") };
        let bytes = buf[*from..].to_vec();
        let mut connection = socket.socket().get();
        let len = self.admit(&mut connection, bytes.len())?;
        connection.push(bytes[..len].iter().copied());
        self.world.note(format_args!("zero-copy send takes {len}"));
        Ok(len as u32)
    }

    fn open(&mut self, slot: Slot, root: Option<&Object>) -> io::Result<u32> {
        let Op::Open { path, opening, .. } = self.slots.op_mut(slot) else { unreachable!("an open's slot") };
        let (path, opening) = (path.as_bytes(), *opening);
        // The kernel looks for a number first, so that a file which can't be opened is not made either.
        if !self.world.descriptor_is_free() {
            return Err(errno(libc::EMFILE));
        }
        let node = match (opening, root) {
            (Opening::Anywhere, None) => self.world.resolve(path),
            (Opening::Anywhere, _) | (_, None) => {
                panic!("sim: a path is resolved beneath a directory, or anywhere from AT_FDCWD")
            }
            (Opening::Unnamed, _) if self.world.chance(|faults| faults.no_unnamed_files) => Err(libc::EOPNOTSUPP),
            (Opening::Unnamed, Some(root)) => root.directory().resolve(path).and_then(|node| match node {
                Node::Directory(_) => Ok(self.world.new_file()),
                Node::File(_) | Node::Fifo(_) => Err(libc::ENOTDIR),
            }),
            (Opening::New, Some(root)) => {
                let node = self.world.new_file();
                parent(root, path).and_then(|(parent, name)| parent.insert_new(name, node.clone()).map(|()| node))
            }
            (Opening::Beneath | Opening::Writable, Some(root)) => root.directory().resolve(path),
        };
        let node = node.map_err(errno)?;
        let kind = node.stat().kind;
        if opening == Opening::Anywhere && kind != FileKind::Directory {
            return Err(errno(libc::ENOTDIR));
        }
        if opening == Opening::Writable && kind == FileKind::Directory {
            return Err(errno(libc::EISDIR));
        }
        self.world.open(node).map(|fd| fd as u32)
    }

    /// Writes, reserves, syncs, or changes names.
    fn change(&mut self, slot: Slot, object: &Object, other: Option<&Object>) -> io::Result<u32> {
        if self.world.chance(|faults| faults.write_error) {
            return Err(errno(libc::EIO));
        }
        let (world, wall) = (&self.world, self.world.wall());
        let done = match (self.slots.op_mut(slot), other) {
            (Op::Write { offset, from, .. }, None) => {
                let len = world.perhaps_less(from.len(), |faults| faults.short_write);
                return match object.file().borrow_mut().write(*offset, &from[..len], wall) {
                    Ok(written) => Ok(written as u32),
                    Err(error) => Err(errno(error)),
                };
            }
            (Op::Allocate { len, .. }, None) => object.file().borrow_mut().allocate(*len),
            (Op::Sync { .. }, None) => Ok(()),
            (Op::Link { .. }, _) if world.chance(|faults| faults.no_links) => Err(libc::EPERM),
            (Op::Link { name, .. }, Some(directory)) => {
                directory.directory().insert_new(name.as_bytes(), Node::File(object.file().clone()))
            }
            (Op::Rename { name, to_name, taken, .. }, Some(to)) => {
                let replace = *taken == Taken::Replace;
                object.directory().rename(name.as_bytes(), to.directory(), to_name.as_bytes(), replace)
            }
            (Op::Unlink { name, .. }, None) => object.directory().unlink(name.as_bytes()),
            (Op::MakeDirectory { name, .. }, None) => {
                object.directory().insert_new(name.as_bytes(), world.new_directory())
            }
            (op, _) => panic!("sim: {op:?} changes nothing"),
        };
        done.map(|()| 0).map_err(errno)
    }

    /// Lets time pass until something can have come. Returns whether the turn goes on.
    fn pass_time(&mut self, deadline: Option<Instant>) -> bool {
        let deadline = deadline.map(|time| self.world.since_start(time));
        if deadline.is_some_and(|deadline| deadline <= self.world.elapsed()) {
            return false;
        }
        let due = self.next_due().map(|(at, _)| at);
        let next = [due, self.world.next_action_at(), deadline].into_iter().flatten().min();
        let patience = if next.is_some() { self.world.patience() } else { OTHER_THREADS };
        if self.other_threads_act(patience) {
            return true;
        }
        match next {
            Some(next) => self.world.advance_to(next),
            None => panic!("sim: deadlock: nothing can end this wait.\n{}", self.describe()),
        }
        true
    }

    fn other_threads_act(&self, patience: Duration) -> bool {
        let watched = self.flights.values().filter_map(|flight| match flight.work {
            Work::PollReal(fd) => Some(fd),
            _ => None,
        });
        is_readable(&watched.collect::<Vec<_>>(), patience)
    }

    /// A poll and a fill from its file may reach for the number again: no close comes before its owner has its answer or has
    /// given it up.
    #[track_caller]
    fn forbid_early_close(&self, fd: RawFd) {
        let submitted = self.submitted.iter().filter_map(|submission| match submission {
            Submission::Start(_, flight) => Some(flight),
            Submission::Cancel(_) => None,
        });
        let object = self.world.object(fd);
        for flight in self.flights.values().chain(submitted).filter(|flight| self.slots.is_wanted(flight.slot)) {
            if let Work::Poll(named, _) | Work::FillPipe(named) = &flight.work {
                assert!(
                    !Rc::ptr_eq(named, &object),
                    "sim: descriptor {fd} is closed before its {}",
                    flight.work.name()
                );
            }
        }
    }

    /// Notes a direct call.
    fn moved(&mut self, what: &str, result: io::Result<usize>) -> io::Result<usize> {
        self.world.note(format_args!("{what} {result:?}"));
        if result.as_ref().is_ok_and(|len| *len > 0) {
            self.fruitless_turns = 0;
        }
        result
    }

    fn watch_for_spinning(&mut self, fruitful: bool) {
        self.fruitless_turns = if fruitful { 0 } else { self.fruitless_turns + 1 };
        if self.fruitless_turns > FRUITLESS_TURNS {
            panic!("sim: {FRUITLESS_TURNS} turns in a row did nothing: something spins.\n{}", self.describe());
        }
    }

    fn describe(&self) -> String {
        let flights =
            self.flights.iter().map(|(number, flight)| format!("in flight: {} #{number}\n", flight.work.name()));
        format!("{}{}", flights.collect::<String>(), self.world.recent())
    }

    /// How much of `len` bytes a send takes.
    fn admit(&self, connection: &mut Connection, len: usize) -> io::Result<usize> {
        let len = connection.sendable(len)?;
        if self.world.chance(|faults| faults.full_socket) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(self.world.perhaps_less(len, |faults| faults.short_send))
    }

    /// How many of `len` bytes a direct call finds in a file; for those that are not in memory it waits.
    fn reach(&self, file: &mut File, offset: u64, len: usize) -> io::Result<usize> {
        if file.broken {
            return Err(errno(libc::EIO));
        }
        let len = file.available(offset, len);
        if file.resident(offset, len, self.world.elapsed()) < len {
            self.world.note_stall();
            file.bring(offset, len, self.world.elapsed());
        }
        Ok(len)
    }

    fn send_file_region(
        &self,
        connection: &mut Connection,
        file: &Object,
        offset: u64,
        len: usize,
    ) -> io::Result<usize> {
        let mut file = file.file().borrow_mut();
        let len = self.reach(&mut file, offset, len)?;
        if len == 0 {
            return Ok(0);
        }
        let len = self.admit(connection, len)?;
        connection.push(file.bytes(offset, len));
        Ok(len)
    }
}

impl Driver for Sim {
    fn slots(&mut self) -> &mut SlotTable {
        &mut self.slots
    }

    #[track_caller]
    fn submit(&mut self, mut op: Op, owner: Owner) -> Slot {
        let accept_by_task = matches!((&op, &owner), (Op::Accept { .. }, Owner::Task(_)));
        assert!(!accept_by_task, "sim: an accept may complete many times, a task waits for one completion");
        self.counts.submissions += 1;
        self.fruitless_turns = 0;
        if let Op::Close { fd, .. } = op {
            self.forbid_early_close(fd);
        }
        if let Op::FillPipe { len, pipe, .. } = &mut op {
            *len = pipe.fillable(*len);
            pipe.begin_fill();
        }
        let work = Work::new(&self.world, &op);
        let slot = self.slots.insert(op, owner);
        let flight = Flight { slot, work, phase: Phase::Waiting, cancelled: false };
        self.submitted.push(Submission::Start(self.counts.submissions, flight));
        slot
    }

    fn cancel(&mut self, slot: Slot) {
        self.counts.submissions += 1;
        self.submitted.push(Submission::Cancel(slot));
    }

    fn turn(&mut self, wait: Wait) -> io::Result<()> {
        self.hand_over();
        loop {
            let acted = self.world.act();
            self.arm();
            let completed = self.complete();
            let goes_on = match wait {
                Wait::No => {
                    self.world.spend_turn();
                    self.watch_for_spinning(acted || completed);
                    false
                }
                _ if acted || completed => false,
                Wait::Until(deadline) => self.pass_time(Some(deadline)),
                Wait::Forever => self.pass_time(None),
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    fn now(&self) -> Instant {
        self.world.now()
    }

    fn wall_clock(&self) -> SystemTime {
        self.world.wall_clock()
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
        true
    }

    fn supports_zero_copy_send(&self) -> bool {
        true
    }

    fn counts(&self) -> DriverCounts {
        self.counts
    }

    #[track_caller]
    fn stat(&mut self, fd: RawFd) -> io::Result<FileStat> {
        match &*self.world.object(fd) {
            Object::Entry(node) => Ok(node.stat()),
            other => panic!("sim: stat of {other:?}"),
        }
    }

    #[track_caller]
    fn allow_waiting(&mut self, file: RawFd) -> io::Result<()> {
        self.stat(file).map(|_| ())
    }

    #[track_caller]
    fn try_lock(&mut self, file: RawFd) -> io::Result<()> {
        let object = self.world.object(file);
        let mut locked = object.file().borrow_mut();
        match locked.locked_by {
            Some(owner) if owner != file => Err(io::ErrorKind::WouldBlock.into()),
            _ => {
                locked.locked_by = Some(file);
                Ok(())
            }
        }
    }

    fn stream_socket(&mut self, _family: Family) -> io::Result<RawFd> {
        if !self.world.descriptor_is_free() {
            return Err(errno(libc::EMFILE));
        }
        Ok(self.world.add_descriptor(Object::Socket(ServerSide::unconnected())))
    }

    #[track_caller]
    fn receive(&mut self, socket: RawFd, buf: &mut Buf, len: usize) -> io::Result<usize> {
        assert!(len.min(buf.spare_len()) > 0, "sim: a receive of no bytes would pass for the end of the stream");
        let object = self.world.object(socket);
        let mut connection = object.socket().get();
        let received = match connection.receivable() {
            Ok(0) if !connection.has_ended() => Err(io::ErrorKind::WouldBlock.into()),
            Ok(there) => {
                let len = self.world.perhaps_less(there.min(len).min(buf.spare_len()), |faults| faults.short_read);
                buf.append(&connection.receive(len));
                Ok(len)
            }
            Err(error) => Err(error),
        };
        self.moved("receive", received)
    }

    fn send(&mut self, socket: RawFd, bytes: &[u8], _more: More) -> io::Result<usize> {
        let object = self.world.object(socket);
        let mut connection = object.socket().get();
        let admitted = self.admit(&mut connection, bytes.len());
        if let Ok(len) = admitted {
            connection.push(bytes[..len].iter().copied());
        }
        self.moved("send", admitted)
    }

    #[track_caller]
    fn send_pair(&mut self, socket: RawFd, first: &[u8], second: &[u8], more: More) -> io::Result<usize> {
        self.send(socket, &[first, second].concat(), more)
    }

    fn send_file(&mut self, socket: RawFd, file: RawFd, offset: u64, len: usize) -> io::Result<usize> {
        let (socket, file) = (self.world.object(socket), self.world.object(file));
        let sent = self.send_file_region(&mut socket.socket().get(), &file, offset, len);
        self.moved("send_file", sent)
    }

    #[track_caller]
    fn fill_pipe(&mut self, pipe: &mut Pipe, file: RawFd, offset: u64, len: usize) -> io::Result<usize> {
        let object = self.world.object(file);
        let mut file = object.file().borrow_mut();
        let reached = self.reach(&mut file, offset, pipe.fillable(len));
        let poured = reached.map(|len| pour(&self.world, &file, offset, len, pipe));
        if let Ok(len) = poured {
            pipe.filled(len);
        }
        self.moved("fill_pipe", poured)
    }

    #[track_caller]
    fn drain_pipe(&mut self, pipe: &mut Pipe, socket: RawFd, _more: More) -> io::Result<usize> {
        let (socket, ends) = (self.world.object(socket), self.world.object(pipe.read_end()));
        assert_eq!(ends.pipe().len(), pipe.len(), "sim: a pipe holds what it is known to hold");
        if pipe.is_empty() {
            return Ok(0);
        }
        let mut connection = socket.socket().get();
        let admitted = self.admit(&mut connection, pipe.len());
        if let Ok(len) = admitted {
            connection.push(ends.pipe().take(len).into_iter());
            pipe.drained(len);
        }
        self.moved("drain_pipe", admitted)
    }

    #[track_caller]
    fn advise(&mut self, file: RawFd, offset: u64, len: u64, advice: Advice) -> io::Result<()> {
        let object = self.world.object(file);
        let mut file = object.file().borrow_mut();
        let end = if len == 0 { 0 } else { offset.saturating_add(len) };
        match advice {
            Advice::WillNeed => {
                let len = file.available(offset, if len == 0 { usize::MAX } else { len as usize });
                file.bring(offset, len, self.world.elapsed() + self.world.latency());
            }
            Advice::DontNeed => file.forget(offset..end),
        }
        self.world.note(format_args!("advise {advice:?}"));
        Ok(())
    }

    #[track_caller]
    fn read_resident(&mut self, file: RawFd, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let object = self.world.object(file);
        let mut file = object.file().borrow_mut();
        if file.broken {
            return Err(errno(libc::EIO));
        }
        let len = file.resident(offset, into.len(), self.world.elapsed());
        if len == 0 && file.available(offset, into.len()) > 0 {
            file.bring(offset, into.len(), self.world.elapsed() + self.world.latency());
            return Err(io::ErrorKind::WouldBlock.into());
        }
        into.iter_mut().zip(file.bytes(offset, len)).for_each(|(to, byte)| *to = byte);
        self.moved("read_resident", Ok(len))
    }

    #[track_caller]
    fn shutdown_write(&mut self, socket: RawFd) -> io::Result<()> {
        let result = self.world.object(socket).socket().get().shutdown_write();
        self.world.note(format_args!("shutdown_write {result:?}"));
        result
    }

    #[track_caller]
    fn set_option(&mut self, socket: RawFd, option: SocketOption) -> io::Result<()> {
        let object = self.world.object(socket);
        match option {
            SocketOption::ResetOnClose => object.socket().get().reset_on_close = true,
            SocketOption::Cork(true) => object.socket().get().cork(),
            SocketOption::Cork(false) => object.socket().get().uncork(),
            SocketOption::MaxPacingRate(rate) => object.socket().get().max_pacing_rate = rate,
            SocketOption::ReceiveLowWater(bytes) => object.socket().get().receive_low_water = bytes as usize,
            // These a listener takes, too, for the connections that it accepts.
            SocketOption::NoDelay | SocketOption::NotSentLowWater(_) | SocketOption::KeepAlive { .. } => {}
            SocketOption::UserTimeout(milliseconds) => object.socket().get().user_timeout_ms = milliseconds,
        }
        Ok(())
    }

    #[track_caller]
    fn peer(&mut self, socket: RawFd) -> io::Result<Option<SocketAddr>> {
        self.world.object(socket).socket().get().peer().map(Some)
    }

    #[track_caller]
    fn duplicate(&mut self, fd: RawFd) -> io::Result<OwnedFd> {
        self.world.mirror(self.world.object(fd).directory())
    }
}

impl Drop for Sim {
    /// As the real teardown: cancels what is in flight and waits until nothing is.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for fd in self.slots.drop_unclaimed() {
            self.close(fd, Closing::Aside);
        }
        for slot in self.slots.cancellable() {
            self.abandon(slot);
        }
        while self.slots.in_flight() > 0 {
            // It never fails.
            let _ = self.turn(Wait::Forever);
        }
    }
}

impl Work {
    /// Finds the objects of an operation now, in its submitter's call, so that a wrong descriptor shows where it was used.
    #[track_caller]
    fn new(world: &World, op: &Op) -> Self {
        match op {
            Op::Accept { listener } => Work::Accept(checked(world.object(*listener), Object::listener)),
            Op::Connect { socket, to } => {
                Work::Connect(checked(world.object(*socket), Object::unconnected), world.backend(to))
            }
            Op::Receive { socket, expect } => Work::Receive(checked(world.object(*socket), Object::socket), *expect),
            Op::Read { file, .. } => Work::Read(checked(world.object(*file), Object::file)),
            Op::FillPipe { file, .. } => Work::FillPipe(checked(world.object(*file), Object::file)),
            Op::SendZeroCopy { socket, .. } => Work::SendZeroCopy(checked(world.object(*socket), Object::socket)),
            Op::Open { root: libc::AT_FDCWD, .. } => Work::Open(None),
            Op::Open { root, .. } => Work::Open(Some(checked(world.object(*root), Object::directory))),
            Op::Write { file, .. } => Work::Change("write", checked(world.object(*file), Object::file), None),
            Op::Allocate { file, .. } => Work::Change("allocate", checked(world.object(*file), Object::file), None),
            Op::Sync { fd } => Work::Change("sync", world.object(*fd), None),
            Op::Link { file, directory, .. } => {
                let (file, directory) = (world.object(*file), world.object(*directory));
                Work::Change("link", checked(file, Object::file), Some(checked(directory, Object::directory)))
            }
            Op::Rename { directory, to_directory, .. } => {
                let (from, to) = (world.object(*directory), world.object(*to_directory));
                Work::Change("rename", checked(from, Object::directory), Some(checked(to, Object::directory)))
            }
            Op::Unlink { directory, .. } => {
                Work::Change("unlink", checked(world.object(*directory), Object::directory), None)
            }
            Op::MakeDirectory { directory, .. } => {
                Work::Change("mkdir", checked(world.object(*directory), Object::directory), None)
            }
            Op::Poll { socket, interest: Interest::Readable } if *socket < FIRST_DESCRIPTOR => Work::PollReal(*socket),
            Op::Poll { socket, interest } => Work::Poll(checked(world.object(*socket), Object::socket), *interest),
            Op::Close { fd, .. } => {
                world.begin_close(*fd);
                Work::Close(*fd)
            }
        }
    }

    fn is_ready(&self) -> bool {
        match self {
            Work::Accept(listener) => listener.listener().is_ready(),
            Work::Connect(_, backend) => backend.upgrade().is_none_or(|backend| backend.answers()),
            Work::Receive(socket, _) => socket.socket().get().is_readable(),
            Work::Poll(socket, interest) => socket.socket().get().events(*interest) != 0,
            Work::PollReal(fd) => is_readable(&[*fd], Duration::ZERO),
            Work::Acknowledgement(sent, _) => sent.is_over(),
            Work::Read(_) | Work::FillPipe(_) | Work::SendZeroCopy(_) | Work::Open(_) | Work::Close(_) => true,
            Work::Change(..) => true,
        }
    }

    /// What the kernel looks up by its number only now that it gets to the operation.
    fn looked_up_late(&self) -> impl Iterator<Item = &Rc<Object>> {
        let (object, other) = match self {
            Work::Change("write", ..) => (None, None),
            Work::Change(_, object, other) => (Some(object), other.as_ref()),
            Work::Open(root) => (root.as_ref(), None),
            _ => (None, None),
        };
        object.into_iter().chain(other)
    }

    fn name(&self) -> &'static str {
        match self {
            Work::Accept(_) => "accept",
            Work::Connect(..) => "connect",
            Work::Receive(..) => "receive",
            Work::Read(_) => "read",
            Work::FillPipe(_) => "fill",
            Work::SendZeroCopy(_) => "zero-copy send",
            Work::Acknowledgement(..) => "acknowledgement",
            Work::Open(_) => "open",
            Work::Change(name, ..) => name,
            Work::Poll(..) => "poll",
            Work::PollReal(_) => "poll of a real descriptor",
            Work::Close(_) => "close",
        }
    }
}

/// The directory that the last name of a path is in, and the name.
fn parent<'p>(root: &Object, path: &'p [u8]) -> Result<(Rc<Directory>, &'p [u8]), i32> {
    let at = path.iter().rposition(|byte| *byte == b'/');
    let (parent, name) = at.map_or((&b"."[..], path), |at| (&path[..at], &path[at + 1..]));
    match root.directory().resolve(parent)? {
        Node::Directory(directory) => Ok((directory, name)),
        Node::File(_) | Node::Fifo(_) => Err(libc::ENOTDIR),
    }
}

/// Moves at most `len` bytes of a file into an empty pipe, as many as it has room for.
fn pour(world: &World, file: &File, offset: u64, len: usize, pipe: &Pipe) -> usize {
    let object = world.object(pipe.write_end());
    let len = object.pipe().room(offset, file.available(offset, len));
    let len = world.perhaps_less(len, |faults| faults.short_read);
    object.pipe().push(file.bytes(offset, len));
    len
}

#[track_caller]
fn checked<T>(object: Rc<Object>, kind: fn(&Object) -> &T) -> Rc<Object> {
    kind(&object);
    object
}

/// Whether one of these real descriptors becomes readable within this real time.
fn is_readable(fds: &[RawFd], patience: Duration) -> bool {
    // SAFETY: the numbers are only polled, and whoever submitted the poll keeps them open while it is in flight.
    let borrowed = fds.iter().map(|fd| unsafe { BorrowedFd::borrow_raw(*fd) });
    let mut polled: Vec<PollFd<'_>> = borrowed.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    !polled.is_empty() && nix::poll::poll(&mut polled, timeout).is_ok_and(|ready| ready > 0)
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

#[cfg(test)]
mod tests;
