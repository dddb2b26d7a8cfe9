//! The protocols, without input or output: bytes and time in, values out.
//!
//! Nothing here waits, opens, allocates without a bound or knows a descriptor. "Need more" is a value, not an error. The
//! modules import nothing of the rest of the crate, so each can be fuzzed, split at every byte and read on its own.
#![forbid(unsafe_code)]

pub mod bearer;
pub mod conditional;
pub mod content_coding;
pub mod content_types;
pub mod cors;
pub mod disposition;
pub mod fields;
pub mod hls;
pub mod http1;
pub mod journal;
pub mod media_duration;
pub mod media_type;
pub mod multipart;
pub mod ndjson;
pub mod pattern;
pub mod query;
pub mod range;
pub mod resumable;
pub mod signed_url;
pub mod sse;
pub mod target;
pub mod tus;
pub mod upload_name;
