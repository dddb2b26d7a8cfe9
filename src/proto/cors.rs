//! Cross-origin requests: which pages of other sites may use a route, for what, and what a reply tells them (WHATWG Fetch,
//! "CORS protocol").
//!
//! The lists of methods and fields are the route's and not the request's, so a preflight needs no parsing: the browser
//! compares. The fields go on every reply of the route, errors and 304 too, or a page sees a failure instead of the
//! status. Credentials are allowed where a route says so, and then `*` is not (S5).

use std::fmt;

use crate::proto::fields::Fields;

/// The origins whose pages may use a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Every one, `*`.
    Any,
    /// These, as browsers write them: scheme and host in small letters, no default port, no path.
    List(Vec<String>),
}

impl Origins {
    /// The origins of a configuration: `*` alone, or one `scheme://host[:port]` an item.
    ///
    /// # Errors
    /// The first item that is no origin, or `*` beside others; the text says what to write instead.
    pub fn parse<'a>(items: impl IntoIterator<Item = &'a str>) -> Result<Self, OriginError> {
        let items: Vec<&str> = items.into_iter().map(str::trim).collect();
        match items[..] {
            [] => Err(OriginError::Empty),
            ["*"] => Ok(Origins::Any),
            _ if items.contains(&"*") => Err(OriginError::AnyAmongOthers),
            _ => Ok(Origins::List(items.into_iter().map(parse_origin).collect::<Result<_, _>>()?)),
        }
    }

    /// The one value of Access-Control-Allow-Origin, if this request's page may read the reply.
    fn allowed(&self, request: &Fields) -> Option<&str> {
        match self {
            Origins::Any => Some("*"),
            Origins::List(list) => {
                let origin = request.get("origin")?;
                list.iter().map(String::as_str).find(|listed| listed.as_bytes() == origin)
            }
        }
    }

    /// Replies that differ by Origin say so even when there was none, or a cache would hand them to the wrong page
    /// (Fetch, "CORS protocol and HTTP caches").
    fn vary(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Origins::Any => None,
            Origins::List(_) => Some(("Vary", "Origin")),
        }
    }
}

/// What the pages of other sites may send to a route and read of its replies, beside what every page may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    request_fields: &'static str,
    exposed: &'static str,
}

impl Sharing {
    /// Files and their ranges. Authorization is a token that the page itself has, never the browser's own (Fetch, "CORS
    /// protocol and credentials"). The CMCD fields are those of CTA-5004, which players send with every segment.
    pub const MEDIA: Sharing = Sharing {
        request_fields: "Authorization, Range, If-Range, If-None-Match, If-Modified-Since, Content-Type, \
                         CMCD-Object, CMCD-Request, CMCD-Session, CMCD-Status",
        exposed: "Content-Length, Content-Range, Content-Encoding, Accept-Ranges, Date, ETag",
    };

    /// Uploads: the fields of tus 1.0 and of draft-ietf-httpbis-resumable-upload. X-Requested-With and X-Request-ID say nothing
    /// here, but libraries send them, and a page can't when one field of its request is not in the list.
    pub const UPLOAD: Sharing = Sharing {
        request_fields: "Authorization, Content-Type, If-None-Match, Tus-Resumable, Upload-Length, Upload-Offset, \
                         Upload-Metadata, Upload-Defer-Length, Upload-Concat, Upload-Checksum, Upload-Complete, \
                         Upload-Draft-Interop-Version, X-HTTP-Method-Override, X-Requested-With, X-Request-ID",
        exposed: "Location, Content-Location, Repr-Digest, Upload-Offset, Upload-Length, Upload-Defer-Length, \
                  Upload-Metadata, Upload-Concat, Upload-Expires, Upload-Complete, Upload-Limit, Tus-Resumable, \
                  Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm, WWW-Authenticate, Retry-After",
    };

    /// Topics of events. Last-Event-ID is what a client of its own sends; the browser's EventSource needs no leave for it.
    pub const EVENTS: Sharing = Sharing {
        request_fields: "Authorization, Content-Type, Cache-Control, Last-Event-ID, Event-ID, Event-Type, Event-Retry, \
                         Event-Key, X-Requested-With, X-Request-ID",
        exposed: "Last-Event-ID, Events-Lost, WWW-Authenticate, Retry-After",
    };

    /// Queues of items.
    pub const QUEUE: Sharing = Sharing {
        request_fields: "Authorization, Content-Type, Accept, X-Requested-With, X-Request-ID",
        exposed: "Queue-Lease, Queue-Attempt, WWW-Authenticate, Retry-After",
    };
}

/// Who may use a route from other sites, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    origins: Origins,
    sharing: Sharing,
    credentials: bool,
}

impl Cors {
    /// The pages of these origins may do this.
    pub fn new(origins: Origins, sharing: Sharing) -> Self {
        Cors { origins, sharing, credentials: false }
    }

    /// The same, also with the browser's own cookies and logins (S5). Not of every origin: browsers refuse that, and it would let
    /// any page act as the user.
    ///
    /// # Panics
    /// When the origins are any.
    #[must_use]
    pub fn with_credentials(self) -> Self {
        assert!(self.origins != Origins::Any, "credentials are for listed origins");
        Cors { credentials: true, ..self }
    }

    /// The field that lets a page send them and read the reply.
    fn credentials(&self) -> Option<(&'static str, &'static str)> {
        self.credentials.then_some(("Access-Control-Allow-Credentials", "true"))
    }

    /// The fields that a reply to this request carries, whatever its status.
    pub fn reply_fields<'a>(&'a self, request: &Fields) -> impl Iterator<Item = (&'static str, &'a str)> + use<'a> {
        let allowed = self.origins.allowed(request);
        [
            allowed.map(|origin| ("Access-Control-Allow-Origin", origin)),
            allowed.map(|_| ("Access-Control-Expose-Headers", self.sharing.exposed)),
            allowed.and_then(|_| self.credentials()),
            self.origins.vary(),
        ]
        .into_iter()
        .flatten()
    }

    /// The fields that the 204 to a preflight carries, where these methods may be used: names with commas between.
    pub fn preflight_fields<'a>(
        &'a self,
        request: &Fields,
        methods: &'static str,
    ) -> impl Iterator<Item = (&'static str, &'a str)> + use<'a> {
        let allowed = self.origins.allowed(request);
        [
            allowed.map(|origin| ("Access-Control-Allow-Origin", origin)),
            allowed.map(|_| ("Access-Control-Allow-Methods", methods)),
            allowed.map(|_| ("Access-Control-Allow-Headers", self.sharing.request_fields)),
            allowed.and_then(|_| self.credentials()),
            allowed.map(|_| ("Access-Control-Max-Age", MAX_AGE)),
            self.origins.vary(),
        ]
        .into_iter()
        .flatten()
    }
}

/// What is wrong with a configured origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginError {
    /// There is none.
    Empty,
    /// `*` stands beside other origins.
    AnyAmongOthers,
    /// The item is no origin.
    Malformed(String),
}

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OriginError::Empty => f.write_str("no origin is listed; write \"*\" or \"https://player.example\""),
            OriginError::AnyAmongOthers => f.write_str("\"*\" allows every origin; write it alone or leave it out"),
            OriginError::Malformed(item) => write!(
                f,
                "{item:?} is no origin; write scheme, host and port only, such as \"https://player.example\" or \
                 \"http://localhost:3000\""
            ),
        }
    }
}

impl std::error::Error for OriginError {}

/// A day in seconds, the most that any browser keeps a preflight's answer.
const MAX_AGE: &str = "86400";

/// An origin as a browser would write it (RFC 6454 §6.2), so that requests are compared byte by byte.
fn parse_origin(item: &str) -> Result<String, OriginError> {
    let lower = item.to_ascii_lowercase();
    let malformed = || OriginError::Malformed(item.to_string());
    let (scheme, authority) = lower.split_once("://").ok_or_else(malformed)?;
    let (host, port) = match authority.rsplit_once(':') {
        // The colons inside of `[::1]` part no port.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let name = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match name {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    };
    let port = match port {
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(port.parse::<u16>().map_err(|_| malformed())?)
        }
        Some(_) => return Err(malformed()),
        None => None,
    };
    if !is_scheme || !is_host {
        return Err(malformed());
    }
    match (scheme, port) {
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => Ok(format!("{scheme}://{host}")),
        (_, Some(port)) => Ok(format!("{scheme}://{host}:{port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHODS: &str = "GET, HEAD, OPTIONS";

    fn list() -> Origins {
        Origins::parse(["https://a.example", "http://localhost:3000"]).unwrap()
    }

    fn request(origin: Option<&str>) -> Fields {
        Fields::from_pairs([("Host", "m.example")].into_iter().chain(origin.map(|origin| ("Origin", origin))))
    }

    #[track_caller]
    fn check(origins: &Origins, origin: Option<&str>, allow_origin: Option<&str>, vary: Option<&str>) {
        let request = request(origin);
        let kinds = [Sharing::MEDIA, Sharing::UPLOAD].map(|sharing| Cors::new(origins.clone(), sharing));
        let replies = kinds.iter().flat_map(|cors| {
            [Vec::from_iter(cors.reply_fields(&request)), Vec::from_iter(cors.preflight_fields(&request, METHODS))]
        });
        for fields in replies {
            let all = |wanted: &str| fields.iter().filter(|f| f.0 == wanted).map(|f| f.1).collect::<Vec<_>>();
            assert_eq!(all("Access-Control-Allow-Origin"), Vec::from_iter(allow_origin), "{origin:?}");
            assert_eq!(all("Vary"), Vec::from_iter(vary), "{origin:?}");
        }
    }

    #[test]
    fn h2_exactly_one_allow_origin() {
        check(&Origins::Any, None, Some("*"), None);
        check(&Origins::Any, Some("https://b.example"), Some("*"), None);
        check(&list(), Some("https://a.example"), Some("https://a.example"), Some("Origin"));
        check(&list(), Some("http://localhost:3000"), Some("http://localhost:3000"), Some("Origin"));
    }

    #[test]
    fn h2_others_are_told_nothing_but_vary() {
        for origin in
            [None, Some("null"), Some("https://a.example.evil"), Some("http://a.example"), Some("*"), Some("")]
        {
            check(&list(), origin, None, Some("Origin"));
        }
        for cors in [Sharing::MEDIA, Sharing::UPLOAD].map(|sharing| Cors::new(list(), sharing)) {
            assert_eq!(cors.preflight_fields(&request(None), METHODS).collect::<Vec<_>>(), [("Vary", "Origin")]);
            assert_eq!(cors.reply_fields(&request(None)).collect::<Vec<_>>(), [("Vary", "Origin")]);
        }
    }

    #[track_caller]
    fn check_shared(sharing: Sharing, methods: &'static str, request_fields: &str, exposed: &str) {
        let (cors, request) = (Cors::new(Origins::Any, sharing), request(None));
        let reply = cors.reply_fields(&request).skip(1);
        assert_eq!(reply.collect::<Vec<_>>(), [("Access-Control-Expose-Headers", exposed)]);
        let preflight = [
            ("Access-Control-Allow-Methods", methods),
            ("Access-Control-Allow-Headers", request_fields),
            ("Access-Control-Max-Age", "86400"),
        ];
        assert_eq!(cors.preflight_fields(&request, methods).skip(1).collect::<Vec<_>>(), preflight);
    }

    #[test]
    fn h2_what_is_exposed_and_allowed() {
        check_shared(
            Sharing::MEDIA,
            METHODS,
            "Authorization, Range, If-Range, If-None-Match, If-Modified-Since, Content-Type, \
             CMCD-Object, CMCD-Request, CMCD-Session, CMCD-Status",
            "Content-Length, Content-Range, Content-Encoding, Accept-Ranges, Date, ETag",
        );
        check_shared(
            Sharing::UPLOAD,
            "POST, PUT",
            "Authorization, Content-Type, If-None-Match, Tus-Resumable, Upload-Length, Upload-Offset, \
             Upload-Metadata, Upload-Defer-Length, Upload-Concat, Upload-Checksum, Upload-Complete, \
             Upload-Draft-Interop-Version, X-HTTP-Method-Override, X-Requested-With, X-Request-ID",
            "Location, Content-Location, Repr-Digest, Upload-Offset, Upload-Length, Upload-Defer-Length, \
             Upload-Metadata, Upload-Concat, Upload-Expires, Upload-Complete, Upload-Limit, Tus-Resumable, \
             Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm, WWW-Authenticate, Retry-After",
        );
    }

    #[test]
    fn h2_configured_origins_are_written_as_browsers_do() {
        for (item, expected) in [
            (" https://a.example ", "https://a.example"),
            ("HTTPS://A.Example:443", "https://a.example"),
            ("http://a.example:80", "http://a.example"),
            ("http://a.example:443", "http://a.example:443"),
            ("http://[::1]", "http://[::1]"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("capacitor://localhost", "capacitor://localhost"),
        ] {
            assert_eq!(Origins::parse([item]), Ok(Origins::List(vec![expected.to_string()])));
        }
    }

    #[test]
    fn h2_what_is_no_origin_is_refused() {
        for item in [
            "",
            "null",
            "a.example",
            "https://",
            "https://a.example/",
            "https://a.example/x",
            "https://*.a.example",
            "https://u@a.example",
            "https://a.example:",
            "https://a.example:70000",
            "https://a.example:+1",
            "https://[::1",
            "https://[x]",
            "https://b\u{fc}cher.example",
            "://a",
            "1x://a",
            "https://a b",
        ] {
            assert_eq!(Origins::parse([item]), Err(OriginError::Malformed(item.to_string())));
        }
        assert_eq!(Origins::parse([]), Err(OriginError::Empty));
        assert_eq!(Origins::parse(["*", "https://a.example"]), Err(OriginError::AnyAmongOthers));
        assert_eq!(Origins::parse(["*"]), Ok(Origins::Any));
    }
}
