//! Why something can't be done with a topic, and the reply that says so.

use std::fmt;
use std::io;

use http::StatusCode;

use crate::error::Error;
use crate::http::Response;

/// What is wrong.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The request says something that can't be understood: what.
    Malformed(String),
    /// The event is longer than so many bytes.
    TooLong(usize),
    /// As many topics as there may be are in use.
    Topics,
    /// As many subscribers as there may be are there.
    Subscribers,
    /// The events in memory are all that may be.
    Memory,
    /// The disk under the journal is full.
    Storage,
    /// The journal can't be written.
    Journal(io::Error),
    /// The client's fault, in sending its body.
    Body(Error),
}

impl Refusal {
    /// What a write to the journal failed with.
    pub fn of_journal(error: io::Error) -> Self {
        let full = [libc::ENOSPC, libc::EDQUOT, libc::EFBIG];
        match error.kind() {
            io::ErrorKind::InvalidInput => Refusal::Malformed("the event is too long for the journal".into()),
            _ if error.raw_os_error().is_some_and(|code| full.contains(&code)) => Refusal::Storage,
            _ => Refusal::Journal(error),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Refusal::Malformed(_) | Refusal::Body(_) => StatusCode::BAD_REQUEST,
            Refusal::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::Topics | Refusal::Subscribers | Refusal::Memory => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Storage => StatusCode::INSUFFICIENT_STORAGE,
            Refusal::Journal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Refusal::Malformed(_) => "MALFORMED",
            Refusal::TooLong(_) => "LIMIT_EVENT_LEN",
            Refusal::Topics => "LIMIT_TOPICS",
            Refusal::Subscribers => "LIMIT_SUBSCRIBERS",
            Refusal::Memory => "LIMIT_MEMORY",
            Refusal::Storage => "STORAGE_FULL",
            Refusal::Journal(_) => "FAILED",
            Refusal::Body(_) => "BODY",
        }
    }

    /// The reply, where so many events were published before.
    pub fn response(self, published: Option<u64>) -> Response {
        if let Refusal::Journal(error) = &self {
            tracing::error!(%error, "an event could not be kept");
        }
        let mut message = self.to_string();
        if let Some(first) = message.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        let error = serde_json::json!({ "code": self.code(), "message": message + "." });
        let text = match published {
            Some(published) => serde_json::json!({ "error": error, "published": published }),
            None => serde_json::json!({ "error": error }),
        };
        let response = Response::new(self.status()).with_json(text.to_string());
        let passes = matches!(self, Refusal::Topics | Refusal::Subscribers | Refusal::Memory);
        if passes { response.field("Retry-After", "1") } else { response }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Malformed(what) => f.write_str(what),
            Refusal::TooLong(limit) => write!(f, "an event has at most {limit} bytes here"),
            Refusal::Topics => f.write_str("there are as many topics as there may be"),
            Refusal::Subscribers => f.write_str("there are as many subscribers as there may be"),
            Refusal::Memory => f.write_str("there is no memory for another event now"),
            Refusal::Storage => f.write_str("there is no room on the disk for another event"),
            Refusal::Journal(_) => f.write_str("the event could not be kept"),
            Refusal::Body(error) => error.fmt(f),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let context = refusal.to_string();
        match refusal {
            Refusal::Malformed(_) | Refusal::TooLong(_) | Refusal::Body(_) => Error::client(context),
            Refusal::Journal(error) => Error::server(context).because(error),
            Refusal::Storage => Error::server(context),
            Refusal::Topics | Refusal::Subscribers | Refusal::Memory => Error::server(context).retry_later(),
        }
    }
}
