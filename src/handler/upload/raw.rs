//! A body that is one file: `PUT` and `POST` to its name, or `POST` to the folder for a name that is made up here.

use std::rc::Rc;

use futures_util::StreamExt;
use http::StatusCode;

use super::quota::Reservation;
use super::reply::{Receipt, Stored};
use super::{Inbox, route_of};
use crate::config::OnConflict;
use crate::http::{BodyReader, Draft, Refusal, Request, Response, Sink, Target, look_up};
use crate::proto::http1::encode::ResponseHead;
use crate::rt::fs::File;

/// Stores the body.
pub(super) async fn store(
    inbox: &Rc<Inbox>,
    mut request: Request,
    target: Option<Target>,
) -> Result<Response, Refusal> {
    let share = inbox.upload_share()?;
    let length = request.body().remaining();
    let reservation = inbox.admit(length)?;
    let only_new = request.wants_new();
    let on_conflict = if only_new { OnConflict::Reject } else { inbox.config.on_conflict };
    let folder = inbox.open_folder().await?;
    let directory = match &target {
        Some(target) => target.open(&folder).await?,
        None => Target::in_folder(String::new()).open(&folder).await?,
    };
    // Before the bytes are sent, which may take long. Under another policy whatever has the name keeps it, or is replaced.
    if let Some(target) = target.as_ref().filter(|_| on_conflict != OnConflict::Rename)
        && look_up(&directory, &target.name).await?.is_some()
        && on_conflict == OnConflict::Reject
    {
        return Err(if only_new { Refusal::not_new() } else { Refusal::taken() });
    }
    let draft = Draft::create(&folder, &directory).await;
    let draft = draft.map_err(|error| Refusal::failed("a file can't be made", error))?;
    draft
        .file
        .allocate(length.unwrap_or(0))
        .await
        .map_err(|error| Refusal::failed("space can't be reserved", error))?;

    let route = route_of(&request).to_owned();
    let body = request.into_body().in_large_pieces();
    let (sink, reservation) = receive(inbox, body, &draft.file, reservation).await?;
    let target = match target {
        Some(target) => target,
        None => Target::in_folder(inbox.generated_name(None, sink.final_media_type())?),
    };

    let (inbox, runtime) = (inbox.clone(), inbox.worker.runtime.clone());
    // From here on it is done whole, whether or not the client waits for it.
    let commit = runtime.spawn(async move {
        let _share = share;
        let replaced = match on_conflict {
            OnConflict::Replace => look_up(&directory, &target.name).await?,
            OnConflict::Reject | OnConflict::Rename => None,
        };
        let (size, media_type, sha256) = (sink.len(), sink.final_media_type(), sink.sha256());
        let placed = draft.place(&folder, &directory, &target.name, on_conflict, inbox.config.fsync).await;
        let stored = placed.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists if only_new => Refusal::not_new(),
            _ => Refusal::failed("a file can't be put in its place", error),
        })?;
        inbox.keep(reservation, size, replaced);
        inbox.worker.metrics.files_stored.increment();
        let name = target.path_of(&stored);
        let url = inbox.url_of(&route, &name);
        let media_type = media_type.into();
        let stored = Stored { field: None, name, url, size, media_type, sha256, file_name: None };
        Ok::<_, Refusal>((stored, replaced.is_some()))
    });
    let (stored, has_replaced) = commit.lasting().await?;
    let mut head = ResponseHead::new(if has_replaced { StatusCode::OK } else { StatusCode::CREATED });
    head.field("Location", stored.url.as_bytes());
    Ok(Response::from_head(head).with_json(Receipt { files: vec![stored], fields: Vec::new() }.to_string()))
}

/// Takes a stored file away.
pub(super) async fn delete(inbox: &Rc<Inbox>, target: &Target) -> Result<Response, Refusal> {
    let folder = inbox.open_folder().await?;
    let directory = target.open(&folder).await?;
    let missing = || Refusal::new(StatusCode::NOT_FOUND, "NO_FILE", "There is no such file.");
    let size = look_up(&directory, &target.name).await?.ok_or_else(missing)?;
    directory.unlink(target.name.as_bytes()).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => missing(),
        _ => Refusal::failed("a file can't be deleted", error),
    })?;
    if let Some(quota) = &inbox.quota {
        quota.deleted(size);
    }
    Ok(Response::new(StatusCode::NO_CONTENT))
}

/// Receives a body of one file.
async fn receive(
    inbox: &Inbox,
    mut body: BodyReader,
    file: &Rc<File>,
    mut reservation: Option<Reservation>,
) -> Result<(Sink, Option<Reservation>), Refusal> {
    let mut intake = inbox.intake();
    let mut sink = Sink::new(file.clone(), inbox.config.sha256);
    let mut left = inbox.config.file_len;
    let length_is_known = body.remaining().is_some();
    loop {
        let piece = intake.next(Some(&mut sink), false, |cx| body.poll_next_unpin(cx)).await;
        let Some(piece) = piece.map_err(|error| Refusal::failed("a file can't be written", error))? else { break };
        let piece = piece.map_err(|error| Refusal::broken(&error))?;
        left = left.checked_sub(piece.len() as u64).ok_or_else(|| Refusal::too_large(inbox.config.file_len))?;
        if !length_is_known && reservation.as_mut().is_some_and(|reserved| !reserved.extend(piece.len() as u64)) {
            return Err(Refusal::full());
        }
        intake.count(piece.len());
        sink.push(piece);
        if let Some(media_type) = sink.media_type() {
            inbox.check_type(media_type)?;
        }
    }
    inbox.check_type(sink.final_media_type())?;
    sink.flush().await.map_err(|error| Refusal::failed("a file can't be written", error))?;
    Ok((sink, reservation))
}
