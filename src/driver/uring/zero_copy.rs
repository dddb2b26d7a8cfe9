//! Sends that complete twice.
//!
//! A zero-copy send is answered when the socket has taken its bytes, and once more (`IORING_CQE_F_NOTIF`) when the kernel has let
//! go of them; io_uring_enter(2). The first answer is kept and given with the second, because the slot, and the buffer in
//! it, are the kernel's until then. One that fails early has no second answer, and says so.

use std::collections::HashMap;
use std::io;

use super::super::slot::Slot;

/// The sends whose bytes the kernel still holds, and what became of each.
#[derive(Debug, Default)]
pub(super) struct Sends(HashMap<Slot, io::Result<u32>>);

impl Sends {
    /// Takes a completion in. `more` is whether another follows, `is_notification` whether it is that other one. Returns the
    /// send's result when it is over.
    ///
    /// # Panics
    /// When a notification comes before its send's answer.
    pub fn step(
        &mut self,
        slot: Slot,
        result: io::Result<u32>,
        more: bool,
        is_notification: bool,
    ) -> Option<io::Result<u32>> {
        if is_notification {
            let kept = self.0.remove(&slot);
            return Some(kept.expect("driver invariant: a notification before the answer to its send"));
        }
        if more {
            self.0.insert(slot, result);
            return None;
        }
        Some(result)
    }
}
