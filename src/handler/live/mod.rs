//! Live: media while it is made, around a folder of media.
//!
//! ```text
//!   PUT ─▶ encoder ─▶ .live/film.mp4.RANDOM ─────────── end ──▶ film.mp4
//!             │ written                                 broken off ──▶ film.incomplete.mp4
//!             ▼
//!   GET ─▶ is it live? ── yes ─▶ Reader: 200, chunked, from the first byte, until the end
//!                      └─ no ──▶ the media handler
//! ```
//!
//! The handler wraps the media handler, as a guard wraps one: what is live now, and what changes the folder, it answers itself, and all
//! else is media. So a file that is whole is an ordinary file from then on, with ranges, validators and caches.
//!
//! A request, in this order:
//! 1. the method: GET and HEAD read, PUT and POST make, DELETE takes away where that is allowed, OPTIONS is a preflight;
//! 2. the path: plain names beneath the folder; dotfiles, and with them the store, are never reached;
//! 3. to read: what is being made is followed; a reload of a playlist waits for what it names; an announced part is waited for;
//! 4. to make: names that are replaced whole (playlists), or that are live while they come.
//!
//! Media believe for a moment what they have found at a name, and a reply may be repeated while it holds. Here names change all the
//! time, so a name that was just put is looked up afresh, and no reply of such a route is repeated unasked.
//!
//! CORS fields go on every reply, whatever its status (H2).

mod encoder;
mod files;
mod reader;
mod reload;
mod store;
mod sweep;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::json;

use self::files::{LiveFile, LiveFiles, Named, State};
use self::reader::{Opened, Reader};
use crate::config::{LiveConfig, MediaConfig};
use crate::error::Error;
use crate::http::{
    AddressRates, Answer, Body, Budget, FileRegion, Handler, MakeHandler, Pacing, Refusal, Request, Response, Share,
    Target, Worker, check_fields, look_up,
};
use crate::limits::Limits;
use crate::proto::content_types::ContentTypes;
use crate::proto::cors::Cors;
use crate::proto::http1::encode::ResponseHead;
use crate::proto::pattern::Pattern;
use crate::proto::range::{self, ByteRange, OfGrowing};
use crate::proto::{media_type, target};
use crate::rt::fs::File;

/// A folder of media that encoders put files into, as a handler.
#[derive(Clone)]
pub struct Live {
    shared: Arc<Shared>,
    media: Arc<dyn MakeHandler>,
}

/// What the workers share of one folder.
struct Shared {
    config: LiveConfig,
    root: PathBuf,
    types: ContentTypes,
    /// What replies of the media are held to, which holds for what is being made, too; but for its bitrate, which nobody knows yet.
    limit_rate: Option<u64>,
    rate_burst: u64,
    addresses: Option<Arc<AddressRates>>,
    cors: Option<Cors>,
    whole: Vec<Pattern>,
    name_patterns: Vec<Pattern>,
    files: Arc<LiveFiles>,
}

impl Live {
    /// Lets encoders put files into the folder of `media`, which `handler` serves. What an earlier process was cut off at is
    /// given names that say so.
    ///
    /// # Errors
    /// The operator's fault: what of the configuration can't be used. The server's: no thread can be started.
    pub(crate) fn around(
        config: LiveConfig,
        media: &MediaConfig,
        addresses: Option<Arc<AddressRates>>,
        handler: Arc<dyn MakeHandler>,
    ) -> Result<Self, Error> {
        Live::with_files(config, media, addresses, handler, LiveFiles::of(&media.root))
    }

    /// The same, of a folder that is in a simulated world only: what is live in it is not found by its path.
    #[cfg(test)]
    pub(crate) fn simulated(
        config: LiveConfig,
        media: &MediaConfig,
        handler: Arc<dyn MakeHandler>,
    ) -> Result<Self, Error> {
        Live::with_files(config, media, None, handler, LiveFiles::new(&media.root))
    }

    fn with_files(
        config: LiveConfig,
        media: &MediaConfig,
        addresses: Option<Arc<AddressRates>>,
        handler: Arc<dyn MakeHandler>,
        files: Arc<LiveFiles>,
    ) -> Result<Self, Error> {
        config.check().map_err(Error::operator)?;
        // What does not parse is refused by the check.
        let patterns = |texts: &[String]| texts.iter().filter_map(|text| Pattern::parse(text).ok()).collect::<Vec<_>>();
        let (whole, name_patterns) = (patterns(&config.whole), patterns(&config.name_patterns));
        let sweeper = sweep::start(&media.root, patterns(&config.whole));
        sweeper.map_err(|error| Error::server("the sweeper can't be started").because(error))?;
        let (root, types) = (media.root.clone(), ContentTypes::new(media.content_types.clone()));
        let (limit_rate, rate_burst) = (media.limit_rate, media.rate_burst);
        let shared = Shared {
            config,
            root,
            types,
            limit_rate,
            rate_burst,
            addresses,
            cors: media.sharing(),
            whole,
            name_patterns,
            files,
        };
        let shared = Arc::new(shared);
        Ok(Live { shared, media: handler })
    }
}

impl MakeHandler for Live {
    fn make(&self, worker: &Rc<Worker>) -> Rc<dyn Handler> {
        Rc::new(LiveHandler(Rc::new(Folder {
            worker: worker.clone(),
            shared: self.shared.clone(),
            media: self.media.make(worker),
            open: RefCell::default(),
            newest: Budget::new(Limits::LIVE_NEWEST_BYTES as usize),
        })))
    }
}

struct LiveHandler(Rc<Folder>);

/// One worker's view of the folder.
struct Folder {
    worker: Rc<Worker>,
    shared: Arc<Shared>,
    media: Rc<dyn Handler>,
    /// The files that are being made and are open on this worker, by their path in the store.
    open: RefCell<HashMap<String, Weak<Opened>>>,
    /// What the newest bytes of those may take.
    newest: Budget,
}

impl Handler for LiveHandler {
    fn call(&self, request: Request) -> Answer {
        let folder = &self.0;
        match *request.method() {
            Method::GET | Method::HEAD => folder.read(request),
            Method::OPTIONS => folder.preflight(&request).into(),
            Method::PUT | Method::POST | Method::DELETE => {
                let folder = folder.clone();
                Answer::Later(Box::pin(async move {
                    let shared = folder.shared_fields(&request);
                    folder.change(request).await.unwrap_or_else(Response::from).fields(shared)
                }))
            }
            _ => {
                let allow = folder.allow();
                let refused = Response::problem(StatusCode::METHOD_NOT_ALLOWED, "METHOD", &format!("Use {allow}."));
                refused.field("Allow", allow).fields(folder.shared_fields(&request)).into()
            }
        }
    }
}

impl Folder {
    fn config(&self) -> &LiveConfig {
        &self.shared.config
    }

    fn files(&self) -> &LiveFiles {
        &self.shared.files
    }

    fn allow(&self) -> &'static str {
        if self.config().delete { "GET, HEAD, PUT, POST, DELETE, OPTIONS" } else { "GET, HEAD, PUT, POST, OPTIONS" }
    }

    fn preflight(&self, request: &Request) -> Response {
        let response = Response::new(StatusCode::NO_CONTENT).field("Allow", self.allow());
        match &self.shared.cors {
            Some(cors) => response.fields(cors.preflight_fields(request.fields(), self.allow())),
            None => response,
        }
    }

    /// What other sites' pages may do with a reply.
    fn shared_fields(&self, request: &Request) -> Vec<(&'static str, &str)> {
        self.shared.cors.iter().flat_map(|cors| cors.reply_fields(request.fields())).collect()
    }

    /// Answers who reads.
    fn read(self: &Rc<Self>, request: Request) -> Answer {
        let Some(path) = path_of(&request) else { return self.media.call(request).unrepeated() };
        if target::query_flag(request.query(), "info") != target::QueryFlag::Absent {
            return match self.look_up(&path) {
                Named::Growing(live) => self.tell(&request, &live).into(),
                _ => self.media.call(request).unrepeated(),
            };
        }
        match self.look_up(&path) {
            Named::Growing(live) => match self.opened(&live) {
                Some(opened) => self.follow(&request, live, opened).into(),
                None => Answer::Later(Box::pin(self.clone().open_and_follow(request, path))),
            },
            named => match reload::of(self, &request, &path) {
                Some(wait) => Answer::Later(Box::pin(self.clone().wait_and_read(request, path, wait))),
                None => self.as_media(request, &named),
            },
        }
    }

    /// What `?info` tells of a file that is being made.
    fn tell(&self, request: &Request, live: &LiveFile) -> Response {
        let (_, written) = live.progress();
        let told = json!({
            "name": live.path.rsplit('/').next(),
            "size": written,
            "type": self.shared.types.of(live.path.as_bytes()),
            "live": true,
        });
        Response::new(StatusCode::OK)
            .field("Content-Type", "application/json")
            .field("X-Content-Type-Options", "nosniff")
            .field("Cache-Control", "no-store")
            .fields(self.shared_fields(request))
            .with_body(Body::from(told.to_string()))
    }

    fn look_up(&self, path: &str) -> Named {
        self.files().look_up(path, self.worker.runtime.now(), self.worker.limits.open_file_valid)
    }

    /// What the media handler says.
    fn as_media(&self, request: Request, named: &Named) -> Answer {
        let request = if let Named::New(put_at) = named { request.afresh_since(*put_at) } else { request };
        self.media.call(request).unrepeated()
    }

    /// Follows a file that is not open on this worker yet. When it can't be found, it has got its place meanwhile, or another
    /// has taken its name.
    async fn open_and_follow(self: Rc<Self>, request: Request, path: String) -> Response {
        while let Named::Growing(live) = self.look_up(&path) {
            let opened = match self.open().await {
                Ok(root) => self.opened_beneath(&root, &live).await,
                Err(refusal) => Err(refusal),
            };
            match opened {
                Ok(opened) => return self.follow(&request, live, opened),
                Err(refusal) if !refusal.is_missing() => {
                    return Response::from(refusal).fields(self.shared_fields(&request));
                }
                // It is at its place, and about to be told so; unless the folder is another one now.
                Err(_) if self.files().is_this_growing(&live) => break,
                Err(_) => {}
            }
        }
        self.as_media(request, &Named::New(self.worker.runtime.now())).response().await
    }

    /// Waits for what is to come, and answers with it.
    async fn wait_and_read(self: Rc<Self>, request: Request, path: String, wait: reload::Wait) -> Response {
        if let Err(refused) = wait.until_there(&self, &path).await {
            return refused.fields(self.shared_fields(&request));
        }
        match self.look_up(&path) {
            Named::Growing(_) => self.open_and_follow(request, path).await,
            named => self.as_media(request, &named).response().await,
        }
    }

    /// The reply with a file that is being made (RFC 9110 §14; RFC 8673).
    fn follow(&self, request: &Request, live: Arc<LiveFile>, opened: Rc<Opened>) -> Response {
        let (_, written) = live.progress();
        let fields = request.fields();
        // It has no validator that a condition could name (RFC 9110 §13.1.1).
        if fields.get("If-Match").is_some_and(|value| value.trim_ascii() != b"*") {
            let text = "The file is being made, and not the one that the condition names.";
            return Response::text(StatusCode::PRECONDITION_FAILED, text).fields(self.shared_fields(request));
        }
        // Without validators, no condition of a range holds (RFC 9110 §13.1.5).
        let wanted = (*request.method() == Method::GET && !fields.contains("If-Range"))
            .then(|| fields.get_single("Range").ok().flatten())
            .flatten();
        let wanted = wanted.map_or(OfGrowing::Whole, |value| range::resolve_growing(value, written));
        let mut head = ResponseHead::new(StatusCode::PARTIAL_CONTENT);
        let from = match wanted {
            OfGrowing::Unsatisfiable => {
                let text = "No byte of the file that is being made is in the range.";
                let refused = Response::text(StatusCode::RANGE_NOT_SATISFIABLE, text);
                let refused = refused.field("Content-Range", range::unsatisfied(written).to_string());
                return refused.field("Cache-Control", "no-store").fields(self.shared_fields(request));
            }
            OfGrowing::Whole => {
                head.status = StatusCode::OK;
                0
            }
            OfGrowing::One(range) => {
                head.field_fmt("Content-Range", format_args!("{}", range::content_range_of_growing(range)));
                range.start
            }
            OfGrowing::Following { start, last } => {
                let range = ByteRange { start, end: last + 1 };
                head.field_fmt("Content-Range", format_args!("{}", range::content_range_of_growing(range)));
                start
            }
        };
        let content_type = self.shared.types.of(live.path.as_bytes());
        head.field("Content-Type", content_type.as_bytes());
        head.field("X-Content-Type-Options", b"nosniff");
        if media_type::is_page(content_type) {
            head.field("Content-Security-Policy", b"sandbox");
        }
        head.field("Cache-Control", b"no-store");
        // Not that ranges are accepted, though they are: ffmpeg would look for what it needs at an end that has yet to come.
        let body = match wanted {
            OfGrowing::One(range) => Body::File(FileRegion { file: opened.file.clone(), range }),
            _ => Body::stream(Reader::new(&self.worker, live, opened, from)),
        };
        let response = Response::from_head(head).with_body(body).fields(self.shared_fields(request));
        let address = self.shared.addresses.as_ref().zip(request.peer()).map(|(rates, peer)| rates.share(peer.ip()));
        response.paced(Pacing { rate: self.shared.limit_rate, burst: self.shared.rate_burst, address })
    }

    /// Answers who changes the folder.
    async fn change(self: &Rc<Self>, request: Request) -> Result<Response, Refusal> {
        let target = self.target_of(&request)?;
        let path = target.path_of(&target.name);
        if *request.method() == Method::DELETE {
            return self.delete(&target, &path).await;
        }
        check_fields(request.fields())?;
        if self.is_replaced_whole(&path) {
            Box::pin(encoder::replace(self, request, target)).await
        } else {
            Box::pin(encoder::put(self, request, target)).await
        }
    }

    fn is_replaced_whole(&self, path: &str) -> bool {
        self.shared.whole.iter().any(|pattern| pattern.matches(path.as_bytes()))
    }

    /// The file that is to be put or taken away.
    fn target_of(&self, request: &Request) -> Result<Target, Refusal> {
        let path = target::normalize(request.path_in_route())
            .map_err(|error| Refusal::new(error.status(), "PATH", error.to_string()))?;
        let target = Target::of(&path)?;
        if target.directory.split('/').count() > Limits::LIVE_DEPTH {
            let text = format!("A file lies in {} directories at most.", Limits::LIVE_DEPTH);
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "DEPTH", text));
        }
        let patterns = &self.shared.name_patterns;
        if !patterns.is_empty()
            && !patterns.iter().any(|pattern| pattern.matches(target.path_of(&target.name).as_bytes()))
        {
            let text = format!("Files named {:?} are not taken here.", target.name);
            return Err(Refusal::new(StatusCode::FORBIDDEN, "NAME_NOT_ALLOWED", text));
        }
        Ok(target)
    }

    async fn delete(&self, target: &Target, path: &str) -> Result<Response, Refusal> {
        if !self.config().delete {
            let allow = self.allow();
            let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD", format!("Use {allow}."));
            return Err(refusal.with_field("Allow", allow));
        }
        if self.files().is_growing(path) {
            return Err(Refusal::new(
                StatusCode::CONFLICT,
                "BEING_MADE",
                "An encoder is making the file of this name.",
            ));
        }
        let missing = || Refusal::new(StatusCode::NOT_FOUND, "NO_FILE", "There is no such file.");
        let directory = target.open(&self.open().await?).await?;
        look_up(&directory, &target.name).await?.ok_or_else(missing)?;
        directory.unlink(target.name.as_bytes()).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => missing(),
            _ => Refusal::failed("a file can't be deleted", error),
        })?;
        self.files().note(path, None, self.worker.runtime.now());
        Ok(Response::new(StatusCode::NO_CONTENT))
    }

    /// Opens the folder as it is now: it may have been swapped.
    async fn open(&self) -> Result<File, Refusal> {
        let folder = File::open_root(&self.worker.runtime, &self.shared.root).await;
        folder.map_err(|error| Refusal::failed("the folder for live files can't be opened", error))
    }

    /// A place among the files that come in, for one of this length, if that is known.
    fn admit(&self, length: Option<u64>, limit: u64) -> Result<Share, Refusal> {
        if length.is_some_and(|length| length > limit) {
            return Err(Refusal::too_large(limit));
        }
        self.worker.uploads.take(1).ok_or_else(Refusal::busy)
    }

    fn count_stored(&self, len: u64) {
        self.worker.metrics.files_stored.increment();
        self.worker.metrics.upload_bytes.add(len);
    }

    /// A file that is being made, as it is open here, if it is.
    fn opened(&self, live: &LiveFile) -> Option<Rc<Opened>> {
        self.open.borrow().get(&live.store_path)?.upgrade()
    }

    /// Opens a file that is being made, once for all its readers on this worker.
    async fn opened_beneath(&self, root: &File, live: &LiveFile) -> Result<Rc<Opened>, Refusal> {
        let file = root.open_beneath(live.store_path.as_bytes()).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Refusal::new(StatusCode::NOT_FOUND, "NO_FILE", "There is no such file."),
            _ => Refusal::failed("a live file can't be opened", error),
        })?;
        // Another reader may have been faster.
        Ok(self.opened(live).unwrap_or_else(|| self.keep_open(live, Rc::new(file))))
    }

    /// Lets all readers on this worker use a descriptor, as long as anybody does.
    fn keep_open(&self, live: &LiveFile, file: Rc<File>) -> Rc<Opened> {
        let opened = Rc::new(Opened::new(file, &self.newest));
        let mut open = self.open.borrow_mut();
        open.retain(|_, opened| opened.strong_count() > 0);
        open.insert(live.store_path.clone(), Rc::downgrade(&opened));
        opened
    }

    /// Says how a file has ended that was made on this worker.
    fn end(&self, live: &Arc<LiveFile>, state: State) {
        self.worker.metrics.live_streams.decrement();
        self.files().end(live, state, self.worker.runtime.now());
    }
}

/// The path beneath the folder that a request reads; `None` for what no encoder can have put.
fn path_of(request: &Request) -> Option<String> {
    let path = target::normalize(request.path_in_route()).ok()?;
    let is_file = !path.hidden && !path.trailing_slash && !path.path.is_empty();
    is_file.then(|| String::from_utf8(path.path.into_owned()).ok()).flatten()
}
