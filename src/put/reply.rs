//! What a server's reply says about an upload: offsets, digests, places, and why it refuses.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

/// The longest time that a server may ask for before the next attempt.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// The most characters of a server's words that are repeated.
const MAX_WORDS: usize = 200;

/// A reply with its body, as far as that was read.
#[derive(Debug)]
pub(super) struct Reply {
    pub status: StatusCode,
    pub fields: HeaderMap,
    pub body: Vec<u8>,
}

/// What a reply to a PUT says of the stored file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct StoredFile {
    /// Where it is served, as it was written.
    pub url: Option<String>,
    /// The digest of its bytes.
    pub sha256: Option<[u8; 32]>,
}

impl Reply {
    /// A field's value, if it stands there once and in plain characters.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    }

    /// A field that is a number: digits, and nothing else.
    pub fn number(&self, name: &str) -> Option<u64> {
        let value = self.get(name)?;
        value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok())?
    }

    /// Whether tus is spoken where it came from.
    pub fn speaks_tus(&self) -> bool {
        self.fields.contains_key("tus-resumable")
    }

    /// Whether this extension of tus is known there. A server that lists none is taken at its deeds.
    pub fn has_extension(&self, extension: &str) -> bool {
        self.get("tus-extension").is_none_or(|list| list.split(',').any(|one| one.trim() == extension))
    }

    /// The SHA-256 of the whole file (Repr-Digest, RFC 9530 §3).
    pub fn digest(&self) -> Option<[u8; 32]> {
        let members = self.get("repr-digest")?.split(',');
        let encoded = members.filter_map(|member| member.trim().strip_prefix("sha-256=:")?.strip_suffix(':')).next()?;
        STANDARD.decode(encoded).ok()?.try_into().ok()
    }

    /// The first file of a reply to a PUT: `{"files": [{"url": …, "sha256": …}]}`.
    pub fn stored_file(&self) -> StoredFile {
        let json: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let text = |key: &str| json["files"][0][key].as_str();
        StoredFile { url: text("url").map(String::from), sha256: text("sha256").and_then(from_hex) }
    }

    /// How long to wait before the next attempt, if the server says so (RFC 9110 §10.2.3, seconds only).
    pub fn retry_after(&self) -> Option<Duration> {
        self.number("retry-after").map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
    }

    /// Whether the same request may succeed later.
    pub fn is_passing(&self) -> bool {
        matches!(self.status.as_u16(), 408 | 423 | 425 | 429 | 500 | 502 | 503 | 504)
    }

    /// The reply as a line for people: its status, and the server's words.
    pub fn problem(&self) -> String {
        let json: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let error = &json["error"];
        let words = [&error["message"], &json["detail"], &json["title"], error].into_iter().find_map(Value::as_str);
        let code = error["code"].as_str().map(|code| format!(" ({code})")).unwrap_or_default();
        let is_text = self.get("content-type").is_some_and(|value| value.starts_with("text/plain"));
        let text = String::from_utf8_lossy(&self.body);
        let words = words.or_else(|| text.lines().next().filter(|_| is_text)).unwrap_or_default();
        let words: String = words.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect();
        let place = self.get("location").filter(|_| self.status.is_redirection());
        match (place, words.trim_end_matches('.')) {
            (Some(place), _) => format!("{}: redirected to {place}: write that URL", self.status),
            (None, "") => self.status.to_string(),
            (None, words) => format!("{}: {words}{code}", self.status),
        }
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, fields: &[(&'static str, &str)], body: &str) -> Reply {
        let fields = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        Reply { status: StatusCode::from_u16(status).unwrap(), fields, body: body.into() }
    }

    #[test]
    fn numbers_are_digits_that_stand_once() {
        let number = |fields: &[(&'static str, &str)]| reply(200, fields, "").number("upload-offset");
        assert_eq!(number(&[("upload-offset", "17")]), Some(17));
        for value in ["", "+1", "-1", "1.0", " 1x", "18446744073709551616"] {
            assert_eq!(number(&[("upload-offset", value)]), None, "{value}");
        }
    }

    #[test]
    fn the_digest_is_found_among_others() {
        let encoded = STANDARD.encode([7; 32]);
        for value in [
            format!("sha-256=:{encoded}:"),
            format!("sha-512=:AAAA:, sha-256=:{encoded}:"),
            format!("sha-256=:{encoded}:,md5=:AA==:"),
        ] {
            assert_eq!(reply(204, &[("repr-digest", &value)], "").digest(), Some([7; 32]), "{value}");
        }
        for value in ["", "sha-256=", "sha-256=:AAAA:", "sha-256=AAAA", "sha-512=:AAAA:"] {
            assert_eq!(reply(204, &[("repr-digest", value)], "").digest(), None, "{value}");
        }
    }

    #[test]
    fn the_stored_file_is_read_from_json() {
        let body = format!(r#"{{"files":[{{"url":"/m/a","sha256":"{}","size":1}}],"fields":[]}}"#, "0a".repeat(32));
        let expected = StoredFile { url: Some(String::from("/m/a")), sha256: Some([10; 32]) };
        assert_eq!(reply(201, &[], &body).stored_file(), expected);
        for body in ["", "[]", "{\"files\":[]}", "{\"files\":[{\"sha256\":\"0a\"}]}", "<html>"] {
            assert_eq!(reply(201, &[], body).stored_file(), StoredFile::default(), "{body}");
        }
        let not_hex = format!(r#"{{"files":[{{"sha256":"{}"}}]}}"#, "+1".repeat(32));
        assert_eq!(reply(201, &[], &not_hex).stored_file().sha256, None);
    }

    #[test]
    fn a_refusal_is_one_line_in_the_servers_words() {
        let ours = r#"{"error":{"code":"STORAGE_FULL","message":"There is no room for the upload."}}"#;
        let json = [("content-type", "application/json")];
        let text = [("content-type", "text/plain; charset=utf-8")];
        let html = [("content-type", "text/html")];
        for (reply, expected) in [
            (reply(507, &json, ours), "507 Insufficient Storage: There is no room for the upload (STORAGE_FULL)"),
            (reply(409, &json, r#"{"title":"no","detail":"why"}"#), "409 Conflict: why"),
            (reply(400, &json, r#"{"error":"what"}"#), "400 Bad Request: what"),
            (reply(403, &text, "not\x1b[2Jyou\nbecause"), "403 Forbidden: not[2Jyou"),
            (reply(404, &html, "<html>"), "404 Not Found"),
            (reply(308, &[("location", "/x/")], ""), "308 Permanent Redirect: redirected to /x/: write that URL"),
        ] {
            assert_eq!(reply.problem(), expected);
        }
    }
}
