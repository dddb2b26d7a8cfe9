//! Uploads that can be resumed: bytes and a record in the store, whatever protocol brings them.
//!
//! ```text
//!   create ─▶ .uploads/<id>        bytes, written as they come        append ─▶ … ─▶ finish: named, linked into place,
//!             .uploads/<id>.json   record: what is there for sure                    taken out of the store
//! ```
//!
//! Nothing of an upload is kept in memory between requests: whichever worker or process gets the next one reads the record, so
//! a restart is no special case. An append goes on to its end as a task of its own, also when its client is gone, because what
//! came before that is to be kept.

pub(super) mod ietf;
pub(super) mod locks;
mod pieces;
mod record;
mod stream;
pub(super) mod sweep;
pub(super) mod tus;

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use http::StatusCode;
use sha2::{Digest, Sha256};

use self::locks::Lock;
use self::pieces::Pieces;
use self::record::{Placed, Record, record_name};
use self::stream::{Check, Stream};
use super::intake::Intake;
use super::reply::{Receipt, Stored};
use super::{Inbox, raw};
use crate::config::{Names, OnConflict};
use crate::http::{
    BodyReader, Chunk, Draft, Refusal, Response, STORE, Share, Sink, Target, hex, look_up, open_store, random_name,
};
use crate::limits::Limits;
use crate::proto::http1::encode::{ResponseHead, http_date};
use crate::proto::media_type::{self, SNIFF_LEN};
use crate::proto::tus::Checksum;
use crate::proto::upload_name;
use crate::rt::fs::File;
use crate::rt::timer::{Timer, sleep};

/// What a client wants to upload.
pub(super) struct Wish {
    /// How many bytes it will have, if it is known.
    pub length: Option<u64>,
    /// The place that the request's path names.
    pub target: Option<Target>,
    /// See [`Record::only_new`].
    pub only_new: bool,
    /// What the client calls the file.
    pub file_name: Option<String>,
    /// See [`Record::metadata`].
    pub metadata: Option<String>,
    /// See [`Record::concat`].
    pub concat: Option<String>,
}

/// An upload that this request has for itself.
pub(super) struct Held {
    inbox: Rc<Inbox>,
    id: String,
    folder: Rc<File>,
    store: Rc<File>,
    /// Its bytes; once the file is in its place there are none in the store.
    file: Option<Rc<File>>,
    record: Record,
    /// When it was last gone on with, since 1970.
    changed: Duration,
    lock: Lock,
    /// Its place among the files that come in.
    share: Share,
}

/// What a request adds to an upload.
pub(super) struct Addition {
    pub body: BodyReader,
    /// What its bytes have to be, if anything is to be kept of them.
    pub checksum: Option<Checksum>,
    /// Where the client is told how far it is.
    pub informs: Option<ietf::Informant>,
    /// Whether the upload ends where the body does.
    pub completes: bool,
}

/// How an append ended. What the record says is there either way.
pub(super) enum Appended {
    /// The body came to its end.
    Whole,
    /// It broke off: the client is gone, another request took over, or it can't go on.
    Broken(Refusal),
}

impl Held {
    /// A new upload. It is made whole, with its record, also when nobody waits for it any more: it can be swept then.
    pub async fn create(inbox: &Rc<Inbox>, wish: Wish) -> Result<Self, Refusal> {
        let own = inbox.clone();
        inbox.worker.runtime.spawn(async move { Held::make(&own, wish).await }).lasting().await
    }

    async fn make(inbox: &Rc<Inbox>, wish: Wish) -> Result<Self, Refusal> {
        let share = inbox.upload_share()?;
        let (directory, name) = inbox.decide_place(&wish)?;
        // The room is taken by the bytes that come.
        drop(inbox.admit(wish.length)?);
        let folder = Rc::new(inbox.open_folder().await?);
        let target = name.clone().map(|name| Target { directory: directory.clone(), name });
        if let Some(target) = &target {
            inbox.check_free(&folder, target, wish.only_new).await?;
        }
        let in_store = |error| Refusal::failed("an upload can't be made", error);
        let store = Rc::new(open_store(&folder, STORE).await.map_err(in_store)?);
        let id = random_name().map_err(in_store)?;
        let lock = inbox.locks.hold(&id).await;
        let file = Rc::new(store.create(id.as_bytes()).await.map_err(in_store)?);
        let mut record = Record {
            length: wish.length,
            directory,
            name,
            only_new: wish.only_new,
            file_name: wish.file_name,
            metadata: wish.metadata,
            concat: wish.concat,
            ..Record::default()
        };
        record.advance(0, inbox.config.sha256.then(Sha256::new).as_ref());
        let changed = since_1970(inbox);
        let (inbox, file) = (inbox.clone(), Some(file));
        let mut held = Held { inbox, id, folder, store, file, record, changed, lock, share };
        let begun = match held.file.as_ref().map_or(Ok(()), |file| file.try_lock()) {
            Ok(()) => held.save().await,
            Err(error) => Err(error),
        };
        match begun {
            Ok(()) => Ok(held),
            Err(error) => {
                held.discard().await;
                Err(in_store(error))
            }
        }
    }

    /// The upload with this number, as soon as whoever has it has let go. One that became whole just before a crash is put in
    /// its place.
    pub async fn open(inbox: &Rc<Inbox>, id: &str) -> Result<Self, Refusal> {
        let mut held = Held::open_as_it_is(inbox, id).await?;
        if !held.record.is_whole() {
            return Ok(held);
        }
        let finishing = async move {
            held.finish_if_whole().await?;
            Ok(held)
        };
        inbox.worker.runtime.spawn(finishing).lasting().await
    }

    /// As [`Held::open`], also of an upload that can't be put in its place.
    pub async fn open_as_it_is(inbox: &Rc<Inbox>, id: &str) -> Result<Self, Refusal> {
        if !is_id(id) {
            return Err(no_upload());
        }
        let share = inbox.upload_share()?;
        let timer = Timer::new(&inbox.worker.runtime);
        timer.set_after(Limits::UPLOAD_TAKEOVER);
        let lock = timer.race(inbox.locks.hold(id)).await.map_err(|_| locked())?;
        let folder = Rc::new(inbox.open_folder().await?);
        let missing = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => no_upload(),
            io::ErrorKind::WouldBlock => locked(),
            _ => Refusal::failed("an upload can't be opened", error),
        };
        let store = Rc::new(folder.open_beneath(STORE.as_bytes()).await.map_err(missing)?);
        let (mut record, written_ns) = Record::load(&inbox.worker, &store, id).await.map_err(missing)?;
        let file = match &record.stored {
            Some(_) => None,
            None => {
                let file = store.open_writable(id.as_bytes()).await.map_err(missing)?;
                lock_file(&file, &timer).await.map_err(missing)?;
                let len = file.stat().map_err(missing)?.len;
                if len < record.offset {
                    // The machine stopped before all that the record tells of was on the disk.
                    record.advance(len, None);
                }
                Some(Rc::new(file))
            }
        };
        let changed = Duration::from_nanos(u64::try_from(written_ns).unwrap_or(0));
        Ok(Held { inbox: inbox.clone(), id: id.to_owned(), folder, store, file, record, changed, lock, share })
    }

    /// What is known of it.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Says how long it will be, which was not known before.
    pub fn set_length(&mut self, length: u64) {
        self.record.length = Some(length);
    }

    /// Where the upload is asked for and gone on with.
    pub fn location(&self, route: &str, query: Option<&str>) -> String {
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}/{STORE}/{}{query}", route.trim_end_matches('/'), self.id)
    }

    /// When it is swept unless it is gone on with.
    pub fn expires(&self) -> [u8; 29] {
        http_date((self.changed + self.inbox.config.resumable_expiry).as_secs())
    }

    /// What the reply to whom an upload became whole says of the file.
    pub fn describe(&self, head: &mut ResponseHead, route: &str) {
        if let Some(placed) = &self.record.stored {
            head.field("Content-Location", self.inbox.url_of(route, &placed.path).as_bytes());
            if let Some(digest) = placed.sha256.as_deref().and_then(unhex) {
                head.field_fmt("Repr-Digest", format_args!("sha-256=:{}:", STANDARD.encode(digest)));
            }
        }
    }

    /// The same as JSON.
    pub fn receipt(&self, route: &str) -> String {
        let stored = self.record.stored.as_ref().map(|placed| Stored {
            field: None,
            name: placed.path.clone(),
            url: self.inbox.url_of(route, &placed.path),
            size: self.record.offset,
            media_type: placed.media_type.clone().into(),
            sha256: placed.sha256.clone(),
            file_name: self.record.file_name.clone(),
        });
        Receipt { files: stored.into_iter().collect(), fields: Vec::new() }.to_string()
    }

    /// Adds a body, to the end also when nobody waits for it: see the module.
    pub async fn append(self, addition: Addition) -> (Self, Appended) {
        let runtime = self.inbox.worker.runtime.clone();
        runtime.spawn(self.add(addition)).lasting().await
    }

    async fn add(mut self, addition: Addition) -> (Self, Appended) {
        let result = self.receive(addition).await;
        let finished = match result {
            Ok(()) => self.finish_if_whole().await,
            Err(refusal) => Err(refusal),
        };
        match finished {
            Ok(()) => (self, Appended::Whole),
            Err(refusal) => (self, Appended::Broken(refusal)),
        }
    }

    /// Receives until the body's end, and keeps what came even if that is not reached.
    async fn receive(&mut self, mut addition: Addition) -> Result<(), Refusal> {
        let Some(file) = self.file.clone() else {
            // It is a file already, and takes no bytes.
            return match addition.body.next().await {
                Some(Ok(_)) => Err(Refusal::too_large(self.record.offset)),
                _ => Ok(()),
            };
        };
        // There may be more than the bound, which another configuration has set.
        let limit = self.record.length.unwrap_or(self.inbox.config.file_len);
        let most = limit.checked_sub(self.record.offset).ok_or_else(|| Refusal::too_large(limit))?;
        let announced = addition.body.remaining();
        if announced.is_some_and(|announced| announced > most) {
            return Err(Refusal::too_large(self.record.offset + most));
        }
        let reservation = self.inbox.admit(announced)?;
        if let Some(announced) = announced {
            // For this request alone: an upload that is only announced takes no space.
            file.allocate(self.record.offset + announced).await.map_err(failed_to_write)?;
        }
        let hash = self.hash(&file).await?;
        let begun = self.record.offset;
        let mut stream = Stream {
            end: begun + most,
            sink: Sink::resume(file, begun, hash),
            reservation,
            is_reserved: announced.is_some(),
            check: addition.checksum.map(Check::new),
            completes: addition.completes,
        };
        let ended = self.fill(&mut stream, addition.body, addition.informs).await;
        let kept = self.end(&mut stream, ended).await;
        // A write that is still under way must not come after those of the next request.
        stream.sink.settle().await;
        self.inbox.keep(stream.reservation, self.record.offset - begun, None);
        kept
    }

    /// Takes the body to its end, or to where it breaks off.
    async fn fill(
        &mut self,
        stream: &mut Stream,
        body: BodyReader,
        mut informs: Option<ietf::Informant>,
    ) -> Result<(), Refusal> {
        let mut body = body.in_large_pieces();
        let mut intake = self.inbox.intake();
        loop {
            let Some(piece) = self.next_piece(stream, &mut intake, &mut body).await? else { return Ok(()) };
            intake.count(piece.len());
            stream.take(piece)?;
            if stream.check.is_none() && stream.sink.len() - self.record.offset >= Limits::UPLOAD_CHECKPOINT {
                self.keep(&mut stream.sink).await?;
                if let Some(informant) = &mut informs {
                    informant.progress(&mut body, self.record.offset).await;
                }
            }
        }
    }

    /// What comes next of the body, unless the upload is to be given up.
    async fn next_piece(
        &self,
        stream: &mut Stream,
        intake: &mut Intake,
        body: &mut BodyReader,
    ) -> Result<Option<Chunk>, Refusal> {
        let mut next = pin!(intake.next(Some(&mut stream.sink), false, |cx| body.poll_next_unpin(cx)));
        // Asked for first: neither a disk nor a rate may hold up the client that comes back.
        let piece = std::future::poll_fn(|cx| match self.lock.poll_asked_to_stop(cx) {
            Poll::Ready(()) => Poll::Ready(Err(taken_over())),
            Poll::Pending => next.as_mut().poll(cx).map_err(failed_to_write),
        });
        piece.await?.transpose().map_err(|error| Refusal::broken(&error))
    }

    /// Keeps what came, unless it is not what it had to be.
    async fn end(&mut self, stream: &mut Stream, ended: Result<(), Refusal>) -> Result<(), Refusal> {
        if let Some(check) = stream.check.take() {
            // Bytes that can't be checked to their end are not kept.
            ended?;
            if !check.holds() {
                return Err(checksum_mismatch());
            }
            return self.keep(&mut stream.sink).await;
        }
        if ended.is_ok() && stream.completes {
            if self.record.length.is_some_and(|length| length != stream.sink.len()) {
                return Err(Refusal::new(StatusCode::BAD_REQUEST, "LENGTH", "The upload ends before its length."));
            }
            self.record.length = Some(stream.sink.len());
        }
        self.keep(&mut stream.sink).await?;
        ended
    }

    /// Writes down that all that the sink was given is there.
    async fn keep(&mut self, sink: &mut Sink) -> Result<(), Refusal> {
        sink.flush().await.map_err(failed_to_write)?;
        if self.inbox.config.fsync != crate::config::Fsync::None
            && let Some(file) = &self.file
        {
            file.sync().await.map_err(failed_to_write)?;
        }
        self.record.advance(sink.len(), sink.hash());
        self.save().await.map_err(failed_to_write)
    }

    /// Puts an upload in its place that has all its bytes and is a file of its own.
    async fn finish_if_whole(&mut self) -> Result<(), Refusal> {
        let Some(file) = self.file.clone().filter(|_| self.record.is_whole() && !self.record.is_partial()) else {
            return Ok(());
        };
        let failed = |error| Refusal::failed("an upload can't be put in its place", error);
        let media_type = self.sniff(&file).await.map_err(failed)?;
        if let Err(refusal) = self.inbox.check_type(media_type) {
            self.discard().await;
            return Err(refusal);
        }
        // What is not known to be behind the end would become part of the file.
        if file.stat().map_err(failed)?.len > self.record.offset {
            file.truncate(self.record.offset).await.map_err(failed)?;
        }
        let name = match self.record.name.clone() {
            Some(name) => name,
            None => {
                let name = self.inbox.generated_name(self.record.file_name.as_deref(), media_type)?;
                // Before it is given: after a crash it has to be the same.
                self.record.name = Some(name.clone());
                self.save().await.map_err(failed)?;
                name
            }
        };
        let hash = self.hash(&file).await?;
        let target = Target { directory: self.record.directory.clone(), name };
        let directory = target.open(&self.folder).await?;
        let only_new = self.record.only_new;
        let on_conflict = self.inbox.on_conflict(only_new);
        let replaced = self.inbox.replaces(&directory, &target.name, on_conflict).await?;
        let draft = Draft::kept(file);
        let name = draft.place(&self.folder, &directory, &target.name, on_conflict, self.inbox.config.fsync).await;
        let name = name.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists if only_new => Refusal::not_new(),
            _ => failed(error),
        })?;
        let path = target.path_of(&name);
        let sha256 = hash.map(|hash| hex(&hash.finalize()));
        self.record.stored = Some(Placed { path, sha256, media_type: media_type.to_owned() });
        self.save().await.map_err(failed)?;
        self.file = None;
        self.store.forget(self.id.as_bytes());
        self.inbox.keep(None, 0, replaced);
        self.inbox.worker.metrics.files_stored.increment();
        Ok(())
    }

    /// What the file is, by its first bytes.
    async fn sniff(&self, file: &File) -> io::Result<&'static str> {
        let buf = self.inbox.worker.runtime.transfer_pool().acquire().await;
        let len = SNIFF_LEN.min(usize::try_from(self.record.offset).unwrap_or(usize::MAX));
        let (read, buf) = file.read(0, len, buf).await;
        read?;
        Ok(media_type::sniff(&buf))
    }

    /// The digest of what is there, if one is wanted; from the bytes, where the record's state means nothing here.
    async fn hash(&self, file: &Rc<File>) -> Result<Option<Sha256>, Refusal> {
        if !self.inbox.config.sha256 {
            return Ok(None);
        }
        if let Some(hash) = self.record.hash() {
            return Ok(Some(hash));
        }
        let mut hash = Sha256::new();
        let mut pieces = Pieces::of(file.clone(), self.record.offset);
        while let Some(piece) = pieces.next(&self.inbox).await? {
            hash.update(&*piece);
        }
        Ok(Some(hash))
    }

    /// The bytes of a partial upload that is whole.
    pub fn into_pieces(self) -> Result<Pieces, Refusal> {
        let Held { file, record, share, .. } = self;
        let is_part = record.is_partial() && record.is_whole();
        let file = file.filter(|_| is_part).ok_or_else(|| {
            let text = "An upload in the concatenation is not partial, or not whole.";
            Refusal::new(StatusCode::BAD_REQUEST, "CONCATENATION", text)
        })?;
        Ok(Pieces::of(file, record.offset).keeping(share))
    }

    /// Makes the upload one of these partial ones, one behind the other.
    pub async fn concatenate(mut self, parts: Vec<Pieces>) -> (Self, Appended) {
        let runtime = self.inbox.worker.runtime.clone();
        let copying = async move {
            let copied = self.copy(parts).await;
            match copied {
                Ok(()) => (self, Appended::Whole),
                Err(refusal) => {
                    // It takes no bytes from anybody else.
                    self.discard().await;
                    (self, Appended::Broken(refusal))
                }
            }
        };
        runtime.spawn(copying).lasting().await
    }

    async fn copy(&mut self, parts: Vec<Pieces>) -> Result<(), Refusal> {
        let Some(file) = self.file.clone() else { return Ok(()) };
        let reservation = self.inbox.admit(self.record.length)?;
        let mut sink = Sink::resume(file, 0, self.inbox.config.sha256.then(Sha256::new));
        for mut part in parts {
            while let Some(piece) = part.next(&self.inbox).await? {
                sink.push(piece);
                // Until it is written: who waits for a buffer must not keep one from those who wait, too.
                sink.flush().await.map_err(failed_to_write)?;
                let asked = std::future::poll_fn(|cx| Poll::Ready(self.lock.poll_asked_to_stop(cx).is_ready())).await;
                if asked {
                    return Err(taken_over());
                }
            }
        }
        self.keep(&mut sink).await?;
        self.inbox.keep(reservation, self.record.offset, None);
        self.finish_if_whole().await
    }

    /// Takes the upload away, and, if clients may delete, the file that it became.
    pub async fn terminate(self) -> Result<(), Refusal> {
        if let Some(placed) = self.record.stored.as_ref().filter(|_| self.inbox.config.delete) {
            let (directory, name) = placed.path.rsplit_once('/').unwrap_or(("", &placed.path));
            let target = Target { directory: directory.to_owned(), name: name.to_owned() };
            match raw::delete(&self.inbox, &target).await {
                Ok(_) => {}
                Err(refusal) if refusal.is_missing() => {}
                Err(refusal) => return Err(refusal),
            }
        }
        let gone = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(Refusal::failed("an upload can't be taken away", error)),
        };
        self.store.unlink(record_name(&self.id).as_bytes()).await.or_else(gone)?;
        if self.file.is_some() {
            self.store.unlink(self.id.as_bytes()).await.or_else(gone)?;
            if let Some(quota) = &self.inbox.quota {
                quota.deleted(self.record.offset);
            }
        }
        Ok(())
    }

    /// Takes an upload away that can't become anything. What can't be taken away is swept.
    async fn discard(&self) {
        let _ = self.store.unlink(record_name(&self.id).as_bytes()).await;
        let _ = self.store.unlink(self.id.as_bytes()).await;
        if let Some(quota) = &self.inbox.quota {
            quota.deleted(self.record.offset);
        }
    }

    async fn save(&mut self) -> io::Result<()> {
        self.changed = since_1970(&self.inbox);
        self.record.save(&self.store, &self.id, self.inbox.config.fsync).await
    }
}

impl Inbox {
    /// Where an upload will lie; no name yet if it depends on the bytes.
    fn decide_place(&self, wish: &Wish) -> Result<(String, Option<String>), Refusal> {
        if let Some(target) = &wish.target {
            return Ok((target.directory.clone(), Some(target.name.clone())));
        }
        match (self.config.names, &wish.file_name) {
            (Names::Client, Some(name)) => {
                let name = upload_name::clean(name)?;
                self.check_name(&name)?;
                Ok((String::new(), Some(name)))
            }
            _ => Ok((String::new(), None)),
        }
    }

    /// Whether an upload of this name could be put in its place now, before its bytes are sent.
    async fn check_free(&self, folder: &File, target: &Target, only_new: bool) -> Result<(), Refusal> {
        let directory = target.open(folder).await?;
        let is_taken = look_up(&directory, &target.name).await?.is_some();
        match self.on_conflict(only_new) {
            OnConflict::Reject if is_taken && only_new => Err(Refusal::not_new()),
            OnConflict::Reject if is_taken => Err(Refusal::taken()),
            _ => Ok(()),
        }
    }

    fn on_conflict(&self, only_new: bool) -> OnConflict {
        if only_new { OnConflict::Reject } else { self.config.on_conflict }
    }

    /// The length of the file whose place another one will take.
    async fn replaces(&self, directory: &File, name: &str, on_conflict: OnConflict) -> Result<Option<u64>, Refusal> {
        match (&self.quota, on_conflict) {
            (Some(_), OnConflict::Replace) => look_up(directory, name).await,
            _ => Ok(None),
        }
    }
}

fn since_1970(inbox: &Inbox) -> Duration {
    inbox.worker.wall_clock().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

/// As [`random_name`] makes them: nothing else leads into the store.
fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Takes the file's lock. A holder that has just let go gives it back when its file is closed, which may take a moment.
async fn lock_file(file: &File, until: &Timer) -> io::Result<()> {
    loop {
        match file.try_lock() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if until.race(sleep(Limits::UPLOAD_LOCK_RETRY)).await.is_err() {
                    return Err(error);
                }
            }
            result => return result,
        }
    }
}

/// Answers a DELETE.
async fn terminate(inbox: &Rc<Inbox>, id: &str) -> Result<Response, Refusal> {
    Held::open_as_it_is(inbox, id).await?.terminate().await?;
    Ok(Response::new(StatusCode::NO_CONTENT))
}

/// Answers any other method.
fn use_another_method() -> Response {
    Response::problem(StatusCode::METHOD_NOT_ALLOWED, "METHOD", "Use HEAD, PATCH or DELETE.")
        .field("Allow", "HEAD, PATCH, DELETE, OPTIONS")
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    digits.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
}

fn failed_to_write(error: io::Error) -> Refusal {
    Refusal::failed("an upload can't be written", error)
}

fn no_upload() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "NO_UPLOAD", "There is no such upload, or not any more.")
}

fn locked() -> Refusal {
    Refusal::new(StatusCode::LOCKED, "LOCKED", "Another request has the upload and does not let go.")
}

fn taken_over() -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "TAKEN_OVER", "Another request goes on with the upload.")
}

fn checksum_mismatch() -> Refusal {
    let refusal = crate::proto::tus::Refusal::ChecksumMismatch;
    Refusal::new(refusal.status(), "CHECKSUM", refusal.to_string())
}
