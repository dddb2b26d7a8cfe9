//! Polls that the end of a peer's stream does not complete.
//!
//! io_uring adds `POLLRDHUP` to every poll (`IO_POLL_UNMASK` in the kernel). So a poll for room completes at once, again and
//! again, when the peer has sent its FIN and reads slowly, and the worker would spin; a poll for a hang-up would take a client
//! that still waits for its reply for gone (F10). A poll that was told of nothing else is therefore continued as a multishot
//! one: that tells of changes only. When it has found what was asked for it is cancelled, and its terminal completion is
//! the answer. All polls could go that way; but then each would cost a cancellation, and half-closed clients are rare.

use std::collections::HashMap;
use std::io;

use super::super::op::Interest;
use super::super::slot::Slot;

/// The polls that go on after the end of the peer's stream, and what each has found.
#[derive(Debug, Default)]
pub(super) struct Polls(HashMap<Slot, Option<u32>>);

/// What follows on a completion of a poll.
#[derive(Debug)]
pub(super) enum Step {
    /// The poll is over, with this result.
    Over(io::Result<u32>),
    /// It has to be submitted again, as a multishot one.
    GoOn,
    /// It has to be cancelled: what was asked for is there.
    Cancel,
    /// Nothing: the poll is still with the kernel.
    Wait,
}

impl Polls {
    /// Takes a completion in. `wanted` is whether the poll still has an owner, `more` whether the kernel goes on with it.
    pub fn step(&mut self, slot: Slot, interest: Interest, wanted: bool, result: io::Result<u32>, more: bool) -> Step {
        let found = result.as_ref().ok().copied().filter(|mask| mask & asked(interest) != 0);
        let earlier = self.0.get(&slot).copied();
        match (earlier, more) {
            (Some(None), true) if found.is_some() => {
                self.0.insert(slot, found);
                Step::Cancel
            }
            (_, true) => Step::Wait,
            (_, false) => match earlier.flatten().or(found) {
                None if result.is_ok() && wanted => {
                    self.0.insert(slot, None);
                    Step::GoOn
                }
                mask => {
                    self.0.remove(&slot);
                    Step::Over(mask.map_or(result, Ok))
                }
            },
        }
    }
}

/// The events of poll(2) that an interest names.
pub(super) fn events(interest: Interest) -> u32 {
    let events = match interest {
        Interest::Readable => libc::POLLIN,
        Interest::Writable => libc::POLLOUT,
        Interest::HangUp => 0,
    };
    events as u32
}

fn asked(interest: Interest) -> u32 {
    events(interest) | (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) as u32
}
