//! Routes: which requests a handler answers, and what a folder of media is served with.
//!
//! What may be written for each key is decided by one function here, whether it comes from the file, a flag or an embedder.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use super::auth::AuthConfig;
use super::check::{self, check_cors, check_root};
use super::events::EventsConfig;
use super::live::LiveConfig;
use super::queue::QueueConfig;
use super::rate::{Factor, RateSource, check_rate};
use super::upload::UploadConfig;
use crate::limits::Limits;
use crate::proto::cors::{Cors, Sharing};
use crate::proto::pattern::Pattern;

/// One handler and the requests that it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConfig {
    /// The host to answer for, in lower case and without a port; `None` is any.
    pub host: Option<String>,
    /// The start of the decoded path, in whole segments: `/a` answers `/a` and `/a/b`, not `/ab`. Starts with a slash and,
    /// unless it is `/`, doesn't end with one.
    pub prefix: String,
    /// What answers.
    pub handler: HandlerConfig,
    /// What encoders may put into the folder, where the handler is media; `None` is nothing.
    pub live: Option<LiveConfig>,
    /// Who may ask. Each guards its own methods, and all that guard a request's method have to let it pass; none is everybody.
    pub auth: Vec<AuthConfig>,
}

/// What is wrong with a route that has encoders but no folder.
pub(super) const LIVE_WITHOUT_MEDIA: &str =
    "live needs the folder that it puts files into: write media = { root = \"PATH\" } beside it";

/// What answers a route's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerConfig {
    /// A folder of files.
    Media(MediaConfig),
    /// A folder that takes uploads.
    Upload(UploadConfig),
    /// Topics of events.
    Events(EventsConfig),
    /// Queues of items.
    Queue(QueueConfig),
}

impl RouteConfig {
    /// A folder of files beneath this prefix, for any host.
    pub fn media(prefix: impl Into<String>, media: MediaConfig) -> Self {
        RouteConfig::new(prefix, HandlerConfig::Media(media))
    }

    /// A folder that takes uploads beneath this prefix, for any host.
    pub fn upload(prefix: impl Into<String>, upload: UploadConfig) -> Self {
        RouteConfig::new(prefix, HandlerConfig::Upload(upload))
    }

    /// Topics of events beneath this prefix, for any host.
    pub fn events(prefix: impl Into<String>, events: EventsConfig) -> Self {
        RouteConfig::new(prefix, HandlerConfig::Events(events))
    }

    /// Queues beneath this prefix, for any host.
    pub fn queue(prefix: impl Into<String>, queue: QueueConfig) -> Self {
        RouteConfig::new(prefix, HandlerConfig::Queue(queue))
    }

    fn new(prefix: impl Into<String>, handler: HandlerConfig) -> Self {
        RouteConfig { host: None, prefix: prefix.into(), handler, live: None, auth: Vec::new() }
    }

    pub(super) fn check(&self, limits: &Limits) -> Result<(), String> {
        self.host.as_deref().map_or(Ok(()), check_host).map_err(|wrong| format!("host: {wrong}"))?;
        check_prefix(&self.prefix).map_err(|wrong| format!("prefix: {wrong}"))?;
        self.auth.iter().try_for_each(AuthConfig::check)?;
        self.live.as_ref().map_or(Ok(()), LiveConfig::check)?;
        if self.live.is_some() && !matches!(self.handler, HandlerConfig::Media(_)) {
            return Err(String::from(LIVE_WITHOUT_MEDIA));
        }
        match &self.handler {
            HandlerConfig::Media(media) => media.check().and_then(|()| media.check_rates(limits)),
            HandlerConfig::Upload(upload) => upload.check(),
            HandlerConfig::Events(events) => events.check(),
            HandlerConfig::Queue(queue) => queue.check(),
        }
    }

    /// Whether a request to it may open a connection to another service.
    pub(crate) fn asks_a_service(&self) -> bool {
        self.auth.iter().any(|auth| auth.request.is_some())
    }

    /// Whether both would answer the same requests.
    pub(super) fn answers_as(&self, other: &RouteConfig) -> bool {
        (&self.host, &self.prefix) == (&other.host, &other.prefix)
    }

    /// What is wrong with this route when an earlier one answers for it.
    pub(super) fn taken(&self) -> String {
        format!("an earlier route has prefix `{}` for the same host: write another prefix or host", self.prefix)
    }
}

/// A folder of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaConfig {
    /// The folder. It may be a symbolic link, and may be swapped while the server runs (P2).
    pub root: PathBuf,
    /// Files that answer for their directory, the first that exists. Default: `index.html`.
    pub index: Vec<String>,
    /// Whether a directory without such a file is listed, rather than 404. Default: no.
    pub listing: bool,
    /// Whether files whose name starts with a dot are served (P1). Default: no.
    pub hidden: bool,
    /// Whether a text file's `.br`, `.zst` or `.gz` sibling answers a client that accepts it (R11). Default: yes.
    pub precompressed: bool,
    /// The origins whose scripts may read the replies, `*` for any; `None` sends no CORS fields (H2). Default: none.
    pub cors: Option<Vec<String>>,
    /// Cache-Control by name; the first rule that matches wins, and without one the field isn't sent (H3). Default:
    /// playlists (`*.m3u8`, `*.mpd`) are `no-cache`, so that a live edge is never stale. Segments have no default, as a
    /// folder may be encoded anew under the same names.
    pub cache_control: Vec<CacheRule>,
    /// Content-Type by extension, in lower case and without its dot, before the built-in table (H1). Default: none.
    pub content_types: BTreeMap<String, String>,
    /// The most that each reply with a file is sent at, in bytes a second, behind `rate_burst`. Default: no bound.
    pub limit_rate: Option<u64>,
    /// The most that all replies with files to one client's address are sent at, in bytes a second: an IPv4 address, or a /64
    /// of IPv6. They share it equally, from their first byte on. Default: no bound.
    pub limit_rate_address: Option<u64>,
    /// From what each file's own rate is told, times `rate_factor` and behind `rate_burst`. A file of which it can't be told
    /// has none. Default: from nothing.
    pub rate_from: Option<RateSource>,
    /// Default: 1.5.
    pub rate_factor: Factor,
    /// How many bytes of a reply go out before `limit_rate` and `rate_from` hold. Default: 4 MiB.
    pub rate_burst: u64,
}

impl MediaConfig {
    /// This folder, with the defaults.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        MediaConfig {
            root: root.into(),
            index: vec![String::from("index.html")],
            listing: false,
            hidden: false,
            precompressed: true,
            cors: None,
            cache_control: vec![CacheRule::new("*.m3u8", "no-cache"), CacheRule::new("*.mpd", "no-cache")],
            content_types: BTreeMap::new(),
            limit_rate: None,
            limit_rate_address: None,
            rate_from: None,
            rate_factor: Factor::ONE_AND_A_HALF,
            rate_burst: 4 << 20,
        }
    }

    /// Whether every value can be used.
    ///
    /// # Errors
    /// The first key that can't, and what to write instead.
    pub(crate) fn check(&self) -> Result<(), String> {
        let named = |key: &'static str| move |wrong: String| format!("{key}: {wrong}");
        check_root(&self.root).map_err(named("root"))?;
        self.index.iter().try_for_each(|name| check_index(name)).map_err(named("index"))?;
        self.cors.as_deref().map_or(Ok(()), check_cors).map_err(named("cors"))?;
        self.cache_control.iter().try_for_each(CacheRule::check).map_err(named("cache_control"))?;
        let mut types = self.content_types.iter();
        types.try_for_each(|(extension, value)| check_content_type(extension, value)).map_err(named("content_types"))
    }

    /// What the pages of other sites may do here, once [`MediaConfig::check`] has let the origins through.
    pub(crate) fn sharing(&self) -> Option<Cors> {
        check::sharing(self.cors.as_deref(), Sharing::MEDIA)
    }

    /// Whether the rates fit the server's limits.
    fn check_rates(&self, limits: &Limits) -> Result<(), String> {
        let rates = [("limit_rate", self.limit_rate), ("limit_rate_address", self.limit_rate_address)];
        let mut given = rates.into_iter().filter_map(|(key, rate)| Some((key, rate?)));
        given.try_for_each(|(key, rate)| check_rate(rate, limits).map_err(|wrong| format!("{key}: {wrong}")))
    }
}

/// A Cache-Control value for the files that a pattern matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheRule {
    /// Which files: see [`crate::proto::pattern`]. With a slash in it the pattern is compared with the whole path beneath
    /// the root (`live/*.ts`), without one with the file's name.
    pub pattern: String,
    /// The field's value, as it is sent.
    pub value: String,
}

impl CacheRule {
    /// A rule.
    pub fn new(pattern: impl Into<String>, value: impl Into<String>) -> Self {
        CacheRule { pattern: pattern.into(), value: value.into() }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        Pattern::parse(&self.pattern).map_err(|error| error.to_string())?;
        check_field_value(&self.value).map_err(|wrong| format!("{wrong}: write a value like no-cache or max-age=60"))
    }
}

pub(super) fn check_host(host: &str) -> Result<(), String> {
    let name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    match host {
        "" => Err(String::from("the host is empty: leave it out to answer for any")),
        _ if host.bytes().all(name) || is_ipv6_literal(host) => Ok(()),
        _ => Err(format!(
            "`{host}` is not a host name: write it in lower case, without scheme and port, like example.com"
        )),
    }
}

fn is_ipv6_literal(host: &str) -> bool {
    let inside = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inside.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
}

pub(super) fn check_prefix(prefix: &str) -> Result<(), String> {
    let Some(segments) = prefix.strip_prefix('/') else {
        return Err(format!("`{prefix}` does not start with a slash: write `/{prefix}`"));
    };
    if let Some(wrong) = prefix.chars().find(|c| matches!(c, '?' | '#' | '%') || c.is_control()) {
        return Err(format!("`{prefix}` has {wrong:?} in it: write a decoded path, without a query"));
    }
    if prefix.len() > 1 && segments.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        let kept: Vec<&str> = segments.split('/').filter(|segment| !matches!(*segment, "" | "." | "..")).collect();
        return Err(format!("`{prefix}` is not a plain path: write `/{}`", kept.join("/")));
    }
    Ok(())
}

pub(super) fn check_index(name: &str) -> Result<(), String> {
    match name {
        "" | "." | ".." => Err(format!("`{name}` is not a file's name: write one like index.html, or [] for none")),
        _ if name.contains(['/', '\0']) => Err(format!("`{name}` is a path: write a file's name, like index.html")),
        _ => Ok(()),
    }
}

pub(super) fn check_content_type(extension: &str, value: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'+');
    if extension.is_empty() || !extension.bytes().all(plain) {
        return Err(format!("`{extension}` is not an extension: write it in lower case and without its dot, like mp4"));
    }
    let is_type = value.split_once('/').is_some_and(|(kind, subtype)| !kind.is_empty() && !subtype.is_empty());
    if !is_type || check_field_value(value).is_err() {
        return Err(format!("`{value}` is not a media type: write one like video/mp4"));
    }
    Ok(())
}

/// What may stand in a field we send: visible ASCII, and spaces inside (RFC 9110 §5.5), so that no configuration
/// can split a reply.
fn check_field_value(value: &str) -> Result<(), String> {
    let visible = value.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    match value {
        "" => Err(String::from("the value is empty")),
        _ if !visible || value.trim() != value => Err(format!("{value:?} can't be sent as a field's value")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_prefixed(prefix: &str, expected: Result<(), &str>) {
        assert_eq!(check_prefix(prefix), expected.map_err(String::from));
    }

    #[test]
    fn a_prefix_is_a_plain_decoded_path() {
        check_prefixed("/", Ok(()));
        check_prefixed("/a/b c/é", Ok(()));
        check_prefixed("/.well-known", Ok(()));
        check_prefixed("", Err("`` does not start with a slash: write `/`"));
        check_prefixed("/a/", Err("`/a/` is not a plain path: write `/a`"));
        check_prefixed("//a/./b/..", Err("`//a/./b/..` is not a plain path: write `/a/b`"));
        check_prefixed("/a%20b", Err("`/a%20b` has '%' in it: write a decoded path, without a query"));
        check_prefixed("/a?b", Err("`/a?b` has '?' in it: write a decoded path, without a query"));
    }

    #[test]
    fn a_host_is_a_name_or_an_address_without_a_port() {
        for host in ["example.com", "a-b_c.example", "127.0.0.1", "[::1]"] {
            assert_eq!(check_host(host), Ok(()));
        }
        for host in ["", "Example.com", "example.com:80", "http://a", "::1", "[::1]:80", "[a", "a b", "*.a"] {
            assert!(check_host(host).is_err(), "{host}");
        }
    }

    #[test]
    fn a_content_type_has_a_plain_extension_and_a_sendable_type() {
        assert_eq!(check_content_type("m4b", "audio/mp4"), Ok(()));
        assert_eq!(check_content_type("txt", "text/plain; charset=utf-8"), Ok(()));
        for extension in ["", ".m4b", "M4B", "a/b"] {
            assert!(check_content_type(extension, "audio/mp4").is_err(), "{extension}");
        }
        for value in ["", "audio", "audio/", "/mp4", "audio/mp4\n", " audio/mp4"] {
            assert!(check_content_type("m4b", value).is_err(), "{value}");
        }
    }
}
