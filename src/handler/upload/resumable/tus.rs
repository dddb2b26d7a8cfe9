//! tus 1.0 (<https://tus.io/protocols/resumable-upload>) with its extensions (U4): what a request asks for, and what is said of it.
//!
//! Every reply carries Tus-Resumable, refusals too.

use std::rc::Rc;

use http::{Method, StatusCode};

use super::super::refusal::Refusal;
use super::super::{Inbox, route_of};
use super::{Addition, Appended, Held, Pieces, STORE, Wish};
use crate::http::{Request, Response};
use crate::proto::tus::{
    self, Append, CHECKSUM_ALGORITHMS, Checksum, Concat, Creation, EXTENSIONS, UploadLength, VERSION,
};

/// Whether the request speaks tus, in whichever version.
pub(in super::super) fn is_spoken(request: &Request) -> bool {
    let fields = request.fields();
    let is_append = *request.method() == Method::PATCH && tus::check_content_type(fields).is_ok();
    fields.contains("Tus-Resumable") || is_append
}

/// What OPTIONS tells about the protocol.
pub(in super::super) fn announce(inbox: &Inbox, response: Response) -> Response {
    response
        .field("Tus-Resumable", VERSION)
        .field("Tus-Version", VERSION)
        .field("Tus-Extension", EXTENSIONS)
        .field("Tus-Checksum-Algorithm", CHECKSUM_ALGORITHMS)
        .field("Tus-Max-Size", inbox.config.file_len.to_string())
}

/// Answers a POST that creates an upload.
pub(in super::super) async fn create(inbox: &Rc<Inbox>, request: Request) -> Response {
    spoken(create_upload(inbox, request).await)
}

/// Answers what is asked of an upload.
pub(in super::super) async fn resource(inbox: &Rc<Inbox>, request: Request, id: &str) -> Response {
    let method = tus::overriding_method(request.method(), request.fields());
    let method = method.as_ref().unwrap_or(request.method()).clone();
    let answer = match tus::check_version(request.fields()) {
        Err(refusal) => Err(refusal.into()),
        Ok(()) => match method {
            Method::HEAD => head(inbox, &request, id).await,
            Method::PATCH => append(inbox, request, id).await,
            Method::DELETE => terminate(inbox, id).await,
            _ => Ok(Response::problem(StatusCode::METHOD_NOT_ALLOWED, "METHOD", "Use HEAD, PATCH or DELETE.")
                .field("Allow", "HEAD, PATCH, DELETE, OPTIONS")),
        },
    };
    spoken(answer)
}

fn spoken(answer: Result<Response, Refusal>) -> Response {
    answer.unwrap_or_else(Response::from).field("Tus-Resumable", VERSION)
}

impl From<tus::Refusal> for Refusal {
    fn from(refusal: tus::Refusal) -> Self {
        let refused = Refusal::new(refusal.status(), "TUS", format!("{refusal}."));
        if refusal == tus::Refusal::Version { refused.with_field("Tus-Version", VERSION) } else { refused }
    }
}

async fn create_upload(inbox: &Rc<Inbox>, mut request: Request) -> Result<Response, Refusal> {
    tus::check_version(request.fields())?;
    let creation = Creation::parse(request.fields(), inbox.config.file_len)?;
    let brings_bytes = request.body().remaining() != Some(0);
    let checksum = if brings_bytes {
        tus::check_content_type(request.fields())?;
        Checksum::parse(request.fields())?
    } else {
        None
    };
    let mut parts = Vec::new();
    let length = match (&creation.length, &creation.concat) {
        (UploadLength::OfParts, Concat::Final(urls)) => {
            for (at, url) in urls.iter().enumerate() {
                // One that stands there twice is held already.
                let part = match urls[..at].iter().position(|earlier| id_of(earlier) == id_of(url)) {
                    Some(earlier) => Pieces::clone(&parts[earlier]),
                    None => Pieces::of_partial(inbox, id_of(url)).await?,
                };
                parts.push(part);
            }
            let length = parts.iter().fold(0, |sum: u64, part| sum.saturating_add(part.len()));
            if length > inbox.config.file_len {
                return Err(Refusal::too_large(inbox.config.file_len));
            }
            Some(length)
        }
        (UploadLength::Known(length), _) => Some(*length),
        (UploadLength::Deferred | UploadLength::OfParts, _) => None,
    };
    let concat = match &creation.concat {
        Concat::None => None,
        Concat::Partial => Some(String::from("partial")),
        Concat::Final(urls) => Some(format!("final;{}", urls.join(" "))),
    };
    let is_final = matches!(creation.concat, Concat::Final(_));
    let metadata = creation.metadata;
    let file_name = metadata.get("filename").map(|name| String::from_utf8_lossy(name).into_owned());
    let text = Some(metadata.text().to_owned()).filter(|text| !text.is_empty());
    let wish = Wish { length, target: None, file_name, metadata: text, concat };
    let held = Held::create(inbox, wish).await?;

    let route = route_of(&request).to_owned();
    let location = held.location(&route, request.query());
    let response =
        Response::new(StatusCode::CREATED).field("Location", &location).field("Upload-Expires", held.expires());
    let (held, appended) = if is_final {
        held.concatenate(parts).await
    } else if brings_bytes || length == Some(0) {
        // An upload without bytes is whole at once.
        held.append(Addition { body: request.into_body(), checksum, informs: None, completes: false }).await
    } else {
        (held, Appended::Whole)
    };
    match appended {
        Appended::Whole => {}
        // The upload is there, with what came; a client that reads this can go on with it.
        Appended::Broken(refusal) => return Err(refusal.with_field("Location", location)),
    }
    let mut response =
        if brings_bytes { response.field("Upload-Offset", held.record().offset.to_string()) } else { response };
    held.describe(response.head_mut(), &route);
    Ok(response)
}

async fn head(inbox: &Rc<Inbox>, request: &Request, id: &str) -> Result<Response, Refusal> {
    let held = Held::open(inbox, id).await?;
    let record = held.record();
    let mut response = Response::new(StatusCode::OK)
        .field("Upload-Offset", record.offset.to_string())
        .field("Cache-Control", "no-store");
    response = match record.length {
        Some(length) => response.field("Upload-Length", length.to_string()),
        None => response.field("Upload-Defer-Length", "1"),
    };
    if let Some(metadata) = &record.metadata {
        response = response.field("Upload-Metadata", metadata);
    }
    if let Some(concat) = &record.concat {
        response = response.field("Upload-Concat", concat);
    }
    if record.stored.is_none() {
        response = response.field("Upload-Expires", held.expires());
    }
    held.describe(response.head_mut(), route_of(request));
    Ok(response)
}

async fn append(inbox: &Rc<Inbox>, request: Request, id: &str) -> Result<Response, Refusal> {
    let append = Append::parse(request.fields(), inbox.config.file_len)?;
    let mut held = Held::open(inbox, id).await?;
    let record = held.record();
    if record.concat.as_deref().is_some_and(|concat| concat.starts_with("final")) {
        return Err(tus::Refusal::AppendToFinal.into());
    }
    if append.offset != record.offset {
        return Err(tus::Refusal::OffsetMismatch.into());
    }
    match (record.length, append.length) {
        (None, Some(length)) => held.set_length(length),
        (Some(known), Some(told)) if known != told => return Err(tus::Refusal::Length.into()),
        _ => {}
    }
    let route = route_of(&request).to_owned();
    let addition = Addition { body: request.into_body(), checksum: append.checksum, informs: None, completes: false };
    let (held, appended) = held.append(addition).await;
    if let Appended::Broken(refusal) = appended {
        return Err(refusal);
    }
    let mut response = Response::new(StatusCode::NO_CONTENT).field("Upload-Offset", held.record().offset.to_string());
    if held.record().stored.is_none() {
        response = response.field("Upload-Expires", held.expires());
    }
    held.describe(response.head_mut(), &route);
    Ok(response)
}

async fn terminate(inbox: &Rc<Inbox>, id: &str) -> Result<Response, Refusal> {
    Held::terminate(inbox, id).await?;
    Ok(Response::new(StatusCode::NO_CONTENT))
}

/// The number of the upload that a URL names.
fn id_of(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.rsplit_once(&format!("/{STORE}/")).map_or("", |(_, id)| id)
}
