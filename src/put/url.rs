//! Where to upload to: `http://HOST[:PORT]/PATH[?QUERY]`, and the addresses that a server answers with.
//!
//! A query is part of the permission where URLs are signed, so it goes along to what lies beneath the URL on the same
//! server, and to no other one.

use std::fmt;

use http::Uri;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::proto::target;

/// What may not stand in a request's target and people type nevertheless; what is not ASCII is encoded anyway.
const TYPED: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'{').add(b'}');

/// An absolute URL of scheme `http`, without a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    /// Host and port, in lower case, the port left out if it is 80.
    authority: String,
    /// From its slash on.
    path: String,
    query: Option<String>,
}

impl Url {
    /// Reads a URL as people write it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shown = text.split(['?', '#']).next().unwrap_or_default();
        let wrong = || format!("`{shown}` is no URL: write http://HOST:PORT/PATH");
        let encoded = utf8_percent_encode(text.split('#').next().unwrap_or_default(), TYPED).to_string();
        let uri: Uri = encoded.parse().map_err(|_| wrong())?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(format!("`{shown}`: https is not spoken, as there is no TLS in this build: write http://"));
            }
            _ => return Err(wrong()),
        }
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') {
            return Err(String::from("a URL with a user in it is not taken: write --token-file"));
        }
        let authority = authority.as_str().to_ascii_lowercase();
        Ok(Url {
            authority: authority.strip_suffix(":80").unwrap_or(&authority).to_owned(),
            path: uri.path().to_owned(),
            query: uri.query().map(String::from),
        })
    }

    /// What a reply's field refers to, from here (RFC 3986 §5.2, without dot segments).
    ///
    /// # Errors
    /// It is no URL, or not of this scheme.
    pub fn resolve(&self, reference: &str) -> Result<Self, String> {
        let reference = reference.trim();
        let absolute = match reference {
            _ if reference.split(['/', '?', '#']).next().is_some_and(|first| first.contains(':')) => {
                reference.to_owned()
            }
            _ if reference.starts_with("//") => format!("http:{reference}"),
            _ if reference.starts_with('/') => format!("http://{}{reference}", self.authority),
            _ => {
                let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
                format!("http://{}{folder}/{reference}", self.authority)
            }
        };
        Url::parse(&absolute)
    }

    /// The file of this name beneath it.
    pub fn child(&self, name: &[u8]) -> Self {
        let path = format!("{}/{}", self.path.trim_end_matches('/'), target::encode_segment(name));
        Url { path, ..self.clone() }
    }

    /// Whether the same server is asked.
    pub fn is_beside(&self, other: &Url) -> bool {
        self.authority == other.authority
    }

    /// The same URL without the query that it shares with `base`.
    pub fn without_query_of(mut self, base: &Url) -> Self {
        if self.is_beside(base) && self.query == base.query {
            self.query = None;
        }
        self
    }

    /// The same URL with the query of `base`, if it is of the same server and has none.
    pub fn with_query_of(&self, base: &Url) -> Self {
        let inherited = base.query.as_ref().filter(|_| self.is_beside(base));
        Url { query: self.query.as_ref().or(inherited).cloned(), ..self.clone() }
    }

    /// The same URL without a query, which may hold a signature: what is kept and shown.
    pub fn bare(&self) -> Self {
        Url { query: None, ..self.clone() }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)?;
        self.query.as_ref().map_or(Ok(()), |query| write!(f, "?{query}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(Url::parse(text).unwrap().to_string(), expected);
    }

    #[test]
    fn urls_are_taken_as_people_write_them() {
        check("http://a.example/in", "http://a.example/in");
        check("http://A.Example:80", "http://a.example/");
        check("http://[::1]:8080/in/?a=b&c", "http://[::1]:8080/in/?a=b&c");
        check("http://a/b c/\u{fc}#x", "http://a/b%20c/%C3%BC");
        check("http://a/b%20c", "http://a/b%20c");
    }

    #[test]
    fn what_is_no_url_of_ours_is_refused_without_its_query() {
        for text in ["", "a.example/in", "/in", "ftp://a/b", "http://", "http:///in"] {
            let refusal = Url::parse(text).unwrap_err();
            assert!(refusal.ends_with("is no URL: write http://HOST:PORT/PATH"), "{text}: {refusal}");
        }
        let refusal = Url::parse("https://a/b?signature=secret").unwrap_err();
        assert!(refusal.starts_with("`https://a/b`: https is not spoken") && !refusal.contains("secret"), "{refusal}");
        assert!(Url::parse("http://me:pw@a/").unwrap_err().contains("--token-file"));
    }

    #[test]
    fn a_name_becomes_one_segment_and_the_query_stays() {
        let name = |url: &str| Url::parse(url).unwrap().child(b"a b/c?.mp4").to_string();
        assert_eq!(name("http://a/in"), "http://a/in/a%20b%2Fc%3F.mp4");
        assert_eq!(name("http://a/in/?s=1"), "http://a/in/a%20b%2Fc%3F.mp4?s=1");
        assert_eq!(name("http://a"), "http://a/a%20b%2Fc%3F.mp4");
    }

    #[test]
    fn references_are_resolved() {
        let base = Url::parse("http://a:81/x/in?s=1").unwrap();
        for (reference, expected) in [
            ("http://b/c?d", "http://b/c?d"),
            ("//b/c", "http://b/c"),
            ("/c/d", "http://a:81/c/d"),
            ("c/d?e", "http://a:81/x/c/d?e"),
            ("c?at=12:30", "http://a:81/x/c?at=12:30"),
        ] {
            assert_eq!(base.resolve(reference).unwrap().to_string(), expected);
        }
        assert!(base.resolve("https://b/c").is_err());
    }

    #[test]
    fn the_query_goes_to_the_same_server_only() {
        let base = Url::parse("http://a/in/?s=1").unwrap();
        let with = |reference: &str| base.resolve(reference).unwrap().with_query_of(&base).to_string();
        assert_eq!(with("/in/u"), "http://a/in/u?s=1");
        assert_eq!(with("/in/u?t=2"), "http://a/in/u?t=2");
        assert_eq!(with("http://b/u"), "http://b/u");
        assert_eq!(with("http://a:8080/u"), "http://a:8080/u");
        let without = |reference: &str| base.resolve(reference).unwrap().without_query_of(&base).to_string();
        assert_eq!(without("/in/u?s=1"), "http://a/in/u");
        assert_eq!(without("/in/u?t=2"), "http://a/in/u?t=2");
    }
}
