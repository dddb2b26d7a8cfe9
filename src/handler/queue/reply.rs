//! The replies of a queue route that are no items.

use std::io;

use http::StatusCode;
use serde_json::json;

use super::state::{Depth, NoLease};
use crate::error::Error;
use crate::http::Response;

/// A reply that is no success.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    text: String,
    retry_after: Option<u32>,
    /// The line that is to blame.
    line: Option<u64>,
    /// How many items were taken before it.
    taken: Option<u64>,
}

impl Refusal {
    /// With a status, a name of the reason for programs and a sentence for people.
    pub fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        Refusal { status, code, text: text.into(), retry_after: None, line: None, taken: None }
    }

    /// The same, for who tries again in so many seconds.
    pub fn retry_after(self, seconds: u32) -> Self {
        Refusal { retry_after: Some(seconds), ..self }
    }

    /// The same, about this line of the body.
    pub fn in_line(self, number: u64) -> Self {
        Refusal { line: Some(number), ..self }
    }

    /// The same, after so many items were taken.
    pub fn after(self, taken: u64) -> Self {
        Refusal { taken: Some(taken), ..self }
    }

    pub fn full() -> Self {
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "QUEUE_FULL", "The queue is full.").retry_after(1)
    }

    pub fn draining() -> Self {
        let text = "The server is going away.";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "GOING_AWAY", text).retry_after(1)
    }

    pub fn too_many_queues() -> Self {
        let text = "There are as many queues as there may be.";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "TOO_MANY_QUEUES", text).retry_after(1)
    }

    pub fn busy() -> Self {
        let text = "There is no memory for so many items that come in pieces.";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "BUSY", text).retry_after(1)
    }

    pub fn too_long(limit: usize) -> Self {
        let text = format!("An item has {limit} bytes at most.");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "ITEM_TOO_LONG", text)
    }

    pub fn not_json() -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, "NOT_JSON", "This is not a JSON value.")
    }

    pub fn broken_body(error: &Error) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, "BROKEN_BODY", format!("{error}."))
    }

    /// The journal can't be written. Nothing of the item is kept.
    pub fn unwritten(error: io::Error) -> Self {
        let full = [nix::libc::ENOSPC, nix::libc::EDQUOT, nix::libc::EFBIG];
        if error.raw_os_error().is_some_and(|code| full.contains(&code)) {
            let text = "There is no room on the disk.";
            return Refusal::new(StatusCode::INSUFFICIENT_STORAGE, "STORAGE_FULL", text);
        }
        tracing::error!(
            error = Error::server("the queue's journal can't be written").because(error).report(),
            "an item is refused"
        );
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "FAILED", "The journal can't be written.")
    }

    /// The journal can't be read now.
    pub fn unreadable(error: io::Error) -> Self {
        let error = Error::server("an item of a queue can't be read").because(error);
        tracing::error!(error = error.report(), "a consumer gets nothing");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "FAILED", "The journal can't be read.")
    }

    pub fn no_lease(why: NoLease, lease: &str) -> Self {
        match why {
            NoLease::Unknown => {
                let text = format!("There is no lease {lease:?} here: it was acknowledged, or never given.");
                Refusal::new(StatusCode::NOT_FOUND, "LEASE_UNKNOWN", text)
            }
            NoLease::Expired => {
                let text = format!("The lease {lease:?} has run out; its item is delivered again.");
                Refusal::new(StatusCode::GONE, "LEASE_EXPIRED", text)
            }
        }
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        let mut body = json!({ "error": { "code": refusal.code, "message": refusal.text } });
        if let Some(line) = refusal.line {
            body["error"]["line"] = line.into();
        }
        if let Some(taken) = refusal.taken {
            body["taken"] = taken.into();
        }
        let response = Response::new(refusal.status).with_json(body.to_string());
        match refusal.retry_after {
            Some(seconds) => response.field("Retry-After", seconds.to_string()),
            None => response,
        }
    }
}

/// So many items are in the queue.
pub(super) fn taken(items: u64) -> Response {
    Response::new(StatusCode::OK).with_json(json!({ "taken": items }).to_string())
}

/// What the queue holds.
pub(super) fn depth(depth: Depth) -> Response {
    let Depth { items, bytes, leased, consumers, held_back } = depth;
    let body = json!({
        "items": items, "bytes": bytes, "leased": leased, "consumers": consumers, "producers_held_back": held_back,
    });
    Response::new(StatusCode::OK).with_json(body.to_string())
}

/// The same, as fields.
pub(super) fn depth_fields(depth: Depth) -> Response {
    Response::new(StatusCode::OK)
        .field("Cache-Control", "no-store")
        .field("Queue-Items", depth.items.to_string())
        .field("Queue-Bytes", depth.bytes.to_string())
        .field("Queue-Leased", depth.leased.to_string())
        .field("Queue-Consumers", depth.consumers.to_string())
        .field("Queue-Held-Back", depth.held_back.to_string())
}
