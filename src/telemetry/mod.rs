//! What an operator sees: counters for each worker, Prometheus text, the access log, and what the process says of itself.
//!
//! Nothing here waits for anything: a worker counts by storing to memory that only it writes, and hands a log line to a
//! bounded buffer that a thread of its own writes out. Whatever doesn't fit is dropped and counted, so that a full disk or
//! a reader that has stopped costs log lines, never transfers.

pub mod access_log;
mod line_writer;
pub mod log;
pub mod metrics;

pub use access_log::AccessLog;
pub use metrics::{Metrics, Totals, WorkerMetrics};
