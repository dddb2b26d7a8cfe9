//! HTTP/1.1 messages (RFC 9112): heads in, framing, chunked coding, heads out.

pub mod chunked;
pub mod encode;
pub mod framing;
pub mod head;
