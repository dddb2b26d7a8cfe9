//! The configuration file: TOML in, [`Config`] out, or the line that is wrong and what to write instead.
//!
//! The document is parsed to a tree that knows where each key and value stands, and each table is walked by a function that
//! asks for its keys by name. Every reader of a value answers with [`Wrong`], so that a bad unit in an array of a table in a
//! route is blamed on its own line. Relative paths are taken from the file's directory, as it may be started from anywhere.

mod feeds;

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::auth::{self, AuthConfig, check_timeout, parse_method};
use super::check;
use super::rate::{Factor, check_rate};
use super::route::{self, CacheRule, HandlerConfig, MediaConfig, RouteConfig};
use super::upload::{self, UploadConfig};
use super::{AccessLog, Config, ListenAddress};
use crate::error::Error;
use crate::limits::{Limits, Spec, Unit};

/// Reads a file.
///
/// # Errors
/// The operator's: `FILE:LINE: what is wrong and what to write instead`.
pub(super) fn read(path: &Path) -> Result<Config, Error> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error| {
        Error::operator(format!("{shown}: cannot be read ({error}): write the path of a configuration file"))
    })?;
    let dir = path.parent().unwrap_or(Path::new(""));
    parse(&text, dir).map_err(|wrong| {
        let line = 1 + text.bytes().take(wrong.at).filter(|b| *b == b'\n').count();
        Error::operator(format!("{shown}:{line}: {}", wrong.what))
    })
}

/// What is wrong in the text, and at which byte.
#[derive(Debug)]
struct Wrong {
    at: usize,
    what: String,
}

type Value<'a> = Spanned<DeValue<'a>>;

fn wrong<T>(at: &Spanned<T>, what: impl ToString) -> Wrong {
    Wrong { at: at.span().start, what: what.to_string() }
}

/// A table of the file, and the keys that it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Top,
    Server,
    Limits,
    Route,
    Media,
    CacheRule,
    Upload,
    Events,
    Queue,
    Live,
    Auth,
}

impl Section {
    /// Every section that an operator writes keys in.
    pub(super) const ALL: [Section; 11] = [
        Section::Top,
        Section::Server,
        Section::Limits,
        Section::Route,
        Section::Media,
        Section::CacheRule,
        Section::Upload,
        Section::Events,
        Section::Queue,
        Section::Live,
        Section::Auth,
    ];

    /// Its name, as the documentation and the errors call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Section::Top => "the file",
            Section::Server => "[server]",
            Section::Limits => "[limits]",
            Section::Route => "[[route]]",
            Section::Media => "media",
            Section::CacheRule => "cache_control",
            Section::Upload => "upload",
            Section::Events => "events",
            Section::Queue => "queue",
            Section::Live => "live",
            Section::Auth => "auth",
        }
    }

    /// What may stand in it.
    pub(super) fn keys(self) -> Vec<&'static str> {
        match self {
            Section::Top => vec!["server", "limits", "route"],
            Section::Server => vec!["listen", "admin", "workers", "access_log", "log_format", "driver", "send_path"],
            Section::Limits => Limits::SPECS.iter().map(|spec| spec.key).collect(),
            Section::Route => vec!["host", "prefix", "media", "live", "upload", "events", "queue", "auth"],
            Section::Media => {
                let flags = ["listing", "hidden", "precompressed"];
                let fields = ["cors", "cache_control", "content_types"];
                let rates = ["limit_rate", "limit_rate_address", "rate_from", "rate_factor", "rate_burst"];
                ["root", "index"].into_iter().chain(flags).chain(fields).chain(rates).collect()
            }
            Section::CacheRule => vec!["pattern", "value"],
            Section::Upload => {
                let naming = ["dir", "url", "names", "name_patterns", "types", "on_conflict", "delete", "origins"];
                let keeping = ["fsync", "sha256", "resumable", "resumable_expiry"];
                let bounds = ["file_fields", "file_len", "total_len", "upload_rate", "quota"];
                naming.into_iter().chain(keeping).chain(bounds).collect()
            }
            Section::Events => {
                let history =
                    ["history_events", "history_bytes", "history_age", "journal", "journal_bytes", "journal_sync"];
                let bounds = ["memory", "topics", "subscribers", "event_len", "backlog", "on_lag"];
                history.into_iter().chain(bounds).chain(["heartbeat", "retry", "origins", "credentials"]).collect()
            }
            Section::Queue => {
                let keeping = ["journal", "journal_bytes", "journal_sync"];
                let bounds = ["memory", "queues", "queue_bytes", "queue_items", "item_len", "lease", "origins"];
                keeping.into_iter().chain(bounds).collect()
            }
            Section::Live => vec!["on_second_encoder", "whole", "name_patterns", "delete", "file_len", "fsync"],
            Section::Auth => vec!["tokens", "signing_keys", "request", "request_timeout", "methods"],
        }
    }
}

/// One table, whose keys are all known.
struct Table<'v> {
    entries: &'v DeTable<'v>,
}

impl<'v> Table<'v> {
    fn new(section: Section, entries: &'v DeTable<'v>) -> Result<Self, Wrong> {
        let keys = section.keys();
        match entries.keys().find(|key| !keys.contains(&key.get_ref().as_ref())) {
            Some(key) => Err(wrong(key, unknown_key(section, key.get_ref()))),
            None => Ok(Table { entries }),
        }
    }

    fn of(section: Section, value: &'v Value<'v>) -> Result<Self, Wrong> {
        match value.get_ref() {
            DeValue::Table(entries) => Table::new(section, entries),
            other => Err(wrong(value, format!("{} is a table, not {}", section.name(), with_article(other)))),
        }
    }

    /// What `read` makes of this key's value, or `None` without the key.
    fn get<T>(&self, key: &str, read: impl FnOnce(&'v Value<'v>) -> Result<T, Wrong>) -> Result<Option<T>, Wrong> {
        self.entries.get(key).map(read).transpose()
    }

    /// As [`Table::get`], for a value that is written on one line: what is wrong with it is said with the key's name.
    fn leaf<T>(&self, key: &str, read: impl FnOnce(&'v Value<'v>) -> Result<T, Wrong>) -> Result<Option<T>, Wrong> {
        self.get(key, read).map_err(|wrong| Wrong { what: format!("{key}: {}", wrong.what), ..wrong })
    }
}

fn parse(text: &str, dir: &Path) -> Result<Config, Wrong> {
    let document = DeTable::parse(text).map_err(|error| syntax(text, &error))?;
    let top = Table::new(Section::Top, document.get_ref())?;
    let mut config = Config::default();
    top.get("server", |value| server(value, dir, &mut config))?;
    top.get("limits", |value| limits(value, &mut config.limits))?;
    if let Some(routes) = top.get("route", |value| routes(value, dir, &config.limits))? {
        config.routes = routes;
    }
    Ok(config)
}

fn server(value: &Value<'_>, dir: &Path, config: &mut Config) -> Result<(), Wrong> {
    let table = Table::of(Section::Server, value)?;
    let address = |value: &Value<'_>| {
        let address: ListenAddress = parsed(value)?;
        address.within(dir).map_err(|what| wrong(value, what))
    };
    set(&mut config.listen, table.leaf("listen", |value| addresses(value, address))?);
    config.admin = table.leaf("admin", address)?;
    set(&mut config.workers, table.leaf("workers", workers)?);
    let access_log = |value| parsed::<AccessLog>(value)?.within(dir).map_err(|what| wrong(value, what));
    set(&mut config.access_log, table.leaf("access_log", access_log)?);
    set(&mut config.log_format, table.leaf("log_format", parsed)?);
    set(&mut config.driver, table.leaf("driver", parsed)?);
    set(&mut config.send_path, table.leaf("send_path", parsed)?);
    Ok(())
}

fn addresses(
    value: &Value<'_>,
    address: impl Fn(&Value<'_>) -> Result<ListenAddress, Wrong>,
) -> Result<Vec<ListenAddress>, Wrong> {
    match list(value, address)? {
        none if none.is_empty() => Err(wrong(value, "no address: write at least one, like \"127.0.0.1:8080\"")),
        some => Ok(some),
    }
}

fn workers(value: &Value<'_>) -> Result<NonZero<usize>, Wrong> {
    let number = integer(value)?;
    super::parse_workers(&number.to_string()).map_err(|error| wrong(value, error))
}

fn limits(value: &Value<'_>, limits: &mut Limits) -> Result<(), Wrong> {
    let table = Table::of(Section::Limits, value)?;
    for spec in Limits::SPECS {
        table.leaf(spec.key, |value| limit(value, spec, limits))?;
    }
    Ok(())
}

fn limit(value: &Value<'_>, spec: &Spec, limits: &mut Limits) -> Result<(), Wrong> {
    let number = number(value, spec.unit)?;
    spec.set(limits, number).map_err(|invalid| wrong(value, invalid))
}

/// A count is a TOML integer, all else a string with its unit; a size may be an integer of bytes, and any may be 0.
fn number(value: &Value<'_>, unit: Unit) -> Result<u64, Wrong> {
    let text = match value.get_ref() {
        DeValue::String(text) if unit == Unit::Count => {
            return Err(wrong(value, format!("{text:?} is a string: write a number without quotes")));
        }
        DeValue::String(text) => text.to_string(),
        _ => integer(value)?.to_string(),
    };
    unit.parse(&text).map_err(|invalid| wrong(value, invalid))
}

fn routes(value: &Value<'_>, dir: &Path, limits: &Limits) -> Result<Vec<RouteConfig>, Wrong> {
    let DeValue::Array(items) = value.get_ref() else {
        return Err(wrong(value, "routes are a list: write [[route]], with two brackets"));
    };
    let mut routes: Vec<RouteConfig> = Vec::with_capacity(items.len());
    for item in items {
        let route = route(item, dir, limits)?;
        if routes.iter().any(|earlier| earlier.answers_as(&route)) {
            return Err(wrong(item, route.taken()));
        }
        routes.push(route);
    }
    Ok(routes)
}

fn route(value: &Value<'_>, dir: &Path, limits: &Limits) -> Result<RouteConfig, Wrong> {
    let table = Table::of(Section::Route, value)?;
    let host = table.leaf("host", |value| checked(value, route::check_host))?;
    let prefix =
        table.leaf("prefix", |value| checked(value, route::check_prefix))?.unwrap_or_else(|| String::from("/"));
    let mut handlers = Vec::new();
    handlers.extend(table.get("media", |value| media(value, dir, limits))?.map(HandlerConfig::Media));
    handlers.extend(table.get("upload", |value| upload(value, dir))?.map(HandlerConfig::Upload));
    handlers.extend(table.get("events", |value| feeds::events(value, dir))?.map(HandlerConfig::Events));
    handlers.extend(table.get("queue", |value| feeds::queue(value, dir))?.map(HandlerConfig::Queue));
    let live = table.get("live", feeds::live)?;
    let handler = match (handlers.pop(), handlers.is_empty()) {
        (Some(handler), true) => handler,
        (Some(_), false) => return Err(wrong(value, "the route has two handlers: write one [[route]] for each")),
        (None, _) if live.is_some() => return Err(wrong(value, route::LIVE_WITHOUT_MEDIA)),
        (None, _) => {
            let what = "the route has no handler: write media = { root = \"PATH\" }, upload = { dir = \"PATH\" }, \
                        events = {} or queue = {}";
            return Err(wrong(value, what));
        }
    };
    if live.is_some() && !matches!(handler, HandlerConfig::Media(_)) {
        return Err(wrong(value, route::LIVE_WITHOUT_MEDIA));
    }
    let auth = table.get("auth", |value| auths(value, dir))?.unwrap_or_default();
    Ok(RouteConfig { host, prefix, handler, live, auth })
}

/// A directory that is there, from the file's own one.
fn directory(value: &Value<'_>, dir: &Path) -> Result<PathBuf, Wrong> {
    let path = super::absolute(dir, Path::new(string(value)?)).map_err(|what| wrong(value, what))?;
    check::check_root(&path).map_err(|what| wrong(value, what))?;
    Ok(path)
}

fn upload(value: &Value<'_>, dir: &Path) -> Result<UploadConfig, Wrong> {
    let table = Table::of(Section::Upload, value)?;
    let folder = table.leaf("dir", |value| directory(value, dir))?;
    let folder =
        folder.ok_or_else(|| wrong(value, "upload has no dir: write dir = \"PATH\", where files are stored"))?;
    let mut upload = UploadConfig::new(folder);
    upload.url = table.leaf("url", |value| checked(value, upload::check_url))?;
    set(&mut upload.names, table.leaf("names", parsed)?);
    let patterns = |value| list(value, |value| checked(value, upload::check_pattern));
    set(&mut upload.name_patterns, table.leaf("name_patterns", patterns)?);
    let types = |value| list(value, |value| checked(value, upload::check_type));
    set(&mut upload.types, table.leaf("types", types)?);
    set(&mut upload.on_conflict, table.leaf("on_conflict", parsed)?);
    set(&mut upload.delete, table.leaf("delete", boolean)?);
    upload.origins = table.leaf("origins", origins)?;
    set(&mut upload.fsync, table.leaf("fsync", parsed)?);
    set(&mut upload.sha256, table.leaf("sha256", boolean)?);
    set(&mut upload.resumable, table.leaf("resumable", boolean)?);
    let expiry = |value| {
        let expiry = Duration::from_millis(number(value, Unit::Time)?);
        upload::check_expiry(expiry).map_err(|what| wrong(value, what))?;
        Ok(expiry)
    };
    set(&mut upload.resumable_expiry, table.leaf("resumable_expiry", expiry)?);
    set(
        &mut upload.file_fields,
        table.leaf("file_fields", |value| list(value, |value| string(value).map(String::from)))?,
    );
    set(&mut upload.file_len, table.leaf("file_len", |value| number(value, Unit::Bytes))?);
    set(&mut upload.total_len, table.leaf("total_len", |value| number(value, Unit::Bytes))?);
    upload.upload_rate = table.leaf("upload_rate", |value| {
        let rate = number(value, Unit::Rate)?;
        upload::check_upload_rate(rate).map_err(|what| wrong(value, what))?;
        Ok(rate)
    })?;
    upload.quota = table.leaf("quota", |value| number(value, Unit::Bytes))?;
    Ok(upload)
}

fn media(value: &Value<'_>, dir: &Path, limits: &Limits) -> Result<MediaConfig, Wrong> {
    let table = Table::of(Section::Media, value)?;
    let root = table.leaf("root", |value| directory(value, dir))?;
    let root = root.ok_or_else(|| wrong(value, "media has no root: write root = \"PATH\", the directory to serve"))?;
    let mut media = MediaConfig::new(root);
    let names = |value| list(value, |value| checked(value, route::check_index));
    set(&mut media.index, table.leaf("index", names)?);
    set(&mut media.listing, table.leaf("listing", boolean)?);
    set(&mut media.hidden, table.leaf("hidden", boolean)?);
    set(&mut media.precompressed, table.leaf("precompressed", boolean)?);
    media.cors = table.leaf("cors", origins)?;
    set(&mut media.cache_control, table.get("cache_control", |value| list(value, cache_rule))?);
    set(&mut media.content_types, table.leaf("content_types", content_types)?);
    media.limit_rate = table.leaf("limit_rate", |value| rate(value, limits))?;
    media.limit_rate_address = table.leaf("limit_rate_address", |value| rate(value, limits))?;
    media.rate_from = table.leaf("rate_from", parsed)?;
    set(&mut media.rate_factor, table.leaf("rate_factor", factor)?);
    set(&mut media.rate_burst, table.leaf("rate_burst", |value| number(value, Unit::Bytes))?);
    Ok(media)
}

/// One guard or several. None at all looks like a guard, and would let everybody in.
fn auths(value: &Value<'_>, dir: &Path) -> Result<Vec<AuthConfig>, Wrong> {
    match list(value, |value| auth(value, dir))? {
        none if none.is_empty() => {
            Err(wrong(value, "auth: no guard: write one like { tokens = \"FILE\" }, or leave auth out"))
        }
        guards => Ok(guards),
    }
}

fn auth(value: &Value<'_>, dir: &Path) -> Result<AuthConfig, Wrong> {
    let table = Table::of(Section::Auth, value)?;
    let tokens = table.leaf("tokens", |value| secrets(value, dir, auth::read_tokens))?;
    let signing_keys = table.leaf("signing_keys", |value| secrets(value, dir, auth::read_keys))?;
    let request = table.leaf("request", parsed)?;
    let mut auth = AuthConfig { tokens, signing_keys, request, ..AuthConfig::default() };
    set(&mut auth.request_timeout, table.leaf("request_timeout", timeout)?);
    let method = |value: &Value<'_>| parse_method(string(value)?).map_err(|what| wrong(value, what));
    auth.methods = table.leaf("methods", |value| list(value, method))?;
    auth.check_presence().map_err(|what| wrong(value, what))?;
    Ok(auth)
}

/// The path of a file whose lines can be used.
fn secrets(value: &Value<'_>, dir: &Path, read: fn(&Path) -> Result<Vec<String>, String>) -> Result<PathBuf, Wrong> {
    let path = super::absolute(dir, Path::new(string(value)?)).map_err(|what| wrong(value, what))?;
    read(&path).map_err(|what| wrong(value, what))?;
    Ok(path)
}

fn timeout(value: &Value<'_>) -> Result<Duration, Wrong> {
    let timeout = Duration::from_millis(number(value, Unit::Time)?);
    check_timeout(timeout).map_err(|what| wrong(value, what))?;
    Ok(timeout)
}

/// What replies may be held to.
fn rate(value: &Value<'_>, limits: &Limits) -> Result<u64, Wrong> {
    let rate = number(value, Unit::Rate)?;
    check_rate(rate, limits).map_err(|what| wrong(value, what))?;
    Ok(rate)
}

/// A factor is a TOML number, whole or not.
fn factor(value: &Value<'_>) -> Result<Factor, Wrong> {
    let text = match value.get_ref() {
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Integer(_) => integer(value)?.to_string(),
        other => return Err(wrong(value, format!("{} stands here: write a number like 1.5", with_article(other)))),
    };
    text.parse().map_err(|error: Error| wrong(value, error.report()))
}

fn origins(value: &Value<'_>) -> Result<Vec<String>, Wrong> {
    let origins = list(value, |origin| {
        // One by one first, so that a wrong origin in a long list is blamed on its own line.
        checked(origin, |text| check::check_cors(&[String::from(text)]))
    })?;
    check::check_cors(&origins).map_err(|what| wrong(value, what))?;
    Ok(origins)
}

fn cache_rule(value: &Value<'_>) -> Result<CacheRule, Wrong> {
    let table = Table::of(Section::CacheRule, value)?;
    let missing = || wrong(value, "a rule has two keys: write { pattern = \"*.m3u8\", value = \"no-cache\" }");
    let text = |value| string(value).map(String::from);
    let pattern = table.leaf("pattern", text)?.ok_or_else(missing)?;
    let rule = CacheRule { pattern, value: table.leaf("value", text)?.ok_or_else(missing)? };
    rule.check().map_err(|what| wrong(value, format!("cache_control: {what}")))?;
    Ok(rule)
}

fn content_types(value: &Value<'_>) -> Result<BTreeMap<String, String>, Wrong> {
    let DeValue::Table(entries) = value.get_ref() else {
        return Err(wrong(value, "types are a table: write { mp4 = \"video/mp4\" }"));
    };
    let mut types = BTreeMap::new();
    for (extension, value) in entries {
        let kind = string(value)?;
        route::check_content_type(extension.get_ref(), kind).map_err(|what| wrong(extension, what))?;
        types.insert(extension.get_ref().to_string(), kind.to_string());
    }
    Ok(types)
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn string<'v>(value: &'v Value<'_>) -> Result<&'v str, Wrong> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text),
        other => Err(wrong(value, format!("{} stands here: write a string, in quotes", with_article(other)))),
    }
}

fn boolean(value: &Value<'_>) -> Result<bool, Wrong> {
    match value.get_ref() {
        DeValue::Boolean(flag) => Ok(*flag),
        other => Err(wrong(value, format!("{} stands here: write true or false, without quotes", with_article(other)))),
    }
}

fn integer(value: &Value<'_>) -> Result<u64, Wrong> {
    match value.get_ref() {
        DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
            .map_err(|_| wrong(value, format!("`{number}` is negative or too large: write a whole number"))),
        other => Err(wrong(value, format!("{} stands here: write a whole number", with_article(other)))),
    }
}

/// A string that is one of a type's values.
fn parsed<T: FromStr<Err = Error>>(value: &Value<'_>) -> Result<T, Wrong> {
    string(value)?.parse().map_err(|error: Error| wrong(value, error.report()))
}

/// A string that passes a check.
fn checked(value: &Value<'_>, check: impl FnOnce(&str) -> Result<(), String>) -> Result<String, Wrong> {
    let text = string(value)?;
    check(text).map_err(|what| wrong(value, what))?;
    Ok(String::from(text))
}

/// An array of these, or one alone.
fn list<T>(value: &Value<'_>, item: impl Fn(&Value<'_>) -> Result<T, Wrong>) -> Result<Vec<T>, Wrong> {
    match value.get_ref() {
        DeValue::Array(items) => items.iter().map(item).collect(),
        _ => Ok(vec![item(value)?]),
    }
}

fn with_article(value: &DeValue<'_>) -> String {
    let kind = value.type_str();
    let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// What the TOML parser says, and for the two mistakes that everybody makes, what to write.
fn syntax(text: &str, error: &toml::de::Error) -> Wrong {
    let span = error.span().unwrap_or(0..0);
    let there = text.get(span.clone()).unwrap_or_default();
    let message = error.message().replace('\n', " ");
    let what = match message.as_str() {
        "duplicate key" => format!("`{there}` stands here for the second time: write it once"),
        quoted if quoted.starts_with("string values must be quoted") => {
            format!("`{there}` is not quoted: write \"{there}\"")
        }
        _ => format!("not TOML: {message}"),
    };
    Wrong { at: span.start, what }
}

fn unknown_key(section: Section, key: &str) -> String {
    let keys = section.keys();
    let unknown = format!("unknown key `{key}` in {}", section.name());
    let homes: Vec<&str> =
        Section::ALL.into_iter().filter(|other| other.keys().contains(&key)).map(Section::name).collect();
    if !homes.is_empty() {
        return format!("{unknown}: write it in {}", homes.join(" or "));
    }
    let nearest = keys.iter().map(|known| (edit_distance(key, known), *known)).min();
    match nearest {
        Some((distance, meant)) if distance <= meant.len() / 3 + 1 => format!("{unknown}: write `{meant}`"),
        _ => format!("{unknown}: write one of {}", keys.join(", ")),
    }
}

/// How many bytes to insert, remove or replace to make one of the other (Levenshtein). A key is short, so the table's one
/// row is all that is kept; a key too long to be a mistyped one is cut first.
fn edit_distance(from: &str, into: &str) -> usize {
    let from = &from.as_bytes()[..from.len().min(64)];
    let mut row: Vec<usize> = (0..=into.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in into.bytes().enumerate() {
            let replaced = diagonal + usize::from(*a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[into.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A directory with `site.toml` and `media/` in it.
    fn site(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("media")).unwrap();
        let path = dir.path().join("site.toml");
        fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[track_caller]
    fn check_refused(text: &str, expected: &str) {
        assert_eq!(refused(text), expected);
    }

    #[track_caller]
    fn refused(text: &str) -> String {
        let (dir, path) = site(text);
        let refusal = read(&path).expect_err(text).report();
        refusal.replace(&format!("{}/", dir.path().display()), "")
    }

    #[track_caller]
    fn check_read<T: PartialEq + std::fmt::Debug>(text: &str, get: impl FnOnce(Config) -> T, expected: T) {
        let (_dir, path) = site(text);
        assert_eq!(get(read(&path).expect(text)), expected, "{text}");
    }

    #[test]
    fn an_empty_file_is_the_default() {
        check_read("", |config| config, Config::default());
        check_read("# nothing\n[server]\n[limits]\n", |config| config, Config::default());
    }

    #[test]
    fn every_limit_is_read_under_its_key() {
        for spec in Limits::SPECS {
            let number = *spec.span.start();
            let written = match spec.unit {
                Unit::Count => number.to_string(),
                unit => format!("\"{}\"", unit.format(number)),
            };
            let text = format!("[limits]\n{} = {written}\n", spec.key);
            check_read(&text, |config| spec.get(&config.limits), number);
            check_refused(
                &format!("[limits]\n\n{} = \"x\"\n", spec.key),
                &format!(
                    "site.toml:3: {}: {}",
                    spec.key,
                    match spec.unit {
                        Unit::Count => String::from("\"x\" is a string: write a number without quotes"),
                        unit => unit.parse("x").unwrap_err().to_string(),
                    }
                ),
            );
        }
    }

    #[test]
    fn a_size_may_be_a_number_and_a_time_may_be_only_zero() {
        check_read("limits.head_len = 4096", |config| config.limits.head_len, 4096);
        check_read("limits.head_len = 0x1_000", |config| config.limits.head_len, 4096);
        check_read("limits.linger_timeout = 0", |config| config.limits.linger_timeout.as_millis(), 0);
        check_refused("limits.idle_timeout = 30", "site.toml:1: idle_timeout: `30` has no unit: write 30s or 30ms");
        let refusal = "site.toml:1: head_len: `-1` is negative or too large: write a whole number";
        check_refused("limits.head_len = -1", refusal);
        let refusal = "site.toml:1: head_len: a float stands here: write a whole number";
        check_refused("limits.head_len = 1.5", refusal);
    }

    #[test]
    fn paths_are_taken_from_the_files_directory() {
        let text = "[server]\nlisten = \"unix:a.sock\"\naccess_log = \"a.log\"\n[[route]]\nmedia.root = \"media\"\n";
        let (dir, path) = site(text);
        let config = read(&path).unwrap();
        assert_eq!(config.listen, [ListenAddress::Unix(dir.path().join("a.sock"))]);
        assert_eq!(config.access_log, AccessLog::File(dir.path().join("a.log")));
        let HandlerConfig::Media(media) = &config.routes[0].handler else { panic!("no media route") };
        assert_eq!(media.root, dir.path().join("media"));
    }

    #[test]
    fn an_unknown_key_is_told_which_was_meant() {
        check_refused("[server]\nlisen = \"a\"", "site.toml:2: unknown key `lisen` in [server]: write `listen`");
        check_refused("\n\n[sever]\n", "site.toml:3: unknown key `sever` in the file: write `server`");
        let refusal = "site.toml:2: unknown key `idle-timeout` in [limits]: write `idle_timeout`";
        check_refused("[limits]\nidle-timeout = \"1s\"", refusal);
        let refusal = "site.toml:2: unknown key `high_water_mark` in [server]: write it in [limits]";
        check_refused("[server]\nhigh_water_mark = \"1MiB\"", refusal);
        let refusal = "site.toml:1: unknown key `listen` in the file: write it in [server]";
        check_refused("listen = \"127.0.0.1:1\"", refusal);
        let refusal = "site.toml:2: unknown key `handler` in [[route]]: write one of host, prefix, media, live, \
                       upload, events, queue, auth";
        check_refused("[[route]]\nhandler = \"media\"", refusal);
        let refusal = "site.toml:3: unknown key `dotfiles` in media: write one of root, index, listing, hidden, \
                       precompressed, cors, cache_control, content_types, limit_rate, limit_rate_address, rate_from, \
                       rate_factor, rate_burst";
        check_refused("[[route]]\n[route.media]\ndotfiles = true", refusal);
        let refusal = "site.toml:3: unknown key `valeu` in cache_control: write `value`";
        check_refused(
            "[[route]]\nmedia.root = \"media\"\nmedia.cache_control = [{ pattern = \"*\", valeu = \"a\" }]",
            refusal,
        );
    }

    #[test]
    fn a_mistake_in_the_syntax_is_told_with_its_line() {
        check_refused("[limits]\nhead_len = 32KiB\n", "site.toml:2: `32KiB` is not quoted: write \"32KiB\"");
        let refusal = "site.toml:3: `media` stands here for the second time: write it once";
        check_refused("[[route]]\nmedia = { root = \".\" }\nmedia = { root = \".\" }\n", refusal);
        check_refused("[server\n", "site.toml:1: not TOML: unclosed table, expected `]`");
    }

    #[test]
    fn a_wrong_value_is_told_with_its_own_line() {
        let refusal =
            "site.toml:4: listen: `8080` has no host: write 127.0.0.1:8080, or 0.0.0.0:8080 to be reached from outside";
        check_refused("[server]\nlisten = [\n  \"127.0.0.1:80\",\n  \"8080\",\n]\n", refusal);
        let refusal = "site.toml:2: listen: no address: write at least one, like \"127.0.0.1:8080\"";
        check_refused("[server]\nlisten = []", refusal);
        check_refused("server = 1", "site.toml:1: [server] is a table, not an integer");
        let refusal = "site.toml:2: workers: a string stands here: write a whole number";
        check_refused("[server]\nworkers = \"2\"", refusal);
        check_refused("server.workers = 0", "site.toml:1: workers: `0` workers is out of bounds: write 1 to 1024");
        check_refused(
            "server.send_path = \"mmap\"",
            "site.toml:1: send_path: `mmap` is not a send path: write one of auto, sendfile, splice, ring-splice, read, send-zc",
        );
        check_refused("server.driver = \"epoll\"", "site.toml:1: driver: `epoll` is not a driver: write auto or uring");
        let refusal = "site.toml:1: log_format: `xml` is not a log format: write text or json";
        check_refused("server.log_format = \"xml\"", refusal);
        let refusal = "site.toml:1: access_log: a boolean stands here: write a string, in quotes";
        check_refused("server.access_log = false", refusal);
        let refusal = "site.toml:2: high_water_mark: `100KiB` is not a power of two: write 64KiB or 128KiB";
        check_refused("[limits]\nhigh_water_mark = \"100KiB\"", refusal);
        let refusal = "site.toml:2: head_fields: `2000` is out of bounds: write 16 to 1000";
        check_refused("[limits]\nhead_fields = 2000", refusal);
    }

    #[test]
    fn a_wrong_upload_is_told_with_its_line() {
        let with = |keys: &str| format!("[[route]]\n[route.upload]\ndir = \"media\"\n{keys}");
        check_refused(
            "[[route]]\nupload = {}",
            "site.toml:2: upload has no dir: write dir = \"PATH\", where files are stored",
        );
        let refusal = "site.toml:2: the route has two handlers: write one [[route]] for each";
        check_refused("\n[[route]]\nmedia = { root = \"media\" }\nupload = { dir = \"media\" }", refusal);
        let refusal = "site.toml:4: names: `random` is no way to name files: write one of generated, client";
        check_refused(&with("names = \"random\""), refusal);
        let refusal = "site.toml:4: on_conflict: `keep` is no answer to a name that is taken: write one of reject, rename, replace";
        check_refused(&with("on_conflict = \"keep\""), refusal);
        let refusal = "site.toml:4: fsync: `dir` is no way to sync: write one of none, file, file+dir";
        check_refused(&with("fsync = \"dir\""), refusal);
        let refusal = "site.toml:4: resumable_expiry: out of bounds: write 1s to 8760h";
        check_refused(&with("resumable_expiry = \"999ms\""), refusal);
        let refusal = "site.toml:4: upload_rate: nothing would ever come: write at least 1B/s";
        check_refused(&with("upload_rate = \"0B/s\""), refusal);
        let refusal = "site.toml:4: url: \"//a\" is not what a file's URL begins with: write a path like /media, or \
                       https://cdn.example/media";
        check_refused(&with("url = \"//a\""), refusal);
        let refusal = "site.toml:6: origins: \"b\" is no origin; write scheme, host and port only, such as \
                       \"https://player.example\" or \"http://localhost:3000\"";
        check_refused(&with("origins = [\n\"https://a\",\n\"b\"]"), refusal);
        let refusal = "site.toml:4: origins: \"*\" allows every origin; write it alone or leave it out";
        check_refused(&with("origins = [\"*\", \"https://a\"]"), refusal);
        for wrong in ["types = \"video\"", "name_patterns = \"\"", "file_len = \"1XB\"", "quota = -1"] {
            assert!(refused(&with(wrong)).starts_with("site.toml:4: "), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_feed_is_told_with_its_line() {
        let refusal =
            "site.toml:2: live needs the folder that it puts files into: write media = { root = \"PATH\" } beside it";
        check_refused("\n[[route]]\nlive = {}", refusal);
        check_refused("\n[[route]]\nupload = { dir = \"media\" }\nlive = {}", refusal);
        let with = |table: &str, keys: &str| refused(&format!("[[route]]\n[route.{table}]\n{keys}"));
        #[track_caller]
        fn check(refusal: String, expected: &str) {
            assert_eq!(refusal, expected);
        }
        check(with("events", "heartbeat = \"999ms\""), "site.toml:3: heartbeat: out of bounds: write 1s to 1h");
        check(with("events", "event_len = \"17MiB\""), "site.toml:3: event_len: out of bounds: write 1B to 16MiB");
        check(with("events", "topics = 0"), "site.toml:3: topics: nothing could be done: write at least 1");
        check(
            with("events", "journal_bytes = \"1KiB\""),
            "site.toml:3: journal_bytes: too little for a journal: write at least 1MiB",
        );
        let refusal =
            "site.toml:3: on_lag: `drop` is no answer to a subscriber that is behind: write one of disconnect, skip";
        check(with("events", "on_lag = \"drop\""), refusal);
        let refusal = "memory: less than four events: write more, or a smaller event_len";
        assert!(with("events", "memory = \"1KiB\"").ends_with(refusal));
        let refusal = "credentials: they need a list of origins: write origins = [\"https://app.example\"]";
        assert!(with("events", "credentials = true").ends_with(refusal), "s5");
        assert!(with("events", "credentials = true\norigins = \"*\"").ends_with(refusal), "s5");
        for table in ["events", "queue"] {
            for (key, value) in [("journal_sync", "true"), ("journal_bytes", "\"2MiB\"")] {
                let refusal = format!("{key}: there is no journal: write journal = \"DIR\", too");
                assert!(with(table, &format!("{key} = {value}")).ends_with(&refusal), "{table}: {key}");
            }
        }
        check(with("queue", "lease = \"25h\""), "site.toml:3: lease: out of bounds: write 100ms to 24h");
        let refusal = "queue_bytes: less than one item: write more, or a smaller item_len";
        assert!(with("queue", "queue_bytes = 5").ends_with(refusal));
        let refusal = "memory: less than four items: write more, or a smaller item_len";
        assert!(with("queue", "memory = 5").ends_with(refusal));
        assert!(with("queue", "journal = \"gone/away\"").contains("gone` does not exist: create it"));
        assert!(
            with("queue", "journal = \"site.toml\"").ends_with("is not a directory: write one of the journal's own")
        );
        let refusal = "site.toml:3: auth: no guard: write one like { tokens = \"FILE\" }, or leave auth out";
        check(refused("[[route]]\nmedia = { root = \"media\" }\nauth = []"), refusal);
    }

    #[test]
    fn a_wrong_route_is_told_with_its_line() {
        let media = "media = { root = \"media\" }";
        let refusal = "site.toml:2: routes are a list: write [[route]], with two brackets";
        check_refused(&format!("\n[route]\n{media}"), refusal);
        let refusal = "site.toml:3: the route has no handler: write media = { root = \"PATH\" }, \
                       upload = { dir = \"PATH\" }, events = {} or queue = {}";
        check_refused(&format!("[[route]]\n{media}\n[[route]]\nprefix = \"/a\""), refusal);
        let refusal = "site.toml:4: an earlier route has prefix `/a` for the same host: write another prefix or host";
        check_refused(&format!("[[route]]\nprefix = \"/a\"\n{media}\n[[route]]\nprefix = \"/a\"\n{media}"), refusal);
        let refusal = "site.toml:3: prefix: `media` does not start with a slash: write `/media`";
        check_refused(&format!("[[route]]\n{media}\nprefix = \"media\""), refusal);
        let refusal = "site.toml:2: host: `a.example:80` is not a host name: write it in lower case, without scheme and port, \
                       like example.com";
        check_refused(&format!("[[route]]\nhost = \"a.example:80\"\n{media}"), refusal);
    }

    #[test]
    fn a_wrong_media_table_is_told_with_its_line() {
        let with = |keys: &str| format!("[[route]]\n[route.media]\nroot = \"media\"\n{keys}");
        let refusal = "site.toml:2: media has no root: write root = \"PATH\", the directory to serve";
        check_refused("[[route]]\nmedia = {}", refusal);
        let (dir, path) = site("[[route]]\n[route.media]\nroot = \"gone\"");
        let gone = dir.path().join("gone").display().to_string();
        let expected = format!(
            "{}:3: root: `{gone}` does not exist: create it, or write the directory that holds the files",
            path.display()
        );
        assert_eq!(read(&path).unwrap_err().report(), expected);
        let refusal = "site.toml:4: index: `a/b` is a path: write a file's name, like index.html";
        check_refused(&with("index = [\"a/b\"]"), refusal);
        let refusal = "site.toml:4: listing: a string stands here: write true or false, without quotes";
        check_refused(&with("listing = \"yes\""), refusal);
        let refusal = "site.toml:6: cors: \"b\" is no origin; write scheme, host and port only, such as \
                       \"https://player.example\" or \"http://localhost:3000\"";
        check_refused(&with("cors = [\n\"https://a\",\n\"b\"]"), refusal);
        let refusal = "site.toml:4: cors: \"*\" allows every origin; write it alone or leave it out";
        check_refused(&with("cors = [\"*\", \"https://a\"]"), refusal);
        let refusal = "site.toml:5: a rule has two keys: write { pattern = \"*.m3u8\", value = \"no-cache\" }";
        check_refused(&with("cache_control = [\n{ pattern = \"*\" }]"), refusal);
        let refusal = "site.toml:4: cache_control: the pattern is empty; write \"**\" for every file";
        check_refused(&with("cache_control = { pattern = \"\", value = \"a\" }"), refusal);
        let refusal = "site.toml:4: content_types: `mp4` is not a media type: write one like video/mp4";
        check_refused(&with("content_types = { m4b = \"mp4\" }"), refusal);
        let refusal = "site.toml:4: limit_rate: `2` is not a rate: write a whole number and its unit, like 1KiB/s (units: \
                       B/s, KiB/s, MiB/s, GiB/s)";
        check_refused(&with("limit_rate = 2"), refusal);
        let refusal = "site.toml:4: limit_rate: `1KiB/s` is below twice reply_min_rate: write at least 2KiB/s, or a lower \
                       reply_min_rate";
        check_refused(&with("limit_rate = \"1KiB/s\""), refusal);
        // Limits count wherever they stand.
        let refusal = "site.toml:4: limit_rate_address: `3KiB/s` is below twice reply_min_rate: write at least 4KiB/s, or a \
                       lower reply_min_rate";
        check_refused(&with("limit_rate_address = \"3KiB/s\"\n[limits]\nreply_min_rate = \"2KiB/s\""), refusal);
        let refusal = "site.toml:4: rate_from: `size` is no source of a rate: write bitrate";
        check_refused(&with("rate_from = \"size\""), refusal);
        let refusal = "site.toml:4: rate_factor: `0.5` is out of bounds: write 1 to 100";
        check_refused(&with("rate_factor = 0.5"), refusal);
        let refusal = "site.toml:4: rate_factor: a string stands here: write a number like 1.5";
        check_refused(&with("rate_factor = \"1.5\""), refusal);
        let refusal = "site.toml:4: content_types: types are a table: write { mp4 = \"video/mp4\" }";
        check_refused(&with("content_types = \"video/mp4\""), refusal);
    }

    #[test]
    fn a_wrong_auth_table_is_told_with_its_line() {
        let with = |keys: &str| format!("[[route]]\nmedia.root = \"media\"\n[route.auth]\n{keys}");
        let refusal = "site.toml:3: auth lets nobody in: write tokens, signing_keys or request";
        check_refused(&with("methods = \"POST\""), refusal);
        check_refused(&with("token = \"a\""), "site.toml:4: unknown key `token` in auth: write `tokens`");
        let service = "request = \"http://127.0.0.1:9\"\n";
        let refusal = "site.toml:4: request: https is not spoken to other services: write http://HOST:PORT/PATH, of a service or \
                       a proxy on this machine or a network that can be trusted";
        check_refused(&with("request = \"https://127.0.0.1:9\""), refusal);
        let refusal = "site.toml:5: request_timeout: 0ns is out of bounds: write 1ms to 1m";
        check_refused(&with(&format!("{service}request_timeout = 0")), refusal);
        let refusal = "site.toml:5: request_timeout: 61s is out of bounds: write 1ms to 1m";
        check_refused(&with(&format!("{service}request_timeout = \"61s\"")), refusal);
        let refusal =
            "site.toml:6: methods: `post` is not a method: write some of GET, POST, PUT, PATCH, DELETE, TRACE";
        check_refused(&with(&format!("{service}methods = [\n\"post\"]")), refusal);
        let refusal =
            "site.toml:5: methods: OPTIONS is never guarded, as a preflight carries no authorisation: leave it out";
        check_refused(&with(&format!("{service}methods = [\"OPTIONS\"]")), refusal);
        let refusal = "site.toml:5: methods: HEAD is guarded with GET: write GET";
        check_refused(&with(&format!("{service}methods = [\"HEAD\"]")), refusal);
        let refusal = "site.toml:3: methods: none is guarded: write at least one, or leave it out for all";
        check_refused(&with(&format!("{service}methods = []")), refusal);
        let refusal = "site.toml:4: signing_keys: an integer stands here: write a string, in quotes";
        check_refused(&with("signing_keys = 1"), refusal);
        // The file itself is no token: its first line says so.
        let refusal =
            "site.toml:4: tokens: site.toml:1: a token has only letters, digits and -._~+/ in it, and = at its end";
        check_refused(&with("tokens = \"site.toml\""), refusal);
    }

    #[test]
    fn a_factor_may_be_whole_and_a_burst_may_be_none() {
        let get = |config: Config| {
            let HandlerConfig::Media(media) = &config.routes[0].handler else { panic!("no media route") };
            (media.rate_factor.of(100), media.rate_burst)
        };
        let with = |keys: &str| format!("[[route]]\n[route.media]\nroot = \"media\"\n{keys}");
        check_read(&with(""), get, (150, 4 << 20));
        check_read(&with("rate_factor = 2\nrate_burst = 0"), get, (200, 0));
        check_read(&with("rate_factor = 2.25\nrate_burst = \"1MiB\""), get, (225, 1 << 20));
    }

    #[test]
    fn a_distance_counts_what_was_mistyped() {
        for (from, into, expected) in [
            ("", "abc", 3),
            ("abc", "", 3),
            ("listen", "listen", 0),
            ("lisen", "listen", 1),
            ("kitten", "sitting", 3),
            ("ab", "ba", 2),
        ] {
            assert_eq!(edit_distance(from, into), expected, "{from} {into}");
        }
    }

    const FULL: &str = "[server]\nlisten = [\"127.0.0.1:1\"]\nworkers = 2\n[limits]\nhead_len = \"4KiB\"\n[[route]]\n\
                        prefix = \"/a\"\nmedia = { root = \"/\", cors = [\"*\"], cache_control = [{ pattern = \"*\", \
                        value = \"no-cache\" }], content_types = { a = \"b/c\" } }\n";

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn no_text_makes_the_reader_panic(at in 0..FULL.len(), len in 0usize..12, put in "[\\PC\n]{0,6}") {
            let mut text = FULL.to_string();
            text.replace_range(at..(at + len).min(FULL.len()), &put);
            if let Err(wrong) = parse(&text, Path::new("/")) {
                prop_assert!(wrong.at <= text.len());
            }
        }
    }
}
