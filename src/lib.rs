//! Highwater: a zero-copy media server for Linux, as a library.
//!
//! ```text
//!   main → cli → server → handler → http → rt → driver
//!                             └─────── proto (pure) ───────┘      config, telemetry, error, limits: leaves
//! ```
//!
//! A layer imports only from layers on its right. A worker is a thread with its own ring, connections and buffers; nothing on
//! the way of a request is shared between workers but counters and the access log's buffer.
//!
#![deny(unsafe_code)]

pub mod config;
pub mod driver;
pub mod error;
pub mod limits;
pub mod proto;
pub mod rt;
pub mod telemetry;

pub use ::http::{Method, StatusCode};

pub use self::config::{Config, MediaConfig};
pub use self::error::Error;
pub use self::limits::Limits;
