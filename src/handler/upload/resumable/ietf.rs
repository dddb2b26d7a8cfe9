//! Resumable uploads of the IETF (draft-ietf-httpbis-resumable-upload; U5): an ordinary PUT or POST that can be gone on with.
//!
//! A client that sends Upload-Complete learns in an interim reply, before its bytes have come, where the upload can be gone on
//! with; one that never needs to can forget it, and gets the reply that it would have got anyway.

use std::rc::Rc;

use http::{Method, StatusCode, Version};

use super::super::{Inbox, route_of};
use super::{Addition, Appended, Held, Wish};
use crate::http::{BodyReader, Refusal, Request, Response, Target};
use crate::proto::http1::encode::ResponseHead;
use crate::proto::resumable::{
    Append, CONTENT_TYPE, Creation, INTERIM_STATUS, Limits, PROBLEM_TYPE, Refusal as Problem, boolean, interop_version,
};

/// Tells a client in interim replies how far it is.
pub(in super::super) struct Informant {
    version: Version,
    interop: u64,
    location: String,
    limits: String,
}

impl Informant {
    fn of(request: &Request, location: String, limits: &Limits) -> Option<Self> {
        let interop = interop_version(request.fields())?;
        Some(Informant { version: request.version(), interop, location, limits: limits.to_string() })
    }

    /// Where the upload is.
    async fn begin(&self, body: &mut BodyReader) -> Result<(), Refusal> {
        let mut head = self.head();
        head.field("Location", self.location.as_bytes());
        head.field("Upload-Limit", self.limits.as_bytes());
        body.inform(self.version, &head).await.map_err(|error| Refusal::broken(&error))
    }

    /// How much of it is kept for sure. A client that does not take it is seen when its bytes don't come.
    pub async fn progress(&mut self, body: &mut BodyReader, offset: u64) {
        let mut head = self.head();
        head.field_number("Upload-Offset", offset);
        let _ = body.inform(self.version, &head).await;
    }

    fn head(&self) -> ResponseHead {
        // 104 is a status like any other to the crate; its phrase is not in there, and needs not be sent.
        let status = StatusCode::from_u16(INTERIM_STATUS.0).unwrap_or(StatusCode::PROCESSING);
        let mut head = ResponseHead::new(status);
        head.field_number("Upload-Draft-Interop-Version", self.interop);
        head
    }
}

/// What the route's uploads are held to.
fn limits(inbox: &Inbox) -> Limits {
    Limits {
        max_size: Some(inbox.config.file_len),
        max_age: Some(inbox.config.resumable_expiry.as_secs()),
        ..Limits::default()
    }
}

/// What OPTIONS tells about the protocol.
pub(in super::super) fn announce(inbox: &Inbox, response: Response) -> Response {
    response.field("Upload-Limit", limits(inbox).to_string()).field("Accept-Patch", CONTENT_TYPE)
}

/// What a request with a body asks for, if it wants to be resumable.
pub(in super::super) fn creation(inbox: &Inbox, request: &mut Request) -> Result<Option<Creation>, Problem> {
    let content_length = request.body().remaining();
    Creation::parse(request.fields(), content_length, &limits(inbox))
}

/// Answers a PUT or POST that wants to be resumable.
pub(in super::super) async fn create(
    inbox: &Rc<Inbox>,
    request: Request,
    creation: Creation,
    target: Option<Target>,
) -> Result<Response, Refusal> {
    let only_new = request.wants_new();
    let wish = Wish { length: creation.length, target, only_new, file_name: None, metadata: None, concat: None };
    let held = Held::create(inbox, wish).await?;
    let route = route_of(&request).to_owned();
    let location = held.location(&route, request.query());
    let limits = limits(inbox);
    let informs = Informant::of(&request, location.clone(), &limits);
    let mut body = request.into_body();
    if let Some(informant) = &informs {
        informant.begin(&mut body).await?;
    }
    let addition = Addition { body, checksum: None, informs, completes: creation.complete };
    let response = add(held, addition, &route, StatusCode::CREATED).await?;
    Ok(response.field("Location", location).field("Upload-Limit", limits.to_string()))
}

/// Answers what is asked of an upload.
pub(in super::super) async fn resource(inbox: &Rc<Inbox>, request: Request, id: &str) -> Result<Response, Refusal> {
    match *request.method() {
        Method::HEAD => head(inbox, id).await,
        Method::PATCH => append(inbox, request, id).await,
        Method::DELETE => super::terminate(inbox, id).await,
        _ => Ok(super::use_another_method()),
    }
}

async fn head(inbox: &Rc<Inbox>, id: &str) -> Result<Response, Refusal> {
    let held = Held::open(inbox, id).await?;
    let record = held.record();
    let response = Response::new(StatusCode::NO_CONTENT)
        .field("Upload-Offset", record.offset.to_string())
        .field("Upload-Complete", boolean(record.is_whole()))
        .field("Upload-Limit", limits(inbox).to_string())
        .field("Cache-Control", "no-store");
    Ok(match record.length {
        Some(length) => response.field("Upload-Length", length.to_string()),
        None => response,
    })
}

async fn append(inbox: &Rc<Inbox>, mut request: Request, id: &str) -> Result<Response, Refusal> {
    let content_length = request.body().remaining();
    let append = match Append::parse(request.fields(), content_length, &limits(inbox)) {
        Ok(append) => append,
        Err(refused) => return Ok(problem(inbox, refused)),
    };
    let mut held = Held::open(inbox, id).await?;
    let record = held.record();
    let offset = record.offset;
    let refused = if record.is_whole() {
        Some(Problem::Completed)
    } else if append.offset != offset {
        Some(Problem::OffsetMismatch { expected: offset, provided: append.offset })
    } else {
        None
    };
    if let Some(refused) = refused {
        return Ok(problem(inbox, refused).field("Upload-Offset", offset.to_string()));
    }
    match append.length_with(record.length) {
        Ok(Some(length)) => held.set_length(length),
        Ok(None) => {}
        Err(refused) => return Ok(problem(inbox, refused).field("Upload-Offset", offset.to_string())),
    }
    let route = route_of(&request).to_owned();
    let location = held.location(&route, request.query());
    let informs = Informant::of(&request, location, &limits(inbox));
    let addition = Addition { body: request.into_body(), checksum: None, informs, completes: append.complete };
    add(held, addition, &route, StatusCode::OK).await
}

/// Adds a body, and answers for the file if that was the last of it.
async fn add(held: Held, addition: Addition, route: &str, whole: StatusCode) -> Result<Response, Refusal> {
    let (held, appended) = held.append(addition).await;
    if let Appended::Broken(refusal) = appended {
        return Err(refusal);
    }
    let record = held.record();
    let is_whole = record.stored.is_some();
    let mut head = ResponseHead::new(if is_whole { whole } else { StatusCode::CREATED });
    head.field_number("Upload-Offset", record.offset);
    head.field("Upload-Complete", boolean(is_whole).as_bytes());
    if !is_whole {
        return Ok(Response::from_head(head));
    }
    held.describe(&mut head, route);
    Ok(Response::from_head(head).with_json(held.receipt(route)))
}

/// The reply that the draft wants for a refusal of its own.
pub(in super::super) fn problem(inbox: &Inbox, problem: Problem) -> Response {
    let mut response = Response::new(problem.status()).field("Content-Type", PROBLEM_TYPE);
    if matches!(problem, Problem::TooLarge | Problem::TooSmall) {
        response = response.field("Upload-Limit", limits(inbox).to_string());
    }
    response.with_body(problem.problem())
}
