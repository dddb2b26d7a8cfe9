//! What a handler is given.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use super::multipart::{FormError, Multipart};
use super::reader::BodyReader;
use super::wire::Wire;
use crate::error::Error;
use crate::limits::Limits;
use crate::proto::fields::Fields;
use crate::proto::http1::head::RequestHead;
use crate::proto::multipart;

/// A request: its head, and a reader of its body.
pub struct Request {
    head: RequestHead,
    peer: Option<SocketAddr>,
    /// How many bytes of the path belong to the route that it was sent to.
    route_len: usize,
    /// What was believed of its path until then is not to be believed any more.
    changed_at: Option<Instant>,
    body: BodyReader,
}

impl Request {
    pub(super) fn new(head: RequestHead, peer: Option<SocketAddr>, wire: Rc<Wire>) -> Self {
        Request { head, peer, route_len: 0, changed_at: None, body: BodyReader::new(wire) }
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// HTTP/1.0 or HTTP/1.1.
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// The target as the client sent it.
    pub fn target(&self) -> &str {
        self.head.target()
    }

    /// The path as sent, percent-encoded, without the query.
    pub fn path(&self) -> &str {
        self.head.path()
    }

    /// The path behind the prefix of the route, percent-encoded; begins with `/` unless it is empty.
    pub fn path_in_route(&self) -> &str {
        self.path().get(self.route_len..).unwrap_or_default()
    }

    /// What follows `?`, as sent.
    pub fn query(&self) -> Option<&str> {
        self.head.query()
    }

    /// Host and port that the client asked for; `None` only in HTTP/1.0.
    pub fn authority(&self) -> Option<&str> {
        self.head.authority()
    }

    /// The header fields.
    pub fn fields(&self) -> &Fields {
        &self.head.fields
    }

    /// Whether the client wants to make something, and to replace nothing (RFC 9110 §13.1.2).
    pub(crate) fn wants_new(&self) -> bool {
        self.fields().get("If-None-Match").is_some_and(|value| value.trim_ascii() == b"*")
    }

    /// The header fields as a map of the `http` crate; made anew at each call. What that crate does not admit is left out.
    pub fn headers(&self) -> HeaderMap {
        let pair = |(name, value)| Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?));
        let mut map = HeaderMap::with_capacity(self.head.fields.len());
        for (name, value) in self.head.fields.iter().filter_map(pair) {
            map.append(name, value);
        }
        map
    }

    /// Who asks; `None` over a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The body.
    pub fn body(&mut self) -> &mut BodyReader {
        &mut self.body
    }

    /// The body alone, as a stream that a reply may carry on.
    pub fn into_body(self) -> BodyReader {
        self.body
    }

    /// The form that the body is (RFC 7578), part by part, within the server's limits (U1); files and forms of at most
    /// [`Limits::FORM_LEN`] bytes.
    ///
    /// # Errors
    /// The request is no form.
    pub fn multipart(self) -> Result<Multipart, FormError> {
        self.multipart_within(Limits::FORM_LEN, Limits::FORM_LEN)
    }

    /// As [`Request::multipart`], with at most `file_len` bytes in each file and `total_len` in all parts.
    ///
    /// # Errors
    /// The request is no form.
    pub fn multipart_within(self, file_len: u64, total_len: u64) -> Result<Multipart, FormError> {
        let content_type = self.fields().get_single("Content-Type").ok().flatten().unwrap_or_default();
        let boundary = multipart::boundary(content_type).map_err(FormError::NoForm)?;
        Ok(self.body.into_form(&boundary, file_len, total_len))
    }

    /// The same request in the terms of the `http` crate.
    ///
    /// # Errors
    /// The client's fault, when its target is no URI.
    pub fn into_http(self) -> Result<http::Request<BodyReader>, Error> {
        let malformed = |error: http::Error| Error::client("the target is no URI").because(error);
        let mut builder = http::Request::builder().method(self.method()).uri(self.target()).version(self.version());
        if let Some(headers) = builder.headers_mut() {
            *headers = self.headers();
        }
        builder.body(self.body).map_err(malformed)
    }

    /// The same request, which is not to be answered by what a cache found out about its path until this time: it changed then.
    #[must_use]
    pub fn afresh_since(mut self, changed_at: Instant) -> Self {
        self.changed_at = Some(changed_at);
        self
    }

    /// See [`Request::afresh_since`].
    pub fn changed_at(&self) -> Option<Instant> {
        self.changed_at
    }

    /// The same request, with so many bytes of its path taken as the route's own.
    #[must_use]
    pub fn routed(mut self, route_len: usize) -> Self {
        self.route_len = route_len;
        self
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Request({} {})", self.method(), self.target())
    }
}
