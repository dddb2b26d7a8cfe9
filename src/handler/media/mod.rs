//! Media: the files of a folder, whole or by ranges.
//!
//! A request, in this order:
//! 1. the method: GET and HEAD are answered, OPTIONS is a preflight, anything else is 405;
//! 2. the path: decoded once, dotfiles hidden (P1);
//! 3. what it names, beneath the root: an open file, or a directory with an index, a listing, or the redirect to its slash;
//! 4. with `?info`, what is known of the file instead of the file; for a text type, a precompressed sibling that the client accepts (R11);
//! 5. the conditions (R1–R3), against validators from the very descriptor that is sent (R13);
//! 6. the ranges (R4–R9);
//! 7. the reply, held to the route's rates.
//!
//! CORS fields go on every reply, whatever its status (H2).

mod info;
mod library;
mod listing;
mod open_files;
mod play_time;
mod rates;
mod shared;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{Method, StatusCode};

use self::listing::Listing;
use self::open_files::{Current, Found, NotFound, OpenFile, OpenFiles};
use self::rates::Rates;
use self::shared::Shared;
use crate::config::{MediaConfig, UploadPlace};
use crate::http::{AddressRates, Answer, Body, FileRegion, Handler, MakeHandler, Request, Response, Segment, Worker};
use crate::limits::Limits;
use crate::proto::conditional::{self, REPEATED_IN_NOT_MODIFIED, Validators, Verdict};
use crate::proto::content_coding::{self, Coding};
use crate::proto::content_types::ContentTypes;
use crate::proto::cors::Cors;
use crate::proto::http1::encode::ResponseHead;
use crate::proto::pattern::Pattern;
use crate::proto::range::{self, ByteRange, Parts, RangeLimits, Resolved};
use crate::proto::target::{self, NormalPath, QueryFlag};
use crate::proto::{disposition, media_type};

/// A folder of media as a handler; each worker has its own open-file cache.
#[derive(Clone, Debug)]
pub struct Media {
    config: MediaConfig,
    /// What all workers' transfers of one client share.
    addresses: Option<Arc<AddressRates>>,
    /// Where the pages of its listings upload to.
    uploads: Arc<[UploadPlace]>,
    /// Whether pages in the folder may be anybody's, who may put files there.
    has_pages_of_others: bool,
}

impl Media {
    /// Serves the folder that the configuration names.
    ///
    /// # Errors
    /// The operator's fault: what of the configuration can't be used.
    pub fn new(config: MediaConfig) -> Result<Self, crate::error::Error> {
        config.check().map_err(crate::error::Error::operator)?;
        let addresses = config.limit_rate_address.map(AddressRates::new);
        Ok(Media { config, addresses, uploads: Arc::default(), has_pages_of_others: false })
    }

    /// The same, whose listings let people upload to these places. Whether an upload is taken is those routes' affair.
    #[must_use]
    pub(crate) fn with_uploads(self, places: Vec<UploadPlace>) -> Self {
        Media { uploads: places.into(), ..self }
    }

    /// The same, whose folder takes pages from clients: they are served as documents that run nothing and have no origin, so that
    /// nobody's script acts as this site's (HTML, "sandboxing").
    #[must_use]
    pub(crate) fn with_pages_of_others(self) -> Self {
        Media { has_pages_of_others: true, ..self }
    }

    /// What its transfers to one client share, for who sends bytes of the same folder.
    pub(crate) fn addresses(&self) -> Option<Arc<AddressRates>> {
        self.addresses.clone()
    }
}

impl MakeHandler for Media {
    fn make(&self, worker: &Rc<Worker>) -> Rc<dyn Handler> {
        Rc::new(MediaHandler(Rc::new(Folder::new(self, worker))))
    }
}

struct MediaHandler(Rc<Folder>);

impl Handler for MediaHandler {
    fn call(&self, request: Request) -> Answer {
        self.0.shared.sweep();
        if let Some(changed_at) = request.changed_at() {
            self.0.forget(&request, changed_at);
        }
        if let Some(response) = self.0.answer_now(&request) {
            return self.0.share(&request, response).into();
        }
        let folder = self.0.clone();
        Answer::Later(Box::pin(async move {
            let response = folder.answer(&request).await;
            folder.share(&request, response)
        }))
    }
}

/// One worker's view of the folder.
struct Folder {
    worker: Rc<Worker>,
    config: MediaConfig,
    cors: Option<Cors>,
    cache_control: Vec<(Pattern, String)>,
    types: ContentTypes,
    uploads: Arc<[UploadPlace]>,
    has_pages_of_others: bool,
    shared: Rc<Shared>,
    files: OpenFiles,
    rates: Option<Rates>,
}

impl Folder {
    fn new(media: &Media, worker: &Rc<Worker>) -> Self {
        let config = &media.config;
        // `Media::new` has let only what parses through.
        let rule = |rule: &crate::config::CacheRule| Some((Pattern::parse(&rule.pattern).ok()?, rule.value.clone()));
        let shared = Shared::of(worker);
        Folder {
            worker: worker.clone(),
            config: config.clone(),
            cors: config.sharing(),
            cache_control: config.cache_control.iter().filter_map(rule).collect(),
            types: ContentTypes::new(config.content_types.clone()),
            uploads: media.uploads.clone(),
            has_pages_of_others: media.has_pages_of_others,
            files: OpenFiles::new(&config.root, worker, &shared),
            shared,
            rates: Rates::of(config, media.addresses.clone()),
        }
    }

    /// The usual case, without a future: a file whose open descriptor is at hand and that has no other representation.
    fn answer_now(&self, request: &Request) -> Option<Response> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) || wants_info(request) {
            return None;
        }
        let path = target::normalize(request.path_in_route()).ok()?;
        let (file, believed) = self
            .files
            .known_file(&path.path)
            .filter(|_| !path.trailing_slash && (!path.hidden || self.config.hidden))?;
        let alone = !self.describe(&file, &path.path).negotiable
            || content_coding::acceptable(request.fields()).next().is_none();
        let at_hand = alone && self.rates.as_ref().is_none_or(|rates| rates.are_known(&file));
        at_hand.then(|| self.reply(request, &path.path, &file, None, Some(believed)))
    }

    /// Looks the request's path up again, unless what is known of it is from later.
    fn forget(&self, request: &Request, changed_at: Instant) {
        if let Ok(path) = target::normalize(request.path_in_route()) {
            self.files.forget(&path.path, changed_at);
        }
    }

    /// The same reply, with what other sites' pages may do with it.
    fn share(&self, request: &Request, response: Response) -> Response {
        match &self.cors {
            Some(cors) if request.method() != Method::OPTIONS => response.fields(cors.reply_fields(request.fields())),
            _ => response,
        }
    }

    async fn answer(&self, request: &Request) -> Response {
        match *request.method() {
            Method::GET | Method::HEAD => {}
            Method::OPTIONS => return self.preflight(request),
            _ => return Response::text(StatusCode::METHOD_NOT_ALLOWED, "Use GET or HEAD.").field("Allow", ALLOW),
        }
        let path = match target::normalize(request.path_in_route()) {
            Ok(path) if path.hidden && !self.config.hidden => return missing(),
            Ok(path) => path,
            Err(error) => return Response::text(error.status(), error.to_string()),
        };
        match self.files.find(&path.path).await {
            Ok(Found::File(_)) if path.trailing_slash => missing(),
            Ok(Found::File(file)) => self.file(request, &path.path, file).await,
            Ok(Found::Directory) if path.trailing_slash || path.path.is_empty() => {
                Box::pin(self.directory(request, &path)).await
            }
            Ok(Found::Directory) => {
                let location = target::slash_redirect(request.path(), request.query());
                Response::text(StatusCode::MOVED_PERMANENTLY, "A directory's name ends in a slash.")
                    .field("Location", location)
            }
            Err(why) => not_found(why),
        }
    }

    fn preflight(&self, request: &Request) -> Response {
        let response = Response::new(StatusCode::NO_CONTENT).field("Allow", ALLOW);
        match &self.cors {
            Some(cors) => response.fields(cors.preflight_fields(request.fields(), ALLOW)),
            None => response,
        }
    }

    async fn directory(&self, request: &Request, path: &NormalPath<'_>) -> Response {
        // The prefix of a route without its slash is a directory too: relative links need the slash.
        if !request.path().ends_with('/') {
            let location = target::slash_redirect(request.path(), request.query());
            return Response::text(StatusCode::MOVED_PERMANENTLY, "A directory's name ends in a slash.")
                .field("Location", location);
        }
        for index in &self.config.index {
            let name = open_files::join(&path.path, index.as_bytes());
            match self.files.find(&name).await {
                Ok(Found::File(file)) => return self.file(request, &name, file).await,
                Ok(Found::Directory) | Err(NotFound::Missing) => {}
                Err(why) => return not_found(why),
            }
        }
        if self.config.listing { self.listing(request, path).await } else { missing() }
    }

    async fn listing(&self, request: &Request, path: &NormalPath<'_>) -> Response {
        let shown = if path.path.is_empty() { b"/".to_vec() } else { [b"/", &*path.path, b"/"].concat() };
        let is_json = prefers_json(request);
        let (budget, types) = (self.shared.listings.clone(), self.types.clone());
        let upload = library::upload_url(&self.uploads, &path.path);
        let render = move |listing: &Listing| {
            let text = if is_json {
                budget.print(listing::json(&shown, listing))
            } else {
                budget.print(library::rows(&shown, listing, &types, upload.as_deref()))
            };
            text.ok_or(NotFound::Busy)
        };
        let limit = self.worker.limits.listing_entries;
        let text = match self.files.list(&path.path, self.config.hidden, limit, render).await {
            Ok(text) => text,
            Err(why) => return not_found(why),
        };
        let response = if is_json {
            Response::new(StatusCode::OK)
                .field("Content-Type", "application/json")
                .field("X-Content-Type-Options", "nosniff")
                .field("Cache-Control", "no-cache")
                .with_body(text)
        } else {
            library::response(text)
        };
        response.field("Vary", "Accept")
    }

    async fn file(&self, request: &Request, path: &[u8], plain: Rc<OpenFile>) -> Response {
        if wants_info(request) {
            return Box::pin(self.info(path, &plain)).await;
        }
        let negotiable = self.describe(&plain, path).negotiable;
        let sibling = if negotiable { self.sibling(request, path, &plain).await } else { None };
        if let Some(rates) = &self.rates {
            let file = sibling.as_ref().map_or(&plain, |(file, _)| file);
            Box::pin(rates.learn(&self.worker, file)).await;
        }
        self.reply(request, path, &plain, sibling, None)
    }

    async fn info(&self, path: &[u8], file: &OpenFile) -> Response {
        match info::of(&self.worker, file, path, &self.describe(file, path).content_type).await {
            Ok(text) => Response::new(StatusCode::OK).with_json(text),
            Err(error) => not_found(NotFound::of(&error)),
        }
    }

    /// The reply with a file, or with the sibling that stands for it. One that nothing else could have been chosen for may be
    /// repeated while the file's name is believed.
    fn reply(
        &self,
        request: &Request,
        path: &[u8],
        plain: &OpenFile,
        sibling: Option<(Rc<OpenFile>, Coding)>,
        believed: Option<Instant>,
    ) -> Response {
        let description = self.describe(plain, path);
        let (file, coding) = sibling.as_ref().map_or((plain, None), |(file, coding)| (&**file, Some(*coding)));
        // The validators and the length are those of the descriptor, or of the bytes in memory, that are sent (R13).
        let current = match file.current(coding) {
            Ok(current) => current,
            Err(error) => return not_found(NotFound::of(&error)),
        };
        let holds = believed.and_then(|until| current.holds(until));
        let Current { version, content, .. } = current;
        let wanted = match conditional::evaluate(request.method(), request.fields(), &version.validators) {
            Verdict::NotModified => return not_modified(description, &version.validators),
            Verdict::PreconditionFailed => {
                let text = "The file is not the one that the condition names.";
                return Response::text(StatusCode::PRECONDITION_FAILED, text);
            }
            Verdict::Proceed { range } => {
                range.map_or(Resolved::Whole, |value| range::resolve(value, version.len, &RANGES))
            }
        };
        if wanted == Resolved::Unsatisfiable {
            return Response::text(StatusCode::RANGE_NOT_SATISFIABLE, "No byte of the file is in the range.")
                .field("Content-Range", range::unsatisfied(version.len).to_string())
                .field("Accept-Ranges", "bytes");
        }
        let mut head = ResponseHead::new(StatusCode::OK);
        head.append(&version.lines);
        head.append(&description.caching);
        head.append(&description.serving);
        if let Some(coding) = coding {
            head.field("Content-Encoding", coding.token().as_bytes());
        }
        if let Some(disposition) = download(request, path) {
            head.field("Content-Disposition", disposition.as_bytes());
        }
        let content_type = &description.content_type;
        let region = |range: ByteRange| FileRegion { file: file.file.clone(), range };
        let piece = |range: ByteRange| match &content {
            Some(content) => Body::Bytes(content.slice(range.start as usize..range.end as usize)),
            None => Body::File(region(range)),
        };
        let body = match wanted {
            Resolved::One(range) => {
                head.status = StatusCode::PARTIAL_CONTENT;
                head.field_fmt("Content-Range", format_args!("{}", range::content_range(range, version.len)));
                head.field("Content-Type", content_type.as_bytes());
                piece(range)
            }
            Resolved::Several(ranges) => {
                let Ok(boundary) = random_boundary() else { return missing_randomness() };
                let parts = Parts::new(ranges, version.len, content_type.clone(), boundary);
                head.status = StatusCode::PARTIAL_CONTENT;
                head.field("Content-Type", parts.content_type().as_bytes());
                let segments = parts
                    .iter()
                    .flat_map(|(part_head, range)| [Segment::Bytes(part_head.into()), Segment::File(region(range))]);
                Body::Segments(segments.chain([Segment::Bytes(parts.closing().into())]).collect())
            }
            Resolved::Whole | Resolved::Unsatisfiable => {
                head.field("Content-Type", content_type.as_bytes());
                piece(ByteRange { start: 0, end: version.len })
            }
        };
        let response = Response::from_head(head).with_body(body);
        match &self.rates {
            // Each is paced anew.
            Some(rates) => rates.hold(response, file, request.peer()),
            None => response.which_holds(holds),
        }
    }

    /// A sibling with a coding that the client accepts, not older than the file itself.
    async fn sibling(&self, request: &Request, path: &[u8], plain: &OpenFile) -> Option<(Rc<OpenFile>, Coding)> {
        let modified = plain.current(None).ok()?.version.validators.modified;
        for coding in content_coding::acceptable(request.fields()) {
            let name = [path, coding.suffix().as_bytes()].concat();
            if let Ok(Found::File(file)) = self.files.find(&name).await
                && file.current(Some(coding)).is_ok_and(|current| current.version.validators.modified >= modified)
            {
                return Some((file, coding));
            }
        }
        None
    }

    /// What the path alone says of a file; made once for each open file.
    fn describe<'f>(&self, file: &'f OpenFile, path: &[u8]) -> &'f Description {
        file.description.get_or_init(|| {
            let negotiable = self.config.precompressed && media_type::may_be_precompressed(path);
            let mut caching = ResponseHead::new(StatusCode::OK);
            if let Some((_, value)) = self.cache_control.iter().find(|(pattern, _)| pattern.matches(path)) {
                caching.field("Cache-Control", value.as_bytes());
            }
            if negotiable {
                caching.field("Vary", b"Accept-Encoding");
            }
            let mut serving = ResponseHead::new(StatusCode::OK);
            serving.field("Accept-Ranges", b"bytes");
            serving.field("X-Content-Type-Options", b"nosniff");
            if self.has_pages_of_others && media_type::is_page(self.types.of(path)) {
                serving.field("Content-Security-Policy", b"sandbox");
            }
            Description { content_type: self.types.of(path).to_owned(), negotiable, caching, serving }
        })
    }
}

/// What the path alone says of a file.
struct Description {
    content_type: String,
    /// Whether precompressed siblings may stand for it.
    negotiable: bool,
    /// The fields that 200, 206 and 304 have in common (R10).
    caching: ResponseHead,
    /// The fields that only 200 and 206 have.
    serving: ResponseHead,
}

/// RFC 9110 §15.4.5: only what a cache needs to know anew.
fn not_modified(description: &Description, validators: &Validators) -> Response {
    let mut head = ResponseHead::new(StatusCode::NOT_MODIFIED);
    head.field("ETag", validators.etag.as_bytes());
    head.append(&description.caching);
    debug_assert!(head.iter().all(|(name, _)| {
        REPEATED_IN_NOT_MODIFIED.iter().any(|repeated| repeated.as_bytes().eq_ignore_ascii_case(name))
    }));
    Response::from_head(head)
}

const ALLOW: &str = "GET, HEAD, OPTIONS";

const RANGES: RangeLimits = RangeLimits {
    ranges: Limits::RANGES,
    out_of_order: Limits::RANGES_OUT_OF_ORDER,
    coalesce_gap: Limits::RANGE_COALESCE_GAP,
};

/// `?download` saves the file under its own name, `?download=name` under another (RFC 6266).
fn download(request: &Request, path: &[u8]) -> Option<String> {
    match target::query_flag(request.query(), "download") {
        QueryFlag::Absent => None,
        QueryFlag::Value(name) => Some(disposition::attachment(&name)),
        QueryFlag::Bare => {
            let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
            Some(disposition::attachment(&String::from_utf8_lossy(name)))
        }
    }
}

/// `?info` asks about the file, see [`info`].
fn wants_info(request: &Request) -> bool {
    target::query_flag(request.query(), "info") != QueryFlag::Absent
}

/// A program asks for JSON by name; a browser names HTML.
fn prefers_json(request: &Request) -> bool {
    let accepts = |media_type: &str| {
        request.fields().get_all("Accept").any(|value| {
            let mut ranges = value.split(|b| *b == b',');
            ranges.any(|range| range.trim_ascii_start().to_ascii_lowercase().starts_with(media_type.as_bytes()))
        })
    };
    accepts("application/json") && !accepts("text/html")
}

/// 120 random bits in hexadecimal: not to be found in any file by chance.
fn random_boundary() -> Result<String, getrandom::Error> {
    let mut random = [0_u8; 15];
    getrandom::fill(&mut random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn missing() -> Response {
    not_found(NotFound::Missing)
}

fn missing_randomness() -> Response {
    Response::text(StatusCode::INTERNAL_SERVER_ERROR, "The server has no randomness.")
}

fn not_found(why: NotFound) -> Response {
    match why {
        NotFound::Missing => Response::text(StatusCode::NOT_FOUND, "There is no such file."),
        NotFound::Forbidden => Response::text(StatusCode::FORBIDDEN, "The server may not read this file."),
        NotFound::Busy => {
            Response::text(StatusCode::SERVICE_UNAVAILABLE, "The server is out of descriptors or memory.")
                .field("Retry-After", "1")
        }
        NotFound::Failed => Response::text(StatusCode::INTERNAL_SERVER_ERROR, "The file can't be opened."),
    }
}
