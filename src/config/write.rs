//! The configuration as the file that gives it: what `highwater check` prints.
//!
//! Written by hand in the order of the documentation. A serializer would sort the keys, and would need a second set of types
//! that know how a size or an address is spelled.

use toml::Value;

use super::{AuthConfig, Config, HandlerConfig, MediaConfig, RouteConfig, UploadConfig};
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
    }
    if let Some(auth) = &route.auth {
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
    out.key("resumable_expiry", string(&Unit::Time.format(upload.resumable_expiry.as_millis() as u64)));
    if !upload.file_fields.is_empty() {
        out.key("file_fields", strings(upload.file_fields.iter().cloned()));
    }
    out.key("file_len", string(&Unit::Bytes.format(upload.file_len)));
    out.key("total_len", string(&Unit::Bytes.format(upload.total_len)));
    if let Some(rate) = upload.upload_rate {
        out.key("upload_rate", string(&Unit::Rate.format(rate)));
    }
    if let Some(quota) = upload.quota {
        out.key("quota", string(&Unit::Bytes.format(quota)));
    }
}

fn auth(out: &mut Writer, auth: &AuthConfig) {
    out.heading("[route.auth]");
    for (key, path) in [("tokens", &auth.tokens), ("signing_keys", &auth.signing_keys)] {
        if let Some(path) = path {
            out.key(key, string(&path.to_string_lossy()));
        }
    }
    if let Some(request) = &auth.request {
        out.key("request", string(&request.to_string()));
    }
    let timeout = u64::try_from(auth.request_timeout.as_millis()).unwrap_or(u64::MAX);
    out.key("request_timeout", string(&Unit::Time.format(timeout)));
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
    out.key("rate_burst", string(&Unit::Bytes.format(media.rate_burst)));
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

/// A TOML string, quoted and escaped.
fn string(text: &str) -> String {
    Value::from(text).to_string()
}

fn strings(texts: impl Iterator<Item = String>) -> String {
    Value::Array(texts.map(Value::String).collect()).to_string()
}
