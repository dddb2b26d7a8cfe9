//! Forms: every part with a file's name becomes a file, every other one a text field of the reply.
//!
//! The files stay without names until the form is whole, so that one that breaks off, or breaks a limit in its last part,
//! leaves nothing (U2). Names and text fields are kept in memory, within a bound that all forms of a worker share.

use std::rc::Rc;

use http::StatusCode;

use super::quota::Reservation;
use super::reply::{Receipt, Stored, TextField};
use super::{Inbox, route_of};
use crate::config::{Names, OnConflict};
use crate::http::{Chunk, Draft, FormEvent, PartHead, Refusal, Request, Response, Share, Sink, Target, look_up};
use crate::limits::Limits;
use crate::proto::http1::encode::ResponseHead;
use crate::proto::media_type::SNIFF_LEN;
use crate::proto::multipart::Refusal as FormRefusal;
use crate::proto::upload_name;
use crate::rt::fs::File;

/// Stores the files of a form.
pub(super) async fn post(inbox: &Rc<Inbox>, request: Request) -> Result<Response, Refusal> {
    let route = route_of(&request).to_owned();
    let config = &inbox.config;
    let reservation = inbox.quota.as_ref().map(|quota| quota.reserve(0).ok_or_else(Refusal::full)).transpose()?;
    let mut form = request.multipart_within(config.file_len, config.total_len)?.in_large_pieces();
    let folder = Rc::new(inbox.open_folder().await?);
    let mut intake = inbox.intake();
    let mut reception = Reception {
        inbox: inbox.clone(),
        folder: folder.clone(),
        reservation,
        share: inbox.worker.forms.take(inbox.worker.limits.form_part_head_len + SNIFF_LEN).ok_or_else(Refusal::busy)?,
        uploads: inbox.upload_share()?,
        part: None,
        files: Vec::new(),
        fields: Vec::new(),
    };
    loop {
        let has_come = form.has_input();
        let event = intake.next(reception.sink(), has_come, |cx| form.poll_event(cx)).await;
        let Some(event) = event.map_err(|error| Refusal::failed("a file can't be written", error))? else { break };
        match event? {
            FormEvent::Start(head) => reception.start(head).await?,
            FormEvent::Data(piece) => {
                intake.count(piece.len());
                reception.take(piece)?;
            }
            FormEvent::End => reception.end().await?,
        }
    }
    drop(form);
    let commit = inbox.worker.runtime.spawn(reception.commit(route));
    // The share lasts until the receipt is printed, and that is counted itself.
    let (receipt, _share) = commit.lasting().await?;
    let printed = inbox.worker.forms.print(&receipt).ok_or_else(Refusal::busy)?;
    Ok(Response::from_head(ResponseHead::new(StatusCode::CREATED)).with_json(printed))
}

/// What has come of a form.
struct Reception {
    inbox: Rc<Inbox>,
    folder: Rc<File>,
    reservation: Option<Reservation>,
    /// For the memory that names and fields take.
    share: Share,
    /// For the files.
    uploads: Share,
    part: Option<Part>,
    files: Vec<Received>,
    fields: Vec<TextField>,
}

/// The part that comes in.
enum Part {
    File(Box<Incoming>),
    Field {
        name: String,
        value: Vec<u8>,
    },
    /// A file input in which nothing was chosen.
    NoFile,
}

struct Incoming {
    field: String,
    file_name: String,
    draft: Draft,
    sink: Sink,
}

/// A file that is whole and has no name yet.
struct Received {
    field: String,
    file_name: String,
    target: Target,
    draft: Draft,
    size: u64,
    media_type: &'static str,
    sha256: Option<String>,
}

impl Reception {
    /// Where the file goes that comes in.
    fn sink(&mut self) -> Option<&mut Sink> {
        match &mut self.part {
            Some(Part::File(incoming)) => Some(&mut incoming.sink),
            _ => None,
        }
    }

    async fn start(&mut self, head: PartHead) -> Result<(), Refusal> {
        let (field, file_name) = (head.name, head.file_name);
        let names = field.len() + file_name.as_ref().map_or(0, String::len);
        self.share.extend(Limits::FORM_PART_BYTES + names).ok_or_else(Refusal::busy)?;
        let Some(file_name) = file_name else {
            self.part = Some(Part::Field { name: field, value: Vec::new() });
            return Ok(());
        };
        if file_name.is_empty() {
            self.part = Some(Part::NoFile);
            return Ok(());
        }
        let allowed = &self.inbox.config.file_fields;
        if !allowed.is_empty() && !allowed.contains(&field) {
            let refusal = FormRefusal::UnexpectedFile;
            return Err(Refusal::new(refusal.status(), refusal.code(), refusal.to_string()));
        }
        let cleaned = upload_name::clean(&file_name)?;
        if self.inbox.config.names == Names::Client {
            self.inbox.check_name(&cleaned)?;
        }
        self.uploads.extend(1).ok_or_else(Refusal::busy)?;
        let draft = Draft::create(&self.folder, &self.folder).await;
        let draft = draft.map_err(|error| Refusal::failed("a file can't be made", error))?;
        let sink = Sink::new(draft.file.clone(), self.inbox.config.sha256);
        self.part = Some(Part::File(Box::new(Incoming { field, file_name: cleaned, draft, sink })));
        Ok(())
    }

    fn take(&mut self, piece: Chunk) -> Result<(), Refusal> {
        match &mut self.part {
            Some(Part::File(incoming)) => {
                if self.reservation.as_mut().is_some_and(|reserved| !reserved.extend(piece.len() as u64)) {
                    return Err(Refusal::full());
                }
                incoming.sink.push(piece);
                if let Some(media_type) = incoming.sink.media_type() {
                    self.inbox.check_type(media_type)?;
                }
            }
            Some(Part::Field { value, .. }) => {
                // A vector doubles as it grows, and the text made of it may be three times as long.
                self.share.extend(piece.len().saturating_mul(3)).ok_or_else(Refusal::busy)?;
                value.extend_from_slice(&piece);
            }
            Some(Part::NoFile) => {
                let text = "A file has bytes but no name.";
                return Err(Refusal::new(StatusCode::BAD_REQUEST, "NAME", text));
            }
            None => {}
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Refusal> {
        match self.part.take() {
            Some(Part::File(incoming)) => {
                let Incoming { field, file_name, draft, mut sink } = *incoming;
                sink.flush().await.map_err(|error| Refusal::failed("a file can't be written", error))?;
                let media_type = sink.final_media_type();
                self.inbox.check_type(media_type)?;
                let name = match self.inbox.config.names {
                    Names::Client => file_name.clone(),
                    Names::Generated => self.inbox.generated_name(Some(&file_name), media_type)?,
                };
                let (size, sha256) = (sink.len(), sink.sha256());
                let target = Target::in_folder(name);
                self.files.push(Received { field, file_name, target, draft, size, media_type, sha256 });
            }
            Some(Part::Field { name, value }) => {
                let value = String::from_utf8(value)
                    .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
                self.fields.push(TextField { name, value });
            }
            Some(Part::NoFile) | None => {}
        }
        Ok(())
    }

    /// Gives every file its name, or none of them; only what took the place of an older file stays, because that is gone.
    async fn commit(self, route: String) -> Result<(Receipt, Share), Refusal> {
        let Reception { inbox, folder, reservation, share, uploads: _uploads, files, fields, .. } = self;
        if inbox.config.on_conflict == OnConflict::Replace {
            // What can't be replaced is refused before anything is.
            for file in &files {
                look_up(&folder, &file.target.name).await?;
            }
        }
        let mut stored: Vec<Stored> = Vec::with_capacity(files.len());
        let (mut new, mut all_replaced) = (Vec::new(), None);
        for file in files {
            let Received { field, file_name, target, draft, size, media_type, sha256 } = file;
            let config = &inbox.config;
            let replaced = match config.on_conflict {
                OnConflict::Replace => look_up(&folder, &target.name).await.unwrap_or_default(),
                OnConflict::Reject | OnConflict::Rename => None,
            };
            match draft.place(&folder, &folder, &target.name, config.on_conflict, config.fsync).await {
                Ok(name) => {
                    match replaced {
                        Some(replaced) => *all_replaced.get_or_insert(0) += replaced,
                        None => new.push(name.clone()),
                    }
                    let url = inbox.url_of(&route, &name);
                    let (field, file_name, media_type) = (Some(field), Some(file_name), media_type.into());
                    stored.push(Stored { field, name, url, size, media_type, sha256, file_name });
                }
                Err(error) => {
                    for name in &new {
                        // Best effort: the reply says what went wrong first.
                        let _ = folder.unlink(name.as_bytes()).await;
                    }
                    inbox.keep(None, 0, all_replaced);
                    return Err(Refusal::failed("a file can't be put in its place", error));
                }
            }
        }
        inbox.keep(reservation, stored.iter().map(|file| file.size).sum(), all_replaced);
        inbox.worker.metrics.files_stored.add(stored.len() as u64);
        Ok((Receipt { files: stored, fields }, share))
    }
}
