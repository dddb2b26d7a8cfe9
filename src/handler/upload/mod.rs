//! Uploads: forms, raw bodies and resumable uploads become files of a folder.
//!
//! ```text
//!   body ─▶ upload buffers ─▶ (form's parts) ─▶ Sink: hash, write ─▶ Draft, without a name ─▶ place: sync, link ─▶ 201
//!            half a high         sub-slices       several writes       gone with its            by name policy and
//!            water mark                           in flight            descriptor               on_conflict
//! ```
//!
//! A request, in this order:
//! 1. what it asks for, by method, path and fields;
//! 2. what can be refused before the body is read (F8): names, lengths, quota;
//! 3. the body, as fast as the disk and the route's rate allow;
//! 4. what the bytes turned out to be: media type, digest;
//! 5. the name, and with it everybody can see the file, whole.
//!
//! Until then nothing is visible, and whatever ends the request takes all of it away.
//!
//! CORS fields go on every reply, whatever its status (H2).

mod form;
mod intake;
mod quota;
mod raw;
mod reply;
mod resumable;

use std::ops::Deref;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use http::{Method, StatusCode};

use self::intake::Intake;
use self::quota::{Quota, Reservation};
use self::resumable::locks::Locks;
use self::resumable::{ietf, sweep, tus};
use crate::config::UploadConfig;
use crate::error::Error;
use crate::http::{
    Answer, Handler, MakeHandler, Refusal, Request, Response, Share, Target, Worker, check_fields, random,
};
use crate::proto::cors::Cors;
use crate::proto::pattern::Pattern;
use crate::proto::{media_type, target, upload_name};
use crate::rt::fs::File;

/// The media type of what nothing tells of.
const UNKNOWN_TYPE: &str = "application/octet-stream";

/// A folder that takes uploads, as a handler.
#[derive(Clone, Debug)]
pub struct Upload(Arc<Shared>);

/// What the workers share of one folder.
#[derive(Debug)]
struct Shared {
    config: UploadConfig,
    cors: Option<Cors>,
    /// What the folder holds, if that is bounded.
    quota: Option<Arc<Quota>>,
    locks: Arc<Locks>,
    /// Who sweeps the folder.
    sweeper: OnceLock<Thread>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.sweeper.get().into_iter().for_each(Thread::unpark);
    }
}

impl Upload {
    /// Takes uploads into the folder that the configuration names, and sweeps it as long as it lives. With a quota, what the
    /// folder holds is counted, which takes a moment.
    ///
    /// # Errors
    /// The operator's fault: what of the configuration can't be used. The server's: no thread can be started.
    pub fn new(config: UploadConfig) -> Result<Self, Error> {
        config.check().map_err(Error::operator)?;
        let quota = config.quota.map(|limit| Quota::of(&config.dir, limit)).transpose();
        let quota = quota.map_err(|error| {
            Error::operator(format!("dir: `{}` cannot be read", config.dir.display())).because(error)
        })?;
        let cors = config.sharing();
        let shared = Arc::new(Shared { config, cors, quota, locks: Locks::of_process(), sweeper: OnceLock::new() });
        let sweeper = sweep::start(&shared);
        let sweeper = sweeper.map_err(|error| Error::server("the sweeper can't be started").because(error))?;
        shared.sweeper.get_or_init(|| sweeper);
        Ok(Upload(shared))
    }
}

impl MakeHandler for Upload {
    fn make(&self, worker: &Rc<Worker>) -> Rc<dyn Handler> {
        Rc::new(UploadHandler(Rc::new(Inbox::new(&self.0, worker))))
    }
}

struct UploadHandler(Rc<Inbox>);

impl Handler for UploadHandler {
    fn call(&self, request: Request) -> Answer {
        if let Some(response) = self.0.preflight(&request) {
            return response.into();
        }
        let inbox = self.0.clone();
        Answer::Later(Box::pin(async move {
            let shared = inbox.cors.as_ref().map(|cors| cors.reply_fields(request.fields()));
            let speaks_tus = inbox.config.resumable && tus::is_spoken(&request);
            let response = inbox.answer(request, speaks_tus).await.unwrap_or_else(Response::from);
            let response = if speaks_tus { tus::spoken(response) } else { response };
            response.fields(shared.into_iter().flatten())
        }))
    }
}

/// One worker's way into the folder.
struct Inbox {
    worker: Rc<Worker>,
    shared: Arc<Shared>,
    name_patterns: Vec<Pattern>,
}

impl Deref for Inbox {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// What a path beneath the route names.
enum Place {
    /// The folder itself.
    Folder,
    /// A file in it, or in a folder beneath it.
    File(Target),
    /// An upload that can be resumed, by its number.
    Upload(String),
}

impl Inbox {
    fn new(shared: &Arc<Shared>, worker: &Rc<Worker>) -> Self {
        // `Upload::new` has let only what parses through.
        let patterns = shared.config.name_patterns.iter().filter_map(|pattern| Pattern::parse(pattern).ok());
        Inbox { worker: worker.clone(), shared: shared.clone(), name_patterns: patterns.collect() }
    }

    /// The reply to a browser that asks what a page of another site may do. Whether that will succeed is not looked at: why it
    /// is refused, the page learns from the refusal.
    fn preflight(&self, request: &Request) -> Option<Response> {
        let cors = self.cors.as_ref()?;
        if request.method() != Method::OPTIONS || !request.fields().contains("Access-Control-Request-Method") {
            return None;
        }
        let may_delete = self.config.delete || matches!(self.place_of(request), Ok(Place::Upload(_)));
        let methods = if may_delete { METHODS_WITH_DELETE } else { METHODS };
        Some(Response::new(StatusCode::NO_CONTENT).fields(cors.preflight_fields(request.fields(), methods)))
    }

    /// Each way of uploading has a future of its own size, so each is boxed.
    async fn answer(self: &Rc<Self>, request: Request, speaks_tus: bool) -> Result<Response, Refusal> {
        let place = self.place_of(&request)?;
        match (request.method(), place) {
            (&Method::OPTIONS, place) => Ok(self.options(&place)),
            (_, Place::Upload(id)) if speaks_tus => Box::pin(tus::resource(self, request, &id)).await,
            (_, Place::Upload(id)) => Box::pin(ietf::resource(self, request, &id)).await,
            (&Method::POST, Place::Folder) if speaks_tus => Box::pin(tus::create(self, request, None)).await,
            // Never as a body of that name: a creation has none.
            (&Method::POST, Place::File(target)) if speaks_tus => {
                Box::pin(tus::create(self, request, Some(target))).await
            }
            (&Method::POST, Place::Folder) if is_form(&request) => Box::pin(form::post(self, request)).await,
            (&Method::POST, Place::Folder) => self.store(request, None).await,
            (&Method::PUT | &Method::POST, Place::File(target)) => self.store(request, Some(target)).await,
            (&Method::DELETE, Place::File(target)) if self.config.delete => raw::delete(self, &target).await,
            (_, place) => {
                let allow = self.allow(&place);
                Ok(Response::problem(StatusCode::METHOD_NOT_ALLOWED, "METHOD", &format!("Use {allow}."))
                    .field("Allow", allow))
            }
        }
    }

    /// Stores a raw body, so that it can be resumed if the client asks for that.
    async fn store(self: &Rc<Self>, mut request: Request, target: Option<Target>) -> Result<Response, Refusal> {
        check_fields(request.fields())?;
        if self.config.resumable {
            match ietf::creation(self, &mut request) {
                Ok(Some(creation)) => return Box::pin(ietf::create(self, request, creation, target)).await,
                Ok(None) => {}
                Err(refused) => return Ok(ietf::problem(self, refused)),
            }
        }
        Box::pin(raw::store(self, request, target)).await
    }

    fn options(&self, place: &Place) -> Response {
        // 200 and not 204: it is what clients of tus expect (U4).
        let response = Response::new(StatusCode::OK).field("Allow", self.allow(place));
        if !self.config.resumable {
            return response;
        }
        ietf::announce(self, tus::announce(self, response))
    }

    fn allow(&self, place: &Place) -> &'static str {
        match place {
            Place::Upload(_) => "HEAD, PATCH, DELETE, OPTIONS",
            Place::Folder => "POST, OPTIONS",
            Place::File(_) if self.config.delete => "PUT, POST, DELETE, OPTIONS",
            Place::File(_) => "PUT, POST, OPTIONS",
        }
    }

    fn place_of(&self, request: &Request) -> Result<Place, Refusal> {
        let path = target::normalize(request.path_in_route())
            .map_err(|error| Refusal::new(error.status(), "PATH", error.to_string()))?;
        if path.path.is_empty() {
            return Ok(Place::Folder);
        }
        if let Some(id) = path.path.strip_prefix(b".uploads/").filter(|_| self.config.resumable) {
            return Ok(Place::Upload(String::from_utf8_lossy(id).into_owned()));
        }
        let target = Target::of(&path)?;
        self.check_name(&target.name)?;
        Ok(Place::File(target))
    }

    /// Whether files may have this name here. A name that tells a type has to tell one that is taken: a file can be a picture by
    /// its first bytes and a page by its name, and would be served as that.
    fn check_name(&self, name: &str) -> Result<(), Refusal> {
        let patterns = &self.name_patterns;
        if !patterns.is_empty() && !patterns.iter().any(|pattern| pattern.matches(name.as_bytes())) {
            let text = format!("Files named {name:?} are not taken here.");
            return Err(Refusal::new(StatusCode::FORBIDDEN, "NAME_NOT_ALLOWED", text));
        }
        match media_type::of(name.as_bytes()) {
            UNKNOWN_TYPE => Ok(()),
            named => self.check_type(named.split(';').next().unwrap_or_default()),
        }
    }

    /// Opens the folder as it is now: it may have been swapped.
    async fn open_folder(&self) -> Result<File, Refusal> {
        let folder = File::open_root(&self.worker.runtime, &self.config.dir).await;
        folder.map_err(|error| Refusal::failed("the folder for uploads can't be opened", error))
    }

    /// Whether a file of this length, if it is known, may come; its part of the quota.
    fn admit(&self, length: Option<u64>) -> Result<Option<Reservation>, Refusal> {
        if length.is_some_and(|length| length > self.config.file_len) {
            return Err(Refusal::too_large(self.config.file_len));
        }
        let quota = self.quota.as_ref();
        quota.map(|quota| quota.reserve(length.unwrap_or(0)).ok_or_else(Refusal::full)).transpose()
    }

    /// A place among the files that come in.
    fn upload_share(&self) -> Result<Share, Refusal> {
        self.worker.uploads.take(1).ok_or_else(Refusal::busy)
    }

    /// Notes that so many bytes lie in the folder for good, in place of a file of `replaced` bytes.
    fn keep(&self, reservation: Option<Reservation>, size: u64, replaced: Option<u64>) {
        self.worker.metrics.upload_bytes.add(size);
        if let Some(reservation) = reservation {
            reservation.keep(size);
        }
        if let (Some(quota), Some(replaced)) = (&self.quota, replaced) {
            quota.deleted(replaced);
        }
    }

    /// Whether files of this media type are taken.
    fn check_type(&self, media_type: &str) -> Result<(), Refusal> {
        let types = &self.config.types;
        if types.is_empty() || types.iter().any(|pattern| media_type::matches(pattern, media_type)) {
            return Ok(());
        }
        let text = format!("Files of type {media_type} are not taken here.");
        Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "TYPE_NOT_ALLOWED", text))
    }

    /// A name of our own for a file, with the extension of the client's name where that tells nothing else than its bytes do: a
    /// page must not come back from under the name of a picture.
    fn generated_name(&self, client_name: Option<&str>, media_type: &str) -> Result<String, Refusal> {
        let random = random().map_err(|error| Refusal::failed("there is no randomness", error))?;
        let extension = client_name.and_then(|name| name.rsplit_once('.')).map(|(_, extension)| extension);
        let agrees = |extension: &&str| {
            let named = media_type::of(format!("x.{extension}").as_bytes());
            let named = named.split(';').next().unwrap_or_default();
            let kind = |media_type: &str| media_type.split('/').next().map(str::to_owned);
            named == media_type || media_type == UNKNOWN_TYPE && kind(named) != kind("text/html")
        };
        Ok(upload_name::generated(random, extension.filter(agrees)))
    }

    fn intake(&self) -> Intake {
        Intake::new(&self.worker.runtime, self.config.upload_rate)
    }

    /// Where a stored file is served.
    fn url_of(&self, route: &str, path: &str) -> String {
        let base = self.config.url.as_deref().unwrap_or(route).trim_end_matches('/');
        let segments = path.split('/').map(|segment| target::encode_segment(segment.as_bytes()));
        segments.fold(String::from(base), |url, segment| format!("{url}/{segment}"))
    }
}

/// What pages of other sites may use here. GET is none of them, but a page may always try, and can read that it is 405.
const METHODS: &str = "POST, PUT, PATCH, HEAD, OPTIONS";

/// The same, where something can be taken away.
const METHODS_WITH_DELETE: &str = "POST, PUT, PATCH, HEAD, DELETE, OPTIONS";

/// The part of the request's path that is the route's.
fn route_of(request: &Request) -> &str {
    request.path().strip_suffix(request.path_in_route()).unwrap_or_default()
}

fn is_form(request: &Request) -> bool {
    let value = request.fields().get("Content-Type").unwrap_or_default();
    let media_type = value.split(|byte| *byte == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(b"multipart/form-data")
}
