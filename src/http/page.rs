//! A page that is served from the binary: one document with its style and its script inside, and the policy that lets a
//! browser run these and nothing else.
//!
//! The three are files of the source tree, compiled in, so that they are read and checked as what they are, and nothing has to
//! be built or found to serve them. They are put together once, at the start; the policy names style and script by the hashes
//! of exactly these bytes (CSP Level 3, §2.3.1), so that markup that got in by a file's name is not run, whatever
//! escaped it badly. A nonce for each reply was rejected: it makes each reply another one, and says less. Style and script as
//! resources of their own were rejected: two more requests, and two more paths that a folder's files could be taken for.
//!
//! What differs between requests goes into the document outside of style and script, which leaves the policy as it is; its
//! place is the handler's own affair.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use sha2::{Digest, Sha256};

use super::Response;

/// Where the style goes in a template, once.
const STYLE: &str = "<style></style>";
/// Where the script goes in a template, once.
const SCRIPT: &str = "<script></script>";

/// A document and its policy.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// The document, whole, in UTF-8.
    pub(crate) html: Bytes,
    /// The value of its Content-Security-Policy field.
    pub(crate) policy: String,
}

impl Page {
    /// The template with style and script in their places, `<style></style>` and `<script></script>`. Only they are run; nothing
    /// is loaded but what `sources` admits: directives of a policy, such as `connect-src 'self'`, divided by `; `.
    ///
    /// # Panics
    /// When a place is missing or not the only one, or a part would end its own element: a mistake in the source.
    pub(crate) fn new(template: &str, style: &str, script: &str, sources: &str) -> Self {
        assert!(!style.contains("</") && !script.contains("</script") && !script.contains("<!--"), "a part ends early");
        let html = filled(template, STYLE, &["<style>", style, "</style>"]);
        let html = filled(&html, SCRIPT, &["<script>", script, "</script>"]);
        let policy = format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; {sources}; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'",
            source(script),
            source(style)
        );
        Page { html: html.into(), policy }
    }

    /// The document before and behind a mark, which is in it once.
    ///
    /// # Panics
    /// When it is not.
    pub(crate) fn around(&self, mark: &str) -> (Bytes, Bytes) {
        let html = std::str::from_utf8(&self.html).expect("UTF-8");
        let (before, behind) = html.split_once(mark).unwrap_or_else(|| panic!("no {mark}"));
        assert!(!behind.contains(mark), "{mark} twice");
        (self.html.slice_ref(before.as_bytes()), self.html.slice_ref(behind.as_bytes()))
    }

    /// A reply with this document.
    pub(crate) fn response(&self) -> Response {
        self.response_with(self.html.clone())
    }

    /// A reply with this document, in which the handler has put what differs between requests.
    pub(crate) fn response_with(&self, html: impl Into<super::Body>) -> Response {
        Response::new(StatusCode::OK)
            .field("Content-Type", "text/html; charset=utf-8")
            .field("Content-Security-Policy", &self.policy)
            .field("X-Content-Type-Options", "nosniff")
            .field("Referrer-Policy", "no-referrer")
            .field("Cache-Control", "no-cache")
            .with_body(html)
    }
}

/// The text with the parts in this place, which it has once.
fn filled(text: &str, place: &str, parts: &[&str]) -> String {
    let (before, behind) = text.split_once(place).unwrap_or_else(|| panic!("no {place}"));
    assert!(!behind.contains(place), "{place} twice");
    [&[before], parts, &[behind]].concat().concat()
}

/// What a policy calls an element with this text.
fn source(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "<!doctype html><style></style><p>a</p><script></script>";

    #[test]
    fn the_parts_stand_in_their_places() {
        let page = Page::new(TEMPLATE, "p{}", "'use strict'", "connect-src 'self'");
        assert_eq!(page.html, "<!doctype html><style>p{}</style><p>a</p><script>'use strict'</script>");
    }

    /// The hashes are of exactly what stands between the tags, newlines included; the expected ones are by
    /// `printf … | openssl dgst -sha256 -binary | base64`.
    #[test]
    fn the_policy_names_the_parts_by_their_hashes_and_admits_nothing_else() {
        let page = Page::new(TEMPLATE, "", "alert(1)\n", "connect-src 'self'; img-src 'self' data:");
        assert_eq!(
            page.policy,
            "default-src 'none'; script-src 'sha256-MaeD7tQk/YNyd6Pm9J12ROmv0Z93QwNN4VH7v3gI+RI='; \
             style-src 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='; connect-src 'self'; img-src 'self' data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
    }

    #[test]
    fn a_part_that_would_end_its_element_is_a_mistake() {
        let mistakes = [("</style>", ""), ("", "'</script>'"), ("", "<!-- <script>")];
        for (style, script) in mistakes {
            assert!(std::panic::catch_unwind(|| Page::new(TEMPLATE, style, script, "")).is_err(), "{style}{script}");
        }
        for template in ["<style></style>", "<script></script>", "<style></style><script></script><script></script>"] {
            assert!(std::panic::catch_unwind(|| Page::new(template, "", "", "")).is_err(), "{template}");
        }
    }
}
