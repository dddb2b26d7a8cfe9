//! What an operator decides, resolved: flags above the environment above the file above the defaults.
//!
//! Everything that starts a server ends in one immutable [`Config`]; nothing further in looks at a flag, a variable or a
//! file. Text becomes a value as it comes in, where the line or the flag to blame is still known, and each kind of value is
//! read by one function whatever layer it came from. The file is walked by hand ([`file`]) rather than derived through
//! serde: a derived reader finds a wrong value only after its line is forgotten, and can't suggest the key that was meant.
//!
//! An embedder fills in the fields, or starts from [`Config::default`]; [`Config::check`] then says what the file's reader
//! would have said.

mod address;
mod auth;
mod check;
mod events;
mod file;
mod live;
mod queue;
mod rate;
mod route;
mod upload;
mod write;

use std::fmt;
use std::num::NonZero;
use std::path::{self, Path, PathBuf};
use std::str::FromStr;
use std::thread;

pub use address::ListenAddress;
pub use auth::{AuthConfig, RequestUrl};
pub(crate) use auth::{RequestPlace, read_keys};
pub(crate) use check::check_cors;
pub use events::{EventsConfig, OnLag};
pub use live::{LiveConfig, OnSecondEncoder};
pub use queue::QueueConfig;
pub use rate::{Factor, RateSource};
pub use route::{CacheRule, HandlerConfig, MediaConfig, RouteConfig};
pub use upload::{Fsync, Names, OnConflict, UploadConfig};

use crate::error::Error;
use crate::limits::{Limits, MemoryCeiling, Term};
use crate::proto::{media_type, target};

/// A server's configuration. Documented for operators in `docs/CONFIG.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where clients connect; every worker accepts on each. Default: `127.0.0.1:8080`.
    pub listen: Vec<ListenAddress>,
    /// Where the dashboard, `/metrics` and `/healthz` are answered; none by default. Never one of `listen`.
    pub admin: Option<ListenAddress>,
    /// Threads, each with its own ring, connections and buffers. At most [`Limits::WORKERS`]. Default: one for each
    /// processor that the process may run on.
    pub workers: NonZero<usize>,
    /// Where a line for each request goes. Default: nowhere.
    pub access_log: AccessLog,
    /// How that line is written. Default: text.
    pub log_format: LogFormat,
    /// Which driver talks to the kernel. Default: the best one that the kernel has.
    pub driver: DriverKind,
    /// How the bytes of files reach a socket. Default: by what is cheapest.
    pub send_path: SendPath,
    /// Every bound.
    pub limits: Limits,
    /// Which handler answers what; the longest prefix of a request's host wins. Default: none, as an embedder adds its own.
    pub routes: Vec<RouteConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: vec![ListenAddress::default()],
            admin: None,
            workers: processors(),
            access_log: AccessLog::Off,
            log_format: LogFormat::Text,
            driver: DriverKind::Auto,
            send_path: SendPath::Auto,
            limits: Limits::default(),
            routes: Vec::new(),
        }
    }
}

impl Config {
    /// Resolves the file, if there is one, and what lies above it. It may be called again to read the file anew.
    ///
    /// # Errors
    /// The first thing that is wrong, as `FILE:LINE: what is wrong and what to write instead`, the operator's fault.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Config, Error> {
        let mut config = match file {
            Some(path) => file::read(path)?,
            None => Config::default(),
        };
        overrides.apply(&mut config)?;
        check_places(&config).map_err(|wrong| match file {
            Some(path) => Error::operator(format!("{}: {wrong}", path.display())),
            None => Error::operator(wrong),
        })?;
        Ok(config)
    }

    /// Checks what [`Config::load`] checks while it reads: limits, routes, addresses. A server checks what it is given.
    ///
    /// # Errors
    /// The first thing that is wrong and what to write instead, the operator's fault.
    pub fn check(&self) -> Result<(), Error> {
        self.limits.check().map_err(|invalid| Error::operator(format!("limits: {invalid}")))?;
        check_workers(self.workers.get()).map_err(|wrong| Error::operator(format!("workers: {wrong}")))?;
        if self.listen.is_empty() {
            return Err(Error::operator("listen: no address: write at least one"));
        }
        check_places(self).map_err(Error::operator)?;
        for (index, route) in self.routes.iter().enumerate() {
            let wrong = |wrong: String| Error::operator(format!("route {}: {wrong}", index + 1));
            route.check(&self.limits).map_err(wrong)?;
            if self.routes[..index].iter().any(|earlier| earlier.answers_as(route)) {
                return Err(wrong(route.taken()));
            }
        }
        Ok(())
    }

    /// Where a folder's files are served on a host: the path of the media route that has it, or one above it, as its root.
    pub(crate) fn url_of_folder(&self, host: Option<&str>, folder: &Path) -> Option<String> {
        let path = |route: &RouteConfig| match &route.handler {
            HandlerConfig::Media(media) if route.host.as_deref() == host => {
                Some(url_beneath(&route.prefix, folder.strip_prefix(&media.root).ok()?))
            }
            _ => None,
        };
        // The shortest is of the root that is nearest.
        let nearest = self.routes.iter().filter_map(path).min_by_key(String::len);
        nearest.map(|url| if url.is_empty() { String::from("/") } else { url })
    }

    /// Where a host takes uploads that end up beneath this folder.
    pub(crate) fn uploads_beneath(&self, host: Option<&str>, folder: &Path) -> Vec<UploadPlace> {
        let place = |route: &RouteConfig| match &route.handler {
            HandlerConfig::Upload(upload) if route.host.as_deref() == host => {
                if let Ok(beneath) = folder.strip_prefix(&upload.dir) {
                    return Some(UploadPlace { folder: Vec::new(), url: url_beneath(&route.prefix, beneath) });
                }
                let inside = upload.dir.strip_prefix(folder).ok()?;
                let folder = inside.as_os_str().as_encoded_bytes().to_vec();
                Some(UploadPlace { folder, url: url_beneath(&route.prefix, Path::new("")) })
            }
            _ => None,
        };
        self.routes.iter().filter_map(place).collect()
    }

    /// Whether clients may put pages into this folder, or one above or beneath it, by any route.
    pub(crate) fn takes_pages_beneath(&self, folder: &Path) -> bool {
        let overlaps = |dir: &Path| dir.starts_with(folder) || folder.starts_with(dir);
        self.routes.iter().any(|route| match (&route.handler, &route.live) {
            (HandlerConfig::Upload(upload), _) => {
                overlaps(&upload.dir) && media_type::may_be_pages(&upload.name_patterns, &upload.types)
            }
            (HandlerConfig::Media(media), Some(live)) => {
                overlaps(&media.root) && media_type::may_be_pages(&live.name_patterns, &[])
            }
            _ => false,
        })
    }

    /// The most user memory that this server takes, term by term: what its limits add up to, and what its routes keep.
    pub fn memory_ceiling(&self) -> MemoryCeiling {
        let mut ceiling = self.limits.memory_ceiling(self.workers.get());
        for route in &self.routes {
            match &route.handler {
                HandlerConfig::Events(events) => ceiling.process.extend([
                    Term::new("events", 1, events.memory as u64),
                    Term::new("topics", events.topics, Limits::TOPIC_BYTES),
                ]),
                HandlerConfig::Queue(queue) => ceiling.process.extend([
                    Term::new("queued items", 1, queue.memory as u64),
                    Term::new("queues", queue.queues, Limits::QUEUE_BYTES),
                    // What waits to be written, and the same as it is written.
                    Term::new("queue journal", usize::from(queue.journal.is_some()) * 2, queue.waiting_len() as u64),
                ]),
                HandlerConfig::Media(_) if route.live.is_some() => {
                    ceiling.process.extend([
                        Term::new("live names", Limits::LIVE_NAMES, Limits::LIVE_NAME_BYTES),
                        Term::new("newest live bytes", self.workers.get(), Limits::LIVE_NEWEST_BYTES),
                    ]);
                }
                HandlerConfig::Media(_) | HandlerConfig::Upload(_) => {}
            }
        }
        ceiling
    }

    /// This configuration as the file that gives it, complete. Reading it back gives the same configuration, if it passes
    /// [`Config::check`] and its paths are absolute UTF-8, as all that were loaded are.
    pub fn to_toml(&self) -> String {
        write::to_toml(self)
    }
}

/// A folder of a media route whose files, and those beneath it, can be uploaded to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UploadPlace {
    /// Its path beneath the route's root, without slashes at its ends; empty for the root.
    pub folder: Vec<u8>,
    /// The path that a name of a file in it is added to, encoded and without a slash at its end.
    pub url: String,
}

/// A path beneath a route's prefix, encoded; empty for the root of the host.
fn url_beneath(prefix: &str, beneath: &Path) -> String {
    let segments = prefix.split('/').filter(|segment| !segment.is_empty()).map(str::as_bytes);
    let segments = segments.chain(beneath.iter().map(|segment| segment.as_encoded_bytes()));
    segments.fold(String::new(), |url, segment| format!("{url}/{}", target::encode_segment(segment)))
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere: `off`.
    Off,
    /// Standard output: `-`.
    Stdout,
    /// The end of this file, which is made if it isn't there.
    File(PathBuf),
}

impl FromStr for AccessLog {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "" => Err(Error::operator("no file: write its path, `-` for standard output, or `off`")),
            "off" => Ok(AccessLog::Off),
            "-" => Ok(AccessLog::Stdout),
            path => Ok(AccessLog::File(PathBuf::from(path))),
        }
    }
}

impl fmt::Display for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AccessLog::Off => f.write_str("off"),
            AccessLog::Stdout => f.write_str("-"),
            AccessLog::File(path) => path.display().fmt(f),
        }
    }
}

impl AccessLog {
    /// The same place, a relative path taken from `dir`.
    fn within(self, dir: &Path) -> Result<Self, String> {
        match self {
            AccessLog::File(path) => Ok(AccessLog::File(absolute(dir, &path)?)),
            elsewhere => Ok(elsewhere),
        }
    }
}

/// How a line of the access log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// The combined format that log analysers read: `text`.
    Text,
    /// One JSON object a line: `json`.
    Json,
}

impl FromStr for LogFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            other => Err(Error::operator(format!("`{other}` is not a log format: write text or json"))),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}

/// Which driver talks to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverKind {
    /// The best one that the kernel has: `auto`.
    Auto,
    /// io_uring, or no start: `uring`.
    Uring,
}

impl FromStr for DriverKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(DriverKind::Auto),
            "uring" => Ok(DriverKind::Uring),
            other => Err(Error::operator(format!("`{other}` is not a driver: write auto or uring"))),
        }
    }
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DriverKind::Auto => "auto",
            DriverKind::Uring => "uring",
        })
    }
}

/// How the bytes of files that are not small reach a socket. All but `auto` are there to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendPath {
    /// What is cheapest on the machines that it was measured on; today the same as `sendfile`: `auto`.
    Auto,
    /// sendfile(2), once the pages are in the page cache: `sendfile`.
    Sendfile,
    /// splice(2) through a pooled pipe, once the pages are in the page cache: `splice`.
    Splice,
    /// File to pipe on a thread of the kernel, pipe to socket at once: `ring-splice`.
    RingSplice,
    /// Read through the ring into a transfer buffer, and sent from there: `read`.
    Read,
    /// As `read`, and sent without a copy (`IORING_OP_SEND_ZC`); a buffer waits for the client's acknowledgement: `send-zc`.
    SendZc,
}

/// Each with its name.
const SEND_PATHS: [(SendPath, &str); 6] = [
    (SendPath::Auto, "auto"),
    (SendPath::Sendfile, "sendfile"),
    (SendPath::Splice, "splice"),
    (SendPath::RingSplice, "ring-splice"),
    (SendPath::Read, "read"),
    (SendPath::SendZc, "send-zc"),
];

impl FromStr for SendPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let named = SEND_PATHS.iter().find(|(_, name)| *name == text).map(|(path, _)| *path);
        named.ok_or_else(|| {
            let names = SEND_PATHS.map(|(_, name)| name).join(", ");
            Error::operator(format!("`{text}` is not a send path: write one of {names}"))
        })
    }
}

impl fmt::Display for SendPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = SEND_PATHS.iter().find(|(path, _)| path == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

/// What lies above the file: flags, or the environment. `None` leaves what is beneath.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// A folder to serve at `/`, in place of a route that the file has there for any host.
    pub root: Option<PathBuf>,
    /// In place of [`Config::listen`].
    pub listen: Option<Vec<ListenAddress>>,
    /// In place of [`Config::admin`].
    pub admin: Option<ListenAddress>,
    /// In place of [`Config::workers`].
    pub workers: Option<NonZero<usize>>,
    /// In place of [`Limits::high_water_mark`], in bytes and within its span.
    pub high_water_mark: Option<usize>,
    /// In place of [`MediaConfig::cors`], in the route of `root`, or without one in every media route.
    pub cors: Option<Vec<String>>,
    /// In place of [`MediaConfig::listing`], in the same routes.
    pub listing: Option<bool>,
    /// In place of [`Config::access_log`].
    pub access_log: Option<AccessLog>,
    /// In place of [`Config::log_format`].
    pub log_format: Option<LogFormat>,
    /// In place of [`Config::driver`].
    pub driver: Option<DriverKind>,
    /// In place of [`Config::send_path`].
    pub send_path: Option<SendPath>,
}

impl Overrides {
    fn apply(&self, config: &mut Config) -> Result<(), Error> {
        replace(&mut config.workers, &self.workers);
        replace(&mut config.limits.high_water_mark, &self.high_water_mark);
        replace(&mut config.log_format, &self.log_format);
        replace(&mut config.driver, &self.driver);
        replace(&mut config.send_path, &self.send_path);
        self.apply_places(config).map_err(Error::operator)?;
        match &self.root {
            Some(root) => {
                let mut route = RouteConfig::media("/", self.media_at(root)?);
                // Another folder does not open to everybody what the file guards, and takes what the file lets it take.
                if let Some(at) = config.routes.iter().position(|other| other.answers_as(&route)) {
                    let RouteConfig { auth, live, .. } = config.routes.remove(at);
                    (route.auth, route.live) = (auth, live);
                }
                config.routes.insert(0, route);
            }
            None => config.routes.iter_mut().for_each(|route| match &mut route.handler {
                HandlerConfig::Media(media) => self.apply_to_media(media),
                HandlerConfig::Upload(_) | HandlerConfig::Events(_) | HandlerConfig::Queue(_) => {}
            }),
        }
        Ok(())
    }

    /// What may hold a path, which is taken from the working directory.
    fn apply_places(&self, config: &mut Config) -> Result<(), String> {
        let here = Path::new("");
        if let Some(addresses) = self.listen.clone() {
            config.listen = addresses.into_iter().map(|address| address.within(here)).collect::<Result<_, _>>()?;
        }
        if let Some(address) = self.admin.clone() {
            config.admin = Some(address.within(here)?);
        }
        if let Some(log) = self.access_log.clone() {
            config.access_log = log.within(here)?;
        }
        Ok(())
    }

    fn media_at(&self, root: &Path) -> Result<MediaConfig, Error> {
        check::check_root(root).map_err(Error::operator)?;
        let mut media = MediaConfig::new(absolute(Path::new(""), root).map_err(Error::operator)?);
        self.apply_to_media(&mut media);
        Ok(media)
    }

    fn apply_to_media(&self, media: &mut MediaConfig) {
        if self.cors.is_some() {
            media.cors.clone_from(&self.cors);
        }
        replace(&mut media.listing, &self.listing);
    }
}

/// How many processors this process may run on: its affinity mask and its cgroup's quota count.
fn processors() -> NonZero<usize> {
    let found = thread::available_parallelism().map_or(1, NonZero::get);
    NonZero::new(found.min(Limits::WORKERS)).unwrap_or(NonZero::<usize>::MIN)
}

fn replace<T: Clone>(value: &mut T, above: &Option<T>) {
    if let Some(above) = above {
        value.clone_from(above);
    }
}

/// Reads a number of workers. The error says what to write instead.
pub(crate) fn parse_workers(text: &str) -> Result<NonZero<usize>, Error> {
    let number =
        text.parse().map_err(|_| Error::operator(format!("`{text}` is not a number of workers: write 1 or more")))?;
    check_workers(number).map_err(Error::operator)
}

fn check_workers(number: usize) -> Result<NonZero<usize>, String> {
    let most = Limits::WORKERS;
    let wrong = || format!("`{number}` workers is out of bounds: write 1 to {most}");
    NonZero::new(number).filter(|workers| workers.get() <= most).ok_or_else(wrong)
}

/// Both would listen with SO_REUSEPORT, and the kernel would hand each a share of the other's clients.
fn check_admin(config: &Config) -> Result<(), String> {
    match &config.admin {
        Some(admin) if !admin.asks_for_any_port() && config.listen.contains(admin) => {
            Err(format!("admin: `{admin}` is also an address for clients: write another port"))
        }
        _ => Ok(()),
    }
}

/// What two parts of the configuration may not share.
fn check_places(config: &Config) -> Result<(), String> {
    check_admin(config)?;
    check_stores(config)?;
    check_journals(config)
}

/// A journal is one route's alone.
fn check_journals(config: &Config) -> Result<(), String> {
    let journals = config.routes.iter().filter_map(|route| match &route.handler {
        HandlerConfig::Events(events) => events.journal.as_deref(),
        HandlerConfig::Queue(queue) => queue.journal.as_deref(),
        HandlerConfig::Media(_) | HandlerConfig::Upload(_) => None,
    });
    let mut seen = Vec::new();
    for journal in journals {
        if seen.contains(&journal) {
            let shown = journal.display();
            return Err(format!("journal: `{shown}` is another route's journal already: write a directory for each"));
        }
        seen.push(journal);
    }
    Ok(())
}

/// What is not whole yet lies under a hidden name, which a route that shows hidden files would serve.
fn check_stores(config: &Config) -> Result<(), String> {
    let uploads = config.routes.iter().filter_map(|route| match &route.handler {
        HandlerConfig::Upload(upload) => Some(&upload.dir),
        HandlerConfig::Media(media) if route.live.is_some() => Some(&media.root),
        _ => None,
    });
    for dir in uploads {
        let shows = config.routes.iter().find(|route| {
            matches!(&route.handler, HandlerConfig::Media(media) if media.hidden && dir.starts_with(&media.root))
        });
        if let Some(route) = shows {
            let (prefix, dir) = (&route.prefix, dir.display());
            return Err(format!(
                "hidden: the route `{prefix}` would show uploads to `{dir}` that are not whole: write false, or another folder"
            ));
        }
    }
    Ok(())
}

/// `path` from `dir`, or from the working directory when `dir` is relative too. Links stay: a root may be one, and swapped.
fn absolute(dir: &Path, path: &Path) -> Result<PathBuf, String> {
    let shown = path.display();
    let absolute = path::absolute(dir.join(path)).map_err(|error| format!("`{shown}` is not a path: {error}"))?;
    match absolute.to_str() {
        Some(_) => Ok(absolute),
        None => Err(format!("`{shown}` is not UTF-8, which the configuration is written in: rename it")),
    }
}

#[cfg(test)]
mod tests {
    use super::file::Section;
    use super::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    const DOCUMENTATION: &str = include_str!("../../docs/CONFIG.md");

    /// The rows of a section's table: the cells, the key's without its quotes.
    fn documented(section: Section) -> Vec<Vec<String>> {
        let heading = format!("\n## `{}`\n", section.name());
        let (_, rest) = DOCUMENTATION.split_once(&heading).unwrap_or_else(|| panic!("no heading {heading:?}"));
        let body = rest.split("\n## ").next().unwrap_or(rest);
        let rows = body.lines().filter(|line| line.starts_with("| `"));
        let cells = |row: &str| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_string()).collect();
        rows.map(cells)
            .map(|mut cells: Vec<String>| {
                cells[0] = cells[0].replace('`', "");
                cells
            })
            .collect()
    }

    /// A route of each kind, with its defaults.
    fn routes_of_all_kinds() -> Vec<RouteConfig> {
        let mut media = RouteConfig::media("/", MediaConfig::new("/srv"));
        media.live = Some(LiveConfig::default());
        media.auth = vec![AuthConfig::default()];
        let upload = RouteConfig::upload("/up", UploadConfig::new("/srv"));
        let events = RouteConfig::events("/events", EventsConfig::default());
        vec![media, upload, events, RouteConfig::queue("/queue", QueueConfig::default())]
    }

    /// What the documentation has to say is this key's default.
    fn default_of(section: Section, key: &str) -> String {
        let config = Config { routes: routes_of_all_kinds(), ..Config::default() };
        let written = config.to_toml();
        let plain = section.name().trim_matches(['[', ']']);
        let headings = [format!("[{plain}]"), format!("[[{plain}]]"), format!("[route.{plain}]")];
        let table =
            written.split("\n\n").find(|table| headings.iter().any(|heading| table.starts_with(heading.as_str())));
        let value = table.and_then(|table| table.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = ")));
        match (key, value) {
            ("workers", _) => String::from("one for each processor"),
            ("root" | "dir" | "pattern" | "value", _) => String::from("required"),
            ("media" | "upload" | "events" | "queue", _) => String::from("one handler"),
            ("methods", None) => String::from("all but `OPTIONS`"),
            (_, Some(value)) => format!("`{value}`"),
            (_, None) => String::from("none"),
        }
    }

    #[test]
    fn every_key_is_documented_with_its_default_and_every_documented_key_exists() {
        for section in Section::ALL.into_iter().filter(|section| *section != Section::Top) {
            let rows = documented(section);
            let keys: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
            assert_eq!(keys, section.keys(), "{}", section.name());
            for row in rows.iter().filter(|_| section != Section::Limits) {
                assert_eq!(row[1], default_of(section, &row[0]), "the default of {}", row[0]);
            }
        }
    }

    #[test]
    fn every_limit_is_documented_with_its_default_and_its_span() {
        for (row, spec) in documented(Section::Limits).iter().zip(Limits::SPECS) {
            let write = |number| format!("`{}`", spec.unit.format(number));
            assert_eq!(row[1], write(spec.default), "the default of {}", spec.key);
            let allowed = format!("{} to {}", write(*spec.span.start()), write(*spec.span.end()));
            assert_eq!(row[2], allowed, "what is allowed for {}", spec.key);
        }
    }

    #[test]
    fn the_documentations_example_has_no_unknown_key_and_no_section_a_key_twice() {
        let (_, rest) = DOCUMENTATION.split_once("```toml\n").unwrap();
        let example = rest.split("```").next().unwrap();
        // Its folders don't exist here; that is the only complaint it may raise.
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        let path = dir.path().join("example.toml");
        std::fs::write(&path, example.replace("/srv/vod", root).replace("/srv/live", root)).unwrap();
        let config = Config::load(Some(&path), &Overrides::default()).unwrap();
        assert_eq!((config.listen.len(), config.routes.len()), (2, 2));

        for section in Section::ALL {
            let keys = section.keys();
            assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "{}", section.name());
        }
    }

    #[test]
    fn a_folder_takes_uploads_where_a_route_of_its_host_has_it_or_one_above_or_beneath() {
        let upload = |prefix: &str, dir: &str| RouteConfig::upload(prefix, UploadConfig::new(dir));
        let other_host = RouteConfig { host: Some(String::from("a.example")), ..upload("/other", "/srv") };
        let routes =
            vec![upload("/", "/srv/media/in/box"), upload("/a b", "/srv"), upload("/no", "/srv/med"), other_host];
        let config = Config { routes, ..Config::default() };
        let places = |folder: &str| {
            let places = config.uploads_beneath(None, Path::new(folder)).into_iter();
            places.map(|place| (String::from_utf8(place.folder).unwrap(), place.url)).collect::<Vec<_>>()
        };
        let of = |folder: &str, url: &str| (String::from(folder), String::from(url));
        assert_eq!(places("/srv/media"), [of("in/box", ""), of("", "/a%20b/media")]);
        assert_eq!(places("/srv/media/in/box/c"), [of("", "/c"), of("", "/a%20b/media/in/box/c")]);
        assert_eq!(places("/elsewhere"), []);
    }

    fn served() -> (tempfile::TempDir, Config) {
        let dir = tempfile::tempdir().unwrap();
        let route = RouteConfig::media("/", MediaConfig::new(dir.path()));
        (dir, Config { routes: vec![route], ..Config::default() })
    }

    #[track_caller]
    fn check_refused(change: impl FnOnce(&mut Config), expected: &str) {
        let (dir, mut config) = served();
        assert!(config.check().is_ok());
        change(&mut config);
        let refusal = config.check().unwrap_err().report();
        assert_eq!(refusal.replace(dir.path().to_str().unwrap(), "@"), expected);
    }

    fn media(config: &mut Config) -> &mut MediaConfig {
        match &mut config.routes[0].handler {
            HandlerConfig::Media(media) => media,
            other => panic!("no media route: {other:?}"),
        }
    }

    #[test]
    fn an_embedders_configuration_is_checked_like_a_file() {
        check_refused(|c| c.limits.head_fields = 1, "limits: head_fields: `1` is out of bounds: write 16 to 1000");
        let over = "workers: `1025` workers is out of bounds: write 1 to 1024";
        check_refused(|c| c.workers = c.workers.saturating_add(1024).min(NonZero::new(1025).unwrap()), over);
        check_refused(|c| c.listen.clear(), "listen: no address: write at least one");
        let clash = "admin: `127.0.0.1:8080` is also an address for clients: write another port";
        check_refused(|c| c.admin = Some(ListenAddress::default()), clash);
        let twice = "journal: `/srv/j` is another route's journal already: write a directory for each";
        check_refused(
            |c| {
                let journal = || Some(PathBuf::from("/srv/j"));
                let events = EventsConfig { journal: journal(), ..EventsConfig::default() };
                let queue = QueueConfig { journal: journal(), ..QueueConfig::default() };
                c.routes = vec![RouteConfig::events("/e", events), RouteConfig::queue("/q", queue)];
            },
            twice,
        );
        let slash = "route 1: prefix: `media` does not start with a slash: write `/media`";
        check_refused(|c| c.routes[0].prefix = "media".into(), slash);
        let host = "route 1: host: `A:1` is not a host name: write it in lower case, without scheme and port, like example.com";
        check_refused(|c| c.routes[0].host = Some("A:1".into()), host);
        let root = "route 1: root: `@/gone` does not exist: create it, or write the directory that holds the files";
        check_refused(|c| media(c).root.push("gone"), root);
        let index = "route 1: index: `a/b` is a path: write a file's name, like index.html";
        check_refused(|c| media(c).index.push("a/b".into()), index);
        let cors = "route 1: cors: no origin is listed; write \"*\" or \"https://player.example\"";
        check_refused(|c| media(c).cors = Some(Vec::new()), cors);
        let rule = "route 1: cache_control: \"a\\r\\nb: c\" can't be sent as a field's value: \
                    write a value like no-cache or max-age=60";
        check_refused(|c| media(c).cache_control.push(CacheRule::new("*", "a\r\nb: c")), rule);
        let kind = "route 1: content_types: `mp4` is not a media type: write one like video/mp4";
        check_refused(|c| drop(media(c).content_types.insert("m4b".into(), "mp4".into())), kind);
        let rate = "route 1: limit_rate: `2047B/s` is below twice reply_min_rate: write at least 2KiB/s, or a lower reply_min_rate";
        check_refused(|c| media(c).limit_rate = Some(2047), rate);
        let rate = "route 1: limit_rate_address: `2KiB/s` is below twice reply_min_rate: write at least 4KiB/s, or a lower \
                    reply_min_rate";
        check_refused(|c| (c.limits.reply_min_rate, media(c).limit_rate_address) = (2048, Some(2048)), rate);
        let origins = "route 1: origins: no origin is listed; write \"*\" or \"https://player.example\"";
        let upload = |c: &mut Config| {
            let config = UploadConfig { origins: Some(Vec::new()), ..UploadConfig::new(&media(c).root) };
            c.routes[0].handler = HandlerConfig::Upload(config);
        };
        check_refused(upload, origins);
        let shows =
            "hidden: the route `/` would show uploads to `@` that are not whole: write false, or another folder";
        check_refused(
            |c| {
                media(c).hidden = true;
                let dir = media(c).root.clone();
                c.routes.push(RouteConfig::upload("/up", UploadConfig::new(dir)));
            },
            shows,
        );
        let taken = "route 2: an earlier route has prefix `/` for the same host: write another prefix or host";
        check_refused(|c| c.routes.push(c.routes[0].clone()), taken);
    }

    #[test]
    fn two_addresses_that_ask_for_any_port_do_not_clash() {
        let (_dir, mut config) = served();
        let any: ListenAddress = "127.0.0.1:0".parse().unwrap();
        (config.listen, config.admin) = (vec![any.clone(), any.clone()], Some(any));
        assert!(config.check().is_ok());
    }

    #[test]
    fn what_is_written_reads_back_with_every_key_set() {
        let (dir, mut config) = served();
        config.listen = ["[::1]:1", "unix:/run/a \"quoted\".sock"].iter().map(|text| text.parse().unwrap()).collect();
        config.admin = "127.0.0.1:3".parse().ok();
        config.workers = NonZero::new(9).unwrap();
        config.access_log = AccessLog::File(PathBuf::from("/var/log/new\nline.log"));
        (config.log_format, config.driver) = (LogFormat::Json, DriverKind::Uring);
        config.send_path = SendPath::RingSplice;
        for spec in Limits::SPECS {
            spec.set(&mut config.limits, *spec.span.start()).unwrap();
        }
        config.routes[0].host = Some("[::1]".into());
        config.routes[0].prefix = "/a'b/\\c".into();
        *media(&mut config) = MediaConfig {
            index: Vec::new(),
            listing: true,
            precompressed: false,
            cors: Some(vec!["https://a.example".into(), "http://[::1]:8080".into()]),
            cache_control: vec![CacheRule::new("live/*.ts", "max-age=1, stale-if-error=60")],
            content_types: [("m4b".into(), "audio/mp4; codecs=\"mp4a.40.2\"".into())].into(),
            limit_rate: Some(3 << 20),
            limit_rate_address: Some(5_000_001),
            rate_from: Some(RateSource::Bitrate),
            rate_factor: Factor::from_hundredths(225).unwrap(),
            rate_burst: 0,
            ..MediaConfig::new(dir.path())
        };
        let (tokens, keys) = (dir.path().join("tokens"), dir.path().join("keys"));
        [&tokens, &keys].into_iter().for_each(|path| std::fs::write(path, "0123456789abcdef").unwrap());
        let readers = AuthConfig { tokens: Some(tokens.clone()), ..AuthConfig::default() };
        config.routes[0].auth = vec![
            readers,
            AuthConfig {
                tokens: Some(tokens),
                signing_keys: Some(keys),
                request: Some("http://[::1]:9/check?a=\"b\"".parse().unwrap()),
                request_timeout: Duration::from_millis(1500),
                methods: Some(vec![http::Method::POST, http::Method::GET]),
            },
        ];
        config.routes[0].live = Some(LiveConfig {
            on_second_encoder: OnSecondEncoder::TakeOver,
            whole: Vec::new(),
            name_patterns: vec!["*.ts".into()],
            delete: true,
            file_len: 5,
            fsync: Fsync::File,
        });
        let upload = UploadConfig {
            url: Some("https://cdn.example/a".into()),
            names: Names::Client,
            name_patterns: vec!["*.mp4".into(), "a?".into()],
            types: vec!["video/*".into(), "image/png".into()],
            on_conflict: OnConflict::Rename,
            delete: true,
            origins: Some(vec!["https://a.example".into(), "http://[::1]:8080".into()]),
            fsync: Fsync::File,
            sha256: false,
            resumable: false,
            resumable_expiry: std::time::Duration::from_secs(5400),
            file_fields: vec!["f".into()],
            file_len: 1,
            total_len: 2 << 30,
            upload_rate: Some(1000),
            quota: Some(0),
            ..UploadConfig::new(dir.path())
        };
        config.routes.push(RouteConfig::upload("/up", upload));
        let events = EventsConfig {
            history_events: 0,
            history_bytes: 1,
            history_age: Duration::from_millis(1),
            journal: Some(dir.path().join("events")),
            journal_bytes: 3 << 20,
            journal_sync: true,
            memory: 5 << 20,
            topics: 7,
            subscribers: 8,
            event_len: 9,
            backlog: 10,
            on_lag: OnLag::Skip,
            heartbeat: Duration::from_secs(11),
            retry: Some(Duration::from_millis(1200)),
            origins: Some(vec!["https://a.example".into()]),
            credentials: true,
        };
        config.routes.push(RouteConfig::events("/events", events));
        let queue = QueueConfig {
            journal: Some(dir.path().join("queue")),
            journal_bytes: 3 << 20,
            journal_sync: true,
            memory: 5 << 20,
            queues: 7,
            queue_bytes: 1 << 20,
            queue_items: 8,
            item_len: 9,
            lease: Duration::from_millis(1500),
            origins: Some(vec!["*".into()]),
        };
        config.routes.push(RouteConfig::queue("/queue", queue));
        config.check().unwrap();
        check_round_trip(&config);

        // And with nothing set that has a default.
        check_round_trip(&served_in(&dir));
    }

    fn served_in(dir: &tempfile::TempDir) -> Config {
        Config { routes: vec![RouteConfig::media("/", MediaConfig::new(dir.path()))], ..Config::default() }
    }

    #[track_caller]
    fn check_round_trip(config: &Config) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("written.toml");
        std::fs::write(&path, config.to_toml()).unwrap();
        assert_eq!(&Config::load(Some(&path), &Overrides::default()).unwrap(), config);
    }
}
