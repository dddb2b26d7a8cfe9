//! What a queue route holds, and how much of it.

use std::path::PathBuf;
use std::time::Duration;

use super::check::{self, check_cors};
use super::events::{check_count, check_event_len, check_journal_bytes, check_journal_keys};
use crate::limits::Limits;
use crate::proto::cors::{Cors, Sharing};

/// Queues between producers and consumers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// The directory of the journal, by which items outlive the process; `None` keeps them in memory. It is this route's alone.
    /// Default: none.
    pub journal: Option<PathBuf>,
    /// How many bytes the journal may take on the disk. Default: 1 GiB.
    pub journal_bytes: u64,
    /// Whether an item is on the disk, and not only with the kernel, before its producer has the reply. Default: no.
    pub journal_sync: bool,
    /// Bytes in memory, of all queues of the route: items with what is kept beside each; where there is a journal, what is kept
    /// beside them alone. A quarter is for items that are still coming, and where there is a journal another for items that are read
    /// from it. A producer whose item does not fit is held back. Default: 64 MiB.
    pub memory: usize,
    /// Queues at once: those with items, producers or consumers. One more is answered 503. Default: 100.
    pub queues: usize,
    /// Bytes of items in one queue: the high water mark, over which producers are held back. Default: 16 MiB.
    pub queue_bytes: u64,
    /// Items in one queue, in the same way. Default: 100,000.
    pub queue_items: usize,
    /// Bytes of an item. A longer one is answered 413. Default: 1 MiB.
    pub item_len: usize,
    /// How long a consumer that asked for leases may take to acknowledge an item before another gets it. Default: 30 s.
    pub lease: Duration,
    /// The origins whose pages may produce and consume; `None` sends no CORS fields (H2). Default: none.
    pub origins: Option<Vec<String>>,
}

impl Default for QueueConfig {
    fn default() -> Self {
        QueueConfig {
            journal: None,
            journal_bytes: 1 << 30,
            journal_sync: false,
            memory: 64 << 20,
            queues: 100,
            queue_bytes: 16 << 20,
            queue_items: 100_000,
            item_len: 1 << 20,
            lease: Duration::from_secs(30),
            origins: None,
        }
    }
}

impl QueueConfig {
    /// Whether every value can be used.
    ///
    /// # Errors
    /// The first key that can't, and what to write instead.
    pub(crate) fn check(&self) -> Result<(), String> {
        let named = |key: &'static str| move |wrong: String| format!("{key}: {wrong}");
        check_journal_bytes(self.journal_bytes).map_err(named("journal_bytes"))?;
        let said = [
            ("journal_sync", self.journal_sync),
            ("journal_bytes", self.journal_bytes != Self::default().journal_bytes),
        ];
        check_journal_keys(self.journal.as_deref(), said)?;
        check_count(self.queues).map_err(named("queues"))?;
        check_count(self.queue_items).map_err(named("queue_items"))?;
        check_event_len(self.item_len).map_err(named("item_len"))?;
        if self.queue_bytes < self.item_len as u64 {
            return Err(String::from("queue_bytes: less than one item: write more, or a smaller item_len"));
        }
        if self.memory / 4 < self.item_len {
            return Err(String::from("memory: less than four items: write more, or a smaller item_len"));
        }
        if self.journal.is_some() && self.journal_bytes / 4 < self.item_len as u64 {
            return Err(String::from("journal_bytes: less than four items: write more, or a smaller item_len"));
        }
        check_lease(self.lease).map_err(named("lease"))?;
        self.origins.as_deref().map_or(Ok(()), check_cors).map_err(named("origins"))
    }

    /// What may wait to be written to the journal, in bytes.
    pub(crate) fn waiting_len(&self) -> usize {
        Limits::JOURNAL_WAITING_LEN.max(2 * self.item_len)
    }

    /// What the pages of other sites may do here, once [`QueueConfig::check`] has let the origins through.
    pub(crate) fn sharing(&self) -> Option<Cors> {
        check::sharing(self.origins.as_deref(), Sharing::QUEUE)
    }
}

pub(super) fn check_lease(lease: Duration) -> Result<(), String> {
    let (least, most) = (Duration::from_millis(100), Duration::from_secs(24 * 60 * 60));
    if (least..=most).contains(&lease) { Ok(()) } else { Err(String::from("out of bounds: write 100ms to 24h")) }
}
