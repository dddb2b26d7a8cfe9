//! The table of operations in flight.
//!
//! ```text
//!             submit                     terminal completion                 poll
//!   (caller) ────────▶ InFlight(owner) ─────────────────────▶ Completed ────────▶ (caller)
//!                        │ abandon                               │ abandon
//!                        ▼                                       ▼
//!                      InFlight(Nobody) ──terminal──▶ resources dropped, new descriptors closed
//! ```
//!
//! A slot owns its [`Op`] and with it all memory that the kernel may touch; only the *terminal* completion gives it up. A
//! slot's number is the `user_data` of its submission, and it is not used again before that completion, so a late answer can
//! never reach a stranger.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::buf::Buf;
use super::op::{Closing, Op};

/// The number of an operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(pub(super) u32);

/// Names what a completion is for, in the worker's own terms; opaque to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub u64);

/// Who is told when an operation completes.
#[derive(Debug)]
pub enum Owner {
    /// A future that polls the slot; its waker, once it has polled.
    Task(Option<Waker>),
    /// The worker's loop, which finds it among the events.
    Worker(Token),
    /// Nobody: what the operation yields is dropped.
    Nobody,
}

/// What the kernel answered.
#[derive(Debug)]
pub struct Completion {
    /// The count, descriptor or event mask of the operation, or its error.
    pub result: io::Result<u32>,
    /// The buffer that a receive picked, filled with what came.
    pub lease: Option<Buf>,
    /// The operation with all that it owned; `None` while a multishot operation goes on.
    pub op: Option<Op>,
}

/// A completion for the worker's loop.
#[derive(Debug)]
pub struct Event {
    /// As given at submission.
    pub token: Token,
    /// The slot it came from; free unless the operation goes on.
    pub slot: Slot,
    /// The answer.
    pub completion: Completion,
}

/// All slots of one driver, and the events that have not been taken yet.
#[derive(Debug, Default)]
pub struct SlotTable {
    entries: Slab<Entry>,
    events: VecDeque<Event>,
    in_flight: usize,
    late: Late,
}

/// Descriptors that operations in flight will be looked up by, and closes that wait for these operations.
#[derive(Debug, Default)]
struct Late {
    /// How many operations name each.
    named: BTreeMap<RawFd, usize>,
    parked: Vec<(RawFd, Closing)>,
    ready: Vec<(RawFd, Closing)>,
}

impl Late {
    fn begin(&mut self, op: &Op) {
        for fd in op.late_descriptors().into_iter().flatten().filter(|fd| *fd >= 0) {
            *self.named.entry(fd).or_default() += 1;
        }
    }

    fn end(&mut self, op: &Op) {
        for fd in op.late_descriptors().into_iter().flatten().filter(|fd| *fd >= 0) {
            let Some(count) = self.named.get_mut(&fd) else { continue };
            *count -= 1;
            if *count == 0 {
                self.named.remove(&fd);
                self.ready.extend(self.parked.extract_if(.., |(parked, _)| *parked == fd));
            }
        }
    }
}

#[derive(Debug)]
enum Entry {
    /// The kernel has it.
    InFlight { op: Op, owner: Owner },
    /// The task has not fetched it yet.
    Completed(Completion),
    /// Its terminal event stands in the queue. The number stays taken until the event is, so that the worker can give up a
    /// slot without knowing whether it has completed.
    Queued { wanted: bool },
}

impl SlotTable {
    /// Takes the operation in; the driver then hands it to the kernel under this number.
    pub(super) fn insert(&mut self, op: Op, owner: Owner) -> Slot {
        self.in_flight += 1;
        self.late.begin(&op);
        Slot(self.entries.insert(Entry::InFlight { op, owner }) as u32)
    }

    /// Keeps a close back, if an operation in flight will still look the descriptor up; whether it does.
    pub(super) fn park_close(&mut self, fd: RawFd, closing: Closing) -> bool {
        let is_named = self.late.named.contains_key(&fd);
        if is_named {
            self.late.parked.push((fd, closing));
        }
        is_named
    }

    /// The closes that nothing keeps back any more.
    pub(super) fn take_ready_closes(&mut self) -> Vec<(RawFd, Closing)> {
        std::mem::take(&mut self.late.ready)
    }

    /// The operation of a slot, while it is in flight.
    pub(super) fn op_mut(&mut self, slot: Slot) -> &mut Op {
        match &mut self.entries[slot.0 as usize] {
            Entry::InFlight { op, .. } => op,
            Entry::Completed(_) | Entry::Queued { .. } => panic!("driver invariant: slot {} has completed", slot.0),
        }
    }

    /// Whether the kernel has it and somebody waits for its answer.
    pub(super) fn is_wanted(&self, slot: Slot) -> bool {
        let entry = self.entries.get(slot.0 as usize);
        matches!(entry, Some(Entry::InFlight { owner: Owner::Task(_) | Owner::Worker(_), .. }))
    }

    /// Records an answer. `more` means that the operation goes on and its slot with it. Returns a descriptor that nobody
    /// owns any more and that the driver has to close.
    ///
    /// # Panics
    /// When the slot is not in flight: the kernel and the driver disagree, and going on would corrupt memory.
    #[must_use]
    pub(super) fn complete(
        &mut self,
        slot: Slot,
        result: io::Result<u32>,
        lease: Option<Buf>,
        more: bool,
    ) -> Option<RawFd> {
        let entry = &mut self.entries[slot.0 as usize];
        let Entry::InFlight { op, owner } = entry else {
            panic!("driver invariant: a completion for slot {}, which has completed before", slot.0)
        };
        if !more {
            self.late.end(op);
        }
        let after = match (&mut *owner, more) {
            (Owner::Nobody, true) => return orphan(op, &result),
            (Owner::Worker(token), true) => {
                let completion = Completion { result, lease, op: None };
                self.events.push_back(Event { token: *token, slot, completion });
                return None;
            }
            (Owner::Task(_), true) => panic!("driver invariant: a task waits for one completion only"),
            // Events of an accept that was given up may still stand in the queue; its number stays taken until they don't.
            (Owner::Nobody, false) if op.yields_descriptor() && self.events.iter().any(|event| event.slot == slot) => {
                Entry::Queued { wanted: false }
            }
            (Owner::Nobody, false) => {
                let orphan = orphan(op, &result);
                self.in_flight -= 1;
                self.entries.remove(slot.0 as usize);
                return orphan;
            }
            (Owner::Worker(_), false) => Entry::Queued { wanted: true },
            (Owner::Task(_), false) => Entry::Completed(Completion { result: Ok(0), lease: None, op: None }),
        };
        self.in_flight -= 1;
        let Entry::InFlight { op, owner } = std::mem::replace(entry, after) else { return None };
        let completion = Completion { result, lease, op: Some(op) };
        match owner {
            Owner::Worker(token) => self.events.push_back(Event { token, slot, completion }),
            Owner::Task(waker) => {
                *entry = Entry::Completed(completion);
                waker.into_iter().for_each(Waker::wake);
            }
            Owner::Nobody => self.events.push_back(Event { token: Token(0), slot, completion }),
        }
        None
    }

    /// The completion of a task's slot; frees the slot.
    pub fn poll(&mut self, slot: Slot, cx: &mut Context<'_>) -> Poll<Completion> {
        match &mut self.entries[slot.0 as usize] {
            Entry::InFlight { owner, .. } => {
                match owner {
                    Owner::Task(Some(waker)) => waker.clone_from(cx.waker()),
                    _ => *owner = Owner::Task(Some(cx.waker().clone())),
                }
                Poll::Pending
            }
            _ => match self.entries.remove(slot.0 as usize) {
                Entry::Completed(completion) => Poll::Ready(completion),
                _ => panic!("driver invariant: slot {} is the worker's, not a task's", slot.0),
            },
        }
    }

    /// Gives up interest: what the slot holds, or will hold, is dropped.
    pub(super) fn abandon(&mut self, slot: Slot) -> Abandoned {
        match &mut self.entries[slot.0 as usize] {
            Entry::InFlight { owner, .. } => {
                *owner = Owner::Nobody;
                Abandoned::StillInFlight
            }
            Entry::Completed(completion) => {
                let orphan = completion.op.as_ref().and_then(|op| orphan(op, &completion.result));
                self.entries.remove(slot.0 as usize);
                Abandoned::Done { orphan }
            }
            Entry::Queued { wanted } => {
                *wanted = false;
                Abandoned::Done { orphan: None }
            }
        }
    }

    /// Takes the oldest event; a terminal one frees its slot. `Err` is an event that nobody wants any more, with a descriptor
    /// that is left to close.
    pub(super) fn take_event(&mut self) -> Option<Result<Event, Option<RawFd>>> {
        let event = self.events.pop_front()?;
        let key = event.slot.0 as usize;
        let wanted = match &self.entries[key] {
            Entry::Queued { wanted } => *wanted,
            Entry::InFlight { owner, .. } => !matches!(owner, Owner::Nobody),
            Entry::Completed(_) => panic!("driver invariant: slot {key} is a task's, not the worker's"),
        };
        if event.completion.op.is_some() {
            self.entries.remove(key);
        }
        Some(if wanted { Ok(event) } else { Err(unwanted(&event)) })
    }

    /// How many events wait to be taken.
    pub fn events(&self) -> usize {
        self.events.len()
    }

    /// How many operations the kernel still holds.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// For a teardown: drops every answer that nobody has fetched and returns the descriptors among them, to be closed.
    pub(super) fn drop_unclaimed(&mut self) -> Vec<RawFd> {
        let mut orphans = Vec::new();
        while let Some(event) = self.take_event() {
            orphans.extend(event.map_or_else(|orphan| orphan, |event| unwanted(&event)));
        }
        self.entries.retain(|_, entry| match entry {
            Entry::Completed(Completion { result, op, .. }) => {
                orphans.extend(op.as_ref().and_then(|op| orphan(op, result)));
                false
            }
            _ => true,
        });
        orphans
    }

    /// The slots that a teardown ends early: all that the kernel still holds but closes, and names that are taken away, which
    /// have to run.
    pub(super) fn cancellable(&self) -> Vec<Slot> {
        let cancellable = |(key, entry): (usize, &Entry)| match entry {
            Entry::InFlight { op: Op::Close { .. } | Op::Unlink { .. }, .. }
            | Entry::Completed(_)
            | Entry::Queued { .. } => None,
            Entry::InFlight { .. } => Some(Slot(key as u32)),
        };
        self.entries.iter().filter_map(cancellable).collect()
    }
}

/// What became of a slot that nobody waits for any more.
pub(super) enum Abandoned {
    /// The kernel still has it: ask it to cancel.
    StillInFlight,
    /// It had completed; a descriptor that it yielded is left to close.
    Done { orphan: Option<RawFd> },
}

/// Only an accept goes on after an event, so an event without its operation yields a descriptor.
fn unwanted(event: &Event) -> Option<RawFd> {
    let yields = event.completion.op.as_ref().is_none_or(Op::yields_descriptor);
    event.completion.result.as_ref().ok().filter(|_| yields).map(|fd| *fd as RawFd)
}

fn orphan(op: &Op, result: &io::Result<u32>) -> Option<RawFd> {
    match result {
        Ok(fd) if op.yields_descriptor() => Some(*fd as RawFd),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use bytes::Bytes;

    use super::super::op::{Closing, Expect, Interest, OpenHow, Opening, Taken, WriteFrom};
    use super::*;

    fn poll_once(table: &mut SlotTable, slot: Slot) -> Poll<Completion> {
        table.poll(slot, &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_task_gets_its_operation_back_and_the_slot_is_free() {
        let mut table = SlotTable::default();
        let slot = table.insert(Op::Receive { socket: 7, expect: Expect::Now }, Owner::Task(None));
        assert!(poll_once(&mut table, slot).is_pending());
        assert_eq!(table.complete(slot, Ok(5), None, false), None);
        let Poll::Ready(completion) = poll_once(&mut table, slot) else { panic!("pending") };
        assert_eq!(completion.result.unwrap(), 5);
        assert!(matches!(completion.op, Some(Op::Receive { socket: 7, .. })));
        assert_eq!((table.in_flight(), table.entries.len()), (0, 0));
    }

    #[test]
    fn a_descriptor_that_nobody_waits_for_is_handed_out_to_be_closed() {
        let mut table = SlotTable::default();
        let late = table.insert(Op::Accept { listener: 3 }, Owner::Task(None));
        assert!(matches!(table.abandon(late), Abandoned::StillInFlight));
        assert_eq!(table.complete(late, Ok(42), None, false), Some(42));

        let early = table.insert(Op::Accept { listener: 3 }, Owner::Task(None));
        assert_eq!(table.complete(early, Ok(43), None, false), None);
        assert!(matches!(table.abandon(early), Abandoned::Done { orphan: Some(43) }));

        let poll = table.insert(Op::Poll { socket: 3, interest: Interest::Writable }, Owner::Nobody);
        assert_eq!(table.complete(poll, Ok(4), None, false), None, "an event mask is no descriptor");
        assert_eq!((table.in_flight(), table.entries.len()), (0, 0));
    }

    #[test]
    fn a_multishot_slot_lives_until_its_terminal_completion() {
        let mut table = SlotTable::default();
        let slot = table.insert(Op::Accept { listener: 3 }, Owner::Worker(Token(9)));
        assert_eq!(table.complete(slot, Ok(10), None, true), None);
        assert_eq!(table.complete(slot, Err(io::Error::from_raw_os_error(libc::EMFILE)), None, false), None);
        let first = table.take_event().unwrap().unwrap();
        let last = table.take_event().unwrap().unwrap();
        assert!(first.completion.op.is_none() && last.completion.op.is_some());
        assert_eq!((table.in_flight(), table.entries.len(), table.events()), (0, 0, 0));
    }

    #[test]
    fn an_event_that_stands_in_the_queue_can_be_given_up_and_its_number_is_not_reused_before() {
        let mut table = SlotTable::default();
        let accept = table.insert(Op::Accept { listener: 3 }, Owner::Worker(Token(9)));
        assert_eq!(table.complete(accept, Ok(10), None, true), None);
        assert_eq!(table.complete(accept, Ok(11), None, false), None);
        let receive = table.insert(Op::Receive { socket: 7, expect: Expect::Now }, Owner::Worker(Token(8)));
        assert_ne!(accept, receive);
        assert!(matches!(table.abandon(accept), Abandoned::Done { orphan: None }));
        assert!(matches!(table.take_event(), Some(Err(Some(10)))));
        assert!(matches!(table.take_event(), Some(Err(Some(11)))));
        assert!(table.take_event().is_none());
        assert!(matches!(table.abandon(receive), Abandoned::StillInFlight));
        assert_eq!(table.complete(receive, Ok(4), None, false), None, "a count is no descriptor");
        assert_eq!((table.in_flight(), table.entries.len()), (0, 0));
    }

    #[test]
    fn an_accept_that_is_given_up_keeps_its_number_until_its_events_are_taken() {
        let mut table = SlotTable::default();
        let accept = table.insert(Op::Accept { listener: 3 }, Owner::Worker(Token(9)));
        assert_eq!(table.complete(accept, Ok(10), None, true), None);
        assert!(matches!(table.abandon(accept), Abandoned::StillInFlight));
        assert_eq!(table.complete(accept, Ok(11), None, false), None);
        let receive = table.insert(Op::Receive { socket: 7, expect: Expect::Now }, Owner::Worker(Token(8)));
        assert_ne!(accept, receive);
        assert!(matches!(table.take_event(), Some(Err(Some(10)))));
        assert!(matches!(table.take_event(), Some(Err(Some(11)))));
        assert_eq!(table.entries.len(), 1);
    }

    #[test]
    fn a_teardown_hands_out_every_descriptor_that_nobody_fetched() {
        let mut table = SlotTable::default();
        for owner in [Owner::Task(None), Owner::Worker(Token(9))] {
            let accept = table.insert(Op::Accept { listener: 3 }, owner);
            assert_eq!(table.complete(accept, Ok(10), None, false), None);
        }
        let _ = table.insert(Op::Close { fd: 5, closing: Closing::Inline }, Owner::Nobody);
        let _ = table.insert(Op::Unlink { directory: 6, name: c"a".to_owned() }, Owner::Nobody);
        let receive = table.insert(Op::Receive { socket: 7, expect: Expect::Now }, Owner::Worker(Token(8)));
        assert_eq!(table.drop_unclaimed(), [10, 10]);
        assert_eq!(table.cancellable(), [receive]);
    }

    fn c(name: &str) -> CString {
        CString::new(name).unwrap()
    }

    fn rename(from: RawFd, to: RawFd) -> Op {
        let (name, to_name) = (c("a"), c("b"));
        Op::Rename { directory: from, name, to_directory: to, to_name, taken: Taken::Refuse }
    }

    #[test]
    fn a_close_waits_for_the_last_operation_that_is_looked_up_late() {
        let mut table = SlotTable::default();
        let link = table.insert(Op::link(5, 6, c("name")), Owner::Task(None));
        let unlink = table.insert(Op::Unlink { directory: 6, name: c("name") }, Owner::Task(None));
        assert!(table.park_close(5, Closing::Aside) && table.park_close(6, Closing::Inline));
        assert!(!table.park_close(7, Closing::Inline), "nothing names it");
        assert!(table.take_ready_closes().is_empty());
        assert_eq!(table.complete(link, Ok(0), None, false), None);
        assert_eq!(table.take_ready_closes(), [(5, Closing::Aside)]);
        assert_eq!(table.complete(unlink, Err(io::Error::from_raw_os_error(libc::EIO)), None, false), None);
        assert_eq!(table.take_ready_closes(), [(6, Closing::Inline)]);
        assert!(table.take_ready_closes().is_empty(), "each once");
        assert!(
            !table.park_close(5, Closing::Aside) && !table.park_close(6, Closing::Inline),
            "nothing names them now"
        );
    }

    #[test]
    fn an_operation_that_names_a_descriptor_twice_keeps_it_open_once() {
        let mut table = SlotTable::default();
        let slot = table.insert(rename(5, 5), Owner::Task(None));
        assert!(table.park_close(5, Closing::Inline));
        assert_eq!(table.complete(slot, Ok(0), None, false), None);
        assert_eq!(table.take_ready_closes(), [(5, Closing::Inline)]);
        assert!(!table.park_close(5, Closing::Inline));
    }

    #[test]
    fn giving_an_operation_up_frees_no_descriptor_that_it_names() {
        let mut table = SlotTable::default();
        let slot = table.insert(rename(5, 6), Owner::Task(None));
        assert!(matches!(table.abandon(slot), Abandoned::StillInFlight));
        assert!(table.park_close(6, Closing::Inline) && table.park_close(5, Closing::Inline));
        assert!(table.take_ready_closes().is_empty());
        assert_eq!(table.complete(slot, Ok(0), None, false), None);
        let mut ready = table.take_ready_closes();
        ready.sort_unstable_by_key(|(fd, _)| *fd);
        assert_eq!(ready, [(5, Closing::Inline), (6, Closing::Inline)]);
    }

    /// What the kernel does with them it does with the descriptor that it looked up at the submission, in order.
    #[test]
    fn no_close_waits_for_reads_writes_and_sockets_or_for_no_descriptor() {
        let mut table = SlotTable::default();
        table.insert(Op::Write { file: 5, offset: 0, from: WriteFrom::Bytes(Bytes::new()) }, Owner::Task(None));
        table.insert(Op::Receive { socket: 6, expect: Expect::Now }, Owner::Task(None));
        let how = Box::<OpenHow>::default();
        let open = Op::Open { root: libc::AT_FDCWD, path: c("/"), opening: Opening::Anywhere, how };
        let open = table.insert(open, Owner::Task(None));
        for fd in [5, 6, libc::AT_FDCWD] {
            assert!(!table.park_close(fd, Closing::Inline));
        }
        assert_eq!(table.complete(open, Ok(9), None, false), None);
        assert!(table.take_ready_closes().is_empty());
    }

    #[test]
    #[should_panic(expected = "driver invariant")]
    fn a_second_terminal_completion_aborts_loudly() {
        let mut table = SlotTable::default();
        let slot = table.insert(Op::Close { fd: 3, closing: Closing::Inline }, Owner::Task(None));
        let _ = table.complete(slot, Ok(0), None, false);
        let _ = table.complete(slot, Ok(0), None, false);
    }
}
