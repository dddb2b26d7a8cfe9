//! Uploads: forms, raw bodies and resumable uploads become files of a folder.
//!
//! ```text
//!   body ─▶ upload buffers ─▶ (form's parts) ─▶ Sink: hash, write ─▶ Draft, without a name ─▶ place: sync, link ─▶ 201
//!            a quarter of a      sub-slices       several writes       gone with its            by name policy and
//!            high water mark                      in flight            descriptor               on_conflict
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

mod form;
mod intake;
mod place;
mod quota;
mod raw;
mod refusal;
mod reply;
mod resumable;
mod sink;

use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Method, StatusCode};

use self::intake::Intake;
use self::place::Target;
use self::quota::{Quota, Reservation};
use self::refusal::Refusal;
use self::resumable::locks::Locks;
use self::resumable::{ietf, sweep, tus};
use crate::config::UploadConfig;
use crate::error::Error;
use crate::http::{Answer, Handler, MakeHandler, Request, Response, Worker};
use crate::proto::pattern::Pattern;
use crate::proto::{media_type, target, upload_name};
use crate::rt::fs::File;

/// A folder that takes uploads, as a handler.
#[derive(Clone, Debug)]
pub struct Upload(Arc<Shared>);

/// What the workers share of one folder.
#[derive(Debug)]
struct Shared {
    config: UploadConfig,
    /// What the folder holds, if that is bounded.
    quota: Option<Arc<Quota>>,
    locks: Arc<Locks>,
    /// Whether a worker has taken it upon itself to sweep.
    is_swept: AtomicBool,
}

impl Upload {
    /// Takes uploads into the folder that the configuration names. With a quota, what the folder holds is counted, which
    /// takes a moment.
    ///
    /// # Errors
    /// The operator's fault: what of the configuration can't be used.
    pub fn new(config: UploadConfig) -> Result<Self, Error> {
        config.check().map_err(Error::operator)?;
        let quota = config.quota.map(|limit| Quota::of(&config.dir, limit)).transpose();
        let quota = quota.map_err(|error| {
            Error::operator(format!("dir: `{}` cannot be read", config.dir.display())).because(error)
        })?;
        Ok(Upload(Arc::new(Shared { config, quota, locks: Locks::of_process(), is_swept: AtomicBool::new(false) })))
    }
}

impl MakeHandler for Upload {
    fn make(&self, worker: &Rc<Worker>) -> Rc<dyn Handler> {
        if self.0.config.resumable && !self.0.is_swept.swap(true, Ordering::Relaxed) {
            sweep::start(worker, &self.0);
        }
        Rc::new(UploadHandler(Rc::new(Inbox::new(&self.0, worker))))
    }
}

struct UploadHandler(Rc<Inbox>);

impl Handler for UploadHandler {
    fn call(&self, request: Request) -> Answer {
        let inbox = self.0.clone();
        Answer::Later(Box::pin(async move { inbox.answer(request).await.unwrap_or_else(Response::from) }))
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

    /// Each way of uploading has a future of its own size, so each is boxed.
    async fn answer(self: &Rc<Self>, request: Request) -> Result<Response, Refusal> {
        let place = self.place_of(&request)?;
        let speaks_tus = self.config.resumable && tus::is_spoken(&request);
        match (request.method(), place) {
            (&Method::OPTIONS, place) => Ok(self.options(&place)),
            (_, Place::Upload(id)) if speaks_tus => Ok(Box::pin(tus::resource(self, request, &id)).await),
            (_, Place::Upload(id)) => Box::pin(ietf::resource(self, request, &id)).await,
            (&Method::POST, Place::Folder) if speaks_tus => Ok(Box::pin(tus::create(self, request)).await),
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

    /// Whether files may have this name here. It is served as the type that its name tells, so that has to be one of those that
    /// are taken, whatever its first bytes say.
    fn check_name(&self, name: &str) -> Result<(), Refusal> {
        let named = media_type::of(name.as_bytes()).split(';').next().unwrap_or_default().trim_ascii();
        if named != "application/octet-stream" {
            self.check_type(named)?;
        }
        let patterns = &self.name_patterns;
        if patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(name.as_bytes())) {
            return Ok(());
        }
        Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "NAME_NOT_ALLOWED",
            format!("Files named {name:?} are not taken here."),
        ))
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

    /// Notes that so many bytes lie in the folder for good, in place of a file of `replaced` bytes.
    fn keep(&self, reservation: Option<Reservation>, size: u64, replaced: Option<u64>) {
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
        let random = place::random().map_err(|error| Refusal::failed("there is no randomness", error))?;
        let extension = client_name.and_then(|name| name.rsplit_once('.')).map(|(_, extension)| extension);
        let agrees = |extension: &&str| {
            let named = media_type::of(format!("x.{extension}").as_bytes());
            let named = named.split(';').next().unwrap_or_default();
            let kind = |media_type: &str| media_type.split('/').next().map(str::to_owned);
            named == media_type || media_type == "application/octet-stream" && kind(named) != kind("text/html")
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

/// The part of the request's path that is the route's.
fn route_of(request: &Request) -> &str {
    request.path().strip_suffix(request.path_in_route()).unwrap_or_default()
}

fn is_form(request: &Request) -> bool {
    let value = request.fields().get("Content-Type").unwrap_or_default();
    let media_type = value.split(|byte| *byte == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(b"multipart/form-data")
}

/// Bytes as text.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |text, byte| format!("{text}{byte:02x}"))
}
