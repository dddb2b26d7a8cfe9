//! What an operator sees: counters for each worker, Prometheus text, the access log, and what the process says of itself.
//!
//! Nothing here waits for anything: a worker counts by storing to memory that only it writes, and hands a log line to a
//! bounded buffer that a thread of its own writes out. Whatever doesn't fit is dropped and counted, so that a full disk or
//! a reader that has stopped costs log lines, never transfers.

pub mod access_log;
pub(crate) mod busiest;
pub mod histogram;
mod line_writer;
pub mod log;
pub mod metrics;
pub(crate) mod snapshot;

pub use access_log::AccessLog;
pub use histogram::Histogram;
pub use metrics::{Metrics, Totals, WorkerMetrics};
