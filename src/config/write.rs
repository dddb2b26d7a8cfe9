//! The configuration as the file that gives it: what `highwater check` prints.
//!
//! Written by hand in the order of the documentation. A serializer would sort the keys, and would need a second set of types
//! that know how a size or an address is spelled.

use std::time::Duration;

use toml::Value;

use super::{
    AuthConfig, Config, EventsConfig, HandlerConfig, LiveConfig, MediaConfig, QueueConfig, RouteConfig, UploadConfig,
};
use crate::limits::{Limits, Unit};

/// Every key that has a value, resolved.
pub(super) fn to_toml(config: &Config) -> String {
    let mut out = Writer::default();
    server(&mut out, config);
    out.heading("[limits]");
    for spec in Limits::SPECS {
        let number = spec.get(&config.limits);
        match spec.unit {
            Unit::Count => out.key(spec.key, number.to_string()),
            unit => out.key(spec.key, string(&unit.format(number))),
        }
    }
    for route in &config.routes {
        self::route(&mut out, route);
    }
    out.text
}

fn server(out: &mut Writer, config: &Config) {
    out.heading("[server]");
    out.key("listen", strings(config.listen.iter().map(ToString::to_string)));
    if let Some(admin) = &config.admin {
        out.key("admin", string(&admin.to_string()));
    }
    out.key("workers", config.workers);
    out.key("access_log", string(&config.access_log.to_string()));
    out.key("log_format", string(&config.log_format.to_string()));
    out.key("driver", string(&config.driver.to_string()));
    out.key("send_path", string(&config.send_path.to_string()));
}

fn route(out: &mut Writer, route: &RouteConfig) {
    out.heading("[[route]]");
    if let Some(host) = &route.host {
        out.key("host", string(host));
    }
    out.key("prefix", string(&route.prefix));
    match &route.handler {
        HandlerConfig::Media(media) => self::media(out, media),
        HandlerConfig::Upload(upload) => self::upload(out, upload),
        HandlerConfig::Events(events) => self::events(out, events),
        HandlerConfig::Queue(queue) => self::queue(out, queue),
    }
    if let Some(live) = &route.live {
        self::live(out, live);
    }
    let heading = if route.auth.len() == 1 { "[route.auth]" } else { "[[route.auth]]" };
    for auth in &route.auth {
        out.heading(heading);
        self::auth(out, auth);
    }
}

fn upload(out: &mut Writer, upload: &UploadConfig) {
    out.heading("[route.upload]");
    out.key("dir", string(&upload.dir.to_string_lossy()));
    if let Some(url) = &upload.url {
        out.key("url", string(url));
    }
    out.key("names", string(&upload.names.to_string()));
    for (key, list) in [("name_patterns", &upload.name_patterns), ("types", &upload.types)] {
        if !list.is_empty() {
            out.key(key, strings(list.iter().cloned()));
        }
    }
    out.key("on_conflict", string(&upload.on_conflict.to_string()));
    out.key("delete", upload.delete);
    if let Some(origins) = &upload.origins {
        out.key("origins", strings(origins.iter().cloned()));
    }
    out.key("fsync", string(&upload.fsync.to_string()));
    out.key("sha256", upload.sha256);
    out.key("resumable", upload.resumable);
    out.key("resumable_expiry", time(upload.resumable_expiry));
    if !upload.file_fields.is_empty() {
        out.key("file_fields", strings(upload.file_fields.iter().cloned()));
    }
    out.key("file_len", size(upload.file_len));
    out.key("total_len", size(upload.total_len));
    if let Some(rate) = upload.upload_rate {
        out.key("upload_rate", string(&Unit::Rate.format(rate)));
    }
    if let Some(quota) = upload.quota {
        out.key("quota", size(quota));
    }
}

fn events(out: &mut Writer, events: &EventsConfig) {
    out.heading("[route.events]");
    out.key("history_events", events.history_events);
    out.key("history_bytes", size(events.history_bytes as u64));
    out.key("history_age", time(events.history_age));
    if let Some(journal) = &events.journal {
        out.key("journal", string(&journal.to_string_lossy()));
    }
    out.key("journal_bytes", size(events.journal_bytes));
    out.key("journal_sync", events.journal_sync);
    out.key("memory", size(events.memory as u64));
    out.key("topics", events.topics);
    out.key("subscribers", events.subscribers);
    out.key("event_len", size(events.event_len as u64));
    out.key("backlog", size(events.backlog as u64));
    out.key("on_lag", string(&events.on_lag.to_string()));
    out.key("heartbeat", time(events.heartbeat));
    if let Some(retry) = events.retry {
        out.key("retry", time(retry));
    }
    if let Some(origins) = &events.origins {
        out.key("origins", strings(origins.iter().cloned()));
    }
    out.key("credentials", events.credentials);
}

fn queue(out: &mut Writer, queue: &QueueConfig) {
    out.heading("[route.queue]");
    if let Some(journal) = &queue.journal {
        out.key("journal", string(&journal.to_string_lossy()));
    }
    out.key("journal_bytes", size(queue.journal_bytes));
    out.key("journal_sync", queue.journal_sync);
    out.key("memory", size(queue.memory as u64));
    out.key("queues", queue.queues);
    out.key("queue_bytes", size(queue.queue_bytes));
    out.key("queue_items", queue.queue_items);
    out.key("item_len", size(queue.item_len as u64));
    out.key("lease", time(queue.lease));
    if let Some(origins) = &queue.origins {
        out.key("origins", strings(origins.iter().cloned()));
    }
}

fn live(out: &mut Writer, live: &LiveConfig) {
    out.heading("[route.live]");
    out.key("on_second_encoder", string(&live.on_second_encoder.to_string()));
    out.key("whole", strings(live.whole.iter().cloned()));
    if !live.name_patterns.is_empty() {
        out.key("name_patterns", strings(live.name_patterns.iter().cloned()));
    }
    out.key("delete", live.delete);
    out.key("file_len", size(live.file_len));
    out.key("fsync", string(&live.fsync.to_string()));
}

fn auth(out: &mut Writer, auth: &AuthConfig) {
    for (key, path) in [("tokens", &auth.tokens), ("signing_keys", &auth.signing_keys)] {
        if let Some(path) = path {
            out.key(key, string(&path.to_string_lossy()));
        }
    }
    if let Some(request) = &auth.request {
        out.key("request", string(&request.to_string()));
    }
    out.key("request_timeout", time(auth.request_timeout));
    if let Some(methods) = &auth.methods {
        out.key("methods", strings(methods.iter().map(ToString::to_string)));
    }
}

fn media(out: &mut Writer, media: &MediaConfig) {
    out.heading("[route.media]");
    out.key("root", string(&media.root.to_string_lossy()));
    out.key("index", strings(media.index.iter().cloned()));
    out.key("listing", media.listing);
    out.key("hidden", media.hidden);
    out.key("precompressed", media.precompressed);
    if let Some(origins) = &media.cors {
        out.key("cors", strings(origins.iter().cloned()));
    }
    let rule = |(pattern, value)| format!("{{ pattern = {}, value = {} }}", string(pattern), string(value));
    let rules = media.cache_control.iter().map(|r| (r.pattern.as_str(), r.value.as_str())).map(rule);
    out.key("cache_control", format!("[{}]", rules.collect::<Vec<_>>().join(", ")));
    if !media.content_types.is_empty() {
        let types =
            media.content_types.iter().map(|(extension, kind)| format!("{} = {}", string(extension), string(kind)));
        out.key("content_types", format!("{{ {} }}", types.collect::<Vec<_>>().join(", ")));
    }
    for (key, rate) in [("limit_rate", media.limit_rate), ("limit_rate_address", media.limit_rate_address)] {
        if let Some(rate) = rate {
            out.key(key, string(&Unit::Rate.format(rate)));
        }
    }
    if let Some(source) = media.rate_from {
        out.key("rate_from", string(&source.to_string()));
    }
    out.key("rate_factor", media.rate_factor);
    out.key("rate_burst", size(media.rate_burst));
}

#[derive(Default)]
struct Writer {
    text: String,
}

impl Writer {
    fn heading(&mut self, heading: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(heading);
        self.text.push('\n');
    }

    fn key(&mut self, key: &str, value: impl ToString) {
        self.text.push_str(&format!("{key} = {}\n", value.to_string()));
    }
}

/// Bytes, as a size is written.
fn size(bytes: u64) -> String {
    string(&Unit::Bytes.format(bytes))
}

/// A time, as it is written.
fn time(time: Duration) -> String {
    string(&Unit::Time.format(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}

/// A TOML string, quoted and escaped.
fn string(text: &str) -> String {
    Value::from(text).to_string()
}

fn strings(texts: impl Iterator<Item = String>) -> String {
    Value::Array(texts.map(Value::String).collect()).to_string()
}
