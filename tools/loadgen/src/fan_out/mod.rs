//! One writes and many read: server-sent events from a publisher to its subscribers, or live media from an encoder to its readers.
//!
//! As in [`run`](crate::run) there is one thread and one epoll instance, but edge-triggered: a reader that keeps up costs one receive
//! call a unit and no other. The writer is in the same thread, so every unit carries the time at which it was due on the very
//! clock by which it is received: latency is exact for each delivery, a stall is charged to every unit that was due in it, and what
//! the client itself takes is in it too. (A publisher of its own in another process was the other way; then a run has two beginnings
//! and two ends, and the closed loop needs a channel between them.)
//!
//! The pure parts: [`stamp`] is what a unit holds, [`event`] reads streams of events, [`ledger`] knows who has had what. [`reader`]
//! and [`writer`] own a socket each.

mod event;
mod ledger;
mod options;
mod reader;
mod report;
mod run;
mod stamp;
mod writer;

use std::net::SocketAddr;
use std::time::Duration;

use crate::args::Output;
pub use options::{Options, Writing};
pub use run::run;
use stamp::STAMP_LEN;

/// What is written and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Server-sent events; a unit is an event.
    Events,
    /// A body that is read while it is written; a unit is a piece of it.
    Live,
}

/// When the next unit is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// As soon as fewer units are on their way to some reader.
    Closed {
        /// How many may be.
        in_flight: usize,
    },
    /// So many times a second, whether or not anybody keeps up.
    PerSecond(f64),
}

/// A run: every question answered.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is written, and when.
    pub writing: Writing,
    /// The server that is read from.
    pub address: SocketAddr,
    /// The server that is written to.
    pub write_address: SocketAddr,
    /// The paths that are read, a topic each; reader number `i` follows topic `i` of them, and so on in turn.
    pub paths: Vec<String>,
    /// The paths that are written to, one for each topic.
    pub write_paths: Vec<String>,
    /// The fields of each request of a reader, and the empty line.
    pub fields: Vec<u8>,
    /// The fields of each request of the writer, and the empty line.
    pub write_fields: Vec<u8>,
    /// How many readers.
    pub readers: usize,
    /// How long to run before measuring.
    pub warmup: Duration,
    /// How long to measure.
    pub duration: Duration,
    /// How many units at most.
    pub units_max: u64,
    /// How long a run may go without progress.
    pub timeout: Duration,
    /// The server's processes.
    pub pids: Vec<u32>,
    /// The processor to run on.
    pub cpu: Option<usize>,
    /// The form of the result.
    pub output: Output,
}
