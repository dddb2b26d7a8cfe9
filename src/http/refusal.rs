//! Why an upload is refused, and the reply that says so.

use std::io;

use http::StatusCode;

use super::multipart::FormError;
use super::response::Response;
use crate::error::Error;
use crate::proto::upload_name::NameRefusal;

/// A reply that is no success. Nothing of the upload is kept then, unless it can be resumed.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    text: String,
    fields: Vec<(&'static str, String)>,
}

impl Refusal {
    /// With a status, a name of the reason for programs and a sentence for people.
    pub fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        Refusal { status, code, text: text.into(), fields: Vec::new() }
    }

    /// What a call of the disk failed with, and what it was for.
    pub fn failed(what: &'static str, error: io::Error) -> Self {
        let full = [libc::ENOSPC, libc::EDQUOT, libc::EFBIG];
        if error.raw_os_error().is_some_and(|code| full.contains(&code)) {
            return Refusal::full();
        }
        match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::IsADirectory => Refusal::taken(),
            io::ErrorKind::InvalidFilename => {
                Refusal::new(StatusCode::BAD_REQUEST, "NAME", "The name is too long for the disk.")
            }
            _ => {
                tracing::error!(error = Error::server(what).because(error).report(), "an upload failed");
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "FAILED", "The upload could not be stored.")
            }
        }
    }

    /// Whether it is that something is not there.
    pub fn is_missing(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// The same refusal, with one more field in its reply.
    #[must_use]
    pub fn with_field(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// What a client that wants to replace nothing is told; see [`super::Request::wants_new`].
    pub fn not_new() -> Self {
        Refusal::new(StatusCode::PRECONDITION_FAILED, "NAME_TAKEN", "There is a file of this name already.")
    }

    /// The disk, or its part for this folder, is full.
    pub fn full() -> Self {
        Refusal::new(StatusCode::INSUFFICIENT_STORAGE, "STORAGE_FULL", "There is no room for the upload.")
    }

    /// The name belongs to another file.
    pub fn taken() -> Self {
        Refusal::new(StatusCode::CONFLICT, "NAME_TAKEN", "There is a file of this name already.")
    }

    /// The file is longer than the route takes.
    pub fn too_large(limit: u64) -> Self {
        let text = format!("A file may have {limit} bytes at most.");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "LIMIT_FILE_SIZE", text)
    }

    /// There is no memory for it now.
    pub fn busy() -> Self {
        let refusal =
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "BUSY", "The server has no room for more uploads now.");
        refusal.with_field("Retry-After", "1")
    }

    /// The body broke off.
    pub fn broken(error: &Error) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, "BROKEN_BODY", format!("{error}."))
    }
}

impl From<NameRefusal> for Refusal {
    fn from(refusal: NameRefusal) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, "NAME", format!("{refusal}."))
    }
}

impl From<FormError> for Refusal {
    fn from(error: FormError) -> Self {
        Refusal::new(error.status(), error.code(), error.to_string())
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        let response = Response::problem(refusal.status, refusal.code, &refusal.text);
        refusal.fields.into_iter().fold(response, |response, (name, value)| response.field(name, value))
    }
}
