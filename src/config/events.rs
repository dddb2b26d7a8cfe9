//! What an events route keeps of its topics, and what it does with subscribers that fall behind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::check::{self, check_cors, named_values};
use crate::limits::Limits;
use crate::proto::cors::{Cors, Sharing};

/// Topics that clients publish events to and subscribe to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsConfig {
    /// How many events of a topic are kept for those who come later, or come back. Default: 1000.
    pub history_events: usize,
    /// How many bytes of them, as they are sent. Default: 1 MiB.
    pub history_bytes: usize,
    /// For how long. Default: one hour.
    pub history_age: Duration,
    /// The directory of the journal, by which the history outlives the process; `None` keeps it in memory only. It is this route's
    /// alone. Default: none.
    pub journal: Option<PathBuf>,
    /// How many bytes the journal may take on the disk. Default: 256 MiB.
    pub journal_bytes: u64,
    /// Whether an event is on the disk, and not only with the kernel, before its publisher has the reply. Default: no.
    pub journal_sync: bool,
    /// Bytes of events in memory, of all topics: the histories, and what is on its way to subscribers. An event that does not fit,
    /// though its own topic's history was given up for it, is answered 503. Default: 64 MiB.
    pub memory: usize,
    /// Topics at once: those with subscribers or a history. One more is answered 503. Default: 1000.
    pub topics: usize,
    /// Subscribers at once, over all workers. One more is answered 503. Default: 100,000.
    pub subscribers: usize,
    /// Bytes of an event, as it is published. A longer one is answered 413. Default: 256 KiB.
    pub event_len: usize,
    /// How many bytes of a topic a subscriber may be behind, at least: as far as the history goes it may be, too. Default: 256 KiB.
    pub backlog: usize,
    /// What happens to one that is further behind. Default: disconnect.
    pub on_lag: OnLag,
    /// After how long without an event a subscriber is sent a comment, so that a dead one is noticed (S2). Default: 15 s.
    pub heartbeat: Duration,
    /// How long clients are told to wait before they connect again; `None` leaves it to them. Default: none.
    pub retry: Option<Duration>,
    /// The origins whose pages may publish and subscribe; `None` sends no CORS fields (H2). Default: none.
    pub origins: Option<Vec<String>>,
    /// Whether those pages may do so with the browser's cookies (S5). Default: no.
    pub credentials: bool,
}

/// What happens to a subscriber that is too far behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLag {
    /// Its stream is ended; it may come back, and is told what it has lost: `disconnect`.
    Disconnect,
    /// It is told what it has lost, and goes on with the newest event: `skip`.
    Skip,
}

named_values!(OnLag, "answer to a subscriber that is behind", Disconnect = "disconnect", Skip = "skip");

impl Default for EventsConfig {
    fn default() -> Self {
        EventsConfig {
            history_events: 1000,
            history_bytes: 1 << 20,
            history_age: Duration::from_secs(60 * 60),
            journal: None,
            journal_bytes: 256 << 20,
            journal_sync: false,
            memory: 64 << 20,
            topics: 1000,
            subscribers: 100_000,
            event_len: 256 << 10,
            backlog: 256 << 10,
            on_lag: OnLag::Disconnect,
            heartbeat: Duration::from_secs(15),
            retry: None,
            origins: None,
            credentials: false,
        }
    }
}

impl EventsConfig {
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
        check_heartbeat(self.heartbeat).map_err(named("heartbeat"))?;
        check_event_len(self.event_len).map_err(named("event_len"))?;
        check_count(self.topics).map_err(named("topics"))?;
        // Its lines and its record, and what it becomes by its line ends.
        if self.memory < 4 * self.event_len {
            return Err(String::from("memory: less than four events: write more, or a smaller event_len"));
        }
        self.origins.as_deref().map_or(Ok(()), check_cors).map_err(named("origins"))?;
        if self.credentials && self.origins.as_deref().is_none_or(|origins| origins.iter().any(|origin| origin == "*"))
        {
            // A page that any site can show must not act as the user (S5).
            return Err(String::from(
                "credentials: they need a list of origins: write origins = [\"https://app.example\"]",
            ));
        }
        Ok(())
    }

    /// What the pages of other sites may do here, once [`EventsConfig::check`] has let the origins through.
    pub(crate) fn sharing(&self) -> Option<Cors> {
        let cors = check::sharing(self.origins.as_deref(), Sharing::EVENTS)?;
        Some(if self.credentials { cors.with_credentials() } else { cors })
    }
}

/// Nothing may be said of a journal that is not there: it would be believed.
pub(super) fn check_journal_keys(journal: Option<&Path>, said: [(&str, bool); 2]) -> Result<(), String> {
    match said.iter().find(|(_, is_said)| *is_said && journal.is_none()) {
        Some((key, _)) => Err(format!("{key}: there is no journal: write journal = \"DIR\", too")),
        None => Ok(()),
    }
}

pub(super) fn check_journal_bytes(bytes: u64) -> Result<(), String> {
    let least = Limits::JOURNAL_BYTES_LEAST;
    if bytes >= least { Ok(()) } else { Err(format!("too little for a journal: write at least {}MiB", least >> 20)) }
}

pub(super) fn check_heartbeat(heartbeat: Duration) -> Result<(), String> {
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(60 * 60));
    if (least..=most).contains(&heartbeat) { Ok(()) } else { Err(String::from("out of bounds: write 1s to 1h")) }
}

pub(super) fn check_event_len(len: usize) -> Result<(), String> {
    let most = Limits::EVENT_LEN_MOST;
    if (1..=most).contains(&len) { Ok(()) } else { Err(format!("out of bounds: write 1B to {}MiB", most >> 20)) }
}

/// A bound of things of which there has to be one.
pub(super) fn check_count(count: usize) -> Result<(), String> {
    if count > 0 { Ok(()) } else { Err(String::from("nothing could be done: write at least 1")) }
}
