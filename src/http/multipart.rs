//! The parts of a form as they come: multipart/form-data over a request's body (RFC 7578).
//!
//! [`crate::proto::multipart`] says where the parts lie; here the body is pulled, a piece at a time, and what is handed out are
//! slices of that piece, without a copy. Whoever reads a part slowly, or not at all, holds the client back.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use http::StatusCode;

use super::body::Chunk;
use super::reader::BodyReader;
use super::response::Response;
use crate::error::Error;
use crate::limits::Limits;
use crate::proto::multipart::{Boundary, BoundaryError, Limits as FormLimits, Parsed, Parser, Refusal};

pub use crate::proto::multipart::PartHead;

/// A form that comes in.
///
/// ```no_run
/// # use highwater::{Request, Response, StatusCode};
/// async fn count(request: Request) -> Response {
///     let mut form = match request.multipart() {
///         Ok(form) => form,
///         Err(refused) => return refused.into(),
///     };
///     let (mut parts, mut bytes) = (0, 0);
///     while let Some(part) = form.next_part().await {
///         let mut part = match part {
///             Ok(part) => part,
///             Err(refused) => return refused.into(),
///         };
///         parts += 1;
///         while let Some(chunk) = part.next().await {
///             match chunk {
///                 Ok(chunk) => bytes += chunk.len(),
///                 Err(refused) => return refused.into(),
///             }
///         }
///     }
///     Response::text(StatusCode::OK, format!("{parts} parts, {bytes} bytes"))
/// }
/// ```
pub struct Multipart {
    body: BodyReader,
    parser: Parser,
    /// What the parser has not been given yet.
    input: Option<Chunk>,
    /// Whether a part has begun and not ended.
    in_part: bool,
    is_over: bool,
}

/// What comes next of a form.
#[derive(Debug)]
pub(crate) enum FormEvent {
    /// A part begins.
    Start(PartHead),
    /// Bytes of the part; never none.
    Data(Chunk),
    /// The part is whole.
    End,
}

/// Why a form can't be read. It makes the reply that says so.
#[derive(Debug)]
pub enum FormError {
    /// The request is no form.
    NoForm(BoundaryError),
    /// The form is malformed or over a limit (U1).
    Refused(Refusal),
    /// The body can't be read.
    Body(Error),
}

impl FormError {
    /// The status of the reply.
    pub fn status(&self) -> StatusCode {
        match self {
            FormError::NoForm(error) => error.status(),
            FormError::Refused(refusal) => refusal.status(),
            FormError::Body(_) => StatusCode::BAD_REQUEST,
        }
    }

    /// The name of the reason for programs.
    pub fn code(&self) -> &'static str {
        match self {
            FormError::NoForm(error) => error.code(),
            FormError::Refused(refusal) => refusal.code(),
            FormError::Body(_) => "BROKEN_BODY",
        }
    }
}

impl std::fmt::Display for FormError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FormError::NoForm(error) => error.fmt(f),
            FormError::Refused(refusal) => refusal.fmt(f),
            FormError::Body(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FormError {}

impl From<FormError> for Response {
    fn from(error: FormError) -> Self {
        Response::problem(error.status(), error.code(), &error.to_string())
    }
}

impl Multipart {
    /// The form in this body. Files and their sum are held to `file_len` and `total_len` bytes, all else to the limits.
    pub(super) fn new(body: BodyReader, boundary: &Boundary, limits: &Limits, file_len: u64, total_len: u64) -> Self {
        let limits = FormLimits {
            field_name_len: limits.form_field_name_len,
            field_len: limits.form_field_len,
            fields: limits.form_fields,
            files: limits.form_files,
            parts: limits.form_parts,
            file_len,
            total_len,
            header_pairs: limits.form_header_pairs,
            part_head_len: limits.form_part_head_len,
        };
        let parser = Parser::new(boundary, limits);
        Multipart { body, parser, input: None, in_part: false, is_over: false }
    }

    /// The same form, its data in upload buffers: see [`BodyReader::in_large_pieces`].
    #[must_use]
    pub fn in_large_pieces(mut self) -> Self {
        self.body = self.body.in_large_pieces();
        self
    }

    /// The next part; what is left of the one before is passed over. `None` at the end of the form.
    ///
    /// # Errors
    /// The form can't be read any further.
    pub async fn next_part(&mut self) -> Option<Result<Part<'_>, FormError>> {
        loop {
            match std::future::poll_fn(|cx| self.poll_event(cx)).await? {
                Ok(FormEvent::Start(head)) => return Some(Ok(Part { head, form: self })),
                Ok(FormEvent::Data(_) | FormEvent::End) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Whether bytes have come that were not looked at yet.
    pub(crate) fn has_input(&self) -> bool {
        self.input.is_some()
    }

    /// What comes next; `None` at the end of the form. After an error there is nothing more.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<FormEvent, FormError>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let event = ready!(self.poll_within(cx));
        self.is_over = !matches!(event, Some(Ok(_)));
        Poll::Ready(event)
    }

    fn poll_within(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<FormEvent, FormError>>> {
        loop {
            let Some(input) = &self.input else {
                match ready!(self.body.poll_chunk(cx)) {
                    Some(Ok(chunk)) => self.input = Some(chunk),
                    Some(Err(error)) => return Poll::Ready(Some(Err(FormError::Body(error)))),
                    None => {
                        let end = self.parser.finish().err();
                        return Poll::Ready(end.map(|refusal| Err(FormError::Refused(refusal))));
                    }
                }
                continue;
            };
            let parsed = match self.parser.parse(input) {
                Ok(parsed) => parsed,
                Err(refusal) => return Poll::Ready(Some(Err(FormError::Refused(refusal)))),
            };
            let (event, used) = match parsed {
                Parsed::PartStart { head, used } => {
                    self.in_part = true;
                    (Some(FormEvent::Start(head)), used)
                }
                Parsed::Data { data, used } => (Some(FormEvent::Data(input.slice(data))), used),
                Parsed::Held { .. } => (Some(FormEvent::Data(Chunk::copied(self.parser.held()))), 0),
                Parsed::PartEnd { used } => {
                    self.in_part = false;
                    (Some(FormEvent::End), used)
                }
                // What follows means nothing; the server drains some of it (F7).
                Parsed::End { .. } => return Poll::Ready(None),
                Parsed::NeedMore { used } => (None, used),
            };
            self.input = (used < input.len()).then(|| input.slice(used..input.len()));
            if let Some(event) = event {
                return Poll::Ready(Some(Ok(event)));
            }
        }
    }
}

/// One part of a form: its head, and its data as a stream.
pub struct Part<'f> {
    head: PartHead,
    form: &'f mut Multipart,
}

impl Part<'_> {
    /// What the part says of itself.
    pub fn head(&self) -> &PartHead {
        &self.head
    }

    /// The next bytes; `None` at the end of the part.
    ///
    /// # Errors
    /// The form can't be read any further.
    pub async fn next(&mut self) -> Option<Result<Chunk, FormError>> {
        std::future::poll_fn(|cx| self.poll_data(cx)).await
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, FormError>>> {
        if !self.form.in_part {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.form.poll_event(cx)) {
            Some(Ok(FormEvent::Data(chunk))) => Some(Ok(chunk)),
            Some(Err(error)) => Some(Err(error)),
            // A part never begins within another.
            Some(Ok(FormEvent::Start(_) | FormEvent::End)) | None => None,
        })
    }
}

impl Stream for Part<'_> {
    type Item = Result<Chunk, FormError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_data(cx)
    }
}
