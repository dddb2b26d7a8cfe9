//! tus 1.0 (<https://tus.io/protocols/resumable-upload>) with its extensions (U4): what a request asks for, and what is said of it.
//!
//! Every reply carries Tus-Resumable, refusals too: [`spoken`].

use std::rc::Rc;

use http::{Method, StatusCode};

use super::super::{Inbox, route_of};
use super::pieces::Pieces;
use super::{Addition, Appended, Held, STORE, Wish};
use crate::http::{Refusal, Request, Response, Target};
use crate::limits::Limits;
use crate::proto::tus::{
    self, Append, CHECKSUM_ALGORITHMS, Checksum, Concat, Creation, EXTENSIONS, UploadLength, VERSION,
};

/// Whether the request speaks tus, in whichever version.
pub(in super::super) fn is_spoken(request: &Request) -> bool {
    let fields = request.fields();
    if *request.method() == Method::OPTIONS {
        // The one request in which the field means nothing.
        return false;
    }
    let is_append = *request.method() == Method::PATCH && tus::check_content_type(fields).is_ok();
    fields.contains("Tus-Resumable") || is_append
}

/// What OPTIONS tells about the protocol.
pub(in super::super) fn announce(inbox: &Inbox, response: Response) -> Response {
    spoken(response)
        .field("Tus-Version", VERSION)
        .field("Tus-Extension", EXTENSIONS)
        .field("Tus-Checksum-Algorithm", CHECKSUM_ALGORITHMS)
        .field("Tus-Max-Size", inbox.config.file_len.to_string())
}

/// Answers what is asked of an upload.
pub(in super::super) async fn resource(inbox: &Rc<Inbox>, request: Request, id: &str) -> Result<Response, Refusal> {
    let method = tus::overriding_method(request.method(), request.fields());
    let method = method.as_ref().unwrap_or(request.method()).clone();
    tus::check_version(request.fields())?;
    match method {
        Method::HEAD => head(inbox, &request, id).await,
        Method::PATCH => append(inbox, request, id).await,
        Method::DELETE => super::terminate(inbox, id).await,
        _ => Ok(super::use_another_method()),
    }
}

/// Any reply to a request of tus.
pub(in super::super) fn spoken(response: Response) -> Response {
    response.field("Tus-Resumable", VERSION)
}

impl From<tus::Refusal> for Refusal {
    fn from(refusal: tus::Refusal) -> Self {
        let refused = Refusal::new(refusal.status(), "TUS", format!("{refusal}."));
        if refusal == tus::Refusal::Version { refused.with_field("Tus-Version", VERSION) } else { refused }
    }
}

/// Answers a POST that creates an upload; what it becomes has the name that the path asked for, if it did.
pub(in super::super) async fn create(
    inbox: &Rc<Inbox>,
    mut request: Request,
    target: Option<Target>,
) -> Result<Response, Refusal> {
    tus::check_version(request.fields())?;
    let creation = Creation::parse(request.fields(), inbox.config.file_len)?;
    check_bounds(&creation)?;
    let brings_bytes = request.body().remaining() != Some(0);
    let checksum = if brings_bytes {
        tus::check_content_type(request.fields())?;
        Checksum::parse(request.fields())?
    } else {
        None
    };
    let mut parts: Vec<Pieces> = Vec::new();
    let length = match (&creation.length, &creation.concat) {
        (UploadLength::OfParts, Concat::Final(urls)) => {
            for (number, url) in urls.iter().enumerate() {
                // One that is there already is held here: it can't be opened again.
                let part = match urls[..number].iter().position(|earlier| id_of(earlier) == id_of(url)) {
                    Some(earlier) => parts[earlier].clone(),
                    None => Held::open(inbox, id_of(url)).await?.into_pieces()?,
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
    let wish = Wish { length, target, only_new: false, file_name, metadata: text, concat };
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

/// What is kept of an upload, and how many are open at once for one, is bounded.
fn check_bounds(creation: &Creation) -> Result<(), Refusal> {
    let (parts, parts_len) = match &creation.concat {
        Concat::Final(urls) => (urls.len(), urls.iter().map(String::len).sum()),
        Concat::None | Concat::Partial => (0, 0),
    };
    let is_too_much = parts > Limits::UPLOAD_PARTS || parts_len > Limits::UPLOAD_CONCAT_LEN;
    if is_too_much || creation.metadata.text().len() > Limits::UPLOAD_METADATA_LEN {
        let (len, parts, parts_len) = (Limits::UPLOAD_METADATA_LEN, Limits::UPLOAD_PARTS, Limits::UPLOAD_CONCAT_LEN);
        let text = format!("Upload-Metadata may have {len} bytes, Upload-Concat {parts} uploads in {parts_len} bytes.");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "LIMIT_METADATA", text));
    }
    Ok(())
}

/// The number of the upload that a URL names.
fn id_of(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.rsplit_once(&format!("/{STORE}/")).map_or("", |(_, id)| id)
}
