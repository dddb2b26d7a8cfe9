//! What a handler gives back.

use std::time::Instant;

use http::{HeaderName, HeaderValue, StatusCode};

use super::body::Body;
use super::pacing::Pacing;
use crate::driver::FileStat;
use crate::proto::http1::encode::ResponseHead;

/// A reply: status, fields and body. Length, coding, connection and date are the server's own affair.
#[derive(Debug)]
pub struct Response {
    pub(super) head: ResponseHead,
    pub(super) body: Body,
    pub(super) holds: Option<Holds>,
}

/// How long a reply stays true: until then, the same request has the same reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holds {
    /// From then on, the handler has to be asked again.
    pub until: Instant,
    /// A body that is a region of a file holds only as long as fstat says this of it.
    pub stat: Option<FileStat>,
}

impl Response {
    /// A reply with this status, without fields or body.
    pub fn new(status: StatusCode) -> Self {
        Response { head: ResponseHead::new(status), body: Body::Empty, holds: None }
    }

    /// A reply of one line of plain text: the status and its reason, and what the client can do about it.
    pub fn text(status: StatusCode, text: impl Into<String>) -> Self {
        let mut text = text.into();
        text.push('\n');
        let mut response = Response::new(status);
        response.head.field("Content-Type", b"text/plain; charset=utf-8");
        response.head.field("X-Content-Type-Options", b"nosniff");
        response.body = text.into();
        response
    }

    /// A reply for programs that says why a request is refused: `{"error":{"code":…,"message":…}}`.
    pub fn problem(status: StatusCode, code: &str, message: &str) -> Self {
        let text = serde_json::json!({ "error": { "code": code, "message": message } }).to_string();
        Response::new(status).with_json(text)
    }

    /// The same reply with this JSON text, which nobody is to keep.
    #[must_use]
    pub fn with_json(mut self, text: impl Into<Body>) -> Self {
        self.head.field("Content-Type", b"application/json");
        self.head.field("X-Content-Type-Options", b"nosniff");
        self.head.field("Cache-Control", b"no-store");
        self.body = text.into();
        self
    }

    /// A reply with this head, of which the fields are lines already.
    pub fn from_head(head: ResponseHead) -> Self {
        Response { head, body: Body::Empty, holds: None }
    }

    /// The same reply, with one more field.
    #[must_use]
    pub fn field(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        self.head.field(name, value.as_ref());
        self
    }

    /// The same reply, with these fields too.
    #[must_use]
    pub fn fields<'a>(self, fields: impl IntoIterator<Item = (&'static str, &'a str)>) -> Self {
        fields.into_iter().fold(self, |response, (name, value)| response.field(name, value))
    }

    /// The same reply, with one more field in the terms of the `http` crate.
    #[must_use]
    pub fn header(mut self, name: &HeaderName, value: &HeaderValue) -> Self {
        self.head.field(name.as_str(), value.as_bytes());
        self
    }

    /// The same reply, with this body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    /// The same reply, which the server may repeat to the same request, byte for byte, without asking the handler again.
    #[must_use]
    pub fn which_holds(mut self, holds: Option<Holds>) -> Self {
        self.holds = holds;
        self
    }

    /// The same reply, its body sent no faster than this. It goes with the body that the reply has now.
    #[must_use]
    pub fn paced(mut self, pacing: Pacing) -> Self {
        self.body = pacing.apply(self.body);
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// The fields, to look at or to change.
    pub fn head_mut(&mut self) -> &mut ResponseHead {
        &mut self.head
    }

    /// The body.
    pub fn body(&self) -> &Body {
        &self.body
    }
}

impl<B: Into<Body>> From<http::Response<B>> for Response {
    fn from(response: http::Response<B>) -> Self {
        let (parts, body) = response.into_parts();
        Response { head: ResponseHead::from((parts.status, &parts.headers)), body: body.into(), holds: None }
    }
}
